"""A split on disk: which tile is in which part (``splits/NAME.csv``). It decides nothing; `groups` does."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from tempfile import TemporaryFile

from landseg.core.errors import LandsegError
from landseg.core.files import write_text
from landseg.data.dataset import Dataset
from landseg.data.pack import TileStore
from landseg.splitting.groups import PARTS

log = logging.getLogger("landseg")

COLUMNS = ("tile", "part", "group", "scene", "row", "col")
EDGE_COLUMNS = ("a", "b", "side", "probability")

_LONGEST = 200  # bytes of a name: the system takes 255 with the endings


@dataclass(frozen=True)
class Placed:
    """One tile of a split; `scene`, `row` and `col` are empty where they are not known."""

    tile: str
    part: str
    group: str
    scene: str = ""
    row: str = ""
    col: str = ""


@dataclass(frozen=True)
class Split:
    """A named split of a data set."""

    name: str
    tiles: tuple[Placed, ...]

    def part(self, part: str) -> list[Placed]:
        """The tiles of one part.

        Raises:
            LandsegError: The part has none.
        """
        found = [tile for tile in self.tiles if tile.part == part]
        if not found:
            raise LandsegError(
                f"split {self.name}",
                f"no tiles in part {part!r}",
                f"one of {', '.join(self.parts())}",
                "choose another --part or split again",
            )
        return found

    def parts(self) -> list[str]:
        """Names of the parts that have tiles, in the order train, val, test."""
        used = {tile.part for tile in self.tiles}
        return [part for part in PARTS if part in used]


def split_path(dataset: Dataset, name: str) -> Path:
    """Where a split of that name lies.

    Raises:
        LandsegError: The name is no file's name, or one that recovered neighbours have.
    """
    if not name or name != Path(name).name or name.startswith(".") or name.endswith(".edges") or len(name.encode()) > _LONGEST:
        raise LandsegError("--name", f"{name[:_LONGEST]!r}", "a plain word", "for example --name first")
    return dataset.folder / "splits" / f"{name}.csv"


def claim(dataset: Dataset, name: str, folds: int | None, *, overwrite: bool) -> list[str]:
    """Names of the splits to write, ``NAME`` or ``NAME-1`` …: asked before the long search for what belongs together.

    Raises:
        LandsegError: One of them is there, or nothing can be written.
    """
    names = [name] if folds is None else [f"{name}-{k}" for k in range(1, folds + 1)]
    require_writable(dataset)
    for each in names:
        path = split_path(dataset, each)
        if not overwrite and path.exists():
            raise LandsegError(path, "it exists already", "a name that no split has", "choose another --name or add --overwrite")
    return names


def require_writable(dataset: Dataset) -> None:
    """Refuse a data set in which no split can be written.

    Raises:
        LandsegError: ``splits/`` cannot be written.
    """
    folder = dataset.folder / "splits"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LandsegError(
            folder, f"it cannot be written ({error.strerror or error})", "a place to write: a split lies in its data set",
            "mend the permissions or copy the data set",
        ) from error  # fmt: skip


def clear_away(dataset: Dataset, names: Sequence[str], *, keep_lists: bool) -> None:
    """Remove what older splits of these names left beside them: joins, pages and lists; of folds also those beyond the new ones."""
    known = set(split_names(dataset))
    spare: list[str] = []
    if len(names) > 1 and known.issuperset(names):
        base = names[0].removesuffix("-1")
        spare = list(takewhile(known.__contains__, (f"{base}-{k}" for k in count(len(names) + 1))))
    for name in (*names, *spare):
        path = split_path(dataset, name)
        lists = path.with_suffix("")
        old = [path.with_name(f"{name}{ending}") for ending in (".edges.csv", ".html", ".leaks.html")]
        old += [path] if name in spare else []
        old += [] if keep_lists and name in names else [*(lists / f"{part}_list.txt" for part in PARTS), lists / "labels.txt"]
        for file in old:
            with suppress(OSError):
                file.unlink()
        with suppress(OSError):  # it holds something else
            lists.rmdir()
    if spare:
        log.info("split: folds of the older split are removed: %s", ", ".join(spare))


def write_split(dataset: Dataset, split: Split) -> Path:
    """Write a split, one line a tile, and return its path."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((tile.tile, tile.part, tile.group, tile.scene, tile.row, tile.col) for tile in split.tiles)
    path = split_path(dataset, split.name)
    write_text(path, buffer.getvalue())
    return path


def write_edges(dataset: Dataset, name: str, names: Sequence[str], edges: Iterable[tuple[int, int, str, float]]) -> Path:
    """Write the joins that a split rests on, ``NAME.edges.csv``, and return its path.

    Args:
        dataset: Where to.
        name: Of the split.
        names: Tiles by number.
        edges: (a, b, side, probability) each: tile `b` lies ``right`` of tile `a`, ``below`` it, or shows the ``same`` ground.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(EDGE_COLUMNS)
    writer.writerows((names[a], names[b], side, f"{probability:.6f}") for a, b, side, probability in edges)
    path = split_path(dataset, name).with_name(f"{name}.edges.csv")
    write_text(path, buffer.getvalue())
    return path


def split_names(dataset: Dataset) -> list[str]:
    """Names of the splits that a data set has."""
    return sorted(path.stem for path in (dataset.folder / "splits").glob("*.csv") if not path.stem.endswith(".edges"))


def read_split(dataset: Dataset, name: str | None = None, *, option: str = "--split") -> Split:
    """Read the split of that name, or the only one there is; `option` is where the command takes the name.

    Raises:
        LandsegError: None, several without a name, an unreadable file, or tiles that the data set does not have.
    """
    names = split_names(dataset)
    if name is None:
        if len(names) != 1:
            found = f"{len(names)} splits ({', '.join(names)})" if names else "no split"
            do = f"name one with {option} {names[0]}" if names else f"make one with `landseg split {dataset.folder}`"
            raise LandsegError(dataset.folder, found, "one split, or the name of one", do)
        name = names[0]
    elif name not in names:
        raise LandsegError(
            dataset.folder,
            f"no split {name!r}",
            f"one of its splits ({', '.join(names) or 'none'})",
            f"`landseg split {dataset.folder} --name {name}`",
        )
    path = split_path(dataset, name)
    try:
        rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _broken(path, str(error)) from error
    if not rows or rows[0][:3] != list(COLUMNS[:3]):
        raise _broken(path, f"its first line is {','.join(rows[0]) if rows else 'missing'}")
    # An unplaced tile is a group of its own.
    tiles = [Placed(tile, part, group or tile, *rest[:3]) for tile, part, group, *rest in (row for row in rows[1:] if len(row) >= 3)]
    _check(dataset, path, tiles, len(rows) - 1)
    return Split(name, tuple(tiles))


def tile_numbers(store: TileStore, split: Split, part: str) -> list[int]:
    """Numbers in the store of a part's tiles; tiles that could not be read are missing there and were named when it was made.

    Raises:
        LandsegError: None is left, or none has a labelled pixel.
    """
    number = {entry.name: i for i, entry in enumerate(store.entries)}
    found = [number[tile.tile] for tile in split.part(part) if tile.tile in number]
    if not any(sum(store.entries[i].class_pixels) for i in found):
        raise LandsegError(
            f"split {split.name}", f"no labelled pixel in part {part!r}", "labelled tiles in it", "split again with another --seed or --val"
        )
    return found


def _check(dataset: Dataset, path: Path, tiles: Sequence[Placed], lines: int) -> None:
    if len(tiles) != lines:
        raise _broken(path, "a line has less than three columns")
    strange = next((tile for tile in tiles if tile.part not in PARTS), None)
    if strange:
        raise _broken(path, f"tile {strange.tile} is in part {strange.part!r}")
    names = [tile.tile for tile in tiles]
    known = {tile.name for tile in dataset.tiles}
    missing = [name for name in names if name not in known]
    if missing:
        raise LandsegError(
            path,
            f"{len(missing)} of its tiles are not in the data set ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''})",
            "a split of this data set",
            "split again with --overwrite",
        )
    if len(set(names)) != len(names):
        raise _broken(path, "a tile stands there twice")
    if unplaced := sorted(known - set(names)):
        log.info("%s: %s tiles of the data set are in no part (%s)", path, f"{len(unplaced):,}", ", ".join(unplaced[:3]))


def _broken(path: Path, found: str) -> LandsegError:
    return LandsegError(path, found, f"columns {', '.join(COLUMNS)} and parts {', '.join(PARTS)}", "split again with --overwrite")
