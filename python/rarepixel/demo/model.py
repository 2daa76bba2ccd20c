"""A small Siamese U-Net: one encoder sees both images, and the decoder sees what they have and where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ImageNet's statistics, the usual ones for RGB images.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Of channels that are normalised together.
_GROUPS = 8


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        # Of one sample alone, so that how a batch is shared out over processes changes nothing.
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(),
    )


class SiameseUNet(nn.Module):
    """Logits of damage classes from a pre and a post image.

    The encoder halves the resolution once for each entry of `widths`; its features of the two images and their absolute
    difference are mixed by 1 x 1 convolutions at every scale and decoded as in a U-Net, up to half resolution. The
    logits are then upsampled. 229,725 parameters with the defaults, 230,135 with deep supervision.

    Args:
        num_classes: C.
        widths: channels at 1/2, 1/4, 1/8, ... of the resolution, multiples of 8.
        deep_supervision: whether the decoder's other scales (1/8 and 1/4 with the defaults) have heads of their own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, num_classes: int = 5, widths: Sequence[int] = (24, 32, 48, 64), deep_supervision: bool = False
    ) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.encoder = nn.ModuleList(
            nn.Sequential(_convolution(before, width, stride=2), _convolution(width, width))
            for before, width in zip(inputs, widths, strict=True)
        )
        self.mixers = nn.ModuleList(nn.Conv2d(3 * width, width, 1) for width in widths)
        self.decoder = nn.ModuleList(
            _convolution(deep + skip, skip) for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        # Last, so that the other weights start the same with and without them.
        sides = widths[-2:0:-1] if deep_supervision else ()
        self.side_heads = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in sides)
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, pre: Tensor, post: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) in 0 to 255, uint8 or floating, to logits.

        (N, C, H, W) is the last; before it, with ``deep_supervision``, come those of the smaller scales, the smallest
        first: (N, C, H/8, W/8) and (N, C, H/4, W/4), rounded up.
        """
        features = (torch.cat([pre, post]) - self.mean) / self.std
        features = features.contiguous(memory_format=torch.channels_last)
        scales = []
        for stage, mixer in zip(self.encoder, self.mixers, strict=True):
            features = stage(features)
            before, after = features.chunk(2)
            scales.append(mixer(torch.cat([before, after, (after - before).abs()], dim=1)))
        decoded = [scales.pop()]
        for stage in self.decoder:
            skip = scales.pop()
            decoded.append(stage(torch.cat([_resize(decoded[-1], skip.shape[-2:]), skip], dim=1)))
        # The side heads belong to the first scales after the bottom.
        logits = [head(features) for head, features in zip(self.side_heads, decoded[1:], strict=False)]
        return [*logits, _resize(self.head(decoded[-1]), pre.shape[-2:])]


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
