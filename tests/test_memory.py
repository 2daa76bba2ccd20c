"""Memory of large gradients is used again, and never while somebody has it."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

import rarepixel as rp
from rarepixel import _core, _memory

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="such a torch gives out its own memory"
)
SHAPE = (1, 2, 1, _memory._LARGE)  # eight times as large as it must be
BYTES = 8 * _memory._LARGE


@pytest.fixture(autouse=True)
def nothing_idle() -> None:
    gc.collect()
    _core.free_idle_memory()


def empty(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    like = torch.empty(1, dtype=dtype).expand(shape)
    return _memory.empty_like(like, torch.contiguous_format)


def test_freed_memory_is_used_again() -> None:
    first = empty()
    address = first.data_ptr()
    view = first[0, 1]
    del first
    assert not _core.idle_memory()  # the view has it still
    other = empty()
    assert other.data_ptr() != address
    view.fill_(7.0)
    del view
    assert _core.idle_memory() == [BYTES]
    again = empty()
    assert again.data_ptr() == address
    assert not _core.idle_memory()
    assert (other.shape, again.stride(), again.is_contiguous()) == (SHAPE, empty().stride(), True)


def test_only_blocks_of_about_the_size_are_taken() -> None:
    small = empty()
    address = small.data_ptr()
    del small
    larger = empty((*SHAPE[:3], SHAPE[3] + 1))
    assert larger.data_ptr() != address
    half = empty((*SHAPE[:2], 1, SHAPE[3]), torch.float64)
    assert half.data_ptr() != address
    assert empty().data_ptr() == address


def test_little_lies_idle() -> None:
    several = [empty() for _ in range(24)]
    del several
    assert _core.idle_memory() == [BYTES] * 16  # cpu/blocks.rs
    _core.free_idle_memory()
    assert not _core.idle_memory()


def test_the_one_that_was_freed_last_is_taken_first() -> None:
    first, second = empty(), empty()
    addresses = [second.data_ptr(), first.data_ptr()]
    del first
    del second
    assert [empty_at.data_ptr() for empty_at in (empty(), empty())][:1] == addresses[:1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, torch.channels_last_3d])
def test_it_is_a_tensor_as_torch_makes_it(dtype: torch.dtype, layout: torch.memory_format) -> None:
    spatial = (3, 300, 400) if layout == torch.channels_last_3d else (300, 400)
    like = torch.empty((5, 7, *spatial), dtype=dtype).to(memory_format=layout)
    got, expected = _memory.empty_like(like, layout), torch.empty_like(like)
    assert (got.shape, got.stride(), got.dtype, got.device) == (
        expected.shape,
        expected.stride(),
        dtype,
        expected.device,
    )
    assert got.is_contiguous(memory_format=layout)
    assert not got.requires_grad
    got.fill_(1)
    assert (got == 1).all()
    del got
    assert len(_core.idle_memory()) == 1


def test_small_tensors_are_torchs_own() -> None:
    tensor = empty((1, 2, 3))
    del tensor
    assert not _core.idle_memory()


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREPIXEL_KEEP_MEMORY", "0")
    tensor = empty()
    del tensor
    assert not _core.idle_memory()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("loss", [rp.cross_entropy, rp.dice_loss])
def test_gradients_are_right_in_memory_that_was_used(loss: object, layout: torch.memory_format) -> None:
    assert callable(loss)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 1200, 1200, generator=generator).to(memory_format=layout).requires_grad_()
    target = torch.randint(3, (2, 1200, 1200), generator=generator)
    (first,) = torch.autograd.grad(loss(logits, target), logits)
    expected, address = first.clone(), first.data_ptr()
    first.fill_(torch.nan)
    del first
    (again,) = torch.autograd.grad(loss(logits, target), logits)
    assert again.data_ptr() == address
    assert torch.equal(again, expected)
    assert again.stride() == logits.stride()


def test_a_gradient_that_is_kept_is_not_written_again() -> None:
    logits = torch.zeros(1, 3, 1700, 1700, requires_grad=True)
    target = torch.zeros(1, 1700, 1700, dtype=torch.uint8)
    rp.cross_entropy(logits, target).backward()
    kept = logits.grad
    assert kept is not None
    copy = kept.clone()
    logits.grad = None
    rp.cross_entropy(logits * 3 + 1, target + 1).backward()
    assert torch.equal(kept, copy)


def test_threads_have_memory_of_their_own() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            tensor = empty()
            tensor[..., :1000] = number
            tensor[..., -1000:] = number
            if not ((tensor[..., :1000] == number).all() and (tensor[..., -1000:] == number).all()):
                wrong.append(number)
            del tensor

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
