"""Which stage of an encoder each parameter belongs to, for every family of encoders."""

from __future__ import annotations

import pytest
import torch

from landseg.network.build import Network, Normalisation, build
from landseg.network.stages import band_layers, parameter_stages, stage_widths


def make(network: str, encoder: str, bands: int = 3) -> Network:
    return build(network, encoder, bands, 4, Normalisation((0.0,) * bands, (1.0,) * bands))


def by_name(network: Network) -> dict[str, int]:
    stages = parameter_stages(network)
    return {name: stages[parameter] for name, parameter in network.encoder.named_parameters()}


def test_resnets_stages_are_its_layers() -> None:
    stages = by_name(make("unet", "resnet18"))
    expected = {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    assert all(stage == expected[name.split(".")[0]] for name, stage in stages.items())


@pytest.mark.parametrize("pair", ["unet mobilenetv3_small_050", "deeplabv3plus mobilenetv3_large_100"])
def test_blocks_of_mobilenet_never_go_back(pair: str) -> None:
    stages = by_name(make(*pair.split()))
    assert stages["model.conv_stem.weight"] == 0
    blocks: dict[int, set[int]] = {}
    for name, stage in stages.items():
        if name.startswith("model.blocks."):
            blocks.setdefault(int(name.split(".")[2]), set()).add(stage)
    assert all(len(found) == 1 for found in blocks.values()), "a block is one stage"
    assert [*map(max, (blocks[i] for i in sorted(blocks)))] == sorted(max(found) for found in blocks.values())
    assert set(stages.values()) == set(range(5))


@pytest.mark.parametrize(
    ("network", "encoder", "count"),
    [
        ("unet", "convnext_atto", 4),
        ("unet", "hrnet_w18_small", 5),
        ("segformer", "mit_b0", 4),
        ("dpt", "vit_tiny_patch16_224", 4),
        ("pspnet", "resnet18", 3),
        ("unet", "xception41", 5),
    ],
)
def test_every_family_has_stages_and_the_first_layer_is_in_the_first(network: str, encoder: str, count: int) -> None:
    built = make(network, encoder)
    stages = parameter_stages(built)
    assert set(stages) == set(built.encoder.parameters())
    assert set(stages.values()) == set(range(count))
    assert stages[next(iter(built.encoder.parameters()))] == 0
    assert len(stage_widths(built)) == count


@pytest.mark.parametrize(
    ("encoder", "layers"),
    [
        ("resnet18", {"conv1"}),
        ("mobilenetv3_small_050", {"model.conv_stem"}),
        ("repvgg_a0", {"model.stem.conv_1x1.conv", "model.stem.conv_kxk.conv"}),
        ("mobileone_s0", {"stage0.rbr_scale.conv", "stage0.rbr_conv.0.conv"}),
        ("tresnet_m", set()),  # which first makes 16 channels of each band
    ],
)
@pytest.mark.parametrize("bands", [3, 5])
def test_the_layers_that_see_the_bands_are_found_by_looking(encoder: str, layers: set[str], bands: int) -> None:
    network = make("unet", encoder, bands)
    assert {*band_layers(network)} == layers
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_what_reaches_no_map_counts_as_the_deepest() -> None:
    stages = by_name(make("pspnet", "resnet18"))  # whose encoder ends after three stages
    assert stages["layer4.1.conv2.weight"] == 2


def test_looking_leaves_no_trace() -> None:
    network = make("unet", "resnet18", bands=5)
    network.encoder.layer2.eval()  # type: ignore[operator, union-attr]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    parameter_stages(network)
    stage_widths(network)
    band_layers(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
