"""A data set with one cluster of its recovered scenes held out: ground that neither train nor val shows, for honesty and ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from scipy.cluster.hierarchy import fcluster, linkage

from landseg.data.dataset import open_dataset, write_info
from landseg.data.pack import open_tiles
from landseg.splitting.assignment import Placed, Split, read_split, split_names, write_split
from landseg.splitting.groups import assign
from landseg.verbs.split import split

CLUSTERS = 5
VAL = 0.15


def grid(text: str) -> tuple[int, int]:
    """``8x7`` as (rows, columns)."""
    rows, _, cols = text.partition("x")
    return int(rows), int(cols)


def refer(data: Path, folder: Path) -> Path:
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


def look_clusters(data: Path) -> dict[str, int]:
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


def grid_clusters(data: Path, grids: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Tile → district, where the images of one district were all cut into the same grid: the number of the largest grid (rows, columns)
    that the recovered scene is made of. Tiles of other scenes, and tiles alone, have none.
    """
    members: dict[str, list[Placed]] = {}
    for tile in read_split(open_dataset(data), "scene").tiles:
        if tile.scene:
            members.setdefault(tile.scene, []).append(tile)
    found = {}
    for tiles in members.values():
        rows, cols = (1 + max(values) - min(values) for values in ([int(t.row) for t in tiles], [int(t.col) for t in tiles]))
        fits = [k for k, (high, wide) in enumerate(grids) if rows % high == 0 and cols % wide == 0]
        if fits:
            district = max(fits, key=lambda k: grids[k][0] * grids[k][1])
            found |= {tile.tile: district for tile in tiles}
    return found


def hold_out(data: Path, clusters: dict[str, int], seed: int, kind: str) -> str:
    """Name of the split whose test part is one cluster, another for each seed, and whose val is drawn from the others.

    Args:
        data: From `refer`.
        clusters: From `look_clusters` or `grid_clusters`.
        seed: From 1.
        kind: ``random`` draws val by tile, ``scene`` by whole recovered scenes.
    """
    # Named after the clusters too: a split of others, made in the same folder before, must not be taken for this one.
    name = f"{kind}-{seed}-{xxhash.xxh3_64_hexdigest(repr(sorted(clusters.items())).encode())[:6]}"
    dataset = open_dataset(data)
    if name in split_names(dataset):
        return name
    sizes = np.bincount(list(clusters.values()))
    # Clusters that leave enough to train on and hold enough to be scored, in the order of their sizes.
    fit = [int(cluster) for cluster in np.argsort(-sizes) if 0.05 <= sizes[cluster] / sizes.sum() <= 0.5]
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
