"""`audit.html`: what an audit found, as one page for people. It finds nothing itself; it reads the few tiles that it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from landseg.core.classes import IGNORE_INDEX, LandClass, make_classes
from landseg.core.page import Markup, Page, Picture, Text, class_map, embed, join, meter, photo, swatch
from landseg.data.audit import Audit
from landseg.data.inspection import AS_THEY_STAND, TileFacts
from landseg.data.labels import read_label
from landseg.data.overlay import overlay_jpeg, rgb_picture
from landseg.data.survey import RANKS, Problem, Severity
from landseg.data.tally import BandStatistics
from landseg.data.tiles import UnreadableTile, decode_image, read_bytes

T = TypeVar("T")

_EDGE, _QUALITY = 176, 80  # pixels and JPEG quality of a thumbnail: about 9 kB
_BUDGET = 2_300_000  # characters of pictures on a page; it stays below 3 MB whatever the data
_STRIP, _STRIP_COLUMNS = 12, 6
_EXAMPLES = 6  # tiles, or groups of copies, a problem
_CARDS, _CARD = 3, 340  # beside each other; pixels of the widest
_NAMES = 200  # listed a problem; all of them stand in audit.json
_ILLEGAL = (196, 22, 118)  # the page's own pink: no map colour comes near it
_BANDS = 16  # with a histogram
_COLOURS = {"red": "#cf5c4a", "green": "#4f9a63", "blue": "#4a7fc1", "nir": "#9a5fb0"}
_BADGES = {"error": ("var(--alarm)", "#fff"), "warning": ("#d9a036", "#2b2003"), "note": ("var(--line)", "var(--ink)")}

_CHECKS = {
    "Files": "Every image and label is decoded once; formats go by content, never by the file’s ending.",
    "Copies": "Equal pixels, also flipped or turned by quarters; and the same picture in another encoding, when it differs by less than "
    "JPEG compression explains. Images of one colour are no copies of each other.",
    "Labels under nodata": "A class on NaN, on transparency, or on a large saturated area that reaches the tile’s edge and ends sharply.",
    "Interpolated": "Steps between distant ids that pass over an id between, or many rare grey levels around few frequent ones.",
    "Inverted": "Two classes that have each other’s colours or share of the ground in a tile, against all other tiles.",
    "Ids from 1": "The last class’s number plus one occurs, and no 0 beside it.",
    "Palettes": "An index that occurs in several palette files is one colour in all of them.",
    "Percentiles": "Exact for 8-bit bands, from an even sample of pixels for others. Values that are not finite are left out.",
}


def write_page(path: Path, audit: Audit) -> Path:
    """Write the page of an audit.

    Args:
        path: The HTML file.
        audit: What was found.

    Returns:
        `path`.

    Raises:
        LandsegError: It cannot be written.
    """
    return _Sheet(audit).page().write(path)


class _Sheet:
    """A page that is being filled, and how much room pictures have taken on it."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.tiles: Mapping[str, TileFacts] = {tile.name: tile for tile in audit.tiles}
        self.classes = audit.subject.classes or _invented(audit)
        self.room = _BUDGET

    def page(self) -> Page:
        audit = self.audit
        page = Page(f"{audit.subject.name}: what is in it", _subtitle(audit))
        page.facts(_facts(audit))
        page.text(_verdict(audit))
        self._contact(page)
        self._problems(page)
        _draw_classes(page, audit, self.classes)
        _draw_bands(page, audit)
        _draw_files(page, audit)
        page.section("How it was looked at")
        page.definitions(_CHECKS)
        return page

    def _contact(self, page: Page) -> None:
        shown = [tile for tile in self.audit.tiles if tile.image and not tile.image.is_flat]
        faulty = {name for problem in self.audit.faults for name in problem.tiles}
        good = [tile for tile in shown if tile.label and 2 * tile.label.labelled >= tile.label.size[0] * tile.label.size[1]]
        good = [tile for tile in good if tile.name not in faulty] or good
        cards = []
        for tile in _spread(good or shown, _STRIP):
            pictures = self._pictures(tile)
            if pictures:
                cards.append(pictures[-1])
        if not cards:
            return
        words = "Tiles from the whole set, evenly chosen" + (", under their labels." if self.audit.has_labels else ".")
        page.section("What it looks like", words)
        if self.audit.has_labels:
            page.legend([*(swatch(item.colour, item.name) for item in self.classes[:24]), swatch("#ffffff", "unlabelled")])
        page.tiles([("", cards[row : row + _STRIP_COLUMNS]) for row in range(0, len(cards), _STRIP_COLUMNS)], columns=_STRIP_COLUMNS)

    def _problems(self, page: Page) -> None:
        problems = self.audit.problems
        if not problems:
            return
        page.section("Problems" if self.audit.faults else "Remarks", _severities(self.audit))
        if len(problems) > 3:
            rows = [[join(_badge(item.severity), item.title), f"{len(item.tiles):,}" if item.tiles else "–"] for item in problems]
            page.table(["", "Tiles"], rows)
        for problem in problems:
            page.note(_problem_words(problem), is_warning=problem.severity == "error")
            if problem.severity != "note":
                cards = list(self._cards(problem))
                if cards:
                    page.figures(cards, columns=_CARDS)
            if len(problem.tiles) > 1 and problem.severity != "note":
                page.figure(_names(problem))

    def _cards(self, problem: Problem) -> Iterator[tuple[Text, Markup]]:
        """Thumbnails of a problem: image and label of a tile side by side, or copies of one picture."""
        if problem.sets:
            for group in problem.sets[: _EXAMPLES if len(problem.sets) >= _EXAMPLES else _CARDS]:
                tiles = [self.tiles[name] for name in group[:3]]
                if problem.kind == "duplicate_labels_differ":
                    pictures = [picture for tile in tiles for picture in self._pictures(tile)[-1:]]
                else:
                    pictures = [picture for tile in tiles for picture in self._pictures(tile)[:1]]
                if pictures:
                    more = f" and {len(group) - 3} more" if len(group) > 3 else ""
                    yield " = ".join(tile.name for tile in tiles) + more, _strip(pictures, max(2, len(pictures)))
            return
        names = [name for name in problem.tiles if name in self.tiles]
        for name in _spread(names, _EXAMPLES if len(names) >= _EXAMPLES else _CARDS):
            pictures = self._pictures(self.tiles[name])
            if pictures:
                yield name, _strip(pictures, 2)

    def _pictures(self, tile: TileFacts) -> list[Picture]:
        """The image, and the image under its label (or the label alone where the two do not fit); nothing once the page is full."""
        if self.room <= 0:
            return []
        pictures = []
        image = _image(tile)
        if image is not None:
            pictures.append(photo(_small(rgb_picture(image, self._band_names(image))), f"{tile.name}: image", _QUALITY))
        label = self._label_picture(tile, image)
        if label is not None:
            pictures.append(label)
        self.room -= sum(len(picture.uri) for picture in pictures)
        return pictures

    def _label_picture(self, tile: TileFacts, image: np.ndarray | None) -> Picture | None:
        if tile.label_path is None:
            return None
        alt = f"{tile.name}: label"
        try:
            data = read_bytes(tile.label_path)
            if tile.colours is not None:
                return photo(_small(rgb_picture(decode_image(data), ("red", "green", "blue"))), alt, _QUALITY)
            if tile.label is None:
                return None
            ids = read_label(data, self.audit.subject.label_rules).ids
        except UnreadableTile:
            return None
        if image is None or ids.shape != image.shape[:2]:
            return class_map(_small(ids), self.classes, alt)
        drawn = decode_image(overlay_jpeg(_small(image), _small(ids), self._band_names(image), self.classes))
        illegal = [code for code in tile.label.illegal if isinstance(code, int) and 0 <= code < IGNORE_INDEX]
        if illegal and self.audit.subject.label_rules.encoding == "index":
            drawn[np.isin(_small(read_label(data, AS_THEY_STAND).ids), illegal)] = _ILLEGAL
        return photo(drawn, alt, _QUALITY)

    def _band_names(self, image: np.ndarray) -> tuple[str, ...]:
        return self.audit.band_names(image.shape[2])


def _subtitle(audit: Audit) -> str:
    what = (
        f"{audit.pairs:,} {'pair' if audit.pairs == 1 else 'pairs'} of image and label"
        if audit.has_labels
        else f"{len(audit.tiles):,} images without labels"
    )
    return f"Audit of a data set · {what}" + (f" · {len(audit.classes)} classes" if audit.classes else "")


def _facts(audit: Audit) -> dict[str, Text | tuple[Text, Text]]:
    facts: dict[str, Text | tuple[Text, Text]] = {}
    orphans = len(audit.tiles) - audit.pairs + len(audit.label_orphans)
    if audit.has_labels:
        facts["Pairs"] = f"{audit.pairs:,}", f"{orphans:,} files without a partner" if orphans else "image and label, none alone"
    else:
        facts["Images"] = f"{len(audit.tiles):,}", "without labels"
    sizes = audit.counted("size")
    kinds = ", ".join(f"{bands} band{'s' if bands > 1 else ''} {dtype}" for bands, dtype in list(audit.bands)[:2])
    facts["Tile size"] = next(iter(sizes)), f"{kinds}{f' · {len(sizes):,} sizes in all' if len(sizes) > 1 else ''}"
    if audit.has_labels and audit.pixels:
        share = audit.labelled_pixels / audit.pixels
        facts["Labelled"] = f"{share:.1%}", f"of all pixels; {audit.unlabelled_tiles:,} tiles unlabelled throughout"
    counts = {rank: sum(problem.severity == rank for problem in audit.problems) for rank in RANKS}
    words = ", ".join(f"{count} {rank}{'s' if count != 1 else ''}" for rank, count in counts.items() if count)
    facts["Problems"] = str(counts["error"] + counts["warning"]), words or "none"
    return facts


def _verdict(audit: Audit) -> str:
    if not audit.faults:
        return "Nothing is wrong with this data set: every file could be read, and nothing in it looks suspicious."
    touched = len({name for problem in audit.faults for name in problem.tiles})
    first = audit.faults[0]
    return (
        f"{touched:,} of {len(audit.tiles):,} tiles have something that should be looked at. Most pressing: {first.title[0].lower()}"
        f"{first.title[1:]}, in {len(first.tiles):,} {'tile' if len(first.tiles) == 1 else 'tiles'}."
    )


def _severities(audit: Audit) -> str:
    if not audit.faults:
        return "Harmless, only said."
    return "An error stops the use of a tile, a warning is suspicious, a note is harmless."


def _problem_words(problem: Problem) -> Markup:
    count = f' <small style="color:var(--muted)">{len(problem.tiles):,} tiles</small>' if len(problem.tiles) > 1 else ""
    title = f'{_badge(problem.severity)}<b style="font-size:17px">{escape(problem.title)}</b>{count}'
    do = f'<br><span style="color:var(--muted)">→ {_code(problem.do)}</span>' if problem.do else ""
    return Markup(f"{title}<br>{_code(problem.what)}{do}")


def _badge(severity: Severity) -> Markup:
    back, fore = _BADGES[severity]
    style = f"background:{back};color:{fore};border-radius:9px;padding:1px 10px 2px;font-size:12px;font-weight:600;margin-right:10px"
    return Markup(f'<span style="{style};vertical-align:2px">{severity}</span>')


def _code(text: str) -> str:
    """Escaped text with `commands` set apart."""
    parts = escape(text).split("`")
    style = 'style="font-size:.9em;background:rgb(128 128 128/.16);border-radius:4px;padding:1px 5px"'
    return "".join(f"<code {style}>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _names(problem: Problem) -> Markup:
    shown = [" = ".join(group) for group in problem.sets] or list(problem.tiles)
    more = f" … and {len(shown) - _NAMES:,} more in audit.json" if len(shown) > _NAMES else ""
    listed = escape(", ".join(shown[:_NAMES]) + more)
    summary = f"all {len(problem.tiles):,} tiles" if not more else f"the first {_NAMES} of {len(shown):,}"
    words = f'<p style="max-width:none;overflow-wrap:anywhere;color:var(--muted)">{listed}</p>'
    return Markup(
        f'<details style="font-size:13px;margin:-6px 0 26px"><summary style="cursor:pointer">{summary}</summary>{words}</details>'
    )


def _strip(pictures: Sequence[Picture], columns: int) -> Markup:
    inside = "".join(str(embed(picture)) for picture in pictures)
    return Markup(f'<div class="strip" style="--columns:{columns};margin-bottom:6px;max-width:{_CARD}px">{inside}</div>')


def _draw_classes(page: Page, audit: Audit, classes: Sequence[LandClass]) -> None:
    if not audit.classes:
        return
    whole, labels = max(audit.labelled_pixels, 1), max(sum(tile.label is not None for tile in audit.tiles), 1)
    page.section("Classes", "Share of the labelled pixels, and how many tiles hold the class.")
    most_pixels = max(max(row.pixels for row in audit.classes) / whole, 1e-9)
    colours = {item.id: item.colour for item in classes}
    rows: list[list[Text]] = []
    for row in audit.classes[:64]:
        share, held = row.pixels / whole, row.tiles / labels
        colour = row.colour or colours.get(row.id, "#888888")
        rows.append(
            [
                swatch(colour, row.name),
                meter(share / most_pixels, None, colour),
                f"{share:.2%}" if share >= 0.0001 or not row.pixels else "<0.01%",
                f"{row.pixels:,}",
                meter(held, None, "var(--muted)"),
                f"{row.tiles:,}",
            ]
        )
    unlabelled = audit.pixels - audit.labelled_pixels
    caption = f"{unlabelled:,} of {audit.pixels:,} pixels ({unlabelled / max(audit.pixels, 1):.1%}) are unlabelled."
    page.table(["Class", "Share of the labels", "", "Pixels", "Tiles that hold it", ""], rows, align="llrrlr", caption=caption)


def _draw_bands(page: Page, audit: Audit) -> None:
    page.section("Bands", "How the values are spread over the whole set. The darker part lies between the 2nd and the 98th percentile.")
    for (count, dtype), found in list(audit.bands.items())[:3]:
        names = audit.band_names(count)
        if len(audit.bands) > 1:
            tiles = sum(tile.image is not None and (tile.image.bands, tile.image.dtype) == (count, dtype) for tile in audit.tiles)
            page.text(Markup(f"<b>{count} {'band' if count == 1 else 'bands'} of {escape(dtype)}</b>, {tiles:,} tiles"))
        shown = list(zip(names, found, strict=True))[:_BANDS]
        page.figures([(name, _histogram(band, _COLOURS.get(name.lower(), "var(--accent)"))) for name, band in shown], columns=3)
        heads = ["Band", "Mean", "Std", "Min", "1 %", "2 %", "Median", "98 %", "99 %", "Max"]
        rows = [
            [name, *(f"{value:.5g}" for value in (band.mean, band.std, band.low, *band.percentiles.values(), band.high))]
            for name, band in zip(names, found, strict=True)
        ]
        page.table(heads, rows)


def _histogram(band: BandStatistics, colour: str) -> Markup:
    """Bars of a band's values: quiet outside the 2nd and 98th percentile, with the ends of the axis under it."""
    width, height = 320, 92
    # The ends may hold nodata; they shall not press all else flat.
    top = max(sorted(band.bins)[-2], max(band.bins) / 4, 1)
    step = width / len(band.bins)
    low, high = band.edges
    bars = []
    for i, count in enumerate(band.bins):
        if not count:
            continue
        tall = min(count / top, 1.0) * height
        middle = low + (i + 0.5) * (high - low) / len(band.bins)
        margin = (high - low) / len(band.bins)
        shade = 0.9 if band.percentiles[2] - margin <= middle <= band.percentiles[98] + margin else 0.35
        place = f'x="{i * step:.1f}" y="{height - tall:.1f}" width="{step - 0.7:.1f}" height="{tall:.1f}"'
        bars.append(f'<rect {place} opacity="{shade}"/>')
    text = 'font-size="11" fill="var(--muted)" font-family="var(--font)"'
    mean = f"mean {band.mean:.4g} ± {band.std:.3g}"
    return Markup(
        f'<svg viewBox="0 0 {width} {height + 18}" style="max-width:{_CARD}px" role="img"><g fill="{escape(colour)}">{"".join(bars)}</g>'
        f'<path d="M0 {height}.5H{width}" stroke="var(--muted)" stroke-width="1"/>'
        f'<text x="0" y="{height + 14}" {text}>{low:.4g}</text>'
        f'<text x="{width / 2:.0f}" y="{height + 14}" text-anchor="middle" {text}>{mean}</text>'
        f'<text x="{width}" y="{height + 14}" text-anchor="end" {text}>{high - (1 if high == 256 else 0):.4g}</text></svg>'
    )


def _draw_files(page: Page, audit: Audit) -> None:
    page.section("Files")
    rows: list[tuple[Text, Text]] = []
    for title, of in (("Image formats", "format"), ("Label formats", "label_format"), ("Sizes", "size"), ("Types", "dtype")):
        counted = audit.counted(of)
        if counted:
            listed = ", ".join(f"{name} ({count:,})" for name, count in list(counted.items())[:8])
            rows.append((title, listed + (f" and {len(counted) - 8:,} more" if len(counted) > 8 else "")))
    if audit.illegal:
        listed = "; ".join(f"{entry['value']}: {entry['pixels']:,} pixels in {entry['tiles']:,} files" for entry in audit.illegal[:8])
        rows.append(("Illegal label values", listed + (" …" if len(audit.illegal) > 8 else "")))
    page.table(["", ""], rows, align="ll")


def _image(tile: TileFacts) -> np.ndarray | None:
    if tile.image is None:
        return None
    try:
        return decode_image(read_bytes(tile.image_path))
    except UnreadableTile:
        return None


def _small(pixels: np.ndarray) -> np.ndarray:
    """An image or a label at the size of a thumbnail; class ids are not interpolated."""
    factor = _EDGE / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    if pixels.ndim == 2 or pixels.shape[2] > 4 or pixels.dtype.name not in ("uint8", "uint16", "float32"):
        rows, columns = (np.arange(to) * side // to for to, side in zip((height, width), pixels.shape[:2], strict=True))
        return np.ascontiguousarray(pixels[rows[:, None], columns])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return small if small.ndim == 3 else small[:, :, None]


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly chosen."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _invented(audit: Audit) -> tuple[LandClass, ...]:
    """Colours for codes that nobody has named."""
    codes = [row.id for row in audit.classes if row.id < IGNORE_INDEX]
    colours = make_classes([str(code) for code in codes]) if codes else ()
    return tuple(LandClass(id=code, name=str(code), colour=item.colour) for code, item in zip(codes, colours, strict=True))
