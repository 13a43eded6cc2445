"""A STAC Item that says with the Machine Learning Model extension what an exported network takes and gives. It reads and writes no file.

Source: the extension's published description, version 1.4.0 (the newest that PySTAC reads), and STAC 1.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from landseg import __version__
from landseg.network.metadata import INPUT, OUTPUT

if TYPE_CHECKING:
    from landseg.core.classes import LandClass
    from landseg.network.card import ModelCard

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

_TASK = "semantic-segmentation"
_ARCHITECTURES = {
    "deeplabv3plus": "DeepLabV3+",
    "unet": "U-Net",
    "unetplusplus": "U-Net++",
    "fpn": "FPN",
    "pspnet": "PSPNet",
    "linknet": "LinkNet",
    "manet": "MA-Net",
    "pan": "PAN",
    "upernet": "UPerNet",
    "segformer": "SegFormer",
    "dpt": "DPT",
}
_RUNTIMES = {"onnx": "ONNX", "openvino": "OpenVINO"}
_MEDIA = {".json": "application/json", ".md": "text/markdown", ".xml": "application/xml"}
_TITLES = {
    "model.onnx": "the network",
    "model.xml": "the network",
    "model.bin": "the network's weights",
    "qgis.onnx": "the network for QGIS's plugin Deepness",
    "model.json": "the model card of landseg",
    "README.md": "what it is, for people",
}


def mlm_item(card: ModelCard, runtime: str, runtime_version: str, files: Mapping[str, tuple[int, str]], overlap: float) -> dict[str, Any]:
    """The Item, ready to be written as ``item.json`` beside the files.

    It holds no time and no place: the card knows neither, and the same model gives the same Item.

    Args:
        card: What the model is.
        runtime: ``onnx`` or ``openvino``.
        runtime_version: Version of the library that it was proved with.
        files: Name → size in bytes and SHA-256 of each file beside it, the network among them.
        overlap: Share of a window's edge that neighbouring windows have in common.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"landseg-{card.network}-{card.encoder}").strip("-._")
    properties: dict[str, Any] = {
        "description": f"Land-cover classes of each pixel: {', '.join(card.class_names)}. Exported by landseg {__version__}.",
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",  # STAC wants a span where there is no time; the extension's examples take this one
        "end_datetime": "9999-12-31T23:59:59Z",
        "bands": [{"name": band, "data_type": card.dtype} for band in card.bands],
        "mlm:name": name,
        "mlm:architecture": _ARCHITECTURES.get(card.network, card.network),
        "mlm:tasks": [_TASK],
        "mlm:framework": _RUNTIMES[runtime],
        "mlm:framework_version": _semantic(runtime_version),
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        **_pretrained(card),
        "mlm:input": [_input(card)],
        "mlm:output": [_output(card)],
        "mlm:hyperparameters": {
            "overlap": overlap,
            "scale": card.factor,
            "tile_height": card.tile_size[0],
            "tile_width": card.tile_size[1],
            "ignore_index": card.ignore_index,
        },
    }
    if card.resolution_m is not None:
        properties["gsd"] = card.resolution_m
    assets = {_asset_key(file): _asset(file, runtime, *facts) for file, facts in files.items()}
    assets["model"]["bands"] = [{"name": band} for band in card.bands]  # STAC 1.1 has them in the properties only if an asset has them too
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE],
        "id": f"{name}-{card.weights_sha256[:12]}",
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def _input(card: ModelCard) -> dict[str, Any]:
    resize = "interpolation-area" if card.factor < 1 else "interpolation-linear" if card.factor > 1 else None
    return {
        "name": INPUT,
        "description": f"Pixels as they are in files of {card.dtype}; normalisation is inside. Any height and width.",
        "bands": list(card.bands),
        "input": {
            "shape": [-1, len(card.bands), -1, -1],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": None,
        "resize_type": resize,
        "pre_processing_function": None,
    }


def _output(card: ModelCard) -> dict[str, Any]:
    return {
        "name": OUTPUT,
        "description": "One plane a class; the class of a pixel is that of the highest value.",
        "tasks": [_TASK],
        "result": {
            "shape": [-1, len(card.classes), -1, -1],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [_class(item) for item in card.classes],
        "post_processing_function": None,
    }


def _class(item: LandClass) -> dict[str, Any]:
    """A class object of the classification extension, whose `name` is for machines: letters, numbers, ``-`` and ``_`` alone."""
    plain = re.sub(r"[^0-9A-Za-z_-]+", "_", item.name).strip("_")
    # What is lost of a name in another script would leave two classes alike; the id tells them apart.
    name = plain if plain == item.name else f"class_{item.id}" if not plain else f"{plain}_{item.id}"
    return {"value": item.id, "name": name, "description": item.name, "color_hint": item.colour[1:].upper()}


def _pretrained(card: ModelCard) -> dict[str, Any]:
    """Where the encoder's weights began, as far as the card's recipe says it; no path of anybody's machine."""
    weights = card.recipe.get("model", {}).get("weights")
    if weights is None:
        return {}
    if weights == "none":
        return {"mlm:pretrained": False, "mlm:pretrained_source": None}
    source = "ImageNet" if weights == "imagenet" else weights if str(weights).startswith("hf-hub:") else "other weights"
    return {"mlm:pretrained": True, "mlm:pretrained_source": source}


def _asset_key(file: str) -> str:
    return {"model.onnx": "model", "model.xml": "model", "model.bin": "weights", "qgis.onnx": "qgis", "model.json": "card"}.get(file, file)


def _asset(file: str, runtime: str, size: int, sha256: str) -> dict[str, Any]:
    suffix = file[file.rfind(".") :]
    binary = f"application/octet-stream; framework={'onnx' if suffix == '.onnx' else runtime}"
    asset: dict[str, Any] = {
        "href": f"./{file}",
        "title": _TITLES.get(file, file),
        "type": _MEDIA.get(suffix, binary),
        "roles": ["metadata"],
        "file:size": size,
        "file:checksum": f"1220{sha256}",  # a multihash: SHA-256, 32 bytes
    }
    if file in ("model.onnx", "model.xml"):
        asset |= {"roles": ["mlm:model", "data"], "mlm:artifact_type": runtime}
    elif suffix in (".onnx", ".bin"):  # QGIS's takes other pixels than the input that the Item describes
        asset["roles"] = ["mlm:weights", "data"] if suffix == ".bin" else ["data"]
    return asset


def _semantic(version: str) -> str:
    """``2026.4.1-22982-abc`` → ``2026.4.1``: the extension takes semantic versions of three numbers."""
    numbers = [str(int(number)) for number in re.findall(r"\d+", version.partition("-")[0])[:3]]
    return ".".join([*numbers, "0", "0", "0"][:3])
