"""Which tiles belong together by their names or by a file of the user's. It looks at no pixels and assigns no parts."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from landseg.core.errors import LandsegError
from landseg.data.tiles import SUFFIXES
from landseg.splitting.groups import PARTS

log = logging.getLogger("landseg")

_NAMED = 5
_WORDS = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
"""Other words for parts that files from elsewhere use."""


def groups_by(names: Sequence[str], groups: str) -> list[str]:
    """The group of each tile, from a CSV file or a pattern.

    Args:
        names: Of the tiles.
        groups: Path of a CSV with columns ``tile`` and ``group``, or a regular expression that is searched in each name: its first group,
            or where it has none the whole match, is the tile's group.

    Returns:
        One group a tile. A tile that the file or pattern does not reach is a group of its own, and is named in the log.

    Raises:
        LandsegError: The file cannot be understood, the pattern is none, or no tile is reached.
    """
    path = Path(groups)
    if path.suffix.lower() in (".csv", ".tsv", ".txt") or _is_file(path):
        found = _for_tiles(path, _read(path, "group"), names, is_strict=False)
        missed = [name for name in names if name not in found]
    else:
        try:
            pattern = re.compile(groups)
        except re.error as error:
            raise LandsegError(
                "--groups", f"{groups!r} is neither a file nor a pattern ({error})", "a CSV tile,group or a regular expression",
                r"for example --groups '^([^_]+)_' when names begin with the group",
            ) from error  # fmt: skip
        matches = {name: match for name in names if (match := pattern.search(name))}
        found = {name: (match[1] if pattern.groups else match[0]) or "" for name, match in matches.items()}
        found = {name: group for name, group in found.items() if group}
        missed = [name for name in names if name not in found]
    if not found:
        raise LandsegError(
            "--groups", f"{groups} reaches none of {len(names)} tiles", f"names such as {names[0]}", "mend the file or the pattern"
        )
    if missed:
        log.warning("split: %s tiles have no group and are one each: %s", f"{len(missed):,}", _shown(missed))
    taken = set(found.values())
    return [found[name] if name in found else _fresh(name, taken) for name in names]


def parts_of(names: Sequence[str], path: Path) -> dict[str, str]:
    """The part of each tile that a CSV with columns ``tile`` and ``part`` names, in the order of `names`.

    Args:
        names: Of the data set's tiles.
        path: The CSV.

    Raises:
        LandsegError: The file cannot be understood, or names tiles that the data set does not have, or a part that is none.
    """
    found = _for_tiles(path, _read(path, "part"), names, is_strict=True)
    parts = {tile: _WORDS.get(part.lower(), part.lower()) for tile, part in found.items()}
    for tile, part in parts.items():
        if part not in PARTS:
            raise LandsegError(path, f"tile {tile} is in part {found[tile]!r}", f"one of {', '.join(PARTS)}", "mend that line")
    if not parts:
        raise LandsegError(path, "no line with a tile and its part", "at least one", "fill it in")
    return {name: parts[name] for name in names if name in parts}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a pattern may be longer than the system takes for a name
        return False


def _read(path: Path, column: str) -> dict[str, str]:
    """Tile → value of the column; lines without a value are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
        raise LandsegError(
            path, f"it cannot be read ({reason})", f"a CSV with columns tile,{column}", "check the path, save as UTF-8"
        ) from error
    head = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count))
    try:
        columns = [word.strip().lower() for word in next(rows, [])]
        if not {"tile", column} <= set(columns):
            raise LandsegError(
                path, f"its first line is {head.strip()!r}", f"columns tile and {column}", "name the columns in the first line"
            )
        places = columns.index("tile"), columns.index(column)
        lines = [(row[places[0]].strip(), row[places[1]].strip()) for row in rows if len(row) > max(places)]
    except csv.Error as error:
        raise LandsegError(path, f"it is no CSV ({error})", f"columns tile and {column}", "save it as CSV") from error
    found: dict[str, str] = {}
    for tile, value in lines:
        if tile and value and found.setdefault(tile, value) != value:
            raise LandsegError(path, f"tile {tile} is in {found[tile]!r} and in {value!r}", "one line a tile", "take out one of them")
    return found


def _for_tiles(path: Path, found: Mapping[str, str], names: Sequence[str], *, is_strict: bool) -> dict[str, str]:
    """The same by the data set's names; a file may give a tile's file name with its ending."""
    known = set(names)
    result: dict[str, str] = {}
    strange = []
    for tile, value in found.items():
        plain = PurePosixPath(tile)
        short = plain.with_suffix("").as_posix() if plain.suffix.lower() in SUFFIXES else tile
        if tile in known or short in known:
            result[tile if tile in known else short] = value
        else:
            strange.append(tile)
    if strange and is_strict:
        raise LandsegError(
            path, f"{len(strange):,} of its tiles are not in the data set ({_shown(strange)})", "names of this data set's tiles",
            "take those lines out, or name the data set that it belongs to",
        )  # fmt: skip
    if strange:
        log.warning("%s: %s of its tiles are not in the data set: %s", path, f"{len(strange):,}", _shown(strange))
    return result


def _fresh(name: str, taken: set[str]) -> str:
    """A group for one tile that is no other's."""
    group = name
    while group in taken:
        group += "'"
    taken.add(group)
    return group


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
