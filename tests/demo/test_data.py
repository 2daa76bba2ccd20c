"""The demo's tiles, how they are split and in which order they come."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import rarepixel as rp
from rarepixel.demo import data
from rarepixel.demo.options import Options


def synthetic(options):
    made = []
    return data.synthetic_root(options, made.append), sum(made)


def test_tiles_are_made_once_for_the_same_settings(tiny):
    root, made = synthetic(tiny())
    assert (made, len(rp.xbd.index(root).tiles)) == (8, 8)
    assert synthetic(tiny(epochs=5)) == (root, 0)
    root, made = synthetic(tiny(seed=1))
    assert (made, len(rp.xbd.index(root).tiles)) == (8, 8)
    assert json.loads((root / "synthetic.json").read_text())["seed"] == 1


def test_an_interrupted_synthesis_leaves_no_half_set(tiny):
    def stop(made):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.synthetic_root(tiny(), stop)
    assert not (tiny().output / "tiles").exists()
    assert synthetic(tiny())[1] == 8


def test_somebody_elses_folder_is_left_alone(tiny):
    (tiny().output / "tiles").mkdir()
    with pytest.raises(FileExistsError, match="was not made by rarepixel demo; choose another --output"):
        synthetic(tiny())


@pytest.mark.parametrize("content", [b"{\n", b"\xff"])
def test_a_broken_record_of_the_tiles_is_named(tiny, content):
    root, _ = synthetic(tiny())
    (root / "synthetic.json").write_bytes(content)
    message = r"tiles.synthetic.json: not what rarepixel demo wrote .*; delete .*tiles, and the tiles are made anew"
    with pytest.raises(ValueError, match=message):
        synthetic(tiny())
    shutil.rmtree(root)
    assert synthetic(tiny()) == (root, 8)


def test_synthetic_tiles_are_split_three_to_one(tiny):
    loaded = data.load(synthetic(tiny())[0], tiny())
    assert (len(loaded.train.indices), len(loaded.validation), len(loaded.train)) == (6, 2, 3)
    names = [loaded.train.dataset.tiles[index].name for index in loaded.train.indices]
    judged = [loaded.validation.dataset.tiles[index] for index in loaded.validation.indices]
    assert {tile.split for tile in judged} == {"test"}
    assert len(set(names)) == 6


def test_a_root_without_an_official_split_to_judge_by_is_split_by_the_seed(tmp_path):
    rp.xbd.synthesize(tmp_path, tiles=8, size=64, split="tier3")
    splits = [data.load(tmp_path, Options(data=tmp_path, seed=seed)) for seed in (0, 0, 1)]
    for loaded in splits:
        indices = [*loaded.train.indices, *loaded.validation.indices]
        assert sorted(indices) == list(range(8))
        assert len(loaded.validation) == 2
    assert splits[0].validation.indices == splits[1].validation.indices
    assert splits[0].validation.indices != splits[2].validation.indices


def test_hold_validates_only_where_there_is_no_test(tmp_path):
    for split in ("train", "hold", "test"):
        rp.xbd.synthesize(tmp_path, tiles=2, size=64, split=split)

    def judged():
        loaded = data.load(tmp_path, Options(data=tmp_path))
        assert {loaded.train.dataset.tiles[index].split for index in loaded.train.indices} == {"train"}
        return {loaded.validation.dataset.tiles[index].split for index in loaded.validation.indices}

    assert judged() == {"test"}
    shutil.rmtree(tmp_path / "test")
    assert judged() == {"hold"}


def test_the_largest_seed_has_an_order_too(tmp_path):
    rp.xbd.synthesize(tmp_path, tiles=4, size=64)
    train = data.load(tmp_path, Options(data=tmp_path, crop=32, seed=2**63 - 1)).train
    assert len(list(train.epoch(1))) == len(train)


def test_one_tile_is_not_enough(tmp_path):
    rp.xbd.synthesize(tmp_path, tiles=1, size=64)
    with pytest.raises(ValueError, match="got 1 tile, expected at least 2"):
        data.load(tmp_path, Options(data=tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_seed_and_epoch_only(tiny, workers):
    root, _ = synthetic(tiny())
    reference = [data.load(root, tiny()).train.epoch(epoch) for epoch in (0, 1)]
    reference = [[[part.clone() for part in batch] for batch in batches] for batches in reference]
    assert not torch.equal(reference[0][0][0], reference[1][0][0])
    train = data.load(root, tiny(workers=workers)).train
    # From any batch on, in any order of epochs.
    for epoch, first in ((1, 0), (0, 2), (0, 0), (1, 3)):
        batches = list(train.epoch(epoch, first))
        assert len(batches) == 3 - first
        for got, expected in zip(batches, reference[epoch][first:], strict=True):
            assert all(map(torch.equal, got, expected))
