"""What a boundary class is worth for touching fields: objects of unseen scenes, with and without it.

    python bench/fields.py FOLDER [--seeds 1 2 3] [--boundary 2 4] [--epochs 60] [--scenes 6] [--edge 512] [--set KEY=VALUE]

For each seed a farmland of touching fields is invented (`landseg.data.fields`): scenes to train on, and others elsewhere, taken on the same
days, that no network sees. Small networks are trained alike, one on background and field, and one on background, field and boundary for
each width of its line (`cut.boundary_m`); they predict the unseen scenes with probabilities. Parcels are made in three ways: `plain` of
the first map, `boundary` of another as it is (the boundary's pixels belong to no field), `instances` of that with
`parcels(..., instances="boundary")`. All are scored against the planted fields by `evaluate --against`. FOLDER keeps everything: the same
call again goes on, and prints the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import landseg
from landseg.data.boundary import NAME
from landseg.data.fields import FIELD, write_fields

CLASSES = f"background,{FIELD}"
UNSEEN = 500
"""Added to a seed for the scenes that no network sees."""

TILE = 128
SPECKS_M2 = {"plain": 160.0, "boundary": 40.0, "instances": 160.0}
"""Specks below it go to their neighbours: forty pixels are the smallest field that is planted; fields without their rims are smaller."""

SCORES = ("precision", "recall", "f1", "pq", "over_segmentation", "under_segmentation", "boundary_f1")
TITLES = ("precision", "recall", "F1", "PQ", "over", "under", "outline F1")
PLAIN = "plain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=6, help="to train on, one of them for validation; and as many unseen")
    parser.add_argument("--edge", type=int, default=512, help="pixels of a scene's edge")
    parser.add_argument("--boundary", type=float, nargs="+", default=[2.0, 4.0], help="metres; a pixel has 2")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", action="append", default=[], help="settings over the recipe")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    results = options.folder / "results.jsonl"
    done = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
    for width, seed in itertools.product([None, *options.boundary], options.seeds):
        for way in [PLAIN] if width is None else ["boundary", "instances"]:
            name = way if width is None else f"{way} {width:g} m"
            if any((row["seed"], row["way"]) == (seed, name) for row in done):
                continue
            for classes, truth in maps_of(options.folder / f"seed-{seed}", seed, width, options):
                row = {"seed": seed, "way": name, "scene": truth.stem, **objects(classes, truth, way)}
                done.append(row)
                with results.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(table(done))


def maps_of(folder: Path, seed: int, width_m: float | None, options: argparse.Namespace) -> list[tuple[Path, Path]]:
    """The class maps of the unseen scenes by one network, made where they are not there yet; and the truth of each."""
    network = PLAIN if width_m is None else f"boundary-{width_m:g}"
    train_on, unseen = folder / "train", folder / "unseen"
    last = f"fields_{options.scenes - 1:03d}"
    if not (unseen / f"{last}.geojson").exists():
        write_fields(train_on, seed, options.scenes, options.edge, options.edge)
        write_fields(unseen, UNSEEN + seed, options.scenes, options.edge, options.edge, looks=seed)
    data, run, maps = (folder / f"{kind}-{network}" for kind in ("data", "run", "maps"))
    if not (data / "splits").exists():
        landseg.prepare(
            [str(train_on / "*.tif")], data, labels=train_on / "*.geojson", classes=CLASSES, class_column="class_name",
            background="background", tile=TILE, settings=[] if width_m is None else [f"cut.boundary_m={width_m}"], overwrite=data.exists(),
        )  # fmt: skip
        landseg.split(data, by="scene", val=1 / options.scenes, seed=seed)
    if not (run / "model" / "model.json").exists() or not (run / "done").exists():
        settings = [f"train.epochs={options.epochs}", f"train.seed={seed}", *options.set]
        landseg.train(data, run, recipe=options.recipe, settings=settings, overwrite=run.exists())
        (run / "done").touch()
    if not (maps / f"{last}_classes.tif").exists():
        landseg.predict(run, sorted(unseen.glob("*.tif")), out=maps, probabilities=True)
    return [(maps / f"{truth.stem}_classes.tif", truth) for truth in sorted(unseen.glob("*.geojson"))]


def objects(classes: Path, truth: Path, way: str) -> dict[str, Any]:
    """Scores of the parcels that one way makes of a class map."""
    out = classes.parent / f"{truth.stem}-{way}.gpkg"
    instances: dict[str, Any] = {"instances": NAME} if way == "instances" else {}
    made = landseg.parcels(classes, out=out, min_area_m2=SPECKS_M2[way], overwrite=out.exists(), **instances)
    found: Any = landseg.evaluate(out, against=truth).objects
    counts = found.counts[FIELD]
    return {"parcels": made.parcels, **{key: counts[f"{key}_objects"] for key in ("map", "reference")}, "matched": counts["matched"],
            **{name: found.classes[FIELD][name] for name in SCORES}, "f1_interval": found.intervals[f"f1/{FIELD}"]}  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Each way over all seeds: mean of all scenes, and lowest to highest mean of a seed."""
    lines = ["| way | scenes | fields found / planted | " + " | ".join(TITLES) + " |", "|---|--:|--:|" + "--:|" * len(TITLES)]
    for way in dict.fromkeys(row["way"] for row in rows):
        chosen = [row for row in rows if row["way"] == way]
        counts = " / ".join(f"{sum(row[side] for row in chosen):,}" for side in ("map", "reference"))
        cells = [spread(chosen, name) for name in SCORES]
        lines.append(f"| {way} | {len(chosen)} | {counts} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(rows: Sequence[dict[str, Any]], name: str) -> str:
    """A score's mean, and the range of its means by seed."""
    known = [row for row in rows if row[name] is not None]
    if not known:
        return "–"
    by_seed = [statistics.fmean(row[name] for row in known if row["seed"] == seed) for seed in {row["seed"] for row in known}]
    mean = f"{statistics.fmean(row[name] for row in known):.3f}"
    return mean if len(by_seed) == 1 else f"{mean} ({min(by_seed):.3f}–{max(by_seed):.3f})"


if __name__ == "__main__":
    main()
