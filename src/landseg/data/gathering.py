"""Images and labels by tile name, whatever form the sources have: file lists, other tools' annotations, or folders of files.

Annotations are rasterised here. Nothing is checked: `settling` reads every file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from landseg.core.classes import IGNORE_INDEX, ClassList, LandClass, make_classes
from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map, progress
from landseg.data.annotations import Annotations, find_annotations
from landseg.data.dataset import list_files
from landseg.data.lists import FileLists, find_lists
from landseg.data.sink import Sink
from landseg.data.sources import Found, folder_of, recognise
from landseg.data.tiles import UnreadableTile, encode_label

log = logging.getLogger("landseg")

_BACKGROUND = frozenset({"background", "背景"})


@dataclass(frozen=True)
class Gathered:
    """What the sources hold.

    Args:
        found: Images and labels by tile name.
        listed: The classes: the user's, or those of the annotations or lists.
        parts: Tile name → train, val or test, where lists say so.
        form: The annotations' format, ``lists`` or ``files``.
        unreadable: Tile name → why it has no label.
        left_out: What of the sources is no part of the set, and why.
        unlisted: Tile name, of an image in the folder of the set that lists do not name → why it is no part of it.
    """

    found: Found
    listed: ClassList
    parts: Mapping[str, str] = field(default_factory=dict)
    form: str = "files"
    unreadable: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    unlisted: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_drawn(self) -> bool:
        """The labels were rasterised from annotations."""
        return self.form not in ("files", "lists")


def gather(
    roots: Sequence[Path],
    labels: Path | None,
    listed: ClassList,
    *,
    rasters: Sink,
    leave: Path,
    shown: Callable[[Path], str] = str,
    named: Callable[[Path], Path] = lambda path: path,
) -> Gathered:
    """Find the images and labels of one set.

    Args:
        roots: Folders to look through.
        labels: The folder of labels, when the user names it; it may hold annotations.
        listed: What the user says of the classes; its `classes` are empty where nothing was said.
        rasters: Gets rasterised annotations as labels.
        leave: A folder that is not looked into: where the result goes.
        shown: How a path is written in messages.
        named: What a path counts as in the names of tiles, which do not tell where a zip lies or was unpacked.

    Raises:
        LandsegError: There is nothing, or it cannot be told what is what.
    """
    lists = _lists(roots, leave, shown) if labels is None else None
    if lists is not None:
        return _from_lists(lists, listed, roots)
    colours = [item.rgb for item in listed.classes] if listed.has_colours else []
    annotations = find_annotations([*roots, *([labels] if labels else [])], leave, shown=shown, named=named)
    try:
        found = recognise(roots, labels, leave=leave, colours=colours, shown=shown, named=named)
    except LandsegError:
        # Images in a form that puzzles `recognise`, or a folder of labels that holds annotations alone.
        if annotations is None:
            raise
    else:
        others = [f"{shown(other.folder)} ({other.files:,} files): {other.reason}" for other in found.others]
        if annotations is None or found.labels is not None:
            if annotations is not None:
                others.append(f"annotations ({annotations.format}, {len(annotations.images):,} images): there are label images too")
            return Gathered(found, listed, left_out=tuple(others))
    return _from_annotations(annotations, listed, rasters, roots)


def _lists(roots: Sequence[Path], leave: Path, shown: Callable[[Path], str]) -> FileLists | None:
    found = [(root, lists) for root in roots if (lists := find_lists(root, leave, shown=shown)) is not None]
    if len(found) > 1 or (found and len(roots) > 1):
        raise LandsegError(shown(found[0][0]), "file lists, beside other sources", "one folder or zip with lists", "prepare it alone")
    return found[0][1] if found else None


def _from_lists(lists: FileLists, listed: ClassList, roots: Sequence[Path]) -> Gathered:
    if not listed.classes and lists.class_names:
        listed = ClassList(make_classes(lists.class_names))
    labels = lists.labels or None
    images, others = _folder_with(lists.images, lists.labels, roots)
    found = Found(lists.images, labels, images, _folder_with(labels, lists.images, roots)[0] if labels else None)
    left_out = lists.left_out
    if others:
        more = f" and {len(others) - 1:,} more images" if len(others) > 1 else ""
        left_out = (*left_out, f"{others[0]}{more}: in none of the file lists")
    return Gathered(found, listed, lists.parts, "lists", left_out=left_out, unlisted=dict.fromkeys(others, "in none of the file lists"))


def _folder_with(files: Mapping[str, Path], partners: Mapping[str, Path], roots: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The folder that lists these tiles under these names, and what else it lists; none where that is the tiles' other halves, or more."""
    exact = folder_of(files, roots)
    if exact is not None:
        return exact, []
    top = Path(os.path.commonpath([path.parent for path in files.values()]))
    if not any(top.is_relative_to(root) for root in roots):
        return None, []
    try:
        listing = list_files(top)
    except LandsegError:  # two files of one name
        return None, []
    others = [name for name in listing if name not in files]
    is_apart = len(others) <= len(files) and not set(partners.values()) & {listing[name] for name in others}
    return (top, others) if is_apart and files.items() <= listing.items() else (None, [])


def _from_annotations(annotations: Annotations, listed: ClassList, sink: Sink, roots: Sequence[Path]) -> Gathered:
    classes = listed.classes or make_classes(annotations.class_names, _distinct(annotations.colours))
    table, dropped = _matched(annotations, classes)
    # A class that is called background has the pixels that nothing is drawn on; they are drawn as an id that no annotation has.
    ground = next((item for item in classes if item.name.strip().strip("_").casefold() in _BACKGROUND), None)
    free = len(annotations.class_names)
    if ground is not None:
        table[free] = ground.id

    def rasterise(name: str) -> tuple[str, bytes, str]:
        try:
            data = encode_label(table[annotations.rasterise(name, None if ground is None else free)], classes)
        except UnreadableTile as error:
            return name, b"", str(error)
        except LandsegError as error:
            return name, b"", f"{error.found}, {error.needed}"
        if sink.is_packed:
            return name, data, ""
        sink.put("labels", f"{name}.png", data)  # here, on many threads: a disk far away takes its time for each file
        return name, b"", ""

    names = sorted(annotations.images)
    labels: dict[str, Path] = {}
    unreadable: dict[str, str] = {}
    with sink:
        for name, data, reason in progress(parallel_map(rasterise, names), "rasterising annotations", len(names)):
            if reason:
                unreadable[name] = reason
                continue
            if sink.is_packed:
                sink.put("labels", f"{name}.png", data)
            labels[name] = sink.place("labels") / f"{name}.png"
    if not labels:
        name, reason = next(iter(unreadable.items()))
        raise LandsegError(
            annotations.images[name], f"{reason}, as with all {len(names):,} annotated images", "readable images", "mend them"
        )
    if ground is None and len(classes) == 1:
        log.warning('one class alone is drawn: with --classes "background,%s" the rest is background', classes[0].name)
    left_out = [*annotations.left_out]
    if dropped:
        left_out.append(f"annotations of {', '.join(dropped)}: not among the --classes, unlabelled")
    found = Found(annotations.images, labels, folder_of(annotations.images, roots), sink.place("labels"))
    return Gathered(found, ClassList(classes), {}, annotations.format, unreadable, tuple(left_out))


def _distinct(colours: Sequence[str | None]) -> list[str | None]:
    """Colours without the second of two equal ones, which a map could not tell apart."""
    return [colour if colour and colour not in colours[:i] else None for i, colour in enumerate(colours)]


def _matched(annotations: Annotations, classes: Sequence[LandClass]) -> tuple[np.ndarray, list[str]]:
    """(256,) uint8: the annotations' ids → the classes', matched by name; and the names that no class has.

    Raises:
        LandsegError: No name is a class's.
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    exact = {item.name: item.id for item in classes}
    folded = {item.name.casefold(): item.id for item in classes}
    dropped = []
    for i, name in enumerate(annotations.class_names):
        target = exact.get(name, folded.get(name.strip().casefold()))
        if target is None:
            dropped.append(name)
        else:
            table[i] = target
    if len(dropped) == len(annotations.class_names):
        raise LandsegError(
            "--classes",
            f"none of {', '.join(item.name for item in classes)} is in the annotations",
            f"some of {', '.join(annotations.class_names)}",
            "name them so, in the order that their ids shall have; or leave --classes out",
        )
    return table, dropped
