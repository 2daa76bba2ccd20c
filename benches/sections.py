"""The sections of the table: which trials are compared with which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

import peers
import rarepixel as rp
import supervision
from inputs import Inputs
from peers import Peer, pick
from rarepixel import reference
from supervision import Scales
from trials import Trial

FORWARD, BACKWARD, TRAINING = "forward", "backward", "forward + backward"

OURS = "rarepixel"


@dataclass(frozen=True)
class Section:
    """Trials that are compared case by case with the trial of the `baseline` contender."""

    name: str
    baseline: str
    trials: list[Trial]
    passes: tuple[str, ...] = (TRAINING, FORWARD)
    memory: bool = False
    size: int = 0
    """That of the batch which :func:`section` was asked for."""


def _trial(case: str, contender: str, peer: Peer, inputs: Inputs, **options: object) -> Trial:
    return Trial(case, contender, peer.make, peer.definition, inputs, rtol=peer.rtol, **options)


def _with_uint8(case: str, group: list[Peer], inputs: Inputs) -> list[Trial]:
    """All of the group, ours first; then ours with the labels that xBD's masks have."""
    trials = [_trial(case, peer.library, peer, inputs) for peer in group]
    as_uint8 = replace(inputs, target_dtype=torch.uint8)
    trials.insert(1, _trial(case, f"{OURS}, uint8 target", pick(group, OURS), as_uint8))
    return trials


def _libraries(inputs: Inputs) -> Section:
    """Every library, float32 logits and int64 labels; ours also with the labels that xBD's masks have."""
    copy = Peer("torch", lambda: lambda logits, _: logits.clone(), lambda logits, _: logits)
    trials = [_trial("copy of the logits", "torch", copy, inputs, differentiable=False)]
    for case, group in peers.by_case(inputs.classes).items():
        trials += _with_uint8(case, group, inputs)
    return Section("libraries", OURS, trials, (TRAINING, FORWARD, BACKWARD), memory=True)


def _types(inputs: Inputs) -> Section:
    """Ours and eager torch over dtypes, layouts and options, uint8 labels."""
    inputs = replace(inputs, target_dtype=torch.uint8)
    bfloat16, float16 = (replace(inputs, dtype=dtype) for dtype in (torch.bfloat16, torch.float16))
    trials = []
    for case, group in peers.by_case(inputs.classes).items():
        for peer in (pick(group, OURS), pick(group, "torch")):
            variants = {
                "": (inputs, 1.0),
                ", gradient x 0.5": (inputs, 0.5),
                ", bfloat16": (bfloat16, 1.0),
                ", float16 with GradScaler": (float16, 65536.0),
                ", channels_last": (replace(inputs, channels_last=True), 1.0),
            }
            trials += [
                _trial(case, peer.library + suffix, peer, batch, scale=scale)
                for suffix, (batch, scale) in variants.items()
            ]
    trials += [_trial(case, f"{OURS}, {option}", peer, inputs) for case, option, peer in peers.options(inputs.classes)]
    return Section("types", OURS, trials)


def _metrics(inputs: Inputs) -> Section:
    trials = [
        _trial("confusion matrix", peer.library, peer, inputs, differentiable=False)
        for peer in peers.confusion_matrix(inputs.classes)
    ]
    as_uint8 = replace(inputs, target_dtype=torch.uint8)
    trials += [
        _trial("confusion matrix", f"{peer.library}, uint8 target", peer, as_uint8, differentiable=False)
        for peer in (pick(peers.confusion_matrix(inputs.classes), library) for library in (OURS, "torch"))
    ]
    return Section("metrics", OURS, trials, (FORWARD,), memory=True)


def _ours(classes: int) -> dict[str, Peer]:
    return {case: pick(group, OURS) for case, group in peers.by_case(classes).items()}


def _small(inputs: Inputs) -> Section:
    """A thousand logits, where the calls are what takes time: bare functions against torch's cross entropy."""
    inputs = replace(inputs, samples=1, size=min(inputs.size, 16))
    bare = {
        "torch, cross entropy": (F.cross_entropy, reference.cross_entropy),
        f"{OURS}, cross entropy": (rp.cross_entropy, reference.cross_entropy),
        f"{OURS}, focal": (rp.focal_loss, reference.focal_loss),
        f"{OURS}, Dice": (rp.dice_loss, reference.dice_loss),
        f"{OURS}, focal + Dice": (rp.dice_focal_loss, reference.dice_focal_loss),
    }
    trials = [
        Trial("small input", contender, peers.ready(loss), definition, inputs)
        for contender, (loss, definition) in bare.items()
    ]
    return Section("small", "torch, cross entropy", trials)


def _growth(inputs: Inputs) -> Section:
    """Time a logit over image sizes. Writing a new tensor shows what the system takes for memory alone."""
    sizes = sorted({max(inputs.size * factor // 2, 16) for factor in (1, 2, 4, 8, 16)})
    trials = []
    fill = Peer("torch", lambda: lambda x, _: torch.empty_like(x).fill_(0.0), lambda x, _: torch.zeros_like(x))
    for size in sizes:
        at = replace(inputs, samples=1, size=size, target_dtype=torch.uint8)
        contender = f"{size} x {size}"
        trials.append(_trial("filling a new tensor", contender, fill, at, differentiable=False))
        for case, peer in _ours(inputs.classes).items():
            trials.append(_trial(case, contender, peer, at))
    return Section("growth", f"{inputs.size} x {inputs.size}", trials)


def _classes(inputs: Inputs) -> Section:
    """Time a logit over numbers of classes."""
    trials = []
    for classes in (2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 32, 64, 150):
        at = replace(inputs, samples=1, classes=classes, target_dtype=torch.uint8)
        for case, peer in _ours(classes).items():
            trials.append(_trial(case, f"{classes} classes", peer, at))
    return Section("classes", f"{inputs.classes} classes", trials)


def _threads(inputs: Inputs) -> Section:
    trials = []
    for case, peer in _ours(inputs.classes).items():
        for threads in (1, 2):
            contender = f"{threads} thread" + "s" * (threads > 1)
            trials.append(_trial(case, contender, peer, inputs, threads=threads))
    return Section("threads", "2 threads", trials)


def _multi_scale(inputs: Inputs) -> Section:
    """Three maps under one target, in every target mode; memory in multiples of all logits."""
    scales = Scales(inputs.samples, inputs.classes, inputs.size)
    trials = []
    for mode, group in supervision.multi_scale(inputs.classes).items():
        trials += _with_uint8(mode, group, scales)
    return Section("multi-scale", OURS, trials, (TRAINING,), memory=True)


def _upsample(inputs: Inputs) -> Section:
    """A map of a quarter of its target's size, as SegFormer, DeepLab and DAHiTrA put out."""
    scales = Scales(2, inputs.classes, 2 * inputs.size, factors=(4,))
    trials = _with_uint8("focal + Dice", supervision.upsample(inputs.classes), scales)
    return Section("upsample", OURS, trials, (TRAINING,), memory=True)


_SECTIONS: dict[str, Callable[[Inputs], Section]] = {
    "libraries": _libraries,
    "types": _types,
    "metrics": _metrics,
    "small": _small,
    "growth": _growth,
    "classes": _classes,
    "threads": _threads,
    "multi-scale": _multi_scale,
    "upsample": _upsample,
}
NAMES = tuple(_SECTIONS)


def section(name: str, inputs: Inputs) -> Section:
    """The section of that name, over batches like `inputs`."""
    return replace(_SECTIONS[name](inputs), size=inputs.size)
