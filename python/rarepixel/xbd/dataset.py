"""An xBD root as a torch ``Dataset``."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from rarepixel import _core

from . import MAX_PIXELS, StrPath, Tile, UnClassified, _count, _integer, _select

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MeanStd = tuple[Sequence[float], Sequence[float]]

IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that torchvision's ImageNet models expect."""


class XBDDataset(Dataset[Sample]):
    """Map-style dataset of ``(pre, post, mask)``.

    ``pre`` and ``post`` are (3, H, W) images, uint8 or, with ``normalize``, float32; ``mask`` holds the (H, W) uint8
    class indices of the post image: from the official target where present, else drawn from the post label (see
    :func:`rarepixel.xbd.rasterize_label`). All three are cropped and turned alike.

    A sample is a pure function of (seed, epoch, index): any number of workers, any start method and any order of
    access give the same. Call :meth:`set_epoch` before each epoch for new crops and turns; it reaches persistent
    workers as well, since the epoch lies in shared memory (samples that workers have already prefetched keep the
    epoch they were read in, so call it between epochs). A copy made by pickling counts its own epochs, except in
    workers that DataLoader starts.

    Decoding, cropping, turning and normalising run in Rust without the GIL, on the calling thread; rows below a crop
    are not decoded.

    Args:
        root: a folder in the official layout, see :mod:`rarepixel.xbd`.
        splits: names of splits; by default all.
        crop: side of a random square crop in pixels; None gives whole tiles.
        augment: whether to draw one of the eight flips and quarter turns (of four for crops that are not square).
        normalize: None for uint8; ``"imagenet"`` or a pair (mean, std) of three numbers each for float32
            ``(value / 255 - mean) / std``.
        un_classified: ``"ignore"`` (255), ``"no-damage"`` (1) or ``"background"`` (0), for masks drawn from labels.
        seed: 0 to 2^63 - 1.
        disasters: only tiles of these disasters, such as ``["joplin-tornado"]``.
        exclude_disasters: no tiles of these, for example to hold them out.
        max_pixels: larger images are refused.

    Attributes:
        tiles: the tiles, in the order of the indices.

    Raises:
        OSError, ValueError: from the constructor for a bad root or argument (incomplete tiles are left out with a
            warning); from indexing for a file that is missing, damaged, smaller than the crop, or of another size
            than its pair, by name.

    >>> import tempfile
    >>> import rarepixel as rp
    >>> root = tempfile.mkdtemp()
    >>> rp.xbd.synthesize(root, tiles=2, seed=1, size=64)
    >>> dataset = rp.xbd.XBDDataset(root, crop=32, augment=True, normalize="imagenet")
    >>> pre, post, mask = dataset[0]
    >>> pre.shape, post.dtype, mask.shape
    (torch.Size([3, 32, 32]), torch.float32, torch.Size([32, 32]))
    """

    tiles: list[Tile]

    def __init__(
        self,
        root: StrPath,
        splits: Sequence[str] | None = None,
        crop: int | None = None,
        augment: bool = False,
        normalize: Literal["imagenet"] | MeanStd | None = None,
        un_classified: UnClassified = "ignore",
        seed: int = 0,
        *,
        disasters: Iterable[str] | None = None,
        exclude_disasters: Iterable[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if un_classified not in ("ignore", "no-damage", "background"):
            raise ValueError(f'un_classified: got {un_classified!r}, expected "ignore", "no-damage" or "background"')
        self.crop = None if crop is None else _integer("crop", crop, 1)
        self.augment = augment
        self.normalize = None if normalize is None else _mean_std(normalize)
        self.un_classified = un_classified
        self.seed = _integer("seed", seed, 0)
        self.max_pixels = _integer("max_pixels", max_pixels, 0)
        self.tiles = _select(root, splits, disasters, exclude_disasters)
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._share_epoch()

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not -len(self.tiles) <= index < len(self.tiles):
            raise IndexError(f"index: got {index}, expected one of {len(self.tiles)} tiles")
        index %= len(self.tiles)
        tile = self.tiles[index]
        pre, post, mask = _core.xbd_read_sample(
            tile.pre.image,
            tile.post.image,
            tile.post.target,
            tile.post.label,
            self.crop,
            self.augment,
            self.normalize,
            self.un_classified,
            self.max_pixels,
            self.seed,
            self.epoch,
            index,
        )
        return torch.from_numpy(pre), torch.from_numpy(post), torch.from_numpy(mask)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of a batch; DataLoader calls this where it is there."""
        return [self[index] for index in indices]

    @property
    def epoch(self) -> int:
        """The epoch that samples are drawn for; 0 at first."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Draws other crops and turns from now on, in worker processes too; ``epoch`` is at least 0."""
        self._epoch.fill_(_integer("epoch", epoch, 0))

    def pixel_counts(self) -> npt.NDArray[np.int64]:
        """Counts the pixels of each class over these tiles' masks, uncropped: :func:`rarepixel.xbd.pixel_counts`."""
        return _count(self.tiles, self.un_classified, self.max_pixels)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        # A copy by value (copy.deepcopy, a plain pickle) arrives in private memory.
        self._share_epoch()

    def _share_epoch(self) -> None:
        """Puts the epoch where worker processes see it change."""
        if not self._epoch.is_shared():
            self._epoch.share_memory_()


def _mean_std(normalize: Literal["imagenet"] | MeanStd) -> tuple[tuple[float, ...], tuple[float, ...]]:
    expected = 'expected None, "imagenet" or (mean, std) of three finite numbers each, std above 0'
    pair = IMAGENET if normalize == "imagenet" else normalize
    try:
        mean, std = (tuple(float(value) for value in values) for values in pair)
    except (TypeError, ValueError):
        raise ValueError(f"normalize: got {normalize!r}, {expected}") from None
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError(f"normalize: got {normalize!r}, {expected}")
    return mean, std
