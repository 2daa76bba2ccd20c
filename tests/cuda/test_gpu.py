"""What only a GPU can show. Skipped where torch sees none; `make test-gpu` runs it."""

from __future__ import annotations

import pytest
import torch

import rarepixel as rp
from loss.test_parity import compare
from rarepixel import doctor
from support import LAYOUTS, PRECISIONS, Precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def batch(device: str = "cuda", dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(4, 5, 128, 128, generator=generator).to(device, dtype).requires_grad_()
    return logits, torch.randint(5, (4, 128, 128), generator=generator).to(device)


def test_the_doctor_is_content() -> None:
    assert [finding for finding in doctor.report() if not finding.ok] == []


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_more_pixels_than_the_device_takes_at_a_time(
    precision: Precision, layout: str, label_dtype: torch.dtype
) -> None:
    """A thread takes several turns, and has asked for the next one before it works on this one."""
    generator = torch.Generator("cuda").manual_seed(9)
    logits = torch.randn(3, 5, 640, 1000, generator=generator, device="cuda", dtype=torch.float64) * 3
    labels = torch.randint(6, (3, 640, 1000), generator=generator, device="cuda")
    chosen = {"ignore_index": 5, "reduction": "sum"}
    compare("cross_entropy", precision, logits, labels.to(label_dtype), layout, chosen, "cuda")


def test_nothing_waits_for_the_device() -> None:
    logits, labels = batch()
    rp.dice_focal_loss(logits, labels, alpha=[1.0, 2, 3, 4, 5]).backward()
    matrix = rp.metrics.ConfusionMatrix(5)
    matrix.update(logits, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rp.dice_focal_loss(logits, labels, alpha=[1.0, 2, 3, 4, 5]).backward()
        rp.cross_entropy(logits, labels).backward()
        matrix.update(logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_replays_with_new_values() -> None:
    logits, labels = batch()
    input = logits.detach().clone().requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            input.grad = None
            rp.dice_focal_loss(input, labels).backward()
    torch.cuda.current_stream().wait_stream(stream)
    input.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = rp.dice_focal_loss(input, labels)
        loss.backward()
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            input.copy_(torch.randn_like(input))
        graph.replay()
        eager = input.detach().clone().requires_grad_()
        truth = rp.dice_focal_loss(eager, labels)
        truth.backward()
        assert torch.equal(loss, truth)
        assert torch.equal(input.grad, eager.grad)


def test_work_goes_to_the_current_stream() -> None:
    logits, labels = batch()
    truth = rp.dice_focal_loss(logits, labels)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the stream is busy; the loss must come after this copy on it
        late = torch.empty_like(logits).copy_(logits.detach())
        loss = rp.dice_focal_loss(late, labels)
    stream.synchronize()
    assert torch.equal(loss, truth)


def test_autocast_and_gradient_scaling() -> None:
    model = torch.nn.Conv2d(3, 5, 3, padding=1).cuda()
    _, labels = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    losses = []
    for _ in range(5):
        with torch.autocast("cuda", dtype=torch.float16):
            logits = model(torch.ones(4, 3, 128, 128, device="cuda"))
            loss = rp.dice_focal_loss(logits, labels)
        assert logits.dtype == torch.float16
        assert loss.dtype == torch.float32
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_wrong_label_leaves_the_context_alive() -> None:
    logits, labels = batch()
    labels[0, 0, 0] = 9
    assert rp.dice_focal_loss(logits, labels).isnan()
    torch.cuda.synchronize()
    labels[0, 0, 0] = 0
    assert rp.dice_focal_loss(logits, labels).isfinite()


def test_compiled_code_is_one_graph() -> None:
    logits, labels = batch()

    @torch.compile(fullgraph=True)
    def loss(logits: torch.Tensor) -> torch.Tensor:
        return rp.dice_focal_loss(logits * 2, labels)

    assert torch.allclose(loss(logits), rp.dice_focal_loss(logits * 2, labels))


def test_memory_is_that_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(4, 5, 512, 512, generator=generator).cuda().requires_grad_()
    labels = torch.randint(5, (4, 512, 512), generator=generator).to("cuda", torch.uint8)
    rp.dice_focal_loss(logits, labels).backward()
    logits.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rp.dice_focal_loss(logits, labels).backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 1.1 * logits.nbytes


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one() -> None:
    logits, labels = batch("cuda:1")
    torch.cuda.set_device(0)
    rp.dice_focal_loss(logits, labels).backward()
    assert torch.cuda.current_device() == 0
    assert torch.empty(1, device="cuda").device.index == 0
    here, labels_here = batch("cuda:0")
    assert torch.equal(rp.dice_focal_loss(here, labels_here).cpu(), rp.dice_focal_loss(logits, labels).cpu())
