"""The kernels from source under a host compiler's sanitizers, in several orders of warps; and defects planted in them.

The emulator of the other tests finds races and wild accesses in what NVRTC made; this finds them in what was written,
with file and line and with tools of other people's making.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import replaced

HOST = Path(__file__).parent / "host"
KERNELS = Path(__file__).parents[2] / "src" / "cuda" / "kernels"
SANITIZERS = {
    "address": (["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], "SANITIZE_ADDRESS"),
    "thread": (["-fsanitize=thread"], "SANITIZE_THREAD"),
    # Neither: shared memory is filled with nan.
    "nan": ([], "PLAIN"),
}
FLOAT = {
    "INPUT": "float",
    "LABEL": "int64",
    "CLASSES": "5",
    "FEW": "1",
    "C": "5",
    "WIDTH": "4",
    "CHANNELS_LAST": "0",
    "THREADS": "64",
    "PREDICTED": "0",
    "PIXEL": "2",
    "SIZES": "0",
}
IMAGES = FLOAT | {"WIDTH": "1", "PIXEL": "1"}
VARIANTS = {
    "float32": FLOAT,
    "bfloat16, channels_last": FLOAT
    | {"INPUT": "BFloat16", "LABEL": "unsigned char", "WIDTH": "8", "CHANNELS_LAST": "1"},
    "float16": FLOAT | {"INPUT": "Half", "LABEL": "short", "WIDTH": "2"},
    # Sums in slots of shared memory.
    "20 classes": FLOAT | {"CLASSES": "20", "FEW": "0", "C": "20", "WIDTH": "2"},
    "40 classes": FLOAT | {"CLASSES": "0", "FEW": "0", "C": "40", "WIDTH": "1", "THREADS": "32"},
    "confusion": FLOAT,
    "confusion, float16, channels_last": FLOAT
    | {"INPUT": "Half", "LABEL": "unsigned char", "WIDTH": "8", "CHANNELS_LAST": "1"},
    "confusion of labels": FLOAT | {"INPUT": "short", "LABEL": "int", "PREDICTED": "1"},
    "confusion, 40 classes": FLOAT | {"CLASSES": "0", "FEW": "0", "C": "40", "WIDTH": "1"},
    "resize": FLOAT | {"LABEL": "unsigned char", "WIDTH": "1"},
    "resize, 40 classes": FLOAT | {"CLASSES": "0", "FEW": "0", "C": "40", "WIDTH": "1"},
    "images, area": IMAGES | {"SIZES": "1"},
    "images, area, 40 classes": IMAGES | {"SIZES": "1", "CLASSES": "0", "FEW": "0", "C": "40", "THREADS": "32"},
    "images, upsampled": IMAGES | {"SIZES": "2", "LABEL": "unsigned char"},
    # What a column is owed lies in shared memory.
    "images, upsampled, 20 classes": IMAGES | {"SIZES": "2", "CLASSES": "20", "FEW": "0", "C": "20"},
    "images, upsampled, 40 classes": IMAGES | {"SIZES": "2", "CLASSES": "0", "FEW": "0", "C": "40", "THREADS": "32"},
    # A column of the map is gone through in several parts.
    "images, upsampled, wide": IMAGES | {"SIZES": "2", "INPUT": "Half", "THREADS": "32", "TALL": "0"},
}
# What the name of a variant begins with; all others are losses.
PROGRAMS = {"confusion": "confusion.cpp", "resize": "resize.cpp", "images": "images.cpp"}
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The engine, never sanitized itself."""
    folder = tmp_path_factory.mktemp("engines")
    built = {}
    for name, (_, macro) in SANITIZERS.items():
        built[name] = folder / f"{name}.o"
        command = ["g++", "-std=c++17", "-O1", "-g", f"-D{macro}", "-c", HOST / "engine.cpp", "-o", built[name]]
        subprocess.run(command, check=True)
    return built


def build(variant: str, sanitizer: str, engine: Path, folder: Path, kernels: Path = KERNELS) -> Path:
    program = folder / "check"
    (source,) = [name for start, name in PROGRAMS.items() if variant.startswith(start)] or ["loss.cpp"]
    common = {
        "REAL": "float",
        "BLOCKS": "1",
        "POWER": "2",
        "WEIGHTED_PT": "0",
        "SMOOTHING": "0",
        "REGION": "1",
        "EACH_PIXEL": "0",
        "TALL": "1",
    }
    macros = common | VARIANTS[variant]
    command = ["g++", "-std=c++17", "-O1", "-g", "-w", f"-I{kernels}", f"-I{HOST}"]
    command += [f"-D{name}={value}" for name, value in macros.items()]
    command += [*SANITIZERS[sanitizer][0], str(HOST / source), str(engine), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def run(program: Path, seed: int | None = None) -> subprocess.CompletedProcess[str]:
    options = {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    order = {} if seed is None else {"HOST_SEED": str(seed)}
    return subprocess.run([str(program)], env=os.environ | options | order, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kernels_are_clean(variant: str, sanitizer: str, engines: dict[str, Path], tmp_path: Path) -> None:
    program = build(variant, sanitizer, engines[sanitizer], tmp_path)
    for seed in (None, 1, 2, 3):
        done = run(program, seed)
        assert done.returncode == 0, f"order {seed}: {done.stdout}{done.stderr}"
        assert done.stdout.startswith("right"), done.stdout


BARRIER = r"__syncthreads\(\);"
STAGED = "bfloat16, channels_last"
OF_FEW, OF_SLOTS = 1, 6  # in reduce.cu: the one of every few classes, and the first that is for labels of more
DEFECTS = {
    "dropped barrier": ("reduce.cu", replaced(BARRIER, "", OF_FEW), "float32", "thread", "data race"),
    "dropped barrier, seen in the numbers": ("reduce.cu", replaced(BARRIER, "", OF_FEW), "float32", "nan", "wrong"),
    "dropped barrier behind the last pixels": ("reduce.cu", replaced(BARRIER, ";", 0), STAGED, "thread", "data race"),
    "a copy that nobody waits for": ("stage.cuh", replaced(r"wait_for_copies\(\);", ""), STAGED, "nan", "wrong"),
    "a copy from out of bounds": (
        "pass.cuh",
        replaced(r"return a\.input \+ offset", "return a.input + 32 + offset"),
        STAGED,
        "address",
        "heap-buffer-overflow",
    ),
    "dropped barrier of slots": ("reduce.cu", replaced(BARRIER, "", OF_SLOTS), "20 classes", "thread", "data race"),
    "dropped barrier in the finish": ("finish.cu", replaced(BARRIER, ""), "float32", "thread", "data race"),
    "dropped barrier before the weights": ("softmax.cuh", replaced(BARRIER, ""), "float32", "thread", "data race"),
    "dropped warp barrier": ("reduce.cu", replaced(r"__syncwarp\(\);", "", 0), "40 classes", "thread", "data race"),
    "a barrier that some threads skip": (
        "reduce.cu",
        replaced(BARRIER, "if (threadIdx.x < 40) __syncthreads();", OF_FEW),
        "float32",
        "nan",
        "deadlock",
    ),
    "out of bounds": (
        "pixels.cuh",
        replaced(r"block\.load_from\(from,", "block.load_from(from + 4,"),
        "float32",
        "address",
        "heap-buffer-overflow",
    ),
    "out of bounds of shared memory": (
        "reduce.cu",
        replaced(r"SLOT\(room\.slots, i\) = own\[i\];", "SLOT(room.slots, i + 1) = own[i];"),
        "float32",
        "address",
        "(global-buffer-overflow|out of bounds)",
    ),
    "misaligned": (
        "pixels.cuh",
        replaced(r"block\.load_from\(from,", "block.load_from(from + 1,"),
        "float32",
        "address",
        "misaligned address",
    ),
    "uninitialised shared memory": (
        "reduce.cu",
        replaced(r"if \(REGION\) SLOT\(sums, c\) = 0;", "", 0),
        "20 classes",
        "nan",
        "wrong",
    ),
    **{
        f"dropped barrier {i} in the gradient of upsampled logits": (
            "upsampled_gradient.cu",
            replaced(BARRIER, ";", i),
            variant,
            "thread",
            "data race",
        )
        for i, variant in enumerate(
            [
                "images, upsampled",
                "images, upsampled",
                "images, upsampled, 20 classes",
                "images, upsampled, wide",
            ]
        )
    },
    "out of bounds of a window": (
        "window.cuh",
        replaced(r"from \+ to - 1\) / to\)", "from + to - 1) / to + 9)"),
        "images, area",
        "address",
        "heap-buffer-overflow",
    ),
    "an addition that is not atomic": (
        "confusion.cu",
        replaced(r"atomicAdd\(&counts\[cell\], length\);", "counts[cell] += length;"),
        "confusion",
        "thread",
        "data race",
    ),
    "dropped barrier in the confusion matrix": (
        "confusion.cu",
        replaced(BARRIER, "", 1),
        "confusion",
        "thread",
        "data race",
    ),
    "wrong lane": ("number.cuh", replaced(r"offset >>= 1", "offset >>= 2"), "float32", "nan", "(wrong|deadlock)"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defects_are_caught(defect: str, engines: dict[str, Path], tmp_path: Path) -> None:
    file, change, variant, sanitizer, message = DEFECTS[defect]
    kernels = tmp_path / "kernels"
    shutil.copytree(KERNELS, kernels)
    text = (kernels / file).read_text()
    changed = change(text)
    assert changed != text
    (kernels / file).write_text(changed)
    program = build(variant, sanitizer, engines[sanitizer], tmp_path, kernels)
    said = [run(program, seed) for seed in (None, 1, 2, 3)]
    assert any(done.returncode != 0 and re.search(message, done.stdout + done.stderr) for done in said), said[0]
