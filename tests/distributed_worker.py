"""One rank of the distributed tests: test_multi_scale.py runs it with RANK, WORLD_SIZE and MEETING_PLACE set.

Arguments: what to do, and for the CUDA path the library of the emulated driver.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import rarepixel as rp
from emulation import Emulator, cpu_tensors_on_cuda

SIZES = [3, 1, 2]  # samples of each rank


def whole_batch(ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = sum(SIZES[:ranks])
    images = torch.randn(samples, 3, 16, 16, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (samples, 16, 16), generator=generator)
    target[SIZES[0] : SIZES[0] + SIZES[1]] = 255  # rank 1 has nothing but ignored pixels
    target[0, :5] = 255
    return images, target


def with_ties(target: torch.Tensor) -> torch.Tensor:
    """Two classes, of which class 0 is the rarer on rank 0 and the more frequent over all ranks."""
    share = torch.tensor([0.45] * SIZES[0] + [0.95] * SIZES[1] + [0.7] * SIZES[2])[: len(target)]
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(target.shape, generator=generator) > share[:, None, None]).long()


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Conv2d(3, 4, 3, padding=1).double()


def losses(sync: bool) -> list[torch.nn.Module]:
    chosen = {"ignore_index": 255, "sync": sync}
    weights = [1.0, 2.0, 3.0, 4.0]
    return [
        rp.CrossEntropyLoss(weights, **chosen),
        rp.FocalLoss(weights, **chosen),
        rp.DiceLoss(average="macro", **chosen),
        rp.TverskyLoss(0.3, 0.7, weight=weights, **chosen),
        rp.DiceFocalLoss(weights, average="macro", **chosen),
        *(
            rp.MultiScaleLoss([{"focal": {}, "dice": {"average": "macro"}}], mode, 255, sync=sync)
            for mode in ("nearest", "majority", "upsample_logits")
        ),
        rp.MultiScaleLoss([{"cross_entropy": {"weight": weights}, "dice": {}}], "area", 255, sync=sync),
    ]


def forward(criterion: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    several = isinstance(criterion, rp.MultiScaleLoss)
    loss: torch.Tensor = criterion([logits[..., ::2, ::2]] if several else logits, target)
    return loss


def equal(rank: int, ranks: int) -> None:
    images, labels = whole_batch(ranks)
    start = sum(SIZES[:rank])
    mine = slice(start, start + SIZES[rank])
    for criterion, alone in zip(losses(True), losses(False), strict=True):
        target = with_ties(labels) if getattr(alone, "target_mode", "") == "majority" else labels
        network = DistributedDataParallel(model())
        loss = forward(criterion, network(images[mine]), target[mine])
        loss.backward()
        reference = model()
        expected = forward(alone, reference(images), target)
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)
    print("equal")


def empty(rank: int, ranks: int) -> None:
    """A rank without samples, whose maps have no sizes, and maps in the order of the course, the smallest first."""
    images, target = whole_batch(ranks)
    count = 0 if rank == 1 else len(images)
    images, target = images[:, :1].repeat(1, 4, 1, 1), target % 4
    for stages in (rp.MultiScaleLoss().stages, [rp.Stage(dice={"average": "macro"})] * 3):
        alone = [images[..., ::step, ::step].clone().requires_grad_() for step in (8, 4, 1)]
        expected = rp.multi_scale_loss(alone, target, stages)
        expected.backward()
        mine = [logits.detach()[:count].requires_grad_() for logits in alone]
        loss = rp.multi_scale_loss(mine, target[:count], stages, sync=True)
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        for ours, theirs in zip(mine, alone, strict=True):
            torch.testing.assert_close(ours.grad, ranks * theirs.grad[:count], rtol=1e-10, atol=1e-14)
    print("equal")


def outside(rank: int, ranks: int) -> None:
    """A group of which this rank may be no member."""
    images, target = whole_batch(ranks)
    group = dist.new_group([0])
    logits = model()(images)
    try:
        loss = rp.dice_loss(logits, target, ignore_index=255, sync=group)
    except ValueError as error:
        print(error)
    else:
        assert torch.equal(loss, rp.dice_loss(logits, target, ignore_index=255))
        print("member")


def die(rank: int, ranks: int) -> None:
    images, target = whole_batch(ranks)
    if rank == 1:
        os._exit(3)
    try:
        rp.dice_loss(model()(images), target, ignore_index=255, sync=True)
    except RuntimeError as error:
        print("RuntimeError", error, flush=True)
        os._exit(0)  # the other rank is gone: no orderly farewell


def main() -> None:
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # A rank that dies is to be noticed soon; one that starts slowly on a busy machine is to be waited for.
    timeout = datetime.timedelta(seconds=20 if sys.argv[1] == "die" else 120)
    dist.init_process_group(
        "gloo", init_method=os.environ["MEETING_PLACE"], rank=rank, world_size=ranks, timeout=timeout
    )
    work = {"equal": equal, "empty": empty, "outside": outside, "die": die}[sys.argv[1]]
    if len(sys.argv) > 2:
        with cpu_tensors_on_cuda(Emulator(Path(sys.argv[2]))):
            work(rank, ranks)
    else:
        work(rank, ranks)
    dist.barrier()  # rank 0 holds the store, which the others need to the end
    dist.destroy_process_group()
    # Now and then a thread of torch's is still there when an orderly exit destroys it: then the process aborts.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
