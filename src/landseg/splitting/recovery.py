"""Which tiles belong together by where they lie or what they show: georeference, else neighbours, copies and overlaps. It assigns no parts.

What the pixels say is found once and kept in ``pack/``: it depends on nothing else, so another seed or other folds need not look again.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from landseg.core.errors import LandsegError
from landseg.core.files import write_text
from landseg.core.grid import Grid
from landseg.core.progress import one_core_a_thread, parallel_map, progress
from landseg.data.archive import DamagedEntry
from landseg.data.copies import find_copies, signature
from landseg.data.dataset import Dataset
from landseg.data.pack import TileStore
from landseg.data.places import gdal_name
from landseg.data.tiles import UnreadableTile, read_bytes
from landseg.splitting.neighbours import GAP, Edge, find_neighbours, from_places
from landseg.splitting.overlaps import find_overlaps
from landseg.splitting.scenes import assemble

log = logging.getLogger("landseg")

_GEOREFERENCED = (".tif", ".tiff")

_ROOMS = (
    ("landseg.data", "copies"),
    *(("landseg.splitting", room) for room in ("borders", "neighbours", "landmarks", "likeness", "overlaps", "recovery")),
)
"""The code that joins are found by: what other code found is not used."""


@dataclass(frozen=True)
class Recovered:
    """The scenes of a data set's tiles, numbered as in its store.

    Args:
        scene: (N,) int, 0 the largest; a tile that belongs to no other is a scene of its own.
        rows: (N,) int, row in the scene, -1 where unknown; by georeference several tiles may lie in one cell.
        cols: (N,) int, likewise.
        is_unplaced: (N,) bool, tiles of which no other was found to continue or share the ground.
        edges: Joins that hold scenes together; ``same`` ones, of copies and overlaps, also between scenes.
        cut: Joins that were found and not trusted.
        pairs: (M, 2) int, tiles that may not be divided between parts though they lie in different scenes or blocks.
        is_georeferenced: Places come from the files' georeference.
    """

    scene: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    is_unplaced: np.ndarray
    edges: tuple[Edge, ...]
    cut: tuple[Edge, ...]
    pairs: np.ndarray
    is_georeferenced: bool = False


def scene_names(scene: np.ndarray, tiles: Sequence[str]) -> list[str]:
    """The name of each tile's scene, ``scene_001`` the largest; a tile that is alone gives its scene its own name."""
    sizes = np.bincount(scene)
    digits, prefix = max(3, len(str(int((sizes > 1).sum())))), "scene_"
    taken = set(tiles)
    while any(name.startswith(prefix) for name in taken):
        prefix = f"a_{prefix}"
    return [tile if sizes[s] == 1 else f"{prefix}{s + 1:0{digits}d}" for s, tile in zip(scene.tolist(), tiles, strict=True)]


def scene_groups(found: Recovered, scenes: Sequence[str], block: np.ndarray) -> list[str]:
    """What may not be divided: each scene or block of one, together with those that show ground of its own.

    Args:
        found: The scenes.
        scenes: Their names a tile, from `scene_names`.
        block: (N,) int, the block of each tile within its scene; -1 for tiles between blocks, whose group means nothing.

    Returns:
        The group of each tile, named after the first of its scenes or blocks.
    """
    is_divided = np.zeros(len(scenes), bool)
    is_divided[found.scene[block != 0]] = True
    own = [f"{name}-{b + 1}" if is_divided[s] else name for name, b, s in zip(scenes, block.tolist(), found.scene.tolist(), strict=True)]
    names, number = np.unique(np.asarray(own, object), return_inverse=True)
    links = found.pairs[(block[found.pairs] >= 0).all(1)]
    joined = components(len(names), number[links])
    _, first = np.unique(joined, return_index=True)
    return [str(names[first[joined[k]]]) for k in number]


@one_core_a_thread()
def recover(dataset: Dataset, store: TileStore) -> Recovered:
    """Find the scenes of a data set: from the georeference of its files where all have one, else from their pixels."""
    grids = _grids_of(dataset, store)
    return _from_pixels(dataset, store) if grids is None else _from_places(grids)


@one_core_a_thread()
def neighbours_among(shapes: Sequence[tuple[int, int]], read: Callable[[int], np.ndarray]) -> list[Edge]:
    """Joins among any tiles that scenes could be made of, such as those of two data sets.

    Args:
        shapes: (height, width) of each tile.
        read: Number → image (H, W, C), from any thread.
    """
    found = find_neighbours(read, shapes)
    return [edge for edge in assemble(len(shapes), found).edges if edge.side != "same"]


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """(N,) int: tiles that `pairs` (M, 2) link, directly or through others, have the same number."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    found: np.ndarray = connected_components(links, directed=False)[1]
    return found


def _from_places(grids: Sequence[Grid]) -> Recovered:
    edges = from_places(grids)
    scene = _by_size(components(len(grids), _pairs(edges)))
    rows, cols = _cells(grids, scene)
    log.info("split: scenes from the tiles' georeference")
    # A tile far from all others is unplaced in no way: its place is known.
    nothing = np.zeros(len(grids), bool)
    return Recovered(scene, rows, cols, nothing, tuple(edges), (), _pairs(edge for edge in edges if edge.side == "same"), True)


def _cells(grids: Sequence[Grid], scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each tile in its scene, from its footprint: tiles two cells apart neither overlap nor count as neighbours."""
    cells = np.zeros((len(grids), 2), np.int64)
    for tiles in np.split(np.argsort(scene, kind="stable"), np.bincount(scene).cumsum()[:-1]):
        # A scene has one CRS; in pixels of its first tile, north is up or not as it is there.
        step = [~grids[tiles[0]].transform @ grids[i].transform for i in tiles]
        corners = np.array([
            [(at @ corner)[::-1] for corner in itertools.product((0, grids[i].width), (0, grids[i].height))]
            for i, at in zip(tiles, step, strict=True)
        ])  # fmt: skip
        first, last = corners.min(1), corners.max(1)
        side, place = (last - first).max(0), first - first.min(0)
        if np.abs(place - np.round(place / side) * side).max() <= 0.5:
            cells[tiles] = np.round(place / side)
        else:
            coarsest = max(abs(at.determinant) ** 0.5 for at in step)
            cells[tiles] = place // (side + GAP * coarsest + 1)
    return cells[:, 0], cells[:, 1]


def _grids_of(dataset: Dataset, store: TileStore) -> list[Grid] | None:
    """The grid of each tile's file, or None as soon as one has no place on earth; said where others have one."""
    files = {tile.name: tile.image for tile in dataset.tiles}
    paths = [files[entry.name] for entry in store.entries]
    able = [path for path in paths if path.suffix.lower() in _GEOREFERENCED]
    if not able:
        return None
    read = progress(parallel_map(_read_grid, able), "reading places", len(able))
    grids = [grid for grid in read if grid is not None]
    if 0 < len(grids) < len(paths):
        log.warning(
            "split: %s of %s tiles have no georeference, so that of the others is not used",
            f"{len(paths) - len(grids):,}",
            f"{len(paths):,}",
        )
    return grids if grids and len(grids) == len(paths) else None


def _read_grid(path: Path) -> Grid | None:
    import rasterio  # GDAL takes a third of a second to load, and most tiles are JPEG and PNG
    from rasterio.io import MemoryFile

    try:
        with ExitStack() as stack:
            name = gdal_name(path)
            opened = rasterio.open(name) if name is not None else stack.enter_context(MemoryFile(read_bytes(path))).open()
            source = stack.enter_context(opened)
            grid = Grid(source.height, source.width, source.transform, source.crs)
    except (rasterio.errors.RasterioError, UnreadableTile, DamagedEntry, OSError):
        return None
    return grid if grid.is_georeferenced else None


@one_core_a_thread()
def joins_of(dataset: Dataset, store: TileStore) -> list[Edge]:
    """The joins that hold the scenes of a data set together, as `recover` finds them, without a look for copies and overlaps."""
    grids = _grids_of(dataset, store)
    if grids is not None:
        return from_places(grids)
    kept = _Kept(dataset, store)
    return [edge for edge in assemble(len(store.entries), _neighbours(store, kept, _originals(store, kept))).edges if edge.side != "same"]


def _from_pixels(dataset: Dataset, store: TileStore) -> Recovered:
    kept = _Kept(dataset, store)
    original = _originals(store, kept)
    neighbours = _neighbours(store, kept, original)
    overlaps = kept.edges("overlaps", lambda: _overlaps(store, original))
    found = assemble(len(original), [edge for edge in neighbours if edge.side != "same"])
    same = [*kept.edges("copies", lambda: _copies(store)), *overlaps, *(edge for edge in neighbours if edge.side == "same")]
    is_unplaced = np.bincount(found.scene)[found.scene] == 1
    is_unplaced[_pairs(overlaps).ravel()] = False
    is_unplaced &= is_unplaced[original]
    scene = _by_size(_joined(found.scene, same))
    # A scene's rows and columns are those of its placed tiles; what joined it by its ground alone has none.
    rows, cols = (np.where(np.bincount(found.scene)[found.scene] > 1, place, -1) for place in (found.row, found.col))
    return Recovered(scene, rows, cols, is_unplaced, (*found.edges, *same), found.cut, _pairs(same))


def _firsts(original: np.ndarray) -> list[int]:
    """The tiles that are copies of no other."""
    firsts: list[int] = np.flatnonzero(original == np.arange(len(original))).tolist()
    return firsts


def _originals(store: TileStore, kept: _Kept) -> np.ndarray:
    """(N,) int: the first tile that each is a copy of, most often itself."""
    original = np.arange(len(store.entries))
    for edge in kept.edges("copies", lambda: _copies(store)):
        original[edge.b] = original[edge.a]
    return original


def _neighbours(store: TileStore, kept: _Kept, original: np.ndarray) -> list[Edge]:
    """Joins by continuing borders. A copy would be its original's rival for a place; it is found where its original is."""
    firsts = _firsts(original)

    def search() -> list[Edge]:
        shapes = [(store.entries[i].height, store.entries[i].width) for i in firsts]
        found = find_neighbours(lambda k: store.image(firsts[k]), shapes)
        return [Edge(firsts[edge.a], firsts[edge.b], edge.side, edge.probability) for edge in found]

    return kept.edges("neighbours", search)


def _joined(scene: np.ndarray, same: Iterable[Edge]) -> np.ndarray:
    """Scenes with tiles that are alone brought into the scene of a copy or an overlap; scenes of several tiles stay apart."""
    number, sizes = scene.copy(), np.bincount(scene)
    members = {int(s): [int(i)] for i, s in enumerate(scene) if sizes[s] == 1}
    for edge in sorted(same, key=lambda edge: (-edge.probability, edge.a, edge.b)):
        a, b = int(number[edge.a]), int(number[edge.b])
        if a == b or min(sizes[a], sizes[b]) > 1:
            continue
        goal, gone = (a, b) if sizes[a] >= sizes[b] else (b, a)
        number[members.pop(gone)] = goal
        sizes[goal] += 1
    return number


def _by_size(scene: np.ndarray) -> np.ndarray:
    """The same scenes numbered from the largest; of equal ones, by their first tile."""
    _, first, inverse, counts = np.unique(scene, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse.reshape(-1)]


def _pairs(edges: Iterable[Edge]) -> np.ndarray:
    return np.array([(edge.a, edge.b) for edge in edges], np.int64).reshape(-1, 2)


def _copies(store: TileStore) -> list[Edge]:
    count = len(store.entries)
    described = parallel_map(lambda i: signature(store.image(i)), range(count))
    signatures = np.stack(list(progress(described, "looking for copies", count)))
    return [Edge(copy.a, copy.b, "same", 1.0 if copy.is_exact else 0.999) for copy in find_copies(signatures, store.image)]


def _overlaps(store: TileStore, original: np.ndarray) -> list[Edge]:
    found = find_overlaps(store.image, len(store.entries), tiles=_firsts(original))
    return [Edge(overlap.a, overlap.b, "same", overlap.probability) for overlap in found]


@cache
def _code() -> str:
    """A hash of the code that finds joins."""
    digest = xxhash.xxh3_128()
    for package, room in _ROOMS:
        digest.update(resources.files(package).joinpath(f"{room}.py").read_bytes())
    return digest.hexdigest()


class _Kept:
    """Joins found before in the same pixels, a file a kind in ``pack/``."""

    def __init__(self, dataset: Dataset, store: TileStore) -> None:
        digest = xxhash.xxh3_128(f"{_code()} {store.bands} {store.dtype}\n".encode())
        for entry in store.entries:
            digest.update(f"{entry.height} {entry.width} {entry.image_hash}\n".encode())
        self._folder, self._key = dataset.folder / "pack", digest.hexdigest()

    def edges(self, kind: str, find: Callable[[], Sequence[Edge]]) -> list[Edge]:
        """The joins of that kind; found, and kept, where they are not there yet."""
        path = self._folder / f"{kind}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["key"] == self._key:
                return [Edge(int(a), int(b), side, float(probability)) for a, b, side, probability in document["edges"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not kept, of other pixels or damaged: found anew
        # Rounded as they are kept, so that the first run and later ones sort them alike.
        found = [Edge(edge.a, edge.b, edge.side, round(edge.probability, 6)) for edge in find()]
        rows = [[edge.a, edge.b, edge.side, edge.probability] for edge in found]
        with suppress(LandsegError):  # a data set that cannot be written to has its pack elsewhere; the joins are found again
            write_text(path, json.dumps({"key": self._key, "edges": rows}, separators=(",", ":")) + "\n")
        return found
