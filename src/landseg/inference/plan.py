"""How one scene is cut into windows and seen by a model, decided before a pixel is read. It predicts nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landseg.core.earth import is_square, pixel_size_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.data.bands import chosen_bands, taken_by_name
from landseg.data.raster import Scene
from landseg.inference.blend import Side

if TYPE_CHECKING:
    from landseg.network.card import ModelCard

EDGE = 512
"""Edge length in pixels of what the network sees of a window, where tiles of training were no larger."""

MOST_EDGE = 2048
"""Of a window in pixels of the scene; where a scene is much finer than the model, the network sees less than `EDGE` of it."""

ALIKE = 0.1
"""A resolution that differs from the model's by less than this share is taken as the model's: augmentation varies it by more."""

FURTHEST = 8.0
"""Most by which resolutions may differ; beyond, a scene shows other things than those that the model was trained on."""


@dataclass(frozen=True)
class Choices:
    """How scenes are predicted and what is written.

    Args:
        overlap: Share of a window's edge that neighbours have in common at least.
        window: Edge length of windows in pixels of the scene; None follows the model.
        exact: Refuse a scene of another resolution than the model's.
        bands: Bands to take of each scene, by number from 1, name or wavelength; None takes those called as the model's, or all.
        bounds: (left, bottom, right, top) in units of the scene's CRS: the part to predict.
        confidence: Also write the probability of the class that was chosen.
        probabilities: Also write those of all classes.
    """

    overlap: float = 0.25
    window: int | None = None
    exact: bool = False
    bands: tuple[int | str, ...] | None = None
    bounds: tuple[float, float, float, float] | None = None
    confidence: bool = False
    probabilities: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The rasters that are written, the class map last: once a strip of it is there, those of the others are."""
        return (*("probabilities",) * self.probabilities, *("confidence",) * self.confidence, "classes")


@dataclass(frozen=True)
class Plan:
    """How one scene is cut, seen and written.

    Attributes:
        part: What is predicted of the scene.
        rows: Windows along its height.
        cols: Windows along its width.
        scale: By which the network sees the scene higher and wider than it otherwise would; they differ where the scene's pixels are
            not square on the ground, as in degrees.
        bands: Numbers of the bands, from 1.
        notes: What a user should know.
    """

    part: Window
    rows: Side
    cols: Side
    scale: tuple[float, float]
    bands: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def strips(self) -> list[tuple[int, int]]:
        """(first, last + 1) row, counted from the part's first, of what each row of windows completes."""
        first, last = self.part.row, self.part.row + self.part.height
        cut = [(max(begin, first), min(end, last)) for begin, end in zip(self.rows.bounds[:-1], self.rows.bounds[1:], strict=True)]
        return [(begin - first, end - first) for begin, end in cut if begin < end]


def plan_scene(scene: Scene, card: ModelCard, choices: Choices) -> Plan:
    """Decide how a scene is predicted; reads no pixels.

    Raises:
        LandsegError: Bands, type or resolution do not fit the model, or `bounds` lie beside the scene.
    """
    bands, notes = _bands(scene, card, choices.bands)
    if scene.dtype != card.dtype:
        raise LandsegError(
            scene.path, f"{scene.dtype} pixels", f"the model was trained on {card.dtype}",
            "predict scenes of the same kind, or train a model on these",
        )  # fmt: skip
    scale, said = _scale(scene, card, choices.exact)
    seen = max(EDGE, round(max(card.tile_size) * card.factor))
    high, wide = (choices.window or max(32, min(MOST_EDGE, round(seen / (card.factor * step)))) for step in scale)
    part = Window(0, 0, *scene.grid.shape) if choices.bounds is None else part_within(scene.path, scene.grid, choices.bounds)
    rows, cols = Side(scene.grid.height, high, choices.overlap), Side(scene.grid.width, wide, choices.overlap)
    return Plan(part, rows, cols, scale, bands, (*notes, *said))


def part_within(path: str, grid: Grid, bounds: tuple[float, float, float, float]) -> Window:
    """The smallest window of a grid that holds what it shares with bounds (left, bottom, right, top) in units of its CRS.

    Raises:
        LandsegError: They are no bounds, share nothing with the grid, or the grid lies nowhere.
    """
    left, bottom, right, top = bounds
    if not (all(math.isfinite(value) for value in bounds) and left < right and bottom < top):
        raise LandsegError("--bounds", " ".join(f"{value:g}" for value in bounds), "left bottom right top", "give the smaller value first")
    if grid.transform.is_identity:
        raise LandsegError(path, "it has no place on earth", "a georeference for --bounds", "predict all of it, or assign one")

    def corners(transform: object, xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
        places = [transform @ (x, y) for x in xs for y in ys]  # type: ignore[operator]
        return [place[0] for place in places], [place[1] for place in places]

    slack = 1e-6  # of a pixel: bounds that were computed from the grid itself come back as its own pixels
    cols, rows = corners(~grid.transform, (left, right), (bottom, top))
    row, col = max(0, math.floor(min(rows) + slack)), max(0, math.floor(min(cols) + slack))
    end_row, end_col = min(grid.height, math.ceil(max(rows) - slack)), min(grid.width, math.ceil(max(cols) - slack))
    if row >= end_row or col >= end_col:
        xs, ys = corners(grid.transform, (0, grid.width), (0, grid.height))
        own = " ".join(f"{value:.12g}" for value in (min(xs), min(ys), max(xs), max(ys)))
        name = "no CRS" if grid.crs is None else grid.crs.to_string()[:40]
        raise LandsegError("--bounds", f"nothing of {path} lies in them", f"some of its own, {own} ({name})", "give them in that CRS")
    return Window(row, col, end_row - row, end_col - col)


def _bands(scene: Scene, card: ModelCard, chosen: tuple[int | str, ...] | None) -> tuple[tuple[int, ...], list[str]]:
    """The numbers of the bands in the order of the model's, and what to say of that."""
    wanted, count = card.bands, scene.bands
    if chosen is not None:
        if len(chosen) != len(wanted):
            needed = f"the model was trained on {len(wanted)} bands ({', '.join(wanted)})"
            raise LandsegError("predict.bands", f"{list(chosen)}", needed, "name as many, in that order")
        numbers = tuple(chosen_bands(scene, chosen, "predict.bands"))
        return numbers, [] if numbers == chosen else [f"bands {_listed(numbers)} are {_listed(chosen)}"]
    named = taken_by_name(scene, wanted)
    if named is not None:
        is_plain = named == tuple(range(1, count + 1))
        said = f"bands {_listed(named)} of {count} are taken by name for the model's, {_listed(wanted)}"
        return named, [] if is_plain else [said]
    found, needed = f"{count} band{'s' * (count > 1)}", f"the model was trained on {len(wanted)} ({', '.join(wanted)})"
    if count < len(wanted):
        raise LandsegError(scene.path, found, needed, "predict scenes that have them all, or train a model on these")
    if count > len(wanted):
        example = ",".join(str(band + 1) for band in range(len(wanted)))
        raise LandsegError(scene.path, found, needed, f"choose them with --set predict.bands=[{example}]")
    return tuple(range(1, count + 1)), []


def _listed(items: Sequence[int | str]) -> str:
    return ", ".join(map(str, items))


def _scale(scene: Scene, card: ModelCard, exact: bool) -> tuple[tuple[float, float], list[str]]:
    """By which the network sees the scene higher and wider than it otherwise would, and what to say of that.

    A model whose resolution is known was trained on square pixels (`prepare` states none for others), so it is shown such. One whose
    resolution is unknown may have been trained on pixels of any shape, this scene's among them, and is shown the scene as it is.
    """
    size, model = pixel_size_m(scene.grid), card.resolution_m
    if size is None:
        return (1.0, 1.0), [] if model is None else [f"its resolution is unknown: taken for the model's, {model:.3g} m a pixel"]
    is_even = is_square(size)
    own = math.sqrt(math.prod(size))
    found = f"{own:.3g} m a pixel" if is_even else f"pixels {size[0]:.3g} m high and {size[1]:.3g} m wide"
    if model is None:
        return (1.0, 1.0), [] if is_even else [f"{found}, shown to the network as they are: the model states no resolution"]
    ratios = (own / model, own / model) if is_even else (size[0] / model, size[1] / model)
    if is_even and 1 / (1 + ALIKE) <= ratios[0] <= 1 + ALIKE:
        return (1.0, 1.0), []
    needed = f"the model was trained at {model:.3g} m"
    if exact:
        raise LandsegError(scene.path, found, needed, "resample it with gdalwarp -tr, or --set predict.exact=false")
    if not 1 / FURTHEST <= min(ratios) <= max(ratios) <= FURTHEST:
        raise LandsegError(scene.path, found, f"{needed}, and may differ by a factor of {FURTHEST:g}", "train a model on scenes like this")
    down, across = (float(f"{ratio:.3g}") for ratio in ratios)  # the last digits are the projection library's
    seen = f"{down:g} of its size" if down == across else f"{down:g} of its height and {across:g} of its width"
    return (down, across), [f"{found}, {needed}: the network sees it at {seen}; the map is on the scene's own grid"]
