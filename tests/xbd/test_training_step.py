"""A training step on every tile: data, model, fused loss, optimizer."""

from __future__ import annotations

from pathlib import Path

import torch

import rarepixel as rp


def step_on_every_tile(root: Path) -> int:
    dataset = rp.xbd.XBDDataset(root, normalize="imagenet")
    torch.manual_seed(0)
    model = torch.nn.Conv2d(6, 5, 3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    criterion = rp.DiceFocalLoss(alpha=[1.0, 5.0, 20.0, 20.0, 20.0], average="macro", ignore_index=rp.xbd.IGNORE_INDEX)
    for index in range(len(dataset)):
        pre, post, mask = dataset[index]
        before = model.weight.detach().clone()
        loss = criterion(model(torch.cat([pre, post])[None]), mask[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite(), dataset.tiles[index]
        assert model.weight.isfinite().all(), dataset.tiles[index]
        assert not model.weight.equal(before), dataset.tiles[index]
    return len(dataset)


def test_synthetic_tiles(tmp_path: Path) -> None:
    rp.xbd.synthesize(tmp_path, tiles=3, seed=0, size=64)
    assert step_on_every_tile(tmp_path) == 3


def test_real_tiles(real: Path) -> None:
    assert step_on_every_tile(real) == 5
