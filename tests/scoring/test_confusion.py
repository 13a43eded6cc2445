"""Scores equal scikit-learn's, absent classes and all-ignored input included."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from landseg.core.errors import LandsegError
from landseg.scoring.confusion import class_iou, confusion_matrix, kappa, mean_iou, overall_accuracy, scores


@st.composite
def parts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Label, prediction and K; only some of the classes occur, some pixels are ignored, sometimes all."""
    count = draw(st.integers(1, 7))
    labelled = draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    predicted = draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    label = random.choice(labelled, shape).astype(np.uint8)
    label[random.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 255
    return label, random.choice(predicted, shape).astype(np.uint8), count


@settings(max_examples=150, deadline=None)
@given(parts())
def test_every_score_equals_scikit_learn(part: tuple[np.ndarray, np.ndarray, int]) -> None:
    label, pred, count = part
    names = [f"class {i}" for i in range(count)]
    ids = list(range(count))
    result = scores(confusion_matrix(label, pred, count), names)
    scored = label != 255
    truth, guess = label[scored], pred[scored]
    assert result.pixels == scored.sum()
    if not truth.size:
        assert result.miou is result.miou_absent_zero is result.overall_accuracy is result.kappa is None
        assert set(result.iou.values()) == set(result.f1.values()) == {None}
        return
    if count > 1:  # scikit-learn warns of a single class
        assert np.array_equal(result.confusion, metrics.confusion_matrix(truth, guess, labels=ids))
    assert result.overall_accuracy == pytest.approx(metrics.accuracy_score(truth, guess))
    shared = {"labels": ids, "average": None, "zero_division": 0}
    iou = metrics.jaccard_score(truth, guess, **shared)
    references = {
        "iou": (iou, np.union1d(truth, guess)),
        "f1": (metrics.f1_score(truth, guess, **shared), np.union1d(truth, guess)),
        "precision": (metrics.precision_score(truth, guess, **shared), np.unique(guess)),
        "recall": (metrics.recall_score(truth, guess, **shared), np.unique(truth)),
    }
    for score, (reference, defined) in references.items():
        ours = getattr(result, score)
        assert list(ours) == names
        for i, name in enumerate(names):
            assert ours[name] == (pytest.approx(reference[i]) if i in defined else None)
    assert result.miou == pytest.approx(iou[np.union1d(truth, guess)].mean())
    assert result.miou_absent_zero == pytest.approx(iou.mean())
    if np.union1d(truth, guess).size == 1:  # chance alone agrees fully: scikit-learn divides by zero here
        assert result.kappa is None
    else:
        assert result.kappa == pytest.approx(metrics.cohen_kappa_score(truth, guess))


def test_present_only_predicted_and_absent_classes_are_told_apart() -> None:
    label = np.array([[0, 0, 0, 1], [255, 255, 255, 255]], np.uint8)
    pred = np.array([[0, 0, 2, 0], [3, 3, 9, 255]], np.uint8)
    result = scores(confusion_matrix(label, pred, 4), ["both", "missed", "invented", "absent"])
    assert result.iou == {"both": 0.5, "missed": 0.0, "invented": 0.0, "absent": None}
    assert result.precision == {"both": pytest.approx(2 / 3), "missed": None, "invented": 0.0, "absent": None}
    assert result.recall == {"both": pytest.approx(2 / 3), "missed": 0.0, "invented": None, "absent": None}
    assert result.f1 == {"both": pytest.approx(2 / 3), "missed": 0.0, "invented": 0.0, "absent": None}
    assert result.miou == pytest.approx(0.5 / 3)
    assert result.miou_absent_zero == pytest.approx(0.5 / 4)


@settings(max_examples=50, deadline=None)
@given(parts())
def test_json_holds_the_contracts_keys_and_no_nan(part: tuple[np.ndarray, np.ndarray, int]) -> None:
    label, pred, count = part
    document = scores(confusion_matrix(label, pred, count), [f"类 {i}" for i in range(count)]).as_json()
    back = json.loads(json.dumps(document, allow_nan=False))
    assert set(back) == {
        "miou", "iou", "miou_absent_zero", "overall_accuracy", "kappa", "f1", "precision", "recall", "confusion", "definition", "pixels"
    }  # fmt: skip
    assert scores(np.array(back["confusion"]), list(back["iou"])).as_json() == document  # every number can be recomputed


def test_matrices_of_parts_add_up_and_shape_does_not_matter() -> None:
    random = np.random.default_rng(1)
    label, pred = random.integers(0, 5, (2, 6, 40, 50), dtype=np.uint8)
    label[label == 4] = 255
    whole = confusion_matrix(label, pred, 5)
    assert whole.dtype == np.int64
    assert np.array_equal(whole, sum(confusion_matrix(one, two, 5) for one, two in zip(label, pred, strict=True)))
    assert np.array_equal(whole, confusion_matrix(label.ravel(), pred.astype(np.int64).ravel(), 5))
    assert np.array_equal(whole, confusion_matrix(label.T, pred.T, 5))


def test_counting_in_blocks_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    label, pred = random.integers(0, 3, (2, 31, 37), dtype=np.uint8)
    whole = confusion_matrix(label, pred, 3, ignore_index=2)
    monkeypatch.setattr("landseg.scoring.confusion._BLOCK", 100)
    assert np.array_equal(whole, confusion_matrix(label, pred, 3, ignore_index=2))
    assert whole[2].sum() == 0 and whole[:, 2].sum() > 0  # an ignore index among the ids: not scored as label, an error as prediction


def test_255_classes_do_not_overflow() -> None:
    ids = np.arange(255, dtype=np.uint8)
    assert np.array_equal(confusion_matrix(ids, ids, 255), np.eye(255, dtype=np.int64))


def test_large_counts_stay_exact() -> None:
    many = np.array([[3 * 10**12, 10**12], [10**12, 5 * 10**12]])
    small = many // 10**12
    for score in (kappa, mean_iou, overall_accuracy):
        assert math.isclose(score(many), score(small), rel_tol=1e-12)


def test_stacks_score_like_single_matrices() -> None:
    stack = np.random.default_rng(3).integers(0, 9, (6, 4, 4))
    stack[0] = 0
    stack[1, 2] = stack[1, :, 2] = 0
    for score in (class_iou, mean_iou, overall_accuracy, kappa):
        assert np.array_equal(score(stack), np.stack([score(one) for one in stack]), equal_nan=True)


@pytest.mark.parametrize(
    ("label", "pred", "message"),
    [
        ([0, 7], [0, 1], "label: value 7 on 1 scored pixel"),
        ([0, -1], [0, 1], "label: value -1"),
        ([0, 1, 1], [0, 5, 5], "prediction: value 5 on 2 scored pixels"),
        ([0, 1], [0, 255], "prediction: value 255"),
        ([[0, 1]], [0, 1], "shape"),
        ([0.0, 1.0], [0, 1], "label: values of type float64"),
        ([0, 1], [True, False], "prediction: values of type bool"),
    ],
)
def test_values_that_are_no_class_are_refused(label: list[int], pred: list[int], message: str) -> None:
    with pytest.raises(LandsegError, match=message):
        confusion_matrix(np.array(label), np.array(pred), 5)


@pytest.mark.parametrize("matrix", [np.zeros((2, 3), int), np.zeros((3, 3), int), np.full((2, 2), -1), np.zeros((2, 2))])
def test_a_matrix_that_is_none_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(LandsegError, match="confusion matrix"):
        scores(matrix, ["a", "b"])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(LandsegError, match="distinct"):
        scores(np.zeros((2, 2), int), ["a", "a"])
