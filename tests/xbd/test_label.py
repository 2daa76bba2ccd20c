"""Label files that are broken: an error that names the file, the building and the value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rarepixel as rp

SQUARE = "POLYGON ((2 2, 7 2, 7 5, 2 5, 2 2))"


@pytest.mark.parametrize(
    ("wkt", "message"),
    [
        ("", "got the end of the text at byte 0, expected POLYGON or MULTIPOLYGON"),
        ("POINT (1 1)", "got `POINT` at byte 0, expected POLYGON or MULTIPOLYGON"),
        ("POLYGON ((nan 2, 7 2, 7 5))", "got `nan` at byte 10, expected a finite coordinate"),
        ("POLYGON ((2 inf, 7 2, 7 5))", "got `inf` at byte 12, expected a finite coordinate"),
        ("POLYGON ((2 2, 1e300 2, 7 5))", "got `1e300` at byte 15, expected a finite coordinate of at most 1073741824"),
        ("POLYGON ((2 2, 7 2))", "got a ring of 2 points at byte 9, expected 3 or more"),
        ("POLYGON ((2 2, 7 2, 7 5", "got the end of the text at byte 23, expected `,` or `)`"),
        (SQUARE + ", " + SQUARE, "got `,` at byte 35, expected the end of the text"),
        ("GEOMETRYCOLLECTION (" * 100_000, "got `GEOMETRYCOLLECTION` at byte 0, expected POLYGON or MULTIPOLYGON"),
    ],
)
def test_broken_geometry(write_label, wkt: str, message: str) -> None:
    path = write_label(SQUARE, wkt)
    for read in (rp.xbd.read_label, rp.xbd.rasterize_label):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is checked
            read(path)
        assert str(caught.value).startswith(f"{path}: feature uid-1: wkt: {message}")


def test_unknown_subtype(write_label) -> None:
    path = write_label(SQUARE, subtype="melted")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is checked
        rp.xbd.rasterize_label(path)
    expected = "no-damage, minor-damage, major-damage, destroyed, un-classified"
    assert str(caught.value) == f'{path}: feature uid-0: subtype: got "melted", expected one of {expected}'


def test_pre_files_have_no_damage(write_label) -> None:
    assert rp.xbd.rasterize_label(write_label(SQUARE, subtype="destroyed", name="made_1_pre_disaster")).max() == 1
    assert rp.xbd.read_label(write_label(SQUARE, subtype=None, name="made_1_pre_disaster")).features[0].subtype is None
    with pytest.raises(ValueError, match=r"made_1_post_disaster\.json: feature uid-0: subtype: got none, expected"):
        rp.xbd.rasterize_label(write_label(SQUARE, subtype=None))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"features": {"xy": []}}',
        '{"features": {"xy": []}, "metadata": {"width": -1, "height": 5}}',
        '{"features": {"xy": []}, "metadata": {"width": 1e30, "height": 5}}',
        '{"features": {"xy": [{"wkt": "POLYGON EMPTY"}]}, "metadata": {"width": 5, "height": 5}}',
        '{"features": {"xy": []}, "metadata": {"width": 5, "height": 5}} {}',
        "[" * 200_000,
        '{"features": {"xy": [], "deep": ' + "[" * 200_000,
        '{"features": ' * 200_000,
        "\ufeff{}",
    ],
    ids=lambda text: text[:40],
)
def test_broken_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken_1_post_disaster.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"broken_1_post_disaster\.json: not a label file in the xBD format: .+ at line 1"
    ):
        rp.xbd.read_label(path)


def test_broken_bytes(write_label) -> None:
    path = write_label(SQUARE)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"made_1_post_disaster\.json: not a label file"):
            rp.xbd.read_label(path)
    path.write_bytes(b"\xff\xfe" + whole)
    with pytest.raises(ValueError, match=r"made_1_post_disaster\.json: not a label file"):
        rp.xbd.read_label(path)


def test_sizes_are_limited(write_label) -> None:
    with pytest.raises(ValueError, match="100000 x 100000 = 10000000000 pixels, more than max_pixels = 67108864"):
        rp.xbd.rasterize_label(write_label(SQUARE, size=(100_000, 100_000)))
    with pytest.raises(ValueError, match="0 x 5 pixels, expected at least 1 x 1"):
        rp.xbd.rasterize_label(write_label(SQUARE, size=(5, 0)))
    path = write_label(SQUARE)
    with path.open("ab") as file:
        file.write(b" " * (16 << 20))
    with pytest.raises(ValueError, match=r"more than 16777216 bytes, too large for a label file"):
        rp.xbd.read_label(path)


def test_extra_keys_are_ignored(write_label) -> None:
    path = write_label(SQUARE)
    content = json.loads(path.read_text())
    content["extra"] = {"deep": [1, {"a": None}]}
    content["metadata"]["gsd"] = 2.5
    content["features"]["xy"][0]["properties"]["note"] = "ü"
    path.write_text(json.dumps(content))
    assert rp.xbd.rasterize_label(path).sum() == 24
