"""Multi-scale supervision against its composition in plain torch; sums over ranks against one process."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rarepixel as rp
from rarepixel import ops, reference
from rarepixel.options import Options
from support import PRECISIONS, Precision, assert_close, gradient_of, laid_out

MODES = ["nearest", "majority", "area", "upsample_logits"]
ALPHA = [1.0, 2.0, 0.5, 4.0, 3.0]


def plain(
    name: str, input: torch.Tensor, target: torch.Tensor, mode: str, corners: bool, **chosen: Any
) -> torch.Tensor:
    """The composition: resize by plain torch, then the loss by plain torch."""
    input, matched = reference.matched(input, target, mode, corners, chosen["ignore_index"])
    if mode == "area":
        chosen["valid"] = matched.sum(1) > 0
    weights = {
        key: torch.tensor(chosen[key], device=input.device)
        for key in ("weight", "alpha")
        if isinstance(chosen.get(key), list)
    }
    loss: torch.Tensor = getattr(reference, name)(input, matched, **{**chosen, **weights})
    return loss


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_mode_equals_the_composition(mode: str, precision: Precision, data: st.DataObject) -> None:
    compare(mode, precision, data)


def compare(mode: str, precision: Precision, data: st.DataObject, device: str = "cpu") -> None:
    """Loss and gradient of a drawn batch and drawn options; tests/cuda does the same on its device."""
    full = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    small = data.draw(st.tuples(st.integers(1, full[0]), st.integers(1, full[1])))
    samples, classes = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([2, 5, 9]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits = torch.randn(samples, classes, *small, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(classes, (samples, *full), generator=generator)
    target[torch.rand(target.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.2, 0.95]))] = 255
    regions = {"dice_loss": "dice", "tversky_loss": "tversky"}
    name = data.draw(st.sampled_from(["cross_entropy", *regions] + ["focal_loss"] * (mode != "area")))
    chosen: dict[str, Any] = {"ignore_index": 255}
    if name in regions:
        chosen |= {"average": data.draw(st.sampled_from(["micro", "macro"])), "per_sample": data.draw(st.booleans())}
    else:
        chosen["reduction"] = data.draw(st.sampled_from(["mean", "sum", "none"]))
        if data.draw(st.booleans()):
            chosen["weight" if name == "cross_entropy" else "alpha"] = [0.5 + c for c in range(classes)]
    if name == "tversky_loss":
        chosen |= {"alpha": 0.3, "beta": 0.9}
    if name == "cross_entropy":
        chosen["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.1]))
    corners = data.draw(st.booleans())
    layout = data.draw(st.sampled_from(["contiguous", "channels_last", "channel_slice"]))
    target = target.to(device, data.draw(st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64])))
    rounded = laid_out(logits.to(device, precision.dtype), layout)
    input, truth_input = rounded.detach().requires_grad_(), rounded.detach().double().requires_grad_()
    kind = {"cross_entropy": "cross_entropy", "focal_loss": "focal"}.get(name, "none")
    weight = chosen.get("alpha" if name == "focal_loss" else "weight")
    options = Options(
        pixel=kind,
        region=regions.get(name, "none"),
        target_mode=mode,
        align_corners=corners,
        **{key: value for key, value in chosen.items() if key != "weight" and (key, name) != ("alpha", "focal_loss")},
    )
    loss = ops.loss(input, target, options, weight)
    truth = plain(name, truth_input, target, mode, corners, **chosen)
    double = precision.dtype == torch.float64
    # The rounding of z - max z is what exp makes a relative error of.
    conditioning = 0.0 if double else 2**-23 * rounded.double().abs().max().item()
    if mode == "upsample_logits":
        conditioning *= 2  # and that of interpolating
    scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
    assert_close("loss", loss, truth, precision.loss_rtol + conditioning, 1e-14 if double else 2e-7 * scale)
    incoming = torch.randn(loss.shape, generator=generator, dtype=torch.float64).to(loss)
    got, expected = gradient_of(loss, input, incoming), gradient_of(truth, truth_input, incoming.double())
    atol = precision.gradient_atol + (1e-14 if double else 1e-7 * expected.abs().max().item())
    if name in ("dice_loss", "tversky_loss") and got.numel():
        # Terms of both signs, as large as one over the pixels, may almost cancel.
        atol += (1e-15 if double else 1e-7) * got.shape[1] / got.numel()
    assert_close("gradient", got, expected, precision.gradient_rtol + conditioning + (0 if double else 1e-6), atol)


@pytest.mark.parametrize("sizes", [(512, 128), (512, 64), (301, 76), (37, 37), (65, 200)], ids=str)
def test_nearest_picks_what_torch_picks(sizes: tuple[int, int]) -> None:
    full, small = sizes
    target = torch.randint(4, (1, full, full), dtype=torch.uint8)
    expected = F.interpolate(target[:, None].float(), (small, small), mode="nearest-exact")[:, 0].long()
    logits = torch.randn(1, 4, small, small, dtype=torch.float64)
    options = Options(pixel="cross_entropy", reduction="none", target_mode="nearest")
    got = ops.loss(logits, target, options)
    assert torch.equal(got, rp.cross_entropy(logits, expected, reduction="none"))


@pytest.mark.parametrize("mode", MODES)
def test_a_map_of_the_targets_own_size(mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 19, 33, generator=generator, dtype=torch.float64, requires_grad=True)
    truth_logits = logits.detach().requires_grad_()
    target = torch.randint(5, (2, 19, 33), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    chosen: dict[str, Any] = {"label_smoothing": 0.1, "ignore_index": 255}
    options = Options(pixel="cross_entropy", target_mode=mode, align_corners=True, **chosen)
    loss = ops.loss(logits, target, options, ALPHA)
    truth = plain("cross_entropy", truth_logits, target, mode, True, weight=ALPHA, **chosen)
    assert_close("loss", loss, truth, 1e-12)
    gradients = torch.autograd.grad(loss, logits) + torch.autograd.grad(truth, truth_logits)
    assert_close("gradient", *gradients, 1e-12, 1e-15)


@pytest.mark.parametrize("small", [(130, 97), (530, 700)], ids=["larger", "smaller"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("corners", [False, True])
def test_large_interpolation_on_several_threads(
    corners: bool, dtype: torch.dtype, rtol: float, small: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, *small, dtype=dtype, requires_grad=True)
    target = torch.randint(5, (2, 520, 611), dtype=torch.uint8)
    options: dict[str, Any] = {"alpha": ALPHA, "average": "macro"}
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            loss = rp.dice_focal_loss(logits, target, upsample=True, align_corners=corners, **options)
            results.append((loss, gradient_of(loss, logits)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, several) for one, several in zip(*results, strict=True))
    truth_logits = logits.detach().double().requires_grad_()
    full = F.interpolate(truth_logits, target.shape[1:], mode="bilinear", align_corners=corners)
    truth = rp.dice_focal_loss(full, target, **options)
    assert_close("loss", results[0][0], truth, rtol)
    assert_close("gradient", results[0][1], gradient_of(truth, truth_logits), rtol)


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode: str) -> None:
    check_gradient(mode)


def check_gradient(mode: str, device: str = "cpu") -> None:
    logits = torch.randn(1, 3, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    target = torch.randint(3, (1, 7, 9), device=device)
    target[0, :3, :3] = -100
    stage = rp.Stage(cross_entropy={"weight": [1.0, 2.0, 0.5], "label_smoothing": 0.1}, dice={"average": "macro"})
    assert torch.autograd.gradcheck(lambda z: rp.multi_scale_loss([z], target, [stage], mode), (logits,))


@pytest.mark.parametrize("mode", ["nearest", "majority", "upsample_logits"])
def test_the_courses_table(mode: str) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, s, s, dtype=torch.float64, requires_grad=True) for s in (8, 16, 64)]
    target = torch.randint(5, (2, 64, 64), dtype=torch.uint8)
    criterion = rp.MultiScaleLoss(target_mode=mode, return_stages=True)
    total, stages = criterion(maps, target)
    truth = []
    for logits, factor, dice in zip(maps, (0.4, 0.6, 1.0), (False, True, True), strict=True):
        input, matched = reference.matched(logits, target, mode)
        loss = reference.focal_loss(input, matched)
        truth.append(factor * (loss + reference.dice_loss(input, matched) if dice else loss))
    assert stages.tolist() == pytest.approx([term.item() for term in truth], rel=1e-12)
    assert not stages.requires_grad
    assert_close("total", total, sum(truth), 1e-12)
    expected = torch.autograd.grad(sum(truth), maps)
    for got, gradient in zip(torch.autograd.grad(total, maps), expected, strict=True):
        assert_close("gradient", got, gradient, 1e-12)


def test_halving() -> None:
    criterion = rp.MultiScaleLoss.halving(4, target_mode="majority")
    assert [stage.weight for stage in criterion.stages] == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert criterion.target_mode == "majority"
    assert [stage.weight for stage in rp.MultiScaleLoss.halving(1).stages] == [1.0]
    maps = [torch.randn(1, 5, s, s) for s in (32, 16, 8, 4)]
    assert criterion(maps, torch.randint(5, (1, 32, 32))).isfinite()


def test_numbers_of_stages_are_those_they_were_made_with() -> None:
    weight, gamma, smooth = torch.tensor(0.5), torch.tensor(1.5), np.array(0.25)
    stage = rp.Stage(weight, focal={"gamma": gamma, "factor": torch.tensor(2.0)}, dice={"smooth": smooth})
    expected = rp.Stage(0.5, focal={"gamma": 1.5, "factor": 2.0}, dice={"smooth": 0.25})
    for changed in (weight, gamma, smooth):
        changed[...] = 9.0
    maps = maps_of(4)
    assert torch.equal(rp.multi_scale_loss(maps, TARGET, [stage]), rp.multi_scale_loss(maps, TARGET, [expected]))


def test_ignore_index_is_read_at_each_call() -> None:
    ignore_index, stage = torch.tensor(255), rp.Stage(cross_entropy={})
    target = TARGET.clone()
    target[0, :8] = 1
    maps = [torch.arange(48.0).reshape(1, 3, 4, 4)]
    for number in (255, 1, 0):
        ignore_index.fill_(number)
        expected = rp.multi_scale_loss(maps, target, [rp.Stage(cross_entropy={})], ignore_index=number)
        assert torch.equal(rp.multi_scale_loss(maps, target, [stage], ignore_index=ignore_index), expected)
        assert torch.equal(rp.multi_scale_loss(maps, target, [stage], ignore_index=np.array(number)), expected)
    assert len(stage._terms) == 3


def test_a_stage_as_a_dict_is_taken_again() -> None:
    stage = rp.Stage(0.6, focal={"gamma": 1.0}, dice={"average": "macro"}, scale=0.25)
    assert rp.Stage.of(dataclasses.asdict(stage)) == stage
    assert pickle.loads(pickle.dumps(stage)) == copy.deepcopy(stage) == stage


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ({"focal": {"alpha": [1, 2]}}, None, r"inputs\[1\]: focal: alpha: got 2 values, expected 3 values"),
        ({"focal": {}, "dice": {"weight": [1, 2]}}, None, r"inputs\[1\]: dice: weight: got 2 values, expected 3"),
        ({"tversky": {"weight": [1, 2]}}, None, r"inputs\[1\]: tversky: weight: got 2 values, expected 3 values"),
        ({"focal": {"alpha": torch.ones(1, 3)}}, None, r"inputs\[1\]: focal: alpha: got shape \[1, 3\], expected"),
        ({"focal": {}, "dice": {"weight": [1, 2, -3]}}, None, r"inputs\[1\]: dice: weight: got -3 for class 2"),
        ({"focal": {"alpha": np.array([1, np.nan, 3])}}, None, r"inputs\[1\]: focal: alpha: got nan for class 1"),
        (
            {"dice": {}},
            lambda z: z.repeat(2, 1, 1, 1),
            r"inputs\[1\]: target: got shape \[1\], expected shape \[2\], as many samples",
        ),
        ({"dice": {}}, lambda z: z[:, 0], r"inputs\[1\]: input: got shape .*, expected \(N, C, height, width\)"),
        ({"dice": {}}, lambda z: z.int(), r"inputs\[1\]: input: got int32, expected float32"),
    ],
)
def test_errors_name_the_map(stage: dict[str, Any], change: Any, message: str) -> None:
    small, large = maps_of(2, 4)
    with pytest.raises((TypeError, ValueError), match=message):
        rp.multi_scale_loss([small, large if change is None else change(large)], TARGET, [{"focal": {}}, stage])


@pytest.mark.parametrize("mode", ["nearest", "majority", "upsample_logits"])
def test_checkpointed_maps(mode: str) -> None:
    from torch.utils.checkpoint import checkpoint

    logits = maps_of(4)[0].requires_grad_()

    def total(logits: torch.Tensor) -> torch.Tensor:
        return rp.multi_scale_loss([logits, logits[..., ::2, ::2]], TARGET, [{"dice": {}}, {"focal": {}}], mode)

    (expected,) = torch.autograd.grad(total(logits), logits)
    (got,) = torch.autograd.grad(checkpoint(total, logits, use_reentrant=False), logits)
    assert torch.equal(got, expected)


def test_stages_from_dicts() -> None:
    config = [
        {"weight": 0.5, "focal": {"gamma": 1.0, "alpha": ALPHA}},
        {"cross_entropy": {"weight": ALPHA, "factor": 2.0}},
    ]
    maps = [torch.randn(1, 5, s, s) for s in (8, 32)]
    target = torch.randint(5, (1, 32, 32))
    small = F.interpolate(target[:, None].double(), (8, 8), mode="nearest-exact")[:, 0].long()
    region = {"alpha": 0.3, "beta": 0.7, "weight": ALPHA}
    got = rp.multi_scale_loss(maps[:1], target, [{"tversky": {**region, "factor": 2.0}}])
    torch.testing.assert_close(got, 2 * rp.tversky_loss(maps[0], small, **region))
    got = rp.multi_scale_loss(maps, target, config)
    expected = 0.5 * rp.focal_loss(maps[0], small, ALPHA, 1.0) + 2 * rp.cross_entropy(maps[1], target, ALPHA)
    torch.testing.assert_close(got, expected)


def test_a_small_building_survives_majority_but_not_nearest() -> None:
    target = torch.zeros(1, 16, 16, dtype=torch.uint8)
    target[0, :4, :2] = 1  # half of one window of 4 x 4, beside the pixel that nearest picks
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    at = {}
    for mode in ("nearest", "majority"):
        loss = rp.multi_scale_loss([logits], target, [rp.Stage(cross_entropy={})], mode)
        at[mode] = gradient_of(loss, logits)[0, 1, 0, 0].item()
    assert at["majority"] < 0 < at["nearest"]  # only there is class 1 pushed up


@pytest.mark.parametrize("mode", MODES)
def test_compile(mode: str) -> None:
    check_compiled(mode)


def check_compiled(mode: str, device: str = "cpu") -> None:
    maps = [torch.randn(2, 5, s, s, device=device, requires_grad=True) for s in (4, 8, 32)]
    target = torch.randint(5, (2, 32, 32), device=device)
    criterion = rp.MultiScaleLoss([{"cross_entropy": {}, "dice": {}}] * 3, mode)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    expected, got = criterion(maps, target), compiled(maps, target)
    assert torch.equal(expected, got)
    for a, b in zip(torch.autograd.grad(got, maps), torch.autograd.grad(expected, maps), strict=True):
        assert torch.equal(a, b)


TARGET = torch.zeros(1, 16, 16, dtype=torch.int64)


def maps_of(*sizes: int) -> list[torch.Tensor]:
    return [torch.zeros(1, 3, size, size) for size in sizes]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rp.multi_scale_loss(maps_of(2, 4), TARGET), r"inputs: got 2 maps, expected 3, one for each stage"),
        (
            lambda: rp.multi_scale_loss(maps_of(4, 4, 16), TARGET),
            r"inputs\[0\]: got size \[4, 4\], expected 0.125 of the",
        ),
        (
            lambda: rp.multi_scale_loss(maps_of(2, 4, 16), TARGET, target_mode="mode"),
            r"target_mode: got 'mode', expected one",
        ),
        (
            lambda: rp.multi_scale_loss(maps_of(2, 4, 16), TARGET, target_mode="area"),
            r'target_mode: got "area", expected',
        ),
        (lambda: rp.Stage(), "got no term, expected cross_entropy, focal, dice or tversky"),
        (lambda: rp.Stage(focal={}, cross_entropy={}), "got cross_entropy and focal, expected one of them"),
        (lambda: rp.Stage(dice={}, tversky={}), "got dice and tversky, expected one of them"),
        (lambda: rp.Stage(dice={"alpha": 0.3}), "dice: got alpha, expected some of smooth, average"),
        (lambda: rp.Stage(focal={"gama": 2}), "focal: got gama, expected some of alpha, gamma"),
        (lambda: rp.Stage(focal={"gamma": -2}), "gamma: got -2"),
        (lambda: rp.Stage(focal={}, scale=0.0), "scale: got 0.0, expected a number above 0"),
        (lambda: rp.Stage.of({"weigth": 2}), "stages: got weigth, expected some of weight"),
        (lambda: rp.MultiScaleLoss.halving(0), "n: got 0, expected at least 1"),
        (
            lambda: rp.multi_scale_loss([torch.zeros(1, 3, 4)], TARGET, [{"focal": {}}]),
            r"input: got shape \[1, 3, 4\], expected \(N, C, height, width\)",
        ),
        (
            lambda: rp.multi_scale_loss(maps_of(4), TARGET[:, 0], [{"focal": {}}]),
            r"target: got shape \[1, 16\], expected \(N, height, width\)",
        ),
        (
            lambda: rp.multi_scale_loss(maps_of(4), TARGET + 7, [{"focal": {}}]),
            r"target: got label 7 at position \[0, 0, 0\], expected 0 to 2",
        ),
        (
            lambda: rp.multi_scale_loss(maps_of(4), TARGET, [{"focal": {"alpha": [1.0]}}]),
            r"alpha: got 1 values, expected 3 values",
        ),
        (lambda: rp.dice_loss(maps_of(4)[0], TARGET, sync=True), "sync: got a request .* torch.distributed to be init"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_map_that_is_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"inputs\[1\]: got list, expected a torch.Tensor"):
        rp.multi_scale_loss([*maps_of(2), [1.0]], TARGET, [{"focal": {}}] * 2)  # type: ignore[list-item]


WORKER = Path(__file__).with_name("distributed_worker.py")


def launch(ranks: int, folder: str | Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """The worker, once for each rank. They meet in a file: a free port may be taken before they come to it."""
    environment = {**os.environ, "MEETING_PLACE": f"file://{folder}/store", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            env={**environment, "RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.timeout(240)
def test_ranks_equal_one_process(ranks: int) -> None:
    """Uneven batches and a rank with nothing but ignored pixels; loss and parameter gradients under DDP."""
    succeed(ranks, "equal")


@pytest.mark.timeout(240)
def test_a_rank_without_samples() -> None:
    for output in outputs_of(2, "empty"):
        assert "equal" in output


@pytest.mark.timeout(240)
def test_a_rank_outside_the_group_is_told() -> None:
    member, other = outputs_of(2, "outside")
    assert "member" in member
    assert "sync: got a group that this process is not in, expected one that it is in" in other


def succeed(ranks: int, *arguments: str) -> None:
    """Run the worker and expect its word."""
    for output in outputs_of(ranks, *arguments):
        assert arguments[0] in output


def outputs_of(ranks: int, *arguments: str) -> list[str]:
    """What the ranks of the worker say, each of which ends well."""
    with tempfile.TemporaryDirectory() as folder:
        processes = launch(ranks, folder, *arguments)
        outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


@pytest.mark.timeout(240)
def test_a_rank_that_dies_gives_an_error(tmp_path: Path) -> None:
    processes = launch(2, tmp_path, "die")
    output = processes[0].communicate(timeout=120)[0]
    processes[1].communicate()
    assert processes[0].returncode == 0, output
    assert "RuntimeError" in output


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rp.Stage("0.4", focal={}), "weight: got '0.4', expected a number"),
        (lambda: rp.Stage(2, focal={"factor": "2"}), "focal: factor: got '2', expected a number"),
        (lambda: rp.Stage(2, tversky={"factor": None}), "tversky: factor: got None, expected a number"),
        (lambda: rp.Stage(focal={1: 2}), "focal: got 1, expected some of alpha"),
        (lambda: rp.Stage.of({True: 1, "x": 2}), "stages: got True, x, expected some of weight"),
        (lambda: rp.Stage(torch.ones(2), focal={}), r"weight: got tensor\(.*, expected one value"),
        (lambda: rp.Stage(torch.nn.Parameter(torch.ones(())), focal={}), "weight: got a tensor that requires grad"),
        (
            lambda: rp.Stage(dice={"factor": torch.nn.Parameter(torch.ones(()))}),
            "dice: factor: got a tensor that requires grad",
        ),
        (lambda: rp.Stage(float("nan"), focal={}), "weight: got nan, expected a finite number"),
        (lambda: rp.Stage(scale="1/8", focal={}), "scale: got '1/8', expected a number"),
        (lambda: rp.Stage(dice={"smooth": "1e-6"}), "smooth: got '1e-6', expected a number"),
        (lambda: rp.Stage(focal=3), "focal: got 3, expected a dict"),
        (lambda: rp.Stage.of("dice"), "stages: got 'dice', expected a Stage or a dict"),
        (lambda: rp.MultiScaleLoss(None), "stages: got None, expected a sequence of stages"),
        (lambda: rp.MultiScaleLoss(3), "stages: got 3, expected a sequence of stages"),
        (lambda: rp.MultiScaleLoss(rp.Stage(focal={})), r"stages: got Stage\(.*, expected a sequence of stages"),
        (lambda: rp.MultiScaleLoss({"focal": {}}), "stages: got {'focal': {}}, expected a sequence of stages"),
        (lambda: rp.MultiScaleLoss([]), "stages: got none, expected one for each of inputs"),
        (lambda: rp.multi_scale_loss(maps_of(4), TARGET, None), "stages: got None, expected a sequence of stages"),
        (lambda: rp.MultiScaleLoss.halving(2.5), "n: got 2.5, expected a whole number"),
        (lambda: rp.MultiScaleLoss.halving("3"), "n: got '3', expected a whole number"),
    ],
)
def test_stages_of_wrong_types_are_named(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_operands_of_wrong_types_are_named() -> None:
    logits = torch.randn(2, 5, 8, 8)
    with pytest.raises(TypeError, match="target: got list"):
        rp.multi_scale_loss([logits] * 3, [[0]])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="stages: got none"):
        rp.multi_scale_loss([], torch.zeros(2, 8, 8, dtype=torch.uint8), [])


def test_weights_of_stages_go_with_the_logits() -> None:
    """A module's tensors would stay where they were made when it moves to another device."""
    stage = rp.Stage(focal={"alpha": torch.tensor([1.0, 2.0])}, dice={"weight": torch.tensor([3.0, 4.0])})
    assert stage._weights == ([1.0, 2.0], [3.0, 4.0])


def test_compiled_with_batches_of_several_sizes() -> None:
    torch.compiler.reset()  # what other tests compiled counts as recompilation
    criterion = rp.MultiScaleLoss([{"dice": {}}, {"focal": {}}])
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for samples in (2, 3, 5):
        maps = [torch.randn(samples, 3, size, size, requires_grad=True) for size in (4, 8)]
        target = torch.randint(3, (samples, 8, 8))
        torch.testing.assert_close(compiled(maps, target), criterion(maps, target))
