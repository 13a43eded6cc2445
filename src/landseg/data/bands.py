"""What a file says of its bands, names, colours and wavelengths, and which of them are meant. It reads no pixels.

A wavelength is a number with a unit, such as ``665nm`` or ``0.665um``; it means the band whose centre is nearest, within `TOLERANCE`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rasterio.enums import ColorInterp

from landseg.core.errors import LandsegError

TOLERANCE = 0.03
"""Share of a wavelength by which a band's centre may lie beside it: 20 nm at 665 nm. Sensors put their bands of one meaning this near
(red of Sentinel-2 at 665 nm and of Landsat 8 at 655 nm), those of another meaning further: Sentinel-2's lie 5 % apart at least, but for
its two in the near infrared at 842 and 865 nm. Source: ESA, Sentinel-2 MSI technical guide; USGS, Landsat 8 data users handbook."""

_COLOURS = {
    getattr(ColorInterp, name): name
    for name in ("red", "green", "blue", "pan", "coastal", "rededge", "nir", "swir", "mwir", "lwir", "tir")
    if hasattr(ColorInterp, name)  # of GDAL before 3.10 the first three alone
}

_NM = {
    "nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "micrometer": 1e3, "micrometre": 1e3, "micron": 1e3,
    "angstrom": 0.1, "mm": 1e6, "millimeter": 1e6, "millimetre": 1e6, "cm": 1e7, "centimeter": 1e7, "centimetre": 1e7,
    "m": 1e9, "meter": 1e9, "metre": 1e9,
}  # fmt: skip
"""Nanometres in a unit, by the names of ENVI's header field ``wavelength units`` and their abbreviations. The other values of that field
(wavenumber, GHz, MHz, index, unknown) are no lengths."""

_MICRO = 100.0
"""A wavelength without a unit is in micrometres below this, else in nanometres: what images are made of lies from 0.2 to 20 µm."""

_WAVELENGTH = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([^\W\d_]+)\s*")


@dataclass(frozen=True)
class Band:
    """What a file says of a band.

    Args:
        name: Its description.
        colour: What its colour interpretation means.
        wavelength_nm: Its centre.
    """

    name: str | None = None
    colour: str | None = None
    wavelength_nm: float | None = None


class Scene(Protocol):
    """What is asked of a raster here."""

    path: str
    about: tuple[Band, ...]


def bands_of(dataset: Any, numbers: Sequence[int]) -> tuple[Band, ...]:
    """What an open dataset of rasterio says of some of its bands.

    Wavelengths come from a band's tags ``wavelength`` and ``wavelength_units``, as GDAL gives those of an ENVI header and of Sentinel-2
    products; from its tag ``CENTRAL_WAVELENGTH_UM`` of the domain IMAGERY; from the list in the file's domain ENVI; or from a description
    that is one.

    Source: GDAL, raster data model, "IMAGERY domain" (3.10: a band's ``CENTRAL_WAVELENGTH_UM``, in micrometres); its drivers ENVI (the
    header's fields as tags, digits after the first three kept in ``wavelength`` alone) and SENTINEL2 (``WAVELENGTH``,
    ``WAVELENGTH_UNIT``); ENVI, header fields ``wavelength`` and ``wavelength units``.
    """
    listed = _listed(dataset.tags(ns="ENVI"), dataset.count)
    unit = _unit(dataset.tags())
    found = []
    for number in numbers:
        name, tags = dataset.descriptions[number - 1], dataset.tags(number)
        own = _in_nm(_lower(tags).get("wavelength"), _unit(tags) or unit)
        own = own or _in_nm(dataset.tags(number, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM"), "um")
        own = own or (listed[number - 1] if listed else None) or wavelength_nm(name or "")
        found.append(Band(name or None, _COLOURS.get(dataset.colorinterp[number - 1]), own))
    return tuple(found)


def wavelength_nm(text: str) -> float | None:
    """A wavelength in nanometres; None where a text is none, as a name is."""
    match = _WAVELENGTH.fullmatch(text)
    return None if match is None else _in_nm(match[1], match[2])


def chosen_bands(scene: Scene, bands: Sequence[int | str] | None, key: str) -> list[int]:
    """Numbers of the bands that are meant.

    Args:
        scene: Opened.
        bands: Numbers from 1, names or wavelengths; None means all. A name is a band's description, or else its colour.
        key: Of the setting, for messages.

    Raises:
        LandsegError: The scene has no such band, several of that name, none near that wavelength, or one for two wavelengths.
    """
    if bands is None:
        return list(range(1, len(scene.about) + 1))
    numbers: list[int] = []
    near: dict[int, str] = {}
    for band in bands:
        if isinstance(band, int):
            places = [band] if 1 <= band <= len(scene.about) else []
        else:
            places = _named(scene.about, band)
            wanted = None if places else wavelength_nm(band)
            if wanted is not None:
                places = [_nearest(scene, wanted, key)]
                if near.setdefault(places[0], band) != band:
                    raise LandsegError(
                        scene.path, f"band {places[0]} is the nearest to {near[places[0]]} and to {band}", "two bands", f"mend {key}"
                    )
        if len(places) != 1:
            found = f"{len(places) or 'no'} band{'s' * (len(places) > 1)} {band}"
            raise LandsegError(scene.path, found, f"one of {_known(scene.about)}", f"mend {key}")
        numbers += places
    return numbers


def chosen_names(scene: Scene, bands: Sequence[int | str] | None, numbers: Sequence[int]) -> tuple[str | None, ...]:
    """What bands are called in a data set: by their names or colours, and those chosen by wavelength by that, as in ``665nm``.

    A name such as ``B4`` means another band to each sensor, a wavelength does not; but a colour is what pictures are made of.
    """
    names = []
    for i, number in enumerate(numbers):
        band, asked = scene.about[number - 1], None if bands is None else bands[i]
        wanted = wavelength_nm(asked) if isinstance(asked, str) else None
        names.append(band.name or band.colour if wanted is None else band.colour or f"{wanted:g}nm")
    return tuple(names)


def taken_by_name(scene: Scene, wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Numbers of the bands that are called as a model's, or lie nearest where those are wavelengths; None where not all can be told."""
    numbers = []
    for name in wanted:
        places = _named(scene.about, name)
        length = None if places else wavelength_nm(name)
        if length is not None:
            places = _within(scene.about, length)
        if len(places) != 1:
            return None
        numbers += places
    return tuple(numbers) if len(set(numbers)) == len(numbers) else None


def numbers_only(bands: Sequence[int | str] | None) -> tuple[int, ...] | None:
    """The setting `predict.bands` for tiles, of which many are pictures that call their bands nothing.

    Raises:
        LandsegError: It holds a name or a wavelength.
    """
    for band in bands or ():
        if isinstance(band, str):
            raise LandsegError("predict.bands", f"{band}, and the inputs are tiles", "numbers, counted from 1", "e.g. [1,2,3]")
    return None if bands is None else tuple(band for band in bands if isinstance(band, int))


def _named(about: Sequence[Band], name: str) -> list[int]:
    """Numbers of the bands described so, else of those of that colour."""
    wanted = name.strip().casefold()
    described = [i for i, band in enumerate(about, 1) if (band.name or "").strip().casefold() == wanted]
    return described or [i for i, band in enumerate(about, 1) if band.colour == wanted]


def _nearest(scene: Scene, wanted: float, key: str) -> int:
    """The number of the band whose centre is nearest to a wavelength in nanometres."""
    stated = [(abs(band.wavelength_nm - wanted), i) for i, band in enumerate(scene.about, 1) if band.wavelength_nm is not None]
    if not stated:
        needed = "wavelengths of its bands, as their tags or in its ENVI header"
        raise LandsegError(scene.path, "it states no wavelengths", needed, f"choose {key} by number, or by name: {_known(scene.about)}")
    found = _within(scene.about, wanted)
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " and ".join(map(str, found))
        raise LandsegError(scene.path, f"bands {numbers} are as near to {wanted:g} nm", "one", f"choose {key} by number")
    number = min(stated)[1]
    centre = scene.about[number - 1].wavelength_nm
    raise LandsegError(
        scene.path, f"no band at {wanted:g} nm, the nearest is {number} at {centre:g} nm",
        f"one within {TOLERANCE:.0%} ({TOLERANCE * wanted:.0f} nm)", f"choose {key} by number where it shall be taken",
    )  # fmt: skip


def _within(about: Sequence[Band], wanted: float) -> list[int]:
    """Numbers of the nearest bands within the tolerance: several only where they are equally near."""
    apart = {i: abs(band.wavelength_nm - wanted) for i, band in enumerate(about, 1) if band.wavelength_nm is not None}
    least = min(apart.values(), default=math.inf)
    return [i for i, distance in apart.items() if distance == least <= TOLERANCE * wanted]


def _known(about: Sequence[Band]) -> str:
    """The bands in words, for messages."""
    words = []
    for i, band in enumerate(about, 1):
        centre = None if band.wavelength_nm is None else f"{band.wavelength_nm:g} nm"
        words.append(" ".join(part for part in (str(i), band.name or band.colour, centre) if part))
    return ", ".join(words[:16]) + f" … {len(words)}" * (len(words) > 16)


def _listed(tags: Mapping[str, str], count: int) -> list[float | None]:
    """The wavelengths of all bands from an ENVI header's list; empty where it has another length."""
    texts = tags.get("wavelength", "").strip("{} \n").split(",")
    return [_in_nm(text, _unit(tags)) for text in texts] if len(texts) == count else []


def _unit(tags: Mapping[str, str]) -> str | None:
    lower = _lower(tags)
    return lower.get("wavelength_units") or lower.get("wavelength_unit")


def _lower(tags: Mapping[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in tags.items()}


def _in_nm(text: str | None, unit: str | None) -> float | None:
    """A number in a unit as nanometres; None where it is no positive number, or the unit no length."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    if not math.isfinite(value) or value <= 0:
        return None
    if unit is None:
        return round(value * 1e3 if value < _MICRO else value, 6)
    name = unit.strip().casefold()
    step = _NM.get(name) or _NM.get(name.removesuffix("s"))
    return None if step is None else round(value * step, 6)
