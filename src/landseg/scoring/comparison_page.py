"""The page of a comparison of runs: scores side by side, settings that differ, curves in the same axes. It compares nothing itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg.core.files import human_bytes
from landseg.core.ledger import RunFolder, number
from landseg.core.page import INK, Markup, Page, Text, join, meter, new_figure, style_axes, swatch
from landseg.scoring.comparison import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3a8f7a", "#d9822b", "#5b7fd1", "#c2568f", "#93922f", "#8d6cc4", "#5aa7b8", "#a0714f")
"""Of the runs, alike in light and dark; a ninth begins again with dashes."""

_STYLES = ("-", "--", ":", "-.")
_MOST_POINTS = 300  # more lines of metrics than these are averaged into as many
_MOST_BARS = 3  # runs that still have a bar beside each number
_MOST_CARDS = 8


def comparison_page(found: Comparison) -> Page:
    """The page of a comparison."""
    page = Page(f"Comparison of {len(found.runs)} runs", " · ".join(found.names) if len(found.runs) <= _MOST_CARDS else "")
    page.facts({name: _card(run) for name, run in list(zip(found.names, found.runs, strict=True))[:_MOST_CARDS]})
    for warning in found.warnings:
        page.note(warning, is_warning=True)
    for sentence in _findings(found):
        page.text(sentence.replace(" %", "\u00a0%"))
    _draw_scores(page, found)
    _draw_settings(page, found)
    _draw_curves(page, found)
    _draw_runs(page, found)
    page.section("What the numbers mean")
    page.definitions(_DEFINITIONS)
    return page


_DEFINITIONS: dict[str, Text] = {
    "mIoU": "Mean over the classes of IoU, TP / (TP + FP + FN), with pixels pooled over the whole part; of the model that each run kept, "
    "which is the one of its best epoch.",
    "Difference": "In percentage points to the first run that was named.",
    "Data fingerprint": "A checksum of the pixels, the labels and the parts. Where it is the same, the same tiles were trained and scored.",
    "Epochs on an axis": "Epochs finished. Each epoch spreads over its own steps, so that runs with other batches share an axis.",
    "Minutes": "Of training, validation and saving included, over all resumptions.",
}


def _card(run: RunFolder) -> tuple[Text, Text]:
    when = f"epoch {run.best.epoch}" if run.best else f"epoch {run.epoch}, not scored yet"
    return _percent(run.best.miou if run.best else None), f"mIoU on {run.best.part if run.best else 'val'}, {when} · {run.standing}"


def _findings(found: Comparison) -> list[str]:
    if found.leader is None:
        return []
    mious = found.headlines[0][1]
    others = [
        (value, name) for i, (value, name) in enumerate(zip(mious, found.names, strict=True)) if i != found.leader and value is not None
    ]
    second, name = max(others)
    words = f"{found.names[found.leader]} scores best: mIoU {_percent(mious[found.leader])}, "
    words += f"{(mious[found.leader] - second) * 100:.1f} points above {name}."
    gains = [(value[found.leader] - value[found.names.index(name)], title) for title, value in found.classes if _both(value, found, name)]
    if gains:
        (most, gained), (least, lost) = max(gains), min(gains)
        words += f" Of the classes, {gained} gains most ({_signed(most)})"
        words += f", {lost} loses most ({_signed(least)})." if least < 0 else "; none loses."
    return [words, *([found.advice] if found.advice else [])]


def _both(values: Sequence[Any], found: Comparison, name: str) -> bool:
    return found.leader is not None and values[found.leader] is not None and values[found.names.index(name)] is not None


def _draw_scores(page: Page, found: Comparison) -> None:
    rows = [*found.headlines, *found.classes]
    if not rows:
        return
    best = " The best of each row is bold." if found.leader is not None else ""
    page.section("Scores", f"In per cent, with the difference to the first run.{best}")
    bars = len(found.runs) <= _MOST_BARS
    table = []
    is_ranked = found.leader is not None
    for name, values in rows:
        colour = found.colours.get(name) if (name, values) in found.classes else None
        title: Text = swatch(colour, name) if colour else Markup(f"<b>{join(name)}</b>") if (name, values) in found.headlines else name
        table.append([title, *(_score(values, i, colour if bars else None, is_ranked=is_ranked) for i in range(len(values)))])
    page.table(["", *_swatches(found)], table)


def _score(values: Sequence[float | None], i: int, colour: str | None, *, is_ranked: bool) -> Text:
    value, first = values[i], values[0]
    if value is None:
        return "–"
    is_best = is_ranked and value == max(other for other in values if other is not None) and len(set(values)) > 1
    shown = Markup(f"<b>{value * 100:.1f}</b>") if is_best else f"{value * 100:.1f}"
    change = _signed(value - first) if i and first is not None else ""
    bar = meter(min(1.0, max(0.0, value)), None, colour) if colour else ""
    # Of the same width in each cell, so that bars and numbers stand under one another.
    return join(bar, *(Markup(f'<span style="display:inline-block;width:3.2em">{join(word)}</span>') for word in (shown, _small(change))))


def _small(text: str) -> Markup:
    return Markup(f"<small>{text}</small>")


def _draw_settings(page: Page, found: Comparison) -> None:
    same = found.same_settings
    if not found.settings:
        if same:
            page.section("Settings", f"All {same} settings are the same.")
        return
    page.section("Settings that differ", f"The other {same} are the same. “–” is a setting that the run’s version did not have.")
    page.table(["Setting", *_swatches(found)], _rows(found.settings), align="l" * (len(found.runs) + 1))


def _draw_runs(page: Page, found: Comparison) -> None:
    page.section("Runs")
    speeds = found.images_per_s()
    facts: dict[str, Callable[[int, RunFolder], object]] = {
        "folder": lambda _, run: str(run.path),
        "network": lambda _, run: run.network,
        "data": lambda _, run: f"{run.data} {run.fingerprint[:8]}".strip() or "unknown",
        "reached": lambda _, run: f"epoch {run.epoch} of {run.planned}" if "epochs" in run.planned else f"epoch {run.epoch}, {run.planned}",
        "minutes": lambda _, run: f"{run.minutes:.1f}",
        "images a second": lambda i, _: "–" if speeds[i] is None else f"{speeds[i]:.1f}",
        "on disk": lambda _, run: human_bytes(run.size),
    }
    rows: list[Row] = [(name, tuple(tell(i, run) for i, run in enumerate(found.runs))) for name, tell in facts.items()]
    page.table(["", *_swatches(found)], _rows([*rows, *found.surroundings]), align="l" * (len(found.runs) + 1))


def _rows(rows: Sequence[Row]) -> list[list[Text]]:
    return [[name, *(_breakable(_words(value)) for value in values)] for name, values in rows]


def _breakable(text: str) -> Markup:
    """A long name that may go on in the next line."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", join(text)))


def _words(value: Any) -> str:
    """A setting's value as its recipe has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _draw_curves(page: Page, found: Comparison) -> None:
    quality = [
        ("Training loss", _panel(found, "train/loss")),
        ("Validation mIoU, %", _panel(found, "val/miou", factor=100, is_best=True)),
    ]
    pace = [
        ("Validation mIoU, % by minutes", _panel(found, "val/miou", factor=100, by_minutes=True, is_small=True)),
        ("Learning rate", _panel(found, "train/lr", is_small=True)),
        ("Images per second", _panel(found, "speed/images_per_s", is_small=True)),
    ]
    drawn = [[(title, figure) for title, figure in panels if figure is not None] for panels in (quality, pace)]
    if not any(drawn):
        return
    page.section("Curves")
    page.legend(_swatches(found))
    for panels, columns in zip(drawn, (2, 3), strict=True):
        if panels:
            page.figures(panels, columns=columns)


def _panel(
    found: Comparison, key: str, *, factor: float = 1, by_minutes: bool = False, is_best: bool = False, is_small: bool = False
) -> Figure | None:
    """One value of all runs in the same axes; None where no run has it."""
    drawn = [(i, *points(run, key, by_minutes=by_minutes)) for i, run in enumerate(found.runs)]
    drawn = [(i, x, y * factor) for i, x, y in drawn if len(x)]
    if not drawn:
        return None
    figure = new_figure(3.7, 2.3) if is_small else new_figure(5.6, 3.1)
    axes = figure.add_subplot()
    axes.set_xlabel("minutes" if by_minutes else "epoch")
    style_axes(axes)
    for i, x, y in drawn:
        colour, style = COLOURS[i % len(COLOURS)], _STYLES[i // len(COLOURS) % len(_STYLES)]
        axes.plot(x, y, style, color=colour, linewidth=1.8, marker="o" if len(x) == 1 else "", label=found.names[i])
        if is_best:
            top = int(np.argmax(y))
            axes.plot(x[top], y[top], "o", color=colour, markersize=7, markeredgecolor=INK, markeredgewidth=0.8)
    axes.set_xlim(0, 1.04 * max(x.max() for _, x, _ in drawn) or 1)
    low, high = min(y.min() for _, _, y in drawn), max(y.max() for _, _, y in drawn)
    if key == "val/miou" and low > 0.5 * high:
        axes.set_ylim(max(0.0, low - 5), min(100.0, high + 5))
    elif low >= 0:
        axes.set_ylim(bottom=0)
    return figure


def points(run: RunFolder, key: str, *, by_minutes: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the lines that have a key, x in epochs finished or in minutes; many lines are averaged into a few hundred.

    An epoch's end is the last step that bears its number; of the epoch that a run is in, the pace of the one before is taken.
    """
    found = [(number(line, "step"), number(line, "time_s"), value) for line in run.lines if (value := number(line, key)) is not None]
    kept = np.array([(step, seconds, value) for step, seconds, value in found if step is not None and seconds is not None]).reshape(-1, 3)
    if len(kept) > _MOST_POINTS:
        kept = np.array([part.mean(axis=0) for part in np.array_split(kept, _MOST_POINTS)])
    steps, seconds, values = kept.T
    if by_minutes:
        return seconds / 60, values
    ends: dict[float, float] = {}
    for line in run.lines:
        epoch, step = number(line, "epoch"), number(line, "step")
        if epoch is not None and step is not None:
            ends[epoch] = max(step, ends.get(epoch, 0.0))
    knots = [(0.0, 0.0), *sorted((step, epoch) for epoch, step in ends.items() if step > 0)]
    if len(knots) > 2 and run.standing != "finished":
        (before, earlier), (end, last) = knots[-3], knots[-2]
        knots[-1] = (knots[-1][0], min(knots[-1][1], last + (knots[-1][0] - end) * (last - earlier) / max(end - before, 1)))
    x, y = np.array(knots).T
    return np.interp(steps, x, y), values


def _swatches(found: Comparison) -> list[Markup]:
    return [swatch(COLOURS[i % len(COLOURS)], name) for i, name in enumerate(found.names)]


def _signed(difference: float) -> str:
    return f"{difference * 100:+.1f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"
