"""xBD tiles: finding, reading and drawing them, counting their classes, training on them, and making tiles like them.

xBD (Gupta et al. 2019, "xBD: A Dataset for Assessing Building Damage from Satellite Imagery") holds pairs of images
before and after a disaster, with a polygon and a damage grade for each building. A root is a folder in the official
layout::

    root/<split>/images/<disaster>_<number>_{pre,post}_disaster.png             (or .tif: the GeoTIFF release)
    root/<split>/labels/<disaster>_<number>_{pre,post}_disaster.json
    root/<split>/targets/<disaster>_<number>_{pre,post}_disaster_target.png     (optional)

:class:`XBDLoader` feeds a training; :class:`XBDDataset` is for torch's ``DataLoader`` and alone needs torch.

>>> import tempfile
>>> import rarepixel as rp
>>> root = tempfile.mkdtemp()
>>> rp.xbd.synthesize(root, tiles=2, seed=1, size=64)
>>> [tile.name for tile in rp.xbd.index(root).tiles]
['synthetic-flood_00000001', 'synthetic-wind_00000000']
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from rarepixel import _core

from .._arguments import integer

if TYPE_CHECKING:
    from .augment import Augment
    from .dataset import XBDDataset
    from .loader import Statistics, XBDLoader
    from .roots import check, pack, write_targets

__all__ = [
    "CLASS_COLORS",
    "CLASS_NAMES",
    "IGNORE_INDEX",
    "MAX_PIXELS",
    "Augment",
    "Feature",
    "Index",
    "Label",
    "Problem",
    "Statistics",
    "Tile",
    "TileFiles",
    "UnClassified",
    "XBDDataset",
    "XBDLoader",
    "check",
    "index",
    "pack",
    "pixel_counts",
    "rasterize_label",
    "read_image",
    "read_label",
    "read_target",
    "synthesize",
    "write_targets",
]

CLASS_NAMES: tuple[str, ...] = ("background", "no-damage", "minor-damage", "major-damage", "destroyed")
"""The classes of a mask, by index."""

CLASS_COLORS: tuple[tuple[int, int, int], ...] = ((0, 0, 0), (0, 128, 0), (0, 0, 255), (255, 165, 0), (255, 0, 0))
"""A colour (R, G, B) for each class: black, green, blue, orange and red, as torchgeo draws xView2."""

IGNORE_INDEX: int = 255
"""The value of mask pixels that count in no loss, metric or statistic."""

MAX_PIXELS: int = 64 << 20
"""Images of more pixels (67,108,864, which is 8,192 x 8,192) are refused unless ``max_pixels`` says otherwise."""

StrPath = str | os.PathLike[str]

UnClassified = Literal["ignore", "no-damage", "background"]
"""What a building of subtype un-classified becomes: 255, 1 or 0."""


@dataclass(frozen=True, slots=True)
class TileFiles:
    """The files of one half of a tile."""

    image: Path
    label: Path | None
    target: Path | None


@dataclass(frozen=True, slots=True)
class Tile:
    """The files of one tile, and what its name says."""

    split: str
    name: str
    disaster: str
    pre: TileFiles
    post: TileFiles


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is missing or does not belong, and why."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Index:
    """What :func:`index` found: complete tiles by split and name, and every problem by path."""

    tiles: tuple[Tile, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """One building of a label file.

    ``polygons`` holds, for each polygon, its rings as (N, 2) float64 arrays of (x, y) in pixels: the outer ring, then
    holes. ``subtype`` is None in pre files.
    """

    uid: str
    subtype: str | None
    polygons: tuple[tuple[npt.NDArray[np.float64], ...], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """A label file: "pre" or "post", the size of its image in pixels, and its buildings in file order."""

    phase: str
    height: int
    width: int
    features: tuple[Feature, ...]


def index(root: StrPath, splits: Sequence[str] | None = None) -> Index:
    """Finds the tiles of a root in the official layout.

    A tile is complete with both images and a label or target of the post half, from which the mask comes. Whatever is
    missing, and every image or JSON whose name does not fit, is reported in ``problems``.

    Args:
        root: the folder that holds the splits; or one written by :func:`pack`, where all paths of a tile are its one
            file, and sources that have changed since are problems.
        splits: their names, such as ``["train", "tier3"]``; by default every folder of ``root`` that has an
            ``images`` folder.

    Raises:
        OSError: ``root`` cannot be read.
        ValueError: a split is not there, there is none at all, or ``splits`` is empty.

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> found = index(root, splits=["train"])
    >>> found.tiles[0].disaster, found.tiles[0].post.image.name
    ('synthetic-fire', 'synthetic-fire_00000002_post_disaster.png')
    >>> found.problems
    ()
    """
    tiles, problems = _core.xbd_index(root, _split_names(splits))
    return Index(
        tuple(
            Tile(split, name, disaster, TileFiles(*pre), TileFiles(*post)) for split, name, disaster, pre, post in tiles
        ),
        tuple(Problem(*problem) for problem in problems),
    )


def read_image(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Reads a PNG, or by its extension a TIFF, as (H, W, 3) uint8 RGB.

    Gray becomes three equal channels, a palette its colours, 16 bits the upper 8. Alpha, tRNS (xBD's originals
    mark black as transparent) and further bands are dropped.

    Raises:
        OSError: the file cannot be read.
        ValueError: not a whole, valid PNG, or of more than ``max_pixels`` pixels (checked before memory is taken).

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> read_image(index(root).tiles[0].pre.image).shape
    (64, 64, 3)
    """
    return _core.xbd_read_image(path, integer("max_pixels", max_pixels, 0))


def read_target(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Reads a target PNG as (H, W) uint8 class indices.

    8-bit gray as in xBD; palette PNGs give their indices, whatever the colours; gray of 1, 2 or 4 bits is not scaled;
    RGB with three equal channels (re-saved targets) gives that value. A packed tile gives its mask, un-classified
    buildings ignored.

    Raises:
        OSError: the file cannot be read.
        ValueError: as for :func:`read_image`; or a pixel is neither 0 to 4 nor 255, or has unequal channels.

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> target = read_target(index(root).tiles[0].pre.target)
    >>> target.shape, target.dtype, target.max().item()
    ((64, 64), dtype('uint8'), 1)
    """
    return _core.xbd_read_target(path, integer("max_pixels", max_pixels, 0))


def read_label(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Label:
    """Reads a label file.

    Whether it is of before or after is told by its name, else by ``metadata.img_name``, else by whether any building
    has a subtype. POLYGON and MULTIPOLYGON, EMPTY, holes, Z and M are read; a ring that is not closed is closed by
    its first point.

    Raises:
        OSError: the file cannot be read.
        ValueError: not a label file, or of an image of more than ``max_pixels`` pixels; or a building (named by its
            uid) with an unknown subtype, or with a geometry that is broken, not finite, or more than 2^30 pixels away.

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> label = read_label(index(root).tiles[0].post.label)
    >>> label.phase, label.height, label.width, label.features[0].subtype
    ('post', 64, 64, 'major-damage')
    >>> label.features[0].polygons[0][0].shape  # an L: six corners, the first again
    (7, 2)
    """
    phase, height, width, features = _core.xbd_read_label(path, integer("max_pixels", max_pixels, 0))
    return Label(
        phase,
        height,
        width,
        tuple(Feature(uid, subtype, tuple(tuple(rings) for rings in polygons)) for uid, subtype, polygons in features),
    )


def rasterize_label(
    path: StrPath, un_classified: UnClassified = "ignore", *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Draws a label file as an (H, W) uint8 mask, pixel for pixel as the official targets are.

    The rule is that of OpenCV 4.6 ``fillPoly`` on coordinates rounded to the nearest integer (halves to even):
    outlines belong to the building, holes are even-odd, later buildings lie over earlier ones, what is outside the
    image is clipped. In a pre file every building is 1.

    Args:
        path: the JSON file.
        un_classified: what buildings of that subtype become: ``"ignore"`` (255), ``"no-damage"`` (1, as in the xView2
            challenge) or ``"background"`` (0).
        max_pixels: larger masks are refused.

    Raises:
        OSError, ValueError: as for :func:`read_label`.

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> tile = index(root).tiles[0]
    >>> np.array_equal(rasterize_label(tile.post.label), read_target(tile.post.target))
    True
    """
    return _core.xbd_rasterize_label(path, un_classified, integer("max_pixels", max_pixels, 0))


def pixel_counts(
    root: StrPath,
    splits: Sequence[str] | None = None,
    un_classified: UnClassified = "ignore",
    *,
    disasters: Iterable[str] | None = None,
    exclude_disasters: Iterable[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], object] | None = None,
) -> npt.NDArray[np.int64]:
    """Counts the pixels of each class over the post masks of a root.

    Masks come from ``targets`` where present, else from the labels. Pixels of 255 count for none. Give the counts to
    :func:`rarepixel.class_weights`.

    Args:
        root, splits: as for :func:`index`. Problems are warned of.
        un_classified: as for :func:`rasterize_label`; targets are taken as they are.
        disasters, exclude_disasters: only these, or all but these, such as ``["joplin-tornado"]``.
        max_pixels: larger masks are refused.
        progress: called with 1 after each tile, on this thread; Ctrl-C works either way.

    Returns:
        int64 array of 5 counts, in the order of :data:`CLASS_NAMES`.

    Raises:
        OSError, ValueError: of the first file that cannot be read; ValueError where no complete tile is found.

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> counts = pixel_counts(root)
    >>> counts.shape, counts.argmax().item()
    ((5,), 0)
    """
    tiles = _select(root, splits, disasters, exclude_disasters)
    return _count(tiles, un_classified, max_pixels, progress)


def synthesize(
    root: StrPath,
    tiles: int,
    seed: int = 0,
    size: int = 1024,
    *,
    split: str = "train",
    un_classified: float = 0.02,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes made-up tiles in the official layout: images, labels and targets of suburbs before and after a disaster.

    They need no licence and no download: the default data of ``rarepixel demo`` and of the tests. There are three
    disasters (synthetic-wind, -flood and -fire). A tile is a pure function of (seed, split, number, size,
    un_classified), the same on every machine. Over a set the class mix is as lopsided as xBD's: about 97 % background,
    2.7 % no damage, 0.1 % each of minor damage, major damage and destroyed; multiples of 8 tiles come closest. Houses
    shrink less than the tile does, so that small tiles (256) still show them.

    Args:
        root: the folder to write to; made where it is not there. Tiles of the same name are written anew, others kept.
        tiles: how many, at least 0.
        seed: 0 to 2^63 - 1.
        size: side of a tile in pixels, 32 to 4096.
        split: the folder under ``root``; other splits hold other tiles.
        un_classified: share of the undamaged buildings that are un-classified (under a cloud; 255 in targets), 0 to 1.
        progress: called with 1 after each tile, on this thread. Ctrl-C works either way, when the tiles at hand are
            done: for the largest that may take half a minute.

    Raises:
        OSError: a file cannot be written.
        ValueError: an argument out of its range.

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> synthesize(root, tiles=8, size=64)
    >>> sorted({tile.disaster for tile in index(root).tiles})
    ['synthetic-fire', 'synthetic-flood', 'synthetic-wind']
    """
    _core.xbd_synthesize(
        root,
        integer("tiles", tiles, 0),
        integer("seed", seed, 0),
        integer("size", size, 32, 4096),
        split,
        un_classified,
        progress,
    )


def _split_names(splits: Sequence[str] | None) -> list[str] | None:
    if isinstance(splits, str):
        raise TypeError(f"splits: got {splits!r}, expected a sequence of names such as [{splits!r}]")
    if splits is None:
        return None
    names = list(splits)
    if not names:
        raise ValueError(f"splits: got {splits!r}, expected at least one name, or None for all")
    return names


def _found(root: StrPath, splits: Sequence[str] | None, stacklevel: int = 3) -> Index:
    """What :func:`index` finds; problems of the root are warned of, where the caller's caller is by default."""
    found = index(root, splits)
    if found.problems:
        warnings.warn(
            f"{root}: {len(found.problems)} problems, the first: {found.problems[0]} "
            "(all: rarepixel.xbd.index(root).problems)",
            stacklevel=stacklevel,
        )
    return found


def _select(
    root: StrPath,
    splits: Sequence[str] | None,
    disasters: Iterable[str] | None,
    exclude_disasters: Iterable[str] | None,
) -> tuple[Tile, ...]:
    """The tiles of the disasters asked for; problems of the root are warned of."""
    return _of_disasters(root, _found(root, splits, stacklevel=4), disasters, exclude_disasters)


def _of_disasters(
    root: StrPath, found: Index, disasters: Iterable[str] | None, exclude_disasters: Iterable[str] | None
) -> tuple[Tile, ...]:
    if not found.tiles:
        problems = f" ({len(found.problems)} problems, the first: {found.problems[0]})" if found.problems else ""
        raise ValueError(f"{root}: no complete tile was found{problems}")
    known = {tile.disaster for tile in found.tiles}
    wanted = known if disasters is None else _names("disasters", disasters, known)
    if exclude_disasters is not None:
        wanted = wanted - _names("exclude_disasters", exclude_disasters, known)
    tiles = tuple(tile for tile in found.tiles if tile.disaster in wanted)
    if not tiles:
        raise ValueError(f"{root}: no tile is left of {len(found.tiles)}; its disasters are {', '.join(sorted(known))}")
    return tiles


def _listed(argument: str, names: Iterable[str] | None) -> list[str] | None:
    if isinstance(names, str):
        raise TypeError(f"{argument}: got {names!r}, expected names such as [{names!r}]")
    try:
        return None if names is None else list(names)
    except TypeError:
        raise TypeError(f"{argument}: got {names!r}, expected names of disasters") from None


def _names(argument: str, names: Iterable[str], known: set[str]) -> set[str]:
    names = set(_listed(argument, names) or ())
    if unknown := names - known:
        raise ValueError(f"{argument}: got {', '.join(sorted(unknown))}, expected some of {', '.join(sorted(known))}")
    return names


def _count(
    tiles: Iterable[Tile],
    un_classified: UnClassified,
    max_pixels: int,
    progress: Callable[[int], object] | None = None,
) -> npt.NDArray[np.int64]:
    masks = [(tile.post.target, tile.post.label) for tile in tiles]
    return _core.xbd_count_pixels(masks, un_classified, integer("max_pixels", max_pixels, 0), progress)


# Where the names live that use those above; XBDDataset needs torch.
_LAZY = {
    "Augment": "augment",
    "Statistics": "loader",
    "XBDDataset": "dataset",
    "XBDLoader": "loader",
    "check": "roots",
    "pack": "roots",
    "write_targets": "roots",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"rarepixel.xbd.{name} needs torch: pip install 'rarepixel[torch]'") from error
    globals()[name] = value
    return value
