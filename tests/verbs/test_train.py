"""What the first layer of a run takes for the values of each band, and what a person is told before it begins."""

from __future__ import annotations

import logging
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from landseg.core.classes import make_classes
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.settings import ModelConfig
from landseg.data.dataset import Dataset, DatasetInfo, open_dataset, write_info
from landseg.data.pack import open_tiles
from landseg.data.statistics import Ranges, band_statistics
from landseg.network.build import Normalisation, build, encoder_normalisation
from landseg.network.checkpoint import ModelCard, save_model
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.training.loop import Loop, Position
from landseg.training.state import has_state, has_steps
from landseg.training.step import Stepper
from landseg.verbs import preview as preview_verb
from landseg.verbs.preview import preview
from landseg.verbs.train import normalisation_of, train

SMALL = "mobilenetv3_small_050"
CLASSES = make_classes(("road", "field"))
NUMBERS = {"red": (101.5, 11.0), "green": (102.5, 12.0), "blue": (103.5, 13.0), "nir": (104.5, 14.0)}
RANGES = {"red": (0.0, 1000.0), "green": (10.0, 1100.0), "blue": (20.0, 1200.0), "nir": (30.0, 4000.0)}
BRIEF = ["train.epochs=1", "train.batch=4", "train.device=cpu", "model.network=unet", f"model.encoder={SMALL}"]


def tiles(folder: Path, bands: tuple[str, ...], dtype: str = "uint8", scaling: Ranges | None = None) -> Dataset:
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(5):
        np.save(folder / "images" / f"{i}.npy", random.integers(0, 250, (32, 32, len(bands))).astype(dtype))
        np.save(folder / "labels" / f"{i}.npy", random.integers(0, 2, (32, 32), np.uint8))
    write_info(folder, DatasetInfo(name="noise", classes=CLASSES, bands=bands, scaling=scaling))
    return open_dataset(folder)


def model(folder: Path, bands: tuple[str, ...], dtype: str = "uint8", *, scaled: bool = False) -> Path:
    mean, std = zip(*(NUMBERS[band] for band in bands), strict=True)
    scaling = tuple(RANGES[band] for band in bands) if scaled else None
    card = ModelCard(
        landseg_version="test", network="unet", encoder=SMALL, bands=bands, dtype=dtype, mean=mean, std=std, scaling=scaling,
        classes=CLASSES, tile_size=(32, 32),
    )  # fmt: skip
    torch.manual_seed(0)
    network = build("unet", SMALL, len(bands), 2, Normalisation(mean, std, scaling))
    save_model(folder / "model", network.state_dict(), card)
    return folder


def found(dataset: Dataset, base: Path | str) -> Normalisation:
    store = open_tiles(dataset, use_pack=False)
    return normalisation_of(dataset, store, range(5), ModelConfig(encoder=SMALL, weights=str(base)), resume=False)


def own(dataset: Dataset, scaling: Ranges | None = None) -> Normalisation:
    return Normalisation(*band_statistics(open_tiles(dataset, use_pack=False), range(5), scaling), scaling)


def of(bands: tuple[str, ...]) -> tuple[list[float], list[float]]:
    return [NUMBERS[band][0] for band in bands], [NUMBERS[band][1] for band in bands]


@pytest.mark.parametrize("bands", [("red", "green", "blue", "nir"), ("blue", "red"), ("red", "green", "blue")])
def test_bands_that_the_model_knows_are_read_as_it_reads_them_whatever_their_order(tmp_path: Path, bands: tuple[str, ...]) -> None:
    base = model(tmp_path / "run", ("red", "green", "blue", "nir"))
    normalisation = found(tiles(tmp_path / "data", bands), base)
    assert ([*normalisation.mean], [*normalisation.std]) == of(bands) and normalisation.scaling is None


def test_a_band_that_the_model_does_not_know_has_the_statistics_of_the_data(tmp_path: Path) -> None:
    dataset = tiles(tmp_path / "data", ("nir", "swir", "red"))
    normalisation = found(dataset, model(tmp_path / "run", ("red", "green", "blue", "nir")))
    assert normalisation.mean == (104.5, own(dataset).mean[1], 101.5)
    assert normalisation.std == (14.0, own(dataset).std[1], 11.0)


def test_scalings_go_by_name_too_where_they_speak_of_the_same_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = model(tmp_path / "run", ("red", "green", "blue", "nir"), "uint16", scaled=True)
    given = ((0.0, 900.0), (5.0, 70.0), (0.0, 1.0))  # another place · a new band · reflectance where the model saw counts
    dataset = tiles(tmp_path / "data", ("red", "swir", "nir"), "uint16", given)
    with caplog.at_level(logging.WARNING, "landseg"):
        normalisation = found(dataset, base)
    assert normalisation.scaling == (RANGES["red"], *given[1:])
    assert normalisation.mean == (101.5, *own(dataset, given).mean[1:]) and normalisation.std == (11.0, *own(dataset, given).std[1:])
    assert "nir" in caplog.text and "red" not in caplog.text.replace("shared", "")


@pytest.mark.parametrize(("dtype", "scaled"), [("uint16", False), ("uint16", True), ("uint8", True)])
def test_numbers_of_another_kind_are_read_by_their_own_statistics(tmp_path: Path, dtype: str, scaled: bool) -> None:
    """Photographs too: what ImageNet's weights expect is not what the model's do."""
    dataset = tiles(tmp_path / "data", ("red", "green", "blue"))
    assert found(dataset, model(tmp_path / "run", ("red", "green", "blue"), dtype, scaled=scaled)) == own(dataset)
    assert found(dataset, "imagenet") == encoder_normalisation(SMALL)


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    dataset = tiles(tmp_path / "data", ("blue", "green", "red"))
    write_split(dataset, Split("random", tuple(Placed(str(i), "val" if i > 2 else "train", str(i)) for i in range(5))))
    return dataset.folder


@pytest.mark.parametrize("left", ["model", "state"])
def test_a_preview_of_a_run_reads_what_the_run_wrote(divided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    """The model that it began from has gone, and its own model or its state may be missing too."""
    base = model(tmp_path / "base", ("red", "green", "blue"))
    run = tmp_path / "run"
    train(divided, run, recipe="tiny", settings=[*BRIEF, f"model.weights={base}"])
    (base / "model").rename(tmp_path / "gone")
    base.rmdir()
    (run / ("state" if left == "model" else "model")).rename(tmp_path / "taken away")
    seen: list[tuple[float, ...]] = []
    keep = preview_verb.normalisation_of_run

    def noting(folder: Path) -> Normalisation | None:
        normalisation = keep(folder)
        seen.append(() if normalisation is None else normalisation.mean)
        return normalisation

    monkeypatch.setattr(preview_verb, "normalisation_of_run", noting)
    assert preview(divided, run, resume=True).page.is_file()
    assert seen == [(103.5, 102.5, 101.5)]


@pytest.mark.parametrize(("weights", "freeze", "is_told"), [("none", 0.5, True), ("none", 0.0, False), ("base", 1.0, False)])
def test_a_random_encoder_is_not_frozen_without_a_word(
    divided: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    freeze: float,
    is_told: bool,
) -> None:
    monkeypatch.setattr("landseg.training.loop.Loop.run", lambda self, _run, *, resume: self.at)
    source = model(tmp_path / "base", ("red", "green", "blue")) if weights == "base" else weights
    with caplog.at_level(logging.WARNING, "landseg"):
        train(divided, tmp_path / "run", recipe="tiny", settings=[*BRIEF, f"model.weights={source}", f"train.freeze={freeze}"])
    assert ("train.freeze=0.5: model.weights is none" in caplog.text) is is_told


def test_a_run_that_fails_at_once_is_begun_anew_as_its_error_says(divided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, update = tmp_path / "run", Stepper._update

    def breaking(self: Stepper, *arguments: Any) -> None:
        update(self, *arguments)
        next(self.network.parameters()).data.fill_(math.nan)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_update", breaking)
        with pytest.raises(LandsegError, match=r"weights are no numbers.*begin anew with a lower rate, --set train\.lr=0\.0003, or with"):
            train(divided, run, recipe="tiny", settings=BRIEF)
    assert has_state(run / "state") and not has_steps(run / "state")
    assert train(divided, run, recipe="tiny", settings=[*BRIEF, "train.lr=0.0003"]).epochs == 1


def test_a_run_may_be_resumed_with_another_on_nan_and_keeps_it(divided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noting(self: Loop, _run: object, *, resume: bool) -> Position:
        seen.append(self.settings.on_nan)
        return self.at

    monkeypatch.setattr(Loop, "run", noting)
    run = tmp_path / "run"
    train(divided, run, recipe="tiny", settings=BRIEF)
    (run / "state").mkdir()
    (run / "state" / "step-000000001.state").touch()
    train(divided, run, settings=["train.on_nan=skip"], resume=True)
    train(divided, run, resume=True)
    assert seen == ["stop", "skip", "skip"] and load_recipe(run / "recipe.yaml").train.on_nan == "skip"
    with pytest.raises(LandsegError, match=r"begun with other settings \(train\.lr 0\.003 → 0\.1\)"):
        train(divided, run, settings=["train.lr=0.1", "train.on_nan=rollback"], resume=True)
    assert load_recipe(run / "recipe.yaml").train.on_nan == "skip"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal that Windows has not")
def test_sigusr1_before_training_begins_is_said_and_ends_nothing(
    divided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGUSR1)

    def knocking(*arguments: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGUSR1)
        return open_tiles(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("landseg.verbs.train.open_tiles", knocking)
    monkeypatch.setattr(Loop, "run", lambda self, _run, *, resume: self.at)
    with caplog.at_level(logging.INFO, "landseg"):
        train(divided, tmp_path / "run", recipe="tiny", settings=BRIEF)
    assert caplog.text.count("there is nothing to save") == 1
    assert signal.getsignal(signal.SIGUSR1) == before
