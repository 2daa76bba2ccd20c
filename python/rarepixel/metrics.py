"""Metrics of segmentations with rare classes: per-class Dice, IoU, precision and recall, and the xView2 score.

Everything here comes from one table of counts, the confusion matrix, which Rust fills in one pass over logits and
target (no argmax map, no one-hot). Tensors of torch and arrays of NumPy are taken alike; torch is not needed. CUDA
tensors are counted on their device, and the counts stay there until they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import integer
from ._arrays import Array, described, foldable, is_floating, labels, on_one_device, predictions, readable, threads

if TYPE_CHECKING:
    import torch

__all__ = ["ConfusionMatrix", "XView2Metric", "XView2Score", "xview2_score"]

# What each part of the xView2 score counts, and what keeps its harmonic mean finite.
_LOCALIZATION_WEIGHT, _DAMAGE_WEIGHT, _EPSILON = 0.3, 0.7, 1e-6


class ConfusionMatrix:
    """Counts of (target, prediction) pairs over any number of batches, and the metrics that come from them.

    Args:
        num_classes: C, at least 2.
        ignore_index: pixels whose target has this value are not counted. The default is the value of un-classified
            pixels in xBD masks; the losses' default is -100, as in torch.

    With TP, FP and FN of one class (everything in float64):

    ==============  ============================  ======================================
    metric          formula                       nan where
    ==============  ============================  ======================================
    ``dice``        2 TP / (2 TP + FP + FN)       in neither target nor prediction
    ``iou``         TP / (TP + FP + FN)           in neither target nor prediction
    ``precision``   TP / (TP + FP)                never predicted
    ``recall``      TP / (TP + FN)                not in the target
    ``accuracy``    right pixels / all pixels     no pixel counted
    ==============  ============================  ======================================

    ``average="macro"`` gives the mean over the classes that have a value, and nan where none has.

    Example:
        >>> import numpy as np
        >>> import rarepixel as rp
        >>> matrix = rp.metrics.ConfusionMatrix(num_classes=3)
        >>> matrix.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 255]]))
        >>> matrix.matrix
        array([[1, 0, 0],
               [1, 1, 0],
               [0, 0, 0]])
        >>> matrix.recall()
        array([1. , 0.5, nan])
        >>> round(matrix.dice(average="macro"), 3)
        0.667
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = integer("num_classes", num_classes)
        if self.num_classes < 2:
            raise ValueError(f"num_classes: got {num_classes}, expected at least 2")
        self.ignore_index = integer("ignore_index", ignore_index)
        self._matrix = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        # What was counted on CUDA devices: (C * C + 2) int64 each, the counts and how many labels were wrong.
        self._on_devices: dict[torch.device, torch.Tensor] = {}

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The counts so far, a copy: (C, C) int64, rows = target, columns = prediction."""
        return np.array(self._counts())

    def update(self, input: Array, target: Array) -> None:
        """Count a batch.

        Args:
            input: logits, (N, C, *spatial) in float16, bfloat16, float32 or float64, or predicted labels, (N, *spatial)
                in bool, uint8, int16, int32 or int64: a floating dtype means logits. The prediction is the first
                largest logit; nan counts as the largest value, as in ``torch.argmax``.
            target: class indices, (N, *spatial) in bool, uint8, int16, int32 or int64.

        contiguous and channels_last logits are read in place. Two tensors of one CUDA device are counted there, on the
        current stream and without waiting for it; others are moved to the CPU first. Whatever reads the counts waits
        for all streams of their device. The first batch of a device and :meth:`reset` clear them on the current stream:
        a batch on another stream must come after that. In a CUDA graph every replay counts what the tensors then hold.

        Raises:
            ValueError: shapes that do not fit, or a label outside [0, C) that is not ignore_index; the message gives
                the label and its position. Nothing of the batch is counted then. Input labels at ignored pixels may
                be anything. On CUDA a wrong label raises where the counts are read, until :meth:`reset`;
                with ``RAREPIXEL_DEBUG=1`` at once, as on the CPU.
            TypeError: not an array, or another dtype.
            RuntimeError: the first batch of a device is being captured in a CUDA graph.
        """
        if on_one_device(input, target):
            from . import _cuda

            if not _cuda.debugging():
                self._count_on_device(input, target)
                return
        self._matrix += _count(input, target, self.num_classes, self.ignore_index)

    def _count_on_device(self, input: Any, target: Any) -> None:
        import torch

        from . import _cuda

        input, target = readable("input", input, keep_device=True), readable("target", target, keep_device=True)
        if input.device not in self._on_devices:
            if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                # The counts would be made anew, and so lost, in every replay.
                raise RuntimeError(
                    f"input: got the first batch on {input.device} while its stream is capturing, expected counts that "
                    "are there already: call update() once before capturing a CUDA graph"
                )
            with torch.inference_mode(False):  # else it could not be reset outside of that mode
                counts = torch.zeros(self.num_classes**2 + 2, dtype=torch.int64, device=input.device)
            self._on_devices[input.device] = counts
        input, target = foldable(input, 2 if is_floating(input) else 1), foldable(target, 1)
        counts = self._on_devices[input.device]
        _cuda.confusion_matrix(input, target, counts, self.num_classes, self.ignore_index)

    def _counts(self) -> NDArray[np.int64]:
        """All counts; those on devices are waited for."""
        total = self._matrix
        for device, counts in self._on_devices.items():
            import torch

            if torch.cuda.is_initialized():  # not where tests emulate a device
                torch.cuda.synchronize(device)  # updates may be under way on any stream
            *_, targets, inputs = host = counts.cpu().numpy()
            for argument, number, where in (
                ("target", targets, f"or ignore_index ({self.ignore_index})"),
                ("input", inputs, "where the target is not ignored"),
            ):
                if number:
                    raise ValueError(
                        f"{argument}: got {number} labels that are no class since the last reset, expected 0 to "
                        f"{self.num_classes - 1} {where}; RAREPIXEL_DEBUG=1 shows the first at once"
                    )
            total = total + host[:-2].reshape(total.shape)
        return total

    def reset(self) -> None:
        """Forget all counts.

        On CUDA that is in the order of the current stream: it does not wait for batches on other streams.
        """
        self._matrix[:] = 0
        for counts in self._on_devices.values():
            counts.zero_()  # in place: a CUDA graph may hold it

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes, for example another worker's."""
        if not isinstance(other, ConfusionMatrix):
            raise TypeError(f"other: got {type(other).__name__}, expected a ConfusionMatrix")
        if (other.num_classes, other.ignore_index) != (self.num_classes, self.ignore_index):
            raise ValueError(f"other: got {other!r}, expected the num_classes and ignore_index of {self!r}")
        self._matrix += other._counts()

    def __add__(self, other: object) -> ConfusionMatrix:
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        total = ConfusionMatrix(self.num_classes, self.ignore_index)
        total.merge(self)
        total.merge(other)
        return total

    def __repr__(self) -> str:
        return f"ConfusionMatrix(num_classes={self.num_classes}, ignore_index={self.ignore_index})"

    def state_dict(self) -> dict[str, Any]:
        """The counts as plain numbers and lists, fit for JSON and ``torch.load(weights_only=True)``."""
        return {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "matrix": self._counts().tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the counts by those of :meth:`state_dict` of a matrix with the same classes.

        Raises:
            ValueError: another num_classes or ignore_index, a key that is missing, or counts that are none.
            TypeError: not a dict.
        """
        _check_state(state, self, ("num_classes", "ignore_index"), ("matrix",))
        matrix = _saved_counts(state, "matrix", self._matrix.shape)
        self.reset()
        self._matrix = matrix

    def support(self) -> NDArray[np.int64]:
        """Target pixels of each class, (C,) int64."""
        return self._sums()[2]

    @overload
    def dice(self, average: None = None) -> NDArray[np.float64]: ...
    @overload
    def dice(self, average: Literal["macro"]) -> float: ...
    def dice(self, average: Literal["macro"] | None = None) -> NDArray[np.float64] | float:
        """Dice of each class (F1 of its pixels), (C,), or their mean."""
        right, predicted, support = self._sums()
        return _averaged(_ratio(2 * right, predicted + support), average)

    @overload
    def iou(self, average: None = None) -> NDArray[np.float64]: ...
    @overload
    def iou(self, average: Literal["macro"]) -> float: ...
    def iou(self, average: Literal["macro"] | None = None) -> NDArray[np.float64] | float:
        """Intersection over union (Jaccard index) of each class, (C,), or their mean (mIoU)."""
        right, predicted, support = self._sums()
        return _averaged(_ratio(right, predicted + support - right), average)

    @overload
    def precision(self, average: None = None) -> NDArray[np.float64]: ...
    @overload
    def precision(self, average: Literal["macro"]) -> float: ...
    def precision(self, average: Literal["macro"] | None = None) -> NDArray[np.float64] | float:
        """Share of the pixels predicted as a class that are of it, (C,), or the mean.

        The mean leaves out classes that were never predicted, so that a model which predicts nothing but background
        has a high one; torchmetrics counts such classes as 0 where they are in the target.
        """
        right, predicted, _ = self._sums()
        return _averaged(_ratio(right, predicted), average)

    @overload
    def recall(self, average: None = None) -> NDArray[np.float64]: ...
    @overload
    def recall(self, average: Literal["macro"]) -> float: ...
    def recall(self, average: Literal["macro"] | None = None) -> NDArray[np.float64] | float:
        """Share of the pixels of a class that are predicted as it, (C,), or the mean.

        The mean leaves out classes that are not in the target; torchmetrics counts them as 0 where they were predicted.
        """
        right, _, support = self._sums()
        return _averaged(_ratio(right, support), average)

    def accuracy(self) -> float:
        """Share of all pixels that are right. It says little of rare classes: background alone is 96 to 97 % of xBD."""
        right, _, support = self._sums()
        return float(_ratio(right.sum(), support.sum()))

    def _sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each class: TP, TP + FP, TP + FN."""
        matrix = self._counts()
        return matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)


@dataclass(frozen=True)
class XView2Score:
    """The score of the xView2 challenge, 0.3 localization F1 + 0.7 damage F1, and its parts.

    F1 is 2 TP / (2 TP + FP + FN), and 0 without a true positive. A class that is not in the target therefore pulls
    the harmonic mean to almost 0: score whole sets, not single tiles. The 1e-6 that keeps the mean finite also lifts
    it: a perfect score is 1.0000007, not 1.

    Example:
        >>> import numpy as np
        >>> import rarepixel as rp
        >>> matrix = rp.metrics.ConfusionMatrix(num_classes=5)
        >>> matrix.update(np.array([[0, 1, 2, 3, 4, 4]]), np.array([[0, 1, 2, 3, 4, 0]]))
        >>> score = rp.metrics.XView2Score.from_confusion_matrix(matrix)
        >>> round(score.score, 4), [round(f1, 4) for f1 in score.class_f1]
        (0.9667, [1.0, 1.0, 1.0, 1.0])
    """

    score: float
    """0.3 localization_f1 + 0.7 damage_f1."""
    localization_f1: float
    """F1 of building (class 1 or more) over all pixels."""
    damage_f1: float
    """Harmonic mean of class_f1: 4 / sum(1 / (F1 + 1e-6))."""
    class_f1: tuple[float, float, float, float]
    """F1 of no damage, minor, major and destroyed over the pixels whose target is a building."""

    @classmethod
    def from_confusion_matrix(cls, matrix: ConfusionMatrix) -> XView2Score:
        """The score of one map of the five xBD classes, whose building pixels are those of classes 1 to 4."""
        if matrix.num_classes != 5:
            raise ValueError(f"matrix: got {matrix.num_classes} classes, expected the 5 of xBD")
        counts = matrix._counts()
        return cls._from_counts(_buildings(counts), counts)

    @classmethod
    def _from_counts(cls, localization: NDArray[np.int64], damage: NDArray[np.int64]) -> XView2Score:
        """From (2, 2) counts of building and (5, 5) counts of damage."""
        building_f1 = _f1(localization)[1]
        # Only pixels whose target is a building are scored: the row of the target's background is left out.
        class_f1 = _f1(np.vstack([np.zeros_like(damage[:1]), damage[1:]]))[1:]
        damage_f1 = len(class_f1) / np.sum(1 / (class_f1 + _EPSILON))
        return cls(
            score=float(_LOCALIZATION_WEIGHT * building_f1 + _DAMAGE_WEIGHT * damage_f1),
            localization_f1=float(building_f1),
            damage_f1=float(damage_f1),
            class_f1=tuple(class_f1.tolist()),
        )


class XView2Metric:
    """The xView2 score over any number of batches: counts are summed over the whole set, then scored once.

    Args:
        ignore_index: pixels whose target has this value are left out. What localization leaves out is up to the target
            that it is scored against: `localization_target` where that is given. The official targets have no such
            pixels: their un-classified buildings are no-damage (``un_classified="no-damage"`` in ``rp.xbd``).

    Example:
        >>> import numpy as np
        >>> import rarepixel as rp
        >>> metric = rp.metrics.XView2Metric()
        >>> metric.update(np.array([[0, 1, 2, 3, 4, 4]]), np.array([[0, 1, 2, 3, 4, 0]]))
        >>> result = metric.compute()
        >>> round(result.localization_f1, 4), round(result.damage_f1, 4), round(result.score, 4)
        (0.8889, 1.0, 0.9667)

    Source: the challenge's scoring code (DIUx-xView/xView2_scoring) and Gupta et al. 2019, "xBD".
    """

    def __init__(self, ignore_index: int = 255) -> None:
        self._both = ConfusionMatrix(5, ignore_index)
        self.ignore_index = self._both.ignore_index
        self.reset()

    def update(
        self,
        input: Array,
        target: Array,
        localization: Array | None = None,
        localization_target: Array | None = None,
    ) -> None:
        """Count a batch.

        Args:
            input: the damage prediction, logits (N, 5, *spatial) or labels (N, *spatial).
            target: damage classes 0 to 4, (N, *spatial); for xBD the post mask.
            localization: the building prediction, where it is a map of its own (the challenge asks for two PNGs):
                labels (N, *spatial), a building where above 0, or logits (N, 2, *spatial). The damage prediction is
                zeroed where it has no building. Without it, building is class 1 or more of `input`.
            localization_target: what localization is scored against, labels (N, *spatial), a building where above 0;
                the challenge takes the pre mask. Without it, building is class 1 or more of `target`.

        With one of the latter two, CUDA tensors are moved to the CPU. Without them, streams and CUDA graphs are as in
        :meth:`ConfusionMatrix.update`.

        Raises:
            ValueError, TypeError, RuntimeError: as :meth:`ConfusionMatrix.update`.
        """
        if localization is None and localization_target is None:
            self._both.update(input, target)
            return
        damage, target = predictions("input", input, 5), labels("target", target)
        building = (damage if localization is None else predictions("localization", localization, 2)) > 0
        truth = target if localization_target is None else labels("localization_target", localization_target)
        for name, array in (("localization", building), ("target", target), ("localization_target", truth)):
            if array.shape != damage.shape:
                raise ValueError(f"{name}: got shape {array.shape}, expected {damage.shape}, as input")
        counts = _count(np.where(building, damage, 0), target, 5, self.ignore_index)
        truth = np.where(truth == self.ignore_index, 2, truth > 0)
        self._damage += counts
        self._localization += _count(building, truth, 2, ignore_index=2)

    def compute(self) -> XView2Score:
        """The score of all that was counted."""
        return XView2Score._from_counts(*self._counts())

    def _counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All (2, 2) counts of building and (5, 5) of damage."""
        both = self._both._counts()
        return self._localization + _buildings(both), self._damage + both

    def reset(self) -> None:
        """Forget all counts; on CUDA in the order that :meth:`ConfusionMatrix.reset` has."""
        # Of batches where both parts of the score come from one map, and of the others.
        self._both.reset()
        self._localization = np.zeros((2, 2), dtype=np.int64)
        self._damage = np.zeros((5, 5), dtype=np.int64)

    def merge(self, other: XView2Metric) -> None:
        """Add the counts of another metric with the same ignore_index, for example another worker's."""
        if not isinstance(other, XView2Metric):
            raise TypeError(f"other: got {type(other).__name__}, expected an XView2Metric")
        if other.ignore_index != self.ignore_index:
            raise ValueError(f"other: got ignore_index {other.ignore_index}, expected {self.ignore_index}")
        localization, damage = other._counts()
        self._localization += localization
        self._damage += damage

    def __add__(self, other: object) -> XView2Metric:
        if not isinstance(other, XView2Metric):
            return NotImplemented
        total = XView2Metric(self.ignore_index)
        total.merge(self)
        total.merge(other)
        return total

    def __repr__(self) -> str:
        return f"XView2Metric(ignore_index={self.ignore_index})"

    def state_dict(self) -> dict[str, Any]:
        """The counts as plain numbers and lists, fit for JSON and ``torch.load(weights_only=True)``."""
        localization, damage = self._counts()
        return {"ignore_index": self.ignore_index, "localization": localization.tolist(), "damage": damage.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the counts by those of :meth:`state_dict` of a metric with the same ignore_index.

        Raises:
            ValueError, TypeError: as :meth:`ConfusionMatrix.load_state_dict`.
        """
        _check_state(state, self, ("ignore_index",), ("localization", "damage"))
        localization = _saved_counts(state, "localization", self._localization.shape)
        damage = _saved_counts(state, "damage", self._damage.shape)
        self.reset()
        self._localization, self._damage = localization, damage


def xview2_score(
    input: Array,
    target: Array,
    localization: Array | None = None,
    localization_target: Array | None = None,
    ignore_index: int = 255,
) -> XView2Score:
    """The xView2 score of arrays that hold the whole set; the arguments are those of :class:`XView2Metric`.

    Example:
        >>> import numpy as np
        >>> import rarepixel as rp
        >>> damage, building = np.array([[1, 2, 3, 4, 4]]), np.array([[1, 1, 1, 1, 0]])
        >>> rp.metrics.xview2_score(damage, np.array([[1, 2, 3, 4, 0]]), localization=building).score > 0.999
        True
    """
    metric = XView2Metric(ignore_index)
    metric.update(input, target, localization, localization_target)
    return metric.compute()


def _check_state(state: Any, metric: object, settings: Sequence[str], counts: Sequence[str]) -> None:
    """That it is the state of a metric with the same settings, and has counts."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state: got {type(state).__name__}, expected the dict of state_dict()")
    if missing := [name for name in (*settings, *counts) if name not in state]:
        raise ValueError(f"state: got keys {sorted(map(str, state))}, expected {' and '.join(missing)} too")
    for name in settings:
        if state[name] != getattr(metric, name):
            raise ValueError(f"state: got {name} {state[name]}, expected {getattr(metric, name)}")


def _saved_counts(state: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The counts of that name, checked."""
    try:
        counts = np.array(state[name])
    except ValueError as error:
        raise ValueError(f"state: got a {name} whose rows differ in length, expected shape {shape}") from error
    if counts.shape != shape:
        raise ValueError(f"state: got a {name} of shape {counts.shape}, expected {shape}")
    if counts.dtype.kind not in "iu" or counts.min() < 0 or counts.max() > np.iinfo(np.int64).max:
        raise ValueError(f"state: got the {name} {counts.tolist()}, expected whole numbers of at least 0")
    return counts.astype(np.int64)


def _f1(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class, 0 without a true positive."""
    return np.nan_to_num(_ratio(2 * matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1)))


def _buildings(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """(5, 5) counts of damage as (2, 2) counts of building: classes 1 to 4 are one."""
    rows = np.add.reduceat(matrix, [0, 1], axis=0)
    buildings: NDArray[np.int64] = np.add.reduceat(rows, [0, 1], axis=1)
    return buildings


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """numerator / denominator, nan where both are 0, without a warning."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(numerator, denominator))


def _averaged(values: NDArray[np.float64], average: Literal["macro"] | None) -> NDArray[np.float64] | float:
    if average is None:
        return values
    if average != "macro":
        raise ValueError(f'average: got {average!r}, expected None or "macro"')
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _count(input: Array, target: Array, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """The (C, C) counts of one batch."""
    input, target = readable("input", input), readable("target", target)
    logits = is_floating(input)  # which have a channel dimension before the spatial ones
    return _core.confusion_matrix(
        described(input, 2 if logits else 1), described(target, 1), num_classes, ignore_index, threads()
    )
