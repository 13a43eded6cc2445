"""What an honest split is worth: validation scores of random and of recovered splits beside the score on ground never seen.

    python bench/honesty.py FOLDER --minutes 60 [--train-minutes 4] [--seeds 1 2 3] [--data DATA] [--set KEY=VALUE]

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
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from landseg.core.config import load_recipe
from landseg.data import world
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.data.pack import open_tiles
from landseg.splitting.assignment import Placed, Split, read_split, split_names, write_split
from landseg.splitting.groups import assign
from landseg.training.state import has_state
from landseg.verbs.evaluate import evaluate
from landseg.verbs.split import split
from landseg.verbs.train import train

KINDS = ("random", "scene")
SCENES, UNSEEN, EDGE, TILE = 40, 12, 384, 128
CLUSTERS = 5
VAL = 0.15
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
    parser.add_argument("--set", action="append", default=[], help="settings over the recipe tiny")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    end = time.monotonic() + 60 * options.minutes
    results = options.folder / "results.jsonl"
    done = _read(results)
    for run in _runs(options.folder, options.seeds, options.data):
        key = f"{run.name} {run.seed} {run.kind}"
        if key in done:
            continue
        if time.monotonic() + 60 * options.train_minutes + SLACK_S > end:
            print("the minutes are used; the same call again goes on")
            break
        done[key] = _train_and_score(run, options.folder, options.train_minutes, options.set)
        with results.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(done[key]) + "\n")
        print(_line(done[key]), flush=True)
    print(_table(list(done.values())))


def _runs(folder: Path, seeds: Sequence[int], data: Path | None) -> Iterator[Run]:
    """All runs, pairs together; data sets and splits are made when their turn comes."""
    for seed in seeds:
        made, unseen = _make_world(folder / f"world-{seed}", seed)
        for kind in KINDS:
            if kind not in split_names(open_dataset(made)):
                split(made, by=kind, val=VAL, seed=seed)
            yield Run("world", seed, kind, made, kind, unseen, "all")
    if data is not None:
        own = _refer(data, folder / "held-out")
        clusters = _clusters(own)
        for seed in seeds:
            for kind in KINDS:
                yield Run(data.name, seed, kind, own, _hold_out(own, clusters, seed, kind), own, "test")


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


def _refer(data: Path, folder: Path) -> Path:
    """A dataset folder of our own that refers to the images and labels of another, whose splits stay as they are."""
    source = open_dataset(data)
    if not (folder / "dataset.yaml").exists():
        places = {
            "images": str(source.image_folder.resolve()),
            "labels": str(source.label_folder.resolve()) if source.label_folder else None,
        }
        write_info(folder, source.info.model_copy(update=places))
    if "scene" not in split_names(open_dataset(folder)):
        split(folder, by="scene")
    return folder


def _clusters(data: Path) -> dict[str, int]:
    """Tile → cluster of its scene, by the look of the scenes: Ward's clustering of the mean and spread of each band.

    Tiles alone have none: nobody knows whether they lie in a cluster that is held out.
    """
    dataset = open_dataset(data)
    store = open_tiles(dataset)
    number = {entry.name: i for i, entry in enumerate(store.entries)}
    members: dict[str, list[str]] = {}
    for tile in read_split(dataset, "scene").tiles:
        if tile.scene:
            members.setdefault(tile.scene, []).append(tile.tile)
    looks = []
    for tiles in members.values():
        samples = [np.asarray(store.image(number[tile])[::8, ::8]).reshape(-1, store.bands) for tile in tiles]
        pixels = np.concatenate(samples).astype(np.float64)
        looks.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
    scaled = (np.array(looks) - np.mean(looks, 0)) / np.maximum(np.std(looks, 0), 1e-9)
    found = fcluster(linkage(scaled, "ward"), CLUSTERS, "maxclust")
    return {tile: int(cluster) for (_, tiles), cluster in zip(members.items(), found, strict=True) for tile in tiles}


def _hold_out(data: Path, clusters: dict[str, int], seed: int, kind: str) -> str:
    """The split whose test part is one cluster, another for each seed, and whose val is drawn from the others by tile or by scene."""
    name = f"{kind}-{seed}"
    dataset = open_dataset(data)
    if name in split_names(dataset):
        return name
    sizes = np.bincount(list(clusters.values()))
    # Clusters that leave enough to train on and hold enough to be scored, in the order of their sizes.
    fit = [int(cluster) for cluster in np.argsort(-sizes) if 0.05 <= sizes[cluster] / sizes.sum() <= 0.45]
    held = fit[(seed - 1) % len(fit)]
    group = {tile.tile: tile.group for tile in read_split(dataset, "scene").tiles}
    rest = [tile for tile, cluster in clusters.items() if cluster != held]
    store = open_tiles(dataset)
    pixels = {entry.name: entry.class_pixels for entry in store.entries}
    parts = assign(
        rest if kind == "random" else [group[tile] for tile in rest], VAL, 0.0, seed,
        class_pixels=None if kind == "random" else np.array([pixels[tile] for tile in rest]),
    ).parts  # fmt: skip
    placed = [Placed(tile, part, group[tile]) for tile, part in zip(rest, parts, strict=True)]
    placed += [Placed(tile, "test", group[tile]) for tile, cluster in clusters.items() if cluster == held]
    write_split(dataset, Split(name, tuple(sorted(placed, key=lambda tile: tile.tile))))
    return name


def _train_and_score(run: Run, folder: Path, minutes: float, settings: Sequence[str]) -> dict[str, Any]:
    place = folder / "runs" / f"{run.name}-{run.seed}-{run.kind}"
    recipe = load_recipe("tiny", [f"train.minutes={minutes:g}", f"train.seed={run.seed}", *settings])
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
