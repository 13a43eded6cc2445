"""Which zips are unpacked for a packed result: those with annotations or lists in them, which need files."""

from __future__ import annotations

from pathlib import Path

import pytest

from landseg.data import places, staging
from landseg.data.archive import write_zip
from landseg.data.staging import Staging

TEXTS: list[tuple[str, str, bool]] = [
    ("coco.json", '{"images": [], "annotations": []}', True),
    ("T1.json", '{"shapes": [], "imagePath": "T1.png"}', True),
    ("project.json", '[{"data": {}, "annotations": [{"result": []}]}]', True),
    ("min.json", '[{"annotation_id": 1, "original_width": 32}]', True),
    ("annotations.xml", '<?xml version="1.0"?><annotations><version>1.1</version></annotations>', True),
    ("item.json", '{"type": "Feature", "assets": {"image": "T1.png"}}', False),
    ("T1.png.aux.xml", "<PAMDataset/>", False),
    ("train.txt", "images/T1.png labels/T1.png\n", True),
    ("a list.txt", "C:\\mine\\T1.png\r\n", True),
    ("b.txt", "测试 1.png,测试 1.png\n", True),
    ("c.txt", "测试 1.png", True),
    ("README.txt", "T1.png is the first of the tiles", False),
    ("classes.txt", "building\nland\n", False),
    ("train.txt", "images/T2.png labels/T2.png\n", False),
    ("T1.txt", "0 0.5 0.5 0.25 0.25\n" * 20, False),
]


def entered(folder: Path, entries: dict[str, bytes]) -> tuple[Path, Path]:
    """The zip, and where its files are read."""
    write_zip(folder / "tiles.zip", entries.items())
    (root,), _ = Staging(folder / "data", is_packed=True).enter([folder / "tiles.zip"])
    return folder / "tiles.zip", root


@pytest.mark.parametrize(("name", "text", "is_told"), TEXTS)
@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "gb18030"])
def test_a_zip_is_unpacked_where_a_text_in_it_may_say_what_is_what(tmp_path: Path, name: str, text: str, is_told: bool, codec: str) -> None:
    path, root = entered(tmp_path, {"images/T1.png": b"x", "测试 1.png": b"y", name: text.encode(codec)})
    assert (root != path) == is_told
    assert (tmp_path / "data").exists() == is_told


def test_what_is_no_text_is_no_list(tmp_path: Path) -> None:
    path, root = entered(tmp_path, {"T1.png": b"x", "a.txt": b"T1.png\n\xff\xff\xff", "b.json": b"\xff\xff\xff"})
    assert root == path


def test_a_text_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_BYTES", 1)
    monkeypatch.setattr(places, "read", lambda _: pytest.fail("it was read"))
    path, root = entered(tmp_path, {"T1.png": b"x", "a.json": b"{}"})
    assert root != path
