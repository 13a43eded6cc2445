"""The report says what the scores say, in three files, for any number of classes and any gap in what is known."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.scoring.confusion import confusion_matrix, scores
from landseg.scoring.intervals import intervals
from landseg.scoring.report import EvaluationReport, TileExample, write_report

NAMES = ["building 建筑", "farm<land> & co", "forest|林地", "other"]


def blocks(random: np.random.Generator, count: int, edge: int) -> np.ndarray:
    """Labels in blocks of 16 pixels, as ground has, not noise."""
    return np.kron(random.integers(0, count, (edge // 16, edge // 16)), np.ones((16, 16))).astype(np.uint8)


def invented(names: list[str], tiles: int = 6, edge: int = 64) -> EvaluationReport:
    random = np.random.default_rng(len(names))
    classes = make_classes(names)
    matrices, examples = [], []
    for number in range(tiles):
        label = blocks(random, len(names), edge)
        pred = np.where(random.random(label.shape) < 0.8, label, blocks(random, len(names), edge)).astype(np.uint8)
        label[: edge // 8] = 255
        matrices.append(confusion_matrix(label, pred, len(names)))
        image = random.integers(0, 255, (edge, edge, 3), dtype=np.uint8)
        examples.append(TileExample(f"tile_{number}", image, label, pred, scores(matrices[-1], names).miou))
    stack = np.stack(matrices)
    return EvaluationReport(
        "first <run>", "val", classes, scores(stack.sum(0), names), {"encoder": "mobilenet & co"}, intervals(stack, names, resamples=100),
        tiles, history(names), examples[:2], examples[2:4], ["a random split flatters"],
    )  # fmt: skip


def history(names: list[str], epochs: int = 4, first: int = 1) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for epoch in range(first, first + epochs):
        done = epoch - first
        for step in range(done * 20, done * 20 + 20, 5):
            lines.append({"step": step, "epoch": epoch, "train/loss": 2 / (step + 1), "train/lr": 0.01, "speed/images_per_s": 100.0})
        iou = {f"val/iou/{name}": 0.1 * epoch for name in names}
        lines.append({"step": done * 20 + 20, "epoch": epoch, "val/miou": 0.1 * epoch, **iou})
    return lines


def test_three_files_with_the_same_numbers(tmp_path: Path) -> None:
    report = invented(NAMES)
    path = write_report(tmp_path / "report", report)
    assert path == tmp_path / "report" / "report.html"
    assert sorted(item.name for item in path.parent.iterdir()) == ["report.html", "report.md", "scores.json"]
    page, markdown = path.read_text(encoding="utf-8"), (path.parent / "report.md").read_text(encoding="utf-8")
    miou = f"{(report.scores.miou or 0) * 100:.1f}"
    low, high = (report.intervals or {})["miou"] or (0.0, 0.0)
    for text in (page, markdown):
        assert miou in text and f"{low * 100:.1f} – {high * 100:.1f}" in text
        assert "建筑" in text and "a random split flatters" in text
        for name in NAMES:
            for score in (report.scores.iou, report.scores.precision, report.scores.recall, report.scores.f1):
                assert f"{(score[name] or 0) * 100:.1f}" in text
    assert "farm&lt;land&gt; &amp; co" in page and "farm<land>" not in page and "first &lt;run&gt;" in page
    assert "forest\\|林地" in markdown
    document = json.loads((path.parent / "scores.json").read_text(encoding="utf-8"))
    assert document["confusion"] == report.scores.confusion.tolist()
    assert document["miou"] == report.scores.miou and document["intervals"]["miou"] == [low, high]
    assert {"definition", "kappa", "f1", "part", "groups", "model", "notes"} <= set(document)


def test_the_page_has_table_confusion_curves_and_tiles(tmp_path: Path) -> None:
    report = invented(NAMES)
    page = write_report(tmp_path, report).read_text(encoding="utf-8")
    assert page.count("<svg") == 4  # loss, validation, learning rate, speed
    assert page.count("<img") == 4 * (len(report.best) + len(report.worst))
    assert page.count('class="meter"') == len(NAMES)
    assert len(re.findall(r'class="hit', page)) == len(NAMES) and len(re.findall(r'class="miss', page)) == len(NAMES) * (len(NAMES) - 1)
    for example in (*report.best, *report.worst):
        assert f"{example.name}<small>" in page


def test_where_the_time_went_stands_in_a_section_of_its_own(tmp_path: Path) -> None:
    bare = replace(invented(["a", "b"]), best=[], worst=[])
    lines = [{**line, "time/window_s": 30.0, "time/step_share": 0.75, "time/data_share": 0.25} for line in bare.history]
    page = write_report(tmp_path, replace(bare, history=lines)).read_text(encoding="utf-8")
    assert ">Pace</h2>" in page and "75\u00a0% steps, 25\u00a0% waiting for data." in page and page.count("<svg") == 5


@pytest.mark.parametrize("count", [1, 2, 9, 23])
def test_any_number_of_classes(tmp_path: Path, count: int) -> None:
    report = invented([f"class {i}" for i in range(count)])
    page = write_report(tmp_path, report).read_text(encoding="utf-8")
    assert ('class="heat upright"' in page) == (count > 8)
    assert page.count('scope="row"') == count


def test_what_is_not_known_is_said_not_invented(tmp_path: Path) -> None:
    report = invented(["a", "b", "c"])
    bare = replace(report, intervals=None, groups=None, history=[], best=[], worst=[], notes=[], model={})
    page = write_report(tmp_path / "bare", bare).read_text(encoding="utf-8")
    assert "no interval computed" in page and "<svg" not in page and "<img" not in page and "Learning curves" not in page
    alone = replace(report, intervals=dict.fromkeys(report.intervals or {}), groups=1)
    page = write_report(tmp_path / "alone", alone).read_text(encoding="utf-8")
    assert "no interval: fewer than two groups" in page and "in 1 group<" in page


def test_nothing_scored_and_absent_classes(tmp_path: Path) -> None:
    report = invented(["a", "b", "c"])
    empty = replace(report, scores=scores(np.zeros((3, 3), int), ["a", "b", "c"]), intervals=None)
    page = write_report(tmp_path / "empty", empty).read_text(encoding="utf-8")
    assert "nothing could be scored" in page and "nan" not in re.sub('base64,[^"]*', "", page).lower()
    part = replace(report, scores=scores(np.array([[5, 1, 0], [0, 0, 0], [0, 0, 0]]), ["a", "b", "c"]))
    write_report(tmp_path / "part", part)
    for name in ("report.html", "report.md"):
        assert "not in the mean: c." in (tmp_path / "part" / name).read_text(encoding="utf-8")


def test_a_tile_without_labels_and_a_large_tile_of_another_shape(tmp_path: Path) -> None:
    report = invented(["a", "b"])
    blank = TileExample("blank", np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 255, np.uint8), np.zeros((40, 40), np.uint8), None)
    wide = TileExample("wide", np.zeros((500, 1000, 3), np.uint8), np.zeros((500, 1000), np.uint8), np.ones((500, 1000), np.uint8), 0.0)
    page = write_report(tmp_path, replace(report, best=[], worst=[blank, wide])).read_text(encoding="utf-8")
    assert 'width="384" height="192"' in page and 'width="40" height="40"' in page
    assert "mIoU – · 0.0 %" in page and "mIoU 0.0 % · 100.0 %" in page


def test_errors_are_marked_where_they_are(tmp_path: Path) -> None:
    label, pred = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    pred[:32, :32] = 1
    label[32:, :] = 255
    pred[32:, :] = 1  # unlabelled: no error
    example = TileExample("one", np.full((64, 64, 3), 90, np.uint8), label, pred, 0.5)
    page = write_report(tmp_path, replace(invented(["a", "b"]), best=[example], worst=[])).read_text(encoding="utf-8")
    data = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)"[^>]*alt="one: errors', page)[0]
    blue, green, red = np.moveaxis(cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).astype(int), -1, 0)
    coloured = np.maximum(red, blue) - green > 60
    assert coloured[2:28, 2:28].all() and not coloured[:, 36:].any() and not coloured[36:].any()


def test_twenty_tiles_stay_small_and_the_report_is_the_same_every_time(tmp_path: Path) -> None:
    report = invented(["a", "b", "c", "d"], tiles=20, edge=256)
    smooth = [replace(example, image=cv2.GaussianBlur(example.image, (0, 0), 2)) for example in (*report.best, *report.worst)] * 5
    report = replace(report, best=smooth[:10], worst=smooth[10:])
    path = write_report(tmp_path, report)
    first = path.read_bytes()
    assert len(first) < 3_000_000
    assert write_report(tmp_path, report).read_bytes() == first


def test_classes_that_are_not_those_of_the_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="a, c"):
        write_report(tmp_path, replace(invented(["a", "b"]), classes=make_classes(["a", "c"])))
    assert not list(tmp_path.iterdir())
