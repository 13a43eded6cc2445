"""Learning curves: the lines of `metrics.jsonl` as figures. It reads no files; `core.page` puts the figures into a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg.core.classes import LandClass
from landseg.core.page import ACCENT, ALARM, INK, new_figure, style_axes
from landseg.core.progress import clock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 400  # more logged lines than these are averaged into as many: the page stays small and the curve readable

_MOST_BARS = 60  # more epochs share a bar with their neighbours

_RESOURCES = {
    "Learning rate": {"train/lr": ("", 1.0)},
    "Images per second": {"speed/images_per_s": ("", 1.0)},
    "Memory, GB": {"memory/process_mb": ("process", 1e-3), "memory/device_mb": ("device", 1e-3)},
    "GPU at work, %": {"gpu/use": ("", 100.0)},
}
"""Title → the keys drawn in it, each with its name and its factor."""

_TIME = {
    "step": ("steps", ACCENT, 1.0),
    "data": ("waiting for data", ALARM, 1.0),
    "validation": ("validation", INK, 0.6),
    "saving": ("saving", INK, 0.3),
}
"""``time/…_share`` → its name, colour and opacity, from the bottom up."""

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
    """(title, figure) of the learning rate, the speed, the memory and the GPU, as far as the history has them."""
    axis, panels = _epochs(history), []
    wanted = {title: drawn for title, keys in _RESOURCES.items() if (drawn := [key for key in keys if _has(history, key)])}
    for title, drawn in wanted.items():
        figure, axes = _panel(axis, 5.6 if len(wanted) == 4 else 3.7, 2.3)  # two or three beside each other
        for key in drawn:
            name, factor = _RESOURCES[title][key]
            is_second = len(drawn) > 1 and key == drawn[0]
            style, colour = ("--", INK) if is_second else ("-", ACCENT)
            _draw(axes, _points(history, key, axis), scale=factor, style=style, color=colour, label=name)
        axes.set_ylim(bottom=0, top=100 if title.endswith("%") else None)
        if len(drawn) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
        panels.append((title, figure))
    return panels


def time_curve(history: Sequence[Line]) -> tuple[str, str, Figure] | None:
    """(title, words, figure) of what the time of the run went into, each epoch or few by itself; None where nothing was timed."""
    lines = [line for line in history if line.get("time/window_s") and "step" in line]
    if not lines:
        return None
    unit, groups = _stretches(lines)
    figure = new_figure(11.4, 2.5)
    axes = figure.add_subplot()
    axes.set_xlabel(unit)
    style_axes(axes)
    seconds = np.array([_seconds(group) for _, _, group in groups])  # (groups, kinds and the whole)
    left, right = np.array([group[:2] for group in groups], float).T
    below = np.zeros(len(groups))
    for column, (name, colour, opacity) in enumerate(_TIME.values()):
        height = 100 * seconds[:, column] / seconds[:, -1]
        if height.max() >= 0.5:
            axes.bar(left, height, 0.94 * (right - left), below, align="edge", label=name, color=colour, alpha=opacity, linewidth=0)
        below += height
    axes.set_ylim(0, 100)
    if axes.containers:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=len(_TIME), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    total = seconds.sum(0)
    shares = sorted(zip(total[:-1] / total[-1], (name for name, *_ in _TIME.values()), strict=True), reverse=True)
    words = ", ".join(f"{100 * share:.0f} % {name}" for share, name in shares if share >= 0.005)
    if not words:
        return None
    return "Where the time went, %", f"Of {clock(total[-1])}: {words}.", figure


def _stretches(lines: Sequence[Line]) -> tuple[str, list[tuple[float, float, Sequence[Line]]]]:
    """The lines of each epoch, or of a few, with where it begins and ends; of a single epoch, lines with their steps."""
    numbers = sorted({int(line["epoch"]) for line in lines if "epoch" in line})
    if len(numbers) < 2:
        parts = [part.tolist() for part in np.array_split(np.arange(len(lines)), min(len(lines), _MOST_BARS))]
        ends = [0.0, *(float(lines[part[-1]]["step"]) for part in parts)]
        return "step", [(ends[i], max(ends[i + 1], ends[i] + 1), [lines[k] for k in part]) for i, part in enumerate(parts)]
    first, most = numbers[0], -(-len(numbers) // _MOST_BARS)
    bins: dict[int, list[Line]] = {}
    for line in lines:
        bins.setdefault((int(line.get("epoch", first)) - first) // most, []).append(line)
    return "epoch", [(first - 1 + number * most, first - 1 + (number + 1) * most, group) for number, group in sorted(bins.items())]


def _seconds(lines: Sequence[Line]) -> np.ndarray:
    """Seconds of each kind, and of the whole at the end."""
    whole = np.array([float(line["time/window_s"]) for line in lines])
    shares = np.array([[float(line.get(f"time/{kind}_share") or 0) for kind in _TIME] for line in lines])
    return np.append(whole @ shares, whole.sum())


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
