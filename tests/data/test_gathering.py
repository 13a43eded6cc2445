"""Labels of annotations are written where the disk takes them soonest: by many threads into folders, by one into zips."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from landseg.core.classes import ClassList
from landseg.core.errors import LandsegError
from landseg.data.gathering import gather
from landseg.data.sink import Sink


def write_annotated(folder: Path, count: int = 4) -> None:
    """Photographs and their LabelMe files."""
    folder.mkdir()
    for i in range(count):
        assert cv2.imwrite(str(folder / f"{i}.png"), np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8))
        shapes = [{"label": "roof", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}]
        document = {"shapes": shapes, "imagePath": f"{i}.png", "imageHeight": 16, "imageWidth": 16}
        (folder / f"{i}.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("is_packed", [False, True])
def test_labels_go_to_folders_on_threads_and_to_zips_in_order(tmp_path: Path, is_packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_annotated(tmp_path / "tiles")
    put, called = Sink.put, []

    def noted(self: Sink, role: str, name: str, data: bytes) -> Path:
        called.append((name, threading.current_thread() is threading.main_thread()))
        return put(self, role, name, data)

    monkeypatch.setattr(Sink, "put", noted)
    sink = Sink(tmp_path / "out", is_packed=is_packed)
    gathered = gather([tmp_path / "tiles"], None, ClassList(), rasters=sink, leave=tmp_path / "out")
    assert sorted(called) == [(f"{i}.png", is_packed) for i in range(4)] and gathered.is_drawn
    assert gathered.found.labels == {f"{i}": sink.place("labels") / f"{i}.png" for i in range(4)}
    assert gathered.found.label_folder == sink.place("labels")


def test_a_label_that_cannot_be_written_is_no_unreadable_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_annotated(tmp_path / "tiles")

    def full(*_: object) -> None:
        raise LandsegError("labels", "no room", "room", "make some")

    monkeypatch.setattr(Sink, "put", full)
    with pytest.raises(LandsegError, match="no room"):
        gather([tmp_path / "tiles"], None, ClassList(), rasters=Sink(tmp_path / "out"), leave=tmp_path / "out")
