"""What an exported network says of itself: keys inside its file, and a page for people. It reads and writes no file."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from landseg import __version__
from landseg.network.sizes import STRIDE

if TYPE_CHECKING:
    from landseg.network.card import ModelCard

INPUT, OUTPUT, PROBABILITIES = "image", "logits", "probabilities"
"""Names of an exported network's input and output; `PROBABILITIES` is the output of the file for QGIS."""

QGIS_EDGE = 512
"""Pixels a side that QGIS shows the network at once, or a training tile where that is larger: as `predict` does with scenes."""

_PREFIX = "landseg_"


def own_keys(card: ModelCard, overlap: float) -> dict[str, str]:
    """landseg's own keys, each ``landseg_NAME`` with a JSON value.

    Args:
        card: What the model is.
        overlap: Share of a window's edge that neighbouring windows have in common, 0 to 0.75.

    Returns:
        ``version``, ``bands`` (in the order of the input's channels), ``dtype`` (of the pixels as they are in the files), ``classes``
        (id, name, colour), ``ignore_index``, ``resolution_m`` (metres a pixel of the images, or null), ``scale`` (the factor by which
        images are resized before the network), ``tile_size`` (height, width of the training tiles), ``overlap``, ``multiple`` (heights
        and widths that are none of it are filled up inside) and the names of the network and its encoder.
    """
    values = {
        "version": __version__,
        "network": card.network,
        "encoder": card.encoder,
        "bands": card.bands,
        "dtype": card.dtype,
        "classes": [item.model_dump(mode="json") for item in card.classes],
        "ignore_index": card.ignore_index,
        "resolution_m": card.resolution_m,
        "scale": card.factor,
        "tile_size": card.tile_size,
        "overlap": overlap,
        "multiple": STRIDE,
    }
    return {_PREFIX + key: _json(value) for key, value in values.items()}


def deepness_keys(card: ModelCard, edge: int, overlap: float, *, divides: bool) -> dict[str, str]:
    """The keys that QGIS's plugin Deepness reads of a segmentation network, each with a JSON value.

    The plugin divides pixels by 255 and then takes off a mean and divides by a deviation, both its default 0 and 1. A network that wants
    pixels as they are gets them with a deviation of 1/255.

    Args:
        card: What the model is.
        edge: Pixels a side that the network is shown.
        overlap: Share of a tile's edge that neighbours have in common.
        divides: True for a network that takes the plugin's pixels divided by 255, False for one that takes them as they are.

    Source: the plugin's documentation, "Adding metadata to ONNX model"; ``tile_size`` and the two keys of standardisation its readers.
    """
    bands = len(card.bands)
    keys: dict[str, object] = {
        "model_type": "Segmentor",
        "class_names": {str(item.id): item.name for item in card.classes},
        "tile_size": edge,  # what the plugin reads; its documentation has the next
        "tiles_size": edge,
        "tiles_overlap": round(100 * overlap),
        "seg_thresh": 0.0,  # every pixel has the class of highest probability
        "seg_small_segment": 0,
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1.0 if divides else 1 / 255] * bands,
    }
    if card.resolution_m is not None:
        keys["resolution"] = round(100 * card.resolution_m / card.factor, 6)  # centimetres a pixel of what the network sees
    return {key: _json(value) for key, value in keys.items()}


def qgis_edge(card: ModelCard) -> int:
    """Pixels a side of the squares that QGIS shows the network: a multiple of `STRIDE`."""
    return STRIDE * math.ceil(max(QGIS_EDGE, max(card.tile_size) * card.factor) / STRIDE)


def page(card: ModelCard, network_file: str, overlap: float, *, has_qgis: bool, notes: tuple[str, ...] = ()) -> str:
    """README.md of an exported folder: what the files are, what goes in, what comes out.

    Args:
        card: What the model is.
        network_file: Name of the network's file.
        overlap: As in `own_keys`.
        has_qgis: Whether the file for QGIS lies beside it.
        notes: Sentences on how it was made: what was proved, what int8 costs.
    """
    rows = "\n".join(f"| {item.id} | {item.name} | `{item.colour}` |" for item in card.classes)
    resolution = "not known" if card.resolution_m is None else f"{card.resolution_m:g} m a pixel"
    lines = [
        f"# {card.network} with {card.encoder}, {len(card.classes)} classes",
        "",
        f"Exported by landseg {__version__}. For its commands the folder is a model: `landseg predict FOLDER scene.tif --out maps`.",
        "",
        "| file | what |",
        "|---|---|",
        f"| `{network_file}` | the network |",
        *(["| `model.bin` | its weights |"] if network_file.endswith(".xml") else []),
        "| `model.json` | the model card, with the checksums of the network's files |",
        "| `item.json` | a STAC Item with the Machine Learning Model extension |",
        *(["| `qgis.onnx` | the same network for QGIS's plugin Deepness |"] if has_qgis else []),
        "",
        "## In and out",
        "",
        f"- `{INPUT}`: float32 (batch, {len(card.bands)}, height, width), pixels as they are in files of {card.dtype}.",
        f"  Normalisation is inside. Bands: {', '.join(card.bands)}. Resolution: {resolution}.",
        f"- `{OUTPUT}`: float32 (batch, {len(card.classes)}, height, width); the class is the one of the highest.",
        f"- Any height and width: inside, the last row and column are repeated up to a multiple of {STRIDE}, and the logits cut again.",
        *_scale_lines(card),
        f"- Of a large image, show windows that overlap by {overlap:.0%} of their edge, and blend them.",
        "",
        "| id | class | colour |",
        "|---|---|---|",
        rows,
    ]
    if notes:
        lines += ["", "## How it was made", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _scale_lines(card: ModelCard) -> list[str]:
    """What only a model that was trained at another size has to say."""
    if card.factor == 1:
        return []
    return [f"- Resize images by {card.factor:g} before (the mean of areas, or bilinear), and logits back after: it was trained so."]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
