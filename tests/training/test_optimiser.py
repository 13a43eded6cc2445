"""The schedules, which parameters decay, and which learn how fast."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landseg.core.settings import TrainConfig
from landseg.network.build import Network, Normalisation, build
from landseg.network.stages import parameter_stages
from landseg.training.optimiser import (
    can_fuse,
    left_out_where,
    lr_factor,
    make_optimiser,
    momentum_at,
    restore,
    set_rates,
    spoil_where,
)


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
@given(st.floats(-10, 10), st.sampled_from(["polynomial", "cosine", "one_cycle", "constant"]), st.floats(0, 0.999))
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


def test_a_constant_rate_warms_up_and_stays() -> None:
    assert lr_factor(0, "constant", 0) == lr_factor(1, "constant", 0) == lr_factor(0.2, "constant", 0.2) == 1
    assert lr_factor(0.1, "constant", 0.2) == pytest.approx(0.55)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_cycle_is_torchs(name: str) -> None:
    steps = 50
    config = TrainConfig(optimiser=name, lr=0.4, momentum=0.95, schedule="one_cycle", warmup=0.02)  # type: ignore[arg-type]
    ours, theirs = make_optimiser(Small(), config), make_optimiser(Small(), config)
    # Its peak lies on a step, its end on the last one.
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.4, total_steps=steps + 1, pct_start=(0.3 * steps + 1) / (steps + 1))
    for step in range(steps + 1):
        set_rates(ours, config, step / steps)
        for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(other["lr"], rel=1e-6)
            assert mine.get("betas", (mine.get("momentum"),))[0] == pytest.approx(other.get("betas", (other.get("momentum"),))[0])
        theirs.step()
        if step < steps:
            schedule.step()


def test_momentum_goes_the_other_way_in_one_cycle_alone() -> None:
    assert momentum_at(0.3, "one_cycle", 0.9) == pytest.approx(0.8) and momentum_at(1, "one_cycle", 0.9) == 0.9
    assert momentum_at(0.3, "one_cycle", 0.05) == 0
    for schedule in ("polynomial", "cosine", "constant"):
        assert momentum_at(0.3, schedule, 0.9) == 0.9  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> Network:
    return build("unet", "resnet18", 3, 4, Normalisation((0.0,) * 3, (1.0,) * 3))


def test_neutral_shares_make_the_two_groups_of_always(network: Network) -> None:
    plain = make_optimiser(network, TrainConfig())
    staged = make_optimiser(network, TrainConfig(), parameter_stages(network))
    for optimiser in (plain, staged):
        assert [[*map(id, group["params"])] for group in optimiser.param_groups] == [
            [id(one) for one in network.parameters() if one.ndim > 1], [id(one) for one in network.parameters() if one.ndim <= 1],
        ]  # fmt: skip


def test_earlier_stages_learn_slower_and_the_decoder_at_the_full_rate(network: Network) -> None:
    config = TrainConfig(lr=0.1, encoder_lr=0.5, layer_decay=0.8, schedule="constant", warmup=0, weight_decay=0.3)
    optimiser = make_optimiser(network, config, parameter_stages(network))
    assert set_rates(optimiser, config, 0.5) == 0.1
    rates = {id(one): (group["lr"], group["weight_decay"]) for group in optimiser.param_groups for one in group["params"]}
    assert len(rates) == len([*network.parameters()]), "each once"
    powers = {"conv1": 4, "bn1": 4, "layer1": 3, "layer2": 2, "layer3": 1, "layer4": 0}
    for name, parameter in network.named_parameters():
        is_encoder = name.startswith("body.encoder.")
        share = 0.5 * 0.8 ** powers[name.split(".")[2]] if is_encoder else 1.0
        assert rates[id(parameter)] == (pytest.approx(0.1 * share), 0.3 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_of_before_groups_had_shares_is_gone_on_with(name: str) -> None:
    knobs = TrainConfig(optimiser=name, lr=0.1, schedule="constant", warmup=0, weight_decay=0.5)  # type: ignore[arg-type]
    first, second = Small(), Small()
    second.load_state_dict(first.state_dict())
    before, after = make_optimiser(first, knobs), make_optimiser(second, knobs)
    first(torch.rand(2, 2, 4, 4)).sum().backward()
    before.step()
    state = before.state_dict()
    for group in state["param_groups"]:
        del group["share"]
        group["weight_decay"] = 7.0  # what a setting says is the setting's matter
    restore(after, state)
    assert set_rates(after, knobs, 0.5) == 0.1
    assert [group["weight_decay"] for group in after.param_groups] == [0.5, 0.0]
    moved = [next(iter(one.state[one.param_groups[0]["params"][0]].values())) for one in (before, after)]
    assert torch.equal(*map(torch.as_tensor, moved)), "what the state holds of each parameter is taken"


def stepped(optimiser: torch.optim.Optimizer, network: Small, steps: range) -> None:
    network.eval()  # before a normalisation by the batch a bias has no gradient but noise, which AdamW makes large
    for step in steps:
        torch.manual_seed(step)
        optimiser.zero_grad()
        network(torch.rand(2, 2, 4, 4)).square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("was_fused", [False, True])
def test_a_state_of_before_it_was_fused_is_gone_on_with_and_the_other_way(name: str, was_fused: bool) -> None:
    knobs = TrainConfig(optimiser=name, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    first, second, third = Small(), Small(), Small()
    one, other, whole = (
        make_optimiser(network, knobs, is_fused=is_fused)
        for network, is_fused in ((first, was_fused), (second, not was_fused), (third, was_fused))
    )
    third.load_state_dict(first.state_dict())
    stepped(one, first, range(3))
    second.load_state_dict(first.state_dict())
    restore(other, one.state_dict())
    assert all(bool(group["fused"]) is not was_fused for group in other.param_groups)
    stepped(other, second, range(3, 6))
    stepped(whole, third, range(6))
    for key, value in third.state_dict().items():
        assert torch.allclose(second.state_dict()[key], value, atol=1e-6), key
    assert not torch.allclose(second.conv.weight, first.conv.weight, atol=1e-4)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_step_is_left_out_where_its_device_says(name: str, is_first: bool) -> None:
    knobs = TrainConfig(optimiser=name, lr=0.01)  # type: ignore[arg-type]
    network, without = Small(), Small()
    without.load_state_dict(network.state_dict())
    one, other = (make_optimiser(model, knobs, is_fused=True) for model in (network, without))
    if not is_first:
        stepped(one, network, range(2))
        stepped(other, without, range(2))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, math.nan) if parameter.requires_grad else None
    with left_out_where(one, torch.tensor(True)):
        one.step()
    for optimiser, model in ((one, network), (other, without)):
        with left_out_where(optimiser, torch.tensor(False)):
            stepped(optimiser, model, range(2, 4))
    assert all(torch.equal(value, dict(without.named_parameters())[key]) for key, value in network.named_parameters())
    assert not hasattr(one, "found_inf") and not hasattr(one, "grad_scale"), "a step without a word is taken"


def test_parameters_that_are_let_go_later_join_a_fused_group() -> None:
    results = []
    for is_fused in (False, True):
        torch.manual_seed(0)
        network = Small()
        optimiser = make_optimiser(network, TrainConfig(lr=0.1), is_fused=is_fused)
        network.norm.bias.requires_grad_(False)
        stepped(optimiser, network, range(2))
        network.norm.bias.requires_grad_(True)
        stepped(optimiser, network, range(2, 4))
        results.append(network.state_dict())
    assert all(torch.allclose(value, results[1][key], atol=1e-6) for key, value in results[0].items())


def test_where_updates_are_fused() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert [can_fuse(TrainConfig(), device, is_scaled=False) for device in (cpu, gpu)] == [False, True]
    assert [can_fuse(TrainConfig(clip=clip), gpu, is_scaled=True) for clip in (None, 1.0)] == [True, False]
    assert can_fuse(TrainConfig(clip=1.0), gpu, is_scaled=False)


def test_a_gradient_is_spoilt_where_the_loss_was_no_number_and_nowhere_else() -> None:
    network = Small()
    optimiser = make_optimiser(network, TrainConfig())
    spoil_where(optimiser, torch.tensor(True))  # without any gradient there is nothing to spoil
    for is_bad in (False, True):
        network.conv.weight.grad = torch.ones_like(network.conv.weight)
        spoil_where(optimiser, torch.tensor(is_bad))
        assert bool(network.conv.weight.grad.isnan().any()) is is_bad
