"""Touching areas of one class, kept apart by a class that was learnt to lie between them. It draws no polygons.

The *divider* is that class, ``boundary`` as a rule: pixels along the outlines of objects, of which no parcel is made. They are dissolved:
each goes to the area that the flood of `flood` brings to it, over ground that is high where the divider is likely. An area never takes
pixels of another class, and one of the same class stays another where the ground between the two rises high enough. Where no file tells how
likely the divider is, the ground falls with the distance from its pixels: two areas that meet through a gap narrower than both are two.
Source: the three classes of Fields of The World (Kerner et al. 2024, arXiv:2409.16252): background, field, boundary of fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.grid import Window
from landseg.product.classmap import FRACTIONS, ClassMap, Fractions, open_fractions, probabilities_beside, windows
from landseg.product.components import NOTHING, OUTSIDE, Runs
from landseg.product.flood import FREE, NOWHERE, Strip, flood

_LEVELS, _STEPS = 200, 20
"""Steps of height, and of distance within each: pixels of the divider that are equally high go to the nearer area, up to so many away."""

_DEPTH, _DEPTH_OF_PIXELS = 0.25, 0.15
"""By how much the ground must rise between two areas of one class that stay apart, of 1: with probabilities, and without.

With them the ground is the root of the probability: by that measure its noise is alike everywhere, and a weak border between two sure
fields counts for more than an unsure place within one. Source: Bartlett 1936, doi:10.2307/2983678, of the root; measured, of the numbers.
"""

_FAR, _NEAR = 20, 3
"""Pixels from the divider from which on the ground is flat, and from which on its fall is about that of the logarithm."""

_STRIP_PIXELS = 1 << 22
"""Pixels flooded at a time; bounds memory, changes no result."""

_PIXEL_BYTES = 150
"""Memory that flooding takes by pixel of a strip at most. Source: measured, 124 in noise, bench/records/memory/2026-11-23-instances."""


@dataclass(frozen=True)
class Divided:
    """What the divider did.

    Args:
        name: Its class.
        probabilities: The file of its probabilities; None where there is none.
        dissolved: Its pixels that went to areas of other classes.
        left: Its pixels that no other class adjoins, and that stay what they are.
    """

    name: str
    probabilities: str | None
    dissolved: int
    left: int

    def as_json(self) -> dict[str, Any]:
        """The part of ``--json``."""
        return {
            "class": self.name,
            "probabilities": self.probabilities,
            "dissolved_pixels": self.dissolved,
            "left_pixels": self.left,
        }

    def as_text(self) -> str:
        """A line for a person."""
        by = "its pixels (no probabilities lie beside the map)" if self.probabilities is None else self.probabilities
        stayed = f"; {self.left:,} stay {self.name}, for no other class adjoins them" if self.left else ""
        return f"parcels are kept apart by {self.name}, by {by}: {self.dissolved:,} pixels of it went to parcels{stayed}"


def divide(
    source: ClassMap, name: str, rows: int | None, require: Callable[[str, int], None]
) -> tuple[Runs, np.ndarray, np.ndarray, Divided]:
    """The areas of a class raster when one of its classes is taken for what lies between them.

    Args:
        source: The class raster. The probabilities that `predict` put beside it are read too.
        name: Of the divider.
        rows: Flooded at a time; changes no result.
        require: Told before each strip for what memory is needed, and how much; refuses what is not free.

    Returns:
        Runs labelled 0..N-1 in the order of the areas' first pixels; (N,) uint8, the class of each; (K,) uint8, the ids in the raster; and
        what became of the divider's pixels.

    Raises:
        LandsegError: No class has that name, or the file of probabilities does not fit the raster.
    """
    divider = class_id(source, name)
    with ExitStack() as stack:
        beside = probabilities_beside(source.path)
        fractions = None if beside is None else stack.enter_context(open_fractions(beside, source.grid, "probabilities"))
        ground = _Ground(source, divider, fractions, name)
        step = rows or max(1, _STRIP_PIXELS // source.grid.width)
        depth = _DEPTH_OF_PIXELS if fractions is None else _DEPTH
        runs, kinds = flood(ground.strips(step, require), *source.grid.shape, round(depth * _LEVELS) * _STEPS)
    values = np.where(kinds == FREE, divider, kinds).astype(np.uint8)
    inside = runs.value != OUTSIDE
    left = int(runs.lengths[inside][kinds[runs.value[inside]] == FREE].sum())
    present = np.flatnonzero(ground.counts[:NOTHING]).astype(np.uint8)
    told = None if beside is None else beside.name
    return runs, values, present, Divided(name, told, int(ground.counts[divider]) - left, left)


def class_id(source: ClassMap, name: str) -> int:
    """The id of the class of this name.

    Raises:
        LandsegError: There is none.
    """
    for i, item in source.classes(np.arange(NOTHING)).items():
        if item.name == name:
            return i
    named = [item.name for item in source.classes(np.empty(0, np.uint8)).values()]
    needed = f"one of {', '.join(named)[:300]}" if named else f"class 0 to class {NOTHING - 1}, for its classes have no names"
    raise LandsegError(
        source.path,
        f"no class is named {name}",
        needed,
        "name what lies between parcels: --instances CLASS; or train on tiles cut with cut.boundary_m",
    )


class _Ground:
    """The landscape that is flooded, strip by strip.

    Attributes:
        counts: (256,) int64 pixels of each class read so far.
    """

    def __init__(self, source: ClassMap, divider: int, fractions: Fractions | None, name: str) -> None:
        self._source, self._divider, self._fractions = source, divider, fractions
        self._band = 0 if fractions is None else _band_of(source, divider, fractions, name)
        self.counts = np.zeros(256, np.int64)

    def strips(self, rows: int, require: Callable[[str, int], None]) -> Iterator[Strip]:
        """Strips of so many rows, each with the rows beside it."""
        grid = self._source.grid
        for window in windows(grid, rows, Path(self._source.path).name):
            pixels = (window.height + 2 * _FAR) * window.width
            require(f"strips of {window.height:,} × {window.width:,} pixels to flood", pixels * _PIXEL_BYTES)
            # As far as distances are counted, so that they are the same whatever a strip is.
            first, last = max(0, window.row - _FAR), min(grid.height, window.row + window.height + _FAR)
            read = Window(first, 0, last - first, grid.width)
            values = self._source.read(read)
            kind, height = self._kinds(values), self._heights(values, read)
            top, bottom = window.row - first, window.row - first + window.height
            self.counts += np.bincount(values[top:bottom].reshape(-1), minlength=256)
            yield Strip(_framed(kind, top, bottom, NOWHERE), _framed(height, top, bottom, 0))

    def _kinds(self, values: np.ndarray) -> np.ndarray:
        table = np.arange(256, dtype=np.int16)
        table[self._divider], table[NOTHING] = FREE, NOWHERE
        return np.asarray(table[values])

    def _heights(self, values: np.ndarray, read: Window) -> np.ndarray:
        """(height, width) uint16: how high the ground is; of equally high divider pixels, the further from other classes the higher."""
        is_divider = values == self._divider
        if self._fractions is None:
            far = _distance(is_divider, _FAR)
            share = 1 - np.log1p(far / _NEAR) / np.log1p(_FAR / _NEAR)
        else:
            fractions, known = self._fractions.read(read, self._band)
            share = np.where(known, np.sqrt(fractions / FRACTIONS), is_divider)
        level = np.rint(share * _LEVELS).astype(np.uint16)
        far = _distance(~is_divider & (values != NOTHING), _STEPS - 1)
        return np.asarray(level * np.uint16(_STEPS) + np.where(is_divider, far, 0).astype(np.uint16))


def _distance(places: np.ndarray, most: int) -> np.ndarray:
    """(height, width) float32: how far the nearest of some pixels ((height, width) bool) is, in pixels, `most` at the most.

    By steps to pixels beside it, which err by 2 %: what lies further than `most` changes nothing, not even by rounding.
    """
    if not places.any():
        return np.full(places.shape, most, np.float32)
    return np.minimum(cv2.distanceTransform((~places).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5), np.float32(most))


def _framed(values: np.ndarray, top: int, bottom: int, beyond: int) -> np.ndarray:
    """Rows from `top` to `bottom` with the one above and the one below, `beyond` where there is none."""
    framed = np.full((bottom - top + 2, values.shape[1]), beyond, values.dtype)
    framed[1:-1] = values[top:bottom]
    if top:
        framed[0] = values[top - 1]
    if bottom < len(values):
        framed[-1] = values[bottom]
    return framed


def _band_of(source: ClassMap, divider: int, fractions: Fractions, name: str) -> int:
    """The band of the divider, by its name, or by its id where bands have none.

    Raises:
        LandsegError: There is none.
    """
    names = fractions.names
    if name in names:
        return names.index(name) + 1
    if any(names) or divider >= len(names):
        found = f"{len(names)} bands, none of them called {name}"
        raise LandsegError(fractions.path, found, f"a band for each class of {source.path}", "make both together, or move it away")
    return divider + 1
