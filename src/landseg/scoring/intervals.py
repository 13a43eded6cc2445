"""Uncertainty from groups: how far a score may move when other groups of tiles are drawn. It forms no groups and has no score of its own.

Pixels of one tile, and tiles of one scene, resemble each other, so an interval from pixels would be far too narrow. What is drawn again is
therefore the group: the tiles that may not be separated between parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from landseg.core.errors import LandsegError
from landseg.scoring.confusion import class_iou, kappa, mean_iou, overall_accuracy

Interval = tuple[float, float]
"""Lower and upper end, in the unit of the score."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""From a stack of confusion matrices (R, K, K) to one number each (R,); NaN where it has no meaning."""

LEAST_GAIN_GROUPS = 8
"""Fewer give no interval of a gain: the percentile bootstrap of few groups claims far more than it holds (docs/reference/scores.md)."""

LEVEL = 0.95
RESAMPLES = 2000
"""Enough that the ends of a 95 % interval hardly move with the seed. Source: Efron & Tibshirani 1993, chapter 13 (1000 at the least)."""

_BLOCK_BYTES = 32 << 20  # of weights at a time: 60,000 groups take 66 resamples a block


def interval(
    matrices: np.ndarray,
    names: Sequence[str],
    statistic: str | Statistic = "miou",
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap interval of one score over groups.

    Args:
        matrices: (G, K, K) counts, one confusion matrix a group. A group without a scored pixel says nothing and is left out.
        names: K class names in the order of their ids.
        statistic: ``miou``, ``overall_accuracy``, ``kappa``, ``iou/NAME`` or a function of a stack of matrices
            (R, K, K), float64 whole numbers.
        level: Probability that the interval shall cover, 0..1.
        resamples: How often the groups are drawn again.
        seed: The same seed gives the same interval, whatever the machine.

    Returns:
        (low, high), or None where no honest interval exists: fewer than two groups with scored pixels (for ``iou/NAME``: fewer than two
        with that class in label or prediction), or a score that has no meaning in any resample.

    Raises:
        LandsegError: Matrices and names do not fit, an unknown statistic, or a level or number of resamples out of range.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 (drawing whole groups) and 13 (percentile interval).
    """
    groups = _checked(matrices, names, level, resamples)
    if callable(statistic):
        chosen: Statistic = statistic
        telling = len(groups)
    else:
        known = _statistics(names)
        if statistic not in known:
            raise LandsegError("statistic", f"{statistic!r}", f"one of {', '.join(known)}", "name one of them or pass a function")
        chosen, telling = known[statistic], _telling(groups, names, statistic)
    if telling < 2:
        return None
    return _percentiles(np.concatenate([chosen(stack) for stack in _resampled(groups, resamples, seed)]), level)


def intervals(
    matrices: np.ndarray, names: Sequence[str], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval | None]:
    """Percentile bootstrap intervals of all headline scores from the same resamples.

    Args:
        matrices: As for `interval`.
        names: As for `interval`.
        level: As for `interval`.
        resamples: As for `interval`.
        seed: As for `interval`.

    Returns:
        ``miou``, ``overall_accuracy``, ``kappa`` and ``iou/NAME`` for each class → (low, high), or None as `interval` says.

    Raises:
        LandsegError: As for `interval`.
    """
    groups = _checked(matrices, names, level, resamples)
    known = _statistics(names)
    honest = [name for name in known if _telling(groups, names, name) >= 2]
    result: dict[str, Interval | None] = dict.fromkeys(known)
    if honest:
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in honest}
        for stack in _resampled(groups, resamples, seed):
            for name in honest:
                drawn[name].append(known[name](stack))
        result.update({name: _percentiles(np.concatenate(values), level) for name, values in drawn.items()})
    return result


def gain_interval(
    before: np.ndarray, after: np.ndarray, names: Sequence[str], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap interval of the gain in mIoU from one prediction to another of the same groups.

    Both are averaged over the classes that the labels hold (`labelled_miou`), in each resample anew. The same groups are
    drawn for both, so that what makes a group easy or hard for both falls out: the interval is far narrower than two intervals side by
    side suggest.

    Args:
        before: (G, K, K) counts as for `interval`, of the prediction that is compared with.
        after: (G, K, K) counts of the same groups in the same order.
        names: As for `interval`.
        level: As for `interval`.
        resamples: As for `interval`.
        seed: As for `interval`.

    Returns:
        (low, high) of after - before, or None where fewer than `LEAST_GAIN_GROUPS` groups have scored pixels.

    Raises:
        LandsegError: As for `interval`, or the two differ in their groups' labelled pixels.

    Source: Efron & Tibshirani 1993, chapter 8 (paired data are drawn as pairs) and 13 (percentile interval).
    """
    if before.shape != after.shape or not np.array_equal(before.sum(axis=-1), after.sum(axis=-1)):
        raise LandsegError(
            "matrices", "two predictions of other groups or labels", "two predictions of the same groups", "score both on the same part"
        )
    first, second = (_checked(matrices, names, level, resamples) for matrices in (before, after))
    if len(first) < LEAST_GAIN_GROUPS:
        return None
    # From one seed the same groups are drawn for both.
    drawn = zip(_resampled(first, resamples, seed), _resampled(second, resamples, seed), strict=True)
    return _percentiles(np.concatenate([labelled_miou(new) - labelled_miou(old) for old, new in drawn]), level)


def sum_intervals(
    groups: np.ndarray, statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]], level: float = LEVEL, seed: int = 0
) -> dict[str, Interval | None]:
    """Percentile bootstrap intervals of scores that are functions of sums over groups, such as blocks of ground.

    Args:
        groups: (G, ...) float64, the sums of each group. A group of zeros says nothing and is left out.
        statistics: From a stack of sums (R, ...) to one number each (R,) by name; NaN where it has no meaning.
        level: As for `interval`.
        seed: As for `interval`.

    Returns:
        Name → (low, high), or None where fewer than two groups say something, or the score has no meaning in any resample.

    Source: as for `interval`.
    """
    flat = groups.reshape(len(groups), -1)
    told = flat[flat.any(axis=1)]
    names = statistics(np.zeros((1, *groups.shape[1:])))
    if len(told) < 2:
        return dict.fromkeys(names)
    drawn = [statistics((weights @ told).reshape(-1, *groups.shape[1:])) for weights in _weights(len(told), RESAMPLES, seed)]
    return {name: _percentiles(np.concatenate([values[name] for values in drawn]), level) for name in names}


def labelled_miou(matrices: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that the labels hold: (..., K, K) counts → (...) float64, NaN where nothing is scored.

    What two predictions of the same labels are compared by: the mIoU of each may be over other classes, for a class that no label has
    counts as 0 in the one that predicts a pixel of it and is absent from the other.
    """
    is_labelled = matrices.sum(-1) > 0
    sums, counts = np.where(is_labelled, class_iou(matrices), 0).sum(-1), is_labelled.sum(-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _statistics(names: Sequence[str]) -> dict[str, Statistic]:
    def one_class(i: int) -> Statistic:
        return lambda stack: class_iou(stack)[:, i]

    known: dict[str, Statistic] = {"miou": mean_iou, "overall_accuracy": overall_accuracy, "kappa": kappa}
    return known | {f"iou/{name}": one_class(i) for i, name in enumerate(names)}


def _telling(groups: np.ndarray, names: Sequence[str], statistic: str) -> int:
    """How many groups tell something about a score: a class's IoU is told by the groups in which the class occurs."""
    if not statistic.startswith("iou/"):
        return len(groups)
    i = list(names).index(statistic.removeprefix("iou/"))
    return int(np.count_nonzero(groups[:, i, :].any(-1) | groups[:, :, i].any(-1)))


def _resampled(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (R, K, K) float64 of the confusion matrices of resampled groups, `resamples` in all.

    A resample is a row of multinomial weights (how often each group was drawn) times the groups' matrices. Weights and sums are whole
    numbers below 2^53, so float64 is exact and the order in which BLAS adds them does not matter.
    """
    count, size, _ = groups.shape
    flat = groups.reshape(count, size * size)
    used = np.flatnonzero(flat.any(axis=0))  # most pairs of many classes are never confused
    known = flat[:, used].astype(np.float64)
    for weights in _weights(count, resamples, seed):
        stack = np.zeros((len(weights), size * size))
        stack[:, used] = weights @ known
        yield stack.reshape(-1, size, size)


def _weights(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (R, count) float64, `resamples` rows in all: how often each of `count` groups was drawn."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, _BLOCK_BYTES // (8 * count)))
    for start in range(0, resamples, rows):
        weights = np.empty((min(rows, resamples - start), count))
        for row in weights:
            # Counting uniform draws is a multinomial draw, many times faster than `Generator.multinomial` with as many categories as draws.
            row[:] = np.bincount(generator.integers(0, count, count), minlength=count)
        yield weights


def _percentiles(values: np.ndarray, level: float) -> Interval | None:
    defined = values[np.isfinite(values)]  # a class may be absent from a resample: its score is undefined there, not 0
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(matrices: np.ndarray, names: Sequence[str], level: float, resamples: int) -> np.ndarray:
    """The groups with scored pixels (G, K, K)."""
    size = len(names)
    if matrices.ndim != 3 or matrices.shape[1:] != (size, size) or matrices.dtype.kind not in "iu":
        raise LandsegError(
            "matrices", f"{matrices.dtype} of shape {matrices.shape}", f"counts of shape (groups, {size}, {size})",
            "stack one confusion matrix a group",
        )  # fmt: skip
    if not 0 < level < 1 or resamples < 1:
        raise LandsegError("interval", f"level {level}, {resamples} resamples", "0 < level < 1, at least one resample", "use 0.95 and 2000")
    return matrices[matrices.any(axis=(1, 2))]
