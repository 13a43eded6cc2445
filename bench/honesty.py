"""What an honest split is worth: validation scores of random and of recovered splits beside the score on ground never seen.

    python bench/honesty.py FOLDER --minutes 60 [--train-minutes 4] [--seeds 1 2 3] [--set KEY=VALUE]
           [--data DATA [--grids 8x7 5x8] [--no-worlds]]

On worlds of many scenes of different look, and on DATA (a dataset folder) with one cluster of its recovered scenes held out: for each seed
two small models are trained, one with a random val part and one with val made of whole recovered scenes, and each val score is held against
the score on ground that neither part shows. FOLDER keeps everything: a call stops when the next run would not end within its minutes, the
same call again goes on, and the last prints the table. The split is the only thing that differs between the two of a pair.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from held_out import VAL, grid, grid_clusters, hold_out, look_clusters, refer
from landseg.core.config import load_recipe
from landseg.data import world
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.splitting.assignment import split_names
from landseg.training.state import has_state
from landseg.verbs.evaluate import evaluate
from landseg.verbs.split import split
from landseg.verbs.train import train

KINDS = ("random", "scene")
SCENES, UNSEEN, EDGE, TILE = 40, 12, 384, 128
SLACK_S = 60  # of a run beside its training: packing, evaluating


@dataclass(frozen=True)
class Run:
    """One model to train: on `data` with split `split`; the ground never seen is part `part` of `unseen`."""

    name: str
    seed: int
    kind: str
    data: Path
    split: str
    unseen: Path
    part: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60, help="of this call")
    parser.add_argument("--train-minutes", type=float, default=4, help="of each model; the same in every call")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--data", type=Path, help="a dataset folder whose recovered scenes are to be held out cluster by cluster")
    parser.add_argument("--grids", type=grid, nargs="+", default=[], help="ROWSxCOLS of each district's images: hold out districts")
    parser.add_argument("--no-worlds", action="store_true", help="DATA alone")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", action="append", default=[], help="settings over the recipe")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    end = time.monotonic() + 60 * options.minutes
    results = options.folder / "results.jsonl"
    done = _read(results)
    worlds = () if options.no_worlds else _world_runs(options.folder, options.seeds)
    for run in chain(worlds, _data_runs(options.folder, options.seeds, options.data, options.grids)):
        key = f"{run.name} {run.seed} {run.kind}"
        if key in done:
            continue
        if time.monotonic() + 60 * options.train_minutes + SLACK_S > end:
            print("the minutes are used; the same call again goes on")
            break
        done[key] = _train_and_score(run, options.folder, options.recipe, options.train_minutes, options.set)
        with results.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(done[key]) + "\n")
        print(_line(done[key]), flush=True)
    print(_table(list(done.values())))


def _world_runs(folder: Path, seeds: Sequence[int]) -> Iterator[Run]:
    """Runs on invented worlds, pairs together; data sets and splits are made when their turn comes."""
    for seed in seeds:
        made, unseen = _make_world(folder / f"world-{seed}", seed)
        for kind in KINDS:
            if kind not in split_names(open_dataset(made)):
                split(made, by=kind, val=VAL, seed=seed)
            yield Run("world", seed, kind, made, kind, unseen, "all")


def _data_runs(folder: Path, seeds: Sequence[int], data: Path | None, grids: Sequence[tuple[int, int]]) -> Iterator[Run]:
    """Runs on DATA, likewise."""
    if data is not None:
        own = refer(data, folder / "held-out")
        clusters = grid_clusters(own, grids) if grids else look_clusters(own)
        for seed in seeds:
            for kind in KINDS:
                yield Run(data.name, seed, kind, own, hold_out(own, clusters, seed, kind), own, "test")


def _make_world(folder: Path, seed: int) -> tuple[Path, Path]:
    """Data sets of the labelled scenes and of those never seen, with their truth."""
    data, unseen = folder / "data", folder / "unseen"
    if not (unseen / "dataset.yaml").exists():
        made = world.write_competition(
            folder, seed, train_scenes=SCENES, test_scenes=UNSEEN, height=EDGE, width=EDGE, tile=TILE, unlabelled_tiles=False
        )
        for path, target in ((made.train_zip, data), (made.test_zip, unseen)):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target)
        write_info(data, DatasetInfo(name="world", images="img_train", labels="lab_train", classes=world.CLASSES))
        write_info(unseen, DatasetInfo(name="unseen", images="img_test", labels="../truth", classes=world.CLASSES))
    return data, unseen


def _train_and_score(run: Run, folder: Path, name: str, minutes: float, settings: Sequence[str]) -> dict[str, Any]:
    place = folder / "runs" / f"{run.name}-{run.seed}-{run.kind}"
    recipe = load_recipe(name, [f"train.minutes={minutes:g}", f"train.seed={run.seed}", *settings])
    is_begun = has_state(place / "state")
    train(run.data, place, recipe=recipe, split=run.split, resume=is_begun, overwrite=not is_begun)
    val = evaluate(place, run.data, split=run.split, part="val", recipe=recipe)
    part = {} if run.part == "all" else {"split": run.split}
    unseen = evaluate(place, run.unseen, part=run.part, recipe=recipe, out=place / "unseen", **part)
    score = {"val": val.as_json()["miou"], "unseen": unseen.as_json()["miou"]}
    known = {key: str(value) for key, value in asdict(run).items() if key in ("name", "kind", "split", "part")}
    return {**known, "seed": run.seed, "minutes": minutes, "settings": list(settings), **score}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {f"{row['name']} {row['seed']} {row['kind']}": row for row in rows}


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['name']:<10} seed {row['seed']}  {row['kind']:<7} val {row['val']:.4f}  unseen {row['unseen']:.4f}  "
        f"error {row['val'] - row['unseen']:+.4f}"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Every run, then by data set and kind the mean error of the estimate, its spread and its mean size."""
    lines = ["", *(_line(row) for row in rows), ""]
    for name in dict.fromkeys(row["name"] for row in rows):
        for kind in KINDS:
            errors = [row["val"] - row["unseen"] for row in rows if (row["name"], row["kind"]) == (name, kind)]
            if errors:
                spread = f" ± {statistics.stdev(errors):.4f}" if len(errors) > 1 else ""
                size = statistics.fmean(map(abs, errors))
                lines.append(
                    f"{name:<10} {kind:<7} {len(errors)} runs: val − unseen {statistics.fmean(errors):+.4f}{spread}, "
                    f"mean |error| {size:.4f}"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
