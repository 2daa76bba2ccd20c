"""XBDLoader: the same batches whatever the threads, every sample once, and an end without threads left over."""

from __future__ import annotations

import copy as copying
import gc
import inspect
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import rarepixel as rp
from rarepixel.xbd._batch_memory import BatchMemory
from rarepixel.xbd.loader import XBDLoader

Batches = list[tuple[torch.Tensor, ...]]
AUGMENT = rp.xbd.Augment(flip_rotate=1.0, scale=0.2, shift=4, brightness=0.3, hue=0.1, registration=2)


@pytest.fixture(scope="module")
def root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the made tiles: the rare sampler keeps its survey in the root."""
    return shutil.copytree(root, tmp_path_factory.mktemp("loader") / "root")


def make(root: Path, **options: object) -> XBDLoader:
    return XBDLoader(root, **{"batch_size": 3, "crop": 40, "num_threads": 2, **options})


def assert_equal(first: Iterable, second: Iterable) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def differs(first: Batches, second: Batches) -> bool:
    return any(not torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def samples(batches: Iterable) -> list[tuple[bytes, ...]]:
    return [tuple(part[at].numpy().tobytes() for part in batch) for batch in batches for at in range(len(batch[0]))]


def loader_threads(expected: int = 0) -> int:
    """How many threads of loaders there are; a thread that has been started takes a moment to have its name."""
    for _ in range(1000):
        names = [thread_name(task) for task in os.listdir("/proc/self/task")]
        count = sum(name.startswith("rarepixel-load") for name in names)
        if count >= expected:
            break
        time.sleep(0.01)
    return count


def thread_name(task: str) -> str:
    try:
        return Path(f"/proc/self/task/{task}/comm").read_text()
    except FileNotFoundError:  # of another library, ended meanwhile
        return ""


@pytest.mark.parametrize("normalize", [None, "imagenet"])
def test_an_epoch_is_the_samples_of_the_dataset(root: Path, normalize: str | None) -> None:
    options = {"crop": 40, "augment": AUGMENT, "normalize": normalize, "seed": 5}
    dataset = rp.xbd.XBDDataset(root, **options)
    loader = make(root, **options)
    assert [len(loader), loader.epoch] == [3, 0]
    for epoch in range(2):
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch[0]) for batch in batches] == [3, 3, 2]
        assert batches[0][0].dtype == (torch.float32 if normalize else torch.uint8)
        expected = [tuple(part.numpy().tobytes() for part in dataset[index]) for index in range(8)]
        assert samples(batches) != expected  # in another order
        assert sorted(samples(batches)) == sorted(expected)
    plain = make(root, **options, shuffle=False)
    plain.set_epoch(1)
    assert samples(plain) == expected


@pytest.mark.parametrize("sampler", ["uniform", "rare", "best_of_k"])
def test_threads_and_prefetch_change_nothing(root: Path, sampler: str) -> None:
    options = {"augment": AUGMENT, "sampler": sampler, "samples_per_epoch": 20}
    expected = list(make(root, num_threads=1, prefetch=1, **options))
    assert len(expected) == 7
    for threads, prefetch in [(2, 1), (4, 3), (16, 20)]:
        assert_equal(make(root, num_threads=threads, prefetch=prefetch, **options), expected)
    assert differs(list(make(root, seed=1, **options)), expected)


def test_epochs_go_on_by_themselves_or_as_set(root: Path) -> None:
    loader = make(root)
    first, second = list(loader), list(loader)
    assert loader.epoch == 1
    assert differs(first, second)
    loader.set_epoch(0)
    assert_equal(loader, first)
    assert_equal(loader, second)
    iter(loader)  # looked at, not begun
    loader.set_epoch(1)
    for _ in loader:
        break
    loader.set_epoch(1)
    assert_equal(loader, second)
    with pytest.raises(ValueError, match="epoch: got -1, expected 0 to"):
        loader.set_epoch(-1)


def test_a_pass_that_is_left_is_followed_by_the_next_epoch(root: Path) -> None:
    loader = make(root)
    for _ in loader:
        break
    assert loader.epoch == 0
    other = make(root)
    other.set_epoch(1)
    assert_equal(loader, list(other))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sampler", ["uniform", "rare"])
def test_ranks(root: Path, drop_last: bool, sampler: str) -> None:
    def rank(at: int, of: int) -> XBDLoader:
        return make(root, rank=at, world_size=of, samples_per_epoch=10, drop_last=drop_last, sampler=sampler)

    alone = samples(rank(0, 1))
    assert len(alone) == (9 if drop_last else 10)
    loaders = [rank(at, 4) for at in range(4)]
    assert [len(loader) for loader in loaders] == [0 if drop_last else 1] * 4
    loaders = [rank(at, 3) for at in range(3)]
    parts = [samples(loader) for loader in loaders]
    assert [len(part) for part in parts] == [3 if drop_last else 4] * 3
    together = [sample for row in zip(*parts, strict=True) for sample in row]
    # Rank by rank, the ranks' samples are those of one process alone.
    assert together[:9] == alone[:9]
    assert len(set(together)) == len(together)


def test_ranks_of_torch_distributed(root: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys, torch, rarepixel as rp
        loader = rp.xbd.XBDLoader(sys.argv[1], batch_size=2, crop=40)
        assert len(loader) == 4
        store, rank = "file://" + sys.argv[2], int(sys.argv[3])
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        assert len(loader) == 2
        print(sum(int(part.sum()) for batch in loader for part in batch))
        """
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "store")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    sums = [int(rank.communicate(timeout=120)[0]) for rank in ranks]
    expected = [make(root, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    assert sums == [sum(int(part.sum()) for batch in loader for part in batch) for loader in expected]


@pytest.mark.parametrize("sampler", ["uniform", "rare"])
def test_resuming_gives_the_remaining_batches(root: Path, sampler: str) -> None:
    loader = make(root, sampler=sampler, augment=AUGMENT, samples_per_epoch=13)
    loader.set_epoch(4)
    states, batches = [loader.state_dict()], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    following = list(loader)
    for number, state in enumerate(states):
        assert all(isinstance(value, int | str | None) for value in state.values())
        other = make(root, sampler=sampler, augment=AUGMENT, samples_per_epoch=13)
        other.load_state_dict(state)
        assert other.state_dict() == state or number == len(batches)
        if number < len(batches):
            other.set_epoch(4)  # as a loop over epochs would say; it loses nothing
            assert_equal(other, batches[number:])
        assert_equal(other, following)


def test_a_state_of_another_loader_is_refused(root: Path) -> None:
    state = make(root).state_dict()
    for name, value in [("seed", 1), ("batch_size", 2), ("crop", 32), ("shuffle", False), ("sampler", "rare")]:
        with pytest.raises(ValueError, match=rf"state: got {name} .*, expected "):
            make(root, **{name: value}).load_state_dict(state)
    with pytest.raises(ValueError, match="state: got version None, expected 1"):
        make(root).load_state_dict({})
    with pytest.raises(ValueError, match="batch: got -1, expected 0 to"):
        make(root).load_state_dict({**state, "batch": -1})


def test_a_state_of_other_tiles_or_draws_is_refused(root: Path, tmp_path: Path) -> None:
    """As many tiles, and all else alike, is not the same order."""
    loaders = []
    for index in range(2):  # each lacks another tile
        copy = shutil.copytree(root, tmp_path / str(index))
        for path in copy.glob(f"train/*/{rp.xbd.index(copy).tiles[index].name}_*"):
            path.unlink()
        loaders.append(make(copy))
    with pytest.raises(ValueError, match=r"state: got tiles_sha256 '\w{64}', expected '\w{64}'"):
        loaders[1].load_state_dict(loaders[0].state_dict())
    rare = [make(root, sampler="rare", class_weights=weights) for weights in [(0, 1, 0, 0, 0), (0, 0, 0, 0, 1)]]
    with pytest.raises(ValueError, match=r"state: got class_weights '\[0.0, 1.0, .*, expected '\[0.0, 0.0, "):
        rare[1].load_state_dict(rare[0].state_dict())
    best = [make(root, sampler="best_of_k", candidates=candidates) for candidates in (3, 4)]
    with pytest.raises(ValueError, match="state: got candidates 3, expected 4"):
        best[1].load_state_dict(best[0].state_dict())
    # What a sampler does not use is not held against it.
    make(root, candidates=7, class_weights=(1, 0, 0, 0, 0)).load_state_dict(make(root).state_dict())


def test_a_state_that_is_none_is_refused(root: Path) -> None:
    loader = make(root)
    with pytest.raises(TypeError, match="state: got None, expected a dictionary as state_dict gives"):
        loader.load_state_dict(None)
    state = loader.state_dict()
    for missing in set(state) - {"version"}:
        with pytest.raises(ValueError, match=f"state: got no {missing}, expected a dictionary as state_dict gives"):
            loader.load_state_dict({name: value for name, value in state.items() if name != missing})
    with pytest.raises(ValueError, match="state: got version 3, expected 1 or 2"):
        loader.load_state_dict({**state, "version": 3})


def test_a_state_of_version_1_is_read(root: Path) -> None:
    state = {"version": 1, "epoch": 4, "batch": 1, "tiles": 8, "samples_per_epoch": 8, "batch_size": 3, "crop": 40}
    state |= {"sampler": "rare", "shuffle": True, "drop_last": False, "seed": 0, "world_size": 1}
    loader, expected = make(root, sampler="rare"), make(root, sampler="rare")
    loader.load_state_dict(state)
    expected.set_epoch(4)
    assert_equal(loader, list(expected)[1:])
    with pytest.raises(ValueError, match="state: got seed 1, expected 0"):
        loader.load_state_dict({**state, "seed": 1})


@pytest.mark.parametrize("duplicate", [copying.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_a_copy_goes_on_at_the_same_place(root: Path, duplicate: Callable[[XBDLoader], XBDLoader]) -> None:
    options = {"sampler": "best_of_k", "disasters": ["synthetic-fire"], "samples_per_epoch": 8}
    loader = make(root, augment=AUGMENT, normalize="imagenet", seed=3, **options)
    assert_equal(duplicate(loader), list(loader))
    batches = iter(loader)
    next(batches)
    other = duplicate(loader)
    assert other.state_dict() == loader.state_dict()
    assert other.statistics().samples == 0
    assert_equal(other, batches)
    assert_equal(other, loader)


def test_a_copy_may_have_another_world_size_at_the_begin_of_an_epoch(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is made before the processes know of each other."""
    loader = make(root)
    loader.set_epoch(2)
    content = pickle.dumps(loader)
    monkeypatch.setattr("rarepixel.xbd.loader._distributed", lambda: (1, 2))
    other = pickle.loads(content)
    assert (other.epoch, other.state_dict()["world_size"]) == (2, 2)


def test_of_several_passes_the_state_is_that_of_the_last_batch(root: Path) -> None:
    loader, expected = make(root, samples_per_epoch=13), list(make(root, samples_per_epoch=13))
    batches = iter(loader)
    next(batches), next(batches)
    next(iter(loader))  # a look at the next epoch
    assert (loader.epoch, loader.state_dict()["batch"]) == (1, 1)
    next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 3)
    other = make(root, samples_per_epoch=13)
    other.load_state_dict(state)
    assert_equal(other, expected[3:])
    list(batches)
    next(iter(loader))
    assert loader.epoch == 2  # no epoch is begun twice


def test_iterables_that_end_are_copied_too(root: Path) -> None:
    loader = make(root, disasters=(name for name in ["synthetic-fire"]), exclude_disasters=iter([]))
    assert_equal(copying.deepcopy(loader), loader)
    with pytest.raises(TypeError, match="disasters: got 5, expected names of disasters"):
        make(root, disasters=5)


class WithAnOption(XBDLoader):
    def __init__(self, root: Path, color: str, **options: object) -> None:
        self.seed = 3  # before there is a loader to change
        super().__init__(root, crop=40, seed=self.seed, **options)
        self.color = color


def test_what_the_threads_were_given_cannot_be_changed(root: Path) -> None:
    loader = WithAnOption(root, "red")
    for name in {*inspect.signature(XBDLoader).parameters, "tiles"}:
        with pytest.raises(AttributeError, match=f"{name}: cannot be changed, expected another WithAnOption"):
            setattr(loader, name, None)
    loader.color, loader.note = "blue", "mine"
    assert isinstance(loader.tiles, tuple)


def test_memory_of_another_size_is_refused(root: Path) -> None:
    loader = make(root)
    loader._memory = BatchMemory(2, np.uint8, "numpy", None, 2)
    expected = r"memory: got \[9600, 9600, 3200\] bytes, expected \[14400, 14400, 4800\]"
    with pytest.raises(ValueError, match=expected):
        next(iter(loader))
    loader = make(root, normalize="imagenet")
    loader._memory = BatchMemory(3, np.uint8, "numpy", None, 2)
    with pytest.raises(ValueError, match=r"memory: got \[14400, .*, expected \[57600, 57600, 4800\]"):
        next(iter(loader))


def test_batches_are_counted_with_the_ranks_of_their_pass(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.distributed may come, or go, between a state and its pass."""

    def ranks(world_size: int) -> None:
        monkeypatch.setattr("rarepixel.xbd.loader._distributed", lambda: (0, world_size))

    loader = make(root, samples_per_epoch=24)
    batches = iter(loader)
    next(batches)
    other = pickle.loads(pickle.dumps(loader))
    ranks(2)
    assert loader.state_dict()["world_size"] == 1
    with pytest.raises(ValueError, match="world_size: got 2, expected 1, with which the 1 batches of epoch 0 were"):
        next(iter(other))
    other.set_epoch(1)
    next(iter(other))
    ranks(1)
    state = other.state_dict()
    assert (state["world_size"], state["epoch"], state["batch"]) == (2, 1, 1)
    with pytest.raises(ValueError, match="state: got world_size 2, expected 1"):
        loader.load_state_dict(state)
    with pytest.raises(ValueError, match="batch: got 9, expected 0 to 8"):
        loader.load_state_dict({**make(root, samples_per_epoch=24).state_dict(), "batch": 9})


def test_closing_while_other_threads_begin_passes(root: Path) -> None:
    loader, errors = make(root, num_threads=1), []
    stop = threading.Event()

    def begin() -> None:
        while not stop.is_set():
            for _ in loader:
                break

    threads = [threading.Thread(target=begin) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(500):
            loader.close()
    except RuntimeError as error:
        errors.append(error)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert errors == []


def test_a_batch_is_not_written_over_while_it_is_held(root: Path) -> None:
    loader = make(root, samples_per_epoch=30)
    held = [(batch, tuple(part.clone() for part in batch)) for batch in loader]
    views = [batch[0][0, 1] for batch, _ in held]
    for batch, copy in held:
        assert all(torch.equal(a, b) for a, b in zip(batch, copy, strict=True))
    copies = [view.clone() for view in views]
    del held, batch
    list(loader)
    assert all(torch.equal(view, copy) for view, copy in zip(views, copies, strict=True))


def test_memory_is_used_again(root: Path) -> None:
    addresses = set()
    for _ in range(4):
        loader = make(root, samples_per_epoch=30, prefetch=2, batch_size=3)
        for pre, _, _ in loader:
            addresses.add(pre.data_ptr())
    one = make(root, samples_per_epoch=60)
    places = {batch[0].data_ptr() for batch in one}
    assert len(places) <= one.prefetch + 2


def test_numpy(root: Path) -> None:
    arrays = list(make(root, output="numpy", normalize="imagenet"))
    tensors = list(make(root, normalize="imagenet"))
    for one, other in zip(arrays, tensors, strict=True):
        for array, tensor in zip(one, other, strict=True):
            assert isinstance(array, np.ndarray)
            np.testing.assert_array_equal(array, tensor.numpy())


def test_without_torch(root: Path) -> None:
    code = """if True:
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        import numpy, rarepixel as rp
        batches = list(rp.xbd.XBDLoader(sys.argv[1], crop=32))
        assert isinstance(batches[0][0], numpy.ndarray) and batches[0][0].shape == (8, 3, 32, 32)
        """
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)


def test_statistics_are_those_of_the_batches(root: Path) -> None:
    loader = make(root, sampler="rare", samples_per_epoch=20)
    assert np.isnan(loader.statistics().share).all()
    masks = torch.cat([mask for _, _, mask in loader])
    statistics = loader.statistics()
    values, counts = masks.unique(return_counts=True)
    expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert statistics.pixels.tolist() == [expected.get(value, 0) for value in range(5)]
    assert (statistics.ignored, statistics.samples, statistics.skipped) == (expected.get(255, 0), 20, 0)
    np.testing.assert_allclose(statistics.share, statistics.pixels / statistics.pixels.sum())
    loader.reset_statistics()
    assert loader.statistics().samples == 0
    for _ in loader:
        break
    assert loader.statistics().samples == 3  # not what was filled ahead


# Ends and errors


def test_threads_end_with_the_pass(root: Path) -> None:
    loader = make(root, num_threads=3, samples_per_epoch=60)
    for _ in loader:
        assert loader_threads(3) == 3
    assert loader_threads() == 0
    for _ in loader:
        break
    gc.collect()
    assert loader_threads() == 0
    passes = iter(loader)
    next(passes)
    assert loader_threads(3) == 3
    loader.close()
    assert loader_threads() == 0
    assert list(passes) == []
    with pytest.raises(ZeroDivisionError):
        fail_in(loader)
    gc.collect()
    assert loader_threads() == 0


def fail_in(loader: XBDLoader) -> None:
    for _ in loader:
        raise ZeroDivisionError


def test_two_passes_at_once(root: Path) -> None:
    loader = make(root)
    pairs = list(zip(loader, loader, strict=True))
    assert_equal([first for first, _ in pairs], list(make(root)))


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_tile_that_goes_bad_in_mid_epoch(root: Path, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    expected = list(make(root, shuffle=False, batch_size=2))
    loader = make(copy, shuffle=False, batch_size=2, prefetch=1)
    bad = loader.tiles[5].post.image  # of the third batch
    passes = iter(loader)
    got = [next(passes)]
    bad.unlink() if damage == "delete" else bad.write_bytes(bad.read_bytes()[:200])
    got.append(next(passes))
    error = FileNotFoundError if damage == "delete" else ValueError
    with pytest.raises(error, match=bad.name):
        next(passes)
    assert_equal(got, expected[:2])
    assert loader_threads() == 0
    assert list(passes) == []  # an iterator that has raised is over
    with pytest.raises(error, match=bad.name):
        list(loader)


def test_skip_takes_another_tile_and_reports(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    options = {"shuffle": False, "on_error": "skip", "batch_size": 2}
    whole = list(make(root, **options))
    loader = make(copy, **options)
    bad = [loader.tiles[index].post.image for index in (2, 5)]
    for path in bad:
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"skipped in epoch 0: .*{bad[0].name}: .* \(all: loader.skipped\)") as caught:
        batches = list(loader)
    assert len(caught) == 1
    assert len(samples(batches)) == 8
    assert_equal([batches[0], batches[3]], [whole[0], whole[3]])
    assert loader.statistics().skipped == loader.skipped.total() >= 2
    assert {key.split(": ")[0] for key in loader.skipped} == {str(path) for path in bad}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equal(make(copy, **options, num_threads=7), batches)


def test_skip_gives_up_where_nothing_can_be_read(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    for path in copy.glob("*/images/*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a whole PNG"):
        list(make(copy, on_error="skip"))


@pytest.mark.parametrize("damage", ["unreadable", "odd"])
def test_skip_of_whole_tiles_goes_by_the_size_that_most_have(root: Path, tmp_path: Path, damage: str) -> None:
    """Whatever the first tile is like."""
    copy = shutil.copytree(root, tmp_path / "copy")
    loader = make(copy, crop=None, on_error="skip")
    first = loader.tiles[0].pre.image
    if damage == "unreadable":
        first.write_bytes(first.read_bytes()[:20])
    else:
        rp.xbd.synthesize(tmp_path / "odd", tiles=8, seed=3, size=64)
        shutil.copy(tmp_path / "odd/train/images" / first.name, first)
    with pytest.warns(UserWarning, match=rf"skipped in epoch 0: .*{loader.tiles[0].name}"):
        batches = list(loader)
    assert [batch[0].shape for batch in batches] == [(3, 3, 96, 96), (3, 3, 96, 96), (2, 3, 96, 96)]
    # Itself, and perhaps once more in place of another.
    assert {key.split(": ")[0] for key in loader.skipped} <= {str(first), str(loader.tiles[0].post.image)}


def test_whole_tiles_must_be_of_one_size(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    assert next(iter(make(copy, crop=None)))[0].shape == (3, 3, 96, 96)
    rp.xbd.synthesize(copy, tiles=1, size=64, split="other")
    with pytest.raises(ValueError, match=r"64 x 64 pixels, expected 96 x 96|96 x 96 pixels, expected 64 x 64"):
        list(make(copy, crop=None))


def test_whole_tiles_may_have_another_size_in_the_next_pass(root: Path, tmp_path: Path) -> None:
    """Memory of the earlier pass is not used for samples that it is too small for."""
    copy = shutil.copytree(root, tmp_path / "copy")
    loader = make(copy, crop=None)
    list(loader)
    rp.xbd.synthesize(copy, tiles=8, size=160, seed=3)
    other = make(copy, crop=None)
    other.set_epoch(1)
    assert_equal(loader, list(other))
    assert other.epoch == 1


def test_a_crop_larger_than_a_tile(root: Path) -> None:
    with pytest.raises(ValueError, match=r"crop: got 97, expected 1 to 96, the shorter side of .*png"):
        list(make(root, crop=97))
    # Before memory is made, which there is not.
    for crop in (10**8, 1 << 62):
        with pytest.raises(ValueError, match=rf"crop: got {crop}, expected 1 to 96, the shorter side of .*png"):
            list(make(root, crop=crop))


def test_a_crop_larger_than_the_first_tile(root: Path, tmp_path: Path) -> None:
    """Which is no reason to refuse it where tiles are skipped."""
    copy = shutil.copytree(root, tmp_path / "copy")
    rp.xbd.synthesize(copy, tiles=1, size=64, split="a")
    loader = make(copy, crop=80, on_error="skip")
    assert loader.tiles[0].split == "a"
    with pytest.warns(UserWarning, match="crop: got 80, expected 1 to 64, the shorter side of"):
        assert len(samples(loader)) == 9


def test_prefetch_ends_with_the_epoch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is asked for, memory is made for the batches that there are and one more."""
    loader = make(root, prefetch=(1 << 63) - 1)
    made = []
    make_memory = BatchMemory.make
    monkeypatch.setattr(BatchMemory, "make", lambda *arguments: made.append(None) or make_memory(*arguments))
    batches = iter(loader)
    first = next(batches)
    assert len(made) <= len(loader) + 2
    assert_equal([first, *batches], make(root))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0, expected 1 to"),
        ({"crop": 0}, "crop: got 0, expected 1 to"),
        ({"sampler": "hard"}, 'sampler: got "hard", expected "uniform", "rare" or "best_of_k"'),
        ({"sampler": "rare", "class_weights": (0, 0, 0, 0, 0)}, "class_weights: got .*, expected a weight above 0"),
        ({"sampler": "rare", "class_weights": (0, 1, -1, 0, 0)}, "class_weights: got .*, expected finite numbers"),
        ({"class_weights": (1, 1)}, r"class_weights: got \(1, 1\), expected 5 numbers"),
        ({"candidates": 0}, "candidates: got 0, expected 1 to"),
        ({"samples_per_epoch": 0}, "samples_per_epoch: got 0, expected 1 to"),
        ({"rank": 2, "world_size": 2}, "rank: got 2, expected 0 to 1"),
        ({"rank": 0}, "rank: got 0 of world_size None, expected both or none"),
        ({"num_threads": 0}, "num_threads: got 0, expected 1 to"),
        ({"prefetch": 0}, "prefetch: got 0, expected 1 to"),
        ({"on_error": "ignore"}, "on_error: got 'ignore', expected"),
        ({"output": "jax"}, "output: got 'jax', expected"),
        ({"un_classified": "skip"}, 'un_classified: got "skip", expected "ignore", "no-damage" or "background"'),
        ({"normalize": "cifar"}, "normalize: got 'cifar', expected None"),
        ({"class_weights": [float("nan")] * 5}, r"class_weights: got \[nan, .*, expected finite numbers of at least 0"),
        ({"samples_per_epoch": 1 << 63}, "samples_per_epoch: got 9223372036854775808, expected 1 to"),
        ({"splits": []}, r"splits: got \[\], expected at least one name, or None for all"),
    ],
)
def test_wrong_arguments(root: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(root, **wrong)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"batch_size": 8.0}, "a whole number"),
        ({"crop": "64"}, "a whole number"),
        ({"seed": 1.5}, "a whole number"),
        ({"samples_per_epoch": "8"}, "a whole number"),
        ({"drop_last": 1}, "True or False"),
        ({"shuffle": 1}, "True or False"),
        ({"augment": None}, "True, False or an Augment"),
        ({"augment": 7}, "True, False or an Augment"),
        ({"class_weights": 5}, "5 numbers"),
        ({"class_weights": "12345"}, "5 numbers"),
    ],
)
def test_wrong_types(root: Path, wrong: dict, expected: str) -> None:
    ((argument, value),) = wrong.items()
    with pytest.raises(TypeError, match=f"^{argument}: got {value!r}, expected {expected}$"):
        make(root, **wrong)


def test_arrays_are_taken_for_numbers(root: Path) -> None:
    expected = list(make(root, sampler="rare", class_weights=(0.0, 1.0, 1.0, 1.0, 2.0)))
    for weights in (np.array([0, 1, 1, 1, 2]), torch.tensor([0.0, 1, 1, 1, 2])):
        assert_equal(make(root, sampler="rare", class_weights=weights, shuffle=np.True_), expected)


SCRIPT = """if True:
    import signal, sys, threading, time
    import rarepixel as rp
    loader = rp.xbd.XBDLoader(sys.argv[1], batch_size=2, crop=40, samples_per_epoch=10**9)
    batches = iter(loader)
    next(batches)
    """


def run(root: Path, code: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT + code, str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_the_interpreter_exits_with_a_pass_under_way(root: Path) -> None:
    for code in ("", "sys.exit(3)", "raise RuntimeError('stop')"):
        ended = run(root, code)
        assert ended.returncode == {"": 0, "sys.exit(3)": 3}.get(code, 1), ended.stderr


def test_ctrl_c_while_waiting_for_a_batch(root: Path, tmp_path: Path) -> None:
    """A label that is a pipe nobody writes to keeps the threads waiting; the consumer must still see the signal."""
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "train/targets")
    loader = make(copy, shuffle=False, batch_size=1, num_threads=1, prefetch=1)
    label = loader.tiles[0].post.label
    content = label.read_bytes()
    label.unlink()
    os.mkfifo(label)

    def interrupt_then_write() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        label.write_bytes(content)  # so that the thread can end

    writer = threading.Thread(target=interrupt_then_write)
    writer.start()
    with pytest.raises(KeyboardInterrupt):
        next(iter(loader))
    writer.join()
    assert loader_threads() == 0


def use_in_child(loader: XBDLoader, begun: object, queue: multiprocessing.Queue) -> None:
    try:
        next(begun)
    except RuntimeError as error:
        queue.put(str(error))
    queue.put(samples(loader))


def test_a_forked_child_has_passes_of_its_own(root: Path) -> None:
    """The parent's pass is refused in the child, which never waits for the parent's threads; a new one works."""
    loader = make(root, samples_per_epoch=60)
    begun = iter(loader)
    first = next(begun)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=use_in_child, args=(loader, begun, queue))
    child.start()
    assert "begin another with iter(loader)" in queue.get(timeout=60)
    loader.set_epoch(1)
    theirs = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert theirs == samples(loader)
    # The parent's pass was not disturbed.
    expected = list(make(root, samples_per_epoch=60))
    assert_equal([first, *begun], expected)


def test_memory_stays_flat(root: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    loader = make(root, batch_size=8, augment=AUGMENT, samples_per_epoch=160)
    for _ in range(3):
        deque_of(loader)
    before = resident()
    for _ in range(10):
        deque_of(loader)
    assert resident() < before * 1.05


def deque_of(loader: XBDLoader) -> None:
    for _ in loader:
        pass


def test_lightning(root: Path, tmp_path: Path) -> None:
    """As the train loader of a Trainer: epoch after epoch, and on from a checkpoint in mid-epoch."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(6, 5, 1)
            self.seen: list[int] = []

        def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
            pre, post, mask = batch
            self.seen.append(int(mask.long().sum()))
            if self.global_step == 4:
                self.trainer.save_checkpoint(tmp_path / "middle.ckpt")
            return self.layer(torch.cat([pre, post], 1)).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    def fit(**options: object) -> list[int]:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        module = Module()
        trainer.fit(module, make(root, normalize="imagenet"), **options)
        return module.seen

    loader = make(root)
    expected = [int(mask.long().sum()) for _ in range(3) for _, _, mask in loader]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on num_workers and the like
        assert fit() == expected
        # The checkpoint was written when the fifth batch had been taken.
        assert fit(ckpt_path=tmp_path / "middle.ckpt", weights_only=False) == expected[5:]


def test_real_tiles(real: Path) -> None:
    loader = make(real, crop=256, augment=AUGMENT, batch_size=5, sampler="best_of_k")
    ((pre, post, mask),) = loader
    assert pre.shape == post.shape == (5, 3, 256, 256)
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 4, 255}


@pytest.mark.parametrize("sampler", ["uniform", "rare"])
def test_an_epoch_may_be_of_any_length(root: Path, sampler: str) -> None:
    options = {"batch_size": 2, "crop": 32, "sampler": sampler, "output": "numpy"}
    endless = rp.xbd.XBDLoader(root, samples_per_epoch=10**18, **options)
    assert len(endless) == 10**18 // 2
    short = rp.xbd.XBDLoader(root, samples_per_epoch=40, **options)
    for one, other in zip(islice(endless, 20), short, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_candidates_that_would_take_minutes_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="candidates: got 100000000, expected 1 to 1024 places for each sample"):
        rp.xbd.XBDLoader(root, crop=32, sampler="best_of_k", candidates=10**8)


def test_one_broken_label_does_not_stop_a_survey_that_skips(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "train/targets")
    broken = rp.xbd.index(copy).tiles[0]
    assert broken.post.label is not None
    broken.post.label.write_text("{")
    options = {"batch_size": 2, "crop": 32, "sampler": "rare", "output": "numpy"}
    with pytest.raises(ValueError, match=f"{broken.post.label.name}: not a label file"):
        rp.xbd.XBDLoader(copy, **options)
    with pytest.warns(UserWarning, match="which are not drawn: 1, the first: "):
        loader = rp.xbd.XBDLoader(copy, on_error="skip", **options)
    (skipped,) = loader._feed.survey_skipped
    assert broken.post.label.name in skipped
    assert len(list(loader)) == 4
