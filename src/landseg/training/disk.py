"""How much of the disk a run will take, counted before it begins. It writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landseg.core.errors import LandsegError
from landseg.core.files import free_bytes, human_bytes
from landseg.core.settings import TrainConfig
from landseg.training.state import KEPT

_TENSOR = 512
"""Bytes about each tensor in a state or a model: its name three times, its place, its alignment. Source: test_disk, which measures."""

_LOGS = 10_000_000
"""Bytes for metrics.jsonl, TensorBoard's file and log.txt: a line of the three takes 1 kB at most, every 50 steps."""


@dataclass(frozen=True)
class Need:
    """Bytes of one state and of one model folder."""

    state: int
    model: int

    @property
    def total(self) -> int:
        """Bytes of the run folder when it is fullest: while one more state and one more model are written beside those that stay."""
        return (KEPT + 1) * self.state + 2 * self.model + _LOGS

    def __str__(self) -> str:
        states, models = f"{KEPT + 1} states of {human_bytes(self.state)}", f"2 models of {human_bytes(self.model)}"
        return f"up to {human_bytes(self.total)} ({states} and {models} while one is replaced, {human_bytes(_LOGS)} of logs)"


def need(state: dict[str, Any], weights: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> Need:
    """What a run will take.

    Args:
        state: All that is saved, as it is before the first step.
        weights: Of the network that is kept.
        optimiser: Its moments, which come with the first step, are counted where they are not there yet.
    """
    trained = [] if optimiser.state else [tensor for group in optimiser.param_groups for tensor in group["params"]]
    group = optimiser.param_groups[0]
    moments = 2 if "betas" in group else int(bool(group.get("momentum")))
    to_come = moments * sum(tensor.nbytes + _TENSOR for tensor in trained)
    return Need(_size(state) + to_come, _size(weights) + 50_000)


def require_disk(folder: Path, needed: Need, settings: TrainConfig) -> None:
    """Refuse a run that its disk, or `train.disk_gb`, could not hold.

    Args:
        folder: The run folder; need not exist. What a former run or the same one holds of the disk counts as free.
        needed: By the run.
        settings: Has the budget.

    Raises:
        LandsegError: It takes more.
    """
    budget = settings.disk_gb
    if budget is not None and needed.total > 1e9 * budget:
        raise LandsegError(
            "train.disk_gb",
            f"{budget:g}, which is {human_bytes(1e9 * budget)}",
            f"{needed}",
            f"--set train.disk_gb={needed.total / 1e9 * 1.05:.2g} or more, or a smaller model.encoder",
        )
    free = free_bytes(folder) + sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if needed.total > free:
        raise LandsegError(
            folder, f"{human_bytes(free)} free", f"{needed}", "free some space, choose another --out or a smaller model.encoder"
        )


def _size(value: Any) -> int:
    return sum(tensor.nbytes + _TENSOR for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
