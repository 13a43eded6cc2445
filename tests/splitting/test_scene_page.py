"""The page shows each scene with its tiles in their places, framed by its part, and stays small however many tiles there are."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landseg.core.classes import make_classes
from landseg.splitting.mosaics import PART_COLOURS, Mosaic, Painter, arrange, drawn, sheet
from landseg.splitting.neighbours import Edge
from landseg.splitting.scene_page import SplitPicture, write_scene_page
from landseg.splitting.summary import summarise

CLASSES = make_classes(["field", "森林 <forest>"])


def colour_of(i: int) -> np.ndarray:
    """A tile of one colour, another for each number."""
    return np.full((32, 32, 3), (40 + 37 * i % 200, 40 + 91 * i % 200, 40 + 53 * i % 200), np.uint8)


def picture(
    parts: Sequence[str], scenes: Sequence[str], rows: Sequence[int], cols: Sequence[int], edges: Sequence[Edge] = (),
    cut: Sequence[Edge] = (), names: Sequence[str] | None = None, is_georeferenced: bool = False,
) -> SplitPicture:  # fmt: skip
    pixels = np.tile([60, 40], (len(parts), 1))
    return SplitPicture(
        title="test: scenes", names=names or [f"T{i:03d}" for i in range(len(parts))], parts=parts, scenes=scenes, rows=np.array(rows),
        cols=np.array(cols), edges=edges, cut=cut, classes=CLASSES, summary=summarise(parts, scenes, pixels, [c.name for c in CLASSES]),
        bands=("red", "green", "blue"), notes=("a remark",), is_georeferenced=is_georeferenced,
    )  # fmt: skip


def small() -> SplitPicture:
    parts = ["val"] * 4 + ["train"] * 6 + ["test"] * 2 + ["train"]
    scenes = ["s1"] * 4 + ["s2"] * 6 + ["s3"] * 2 + ["alone"]
    rows = [0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, -1]
    cols = [0, 1, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, -1]
    edges = [Edge(0, 1, "right", 0.9999), Edge(0, 2, "below", 0.7), Edge(1, 3, "below", 0.999), Edge(4, 5, "right", 0.95)]
    return picture(parts, scenes, rows, cols, edges, [Edge(3, 4, "right", 0.6)])


class Balance(HTMLParser):
    """Open elements that were never closed, and closed ones that were never open."""

    VOID = frozenset({"meta", "img", "path", "image", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_keeps_to_itself(tmp_path: Path) -> None:
    text = write_scene_page(tmp_path / "scene.html", small(), colour_of).read_text(encoding="utf-8")
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "<script" not in text
    for words in ("3 scenes recovered from the pixels of 12 tiles", "val · 1 scene, 4 tiles", "train · 1 scene, 6 tiles", "a remark"):
        assert words in text
    assert "森林 &lt;forest&gt;" in text and "<forest>" not in text
    for part in ("train", "val", "test"):
        assert f"stroke:{PART_COLOURS[part]}" in text


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = [write_scene_page(tmp_path / f"{i}.html", small(), colour_of).read_bytes() for i in range(2)]
    assert pages[0] == pages[1]


def test_doubtful_joins_are_marked_and_told(tmp_path: Path) -> None:
    text = write_scene_page(tmp_path / "scene.html", small(), colour_of).read_text(encoding="utf-8")
    assert "<title>T000 – T002: 70.0% sure</title>" in text and "<title>T004 – T005: 95.0% sure</title>" in text
    assert "T000 – T001" not in text
    assert "The strongest that were cut" in text and "60.0%" in text


def test_georeferenced_scenes_speak_of_no_joins(tmp_path: Path) -> None:
    content = picture(["val", "train"], ["a", "b"], [0, 0], [0, 0], is_georeferenced=True)
    text = write_scene_page(tmp_path / "scene.html", content, colour_of).read_text(encoding="utf-8")
    assert "georeference" in text and "sure" not in text


def test_a_divided_scene_counts_by_tile(tmp_path: Path) -> None:
    parts = ["val", "val", "", "train", "train", "train", "val"]
    content = picture(parts, ["a"] * 6 + ["b"], [0] * 6 + [-1], [*range(6), -1], is_georeferenced=True)
    text = write_scene_page(tmp_path / "scene.html", content, colour_of).read_text(encoding="utf-8")
    assert "train · 1 scene, 3 tiles" in text and "knew nothing" not in text
    whole = re.search(r"<b>the whole</b></td>(.*?)</tr>", text, re.DOTALL)
    assert whole and re.findall(r">(\d+)<", whole[1])[:2] == ["6", "3"]
    both = picture([*parts, "val", "val"], [*content.scenes, "c", "c"], [0] * 6 + [-1, 0, 0], [*range(6), -1, 0, 1])
    text = write_scene_page(tmp_path / "scene.html", both, colour_of).read_text(encoding="utf-8")
    assert "val · 2 scenes, 4 tiles · 1 drawn where most of their tiles are" in text


@pytest.mark.parametrize("count", [1, 2, 30])
def test_tiles_that_are_all_alone(tmp_path: Path, count: int) -> None:
    content = picture(["train"] * (count - 1) + ["val"], [f"t{i}" for i in range(count)], [-1] * count, [-1] * count)
    text = write_scene_page(tmp_path / "scene.html", content, colour_of).read_text(encoding="utf-8")
    assert "0 scenes" in text and "No two tiles were found to continue each other." in text


def test_tiles_lie_in_their_cells_and_gaps_stay_empty() -> None:
    mosaic = arrange("s", [5, 6, 7], np.array([2, 2, 3]), np.array([4, 5, 4]), ["val", "val", "val"])
    assert mosaic.shape == (2, 2)
    image = Painter(colour_of, ("red", "green", "blue")).mosaic(mosaic, 8, 8)
    assert image.shape == (16, 16, 3)
    assert (image[:8, :8] == colour_of(5)[0, 0]).all() and (image[:8, 8:] == colour_of(6)[0, 0]).all()
    assert (image[8:, :8] == colour_of(7)[0, 0]).all() and not image[8:, 8:].any()


def test_tiles_without_a_place_or_in_a_taken_one_stand_below() -> None:
    mosaic = arrange("s", list(range(6)), np.array([0, 0, 0, -1, -1, -1]), np.array([0, 1, 1, -1, -1, -1]), ["train"] * 6)
    cells = set(zip(mosaic.rows.tolist(), mosaic.cols.tolist(), strict=True))
    assert len(cells) == 6 and {(0, 0), (0, 1)} <= cells and min(mosaic.rows[2:]) == 1
    lost = arrange("s", [0, 1, 2], np.full(3, -1), np.full(3, -1), [""] * 3)
    assert lost.shape == (2, 2) and lost.part == ""


def test_the_frame_follows_the_scene_and_what_is_left_out_is_pale() -> None:
    mosaic = arrange("s", [0, 1, 2], np.array([0, 0, 0]), np.array([0, 1, 2]), ["val", "", "train"])
    svg = str(drawn(mosaic, np.zeros((8, 24, 3), np.uint8), [], (10.0, 10.0)))
    lines = {colour: re.search(rf'd="([^"]*)" style="[^"]*stroke:{colour}', svg) for colour in PART_COLOURS.values()}
    assert lines[PART_COLOURS["val"]] and lines[PART_COLOURS["val"]][1].count("M") == 4
    assert lines[PART_COLOURS["train"]] and lines[PART_COLOURS["train"]][1].count("M") == 4
    assert lines[PART_COLOURS[""]] and lines[PART_COLOURS[""]][1].count("M") == 2
    assert "var(--paper)" in svg


@pytest.mark.parametrize(("dtype", "bands", "scale"), [(np.uint16, 1, 4000), (np.uint16, 3, 4000), (np.float32, 6, 1), (np.int16, 2, 900)])
def test_other_depths_and_bands_are_stretched_over_the_whole_scene(dtype: type, bands: int, scale: int) -> None:
    def tile(i: int) -> np.ndarray:
        return np.full((32, 48, bands), scale * (i + 1) / 4, dtype)

    painter = Painter(tile, tuple(f"b{i}" for i in range(bands)))
    mosaic = arrange("s", [0, 1, 2], np.zeros(3, int), np.arange(3), ["val"] * 3)
    image = painter.mosaic(mosaic, 8, 12)
    assert image.shape == (8, 36, 3) and image.dtype == np.uint8
    assert image[0, 0, 0] < image[0, 12, 0] < image[0, 24, 0], "brightness is comparable between tiles of a scene"
    assert painter.ratio(0) == pytest.approx(2 / 3)
    for side in ("right", "below", "same"):
        assert painter.seam(Edge(0, 1, side, 0.9), 40).shape == (40, 40, 3)


def test_a_sheet_holds_each_scene_in_the_colour_of_its_part() -> None:
    mosaics = [arrange(f"s{i}", [i], np.zeros(1, int), np.zeros(1, int), [part]) for i, part in enumerate(("val", "train", "test"))]
    wide = Mosaic("wide", np.arange(30), np.zeros(30, int), np.arange(30), ("val",) * 30)
    board, count = sheet([*mosaics, wide], Painter(colour_of, ("red", "green", "blue")), (8, 8), 60)
    assert count == 3, "one that is wider than the sheet is not on it"
    colours = {tuple(pixel) for pixel in board.reshape(-1, 3).tolist()}
    for i, part in enumerate(("val", "train", "test")):
        assert tuple(int(PART_COLOURS[part][k : k + 2], 16) for k in (1, 3, 5)) in colours
        assert tuple(colour_of(i)[0, 0].tolist()) in colours


def test_a_page_of_very_many_tiles_stays_small(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    noise = rng.integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    scenes, rows, cols = zip(*((f"s{s:04d}", r, c) for s in range(300) for r in range(6) for c in range(6)), strict=True)
    parts = [("val" if s % 10 == 0 else "train") for s in range(300) for _ in range(36)]
    content = picture(parts, scenes, rows, cols)
    path = write_scene_page(tmp_path / "scene.html", content, lambda i: noise[i % 24])
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 8_000_000, "noise is the worst that a JPEG can meet"
    assert "the largest" in text and "All other scenes" in text
    pictures = re.findall(r'(?:href|src)="data:image/jpeg;base64,([^"]+)"', text)
    largest = max((Image.open(io.BytesIO(base64.b64decode(data))).size for data in pictures), key=lambda size: size[0] * size[1])
    assert largest[0] == 2168
