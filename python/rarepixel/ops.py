"""The bridge to torch: one operator with its backward pass, registered with ``torch.library``, and a light eager path.

torch allocates, Rust fills. The registered form (``torch.ops.rarepixel.loss``) is what ``torch.compile``,
``torch.export``, fake tensors and dispatch modes see; plain eager calls take an ``autograd.Function``, which costs
less per call and can write the gradient of a pixel loss in the same pass as the loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _core, _cuda, _memory
from .options import Options, spec

_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.uint8: "uint8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
}

_HALF = (torch.float16, torch.bfloat16)

# Before any fork: see src/cpu/team.rs.
_core.join_torch()

# Weights for each class as Rust reads them: a list of numbers on the CPU, a tensor on CUDA.
Weight: TypeAlias = Any

# What the second pass needs of the first: row by row as a list of numbers on the CPU, a (rows, columns) tensor on CUDA.
Sums: TypeAlias = Any


class Counted(NamedTuple):
    """A target on the CPU all of whose labels have been counted, and with that checked."""

    target: Tensor
    """As it was, or its labels as bytes."""
    ignore_index: int
    counts: list[int]
    """Pixels of each class."""


# By the number of classes: calls with the same target share them.
Counts: TypeAlias = dict[int, Counted]

# torch's schema language calls these types as Python does.
_OPTIONS_SCHEMA = ", ".join(f"{type(value).__name__} {name}" for name, value in Options._field_defaults.items())


def _described(tensor: Tensor) -> tuple[int, str, Sequence[int], Sequence[int], Tensor]:
    """The tensor as Rust takes it, itself last to stay alive. An unknown dtype keeps its own name, for the message."""
    dtype = _DTYPES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    return tensor.data_ptr(), dtype, tensor.shape, tensor.stride(), tensor


def _foldable(tensor: Tensor, leading: int) -> Tensor:
    """The tensor, or a contiguous copy where its spatial dimensions do not fold into one stride."""
    if tensor.is_contiguous() or _core.folds(tensor.shape, tensor.stride(), leading):
        return tensor
    return tensor.contiguous()


def _memory_format(input: Tensor) -> torch.memory_format:
    """How the gradient lies in memory: as the input where that is channels_last, else contiguous."""
    if not input.is_contiguous():
        for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if input.ndim == ndim and input.is_contiguous(memory_format=memory_format):
                return memory_format
    return torch.contiguous_format


def _compute_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _prepared(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Operands as Rust reads them: foldable, and a one-hot or soft target in the type of the computation."""
    if input.ndim < 2:
        raise ValueError(
            f"input: got shape {list(input.shape)}, expected (N, C, *spatial) with 0 to 3 spatial dimensions"
        )
    if target.ndim == input.ndim:
        return _foldable(input, 2), _foldable(target.to(_compute_dtype(input)), 2)
    return _foldable(input, 2), _foldable(target, 1)


def _on_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _constants(weight: Tensor | None, input: Tensor) -> Weight:
    """Weights as Rust reads them: numbers, or on CUDA their memory, which is not waited for."""
    if weight is None:
        return None
    return weight.to(_compute_dtype(input)).contiguous() if _on_cuda(input) else weight.tolist()


def _empty_loss(input: Tensor, target: Tensor, options: Options) -> Tensor:
    """An empty tensor for the loss."""
    shape: Sequence[int] = ()
    if options.reduction == "none":
        # A loss for each pixel of the target, or of the map that the target was resized to.
        resized = options.target_mode not in ("exact", "upsample_logits")
        shape = (input.shape[0], *input.shape[2:]) if resized else target.shape
    return torch.empty(shape, dtype=_compute_dtype(input), device=input.device)


def _sums_shape(input: Tensor, options: Options) -> tuple[int, int]:
    """Rows and columns of the sums."""
    has_region = options.region != "none"
    return input.shape[0] if options.per_sample and has_region else 1, 3 + (3 * input.shape[1] if has_region else 0)


def _forward(
    input: Tensor,
    target: Tensor,
    weight: Weight,
    dice_weight: Weight,
    options: Options,
    gradient: Tensor | None = None,
    scale: float = 1.0,
    counts: list[int] | None = None,
) -> tuple[Tensor, Sums]:
    """The loss and its sums; on the CPU the gradient of a one-pass loss, too, for an incoming gradient of `scale`.

    The `gradient` of another loss keeps what `_backward` needs of the first pass.
    `counts` are the pixels of each class where the target has been counted, and with that checked.
    """
    if _on_cuda(input):
        if _cuda.debugging() and target.ndim < input.ndim:
            _cuda.check_labels(target, input.shape[1], options.ignore_index)
        loss = _empty_loss(input, target, options)
        sums = torch.empty(_sums_shape(input, options), dtype=torch.float64, device=input.device)
        _cuda.forward(spec(options), _described, input, target, weight, dice_weight, loss, sums)
        return loss, sums
    pixels = _empty_loss(input, target, options) if options.reduction == "none" else None
    value, numbers = _core.loss_forward(
        spec(options),
        _described(input),
        _described(target),
        weight,
        dice_weight,
        None if pixels is None else _described(pixels),
        None if gradient is None else _described(gradient),
        scale,
        counts,
        torch.get_num_threads(),
    )
    return torch.scalar_tensor(value, dtype=_compute_dtype(input)) if pixels is None else pixels, numbers


def _as_numbers(sums: Sums) -> list[float]:
    """The sums row by row."""
    return sums.flatten().tolist() if isinstance(sums, Tensor) else sums


def _as_tensor(sums: Sums, input: Tensor, options: Options) -> Tensor:
    """The sums as (rows, columns)."""
    if isinstance(sums, Tensor):
        return sums
    return torch.tensor(sums, dtype=torch.float64).view(_sums_shape(input, options))


def _backward(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Weight,
    dice_weight: Weight,
    sums: Sums,
    options: Options,
    gradient: Tensor | None = None,
    kept: bool = False,
) -> Tensor:
    """The gradient, in the memory of `gradient` if given; `kept` says that `_forward` left a softmax there."""
    if gradient is None:
        gradient = _memory.empty_like(input, _memory_format(input))
    if grad_output.ndim:
        grad_output = _foldable(grad_output, 1)
    if _on_cuda(input):
        grad_output = grad_output.to(_compute_dtype(input))
        _cuda.backward(spec(options), _described, grad_output, input, target, weight, dice_weight, sums, gradient)
        return gradient
    _core.loss_backward(
        spec(options),
        _described(grad_output),
        _described(input),
        _described(target),
        weight,
        dice_weight,
        _as_numbers(sums),
        _described(gradient),
        kept,
        torch.get_num_threads(),
    )
    return gradient


# --- eager ---

# Whether to add up over ranks: False, True for the default group, or a group.
Sync: TypeAlias = "bool | torch.distributed.ProcessGroup"


class _Synchronised(torch.autograd.Function):
    """The loss of the batches of all ranks: their sums are added up between the two passes.

    The gradient is multiplied by the number of ranks, since DistributedDataParallel divides it by that.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Weight,
        dice_weight: Weight,
        options: Options,
        group: torch.distributed.ProcessGroup | None,
    ) -> Tensor:
        loss, partial_sums = _forward(input, target, weight, dice_weight, options)
        sums = _as_tensor(partial_sums, input, options)
        torch.distributed.all_reduce(sums, group=group)
        classes = input.shape[1]
        if _on_cuda(input):
            _cuda.finish(spec(options), _described, classes, sums, dice_weight, loss)
        else:
            loss.fill_(_core.loss_finish(spec(options), _as_numbers(sums), classes, dice_weight))
        ctx.save_for_backward(input, target)
        ctx.sums, ctx.ranks = sums, torch.distributed.get_world_size(group)
        ctx.arguments = (weight, dice_weight, options)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, target = ctx.saved_tensors
        weight, dice_weight, options = ctx.arguments
        scaled = grad_output * ctx.ranks
        gradient = _backward(scaled, input, target, weight, dice_weight, ctx.sums, options)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _DifferentiatedOnce.apply(gradient, input)
        return gradient, None, None, None, None, None


# What each half-precision loss was multiplied with last time, by a GradScaler or by a factor before it.
_last_scale: dict[tuple[Options, torch.Size], float] = {}


def _keeps(input: Tensor, target: Tensor, options: Options) -> bool:
    """Whether the gradient may keep the softmax between two passes: numbers that are not rounded, in planes."""
    floats = input.dtype not in _HALF and target.ndim < input.ndim
    return floats and spec(options).keeps and _memory_format(input) == torch.contiguous_format


class _Loss(torch.autograd.Function):
    """The eager path.

    The forward pass allocates the gradient. A loss of one pass writes it; one of two keeps a softmax there.

    A half-precision gradient must be multiplied by the incoming gradient before it is rounded. That is known in the
    backward pass only, but it rarely changes: the forward pass takes the last one, and a wrong guess costs a second
    pass, with the same result.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Weight,
        dice_weight: Weight,
        options: Options,
        counts: list[int] | None,
    ) -> Tensor:
        gradient, kept, scale = None, False, 1.0
        # On CUDA the incoming gradient is not known here without waiting for it.
        if not _on_cuda(input):
            kept = _keeps(input, target, options)
            if kept or spec(options).one_pass:
                gradient = _memory.empty_like(input, _memory_format(input))
                if input.dtype in _HALF:
                    scale = _last_scale.get((options, input.shape), 1.0)
        loss, sums = _forward(input, target, weight, dice_weight, options, gradient, scale, counts)
        ctx.save_for_backward(input, target)
        ctx.gradient, ctx.kept, ctx.scale = gradient, kept, scale
        ctx.arguments = (weight, dice_weight, sums, options)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient is handed over, not kept: a second backward pass (retain_graph) computes it again.
        gradient: Tensor | None = ctx.gradient
        ctx.gradient = None
        kept = ctx.kept and gradient is not None
        scale = ctx.scale if gradient is None or kept else grad_output.item()
        if gradient is None or kept or (scale != ctx.scale and gradient.dtype in _HALF):
            input, target = ctx.saved_tensors
            weight, dice_weight, sums, options = ctx.arguments
            if scale != ctx.scale:
                if len(_last_scale) >= 256:  # images of ever new sizes
                    _last_scale.clear()
                _last_scale[options, input.shape] = scale
            gradient = _backward(grad_output, input, target, weight, dice_weight, sums, options, gradient, kept)
        elif scale != ctx.scale:
            gradient.mul_(scale)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _DifferentiatedOnce.apply(gradient, ctx.saved_tensors[0])
        return gradient, None, None, None, None, None


_ONCE = "rarepixel's losses can be differentiated once; for second derivatives use rarepixel.reference"


class _DifferentiatedOnce(torch.autograd.Function):
    """The gradient, with an error in the place of its own derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, input: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(_ONCE)


# --- registered operators ---

_library = torch.library.Library("rarepixel", "DEF")
_WEIGHTS = "Tensor? weight, Tensor? dice_weight"
_library.define(f"loss(Tensor input, Tensor target, {_WEIGHTS}, {_OPTIONS_SCHEMA}) -> (Tensor, Tensor)")
_library.define(
    f"loss_backward(Tensor grad_output, Tensor input, Tensor target, {_WEIGHTS}, Tensor sums, {_OPTIONS_SCHEMA})"
    " -> Tensor"
)


@torch.library.impl(_library, "loss", "CPU")
@torch.library.impl(_library, "loss", "CUDA")
def _loss_kernel(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    input, target = _prepared(input, target)
    target, chosen = _resized(input, target, Options(*options))
    weights = (_constants(weight, input), _constants(dice_weight, input))
    loss, sums = _forward(input, target, *weights, chosen)
    return loss, _as_tensor(sums, input, chosen)


@torch.library.impl(_library, "loss_backward", "CPU")
@torch.library.impl(_library, "loss_backward", "CUDA")
def _loss_backward_kernel(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    sums: Tensor,
    *options: Any,
) -> Tensor:
    memory_format = _memory_format(input)
    input, target = _prepared(input, target)
    target, chosen = _resized(input, target, Options(*options))
    weights = (_constants(weight, input), _constants(dice_weight, input))
    gradient = _backward(grad_output, input, target, *weights, sums, chosen)
    return gradient.contiguous(memory_format=memory_format)


@torch.library.register_fake("rarepixel::loss", lib=_library)
def _loss_fake(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    chosen = Options(*options)
    sums = torch.empty(_sums_shape(input, chosen), dtype=torch.float64, device=input.device)
    return _empty_loss(input, target, chosen), sums


@torch.library.register_fake("rarepixel::loss_backward", lib=_library)
def _loss_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    sums: Tensor,
    *options: Any,
) -> Tensor:
    return torch.empty_like(input, memory_format=_memory_format(input))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, target, weight, dice_weight, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(input, target, weight, dice_weight, output[1])


def _registered_backward(ctx: Any, grad_loss: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    input, target, weight, dice_weight, sums = ctx.saved_tensors
    gradient = torch.ops.rarepixel.loss_backward(grad_loss, input, target, weight, dice_weight, sums, *ctx.options)
    return gradient, None, None, None, *(None for _ in ctx.options)


torch.library.register_autograd("rarepixel::loss", _registered_backward, setup_context=_setup_context, lib=_library)


def _no_second_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(_ONCE)


torch.library.register_autograd("rarepixel::loss_backward", _no_second_derivative, lib=_library)


# --- the call ---


def _is_plain(input: Tensor) -> bool:
    """Whether the eager path may take the tensor's memory: no tracing, mode or subclass, and there is memory."""
    return (
        not is_compiling()
        and type(input) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()
        and not input.is_meta
    )


def _in_transform() -> bool:
    """Whether a torch.func transform is on: it sees through plain torch only."""
    return not is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def _as_weight(argument: str, weight: Tensor | Sequence[float], input: Tensor) -> Tensor:
    if not isinstance(weight, Tensor):
        try:
            values = torch.as_tensor(weight, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{argument}: got {weight!r}, expected one number for each class") from error
        if _on_cuda(input) and values.ndim == 1 and _is_plain(input):
            numbers = tuple(values.tolist())
            _cuda.check_weight(argument, numbers)
            weight = _cuda.weight_tensor(numbers, _compute_dtype(input), input.device)
        else:
            weight = values.to(input.device)
    elif _on_cuda(input) and _cuda.debugging() and weight.ndim == 1:
        _cuda.check_weight(argument, weight.tolist())
    if weight.ndim != 1:
        raise ValueError(
            f"{argument}: got shape {list(weight.shape)}, expected ({input.shape[1]},), one value for each class"
        )
    if weight.requires_grad:
        raise ValueError(
            f"{argument}: got a tensor that requires grad, expected constants: the losses give no gradient for it"
        )
    if weight.device != input.device:
        raise ValueError(f"{argument}: got a tensor on {weight.device}, expected {input.device}, where input is")
    return weight


def loss(
    input: Tensor,
    target: Tensor,
    options: Options,
    weight: Tensor | Sequence[float] | None = None,
    dice_weight: Tensor | Sequence[float] | None = None,
    weight_names: tuple[str, str] = ("weight", "dice_weight"),
    sync: Sync = False,
    counts: Counts | None = None,
) -> Tensor:
    """The loss that `options` describe, through autograd; `weight_names` are the weights' names in the user's call.

    `counts` are filled, and used by later calls with the same target.
    """
    for argument, value in (("input", input), ("target", target)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument}: got {type(value).__name__}, expected a torch.Tensor")
    device = input.device
    if target.device != device:
        raise ValueError(f"target: got a tensor on {target.device}, expected {device}, where input is")
    if target.requires_grad:
        raise ValueError(
            "target: got a tensor that requires grad, expected constants: the losses give no gradient for it"
        )
    if weight is not None:
        weight = _as_weight(weight_names[0], weight, input)
    if dice_weight is not None:
        dice_weight = _as_weight(weight_names[1], dice_weight, input)
    if sync is not False:
        return _synchronised(input, target, options, weight, dice_weight, sync)
    if device.type not in ("cpu", "cuda", "meta"):
        _warn_once(device.type)
        return _plain(input, target, weight, dice_weight, options)
    if _in_transform():
        return _plain(input, target, weight, dice_weight, options)
    if not _is_plain(input):
        result: Tensor = torch.ops.rarepixel.loss(input, target, weight, dice_weight, *options)[0]
        return result
    input, target = _prepared(input, target)
    weights = (_constants(weight, input), _constants(dice_weight, input))
    training, known = torch.is_grad_enabled() and input.requires_grad, None
    if not _on_cuda(input) and target.ndim < input.ndim:
        target, options, known = _counted_once(input, target, options, training, counts)
    labels, options = _resized(input, target, options, known)
    if labels is not target:
        target, known = labels, None
    if training:
        result = _Loss.apply(input, target, *weights, options, known)
        return result
    return _forward(input, target, *weights, options, counts=known)[0]


def _synchronised(
    input: Tensor,
    target: Tensor,
    options: Options,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    sync: Sync,
) -> Tensor:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise ValueError("sync: got a request to add up over ranks, expected torch.distributed to be initialised")
    if options.reduction == "none" or options.per_sample:
        name, value = ("reduction", '"none"') if options.reduction == "none" else ("per_sample", "True")
        raise ValueError(f"{name}: got {value} with sync, expected a loss whose sums can be added up over ranks")
    if not _is_plain(input) or input.device.type not in ("cpu", "cuda"):
        raise ValueError("sync: works on plain CPU and CUDA tensors in eager mode; torch.compile cannot trace it")
    group = None if sync is True else sync
    add_up = partial(torch.distributed.all_reduce, group=group)
    input, target = _prepared(input, target)
    target, options = _resized(input, target, options, add_up=add_up)
    result: Tensor = _Synchronised.apply(
        input, target, _constants(weight, input), _constants(dice_weight, input), options, group
    )
    return result


def _is_wide(input: Tensor, target: Tensor) -> bool:
    """Whether labels as bytes, a twentieth of the logits' memory at most, are worth making: each pass reads them."""
    # 16 is cpu/labels.rs: MAX_COMPARED
    small = 20 * target.numel() <= input.element_size() * input.numel()
    return small and target.element_size() > 1 and input.shape[1] <= 16 and target.numel() >= 1 << 15


def _counted_once(
    input: Tensor, target: Tensor, options: Options, training: bool, counts: Counts | None
) -> tuple[Tensor, Options, list[int] | None]:
    """The target, as bytes where that is worth it, with its options and, if known, the pixels of each class."""
    narrows = training and _is_wide(input, target)
    if counts is None and not narrows:
        return target, options, None
    counts, classes = {} if counts is None else counts, input.shape[1]
    if classes not in counts or (narrows and counts[classes].target is target):
        counts[classes] = _counted(input, target, options, narrows)
    target, ignore_index, known = counts[classes]
    return target, options._replace(ignore_index=ignore_index), known


def _counted(input: Tensor, target: Tensor, options: Options, narrows: bool) -> Counted:
    narrowed = torch.empty(target.shape, dtype=torch.uint8) if narrows else None
    counts = _core.class_counts(
        spec(options),
        _described(input),
        _described(target),
        None if narrowed is None else _described(narrowed),
        torch.get_num_threads(),
    )
    if narrowed is None:
        return Counted(target, options.ignore_index, counts)
    return Counted(narrowed, 254, counts)  # cpu/labels.rs: IGNORED


def _resized(
    input: Tensor,
    target: Tensor,
    options: Options,
    known: list[int] | None = None,
    add_up: Callable[[Tensor], object] | None = None,
) -> tuple[Tensor, Options]:
    """For "nearest" and "majority" labels of the size of the logits, and the options that go with them.

    `known` are the pixels of each class on the CPU, if they were counted. `add_up` adds up over ranks those that decide
    ties of "majority".
    """
    if options.target_mode not in ("nearest", "majority"):
        return target, options
    majority, exact = options.target_mode == "majority", options._replace(target_mode="exact")
    if target.shape[1:] == input.shape[2:]:
        return target, exact
    target, ignore_index = _foldable(target, 1), options.ignore_index
    labels = target.new_empty((input.shape[0], *input.shape[2:]), dtype=torch.int32)
    if _on_cuda(input):
        classes = input.shape[1]
        if _cuda.debugging():
            _cuda.check_labels(target, classes, ignore_index)
        counts = _cuda.class_counts(_described, target, classes, ignore_index) if majority else None
        if counts is not None and add_up is not None:
            add_up(counts)
        _cuda.resize(_described, input, target, counts, labels, ignore_index)
    else:
        numbers = _counted(input, target, options, narrows=False).counts if known is None else known
        if majority and add_up is not None:
            counts = torch.tensor(numbers)
            add_up(counts)
            numbers = counts.tolist()
        totals = numbers if majority else None
        _core.resize_labels(
            _described(input), _described(target), totals, _described(labels), ignore_index, torch.get_num_threads()
        )
    return labels, exact._replace(ignore_index=-1)  # loss/resize.rs: IGNORED


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

    spec(options)  # the same checks of the options
    input, target = reference.matched(input, target, options.target_mode, options.align_corners, options.ignore_index)
    valid = target.sum(1) > 0 if options.target_mode == "area" else None
    total = input.new_zeros((), dtype=_compute_dtype(input))
    if options.pixel == "cross_entropy":
        total = total + options.lambda_pixel * reference.cross_entropy(
            input, target, weight, options.ignore_index, options.reduction, options.label_smoothing, valid
        )
    elif options.pixel == "focal":
        total = total + options.lambda_pixel * reference.focal_loss(
            input, target, weight, options.gamma, options.ignore_index, options.reduction, options.pt
        )
    if options.region != "none":
        region = reference.dice_loss
        if options.region == "tversky":
            region = partial(reference.tversky_loss, alpha=options.alpha, beta=options.beta)
        total = total + options.lambda_region * region(
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
    return total
