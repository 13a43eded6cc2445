"""The journey in one command: what its steps are given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from landseg.verbs import compete as room
from landseg.verbs.compete import compete


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The `tta` that evaluate and predict were called with; the other steps do nothing."""
    found: dict[str, Any] = {}

    def evaluated(*_: Any, tta: str | None = None, recipe: Any, **__: Any) -> SimpleNamespace:
        found["evaluate"] = recipe.predict.tta if tta is None else tta
        return SimpleNamespace(as_json=lambda: {}, table=lambda: "", report=Path("report"))

    done = SimpleNamespace(as_text=lambda: "")

    def predicted(*_: Any, recipe: Any, **__: Any) -> SimpleNamespace:
        found["predict"] = recipe.predict.tta
        return done

    for name in ("prepare", "split", "train", "submit"):
        monkeypatch.setattr(room, name, lambda *_, **__: done)
    monkeypatch.setattr(room, "evaluate", evaluated)
    monkeypatch.setattr(room, "predict", predicted)
    monkeypatch.setattr(room, "_try_network", lambda *_: None)
    monkeypatch.setattr(room, "_val", lambda _: 0.1)
    return found


@pytest.mark.parametrize(
    ("options", "tta"),
    [({}, "d4"), ({"settings": ["predict.tta=none"]}, "none"), ({"settings": ["train.lr=0.1"]}, "d4"), ({"recipe": "tiny"}, "none")],
)
def test_only_the_zip_is_augmented_and_a_recipe_decides_for_itself(
    tmp_path: Path, given: dict[str, Any], options: dict[str, Any], tta: str
) -> None:
    for name in ("train.zip", "test.zip"):
        (tmp_path / name).write_bytes(b"")
    compete(tmp_path / "train.zip", tmp_path / "test.zip", classes="a,b", out=tmp_path / "work", **options)
    assert given == {"evaluate": "none", "predict": tta}
