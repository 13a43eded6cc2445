"""What a run says of itself while it goes: lines of its log and of its metrics, and the panel. It decides nothing about the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landseg.core import machine
from landseg.core.panel import ON_PANEL, Panel, View
from landseg.core.progress import clock
from landseg.core.runs import read_metrics
from landseg.core.settings import Recipe
from landseg.core.stopwatch import Stopwatch
from landseg.data.pack import TileStore
from landseg.scoring.confusion import Scores
from landseg.training.gauges import Machine
from landseg.training.pace import STEP, Bottleneck, Pace, Situation
from landseg.training.soundness import is_exploding

if TYPE_CHECKING:
    from landseg.training.loop import Position

log = logging.getLogger("landseg")

LOG_EVERY_S = 10.0
"""Between two lines of the log. Of a run whose steps are slow, it is so for the metrics too: at which steps their lines stand is then a
matter of the clock, and may be another after a kill; nothing else of the run is."""

METRICS_EVERY = 50
"""Steps between two training lines of `metrics.jsonl`; the end of an epoch writes one too."""

SHOW_EVERY_S = 0.5
"""Between two views that the panel is told."""


class Monitor:
    """Listens to a run. The loss stays on its device until a line is due: reading it makes the loop wait.

    Args:
        recipe: The run's settings.
        store: Its tiles.
        device: Where it computes.
        batches: Steps an epoch.
        watch: What times the run's kinds of work.
        residency: Says where the tiles lie by now: device, host or disk. They may leave the device for want of memory.

    Attributes:
        pace: Where the time goes.
    """

    def __init__(
        self, recipe: Recipe, store: TileStore, device: torch.device, batches: int, watch: Stopwatch, residency: Callable[[], str]
    ) -> None:
        train, data = recipe.train, recipe.data
        batch = train.step_tiles
        about = (device.type, batch, store.is_mapped, data.pack, data.workers, machine.cores(), train.validate_every, train.save_minutes)
        self.pace, self._watch, self._residency = Pace(Situation(*about, residency()), watch), watch, residency
        self._epochs, self._batches, self._device, self._now = None if train.minutes else train.epochs, batches, device, watch.now
        self._loss, self._steps = torch.zeros((), device=device), 0
        self._logged_at = self._shown_at = watch.now()
        self._losses: list[float] = []
        self._said: str | None = None
        self._has_exploded = False
        self._machine = Machine(device, Path())
        self._panel, self._view = Panel(""), View("")

    @contextmanager
    def shown(self, folder: Path, at: Position) -> Iterator[None]:
        """Within, the run is watched: on a panel where there is a terminal. Seconds before it count for nothing."""
        past = read_metrics(folder)
        self._losses = _losses(past)
        scored: Mapping[str, Any] = next((line for line in reversed(past) if line.get("val/miou") is not None), {})
        iou = {key.removeprefix("val/iou/"): value for key, value in scored.items() if key.startswith("val/iou/")}
        best = (at.best_miou, at.best_epoch + 1) if at.best_epoch >= 0 else None
        self._machine = Machine(self._device, folder)
        self._panel = Panel(str(folder), Machine(self._device, folder).gauges)
        self._view = View(str(folder), epochs=self._epochs, batches=self._batches, miou=scored.get("val/miou"), best=best, iou=iou)
        self._watch.take()
        self._logged_at = self._now()
        with self._panel:
            self._show(at, 0.0)
            try:
                yield
            finally:
                self._end()

    def stepped(self, loss: Tensor, images: int) -> None:
        """A step is done."""
        self._loss += loss
        self._steps += 1
        self.pace.stepped(images)

    def left_out(self, steps: int) -> None:
        """Some of the steps that it was told were left out: their loss, which is 0, does not count."""
        self._steps -= steps

    def went_back(self, folder: Path) -> None:
        """The run is where an earlier state was, and so are its metrics."""
        self._losses, self._has_exploded = _losses(read_metrics(folder)), False

    def mean_loss(self) -> float:
        """The mean loss since the last line; it waits for the device."""
        with self._watch.of(STEP):  # which is at the steps that it was told
            return float(self._loss) / max(self._steps, 1)

    def state(self) -> list[float]:
        """What has to go on after an interruption, so that the next line is the one that there would have been."""
        return [float(self._loss), self._steps]

    def restore(self, state: list[float]) -> None:
        """Take over what `state` gave."""
        loss, steps = state
        self._loss, self._steps = torch.full_like(self._loss, loss), int(steps)

    def is_due(self, at: Position, lr: float) -> bool:
        """Whether a line should be written; between lines, the panel is told how far the run is."""
        if self._now() - self._shown_at >= SHOW_EVERY_S:
            self._show(at, lr)
        return at.step % METRICS_EVERY == 0 or at.batch == self._batches or self._watch.window_s() >= LOG_EVERY_S

    def line(self, at: Position, lr: float) -> dict[str, Any]:
        """End the window: what `metrics.jsonl` says of it, and now and then what the log does."""
        # Where each of its steps was left out, a window has no loss.
        means = {"train/loss": self.mean_loss()} if self._steps else {}
        self._losses += means.values()
        self._loss, self._steps = torch.zeros_like(self._loss), 0
        values = {**means, "train/lr": lr, **self.times()}
        if not self._has_exploded and is_exploding(self._losses):
            self._has_exploded = True
            said = "step %d: the loss is %.3g, far above what it was; a lower train.lr, or train.clip, may be needed"
            log.warning(said, at.step, *means.values())
        self._show(at, lr)
        if self._now() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = self._now()
            self._log(at, values)
        return values

    def times(self) -> dict[str, Any]:
        """End the window: where its time went, and what the machine is at."""
        values = self._machine.metrics()
        if self._device.type == "cuda":
            values["memory/device_mb"] = round(torch.cuda.max_memory_allocated(self._device) / 1e6)
        return self.pace.lap(values.get("gpu/use")) | values

    def scored(self, found: Scores, best: float, at: Position) -> None:
        """A validation is done; `best` is the kept model's mIoU."""
        epoch = at.epoch + 1 if self._view.best is None or best > self._view.best[0] else self._view.best[1]
        self._view = replace(self._view, miou=found.miou, best=(best, epoch), iou=found.iou)
        self._panel.show(self._view)
        by_class = "  ".join(f"{name} {'–' if iou is None else f'{iou:.3f}'}" for name, iou in found.iou.items())
        words = f"epoch {at.epoch + 1}  val mIoU {-1 if found.miou is None else found.miou:.4f} (best {best:.4f})"
        self._panel.say(words)
        log.info("%s  %s", words, by_class, extra=ON_PANEL)

    def _show(self, at: Position, lr: float) -> None:
        self._shown_at = self._now()
        if not self._panel.is_up:
            return
        found = self._bottleneck()
        # Where reading it costs nothing, the loss is as new as the step; elsewhere as old as the last line.
        loss = self.mean_loss() if self._steps and self._device.type == "cpu" else next(reversed(self._losses), None)
        self._view = replace(
            self._view,
            elapsed_s=at.elapsed_s,
            epoch=at.epoch + 1,
            batch=at.batch,
            step=at.step,
            progress=min(at.progress, 1.0),
            left_s=_left_s(at),
            loss=loss,
            losses=self._losses,
            lr=lr,
            images_per_s=self.pace.images_per_s(),
            bottleneck=None if found is None else found.words,
            is_waste=found is not None and found.is_waste,
        )
        self._panel.show(self._view)

    def _log(self, at: Position, values: dict[str, Any]) -> None:
        total = "" if self._epochs is None else f"/{self._epochs}"
        left = clock(_left_s(at) or 0)
        loss, speed = values.get("train/loss", math.nan), values.get("speed/images_per_s", 0)
        numbers = at.epoch + 1, total, at.step, loss, values["train/lr"], speed, left
        log.info("epoch %d%s  step %d  loss %.4f  lr %.2g  %.1f images/s  %s left", *numbers, extra=ON_PANEL)
        found = self._bottleneck()
        if found is not None and found.kind != self._said:
            self._said = found.kind
            log.info("bottleneck: %s", found.words, extra=ON_PANEL)

    def _bottleneck(self) -> Bottleneck | None:
        self.pace.situation = replace(self.pace.situation, residency=self._residency())
        return self.pace.bottleneck()

    def _end(self) -> None:
        summary = self.pace.summary()
        if summary:
            log.info("time: %s", summary)


def _losses(lines: list[dict[str, Any]]) -> list[float]:
    return [float(line["train/loss"]) for line in lines if line.get("train/loss") is not None]


def _left_s(at: Position) -> float | None:
    return at.elapsed_s / at.progress * (1 - at.progress) if 0 < at.progress <= 1 else None
