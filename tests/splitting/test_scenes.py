from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.splitting.neighbours import Edge
from landseg.splitting.scenes import assemble


def _grid(height: int, width: int, start: int = 0, probability: float = 0.999) -> list[Edge]:
    edges = []
    for row in range(height):
        for col in range(width):
            i = start + row * width + col
            if col + 1 < width:
                edges.append(Edge(i, i + 1, "right", probability))
            if row + 1 < height:
                edges.append(Edge(i, i + width, "below", probability))
    return edges


def test_a_scene_with_the_place_of_each_tile() -> None:
    scenes = assemble(13, _grid(3, 4))
    assert scenes.scene.tolist() == [0] * 12 + [1]
    assert scenes.row.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [-1]
    assert scenes.col.tolist() == [0, 1, 2, 3] * 3 + [-1]
    assert len(scenes.edges) == 17 and scenes.cut == () and scenes.sizes.tolist() == [12, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
def test_any_order_of_tiles_and_edges_gives_the_same_scenes(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 2 * height * width
    name = rng.permutation(count)
    edges = [Edge(int(name[e.a]), int(name[e.b]), e.side, e.probability) for e in _grid(height, width) + _grid(height, width, count // 2)]
    scenes = assemble(count, [edges[i] for i in rng.permutation(len(edges))])
    again = assemble(count, edges)
    assert np.array_equal(scenes.scene, again.scene) and np.array_equal(scenes.row, again.row)
    if height * width > 1:
        assert np.array_equal(scenes.row[name[: count // 2]], np.repeat(np.arange(height), width))
        assert len(set(scenes.scene[name[: count // 2]])) == 1
        assert scenes.scene[name[0]] != scenes.scene[name[-1]]


def test_one_false_edge_does_not_fuse_two_scenes() -> None:
    edges = [*_grid(4, 4), *_grid(4, 4, 16), Edge(7, 24, "right", 0.97)]
    scenes = assemble(32, edges)
    assert scenes.sizes.tolist() == [16, 16]
    assert scenes.cut == (Edge(7, 24, "right", 0.97),)


def test_two_edges_that_agree_do() -> None:
    edges = [*_grid(2, 2), *_grid(2, 2, 4), Edge(1, 4, "right", 0.9), Edge(3, 6, "right", 0.9)]
    assert assemble(8, edges).sizes.tolist() == [8]


def test_two_tiles_never_lie_in_one_place() -> None:
    edges = [*_grid(1, 3), Edge(0, 3, "right", 0.9), Edge(3, 2, "right", 0.8)]
    scenes = assemble(4, edges)
    placed = [(s, r, c) for s, r, c in zip(scenes.scene, scenes.row, scenes.col, strict=True) if r >= 0]
    assert len(placed) == len(set(placed))
    assert Edge(0, 3, "right", 0.9) in scenes.cut


def test_a_loop_that_does_not_close_is_cut() -> None:
    edges = [Edge(0, 1, "right", 0.99), Edge(1, 2, "below", 0.99), Edge(2, 3, "right", 0.99), Edge(3, 0, "right", 0.98)]
    scenes = assemble(4, edges)
    assert Edge(3, 0, "right", 0.98) in scenes.cut and len(scenes.edges) == 3


def test_a_gap_in_a_rectangle_is_filled_by_the_tile_that_two_weak_edges_name() -> None:
    whole = _grid(4, 4)
    edges = [e if 15 not in (e.a, e.b) else Edge(e.a, e.b, e.side, 0.1) for e in whole]
    assert assemble(17, edges).sizes.tolist() == [16, 1]
    # Not by one edge, not where another tile comes near, and not outside the rectangle.
    assert assemble(17, [e for e in edges if (e.a, e.b) != (14, 15)]).sizes.tolist() == [15, 1, 1]
    rival = [Edge(14, 16, "right", 0.09), Edge(11, 16, "below", 0.09)]
    assert assemble(17, [*edges, *rival]).sizes.tolist() == [15, 1, 1]
    outside = [Edge(3, 16, "right", 0.2), Edge(7, 17, "right", 0.2), Edge(16, 17, "below", 0.2)]
    assert assemble(18, [*whole, *outside]).sizes.tolist() == [16, 1, 1]


def test_unlikely_edges_join_nothing_alone() -> None:
    assert assemble(2, [Edge(0, 1, "right", 0.3)]).sizes.tolist() == [1, 1]


def test_the_same_ground_belongs_to_the_scene_without_a_place() -> None:
    scenes = assemble(6, [*_grid(2, 2), Edge(1, 5, "same", 1.0), Edge(4, 5, "same", 0.2)])
    assert scenes.scene.tolist() == [0, 0, 0, 0, 1, 0]
    assert scenes.row[5] == -1 and Edge(4, 5, "same", 0.2) not in scenes.edges


@pytest.mark.parametrize("count", [0, 1, 5])
def test_no_edges(count: int) -> None:
    scenes = assemble(count, [])
    assert scenes.scene.tolist() == list(range(count)) and (scenes.row == -1).all()
