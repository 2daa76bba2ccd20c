"""One contender at one job, and the proof that its answer is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inputs import Inputs, Loss, Truth


@dataclass(frozen=True)
class Trial:
    """One contender at one job: a loss, or something without a gradient, as a metric."""

    case: str
    contender: str
    make: Callable[[], Loss]
    """Imports what it needs and gives the loss."""
    definition: Loss
    """What it computes, in plain torch."""
    inputs: Inputs = field(default_factory=Inputs)
    scale: float = 1.0
    """The incoming gradient: other than 1 under a GradScaler, or where losses are added up with factors."""
    differentiable: bool = True
    rtol: float | None = None
    """Largest relative error, where the contender is known to be less exact than its type."""
    threads: int | None = None
    """Threads of torch and rarepixel; None: as many as torch takes by itself."""


class Runner:
    """A trial with its loss made and its batch at hand."""

    def __init__(self, trial: Trial, batch: tuple[Tensor, Tensor] | None = None) -> None:
        self.trial = trial
        self.logits, self.target = batch or trial.inputs.make()
        self.loss = trial.make()
        self.incoming = torch.tensor(trial.scale)

    def forward(self) -> Tensor:
        """The loss of a batch that needs no gradient, as in validation."""
        with torch.no_grad():
            return self.loss(self.logits, self.target)

    def forward_for_backward(self) -> Tensor:
        """The loss with all that its backward pass needs."""
        return self.loss(self.logits, self.target)

    def backward(self, loss: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The gradient (of each map), as the network below would get it: handed on, not added to a leaf's."""
        incoming = None if self.trial.scale == 1.0 else self.incoming.to(loss.dtype)
        gradients = torch.autograd.grad(loss, self.logits, incoming)
        return gradients if isinstance(self.logits, tuple) else gradients[0]

    def forward_backward(self) -> Tensor | tuple[Tensor, ...]:
        """Both, as in training."""
        return self.backward(self.forward_for_backward())

    def check(self, truths: dict[object, Truth]) -> dict[str, float]:
        """Relative errors of loss and gradient; AssertionError unless the answer is right, with and without a gradient.

        Truths are computed once and kept.
        """
        trial, inputs = self.trial, self.trial.inputs
        name = f"{trial.case}, {trial.contender}"
        if not trial.differentiable:
            answer, expected = self.forward(), trial.definition(self.logits, self.target)
            assert answer.equal(expected), f"{name}: got {answer.tolist()}, expected {expected.tolist()}"
            return {}
        key = (trial.definition, inputs.samples, inputs.classes, inputs.size, inputs.dtype)
        if key not in truths:
            truths[key] = inputs.truth(trial.definition)
        loss = self.forward_for_backward()
        true_loss, true_gradient = truths[key]
        inputs.check_loss(self.forward(), true_loss, name, trial.rtol)
        return {
            "loss_error": inputs.check_loss(loss.detach(), true_loss, name, trial.rtol),
            "gradient_error": inputs.check_gradient(self.backward(loss), true_gradient, name, trial.rtol, trial.scale),
        }
