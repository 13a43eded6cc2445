from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from landseg.core.grid import Grid
from landseg.data.world import make_scene
from landseg.splitting.neighbours import Edge, find_neighbours, from_places, nearest

Truth = list[tuple[int, int, int]]


def _world(
    *, scenes: int = 5, tile: int = 64, edge: int = 320, quality: int = 90, noise: float = 0, jitter: float = 0, gap: int = 0
) -> tuple[list[np.ndarray], Truth]:
    rng = np.random.default_rng(7)
    tiles, truth = [], []
    for number in range(scenes):
        image = make_scene(50 + number, edge, edge).image
        for row in range((edge + gap) // (tile + gap)):
            for col in range((edge + gap) // (tile + gap)):
                y, x = row * (tile + gap), col * (tile + gap)
                pixels = image[y : y + tile, x : x + tile] * rng.normal(1, jitter) + rng.normal(0, noise, (tile, tile, 3))
                pixels = np.clip(pixels, 0, 255).round().astype(np.uint8)
                tiles.append(cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR))
                truth.append((number, row, col))
    order = rng.permutation(len(tiles))
    return [tiles[i] for i in order], [truth[i] for i in order]


def _adjacent(truth: Truth) -> set[tuple[int, int, str]]:
    at = {place: i for i, place in enumerate(truth)}
    found = set()
    for (scene, row, col), i in at.items():
        for other, side in (((scene, row, col + 1), "right"), ((scene, row + 1, col), "below")):
            if other in at:
                found.add((i, at[other], side))
    return found


def _found(tiles: Sequence[np.ndarray], workers: int = 1) -> list[Edge]:
    return find_neighbours(tiles.__getitem__, [tile.shape[:2] for tile in tiles], workers=workers)


def _with_a_hole(tile: np.ndarray) -> np.ndarray:
    tile[20:26, 20:26] = np.nan
    return tile


def _likely(edges: Sequence[Edge]) -> set[tuple[int, int, str]]:
    return {(edge.a, edge.b, edge.side) for edge in edges if edge.probability >= 0.5}


@pytest.mark.parametrize(
    ("changes", "recall"),
    [({}, 0.97), ({"quality": 75, "noise": 5}, 0.97), ({"jitter": 0.08}, 0.95), ({"gap": 2, "scenes": 9}, 0.7)],
    ids=["clean", "noise", "brightness", "gap"],
)
def test_neighbours_are_found_in_a_planted_world(changes: dict[str, float], recall: float) -> None:
    tiles, truth = _world(**changes)  # type: ignore[arg-type]
    true, likely = _adjacent(truth), _likely(_found(tiles))
    assert len(true & likely) >= recall * len(true)
    assert len(likely - true) <= 0.02 * len(true)


def test_probabilities_are_honest_on_the_whole() -> None:
    tiles, truth = _world(scenes=6, tile=96, edge=400, noise=14, quality=70, gap=2)
    true, edges = _adjacent(truth), _found(tiles)
    expected = sum(edge.probability for edge in edges)
    observed = sum((edge.a, edge.b, edge.side) in true for edge in edges)
    assert observed == pytest.approx(expected, rel=0.2)


def test_the_result_does_not_depend_on_the_threads() -> None:
    tiles, _ = _world(scenes=2)
    assert _found(tiles, workers=1) == _found(tiles, workers=3)


@pytest.mark.parametrize("kind", ["uint16", "float32", "grey", "six bands"])
def test_any_depth_and_band_count(kind: str) -> None:
    tiles, truth = _world(scenes=3, quality=95)
    change = {
        "uint16": lambda tile: tile.astype(np.uint16) * 16 + 900,
        "float32": lambda tile: _with_a_hole(tile.astype(np.float32) / 255),
        "grey": lambda tile: tile[:, :, 1:2],
        "six bands": lambda tile: np.concatenate([tile, tile[:, :, ::-1] // 2], axis=2),
    }[kind]
    true, likely = _adjacent(truth), _likely(_found([change(tile) for tile in tiles]))
    assert len(true & likely) >= 0.93 * len(true) and len(likely - true) <= 2


def test_sides_of_different_length_never_join() -> None:
    tiles, truth = _world(scenes=3)
    small = [tile[:48] if truth[i][0] == 2 else tile for i, tile in enumerate(tiles)]
    assert all(truth[edge.a][0] == truth[edge.b][0] for edge in _found(small) if edge.probability >= 0.5)


def test_a_remainder_is_joined_by_its_long_side() -> None:
    image = make_scene(3, 256, 240).image
    tiles = [image[r : r + 64, c : min(c + 64, 240)] for r in range(0, 256, 64) for c in range(0, 240, 64)]
    likely = _likely(_found(tiles))
    assert {(4 * r + 2, 4 * r + 3, "right") for r in range(4)} <= likely


@pytest.mark.parametrize(
    "tiles",
    [
        [np.full((64, 64, 3), 9, np.uint8)],
        [np.full((64, 64, 3), 9, np.uint8)] * 12,
        [np.full((64, 64, 3), value, np.uint8) for value in range(0, 200, 9)],
        [np.zeros((1, 1, 3), np.uint8)] * 5,
        [np.full((64, 64, 1), np.nan, np.float32)] * 5,
        [np.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype(np.uint8) for i in range(2)],
        [np.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype(np.uint8) for i in range(30)],
        [np.random.default_rng(i).integers(20, 24, (64, 64, 3)).astype(np.uint8) for i in range(30)],
        [],
    ],
    ids=["one", "identical", "constant", "pixels", "nan", "two of noise", "noise", "open water", "none"],
)
def test_nothing_to_go_by_gives_no_edge_and_no_error(tiles: list[np.ndarray]) -> None:
    assert not _likely(_found(tiles))


def test_open_water_joins_no_strangers() -> None:
    tiles, _ = _world(scenes=2)
    rng = np.random.default_rng(0)
    water = [np.clip(np.array([18, 34, 40]) + rng.normal(0, 1.5, (64, 64, 3)), 0, 255).round().astype(np.uint8) for _ in range(40)]
    likely = _likely(_found([*tiles, *water]))
    assert not [edge for edge in likely if edge[0] >= len(tiles) or edge[1] >= len(tiles)]


def test_a_copy_is_the_same_ground_and_hides_no_neighbour() -> None:
    tiles, truth = _world(scenes=2)
    edges = _found([*tiles, tiles[3], tiles[8]])
    assert {(edge.a, edge.b) for edge in edges if edge.side == "same"} == {(3, len(tiles)), (8, len(tiles) + 1)}
    assert len(_adjacent(truth) & _likely(edges)) >= 0.97 * len(_adjacent(truth))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_the_search_finds_what_sorting_finds(count: int, wanted: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(-9, 9, (count, 4)).astype(np.float32) for _ in range(2))
    found = nearest(first, second, wanted, workers=1)
    product = first @ second.T
    np.fill_diagonal(product, np.inf)
    for i in range(count):
        mine = product[i, found[found[:, 0] == i, 1]]
        assert (mine < np.inf).all() and len(mine) >= min(wanted, count - 1)
        assert sorted(mine)[:wanted] == sorted(product[i])[: min(wanted, count - 1)]


def test_the_search_works_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.splitting.neighbours._ROWS", 7)
    monkeypatch.setattr("landseg.splitting.neighbours._COLUMNS", 11)
    rng = np.random.default_rng(1)
    first, second = (rng.integers(-99, 99, (50, 4)).astype(np.float32) for _ in range(2))
    found = nearest(first, second, 3, workers=2)
    product = first @ second.T
    np.fill_diagonal(product, np.inf)
    for i in range(50):
        assert sorted(product[i, found[found[:, 0] == i, 1]])[:3] == sorted(product[i])[:3]


def _grid(row: float, col: float, *, size: int = 100, epsg: int = 32650, resolution: float = 2.0) -> Grid:
    origin = Affine(resolution, 0, 400_000, 0, -resolution, 4_000_000)
    return Grid(size, size, origin @ Affine.translation(col, row), CRS.from_epsg(epsg))


def test_places_on_earth_give_certain_edges() -> None:
    grids = [_grid(0, 0), _grid(0, 100), _grid(103, 0), _grid(50, 50), None, _grid(0, 300), _grid(0, 0, epsg=32651), _grid(100, 100)]
    edges = {(edge.a, edge.b, edge.side) for edge in from_places(grids)}
    assert edges == {(0, 1, "right"), (0, 2, "below"), (1, 7, "below"), (0, 3, "same"), (1, 3, "same"), (2, 3, "same"), (3, 7, "same")} | (
        {(2, 7, "same")}
    )


def test_a_turned_grid_and_a_finer_one() -> None:
    turned = Affine(0, 2, 400_000, 2, 0, 4_000_000)
    grids = [Grid(64, 64, turned @ Affine.translation(64 * col, 64 * row), CRS.from_epsg(3857)) for row in range(2) for col in range(2)]
    assert {(e.a, e.b, e.side) for e in from_places(grids)} == {(0, 1, "right"), (2, 3, "right"), (0, 2, "below"), (1, 3, "below")}
    assert from_places([_grid(0, 0), _grid(0, 0, resolution=0.5)]) == [Edge(0, 1, "same", 1.0)]
