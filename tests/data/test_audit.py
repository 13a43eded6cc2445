"""An audit finds what was planted into a landscape, counts it right, and finds nothing in one that is clean."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.core.files import write_bytes
from landseg.data.audit import Audit, Subject, audit_tiles
from landseg.data.audit_page import write_page
from landseg.data.labels import label_rules
from landseg.data.spoil import KINDS, spoil
from landseg.data.tiles import decode_codes, encode_image
from landseg.data.world import CLASSES, write_tiles

FOUND_AS = {
    "orphan image": "missing_label", "orphan label": "missing_image", "truncated image": "unreadable_image",
    "truncated label": "unreadable_label", "empty image": "unreadable_image", "text image": "unreadable_image",
    "lying ending": "lying_ending", "illegal value": "illegal_labels", "unlabelled": "unlabelled", "copy": "duplicates",
    "turned copy": "duplicates", "copy with other label": "duplicate_labels_differ", "label off by one pixel": "label_size_off_by_one",
    "label of half size": "label_size", "white nodata": "labels_under_nodata", "black nodata": "labels_under_nodata",
    "inverted": "inverted_labels", "interpolated label": "interpolated_labels", "jpeg label": "jpeg_labels",
    "ids from one": "off_by_one_ids", "other palette": "palettes_differ", "flat image": "flat_images", "grey image": "band_kind",
    "deep image": "band_kind",
}  # fmt: skip
COPIES = ("copy", "turned copy", "copy with other label")
TILES = 48


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("world"), 1, TILES)


def subject(folder: Path, names: tuple[str, ...] = ()) -> Subject:
    classes = make_classes(names) if names else CLASSES
    images, labels = ({path.stem: path for path in sorted((folder / part).iterdir())} for part in ("images", "labels"))
    return Subject("world", images, labels, classes, ("red", "green", "blue"), label_rules(classes))


def kinds(audit: Audit) -> set[str]:
    return {problem.kind for problem in audit.problems}


def test_every_fault_that_can_be_planted_is_looked_for() -> None:
    assert set(FOUND_AS) == set(KINDS) - {"usual palette"}


def test_a_clean_world_is_clean_and_its_numbers_are_right(world: Path) -> None:
    audit = audit_tiles(subject(world))
    assert audit.faults == () and audit.copies == ()
    labels = np.stack([decode_codes(path.read_bytes()) for path in sorted((world / "labels").iterdir())])
    document = audit.as_json()
    assert (document["images"], document["pairs"], document["orphans"], document["unreadable"]) == (TILES, TILES, [], [])
    assert document["labelled_share"] == pytest.approx((labels != 255).mean(), abs=1e-6)
    assert document["unlabelled_tiles"] == int((labels == 255).all((1, 2)).sum())
    for item in CLASSES:
        assert document["class_share"][item.name] == pytest.approx((labels == item.id).sum() / (labels != 255).sum(), abs=1e-6)
        assert document["class_tiles"][item.name] == int((labels == item.id).any((1, 2)).sum())
    assert (document["sizes"], document["dtypes"], document["formats"]) == ({"64 × 64": TILES}, {"uint8": TILES}, {"PNG": TILES})
    assert [band["name"] for band in document["bands"]] == ["red", "green", "blue"] and document["is_clean"]


@pytest.mark.parametrize("kind", FOUND_AS)
def test_what_is_planted_is_found_and_named(world: Path, tmp_path: Path, kind: str) -> None:
    folder, names = tmp_path / "set", ()
    shutil.copytree(world, folder)
    if kind == "inverted":
        names = ("background", "field")
        for path in (folder / "labels").iterdir():
            codes = decode_codes(path.read_bytes())
            write_bytes(path, encode_image(np.where(codes == 255, 255, codes == 3).astype(np.uint8)))
    if kind == "other palette":
        spoil(folder, "usual palette", count=TILES)
    before = kinds(audit_tiles(subject(folder, names)))
    planted = spoil(folder, kind, count=3)
    audit = audit_tiles(subject(folder, names))
    new = {problem.kind: problem.tiles for problem in audit.problems if problem.kind not in before or problem.kind == FOUND_AS[kind]}
    had = () if FOUND_AS[kind] not in before else tuple(set(new[FOUND_AS[kind]]) - set(planted))
    if kind in COPIES:
        assert len(audit.copies) == 3
        assert {name for group in audit.copies for name in group.tiles if name.startswith("x")} == set(planted)
        assert all(group.is_exact and group.labels_differ == (kind == "copy with other label") for group in audit.copies)
        assert set(new) <= {"duplicates", "duplicate_labels_differ"}
    else:
        assert set(new) == {FOUND_AS[kind]}
        assert set(new[FOUND_AS[kind]]) - set(had) == set(planted)
    assert FOUND_AS[kind] in new


def test_illegal_values_are_counted_to_the_pixel(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(world, folder)
    label = folder / "labels" / "tile_0007.png"
    codes = decode_codes(label.read_bytes()).copy()
    codes[3:5, :7] = 99
    write_bytes(label, encode_image(codes))
    entry = audit_tiles(subject(folder)).as_json()["illegal_labels"]
    assert entry == [{"value": 99, "pixels": 14, "tiles": 1, "files": ["tile_0007.png"]}]


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (4, "uint16"), (8, "float32")])
def test_any_bands_and_any_dtype(tmp_path: Path, bands: int, dtype: str) -> None:
    write_tiles(tmp_path, 2, 6, bands=bands, dtype=dtype)
    audit = audit_tiles(subject(tmp_path))
    assert audit.faults == ()
    assert list(audit.bands) == [(bands, dtype)] and len(audit.as_json()["bands"]) == bands
    assert write_page(tmp_path / "page.html", audit).stat().st_size < 3_000_000


def test_a_set_without_labels_or_without_classes(world: Path) -> None:
    whole = subject(world)
    alone = audit_tiles(Subject("alone", whole.images, None))
    assert alone.faults == () and alone.as_json()["pairs"] == 0 and alone.as_json()["class_share"] == {}
    unnamed = audit_tiles(Subject("unnamed", whole.images, whole.labels))
    assert unnamed.faults == () and set(unnamed.as_json()["class_share"]) == {"0", "1", "2", "3", "4"}


def test_only_where_nothing_can_be_looked_at_is_it_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(LandsegError, match="no picture is in it"):
        audit_tiles(Subject("x", {"a": tmp_path / "a.png"}, None))
    with pytest.raises(LandsegError, match="no images"):
        audit_tiles(Subject("x", {}, None))


def test_the_page_stands_alone_and_shows_problems(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(world, folder)
    for kind in ("copy with other label", "illegal value", "label of half size", "orphan label", "truncated image"):
        spoil(folder, kind, count=9)
    audit = audit_tiles(subject(folder))
    page = write_page(tmp_path / "audit.html", audit).read_text(encoding="utf-8")
    assert page.count("<img") > 30 and "http" not in page.replace("http-equiv", "") and "<script" not in page
    for problem in audit.problems:
        assert problem.title in page
    assert page == write_page(tmp_path / "again.html", audit).read_text(encoding="utf-8")
    assert len(page) < 3_000_000
