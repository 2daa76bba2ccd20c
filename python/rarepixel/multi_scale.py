"""Multi-scale supervision: one full-size target for every map that a decoder puts out, without resizing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn
from torch.compiler import is_compiling

from . import _checks, options
from ._arguments import integer, number
from ._types import ClassWeights
from .ops import Sync, Term, losses
from .options import Options

__all__ = ["MultiScaleLoss", "Stage", "multi_scale_loss"]

_TARGET_MODES = ("nearest", "majority", "area", "upsample_logits")


@dataclass(frozen=True)
class Stage:
    """What one map of logits is trained with.

    Args:
        weight: the lambda before the stage's loss.
        cross_entropy: arguments of :func:`rarepixel.cross_entropy`, or None for no such term.
        focal: arguments of :func:`rarepixel.focal_loss`, or None. A stage has cross entropy or focal, not both.
        dice: arguments of :func:`rarepixel.dice_loss`, or None.
        scale: the map's height and width as a fraction of the target's, checked against the shapes; None for any.
        tversky: arguments of :func:`rarepixel.tversky_loss`, or None. A stage has Dice or Tversky, not both.

    Each term may also have ``"factor"``, the number before it (default 1). ``ignore_index`` is the whole loss's.

    Raises:
        ValueError: for no term, two pixel terms, two region terms, an unknown argument, or numbers out of range.

    Example:
        >>> import rarepixel as rp
        >>> stage = rp.Stage(0.6, focal={"gamma": 2.0}, dice={"average": "macro", "factor": 0.5}, scale=0.25)
        >>> stage == rp.Stage.of({"weight": 0.6, "focal": {"gamma": 2.0}, "scale": 0.25,
        ...                       "dice": {"average": "macro", "factor": 0.5}})
        True
    """

    weight: float = 1.0
    cross_entropy: Mapping[str, Any] | None = None
    focal: Mapping[str, Any] | None = None
    dice: Mapping[str, Any] | None = None
    scale: float | None = None
    tversky: Mapping[str, Any] | None = None

    if TYPE_CHECKING:  # no fields: dataclasses.asdict gives what `of` takes
        _options: Options = field(init=False)
        _weights: tuple[ClassWeights, ClassWeights] = field(init=False)
        _weight_names: tuple[str, str] = field(init=False)
        _terms: dict[tuple[int, str, bool, int], Term] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", options.plain("weight", self.weight))
        if self.cross_entropy is not None and self.focal is not None:
            raise ValueError("Stage: got cross_entropy and focal, expected one of them at most")
        if self.dice is not None and self.tversky is not None:
            raise ValueError("Stage: got dice and tversky, expected one of them at most")
        if all(term is None for term in (self.cross_entropy, self.focal, self.dice, self.tversky)):
            raise ValueError("Stage: got no term, expected cross_entropy, focal, dice or tversky")
        for name, value in (("weight", self.weight), ("scale", 1.0 if self.scale is None else self.scale)):
            if not isfinite(number(name, value)):
                raise ValueError(f"{name}: got {value}, expected a finite number")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale: got {self.scale}, expected a number above 0")
        pixel = Options()
        pixel_name = region_name = ""
        pixel_weight: ClassWeights = None
        region_weight: ClassWeights = None
        if self.cross_entropy is not None:
            term = _term("cross_entropy", self.cross_entropy, ("weight", "label_smoothing", "reduction"))
            pixel = options.cross_entropy(-100, term.get("reduction", "mean"), term.get("label_smoothing", 0.0))
            pixel, pixel_weight = pixel._replace(lambda_pixel=self.weight * term["factor"]), term.get("weight")
            pixel_name = "cross_entropy: weight"
        if self.focal is not None:
            term = _term("focal", self.focal, ("alpha", "gamma", "pt", "reduction"))
            pixel = options.focal_loss(
                term.get("gamma", 2.0), -100, term.get("reduction", "mean"), term.get("pt", "softmax")
            )
            pixel, pixel_weight = pixel._replace(lambda_pixel=self.weight * term["factor"]), term.get("alpha")
            pixel_name = "focal: alpha"
        names: tuple[str, ...] = ("smooth", "average", "per_sample", "include_background", "absent", "weight")
        for kind, arguments in (("dice", self.dice), ("tversky", self.tversky)):
            if arguments is not None:
                defaults = Options(region=kind)
                if kind == "tversky":
                    defaults, names = defaults._replace(average="macro"), ("alpha", "beta", *names)
                term = _term(kind, arguments, names)
                region_weight, region_name = term.pop("weight", None), f"{kind}: weight"
                factor = self.weight * term.pop("factor")
                term = {name: options.plain(name, value) for name, value in term.items()}
                pixel = options.combined(pixel, defaults._replace(**term), pixel.lambda_pixel, factor)
        if pixel.reduction == "none":
            raise ValueError('reduction: got "none", expected "mean" or "sum": the stages are added up')
        object.__setattr__(self, "_options", pixel)
        object.__setattr__(self, "_weights", (_listed(pixel_weight), _listed(region_weight)))
        object.__setattr__(self, "_weight_names", (pixel_name, region_name))
        object.__setattr__(self, "_terms", {})
        options.spec(pixel)  # checks the numbers

    @classmethod
    def of(cls, config: Stage | Mapping[str, Any]) -> Stage:
        """The stage itself, or one from a dict (of a YAML file, say) of the constructor's arguments."""
        if isinstance(config, Stage):
            return config
        if not isinstance(config, Mapping):
            raise TypeError(f"stages: got {config!r}, expected a Stage or a dict of its arguments")
        known = ("weight", "cross_entropy", "focal", "dice", "scale", "tversky")
        unknown = sorted(map(str, set(config) - set(known)))  # YAML's "on" is True
        if unknown:
            raise ValueError(f"stages: got {', '.join(unknown)}, expected some of {', '.join(known)}")
        return cls(**config)

    def _as_term(self, index: int, target_mode: str, align_corners: bool, ignore_index: int) -> Term:
        """The same as an operator's arguments, for the map of that index."""
        key = (index, target_mode, align_corners, ignore_index)
        term = self._terms.get(key)
        if term is None:
            chosen = self._options._replace(
                target_mode=target_mode, align_corners=align_corners, ignore_index=ignore_index
            )
            pixel_name, region_name = self._weight_names
            names = (f"inputs[{index}]: {pixel_name}", f"inputs[{index}]: {region_name}")
            term = Term(chosen, *self._weights, names)
            if not is_compiling():
                self._terms[key] = term
        return term

    def _check_scale(self, index: int, input: Tensor, target: Tensor) -> None:
        if self.scale is None:
            return
        for have, full in zip(input.shape[2:], target.shape[1:], strict=False):
            if abs(have - full * self.scale) >= 1:
                got, size = list(input.shape[2:]), list(target.shape[1:])
                raise ValueError(f"inputs[{index}]: got size {got}, expected {self.scale:g} of the target's {size}")


def _listed(weight: ClassWeights) -> ClassWeights:
    """A tensor of weights as numbers, which go with logits of any device."""
    return weight.tolist() if isinstance(weight, Tensor) and weight.ndim == 1 and not weight.requires_grad else weight


def _as_stages(stages: Sequence[Stage | Mapping[str, Any]]) -> tuple[Stage, ...]:
    if isinstance(stages, Stage | Mapping) or not isinstance(stages, Iterable):
        raise TypeError(f"stages: got {stages!r}, expected a sequence of stages, one for each of inputs")
    chosen = tuple(Stage.of(stage) for stage in stages)
    if not chosen:
        raise ValueError("stages: got none, expected one for each of inputs")
    return chosen


def _term(name: str, arguments: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(arguments, Mapping):
        raise TypeError(f"{name}: got {arguments!r}, expected a dict of its arguments")
    unknown = sorted(map(str, set(arguments) - {*known, "factor"}))
    if unknown:
        raise ValueError(f"{name}: got {', '.join(unknown)}, expected some of {', '.join((*known, 'factor'))}")
    factor = options.plain(f"{name}: factor", arguments.get("factor", 1.0))
    return {**arguments, "factor": number(f"{name}: factor", factor)}


# Deep supervision as in the course: lambda 0.4, 0.6 and 1.
COURSE = (
    Stage(0.4, focal={}, scale=1 / 8),
    Stage(0.6, focal={}, dice={}, scale=1 / 4),
    Stage(1.0, focal={}, dice={}, scale=1.0),
)


@overload
def multi_scale_loss(
    inputs: Sequence[Tensor],
    target: Tensor,
    stages: Sequence[Stage | Mapping[str, Any]] = ...,
    target_mode: str = ...,
    ignore_index: int = ...,
    *,
    align_corners: bool = ...,
    return_stages: Literal[False] = ...,
    sync: Sync = ...,
) -> Tensor: ...
@overload
def multi_scale_loss(
    inputs: Sequence[Tensor],
    target: Tensor,
    stages: Sequence[Stage | Mapping[str, Any]] = ...,
    target_mode: str = ...,
    ignore_index: int = ...,
    *,
    align_corners: bool = ...,
    return_stages: Literal[True],
    sync: Sync = ...,
) -> tuple[Tensor, Tensor]: ...
def multi_scale_loss(
    inputs: Sequence[Tensor],
    target: Tensor,
    stages: Sequence[Stage | Mapping[str, Any]] = COURSE,
    target_mode: str = "nearest",
    ignore_index: int = -100,
    *,
    align_corners: bool = False,
    return_stages: bool = False,
    sync: Sync = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The sum over a decoder's maps of lambda_i times the loss of map i, against one full-size target::

        L = sum_i lambda_i L_i(input_i, target)

    The target is checked and counted once for all maps. What a pixel of a smaller map should be says ``target_mode``:

    - ``"nearest"``: the label that ``F.interpolate(mode="nearest-exact")`` picks;
    - ``"majority"``: the most frequent valid label of the window behind the pixel (that of adaptive pooling), ties to
      the class with fewer pixels in the batch, then to the higher index;
    - ``"area"``: the share of each class among the valid pixels of the window, for Dice, Tversky and cross entropy (as
      ``F.cross_entropy`` with probabilities: ``"mean"`` divides by the number of pixels);
    - ``"upsample_logits"``: the label itself; the loss is that of the logits after
      ``F.interpolate(mode="bilinear")`` to the target's size.

    A pixel with no valid pixel in its window is ignored. On CUDA a wrong label that ``"nearest"`` does not pick goes
    unnoticed.

    Args:
        inputs: logits, each (N, C, h_i, w_i), of any sizes and dtypes.
        target: class indices, (N, H, W).
        stages: a :class:`Stage` (or a dict of its arguments) for each of ``inputs``. Default: scale 1/8 focal 0.4, 1/4
            focal + Dice 0.6, 1 focal + Dice 1.0.
        target_mode: as above.
        ignore_index: label of pixels that do not count.
        align_corners: of ``"upsample_logits"``, as in ``F.interpolate``.
        return_stages: also return the terms of the sum, detached, (stages,).
        sync: as in :mod:`rarepixel.functional`. Ties of ``"majority"`` are then broken by the counts of all ranks.

    Returns:
        A scalar; with ``return_stages`` also the terms.

    Raises:
        ValueError: for a wrong number of maps, sizes that do not fit a stage's scale, an unknown mode, or focal with
            ``"area"``.

    Example:
        >>> import torch, rarepixel as rp
        >>> maps = [torch.randn(2, 5, size, size, requires_grad=True) for size in (8, 16, 64)]
        >>> target = torch.randint(5, (2, 64, 64), dtype=torch.uint8)
        >>> total, stages = rp.multi_scale_loss(maps, target, target_mode="majority", return_stages=True)
        >>> total.backward()
        >>> stages.shape
        torch.Size([3])

    Source: Lee et al., Deeply-Supervised Nets, AISTATS 2015; the halving weights: nnU-Net, Isensee et al. 2021.
    """
    chosen = _as_stages(stages)
    if len(inputs) != len(chosen):
        raise ValueError(f"inputs: got {len(inputs)} maps, expected {len(chosen)}, one for each stage")
    if target_mode not in _TARGET_MODES:
        raise ValueError(f"target_mode: got {target_mode!r}, expected one of {', '.join(map(repr, _TARGET_MODES))}")
    if not isinstance(target, Tensor):
        raise TypeError(f"target: got {type(target).__name__}, expected a torch.Tensor")
    ignore_index = options.plain("ignore_index", ignore_index)
    align_corners = options.truth("align_corners", align_corners)
    for index, (input, stage) in enumerate(zip(inputs, chosen, strict=True)):
        if not isinstance(input, Tensor):
            raise TypeError(f"inputs[{index}]: got {type(input).__name__}, expected a torch.Tensor")
        stage._check_scale(index, input, target)
    terms = [stage._as_term(i, target_mode, align_corners, ignore_index) for i, stage in enumerate(chosen)]
    # The larger maps first: labels that all maps read are made with them. Over ranks as they are given: all ranks must
    # have the same order, and one without samples has no sizes.
    order = _by_size(inputs) if sync is False else list(range(len(inputs)))
    try:
        total, parts = losses([inputs[i] for i in order], target, [terms[i] for i in order], sync, return_stages)
    except (TypeError, ValueError) as error:
        if not str(error).startswith("inputs["):
            _check_maps(inputs, target, chosen, terms, error)
        raise
    if parts is None:
        return total
    return total, parts[[order.index(index) for index in range(len(order))]]


def _by_size(inputs: Sequence[Tensor]) -> list[int]:
    """The indices of the maps, the largest first."""
    # By comparisons: a trace, in which sizes may be symbols, cannot sort by them.
    order: list[int] = []
    for index, input in enumerate(inputs):
        order.insert(sum(inputs[other].numel() >= input.numel() for other in order), index)
    return order


def _check_maps(
    inputs: Sequence[Tensor],
    target: Tensor,
    stages: Sequence[Stage],
    terms: Sequence[Term],
    error: TypeError | ValueError,
) -> None:
    """Says which of the maps an error is about that does not, if it is about shapes, types or weights."""
    for index, (input, stage, term) in enumerate(zip(inputs, stages, terms, strict=True)):
        try:
            _checks.check_shapes(input, target, None, None, term.options)
        except (TypeError, ValueError):
            raise type(error)(f"inputs[{index}]: {error}") from None
        for name, weight in zip(stage._weight_names, stage._weights, strict=True):
            if weight is not None:
                _checks.check_length(f"inputs[{index}]: {name}", weight, input)
            if weight is not None and not isinstance(weight, Tensor):
                _checks.check_weight(f"inputs[{index}]: {name}", list(weight))


class MultiScaleLoss(nn.Module):
    """:func:`rarepixel.multi_scale_loss` as a module; the arguments are its own.

    Example:
        >>> import torch, rarepixel as rp
        >>> criterion = rp.MultiScaleLoss.halving(3, dice={"average": "macro"}, focal={})
        >>> [round(stage.weight, 3) for stage in criterion.stages]
        [0.667, 0.333, 0.0]
    """

    def __init__(
        self,
        stages: Sequence[Stage | Mapping[str, Any]] = COURSE,
        target_mode: str = "nearest",
        ignore_index: int = -100,
        *,
        align_corners: bool = False,
        return_stages: bool = False,
        sync: Sync = False,
    ) -> None:
        super().__init__()
        self.stages = _as_stages(stages)
        self.target_mode = target_mode
        self.ignore_index = ignore_index
        self.align_corners = align_corners
        self.return_stages = return_stages
        self.sync = sync

    @classmethod
    def halving(cls, n: int, **arguments: Any) -> MultiScaleLoss:
        """nnU-Net's scheme for n maps, the largest first: 1, 1/2, 1/4, ..., the last map off, normalised to a sum of 1.

        That map has a weight of 0, and so has its gradient; nan or inf in it still makes the sum nan.

        `arguments` are a :class:`Stage`'s terms (default: focal and Dice) and this class's own arguments.
        """
        n = integer("n", n)
        if n < 1:
            raise ValueError(f"n: got {n}, expected at least 1")
        terms = {
            name: arguments.pop(name) for name in ("cross_entropy", "focal", "dice", "tversky") if name in arguments
        }
        stage = Stage(**(terms or {"focal": {}, "dice": {}}))
        weights = [2.0**-i for i in range(n)]
        if n > 1:
            weights[-1] = 0.0
        return cls([replace(stage, weight=weight / sum(weights)) for weight in weights], **arguments)

    def forward(self, inputs: Sequence[Tensor], target: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See :func:`rarepixel.multi_scale_loss`."""
        return multi_scale_loss(  # type: ignore[no-any-return, call-overload]
            inputs,
            target,
            self.stages,
            self.target_mode,
            self.ignore_index,
            align_corners=self.align_corners,
            return_stages=self.return_stages,
            sync=self.sync,
        )

    def extra_repr(self) -> str:
        return f"stages={list(self.stages)}, target_mode={self.target_mode!r}, ignore_index={self.ignore_index}"
