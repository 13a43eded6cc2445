"""Images through a network one by one, several at a time, each on a core of its own: an engine around a runtime for CPUs.

No image's result depends on what else is computed, on how many cores there are or on how images were batched: each is a run of its own.
A batch at a time on all cores is slower besides: the values between two layers of one small image stay in a core's cache.

Vocabulary: a *lane* is a core that computes an image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.machine import cores, memory
from landseg.network.card import ModelCard
from landseg.network.probs import best_classes
from landseg.network.sizes import enlarged, fit, pad

Run = Callable[[np.ndarray], np.ndarray]
"""Images as a network takes them, float32 → logits (N, K, h, w) float32."""

PIXEL_BYTES = 4096
"""Memory allowed for a pixel at work. Measured at 768 × 768: 1,375 of unetplusplus on resnet50, 230 of the default network."""


class LaneEngine:
    """A network that a runtime computes an image at a time, on as many lanes as there are cores.

    Args:
        run: The network; may be called from several threads at once, and computes on the calling one.
        card: What the model is.
        runtime: Name and version of what runs it.
        is_decoded: `run` takes (N, H, W, B), as images are decoded; otherwise (N, B, H, W).
        lanes: Images at a time; the cores that this process may use when None.
    """

    def __init__(self, run: Run, card: ModelCard, runtime: str, *, is_decoded: bool = True, lanes: int | None = None) -> None:
        self.card = card
        self.runtime = runtime
        self.lanes = lanes or cores()
        self._run = run
        self._is_decoded = is_decoded
        self._pool: ThreadPoolExecutor | None = None
        room = memory()
        self._gate = _Gate(2**62 if room is None else room.free // 2 // PIXEL_BYTES)

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32."""
        return np.concatenate(self._each(lambda image: self._logits(image, scale), images))

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        return np.stack(self._each(lambda image: best_classes(self._logits(image, 1.0)[0])[0], images))

    def _each(self, job: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> list[np.ndarray]:
        singles = [images[i : i + 1] for i in range(len(images))]
        if len(singles) == 1 or self.lanes == 1:  # on the thread that asks: who asks from several has lanes of his own
            return [job(image) for image in singles]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.lanes)
        return list(self._pool.map(job, singles))

    def _logits(self, image: np.ndarray, scale: float) -> np.ndarray:
        """(1, H, W, C) → (1, K, H, W)."""
        height, width = image.shape[1:3]
        # The two factors as one: an image is resampled once, from all of its pixels.
        seen = fit(image, self.card.factor * scale)
        ready = pad(seen).astype(np.float32, copy=False)
        with self._gate.passed(ready.shape[1] * ready.shape[2]):
            found = self._run(np.ascontiguousarray(ready if self._is_decoded else ready.transpose(0, 3, 1, 2)))
        return enlarged(found[:, :, : seen.shape[1], : seen.shape[2]], height, width)


class _Gate:
    """Lets images pass until they have so many pixels together; a larger one alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._changed = threading.Condition()

    @contextmanager
    def passed(self, pixels: int) -> Iterator[None]:
        """Within, an image is computed; waits for its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside == 0 or self._inside + pixels <= self._most)
            self._inside += pixels
        try:
            yield
        finally:
            with self._changed:
                self._inside -= pixels
                self._changed.notify_all()


def failed(runtime: str, images: np.ndarray, error: Exception) -> LandsegError:
    """The four-part error for images that a runtime did not come through with."""
    shape = " × ".join(map(str, images.shape))
    found = f"{runtime} failed on an array of {shape} ({first_line(error)})"
    return LandsegError("predict", found, "memory for it, and a network for any size", "--set predict.engine=torch, or smaller images")


def first_line(error: BaseException) -> str:
    """An error's words on one line, not too many."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:159]}…"
