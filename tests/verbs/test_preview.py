"""`train --preview` leaves a page, trains nothing, and is in no later run's way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import landseg
from landseg.cli import main
from landseg.core.errors import LandsegError
from landseg.core.runs import Run, refuse_existing_run
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.data.world import CLASSES
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.verbs.train import train

TINY = ["train.epochs=1", "train.batch=4", "train.device=cpu", "model.network=unet", "model.encoder=mobilenetv3_small_050"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiles of five bands, of two sizes."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(10):
        shape = (32, 32 + 8 * (i % 2))
        np.save(folder / "images" / f"{i}.npy", random.integers(-500, 3000, (*shape, 5), np.int16))
        np.save(folder / "labels" / f"{i}.npy", random.integers(0, len(CLASSES), shape, np.uint8))
    write_info(folder, DatasetInfo(name="noise", classes=CLASSES, bands=tuple("abcde"), scaling=((-500.0, 3000.0),) * 5))
    placed = [Placed(str(i), "val" if i > 7 else "train", str(i)) for i in range(10)]
    write_split(open_dataset(folder), Split("random", tuple(placed)))
    return folder


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output


def test_a_preview_is_a_page_and_no_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text = run("train", data, "--out", out, "--preview", "--json", "--set", "augment.rotation_deg=10", "--set", "model.weights=none")
    assert code == 0, text
    assert json.loads(text.splitlines()[-1]) == {"preview": str(out / "preview.html"), "tiles": 8}
    assert [path.name for path in out.iterdir()] == ["preview.html"]
    page = (out / "preview.html").read_bytes()
    assert b"noise: what the network will see" in page
    trained = train(data, out, recipe="tiny", settings=TINY)
    assert trained.steps and (out / "model" / "model.json").is_file()
    assert (out / "preview.html").read_bytes() == page

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "preview.html"}
    landseg.preview(data, out, resume=True)
    assert (out / "preview.html").read_bytes() != page
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "preview.html"} == before
    with pytest.raises(LandsegError, match="exists already"):
        train(data, out, recipe="tiny", settings=TINY)


def test_a_run_that_replaces_another_leaves_the_preview(tmp_path: Path) -> None:
    for name in ("preview.html", "metrics.jsonl", "recipe.yaml"):
        (tmp_path / name).write_text("{}\n")
    Run(tmp_path, is_new=True).close()
    assert (tmp_path / "preview.html").is_file() and not (tmp_path / "recipe.yaml").exists()


def test_only_a_preview_alone_is_no_run(tmp_path: Path) -> None:
    refuse_existing_run(tmp_path / "nowhere", overwrite=False)
    (tmp_path / "preview.html").touch()
    refuse_existing_run(tmp_path, overwrite=False)
    (tmp_path / "mine.txt").touch()
    refuse_existing_run(tmp_path, overwrite=True)
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(LandsegError, match="exists already"):
            refuse_existing_run(folder, overwrite=False)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--set", "augment.rotation=3"], "did you mean augment.rotation_deg"),
        (["--set", "augment.blur=2"], "less than or equal to 1"),
        (["--split", "mine"], "no split 'mine'"),
        (["--resume"], "no run to resume"),
    ],
)
def test_what_training_would_refuse_is_refused(data: Path, tmp_path: Path, words: list[str], found: str) -> None:
    code, text = run("train", data, "--out", tmp_path / "run", "--preview", *words)
    assert code == 2 and found in text
    assert not (tmp_path / "run").exists()


def test_a_data_set_needs_labels_and_a_split(data: Path, tmp_path: Path) -> None:
    info = DatasetInfo(name="x", images=str(data / "images"), labels=None, classes=CLASSES, bands=tuple("abcde"))
    (tmp_path / "bare").mkdir()
    write_info(tmp_path / "bare", info)
    with pytest.raises(LandsegError, match="labels"):
        landseg.preview(tmp_path / "bare", tmp_path / "run")
    (tmp_path / "whole").mkdir()
    write_info(tmp_path / "whole", info.model_copy(update={"labels": str(data / "labels")}))
    with pytest.raises(LandsegError, match="no split"):
        landseg.preview(tmp_path / "whole", tmp_path / "run")
    assert not (tmp_path / "run").exists()
