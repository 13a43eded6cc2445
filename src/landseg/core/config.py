"""Typed settings: one section a room that has knobs, and the recipes that set them. It checks values, not files or machines."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from landseg.core.errors import LandsegError

NETWORKS = ("deeplabv3plus", "unet", "unetplusplus", "fpn", "pspnet", "linknet", "manet", "pan", "upernet", "segformer", "dpt")


class Section(BaseModel):
    """A part of a recipe: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which network, and where its weights begin."""

    network: Literal["deeplabv3plus", "unet", "unetplusplus", "fpn", "pspnet", "linknet", "manet", "pan", "upernet", "segformer", "dpt"] = (
        Field("deeplabv3plus", description="decoder, by the name that segmentation_models_pytorch gives it")
    )
    encoder: str = Field("mobilenetv3_large_100", description="encoder: a timm name, or one of segmentation_models_pytorch's own")
    decoder_channels: tuple[int, ...] | None = Field(
        None,
        min_length=5,
        max_length=5,
        description="channels of the decoder's five stages, deepest first (unet, unetplusplus, manet); null takes the network's own",
    )
    weights: str = Field(
        "imagenet", description="where the encoder's weights begin: imagenet | none | path of a safetensors or pth file | hf-hub:owner/name"
    )


class TrainConfig(Section):
    """How long, how fast and on what to train."""

    epochs: int | None = Field(60, ge=1, description="epochs to train; the learning rate's schedule ends there")
    minutes: float | None = Field(
        None, gt=0, description="minutes to train, validation included; when set it ends the run and the schedule in place of train.epochs"
    )
    batch: int = Field(16, ge=1, description="tiles (or crops of them) a step")
    crop: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="edge length in pixels of the square crops that training takes of larger tiles, as many an epoch as cover their area; "
        "null takes the shape that most training tiles have, or 512 where that is longer than 1024 a side",
    )
    size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="edge length in pixels to which training tiles (or crops) are resized, larger or smaller ones by the same factor, "
        "predicted ones too; null keeps their own",
    )
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd (momentum, Nesterov) or adamw")
    lr: float = Field(0.01, gt=0, description="highest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    nesterov: bool = Field(True, description="Nesterov's form of sgd's momentum")
    weight_decay: float = Field(4e-5, ge=0, description="weight decay; biases and normalisation layers have none")
    schedule: Literal["polynomial", "cosine"] = Field(
        "polynomial", description="how the learning rate falls: polynomial (power 0.9) or half a cosine"
    )
    warmup: float = Field(0.02, ge=0, lt=1, description="share of the run in which the learning rate rises, from a tenth of the highest")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null does not clip")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay a step of the weights' moving average that is validated and kept; null keeps the weights"
    )
    patience: int | None = Field(
        None, ge=1, description="validations without a better mIoU after which the run stops early; null never does"
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last epoch is always validated")
    save_minutes: float = Field(
        10.0,
        gt=0,
        description="minutes between states within an epoch; its end saves one too, where that takes less than 5 % of the time",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random draw")
    precision: Literal["auto", "32", "bf16", "16"] = Field(
        "auto", description="arithmetic: 32, bf16 or 16 bits; auto takes bf16 on a GPU that has it, else 32"
    )
    compile: bool = Field(False, description="compile the network with torch.compile (needs a C++ compiler; pays on runs of many steps)")
    device: str = Field("auto", description="auto | cpu | cuda | cuda:1 | mps")

    @field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # `precision: 32` is what a person writes


class DataConfig(Section):
    """How tiles reach the training loop."""

    pack: bool = Field(True, description="decode all tiles once into a memory-mapped file; false decodes them anew each epoch")
    workers: int | None = Field(None, ge=1, description="threads that decode; null uses every core")


class AugmentConfig(Section):
    """Random changes to each training tile; image and label move together."""

    flips: bool = Field(True, description="left-right and up-down flips, each with probability one half")
    quarter_turns: bool = Field(True, description="rotation by 0, 90, 180 or 270 degrees (square tiles; others turn by 180)")
    rotation_deg: float = Field(
        0.0, ge=0, le=180, description="largest rotation in degrees, drawn evenly; what it exposes becomes the ignore index"
    )
    blur: float = Field(0.0, ge=0, le=1, description="share of tiles that are blurred (Gaussian, sigma 0.5 to 1.5 pixels)")


class LossConfig(Section):
    """What training lowers."""

    name: Literal["cross_entropy"] = Field("cross_entropy", description="cross-entropy over the labelled pixels of the batch")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each target spread over all classes")
    class_weights: tuple[float, ...] | None = Field(None, description="one weight a class, in the order of the ids; null weighs all alike")


class PredictConfig(Section):
    """How a trained model is run."""

    batch: int = Field(16, ge=1, description="tiles a step of the network")
    device: str = Field("auto", description="auto | cpu | cuda | cuda:1 | mps")
    bands: tuple[int, ...] | None = Field(None, description="which bands of each image to use, counted from 1; null uses all")


class Recipe(Section):
    """Every setting of landseg."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    predict: PredictConfig = PredictConfig()

    @model_validator(mode="after")
    def _ends(self) -> Recipe:
        if self.train.epochs is None and self.train.minutes is None:
            raise ValueError("train.epochs and train.minutes are both null, so the run would never end; set one")
        return self


def load_recipe(recipe: str | Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """Resolve the settings: defaults, then a recipe, then single settings.

    Args:
        recipe: Name of a shipped recipe, path of a YAML file, or None for the recipe `default`.
        settings: ``key=value`` each, the value read as YAML: ``train.lr=1e-3``, ``predict.bands=[1,2,3]``.

    Raises:
        LandsegError: No such recipe, an unknown key, a value of the wrong type or out of range.
    """
    name, values = _read(recipe or "default")
    where = dict.fromkeys(_leaves(values), name)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise LandsegError(
                f"--set {setting}", "no key=value", "for example --set train.lr=0.01", "write the key, an equals sign and the value"
            )
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise LandsegError(
                f"--set {setting}", "its value is not YAML", "a number, a word or [a, list]", "put quotes around it"
            ) from error
        parts = key.strip().split(".")
        place = values
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise _unknown(f"--set {setting}", parts)
        place[parts[-1]] = value
        where[key.strip()] = f"--set {setting}"
    return parse_recipe(values, where, name)


def parse_recipe(values: dict[str, Any], where: dict[str, str] | None = None, name: str = "recipe") -> Recipe:
    """Check a tree of settings against the schema; `where` says for each dotted key where it was set.

    Raises:
        LandsegError: For the first fault: its key, the value found, what is needed, the nearest key for a typo.
    """
    try:
        return Recipe.model_validate(_tuples(values))
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        key = ".".join(parts)
        origins = where or {}
        near = (text for known, text in origins.items() if known.startswith(f"{key}.") or key.startswith(f"{known}."))
        origin = origins.get(key) or next(near, name)
        if first["type"] == "extra_forbidden":
            raise _unknown(origin, parts) from error
        if not parts:
            raise LandsegError(
                origin, first["msg"].removeprefix("Value error, "), "settings that fit together", "see `landseg recipe show default`"
            ) from error
        needed = first["msg"][0].lower() + first["msg"][1:]
        raise LandsegError(f"{origin}: {key}", f"{first['input']!r}", needed, describe(re.sub(r"(\.\d+)+$", "", key))) from error


def recipe_names() -> list[str]:
    """Names of the shipped recipes, `default` first."""
    found = sorted(item.name.removesuffix(".yaml") for item in resources.files("landseg.recipes").iterdir() if item.name.endswith(".yaml"))
    return sorted(found, key=lambda name: name != "default")


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe, comments included.

    Raises:
        LandsegError: There is no such recipe.
    """
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean {near[0]}?" if near else "`landseg recipe list` shows them"
        raise LandsegError(
            name, "no shipped recipe and no file of that name", f"one of {', '.join(recipe_names())}, or the path of a YAML file", hint
        )
    return (resources.files("landseg.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def to_yaml(recipe: Recipe) -> str:
    """The resolved settings as YAML that `load_recipe` reads back to an equal recipe."""
    return str(yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def fields() -> Iterator[tuple[str, str, str, str]]:
    """Every setting: dotted key, type, default as YAML, description."""
    for section, holder in Recipe.model_fields.items():
        for key, field in holder.default.__class__.model_fields.items():
            kind = re.sub(r"typing\.|<class '(\w+)'>", r"\1", str(field.annotation)).replace("NoneType", "null").replace("None", "null")
            choices = re.findall(r"'([^']+)'", kind) if "Literal" in kind else []
            value = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
            yield (
                f"{section}.{key}",
                " | ".join(choices) or kind.replace("tuple[", "list[").replace(", ...]", "]"),
                value,
                field.description or "",
            )


def describe(key: str) -> str:
    """What a dotted key means, or where to look when it is no setting's."""
    return next(
        (f"it means: {text} (default {value})" for known, _, value, text in fields() if known == key), "see `landseg recipe show default`"
    )


class _Loader(yaml.SafeLoader):
    """YAML with version 1.2's scalars: ``1e-3`` is a number, ``no`` is a word, ``0o17`` and ``1:30`` are words; a key stands there once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key, _ in node.value if keys.count(key.value) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice.value} stands there twice", twice.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    # Order matters: PyYAML takes the first pattern that matches, and a whole number is also a float. Source: YAML 1.2.2, 10.3.2.
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""] if _tag == "null" else list(_first)
    )


# Version 1.1 reads `0123` as octal and stumbles over `089`.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class _Dumper(yaml.SafeDumper):
    """Quotes the words that either version of YAML reads as something else: ``no``, and ``1e5``."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Parse YAML with the scalars of version 1.2, because PyYAML's 1.1 reads ``1e-3`` as a word and ``no`` as False."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, AttributeError, RecursionError) as error:  # PyYAML on `!!int abc`, `!!timestamp abc`, a list that holds itself
        raise yaml.YAMLError(f"a value is not what its tag says ({error})") from error


def _read(recipe: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            name, text = str(path), path.read_text(encoding="utf-8")
        except OSError as error:
            raise LandsegError(
                path, error.strerror or str(error), "a recipe file", "`landseg recipe list` shows the shipped ones"
            ) from error
        except UnicodeDecodeError as error:
            raise LandsegError(path, "not UTF-8 text", "a recipe file", "save it as UTF-8") from error
    else:
        name, text = f"recipe {recipe}", recipe_text(str(recipe))
    try:
        values = parse_yaml(text)
    except yaml.YAMLError as error:
        raise LandsegError(
            name, f"not YAML: {' '.join(str(error).split())[:160]}", "a readable recipe", "mend the line it names"
        ) from error
    if values is None:
        return name, {}
    if isinstance(values, dict):  # a section whose keys are all commented out
        values = {section: {} if content is None else content for section, content in values.items()}
    if not isinstance(values, dict) or not all(isinstance(section, dict) for section in values.values()):
        raise LandsegError(name, "not a tree of sections and keys", "for example `train: {lr: 0.01}`", "see `landseg recipe show default`")
    return name, values


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _tuples(value: Any) -> Any:
    """Lists to tuples, because strict validation tells them apart."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _unknown(origin: str, parts: Sequence[str]) -> LandsegError:
    key = ".".join(parts)
    known = [name for name, *_ in fields()] + list(Recipe.model_fields)
    near = difflib.get_close_matches(key, known, 1, 0.5) or [name for name in known if name.endswith(f".{parts[-1]}")][:1]
    hint = f"did you mean {near[0]}?" if near else "`landseg recipe show default` lists every setting"
    return LandsegError(origin, f"no setting is called {key}", "a key of the recipe", hint)
