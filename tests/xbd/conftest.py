"""Made tiles, real tiles where they are there, and files that nobody should have written."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import rarepixel as rp
from support import real_tiles

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight made tiles of 96 pixels: do not write into it."""
    path = tmp_path_factory.mktemp("made")
    rp.xbd.synthesize(path, tiles=8, seed=3, size=96)
    return path


@pytest.fixture(scope="session")
def real() -> Path:
    """The real tiles, at RAREPIXEL_XBD_ROOT or beside the project; without them the test is skipped."""
    path = real_tiles()
    if path is None:
        pytest.skip("no real xBD tiles here")
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack(samples: np.ndarray, depth: int) -> bytes:
    """Rows of samples (H, N) as PNG lays them out, filter 0."""
    if depth == 16:
        rows = samples.astype(">u2").view(np.uint8)
    elif depth == 8:
        rows = samples.astype(np.uint8)
    else:
        bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


@pytest.fixture(scope="session")
def write_png() -> Callable[..., Path]:
    """Writes a PNG of any kind from samples (H, W) or (H, W, channels); palette, tRNS and interlacing where wanted."""

    def write(
        path: Path,
        samples: np.ndarray,
        color: int,
        depth: int = 8,
        palette: Sequence[Sequence[int]] | None = None,
        transparency: bytes | None = None,
        interlaced: bool = False,
    ) -> Path:
        samples = np.asarray(samples)
        height, width = samples.shape[:2]
        steps = [(0, 0, 1, 1)]
        if interlaced:  # Adam7: first row, first column, rows apart, columns apart
            steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        passes = [samples[top::down, left::across] for top, left, down, across in steps]
        data = b"".join(pack(part.reshape(len(part), -1), depth) for part in passes if part.size)
        chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))]
        if palette is not None:
            chunks.append(chunk(b"PLTE", bytes(np.array(palette, np.uint8))))
        if transparency is not None:
            chunks.append(chunk(b"tRNS", transparency))
        chunks += [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
        path.write_bytes(SIGNATURE + b"".join(chunks))
        return path

    return write


@pytest.fixture
def write_label(tmp_path: Path) -> Callable[..., Path]:
    """Writes a label file with one building for each WKT."""

    def write(
        *wkts: str,
        subtype: str | None = "no-damage",
        size: tuple[int, int] = (48, 64),
        name: str = "made_1_post_disaster",
    ) -> Path:
        features = [
            {
                "properties": {"feature_type": "building", "uid": f"uid-{number}"}
                | ({"subtype": subtype} if subtype else {}),
                "wkt": wkt,
            }
            for number, wkt in enumerate(wkts)
        ]
        path = tmp_path / f"{name}.json"
        path.write_text(
            json.dumps({"features": {"lng_lat": [], "xy": features}, "metadata": {"height": size[0], "width": size[1]}})
        )
        return path

    return write
