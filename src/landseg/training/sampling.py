"""Which tiles an epoch is made of: those with labels, and those with much of a rare class more often. It reads no pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.core.settings import SampleConfig
from landseg.data.packing import Entry
from landseg.training.draws import uniform


def with_labels(entries: Sequence[Entry], indices: Sequence[int], settings: SampleConfig) -> list[int]:
    """The tiles to train on, in the order given.

    Args:
        entries: Of the store.
        indices: Which of them; where none has a labelled pixel, or nobody counted, all stay.
        settings: `sample.drop_unlabelled`.
    """
    kept = [i for i in indices if sum(entries[i].class_pixels) or not entries[i].class_pixels]
    return kept if kept and settings.drop_unlabelled else list(indices)


def class_pixels(entries: Sequence[Entry], indices: Sequence[int]) -> list[int]:
    """Labelled pixels a class of some tiles, in the order of the ids."""
    return [sum(column) for column in zip(*(entries[i].class_pixels for i in indices), strict=True)]


def factors(entries: Sequence[Entry], indices: Sequence[int], settings: SampleConfig) -> np.ndarray:
    """How often each tile is wanted, (N,) float64, against one without a rare class: from 1 to `sample.repeat`.

    A class of share s is wanted w = sqrt(rare / s) times as often. A tile that holds w times the class's share, or more, comes w times as
    often; one that holds less, in proportion. Else one stray pixel would count as much as a tile full of the class, and where all tiles
    hold a few, all would come alike.

    Args:
        entries: Of the store.
        indices: (N,) which of them; the classes' shares are those of these tiles together.
        settings: `sample.repeat` and `sample.rare`.

    Source: Gupta et al. 2019, "LVIS", section 5.2 (repeat factor sampling): max over a tile's classes of sqrt(t / f); there f is a share
    of images, here of labelled pixels, because nearly every tile of a landscape holds a few pixels of every class, and so what a tile
    holds counts too.
    """
    counts = np.array([entries[i].class_pixels for i in indices], np.int64).reshape(len(indices), -1)
    total = counts.sum(0)
    share = np.where(total > 0, total / max(1, total.sum()), 1.0)
    wanted = np.sqrt(settings.rare / share).clip(1.0, settings.repeat)
    held = counts / np.maximum(1, counts.sum(1, keepdims=True))
    return np.asarray((1 + (wanted - 1) * (held / (share * wanted)).clip(max=1)).max(1, initial=1.0))


def copies(wanted: np.ndarray, seed: int, epoch: int, keys: np.ndarray) -> np.ndarray:
    """How often each tile comes in an epoch, (N,) int64; N in all, so that an epoch keeps its length.

    On average a tile comes N * wanted / sum(wanted) times, and in each epoch that number rounded down or up (systematic sampling, with
    the offset and the tiles' order drawn anew).

    Args:
        wanted: (N,) of `factors`.
        seed: Of the run.
        epoch: From 0.
        keys: (N,) uint64, the tiles' keys.
    """
    order = np.argsort(uniform(seed, epoch, keys, "sample"), kind="stable")
    offset = uniform(seed, epoch, np.zeros(1, np.uint64), "sample offset")[0]
    ends = np.cumsum(wanted[order])
    # The last end is the length itself, whatever the rounding: an offset below 1 then leaves exactly N marks under it.
    marks = np.ceil(np.append(ends[:-1] * (len(wanted) / ends[-1]), len(wanted)) - offset).astype(np.int64)
    found = np.empty(len(wanted), np.int64)
    found[order] = np.diff(marks, prepend=0)
    return found
