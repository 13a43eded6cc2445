"""Runs side by side: what differs is found, what may not be compared is said, and the page shows both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landseg.core.ledger import RunFolder
from landseg.scoring.comparison import Comparison
from landseg.scoring.comparison_page import comparison_page, points

CLASSES = [{"id": 0, "name": "道路", "colour": "#112233"}, {"id": 1, "name": "a<b", "colour": "#445566"}]


def run(
    name: str, miou: float | None = 0.5, *, settings: dict[str, Any] | None = None, data: str = "d" * 32, confusion: Any = None, **more: Any
) -> RunFolder:
    iou = {} if miou is None else {"道路": miou + 0.1, "a<b": miou - 0.1}
    score = {"miou": miou, "epoch": 2, "iou": iou, "kappa": 0.25, "confusion": confusion or [[3, 1], [0, 4]]}
    lines = more.pop("lines", None)
    if lines is None:
        lines = [
            {"step": 5 * k, "epoch": 1 + k // 2, "time_s": 6.0 * k, "train/loss": 1 / (k + 1), "speed/images_per_s": 10.0 + k}
            for k in range(4)
        ]
        lines += (
            []
            if miou is None
            else [{"step": 20, "epoch": 2, "time_s": 30.0, "val/miou": miou, **{f"val/iou/{key}": v for key, v in iou.items()}}]
        )
    card = {"classes": more.pop("classes", CLASSES), **({} if miou is None else {"scores": {"val": score}})}
    surroundings = {"data_fingerprint": data, "ended": {}, "python": "3.12", **more.pop("surroundings", {})}
    return RunFolder(Path("runs") / name, settings or {"train.lr": 0.1}, surroundings, lines, card if more.pop("model", True) else {}, ())


def test_settings_that_differ_and_no_others() -> None:
    found = Comparison(
        (
            run("a", settings={"train.lr": 0.1, "train.crop": None, "train.epochs": 3}),
            run("b", settings={"train.lr": 0.2, "train.crop": None, "loss.dice": 0.0, "train.epochs": 3}),
        )
    )
    assert found.settings == [("train.lr", (0.1, 0.2)), ("loss.dice", ("–", 0.0))] and found.same_settings == 2
    assert found.as_json()["settings"] == {"train.lr": {"a": 0.1, "b": 0.2}, "loss.dice": {"b": 0.0}}


def test_nothing_and_something_are_told_apart() -> None:
    assert Comparison((run("a", settings={"train.crop": None}), run("b", settings={"train.crop": 64}))).settings == [
        ("train.crop", (None, 64))
    ]
    unknown = Comparison((run("a", settings={"x": 1}), run("b", settings={"x": 1}), RunFolder(Path("c"), {}, {}, [], {}, ("gone",))))
    assert unknown.settings == [] and unknown.surroundings == [], "a recipe that cannot be read differs in nothing that is known"
    assert any("c: gone" in text for text in unknown.warnings)


def test_names_are_as_long_as_tells_them_apart() -> None:
    folders = [Path("x/one/first"), Path("y/one/first"), Path("x/two/second")]
    runs = tuple(RunFolder(path, {}, {}, [], {}, ()) for path in folders)
    assert Comparison(runs).names == ("x/one/first", "y/one/first", "x/two/second")
    assert Comparison(runs[1:]).names == ("first", "second")


def test_scores_are_the_kept_models_and_without_one_those_of_the_best_line() -> None:
    lines = [{"step": k, "epoch": k, "val/miou": value, "val/iou/道路": value} for k, value in ((1, 0.2), (2, 0.4), (3, 0.3))]
    found = Comparison((run("a", 0.5), run("b", lines=lines, model=False)))
    assert found.headlines == [("mIoU", (0.5, 0.4)), ("kappa", (0.25, None))]
    assert found.classes == [("道路", (0.6, 0.4)), ("a<b", (0.4, None))]
    assert found.leader == 0


def other(confusion: Any = None) -> RunFolder:
    return run("b", 0.9, data="e" * 32, confusion=confusion)


@pytest.mark.parametrize(
    ("second", "ground", "leader", "says"),
    [
        (run("b", 0.9), "same", 1, None),
        (other([[2, 2], [1, 3]]), "alike", 1, "same labelled pixels"),
        (other([[2, 1], [1, 4]]), "other", None, "not comparable"),
        (run("b", 0.9, data=""), "unknown", 1, "is not known"),
        (run("b", 0.9, classes=CLASSES[:1]), "same", None, "other classes"),
        (run("b", None), "same", None, "no score yet"),
        (run("b", 0.9, surroundings={"ended": None}), "same", 1, "did not come to its end"),
    ],
)
def test_what_may_not_be_compared_is_said(second: RunFolder, ground: str, leader: int | None, says: str | None) -> None:
    found = Comparison((run("a", 0.5), second))
    assert (found.ground, found.leader) == (ground, leader)
    assert found.warnings == [] if says is None else any(says in text for text in found.warnings)
    page = comparison_page(found).html()
    assert ("scores best" in page) == (leader is not None)
    assert all(text.replace("'", "&#x27;") in page for text in found.warnings)


def test_one_seed_each_is_no_proof() -> None:
    assert "seeds" in Comparison((run("a"), run("b"))).advice
    assert not Comparison((run("a", settings={"train.seed": 0}), run("b", settings={"train.seed": 1}))).advice


def test_points_stand_at_epochs_finished_whatever_the_batch() -> None:
    lines = [{"step": step, "epoch": epoch, "time_s": 60.0 * step, "x": step} for step, epoch in ((4, 1), (8, 1), (10, 2), (16, 2))]
    x, y = points(run("a", lines=lines), "x")
    assert x.tolist() == [0.5, 1.0, 1.25, 2.0] and y.tolist() == [4, 8, 10, 16]
    assert points(run("a", lines=lines), "x", by_minutes=True)[0].tolist() == [4, 8, 10, 16]
    x, _ = points(run("a", lines=lines[:3], surroundings={"ended": None}), "x")
    assert x.tolist() == [0.5, 1.0, 1.25], "the epoch that it is in goes on at the pace of the one before"


def test_points_of_a_damaged_history_are_those_that_can_be_placed() -> None:
    lines = [{"step": 2, "x": 1.0}, {"step": 3, "time_s": 1.0, "x": "much"}, {"step": 4, "epoch": 1, "time_s": 9.0, "x": 5.0}]
    x, y = points(run("a", lines=lines), "x")
    assert (x.tolist(), y.tolist()) == ([1.0], [5.0])
    assert len(points(run("a", lines=[]), "x")[0]) == 0


def test_many_lines_become_a_few_hundred_points_with_the_same_mean() -> None:
    lines = [{"step": k, "epoch": 1 + k // 100, "time_s": float(k), "x": float(k % 7)} for k in range(1, 2101)]
    x, y = points(run("a", lines=lines), "x")
    assert len(x) == 300 and np.all(np.diff(x) > 0) and y.mean() == pytest.approx(3.0)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_page_stands_alone_and_holds_every_score_and_curve(count: int) -> None:
    runs = tuple(run(f"run{k}", 0.5 + k / 100, settings={"train.lr": 0.1 * k, "model.weights": "none"}) for k in range(count))
    page = comparison_page(Comparison(runs)).html()
    assert "http" not in re.sub(r"xmlns[^\"]*\"[^\"]*\"", "", page) and "<script" not in page and "a<b" not in page
    for k in range(count):
        assert page.count(f"run{k}") > 3 and f"{100 * (0.5 + k / 100):.1f}" in page
    assert f"{count - 1:+.1f}" in page, "the last run's difference to the first"
    assert page.count("<svg") == 4, "loss, mIoU twice, images a second; no learning rate was logged"
    assert page.count('class="meter"') == (2 * count if count <= 3 else 0)
    assert page == comparison_page(Comparison(runs)).html()


def test_runs_without_anything_make_a_page_too() -> None:
    empty = tuple(RunFolder(Path(name), {}, {}, [], {}, ("metrics.jsonl is damaged",)) for name in "ab")
    page = comparison_page(Comparison(empty)).html()
    assert "is damaged" in page and "<svg" not in page and Comparison(empty).as_json()["scores"] == {}
