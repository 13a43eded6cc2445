"""Image files, found by the names that other tools' documents give them. It reads none of them.

A name is looked for wherever below the roots it lies: of several files of that name, the one whose folders agree longest with the name's,
then the one nearest to the document. Where no file has the name, the ending may differ, or the name be that of an upload to Label Studio.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from landseg.data.tiles import SUFFIXES

_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
_JUST_THERE = 1 << 16


class Gallery:
    """The image files below some folders.

    Args:
        images: All of them.
    """

    def __init__(self, images: Iterable[Path]) -> None:
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_upload: defaultdict[str, list[Path]] = defaultdict(list)
        for path in images:
            self._by_name[path.name].append(path)
            self._by_stem[path.stem].append(path)
            self._by_upload[_as_uploaded(path.stem)].append(path)

    def find(self, file_name: str, document: Path, *, is_picture: bool = False) -> list[Path]:
        """The file that a document means; none when it is not there, several when any may be meant.

        Args:
            file_name: As the document writes it, with slashes of either kind.
            document: The document's own path.
            is_picture: No image is meant, but a picture of segments (COCO panoptic): it lies in a folder of the document's name.
        """
        parts = [part for part in PurePosixPath(file_name.replace("\\", "/")).parts if part not in ("/", "..")]
        if not parts:
            return []
        last = PurePosixPath(parts[-1])
        stem = last.stem if last.suffix.lower() in SUFFIXES else last.name
        found = self._by_name.get(last.name) or self._by_stem.get(stem)
        if not found and _PREFIX.match(stem):
            # An upload to Label Studio, also in its COCO export.
            short = _PREFIX.sub("", stem)
            found = self._by_stem.get(short) or self._by_upload.get(_as_uploaded(short))
        if not found or len(found) == 1:
            return found or []
        ranks = [
            (
                (document.stem in path.parts) == is_picture,
                _common(reversed(path.parts[:-1]), reversed(parts[:-1])),
                _JUST_THERE if path == document.parent.joinpath(*parts) else _common(path.parts, document.parts),
            )
            for path in found
        ]
        return [path for path, rank in zip(found, ranks, strict=True) if rank == max(ranks)]


def name_tiles(paths: Sequence[Path]) -> dict[Path, str]:
    """Tile names of image files: each one's path below the deepest folder that holds all of them, without its ending."""
    if not paths:
        return {}
    top = Path(os.path.commonpath([path.parent for path in paths]))
    return {path: path.relative_to(top).with_suffix("").as_posix() for path in paths}


def _as_uploaded(name: str) -> str:
    """How Label Studio (Django's `get_valid_filename`) writes the name of an upload: nothing but letters, digits, dots, dashes and _."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """How many of their first parts are equal."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
