"""The training loop, on one page: position, epochs, validation, saving. What a step does is in `step`, what is said of it in `monitor`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from landseg.core.errors import LandsegError
from landseg.core.runs import Run
from landseg.core.settings import Recipe
from landseg.core.stopwatch import Stopwatch
from landseg.data.pack import TileStore
from landseg.inference.pieces import piece_edge
from landseg.network.build import Network
from landseg.network.checkpoint import ModelCard
from landseg.scoring.confusion import Scores, scores
from landseg.scoring.evaluate import tile_matrices
from landseg.training.batches import Batch, Batches
from landseg.training.interruption import Interruption, noted
from landseg.training.keeping import Keeper
from landseg.training.monitor import Monitor
from landseg.training.pace import SAVING, STEP, VALIDATION, WAITING
from landseg.training.sampling import class_pixels
from landseg.training.state import load_state, misfit
from landseg.training.step import Stepper

log = logging.getLogger("landseg")

SAVE_SHARE = 0.05
"""Of the time that saving the state at the end of each epoch may take; where epochs are shorter, some are not saved."""


@dataclass(frozen=True)
class Task:
    """What to train on and how: tiles by their numbers in the store, what the model will say of itself, the settings."""

    store: TileStore
    train: Sequence[int]
    val: Sequence[int]
    card: ModelCard
    recipe: Recipe


@dataclass(frozen=True)
class Position:
    """Where a run is, always between two steps: the batch to do next and what has been reached.

    `batch` equal to the epoch's count means: validate next. `progress` is the share of the run that is done.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    validation_s: float = 0.0
    best_miou: float = -1.0
    best_epoch: int = -1
    since_best: int = 0
    progress: float = 0.0


def train(network: Network, task: Task, run: Run, *, resume: bool) -> Position:
    """Train until the epochs, the minutes or the patience end, keeping the best model by validation mIoU.

    Args:
        network: Initialised; changed in place.
        task: Tiles and settings.
        run: An open run; ``RUN/state`` and ``RUN/model`` are written.
        resume: Go on from the run's newest state.

    Returns:
        The last position; its `best_miou` is the kept model's.

    Raises:
        LandsegError: The loss is no number any more, a device is missing, or the disk refuses.
        KeyboardInterrupt: The user interrupted; the state was saved.
    """
    return Loop(network, task).run(run, resume=resume)


class Loop:
    """A run in motion. Making one checks device and settings and writes nothing; a benchmark may drive single steps.

    Raises:
        LandsegError: A device is missing, or a setting does not fit the task.
    """

    run_files: Run
    keeper: Keeper

    def __init__(self, network: Network, task: Task) -> None:
        recipe, settings = task.recipe, task.recipe.train
        self.task, self.settings, self.watch = task, settings, Stopwatch()
        self.batches = Batches(
            task.store, task.train, settings.step_tiles, settings.seed, recipe.data.workers, settings.crop, recipe.sample, recipe.augment,
            self.watch,
        )  # fmt: skip
        # What the model will say of itself: its network works at `size` pixels for the longer edge of what it was trained on.
        card = task.card.model_copy(update={"tile_size": self.batches.shape, "size": settings.size})
        self.stepper = Stepper(network, recipe, card, class_pixels(task.store.entries, task.train))
        entries = [task.store.entries[i] for i in task.val]
        self._val_tiles = sum(entry.height * entry.width for entry in entries) / (self.batches.shape[0] * self.batches.shape[1])
        self.at = Position()
        self.monitor = Monitor(recipe, task.store, self.device, self.batches.count, self.watch)
        self.interruption = Interruption()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.stepper.device

    def run(self, run: Run, *, resume: bool) -> Position:
        """Train to the end; see `train`."""
        self.run_files, self.keeper = run, Keeper(run, resume=resume)
        if resume:
            self._restore(load_state(run.folder / "state"))
        elif self.settings.batch == "auto":
            self.stepper.choose_micro()
        self.saved_at_s, self.save_s = self.at.elapsed_s, 0.0
        began = time.perf_counter() - self.at.elapsed_s
        with noted(self.interruption), self.monitor.shown(run.folder, self.at):
            while not self._is_over():
                for batch in self.watch.each(WAITING, self._rest()):
                    self.step(batch)
                    self.at = replace(self.at, batch=self.at.batch + 1, step=self.at.step + 1, elapsed_s=time.perf_counter() - began)
                    self.at = replace(self.at, progress=self._progress())
                    self._report()
                    self._do_as_asked()
                    if self._progress() >= 1:
                        break
                    if self.at.elapsed_s - self.saved_at_s >= 60 * self.settings.save_minutes:
                        self._save()
                self._require_finite()
                is_last = self.at.epoch + 1 == self.settings.epochs and self.settings.minutes is None
                if is_last or self._progress() >= 1 or (self.at.epoch + 1) % self.settings.validate_every == 0:
                    self._validate()
                self.at = replace(self.at, epoch=self.at.epoch + 1, batch=0, elapsed_s=time.perf_counter() - began)
                if self._is_over() or SAVE_SHARE * (self.at.elapsed_s - self.saved_at_s) >= self.save_s:
                    self._save()
        if self.settings.patience is not None and self.at.since_best >= self.settings.patience:
            log.info("early stop: no better mIoU in %d validations", self.at.since_best)
        if self.stepper.average is not None and not self.stepper.average.n_averaged and self._is_over():
            log.warning("train.average=%g never began: the run ended before that share of it", self.settings.average)
        if self.interruption.is_asked:
            raise KeyboardInterrupt
        self.keeper.end()
        return replace(self.at, best_miou=self.keeper.miou, best_epoch=self.keeper.epoch)

    def step(self, batch: Batch) -> None:
        """One step on one batch at the current position, which stays."""
        with self.watch.of(STEP):
            loss = self.stepper.step(batch, epoch=self.at.epoch, number=self.at.batch, progress=self._progress())
            self.monitor.stepped(loss, len(batch.keys))

    def _rest(self) -> Iterator[Batch]:
        """The batches that are left of the epoch."""
        return iter(()) if self.at.batch == self.batches.count else self.batches.epoch(self.at.epoch, self.at.batch)

    def _report(self) -> None:
        if self.monitor.is_due(self.at, self.stepper.lr):
            self._require_finite()
            self._write({**self.monitor.line(self.at, self.stepper.lr), "memory/micro_batch": self.stepper.micro})

    def _validate(self) -> None:
        with self.watch.of(VALIDATION, is_whole=True):
            found = self._validated()
        self.monitor.scored(found, self.keeper.best, self.at)
        self._write({"val/miou": found.miou, **{f"val/iou/{name}": iou for name, iou in found.iou.items()}, **self.monitor.times()})

    def _validated(self) -> Scores:
        """Score the network on the val part, and keep it if it is the best; what both take is noted for the minutes that are left."""
        start, count = time.perf_counter(), len(self.task.card.classes)
        self.stepper.kept.eval()
        edge = piece_edge(self.stepper.card.tile_size, self.stepper.card.factor)
        matrices = tile_matrices(self._predict, self.task.store, self.task.val, count, self.stepper.predict_micro, "validating", edge)
        found = scores(matrices.sum(0), self.task.card.class_names)
        miou = -1.0 if found.miou is None else found.miou
        self.keeper.keep_model(self.stepper.kept.state_dict(), self._card(found))
        if miou > self.at.best_miou or self.at.best_epoch < 0:
            self.at = replace(self.at, best_miou=miou, best_epoch=self.at.epoch, since_best=0)
        else:
            self.at = replace(self.at, since_best=self.at.since_best + 1)
        self.at = replace(self.at, validation_s=time.perf_counter() - start)
        return found

    def _predict(self, images: np.ndarray) -> np.ndarray:
        self._do_as_asked()
        return self.stepper.predict(images)

    def _card(self, found: Scores) -> ModelCard:
        score = {**found.as_json(), "part": "val", "epoch": self.at.epoch + 1, "step": self.at.step}
        return self.stepper.card.model_copy(update={"scores": {"val": score}})

    def _write(self, values: dict[str, Any]) -> None:
        line = {"step": self.at.step, "epoch": self.at.epoch + 1, "time_s": round(self.at.elapsed_s, 2), **values}
        self.run_files.add(line)

    def _progress(self) -> float:
        """0 at the start of the run, 1 at its end, never falling; the minutes keep the time of a last validation in hand."""
        if self.settings.minutes is not None:
            step_s = self.at.elapsed_s / max(self.at.step, 1)
            # Before the first validation its time is guessed: predicting a tile takes a third of training on it. The first steps are slow,
            # so that the guess counts for half of the minutes at most: what is done of the run is never taken back.
            images, whole_s = self.settings.step_tiles, 60 * self.settings.minutes
            validation_s = self.at.validation_s or min(step_s * self._val_tiles / images / 3, whole_s / 2)
            return max(self.at.progress, self.at.elapsed_s / max(whole_s - validation_s, 1e-9))
        return self.at.step / (self.batches.count * (self.settings.epochs or 1))

    def _is_over(self) -> bool:
        if self.settings.patience is not None and self.at.since_best >= self.settings.patience:
            return True
        return self.at.best_epoch >= 0 and self.at.batch == 0 and self._progress() >= 1

    def _require_finite(self) -> None:
        """Stop before what is no number any more is validated, kept or saved.

        Raises:
            LandsegError: The loss since the last report, or a weight, is NaN or infinite.
        """
        mean = self.monitor.mean_loss()
        if np.isfinite(mean) and all(bool(torch.isfinite(parameter.detach().sum())) for parameter in self.stepper.model.parameters()):
            return
        advice = f"begin anew with a lower rate: --set train.lr={self.settings.lr / 10:g}"
        if any((self.run_files.folder / "state").glob("step-*")):
            advice += f"; the last good state is kept in {self.run_files.folder / 'state'}"
        raise LandsegError(f"epoch {self.at.epoch + 1}, step {self.at.step}", f"the loss is {mean}", "finite loss and weights", advice)

    def _save(self) -> bool:
        self._require_finite()
        self.saved_at_s, start = self.at.elapsed_s, time.perf_counter()
        self.run_files.sync()
        state = {
            "step": self.at.step,
            "position": asdict(self.at),
            "lines": self.run_files.lines,
            "loss": self.monitor.state(),
            **self.stepper.state_dict(),
        }
        with self.watch.of(SAVING, is_whole=True):
            is_saved = self.keeper.save_state(state)
        self.save_s = time.perf_counter() - start
        return is_saved

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.at = Position(**state["position"])
            self.stepper.load(state)
            self.monitor.restore(state["loss"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise misfit(self.run_files.folder / "state", error) from error
        self.run_files.cut_back(state["lines"])
        self.keeper.resumed(self.at.step)
        if self.keeper.epoch < 0 <= self.at.best_epoch:
            log.warning(
                "%s: the best model, mIoU %.4f, has gone; the next one that is validated is kept", self.run_files.folder, self.at.best_miou
            )
            if not self.at.batch:  # between two epochs: that is the one of the last epoch
                self.at = replace(self.at, epoch=self.at.epoch - 1, batch=self.batches.count)
        best = f"best mIoU {self.keeper.best:.4f}" if self.keeper.epoch >= 0 else "not validated yet"
        log.info("resumed at epoch %d, step %d, %s", self.at.epoch + 1, self.at.step, best)

    def _do_as_asked(self) -> None:
        """What signals asked for, between two steps or two batches of a validation, which changes nothing that is saved."""
        if self.interruption.is_asked:
            self._save()
            raise KeyboardInterrupt
        if self.interruption.is_save_asked:
            self.interruption.is_save_asked = False
            if self._save():
                log.info("state of step %d saved, as a signal asked", self.at.step)
