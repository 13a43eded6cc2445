"""Prepare, with labels as people have them: refused with the way out, or mended by a stated rule that dataset.yaml holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.data.archive import write_zip
from landseg.data.dataset import open_dataset
from landseg.data.pack import open_tiles
from landseg.data.tiles import encode_label
from landseg.splitting.assignment import read_split
from landseg.verbs.prepare import Prepared, prepare

RNG = np.random.default_rng(6)
NAMES = ["building", "land", "road"]
CLASSES = make_classes(NAMES, ["#c8553d", "#dcc7a1", "#6c6f7d"])
COLOURS = np.array([item.rgb for item in CLASSES] + [(1, 2, 3)] * 253, np.uint8)
TRUTH = {f"T{i}": cv2.resize(RNG.integers(0, 3, (4, 5), np.uint8), (40, 32), interpolation=cv2.INTER_NEAREST) for i in range(8)}
for _i, _label in enumerate(TRUTH.values()):
    _label[:2, : 5 * _i] = 255


def photo(size: tuple[int, int] = (32, 40)) -> bytes:
    return bytes(cv2.imencode(".png", RNG.integers(0, 256, (*size, 3), np.uint8))[1])


def png(array: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", array[:, :, ::-1] if array.ndim == 3 else array)[1])


def make(folder: Path, encode: Callable[[str, np.ndarray], bytes], ending: str = ".png") -> Path:
    for name, ids in TRUTH.items():
        for place, content in ((f"images/{name}.png", photo()), (f"labels/{name}{ending}", encode(name, ids))):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
    return folder


def labels_of(folder: Path) -> dict[str, np.ndarray]:
    """Labels as training will see them."""
    store = open_tiles(open_dataset(folder))
    return {entry.name: np.array(store.label(i)) for i, entry in enumerate(store.entries)}


def equals_truth(result: Prepared, truth: dict[str, np.ndarray] = TRUTH) -> None:
    found = labels_of(result.dataset)
    assert found.keys() == truth.keys() and all(np.array_equal(found[name], truth[name]) for name in truth)
    pixels = np.sum([np.bincount(ids.ravel(), minlength=256) for ids in truth.values()], axis=0)
    assert list(result.class_pixels.values()) == pixels[: len(result.classes)].tolist()


def said(result: Prepared) -> dict[str, object]:
    """dataset.yaml, which a person reads."""
    found: dict[str, object] = yaml.safe_load((result.dataset / "dataset.yaml").read_text(encoding="utf-8"))
    return found


def refused_then_mended(source: Path, tmp_path: Path, *words: str, classes: str = ",".join(NAMES), **options: object) -> Prepared:
    """Refused with these words and ``--mend``; then mended."""
    with pytest.raises(LandsegError) as caught:
        prepare([source], tmp_path / "data", classes=classes, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in (*words, "--mend")), message
    assert "\n" not in message and not caught.value.is_gate and not (tmp_path / "data").exists()
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    result = prepare([source], tmp_path / "data", classes=classes, mend=True, **options)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before, "no file of the user is rewritten"
    document = json.loads(json.dumps(result.as_json()))
    assert document["mended"] == said(result).get("mended", {}) and document["mend"] == said(result).get("mend", {})
    assert all(reason in result.as_text() for reason in result.reasons)
    return result


def test_mending_what_is_right_changes_nothing(tmp_path: Path) -> None:
    result = prepare([make(tmp_path / "x", lambda _, ids: png(ids))], tmp_path / "data", classes=",".join(NAMES), mend=True)
    equals_truth(result)
    assert not result.mended and not result.mend and not result.reasons and "mend" not in said(result)


def test_ids_from_one(tmp_path: Path) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(np.where(ids == 255, 255, ids + 1).astype(np.uint8)))
    result = refused_then_mended(source, tmp_path, "label value 3", "count from 1", "remap")
    equals_truth(result)
    assert said(result)["remap"] == {1: 0, 2: 1, 3: 2} and result.mended == {"remap": 8}


def stated(error: LandsegError, tmp_path: Path, start: str) -> str:
    """A file of classes with what the message says to write."""
    text = error.do[error.do.index(start) :]
    (tmp_path / "classes.yaml").write_text(text[: text.index("]" if start[0] == "[" else "}") + 1], encoding="utf-8")
    return str(tmp_path / "classes.yaml")


def test_ids_from_one_or_a_class_without_a_name_is_for_the_user_to_say(tmp_path: Path) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(np.where(ids == 255, 0, ids + 1).astype(np.uint8)))
    for mend in (False, True):
        with pytest.raises(LandsegError, match="if a class has no name, add it to --classes") as caught:
            prepare([source], tmp_path / "data", classes=",".join(NAMES), mend=mend)
    result = prepare([source], tmp_path / "data", classes=stated(caught.value, tmp_path, "[{name"))
    equals_truth(result)
    assert said(result)["remap"] == {0: 255, 1: 0, 2: 1, 3: 2}


def test_255_as_a_class_or_unlabelled_is_for_the_user_to_say(tmp_path: Path) -> None:
    truth = {name: (ids == 1).astype(np.uint8) for name, ids in TRUTH.items()}
    source = make(tmp_path / "x", lambda name, _: png(truth[name] * np.uint8(255)))
    for mend in (False, True):
        with pytest.raises(LandsegError, match="255 may be land, or unlabelled") as caught:
            prepare([source], tmp_path / "data", classes="soil,land", mend=mend)
    equals_truth(prepare([source], tmp_path / "mask", classes=stated(caught.value, tmp_path, "[{name"), mend=True), truth)
    result = prepare([source], tmp_path / "sparse", classes=stated(caught.value, tmp_path, "{classes"), mend=True)
    assert result.class_pixels["land"] == 0 and result.class_pixels["soil"] > 0


def test_labels_off_by_one_are_resized_and_others_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def encode(name: str, ids: np.ndarray) -> bytes:
        if name == "T1":
            return png(np.pad(ids, ((0, 1), (0, 1)), mode="edge"))
        return png(ids[::2, ::2]) if name == "T2" else png(ids)

    source = make(tmp_path / "x", encode)
    result = refused_then_mended(source, tmp_path, "T1.png", "33 × 41", "1 more file")
    assert said(result)["mend"] == {"resize_within": 1} and result.mended == {"resize_within": 1}
    assert said(result)["left_out"] == dict(result.unmended) == {"T2": "a label of 16 × 20 pixels for an image of 32 × 40"}
    found = labels_of(tmp_path / "data")
    assert found.keys() == TRUTH.keys() - {"T2"} and (found["T1"] == TRUTH["T1"]).mean() > 0.8
    assert "T2 (a label of" in caplog.text and "T2" in result.as_text()
    assert result.as_json()["unmended"][0]["tile"] == "T2"


def test_stray_values_become_unlabelled(tmp_path: Path) -> None:
    truth = {name: ids.copy() for name, ids in TRUTH.items()}
    truth["T3"][5, :4] = truth["T4"][6, 6] = 255

    def encode(name: str, ids: np.ndarray) -> bytes:
        spoilt = np.where((truth[name] == 255) & (ids != 255), 77, ids).astype(np.uint8)
        return png(spoilt)

    result = refused_then_mended(make(tmp_path / "x", encode), tmp_path, "label value 77 in 4 pixels", "1 more file", "landseg audit")
    equals_truth(result, truth)
    assert said(result)["mend"] == {"illegal": "ignore"} and result.mended == {"illegal": 2}


def test_a_slip_beside_the_ids_is_not_taken_for_ids_from_one(tmp_path: Path) -> None:
    def encode(name: str, ids: np.ndarray) -> bytes:
        ids = ids.copy()
        ids[0, 0] = len(NAMES) if name == "T1" else ids[0, 0]
        ids[1, 1] = 0
        return png(ids)

    with pytest.raises(LandsegError) as caught:
        prepare([make(tmp_path / "x", encode)], tmp_path / "data", classes=",".join(NAMES))
    assert "else add --mend (the values 3" in caught.value.do and "count from 1, write [{name: building, code: 1}" in caught.value.do


def test_a_class_without_a_name_is_never_mended_away(tmp_path: Path) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(ids))
    with pytest.raises(LandsegError, match="if a class has no name"):
        prepare([source], tmp_path / "data", classes="building,land", mend=True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["png", "jpg", "interpolated"])
def test_two_class_masks_in_greys(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    truth = {name: (ids == 1).astype(np.uint8) for name, ids in TRUTH.items()}

    def encode(name: str, _: np.ndarray) -> bytes:
        mask = truth[name] * np.uint8(255)
        if kind == "interpolated":
            mask = cv2.resize(cv2.resize(mask, (120, 96), interpolation=cv2.INTER_NEAREST), (40, 32), interpolation=cv2.INTER_AREA)
            mask[0] = np.arange(40) * 2  # what interpolation leaves: many levels
            truth[name][0] = 0
        return bytes(cv2.imencode(".jpg" if kind == "jpg" else ".png", mask, [cv2.IMWRITE_JPEG_QUALITY, 98] if kind == "jpg" else [])[1])

    source = make(tmp_path / "x", encode, ".jpg" if kind == "jpg" else ".png")
    options: dict[str, object] = {} if kind == "png" else {"labels": source / "labels"}
    if kind == "png":
        # Legal as it stands: 255 is unlabelled. It is said, and --mend reads it as it is surely meant.
        result = prepare([source], tmp_path / "plain", classes="other,land")
        assert result.class_pixels["land"] == 0 and "--mend" in caplog.text and "threshold" in caplog.text
        result = prepare([source], tmp_path / "data", classes="other,land", mend=True)
    else:
        result = refused_then_mended(source, tmp_path, "threshold", classes="other,land", **options)
    equals_truth(result, truth)
    assert said(result)["mend"] == {"threshold": 128} and result.mended["threshold"] > 0


def test_greys_around_codes_that_a_file_gives(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("name,code\nbuilding,0\nland,100\nroad,200\n", encoding="utf-8")
    noise: np.ndarray = RNG.integers(-9, 10, (32, 40))

    def encode(_: str, ids: np.ndarray) -> bytes:
        return png(np.where(ids == 255, 255, (ids.astype(int) * 100 + noise).clip(0, 255)).astype(np.uint8))

    source = make(tmp_path / "x", encode)
    result = refused_then_mended(source, tmp_path, "values_within", classes=str(tmp_path / "c.csv"), labels=source / "labels")
    equals_truth(result)
    assert said(result)["mend"] == {"values_within": 16} and said(result)["remap"] == {0: 0, 100: 1, 200: 2}


def coloured(tmp_path: Path, *, more: str = "") -> str:
    path = tmp_path / "classes.yaml"
    path.write_text(
        more + "classes:\n" + "".join(f"- {{name: {item.name}, colour: '{item.colour}'}}\n" for item in CLASSES), encoding="utf-8"
    )
    return str(path)


def test_labels_in_colours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(COLOURS[ids]))
    for options in ({}, {"labels": source / "labels"}):
        with pytest.raises(LandsegError) as caught:
            prepare([source], tmp_path / "data", classes=",".join(NAMES), mend=True, **options)  # type: ignore[arg-type]
        assert all(word in str(caught.value) for word in (*(item.colour for item in CLASSES), "#010203", "%", "classes.yaml"))
        result = prepare([source], tmp_path / f"data{len(options)}", classes=coloured(tmp_path), **options)  # type: ignore[arg-type]
        equals_truth(result)
        assert said(result)["label_encoding"] == "rgb" and result.unknown_colours == {"#010203": sum(10 * i for i in range(8))}
    assert "#010203" in caplog.text
    caplog.clear()
    result = prepare([source], tmp_path / "quiet", classes=coloured(tmp_path, more="ignore_colours: ['#010203']\n"))
    equals_truth(result)
    assert not result.unknown_colours and said(result)["ignore_colours"] == ["#010203"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_colours_that_are_almost_the_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def encode(name: str, ids: np.ndarray) -> bytes:
        return png(COLOURS[ids] ^ np.uint8(1) if name == "T5" else COLOURS[ids])

    source, classes = make(tmp_path / "x", encode), coloured(tmp_path, more="ignore_colours: ['#010203']\n")
    prepare([source], tmp_path / "plain", classes=classes)
    assert "colours_within" in caplog.text and "--mend" in caplog.text
    result = prepare([source], tmp_path / "data", classes=classes, mend=True)
    equals_truth(result)
    assert result.mended == {"colours_within": 1} and not result.unknown_colours


def test_colours_of_which_none_is_a_class(tmp_path: Path) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(COLOURS[ids] ^ np.uint8(128)))
    with pytest.raises(LandsegError, match="painted in colours"):
        prepare([source], tmp_path / "data", classes=coloured(tmp_path), labels=source / "labels")


def shuffled_palettes(name: str, ids: np.ndarray) -> bytes:
    """Every file its own order of indices, as paint programs save them."""
    import io

    order = np.random.default_rng(int(name[1:])).permutation(4)
    colours = np.array([*COLOURS[:3], (1, 2, 3)], np.uint8)
    picture = Image.fromarray(order[np.where(ids == 255, 3, ids)].astype(np.uint8)).convert("P")
    table = np.zeros((4, 3), np.uint8)
    table[order] = colours
    picture.putpalette(table.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_palettes_that_differ(tmp_path: Path) -> None:
    source = make(tmp_path / "x", shuffled_palettes)
    with pytest.raises(LandsegError) as caught:
        prepare([source], tmp_path / "data", classes="a,b,c,d", mend=True)
    message = str(caught.value)
    assert message.count(".png") == 2 and "label_encoding: palette" in message and "index" in message
    equals_truth(prepare([source], tmp_path / "stated", classes=coloured(tmp_path, more="label_encoding: palette\n")))
    classes = coloured(tmp_path)
    with pytest.raises(LandsegError, match="another colour in its palette"):
        prepare([source], tmp_path / "data", classes=classes)
    result = prepare([source], tmp_path / "data", classes=classes, mend=True)
    equals_truth(result)
    assert said(result)["label_encoding"] == "palette" and "palettes differ" in result.as_text()
    # What prepare was told holds when the set is used; a hand-written one is checked like any other.
    indices = "label_encoding: index\nclasses: [a, b, c, d]\n"
    (tmp_path / "indices.yaml").write_text(indices, encoding="utf-8")
    for mend in (False, True):
        result = prepare([source], tmp_path / "held", classes=str(tmp_path / "indices.yaml"), mend=mend, overwrite=True)
        assert said(result)["mend"] == {"palettes": "ignore"} and labels_of(tmp_path / "held").keys() == TRUTH.keys()
    path = tmp_path / "held" / "dataset.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("palettes: ignore", ""), encoding="utf-8")
    with pytest.raises(LandsegError, match="another colour in its palette") as caught:
        labels_of(tmp_path / "held")
    assert str(caught.value).count(".png") == 2 and "palettes: ignore" in caught.value.do
    with pytest.raises(LandsegError, match="if a class has no name"):
        # Who says that the indices hold is believed; there are four, of three classes.
        prepare([source], tmp_path / "index", classes=coloured(tmp_path, more="label_encoding: index\n"))


def test_palettes_that_agree_are_no_matter(tmp_path: Path) -> None:
    def encode(name: str, ids: np.ndarray) -> bytes:
        return encode_label(ids, CLASSES) if name != "T7" else png(ids)

    equals_truth(prepare([make(tmp_path / "x", encode)], tmp_path / "data", classes=",".join(NAMES)))


def test_images_that_are_not_uint8_get_a_scaling(tmp_path: Path) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(ids))
    for path in (source / "images").iterdir():
        np.save(path.with_suffix(".npy"), RNG.normal(1000, 200, (32, 40, 2)).astype(np.float32))
        path.unlink()
    result = prepare([source], tmp_path / "data", classes=",".join(NAMES))
    assert result.scaling is not None and len(result.scaling) == 2 and all(low < 900 and high > 1100 for low, high in result.scaling)
    assert open_dataset(tmp_path / "data").info.scaling == result.scaling and "scaling" in result.as_text()
    assert prepare([make(tmp_path / "y", lambda _, ids: png(ids))], tmp_path / "bytes", classes=",".join(NAMES)).scaling is None


def paddlex(root: Path) -> Path:
    make(root, lambda _, ids: png(ids))
    (root / "images").rename(root / "JPEGImages")
    (root / "labels").rename(root / "Annotations")
    for part, names in (("train", range(5)), ("val", (5, 6)), ("test", (7,))):
        lines = "".join(f"JPEGImages/T{i}.png Annotations/T{i}.png\n" for i in names)
        (root / f"{part}_list.txt").write_text(lines, encoding="utf-8")
    (root / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_paddlex_lists_keep_their_classes_and_parts(tmp_path: Path, zipped: bool) -> None:
    source = paddlex(tmp_path / "x")
    if zipped:
        files = [(path.relative_to(tmp_path).as_posix(), path.read_bytes()) for path in sorted(source.rglob("*")) if path.is_file()]
        write_zip(tmp_path / "x.zip", files)
        source = tmp_path / "x.zip"
    result = prepare([source], tmp_path / "data")
    equals_truth(result)
    assert list(result.classes) == NAMES and result.parts == {"train": 5, "val": 2, "test": 1} and not result.left_out
    split = read_split(open_dataset(tmp_path / "data"))
    assert split.name == "file" and [tile.tile for tile in split.part("val")] == ["T5", "T6"]
    assert prepare([source], tmp_path / "other", classes="a,b,c").classes == ("a", "b", "c")


def test_tiles_that_lists_do_not_name_are_no_part_of_the_set(tmp_path: Path) -> None:
    source = paddlex(tmp_path / "x")
    (source / "JPEGImages" / "extra.png").write_bytes(photo())
    result = prepare([source], tmp_path / "data")
    assert result.images == 8 and [tile.name for tile in open_dataset(tmp_path / "data").tiles] == list(TRUTH)
    info = open_dataset(tmp_path / "data").info
    assert (info.images, info.labels) == ("../x/JPEGImages", "../x/Annotations"), "a folder is referred to, not copied"
    (source / "Annotations" / "extra.png").write_bytes(png(TRUTH["T0"]))
    result = prepare([source], tmp_path / "data", overwrite=True)
    assert [tile.name for tile in open_dataset(tmp_path / "data").tiles] == list(TRUTH)
    assert said(result)["left_out"] == {"extra": "in none of the file lists"} and result.left_out[-1].startswith("extra: ")


def test_a_replacement_that_fails_half_way_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = paddlex(tmp_path / "x"), tmp_path / "data"
    prepare([source], out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("landseg.verbs.prepare.write_split", full)
        with pytest.raises(LandsegError, match="No space"):
            prepare([source], out, overwrite=True)
        assert len(open_dataset(out).tiles) == 8 and read_split(open_dataset(out)).name == "file", "the old set stands"
    with monkeypatch.context() as patch:
        real = Path.rename
        patch.setattr(Path, "rename", lambda self, goal: full() if goal == out / "splits" else real(self, goal))
        with pytest.raises(LandsegError, match="No space"):
            prepare([source], out, overwrite=True)
    assert prepare([source], out).parts == {"train": 5, "val": 2, "test": 1}
    assert sorted(path.name for path in out.iterdir()) == ["dataset.yaml", "splits"]


def labelme(root: Path) -> Path:
    """A rectangle of building in each image, and one of road in the first."""
    root.mkdir(parents=True)
    for name in TRUTH:
        (root / f"{name}.png").write_bytes(photo())
        shapes = [{"label": "building", "points": [[4, 4], [12, 20]], "shape_type": "rectangle", "group_id": None, "flags": {}}]
        if name == "T0":
            shapes.append({"label": "road", "points": [[20, 0], [30, 32]], "shape_type": "rectangle", "group_id": None, "flags": {}})
        size = {"imageHeight": 32, "imageWidth": 40}
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None, **size}
        (root / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    return root


def test_annotations_of_which_one_class_is_drawn_are_no_mask(tmp_path: Path) -> None:
    source = labelme(tmp_path / "x")
    for path in source.glob("*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace('"road"', '"building"'), encoding="utf-8")
    result = prepare([source], tmp_path / "data", classes="building,road", mend=True)
    assert not result.mend and result.class_pixels["road"] == 0


def test_annotations_become_labels(tmp_path: Path) -> None:
    source = labelme(tmp_path / "x")
    before = sorted(path.name for path in source.iterdir())
    result = prepare([source], tmp_path / "data")
    assert result.classes == ("building", "road") and result.pairs == 8
    labels = labels_of(tmp_path / "data")
    assert set(np.unique(labels["T0"])) == {0, 1, 255} and set(np.unique(labels["T1"])) == {0, 255}
    assert (labels["T1"][5:19, 5:11] == 0).all() and labels["T1"][25, 35] == 255
    dataset = open_dataset(tmp_path / "data")
    assert dataset.info.labels == "labels" and dataset.image_folder.resolve() == source.resolve()
    assert sorted(path.name for path in source.iterdir()) == before
    with Image.open(tmp_path / "data" / "labels" / "T0.png") as picture:
        assert picture.mode == "P", "a viewer shows the classes' colours"


def test_classes_choose_and_order_annotations_and_background_is_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = labelme(tmp_path / "x")
    result = prepare([source], tmp_path / "data", classes="Background,Building")
    assert result.classes == ("Background", "Building") and any("road" in line for line in result.left_out)
    labels = labels_of(tmp_path / "data")
    assert (labels["T1"][5:19, 5:11] == 1).all() and labels["T1"][25, 35] == 0
    # What is drawn and was not asked for is not background either.
    assert labels["T0"][16, 25] == 255 and set(np.unique(labels["T1"])) == {0, 1}
    with pytest.raises(LandsegError, match="is in the annotations"):
        prepare([source], tmp_path / "none", classes="cat,dog")
    prepare([source], tmp_path / "one", classes="building")
    assert "one class alone" in caplog.text and "background,building" in caplog.text


def test_annotations_in_a_zip(tmp_path: Path) -> None:
    source = labelme(tmp_path / "x")
    files = [(path.name, path.read_bytes()) for path in sorted(source.iterdir())] + [("readme.txt", b"hello")]
    write_zip(tmp_path / "x.zip", files)
    result = prepare([tmp_path / "x.zip"], tmp_path / "data", classes="building,road")
    assert result.pairs == 8 and set(np.unique(labels_of(tmp_path / "data")["T0"])) == {0, 1, 255}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["dataset.yaml", "images", "labels", "pack"]


def test_label_images_win_over_annotations_beside_them(tmp_path: Path) -> None:
    source = make(tmp_path / "x", lambda _, ids: png(ids))
    for path in labelme(tmp_path / "j").glob("*.json"):
        (source / "images" / path.name).write_bytes(path.read_bytes())
    result = prepare([source], tmp_path / "data", classes=",".join(NAMES))
    equals_truth(result)
    assert any("LabelMe" in line for line in result.left_out)


def test_an_annotated_image_that_cannot_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = labelme(tmp_path / "x")
    (source / "T3.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        result = prepare([source], tmp_path / "data")
    assert [Path(item.file).name for item in result.unreadable] == ["T3.png"] and not result.orphans and "T3.png" in caplog.text
    assert len(labels_of(tmp_path / "data")) == 7
