"""The facts of one tile, from one decoding of its files. It judges nothing: `findings` does.

Vocabulary: a file's *container* is its format by content (JPEG, PNG …), whatever its name ends in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from landseg.core.classes import IGNORE_INDEX, lookup_table
from landseg.data.colours import count_colours, hex_colour
from landseg.data.copies import band_histograms, signature
from landseg.data.labels import OTHERS, LabelPixels, LabelRules, read_label
from landseg.data.nodata import has_alpha, nodata_areas
from landseg.data.tally import BandTally
from landseg.data.tiles import UnreadableTile, decode_image, read_bytes, read_header, read_palette

ENDINGS = {
    "JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff", ".gtif"), "NumPy": (".npy",),
}  # fmt: skip
"""File endings that belong to a container."""

AS_THEY_STAND = LabelRules("index", lookup_table(IGNORE_INDEX, IGNORE_INDEX, {}), np.zeros((0, 3), np.uint8))
"""Rules for labels whose classes nobody has named: every code is itself, 255 unlabelled."""

MOST_COLOURS = 256
"""A label painted in more colours than this is a photograph."""

COLOURS = 64
"""Colours that evidence on two classes is sorted by: sixteen steps of brightness, four from blue to red."""

Blended = Literal["no", "perhaps", "surely"]

_MAGIC = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"\x93NUMPY": "NumPy"}
_MAGIC |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF")
_SIDE = 128  # pixels of a tile's side that the evidence on two classes is taken from
_FEW_BLENDED = 3  # pixels between ids in every fourth row; fewer tell nothing
_STEPS = 12  # of one kind of border; fewer tell nothing
_BLENDED_KIND, _BLENDED = 0.2, 0.3  # of a kind's steps, and of all. Real and invented labels: none; interpolated: half to nine tenths
_KEPT = 16  # colours of a label that are remembered one by one; a JPEG has hundreds of them in every file
_FEW_PIXELS = 32  # of a class in a tile; fewer have no colour worth a mean
_ISLAND = 6  # pixels of the smallest island that counts


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image.

    Args:
        size: (height, width) in pixels.
        bands: Their number, without a PNG's alpha.
        dtype: numpy's name.
        is_flat: Every band holds one value alone.
        signature: From `copies.signature`.
        not_finite: Values that are NaN or infinite.
        transparent: Pixels that a PNG's alpha hides wholly.
        has_alpha: Its last band is no measurement: 0 and its highest value alone, as a TIFF's alpha has them.
    """

    size: tuple[int, int]
    bands: int
    dtype: str
    is_flat: bool
    signature: np.ndarray
    not_finite: int = 0
    transparent: int = 0
    has_alpha: bool = False


@dataclass(frozen=True, slots=True)
class TwoClasses:
    """Evidence on a label of two classes.

    Args:
        colours: (2, `COLOURS`) uint16, sampled pixels of each class by colour; None where the image has no 8-bit colours.
        islands: Connected areas of class 0 and of class 1.
    """

    colours: np.ndarray | None
    islands: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """What is known of a label.

    Args:
        size: (height, width) in pixels.
        dtype: numpy's name.
        pixels: Class id → pixels, the ignore index among them.
        illegal: Code or colour that no class has → pixels; of colours the most frequent, the others under `labels.OTHERS`.
        blended: Whether it looks interpolated, see `blended`.
        nodata: Kind of nodata → labelled pixels under it.
        palette: Code → colour ``#rrggbb`` of a palette PNG, codes that occur alone.
        two: Evidence for `findings` where there are two classes.
    """

    size: tuple[int, int]
    dtype: str
    pixels: Mapping[int, int]
    illegal: Mapping[int | str, int]
    blended: Blended
    nodata: Mapping[str, int]
    palette: Mapping[int, str]
    two: TwoClasses | None = None

    @property
    def labelled(self) -> int:
        """Pixels that have a class."""
        return sum(count for value, count in self.pixels.items() if value != IGNORE_INDEX)


@dataclass(frozen=True, slots=True)
class TileFacts:
    """What is known of one tile: its facts, or why there are none.

    `colours` are those of a label that is painted in colours where codes are expected: ``#rrggbb`` → pixels.
    """

    name: str
    image_path: Path
    label_path: Path | None
    image_container: str = ""
    label_container: str = ""
    image: ImageFacts | None = None
    image_fault: str = ""
    label: LabelFacts | None = None
    label_fault: str = ""
    colours: Mapping[str, int] | None = None

    @property
    def is_orphan(self) -> bool:
        """It has no label, and nothing says why."""
        return self.label_path is None and not self.label_fault


@dataclass(frozen=True)
class Inspector:
    """How the tiles of one data set are looked at.

    Args:
        rules: How its labels are read; `AS_THEY_STAND` where no classes are known.
        two_classes: Gather evidence on inverted labels.
    """

    rules: LabelRules
    two_classes: bool = False

    def inspect(self, name: str, image: Path, label: Path | None, tally: Callable[[int, str], BandTally]) -> TileFacts:
        """Decode one tile and note its facts.

        Args:
            name: The tile's.
            image: Its image file.
            label: Its label file, where it has one.
            tally: Bands and dtype → the tally that the image goes into.

        Returns:
            The facts; files that cannot be read are among them with the reason.
        """
        pixels, alpha, histograms, facts, fault, container = None, None, None, None, "", ""
        try:
            data = read_bytes(image)
            container = container_of(data)
            pixels, alpha = _with_alpha(data, container)
            histograms = band_histograms(pixels) if pixels.dtype == np.uint8 else None
            facts = _image_facts(pixels, alpha, histograms)
            tally(facts.bands, facts.dtype).add(pixels, histograms)
        except UnreadableTile as error:
            fault = str(error)
        if label is None:
            return TileFacts(name, image, None, container, "", facts, fault)
        label_container, found, label_fault, colours = "", None, "", None
        try:
            written = read_bytes(label)
            label_container = container_of(written)
            try:
                read = read_label(written, self.rules, facts.size if facts else None)
                found = self._label_facts(written, label_container, read, pixels, alpha, histograms)
            except UnreadableTile as error:
                label_fault, colours = str(error), _colours(written)
        except UnreadableTile as error:
            label_fault = str(error)
        return TileFacts(name, image, label, container, label_container, facts, fault, found, label_fault, colours)

    def _label_facts(
        self,
        data: bytes,
        container: str,
        read: LabelPixels,
        image: np.ndarray | None,
        alpha: np.ndarray | None,
        histograms: np.ndarray | None,
    ) -> LabelFacts:
        ids = read.ids
        present = {int(value): int(read.pixels[value]) for value in np.flatnonzero(read.pixels)}
        illegal = _kept(read.illegal)
        if self.rules is AS_THEY_STAND:
            # Codes beyond a byte are no fault where nobody has said what the codes are.
            present |= {code: count for code, count in illegal.items() if isinstance(code, int)}
            illegal = {code: count for code, count in illegal.items() if not isinstance(code, int)}
        fits = image is not None and ids.shape == image.shape[:2]
        under: dict[str, int] = {}
        two = None
        if image is not None and fits:
            is_labelled = ids != IGNORE_INDEX
            for kind, area in nodata_areas(image, alpha, histograms).items():
                count = int(np.count_nonzero(area & is_labelled))
                if count:
                    under[kind] = count
            if self.two_classes and len(present.keys() - {IGNORE_INDEX}) <= 2:
                two = _two_classes(image, ids)
        dtype = "uint8" if container in ("JPEG", "BMP") else read_header(data).dtype
        return LabelFacts(
            (ids.shape[0], ids.shape[1]), dtype, present, illegal, blended(ids), under, self._palette(data, present, illegal), two
        )

    def _palette(self, data: bytes, present: Mapping[int, int], illegal: Mapping[int | str, int]) -> dict[int, str]:
        """Colours of the codes that occur; codes are found back from the ids that the rules gave them."""
        colours = read_palette(data)
        if colours is None:
            return {}
        codes = range(len(colours))
        used = [
            code for code in codes if code in illegal or ((target := int(self.rules.table[code])) in present and target != IGNORE_INDEX)
        ]
        return {code: "#" + bytes(colours[code]).hex() for code in used}


def class_colours(image: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Mean of each band over each of `count` classes: (count, C), NaN for a class of few pixels. Ids beyond the classes are left out."""
    seen = ids < count
    numbers = np.bincount(ids[seen], minlength=count)
    sums = [np.bincount(ids[seen], image[:, :, band][seen], minlength=count) for band in range(image.shape[2])]
    return np.where(numbers[:, None] >= _FEW_PIXELS, np.stack(sums, 1) / np.maximum(numbers, 1)[:, None], np.nan)


def container_of(data: bytes) -> str:
    """The container of a file by its first bytes; empty where it is none that landseg reads."""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")


def blended(ids: np.ndarray) -> Blended:
    """Whether ids look interpolated: between ids at least two apart lies one that is neither, along all kinds of borders.

    A path between a house and a street can look so too: where all such borders are of one kind, the answer is "perhaps".
    """
    if min(ids.shape) < 3:
        return "no"
    wide, between = (np.count_nonzero(steps) for steps in _steps(ids[::4]))
    if between < _FEW_BLENDED or between < _BLENDED / 2 * wide:
        return "no"
    kinds: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))
    for rows in (ids, np.ascontiguousarray(ids.T)):
        is_wide, is_between = _steps(rows)
        ends = rows[:, :-2][is_wide].astype(np.int64), rows[:, 2:][is_wide].astype(np.int64)
        kind, number = np.unique(np.minimum(*ends) * 256 + np.maximum(*ends), return_inverse=True)
        steps = np.bincount(number, minlength=len(kind))
        blended = np.bincount(number, is_between[is_wide], minlength=len(kind))
        for value, *counts in zip(kind.tolist(), steps, blended, strict=True):
            kinds[value] += np.asarray(counts, np.int64)
    usual = np.array([counts for counts in kinds.values() if counts[0] >= _STEPS]).reshape(-1, 2)
    if not len(usual) or (usual[:, 1] < _BLENDED_KIND * usual[:, 0]).any() or usual[:, 1].sum() < _BLENDED * usual[:, 0].sum():
        return "no"
    return "surely" if len(usual) > 1 else "perhaps"


def _steps(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the ids two pixels apart are of classes and differ by two or more; and where the id between them lies between them."""
    left, middle, right = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    low, high = np.minimum(left, right), np.maximum(left, right)
    is_labelled = high != IGNORE_INDEX
    return (high - low >= 2) & is_labelled, (low < middle) & (middle < high) & is_labelled


def _with_alpha(data: bytes, container: str) -> tuple[np.ndarray, np.ndarray | None]:
    if container != "PNG":
        return decode_image(data), None
    image, bands = decode_image(data, keep_alpha=True), read_header(data).bands
    if image.shape[2] == bands:
        return image, None
    return np.ascontiguousarray(image[:, :, :bands]), image[:, :, -1]


def _image_facts(image: np.ndarray, alpha: np.ndarray | None, histograms: np.ndarray | None) -> ImageFacts:
    height, width, bands = image.shape
    mark = signature(image, histograms)
    is_flat = bool((image == image[0, 0]).all()) if histograms is None else bool(((histograms > 0).sum(1) == 1).all())
    not_finite = int(image.size - np.count_nonzero(np.isfinite(image))) if image.dtype.kind == "f" else 0
    transparent = 0 if alpha is None else int(np.count_nonzero(alpha == 0))
    return ImageFacts((height, width), bands, image.dtype.name, is_flat, mark, not_finite, transparent, has_alpha(image))


def _two_classes(image: np.ndarray, ids: np.ndarray) -> TwoClasses:
    islands = []
    for value in (0, 1):
        count, _, stats, _ = cv2.connectedComponentsWithStats((ids == value).astype(np.uint8), connectivity=4)
        islands.append(int((stats[1:count, cv2.CC_STAT_AREA] >= _ISLAND).sum()))
    if image.dtype != np.uint8:
        return TwoClasses(None, (islands[0], islands[1]))
    step = max(1, -(-max(ids.shape) // _SIDE))
    part, seen = image[::step, ::step].astype(np.int16), ids[::step, ::step]
    colours = (part.mean(2).astype(np.int16) >> 4) * 4
    if part.shape[2] >= 3:
        colours += np.clip((part[:, :, 0] - part[:, :, 2] + 32) // 16, 0, 3)
    counts = [np.bincount(colours[seen == value], minlength=COLOURS) for value in (0, 1)]
    return TwoClasses(np.asarray(counts, np.uint16), (islands[0], islands[1]))


def _colours(data: bytes) -> dict[str, int] | None:
    """The colours of a label that holds no codes, most frequent first; None where it is no painted label either."""
    try:
        found = count_colours(decode_image(data, keep_alpha=True))
    except UnreadableTile:
        return None
    if len(found) > MOST_COLOURS:
        return None
    return {hex_colour(colour): count for colour, count in Counter(found).most_common(_KEPT)}


def _kept(illegal: Mapping[int | str, int]) -> dict[int | str, int]:
    """All codes, for rules look at how they lie; the most frequent colours."""
    kept = dict(illegal)
    if len(kept) > _KEPT and all(isinstance(value, str) for value in kept):
        kept = dict(Counter(illegal).most_common(_KEPT))
        kept[OTHERS] = kept.get(OTHERS, 0) + sum(illegal.values()) - sum(kept.values())
    return kept
