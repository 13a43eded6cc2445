"""What a prepare made: counted for programs, in a few lines for people. It makes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from landseg.data.cutting import SceneCut

NAMED = 5
"""Things that are named one by one before they are only counted."""


class Unreadable(NamedTuple):
    """A tile that cannot be used: its name, the file in question as the user knows it, and why."""

    tile: str
    file: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What a prepare made.

    Args:
        dataset: The dataset folder.
        images: Image files in it, with a label or not.
        pairs: Images with a label; 0 for a set without labels.
        orphans: Tile name and what it lacks (``label`` or ``image``).
        unreadable: Tiles that will be left out, by name, wherever the set is used.
        classes: Names in the order of their ids.
        class_pixels: Labelled pixels by class name.
        unlabelled_tiles: Pairs without one labelled pixel.
        left_out: Files and folders of the sources that are no part of the set, and why.
        bands: Their names.
        dtype: Of the images.
        label_encoding: How labels are read, as in `dataset.yaml`.
        mend: The rules that mend labels, by name.
        mended: Rule → tiles that it changed.
        reasons: The rules in words.
        unmended: Tile name → why no rule mends its label; it is left out.
        unknown_colours: The most frequent colours that no class has → pixels; they are unlabelled.
        scaling: Range of each band, for images that are not uint8.
        parts: Part → tiles, where file lists gave them: they are the split ``file``.
        scenes: What became of each scene, where the tiles were cut.
        resolution_m: Metres a pixel, where all tiles have one that is known.
    """

    dataset: Path
    images: int
    pairs: int
    orphans: tuple[tuple[str, str], ...]
    unreadable: tuple[Unreadable, ...]
    classes: tuple[str, ...]
    class_pixels: dict[str, int]
    unlabelled_tiles: int
    left_out: tuple[str, ...]
    bands: tuple[str, ...]
    dtype: str
    label_encoding: str
    mend: Mapping[str, Any]
    mended: Mapping[str, int]
    reasons: tuple[str, ...]
    unmended: Mapping[str, str]
    unknown_colours: Mapping[str, int]
    scaling: tuple[tuple[float, float], ...] | None
    parts: Mapping[str, int]
    scenes: tuple[SceneCut, ...] = ()
    resolution_m: float | None = None

    @property
    def dropped(self) -> dict[str, int]:
        """Why → tiles of the scenes that were not kept."""
        total: Counter[str] = Counter()
        for scene in self.scenes:
            total.update(scene.dropped)
        return dict(total)

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "dataset": str(self.dataset),
            "images": self.images,
            "pairs": self.pairs,
            "orphans": [{"tile": tile, "missing": missing} for tile, missing in self.orphans],
            "unreadable": [item._asdict() for item in self.unreadable],
            "classes": list(self.classes),
            "class_pixels": dict(self.class_pixels),
            "unlabelled_tiles": self.unlabelled_tiles,
            "left_out": list(self.left_out),
            "bands": list(self.bands),
            "dtype": self.dtype,
            "label_encoding": self.label_encoding,
            "mend": dict(self.mend),
            "mended": dict(self.mended),
            "reasons": list(self.reasons),
            "unmended": [{"tile": tile, "reason": reason} for tile, reason in self.unmended.items()],
            "unknown_colours": dict(self.unknown_colours),
            "scaling": None if self.scaling is None else [list(pair) for pair in self.scaling],
            "parts": dict(self.parts),
            "scenes": [asdict(scene) for scene in self.scenes],
            "dropped": self.dropped,
            "resolution_m": self.resolution_m,
        }

    def as_text(self) -> str:
        """A few lines for people; the first is what was made."""
        kind = f"{self.pairs:,} pairs of image and label" if self.classes else f"{self.images:,} images without labels"
        lines = [f"{self.dataset}: {kind}, {len(self.bands)} bands {self.dtype} ({', '.join(self.bands)})"]
        total = sum(self.class_pixels.values())
        lines += [f"  {count / total:7.2%}  {name}" for name, count in self.class_pixels.items()]
        if self.scenes:
            metres = "" if self.resolution_m is None else f", {self.resolution_m:.3g} m a pixel"
            lines.append(f"  {len(self.scenes):,} scenes{metres}: {', '.join(f'{cut.name} {cut.tiles:,}' for cut in self.scenes[:NAMED])}")
            lines += [f"  {count:,} tiles dropped: {reason}" for reason, count in self.dropped.items()]
        for count, what in (
            (self.unlabelled_tiles, "tiles are wholly unlabelled"),
            (len(self.orphans), "files without a partner"),
            (len(self.unreadable), "unreadable files"),
        ):
            if count:
                lines.append(f"  {count:,} {what}")
        lines += [f"  {item.file}: {item.reason}" for item in self.unreadable[:NAMED]]
        lines += [f"  mended: {reason}" for reason in self.reasons]
        lines += [f"  {count:,} tiles by {rule}" for rule, count in self.mended.items()]
        if self.unmended:
            named = "; ".join(f"{tile} ({reason})" for tile, reason in list(self.unmended.items())[:NAMED])
            lines.append(f"  {len(self.unmended):,} tiles left out, no rule mends them: {named}")
        if self.unknown_colours:
            lines.append(f"  colours of no class, unlabelled: {', '.join(f'{c} {n:,} pixels' for c, n in self.unknown_colours.items())}")
        if self.scaling:
            lines.append(f"  scaling: {', '.join(f'{low:g}..{high:g}' for low, high in self.scaling)}")
        if self.parts:
            lines.append(f"  split file: {', '.join(f'{part} {count:,}' for part, count in self.parts.items())}")
        lines += [f"  left out: {line}" for line in self.left_out]
        return "\n".join(lines)
