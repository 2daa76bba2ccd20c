"""Multi-scale supervision on CUDA: the same compositions as on the CPU, ranks, and corners of the resizing kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import rarepixel as rp
from emulation import Emulator
from rarepixel import _cuda, ops, reference
from rarepixel.options import Options
from support import PRECISIONS, Precision, few, gradient_of
from test_multi_scale import MODES, compare, succeed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@few(8)
@given(data=st.data())
def test_every_mode_equals_the_composition(mode: str, precision: Precision, data: st.DataObject, cuda: str) -> None:
    compare(mode, precision, data, cuda)


def labels_of(target: torch.Tensor, size: tuple[int, int], classes: int, mode: str, ignore_index: int) -> torch.Tensor:
    """The labels that the kernel makes."""
    logits = torch.zeros(target.shape[0], classes, *size, device=target.device)
    options = Options(pixel="cross_entropy", target_mode=mode, ignore_index=ignore_index)
    labels, changed = ops._resized(logits, target, options)
    assert (changed.target_mode, changed.ignore_index) == ("exact", -1)
    return torch.where(labels == -1, ignore_index, labels).long()


@pytest.mark.parametrize("sizes", [(512, 128), (301, 76), (65, 200)], ids=str)
def test_nearest_picks_what_torch_picks(sizes: tuple[int, int], cuda: str) -> None:
    full, small = sizes
    target = torch.randint(4, (1, full, full), dtype=torch.uint8, device=cuda)
    expected = F.interpolate(target[:, None].float(), (small, small), mode="nearest-exact")[:, 0].long()
    assert torch.equal(labels_of(target, (small, small), 4, "nearest", 255), expected)


@pytest.mark.parametrize("classes", [2, 5, 32, 33, 100])
def test_majority_of_any_number_of_classes(classes: int, cuda: str) -> None:
    """More than are counted at a time, with ties, in windows that overlap."""
    generator = torch.Generator().manual_seed(classes)
    target = torch.randint(classes, (2, 31, 44), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    target[0, :9] = 255
    target = target.to(cuda, torch.int16)
    for size in ((4, 6), (7, 44), (40, 50)):
        logits = torch.zeros(2, classes, *size, device=cuda)
        _, expected = reference.matched(logits, target, "majority", ignore_index=255)
        assert torch.equal(labels_of(target, size, classes, "majority", 255), expected)


@pytest.mark.parametrize("mode", ["nearest", "majority"])
def test_the_registered_operator_resizes_by_kernels(mode: str, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what torch.compile calls."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 4, 7, 5, generator=generator).to(cuda).requires_grad_()
    target = torch.randint(4, (2, 30, 21), generator=generator).to(cuda, torch.uint8)
    target[0, :9] = 255
    options = Options(pixel="focal", region="dice", target_mode=mode, ignore_index=255)
    expected = ops.loss(logits, target, options)
    truth = gradient_of(expected, logits)
    calls: list[object] = []
    resize = _cuda.resize
    monkeypatch.setattr(_cuda, "resize", lambda *arguments: (calls.append(arguments), resize(*arguments)))
    got, _ = torch.ops.rarepixel.loss(logits, target, None, None, *options)
    assert torch.equal(got, expected)
    assert torch.equal(gradient_of(got, logits), truth)
    assert len(calls) == 2


def test_a_wrong_label_gives_nan(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(1, 3, 4, 4, device=cuda)
    target = torch.zeros(1, 16, 16, dtype=torch.int64, device=cuda)
    target[0, 6, 7] = 3
    stage = [{"focal": {}}]
    assert rp.multi_scale_loss([logits], target, stage, "majority").isnan()
    assert rp.multi_scale_loss([logits], target, stage, "nearest").isfinite()  # that pixel is not picked
    target[0, 6, 6] = 3
    assert rp.multi_scale_loss([logits], target, stage, "nearest").isnan()
    monkeypatch.setenv("RAREPIXEL_DEBUG", "1")
    with pytest.raises(ValueError, match=r"target: got label 3 at position \[0, 6, 6\], expected 0 to 2"):
        rp.multi_scale_loss([logits], target, stage, "nearest")


def test_bad_shapes_are_named(cuda: str) -> None:
    logits = torch.zeros(2, 3, 4, 4, device=cuda)
    for target, error, message in (
        (torch.zeros(2, 64).long(), ValueError, r"target: got shape \[2, 64\], expected \(N, height, width\)"),
        (
            torch.zeros(1, 8, 8).long(),
            ValueError,
            r"target: got shape \[1\], expected shape \[2\], as many samples as input",
        ),
        (torch.zeros(2, 8, 8), TypeError, "target: got float32, expected uint8, int16, int32 or int64 class indices"),
        (torch.zeros(2, 0, 8).long(), ValueError, "target: got 0 x 8 pixels, expected pixels where input has pixels"),
    ):
        for mode in ("nearest", "majority"):
            with pytest.raises(error, match=message):
                rp.multi_scale_loss([logits], target.to(cuda), [{"focal": {}}], mode)


def test_only_launches_once_it_is_warm(
    emulator: Emulator, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.randint(3, (1, 16, 16))
    stages = [{"focal": {}, "dice": {}}]
    rp.multi_scale_loss([logits], target, stages, "majority").backward()
    log = tmp_path / "calls"
    monkeypatch.setenv("EMULATOR_LOG", str(log))
    monkeypatch.setattr(_cuda, "_place", lambda tensor: (0, 0x5EED))
    rp.multi_scale_loss([logits], target, stages, "majority").backward()
    calls = [line.split() for line in log.read_text().splitlines()]
    launched = ("confusion", "majority", "reduce", "finish", "coefficients", "gradient")
    assert [call[:2] for call in calls] == [["cuLaunchKernel", name] for name in launched]
    assert {call[-1] for call in calls} == {"0x5eed"}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.timeout(240)
def test_ranks_equal_one_process(ranks: int, emulator: Emulator) -> None:
    """The sums of CUDA tensors are added up between the passes: here CPU tensors on the CUDA path, by gloo."""
    succeed(ranks, "equal", str(emulator.library))
