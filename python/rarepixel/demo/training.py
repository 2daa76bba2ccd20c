"""The training loop: batches, validation, the history of the epochs, and going on from a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import rarepixel as rp

from . import ranks
from .data import Data
from .losses import SCALE_NAMES, TimedLoss
from .model import SiameseUNet
from .options import Options

Row = dict[str, float]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Same seed, same machine, same thread count: the same numbers."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Training:
    """A run in progress: everything that a checkpoint must hold."""

    def __init__(self, options: Options, data: Data) -> None:
        self.options = options
        self.data = data
        model = SiameseUNet(len(rp.xbd.CLASS_NAMES), deep_supervision=options.multi_scale)
        self.model = model.to(memory_format=torch.channels_last)
        # What the batches go through: it averages the gradients of several processes.
        self.parallel: torch.nn.Module = self.model
        if ranks.are_several():
            self.parallel = DistributedDataParallel(self.model)
        # A large epsilon keeps weights with almost no gradient still, instead of walking on rounding noise.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.lr, weight_decay=1e-2, eps=1e-5)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=options.lr, total_steps=options.epochs * len(data.train), pct_start=0.2
        )
        self.loss = TimedLoss(options, sync=ranks.are_several())
        self.history: list[Row] = []
        self.batch = 0  # of the epoch in progress
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        self.batch = 0
        self.seconds = self.loss.seconds = 0.0
        self.total_losses = [0.0] * len(self._loss_names)

    @property
    def _split(self) -> tuple[int, int]:
        """Tiles to train on and to validate, by which it shows that some were added or deleted."""
        return len(self.data.train.indices), len(self.data.validation)

    @property
    def _loss_names(self) -> list[str]:
        """The loss, and what each map adds to it."""
        return ["train_loss", *(f"train_loss_{scale}" for scale in SCALE_NAMES if self.options.multi_scale)]

    @property
    def epoch(self) -> int:
        """Epochs finished; also the number, from 0 on, of the one in progress."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch == self.options.epochs

    def train_epoch(self, interrupted: Callable[[], bool], advance: Callable[[], object]) -> bool:
        """Train on what is left of the epoch; False where it was interrupted before its end.

        Raises:
            ValueError: the loss is nan or infinite, before it reaches the weights.
        """
        self.model.train()
        start = time.perf_counter()
        for pre, post, mask in self.data.train.epoch(self.epoch, self.batch):
            self.optimizer.zero_grad()
            losses = self.loss.backward(self.parallel(pre, post), mask)
            if not math.isfinite(losses[0]):
                raise ValueError(
                    f"loss: got {losses[0]} in epoch {self.epoch + 1}, batch {self.batch + 1}, expected a finite "
                    f"number; --lr is {self.options.lr}: start over with a lower one"
                )
            # Without deep supervision the one map's part is the loss itself.
            self.total_losses = [total + loss for total, loss in zip(self.total_losses, losses, strict=False)]
            self.optimizer.step()
            self.scheduler.step()
            self.batch += 1
            advance()
            if interrupted():
                break
        self.seconds += time.perf_counter() - start
        return self.batch == len(self.data.train)

    @torch.no_grad()
    def validate(self, interrupted: Callable[[], bool], advance: Callable[[], object]) -> bool:
        """Score the epoch on the validation tiles and add it to the history; False where it was interrupted."""
        self.model.eval()
        start = time.perf_counter()
        matrix = rp.metrics.ConfusionMatrix(len(rp.xbd.CLASS_NAMES), ignore_index=rp.xbd.IGNORE_INDEX)
        losses = []
        for pre, post, mask in self.data.validation_tiles():
            maps = self.model(pre, post)
            losses.append(self.loss.value(maps, mask))
            matrix.update(maps[-1], mask)
            advance()
            if interrupted():
                return False
        everybody = ranks.gathered((sum(losses), matrix))
        self.seconds += time.perf_counter() - start
        validation_loss = sum(losses for losses, _ in everybody) / len(self.data.validation)
        self.history.append(self._row(validation_loss, reduce(add, (matrix for _, matrix in everybody))))
        self._reset_epoch()
        return True

    def _row(self, validation_loss: float, matrix: rp.metrics.ConfusionMatrix) -> Row:
        score = rp.metrics.XView2Score.from_confusion_matrix(matrix)
        steps = len(self.data.train)
        row: Row = {
            "epoch": self.epoch + 1,
            **{name: total / steps for name, total in zip(self._loss_names, self.total_losses, strict=True)},
            "validation_loss": validation_loss,
            "xview2_score": score.score,
            "localization_f1": score.localization_f1,
            "damage_f1": score.damage_f1,
            "accuracy": matrix.accuracy(),
            "loss_seconds": self.loss.seconds,
            "seconds": self.seconds,
        }
        for metric in ("dice", "recall"):
            values = getattr(matrix, metric)().tolist()
            row |= {f"{metric}_{name}": value for name, value in zip(rp.xbd.CLASS_NAMES, values, strict=True)}
        return row

    @torch.no_grad()
    def predict(self, pre: Tensor, post: Tensor) -> Tensor:
        """The predicted mask of images (N, 3, H, W)."""
        self.model.eval()
        logits: Tensor = self.model(pre, post)[-1]
        return logits.argmax(1)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for ``torch.load(weights_only=True)``."""
        return {
            "settings": self.options.settings(),
            "split": self._split,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "history": self.history,
            "batch": self.batch,
            "total_losses": self.total_losses,
            "seconds": self.seconds,
            "loss_seconds": self.loss.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: there are more or fewer tiles than then.
        """
        if self._split != tuple(state["split"]):
            (train, validation), (saved_train, saved_validation) = self._split, state["split"]
            raise ValueError(
                f"{self.data.root}: got {train} tiles to train on and {validation} to validate, expected the "
                f"{saved_train} and {saved_validation} of the checkpoint; start over without --resume"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        self.history = state["history"]
        self.batch = state["batch"]
        self.total_losses = state["total_losses"]
        self.seconds = state["seconds"]
        self.loss.seconds = state["loss_seconds"]
