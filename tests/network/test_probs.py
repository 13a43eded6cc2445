"""Softmax bears what networks give, and the mean of predictions is the mean of their probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from landseg.core.errors import LandsegError
from landseg.network.probs import mean_logits, softmax


def logits(shape: tuple[int, ...] = (3, 5, 8, 9), seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 5).astype(np.float32)


def test_softmax_bears_large_logits() -> None:
    found = softmax(np.array([[1e4, 0.0, -1e4], [3.0, 3.0, 3.0]], np.float32).reshape(2, 3, 1, 1))
    assert found.dtype == np.float32 and np.allclose(found.reshape(2, 3), [[1, 0, 0], [1 / 3] * 3])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softmax_is_its_definition_in_any_layout(dtype: type) -> None:
    values = logits().astype(dtype)
    powers = np.exp(values.astype(np.float64))
    expected = powers / powers.sum(1, keepdims=True)
    tolerance = 5e-3 if dtype is np.float16 else 1e-6
    before = values.copy()
    for change in (lambda a: a, lambda a: a[:, :, ::-1], lambda a: a.swapaxes(2, 3)):
        found = softmax(change(values))
        assert found.dtype == np.float32 and np.allclose(found, change(expected), atol=tolerance)
    assert np.array_equal(values, before), "what is handed in is left alone"


def test_the_mean_is_that_of_the_probabilities() -> None:
    several = [logits(seed=i) for i in range(3)]
    found = mean_logits(iter(several))
    assert found.dtype == np.float32
    assert np.allclose(softmax(found), np.mean([softmax(one) for one in several], axis=0), atol=1e-6)
    assert np.allclose(softmax(mean_logits(several[:1])), softmax(several[0]), atol=1e-6)


def test_what_is_impossible_for_all_stays_finite_and_what_is_no_number_does_not_vanish() -> None:
    sure = np.array([1e4, -1e4], np.float32).reshape(1, 2, 1, 1)
    assert np.isfinite(mean_logits([sure, sure])).all()
    assert np.isnan(mean_logits([sure, np.full_like(sure, np.nan)])).all()


def test_nothing_has_no_mean() -> None:
    with pytest.raises(LandsegError, match="there is none"):
        mean_logits([])
