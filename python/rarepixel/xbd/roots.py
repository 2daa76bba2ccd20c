"""What is done to a root as a whole: checking it, writing its missing targets, packing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rarepixel import _core

from .._arguments import integer
from . import MAX_PIXELS, Problem, StrPath, UnClassified, _found, _of_disasters, _split_names

__all__ = ["check", "pack", "write_targets"]


def check(
    root: StrPath,
    splits: Sequence[str] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], object] | None = None,
) -> tuple[int, tuple[Problem, ...]]:
    """Reads everything of a root once, to say what is wrong with it before a training does.

    Every image is decoded to its end, every label parsed, every target read, and their sizes are compared; a label of
    the other half, or a building that reaches more than an image's size beyond its image, is a problem too. A pack is
    read with all its checksums.

    Args:
        root, splits: as for :func:`rarepixel.xbd.index`, whose problems are among those returned.
        max_pixels: larger images are problems.
        progress: called with 1 after each tile, on this thread; Ctrl-C works either way.

    Returns:
        The number of tiles, and the problems by path.

    Raises:
        OSError, ValueError: as for :func:`rarepixel.xbd.index`.

    >>> import tempfile
    >>> import rarepixel as rp
    >>> root = tempfile.mkdtemp()
    >>> rp.xbd.synthesize(root, tiles=2, size=64)
    >>> check(root)
    (2, ())
    """
    tiles, problems = _core.xbd_check(root, _split_names(splits), integer("max_pixels", max_pixels, 0), progress)
    return tiles, tuple(Problem(*problem) for problem in problems)


def write_targets(
    root: StrPath,
    splits: Sequence[str] | None = None,
    un_classified: UnClassified = "ignore",
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], object] | None = None,
) -> tuple[int, int]:
    """Writes the targets that tiles lack (tier3 ships none), pre and post, drawn from their labels.

    They are what :func:`rarepixel.xbd.rasterize_label` gives, as 8-bit gray PNGs in ``<split>/targets``. Those that are
    there stay as they are. Files appear when they are whole; call it again to go on after an interruption. The loader
    draws missing masks by itself: this is for other programs.

    Args:
        root, splits: as for :func:`rarepixel.xbd.index`. Incomplete tiles are left out, with a warning.
        un_classified: as for :func:`rarepixel.xbd.rasterize_label`.
        max_pixels: larger masks are refused.
        progress: called with 1 after each tile, on this thread; Ctrl-C works either way.

    Returns:
        How many targets were written, and how many were there.

    Raises:
        OSError, ValueError: of the first label that cannot be read or target that cannot be written.

    >>> import shutil, tempfile
    >>> import rarepixel as rp
    >>> root = tempfile.mkdtemp()
    >>> rp.xbd.synthesize(root, tiles=2, size=64)
    >>> shutil.rmtree(root + "/train/targets")
    >>> write_targets(root)
    (4, 0)
    """
    max_pixels, splits = integer("max_pixels", max_pixels, 0), _split_names(splits)
    _found(root, splits)
    return _core.xbd_write_targets(root, splits, un_classified, max_pixels, progress)


def pack(
    root: StrPath,
    out: StrPath,
    splits: Sequence[str] | None = None,
    *,
    disasters: Iterable[str] | None = None,
    exclude_disasters: Iterable[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], object] | None = None,
) -> tuple[int, int]:
    """Writes decoded tiles, from which crops are read without decoding: give ``out`` to
    :class:`rarepixel.xbd.XBDLoader` as its root.

    A pack takes about 7.3 MB for a tile of 1,024 pixels (two images and a mask, a byte a value). It is one safetensors
    file for each tile, with ``pre`` and ``post`` (3, H, W), ``mask`` (H, W) and checksums, and a list, ``pack.json``,
    that is written last. Every row that is read is checked, so a damaged file is an error and never a wrong mask.

    Call it again to go on after an interruption, or after labels have changed: tiles that are there, whole and of the
    same sources (by length and time of change), are kept. Until then :func:`rarepixel.xbd.index` (and so the loader,
    with a warning) tells which sources have changed. Files appear when they are whole; a second process that packs into
    the same folder is refused. Other splits and disasters of the same root may be added
    later.

    Args:
        root: a folder in the official layout, see :mod:`rarepixel.xbd`. Incomplete tiles are left out, with a warning.
        out: the folder to write to; made where it is not there.
        splits: names of splits; by default all.
        disasters: only tiles of these disasters, such as ``["joplin-tornado"]``.
        exclude_disasters: no tiles of these. What the pack has of other disasters stays in it.
        max_pixels: larger images are refused.
        progress: called with 1 after each tile, on this thread; Ctrl-C works either way.

    Returns:
        How many tiles were written, and how many kept.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a split or disaster that is not there; no tile is complete; a tile is damaged; or ``out`` is in use
            by another process or holds tiles of another root.

    >>> import tempfile
    >>> import rarepixel as rp
    >>> root, out = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> rp.xbd.synthesize(root, tiles=8, size=64)
    >>> pack(root, out)
    (8, 0)
    >>> pack(root, out)
    (0, 8)
    >>> len(rp.xbd.index(out).tiles)
    8
    """
    max_pixels, splits = integer("max_pixels", max_pixels, 0), _split_names(splits)
    chosen = _of_disasters(root, _found(root, splits), disasters, exclude_disasters)
    names = None
    if disasters is not None or exclude_disasters is not None:
        names = sorted({tile.disaster for tile in chosen})
    return _core.xbd_pack(root, splits, names, out, max_pixels, progress)
