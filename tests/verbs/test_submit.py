"""`submit` builds what it would itself accept, refuses by a gate, and says which file broke which rule."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.data.tiles import encode_label
from landseg.verbs.submit import submit

CLASSES = make_classes(["building", "road", "water"])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "img_test"
    folder.mkdir()
    for i in range(1, 5):
        cv2.imwrite(str(folder / f"{i}.jpg"), np.full((9, 12, 3), 90, np.uint8))
    return folder


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    folder = tmp_path / "predictions"
    folder.mkdir()
    for i in range(1, 5):
        (folder / f"{i}.png").write_bytes(encode_label(np.full((9, 12), i % 3, np.uint8), CLASSES))
    (folder / "predictions.json").write_text(json.dumps({"classes": [item.model_dump() for item in CLASSES]}), encoding="utf-8")
    return folder


def test_built_zip_passes_its_own_check(tmp_path: Path, images: Path, predictions: Path) -> None:
    out = tmp_path / "result.zip"
    built = submit(predictions, images, out=out)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert built.as_json() == {"zip": str(out), "files": 4, "violations": [], "sha256": digest}
    assert "values 0..2" in built.as_text() and digest in built.as_text()
    checked = submit(images=images, check=out, classes=3)
    assert checked.as_json() == built.as_json() and "passes" in checked.as_text()
    assert "give --classes" in submit(images=images, check=out).as_text()
    with pytest.raises(LandsegError, match="--overwrite") as caught:
        submit(predictions, images, out=out)
    assert not caught.value.is_gate
    assert submit(predictions, images, out=out, overwrite=True).sha256 == digest


def test_number_of_classes_comes_from_the_predictions(tmp_path: Path, images: Path, predictions: Path) -> None:
    (predictions / "2.png").write_bytes(encode_label(np.full((9, 12), 3, np.uint8), CLASSES))
    with pytest.raises(LandsegError, match=r"2\.png: class \(value 3 in 108 pixels, the ids are 0\.\.2\)") as caught:
        submit(predictions, images, out=tmp_path / "r.zip")
    assert caught.value.is_gate and not (tmp_path / "r.zip").exists()
    assert submit(predictions, images, out=tmp_path / "r.zip", classes=4).files == 4
    (predictions / "predictions.json").unlink()
    assert submit(predictions, images, out=tmp_path / "s.zip").files == 4
    (predictions / "predictions.json").write_text("[]")
    with pytest.raises(LandsegError, match="cannot be read"):
        submit(predictions, images, out=tmp_path / "t.zip")


def test_an_interrupted_prediction_is_not_submitted(tmp_path: Path, images: Path, predictions: Path) -> None:
    (predictions / "predictions.json").rename(predictions / ".predicting")
    with pytest.raises(LandsegError, match="interrupted") as caught:
        submit(predictions, images, out=tmp_path / "r.zip")
    assert not caught.value.is_gate


def test_every_violation_is_in_the_result_and_the_message_is_one_line(tmp_path: Path, images: Path, predictions: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(1, 4):
            archive.write(predictions / f"{i}.png", f"result/{i}.png")
    with pytest.raises(LandsegError) as caught:
        submit(images=images, check=path, classes=3)
    assert caught.value.is_gate and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: 7 violations [folder 3, palette 3, missing 1]: 4.png: missing")
    lines = caught.value.result.as_text().splitlines()
    assert lines[0] == f"{path}: 7 violations" and len(lines) == 8 and any(line.startswith("result/3.png: palette") for line in lines)
    assert len(caught.value.result.as_json()["violations"]) == 7


def test_arguments_that_do_not_fit_together(tmp_path: Path, images: Path, predictions: Path) -> None:
    for arguments, words in [
        ({"predictions": predictions, "out": tmp_path / "r.zip"}, "--images: not given"),
        ({"images": images}, "PREDICTIONS: not given"),
        ({"predictions": predictions, "images": images}, "--out: not given"),
        ({"images": images, "check": tmp_path / "r.zip", "out": tmp_path / "s.zip"}, "--check: given with --out"),
        ({"predictions": predictions, "images": images, "check": tmp_path / "r.zip"}, "--check: given with PREDICTIONS"),
        ({"images": images, "check": tmp_path / "gone.zip"}, "no such file"),
        ({"images": images, "check": tmp_path / "gone.zip", "classes": 0}, "1 to 255 classes"),
        ({"predictions": predictions, "images": tmp_path / "gone", "out": tmp_path / "r.zip"}, "it is not there"),
        ({"predictions": predictions, "images": images, "out": predictions, "overwrite": True}, "it is a folder"),
    ]:
        with pytest.raises(LandsegError, match=words) as caught:
            submit(**arguments)  # type: ignore[arg-type]
        assert not caught.value.is_gate
    assert not (tmp_path / "r.zip").exists()
