"""What lies in the parts of a split: tiles, groups, class shares, as a table and as a document. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landseg.splitting.groups import PARTS, deviation

ALL = "all"
"""The whole, beside the parts, in shares and tables."""


@dataclass(frozen=True)
class Summary:
    """By part: tiles, groups, class → share of its labelled pixels, and the largest difference of such a share from the whole's, 0..1.

    `buffer` tiles are in no part. Of folds the "parts" are ``fold 1`` … and ``test``. `class_share` also has the whole, as `ALL`.
    """

    parts: dict[str, int]
    groups: dict[str, int]
    class_share: dict[str, dict[str, float]]
    deviation: dict[str, float]
    buffer: int = 0

    def as_json(self) -> dict[str, Any]:
        """The keys of a document about a split."""
        return {
            "parts": self.parts,
            "groups": self.groups,
            "class_share": {part: self.class_share[part] for part in self.parts},
            "deviation": {part: round(value, 6) for part, value in self.deviation.items()},
            "buffer": self.buffer,
        }

    def as_text(self) -> str:
        """A table: a line a part, a column a class."""
        names = list(self.class_share[ALL])
        widths = [max(len(name), 6) for name in names]
        head = "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
        lines = [f"{'part':<7} {'tiles':>8} {'groups':>7}  {head}  {'off by':>6}"]
        tiles, groups = {**self.parts, ALL: sum(self.parts.values())}, {**self.groups, ALL: sum(self.groups.values())}
        for part in (*self.parts, ALL):
            shares = "  ".join(f"{share:>{width}.1%}" for share, width in zip(self.class_share[part].values(), widths, strict=True))
            off = f"{self.deviation[part]:>6.1%}" if part in self.deviation else ""
            lines.append(f"{part:<7} {tiles[part]:>8,} {groups[part]:>7,}  {shares}  {off}".rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Splitted:
    """What `split` made.

    Args:
        by: What kept tiles together.
        summary: What lies in the parts, or of folds in each.
        splits: Path of each split and what lies in its parts; several for folds.
        recovery: Facts of the recovered scenes; empty where none were looked for.
        notes: What was asked and could not be had.
        left_out: Tiles that cannot be read.
        files: Everything that was written.
    """

    by: str
    summary: Summary
    splits: dict[Path, Summary]
    recovery: dict[str, Any]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The split's file; of folds, the first."""
        return next(iter(self.splits))

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        folds = [{"split": str(path), **summary.as_json()} for path, summary in self.splits.items()]
        return {
            "split": str(self.path),
            "by": self.by,
            **self.summary.as_json(),
            **self.recovery,
            **({"folds": folds, "never_in_val": self.summary.buffer} if len(folds) > 1 else {}),
            "notes": list(self.notes),
            "left_out": list(self.left_out),
            "files": [str(path) for path in self.files],
        }

    def as_text(self) -> str:
        """The table of the parts, a line or two on the scenes, remarks, and where things lie."""
        lines = [self.summary.as_text()]
        if self.recovery:
            found = self.recovery
            lines.append(
                f"{found['scenes']:,} scenes from {found['source']}: {found['placed']:,} tiles placed, {found['unplaced']:,} alone"
            )
            if found["edges"] and found["source"] == "pixels":
                sure = f"{found['sure']:,} of them 99 % sure, the weakest {found['weakest']:.1%}"
                cut = f"; {found['cut']:,} more were not trusted" if found["cut"] else ""
                lines.append(f"{found['edges']:,} joins, {sure}{cut}")
        if self.summary.buffer:
            where = "never in val" if len(self.splits) > 1 else "in no part"
            lines.append(f"{self.summary.buffer:,} tiles between blocks of large scenes are {where}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *map(str, self.files)])


def summarise(parts: Sequence[str], groups: Sequence[str], class_pixels: np.ndarray, class_names: Sequence[str]) -> Summary:
    """Count what lies in each part.

    Args:
        parts: The part of each tile, "" for one in none.
        groups: The group of each tile.
        class_pixels: (N, K) labelled pixels a tile.
        class_names: K names.
    """
    own = np.asarray(parts, object)
    order = [part for part in PARTS if part in parts] + sorted(set(parts) - {*PARTS, ""}, key=lambda part: (len(part), part))
    order = sorted(order, key=lambda part: part == "test" and any(other not in PARTS for other in order))
    members = {part: own == part for part in order}
    whole = class_pixels[own != ""].sum(0)
    return Summary(
        {part: int(found.sum()) for part, found in members.items()},
        {part: len({groups[i] for i in np.flatnonzero(found).tolist()}) for part, found in members.items()},
        {part: _shares(class_pixels[found].sum(0), class_names) for part, found in members.items()} | {ALL: _shares(whole, class_names)},
        {part: deviation(class_pixels[found].sum(0), whole) for part, found in members.items()},
        int((own == "").sum()),
    )


def _shares(pixels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {name: round(float(count / max(pixels.sum(), 1)), 6) for name, count in zip(names, pixels, strict=True)}
