"""The command line as a user meets it: exit codes, one line an error, JSON on stdout, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from landseg.cli import frame, main
from landseg.data import world
from shared.commands import landseg, landseg_afresh

CLASSES = ",".join(item.name for item in world.CLASSES)
TINY = ["-c", "tiny", "--set", "train.epochs=1", "--set", "train.batch=4", "--set", "train.device=cpu"]


def line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of an error, after its exit code was checked."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    found = [text for text in done.stderr.splitlines() if text.startswith("landseg")]
    assert len(found) == 1, done.stderr
    return found[0]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a test set, a run and predictions, all made by the commands, each started as a user starts it."""
    folder = tmp_path_factory.mktemp("journey")
    world.write_competition(folder, 3, train_scenes=2, test_scenes=1, height=128, width=128, tile=32, unlabelled_tiles=False)
    for words in (
        ["prepare", "train_and_label.zip", "--classes", CLASSES, "--out", "data"],
        ["prepare", "img_test.zip", "--out", "test"],
        ["split", "data", "--val", "0.2", "--seed", "5"],
        ["train", "data", "--out", "run", *TINY],
        ["predict", "run", "test", "--out", "predictions", "--overlay"],
        ["submit", "predictions", "--images", "test", "--out", "result.zip"],
    ):
        done = landseg_afresh(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_journey_leaves_what_the_contract_says(journey: Path) -> None:
    for name in (
        "data/dataset.yaml", "data/splits/scene.csv", "data/pack/pack.json", "run/recipe.yaml", "run/environment.json",
        "run/metrics.jsonl",
        "run/log.txt", "run/model/model.safetensors", "run/model/model.json", "predictions/1.png",
        "predictions/overlay/1.jpg", "result.zip",
    ):  # fmt: skip
        assert (journey / name).is_file(), name
    assert not [path for path in journey.rglob("*") if "partial" in path.name]


def test_json_documents_have_the_keys_of_the_contract(journey: Path) -> None:
    split = landseg("split", "data", "--name", "again", "--json", cwd=journey)
    assert {"parts", "groups", "class_share"} <= json.loads(split.stdout).keys()
    (journey / "data" / "splits" / "again.csv").unlink()
    evaluated = json.loads(landseg_afresh("evaluate", "run", "data", "--json", cwd=journey).stdout)
    wanted = {"miou", "iou", "miou_absent_zero", "overall_accuracy", "kappa", "f1", "precision", "recall", "confusion", "definition"}
    assert wanted <= evaluated.keys()
    assert list(evaluated["iou"]) == [item.name for item in world.CLASSES]
    assert (journey / "run" / "report" / "report.html").stat().st_size > 10_000
    again = json.loads(landseg("predict", "run", "run", "test", "--out", "ensemble", "--json", cwd=journey).stdout)
    assert {"files", "pixels", "seconds"} <= again.keys()
    for path in (journey / "ensemble").glob("*.png"):
        assert path.read_bytes() == (journey / "predictions" / path.name).read_bytes(), "a model with itself is the model"


def test_a_run_that_came_to_its_end_is_listed_as_finished(journey: Path) -> None:
    (found,) = json.loads(landseg_afresh("runs", ".", "--json", cwd=journey).stdout)["runs"]
    assert (found["path"], found["state"], found["epoch"], found["data"], found["faults"]) == ("run", "finished", 1, "data", [])
    card = json.loads((journey / "run" / "model" / "model.json").read_text())
    assert found["miou"] == card["scores"]["val"]["miou"] and found["data_fingerprint"] == card["data_fingerprint"]
    pruned = json.loads(landseg("runs", "prune", ".", "--json", cwd=journey).stdout)
    assert pruned["bytes"] == sum(path.stat().st_size for path in (journey / "run" / "state").iterdir()) > 0
    assert not pruned["is_done"]


def test_augmentation_is_compared_and_an_option_is_its_setting(journey: Path) -> None:
    plain = json.loads(landseg("evaluate", "run", "data", "--json", cwd=journey).stdout)
    asked = json.loads(landseg("evaluate", "run", "data", "--tta", "d4", "--json", cwd=journey).stdout)
    assert "comparison" not in plain
    assert [item["name"] for item in asked["comparison"]] == ["plain", "d4"]
    assert [item["miou"] for item in asked["comparison"]] == [plain["miou"], asked["miou"]]
    for out, words in {"option": ["--tta", "d4"], "setting": ["--set", "predict.tta=d4"]}.items():
        assert landseg("predict", "run", "test", "--out", out, *words, cwd=journey).returncode == 0
    assert json.loads((journey / "option" / "predictions.json").read_text())["tta"] == "d4"
    for path in (journey / "option").iterdir():
        assert path.read_bytes() == (journey / "setting" / path.name).read_bytes()


def test_a_gate_that_fails_still_shows_what_was_found(journey: Path) -> None:
    done = landseg("evaluate", "run", "data", "--require", "miou=0.999", "--json", cwd=journey)
    assert "miou on val" in line(done, 3)
    assert json.loads(done.stdout)["miou"] < 0.999
    done = landseg("submit", "--check", "result.zip", "--images", "test", "--classes", "1", "--json", cwd=journey)
    assert "violations" in line(done, 3)
    assert json.loads(done.stdout)["violations"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "data", "--out", "run"], "run: it exists already"),
        (["train", "data", "--out", "new", "--set", "train.batchsize=3"], "did you mean train.batch?"),
        (["train", "data", "--out", "new", "--set", "train.lr=fast"], "valid number"),
        (["train", "data", "--out", "new", "-c", "tiny", "--set", "model.encoder=resnet5"], "did you mean resnet50"),
        (["train", "data", "--out", "new", "-c", "tiny", "--set", "model.weights=nowhere.pth"], "no such file"),
        (["train", "test", "--out", "new"], "a data set without labels"),
        (["train", "data", "--out", "new", "--resume"], "no state to resume"),
        (["train", "data", "--out", "run", "--resume", "--set", "train.lr=0.5"], "train.lr 0.003 → 0.5"),
        (["evaluate", "nowhere", "data"], "nowhere: no such folder"),
        (["evaluate", "run", "data", "--part", "test"], "no tiles in part 'test'"),
        (["evaluate", "run", "data", "--set", "predict.tta=d8"], "predict.tta"),
        (["predict", "run", "--out", "new"], "nothing to predict is named"),
        (["predict", "run", "test", "--out", "predictions"], "predictions: it exists already"),
        (["split", "data", "--val", "1.5", "--name", "x"], "val 1.5"),
        (["prepare", "img_test.zip", "--out", "run/model/model.json"], "run/model/model.json"),
        (["submit", "predictions", "--images", "test"], "--out: not given"),
        (["submit", "predictions", "--images", "test", "--out", "test/images/1.jpg", "--overwrite"], "ends in .jpg"),
        (["recipe", "show", "defualt"], "did you mean default?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(journey: Path, words: list[str], says: str) -> None:
    assert says in line(landseg(*words, cwd=journey), 2)
    assert not (journey / "new").exists()


def test_wrong_usage_is_one_line_too(journey: Path) -> None:
    predicted = ["predict", "run", "test", "--out", "new"]
    for words in (
        ["train", "data"],
        ["predcit"],
        ["split", "data", "--by", "place"],
        ["evaluate", "run", "data", "--gate"],
        [*predicted, "--tta", "d8"],
    ):
        assert "--help` shows what there is" in line(landseg(*words, cwd=journey), 2)


def test_debug_shows_the_traceback_and_keeps_the_exit_code(journey: Path) -> None:
    done = landseg_afresh("evaluate", "nowhere", "data", "--debug", cwd=journey)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("landseg: nowhere")


def test_overwrite_with_a_setting_that_cannot_be_leaves_the_run(journey: Path) -> None:
    before = (journey / "run" / "model" / "model.safetensors").read_bytes()
    for setting in ("train.device=cuda:77", "loss.class_weights=[1.0]"):
        line(landseg("train", "data", "--out", "run", *TINY, "--set", setting, "--overwrite", cwd=journey), 2)
    assert (journey / "run" / "model" / "model.safetensors").read_bytes() == before


def test_predictions_never_take_the_place_of_images_or_of_a_strangers_files(journey: Path) -> None:
    images = sorted((journey / "test" / "images").iterdir())
    before = [path.read_bytes() for path in images]
    assert "inside the input" in line(landseg("predict", "run", "test", "--out", "test/images", "--overwrite", cwd=journey), 2)
    assert "holds the input" in line(landseg("predict", "run", "test/images", "--out", "test", "--overwrite", cwd=journey), 2)
    assert [path.read_bytes() for path in images] == before
    (journey / "mine").mkdir(exist_ok=True)
    (journey / "mine" / "thesis.txt").write_text("years")
    for words in (
        ["predict", "run", "test", "--out", "mine", "--overwrite"],
        ["train", "data", "--out", "mine", *TINY, "--overwrite"],
        ["compete", "train_and_label.zip", "img_test.zip", "--classes", CLASSES, "--out", "mine", "--overwrite", *TINY],
    ):
        line(landseg(*words, cwd=journey), 2)
    assert [path.name for path in (journey / "mine").iterdir() if not path.name.startswith(".")] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_model_with_a_flipped_byte_is_refused(journey: Path, tmp_path: Path, name: str) -> None:
    for part in ("model.safetensors", "model.json"):
        (tmp_path / part).write_bytes((journey / "run" / "model" / part).read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    place = data.index(b"mean") + 12 if name == "model.json" else len(data) // 2
    data[place] ^= 1
    (tmp_path / name).write_bytes(data)
    assert name in line(landseg("predict", tmp_path, "test", "--out", tmp_path / "new", cwd=journey), 2)


def test_four_bands_for_a_model_of_three(journey: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((32, 32, 4), np.uint8))
    said = line(landseg("predict", "run", tmp_path / "x.npy", "--out", tmp_path / "new", cwd=journey), 2)
    assert "4 bands" in said
    assert "--set predict.bands=[1,2,3]" in said
    done = landseg("predict", "run", tmp_path / "x.npy", "--out", tmp_path / "new", "--set", "predict.bands=[1,2,3]", cwd=journey)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "new" / "x.png")).shape == (32, 32, 3)


def test_interrupted_training_says_how_to_go_on(journey: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "landseg", "train", "data", "--out", str(tmp_path / "run"), "-c", "tiny", "--set", "train.epochs=400"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=journey, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(1200):
            if list((tmp_path / "run" / "state").glob("*.state")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"to go on: landseg train data --out {tmp_path / 'run'} --resume" in said
    assert list((tmp_path / "run" / "state").glob("*.state"))


def test_compete_goes_on_and_says_what_it_was_begun_with(journey: Path) -> None:
    words = ["compete", "train_and_label.zip", "img_test.zip", "--classes", CLASSES, "--out", "work", *TINY]
    done = landseg(*words, "--json", cwd=journey)
    assert done.returncode == 0, done.stderr
    first = (journey / "work" / "result.zip").read_bytes()
    again = landseg(*words, "--json", cwd=journey)
    assert again.stderr.count("done before") == 7
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert (journey / "work" / "result.zip").read_bytes() == first
    other = landseg(*words, "--set", "train.lr=0.1", cwd=journey)
    assert "its step 'train' was done with another recipe" in line(other, 2)
    typo = landseg(*words[:-6], *TINY, "--set", "model.encoder=resnet5", "--out", "typo", cwd=journey)
    assert "did you mean resnet50" in line(typo, 2)
    assert not (journey / "typo").exists(), "a typo costs nothing"


def test_the_commands_that_run_a_model_keep_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("landseg.core.allocation.keep_memory", lambda: calls.append(True))
    monkeypatch.setattr(frame, "log_to_stderr", lambda _verbose: None)  # the log is this process's
    for words in (["predict", "gone", "gone", "--out", "out"], ["evaluate", "gone", "gone"]):
        assert CliRunner().invoke(main, words).exit_code == 2
    assert calls == [True, True]
