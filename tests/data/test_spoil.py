"""Every fault that can be planted is found by the audit, named and counted right, and nothing else is reported."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from landseg.core.classes import IGNORE_INDEX, make_classes
from landseg.core.errors import LandsegError
from landseg.data.dataset import DatasetInfo, write_info
from landseg.data.spoil import KINDS
from landseg.data.world import CLASSES, spoil, write_tiles
from landseg.verbs.audit import audit

FOUND_AS: dict[str, set[str]] = {
    "orphan image": {"missing_label"},
    "orphan label": {"missing_image"},
    "truncated image": {"unreadable_image"},
    "truncated label": {"unreadable_label"},
    "empty image": {"unreadable_image"},
    "text image": {"unreadable_image"},
    "lying ending": {"lying_ending"},
    "illegal value": {"illegal_labels"},
    "unlabelled": {"unlabelled"},
    "copy": {"duplicates"},
    "turned copy": {"duplicates"},
    "copy with other label": {"duplicates", "duplicate_labels_differ"},
    "label off by one pixel": {"label_size_off_by_one"},
    "label of half size": {"label_size"},
    "white nodata": {"labels_under_nodata"},
    "black nodata": {"labels_under_nodata"},
    "inverted": {"inverted_labels"},
    "interpolated label": {"interpolated_labels"},
    "jpeg label": {"jpeg_labels"},
    "ids from one": {"off_by_one_ids"},
    "usual palette": set(),
    "other palette": {"palettes_differ"},
    "flat image": {"flat_images"},
    "grey image": {"band_kind"},
    "deep image": {"band_kind"},
}


def _tiles(folder: Path, kind: str) -> Path:
    """A clean world of 40 tiles, made so that the fault can be one."""
    write_tiles(folder, 1, 40, 128)
    classes = CLASSES
    if kind == "inverted":
        classes = make_classes(["background", "forest"])
        for path in (folder / "labels").iterdir():
            label = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(path), np.where(label == IGNORE_INDEX, label, label == 2))
    if kind == "other palette":
        spoil(folder, "usual palette", count=40)
    write_info(folder, DatasetInfo(name="spoilt", classes=classes))
    return folder


def test_every_fault_has_its_problem() -> None:
    assert set(FOUND_AS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_found_named_and_counted(kind: str, tmp_path: Path) -> None:
    folder = _tiles(tmp_path, kind)
    planted = spoil(folder, kind, count=3, seed=3)
    document = audit(folder).as_json()
    problems = {problem["kind"]: problem for problem in document["problems"]}
    assert set(problems) == FOUND_AS[kind]
    for name, problem in problems.items():
        assert problem["what"] and problem["do"]
        if name.startswith("duplicate"):
            # Named with the tile that they are a copy of.
            assert set(planted) <= set(problem["tiles"]) and problem["count"] == 6
        else:
            assert tuple(sorted(problem["tiles"])) == planted and problem["count"] == 3
    if kind.endswith("copy"):
        assert sorted(len(group["tiles"]) for group in document["duplicates"]) == [2, 2, 2]


def test_a_clean_world_gives_no_alarm(tmp_path: Path) -> None:
    assert audit(_tiles(tmp_path, "")).as_json()["problems"] == []


def test_the_same_seed_spoils_the_same_tiles(tmp_path: Path) -> None:
    sets = [write_tiles(tmp_path / name, 2, 6, 32) for name in "ab"]
    assert spoil(sets[0], "illegal value", count=2, seed=5) == spoil(sets[1], "illegal value", count=2, seed=5)
    files = [{path.name: path.read_bytes() for path in sorted((folder / "labels").iterdir())} for folder in sets]
    assert files[0] == files[1]


def test_what_cannot_be_planted_is_refused(tmp_path: Path) -> None:
    folder = write_tiles(tmp_path, 2, 2, 32)
    with pytest.raises(LandsegError, match="orphan image"):
        spoil(folder, "rust")
    with pytest.raises(LandsegError, match="1 to 2"):
        spoil(folder, "copy", count=3)
