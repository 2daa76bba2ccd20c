"""Packs: the same samples without decoding, written whole or not at all, and damage is an error."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import rarepixel as rp

AUGMENT = rp.xbd.Augment(flip_rotate=1.0, scale=0.3, shift=9, contrast=0.2, registration=3)


@pytest.fixture
def source(root: Path, tmp_path: Path) -> Path:
    """A copy whose masks of every second tile come from labels."""
    copy = shutil.copytree(root, tmp_path / "source")
    for target in sorted(copy.glob("train/targets/*_post_*"))[::2]:
        target.unlink()
    return copy


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    assert rp.xbd.pack(source, tmp_path / "packed") == (8, 0)
    return tmp_path / "packed"


def samples(root: Path, **options: object) -> list[tuple[np.ndarray, ...]]:
    return list(rp.xbd.XBDLoader(root, batch_size=3, output="numpy", **options))


def assert_equal(first: list, second: list) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("un_classified", ["ignore", "no-damage", "background"])
@pytest.mark.parametrize("sampler", ["uniform", "rare", "best_of_k"])
def test_the_same_samples_as_from_the_root(source: Path, packed: Path, un_classified: str, sampler: str) -> None:
    options = {"un_classified": un_classified, "sampler": sampler, "augment": AUGMENT}
    for crop in (None, 40):
        assert_equal(samples(packed, crop=crop, **options), samples(source, crop=crop, **options))
    np.testing.assert_array_equal(
        rp.xbd.pixel_counts(packed, un_classified=un_classified),
        rp.xbd.pixel_counts(source, un_classified=un_classified),
    )


def test_the_dataset_reads_it_too(source: Path, packed: Path) -> None:
    one, other = (rp.xbd.XBDDataset(root, crop=40, augment=True) for root in (packed, source))
    assert_equal([tuple(one[at]) for at in range(8)], [tuple(other[at]) for at in range(8)])


def test_a_packed_tile_has_a_mask_and_no_single_image(source: Path, packed: Path) -> None:
    tile, original = rp.xbd.index(packed).tiles[1], rp.xbd.index(source).tiles[1]
    np.testing.assert_array_equal(rp.xbd.read_target(tile.post.target), rp.xbd.read_target(original.post.target))
    with pytest.raises(ValueError, match=r"safetensors: is packed, with two images: XBDDataset and XBDLoader give"):
        rp.xbd.read_image(tile.pre.image)
    with pytest.raises(ValueError, match=r"safetensors: is packed: targets belong in the root that it was packed from"):
        rp.xbd.write_targets(packed)


def test_another_root_is_not_packed_into(source: Path, root: Path) -> None:
    with pytest.raises(ValueError, match=r"out: got .*, a root of tiles: .*train/images, expected an empty folder"):
        rp.xbd.pack(root, source)
    assert len(rp.xbd.index(source).tiles) == 8


def test_a_pack_without_its_list_is_told(packed: Path) -> None:
    (packed / "pack.json").unlink()
    with pytest.raises(
        ValueError, match=r"packed: has no .*: it is a pack without its list, which is written last; pack again"
    ):
        rp.xbd.index(packed)


def test_a_target_that_comes_later_is_told(source: Path, packed: Path) -> None:
    rp.xbd.write_targets(source, un_classified="background")
    problems = rp.xbd.index(packed).problems
    assert len(problems) == 4
    assert problems[0].message == "not there when this was packed, with the mask of the label: pack again"
    assert rp.xbd.pack(source, packed) == (4, 4)
    assert rp.xbd.index(packed).problems == ()


def test_disasters_and_splits(packed: Path) -> None:
    index = rp.xbd.index(packed)
    assert index.problems == ()
    assert {tile.disaster for tile in index.tiles} == {"synthetic-fire", "synthetic-flood", "synthetic-wind"}
    loader = rp.xbd.XBDLoader(packed, exclude_disasters=["synthetic-fire"])
    assert {tile.disaster for tile in loader.tiles} == {"synthetic-flood", "synthetic-wind"}
    with pytest.raises(ValueError, match=r'splits: got "tier3", expected a split of .*: train'):
        rp.xbd.index(packed, ["tier3"])


def test_it_is_plain_safetensors(source: Path, packed: Path) -> None:
    tile = rp.xbd.index(source).tiles[1]
    tensors = load_file(packed / "train" / f"{tile.name}.safetensors")
    np.testing.assert_array_equal(tensors["pre"], rp.xbd.read_image(tile.pre.image).transpose(2, 0, 1))
    np.testing.assert_array_equal(tensors["post"], rp.xbd.read_image(tile.post.image).transpose(2, 0, 1))
    np.testing.assert_array_equal(tensors["mask"], rp.xbd.read_target(tile.post.target))


def test_changed_sources_are_told_and_packed_anew(source: Path, packed: Path) -> None:
    labels = [tile.post.label for tile in rp.xbd.index(source).tiles if tile.post.target is None]
    content = json.loads(labels[0].read_text())
    content["features"]["xy"] = []
    labels[0].write_text(json.dumps(content))
    (problem,) = rp.xbd.index(packed).problems
    assert (problem.path.name, problem.message) == (labels[0].name, "changed since it was packed: pack again")
    with pytest.warns(UserWarning, match=f"1 problems, the first: .*{labels[0].name}: changed since it was packed"):
        rp.xbd.XBDLoader(packed)
    assert rp.xbd.pack(source, packed) == (1, 7)
    assert rp.xbd.index(packed).problems == ()
    np.testing.assert_array_equal(rp.xbd.pixel_counts(packed), rp.xbd.pixel_counts(source))
    shutil.rmtree(source)
    assert rp.xbd.index(packed).problems == ()  # a pack needs no root


def test_splits_are_added_and_roots_not_mixed(source: Path, tmp_path: Path) -> None:
    rp.xbd.synthesize(source, tiles=2, size=64, split="tier3")
    out = tmp_path / "out"
    assert rp.xbd.pack(source, out, ["tier3"]) == (2, 0)
    assert rp.xbd.pack(source, out, ["train"]) == (8, 0)
    assert [tile.split for tile in rp.xbd.index(out).tiles] == ["tier3"] * 2 + ["train"] * 8
    rp.xbd.synthesize(tmp_path / "other", tiles=1, size=64)
    with pytest.raises(ValueError, match=r"out: holds tiles of .*source, expected none or those of .*other"):
        rp.xbd.pack(tmp_path / "other", out)
    with pytest.raises(ValueError, match="is packed already"):
        rp.xbd.pack(out, tmp_path / "again")


def test_some_disasters_only(source: Path, tmp_path: Path) -> None:
    """What was packed of other disasters stays; what a changed root no longer has goes, of those asked for."""
    tiles = rp.xbd.index(source).tiles
    fire = [tile for tile in tiles if tile.disaster == "synthetic-fire"]
    out = tmp_path / "out"
    assert rp.xbd.pack(source, out, disasters=["synthetic-fire"]) == (len(fire), 0)
    assert {tile.disaster for tile in rp.xbd.index(out).tiles} == {"synthetic-fire"}
    assert rp.xbd.pack(source, out, exclude_disasters=["synthetic-fire"]) == (8 - len(fire), 0)
    assert [tile.name for tile in rp.xbd.index(out).tiles] == [tile.name for tile in tiles]
    fire[0].pre.image.unlink()
    rp.xbd.pack(source, out, disasters=["synthetic-flood"])
    assert len(rp.xbd.index(out).tiles) == 8
    rp.xbd.pack(source, out, disasters=["synthetic-fire"])
    assert len(rp.xbd.index(out).tiles) == 7
    with pytest.raises(ValueError, match="exclude_disasters: got"):
        rp.xbd.pack(source, out, exclude_disasters=["nowhere"])


# Damage


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty"])
def test_a_tile_that_goes_bad_in_mid_epoch(packed: Path, damage: str) -> None:
    loader = rp.xbd.XBDLoader(packed, batch_size=1, shuffle=False, prefetch=1)
    passes = iter(loader)
    next(passes)
    bad = loader.tiles[4].post.image
    if damage == "delete":
        bad.unlink()
    else:
        os.truncate(bad, bad.stat().st_size // 2 if damage == "truncate" else 0)
    error, problem = (FileNotFoundError, "") if damage == "delete" else (ValueError, ".*: not a whole packed tile: ")
    with pytest.raises(error, match=bad.name + problem):
        list(passes)
    assert (damage == "delete") == (len(rp.xbd.index(packed).problems) == 1)
    assert rp.xbd.pack(json.loads((packed / "pack.json").read_text())["root"], packed) == (1, 7)
    assert len(list(loader)) == 8


def test_every_flipped_bit_is_found(packed: Path, tmp_path: Path) -> None:
    """In any byte of header or pixels: an error that names the file, or the right samples."""
    expected = samples(packed, crop=None, shuffle=False)
    path = rp.xbd.index(packed).tiles[0].post.image
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    random = np.random.default_rng(0)
    places = [*range(header), *random.integers(header, len(whole), 200)]
    wrong = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            got = next(iter(rp.xbd.XBDLoader(packed, batch_size=1, shuffle=False, output="numpy", prefetch=1)))
        except ValueError as error:
            wrong += 1
            assert path.name in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert place < header
            for part, other in zip(got, expected[0], strict=True):
                np.testing.assert_array_equal(part[0], other[0])
    assert wrong > 0.7 * len(places)


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"version": 2, "root": "/", "splits": {}}', b"\xff"])
def test_a_damaged_list(packed: Path, content: bytes) -> None:
    (packed / "pack.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"pack\.json: "):
        rp.xbd.XBDLoader(packed)


# Interruptions

SCRIPT = """if True:
    import os, resource, signal, sys, time
    import rarepixel as rp
    root, out = sys.argv[1:]
    """


def run(source: Path, out: Path, code: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT + code, str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_a_killed_pack_is_gone_on_with(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = run(
        source,
        out,
        """done = 0
    def progress(count):
        global done
        done += count
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    os.environ["RAREPIXEL_NUM_THREADS"] = "1"
    rp.xbd.pack(root, out, progress=progress)
    """,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "pack.json").exists()
    with pytest.raises(ValueError, match="has no <split>/images folder"):
        rp.xbd.XBDLoader(out)
    half = out / "train" / ".synthetic-fire_00000001.safetensors.999"  # what a kill in mid-write leaves
    half.write_bytes(b"half")
    written, kept = rp.xbd.pack(source, out)
    assert (written + kept, kept >= 3) == (8, True)
    assert not half.exists()
    assert_equal(samples(out), samples(source))


def test_an_interrupt_or_failing_progress_stops_it(source: Path, tmp_path: Path) -> None:
    def progress(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rp.xbd.pack(source, tmp_path / "out", progress=progress)
    assert not (tmp_path / "out/pack.json").exists()
    assert sum(rp.xbd.pack(source, tmp_path / "out")) == 8


def test_a_disk_that_is_full(source: Path, tmp_path: Path) -> None:
    """As by a limit on file sizes: an error with the file's name, nothing half written, and another run goes on."""
    out = tmp_path / "out"
    code = """resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    try:
        rp.xbd.pack(root, out)
    except OSError as error:
        print(error.filename)
    """
    assert Path(run(source, out, code).stdout.strip()).suffix == ".safetensors"
    assert [path.name for path in out.rglob("*") if path.is_file()] == [".lock"]
    assert rp.xbd.pack(source, out) == (8, 0)


def test_two_packers_at_once(source: Path, packed: Path) -> None:
    """The second is refused while the first has the lock, and what is there stays as it is."""
    before = {path: path.read_bytes() for path in packed.rglob("*.*") if path.is_file()}
    with (packed / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="packed: another process is packing into this folder"):
            rp.xbd.pack(source, packed)
    assert {path: path.read_bytes() for path in packed.rglob("*.*") if path.is_file()} == before
    assert rp.xbd.pack(source, packed) == (0, 8)


def test_packers_that_race(source: Path, tmp_path: Path) -> None:
    """Processes that begin at once: each packs everything or is refused in clear words, and the pack is whole."""
    for number in range(3):
        out, start = tmp_path / f"out{number}", tmp_path / f"start{number}"
        code = f"""while not os.path.exists({str(start)!r}):
            time.sleep(0.001)
    print(sum(rp.xbd.pack(root, out)))
    """
        command = [sys.executable, "-c", SCRIPT + code, str(source), str(out)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        racers = [subprocess.Popen(command, **pipes) for _ in range(2)]
        start.touch()
        results = [(*racer.communicate(timeout=120), racer.returncode) for racer in racers]
        refused = [errors for _, errors, code in results if code]
        assert [printed for printed, _, code in results if not code] == ["8\n"] * (2 - len(refused))
        assert len(refused) < 2
        assert all("another process is packing into this folder" in errors for errors in refused)
        assert_equal(samples(out), samples(source))


def test_a_packer_is_refused_in_the_midst_of_another(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    attempts = []

    def progress(count: int) -> None:
        if not attempts:
            attempts.append(run(source, out, "rp.xbd.pack(root, out)"))

    assert rp.xbd.pack(source, out, progress=progress) == (8, 0)
    assert attempts[0].returncode == 1
    assert "another process is packing into this folder" in attempts[0].stderr
    assert_equal(samples(out), samples(source))


def test_real_tiles(real: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rp.xbd.pack(real, out) == (5, 0)
    options = {"crop": 512, "augment": True, "normalize": "imagenet"}
    assert_equal(samples(out, **options), samples(real, **options))
