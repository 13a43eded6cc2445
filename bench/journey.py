"""The journey by its commands, from an empty folder: seconds and peak memory of each step, and what it scored.

    python bench/journey.py train_and_label.zip img_test.zip --classes "building,land,road" --minutes 30 --weights weights.safetensors

Every step is a process of its own, as a user starts it; peak memory is the largest resident set that the system saw.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(words: list[str], folder: Path) -> tuple[float, float, str]:
    """Run a command in `folder`: seconds, peak resident memory in MB, and what it printed."""
    start = time.perf_counter()
    with (folder / "out.txt").open("w+", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", "landseg", *words], cwd=folder, stdout=out, stderr=sys.stderr)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"landseg {' '.join(words)}: exit {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        return time.perf_counter() - start, usage.ru_maxrss / 1000, out.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--encoder", default="tf_mobilenetv3_large_minimal_100")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--keep", type=Path, help="folder to work in; a temporary one when left out")
    options = parser.parse_args()
    weights = options.weights if options.weights in ("none", "imagenet") else str(Path(options.weights).resolve())
    settings = [f"model.encoder={options.encoder}", f"model.weights={weights}", f"train.minutes={options.minutes:g}"]
    steps = [
        ["prepare", str(options.train.resolve()), "--classes", options.classes, "--out", "data"],
        ["prepare", str(options.test.resolve()), "--out", "test"],
        ["split", "data", "--by", "random", "--val", "0.05", "--seed", "5"],
        ["train", "data", "--out", "runs/first", *(word for setting in settings for word in ("--set", setting))],
        ["evaluate", "runs/first", "data", "--json"],
        ["predict", "runs/first", "test", "--out", "predictions"],
        ["submit", "predictions", "--images", "test", "--out", "result.zip"],
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        total = peak = 0.0
        for words in steps:
            seconds, memory, printed = timed(words, folder)
            total, peak = total + seconds, max(peak, memory)
            print(f"{words[0]:<9} {seconds:8.1f} s {memory:7.0f} MB", flush=True)
            if words[0] == "evaluate":
                found = json.loads(printed)
                print(f"          val mIoU {found['miou']:.4f}, 95 % interval {found['intervals']['miou']}, {found['tiles']} tiles")
        print(f"total     {total / 60:8.1f} min, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
