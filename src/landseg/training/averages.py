"""Running averages of a network's weights: one that forgets, and one that does not. When they are updated is the loop's matter."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from landseg.core.settings import TrainConfig


class Average(AveragedModel):
    """torch's averaged model, but that its count is on the device of the weights: an update makes a GPU wait for nothing.

    Args:
        network: It is copied; its first update takes it over as it is then.
        share: From the updates before, a scalar above 0, by what part the average goes to the weights.
    """

    def __init__(self, network: nn.Module, share: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network, use_buffers=True)
        self._share = share
        # torch's own is kept on the CPU, and copied to a GPU, for which the host waits, twice an update.
        self.n_averaged = self.n_averaged.to(next(network.parameters()).device)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, is_left_out: Tensor | None = None) -> None:
        """Take the weights and buffers of `model` into the average; not where `is_left_out`, a boolean scalar, is True."""
        count = self.n_averaged.float()
        share = torch.where(count > 0, self._share(count), 1.0)
        if is_left_out is not None:
            share = share.masked_fill(is_left_out, 0.0)
        own = chain(self.module.parameters(), self.module.buffers())
        for average, value in zip(own, chain(model.parameters(), model.buffers()), strict=True):
            if average.is_floating_point():
                average.lerp_(value, share.to(average))
            else:
                average.copy_(value)
        self.n_averaged += 1 if is_left_out is None else ~is_left_out


def make_average(network: nn.Module, settings: TrainConfig) -> Average | None:
    """The average that a recipe asks for, if any."""
    if settings.ema is not None:
        return moving_average(network, settings.ema)
    return None if settings.average is None else even_average(network)


def moving_average(network: nn.Module, decay: float) -> Average:
    """An exponential moving average of weights and buffers, to be updated after each step.

    The decay grows to its value as (1 + t) / (10 + t), so that a short run does not keep its random start. Source: TensorFlow's
    `ExponentialMovingAverage`, argument `num_updates`.
    """

    def share(steps: Tensor) -> Tensor:
        return 1 - torch.clamp((1 + steps) / (10 + steps), max=decay)

    return Average(network, share)


def even_average(network: nn.Module) -> Average:
    """The plain mean of weights and buffers over all updates.

    The statistics of batch normalisation are averaged too. The paper computes them anew for the mean weights, by another pass over
    the training tiles; near the end of a schedule they differ little between steps, so their mean stands for it, at no cost.
    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
    """
    return Average(network, lambda steps: 1 / (steps + 1))
