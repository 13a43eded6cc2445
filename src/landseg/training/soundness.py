"""Whether the loss and the gradients of a step are numbers, found at the step where they stop being it, and what is told of it.

It undoes nothing: `step` leaves the update out, `loop` stops or goes back. No pixel is looked at: those without a value, as a float image
may have, are the network's first layer's matter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STREAK = 10
"""Steps in a row that may be left out; then it is no stray batch that is at fault."""

ROLLBACKS = 3
"""How often a run goes back, each time to half the rate: an eighth of it that still diverges has another cause."""

EXPLODED, LINES, PAST = 10.0, 3, 5
"""A loss explodes that is this many times its median in so many lines of the metrics running, after so many at least that were not."""

NAMED = 32
"""Tiles that a message names."""


class Unsound(Exception):
    """What a run that may go back goes back for; `told` is what is said where it may not."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.found)
        self.told = told


@dataclass(frozen=True)
class Told:
    """What is wrong, in words: `found` of the loss and the gradients, or of the weights; the batch's `keys`, none where it is the weights;
    the epoch and the batch in it, from 0."""

    epoch: int
    number: int
    found: str
    keys: np.ndarray
    in_a_row: int = 1


@dataclass(frozen=True)
class _Step:
    """A step as it was judged; the tensors are on its device, and nobody has waited for them."""

    epoch: int
    number: int
    keys: np.ndarray
    loss: Tensor
    largest: Tensor
    names: list[str]
    is_bad: Tensor


class Judge:
    """Judges each step, and keeps count.

    Args:
        model: Its parameters' gradients are looked at.
        device: On a CPU, a step is judged before its update; on a GPU the verdict stays there, for reading it would make the loop wait.
        is_scaled: Gradients of 16 bits are multiplied by a number that is found by trial: that they are infinite now and then is part of
            it, their `GradScaler` leaves those steps out, and the loss alone is judged.

    Attributes:
        is_at_once: Whether a verdict is read at the step.
        skipped: Steps that were unsound, since the run began.
        in_a_row: Of those, the last ones without a sound one between.
        rollbacks: How often the run went back.
        back_to: The step that it went back to last.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, is_scaled: bool) -> None:
        self.is_at_once, self.is_scaled = device.type != "cuda", is_scaled
        self._parameters = list(model.named_parameters())
        self._unread: list[_Step] = []
        self._before: _Step | None = None
        self.skipped, self.in_a_row, self.rollbacks, self.back_to = 0, 0, 0, -1

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied by."""
        return float(0.5**self.rollbacks)

    def judged(self, loss: Tensor, keys: np.ndarray, epoch: int, number: int) -> Tensor:
        """Judge a step between its gradients and its update.

        Args:
            loss: A scalar on its device.
            keys: Of the batch's tiles, for `unsound` to tell.
            epoch: From 0.
            number: Of the batch in it, from 0.

        Returns:
            A boolean scalar on the device of the loss: True where the loss or any element of a gradient is NaN or infinite.
        """
        learning = [(name, parameter.grad) for name, parameter in self._parameters if parameter.grad is not None]
        gradients = [gradient for _, gradient in learning if gradient is not None]
        # The largest element, not the length: its square would be infinite long before it is.
        largest = torch.stack(torch._foreach_norm(gradients, math.inf)) if gradients else loss.new_zeros(0)
        is_bad = ~torch.isfinite(loss)
        if not self.is_scaled:
            is_bad = is_bad | ~torch.isfinite(largest).all()
        self._unread.append(_Step(epoch, number, keys, loss, largest, [name for name, _ in learning], is_bad))
        return is_bad

    def unsound(self) -> list[Told]:
        """The unsound steps since the last call, in their order; on a GPU this waits for the last of them."""
        steps, self._unread = self._unread, []
        if not steps:
            return []
        found = []
        for step, is_bad in zip(steps, torch.stack([step.is_bad for step in steps]).tolist(), strict=True):
            if not is_bad:
                self._before, self.in_a_row = step, 0
                continue
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            words = f"the loss is {float(step.loss):.4g}, {self._gradients(step)}"
            found.append(Told(step.epoch, step.number, words, step.keys, self.in_a_row))
        return found

    def are_finite(self) -> bool:
        """Whether all weights are numbers."""
        weights = [parameter.detach() for _, parameter in self._parameters]
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(weights, math.inf))).all())

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on counting."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "rollbacks": self.rollbacks, "back_to": self.back_to}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; steps that were not read yet are forgotten."""
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])
        self.rollbacks, self.back_to = int(state["rollbacks"]), int(state["back_to"])
        self._unread, self._before = [], None

    def _gradients(self, step: _Step) -> str:
        """The largest gradient in words; of the step before where none of this one is a number."""
        values = step.largest.tolist()
        bad = [name for name, value in zip(step.names, values, strict=True) if not math.isfinite(value)]
        if not bad:
            return f"the largest gradient that of {self._largest(step)}"
        if len(bad) < len(values):
            return f"{len(bad)} of {len(values)} gradients are no numbers, that of {bad[-1]} the last of them"
        before = "" if self._before is None else f"; in the step before, the largest was that of {self._largest(self._before)}"
        return f"no gradient is a number{before}"

    def _largest(self, step: _Step) -> str:
        values = step.largest.tolist()
        at = max(range(len(values)), key=values.__getitem__)
        return step.names[at] if self.is_scaled else f"{step.names[at]} ({values[at]:.3g})"


def tiles_in_words(names: Iterable[str]) -> str:
    """``tiles a, b, c``, and how many more there are where they are many."""
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"tile{'s' * (len(found) > 1)} {', '.join(found[:NAMED])}{more}"


def is_exploding(losses: Sequence[float]) -> bool:
    """Whether the last losses of a run's lines are far above what was usual before; they may come down again, so that it stops nothing."""
    before, last = losses[:-LINES], losses[-LINES:]
    return len(before) >= PAST and min(last) > EXPLODED * statistics.median(before) > 0
