"""The flood is Kruskal's, pass by pass, whatever is held at once."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from landseg.product.components import OUTSIDE
from landseg.product.flood import FREE, HIGHEST, NOWHERE, Strip, _Forest, flood


def pass_by_pass(kind: np.ndarray, height: np.ndarray, depth: int) -> tuple[np.ndarray, list[int]]:
    """The rule of `flood` word by word: labels in the order of first pixels, and the kind of each."""
    rows, cols = kind.shape
    passes = []
    for r, c in np.ndindex(rows, cols):
        for way, (down, right) in enumerate(((r, c + 1), (r + 1, c))):
            if down < rows and right < cols and NOWHERE not in (kind[r, c], kind[down, right]):
                pair = sorted((int(height[r, c]), int(height[down, right])), reverse=True)
                passes.append((*pair, way, r * cols + c, down * cols + right))
    parent = list(range(kind.size))
    kinds = kind.ravel().tolist()
    low = [int(h) if k >= 0 else 10**6 for h, k in zip(height.ravel(), kinds, strict=True)]

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for high, _, _, one, other in sorted(passes):
        a, b = root(one), root(other)
        is_deep = high - max(low[a], low[b]) >= depth
        if a != b and (FREE in (kinds[a], kinds[b]) or (kinds[a] == kinds[b] and not is_deep)):
            parent[b], kinds[a], low[a] = a, max(kinds[a], kinds[b]), min(low[a], low[b])
    number: dict[int, int] = {}
    labels = [OUTSIDE if kinds[i] == NOWHERE else number.setdefault(root(i), len(number)) for i in range(kind.size)]
    return np.array(labels).reshape(kind.shape), [kinds[i] for i in number]


def flooded(kind: np.ndarray, height: np.ndarray, depth: int, rows: int) -> tuple[np.ndarray, list[int]]:
    kinds = np.pad(kind, ((1, 1), (0, 0)), constant_values=NOWHERE)
    heights = np.pad(height, ((1, 1), (0, 0)))
    strips = (Strip(kinds[i : i + rows + 2], heights[i : i + rows + 2]) for i in range(0, len(kind), rows))
    runs, found = flood(strips, *kind.shape, depth)
    return np.repeat(runs.value, runs.lengths).reshape(runs.height, runs.width)[1:-1, 1:-1], found.tolist()


@st.composite
def landscapes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    kind = draw(arrays.arrays(np.int16, shape, elements=st.sampled_from([FREE, FREE, 0, 0, 1, NOWHERE])))
    levels = draw(st.sampled_from([1, 5, 40, HIGHEST]))
    return kind, draw(arrays.arrays(np.uint16, shape, elements=st.integers(0, levels)))


ALL_FREE = np.full((5, 4), FREE, np.int16), np.arange(20, dtype=np.uint16).reshape(5, 4)
SADDLES = np.zeros((3, 9), np.int16), np.array([[0, 4, 9, 4, 2, 9, 9, 3, 0]] * 3, np.uint16)
COLUMN = np.array([[0], [FREE], [FREE], [1], [FREE], [0]], np.int16), np.array([[0], [7], [5], [3], [5], [5]], np.uint16)


@given(landscapes(), st.sampled_from([1, 2, 5, 15, 1000]), st.integers(1, 8))
@example(ALL_FREE, 3, 2)
@example(SADDLES, 5, 1)
@example(COLUMN, 1, 1)
@settings(max_examples=150, deadline=None)
def test_the_flood_is_kruskals_whatever_is_held_at_once(landscape: tuple[np.ndarray, np.ndarray], depth: int, rows: int) -> None:
    labels, kinds = flooded(*landscape, depth, rows)
    expected, expected_kinds = pass_by_pass(*landscape, depth)
    assert (labels == expected).all() and kinds == expected_kinds


def test_basins_are_several_where_the_passes_between_them_are_high_enough() -> None:
    """Of three basins the middle one is the shallowest: 7 below both passes, the others 9."""
    for depth, first_row in ((5, [0, 0, 0, 1, 1, 1, 2, 2, 2]), (8, [0, 0, 0, 0, 0, 0, 1, 1, 1]), (10, [0] * 9)):
        labels, _ = flooded(*SADDLES, depth, 2)
        assert labels.tolist() == [first_row] * 3


def test_a_large_landscape_in_strips_is_the_one_at_once() -> None:
    rng = np.random.default_rng(4)
    kind = rng.choice(np.array([FREE, 0, 1, NOWHERE], np.int16), (120, 130), p=[0.3, 0.5, 0.15, 0.05])
    height = (rng.integers(0, 200, kind.shape) * 20).astype(np.uint16)
    whole = flooded(kind, height, 600, len(kind))
    assert whole[0].max() > 500
    for rows in (1, 17, 64):
        labels, kinds = flooded(kind, height, 600, rows)
        assert (labels == whole[0]).all() and kinds == whole[1]


@given(st.sampled_from([0, 20]), st.integers(1, 7))
@settings(max_examples=10, deadline=None)
def test_even_ground_waits_as_one_area_a_strip(slope: int, rows: int) -> None:
    """With one pass to the next, flat or aslant to a side: a sure network says the same inside fields, which may not take memory."""
    height = np.pad(np.tile(np.arange(28, dtype=np.uint16) * np.uint16(slope), (28, 1)), ((1, 1), (0, 0)))
    kind = np.pad(np.zeros((28, 28), np.int16), ((1, 1), (0, 0)), constant_values=NOWHERE)
    forest = _Forest(28, 1000)
    for i in range(0, 28, rows):
        forest.grow(Strip(kind[i : i + rows + 2], height[i : i + rows + 2]))
    strips = -(-28 // rows)
    assert len(forest.areas().kind) == strips and len(forest.passes().key) == strips - 1
