"""The NumPy functions: the torch functions' numbers, gradients and errors, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import rarepixel as rp
import rarepixel.numpy as rpn
from support import gradient_of

CASES: list[tuple[str, dict[str, Any]]] = [
    ("cross_entropy", {"weight": [1.0, 2.0, 3.0], "label_smoothing": 0.1, "ignore_index": 1}),
    ("cross_entropy", {"reduction": "none"}),
    ("focal_loss", {"alpha": np.array([1.0, 2.0, 3.0]), "gamma": 1.5, "reduction": "sum"}),
    ("focal_loss", {"pt": "weighted_ce", "reduction": "none", "ignore_index": 2}),
    ("dice_loss", {"average": "macro", "weight": [1.0, 2.0, 3.0], "per_sample": True}),
    ("tversky_loss", {"alpha": 0.3, "beta": 0.7, "weight": [1.0, 2.0, 3.0]}),
    ("dice_focal_loss", {"lambda_dice": 0.5, "absent": "skip", "average": "macro"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "reversed", "byte_swapped"])
def test_equals_the_torch_function(name: str, options: dict[str, Any], dtype: type, layout: str) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 3, 5, 7)).astype(dtype)
    target = generator.integers(3, size=(2, 5, 7))
    arranged = logits
    if layout == "channels_last":
        arranged = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
        arranged = np.moveaxis(arranged, -1, 1)
    elif layout == "reversed":
        arranged = np.ascontiguousarray(logits[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    elif layout == "byte_swapped":
        arranged = logits.astype(np.dtype(dtype).newbyteorder())
    loss, gradient = getattr(rpn, name)(arranged, target, **options)
    input = torch.from_numpy(logits).requires_grad_()
    expected = getattr(rp, name)(input, torch.from_numpy(target), **options)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-6 if dtype != np.float64 else 1e-13)
    assert isinstance(loss, np.ndarray if options.get("reduction") == "none" else float)
    assert gradient.dtype == dtype
    assert gradient.shape == logits.shape
    truth = gradient_of(expected.sum(), input).numpy()
    np.testing.assert_allclose(gradient, truth, rtol=1e-2 if dtype == np.float16 else 1e-6, atol=1e-9)


def test_soft_targets() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 40))
    shares = np.full((2, 3, 40), 1 / 3)
    loss, _ = rpn.dice_loss(logits, shares)
    expected = rp.dice_loss(torch.from_numpy(logits), torch.from_numpy(shares))
    assert loss == pytest.approx(expected.item(), rel=1e-13)
    one_hot = np.eye(3, dtype=np.int8)[np.zeros((2, 40), dtype=int)].transpose(0, 2, 1)
    loss, _ = rpn.dice_loss(logits, one_hot)
    assert loss == pytest.approx(rpn.dice_loss(logits, np.zeros((2, 40), dtype=np.uint8))[0], rel=1e-13)


@pytest.mark.parametrize(
    ("input", "target", "options", "error", "message"),
    [
        ([[1.0]], np.zeros(1, int), {}, TypeError, "input: got list, expected a numpy.ndarray"),
        (np.zeros((2, 3)), [0, 0], {}, TypeError, "target: got list, expected a numpy.ndarray"),
        (np.zeros(3), np.zeros(3, int), {}, ValueError, r"input: got shape \[3\], expected \(N, C"),
        (np.zeros((2, 3), int), np.zeros(2, int), {}, TypeError, "input: got int64, expected float32"),
        (np.zeros((2, 3)), np.zeros(2), {}, TypeError, "target: got float64, expected uint8"),
        (np.zeros((2, 3)), np.zeros(3, int), {}, ValueError, r"target: got shape \[3\], expected shape \[2\]"),
        (np.zeros((2, 3)), np.array([0, 3]), {}, ValueError, r"target: got label 3 at position \[1\]"),
        (np.zeros((2, 3)), np.zeros(2, int), {"weight": 1.0}, ValueError, r"weight: got shape \[\], expected \(3,\)"),
        (
            np.zeros((2, 3)),
            np.zeros(2, int),
            {"weight": "x"},
            TypeError,
            "weight: got 'x', expected one number for each",
        ),
    ],
)
def test_bad_input(input: Any, target: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rpn.cross_entropy(input, target, **options)


def test_everything_but_the_torch_losses_works_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None   # any import of it fails
import numpy as np, rarepixel as rp
loss, gradient = rp.numpy.focal_loss(np.zeros((1, 2, 4), np.float32), np.zeros((1, 4), np.uint8))
assert abs(loss - 0.1733) < 1e-4, loss
assert rp.class_weights([3, 1]).tolist() == [2 / 3, 2.0]
try:
    rp.focal_loss
except ImportError as error:
    assert "rarepixel[torch]" in str(error), error
else:
    raise AssertionError("rp.focal_loss without torch")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_does_not_import_torch() -> None:
    code = "import sys, rarepixel; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_target_without_dimensions() -> None:
    with pytest.raises(ValueError, match=r"target: got shape \[\]"):
        rpn.cross_entropy(np.zeros((2, 3), np.float32), np.array(1))


def test_an_input_that_overlaps_itself() -> None:
    numbers = np.arange(20, dtype=np.float32)
    overlapping = np.lib.stride_tricks.as_strided(numbers, (1, 3, 4, 4), (0, 4, 16, 4))
    target = np.zeros((1, 4, 4), np.uint8)
    (got, slope), (loss, gradient) = (rpn.cross_entropy(one, target) for one in (overlapping, overlapping.copy()))
    assert got == loss
    np.testing.assert_array_equal(slope, gradient)


def test_masked_arrays_are_refused() -> None:
    masked = np.ma.masked_array(np.zeros((1, 2, 3), np.float32), mask=True)
    with pytest.raises(TypeError, match="input: got MaskedArray"):
        rpn.cross_entropy(masked, np.zeros((1, 3), np.uint8))


@pytest.mark.parametrize(
    "weight", [np.ones(3) * 1j, ["1", "2", "3"], np.zeros(3, "M8[s]"), np.ma.masked_array([1.0] * 3)]
)
def test_weights_that_are_no_numbers_are_refused(weight: Any) -> None:
    logits, target = np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), np.uint8)
    with pytest.raises(TypeError, match=r"(?s)weight: got .*, expected one number for each class"):
        rp.numpy.cross_entropy(logits, target, weight=weight)


def test_weights_that_are_tensors_or_objects() -> None:
    torch = pytest.importorskip("torch")
    logits, target = np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), np.uint8)
    expected = rp.numpy.cross_entropy(logits, target, weight=[1.0, 2.0, 3.0])[0]
    for weight in (torch.tensor([1.0, 2.0, 3.0], requires_grad=True), np.array([1, 2, 3], dtype=object)):
        assert rp.numpy.cross_entropy(logits, target, weight=weight)[0] == expected
    with pytest.raises(TypeError, match="weight: got array"):
        rp.numpy.cross_entropy(logits, target, weight=np.array(["1", "2", "3"], dtype=object))


@pytest.mark.parametrize("dtype", [np.complex64, "M8[s]", object, "U1"])
def test_soft_targets_that_are_no_numbers_are_refused(dtype: Any) -> None:
    logits = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(TypeError, match=r"target: got .*, expected numbers, one for each class"):
        rp.numpy.dice_loss(logits, np.zeros((2, 3, 4), dtype))
