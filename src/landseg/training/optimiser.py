"""Parameter groups, the schedule of their rates, and an update that a GPU itself may leave out. It keeps no averages; `averages` does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landseg.core.settings import TrainConfig

Schedule = Literal["polynomial", "cosine", "one_cycle", "constant"]

POWER = 0.9
"""Of the polynomial schedule. Source: Chen et al. 2017, "Rethinking atrous convolution" (DeepLabv3), section 4.1."""

RISE, FIRST, LAST, MOMENTUM_FALL = 0.3, 1 / 25, 1 / 25e4, 0.1
"""Of one_cycle: the share of the run in which the rate rises, its first and last value as shares of the highest, and by how much
momentum falls meanwhile. Source: Smith 2018, "A disciplined approach to neural network hyper-parameters"; the values of torch's
`OneCycleLR`."""


def can_fuse(settings: TrainConfig, device: torch.device, *, is_scaled: bool) -> bool:
    """Whether the update of all parameters is one launch a group: on a GPU, but where scaled gradients of 16 bits are clipped, which Fabric
    refuses for an optimiser that undoes the scaling itself."""
    return device.type == "cuda" and not (is_scaled and settings.clip is not None)


def make_optimiser(
    network: nn.Module, settings: TrainConfig, stages: Mapping[nn.Parameter, int] | None = None, *, is_fused: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of a recipe; biases and normalisation layers, whose parameters are vectors, have no weight decay.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.3; rates by stage: Clark et al. 2020, "ELECTRA", section 3.1.

    Args:
        network: Its parameters that require gradients.
        settings: `encoder_lr` and `layer_decay` make slower groups of the encoder's parameters.
        stages: The stage of each of the encoder's parameters, as `network.stages.parameter_stages` says; the deepest learns at
            `encoder_lr`, each before it `layer_decay` times as fast as the next. Needed where either is not 1.
        is_fused: One launch for all parameters of a group; see `can_fuse`.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    stages = stages or {}
    deepest = max(stages.values(), default=0)
    shares = {
        parameter: settings.encoder_lr * settings.layer_decay ** (deepest - stages[parameter]) if parameter in stages else 1.0
        for parameter in parameters
    }
    groups = []
    for share in sorted(set(shares.values()), reverse=True):
        alike = [parameter for parameter in parameters if shares[parameter] == share]
        matrices, vectors = ([one for one in alike if (one.ndim > 1) is is_matrix] for is_matrix in (True, False))
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "share": share})
        groups.append({"params": vectors, "weight_decay": 0.0, "share": share})
    fused = is_fused or None
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=fused)
    nesterov = settings.nesterov and settings.momentum > 0
    optimiser = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=fused)
    _fill_momentum(optimiser)
    return optimiser


@contextmanager
def left_out_where(optimiser: torch.optim.Optimizer, is_bad: Tensor) -> Iterator[None]:
    """Within, a step of a fused optimiser changes neither weights nor state where `is_bad`, a boolean scalar on its device, is True.

    The way in which torch's `GradScaler` has its fused optimisers leave a step out.
    """
    optimiser.grad_scale, optimiser.found_inf = None, is_bad.float()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimiser.grad_scale, optimiser.found_inf  # type: ignore[attr-defined]


def spoil_where(optimiser: torch.optim.Optimizer, is_bad: Tensor) -> None:
    """Make a gradient NaN where `is_bad`: so a `GradScaler` leaves out a step whose loss is no number, whatever its gradients are."""
    gradients = (parameter.grad for group in optimiser.param_groups for parameter in group["params"] if parameter.grad is not None)
    first = next(gradients, None)
    if first is not None:
        first.masked_fill_(is_bad, math.nan)


def set_rates(optimiser: torch.optim.Optimizer, settings: TrainConfig, progress: float, share: float = 1.0) -> float:
    """Set rates, and momentum where the schedule moves it, for a point of the run; returns the highest rate, that of the decoder.

    `share` is what of the rates that the settings say is left.
    """
    lr = share * settings.lr * lr_factor(progress, settings.schedule, settings.warmup)
    momentum = momentum_at(progress, settings.schedule, settings.momentum)
    for group in optimiser.param_groups:
        group["lr"] = lr * group["share"]
        _set_momentum(group, momentum)
    return lr


def restore(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over what a state holds of each parameter; what follows from the settings stays as `make_optimiser` set it.

    A group's rest is rates, which `set_rates` sets at each step, and settings, of which an older state may lack some.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimiser.param_groups]
    # Before they are loaded: whether it is fused says on which device AdamW counts its steps.
    groups = [{**saved, **settings} for saved, settings in zip(state["param_groups"], own, strict=True)]
    optimiser.load_state_dict({**state, "param_groups": groups})
    _fill_momentum(optimiser)


def lr_factor(progress: float, schedule: Schedule, warmup: float) -> float:
    """The learning rate at a point of the run, as a share of the highest.

    Args:
        progress: 0 at the start, 1 at the end of the run.
        schedule: ``polynomial`` (power 0.9), ``cosine``, ``constant``, or ``one_cycle``, which rises by half a cosine for 30 % of the run,
            falls by another, and has no other warm-up.
        warmup: Share of the run in which it rises in a line from a tenth of the highest (from zero, a run of one step would learn nothing).
    """
    done = min(max(progress, 0.0), 1.0)
    if schedule == "one_cycle":
        high = _cycle(done)
        return (FIRST if done < RISE else LAST) * (1 - high) + high
    if done < warmup:
        return 0.1 + 0.9 * done / warmup
    if schedule == "constant":
        return 1.0
    left = 1 - (done - warmup) / (1 - warmup)
    return float(left**POWER if schedule == "polynomial" else (1 - math.cos(math.pi * left)) / 2)


def momentum_at(progress: float, schedule: Schedule, momentum: float) -> float:
    """Momentum at a point of the run: its setting, but 0.1 less at one_cycle's peak, where the rate is highest."""
    if schedule != "one_cycle":
        return momentum
    return max(0.0, momentum - MOMENTUM_FALL * _cycle(min(max(progress, 0.0), 1.0)))


def _fill_momentum(optimiser: torch.optim.Optimizer) -> None:
    """Give fused SGD the momentum that it would make at a parameter's first step.

    It makes it for all parameters of a group or for none, and those of an encoder that is let go come later than the decoder's; and what it
    makes at a step that is left out is never filled. From zeros, the first step is what it is without.
    """
    for group in optimiser.param_groups:
        if group["fused"] and group.get("momentum"):
            for parameter in group["params"]:
                state = optimiser.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def _cycle(done: float) -> float:
    """Half a cosine up to 1 at `RISE`, another down to 0 at the end."""
    way = done / RISE if done < RISE else (1 - done) / (1 - RISE)
    return (1 - math.cos(math.pi * way)) / 2


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
