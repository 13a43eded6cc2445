"""Prepare: anything that holds tiles or scenes → a dataset folder.

Zips are unpacked into the result; folders are referred to, not copied, where they can be; scenes are cut. With `pack` the result holds no
tile files: zips are referred to too, and what is cut or gathered goes into a zip of images and one of labels. No label file is rewritten:
what mends it is a rule in `dataset.yaml`, by which it is read. It does not look for duplicates or leaks: `audit` does.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.classes import ClassList, read_classes
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.files import unwritable
from landseg.core.settings import CutConfig, Recipe
from landseg.data.archive import is_zip
from landseg.data.burn import SUFFIXES as VECTORS
from landseg.data.cutting import BANDS, CutSet, Meaning, check_scenes, cut_scenes, meaning_of
from landseg.data.dataset import Dataset, DatasetInfo, open_dataset
from landseg.data.gathering import Gathered, gather
from landseg.data.pack import open_tiles
from landseg.data.pairing import RASTERS as SCENES
from landseg.data.pairing import LabelFiles, SceneFile, find_labels, find_scenes, is_remote, pair
from landseg.data.settling import Settled, settle
from landseg.data.staging import KNOWN, STAGING, Staging, claim
from landseg.data.statistics import band_ranges
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.splitting.groups import PARTS
from landseg.verbs.prepared import NAMED, Prepared, Unreadable

log = logging.getLogger("landseg")


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    classes: str | None = None,
    labels: str | Path | None = None,
    mend: bool = False,
    tile: int | None = None,
    resolution: float | None = None,
    class_column: str | None = None,
    background: str | None = None,
    pack: bool = False,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
) -> Prepared:
    """Make a dataset folder of zips and folders of tiles, or, with `tile`, of scenes.

    Every image and every label is decoded once: what cannot be read is left where it is and named, what cannot be meant is an error, or
    mended by a stated rule.

    Args:
        sources: Zips and folders, together one data set; images and labels in them are told apart by content. File lists and other
            tools' annotations are read too. Of scenes: files, folders, patterns, VRTs, ``/vsi…`` paths and URLs.
        out: The dataset folder to make.
        classes: Class names in the order of their ids, or a file of them, as `core.classes.read_classes` reads it; needed for a set with
            labels, unless its lists or annotations name them.
        labels: The folder or zip of labels, where they cannot be told apart. Of scenes: label rasters or vector layers, a file, a folder
            or a pattern.
        mend: Choose stated rules for labels that cannot be meant as they are, and leave out, by name, what none mends.
        tile: Cut scenes into tiles of this edge length in pixels.
        resolution: True metres a pixel to which scenes are resampled while they are cut, whatever their CRS; None keeps their own.
        class_column: The column of vector layers that names the class.
        background: The class that lies where the labels of a scene say nothing; ``ignore``, or None, leaves that unlabelled.
        pack: Write the store that trains at once, and no tile as a file of its own.
        recipe: Its section `cut` says which bands and which tiles of scenes are kept, and how vector labels are drawn.
        settings: ``key=value`` each, over the recipe.
        overwrite: Replace the dataset in `out`. It stands until the new one has been checked.

    Returns:
        What was made.

    Raises:
        LandsegError: A source is not there, hostile or empty; labels have illegal values, another size than their images or no class
            names, and may not or cannot be mended; scenes and labels share no ground; nothing can be read or nothing is labelled; `out`
            exists, is no dataset folder or cannot be written.
    """
    config = (recipe if isinstance(recipe, Recipe) else load_recipe(recipe, settings)).cut
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    if tile is not None:
        asked = _Asked(
            [str(source) for source in named], None if labels is None else str(labels), tile, resolution, class_column, background, mend
        )
        listed = read_classes(classes) if classes is not None else ClassList()
        return _from_scenes(asked, Staging(Path(out), pack), listed, config, overwrite)
    options = {"--resolution": resolution, "--class-column": class_column, "--background": background, "cut.boundary_m": config.boundary_m}
    _refuse_scenes(named, labels, options)
    given = [Path(source) for source in named]
    listed = read_classes(classes) if classes is not None else ClassList()
    target, label_source = Path(out), Path(labels) if labels is not None else None
    everything = [*given, *([label_source] if label_source else [])]
    _check_sources(everything, target)
    is_new = claim(target, overwrite=overwrite)
    work = Staging(target, pack)
    try:
        roots, label_root = work.enter(given, label_source)
        gathered = gather(roots, label_root, listed, rasters=work.sink, leave=target.resolve(), shown=work.shown, named=work.named)
        found = gathered.found
        settled = settle(
            found.images, found.labels, gathered.listed, mend=mend, shown=work.shown, source=_quoted(given), is_drawn=gathered.is_drawn
        )
        prepared = _summary(target, gathered, settled, work)
        keys: dict[str, Any] = settled.keys() if found.labels is not None else {}
        info = DatasetInfo(
            name=target.resolve().name,
            images=work.place(found.images, found.image_folder, "images"),
            labels=None if found.labels is None else work.place(found.labels, found.label_folder, "labels"),
            classes=gathered.listed.classes if found.labels is not None else (),
            bands=prepared.bands,
            scaling=prepared.scaling,
            source=", ".join(path.name or str(path) for path in everything),
            **keys | {"left_out": {**gathered.unlisted, **settled.left_out}},
        )
        if listed.classes and found.labels is None:
            log.warning("%s: --classes is not used: there are images, but no labels", target)
        if found.looks_like_labels:
            log.warning("%s: the images look like labels; if they are, name the folder of their images too", target)
        _say(prepared)
        _write_parts(Dataset(work.staging, info), gathered, settled)
        work.commit(info)
    except (LandsegError, OSError) as error:
        told = _abandoned(work, is_new, error)
        if told is error:
            raise
        raise told from error
    return _packed(prepared, pack)


@dataclass(frozen=True)
class _Asked:
    """What was asked of scenes."""

    sources: list[str]
    labels: str | None
    tile: int
    resolution: float | None
    column: str | None
    background: str | None
    mend: bool


def _from_scenes(asked: _Asked, work: Staging, listed: ClassList, config: CutConfig, overwrite: bool) -> Prepared:
    """Cut scenes into tiles; everything that can be refused is refused before the first tile."""
    out = work.out
    _check_asked(asked, listed, config, out)
    labels = find_labels(asked.labels, out) if asked.labels is not None else LabelFiles()
    scenes, meaning = find_scenes(asked.sources, labels, out), None
    _check_places([*(scene.path for scene in scenes), *(path for path, _ in labels.rasters), *(layer.path for layer in labels.layers)], out)
    alone: list[SceneFile] = []
    if asked.labels is not None:
        scenes, alone = pair(scenes, labels)
        meaning = meaning_of(
            labels, listed, column=asked.column, background=asked.background, mend=asked.mend, boundary_m=config.boundary_m
        )
    check_scenes(scenes, config)
    is_new = claim(out, overwrite=overwrite)
    try:
        with work.sink as sink:
            done = cut_scenes(scenes, meaning, sink, size=asked.tile, resolution_m=asked.resolution, config=config)
        prepared = _cut_summary(out, done, meaning, [item.path for item in alone])
        _say(prepared)
        work.commit(
            DatasetInfo(
                name=out.resolve().name,
                images=sink.name("images"),
                labels=None if meaning is None else sink.name("labels"),
                classes=() if meaning is None else meaning.classes,
                bands=done.bands,
                scaling=prepared.scaling,
                resolution_m=done.resolution_m,
                source=", ".join(scene.path.rpartition("/")[2] for scene in done.scenes),
            )
        )
    except (LandsegError, OSError) as error:
        told = _abandoned(work, is_new, error)
        if told is error:
            raise
        raise told from error
    return _packed(prepared, work.is_packed)


def _packed(prepared: Prepared, pack: bool) -> Prepared:
    """With the store written, where it is asked for; the data set stands by now, and whoever reads it first goes on with the store."""
    if pack:
        log.info("%s: the data set stands; now its pack is written (if that is cut short, split or train goes on)", prepared.dataset)
        open_tiles(open_dataset(prepared.dataset))
    return prepared


def _cut_summary(out: Path, done: CutSet, meaning: Meaning | None, alone: Sequence[str]) -> Prepared:
    classes = () if meaning is None else meaning.classes
    return Prepared(
        dataset=out,
        images=len(done.images),
        pairs=0 if meaning is None else len(done.images),
        orphans=(),
        unreadable=(),
        classes=tuple(item.name for item in classes),
        class_pixels={item.name: int(done.pixels[item.id]) for item in classes},
        unlabelled_tiles=0,
        left_out=tuple(f"{path}: no labels on its ground" for path in alone),
        bands=done.bands,
        dtype=done.dtype,
        label_encoding="index",
        mend={},
        mended={},
        reasons=() if meaning is None else meaning.notes,
        unmended={},
        unknown_colours={},
        scaling=band_ranges(list(done.images.values())) if done.dtype != "uint8" else None,
        parts={},
        scenes=done.scenes,
        resolution_m=done.resolution_m,
    )


def _check_asked(asked: _Asked, listed: ClassList, config: CutConfig, out: Path) -> None:
    if asked.tile < 16 or asked.tile > 8192:
        raise LandsegError("--tile", f"{asked.tile}", "16 to 8192 pixels", "choose another, e.g. --tile 256")
    if asked.resolution is not None and not 0 < asked.resolution < 1e6:
        raise LandsegError("--resolution", f"{asked.resolution:g}", "metres a pixel above 0", "choose another, e.g. --resolution 0.3")
    if not asked.sources:
        raise LandsegError("SOURCE", "none given", "at least one scene", "name one")
    _check_places([*asked.sources, *([] if asked.labels is None else [asked.labels])], out)
    if asked.labels is None and (listed.classes or asked.column or asked.background or config.boundary_m):
        raise LandsegError("--labels", "none given", "the labels of these scenes", "name a raster of class ids or a vector layer")
    for source in asked.sources:
        if not is_remote(source) and is_zip(Path(source)):
            raise LandsegError(source, "a zip", "scenes that GDAL opens", f"unpack it, or name a file in it: /vsizip/{source}/scene.tif")


def _refuse_scenes(sources: Sequence[str | Path], labels: str | Path | None, options: Mapping[str, object]) -> None:
    """Say how scenes are cut where somebody names them like tiles."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise LandsegError(given[0], "given without --tile", "scenes, which are cut into tiles", "add --tile 256, or leave it out")
    for source in (*sources, *([labels] if labels is not None else [])):
        path = Path(source)
        is_scene = path.is_file() and not is_zip(path) and path.suffix.lower() in SCENES | VECTORS
        if is_scene or is_remote(str(source)) or (not path.exists() and has_magic(str(source))):
            raise LandsegError(source, "a scene or a layer, not a folder or zip of tiles", "the size of the tiles to cut", "add --tile 256")


def _abandoned(work: Staging, is_new: bool, error: LandsegError | OSError) -> LandsegError:
    """What to say once everything unfinished has been taken back."""
    work.abandon(is_new=is_new)
    if isinstance(error, OSError):
        return unwritable(work.out, error)
    if STAGING in Path(error.what).parts:
        # The staging folder is gone by now; the user knows the result alone.
        return LandsegError(work.out, error.found, error.needed, error.do)
    return error


def _quoted(sources: Sequence[Path]) -> str:
    return " ".join(shlex.quote(str(source)) for source in sources)


def _write_parts(dataset: Dataset, gathered: Gathered, settled: Settled) -> None:
    """The parts that file lists gave, as the split ``file``; only of tiles that the set has."""
    names = sorted(tile.name for tile in settled.checked if tile.name not in settled.left_out)
    placed = [Placed(name, gathered.parts[name], "") for name in names if name in gathered.parts]
    if placed:
        write_split(dataset, Split("file", tuple(placed)))


def _check_sources(sources: list[Path], out: Path) -> None:
    if not sources:
        raise LandsegError("SOURCE", "none given", "at least one zip or folder of tiles", "name one")
    for source in sources:
        if not source.exists():
            raise LandsegError(source, "it is not there", "a zip or a folder of tiles", "check the path")
        if not source.is_dir() and not is_zip(source):
            raise LandsegError(source, "neither a folder nor a zip", "a zip or a folder of tiles", "name the folder that holds the file")
    _check_places(sources, out)


def _check_places(sources: Sequence[str | Path], out: Path) -> None:
    """Refuse sources that a new result would replace."""
    kept = [(out / name).resolve() for name in (*KNOWN, STAGING)]
    for source in sources:
        place = Path(source).resolve()
        if place == out.resolve() or any(place.is_relative_to(name) for name in kept):
            raise LandsegError(source, f"it is a part of {out}", "a result that leaves the sources alone", "choose another --out")


def _summary(out: Path, gathered: Gathered, settled: Settled, work: Staging) -> Prepared:
    """Count what the check found; tiles of other bands or type than most cannot be used with them."""
    found, classes = gathered.found, gathered.listed.classes
    good = [tile for tile in settled.checked if not tile.problem]
    (bands, dtype), _ = Counter((tile.bands, tile.dtype) for tile in good).most_common(1)[0]
    unreadable = [Unreadable(name, name, reason) for name, reason in work.damaged.items()]
    unreadable += [Unreadable(name, work.shown(found.images[name]), reason) for name, reason in gathered.unreadable.items()]
    pixels: np.ndarray = np.zeros(len(classes), np.int64)
    unlabelled = 0
    kept: list[Path] = []
    for tile in settled.checked:
        reason = tile.problem
        if not reason and (tile.bands, tile.dtype) != (bands, dtype):
            reason = f"{tile.bands} bands {tile.dtype}, most tiles have {bands} bands {dtype}"
        if reason:
            file = tile.file if tile.problem and tile.file else found.images[tile.name]
            unreadable.append(Unreadable(tile.name, work.shown(file), reason))
        elif tile.name not in settled.left_out:
            kept.append(found.images[tile.name])
            if tile.label_size is not None:
                pixels += tile.pixels
                unlabelled += not any(tile.pixels)
    is_labelled = found.labels is not None
    orphans = [(name, "label") for name in found.orphan_images if name not in gathered.unreadable]
    orphans += [(name, "image") for name in found.orphan_labels]
    usable = {tile.name for tile in settled.checked} - settled.left_out.keys()
    return Prepared(
        dataset=out,
        images=len(found.images),
        pairs=found.pairs,
        orphans=tuple(orphans),
        unreadable=tuple(unreadable),
        classes=tuple(item.name for item in classes) if is_labelled else (),
        class_pixels={item.name: int(pixels[item.id]) for item in classes} if is_labelled else {},
        unlabelled_tiles=unlabelled,
        left_out=(*work.left_out(side_is_used=gathered.form != "files"), *gathered.left_out),
        bands=BANDS.get(bands, tuple(f"band_{i}" for i in range(1, bands + 1))),
        dtype=dtype,
        label_encoding=settled.encoding,
        mend=settled.mend.stated(),
        mended=settled.mended,
        reasons=settled.reasons,
        unmended=settled.left_out,
        unknown_colours=settled.unknown,
        scaling=band_ranges(kept) if dtype != "uint8" else None,
        parts={part: sum(gathered.parts.get(name) == part for name in usable) for part in PARTS} if gathered.parts else {},
    )


def _say(prepared: Prepared) -> None:
    """Name aloud what is not as it should be."""
    for items, what in (
        ([f"{item.file} ({item.reason})" for item in prepared.unreadable], "unreadable, left out wherever the set is used"),
        ([f"{tile} (no {missing})" for tile, missing in prepared.orphans], "without a partner"),
        ([f"{tile} ({reason})" for tile, reason in prepared.unmended.items()], "left out, no rule mends them"),
        (list(prepared.left_out), "left out"),
    ):
        if items:
            more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
            log.warning("%s: %s %s: %s%s", prepared.dataset, f"{len(items):,}", what, "; ".join(items[:NAMED]), more)
    if prepared.unknown_colours:
        colours = ", ".join(prepared.unknown_colours)
        log.warning("%s: colours that no class has are unlabelled: %s", prepared.dataset, colours)
    absent = [name for name, count in prepared.class_pixels.items() if not count]
    if absent:
        log.warning("%s: no label has a pixel of %s", prepared.dataset, ", ".join(absent))
