"""`evaluate` scores what `predict` writes, and holds an augmentation or an ensemble against the plain models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landseg.core.errors import LandsegError
from landseg.core.runs import clear
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.data.world import CLASSES, write_tiles
from landseg.model import load_model
from landseg.network.build import Normalisation, build
from landseg.network.checkpoint import ModelCard, save_model
from landseg.network.torch_engine import TorchEngine
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.gains import table
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.verbs.evaluate import Evaluated, evaluate
from landseg.verbs.predict import predict

ENCODER = "mobilenetv3_small_050"
CPU = ["predict.device=cpu", "predict.batch=3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine tiles of 64 pixels in eight groups, all of them in val."""
    folder = tmp_path_factory.mktemp("data")
    write_tiles(folder, 5, 9, 64)
    write_info(folder, DatasetInfo(name="data", classes=CLASSES))
    stems = sorted(path.stem for path in (folder / "images").iterdir())
    write_split(open_dataset(folder), Split("all", tuple(Placed(stem, "val", f"g{max(i, 1)}") for i, stem in enumerate(stems))))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks that know nothing, of other sizes and kinds."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (network, size) in enumerate([("unet", None), ("fpn", 48)]):
        torch.manual_seed(seed)
        made = build(network, ENCODER, 3, len(CLASSES), Normalisation((100.0,) * 3, (50.0,) * 3))
        with torch.no_grad():
            made.body.segmentation_head[0].weight.normal_(0, 1)
        card = ModelCard(
            landseg_version="0", network=network, encoder=ENCODER, bands=("red", "green", "blue"), dtype="uint8",
            mean=(100.0,) * 3, std=(50.0,) * 3, classes=CLASSES, tile_size=(64, 64), size=size,
        )  # fmt: skip
        save_model(folder / network, made.state_dict(), card)
    return [folder / "unet", folder / "fpn"]


def scored(models: list[Path], data: Path, out: Path, tta: str | None = None, settings: list[str] | None = None) -> Evaluated:
    return evaluate(models, data, tta=tta, out=out, settings=CPU + (settings or []))


def recount(data: Path, maps: Path) -> np.ndarray:
    total = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for path in sorted((data / "labels").iterdir()):
        label, pred = (np.array(Image.open(folder / f"{path.stem}.png")) for folder in (data / "labels", maps))
        total += confusion_matrix(label, pred, len(CLASSES))
    return total


@pytest.mark.parametrize("tta", ["d4", "scales"])
def test_what_is_scored_is_what_is_predicted(tmp_path: Path, data: Path, models: list[Path], tta: str) -> None:
    found = scored(models[:1], data, tmp_path / "report", tta)
    predict(models[:1], data, tmp_path / "maps", tta=tta, settings=CPU)
    assert np.array_equal(found.scores.confusion, recount(data, tmp_path / "maps"))
    model = load_model(models[0], "cpu", tta)
    image = next((data / "images").iterdir())
    ids = model.predict(np.array(Image.open(image)))
    assert np.array_equal(ids, np.array(Image.open(tmp_path / "maps" / f"{image.stem}.png")))


def test_an_augmentation_is_compared_with_the_plain_model(tmp_path: Path, data: Path, models: list[Path]) -> None:
    plain = scored(models[:1], data, tmp_path / "plain")
    found = scored(models[:1], data, tmp_path / "d4", settings=["predict.tta=d4"])
    assert plain.comparison == () and "comparison" not in plain.as_json() and "gain" not in plain.table()
    assert [item.name for item in found.comparison] == ["plain", "d4"]
    assert [item.miou for item in found.comparison] == [plain.scores.miou, found.scores.miou]
    assert plain.scores.miou != found.scores.miou
    assert found.comparison[1].gain == pytest.approx((found.scores.miou or 0) - (plain.scores.miou or 0))
    low, high = found.comparison[1].gain_interval or (1.0, 0.0)
    assert low <= found.comparison[1].gain <= high
    assert min(item.seconds for item in found.comparison) > 0
    assert found.as_json()["comparison"] == [item.as_json() for item in found.comparison]
    assert found.table().endswith("\n".join(table(found.comparison)))
    page = (tmp_path / "d4" / "report.md").read_text(encoding="utf-8")
    assert "test-time augmentation" in page and "mIoU, plain" in page and f"gain {found.comparison[1].gain:+.4f}" in page


def test_an_ensemble_is_compared_with_each_of_its_models(tmp_path: Path, data: Path, models: list[Path]) -> None:
    found = scored(models, data, tmp_path / "report")
    alone = [scored([path], data, tmp_path / "one").scores.miou for path in models]
    assert [item.name for item in found.comparison] == [*map(str, models), "ensemble"]
    assert [item.miou for item in found.comparison] == [*alone, found.scores.miou]
    assert found.comparison[alone.index(max(alone, key=lambda miou: miou or 0))].gain == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"unet with {ENCODER}; fpn with {ENCODER}".replace("_", "\\_") in page
    both = scored(models, data, tmp_path / "both", "scales")
    assert [item.name for item in both.comparison] == [*map(str, models), "ensemble", "ensemble, scales"]
    assert [item.miou for item in both.comparison[:3]] == [*alone, found.scores.miou] and both.comparison[3].miou == both.scores.miou
    twice = scored([models[0], models[0].parent / "." / "fpn" / ".." / "unet"], data, tmp_path / "twice")
    assert [item.name for item in twice.comparison] == [str(models[0]), "ensemble"], "no model is scored twice"
    assert abs(twice.comparison[1].gain or 0) < 1e-3


def test_each_way_costs_its_views_and_one_step_to_warm_up(
    tmp_path: Path, data: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    whole = TorchEngine._logits

    def counted(engine: TorchEngine, images: np.ndarray, scale: float = 1.0) -> torch.Tensor:
        shown.append(len(images))
        return whole(engine, images, scale)

    monkeypatch.setattr(TorchEngine, "_logits", counted)
    scored(models[:1], data, tmp_path / "d4", "d4", ["predict.engine=torch"])
    # Plain, a batch first and nine tiles; then eight views of each of those and of the nine tiles of the page.
    assert shown[:4] == [3, 3, 3, 3] and sum(shown) == 12 + 8 * 12 + 8 * 12
    shown.clear()
    scored(models[:1], data, tmp_path / "plain", settings=["predict.engine=torch"])
    assert sum(shown) == 9 + 12, "alone it needs no step to warm up"


def test_few_groups_leave_a_gain_without_an_interval_and_say_so(tmp_path: Path, data: Path, models: list[Path]) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    stems = sorted(path.stem for path in (folder / "images").iterdir())
    write_split(open_dataset(folder), Split("few", tuple(Placed(stem, "val", f"g{i // 3}") for i, stem in enumerate(stems))))
    found = evaluate(models[:1], folder, split="few", tta="d4", out=tmp_path / "report", settings=CPU)
    assert found.groups == 3 and found.comparison[1].gain_interval is None
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for text in (page, found.table()):
        assert f"{found.comparison[1].gain:+.4f}" in text and "fewer than 8 groups" in text


def test_only_a_plain_model_writes_the_report_of_its_run(tmp_path: Path, data: Path, models: list[Path]) -> None:
    runs = [shutil.copytree(path, tmp_path / path.name / "model").parent for path in models]
    names = []
    for given, tta in ((runs[:1], "none"), (runs[:1], "d4"), (runs, "none"), (runs, "d4")):
        names.append(evaluate(given, data, tta=tta, settings=CPU).report.parent)
    assert names == [runs[0] / name for name in ("report", "report-d4", "report-ensemble", "report-ensemble-d4")]
    clear(runs[0])  # all of it is the run's: `train --overwrite` refuses nothing
    assert not list(runs[0].iterdir())


def test_a_gate_holds_for_what_was_asked_for(tmp_path: Path, data: Path, models: list[Path]) -> None:
    scores = {tta: scored(models[:1], data, tmp_path / tta, tta).scores.miou or 0.0 for tta in ("none", "d4")}
    between = sum(scores.values()) / 2
    for tta, score in scores.items():
        if score > between:
            evaluate(models[:1], data, tta=tta, require=f"miou={between}", out=tmp_path, settings=CPU)
            continue
        with pytest.raises(LandsegError, match="miou on val") as caught:
            evaluate(models[:1], data, tta=tta, require=f"miou={between}", out=tmp_path, settings=CPU)
        assert caught.value.is_gate


def test_no_model_is_told(data: Path) -> None:
    with pytest.raises(LandsegError, match="MODEL: nothing is named"):
        evaluate([], data)
    with pytest.raises(LandsegError, match="MODEL: nothing is named"):
        load_model([])


def test_another_augmentation_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="one of none, d4, scales"):
        evaluate(tmp_path / "gone", tmp_path / "gone", tta="d8")
    with pytest.raises(LandsegError, match="one of none, d4, scales"):
        load_model(tmp_path / "gone", tta="d8")
