"""The page of a split by scene: every recovered scene as a mosaic framed by its part, and what the recovery rests on.

It recovers and assigns nothing. Where there are more tiles than a page can hold, the largest scenes of each part are drawn and the others
stand small on a sheet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from landseg.core.classes import LandClass
from landseg.core.page import Markup, Page, join, meter, photo, swatch
from landseg.splitting.mosaics import DOUBT, PART_COLOURS, Mosaic, Painter, arrange, drawn, sheet, sheet_picture
from landseg.splitting.neighbours import Edge
from landseg.splitting.summary import ALL, Summary

SURE = 0.99
"""Joins less probable than this are marked on the mosaics."""

_ORDER = ("val", "test", "train")
_WALL, _SHEET, _LOOSE, _SHOWN = 2_600, 60_000, 480, 7
"""Most tiles in large mosaics, on the sheet, and among those without a place; joins shown of either kind."""

_THUMB, _SMALL, _SEAM = 48, 8, 176  # pixels of a tile's picture: in a mosaic, on the sheet, at a join
_COLUMN, _SHOWN_SEAM = 1_084, 116  # pixels of the page's column, and of a join on it


@dataclass(frozen=True)
class SplitPicture:
    """What the page says. Tiles are numbered 0..N-1.

    Args:
        title: Headline.
        names: N names.
        parts: The part of each tile, "" for one in no part.
        scenes: The scene of each tile.
        rows: (N,) int, its row in the scene, negative where unknown.
        cols: (N,) int, likewise.
        edges: Joins that hold scenes together.
        cut: Joins that were found and not trusted.
        classes: Of the data set.
        summary: What lies in the parts.
        bands: Names of the images' bands.
        notes: Remarks that the reader must not miss.
        is_georeferenced: The places come from the tiles' georeference, not from their pixels.
    """

    title: str
    names: Sequence[str]
    parts: Sequence[str]
    scenes: Sequence[str]
    rows: np.ndarray
    cols: np.ndarray
    edges: Sequence[Edge]
    cut: Sequence[Edge]
    classes: Sequence[LandClass]
    summary: Summary
    bands: Sequence[str]
    notes: Sequence[str] = field(default_factory=tuple)
    is_georeferenced: bool = False

    @property
    def sizes(self) -> Counter[str]:
        """Tiles of each scene."""
        return Counter(self.scenes)


def write_scene_page(path: Path, content: SplitPicture, tile_picture: Callable[[int], np.ndarray]) -> Path:
    """Write the page, one file of at most about 6 MB, and return its path.

    Args:
        path: The HTML file.
        content: What it says.
        tile_picture: Image (H, W, C) of a tile by number.
    """
    sizes = content.sizes
    painter = Painter(tile_picture, content.bands)
    mosaics = _mosaics(content, sizes)
    loose = [i for i, scene in enumerate(content.scenes) if sizes[scene] == 1]
    page = Page(content.title, _subtitle(content, len(mosaics), len(loose)))
    page.facts(_facts(content, mosaics, len(loose)))
    for note in content.notes:
        page.note(note)
    if mosaics:
        _draw_scenes(page, content, painter, mosaics)
    _draw_parts(page, content)
    if not content.is_georeferenced:
        _draw_joins(page, content, painter)
    if loose:
        _draw_loose(page, content, painter, loose)
    page.section("What the words mean")
    page.definitions(_definitions(content))
    return page.write(path)


def _mosaics(content: SplitPicture, sizes: Mapping[str, int]) -> list[Mosaic]:
    """Scenes of two tiles and more, the largest first."""
    members: dict[str, list[int]] = {}
    for i, scene in enumerate(content.scenes):
        if sizes[scene] > 1:
            members.setdefault(scene, []).append(i)
    mosaics = []
    for scene, tiles in members.items():
        mosaics.append(arrange(scene, tiles, content.rows[tiles], content.cols[tiles], [content.parts[i] for i in tiles]))
    return sorted(mosaics, key=lambda mosaic: (-len(mosaic.tiles), mosaic.name))


def _subtitle(content: SplitPicture, scenes: int, loose: int) -> str:
    found = "read from the georeference of" if content.is_georeferenced else "recovered from the pixels of"
    whole = "no scene is divided between parts" if "" not in content.parts else "large ones are divided into blocks that do not touch"
    return f"{_plural(scenes, 'scene')} {found} {len(content.names) - loose:,} tiles; {whole}"


def _facts(content: SplitPicture, mosaics: Sequence[Mosaic], loose: int) -> dict[str, tuple[str, str]]:
    tiles = len(content.names)
    whole = [mosaic for mosaic in mosaics if len(mosaic.tiles) == mosaic.shape[0] * mosaic.shape[1]]
    sizes = sorted(len(mosaic.tiles) for mosaic in mosaics)
    facts = {
        "Scenes": (f"{len(mosaics):,}", f"{len(whole):,} full rectangles; {sizes[len(sizes) // 2]} tiles the middle one" if sizes else ""),
        "Tiles placed": (_percent((tiles - loose) / max(tiles, 1)), f"{tiles - loose:,} of {tiles:,}; {loose:,} alone"),
    }
    if not content.is_georeferenced:
        used = [edge.probability for edge in content.edges]
        sure = sum(probability >= SURE for probability in used) / max(len(used), 1)
        words = (
            f"{math.floor(sure * 100)}% of them {SURE:.0%} sure, the weakest {min(used):.0%}; {len(content.cut):,} cut"
            if used
            else "none was found"
        )
        facts["Joins"] = (f"{len(used):,}", words)
    of_val = next(iter([part for part in _ORDER if part in content.parts]), "")
    count = content.summary.parts.get(of_val, 0)
    facts[f"In {of_val}"] = (
        _percent(count / max(sum(content.summary.parts.values()), 1)),
        f"{count:,} tiles in {_plural(content.summary.groups.get(of_val, 0), 'group')}",
    )
    facts["Class shares"] = (
        f"± {content.summary.deviation.get(of_val, 0) * 100:.1f}", f"percentage points at most between {of_val} and the whole"
    )  # fmt: skip
    return facts


def _draw_scenes(page: Page, content: SplitPicture, painter: Painter, mosaics: Sequence[Mosaic]) -> None:
    how = "by their places on earth" if content.is_georeferenced else "that knew nothing of each other"
    page.section("Scenes", f"Each picture is put together from tiles {how}; its frame tells its part.")
    words = {"val": "validates", "test": "tests", "train": "trains", "": "left out, between two parts"}
    entries = [swatch(PART_COLOURS[part], words[part]) for part in (*_ORDER, "") if any(part in mosaic.parts for mosaic in mosaics)]
    doubtful: dict[str, list[tuple[Edge, str]]] = {}
    for edge in content.edges:
        if edge.probability < SURE and edge.side != "same":
            doubtful.setdefault(content.scenes[edge.a], []).append((edge, _edge_words(content, edge)))
    page.legend([*entries, *([swatch(DOUBT, f"a join less than {SURE:.0%} sure")] if doubtful else [])])
    chosen = _chosen(mosaics)
    ratio = painter.ratio(int(mosaics[0].tiles[0]))
    cell = _cell(chosen, ratio)
    for part in (*_ORDER, ""):
        # Tall ones together: the rows of the wall are as high as their highest.
        shown = sorted([mosaic for mosaic in chosen if mosaic.part == part], key=lambda item: (-item.shape[0], -len(item.tiles), item.name))
        if not shown:
            continue
        of_part = [mosaic for mosaic in mosaics if mosaic.part == part]
        held = [count for mosaic in mosaics if (count := mosaic.parts.count(part))]
        heading = f"{part or 'in no part'} · {_plural(len(held), 'scene')}, {_plural(sum(held), 'tile')}"
        if len(held) > len(of_part):
            heading += f" · {len(held) - len(of_part)} drawn where most of their tiles are"
        if len(shown) < len(of_part):
            heading += f" · the largest {len(shown)}"
        pictures = [drawn(item, painter.mosaic(item, *_pixels(_THUMB, ratio)), doubtful.get(item.name, []), cell) for item in shown]
        page.figure(_wall(heading, PART_COLOURS[part], list(zip(pictures, map(_scene_words, shown), strict=True))))
    names = {mosaic.name for mosaic in chosen}
    rest = [mosaic for mosaic in mosaics if mosaic.name not in names]
    if rest:
        _draw_sheet(page, painter, rest, ratio)


def _chosen(mosaics: Sequence[Mosaic]) -> list[Mosaic]:
    """Scenes to draw large: all, or the largest of each part, so that val is not crowded out."""
    if sum(len(mosaic.tiles) for mosaic in mosaics) <= _WALL:
        return list(mosaics)
    chosen = []
    for part, most in (("val", _WALL // 4), ("test", _WALL // 4), ("train", _WALL // 2), ("", _WALL // 8)):
        room = most
        for mosaic in (mosaic for mosaic in mosaics if mosaic.part == part):
            if room < len(mosaic.tiles) and room < most:
                break
            room -= len(mosaic.tiles)
            chosen.append(mosaic)
    return chosen


def _draw_sheet(page: Page, painter: Painter, mosaics: Sequence[Mosaic], ratio: float) -> None:
    """Scenes that found no room above, small; by part, so that the colours lie together."""
    tiles, some = 0, []
    for mosaic in mosaics:
        if tiles + len(mosaic.tiles) <= _SHEET:
            tiles += len(mosaic.tiles)
            some.append(mosaic)
    some.sort(key=lambda mosaic: ((*_ORDER, "").index(mosaic.part), -mosaic.shape[0], mosaic.name))
    board, count = sheet(some, painter, _pixels(_SMALL, ratio), 2 * _COLUMN)
    page.section("All other scenes", f"{_plural(count, 'smaller scene')}, each framed by its part.")
    page.figure(sheet_picture(board, f"{count} scenes as small mosaics"))
    if count < len(mosaics):
        page.text(f"{_plural(len(mosaics) - count, 'scene')} more found no room on this page.")


def _draw_parts(page: Page, content: SplitPicture) -> None:
    page.section("Parts", "Shares of the classes among the labelled pixels: the more alike, the fairer the score.")
    page.legend(swatch(item.colour, item.name) for item in content.classes)
    rows = []
    for part, shares in content.summary.class_share.items():
        is_whole = part == ALL
        count = sum(content.summary.parts.values()) if is_whole else content.summary.parts.get(part, 0)
        groups = sum(content.summary.groups.values()) if is_whole else content.summary.groups.get(part, 0)
        bar = "".join(
            f'<i style="flex:{shares[item.name]:.5f} 0 0;background:{item.colour}" title="{escape(item.name)} {shares[item.name]:.1%}"></i>'
            for item in content.classes
        )
        name = Markup("<b>the whole</b>") if is_whole else swatch(PART_COLOURS[part], part)
        off = "" if is_whole else f"± {content.summary.deviation.get(part, 0) * 100:.1f}"
        style = "display:flex;height:22px;min-width:440px;border-radius:4px;overflow:hidden;gap:1px"
        rows.append([name, f"{count:,}", f"{groups:,}", Markup(f'<span style="{style}">{bar}</span>'), off])
    page.table(["Part", "Tiles", "Groups", "Class shares", Markup("Furthest,<br>points")], rows, align="lrrlr")


def _draw_joins(page: Page, content: SplitPicture, painter: Painter) -> None:
    page.section("Joins", "A join says that one tile goes on where another ends. Do the two halves show one ground?")
    if not content.edges:
        page.text("No two tiles were found to continue each other.")
    bounds = [(1.01, 0.9999), (0.9999, 0.999), (0.999, 0.99), (0.99, 0.9), (0.9, 0.0)]
    counts = [sum(low <= edge.probability < high for edge in content.edges) for high, low in bounds]
    words = ["99.99 % and more", "99.9 – 99.99 %", "99 – 99.9 %", "90 – 99 %", "below 90 %"]
    if content.edges:
        most = max(counts)
        page.table(
            ["Sure", "Joins", ""],
            [[name, f"{count:,}", meter(count / most)] for name, count in zip(words, counts, strict=True) if count],
            align="lrl",
        )
    for heading, edges, colour in (
        ("The weakest that were kept, because the tiles around them agree", content.edges, PART_COLOURS["train"]),
        ("The strongest that were cut, because they do not", content.cut, PART_COLOURS[""]),
    ):
        sign = 1 if edges is content.edges else -1
        ranked = sorted(edges, key=lambda edge: (sign * edge.probability, edge.a, edge.b))[:_SHOWN]
        pictures = [(_seam_picture(painter, content, edge), _seam_words(content, edge)) for edge in ranked]
        if pictures:
            page.figure(_wall(heading, colour, pictures))


def _draw_loose(page: Page, content: SplitPicture, painter: Painter, loose: Sequence[int]) -> None:
    count = Counter(content.parts[i] or "no part" for i in loose)
    where = ", ".join(f"{number:,} in {part}" for part, number in count.most_common())
    page.section("Tiles alone", f"No neighbour was found for {_plural(len(loose), 'tile')}: {where}. Each is a group of its own.")
    step = max(1, math.ceil(len(loose) / _LOOSE))
    some = list(loose)[::step]
    columns = min(max(12, round(math.sqrt(4 * len(some)))), 40)
    edge = min(2 * _COLUMN // columns, 128)
    board = painter.together([(i, k // columns, k % columns) for k, i in enumerate(some)], edge, edge)
    words = "" if len(some) == len(loose) else f"{len(some):,} of them, evenly chosen."
    page.figure(sheet_picture(board, f"{len(some)} tiles without a neighbour"), words)


def _wall(heading: str, colour: str, pictures: Sequence[tuple[Markup, Markup]]) -> Markup:
    """Pictures with words under each, in rows that break where the window ends."""
    style = "color:var(--muted);font-size:13px;line-height:1.4;margin-top:5px"
    items = "".join(f'<div style="max-width:100%">{picture}<div style="{style}">{words}</div></div>' for picture, words in pictures)
    title = f'<h3 style="margin:22px 0 10px;border-left:4px solid {colour};padding-left:10px">{escape(heading)}</h3>'
    return Markup(f'{title}<div style="display:flex;flex-wrap:wrap;gap:18px 20px;align-items:flex-start">{items}</div>')


def _scene_words(mosaic: Mosaic) -> Markup:
    """The scene's name and size, below its picture."""
    height, width = mosaic.shape
    count = len(mosaic.tiles)
    shape = f"{height} × {width}" if count == height * width else f"{count} tiles"
    return join(Markup('<b style="color:var(--ink);font-weight:600">'), mosaic.name, Markup("</b> "), shape)


def _seam_picture(painter: Painter, content: SplitPicture, edge: Edge) -> Markup:
    picture = photo(painter.seam(edge, _SEAM), f"{content.names[edge.a]} and {content.names[edge.b]}")
    return Markup(
        f'<img src="{picture.uri}" width="{_SHOWN_SEAM}" height="{_SHOWN_SEAM}" alt="{escape(picture.alt)}" '
        'style="display:block;border-radius:6px;outline:1px solid rgb(128 128 128/.3);outline-offset:-1px">'
    )


def _seam_words(content: SplitPicture, edge: Edge) -> Markup:
    between = {"right": " | ", "below": " / ", "same": " = "}[edge.side]
    sure = f"{edge.probability:.1%}"
    names = f"{_short(content.names[edge.a])}{between}{_short(content.names[edge.b])}"
    return join(Markup('<b style="color:var(--ink);font-weight:600">'), sure, Markup("</b><br>"), names)


def _edge_words(content: SplitPicture, edge: Edge) -> str:
    return f"{content.names[edge.a]} – {content.names[edge.b]}: {edge.probability:.1%} sure"


def _definitions(content: SplitPicture) -> dict[str, str]:
    words = {
        "Scene": "Tiles that touch or overlap on earth."
        if content.is_georeferenced
        else "Ground that was one image before it was cut into tiles.",
        "Group": "Tiles that are never divided between parts: a scene, a block of a large one, or a tile alone. Copies and overlaps of "
        "the same ground join their groups.",
        "Class shares": "The largest difference, in percentage points, between a class’s share of the labelled pixels in a part and in "
        "the whole.",
    }
    if "" in content.parts:
        words["Left out"] = "Tiles between two blocks of a large scene: in no part, so that the parts do not touch."
    if not content.is_georeferenced:
        words["Join"] = "Two tiles whose borders continue each other better than any other pair’s, and fit the loops around them."
        words["Sure"] = (
            "The probability that a join is true by the borders of its two tiles and the corners that it is part of. A scene rests "
            "on whole borders: a weak join stays where the joins beside it are strong."
        )
        words["Cut"] = "A join that was found but not trusted: it is weak and alone would hold two scenes together, or contradicts others."
        words["Alone"] = (
            "A tile that none was found to continue, open water for example. Such tiles train, as long as others fill val and test."
        )
    return words


def _cell(mosaics: Sequence[Mosaic], ratio: float) -> tuple[float, float]:
    """Height and width of a tile on the page: five scenes side by side, where their size allows."""
    widths = sorted(mosaic.shape[1] for mosaic in mosaics)
    width = min(max(_COLUMN / 5.75 / widths[int(0.75 * (len(widths) - 1))], 12.0), 40.0)
    return width * ratio, width


def _pixels(edge: int, ratio: float) -> tuple[int, int]:
    """Height and width in pixels of a tile whose longer side is `edge`."""
    return max(1, round(edge * min(1.0, ratio))), max(1, round(edge / max(1.0, ratio)))


def _short(name: str) -> str:
    """The end of a long name, which tells tiles apart."""
    return name if len(name) <= 14 else f"…{name[-13:]}"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", "\u00a0%")


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")
