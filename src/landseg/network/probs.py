"""Logits and probabilities as arrays of numpy: softmax, and the mean of several predictions of the same images. It runs no network."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from landseg.core.errors import LandsegError


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over axis 1, float32. An image at a time, whose values stay in the cache.

    Args:
        logits: (N, K, …) of any layout in memory, which the result shares.
    """
    probs = np.empty_like(logits, np.float32)
    for one, out in zip(logits, probs, strict=True):
        np.subtract(one, one.max(axis=0), out=out)
        np.exp(out, out=out)
        out /= out.sum(axis=0)
    return probs


def mean_logits(predictions: Iterable[np.ndarray]) -> np.ndarray:
    """The logarithms of the mean probabilities of several predictions, summed in the order in which they come.

    Args:
        predictions: (N, K, H, W) logits each; drawn one by one, and let go before the next.

    Returns:
        (N, K, H, W) float32, whose softmax is the mean of the predictions' softmax.

    Raises:
        LandsegError: There is none.
    """
    total: np.ndarray | None = None
    count = 0
    for logits in predictions:
        probs = softmax(logits)
        count += 1
        total = probs if total is None else np.add(total, probs, out=total)
        del logits, probs  # else they would stay in memory while the next are predicted
    if total is None:
        raise LandsegError("predictions", "there is none", "at least one", "name a model")
    total /= count
    np.maximum(total, np.finfo(np.float32).tiny, out=total)  # the logarithm of 0 is none
    return np.asarray(np.log(total, out=total))


def best_classes(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class with the highest logit, the first of equals, and that logit: (K, h, w) → uint8 and float32 (h, w); faster than `argmax`."""
    best = logits[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    for k in range(1, len(logits)):
        np.copyto(ids, k, where=logits[k] > best)
        np.maximum(best, logits[k], out=best)
    return ids, best
