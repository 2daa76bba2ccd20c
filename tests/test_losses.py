"""The modules: what they make of class weights, and how they show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import rarepixel as rp

LOGITS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])


@pytest.mark.parametrize(
    "alpha",
    [
        np.array([1, 2, 3])[::-1],
        np.array([3.0, 2.0, 1.0], dtype=">f4"),
        rp.class_weights([1, 2, 3]),
        (3, 2, 1),
    ],
    ids=repr,
)
def test_weights_are_those_of_the_function(alpha: np.ndarray) -> None:
    assert torch.equal(rp.FocalLoss(alpha)(LOGITS, TARGET), rp.focal_loss(LOGITS, TARGET, alpha))


def test_repr() -> None:
    text = "CrossEntropyLoss(weight=[1.0, 2.0], ignore_index=-100, reduction='mean', label_smoothing=0.0, "
    assert repr(rp.CrossEntropyLoss([1, 2])).startswith(text)


def test_repr_of_weights_without_numbers() -> None:
    with torch.device("meta"):
        criterion = rp.FocalLoss(alpha=[1.0, 2.0, 3.0])
    assert "alpha=tensor(..., device='meta', size=(3,)), gamma=2.0" in repr(criterion)
    with FakeTensorMode():
        criterion = rp.FocalLoss(alpha=[1.0, 2.0, 3.0])
        assert "alpha=FakeTensor(..., size=(3,)), gamma=2.0" in repr(criterion)
