"""The STAC Item is valid by STAC's own schema and by the Machine Learning Model extension's description, and PySTAC reads it."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pystac
import pytest
from pystac.extensions.mlm import MLMExtension
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry
from referencing.jsonschema import DRAFT7

from landseg.core.classes import make_classes
from landseg.network.card import ModelCard
from landseg.network.stac import FILE, MLM, mlm_item

FILES = {"model.onnx": (1000, "ab" * 32), "qgis.onnx": (1001, "cd" * 32), "model.json": (7, "01" * 32), "README.md": (8, "23" * 32)}

ITEM = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"

TASKS = ["semantic-segmentation"]
STRUCTURE: dict[str, Any] = {
    "type": "object",
    "required": ["shape", "dim_order", "data_type"],
    "properties": {
        "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": -1}},
        "dim_order": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "pattern": "^[a-z-_]+$"}},
        "data_type": {"enum": ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]},
    },
}
CLASS = {
    "type": "object",
    "required": ["value", "name", "description"],  # 1.1 of the classification extension asks for the description, 2.0 for the name
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
        "description": {"type": "string", "minLength": 1},
        "color_hint": {"type": "string", "pattern": "^[0-9A-F]{6}$"},
    },
    "additionalProperties": False,
}
INPUT = {
    "type": "object",
    "required": ["name", "bands", "input"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "bands": {"type": "array", "items": {"type": "string", "minLength": 1}},
        "input": STRUCTURE,
        "description": {"type": "string", "minLength": 1},
        "value_scaling": {"type": "null"},  # normalisation is inside the network
        "resize_type": {"enum": [None, "interpolation-linear", "interpolation-area"]},
        "pre_processing_function": {"type": "null"},
    },
    "additionalProperties": False,
}
OUTPUT = {
    "type": "object",
    "required": ["name", "tasks", "result", "classification:classes"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string", "minLength": 1},
        "tasks": {"const": TASKS},
        "result": STRUCTURE,
        "classification:classes": {"type": "array", "minItems": 1, "items": CLASS},
        "post_processing_function": {"type": "null"},
    },
    "additionalProperties": False,
}
MODEL_ROLE = {"required": ["roles"], "properties": {"roles": {"contains": {"const": "mlm:model"}}}}
MLM_SCHEMA: dict[str, Any] = {
    "$comment": "Written from the published description of the extension, version 1.4.0; stricter where we say one thing alone.",
    "type": "object",
    "required": ["stac_extensions", "properties", "assets"],
    "properties": {
        "stac_extensions": {"contains": {"const": MLM}},
        "properties": {
            "required": ["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output", "bands"],
            "properties": {
                "mlm:name": {"type": "string", "pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
                "mlm:architecture": {"type": "string", "minLength": 1},
                "mlm:tasks": {"const": TASKS},
                "mlm:framework": {"enum": ["ONNX", "OpenVINO"]},
                "mlm:framework_version": {"type": "string", "pattern": r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$"},
                "mlm:pretrained": {"type": "boolean"},
                "mlm:pretrained_source": {"type": ["string", "null"]},
                "mlm:accelerator": {"type": "null"},
                "mlm:accelerator_constrained": {"const": False},
                "mlm:input": {"type": "array", "minItems": 1, "maxItems": 1, "items": INPUT},
                "mlm:output": {"type": "array", "minItems": 1, "maxItems": 1, "items": OUTPUT},
                "mlm:hyperparameters": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^[0-9a-zA-Z_.-]+$"}},
                "bands": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["name"]}},
            },
            "patternProperties": {"^(?!mlm:)": {}},
            "additionalProperties": False,
        },
        "assets": {
            "required": ["model"],
            "properties": {"model": {"allOf": [MODEL_ROLE, {"required": ["mlm:artifact_type", "type", "href", "file:checksum"]}]}},
            "additionalProperties": {"not": MODEL_ROLE},
        },
    },
}


def card(**changes: object) -> ModelCard:
    facts = {
        "landseg_version": "0", "network": "deeplabv3plus", "encoder": "mobilenetv3_large_100", "bands": ("red", "green", "blue"),
        "dtype": "uint8", "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "tile_size": (256, 200), "resolution_m": 2.0,
        "classes": make_classes(["建筑", "bare land", "林地", "other"]), "weights_sha256": "ef" * 32,
        "recipe": {"model": {"weights": "imagenet"}},
    }  # fmt: skip
    return ModelCard.model_validate({**facts, **changes})


def made(runtime: str = "onnx", files: dict[str, tuple[int, str]] = FILES, **changes: object) -> dict[str, Any]:
    return mlm_item(card(**changes), runtime, "1.32.0", files, 0.25)


def validate(item: dict[str, Any]) -> None:
    cache = get_local_schema_cache()
    registry = Registry().with_resources((uri, DRAFT7.create_resource(schema)) for uri, schema in cache.items())
    jsonschema.Draft7Validator(cache[ITEM], registry=registry).validate(item)
    jsonschema.Draft7Validator(MLM_SCHEMA).validate(item)


@pytest.mark.parametrize(
    "item",
    [
        made(),
        made(bands=tuple(f"B{i:02d}" for i in range(12)), dtype="uint16", resolution_m=None, recipe={}),
        made("openvino", {"model.xml": (5, "45" * 32), "model.bin": (6, "67" * 32)}, size=512, recipe={"model": {"weights": "none"}}),
        made(encoder="hf_hub:some one/encoder!", network="unet", size=128),
    ],
    ids=["onnx", "twelve bands", "openvino", "an odd encoder"],
)
def test_the_item_is_valid(item: dict[str, Any]) -> None:
    validate(item)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("properties", "mlm:input"), None),
        (("properties", "mlm:tasks"), ["painting"]),
        (("properties", "mlm:mood"), "good"),
        (("properties", "mlm:input", 0, "input", "shape"), [-2, 3]),
        (("properties", "mlm:output", 0, "classification:classes", 0, "name"), "建筑"),
        (("assets", "model", "roles"), ["data"]),
        (("stac_extensions",), [FILE]),
        (("bbox",), [0, 0, 1]),
        (("properties", "datetime"), "yesterday"),
    ],
    ids=lambda value: "/".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_the_schemas_see_what_is_wrong(path: tuple[str | int, ...], value: object) -> None:
    item = copy.deepcopy(made())
    place: Any = item
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(item)


def test_pystac_reads_what_the_card_says() -> None:
    item = pystac.Item.from_dict(made())
    found = MLMExtension.ext(item)
    assert found.mlm_name == "landseg-deeplabv3plus-mobilenetv3_large_100" and found.architecture == "DeepLabV3+"
    (one,), (other,) = found.input, found.output
    assert one.input.shape == [-1, 3, -1, -1] and one.bands == ["red", "green", "blue"]
    assert other.result.shape == [-1, 4, -1, -1]
    classes = other.classes
    assert classes is not None and [item.value for item in classes] == [0, 1, 2, 3]
    assert [item.description for item in classes] == ["建筑", "bare land", "林地", "other"]
    assert [item.color_hint for item in classes] == [item.colour[1:].upper() for item in card().classes]
    names = [item.name for item in classes]
    assert names == ["class_0", "bare_land_1", "class_2", "other"], "for machines, and none twice"
    assert item.assets["model"].extra_fields["file:checksum"] == "1220" + "ab" * 32


def test_the_same_model_gives_the_same_item() -> None:
    assert made() == made() and made()["id"] != made(weights_sha256="00" * 32)["id"]
    assert "gsd" not in made(resolution_m=None)["properties"] and made()["properties"]["gsd"] == 2.0


@pytest.mark.parametrize(
    ("weights", "pretrained", "source"),
    [
        ("imagenet", True, "ImageNet"),
        ("none", False, None),
        ("hf-hub:owner/name", True, "hf-hub:owner/name"),
        ("secret/mine.pth", True, "other weights"),
    ],
)
def test_where_weights_began_is_said_without_a_path(weights: str, pretrained: bool, source: str | None) -> None:
    properties = made(recipe={"model": {"weights": weights}})["properties"]
    assert (properties["mlm:pretrained"], properties["mlm:pretrained_source"]) == (pretrained, source)
