"""Curves show the logged points, over epochs where these are known, and nothing where nothing was logged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.scoring.curves import quality_curves, resource_curves

CLASSES = make_classes(["field", "forest"])


def lines(first: int, epochs: int = 3, steps: int = 10) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for done in range(epochs):
        result += [{"step": done * steps + k, "epoch": first + done, "train/loss": 1.0, "train/lr": 0.1} for k in range(0, steps, 2)]
        result.append(
            {"step": (done + 1) * steps, "epoch": first + done, "val/miou": 0.2 * done, "val/iou/field": 0.1, "val/iou/forest": None}
        )
    return result


@pytest.mark.parametrize("first", [0, 1])
def test_train_lines_spread_over_the_epochs_whether_they_count_from_0_or_1(first: int) -> None:
    history = [*lines(first), {"step": 35, "epoch": first + 3, "train/loss": 0.5}]  # interrupted after the last validation
    (_, loss), (_, quality) = quality_curves(history, CLASSES)
    assert loss.axes[0].get_xlabel() == "epoch"
    x, y = loss.axes[0].lines[0].get_data()
    assert np.allclose(x, [*np.arange(0, 3, 0.2), 3.5]) and y[-1] == 0.5
    curves = quality.axes[0].lines
    assert [len(curve.get_xdata()) for curve in curves] == [3, 3, 1]  # field, mIoU, its best; forest was absent
    assert np.allclose(curves[1].get_xdata(), [1, 2, 3]) and np.allclose(curves[1].get_ydata(), [0, 20, 40])
    assert tuple(float(np.ravel(part)[0]) for part in curves[2].get_data()) == (3, 40)


def test_without_validation_the_axis_counts_steps() -> None:
    history = [{"step": step, "train/loss": float("nan") if step == 4 else 1.0, "speed/images_per_s": 9.0} for step in range(10)]
    ((title, loss),) = quality_curves(history, CLASSES)
    assert title == "Loss" and loss.axes[0].get_xlabel() == "step"
    assert list(loss.axes[0].lines[0].get_xdata()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [title for title, _ in resource_curves(history)] == ["Images per second"]


def test_many_lines_are_averaged_and_keep_their_mean() -> None:
    history = [{"step": step, "train/loss": float(step)} for step in range(100_000)]
    ((_, loss),) = quality_curves(history, CLASSES)
    x, y = loss.axes[0].lines[0].get_data()
    assert len(x) == 400 and np.mean(y) == pytest.approx(49_999.5) and np.array_equal(x, y)


def test_nothing_logged_nothing_drawn() -> None:
    assert quality_curves([], CLASSES) == resource_curves([]) == []
