"""Recognising images and labels: by what the files hold, whatever the folders are called."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.data.sources import Found, folder_of, recognise
from landseg.data.tiles import encode_label

RNG = np.random.default_rng(4)
CLASSES = make_classes(["a", "b", "c", "d", "e"])


def photo(path: Path, size: int = 24, bands: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, (size, size, bands), np.uint8)
    path.write_bytes(bytes(cv2.imencode(path.suffix, image)[1]))


def label(path: Path, size: int = 24, *, palette: bool = False, colours: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = RNG.integers(0, 5, (size, size), np.uint8)
    if colours:
        table = np.array([item.rgb for item in CLASSES], np.uint8)
        path.write_bytes(bytes(cv2.imencode(".png", table[ids][:, :, ::-1])[1]))
    elif path.suffix == ".npy":
        np.save(path, ids.astype(np.int64))
    elif path.suffix == ".png":
        path.write_bytes(encode_label(ids, CLASSES if palette else None))
    else:
        path.write_bytes(bytes(cv2.imencode(path.suffix, ids)[1]))


def fill(
    root: Path, images: str = "", labels: str = "", names: str = "123", *, image: str = ".jpg", code: str = ".png", **options: bool
) -> Path:
    for name in names:
        if images:
            photo(root / images / (name + image))
        if labels:
            label(root / labels / (name + code), **options)
    return root


def places(found: Found, root: Path) -> tuple[str | None, str | None]:
    return tuple(None if folder is None else folder.relative_to(root).as_posix() for folder in (found.image_folder, found.label_folder))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("images", "labels"), [("img_train", "lab_train"), ("images", "labels"), ("labels", "images"), ("wrap/a b/x", "wrap/图")]
)
def test_a_pair_of_folders_whatever_their_names(tmp_path: Path, images: str, labels: str) -> None:
    found = recognise([fill(tmp_path, images, labels)])
    assert places(found, tmp_path) == (images, labels)
    assert found.pairs == 3 and sorted(found.images) == ["1", "2", "3"]
    assert not found.orphan_images and not found.orphan_labels and not found.others


@pytest.mark.parametrize("code", [".png", ".bmp", ".tif", ".npy"])
@pytest.mark.parametrize("image", [".jpg", ".png", ".tif"])
def test_any_lossless_format_may_hold_labels(tmp_path: Path, image: str, code: str) -> None:
    found = recognise([fill(tmp_path, "x", "y", image=image, code=code)])
    assert places(found, tmp_path) == ("x", "y")


def test_palette_labels_are_labels(tmp_path: Path) -> None:
    assert places(recognise([fill(tmp_path, "x", "y", palette=True)]), tmp_path) == ("x", "y")


def test_grey_images_are_images(tmp_path: Path) -> None:
    for name in "123":
        photo(tmp_path / "x" / f"{name}.png", bands=1)
    found = recognise([tmp_path])
    assert places(found, tmp_path) == ("x", None) and found.labels is None and not found.looks_like_labels
    fill(tmp_path, labels="y")
    assert places(recognise([tmp_path]), tmp_path) == ("x", "y")


def test_tiny_noise_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    cv2.imwrite(str(tmp_path / "x" / "1.png"), np.arange(16, dtype=np.uint8).reshape(4, 4))
    assert not recognise([tmp_path]).looks_like_labels


def test_labels_alone_are_said_to_look_like_labels(tmp_path: Path) -> None:
    found = recognise([fill(tmp_path, labels="y")])
    assert found.looks_like_labels and found.labels is None and len(found.images) == 3


def test_orphans_are_named_on_both_sides(tmp_path: Path) -> None:
    fill(tmp_path, "x", "y")
    fill(tmp_path, "x", names="78")
    fill(tmp_path, labels="y", names="9")
    found = recognise([tmp_path])
    assert (found.pairs, found.orphan_images, found.orphan_labels) == (3, ("7", "8"), ("9",))
    assert places(found, tmp_path) == ("x", "y")


def test_a_test_folder_beside_a_pair_is_left_out_by_name(tmp_path: Path) -> None:
    """Even when its files have the same names: the labels take the images whose folder shares a word with theirs."""
    fill(tmp_path, "img_train", "lab_train")
    fill(tmp_path, "img_test")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == ("img_train", "lab_train")
    assert [(other.folder.name, other.files) for other in found.others] == [("img_test", 3)]
    assert "another --out" in found.others[0].reason


def test_trees_that_are_alike_are_referred_to(tmp_path: Path) -> None:
    for part in ("a", "b/c"):
        fill(tmp_path, f"img/{part}", f"lab/{part}")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == ("img", "lab")
    assert sorted(found.images) == ["a/1", "a/2", "a/3", "b/c/1", "b/c/2", "b/c/3"] and found.pairs == 6


def test_pairs_within_a_tree_are_gathered_under_their_places(tmp_path: Path) -> None:
    """The same names everywhere: only the place tells which label belongs to which image."""
    for part in ("a", "b"):
        fill(tmp_path, f"{part}/images", f"{part}/labels")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == (None, None)
    assert found.pairs == 6 and found.labels is not None
    assert found.images["b/2"] == tmp_path / "b/images/2.jpg" and found.labels["b/2"] == tmp_path / "b/labels/2.png"


def test_train_labelled_and_val_not(tmp_path: Path) -> None:
    fill(tmp_path, "train/images", "train/labels")
    fill(tmp_path, "val/images", names="12")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == ("train/images", "train/labels")
    assert [other.folder for other in found.others] == [tmp_path / "val/images"]


@pytest.mark.parametrize("mark", ["", "_label", "_mask", "-labels"])
def test_side_by_side_in_one_folder(tmp_path: Path, mark: str) -> None:
    for name in "123":
        photo(tmp_path / "all" / f"{name}.jpg")
        label(tmp_path / "all" / f"{name}{mark}.png")
    photo(tmp_path / "all" / "4.jpeg")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == (None, None)
    assert found.pairs == 3 and found.orphan_images == ("4",) and found.labels is not None
    assert found.labels["1"].name == f"1{mark}.png" and found.images["1"].name == "1.jpg"


def test_marks_on_both_files(tmp_path: Path) -> None:
    for name in "123":
        photo(tmp_path / f"{name}_sat.png")
        label(tmp_path / f"{name}_mask.png")
    found = recognise([tmp_path])
    assert found.pairs == 3 and sorted(found.images) == ["1", "2", "3"]


def test_what_looks_like_a_mark_may_be_part_of_the_names(tmp_path: Path) -> None:
    for name in ("field", "field_img", "gt"):
        photo(tmp_path / f"{name}.jpg")
    found = recognise([tmp_path])
    assert sorted(found.images) == ["field", "field_img", "gt"] and found.image_folder == tmp_path


def test_images_of_several_endings_are_one_folder(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.JPG", "3.jpeg", "4.png"):
        photo(tmp_path / "x" / name)
    for name in "1234":
        label(tmp_path / "y" / f"{name}.png")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == ("x", "y") and found.pairs == 4


def test_labels_inside_the_folder_of_images_are_gathered(tmp_path: Path) -> None:
    fill(tmp_path, ".", "labels")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == (None, "labels") and found.pairs == 3


def test_several_sources_are_one_set(tmp_path: Path) -> None:
    fill(tmp_path, "one/x")
    fill(tmp_path, "two/y/z", "other")
    (tmp_path / "two" / "y" / "z").rename(tmp_path / "nothing")
    found = recognise([tmp_path / "one", tmp_path / "other"])
    assert places(found, tmp_path) == ("one/x", "other") and found.pairs == 3


def test_the_sample_forgives_unreadable_files_and_black_tiles(tmp_path: Path) -> None:
    fill(tmp_path, "x", "y", "123456789", image=".png")
    (tmp_path / "x" / "1.png").write_bytes(b"")
    (tmp_path / "y" / "2.png").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "x" / "3.png"), np.zeros((24, 24, 3), np.uint8))
    assert places(recognise([tmp_path]), tmp_path) == ("x", "y")


def test_hidden_files_are_not_looked_at_nor_is_the_result(tmp_path: Path) -> None:
    fill(tmp_path, "x", "y")
    (tmp_path / "x" / "._1.jpg").write_bytes(b"mac")
    fill(tmp_path, "__MACOSX/x", "out/labels")
    found = recognise([tmp_path], leave=tmp_path / "out")
    assert places(found, tmp_path) == ("x", "y") and not found.others


def test_a_source_that_is_hidden_has_names_that_are_not(tmp_path: Path) -> None:
    for folder in (".old", "new"):
        photo(tmp_path / folder / "x.png")
    found = recognise([tmp_path / ".old", tmp_path / "new"])
    assert set(found.images) == {"old/x", "new/x"} and found.image_folder is None


def test_labels_given_win_over_what_they_look_like(tmp_path: Path) -> None:
    fill(tmp_path, "x", "y")
    for name in "123":
        photo(tmp_path / "grey" / f"{name}.png", bands=1)
    found = recognise([tmp_path], tmp_path / "grey")
    assert places(found, tmp_path) == ("x", "grey")
    fill(tmp_path, labels="flat")
    found = recognise([tmp_path / "flat"], tmp_path / "y")
    assert places(found, tmp_path) == ("flat", "y")


def test_labels_in_colours_are_refused_beside_their_images_alone(tmp_path: Path) -> None:
    fill(tmp_path, "x", "colour", colours=True)
    with pytest.raises(LandsegError, match="labels painted in colours"):
        recognise([tmp_path])
    fill(tmp_path, labels="y")
    found = recognise([tmp_path])
    assert places(found, tmp_path) == ("x", "y") and [other.folder.name for other in found.others] == ["colour"]


COLOURS = [item.rgb for item in CLASSES]


def test_labels_in_the_classes_colours_are_labels_where_nothing_else_is(tmp_path: Path) -> None:
    fill(tmp_path, "x", "colour", colours=True)
    assert places(recognise([tmp_path], colours=COLOURS), tmp_path) == ("x", "colour")
    with pytest.raises(LandsegError, match="labels painted in colours"):
        recognise([tmp_path], colours=[(1, 2, 3), (4, 5, 6)])
    fill(tmp_path, labels="y")
    assert places(recognise([tmp_path], colours=COLOURS), tmp_path) == ("x", "y")


def test_the_colours_to_name_are_listed_with_their_shares(tmp_path: Path) -> None:
    fill(tmp_path, "x", "colour", colours=True)
    with pytest.raises(LandsegError) as caught:
        recognise([tmp_path])
    message = str(caught.value)
    assert all(item.colour in message for item in CLASSES) and "%" in message and "--classes classes.yaml" in message
    written = caught.value.do.partition("[")[2].partition("]")[0]
    assert len(yaml.safe_load(f"[{written}]")) == 5 and "\n" not in message


def test_jpeg_labels_in_the_classes_colours_are_labels(tmp_path: Path) -> None:
    fill(tmp_path, "x")
    (tmp_path / "y").mkdir()
    for name in "123":
        ids = cv2.resize(RNG.integers(0, 5, (3, 3), np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST)
        picture = np.array(COLOURS, np.uint8)[ids][:, :, ::-1]
        (tmp_path / "y" / f"{name}.jpg").write_bytes(bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]))
    assert places(recognise([tmp_path], colours=COLOURS), tmp_path) == ("x", "y")


def test_photographs_are_no_labels_whatever_the_colours(tmp_path: Path) -> None:
    fill(tmp_path, "x", image=".png")
    many = [tuple(colour) for colour in RNG.integers(0, 256, (20, 3)).tolist()]
    found = recognise([tmp_path], colours=many)  # type: ignore[arg-type]
    assert places(found, tmp_path) == ("x", None) and not found.looks_like_labels


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_grey_masks_are_labels_where_the_user_says_so(tmp_path: Path, ending: str) -> None:
    fill(tmp_path, "x")
    for name in "123":
        mask = cv2.resize(RNG.integers(0, 2, (5, 5), np.uint8) * 255, (48, 48), interpolation=cv2.INTER_LINEAR)
        (tmp_path / "y").mkdir(exist_ok=True)
        (tmp_path / "y" / f"{name}{ending}").write_bytes(bytes(cv2.imencode(ending, mask)[1]))
    assert places(recognise([tmp_path / "x"], tmp_path / "y"), tmp_path) == ("x", "y")
    assert places(recognise([tmp_path], tmp_path / "y"), tmp_path) == ("x", "y")
    with pytest.raises(LandsegError, match="--labels"):
        recognise([tmp_path])


@pytest.mark.parametrize("bad", [-1, np.nan, -3.4e38])
def test_arrays_with_nodata_are_labels(tmp_path: Path, bad: float) -> None:
    fill(tmp_path, "x")
    for name in "123":
        ids: np.ndarray = RNG.integers(0, 5, (24, 24)).astype(np.float32)
        ids[0] = bad
        (tmp_path / "y").mkdir(exist_ok=True)
        np.save(tmp_path / "y" / f"{name}.npy", ids)
    assert places(recognise([tmp_path]), tmp_path) == ("x", "y")


def test_a_folder_that_lists_exactly_the_files_is_referred_to(tmp_path: Path) -> None:
    fill(tmp_path, "x", names="12")
    files = {name: tmp_path / "x" / f"{name}.jpg" for name in "12"}
    assert folder_of(files, [tmp_path]) == tmp_path / "x"
    assert folder_of({"1": files["1"]}, [tmp_path]) is None and folder_of({"a": files["1"], "2": files["2"]}, [tmp_path]) is None
    assert folder_of(files, [tmp_path / "elsewhere"]) is None
    photo(tmp_path / "x" / "1.png")
    assert folder_of(files, [tmp_path]) is None


def test_flat_pictures_are_images_where_nothing_else_is(tmp_path: Path) -> None:
    fill(tmp_path, labels="flat", colours=True)
    fill(tmp_path, labels="y")
    assert places(recognise([tmp_path]), tmp_path) == ("flat", "y")


def test_labels_that_fit_two_folders_are_refused_with_the_list(tmp_path: Path) -> None:
    fill(tmp_path, "rgb", "labels")
    fill(tmp_path, "nir")
    with pytest.raises(LandsegError) as caught:
        recognise([tmp_path], shown=lambda path: path.name)
    message = str(caught.value)
    assert (
        all(part in message for part in ("rgb (3 images, JPEG)", "nir (3 images, JPEG)", "labels (3 labels)", "--labels"))
        and "\n" not in message
    )
    assert places(recognise([tmp_path / "rgb"], tmp_path / "labels"), tmp_path) == ("rgb", "labels")


def test_names_that_never_agree_are_refused_with_an_example(tmp_path: Path) -> None:
    fill(tmp_path, "x", names="12")
    fill(tmp_path, labels="y", names="34")
    with pytest.raises(LandsegError, match=r"images such as 1\.jpg, labels such as 3\.png"):
        recognise([tmp_path])


@pytest.mark.parametrize("labels", [None, "y"])
def test_no_tiles_at_all(tmp_path: Path, labels: str | None) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    (tmp_path / "x" / "readme.txt").write_text("hello")
    with pytest.raises(LandsegError, match="no image files"):
        recognise([tmp_path / "x"], tmp_path / labels if labels else None)


def test_a_label_folder_without_labels(tmp_path: Path) -> None:
    fill(tmp_path, "x")
    (tmp_path / "y").mkdir()
    with pytest.raises(LandsegError, match="no label files"):
        recognise([tmp_path / "x"], tmp_path / "y")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg")
    photo(tmp_path / "1.tif")
    with pytest.raises(LandsegError, match="has the same name"):
        recognise([tmp_path])
