"""Bands are found by number, name, colour and wavelength, wherever the file states these; what is ambiguous or far is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from landseg.core.errors import LandsegError
from landseg.data.bands import TOLERANCE, Band, chosen_bands, chosen_names, numbers_only, taken_by_name, wavelength_nm
from landseg.data.raster import open_scene


@dataclass
class Stated:
    about: tuple[Band, ...]
    path: str = "a.tif"


SENTINEL = Stated(
    tuple(Band(f"B{i}", None, centre) for i, centre in enumerate((443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 842.0, 865.0), 1))
)


def write_bands(path: Path, count: int = 3, *, driver: str = "GTiff") -> Path:
    with rasterio.open(
        path, "w", driver=driver, width=4, height=4, count=count, dtype="uint8", crs=CRS.from_epsg(32633),
        transform=Affine(2, 0, 5e5, 0, -2, 5e6), **({"photometric": "minisblack"} if driver == "GTiff" else {}),
    ) as dataset:  # fmt: skip
        dataset.write(np.stack([np.full((4, 4), i + 1, np.uint8) for i in range(count)]))
    return path


def centres(path: Path) -> list[float | None]:
    with open_scene(path) as scene:
        return [band.wavelength_nm for band in scene.about]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("665nm", 665), ("665 nm", 665), (" 0.665um ", 665), ("0.665 µm", 665), ("0.665μm", 665), (".665 Micrometers", 665),
        ("10.9um", 10900),
        ("664.6 Nanometers", 664.6), ("6650 angstroms", 665), ("665", None), ("red", None), ("B4", None), ("4 B", None), ("0nm", None),
        ("665 GHz", None), ("nm", None), ("6.6.5nm", None), ("-5nm", None), ("665nm red", None),
    ],
)  # fmt: skip
def test_a_wavelength_is_a_number_with_a_unit(text: str, wanted: float | None) -> None:
    assert wavelength_nm(text) == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize(("unit", "factor"), [("Nanometers", 1000), ("Micrometers", 1), ("um", 1), (None, 1000), (None, 1)], ids=str)
def test_an_envi_header_states_them(tmp_path: Path, unit: str | None, factor: float) -> None:
    path = write_bands(tmp_path / "a.dat", driver="ENVI")
    header = tmp_path / "a.hdr"
    numbers = ", ".join(f"{centre * factor:.7g}" for centre in (0.4901, 0.5602, 0.66456))
    header.write_text(header.read_text() + f"\nwavelength = {{{numbers}}}\n" + (f"wavelength units = {unit}\n" if unit else ""))
    assert centres(path) == pytest.approx([490.1, 560.2, 664.56])


@pytest.mark.parametrize("unit", ["GHz", "Wavenumber", "Unknown", "Index"])
def test_what_is_no_length_is_no_wavelength(tmp_path: Path, unit: str) -> None:
    path = write_bands(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(1, wavelength="490", wavelength_units=unit)
        dataset.update_tags(2, WAVELENGTH="490", WAVELENGTH_UNIT="nm")
        dataset.update_tags(3, Wavelength="inf", Wavelength_Units="nm")
    assert centres(path) == [None, 490, None]


def test_tags_of_a_band_of_gdals_domain_and_of_the_file_state_them(tmp_path: Path) -> None:
    path = write_bands(tmp_path / "a.tif", 4)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="ENVI", wavelength="{ 0.4,\n0.5, 0.6, x}", wavelength_units="Micrometers")
        dataset.update_tags(1, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="0.443")
        dataset.update_tags(2, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="0.444")
        dataset.update_tags(2, wavelength="444.4")
        dataset.descriptions = (None, None, None, "1.61 um")
    assert centres(path) == pytest.approx([443, 444.4, 600, 1610]), "a band's own words go before the file's, the finer before the coarser"


def test_the_nearest_band_is_taken_within_the_tolerance() -> None:
    assert chosen_bands(SENTINEL, ["655nm", "0.56um", "482nm", 1, "b7"], "cut.bands") == [4, 3, 2, 1, 7]
    few = Stated((Band(), Band(wavelength_nm=665), Band(wavelength_nm=1610)))
    for sign in (-1, 1):
        assert chosen_bands(few, [f"{665 / (1 + sign * 0.99 * TOLERANCE):.3f}nm"], "cut.bands") == [2]
        words = r"a\.tif: no band at 6\d\d\.\d+ nm, the nearest is 2 at 665 nm, one within 3% \((19|21) nm\); choose cut\.bands"
        with pytest.raises(LandsegError, match=words):
            chosen_bands(few, [f"{665 / (1 + sign * 1.01 * TOLERANCE):.3f}nm"], "cut.bands")


@pytest.mark.parametrize(
    ("about", "bands", "words"),
    [
        (SENTINEL.about, ["665nm", "660nm"], "band 4 is the nearest to 665nm and to 660nm"),
        ((Band(wavelength_nm=660), Band(wavelength_nm=670)), ["665nm"], "bands 1 and 2 are as near to 665 nm"),
        ((Band("red"), Band("nir")), ["665nm"], "it states no wavelengths.*by name: 1 red, 2 nir"),
        ((Band("red"), Band("red")), ["red"], "2 bands red, one of 1 red, 2 red; mend cut.bands"),
        (SENTINEL.about, ["nir"], "no band nir, one of 1 B1 443 nm, 2 B2 490 nm"),
        (SENTINEL.about, [9], "no band 9"),
        (SENTINEL.about, [0], "no band 0"),
        ((Band("x"),) * 20, ["y"], "16 x … 20"),
    ],
)
def test_what_is_ambiguous_or_absent_is_refused(about: tuple[Band, ...], bands: list[int | str], words: str) -> None:
    with pytest.raises(LandsegError, match=words):
        chosen_bands(Stated(about), bands, "cut.bands")


def test_a_name_is_a_description_or_else_a_colour(tmp_path: Path) -> None:
    path = write_bands(tmp_path / "a.tif", 3)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("B4", "Red", None)
        dataset.colorinterp = (ColorInterp.red, ColorInterp.undefined, ColorInterp.nir)
    with open_scene(path) as scene:
        assert chosen_bands(scene, ["red", "NIR", "b4"], "cut.bands") == [2, 3, 1], "what is written goes before what is meant"
        assert scene.names == ("B4", "Red", "nir")
        assert chosen_bands(scene, None, "cut.bands") == [1, 2, 3]
        assert (scene.read(bands=[3])[0] == 3).all()


def test_a_band_chosen_by_wavelength_is_called_so_but_a_colour_by_its_name() -> None:
    scene = Stated((Band("B4", None, 664.6), Band("B3", "green", 559.8), Band("B2", "blue", 492.4)))
    asked: list[int | str] = ["0.665um", "560nm", 3]
    assert chosen_names(scene, asked, chosen_bands(scene, asked, "cut.bands")) == ("665nm", "green", "B2")


def test_a_models_bands_are_found_by_name_or_wavelength_or_not_at_all() -> None:
    assert taken_by_name(Stated((Band("nir"), Band("x", "red"), Band("green"))), ["RED", "nir"]) == (2, 1)
    assert taken_by_name(SENTINEL, ["842nm", "665nm", "B1"]) == (7, 4, 1)
    assert taken_by_name(SENTINEL, ["665nm", "660nm"]) is None, "one band for two"
    assert taken_by_name(SENTINEL, ["2200nm"]) is None and taken_by_name(SENTINEL, ["red"]) is None
    assert taken_by_name(Stated((Band("red"), Band("red"))), ["red"]) is None
    assert taken_by_name(Stated((Band(),) * 3), ["red", "green", "blue"]) is None


def test_tiles_are_told_by_number() -> None:
    assert numbers_only(None) is None and numbers_only([3, 1]) == (3, 1)
    with pytest.raises(LandsegError, match=r"predict\.bands: 665nm, and the inputs are tiles"):
        numbers_only([1, "665nm"])
