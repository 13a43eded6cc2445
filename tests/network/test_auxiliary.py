"""A second head that trains along and changes nothing else."""

from __future__ import annotations

import copy

import pytest
import torch

from landseg.core.errors import LandsegError
from landseg.network import auxiliary
from landseg.network.auxiliary import Supervised
from landseg.network.build import Network, Normalisation, build
from landseg.network.stages import parameter_stages

SMALL = "mobilenetv3_small_050"


def make(network: str = "unet", encoder: str = SMALL) -> Network:
    torch.manual_seed(0)
    return build(network, encoder, 3, 4, Normalisation((0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize(
    ("network", "encoder"),
    [
        ("unet", SMALL),
        ("deeplabv3plus", SMALL),
        ("pspnet", "resnet18"),
        ("segformer", "mit_b0"),
        ("dpt", "vit_tiny_patch16_224"),
        ("pan", "resnet18"),
    ],
)
def test_the_second_head_speaks_of_the_same_pixels(network: str, encoder: str) -> None:
    supervised = Supervised(make(network, encoder), 4).train()
    first, second = supervised(torch.rand(2, 3, 64, 96))
    assert first.shape == second.shape == (2, 4, 64, 96)
    second.sum().backward()
    reached = [parameter.grad is not None for parameter in supervised.network.encoder.parameters()]
    assert any(reached), "the encoder learns from it"
    assert all(parameter.grad is None for parameter in supervised.network.body.decoder.parameters()), "the decoder does not"  # type: ignore[union-attr]


def test_the_last_but_one_stage_is_asked_and_not_the_last() -> None:
    supervised = Supervised(make(encoder="resnet18"), 4).train()
    supervised(torch.rand(2, 3, 64, 64))[1].sum().backward()
    encoder = supervised.network.encoder
    assert encoder.layer3[1].conv2.weight.grad is not None and encoder.layer4[1].conv2.weight.grad is None  # type: ignore[union-attr, index]


def test_the_network_answers_as_without_it() -> None:
    alone, network = make(), make()
    supervised = Supervised(network, 4)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(alone.train()(images), supervised.train()(images)[0])
    with torch.inference_mode():
        assert torch.equal(alone.eval()(images), supervised.eval()(images))
        assert torch.equal(alone(images), network(images))
    assert network.state_dict().keys() == alone.state_dict().keys(), "it is not in the model"


def test_no_graph_is_held_between_steps() -> None:
    supervised = Supervised(make(), 4).train()
    supervised(torch.rand(2, 3, 64, 64))
    assert not supervised._maps
    supervised.network.eval()(torch.rand(2, 3, 64, 64))  # as the loop validates
    assert not supervised._maps


def test_looking_at_stages_leaves_no_graph_either() -> None:
    supervised = Supervised(make(), 4).train()
    parameter_stages(supervised.network)
    assert not supervised._maps


def test_an_encoder_of_one_stage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "stage_widths", lambda _network: [64])
    with pytest.raises(LandsegError, match=r"loss\.auxiliary: the encoder has 1 stages.*loss\.auxiliary=0"):
        Supervised(make(), 4)


def test_it_can_be_copied() -> None:
    supervised = copy.deepcopy(Supervised(make(), 4)).train()
    assert len(supervised(torch.rand(2, 3, 32, 32))) == 2
