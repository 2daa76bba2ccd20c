"""The demo's network."""

from __future__ import annotations

import pytest
import torch

from rarepixel.demo.model import SiameseUNet


@pytest.mark.parametrize("size", [(32, 32), (50, 37), (17, 64)])
def test_logits_have_the_size_of_the_images_whatever_it_is(size):
    model = SiameseUNet(num_classes=5)
    pre, post = torch.randint(0, 256, (2, 2, 3, *size), dtype=torch.uint8)
    (logits,) = model(pre, post)
    assert logits.shape == (2, 5, *size)


@pytest.mark.parametrize(("deep_supervision", "parameters"), [(False, 229_725), (True, 230_135)])
def test_it_is_as_small_as_its_docstring_says(deep_supervision, parameters):
    model = SiameseUNet(deep_supervision=deep_supervision)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert f"{parameters:,}" in SiameseUNet.__doc__


def test_deep_supervision_adds_maps_at_an_eighth_and_a_quarter():
    torch.manual_seed(0)
    plain = SiameseUNet().eval()
    torch.manual_seed(0)
    model = SiameseUNet(deep_supervision=True).eval()
    pre, post = torch.randint(0, 256, (2, 2, 3, 50, 37), dtype=torch.uint8)
    maps = model(pre, post)
    assert [tuple(logits.shape) for logits in maps] == [(2, 5, 7, 5), (2, 5, 13, 10), (2, 5, 50, 37)]
    assert torch.equal(maps[-1], plain(pre, post)[-1])  # the same start


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_both_images_matter_and_reach_every_parameter(deep_supervision):
    torch.manual_seed(0)
    model = SiameseUNet(deep_supervision=deep_supervision)
    pre, post = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    for other in ((pre, pre), (post, post)):
        assert not any(map(torch.equal, model(pre, post), model(*other)))
    sum(logits.square().sum() for logits in model(pre, post)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_bytes_and_floats_are_the_same_images():
    model = SiameseUNet().eval()
    pre, post = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(pre, post), model(pre.float(), post.float()))


def test_a_sample_is_judged_alone():
    model = SiameseUNet(deep_supervision=True)  # in training mode
    pre, post = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    for together, alone in zip(model(pre, post), model(pre[1:2], post[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


def test_it_is_small():
    assert 100_000 < sum(parameter.numel() for parameter in SiameseUNet().parameters()) < 300_000
