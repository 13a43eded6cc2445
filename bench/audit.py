"""Audit speed: `landseg audit` on an invented set beside `cv2.imdecode` alone, on the same cores, alternating in one process.

    python bench/audit.py [--tiles 4000] [--tile 256] [--rounds 3] [--workers 2]

Builds the set (JPEG images, PNG labels; every tile another one), audits it as the verb does, page and all, and prints tiles/s of both, the
share of bare decoding that is left, and the peak memory of the process. The bare side reads the same files and throws the pixels away.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from landseg.core.progress import cores
from landseg.data.dataset import Dataset, Tile, open_dataset
from landseg.data.world import CLASSES, write_competition
from landseg.verbs.audit import audit

SIDE = 1024


def build(folder: Path, count: int, tile: int) -> Dataset:
    """`count` tiles of an invented landscape; where it has too few, the same ground again in another light, so that no two are copies."""
    per_scene = (SIDE // tile) ** 2
    scenes = max(1, min(24, count // per_scene))
    made = write_competition(folder, 0, train_scenes=scenes, test_scenes=1, height=SIDE, width=SIDE, tile=tile, unlabelled_tiles=False)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(made.train_zip) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        for number in range(count):
            name = names[number % len(names)]
            data = archive.read(name)
            if number >= len(names):
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                shift = rng.integers(20, tile - 20, 2)
                image = cv2.convertScaleAbs(np.roll(image, shift, (0, 1)), alpha=rng.uniform(0.7, 1.2), beta=rng.uniform(-20, 20))
                data = bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
            (folder / "images" / f"T{number:06d}.jpg").write_bytes(data)
            label = archive.read(name.replace("img_train", "lab_train").replace(".jpg", ".png"))
            (folder / "labels" / f"T{number:06d}.png").write_bytes(label)
    listed = "".join(f"  - {{id: {item.id}, name: {item.name}, colour: '{item.colour}'}}\n" for item in CLASSES)
    (folder / "dataset.yaml").write_text(f"name: bench\nclasses:\n{listed}", encoding="utf-8")
    return open_dataset(folder)


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


def ours(dataset: Dataset) -> float:
    """Seconds of a whole audit, its page and its JSON written."""
    start = time.perf_counter()
    audit(dataset.folder)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=4000)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=cores())
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        dataset = build(Path(name), options.tiles, options.tile)
        count = len(dataset.tiles)
        bare(dataset, options.workers)  # the page cache holds the files from here on, for both
        ratios = []
        for _ in range(options.rounds):
            cpu = time.process_time()
            without = bare(dataset, options.workers)
            bare_cpu, cpu = time.process_time() - cpu, time.process_time()
            whole = ours(dataset)
            whole_cpu = time.process_time() - cpu
            ratios.append(without / whole)
            print(
                f"bare {count / without:6.0f} tiles/s ({bare_cpu / count * 1e3:.2f} ms of a core each)   "
                f"audit {count / whole:6.0f} tiles/s ({whole_cpu / count * 1e3:.2f} ms)   share {ratios[-1]:.2f}",
                flush=True,
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{count} tiles, {options.workers} threads: median share of bare decoding {statistics.median(ratios):.2f}, peak {peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
