"""Recognise images and labels in what the user has. It moves nothing, and checks only a sample: `verbs.prepare` checks every file.

Vocabulary: a *heap* is the files of one folder that belong together: a folder of images, a folder of labels, or one half of a folder that
holds both.
Names of folders decide nothing, but break a tie: between two folders of images with the same file names, the labels take the one whose path
shares more words with theirs (``img_train``, ``lab_train``).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map
from landseg.data import places
from landseg.data.colours import colours_needed
from landseg.data.dataset import list_files
from landseg.data.looks import MAX_CODES, Look, look_at
from landseg.data.tiles import SUFFIXES

SAMPLE = 16
"""Files of a heap that are decoded to tell what it holds."""

MOSTLY = 0.8
"""Share of the readable sample that must look like labels."""

_MARK = re.compile(r"(?i)[-_ ](labels?|lab|masks?|gt|seg|sat|image|img|rgb)$")
_HINT = "name the folder of images as SOURCE and the folder of labels with --labels"

Kind = Literal["labels", "colours", "images"]


@dataclass(frozen=True)
class LeftOut:
    """A folder that is no part of the set: how many tile files it holds, and why it was left out."""

    folder: Path
    files: int
    reason: str


@dataclass(frozen=True)
class Found:
    """Images and labels of one data set, by tile name.

    A folder is None where the files cannot be referred to as a folder, because others lie among them or because their names differ:
    they have to be gathered under their tile names.
    """

    images: dict[str, Path]
    labels: dict[str, Path] | None
    image_folder: Path | None
    label_folder: Path | None
    others: tuple[LeftOut, ...] = ()
    looks_like_labels: bool = False
    """The images of a set without labels look like labels themselves."""

    @property
    def pairs(self) -> int:
        """Images that have a label."""
        return len(self.images.keys() & (self.labels or {}).keys())

    @property
    def orphan_images(self) -> tuple[str, ...]:
        """Images without a label, in a set that has labels."""
        return () if self.labels is None else tuple(sorted(self.images.keys() - self.labels.keys()))

    @property
    def orphan_labels(self) -> tuple[str, ...]:
        """Labels without an image."""
        return tuple(sorted((self.labels or {}).keys() - self.images.keys()))


@dataclass(eq=False)
class _Heap:
    folder: Path
    files: dict[str, Path]
    """By stem, without the mark (``_label``) where the heap shares its folder with another."""
    place: Path
    """What the folder counts as in the names of tiles."""
    is_half: bool = False
    kind: Kind = "images"
    lossy: bool = False
    is_grey: bool = False
    values: set[int] = field(default_factory=set)


def recognise(
    roots: Sequence[Path],
    labels: Path | None = None,
    *,
    leave: Path | None = None,
    colours: Sequence[tuple[int, int, int]] = (),
    shown: Callable[[Path], str] = str,
    named: Callable[[Path], Path] = lambda path: path,
) -> Found:
    """Find the images and the labels below some folders, by what the files hold.

    Args:
        roots: Folders to look through.
        labels: The folder of labels, when the user names it: then it holds labels whatever it looks like.
        leave: A folder that is not looked into: where the result goes.
        colours: Of the classes, when the user gives them: then pictures in these colours are labels where nothing else is.
        shown: How a path is written in messages.
        named: What a folder counts as in the names of tiles, which do not tell where a zip lies or was unpacked.

    Returns:
        The set; its label folder and labels are None when there are images alone.

    Raises:
        LandsegError: There is no tile file, no image belongs to the labels, or it cannot be told which images do.
    """
    heaps = _heaps([*roots, *([labels] if labels else [])], leave, named)
    if not heaps:
        raise LandsegError(
            ", ".join(map(shown, roots)),
            "no image files in it",
            f"files that end in {', '.join(sorted(SUFFIXES))}",
            "name a folder or a zip of tiles",
        )
    _tell_kinds(heaps, colours)
    heaps = _join(heaps)
    label_heaps = [heap for heap in heaps if heap.kind == "labels"]
    if labels is not None:
        below = [heap for heap in heaps if heap.folder.is_relative_to(labels)]
        if not below:
            raise LandsegError(shown(labels), "no label files in it", "the folder of labels", "name it with --labels")
        outside = any(not heap.folder.is_relative_to(labels) for heap in heaps)
        if outside or all(heap.kind != "labels" for heap in below):
            label_heaps = below
    rest = [heap for heap in heaps if heap not in label_heaps]
    # A folder of flat colours is an image set only where there is nothing more like one.
    image_heaps = [heap for heap in rest if heap.kind == "images"] or rest
    if not image_heaps:
        if len(label_heaps) > 1 or labels is not None:
            raise _unclear(shown, heaps, "labels but no images")
        return _image_set(roots, label_heaps, heaps, looks_like_labels=True)
    if not label_heaps:
        _refuse_colours(shown, image_heaps, [heap for heap in rest if heap.kind == "colours"])
        _refuse_greys(shown, heaps, image_heaps)
        return _image_set(roots, rest, heaps)
    matched = _match(shown, heaps, image_heaps, label_heaps)
    others = [_left_out(heap, image_heaps, label_heaps) for heap in heaps if not any(heap in pair for pair in matched)]
    return _paired_set(roots, matched, heaps, tuple(others))


def folder_of(files: Mapping[str, Path], roots: Sequence[Path]) -> Path | None:
    """The folder, one of the roots or below one, that lists exactly these tiles under exactly these names, if there is one."""
    top = Path(os.path.commonpath([path.parent for path in files.values()]))
    if not any(top.is_relative_to(root) for root in roots):
        return None
    try:
        return top if list_files(top) == dict(files) else None
    except LandsegError:  # two files of one name
        return None


def _heaps(roots: Sequence[Path], leave: Path | None, named: Callable[[Path], Path]) -> list[_Heap]:
    """Every folder below the roots that holds tile files; a folder with both halves of a set gives two heaps or more."""
    by_folder: dict[Path, list[Path]] = {}
    for root in roots:
        for here, names in places.folders(root, leave):
            files = [here / name for name in names if Path(name).suffix.lower() in SUFFIXES]
            if files:
                by_folder.setdefault(here, files)
    result: list[_Heap] = []
    for place, folder, files in sorted((named(folder), folder, files) for folder, files in by_folder.items()):
        if len({_MARK.sub("", path.stem) for path in files}) == len(files):
            result.append(_Heap(folder, {path.stem: path for path in files}, place))
            continue
        halves: defaultdict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
        for path in files:
            mark = _MARK.search(path.stem)
            key = (mark[1].lower() if mark else "", path.suffix)
            halves[key][_MARK.sub("", path.stem)] = path
        result += [_Heap(folder, half, place, is_half=True) for half in halves.values()]
    return result


def _tell_kinds(heaps: list[_Heap], colours: Sequence[tuple[int, int, int]] = ()) -> None:
    """Decode a sample of each heap and set its kind."""
    known: np.ndarray = np.array(colours, np.uint8).reshape(-1, 3)
    jobs: list[tuple[_Heap, Path]] = []
    for heap in heaps:
        paths = list(heap.files.values())
        count = min(SAMPLE, len(paths))
        jobs += [(heap, paths[i * len(paths) // count]) for i in range(count)]
    looks: defaultdict[int, list[Look]] = defaultdict(list)
    for (heap, _), look in zip(jobs, parallel_map(lambda path: look_at(path, known), [path for _, path in jobs]), strict=True):
        if look is not None:
            looks[id(heap)].append(look)
    for heap in heaps:
        seen = looks[id(heap)]
        coded = [look for look in seen if look.codes is not None]
        heap.lossy = any(look.is_lossy for look in seen)
        heap.is_grey = bool(seen) and all(look.is_grey for look in seen)
        if not coded or len(coded) < MOSTLY * len(seen):
            flat = [look for look in seen if look.codes is not None or look.few_colours]
            heap.kind = "colours" if seen and len(flat) >= MOSTLY * len(seen) else "images"
            continue
        heap.values = set().union(*(look.codes for look in coded if look.codes is not None))
        # Where a heap has almost as many values as pixels, few values mean few pixels.
        is_few = len(heap.values) <= MAX_CODES and 2 * len(heap.values) <= sum(look.pixels for look in coded)
        heap.kind = "labels" if is_few else "images"
    if any(heap.kind == "labels" for heap in heaps):
        return
    for heap in heaps:
        painted = [look for look in looks[id(heap)] if look.is_painted]
        if painted and len(painted) >= MOSTLY * len(looks[id(heap)]):
            heap.kind = "labels"


def _join(heaps: list[_Heap]) -> list[_Heap]:
    """Put the halves of one folder together that are of one kind and share no name: photographs ending in .jpg and in .jpeg, say."""
    result: list[_Heap] = []
    for folder, group in groupby(heaps, key=lambda heap: heap.folder):
        halves = list(group)
        paths = [path for half in halves for path in half.files.values()]
        by_stem = {path.stem: path for path in paths}
        if len(halves) > 1 and len({half.kind for half in halves}) == 1 and len(by_stem) == len(paths):
            # No halves after all: what looked like a mark is part of the names.
            result.append(_Heap(folder, by_stem, halves[0].place, kind=halves[0].kind, lossy=any(half.lossy for half in halves)))
            continue
        joined: list[_Heap] = []
        for half in halves:
            known = next((other for other in joined if other.kind == half.kind and not other.files.keys() & half.files.keys()), None)
            if known is None:
                joined.append(half)
            else:
                known.files.update(half.files)
        result += joined
    return result


def _match(
    shown: Callable[[Path], str], heaps: list[_Heap], image_heaps: list[_Heap], label_heaps: list[_Heap]
) -> list[tuple[_Heap, _Heap]]:
    """Give each heap of labels its images: those at the same place of a like tree, else those whose names agree best."""
    image_places, label_places = _prefixes(image_heaps), _prefixes(label_heaps)
    by_place = {image_places[id(heap)]: heap for heap in image_heaps}
    direct = [(by_place[label_places[id(label)]], label) for label in label_heaps if label_places[id(label)] in by_place]
    is_like = len({id(image) for image, _ in direct}) == len(label_heaps)
    if is_like and all(image.files.keys() & label.files.keys() for image, label in direct):
        return direct
    top = os.path.commonpath([heap.place for heap in heaps])
    words = {id(heap): frozenset(re.findall(r"[^\W\d_]+|\d+", os.path.relpath(heap.place, top).lower())) for heap in heaps}
    scored: list[tuple[tuple[float, float], _Heap, _Heap]] = []
    for label in label_heaps:
        for image in image_heaps:
            common = len(image.files.keys() & label.files.keys())
            if common:
                alike = 1000 if image.folder == label.folder else len(words[id(image)] & words[id(label)])
                scored.append(((common / len(image.files.keys() | label.files.keys()), alike), image, label))
    if not scored:
        mine, theirs = next(iter(image_heaps[0].files.values())).name, next(iter(label_heaps[0].files.values())).name
        found = f"no image has the name of a label (images such as {mine}, labels such as {theirs})"
        raise _unclear(shown, heaps, found, "equal names but for the ending")
    scored.sort(key=lambda item: item[0], reverse=True)
    matched: list[tuple[_Heap, _Heap]] = []
    while scored:
        score, image, label = scored[0]
        for rival_score, rival_image, rival_label in scored[1:]:
            if rival_score == score and (rival_image is image) != (rival_label is label):
                one, two = (rival_image, image) if rival_label is label else (rival_label, label)
                raise _unclear(shown, heaps, f"{shown(one.folder)} and {shown(two.folder)} fit equally well")
        matched.append((image, label))
        scored = [item for item in scored if item[1] is not image and item[2] is not label]
    return sorted(matched, key=lambda pair: pair[0].place)


def _image_set(roots: Sequence[Path], image_heaps: list[_Heap], heaps: list[_Heap], *, looks_like_labels: bool = False) -> Found:
    names = _prefixes(image_heaps)
    images = {names[id(heap)] + stem: path for heap in image_heaps for stem, path in heap.files.items()}
    _refuse_clash(image_heaps, names)
    return Found(images, None, _folder_of(images, roots, heaps), None, (), looks_like_labels)


def _paired_set(roots: Sequence[Path], matched: list[tuple[_Heap, _Heap]], heaps: list[_Heap], others: tuple[LeftOut, ...]) -> Found:
    image_heaps = [image for image, _ in matched]
    names = _prefixes(image_heaps)
    _refuse_clash(image_heaps, names)
    images = {names[id(image)] + stem: path for image, _ in matched for stem, path in image.files.items()}
    labels = {names[id(image)] + stem: path for image, label in matched for stem, path in label.files.items()}
    return Found(images, labels, _folder_of(images, roots, heaps), _folder_of(labels, roots, heaps), others)


def _prefixes(heaps: list[_Heap]) -> dict[int, str]:
    """What stands before a stem in a tile's name: the heap's folder below the folder common to all, and no ``images`` that all end in.

    A name does not begin with a dot, even if its source's does: what is hidden is no tile.
    """
    top = Path(os.path.commonpath([heap.place for heap in heaps]))
    below = [heap.place.relative_to(top).parts for heap in heaps]
    if len(below) > 1 and len({parts[-1:] for parts in below}) == 1:
        below = [parts[:-1] for parts in below]
    return {id(heap): "".join(f"{part.lstrip('.')}/" for part in parts) for heap, parts in zip(heaps, below, strict=True)}


def _refuse_clash(heaps: list[_Heap], names: dict[int, str]) -> None:
    counts = Counter(names[id(heap)] + stem for heap in heaps for stem in heap.files)
    name, count = counts.most_common(1)[0]
    if count > 1:
        paths = [heap.files[stem] for heap in heaps for stem in heap.files if names[id(heap)] + stem == name]
        do = "move one of them elsewhere; if one is a label, name the folder of labels with --labels"
        raise LandsegError(paths[0], f"{paths[1].name} has the same name", "one image a tile", do)


def _folder_of(files: dict[str, Path], roots: Sequence[Path], heaps: list[_Heap]) -> Path | None:
    """The folder that lists exactly these files under exactly these names, if there is one."""
    top = Path(os.path.commonpath([path.parent for path in files.values()]))
    others = sum(len(heap.files) for heap in heaps if heap.folder.is_relative_to(top))
    is_inside = any(top.is_relative_to(root) for root in roots) or all(path.parent == top for path in files.values())
    is_named = all(path.relative_to(top).with_suffix("").as_posix() == name for name, path in files.items())
    return top if is_inside and is_named and others == len(files) else None


def _refuse_colours(shown: Callable[[Path], str], image_heaps: list[_Heap], colour_heaps: list[_Heap]) -> None:
    for heap in colour_heaps:
        if any(heap is not image and heap.files.keys() & image.files.keys() for image in image_heaps):
            raise colours_needed(heap.files, shown, heap.folder)


def _refuse_greys(shown: Callable[[Path], str], heaps: list[_Heap], image_heaps: list[_Heap]) -> None:
    """Refuse to take masks in many greys for a second folder of images."""
    for grey in image_heaps:
        for image in image_heaps:
            if grey.is_grey and not image.is_grey and 2 * len(grey.files.keys() & image.files.keys()) > len(grey.files):
                raise _unclear(shown, heaps, f"{shown(grey.folder)} holds pictures in greys with the names of images: masks, or a band")


def _left_out(heap: _Heap, image_heaps: list[_Heap], label_heaps: list[_Heap]) -> LeftOut:
    if heap in label_heaps:
        reason = "labels without images"
    elif heap in image_heaps:
        reason = "images without labels: a set of their own, prepare them with another --out"
    else:
        reason = "pictures in few colours beside the images"
    return LeftOut(heap.folder, len(heap.files), reason)


def _unclear(
    shown: Callable[[Path], str], heaps: list[_Heap], found: str, needed: str = "one folder of images and one of labels"
) -> LandsegError:
    listed = "; ".join(f"{shown(heap.folder)} ({len(heap.files)} {heap.kind}{', JPEG' if heap.lossy else ''})" for heap in heaps[:6])
    more = f" and {len(heaps) - 6} more" if len(heaps) > 6 else ""
    return LandsegError(listed + more, found, needed, _HINT)
