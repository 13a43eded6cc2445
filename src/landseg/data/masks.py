"""Masks as run lengths, in the ways that labelling tools write them. It draws no outlines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from landseg.data.documents import Faults, numbers
from landseg.data.tiles import MAX_PIXELS, UnreadableTile


class Mask(NamedTuple):
    """A mask in a box of the image, as run lengths, alternately off and on; after the last run it is off.

    Args:
        counts: Little-endian uint32, or COCO's compressed text when `is_packed`.
        height: Of the box.
        width: Of the box.
        row: Of the box's upper left pixel in the image.
        col: Likewise.
        by_columns: The runs go down the columns (COCO), not along the rows.
    """

    counts: bytes
    is_packed: bool
    height: int
    width: int
    row: int = 0
    col: int = 0
    by_columns: bool = False


def runs(
    counts: object, box: tuple[int, int], faults: Faults, *, corner: tuple[int, int] = (0, 0), by_columns: bool = False
) -> Mask | None:
    """Check the run lengths of a mask.

    Args:
        counts: Lengths, alternately off and on: numbers, or COCO's compressed text.
        box: Height and width of the box.
        faults: Counts the reason when they cannot be used.
        corner: Row and column of the box in the image.
        by_columns: The runs go down the columns.
    """
    if isinstance(counts, str):
        mask = Mask(counts.encode("utf-8", "replace"), True, *box, *corner, by_columns)
    else:
        array = numbers(counts)
        if array is None or array.ndim != 1 or not ((array >= 0) & (array <= MAX_PIXELS)).all() or (array % 1).any():
            faults["masks whose run lengths are no whole numbers"] += 1
            return None
        mask = Mask(array.astype("<u4").tobytes(), False, *box, *corner, by_columns)
    lengths = _lengths(mask)
    if lengths is None or lengths.sum() > box[0] * box[1]:
        faults["masks whose run lengths do not fit their size"] += 1
        return None
    return mask


def count_pixels(mask: Mask) -> int:
    """How many pixels are on."""
    lengths = _lengths(mask)
    return 0 if lengths is None else int(lengths[1::2].sum())


def paste(mask: Mask, value: int, label: np.ndarray) -> None:
    """Set a label (H, W) to `value` where the mask is on; what of it lies outside is cut off.

    Raises:
        UnreadableTile: The mask is larger than the label.
    """
    lengths = _lengths(mask)
    if lengths is None or mask.height > label.shape[0] or mask.width > label.shape[1]:
        raise UnreadableTile(f"a mask of {mask.height} × {mask.width} pixels, the image has {label.shape[0]} × {label.shape[1]}")
    flat = np.zeros(mask.height * mask.width, bool)
    drawn = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    flat[: len(drawn)] = drawn
    box = flat.reshape(mask.width, mask.height).T if mask.by_columns else flat.reshape(mask.height, mask.width)
    top, left = max(mask.row, 0), max(mask.col, 0)
    place = label[top : max(mask.row + mask.height, 0), left : max(mask.col + mask.width, 0)]
    place[box[top - mask.row :, left - mask.col :][: place.shape[0], : place.shape[1]]] = value


def _lengths(mask: Mask) -> np.ndarray | None:
    """Run lengths, int64; None when the compressed text is damaged.

    Not by pycocotools (2.0.11): it reads past the end of a text that stops within a number, and its `decode` warns under NumPy 2.
    Source: cocodataset/cocoapi, common/maskApi.c, rleFrString: five bits a character, lowest first, the sixth says that more follow; from
    the fourth number on, the difference from the last but one.
    """
    if not mask.is_packed:
        return np.frombuffer(mask.counts, "<u4").astype(np.int64)
    codes = np.frombuffer(mask.counts, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    is_last = (codes & 32) == 0
    if codes.min() < 0 or codes.max() > 63 or not is_last[-1]:
        return None
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    digits = np.diff(np.append(starts, len(codes)))
    if digits.max() > 7:
        return None
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    steps = np.add.reduceat((codes & 31) << (5 * place), starts)
    steps -= ((codes[is_last] & 16) != 0).astype(np.int64) << (5 * digits)
    lengths = steps.copy()
    lengths[1::2] = np.cumsum(steps[1::2])
    lengths[2::2] = np.cumsum(steps[2::2])
    return lengths if lengths.min() >= 0 else None
