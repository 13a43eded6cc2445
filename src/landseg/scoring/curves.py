"""Learning curves: the lines of `metrics.jsonl` as figures. It reads no files; `core.page` puts the figures into a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg.core.classes import LandClass
from landseg.core.page import ACCENT, INK, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 400  # more logged lines than these are averaged into as many: the page stays small and the curve readable

_RESOURCES = {"train/lr": "Learning rate", "speed/images_per_s": "Images per second", "memory/device_mb": "Device memory, MB"}

Line = Mapping[str, Any]
"""A line of `metrics.jsonl`: ``step`` and any of ``epoch``, ``train/loss``, ``val/miou``, ``val/iou/NAME`` …; train, val may be apart."""


def quality_curves(history: Sequence[Line], classes: Sequence[LandClass]) -> list[tuple[str, Figure]]:
    """(title, figure) of the loss and of the validation scores, as far as the history has them."""
    axis, panels = _epochs(history), []
    if _has(history, "train/loss"):
        figure, axes = _panel(axis)
        for key, name, style in (("train/loss", "train", "-"), ("val/loss", "validation", "--")):
            _draw(axes, _points(history, key, axis), style=style, color=ACCENT, label=name)
        if _has(history, "val/loss"):
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
        if axes.dataLim.y0 >= 0:
            axes.set_ylim(bottom=0)
        panels.append(("Loss", figure))
    if _has(history, "val/miou"):
        figure, axes = _panel(axis)
        for item in classes:
            _draw(axes, _points(history, f"val/iou/{item.name}", axis), scale=100, color=item.colour, linewidth=1.6)
        x, y = _points(history, "val/miou", axis)
        _draw(axes, (x, y), scale=100, color=INK, linewidth=2.6)
        top = int(np.argmax(y))
        axes.plot(x[top], y[top] * 100, "o", color=INK, markersize=7)
        place = {"xytext": (0, -16 if y[top] > 0.9 else 10), "textcoords": "offset points", "ha": "right" if 2 * top > len(x) else "left"}
        axes.annotate(f"best {y[top] * 100:.1f}", (x[top], y[top] * 100), fontsize=10, fontweight="bold", color=INK, **place)
        axes.set_ylim(0, min(100, 10 * math.ceil(axes.dataLim.y1 * 0.115)))  # room for the words above the best
        panels.append(("Validation: mIoU (bold) and IoU of each class, %", figure))
    return panels


def resource_curves(history: Sequence[Line]) -> list[tuple[str, Figure]]:
    """(title, figure) of the learning rate, the speed and the memory, as far as the history has them."""
    axis, panels = _epochs(history), []
    for key, title in _RESOURCES.items():
        if _has(history, key):
            figure, axes = _panel(axis, 3.7, 2.3)
            _draw(axes, _points(history, key, axis), color=ACCENT)
            axes.set_ylim(bottom=0)
            panels.append((title, figure))
    return panels


_Points = tuple[np.ndarray, np.ndarray]
_Axis = _Points | None


def _epochs(history: Sequence[Line]) -> _Axis:
    """Knots (step, epochs finished) from the validation lines, so that the train lines of an epoch spread over it; None without them."""
    knots = [(0.0, 0.0)]
    lines = [line for line in history if "val/miou" in line and "epoch" in line and "step" in line]
    from_zero = bool(lines) and float(lines[0]["epoch"]) == 0  # then epoch 0 is finished when it is validated
    for line in lines:
        step, epoch = float(line["step"]), float(line["epoch"]) + from_zero
        if step > knots[-1][0] and epoch > knots[-1][1]:
            knots.append((step, epoch))
    steps, epochs = np.array(knots).T
    return (steps, epochs) if len(knots) > 1 else None


def _points(history: Sequence[Line], key: str, axis: _Axis) -> _Points:
    """(x, y) of the lines that have the key, x in epochs where they are known, else in steps; null and NaN are left out."""
    found = [(float(line["step"]), float(line[key])) for line in history if "step" in line and line.get(key) is not None]
    points = np.array([pair for pair in found if math.isfinite(pair[1])]).reshape(-1, 2)
    if len(points) > _MOST_POINTS:
        points = np.array([part.mean(axis=0) for part in np.array_split(points, _MOST_POINTS)])
    steps, values = points.T
    if axis is None:
        return steps, values
    x, y = axis
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])  # lines after the last validation
    return np.where(steps > x[-1], y[-1] + (steps - x[-1]) * slope, np.interp(steps, x, y)), values


def _has(history: Sequence[Line], key: str) -> bool:
    return len(_points(history, key, None)[0]) > 0


def _panel(axis: _Axis, width: float = 5.6, height: float = 3.1) -> tuple[Figure, Any]:
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.set_xlabel("step" if axis is None else "epoch")
    style_axes(axes)
    return figure, axes


def _draw(axes: Any, points: _Points, *, scale: float = 1, style: str = "-", linewidth: float = 1.8, **look: Any) -> None:
    x, y = points
    if len(x):
        axes.plot(x, y * scale, style, linewidth=linewidth, marker="o" if len(x) == 1 else "", **look)
