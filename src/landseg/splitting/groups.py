"""Assign groups of tiles to parts. It does not find the groups: names, georeference and pixels do, elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose

import numpy as np

from landseg.core.errors import LandsegError

PARTS = ("train", "val", "test")


def assign(groups: Sequence[str], val: float, test: float, seed: int) -> list[str]:
    """Give every tile the part of its group; no group is divided.

    Groups are drawn in a random order and fill test, then val, until each is as close to its share as whole groups allow.

    Args:
        groups: One group a tile.
        val: Share of the tiles for validation, 0 < val < 1.
        test: Share for testing, 0 ≤ test < 1.
        seed: Of the draw.

    Returns:
        ``train``, ``val`` or ``test`` for each tile.

    Raises:
        LandsegError: The shares leave a part empty, or there are too few groups.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise LandsegError(
            "split", f"val {val:g} and test {test:g}", "shares from 0 to 1 that leave something to train on", "for example --val 0.1"
        )
    names, inverse, sizes = np.unique(np.asarray(groups, dtype=object), return_inverse=True, return_counts=True)
    wanted = {"test": test * len(groups), "val": val * len(groups)}
    part_of = np.full(len(names), "train", dtype=object)
    order = iter(np.random.Generator(np.random.PCG64(seed)).permutation(len(names)).tolist())
    for part, target in wanted.items():
        filled = 0
        for group in order if target else ():
            part_of[group] = part
            filled += int(sizes[group])
            following = filled + len(groups) / len(names)
            if filled >= target or isclose(filled, target) or abs(following - target) > abs(filled - target):
                break
    parts = [str(part) for part in part_of[inverse]]
    empty = [part for part in PARTS if part not in parts and (part != "test" or test)]
    if empty:
        raise LandsegError(
            "split", f"val {val:g} and test {test:g} of {len(groups)} tiles in {len(names)} groups leave {' and '.join(empty)} empty",
            "at least one group in each part", "add tiles, or choose other shares with --val and --test",
        )  # fmt: skip
    return parts
