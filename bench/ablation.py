"""What each step of the recipe brings, on ground that neither train nor val shows.

    python bench/ablation.py FOLDER --data DATA [--grids 8x7 5x8 4x4] [--seeds 1 2 3] [--epochs 8] [--size 128] [--steps colour warp …]
        [--set KEY=VALUE]

Each step adds its settings to those of the steps before it (`STEPS`), or (`VARIANTS`) to a step of its own choice. Each seed holds out
another cluster of scenes and draws everything else anew; all steps of a seed see the same tiles, for the same number of epochs, so that
the load of the machine changes nothing. The score is the mIoU of the last weights on the held-out cluster; val, drawn by scene from the
rest, is printed beside it. FOLDER keeps everything: the same call again goes on, and several calls at once share the work.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from held_out import grid, grid_clusters, hold_out, look_clusters, refer
from landseg.core.config import load_recipe
from landseg.core.files import lock
from landseg.core.settings import AugmentConfig, LossConfig, SampleConfig
from landseg.scoring.confusion import scores
from landseg.verbs.evaluate import evaluate
from landseg.verbs.train import train

STEPS: dict[str, list[str]] = {
    "plain": ["augment.flips=false", "augment.quarter_turns=false"],  # and every other setting of three sections neutral
    "flips": ["augment.flips=true", "augment.quarter_turns=true"],
    "warp": ["augment.scale=[0.7,1.4]", "augment.aspect=1.2", "augment.rotation_deg=20", "augment.shear_deg=5"],
    "lovasz": ["loss.lovasz=0.5"],
    "rare": ["sample.repeat=4"],
}

_COLOUR = [
    "augment.brightness=0.6", "augment.contrast=0.4", "augment.tint=0.3", "augment.gamma=0.3", "augment.saturation=0.5",
    "augment.hue_deg=15",
]  # fmt: skip

VARIANTS: dict[str, tuple[str, list[str]]] = {
    "colour": ("flips", _COLOUR),
    "warp and colour": ("warp", _COLOUR),
    "mild colour": ("warp", ["augment.brightness=0.3", "augment.contrast=0.2", "augment.gamma=0.15", "augment.saturation=0.2"]),
    "blur": ("warp", ["augment.blur=0.2", "augment.sharpen=0.1", "augment.noise=0.2"]),
    "haze and shadow": ("warp", ["augment.haze=0.15", "augment.shadow=0.15"]),
    "cut-out": ("warp", ["augment.cutout=0.3"]),
    "class-mix": ("warp", ["augment.class_mix=0.3"]),
    "cut-mix": ("warp", ["augment.cut_mix=0.3"]),
    "wide scale": ("warp", ["augment.scale=[0.5,2.0]"]),
    "dice": ("warp", ["loss.dice=0.5"]),
    "smoothing": ("warp", ["loss.label_smoothing=0.1"]),
    "only rare": ("warp", ["sample.repeat=4"]),
    "weights": ("warp", ["loss.class_weights=effective"]),
    "encoder slower": ("warp", ["train.encoder_lr=0.3"]),
    "auxiliary": ("warp", ["loss.auxiliary=0.4"]),
    "one cycle": ("warp", ["train.schedule=one_cycle"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder whose scenes are recovered and held out by cluster")
    parser.add_argument("--grids", type=grid, nargs="+", default=[], help="ROWSxCOLS of each district's images: hold out districts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=[*STEPS, *VARIANTS])
    parser.add_argument("--set", action="append", default=[], help="settings under all steps, such as the encoder and its weights")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    own = refer(options.data, options.folder / "held-out")
    clusters = grid_clusters(own, options.grids) if options.grids else look_clusters(own)
    budget = [f"train.epochs={options.epochs}", f"train.size={options.size}", "train.validate_every=1000"]
    splits = {seed: hold_out(own, clusters, seed, "scene") for seed in options.seeds}
    for step in options.steps:
        for seed, split in splits.items():
            _run(options.folder, own, split, step, seed, [*budget, *options.set])
    print(_table([json.loads(path.read_text()) for path in sorted(options.folder.glob("results/*.json"))], options.steps))


def settings_of(step: str) -> list[str]:
    """The settings of a step with those of the steps before it; a later one wins."""
    base, own = VARIANTS.get(step, (step, []))
    names = list(STEPS)
    return [setting for name in names[: names.index(base) + 1] for setting in STEPS[name]] + own


def _neutral() -> list[str]:
    """What undoes the choices of the recipe `default`: the schema's own values change nothing."""
    sections = {"augment": AugmentConfig(), "sample": SampleConfig(), "loss": LossConfig()}
    return [
        f"{name}.{key}={json.dumps(value)}" for name, section in sections.items() for key, value in section.model_dump(mode="json").items()
    ]


def _run(folder: Path, data: Path, split: str, step: str, seed: int, settings: Sequence[str]) -> None:
    """Train and score one step with one seed, unless it is done or another process is at it."""
    name = f"{step.replace(' ', '-')}-{seed}"
    result = folder / "results" / f"{name}.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = lock(folder / "results" / f".{name}", wait=False)
    except BlockingIOError:
        return
    with held:
        if result.exists():
            return
        recipe = load_recipe("default", [*_neutral(), f"train.seed={seed}", *settings, *settings_of(step)])
        run = folder / "runs" / name
        train(data, run, recipe=recipe, split=split, overwrite=True)
        found = {part: evaluate(run, data, split=split, part=part, recipe=recipe, out=run / part) for part in ("val", "test")}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        row = {
            "step": step,
            "seed": seed,
            "val": found["val"].as_json()["miou"],
            "unseen": found["test"].as_json()["miou"],
            "confusion": found["test"].as_json()["confusion"],
            "loss": [line["train/loss"] for line in lines if "train/loss" in line][-1],
            "seconds": lines[-1]["time_s"],
            "settings": list(settings),
        }
        result.write_text(json.dumps(row) + "\n")
        print(f"{step:<16} seed {seed}  val {row['val']:.4f}  unseen {row['unseen']:.4f}  {row['seconds']:.0f} s", flush=True)


def _table(rows: list[dict[str, Any]], steps: Sequence[str]) -> str:
    """A line a step: mean and spread over the seeds, and the mean gain over what it builds on, seed by seed."""
    by_step = {step: {row["seed"]: row for row in rows if row["step"] == step} for step in steps}
    lines = [f"{'step':<16} {'unseen':>15} {'pooled':>7} {'gain':>17} {'over':<9} {'val':>7}"]
    names = list(STEPS)
    for step, found in by_step.items():
        if not found:
            continue
        before = VARIANTS[step][0] if step in VARIANTS else names[max(names.index(step) - 1, 0)]
        unseen = [row["unseen"] for row in found.values()]
        gains = [row["unseen"] - by_step[before][seed]["unseen"] for seed, row in found.items() if seed in by_step.get(before, {})]
        pooled = scores(np.sum([row["confusion"] for row in found.values()], 0), [str(k) for k in range(len(rows[0]["confusion"]))]).miou
        lines.append(
            f"{step:<16} {_spread(unseen):>15} {pooled:7.4f} {_spread(gains, '+') if before != step else '':>17} "
            f"{before if before != step else '':<9} {statistics.fmean(row['val'] for row in found.values()):7.4f}"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.4f}{spread}"


if __name__ == "__main__":
    main()
