"""What an ensemble or a test-time augmentation gains over plain models on the same tiles, and what it costs. It runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landseg.scoring.confusion import scores
from landseg.scoring.intervals import LEAST_GAIN_GROUPS, Interval, gain_interval, labelled_miou

NO_INTERVAL = f"no 95 % interval of a gain: fewer than {LEAST_GAIN_GROUPS} groups with labels"


@dataclass(frozen=True)
class Pass:
    """A part, predicted in one way.

    Args:
        name: ``plain``, a model's path, ``d4``, ``scales``, ``ensemble``, ``ensemble, d4`` …
        matrices: (G, K, K) int64, one confusion matrix a group of tiles.
        seconds: That the model took, reading the tiles apart.
        is_plain: One model without augmentation.
    """

    name: str
    matrices: np.ndarray
    seconds: float
    is_plain: bool


@dataclass(frozen=True)
class Compared:
    """One way to predict a part, and what it brings.

    Args:
        name: As of the pass.
        miou: Mean IoU, 0..1; None when nothing is labelled.
        seconds: As of the pass.
        cost: Its seconds as a multiple of the best plain model's; None where that took none.
        gain: Its mIoU above that of the best plain model, which has 0, both over the classes that the labels hold; None without a mIoU.
        gain_interval: 95 % interval of the gain; None for the best plain model itself, and below `LEAST_GAIN_GROUPS` groups.
    """

    name: str
    miou: float | None
    seconds: float
    cost: float | None
    gain: float | None
    gain_interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        """An item of `comparison` in the document of `landseg evaluate`."""
        span = None if self.gain_interval is None else list(self.gain_interval)
        cost = None if self.cost is None else round(self.cost, 2)
        known = {"name": self.name, "miou": self.miou, "seconds": round(self.seconds, 3), "cost": cost}
        return {**known, "gain": self.gain, "gain_interval": span}


def compare(passes: Sequence[Pass], names: Sequence[str]) -> tuple[Compared, ...]:
    """Hold each pass against the best plain model: what an ensemble must beat is the best of its models, not their mean.

    That one is chosen by the score that is compared, which favours it: a gain over it is no overstatement.

    Args:
        passes: Over the same groups; at least one is plain.
        names: K class names in the order of their ids.

    Raises:
        LandsegError: The passes are not over the same labels.
    """
    values = [float(labelled_miou(item.matrices.sum(0))) for item in passes]  # of the same labels: all are numbers, or none is
    best = max((i for i, item in enumerate(passes) if item.is_plain), key=lambda i: values[i])
    found = []
    for i, (item, value) in enumerate(zip(passes, values, strict=True)):
        gain = value - values[best] if np.isfinite(value) else None
        span = None if i == best else gain_interval(passes[best].matrices, item.matrices, names)
        cost = item.seconds / passes[best].seconds if passes[best].seconds else None
        found.append(Compared(item.name, scores(item.matrices.sum(0), names).miou, item.seconds, cost, gain, span))
    return tuple(found)


def table(comparison: Sequence[Compared]) -> list[str]:
    """Lines for a person: a heading, a line a way, and how to read them."""
    width = max(len(item.name) for item in comparison)
    lines = [f"{'':<{width}}  {'mIoU':>6}  {'gain':>7}  {'95 % interval':>17}  {'seconds':>8}  {'× plain':>7}"]
    for item in comparison:
        miou, gain = ("–" if value is None else f"{value:{sign}.4f}" for value, sign in ((item.miou, ""), (item.gain, "+")))
        span = "–" if item.gain_interval is None else f"{item.gain_interval[0]:+.4f} – {item.gain_interval[1]:+.4f}"
        cost = "–" if item.cost is None else f"{item.cost:.1f}"
        lines.append(f"{item.name:<{width}}  {miou:>6}  {gain:>7}  {span:>17}  {item.seconds:>8.1f}  {cost:>7}")
    plain = "the best single model" if len(comparison) > 2 else comparison[0].name
    lines.append(f"gain: mIoU above {plain}, over the classes that the labels hold; seconds: of the network, reading apart")
    if all(item.gain_interval is None for item in comparison):
        lines.append(NO_INTERVAL)
    return lines
