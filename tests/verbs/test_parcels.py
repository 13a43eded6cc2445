"""`landseg parcels` from a class raster to a layer, a style and a table, and every refusal in one line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from rasterio.crs import CRS
from rasterio.features import shapes

import landseg
from landseg.cli import main
from landseg.core.classes import make_classes, palette
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.core.qgis import raster_style
from landseg.data.raster import write

GRID = Grid(30, 40, Affine(2, 0, 5e5, 0, -2, 4e6), CRS.from_epsg(32650))
NAMES = ["building", "field", "water"]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    values = np.ones(GRID.shape, np.uint8)
    values[5:20, 10:30], values[10:15, 15:25], values[25, 3] = 0, 2, 0
    values[:, 35:] = 255
    (tmp_path / "maps").mkdir()
    return write(tmp_path / "maps" / "scene_classes.tif", values, GRID, nodata=255, palette=palette(make_classes(NAMES)), names=NAMES)


def test_a_class_raster_becomes_a_layer_with_a_style_and_a_table(tmp_path: Path, classes: Path) -> None:
    write(classes.with_name("scene_confidence.tif"), np.full(GRID.shape, 150, np.uint8), GRID, nodata=255)
    made = landseg.parcels(classes, tmp_path / "parcels.gpkg", min_area_m2=10)
    layer = geopandas.read_file(made.out)
    assert layer.class_name.tolist() == ["field", "building", "water"] and layer.class_id.tolist() == [1, 0, 2]
    assert layer.confidence.tolist() == [0.75] * 3 and layer.crs.to_epsg() == 32650
    assert layer.area.sum() == 35 * 30 * 4 and shapely.coverage_is_valid(layer.geometry.values)
    assert layer.area_m2.to_numpy() == pytest.approx(layer.area / 0.9996**2, rel=1e-4)
    assert made.page == tmp_path / "parcels.html" and ">water<" in made.page.read_text(encoding="utf-8")
    assert made.style == tmp_path / "parcels.qml" and 'label="water"' in made.style.read_text(encoding="utf-8")
    document = json.loads(json.dumps(made.as_json()))
    assert document["parcels"] == 3 and document["specks"] == 1 and document["confidence"] is True
    assert document["area_m2"] == pytest.approx({"building": 1000.8, "field": 3002.4, "water": 200.16}, rel=1e-3)
    first, *rest = made.as_text().splitlines()
    assert first.endswith("parcels.gpkg: 3 parcels, 0.42 ha") and len(rest) == 5 and rest[-1].endswith("parcels.html")


def test_the_same_raster_gives_the_same_files(tmp_path: Path, classes: Path) -> None:
    image = write(tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (*GRID.shape, 3)).astype(np.uint8), GRID)
    one, other = (landseg.parcels(classes, tmp_path / name / "p.gpkg", tolerance_m=3, smooth=True, scene=image) for name in ("a", "b"))
    assert one.out.read_bytes() == other.out.read_bytes() and one.style.read_bytes() == other.style.read_bytes()
    assert one.page.read_bytes() == other.page.read_bytes() and b"data:image/webp" in one.page.read_bytes()


def test_an_earlier_result_stays_unless_it_may_be_replaced(tmp_path: Path, classes: Path) -> None:
    out = tmp_path / "p.fgb"
    first = landseg.parcels(classes, out)
    with pytest.raises(LandsegError, match="exists already"):
        landseg.parcels(classes, out)
    assert landseg.parcels(classes, out, tolerance_m=5, overwrite=True).parcels == first.parcels


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_style_of_the_class_map_is_not_overwritten(classes: Path, overwrite: bool) -> None:
    """`predict` puts ``scene_classes.qml`` beside ``scene_classes.tif``, where a layer of that name would have its own."""
    style = classes.with_suffix(".qml")
    of_the_map = raster_style(make_classes(NAMES))
    style.write_text(of_the_map, encoding="utf-8")
    with pytest.raises(LandsegError, match=r"scene_classes\.qml.*--out scene_parcels\.gpkg"):
        landseg.parcels(classes, classes.with_suffix(".gpkg"), overwrite=overwrite)
    assert style.read_text(encoding="utf-8") == of_the_map and not classes.with_suffix(".gpkg").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_page_of_something_else_is_not_overwritten(tmp_path: Path, classes: Path, overwrite: bool) -> None:
    (tmp_path / "report.html").write_text("<html>", encoding="utf-8")
    with pytest.raises(LandsegError, match=r"report\.html.*--out report_parcels\.gpkg"):
        landseg.parcels(classes, tmp_path / "report.gpkg", overwrite=overwrite)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<html>" and not (tmp_path / "report.gpkg").exists()


def test_a_scene_of_elsewhere_is_refused_before_the_work(tmp_path: Path, classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.verbs.parcels.outline", lambda *_, **__: pytest.fail("hours of work before a refusal"))
    far = Grid(*GRID.shape, Affine(2, 0, 9e5, 0, -2, 4e6), GRID.crs)
    image = write(tmp_path / "far.tif", np.ones((*GRID.shape, 3), np.uint8), far)
    with pytest.raises(LandsegError, match=r"far\.tif: it has no ground where the map lies"):
        landseg.parcels(classes, tmp_path / "p.gpkg", scene=image)
    with pytest.raises(LandsegError, match="no such file"):
        landseg.parcels(classes, tmp_path / "p.gpkg", scene=tmp_path / "none.tif")


def test_the_class_raster_is_not_overwritten(tmp_path: Path, classes: Path) -> None:
    """A GeoPackage may hold a raster."""
    package = classes.rename(classes.with_suffix(".gpkg"))
    with pytest.raises(LandsegError, match=r"class raster itself.*--out scene_parcels\.gpkg"):
        landseg.parcels(package, package, overwrite=True)


@pytest.mark.parametrize("values", [np.full((3, 4), 255, np.uint8), np.zeros((3, 4), np.uint8)], ids=["nothing", "one class"])
def test_a_raster_with_little_in_it_is_no_fault(tmp_path: Path, values: np.ndarray) -> None:
    path = write(tmp_path / "c.tif", values, Grid(3, 4, GRID.transform, GRID.crs), nodata=255)
    made = landseg.parcels(path, tmp_path / "p.gpkg", min_area_m2=1e9, tolerance_m=100)
    assert made.parcels == len(geopandas.read_file(made.out)) == int(values[0, 0] == 0)
    assert made.as_text().splitlines()[0].endswith(f"{made.parcels} parcels, 0.00 ha")


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("p.shp", {}, "its ending is .shp"),
        ("p", {}, "no ending"),
        ("p.gpkg", {"min_area_m2": -1.0}, "--min-area-m2: -1"),
        ("p.gpkg", {"tolerance_m": float("nan")}, "--tolerance-m: nan"),
        ("maps.gpkg", {}, "it is a folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(
    tmp_path: Path, classes: Path, out: str, options: dict[str, float], words: str
) -> None:
    (tmp_path / "maps.gpkg").mkdir()
    classes.unlink()
    with pytest.raises(LandsegError, match=words):
        landseg.parcels(classes, tmp_path / out, **options)


def test_a_missing_raster_and_a_place_that_takes_no_file_are_told(tmp_path: Path, classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.verbs.parcels.outline", lambda *_, **__: pytest.fail("hours of work before a refusal"))
    with pytest.raises(LandsegError, match="no such file"):
        landseg.parcels(tmp_path / "none.tif", tmp_path / "new" / "p.gpkg")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LandsegError, match="cannot be written"):
        landseg.parcels(classes, tmp_path / "file" / "p.gpkg")


def planted(folder: Path, noise: float = 0.8) -> tuple[Path, Path]:
    """Touching fields and other land, as a network maps them that has learnt their boundaries; and the planted fields.

    Args:
        folder: Where ``s_classes.tif``, ``s_probabilities.tif`` and ``truth.geojson`` go.
        noise: Of the logits; with 0.8 a tenth of the borders' pixels are taken for a field.
    """
    rng, size = np.random.default_rng(5), 160
    seats = rng.uniform(0, size, (40, 2))
    owner = np.abs(np.indices((size, size))[:, :, :, None] - seats.T[:, None, None]).max(0).argmin(2)
    owner[rng.random(len(seats))[owner] < 0.2] = len(seats)  # one land that is no field
    border = np.zeros((size, size), np.uint8)
    border[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    border[1:] |= owner[1:] != owner[:-1]
    far = cv2.distanceTransform(1 - border, cv2.DIST_L2, cv2.DIST_MASK_5)
    is_field = np.where(owner < len(seats), 2.0, -2.0)
    logits = np.stack([-is_field, is_field, 3.5 - 3 * np.minimum(far, 3)])
    rough = rng.standard_normal(logits.shape)
    logits += noise * np.stack([cv2.GaussianBlur(part, (0, 0), 2) * 6 for part in rough])
    probs = np.exp(logits) / np.exp(logits).sum(0)
    grid = Grid(size, size, GRID.transform, GRID.crs)
    names = ["other", "field", "boundary"]
    path = write(folder / "s_classes.tif", probs.argmax(0).astype(np.uint8), grid, nodata=255, names=names)
    beside = write(folder / "s_probabilities.tif", np.rint(np.moveaxis(probs, 0, 2) * 200).astype(np.uint8), grid, nodata=255)
    with rasterio.open(beside, "r+") as dataset:
        dataset.descriptions = names
    fields = [shapely.geometry.shape(item) for item, _ in shapes(owner.astype(np.int32), owner < len(seats), transform=grid.transform)]
    truth = geopandas.GeoDataFrame({"class_name": ["field"] * len(fields)}, geometry=fields, crs=grid.crs)
    truth.to_file(folder / "truth.geojson")
    return path, folder / "truth.geojson"


def test_fields_kept_apart_by_a_boundary_are_found_better_than_its_gaps_let_them(tmp_path: Path) -> None:
    path, truth = planted(tmp_path)
    scores = {}
    for way, instances in (("plain", None), ("pixels", "boundary"), ("probabilities", "boundary")):
        hidden = tmp_path / "s_probabilities.tif.away"
        if way == "pixels":
            (tmp_path / "s_probabilities.tif").rename(hidden)
        elif hidden.exists():
            hidden.rename(tmp_path / "s_probabilities.tif")
        made = landseg.parcels(path, tmp_path / f"{way}.gpkg", min_area_m2=100, instances=instances)
        scores[way] = landseg.evaluate(made.out, against=truth).objects.classes["field"]["f1"]
    assert scores["plain"] < 0.4 and min(scores["pixels"], scores["probabilities"]) > 0.8, scores


def test_what_the_boundary_did_is_said(tmp_path: Path, classes: Path) -> None:
    made = landseg.parcels(classes, tmp_path / "p.gpkg", instances="water")
    assert made.as_json()["instances"] == {"class": "water", "probabilities": None, "dissolved_pixels": 50, "left_pixels": 0}
    assert made.area_m2["water"] == 0 and sum(made.area_m2.values()) == pytest.approx(4202.4 + 0.96, rel=1e-3)
    assert "kept apart by water, by its pixels (no probabilities lie beside the map): 50 pixels of it" in made.as_text()
    assert "kept apart by water, by its pixels" in made.page.read_text(encoding="utf-8")
    layer = geopandas.read_file(made.out)
    assert set(layer.class_name) == {"field", "building"} and layer.area.sum() == 35 * 30 * 4
    assert "instances" not in landseg.parcels(classes, tmp_path / "q.gpkg").as_json()


def test_the_command_names_the_boundary_or_another_class(tmp_path: Path, classes: Path) -> None:
    call = ["parcels", str(classes), "--out", str(tmp_path / "p.gpkg"), "--json", "--instances"]
    answer = CliRunner().invoke(main, [*call, "water"])
    assert answer.exit_code == 0 and json.loads(answer.stdout)["instances"]["class"] == "water"
    refused = CliRunner().invoke(main, [*call, "--overwrite"])
    assert refused.exit_code == 2 and "no class is named boundary, one of building, field, water" in refused.stderr
    shown = " ".join(CliRunner().invoke(main, ["parcels", "--help"]).stdout.split())
    assert "write it after CLASSES.tif" in shown, "of `--instances CLASSES.tif` the raster would be the class"


def test_a_class_that_is_not_there_is_refused_before_the_work(tmp_path: Path, classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.verbs.parcels.outline", lambda *_, **__: pytest.fail("hours of work before a refusal"))
    with pytest.raises(LandsegError, match="no class is named hedge"):
        landseg.parcels(classes, tmp_path / "new" / "p.gpkg", instances="hedge")
    assert not (tmp_path / "new").exists()
