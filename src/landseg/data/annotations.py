"""Other tools' annotations → label rasters: COCO, LabelMe, CVAT, Label Studio. It writes no file and knows no data set.

Annotation files are recognised by what is in them, not by their names; their images lie anywhere below the same folders (`gallery`).
"""

from __future__ import annotations

import io
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from landseg.core.classes import IGNORE_INDEX, MAX_CLASSES
from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map, progress
from landseg.data import coco, cvat, labelme, labelstudio, places
from landseg.data.documents import parse_json, read_text
from landseg.data.gallery import Gallery, name_tiles
from landseg.data.shapes import Document, Shape, Sheet, draw, draw_segments
from landseg.data.tiles import SUFFIXES, UnreadableTile, decode_image, read_bytes, read_header

log = logging.getLogger("landseg")

ANNOTATION_SUFFIXES = frozenset({".json", ".xml"})
"""File endings (lower case) that may hold annotations."""

_FORMATS = ("COCO", "LabelMe", "CVAT", "Label Studio")
_UNLISTED = ("LabelMe", "Label Studio")
"""Their files use classes without listing them."""

_NAMED = 3
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Annotations:
    """What one tool's annotations say of the images below some folders.

    Args:
        format: ``COCO``, ``LabelMe``, ``CVAT`` or ``Label Studio``.
        class_names: In the order of their ids: as the tool lists them, else sorted.
        colours: ``#rrggbb`` of each, None where the tool does not say.
        images: Tile name → image file: every annotated image that is there.
        left_out: What was not used and why.
        sheets: What is drawn for each tile.
        pictures: Tile name → its picture of segments (COCO panoptic).
    """

    format: str
    class_names: tuple[str, ...]
    colours: tuple[str | None, ...]
    images: dict[str, Path]
    left_out: tuple[str, ...]
    sheets: dict[str, tuple[Sheet, ...]] = field(repr=False)
    pictures: dict[str, Path] = field(repr=False)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {labelme.IGNORE: IGNORE_INDEX} | {name: i for i, name in enumerate(self.class_names)}

    def rasterise(self, name: str, background: int | None = None) -> np.ndarray:
        """Draw the label of one tile. Callable from threads.

        Args:
            name: A tile of `images`.
            background: The class id of pixels that nothing is drawn on; the ignore index when None.

        Returns:
            (H, W) uint8 of class ids, of the image's size.

        Raises:
            UnreadableTile: The image cannot be read, was annotated at another size, or is stored turned.
        """
        sheets = self.sheets[name]
        size = _size(self.images[name])
        for sheet in sheets:
            if sheet.size and sheet.size != size:
                raise UnreadableTile(f"annotated at {sheet.size[0]} × {sheet.size[1]} pixels, the image has {size[0]} × {size[1]}")
        label = np.full(size, IGNORE_INDEX if background is None else background, np.uint8)
        shapes: list[Shape] = []
        for sheet in sheets:
            if sheet.segments is not None:
                picture = self.pictures.get(name)
                if picture is None:
                    raise UnreadableTile(f"its panoptic picture {sheet.segments.file_name} is not there")
                colours = decode_image(read_bytes(picture))
                if colours.shape != (*size, 3) or colours.dtype != np.uint8:
                    raise UnreadableTile(f"its panoptic picture {picture.name} has another size, or is not in three colours")
                draw_segments(colours, sheet.segments.names, self._ids, label)
            shapes += sheet.shapes if sheet.source is None else labelme.read_shapes(sheet.source)
        draw(coco.by_area(shapes) if len(sheets) > 1 else shapes, self._ids, label)
        return label


def is_marked(text: str, suffix: str) -> bool:
    """Whether a text with such an ending may hold annotations: it has what all files of some format have."""
    if suffix == ".xml":
        return "<annotations" in text
    formats = (coco.MARKS, labelme.MARKS, labelstudio.MARKS, labelstudio.MARKS_OF_MIN)
    return any(all(mark in text for mark in marks) for marks in formats)


def find_annotations(
    roots: Sequence[Path],
    leave: Path | None = None,
    *,
    shown: Callable[[Path], str] = str,
    named: Callable[[Path], Path] = lambda path: path,
) -> Annotations | None:
    """Find the annotations below some folders and the images they belong to.

    Of several formats the one that annotates most images is used. Images may lie in zips, annotations are read from files alone.
    The images' pixels are not read: `Annotations.rasterise` reads sizes.

    Args:
        roots: Folders to look through.
        leave: A folder that is not looked into: where the result goes.
        shown: How a path is written in messages.
        named: What a path counts as in the names of tiles, which do not tell where a zip lies or was unpacked.

    Returns:
        None where there are no annotations with areas.

    Raises:
        LandsegError: A file is an annotation file but damaged or hostile, no image of the annotations is there, or there are more
            than 255 classes.
    """
    images, candidates = _walk(roots, leave)
    documents: defaultdict[str, list[Document]] = defaultdict(list)
    damaged: list[str] = []
    for found in progress(parallel_map(partial(_read, shown), candidates), "reading annotations", len(candidates), "files"):
        if isinstance(found, str):
            damaged.append(found)
        elif found is not None:
            documents[found[0]].append(found[1])
    gallery = Gallery(images)
    choices = [_match(kind, documents[kind], gallery, shown, named) for kind in _FORMATS if documents[kind]]
    drawn = [choice for choice in choices if choice.class_names]
    for choice in choices:
        if choice not in drawn:
            log.warning(
                "%s annotations without an area are not used: %s", choice.format, "; ".join(choice.left_out) or "there are no shapes"
            )
    if not drawn:
        return None
    best = max(drawn, key=lambda choice: len(choice.images))
    if not best.images:
        raise LandsegError(
            shown(documents[best.format][0].path), f"none of its images is found ({'; '.join(best.left_out[-2:])})",
            "the images below the same folder or in the same zip", "put them there, or name their folder as a further SOURCE",
        )  # fmt: skip
    if len(best.class_names) > MAX_CLASSES:
        raise LandsegError(
            shown(documents[best.format][0].path), f"{len(best.class_names)} classes", f"at most {MAX_CLASSES}", "join classes in the tool"
        )
    unnamed = sorted(set(images) - set(best.images.values()) - set(best.pictures.values()))
    left_out = [*best.left_out, *_listed(damaged, "files that cannot be read")]
    left_out += _listed(map(shown, unnamed), "images that no annotation names")
    left_out += [f"{other.format} annotations: {best.format} annotates more images" for other in drawn if other is not best]
    log.info("%s annotations: %s images, %s", best.format, f"{len(best.images):,}", ", ".join(best.class_names))
    return replace(best, left_out=tuple(left_out))


def _walk(roots: Sequence[Path], leave: Path | None) -> tuple[list[Path], list[Path]]:
    """Image files and possible annotation files; `staging` leaves no annotations in a zip."""
    images: dict[Path, None] = {}
    candidates: dict[Path, None] = {}
    for root in roots:
        for here, names in places.folders(root, leave):
            is_zipped = places.is_zipped(here)
            for name in names:
                path = here / name
                suffix = path.suffix.lower()
                if suffix in SUFFIXES:
                    images[path] = None
                elif suffix in ANNOTATION_SUFFIXES and not is_zipped:
                    candidates[path] = None
    return list(images), list(candidates)


def _read(shown: Callable[[Path], str], path: Path) -> tuple[str, Document] | str | None:
    """A document and its format; what is wrong with it, where only its own image is lost; None where it is something else."""
    try:
        if path.suffix.lower() == ".xml":
            export = cvat.read_cvat(path)
            return None if export is None else ("CVAT", export)
        document = _parse(path)
    except LandsegError as error:
        raise LandsegError(shown(path), error.found, error.needed, error.do) from error
    if isinstance(document, str):
        return f"{shown(path)} ({document})"
    if coco.is_coco(document):
        return "COCO", coco.read_coco(document, path)
    if labelme.is_labelme(document):
        return "LabelMe", labelme.read_labelme(document, path)
    if labelstudio.is_labelstudio(document):
        return "Label Studio", labelstudio.read_labelstudio(document, path)
    return None


def _parse(path: Path) -> Any:
    """A JSON document that may hold annotations, or a text: why it cannot be read, where that costs no more than one image."""
    try:
        text = read_text(path)
    except LandsegError as error:
        return error.found
    is_one_image = all(mark in text for mark in labelme.MARKS)
    if not is_marked(text, ".json"):
        return None
    try:
        document = parse_json(text, path)
    except LandsegError as error:
        if is_one_image:
            return error.found
        raise
    labelstudio.refuse_min(document, path)
    return None if isinstance(document, str) else document


def _match(
    kind: str, documents: list[Document], gallery: Gallery, shown: Callable[[Path], str], named: Callable[[Path], Path]
) -> Annotations:
    """Give the sheets of one format their images and their tile names."""
    found: dict[Path, list[Sheet]] = {}
    pictures: dict[Path, Path] = {}
    absent: list[str] = []
    unclear: list[str] = []
    twice: list[str] = []
    for document in documents:
        for sheet in document.sheets:
            meant = gallery.find(sheet.file_name, document.path)
            if not meant and sheet.source is not None:
                meant = gallery.find(document.path.stem, document.path)  # an image that was renamed together with its JSON
            if len(meant) != 1:
                (unclear if meant else absent).append(sheet.file_name)
                continue
            (path,) = meant
            if path in found and (kind != "COCO" or found[path][0].size != sheet.size):
                twice.append(f"{sheet.file_name} in {shown(document.path)}")
                continue
            found.setdefault(path, []).append(sheet)
            if sheet.segments is not None:
                painted = gallery.find(sheet.segments.file_name, document.path, is_picture=True)
                if len(painted) == 1 and painted[0] != path:
                    pictures[path] = painted[0]
    images: dict[str, Path] = {}
    clashing: list[str] = []
    tiles = name_tiles([named(path) for path in found])
    for path in found:
        if images.setdefault(tiles[named(path)], path) is not path:
            clashing.append(shown(path))
    colours = {name: colour for document in reversed(documents) for name, colour in document.colours.items()}
    classes = _classes(kind, documents)
    left_out = [
        *_faults(documents, shown),
        *_listed(absent, "annotated images that are not there"),
        *_listed(unclear, "annotated images that may be one of several files"),
        *_listed(twice, "images annotated a second time"),
        *_listed(clashing, "images with the name of another, but for the ending"),
    ]
    return Annotations(
        format=kind,
        class_names=classes,
        colours=tuple(colours.get(name) for name in classes),
        images=images,
        left_out=tuple(left_out),
        sheets={name: tuple(found[path]) for name, path in images.items()},
        pictures={name: pictures[path] for name, path in images.items() if path in pictures},
    )


def _classes(kind: str, documents: Sequence[Document]) -> tuple[str, ...]:
    """All class names, once each: as the tool lists them, or sorted where it only uses them; none where nothing is drawn."""
    sheets = [sheet for document in documents for sheet in document.sheets]
    used = {shape.name for sheet in sheets for shape in sheet.shapes}
    used |= {name for sheet in sheets if sheet.segments for name in sheet.segments.names.values()}
    names = list(dict.fromkeys(name for document in documents for name in document.names))
    if kind in _UNLISTED:
        return tuple(sorted(set(names) - {labelme.IGNORE}, key=lambda name: (name != labelme.BACKGROUND, name)))
    return (*names, *sorted(used - set(names))) if used else ()


def _faults(documents: Sequence[Document], shown: Callable[[Path], str]) -> list[str]:
    """One line a reason: how often, and the first file."""
    counts: Counter[str] = Counter()
    first: dict[str, Path] = {}
    for document in documents:
        for reason, count in document.faults.items():
            counts[reason] += count
            first.setdefault(reason, document.path)
    return [f"{count:,} {reason} (first in {shown(first[reason])})" for reason, count in counts.items()]


def _listed(items: Iterable[str], what: str) -> list[str]:
    named = list(items)
    if not named:
        return []
    more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    return [f"{len(named):,} {what}: {', '.join(named[:_NAMED])}{more}"]


def _size(path: Path) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
        UnreadableTile: It cannot be read, or a tool showed it turned: its annotations would not lie on its pixels as they are stored.
    """
    data = read_bytes(path)
    header = read_header(data)
    if data[:2] == b"\xff\xd8":
        try:
            with Image.open(io.BytesIO(data)) as picture:
                turn = picture.getexif().get(_ORIENTATION, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableTile(f"it does not decode ({str(error)[:80]})") from error
        if turn not in (0, 1):
            raise UnreadableTile(
                f"stored turned (EXIF orientation {turn}), so that its annotations do not lie on its pixels; save it upright"
            )
    return header.height, header.width
