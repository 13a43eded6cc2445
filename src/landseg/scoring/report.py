"""The report of an evaluation: what was scored, how well, how sure that is, and where it fails. It runs no model and computes no score.

It writes three files with the same content: `report.html` for people, `report.md` for people in a terminal, `scores.json` for programs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from landseg.core.classes import IGNORE_INDEX, LandClass
from landseg.core.errors import LandsegError
from landseg.core.files import write_json, write_text
from landseg.core.page import Markup, Page, Picture, class_map, join, meter, photo, swatch
from landseg.scoring.confusion import Scores
from landseg.scoring.curves import quality_curves, resource_curves, time_curve
from landseg.scoring.intervals import LEVEL, RESAMPLES, Interval

_TILE_EDGE = 384  # pixels; larger tiles are shown reduced, so that twenty of them stay under 3 MB
_WRONG = (196, 22, 118)  # no map colour of ours comes near it
_WRONG_HEX = "#{:02x}{:02x}{:02x}".format(*_WRONG)
_SURE = f"{LEVEL * 100:.0f} %"


@dataclass(frozen=True)
class TileExample:
    """One tile to look at.

    Args:
        name: Its name in the data set.
        image: (H, W, 3) uint8, as a person would see it.
        label: (H, W) uint8 class ids, 255 = unlabelled.
        pred: (H, W) uint8 class ids.
        miou: Its own mean IoU, 0..1; None when nothing in it is labelled.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    pred: np.ndarray
    miou: float | None


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that the report of an evaluation says.

    Args:
        title: Headline, such as the run's name.
        part: What was scored: ``val``, ``test`` …
        classes: The K classes of `scores`, in the order of their ids.
        scores: The scores of the part.
        model: Facts about the model and the data: name → words.
        intervals: From `scoring.intervals.intervals`; None when none were computed.
        groups: Number of groups in the part; None when unknown.
        history: Lines of `metrics.jsonl`; train and validation lines may be separate. Empty for a model without a run.
        best: Tiles with the highest mIoU, best first.
        worst: Tiles with the lowest mIoU, worst first.
        notes: Remarks that the reader must not miss, such as how the part was chosen.
    """

    title: str
    part: str
    classes: tuple[LandClass, ...]
    scores: Scores
    model: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, Interval | None] | None = None
    groups: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best: list[TileExample] = field(default_factory=list)
    worst: list[TileExample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(folder: Path, report: EvaluationReport) -> Path:
    """Write `report.html`, `report.md` and `scores.json` into `folder`; each is replaced whole.

    Args:
        folder: Where to; created.
        report: What to say.

    Returns:
        The path of `report.html`.

    Raises:
        LandsegError: The classes are not those of the scores, or the folder cannot be written.
    """
    names = tuple(item.name for item in report.classes)
    if names != report.scores.names:
        raise LandsegError("report", f"classes {', '.join(names)}", f"{', '.join(report.scores.names)} as in the scores", "pass one list")
    write_json(folder / "scores.json", _document(report))
    write_text(folder / "report.md", _markdown(report))
    return _page(report).write(folder / "report.html")


def _document(report: EvaluationReport) -> dict[str, Any]:
    found = report.intervals
    return {
        "title": report.title,
        "part": report.part,
        **report.scores.as_json(),
        "groups": report.groups,
        "intervals": None if found is None else {name: None if both is None else list(both) for name, both in found.items()},
        "model": report.model,
        "notes": report.notes,
    }


def _page(report: EvaluationReport) -> Page:
    page = Page(report.title, _subtitle(report))
    result = report.scores
    page.facts(
        {
            "mIoU": (_percent(result.miou), _interval_words(report, "miou")),
            "Overall accuracy": (_percent(result.overall_accuracy), _interval_words(report, "overall_accuracy")),
            "Cohen’s kappa": ("–" if result.kappa is None else f"{result.kappa:.3f}", _kappa_words(report)),
            "Scored pixels": (_count(result.pixels), "" if report.groups is None else f"in {_plural(report.groups, 'group')}"),
        }
    )
    for paragraph in _findings(report):
        page.text(paragraph.replace(" %", "\u00a0%"))  # never a line that begins with a per cent sign
    for note in report.notes:
        page.note(note)
    page.section("Classes", f"Bars show IoU, the whisker on a bar its {_SURE} interval." if report.intervals else "")
    page.table(
        [
            "Class", "IoU %", f"{_SURE} interval" if report.intervals else "", Markup("Precision %<br>user’s accuracy"),
            Markup("Recall %<br>producer’s accuracy"), "F1 %", Markup("Share of<br>label %"),
        ],
        [_class_row(report, item) for item in report.classes],
        align="lrlrrrr",
    )  # fmt: skip
    page.section("Confusion", "Each row is what the label says, each column what the model made of it, in per cent of the row.")
    _draw_confusion(page, report)
    quality, resources = quality_curves(report.history, report.classes), resource_curves(report.history)
    if quality or resources:
        page.section("Learning curves")
        page.figures(quality)
        page.legend(_swatches(report))
        page.figures(resources, columns=2 if len(resources) == 4 else 3)
    timed = time_curve(report.history)
    if timed is not None:
        title, words, figure = timed
        page.section("Pace", words.replace(" %", "\u00a0%"))
        page.figures([(title, figure)], columns=1)
    _draw_tiles(page, report)
    if report.model:
        page.section("Model and data")
        page.table(["", ""], list(report.model.items()), align="ll")
    page.section("What the numbers mean")
    page.definitions(_definitions(report))
    return page


def _subtitle(report: EvaluationReport) -> str:
    groups = "" if report.groups is None else f" · {_plural(report.groups, 'group')}"
    return f"Evaluation on part {report.part}{groups} · {_count(report.scores.pixels)} scored pixels · {len(report.classes)} classes"


def _findings(report: EvaluationReport) -> list[str]:
    """The result in sentences, for a reader who does not know what an IoU is."""
    result = report.scores
    if result.miou is None:
        return [f"No pixel of part {report.part} is labelled: nothing could be scored."]
    sentences = [
        f"On average over the classes, {result.miou * 100:.1f} % of the ground that label or model gives to a class is given to it by both "
        f"(mIoU); {(result.overall_accuracy or 0) * 100:.1f} % of all labelled pixels have the right class."
    ]
    both = (report.intervals or {}).get("miou")
    if both:
        sentences[0] += (
            f" With other groups of tiles like these, the mIoU would mostly lie between {both[0] * 100:.1f} and {both[1] * 100:.1f} %."
        )
    present = {name: value for name, value in result.iou.items() if value is not None}
    weak: list[str] = []
    absent = [name for name, value in result.iou.items() if value is None]
    if len(present) > 1:
        weakest = min(present, key=lambda name: present[name])
        weak.append(f"Weakest class: {weakest}, IoU {present[weakest] * 100:.1f} %.")
    confused = _confused(result, 3)
    if confused:
        words = "; ".join(f"{label} taken for {pred} ({share * 100:.1f} % of {label})" for label, pred, share, _ in confused)
        weak.append(f"Most pixels are lost by: {words}.")
    if absent:
        weak.append(f"Absent from label and prediction, and therefore not in the mean: {', '.join(absent)}.")
    return [*sentences, *([" ".join(weak)] if weak else [])]


def _confused(result: Scores, most: int) -> list[tuple[str, str, float, int]]:
    """(label, prediction, share of the label's pixels, pixels) of the largest errors."""
    errors = result.confusion.copy()
    np.fill_diagonal(errors, 0)
    labelled = result.confusion.sum(1)
    found = []
    for flat in np.argsort(-errors, axis=None, kind="stable")[:most]:
        i, j = divmod(int(flat), len(errors))
        if errors[i, j]:
            found.append((result.names[i], result.names[j], float(errors[i, j] / labelled[i]), int(errors[i, j])))
    return found


def _class_row(report: EvaluationReport, item: LandClass) -> list[str]:
    result = report.scores
    iou = result.iou[item.name]
    both = (report.intervals or {}).get(f"iou/{item.name}")
    bar: str = "" if iou is None else meter(iou, both, item.colour)
    small = Markup(f"<small>{both[0] * 100:.1f} – {both[1] * 100:.1f}</small>") if both else ""
    return [
        swatch(item.colour, item.name),
        "absent" if iou is None else _bare(iou),
        join(bar, small),
        _bare(result.precision[item.name]),
        _bare(result.recall[item.name]),
        _bare(result.f1[item.name]),
        _bare(_label_share(result)[item.id]),
    ]


def _label_share(result: Scores) -> list[float | None]:
    return [float(count) / result.pixels if result.pixels else None for count in result.confusion.sum(1)]


def _row_shares(result: Scores) -> np.ndarray:
    counts = result.confusion.astype(np.float64)
    whole = counts.sum(1, keepdims=True)
    shares: np.ndarray = np.divide(counts, whole, out=np.full(counts.shape, np.nan), where=whole > 0)
    return shares


def _draw_confusion(page: Page, report: EvaluationReport) -> None:
    result, names = report.scores, report.scores.names
    shares = _row_shares(result)
    is_large = len(names) > 8
    cells = [["" if math.isnan(share) else _share_words(share, is_large) for share in row] for row in shares]
    titles = [
        [f"{label} labelled, {pred} predicted: {_count(int(pixels))} pixels" for pred, pixels in zip(names, row, strict=True)]
        for label, row in zip(names, result.confusion, strict=True)
    ]
    page.heatmap(
        shares, _swatches(report), cells, titles,
        "Green is right, the diagonal being recall; red is wrong. “·” is no pixel at all, a row of “–” a class without labels. "
        "Pixel counts show when the pointer rests on a cell, and stand in scores.json.",
    )  # fmt: skip


def _share_words(share: float, is_large: bool) -> str:
    if share == 0:
        return "·"
    if is_large:
        return "<1" if share < 0.005 else f"{share * 100:.0f}"
    return "<0.1" if share < 0.0005 else f"{share * 100:.1f}"


def _draw_tiles(page: Page, report: EvaluationReport) -> None:
    for heading, examples in (("Worst tiles", report.worst), ("Best tiles", report.best)):
        if not examples:
            continue
        page.section(heading, "By their own mIoU. Hatched pixels are unlabelled and not scored.")
        page.legend([*_swatches(report), swatch("none", "unlabelled"), swatch(_WRONG_HEX, "error")])
        strips = [(_tile_words(example), _tile_pictures(example, report.classes)) for example in examples]
        page.tiles(strips, ["Image", "Label", "Prediction", "Errors"])


def _swatches(report: EvaluationReport) -> list[Markup]:
    return [swatch(item.colour, item.name) for item in report.classes]


def _tile_words(example: TileExample) -> Markup:
    scored = example.label != IGNORE_INDEX
    wrong = float((example.label != example.pred)[scored].mean()) if scored.any() else 0.0
    words = f"mIoU {_percent(example.miou)} · {wrong * 100:.1f} % of its labelled pixels wrong"
    return join(example.name, Markup("<small>"), words, Markup("</small>"))


def _tile_pictures(example: TileExample, classes: Sequence[LandClass]) -> list[Picture]:
    height, width = example.label.shape
    factor = min(1.0, _TILE_EDGE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = cv2.resize(example.image, size, interpolation=cv2.INTER_AREA)
    label, pred = (cv2.resize(values, size, interpolation=cv2.INTER_NEAREST) for values in (example.label, example.pred))
    return [
        photo(image, f"{example.name}: image"),
        class_map(label, classes, f"{example.name}: label"),
        class_map(pred, classes, f"{example.name}: prediction"),
        photo(_error_map(image, label, pred), f"{example.name}: errors in red"),
    ]


def _error_map(image: np.ndarray, label: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """The image in pale grey, wrong pixels red, unlabelled pixels hatched."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    drawn = np.repeat((150 + grey * (95 / 255))[..., None], 3, axis=2)
    unlabelled = label == IGNORE_INDEX
    wrong = (label != pred) & ~unlabelled
    drawn[wrong] = 0.2 * drawn[wrong] + 0.8 * np.array(_WRONG, np.float32)
    rows, columns = np.nonzero(unlabelled)
    drawn[rows, columns] = np.where((rows + columns) % 8 < 3, 160.0, 215.0)[:, None]
    return drawn.round().astype(np.uint8)


def _definitions(report: EvaluationReport) -> dict[str, str]:
    sure = (
        f"{_SURE} of {_count(RESAMPLES)} bootstrap resamples lie in it; whole groups (tiles that belong together) are drawn "
        "with replacement, because pixels and neighbouring tiles resemble each other. None is given for fewer than two groups, or for a "
        "class that occurs in fewer than two. With few groups it is too narrow: 2 of them hold the truth about half the time, "
        "8 about 87 times in a hundred. Efron & Tibshirani 1993, chapters 8 and 13."
    )
    return {
        "Pooling": "Pixels are pooled over the whole part, never averaged per image. Pixels whose label is the ignore index are left out.",
        "IoU": "Intersection over union, TP / (TP + FP + FN). A class without a pixel in label and prediction is absent and has none.",
        "mIoU": "Mean IoU of the classes that are not absent. Counting absent classes as 0, as PaddleX does, it would be "
        f"{_percent(report.scores.miou_absent_zero)}.",
        "Precision": "User’s accuracy, TP / (TP + FP): how much of what the map calls a class is that class.",
        "Recall": "Producer’s accuracy, TP / (TP + FN): how much of a class the map finds.",
        "F1": "Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN).",
        "Overall accuracy": "Share of labelled pixels that have the right class.",
        "Cohen’s kappa": "Agreement beyond what the class shares alone would give by chance: 1 is full agreement, 0 is chance.",
        "Interval": sure,
        "Share of label": "The class’s share of the labelled pixels of this part.",
        "mIoU of a tile": "The same formula over the pixels of one tile; with few classes in a tile it swings widely.",
    }


def _markdown(report: EvaluationReport) -> str:
    result = report.scores
    lines = [f"# {_cell(report.title)}", "", _subtitle(report), ""]
    lines += ["| score | value | interval |", "|---|---:|---|"]
    lines += [
        f"| mIoU | {_percent(result.miou)} | {_interval_words(report, 'miou')} |",
        f"| overall accuracy | {_percent(result.overall_accuracy)} | {_interval_words(report, 'overall_accuracy')} |",
        f"| Cohen’s kappa | {'–' if result.kappa is None else f'{result.kappa:.3f}'} | {_kappa_words(report)} |",
        f"| mIoU, absent classes as 0 (PaddleX) | {_percent(result.miou_absent_zero)} | |",
        "",
    ]
    lines += [_cell(paragraph) + "\n" for paragraph in _findings(report)]
    lines += [f"> {_cell(note)}\n" for note in report.notes]
    lines += ["## Classes", "", "| class | IoU % | interval | precision % | recall % | F1 % | share of label % |"]
    lines += ["|---|---:|---|---:|---:|---:|---:|"]
    for item, share in zip(report.classes, _label_share(result), strict=True):
        name, both = item.name, (report.intervals or {}).get(f"iou/{item.name}")
        cells = [_bare(result.iou[name]), f"{both[0] * 100:.1f}–{both[1] * 100:.1f}" if both else "–"]
        cells += [_bare(value) for value in (result.precision[name], result.recall[name], result.f1[name], share)]
        lines.append(f"| {_cell(name)} | {' | '.join(cells)} |")
    lines += ["", "## Confusion", "", "Rows are labels, columns predictions, in per cent of the row.", ""]
    lines += ["| | " + " | ".join(_cell(name) for name in result.names) + " |", "|---|" + "---:|" * len(result.names)]
    for name, row in zip(result.names, _row_shares(result), strict=True):
        lines.append(f"| {_cell(name)} | " + " | ".join("–" if math.isnan(share) else f"{share * 100:.1f}" for share in row) + " |")
    if report.model:
        lines += ["", "## Model and data", ""] + [f"- {_cell(name)}: {_cell(value)}" for name, value in report.model.items()]
    lines += ["", "## What the numbers mean", ""] + [f"- **{term}**: {meaning}" for term, meaning in _definitions(report).items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that can stand in a Markdown table and is no markup of its own."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return escaped.replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")


def _interval_words(report: EvaluationReport, name: str) -> str:
    both = (report.intervals or {}).get(name)
    return f"{_SURE} interval {both[0] * 100:.1f} – {both[1] * 100:.1f} %" if both else _why_no_interval(report)


def _kappa_words(report: EvaluationReport) -> str:
    both = (report.intervals or {}).get("kappa")
    return f"{_SURE} interval {both[0]:.3f} – {both[1]:.3f}" if both else _why_no_interval(report)


def _why_no_interval(report: EvaluationReport) -> str:
    if report.intervals is None:
        return "no interval computed"
    return "no interval: fewer than two groups" if report.groups is None or report.groups < 2 else "no interval"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"


def _bare(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}"


def _count(number: int) -> str:
    return f"{number:,}"


def _plural(number: int, word: str) -> str:
    return f"{_count(number)} {word}" + ("" if number == 1 else "s")
