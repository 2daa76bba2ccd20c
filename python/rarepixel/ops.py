"""The bridge to torch: which way a call of a loss takes.

The registered operator (``_registered.py``) is what ``torch.compile`` and its like see; plain eager calls take an
``autograd.Function`` (``_autograd.py``), which costs less per call and can write the gradient of a pixel loss in the
same pass as the loss. Where there is no kernel, plain torch does the work.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from numpy.typing import NDArray
from torch import _C, Tensor
from torch._C import _functorch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import _calls, _checks, _cuda, _registered, _tensors
from ._autograd import Loss, Synchronised
from ._calls import Call, Weight
from ._tensors import compute_dtype, prepared
from ._types import ClassWeights
from .options import Options, spec, weight_names

# Whether to add up over ranks: False, True for the default group, or a group.
Sync: TypeAlias = "bool | torch.distributed.ProcessGroup"


class Term(NamedTuple):
    """A loss of one map of logits, as the user asks for it."""

    options: Options
    weight: ClassWeights = None
    dice_weight: ClassWeights = None
    weight_names: tuple[str, str] | None = None
    """What the weights are called in the user's call, where it is not what the options say."""

    def names(self) -> tuple[str, str]:
        return self.weight_names or weight_names(self.options)


_PLAIN = (Tensor, torch.nn.Parameter)


def _in_transform() -> bool:
    """Whether a torch.func transform, forward-mode AD or torch.jit.trace is on: they see through plain torch only."""
    if is_compiling():  # which takes the others apart itself
        return forward_ad._current_level >= 0
    return _is_transformed()


def _is_transformed() -> bool:
    """The same where no compiler is at work."""
    traced = _C._is_tracing() or forward_ad._current_level >= 0
    return traced or _functorch.peek_interpreter_stack() is not None


def _is_eager(input: Tensor) -> bool:
    """Whether kernels may take the tensor's memory: no tracing, transform, mode or subclass, on a device of ours."""
    return (
        not is_compiling()
        and type(input) in _PLAIN
        and (input.is_cpu or _tensors.on_cuda(input))
        and not _C._len_torch_dispatch_stack()
        and not _is_transformed()
    )


def _as_weight(argument: str, weight: Tensor | Sequence[float] | NDArray[Any], input: Tensor) -> Tensor:
    if not isinstance(weight, Tensor):
        try:
            # As a list, since torch refuses arrays whose strides are negative; a trace cannot make one.
            listed = weight.tolist() if hasattr(weight, "tolist") and not is_compiling() else weight
            values = torch.as_tensor(listed, dtype=torch.float64, device="cpu")
        except (OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{argument}: got {weight!r}, expected one number for each class") from error
        if _tensors.on_cuda(input) and values.ndim == 1 and _is_eager(input):
            numbers = tuple(values.tolist())
            _checks.check_weight(argument, numbers)
            weight = _cuda.weight_tensor(numbers, compute_dtype(input), input)
        else:
            weight = values.to(input.device)
    elif _tensors.on_cuda(input) and _cuda.debugging() and weight.ndim == 1:
        _checks.check_weight(argument, weight.tolist())
    if weight.ndim != 1:
        raise ValueError(
            f"{argument}: got shape {list(weight.shape)}, expected ({input.shape[1]},), one value for each class"
        )
    _checks.check_constant(argument, weight)
    if weight.device != input.device:
        raise ValueError(f"{argument}: got a tensor on {weight.device}, expected {input.device}, where input is")
    return weight


def _numbers(argument: str, weight: ClassWeights, input: Tensor) -> Weight:
    """Weights as Rust reads them, checked."""
    if weight is None:
        return None
    listed = type(weight) in (list, tuple) and not _tensors.on_cuda(input)
    if listed and all(isinstance(number, int | float) for number in weight):
        with contextlib.suppress(OverflowError):
            return [float(number) for number in weight]
    return _calls.constants(_as_weight(argument, weight, input), input)


def _check(input: object, target: object) -> None:
    if not isinstance(input, Tensor) or not isinstance(target, Tensor):
        argument, value = ("target", target) if isinstance(input, Tensor) else ("input", input)
        raise TypeError(f"{argument}: got {type(value).__name__}, expected a torch.Tensor")
    if target.device != input.device:
        raise ValueError(f"target: got a tensor on {target.device}, expected {input.device}, where input is")
    if target.requires_grad:
        raise ValueError(
            "target: got a tensor that requires grad, expected constants: the losses give no gradient for it"
        )


def loss(
    input: Tensor,
    target: Tensor,
    options: Options,
    weight: ClassWeights = None,
    dice_weight: ClassWeights = None,
    sync: Sync = False,
) -> Tensor:
    """The loss that `options` describe, through autograd."""
    return losses([input], target, [Term(options, weight, dice_weight)], sync)[0]


def losses(
    inputs: Sequence[Tensor], target: Tensor, terms: Sequence[Term], sync: Sync = False, parts: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The sum of the terms, each of its own map of logits, under one target; with `parts` also they, (terms,)."""
    for input in inputs:
        _check(input, target)
    if sync is not False:
        _check_sync(sync)
    if sync is not False or not all(map(_is_eager, inputs)):
        each = [_elsewhere(input, target, term, sync) for input, term in zip(inputs, terms, strict=True)]
        return _calls.added(each), torch.stack([one.detach() for one in each]) if parts else None
    maps, targets, calls, wanted = [], [], [], False
    for input, term in zip(inputs, terms, strict=True):
        options, weight, dice_weight, _ = term
        input, labels = prepared(input, target)
        if weight is not None or dice_weight is not None:
            names = term.names()
            weight, dice_weight = _numbers(names[0], weight, input), _numbers(names[1], dice_weight, input)
        on_cuda = _tensors.on_cuda(input)
        if on_cuda:
            labels, options = _calls.resized(input, labels, options)
        maps.append(input)
        targets.append(labels)
        calls.append(Call(weight, dice_weight, options, on_cuda))
        wanted = wanted or input.requires_grad
    values: list[_calls.Value] = []
    if wanted and torch.is_grad_enabled():
        total = Loss.apply(calls, values, *maps, *targets)
    else:
        for call, input, labels in zip(calls, maps, targets, strict=True):
            values.append(_calls.forward(call, input, labels, calls[0].labels))
        total = _calls.total(values, maps)
    if not parts:
        return total, None
    return total, torch.stack(
        [torch.as_tensor(value, dtype=total.dtype, device=total.device) for value in values]
    ).detach()


def _elsewhere(input: Tensor, target: Tensor, term: Term, sync: Sync) -> Tensor:
    """One loss where it is not a matter of this process and its kernels alone."""
    options, weight, dice_weight, _ = term
    names = term.names()
    if weight is not None:
        weight = _as_weight(names[0], weight, input)
    if dice_weight is not None:
        dice_weight = _as_weight(names[1], dice_weight, input)
    if sync is not False:
        return _synchronised(input, target, options, weight, dice_weight, sync)
    if input.device.type not in ("cpu", "cuda", "meta"):
        _warn_once(input.device.type)
        return _plain(input, target, weight, dice_weight, options)
    if _in_transform():
        return _plain(input, target, weight, dice_weight, options)
    return _registered.loss(input, target, weight, dice_weight, options)


def _check_sync(sync: object) -> None:
    """That the group is one of this process: torch takes any other for one in which it is alone."""
    distributed = torch.distributed
    if sync is not True:
        groups = (distributed.ProcessGroup,) if distributed.is_available() else ()
        outside = distributed.is_available() and sync == distributed.GroupMember.NON_GROUP_MEMBER
        if not outside and not isinstance(sync, groups):
            raise TypeError(f"sync: got {sync!r}, expected True, False or a process group")
        if outside or distributed.get_rank(sync) < 0:  # type: ignore[arg-type] # a group, or not asked
            raise ValueError("sync: got a group that this process is not in, expected one that it is in")
    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError("sync: got a request to add up over ranks, expected torch.distributed to be initialised")


def _synchronised(
    input: Tensor,
    target: Tensor,
    options: Options,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    sync: Sync,
) -> Tensor:
    if options.reduction == "none" or options.per_sample:
        name, value = ("reduction", '"none"') if options.reduction == "none" else ("per_sample", "True")
        raise ValueError(f"{name}: got {value} with sync, expected a loss whose sums can be added up over ranks")
    if not _is_eager(input):
        raise ValueError("sync: works on plain CPU and CUDA tensors in eager mode; torch.compile cannot trace it")
    group = None if sync is True else sync
    add_up = partial(torch.distributed.all_reduce, group=group)
    input, target = prepared(input, target)
    target, options = _calls.resized(input, target, options, add_up=add_up)
    weights = (_calls.constants(weight, input), _calls.constants(dice_weight, input))
    call = Call(*weights, options, _tensors.on_cuda(input))
    result: Tensor = Synchronised.apply(input, target, call, group)
    return result


@cache
def _warn_once(device: str) -> None:
    warnings.warn(
        f"rarepixel has no kernels for {device} tensors: using plain torch operations (rarepixel.reference)",
        stacklevel=5,
    )


def _plain(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, options: Options
) -> Tensor:
    """The same loss by plain torch operations, where there is no kernel."""
    from . import reference

    if not is_compiling():  # which cannot trace it
        spec(options)  # the same checks of the options
    _checks.check_shapes(input, target, weight, dice_weight, options)
    wrong = _checks.check_values(input, target, weight, dice_weight, options)
    input, target = reference.matched(input, target, options.target_mode, options.align_corners, options.ignore_index)
    valid = target.sum(1) > 0 if options.target_mode == "area" else None
    total = input.new_zeros((), dtype=compute_dtype(input))
    if wrong is not None:
        total = total + wrong.to(total)
    # Not a number of Python's times the loss: under jvp its tangent would be float64.
    if options.pixel == "cross_entropy":
        pixel = reference.cross_entropy(
            input, target, weight, options.ignore_index, options.reduction, options.label_smoothing, valid
        )
        total = total + pixel * pixel.new_tensor(float(options.lambda_pixel))
    elif options.pixel == "focal":
        pixel = reference.focal_loss(
            input, target, weight, options.gamma, options.ignore_index, options.reduction, options.pt
        )
        total = total + pixel * pixel.new_tensor(float(options.lambda_pixel))
    if options.region != "none":
        region_loss = reference.dice_loss
        if options.region == "tversky":
            region_loss = partial(reference.tversky_loss, alpha=options.alpha, beta=options.beta)
        region = region_loss(
            input,
            target,
            smooth=options.smooth,
            average=options.average,
            per_sample=options.per_sample,
            include_background=options.include_background,
            absent=options.absent,
            weight=dice_weight,
            ignore_index=options.ignore_index,
            valid=valid,
        )
        total = total + region * region.new_tensor(float(options.lambda_region))
    return total
