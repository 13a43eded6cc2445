"""The loss equals a plain reference, leaves the ignore index out, and survives batches without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landseg.core.classes import IGNORE_INDEX
from landseg.core.config import LossConfig
from landseg.core.errors import LandsegError
from landseg.network.loss import make_loss

torch.set_num_threads(1)

K = 5


def batch(seed: int, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, (3, 7, 6)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = IGNORE_INDEX
    return torch.from_numpy(rng.normal(0, 3, (3, K, 7, 6)).astype(np.float32)), torch.from_numpy(labels)


def reference(logits: torch.Tensor, labels: torch.Tensor, weights: tuple[float, ...] | None, smoothing: float) -> float:
    """Mean over the labelled pixels, each with its class's weight; smoothing spreads a share of the target over all classes."""
    scores, ids = np.moveaxis(logits.numpy().astype(np.float64), 1, -1).reshape(-1, K), labels.numpy().reshape(-1)
    factor = np.ones(K) if weights is None else np.array(weights)
    total = weight = 0.0
    for row, label in zip(scores, ids, strict=True):
        if label == IGNORE_INDEX:
            continue
        log_probs = row - row.max() - np.log(np.exp(row - row.max()).sum())
        target = np.full(K, smoothing / K)
        target[label] += 1 - smoothing
        total -= float((target * factor * log_probs).sum())
        weight += factor[label]
    return total / weight


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 0.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.97])
def test_it_equals_a_plain_reference(weights: tuple[float, ...] | None, smoothing: float, ignored: float) -> None:
    logits, labels = batch(4, ignored)
    loss = make_loss(LossConfig(class_weights=weights, label_smoothing=smoothing), K)
    assert float(loss(logits, labels)) == pytest.approx(reference(logits, labels, weights, smoothing), rel=1e-5)


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 0.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_labels_is_zero_with_zero_gradients(
    weights: tuple[float, ...] | None, smoothing: float, dtype: torch.dtype
) -> None:
    logits = (100 * torch.randn(2, K, 4, 4)).to(dtype).requires_grad_()
    loss = make_loss(LossConfig(class_weights=weights, label_smoothing=smoothing), K)
    value = loss(logits, torch.full((2, 4, 4), IGNORE_INDEX, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_a_class_that_weighs_nothing_is_zero_too(smoothing: float) -> None:
    logits = torch.randn(2, K, 4, 4, requires_grad=True)
    loss = make_loss(LossConfig(class_weights=(1.0, 1.0, 1.0, 0.0, 1.0), label_smoothing=smoothing), K)
    value = loss(logits, torch.full((2, 4, 4), 3, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None and not logits.grad.any()


def test_ignored_pixels_get_no_gradient_whatever_their_logits() -> None:
    logits, labels = batch(1)
    logits = logits.where(labels[:, None] != IGNORE_INDEX, 1e4).requires_grad_()
    make_loss(LossConfig(), K)(logits, labels).backward()
    assert logits.grad is not None
    is_ignored = (labels == IGNORE_INDEX)[:, None].expand_as(logits)
    assert not logits.grad[is_ignored].any() and logits.grad[~is_ignored].all()


def test_one_labelled_pixel_among_many_counts_in_full() -> None:
    labels = torch.full((1, 64, 64), IGNORE_INDEX, dtype=torch.uint8)
    labels[0, 3, 5] = 2
    assert float(make_loss(LossConfig(), K)(torch.zeros(1, K, 64, 64), labels)) == pytest.approx(np.log(K))


@pytest.mark.parametrize("weights", [(1.0,), (1.0,) * 6, (-1.0, 1, 1, 1, 1), (0.0,) * 5])
def test_class_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(LandsegError, match=r"loss\.class_weights.*5 numbers"):
        make_loss(LossConfig(class_weights=weights), K)
