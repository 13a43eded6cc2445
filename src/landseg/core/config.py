"""Recipes: YAML and single settings become typed settings, with an error that names the place. It holds no setting; `settings` does."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from landseg.core.errors import LandsegError
from landseg.core.settings import Recipe

_GONE = {
    "train.accumulate": "train.effective_batch says how many tiles a step learns from: train.batch times what train.accumulate was",
    "loss.name": "each term has its weight now: loss.cross_entropy, loss.lovasz, loss.dice, loss.tversky, loss.focal",
}
"""Settings that recipes of before may have, and what took their place."""


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
        faults = error.errors()
        # Of a setting that may be one thing or another, each is tried and fails; the one that came furthest fits best.
        first = max((fault for fault in faults if fault["loc"][:2] == faults[0]["loc"][:2]), key=lambda fault: len(fault["loc"]))
        branches = [part for part in first["loc"][2:] if isinstance(part, str)]
        parts = [str(part) for part in first["loc"] if part not in branches]
        key, message = ".".join(parts), first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "List")
        origins = where or {}
        near = (text for known, text in origins.items() if known.startswith(f"{key}.") or key.startswith(f"{known}."))
        origin = origins.get(key) or next(near, name)
        if first["type"] == "extra_forbidden":
            raise _unknown(origin, parts) from error
        if first["type"] == "value_error" and len(parts) < 2:
            raise _misfit(message, parts, origins, name) from error
        field, needed = re.sub(r"(\.\d+)+$", "", key), message[0].lower() + message[1:]
        kind = next((kind for known, kind, *_ in fields() if known == field), "")
        if branches:
            needed = f"{needed} (the whole is one of {kind})" if len(parts) > 2 else f"one of {kind}"
        if (
            first["type"] in ("missing", "too_long") and ", " in kind
        ):  # a place of a list of fixed length is empty, or there is one too many
            key, needed = field, f"a list of {kind.count(', ') + 1} numbers"
        found = list(first["input"]) if isinstance(first["input"], tuple) else first["input"]
        raise LandsegError(f"{origin}: {key}", f"{found!r}", needed, describe(field)) from error


def _misfit(message: str, parts: Sequence[str], origins: dict[str, str], name: str) -> LandsegError:
    """Of settings that do not fit together, those that the message names or else all of the section; a single setting is to blame first.

    A message is what was found, what is needed where more can be said than that they fit, and what to do, with semicolons between.
    """
    named = re.findall(r"\b[a-z_]+\.[a-z_]+\b", message.partition(";")[0])
    keys = named or [known for known in origins if known.startswith(".".join([*parts, ""]))]
    found = [origins[key] for key in keys if key in origins]
    origin = next((one for one in reversed(found) if one.startswith("--set ")), found[0] if found else name)
    said, _, rest = message.partition("; ")
    needed, _, do = rest.rpartition("; ")
    return LandsegError(origin, said, needed or "settings that fit together", do or "see `landseg recipe show default`")


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
            value = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
            yield f"{section}.{key}", _kind(field.annotation), value, field.description or ""


def _kind(annotation: Any) -> str:
    """A type in words that a recipe's writer knows: ``none | inverse``, ``list[float]``, ``int | null``."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, inner))
    if get_origin(annotation) is tuple:
        return f"list[{', '.join(_kind(item) for item in inner if item is not Ellipsis)}]"
    if inner:
        return " | ".join(map(_kind, inner))
    return "null" if annotation is type(None) else str(annotation.__name__)


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
    if key in _GONE:
        return LandsegError(origin, f"{key} is a setting no more", "a key of the recipe", _GONE[key])
    known = [name for name, *_ in fields()] + list(Recipe.model_fields)
    near = difflib.get_close_matches(key, known, 1, 0.5) or [name for name in known if name.endswith(f".{parts[-1]}")][:1]
    hint = f"did you mean {near[0]}?" if near else "`landseg recipe show default` lists every setting"
    return LandsegError(origin, f"no setting is called {key}", "a key of the recipe", hint)
