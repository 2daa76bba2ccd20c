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
from rarepixel import _calls, _cuda, ops, reference
from rarepixel.options import Options
from support import PRECISIONS, Precision, assert_close, few, gradient_of
from test_multi_scale import ALPHA, MODES, check_compiled, check_gradient, compare, plain, succeed


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
    labels, changed = _calls.resized(logits, target, options)
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


def batch(shape: tuple[int, ...], full: tuple[int, int], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in double precision, and labels of another size of which some are ignored."""
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(shape[1], (shape[0], *full), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    target[0, : full[0] // 3, : full[1] // 2] = 255
    return logits.to(device), target.to(device, torch.int16)


def check(
    mode: str, precision: Precision, logits: torch.Tensor, target: torch.Tensor, corners: bool = False, rtol: float = 0
) -> None:
    """Cross entropy with label smoothing plus macro Dice, with weights, against the composition."""
    input = logits.to(precision.dtype).requires_grad_()
    truth_input = input.detach().double().requires_grad_()
    weight = [1.0 + c % 3 for c in range(logits.shape[1])]
    chosen = {"ignore_index": 255, "weight": weight}
    options = Options(
        pixel="cross_entropy",
        region="dice",
        average="macro",
        label_smoothing=0.1,
        ignore_index=255,
        target_mode=mode,
        align_corners=corners,
    )
    loss = ops.loss(input, target, options, weight, weight)
    truth = plain("cross_entropy", truth_input, target, mode, corners, label_smoothing=0.1, **chosen)
    truth = truth + plain("dice_loss", truth_input, target, mode, corners, average="macro", **chosen)
    rounding = 0.0 if precision.dtype == torch.float64 else 2**-20
    assert_close("loss", loss, truth, precision.loss_rtol + rounding + rtol)
    got, expected = gradient_of(loss, input), gradient_of(truth, truth_input)
    atol = precision.gradient_atol + (1e-15 if rounding == 0 else 1e-6) * expected.abs().max().item()
    assert_close("gradient", got, expected, precision.gradient_rtol + rounding + rtol, atol)


@pytest.mark.parametrize("classes", [1, 8, 9, 16, 17, 32, 33])
@pytest.mark.parametrize("precision", PRECISIONS[:2], ids=str)
@pytest.mark.parametrize("mode", ["area", "upsample_logits"])
def test_numbers_of_classes(mode: str, precision: Precision, classes: int, cuda: str) -> None:
    """Across the borders between registers, shared memory and memory."""
    check(mode, precision, *batch((2, classes, 5, 7), (19, 23), cuda))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("small", "full"),
    [
        ((40, 90), (77, 350)),  # several bands and strips
        ((2, 3), (9, 800)),  # a column that more columns touch than there are threads
        ((1, 1), (5, 300)),
        ((20, 2), (40, 260)),
        ((30, 200), (11, 70)),  # a map larger than the target
        ((7, 5), (1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [3, 18, 33])
def test_upsampling_of_any_size(
    classes: int, small: tuple[int, int], full: tuple[int, int], corners: bool, cuda: str
) -> None:
    precision = PRECISIONS[0] if classes == 3 else PRECISIONS[1]
    check("upsample_logits", precision, *batch((2, classes, *small), full, cuda), corners)


@pytest.mark.parametrize("precision", PRECISIONS[2:], ids=str)
def test_upsampling_of_half_types_rounds_once(precision: Precision, cuda: str) -> None:
    """Where a column is gone through in several parts, too."""
    check("upsample_logits", precision, *batch((1, 3, 2, 2), (6, 500), cuda))


@pytest.mark.parametrize("mode", ["area", "upsample_logits"])
def test_nothing_of_the_full_size_is_made(mode: str, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels get: nothing is larger than the labels."""
    sizes: list[int] = []
    given = _cuda.given
    monkeypatch.setattr(_cuda, "given", lambda tensor: (sizes.append(tensor.numel()), given(tensor))[1])
    logits, target = batch((1, 5, 4, 4), (128, 128), cuda)
    logits.requires_grad_()
    ops.loss(logits, target, Options(pixel="cross_entropy", target_mode=mode, ignore_index=255)).backward()
    assert max(sizes) == target.numel()


def test_many_classes_upsampled_take_less_than_the_upsampled_logits(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that have nothing to do have no memory: an emulated device of 1,000 multiprocessors has many."""
    if cuda == "cuda":
        pytest.skip("how many multiprocessors there are is the device's to say")
    sizes: list[int] = []
    given = _cuda.given
    monkeypatch.setattr(_cuda, "given", lambda tensor: (sizes.append(tensor.numel()), given(tensor))[1])
    logits, target = batch((1, 40, 8, 8), (32, 32), cuda)
    logits.requires_grad_()
    ops.loss(logits, target, Options(pixel="cross_entropy", target_mode="upsample_logits", ignore_index=255)).backward()
    assert max(sizes) <= 40 * 32 * 32


@pytest.mark.parametrize("mode", MODES)
def test_a_map_of_the_targets_own_size(mode: str, cuda: str) -> None:
    logits, target = batch((2, 5, 19, 33), (19, 33), cuda)
    check(mode, PRECISIONS[0], logits, target, corners=True)


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode: str, cuda: str) -> None:
    check_gradient(mode, cuda)


@pytest.mark.parametrize("mode", MODES)
def test_compile(mode: str, cuda: str) -> None:
    check_compiled(mode, cuda)


@pytest.mark.parametrize("mode", MODES)
def test_the_registered_operator_resizes_by_kernels(mode: str, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what torch.compile calls."""
    logits, target = batch((2, 5, 7, 5), (30, 21), cuda)
    logits = logits.float().requires_grad_()
    options = Options(pixel="cross_entropy", region="dice", target_mode=mode, ignore_index=255)
    expected = ops.loss(logits, target, options, ALPHA)
    truth = gradient_of(expected, logits)
    calls: list[str] = []
    for name in ("resize", "forward", "backward"):
        call = getattr(_cuda, name)
        monkeypatch.setattr(_cuda, name, lambda *a, call=call, name=name: (calls.append(name), call(*a)))
    weight = torch.tensor(ALPHA, device=cuda)
    got, _ = torch.ops.rarepixel.loss(logits, target, weight, None, *options)
    assert torch.equal(got, expected)
    assert torch.equal(gradient_of(got, logits), truth)
    resize = ["resize"] * (mode in ("nearest", "majority"))
    assert calls == [*resize, "forward", *resize, "backward"]


def test_a_wrong_label_gives_nan(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(1, 3, 4, 4, device=cuda, requires_grad=True)
    target = torch.zeros(1, 16, 16, dtype=torch.int64, device=cuda)
    target[0, 6, 7] = 3
    stage = [{"cross_entropy": {}}]
    for mode in ("majority", "area", "upsample_logits"):
        loss = rp.multi_scale_loss([logits], target, stage, mode)
        assert loss.isnan(), mode
        assert gradient_of(loss, logits)[0, :, 1, 1].isnan().all(), mode
    assert rp.multi_scale_loss([logits], target, stage, "nearest").isfinite()  # that pixel is not picked
    target[0, 6, 6] = 3
    assert rp.multi_scale_loss([logits], target, stage, "nearest").isnan()
    monkeypatch.setenv("RAREPIXEL_DEBUG", "1")
    for mode in MODES:
        with pytest.raises(ValueError, match=r"target: got label 3 at position \[0, 6, 6\], expected 0 to 2"):
            rp.multi_scale_loss([logits], target, stage, mode)


@pytest.mark.parametrize("mode", ["area", "upsample_logits"])
def test_what_stands_at_ignored_pixels_does_not_matter(mode: str, cuda: str) -> None:
    logits, target = batch((1, 3, 4, 4), (16, 16), cuda)
    logits.requires_grad_()
    target[0, :10] = 255  # all that the first row of the map has to do with
    options = Options(pixel="cross_entropy", region="dice", target_mode=mode, ignore_index=255)
    spoilt = logits.detach().clone()
    spoilt[0, :, 0] = torch.nan
    spoilt.requires_grad_()
    loss, truth = ops.loss(spoilt, target, options), ops.loss(logits, target, options)
    assert torch.equal(loss, truth)
    assert torch.equal(gradient_of(loss, spoilt), gradient_of(truth, logits))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_valid_gives_zero(mode: str, cuda: str) -> None:
    for samples, small, full in ((2, 4, 16), (0, 4, 16), (2, 0, 0)):
        logits = torch.zeros(samples, 3, small, small, device=cuda, requires_grad=True)
        target = torch.full((samples, full, full), 255, device=cuda)
        options = Options(pixel="cross_entropy", region="dice", smooth=0.0, target_mode=mode, ignore_index=255)
        loss = ops.loss(logits, target, options)
        assert loss == 0
        assert (gradient_of(loss, logits) == 0).all()


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
        for mode in MODES:
            with pytest.raises(error, match=message):
                rp.multi_scale_loss([logits], target.to(cuda), [{"cross_entropy": {}}], mode)


@pytest.mark.parametrize("mode", ["majority", "area", "upsample_logits"])
def test_only_launches_once_it_is_warm(
    mode: str, emulator: Emulator, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.randint(3, (1, 16, 16))
    stages = [{"cross_entropy": {}, "dice": {}}]
    rp.multi_scale_loss([logits], target, stages, mode).backward()
    log = tmp_path / "calls"
    monkeypatch.setenv("EMULATOR_LOG", str(log))
    monkeypatch.setattr(_cuda, "_place", lambda tensor: (0, 0x5EED))
    rp.multi_scale_loss([logits], target, stages, mode).backward()
    calls = [line.split() for line in log.read_text().splitlines()]
    resizing = ("confusion", "majority") if mode == "majority" else ()
    launched = (*resizing, "reduce", "finish", "gradient")
    assert [call[:2] for call in calls] == [["cuLaunchKernelEx", name] for name in launched]
    assert {call[-1] for call in calls} == {"0x5eed"}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.timeout(240)
def test_ranks_equal_one_process(ranks: int, emulator: Emulator) -> None:
    """The sums of CUDA tensors are added up between the passes: here CPU tensors on the CUDA path, by gloo."""
    succeed(ranks, "equal", str(emulator.library))
