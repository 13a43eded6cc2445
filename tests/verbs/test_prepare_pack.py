"""`prepare --pack`: tiles in two zips instead of in as many files; every verb does with them what it does with folders."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner
from rasterio.crs import CRS

from landseg.cli import main
from landseg.core import files as core_files
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import packing, raster, staging, world
from landseg.data.archive import write_zip
from landseg.data.dataset import open_dataset
from landseg.data.pack import content_fingerprint, open_tiles
from landseg.data.sink import Sink
from landseg.data.staging import STAGING
from landseg.data.tiles import encode_label, read_bytes
from landseg.splitting.assignment import read_split
from landseg.verbs.audit import audit
from landseg.verbs.evaluate import evaluate
from landseg.verbs.predict import predict
from landseg.verbs.prepare import prepare
from landseg.verbs.preview import preview
from landseg.verbs.split import split
from landseg.verbs.submit import submit
from landseg.verbs.train import train

NAMES = ",".join(item.name for item in world.CLASSES)
TINY = ["train.epochs=1", "train.batch=4", "train.device=cpu", "model.network=unet", "model.encoder=mobilenetv3_small_050"]
ENGINE = ["predict.device=cpu", "predict.engine=torch"]


def write_world(folder: Path, size: int = 96) -> None:
    """Two invented scenes 100 km apart, and their label rasters."""
    for seed in range(2):
        made = world.make_scene(seed, size, size)
        grid = Grid(size, size, Affine(2, 0, 500_000 + 100_000 * seed, 0, -2, 4_000_000), CRS.from_epsg(32650))
        raster.write(folder / "images" / f"north_{seed}.tif", made.image, grid)
        raster.write(folder / "labels" / f"north_{seed}_label.tif", made.truth, grid)


def cut(folder: Path, out: Path, **options: object) -> Path:
    prepare([folder / "images"], out, labels=folder / "labels", classes=NAMES, tile=32, **options)  # type: ignore[arg-type]
    return out


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents(data: Path) -> dict[str, tuple[bytes, bytes]]:
    return {tile.name: (read_bytes(tile.image), read_bytes(tile.label or Path())) for tile in open_dataset(data).tiles}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same scenes, cut into folders and into zips; both divided by scene."""
    root = tmp_path_factory.mktemp("twins")
    write_world(root)
    made = cut(root, root / "a" / "data"), cut(root, root / "b" / "data", pack=True)
    for data in made:
        split(data, val=0.5)
    return made


@pytest.fixture(scope="module")
def run(twins: tuple[Path, Path]) -> Path:
    """A model that was trained on the folders."""
    train(twins[0], twins[0].parent / "run", recipe="tiny", settings=TINY)
    return twins[0].parent / "run"


def test_no_tile_is_a_file_and_the_pack_is_there(tmp_path: Path) -> None:
    write_world(tmp_path)
    data = cut(tmp_path, tmp_path / "data", pack=True)
    index = ["pack/.lock", "pack/images.bin", "pack/index.csv", "pack/labels.bin", "pack/pack.json"]
    assert files(data) == ["dataset.yaml", "images.zip", "labels.zip", *index]
    info = open_dataset(data).info
    assert (info.images, info.labels) == ("images.zip", "labels.zip")
    with zipfile.ZipFile(data / "images.zip") as opened:
        assert {item.compress_type for item in opened.infolist()} == {zipfile.ZIP_STORED}
        assert opened.namelist() == sorted(opened.namelist()) and len(opened.namelist()) == 18


def test_the_tiles_and_their_pack_are_those_of_folders(twins: tuple[Path, Path]) -> None:
    plain, packed = twins
    assert contents(plain) == contents(packed)
    made = {name: (packed / "pack" / name).read_bytes() for name in ("images.bin", "labels.bin", "index.csv")}
    stores = [open_tiles(open_dataset(data)) for data in twins]
    assert content_fingerprint(stores[0]) == content_fingerprint(stores[1])
    assert made == {name: (plain / "pack" / name).read_bytes() for name in made}


def test_the_pack_that_prepare_made_is_taken_as_it_is(twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    monkeypatch.setattr(packing, "write", lambda *words, **_: written.append(words))
    assert open_tiles(open_dataset(twins[1])).is_mapped and not written
    os.utime(twins[1] / "images.zip")  # as a copy to another disk has it
    assert open_tiles(open_dataset(twins[1])).is_mapped and not written


def test_without_the_pack_tiles_are_read_from_the_zips(twins: tuple[Path, Path]) -> None:
    mapped, read = (open_tiles(open_dataset(twins[1]), use_pack=use) for use in (True, False))
    assert mapped.is_mapped and not read.is_mapped
    for i in range(len(mapped.entries)):
        assert np.array_equal(mapped.image(i), read.image(i)) and np.array_equal(mapped.label(i), read.label(i))


def test_audit_finds_the_same(twins: tuple[Path, Path], tmp_path: Path) -> None:
    found = []
    for i, data in enumerate(twins):
        audit(data, out=tmp_path / str(i))
        documents = [(tmp_path / str(i) / name).read_text(encoding="utf-8") for name in ("audit.json", "audit.html")]
        found.append([text.replace(str(data), "DATA").replace(f"{tmp_path}/{i}", "OUT") for text in documents])
    assert found[0] == found[1] and json.loads(found[0][0])["pairs"] == 18


def test_split_by_scene_reads_where_tiles_in_a_zip_lie(twins: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = (read_split(open_dataset(data), "scene") for data in twins)
    assert one == other and {item.part for item in one.tiles} == {"train", "val"}
    assert {item.scene for item in other.tiles} != {""} and len({item.group for item in other.tiles}) == 2
    written = [{name: (data / "splits" / name).read_bytes() for name in ("scene.csv", "scene.edges.csv")} for data in twins]
    assert written[0] == written[1]
    # Deflated tiles lie where they lay too.
    tiles = {role: [(f"{name}.tif", pair[i]) for name, pair in contents(twins[1]).items()] for i, role in enumerate(("images", "labels"))}
    for role, entries in tiles.items():
        write_zip(tmp_path / f"{role}.zip", entries)
        with zipfile.ZipFile(tmp_path / f"{role}.zip") as opened:
            assert {item.compress_type for item in opened.infolist()} == {zipfile.ZIP_DEFLATED}
    (tmp_path / "dataset.yaml").write_bytes((twins[1] / "dataset.yaml").read_bytes())
    split(tmp_path, val=0.5)
    assert {name: (tmp_path / "splits" / name).read_bytes() for name in written[0]} == written[0]


def test_lists_for_other_tools_need_files(twins: tuple[Path, Path]) -> None:
    with pytest.raises(LandsegError, match=r"--lists: tiles lie in .*images\.zip, files, for PaddleX"):
        split(twins[1], by="random", lists=True, name="lists")
    assert not (twins[1] / "splits" / "lists.csv").exists()


def test_training_and_its_preview_draw_the_same(twins: tuple[Path, Path], run: Path) -> None:
    other = twins[1].parent / "run"
    train(twins[1], other, recipe="tiny", settings=TINY)
    assert (other / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()
    cards = [json.loads((place / "model" / "model.json").read_text(encoding="utf-8")) for place in (run, other)]
    assert cards[0] == cards[1]
    pages = [preview(data, data.parent / "seen", recipe="tiny", settings=TINY).page.read_bytes() for data in twins]
    assert pages[0] == pages[1]


def test_evaluate_scores_the_same(twins: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    scored = [evaluate(run, data, out=tmp_path / str(i), settings=ENGINE) for i, data in enumerate(twins)]
    assert np.array_equal(scored[0].scores.confusion, scored[1].scores.confusion) and scored[0].scores.confusion.sum() > 0
    assert scored[0].intervals == scored[1].intervals


def test_predict_takes_it_as_an_input_and_submit_as_the_images(twins: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    for i, data in enumerate(twins):
        assert predict(run, data, tmp_path / str(i), settings=ENGINE).as_json()["files"] == 18
    maps = [{name: (tmp_path / i / name).read_bytes() for name in files(tmp_path / i) if name.endswith(".png")} for i in "01"]
    assert maps[0] == maps[1] and len(maps[0]) == 18
    for target in (twins[1], twins[1] / "images.zip" / "maps"):
        with pytest.raises(LandsegError, match="the input"):
            predict(run, twins[1], target, overwrite=True)
    # Stems stand once in a submission: a scene for each.
    for i, data in enumerate(twins):
        with pytest.raises(LandsegError, match="the same") as caught:
            submit(tmp_path / str(i), images=data, out=tmp_path / f"{i}.zip")
        assert "/north_1/0000_0000" in str(caught.value)


def test_submit_lints_against_the_sizes_of_tiles_in_a_zip(tmp_path: Path) -> None:
    made = world.write_competition(tmp_path, 3, train_scenes=1, test_scenes=1, height=64, width=64, tile=32, unlabelled_tiles=False)
    prepare([made.test_zip], tmp_path / "a")
    prepare([made.test_zip], tmp_path / "b", pack=True)
    for name in "ab":
        submit(made.truth, images=tmp_path / name, out=tmp_path / f"{name}.zip", classes=5)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_zips_of_tiles_are_referred_to_and_not_unpacked(tmp_path: Path) -> None:
    made = world.write_competition(tmp_path, 3, train_scenes=1, test_scenes=1, height=64, width=64, tile=32, unlabelled_tiles=False)
    before = made.train_zip.read_bytes()
    plain = prepare([made.train_zip], tmp_path / "a", classes=NAMES)
    packed = prepare([made.train_zip], tmp_path / "b", classes=NAMES, pack=True)
    assert {**plain.as_json(), "dataset": ""} == {**packed.as_json(), "dataset": ""}
    info = open_dataset(tmp_path / "b").info
    assert (info.images, info.labels) == ("../train_and_label.zip/img_train", "../train_and_label.zip/lab_train")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and made.train_zip.read_bytes() == before
    assert [name for name in files(tmp_path / "b") if not name.startswith("pack/")] == ["dataset.yaml"]


def two_halves(root: Path) -> dict[str, Path]:
    """The same tiles in zips and in folders: ``north``, ``north.zip``, ``other/north.zip``, and the south's."""
    world.write_tiles(root / "tiles", 1, 8, tile=32)
    made = {}
    for half, first in (("north", 0), ("south", 4)):
        names = [f"{role}/tile_{i:04d}.png" for role in ("images", "labels") for i in range(first, first + 4)]
        entries = {name: (root / "tiles" / name).read_bytes() for name in names}
        for name in (f"{half}.zip", f"other/{half}.zip"):
            made[name] = root / "in" / name
            write_zip(made[name], entries.items())
        made[half] = root / "in" / half
        for name, data in entries.items():
            (made[half] / name).parent.mkdir(parents=True, exist_ok=True)
            (made[half] / name).write_bytes(data)
    return made


def coco(tiles: Iterable[int]) -> str:
    """A COCO document: a roof in each of these tiles."""
    square: dict[str, object] = {"category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 25, 2, 25]], "iscrowd": 0}
    document = {
        "images": [{"id": i, "file_name": f"images/tile_{i:04d}.png", "width": 32, "height": 32} for i in tiles],
        "annotations": [{"id": i, "image_id": i, **square} for i in tiles],
        "categories": [{"id": 1, "name": "roof"}],
    }
    return json.dumps(document)


@pytest.mark.parametrize(
    ("sources", "prefixes"),
    [
        (["north.zip", "south.zip"], ["north/", "south/"]),
        (["north.zip", "other/south.zip"], ["north/", "south/"]),
        (["south.zip", "other/south.zip"], ["south-1/", "south/"]),
        (["north.zip", "south"], ["north/", "south/"]),
        (["north.zip", "north"], ["north-1/", "north/"]),
        (["north", "south"], ["north/", "south/"]),
        (["north.zip", "north.zip"], [""]),
    ],
)
def test_names_of_tiles_do_not_tell_where_zips_lie_and_none_is_lost(tmp_path: Path, sources: list[str], prefixes: list[str]) -> None:
    made = two_halves(tmp_path)
    plain, packed = (prepare([made[name] for name in sources], tmp_path / out, classes=NAMES, pack=out == "b") for out in "ab")
    assert {**plain.as_json(), "dataset": ""} == {**packed.as_json(), "dataset": ""}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == plain.pairs == 4 * len(prefixes)
    assert sorted({name.removesuffix(name.rpartition("/")[2]) for name in contents(tmp_path / "b")}) == prefixes


def test_names_of_annotated_tiles_do_not_tell_where_zips_lie(tmp_path: Path) -> None:
    made = two_halves(tmp_path)
    write_zip(tmp_path / "coco.zip", [("coco.json", coco(range(8)).encode())])
    for half, first in (("north", 0), ("south", 4)):
        names = [f"images/tile_{i:04d}.png" for i in range(first, first + 4)]
        write_zip(made[f"{half}.zip"], [(name, (tmp_path / "tiles" / name).read_bytes()) for name in names])
    sources = [made["north.zip"], made["south.zip"], tmp_path / "coco.zip"]
    plain, packed = (prepare(sources, tmp_path / out, pack=out == "b") for out in "ab")
    assert {**plain.as_json(), "dataset": ""} == {**packed.as_json(), "dataset": ""} and plain.pairs == 8
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a"))[::4] == ["north/images/tile_0000", "south/images/tile_0004"]


def test_texts_beside_the_tiles_unpack_no_zip(tmp_path: Path) -> None:
    made = two_halves(tmp_path)
    with zipfile.ZipFile(made["north.zip"], "a") as target:
        target.writestr("README.txt", "Tiles of the north. A tile has 32 pixels a side.")
        target.writestr("images/tile_0000.png.aux.xml", "<PAMDataset/>")
        target.writestr("item.json", json.dumps({"type": "Feature", "assets": {}}))
    plain, packed = (prepare([made["north.zip"]], tmp_path / out, classes=NAMES, pack=out == "b") for out in "ab")
    assert {**plain.as_json(), "dataset": ""} == {**packed.as_json(), "dataset": ""}
    assert packed.left_out == ("north.zip/README.txt and 2 more files: no image files",)
    assert open_dataset(tmp_path / "b").info.images == "../in/north.zip/images" and contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_link_to_a_zip_of_another_name_is_unpacked(tmp_path: Path) -> None:
    made = two_halves(tmp_path)
    made["north.zip"].rename(tmp_path / "4f2c")  # as caches of downloads keep it
    (tmp_path / "link.zip").symlink_to(tmp_path / "4f2c")
    prepare([tmp_path / "link.zip"], tmp_path / "data", classes=NAMES, pack=True)
    assert open_dataset(tmp_path / "data").info.images == "images.zip" and len(contents(tmp_path / "data")) == 4


def test_room_for_the_zips_is_asked_for_before_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_halves(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(core_files, "free_bytes", lambda _: 1000)
    with pytest.raises(LandsegError, match=r"1\.0 kB free, packing images takes .* kB"):
        prepare([made["north"], made["south"]], tmp_path / "data", classes=NAMES, pack=True)
    assert files(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
@pytest.mark.parametrize("is_refused", [False, True])
def test_no_zip_stays_open_that_was_moved_or_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_refused: bool) -> None:
    made = two_halves(tmp_path)
    (made["north"] / "coco.json").write_text(coco(range(4)), encoding="utf-8")
    shutil.rmtree(made["north"] / "labels")
    if is_refused:
        monkeypatch.setattr(staging.Staging, "place", lambda *_: (_ for _ in ()).throw(LandsegError("a", "b", "c", "d")))
    for is_packed in (True, False):
        with pytest.raises(LandsegError) if is_refused else nullcontext():
            prepare([made["north"]], tmp_path / "data", pack=is_packed, overwrite=True)
        opened = [str(place.readlink()) for place in Path("/proc/self/fd").iterdir() if place.is_symlink()]
        assert not [name for name in opened if str(tmp_path) in name and (STAGING in name or "deleted" in name)]


def test_mended_labels_are_mended_in_the_zip_too(tmp_path: Path) -> None:
    world.write_tiles(tmp_path / "tiles", 1, 6, tile=32)
    rng = np.random.default_rng(0)
    # Images and labels mixed in one folder, ids counted from one: neither can be referred to as it is.
    entries = {}
    for i in range(6):
        entries[f"{i}_image.png"] = (tmp_path / "tiles" / "images" / f"tile_{i:04d}.png").read_bytes()
        entries[f"{i}_label.png"] = encode_label(rng.integers(1, 6, (32, 32), np.uint8))
    write_zip(tmp_path / "mixed.zip", entries.items())
    plain = prepare([tmp_path / "mixed.zip"], tmp_path / "a", classes=NAMES, mend=True)
    packed = prepare([tmp_path / "mixed.zip"], tmp_path / "b", classes=NAMES, mend=True, pack=True)
    assert plain.class_pixels == packed.class_pixels and plain.reasons == packed.reasons
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and open_dataset(tmp_path / "b").info.images == "images.zip"
    assert open_dataset(tmp_path / "a").info.remap == open_dataset(tmp_path / "b").info.remap != {}


def test_a_damaged_tile_of_a_zip_is_left_out_by_name(tmp_path: Path) -> None:
    made = world.write_competition(tmp_path, 3, train_scenes=1, test_scenes=1, height=64, width=64, tile=32, unlabelled_tiles=False)
    data = bytearray(made.train_zip.read_bytes())
    with zipfile.ZipFile(made.train_zip) as opened:
        hurt = opened.namelist()[0]
        data[opened.getinfo(hurt).header_offset + 100] ^= 0xFF
    made.train_zip.write_bytes(data)
    done = prepare([made.train_zip], tmp_path / "data", classes=NAMES, pack=True)
    assert [(item.file, "damaged in the zip" in item.reason) for item in done.unreadable] == [(f"train_and_label.zip/{hurt}", True)]
    assert len(open_tiles(open_dataset(tmp_path / "data")).entries) == 3


@pytest.mark.parametrize(("damage", "found"), [("cut", "not a readable zip"), ("gone", "is not there"), ("twice", "stands there twice")])
def test_a_zip_that_is_none_any_more_is_one_line_to_every_reader(twins: tuple[Path, Path], tmp_path: Path, damage: str, found: str) -> None:
    for name in ("images.zip", "labels.zip", "dataset.yaml"):
        (tmp_path / name).write_bytes((twins[1] / name).read_bytes())
    place = tmp_path / "labels.zip"
    if damage == "cut":
        place.write_bytes(place.read_bytes()[:-200])
    elif damage == "gone":
        place.unlink()
    else:
        with zipfile.ZipFile(place, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
            target.writestr("north_0/0000_0000.tif", b"another")
    for words in (["split"], ["train", "--out", "run"], ["predict", "--out", "maps"]) if damage != "gone" else (["split"],):
        verb, *rest = words
        named = [str(tmp_path / "nowhere")] * (verb == "predict")
        done = CliRunner().invoke(main, [verb, *named, str(tmp_path), *(str(tmp_path / w) if w[0] != "-" else w for w in rest)])
        assert done.exit_code == 2 and "labels.zip" in done.output and found in done.output, done.output


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path, size=64)
    before, done, real = files(tmp_path), itertools.count(), zipfile.ZipFile.writestr

    def full(*words: object, **options: object) -> None:
        if next(done) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(LandsegError, match="No space left") as caught:
        cut(tmp_path, tmp_path / "data", pack=True)
    assert STAGING not in str(caught.value) and files(tmp_path) == before and not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["annotations", "lists"])
def test_annotations_and_lists_that_lie_in_a_zip_give_the_same_set(tmp_path: Path, kind: str) -> None:
    world.write_tiles(tmp_path / "tiles", 1, 4, tile=32)
    names = [f"tile_{i:04d}.png" for i in range(4)]
    entries = {f"images/{name}": (tmp_path / "tiles" / "images" / name).read_bytes() for name in names}
    if kind == "annotations":
        entries["coco.json"] = coco(range(4)).encode()
    else:
        entries |= {f"labels/{name}": (tmp_path / "tiles" / "labels" / name).read_bytes() for name in names}
        entries["train_list.txt"] = "".join(f"images/{name} labels/{name}\n" for name in names[:3]).encode()
        entries["val_list.txt"] = f"images/{names[3]} labels/{names[3]}\n".encode()
        entries["labels.txt"] = NAMES.replace(",", "\n").encode()
    write_zip(tmp_path / "set.zip", entries.items())
    plain, packed = (prepare([tmp_path / "set.zip"], tmp_path / name, pack=name == "b") for name in "ab")
    assert {**plain.as_json(), "dataset": ""} == {**packed.as_json(), "dataset": ""} and packed.pairs == 4
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "b").iterdir() if path.is_file()) == ["dataset.yaml", "images.zip", "labels.zip"]
    assert files(tmp_path / "a" / "splits") == files(tmp_path / "b" / "splits") == ([] if kind == "annotations" else ["file.csv"])


@pytest.mark.parametrize("moment", ["a tile", "write_info", "commit"])
def test_an_interrupted_prepare_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    write_world(tmp_path, size=64)
    expected = contents(cut(tmp_path, tmp_path / "expected"))
    out, done = tmp_path / "data", itertools.count()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "a tile":
            put = Sink.put
            patch.setattr(Sink, "put", lambda *words: interrupt() if next(done) == 5 else put(*words))
        elif moment == "commit":
            rename = Path.rename
            patch.setattr(Path, "rename", lambda self, goal: interrupt() if goal == out / "labels.zip" else rename(self, goal))
        else:
            patch.setattr(staging, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            cut(tmp_path, out, pack=True)
    assert not (out / "dataset.yaml").exists() and (out / STAGING).is_dir()
    (out / STAGING / ".images.zip.1.partial").write_bytes(b"PK")  # of a process that was killed and could not clean up
    assert contents(cut(tmp_path, out, pack=True)) == expected and not (out / STAGING).exists()


def test_an_interrupted_pack_is_written_by_whoever_reads_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_world(tmp_path, size=64)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, caplog.at_level("INFO", "landseg"), pytest.raises(KeyboardInterrupt):
        patch.setattr(packing, "write", interrupt)
        cut(tmp_path, tmp_path / "data", pack=True)
    assert "the data set stands" in caplog.text and not (tmp_path / "data" / "pack" / "images.bin").exists()
    with pytest.raises(LandsegError, match="exists already"):
        cut(tmp_path, tmp_path / "data", pack=True)
    split(tmp_path / "data", val=0.5)
    assert (tmp_path / "data" / "pack" / "images.bin").is_file()


def test_one_kind_replaces_the_other(tmp_path: Path) -> None:
    write_world(tmp_path, size=64)
    out = cut(tmp_path, tmp_path / "data", pack=True)
    expected = contents(out)
    with pytest.raises(LandsegError, match="exists already"):
        cut(tmp_path, out, pack=True)
    cut(tmp_path, out, overwrite=True)
    assert (out / "images").is_dir() and not list(out.glob("*.zip")) and contents(out) == expected
    cut(tmp_path, out, overwrite=True, pack=True)
    assert (out / "images.zip").is_file() and not (out / "images").exists() and contents(out) == expected


def test_the_option(tmp_path: Path) -> None:
    write_world(tmp_path, size=64)
    words = ["prepare", tmp_path / "images", "--labels", tmp_path / "labels", "--classes", NAMES, "--tile", "32", "--pack"]
    done = CliRunner().invoke(main, [*map(str, words), "--out", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "data" / "images.zip").is_file() and (tmp_path / "data" / "pack" / "images.bin").is_file()
