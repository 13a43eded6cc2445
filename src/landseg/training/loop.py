"""The training loop, on one page; the only room that knows Fabric. What a step draws, lowers and keeps is decided elsewhere."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from landseg.core.classes import IGNORE_INDEX
from landseg.core.config import Recipe, TrainConfig
from landseg.core.errors import LandsegError
from landseg.core.progress import clock
from landseg.core.runs import Run
from landseg.data.pack import TileStore
from landseg.inference.pieces import piece_edge
from landseg.network.build import Network
from landseg.network.checkpoint import ModelCard, has_model, load_card, save_model
from landseg.network.engine import choose_device, fit, fitted_shape, full_size_logits, pad, to_tensor
from landseg.network.loss import make_loss
from landseg.scoring.confusion import Scores, scores
from landseg.scoring.evaluate import tile_matrices
from landseg.training.augment import augment
from landseg.training.batches import Batch, Batches
from landseg.training.draws import step_seed
from landseg.training.optimiser import lr_factor, make_optimiser, moving_average
from landseg.training.state import load_state, save_state

log = logging.getLogger("landseg")

LOG_EVERY_S = 10.0
SAVE_SHARE = 0.05
"""Of the time that saving the state at the end of each epoch may take; where epochs are shorter, some are not saved."""

METRICS_EVERY = 50
"""Steps between two training lines of `metrics.jsonl`; the end of an epoch writes one too."""


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
    """Where a run is: the batch to do next and what has been reached. `batch` equal to the epoch's count means: validate next."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    validation_s: float = 0.0
    best_miou: float = -1.0
    best_epoch: int = -1
    since_best: int = 0


@dataclass
class _Pace:
    """Counts since the last log line, and the loss on its device: reading it would make the loop wait."""

    loss: Tensor
    steps: int = 0
    images: int = 0
    since: float = field(default_factory=time.perf_counter)


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

    def __init__(self, network: Network, task: Task) -> None:
        settings = task.recipe.train
        device = choose_device(settings.device, "train.device")
        precision = _precision(settings, device)
        self.fabric = Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1, precision=precision)
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")
        self.task, self.settings = task, settings
        self.network = network.to(memory_format=torch.channels_last)
        self.optimiser = make_optimiser(self.network, settings)
        stepped: nn.Module = torch.compile(self.network) if settings.compile else self.network  # type: ignore[assignment]
        self.stepped, self.fabric_optimiser = self.fabric.setup(stepped, self.optimiser)
        self.loss = make_loss(task.recipe.loss, len(task.card.classes)).to(self.fabric.device)
        self.average = moving_average(self.network, settings.ema) if settings.ema else None
        self.batches = Batches(task.store, task.train, settings.batch, settings.seed, task.recipe.data.workers, settings.crop)
        # What the model will say of itself: its network works at `size` pixels for the longer edge of what it was trained on.
        self.card = task.card.model_copy(update={"tile_size": self.batches.shape, "size": settings.size})
        entries = [task.store.entries[i] for i in task.val]
        self._val_tiles = sum(entry.height * entry.width for entry in entries) / (self.batches.shape[0] * self.batches.shape[1])
        self.at = Position()
        self.pace = self._new_pace()
        self.is_interrupted = False

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the average where there is one."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.fabric.device

    def run(self, run: Run, *, resume: bool) -> Position:
        """Train to the end; see `train`."""
        self.run_files = run
        if resume:
            self._restore(load_state(run.folder / "state"))
        self.saved_at_s, self.save_s = self.at.elapsed_s, 0.0
        began = time.perf_counter() - self.at.elapsed_s
        with _interruptible(self):
            while not self._is_over():
                for batch in self.batches.epoch(self.at.epoch, self.at.batch) if self.at.batch < self.batches.count else ():
                    self.step(batch)
                    self.at = replace(self.at, batch=self.at.batch + 1, step=self.at.step + 1, elapsed_s=time.perf_counter() - began)
                    self._report()
                    self._stop_if_interrupted()
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
        if self.is_interrupted:
            raise KeyboardInterrupt
        return self.at

    def step(self, batch: Batch) -> None:
        """One step on one batch at the current position, which stays."""
        at, settings = self.at, self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * lr_factor(self._progress(), settings.schedule, settings.warmup)
        torch.manual_seed(step_seed(settings.seed, at.epoch, at.batch))
        images, labels = to_tensor(batch.images, self.fabric.device), torch.from_numpy(batch.labels).to(self.fabric.device)
        images, labels = _sized(images, labels, self.card.factor)
        images, labels = augment(images, labels, self.task.recipe.augment, seed=settings.seed, epoch=at.epoch, keys=batch.keys)
        self.stepped.train()
        loss = self.loss(self.stepped(images), labels)
        self.fabric.backward(loss)
        if settings.clip is not None:
            self.fabric.clip_gradients(self.stepped, self.fabric_optimiser, max_norm=settings.clip)
        self.fabric_optimiser.step()
        self.fabric_optimiser.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.pace.loss += loss.detach()
        self.pace.steps += 1
        self.pace.images += len(batch.keys)

    def _report(self) -> None:
        at = self.at
        is_metric = at.step % METRICS_EVERY == 0 or at.batch == self.batches.count
        is_logged = time.perf_counter() - self.pace.since >= LOG_EVERY_S
        if not (is_metric or is_logged):
            return
        self._require_finite()
        mean = float(self.pace.loss) / self.pace.steps
        pace = self.pace.images / (time.perf_counter() - self.pace.since)
        lr = self.optimiser.param_groups[0]["lr"]
        if is_logged:
            total = f"/{self.settings.epochs}" if self.settings.minutes is None else ""
            left = clock(at.elapsed_s / max(self._progress(), 1e-9) * (1 - self._progress()))
            log.info("epoch %d%s  step %d  loss %.4f  lr %.2g  %.1f images/s  %s left", at.epoch + 1, total, at.step, mean, lr, pace, left)
        self._write({"train/loss": mean, "train/lr": lr, "speed/images_per_s": pace})
        self.pace = self._new_pace()

    def _new_pace(self) -> _Pace:
        return _Pace(torch.zeros((), device=self.fabric.device))

    def _validate(self) -> None:
        start, count = time.perf_counter(), len(self.task.card.classes)
        self.kept.eval()
        edge = piece_edge(self.card.tile_size, self.card.factor)
        matrices = tile_matrices(self._predict, self.task.store, self.task.val, count, self.settings.batch, "validating", edge)
        found = scores(matrices.sum(0), self.task.card.class_names)
        miou = -1.0 if found.miou is None else found.miou
        if miou > self.at.best_miou or self.at.best_epoch < 0:
            save_model(self.run_files.folder / "model", self.kept.state_dict(), self._card(found))
            self.at = replace(self.at, best_miou=miou, best_epoch=self.at.epoch, since_best=0)
        else:
            # The epoch of the kept model done again, after a kill between keeping it and saving the state.
            is_again = miou == self.at.best_miou and self.at.epoch == self.at.best_epoch
            self.at = replace(self.at, since_best=0 if is_again else self.at.since_best + 1)
        by_class = "  ".join(f"{name} {'–' if iou is None else f'{iou:.3f}'}" for name, iou in found.iou.items())
        log.info("epoch %d  val mIoU %.4f (best %.4f)  %s", self.at.epoch + 1, miou, self.at.best_miou, by_class)
        self._write({"val/miou": found.miou, **{f"val/iou/{name}": iou for name, iou in found.iou.items()}})
        self.at = replace(self.at, validation_s=time.perf_counter() - start)
        self.pace.since += self.at.validation_s

    def _predict(self, images: np.ndarray) -> np.ndarray:
        self._stop_if_interrupted()
        # In full precision, as `landseg evaluate` does: with eight bits classes tie, and the two scores would differ.
        with torch.inference_mode():
            logits = full_size_logits(self.kept, to_tensor(images, self.fabric.device), self.card.factor)
            return logits.argmax(1).to(torch.uint8).cpu().numpy()

    def _card(self, found: Scores) -> ModelCard:
        score = {**found.as_json(), "part": "val", "epoch": self.at.epoch + 1, "step": self.at.step}
        return self.card.model_copy(update={"scores": {"val": score}})

    def _write(self, values: dict[str, Any]) -> None:
        line = {"step": self.at.step, "epoch": self.at.epoch + 1, "time_s": round(self.at.elapsed_s, 2), **values}
        if self.fabric.device.type == "cuda":
            line["memory/device_mb"] = round(torch.cuda.max_memory_allocated(self.fabric.device) / 1e6)
        self.run_files.add(line)

    def _progress(self) -> float:
        """0 at the start of the run, 1 at its end; the minutes keep the time of a last validation in hand."""
        if self.settings.minutes is not None:
            step_s = self.at.elapsed_s / max(self.at.step, 1)
            # Before the first validation its time is guessed: predicting a tile takes a third of training on it.
            validation_s = self.at.validation_s or step_s * self._val_tiles / self.settings.batch / 3
            return self.at.elapsed_s / max(60 * self.settings.minutes - validation_s, 1e-9)
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
        mean = float(self.pace.loss) / max(self.pace.steps, 1)
        if np.isfinite(mean) and all(bool(torch.isfinite(parameter.detach().sum())) for parameter in self.network.parameters()):
            return
        advice = f"begin anew with a lower rate: --set train.lr={self.settings.lr / 10:g}"
        if any((self.run_files.folder / "state").glob("step-*")):
            advice += f"; the last good state is kept in {self.run_files.folder / 'state'}"
        raise LandsegError(f"epoch {self.at.epoch + 1}, step {self.at.step}", f"the loss is {mean}", "finite loss and weights", advice)

    def _save(self) -> None:
        self._require_finite()
        self.saved_at_s, start = self.at.elapsed_s, time.perf_counter()
        average = {} if self.average is None else {"average": self.average.state_dict()}
        position = {name: getattr(self.at, name) for name in self.at.__dataclass_fields__}
        state = {
            "step": self.at.step,
            "position": position,
            "lines": self.run_files.lines,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            **average,
        }
        save_state(self.run_files.folder / "state", state)
        self.save_s = time.perf_counter() - start

    def _restore(self, state: dict[str, Any]) -> None:
        self.at = Position(**state["position"])
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.run_files.cut_back(state["lines"])
        if has_model(self.run_files.folder / "model"):
            # The model may be newer than the state, and is never given up for a lesser one.
            kept = load_card(self.run_files.folder / "model").scores["val"]
            if kept["miou"] is not None and kept["miou"] > self.at.best_miou:
                self.at = replace(self.at, best_miou=kept["miou"], best_epoch=kept["epoch"] - 1)
        best = f"best mIoU {self.at.best_miou:.4f}" if self.at.best_epoch >= 0 else "not validated yet"
        log.info("resumed at epoch %d, step %d, %s", self.at.epoch + 1, self.at.step, best)

    def _stop_if_interrupted(self) -> None:
        if self.is_interrupted:
            self._save()
            raise KeyboardInterrupt


def _sized(images: Tensor, labels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """A batch at the size the network trains at, filled up to its stride; labels keep their ids."""
    height, width = fitted_shape(images.shape[-2], images.shape[-1], factor)
    if (height, width) != tuple(labels.shape[-2:]):
        images = fit(images, factor)
        labels = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0].to(torch.uint8)
    images = pad(images)
    return images, F.pad(labels, (0, images.shape[-1] - width, 0, images.shape[-2] - height), value=IGNORE_INDEX)


def _precision(settings: TrainConfig, device: torch.device) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bf16-mixed"
    if settings.precision == "bf16":
        return "bf16-mixed"
    return "16-mixed" if settings.precision == "16" else "32-true"


@contextmanager
def _interruptible(loop: Loop) -> Iterator[None]:
    """SIGINT and SIGTERM let the step end and the state be saved; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: object) -> None:
        if loop.is_interrupted:
            raise KeyboardInterrupt
        loop.is_interrupted = True
        log.info("stopping after this step; the state will be saved")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
