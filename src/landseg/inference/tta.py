"""Test-time augmentation: a model sees each image several times, changed, and its probabilities are averaged. It needs no torch.

What comes out is an engine again, so that tiles, pieces of large images and scores know nothing of it. The views of a batch are predicted
one after another: memory stays that of one view, and time is that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from landseg.core.errors import LandsegError
from landseg.network.probs import mean_logits

if TYPE_CHECKING:
    from landseg.network.engine import Engine

SCALES = (0.75, 1.0, 1.25)
"""Factors by which the network sees images larger than it otherwise would. Source: the inner three of the six that Chen et al. 2017
(DeepLabv3, arXiv 1706.05587, section 4) evaluate with; 1.5 and 1.75 alone would cost more than these three together."""

_SYMMETRIES = [(is_turned, rows, cols) for is_turned in (False, True) for rows in (1, -1) for cols in (1, -1)]
"""(rows and columns change places, step along rows, step along columns); the first is the image itself."""

Views = Callable[["Engine", np.ndarray, float], Iterator[np.ndarray]]
"""An engine, (N, H, W, C) images and their scale → the logits of one view after another, (N, K, H, W), each in the images' own place."""


class Augmented:
    """An engine that averages the probabilities of several views; its logits are the logarithms of the mean."""

    def __init__(self, engine: Engine, views: Views) -> None:
        self.card = engine.card
        self.runtime = engine.runtime
        self.lanes = engine.lanes
        self._engine = engine
        self._views = views

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32."""
        return mean_logits(self._views(self._engine, images, scale))

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        return np.asarray(self.logits(images).argmax(1), np.uint8)


def augmented(engine: Engine, tta: str) -> Engine:
    """An engine with test-time augmentation around it.

    Args:
        engine: A model, or an ensemble.
        tta: ``none`` gives the engine itself. ``d4``: the eight flips and quarter turns, eight times the work. ``scales``: the three sizes
            of `SCALES`, 3.1 times the work and, for the largest of them, 1.6 times the memory.

    Raises:
        LandsegError: No such augmentation.
    """
    require_known(tta)
    views = _KNOWN[tta]
    return engine if views is None else Augmented(engine, views)


def require_known(tta: str) -> str:
    """The name of an augmentation, once it is known to be one.

    Raises:
        LandsegError: It is none.
    """
    if tta not in _KNOWN:
        raise LandsegError("tta", f"{tta!r}", f"one of {', '.join(_KNOWN)}", "name one of them")
    return tta


def _symmetries(engine: Engine, images: np.ndarray, scale: float) -> Iterator[np.ndarray]:
    for is_turned, rows, cols in _SYMMETRIES:
        # A copy: of an axis of length 1 `ascontiguousarray` would keep the negative step, which torch refuses.
        view = (images.swapaxes(1, 2) if is_turned else images)[:, ::rows, ::cols].copy()
        yield engine.logits(view, scale)[:, :, ::rows, ::cols].transpose(0, 1, *((3, 2) if is_turned else (2, 3)))


def _sizes(engine: Engine, images: np.ndarray, scale: float) -> Iterator[np.ndarray]:
    for factor in SCALES:
        yield engine.logits(images, scale * factor)


_KNOWN: dict[str, Views | None] = {"none": None, "d4": _symmetries, "scales": _sizes}
