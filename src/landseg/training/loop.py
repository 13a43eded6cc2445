"""The training loop, on one page; the only room that knows Fabric. What a step draws, lowers and keeps is decided elsewhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from landseg.core.allocation import keep_memory
from landseg.core.errors import LandsegError
from landseg.core.progress import clock
from landseg.core.runs import Run
from landseg.core.settings import Recipe, TrainConfig
from landseg.data.pack import TileStore
from landseg.inference.pieces import piece_edge
from landseg.network.auxiliary import Supervised
from landseg.network.build import Network
from landseg.network.checkpoint import ModelCard, has_model, load_card, save_model
from landseg.network.engine import choose_device, full_size_logits, to_tensor
from landseg.network.loss import make_loss
from landseg.network.stages import parameter_stages
from landseg.scoring.confusion import Scores, scores
from landseg.scoring.evaluate import tile_matrices
from landseg.training.augment import Bands, augment
from landseg.training.averages import make_average
from landseg.training.batches import Batch, Batches
from landseg.training.draws import step_seed
from landseg.training.interruption import Interruption, noted
from landseg.training.optimiser import make_optimiser, restore, set_rates
from landseg.training.sampling import class_pixels
from landseg.training.sizing import sized
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
        recipe, settings = task.recipe, task.recipe.train
        device = choose_device(settings.device, "train.device")
        if device.type == "cpu":
            keep_memory()
        precision = _precision(settings, device)
        self.fabric = Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1, precision=precision)
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")
        self.task, self.settings = task, settings
        # What the model will say of itself: its network works at `size` pixels for the longer edge of what it was trained on.
        self.batches = Batches(
            task.store, task.train, settings.batch, settings.seed, recipe.data.workers, settings.crop, recipe.sample, recipe.augment
        )
        self.card = task.card.model_copy(update={"tile_size": self.batches.shape, "size": settings.size})
        self.network = network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Before the second head hooks itself in: a copy of the network is of the network alone.
        self.average = make_average(self.network, settings)
        self.model = Supervised(self.network, len(task.card.classes)) if recipe.loss.auxiliary else self.network
        is_staged = settings.encoder_lr != 1 or settings.layer_decay != 1
        self.optimiser = make_optimiser(self.model, settings, parameter_stages(self.network) if is_staged else None)
        self._encoder_parameters = [parameter for parameter in self.network.encoder.parameters() if parameter.requires_grad]
        stepped: nn.Module = torch.compile(self.model) if settings.compile else self.model  # type: ignore[assignment]
        self.stepped, self.fabric_optimiser = self.fabric.setup(stepped, self.optimiser)
        pixels = class_pixels(task.store.entries, task.train)
        self.loss = make_loss(recipe.loss, len(task.card.classes), pixels).to(self.fabric.device)
        # Batches whose gradients make one step: of an epoch's steps, each has as many as any other, or one fewer.
        steps = math.ceil(self.batches.count / settings.accumulate)
        self.borders = [i * self.batches.count // steps for i in range(steps + 1)]
        entries = [task.store.entries[i] for i in task.val]
        self._val_tiles = sum(entry.height * entry.width for entry in entries) / (self.batches.shape[0] * self.batches.shape[1])
        self.at = Position()
        self.lr = settings.lr
        self.pace = self._new_pace()
        self.interruption = Interruption()

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the average where one has begun."""
        return self.network if self.average is None or not self.average.n_averaged else self.average.module  # type: ignore[return-value]

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
        with noted(self.interruption):
            while not self._is_over():
                for batches, count in self._groups():
                    self.step(batches, count)
                    self.at = replace(self.at, batch=self.at.batch + count, step=self.at.step + 1, elapsed_s=time.perf_counter() - began)
                    self.at = replace(self.at, progress=self._progress())
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
        if self.average is not None and not self.average.n_averaged and self._is_over():
            log.warning("train.average=%g never began: the run ended before that share of it", self.settings.average)
        if self.interruption.is_asked:
            raise KeyboardInterrupt
        return self.at

    def step(self, batches: Iterable[Batch], count: int = 1) -> None:
        """One step at the current position, which stays: on one batch, or on several whose gradients are averaged.

        It is the step on one large batch, but that batch normalisation sees each batch by itself, and that the loss is the plain mean of
        the batches' losses, however many labelled pixels each has.

        Args:
            batches: From the position on; as many as `count`, read one by one.
            count: How many.
        """
        settings, progress = self.settings, self._progress()
        self.lr = set_rates(self.optimiser, settings, progress)
        self.stepped.train()
        self._freeze(progress)
        for number, batch in enumerate(batches, self.at.batch):
            torch.manual_seed(step_seed(settings.seed, self.at.epoch, number))
            loss = self._loss(batch) / count
            self.fabric.backward(loss)
            self.pace.loss += loss.detach()
            self.pace.images += len(batch.keys)
        if settings.clip is not None:
            self.fabric.clip_gradients(self.stepped, self.fabric_optimiser, max_norm=settings.clip)
        self.fabric_optimiser.step()
        self.fabric_optimiser.zero_grad()
        # The margin: 1 - 0.1 is a little more than 0.9.
        if self.average is not None and progress >= 1 - (settings.average or 1.0) - 1e-9:
            self.average.update_parameters(self.network)
        self.pace.steps += 1

    def _groups(self) -> Iterator[tuple[Iterator[Batch], int]]:
        """What is left of the epoch, step by step: batches and their number."""
        done = self.at.batch
        if done < self.batches.count:
            batches = iter(self.batches.epoch(self.at.epoch, done))
            for first, last in pairwise(self.borders):
                if first >= done:
                    yield islice(batches, last - first), last - first

    def _loss(self, batch: Batch) -> Tensor:
        recipe, at = self.task.recipe, self.at
        images, labels = to_tensor(batch.images, self.fabric.device), torch.from_numpy(batch.labels).to(self.fabric.device)
        images, labels = sized(images, labels, self.card.factor)
        bands = Bands.of(self.card.normalisation, self.task.store.dtype, self.card.bands)
        images, labels = augment(images, labels, recipe.augment, bands, seed=recipe.train.seed, epoch=at.epoch, keys=batch.keys)
        result = self.stepped(images)
        if isinstance(result, tuple):
            return self.loss(result[0], labels) + recipe.loss.auxiliary * self.loss(result[1], labels)  # type: ignore[no-any-return]
        return self.loss(result, labels)  # type: ignore[no-any-return]

    def _freeze(self, progress: float) -> None:
        """Hold the encoder, weights and statistics, for the share of the run that `train.freeze` says, and let it go after that."""
        share = self.settings.freeze
        if not share:
            return
        is_frozen = share == 1 or progress < share
        for parameter in self._encoder_parameters:
            parameter.requires_grad_(not is_frozen)
        if is_frozen:
            self.network.encoder.eval()

    def _report(self) -> None:
        at = self.at
        is_metric = at.step % METRICS_EVERY == 0 or at.batch == self.batches.count
        is_logged = time.perf_counter() - self.pace.since >= LOG_EVERY_S
        if not (is_metric or is_logged):
            return
        self._require_finite()
        mean = float(self.pace.loss) / self.pace.steps
        pace = self.pace.images / (time.perf_counter() - self.pace.since)
        if is_logged:
            total = f"/{self.settings.epochs}" if self.settings.minutes is None else ""
            left = clock(at.elapsed_s / max(self._progress(), 1e-9) * (1 - self._progress()))
            numbers = at.epoch + 1, total, at.step, mean, self.lr, pace, left
            log.info("epoch %d%s  step %d  loss %.4f  lr %.2g  %.1f images/s  %s left", *numbers)
        self._write({"train/loss": mean, "train/lr": self.lr, "speed/images_per_s": pace})
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
        """0 at the start of the run, 1 at its end, never falling; the minutes keep the time of a last validation in hand."""
        if self.settings.minutes is not None:
            step_s = self.at.elapsed_s / max(self.at.step, 1)
            # Before the first validation its time is guessed: predicting a tile takes a third of training on it. The first steps are slow,
            # so that the guess counts for half of the minutes at most: what is done of the run is never taken back.
            images, whole_s = self.settings.batch * self.settings.accumulate, 60 * self.settings.minutes
            validation_s = self.at.validation_s or min(step_s * self._val_tiles / images / 3, whole_s / 2)
            return max(self.at.progress, self.at.elapsed_s / max(whole_s - validation_s, 1e-9))
        return self.at.step / ((len(self.borders) - 1) * (self.settings.epochs or 1))

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
        if np.isfinite(mean) and all(bool(torch.isfinite(parameter.detach().sum())) for parameter in self.model.parameters()):
            return
        advice = f"begin anew with a lower rate: --set train.lr={self.settings.lr / 10:g}"
        if any((self.run_files.folder / "state").glob("step-*")):
            advice += f"; the last good state is kept in {self.run_files.folder / 'state'}"
        raise LandsegError(f"epoch {self.at.epoch + 1}, step {self.at.step}", f"the loss is {mean}", "finite loss and weights", advice)

    def _save(self) -> None:
        self._require_finite()
        self.saved_at_s, start = self.at.elapsed_s, time.perf_counter()
        more = {} if self.average is None else {"average": self.average.state_dict()}
        if isinstance(self.model, Supervised):
            more["second_head"] = self.model.head.state_dict()
        state = {
            "step": self.at.step,
            "position": asdict(self.at),
            "lines": self.run_files.lines,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "normalisation": asdict(self.card.normalisation),
            **more,
        }
        save_state(self.run_files.folder / "state", state)
        self.save_s = time.perf_counter() - start

    def _restore(self, state: dict[str, Any]) -> None:
        self.at = Position(**state["position"])
        self.network.load_state_dict(state["network"])
        restore(self.optimiser, state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if isinstance(self.model, Supervised):
            self.model.head.load_state_dict(state["second_head"])
        # The run's own, whatever has become of the model that it began from.
        self.card = self.card.model_copy(update=state.get("normalisation", {}))
        self.run_files.cut_back(state["lines"])
        if has_model(self.run_files.folder / "model"):
            # The model may be newer than the state, and is never given up for a lesser one.
            kept = load_card(self.run_files.folder / "model").scores["val"]
            if kept["miou"] is not None and kept["miou"] > self.at.best_miou:
                self.at = replace(self.at, best_miou=kept["miou"], best_epoch=kept["epoch"] - 1)
        best = f"best mIoU {self.at.best_miou:.4f}" if self.at.best_epoch >= 0 else "not validated yet"
        log.info("resumed at epoch %d, step %d, %s", self.at.epoch + 1, self.at.step, best)

    def _stop_if_interrupted(self) -> None:
        if self.interruption.is_asked:
            self._save()
            raise KeyboardInterrupt


def _precision(settings: TrainConfig, device: torch.device) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bf16-mixed"
    if settings.precision == "bf16":
        return "bf16-mixed"
    return "16-mixed" if settings.precision == "16" else "32-true"
