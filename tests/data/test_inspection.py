"""One decoding tells the facts of a tile, and what is wrong with its files is a fact like others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from landseg.core.classes import make_classes
from landseg.data.inspection import AS_THEY_STAND, ENDINGS, Inspector, TileFacts, blended, class_colours, container_of
from landseg.data.labels import LabelRules, label_rules
from landseg.data.nodata import nodata_areas
from landseg.data.tally import BandTally
from landseg.data.tiles import SUFFIXES
from landseg.data.world import make_scene

CLASSES = make_classes(["a", "b", "c"])


def inspect(folder: Path, rules: LabelRules | None = None, image: str = "image.png", label: str | None = "label.png") -> TileFacts:
    inspector = Inspector(rules or label_rules(CLASSES), two_classes=True)
    return inspector.inspect("t", folder / image, folder / label if label else None, BandTally)


def write(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels)


def ground(side: int = 64) -> np.ndarray:
    return make_scene(3, side, side).image.clip(10, 240)


def test_a_good_pair(tmp_path: Path) -> None:
    label = np.zeros((64, 64), np.uint8)
    label[:32], label[60:] = 2, 255
    write(tmp_path / "image.png", ground())
    write(tmp_path / "label.png", label)
    facts = inspect(tmp_path)
    assert facts.image and facts.label
    assert (facts.image.size, facts.image.bands, facts.image.dtype, facts.image.is_flat) == ((64, 64), 3, "uint8", False)
    assert facts.label.pixels == {0: 28 * 64, 2: 32 * 64, 255: 4 * 64}
    assert (facts.label.illegal, facts.label.nodata, facts.label.blended, facts.label.palette) == ({}, {}, "no", {})
    assert facts.label.labelled == 60 * 64
    assert (facts.image_container, facts.label_container, facts.image_fault, facts.label_fault) == ("PNG", "PNG", "", "")


def test_faults_of_files_are_facts(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    (tmp_path / "label.png").write_bytes(b"\x89PNG\r\n\x1a\n half of it")
    facts = inspect(tmp_path)
    assert facts.image is None and facts.label is None
    assert facts.image_fault == "the file is empty" and facts.label_fault
    assert inspect(tmp_path, label=None).label_path is None
    assert "No such file" in inspect(tmp_path, image="gone.png").image_fault


def test_a_tiff_with_transparency_and_one_with_infrared(tmp_path: Path) -> None:
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:40] = 255
    write(tmp_path / "alpha.tif", np.dstack([ground(), alpha]))
    write(tmp_path / "nir.tif", np.dstack([ground(), ground()[:, :, 1]]))
    found = [inspect(tmp_path, image=name, label=None).image for name in ("alpha.tif", "nir.tif")]
    assert [(image.bands, image.has_alpha) for image in found if image] == [(4, True), (4, False)]


def test_every_ending_of_a_tile_belongs_to_a_container() -> None:
    assert {ending for endings in ENDINGS.values() for ending in endings} == SUFFIXES


def test_a_label_in_colours_is_told_from_a_photograph(tmp_path: Path) -> None:
    write(tmp_path / "image.png", ground())
    painted = np.zeros((64, 64, 3), np.uint8)
    painted[:16] = (255, 0, 0)  # OpenCV's blue
    write(tmp_path / "label.png", painted)
    assert inspect(tmp_path).colours == {"#000000": 48 * 64, "#0000ff": 16 * 64}
    write(tmp_path / "label.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert inspect(tmp_path).colours is None and inspect(tmp_path).label_fault


def test_codes_without_classes_stand_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "image.png", ground())
    write(tmp_path / "label.png", np.repeat(np.array([7, 300, 255, 0], np.uint16), 1024).reshape(64, 64))
    facts = inspect(tmp_path, AS_THEY_STAND)
    assert facts.label and facts.label.pixels == {7: 1024, 300: 1024, 255: 1024, 0: 1024} and not facts.label.illegal
    named = inspect(tmp_path).label
    assert named and named.illegal == {7: 1024, 300: 1024} and named.dtype == "uint16"


def test_a_palette_is_that_of_the_codes_that_occur(tmp_path: Path) -> None:
    write(tmp_path / "image.png", ground())
    picture = Image.fromarray(np.repeat(np.array([0, 2], np.uint8), 2048).reshape(64, 64)).convert("P")
    picture.putpalette([10, 20, 30, 1, 1, 1, 40, 50, 60])
    picture.save(tmp_path / "label.png")
    facts = inspect(tmp_path)
    assert facts.label and facts.label.palette == {0: "#0a141e", 2: "#28323c"}


@pytest.mark.parametrize(("kind", "value"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_labels_under_nodata_are_counted(tmp_path: Path, kind: str, value: int, suffix: str) -> None:
    image = ground(128)
    image[:, :48] = value
    write(tmp_path / f"image{suffix}", image)
    label = np.ones((128, 128), np.uint8)
    label[:64, :48] = 255
    write(tmp_path / "label.png", label)
    facts = inspect(tmp_path, image=f"image{suffix}")
    assert facts.label and set(facts.label.nodata) == {kind}
    # JPEG smears a few columns of the border.
    assert facts.label.nodata[kind] == pytest.approx(64 * 48, rel=0.2 if suffix == ".jpg" else 0)


def test_what_fades_into_black_is_dark_ground() -> None:
    row, col = np.mgrid[:128, :128]
    lake = np.clip(np.hypot(row - 64, col) / 2 - 20, 0, 255).astype(np.uint8)
    image = np.repeat(lake[:, :, None], 3, axis=2)
    assert (lake == 0).mean() > 0.1
    assert nodata_areas(image, None, None) == {}
    image[(lake > 0).nonzero()] = 90
    assert set(nodata_areas(image, None, None)) == {"black"}


def test_nan_transparency_and_fill_values_are_nodata(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((64, 64, 2)).astype(np.float32)
    image[:20] = np.nan
    assert nodata_areas(image, None, None)["NaN"].sum() == 20 * 64
    deep = np.random.default_rng(0).integers(50, 4000, (64, 64, 4)).astype(np.int16)
    deep[:20] = -9999
    assert nodata_areas(deep, None, None)["fill"].sum() == 20 * 64
    write(tmp_path / "image.png", np.dstack([ground(), np.repeat([0, 255], 2048).astype(np.uint8).reshape(64, 64)]))
    write(tmp_path / "label.png", np.zeros((64, 64), np.uint8))
    facts = inspect(tmp_path)
    assert facts.image and (facts.image.bands, facts.image.transparent) == (3, 2048)
    assert facts.label and facts.label.nodata == {"transparent": 2048}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_interpolated_labels_are_told_from_clean_ones(seed: int) -> None:
    label = make_scene(seed, 256, 256).truth
    small = cv2.resize(label, (128, 128), interpolation=cv2.INTER_NEAREST)
    assert blended(label) == blended(small) == "no"
    assert blended(cv2.resize(small, (256, 256), interpolation=cv2.INTER_LINEAR)) == "surely"
    assert blended(cv2.resize(small, (200, 200), interpolation=cv2.INTER_CUBIC)) == "surely"
    assert blended(label[:1]) == blended(label[:, :1]) == "no"


def test_a_strip_of_another_class_along_houses_is_no_interpolation() -> None:
    label = np.ones((64, 64), np.uint8)
    label[:, ::8], label[:, 1::8], label[:, 2::8] = 0, 1, 2
    assert blended(label) == "perhaps"  # one kind of border alone


def test_colours_of_classes() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:10], image[10:] = (10, 20, 30), 200
    ids = np.zeros((20, 20), np.uint8)
    ids[10:], ids[0, 0] = 2, 1
    found = class_colours(image, ids, 4)
    assert found[0].tolist() == [10, 20, 30] and found[2].tolist() == [200, 200, 200]
    assert np.isnan(found[[1, 3]]).all()  # one pixel is no colour


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"II*\0", "TIFF"), (b"\x93NUMPY", "NumPy"), (b"GIF8", ""), (b"", "")],
)
def test_containers_are_known_by_content(data: bytes, name: str) -> None:
    assert container_of(data) == name


def test_of_many_unknown_colours_the_most_frequent_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "image.png", ground())
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, :, 0] = np.arange(64)[:, None]
    colours[:20, 32:] = 9, 0, 9
    write(tmp_path / "label.png", colours)
    label = inspect(tmp_path, label_rules(make_classes(["a"], ["#ff0000"]), encoding="rgb")).label
    assert label and len(label.illegal) <= 17 and label.illegal["#090009"] == 20 * 32
    assert sum(label.illegal.values()) == 64 * 64
    painted = inspect(tmp_path, label_rules(make_classes(["a"]), encoding="index")).colours
    assert painted and len(painted) == 16 and painted["#090009"] == 20 * 32
