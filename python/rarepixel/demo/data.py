"""The demo's tiles: synthesised once, split into training and validation, and served in an order that a seed decides."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import rarepixel as rp

from .options import Options

# Every fourth tile, by a random order, is kept for validation.
_VALIDATION_SHARE = 4
_RECORD = "synthetic.json"


def tiles_root(options: Options, progress: Callable[[int], object] | None = None) -> Path:
    """The root of the tiles: ``--data``, or synthetic ones in the output folder, made where they are not there yet."""
    if options.data is not None:
        return options.data
    root = options.output / "tiles"
    recipe = {
        "rarepixel": rp.__version__,
        "tiles": options.tiles,
        "size": options.size,
        "seed": options.seed,
    }
    record = root / _RECORD
    if record.is_file() and json.loads(record.read_text()) == recipe:
        return root
    if root.exists() and not record.is_file():
        raise FileExistsError(f"{root}: exists, but was not made by rarepixel demo; choose another --output")
    # Made beside its place and moved there whole, so that an interrupted run leaves no half set behind.
    making = options.output / "tiles.part"
    shutil.rmtree(making, ignore_errors=True)
    rp.xbd.synthesize(making, tiles=options.tiles, seed=options.seed, size=options.size, progress=progress)
    (making / _RECORD).write_text(json.dumps(recipe))
    shutil.rmtree(root, ignore_errors=True)
    making.rename(root)
    return root


@dataclass
class Batches:
    """Training batches, whose order and crops are pure functions of (seed, epoch)."""

    dataset: rp.xbd.XBDDataset
    indices: list[int]
    batch_size: int
    seed: int
    workers: int

    def __len__(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-len(self.indices) // self.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pre, post, mask) batches of an epoch, from batch number `first` on."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = [self.indices[index] for index in torch.randperm(len(self.indices), generator=generator)]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        self.dataset.set_epoch(epoch)
        yield from _loader(self.dataset, self.workers, batch_sampler=batches[first:])


@dataclass
class Data:
    """What a run trains on and what it is judged by."""

    train: Batches
    validation: Subset[tuple[Tensor, Tensor, Tensor]]
    workers: int

    def validation_tiles(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Whole (pre, post, mask) tiles in batches of one, since real tiles may differ in size."""
        yield from _loader(self.validation, self.workers, batch_size=1)


def load(root: Path, options: Options) -> Data:
    """Index the tiles and split them, at random but by the seed only."""
    train = rp.xbd.XBDDataset(root, crop=options.crop, augment=True, seed=options.seed)
    whole = rp.xbd.XBDDataset(root)
    if len(whole) < 2:
        raise ValueError(f"{root}: got {len(whole)} tiles, expected at least 2, to train on one and validate on another")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(options.seed)).tolist()
    held_out = max(1, len(order) // _VALIDATION_SHARE)
    return Data(
        train=Batches(train, sorted(order[held_out:]), options.batch_size, options.seed, options.workers),
        validation=Subset(whole, sorted(order[:held_out])),
        workers=options.workers,
    )


def _loader(dataset: Any, workers: int, **sampling: Any) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    return DataLoader(dataset, num_workers=workers, worker_init_fn=_leave_interrupts_to_the_parent, **sampling)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal: a worker that died of it would fail the batch being waited for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
