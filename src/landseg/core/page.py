"""Self-contained HTML pages and the figures in them, shared by audit, splits and reports. It computes nothing and knows no verb.

A page is one file without script or outside resource; it follows the reader's light or dark setting and prints in black on white.
All text is escaped; only `Markup`, made by the functions here, goes in as it is. The same content gives the same bytes.

Vocabulary: a *picture* is a raster image inside the page, a *figure* is a drawing (SVG).
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from landseg.core.classes import IGNORE_INDEX, LandClass, palette
from landseg.core.errors import LandsegError
from landseg.core.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of figures that follow light and dark: drawn as these numbers, written as variables of the stylesheet.
INK, MUTED, GRID, ACCENT, ALARM = "#010203", "#010204", "#010205", "#010206", "#010207"
_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", ACCENT: "var(--accent)", ALARM: "var(--alarm)"}


class Markup(str):
    """HTML that is safe to insert as it is. Only made from escaped parts."""

    __slots__ = ()


Text = str | Markup
"""A plain string is escaped, `Markup` is not."""


@dataclass(frozen=True)
class Picture:
    """A raster image inside the page: its data URI, size in pixels and the words for those who cannot see it."""

    uri: str
    width: int
    height: int
    alt: str


class Page:
    """A page that is filled from top to bottom.

    Args:
        title: The headline.
        subtitle: One line under it.
    """

    def __init__(self, title: str, subtitle: Text = "") -> None:
        self.title = title
        self._subtitle = subtitle
        self._headings: list[str] = []
        self._parts: list[str] = []

    def section(self, heading: str, intro: Text = "") -> None:
        """Begin a section; pages with several show a line of links to them."""
        self._headings.append(heading)
        self._parts.append(f'<h2 id="section-{len(self._headings)}">{escape(heading)}</h2>')
        if intro:
            self._parts.append(f'<p class="intro">{_html(intro)}</p>')

    def facts(self, facts: Mapping[str, Text | tuple[Text, Text]]) -> None:
        """A row of cards: name → value, or name → (value, small print)."""
        cards = []
        for name, fact in facts.items():
            value, small = fact if isinstance(fact, tuple) else (fact, "")
            note = f"<small>{_html(small)}</small>" if small else ""
            cards.append(f"<div><dt>{escape(name)}</dt><dd>{_html(value)}{note}</dd></div>")
        self._parts.append(f'<dl class="facts">{"".join(cards)}</dl>')

    def note(self, text: Text, *, is_warning: bool = False) -> None:
        """A remark set apart from the rest."""
        self._parts.append(f'<p class="note{" warning" if is_warning else ""}">{_html(text)}</p>')

    def text(self, text: Text) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{_html(text)}</p>")

    def table(self, headers: Sequence[Text], rows: Iterable[Sequence[Text]], align: str = "", caption: Text = "") -> None:
        """A table.

        Args:
            headers: One a column.
            rows: Cells, as many a row as there are headers.
            align: One letter a column, ``l`` or ``r``; the first column left and the others right when empty.
            caption: Words below the table.

        Raises:
            LandsegError: A row or `align` has another number of columns than `headers`.
        """
        columns = align or "l" + "r" * (len(headers) - 1)
        body = [list(row) for row in rows]
        for cells in (columns, *body):
            if len(cells) != len(headers):
                raise LandsegError("table", f"{len(cells)} columns", f"{len(headers)} as in its header", "give each column one")

        def line(cells: Sequence[Text], tag: str) -> str:
            return "".join(f'<{tag} class="{side}">{_html(cell)}</{tag}>' for cell, side in zip(cells, columns, strict=True))

        lines = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in body)
        head = f"<thead><tr>{line(headers, 'th')}</tr></thead>" if any(headers) else ""
        self._figure(f'<div class="scroll"><table>{head}<tbody>{lines}</tbody></table></div>', caption)

    def heatmap(
        self, shares: np.ndarray, names: Sequence[Text], cells: Sequence[Sequence[str]], titles: Sequence[Sequence[str]], caption: Text = ""
    ) -> None:
        """A square of shares: the diagonal in the accent colour, the rest in the alarm colour, each deeper with its share.

        Args:
            shares: (K, K) 0..1; NaN leaves a cell empty.
            names: K names for rows and columns alike; turned upright when there are many.
            cells: K × K words to stand in the cells.
            titles: K × K words that show when the pointer rests on a cell.
            caption: Words below.
        """
        heads = "".join(f'<th scope="col"><span>{_html(name)}</span></th>' for name in names)
        lines = []
        for i, name in enumerate(names):
            line = [f'<th scope="row">{_html(name)}</th>']
            for j, share in enumerate(shares[i]):
                if np.isnan(share):
                    line.append("<td>–</td>")
                    continue
                depth = float(share) if i == j else float(share) ** 0.6  # so that a share of 5 % is seen
                kind = ("hit" if i == j else "miss") + (" deep" if depth > 0.55 else "") + (" faint" if share < 0.005 else "")
                line.append(f'<td class="{kind}" style="--depth:{depth:.3f}" title="{escape(titles[i][j])}">{escape(cells[i][j])}</td>')
            lines.append(f"<tr>{''.join(line)}</tr>")
        upright = " upright" if len(names) > 8 else ""
        table = f'<table class="heat{upright}"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        self._figure(f'<div class="scroll">{table}</div>', caption)

    def figure(self, content: Markup | Figure, caption: Text = "") -> None:
        """A drawing over the full width: SVG, or a matplotlib figure made by `new_figure`."""
        self._figure(content if isinstance(content, Markup) else svg(content), caption)

    def figures(self, contents: Sequence[tuple[Text, Markup | Figure]], columns: int = 2) -> None:
        """Drawings (title, content) in `columns` beside each other, fewer where the window is narrow."""
        self._parts.append(f'<div class="beside" style="--columns:{columns}">')
        for title, content in contents:
            inside = content if isinstance(content, Markup) else svg(content)
            self._parts.append(f"<figure><h3>{_html(title)}</h3>{inside}</figure>")
        self._parts.append("</div>")

    def tiles(self, rows: Iterable[tuple[Text, Sequence[Picture]]], headers: Sequence[Text] = (), columns: int = 4) -> None:
        """Pictures with captions: a strip of pictures a row, each strip under its own words.

        Args:
            rows: (caption, pictures) of each strip.
            headers: Words over the columns, shown once above all strips.
            columns: Pictures beside each other, 1..12.
        """
        style = f'style="--columns:{columns}"'
        if headers:
            self._parts.append(f'<div class="strip heads" {style}>{"".join(f"<span>{_html(header)}</span>" for header in headers)}</div>')
        for caption, pictures in rows:
            inside = "".join(str(embed(picture)) for picture in pictures)
            self._parts.append(
                f'<figure class="tiles"><figcaption>{_html(caption)}</figcaption><div class="strip" {style}>{inside}</div></figure>'
            )

    def legend(self, entries: Iterable[Text]) -> None:
        """A line of words, most often made by `swatch`."""
        self._parts.append(f'<p class="legend">{"".join(f"<span>{_html(entry)}</span>" for entry in entries)}</p>')

    def definitions(self, terms: Mapping[str, Text]) -> None:
        """Terms and what they mean."""
        pairs = "".join(f"<dt>{escape(term)}</dt><dd>{_html(meaning)}</dd>" for term, meaning in terms.items())
        self._parts.append(f'<dl class="definitions">{pairs}</dl>')

    def html(self) -> str:
        """The page as one HTML document."""
        links = "".join(f'<a href="#section-{i}">{escape(heading)}</a>' for i, heading in enumerate(self._headings, 1))
        nav = f"<nav>{links}</nav>" if len(self._headings) > 2 else ""
        subtitle = f"<p>{_html(self._subtitle)}</p>" if self._subtitle else ""
        body = "\n".join(self._parts)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f"<header><h1>{escape(self.title)}</h1>{subtitle}{nav}</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page to `path`, whole or not at all, and return the path."""
        write_text(path, self.html())
        return path

    def _figure(self, inside: str, caption: Text) -> None:
        words = f"<figcaption>{_html(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{inside}{words}</figure>")


def swatch(colour: str, name: str) -> Markup:
    """A little square of `colour` (``#rrggbb``, or ``none`` for the hatch of unlabelled pixels) before a name."""
    style = "" if colour == "none" else f' style="background:{escape(colour)}"'
    return Markup(f'<span class="name"><i class="swatch{" hatch" if colour == "none" else ""}"{style}></i>{escape(name)}</span>')


def meter(value: float, interval: tuple[float, float] | None = None, colour: str = "var(--accent)") -> Markup:
    """A bar for a fraction 0..1, with a whisker over its interval where it is known."""
    whisker = f'<b style="left:{interval[0] * 100:.1f}%;width:{(interval[1] - interval[0]) * 100:.1f}%"></b>' if interval else ""
    return Markup(f'<span class="meter"><i style="width:{value * 100:.1f}%;background:{escape(colour)}"></i>{whisker}</span>')


def join(*parts: Text) -> Markup:
    """Several texts as one; plain ones are escaped."""
    return Markup("".join(_html(part) for part in parts))


def embed(picture: Picture) -> Markup:
    """A picture as an element of its own; small ones are enlarged without smoothing."""
    crisp = ' class="crisp"' if max(picture.width, picture.height) < 200 else ""
    return Markup(f'<img src="{picture.uri}" width="{picture.width}" height="{picture.height}" alt="{escape(picture.alt)}"{crisp}>')


def photo(image: np.ndarray, alt: str, quality: int = 82) -> Picture:
    """An RGB image (H, W, 3) uint8 as a JPEG picture; `quality` 82 is where tiles of 256² look like their source at about 20 kB."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return Picture(_uri("jpeg", data.tobytes()), image.shape[1], image.shape[0], alt)


def class_map(labels: np.ndarray, classes: Sequence[LandClass], alt: str) -> Picture:
    """Class ids (H, W) uint8 as a palette PNG picture; unlabelled pixels are transparent, so that the page's hatch shows."""
    from PIL import Image  # OpenCV writes no palette PNG

    picture = Image.frombytes("P", (labels.shape[1], labels.shape[0]), labels.astype(np.uint8).tobytes())
    picture.putpalette(palette(classes))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=IGNORE_INDEX, optimize=True)
    return Picture(_uri("png", buffer.getvalue()), labels.shape[1], labels.shape[0], alt)


def new_figure(width: float = 5.6, height: float = 3.0) -> Figure:
    """An empty matplotlib figure for a page: transparent, without pyplot and its global state.

    Args:
        width: Inches; 5.6 for one of two beside each other, 11.4 for the full width.
        height: Inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="none", layout="constrained")


def style_axes(axes: Any) -> None:
    """Dress matplotlib axes for the page: open to the right and above, a quiet grid, themed colours. Call after drawing."""
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.tick_params(axis="x", length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(MUTED)
        label.set_fontsize(9)


def svg(figure: Figure) -> Markup:
    """A matplotlib figure as inline SVG: text stays text in the page's font, themed colours follow light and dark."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "landseg"}), warnings.catch_warnings():
        # Text is drawn by the browser, whose fonts have the glyphs that matplotlib misses (Chinese) while it measures.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>\s*|<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r' id="[A-Za-z][A-Za-z0-9]*_\d+"', "", text)  # figure_1, axes_1 …: the same in every figure of the page
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", text)
    text = re.sub(r"(font: [^;\"]*?[\d.]px) [^;\"]+", r"\1 var(--font)", text)
    text = re.sub(r'<svg width="[\d.]+pt" height="[\d.]+pt"', "<svg", text, count=1)  # the page decides, the viewBox keeps the proportions
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    return Markup(text.strip())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _html(text: Text) -> str:
    return str(text) if isinstance(text, Markup) else escape(text)


STYLE = """
:root{--paper:#fcfbf8;--card:#fff;--ink:#1d2b2a;--muted:#66716f;--line:#e4e2da;--accent:#2f7a68;--alarm:#c2502e;
--hit:47 122 104;--miss:203 92 54;--deep:#fff;--warn:#fbf1dc;
--font:"Inter","Segoe UI",system-ui,-apple-system,"Helvetica Neue","Noto Sans","Noto Sans SC","Noto Sans CJK SC","PingFang SC",
"Microsoft YaHei",sans-serif}
@media screen and (prefers-color-scheme:dark){:root{--paper:#141a1a;--card:#1b2323;--ink:#e6ebe8;--muted:#97a5a1;--line:#2c3836;
--accent:#63bfa5;
--alarm:#ea8460;--hit:84 176 150;--miss:226 116 78;--deep:#0d1413;--warn:#2d2718}}
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%;print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--font);font-variant-numeric:tabular-nums}
header,main{max-width:1140px;margin:0 auto;padding:0 28px}
header{padding-top:44px}main{padding-bottom:72px}
h1{font-size:34px;line-height:1.2;letter-spacing:-.015em;font-weight:650;margin:0;overflow-wrap:anywhere}
header>p{color:var(--muted);margin:6px 0 0}
nav{display:flex;flex-wrap:wrap;gap:4px 22px;margin-top:18px;padding:10px 0;border:solid var(--line);border-width:1px 0;font-size:14px}
nav a{color:var(--accent);text-decoration:none}nav a:hover{text-decoration:underline}
h2{font-size:22px;line-height:1.3;letter-spacing:-.01em;font-weight:620;margin:52px 0 6px}
h3{font-size:14px;font-weight:600;margin:0 0 4px}
p{max-width:78ch;margin:8px 0}.intro{color:var(--muted)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:14px;margin:26px 0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px}
.facts dt{color:var(--muted);font-size:13px}
.facts dd{margin:2px 0 0;font-size:27px;line-height:1.25;font-weight:620;letter-spacing:-.015em;overflow-wrap:anywhere}
.facts small{display:block;font-size:13px;line-height:1.45;font-weight:400;letter-spacing:0;color:var(--muted);margin-top:3px}
.note{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--accent);border-radius:6px;padding:10px 16px;
margin:16px 0;max-width:none}
.note.warning{border-left-color:var(--alarm);background:var(--warn)}
figure{margin:18px 0}figcaption{color:var(--muted);font-size:14px;max-width:95ch;margin-top:8px}
figure svg{display:block;width:100%;height:auto}figure svg *{stroke-linejoin:round;stroke-linecap:butt}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,max(290px,
(100% - 14px*(var(--columns) - 1))/var(--columns))),1fr));gap:14px;margin:14px 0}
.beside figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px 8px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:15px;width:100%}
th{font-weight:600;font-size:13px;color:var(--muted);vertical-align:bottom;line-height:1.35}
th,td{padding:8px 12px}.l{text-align:left}.r{text-align:right}
thead tr{border-bottom:1.5px solid var(--muted)}tbody tr{border-bottom:1px solid var(--line)}
td.r{white-space:nowrap}td small{color:var(--muted);font-size:13px;white-space:nowrap}.meter+small{margin-left:12px}
.name{white-space:nowrap}
.swatch{display:inline-block;width:.85em;height:.85em;border-radius:3px;margin-right:.55em;vertical-align:-.08em;
box-shadow:inset 0 0 0 1px rgb(128 128 128/.45)}
.hatch,.strip img{background:repeating-linear-gradient(45deg,rgb(128 128 128/.28) 0 2px,transparent 2px 6px)}
.meter{display:inline-block;position:relative;width:130px;height:8px;border-radius:4px;background:var(--line);vertical-align:middle}
.meter i{position:absolute;inset:0 auto 0 0;border-radius:4px;box-shadow:inset 0 0 0 1px rgb(128 128 128/.35)}
.meter b{position:absolute;top:50%;height:10px;margin-top:-5px;border:solid var(--ink);border-width:0 1.5px}
.meter b::after{content:"";position:absolute;inset:4.25px 0 auto;border-top:1.5px solid var(--ink)}
.heat{width:auto;border-collapse:separate;border-spacing:3px;font-size:14px}
.heat th{color:var(--ink);font-weight:500;padding:4px 10px;max-width:190px}.heat thead th{text-align:center}
.heat th .name{white-space:normal}
.heat tbody th{text-align:right;vertical-align:middle}
.heat tbody td{min-width:100px;height:46px;padding:2px 4px;text-align:center;border-radius:5px;color:var(--ink)}
.heat tr{border:0}.hit{background:rgb(var(--hit)/var(--depth))}.miss{background:rgb(var(--miss)/var(--depth))}
.heat td.deep{color:var(--deep)}.heat td.faint{color:var(--muted)}
.upright{font-size:12px;border-spacing:2px}.upright th{font-size:12px;padding:2px 6px}.upright tbody td{min-width:36px;height:30px;
padding:0}
.upright thead th{vertical-align:bottom;text-align:left}.upright thead th>span{writing-mode:vertical-rl;max-height:150px;
line-height:1.1}
.upright thead .swatch{margin:0 0 .5em}.upright thead .name{white-space:nowrap}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;max-width:none;font-size:14px;margin:12px 0}
.strip{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,1fr));gap:10px}
.strip img{display:block;width:100%;height:auto;border-radius:6px;outline:1px solid rgb(128 128 128/.3);outline-offset:-1px}
.crisp{image-rendering:pixelated}
.heads{color:var(--muted);font-size:13px;font-weight:600;margin-top:20px}
.tiles{margin:6px 0 22px;break-inside:avoid}.tiles figcaption{color:var(--ink);margin:0 0 6px;overflow-wrap:anywhere}
.tiles figcaption small{color:var(--muted);margin-left:.6em}
.definitions{font-size:14px;line-height:1.5;display:grid;grid-template-columns:max-content minmax(0,82ch);gap:8px 26px;margin-top:14px}
.definitions dt{font-weight:600}.definitions dd{margin:0;color:var(--muted)}
@media (max-width:640px){header,main{padding-left:16px;padding-right:16px}.definitions{grid-template-columns:1fr;gap:2px}
.definitions dd{margin-bottom:8px}}
@media print{:root{--paper:#fff}body{font-size:10.5pt}header,main{max-width:none;padding:0}nav{display:none}h2{break-after:avoid;
margin-top:28px}
figure,.facts div,tr{break-inside:avoid}.scroll{overflow:visible}}
"""
