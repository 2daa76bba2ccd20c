"""The confusion matrix on CUDA: the tests of tests/metrics, and what only a device has."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given

import rarepixel as rp
from metrics.test_confusion_matrix import LABEL_DTYPES, LOGIT_DTYPES, batches, brute_force, layouts, rearranged
from rarepixel import _core, _cuda
from support import few


@pytest.fixture(autouse=True)
def only_on_the_device(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is counted on the CPU."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("counted on the CPU")

    monkeypatch.setattr(_core, "confusion_matrix", refuse)


def random_batch(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator).to(dtype)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.5] = 0  # runs of equal pixels
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return logits, target


def counted(input: torch.Tensor, target: torch.Tensor, classes: int, ignore_index: int = 255) -> np.ndarray:
    matrix = rp.metrics.ConfusionMatrix(classes, ignore_index)
    matrix.update(input, target)
    return matrix.matrix


@few(60)
@given(batch=batches(), input_layout=layouts, target_layout=layouts)
def test_logits_and_labels_equal_brute_force(
    batch: tuple[torch.Tensor, torch.Tensor, int, int], input_layout: str, target_layout: str, cuda: str
) -> None:
    logits, target, classes, ignore_index = batch
    prediction = logits.float().argmax(1)
    expected = brute_force(prediction, target, classes, ignore_index)
    logits, target = rearranged(logits.to(cuda), input_layout), rearranged(target.to(cuda), target_layout)
    np.testing.assert_array_equal(counted(logits, target, classes, ignore_index), expected)
    np.testing.assert_array_equal(counted(prediction.to(cuda), target, classes, ignore_index), expected)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", LOGIT_DTYPES, ids=str)
def test_whole_vectors(dtype: torch.dtype, layout: str, label_dtype: torch.dtype, cuda: str) -> None:
    """Sizes and addresses that allow the widest loads, in more blocks than the device holds at a time."""
    logits, target = random_batch((3, 5, 64, 64), dtype)
    expected = brute_force(logits.float().argmax(1), target % 251, 5, 4)
    target = (target % 251).to(cuda, label_dtype)
    np.testing.assert_array_equal(counted(rearranged(logits.to(cuda), layout), target, 5, 4), expected)
    labels = logits.float().argmax(1).to(cuda, label_dtype)
    np.testing.assert_array_equal(counted(labels, target, 5, 4), expected)


@pytest.mark.parametrize("classes", [2, 8, 9, 16, 17, 32, 33, 150])
def test_numbers_of_classes(classes: int, cuda: str) -> None:
    """Across the borders between widths, and between shared memory and none."""
    logits, target = random_batch((2, classes, 8, 24))
    expected = brute_force(logits.argmax(1), target, classes, 255)
    np.testing.assert_array_equal(counted(logits.to(cuda), target.to(cuda), classes), expected)


@pytest.mark.parametrize("dtype", LOGIT_DTYPES, ids=str)
@pytest.mark.parametrize("classes", [3, 40])
def test_nan_is_the_largest_and_the_first_wins(dtype: torch.dtype, classes: int, cuda: str) -> None:
    nan, inf = float("nan"), float("inf")
    rows = [[1, 1, 0], [inf, nan, nan], [nan, inf, nan], [-inf, -inf, -inf], [0, 1, inf]]
    logits = torch.full((5, classes), -inf, dtype=dtype)
    logits[:, :3] = torch.tensor(rows, dtype=dtype)
    target = torch.arange(5) % 3
    expected = brute_force(logits.float().argmax(1), target, classes, 255)
    np.testing.assert_array_equal(counted(logits.to(cuda), target.to(cuda), classes), expected)


def test_batches_add_up_on_the_device_until_they_are_read(cuda: str) -> None:
    matrix = rp.metrics.ConfusionMatrix(5)
    expected = np.zeros((5, 5), dtype=np.int64)
    for seed in range(3):
        logits, target = random_batch((2, 5, 9, 11), seed=seed)
        matrix.update(logits.to(cuda), target.to(cuda))
        expected += brute_force(logits.argmax(1), target, 5, 255)
    assert matrix._matrix.sum() == 0
    (counts,) = matrix._on_devices.values()
    assert counts.device.type == cuda
    for _ in range(2):
        np.testing.assert_array_equal(matrix.matrix, expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(matrix)).matrix, expected)
    np.testing.assert_array_equal((matrix + matrix).matrix, 2 * expected)
    other = rp.metrics.ConfusionMatrix(5)
    other.load_state_dict(matrix.state_dict())
    np.testing.assert_array_equal(other.matrix, expected)
    np.testing.assert_array_equal(matrix.support(), expected.sum(1))
    matrix.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(matrix.matrix, expected)
    matrix.reset()
    assert matrix.matrix.sum() == 0
    assert next(iter(matrix._on_devices.values())) is counts  # a graph may hold it


@pytest.mark.parametrize("classes", [5, 40])
@pytest.mark.parametrize("wrong", [-1, 300, 2**40])
def test_a_wrong_label_raises_when_the_counts_are_read(wrong: int, classes: int, cuda: str) -> None:
    logits, target = (tensor.to(cuda) for tensor in random_batch((2, classes, 9, 11)))
    matrix = rp.metrics.ConfusionMatrix(classes)
    target[1, 3, 4:6] = wrong
    matrix.update(logits, target)
    message = f"target: got 2 labels that are no class .* expected 0 to {classes - 1} or ignore_index \\(255\\)"
    for read in (lambda: matrix.matrix, matrix.dice, matrix.state_dict, lambda: matrix + matrix):
        with pytest.raises(ValueError, match=message):
            read()
    matrix.reset()
    matrix.update(target, torch.where(target == wrong, 255, target))  # where the target is ignored, anything goes
    assert matrix.accuracy() == 1
    matrix.update(target, torch.zeros_like(target))
    with pytest.raises(ValueError, match=r"input: got .* labels that are no class .* where the target is not ignored"):
        matrix.accuracy()


def test_a_wrong_label_is_named_when_debugging(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # debugging counts on the CPU
    monkeypatch.setenv("RAREPIXEL_DEBUG", "1")
    logits, target = (tensor.to(cuda) for tensor in random_batch((2, 5, 9, 11)))
    matrix = rp.metrics.ConfusionMatrix(5)
    matrix.update(logits, target)
    target[1, 3, 4] = 7
    with pytest.raises(ValueError, match=r"target: got label 7 at position \[1, 3, 4\]"):
        matrix.update(logits, target)
    assert matrix.matrix.sum() == (target != 255).sum()


def test_the_counts_are_not_made_while_a_graph_is_captured(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would clear them."""
    logits, target = (tensor.to(cuda) for tensor in random_batch((2, 5, 9, 11)))
    matrix = rp.metrics.ConfusionMatrix(5)
    with monkeypatch.context() as capturing:
        capturing.setattr(torch.cuda, "is_initialized", lambda: True)
        capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(RuntimeError, match=r"call update\(\) once before capturing a CUDA graph"):
            matrix.update(logits, target)
    matrix.update(logits, target)
    with monkeypatch.context() as capturing:
        capturing.setattr(torch.cuda, "is_initialized", lambda: True)
        capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        matrix.update(logits, target)
    np.testing.assert_array_equal(matrix.matrix, 2 * brute_force(logits.cpu().argmax(1), target.cpu(), 5, 255))


def test_reading_the_counts_waits_for_all_streams(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = (tensor.to(cuda) for tensor in random_batch((2, 5, 9, 11)))
    matrix = rp.metrics.ConfusionMatrix(5)
    matrix.update(logits, target)
    waited_for = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", waited_for.append)
    for read in (lambda: matrix.matrix, matrix.dice, matrix.state_dict):
        read()
    assert waited_for == 3 * [logits.device]


def test_other_tensors(cuda: str) -> None:
    """With a gradient, of bool, expanded, or made in inference mode."""
    matrix = rp.metrics.ConfusionMatrix(2)
    with torch.inference_mode():
        matrix.update(torch.tensor([[0.0, 1.0]], device=cuda), torch.tensor([True], device=cuda))
    matrix.update(torch.tensor([[0.0, 1.0]], device=cuda, requires_grad=True), torch.tensor([True], device=cuda))
    expanded = torch.tensor([[[1.0]], [[0.0]]], device=cuda).movedim(1, 0).expand(1, 2, 1000)
    matrix.update(expanded, torch.zeros(1, 1, device=cuda).expand(1, 1000).int())
    np.testing.assert_array_equal(matrix.matrix, [[1000, 0], [0, 2]])
    matrix.reset()
    assert matrix.matrix.sum() == 0


@pytest.mark.parametrize(
    ("input", "target", "error", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 4).int(), ValueError, r"input: got shape \[2, 3, 4\], .* 5, 4\]"),
        (torch.zeros(2, 4).int(), torch.zeros(2, 5).int(), ValueError, r"the shape of target, as input holds labels"),
        (torch.tensor(1), torch.tensor(1), ValueError, r"target: got shape \[\], expected shape \(N, \*spatial\)"),
        (torch.zeros(2, 5), torch.zeros(2), TypeError, "target: got float32, expected class indices in uint8"),
        (torch.zeros(2).to(torch.int8), torch.zeros(2).int(), TypeError, "input: got int8, expected logits in float16"),
    ],
)  # fmt: skip
def test_bad_input_is_named(
    input: torch.Tensor, target: torch.Tensor, error: type[Exception], message: str, cuda: str
) -> None:
    with pytest.raises(error, match=message):
        rp.metrics.ConfusionMatrix(5).update(input.to(cuda), target.to(cuda))


def test_the_xview2_score(cuda: str) -> None:
    damage, target = torch.tensor([[0, 1, 2, 3, 4, 4]], device=cuda), torch.tensor([[0, 1, 2, 3, 4, 0]], device=cuda)
    metric, other = rp.metrics.XView2Metric(), rp.metrics.XView2Metric()
    other.update(damage, target)
    metric.merge(other)
    result = metric.compute()
    assert (round(result.localization_f1, 4), round(result.damage_f1, 4)) == (0.8889, 1.0)


def test_orders_of_blocks_and_warps_do_not_matter(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for classes in (5, 40):
        logits, target = random_batch((2, classes, 33, 64))
        expected = brute_force(logits.argmax(1), target, classes, 255)
        for seed in range(1, 4):
            monkeypatch.setenv("EMULATOR_SEED", str(seed))
            np.testing.assert_array_equal(counted(logits.to(cuda), target.to(cuda), classes), expected)


def test_one_launch_and_nothing_else(
    emulator: object, cuda: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, target = random_batch((2, 5, 9, 11))
    matrix = rp.metrics.ConfusionMatrix(5)
    matrix.update(logits, target)
    log = tmp_path / "calls"  # type: ignore[operator]
    monkeypatch.setenv("EMULATOR_LOG", str(log))
    monkeypatch.setattr(_cuda, "_place", lambda tensor: (0, 0x5EED))
    matrix.update(logits, target)
    (call,) = [line.split() for line in log.read_text().splitlines()]
    assert call[:2] == ["cuLaunchKernelEx", "confusion"]
    assert call[-1] == "0x5eed"
