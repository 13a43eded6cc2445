"""Assign groups of tiles to parts. It does not find the groups: names, georeference and pixels do, elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.core.errors import LandsegError

PARTS = ("train", "val", "test")


def assign(groups: Sequence[str], val: float, test: float, seed: int) -> list[str]:
    """Give every tile the part of its group; no group is divided.

    Groups are drawn in a random order and fill test, then val; one that would bring the part further from its share is passed over.

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
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names)).tolist()
    for part, target in wanted.items():
        filled = 0
        free = [group for group in order if part_of[group] == "train"]
        for group in free if target else ():
            # Half way between two counts the larger one is taken; rounding may not tell them apart.
            if filled < target and filled + sizes[group] / 2 <= target + 1e-9 * len(groups):
                part_of[group] = part
                filled += int(sizes[group])
        if target and free and not filled:
            part_of[min(free, key=lambda group: sizes[group])] = part
    parts = [str(part) for part in part_of[inverse]]
    empty = [part for part in PARTS if part not in parts and (part != "test" or test)]
    if empty:
        raise LandsegError(
            "split", f"val {val:g} and test {test:g} of {len(groups)} tiles in {len(names)} groups leave {' and '.join(empty)} empty",
            "at least one group in each part", "add tiles, or choose other shares with --val and --test",
        )  # fmt: skip
    return parts
