"""Small networks with random weights, the cards of their models, and images to show them."""

from __future__ import annotations

import numpy as np
import torch

from landseg.core.classes import make_classes
from landseg.network.build import Network, build
from landseg.network.card import ModelCard

SMALL = "mobilenetv3_small_050"
CPU = torch.device("cpu")
K = 5
"""Classes."""


def card_of(count: int = 3, **changes: object) -> ModelCard:
    """A model of so many bands of 8 bits, but for what is changed."""
    facts = {
        "landseg_version": "0", "network": "unet", "encoder": SMALL, "bands": tuple(f"b{i}" for i in range(count)), "dtype": "uint8",
        "mean": (100.0,) * count, "std": (50.0,) * count, "classes": make_classes([f"c{i}" for i in range(K)]), "tile_size": (64, 64),
    }  # fmt: skip
    return ModelCard.model_validate({**facts, **changes})


def network_of(card: ModelCard, seed: int = 0) -> Network:
    """The card's network, its last layer made larger: a new head hardly tells pixels apart."""
    torch.manual_seed(seed)
    network = build(card.network, card.encoder, len(card.bands), len(card.classes), card.normalisation).eval()
    with torch.no_grad():
        network.body.segmentation_head[0].weight.normal_(0, 1)
    return network


def images(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    """Random pixels."""
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32) * 255 if dtype == "float32" else rng.integers(0, 255, shape).astype(dtype)
