"""The kernels under an older NVRTC than torch's own: GPUs are used with builds of torch for CUDA 12, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The Makefile puts it there.
FOLDER = Path(sys.prefix) / "nvrtc"

# Every source, and what differs in its grammar: labels, soft targets, other sizes, registers and loops.
SCRIPT = """
import ctypes, sys
from itertools import product
from pathlib import Path

(library,) = Path(sys.argv[1]).rglob("libnvrtc.so.*")
for path in [*library.parent.glob("libnvrtc-builtins.so.*"), library]:
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)

from rarepixel import _core
from rarepixel.options import Options, spec

print(*_core.cuda_nvrtc()[0])
loss = Options(pixel="cross_entropy", label_smoothing=0.1, region="dice")
for source, input, classes in product(("reduce", "gradient"), ("float32", "bfloat16"), (5, 40)):
    _core.cuda_compile(spec(loss), source, input, "soft", classes, False, 90, False)
    for mode in ("exact", "area", "upsample_logits"):
        _core.cuda_compile(spec(loss._replace(target_mode=mode)), source, input, "int64", classes, False, 75, False)
for source in ("finish", "confusion", "resize"):
    _core.cuda_compile(spec(loss), source, "float32", "uint8", 5, False, 90, False)
"""


@pytest.mark.skipif(not FOLDER.exists(), reason="the Makefile's NVRTC 12.1 is not there")
def test_nvrtc_12_1_compiles_every_source() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(FOLDER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["12", "1"]
