"""The classes' colours as styles of QGIS, which takes one up by itself from a ``.qml`` beside a layer. It writes no file.

Source: the QML format of QGIS 3, as `Layer properties → Symbology → Save style` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import quoteattr

from landseg.core.classes import LandClass

_BORDER = "60,60,60,160"
"""Colour of the borders between parcels: red, green, blue, opacity."""


def raster_style(classes: Iterable[LandClass]) -> str:
    """The style of a class map: each id in its class's colour, under its name."""
    entries = (f'    <paletteEntry value="{item.id}" color="{item.colour}" alpha="255" label={quoteattr(item.name)}/>' for item in classes)
    return _document([
        " <pipe>",
        '  <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">',
        "   <colorPalette>",
        *entries,
        "   </colorPalette>",
        "  </rasterrenderer>",
        " </pipe>",
    ])  # fmt: skip


def parcel_style(classes: Iterable[LandClass]) -> str:
    """The style of a layer of polygons: each filled with the colour of its ``class_id``."""
    listed = list(classes)
    return _document([
        ' <renderer-v2 type="categorizedSymbol" attr="class_id" symbollevels="0" forceraster="0" enableorderby="0">',
        "  <categories>",
        *(f'   <category render="true" value="{item.id}" symbol="{i}" label={quoteattr(item.name)}/>' for i, item in enumerate(listed)),
        "  </categories>",
        "  <symbols>",
        *(line for i, item in enumerate(listed) for line in _symbol(i, item)),
        "  </symbols>",
        " </renderer-v2>",
    ])  # fmt: skip


def _document(lines: Iterable[str]) -> str:
    head = ["<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>", '<qgis version="3.22.0" styleCategories="Symbology">']
    return "\n".join([*head, *lines, "</qgis>", ""])


def _symbol(i: int, item: LandClass) -> list[str]:
    values = {
        "color": ",".join(map(str, (*item.rgb, 255))), "style": "solid", "outline_color": _BORDER, "outline_style": "solid",
        "outline_width": "0.1", "outline_width_unit": "MM",
    }  # fmt: skip
    options = [f'     <Option type="QString" name="{key}" value="{value}"/>' for key, value in values.items()]
    return [
        f'   <symbol type="fill" name="{i}" alpha="1" clip_to_extent="1" force_rhr="0">',
        '    <layer class="SimpleFill" enabled="1" locked="0" pass="0">',
        *('    <Option type="Map">', *options, "    </Option>"),
        "    </layer>",
        "   </symbol>",
    ]  # fmt: skip
