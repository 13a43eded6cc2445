"""Windows cover a scene and stay inside it; blending gives back what all windows agree on, and a part has the bits of the whole."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.core.grid import Window
from landseg.inference import blend
from landseg.inference.blend import Prediction, Side, blended, windows

sides = st.builds(Side, st.integers(1, 300), st.integers(1, 96), st.floats(0, 0.75))
Says = Callable[[int, int], np.ndarray]


@st.composite
def parts(draw: st.DrawFn, height: int, width: int) -> Window:
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Window(row, col, draw(st.integers(1, height - row)), draw(st.integers(1, width - col)))


@given(sides)
def test_windows_cover_each_pixel_stay_inside_and_overlap_as_asked(side: Side) -> None:
    covered = np.zeros(max(side.length, side.size), int)
    for start in side.starts:
        covered[start : start + side.size] += 1
    assert (covered > 0).all() and side.starts[0] == 0
    assert len(side.starts) == 1 or side.starts[-1] + side.size == side.length
    assert all(
        a + side.size - b >= min(int(side.size * side.overlap), side.size - 1) for a, b in zip(side.starts, side.starts[1:], strict=False)
    )
    assert side.size <= side.edge and (side.size == side.edge or side.size - side.length < 32)


@given(sides)
def test_weights_are_positive_and_sum_to_one(side: Side) -> None:
    total, count = np.zeros(max(side.length, side.size)), np.zeros(max(side.length, side.size), int)
    for i, start in enumerate(side.starts):
        weights = side.weights(i)
        assert weights.dtype == np.float32 and (weights > 0).all()
        total[start : start + side.size] += weights
        count[start : start + side.size] += 1
    assert np.allclose(total, 1, atol=1e-6)
    assert (total[count == 1] == 1).all(), "a pixel of one window is that window's, bit for bit"


@given(sides, st.data())
def test_touching_names_the_windows_of_some_pixels(side: Side, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, side.length - 1))
    end = data.draw(st.integers(begin + 1, side.length))
    wanted = [i for i, start in enumerate(side.starts) if set(range(start, start + side.size)) & set(range(begin, end))]
    assert list(side.touching(begin, end)) == wanted


def run(rows: Side, cols: Side, part: Window, says: Says, valid: np.ndarray, spill: Path) -> tuple[np.ndarray, np.ndarray]:
    """Blended logits (K, h, w) of a part, NaN where nothing is valid, and what was said to be valid."""
    padded = np.zeros((max(rows.size, rows.length), max(cols.size, cols.length)), bool)
    padded[: rows.length, : cols.length] = valid

    def predicted() -> Iterator[Prediction]:
        for row, col in windows(rows, cols, part):
            seen = padded[rows.starts[row] : rows.starts[row] + rows.size, cols.starts[col] : cols.starts[col] + cols.size]
            yield Prediction(seen, says(row, col) if seen.any() else None)

    found, known, times = None, np.zeros((part.height, part.width), bool), np.zeros((part.height, part.width), int)
    for block in blended(rows, cols, part, predicted(), spill):
        window = Window(block.window.row - part.row, block.window.col - part.col, block.window.height, block.window.width)
        times[window.slices] += 1
        known[window.slices] = block.valid
        if block.logits is not None:
            found = np.full((len(block.logits), part.height, part.width), np.nan, np.float32) if found is None else found
            found[:, *window.slices] = block.logits
    assert (times == 1).all()
    assert not list(spill.glob("*")), "nothing waits for ever"
    return (np.full((1, part.height, part.width), np.nan, np.float32) if found is None else found), known


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_all_windows_agree_on_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    edge, overlap = data.draw(st.integers(1, 64)), data.draw(st.floats(0, 0.75))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows, cols = Side(height, edge, overlap), Side(width, edge, overlap)
    truth = random.integers(0, 5, (height, width))
    padded = np.pad(truth, ((0, max(0, rows.size - height)), (0, max(0, cols.size - width))))
    valid = random.random((height, width)) < 0.7
    valid[: height // 2] &= data.draw(st.booleans())

    def says(row: int, col: int) -> np.ndarray:
        ids = padded[rows.starts[row] : rows.starts[row] + rows.size, cols.starts[col] : cols.starts[col] + cols.size]
        return np.where(ids == np.arange(5)[:, None, None], 4.0, -1.0).astype(np.float32)

    part = data.draw(parts(height, width))
    logits, known = run(rows, cols, part, says, valid, tmp_path_factory.mktemp("spill"))
    assert (known == valid[part.slices]).all()
    if known.any():
        assert (logits.argmax(0) == truth[part.slices])[known].all()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_part_has_the_bits_of_the_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    edge, overlap = data.draw(st.integers(1, 48)), data.draw(st.floats(0, 0.75))
    seed = data.draw(st.integers(0, 99))
    rows, cols = Side(height, edge, overlap), Side(width, edge, overlap)
    valid = np.random.default_rng(seed).random((height, width)) < 0.8
    valid[height // 3 : height // 2] = False

    def says(row: int, col: int) -> np.ndarray:  # each window something else: only weights and order decide
        return np.random.default_rng([seed, row, col]).normal(size=(3, rows.size, cols.size)).astype(np.float32)

    spill = tmp_path_factory.mktemp("spill")
    whole, _ = run(rows, cols, Window(0, 0, height, width), says, valid, spill)
    part = data.draw(parts(height, width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "CARRIED_BYTES", data.draw(st.sampled_from([0, 10**9])))  # in files or in memory
        found, known = run(rows, cols, part, says, valid, spill)
    assert (found[:, known] == whole[:, *part.slices][:, known]).all()


def test_a_border_between_windows_that_differ_is_smooth(tmp_path: Path) -> None:
    rows, cols = Side(32, 32, 0.25), Side(112, 64, 0.25)
    logits, _ = run(
        rows, cols, Window(0, 0, 32, 112), lambda _, col: np.full((1, 32, 64), float(col), np.float32), np.ones((32, 112), bool), tmp_path
    )
    step = np.diff(logits[0, 0])
    assert (step >= 0).all() and step.max() < 0.15 and logits[0, 0, 0] == 0 and logits[0, 0, -1] == 1


def test_few_windows_are_held_at_once(tmp_path: Path) -> None:
    rows, cols = Side(600, 32, 0.25), Side(300, 32, 0.25)
    part, alive, most = Window(0, 0, 600, 300), 0, 0
    nothing = np.ones((32, 32), bool)

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def predicted() -> Iterator[Prediction]:
        nonlocal alive, most
        for _ in windows(rows, cols, part):
            logits = np.ones((2, 32, 32), np.float32)
            weakref.finalize(logits, gone)
            alive += 1
            most = max(most, alive)
            found = Prediction(nothing, logits)
            del logits
            yield found
            del found

    assert sum(block.window.height * block.window.width for block in blended(rows, cols, part, predicted(), tmp_path)) == 600 * 300
    assert most <= 2


@pytest.mark.parametrize("overlap", [-0.1, 0.8, float("nan")])
def test_no_such_overlap(overlap: float) -> None:
    with pytest.raises(LandsegError, match=r"predict\.overlap"):
        Side(100, 32, overlap)
