"""The training loop, on one page: position, epochs, validation, saving. What a step does is in `step`, what is said of it in `monitor`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch

from landseg.core.errors import LandsegError
from landseg.core.runs import Onlooker, Run
from landseg.core.settings import Recipe
from landseg.core.stopwatch import Stopwatch
from landseg.data.pack import TileStore
from landseg.inference.pieces import piece_edge
from landseg.network.build import Network
from landseg.network.card import ModelCard
from landseg.scoring.confusion import Scores, scores
from landseg.scoring.evaluate import tile_matrices
from landseg.training.batches import Batches
from landseg.training.interruption import Interruption, noted
from landseg.training.keeping import Bystander, Keeper
from landseg.training.monitor import Monitor
from landseg.training.pace import SAVING, STEP, VALIDATION, WAITING
from landseg.training.ranks import whole
from landseg.training.sampling import class_pixels
from landseg.training.soundness import ROLLBACKS, STREAK, Told, Unsound, tiles_in_words
from landseg.training.state import has_state, has_steps, load_state, misfit
from landseg.training.step import Stepper
from landseg.training.transfer import Batch

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


def train(network: Network, task: Task, run: Run | Onlooker, *, resume: bool) -> Position:
    """Train until the epochs, the minutes or the patience end, keeping the best model by validation mIoU.

    Args:
        network: Initialised; changed in place.
        task: Tiles and settings.
        run: An open run, of several processes in the first one; ``RUN/state`` and ``RUN/model`` are written.
        resume: Go on from the run's newest state.

    Returns:
        The last position; its `best_miou` is the kept model's.

    Raises:
        LandsegError: Loss, gradients or weights are no numbers, and `train.on_nan` knows no way on; a device is missing, or the disk
            refuses.
        KeyboardInterrupt: The user interrupted; the state was saved.
    """
    return Loop(network, task).run(run, resume=resume)


class Loop:
    """A run in motion. Making one checks device and settings and writes nothing; a benchmark may drive single steps.

    Raises:
        LandsegError: A device is missing, or a setting does not fit the task.
    """

    run_files: Run | Onlooker
    keeper: Keeper | Bystander

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
        self.ranks = self.stepper.ranks
        if not self.ranks.is_alone:
            self.batches.divide(self.ranks.own)
            self.ranks.require_tiles(self.batches.fewest)
            self.ranks.require_same("what is trained", card.model_dump_json(exclude={"mean", "std", "scaling"}))
            self.stepper.card = self.ranks.first(card)  # its statistics may differ in the last bit between kinds of processors
        self.batches.reside(recipe.data.residency, self.device)
        self.stepper.make_room = self.batches.leave_device
        entries = [task.store.entries[i] for i in task.val]
        self._val_tiles = sum(entry.height * entry.width for entry in entries) / (self.batches.shape[0] * self.batches.shape[1])
        self.at = Position()
        self.monitor = Monitor(recipe, task.store, self.device, self.batches.count, self.watch, lambda: self.batches.where)
        self.interruption = Interruption(is_shared=not self.ranks.is_alone)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.stepper.device

    def run(self, run: Run | Onlooker, *, resume: bool) -> Position:
        """Train to the end; see `train`."""
        self.run_files, self.keeper = run, Keeper(run, resume=resume) if isinstance(run, Run) else Bystander()
        self.batches.settle()  # before it is measured how many tiles fit in what is left
        if resume:
            self._restore(load_state(run.folder / "state"))
        elif self.settings.batch == "auto":
            self.stepper.choose_micro()
        self.saved_at_s, self.save_s = self.at.elapsed_s, 0.0
        self._began = time.perf_counter() - self.at.elapsed_s
        with noted(self.interruption), self.monitor.shown(run.folder, self.at):
            while not self._is_over():
                try:
                    self._epoch()
                    continue
                except Unsound as error:
                    told = error.told
                # Not within the handler: the error holds the epoch's reader, which ends when it goes.
                self._roll_back(told)
        if self.settings.patience is not None and self.at.since_best >= self.settings.patience:
            log.info("early stop: no better mIoU in %d validations", self.at.since_best)
        if self.stepper.average is not None and not self.stepper.average.n_averaged and self._is_over():
            log.warning("train.average=%g never began: the run ended before that share of it", self.settings.average)
        if self.settings.on_nan == "skip" and self.stepper.judge.skipped:
            log.warning("%d of %d steps were left out, as train.on_nan=skip says", self.stepper.judge.skipped, self.at.step)
        self._agree()
        if self.interruption.is_asked:
            raise KeyboardInterrupt
        self.keeper.end()
        return self.ranks.first(replace(self.at, best_miou=self.keeper.miou, best_epoch=self.keeper.epoch))

    def step(self, batch: Batch) -> None:
        """One step on one batch at the current position, which stays."""
        with self.watch.of(STEP):
            loss = self.stepper.step(batch, epoch=self.at.epoch, number=self.at.batch, progress=self._progress())
            self.monitor.stepped(loss, len(whole(batch)))

    def _epoch(self) -> None:
        """What is left of the epoch, its validation and its state."""
        if not self.ranks.first(has_state(self.run_files.folder / "state")):
            self._save()  # before the first step: a kill or a rollback has where to go back to, and a disk without room is told at once
        for batch in self.watch.each(WAITING, self._rest()):
            self.step(batch)
            if self.stepper.judge.is_at_once:
                self._heed()
            self.at = replace(self.at, batch=self.at.batch + 1, step=self.at.step + 1, elapsed_s=self._elapsed_s())
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
        self.at = replace(self.at, epoch=self.at.epoch + 1, batch=0, elapsed_s=self.ranks.first(self._elapsed_s()))
        if self._is_over() or SAVE_SHARE * (self.at.elapsed_s - self.saved_at_s) >= self.save_s:
            self._save()

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def _rest(self) -> Iterator[Batch]:
        """The batches that are left of the epoch."""
        return iter(()) if self.at.batch == self.batches.count else self.batches.epoch(self.at.epoch, self.at.batch)

    def _report(self) -> None:
        """Write a line where one is due. Several processes go by the first one's clock, and hear here what any of them was asked."""
        is_due = self.monitor.is_due(self.at, self.stepper.lr)
        (elapsed_s, progress, due), _ = self._agree(self.at.elapsed_s, self.at.progress, is_due)
        self.at = replace(self.at, elapsed_s=elapsed_s, progress=progress)
        if due:
            self._require_finite()
            counts = {"skip": {"train/skipped": self.stepper.judge.skipped}, "rollback": {"train/rollbacks": self.stepper.judge.rollbacks}}
            values = {**self.monitor.line(self.at, self.stepper.lr), **counts.get(self.settings.on_nan, {})}
            self._write({**values, "memory/micro_batch": self.stepper.micro})

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
        own = self.ranks.spread(self.task.val)
        matrices = tile_matrices(self._predict, self.task.store, own, count, self.stepper.predict_micro, "validating", edge)
        while not self.ranks.is_alone and self._agree()[1]:
            self._do_as_asked()  # with those that still have tiles
        found = scores(self.ranks.added(matrices.sum(0)), self.task.card.class_names)
        miou = -1.0 if found.miou is None else found.miou
        self.keeper.keep_model(self.stepper.kept.state_dict(), self._card(found))
        if miou > self.at.best_miou or self.at.best_epoch < 0:
            self.at = replace(self.at, best_miou=miou, best_epoch=self.at.epoch, since_best=0)
        else:
            self.at = replace(self.at, since_best=self.at.since_best + 1)
        self.at = replace(self.at, validation_s=self.ranks.first(time.perf_counter() - start))
        return found

    def _predict(self, images: np.ndarray) -> np.ndarray:
        self._agree(is_busy=True)
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

    def _heed(self) -> None:
        """Do as `train.on_nan` says about steps that were unsound since this was asked last; on a GPU, asking waits for it.

        Raises:
            LandsegError: The run shall stop, or too many steps in a row were left out.
            Unsound: The run shall go back.
        """
        found = self.stepper.judge.unsound()
        if not found:
            return
        self.monitor.left_out(len(found))
        worst = max(found, key=lambda told: told.in_a_row)
        if self.settings.on_nan != "skip" or worst.in_a_row >= STREAK:
            self._give_up(worst if self.settings.on_nan == "skip" else found[0])
        if self.stepper.judge.skipped == len(found):
            where, tiles = self._place_of(found[0])
            log.warning(
                "%s: %s (%s), so the step is left out, as train.on_nan=skip says; further ones are counted in metrics.jsonl, train/skipped",
                *(where, found[0].found, tiles),
            )

    def _require_finite(self) -> None:
        """Stop, or go back, before what is no number any more is validated, kept or saved.

        Raises:
            LandsegError: A loss, a gradient or a weight is NaN or infinite.
            Unsound: The same where the run shall go back.
        """
        self._heed()
        if not self.stepper.judge.are_finite():
            at = self.at.epoch, self.at.batch - 1
            found = "weights are no numbers any more, though loss and gradients were"
            self._give_up(Told(*at, found if self.at.step else "the first weights are no numbers", np.zeros(0, np.uint64)))

    def _give_up(self, told: Told) -> NoReturn:
        if self.settings.on_nan == "rollback":
            raise Unsound(told)
        raise self._error(told)

    def _place_of(self, told: Told) -> tuple[str, str]:
        """``epoch 2, step 17``, and the tiles of that step."""
        tiles = self.batches.tiles(told.epoch, told.keys) if len(told.keys) else []
        return f"epoch {told.epoch + 1}, step {told.epoch * self.batches.count + told.number + 1}", tiles_in_words(tiles) if tiles else ""

    def _error(self, told: Told) -> LandsegError:
        where, tiles = self._place_of(told)
        found = f"{told.found}{f' ({tiles})' if tiles else ''}"
        lower = f"begin anew with a lower rate, --set train.lr={self.settings.lr / 10:g}"
        states, policy, needed = self.run_files.folder / "state", self.settings.on_nan, "finite loss, gradients and weights"
        if policy == "skip" and told.in_a_row >= STREAK:
            found = f"{told.in_a_row} steps in a row are left out; in the last one, {found}"
        if policy == "rollback":
            rollbacks = self.stepper.judge.rollbacks
            return LandsegError(
                where, f"{found}, {f'after {rollbacks} rollbacks' if rollbacks else 'and no state to go back to'}", needed, lower
            )
        if not has_steps(states):
            return LandsegError(where, found, needed, f"{lower}, or with train.on_nan=skip or rollback")
        kept = f"the last good state is kept in {states}: go on from it by --resume --set train.on_nan=rollback (or skip)"
        return LandsegError(where, found, needed, f"{kept}, or {lower} --overwrite")

    def _roll_back(self, told: Told) -> None:
        """Go back to the last state and go on from there at half the rate; to the state before it where the last one led here again.

        Raises:
            LandsegError: There is no state, or the run went back too often.
        """
        judge, states, elapsed_s = self.stepper.judge, self.run_files.folder / "state", self.ranks.first(self._elapsed_s())
        if judge.rollbacks == ROLLBACKS or not has_state(states):
            raise self._error(told)
        rollbacks, state = judge.rollbacks + 1, load_state(states)
        if state["step"] == judge.back_to and has_state(states, before=judge.back_to):
            state = load_state(states, before=judge.back_to)
        self._take_over(state)
        judge.rollbacks, judge.back_to = rollbacks, self.at.step
        self.at = replace(self.at, elapsed_s=elapsed_s)  # which is gone, whatever it was spent on
        self.monitor.went_back(self.run_files.folder)
        where, tiles = self._place_of(told)
        log.warning(
            "%s: %s%s; back to the state of step %d, at %g of the learning rate (rollback %d of %d)",
            *(where, told.found, f" ({tiles})" if tiles else "", self.at.step, judge.rate, rollbacks, ROLLBACKS),
        )
        self._save()  # so that a run that is killed keeps the rate

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
        is_saved, self.save_s = self.ranks.first((is_saved, time.perf_counter() - start))
        return is_saved

    def _restore(self, state: dict[str, Any]) -> None:
        self._take_over(state)
        best = f"best mIoU {self.keeper.best:.4f}" if self.keeper.epoch >= 0 else "not validated yet"
        log.info("resumed at epoch %d, step %d, %s", self.at.epoch + 1, self.at.step, best)

    def _take_over(self, state: dict[str, Any]) -> None:
        """Be where a state was, metrics included."""
        try:
            self.at = Position(**state["position"])
            self.stepper.load(state)
            self.monitor.restore(state["loss"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise misfit(self.run_files.folder / "state", error) from error
        self.run_files.cut_back(state["lines"])
        self.keeper.resumed(self.at.step)
        self.ranks.require_same("state", self.at.step)
        if self.ranks.first(self.keeper.epoch) < 0 <= self.at.best_epoch:
            log.warning(
                "%s: the best model, mIoU %.4f, has gone; the next one that is validated is kept", self.run_files.folder, self.at.best_miou
            )
            if not self.at.batch:  # between two epochs: that is the one of the last epoch
                self.at = replace(self.at, epoch=self.at.epoch - 1, batch=self.batches.count)

    def _agree(self, *firsts: float, is_busy: bool = False) -> tuple[list[float], bool]:
        """Of several processes, the first one's numbers, and whether any is busy; all take note of what any was asked."""
        numbers, (stop, save, is_anybody) = self.ranks.agreed(firsts, (*self.interruption.own(), is_busy))
        self.interruption.hear(stop=stop, save=save)
        return numbers, is_anybody

    def _do_as_asked(self) -> None:
        """What signals asked for, between two steps or two batches of a validation, which changes nothing that is saved."""
        if self.interruption.is_asked:
            self._save()
            raise KeyboardInterrupt
        if self.interruption.is_save_asked:
            self.interruption.is_save_asked = False
            if self._save():
                log.info("state of step %d saved, as a signal asked", self.at.step)
