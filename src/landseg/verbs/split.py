"""`landseg split`: decide which tiles train and which validate, or look for leaks between them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.data.dataset import FILE, Dataset, open_dataset
from landseg.data.pack import TileStore, open_tiles
from landseg.data.places import is_zipped
from landseg.splitting.assignment import (
    Placed,
    Split,
    claim,
    clear_away,
    read_split,
    require_writable,
    split_path,
    write_edges,
    write_split,
)
from landseg.splitting.groups import PARTS, assign, check_shares
from landseg.splitting.summary import Splitted, Summary, summarise

if TYPE_CHECKING:
    from landseg.splitting.leaks import Leaks
    from landseg.splitting.recovery import Recovered

log = logging.getLogger("landseg")

BY = ("scene", "group", "random", "file")

SLACK = 1.5
"""A scene may be so many times as large as val, test or a fold before it is divided: its blocks resemble each other, apart or not."""

MOST = 0.75
"""Share of all tiles above which a scene is divided in any case: the other parts need some."""

VAL = 0.1


@dataclass(frozen=True)
class Checked:
    """What leaks, and the page that shows it."""

    leaks: Leaks
    page: Path

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {**self.leaks.as_json(), "files": [str(self.page)]}

    def as_text(self) -> str:
        """The table of leaks, and where the page lies."""
        return f"{self.leaks.as_text()}\n{self.page}"


@dataclass(frozen=True)
class _Tiles:
    """The tiles of the store and what keeps them together; `places` are scene, row and column as the split's file has them."""

    groups: list[str]
    is_unplaced: np.ndarray
    block: np.ndarray
    places: list[tuple[str, str, str]]
    recovered: Recovered | None = None
    scenes: list[str] = field(default_factory=list)


def split(
    data: str | Path,
    *,
    by: str | None = None,
    groups: str | None = None,
    val: float = VAL,
    test: float = 0.0,
    folds: int | None = None,
    seed: int = 0,
    name: str | None = None,
    lists: bool = False,
    check: bool = False,
    against: str | Path | None = None,
    require: str | None = None,
    overwrite: bool = False,
) -> Splitted | Checked:
    """Assign the tiles of a data set to train, val and test, or look for leaks between them.

    Args:
        data: Dataset folder with labels.
        by: ``scene`` keeps together what belongs to one scene, by georeference or by the pixels alone; ``group`` what `groups` says;
            ``file`` takes the parts of a file; ``random`` keeps nothing together, so the val score flatters. None is ``scene``, or where
            that leaves too few groups ``random``, which is said.
        groups: For ``group`` a CSV tile,group or a pattern whose match in a tile's name is its group; for ``file`` a CSV tile,part.
        val: Share of the tiles for validation; each of several folds has an equal one instead.
        test: Share of the tiles for testing.
        folds: So many splits ``NAME-1`` … instead of one; each tile is in val of one, but for those of test and between blocks.
        seed: Chooses among assignments that are nearly as good.
        name: Of the split; that of `by` when None.
        lists: Also write PaddleX lists, ``splits/NAME/train_list.txt`` and so on.
        check: Look for leaks between the parts of the split `name`, the only one when None; split nothing.
        against: Look for leaks between `data` and this data set, folder or zip; split nothing.
        require: ``clean``: a leak is a failed gate.
        overwrite: Replace a split of that name.

    Returns:
        The split's files and shares; with `check` or `against` what leaks.

    Raises:
        LandsegError: No labels, too few groups, an existing split, a file that does not fit, options of which one has no say; with
            `is_gate`, a leak was found.
    """
    _check_arguments(by, groups, require, seed, check=check, against=against)
    draw = {"--val": val != VAL, "--test": test != 0, "--folds": folds is not None, "--seed": seed != 0}
    if check or against is not None:
        mode = "--check" if check else "--against"
        draw |= {"--by": by is not None, "--groups": groups is not None, "--lists": lists, "--name": name is not None and not check}
        _refuse_idle(mode, draw)
        return _look(Path(data), name, against, require)
    chosen = by or ("scene" if groups is None else "group")
    dataset = open_dataset(Path(data))
    dataset.require_labels("a split")
    if lists:
        _require_files(dataset)
    if chosen == "file":
        _refuse_idle("--by file", draw)
        return _by_file(dataset, groups, name, lists=lists, overwrite=overwrite)
    if folds is not None:
        _refuse_idle("--folds", {"--val": draw["--val"]})
    check_shares(val, test, folds)
    names = claim(dataset, name or chosen, folds, overwrite=overwrite)
    store = open_tiles(dataset)
    wanted = (folds or 2) + (test > 0)
    if len(store.entries) < wanted:
        found = f"{len(store.entries)} tile{'' if len(store.entries) == 1 else 's'}"
        raise LandsegError("split", found, f"at least {wanted}, one for each part", "add tiles or ask for fewer parts")
    tiles = _tiles(dataset, store, chosen, groups, min(SLACK * max(test, 1 / folds if folds else val), MOST))
    if by is None and groups is None and len(set(tiles.groups)) < wanted <= len(store.entries):
        log.warning("split: all tiles belong to %s scene(s), none of which may be divided: by random instead", len(set(tiles.groups)))
        chosen = "random"
        names = claim(dataset, name or chosen, folds, overwrite=overwrite)
        tiles = _tiles(dataset, store, chosen, None, 1.0)
    if chosen == "random":
        log.info("split: by random, tiles of one scene lie in train and in val alike, so the val score will be higher than on new places")
    return _assigned(dataset, store, tiles, names, chosen, val, test, seed, lists=lists)


def _refuse_idle(mode: str, given: dict[str, bool]) -> None:
    """Refuse options that have no say beside another."""
    idle = [option for option, is_given in given.items() if is_given]
    if idle:
        raise LandsegError(idle[0], f"given with {mode}", "only options that have a say there", f"leave out {', '.join(idle)}")


def _check_arguments(
    by: str | None, groups: str | None, require: str | None, seed: int, *, check: bool, against: str | Path | None
) -> None:
    if seed < 0:
        raise LandsegError("--seed", f"{seed}", "0 or more", "for example --seed 1")
    if by not in (None, *BY):
        raise LandsegError("--by", f"{by!r}", f"one of {', '.join(BY)}", "choose one of them")
    if require not in (None, "clean"):
        raise LandsegError("--require", f"{require!r}", "clean", "for example --check --require clean")
    if require is not None and not check and against is None:
        raise LandsegError("--require", "nothing to look for", "--check or --against TEST", "add one of them")
    if check and against is not None:
        raise LandsegError("--check", "given with --against", "one of them", "look between the parts first, then against the other set")
    if by == "group" and groups is None:
        raise LandsegError("--groups", "missing", "a CSV tile,group or a pattern", r"for example --groups '^([^_]+)_'")
    if by in ("scene", "random") and groups is not None:
        raise LandsegError("--groups", f"given with --by {by}", "--by group, or --by file", "leave one of them out")


def _look(data: Path, name: str | None, against: str | Path | None, require: str | None) -> Checked:
    """What leaks between the parts of a split, or between two data sets."""
    from landseg.splitting.leak_page import LeakPicture, write_leak_page
    from landseg.splitting.leaks import find_leaks, ground_of_split, ground_of_two
    from landseg.splitting.recovery import joins_of, neighbours_among

    dataset = open_dataset(data)
    require_writable(dataset)
    if against is None:
        parts = read_split(dataset, name, option="--name")
        store = open_tiles(dataset)
        ground, joins = ground_of_split(store, parts), joins_of(dataset, store)
        title, page = (
            f"{dataset.info.name}, split {parts.name}: leaks",
            split_path(dataset, parts.name).with_name(f"{parts.name}.leaks.html"),
        )
    else:
        from landseg.splitting.strangers import open_strangers

        other = Path(against).resolve()
        store = open_tiles(dataset)
        ground = ground_of_two(store, open_strangers(other, store), (dataset.info.name, other.stem))
        joins = neighbours_among(ground.shapes, ground.read)
        title, page = f"{dataset.info.name} against {other.name}: leaks", dataset.folder / "splits" / f"against-{other.name}.leaks.html"
    leaks = find_leaks(ground, joins)
    result = Checked(leaks, write_leak_page(page, LeakPicture(title, leaks, dataset.info.bands)))
    if require is not None and not leaks.is_clean:
        raise LandsegError(
            page, f"{len(leaks.pairs):,} pairs of tiles leak", "none, as --require clean says", "split --by scene, or take the copies out",
            is_gate=True, result=result,
        )  # fmt: skip
    return result


def _tiles(dataset: Dataset, store: TileStore, by: str, groups: str | None, largest: float) -> _Tiles:
    names = [entry.name for entry in store.entries]
    nothing, whole = np.zeros(len(names), bool), np.zeros(len(names), np.int64)
    unknown = [("", "", "")] * len(names)
    if by == "random":
        return _Tiles(names, nothing, whole, unknown)
    if by == "group":
        from landseg.splitting.grouping import groups_by

        return _Tiles(groups_by(names, groups or ""), nothing, whole, unknown)
    from landseg.splitting.blocks import divide
    from landseg.splitting.recovery import recover, scene_groups, scene_names

    found = recover(dataset, store)
    scenes = scene_names(found.scene, names)
    block = divide(found.scene, found.rows, found.cols, largest)
    is_alone = np.bincount(found.scene)[found.scene] == 1
    cells = zip(scenes, found.rows.tolist(), found.cols.tolist(), is_alone.tolist(), strict=True)
    places = [("", "", "") if alone else (scene, str(row), str(col)) if row >= 0 else (scene, "", "") for scene, row, col, alone in cells]
    return _Tiles(scene_groups(found, scenes, block), found.is_unplaced, block, places, found, scenes)


def _assigned(
    dataset: Dataset, store: TileStore, tiles: _Tiles, names: Sequence[str], by: str, val: float, test: float, seed: int, *, lists: bool
) -> Splitted:
    """Assign the groups, and write everything."""
    pixels = np.array([entry.class_pixels for entry in store.entries], np.int64).reshape(len(store.entries), -1)
    inside = np.flatnonzero(tiles.block >= 0)
    done = assign(
        [tiles.groups[i] for i in inside.tolist()], val, test, seed,
        folds=len(names) if len(names) > 1 else None,
        # By lot means by lot: no look at the classes.
        class_pixels=None if by == "random" else pixels[inside],
        tile_pixels=None if by == "random" else np.array([entry.height * entry.width for entry in store.entries])[inside],
        is_unplaced=tiles.is_unplaced[inside],
    )  # fmt: skip
    drawn = np.full(len(pixels), "", object)
    drawn[inside] = done.parts
    whole, whole_groups, first = drawn.tolist(), list(tiles.groups), drawn.tolist()
    splits: dict[Path, Summary] = {}
    files: list[Path] = []
    # Lists may refuse a tile: all of them come before the first split, so that none is left half written.
    listed = [_write_lists(dataset, name, _placed(store, tiles, drawn, k)[0]) if lists else [] for k, name in enumerate(names, 1)]
    clear_away(dataset, names, keep_lists=lists)
    for number, name in enumerate(names, 1):
        placed, parts, groups = _placed(store, tiles, drawn, number)
        path = write_split(dataset, Split(name, tuple(placed)))
        splits[path] = summarise(parts, groups, pixels, dataset.class_names)
        files += [path, *listed[number - 1]]
        first = parts if number == 1 else first
        for i in np.flatnonzero(drawn == "").tolist():
            if parts[i] in ("val", "test"):
                whole[i], whole_groups[i] = "test" if parts[i] == "test" else f"fold {number}", groups[i]
    summary = splits[files[0]] if len(names) == 1 else summarise(whole, whole_groups, pixels, dataset.class_names)
    facts: dict[str, Any] = {}
    if tiles.recovered is not None:
        facts = _facts(tiles.recovered)
        edges = [(edge.a, edge.b, edge.side, edge.probability) for edge in tiles.recovered.edges]
        files += [write_edges(dataset, names[0], [entry.name for entry in store.entries], edges)]
        files += [_write_page(dataset, store, tiles, names[0], first, splits[files[0]], done.compromises)]
    readable = {entry.name for entry in store.entries}
    return Splitted(
        by, summary, splits, facts, done.compromises, tuple(tile.name for tile in dataset.tiles if tile.name not in readable), tuple(files)
    )


def _placed(store: TileStore, tiles: _Tiles, drawn: np.ndarray, number: int) -> tuple[list[Placed], list[str], list[str]]:
    """The lines of split `number`, and of all tiles the part and the group."""
    parts, groups = _settled(tiles, [_part(part, number) for part in drawn])
    rows = zip(store.entries, parts, groups, tiles.places, strict=True)
    return [Placed(entry.name, part, group, *place) for entry, part, group, place in rows if part], parts, groups


def _part(drawn: str, number: int) -> str:
    """The part in split `number` of a tile that was drawn into a part or a fold."""
    if not drawn.startswith("fold "):
        return drawn
    return "val" if drawn == f"fold {number}" else "train"


def _settled(tiles: _Tiles, parts: list[str]) -> tuple[list[str], list[str]]:
    """Parts and groups, once the tiles between blocks are given to a block or left out ("")."""
    if tiles.recovered is None or (tiles.block >= 0).all():
        return parts, tiles.groups
    from landseg.splitting.blocks import settle

    found = tiles.recovered
    joined = settle(parts, found.scene, found.rows, found.cols, tiles.block, found.pairs).tolist()
    return [parts[k] if k >= 0 else "" for k in joined], [tiles.groups[k] if k >= 0 else "" for k in joined]


def _facts(found: Recovered) -> dict[str, Any]:
    sizes = np.bincount(found.scene)
    used = [edge.probability for edge in found.edges]
    alone = int((sizes == 1).sum())
    return {
        "source": "georeference" if found.is_georeferenced else "pixels",
        "scenes": int((sizes > 1).sum()),
        "largest_scene": int(sizes.max()),
        "placed": int(sizes.sum()) - alone,
        "unplaced": alone,
        "edges": len(used),
        "sure": sum(probability >= 0.99 for probability in used),
        "weakest": min(used) if used else None,
        "cut": len(found.cut),
    }


def _write_page(
    dataset: Dataset, store: TileStore, tiles: _Tiles, name: str, parts: Sequence[str], summary: Summary, notes: Sequence[str]
) -> Path:
    from landseg.splitting.scene_page import SplitPicture, write_scene_page

    found = tiles.recovered
    if found is None:
        raise ValueError("a page shows recovered scenes")
    picture = SplitPicture(
        title=f"{dataset.info.name}, split {name}: scenes", names=[entry.name for entry in store.entries], parts=parts, scenes=tiles.scenes,
        rows=found.rows, cols=found.cols, edges=found.edges, cut=found.cut, classes=dataset.info.classes, summary=summary,
        bands=dataset.info.bands, notes=notes, is_georeferenced=found.is_georeferenced,
    )  # fmt: skip
    return write_scene_page(split_path(dataset, name).with_suffix(".html"), picture, store.image)


def _require_files(dataset: Dataset) -> None:
    """Refuse lists of tiles in a zip, which PaddleX and PaddleSeg cannot open."""
    for place in (dataset.image_folder, dataset.label_folder):
        if place is not None and is_zipped(place):
            raise LandsegError(
                "--lists", f"tiles lie in {place}", "files, for PaddleX and PaddleSeg open no zips",
                f"unpack it and name the folder in {dataset.folder / FILE}, or prepare the data set without --pack",
            )  # fmt: skip


def _write_lists(dataset: Dataset, name: str, placed: Sequence[Placed]) -> list[Path]:
    from landseg.data.lists import write_lists

    files = {tile.name: (tile.image, tile.label) for tile in dataset.tiles}
    parts = {part: [files[tile.tile] for tile in placed if tile.part == part] for part in PARTS}
    return write_lists(split_path(dataset, name).with_suffix(""), parts, dataset.class_names)


def _by_file(dataset: Dataset, groups: str | None, name: str | None, *, lists: bool, overwrite: bool) -> Splitted:
    """The parts that a file of the user's names; without one, those that `prepare` took over from file lists."""
    store = open_tiles(dataset)
    entries = {entry.name: entry for entry in store.entries}
    if groups is None:
        made = read_split(dataset, "file")
    else:
        from landseg.splitting.grouping import parts_of

        named = parts_of([tile.name for tile in dataset.tiles], Path(groups))
        made = Split("file", tuple(Placed(tile, part, tile) for tile, part in named.items()))
    chosen = name or "file"
    is_new = groups is not None or chosen != "file"
    if is_new:
        claim(dataset, chosen, None, overwrite=overwrite)
    listed = _write_lists(dataset, chosen, made.tiles) if lists else []
    if is_new:
        clear_away(dataset, [chosen], keep_lists=lists)
        write_split(dataset, Split(chosen, made.tiles))
    path = split_path(dataset, chosen)
    kept = [tile for tile in made.tiles if tile.tile in entries]
    pixels = np.array([entries[tile.tile].class_pixels for tile in kept], np.int64).reshape(len(kept), -1)
    summary = summarise([tile.part for tile in kept], [tile.group for tile in kept], pixels, dataset.class_names)
    absent = len(dataset.tiles) - len(made.tiles)
    notes = (f"{absent:,} tiles of the data set are in no part",) if absent else ()
    left_out = tuple(tile.name for tile in dataset.tiles if tile.name not in entries)
    return Splitted("file", summary, {path: summary}, {}, notes, left_out, (path, *listed))
