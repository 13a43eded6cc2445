"""Leaks between parts and data sets are found, called what they are, counted in pixels, and shown on a page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from landseg.data.copies import TURNS, turned
from landseg.data.world import make_scene
from landseg.splitting.assignment import Placed, Split
from landseg.splitting.leak_page import LeakPicture, write_leak_page
from landseg.splitting.leaks import KINDS, Ground, Leaks, find_leaks, ground_of_split, ground_of_two, seen_pixels, turn_transform
from landseg.splitting.neighbours import Edge

TILE = 128


def scene(seed: int) -> np.ndarray:
    return make_scene(800 + seed, 2 * TILE, 2 * TILE).image


def crop(image: np.ndarray, row: int, column: int) -> np.ndarray:
    return image[row : row + TILE, column : column + TILE]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def store(images: Sequence[np.ndarray], prefix: str = "tile") -> SimpleNamespace:
    """What of a `TileStore` the search needs."""
    entries = [SimpleNamespace(name=f"{prefix} {i}", height=image.shape[0], width=image.shape[1]) for i, image in enumerate(images)]
    return SimpleNamespace(entries=entries, image=images.__getitem__)


def ground(images: Sequence[np.ndarray], parts: str) -> Ground:
    """Parts by their first letters."""
    words = {"t": "train", "v": "val", "s": "test", "-": ""}
    split = Split("first", tuple(Placed(f"tile {i}", words[letter], f"tile {i}") for i, letter in enumerate(parts) if letter != "-"))
    return ground_of_split(store(images), split)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def planted() -> Leaks:
    pictures = [scene(k) for k in range(6)]
    images = [
        crop(pictures[0], 0, 0), crop(pictures[0], 0, 0),
        crop(pictures[1], 0, 0), turned(crop(pictures[1], 0, 0), "turned 90° clockwise"),
        crop(pictures[2], 0, 0), turned(jpeg(crop(pictures[2], 0, 0), 60), "flipped left-right"),
        crop(pictures[3], 40, 40), jpeg(crop(pictures[3], 40, 40 + TILE // 2), 80),
        crop(pictures[4], 0, 0), crop(pictures[4], 0, TILE),
        crop(pictures[5], 0, 0), crop(pictures[5], TILE, TILE),
    ]  # fmt: skip
    edges = [Edge(8, 9, "right", 0.98), Edge(10, 11, "below", 0.6), Edge(1, 3, "right", 0.2)]
    return find_leaks(ground(images, "tv" * 6), edges)


def test_each_kind_is_called_what_it_is(planted: Leaks) -> None:
    assert {(leak.a, leak.b): leak.kind for leak in planted.pairs} == {
        (0, 1): "exact copy", (2, 3): "flipped or turned", (4, 5): "re-encoded", (6, 7): "overlap", (8, 9): "neighbour",
    }  # fmt: skip
    assert planted.counts == dict.fromkeys(KINDS, 1)
    assert not planted.is_clean
    assert [KINDS.index(leak.kind) for leak in planted.pairs] == sorted(KINDS.index(leak.kind) for leak in planted.pairs)
    words = {leak.kind: leak.how for leak in planted.pairs}
    assert "turned 90° clockwise" in words["flipped or turned"] and "flipped left-right" in words["re-encoded"]
    assert "50% of the first" in words["overlap"] and "right" in words["neighbour"]


def test_the_pixels_concerned_are_counted(planted: Leaks) -> None:
    val = planted.judged["val"]
    assert set(planted.judged) == {"val"}
    assert (val.tiles, val.pixels) == (6, 6 * TILE**2)
    assert val.seen == pytest.approx(3.5 / 6, abs=0.004)
    assert val.beside == pytest.approx(1 / 6)
    assert val.concerned == pytest.approx(5 / 6)
    assert val.by_kind == dict.fromkeys(KINDS, 1)


def test_json_and_text_say_the_same(planted: Leaks) -> None:
    document = json.loads(json.dumps(planted.as_json()))
    assert document["pairs"] == planted.counts and document["is_clean"] is False
    assert document["parts"]["val"]["concerned"] == pytest.approx(5 / 6, abs=1e-6)
    first = document["leaks"][0]
    assert (first["a"], first["b"], first["part_a"], first["part_b"]) == ("tile 0", "tile 1", "train", "val")
    text = planted.as_text()
    for kind in KINDS:
        assert re.search(rf"^{kind} +1 +1 tiles$", text, re.MULTILINE)
    assert f"{planted.judged['val'].seen:.2%}" in text and "5 pairs" in text


def test_nothing_within_a_part_and_nothing_of_tiles_in_none() -> None:
    picture = scene(0)
    images = [crop(picture, 0, 0), crop(picture, 0, 0), crop(picture, 0, 40), crop(scene(1), 0, 0), crop(picture, 0, 0)]
    leaks = find_leaks(ground(images, "tttv-"), [Edge(0, 2, "right", 1.0), Edge(3, 4, "below", 1.0)])
    assert leaks.is_clean and leaks.judged["val"].concerned == 0
    assert "clean" in leaks.as_text()


def test_what_leaks_into_a_tile_leaks_into_its_copies() -> None:
    picture = scene(2)
    one, other = crop(picture, 0, 0), crop(picture, 0, TILE // 2)
    # Copies within val of a tile that overlaps a train tile, and of that train tile in train: each val tile is concerned.
    images = [one, one, other, turned(other, "turned 90° clockwise"), jpeg(other, 70)]
    leaks = find_leaks(ground(images, "ttvvv"))
    assert {tile for leak in leaks.pairs for tile in (leak.a, leak.b)} == {0, 1, 2, 3, 4}
    assert leaks.judged["val"].by_kind["overlap"] == 3
    assert leaks.judged["val"].seen == pytest.approx(0.5, abs=0.01)
    # The half that is seen is the left one, and after a quarter turn clockwise the upper one.
    assert seen_pixels(leaks.ground, 2, leaks.pairs_of(2))[:, : TILE // 2 - 2].all()
    assert seen_pixels(leaks.ground, 3, leaks.pairs_of(3))[: TILE // 2 - 2].all()


def test_a_family_over_three_parts_leaks_into_each() -> None:
    picture = crop(scene(3), 0, 0)
    leaks = find_leaks(ground([picture, picture, picture, turned(picture, TURNS[1])], "tvsv"))
    assert {leak.a for leak in leaks.pairs} | {leak.b for leak in leaks.pairs} == {0, 1, 2, 3}
    assert leaks.judged["val"].by_kind["exact copy"] == 1 and leaks.judged["val"].by_kind["flipped or turned"] == 1
    assert leaks.judged["test"].by_kind["exact copy"] == 1
    assert list(leaks.judged) == ["val", "test"]


@pytest.mark.parametrize("turn", TURNS)
def test_where_a_turn_takes_a_pixel(turn: str) -> None:
    pixels = np.arange(12).reshape(3, 4)
    after, transform = turned(pixels, turn), turn_transform(turn, (3, 4))
    for row in range(3):
        for column in range(4):
            x, y = transform @ [column, row, 1]
            assert after[int(y), int(x)] == pixels[row, column]


@pytest.mark.parametrize(("edge", "words", "offset"), [
    (Edge(0, 1, "right", 1.0), "to the right of", (-TILE, 0)), (Edge(1, 0, "right", 1.0), "to the left of", (TILE, 0)),
    (Edge(0, 1, "below", 1.0), "below", (0, -TILE)), (Edge(1, 0, "below", 1.0), "above", (0, TILE)),
])  # fmt: skip
def test_neighbours_know_their_side(edge: Edge, words: str, offset: tuple[int, int]) -> None:
    (leak,) = find_leaks(ground([crop(scene(4), 0, 0), crop(scene(5), 0, 0)], "tv"), [edge]).pairs
    assert (leak.a, leak.b) == (0, 1) and words in leak.how
    assert leak.transform is not None and leak.transform[:, 2].tolist() == list(offset)


def test_two_data_sets_with_equal_names_are_told_apart() -> None:
    picture = scene(6)
    first, second = (
        store([crop(picture, 0, 0), crop(scene(7), 0, 0)]),
        store([crop(scene(8), 0, 0), crop(picture, 30, 20), crop(scene(9), 0, 0)]),
    )
    both = ground_of_two(first, second, ("dubai", "dubai"))  # type: ignore[arg-type]
    assert both.names == ("dubai/tile 0", "dubai/tile 1", "dubai (2)/tile 0", "dubai (2)/tile 1", "dubai (2)/tile 2")
    assert both.equal_names == ("tile 0", "tile 1")
    leaks = find_leaks(both)
    assert [(leak.a, leak.b, leak.kind) for leak in leaks.pairs] == [(0, 3, "overlap")]
    assert list(leaks.judged) == ["dubai (2)"]
    assert leaks.as_json()["equal_names"] == 2
    assert find_leaks(ground_of_two(first, store([crop(scene(8), 0, 0)], "other"), ("a", "b"))).is_clean  # type: ignore[arg-type]


def test_the_number_of_threads_does_not_matter() -> None:
    picture = scene(10)
    tiles = ground([crop(picture, 9 * k, 7 * k) for k in range(5)], "tvtvs")
    one, three = find_leaks(tiles, workers=1), find_leaks(tiles, workers=3)
    assert one.as_json() == three.as_json() and one.pairs


@pytest.mark.parametrize(("images", "parts"), [
    ([np.zeros((64, 64, 3), np.uint8)] * 4, "tvtv"),
    ([scene(11)[:64, :64]], "t"),
    ([scene(11)[:64, :64], scene(12)[:90, :40]], "vv"),
    ([scene(13).astype(np.uint16)[:64, :64] * 16, np.full((30, 64, 1), np.nan, np.float32), np.zeros((8, 8, 224), np.int16)], "tvs"),
])  # fmt: skip
def test_hardly_anything_to_find(images: list[np.ndarray], parts: str) -> None:
    leaks = find_leaks(ground(images, parts))
    assert leaks.is_clean
    assert leaks.as_text() and json.dumps(leaks.as_json())


def test_tiles_that_are_all_one_picture() -> None:
    leaks = find_leaks(ground([crop(scene(14), 0, 0)] * 12, "ttttttttvvvv"))
    assert leaks.judged["val"].seen == 1 and leaks.judged["val"].by_kind["exact copy"] == 4
    assert leaks.counts["overlap"] == 0


def test_the_page_shows_every_kind_and_needs_nothing_else(planted: Leaks, tmp_path: Path) -> None:
    content = LeakPicture("leaks of <first>", planted, ("red", "green", "blue"), ["a & b"])
    html = write_leak_page(tmp_path / "leaks.html", content).read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"{kind[0].upper()}{kind[1:]} · 1 pair<" in html
    assert "leaks of &lt;first&gt;" in html and "a &amp; b" in html and "<first>" not in html
    assert f"{planted.judged['val'].seen * 100:.1f} %" in html
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)
    assert len(html) < 1_000_000
    assert write_leak_page(tmp_path / "again.html", content).read_bytes() == (tmp_path / "leaks.html").read_bytes()


def test_the_page_of_a_clean_split_says_so(tmp_path: Path) -> None:
    leaks = find_leaks(ground([crop(scene(15), 0, 0), crop(scene(16), 0, 0)], "tv"))
    html = write_leak_page(tmp_path / "leaks.html", LeakPicture("leaks", leaks, ("red", "green", "blue"))).read_text(encoding="utf-8")
    assert "Clean" in html and "What to do" not in html


def test_the_page_draws_tiles_of_any_size_and_bands(tmp_path: Path) -> None:
    picture = make_scene(61, 300, 300).image.astype(np.uint16) * 16
    images = [picture[:200, :240, :1], picture[20:220, 60:300, :1], picture[200:300, :240, :1]]
    leaks = find_leaks(ground(images, "tvs"), [Edge(0, 2, "below", 1.0)])
    assert {leak.kind for leak in leaks.pairs} == {"overlap", "neighbour"}
    assert write_leak_page(tmp_path / "leaks.html", LeakPicture("leaks", leaks, ("grey",))).stat().st_size > 10_000
