"""Networks of any bands and classes; names and pairs that do not fit are refused with what does."""

from __future__ import annotations

import pytest
import timm
import torch

from landseg.core.errors import LandsegError
from landseg.core.settings import NETWORKS
from landseg.network import build as room
from landseg.network.build import Normalisation, build, encoder_name, encoder_normalisation

SMALL = "mobilenetv3_small_050"


def plain(bands: int) -> Normalisation:
    return Normalisation((0.0,) * bands, (1.0,) * bands)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_gives_logits_at_the_images_size(network: str) -> None:
    encoder = {"dpt": "vit_tiny_patch16_224"}.get(network, SMALL)
    built = build(network, encoder, 3, 4, plain(3)).eval()
    with torch.inference_mode():
        for height, width in ((128, 96), (32, 64)):
            assert built(torch.zeros(1, 3, height, width)).shape == (1, 4, height, width)


@pytest.mark.parametrize(("bands", "classes"), [(1, 1), (4, 2), (8, 255)])
def test_any_number_of_bands_and_classes(bands: int, classes: int) -> None:
    built = build("unet", SMALL, bands, classes, plain(bands)).eval()
    with torch.inference_mode():
        assert built(torch.zeros(2, bands, 32, 64)).shape == (2, classes, 32, 64)


def test_it_is_built_for_training_and_keeps_no_trace_of_the_trial() -> None:
    torch.manual_seed(0)
    built = build("unet", SMALL, 3, 4, plain(3))
    assert all(module.training for module in built.modules())
    assert all(int(value) == 0 for name, value in built.state_dict().items() if name.endswith("num_batches_tracked"))
    torch.manual_seed(0)
    again = build("unet", SMALL, 3, 4, plain(3))
    assert all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), again.state_dict().values(), strict=True))


class Echo(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64])
def test_normalisation_is_the_first_layer(dtype: torch.dtype) -> None:
    built = room.Network(Echo(), Normalisation((10.0, 20.0), (2.0, 5.0)))
    images = torch.tensor([12, 30], dtype=dtype).view(1, 2, 1, 1)
    assert built(images).flatten().tolist() == [1.0, 2.0] and built(images).dtype == torch.float32
    assert set(built.state_dict()) == {"mean", "std"}


def test_a_missing_value_is_the_mean_and_harms_no_neighbour() -> None:
    torch.manual_seed(0)
    built = build("unet", SMALL, 2, 3, Normalisation((5.0, 5.0), (1.0, 1.0))).eval()
    images = torch.rand(1, 2, 32, 32)
    images[0, 0, 4, 4] = 5.0
    with torch.inference_mode():
        expected = built(images)
        for missing in (float("nan"), float("inf"), float("-inf")):
            images[0, 0, 4, 4] = missing
            assert torch.equal(built(images), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64])
def test_scaling_comes_first_of_all(dtype: torch.dtype) -> None:
    built = room.Network(Echo(), Normalisation((0.5, 0.0), (0.25, 1.0), ((0.0, 100.0), (20.0, 40.0))))
    images = torch.tensor([[0, 20], [50, 30], [100, 40], [120, 0]], dtype=dtype).view(4, 2, 1, 1)
    assert built(images).flatten(1).tolist() == [[-2.0, 0.0], [0.0, 0.5], [2.0, 1.0], [2.0, 0.0]]
    assert set(built.state_dict()) == {"mean", "std", "low", "high"}


@pytest.mark.parametrize("missing", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_missing_value_is_the_mean_of_scaled_ones_too(missing: float) -> None:
    built = room.Network(Echo(), Normalisation((0.5,), (0.25,), ((0.0, 100.0),)))
    assert built(torch.tensor([missing, 100.0], dtype=torch.float64).view(2, 1, 1, 1)).flatten().tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("encoder", "near"),
    [
        ("mobilenetv3_large_10", "mobilenetv3_large_100"),
        ("resnet5O", "resnet50"),
        ("efficientnet-bO", "efficientnet-b"),
        ("tu-resnet51", "resnet50"),
    ],
)
def test_an_unknown_encoder_gets_the_nearest_names(encoder: str, near: str) -> None:
    with pytest.raises(LandsegError, match=r"^model\.encoder") as caught:
        build("unet", encoder, 3, 2, plain(3))
    assert near in caught.value.do and encoder in caught.value.found


def test_a_name_like_no_other_gets_examples() -> None:
    with pytest.raises(LandsegError, match="for example mobilenetv3_large_100"):
        encoder_name("耕地")


def test_names_of_both_libraries_are_known() -> None:
    assert encoder_name("mobilenet_v2") == "mobilenet_v2"
    assert encoder_name(SMALL) == encoder_name(f"tu-{SMALL}") == f"tu-{SMALL}"
    assert encoder_name("resnet50") == "resnet50" and encoder_name("tu-resnet50") == "tu-resnet50"


def test_deeplabv3plus_cannot_dilate_hrnet_and_what_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two of the ten others are tried, because each costs a large network; which are named must be those that were found to fit.
    monkeypatch.setattr(room, "NETWORKS", ("deeplabv3plus", "unet", "pan"))
    with pytest.raises(LandsegError, match=r"^model\.network=deeplabv3plus") as caught:
        build("deeplabv3plus", "hrnet_w18", 3, 4, plain(3))
    assert "hrnet_w18 goes with unet" in caught.value.needed and "pan" not in caught.value.needed
    assert caught.value.do == "--set model.network=unet"
    assert "\n" not in str(caught.value)


def test_an_encoder_that_goes_with_nothing_tried_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "NETWORKS", ("dpt",))
    with pytest.raises(LandsegError, match=r"mit_b0 goes with none of the networks; choose another encoder"):
        build("dpt", "mit_b0", 3, 4, plain(3))


def test_normalisation_follows_the_weights() -> None:
    assert encoder_normalisation("mobilenet_v2").mean == pytest.approx((123.675, 116.28, 103.53))
    settings = timm.get_pretrained_cfg("tf_mobilenetv3_large_minimal_100")
    assert encoder_normalisation("tf_mobilenetv3_large_minimal_100").mean == pytest.approx([255 * value for value in settings.mean])
    assert encoder_normalisation("mit_b0").std == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize("network", ["unet", "unetplusplus", "manet"])
def test_a_narrower_decoder_has_fewer_weights(network: str) -> None:
    sizes = []
    for channels in (None, (32, 24, 16, 16, 8)):
        built = build(network, SMALL, 3, 4, Normalisation((0.0,) * 3, (1.0,) * 3), channels)
        sizes.append(sum(weights.numel() for weights in built.parameters()))
    assert sizes[1] < sizes[0] / 1.5


def test_decoder_channels_are_refused_where_there_are_no_five_stages() -> None:
    with pytest.raises(LandsegError, match=r"model\.decoder_channels: set for linknet, one of unet"):
        build("linknet", SMALL, 3, 4, Normalisation((0.0,) * 3, (1.0,) * 3), (32, 24, 16, 16, 8))
