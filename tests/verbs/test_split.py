"""`landseg split` keeps together what belongs together, says what it did and what it could not, and finds leaks."""

from __future__ import annotations

import csv
import json
import logging
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from landseg.core.errors import LandsegError
from landseg.data import world
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.splitting import blocks
from landseg.splitting.assignment import read_split
from landseg.verbs.split import Checked, Splitted
from landseg.verbs.split import split as verb

SCENES, TILE = 8, 64


def split(data: Path, **arguments: object) -> Splitted:
    result = verb(data, **arguments)  # type: ignore[arg-type]
    assert isinstance(result, Splitted)
    return result


def look(data: Path, **arguments: object) -> Checked:
    result = verb(data, **arguments)  # type: ignore[arg-type]
    assert isinstance(result, Checked)
    return result


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes of sixteen tiles, their names shuffled, and where each tile was."""
    folder = tmp_path_factory.mktemp("world")
    made = world.write_competition(
        folder, 3, train_scenes=SCENES, test_scenes=1, height=4 * TILE, width=4 * TILE, tile=TILE, unlabelled_tiles=False
    )
    with zipfile.ZipFile(made.train_zip) as archive:
        archive.extractall(folder / "data")
    write_info(folder / "data", DatasetInfo(name="data", images="img_train", labels="lab_train", classes=world.CLASSES))
    return folder


@pytest.fixture
def data(invented: Path, tmp_path: Path) -> Path:
    """A dataset folder of its own over the same tiles; what the pixels say is kept between tests."""
    source = open_dataset(invented / "data")
    folder = tmp_path / "data"
    info = source.info.model_copy(update={"images": str(source.image_folder), "labels": str(source.label_folder)})
    write_info(folder, info)
    kept = invented / "kept"
    if kept.exists():
        (folder / "pack").mkdir()
        for path in kept.iterdir():
            (folder / "pack" / path.name).write_bytes(path.read_bytes())
    else:
        split(folder, by="scene", name="first")
        kept.mkdir()
        for path in (folder / "pack").glob("*.json"):
            (kept / path.name).write_bytes(path.read_bytes())
        for path in (folder / "splits").iterdir():
            path.unlink()
    return folder


def truth(invented: Path) -> dict[str, tuple[str, int, int]]:
    with (invented / "truth" / "tiles.csv").open(encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["scene"].startswith("train")]
    return {row["tile"]: (row["scene"], int(row["row"]) // TILE, int(row["col"]) // TILE) for row in rows}


def test_by_scene_recovers_scenes_and_divides_none(data: Path, invented: Path) -> None:
    result = split(data)
    assert result.by == "scene" and result.path == data / "splits" / "scene.csv"
    found, known = read_split(open_dataset(data), "scene"), truth(invented)
    parts, groups, scenes = defaultdict(set), defaultdict(set), defaultdict(set)
    for tile in found.tiles:
        parts[tile.group].add(tile.part)
        groups[tile.group].add(known[tile.tile][0])
        scenes[tile.scene or tile.tile].add(known[tile.tile][0])
    assert len(found.tiles) == len(known) and all(len(each) == 1 for each in (*parts.values(), *groups.values()))
    assert sum(1 for name in scenes if name.startswith("scene_")) >= SCENES - 1
    by_true_scene = defaultdict(set)
    for tile in found.tiles:
        if tile.row:
            scene, row, col = known[tile.tile]
            by_true_scene[scene, tile.scene].add((int(tile.row) - row, int(tile.col) - col))
    assert all(len(shifts) == 1 for shifts in by_true_scene.values()), "rows and columns are those of the scene"


def test_its_document_and_its_files(data: Path) -> None:
    result = split(data, val=0.25, test=0.12)
    document = json.loads(json.dumps(result.as_json()))
    keys = {"parts", "groups", "class_share", "deviation", "scenes", "placed", "unplaced", "edges", "cut", "buffer", "files", "notes"}
    assert keys <= document.keys()
    assert sum(document["parts"].values()) == SCENES * 16 == document["placed"] + document["unplaced"]
    for part in ("train", "val", "test"):
        assert sum(document["class_share"][part].values()) == pytest.approx(1, abs=1e-4)
        assert 0 <= document["deviation"][part] < 0.5
    assert [Path(path).name for path in document["files"]] == ["scene.csv", "scene.edges.csv", "scene.html"]
    assert all(Path(path).is_file() for path in document["files"])
    with (data / "splits" / "scene.edges.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == document["edges"] > SCENES * 20
    assert {row["side"] for row in rows} <= {"right", "below", "same"} and all(0 < float(row["probability"]) <= 1 for row in rows)
    text = result.as_text()
    assert "scenes from pixels" in text and "joins" in text and str(data / "splits" / "scene.html") in text


def test_a_second_seed_does_not_look_at_pixels_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landseg.splitting import recovery

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was found before")

    for kind in ("find_neighbours", "find_overlaps", "find_copies"):
        monkeypatch.setattr(recovery, kind, never)
    first, again, other = (split(data, name=name, seed=seed, val=0.3) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first.path.read_bytes() == again.path.read_bytes()
    assert other.summary.parts


def test_folds_hold_each_tile_in_val_once(data: Path) -> None:
    result = split(data, folds=4, test=0.12)
    dataset = open_dataset(data)
    seen: Counter[str] = Counter()
    tests = set()
    for k in range(1, 5):
        found = read_split(dataset, f"scene-{k}")
        seen.update(tile.tile for tile in found.part("val"))
        tests.add(frozenset(tile.tile for tile in found.part("test")))
        assert len(found.tiles) == len(dataset.tiles)
    assert len(tests) == 1 and set(seen.values()) == {1} and len(seen) + len(next(iter(tests))) == len(dataset.tiles)
    document = result.as_json()
    assert set(document["parts"]) == {"fold 1", "fold 2", "fold 3", "fold 4", "test"}
    assert [Path(fold["split"]).name for fold in document["folds"]] == [f"scene-{k}.csv" for k in range(1, 5)]
    assert document["never_in_val"] == 0 and [fold["buffer"] for fold in document["folds"]] == [0] * 4
    assert (data / "splits" / "scene-1.html").is_file()


def test_folds_leave_other_splits_alone_and_nothing_of_older_folds(data: Path) -> None:
    split(data, by="scene", lists=True)
    folder = data / "splits"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    split(data, folds=4, lists=True)
    assert {path: path.read_bytes() for path in before} == before
    split(data, by="random", name="scene-9")
    split(data, folds=2, overwrite=True)
    assert sorted(path.name for path in folder.glob("scene-*")) == [
        "scene-1.csv", "scene-1.edges.csv", "scene-1.html", "scene-2.csv", "scene-9.csv"
    ]  # fmt: skip


def test_tiles_between_blocks_are_said_to_be_in_no_val(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LEAST", 9)
    monkeypatch.setattr(blocks, "_SIDE", 1)
    monkeypatch.setattr("landseg.verbs.split.SLACK", 0.1)
    result = split(data, folds=4)
    document, dataset = result.as_json(), open_dataset(data)
    splits = [read_split(dataset, f"scene-{k}") for k in range(1, 5)]
    in_val = Counter(tile.tile for found in splits for tile in found.part("val"))
    assert set(in_val.values()) == {1} and document["never_in_val"] == len(dataset.tiles) - len(in_val) > 0
    assert sum(document["parts"].values()) == len(in_val)
    assert [fold["buffer"] for fold in document["folds"]] == [len(dataset.tiles) - len(found.tiles) for found in splits]
    assert f"{document['never_in_val']} tiles between blocks of large scenes are never in val" in result.as_text()


@pytest.mark.parametrize(("shares", "largest"), [({"val": 0.1}, 0.15), ({"val": 0.7}, 0.75), ({"folds": 2}, 0.75), ({"test": 0.8}, 0.75)])
def test_no_share_lets_one_scene_be_all(data: Path, monkeypatch: pytest.MonkeyPatch, shares: dict[str, object], largest: float) -> None:
    seen: list[float] = []
    divide = blocks.divide
    monkeypatch.setattr(blocks, "divide", lambda *arguments: seen.append(arguments[3]) or divide(*arguments))
    split(data, **shares)
    assert seen == [pytest.approx(largest)]


def test_by_random_says_what_it_risks(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "landseg"):
        result = split(data, by="random", val=0.25)
    assert "the val score will be higher than on new places" in caplog.text
    assert result.summary.parts == {"train": 96, "val": 32} == result.summary.groups
    assert "scenes" not in result.as_json()


def test_by_group_takes_a_pattern_or_a_file(data: Path, invented: Path, tmp_path: Path) -> None:
    known = truth(invented)
    listing = tmp_path / "groups.csv"
    listing.write_text("tile,group\n" + "".join(f"{tile},{scene}\n" for tile, (scene, _, _) in known.items()), encoding="utf-8")
    assert split(data, by="group", groups=str(listing), val=0.25).summary.groups == {"train": 6, "val": 2}
    result = split(data, groups=r"(\d)$", name="digit", val=0.2)
    assert result.by == "group" and sum(result.summary.groups.values()) == 10


def test_by_file_takes_the_parts_of_a_file(data: Path, tmp_path: Path) -> None:
    names = [tile.name for tile in open_dataset(data).tiles]
    listing = tmp_path / "mine.csv"
    lines = [f"{name}.jpg,{'valid' if i < 9 else 'train'}\n" for i, name in enumerate(names[:100])]
    listing.write_text("tile,part\n" + "".join(lines), encoding="utf-8")
    result = split(data, by="file", groups=str(listing))
    assert result.summary.parts == {"train": 91, "val": 9} and result.path.name == "file.csv"
    assert any("28 tiles of the data set are in no part" in note for note in result.notes)
    again = split(data, by="file")
    assert again.summary == result.summary
    with pytest.raises(LandsegError, match="exists already"):
        split(data, by="file", groups=str(listing))
    listing.write_text("tile,part\nnowhere,train\n", encoding="utf-8")
    with pytest.raises(LandsegError, match=r"not in the data set \(nowhere\)"):
        split(data, by="file", groups=str(listing), overwrite=True)


def test_by_file_without_one_says_so(data: Path) -> None:
    with pytest.raises(LandsegError, match="no split 'file'"):
        split(data, by="file")


def test_lists_for_paddlex_hold_the_same_parts(data: Path) -> None:
    result = split(data, lists=True, val=0.25)
    folder = data / "splits" / "scene"
    for part in ("train", "val"):
        assert len((folder / f"{part}_list.txt").read_text(encoding="utf-8").splitlines()) == result.summary.parts[part]
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == [item.name for item in world.CLASSES]
    assert folder / "train_list.txt" in result.files


def test_lists_that_cannot_be_written_leave_no_split(tmp_path: Path) -> None:
    tiles(tmp_path, noise(4))
    (tmp_path / "images" / "t00.png").rename(tmp_path / "images" / "t 0.png")
    (tmp_path / "labels" / "t00.png").rename(tmp_path / "labels" / "t 0.png")
    split(tmp_path, by="random", val=0.25)
    before = (tmp_path / "splits" / "random.csv").read_bytes()
    with pytest.raises(LandsegError, match="a blank in"):
        split(tmp_path, by="random", val=0.5, lists=True, overwrite=True)
    assert [path.name for path in (tmp_path / "splits").iterdir()] == ["random.csv"]
    assert (tmp_path / "splits" / "random.csv").read_bytes() == before


def test_a_large_scene_is_divided_and_what_lies_between_is_in_no_part(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LEAST", 9)
    monkeypatch.setattr(blocks, "_SIDE", 1)
    monkeypatch.setattr("landseg.verbs.split.SLACK", 0.5)
    result = split(data, val=0.2)
    placed = {tile.tile: tile for tile in read_split(open_dataset(data), "scene").tiles}
    assert result.summary.buffer == SCENES * 16 - len(placed) > 0
    assert "are in no part" in result.as_text()
    cells = {(tile.scene, int(tile.row), int(tile.col)): tile.part for tile in placed.values() if tile.row}
    for (scene, row, col), part in cells.items():
        for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
            assert cells.get((scene, row + down, col + across), part) == part
    groups = defaultdict(set)
    for tile in placed.values():
        groups[tile.group].add(tile.part)
    assert all(len(parts) == 1 for parts in groups.values())


def test_an_existing_split_stays(data: Path) -> None:
    first = split(data).path.read_bytes()
    with pytest.raises(LandsegError, match="exists already"):
        split(data, seed=1)
    assert (data / "splits" / "scene.csv").read_bytes() == first
    split(data, seed=1, val=0.3, overwrite=True)
    assert (data / "splits" / "scene.csv").read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"by": "place"}, "--by"),
        ({"by": "group"}, "--groups: missing"),
        ({"by": "random", "groups": "x"}, "--groups: given with --by random"),
        ({"by": "random", "val": 0.8, "test": 0.2}, "val 0.8 and test 0.2"),
        ({"require": "clean"}, "--require: nothing to look for"),
        ({"require": "dirty", "check": True}, "--require"),
        ({"check": True, "against": "x"}, "--check: given with --against"),
        ({"check": True}, "no split"),
        ({"against": "nowhere"}, "nowhere: it is not there"),
        ({"by": "random", "name": "a/b"}, "--name"),
        ({"by": "random", "name": "n" * 300}, "--name"),
        ({"seed": -1}, "--seed: -1"),
        ({"by": "file", "folds": 3, "val": 0.2}, "given with --by file, .* leave out --val, --folds"),
        ({"check": True, "lists": True, "seed": 1}, "given with --check, .* leave out --seed, --lists"),
        ({"against": "x", "name": "y"}, "--name: given with --against"),
        ({"folds": 2, "val": 0.5}, "--val: given with --folds"),
    ],
)
def test_what_cannot_be_meant_is_refused(data: Path, arguments: dict[str, object], found: str) -> None:
    with pytest.raises(LandsegError, match=found):
        verb(data, **arguments)  # type: ignore[arg-type]


def test_check_among_several_splits_says_where_the_name_goes(data: Path) -> None:
    split(data, by="random", folds=2)
    with pytest.raises(LandsegError, match="name one with --name random-1"):
        look(data, check=True)


def test_a_data_set_that_cannot_be_written_is_refused_before_the_search(tmp_path: Path) -> None:
    tiles(tmp_path, noise(4))
    (tmp_path / "splits").write_text("", encoding="utf-8")
    with pytest.raises(LandsegError, match=r"splits: it cannot be written .* mend the permissions or copy the data set"):
        split(tmp_path)
    assert not (tmp_path / "pack").exists()


def test_check_finds_the_neighbours_that_a_random_split_parts(data: Path) -> None:
    split(data, by="random", val=0.25)
    result = look(data, check=True, name="random")
    assert not result.leaks.is_clean and result.leaks.counts["neighbour"] > 20
    assert result.page == data / "splits" / "random.leaks.html" and result.page.is_file()
    with pytest.raises(LandsegError, match="pairs of tiles leak") as caught:
        look(data, check=True, require="clean")
    assert caught.value.is_gate and caught.value.result.as_json()["is_clean"] is False


def test_a_split_by_scene_passes_the_gate(data: Path) -> None:
    split(data, val=0.25)
    assert look(data, check=True, require="clean").leaks.is_clean


def test_against_finds_copies_in_another_set(data: Path, invented: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    others = tmp_path / "others"
    others.mkdir()
    for i, tile in enumerate(dataset.tiles[:3]):
        (others / f"{tile.name if i == 0 else i}.jpg").write_bytes(tile.image.read_bytes())
    (others / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    result = look(data, against=others)
    assert result.leaks.counts["exact copy"] == 3 and len(result.leaks.ground.equal_names) == 1
    assert result.page == data / "splits" / "against-others.leaks.html"
    clean = look(data, against=invented / "img_test.zip", require="clean")
    assert clean.page.name == "against-img_test.zip.leaks.html"
    assert clean.leaks.is_clean and "exact copy" in clean.as_text()


def test_against_images_of_another_kind_is_refused(data: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((64, 64), np.uint8))
    with pytest.raises(LandsegError, match="1 bands of uint8, images of 3 bands of uint8"):
        look(data, against=tmp_path / "grey.png")


def tiles(folder: Path, images: list[np.ndarray], labels: list[np.ndarray] | None = None, suffix: str = ".png") -> Path:
    for i, image in enumerate(images):
        label = np.full(image.shape[:2], i % 2, np.uint8) if labels is None else labels[i]
        for place, pixels in (("images", image), ("labels", label)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            if suffix == ".npy" and place == "images":
                np.save(folder / place / f"t{i:02d}.npy", pixels)
            else:
                cv2.imwrite(str(folder / place / f"t{i:02d}.png"), pixels)
    bands = (
        ("red", "green", "blue") if images[0].ndim == 3 and images[0].shape[2] == 3 else tuple(f"b{k}" for k in range(_bands(images[0])))
    )
    write_info(folder, DatasetInfo(name="odd", classes=world.CLASSES, bands=bands))
    return folder


def _bands(image: np.ndarray) -> int:
    return 1 if image.ndim == 2 else image.shape[2]


def noise(count: int, shape: tuple[int, ...] = (48, 48, 3), dtype: type = np.uint8, most: int = 255) -> list[np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(0))
    return [rng.integers(0, most, shape).astype(dtype) for _ in range(count)]


def test_one_tile_cannot_be_split(tmp_path: Path) -> None:
    for by in (None, "scene", "random"):
        with pytest.raises(LandsegError, match="1 tile, at least 2"):
            split(tiles(tmp_path, noise(1)), by=by)


def test_equal_tiles_are_one_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiles(tmp_path, noise(1) * 6)
    with pytest.raises(LandsegError, match="6 tiles in 1 group"):
        split(folder, by="scene")
    with caplog.at_level(logging.WARNING, "landseg"):
        assert split(folder, val=0.5).by == "random"
    assert "by random instead" in caplog.text and not (folder / "splits" / "scene.csv").exists()


@pytest.mark.parametrize("value", [0, 130])
def test_featureless_tiles_stay_alone(tmp_path: Path, value: int) -> None:
    result = split(tiles(tmp_path, [np.full((48, 48, 3), value, np.uint8)] * 8), by="scene", val=0.25)
    assert result.recovery["scenes"] == 0 and result.recovery["unplaced"] == 8
    assert result.summary.parts == {"train": 6, "val": 2}
    assert any("not recognised" in note for note in result.notes)


@pytest.mark.parametrize(
    ("shape", "dtype", "most", "suffix"),
    [((48, 48), np.uint16, 4096, ".png"), ((48, 48), np.uint8, 255, ".png"), ((40, 56, 5), np.float32, 9, ".npy")],
)
def test_other_depths_and_bands(tmp_path: Path, shape: tuple[int, ...], dtype: type, most: int, suffix: str) -> None:
    result = split(tiles(tmp_path, noise(8, shape, dtype, most), suffix=suffix), by="scene", val=0.25)
    assert sum(result.summary.parts.values()) == 8 and (tmp_path / "splits" / "scene.html").is_file()


def test_mixed_sizes_and_unlabelled_tiles(tmp_path: Path) -> None:
    images = [*noise(4), *noise(3, (32, 64, 3)), *noise(1, (20, 20, 3))]
    labels = [np.full(image.shape[:2], 255 if i % 2 else 1, np.uint8) for i, image in enumerate(images)]
    result = split(tiles(tmp_path, images, labels), by="scene", val=0.25)
    assert sum(result.summary.parts.values()) == 8
    assert result.summary.class_share["val"][world.CLASSES[1].name] == 1.0, "val has labels"


def test_a_set_without_labels_is_refused(tmp_path: Path) -> None:
    tiles(tmp_path, noise(3))
    write_info(tmp_path, DatasetInfo(name="test", labels=None))
    with pytest.raises(LandsegError, match="without labels"):
        split(tmp_path)


def test_tiles_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    tiles(tmp_path, noise(5))
    (tmp_path / "images" / "t02.png").write_bytes(b"no picture")
    result = split(tmp_path, by="random", val=0.25)
    assert result.left_out == ("t02",) and sum(result.summary.parts.values()) == 4
