"""The parity suite of tests/loss on CUDA: the same truth and tolerances, fewer examples, and corners of the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from loss.test_parity import LABEL_DTYPES, LOSSES, REGION_LOSSES, batches, compare
from support import LAYOUTS, PRECISIONS, Precision, few, laid_out


def random_batch(shape: tuple[int, ...], ignored: int = -100) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = ignored
    return logits, labels


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@few(10)
@given(data=st.data())
def test_equals_the_reference(name: str, precision: Precision, data: st.DataObject, cuda: str) -> None:
    logits, labels, chosen = data.draw(batches(name))
    layout = data.draw(st.sampled_from(LAYOUTS))
    wide_enough = [dtype for dtype in LABEL_DTYPES if labels.to(dtype).long().equal(labels)]
    compare(name, precision, logits, labels.to(data.draw(st.sampled_from(wide_enough))), layout, chosen, cuda)


@pytest.mark.parametrize("name", REGION_LOSSES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@few(10)
@given(data=st.data())
def test_soft_targets_equal_the_reference(name: str, precision: Precision, data: st.DataObject, cuda: str) -> None:
    logits, labels, chosen = data.draw(batches(name))
    generator = torch.Generator().manual_seed(1)
    shares = torch.rand(logits.shape, generator=generator, dtype=torch.float64).softmax(1)
    one_hot = F.one_hot(labels.clamp(0, logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1)
    target = data.draw(st.sampled_from([shares.float(), one_hot, one_hot.float()]))
    target = laid_out(target, data.draw(st.sampled_from(["contiguous", "channels_last", "permuted"])))
    compare(name, precision, logits, target, data.draw(st.sampled_from(LAYOUTS)), chosen, cuda)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_whole_vectors(precision: Precision, layout: str, label_dtype: torch.dtype, cuda: str) -> None:
    """Sizes and addresses that allow the widest loads, in more blocks than the (emulated) device holds at a time."""
    logits, labels = random_batch((3, 5, 64, 96), ignored=100)
    compare("dice_focal_loss", precision, logits, labels.to(label_dtype), layout, {"ignore_index": 100}, cuda)


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS[1:], ids=str)
@pytest.mark.parametrize(
    ("name", "classes", "chosen"),
    [
        ("dice_focal_loss", 5, {"per_sample": True}),
        ("dice_loss", 2, {"average": "macro"}),
        ("focal_loss", 3, {"reduction": "none"}),
        ("cross_entropy", 7, {"weight": [1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 1.5]}),
    ],
    ids=str,
)
def test_several_turns_of_all_blocks(
    name: str, classes: int, chosen: dict[str, Any], precision: Precision, label_dtype: torch.dtype, cuda: str
) -> None:
    """On the emulator a thread asks for its next pixels while it works on those before."""
    logits, labels = random_batch((3, classes, 64, 96), ignored=100)
    options = {"ignore_index": 100, **chosen}
    compare(name, precision, logits, labels.to(label_dtype), "contiguous", options, cuda)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", PRECISIONS[1:], ids=str)
def test_whole_vectors_without_copies_behind(
    precision: Precision, layout: str, fresh_device: int, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute capability 7.5 has none to shared memory."""
    monkeypatch.setenv("EMULATOR_CAPABILITY", "75")
    logits, labels = random_batch((3, 5, 64, 96), ignored=100)
    compare("dice_focal_loss", precision, logits, labels, layout, {"ignore_index": 100}, cuda)


@pytest.mark.parametrize("classes", [1, 2, 8, 9, 16, 17, 24, 25, 32, 33, 150])
@pytest.mark.parametrize("precision", PRECISIONS[:2], ids=str)
def test_numbers_of_classes(precision: Precision, classes: int, cuda: str) -> None:
    """Across the borders between widths, and between registers and memory."""
    logits, labels = random_batch((2, classes, 8, 24))
    alpha = torch.rand(classes, generator=torch.Generator().manual_seed(4)).tolist()
    compare("dice_focal_loss", precision, logits, labels, "contiguous", {"alpha": alpha, "average": "macro"}, cuda)


@pytest.mark.parametrize("classes", [5, 32, 33])
@pytest.mark.parametrize("precision", PRECISIONS[:2], ids=str)
def test_label_smoothing_of_many_classes(precision: Precision, classes: int, cuda: str) -> None:
    logits, labels = random_batch((2, classes, 8, 24))
    weight = torch.rand(classes, generator=torch.Generator().manual_seed(4)).tolist()
    compare("cross_entropy", precision, logits, labels, "contiguous", {"weight": weight, "label_smoothing": 0.1}, cuda)


@pytest.mark.parametrize("classes", [4, 9, 40])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_soft_targets_of_whole_vectors(precision: Precision, classes: int, cuda: str) -> None:
    logits, _ = random_batch((2, classes, 8, 32))
    target = logits.flip(0).softmax(1).float()
    compare("dice_loss", precision, logits, target, "contiguous", {}, cuda)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_storage_offsets(precision: Precision, cuda: str) -> None:
    """Tensors that start in the middle of a vector: the logits, then the labels."""
    logits, labels = random_batch((2, 5, 8, 16), ignored=100)
    labels = labels.to(torch.uint8)
    compare("dice_focal_loss", precision, logits, labels, "storage_offset", {"ignore_index": 100}, cuda)
    shifted = laid_out(labels, "storage_offset")
    compare("dice_focal_loss", precision, logits, shifted, "contiguous", {"ignore_index": 100}, cuda)


def test_rows_of_samples(cuda: str) -> None:
    """More rows of sums than warps in the finishing kernel."""
    logits, labels = random_batch((70, 3, 5, 7))
    for average in ("micro", "macro"):
        chosen = {"per_sample": True, "average": average, "absent": "skip"}
        compare("dice_focal_loss", PRECISIONS[1], logits, labels, "contiguous", chosen, cuda)
