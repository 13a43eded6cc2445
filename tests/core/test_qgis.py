"""Styles name each class and its colour, whatever is in the name."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from landseg.core.classes import LandClass
from landseg.core.qgis import parcel_style, raster_style

CLASSES = {0: LandClass(id=0, name="耕地 & <field>", colour="#e3b448"), 4: LandClass(id=4, name='"roof"', colour="#c8553d")}


def test_the_style_of_parcels_gives_each_class_its_colour() -> None:
    root = ET.fromstring(parcel_style(CLASSES.values()).partition("\n")[2])
    categories = {item.get("value"): (item.get("label"), item.get("symbol")) for item in root.iter("category")}
    assert {value: label for value, (label, _) in categories.items()} == {"0": "耕地 & <field>", "4": '"roof"'}
    colours = {
        symbol.get("name"): next(o.get("value") for o in symbol.iter("Option") if o.get("name") == "color")
        for symbol in root.iter("symbol")
    }
    assert colours[categories["4"][1]] == "200,85,61,255"


def test_the_style_of_a_class_map_gives_each_class_its_colour() -> None:
    root = ET.fromstring(raster_style(CLASSES.values()).partition("\n")[2])
    entries = [(item.get("value"), item.get("color"), item.get("label")) for item in root.iter("paletteEntry")]
    assert entries == [("0", "#e3b448", "耕地 & <field>"), ("4", "#c8553d", '"roof"')]
