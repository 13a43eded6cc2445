"""One step of training on one batch, and prediction for validation; with `ranks` the only room that knows Fabric. It decides no order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from landseg.core.allocation import keep_memory
from landseg.core.processes import here
from landseg.core.settings import Recipe, TrainConfig
from landseg.network.auxiliary import Supervised
from landseg.network.build import Network
from landseg.network.card import ModelCard
from landseg.network.loss import make_loss
from landseg.network.stages import parameter_stages
from landseg.network.torch_engine import choose_device, full_size_logits, has_bf16_units, to_tensor
from landseg.training.augment import Bands, augment
from landseg.training.averages import make_average
from landseg.training.compiling import compiled
from landseg.training.copies import Copies
from landseg.training.draws import step_seed
from landseg.training.memory import (
    Measured,
    Probe,
    choose_micro,
    first_line,
    free_bytes,
    halved,
    is_out_of_memory,
    no_room,
    normalises_single_values,
    rehearse,
    release,
)
from landseg.training.optimiser import can_fuse, left_out_where, make_optimiser, restore, set_rates, spoil_where
from landseg.training.ranks import Ranks, Trouble, whole
from landseg.training.sizing import sized
from landseg.training.soundness import Judge
from landseg.training.transfer import Arrays, Batch

log = logging.getLogger("landseg")


class Stepper:
    """A network with all that changes it: optimiser, average, second head.

    A batch is cut into micro-batches whose gradients are added up, each by its share of the tiles. That is the step on the whole batch,
    but that batch normalisation sees each micro-batch by itself, and that the loss is the mean of theirs, however many labelled pixels
    each has. Where memory runs out, the step is undone, the micro-batch halved and the step repeated with the same tiles and draws; where
    the network cannot be compiled, the step is repeated without. Where loss or gradients are no numbers, its update is left out. Of
    several processes each takes a share of the batch, of which the same holds as of micro-batches, and does what befalls any of them.

    Args:
        network: Initialised; changed in place.
        recipe: What to lower and how.
        card: What the model will say of itself; its `tile_size` is the shape that is trained on.
        class_pixels: Labelled pixels a class of the train part.

    Attributes:
        ranks: The processes that share the run.
        judge: Knows of the steps that were left out, and how often the run went back to half the rate.
        micro: Tiles that the network sees at once in a step; it may be set between steps.
        predict_micro: The same in validation.
        make_room: Asked before either is halved: frees memory of the device that no step needs, and says whether there was any.
        lr: Highest learning rate of the last step.

    Raises:
        LandsegError: A device is missing, or a setting does not fit.
    """

    def __init__(self, network: Network, recipe: Recipe, card: ModelCard, class_pixels: Sequence[int] | None) -> None:
        settings = recipe.train
        device = choose_device(settings.device, "train.device")
        if device.type == "cpu":
            keep_memory()
        precision = _precision(settings, device)
        self.ranks = Ranks(settings, device)
        self.fabric = Fabric(accelerator=device.type, precision=precision, **self.ranks.asked())
        self.ranks.join(self.fabric)
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")
        self.recipe, self.settings, self.card = recipe, settings, card
        network = network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Network = self.ranks.synchronised(network)  # type: ignore[assignment]
        # Before the second head hooks itself in: a copy of the network is of the network alone.
        self.average = make_average(self.network, settings)
        self.model = Supervised(self.network, len(card.classes)) if recipe.loss.auxiliary else self.network
        self.ranks.alike(self.model)
        # Not by the precision that was asked for: on a CPU, Fabric takes bf16 in place of 16 bits.
        self.judge = Judge(self.model, device, is_scaled=getattr(self.fabric.strategy.precision, "scaler", None) is not None)
        is_staged = settings.encoder_lr != 1 or settings.layer_decay != 1
        is_fused = can_fuse(settings, device, is_scaled=self.judge.is_scaled)
        self.optimiser = make_optimiser(self.model, settings, parameter_stages(self.network) if is_staged else None, is_fused=is_fused)
        self._encoder_parameters = [parameter for parameter in self.network.encoder.parameters() if parameter.requires_grad]
        stepped = compiled(self.model) if settings.compile else self.model
        self.is_compiled = stepped is not self.model
        self.stepped, self.fabric_optimiser = self.fabric.setup(stepped, self.optimiser)
        self.loss = make_loss(recipe.loss, len(card.classes), class_pixels).to(self.fabric.device)
        self.lr = settings.lr
        at_once = settings.step_tiles if settings.batch == "auto" else settings.batch
        # Two at least, as `Batches` has it: a single tile makes no variance for batch normalisation.
        self.micro, self.predict_micro = max(2, at_once), at_once
        self.make_room: Callable[[], bool] = lambda: False
        self._statistics = Copies(list(self.model.buffers()))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.fabric.device

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the average where one has begun."""
        return self.network if self.average is None or not self.average.n_averaged else self.average.module  # type: ignore[return-value]

    def step(self, batch: Batch, *, epoch: int, number: int, progress: float) -> Tensor:
        """Take one step of the optimiser.

        Args:
            batch: All that the step sees.
            epoch: From 0; with the tiles' keys it decides what is drawn.
            number: Of the batch in its epoch, from 0; decides what the network itself draws.
            progress: Share of the run that is done; decides rates, freezing and averaging.

        Returns:
            The loss, a scalar on its device: reading it would make the loop wait. It is 0 where the step was left out.

        Raises:
            LandsegError: Not even the smallest micro-batch fits in the memory.
        """
        self.lr = set_rates(self.optimiser, self.settings, progress, self.judge.rate)
        self._statistics.take()
        batch = self.ranks.share(batch)
        first, keys = self.micro, whole(batch)
        while True:
            try:
                loss = self._gradients(batch, epoch, number, progress)
                rehearse(self.optimiser)
                loss = self.ranks.summed(loss, self.model, len(batch.keys) / len(keys))
                is_bad = self.judge.judged(loss, keys, epoch, number)
                break
            except (RuntimeError, MemoryError) as error:
                trouble, found = self.ranks.trouble(error, is_compiled=self.is_compiled), first_line(error)
            # Not within the handler: the error holds the frames of the step, and they its tensors.
            self._undo()
            trouble = self.ranks.worst(trouble)
            if trouble == Trouble.UNCOMPILABLE:
                self._do_without_compiling(found)
            elif not any(self.ranks.each(self.make_room())):
                self._shrink(batch, found)
        if self.micro < first:
            log.warning(
                "out of memory at %d tiles at once (%s); from here on %d at once, and a step still sees %d: this one was repeated",
                *(min(first, self.ranks.most(len(keys))), found, self.micro, len(keys)),
            )
        return self._settled(loss, is_bad, progress)

    def choose_micro(self) -> None:
        """Measure how many tiles the network can see at once, by steps on random pixels that leave no trace, and say so."""
        batch, device = self.ranks.most(self.settings.step_tiles), self.device
        release(device)
        states = {"adamw": 2, "sgd": int(self.settings.momentum > 0)}[self.settings.optimiser]
        coming = [parameter for parameter in self.model.parameters() if parameter.requires_grad and not self.optimiser.state.get(parameter)]
        rest = states * sum(parameter.nbytes for parameter in coming)
        free = free_bytes(device)
        if free is not None and device.type == "cpu":
            free //= here()  # each of several processes on a machine measures by itself
        with self.ranks.apart(self.model):
            found = choose_micro(self._probe, batch, None if free is None else max(0, free - rest), for_speed=device.type == "cpu")
        release(device)
        self.micro = self.predict_micro = min(self.ranks.each(found.micro))
        log.info("%s", found.as_text(batch))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) images → (N, H, W) uint8 class ids of the network that is kept; fewer at once where memory runs out.

        Raises:
            LandsegError: Not even one image fits in the memory.
        """
        # By torch, on a CPU too: the weights are others each time, and to convert and prove them takes as long as some fifty tiles.
        first, found = self.predict_micro, ""
        while True:
            parts = np.array_split(images, -(-len(images) // self.predict_micro))
            try:
                preds = [self._predict(part) for part in parts]
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                found = first_line(error)
            release(self.device)
            if self.make_room():
                continue
            smaller = halved(len(parts[0]))
            if not smaller:
                raise no_room(1, found, "validation")
            self.predict_micro = smaller
        if self.predict_micro < first:
            log.warning("out of memory in validation at %d tiles at once (%s); from here on %d", first, found, self.predict_micro)
        return preds[0] if len(preds) == 1 else np.concatenate(preds)

    def state_dict(self) -> dict[str, Any]:
        """All that `load` needs to go on as if nothing had happened."""
        more: dict[str, Any] = {} if self.average is None else {"average": self.average.state_dict()}
        if isinstance(self.model, Supervised):
            more["second_head"] = self.model.head.state_dict()
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "normalisation": asdict(self.card.normalisation),
            "micro": self.micro,
            "predict_micro": self.predict_micro,
            "soundness": self.judge.state_dict(),
            "is_compiled": self.is_compiled,
            **more,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        restore(self.optimiser, state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if isinstance(self.model, Supervised):
            self.model.head.load_state_dict(state["second_head"])
        if "soundness" in state:
            self.judge.load_state_dict(state["soundness"])
        if self.is_compiled and not state.get("is_compiled", True):
            self._do_without_compiling("as it did before")
        # The run's own, whatever has become of the model that it began from.
        self.card = self.card.model_copy(update=state.get("normalisation", {}))
        self.micro, self.predict_micro = state.get("micro", self.micro), state.get("predict_micro", self.predict_micro)

    def _probe(self, tiles: int) -> Probe | None:
        """A step on random pixels without its update; None where memory ran out."""
        (height, width), card = self.card.tile_size, self.card
        random, limits = np.random.default_rng(tiles), np.iinfo(card.dtype) if np.dtype(card.dtype).kind in "iu" else None
        images = random.normal(card.mean, card.std, (tiles, height, width, len(card.bands)))
        images = images.clip(limits.min, limits.max) if limits else images
        labels = random.integers(0, len(card.classes), (tiles, height, width), np.uint8)
        batch = Arrays(random.integers(0, 2**63, tiles, np.uint64), images.astype(card.dtype), labels)
        self._statistics.take()
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else [], device_type=self.device.type):
                return self._measured(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        finally:
            self._undo()
        return None

    def _measured(self, batch: Batch) -> Probe:
        start = time.perf_counter()
        self.stepped.train()
        self._freeze(1.0)  # as it is for most of the run
        with Measured(self.device, self.model.parameters()) as measured:
            # Not compiled: each size would be compiled anew, and takes no more memory for it.
            with self.fabric.autocast():
                loss = self._loss(batch, 0, self.model)
            self.fabric.backward(loss)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        return Probe(len(batch.keys), measured.bytes, time.perf_counter() - start)

    def _gradients(self, batch: Batch, epoch: int, number: int, progress: float) -> Tensor:
        """The loss of a batch, its gradients left with the parameters."""
        self.stepped.train()
        self._freeze(progress)
        torch.manual_seed(step_seed(self.settings.seed, epoch, number, self.ranks.number))
        total = torch.zeros((), device=self.device)
        count = len(whole(batch))
        for part in _parts(batch, self.ranks.cut(count, self.micro)):
            loss = self._loss(part, epoch) * (len(part.keys) / count)
            self.fabric.backward(loss)
            total += loss.detach()
        return total

    def _loss(self, batch: Batch, epoch: int, network: nn.Module | None = None) -> Tensor:
        recipe = self.recipe
        images, labels = self._on_device(batch)
        bands = Bands.of(self.card.normalisation, self.card.dtype, self.card.bands)
        images, labels = augment(images, labels, recipe.augment, bands, seed=recipe.train.seed, epoch=epoch, keys=batch.keys)
        result = (network or self.stepped)(images)
        if isinstance(result, tuple):
            return self.loss(result[0], labels) + recipe.loss.auxiliary * self.loss(result[1], labels)  # type: ignore[no-any-return]
        return self.loss(result, labels)  # type: ignore[no-any-return]

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return sized(*batch.on(self.device), self.card.factor)

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

    def _settled(self, loss: Tensor, is_bad: Tensor, progress: float) -> Tensor:
        """Update, or leave the update out as if the step had not been; the loss that counts."""
        if not self.judge.is_at_once:
            self._statistics.put_back_where(is_bad)
            self._update(progress, is_bad)
            return loss.masked_fill(is_bad, 0.0)
        if bool(is_bad):
            self.fabric_optimiser.zero_grad()
            self._statistics.put_back()
            return torch.zeros_like(loss)
        self._update(progress)
        return loss

    def _update(self, progress: float, is_bad: Tensor | None = None) -> None:
        """Change the weights by their gradients, but on a device where `is_bad`. What it allocates was rehearsed; it cannot be repeated."""
        if is_bad is not None and self.judge.is_scaled:
            spoil_where(self.optimiser, is_bad)
        if self.settings.clip is not None:
            # What is no number is the judge's matter; Fabric would read the norm, and wait.
            self.fabric.clip_gradients(self.stepped, self.fabric_optimiser, max_norm=self.settings.clip, error_if_nonfinite=False)
        with nullcontext() if is_bad is None or self.judge.is_scaled else left_out_where(self.optimiser, is_bad):
            self.fabric_optimiser.step()
        self.fabric_optimiser.zero_grad()
        # The margin: 1 - 0.1 is a little more than 0.9.
        if self.average is not None and progress >= 1 - (self.settings.average or 1.0) - 1e-9:
            self.average.update_parameters(self.network, is_bad)

    def _do_without_compiling(self, found: str) -> None:
        """Run the network as it is from here on, and say so."""
        log.warning("train.compile: the network cannot be compiled here (%s); training goes on uncompiled", found)
        self.is_compiled = False
        wrapped = self.stepped._forward_module  # by what Fabric has set it up with, which stays
        self.stepped._forward_module = getattr(wrapped, "_orig_mod", wrapped)

    def _undo(self) -> None:
        """Take back what a step has left before its update: gradients, and what batch normalisation has counted."""
        self.fabric_optimiser.zero_grad()
        self._statistics.put_back()
        release(self.device)

    def _shrink(self, batch: Batch, found: str) -> None:
        """Halve what the network sees at once.

        Raises:
            LandsegError: It is as small as can be.
        """
        tried = max(self.ranks.each(max(self.ranks.cut(len(whole(batch)), self.micro))))
        smaller = halved(tried)
        if not smaller or (smaller == 1 and any(self.ranks.each(self._needs_two(batch)))):
            raise no_room(tried, found, "training")
        self.micro = smaller

    def _needs_two(self, batch: Batch) -> bool:
        """Whether the network cannot learn from a single tile: DeepLabV3+ cannot."""
        try:
            images, _ = self._on_device(batch.part(slice(1)))
            return normalises_single_values(self.network, images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return True  # not even this fits

    @torch.inference_mode()
    def _predict(self, images: np.ndarray) -> np.ndarray:
        # In full precision, as `landseg evaluate` does: with eight bits classes tie, and the two scores would differ.
        logits = full_size_logits(self.kept, to_tensor(images, self.device), self.card.factor)
        return logits.argmax(1).to(torch.uint8).cpu().numpy()


def _parts(batch: Batch, sizes: Sequence[int]) -> Iterator[Batch]:
    start = 0
    for size in sizes:
        yield batch.part(slice(start, start + size))
        start += size


def _precision(settings: TrainConfig, device: torch.device) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if settings.precision == "auto" and has_bf16_units(device):
        return "bf16-mixed"
    if settings.precision == "bf16":
        return "bf16-mixed"
    return "16-mixed" if settings.precision == "16" else "32-true"
