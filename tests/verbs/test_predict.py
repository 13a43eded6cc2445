"""`predict` hands the model's settings on, answers wrong paths before it loads a model, and reports what it did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.verbs.predict import predict


class Threshold:
    """An engine that calls a pixel class 1 where its only band is above 100."""

    card = SimpleNamespace(
        classes=make_classes(["low", "high"]), bands=("grey",), ignore_index=255, tile_size=(8, 8), dtype="uint8", factor=1.0, scaling=None
    )

    runtime = "stand-in"
    lanes = 1

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        value = images[..., 0].astype(np.float32) - 100.5
        return np.stack([-value, value], axis=1)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Put stand-ins in place of the rooms that look for models; returns what they were asked for."""
    asked: list[object] = []
    engine = ModuleType("engine")

    def load_engine(models: list[Path], device: str, name: str, precision: str) -> Threshold:
        asked.append((models, device, name, precision))
        made: Any = Threshold()
        # What was loaded says what it is; its folder may hold a better model by now.
        made.engines = [SimpleNamespace(card=SimpleNamespace(weights_sha256=f"sha of {path.name}")) for path in models]
        return made  # type: ignore[no-any-return]

    engine.load_engine = load_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "landseg.network.engine", engine)
    monkeypatch.setitem(sys.modules, "landseg.network.card", None)  # who asks a folder asks too early or too late
    return asked


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    folder = tmp_path / "tiles"
    folder.mkdir()
    for i in range(5):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((8, 9), 40 * i, np.uint8))
    return folder


def test_predict_composes(tmp_path: Path, tiles: Path, loaded: list[object]) -> None:
    (tiles / "bad.png").write_bytes(b"no picture")
    models = [tmp_path / "a", tmp_path / "b"]
    settings = ["predict.batch=2", "predict.device=cpu", "predict.engine=openvino", "predict.precision=16"]
    done = predict(models, str(tiles), tmp_path / "out", overlay=True, settings=settings)
    assert loaded == [(models, "cpu", "openvino", "16")]
    assert {key: done.as_json()[key] for key in ("files", "pixels")} == {"files": 5, "pixels": 5 * 72}
    assert list(done.as_json()["unreadable"]) == ["bad"] and done.as_json()["seconds"] > 0
    assert "5 class maps" in done.as_text() and "bad: no picture" in done.as_text()
    values = [int(cv2.imread(str(tmp_path / "out" / f"{i}.png"), cv2.IMREAD_COLOR_RGB)[0, 0, 0]) for i in range(5)]
    low, high = (item.rgb[0] for item in Threshold.card.classes)
    assert values == [low, low, low, high, high]
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (record["model"], record["engine"]) == ("sha of a+sha of b", "stand-in")


@pytest.mark.parametrize("options", [{"tta": "d4"}, {"settings": ["predict.tta=d4"]}, {"tta": "d4", "settings": ["predict.tta=scales"]}])
def test_the_augmentation_is_recorded_however_it_was_asked_for(
    tmp_path: Path, tiles: Path, loaded: list[object], options: dict[str, Any]
) -> None:
    predict(tmp_path / "m", tiles, tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["tta"] == "d4"
    predict(tmp_path / "m", tiles, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "predictions.json").read_text())["tta"] == "none"


def test_bands_come_from_the_settings(tmp_path: Path, loaded: list[object]) -> None:
    (tmp_path / "t").mkdir()
    np.save(tmp_path / "t" / "x.npy", np.dstack([np.zeros((4, 4), np.uint8), np.full((4, 4), 200, np.uint8)]))
    with pytest.raises(LandsegError, match="2 bands"):
        predict(tmp_path / "m", tmp_path / "t", tmp_path / "out")
    assert predict(tmp_path / "m", tmp_path / "t", tmp_path / "out", settings=["predict.bands=[2]"]).files == 1


def test_wrong_arguments_are_answered_before_a_model_is_loaded(tmp_path: Path, tiles: Path, loaded: list[object]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for inputs, out, options, words in [
        (tmp_path / "gone", tmp_path / "out", {}, "it is not there"),
        (tiles, tmp_path / "full", {}, "--overwrite"),
        (tiles, tiles / "out", {}, "lies inside the input"),
        (tiles, tiles, {"overwrite": True}, "lies inside the input"),
        (tiles, tmp_path / "out", {"settings": ["predict.batch=0"]}, "greater than or equal to 1"),
        (tiles, tmp_path / "out", {"tta": "d8"}, "one of none, d4, scales"),
    ]:
        with pytest.raises(LandsegError, match=words):
            predict(tmp_path / "m", inputs, out, **options)  # type: ignore[arg-type]
    assert loaded == []


def test_no_model_is_no_prediction(tmp_path: Path, tiles: Path) -> None:
    with pytest.raises(LandsegError, match="nothing is named"):
        predict([], tiles, tmp_path / "out")
    assert not (tmp_path / "out").exists()
