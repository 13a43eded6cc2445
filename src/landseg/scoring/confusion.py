"""One confusion matrix and all scores from it. It reads no files, knows no model and estimates no uncertainty (`intervals` does).

Vocabulary: a *scored* pixel is one whose label is not the ignore index; a class is *absent* when no scored pixel has it in label or in
prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError

DEFINITION = (
    "Pixels are pooled over the whole part, never averaged per image; pixels whose label is the ignore index are left out. "
    "IoU of a class = TP / (TP + FP + FN). A class without a pixel in label and prediction is absent: its IoU is null and mIoU is the mean "
    "over the other classes; miou_absent_zero counts an absent class as 0, as PaddleX does. precision = user's accuracy = TP / (TP + FP), "
    "null where the class is never predicted; recall = producer's accuracy = TP / (TP + FN), null where no label has the class; "
    "F1 = 2 TP / (2 TP + FP + FN); kappa is Cohen's, null where label and prediction are one and the same class throughout. "
    "Rows of the confusion matrix are labels, columns predictions."
)
"""What every number of `Scores` means, in the words that travel with it."""

_BLOCK = 1 << 22  # pixels counted at a time: bounds the memory for a whole scene


@dataclass(frozen=True)
class Scores:
    """Every score of one confusion matrix; fractions 0..1, None where a score has no meaning.

    Args:
        iou: IoU by class name; None for an absent class, 0 for one that is only labelled or only predicted.
        precision: User's accuracy by class name; None where the class is never predicted.
        recall: Producer's accuracy by class name; None where no label has the class.
        f1: F1 by class name; None for an absent class.
        miou: Mean IoU over the classes that are not absent; None when nothing is scored.
        miou_absent_zero: Mean IoU in which an absent class counts as 0 (PaddleX's number); None when nothing is scored.
        overall_accuracy: Share of scored pixels with the right class; None when nothing is scored.
        kappa: Cohen's kappa; None when nothing is scored or when chance alone gives full agreement (a single class in both).
        confusion: (K, K) int64, rows = label, columns = prediction; read-only.
        pixels: Number of scored pixels.
        definition: What these numbers mean, in words.
    """

    iou: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    f1: dict[str, float | None]
    miou: float | None
    miou_absent_zero: float | None
    overall_accuracy: float | None
    kappa: float | None
    confusion: np.ndarray = field(compare=False, repr=False)
    pixels: int = 0
    definition: str = field(default=DEFINITION, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their ids."""
        return tuple(self.iou)

    def as_json(self) -> dict[str, Any]:
        """The scores as the JSON document of `landseg evaluate`: plain numbers, null for None, no NaN."""
        return {
            "miou": self.miou,
            "iou": dict(self.iou),
            "miou_absent_zero": self.miou_absent_zero,
            "overall_accuracy": self.overall_accuracy,
            "kappa": self.kappa,
            "f1": dict(self.f1),
            "precision": dict(self.precision),
            "recall": dict(self.recall),
            "confusion": [[int(count) for count in row] for row in self.confusion],
            "pixels": self.pixels,
            "definition": self.definition,
        }


def confusion_matrix(label: np.ndarray, pred: np.ndarray, count: int, ignore_index: int = IGNORE_INDEX) -> np.ndarray:
    """Count which class was predicted where which class was labelled; matrices of several tiles add up.

    Args:
        label: Class ids, any shape, any integer type; 0..K-1 or the ignore index.
        pred: Class ids of the same shape; 0..K-1 on every scored pixel, anything on the others.
        count: Number of classes K.
        ignore_index: The label value that does not score.

    Returns:
        (K, K) int64, rows = label, columns = prediction.

    Raises:
        LandsegError: Shapes differ, values are no integers, or a scored pixel has a label or a prediction outside 0..K-1.
    """
    if label.shape != pred.shape:
        raise LandsegError("prediction", f"shape {pred.shape}", f"the label's shape {label.shape}", "predict at the label's size")
    for name, values in (("label", label), ("prediction", pred)):
        if values.dtype.kind not in "iu":
            raise LandsegError(name, f"values of type {values.dtype}", "integer class ids", "take the argmax of the scores")
    total = np.zeros(count * count, np.int64)
    flat_label, flat_pred = label.reshape(-1), pred.reshape(-1)
    for start in range(0, flat_label.size, _BLOCK):
        rows, columns = flat_label[start : start + _BLOCK], flat_pred[start : start + _BLOCK]
        scored = rows != ignore_index
        if not scored.all():
            rows, columns = rows[scored], columns[scored]
        if rows.size == 0:
            continue
        _check_ids("label", rows, count, f" or the ignore index {ignore_index}")
        _check_ids("prediction", columns, count, "")
        total += np.bincount(rows.astype(np.int64) * count + columns.astype(np.int64), minlength=count * count)
    return total.reshape(count, count)


def scores(matrix: np.ndarray, names: Sequence[str]) -> Scores:
    """Compute every score of a confusion matrix.

    Args:
        matrix: (K, K) integers, rows = label, columns = prediction.
        names: K class names in the order of their ids.

    Returns:
        The scores, fractions 0..1, with the sentence that defines them.

    Raises:
        LandsegError: The matrix is no (K, K) of counts, or a name stands there twice.

    Source: IoU: Everingham et al. 2010, The PASCAL VOC Challenge, §4.1; user's and producer's accuracy: Congalton 1991, Remote Sensing of
        Environment 37; kappa: Cohen 1960, Educational and Psychological Measurement 20; `miou_absent_zero`: PaddleSeg's `metrics.mean_iou`.
    """
    counts = np.array(matrix)
    size = len(names)
    if counts.shape != (size, size) or counts.dtype.kind not in "iu" or counts.min(initial=0) < 0 or len(set(names)) != size:
        raise LandsegError(
            "confusion matrix", f"{counts.dtype} of shape {counts.shape} for the classes {', '.join(names)}",
            "counts (K, K), one row and column for each of K distinct names", "give the matrix that was counted for these classes",
        )  # fmt: skip
    counts = counts.astype(np.int64)
    counts.flags.writeable = False
    hits, labelled, predicted = _margins(counts)
    pixels = int(labelled.sum())
    return Scores(
        iou=_by_name(names, class_iou(counts)),
        precision=_by_name(names, _ratio(hits, predicted)),
        recall=_by_name(names, _ratio(hits, labelled)),
        f1=_by_name(names, _ratio(2 * hits, labelled + predicted)),
        miou=_number(mean_iou(counts)),
        miou_absent_zero=float(np.nan_to_num(class_iou(counts)).mean()) if pixels else None,
        overall_accuracy=_number(overall_accuracy(counts)),
        kappa=_number(kappa(counts)),
        confusion=counts,
        pixels=pixels,
    )


def class_iou(matrices: np.ndarray) -> np.ndarray:
    """IoU of each class: (..., K, K) counts → (..., K) float64, NaN where the class is absent."""
    hits, labelled, predicted = _margins(matrices)
    return _ratio(hits, labelled + predicted - hits)


def mean_iou(matrices: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that are not absent: (..., K, K) counts → (...) float64, NaN where nothing is scored."""
    iou = class_iou(matrices)
    return _ratio(np.nan_to_num(iou).sum(-1), np.isfinite(iou).sum(-1))


def overall_accuracy(matrices: np.ndarray) -> np.ndarray:
    """Share of scored pixels with the right class: (..., K, K) counts → (...) float64, NaN where nothing is scored."""
    hits, labelled, _ = _margins(matrices)
    return _ratio(hits.sum(-1), labelled.sum(-1))


def kappa(matrices: np.ndarray) -> np.ndarray:
    """Cohen's kappa: (..., K, K) counts → (...) float64, NaN where nothing is scored or chance alone gives full agreement."""
    # float64 before the products: counts of a large part squared leave int64.
    hits, labelled, predicted = (margin.astype(np.float64) for margin in _margins(matrices))
    pixels = labelled.sum(-1)
    chance = (labelled * predicted).sum(-1)
    return _ratio(pixels * hits.sum(-1) - chance, pixels**2 - chance)


def _margins(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class: pixels that are right, pixels that are labelled so, pixels that are predicted so."""
    return np.diagonal(matrices, axis1=-2, axis2=-1), matrices.sum(-1), matrices.sum(-2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, NaN where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result: np.ndarray = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


def _number(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _check_ids(name: str, values: np.ndarray, count: int, besides: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        where = int((values == wrong).sum())
        raise LandsegError(
            name, f"value {wrong} on {where} scored pixel{'s' if where > 1 else ''}", f"class ids 0..{count - 1}{besides}",
            "check that label and prediction have the same classes, and `remap` in dataset.yaml",
        )  # fmt: skip
