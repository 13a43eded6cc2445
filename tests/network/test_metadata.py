"""An exported network says of itself what other programs ask for, in the words that they know."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.network import metadata, onnx_engine
from landseg.network.card import ModelCard
from landseg.network.metadata import deepness_keys, own_keys, page, qgis_edge


def card(**changes: object) -> ModelCard:
    facts = {
        "landseg_version": "0", "network": "unet", "encoder": "mobilenetv3_small_050", "bands": ("red", "green", "blue"), "dtype": "uint8",
        "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0),
        "classes": make_classes(["建筑", "road", "other"], ["#010203", "#aabbcc", "#ffffff"]), "tile_size": (256, 200), "resolution_m": 2.0,
    }  # fmt: skip
    return ModelCard.model_validate({**facts, **changes})


def read(keys: dict[str, str]) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in keys.items()}


def deepness_input(pixels: np.ndarray, keys: dict[str, Any]) -> np.ndarray:
    """What the plugin hands to a network, by its published description: divided by 255, less the mean, divided by the deviation."""
    mean, std = (np.reshape(keys[f"standardization_{name}"], (1, -1, 1, 1)) for name in ("mean", "std"))
    return (pixels / 255 - mean) / std


def test_names_are_those_of_the_converted_network() -> None:
    assert (metadata.INPUT, metadata.OUTPUT) == (onnx_engine.IMAGE, onnx_engine.LOGITS)


def test_own_keys_hold_what_the_card_knows() -> None:
    keys = read(own_keys(card(size=512), 0.5))
    assert keys["landseg_classes"] == [
        {"id": 0, "name": "建筑", "colour": "#010203"},
        {"id": 1, "name": "road", "colour": "#aabbcc"},
        {"id": 2, "name": "other", "colour": "#ffffff"},
    ]
    assert keys["landseg_bands"] == ["red", "green", "blue"] and keys["landseg_dtype"] == "uint8"
    assert (keys["landseg_resolution_m"], keys["landseg_overlap"], keys["landseg_scale"]) == (2.0, 0.5, 2.0)
    assert keys["landseg_tile_size"] == [256, 200] and keys["landseg_multiple"] == 32 and keys["landseg_ignore_index"] == 255
    assert "建筑" in own_keys(card(), 0.25)["landseg_classes"], "names are readable in the file"


def test_the_qgis_plugin_finds_its_keys() -> None:
    keys = read(deepness_keys(card(size=512), 512, 0.25, divides=True))
    assert keys["model_type"] == "Segmentor"
    assert keys["class_names"] == {"0": "建筑", "1": "road", "2": "other"}
    assert keys["resolution"] == 100, "centimetres a pixel, of what the network sees: twice as fine as the images"
    assert keys["tile_size"] == keys["tiles_size"] == 512 and keys["tiles_overlap"] == 25
    assert keys["seg_thresh"] == 0, "no pixel is left without its class"
    assert "resolution" not in read(deepness_keys(card(resolution_m=None), 512, 0.25, divides=True)), "what is not known is not said"


@pytest.mark.parametrize("bands", [1, 3, 12])
def test_pixels_reach_the_network_as_the_file_has_them(bands: int) -> None:
    names = tuple(f"b{i}" for i in range(bands))
    many = card(bands=names, mean=(1.0,) * bands, std=(1.0,) * bands)
    pixels = np.arange(256, dtype=np.float64).reshape(1, 1, 16, 16).repeat(bands, 1)
    raw = deepness_input(pixels, read(deepness_keys(many, 512, 0.25, divides=False)))
    assert np.allclose(raw, pixels, atol=1e-9)
    divided = deepness_input(pixels, read(deepness_keys(many, 512, 0.25, divides=True)))
    assert np.allclose(divided * 255, pixels, atol=1e-9)


@pytest.mark.parametrize(
    ("tile", "size", "edge"), [((256, 200), None, 512), ((600, 700), None, 704), ((100, 100), 700, 704), ((640, 640), 320, 512)]
)
def test_qgis_shows_squares_that_fit_the_network(tile: tuple[int, int], size: int | None, edge: int) -> None:
    assert qgis_edge(card(tile_size=tile, size=size)) == edge


def test_the_page_says_what_goes_in_and_what_comes_out() -> None:
    text = page(card(), "model.onnx", 0.25, has_qgis=True, notes=("proved",))
    assert all(
        word in text
        for word in ("model.onnx", "qgis.onnx", "item.json", "建筑", "#aabbcc", "red, green, blue", "2 m a pixel", "25%", "- proved")
    )
    assert "Resize" not in text and "Resize images by 2 before" in page(card(size=512), "model.onnx", 0.25, has_qgis=True)
    other = page(card(resolution_m=None), "model.xml", 0.25, has_qgis=False)
    assert "model.bin" in other and "qgis.onnx" not in other and "not known" in other
