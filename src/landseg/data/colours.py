"""Colours of label pictures: packed into single numbers, counted, named, and matched with the classes'. It knows no data set.

Vocabulary: a *packed* colour is the number red + 256 green + 65536 blue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map
from landseg.data.tiles import UnreadableTile, decode_image, decode_label, read_bytes

SAMPLE = 64
"""Label files that are looked at to tell whether, and which, colours they hold."""

_FEW = 12


def pack_colours(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours of a picture as numbers.

    Args:
        picture: (H, W, 1, 3 or 4): grey; red, green, blue; or these and alpha.

    Returns:
        (H, W) uint32 packed colours; and (H, W) bool, where the picture is transparent, None without alpha.

    Raises:
        UnreadableTile: It holds no colours of 8 or 16 bits.
    """
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    bands = picture.shape[2]
    if picture.dtype != np.uint8 or bands not in (1, 3, 4):
        raise UnreadableTile(f"colours are red, green, blue (and alpha) of uint8, this has {bands} bands of {picture.dtype}")
    expand = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_RGB2RGBA}.get(bands)
    four = np.ascontiguousarray(picture) if expand is None else cv2.cvtColor(picture, expand)
    whole = four.view("<u4")[:, :, 0]
    return whole & 0xFFFFFF, four[:, :, 3] == 0 if bands == 4 else None


def pack_colour(colour: Sequence[int]) -> int:
    """One colour (red, green, blue) packed."""
    return int(colour[0]) | int(colour[1]) << 8 | int(colour[2]) << 16


def hex_colour(colour: int) -> str:
    """A colour packed → ``#rrggbb``."""
    return f"#{colour & 255:02x}{colour >> 8 & 255:02x}{colour >> 16 & 255:02x}"


def count_colours(picture: np.ndarray) -> dict[int, int]:
    """The packed colours of a picture with their pixels; transparent pixels do not count.

    Raises:
        UnreadableTile: It holds no colours.
    """
    packed, transparent = pack_colours(picture)
    return tally(packed.ravel() if transparent is None else packed[~transparent])


def tally(values: np.ndarray) -> dict[int, int]:
    """How often each value stands in (N,) integers. Labels have few: those are taken out one by one, which costs less than sorting."""
    counts: dict[int, int] = {}
    while values.size and len(counts) < _FEW:
        is_first = values == values[0]
        counts[int(values[0])] = int(is_first.sum())
        values = values[~is_first]
    rest, found = np.unique(values, return_counts=True)
    return counts | dict(zip(rest.tolist(), found.tolist(), strict=True))


def nearest_colours(packed: np.ndarray, colours: np.ndarray, within: int) -> np.ndarray:
    """(N,) packed colours → (N,) int16: which of (K, 3) `colours` is nearest, -1 where its worst band is further off than `within`."""
    best = np.full(len(packed), within + 1, np.int16)
    places = np.full(len(packed), -1, np.int16)
    bands = np.stack([packed >> shift & 255 for shift in (0, 8, 16)], axis=1).astype(np.int16)
    for i, colour in enumerate(colours.astype(np.int16)):
        distance = abs(bands - colour).max(axis=1)
        is_nearer = distance < best
        best[is_nearer], places[is_nearer] = distance[is_nearer], i
    return places


def looks_coloured(labels: Mapping[str, Path]) -> bool:
    """Most of a sample of label files are pictures in colours, of which no number could be the code."""

    def is_coloured(path: Path) -> bool | None:
        try:
            label = decode_label(read_bytes(path))
        except UnreadableTile:
            return None
        return label.ndim == 3 and label.shape[2] in (3, 4) and bool((label[:, :, 1:3] != label[:, :, :1]).any())

    seen = [verdict for verdict in parallel_map(is_coloured, _sample(labels)) if verdict is not None]
    # A label of one grey class looks grey in any encoding.
    return 2 * sum(seen) > len(seen)


def colours_needed(labels: Mapping[str, Path], shown: Callable[[Path], str], folder: Path | None = None) -> LandsegError:
    """The error for labels in colours of which nobody said what they mean: the colours, and the file to write."""
    chosen = _sample(labels)
    counts: dict[int, int] = {}
    for path in chosen:
        try:
            for colour, pixels in count_colours(decode_image(read_bytes(path), keep_alpha=True)).items():
                counts[colour] = counts.get(colour, 0) + pixels
        except UnreadableTile:
            continue
    total = max(1, sum(counts.values()))
    most = sorted(counts.items(), key=lambda item: -item[1])[:12]
    listed = ", ".join(f"{hex_colour(colour)} {pixels / total:.1%}" for colour, pixels in most)
    more = f" and {len(counts) - len(most):,} more colours" if len(counts) > len(most) else ""
    lines = ", ".join(f"{{name: class{i}, colour: '{hex_colour(colour)}'}}" for i, (colour, _) in enumerate(most))
    return LandsegError(
        shown(folder or chosen[0]),
        f"labels painted in colours ({listed}{more})",
        "the class of each colour",
        f"write [{lines}] with your names into classes.yaml and add --classes classes.yaml",
    )


def _sample(labels: Mapping[str, Path]) -> list[Path]:
    paths = [path for _, path in sorted(labels.items())]
    return [paths[i * len(paths) // SAMPLE] for i in range(SAMPLE)] if len(paths) > SAMPLE else paths
