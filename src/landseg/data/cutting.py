"""A whole data set cut from scenes: the classes their labels mean, every scene with its labels into tiles, and the counts of it all."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from landseg.core.classes import IGNORE_INDEX, MAX_CLASSES, ClassList, LandClass, lookup_table, make_classes
from landseg.core.earth import is_square, pixel_size_m
from landseg.core.errors import LandsegError
from landseg.core.settings import CutConfig
from landseg.data.bands import chosen_bands, chosen_names
from landseg.data.boundary import COLOURS, NAME, OutlinedLabels, pixel_m, reach_px
from landseg.data.burn import Burner, class_codes, class_values
from landseg.data.cut import KEY, Factor, Labels, cut_grid, factor_of, write_tiles
from landseg.data.label_rasters import CODES, RasterLabels, SeveralLabels, codes_in, shifted
from landseg.data.pairing import LabelFiles, SceneFile
from landseg.data.raster import Scene, open_scene
from landseg.data.sink import Sink

log = logging.getLogger("landseg")

IGNORE = "ignore"
"""What ``--background`` says for "unlabelled"."""

_ALIKE = 0.25
"""Share by which the resolutions of scenes may differ and still be one."""

BANDS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "nir")}


@dataclass(frozen=True)
class Meaning:
    """What the labels of a set mean.

    Args:
        classes: In the order of their ids.
        background: Class id of what no label says anything about.
        column: The class column of vector layers, where there is one.
        codes: Its values → class id.
        only: The class of every feature where there is no column.
        table: (65536,) code of a raster → class id.
        notes: How rasters' codes were mended, in words.
        boundary_m: Width of polygons' outlines in true metres, where they are the last class.
    """

    classes: tuple[LandClass, ...] = ()
    background: int = IGNORE_INDEX
    column: str | None = None
    codes: Mapping[str, int] = field(default_factory=dict)
    only: int = 0
    table: np.ndarray = field(default_factory=lambda: np.full(CODES, -1, np.int16))
    notes: tuple[str, ...] = ()
    boundary_m: float | None = None


@dataclass(frozen=True)
class SceneCut:
    """What became of one scene.

    Args:
        name: As its tiles' names begin.
        path: As it was given.
        tiles: Kept.
        dropped: Why → tiles.
        resolution_m: Metres a pixel of its tiles; None where unknown, and where they are not square on the ground.
        labels: The files its labels came from.
    """

    name: str
    path: str
    tiles: int
    dropped: Mapping[str, int]
    resolution_m: float | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class CutSet:
    """A set of tiles, cut."""

    scenes: tuple[SceneCut, ...]
    images: Mapping[str, Path]
    pixels: np.ndarray
    bands: tuple[str, ...]
    dtype: str
    resolution_m: float | None

    @property
    def dropped(self) -> dict[str, int]:
        """Why → tiles, over all scenes."""
        total: Counter[str] = Counter()
        for scene in self.scenes:
            total.update(scene.dropped)
        return dict(total)


def meaning_of(
    labels: LabelFiles, listed: ClassList, *, column: str | None, background: str | None, mend: bool, boundary_m: float | None = None
) -> Meaning:
    """Settle what the labels mean, before anything is cut.

    Args:
        labels: Rasters or layers.
        listed: What ``--classes`` says; without it, names come from the class column, or from the names that a raster holds.
        column: The class column of layers.
        background: The name of the class that lies where labels say nothing; None or ``ignore`` leaves that unlabelled.
        mend: Labels that count their classes from 1 may be shifted.
        boundary_m: Polygons' outlines, so wide in true metres, are a last class of their own; None for none.

    Raises:
        LandsegError: No class names, no such column or class, or values that are no class; outlines are asked of rasters, or a class has
            their name.
    """
    if labels.layers:
        meaning = _of_layers(labels, listed, column, background)
        return meaning if boundary_m is None else _with_boundary(meaning, boundary_m)
    if boundary_m is not None:
        raise LandsegError(
            "cut.boundary_m", f"the labels are rasters ({labels.rasters[0][0]}), in which touching objects of one class are one",
            "polygons, one an object", "make polygons of a raster of object numbers (gdal_polygonize.py), or leave it out",
        )  # fmt: skip
    if column is not None:
        raise LandsegError("--class-column", f"{column}, but the labels are rasters", "a vector layer", "leave it out")
    return _of_rasters(labels, listed, background, mend)


def check_scenes(scenes: Sequence[SceneFile], config: CutConfig) -> None:
    """Refuse, before anything is cut, scenes of different bands or type, bands in another order, and bands that one of them lacks.

    Raises:
        LandsegError: Names two that differ.
    """
    first: tuple[str, int, str] | None = None
    names: tuple[str, ...] = ()
    for item in scenes:
        with open_scene(item.path, nodata=config.nodata) as scene:
            kind = (item.path, len(chosen_bands(scene, config.bands, KEY)), scene.dtype)
            own = _band_names(scene, config)
        first, names = first or kind, names or own
        if own != names and sorted(own) == sorted(names):
            raise LandsegError(
                item.path, f"bands {', '.join(own)}, while {first[0]} has {', '.join(names)}", "one order",
                f'choose them by name: --set "cut.bands=[{",".join(names)}]"',
            )  # fmt: skip
        if kind[1:] != first[1:]:
            raise LandsegError(
                item.path, f"{kind[1]} bands {kind[2]}, while {first[0]} has {first[1]} bands {first[2]}", "scenes of one kind",
                "choose common bands: --set cut.bands=[1,2,3]; or cut them into two data sets",
            )  # fmt: skip


def cut_scenes(
    scenes: Sequence[SceneFile], meaning: Meaning | None, sink: Sink, *, size: int, resolution_m: float | None, config: CutConfig
) -> CutSet:
    """Cut every scene into tiles.

    Args:
        scenes: With their labels.
        meaning: Of the labels; None for a set without.
        sink: Gets `images` and `labels`.
        size: Edge length of the tiles in pixels.
        resolution_m: True metres a pixel; None keeps each scene's own.
        config: Bands, and which tiles are dropped.

    Raises:
        LandsegError: A file cannot be read, or no tile is left.
    """
    cuts: list[SceneCut] = []
    images: dict[str, Path] = {}
    pixels = np.zeros(IGNORE_INDEX + 1, np.int64)
    bands: tuple[str, ...] = ()
    dtype = ""
    for item in scenes:
        with ExitStack() as stack:
            scene = stack.enter_context(open_scene(item.path, nodata=config.nodata))
            factor = factor_of(scene, resolution_m)
            labels = None if meaning is None else _labels_of(item, scene, factor, meaning, config, stack)
            classes = () if meaning is None else meaning.classes
            counts = write_tiles(scene, labels, item.name, sink, size=size, factor=factor, config=config, classes=classes)
            own = _tile_resolution(scene, factor)
            bands, dtype = bands or _band_names(scene, config), scene.dtype
        images |= counts.images
        pixels += counts.pixels
        files = (*item.rasters, *dict.fromkeys(layer.path for layer in item.layers))
        cuts.append(SceneCut(item.name, item.path, counts.kept, dict(counts.dropped), own, files))
    done = CutSet(tuple(cuts), images, pixels, bands, dtype, resolution_m or _common(cuts))
    if not images:
        reasons = ", ".join(f"{count:,} with {reason}" for reason, count in done.dropped.items())
        raise LandsegError(
            ", ".join(item.path for item in scenes[:3]), f"no tile is left of it ({reasons})", "tiles that show ground and are labelled",
            "choose a smaller --tile, or lower cut.min_valid and cut.min_labelled",
        )  # fmt: skip
    return done


def _tile_resolution(scene: Scene, factor: Factor) -> float | None:
    """Metres a pixel of a scene's tiles; None where they are not square: predictions are resampled to squares of this size."""
    size_m = pixel_size_m(scene.grid)
    if size_m is None:
        return None
    high, wide = (length * step for length, step in zip(size_m, factor, strict=True))
    if is_square((high, wide)):
        return math.sqrt(high * wide)
    log.warning(
        "%s: pixels %.3g m high and %.3g m wide, so its tiles show the ground squashed; --resolution %.2g makes them square",
        scene.path, high, wide, max(high, wide),
    )  # fmt: skip
    return None


def _labels_of(item: SceneFile, scene: Scene, factor: Factor, meaning: Meaning, config: CutConfig, stack: ExitStack) -> Labels:
    if item.layers:
        # A majority of pixels would take thin outlines away: they are drawn on the tiles' grid, and with them all that they bound.
        grid = scene.grid if meaning.boundary_m is None else cut_grid(scene.grid, factor)
        burner = Burner(
            item.layers, grid, column=meaning.column, codes=meaning.codes, only=meaning.only, background=meaning.background,
            buffer_m=config.buffer_m, order=config.burn, margin=0.0 if meaning.boundary_m is None else reach_px(grid, meaning.boundary_m),
        )  # fmt: skip
        if burner.unnamed:
            log.warning("%s: %s features without a class, not drawn", item.path, f"{burner.unnamed:,}")
        if not burner.features:
            log.warning("%s: no feature lies in it", item.path)
        return burner if meaning.boundary_m is None else _outlined(item, burner, meaning.boundary_m, meaning.classes[-1].id)
    rasters = [stack.enter_context(open_scene(path, is_stored=True)) for path in item.rasters]
    labels = [RasterLabels(raster, scene.grid, meaning.table, meaning.background) for raster in rasters]
    for raster, label in zip(rasters, labels, strict=True):
        if label.is_resampled:
            log.warning("%s: another grid than %s; each pixel takes the nearest label", raster.path, item.path)
    return labels[0] if len(labels) == 1 else SeveralLabels(labels)


def _outlined(item: SceneFile, burner: Burner, width_m: float, boundary: int) -> OutlinedLabels:
    pixel = pixel_m(burner.grid)
    if width_m < 0.99 * pixel:  # UTM's metres are not quite those of the ground
        log.warning("%s: outlines of %.3g m are narrower than a pixel of its tiles (%.3g m), and one pixel wide", item.path, width_m, pixel)
    return OutlinedLabels(burner, width_m, boundary)


def _with_boundary(meaning: Meaning, width_m: float) -> Meaning:
    """The same classes, and after them that of outlines."""
    named = [item.name for item in meaning.classes if item.name.casefold() == NAME]
    if named:
        raise LandsegError(
            "cut.boundary_m",
            f"there is a class named {named[0]} already",
            "that name for outlines alone",
            "rename the class, or leave it out",
        )
    if len(meaning.classes) >= MAX_CLASSES:
        raise LandsegError("cut.boundary_m", f"{len(meaning.classes)} classes without it", f"at most {MAX_CLASSES - 1}", "leave it out")
    taken = {item.colour for item in meaning.classes}
    colour = next((value for value in COLOURS if value not in taken), COLOURS[0])
    return replace(meaning, classes=(*meaning.classes, LandClass(id=len(meaning.classes), name=NAME, colour=colour)), boundary_m=width_m)


def _of_layers(labels: LabelFiles, listed: ClassList, column: str | None, background: str | None) -> Meaning:
    where = labels.layers[0].path
    values = class_values(labels.layers, column) if column is not None else []
    if column is not None and not values:
        raise LandsegError(where, f"column {column} is empty", "a class for the features", "name another with --class-column")
    classes = listed.classes
    if not classes and len(values) > MAX_CLASSES:
        raise LandsegError(
            where, f"column {column} holds {len(values):,} values", f"at most {MAX_CLASSES}, one a class", "name a column of classes"
        )
    if not classes and column is not None:
        has_ground = background not in (None, IGNORE) and background not in values
        classes = make_classes([*([str(background)] if has_ground else []), *values])
    if not classes:
        raise LandsegError("--classes", "no class names", "one name a class, or a class column", _how(labels))
    ground = _background_id(classes, background)
    if column is not None:
        codes = class_codes(values, classes, listed.remap, where)
        return Meaning(classes, ground, column, codes)
    rest = [item for item in classes if item.id != ground]
    if len(rest) != 1:
        raise LandsegError("--class-column", f"none given, and {len(rest)} classes", "a column that tells them apart", _how(labels))
    log.info("%s: every feature is %s", where, rest[0].name)
    return Meaning(classes, ground, only=rest[0].id)


def _how(labels: LabelFiles) -> str:
    fields = list(dict.fromkeys(name for layer in labels.layers for name in layer.fields))
    if not fields:
        return "name the one class of all features with --classes"
    return f"name it with --class-column ({', '.join(fields[:8])}), or one class with --classes"


def _of_rasters(labels: LabelFiles, listed: ClassList, background: str | None, mend: bool) -> Meaning:
    seen: dict[int, str] = {}
    names: dict[int, str] = {}
    for path, _ in labels.rasters:
        codes, named = codes_in(path)
        names |= named
        seen.update({code: path for code in codes if code not in seen})
    classes = listed.classes
    if not classes and names and sorted(names) == list(range(len(names))):
        classes = make_classes([names[i] for i in range(len(names))])
    used = ", ".join(map(str, sorted(seen)[:12])) or "nothing"
    if not classes:
        raise LandsegError("--classes", "no class names", "one name a class", f"name them in the order of their ids (labels hold {used})")
    unlabelled = IGNORE_INDEX if listed.ignore_index is None else listed.ignore_index
    table = lookup_table(len(classes), unlabelled, dict(listed.remap))
    illegal = [code for code in sorted(seen) if table[code] < 0]
    notes: tuple[str, ...] = ()
    if illegal:
        shift = {} if listed.remap else shifted([code for code in sorted(seen) if code != unlabelled], len(classes))
        if not (shift and mend):
            do = "add --mend: they count from 1" if shift else "name these classes too, or give a class file with codes"
            raise LandsegError(seen[illegal[0]], f"code {illegal[0]} in it, of {used}", f"codes of the {len(classes)} classes", do)
        table = lookup_table(len(classes), unlabelled, dict(shift))
        notes = ("codes count from 1, and are shifted by one",)
    return Meaning(classes, _background_id(classes, background), table=table, notes=notes)


def _background_id(classes: Sequence[LandClass], background: str | None) -> int:
    if background is None or background == IGNORE:
        return IGNORE_INDEX
    found = [item.id for item in classes if item.name.casefold() == background.casefold()]
    if not found:
        known = ", ".join(item.name for item in classes)
        raise LandsegError("--background", f"{background} is no class", f"one of {known}, or {IGNORE}", "name it in --classes too")
    return found[0]


def _band_names(scene: Scene, config: CutConfig) -> tuple[str, ...]:
    numbers = chosen_bands(scene, config.bands, KEY)
    names = chosen_names(scene, config.bands, numbers)
    if not any(names) and config.bands is None and len(names) in BANDS:
        return BANDS[len(names)]
    result = tuple(name or f"band_{number}" for name, number in zip(names, numbers, strict=True))
    return result if len(set(result)) == len(result) else tuple(f"band_{number}" for number in numbers)


def _common(cuts: Sequence[SceneCut]) -> float | None:
    """The resolution of all tiles, where they have one."""
    found = [cut.resolution_m for cut in cuts if cut.tiles]
    known = [value for value in found if value is not None]
    if len(known) < len(found) or not known:
        return None
    if max(known) > (1 + _ALIKE) * min(known):
        log.warning(
            "scenes of %.3g to %.3g metres a pixel: one network sees things at many sizes; --resolution brings them to one",
            min(known), max(known),
        )  # fmt: skip
        return None
    return float(np.median(known))
