"""The page of a map: ground, classes, parcels and a legend in one HTML file that needs nothing else. It measures nothing.

What is drawn goes into the page as numbers (`map_shapes`) and pictures, and is drawn by its script (``map_page.js``): so a reader can zoom
in, switch layers and ask what a parcel is. All text is escaped; the same parcels give the same bytes; however large the map, the page
stays below `MOST_BYTES`.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from landseg.core.earth import resolution_m
from landseg.core.files import write_text
from landseg.core.page import STYLE
from landseg.product.backdrop import Backdrop
from landseg.product.components import NOTHING
from landseg.product.map_frame import MapFrame
from landseg.product.map_shapes import LEVEL, Shapes, pack_shapes
from landseg.product.parcels import Parcels

MOST_BYTES = 15_000_000
"""Of a page: what a browser opens at once, and a letter carries."""

_MOST_SHAPES, _MOST_CLASSES, _MOST_GROUND = 5_000_000, 2_000_000, 3_800_000
"""Of each of its parts, before a third is added by writing them as letters: 14.4 MB together."""

_QUALITIES = (84, 72, 60, 45, 30, 15)
"""Of the ground's picture, tried in turn until it fits; then it is halved."""

GENERATOR = '<meta name="generator" content="landseg parcels">'
"""By which a page is known as one of these."""


@dataclass(frozen=True)
class _Row:
    """A class in the legend."""

    id: int
    name: str
    colour: str
    area_m2: float
    count: int


def write_map(
    path: Path, parcels: Parcels, frame: MapFrame, *, title: str, made_of: Mapping[str, str], backdrop: Backdrop | None = None
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: The file.
        parcels: With their `picture`, of the frame's shape.
        frame: The picture that the page shows.
        title: Its headline.
        made_of: What it was made of and how, in words: name → value; no times and no paths.
        backdrop: The ground beneath, in the same frame.

    Returns:
        `path`.

    Raises:
        LandsegError: It cannot be written.
    """
    shapes = pack_shapes(parcels, frame, _MOST_SHAPES)
    rows = _rows(parcels)
    ids, shape = _packed_ids(parcels.picture if parcels.picture is not None else np.full(frame.shape, NOTHING, np.uint8))
    about = {
        "width": frame.width, "height": frame.height, "pixel": round(frame.pixel_m, 9), "to": [*frame.transform][:6],
        "geographic": bool(frame.grid.crs is not None and frame.grid.crs.is_geographic),
        "classes": {row.id: [row.name, row.colour] for row in rows}, "ids": shape,
        "shapes": [shapes.parcels, shapes.rings, shapes.vertices, shapes.steps],
    }  # fmt: skip
    ground = (
        "" if backdrop is None else f'<img id="ground" alt="The ground" src="data:image/webp;base64,{_letters(_webp(backdrop))}" hidden>'
    )
    body = _TEMPLATE.format(
        title=escape(title), aspect=f"{frame.width / frame.height:.4g}",
        generator=GENERATOR, style=STYLE, own_style=_asset("map_page.css"), script=_asset("map_page.js"),
        subtitle=_subtitle(parcels, frame), angle=f"{math.degrees(math.atan2(frame.north[0], -frame.north[1])):.2f}",
        ground_switch=_switch("ground", "Ground") if backdrop is not None else "", opacity=70 if backdrop is None else 40,
        legend=_legend(rows), remarks=_remarks(shapes, frame, has_ground=backdrop is not None),
        made_of="".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in made_of.items()), ground=ground,
        about=json.dumps(about, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"), ids=_letters(ids),
        shapes=_letters(shapes.data),
    )  # fmt: skip
    write_text(path, body)
    return path


def is_map(path: Path) -> bool:
    """Whether a file is a page that `write_map` wrote."""
    try:
        with path.open("rb") as file:
            return GENERATOR.encode() in file.read(1000)
    except OSError:
        return False


def _rows(parcels: Parcels) -> list[_Row]:
    """The classes that occur, the largest first."""
    areas, counts = np.bincount(parcels.class_id, parcels.area_m2, minlength=256), np.bincount(parcels.class_id, minlength=256)
    rows = [_Row(i, item.name, item.colour, float(areas[i]), int(counts[i])) for i, item in parcels.classes.items() if counts[i]]
    return sorted(rows, key=lambda row: (-row.area_m2, row.id))


def _legend(rows: Sequence[_Row]) -> str:
    total = sum(row.area_m2 for row in rows)
    digits = 4 if total < 1e4 else 2 if total < 1e7 else 0
    lines = []
    for row in rows:
        share = row.area_m2 / total
        lines.append(
            f'<tr data-class="{row.id}" style="--share:{share:.2%};--colour:{row.colour}"><td><button type="button" aria-pressed="false">'
            f'<i class="swatch" style="background:{row.colour}"></i><span>{escape(row.name)}</span></button></td>'
            f"<td>{row.area_m2 / 1e4:,.{digits}f}</td><td>{_percent(share)}</td><td>{row.count:,}</td></tr>"
        )
    if not rows:
        return '<p class="quiet">No parcels: the map holds no class.</p>'
    count = sum(row.count for row in rows)
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("Class", "ha", "Share", "Parcels"))
    foot = f"<tr><td>All</td><td>{total / 1e4:,.{digits}f}</td><td></td><td>{count:,}</td></tr>"
    body = "".join(lines)
    return f'<table class="classes"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>'


def _remarks(shapes: Shapes, frame: MapFrame, *, has_ground: bool) -> str:
    """What a reader should know of what the page leaves out."""
    said = []
    if shapes.left_out:
        noun = "parcel is" if shapes.left_out == 1 else "parcels are"
        said.append(
            f"{shapes.left_out:,} {noun} too small to be outlined here (up to {_square(shapes.left_out_m2)}); the layer holds all, "
            "and so do the figures above."
        )
    if frame.is_reduced:
        said.append(f"Shown with {_metres(frame.pixel_m)} a pixel; borders are rounded to a quarter of that.")
    if not has_ground:
        said.append("Name the scene with --scene to see the ground beneath.")
    return "".join(f"<p>{escape(words)}</p>" for words in said)


def _subtitle(parcels: Parcels, frame: MapFrame) -> str:
    count = len(parcels.class_id)
    resolution = resolution_m(frame.grid)
    name = parcels.crs.to_string()
    parts = [
        f"{count:,} {'parcel' if count == 1 else 'parcels'}", _hectares(float(parcels.area_m2.sum())),
        *([] if resolution is None else [f"{_metres(resolution)} a pixel"]), name if len(name) < 30 else "its own CRS",
    ]  # fmt: skip
    return "".join(f"<span>{escape(part)}</span>" for part in parts)


def _switch(layer: str, name: str) -> str:
    return f'<label><input type="checkbox" data-layer="{layer}" checked><span>{name}</span></label>'


def _packed_ids(ids: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """Class ids packed by zlib, reduced until they are few enough; and their width and height."""
    while True:
        data = zlib.compress(np.ascontiguousarray(ids).tobytes(), LEVEL)
        if len(data) <= _MOST_CLASSES:
            return data, (ids.shape[1], ids.shape[0])
        ids = ids[::2, ::2]


def _webp(backdrop: Backdrop) -> bytes:
    """The ground as WebP, clear where there is none."""
    alpha = np.where(backdrop.shows, 255, 0).astype(np.uint8)
    picture = np.dstack([backdrop.picture[:, :, ::-1], alpha]) if not backdrop.shows.all() else backdrop.picture[:, :, ::-1]
    while True:
        for quality in _QUALITIES:
            data = bytes(cv2.imencode(".webp", np.ascontiguousarray(picture), [cv2.IMWRITE_WEBP_QUALITY, quality])[1])
            if len(data) <= _MOST_GROUND:
                return data
        picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _letters(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _asset(name: str) -> str:
    return (files("landseg.product") / name).read_text(encoding="utf-8")


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")


def _hectares(area_m2: float) -> str:
    return f"{area_m2 / 1e4:,.{4 if area_m2 < 1e4 else 2 if area_m2 < 1e6 else 1 if area_m2 < 1e7 else 0}f} ha"


def _square(area_m2: float) -> str:
    return f"{area_m2:,.0f} m²" if area_m2 >= 10 else f"{area_m2:.2g} m²"


def _metres(length: float) -> str:
    if length >= 999.5:
        return f"{length / 1000:.3g} km"
    return f"{length:.3g} m" if length >= 0.1 else f"{length * 100:.2g} cm"


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{generator}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}{own_style}</style>
</head>
<body>
<main style="--aspect:{aspect}">
<section id="stage" aria-label="Map">
<canvas id="map" tabindex="0" role="img" aria-label="{title}: the map; arrows move it, plus and minus zoom, 0 shows all of it"></canvas>
<div id="tools" role="group" aria-label="Zoom"><button type="button" data-zoom="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
<button type="button" data-zoom="out" aria-label="Zoom out" title="Zoom out (−)">−</button>
<button type="button" data-zoom="all" aria-label="Show all" title="Show all (0)"><svg viewBox="0 0 16 16" width="15" height="15"
aria-hidden="true"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4" fill="none" stroke="currentColor" stroke-width="1.8"/></svg></button>
</div>
<svg id="north" viewBox="-20 -24 40 48" role="img" aria-label="North"><g transform="rotate({angle})"><path d="M0-16 7 8 0 3z" class="dark"/>
<path d="M0-16-7 8 0 3z" class="pale"/></g><text y="21" text-anchor="middle">N</text></svg>
<div id="foot"><div id="scale"><span></span><i></i></div><output id="place"></output></div>
<div id="tip" hidden></div>
<p id="wait">Unpacking the map …</p>
<noscript><p id="need">This page draws its map with a script, which is switched off here. The figures beside it are complete.</p></noscript>
</section>
<aside>
<header><h1>{title}</h1><p>{subtitle}</p></header>
<section id="layers" aria-label="Layers">{ground_switch}
<label><input type="checkbox" data-layer="classes" checked><span>Classes</span></label>
<label><input type="checkbox" data-layer="borders" checked><span>Borders</span></label>
<label class="slide"><span>Colour</span><input id="opacity" type="range" min="0" max="100" value="{opacity}"
aria-label="Opacity of the classes"><output>{opacity} %</output></label></section>
<section id="legend">{legend}</section>
<section id="parcel" aria-live="polite"><p class="quiet">Choose a class to see it alone; choose a parcel to see its figures.</p></section>
<footer>{remarks}<details><summary>How it was made</summary><dl>{made_of}</dl></details></footer>
</aside>
</main>
{ground}
<script type="application/json" id="about">{about}</script>
<script type="text/plain" id="ids">{ids}</script>
<script type="text/plain" id="shapes">{shapes}</script>
<script>{script}</script>
</body>
</html>
"""
