"""Averages of weights equal to plain ones, and nothing forgotten by stopping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landseg.training.averages import even_average, moving_average


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.norm(self.conv(batch))
        return result


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


def test_the_even_average_is_the_mean_of_weights_and_statistics() -> None:
    torch.manual_seed(0)
    network = Small().train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    average = even_average(network)
    seen: list[dict[str, np.ndarray]] = []
    for _ in range(30):
        network(torch.randn(3, 2, 6, 6)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(network)
        seen.append({key: value.double().numpy().copy() for key, value in network.state_dict().items()})
    for key, value in average.module.state_dict().items():
        expected = seen[-1][key] if key.endswith("num_batches_tracked") else np.mean([one[key] for one in seen], axis=0)
        assert np.allclose(value.double().numpy(), expected, atol=1e-6), key
    assert not np.allclose(average.module.norm.weight.detach().numpy(), seen[-1]["norm.weight"], atol=1e-3)


@pytest.mark.parametrize("kind", ["moving", "even"])
@pytest.mark.parametrize("first", [0, 1, 4])
def test_an_update_that_the_device_leaves_out_has_not_been(kind: str, first: int) -> None:
    torch.manual_seed(0)
    networks = [Small() for _ in range(8)]
    made, without = (moving_average(Small(), 0.7) if kind == "moving" else even_average(Small()) for _ in range(2))
    for number, network in enumerate(networks):
        is_left_out = number in (first, 5)
        made.update_parameters(network, torch.tensor(is_left_out))
        if not is_left_out:
            without.update_parameters(network)
    assert int(made.n_averaged) == 6
    for name, value in without.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(made.state_dict()[name], value), name
