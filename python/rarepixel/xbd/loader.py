"""Batches of xBD samples, filled ahead by Rust threads."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rarepixel import _core

from .._arguments import boolean, integer
from . import MAX_PIXELS, StrPath, Tile, UnClassified, _listed, _select
from ._batch_memory import BatchMemory
from ._feed import MeanStd, Sampler, make_feed, survey_file, weights_of_classes
from ._fixed import Fixed
from .augment import Augment

__all__ = ["Statistics", "XBDLoader"]

# (pre, post, mask): tensors, or arrays without torch.
Batch: TypeAlias = tuple[Any, Any, Any]

_STATE_VERSION = 2

# What a state of version 1 does not tell.
_SINCE_VERSION_2 = ("tiles_sha256", "class_weights", "candidates")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a loader has given out."""

    samples: int
    """Pairs."""
    pixels: npt.NDArray[np.int64]
    """Mask pixels of each class, (5,) in the order of :data:`rarepixel.xbd.CLASS_NAMES`."""
    ignored: int
    """Mask pixels of 255."""
    skipped: int
    """Tiles that could not be read and were replaced, each time counted."""

    @property
    def share(self) -> npt.NDArray[np.float64]:
        """Share of each class in the pixels that count, (5,); nan before there are any."""
        total = int(self.pixels.sum())
        return self.pixels / total if total else np.full(len(self.pixels), np.nan)


class XBDLoader(Fixed):
    """An iterable of ``(pre, post, mask)`` batches that Rust threads read, crop and augment ahead of the training.

    ``pre`` and ``post`` are (N, 3, H, W), uint8 or, with ``normalize``, float32; ``mask`` is (N, H, W) uint8 class
    indices, as for :class:`rarepixel.xbd.XBDDataset`, whose samples these are with ``sampler="uniform"``. There are no
    worker processes: threads decode without the GIL, straight into the memory of the batch.

    What a batch holds is a pure function of (seed, epoch, rank, world size), whatever the number of threads. Every pass
    over the loader is the next epoch, from 0 on, unless :meth:`set_epoch` says which. Every rank gets the same number
    of batches; without ``drop_last``, a few further samples make that come out even.

    A batch is yours for as long as you hold it: its memory is used again only when the last tensor over it is gone.

    Args:
        root: a folder in the official layout, see :mod:`rarepixel.xbd`.
        splits: names of splits; by default all.
        batch_size: pairs of a batch on each rank.
        crop: side of a square crop in pixels; None gives whole tiles, which must be of one size then.
        augment: an :class:`rarepixel.xbd.Augment`; True is ``Augment(flip_rotate=1.0)``.
        normalize: None for uint8; ``"imagenet"`` or a pair (mean, std) of three numbers each for float32
            ``(value / 255 - mean) / std``.
        shuffle: whether each epoch has its own order of tiles; crops and changes are drawn either way.
        drop_last: whether to leave out the samples that do not fill a batch on every rank.
        sampler: how samples are chosen. ``"uniform"``: each tile in turn, cropped anywhere. ``"rare"``: a class is
            drawn by ``class_weights``, then a tile that has it, then a crop that holds one of its buildings; where
            pixels of which class lie is found out once and kept in ``.rarepixel-survey.json`` in ``root``.
            ``"best_of_k"``: each tile in turn, cropped at the best of 1 to ``candidates`` places (the number is drawn
            too) by no-damage + 5 minor + 5 major + 2 destroyed pixels, the rule of the xView2 challenge's winner.
        class_weights: five finite numbers for ``"rare"``, in any scale, in the order of
            :data:`rarepixel.xbd.CLASS_NAMES`; that of the background stands for a crop anywhere. Classes that no tile
            has are left out.
        candidates: for ``"best_of_k"``, 1 to 1024.
        samples_per_epoch: pairs of an epoch over all ranks; by default as many as there are tiles.
        un_classified: ``"ignore"`` (255), ``"no-damage"`` (1) or ``"background"`` (0), for masks drawn from labels.
        seed: 0 to 2^63 - 1.
        disasters: only tiles of these disasters, such as ``["joplin-tornado"]``.
        exclude_disasters: no tiles of these, for example to hold them out.
        rank, world_size: this process and how many there are; by default those of ``torch.distributed`` where it is
            initialised when a pass begins, else 0 of 1.
        num_threads: threads that read; by default ``RAREPIXEL_NUM_THREADS``, else as many as there are cores.
        prefetch: batches that are filled ahead.
        pin_memory: whether batches lie in pinned memory; by default where CUDA is available. True is for torch with
            CUDA alone.
        output: ``"torch"`` or ``"numpy"``; by default torch where it is installed.
        on_error: what to do with a tile that cannot be read: ``"raise"`` names the file; ``"skip"`` takes another tile
            (the same on every run), warns once in an epoch and counts in :attr:`skipped`. Of whole tiles, ``"raise"``
            expects the size of the first; ``"skip"`` that which most of the readable ones have (looked up before each
            pass), and skips the others.
        max_pixels: larger images are refused.

    Attributes:
        tiles: the tiles. Neither they nor the arguments above can be set later.
        skipped: what could not be read with ``on_error="skip"``, and how often.

    Raises:
        OSError, ValueError: from the constructor for a bad root or argument (incomplete tiles are left out with a
            warning); from iteration for a file that is missing, damaged, smaller than the crop, or of another size
            than its pair, by name, and for a batch size that no memory could hold.
        TypeError: from the constructor for an argument of another type.

    A copy by pickling or :func:`copy.deepcopy` is built anew from the constructor's arguments, which reads the root
    again, and its next pass goes on where :meth:`state_dict` was; its statistics begin at nothing.

    Memory is ``prefetch`` batches besides those you hold, up to ``prefetch + 2`` that you have let go and later ones
    will use, and one decoded tile for each thread. Threads end with the pass: at its end, on ``break`` or an exception
    (as soon as the iterator is gone), by :meth:`close`, or with the interpreter.

    >>> import tempfile
    >>> import rarepixel as rp
    >>> root = tempfile.mkdtemp()
    >>> rp.xbd.synthesize(root, tiles=8, seed=1, size=64)
    >>> loader = rp.xbd.XBDLoader(root, batch_size=4, crop=32, augment=True, normalize="imagenet", output="numpy")
    >>> len(loader)
    2
    >>> for pre, post, mask in loader:
    ...     print(pre.shape, post.dtype, mask.shape)
    (4, 3, 32, 32) float32 (4, 32, 32)
    (4, 3, 32, 32) float32 (4, 32, 32)
    >>> loader.statistics().samples
    8
    """

    tiles: tuple[Tile, ...]
    skipped: Counter[str]

    def __init__(
        self,
        root: StrPath,
        splits: Sequence[str] | None = None,
        batch_size: int = 8,
        crop: int | None = None,
        *,
        augment: bool | Augment = False,
        normalize: Literal["imagenet"] | MeanStd | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        sampler: Sampler = "uniform",
        class_weights: Sequence[float] = (0.0, 1.0, 1.0, 1.0, 1.0),
        candidates: int = 10,
        samples_per_epoch: int | None = None,
        un_classified: UnClassified = "ignore",
        seed: int = 0,
        disasters: Iterable[str] | None = None,
        exclude_disasters: Iterable[str] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        num_threads: int | None = None,
        prefetch: int = 2,
        pin_memory: bool | None = None,
        output: Literal["torch", "numpy"] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        disasters = _listed("disasters", disasters)
        exclude_disasters = _listed("exclude_disasters", exclude_disasters)
        # What a copy is built from; before any other name is known here.
        self._options = {name: value for name, value in locals().items() if name != "self"}
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error: got {on_error!r}, expected "raise" or "skip"')
        if output not in (None, "torch", "numpy"):
            raise ValueError(f'output: got {output!r}, expected "torch" or "numpy"')
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank: got {rank} of world_size {world_size}, expected both or none")
        self._ranks: tuple[int, int] | None = None
        if rank is not None and world_size is not None:
            world_size = integer("world_size", world_size, 1)
            self._ranks = (integer("rank", rank, 0, world_size - 1), world_size)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.crop = None if crop is None else integer("crop", crop, 1)
        self.shuffle = boolean("shuffle", shuffle)
        self.drop_last = boolean("drop_last", drop_last)
        self.seed = integer("seed", seed, 0)
        self.num_threads = None if num_threads is None else integer("num_threads", num_threads, 1, 1024)
        self.prefetch = integer("prefetch", prefetch, 1)
        self._class_weights = weights_of_classes(class_weights)
        self._candidates = integer("candidates", candidates, 1)
        dtype = np.uint8 if normalize is None else np.float32
        self._memory = BatchMemory(self.batch_size, dtype, output, pin_memory, self.prefetch + 2)
        self.tiles = _select(root, splits, disasters, exclude_disasters)
        names = json.dumps([(tile.split, tile.name) for tile in self.tiles])
        self._tiles_sha256 = hashlib.sha256(names.encode()).hexdigest()
        samples = len(self.tiles) if samples_per_epoch is None else samples_per_epoch
        self.samples_per_epoch = integer("samples_per_epoch", samples, 1)
        self.skipped = Counter()
        self._feed = make_feed(
            self.tiles,
            self.crop,
            augment,
            normalize,
            un_classified,
            integer("max_pixels", max_pixels, 0),
            self.seed,
            shuffle=self.shuffle,
            sampler=sampler,
            class_weights=self._class_weights,
            candidates=self._candidates,
            survey_file=survey_file(root),
            skip_errors=on_error == "skip",
        )
        if self._feed.survey_not_kept is not None:
            warnings.warn(f"the survey could not be kept: {self._feed.survey_not_kept}", stacklevel=2)
        if skipped := self._feed.survey_skipped:
            text = f"tiles whose labels cannot be read, which are not drawn: {len(skipped)}, the first: {skipped[0]}"
            warnings.warn(text, stacklevel=2)
        self._sampler = sampler
        self._on_error = on_error
        self._pixels = np.zeros(6, dtype=np.int64)
        self._samples = 0
        # The epoch and batch that the next pass begins with, and those that the pass goes on with which gave the last
        # batch; none before the first pass, and where the next was set since.
        self._start: tuple[int, int] = (0, 0)
        self._position: tuple[int, int] | None = None
        # The ranks with which batches within an epoch were counted.
        self._counted_with = 1
        self._runs = _Runs()
        self._made = True

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return _core.XBDFeed.batches(self._shares())

    def __iter__(self) -> Iterator[Batch]:
        # Nothing happens before the first batch is asked for: some frameworks call iter() only to see whether they can.
        process = os.getpid()
        epoch, given = self._start
        shares = self._shares()
        if given > 0 and shares[4] != self._counted_with:
            expected = f"{self._counted_with}, with which the {given} batches of epoch {epoch} were counted"
            raise ValueError(f"world_size: got {shares[4]}, expected {expected}")
        self._counted_with = shares[4]
        self._start, self._position = (epoch + 1, 0), (epoch, given)
        size = self._sample_size()
        self._memory.expect_addressable(size)
        run = self._feed.start(epoch, given, shares, size, self.num_threads or 0)
        _RUNS.add(run)
        self._runs.add(run)
        warned = False
        try:
            for _ in range(self.prefetch):
                if not self._submit(run, size):
                    break
            while (filled := run.next()) is not None:
                batch, samples, counts, skipped = filled
                given += 1
                self._position = (epoch, given)
                self._pixels += counts
                self._samples += samples
                self.skipped.update(skipped)
                if skipped and not warned:
                    warned = True
                    warnings.warn(f"skipped in epoch {epoch}: {skipped[0]} (all: loader.skipped)", stacklevel=2)
                self._submit(run, size)
                if samples < self.batch_size:
                    batch = tuple(part[:samples] for part in batch)
                yield batch
                # Held while the next is waited for, it could not be used again.
                del batch, filled
                if os.getpid() != process:
                    raise RuntimeError(f"this pass was begun in process {process}: begin another with iter(loader)")
        finally:
            run.close()

    def close(self) -> None:
        """Ends the threads of every pass that is under way; such a pass then ends as if the epoch did."""
        self._runs.close()

    @property
    def epoch(self) -> int:
        """The epoch of the pass that gave the last batch; of the next pass where it was set since. 0 at first."""
        return (self._position or self._start)[0]

    def set_epoch(self, epoch: int) -> None:
        """Begins the next pass with this epoch. A batch that :meth:`load_state_dict` set within that epoch is kept."""
        epoch = integer("epoch", epoch, 0)
        if self._start[0] != epoch:
            self._start = (epoch, 0)
        self._position = None

    def state_dict(self) -> dict[str, Any]:
        """Where the pass at hand is, and what its order depends on, as plain numbers and texts: torchdata's convention.

        Of several passes at once it is the one that gave the last batch. It counts the batches that you were given, not
        those that were filled ahead. It is the same on every rank.
        """
        epoch, batch = self._position or self._start
        state = {"version": _STATE_VERSION, "epoch": epoch, "batch": batch, **self._identity()}
        return state | {"world_size": self._counted_with} if batch > 0 else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken: the next pass gives the remaining batches of that epoch.

        After the last batch of an epoch it is the next epoch. A state of version 1, of earlier releases, has only the
        number of tiles, and neither class weights nor candidates: that they are the same is up to you.

        Raises:
            ValueError: the state is of a loader with another order: other tiles, seed, batch size, ...; or lacks
                something.
            TypeError: ``state`` is not a dictionary.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {state!r}, expected a dictionary as state_dict gives")
        version = state.get("version")
        if version not in (1, _STATE_VERSION):
            raise ValueError(f"state: got version {version!r}, expected 1 or {_STATE_VERSION}")
        identity = self._identity()
        known = [name for name in identity if version == _STATE_VERSION or name not in _SINCE_VERSION_2]
        for name in ("epoch", "batch", *known):
            if name not in state:
                raise ValueError(f"state: got no {name}, expected a dictionary as state_dict gives")
        for name in known:
            if state[name] != identity[name]:
                raise ValueError(f"state: got {name} {state[name]!r}, expected {identity[name]!r}")
        epoch, batch = integer("epoch", state["epoch"], 0), integer("batch", state["batch"], 0, len(self))
        self._counted_with = identity["world_size"]
        self._start = (epoch, batch) if batch < len(self) else (epoch + 1, 0)
        self._position = None

    def statistics(self) -> Statistics:
        """What has been given out since the loader was made or :meth:`reset_statistics` called."""
        return Statistics(self._samples, self._pixels[:5].copy(), int(self._pixels[5]), self.skipped.total())

    def reset_statistics(self) -> None:
        """Counts from nothing again, :attr:`skipped` too."""
        self._pixels[:] = 0
        self._samples = 0
        self.skipped.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._options, self.state_dict())

    def _identity(self) -> dict[str, Any]:
        return {
            "tiles": len(self.tiles),
            "tiles_sha256": self._tiles_sha256,
            "samples_per_epoch": self.samples_per_epoch,
            "batch_size": self.batch_size,
            "crop": self.crop,
            "sampler": self._sampler,
            "class_weights": json.dumps(self._class_weights) if self._sampler == "rare" else None,
            "candidates": self._candidates if self._sampler == "best_of_k" else None,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "seed": self.seed,
            "world_size": self._shares()[4],
        }

    def _shares(self) -> tuple[int, int, bool, int, int]:
        rank, world_size = self._ranks or _distributed()
        return self.samples_per_epoch, self.batch_size, self.drop_last, rank, world_size

    def _sample_size(self) -> tuple[int, int]:
        """(height, width) of the samples of a pass, for which there is memory before the first is read."""
        if self.crop is not None:
            self._expect_room(self.crop)
            return self.crop, self.crop
        if self._on_error == "skip" and (sizes := Counter(size for _, size in self._readable_sizes())):
            return sizes.most_common(1)[0][0]
        return self._feed.tile_size(0)

    def _expect_room(self, crop: int) -> None:
        """Refuses a crop that no tile has room for; tiles are looked at up to the first that has."""
        largest = None
        for tile, size in self._readable_sizes():
            if crop <= min(size):
                return
            largest = max(largest or (0, tile), (min(size), tile), key=lambda entry: entry[0])
        # Where none can be read, reading tells why.
        if largest is not None:
            side, tile = largest
            raise ValueError(f"crop: got {crop}, expected 1 to {side}, the shorter side of {tile.pre.image}")

    def _readable_sizes(self) -> Iterator[tuple[Tile, tuple[int, int]]]:
        for index, tile in enumerate(self.tiles):
            try:
                size = self._feed.tile_size(index)
            except (OSError, ValueError):
                continue
            yield tile, size

    def _submit(self, run: _core.XBDRun, size: tuple[int, int]) -> bool:
        """Hands in memory for one more batch; false where there is none left to fill."""
        batch, memory = self._memory.make(size)
        return run.submit(memory, batch)


def _rebuild(kind: type[XBDLoader], options: dict[str, Any], state: dict[str, Any]) -> XBDLoader:
    """A copy of a loader, at the same place."""
    loader = kind(**options)
    # The begin of an epoch is the same for any number of ranks, and the copy may be in a process that has no rank yet.
    if state["batch"] == 0:
        loader.set_epoch(state["epoch"])
    else:
        loader.load_state_dict(state)
    return loader


def _distributed() -> tuple[int, int]:
    """Rank and world size of torch.distributed, if somebody has initialised it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


class _Runs:
    """Passes that are under way. A WeakSet cannot be gone through while another thread adds to it."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[_core.XBDRun]] = {}

    def add(self, run: _core.XBDRun) -> None:
        key, references = id(run), self._references
        references[key] = weakref.ref(run, lambda _: references.pop(key, None))

    def close(self) -> None:
        for reference in list(self._references.values()):  # in one step
            if (run := reference()) is not None:
                run.close()


# Threads must not write into memory that is taken down with the interpreter.
_RUNS = _Runs()


@atexit.register
def _close_all() -> None:
    _RUNS.close()
