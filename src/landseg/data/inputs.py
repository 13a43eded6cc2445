"""Find tiles in folders, zips, dataset folders and single files, as names with a way to read them. It decodes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from landseg.core.errors import LandsegError
from landseg.data import places
from landseg.data.archive import DamagedEntry, is_zip, iter_files
from landseg.data.dataset import FILE, list_files, open_dataset
from landseg.data.tiles import SUFFIXES, UnreadableTile, read_bytes


@dataclass(frozen=True)
class TileInput:
    """One tile: its name and how to read its file.

    Args:
        name: What its class map will be called: no ending, ``/`` between folders.
        read: Its file's bytes; raises `UnreadableTile`. Called from several threads.
        source: The file as the user knows it, for messages.
        version: Changes when the file does (size and time), so that a changed file is not taken for finished.
    """

    name: str
    read: Callable[[], bytes]
    source: str = ""
    version: str = ""

    @property
    def what(self) -> str:
        """How messages call it."""
        return self.source or self.name


def find_inputs(inputs: Sequence[Path]) -> list[TileInput]:
    """Find the tiles in folders, zips, dataset folders and single files.

    A tile is named by its path below the deepest folder that holds all tiles of that input (of a dataset folder: below its images), so a
    zip, what it unpacks to and the data set made from it give the same names.

    Args:
        inputs: What the user named, in any mixture.

    Returns:
        The tiles, sorted by name within each input.

    Raises:
        LandsegError: An input is not there, is no image or holds none, or two tiles have the same name.
    """
    found: dict[str, TileInput] = {}
    for path in inputs:
        tiles = _look(path)
        if not tiles:
            raise LandsegError(
                path,
                "no image in it",
                f"files that end in {', '.join(sorted(SUFFIXES))}",
                "name the folder, zip or data set that holds the tiles",
            )
        for tile in tiles:
            if tile.name in found:
                raise LandsegError(
                    tile.what,
                    f"{found[tile.name].what} has the same name",
                    "one tile of a name in a prediction",
                    "predict them into two folders",
                )
            found[tile.name] = tile
    if not found:
        raise LandsegError("INPUT", "nothing is named", "a folder, zip, data set or image", "name at least one")
    return list(found.values())


def _look(path: Path) -> list[TileInput]:
    if path.is_dir():
        if (path / FILE).is_file():
            return [_from_file(name, file) for name, file in list_files(open_dataset(path).image_folder).items()]
        files = list_files(path)
        return [_from_file(short, files[name]) for name, short in _below_common(files).items()]
    if not path.is_file():
        raise LandsegError(path, "it is not there", "a folder, zip, data set or image", "check the path")
    if path.suffix.lower() in SUFFIXES:
        return [_from_file(path.stem, path)]
    if is_zip(path):
        return _from_zip(path)
    raise LandsegError(
        path,
        f"a file that ends in {path.suffix or 'nothing'}",
        "a folder, zip, data set or image",
        f"images end in {', '.join(sorted(SUFFIXES))}",
    )


def _from_file(name: str, path: Path) -> TileInput:
    try:
        version = places.version(path)
    except OSError:
        version = "gone"  # a link that leads nowhere; reading it will say so
    return TileInput(name, partial(read_bytes, path), str(path), version)


def _from_zip(archive: Path) -> list[TileInput]:
    members: dict[str, TileInput] = {}
    stamp = archive.stat().st_mtime_ns
    for member, size, read in iter_files(archive, keep=lambda member: PurePosixPath(member).suffix.lower() in SUFFIXES):
        name = PurePosixPath(member).with_suffix("").as_posix()
        source = f"{archive}/{member}"
        if name in members:
            raise LandsegError(source, f"{members[name].what} has the same name", "one file a tile", "take one of them out of the zip")
        members[name] = TileInput(name, partial(_read_member, read), source, f"{size} {stamp}")
    return [
        TileInput(short, members[name].read, members[name].source, members[name].version) for name, short in _below_common(members).items()
    ]


def _read_member(read: Callable[[], bytes]) -> bytes:
    try:
        data = read()
    except DamagedEntry as error:
        raise UnreadableTile(str(error)) from error
    if not data:
        raise UnreadableTile("the file is empty")
    return data


def _below_common(names: Iterable[str]) -> dict[str, str]:
    """Names, sorted, and each without the folders that all of them share."""
    ordered = sorted(names)
    parents = [PurePosixPath(name).parts[:-1] for name in ordered]
    depth = 0
    while parents and all(len(parts) > depth and parts[depth] == parents[0][depth] for parts in parents):
        depth += 1
    return {name: "/".join(PurePosixPath(name).parts[depth:]) for name in ordered}
