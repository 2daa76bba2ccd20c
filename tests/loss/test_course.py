"""The course that the project implements: its training loop, unchanged but for the import, and its worked figures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import rarepixel as rp
from support import assert_close, gradient_of

CLASS_WEIGHTS = torch.tensor([1.0, 5.0, 20.0, 20.0, 20.0])


class PlainFocalLoss(torch.nn.Module):
    """The widespread few-line focal loss: p_t from the weighted cross entropy."""

    def __init__(self, alpha: torch.Tensor | None = None, gamma: float = 2) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ce = F.cross_entropy(logits, targets, weight=self.alpha, reduction="none")
        return ((1 - torch.exp(-ce)) ** self.gamma * ce).mean()


class PlainDiceLoss(torch.nn.Module):
    """The widespread few-line Dice loss on one-hot targets."""

    def __init__(self, smooth: float = 1e-6) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1)
        return 1 - (2 * (p * target).sum() + self.smooth) / (p.sum() + target.sum() + self.smooth)


class Siamese(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.head = torch.nn.Conv2d(16, 5, 3, padding=1)

    def forward(self, pre: torch.Tensor, post: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.encoder(pre), self.encoder(post)], 1).relu())


def train(focal_fn: torch.nn.Module, dice_fn: torch.nn.Module, dtype: torch.dtype) -> list[float]:
    torch.manual_seed(0)
    model = Siamese().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    curve = []
    for _ in range(12):
        pre, post = torch.rand(2, 2, 3, 32, 32, dtype=dtype)
        mask = (torch.rand(2, 32, 32) > 0.9) * torch.randint(5, (2, 32, 32))
        mask = mask.to(torch.uint8)
        logits = model(pre, post)
        one_hot = F.one_hot(mask.long(), 5).permute(0, 3, 1, 2).float()
        loss = focal_fn(logits, mask.long()) + dice_fn(logits, one_hot)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_loop_runs_unchanged_and_gives_the_same_curve(dtype: torch.dtype, rtol: float) -> None:
    weights = CLASS_WEIGHTS.to(dtype)
    plain = train(PlainFocalLoss(alpha=weights, gamma=2), PlainDiceLoss(smooth=1e-6), dtype)
    ours = train(rp.FocalLoss(alpha=weights, gamma=2, pt="weighted_ce"), rp.DiceLoss(smooth=1e-6), dtype)
    assert ours == pytest.approx(plain, rel=rtol)
    assert plain[-1] != pytest.approx(plain[0], rel=1e-2), "the loop must train, or it compares nothing"


def test_one_batch_of_the_loop_in_float64() -> None:
    logits = (torch.randn(4, 5, 33, 31, dtype=torch.float64) * 3).requires_grad_()
    mask = torch.randint(5, (4, 33, 31))
    one_hot = F.one_hot(mask, 5).permute(0, 3, 1, 2).double()
    weights = CLASS_WEIGHTS.double()
    plain = PlainFocalLoss(weights)(logits, mask) + PlainDiceLoss()(logits, one_hot)
    ours = rp.FocalLoss(weights, pt="weighted_ce")(logits, mask) + rp.DiceLoss()(logits, one_hot)
    fused = rp.DiceFocalLoss(weights, pt="weighted_ce")(logits, mask)
    plain_gradient = gradient_of(plain, logits)
    for got in (ours, fused):
        assert_close("loss", got, plain, 1e-12)
        assert_close("gradient", gradient_of(got, logits), plain_gradient, 1e-12)


def test_weighted_cross_entropy_figures() -> None:
    destroyed = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2]]).log()
    assert rp.cross_entropy(destroyed, torch.tensor([4]), reduction="none").item() == pytest.approx(1.61, abs=5e-3)
    weighted = rp.cross_entropy(destroyed, torch.tensor([4]), weight=CLASS_WEIGHTS, reduction="none").item()
    assert weighted == pytest.approx(32.2, abs=5e-2)
    background = torch.tensor([[0.95, 0.0125, 0.0125, 0.0125, 0.0125]]).log()
    easy = rp.cross_entropy(background, torch.tensor([0]), weight=CLASS_WEIGHTS, reduction="none").item()
    assert easy == pytest.approx(0.051, abs=5e-4)
    assert weighted / easy == pytest.approx(600, rel=0.1)


@pytest.mark.parametrize(
    ("p", "focal", "times_smaller"), [(0.95, 0.00013, 400), (0.5, 0.173, 4), (0.1, 1.865, 1.2), (0.05, 2.704, 1.1)]
)
def test_focal_figures(p: float, focal: float, times_smaller: float) -> None:
    logits = torch.tensor([[p, 1 - p]]).log()
    got = rp.focal_loss(logits, torch.tensor([0]), gamma=2).item()
    assert got == pytest.approx(focal, rel=0.015)
    assert rp.cross_entropy(logits, torch.tensor([0])).item() / got == pytest.approx(times_smaller, rel=0.05)


@pytest.mark.parametrize(("overlap", "dice"), [(100, 1.0), (80, 0.8), (50, 0.5), (10, 0.1), (0, 0.0)])
def test_dice_table(overlap: int, dice: float) -> None:
    # 100 target pixels of class 1 and 100 predicted ones, with certainty, of which `overlap` agree.
    target, predicted = torch.zeros(2, 1, 300, dtype=torch.int64)
    target[:, :100] = 1
    predicted[:, 100 - overlap : 200 - overlap] = 1
    logits = (F.one_hot(predicted, 2).movedim(-1, 1).double() - 0.5) * 1e3
    loss = rp.dice_loss(logits, target, include_background=False)
    assert 1 - loss.item() == pytest.approx(dice, abs=1e-7)


def test_micro_dice_is_blind_to_imbalance() -> None:
    """What the docs say: micro Dice with all classes is 1 - mean(p_y)."""
    logits = torch.randn(2, 5, 16, 16, dtype=torch.float64)
    target = torch.randint(5, (2, 16, 16))
    p_y = logits.softmax(1).gather(1, target.unsqueeze(1))
    assert rp.dice_loss(logits, target, smooth=0.0).item() == pytest.approx(1 - p_y.mean().item(), rel=1e-12)
