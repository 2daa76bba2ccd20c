"""The demo's network."""

from __future__ import annotations

import pytest
import torch

from rarepixel.demo.model import SiameseUNet


@pytest.mark.parametrize("size", [(32, 32), (50, 37), (17, 64)])
def test_logits_have_the_size_of_the_images_whatever_it_is(size):
    model = SiameseUNet(num_classes=5)
    pre, post = torch.randint(0, 256, (2, 2, 3, *size), dtype=torch.uint8)
    assert model(pre, post).shape == (2, 5, *size)


def test_both_images_matter_and_reach_every_parameter():
    torch.manual_seed(0)
    model = SiameseUNet()
    pre, post = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    assert not torch.equal(model(pre, post), model(pre, pre))
    assert not torch.equal(model(pre, post), model(post, post))
    model(pre, post).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_bytes_and_floats_are_the_same_images():
    model = SiameseUNet().eval()
    pre, post = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(pre, post), model(pre.float(), post.float()))


def test_it_is_small():
    assert 100_000 < sum(parameter.numel() for parameter in SiameseUNet().parameters()) < 300_000
