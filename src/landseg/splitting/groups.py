"""Assign groups of tiles to parts or folds, each part's class shares as near the whole's as can be. It does not find the groups.

A search by exchanges: from a start that the seed draws, the best move of a group or exchange of two is made until none is better. Where few
groups leave few choices every one is looked at, and the best result of several starts is disturbed and improved again and again (iterated
local search; Lourenço, Martin & Stützle 2003). Among many groups samples are looked at, there are so many good choices that they hold one.
Measured beside the same problem made linear and given to an integer programme (HiGHS): as near with two parts and nearer with three, in a
third of the time, and no limit in time on which the result would depend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from landseg.core.errors import LandsegError

PARTS = ("train", "val", "test")

_ALL = 6_000
"""Exchanges of a step that are all looked at; of more, a sample of `_SAMPLE`."""

_SAMPLE, _PATIENCE = 4_000, 8
_STARTS, _KICKS = 24, 300
_STEPS = 400
_GOOD = 1e-9

# What an assignment is judged by, part by part. Sizes come first: a fiftieth more or less than asked is near enough, and each hundredth
# beyond costs as much as class shares that are 0.02 further away (the root of the sum of their squared differences over the shares).
_NEAR, _SLOPE, _STEEP = 0.02, 0.5, 2.0
_UNLABELLED = 0.3
_NO_LABELS, _EMPTY = 5.0, 1_000.0
_NEVER, _RATHER_NOT = 50.0, 1.0
_LIKING = 0.05
"""How much the seed's liking of groups counts: enough to choose among assignments that are nearly as good, so that seeds differ."""


@dataclass(frozen=True)
class Assignment:
    """Which part each tile is in, and how near that comes to what was asked.

    Args:
        parts: One name a tile: ``train``, ``val`` or ``test``; of folds ``fold 1`` … ``fold K`` or ``test``.
        deviation: By part, the largest difference between a class's share of its labelled pixels and that of all, 0..1.
        compromises: What was asked and could not be had, in words.
    """

    parts: tuple[str, ...]
    deviation: dict[str, float]
    compromises: tuple[str, ...] = ()


def assign(
    groups: Sequence[str],
    val: float,
    test: float,
    seed: int,
    *,
    folds: int | None = None,
    class_pixels: np.ndarray | None = None,
    tile_pixels: np.ndarray | None = None,
    is_unplaced: np.ndarray | None = None,
) -> Assignment:
    """Give every tile the part of its group; no group is divided.

    Args:
        groups: One group a tile.
        val: Share of the tiles for validation, 0 < val < 1; not looked at when there are folds.
        test: Share for testing, 0 ≤ test < 1; the same tiles for every fold.
        seed: Chooses among assignments that are nearly as good.
        folds: Number of folds, 2 or more; None makes train, val and test.
        class_pixels: (N, K) labelled pixels of each class a tile; None looks at the number of tiles alone.
        tile_pixels: (N,) pixels a tile; with it the unlabelled share is balanced too.
        is_unplaced: (N,) bool, tiles whose place was not recognised: they train, as long as there are others to fill val and test.

    Raises:
        LandsegError: The shares leave nothing to train on, or there are fewer groups than parts.
    """
    check_shares(val, test, folds)
    shares = {"train": 1 - val - test, "val": val} if folds is None else {f"fold {k}": (1 - test) / folds for k in range(1, folds + 1)}
    shares |= {"test": test} if test else {}
    names, inverse = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < len(shares):
        raise LandsegError(
            "split", f"{len(groups)} tiles in {len(names)} group{'' if len(names) == 1 else 's'}",
            f"at least {len(shares)} groups: one each for {', '.join(shares)}, and none may be divided",
            "add tiles of other places, ask for fewer parts, or split --by random and distrust the val score",
        )  # fmt: skip
    counted = np.zeros((len(groups), 0)) if class_pixels is None else np.asarray(class_pixels, np.float64)
    unlabelled = np.zeros(len(groups)) if tile_pixels is None else np.maximum(np.asarray(tile_pixels, np.float64) - counted.sum(1), 0)
    unplaced = np.zeros(len(groups)) if is_unplaced is None else np.asarray(is_unplaced, np.float64)
    of_tiles = np.column_stack([np.ones(len(groups)), unplaced, unlabelled, counted])
    amounts = np.zeros((len(names), of_tiles.shape[1]))
    np.add.at(amounts, inverse, of_tiles)
    wants_places = ("val", "test") if folds is None else ("test",)
    search = _Search(amounts, shares, np.random.Generator(np.random.PCG64(seed)), wants_places)
    part_of = search.run()
    totals = search.totals(part_of)
    words = list(shares)
    return Assignment(
        tuple(words[i] for i in part_of[inverse]),
        {part: deviation(totals[i, 3:], totals[:, 3:].sum(0)) for i, part in enumerate(words)},
        tuple(_compromises(words, totals, list(shares.values()), len(names), wants_places)),
    )


def check_shares(val: float, test: float, folds: int | None = None) -> None:
    """Refuse shares that no assignment can have, before a long search for groups.

    Raises:
        LandsegError: They leave nothing to train on, or are no shares.
    """
    if folds is not None and not (folds >= 2 and 0 <= test < 1):
        raise LandsegError("split", f"{folds} folds and test {test:g}", "2 or more folds and a share below 1", "for example --folds 5")
    if folds is None and not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise LandsegError(
            "split", f"val {val:g} and test {test:g}", "shares from 0 to 1 that leave something to train on", "for example --val 0.1"
        )


def deviation(pixels: np.ndarray, whole: np.ndarray) -> float:
    """Largest difference between a class's share in `pixels` (K,) and in `whole` (K,), 0..1; 0 where either holds none."""
    if not (pixels.sum() and whole.sum()):
        return 0.0
    return float(np.abs(pixels / pixels.sum() - whole / whole.sum()).max())


def _compromises(words: Sequence[str], totals: np.ndarray, shares: Sequence[float], groups: int, wants_places: Sequence[str]) -> list[str]:
    """What differs from what was asked by more than the reader would expect: sizes, unplaced tiles, parts without a class."""
    tiles = totals[:, 0].sum()
    said = []
    for i, part in enumerate(words):
        found = totals[i, 0] / tiles
        if abs(found - shares[i]) > max(0.1 * shares[i], 1 / tiles):
            said.append(f"{part} holds {found:.1%} of the tiles, {shares[i]:.1%} was asked: none of the {groups} groups is divided")
        if part in wants_places and totals[i, 1]:
            wanted = tiles * sum(share for word, share in zip(words, shares, strict=True) if word in wants_places)
            why = "there are not enough others" if tiles - totals[:, 1].sum() < wanted else "the groups of the others do not fit it"
            said.append(f"{part} holds {int(totals[i, 1]):,} tiles whose place was not recognised: {why}")
    missing = [(part, int((totals[i, 3:] == 0)[totals[:, 3:].sum(0) > 0].sum())) for i, part in enumerate(words) if totals.shape[1] > 3]
    said += [f"{part} has no pixel of {count} class{'' if count == 1 else 'es'} that others have" for part, count in missing if count]
    return said


class _Search:
    """The search for one assignment.

    Args:
        amounts: (G, 3 + K) float64 a group: tiles, unplaced tiles, unlabelled pixels, pixels of each class.
        shares: Part → share of the tiles that was asked.
        rng: Draws the starts, the samples and the liking.
        wants_places: Parts that should hold no unplaced tile.
    """

    def __init__(self, amounts: np.ndarray, shares: Mapping[str, float], rng: np.random.Generator, wants_places: Sequence[str]) -> None:
        self._rng, self._parts = rng, len(shares)
        whole = amounts.sum(0)
        self._target = np.array(list(shares.values())) * whole[0]
        wanted = np.array([part in wants_places for part in shares])
        is_enough = whole[0] - whole[1] >= self._target[wanted].sum()
        self._places = wanted * (_NEVER if is_enough else _RATHER_NOT)
        # So many tiles of placed groups are kept for the parts that want places, which are the last.
        self._held = float(self._target[wanted].sum()) if whole[1] else 0.0
        self._likes = wanted if wanted.any() else np.ones(len(shares), bool)
        labelled = whole[3:].sum()
        kept = np.flatnonzero(whole[3:] > 0) + 3
        self._share = whole[kept] / max(labelled, 1)
        self._unlabelled = whole[2] / max(labelled + whole[2], 1)
        # Tiles, unplaced, liking (tiles weighted by lot), unlabelled, classes.
        # Where no classes are to be balanced the start is by lot already.
        liking = amounts[:, 0] * rng.random(len(amounts)) * (len(kept) > 0)
        self._amounts = np.column_stack([amounts[:, :2], liking, amounts[:, 2], amounts[:, kept]])
        self._given = amounts

    def totals(self, part_of: np.ndarray) -> np.ndarray:
        """(P, 3 + K) amounts of the parts."""
        return self._sum(self._given, part_of)

    def run(self) -> np.ndarray:
        """(G,) number of the part of each group."""
        count = len(self._amounts)
        is_few = count * (count + 2 * self._parts) / 2 <= _ALL
        best = self._start()
        least = self._improve(best, is_few=is_few)
        for _ in range(max(2, min(_STARTS, _ALL // count)) - 1):
            part_of = self._start()
            cost = self._improve(part_of, is_few=is_few) if least > _GOOD else least
            if cost < least:
                best, least = part_of, cost
        for _ in range(_KICKS if is_few and least > _GOOD else 0):
            part_of = self._kicked(best)
            cost = self._improve(part_of, is_few=is_few)
            if cost <= least:
                best, least = part_of, cost
        return best

    def _kicked(self, part_of: np.ndarray) -> np.ndarray:
        """An assignment with two to four groups exchanged or moved by lot: near a good one there often is a better."""
        kicked = part_of.copy()
        for _ in range(self._rng.integers(2, 5)):
            one, other = self._rng.integers(0, len(kicked), 2)
            if kicked[one] == kicked[other]:
                kicked[one] = self._rng.integers(0, self._parts)
            else:
                kicked[[one, other]] = kicked[[other, one]]
        return kicked

    def _sum(self, amounts: np.ndarray, part_of: np.ndarray) -> np.ndarray:
        totals = np.zeros((self._parts, amounts.shape[1]))
        np.add.at(totals, part_of, amounts)
        return totals

    def _start(self) -> np.ndarray:
        """Groups in a drawn order fill one part after the other; placed ones are held back for the parts that want places."""
        order = self._rng.permutation(len(self._amounts))
        if self._held:
            room = np.where(self._amounts[order, 1] == 0, self._amounts[order, 0], 0)
            is_held = (room > 0) & (room[::-1].cumsum()[::-1] - room < self._held)
            order = np.concatenate([order[~is_held], order[is_held]])
        sizes = self._amounts[order, 0]
        part_of = np.zeros(len(order), np.int64)
        part_of[order] = np.minimum(np.searchsorted(self._target.cumsum(), sizes.cumsum() - sizes / 2, side="right"), self._parts - 1)
        return part_of

    def _improve(self, part_of: np.ndarray, *, is_few: bool) -> float:
        """Make the best exchange until there is none; `part_of` is changed. Returns the cost."""
        totals = self._sum(self._amounts, part_of)
        costs = self._cost(totals, np.arange(self._parts))
        tired = 0
        for _ in range(_STEPS):
            first, second, goal = self._exchanges(part_of, is_few=is_few)
            here = part_of[first]
            # `first` goes to `goal`; `second` comes back, where there is one.
            moved = self._amounts[first] - np.where((second >= 0)[:, None], self._amounts[second], 0)
            gain = costs[here] + costs[goal] - self._cost(totals[here] - moved, here) - self._cost(totals[goal] + moved, goal)
            chosen = int(gain.argmax()) if len(gain) else -1
            if chosen < 0 or gain[chosen] <= 1e-9:
                tired += 1
                if is_few or tired > _PATIENCE:
                    break
                continue
            tired = 0
            a, b = int(here[chosen]), int(goal[chosen])
            part_of[first[chosen]] = b
            if second[chosen] >= 0:
                part_of[second[chosen]] = a
            totals[a] -= moved[chosen]
            totals[b] += moved[chosen]
            costs[[a, b]] = self._cost(totals[[a, b]], np.array([a, b]))
        return float(costs.sum())

    def _exchanges(self, part_of: np.ndarray, *, is_few: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(M,) each: the group that goes, the one that comes back (-1: none), and the part it goes to; all of them, or a sample."""
        count = len(part_of)
        if is_few:
            movers, goals = (grid.ravel() for grid in np.meshgrid(np.arange(count), np.arange(self._parts), indexing="ij"))
            left, right = np.triu_indices(count, 1)
        else:
            movers, goals = self._rng.integers(0, count, _SAMPLE // 4), self._rng.integers(0, self._parts, _SAMPLE // 4)
            left, right = self._pairs(part_of)
        moves, swaps = goals != part_of[movers], part_of[left] != part_of[right]
        first = np.concatenate([movers[moves], left[swaps]])
        second = np.concatenate([np.full(int(moves.sum()), -1), right[swaps]])
        return first, second, np.concatenate([goals[moves], part_of[right[swaps]]])

    def _pairs(self, part_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A sample of pairs, the first from any part alike, so that a small val is not passed over."""
        part = self._rng.integers(0, self._parts, _SAMPLE)
        order = np.argsort(part_of, kind="stable")
        counts = np.bincount(part_of, minlength=self._parts)
        places = (np.concatenate([[0], counts.cumsum()[:-1]])[part] + self._rng.random(_SAMPLE) * counts[part]).astype(np.int64)
        return order[np.minimum(places, len(order) - 1)], self._rng.integers(0, len(order), _SAMPLE)

    def _cost(self, totals: np.ndarray, part: np.ndarray) -> np.ndarray:
        """What the parts numbered `part` (M,) cost with these `totals` (M, D)."""
        tiles, unplaced, liking, unlabelled, pixels = totals[:, 0], totals[:, 1], totals[:, 2], totals[:, 3], totals[:, 4:]
        target = self._target[part]
        off = np.abs(tiles / target - 1)
        cost = _SLOPE * off + _STEEP * np.maximum(off - _NEAR, 0)
        cost = cost + (self._places[part] * unplaced + _LIKING * self._likes[part] * liking) / target
        if len(self._share):
            labelled = pixels.sum(1)
            shares = pixels / np.maximum(labelled, 1)[:, None]
            apart = np.sqrt(((shares - self._share) ** 2 / self._share).sum(1))
            cost = cost + np.where(labelled > 0, apart, _NO_LABELS)
            cost = cost + _UNLABELLED * np.abs(unlabelled / np.maximum(labelled + unlabelled, 1) - self._unlabelled)
        return np.where(tiles > 0.5, cost, _EMPTY)
