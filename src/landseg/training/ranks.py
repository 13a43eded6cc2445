"""The processes that share a run: what of a batch each takes, what they add up, what they agree on. It decides nothing about the run.

Alone, nothing is exchanged, and nothing costs anything. Several take the same steps with the same tiles as one: each takes its share of a
step's tiles, gradients and losses are added up, and all of them then make the same update of the same weights.

Gradients are added up here and not by torch's `DistributedDataParallel`, which does so while they are computed: a step that fails in
one process could then not be taken back in the others, which wait within it, nor could an encoder be frozen and let go.

Vocabulary: `processes` of a run are torch's ranks; the *first* one, rank 0, writes and speaks. What *hosts* exchange goes between the
processes' CPUs, and no GPU waits for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import xxhash
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from landseg.core import processes
from landseg.core.errors import LandsegError
from landseg.core.settings import TrainConfig
from landseg.training.compiling import is_compile_failure
from landseg.training.memory import cut, first_line, is_out_of_memory
from landseg.training.transfer import Batch

log = logging.getLogger("landseg")

T = TypeVar("T")


class Trouble(IntEnum):
    """Why a process could not take a step; of several, the highest is acted on."""

    NONE = 0
    OUT_OF_MEMORY = 1
    UNCOMPILABLE = 2


class Elsewhere(RuntimeError):
    """What a process that could take a step is told where another one could not."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__("in another process")
        self.trouble = trouble


@dataclass(frozen=True)
class Share:
    """What of a step's batch this process sees, itself a batch; `whole` are the keys of all of the step's tiles."""

    batch: Batch
    whole: np.ndarray

    @property
    def keys(self) -> np.ndarray:
        """(N,) uint64."""
        return self.batch.keys

    @property
    def images(self) -> np.ndarray:
        """(N, H, W, C) in the store's dtype."""
        return self.batch.images

    @property
    def labels(self) -> np.ndarray:
        """(N, H, W) uint8."""
        return self.batch.labels

    def part(self, taken: slice) -> Batch:
        """Some of its tiles, without a copy."""
        return self.batch.part(taken)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N, H, W) on a device."""
        return self.batch.on(device)


def whole(batch: Batch) -> np.ndarray:
    """The keys of all tiles of a step, whoever sees them."""
    return batch.whole if isinstance(batch, Share) else batch.keys


class Ranks:
    """This process among those of its run.

    Args:
        settings: `devices`, which has to fit what was started, and `device`.
        device: The kind of device that each trains on.

    Attributes:
        count: Processes of the run.
        number: Which of them this is, from 0.
        is_alone: Whether it is the only one.
        is_first: Whether it writes and speaks.
        is_synced: Whether batch normalisation sees the tiles of all processes: on GPUs.

    Raises:
        LandsegError: The processes are not those that the settings ask for, or a device is missing.
    """

    def __init__(self, settings: TrainConfig, device: torch.device) -> None:
        self.count, self.number, self._here = processes.count(), processes.number(), processes.here()
        self.is_alone, self.is_first = self.count == 1, self.number == 0
        self.is_synced = not self.is_alone and device.type == "cuda"
        self._device = device
        self._group: Any = None
        self._own_group: Any = None
        self._has_spoken = False
        if self.is_alone:
            _require_one(settings)
        else:
            _require_fitting(settings, device, self.count, self._here)

    def asked(self) -> dict[str, Any]:
        """What of Fabric's arguments depends on the processes."""
        if self.is_alone:
            return {"devices": [self._device.index or 0] if self._device.type == "cuda" else 1}
        elastic = TorchElasticEnvironment()
        return {"devices": self._here, "num_nodes": self.count // self._here, "strategy": _Bare(), "plugins": [elastic]}

    def join(self, fabric: Fabric) -> None:
        """Meet the other processes; from here on each exchange waits for all of them."""
        if self.is_alone:
            return
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its lines of who is who; ours is below
        with self._linked():
            fabric.launch()
            # By CPU, whatever the gradients go by: what hosts tell each other makes no GPU wait.
            self._group = dist.new_group(backend="gloo") if self.is_synced else dist.group.WORLD
            if self.is_synced:
                self._own_group = [dist.new_group([number]) for number in range(self.count)][self.number]
        nodes = self.count // self._here
        log.info("processes: %d%s, each with its share of every step", self.count, f" on {nodes} machines" if nodes > 1 else "")

    def synchronised(self, network: nn.Module) -> nn.Module:
        """The network, in several processes on GPUs with batch normalisation over all of them; names and tensors stay."""
        return convert_sync_batchnorm(network) if self.is_synced else network  # type: ignore[no-untyped-call]

    @contextmanager
    def apart(self, network: nn.Module) -> Iterator[None]:
        """Within, the network's batch normalisation asks no other process: each may try what it likes."""
        layers = [layer for layer in network.modules() if isinstance(layer, nn.SyncBatchNorm)] if self.is_synced else []
        before = [layer.process_group for layer in layers]
        for layer in layers:
            layer.process_group = self._own_group
        try:
            yield
        finally:
            for layer, group in zip(layers, before, strict=True):
                layer.process_group = group

    def alike(self, network: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.is_alone:
            return
        with self._linked(), torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                copy = tensor.detach().contiguous()
                dist.broadcast(copy, 0)
                tensor.copy_(copy)

    def own(self, count: int) -> slice:
        """Which of a step's tiles this process takes: shares differ by one tile at most, the first processes have the larger ones."""
        size, more = divmod(count, self.count)
        start = self.number * size + min(self.number, more)
        return slice(start, start + size + (self.number < more))

    def most(self, count: int) -> int:
        """Tiles of the largest share of so many."""
        return math.ceil(count / self.count)

    def share(self, batch: Batch) -> Batch:
        """What of a batch this process sees; all of it where there is no other."""
        if self.is_alone or isinstance(batch, Share):
            return batch
        return Share(batch.part(self.own(len(batch.keys))), batch.keys)

    def spread(self, tiles: Sequence[T]) -> Sequence[T]:
        """Those of some tiles that this process validates."""
        return tiles if self.is_alone else tiles[self.number :: self.count]

    def cut(self, count: int, most: int) -> list[int]:
        """How many tiles each micro-batch of this process's share has, of a step of `count` tiles and `most` at once; see `memory.cut`.

        Where batch normalisation asks all processes, each has as many micro-batches as the others.
        """
        taken = self.own(count)
        size = taken.stop - taken.start
        if not self.is_synced:
            return cut(size, most)
        parts = min(len(cut(self.most(count), most)), count // self.count)
        return [len(part) for part in np.array_split(np.arange(size), parts)]

    def require_tiles(self, fewest: int) -> None:
        """Refuse steps that are too small to be shared.

        Args:
            fewest: Tiles of the smallest step of an epoch.

        Raises:
            LandsegError: A process would have a single tile, of which batch normalisation may learn nothing, or none.
        """
        if not self.is_alone and fewest < 2 * self.count:
            raise LandsegError(
                "train.effective_batch", f"steps of {fewest} tiles for {self.count} processes", "two tiles a process at least",
                "start fewer processes, or let a step see more tiles: --set train.effective_batch=32",
            )  # fmt: skip

    def require_same(self, what: str, value: str | int) -> None:
        """Refuse processes that would not do the same.

        Raises:
            LandsegError: They differ in `what`.
        """
        found = self.each(value)
        if len(set(found)) > 1:
            shown = ", ".join(text if len(text) < 40 else xxhash.xxh3_64_hexdigest(text.encode()) for text in map(str, found[:8]))
            raise LandsegError(
                what, f"it differs between processes ({shown})", "the same in all of them",
                "give each the same data, recipe, run folder and version of landseg",
            )  # fmt: skip

    def each(self, value: T) -> list[T]:
        """What each process says; nobody goes on before all have spoken."""
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.count
        with self._linked():
            dist.all_gather_object(found, value, group=self._group)
        return found

    def first(self, value: T) -> T:
        """What the first process says, to all of them; nobody goes on before all have come."""
        return self.each(value)[0]

    def agreed(self, firsts: Sequence[float], anybody: Sequence[bool]) -> tuple[list[float], list[bool]]:
        """The first process's numbers, and for each question whether anybody says yes: one small exchange between hosts."""
        if self.is_alone:
            return list(firsts), list(anybody)
        own = firsts if self.is_first else [-math.inf] * len(firsts)
        values = torch.tensor([*own, *(float(yes) for yes in anybody)], dtype=torch.float64)
        with self._linked():
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)
        found = values.tolist()
        return found[: len(firsts)], [yes > 0 for yes in found[len(firsts) :]]

    def trouble(self, error: RuntimeError | MemoryError, *, is_compiled: bool) -> Trouble:
        """Why this process could not take a step; the error itself is raised again where it is none that a step is repeated for.

        Raises:
            LandsegError: Memory ran out where the other processes wait within the step, from which nobody can take them back.
        """
        if isinstance(error, Elsewhere):
            return error.trouble
        if is_compiled and is_compile_failure(error):
            return Trouble.UNCOMPILABLE
        if not is_out_of_memory(error):
            raise error
        if self.is_synced:
            raise LandsegError(
                f"process {self.number} of {self.count}", f"out of memory ({first_line(error)})", "memory for its share of a step",
                "go on with --resume in one process, which halves what it sees at once, or begin anew with a smaller train.batch",
            ) from error  # fmt: skip
        return Trouble.OUT_OF_MEMORY

    def worst(self, trouble: Trouble) -> Trouble:
        """The worst that befell any process in a step; those that were told `Elsewhere` have spoken already."""
        if self.is_alone or self._has_spoken:
            self._has_spoken = False
            return trouble
        _, befell = self.agreed((), [trouble == kind for kind in Trouble])
        return max(kind for kind, has in zip(Trouble, befell, strict=True) if has)

    def summed(self, loss: Tensor, model: nn.Module, share: float) -> Tensor:
        """Add up the gradients of all processes, and the statistics of batch normalisation where each has its own.

        What is no number in one process is none in all of them after it, so that they judge alike.

        Args:
            loss: Of this process's tiles, as its part of the step's.
            model: With its gradients, which become those of the step.
            share: Of the step's tiles, this process's.

        Returns:
            The loss of the step.

        Raises:
            Elsewhere: Another process could not compute its gradients; nothing has been added up.
        """
        if self.is_alone:
            return loss
        statistics = [] if self.is_synced else _statistics(model)
        tensors = [parameter.grad for parameter in model.parameters() if parameter.grad is not None] + statistics
        weights = [1.0] * (len(tensors) - len(statistics)) + [share] * len(statistics)
        flat = torch.cat([loss.reshape(1), *(tensor.reshape(-1) * weight for tensor, weight in zip(tensors, weights, strict=True))])
        trouble = self.worst(Trouble.NONE)
        if trouble:
            self._has_spoken = True
            raise Elsewhere(trouble)
        with self._linked():
            dist.all_reduce(flat)
        total, *parts = torch.split(flat, [1, *(tensor.numel() for tensor in tensors)])
        torch._foreach_copy_(tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])
        return total.reshape(())

    def added(self, counts: np.ndarray) -> np.ndarray:
        """Sums over all processes of int64 counts, which are exact."""
        if self.is_alone:
            return counts
        total = torch.from_numpy(np.ascontiguousarray(counts, np.int64).copy())
        with self._linked():
            dist.all_reduce(total, group=self._group)
        return total.numpy()

    @contextmanager
    def _linked(self) -> Iterator[None]:
        """Within, what fails is the link to another process.

        Raises:
            LandsegError: It is gone.
        """
        try:
            yield
        except RuntimeError as error:
            raise LandsegError(
                f"process {self.number} of {self.count}",
                f"another process of the run has ended or cannot be reached ({first_line(error)})",
                "all of them, to the end of the run",
                "see what it said; what was saved is whole: --resume goes on from the last state, with as many processes as you like",
            ) from error


class _Bare(DDPStrategy):
    """Fabric's several processes without torch's wrapper about the network; see above."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that a step has moved."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training]
    return [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var) if tensor is not None]


def _require_one(settings: TrainConfig) -> None:
    """Refuse several processes where nobody started them."""
    if isinstance(settings.devices, int) and settings.devices > 1:
        raise LandsegError(
            "train.devices", f"{settings.devices}, but this is one process", "as many as that, which torchrun starts",
            f"the command `landseg train` starts them itself; a script of your own: {_torchrun(settings.devices)} SCRIPT",
        )  # fmt: skip


def _torchrun(here: int | str, machines: int = 1) -> str:
    """The command that starts so many."""
    return " ".join(["torchrun", *processes.torchrun_options(int(here), max(1, machines))])


def _require_fitting(settings: TrainConfig, device: torch.device, count: int, here: int) -> None:
    """Refuse processes that were started but cannot train as they are asked to."""
    if settings.devices not in (1, "auto", here):
        raise LandsegError(
            "train.devices", f"{settings.devices}, but torchrun started {here} on this machine", "the same number",
            f"--set train.devices={here}, or {_torchrun(settings.devices, count // here)}",
        )  # fmt: skip
    if count % here:
        raise LandsegError(
            "torchrun", f"{count} processes, {here} of them on this machine", "as many on each machine", "the same --nproc-per-node on all"
        )
    if device.type == "mps" or (device.type == "cuda" and device.index is not None):
        raise LandsegError(
            "train.device", f"{settings.device!r} in {count} processes", "cuda, each process with a GPU of its own, or cpu",
            "--set train.device=cuda, or cpu; CUDA_VISIBLE_DEVICES says which GPUs are taken",
        )  # fmt: skip
    if device.type == "cuda" and torch.cuda.device_count() < here:
        raise LandsegError(
            "train.devices", f"{here} processes on this machine, which has {torch.cuda.device_count()} GPUs", "a GPU for each",
            "fewer processes, or --set train.device=cpu",
        )  # fmt: skip
