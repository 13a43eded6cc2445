"""Every network with ten encoders trains and predicts, or is refused with what fits: `make slow`, and a few quick checks beside it."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.core.settings import NETWORKS
from landseg.network import build as room
from landseg.network.build import Network, Normalisation, build
from landseg.network.card import ModelCard
from landseg.network.torch_engine import TorchEngine

ROOT = Path(__file__).parents[2]

ENCODERS = (
    "mobilenetv3_large_100",
    "tf_mobilenetv3_large_minimal_100",
    "mobilenet_v2",
    "efficientnet_b0",
    "mit_b0",
    "resnet50",
    "convnext_tiny",
    "hrnet_w18",
    "xception65",
    "vit_small_patch16_224",
)
"""What people take: for phones and weak machines, transformers, the workhorse, and the large ones; timm's and smp's own."""

PAIRS = [(network, encoder) for encoder in ENCODERS for network in NETWORKS]
FIVE_BANDS = [
    *((network, "mobilenetv3_large_100") for network in NETWORKS),
    *(("unet", encoder) for encoder in ENCODERS[1:-1]),
    ("dpt", ENCODERS[-1]),
]
CLASSES = 4
FALL = 1e-3
"""By how much the step of the test would lower the loss if that were a plane: so little that it nearly is one."""


def plain(bands: int) -> Normalisation:
    return Normalisation((127.0,) * bands, (60.0,) * bands)


@cache
def builds(network: str, encoder: str) -> bool:
    try:
        build(network, encoder, 3, CLASSES, plain(3))
    except LandsegError:
        return False
    return True


def fitting(error: LandsegError) -> set[str]:
    """The networks that a refusal names."""
    names = re.fullmatch(r"a pair that fits: \S+ goes with (.+)", error.needed)
    assert names, error.needed
    return set() if names[1] == "none of the networks" else set(names[1].split(", "))


def require_good_refusal(error: LandsegError, network: str, encoder: str) -> None:
    assert error.what == f"model.network={network}" and encoder in error.found and "\n" not in str(error)
    named = fitting(error)
    assert named == {other for other in NETWORKS if builds(other, encoder)}
    for other in re.findall(r"model\.network=(\w+)", error.do):
        assert other in named
    for twin in re.findall(r"model\.encoder=([\w-]+)", error.do):
        assert builds(network, twin)
    assert named or "choose another encoder" in error.do


def require_learning(network: Network, bands: int) -> None:
    """A small step downhill lowers the loss of the same batch, and reaches encoder, decoder and head."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, bands, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (2, 64, 64), generator=generator)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)  # the same units are dropped each time
        return F.cross_entropy(network(images), labels)

    before = {name: weights.detach().clone() for name, weights in network.named_parameters()}
    first = loss()
    first.backward()
    gradients = {name: weights.grad for name, weights in network.named_parameters() if weights.grad is not None}
    # Stages deeper than pspnet looks and heads of classifiers have none.
    assert all(name.startswith("body.encoder.") for name in before.keys() - gradients.keys())
    square = sum(float(gradient.double().square().sum()) for gradient in gradients.values())
    assert np.isfinite(square) and square > 0
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name in gradients:
                weights -= FALL / square * gradients[name]
    changed = {name.split(".")[1] for name, weights in network.named_parameters() if not torch.equal(weights, before[name])}
    assert {"encoder", "decoder", "segmentation_head"} <= changed == {name.split(".")[1] for name in before}
    assert float(loss().detach()) < float(first.detach())


def require_predictions(network: Network, network_name: str, encoder: str, bands: int) -> None:
    card = ModelCard(
        landseg_version="0",
        network=network_name,
        encoder=encoder,
        bands=tuple(f"b{i}" for i in range(bands)),
        dtype="uint8",
        mean=plain(bands).mean,
        std=plain(bands).std,
        classes=make_classes([f"c{i}" for i in range(CLASSES)]),
        tile_size=(64, 64),
    )
    engine = TorchEngine(network, card, torch.device("cpu"))
    random = np.random.default_rng(0)
    for height, width in ((64, 96), (50, 75)):
        images = random.integers(0, 256, (1, height, width, bands), np.uint8)
        logits = engine.logits(images)
        assert logits.shape == (1, CLASSES, height, width) and np.isfinite(logits).all()
        assert len(np.unique(logits[0, 0])) > 1  # it looks at the image
        assert np.array_equal(engine.preds(images), logits.argmax(1))


def require_all(network: str, encoder: str, bands: int) -> None:
    torch.manual_seed(0)
    try:
        built = build(network, encoder, bands, CLASSES, plain(bands))
    except LandsegError as error:
        require_good_refusal(error, network, encoder)
        return
    fresh = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    require_learning(built, bands)
    built.load_state_dict(fresh)  # one step's statistics of two images say nothing of others
    require_predictions(built, network, encoder, bands)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "encoder"), PAIRS)
def test_a_pair_trains_and_predicts_or_is_refused_with_what_fits(network: str, encoder: str) -> None:
    require_all(network, encoder, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "encoder"), FIVE_BANDS)
def test_five_bands_fit_wherever_three_do(network: str, encoder: str) -> None:
    assert builds(network, encoder)
    require_all(network, encoder, 5)


@pytest.mark.slow
def test_an_encoder_that_leaves_nothing_of_a_small_tile_sees_it_filled_up() -> None:
    built = build("unet", "inception_v4", 3, CLASSES, plain(3))
    assert built.smallest > 64
    with torch.inference_mode():
        for height, width in ((32, 64), (96, 160)):
            assert built.eval()(torch.zeros(1, 3, height, width)).shape == (1, CLASSES, height, width)


@pytest.mark.parametrize(("kernel", "fits"), [(31, True), (33, False)])
def test_what_leaves_nothing_of_a_small_image_is_noticed(kernel: int, fits: bool) -> None:
    body = torch.nn.Sequential(torch.nn.Conv2d(2, 1, kernel), torch.nn.Dropout())
    assert room._takes(body, 2, 32) is fits
    assert all(module.training for module in body.modules())


@pytest.mark.parametrize(
    ("encoder", "do"),
    [
        ("resnet18", "--set model.network=unet, or --set model.encoder=tu-resnet18, which is timm's own"),
        ("mobilenet_v2", "--set model.network=unet"),  # timm has one, under another name
    ],
)
def test_timms_own_encoder_of_the_name_is_offered_where_it_fits(monkeypatch: pytest.MonkeyPatch, encoder: str, do: str) -> None:
    monkeypatch.setattr(room, "_fits", lambda network, name, bands, classes: network == "unet" or name == "tu-resnet18")
    with pytest.raises(LandsegError) as caught:
        build("dpt", encoder, 3, CLASSES, plain(3))
    assert fitting(caught.value) == {"unet"} and caught.value.do == do


def networks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("networks", ROOT / "bench" / "networks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_networks_is_what_the_record_says() -> None:
    bench = networks()
    record = json.loads(bench.RECORD.read_text(encoding="utf-8"))
    assert bench.PAGE.read_text(encoding="utf-8") == bench.page(record), "run `python bench/networks.py`"
    assert {(pair["network"], pair["encoder"]) for pair in record["pairs"]} == set(PAIRS)
