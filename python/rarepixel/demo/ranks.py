"""The processes that ``torchrun`` started, by PyTorch's own engine; without it there is one, of rank 0.

Every process takes its share of each batch, and what they compute is added up: gradients by DistributedDataParallel,
losses by ``sync=True``, scores by :func:`gathered`. Rank 0 alone prints and writes.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# How long a process waits for the others. One that dies is noticed at once; this is for one that hangs.
_TIMEOUT = datetime.timedelta(minutes=10)


@contextmanager
def process_group() -> Iterator[None]:
    """While entered, the processes that torchrun started are a group.

    Raises:
        ConnectionError: another process ended or hangs.
    """
    if not _by_torchrun():
        yield
        return
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error):  # it has no type of its own
            raise
        raise ConnectionError(f"another process was lost ({error})") from error
    finally:
        dist.destroy_process_group()


def _by_torchrun() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def leave(status: int) -> NoReturn:
    """End this process."""
    if _by_torchrun():
        # Now and then a thread of torch's outlives its group, and an orderly exit aborts; torchrun then ends the other
        # processes, whose work may not be done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def are_several() -> bool:
    """Whether there is anybody to share the work with."""
    return world_size() > 1


def rank() -> int:
    """Number of this process, from 0 on."""
    return dist.get_rank() if _is_group() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _is_group() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if are_several():
        dist.barrier()


def on_any(flag: bool) -> bool:
    """Whether the flag is set on any process, the same answer on all: each must ask."""
    if not are_several():
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def gathered(value: T) -> list[T]:
    """The values of all processes in order, on each of them."""
    if not are_several():
        return [value]
    values = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def _is_group() -> bool:
    return dist.is_available() and dist.is_initialized()
