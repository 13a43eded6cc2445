"""The verb takes a dataset folder or a folder that is none yet, writes two files, and its gate fails on faults alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from landseg.cli import main
from landseg.core.classes import paint
from landseg.core.errors import LandsegError
from landseg.data.spoil import spoil
from landseg.data.world import CLASSES, write_tiles
from landseg.verbs.audit import audit
from landseg.verbs.prepare import prepare

NAMES = ",".join(item.name for item in CLASSES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("world"), 1, 16)


@pytest.fixture
def tree(world: Path, tmp_path: Path) -> Path:
    """A folder pair that nobody has prepared."""
    return Path(shutil.copytree(world, tmp_path / "tree"))


@pytest.fixture
def dataset(tree: Path) -> Path:
    listed = "".join(f"  - {{id: {item.id}, name: {item.name}, colour: '{item.colour}'}}\n" for item in CLASSES)
    (tree / "dataset.yaml").write_text(f"name: mine\nclasses:\n{listed}", encoding="utf-8")
    return tree


def test_a_dataset_folder_gets_its_audit_beside_its_data(dataset: Path) -> None:
    result = audit(dataset, require="clean")
    assert sorted(path.name for path in (dataset / "audit").iterdir()) == ["audit.html", "audit.json"]
    document = json.loads((dataset / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert document == json.loads(json.dumps(result.as_json()))
    assert (document["pairs"], document["is_clean"], document["problems"]) == (16, True, [])
    lines = result.as_text().splitlines()
    assert lines[0] == "mine: 16 pairs of image and label" and lines[-1] == str(dataset / "audit" / "audit.html")
    assert max(map(len, lines[:-1])) <= 116


def test_a_folder_that_is_not_prepared_is_not_written_to(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tree.rglob("*"))
    monkeypatch.chdir(tmp_path)
    result = audit(tree, classes=NAMES)
    assert sorted(tree.rglob("*")) == before and (tmp_path / "audit" / "audit.html").is_file()
    assert set(result.as_json()["class_share"]) == {item.name for item in CLASSES} and not result.found.faults
    codes = audit(tree, out=tmp_path / "codes").as_json()
    assert set(codes["class_share"]) == {str(item.id) for item in CLASSES} and codes["is_clean"]


def test_the_gate_fails_on_faults_and_hands_over_what_was_found(dataset: Path) -> None:
    spoil(dataset, "unlabelled", count=2)
    assert audit(dataset, require="clean").as_json()["unlabelled_tiles"] >= 2
    planted = spoil(dataset, "truncated image", count=2)
    done = CliRunner().invoke(main, ["audit", str(dataset), "--require", "clean", "--json"])
    document = json.loads(done.stdout)
    assert done.exit_code == 3 and "unreadable images" in done.stderr
    assert [entry["tile"] for entry in document["unreadable"]] == list(planted)
    assert (dataset / "audit" / "audit.html").is_file()
    assert CliRunner().invoke(main, ["audit", str(dataset)]).exit_code == 0  # no gate was asked for


def test_dirt_that_other_verbs_refuse_is_looked_at(dataset: Path) -> None:
    first = next((dataset / "images").iterdir())
    shutil.copy(first, first.with_suffix(".bmp"))  # two files of one name
    shutil.rmtree(dataset / "labels")
    document = audit(dataset).as_json()
    assert document["pairs"] == 0 and len(document["orphans"]) == 16
    assert {problem["kind"] for problem in document["problems"]} == {"missing_label", "lying_ending", "passed_over"}


def test_labels_saved_as_jpeg_are_known_by_their_folder(tree: Path, tmp_path: Path) -> None:
    spoil(tree, "jpeg label", count=16)
    document = audit(tree, classes=NAMES, out=tmp_path / "out").as_json()
    assert [problem["kind"] for problem in document["problems"] if problem["severity"] == "error"] == ["jpeg_labels"]
    assert document["pairs"] == 16


def test_annotations_are_audited_as_they_would_be_drawn(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "labels")
    images = sorted((tree / "images").iterdir())
    for path in images:
        high, wide = cv2.imread(str(path)).shape[:2]  # type: ignore[union-attr]
        shape = {"label": "roof", "points": [[0, 0], [wide, high / 2]], "shape_type": "rectangle"}
        document = {"shapes": [shape], "imagePath": path.name, "imageHeight": high, "imageWidth": wide, "imageData": None}
        path.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")
    stated = json.loads(images[0].with_suffix(".json").read_text())
    images[0].with_suffix(".json").write_text(json.dumps(stated | {"imageHeight": 7}))
    before = sorted(tree.rglob("*"))
    document = audit(tree, classes="background,roof", out=tmp_path / "out").as_json()
    assert document["pairs"] == 15 and document["class_share"] == {"background": 0.5, "roof": 0.5}
    assert [(item["tile"], "annotated at 7" in item["reason"]) for item in document["unreadable"]] == [(images[0].stem, True)]
    assert not document["orphans"] and sorted(tree.rglob("*")) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json"]
    assert audit(tree, out=tmp_path / "own").as_json()["class_share"] == {"roof": 1.0}


def test_file_lists_name_the_tiles_and_the_classes(tree: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (tree / "images").iterdir())[:10]
    (tree / "train_list.txt").write_text("".join(f"images/{name} labels/{name}\n" for name in names), encoding="utf-8")
    (tree / "labels.txt").write_text("\n".join(NAMES.split(",")), encoding="utf-8")
    document = audit(tree, out=tmp_path / "out").as_json()
    assert document["pairs"] == 10 and list(document["class_share"]) == NAMES.split(",") and document["is_clean"]


def test_labels_in_colours_are_read_by_the_colours_that_a_file_gives(tree: Path, tmp_path: Path) -> None:
    rows = "".join(f"{item.name},{item.colour}\n" for item in CLASSES)
    (tmp_path / "classes.csv").write_text(f"name,colour\n{rows}", encoding="utf-8")
    plain = audit(tree, classes=NAMES, out=tmp_path / "codes").as_json()
    for path in (tree / "labels").iterdir():
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert codes is not None
        cv2.imwrite(str(path), paint(codes, CLASSES)[:, :, ::-1])
    document = audit(tree, classes=str(tmp_path / "classes.csv"), out=tmp_path / "colours").as_json()
    assert document["class_share"] == plain["class_share"]
    (problem,) = document["problems"]
    assert problem["kind"] == "unknown_colours" and "#ffffff" in problem["what"]
    named = audit(tree, classes=NAMES, out=tmp_path / "names").as_json()
    assert [problem["kind"] for problem in named["problems"]] == ["painted_labels"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda codes: codes + 1, "off_by_one_ids", "ids count from 1 to 5 (remap)"),
        (
            lambda codes: np.where((codes == 1) & (np.indices(codes.shape).sum(0) % 200 == 0), 77, codes),
            "illegal_labels",
            "illegal: ignore",
        ),
        (lambda codes: codes * 40, "illegal_labels", "are the 5 classes in this order (remap)"),
        (lambda codes: codes - 1.0, "illegal_labels", "-1 is unlabelled (ignore_index)"),
    ],
)
def test_the_audit_tells_which_rule_would_mend(tree: Path, tmp_path: Path, change: Any, kind: str, words: str) -> None:
    for path in (tree / "labels").iterdir():
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert codes is not None
        np.save(path.with_suffix(".npy"), np.where(codes == 255, 0 if words.startswith("-1") else 255, change(codes.astype(int))))
        path.unlink()
    problems = {problem["kind"]: problem for problem in audit(tree, classes=NAMES, out=tmp_path / "out").as_json()["problems"]}
    assert "or let `landseg prepare --mend` do it: " in problems[kind]["do"] and words in problems[kind]["do"]
    prepared = prepare([tree], tmp_path / "data", classes=NAMES, mend=True)
    assert all(reason in problems[kind]["do"] for reason in prepared.reasons), "the same that prepare says"


@pytest.mark.parametrize(
    ("change", "names", "kind"),
    [
        (lambda codes: np.where(codes == 255, 0, codes + 1), NAMES, "illegal_labels"),
        (lambda codes: np.where(codes == 2, 255, 0), "forest,water", "saved_as_0_and_255"),
    ],
)
def test_what_the_user_alone_can_say_is_asked(tree: Path, tmp_path: Path, change: Any, names: str, kind: str) -> None:
    for path in (tree / "labels").iterdir():
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), change(codes).astype(np.uint8))
    problems = {problem["kind"]: problem for problem in audit(tree, classes=names, out=tmp_path / "out").as_json()["problems"]}
    assert "give each class its code in a file" in problems[kind]["do"] and "--mend" not in problems[kind]["do"]
    with pytest.raises(LandsegError, match=r"write \[\{name: .*, code: "):
        prepare([tree], tmp_path / "data", classes=names, mend=True)


def test_palettes_that_the_user_overrules_are_no_fault(dataset: Path) -> None:
    spoil(dataset, "usual palette", count=16)
    spoil(dataset, "other palette", count=3)
    assert {problem["kind"] for problem in audit(dataset).as_json()["problems"]} >= {"palettes_differ"}
    with (dataset / "dataset.yaml").open("a", encoding="utf-8") as file:
        file.write("mend: {palettes: ignore}\n")
    assert "palettes_differ" not in {problem["kind"] for problem in audit(dataset).as_json()["problems"]}


def test_no_rule_is_offered_where_it_would_spoil_the_rest(tree: Path, tmp_path: Path) -> None:
    spoil(tree, "ids from one", count=3)
    problems = {problem["kind"]: problem for problem in audit(tree, classes=NAMES, out=tmp_path / "out").as_json()["problems"]}
    assert "--mend" not in problems["off_by_one_ids"]["do"]


def test_the_classes_of_a_prepared_set_stand(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "other" not in audit(dataset, classes="other,more").as_json()["class_share"]
    assert "--classes is not used" in caplog.text


def test_tiles_that_the_data_set_leaves_out_are_not_audited(dataset: Path) -> None:
    (name, *_) = spoil(dataset, "truncated image", count=1)
    with (dataset / "dataset.yaml").open("a", encoding="utf-8") as file:
        file.write(f"left_out: {{{name}: cut}}\n")
    found = audit(dataset, require="clean").as_json()
    assert found["pairs"] == 15 and [problem["kind"] for problem in found["problems"]] == ["passed_over"]


def test_chinese_names_and_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiles(tmp_path / "数据 集", 3, 4)
    for part in ("images", "labels"):
        (folder / part / "tile_0000.png").rename(folder / part / "瓦片 1.png")
    monkeypatch.chdir(tmp_path)
    text = audit(folder, classes="建筑,耕地,林地,道路,水体").as_text()
    assert "耕地" in text and "数据 集" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "it is not there"),
        (lambda path: path.write_text("x"), "a file"),
        (lambda path: path.mkdir(), "no image files"),
        (lambda path: (path.mkdir(), (path / "dataset.yaml").write_text("name: [")), "not YAML"),
        (lambda path: (path.mkdir(), (path / "dataset.yaml").write_text("name: x\nimages: gone\n")), "gone is not there"),
    ],
)
def test_where_nothing_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "data")  # type: ignore[operator]
    with pytest.raises(LandsegError, match=words):
        audit(tmp_path / "data")
    assert not (tmp_path / "audit" / "audit.html").exists()


def test_a_zip_an_unknown_gate_and_a_place_that_cannot_be_written(dataset: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", dataset)
    with pytest.raises(LandsegError, match="landseg prepare"):
        audit(archive)
    with pytest.raises(LandsegError, match="--require"):
        audit(dataset, require="tidy")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LandsegError, match="cannot be written"):
        audit(dataset, out=tmp_path / "taken" / "out")


def test_labels_painted_in_colours_are_told_not_read_as_unreadable(dataset: Path) -> None:
    for path in (dataset / "labels").iterdir():
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert codes is not None
        cv2.imwrite(str(path), np.dstack([codes, 255 - codes, codes // 2]))
    document = audit(dataset).as_json()
    assert [problem["kind"] for problem in document["problems"]] == ["painted_labels"]
