"""How well leaks are found: planted copies, overlaps and neighbours, by kind and parameter; false alarms; seconds and memory by size.

    python bench/leaks.py planted --each 60 --tile 256      a table: found and kind right of what was planted, false alarms
    python bench/leaks.py neighbours --scenes 60            the same for tiles that touch: scenes cut without overlap, parts drawn by lot
    python bench/leaks.py clean --scenes 60                 tiles of scenes that have nothing in common: everything found is false
    python bench/leaks.py sizes 1000 2000 4000 8000         a process each; tiles of one scene lie in one part
    python bench/leaks.py world WORLD --each 200            overlaps planted in a large world that `bench/recovery.py write` made
    python bench/leaks.py write WORLD DATA                  that world as a data set with labels
    python bench/leaks.py split WORLD DATA                  seconds and memory of `landseg split DATA --by scene`, and what it found
    python bench/leaks.py judge WORLD DATA                  what it found, once more
    python bench/leaks.py real img_train.zip                overlaps found in real tiles, to be looked at

One of each planted pair is in train, the other in val. Truth is where the tiles were cut: a pair found without common ground or border is a
false alarm, whether planted or not.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from landseg.data.copies import TURNS, turned
from landseg.data.dataset import DatasetInfo, write_info
from landseg.data.tiles import decode_image
from landseg.data.world import CLASSES, make_scene
from landseg.splitting.leaks import Ground, find_leaks
from landseg.splitting.neighbours import find_neighbours
from landseg.splitting.overlaps import find_overlaps
from landseg.splitting.scenes import assemble
from landseg.verbs.split import split as split_verb

COPIES = ("exact copy", "flipped or turned", "re-encoded")


@dataclass(frozen=True)
class Planted:
    """A pair to plant: what it should be found as, and how the second tile is made."""

    kinds: tuple[str, ...]
    share: float = 1.0
    corner: bool = False
    turns: Sequence[str] = ("same",)
    quality: tuple[int, int] = (90, 90)
    tone: tuple[float, float] = (0.0, 1.0)
    zoom: float = 1.0


SAME = (*COPIES, "overlap")
CASES = {
    "exact copy": Planted(("exact copy",), quality=(0, 0)),
    "flipped, turned": Planted(("flipped or turned",), turns=TURNS[1:], quality=(0, 0)),
    **{f"re-encoded, JPEG {q}": Planted(("re-encoded",), quality=(0, q)) for q in (50, 60, 75, 90, 95)},
    "JPEG 90, turned, JPEG 60": Planted(("re-encoded", "overlap"), turns=TURNS[1:], quality=(90, 60)),
    "darker (contrast 0.7, brightness −25)": Planted(SAME, tone=(-25, 0.7)),
    "brighter (contrast 1.4, brightness +20)": Planted(SAME, tone=(20, 1.4)),
    **{f"shifted, {s:.0%} in common, {f'JPEG {q}' if q else 'PNG'}": Planted(("overlap",), s, quality=(q, q))
       for s in (0.2, 0.3, 0.5, 0.8) for q in (0, 90, 75, 50)},
    "shifted by a corner, 20% in common, JPEG 75": Planted(("overlap",), 0.2, corner=True, quality=(75, 75)),
    "shifted, 25% in common, turned, darker, JPEG 75": Planted(("overlap",), 0.25, turns=TURNS[1:], quality=(75, 75), tone=(-25, 0.7)),
    "shifted, 50% in common, turned, JPEG 75": Planted(("overlap",), 0.5, turns=TURNS[1:], quality=(75, 75)),
    **{f"zoom {z}, JPEG 75": Planted(("overlap",), quality=(90, 75), zoom=z) for z in (0.5, 0.7, 0.85, 1.2, 1.5, 2.0)},
    "zoom 2, turned, darker, JPEG 75": Planted(("overlap",), quality=(90, 75), zoom=2.0, turns=TURNS[1:], tone=(-25, 0.7)),
}  # fmt: skip


def encoded(image: np.ndarray, quality: int) -> np.ndarray:
    """What an image is after JPEG of that quality; 0 is PNG."""
    if not quality:
        return np.ascontiguousarray(image)
    data = cv2.imencode(".jpg", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def cut(scene: np.ndarray, case: Planted, tile: int, rng: np.random.Generator) -> tuple[list[np.ndarray], list[tuple[float, float, float]]]:
    """Two tiles, and (row, column, side) of the ground that each shows."""
    side = round(tile / case.zoom)
    if case.zoom == 1:
        along = 1 - np.sqrt(case.share) if case.corner else 1 - case.share
        move = np.rint(tile * along * (np.ones(2) if case.corner else rng.permutation([0, 1]))).astype(int) * rng.choice([-1, 1], 2)
    else:
        inner, outer = sorted((tile, side))
        move = rng.integers(0, outer - inner + 1, 2) * (1 if side < tile else -1)
    low = np.maximum(0, -move)
    high = np.asarray(scene.shape[:2]) - np.maximum(tile, move + side)
    place = rng.integers(low, high + 1)
    first = encoded(scene[place[0] : place[0] + tile, place[1] : place[1] + tile], case.quality[0])
    there = place + move
    second = scene[there[0] : there[0] + side, there[1] : there[1] + side]
    if case.kinds[0] in COPIES and case.quality[0]:
        second = first
    if side != tile:
        second = cv2.resize(second, (tile, tile), interpolation=cv2.INTER_AREA if side > tile else cv2.INTER_CUBIC)
    brightness, contrast = case.tone
    if case.tone != (0.0, 1.0):
        second = np.clip((second.astype(np.float32) - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8)
    second = encoded(turned(second, str(rng.choice(case.turns))), case.quality[1])
    return [first, second], [(*place.tolist(), tile), (*there.tolist(), side)]


def has_common(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Whether two squares of ground overlap or touch."""
    return all(min(a[k] + a[2], b[k] + b[2]) >= max(a[k], b[k]) for k in (0, 1))


def planted(each: int, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [name for name in CASES for _ in range(each)]
    rng.shuffle(names)
    images: list[np.ndarray] = []
    places: list[tuple[int, tuple[float, float, float]]] = []
    for number, name in enumerate(names):
        if number % 8 == 0:
            scene = make_scene(seed * 10_000 + number // 8, 4 * tile, 4 * tile).image
        pair, where = cut(scene, CASES[name], tile, rng)
        images += pair
        places += [(number // 8, place) for place in where]
    shapes = [image.shape[:2] for image in images]
    start = time.process_time()
    ground = Ground(tuple(map(str, range(len(images)))), ("train", "val") * len(names), tuple(shapes), images.__getitem__, "train")
    leaks = find_leaks(ground)
    used = time.process_time() - start
    found = {(leak.a, leak.b): leak.kind for leak in leaks.pairs}
    rows: defaultdict[str, list[str | None]] = defaultdict(list)
    for number, name in enumerate(names):
        rows[name].append(found.get((2 * number, 2 * number + 1)))
    print(f"\n{len(images)} tiles of {tile}²: {used / len(images) * 1000:.1f} ms of processor a tile")
    print("\n| planted | pairs | found | as what it is |\n|---|---:|---:|---:|")
    for name, case in CASES.items():
        kinds = rows[name]
        right = sum(kind in case.kinds for kind in kinds)
        print(f"| {name} | {len(kinds)} | {sum(kind is not None for kind in kinds) / len(kinds):.1%} | {right / len(kinds):.1%} |")
    total = [kind for kinds in rows.values() for kind in kinds]
    print(f"| all | {len(total)} | {sum(kind is not None for kind in total) / len(total):.2%} | |")
    false: defaultdict[str, set[int]] = defaultdict(set)
    for (a, b), kind in found.items():
        if places[a][0] != places[b][0] or not has_common(places[a][1], places[b][1]):
            false[kind] |= {a, b}
    print(f"\nfalse alarms, tiles: { ({kind: len(tiles) for kind, tiles in false.items()} or 'none') } of {len(images)}")


def neighbours(scenes: int, tile: int, seed: int, quality: int) -> None:
    rng = np.random.default_rng(seed)
    images, places = [], []
    for number in range(scenes):
        rows, columns = rng.integers(2, 7, 2)
        scene = make_scene(seed * 10_000 + 3_000 + number, int(rows) * tile, int(columns) * tile).image
        for row in range(rows):
            for column in range(columns):
                images.append(encoded(scene[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile], quality))
                places.append((number, row, column))
    order = rng.permutation(len(images))
    images, places = [images[k] for k in order], [places[k] for k in order]
    parts = ["val" if draw < 0.2 else "train" for draw in rng.random(len(images))]
    shapes = tuple(image.shape[:2] for image in images)
    edges = assemble(len(images), find_neighbours(images.__getitem__, shapes)).edges
    leaks = find_leaks(Ground(tuple(map(str, range(len(images)))), tuple(parts), shapes, images.__getitem__, "train"), edges)
    number_of = {place: k for k, place in enumerate(places)}
    true = {
        (min(k, other), max(k, other))
        for (scene, row, column), k in number_of.items()
        for other in (number_of.get((scene, row + 1, column)), number_of.get((scene, row, column + 1)))
        if other is not None and parts[k] != parts[other]
    }
    found = {(leak.a, leak.b) for leak in leaks.pairs}
    tiles = {k for pair in true for k in pair if parts[k] == "val"}
    told = {k for pair in found for k in pair if parts[k] == "val"}
    wrong = {k for pair in found - true for k in pair}
    print(
        f"{len(images)} tiles of {tile}², JPEG {quality}: {len(found & true) / len(true):.2%} of {len(true)} touching pairs, "
        f"{len(told & tiles) / len(tiles):.2%} of {len(tiles)} val tiles concerned; false pairs {len(found - true)}, in {len(wrong)} tiles"
    )


def clean(scenes: int, tile: int, seed: int) -> None:
    images, parts = [], []
    for number in range(scenes):
        scene = make_scene(seed * 10_000 + 5_000 + number, 4 * tile, 4 * tile).image
        for row in range(4):
            for column in range(4):
                images.append(encoded(scene[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile], 90))
                parts.append("val" if number % 4 == 0 else "train")
    shapes = tuple(image.shape[:2] for image in images)
    leaks = find_leaks(Ground(tuple(map(str, range(len(images)))), tuple(parts), shapes, images.__getitem__, "train"))
    wrong = {tile for leak in leaks.pairs for tile in (leak.a, leak.b)}
    inside = find_overlaps(images.__getitem__, len(images))
    print(f"{len(images)} tiles of {tile}², {scenes} scenes: {len(wrong)} tiles falsely said to leak {leaks.counts}")
    print(f"overlaps among all of them, neighbours of one scene included: {len(inside)}, all of them false")


def size(count: int, seed: int) -> None:
    edge, images, parts = 8, np.zeros((count, 256, 256, 3), np.uint8), []
    for i in range(count):
        if i % edge**2 == 0:
            scene = make_scene(seed * 10_000 + 7_000 + i // edge**2, edge * 256, edge * 256).image
        row, column = divmod(i % edge**2, edge)
        images[i] = encoded(scene[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256], 85)
        parts.append("val" if i // edge**2 % 8 == 0 else "train")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = []
    for what, call in (
        ("all pairs", lambda: len(find_overlaps(images.__getitem__, count))),
        ("leaks, val an eighth", lambda: len(find_leaks(Ground(tuple(map(str, range(count))), tuple(parts), ((256, 256),) * count,
                                                               images.__getitem__, "train")).pairs)),
    ):  # fmt: skip
        start, clock = time.process_time(), time.perf_counter()
        found = call()
        results.append(f"{what}: {time.process_time() - start:.0f} s of processor, {time.perf_counter() - clock:.0f} s, {found} found")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    print(f"{count} tiles: {'; '.join(results)}; {peak:.0f} MB more than the tiles themselves", flush=True)


def world(path: Path, each: int, seed: int) -> None:
    index = np.load(path.with_suffix(".npy"))
    stored = np.memmap(path.with_suffix(".bin"), np.uint8, "r")
    number = {tuple(row[:3]): i for i, row in enumerate(index.tolist())}
    beside = [(i, number[scene, row, col + 1]) for (scene, row, col), i in number.items() if (scene, row, col + 1) in number]

    def original(i: int) -> np.ndarray:
        return decode_image(stored[index[i, 3] : index[i, 3] + index[i, 4]].tobytes())

    rng = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    true: dict[tuple[int, int], str] = {}
    for name, shares, quality in (
        ("a fifth in common, JPEG 75", (0.8, 0.2), 75),
        ("a fifth in common, JPEG 50", (0.8, 0.2), 50),
        ("half in common, turned, darker, JPEG 75", (0.5, 0.5), 75),
        ("zoom 2, JPEG 75", (1.0,), 75),
    ):
        for pick in rng.permutation(len(beside))[:each]:
            left, right = beside[pick]
            strip = np.concatenate([original(left), original(right)], 1)
            at = round(256 * (1 - shares[0]))
            tile = strip[:, at : at + 256]
            if name.startswith("zoom"):
                tile = cv2.resize(strip[50:178, 70:198], (256, 256), interpolation=cv2.INTER_CUBIC)
            if name.startswith("half"):
                tile = turned(np.clip(tile * 0.7 + 13, 0, 255).astype(np.uint8), str(rng.choice(TURNS[1:])))
            for other, share in zip((left, right), shares, strict=False):
                true[other, len(index) + len(made)] = name.replace("a fifth", f"{share:.0%}")
            made.append(encoded(tile, quality))

    def read(i: int) -> np.ndarray:
        return original(i) if i < len(index) else made[i - len(index)]

    start, clock = time.process_time(), time.perf_counter()
    found = {(overlap.a, overlap.b) for overlap in find_overlaps(read, len(index) + len(made))}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(index) + len(made):,} tiles, all pairs: {time.process_time() - start:.0f} s of processor, "
        f"{time.perf_counter() - clock:.0f} s on the clock, {memory:.2f} GB at most"
    )
    for name in sorted(set(true.values())):
        pairs = [pair for pair, other in true.items() if other == name]
        print(f"{name}: {sum(pair in found for pair in pairs)} of {len(pairs)}")
    # Two made of one pair of tiles may overlap each other: no false alarm.
    wrong = {pair for pair in found - true.keys() if pair[0] < len(index)}
    print(f"false: {len(wrong)} pairs {sorted(wrong)[:10]}", flush=True)


def write(path: Path, folder: Path) -> None:
    """The world's tiles as files, and labels after their brightness, so that a split has shares to keep."""
    index = np.load(path.with_suffix(".npy"))
    stored = np.memmap(path.with_suffix(".bin"), np.uint8, "r")
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (at, length) in enumerate(index[:, 3:].tolist()):
        data = stored[at : at + length].tobytes()
        (folder / "images" / f"T{i:06d}.jpg").write_bytes(data)
        grey = cv2.GaussianBlur(cv2.resize(decode_image(data).mean(2), (32, 32), interpolation=cv2.INTER_AREA), (3, 3), 0)
        label = np.digitize(cv2.resize(grey, (256, 256)), (70, 110, 150)).astype(np.uint8)
        cv2.imwrite(str(folder / "labels" / f"T{i:06d}.png"), label)
    write_info(folder, DatasetInfo(name="world", classes=CLASSES))


def split(path: Path, folder: Path) -> None:
    """Memory is told apart: what the process owns, and pages of the pack that it has mapped and the system may take back at any time."""
    most = {"VmRSS": 0, "RssAnon": 0, "RssFile": 0}
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(1):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in most:
                    most[name] = max(most[name], int(value.split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, clock = time.process_time(), time.perf_counter()
    try:
        print(split_verb(folder, by="scene", overwrite=True).as_text())
    finally:
        is_done.set()
        watcher.join()
    print(
        f"{time.process_time() - start:.0f} s of processor, {time.perf_counter() - clock:.0f} s on the clock, "
        f"{most['VmRSS'] / 1e6:.2f} GB resident at most ({most['RssAnon'] / 1e6:.2f} GB of its own, {most['RssFile'] / 1e6:.2f} GB mapped)"
    )
    judge(path, folder)


def judge(path: Path, folder: Path) -> None:
    """Edges and scenes of the split against the truth. A tile of one colour along a side (nodata) cannot be seen to continue."""
    index = np.load(path.with_suffix(".npy"))
    stored = np.memmap(path.with_suffix(".bin"), np.uint8, "r")
    place = {tuple(row[:3]): i for i, row in enumerate(index.tolist())}
    true = {(i, place[other], side) for (scene, row, col), i in place.items()
            for other, side in (((scene, row, col + 1), "right"), ((scene, row + 1, col), "below")) if other in place}  # fmt: skip
    is_seen = np.ones(len(index), bool)
    for i, (at, length) in enumerate(index[:, 3:].tolist()):
        image = decode_image(stored[at : at + length].tobytes())
        is_seen[i] = min(side.std(axis=0).max() for side in (image[0], image[-1], image[:, 0], image[:, -1])) >= 1.5
    seen = {edge for edge in true if is_seen[edge[0]] and is_seen[edge[1]]}
    with (folder / "splits" / "scene.edges.csv").open(encoding="utf-8", newline="") as stream:
        edges = [(int(a[1:]), int(b[1:]), side) for a, b, side, _ in list(csv.reader(stream))[1:]]
    with (folder / "splits" / "scene.csv").open(encoding="utf-8", newline="") as stream:
        rows = {int(row["tile"][1:]): row for row in csv.DictReader(stream)}
    kept = {edge for edge in edges if edge[2] != "same"}
    print(f"edges: recall {len(kept & true) / len(true):.4f} ({len(kept & seen) / len(seen):.4f} of {len(seen):,} seen), "
          f"precision {len(kept & true) / max(len(kept), 1):.5f} of {len(kept):,}")  # fmt: skip
    same = [edge for edge in edges if edge[2] == "same"]
    print(f"overlaps and copies, of which the world has none: {len(same)}, in {len({i for a, b, _ in same for i in (a, b)})} tiles")
    names: defaultdict[int, set[str]] = defaultdict(set)
    truths: defaultdict[str, set[int]] = defaultdict(set)
    for i, row in rows.items():
        if is_seen[i]:
            names[int(index[i, 0])].add(row["scene"] or row["tile"])
        if row["scene"]:
            truths[row["scene"]].add(int(index[i, 0]))
    whole, mixed = sum(len(found) == 1 for found in names.values()), sum(len(found) > 1 for found in truths.values())
    parts: defaultdict[int, set[str]] = defaultdict(set)
    for i, row in rows.items():
        parts[int(index[i, 0])].add(row["part"])
    torn = sum(len(found) > 1 for found in parts.values())
    print(f"scenes: {whole:,} of {len(names):,} whole, {mixed} of {len(truths):,} recovered ones mix strangers; {torn} lie in two parts")


def real(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png")) and "lab" not in name)
        images = [decode_image(archive.read(name)) for name in names]
    for overlap in sorted(find_overlaps(images.__getitem__, len(images)), key=lambda overlap: overlap.probability):
        print(
            f"{Path(names[overlap.a]).stem} {Path(names[overlap.b]).stem}: {overlap.share_a:.0%}, zoom {overlap.zoom:.2f}, "
            f"similarity {overlap.similarity:.2f}, {overlap.inliers} landmarks, {overlap.probability:.1%}"
        )
    print(f"{len(images)} tiles")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["planted", "neighbours", "clean", "sizes", "size", "world", "write", "split", "judge", "real"])
    parser.add_argument("values", nargs="*", help="numbers of tiles, the world and the data set, or the zip")
    parser.add_argument("--each", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    actions: dict[str, Callable[[], object]] = {
        "planted": lambda: planted(options.each, options.tile, options.seed),
        "neighbours": lambda: [neighbours(options.scenes, options.tile, options.seed, quality) for quality in (90, 75)],
        "clean": lambda: clean(options.scenes, options.tile, options.seed),
        "size": lambda: size(int(options.values[0]), options.seed),
        "sizes": lambda: [subprocess.run([sys.executable, __file__, "size", value], check=True) for value in options.values],
        "world": lambda: world(Path(options.values[0]), options.each, options.seed),
        "write": lambda: write(*map(Path, options.values)),
        "split": lambda: split(*map(Path, options.values)),
        "judge": lambda: judge(*map(Path, options.values)),
        "real": lambda: real(Path(options.values[0])),
    }
    actions[options.what]()


if __name__ == "__main__":
    main()
