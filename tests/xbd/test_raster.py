"""Masks equal OpenCV's and the official targets, pixel for pixel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rarepixel as rp


def wkt_polygon(rings: list[list[tuple[float, float]]]) -> str:
    closed = ["(" + ", ".join(f"{x} {y}" for x, y in [*ring, ring[0]]) + ")" for ring in rings]
    return f"({', '.join(closed)})"


@st.composite
def drawings(draw: st.DrawFn) -> tuple[int, int, list[list[list[tuple[float, float]]]]]:
    """Height, width, and polygons of rings inside the image, where all versions of OpenCV agree."""
    height, width = draw(st.integers(2, 50)), draw(st.integers(2, 50))
    # 0.49 off the pixel: rounding is part of the rule; halves are tested apart.
    offset = st.sampled_from([0.0, 0.25, -0.3, 0.49])
    point = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), offset, offset)
    ring = st.lists(point, min_size=3, max_size=8).map(lambda ps: [(x + dx, y + dy) for x, y, dx, dy in ps])
    polygon = st.lists(ring, min_size=1, max_size=3)
    return height, width, draw(st.lists(polygon, min_size=1, max_size=3))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawing=drawings(), multi=st.booleans())
def test_equals_opencv(write_label, drawing, multi) -> None:
    height, width, polygons = drawing
    expected = np.zeros((height, width), np.uint8)
    for rings in polygons:
        cv2.fillPoly(expected, [np.array(ring).round().astype(np.int32) for ring in rings], 1)
    if multi:
        wkts = [f"MULTIPOLYGON ({', '.join(map(wkt_polygon, polygons))})"]
    else:
        wkts = [f"POLYGON {wkt_polygon(rings)}" for rings in polygons]
    mask = rp.xbd.rasterize_label(write_label(*wkts, size=(height, width)))
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("wkt", "pixels"),
    [
        ("POLYGON EMPTY", 0),
        ("MULTIPOLYGON EMPTY", 0),
        ("POLYGON ((2 2, 7 2, 7 5, 2 5, 2 2))", 6 * 4),
        ("POLYGON ((2 2, 7 2, 7 5, 2 5))", 6 * 4),  # not closed
        ("POLYGON Z ((2 2 9, 7 2 9, 7 5 9, 2 5 9, 2 2 9))", 6 * 4),
        ("POLYGON ((2 2, 7 2, 7 7, 2 7, 2 2), (3 3, 6 3, 6 6, 3 6, 3 3))", 36 - 4),
        ("MULTIPOLYGON (((2 2, 7 2, 7 5, 2 5, 2 2)), ((20 20, 21 20, 21 21, 20 21, 20 20)))", 6 * 4 + 4),
        ("POLYGON ((-7.3e-07 0, 3 0, 3 3, -7.3e-07 3, -7.3e-07 0))", 16),
        ("POLYGON ((-100 -100, 3 -100, 3 3, -100 3, -100 -100))", 16),
        ("POLYGON ((60 44, 64 44, 64 48, 60 48, 60 44))", 4 * 4),  # at the far edge, as xBD has it
        ("POLYGON ((100 100, 110 100, 110 110, 100 100))", 0),
        ("POLYGON ((-1e9 -1e9, 1e9 -1e9, 1e9 1e9, -1e9 1e9))", 48 * 64),
        ("POLYGON ((5 5, 5.2 5, 5.2 5.2, 5 5.2, 5 5))", 1),  # all corners on one pixel
    ],
)
def test_legal_geometries(write_label, wkt: str, pixels: int) -> None:
    assert (rp.xbd.rasterize_label(write_label(wkt)) == 1).sum() == pixels


@pytest.mark.parametrize(("choice", "value"), [("ignore", 255), ("no-damage", 1), ("background", 0)])
def test_un_classified(write_label, choice: str, value: int) -> None:
    path = write_label("POLYGON ((2 2, 7 2, 7 5, 2 5, 2 2))", subtype="un-classified")
    assert rp.xbd.rasterize_label(path, choice)[3, 3] == value
    assert rp.xbd.rasterize_label(path)[3, 3] == 255


def test_wrong_choice(write_label) -> None:
    expected = r'un_classified: got "skip", expected "ignore", "no-damage" or "background"'
    with pytest.raises(ValueError, match=expected):
        rp.xbd.rasterize_label(write_label("POLYGON EMPTY"), "skip")


def test_official_targets(real: Path) -> None:
    targets = sorted(real.glob("*/targets/*.png"))
    assert len(targets) == 4
    for path in targets:
        label = path.parents[1] / "labels" / path.name.replace("_target.png", ".json")
        mask = rp.xbd.rasterize_label(label, "no-damage")
        assert (mask != rp.xbd.read_target(path)).sum() == 0, path


def test_reference_masks(real: Path) -> None:
    references = sorted((real / "reference-masks/fillpoly-round-cv46").glob("*.png"))
    assert len(references) == 7
    for path in references:
        stem, _, uc255 = path.stem.partition("_target")
        (label,) = real.glob(f"*/labels/{stem}.json")
        mask = rp.xbd.rasterize_label(label, "ignore" if uc255 else "no-damage")
        assert (mask != rp.xbd.read_target(path)).sum() == 0, path


def test_read_label_gives_what_is_in_the_file(real: Path) -> None:
    for path in real.glob("*/labels/*.json"):
        raw = json.loads(path.read_text())
        label = rp.xbd.read_label(path)
        assert (label.height, label.width) == (raw["metadata"]["height"], raw["metadata"]["width"])
        assert label.phase == ("pre" if "_pre_" in path.name else "post")
        assert [feature.uid for feature in label.features] == [
            raw["properties"]["uid"] for raw in raw["features"]["xy"]
        ]
        for feature, entry in zip(label.features, raw["features"]["xy"], strict=True):
            assert feature.subtype == (entry["properties"].get("subtype") if label.phase == "post" else None)
            numbers = [float(number) for number in re.findall(r"[-+.\de]+", entry["wkt"])]
            np.testing.assert_array_equal(feature.polygons[0][0].ravel(), numbers)
