"""The schedule's ends, which parameters decay, and a moving average equal to a plain one."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landseg.core.config import TrainConfig
from landseg.training.optimiser import lr_factor, make_optimiser, moving_average

torch.set_num_threads(1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.frozen = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.frozen(self.norm(self.conv(batch)))
        return result


@pytest.mark.parametrize("schedule", ["polynomial", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_schedule_rises_to_one_and_falls_to_nothing(schedule: str, warmup: float) -> None:
    values = [lr_factor(step / 1000, schedule, warmup) for step in range(1001)]  # type: ignore[arg-type]
    peak = round(1000 * warmup)
    assert values[peak] == 1.0 and values[-1] == 0.0 and values[0] == (0.1 if warmup else 1.0)
    assert all(a < b for a, b in pairwise(values[: peak + 1]))
    assert all(a > b for a, b in pairwise(values[peak:]))
    if warmup:
        assert values[peak // 2] == pytest.approx(0.55)


def test_the_schedules_are_what_they_are_called() -> None:
    for done in (0.0, 0.25, 0.5, 0.9):
        assert lr_factor(done, "polynomial", 0) == pytest.approx((1 - done) ** 0.9)
        assert lr_factor(done, "cosine", 0) == pytest.approx((1 + math.cos(math.pi * done)) / 2)
    assert lr_factor(0.6, "cosine", 0.2) == pytest.approx(0.5)


@settings(max_examples=100, deadline=None)
@given(st.floats(-10, 10), st.sampled_from(["polynomial", "cosine"]), st.floats(0, 0.999))
def test_the_factor_never_leaves_0_to_1(progress: float, schedule: str, warmup: float) -> None:
    assert 0 <= lr_factor(progress, schedule, warmup) <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_vectors_do_not_decay(name: str) -> None:
    network = Small()
    optimiser = make_optimiser(network, TrainConfig(optimiser=name, weight_decay=0.1, lr=0.5, nesterov=False, momentum=0.5))  # type: ignore[arg-type]
    decayed = {id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]}
    plain = {id(p) for group in optimiser.param_groups if not group["weight_decay"] for p in group["params"]}
    assert decayed == {id(network.conv.weight)}
    assert plain == {id(network.conv.bias), id(network.norm.weight), id(network.norm.bias)}
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    after = dict(network.named_parameters())
    assert torch.allclose(after["conv.weight"], before["conv.weight"] * 0.95)
    assert all(torch.equal(after[key], value) for key, value in before.items() if key != "conv.weight")


def test_settings_reach_the_optimiser() -> None:
    sgd = make_optimiser(Small(), TrainConfig(momentum=0.8, nesterov=True, lr=0.3))
    assert isinstance(sgd, torch.optim.SGD) and (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["lr"]) == (0.8, True, 0.3)
    plain = make_optimiser(Small(), TrainConfig(momentum=0.0, nesterov=True))
    assert not plain.defaults["nesterov"]
    adam = make_optimiser(Small(), TrainConfig(optimiser="adamw", momentum=0.7))
    assert isinstance(adam, torch.optim.AdamW) and adam.defaults["betas"] == (0.7, 0.999)


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_moving_average_equals_a_plain_one_buffers_included(decay: float) -> None:
    torch.manual_seed(0)
    network = Small().train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    average = moving_average(network, decay)
    expected: dict[str, np.ndarray] = {}
    for step in range(40):
        network(torch.randn(3, 2, 6, 6)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(network)
        share = 0.0 if step == 0 else min(decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            now = value.double().numpy()
            whole = not value.is_floating_point() or step == 0
            expected[key] = now if whole else share * expected[key] + (1 - share) * now
    state = average.module.state_dict()
    assert state.keys() == expected.keys() and int(state["norm.num_batches_tracked"]) == 40
    for key, value in expected.items():
        assert np.allclose(state[key].double().numpy(), value, atol=1e-6), key
    assert not np.allclose(state["norm.running_mean"].numpy(), network.norm.running_mean.numpy())


def test_the_moving_average_goes_on_after_a_reload_as_if_never_stopped() -> None:
    torch.manual_seed(0)
    networks = [Small() for _ in range(12)]
    whole = moving_average(networks[0], 0.9)
    for network in networks:
        whole.update_parameters(network)
    part = moving_average(networks[0], 0.9)
    for network in networks[:5]:
        part.update_parameters(network)
    again = moving_average(Small(), 0.9)
    again.load_state_dict(part.state_dict())
    for network in networks[5:]:
        again.update_parameters(network)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
