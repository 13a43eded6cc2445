"""What is drawn for the tiles of one batch: chances, even numbers and factors, functions of (seed, epoch, tile). It changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landseg.training.draws import uniform


@dataclass(frozen=True)
class Choices:
    """The draws of a batch: seed of the run, epoch from 0, and the tiles' keys (N,) uint64."""

    seed: int
    epoch: int
    keys: np.ndarray

    def happens(self, share: float, purpose: str) -> np.ndarray:
        """(N,) bool, True for a `share` of all tiles."""
        if share == 0:
            return np.zeros(len(self.keys), bool)
        return np.asarray(self._unit(purpose) < share)

    def between(self, low: float, high: float, purpose: str) -> np.ndarray:
        """(N,) float64, even in low..high."""
        return low + (high - low) * self._unit(purpose)

    def either_way(self, largest: float, purpose: str) -> np.ndarray:
        """(N,) float64, even in -largest..largest; all 0 where that is 0."""
        return self.between(-largest, largest, purpose) if largest else np.zeros(len(self.keys))

    def factor(self, low: float, high: float, purpose: str) -> np.ndarray:
        """(N,) float64 in low..high, its logarithm even there: doubling is as likely as halving."""
        return np.asarray(np.exp(self.between(np.log(low), np.log(high), purpose)))

    def whole(self, count: int, purpose: str) -> np.ndarray:
        """(N,) int64, each of 0..count-1 alike."""
        return (self._unit(purpose) * count).astype(np.int64)

    def field(self, rows: int, cols: int, purpose: str) -> np.ndarray:
        """(N, rows, cols) float64, even in 0..1."""
        values = [self._unit(f"{purpose} {k}") for k in range(rows * cols)]
        return np.stack(values, 1).reshape(len(self.keys), rows, cols)

    def _unit(self, purpose: str) -> np.ndarray:
        return uniform(self.seed, self.epoch, self.keys, purpose)
