"""GeoTIFF images: as Pillow reads them, windows of them, and hostile bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rarepixel as rp

PIXELS = np.random.default_rng(0).integers(0, 40, (75, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images(tmp_path: Path, compression: str | None, channels: int) -> None:
    pixels = np.dstack([PIXELS[..., :1]] * 2 if channels < 3 else [PIXELS, PIXELS[..., :1]])[..., :channels].squeeze()
    path = tmp_path / "image.tif"
    Image.fromarray(pixels).save(path, compression=compression, tiffinfo={278: 16})  # rows per strip
    expected = PIXELS[..., [0, 0, 0]] if channels < 3 else PIXELS
    np.testing.assert_array_equal(rp.xbd.read_image(path), expected)


def test_16_bits_give_the_upper_8(tmp_path: Path) -> None:
    pixels = PIXELS[..., 0].astype(np.uint16) * 257
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    np.testing.assert_array_equal(rp.xbd.read_image(tmp_path / "deep.tif"), PIXELS[..., [0, 0, 0]])


def test_a_root_of_tiffs(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    for path in copy.glob("train/images/*.png"):
        Image.open(path).save(path.with_suffix(".tif"), compression="tiff_adobe_deflate", tiffinfo={278: 10})
        path.unlink()
    assert rp.xbd.index(copy).problems == ()
    for crop in (None, 33):
        first, second = (
            rp.xbd.XBDLoader(where, batch_size=8, crop=crop, augment=True, output="numpy") for where in (copy, root)
        )
        for one, other in zip(next(iter(first)), next(iter(second)), strict=True):
            np.testing.assert_array_equal(one, other)
    # Where both are there, the PNG is taken and the other is told of.
    name = rp.xbd.index(root).tiles[0].pre.image.name
    shutil.copy(root / "train/images" / name, copy / "train/images" / name)
    (problem,) = rp.xbd.index(copy).problems
    assert problem.path.name == name.replace(".png", ".tif")
    assert problem.message.startswith("not used: ")


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    Image.fromarray(PIXELS).save(path, compression="tiff_lzw", tiffinfo={278: 16})
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(300):
        path.write_bytes(whole[: random.integers(len(whole))])
        with pytest.raises(ValueError, match=r"damaged\.tif: "):
            rp.xbd.read_image(path)
        flipped = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            # Half of them in the header and the directory, which are at one of the ends.
            at = random.choice([random.integers(len(whole)), random.integers(8), len(whole) - random.integers(1, 200)])
            flipped[at] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            image = rp.xbd.read_image(path, max_pixels=100_000)
        except ValueError as error:
            assert "damaged.tif: " in str(error)  # noqa: PT017 - either outcome is right: a TIFF has no checksums
        else:
            assert image.ndim == 3


def test_max_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "large.tif")
    with pytest.raises(ValueError, match=r"large\.tif: 60 x 75 = 4500 pixels, more than max_pixels = 4499"):
        rp.xbd.read_image(tmp_path / "large.tif", max_pixels=4499)
