"""`preview.html`: tiles as they are, and beside each what the network will see of it. It draws nothing at random and reads no tile.

A *cell* is one picture in layers: the ground, the map of classes over it, and the marks: borders of classes, hatch over what is ignored.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
import yaml

from landseg.core.classes import IGNORE_INDEX, LandClass, paint
from landseg.core.page import Markup, Page, Picture, Text, class_map, meter, photo, swatch
from landseg.core.settings import AugmentConfig, Recipe
from landseg.data.overlay import Scaling, is_border, rgb_picture

RGB = ("red", "green", "blue")

_BUDGET = 2_700_000  # characters of pictures on a page; it stays below 3 MB whatever the tiles hold
_SLACK = 200_000  # of these, by which the first tiles may go beyond their part of it before a coarser page is tried
_FINENESS = ((256, 82), (224, 76), (192, 68), (160, 60), (128, 50), (96, 40))  # pixels of a picture's longer side, JPEG quality
_LINE, _VEIL, _EDGE = (246, 246, 242, 235), (44, 48, 48, 150), 235  # RGBA of the hatch and of what lies between its lines; alpha of borders
_PERIOD, _THICK = 9, 2  # pixels from line to line, and of a line
_NAMED = 5  # classes in a tile's caption
_LISTED = 64  # classes in the legend and the table
_MODES = {"both": "Image and label", "image": "Image alone", "label": "Label alone"}


@dataclass(frozen=True)
class Sight:
    """An image (H, W, C) in the units of the tiles, and its label (H, W) uint8."""

    image: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Seen:
    """A tile as it is, and what each epoch shows of it; None for an epoch that leaves it out."""

    name: str
    tile: Sight
    draws: Sequence[Sight | None]


@dataclass(frozen=True)
class Epoch:
    """What an epoch is made of.

    Args:
        tiles: Of the train part.
        dropped: Of these, left out because nothing in them is labelled.
        images: Tiles and crops that an epoch shows.
        batches: Of an epoch.
        cut: (height, width) of what is taken of the tiles.
        shape: (height, width) of what the network sees.
        shares: Of each class in the labelled pixels: in the train part, and in an epoch before crops and mixing.
    """

    tiles: int
    dropped: int
    images: int
    batches: int
    cut: tuple[int, int]
    shape: tuple[int, int]
    shares: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class PreviewPicture:
    """What the page says.

    Args:
        title: Headline.
        tiles: What is shown; all with as many draws.
        classes: Of the data set.
        bands: Names of the images' bands.
        scaling: (low, high) a band: what is shown black and what white, in all pictures alike.
        recipe: The settings.
        epoch: What an epoch is made of.
    """

    title: str
    tiles: Sequence[Seen]
    classes: Sequence[LandClass]
    bands: Sequence[str]
    scaling: Scaling
    recipe: Recipe
    epoch: Epoch


def write_preview_page(path: Path, content: PreviewPicture) -> Path:
    """Write the page, one file below 3 MB, and return its path.

    Raises:
        LandsegError: It cannot be written.
    """
    settings = content.recipe.augment
    working = at_work(settings, content.bands)
    page = Page(content.title, "Preview of the training tiles · nothing was trained")
    page.facts(_facts(content, len(working)))
    page.section("The tiles", _words(content))
    shown = [swatch(item.colour, item.name) for item in content.classes[:_LISTED]]
    page.legend([*shown, swatch("none", "ignored: neither trains nor scores")])
    page.figure(_gallery(content))
    page.section("What changes them", "Those at work stand first. Set another value with --set KEY=VALUE, and look again.")
    keys = sorted(AugmentConfig.model_fields, key=lambda key: key not in working)
    page.table(["Setting", "Value", "What it does"], [_row(key, settings, key in working) for key in keys], align="lll")
    _draw_epoch(page, content)
    return page.write(path)


def at_work(settings: AugmentConfig, bands: Sequence[str]) -> frozenset[str]:
    """The keys that change anything, at their values and for these bands."""
    still = {"scale": (1.0, 1.0), "aspect": 1.0}
    moved = {key for key in AugmentConfig.model_fields if getattr(settings, key) != still.get(key, 0)}
    warps = {"rotation_deg", "scale", "aspect", "shear_deg", "shift"}
    if "warp" not in moved:
        moved -= warps
    if not moved & warps:
        moved.discard("warp")
    if tuple(bands) != RGB:
        moved.discard("hue_deg")
    if len(bands) < 2:
        moved -= {"saturation", "band_dropout"}
    return frozenset(moved)


def _facts(content: PreviewPicture, working: int) -> dict[str, Text | tuple[Text, Text]]:
    epoch, train = content.epoch, content.recipe.train
    (height, width), (cut_height, cut_width) = epoch.shape, epoch.cut
    resized = f"{'made of' if train.size else 'filled up from'} {cut_height} × {cut_width}; " if epoch.shape != epoch.cut else ""
    ignored = _ignored([seen.tile for seen in content.tiles]), _ignored([draw for seen in content.tiles for draw in seen.draws if draw])
    dropped = f", {epoch.dropped:,} left out: no label" if epoch.dropped else ""
    return {
        "Train tiles": (f"{epoch.tiles:,}", f"{len(content.tiles)} shown here{dropped}"),
        "An epoch": (f"{epoch.images:,}", f"{'images' if epoch.images != epoch.tiles else 'tiles'} in {epoch.batches:,} batches"),
        "The network sees": (f"{height} × {width}", f"{resized}{len(content.bands)} {'band' if len(content.bands) == 1 else 'bands'}"),
        "Changes at work": (str(working), f"of {len(AugmentConfig.model_fields)} settings"),
        "Ignored": (_percent(ignored[1]), f"of the pixels drawn here, {_percent(ignored[0])} in the tiles as they are"),
    }


def _ignored(sights: Sequence[Sight]) -> float:
    """Share of the pixels that neither train nor score."""
    total = sum(sight.label.size for sight in sights)
    return sum(int(np.count_nonzero(sight.label == IGNORE_INDEX)) for sight in sights) / max(total, 1)


def _words(content: PreviewPicture) -> str:
    count = max((len(seen.draws) for seen in content.tiles), default=0)
    mixing = " and ".join(key for key in ("class_mix", "cut_mix") if getattr(content.recipe.augment, key))
    mixed = f" Pieces of other tiles come from {mixing}." if mixing else ""
    if any(draw is None for seen in content.tiles for draw in seen.draws):
        mixed += " Where a tile is not drawn, tiles of rare classes come in its place."
    return (
        f"Each tile as it is, and as the first {count} epochs draw it with seed {content.recipe.train.seed}: the very pixels that training "
        f"will use. The tiles were chosen to show every class, the rarest first.{mixed} Rest the pointer on a picture to see it without "
        "its label."
    )


def _gallery(content: PreviewPicture) -> Markup:
    """All tiles, as fine as the page has room for, under a bar that chooses which layers are shown."""
    for edge, quality in _FINENESS:
        figures: list[str] = []
        for seen in content.tiles:
            figures.append(_figure(seen, content, edge, quality))
            share = len(figures) / len(content.tiles)
            is_over = sum(map(len, figures)) > _BUDGET * share + _SLACK * (1 - share)
            if is_over and edge > _FINENESS[-1][0]:
                break  # a coarser page is tried before this one is finished
        else:
            break
    heads = ["As it is", *(f"Epoch {i + 1}" for i in range(max((len(seen.draws) for seen in content.tiles), default=0)))]
    inputs = "".join(f'<input type="radio" name="layers" id="show-{mode}"{" checked" if mode == "both" else ""}>' for mode in _MODES)
    switch = "".join(f'<label for="show-{mode}">{escape(words)}</label>' for mode, words in _MODES.items())
    columns = "".join(f"<span>{escape(head)}</span>" for head in heads)
    bar = (
        f'<div class="bar"><div class="switch">{switch}</div><div class="strip heads" style="--columns:{len(heads)}">{columns}</div></div>'
    )
    return Markup(f'<style>{_STYLE}</style><div class="preview">{inputs}{bar}{"".join(figures)}</div>')


def _figure(seen: Seen, content: PreviewPicture, edge: int, quality: int) -> str:
    words = ["as it is", *(f"epoch {i + 1}" for i in range(len(seen.draws)))]
    cells = "".join(
        _cell(sight, f"{seen.name}, {word}", word, content, edge, quality)
        for sight, word in zip([seen.tile, *seen.draws], words, strict=True)
    )
    caption = f"<b>{escape(seen.name)}</b><small>{_contents(seen.tile.label, content.classes)}</small>"
    strip = f'<div class="strip" style="--columns:{len(words)}">{cells}</div>'
    return f'<figure class="tiles"><figcaption>{caption}</figcaption>{strip}</figure>'


def _contents(label: np.ndarray, classes: Sequence[LandClass]) -> str:
    """The classes of a tile with their shares, the largest first."""
    counts = np.bincount(label.ravel(), minlength=256)[: len(classes)]
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    named = [f"{swatch(classes[i].colour, classes[i].name)} {_percent(counts[i] / label.size)}" for i in order[:_NAMED]]
    more = [f"and {len(order) - _NAMED} more"] if len(order) > _NAMED else []
    return "".join(f"<span>{words}</span>" for words in [*named, *more]) or "nothing labelled"


def _cell(sight: Sight | None, alt: str, word: str, content: PreviewPicture, edge: int, quality: int) -> str:
    tag = f"<figcaption>{escape(word)}</figcaption>"
    if sight is None:
        return f'<div class="cell none"><span>not drawn</span>{tag}</div>'
    picture = rgb_picture(sight.image, content.bands, content.scaling)
    picture, label = _fitted(picture, sight.label, edge)
    ground = photo(picture, alt, quality)
    layers = (("ground", ground), ("map", class_map(label, content.classes, "")), ("marks", _marks(label, content.classes)))
    pictures = "".join(
        f'<img class="{name}" src="{layer.uri}" width="{layer.width}" height="{layer.height}" alt="{escape(layer.alt)}">'
        for name, layer in layers
    )
    return f'<div class="cell">{pictures}{tag}</div>'


def _fitted(picture: np.ndarray, label: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture and label with a longer side near `edge` pixels: averaged when larger, its pixels multiplied when much smaller; ids stay."""
    longer = max(label.shape)
    if longer <= edge:  # so that a border is a thin line beside large pixels
        times = edge // longer
        return picture.repeat(times, 0).repeat(times, 1), label.repeat(times, 0).repeat(times, 1)
    height, width = (max(1, round(side * edge / longer)) for side in (label.shape[0], label.shape[1]))
    rows = ((np.arange(height) + 0.5) * label.shape[0] / height).astype(int)
    cols = ((np.arange(width) + 0.5) * label.shape[1] / width).astype(int)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), label[np.ix_(rows, cols)]


def _marks(label: np.ndarray, classes: Sequence[LandClass]) -> Picture:
    """Borders between classes in their colours, and a hatch over what is ignored; transparent elsewhere."""
    drawn = np.zeros((*label.shape, 4), np.uint8)
    rows, cols = np.arange(label.shape[0])[:, None], np.arange(label.shape[1])
    is_ignored = label == IGNORE_INDEX
    drawn[is_ignored] = _VEIL
    drawn[is_ignored & ((rows + cols) % _PERIOD < _THICK)] = _LINE
    is_edge = is_border(label) & ~is_ignored
    drawn[is_edge, :3], drawn[is_edge, 3] = paint(label, classes)[is_edge], _EDGE
    _, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    return Picture(f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}", label.shape[1], label.shape[0], "")


def _row(key: str, settings: AugmentConfig, is_working: bool) -> list[Text]:
    value = yaml.safe_dump(settings.model_dump(mode="json")[key], default_flow_style=True).removesuffix("...\n").strip()
    words = [
        f"<code>augment.{escape(key)}</code>",
        f"<code>{escape(value)}</code>",
        escape(AugmentConfig.model_fields[key].description or ""),
    ]
    return [Markup(text if is_working else f'<span class="off">{text}</span>') for text in words]


def _draw_epoch(page: Page, content: PreviewPicture) -> None:
    """How often classes come, where sampling changes that."""
    sample, shares = content.recipe.sample, content.epoch.shares
    if sample.repeat == 1 or not shares:
        return
    intro = (
        f"Tiles of classes below {100 * sample.rare:g}% of the labelled pixels come up to {sample.repeat:g} times as often "
        "(sample.repeat, sample.rare); the epoch stays as long. Shares of the labelled pixels, before crops and mixing."
    )
    page.section("What an epoch is made of", intro)
    most = max(max(pair) for pair in shares) or 1.0
    rows: list[list[Text]] = []
    for item, (before, drawn) in list(zip(content.classes, shares, strict=True))[:_LISTED]:
        bars = [
            Markup(f"{meter(share / most, None, colour)}<small>{_percent(share)}</small>")
            for share, colour in ((before, "var(--muted)"), (drawn, item.colour))
        ]
        rows.append([swatch(item.colour, item.name), *bars, f"× {drawn / before:.2f}" if before else "–"])
    page.table(["Class", "In the train part", "In the first epoch", "Change"], rows, align="lllr")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%" if share else "0%"


_STYLE = """
.preview{position:relative}.preview>input{position:absolute;opacity:0;pointer-events:none}
.preview .bar{position:sticky;top:0;z-index:2;background:var(--paper);padding:10px 0 8px;border-bottom:1px solid var(--line)}
.preview .heads{margin-top:10px}
.switch{display:inline-flex;border:1px solid var(--line);border-radius:9px;background:var(--card);padding:3px;gap:3px;font-size:14px}
.switch label{padding:4px 14px;border-radius:6px;cursor:pointer;color:var(--muted)}.switch label:hover{color:var(--ink)}
#show-both:checked~.bar [for=show-both],#show-image:checked~.bar [for=show-image],#show-label:checked~.bar [for=show-label]{
background:var(--accent);color:var(--deep)}
#show-both:focus-visible~.bar [for=show-both],#show-image:focus-visible~.bar [for=show-image],
#show-label:focus-visible~.bar [for=show-label]{outline:2px solid var(--ink);outline-offset:1px}
.preview .tiles{margin:18px 0 26px}.preview .tiles>figcaption{display:flex;flex-wrap:wrap;gap:2px 16px;align-items:baseline;max-width:none}
.preview .tiles>figcaption small{margin:0;font-size:13px;display:flex;flex-wrap:wrap;gap:2px 16px}
.preview .strip{align-items:start}
.cell{position:relative;overflow:hidden;border-radius:6px;background:var(--card)}
.cell:first-child{outline:2px solid var(--muted);outline-offset:2px}
.strip .cell img{background:none;outline:0;border-radius:0}
.cell .map,.cell .marks{position:absolute;inset:0;width:100%;height:100%;pointer-events:none}
.cell .map{opacity:.3;image-rendering:pixelated}
.cell figcaption{display:none}
.cell.none{aspect-ratio:1;display:grid;place-items:center;border:1px dashed var(--line);color:var(--muted);font-size:13px}
#show-image:checked~.tiles .map,#show-image:checked~.tiles .marks{opacity:0}
#show-label:checked~.tiles .ground{opacity:0}#show-label:checked~.tiles .map{opacity:1}
#show-both:checked~.tiles .cell:hover .map,#show-both:checked~.tiles .cell:hover .marks{opacity:0}
td code{font-size:13px;white-space:nowrap}td .off{color:var(--muted)}
@media (max-width:640px){.preview .tiles .strip{grid-template-columns:repeat(3,minmax(0,1fr))}.preview .heads{display:none}
.cell figcaption{display:block;position:absolute;left:0;bottom:0;margin:0;padding:1px 7px;background:rgb(0 0 0/.6);color:#fff;
font-size:11px;border-radius:0 6px 0 0}}
@media print{.switch{display:none}.preview .bar{position:static;border:0}}
"""
