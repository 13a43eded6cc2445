"""The page of a search for leaks: how much of each part leaks, by kind, with pairs of tiles side by side. It searches nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import cv2
import numpy as np

from landseg.core.page import Markup, Page, join, meter, photo, swatch
from landseg.data.overlay import rgb_picture
from landseg.splitting.leaks import KINDS, Judged, Leak, Leaks, seen_pixels
from landseg.splitting.likeness import common_area
from landseg.splitting.mosaics import PART_COLOURS

_KIND_COLOURS = {
    "exact copy": "#b3261e", "flipped or turned": "#d9582b", "re-encoded": "#e98a3a", "overlap": "#d9a521", "neighbour": "#7f8fc9"
}  # fmt: skip
_CLEAN = "#5fa08a"
_EXAMPLES = 6  # pairs of a kind
_EDGE = 200  # pixels of a tile's longer side
_GAP = 6
_OUTLINE = (255, 217, 59)
_PAIR, _SINGLE = 344, 118  # pixels on the page of a pair, and of a tile alone
_STRIP = 16  # judged tiles shown with what is seen of them
_COMMON = (255, 122, 26)

_WORDS = {
    "exact copy": "The same pixels under another name.",
    "flipped or turned": "The same pixels, mirrored or turned by a multiple of 90°.",
    "re-encoded": "The same picture saved again, as another JPEG for example; perhaps mirrored or turned as well.",
    "overlap": "Tiles that show some of the same ground: another crop, perhaps mirrored, turned, brighter, or at another zoom. Landmarks "
    "propose how one lies on the other, the pixels of the common ground decide.",
    "neighbour": "Tiles that share a border and no ground. One field, one season and one annotator go on across it, so the score is "
    "flattered, though less than by the others.",
}


@dataclass(frozen=True)
class LeakPicture:
    """What the page says.

    Args:
        title: Headline.
        leaks: What was found.
        bands: Names of the images' bands.
        notes: Remarks that the reader must not miss.
    """

    title: str
    leaks: Leaks
    bands: Sequence[str]
    notes: Sequence[str] = field(default_factory=tuple)


def write_leak_page(path: Path, content: LeakPicture) -> Path:
    """Write the page, one file of at most about 3 MB, and return its path."""
    leaks = content.leaks
    page = Page(content.title, _subtitle(leaks))
    page.facts(_facts(leaks))
    for note in content.notes:
        page.note(note)
    page.note(_verdict(leaks), is_warning=not leaks.is_clean)
    if not leaks.is_clean:
        _draw_kinds(page, leaks)
        for name in leaks.judged:
            _draw_judged(page, content, name)
        _draw_examples(page, content)
        page.section("What to do")
        for words in _advice(leaks):
            page.text(words)
    page.section("What the words mean")
    page.definitions(_definitions(leaks))
    return page.write(path)


def _subtitle(leaks: Leaks) -> str:
    counts = {part: sum(found == part for found in leaks.ground.parts) for part in _parts(leaks)}
    return "Tiles that show the same ground, or touch, in " + " · ".join(f"{part} ({count:,} tiles)" for part, count in counts.items())


def _facts(leaks: Leaks) -> dict[str, tuple[str, str]]:
    facts = {}
    for name, part in leaks.judged.items():
        leaking = sum(part.by_kind.values())
        facts[f"Seen of {name}"] = (_percent(part.seen), "of its pixels show ground that another part shows too")
        facts[f"Concerned in {name}"] = (_percent(part.concerned), f"of its pixels; {leaking:,} of {part.tiles:,} tiles leak or touch")
    counts = leaks.counts
    gravest = next((kind for kind in KINDS if counts[kind]), "none")
    facts["Pairs"] = (f"{len(leaks.pairs):,}", f"gravest kind: {gravest}")
    if leaks.ground.equal_names:
        facts["Equal names"] = (f"{len(leaks.ground.equal_names):,}", "no leak by themselves")
    return facts


def _verdict(leaks: Leaks) -> str:
    if leaks.is_clean:
        return "Clean: no tile shows ground that a tile of another part shows, and none was found to touch one."
    worst = max(leaks.judged.items(), key=lambda item: (item[1].concerned, item[0]), default=None)
    if worst is None:
        return "Some tiles leak."
    name, part = worst
    grave = part.seen >= 0.01
    return (
        f"A score on {name} is {'flattered' if grave else 'a little flattered'}: {_percent(part.seen)} of its pixels were seen in another "
        f"part, and {_percent(part.beside)} lie in tiles that continue one."
    )


def _draw_kinds(page: Page, leaks: Leaks) -> None:
    page.section("What leaks", "A tile stands under its gravest leak; a pair of tiles is counted once.")
    for name, part in leaks.judged.items():
        page.figure(_bar(part), f"The {part.tiles:,} tiles of {name}.")
    page.legend([*(swatch(colour, kind) for kind, colour in _KIND_COLOURS.items()), swatch(_CLEAN, "clean")])
    rows = []
    for kind, count in leaks.counts.items():
        cells: list[str] = []
        for part in leaks.judged.values():
            share = part.by_kind[kind] / max(part.tiles, 1)
            cells.append(join(meter(share, colour=_KIND_COLOURS[kind]), Markup(f"<small>{part.by_kind[kind]:,} · {share:.1%}</small>")))
        rows.append([swatch(_KIND_COLOURS[kind], kind), f"{count:,}", *cells])
    page.table(["Kind", "Pairs", *(f"Tiles of {name}" for name in leaks.judged)], rows, align="lr" + "l" * len(leaks.judged))


def _bar(part: Judged) -> Markup:
    shares = [(_KIND_COLOURS[kind], kind, count) for kind, count in part.by_kind.items()]
    shares.append((_CLEAN, "clean", part.tiles - sum(part.by_kind.values())))
    pieces = "".join(
        f'<i style="flex:{count} 0 0;background:{colour}" title="{escape(name)}: {count:,} tiles"></i>'
        for colour, name, count in shares
        if count
    )
    return Markup(f'<span style="display:flex;height:30px;border-radius:6px;overflow:hidden;gap:1px">{pieces}</span>')


def _draw_judged(page: Page, content: LeakPicture, name: str) -> None:
    """Tiles of a part, what was seen of them tinted: the most seen first."""
    leaks = content.leaks
    of_tile: dict[int, list[Leak]] = {}
    for leak in leaks.pairs:
        for tile in (leak.a, leak.b):
            if leaks.ground.parts[tile] == name and leak.kind != "neighbour":
                of_tile.setdefault(tile, []).append(leak)
    # Their shares alone are kept: the pixels of all would not fit into the memory.
    share = {tile: float(seen_pixels(leaks.ground, tile, found).mean()) for tile, found in of_tile.items()}
    ranked = sorted(share, key=lambda tile: (-share[tile], tile))
    if not ranked:
        return
    some = [ranked[k] for k in np.unique(np.linspace(0, len(ranked) - 1, min(_STRIP, len(ranked))).astype(int))]
    page.section(f"What was seen of {name}", "Tinted ground is shown by another part too.")
    pictures = []
    for tile in some:
        image = rgb_picture(leaks.ground.read(tile), content.bands).astype(np.float32)
        tint = seen_pixels(leaks.ground, tile, of_tile[tile])[:, :, None]
        image = np.where(tint, 0.68 * image + 0.32 * np.asarray(_COMMON, np.float32), image)
        small = _fit(image.astype(np.uint8), _EDGE)
        words = f"{_short(leaks.ground.names[tile])} {share[tile]:.0%}"
        pictures.append((_SINGLE, _image(small, words, f"width:{_SINGLE}px"), Markup(escape(words))))
    page.figure(_wall(pictures))
    if len(some) < len(ranked):
        page.text(f"{len(some)} of {len(ranked):,} such tiles, evenly chosen from the most to the least seen.")


def _draw_examples(page: Page, content: LeakPicture) -> None:
    leaks = content.leaks
    for kind in KINDS:
        pairs = [leak for leak in leaks.pairs if leak.kind == kind]
        if not pairs:
            continue
        page.section(f"{kind[0].upper()}{kind[1:]} · {_plural(len(pairs), 'pair')}", _WORDS[kind])
        page.legend(swatch(_colour(leaks, part), part) for part in _parts(leaks))
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(_EXAMPLES, len(pairs))).astype(int))
        pictures = []
        for leak in (pairs[k] for k in chosen.tolist()):
            names = leaks.ground.names[leak.a], leaks.ground.names[leak.b]
            if kind == "neighbour":
                joined = _joined(content, leak)
                width = _PAIR if joined.shape[1] > joined.shape[0] else _PAIR // 2
                drawn = _image(joined, " and ".join(names), f"width:{width}px;max-width:100%")
            else:
                width = _PAIR
                both = zip(_beside(content, leak), names, strict=True)
                images = "".join(_image(panel, name, f"width:calc(50% - {_GAP // 2}px)") for panel, name in both)
                drawn = Markup(f'<div style="display:flex;gap:{_GAP}px;align-items:flex-start">{images}</div>')
            pictures.append((width, drawn, _pair_words(leaks, leak)))
        for width in (_PAIR, _PAIR // 2):  # pairs one above the other stand in rows of their own
            if some := [item for item in pictures if item[0] == width]:
                page.figure(_wall(some))


def _beside(content: LeakPicture, leak: Leak) -> list[np.ndarray]:
    """Two tiles in the colours of their parts, the ground in common outlined and the rest darkened."""
    ground = content.leaks.ground
    images = [rgb_picture(ground.read(tile), content.bands) for tile in (leak.a, leak.b)]
    corners = common_area(leak.transform, ground.shapes[leak.a], ground.shapes[leak.b]) if leak.transform is not None else None
    panels = []
    for k, tile in enumerate((leak.a, leak.b)):
        panel = _fit(images[k], _EDGE)
        factor = panel.shape[1] / ground.shapes[tile][1]
        if corners is not None and leak.kind == "overlap" and len(corners[k]):
            panel = _outlined(panel, (corners[k] + 0.5) * factor - 0.5)
        panels.append(_framed(panel, _colour(content.leaks, ground.parts[tile])))
    return panels


def _joined(content: LeakPicture, leak: Leak) -> np.ndarray:
    """Two neighbours drawn as one piece of ground, each framed by its part except where they meet."""
    ground = content.leaks.ground
    if leak.transform is None:
        raise ValueError("neighbours know how they lie")
    offset = -leak.transform[:, 2]  # where the second tile's corner lies, seen from the first's
    is_right = abs(offset[0]) > abs(offset[1])
    order = (leak.a, leak.b) if offset.sum() > 0 else (leak.b, leak.a)
    panels = [_fit(rgb_picture(ground.read(tile), content.bands), _EDGE) for tile in order]
    sides = (("top", "bottom", "left"), ("top", "bottom", "right")) if is_right else (("top", "left", "right"), ("bottom", "left", "right"))
    panels = [
        _framed(panel, _colour(content.leaks, ground.parts[tile]), frame) for panel, tile, frame in zip(panels, order, sides, strict=True)
    ]
    # Tiles of one data set may differ in size; the smaller one is filled up in grey.
    along = 0 if is_right else 1
    longest = max(panel.shape[along] for panel in panels)
    rest = [[(0, 0), (0, 0), (0, 0)] for _ in panels]
    for pad, panel in zip(rest, panels, strict=True):
        pad[along] = (0, longest - panel.shape[along])
    filled = [np.pad(panel, pad, constant_values=128) for panel, pad in zip(panels, rest, strict=True)]
    return np.concatenate(filled, 1 - along)


def _outlined(panel: np.ndarray, corners: np.ndarray) -> np.ndarray:
    height, width = panel.shape[:2]
    points = [np.rint(np.clip(corners, 1.5, [width - 2.5, height - 2.5]) * 16).astype(np.int32)]
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, points, 1, shift=4)
    drawn = np.where(inside[:, :, None] > 0, panel, (panel * 0.42).astype(np.uint8))
    drawn = np.ascontiguousarray(drawn)
    cv2.polylines(drawn, points, True, (20, 22, 22), 4, cv2.LINE_AA, 4)
    cv2.polylines(drawn, points, True, _OUTLINE, 2, cv2.LINE_AA, 4)
    return drawn


def _framed(panel: np.ndarray, colour: str, sides: Sequence[str] = ("top", "bottom", "left", "right")) -> np.ndarray:
    rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    top, bottom, left, right = (4 if side in sides else 0 for side in ("top", "bottom", "left", "right"))
    return np.asarray(cv2.copyMakeBorder(panel, top, bottom, left, right, cv2.BORDER_CONSTANT, value=rgb))


def _fit(image: np.ndarray, edge: int) -> np.ndarray:
    factor = edge / max(image.shape[:2])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


def _image(picture: np.ndarray, alt: str, style: str) -> Markup:
    found = photo(picture, alt, quality=84)
    return Markup(
        f'<img src="{found.uri}" width="{found.width}" height="{found.height}" alt="{escape(found.alt)}" '
        f'style="display:block;height:auto;border-radius:5px;{style}">'
    )


def _wall(pictures: Sequence[tuple[int, Markup, Markup]]) -> Markup:
    """Pictures (width, picture, words) with the words under each, in rows that break where the window ends."""
    style = "color:var(--muted);font-size:13px;line-height:1.4;margin-top:5px;overflow-wrap:anywhere"
    items = "".join(
        f'<div style="width:min(100%,{width}px)">{picture}<div style="{style}">{words}</div></div>' for width, picture, words in pictures
    )
    return Markup(f'<div style="display:flex;flex-wrap:wrap;gap:22px 20px;align-items:flex-start">{items}</div>')


def _pair_words(leaks: Leaks, leak: Leak) -> Markup:
    names = f"{_short(leaks.ground.names[leak.a])} · {_short(leaks.ground.names[leak.b])}"
    sure = "" if leak.probability > 0.9995 else f", {math.floor(leak.probability * 1000) / 10:.1f} % sure"
    return join(Markup('<b style="color:var(--ink);font-weight:600">'), names, Markup("</b><br>"), leak.how + sure)


def _advice(leaks: Leaks) -> list[str]:
    counts = leaks.counts
    is_split = leaks.ground.teacher == "train"
    words = []
    if any(counts[kind] for kind in KINDS[:3]):
        words.append("Copies: keep one of each family, or keep the family in one part. `landseg audit` lists them with their labels.")
    if is_split:
        words.append(
            "Split again with `landseg split DATA --by scene`: tiles that overlap, touch or are copies then stay in one part. Until then, "
            "take the score as too high by an unknown amount."
        )
    else:
        words.append(
            f"Take the tiles listed here out of {leaks.ground.teacher} before you train, or say with the score how much of the test ground "
            "was seen."
        )
    if counts["neighbour"]:
        words.append("Neighbours weigh least. Where they are all that is found, a row of tiles left out between the parts is enough.")
    return words


def _definitions(leaks: Leaks) -> dict[str, str]:
    return {
        "Seen": f"A pixel whose ground another part shows too: all of a copy, the common ground of an overlap, nothing of a neighbour. "
        f"{leaks.ground.teacher} is what a model learns from.",
        "Concerned": "Pixels of all tiles with a leak of any kind, neighbours included.",
        **{kind[0].upper() + kind[1:]: _WORDS[kind] for kind in KINDS},
        "Sure": "The probability that a pair is what it is said to be, as measured on invented landscapes where the truth is known.",
        "Not found": "The same place on another day or from another satellite, and overlaps of less than about a tenth of a tile.",
    }


def _parts(leaks: Leaks) -> list[str]:
    return [leaks.ground.teacher, *leaks.judged]


def _colour(leaks: Leaks, part: str) -> str:
    known = dict(zip((leaks.ground.teacher, *leaks.judged), (PART_COLOURS[name] for name in ("train", "val", "test")), strict=False))
    return PART_COLOURS.get(part) or known.get(part, PART_COLOURS[""])


def _percent(share: float) -> str:
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{share * 100:.1f} %"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _short(name: str) -> str:
    """The end of a long name, which tells tiles apart."""
    return name if len(name) <= 28 else f"…{name[-27:]}"
