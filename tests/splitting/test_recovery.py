"""What belongs together stays together: scenes by pixels or by georeference, copies and overlaps, named and numbered alike each time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from landseg.core.grid import Grid, Window
from landseg.data import raster
from landseg.data.dataset import Dataset, DatasetInfo, open_dataset, write_info
from landseg.data.pack import open_tiles
from landseg.data.world import CLASSES, make_scene
from landseg.splitting import recovery
from landseg.splitting.blocks import divide, settle
from landseg.splitting.neighbours import Edge
from landseg.splitting.recovery import Recovered, components, joins_of, recover, scene_groups, scene_names


def write(folder: Path, tiles: dict[str, np.ndarray]) -> Dataset:
    for name, image in tiles.items():
        for place, pixels in (("images", image[:, :, ::-1]), ("labels", np.zeros(image.shape[:2], np.uint8))):
            path = folder / place / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    write_info(folder, DatasetInfo(name="test", classes=CLASSES))
    return open_dataset(folder)


def cut(seed: int, rows: int, cols: int, tile: int = 64) -> dict[tuple[int, int], np.ndarray]:
    image = make_scene(seed, max(rows * tile, 64), max(cols * tile, 64)).image
    return {(r, c): image[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] for r in range(rows) for c in range(cols)}


@pytest.fixture
def two_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Six and four tiles of two scenes, a copy of one turned, and one of another place; joins are planted."""
    tiles = {f"a{r}{c}": image for (r, c), image in cut(1, 2, 3).items()} | {f"b{r}{c}": image for (r, c), image in cut(2, 2, 2).items()}
    tiles |= {"copy": np.ascontiguousarray(tiles["b11"][:, ::-1]), "far": cut(3, 1, 1)[0, 0]}
    order = sorted(tiles)

    def planted(read: object, shapes: list[tuple[int, int]]) -> list[Edge]:
        names = [name for name in order if name != "copy"]  # it is not asked about: it is where its original is
        assert len(shapes) == len(names)
        place = {name: i for i, name in enumerate(names)}
        pairs = [("a00", "a01"), ("a01", "a02"), ("a10", "a11"), ("a11", "a12"), ("b00", "b01"), ("b10", "b11")]
        downs = [("a00", "a10"), ("a01", "a11"), ("a02", "a12"), ("b00", "b10"), ("b01", "b11")]
        return [Edge(place[a], place[b], "right", 0.999) for a, b in pairs] + [Edge(place[a], place[b], "below", 0.99) for a, b in downs]

    monkeypatch.setattr(recovery, "find_neighbours", planted)
    monkeypatch.setattr(recovery, "find_overlaps", lambda read, count, tiles: [])
    return write(tmp_path, tiles)


def test_scenes_of_pixels_with_a_copy_and_a_stranger(two_scenes: Dataset) -> None:
    store = open_tiles(two_scenes)
    names = [entry.name for entry in store.entries]
    found = recover(two_scenes, store)
    by_name = dict(zip(names, zip(scene_names(found.scene, names), found.rows, found.cols, found.is_unplaced, strict=True), strict=True))
    assert by_name["a12"] == ("scene_001", 1, 2, False) and by_name["b11"] == ("scene_002", 1, 1, False)
    assert by_name["copy"] == ("scene_002", -1, -1, False), "a copy belongs to its original's scene and has no place of its own"
    assert by_name["far"] == ("far", -1, -1, True)
    assert not found.is_georeferenced
    groups = scene_groups(found, scene_names(found.scene, names), np.zeros(len(names), np.int64))
    assert len({groups[names.index(name)] for name in ("b00", "b11", "copy")}) == 1


def test_what_was_found_is_kept_until_the_pixels_change(two_scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recover(two_scenes, open_tiles(two_scenes))

    def never(*_: object, **__: object) -> list[Edge]:
        raise AssertionError("it was found before")

    for kind in ("find_neighbours", "find_overlaps", "find_copies"):
        monkeypatch.setattr(recovery, kind, never)
    again = recover(two_scenes, open_tiles(two_scenes))
    assert again.edges == first.edges and (again.scene == first.scene).all()
    cv2.imwrite(str(two_scenes.folder / "images" / "far.png"), np.full((64, 64, 3), 9, np.uint8))
    with pytest.raises(AssertionError, match="found before"):
        recover(open_dataset(two_scenes.folder), open_tiles(open_dataset(two_scenes.folder)))


@pytest.mark.parametrize("damage", ["{", "[]", '{"key": 1}', ""])
def test_a_damaged_note_is_found_anew(two_scenes: Dataset, damage: str) -> None:
    first = recover(two_scenes, open_tiles(two_scenes))
    (two_scenes.folder / "pack" / "neighbours.json").write_text(damage, encoding="utf-8")
    assert recover(two_scenes, open_tiles(two_scenes)).edges == first.edges


def test_the_joins_alone_are_those_of_the_scenes(two_scenes: Dataset) -> None:
    store = open_tiles(two_scenes)
    assert set(joins_of(two_scenes, store)) == {edge for edge in recover(two_scenes, store).edges if edge.side != "same"}


def recovered(scene: list[int], pairs: list[tuple[int, int]]) -> Recovered:
    count, none = len(scene), np.full(len(scene), -1)
    return Recovered(
        np.array(scene), none, none, np.zeros(count, bool), (), (), np.array(pairs, np.int64).reshape(-1, 2)
    )  # fmt: skip


def test_groups_are_scenes_blocks_and_what_shows_the_same_ground() -> None:
    found = recovered([0, 0, 0, 0, 1, 1, 2, 3], [(3, 6), (0, 2)])
    names = scene_names(found.scene, list("abcdefgh"))
    assert names == ["scene_001"] * 4 + ["scene_002"] * 2 + ["g", "h"]
    whole = scene_groups(found, names, np.zeros(8, np.int64))
    assert whole[0] == whole[3] == whole[6] and len(set(whole)) == 3
    divided = scene_groups(found, names, np.array([0, -1, 1, 1, 0, 0, 0, 0]))
    assert divided[0] == divided[2] == divided[3] == divided[6], "an overlap across blocks joins them"
    assert scene_groups(recovered([0, 0, 1], []), ["s", "s", "t"], np.array([0, 1, 0])) == ["s-1", "s-2", "t"]


def test_a_tile_named_like_a_scene_is_no_part_of_it() -> None:
    names = scene_names(np.array([0, 0, 1]), ["a", "b", "scene_001"])
    assert names[0] == names[1] != names[2] == "scene_001"


def test_components_join_through_others() -> None:
    assert components(5, np.array([(0, 3), (3, 4)])).tolist() == [0, 1, 2, 0, 0]
    assert len(set(components(3, np.zeros((0, 2), np.int64)).tolist())) == 3


def georeferenced(folder: Path, places: dict[str, tuple[float, float]], tile: int = 32) -> Dataset:
    rng = np.random.Generator(np.random.PCG64(0))
    for name, (x, y) in places.items():
        grid = Grid(tile, tile, Affine(2, 0, 500_000 + x, 0, -2, 4_000_000 - y), CRS.from_epsg(32650))
        raster.write(folder / "images" / f"{name}.tif", rng.integers(0, 255, (tile, tile, 3), dtype=np.uint8), grid)
        raster.write(folder / "labels" / f"{name}.tif", np.zeros((tile, tile), np.uint8), grid)
    write_info(folder, DatasetInfo(name="geo", classes=CLASSES))
    return open_dataset(folder)


def test_georeference_decides_where_all_tiles_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> list[Edge]:
        raise AssertionError("pixels were looked at")

    monkeypatch.setattr(recovery, "find_neighbours", never)
    places = {f"t{r}{c}": (64.0 * c, 64.0 * r) for r in range(2) for c in range(3)}
    dataset = georeferenced(tmp_path, {**places, "far": (9000.0, 0.0)})
    store = open_tiles(dataset)
    names = [entry.name for entry in store.entries]
    found = recover(dataset, store)
    scenes = dict(zip(names, scene_names(found.scene, names), strict=True))
    assert found.is_georeferenced and not found.is_unplaced.any()
    assert {scenes[name] for name in places} == {"scene_001"} and scenes["far"] == "far"
    for r in range(2):
        for c in range(3):
            i = names.index(f"t{r}{c}")
            assert (found.rows[i], found.cols[i]) == (r, c)
    assert {edge.side for edge in found.edges} == {"right", "below"} and {edge.probability for edge in found.edges} == {1.0}


UTM = CRS.from_epsg(32650)
LAYOUTS = {
    "overlapping": [(32 * c, 32 * r) for r in range(48) for c in range(48)],
    "two dates": [(64 * c, 64 * r) for _ in range(2) for r in range(14) for c in range(14)],
    "out of step": [(64 * c + 17 * (r % 3), 64 * r) for r in range(20) for c in range(20)],
    "with gaps": [(90 * c, 66 * r) for r in range(20) for c in range(20)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", [Affine.scale(2, -2), Affine.rotation(30) @ Affine.scale(2, -2), Affine.scale(0.5, 0.5)])
def test_any_layout_with_georeference_is_divided_and_no_parts_touch(layout: str, axes: Affine) -> None:
    origin = Affine.translation(500_000, 4_000_000) @ axes
    grids = [Grid(64, 64, origin @ Affine.translation(x, y), UTM) for x, y in LAYOUTS[layout]]
    found = recovery._from_places(grids)
    assert len(set(found.scene.tolist())) == 1
    block = divide(found.scene, found.rows, found.cols, 0.15)
    groups = scene_groups(found, scene_names(found.scene, [str(i) for i in range(len(grids))]), block)
    inside = np.flatnonzero(block >= 0)
    assert len({groups[i] for i in inside}) >= 4 and len(inside) > len(grids) / 4
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(5):
        drawn = {group: str(part) for group, part in zip(sorted(set(groups)), rng.choice(["train", "val"], len(groups)), strict=False)}
        parts = ["" if b < 0 else drawn[group] for b, group in zip(block, groups, strict=True)]
        joined = settle(parts, found.scene, found.rows, found.cols, block, found.pairs)
        settled = ["" if k < 0 else parts[k] for k in joined]
        assert {"train", "val"} <= set(settled) or len(set(drawn.values())) == 1
        assert all(settled[edge.a] == settled[edge.b] or "" in (settled[edge.a], settled[edge.b]) for edge in found.edges)


def test_other_code_finds_anew(two_scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    recover(two_scenes, open_tiles(two_scenes))
    kept = (two_scenes.folder / "pack" / "neighbours.json").read_text(encoding="utf-8")
    monkeypatch.setattr(recovery, "_code", lambda: "other")
    recover(two_scenes, open_tiles(two_scenes))
    assert (two_scenes.folder / "pack" / "neighbours.json").read_text(encoding="utf-8") != kept


def test_first_and_later_runs_are_equal_to_the_last_digit(two_scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "find_overlaps", lambda read, count, tiles: [SimpleNamespace(a=0, b=1, probability=0.99999949)])
    first, again = (recover(two_scenes, open_tiles(two_scenes)) for _ in range(2))
    assert first.edges == again.edges


def test_copies_are_not_looked_at_for_overlaps(two_scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(recovery, "find_overlaps", lambda read, count, tiles: seen.extend(tiles) or [])
    store = open_tiles(two_scenes)
    recover(two_scenes, store)
    missing = set(range(len(store.entries))) - set(seen)
    assert len(missing) == 1 and store.entries[missing.pop()].name in ("copy", "b11")


def test_one_tile_without_a_place_makes_pixels_decide_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = georeferenced(tmp_path, {"a": (0.0, 0.0), "b": (64.0, 0.0)})
    cv2.imwrite(str(tmp_path / "images" / "c.png"), np.zeros((32, 32, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "c.png"), np.zeros((32, 32), np.uint8))
    dataset = open_dataset(tmp_path)
    assert not recover(dataset, open_tiles(dataset)).is_georeferenced
    assert "1 of 3 tiles have no georeference" in caplog.text


@pytest.mark.parametrize("crop", [Window(0, 0, 16, 16)])
def test_unequal_sizes_with_georeference_are_one_scene(tmp_path: Path, crop: Window) -> None:
    grid = Grid(32, 32, Affine(2, 0, 0, 0, -2, 0), CRS.from_epsg(32650))
    for name, own in {"large": grid, "small": Grid(16, 16, Affine(2, 0, 64, 0, -2, 0), grid.crs), "part": grid.crop(crop)}.items():
        raster.write(tmp_path / "images" / f"{name}.tif", np.full((own.height, own.width, 3), 7, np.uint8), own)
        raster.write(tmp_path / "labels" / f"{name}.tif", np.zeros((own.height, own.width), np.uint8), own)
    write_info(tmp_path, DatasetInfo(name="geo", classes=CLASSES))
    dataset = open_dataset(tmp_path)
    assert len(set(recover(dataset, open_tiles(dataset)).scene.tolist())) == 1
