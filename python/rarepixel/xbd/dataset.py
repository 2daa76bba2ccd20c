"""An xBD root as a torch ``Dataset``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from .._arguments import integer, whole_number
from . import MAX_PIXELS, StrPath, Tile, UnClassified, _count, _select
from ._feed import MeanStd, make_feed
from ._fixed import Fixed
from .augment import Augment

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class XBDDataset(Fixed, Dataset[Sample]):
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
        augment: an :class:`rarepixel.xbd.Augment`; True is ``Augment(flip_rotate=1.0)``.
        normalize: None for uint8; ``"imagenet"`` or a pair (mean, std) of three numbers each for float32
            ``(value / 255 - mean) / std``.
        un_classified: ``"ignore"`` (255), ``"no-damage"`` (1) or ``"background"`` (0), for masks drawn from labels.
        seed: 0 to 2^63 - 1.
        disasters: only tiles of these disasters, such as ``["joplin-tornado"]``.
        exclude_disasters: no tiles of these, for example to hold them out.
        max_pixels: larger images are refused.

    Attributes:
        tiles: the tiles, in the order of the indices. Neither they nor the arguments above can be set later; for some
            of the tiles there is :class:`torch.utils.data.Subset`.

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

    tiles: tuple[Tile, ...]

    def __init__(
        self,
        root: StrPath,
        splits: Sequence[str] | None = None,
        crop: int | None = None,
        augment: bool | Augment = False,
        normalize: Literal["imagenet"] | MeanStd | None = None,
        un_classified: UnClassified = "ignore",
        seed: int = 0,
        *,
        disasters: Iterable[str] | None = None,
        exclude_disasters: Iterable[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.crop = None if crop is None else integer("crop", crop, 1)
        self.augment = augment
        self.normalize = normalize
        self.un_classified = un_classified
        self.seed = integer("seed", seed, 0)
        self.max_pixels = integer("max_pixels", max_pixels, 0)
        self.tiles = _select(root, splits, disasters, exclude_disasters)
        # Whatever mode is on or device is the default: other threads and processes write to it.
        with torch.inference_mode(False):
            self._epoch = torch.zeros((), dtype=torch.int64, device="cpu")
        self._set_up()
        self._made = True

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Sample:
        index = whole_number("index", index)
        if not -len(self.tiles) <= index < len(self.tiles):
            raise IndexError(f"index: got {index}, expected one of {len(self.tiles)} tiles")
        index %= len(self.tiles)
        pre, post, mask = self._feed.read_sample(self.epoch, index)
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
        self._epoch.fill_(integer("epoch", epoch, 0))

    def pixel_counts(self) -> npt.NDArray[np.int64]:
        """Counts the pixels of each class over these tiles' masks, uncropped: :func:`rarepixel.xbd.pixel_counts`."""
        return _count(self.tiles, self.un_classified, self.max_pixels)

    def __copy__(self) -> XBDDataset:
        copied = type(self).__new__(type(self))
        copied.__setstate__({**self.__getstate__(), "_epoch": self._epoch.clone()})
        return copied

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_feed"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._set_up()

    def _set_up(self) -> None:
        """What a copy does not bring along."""
        options = (self.crop, self.augment, self.normalize, self.un_classified, self.max_pixels, self.seed)
        self._feed = make_feed(self.tiles, *options)
        # Worker processes must see the epoch change; a copy by value (copy.deepcopy, a plain pickle) has it in private
        # memory.
        if not self._epoch.is_shared():
            self._epoch.share_memory_()
