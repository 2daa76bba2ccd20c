"""Missing, broken and refusing libraries, and a cache that cannot be relied on: each in a process of its own."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rarepixel import _cuda, doctor

# CPU losses first, then what a CUDA tensor would do, without the emulator unless PRELOAD says so.
SCRIPT = """
import ctypes, os
for library in filter(None, os.environ.get("PRELOAD", "").split(":")):
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
import torch, rarepixel as rp
from rarepixel import _cuda, _tensors
generator = torch.Generator().manual_seed(0)
logits = torch.randn(1, 3, 8, 8, generator=generator)
labels = torch.randint(3, (1, 8, 8), generator=generator)
truth = rp.dice_focal_loss(logits, labels)
_tensors.on_cuda = lambda tensor: True
_cuda._place = lambda tensor: (0, 0)
if "PRELOAD" in os.environ and "emulator" in os.environ["PRELOAD"]:
    driver = ctypes.CDLL(os.environ["PRELOAD"].split(":")[-1])
    def allowing(tensor):
        driver.emulator_allow(ctypes.c_uint64(tensor.data_ptr()), ctypes.c_uint64(tensor.nbytes))
        return tensor
    _cuda.given = allowing
try:
    loss = rp.dice_focal_loss(logits, labels)
    assert torch.allclose(loss, truth), (loss, truth)
    print("right")
except RuntimeError as error:
    print(error)
"""


def run(prelude: str = "", **environment: object) -> str:
    """What the script prints; it must not die, and say nothing on stderr."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAREPIXEL", "EMULATOR"))}
    done = subprocess.run(
        [sys.executable, "-c", prelude + SCRIPT],
        env=inherited | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "panicked" not in done.stderr
    return done.stdout.strip()


def library(folder: Path, soname: str, source: str) -> Path:
    path = folder / soname
    (folder / "library.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", path, folder / "library.c"], check=True)
    return path


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="this machine has a driver")
def test_no_driver() -> None:
    text = run()
    assert text.startswith("the CUDA driver library (libcuda.so.1) was not found: is an NVIDIA driver installed?")
    assert "`rarepixel doctor`" in text


def test_a_driver_that_lacks_a_function(tmp_path: Path) -> None:
    broken = library(tmp_path, "libcuda.so", "int cuInit(unsigned flags) { return 0; }")
    assert "the CUDA driver library has no cuDriverGetVersion: the driver is too old" in run(PRELOAD=broken)


def test_a_driver_without_a_device(emulator: object, tmp_path: Path) -> None:
    text = run(PRELOAD=emulator.library, EMULATOR_NO_DEVICE=1, RAREPIXEL_CACHE_DIR=tmp_path)  # type: ignore[attr-defined]
    assert text.startswith(
        "CUDA: cannot initialise the driver: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
    )


NO_OTHER_NVRTC = pytest.mark.skipif(
    ctypes.util.find_library("nvrtc") is not None, reason="this machine has NVRTC on its library path"
)


@NO_OTHER_NVRTC
def test_no_nvrtc() -> None:
    """Without torch, whose CUDA builds load one."""
    script = "from rarepixel import _core\ntry: _core.cuda_nvrtc()\nexcept RuntimeError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NVRTC, the compiler of the kernels, was not found (libnvrtc.so.13 or .12)")
    assert "panicked" not in done.stderr


def nvrtc_among(*libraries: Path) -> str:
    """What is said of NVRTC where these are loaded and torch, whose CUDA builds load one, is not."""
    script = (
        "import ctypes, sys\n"
        "for path in sys.argv[1:]: ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)\n"
        "from rarepixel import _core\n"
        "try: print(*_core.cuda_nvrtc()[0])\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, libraries)], capture_output=True, text=True, check=True
    )
    assert "panicked" not in done.stderr
    return done.stdout.strip()


@NO_OTHER_NVRTC
def test_an_nvrtc_that_lacks_a_function(tmp_path: Path) -> None:
    broken = library(tmp_path, "libnvrtc.so", "int nvrtcVersion(int *major, int *minor) { return 0; }")
    text = nvrtc_among(broken)
    assert "NVRTC has no nvrtcGetNumSupportedArchs: 12.1 or newer is needed" in text


OLD = (
    "int nvrtcVersion(int *major, int *minor) { *major = 11; *minor = 7; return 0; }\n"
    + "".join(
        f"int nvrtc{name}(void) {{ return 0; }}\n"
        for name in (
            "GetNumSupportedArchs", "GetSupportedArchs", "CreateProgram", "CompileProgram", "DestroyProgram",
            "GetProgramLogSize", "GetProgramLog", "GetCUBINSize", "GetCUBIN", "GetPTXSize", "GetPTX",
        )
    )
)  # fmt: skip


@NO_OTHER_NVRTC
def test_an_nvrtc_that_is_too_old(tmp_path: Path) -> None:
    """Kernels of the architectures that it knows do not wait for the one before, which newer devices rely on."""
    text = nvrtc_among(library(tmp_path, "libnvrtc.so", OLD))
    assert "NVRTC is 11.7 (libnvrtc.so): 12.1 or newer is needed" in text


@pytest.mark.usefixtures("emulator")  # without which there may be no NVRTC of torch's
def test_an_old_nvrtc_hides_no_other(tmp_path: Path) -> None:
    good = next(path for path in _cuda.nvrtc_candidates() if path.suffix in (".12", ".13"))
    version = nvrtc_among(good)
    assert version[0].isdigit()
    assert nvrtc_among(library(tmp_path, "libnvrtc.so", OLD), good) == version


@pytest.mark.usefixtures("emulator")  # without which there may be no NVRTC of torch's
def test_torchs_nvrtc_comes_before_the_library_paths(tmp_path: Path) -> None:
    """One of another CUDA there may be too old, or too new for the driver."""
    other = library(tmp_path, "libnvrtc.so", "int nvrtcVersion(int *major, int *minor) { return 0; }")
    script = (
        f"import ctypes; ctypes.CDLL({str(other)!r})\n"
        "from rarepixel import _core, _cuda; path = _cuda.load_nvrtc(); assert path\n"
        "assert _core.cuda_nvrtc()[2] == path, _core.cuda_nvrtc()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_damaged_entries_are_compiled_again(emulator: object, tmp_path: Path) -> None:
    environment = {"PRELOAD": emulator.library, "RAREPIXEL_CACHE_DIR": tmp_path}  # type: ignore[attr-defined]
    assert run(**environment) == "right"
    whole = {path: path.read_bytes() for path in entries(tmp_path)}
    assert len(whole) == 2
    for number, path in enumerate(whole):
        path.write_bytes([b"nonsense", whole[path][:-40]][number])
    assert run(**environment) == "right"
    assert {path: path.read_bytes() for path in entries(tmp_path)} == whole


def test_a_cache_that_cannot_be_written(emulator: object, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert run(PRELOAD=emulator.library, RAREPIXEL_CACHE_DIR=in_the_way / "kernels") == "right"  # type: ignore[attr-defined]


def test_a_full_disk(emulator: object, tmp_path: Path) -> None:
    """A limit on the size of files fails a write half-way, as a full disk does: no half entry stays."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    assert run(limit, PRELOAD=emulator.library, RAREPIXEL_CACHE_DIR=tmp_path) == "right"  # type: ignore[attr-defined]
    assert entries(tmp_path) == []


def test_processes_that_fill_one_cache(emulator: object, tmp_path: Path) -> None:
    inherited = {**os.environ, "PRELOAD": str(emulator.library), "RAREPIXEL_CACHE_DIR": str(tmp_path)}  # type: ignore[attr-defined]
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=inherited, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in processes] == ["right"] * 3
    assert len(entries(tmp_path)) == 2
    assert {path.suffix for path in entries(tmp_path)} == {".ptx"}


def test_the_doctor_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    findings = {finding.name: finding for finding in doctor.report()}
    assert findings["rarepixel"].ok
    assert findings["torch"].ok
    assert all(finding.text for finding in findings.values())
    if not findings["self-test"].ok:
        with pytest.raises(SystemExit):
            doctor.command()
        assert "NO  self-test" in capsys.readouterr().out
