"""Scenes → georeferenced maps in a folder: what a killed process finished stays, and the same call goes on. It decides no class.

Vocabulary: a scene is *finished* when all its files lie in the output folder; until then its strips wait in a folder of their own there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from tqdm import tqdm

from landseg import __version__
from landseg.core.classes import palette
from landseg.core.earth import has_ground, pixel_area_m2
from landseg.core.errors import LandsegError
from landseg.core.files import lock, refuse_existing, sweep_partials, unwritable, write_json, write_text
from landseg.core.grid import Grid
from landseg.core.progress import LOG_EVERY_S, QUIET_S, clock
from landseg.core.qgis import raster_style
from landseg.data.archive import is_zip
from landseg.data.cog import Strips, open_raster, read_strips
from landseg.data.raster import Scene, open_scene
from landseg.data.tiles import MAX_PIXELS, SUFFIXES
from landseg.inference.folder import BEGUN
from landseg.inference.plan import Choices, Plan, plan_scene
from landseg.inference.scene import predict_scene
from landseg.inference.sheet import Entry, class_picture, draw_sheet, ground_picture
from landseg.inference.tta import augmented

if TYPE_CHECKING:
    from landseg.network.engine import Engine

log = logging.getLogger("landseg")

_CELL = 32
"""Edge length in pixels of the squares that share a ground area: across one it changes by less than 1 in 10,000 at 10 m a pixel."""


@dataclass(frozen=True)
class ClassArea:
    """One class of a map: its pixels, and hectares on the ellipsoid, None where the scene has no place on the globe."""

    name: str
    pixels: int
    area_ha: float | None


_Table = tuple[int, tuple[ClassArea, ...]]
"""Pixels of a map without a class, and its classes."""


@dataclass(frozen=True)
class SceneMap:
    """What was made of one scene.

    Attributes:
        source: As it was named.
        files: The class map first.
        pixels: Of the class map, nodata included.
        nodata: Of these, how many have no class.
        classes: One a class, in the order of the ids.
        seconds: Of this call.
        notes: What a user should know of how it was seen.
        is_resumed: Part of it, or all, was finished by an earlier call.
    """

    source: str
    files: tuple[Path, ...]
    pixels: int
    nodata: int
    classes: tuple[ClassArea, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    is_resumed: bool = False


def predict_scenes(
    engine: Engine,
    sources: Sequence[str],
    out: Path,
    choices: Choices,
    *,
    overlay: bool = False,
    tta: str = "none",
    fingerprint: str = "",
    overwrite: bool = False,
    step: int = 1,
    workers: int | None = None,
) -> list[SceneMap]:
    """Predict scenes of any size into a folder, as the contract's "Predictions" says.

    A call that was killed is completed by the next one with the same model, scenes and settings, and ends in the same bytes.

    Args:
        engine: The model.
        sources: Files, VRTs, ``/vsi…`` paths or URLs, as GDAL takes them.
        out: The folder to write; maps of other scenes in it stay.
        choices: How, and what to write.
        overlay: Also draw the scene under the classes' colours.
        tta: none | d4 | scales: test-time augmentation (`inference.tta`).
        fingerprint: Tells models apart.
        overwrite: Replace earlier maps of these scenes.
        step: As `predict_scene` takes it.
        workers: As `predict_scene` takes it.

    Raises:
        LandsegError: A scene cannot be read or does not fit the model, or `out` holds something else.
    """
    named = _named(sources)
    seen = augmented(engine, tta)
    plans: dict[str, tuple[Plan, Grid]] = {}
    for stem, source in named.items():
        with open_scene(source) as scene:
            plan = plan_scene(scene, engine.card, choices)
            plans[stem] = plan, scene.grid.crop(plan.part)
    how = {
        "tta": tta, "overlay": overlay, "model": fingerprint, "engine": engine.runtime, "step": step, "version": __version__,
        "layers": list(choices.layers),
    }  # fmt: skip
    scenes = {stem: {"source": source, "state": _state(source), **_described(plans[stem][0])} for stem, source in named.items()}
    begun = json.loads(json.dumps({**how, "scenes": scenes}))
    outputs = {stem: _outputs(out, stem, choices, overlay=overlay) for stem in named}
    _begin(out, begun, outputs, overwrite=overwrite)
    tags = {"LANDSEG_VERSION": __version__, "LANDSEG_MODEL": fingerprint, "LANDSEG_TTA": tta, "LANDSEG_OVERLAP": f"{choices.overlap:g}"}
    maps = []
    for stem, source in named.items():
        plan, grid = plans[stem]
        for note in plan.notes:
            log.info("%s: %s", source, note)
        started, is_resumed = time.monotonic(), all(path.is_file() for path in outputs[stem])
        if is_resumed:
            table = _table(outputs[stem][0], grid, engine.card.class_names)
        else:
            job = _Job(seen, source, stem, plan, grid, choices, overlay, {**tags, **_seen_tags(plan)})
            is_resumed, table = job.run(out, outputs[stem], step, workers)
        shutil.rmtree(_work(out, stem), ignore_errors=True)
        seconds = time.monotonic() - started
        maps.append(SceneMap(source, tuple(outputs[stem]), grid.height * grid.width, *table, seconds, plan.notes, is_resumed))
    (out / BEGUN).unlink(missing_ok=True)
    return maps


@dataclass(frozen=True)
class _Job:
    """One scene that is not finished."""

    engine: Engine
    source: str
    stem: str
    plan: Plan
    grid: Grid
    choices: Choices
    overlay: bool
    tags: dict[str, str]

    def run(self, out: Path, outputs: Sequence[Path], step: int, workers: int | None) -> tuple[bool, _Table]:
        """Predict what is missing and put it together; returns whether something was there, and what the map holds."""
        work, card = _work(out, self.stem), self.engine.card
        names = {"probabilities": card.class_names}
        layers = {name: Strips(work, name, self.grid, self.plan.strips, names.get(name, ("",))) for name in self.choices.layers}
        try:
            held = lock(work / "lock", wait=False)
        except BlockingIOError as error:
            raise LandsegError(
                out, "another process is predicting there", "one at a time", "wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise unwritable(work, error) from error
        with held, open_scene(self.source) as scene:
            sweep_partials(work)
            total = self.grid.height * self.grid.width
            with closing(predict_scene(self.engine, scene, self.plan, layers, work, step=step, workers=workers)) as done:
                found = next(done)
                if found:
                    log.info("%s: %.0f of %.0f Mpx were finished before", self.source, found / 1e6, total / 1e6)
                for _ in _metered(done, f"predict {self.stem}", found, total):
                    pass
            log.info("%s: writing %s", self.source, outputs[0].name)
            self._finish(out, layers)
            write_text(out / f"{self.stem}_classes.qml", raster_style(card.classes))
            table = _table(outputs[0], self.grid, card.class_names)
            self._draw(out, outputs[0], scene, table)
        return bool(found), table

    def _finish(self, out: Path, layers: dict[str, Strips]) -> None:
        """Put the strips of all layers together, at the same time, for most of a COG is written by one core; then move all to their places.

        The class map comes last: whoever finds it finds what belongs to it.
        """
        card, work = self.engine.card, _work(out, self.stem)
        extra: dict[str, dict[str, Any]] = {"classes": {"names": card.class_names, "palette": palette(card.classes)}}
        with ThreadPoolExecutor(len(layers)) as pool:
            finishing = [
                pool.submit(layer.finish, work / f"{name}.tif", tags=self.tags, **extra.get(name, {})) for name, layer in layers.items()
            ]
        for done in finishing:
            done.result()
        try:
            for made in (work / f"{name}.tif{side}" for name in layers for side in (".aux.xml", "")):
                if made.exists():
                    os.replace(made, out / f"{self.stem}_{made.name}")
        except OSError as error:
            raise unwritable(out, error) from error

    def _draw(self, out: Path, path: Path, scene: Scene, table: _Table) -> None:
        """The sheets."""
        card = self.engine.card
        nodata, areas = table
        total = self.grid.height * self.grid.width
        legend = [Entry(item, area.pixels / total) for item, area in zip(card.classes, areas, strict=True)]
        picture, ids = class_picture(path, card.classes)
        draw_sheet(out / f"{self.stem}_map.png", picture, self.stem, self.grid, legend, nodata / total)
        if self.overlay:
            picture = ground_picture(scene, self.plan, ids, card.bands, card.classes, card.scaling)
            draw_sheet(out / f"{self.stem}_overlay.png", picture, self.stem, self.grid, legend, nodata / total)


def _metered(done: Iterable[int], what: str, found: int, total: int) -> Iterator[int]:
    """Pass pixels on, showing how many, megapixels a second and time left."""
    if sys.stderr.isatty():
        with tqdm(desc=what, total=total, initial=found, unit="px", unit_scale=True, delay=QUIET_S, leave=False, dynamic_ncols=True) as bar:
            for pixels in done:
                bar.update(pixels)
                yield pixels
        return
    start = said = time.monotonic()
    made = 0
    for pixels in done:
        yield pixels
        made += pixels
        now = time.monotonic()
        if now - said >= LOG_EVERY_S and made:
            said, rate = now, made / (now - start)
            left = clock((total - found - made) / rate)
            log.info("%s: %.0f of %.0f Mpx, %.2f Mpx/s, %s left", what, (found + made) / 1e6, total / 1e6, rate / 1e6, left)


def _table(path: Path, grid: Grid, names: Sequence[str]) -> _Table:
    """How many pixels of a class map have no class; and of each class, how many have it and their area."""
    measured = pixel_area_m2(grid) if has_ground(grid) else None
    counts, areas, pixels = np.zeros(len(names), np.int64), np.zeros(len(names)), 0
    for row, ids in read_strips(path, 4 * _CELL):
        pixels += ids.size
        cells, rows, cols = _cells(ids, len(names))
        counts += cells.sum((1, 2))
        if measured is not None:
            areas += np.tensordot(cells, measured.at(row + rows[:, None], cols), 2)
    return pixels - int(counts.sum()), tuple(
        ClassArea(name, int(count), None if measured is None else float(area) / 1e4)
        for name, count, area in zip(names, counts, areas, strict=True)
    )


def _cells(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many pixels of each class lie in each square, (K, rows, cols), and the rows and columns of the squares' middles."""
    begins = [np.arange(0, length, _CELL) for length in ids.shape]
    sums = np.stack([np.add.reduceat(np.add.reduceat(ids == k, begins[1], 1, np.int32), begins[0], 0) for k in range(count)])
    rows, cols = (
        (begin + np.minimum(begin + _CELL, length) - 1) / 2 for begin, length in zip(begins, ids.shape, strict=True)
    )  # pixel centres have whole numbers
    return sums, rows, cols


def _named(sources: Sequence[str]) -> dict[str, str]:
    """Stem → source.

    Raises:
        LandsegError: Two have the same.
    """
    named: dict[str, str] = {}
    for source in sources:
        stem = stem_of(source)
        if stem in named:
            raise LandsegError(
                source, f"{named[stem]} has the same name", "one scene of a name in a prediction", "predict them into two folders"
            )
        named[stem] = source
    return named


def is_scene(source: str) -> bool:
    """Whether an input is a scene: a URL, a ``/vsi…`` path or a VRT; a file that lies somewhere on earth; one too large for a tile, or of a
    format that only GDAL reads. Folders and zips hold tiles."""
    if "://" in source or source.startswith("/vsi") or source.lower().endswith(".vrt"):
        return True
    path = Path(source)
    if not path.is_file() or path.suffix.lower() == ".npy" or is_zip(path):
        return False
    try:
        with open_raster(path) as dataset:
            is_placed = dataset.crs is not None or not dataset.transform.is_identity or bool(dataset.gcps[0])
            return is_placed or dataset.height * dataset.width > MAX_PIXELS or path.suffix.lower() not in SUFFIXES
    except (RasterioError, CPLE_BaseError):
        return False  # who reads tiles says what it is


def stem_of(source: str) -> str:
    """What the maps of a scene are called after: its file's name without ending."""
    last = PurePosixPath(re.split("[?#]", source)[0].replace("\\", "/")).name
    return PurePosixPath(re.sub(r'[<>:"|*\x00-\x1f]', "_", last)).stem or "scene"


def _outputs(out: Path, stem: str, choices: Choices, *, overlay: bool) -> list[Path]:
    """The files of a scene, the class map first."""
    names = [f"_{layer}.tif" for layer in reversed(choices.layers)] + ["_classes.qml", "_map.png"] + ["_overlay.png"] * overlay
    return [out / f"{stem}{name}" for name in names]


def _work(out: Path, stem: str) -> Path:
    return out / f".{stem}.predicting"


def _begin(out: Path, begun: dict[str, Any], outputs: dict[str, list[Path]], *, overwrite: bool) -> None:
    """Record what is being predicted, so that the same call can go on; refuse what is something else's.

    Raises:
        LandsegError: `out` holds maps of these scenes, or another prediction was begun there.
    """
    try:
        earlier = json.loads((out / BEGUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    if earlier and earlier == begun and not overwrite:
        return
    if "tiles" in earlier or (earlier and not overwrite):
        raise LandsegError(
            out, "a prediction of other inputs, or with another model or settings, was begun there", "the same again to complete it",
            "choose another --out" if "tiles" in earlier else "choose another --out or add --overwrite",
        )  # fmt: skip
    for paths in outputs.values():
        refuse_existing(paths[0], overwrite=overwrite)
    try:
        for stem in {*outputs, *(stem for stem in earlier.get("scenes", {}) if PurePosixPath(stem).name == stem)}:
            with suppress(FileNotFoundError):
                shutil.rmtree(_work(out, stem))
        for stem in outputs:
            every = _outputs(out, stem, Choices(confidence=True, probabilities=True), overlay=True)
            for path in [*every, *(path.with_name(f"{path.name}.aux.xml") for path in every)]:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    write_json(out / BEGUN, begun)


def _state(source: str) -> str:
    """Changes when a file does; empty where that cannot be told."""
    try:
        status = Path(source).stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _described(plan: Plan) -> dict[str, Any]:
    """All of a plan that decides its bytes."""
    part, rows, cols = plan.part, plan.rows, plan.cols
    return {
        "part": [part.row, part.col, part.height, part.width], "scene": [rows.length, cols.length], "window": [rows.edge, cols.edge],
        "overlap": rows.overlap, "scale": plan.scale, "bands": list(plan.bands),
    }  # fmt: skip


def _seen_tags(plan: Plan) -> dict[str, str]:
    return {
        "LANDSEG_WINDOW": _pair(plan.rows.edge, plan.cols.edge), "LANDSEG_SCALE": _pair(*plan.scale),
        "LANDSEG_BANDS": ",".join(map(str, plan.bands)),
    }  # fmt: skip


def _pair(down: float, across: float) -> str:
    return f"{down:g}" if down == across else f"{down:g} {across:g}"
