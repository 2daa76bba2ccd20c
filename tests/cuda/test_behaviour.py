"""What the CUDA path promises beside the numbers."""

from __future__ import annotations

import gc
import mmap
import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

import rarepixel as rp
from rarepixel import _cuda, reference


def batch(shape: tuple[int, ...] = (2, 5, 9, 16), device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(shape, generator=generator).to(device).requires_grad_()
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator).to(device)


def test_a_wrong_label_gives_nan(cuda: str) -> None:
    logits, labels = batch(device=cuda)
    for wrong in (5, -1, 2**40):
        labels[1, 3, 4] = wrong
        for loss in (rp.cross_entropy, rp.focal_loss, rp.dice_loss, rp.tversky_loss, rp.dice_focal_loss):
            value = loss(logits, labels)
            assert value.isnan(), loss.__name__
            (gradient,) = torch.autograd.grad(value, logits)
            assert gradient[1, :, 3, 4].isnan().all()
    losses = rp.focal_loss(logits, labels, reduction="none")
    assert losses.isnan().nonzero().tolist() == [[1, 3, 4]]
    truth = rp.cross_entropy(logits[:1], labels[:1])  # the kernel still serves what is right
    assert truth.isfinite()


def test_a_wrong_label_is_an_error_when_debugging(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(device=cuda)
    labels[1, 3, 4] = 7
    monkeypatch.setenv("RAREPIXEL_DEBUG", "1")
    with pytest.raises(
        ValueError, match=r"target: got label 7 at position \[1, 3, 4\], expected 0 to 4 or ignore_index"
    ):
        rp.focal_loss(logits, labels)
    assert rp.focal_loss(logits, labels, ignore_index=7).isfinite()
    with pytest.raises(ValueError, match=r"weight: got -1\.0 for class 2"):
        rp.cross_entropy(logits, labels, weight=torch.tensor([1.0, 1, -1, 1, 1], device=cuda), ignore_index=7)


@pytest.mark.parametrize("classes", [5, 9, 40])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_no_number_spoils_its_pixel_alone(value: float, classes: int, cuda: str) -> None:
    """As in torch: in registers of few classes and of more, and in a loop; minus infinity is an impossible class."""
    logits, labels = batch((2, classes, 9, 16), cuda)
    labels[0, 3, 4] = 1
    spoilt = logits.detach().clone()
    spoilt[0, 2, 3, 4] = value
    spoilt.requires_grad_()
    for name in ("cross_entropy", "focal_loss"):
        losses = getattr(rp, name)(spoilt, labels, reduction="none")
        truth = getattr(reference, name)(spoilt, labels, reduction="none")
        assert torch.allclose(losses, truth, atol=1e-6, equal_nan=True), name
        gradients = [torch.autograd.grad(value.sum(), spoilt)[0] for value in (losses, truth)]
        assert torch.allclose(*gradients, atol=1e-6, equal_nan=True), name


@pytest.mark.parametrize("classes", [5, 40])
def test_a_nan_in_a_class_without_a_share_is_seen(classes: int, cuda: str) -> None:
    logits, _ = batch((1, classes, 4, 4), cuda)
    spoilt = logits.detach().clone()
    spoilt[0, 2, 1, 1] = torch.nan
    target = torch.ones(1, 8, 8, dtype=torch.long, device=cuda)
    loss = rp.multi_scale_loss([spoilt], target, [{"cross_entropy": {}}], "area")
    assert loss.isnan()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_stands_at_ignored_pixels_does_not_matter(value: float, cuda: str) -> None:
    logits, labels = batch(device=cuda)
    labels[0, 2] = 255
    truth = rp.dice_focal_loss(logits, labels, ignore_index=255)
    spoilt = logits.detach().clone()
    spoilt[0, :, 2] = value
    spoilt.requires_grad_()
    loss = rp.dice_focal_loss(spoilt, labels, ignore_index=255)
    assert torch.equal(loss, truth)
    (gradient,) = torch.autograd.grad(loss, spoilt)
    assert torch.equal(gradient, torch.autograd.grad(truth, logits)[0])
    assert (gradient[0, :, 2] == 0).all()


@pytest.mark.parametrize("loss", [rp.cross_entropy, rp.focal_loss, rp.dice_loss, rp.tversky_loss, rp.dice_focal_loss])
def test_nothing_valid_gives_zero(loss: object, cuda: str) -> None:
    assert callable(loss)
    for shape in ((2, 5, 9, 16), (0, 5, 9, 16), (2, 5, 0, 16)):
        logits, labels = batch(shape, cuda)
        value = loss(
            logits,
            torch.full_like(labels, 255),
            ignore_index=255,
            **({"smooth": 0.0} if "dice" in loss.__name__ else {}),
        )
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 0
        assert (gradient == 0).all()
    logits, labels = batch((0, 5, 4), cuda)
    if "dice" in loss.__name__:
        assert loss(logits, labels, per_sample=True) == 0


def test_an_expanded_incoming_gradient(cuda: str) -> None:
    logits, labels = batch(device=cuda)
    (by_pixel,) = torch.autograd.grad(rp.focal_loss(logits, labels, reduction="none").sum(), logits)
    (at_once,) = torch.autograd.grad(rp.focal_loss(logits, labels, reduction="sum"), logits)
    assert torch.equal(by_pixel, at_once)


def test_a_second_backward_pass(cuda: str) -> None:
    logits, labels = batch(device=cuda)
    loss = rp.dice_focal_loss(logits, labels)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_scaled_half_gradient_does_not_underflow(cuda: str) -> None:
    logits, labels = batch((1, 5, 64, 64), cuda)
    half = logits.detach().half().requires_grad_()
    scale = 2.0**16
    (gradient,) = torch.autograd.grad(rp.cross_entropy(half, labels) * scale, half)
    truth_input = half.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(reference.cross_entropy(truth_input, labels) * scale, truth_input)
    assert (gradient.double() - truth).abs().max() <= 2**-10 * truth.abs().max()


def test_weights_as_numbers_are_checked_and_kept(cuda: str) -> None:
    logits, labels = batch(device=cuda)
    weight = [1.0, 2.0, 0.5, 1.0, 3.0]
    assert rp.cross_entropy(logits, labels, weight=weight) == rp.cross_entropy(
        logits, labels, weight=torch.tensor(weight, device=cuda)
    )
    before = _cuda._kept_weight.cache_info()
    rp.cross_entropy(logits, labels, weight=weight)
    assert _cuda._kept_weight.cache_info().misses == before.misses
    with pytest.raises(ValueError, match="alpha: got nan for class 1"):
        rp.focal_loss(logits, labels, alpha=[1.0, float("nan"), 1, 1, 1])
    with pytest.raises(ValueError, match="alpha: got 2 values, expected 5 values, one for each class of input"):
        rp.focal_loss(logits, labels, alpha=[1.0, 2.0])


def test_weights_that_change_between_the_passes_are_an_error(cuda: str) -> None:
    """The second pass would read others than the first divided by."""
    logits, labels = batch(device=cuda)
    for make in (rp.CrossEntropyLoss, rp.FocalLoss, rp.DiceFocalLoss):
        criterion = make(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device=cuda))
        loss = criterion(logits, labels)
        torch.autograd.grad(loss, logits, retain_graph=True)
        next(criterion.buffers()).mul_(2)
        with pytest.raises(RuntimeError, match=r"class weights .* have been modified by an inplace operation"):
            torch.autograd.grad(loss, logits)


def test_weights_given_as_numbers_to_modules_are_checked(cuda: str) -> None:
    with pytest.raises(ValueError, match=r"alpha: got -1\.0 for class 1, expected finite numbers of at least 0"):
        rp.FocalLoss(alpha=[1.0, -1.0, 1.0])


def test_a_capture_takes_weights_that_another_stream_has_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's recipe warms up on one stream and captures on another, where no copy from the host may be made."""
    input = mock.Mock(is_cuda=True, device=torch.device("cpu"))
    streams = iter([1, 1, 2])
    capturing = False
    monkeypatch.setattr(_cuda, "_place", lambda input: (0, next(streams)))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    values = (1.0, 2.0, 4.5)
    first = _cuda.weight_tensor(values, torch.float32, input)
    assert _cuda.weight_tensor(values, torch.float32, input) is first
    capturing = True
    assert _cuda.weight_tensor(values, torch.float32, input) is first
    _cuda._kept_weight.cache_clear()
    del first
    gc.collect()
    assert _cuda.weight_tensor(values, torch.float32, input).tolist() == list(values)  # as long as the graph may run
    with pytest.raises(RuntimeError, match="call the loss once before the capture"):
        _cuda.weight_tensor((9.0, 8.0, 7.0), torch.float32, input)


def test_offsets_beyond_32_bits(cuda: str) -> None:
    """Planes more than 2^31 elements apart: memory that is only reserved, except where it is used."""
    step = 2**31 + 64
    if cuda == "cuda":
        if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
            pytest.skip("needs 17 GB of GPU memory")
        storage = torch.empty(2 * step, dtype=torch.float32, device="cuda")
    else:
        memory = mmap.mmap(
            -1, 8 * step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        )
        storage = torch.frombuffer(memory, dtype=torch.float32)
    apart = storage.as_strided((1, 2, 8, 8), (2 * step, step, 8, 1))
    logits, labels = batch((1, 2, 8, 8), cuda)
    apart.copy_(logits.detach())
    assert torch.equal(rp.dice_focal_loss(apart, labels), rp.dice_focal_loss(logits, labels))


def test_threads(cuda: str) -> None:
    logits, labels = batch(device=cuda)
    truth = rp.dice_focal_loss(logits, labels)
    results: list[torch.Tensor] = []

    def work() -> None:
        results.extend(rp.dice_focal_loss(logits, labels) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    assert all(torch.equal(result, truth) for result in results)


def test_the_same_bits_in_every_order(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and warps in other orders (on a GPU: run after run) give the same bits."""
    for shape, full in (
        ((2, 5, 33, 64), None),
        ((2, 40, 9, 11), None),
        ((2, 5, 9, 20), (20, 99)),
        ((1, 40, 3, 4), (9, 90)),
    ):
        logits, labels = batch(shape, cuda)
        if full:
            labels = torch.randint(shape[1], (shape[0], *full), generator=torch.Generator().manual_seed(1)).to(cuda)

        def results(logits: torch.Tensor = logits, labels: torch.Tensor = labels) -> tuple[torch.Tensor, torch.Tensor]:
            loss = rp.dice_focal_loss(logits, labels, average="macro", upsample=True)
            return loss, torch.autograd.grad(loss, logits)[0]

        truth = results()
        for seed in range(1, 6):
            monkeypatch.setenv("EMULATOR_SEED", str(seed))
            assert all(torch.equal(one, other) for one, other in zip(results(), truth, strict=True)), seed


def test_more_rows_of_sums_than_shared_memory_has_room_for(cuda: str) -> None:
    """With each sample's own Dice, 40 rows of 9 classes: 1,200 sums from 1,160 columns of partial sums."""
    logits, labels = batch((40, 9, 3, 8), device=cuda)
    loss = rp.dice_focal_loss(logits, labels, per_sample=True, average="macro")
    truth_logits = logits.detach().double().requires_grad_()
    truth = reference.dice_focal_loss(truth_logits, labels, per_sample=True, average="macro")
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
    (gradient,), (expected,) = torch.autograd.grad(loss, logits), torch.autograd.grad(truth, truth_logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-9)


class TestDriverCalls:
    """What reaches the driver: seen on the emulated one."""

    def test_only_launches_once_it_is_warm(
        self, emulator: object, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No synchronisation, no allocation, no copy: what a CUDA graph can capture. On the stream that torch gives."""
        logits, labels = batch(device=cuda)
        rp.dice_focal_loss(logits, labels).backward()
        log = tmp_path / "calls"
        monkeypatch.setenv("EMULATOR_LOG", str(log))
        monkeypatch.setattr(_cuda, "_place", lambda tensor: (0, 0x5EED))
        rp.dice_focal_loss(logits, labels).backward()
        calls = [line.split() for line in log.read_text().splitlines()]
        assert [call[:2] for call in calls] == [["cuLaunchKernelEx", name] for name in ("reduce", "finish", "gradient")]
        assert {call[-1] for call in calls} == {"0x5eed"}
        # The kernel that finishes the loss starts while the pass over the pixels still runs.
        assert ["early" in call for call in calls] == [False, True, False]

    def test_the_current_context_is_left_as_it_was(self, emulator: object, fresh_device: int, cuda: str) -> None:
        before = emulator.current_context()  # type: ignore[attr-defined]
        logits, labels = batch(device=cuda)
        rp.dice_focal_loss(logits, labels).backward()
        assert emulator.current_context() == before  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("capability", "early"), [("89", False), ("90", True)])
    def test_what_a_device_is_asked_for(
        self,
        capability: str,
        early: bool,
        fresh_device: int,
        cuda: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """On a device that NVRTC knows, a cubin is tried; this one takes none and gets PTX.

        An early start is asked for where the hardware has it.
        """
        log = tmp_path / "calls"
        monkeypatch.setenv("EMULATOR_LOG", str(log))
        monkeypatch.setenv("EMULATOR_CAPABILITY", capability)
        logits, labels = batch(device=cuda)
        assert rp.focal_loss(logits, labels).isfinite()
        calls = log.read_text().splitlines()
        loads = [line for line in calls if "cuModuleLoadData" in line]
        assert loads == ["cuModuleLoadData cubin", "cuModuleLoadData cubin", "cuModuleLoadData ptx"] * 2
        assert [" early " in line for line in calls if "cuLaunchKernelEx" in line] == [False, early]

    def test_nothing_starts_early_in_a_cuda_graph(
        self, fresh_device: int, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = tmp_path / "calls"
        monkeypatch.setenv("EMULATOR_LOG", str(log))
        monkeypatch.setenv("EMULATOR_CAPTURING", "1")
        logits, labels = batch(device=cuda)
        assert rp.focal_loss(logits, labels).isfinite()
        launches = [line for line in log.read_text().splitlines() if "cuLaunchKernelEx" in line]
        assert launches
        assert not any(" early " in line for line in launches)

    def test_a_device_too_old(self, fresh_device: int, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMULATOR_CAPABILITY", "35")
        logits, labels = batch(device=cuda)
        with pytest.raises(
            RuntimeError, match=r"compute capability 3\.5, but this NVRTC compiles for \d+\.\d and newer"
        ):
            rp.focal_loss(logits, labels)

    def test_no_such_device(self, cuda: str, emulator: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_cuda, "_place", lambda tensor: (1000, 0))
        logits, labels = batch(device=cuda)
        with pytest.raises(RuntimeError, match="cannot use device 1000: CUDA_ERROR_INVALID_DEVICE"):
            rp.focal_loss(logits, labels)
