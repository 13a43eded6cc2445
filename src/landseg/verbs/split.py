"""`landseg split`: decide which tiles train and which validate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing
from landseg.data.dataset import open_dataset
from landseg.data.pack import open_tiles
from landseg.splitting.assignment import Placed, Split, split_path, write_split
from landseg.splitting.groups import PARTS, assign

log = logging.getLogger("landseg")

BY = ("random",)


@dataclass(frozen=True)
class Splitted:
    """What `split` made: its file, and for each part the tiles, the groups and the shares of the labelled pixels by class."""

    path: Path
    parts: dict[str, int]
    groups: dict[str, int]
    class_share: dict[str, dict[str, float]]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {
            "split": str(self.path),
            "parts": self.parts,
            "groups": self.groups,
            "class_share": self.class_share,
            "left_out": list(self.left_out),
        }

    def as_text(self) -> str:
        """A table: a line a part, a column a class."""
        names = list(next(iter(self.class_share.values())))
        widths = [max(len(name), 6) for name in names]
        lines = [
            f"{'part':<6} {'tiles':>7} {'groups':>7}  " + "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
        ]
        for part, tiles in self.parts.items():
            shares = "  ".join(f"{share:>{width}.1%}" for share, width in zip(self.class_share[part].values(), widths, strict=True))
            lines.append(f"{part:<6} {tiles:>7,} {self.groups[part]:>7,}  {shares}")
        return "\n".join([*lines, str(self.path)])


def split(
    data: str | Path,
    *,
    by: str = "random",
    val: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    name: str | None = None,
    overwrite: bool = False,
) -> Splitted:
    """Assign the tiles of a data set to train, val and test.

    Args:
        data: Dataset folder with labels.
        by: ``random``: every tile is a group of its own. Neighbours then lie on both sides, so the validation score flatters.
        val: Share of the tiles for validation.
        test: Share of the tiles for testing.
        seed: Of the draw.
        name: Of the split; that of `by` when None.
        overwrite: Replace a split of that name.

    Returns:
        The split's file and shares.

    Raises:
        LandsegError: No labels, too few tiles, an existing split.
    """
    if by not in BY:
        raise LandsegError("--by", f"{by!r}", f"one of {', '.join(BY)}", "choose one of them")
    dataset = open_dataset(Path(data))
    dataset.require_labels("a split")
    chosen = name or by
    refuse_existing(split_path(dataset, chosen), overwrite=overwrite)
    store = open_tiles(dataset)
    tiles = [entry.name for entry in store.entries]
    parts = assign(tiles, val, test, seed)
    log.info(
        "split: by random, tiles of one scene lie in train and in val alike, so the val score will be higher than the score on new places"
    )
    path = write_split(dataset, Split(chosen, tuple(Placed(tile, part, tile) for tile, part in zip(tiles, parts, strict=True))))
    readable = set(tiles)
    pixels = np.array([entry.class_pixels for entry in store.entries], np.int64)
    return Splitted(
        path,
        {part: parts.count(part) for part in PARTS if part in parts},
        {part: parts.count(part) for part in PARTS if part in parts},
        {part: _shares(pixels[[p == part for p in parts]], dataset.class_names) for part in PARTS if part in parts},
        tuple(tile.name for tile in dataset.tiles if tile.name not in readable),
    )


def _shares(pixels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    total = pixels.sum(axis=0)
    return {name: round(float(count / max(total.sum(), 1)), 6) for name, count in zip(names, total, strict=True)}
