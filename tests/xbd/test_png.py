"""Every kind of PNG: as Pillow reads it, or refused with the file's name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rarepixel as rp

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
KINDS = [(GRAY, d) for d in (1, 2, 4, 8, 16)] + [(PALETTE, d) for d in (1, 2, 4, 8)]
KINDS += [(color, depth) for color in (RGB, GRAY_ALPHA, RGBA) for depth in (8, 16)]


def draw_samples(color: int, depth: int, high: int | None = None) -> np.ndarray:
    shape = (13, 11) if CHANNELS[color] == 1 else (13, 11, CHANNELS[color])
    return np.random.default_rng(depth).integers(0, high or 2**depth, shape)


@pytest.mark.parametrize("surplus", [1, 2])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_palette_with_a_part_of_a_colour(
    tmp_path: Path, write_png: Callable[..., Path], surplus: int, interlaced: bool
) -> None:
    palette = np.zeros(3 + surplus, np.uint8)
    path = write_png(tmp_path / "image.png", np.zeros((4, 4)), PALETTE, 8, palette, interlaced=interlaced)
    for read in (rp.xbd.read_image, rp.xbd.read_target):
        with pytest.raises(ValueError, match=rf"image\.png: a palette of {3 + surplus} bytes, expected three for each"):
            read(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "depth"), KINDS)
def test_images(tmp_path: Path, write_png: Callable[..., Path], color: int, depth: int, interlaced: bool) -> None:
    samples = draw_samples(color, depth)
    palette = np.random.default_rng(0).integers(0, 256, (2**depth, 3)) if color == PALETTE else None
    path = write_png(tmp_path / "image.png", samples, color, depth, palette, interlaced=interlaced)
    if color == PALETTE:
        expected = palette[samples]
    else:
        # To 8 bits: the upper byte of 16, and 0 to 255 of less.
        scaled = samples >> 8 if depth == 16 else samples * (255 // (2**depth - 1))
        scaled = scaled.reshape(13, 11, -1)
        expected = scaled[..., :3] if color in (RGB, RGBA) else scaled[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(rp.xbd.read_image(path), expected)
    if depth <= 8:
        np.testing.assert_array_equal(np.array(Image.open(path).convert("RGB")), expected)


@pytest.mark.parametrize(
    ("color", "transparency"), [(GRAY, b"\0\3"), (RGB, b"\0\0\0\0\0\0"), (PALETTE, bytes(range(16)))], ids=str
)
def test_transparency_is_dropped(tmp_path: Path, write_png, color: int, transparency: bytes) -> None:
    samples = draw_samples(color, 8, high=16)
    palette = np.arange(16 * 3).reshape(16, 3) if color == PALETTE else None
    plain = write_png(tmp_path / "plain.png", samples, color, palette=palette)
    clear = write_png(tmp_path / "clear.png", samples, color, palette=palette, transparency=transparency)
    assert rp.xbd.read_image(clear).shape == (13, 11, 3)
    np.testing.assert_array_equal(rp.xbd.read_image(clear), rp.xbd.read_image(plain))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "depth"), [kind for kind in KINDS if kind[1] <= 8])
def test_targets_are_indices(tmp_path: Path, write_png, color: int, depth: int, interlaced: bool) -> None:
    classes = draw_samples(GRAY, depth, high=min(2**depth, 5))
    if depth == 8:
        classes[0, 0] = 255
    samples = classes if CHANNELS[color] == 1 else classes[..., None].repeat(CHANNELS[color], axis=2)
    palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3)) if color == PALETTE else None
    path = write_png(tmp_path / "target.png", samples, color, depth, palette, interlaced=interlaced)
    target = rp.xbd.read_target(path)
    assert target.dtype == np.uint8
    np.testing.assert_array_equal(target, classes)


def test_targets_that_are_none(tmp_path: Path, write_png) -> None:
    path = tmp_path / "wrong.png"
    write_png(path, [[0, 1], [4, 7]], GRAY)
    with pytest.raises(ValueError, match=r"wrong\.png: pixel \(1, 1\) is 7, expected a class index 0 to 4, or 255"):
        rp.xbd.read_target(path)
    write_png(path, [[[0, 0, 0], [0, 255, 0]]], RGB)
    with pytest.raises(ValueError, match=r"wrong\.png: pixel \(0, 1\) is \[0, 255, 0\], expected three equal channels"):
        rp.xbd.read_target(path)
    write_png(path, [[0, 1]], GRAY, 16)
    with pytest.raises(ValueError, match=r"wrong\.png: Grayscale with 16 bits, expected a target of at most 8 bits"):
        rp.xbd.read_target(path)


def test_max_pixels(tmp_path: Path, write_png) -> None:
    path = write_png(tmp_path / "large.png", np.zeros((20, 30)), GRAY)
    for read in (rp.xbd.read_image, rp.xbd.read_target):
        assert read(path, max_pixels=600).shape[:2] == (20, 30)
        with pytest.raises(ValueError, match=r"large\.png: 30 x 20 = 600 pixels, more than max_pixels = 599"):
            read(path, max_pixels=599)
        with pytest.raises(ValueError, match="max_pixels: got -1, expected 0 to"):
            read(path, max_pixels=-1)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        rp.xbd.read_image(tmp_path / "absent.png")
    assert caught.value.filename == str(tmp_path / "absent.png")
    with pytest.raises(IsADirectoryError):
        rp.xbd.read_target(tmp_path)


def test_data_behind_the_last_row_takes_no_memory(tmp_path: Path, write_png) -> None:
    """8 x 8 pixels, then 1 GiB of zeros in the same stream, 1 MB deflated: pixels or an error, without the 1 GiB."""
    path = write_png(tmp_path / "bomb.png", np.ones((8, 8)), GRAY)
    deflate = zlib.compressobj(9)
    rows = deflate.compress(b"".join(b"\0" + b"\1" * 8 for _ in range(8)))
    rows += b"".join(deflate.compress(bytes(1 << 20)) for _ in range(1024)) + deflate.flush()
    original = path.read_bytes()
    start = original.index(b"IDAT") - 4
    body = len(rows).to_bytes(4, "big") + b"IDAT" + rows + zlib.crc32(b"IDAT" + rows).to_bytes(4, "big")
    path.write_bytes(original[:start] + body + original[original.index(b"IEND") - 4 :])
    code = """if True:
        import resource, sys, rarepixel as rp
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            assert (rp.xbd.read_target(sys.argv[1]) == 1).all()
        except ValueError as error:
            assert "bomb.png" in str(error)
        """
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_the_gil_is_released(tmp_path: Path, write_label) -> None:
    """A read that waits for a pipe must let this thread run, which fills the pipe; holding the GIL would stop both."""
    label = write_label("POLYGON ((2 2, 7 2, 7 5, 2 5, 2 2))").read_bytes()
    pipe = tmp_path / "pipe_1_post_disaster.json"
    os.mkfifo(pipe)
    masks: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: masks.append(rp.xbd.rasterize_label(pipe)), daemon=True)
    thread.start()
    with pipe.open("wb") as writer:
        writer.write(label)
    thread.join(60)
    assert masks[0].sum() == 24


def test_real_images(real: Path) -> None:
    images = sorted(real.glob("*/images/*.png"))
    assert len(images) == 10
    for path in images:
        np.testing.assert_array_equal(rp.xbd.read_image(path), np.array(Image.open(path).convert("RGB")))


def test_real_palette_targets(real: Path) -> None:
    targets = sorted((real / "reference-masks/fillpoly-trunc-dahitra").glob("*.png"))
    assert len(targets) == 2
    for path in targets:
        image = Image.open(path)
        assert image.mode == "P"
        np.testing.assert_array_equal(rp.xbd.read_target(path), np.array(image))


def test_damaged_real_files(real: Path, tmp_path: Path) -> None:
    original = (real / "train/images/guatemala-volcano_00000016_pre_disaster.png").read_bytes()
    whole = rp.xbd.read_image(real / "train/images/guatemala-volcano_00000016_pre_disaster.png")
    path = tmp_path / "damaged.png"
    random = np.random.default_rng(0)
    for _ in range(20):
        path.write_bytes(original[: random.integers(0, len(original))])
        with pytest.raises(ValueError, match=r"damaged\.png: "):
            rp.xbd.read_image(path)
        flipped = bytearray(original)
        flipped[random.integers(0, len(original))] ^= 1 << random.integers(0, 8)
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(rp.xbd.read_image(path), whole)
        except ValueError as error:
            assert "damaged.png: " in str(error)  # noqa: PT017 - either outcome is right
