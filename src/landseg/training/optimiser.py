"""Parameter groups, the learning rate's schedule, and the weights' moving average."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from landseg.core.config import TrainConfig

Tensors = tuple[Tensor, ...] | list[Tensor]

POWER = 0.9
"""Of the polynomial schedule. Source: Chen et al. 2017, "Rethinking atrous convolution" (DeepLabv3), section 4.1."""


def make_optimiser(network: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a recipe; biases and normalisation layers, whose parameters are vectors, have no weight decay.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.3.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov and settings.momentum > 0)


def lr_factor(progress: float, schedule: Literal["polynomial", "cosine"], warmup: float) -> float:
    """The learning rate at a point of the run, as a share of the highest.

    Args:
        progress: 0 at the start, 1 at the end of the run.
        schedule: ``polynomial`` (power 0.9) or ``cosine``.
        warmup: Share of the run in which it rises in a line from a tenth of the highest (from zero, a run of one step would learn nothing).
    """
    done = min(max(progress, 0.0), 1.0)
    if done < warmup:
        return 0.1 + 0.9 * done / warmup
    left = 1 - (done - warmup) / (1 - warmup)
    return float(left**POWER if schedule == "polynomial" else (1 - math.cos(math.pi * left)) / 2)


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers, to be updated after each step.

    The decay grows to its value as (1 + t) / (10 + t), so that a short run does not keep its random start. Source: TensorFlow's
    `ExponentialMovingAverage`, argument `num_updates`.
    """
    return AveragedModel(network, multi_avg_fn=_average(decay), use_buffers=True)


def _average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        # Kept as a tensor: reading it would make a GPU wait at each step.
        steps = torch.as_tensor(count, dtype=torch.float32)
        share = 1 - torch.clamp((1 + steps) / (10 + steps), max=decay)
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, share.to(average))
            else:
                average.copy_(value)

    return update
