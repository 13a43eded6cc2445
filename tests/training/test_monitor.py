"""Lines come when they are due, say what the window held, and name a bottleneck once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from landseg.core.config import load_recipe
from landseg.core.panel import Panel, View
from landseg.core.stopwatch import Stopwatch
from landseg.scoring.confusion import scores
from landseg.training import monitor as room
from landseg.training.loop import Position
from landseg.training.monitor import Monitor

CPU = torch.device("cpu")


class Run:
    """A run of steps that take what they are said to take, on a clock that stands still otherwise."""

    def __init__(self, *settings: str, batches: int = 100) -> None:
        self.now, self.at, self.batches, self.where = 0.0, Position(), batches, "disk"
        self.watch = Stopwatch(self)
        store: Any = SimpleNamespace(is_mapped=True)
        recipe = load_recipe("tiny", ["train.batch=4", "train.epochs=10", *settings])
        self.monitor = Monitor(recipe, store, CPU, batches, self.watch, lambda: self.where)

    def __call__(self) -> float:
        return self.now

    def step(self, loss: float = 1.0, **seconds: float) -> dict[str, Any] | None:
        for kind, value in seconds.items():
            with self.watch.of(kind):
                self.now += value
        self.monitor.stepped(torch.tensor(loss), 4)
        step = self.at.step + 1
        self.at = replace(
            self.at,
            batch=(step - 1) % self.batches + 1,
            epoch=(step - 1) // self.batches,
            step=step,
            elapsed_s=self.now,
            progress=step / 1000,
        )
        return self.monitor.line(self.at, 0.01) if self.monitor.is_due(self.at, 0.01) else None


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    logger = logging.getLogger("landseg")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, "landseg"):
        yield lambda: caplog.messages
    logger.propagate = before


def test_lines_of_metrics_come_by_steps_by_time_and_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    def due(batches: int, seconds: float, count: int) -> list[int]:
        run = Run(batches=batches)
        with run.monitor.shown(tmp_path, run.at):
            return [number for number in range(1, count + 1) if run.step(step=seconds)]

    assert due(1000, 0.001, 160) == [50, 100, 150]
    assert due(70, 0.001, 160) == [50, 70, 100, 140, 150]
    assert due(1000, 4.0, 7) == [3, 6]


def test_a_line_holds_what_its_window_held(tmp_path: Path) -> None:
    run = Run()
    with run.monitor.shown(tmp_path, run.at):
        lines = [line for i in range(100) if (line := run.step(loss=float(i), waiting=0.01, step=0.03))]
    assert [line["train/loss"] for line in lines] == [24.5, 74.5], "the mean of fifty"
    for line in lines:
        assert line["speed/images_per_s"] == pytest.approx(100) and line["train/lr"] == 0.01
        assert line["time/data_share"] == 0.25 and line["time/step_share"] == 0.75 and line["disk/free_gb"] > 0
        assert json.loads(json.dumps(line)) == line


def test_the_log_has_a_line_every_ten_seconds_however_short_the_steps(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    run = Run(batches=100_000)
    with run.monitor.shown(tmp_path, run.at):
        for _ in range(3000):
            run.step(step=0.0125)
    said = [message for message in log() if message.startswith("epoch ")]
    assert len(said) == 3 and "epoch 1/10  step 850 " in said[0] and said[0].endswith("images/s  0:02 left")


def test_a_bottleneck_is_named_when_it_comes_and_not_again(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    run = Run()
    with run.monitor.shown(tmp_path, run.at):
        for _ in range(60):
            run.step(step=1)
        for _ in range(120):
            run.step(waiting=1, step=1)
    said = [message for message in log() if message.startswith("bottleneck")]
    assert len(said) == 2 and "the network" in said[0] and "waiting for data" in said[1]
    assert log()[-1].startswith("time: 60 % steps, 40 % waiting for data")


def test_a_short_run_says_nothing_of_its_pace(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    run = Run()
    with run.monitor.shown(tmp_path, run.at):
        run.step(waiting=3, step=1)
    assert log() == []


def test_what_passed_before_the_run_began_counts_for_nothing(tmp_path: Path) -> None:
    run = Run()
    run.now += 1000
    with run.monitor.shown(tmp_path, run.at):
        lines = [line for _ in range(50) if (line := run.step(step=0.1))]
    assert lines[0]["time/step_share"] == 1 and lines[0]["time/window_s"] == 5


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """What a panel is told, in turn."""
    views: list[View] = []

    class Seen(Panel):
        def __enter__(self) -> Seen:
            self.is_up = True
            return self

        def show(self, view: View) -> None:
            views.append(view)

    monkeypatch.setattr(room, "Panel", Seen)
    return views


def test_remedies_go_by_where_the_tiles_lie_by_now(tmp_path: Path, told: list[View]) -> None:
    run, found = Run(), []
    with run.monitor.shown(tmp_path, run.at):
        for run.where in ("device", "disk"):
            for _ in range(50):  # to the next line
                run.step(reading=0.1, waiting=0.5, step=0.1)
            found.append(told[-1].bottleneck or "")
    assert found[0].endswith("copying tiles within memory; a smaller train.crop copies less")
    assert "reading from the disk; data.residency=host" in found[1], "as when memory ran out and the tiles left the device"


def test_the_panel_is_told_where_the_run_is_and_what_was_before_it(tmp_path: Path, told: list[View]) -> None:
    """A resumed run: its past losses and its last validation are on the panel from the start."""
    past = [{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0, "val/miou": 0.5, "val/iou/a": 0.5, "val/iou/b": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in past), encoding="utf-8")
    run = Run()
    run.at = Position(epoch=2, batch=50, step=250, elapsed_s=50.0, best_miou=0.6, best_epoch=1, progress=0.25)
    with run.monitor.shown(tmp_path, run.at):
        first = told[-1]
        run.step(loss=1.0, step=0.6)
        stepped = told[-1]
        found = scores(np.diag([3, 4]), ["a", "b"])
        run.monitor.scored(found, 1.0, run.at)
        better = told[-1]
        run.monitor.scored(scores(np.array([[3, 0], [4, 0]]), ["a", "b"]), 1.0, replace(run.at, epoch=5))
    assert (first.epoch, first.epochs, first.batch, first.batches, first.left_s) == (3, 10, 50, 100, 150)
    assert (first.miou, first.best, first.iou, list(first.losses), first.loss) == (0.5, (0.6, 2), {"a": 0.5, "b": None}, [3.0, 2.0], 2.0)
    assert stepped.loss == 1.0 and stepped.images_per_s == pytest.approx(4 / 0.6)
    assert (better.miou, better.best, better.iou) == (1.0, (1.0, 3), {"a": 1.0, "b": 1.0})
    assert told[-1].best == (1.0, 3) and told[-1].miou == pytest.approx(3 / 14), "a lesser one leaves the best where it was"


def test_a_line_after_an_interruption_is_the_one_there_would_have_been(tmp_path: Path) -> None:
    whole, before, after = Run(), Run(), Run()
    losses = [float(i % 7) for i in range(50)]
    lines = [whole.step(loss, step=0.01) for loss in losses]
    for loss in losses[:30]:
        assert before.step(loss, step=0.01) is None
    after.at = before.at
    after.monitor.restore(json.loads(json.dumps(before.monitor.state())))
    ends = [after.step(loss, step=0.01) for loss in losses[30:]]
    assert lines[-1] is not None and ends[-1] is not None
    assert ends[-1]["train/loss"] == lines[-1]["train/loss"]


def test_minutes_in_place_of_epochs_leave_their_number_open() -> None:
    assert Run("train.minutes=3").monitor._epochs is None
