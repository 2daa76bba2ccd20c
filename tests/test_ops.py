"""The bridge to torch: autograd, torch.library, compile, transforms, threads and forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

import rarepixel as rp
from rarepixel import _autograd, _calls, _core, _tensors, ops, reference
from rarepixel.options import Options
from support import gradient_of

Loss = Callable[..., torch.Tensor]
REGION_LOSSES = [rp.dice_loss, rp.tversky_loss]
ALL = [rp.cross_entropy, rp.focal_loss, *REGION_LOSSES, rp.dice_focal_loss]


def batch(dtype: torch.dtype = torch.float32, size: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, size, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    target = torch.randint(4, (2, size, size), generator=generator)
    target[0, 0] = -100
    return logits, target


GRADCHECKED: list[tuple[Loss, dict[str, Any]]] = [
    (rp.cross_entropy, {}),
    (rp.cross_entropy, {"label_smoothing": 0.2, "weight": [1.0, 2.0, 0.0, 3.0], "reduction": "none"}),
    (rp.focal_loss, {"gamma": 1.5, "alpha": [1.0, 2.0, 0.5, 3.0], "reduction": "none"}),
    (rp.focal_loss, {"gamma": 0.5, "pt": "weighted_ce", "alpha": [1.0, 2.0, 0.5, 3.0]}),
    (rp.dice_loss, {"average": "macro", "per_sample": True, "absent": "skip"}),
    (rp.dice_loss, {"smooth": 1.0, "weight": [1.0, 2.0, 0.5, 3.0], "include_background": False}),
    (rp.tversky_loss, {"alpha": 0.3, "beta": 0.9, "smooth": 0.1, "weight": [1.0, 2.0, 0.5, 3.0]}),
    (rp.tversky_loss, {"alpha": 1.5, "beta": 0.0, "average": "micro", "include_background": False}),
    (rp.dice_focal_loss, {"average": "macro", "lambda_dice": 2.0, "lambda_focal": 0.3}),
]


@pytest.mark.parametrize(("loss_fn", "options"), GRADCHECKED)
def test_gradcheck(loss_fn: Loss, options: dict[str, Any]) -> None:
    logits, target = batch(torch.float64, size=4)
    assert torch.autograd.gradcheck(lambda z: loss_fn(z, target, **options), (logits,))
    soft = torch.rand(2, 4, 4, 4, dtype=torch.float64)
    if loss_fn in REGION_LOSSES:
        assert torch.autograd.gradcheck(lambda z: loss_fn(z, soft, **options), (logits,))


OPCHECKED = [
    Options(pixel="cross_entropy", label_smoothing=0.1),
    Options(pixel="focal", reduction="none"),
    Options(region="dice", average="macro", per_sample=True),
    Options(region="tversky", alpha=0.3, beta=0.7),
    Options(pixel="focal", region="dice"),
]


@pytest.mark.parametrize("options", OPCHECKED, ids=lambda options: f"{options.pixel}-{options.region}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(options: Options, dtype: torch.dtype, layout: torch.memory_format) -> None:
    logits, target = batch(dtype)
    logits = logits.detach().contiguous(memory_format=layout).requires_grad_()
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.library.opcheck(torch.ops.rarepixel.loss.default, (logits, target, weight, None, *options))


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compile_fullgraph_equals_eager(loss_fn: Loss, layout: torch.memory_format) -> None:
    torch.compiler.reset()  # `step` is one function to the compiler, and it compiles one only so many times
    logits, target = batch()
    logits = logits.detach().contiguous(memory_format=layout).requires_grad_()
    name = "alpha" if loss_fn in (rp.focal_loss, rp.dice_focal_loss) else "weight"
    weights = {name: [1.0, 2.0, 3.0, 4.0]}

    def step(z: torch.Tensor) -> torch.Tensor:
        return loss_fn(2 * z, target, **weights)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, got = step(logits), compiled(logits)
    assert torch.equal(expected, got)
    assert torch.equal(gradient_of(got, logits), gradient_of(expected, logits))


def test_compile_with_inductor() -> None:
    """The default backend, with a module and a changing batch size."""
    criterion = rp.DiceFocalLoss(alpha=[1.0, 2.0, 3.0, 4.0], average="macro")
    compiled = torch.compile(lambda z, y: criterion(z.relu(), y), fullgraph=True, dynamic=True)
    for samples in (2, 3, 5):
        logits = torch.randn(samples, 4, 8, 8, requires_grad=True)
        target = torch.randint(4, (samples, 8, 8), dtype=torch.uint8)
        expected = criterion(logits.relu(), target)
        got = compiled(logits, target)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(gradient_of(got, logits), gradient_of(expected, logits))


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_incoming_gradients(loss_fn: Loss, dtype: torch.dtype) -> None:
    """Scaled, and (reduction none) expanded from one number with stride 0."""
    logits, target = batch(dtype)
    truth = gradient_of(loss_fn(logits.double(), target), logits).double()
    for scale in (1.0, 0.5, -3.0, 4096.0, 0.0):
        loss = loss_fn(logits, target)
        got = gradient_of(loss, logits, torch.tensor(scale, dtype=loss.dtype)).double()
        epsilon = torch.finfo(dtype).eps
        torch.testing.assert_close(
            got, truth * scale, rtol=2 * epsilon, atol=2 * epsilon * truth.abs().max().item() * abs(scale)
        )
    if loss_fn in (rp.cross_entropy, rp.focal_loss):
        summed = gradient_of(loss_fn(logits, target, reduction="none").sum(), logits)
        torch.testing.assert_close(summed, gradient_of(loss_fn(logits, target, reduction="sum"), logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss_fn", [rp.cross_entropy, rp.focal_loss])
def test_a_scaled_half_precision_gradient_takes_one_pass_from_the_second_step_on(
    loss_fn: Loss, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, passes = _calls.backward, []
    monkeypatch.setattr(_autograd, "_last_scale", {})
    monkeypatch.setattr(_calls, "backward", lambda *arguments: passes.append(arguments) or backward(*arguments))
    logits, target = batch(dtype)

    def step(scale: float) -> torch.Tensor:
        loss = loss_fn(logits, target)
        return gradient_of(loss, logits, torch.tensor(scale, dtype=loss.dtype)).clone()

    first = step(65536.0)
    assert len(passes) == 1
    assert all(torch.equal(step(65536.0), first) for _ in range(2))
    assert len(passes) == 1
    changed = step(3.0)  # as after an overflow
    assert len(passes) == 2
    assert torch.equal(step(3.0), changed)
    assert not torch.equal(changed, first)
    assert len(passes) == 2
    for samples in range(300):  # sizes that never come again are forgotten
        _autograd._last_scale[Options(), torch.Size([samples])] = 1.0
    step(2.0)
    assert len(_autograd._last_scale) < 256


@pytest.mark.parametrize("loss_fn", ALL)
def test_meta_tensors_have_shapes_and_no_memory(loss_fn: Loss) -> None:
    """For planning a model's memory, say: they crashed once."""
    logits = torch.empty(2, 4, 5, 6, device="meta", dtype=torch.bfloat16, requires_grad=True)
    target = torch.empty(2, 5, 6, device="meta", dtype=torch.long)
    loss = loss_fn(logits, target)
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")
    gradient = gradient_of(loss, logits)
    assert (gradient.shape, gradient.dtype, gradient.device.type) == (logits.shape, logits.dtype, "meta")
    total = rp.multi_scale_loss([logits, logits], target, [{"dice": {}}] * 2, target_mode="majority")
    assert (total.shape, total.device.type) == ((), "meta")


@pytest.mark.parametrize("ignore_index", [-100, 0, 2, 255, 1000])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("loss_fn", ALL)
def test_wide_labels_are_narrowed_to_the_same_result(loss_fn: Loss, dtype: torch.dtype, ignore_index: int) -> None:
    """Of large targets, which need not be contiguous."""
    generator = torch.Generator().manual_seed(ignore_index % 7)
    logits = torch.randn(2, 5, 160, 130, generator=generator, requires_grad=True)
    target = torch.randint(5, (2, 130, 160), generator=generator).mT
    target = torch.where(torch.rand(target.shape, generator=generator) < 0.2, ignore_index, target)
    narrow = torch.where(target == ignore_index, 77, target).to(torch.uint8)
    expected = loss_fn(logits, narrow, ignore_index=77)
    got = loss_fn(logits, target.to(dtype), ignore_index=ignore_index)
    assert [loss.grad_fn.calls[0].labels.narrowed for loss in (expected, got)] == [False, True]
    assert torch.equal(got, expected)
    assert torch.equal(gradient_of(got, logits), gradient_of(expected, logits))
    target[1, 3, 7] = 5
    with pytest.raises(ValueError, match=r"label 5 at position \[1, 3, 7\]"):
        loss_fn(logits, target.to(dtype), ignore_index=ignore_index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 5, 33, 37), (1, 1, 8, 8), (3, 2, 7), (2, 33, 20, 20), (5, 5)], ids=str)
def test_a_kept_softmax_gives_the_bits_of_a_new_one(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several largest logits, weights of 0, ignored pixels and whole ignored samples."""
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(shape, generator=generator, dtype=dtype)
    logits[0] = logits[0].round()
    logits.requires_grad_()
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = -100
    target[-1] = -100
    alpha = torch.rand(shape[1], generator=generator)
    alpha[0] = 0
    keeps = _autograd._keeps
    for loss_fn, chosen in [
        (rp.dice_loss, {"per_sample": True}),
        (rp.tversky_loss, {"alpha": 0.3, "beta": 1.2}),
        (rp.dice_focal_loss, {}),
        (rp.dice_focal_loss, {"alpha": alpha, "pt": "weighted_ce"}),
        (rp.dice_focal_loss, {"alpha": alpha, "gamma": 0.5}),
    ]:
        monkeypatch.setattr(_autograd, "_keeps", keeps)
        assert keeps(logits, target, Options(region="dice"))
        got = gradient_of(loss_fn(logits, target, **chosen), logits, torch.tensor(3.0, dtype=dtype))
        monkeypatch.setattr(_autograd, "_keeps", lambda *_: False)
        expected = gradient_of(loss_fn(logits, target, **chosen), logits, torch.tensor(3.0, dtype=dtype))
        assert torch.equal(got, expected)


@pytest.mark.parametrize("loss_fn", ALL)
def test_two_backward_passes_with_retain_graph(loss_fn: Loss) -> None:
    logits, target = batch()
    loss = loss_fn(logits, target)
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    second = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    second.zero_()  # what was handed out is not used again
    third = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(first, third, rtol=0, atol=0)


@pytest.mark.parametrize("loss_fn", ALL)
def test_the_same_logits_in_two_losses(loss_fn: Loss) -> None:
    logits, target = batch(torch.float64)
    (0.25 * loss_fn(logits, target) + loss_fn(logits, target)).backward()
    expected = 1.25 * gradient_of(loss_fn(logits, target), logits)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("loss_fn", ALL)
def test_no_grad_forward(loss_fn: Loss) -> None:
    logits, target = batch()
    with torch.no_grad():
        loss = loss_fn(logits, target)
    assert not loss.requires_grad
    with torch.inference_mode():
        inferred = loss_fn(logits.detach(), target)
    expected = loss_fn(logits, target)
    assert torch.equal(loss, expected.detach())
    assert torch.equal(inferred, expected.detach())


@pytest.mark.parametrize("loss_fn", ALL)
def test_double_backward_is_a_clear_error(loss_fn: Loss) -> None:
    logits, target = batch()
    (gradient,) = torch.autograd.grad(loss_fn(logits, target), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        (logits.sum() + gradient.sum()).backward()


def test_double_backward_of_the_registered_operator_is_a_clear_error() -> None:
    logits, target = batch()
    loss, _ = torch.ops.rarepixel.loss(logits, target, None, None, *Options(region="dice"))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        (logits.sum() + gradient.sum()).backward()


def test_logits_changed_in_place_are_noticed() -> None:
    logits, target = batch()
    middle = logits * 1
    loss = rp.dice_loss(middle, target)
    middle.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_functional_transforms_take_plain_torch() -> None:
    logits, target = batch(torch.float64)
    got = torch.func.grad(lambda z: rp.dice_focal_loss(z, target))(logits.detach())
    torch.testing.assert_close(got, gradient_of(rp.dice_focal_loss(logits, target), logits))
    losses = torch.func.vmap(lambda z, y: rp.focal_loss(z[None], y[None]))(logits.detach(), target)
    for sample in range(2):
        expected = rp.focal_loss(logits[sample : sample + 1], target[sample : sample + 1])
        torch.testing.assert_close(losses[sample], expected)


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        loss = rp.focal_loss(torch.empty(2, 5, 8, 8), torch.empty(2, 8, 8, dtype=torch.uint8), reduction="none")
    assert loss.shape == (2, 8, 8)


def test_export() -> None:
    class Step(torch.nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return rp.dice_loss(logits, target)

    logits, target = batch()
    program = torch.export.export(Step(), (logits.detach(), target))
    torch.testing.assert_close(program.module()(logits.detach(), target), rp.dice_loss(logits.detach(), target))


@pytest.mark.parametrize("loss_fn", ALL)
def test_autocast(loss_fn: Loss) -> None:
    layer = torch.nn.Conv2d(3, 4, 1)
    images, target = torch.randn(2, 3, 9, 9), batch()[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(images)
        loss = loss_fn(logits, target)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_channels_last_gradient_is_channels_last() -> None:
    logits, target = batch()
    logits = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = gradient_of(rp.focal_loss(logits, target), logits)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_contiguous_and_channels_last_are_not_copied(layout: torch.memory_format) -> None:
    logits = torch.randn(2, 4, 9, 9).contiguous(memory_format=layout)
    assert _tensors.foldable(logits, 2) is logits
    assert _tensors.foldable(logits[:, 1:3], 2).data_ptr() == logits[:, 1:3].data_ptr()
    transposed = torch.randn(9, 9, 4, 2).permute(3, 2, 0, 1)[:, :, ::2]
    assert _tensors.foldable(transposed, 2).is_contiguous()


def test_the_gil_is_released() -> None:
    """Another thread counts on while the loss is computed."""
    logits = torch.randn(8, 5, 512, 512)
    target = torch.zeros(8, 512, 512, dtype=torch.uint8)
    ticks, stop = [], threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        time.sleep(0.01)
        start = time.perf_counter()
        for _ in range(10):
            rp.dice_focal_loss(logits, target)
        end = time.perf_counter()
    finally:
        stop.set()
        counter.join()
    during = [tick for tick in ticks if start < tick < end]
    # Under the GIL the counter would run between the calls only: about once for each.
    assert len(during) > 15


class LossOfItem(Dataset[float]):
    """A dataset whose items are losses, large enough to ask for threads."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        # NumPy makes the operands: torch must not start threads here, since libgomp hangs in a forked child.
        torch.set_num_threads(2)
        logits = np.arange(4 * 128 * 128, dtype=np.float32).reshape(1, 4, 128, 128) % 7 + index
        labels = np.zeros((1, 128, 128), dtype=np.uint8)
        return rp.dice_focal_loss(torch.from_numpy(logits), torch.from_numpy(labels)).item()


@pytest.mark.timeout(120)
def test_forked_workers_use_the_loss() -> None:
    """A child of a process whose thread pool is in use must not wait for threads that it does not have."""
    expected = [LossOfItem()[i] for i in range(4)]  # starts the parent's pool
    for _ in range(2):
        loader = DataLoader(LossOfItem(), num_workers=2, multiprocessing_context="fork", batch_size=None)
        assert [float(item) for item in loader] == expected
    assert [LossOfItem()[i] for i in range(4)] == expected


def test_torchs_threads_and_our_own_give_the_same_bits() -> None:
    """On Linux the work runs on torch's OpenMP threads; a process without torch has none to borrow."""
    assert _core.join_torch() == (sys.platform == "linux")
    script = """
import sys, numpy as np, rarepixel.numpy as rpn
logits = np.random.default_rng(0).standard_normal((2, 5, 256, 256)).astype(np.float32)
labels = np.zeros((2, 256, 256), dtype=np.uint8)
loss, gradient = rpn.dice_focal_loss(logits, labels)
assert "torch" not in sys.modules
sys.stdout.buffer.write(np.float32(loss).tobytes() + gradient.tobytes())
"""
    environment = {**os.environ, "RAREPIXEL_NUM_THREADS": "3"}
    own = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 256, 256)).astype(np.float32))
    logits.requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    loss = rp.dice_focal_loss(logits, torch.zeros(2, 256, 256, dtype=torch.uint8))
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.set_num_threads(threads)
    assert loss.detach().numpy().tobytes() + gradient.numpy().tobytes() == own


def test_many_python_threads() -> None:
    logits, target = batch(size=130)
    expected = rp.dice_focal_loss(logits, target).item()
    results: list[float] = []
    threads = [
        threading.Thread(target=lambda: results.extend(rp.dice_focal_loss(logits, target).item() for _ in range(20)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 120


def test_devices_without_kernels_take_plain_torch_with_one_warning() -> None:
    logits, target = batch()
    options = Options(pixel="focal", region="dice", average="macro", gamma=1.5)
    got = ops._plain(logits, target, None, None, options)
    expected = rp.dice_focal_loss(logits, target, gamma=1.5, average="macro")
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient_of(got, logits), gradient_of(expected, logits))
    with pytest.raises(ValueError, match="gamma: got -1"):
        ops._plain(logits, target, None, None, options._replace(gamma=-1.0))
    with pytest.warns(UserWarning, match="no kernels for xyz tensors"):
        ops._warn_once("xyz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops._warn_once("xyz")


def test_reference_is_torchs_cross_entropy() -> None:
    logits, target = batch(torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for options in ({}, {"label_smoothing": 0.3}, {"reduction": "none"}, {"reduction": "sum"}):
        expected = F.cross_entropy(logits, target, weight, **options)
        torch.testing.assert_close(reference.cross_entropy(logits, target, weight, **options), expected)


def test_an_incoming_gradient_that_has_to_be_copied() -> None:
    """A copy made on the way in must live until the call returns."""
    logits = torch.randn(2, 4, 300, 400, requires_grad=True)
    target = torch.randint(4, (2, 300, 400))
    incoming = torch.randn(2, 400, 600).transpose(1, 2)[:, ::2]
    assert _tensors.foldable(incoming, 1) is not incoming
    got = gradient_of(rp.focal_loss(logits, target, reduction="none"), logits, incoming)
    expected = gradient_of(rp.focal_loss(logits, target, reduction="none"), logits, incoming.contiguous())
    assert torch.equal(got, expected)


OLDER_TORCH = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
import rarepixel as rp
from torch.nn.functional import cross_entropy
generator = torch.Generator().manual_seed(0)
logits = torch.randn(2, 3, 500, 500, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
target = torch.randint(3, (2, 500, 500), generator=generator, dtype=torch.int16)
loss, expected = rp.cross_entropy(logits, target), cross_entropy(logits, target.long())
torch.testing.assert_close(loss, expected)
torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (loss, expected)))
torch.testing.assert_close(rp.dice_loss(logits.bfloat16(), target), rp.dice_loss(logits, target), rtol=1e-2, atol=0)
assert not rp._core.idle_memory()
try:
    rp.cross_entropy(logits, target.bool())
except TypeError as error:
    print(error)
"""


def test_a_torch_without_the_exchange_interface() -> None:
    done = subprocess.run([sys.executable, "-c", OLDER_TORCH], capture_output=True, text=True, check=True)
    assert done.stdout == "target: got bool, expected uint8, int16, int32 or int64 class indices\n", done.stderr


@pytest.mark.parametrize("kind", ["bool", "complex64", "float8_e4m3fn"])
def test_dtypes_that_cannot_be_read(kind: str) -> None:
    logits, target = batch()
    with pytest.raises(TypeError, match=f"target: got {kind}, expected uint8"):
        rp.cross_entropy(logits, target.to(getattr(torch, kind)))


def test_terms_with_labels_of_their_own_for_ignored_pixels() -> None:
    """What is known of a target's labels serves the terms that ignore the same one."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 5, size, size, generator=generator, requires_grad=True) for size in (160, 160, 80)]
    target = torch.randint(5, (2, 160, 160), generator=generator)
    chosen = [Options(pixel="focal", ignore_index=ignore_index) for ignore_index in (-100, 3, 3)]
    chosen[2] = chosen[2]._replace(target_mode="majority")
    total, parts = ops.losses(maps, target, [ops.Term(options) for options in chosen], parts=True)
    assert parts is not None
    for map, options, part, got in zip(maps, chosen, parts, torch.autograd.grad(total, maps), strict=True):
        alone = ops.loss(map, target, options)
        torch.testing.assert_close(part, alone.detach(), rtol=0, atol=0)
        assert torch.equal(got, gradient_of(alone, map))


@pytest.mark.parametrize("weight", [["1", "2", "3", "4"], [1.0, None, 2.0, 3.0], "abcd", [[1.0], [2.0], [3.0], [4.0]]])
def test_weights_that_are_no_numbers(weight: Any) -> None:
    logits, target = batch()
    with pytest.raises((TypeError, ValueError), match="weight: got "):
        rp.cross_entropy(logits, target, weight)


@pytest.mark.parametrize("loss_fn", ALL)
def test_views_that_negate(loss_fn: Loss) -> None:
    """The imaginary part of a conjugate is such a view."""
    _, target = batch(torch.float64)
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(2, 4, *target.shape[1:], 2, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.view_as_complex(parts).conj().imag
    assert logits.is_neg()
    got, expected = loss_fn(logits, target), loss_fn(logits.detach().clone(), target)
    torch.testing.assert_close(got, expected)
    assert (gradient_of(got, parts)[..., 1] != 0).any()


@pytest.mark.parametrize("loss_fn", ALL)
def test_an_incoming_gradient_that_is_a_view_that_negates(loss_fn: Loss) -> None:
    logits, target = batch()
    loss = loss_fn(logits, target)
    expected = gradient_of(loss_fn(logits, target), logits)
    seen: list[bool] = []
    loss.register_hook(lambda incoming: seen.append(incoming.is_neg()))
    conjugate = torch.complex(torch.zeros(()), loss).conj().resolve_conj()
    got = gradient_of(torch.view_as_real(conjugate)[1], logits)
    assert seen == [True]
    assert torch.equal(got, -expected)


CHANGED_LABELS = """
import numpy as np, torch, rarepixel as rp
logits = torch.randn(2, 5, 64, 64, requires_grad=True)
for loss_fn, options in [
    (rp.cross_entropy, {"reduction": "none"}), (rp.focal_loss, {"reduction": "none"}), (rp.dice_loss, {}),
    (rp.dice_focal_loss, {}),
]:
    for dtype, label in [(np.uint8, 200), (np.int64, 30_000_000)]:
        mask = np.ones((2, 64, 64), dtype)
        loss = loss_fn(logits, torch.from_numpy(mask), **options).sum()
        mask[:] = label
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
print("survived")
"""


def test_labels_that_somebody_changes_between_the_passes_are_no_addresses() -> None:
    """torch does not see what NumPy writes. They count as ignored; what matters is that nothing else is read."""
    done = subprocess.run([sys.executable, "-c", CHANGED_LABELS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_tensors_without_memory() -> None:
    logits, target = batch()
    with pytest.raises(ValueError, match="input: got a tensor without memory"):
        rp.cross_entropy(torch._efficientzerotensor(tuple(logits.shape)), target)
    with pytest.raises(ValueError, match="grad_output: got a tensor without memory"):
        rp.dice_loss(logits, target).backward(torch._efficientzerotensor(()))


@pytest.mark.parametrize("loss_fn", ALL)
def test_forward_mode_takes_plain_torch(loss_fn: Loss) -> None:
    logits, target = batch(torch.float64)
    primal, tangent = logits.detach(), torch.ones_like(logits)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(primal, tangent)
        got = torch.autograd.forward_ad.unpack_dual(loss_fn(dual, target)).tangent
    assert got is not None
    torch.testing.assert_close(got, (gradient_of(loss_fn(logits, target), logits) * tangent).sum())


@pytest.mark.parametrize("loss_fn", ALL)
def test_a_default_device_is_not_asked(loss_fn: Loss) -> None:
    logits, target = batch()
    expected = loss_fn(logits, target)
    with torch.device("meta"):
        got = loss_fn(logits, target)
    assert got.device == expected.device
    assert torch.equal(got, expected)


@pytest.mark.parametrize("classes", [9, 20])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_of_many_channels_last_are_those_of_planes(classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(2, classes, 13, 21, generator=generator).to(dtype).requires_grad_()
    last = planes.detach().to(memory_format=torch.channels_last).requires_grad_()
    target = torch.randint(classes, (2, 13, 21), generator=generator)
    for loss_fn in ALL:
        got, expected = loss_fn(last, target), loss_fn(planes, target)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(gradient_of(got, last), gradient_of(expected, planes), rtol=1e-2, atol=1e-7)


def test_a_label_that_the_dtype_lacks_ignores_nothing_in_the_reference_either() -> None:
    logits, target = batch()
    target = target.clamp(min=0)
    got = reference.cross_entropy(logits, target.to(torch.uint8), ignore_index=256)
    torch.testing.assert_close(got, rp.cross_entropy(logits, target.to(torch.uint8), ignore_index=256))
    torch.testing.assert_close(got, rp.cross_entropy(logits, target))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss_fn", ALL)
def test_a_loss_that_is_kept_keeps_nothing_else(loss_fn: Loss, reduction: str) -> None:
    """Nor is there a cycle that waits for the garbage collector."""
    options = {"reduction": reduction} if loss_fn in (rp.cross_entropy, rp.focal_loss) else {}
    logits, target = batch()
    labels, loss = weakref.ref(target), loss_fn(logits, target, **options)
    loss.sum().backward()
    del target
    assert labels() is None
    tensor = weakref.ref(loss)
    gc.disable()
    try:
        del loss
        assert tensor() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("loss_fn", ALL)
def test_derivatives_by_the_incoming_gradient_are_no_silent_zeros(loss_fn: Loss) -> None:
    """``torch.autograd.functional.jvp`` takes them."""
    logits, target = batch(torch.float64)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.functional.jvp(lambda logits: loss_fn(logits, target), logits.detach(), torch.ones_like(logits))


@pytest.mark.parametrize("loss_fn", ALL)
def test_batched_backward_is_a_clear_error(loss_fn: Loss) -> None:
    logits, target = batch()
    with pytest.raises(RuntimeError, match="no batched backward pass"):
        torch.autograd.grad(loss_fn(logits, target), logits, torch.ones(3), is_grads_batched=True)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_a_trace_is_no_constant() -> None:
    logits, target = batch()
    traced = torch.jit.trace(rp.CrossEntropyLoss(), (logits, target))
    torch.testing.assert_close(traced(5 * logits, target), rp.cross_entropy(5 * logits, target))


@pytest.mark.parametrize("loss_fn", [rp.cross_entropy, rp.focal_loss])
def test_an_infinite_incoming_gradient_leaves_ignored_pixels_alone(loss_fn: Loss) -> None:
    logits, target = batch()
    target[0] = -100
    gradient = gradient_of(loss_fn(logits, target), logits, torch.tensor(torch.inf))
    assert (gradient[0] == 0).all()


@pytest.mark.parametrize(
    ("loss_fn", "options", "message"),
    [
        (rp.focal_loss, {"gamma": "2"}, "gamma: got '2', expected a number"),
        (rp.focal_loss, {"gamma": None}, "gamma: got None, expected a number"),
        (rp.cross_entropy, {"ignore_index": 2.5}, "ignore_index: got 2.5, expected an integer"),
        (rp.cross_entropy, {"ignore_index": 2**70}, "ignore_index: got 11805.*, expected an integer of 64 bits"),
        (rp.cross_entropy, {"reduction": None}, "reduction: got None, expected a string"),
        (rp.cross_entropy, {"reduction": ["mean"]}, r"reduction: got \['mean'\], expected a string"),
        (rp.dice_loss, {"per_sample": "a"}, "per_sample: got 'a', expected True or False"),
        (rp.dice_loss, {"average": None}, "average: got None, expected a string"),
        (rp.dice_focal_loss, {"lambda_dice": "1"}, "lambda_dice: got '1', expected a number"),
    ],
)  # fmt: skip
def test_options_of_a_wrong_type_are_named(loss_fn: Loss, options: dict[str, Any], message: str) -> None:
    logits, target = batch()
    with pytest.raises((TypeError, ValueError), match=message):
        loss_fn(logits, target, **options)


class Subclass(torch.Tensor):
    """Whose operations go through the registered operator."""


@pytest.mark.parametrize(
    ("loss_fn", "name", "values"),
    [
        (rp.focal_loss, "gamma", (2.0, 0.0)),
        (rp.cross_entropy, "label_smoothing", (0.0, 0.3)),
        (rp.focal_loss, "ignore_index", (-100, 1)),
        (rp.dice_loss, "smooth", (1.0, 50.0)),
        (rp.tversky_loss, "beta", (0.5, 0.1)),
        (rp.dice_focal_loss, "lambda_focal", (1.0, 0.25)),
        (rp.dice_focal_loss, "lambda_dice", (1.0, 0.25)),
    ],
)
def test_options_that_are_tensors_or_arrays_are_read_at_each_call(
    loss_fn: Loss, name: str, values: tuple[float, float]
) -> None:
    logits, target = batch()
    target = target.clamp(min=0)
    first, second = (loss_fn(logits, target, **{name: value}) for value in values)
    assert not torch.equal(first, second)
    for option in (torch.tensor(values[0]), np.array(values[0])):
        assert torch.equal(loss_fn(logits, target, **{name: option}), first)
        option[...] = values[1]
        assert torch.equal(loss_fn(logits, target, **{name: option}), second)
    learned = torch.nn.Parameter(torch.tensor(float(values[0])))
    with pytest.raises(ValueError, match=f"{name}: got a tensor that requires grad, expected a constant"):
        loss_fn(logits, target, **{name: learned})
    with pytest.raises(ValueError, match=f"{name}: got a tensor that requires grad, expected a constant"):
        torch.func.jvp(
            lambda option: loss_fn(logits, target, **{name: option}),
            (torch.tensor(float(values[0])),),
            (torch.ones(()),),
        )
    for wrong in (np.ma.masked, np.ma.masked_array(1.0, mask=True), values[0] + 0j, torch.tensor(values[0] + 0j)):
        loss_fn(logits, target, **{name: values[0]})
        with pytest.raises(TypeError, match=rf"(?s){name}: got .*, expected a number"):
            loss_fn(logits, target, **{name: wrong})
    for wrong in (torch.tensor([1.0, 2.0]), np.array([1.0, 2.0]), torch.zeros((), device="meta")):
        with pytest.raises(TypeError, match=rf"{name}: got (tensor|array)\(.*, expected one value"):
            loss_fn(logits, target, **{name: wrong})


@pytest.mark.parametrize("yes", [True, 1, 1.0, np.True_, torch.tensor(True)])
def test_upsample_is_also_1(yes: object) -> None:
    logits, target = batch()
    larger = target.repeat_interleave(2, 1).repeat_interleave(2, 2)
    got = rp.cross_entropy(logits, larger, upsample=yes, align_corners=yes)
    assert torch.equal(got, rp.cross_entropy(logits, larger, upsample=True, align_corners=True))


@pytest.mark.parametrize("name", ["upsample", "align_corners"])
@pytest.mark.parametrize("value", ["no", 4, [1, 2], None])
def test_upsample_is_true_or_false(name: str, value: object) -> None:
    logits, target = batch()
    with pytest.raises(TypeError, match=f"{name}: got .*, expected True or False"):
        rp.cross_entropy(logits, target, **{name: value})


def test_subclasses_take_the_same_options() -> None:
    logits, target = batch()
    options = {"ignore_index": 255.0, "per_sample": 1}
    expected = rp.dice_loss(logits, target.clamp(min=0), **options)
    assert torch.equal(rp.dice_loss(logits.as_subclass(Subclass), target.clamp(min=0), **options), expected)
    compiled = torch.compile(rp.dice_loss, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(logits, target.clamp(min=0), **options), expected)
    with pytest.raises(TypeError, match="gamma: got '2', expected a number"):
        rp.focal_loss(logits.as_subclass(Subclass), target, gamma="2")


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_forward_derivatives_of_compiled_functions(loss_fn: Loss, backend: str) -> None:
    logits, target = batch()
    logits, target, tangent = logits.detach(), target.clamp(min=0), torch.ones(logits.shape).cumsum(1)

    def derivative(logits: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda z: loss_fn(z, target), (logits,), (tangent,))[1]

    expected = derivative(logits)
    assert expected != 0
    torch.compiler.reset()  # at some number of different losses it would give up
    torch.testing.assert_close(torch.compile(derivative, backend=backend, fullgraph=True)(logits), expected)
    compiled = torch.compile(lambda z: loss_fn(z, target), backend=backend)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, tangent)
        got = torch.autograd.forward_ad.unpack_dual(compiled(dual)).tangent
    torch.testing.assert_close(got, expected)


def test_weights_by_class_weights_within_a_compiled_function() -> None:
    logits, target = batch()
    weight = rp.class_weights([5, 3, 2, 1])
    compiled = torch.compile(lambda z: rp.cross_entropy(z, target, weight=weight), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits), rp.cross_entropy(logits, target, weight=weight))


def test_weights_that_are_no_numbers_of_the_type() -> None:
    logits, target = batch()
    for weight in (torch.tensor([1, 2, 3j, 4]), [1, 2, 3j, 4], [10**400, 1, 1, 1]):
        with pytest.raises((TypeError, ValueError), match=r"weight: got .*, expected "):
            rp.cross_entropy(logits, target, weight=weight)


def test_saved_tensors_are_taken_once() -> None:
    from torch.utils.checkpoint import checkpoint

    logits, target = batch()
    expected = gradient_of(rp.dice_focal_loss(logits, target), logits)
    loss = checkpoint(lambda z: rp.dice_focal_loss(z, target), logits, use_reentrant=False)
    (got,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert torch.equal(got, expected)


def test_the_operator_checks_the_incoming_gradient() -> None:
    logits, target = batch()
    logits, options = logits.detach(), Options(pixel="cross_entropy")
    _, sums = torch.ops.rarepixel.loss(logits, target, None, None, *options)
    for wrong in (torch.empty(0), torch.ones(3)):
        with pytest.raises(ValueError, match=r"grad_output: got shape \[\d\], expected shape \[\]"):
            torch.ops.rarepixel.loss_backward(wrong, logits, target, None, None, sums, *options)


def test_memory_of_another_shape_is_refused() -> None:
    logits, target = batch()
    spec = _core.LossSpec(*Options(pixel="cross_entropy"))
    arguments = (spec, logits.detach(), target.clamp(min=0), None, None)
    with pytest.raises(ValueError, match=r"gradient: got shape \[1, 1, 1, 1\], expected shape \[2, 4, 9, 9\]"):
        _core.loss_forward(*arguments, None, torch.empty(1, 1, 1, 1), 1.0, None, 1)
    with pytest.raises(ValueError, match="loss: got shape"):
        _core.loss_forward(*arguments, torch.empty(2, 3), None, 1.0, None, 1)


def test_weights_too_small_for_the_type_count_nothing() -> None:
    logits, target = batch()
    for weight in ([1e-46] * 4, [1e-46, 0.0, 0.0, 0.0]):
        loss = rp.cross_entropy(logits, target, weight=weight)
        assert loss == 0
        assert (gradient_of(loss, logits) == 0).all()


def test_sync_with_a_group_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        logits, target = batch()
        assert torch.equal(rp.dice_loss(logits, target, sync=distributed.group.WORLD), rp.dice_loss(logits, target))
        monkeypatch.setattr(distributed, "get_rank", lambda group: -1)
        with pytest.raises(ValueError, match="sync: got a group that this process is not in"):
            rp.dice_loss(logits, target, sync=distributed.group.WORLD)
    finally:
        monkeypatch.undo()
        distributed.destroy_process_group()


@pytest.mark.parametrize("sync", [None, 0, 1, "no", object()])
def test_sync_is_true_false_or_a_group(sync: object) -> None:
    logits, target = batch()
    with pytest.raises(TypeError, match=r"sync: got .*, expected True, False or a process group"):
        rp.dice_loss(logits, target, sync=sync)


@pytest.mark.parametrize(
    ("loss_fn", "change", "message"),
    [
        (rp.dice_loss, lambda target: {"target": target[:1]}, "target: got shape"),
        (rp.focal_loss, lambda target: {"target": target[:, :1]}, "target: got shape"),
        (rp.cross_entropy, lambda target: {"target": target.float()}, "target: got torch.float32, expected uint8"),
        (rp.focal_loss, lambda target: {"alpha": [1.0] * 9}, "got 9 values, expected 4 values"),
    ],
)
def test_transforms_check_shapes_too(loss_fn: Loss, change: Callable[..., dict[str, Any]], message: str) -> None:
    logits, target = batch()
    arguments = {"target": target, **change(target)}
    with pytest.raises((TypeError, ValueError), match=message):
        torch.func.grad(lambda logits: loss_fn(logits, **arguments))(logits.detach())


def test_gradients_of_each_sample_by_vmap() -> None:
    logits, target = batch(torch.float64)
    target = target.clamp(min=0)
    for loss_fn in ALL:
        each = torch.func.vmap(torch.func.grad(lambda z, y, loss_fn=loss_fn: loss_fn(z[None], y[None])))
        got = each(logits.detach(), target)
        expected = [gradient_of(loss_fn(logits[i : i + 1], target[i : i + 1]), logits)[i] for i in range(len(logits))]
        torch.testing.assert_close(got, torch.stack(expected))


def test_weights_that_are_a_reversed_array() -> None:
    logits, target = batch()
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(
        rp.cross_entropy(logits, target, weight[::-1]), rp.cross_entropy(logits, target, [4.0, 3.0, 2.0, 1.0])
    )
