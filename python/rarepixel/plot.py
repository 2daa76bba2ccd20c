"""Pictures of damage maps, class mixes, gradients and training curves, each as a ``matplotlib.figure.Figure``.

matplotlib is imported when a picture is asked for, without pyplot: no window, no global state, nothing to close. Save a
figure with ``figure.savefig("file.png")``; a notebook shows it as it is. Curves use the colours of Okabe and Ito, which
colour-blind people can tell apart, and markers.

Damage is drawn in the usual colours of xBD, ``rp.xbd.CLASS_COLORS``, with a legend. Not all colour-blind readers can
tell them apart: the green of no damage and the red of destroyed look alike to many. For them, draw one class at a time
(``np.where(mask == 4, 4, 0)``), with its name in ``titles``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import is_tensor
from ._arrays import Array, readable
from .xbd import CLASS_COLORS, CLASS_NAMES, IGNORE_INDEX

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["class_mix", "damage_panel", "gradient_map", "loss_curves"]

IGNORED_COLOR = (128, 128, 128)
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
_MARKERS = "osD^vP*X"


def damage_panel(
    pre: Array,
    post: Array,
    truth: Array,
    prediction: Array | None = None,
    *,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Pre and post image beside the true and the predicted damage, one row for each sample, with a legend.

    Args:
        pre, post: images, (3, H, W), (H, W, 3) or a batch (N, ...) of them; uint8 or floats in [0, 1].
        truth: the mask, (H, W) or (N, H, W), classes 0 to 4; 255 (un-classified) is drawn gray.
        prediction: the predicted mask, drawn like `truth`; without it there are three columns.
        titles: one for each sample, such as the tile's name, written left of its row.

    Raises:
        ValueError: sizes that do not fit each other, nothing to draw, or a class that is not xBD's.
        TypeError: titles that are one text.
        ImportError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> import rarepixel as rp
        >>> image, mask = np.zeros((3, 64, 64), np.uint8), np.zeros((64, 64), np.uint8)
        >>> mask[10:20, 10:20] = 4
        >>> figure = rp.plot.damage_panel(image, image, truth=mask)
        >>> [axes.get_title() for axes in figure.axes]
        ['pre', 'post', 'truth']
    """
    masks = {"truth": _masks("truth", truth)}
    if prediction is not None:
        masks["prediction"] = _masks("prediction", prediction)
    images = {"pre": _images("pre", pre), "post": _images("post", post)}
    expected = masks["truth"].shape
    for name, array in (images | masks).items():
        if array.shape[:3] != expected:
            raise ValueError(f"{name}: got {_size(array.shape)}, expected {_size(expected)}, as truth")
    if isinstance(titles, str):
        raise TypeError(f"titles: got {titles!r}, expected a sequence of {expected[0]} texts, one for each sample")
    if titles is not None and len(titles) != expected[0]:
        raise ValueError(f"titles: got {len(titles)}, expected {expected[0]}, one for each sample")

    rows, columns = expected[0], len(images) + len(masks)
    figure = _figure(2.6 * columns, 2.6 * rows * expected[1] / expected[2] + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for column, (name, array) in enumerate((images | masks).items()):
        grid[0, column].set_title(name)
        for row in range(rows):
            pixels = _paint(array[row]) if name in masks else array[row]
            grid[row, column].imshow(pixels, interpolation="nearest")
            grid[row, column].set(xticks=[], yticks=[])
    for row, title in enumerate(titles or []):
        grid[row, 0].set_ylabel(title, fontsize="small")
    ignored = any((mask == IGNORE_INDEX).any() for mask in masks.values())
    _damage_legend(figure, ignored)
    return figure


def class_mix(counts: Array | Sequence[int]) -> Figure:
    """How many pixels each class has, as bars on a logarithmic axis with the share written beside them.

    Args:
        counts: pixels of the five xBD classes, as ``rp.xbd.pixel_counts`` gives them.

    Raises:
        ValueError: not five counts, or one that is negative or not finite.
        ImportError: matplotlib is not installed.

    Example:
        >>> import rarepixel as rp
        >>> figure = rp.plot.class_mix([96_000, 2_700, 100, 100, 100])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['96.97 %', '2.73 %', '0.10 %', '0.10 %', '0.10 %']
    """
    pixels = _numpy("counts", counts)
    if pixels.shape != (len(CLASS_NAMES),):
        raise ValueError(f"counts: got shape {pixels.shape}, expected ({len(CLASS_NAMES)},), one for each xBD class")
    if pixels.dtype.kind not in "iuf" or not (np.isfinite(pixels) & (pixels >= 0)).all():
        raise ValueError(f"counts: got {pixels.tolist()}, expected finite numbers of at least 0")
    figure = _figure(7, 2.8)
    axes = figure.subplots()
    axes.barh(CLASS_NAMES, pixels, color=_unit_colors()[:-1], edgecolor="black", linewidth=0.8)
    shares = 100 * pixels / max(pixels.sum(), 1)
    for row, (count, share) in enumerate(zip(pixels, shares, strict=True)):
        # Where the bar ends, or would begin: on a logarithmic axis a bar of 0 is nowhere.
        end = (max(count, 1), row)
        axes.annotate(f"{share:.2f} %", end, xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(1, max(pixels.max(), 10) ** 1.2)  # a sixth of the logarithmic axis for the label of the longest
    axes.set_xscale("log")
    axes.invert_yaxis()  # background on top, as in every table
    axes.set_xlabel("pixels (logarithmic)")
    axes.set_ylabel("class")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def gradient_map(gradients: Mapping[str, Array], truth: Array) -> Figure:
    """Where each loss looks: how much of its gradient lies on each pixel, and how much on buildings.

    A pixel's part of the gradient is the sum over the classes of abs(dL/dz), drawn as a multiple of the loss's own mean
    over the pixels (1: no more than an average pixel; 100: a hundred times as much), on one logarithmic colour scale
    for all losses. So losses of different size can be compared. The first panel is the truth.

    Args:
        gradients: for each loss by name, dL/dz of one image, (C, H, W) or (1, C, H, W).
        truth: the mask, (H, W) or (1, H, W), classes 0 to 4; 255 is ignored and drawn gray.

    Raises:
        ValueError: no gradient, one that is not finite, or sizes that do not fit each other.
        TypeError: gradients without names.
        ImportError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> import rarepixel as rp
        >>> logits, mask = np.zeros((1, 5, 8, 8), np.float32), np.zeros((1, 8, 8), np.uint8)
        >>> mask[0, 2:4, 2:4] = 4
        >>> gradient = rp.numpy.cross_entropy(logits, mask, weight=[1, 5, 20, 20, 20])[1]
        >>> figure = rp.plot.gradient_map({"weighted CE": gradient}, mask)
        >>> figure.axes[1].get_title(), figure.axes[1].get_xlabel()
        ('weighted CE', '57 % on buildings')
    """
    if not isinstance(gradients, Mapping):
        got = type(gradients).__name__
        raise TypeError(f"gradients: got {got}, expected a mapping from the name of each loss to its gradient")
    mask = _masks("truth", truth)
    if mask.shape[0] != 1 or not gradients:
        raise ValueError(f"gradients: got {len(gradients)} for {mask.shape[0]} masks, expected some, for one mask")
    building = (mask[0] != 0) & (mask[0] != IGNORE_INDEX)
    parts = {name: _gradient_sizes(f"gradients[{name!r}]", array, building.shape) for name, array in gradients.items()}
    relative = {name: part / max(part.mean(), np.finfo(np.float64).tiny) for name, part in parts.items()}

    figure = _figure(2.6 * (1 + len(parts)) + 0.8, 2.6 * building.shape[0] / building.shape[1] + 0.9)
    from matplotlib.colors import LogNorm  # after _figure, which says how to get matplotlib

    grid = figure.subplots(1, 1 + len(parts))
    grid[0].imshow(_paint(mask[0]), interpolation="nearest")
    grid[0].set(title="truth", xticks=[], yticks=[])
    # Clipped, so that pixels without a gradient have the lowest colour and not none.
    norm = LogNorm(0.01, max(10.0, *(part.max() for part in relative.values())), clip=True)
    for axes, (name, part) in zip(grid[1:], relative.items(), strict=True):
        drawn = axes.imshow(part, norm=norm, cmap="cividis", interpolation="nearest")
        share = 100 * part[building].sum() / max(part.sum(), np.finfo(np.float64).tiny)
        axes.set(title=name, xlabel=f"{share:.0f} % on buildings", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=grid[1:], label="times the mean pixel", shrink=0.9)
    _damage_legend(figure, bool((mask == IGNORE_INDEX).any()))
    return figure


def loss_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss over the epochs, and beside it the Dice of each class and the xView2 score where the history has them.

    Args:
        history: one mapping for each epoch, for example the rows of the demo's ``history.csv``, with ``epoch`` and
            any of ``train_loss``, ``validation_loss``, either followed by ``_<part>`` for a part of it, such as
            ``train_loss_1/8``, ``xview2_score`` and ``dice_<class name>``. Text is read as numbers; nan leaves a gap.

    Raises:
        ValueError: no epoch, no loss in it, a row that lacks a column of the first, or text that is no number.
        ImportError: matplotlib is not installed.

    Example:
        >>> import rarepixel as rp
        >>> history = [{"epoch": 1, "train_loss": 0.9}, {"epoch": 2, "train_loss": 0.6}]
        >>> figure = rp.plot.loss_curves(history)
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.9, 0.6]
    """
    names = list(history[0]) if history else []
    losses = [name for name in names if re.fullmatch("(train|validation)_loss(_.+)?", name)]
    scores = [name for name in names if name.startswith("dice_") or name == "xview2_score"]
    if "epoch" not in names or not losses:
        raise ValueError(f"history: got columns {names}, expected epoch and train_loss or validation_loss")
    columns = {name: _column(history, name) for name in ["epoch", *losses, *scores]}

    figure = _figure(13 if scores else 7, 4)
    grid = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    _lines(grid[0], columns, losses, "loss")
    if not any(value < 0 for name in losses for value in columns[name]):
        grid[0].set_ylim(bottom=0)
    if scores:
        _lines(grid[1], columns, scores, "validation score")
        grid[1].set_ylim(0, 1)
    return figure


def _column(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The numbers of that name, one of each row."""
    numbers = []
    for index, row in enumerate(history):
        if name not in row:
            raise ValueError(
                f"history: got row {index} without {name}, which row 0 has; expected the same columns in all"
            )
        try:
            numbers.append(float(row[name]))
        except (TypeError, ValueError):
            raise ValueError(f"history: got {name} {row[name]!r} in row {index}, expected a number") from None
    return numbers


def _lines(axes: Axes, columns: Mapping[str, Sequence[float]], names: Sequence[str], label: str) -> None:
    """One line for each name over the epochs, told apart by colour and marker."""
    epochs = columns["epoch"]
    for index, name in enumerate(names):
        axes.plot(
            epochs,
            columns[name],
            label=name.replace("_", " ").replace("dice", "Dice").replace("xview2", "xView2"),
            color=_OKABE_ITO[index % len(_OKABE_ITO)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xticks(epochs[:: max(1, math.ceil(len(epochs) / 12))])
    axes.grid(alpha=0.3)
    axes.legend(
        frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1)
    )  # beside the lines, not on them
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError('rarepixel.plot needs matplotlib: pip install "rarepixel[demo]"') from error
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _damage_legend(figure: Figure, ignored: bool) -> None:
    """The classes' colours below the panels, in as few rows as the figure is wide enough for."""
    from matplotlib.patches import Patch

    names = [*CLASS_NAMES, "un-classified (ignored)"] if ignored else CLASS_NAMES
    patches = [
        Patch(facecolor=color, edgecolor="black", linewidth=0.5, label=name)
        for name, color in zip(names, _unit_colors(), strict=False)
    ]
    for rows in range(1, len(patches) + 1):
        columns = math.ceil(len(patches) / rows)
        legend = figure.legend(
            handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
        )
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    # The first row has its room already; the panels keep theirs.
    figure.set_figheight(figure.get_figheight() + extent.height * (rows - 1) / rows / figure.dpi)


def _unit_colors() -> list[tuple[float, float, float]]:
    """The classes' colours as matplotlib takes them, and last that of ignored pixels."""
    return [(red / 255, green / 255, blue / 255) for red, green, blue in (*CLASS_COLORS, IGNORED_COLOR)]


def _paint(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask (H, W) in the classes' colours, (H, W, 3)."""
    palette = np.array([*CLASS_COLORS, IGNORED_COLOR], dtype=np.uint8)
    return palette[np.where(mask == IGNORE_INDEX, len(CLASS_COLORS), mask)]


def _images(name: str, array: Array) -> NDArray[Any]:
    """Images as (N, H, W, 3)."""
    images = _numpy(name, array)
    if images.ndim not in (3, 4) or 3 not in (images.shape[-1], images.shape[-3]):
        raise ValueError(f"{name}: got shape {images.shape}, expected (3, H, W), (H, W, 3) or a batch of them")
    if images.shape[-3] == 3:
        images = np.moveaxis(images, -3, -1)
    if images.dtype != np.uint8 and not (images.min(initial=0) >= 0 and images.max(initial=0) <= 1):
        raise ValueError(
            f"{name}: got {images.dtype} from {images.min()} to {images.max()}, expected uint8 or floats in [0, 1]"
        )
    return images.reshape(-1, *images.shape[-3:])


def _masks(name: str, array: Array) -> NDArray[Any]:
    """Masks as (N, H, W)."""
    masks = _numpy(name, array)
    if masks.ndim not in (2, 3) or masks.dtype.kind not in "iub":
        raise ValueError(f"{name}: got shape {masks.shape} of {masks.dtype}, expected (H, W) or (N, H, W) of integers")
    wrong = masks[((masks < 0) | (masks >= len(CLASS_NAMES))) & (masks != IGNORE_INDEX)]
    if wrong.size:
        raise ValueError(f"{name}: got class {wrong[0]}, expected 0 to {len(CLASS_NAMES) - 1} or {IGNORE_INDEX}")
    return masks.reshape(-1, *masks.shape[-2:])


def _gradient_sizes(name: str, array: Array, size: tuple[int, ...]) -> NDArray[np.float64]:
    """The sum over the classes of abs(dL/dz), (H, W)."""
    gradient = _numpy(name, array).astype(np.float64)
    gradient = gradient[0] if gradient.ndim == 4 and gradient.shape[0] == 1 else gradient
    if gradient.ndim != 3 or gradient.shape[1:] != size:
        raise ValueError(f"{name}: got shape {gradient.shape}, expected (C, {size[0]}, {size[1]}), as truth")
    if not np.isfinite(gradient).all():
        raise ValueError(f"{name}: got nan or inf, expected finite numbers")
    sizes: NDArray[np.float64] = np.abs(gradient).sum(0)
    return sizes


def _numpy(name: str, array: Any) -> NDArray[Any]:
    """An array with something in it."""
    if is_tensor(array):
        array = readable(name, array).resolve_neg()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array  # which NumPy does not have
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {type(array).__name__}, expected an array without a mask")
    values = np.asarray(array)
    if not values.size:
        raise ValueError(f"{name}: got shape {values.shape}, expected at least one element")
    return values


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} of {shape[1]} x {shape[2]}"
