"""What the compiler makes of the kernels for every architecture: no local memory, bounded registers, whole vectors."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from rarepixel import _core, _cuda
from rarepixel.options import Options, spec

pytestmark = pytest.mark.skipif(_cuda.load_nvrtc() is None, reason="needs the NVRTC that CUDA builds of torch bring")

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# The plain focal + Dice, and the options that take most registers.
PLAIN = Options(pixel="focal", region="dice")
HEAVY = PLAIN._replace(gamma=1.5, pt="weighted_ce")
SMOOTHED = Options(pixel="cross_entropy", label_smoothing=0.1)
DICE = Options(region="dice")
FOCAL = Options(pixel="focal")
# Registers of a thread: what the number of threads that a multiprocessor must hold leaves.
BOUNDS = {2: 102, 5: 128, 6: 128, 7: 128, 8: 170, 16: 255, 24: 255, 32: 255, 33: 128}
BOUNDS_FLOAT64 = {2: 255, 5: 255, 6: 255, 7: 255, 8: 255, 16: 255, 24: 255, 32: 255, 33: 128}


def compiled(
    options: Options, source: str, input: str, target: str, classes: int, channels_last: bool, architecture: int
) -> str:
    return _core.cuda_compile(spec(options), source, input, target, classes, channels_last, architecture, False)[1]


def all_compiled(cases: list[tuple[Options, str, str, str, int, bool, int]]) -> list[str]:
    """The compiler's logs; it runs without the GIL."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda case: compiled(*case), cases))


def check(log: str, bound: int, what: object) -> None:
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", log)]
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert registers, f"{what}: no figures in the log: {log}"
    assert len(memory) == len(registers), f"{what}: {log}"
    assert all(set(figures) == {"0"} for figures in memory), f"{what}: local memory: {log}"
    assert max(registers) <= bound, f"{what}: {registers} registers, bound {bound}"


@pytest.mark.parametrize("source", ["reduce", "gradient"])
@pytest.mark.parametrize("classes", BOUNDS)
def test_registers_on_every_architecture(source: str, classes: int) -> None:
    chosen = [("float32", number) for number in ARCHITECTURES]
    chosen += product(("float16", "float64"), (75, 90, 120))
    cases = [(HEAVY, source, input, "int64", classes, False, number) for input, number in chosen]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        bounds = BOUNDS_FLOAT64 if case[2] == "float64" else BOUNDS
        check(log, bounds[classes], case)


@pytest.mark.parametrize("source", ["reduce", "gradient"])
@pytest.mark.parametrize("classes", [5, 6, 7])
def test_registers_of_the_plain_losses(source: str, classes: int) -> None:
    """Up to 5 classes, and 7 of float32 without a region term, have more threads, and so fewer registers each."""
    operands = product(("float32", "float16", "bfloat16"), ("uint8", "int64"), (False, True), (75, 90, 120))
    cases = [
        (options, source, input, target, classes, channels_last, number)
        for options, (input, target, channels_last, number) in product((PLAIN, DICE, FOCAL), list(operands))
    ]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        many = classes == 5 or (case[0] is FOCAL and case[2] == "float32")
        check(log, 128 if not many else 85 if case[2] == "float32" else 102, case)
        # The least that a multiprocessor has, but for 7.5, is 100 KB: room for all the blocks that it must hold.
        blocks = (3 if many else 2) if case[2] == "float32" else (5 if many else 4)
        shared = max(int(number) for number in re.findall(r"(\d+) bytes smem", log))
        assert (shared + 1024) * blocks <= 100 * 1024, (
            f"{case}: {shared} bytes of shared memory in each of {blocks} blocks"
        )


@pytest.mark.parametrize("source", ["reduce", "gradient"])
def test_registers_of_doubles_with_label_smoothing(source: str) -> None:
    """32 classes in registers, 33 in a loop."""
    options = SMOOTHED._replace(region="dice")
    cases = [
        (chosen, source, "float64", "int64", classes, False, number)
        for chosen, classes, number in product((SMOOTHED, options), (32, 33), ARCHITECTURES)
    ]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        check(log, 255 if case[4] == 32 else 128, case)


@pytest.mark.parametrize("classes", [5, 32])
def test_registers_of_other_losses_and_layouts(classes: int) -> None:
    each_pixel = HEAVY._replace(region="none", reduction="none")
    targets = {PLAIN: "uint8", HEAVY: "int32", SMOOTHED: "int64", DICE: "soft", each_pixel: "int16"}
    cases = [
        (options, source, input, target, classes, channels_last, 90)
        for (options, target), source, input, channels_last in product(
            targets.items(), ("reduce", "gradient"), ("float32", "bfloat16"), (False, True)
        )
    ]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        check(log, BOUNDS[classes], case)


@pytest.mark.parametrize("source", ["reduce", "gradient"])
@pytest.mark.parametrize("mode", ["area", "upsample_logits"])
def test_registers_where_target_and_logits_differ_in_size(mode: str, source: str) -> None:
    """Float32 up to 32 classes in registers, float64 up to 8.

    Upsampled, what 17 classes and more are owed is in shared memory.
    """
    options = SMOOTHED._replace(region="dice", target_mode=mode)
    few, many = (85, 255) if mode == "area" else (128, 255)
    bounds = {2: few, 5: 128, 7: 170, 8: 170, 16: many, 17: many, 32: many, 33: many}
    cases = [
        (options, source, "float32", "int64", classes, False, number)
        for classes, number in product(bounds, (75, 90, 120))
    ]
    cases += [(options, source, "float32", "uint8", 32, False, number) for number in (80, 86, 89, 100)]
    cases += [(options, source, "bfloat16", "int64", 8, False, number) for number in (75, 90, 120)]
    cases += [
        (options, source, "float64", "int64", classes, False, number)
        for classes, number in product((8, 9), (75, 90, 120))
    ]
    if mode == "upsample_logits":
        heavy = HEAVY._replace(target_mode=mode)
        cases += [(heavy, source, "float32", "int64", *case) for case in product((16, 32), (False,), ARCHITECTURES)]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        check(log, 255 if case[2] == "float64" else bounds[case[4]], case)


@pytest.mark.parametrize("classes", [5, 8, 32, 33])
def test_registers_of_the_confusion_matrix(classes: int) -> None:
    operands = [("float32", "int64", number) for number in ARCHITECTURES]
    operands += product(("float16", "float64", "uint8"), ("uint8", "int64"), (75, 120))
    cases = [
        (PLAIN, "confusion", input, label, classes, channels_last, architecture)
        for (input, label, architecture), channels_last in product(operands, (False, True))
    ]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        check(log, 85 if classes <= 8 else 128, case)


@pytest.mark.parametrize("classes", [5, 32, 33])
def test_registers_of_resizing(classes: int) -> None:
    cases = [(PLAIN, "resize", "float32", "int64", classes, False, architecture) for architecture in ARCHITECTURES]
    for case, log in zip(cases, all_compiled(cases), strict=True):
        check(log, 128, case)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_finishing_kernel(architecture: int) -> None:
    for input in ("float32", "float64"):
        check(compiled(PLAIN, "finish", input, "soft", 1, False, architecture), 128, (input, architecture))


def ptx_of(source: str, input: str, target: str, classes: int, channels_last: bool) -> str:
    image, _ = _core.cuda_compile(spec(PLAIN), source, input, target, classes, channels_last, 90, True)
    return bytes(image).decode()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("input", ["float32", "bfloat16", "float16", "float64"])
def test_loads_and_stores_are_of_128_bits(input: str, channels_last: bool) -> None:
    for source in ("reduce", "gradient"):
        ptx = ptx_of(source, input, "uint8", 5, channels_last)
        wide = re.findall(r"(ld|st)\.global\S*\.(?:v4\.\w*32|v2\.\w*64)\b", ptx)
        copies = re.findall(r"cp\.async\.(c[ga])\.shared\.global [^;]*, 16;", ptx)
        if input != "float64" and (source == "gradient" or input != "float32"):
            # Into shared memory: the first pixels, and in the loop the next. Side by side they go past the first cache.
            assert copies == 10 * ["ca" if channels_last else "cg"], source
            assert "ld" not in wide, f"{source}: {wide}"
        else:
            assert (wide.count("ld"), copies) == (5, []), f"{source}: {wide}"
        assert wide.count("st") == (5 if source == "gradient" else 0), f"{source}: {wide}"
    wide = re.findall(
        r"ld\.global\S*\.(?:v4\.\w*32|v2\.\w*64)\b", ptx_of("confusion", input, "uint8", 5, channels_last)
    )
    assert len(wide) == 5


def disassembler() -> Path | None:
    """nvdisasm, which Triton (a dependency of CUDA builds of torch) brings."""
    try:
        import triton
    except ImportError:
        return None
    found = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    return found if found.exists() else None


@pytest.mark.skipif(disassembler() is None, reason="needs the nvdisasm that Triton brings")
@pytest.mark.parametrize("input", ["float32", "bfloat16"])
def test_machine_code(input: str, tmp_path: Path) -> None:
    """In the machine code itself: 128-bit accesses, no local memory, no double precision in the loop over pixels."""
    for source in ("reduce", "gradient"):
        image, _ = _core.cuda_compile(spec(PLAIN), source, input, "int64", 5, False, 90, False)
        cubin = tmp_path / f"{source}.cubin"
        cubin.write_bytes(bytes(image))
        text = subprocess.run(
            [str(disassembler()), "-c", str(cubin)], check=True, capture_output=True, text=True
        ).stdout
        opcodes = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
        labels = 2 if input == "float32" else 4  # int64 labels of 4 or 8 pixels
        wide = {
            name: sum(code.startswith(f"{name}.") and ".128" in code for code in opcodes) for name in ("LDG", "LDGSTS")
        }
        if source == "gradient" or input == "bfloat16":  # the first pixels, and in the loop the next ones
            assert wide["LDGSTS"] == 2 * (5 + labels), (source, wide)
        else:
            assert wide["LDG"] >= 5 + labels, (source, wide)
        assert not [code for code in opcodes if code.startswith(("LDL", "STL"))], source
        if source == "gradient":
            assert sum(code.startswith("STG") and ".128" in code for code in opcodes) == 5
            assert not [code for code in opcodes if code.startswith(("DADD", "DMUL", "DFMA"))]


@pytest.mark.parametrize(
    ("source", "kernel", "size"),
    [("reduce", "reduce", 416), ("gradient", "gradient", 416), ("finish", "finish", 144), ("resize", "majority", 424)],
)
def test_parameters_are_the_structs_of_the_host(source: str, kernel: str, size: int) -> None:
    """src/cuda/arguments.rs asserts the same sizes."""
    assert f"{kernel}_param_0[{size}]" in ptx_of(source, "float32", "uint8", 5, False)
