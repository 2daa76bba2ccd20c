"""The demo's tiles: synthesised once, split into training and validation, served in an order that a seed decides.

Several processes share out each batch, so that together they see the batches that one process sees.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

import rarepixel as rp

from . import ranks
from .options import Options

Sample = tuple[Tensor, Tensor, Tensor]

# Official splits that are kept for judging, the better known first.
_VALIDATION_SPLITS = ("test", "hold")
# Without such a split, and of synthetic tiles, one tile in so many validates.
_VALIDATION_SHARE = 4
_RECORD = "synthetic.json"


def synthetic_root(options: Options, progress: Callable[[int], object]) -> Path:
    """The root of the synthetic tiles in the output folder, made where they are not there yet.

    `progress` is called with the number of tiles made, often enough for a bar.
    """
    root = options.output / "tiles"
    recipe = {"rarepixel": rp.__version__, "tiles": options.tiles, "size": options.size, "seed": options.seed}
    record = root / _RECORD
    if record.is_file() and _recorded(record) == recipe:
        return root
    if root.exists() and not record.is_file():
        raise FileExistsError(f"{root}: exists, but was not made by rarepixel demo; choose another --output")
    # Made beside its place and moved there whole, so that an interrupted run leaves no half set behind.
    making = options.output / "tiles.part"
    shutil.rmtree(making, ignore_errors=True)
    held_out = max(1, options.tiles // _VALIDATION_SHARE)
    for split, tiles in (("train", options.tiles - held_out), (_VALIDATION_SPLITS[0], held_out)):
        rp.xbd.synthesize(making, tiles, options.seed, options.size, split=split, progress=progress)
    (making / _RECORD).write_text(json.dumps(recipe))
    shutil.rmtree(root, ignore_errors=True)
    making.rename(root)
    return root


def _recorded(record: Path) -> object:
    """What the tiles beside the record were made with."""
    try:
        return json.loads(record.read_text())
    except ValueError as error:
        made_anew = f"delete {record.parent}, and the tiles are made anew"
        raise ValueError(f"{record}: not what rarepixel demo wrote ({error}); {made_anew}") from error


@dataclass(frozen=True)
class Batches:
    """Training batches, whose order and crops are pure functions of (seed, epoch)."""

    dataset: rp.xbd.XBDDataset
    indices: list[int]
    options: Options

    def __len__(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-len(self.indices) // self.options.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Sample]:
        """This process's share of the (pre, post, mask) batches of an epoch, from batch number `first` on."""
        size = self.options.batch_size
        # A generator takes 64 bits.
        generator = torch.Generator().manual_seed((self.options.seed * 1_000_003 + epoch) % (1 << 63))
        order = [self.indices[index] for index in torch.randperm(len(self.indices), generator=generator)]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        self.dataset.set_epoch(epoch)
        return _shared_out(self.dataset, batches[first:], self.options)


@dataclass(frozen=True)
class Data:
    """What a run trains on and what it is judged by."""

    root: Path
    train: Batches
    whole: rp.xbd.XBDDataset
    validation: Subset[Sample]
    """Some of `whole`."""
    options: Options

    def validation_tiles(self) -> Iterator[Sample]:
        """This process's whole (pre, post, mask) tiles in batches of one, since real tiles may differ in size."""
        tiles, size = range(len(self.validation)), ranks.world_size()
        return _shared_out(self.validation, [tiles[start : start + size] for start in tiles[::size]], self.options)


def load(root: Path, options: Options) -> Data:
    """Split the tiles: by the official splits where there is one to judge by, else at random by the seed."""
    crops = rp.xbd.XBDDataset(root, crop=options.crop, augment=True, seed=options.seed)
    whole = rp.xbd.XBDDataset(root)
    splits = {tile.split for tile in whole.tiles}
    judge = next((name for name in _VALIDATION_SPLITS if name in splits), None)
    train = [index for index, tile in enumerate(whole.tiles) if tile.split not in _VALIDATION_SPLITS]
    validation = [index for index, tile in enumerate(whole.tiles) if tile.split == judge]
    if not train or not validation:
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(options.seed)).tolist()
        held_out = max(1, len(order) // _VALIDATION_SHARE)
        train, validation = sorted(order[held_out:]), sorted(order[:held_out])
    if not train:
        raise ValueError(f"{root}: got {len(whole)} tile, expected at least 2, one to train on and one to validate")
    return Data(root, Batches(crops, train, options), whole, Subset(whole, validation), options)


def _shared_out(dataset: Dataset[Sample], batches: Sequence[Sequence[int]], options: Options) -> Iterator[Sample]:
    """This process's share of each batch.

    Where the samples of a batch do not go round, it is a sample whose every pixel is ignored: it counts for nothing,
    and every process takes every step.
    """
    shares = [batch[ranks.rank() :: ranks.world_size()] for batch in batches]
    loader = DataLoader(
        dataset,
        batch_sampler=[list(share or batch[:1]) for share, batch in zip(shares, batches, strict=True)],
        num_workers=options.workers,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )
    for share, (pre, post, mask) in zip(shares, loader, strict=True):
        yield pre, post, mask if share else torch.full_like(mask, rp.xbd.IGNORE_INDEX)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal: a worker that died of it would fail the batch being waited for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
