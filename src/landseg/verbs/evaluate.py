"""`landseg evaluate`: a model against labels; every score with its definition and its uncertainty, and a report page."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from landseg.core import runs
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.settings import Recipe
from landseg.data.dataset import Dataset, open_dataset
from landseg.data.overlay import rgb_picture
from landseg.data.pack import TileStore, open_tiles
from landseg.inference.pieces import class_ids, piece_edge
from landseg.inference.tta import augmented, require_known
from landseg.scoring.confusion import Scores, mean_iou, scores
from landseg.scoring.evaluate import grouped, tile_matrices
from landseg.scoring.gains import NO_INTERVAL, Compared, Pass, compare, table
from landseg.scoring.intervals import Interval, intervals
from landseg.scoring.report import EvaluationReport, TileExample, write_report
from landseg.splitting.assignment import read_split, tile_numbers
from landseg.verbs.against import ScoredMap, only_map, require_model, score_map

if TYPE_CHECKING:
    from landseg.network.card import ModelCard
    from landseg.network.engine import Engine

EXAMPLES = 6
"""Best and worst tiles that the report shows, each."""

SHOWN_EDGE = 1024
"""Pixels a side that the report is handed of such a tile; of a larger one every second pixel, or every third and so on."""


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` found: scores, their 95 % intervals by name, the report page, and how an ensemble or augmentation compares."""

    part: str
    tiles: int
    groups: int
    scores: Scores
    intervals: dict[str, Interval | None]
    report: Path
    comparison: tuple[Compared, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        spans = {name: None if span is None else list(span) for name, span in self.intervals.items()}
        facts = {"part": self.part, "tiles": self.tiles, "groups": self.groups, "report": str(self.report)}
        compared = {"comparison": [item.as_json() for item in self.comparison]} if self.comparison else {}
        return {**self.scores.as_json(), "intervals": spans, **facts, **compared}

    def as_text(self) -> str:
        """The table, and where the report lies."""
        return f"{self.table()}\n{self.report}"

    def table(self) -> str:
        """A line a class, then the headline scores."""
        found = self.scores
        width = max(len(name) for name in ("overall accuracy", *found.names))
        lines = [f"{'class':<{width}}  {'IoU':>6}  {'95 % interval':>17}  {'precision':>9}  {'recall':>6}  {'F1':>6}"]
        for name in found.names:
            span = self.intervals.get(f"iou/{name}")
            lines.append(
                f"{name:<{width}}  {_number(found.iou[name]):>6}  {_span(span):>17}  {_number(found.precision[name]):>9}  "
                f"{_number(found.recall[name]):>6}  {_number(found.f1[name]):>6}"
            )
        for title, key, value in (
            ("mIoU", "miou", found.miou),
            ("overall accuracy", "overall_accuracy", found.overall_accuracy),
            ("kappa", "kappa", found.kappa),
        ):
            lines.append(f"{title:<{width}}  {_number(value):>6}  {_span(self.intervals.get(key)):>17}")
        lines.append(f"{self.part}: {self.tiles:,} tiles in {self.groups:,} groups, {found.pixels:,} labelled pixels")
        return "\n".join([*lines, "", *table(self.comparison)] if self.comparison else lines)


@overload
def evaluate(
    model: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    split: str | None = None,
    part: str = "val",
    require: str | None = None,
    tta: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
) -> Evaluated: ...
@overload
def evaluate(
    model: str | Path | Sequence[str | Path],
    data: None = None,
    *,
    against: str | Path,
    require: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
) -> ScoredMap: ...
def evaluate(
    model: str | Path | Sequence[str | Path],
    data: str | Path | None = None,
    *,
    split: str | None = None,
    part: str = "val",
    require: str | None = None,
    tta: str | None = None,
    out: str | Path | None = None,
    against: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
) -> Evaluated | ScoredMap:
    """Score a model on a part of a data set and write the report; or, with `against`, a map against reference polygons or a raster.

    With an augmentation or an ensemble, each model is scored alone and without augmentation too, so that gain and cost are measured. That
    takes as long as the ensemble itself, an eighth of the time of `d4`, a third of that of `scales`; an ensemble with an augmentation is
    scored without it as well.

    Args:
        model: Run folder or model folder, or several (an ensemble); with `against` a map: a class raster or a layer of polygons.
        data: Dataset folder with labels; None with `against`.
        split: Name of the split; the only one when None.
        part: ``train``, ``val``, ``test``, or ``all`` for every tile, which needs no split.
        require: A gate, such as ``miou=0.7`` or ``iou/road=0.5``.
        tta: none | d4 | scales: test-time augmentation, in place of ``predict.tta``.
        out: Folder of the report; when None, in the first model's folder ``report``, or ``report-ensemble``, ``report-d4`` and so on:
            what another way to predict scores does not replace the report of the run itself. With `against`, the folder of `objects.gpkg`
            and `scores.json`; nothing is written when None.
        against: The reference of a map: a layer of polygons or a class raster, of any CRS; `score_map` says more.
        recipe: Its section `predict` sets batch, device, engine and augmentation; `score` how a map is scored: by which class column,
            within what tolerance.
        settings: ``key=value`` each, over the recipe.

    Raises:
        LandsegError: Model and data do not fit; with `is_gate`, the score is below the one required (the report is written).
    """
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, settings)
    if against is not None:
        scored, folder = only_map(model, data, split=split, part=part, tta=tta), None if out is None else Path(out)
        return score_map(scored, str(against), resolved.score, require=require, out=folder)
    paths = [Path(model)] if isinstance(model, str | Path) else [Path(path) for path in model]
    folder_of_data = require_model(paths, data)
    gate = _parse_gate(require)
    predict = resolved.predict
    augmentation = require_known(predict.tta if tta is None else tta)
    dataset = open_dataset(folder_of_data)
    dataset.require_labels("evaluating")
    chosen = None if part == "all" else read_split(dataset, split)
    store = open_tiles(dataset, use_pack=resolved.data.pack, workers=resolved.data.workers)
    if chosen is None:
        indices, groups = list(range(len(store.entries))), [entry.name for entry in store.entries]
    else:
        indices = tile_numbers(store, chosen, part)
        group_of = {tile.tile: tile.group for tile in chosen.tiles}
        groups = [group_of[store.entries[i].name] for i in indices]
    # Imported here: an engine may take seconds to load, and a wrong path should be told at once.
    from landseg.network.card import find_model, load_card
    from landseg.network.engine import load_engine

    folders = [find_model(path) for path in paths]
    engine = load_engine(folders, predict.device, predict.engine, predict.precision)
    _require_fit(engine, dataset, store, paths[0])
    passes = []
    ways = _ways(engine, paths, folders, augmentation)
    for way in ways:
        matrices, seconds = _pass_over(way, store, indices, predict.batch, is_alone=len(ways) == 1)
        passes.append(Pass(way.name, grouped(matrices, groups), seconds, way.is_plain))
    engine = ways[-1].engine
    found = scores(matrices.sum(0), dataset.class_names)
    spans = intervals(passes[-1].matrices, dataset.class_names)
    comparison = compare(passes, dataset.class_names) if len(passes) > 1 else ()
    run = folders[0].parent if folders[0].name == "model" else folders[0]
    report = EvaluationReport(
        title=f"{'/'.join(run.resolve().parts[-2:])}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}",
        part=part,
        classes=dataset.info.classes,
        scores=found,
        model=_facts([load_card(folder) for folder in folders], dataset, len(indices), augmentation, comparison),
        intervals=spans,
        groups=len(passes[-1].matrices),
        history=runs.read_metrics(run) if len(paths) == 1 else [],
        notes=_notes(groups, part),
        best=_examples(engine, store, indices, matrices, best=True),
        worst=_examples(engine, store, indices, matrices, best=False),
    )
    parts = ["report", *["ensemble"] * (len(paths) > 1), *[augmentation] * (augmentation != "none")]
    page = write_report(Path(out) if out else run / "-".join(parts), report)
    result = Evaluated(part, len(indices), len(passes[-1].matrices), found, spans, page, comparison)
    if gate is not None:
        _hold(gate, result)
    return result


def _require_fit(engine: Engine, dataset: Dataset, store: TileStore, model: Path) -> None:
    card = engine.card
    if card.class_names != dataset.class_names:
        raise LandsegError(
            dataset.folder,
            f"classes {', '.join(dataset.class_names)}",
            f"those of the model {model}: {', '.join(card.class_names)}",
            "evaluate on a data set with the model's classes",
        )
    if (len(card.bands), card.dtype) != (store.bands, store.dtype):
        raise LandsegError(
            dataset.folder,
            f"{store.bands} bands of {store.dtype}",
            f"the model was trained on {len(card.bands)} of {card.dtype} ({', '.join(card.bands)})",
            "evaluate on a data set with the model's bands",
        )


class _Way(NamedTuple):
    """One way to predict the part; the last of several is the one that was asked for."""

    name: str
    engine: Engine
    is_plain: bool


def _ways(engine: Engine, paths: Sequence[Path], folders: Sequence[Path], tta: str) -> list[_Way]:
    """What is scored, what was asked for last: before it, for comparison, each model alone and an ensemble without augmentation."""
    models: Sequence[Engine] = getattr(engine, "engines", (engine,))
    asked = augmented(engine, tta)
    if len(models) == 1:
        plain = _Way("plain", engine, is_plain=True)
        return [plain] if tta == "none" else [plain, _Way(tta, asked, is_plain=False)]
    alone: dict[Path, _Way] = {}
    for path, folder, model in zip(paths, folders, models, strict=True):
        alone.setdefault(folder.resolve(), _Way(str(path), model, is_plain=True))  # a model that is named twice is scored once
    together = [_Way("ensemble", engine, is_plain=False)]
    return [*alone.values(), *together, *([] if tta == "none" else [_Way(f"ensemble, {tta}", asked, is_plain=False)])]


def _pass_over(way: _Way, store: TileStore, indices: Sequence[int], batch: int, *, is_alone: bool) -> tuple[np.ndarray, float]:
    """One confusion matrix a tile, and the seconds that the model took."""
    card, seconds, is_warm = way.engine.card, 0.0, is_alone
    lock, at_work, since = threading.Lock(), 0, 0.0

    def preds(images: np.ndarray) -> np.ndarray:
        nonlocal seconds, is_warm, at_work, since
        with lock:
            if not is_warm:
                way.engine.preds(images)  # what a device does once, at its first step, is no way's cost
                is_warm = True
            if at_work == 0:
                since = time.perf_counter()
            at_work += 1
        try:
            return way.engine.preds(images)
        finally:
            with lock:  # pieces of a large tile are predicted at the same time, which passes once
                at_work -= 1
                if at_work == 0:
                    seconds += time.perf_counter() - since

    what = "evaluating" if is_alone else f"evaluating {way.name}"
    edge = piece_edge(card.tile_size, card.factor)
    matrices = tile_matrices(preds, store, indices, len(card.classes), batch, what, edge, way.engine.lanes)
    return matrices, seconds


def _facts(cards: Sequence[ModelCard], dataset: Dataset, tiles: int, tta: str, comparison: Sequence[Compared]) -> dict[str, str]:
    card = cards[0]
    facts = {
        "network": _each(f"{card.network} with {card.encoder}" for card in cards),
        "bands": ", ".join(card.bands),
        "tile": _each(f"{card.tile_size[0]} × {card.tile_size[1]} pixels" for card in cards),
        "data set": dataset.info.name,
        "tiles": f"{tiles:,}",
        "weights": _each(f"sha256 {card.weights_sha256[:12]}" for card in cards),
    }
    if any(card.size for card in cards):
        facts["works at"] = _each(f"{card.size or max(card.tile_size)} pixels for {max(card.tile_size)} of the image's" for card in cards)
    if len(cards) > 1:
        facts["ensemble"] = f"the mean probability of {len(cards)} models"
    if tta != "none":
        facts["test-time augmentation"] = tta
    for item in comparison:
        facts[f"mIoU, {item.name}"] = _compared(item)
    return facts


def _each(words: Iterable[str]) -> str:
    """What several models have, once each."""
    return "; ".join(dict.fromkeys(words))


def _compared(item: Compared) -> str:
    gain = ""
    if item.gain_interval is not None:
        low, high = item.gain_interval
        gain = f", gain {item.gain:+.4f} (95 % interval {low:+.4f} – {high:+.4f})"
    elif item.gain:  # of the best plain model it is 0
        gain = f", gain {item.gain:+.4f} ({NO_INTERVAL})"
    return f"{_number(item.miou)}{gain} in {item.seconds:.1f} s"


def _notes(groups: Sequence[str], part: str) -> list[str]:
    if part in ("val", "test") and len(set(groups)) == len(groups):
        return [
            "Every tile is a group of its own: neighbours of these tiles may have been trained on. The score then flatters, "
            "and so does its interval; on new places expect less."
        ]
    return []


def _examples(engine: Engine, store: TileStore, indices: Sequence[int], matrices: np.ndarray, *, best: bool) -> list[TileExample]:
    """The tiles with the highest or the lowest mIoU; on equal ones, those with more labelled pixels."""
    mious = mean_iou(matrices)
    labelled = matrices.sum((1, 2))
    sign = -1 if best else 1
    ranked = [place for place in np.lexsort((-labelled, sign * mious)) if labelled[place] and np.isfinite(mious[place])]
    # A tile that is nearly unlabelled is no example of anything.
    ranked = [place for place in ranked if labelled[place] * 10 >= labelled.max()][:EXAMPLES]
    examples = []
    edge = piece_edge(engine.card.tile_size, engine.card.factor)
    for place in ranked:
        i = indices[int(place)]
        image, label = store.image(i), store.label(i)
        step = math.ceil(max(label.shape) / SHOWN_EDGE)
        every = slice(None, None, step)
        examples.append(
            TileExample(
                store.entries[i].name,
                rgb_picture(image[every, every], engine.card.bands, engine.card.scaling),
                np.ascontiguousarray(label[every, every]),
                np.ascontiguousarray(class_ids(engine.preds, image, edge, engine.lanes)[every, every]),
                float(mious[place]),
            )
        )
    return examples


def _parse_gate(require: str | None) -> tuple[str, float] | None:
    if require is None:
        return None
    found = re.fullmatch(r"(miou|overall_accuracy|kappa|iou/.+)=([0-9.]+)", require.strip())
    if not found:
        raise LandsegError("--require", f"{require!r}", "a score and its least value", "for example --require miou=0.7 or iou/road=0.5")
    return found[1], float(found[2])


def _hold(gate: tuple[str, float], result: Evaluated) -> None:
    (name, least), found = gate, result.scores
    known: dict[str, float | None] = {
        "miou": found.miou,
        "overall_accuracy": found.overall_accuracy,
        "kappa": found.kappa,
        **{f"iou/{key}": value for key, value in found.iou.items()},
    }
    if name not in known:
        raise LandsegError("--require", f"{name!r}", f"one of {', '.join(known)}", "name one of them")
    value = known[name]
    if value is None or value < least:
        raise LandsegError(
            f"{name} on {result.part}",
            _number(value),
            f"at least {least:g} was required",
            "train longer or better, or lower the gate",
            is_gate=True,
            result=result,
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _span(span: Interval | None) -> str:
    return "–" if span is None else f"{span[0]:.4f} – {span[1]:.4f}"
