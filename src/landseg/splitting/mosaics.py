"""Scenes drawn as mosaics of their tiles. It knows no page around them and decides nothing about parts or joins.

Vocabulary: a *cell* is a tile's place in a mosaic, a *sheet* is many small pictures on one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from landseg.core.page import Markup, photo
from landseg.data.overlay import rgb_picture
from landseg.splitting.neighbours import Edge

PART_COLOURS = {"train": "#4a90a8", "val": "#ef7d22", "test": "#8f5fd9", "": "#98a09d"}
"""Frames of the parts, "" for tiles in none: apart from each other for most eyes, and from land, on light and on dark."""

DOUBT = "#ffd93b"
"""Marks a join that is not certain."""

_BOARD = (27, 35, 35)
"""Behind the small mosaics of a sheet, on light and dark pages alike."""

_QUALITY, _SHEET_QUALITY = 80, 74


@dataclass(frozen=True)
class Mosaic:
    """A scene to draw: `tiles` (n,) numbers, their cells `rows` and `cols` (n,) from 0, and the part of each, "" for none."""

    name: str
    tiles: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    parts: tuple[str, ...]

    @property
    def part(self) -> str:
        """The part that most of its tiles are in."""
        held = [part for part in self.parts if part] or [""]
        return max(sorted(set(held)), key=held.count)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return int(self.rows.max()) + 1, int(self.cols.max()) + 1


def arrange(name: str, tiles: Sequence[int], rows: np.ndarray, cols: np.ndarray, parts: Sequence[str]) -> Mosaic:
    """Give every tile of a scene a cell; those whose place is unknown, or taken, stand in rows of their own below the others.

    Args:
        name: Of the scene.
        tiles: Numbers of its tiles.
        rows: (n,) int, row of each; negative where unknown.
        cols: (n,) int, likewise.
        parts: Part of each, "" for none.
    """
    rows, cols = np.array(rows, np.int64), np.array(cols, np.int64)
    is_known = (rows >= 0) & (cols >= 0)
    _, first = np.unique(np.column_stack([rows, cols]), axis=0, return_index=True)
    is_known &= np.isin(np.arange(len(rows)), first)
    lost = np.flatnonzero(~is_known)
    below, width = 0, math.ceil(math.sqrt(len(lost)))
    if is_known.any():
        rows -= rows[is_known].min()
        cols -= cols[is_known].min()
        below, width = int(rows[is_known].max()) + 1, max(int(cols[is_known].max()) + 1, math.ceil(len(lost) / 8))
    rows[lost], cols[lost] = below + np.arange(len(lost)) // max(width, 1), np.arange(len(lost)) % max(width, 1)
    return Mosaic(name, np.asarray(tiles), rows, cols, tuple(parts))


class Painter:
    """Pictures of tiles by number, reduced and side by side.

    Args:
        tile_picture: Image (H, W, C) of a tile.
        bands: Their names; red, green and blue are found by name.
    """

    def __init__(self, tile_picture: Callable[[int], np.ndarray], bands: Sequence[str]) -> None:
        self._picture, self._bands = tile_picture, bands

    def tile(self, i: int, height: int, width: int) -> np.ndarray:
        """A tile reduced to (height, width, C): uint8, or float32 of other depths."""
        image = np.asarray(self._picture(i))
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        # Four bands at a time: OpenCV takes no more everywhere.
        fours = [np.ascontiguousarray(image[:, :, k : k + 4]) for k in range(0, image.shape[2], 4)]
        small = [cv2.resize(four, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1) for four in fours]
        return np.concatenate(small, axis=2)

    def ratio(self, i: int) -> float:
        """Height over width of a tile; of very long ones a quarter or four."""
        height, width = np.asarray(self._picture(i)).shape[:2]
        return float(min(max(height / width, 0.25), 4.0))

    def together(self, places: Iterable[tuple[int, int, int]], height: int, width: int) -> np.ndarray:
        """Tiles at (number, row, column) on one RGB picture, each `height` × `width`; black where there is none.

        Depths other than eight bits are stretched together, so that tiles of one scene stay alike.
        """
        placed = [(self.tile(i, height, width), row, col) for i, row, col in places]
        rows, cols = max(row for _, row, _ in placed) + 1, max(col for _, _, col in placed) + 1
        first = placed[0][0]
        empty = 0 if first.dtype == np.uint8 else np.nan
        canvas = np.full((rows * height, cols * width, first.shape[2]), empty, first.dtype)
        for picture, row, col in placed:
            canvas[row * height : (row + 1) * height, col * width : (col + 1) * width] = picture
        return rgb_picture(canvas, self._bands)

    def mosaic(self, mosaic: Mosaic, height: int, width: int) -> np.ndarray:
        """A scene as one RGB picture, each tile `height` × `width`."""
        cells = zip(mosaic.tiles.tolist(), mosaic.rows.tolist(), mosaic.cols.tolist(), strict=True)
        return self.together(cells, height, width)

    def seam(self, edge: Edge, side: int) -> np.ndarray:
        """The ground on both sides of a join as one RGB square: half of each tile, or for tiles of the same ground both whole, reduced."""
        a, b = (np.asarray(self._picture(i)) for i in (edge.a, edge.b))
        if edge.side == "below":
            a, b = a[a.shape[0] // 2 :], b[: b.shape[0] // 2]
        elif edge.side == "right":
            a, b = a[:, a.shape[1] // 2 :], b[:, : b.shape[1] // 2]
        size = (side, side // 2) if edge.side == "below" else (side // 2, side)
        halves = [cv2.resize(rgb_picture(half, self._bands), size, interpolation=cv2.INTER_AREA) for half in (a, b)]
        return np.concatenate(halves, axis=0 if edge.side == "below" else 1)


def drawn(mosaic: Mosaic, picture: np.ndarray, doubtful: Sequence[tuple[Edge, str]], cell: tuple[float, float]) -> Markup:
    """A mosaic as SVG: its picture, faint seams, the frame of its part and marks on doubtful joins.

    Args:
        mosaic: The scene.
        picture: RGB of it, from `Painter.mosaic`.
        doubtful: Joins to mark, with words that show when the pointer rests on them.
        cell: Height and width of a tile on the page in pixels.
    """
    (rows, cols), (height, width) = mosaic.shape, cell
    places = {(row, col): part for row, col, part in zip(mosaic.rows.tolist(), mosaic.cols.tolist(), mosaic.parts, strict=True)}
    number = {int(i): k for k, i in enumerate(mosaic.tiles)}
    margin, tall, wide = 2.5, rows * height, cols * width
    key = f"m-{mosaic.tiles[0]}"
    parts = [
        f'<svg viewBox="{-margin} {-margin} {_n(wide + 2 * margin)} {_n(tall + 2 * margin)}" '
        f'style="display:block;width:{_n(wide + 2 * margin)}px;max-width:100%;height:auto" role="img" '
        f'aria-label="{escape(mosaic.name)}, {len(mosaic.tiles)} tiles">'
    ]
    clip = ""
    if len(places) < rows * cols:
        parts.append(f'<clipPath id="{key}"><path d="{_boxes(sorted(places), height, width)}"/></clipPath>')
        clip = f' clip-path="url(#{key})"'
    uri = photo(picture, "", _QUALITY).uri
    parts.append(f'<image href="{uri}" width="{_n(wide)}" height="{_n(tall)}" preserveAspectRatio="none"{clip}/>')
    veils = _boxes(sorted(place for place, part in places.items() if not part), height, width)
    if veils:
        parts.append(f'<path d="{veils}" style="fill:var(--paper);opacity:.62"/>')
    seams, frames = _lines(places, height, width)
    parts.append(f'<path d="{seams}" style="fill:none;stroke:#fff;stroke-opacity:.3;stroke-width:.6"/>')
    for part, line in sorted(frames.items()):
        dash = "" if part else ";stroke-dasharray:3 3"
        style = f"fill:none;stroke:{PART_COLOURS[part]};stroke-width:{3 if part else 1.5};stroke-linecap:square{dash}"
        parts.append(f'<path d="{line}" style="{style}"/>')
    parts += [_mark(mosaic, edge, words, number, height, width) for edge, words in doubtful]
    return Markup("".join([*parts, "</svg>"]))


def sheet(mosaics: Sequence[Mosaic], painter: Painter, cell: tuple[int, int], width: int) -> tuple[np.ndarray, int]:
    """Many scenes on one RGB picture, each framed by its part, in shelves.

    Args:
        mosaics: In the order they are to stand.
        painter: Draws their tiles.
        cell: Height and width of a tile in pixels.
        width: Of the sheet in pixels.

    Returns:
        The picture, and how many of the scenes are on it: those wider than it are not.
    """
    frame, gap = 2, 6
    places: list[tuple[Mosaic, int, int]] = []
    x = y = gap
    shelf = 0
    for mosaic in mosaics:
        tall, wide = (size * edge + 2 * frame for size, edge in zip(mosaic.shape, cell, strict=True))
        if wide + 2 * gap > width:
            continue
        if x + wide + gap > width:
            x, y, shelf = gap, y + shelf + gap, 0
        places.append((mosaic, y, x))
        x, shelf = x + wide + gap, max(shelf, tall)
    board = np.full((y + shelf + gap, width, 3), _BOARD, np.uint8)
    for mosaic, top, left in places:
        picture = painter.mosaic(mosaic, *cell)
        colour = PART_COLOURS[mosaic.part]
        is_there = np.zeros(mosaic.shape, np.uint8)
        is_there[mosaic.rows, mosaic.cols] = 1
        covered = np.pad(np.kron(is_there, np.ones(cell, np.uint8)), frame)
        framed = cv2.dilate(covered, np.ones((2 * frame + 1, 2 * frame + 1), np.uint8)) > 0
        spot = board[top : top + covered.shape[0], left : left + covered.shape[1]]
        spot[framed] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        spot[covered > 0] = picture[is_there.repeat(cell[0], 0).repeat(cell[1], 1) > 0]
    return board, len(places)


def sheet_picture(board: np.ndarray, alt: str) -> Markup:
    """A sheet as a picture over the page's width, half its pixels so that it stays sharp on fine screens."""
    uri = photo(board, "", _SHEET_QUALITY).uri
    style = f"display:block;width:{board.shape[1] // 2}px;max-width:100%;height:auto;border-radius:8px"
    return Markup(f'<img src="{uri}" width="{board.shape[1]}" height="{board.shape[0]}" alt="{escape(alt)}" style="{style}">')


def _boxes(places: Iterable[tuple[int, int]], height: float, width: float) -> str:
    return "".join(f"M{_n(col * width)} {_n(row * height)}h{_n(width)}v{_n(height)}h{_n(-width)}z" for row, col in places)


def _lines(places: dict[tuple[int, int], str], height: float, width: float) -> tuple[str, dict[str, str]]:
    """The seams between cells of one part, and by part the lines where it ends."""
    seams: list[str] = []
    frames: dict[str, list[str]] = {}
    for (row, col), part in sorted(places.items()):
        top, left = row * height, col * width
        sides = {
            (row - 1, col): f"M{_n(left)} {_n(top)}h{_n(width)}",
            (row + 1, col): f"M{_n(left)} {_n(top + height)}h{_n(width)}",
            (row, col - 1): f"M{_n(left)} {_n(top)}v{_n(height)}",
            (row, col + 1): f"M{_n(left + width)} {_n(top)}v{_n(height)}",
        }
        for other, line in sides.items():
            if places.get(other) == part:
                seams += [line] if other > (row, col) else []
            elif part or other not in places:
                frames.setdefault(part, []).append(line)
    return "".join(seams), {part: "".join(lines) for part, lines in frames.items()}


def _mark(mosaic: Mosaic, edge: Edge, words: str, number: dict[int, int], height: float, width: float) -> str:
    """A bar on the seam of a join; nothing where its tiles do not lie beside each other in the mosaic."""
    (a_row, a_col), (b_row, b_col) = ((int(mosaic.rows[number[i]]), int(mosaic.cols[number[i]])) for i in (edge.a, edge.b))
    if (b_row - a_row, b_col - a_col) not in ((0, 1), (1, 0)):
        return ""
    x, y = b_col * width, b_row * height
    line = f"M{_n(x)} {_n(y + 0.2 * height)}v{_n(0.6 * height)}" if a_row == b_row else f"M{_n(x + 0.2 * width)} {_n(y)}h{_n(0.6 * width)}"
    title = f"<title>{escape(words)}</title>"
    return f'<g style="stroke-linecap:round">{title}<path d="{line}" style="stroke:#000;stroke-opacity:.55;stroke-width:4.5"/>' \
           f'<path d="{line}" style="stroke:{DOUBT};stroke-width:2.5"/></g>'  # fmt: skip


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
