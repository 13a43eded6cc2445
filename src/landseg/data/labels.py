"""Read one label file as the data set says: by its codes, or by its colours, with the stated rules that mend faults. It finds no files.

Vocabulary: a *code* is a number in a label file, an *id* the class that it means. *Illegal* is a code or a colour that no class has and no
rule settles; it reads as the ignore index and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from landseg.core.classes import IGNORE_INDEX, LandClass, lookup_table
from landseg.core.errors import LandsegError
from landseg.data.colours import hex_colour, nearest_colours, pack_colour, pack_colours, tally
from landseg.data.tiles import UnreadableTile, decode_image, decode_label

LabelEncoding = Literal["index", "palette", "rgb"]

MOST_LISTED = 256
"""Illegal codes or colours of one file that are told apart; the rest of a photograph taken for a label stands under `OTHERS`."""

OTHERS = "others"

_EXACT_FLOAT = 1 << 24
"""Whole numbers below this are exact in float32, in which OpenCV counts."""

_UNKNOWN, _OPEN = -1, -2

_BUILDING = Lock()


class Mend(BaseModel):
    """The stated rules that mend labels while they are read; no label file is rewritten. All are off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    colours_within: int = Field(0, ge=0, le=255)
    """palette, rgb: an unknown colour takes the nearest class colour when no band of it is further off."""
    values_within: int = Field(0, ge=0, le=65535)
    """index: a value that is no code takes the nearest code when it is no further off."""
    threshold: int | None = Field(None, ge=1, le=65535)
    """index: every value at or above it is class 1, every other one class 0; nothing is unlabelled."""
    resize_within: int = Field(0, ge=0, le=64)
    """A label at most so many pixels a side larger or smaller than its image is resized, nearest pixel."""
    illegal: Literal["refuse", "ignore"] = "refuse"
    """index: values that no class has become unlabelled."""
    palettes: Literal["agree", "ignore"] = "agree"
    """index: palettes that give one index two colours are an error, or no matter."""

    def stated(self) -> dict[str, int | str]:
        """The rules that are on, by name."""
        return self.model_dump(exclude_defaults=True)


NO_MEND = Mend()


@dataclass(frozen=True)
class LabelPixels:
    """One label as it was read.

    Args:
        ids: (H, W) uint8 class ids; illegal codes and colours are the ignore index.
        pixels: (256,) int64, pixels of each id; those of illegal codes are not among them.
        illegal: Code, or colour ``#rrggbb``, → pixels.
        mended: Rule of `Mend` → pixels that it changed.
    """

    ids: np.ndarray
    pixels: np.ndarray
    illegal: Mapping[int | str, int]
    mended: Mapping[str, int]


@dataclass(frozen=True)
class LabelRules:
    """How the label files of one data set are read.

    Args:
        encoding: ``index``: the numbers are the code; ``palette``, ``rgb``: the classes' colours are.
        table: (65536,) int16 from `core.classes.lookup_table`; a negative code stands at its place from the end.
        colours: (K, 3) uint8, the classes' colours.
        ignore_index: The code that means unlabelled, negative ones too.
        mend: Rules that mend.
        ignore_colours: (N, 3) uint8, colours that mean unlabelled.
        names: The classes' names.
    """

    encoding: LabelEncoding
    table: np.ndarray
    colours: np.ndarray
    ignore_index: int = IGNORE_INDEX
    mend: Mend = NO_MEND
    ignore_colours: np.ndarray | None = None
    names: tuple[str, ...] = ()

    @property
    def refuses_illegal(self) -> bool:
        """Illegal pixels are an error. An unknown colour is not: it is unlabelled."""
        return self.encoding == "index"

    @cached_property
    def near_table(self) -> np.ndarray:
        """`table` with each value near a code taken for it."""
        within = self.mend.values_within
        if not within:
            return self.table
        codes = np.arange(len(self.table))
        legal = codes[self.table >= 0]
        after = np.searchsorted(legal, codes).clip(max=len(legal) - 1)
        before = (after - 1).clip(min=0)
        nearest = np.where(abs(legal[before] - codes) <= abs(legal[after] - codes), legal[before], legal[after])
        return np.where(abs(nearest - codes) <= within, self.table[nearest], self.table).astype(np.int16)

    @cached_property
    def mended_table(self) -> np.ndarray:
        """`table` with all rules for values applied."""
        if self.mend.threshold is not None:
            return (np.arange(len(self.table)) >= self.mend.threshold).astype(np.int16)
        if self.mend.illegal == "ignore":
            return np.where(self.near_table < 0, IGNORE_INDEX, self.near_table).astype(np.int16)
        return self.near_table

    @cached_property
    def known_colours(self) -> np.ndarray:
        """(K + N, 3) uint8: the classes' colours, then those that mean unlabelled."""
        return self.colours if self.ignore_colours is None else np.concatenate([self.colours, self.ignore_colours])

    @property
    def colour_table(self) -> np.ndarray:
        """The one table of colours of these rules; threads ask for it at once, and from Python 3.12 on `cached_property` has no lock."""
        with _BUILDING:
            return self._colour_table

    @cached_property
    def _colour_table(self) -> np.ndarray:
        """(2**24,) int16 by packed colour: class id or ignore index; these and 256 where `colours_within` gave them; or below 0.

        Below 0 are `_UNKNOWN` and, where a rule has not been asked yet, `_OPEN`: which colours are near a class's is worked out once each,
        when they are met. Threads that meet one at the same time write the same answer.
        """
        table = np.full(1 << 24, _OPEN if self.mend.colours_within else _UNKNOWN, np.int16)
        # The first of two of one colour keeps it.
        for i in range(len(self.known_colours) - 1, -1, -1):
            table[pack_colour(self.known_colours[i])] = i if i < len(self.colours) else IGNORE_INDEX
        return table


def label_rules(
    classes: Sequence[LandClass],
    *,
    encoding: LabelEncoding = "index",
    ignore_index: int = IGNORE_INDEX,
    remap: Mapping[int, int] | None = None,
    ignore_colours: Sequence[tuple[int, int, int]] = (),
    mend: Mend | None = None,
) -> LabelRules:
    """The rules for labels of these classes; arguments as the keys of `dataset.yaml`.

    Raises:
        LandsegError: The ignore index or `remap` is out of range, or a rule of `mend` needs other classes.
    """
    table = lookup_table(len(classes), ignore_index, dict(remap or {}))
    mend = mend or NO_MEND
    if mend.threshold is not None and len(classes) < 2:
        raise LandsegError("mend.threshold in dataset.yaml", f"{len(classes)} classes", "two, below and above", "take the rule out")
    colours = np.array([item.rgb for item in classes], np.uint8).reshape(-1, 3)
    unlabelled = np.array(ignore_colours, np.uint8).reshape(-1, 3)
    return LabelRules(encoding, table, colours, ignore_index, mend, unlabelled, tuple(item.name for item in classes))


def read_label(data: bytes, rules: LabelRules, size: tuple[int, int] | None = None) -> LabelPixels:
    """Read a label file.

    Transparent pixels of a picture with alpha are unlabelled, and so is NaN.

    Args:
        data: The file's bytes, of any format that `tiles` decodes.
        rules: Of the data set.
        size: (height, width) of its image: the label is resized to it where a rule allows; otherwise it is what the file says.

    Raises:
        UnreadableTile: It does not decode, or holds no codes (colours where numbers are the code, or measurements).
    """
    if rules.encoding != "index":
        picture = decode_image(data, keep_alpha=True)
        picture, resized = _resized(picture, rules.mend, size)
        ids, pixels, illegal, mended = _colour_ids(picture, rules)
        return LabelPixels(ids, pixels, illegal, resized | mended)
    codes = decode_label(data)
    codes, resized = _resized(codes, rules.mend, size)
    transparent = None
    if codes.ndim == 3:
        codes, transparent = _grey(codes)
    if transparent is not None:
        return _without(transparent, codes, rules, resized)
    return LabelPixels(*_code_ids(codes, rules, resized))


def label_size(data: bytes) -> tuple[int, int]:
    """(height, width) that a label file decodes to, whatever its encoding."""
    codes = decode_label(data)
    return codes.shape[0], codes.shape[1]


def ids_and_pixels(codes: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, dict[int, int], np.ndarray]:
    """Codes of a file → class ids.

    Args:
        codes: (H, W) uint8 or uint16.
        table: From `core.classes.lookup_table`.

    Returns:
        (H, W) uint8 ids (the codes themselves where each is its own id), illegal codes turned to the ignore index; and the illegal codes
        with their pixel counts; and (256,) int64, the pixels of each id, legal ones alone.
    """
    ids, _, illegal, pixels = _looked_up(codes, table)
    return ids, illegal, pixels


def count_codes(codes: np.ndarray) -> np.ndarray:
    """Pixels of each code in (H, W) uint8 or uint16: (256,) or (65536,) int64."""
    if codes.dtype == np.uint8 and 0 < codes.size < _EXACT_FLOAT:
        # A sixth of bincount's time, and it lets go of Python's lock.
        return cv2.calcHist([codes], [0], None, [256], [0, 256]).ravel().astype(np.int64)  # a column in OpenCV 4, a row in 5
    return np.bincount(codes.reshape(-1), minlength=256 if codes.dtype == np.uint8 else 65536)


def illegal_labels(found: Mapping[str, Mapping[int | str, int]], count: int, folder: object, do: str = "") -> LandsegError:
    """The error for label values that no class has: file, value, pixel count, and how many files in all."""
    name, values = next(iter(found.items()))
    value, pixels = next(iter(values.items()))
    more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
    return LandsegError(
        name, f"label value {value} in {pixels} pixels{more}",
        f"{folder} has {count} classes, ids 0..{count - 1}, and {IGNORE_INDEX} for unlabelled",
        do or "name the missing classes with --classes, or settle the values with `remap` or `mend: {illegal: ignore}` in dataset.yaml",
    )  # fmt: skip


def _looked_up(codes: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, int], np.ndarray]:
    found = count_codes(codes)
    present = np.flatnonzero(found)
    targets = table[present]
    if codes.dtype == np.uint8 and np.array_equal(present, targets):
        return codes, found, {}, found
    is_legal = targets >= 0
    illegal = {int(code): int(found[code]) for code in present[~is_legal]}
    pixels = np.bincount(targets[is_legal], found[present[is_legal]], minlength=256).astype(np.int64)
    bytes_table = np.where(table < 0, IGNORE_INDEX, table).astype(np.uint8)
    ids = cv2.LUT(codes, bytes_table[:256]) if codes.dtype == np.uint8 and codes.size else bytes_table[codes]
    return ids, found, illegal, pixels


def _code_ids(
    codes: np.ndarray, rules: LabelRules, resized: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, dict[int | str, int], dict[str, int]]:
    """(H, W) of any dtype → ids, pixels, illegal, mended."""
    if rules.mend.threshold is not None and codes.dtype.kind != "u":
        codes = np.maximum(codes, 0)  # below the threshold, and no code from the end
    narrow = _narrow(codes)
    if narrow is None:
        return _odd_ids(codes, rules, resized)
    ids, found, wrong, pixels = _looked_up(narrow, rules.mended_table)
    is_signed = codes.dtype.kind != "u" and narrow.dtype == np.uint16 and codes.min() < 0
    illegal: dict[int | str, int] = {code - 65536 if is_signed and code > 32767 else code: count for code, count in wrong.items()}
    return ids, pixels, _most(illegal), resized | _mended_codes(found, rules)


def _mended_codes(found: np.ndarray, rules: LabelRules) -> dict[str, int]:
    """Which rule changed how many pixels, from the pixels of each code."""
    mend = rules.mend
    if mend.threshold is None and not mend.values_within and mend.illegal == "refuse":
        return {}
    changed = np.flatnonzero(found)
    changed = changed[rules.table[changed] != rules.mended_table[changed]]
    if mend.threshold is not None:
        counts = {"threshold": int(found[changed].sum())}
    else:
        far = rules.near_table[changed] < 0
        counts = {"values_within": int(found[changed[~far]].sum()), "illegal": int(found[changed[far]].sum())}
    return {rule: count for rule, count in counts.items() if count}


def _narrow(codes: np.ndarray) -> np.ndarray | None:
    """Whole numbers as uint8 or uint16, negative ones from 65535 down; None for what does not fit."""
    if codes.dtype in (np.uint8, np.uint16):
        return codes
    low, high = codes.min(), codes.max()
    # A NaN fails these comparisons too.
    if not (low >= -32768 and high <= (65535 if low >= 0 else 32767)):
        return None
    whole = codes.astype(np.int32)
    if codes.dtype.kind == "f" and (whole != codes).any():
        return None
    return whole.astype(np.uint8 if low >= 0 and high <= 255 else np.uint16)


def _odd_ids(
    codes: np.ndarray, rules: LabelRules, resized: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, dict[int | str, int], dict[str, int]]:
    """Codes with some that no uint16 holds: NaN is unlabelled, a float's nodata illegal, the others are looked up."""
    values, inverse = np.unique(codes, return_inverse=True)
    with np.errstate(invalid="ignore"):
        fits = (values >= -32768) & (values <= 65535)
        whole = np.where(fits, values, 0).astype(np.int64)
        is_fraction = fits & (whole != values)
    if is_fraction.any():
        raise UnreadableTile(f"label values are whole numbers, this holds {values[is_fraction][0]:g}")
    inverse = inverse.reshape(codes.shape)
    counts = np.bincount(inverse.ravel(), minlength=len(values))
    is_nan = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    targets = np.where(fits, rules.mended_table[whole], IGNORE_INDEX if rules.mend.illegal == "ignore" else _UNKNOWN)
    targets[is_nan] = IGNORE_INDEX
    illegal = {_shown(value): int(count) for value, count, target in zip(values, counts, targets, strict=True) if target < 0}
    pixels = np.bincount(targets[targets >= 0], counts[targets >= 0], minlength=256).astype(np.int64)
    found = np.bincount(whole[fits] & 65535, counts[fits], minlength=65536).astype(np.int64)
    mended = _mended_codes(found, rules)
    if rules.mend.illegal == "ignore":
        mended["illegal"] = mended.get("illegal", 0) + int(counts[~fits & ~is_nan].sum())
    ids = np.where(targets < 0, IGNORE_INDEX, targets).astype(np.uint8)[inverse]
    return ids, pixels, _most(illegal), resized | mended


def _without(transparent: np.ndarray, codes: np.ndarray, rules: LabelRules, resized: dict[str, int]) -> LabelPixels:
    """Codes of a picture with alpha: what is transparent is unlabelled."""
    ids = np.full(codes.shape, IGNORE_INDEX, np.uint8)
    pixels: np.ndarray = np.zeros(256, np.int64)
    illegal: Mapping[int | str, int] = {}
    seen = codes[~transparent]
    if seen.size:
        part, pixels, illegal, resized = _code_ids(seen[None], rules, resized)
        ids[~transparent] = part[0]
    pixels = pixels.copy()
    pixels[IGNORE_INDEX] += int(transparent.sum())
    return LabelPixels(ids, pixels, illegal, resized)


def _grey(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The one band of a picture in greys, and where it is transparent."""
    bands = picture.shape[2]
    if bands not in (3, 4) or (picture[:, :, 1:3] != picture[:, :, :1]).any():
        raise UnreadableTile(f"a label has one band, this has {bands}" + (" of colours" if bands in (3, 4) else ""))
    return np.ascontiguousarray(picture[:, :, 0]), picture[:, :, 3] == 0 if bands == 4 else None


def _colour_ids(picture: np.ndarray, rules: LabelRules) -> tuple[np.ndarray, np.ndarray, dict[int | str, int], dict[str, int]]:
    packed, transparent = pack_colours(picture)
    table = rules.colour_table
    found = table.take(packed)
    if rules.mend.colours_within and (is_open := found == _OPEN).any():
        _ask(packed[is_open], rules, table)
        found = table.take(packed)
    if transparent is not None:
        found[transparent] = IGNORE_INDEX
    ids = found.astype(np.uint8)  # the low byte: the id, and 255 of -1
    pixels = count_codes(ids)
    unknown = packed[found == _UNKNOWN] if pixels[IGNORE_INDEX] else packed[:0]
    pixels[IGNORE_INDEX] -= unknown.size
    near = int((found > IGNORE_INDEX).sum()) if rules.mend.colours_within else 0
    illegal: dict[int | str, int] = {hex_colour(colour): count for colour, count in tally(unknown.ravel()).items()}
    return ids, pixels, _most(illegal), {"colours_within": near} if near else {}


def _ask(packed: np.ndarray, rules: LabelRules, table: np.ndarray) -> None:
    """Note in the table for colours that the rule has not been asked about which class is near."""
    values = np.unique(packed)
    places = nearest_colours(values, rules.known_colours, rules.mend.colours_within)
    near = np.where(places < len(rules.colours), places, IGNORE_INDEX) + 256
    table[values] = np.where(places < 0, _UNKNOWN, near)


def _resized(label: np.ndarray, mend: Mend, size: tuple[int, int] | None) -> tuple[np.ndarray, dict[str, int]]:
    if size is None or not mend.resize_within or label.shape[:2] == size:
        return label, {}
    if max(abs(label.shape[0] - size[0]), abs(label.shape[1] - size[1])) > mend.resize_within:
        return label, {}
    # The pixel whose middle is nearest.
    rows, cols = (((2 * np.arange(wanted) + 1) * had) // (2 * wanted) for wanted, had in zip(size, label.shape[:2], strict=True))
    return np.ascontiguousarray(label[rows[:, None], cols]), {"resize_within": size[0] * size[1]}


def _most(illegal: Mapping[int | str, int]) -> dict[int | str, int]:
    """The most frequent of them, the rest under one name."""
    if len(illegal) <= MOST_LISTED:
        return dict(illegal)
    ordered = sorted(illegal.items(), key=lambda item: -item[1])
    return dict(ordered[: MOST_LISTED - 1]) | {OTHERS: sum(count for _, count in ordered[MOST_LISTED - 1 :])}


def _shown(value: np.generic) -> int | str:
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 1e15 else f"{number:g}"
