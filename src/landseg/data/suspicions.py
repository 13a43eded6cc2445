"""Whether labels were interpolated, count from 1, or have two classes exchanged: what no single file can prove. It reads no file.

Each answer weighs evidence of several kinds and stays silent in doubt; `findings` puts it into words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.data.inspection import COLOURS, LabelFacts, TileFacts
from landseg.data.labels import OTHERS

MANY_GREYS, SMALL_GREY = 8, 0.02
"""So many illegal greys, each of so small a share of a label, look like interpolation or lossy compression, not like unnamed classes."""

MOST_UNNAMED = 64
"""Codes of labels without named classes; more are numbers of parcels."""

TELLING = 0.62
"""Median agreement (area under the ROC curve) of the classes' colours in a tile with those elsewhere; below it, colours tell nothing."""

_BETTER = 0.3  # how much worse than as ids from 1 the colours of a tile must fit as they stand

_FEW_BOTH = 0.1  # of the tiles that hold K: so many may hold 0 too, by a fault of their own
_LEAST_TILES, _LEAST_PIXELS = 8, 32
_OTHER_COLOURS = 0.7  # nats a pixel by which a tile of one class alone looks like the other. Real tiles: none does, of five classes in turn
_RARE, _COMMON = 0.3, 0.6  # share of a class that is rare in nine tiles of ten, and share that makes a tile an oddity among them
_BACKGROUND = ("background", "other", "none", "no ", "non", "背景", "其他", "其它")


def interpolated(labels: Sequence[tuple[TileFacts, LabelFacts]], is_named: bool) -> frozenset[str]:
    """Tiles whose labels have values between their classes, by name.

    Args:
        labels: Tiles with a readable label.
        is_named: The classes are known; illegal values then tell, else the rare ones.
    """
    sure = {tile.name for tile, label in labels if label.blended == "surely" or _has_many_greys(label, is_named)}
    # What is doubtful by itself is not, where others surely are.
    return frozenset(sure | {tile.name for tile, label in labels if sure and label.blended == "perhaps"})


def _has_many_greys(label: LabelFacts, is_named: bool) -> bool:
    whole = label.size[0] * label.size[1]
    every = sorted([*label.pixels.values(), *label.illegal.values()], reverse=True)
    rare = [count for value, count in label.illegal.items() if value != OTHERS] if is_named else every[MANY_GREYS:]
    # Classes without a name, or instance numbers, cover ground; what interpolation leaves are many thin borders around few values.
    is_thin = len(rare) >= MANY_GREYS and float(np.median(rare)) < SMALL_GREY * whole
    return is_thin and sum(rare) < 0.5 * whole and sum(every[:MANY_GREYS]) >= 0.7 * sum(every)


def count_from_one(labels: Sequence[tuple[TileFacts, LabelFacts]], classes: int) -> frozenset[str]:
    """Tiles whose ids seem to run 1..K instead of 0..K-1.

    Args:
        labels: Tiles with a readable label.
        classes: Their number K; 0 where nobody has named them.

    Returns:
        Names: of all tiles when no label holds a 0 beside a class, else of those that hold K, other classes, and no 0. None where others
        hold both 0 and K: then 0 is unlabelled throughout, or K a class without a name.
    """
    codes = {code for _, label in labels for code in label.pixels} - {IGNORE_INDEX}
    if not classes:
        is_shifted = min(codes, default=0) == 1 and 1 < max(codes) <= MOST_UNNAMED
        return frozenset(tile.name for tile, label in labels if label.labelled) if is_shifted else frozenset()
    # A tile of the value K alone more likely holds a class without a name.
    last = [(tile.name, label) for tile, label in labels if set(label.illegal) == {classes} and label.labelled]
    shifted = [name for name, label in last if 0 not in label.pixels]
    if shifted and not any(0 in label.pixels and label.pixels.keys() - {0, IGNORE_INDEX} for _, label in labels):
        return frozenset(tile.name for tile, label in labels if label.labelled or label.illegal)
    return frozenset(shifted if len(last) - len(shifted) <= _FEW_BOTH * len(shifted) else ())


def also_from_one(usual: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which tiles have the colours of the classes one id below theirs: their labels count from 1 too, though no value tells.

    Args:
        usual: (N, K, C) mean colours of the K classes in tiles that count from 0; NaN where a class is absent.
        asked: (M, K, C) the same of the tiles in doubt.

    Returns:
        (M,) bool.
    """
    present = np.isfinite(usual).all(2)
    number = np.maximum(present.sum(0), 1)[:, None]
    mean = np.where(present[:, :, None], usual, 0).sum(0) / number
    apart = np.where(present[:, :, None], usual - mean, 0)
    # A class that occurs once has no spread of its own.
    spread = np.sqrt((apart**2).sum(0) / number) + 0.03 * (np.nanmax(usual) - np.nanmin(usual))
    known = present.any(0)
    down = np.full(asked.shape, np.nan)
    down[:, :-1] = asked[:, 1:]

    def misfit(colours: np.ndarray) -> np.ndarray:
        terms = np.where(known[:, None], ((colours - mean) / spread) ** 2, np.nan)
        counted = np.isfinite(terms).sum((1, 2))
        return np.asarray(np.where(counted > 0, np.nansum(terms, (1, 2)) / np.maximum(counted, 1), np.inf))

    several = np.isfinite(asked).all(2).sum(1) > 1
    is_zero_free = ~np.isfinite(asked[:, 0]).all(1)
    return np.asarray(several & is_zero_free & (misfit(down) < _BETTER * misfit(asked)))


def is_inverted_throughout(labels: Sequence[LabelFacts], first_class: str) -> bool:
    """Whether what is called background lies as islands in the other class, all over the set."""
    if not first_class.lower().startswith(_BACKGROUND):
        return False
    islands = np.array([label.two.islands for label in labels if label.two is not None]).reshape(-1, 2).sum(0)
    shares = [label.pixels.get(1, 0) / label.labelled for label in labels]
    return bool(np.mean(shares) > _COMMON and islands[0] > 1.5 * islands[1] and islands[0] > len(labels))


def inverted_tiles(tiles: Sequence[tuple[TileFacts, LabelFacts]]) -> tuple[str, ...]:
    """Tiles in which two classes seem exchanged, by name.

    The share of the ground must become a more usual one by exchanging them; and either their colours say so, or the share is out of all
    proportion and the colours do not object.

    Args:
        tiles: Tiles with evidence on two classes.
    """
    if len(tiles) < _LEAST_TILES:
        return ()
    share = np.array([label.pixels.get(1, 0) / label.labelled for _, label in tiles])
    usual = np.median(share)
    is_rarer = np.abs(1 - share - usual) < np.abs(share - usual)
    agreement, other = _agreement([label.two.colours if label.two else None for _, label in tiles])
    known = agreement[np.isfinite(agreement)]
    typical = float(np.median(known)) if len(known) >= _LEAST_TILES else 0.5
    says_so = np.zeros(len(tiles), bool)
    objects = np.zeros(len(tiles), bool)
    if typical >= TELLING:
        # Exchanged, a typical tile would agree as much less than one half as it now agrees more.
        says_so = (agreement < 0.5 - 0.6 * (typical - 0.5)) | (other > _OTHER_COLOURS)
        objects = (agreement > 0.5 + 0.4 * (typical - 0.5)) | (other < -_OTHER_COLOURS)
    common = np.quantile(share, (0.1, 0.9))
    is_odd = ((common[1] < _RARE) & (share > _COMMON)) | ((common[0] > 1 - _RARE) & (share < 1 - _COMMON))
    found = is_rarer & (says_so | (is_odd & ~objects))
    return tuple(tile.name for (tile, _), is_found in zip(tiles, found, strict=True) if is_found)


def _agreement(colours: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """How well the classes' colours in each tile agree with those of all other tiles.

    Returns:
        (N,) area under the ROC curve where a tile holds both classes; (N,) nats a pixel by which it looks like the other class where it
        holds one; NaN elsewhere.
    """
    counts = np.stack([np.zeros((2, COLOURS)) if found is None else found.astype(np.float64) for found in colours])
    totals = counts.sum(2)
    holds = totals >= _LEAST_PIXELS
    # Each tile has one vote a class, whatever its size and shares.
    shares = np.divide(counts, totals[:, :, None], out=np.zeros_like(counts), where=holds[:, :, None])
    votes, sums = holds.sum(0), shares.sum(0)
    agreement, other = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    for i, share in enumerate(shares):
        elsewhere = (sums - share + 1 / COLOURS) / (votes - holds[i] + 1)[:, None]
        for_second = np.log(elsewhere[1] / elsewhere[0])
        if holds[i].all():
            order = np.argsort(for_second, kind="stable")
            below = np.cumsum(share[0][order]) - share[0][order] / 2
            agreement[i] = float((share[1][order] * below).sum())
        elif holds[i].any():
            other[i] = float((share[0] * for_second).sum() - (share[1] * for_second).sum())
    return agreement, other
