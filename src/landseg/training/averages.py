"""Running averages of a network's weights: one that forgets, and one that does not. When they are updated is the loop's matter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from landseg.core.settings import TrainConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_average(network: nn.Module, settings: TrainConfig) -> AveragedModel | None:
    """The average that a recipe asks for, if any."""
    if settings.ema is not None:
        return moving_average(network, settings.ema)
    return None if settings.average is None else even_average(network)


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers, to be updated after each step.

    The decay grows to its value as (1 + t) / (10 + t), so that a short run does not keep its random start. Source: TensorFlow's
    `ExponentialMovingAverage`, argument `num_updates`.
    """

    def share(steps: Tensor) -> Tensor:
        return 1 - torch.clamp((1 + steps) / (10 + steps), max=decay)

    return AveragedModel(network, multi_avg_fn=_average(share), use_buffers=True)


def even_average(network: nn.Module) -> AveragedModel:
    """The plain mean of weights and buffers over all updates.

    The statistics of batch normalisation are averaged too. The paper computes them anew for the mean weights, by another pass over
    the training tiles; near the end of a schedule they differ little between steps, so their mean stands for it, at no cost.
    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
    """
    return AveragedModel(network, multi_avg_fn=_average(lambda steps: 1 / (steps + 1)), use_buffers=True)


def _average(share: Callable[[Tensor], Tensor]) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        # Kept as a tensor: reading it would make a GPU wait at each step.
        part = share(torch.as_tensor(count, dtype=torch.float32))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, part.to(average))
            else:
                average.copy_(value)

    return update
