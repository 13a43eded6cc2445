"""`landseg recipe`: the shipped recipes, and what every setting means."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg.core.config import fields, load_recipe, recipe_names, recipe_text


@dataclass(frozen=True)
class Recipes:
    """The shipped recipes: name → what its first comment says."""

    recipes: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {"recipes": self.recipes}

    def as_text(self) -> str:
        """A line a recipe."""
        width = max(map(len, self.recipes))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.recipes.items())


@dataclass(frozen=True)
class Shown:
    """One recipe: its text, and every setting with the value it has there."""

    name: str
    text: str
    settings: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {"name": self.name, "settings": self.settings}

    def as_text(self) -> str:
        """The recipe as it is written, then every setting: value, type, meaning."""
        width = max(map(len, self.settings))
        lines = [self.text.rstrip(), "", "# Every setting, with its value in this recipe:"]
        for key, setting in self.settings.items():
            lines.append(f"# {key:<{width}} = {setting['text']}")
            lines.append(f"# {'':<{width}}   {setting['meaning']} [{setting['type']}; default {setting['default']}]")
        return "\n".join(lines)


def recipe_list() -> Recipes:
    """Names of the shipped recipes and what each is for."""
    return Recipes({name: recipe_text(name).splitlines()[0].lstrip("# ") for name in recipe_names()})


def recipe_show(name: str) -> Shown:
    """One recipe with every setting.

    Args:
        name: Of a shipped recipe, or the path of a YAML file.

    Raises:
        LandsegError: There is none, or it does not parse.
    """

    resolved = load_recipe(name)
    text = recipe_text(name) if name in recipe_names() else Path(name).read_text(encoding="utf-8")
    settings = {}
    for key, kind, default, meaning in fields():
        section, _, field = key.partition(".")
        value = resolved.model_dump(mode="json")[section][field]
        settings[key] = {
            "value": value,
            "text": json.dumps(value, ensure_ascii=False),
            "type": kind,
            "default": default,
            "meaning": meaning,
        }
    return Shown(name, text, settings)
