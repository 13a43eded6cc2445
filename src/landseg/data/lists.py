"""File lists of PaddleX and PaddleSeg, in and out: which image goes with which label, in which part. It opens no image.

A line is ``image label`` (or the image alone in a list of test images), relative to the list's folder. PaddleX 1.3, 2 and 3 and PaddleSeg
all take a blank for the end of the image's path, so they cannot hold a path with a blank in it. Here such a list is read as it was meant,
and none is written.

Source: PaddleX, docs/data/format/segmentation.md, cv/datasets/seg_dataset.py (1.3, 2), modules/semantic_segmentation/dataset_checker
(3); PaddleSeg, paddleseg/datasets/dataset.py.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from landseg.core.errors import LandsegError
from landseg.core.files import write_text
from landseg.data.archive import is_litter
from landseg.data.documents import decode
from landseg.data.gallery import name_tiles
from landseg.data.tiles import SUFFIXES

LIST_SUFFIXES = frozenset({".txt"})
"""File endings (lower case) of lists and class names."""

PARTS = ("train", "val", "test")

_NAME = re.compile(r"(?i)(train|val|valid|validation|eval|test)([-_ ]?list)?\.txt")
_PART = {"train": "train", "test": "test"}  # every other name of `_NAME` is val's
_CLASSES = ("labels.txt", "class_names.txt", "label_list.txt")
_MAX_BYTES = 1 << 28
_MAX_LINE = 4096
_MAX_SPLITS = 32
_NAMED = 3
# A part whose tiles are scored keeps what others scored on; val before test, for often one list stands under both names.
_FIRST = ("val", "test", "train")


@dataclass(frozen=True)
class FileLists:
    """What file lists say.

    Args:
        images: Tile name → image file.
        labels: Tile name → label file, for the lines that have one.
        parts: Tile name → ``train``, ``val`` or ``test``.
        class_names: From ``labels.txt`` beside the lists, in the order of the ids; empty when there is none.
        left_out: What was not used and why.
    """

    images: dict[str, Path]
    labels: dict[str, Path]
    parts: dict[str, str]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def find_lists(root: Path, leave: Path | None = None, *, shown: Callable[[Path], str] = str) -> FileLists | None:
    """Find PaddleX or PaddleSeg lists in a folder or below it.

    Args:
        root: The folder.
        leave: A folder that is not looked into: where the result goes.
        shown: How a path is written in messages.

    Returns:
        None where no text file of such a name names an image that is there. Of lists in several folders, those that name most images.

    Raises:
        LandsegError: A file of class names beside the lists is no text.
    """
    found = [_read_folder(folder, names, root, shown) for folder, names in _folders(root, leave)]
    found = [item for item in found if item.images]
    if not found:
        return None
    best = max(found, key=lambda item: len(item.images))
    if len(found) == 1:
        return best
    others = sum(len(item.images) for item in found) - len(best.images)
    left_out = (*best.left_out, f"file lists in other folders, which name {others:,} images")
    return FileLists(best.images, best.labels, best.parts, best.class_names, left_out)


def write_lists(folder: Path, parts: Mapping[str, Sequence[tuple[Path, Path | None]]], class_names: Sequence[str]) -> list[Path]:
    """Write ``train_list.txt``, ``val_list.txt``, ``test_list.txt`` and ``labels.txt``, in place of those that are there.

    Args:
        folder: Where they go; it is the ``data_dir`` (PaddleX) or ``dataset_root`` (PaddleSeg) of the lists.
        parts: Part → (image, label) of its tiles; only a tile of test may have no label.
        class_names: In the order of their ids.

    Returns:
        The files written. A part without tiles has none; an older list of it is deleted.

    Raises:
        LandsegError: A path has a blank in it, which the lists cannot hold, a tile of train or val has no label, or a file cannot be
            written.
    """
    texts: dict[str, str] = {}
    for part in PARTS:
        lines: list[str] = []
        for image, label in parts.get(part, ()):
            if label is None and part != "test":
                raise LandsegError(image, f"no label, and it lies in {part}", "a label for each tile that trains or validates", "label it")
            lines.append(" ".join(_relative(path, folder) for path in (image, label) if path is not None))
        if lines:
            texts[f"{part}_list.txt"] = "".join(f"{line}\n" for line in lines)
    texts["labels.txt"] = "".join(f"{name}\n" for name in class_names)
    for part in PARTS:
        if f"{part}_list.txt" not in texts:
            (folder / f"{part}_list.txt").unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _relative(path: Path, folder: Path) -> str:
    """A path as a list holds it."""
    # Not the file's own link is resolved: where it leads to, it may have another name.
    whole = path.parent.resolve() / path.name
    try:
        written = Path(os.path.relpath(whole, folder.resolve())).as_posix()
    except ValueError:  # Windows: another drive
        written = whole.as_posix()
    if len(written.split()) != 1:
        raise LandsegError(
            path, f"a blank in {written!r}", "paths without blanks: PaddleX and PaddleSeg take one for the end of the path",
            "rename the file or its folder",
        )  # fmt: skip
    return written


def _folders(root: Path, leave: Path | None) -> Iterator[tuple[Path, list[str]]]:
    for place, folders, names in os.walk(root):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not is_litter(name) and here / name != leave)
        lists = [name for name in sorted(names) if _NAME.fullmatch(name)]
        if lists:
            yield here, lists


def _read_folder(folder: Path, names: list[str], root: Path, shown: Callable[[Path], str]) -> FileLists:
    """Read the lists of one folder."""
    pairs: dict[Path, tuple[str, Path | None]] = {}
    troubles: defaultdict[str, list[str]] = defaultdict(list)
    twice: Counter[tuple[str, str]] = Counter()
    leaks: dict[tuple[str, str], Path] = {}
    for part in _FIRST:
        for name in names:
            mark = _NAME.fullmatch(name)
            if mark is None or _PART.get(mark[1].lower(), "val") != part:
                continue
            for number, line in enumerate(_lines(folder / name), 1):
                pair = _find(line, folder, root)
                if isinstance(pair, str):
                    troubles[name].append(f"line {number}: {pair}")
                    continue
                image, label = pair
                known = pairs.setdefault(image, (part, label))
                if known[0] != part:
                    twice[known[0], part] += 1
                    leaks.setdefault((known[0], part), image)
    named = name_tiles(sorted(pairs))
    images: dict[str, Path] = {}
    for path, tile in named.items():
        if images.setdefault(tile, path) is not path:
            troubles["lists"].append(f"{shown(path)} has the name of {images[tile].name}, but for the ending")
    left_out = [
        f"{count:,} tiles are listed in {first} and in {second}: they stay in {first} alone ({shown(leaks[first, second])} and so on)"
        for (first, second), count in twice.items()
    ]
    for name, items in troubles.items():
        more = f" and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
        left_out.append(f"{shown(folder / name)}: {'; '.join(items[:_NAMED])}{more}")
    return FileLists(
        images=images,
        labels={tile: label for tile, path in images.items() if (label := pairs[path][1]) is not None},
        parts={tile: pairs[path][0] for tile, path in images.items()},
        class_names=_class_names(folder),
        left_out=tuple(left_out),
    )


def _lines(path: Path) -> list[str]:
    """The lines of a list, without blank ones at the end; none where it is no text."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return []
        text = decode(path.read_bytes(), path)
    except (OSError, LandsegError):
        return []
    return text.rstrip().splitlines() if "\0" not in text else []


def _find(line: str, folder: Path, root: Path) -> tuple[Path, Path | None] | str:
    """The image and the label of a line, or what is wrong with it."""
    text = line.strip()
    if not text or len(text) > _MAX_LINE:
        return "a line that is empty or too long"
    # A tab or a bar is in no file name; a blank, a comma or a semicolon may be, so each is tried as the one between the two.
    places = [found.span() for found in re.finditer(r"[\t|]+", text)] or [found.span() for found in re.finditer(r"[,; ]+", text)]
    splits = [(text[:start].strip(), text[end:].strip()) for start, end in places]
    splits = [(image, label) for image, label in splits if _is_image(image) and _is_image(label)][:_MAX_SPLITS]
    for image_text, label_text in splits:
        image = _resolve(image_text, folder, root)
        if image is not None:
            label = _resolve(label_text, folder, root)
            if label is not None:
                return image, label
    whole = _resolve(text, folder, root) if _is_image(text) else None
    if whole is not None:
        return whole, None
    if not splits:
        return f"{text[:80]} is not there" if _is_image(text) else f"{text[:80]} is no image and its label"
    missing = next((item for item in splits[0] if _resolve(item, folder, root) is None), splits[0][0])
    return f"{missing[:80]} is not there"


def _is_image(text: str) -> bool:
    return PurePosixPath(text.replace("\\", "/")).suffix.lower() in SUFFIXES


def _resolve(text: str, folder: Path, root: Path) -> Path | None:
    """The file of a path in a list: relative to the list's folder, or to one above it; or, written on another machine, by its end."""
    path = PurePosixPath(text.replace("\\", "/"))
    places = [folder, *(above for above in folder.parents if above.is_relative_to(root))]
    for place in places:
        if _is_file(place / path):
            return Path(os.path.normpath(place / path))
    if path.is_absolute() or re.match("[A-Za-z]:", text):
        for first in range(1, min(len(path.parts), 16)):
            for place in places:
                if _is_file(place.joinpath(*path.parts[first:])):
                    return place.joinpath(*path.parts[first:])
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name longer than the system takes
        return False


def _class_names(folder: Path) -> tuple[str, ...]:
    for name in _CLASSES:
        path = folder / name
        if _is_file(path):
            return tuple(line.strip() for line in decode(path.read_bytes(), path).splitlines() if line.strip())
    return ()
