"""Pack decode speed: landseg's packing beside `cv2.imdecode` alone, on the same cores, alternating in one process.

    python bench/pack.py train_and_label.zip [--rounds 5] [--workers 2]

Prints tiles/s of both and the ratio ours / bare (the bar is 0.85). The bare side reads the same files and decodes image and label with
`cv2.imdecode` on the same number of threads, and throws the pixels away; ours also checks every label, hashes, and writes the store.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from landseg.core.progress import cores
from landseg.data.dataset import Dataset, Tile, open_dataset
from landseg.data.pack import open_tiles
from landseg.verbs.prepare import prepare


def bare(dataset: Dataset, workers: int) -> float:
    """Seconds to read and decode every pair, and nothing else."""

    def decode(tile: Tile) -> int:
        image = cv2.imdecode(np.fromfile(tile.image, np.uint8), cv2.IMREAD_COLOR)
        label = cv2.imdecode(np.fromfile(str(tile.label), np.uint8), cv2.IMREAD_UNCHANGED)
        return image.size + label.size

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        sum(pool.map(decode, dataset.tiles))
    return time.perf_counter() - start


def ours(dataset: Dataset, workers: int) -> float:
    """Seconds to write the store from nothing."""
    shutil.rmtree(dataset.folder / "pack", ignore_errors=True)
    start = time.perf_counter()
    open_tiles(dataset, workers=workers)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zip", type=Path, help="competition zip with images and labels")
    parser.add_argument("--classes", default="a,b,c,d,e")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=cores())
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare([options.zip], Path(folder) / "data", classes=options.classes)
        dataset = open_dataset(Path(folder) / "data")
        count = len(dataset.tiles)
        bare(dataset, options.workers)  # the page cache holds the files from here on, for both
        ratios = []
        for _ in range(options.rounds):
            without, with_store = bare(dataset, options.workers), ours(dataset, options.workers)
            ratios.append(without / with_store)
            print(f"bare {count / without:7.0f} tiles/s   pack {count / with_store:7.0f} tiles/s   ratio {ratios[-1]:.2f}")
        print(
            f"{count} tiles, {options.workers} threads: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
