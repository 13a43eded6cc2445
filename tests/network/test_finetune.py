"""Beginning from a model: what is equal by name is taken, and what is not is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.network import finetune
from landseg.network.build import Network, Normalisation, build
from landseg.network.checkpoint import ModelCard, save_model
from landseg.network.finetune import Adopted, adopt, base_card, load_start
from landseg.network.weights import Loaded

SMALL = "mobilenetv3_small_050"
CLASSES, BANDS = ("road", "field", "wood"), ("red", "green", "blue")
HEAD, FIRST = "body.segmentation_head.0", "body.encoder.model.conv_stem.weight"


def make(classes: int = 3, bands: int = 3, network: str = "unet", encoder: str = SMALL, seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return build(network, encoder, bands, classes, Normalisation((float(seed),) * bands, (2.0,) * bands))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose model has statistics as training leaves them."""
    network = make(seed=7)
    torch.nn.init.normal_(network.get_parameter(f"{HEAD}.bias"))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.25
    card = ModelCard(
        landseg_version="test", network="unet", encoder=SMALL, bands=BANDS, dtype="uint8", mean=(7.0,) * 3, std=(2.0,) * 3,
        classes=make_classes(CLASSES), tile_size=(64, 64), scores={"val": {"miou": 0.5}},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "first"
    save_model(folder / "model", network.state_dict(), card)
    return folder


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items() if name not in ("mean", "std")}


def start(network: Network, folder: Path, classes: tuple[str, ...] = CLASSES, bands: tuple[str, ...] = BANDS) -> Adopted:
    adopted = load_start(network, SMALL, str(folder), classes, bands)
    assert isinstance(adopted, Adopted)
    return adopted


@pytest.mark.parametrize("inner", ["", "model"])
def test_a_model_is_taken_whole_but_for_its_normalisation(run: Path, inner: str) -> None:
    network, wanted = make(), weights(make(seed=7))
    adopted = start(network, run / inner)
    found = weights(network)
    for name, tensor in wanted.items():
        expected = tensor + 0.25 if name.endswith("running_mean") else tensor
        assert name == f"{HEAD}.bias" or torch.equal(found[name], expected), name
    assert network.mean.flatten().tolist() == [1.0] * 3, "the new data's own"
    count = sum(not name.endswith("num_batches_tracked") for name in wanted)
    model = run / "model"
    assert adopted.as_text() == f"weights: {count} of {count} tensors from the model {model} (unet with {SMALL}, val mIoU 0.5000)"


def test_rows_of_the_head_go_by_class_name(run: Path) -> None:
    network, old = make(classes=4), make(seed=7)
    load_start(old, SMALL, str(run), CLASSES, BANDS)
    before, rows = weights(network), weights(old)
    adopted = start(network, run, ("wood", "water", "road", "ice"))
    after = weights(network)
    for name in (f"{HEAD}.weight", f"{HEAD}.bias"):
        assert torch.equal(after[name][0], rows[name][2]) and torch.equal(after[name][2], rows[name][0])
        assert torch.equal(after[name][[1, 3]], before[name][[1, 3]])
    assert (adopted.new_classes, adopted.lost_classes, adopted.reshaped) == (("water", "ice"), ("field",), ())
    assert "; classes that start anew: water, ice; classes left behind: field" in adopted.as_text()


def test_as_many_classes_of_other_names_take_no_rows(run: Path) -> None:
    network = make()
    before = weights(network)
    adopted = start(network, run, ("a", "b", "c"))
    assert torch.equal(weights(network)[f"{HEAD}.weight"], before[f"{HEAD}.weight"])
    assert adopted.new_classes == ("a", "b", "c")
    whole = start(make(), run)
    assert adopted.taken == whole.taken - 2, "a tensor of which no row was taken is not taken"
    assert adopted.missing == (f"{HEAD}.weight", f"{HEAD}.bias") and not adopted.reshaped
    assert f"weights: {adopted.taken} of {whole.taken} tensors" in adopted.as_text()


def test_kernels_of_the_first_layer_go_by_band_name(run: Path) -> None:
    bands = ("nir", "blue", "green", "red")
    network, old = make(bands=4), weights(make(seed=7))[FIRST]
    adopted = start(network, run, bands=bands)
    kernels = weights(network)[FIRST]
    assert torch.equal(kernels[:, 1:], old[:, [2, 1, 0]]) and torch.allclose(kernels[:, 0], old.mean(1))
    assert (adopted.new_bands, adopted.lost_bands, adopted.reshaped) == (("nir",), (), ())
    assert "; bands that start as the mean of the model's: nir" in adopted.as_text()


def test_fewer_bands_leave_kernels_behind(run: Path) -> None:
    network, old = make(bands=2), weights(make(seed=7))[FIRST]
    adopted = start(network, run, bands=("green", "red"))
    assert torch.equal(weights(network)[FIRST], old[:, [1, 0]])
    assert adopted.lost_bands == ("blue",) and adopted.new_bands == ()


def shown_otherwise(network: Network, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network.eval()(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("encoder", ["repvgg_a0", "mobileone_s0"])
def test_every_layer_that_sees_the_bands_goes_by_their_names(tmp_path: Path, encoder: str) -> None:
    """Re-parameterised encoders read the image by two convolutions or more, which are added."""
    old = make(encoder=encoder, seed=7)
    with torch.no_grad():
        for parameter in old.encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # some branches begin at nothing
    card = ModelCard(
        landseg_version="test", network="unet", encoder=encoder, bands=BANDS, dtype="uint8", mean=(7.0,) * 3, std=(2.0,) * 3,
        classes=make_classes(CLASSES), tile_size=(64, 64),
    )  # fmt: skip
    save_model(tmp_path / "model", old.state_dict(), card)
    images = torch.rand(1, 3, 64, 64) * 9
    turned, wider = make(encoder=encoder), make(encoder=encoder, bands=4)
    adopted = adopt(turned, tmp_path / "model", CLASSES, ("blue", "red", "green"))
    assert not adopted.reshaped and not adopted.new_bands
    with_more = adopt(wider, tmp_path / "model", CLASSES, ("blue", "red", "nir", "green"))
    assert with_more.new_bands == ("nir",) and not with_more.reshaped and not with_more.missing
    turned.mean.fill_(7.0)
    wider.mean.fill_(7.0)
    expected = shown_otherwise(old, images)
    near = 1e-4 * float(expected.abs().max())
    assert torch.allclose(shown_otherwise(turned, images[:, [2, 0, 1]]), expected, atol=near)
    mean = torch.full((1, 1, 64, 64), 7.0)  # a band that says nothing
    assert torch.allclose(shown_otherwise(wider, torch.cat([images[:, [2, 0]], mean, images[:, [1]]], 1)), expected, atol=near)


def test_an_encoder_that_mixes_the_bands_first_wants_them_as_they_were(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "band_layers", lambda _network: ())
    assert not start(make(), run).reshaped
    with pytest.raises(LandsegError, match=r"bands \(blue, green, red\).*red, green, blue"):
        start(make(), run, bands=BANDS[::-1])


def test_of_another_decoder_the_encoder_is_taken(run: Path) -> None:
    network = make(network="fpn")
    before, wanted = weights(network), weights(make(seed=7))
    adopted = start(network, run)
    after = weights(network)
    assert torch.equal(after[FIRST], wanted[FIRST])
    assert torch.equal(after["body.decoder.p5.weight"], before["body.decoder.p5.weight"])
    assert any(name.startswith("body.decoder.p5") for name in adopted.missing)
    assert any(name.startswith("body.decoder.blocks.0") for name in adopted.unused)
    assert "not in it: " in adopted.as_text() and "not used: " in adopted.as_text()


def test_of_another_encoder_what_fits_is_taken_and_counted(run: Path) -> None:
    network = make(encoder="mobilenetv3_small_075")
    before = weights(network)
    adopted = start(network, run)
    after = weights(network)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and adopted.reshaped and not changed & set(adopted.reshaped)


def test_a_model_of_which_nothing_fits_is_refused_and_changes_nothing(run: Path) -> None:
    network = make(network="fpn", encoder="resnet18")
    before = weights(network)
    with pytest.raises(LandsegError, match=rf"none of its \d+ tensors fits; it is unet with {SMALL}.*--set model\.network=unet"):
        start(network, run)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(network).items())


@pytest.mark.parametrize(
    ("network", "encoder"),
    [("dpt", "vit_tiny_patch16_224"), ("segformer", "mit_b0"), ("upernet", "convnext_atto"), ("unet", "hrnet_w18_small")],
)
def test_any_network_begins_as_itself(tmp_path: Path, network: str, encoder: str) -> None:
    old, new = make(network=network, encoder=encoder, seed=7).eval(), make(network=network, encoder=encoder).eval()
    card = ModelCard(
        landseg_version="test", network=network, encoder=encoder, bands=BANDS, dtype="uint8", mean=(7.0,) * 3, std=(2.0,) * 3,
        classes=make_classes(CLASSES), tile_size=(64, 64),
    )  # fmt: skip
    save_model(tmp_path / "model", old.state_dict(), card)
    adopted = adopt(new, tmp_path / "model", CLASSES[::-1], BANDS)
    assert not adopted.missing and not adopted.reshaped and not adopted.unused
    new.mean.fill_(7.0)
    images = torch.rand(1, 3, 64, 64) * 9
    with torch.inference_mode():
        assert torch.allclose(new(images), old(images).flip(1), atol=1e-4)


def test_the_card_is_known_before_the_network_is_built(run: Path, tmp_path: Path) -> None:
    card = base_card(str(run))
    assert card is not None and card.class_names == CLASSES
    for other in ("imagenet", "none", "hf-hub:owner/name", str(run / "model" / "model.safetensors"), str(tmp_path / "nowhere")):
        assert base_card(other) is None


@pytest.mark.parametrize("ask", [base_card, lambda weights: load_start(make(), SMALL, weights, CLASSES, BANDS)])
def test_a_folder_without_a_model_is_one_line(tmp_path: Path, ask: object) -> None:
    with pytest.raises(LandsegError, match=r"model\.weights=.*a folder without a model in it.*run folder or model folder.*pth file"):
        ask(str(tmp_path))  # type: ignore[operator]


def test_files_and_none_go_the_old_way(run: Path) -> None:
    for source in ("none", str(run / "model" / "model.safetensors")):
        assert isinstance(load_start(make(), SMALL, source, CLASSES, BANDS), Loaded)
