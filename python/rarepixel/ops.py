"""The bridge to torch: one operator with its backward pass, registered with ``torch.library``, and a light eager path.

Rust reads and fills torch's tensors. The registered form (``torch.ops.rarepixel.loss``) is what ``torch.compile``,
``torch.export``, fake tensors and dispatch modes see; plain eager calls take an ``autograd.Function``, which costs
less per call and can write the gradient of a pixel loss in the same pass as the loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _core, _cuda, _memory
from .options import Options, spec

_HALF = (torch.float16, torch.bfloat16)

# Before any fork: see src/cpu/team.rs.
_core.join_torch()
# Where torch has it, reading a tensor costs no call of Python.
if (_exchange := getattr(Tensor, "__dlpack_c_exchange_api__", None)) is not None:
    _core.read_tensors_by(Tensor, _exchange)

# Weights for each class as Rust reads them: a list of numbers on the CPU, a tensor on CUDA.
Weight: TypeAlias = Any

# What the second pass needs of the first: row by row as a list of numbers on the CPU, a (rows, columns) tensor on CUDA.
Sums: TypeAlias = Any


class Term(NamedTuple):
    """A loss of one map of logits, as the user asks for it."""

    options: Options
    weight: Tensor | Sequence[float] | None = None
    dice_weight: Tensor | Sequence[float] | None = None
    weight_names: tuple[str, str] = ("weight", "dice_weight")
    """What the weights are called in the user's call."""


class Call:
    """The same as the two passes read it, and what the first leaves for the second."""

    __slots__ = (
        "dice_weight", "gradient", "kept", "labels", "options", "scale", "spec", "sums", "target", "value", "weight"
    )  # fmt: skip

    def __init__(self, target: Tensor, weight: Weight, dice_weight: Weight, options: Options) -> None:
        self.target, self.weight, self.dice_weight, self.options = target, weight, dice_weight, options
        self.spec = spec(options)
        # The gradient of a loss of one pass, for an incoming gradient of `scale`; of another one, the memory for it,
        # where a softmax may be `kept`.
        self.gradient: Tensor | None = None
        self.scale, self.kept = 1.0, False
        # A number, or a tensor on CUDA and for each pixel.
        self.value: float | Tensor = 0.0
        self.sums: Sums = None
        # On the CPU, of the target.
        self.labels: _core.Labels | None = None


# torch's schema language calls these types as Python does.
_OPTIONS_SCHEMA = ", ".join(f"{type(value).__name__} {name}" for name, value in Options._field_defaults.items())


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


def _forward(call: Call, input: Tensor, known: _core.Labels | None = None) -> None:
    """The value of the call and its sums; on the CPU also what its `gradient` is for.

    `known` is what an earlier call found of the same target.
    """
    if _on_cuda(input):
        if _cuda.debugging() and call.target.ndim < input.ndim:
            _cuda.check_labels(call.target, input.shape[1], call.options.ignore_index)
        loss = _empty_loss(input, call.target, call.options)
        call.sums = torch.empty(_sums_shape(input, call.options), dtype=torch.float64, device=input.device)
        _cuda.forward(call.spec, input, call.target, call.weight, call.dice_weight, loss, call.sums)
        call.value = loss
        return
    pixels = _empty_loss(input, call.target, call.options) if call.options.reduction == "none" else None
    value, call.sums, call.labels = _core.loss_forward(
        call.spec,
        input,
        call.target,
        call.weight,
        call.dice_weight,
        pixels,
        call.gradient,
        call.scale,
        known,
        torch.get_num_threads(),
    )
    call.value = value if pixels is None else pixels


def _total(calls: Sequence[Call], inputs: Sequence[Tensor]) -> Tensor:
    """The sum of their values."""
    if isinstance(calls[0].value, Tensor):
        return _added([cast(Tensor, call.value) for call in calls])
    total, dtype = 0.0, torch.float32
    for call, input in zip(calls, inputs, strict=True):
        total += cast(float, call.value)
        if input.dtype == torch.float64:
            dtype = torch.float64
    return torch.scalar_tensor(total, dtype=dtype)


def _as_numbers(sums: Sums) -> list[float]:
    """The sums row by row."""
    return sums.flatten().tolist() if isinstance(sums, Tensor) else sums


def _as_tensor(sums: Sums, input: Tensor, options: Options) -> Tensor:
    """The sums as (rows, columns)."""
    if isinstance(sums, Tensor):
        return sums
    return torch.tensor(sums, dtype=torch.float64).view(_sums_shape(input, options))


def _backward(call: Call, input: Tensor, grad_output: Tensor, gradient: Tensor | None = None) -> Tensor:
    """The gradient, in the memory of `gradient` if given, where the call may have kept a softmax."""
    kept = call.kept and gradient is not None
    if gradient is None:
        gradient = _memory.empty_like(input, _memory_format(input))
    if grad_output.ndim:
        grad_output = _foldable(grad_output, 1)
    weights = (call.weight, call.dice_weight)
    if _on_cuda(input):
        grad_output = grad_output.to(_compute_dtype(input))
        _cuda.backward(call.spec, grad_output, input, call.target, *weights, call.sums, gradient)
        return gradient
    _core.loss_backward(
        call.spec,
        grad_output,
        input,
        call.target,
        *weights,
        _as_numbers(call.sums),
        gradient,
        kept,
        call.labels,
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
        ctx: Any, input: Tensor, target: Tensor, call: Call, group: torch.distributed.ProcessGroup | None
    ) -> Tensor:
        _forward(call, input)
        call.sums = _as_tensor(call.sums, input, call.options)
        torch.distributed.all_reduce(call.sums, group=group)
        if _on_cuda(input):
            _cuda.finish(call.spec, input.shape[1], call.sums, call.dice_weight, cast(Tensor, call.value))
        else:
            call.value = _core.loss_finish(call.spec, _as_numbers(call.sums), input.shape[1], call.dice_weight)
        ctx.save_for_backward(input, target)
        ctx.call, ctx.ranks = call, torch.distributed.get_world_size(group)
        return _total([call], [input])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, _ = ctx.saved_tensors
        gradient = _backward(ctx.call, input, grad_output * ctx.ranks)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _DifferentiatedOnce.apply(gradient, input)
        return gradient, None, None, None


# What each half-precision loss was multiplied with last time, by a GradScaler or by a factor before it.
_last_scale: dict[tuple[Options, torch.Size], float] = {}


def _keeps(input: Tensor, target: Tensor, options: Options) -> bool:
    """Whether the gradient may keep the softmax between two passes: numbers that are not rounded, in planes."""
    floats = input.dtype not in _HALF and target.ndim < input.ndim
    return floats and spec(options).keeps and _memory_format(input) == torch.contiguous_format


def _prepare_gradient(call: Call, input: Tensor) -> None:
    """Memory for what the first pass can bring of the gradient.

    A half-precision gradient must be multiplied by the incoming gradient before it is rounded. That is known in the
    backward pass only, but it rarely changes: the forward pass takes the last one, and a wrong guess costs a second
    pass, with the same result.
    """
    # On CUDA the incoming gradient is not known here without waiting for it.
    if _on_cuda(input):
        return
    call.kept = not call.spec.one_pass and _keeps(input, call.target, call.options)
    if call.kept or call.spec.one_pass:
        call.gradient = _memory.empty_like(input, _memory_format(input))
        if input.dtype in _HALF:
            call.scale = _last_scale.get((call.options, input.shape), 1.0)


def _gradient(call: Call, ctx: Any, index: int, grad_output: Tensor) -> Tensor:
    """The gradient of a call whose first pass is done, with its logits in ``ctx.saved_tensors[index]``."""
    # It is handed over, not kept: a second backward pass (retain_graph) computes it again.
    gradient, call.gradient = call.gradient, None
    if gradient is not None and not call.kept:
        scale = grad_output.item()
        if scale == call.scale:
            return gradient
        if gradient.dtype not in _HALF:
            return gradient.mul_(scale)
        if len(_last_scale) >= 256:  # images of ever new sizes
            _last_scale.clear()
        _last_scale[call.options, gradient.shape] = scale
    return _backward(call, ctx.saved_tensors[index], grad_output, gradient)


class _Loss(torch.autograd.Function):
    """The eager path: the sum of the calls, each on its own map of logits and all with the same target.

    The forward pass allocates the gradients. A loss of one pass writes it; one of two keeps a softmax there.
    """

    @staticmethod
    def forward(ctx: Any, calls: Sequence[Call], *inputs: Tensor) -> Tensor:
        known = None
        for call, input, wanted in zip(calls, inputs, ctx.needs_input_grad[1:], strict=True):
            if wanted:
                _prepare_gradient(call, input)
            _forward(call, input, known)
            known = known or call.labels
        ctx.save_for_backward(*inputs, *[call.target for call in calls])
        ctx.calls = calls
        return _total(calls, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = [None]
        for index, (call, wanted) in enumerate(zip(ctx.calls, ctx.needs_input_grad[1:], strict=True)):
            gradient = _gradient(call, ctx, index, grad_output) if wanted else None
            if gradient is not None and torch.is_grad_enabled():  # create_graph=True
                gradient = _DifferentiatedOnce.apply(gradient, ctx.saved_tensors[index])
            gradients.append(gradient)
        return tuple(gradients)


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
    input, call = _called(input, target, weight, dice_weight, Options(*options))
    _forward(call, input)
    return _total([call], [input]), _as_tensor(call.sums, input, call.options)


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
    input, call = _called(input, target, weight, dice_weight, Options(*options))
    call.sums = sums
    return _backward(call, input, grad_output).contiguous(memory_format=memory_format)


def _called(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, options: Options
) -> tuple[Tensor, Call]:
    """The operands as the two passes read them."""
    input, target = _prepared(input, target)
    if _on_cuda(input):
        target, options = _resized(input, target, options)
    return input, Call(target, _constants(weight, input), _constants(dice_weight, input), options)


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


_PLAIN = (Tensor, torch.nn.Parameter)


def _in_transform() -> bool:
    """Whether a torch.func transform is on: it sees through plain torch only."""
    return not is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def _is_eager(input: Tensor) -> bool:
    """Whether kernels may take the tensor's memory: no tracing, transform, mode or subclass, on a device of ours."""
    return (
        not is_compiling()
        and type(input) in _PLAIN
        and (input.is_cpu or _on_cuda(input))
        and not torch._C._len_torch_dispatch_stack()
        and not _in_transform()
    )


def _as_weight(argument: str, weight: Tensor | Sequence[float], input: Tensor) -> Tensor:
    if not isinstance(weight, Tensor):
        try:
            values = torch.as_tensor(weight, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{argument}: got {weight!r}, expected one number for each class") from error
        if _on_cuda(input) and values.ndim == 1 and _is_eager(input):
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


def _numbers(argument: str, weight: Tensor | Sequence[float] | None, input: Tensor) -> Weight:
    """Weights as Rust reads them, checked."""
    if weight is None:
        return None
    if type(weight) in (list, tuple) and not _on_cuda(input):
        try:
            return [float(number) for number in weight]
        except (TypeError, ValueError):  # something that torch says more of
            pass
    return _constants(_as_weight(argument, weight, input), input)


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
    weight: Tensor | Sequence[float] | None = None,
    dice_weight: Tensor | Sequence[float] | None = None,
    weight_names: tuple[str, str] = ("weight", "dice_weight"),
    sync: Sync = False,
) -> Tensor:
    """The loss that `options` describe, through autograd; `weight_names` are the weights' names in the user's call."""
    return losses([input], target, [Term(options, weight, dice_weight, weight_names)], sync)[0]


def losses(
    inputs: Sequence[Tensor], target: Tensor, terms: Sequence[Term], sync: Sync = False, parts: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The sum of the terms, each of its own map of logits, under one target; with `parts` also they, (terms,)."""
    for input in inputs:
        _check(input, target)
    if sync is not False or not all(map(_is_eager, inputs)):
        each = [_elsewhere(input, target, *term, sync) for input, term in zip(inputs, terms, strict=True)]
        return _added(each), torch.stack([one.detach() for one in each]) if parts else None
    maps, calls = [], []
    for input, (options, weight, dice_weight, names) in zip(inputs, terms, strict=True):
        input, labels = _prepared(input, target)
        weights = (_numbers(names[0], weight, input), _numbers(names[1], dice_weight, input))
        if _on_cuda(input):
            labels, options = _resized(input, labels, options)
        maps.append(input)
        calls.append(Call(labels, *weights, options))
    if torch.is_grad_enabled() and any(input.requires_grad for input in maps):
        total = _Loss.apply(calls, *maps)
    else:
        for call, input in zip(calls, maps, strict=True):
            _forward(call, input, calls[0].labels)
        total = _total(calls, maps)
    if not parts:
        return total, None
    return total, torch.stack([torch.as_tensor(call.value, dtype=total.dtype) for call in calls])


def _added(losses: Sequence[Tensor]) -> Tensor:
    """Their sum, in the larger of their types."""
    if len(losses) == 1:
        return losses[0]
    same = len({loss.dtype for loss in losses}) == 1
    return torch.stack(list(losses)).sum() if same else sum(losses, torch.zeros(()))


def _elsewhere(
    input: Tensor,
    target: Tensor,
    options: Options,
    weight: Tensor | Sequence[float] | None,
    dice_weight: Tensor | Sequence[float] | None,
    weight_names: tuple[str, str],
    sync: Sync,
) -> Tensor:
    """One loss where it is not a matter of this process and its kernels alone."""
    if weight is not None:
        weight = _as_weight(weight_names[0], weight, input)
    if dice_weight is not None:
        dice_weight = _as_weight(weight_names[1], dice_weight, input)
    if sync is not False:
        return _synchronised(input, target, options, weight, dice_weight, sync)
    if input.device.type not in ("cpu", "cuda", "meta"):
        _warn_once(input.device.type)
        return _plain(input, target, weight, dice_weight, options)
    if _in_transform():
        return _plain(input, target, weight, dice_weight, options)
    result: Tensor = torch.ops.rarepixel.loss(input, target, weight, dice_weight, *options)[0]
    return result


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
    if not _is_eager(input):
        raise ValueError("sync: works on plain CPU and CUDA tensors in eager mode; torch.compile cannot trace it")
    group = None if sync is True else sync
    add_up = partial(torch.distributed.all_reduce, group=group)
    input, target = _prepared(input, target)
    target, options = _resized(input, target, options, add_up=add_up)
    call = Call(target, _constants(weight, input), _constants(dice_weight, input), options)
    result: Tensor = _Synchronised.apply(input, target, call, group)
    return result


def _resized(
    input: Tensor,
    target: Tensor,
    options: Options,
    add_up: Callable[[Tensor], object] | None = None,
) -> tuple[Tensor, Options]:
    """For "nearest" and "majority" labels of the size of the logits, and the options that go with them.

    `add_up` adds up over ranks the pixels of each class, which decide ties of "majority".
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
        counts = _cuda.class_counts(target, classes, ignore_index) if majority else None
        if counts is not None and add_up is not None:
            add_up(counts)
        _cuda.resize(input, target, counts, labels, ignore_index)
    else:
        threads = torch.get_num_threads()
        counts = torch.tensor(_core.class_counts(spec(options), input, target, threads))
        if majority and add_up is not None:
            add_up(counts)
        _core.resize_labels(input, target, counts.tolist() if majority else None, labels, ignore_index, threads)
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
