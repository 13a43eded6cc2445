"""Random numbers that are functions of (seed, epoch, tile), whatever the batch, the workers or the processes.

Source: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), used as a hash of its counter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

_STEP = np.uint64(0x9E3779B97F4A7C15)


def tile_keys(names: Sequence[str]) -> np.ndarray:
    """(N,) uint64, one key a tile name: a tile keeps its draws when others join or leave the data set."""
    return np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64)


def uniform(seed: int, epoch: int, keys: np.ndarray, purpose: str) -> np.ndarray:
    """(N,) float64 in [0, 1), one a key; another `purpose` draws other numbers."""
    salt = xxhash.xxh3_64_intdigest(f"{seed} {epoch} {purpose}".encode())
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(keys ^ np.uint64(salt)) + _STEP)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def step_seed(seed: int, epoch: int, step: int, process: int = 0) -> int:
    """The seed of what a network itself draws in a step (dropout), in each process that shares it other draws; 63 bits."""
    more = f" {process}" if process else ""
    return xxhash.xxh3_64_intdigest(f"{seed} {epoch} {step} step{more}".encode()) >> 1


def _mix(values: np.ndarray) -> np.ndarray:
    z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
