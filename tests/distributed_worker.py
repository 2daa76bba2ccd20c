"""One rank of the distributed tests: run by test_multi_scale.py, with torchrun's environment variables."""

from __future__ import annotations

import datetime
import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import rarepixel as rp

SIZES = [3, 1, 2]  # samples of each rank


def whole_batch(ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = sum(SIZES[:ranks])
    images = torch.randn(samples, 3, 16, 16, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (samples, 16, 16), generator=generator)
    target[SIZES[0] : SIZES[0] + SIZES[1]] = 255  # rank 1 has nothing but ignored pixels
    target[0, :5] = 255
    return images, target


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
        rp.MultiScaleLoss([{"focal": {}, "dice": {"average": "macro"}}], "nearest", 255, sync=sync),
    ]


def forward(criterion: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    several = isinstance(criterion, rp.MultiScaleLoss)
    loss: torch.Tensor = criterion([logits[..., ::2, ::2]] if several else logits, target)
    return loss


def equal(rank: int, ranks: int) -> None:
    images, target = whole_batch(ranks)
    start = sum(SIZES[:rank])
    mine = slice(start, start + SIZES[rank])
    for criterion, alone in zip(losses(True), losses(False), strict=True):
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


def die(rank: int, ranks: int) -> None:
    images, target = whole_batch(ranks)
    if rank == 1:
        os._exit(3)
    try:
        rp.dice_loss(model()(images), target, ignore_index=255, sync=True)
    except RuntimeError as error:
        print("RuntimeError", error)
        os._exit(0)  # the other rank is gone: no orderly farewell


def main() -> None:
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    {"equal": equal, "die": die}[sys.argv[1]](rank, ranks)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
