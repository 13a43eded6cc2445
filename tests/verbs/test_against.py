"""`landseg evaluate MAP --against`: every kind of map against every kind of reference, gates, the layer it writes, wrong mixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from rasterio.crs import CRS
from sklearn.metrics import jaccard_score

import landseg
from landseg.cli import main
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data.raster import write
from landseg.verbs.against import ScoredMap

GRID = Grid(60, 80, Affine(2, 0, 5e5, 0, -2, 4e6), CRS.from_epsg(32650))
NAMES = ["field", "house", "pond"]
KIND = ["score.class_column=kind"]
HOUSES = [(5, 5, 8, 8), (5, 40, 10, 6), (30, 10, 6, 12), (40, 50, 12, 12), (20, 60, 7, 7)]


def painted(shift: int = 0) -> np.ndarray:
    """Houses on a field, a pond, and a corner of nodata."""
    values = np.zeros(GRID.shape, np.uint8)
    values[22:30, 30:50] = 2
    for row, col, height, width in HOUSES:
        values[row : row + height, col + shift : col + shift + width] = 1
    values[50:, :20] = 255
    return values


def raster(path: Path, values: np.ndarray, names: list[str] | None = NAMES, grid: Grid = GRID) -> Path:
    return write(path, values, grid, nodata=255, names=names)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return raster(tmp_path / "truth.tif", painted())


@pytest.fixture
def footprints(tmp_path: Path) -> Path:
    boxes = [shapely.box(5e5 + 2 * c, 4e6 - 2 * (r + h), 5e5 + 2 * (c + w), 4e6 - 2 * r) for r, c, h, w in HOUSES]
    frame = geopandas.GeoDataFrame({"kind": ["House"] * 5}, geometry=boxes, crs=32650)
    frame.to_crs(4326).to_file(tmp_path / "footprints.geojson")
    return tmp_path / "footprints.geojson"


def evaluate(*paths: object, **options: Any) -> ScoredMap:
    return landseg.evaluate(*map(str, paths), **options)  # type: ignore[call-overload, no-any-return]


def table(found: ScoredMap) -> dict[str, Any]:
    document = json.loads(json.dumps(found.as_json()))
    return {key: document[key] for key in ("classes", "intervals", "left_out")}


def test_a_raster_and_its_parcels_in_every_format_score_alike(tmp_path: Path, truth: Path) -> None:
    shifted = raster(tmp_path / "map.tif", painted(shift=1))
    wanted = table(evaluate(shifted, against=truth, settings=["score.tolerance_m=3"]))
    assert wanted["classes"]["house"]["f1"] == 1 and 0.5 < wanted["classes"]["house"]["sq"] < 0.9
    for ending in (".gpkg", ".parquet", ".fgb"):
        ours, theirs = (
            landseg.parcels(path, tmp_path / ending[1:] / f"{path.stem}_p{ending}", overwrite=True).out for path in (shifted, truth)
        )
        for pair in ((ours, truth), (shifted, theirs), (ours, theirs)):
            found = table(evaluate(pair[0], against=pair[1], settings=["score.tolerance_m=3"]))
            assert found["left_out"] == wanted["left_out"]
            for name, values in wanted["classes"].items():
                assert found["classes"][name] == pytest.approx(values, abs=1e-6)


def test_a_map_against_itself_is_perfect(truth: Path) -> None:
    found = evaluate(truth, against=truth)
    assert found.objects is not None and found.pixels is not None
    assert found.objects.counts["house"] == {"matched": 5, "missed": 0, "extra": 0, "map_objects": 5, "reference_objects": 5}
    assert found.objects.overall["pq"] == found.objects.overall["boundary_f1"] == found.pixels.miou == pytest.approx(1)
    assert found.objects.tolerance_m == pytest.approx(4, rel=1e-3), "two pixels"


def test_footprints_of_another_crs_are_those_of_the_map(truth: Path, footprints: Path) -> None:
    found = evaluate(truth, against=footprints, settings=KIND)
    assert list(found.objects.classes if found.objects else []) == ["house"]
    assert found.value("f1") == 1 and found.value("pq/house") == pytest.approx(1, abs=1e-3)
    assert found.unmatched == {"map": ("field", "pond"), "reference": ()} and found.pixels is None
    single = evaluate(truth, against=footprints, settings=["score.only=house"])
    assert single.value("f1") == 1 and any("no class column: its 5 objects are taken for house" in note for note in single.notes)
    with pytest.raises(LandsegError, match=r"no class column.*score\.class_column"):
        evaluate(truth, against=footprints)


def test_a_field_in_two_halves_has_no_partner_in_any_crs(tmp_path: Path) -> None:
    """In web Mercator the northern half is the smaller one by a hair, and the southern one no match for that."""
    field = geopandas.GeoDataFrame(geometry=[shapely.box(0, 8e6, 400, 8e6 + 400)], crs=3857)
    halves = geopandas.GeoDataFrame(geometry=[shapely.box(0, 8e6, 400, 8e6 + 200), shapely.box(0, 8e6 + 200, 400, 8e6 + 400)], crs=3857)
    for frame, name in ((field, "field.gpkg"), (halves, "halves.gpkg")):
        frame.to_file(tmp_path / name)
    found = evaluate(tmp_path / "halves.gpkg", against=tmp_path / "field.gpkg").as_json()
    assert found["f1"] == 0 and found["over_segmentation"] == pytest.approx(0.5, abs=1e-4) and found["under_segmentation"] < 1e-9
    assert list(found["classes"]) == ["object"] and found["tolerance_m"] == 1


def test_houses_that_touch_in_the_map_are_one(tmp_path: Path, footprints: Path) -> None:
    values = painted()
    values[6:8, 13:40] = 1  # a bridge between two of the houses
    found = evaluate(raster(tmp_path / "m.tif", values), against=footprints, settings=KIND)
    assert found.objects is not None and found.objects.counts["house"]["matched"] < 5
    assert (found.value("f1") or 0) < 1 and (found.objects.overall["under_segmentation"] or 0) > 0.05


def test_pixels_of_two_rasters_are_scored_beside_their_objects(tmp_path: Path, truth: Path) -> None:
    ours = painted(shift=2)
    ours[0, 0] = 255
    found = evaluate(raster(tmp_path / "map.tif", ours), against=truth)
    document = json.loads(json.dumps(found.as_json()))
    valid = (ours != 255) & (painted() != 255)
    iou = jaccard_score(painted()[valid], ours[valid], average=None)
    assert [document["iou"][name] for name in NAMES] == pytest.approx(list(iou)) and document["miou"] == pytest.approx(iou.mean())
    assert document["pixels"]["pixels"] == valid.sum() == np.sum(document["confusion"]) and document["pixels"]["intervals"]["miou"]
    assert document["f1"] == found.value("f1") and isinstance(document["pixels"]["f1"], dict)
    assert "mIoU" in found.as_text() and "all objects" in found.as_text()
    alone = evaluate(tmp_path / "map.tif", against=truth, settings=["score.objects=false"])
    assert alone.objects is None and alone.as_json()["miou"] == document["miou"] and "all objects" not in alone.as_text()
    assert alone.unmatched == {"map": (), "reference": ()} and alone.notes == ()


def test_pixels_alone_name_the_classes_of_one_side_only(tmp_path: Path, truth: Path) -> None:
    road = raster(tmp_path / "road.tif", painted(), ["field", "house", "road"])  # where the reference has a pond
    found = evaluate(road, against=truth, settings=["score.objects=false"])
    assert found.objects is None and found.unmatched == {"map": ("road",), "reference": ("pond",)}
    assert (
        found.as_json()["unmatched_classes"]
        == {"map": ["road"], "reference": ["pond"]}
        == {side: list(names) for side, names in evaluate(road, against=truth).unmatched.items()}
    ), "as with objects"
    assert found.notes == (
        "not in the reference, so that all their pixels are wrong: road", "not in the map, so that all their pixels are missed: pond"
    )  # fmt: skip
    assert found.as_text().endswith("\n".join(found.notes)) and found.pixels is not None and found.pixels.iou == {
        "field": 1.0, "house": 1.0, "pond": 0.0, "road": 0.0
    }  # fmt: skip
    few = evaluate(road, against=truth, settings=["score.objects=false", "score.classes=[field]"])
    assert few.notes == ("not in the reference, and score.classes does not name them: their pixels are left out: road",)
    assert few.pixels is not None and few.pixels.iou == {"field": 1.0}


def test_labels_without_names_are_matched_by_number(tmp_path: Path, truth: Path) -> None:
    plain = raster(tmp_path / "plain.tif", painted(), None)
    found = evaluate(truth, against=plain)
    assert found.value("miou") == 1 and list(found.pixels.iou if found.pixels else []) == NAMES


def test_classes_of_a_map_that_differ_by_their_case_are_one(tmp_path: Path, truth: Path) -> None:
    values = painted()
    values[:, 40:][values[:, 40:] == 0] = 3
    found = evaluate(raster(tmp_path / "m.tif", values, [*NAMES, "Field"]), against=truth)
    assert found.value("miou") == 1 and found.unmatched == {"map": (), "reference": ()}
    assert found.objects is not None and found.objects.counts["field"]["map_objects"] > found.objects.counts["field"]["reference_objects"]


def test_gates_end_with_what_was_found(tmp_path: Path, truth: Path) -> None:
    shifted = raster(tmp_path / "map.tif", painted(shift=2))
    assert evaluate(shifted, against=truth, require="f1/house=0.8").value("f1/house") == 0.8
    for gate in ("pq/house=0.95", "boundary_f1=0.999", "miou=0.99", "iou/house=0.99"):
        with pytest.raises(LandsegError) as caught:
            evaluate(shifted, against=truth, settings=["score.tolerance_m=1"], require=gate)
        assert caught.value.is_gate and caught.value.result is not None
    for gate, words in (("f1", "least value"), ("size=1", "least value"), ("f1/road=0.5", "classes field, house, pond")):
        with pytest.raises(LandsegError, match=words) as caught:
            evaluate(shifted, against=truth, require=gate)
        assert not caught.value.is_gate
    done = CliRunner().invoke(main, ["evaluate", str(shifted), "--against", str(truth), "--require", "pq=0.99", "--json"])
    assert done.exit_code == 3 and json.loads(done.stdout)["pq"] < 0.99
    done = CliRunner().invoke(main, ["evaluate", str(shifted), "--against", str(truth), "--set", "score.tolerance_m=2.5"])
    assert done.exit_code == 0 and "outlines within 2.5 m" in done.stdout


def test_the_layer_says_what_became_of_each_object(tmp_path: Path, footprints: Path) -> None:
    values = painted()
    values[5:13, 5:13], values[45:48, 40:43] = 0, 1  # one house missed, one invented
    found = evaluate(raster(tmp_path / "m.tif", values), against=footprints, settings=KIND, out=tmp_path / "out")
    assert found.out == tmp_path / "out" / "objects.gpkg" and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "objects.gpkg", "scores.json",
    ]  # fmt: skip
    ours, theirs = (geopandas.read_file(found.out, layer=layer) for layer in ("map", "reference"))
    assert sorted(ours.result) == ["extra", *["matched"] * 4] and sorted(theirs.result) == [*["matched"] * 4, "missed"]
    assert set(ours.class_name) == {"house"} and ours.crs.to_epsg() == 32650 and theirs.crs.to_epsg() == 4326
    assert ours[ours.result == "matched"].iou.min() > 0.99 and ours[ours.result == "extra"].iou.isna().all()
    assert ours[ours.result == "extra"].area.tolist() == [36]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["missed"] == 1
    again = evaluate(tmp_path / "m.tif", against=footprints, settings=KIND, out=tmp_path / "out")
    assert len(geopandas.read_file(again.out, layer="map")) == 5


def test_ground_that_a_layer_does_not_know_can_be_said(tmp_path: Path, truth: Path, footprints: Path) -> None:
    district = geopandas.read_file(footprints).iloc[:2]
    district.to_file(tmp_path / "district.gpkg")
    options = {"against": tmp_path / "district.gpkg", "settings": KIND}
    assert evaluate(truth, **options).value("precision") == 0.4
    assert evaluate(truth, **{**options, "settings": [*KIND, "score.reference_extent=bounds"]}).value("precision") == 1


def test_parcels_of_some_classes_are_no_whole_map(tmp_path: Path, truth: Path, footprints: Path) -> None:
    """Were their own area all that they know, nothing could be missed."""
    parcels = geopandas.read_file(landseg.parcels(truth, tmp_path / "p.gpkg").out)
    some = parcels[parcels.class_name == "house"].iloc[:2]
    some.to_file(tmp_path / "some.gpkg")
    assert evaluate(tmp_path / "some.gpkg", against=footprints, settings=KIND).value("recall") == 0.4


def test_empty_maps_and_references(tmp_path: Path, truth: Path) -> None:
    nothing = raster(tmp_path / "nothing.tif", np.full(GRID.shape, 255, np.uint8))
    layer = landseg.parcels(nothing, tmp_path / "none.gpkg").out
    missed, extra = evaluate(layer, against=truth), evaluate(truth, against=layer)
    assert missed.value("recall") == 0 and missed.value("precision") is None
    assert extra.value("precision") == 0 and extra.value("recall") is None and extra.as_json()["extra"] == 7
    assert evaluate(layer, against=layer).value("f1") is None
    with pytest.raises(LandsegError, match="no pixel"):
        evaluate(nothing, against=truth)


def test_wrong_mixtures_are_one_clear_line(tmp_path: Path, truth: Path, footprints: Path) -> None:
    far = geopandas.read_file(footprints).set_crs(4326, allow_override=True).translate(10)
    geopandas.GeoDataFrame({"kind": ["house"] * 5}, geometry=far, crs=4326).to_file(tmp_path / "far.gpkg")
    (tmp_path / "data").mkdir()
    for words, wanted in (
        ([truth], "to score a map: landseg evaluate"),
        ([truth, footprints], "--against"),
        (["run"], "DATA: it is not named"),
        ([truth, truth, "--against", truth], "one map"),
        ([tmp_path / "data", "--against", truth], "it is a folder"),
        ([truth, "--against", tmp_path / "data"], "cannot be read"),
        ([truth, "--against", truth, "--split", "a"], "--split: a with --against"),
        ([truth, "--against", truth, "--part", "test"], "--part: test with --against"),
        ([truth, "--against", truth, "--tta", "d4"], "--tta: d4 with --against"),
        ([truth, "--against", truth, "--set", "score.tolerance_m=.nan"], "score.tolerance_m"),
        ([truth, "--against", truth, "--set", "score.class_column=kind"], "of two rasters"),
        ([truth, "--against", footprints, "--set", "score.class_column=zone"], "no column zone, one of kind"),
        ([truth, "--against", tmp_path / "far.gpkg", "--set", "score.class_column=kind"], "km from the map"),
        ([truth, "--against", tmp_path / "none.gpkg"], "no such file"),
    ):  # fmt: skip
        done = CliRunner().invoke(main, ["evaluate", *map(str, words)])
        assert done.exit_code == 2 and wanted in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)


def test_what_is_scored_is_not_overwritten(tmp_path: Path, footprints: Path) -> None:
    layer = tmp_path / "objects.gpkg"
    geopandas.read_file(footprints).to_file(layer)
    with pytest.raises(LandsegError, match="it is what is scored"):
        evaluate(layer, against=footprints, settings=KIND, out=tmp_path)


def test_a_layer_of_that_name_that_is_no_result_is_kept(tmp_path: Path, truth: Path, footprints: Path) -> None:
    layer = tmp_path / "mine" / "objects.gpkg"
    layer.parent.mkdir()
    geopandas.read_file(footprints).to_file(layer)
    before = layer.read_bytes()
    with pytest.raises(LandsegError, match="no result of this command"):
        evaluate(truth, against=footprints, settings=KIND, out=layer.parent)
    assert layer.read_bytes() == before


def test_a_raster_of_measurements_is_no_map(tmp_path: Path, truth: Path) -> None:
    with rasterio.open(tmp_path / "f.tif", "w", driver="GTiff", height=2, width=2, count=1, dtype="float32") as file:
        file.write(np.zeros((1, 2, 2), np.float32))
    with pytest.raises(LandsegError, match="values of type float32"):
        evaluate(tmp_path / "f.tif", against=truth)
