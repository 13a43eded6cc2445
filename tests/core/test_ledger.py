"""Run folders are read whatever state they are in: running, finished, interrupted, damaged, of another version."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from landseg.core.config import load_recipe, to_yaml
from landseg.core.errors import LandsegError
from landseg.core.files import lock
from landseg.core.ledger import find_runs, is_locked, open_run
from landseg.core.runs import note_end, write_surroundings

FINISHED: dict[str, Any] = {"ended": {"epochs": 2, "steps": 8, "elapsed_s": 60.0}}


def write(
    folder: Path,
    *,
    mious: tuple[float | None, ...] = (0.5, 0.25),
    recipe: str = "train: {epochs: 2, minutes: null}\n",
    surroundings: dict[str, Any] | None = None,
    states: tuple[int, ...] = (4, 8),
    model: float | None = None,
) -> Path:
    """A run folder of four steps an epoch, half a minute each."""
    (folder / "state").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe)
    if surroundings is not None:
        (folder / "environment.json").write_text(json.dumps({"data": "mine", "data_fingerprint": "f" * 32, **surroundings}))
    lines = [{"step": 4 * e, "epoch": e, "time_s": 30.0 * e, "val/miou": miou, "val/iou/a": miou} for e, miou in enumerate(mious, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in states:
        (folder / "state" / f"step-{step:09d}.state").write_bytes(b"x" * 1000)
    if model is not None:
        (folder / "model").mkdir()
        (folder / "model" / "model.json").write_text(json.dumps({"scores": {"val": {"miou": model, "epoch": 1}}}))
        (folder / "model" / "model.safetensors").write_bytes(b"w")
    return folder


def test_a_run_is_what_its_files_say(tmp_path: Path) -> None:
    run = open_run(
        write(tmp_path / "run", surroundings=FINISHED, model=0.5, recipe="model: {network: unet, encoder: e}\ntrain: {epochs: 2}\n")
    )
    assert (run.standing, run.epoch, run.planned, run.minutes) == ("finished", 2, "2 epochs", 1.0)
    assert run.best is not None and (run.best.miou, run.best.epoch, run.best.part) == (0.5, 1, "val")
    assert (run.network, run.data, run.fingerprint) == ("unet e", "mine", "f" * 32)
    assert run.size == sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()) and run.faults == ()
    assert run.settings == {"model.network": "unet", "model.encoder": "e", "train.epochs": 2}


def test_what_ended_is_finished_and_what_did_not_can_be_resumed(tmp_path: Path) -> None:
    assert open_run(write(tmp_path / "a", surroundings={})).standing == "interrupted"
    assert open_run(write(tmp_path / "b", surroundings={}, states=())).standing == "given up"
    write_surroundings(tmp_path / "a", device="cpu", seed=0, data_fingerprint="f", data="mine")
    assert open_run(tmp_path / "a").standing == "interrupted"
    note_end(tmp_path / "a", epochs=2, steps=8, elapsed_s=60)
    run = open_run(tmp_path / "a")
    assert run.standing == "finished" and run.data == "mine", "the note takes nothing away"


@pytest.mark.parametrize(
    ("recipe", "mious", "standing"),
    [
        ("train: {epochs: 2}", (0.1, 0.2), "finished"),
        ("train: {epochs: 3}", (0.1, 0.2), "interrupted"),
        ("train: {epochs: 2, minutes: 5.0}", (0.1, 0.2), "interrupted"),
        ("train: {epochs: 9, patience: 2}", (0.3, 0.2, 0.3), "finished"),
        ("train: {epochs: 9, patience: 2}", (0.3, 0.2), "interrupted"),
        ("train: {epochs: 9, patience: 2}", (None, None, None), "finished"),
        ("model: {}", (0.1, 0.2), "interrupted"),
    ],
)
def test_a_run_that_noted_no_ends_is_finished_only_where_its_metrics_prove_it(
    tmp_path: Path, recipe: str, mious: tuple[float | None, ...], standing: str
) -> None:
    folder = write(tmp_path / "run", recipe=recipe, mious=mious)
    assert open_run(folder).standing == standing
    (folder / "environment.json").write_text('{"data": "mine"}')
    assert open_run(folder).standing == "interrupted", "one that would have noted its end, and did not, did not come to it"


def test_a_held_lock_is_a_run_that_is_written_even_when_we_may_only_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", surroundings=FINISHED)
    held = lock(folder / ".lock", wait=False)
    (folder / ".lock").chmod(0o444)
    assert is_locked(folder / ".lock") and open_run(folder).standing == "running" and open_run(folder).has_ended
    held.close()
    assert not is_locked(folder / ".lock") and open_run(folder).standing == "finished"
    lock(folder / ".lock2", wait=False).close()
    assert not is_locked(folder / "none"), "and looking makes no file"
    assert not (folder / "none").exists()


def test_damage_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", surroundings=FINISHED)
    metrics = folder / "metrics.jsonl"
    good = metrics.read_bytes()
    metrics.write_bytes(b'[1]\n\xff\xfe\n{"step": NaN}\n' + good + b'{"step": 9, "val/mi')
    (folder / "recipe.yaml").write_text("train: [")
    (folder / "environment.json").write_text("7")
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text('{"scores": {"val": {"miou": "high"}}, "classes": 3}')
    run = open_run(folder)
    assert [line["step"] for line in run.lines] == [4, 8] and run.best is not None and run.best.miou == 0.5
    assert run.faults == ("recipe.yaml is damaged", "environment.json is damaged", "metrics.jsonl: 3 damaged lines are left out")
    assert (run.network, run.planned, run.fingerprint, run.standing, run.has_model) == ("? ?", "", "", "interrupted", False)


def test_numbers_that_are_none_are_no_scores(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", mious=(None, None))
    run = open_run(folder)
    assert run.best is None and run.epoch == 2
    (folder / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "val/miou": NaN, "time_s": true}\n')
    assert open_run(folder).best is None and open_run(folder).minutes == 0


def test_a_model_between_two_renames_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", model=0.75)
    (folder / "model").rename(folder / ".model.old")
    run = open_run(folder)
    assert run.has_model and run.best is not None and run.best.miou == 0.75


def test_runs_are_found_below_and_nothing_else_is_searched(tmp_path: Path) -> None:
    for name in ("b/deep/er/run", "a", "a/inside", ".hidden/run", "data/images/run", "data/runs/x", "1/2/3/4/5/6", "1/2/3/4/5/6x/7"):
        write(tmp_path / name)
    (tmp_path / "data" / "dataset.yaml").write_text("name: d\n")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [run.path.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)]
    assert found == ["1/2/3/4/5/6", "a", "b/deep/er/run", "data/runs/x"]
    assert [run.path for run in find_runs(tmp_path / "a")] == [tmp_path / "a"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.write_text("x"), "a file"),
        (lambda folder: folder.mkdir(), "no run in it"),
        (lambda folder: (folder.mkdir(), (folder / "model.json").write_text("{}")), "a model folder, which has no history"),
        (lambda folder: (folder.mkdir(), (folder / "dataset.yaml").write_text("")), "a data set"),
        (lambda folder: write(folder / "run"), "no run in it, but 1 below it"),
    ],
)
def test_what_is_no_run_is_named_for_what_it_is(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(LandsegError, match=says):
        open_run(tmp_path / "x")
    if "below" not in says:
        with pytest.raises(LandsegError, match=says):
            find_runs(tmp_path / "x")


def test_the_model_of_a_run_leads_to_the_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", model=0.5)
    with pytest.raises(LandsegError) as caught:
        open_run(folder / "model")
    assert str(folder) in caught.value.do


def test_every_setting_of_a_recipe_is_found_by_its_dotted_key(tmp_path: Path) -> None:
    recipe = load_recipe("default")
    run = open_run(write(tmp_path / "run", recipe=to_yaml(recipe)))
    assert run.settings["train.lr"] == recipe.train.lr and run.settings["augment.scale"] == list(recipe.augment.scale)
    assert len(run.settings) == sum(len(type(section).model_fields) for _, section in recipe)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_is_not_ours_to_read_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "ours")
    write(tmp_path / "theirs" / "run")
    (tmp_path / "theirs").chmod(0)
    try:
        assert [run.path.name for run in find_runs(tmp_path)] == ["ours"]
    finally:
        (tmp_path / "theirs").chmod(0o755)
