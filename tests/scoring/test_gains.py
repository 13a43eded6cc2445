"""A gain is counted against the best plain model, with an interval, and beside what it costs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from landseg.scoring.confusion import scores
from landseg.scoring.gains import Compared, Pass, compare, table
from landseg.scoring.intervals import gain_interval

NAMES = ["field", "water"]


def matrices(right: int, groups: int = 12) -> np.ndarray:
    """(G, 2, 2): of 100 pixels of each class, about `right` are."""
    hits = np.clip(right + np.random.default_rng(right).integers(-9, 10, (groups, 2)), 0, 100)
    result = np.zeros((groups, 2, 2), np.int64)
    for k in range(2):
        result[:, k, k], result[:, k, 1 - k] = hits[:, k], 100 - hits[:, k]
    return result


def passes(*rights: int, groups: int = 12) -> list[Pass]:
    """Plain models, then an ensemble of them."""
    last = len(rights) - 1
    return [Pass(f"m{i}" if i < last else "ensemble", matrices(right, groups), i + 0.5, i < last) for i, right in enumerate(rights)]


def test_an_ensemble_is_held_against_its_best_model() -> None:
    given = passes(60, 80, 70, 90)
    found = compare(given, NAMES)
    mious = [scores(item.matrices.sum(0), NAMES).miou or 0.0 for item in given]
    assert [item.miou for item in found] == mious
    assert [item.gain for item in found] == [miou - mious[1] for miou in mious]
    assert [item.gain_interval is None for item in found] == [False, True, False, False]
    assert found[3].gain_interval == gain_interval(given[1].matrices, given[3].matrices, NAMES)
    assert [item.seconds for item in found] == [0.5, 1.5, 2.5, 3.5]
    assert [item.cost for item in found] == [1 / 3, 1, 2.5 / 1.5, 3.5 / 1.5]


def test_what_is_worse_has_a_negative_gain() -> None:
    found = compare(passes(80, 60), NAMES)
    assert found[0].gain == 0 and (found[1].gain or 0) < -0.1
    assert found[1].gain_interval and found[1].gain_interval[1] < 0


def test_a_class_that_no_label_has_and_one_way_alone_predicts_is_no_gain() -> None:
    plain = matrices(80)
    plain = np.pad(plain, ((0, 0), (0, 1), (0, 1)))
    other = plain.copy()
    other[0, 0, 0] -= 1
    other[0, 0, 2] += 1  # one pixel in 2,400
    names = [*NAMES, "snow"]
    found = compare([Pass("plain", plain, 1.0, True), Pass("d4", other, 8.0, False)], names)
    assert (found[1].miou or 0) < (found[0].miou or 0) - 0.2, "the mIoU counts it"
    assert -0.001 < (found[1].gain or 0) < 0
    low, high = found[1].gain_interval or (-1.0, 1.0)
    assert -0.01 < low <= (found[1].gain or 0) <= high <= 0
    # Nor does a plain model lose its place as the best one by such a pixel.
    worse = np.pad(matrices(70), ((0, 0), (0, 1), (0, 1)))
    assert compare([Pass("a", other, 1.0, True), Pass("b", worse, 1.0, True)], names)[0].gain == 0


def test_few_groups_and_no_label_have_no_interval_and_are_no_error() -> None:
    few = compare(passes(70, 80, groups=7), NAMES)
    assert (few[1].gain or 0) > 0.05 and few[1].gain_interval is None and few[1].as_json()["gain_interval"] is None
    assert "fewer than 8 groups" in table(few)[-1]
    enough = compare(passes(70, 80, groups=8), NAMES)
    assert enough[1].gain_interval is not None and "fewer than" not in "".join(table(enough))
    nothing = [Pass(name, np.zeros((3, 2, 2), np.int64), 1.0, name == "plain") for name in ("plain", "d4")]
    for item in compare(nothing, NAMES):
        assert (item.miou, item.gain, item.gain_interval) == (None, None, None)
    assert "–" in "\n".join(table(compare(nothing, NAMES)))


def test_the_document_and_the_table_say_the_same() -> None:
    found = compare(passes(80, 90), NAMES)
    document = json.loads(json.dumps([item.as_json() for item in found]))
    assert [list(item) for item in document] == [["name", "miou", "seconds", "cost", "gain", "gain_interval"]] * 2
    assert document[1]["gain"] == pytest.approx(found[1].gain) and len(document[1]["gain_interval"]) == 2
    heading, plain, ensemble, words = table(found)
    assert len(heading) == len(plain) == len(ensemble)
    assert plain.split() == ["m0", f"{found[0].miou:.4f}", "+0.0000", "–", "0.5", "1.0"]
    assert ensemble.split()[:3] == ["ensemble", f"{found[1].miou:.4f}", f"{found[1].gain:+.4f}"]
    assert words.startswith("gain: mIoU above m0")
    assert "the best single model" in table([*found, Compared("x", 0.5, 1.0, 2.0, 0.1, None)])[-1]
