"""The table of a split counts tiles, groups and class shares by part, and the document says the same."""

from __future__ import annotations

import numpy as np
import pytest

from landseg.splitting.summary import ALL, summarise

PIXELS = np.array([[10, 0], [10, 0], [0, 20], [10, 10], [0, 0]])


def test_parts_groups_and_shares() -> None:
    found = summarise(["train", "train", "val", "train", ""], ["a", "a", "b", "c", "d"], PIXELS, ["field", "water"])
    assert found.parts == {"train": 3, "val": 1} and found.groups == {"train": 2, "val": 1}
    assert found.buffer == found.as_json()["buffer"] == 1
    assert found.class_share["train"] == {"field": 0.75, "water": 0.25}
    assert found.class_share[ALL] == {"field": 0.5, "water": 0.5}
    assert found.deviation == {"train": pytest.approx(0.25), "val": pytest.approx(0.5)}
    assert set(found.as_json()["class_share"]) == {"train", "val"}


def test_a_tile_in_no_part_does_not_count() -> None:
    pixels = PIXELS.copy()
    pixels[4] = 1000
    found = summarise(["train", "train", "val", "train", ""], ["a", "a", "b", "c", "d"], pixels, ["field", "water"])
    assert found.class_share[ALL] == {"field": 0.5, "water": 0.5}


def test_parts_stand_in_their_order_and_folds_by_number() -> None:
    parts = ["test", "val", "train", "val", "train"]
    assert list(summarise(parts, list("abcde"), PIXELS, ["a", "b"]).parts) == ["train", "val", "test"]
    folds = ["fold 10", "fold 2", "fold 1", "test", "fold 2"]
    assert list(summarise(folds, list("abcde"), PIXELS, ["a", "b"]).parts) == ["fold 1", "fold 2", "fold 10", "test"]


def test_the_table_has_a_line_a_part_and_one_for_all() -> None:
    lines = summarise(["train", "train", "val", "train", "train"], list("aabcd"), PIXELS, ["field", "耕地 farmland"]).as_text().splitlines()
    assert [line.split()[0] for line in lines] == ["part", "train", "val", "all"]
    assert lines[2].split() == ["val", "1", "1", "0.0%", "100.0%", "50.0%"]
    assert lines[3].split()[:3] == ["all", "5", "4"]


def test_a_part_without_labels_has_shares_of_nothing() -> None:
    found = summarise(["train", "train", "train", "train", "val"], list("abcde"), PIXELS, ["field", "water"])
    assert found.class_share["val"] == {"field": 0.0, "water": 0.0} and found.deviation["val"] == 0.0
