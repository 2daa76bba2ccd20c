"""XBDDataset: one crop and one turn for all three, and the same samples however they are read."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import rarepixel as rp

Samples = list[tuple[torch.Tensor, ...]]


def read_all(dataset: rp.xbd.XBDDataset, **options: object) -> Samples:
    """Every sample, through a DataLoader."""
    return list(DataLoader(dataset, batch_size=None, **options))


def assert_equal(first: Samples, second: Samples) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def differs(first: Samples, second: Samples) -> bool:
    return any(not torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def whole(dataset: rp.xbd.XBDDataset, index: int) -> tuple[np.ndarray, ...]:
    tile = dataset.tiles[index]
    images = (rp.xbd.read_image(half.image).transpose(2, 0, 1) for half in (tile.pre, tile.post))
    return (*images, rp.xbd.read_target(tile.post.target)[None])


def test_whole_tiles(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root)
    assert len(dataset) == 8
    assert isinstance(dataset, torch.utils.data.Dataset)
    for index in range(8):
        pre, post, mask = dataset[index]
        assert pre.dtype == post.dtype == mask.dtype == torch.uint8
        for tensor, expected in zip((pre, post, mask[None]), whole(dataset, index), strict=True):
            np.testing.assert_array_equal(tensor.numpy(), expected)


def test_indices(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root)
    assert_equal([dataset[-1], dataset[np.int64(2)]], [dataset[7], dataset[2]])
    assert_equal(dataset.__getitems__([3, 1]), [dataset[3], dataset[1]])
    for index in (8, -9):
        with pytest.raises(IndexError, match=f"index: got {index}, expected one of 8 tiles"):
            dataset[index]
    with pytest.raises(TypeError, match="index: got '0', expected a whole number"):
        dataset["0"]
    assert len(list(dataset)) == 8  # iteration ends


def symmetries(array: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(array, quarter, (-2, -1)) for quarter in range(4)]
    return turned + [np.flip(part, -1) for part in turned]


def test_one_crop_and_one_turn_for_all_three(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=40, augment=True, seed=5)
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            sample = [part.numpy().reshape(-1, 40, 40) for part in dataset[index]]
            stack = np.concatenate(whole(dataset, index))
            windows = np.lib.stride_tricks.sliding_window_view(stack, (40, 40), (1, 2))
            found = []
            for symmetry, part in enumerate(symmetries(np.concatenate(sample))):
                # The first row of one channel finds candidates, then everything is compared.
                rows = np.argwhere((windows[0, :, :, 0] == part[0, 0]).all(-1))
                places = [tuple(at) for at in rows if (windows[:, at[0], at[1]] == part).all()]
                found += [(symmetry, place) for place in places]
            assert len(found) == 1
            seen.add(found[0])
    assert len({symmetry for symmetry, _ in seen}) == 8
    places = np.array([place for _, place in seen])
    assert len({tuple(place) for place in places}) > 60
    # Crops reach both edges of the 57 places there are.
    assert (places.min(0) < 5).all()
    assert (places.max(0) > 51).all()


def test_windows_that_are_not_square_keep_their_shape(tmp_path: Path, write_png) -> None:
    folder = tmp_path / "train"
    for name in ("images", "targets"):
        (folder / name).mkdir(parents=True)
    pixels = np.arange(6 * 9).reshape(6, 9) % 5
    for phase in ("pre", "post"):
        write_png(folder / f"images/wide_1_{phase}_disaster.png", pixels, 0)
        write_png(folder / f"targets/wide_1_{phase}_disaster_target.png", pixels, 0)
    dataset = rp.xbd.XBDDataset(tmp_path, augment=True)
    seen = set()
    for epoch in range(40):
        dataset.set_epoch(epoch)
        pre, _, mask = dataset[0]
        assert mask.shape == (6, 9)
        assert torch.equal(pre[0], mask)
        seen.add(mask.numpy().tobytes())
    turned = [pixels[::down, ::across] for down in (1, -1) for across in (1, -1)]
    assert seen == {part.astype(np.uint8).tobytes() for part in turned}


@pytest.mark.parametrize("normalize", ["imagenet", ((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))])
def test_normalize(root: Path, normalize) -> None:
    pre, post, mask = rp.xbd.XBDDataset(root, crop=32, augment=True, normalize=normalize)[1]
    raw = rp.xbd.XBDDataset(root, crop=32, augment=True)[1]
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if normalize == "imagenet" else normalize
    for image, pixels in ((pre, raw[0]), (post, raw[1])):
        assert image.dtype == torch.float32
        expected = (pixels.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(image.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(mask, raw[2])


def test_un_classified_is_for_labels(root: Path, tmp_path: Path) -> None:
    rp.xbd.synthesize(tmp_path, tiles=4, size=64, un_classified=1.0)

    def values(choice: str) -> set[int]:
        masks = [mask for _, _, mask in rp.xbd.XBDDataset(tmp_path, un_classified=choice)]
        return set(torch.stack(masks).unique().tolist())

    assert values("no-damage") == {0, 255}
    shutil.rmtree(tmp_path / "train/targets")
    assert [values(choice) for choice in ("ignore", "no-damage", "background")] == [{0, 255}, {0, 1}, {0}]


def test_the_sample_is_a_pure_function_of_seed_epoch_and_index(root: Path) -> None:
    def make(seed: int = 7) -> rp.xbd.XBDDataset:
        return rp.xbd.XBDDataset(root, crop=32, augment=True, seed=seed)

    first, again = make(), make()
    expected = [first[index] for index in range(8)]
    assert_equal([again[index] for index in reversed(range(8))][::-1], expected)
    first.set_epoch(1)
    assert first.epoch == 1
    assert differs([first[index] for index in range(8)], expected)
    first.set_epoch(0)
    assert_equal([first[index] for index in range(8)], expected)
    assert differs([make(8)[index] for index in range(8)], expected)


@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (1, "fork"), (2, "fork"), (2, "spawn")], ids=["none", "fork1", "fork2", "spawn2"]
)
def test_any_number_of_workers_gives_the_same(root: Path, workers: int, method: str | None) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=32, augment=True, seed=7)
    dataset.set_epoch(3)
    expected = [dataset[index] for index in range(8)]
    assert_equal(read_all(dataset, num_workers=workers, multiprocessing_context=method), expected)
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context=method))
    stacked = [tuple(map(torch.stack, zip(*expected[start : start + 4], strict=True))) for start in (0, 4)]
    assert_equal(batches, stacked)


def pickled(dataset: rp.xbd.XBDDataset) -> rp.xbd.XBDDataset:
    return pickle.loads(pickle.dumps(dataset))


@pytest.mark.parametrize(
    ("method", "duplicate"), [("fork", None), ("fork", copy.deepcopy), ("fork", pickled), ("spawn", None)]
)
def test_set_epoch_reaches_persistent_workers(root: Path, method: str, duplicate) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=32, augment=True)
    dataset = duplicate(dataset) if duplicate else dataset
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context=method
    )
    epochs = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        epochs.append(list(loader))
        assert_equal(epochs[epoch], [dataset[index] for index in range(8)])
    assert differs(epochs[0], epochs[1])


def test_a_pickled_copy_is_equal_and_apart(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=32, augment=True, normalize="imagenet", seed=2)
    dataset.set_epoch(4)
    other = pickled(dataset)
    assert_equal([other[0]], [dataset[0]])
    other.set_epoch(5)
    assert dataset.epoch == 4


def count_in_child(root: str, queue: multiprocessing.Queue) -> None:
    queue.put(rp.xbd.pixel_counts(root).tolist())


def test_a_shallow_copy_counts_its_own_epochs(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=32, seed=4)
    other = copy.copy(dataset)
    other.set_epoch(7)
    assert (dataset.epoch, other.epoch) == (0, 7)
    dataset.set_epoch(7)
    assert_equal([dataset[0]], [other[0]])


def test_what_samples_are_made_of_cannot_be_changed(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=32)
    for changed in (dataset, copy.copy(dataset), pickle.loads(pickle.dumps(dataset))):
        for name in {*inspect.signature(rp.xbd.XBDDataset).parameters, "tiles"}:
            with pytest.raises(AttributeError, match=f"{name}: cannot be changed, expected another XBDDataset"):
                setattr(changed, name, None)
    with pytest.raises(IndexError, match="index: got 8, expected one of 8 tiles"):
        dataset._feed.read_sample(0, 8)
    with pytest.raises(IndexError, match="index: got 9, expected one of 8 tiles"):
        dataset._feed.tile_size(9)


def test_modes_and_default_devices_do_not_matter(root: Path) -> None:
    with torch.device("meta"), torch.inference_mode():
        dataset = rp.xbd.XBDDataset(root, crop=32)
    dataset.set_epoch(1)
    expected = rp.xbd.XBDDataset(root, crop=32)
    expected.set_epoch(1)
    assert_equal([dataset[0]], [expected[0]])


def test_a_forked_child_can_count(root: Path) -> None:
    """Threads that counted in the parent are not waited for in the child."""
    expected = rp.xbd.pixel_counts(root).tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=count_in_child, args=(str(root), queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> rp.xbd.XBDDataset:
    return rp.xbd.XBDDataset(shutil.copytree(root, tmp_path / "copy"), crop=32)


def test_a_crop_larger_than_a_tile(root: Path) -> None:
    dataset = rp.xbd.XBDDataset(root, crop=97)
    name = dataset.tiles[0].pre.image.name
    with pytest.raises(ValueError, match=rf"crop: got 97, expected 1 to 96, the shorter side of .*{name}"):
        dataset[0]


def test_sizes_that_do_not_match(broken: rp.xbd.XBDDataset, write_png) -> None:
    tile = broken.tiles[0]
    write_png(tile.post.target, np.zeros((96, 95)), 0)
    expected = rf"{tile.post.target.name}: 95 x 96 pixels, expected 96 x 96 as .*{tile.pre.image.name} has"
    with pytest.raises(ValueError, match=expected):
        broken[0]
    write_png(tile.post.image, np.zeros((50, 96)), 0)
    with pytest.raises(ValueError, match=rf"{tile.post.image.name}: 96 x 50 pixels, expected 96 x 96 as "):
        broken[0]


def test_files_that_go_bad(broken: rp.xbd.XBDDataset) -> None:
    tile = broken.tiles[0]
    tile.pre.image.unlink()
    with pytest.raises(FileNotFoundError, match=tile.pre.image.name):
        broken[0]
    tile = broken.tiles[1]
    tile.post.target.write_bytes(tile.post.target.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"{tile.post.target.name}: not a whole PNG"):
        broken[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": 0}, "crop: got 0, expected 1 to"),
        ({"seed": -1}, "seed: got -1, expected 0 to"),
        ({"un_classified": "skip"}, 'un_classified: got "skip", expected "ignore", "no-damage" or "background"'),
        ({"normalize": "cifar"}, "normalize: got 'cifar', expected None"),
        ({"normalize": ((0, 0, 0), (1, 0, 1))}, r"normalize: got \(\(0, 0, 0\), \(1, 0, 1\)\), expected None"),
        ({"normalize": ((0, 0), (1, 1))}, "expected None, .* of three finite numbers each, std above 0"),
        ({"normalize": 3}, "normalize: got 3, expected None"),
        ({"normalize": ("123", "456")}, "normalize: got \\('123', '456'\\), expected None"),
        ({"normalize": ((0, 0, 0), (1e-50, 1, 1))}, "std above 0, in float32"),
        ({"normalize": ((0, 0, 0), (1e-40, 1, 1))}, "std above 0, in float32"),
        ({"normalize": ((1e300, 0, 0), (1, 1, 1))}, "std above 0, in float32"),
        ({"normalize": ((1e30, 0, 0), (1e-30, 1, 1))}, "std above 0, in float32"),
    ],
)
def test_wrong_arguments(root: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rp.xbd.XBDDataset(root, **wrong)


def test_normalize_by_an_array(root: Path) -> None:
    pair = [[0.1, 0.2, 0.3], [0.5, 0.25, 0.125]]
    first, second = (rp.xbd.XBDDataset(root, normalize=normalize)[0] for normalize in (pair, np.array(pair)))
    assert_equal([first], [second])


def test_wrong_epoch(root: Path) -> None:
    with pytest.raises(ValueError, match="epoch: got -1, expected 0 to"):
        rp.xbd.XBDDataset(root).set_epoch(-1)


def test_the_rest_works_without_torch(root: Path) -> None:
    code = """if True:
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        import rarepixel as rp
        tile = rp.xbd.index(sys.argv[1]).tiles[0]
        rp.xbd.read_image(tile.pre.image), rp.xbd.read_target(tile.post.target), rp.xbd.rasterize_label(tile.post.label)
        rp.xbd.pixel_counts(sys.argv[1])
        try:
            rp.xbd.XBDDataset
        except ImportError as error:
            assert "rarepixel[torch]" in str(error), error
        else:
            raise AssertionError("no torch, no dataset")
        """
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)


def test_real_tiles(real: Path) -> None:
    dataset = rp.xbd.XBDDataset(real, crop=256, augment=True, normalize="imagenet")
    assert len(dataset) == 5
    for index in range(5):
        pre, post, mask = dataset[index]
        assert pre.shape == post.shape == (3, 256, 256)
        assert mask.shape == (256, 256)
        assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
