"""The losses on a GPU against torch, and against the bandwidth that the card gives a copy.

    python benches/gpu.py [--quick]

Times are medians over CUDA events, warm, with inputs rotated so that none is still in the L2. The device is kept busy
while a piece of work is put on the stream: what is timed is the device's part, as in a training step, where the host is
ahead; the host's part is a column of its own. The backward pass is given its incoming gradient, which torch would
otherwise make by a launch of its own. Every answer is compared with the reference before it is timed. A CSV
goes to benches/results/<date>-<card>-gpu.csv with driver, versions and commit.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

import machine
import rarepixel as rp
from rarepixel import reference

RESULTS = Path(__file__).parent / "results"
SHAPES = ((8, 5, 1024, 1024), (16, 5, 512, 512))
Loss = Callable[[Tensor, Tensor], Tensor]
# Cycles that the device waits before each piece of work (2 ms of an H100): longer than the host needs to enqueue it.
HEAD_START = 4_000_000
LOSSES = ("cross_entropy", "focal_loss", "dice_loss", "dice_focal_loss")
# What a row of the CSV has of these is measured; the rest stays empty.
COLUMNS = (
    *("loss", "implementation", "shape", "dtype", "labels", "forward_ms", "backward_ms", "both_ms", "both_host_us"),
    *("forward_of_copy", "backward_of_copy", "memory_of_logits"),
)


def milliseconds(work: Iterator[Callable[[], object]], repeats: int) -> float:
    """The median time of one piece of work on the device, from events round each."""
    for _ in range(5):
        next(work)()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        piece = next(work)
        torch.cuda._sleep(HEAD_START)
        start.record()
        piece()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in times)


def host_microseconds(piece: Callable[[], object], repeats: int) -> float:
    """The median time until a piece of work is on the stream."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        piece()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def copies_needed(size: int) -> int:
    """How many tensors of that size it takes so that a tensor has left the L2 before its turn comes again."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, -(-4 * cache // size))


def copy_bandwidth(repeats: int) -> float:
    """GB/s of a device-to-device copy: bytes read and written."""
    source, target = (torch.empty(2**28, dtype=torch.float32, device="cuda") for _ in range(2))
    time = milliseconds(cycle([lambda: target.copy_(source)]), repeats)
    return 2 * source.nbytes / time / 1e6


def memory_of(loss: Loss, input: Tensor, target: Tensor) -> float:
    """Peak extra memory of a forward and a backward pass, in sizes of the logits."""
    input.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss(input, target).backward()
    extra = torch.cuda.max_memory_allocated() - before
    input.grad = None
    return extra / input.nbytes


def check(name: str, loss: Loss, input: Tensor, target: Tensor) -> None:
    """The loss and its gradient against the reference in float64."""
    truth_input = input.detach().double().requires_grad_()
    value, truth = loss(input, target), getattr(reference, name)(truth_input, target.long())
    (gradient,), (true_gradient,) = torch.autograd.grad(value, input), torch.autograd.grad(truth, truth_input)
    close = 2**-7 if input.dtype == torch.bfloat16 else 1e-5
    assert abs(value.item() - truth.item()) <= close * abs(truth.item()), (
        f"{name}: {value.item()}, expected {truth.item()}"
    )
    error = (gradient.double() - true_gradient).abs().max() / true_gradient.abs().max()
    assert error <= close, f"{name}: gradient off by {error:.1e}"


def measure(name: str, loss: Loss, batches: list[tuple[Tensor, Tensor]], repeats: int) -> dict[str, float]:
    """Milliseconds on the device of the passes, and microseconds on the host."""

    def forward(input: Tensor, target: Tensor) -> None:
        with torch.no_grad():
            loss(input, target)

    def both(input: Tensor, target: Tensor) -> None:
        torch.autograd.grad(loss(input, target), input)

    def timed(work: Loss) -> float:
        return milliseconds(cycle([lambda batch=batch: work(*batch) for batch in batches]), repeats)

    found = {"both_ms": timed(both), "both_host_us": host_microseconds(lambda: both(*batches[0]), repeats)}
    if name != "torch.compile":  # which would compile a second graph for the forward pass alone
        found["forward_ms"] = timed(forward)
        values = [loss(*batch) for batch in batches]
        incoming = torch.ones_like(values[0])
        found["backward_ms"] = milliseconds(
            cycle(
                lambda value=value, input=batch[0]: torch.autograd.grad(value, input, incoming, retain_graph=True)
                for value, batch in zip(values, batches, strict=True)
            ),
            repeats,
        )
    return found


def driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no torch.compile, one shape")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        sys.exit("benches/gpu.py: torch sees no GPU")
    repeats = 20 if quick else 40
    card = torch.cuda.get_device_name(0)
    bandwidth = copy_bandwidth(repeats)
    about = {
        "card": card,
        "driver": driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rarepixel": rp.__version__,
        "commit": machine.commit(),
        "date": machine.date(),
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"copy bandwidth {bandwidth:.0f} GB/s")
    rows = []
    for shape in SHAPES[:1] if quick else SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for label_dtype in (torch.uint8, torch.int64):
                rows += bench_batch(shape, dtype, label_dtype, bandwidth, repeats, quick)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / machine.file_name("gpu", card)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *about, "copy_gb_s"])
        writer.writeheader()
        writer.writerows(row | about | {"copy_gb_s": round(bandwidth)} for row in rows)
    print(f"written: {path}")


def bench_batch(
    shape: tuple[int, ...], dtype: torch.dtype, label_dtype: torch.dtype, bandwidth: float, repeats: int, quick: bool
) -> list[dict[str, object]]:
    """All losses and implementations on one kind of batch, and a copy of its logits."""
    generator = torch.Generator("cuda").manual_seed(0)
    logits_bytes = torch.Size(shape).numel() * dtype.itemsize
    batches = [
        (
            torch.randn(shape, generator=generator, device="cuda").to(dtype).requires_grad_(),
            torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator, device="cuda").to(label_dtype),
        )
        for _ in range(copies_needed(logits_bytes))
    ]
    label_bytes = batches[0][1].nbytes
    # Each logit and label read once a pass; each gradient written once.
    moved = {"forward": logits_bytes + label_bytes, "backward": 2 * logits_bytes + label_bytes}
    rows: list[dict[str, object]] = []

    def add(loss: str, implementation: str, found: dict[str, float], moved: dict[str, int]) -> None:
        times = {part: found[f"{part}_ms"] for part in moved if f"{part}_ms" in found}
        found |= {f"{part}_of_copy": moved[part] / time / 1e6 / bandwidth for part, time in times.items()}
        about = {
            "loss": loss,
            "implementation": implementation,
            "shape": "x".join(map(str, shape)),
            "dtype": str(dtype).removeprefix("torch."),
            "labels": str(label_dtype).removeprefix("torch."),
        }
        rows.append(about | {name: round(value, 4) for name, value in found.items()})
        print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)

    # A copy moves as much as a backward pass, but for the labels: so much bandwidth is to be had at that size.
    kept = torch.empty_like(batches[0][0], requires_grad=False)
    copies = cycle([lambda input=input: kept.copy_(input.detach()) for input, _ in batches])
    add("copy", "torch", {"backward_ms": milliseconds(copies, repeats)}, {"backward": 2 * logits_bytes})
    # And a sum reads as much as a forward pass, but for the labels.
    sums = cycle([lambda input=input: input.detach().sum() for input, _ in batches])
    add("sum", "torch", {"forward_ms": milliseconds(sums, repeats)}, {"forward": logits_bytes})
    for name in LOSSES:
        plain: Loss = lambda input, target, name=name: getattr(reference, name)(input, target)  # noqa: E731
        implementations: dict[str, Loss] = {"rarepixel": getattr(rp, name), "torch": plain}
        if not quick and label_dtype == torch.int64:  # torch's own type of labels: compiling takes longer than all else
            torch._dynamo.reset()  # or the eighth variant of this lambda is the last that is compiled
            implementations["torch.compile"] = torch.compile(plain, dynamic=False)
        for implementation, loss in implementations.items():
            check(name, loss, *batches[0])
            found = measure(implementation, loss, batches, repeats)
            add(name, implementation, found | {"memory_of_logits": memory_of(loss, *batches[0])}, moved)
    return rows


if __name__ == "__main__":
    main()
