"""XBDLoader against the usual ways to feed a training with xBD, side by side on the same tiles.

    python benches/loader.py [--root ROOT] [--rounds 5] [--pairs 64]

Batches of 8 pairs, crop 512. Peers: torch's DataLoader with two workers, OpenCV decoding and fillPoly masks; torchgeo's
XView2, where it is installed, with ready masks. Pixels and masks are compared before anything is timed. ROOT is a root
of real tiles (default: RAREPIXEL_XBD_ROOT, else ../shared/xbd-sample); without one, tiles are made, whose PNGs our
decoder reads faster than real ones, so only real tiles count. Prints a table and writes
benches/results/<date>-<cpu>-loader.csv."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

import machine
import rarepixel as rp

BATCH_SIZE, CROP, CORES = 8, 512, 2
CLASSES = {"no-damage": 1, "minor-damage": 2, "major-damage": 3, "destroyed": 4, "un-classified": 1}
HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=64, help="of a round; 16 times as many from the pack")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = copy_of_root(arguments.root, Path(folder))
        packed = Path(folder) / "packed"
        rp.xbd.pack(root, packed)
        rows = bench(root, packed, arguments.rounds, arguments.pairs)
        rows += [first_batch(root), memory(packed), masks(root)]
    load = os.getloadavg()[0]
    report(rows, f"{arguments.rounds} rounds, {CORES} threads or workers, {machine.cpu()}, load {load:.1f}")


def copy_of_root(given: Path | None, folder: Path) -> Path:
    """All tiles as one split, without targets: every contender but torchgeo draws its masks from labels."""
    beside = Path(os.environ.get("RAREPIXEL_XBD_ROOT", HERE.parents[1] / "shared" / "xbd-sample"))
    source = given or (beside if beside.is_dir() else None)
    if source is None:
        source = folder / "made"
        rp.xbd.synthesize(source, tiles=24)
    split = folder / "root" / "train"
    for kind in ("images", "labels"):
        (split / kind).mkdir(parents=True)
    for tile in rp.xbd.index(source).tiles:
        for half in (tile.pre, tile.post):
            shutil.copy(half.image, split / "images")
            shutil.copy(half.label, split / "labels")
    return folder / "root"


class OpenCV(Dataset):
    """The usual dataset: decode both images whole, draw the mask, crop."""

    def __init__(self, root: Path, samples: int) -> None:
        cv2.setNumThreads(1)
        self.tiles = rp.xbd.index(root).tiles
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def whole(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tile = self.tiles[index % len(self.tiles)]
        pre, post = (cv2.cvtColor(cv2.imread(str(half.image)), cv2.COLOR_BGR2RGB) for half in (tile.pre, tile.post))
        mask = np.zeros(pre.shape[:2], np.uint8)
        for feature in json.loads(tile.post.label.read_text())["features"]["xy"]:
            # The outer ring alone: the official targets fill holes.
            numbers = re.findall(r"[-+0-9.eE]+", feature["wkt"].partition("(")[2].partition(")")[0])
            points = np.array(numbers, float).reshape(-1, 2).round().astype(np.int32)
            cv2.fillPoly(mask, [points], CLASSES[feature["properties"]["subtype"]])
        return pre, post, mask

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        pre, post, mask = self.whole(index)
        window = random_window(mask.shape)
        pre, post = (np.ascontiguousarray(image[window].transpose(2, 0, 1)) for image in (pre, post))
        return torch.from_numpy(pre), torch.from_numpy(post), torch.from_numpy(mask[window].copy())


class TorchGeo(Dataset):
    """torchgeo's XView2 on ready masks, cropped."""

    def __init__(self, root: Path, samples: int) -> None:
        from torchgeo.datasets import XView2

        if not (root / "test").exists():  # it wants both splits
            (root / "test").symlink_to("train")
        self.tiles = XView2(root, split="train")
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        sample = self.tiles[index % len(self.tiles)]
        rows, columns = random_window(sample["mask"].shape[-2:])
        pre, post = sample["image"][..., rows, columns]
        return pre, post, sample["mask"][..., rows, columns]


def random_window(shape: Iterable[int]) -> tuple[slice, slice]:
    starts = [int(torch.randint(size - CROP + 1, ())) for size in shape]
    rows, columns = (slice(start, start + CROP) for start in starts)
    return rows, columns


def assert_same_pixels(root: Path, packed: Path) -> None:
    ours = rp.xbd.XBDDataset(root, un_classified="no-damage")
    theirs, pack = OpenCV(root, len(ours)), rp.xbd.XBDDataset(packed, un_classified="no-damage")
    for index, tile in enumerate(ours.tiles):
        pre, post, mask = theirs.whole(index)
        for name, one, other, packed_one in zip(
            ("pre", "post", "mask"),
            ours[index],
            (pre.transpose(2, 0, 1), post.transpose(2, 0, 1), mask),
            pack[index],
            strict=True,
        ):
            # Polygons that leave the image OpenCV 5 draws a few pixels off the official targets; images are equal.
            off = int((one.numpy() != other).sum())
            assert off <= 64 * (name == "mask"), f"{tile.name}: {name} differs in {off} pixels"
            assert torch.equal(one, packed_one), f"{tile.name}: {name}"


def bench(root: Path, packed: Path, rounds: int, pairs: int) -> list[dict[str, object]]:
    assert_same_pixels(root, packed)
    bars = {
        "DataLoader, OpenCV + fillPoly": ("XBDLoader", 4),
        "DataLoader, torchgeo XView2": ("XBDLoader", 3),
        "XBDLoader": ("XBDLoader, packed", 10),
    }

    def ours(where: Path, samples: int) -> Callable[[], tuple[int, Iterator]]:
        loader = rp.xbd.XBDLoader(where, batch_size=BATCH_SIZE, crop=CROP, samples_per_epoch=samples, num_threads=CORES)
        return lambda: (samples, iter(loader))

    def workers(dataset: Dataset, samples: int) -> Callable[[], tuple[int, Iterator]]:
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=CORES, persistent_workers=True)
        for _ in loader:  # processes are started once, outside the time
            pass
        return lambda: (samples, iter(loader))

    contenders = {
        "XBDLoader": ours(root, pairs),
        "XBDLoader, packed": ours(packed, 16 * pairs),
        "DataLoader, OpenCV + fillPoly": workers(OpenCV(root, pairs), pairs),
    }
    if importlib.util.find_spec("torchgeo") is not None:
        ready = root.parent / "ready"
        shutil.copytree(root, ready)
        rp.xbd.write_targets(ready, un_classified="no-damage")
        contenders["DataLoader, torchgeo XView2"] = workers(TorchGeo(ready, pairs), pairs)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, begin in contenders.items():
            start = time.perf_counter()
            samples, batches = begin()
            count = sum(len(batch[0]) for batch in batches)
            rates[name].append(count / (time.perf_counter() - start))
            assert count == samples
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = []
    for name, median in medians.items():
        row: dict[str, object] = {"what": name, "value": f"{median:.1f}", "unit": "pairs/s"}
        row["spread"] = f"{min(rates[name]):.1f} to {max(rates[name]):.1f}"
        if name in bars:
            faster, factor = bars[name]
            ratio = medians[faster] / median
            row["bar"] = f"{faster}: {ratio:.1f} times as fast, at least {factor} {verdict(ratio >= factor)}"
        rows.append(row)
    return rows


def verdict(holds: bool) -> str:
    return "holds" if holds else "FAILS"


def first_batch(root: Path) -> dict[str, object]:
    """From making the loader to holding its first batch."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        loader = rp.xbd.XBDLoader(root, batch_size=BATCH_SIZE, crop=CROP, samples_per_epoch=64, num_threads=CORES)
        next(iter(loader))
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    row = {"what": "first batch, XBDLoader", "value": f"{1e3 * median:.0f}", "unit": "ms"}
    return {**row, "bar": f"below 500 {verdict(median < 0.5)}"}


def memory(packed: Path) -> dict[str, object]:
    """Growth of resident memory over 10 epochs, after 2."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    loader = rp.xbd.XBDLoader(packed, batch_size=BATCH_SIZE, crop=CROP, samples_per_epoch=64, num_threads=CORES)
    sizes = []
    for _ in range(12):
        for _ in loader:
            pass
        sizes.append(resident())
    growth = 100 * (sizes[-1] / sizes[1] - 1)
    row = {"what": "resident memory over 10 epochs", "value": f"{growth:+.1f}", "unit": "%"}
    return {**row, "bar": f"below 5 {verdict(growth < 5)}"}


def masks(root: Path) -> dict[str, object]:
    """`xbd masks` on one core: tiles a second, each with two targets to draw and to write."""
    tiles = len(rp.xbd.index(root).tiles)
    rates = []
    os.environ["RAREPIXEL_NUM_THREADS"] = "1"
    for _ in range(5):
        shutil.rmtree(root / "train" / "targets", ignore_errors=True)
        start = time.perf_counter()
        rp.xbd.write_targets(root)
        rates.append(tiles / (time.perf_counter() - start))
    del os.environ["RAREPIXEL_NUM_THREADS"]
    median = statistics.median(rates)
    row = {"what": "targets written, one core", "value": f"{median:.0f}", "unit": "tiles/s"}
    return {**row, "bar": f"at least 100 {verdict(median >= 100)}"}


def report(rows: list[dict[str, object]], title: str) -> None:
    columns = ["what", "value", "unit", "spread", "bar"]
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console(width=150).print(table)
    path = HERE / "results" / machine.file_name("loader")
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
