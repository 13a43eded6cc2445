"""Intervals cover what they claim to cover, are the same every time, and are absent where no honest one exists."""

from __future__ import annotations

import numpy as np
import pytest

from landseg.core.errors import LandsegError
from landseg.scoring.confusion import mean_iou, overall_accuracy
from landseg.scoring.intervals import gain_interval, interval, intervals

NAMES = ["field", "forest", "water"]


def groups(count: int, seed: int, pixels: int = 400) -> np.ndarray:
    """(count, 3, 3): groups whose accuracy differs as that of scenes does: 0.8 on average, half of the pixels in each class's turn."""
    random = np.random.default_rng(seed)
    accuracy = random.beta(8, 2, count)
    share = random.dirichlet([2, 2, 2], count)
    labelled = np.stack([random.multinomial(pixels, one) for one in share])
    right = random.binomial(labelled, accuracy[:, None])
    other = random.binomial(labelled - right, 0.5)
    result = np.zeros((count, 3, 3), np.int64)
    for k in range(3):
        result[:, k, k], result[:, k, k - 1], result[:, k, k - 2] = right[:, k], other[:, k], labelled[:, k] - right[:, k] - other[:, k]
    return result


@pytest.mark.parametrize(("statistic", "score"), [("overall_accuracy", overall_accuracy), ("miou", mean_iou)])
def test_a_95_percent_interval_covers_the_truth_about_95_times_in_a_hundred(statistic: str, score: object) -> None:
    truth = float(score(groups(200_000, 1).sum(0)))  # type: ignore[operator]
    covered = 0
    for seed in range(150):
        low, high = interval(groups(40, 100 + seed), NAMES, statistic, resamples=400) or (1.0, 0.0)
        covered += low <= truth <= high
    assert 0.87 <= covered / 150 <= 0.99  # three standard errors about the percentile bootstrap's slight undercoverage


def test_pixels_as_groups_would_be_far_too_sure() -> None:
    several = groups(40, 5)
    low, high = interval(several, NAMES, "overall_accuracy") or (0.0, 0.0)
    right = float(overall_accuracy(several.sum(0)))
    binomial = 2 * 1.96 * (right * (1 - right) / several.sum()) ** 0.5
    assert high - low > 3 * binomial


def test_more_groups_narrow_the_interval() -> None:
    widths = []
    for count in (10, 40, 160, 640):
        each = [interval(groups(count, seed), NAMES, resamples=500) or (0.0, 0.0) for seed in range(5)]
        widths.append(np.mean([high - low for low, high in each]))
    assert widths == sorted(widths, reverse=True)
    assert widths[0] / widths[-1] == pytest.approx(8, rel=0.4)  # as the square root of the number


def test_same_seed_same_interval_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    several = groups(30, 7)
    first = intervals(several, NAMES)
    monkeypatch.setattr("landseg.scoring.intervals._BLOCK_BYTES", 8 * 30 * 7)
    assert intervals(several, NAMES) == first
    assert intervals(several, NAMES, seed=1) != first


def test_all_at_once_equals_one_by_one_and_holds_the_score() -> None:
    several = groups(30, 8)
    together = intervals(several, NAMES, resamples=300)
    assert list(together) == ["miou", "overall_accuracy", "kappa", "iou/field", "iou/forest", "iou/water"]
    for name, both in together.items():
        assert both == interval(several, NAMES, name, resamples=300)
    low, high = together["miou"] or (1.0, 0.0)
    assert 0 < low < float(mean_iou(several.sum(0))) < high < 1
    assert together["miou"] == interval(several, NAMES, mean_iou, resamples=300)


def test_a_wider_level_encloses_a_narrower_one() -> None:
    narrow, wide = (interval(groups(30, 9), NAMES, level=level) or (0.0, 0.0) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_no_interval_without_two_groups() -> None:
    none = dict.fromkeys(["miou", "overall_accuracy", "kappa", "iou/field", "iou/forest", "iou/water"])
    assert intervals(groups(1, 1), NAMES) == none
    assert intervals(np.zeros((0, 3, 3), int), NAMES) == none
    assert intervals(np.zeros((5, 3, 3), int), NAMES) == none  # all ignored
    assert interval(groups(1, 1), NAMES) is None
    alone = np.concatenate([groups(1, 1), np.zeros((9, 3, 3), int)])  # empty groups do not count
    assert interval(alone, NAMES, overall_accuracy) is None


def test_a_class_in_one_group_only_has_no_interval_of_its_own() -> None:
    several = groups(20, 3)
    several[1:, 2] = several[1:, :, 2] = 0
    result = intervals(several, NAMES, resamples=300)
    assert result["iou/water"] is None is interval(several, NAMES, "iou/water")
    assert result["miou"] is not None and result["iou/field"] is not None
    several[1, 2, 2] = 5
    assert interval(several, NAMES, "iou/water") is not None  # undefined in the resamples that drew neither group, and left out there


def test_equal_groups_leave_no_doubt() -> None:
    low, high = interval(np.repeat(groups(1, 4), 12, axis=0), NAMES) or (0.0, 1.0)
    assert low == pytest.approx(high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistic": "iou/road"}, "'iou/road', one of miou, overall_accuracy"),
        ({"level": 95.0}, "0 < level < 1"),
        ({"resamples": 0}, "at least one resample"),
        ({"names": ["field", "forest"]}, r"\(groups, 2, 2\)"),
        ({"matrices": groups(3, 1).astype(float)}, "counts of shape"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(LandsegError, match=message):
        interval(**({"matrices": groups(3, 1), "names": NAMES} | change))  # type: ignore[arg-type]


def better(before: np.ndarray, share: float = 0.3) -> np.ndarray:
    """The same groups with a share of each error mended."""
    after = before.copy()
    for k in range(3):
        for wrong in (k - 1, k - 2):
            mended = (before[:, k, wrong] * share).astype(np.int64)
            after[:, k, wrong] -= mended
            after[:, k, k] += mended
    return after


def test_a_gain_is_drawn_in_pairs() -> None:
    before = groups(40, 11)
    after = better(before)
    low, high = gain_interval(before, after, NAMES) or (0.0, 0.0)
    gain = float(mean_iou(after.sum(0)) - mean_iou(before.sum(0)))
    assert 0 < low < gain < high
    alone = [interval(matrices, NAMES) or (0.0, 0.0) for matrices in (before, after)]
    assert alone[0][1] > alone[1][0], "side by side the two intervals overlap"
    assert high - low < min(b - a for a, b in alone) / 2
    assert gain_interval(after, before, NAMES) == pytest.approx((-high, -low), abs=1e-9)
    assert gain_interval(before, before, NAMES) == (0.0, 0.0)
    assert gain_interval(before, after, NAMES) == (low, high)


def test_an_interval_of_no_gain_holds_zero_about_95_times_in_a_hundred() -> None:
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        first, second = better(groups(30, 500 + seed), 0.1), better(groups(30, 500 + seed), 0.1)
        swap = random.random(30) < 0.5  # which of two predictions is better is a coin's toss in each group
        worse = groups(30, 500 + seed)
        first[swap], second[~swap] = worse[swap], worse[~swap]
        low, high = gain_interval(first, second, NAMES, resamples=300) or (1.0, -1.0)
        held += low <= 0 <= high
    assert 88 <= held <= 98  # three standard errors either way, but for the percentile bootstrap's slight undercoverage


def test_few_groups_claim_more_than_they_hold() -> None:
    """What docs/reference/scores.md says of it, and why a gain has no interval below eight groups."""
    truth = float(overall_accuracy(groups(200_000, 1).sum(0)))
    held = {}
    for count in (2, 8):
        spans = [interval(groups(count, 1000 + seed), NAMES, "overall_accuracy", resamples=400) or (1.0, 0.0) for seed in range(150)]
        held[count] = sum(low <= truth <= high for low, high in spans) / 150
    assert 0.35 < held[2] < 0.6 and 0.8 < held[8] < 0.93


def test_a_gain_needs_eight_groups_and_the_same_labels() -> None:
    several = groups(8, 3)
    assert gain_interval(several, several, NAMES) == (0.0, 0.0)
    assert gain_interval(several[:7], several[:7], NAMES) is None
    silent = several.copy()
    silent[1:] = 0
    assert gain_interval(silent, silent, NAMES) is None
    for other in (several[:4], groups(8, 4)):
        with pytest.raises(LandsegError, match="the same groups"):
            gain_interval(several, other, NAMES)
