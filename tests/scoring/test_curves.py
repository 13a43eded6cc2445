"""Curves show the logged points, over epochs where these are known, and nothing where nothing was logged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.scoring.curves import quality_curves, resource_curves, time_curve

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
    assert time_curve([]) is None and time_curve(lines(1)) is None


def timed(epochs: int, waiting: float = 0.2) -> list[dict[str, Any]]:
    """Each epoch: a train line of 30 s and a validation of 10."""
    found: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        shares = {"time/step_share": 1 - waiting, "time/data_share": waiting}
        found += [
            {"step": 10 * epoch, "epoch": epoch, "time/window_s": 30.0, **shares, "memory/process_mb": 1500, "gpu/use": 0.9},
            {"step": 10 * epoch, "epoch": epoch, "time/window_s": 10.0, "time/validation_share": 1.0, "val/miou": 0.5},
        ]
    return found


@pytest.mark.parametrize(("epochs", "bars"), [(3, 3), (60, 60), (61, 31), (150, 50)])
def test_time_is_shared_out_by_how_long_each_line_took(epochs: int, bars: int) -> None:
    found = time_curve(timed(epochs))
    assert found is not None
    _, words, figure = found
    axes = figure.axes[0]
    assert words.endswith(": 60 % steps, 25 % validation, 15 % waiting for data.") and axes.get_xlabel() == "epoch"
    heights = {container.get_label(): [bar.get_height() for bar in container] for container in axes.containers}
    assert {name: (len(found), {round(height, 6) for height in found}) for name, found in heights.items()} == {
        "steps": (bars, {60}), "waiting for data": (bars, {15}), "validation": (bars, {25}),
    }  # fmt: skip
    assert all(bar.get_y() + bar.get_height() <= 100 + 1e-6 for container in axes.containers for bar in container)
    assert axes.containers[0][0].get_x() == 0, "the first epoch lies between 0 and 1, as on the other axes"


def test_a_single_epoch_is_shared_out_over_its_steps() -> None:
    history = [{"step": 50 * k, "epoch": 1, "time/window_s": 2.0, "time/step_share": k / 4} for k in range(1, 5)]
    found = time_curve(history)
    assert found is not None and found[1] == "Of 0:08: 62 % steps."
    bars = found[2].axes[0].containers[0]
    assert [(bar.get_x(), bar.get_height()) for bar in bars] == [(0, 25), (50, 50), (100, 75), (150, 100)]


def test_a_run_that_did_nothing_that_is_counted_has_no_figure() -> None:
    assert time_curve([{"step": 1, "epoch": 1, "time/window_s": 1.0}]) is None


def test_memory_of_process_and_device_share_a_panel() -> None:
    ((title, alone), (use, _)) = resource_curves(timed(3))
    assert (title, use) == ("Memory, GB", "GPU at work, %")
    assert list(alone.axes[0].lines[0].get_ydata()) == [1.5, 1.5, 1.5] and alone.axes[0].get_legend() is None
    history = [{**line, "memory/device_mb": 30_000} for line in timed(3)]
    both = resource_curves(history)[0][1].axes[0]
    legend = both.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["process", "device"]
