"""The table's libraries as bars: time and extra memory of forward + backward, on log scales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from report import Measurement
from sections import TRAINING

# Okabe and Ito's palette, which colour-blind people can tell apart.
COLOURS = {
    "rarepixel, uint8 target": "#56B4E9",
    "rarepixel": "#0072B2",
    "torch": "#D55E00",
    "torch.compile": "#E69F00",
    "MONAI": "#009E73",
    "segmentation-models-pytorch": "#CC79A7",
    "kornia": "#999999",
}


def draw(measurements: Sequence[Measurement], cpu: str, path: Path) -> None:
    """Write the picture; its format goes by the ending of the name. An SVG has the same bytes each time."""
    found = [one for one in measurements if one.section == "libraries" and one.pass_ == TRAINING]
    if not found:
        raise ValueError('picture: needs the measurements of section "libraries"')
    times = {(one.case, one.contender): one.p50_ms for one in found}
    memory = {(one.case, one.contender): one.extra_memory for one in found if one.extra_memory}
    panels = [("ms, median", times, "{:.3g}")]
    if memory:  # not every system tells
        panels.append(("extra memory at the peak,\nmultiples of the logits", memory, "{:.1f}"))
    figure, axes = plt.subplots(len(panels), 1, figsize=(10, 3.75 * len(panels)), layout="constrained", squeeze=False)
    for ax, (label, values, number) in zip(axes[:, 0], panels, strict=True):
        _bars(ax, values, number)
        ax.set_ylabel(label)
    one = found[0]
    batch = f"logits ({one.shape.replace(' x ', ', ')}) {one.dtype}"
    axes[0, 0].set_title(f"Forward + backward, {batch}, {one.threads} threads, {cpu}", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rarepixel"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _bars(axes: Axes, values: dict[tuple[str, str], float], label: str) -> None:
    cases = list(dict.fromkeys(case for case, _ in values))
    width = 0.9 / len(COLOURS)
    for contender, colour in COLOURS.items():
        places, heights = [], []
        for x, case in enumerate(cases):
            here = [other for other in COLOURS if (case, other) in values]  # side by side, without gaps
            if contender in here:
                places.append(x + (here.index(contender) - (len(here) - 1) / 2) * width)
                heights.append(values[case, contender])
        if not places:
            continue
        bars = axes.bar(places, heights, width, color=colour, label=contender)
        axes.bar_label(bars, fmt=label, fontsize=7, padding=1)
    axes.set_xticks(range(len(cases)), cases)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.margins(x=0.01, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", which="major", alpha=0.3)
    axes.set_axisbelow(True)
