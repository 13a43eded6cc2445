"""Class maps of tiles equal the truth that a stand-in engine reads out of the images, however the tiles come and are batched."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landseg.core.classes import LandClass, make_classes
from landseg.core.errors import LandsegError
from landseg.data.inputs import find_inputs
from landseg.inference.folder import BEGUN, FINISHED, predict_tiles
from landseg.inference.pieces import EDGE

CLASSES = make_classes(["building", "road", "water"])


@dataclass
class Card:
    """What inference reads of a model card."""

    classes: tuple[LandClass, ...] = CLASSES
    bands: tuple[str, ...] = ("red", "green", "blue")
    ignore_index: int = 255
    tile_size: tuple[int, int] = (16, 16)
    factor: float = 1.0
    scaling: tuple[tuple[float, float], ...] | None = None
    dtype: str = "uint8"


@dataclass
class Reader:
    """An engine whose classes stand in the image: the first band modulo the number of classes."""

    card: Card = field(default_factory=Card)
    lanes: int = 1
    runtime: str = "stand-in 1"
    stop_after: int = 10**9
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        self.shapes.append(images.shape)
        if len(self.shapes) > self.stop_after:
            raise KeyboardInterrupt
        count = len(self.card.classes)
        truth = images[..., 0] % count
        scores = np.where(truth[:, None] == np.arange(count)[None, :, None, None], 4.0, -1.0)
        return scores.astype(np.float32)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def make_images(count: int = 11, seed: int = 0, side: int = 16) -> dict[str, np.ndarray]:
    """Tiles of three shapes in a mixed order, names with a space and Chinese characters among them."""
    random = np.random.default_rng(seed)
    shapes = [(side, side), (side, side + 5), (1, 1)]
    names = [f"{i}" for i in range(1, count - 1)] + ["with space", "农田"]
    return {name: random.integers(0, 256, (*shapes[int(random.integers(3))], 3), dtype=np.uint8) for name in names}


def write_folder(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for name, image in images.items():
        (folder / f"{name}.png").write_bytes(png(image))
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(engine: Reader, inputs: list[Path], out: Path, **options: object) -> dict[str, bytes]:
    predict_tiles(engine, find_inputs(inputs), out, **({"batch": 4} | options))  # type: ignore[arg-type]
    return read_all(out)


def test_class_maps_are_the_truth_with_a_palette(tmp_path: Path) -> None:
    images = make_images()
    done = predict_tiles(Reader(), find_inputs([write_folder(tmp_path / "tiles", images)]), tmp_path / "out", batch=3, fingerprint="abc")
    assert (done.files, done.pixels) == (len(images), sum(image[..., 0].size for image in images.values()))
    assert done.unreadable == {} and done.resumed == 0 and done.seconds > 0
    for name, image in images.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.mode == "P"
            assert (np.array(picture) == image[..., 0] % 3).all()
            assert picture.getpalette()[:9] == [value for item in CLASSES for value in item.rgb]
    record = json.loads((tmp_path / "out" / FINISHED).read_text(encoding="utf-8"))
    assert record["classes"][1] == {"id": 1, "name": "road", "colour": CLASSES[1].colour}
    assert (record["model"], record["count"]) == ("abc", len(images))
    assert not (tmp_path / "out" / BEGUN).exists()


def test_files_do_not_depend_on_batch_or_container(tmp_path: Path) -> None:
    images = make_images(17)
    folder = write_folder(tmp_path / "set" / "img_test", images)
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
        archive.writestr("__MACOSX/img_test/._1.png", b"litter")
        for name in reversed(images):
            archive.writestr(f"img_test/{name}.png", png(images[name]))
    dataset = tmp_path / "data"
    dataset.mkdir()
    (dataset / "dataset.yaml").write_text("name: t\nimages: ../set/img_test\nlabels: null\n")
    options = {"overlay": True, "probabilities": True}
    reference = run(Reader(), [folder], tmp_path / "one", batch=1, **options)
    assert len(reference) == 3 * len(images) + 1
    for i, (batch, inputs) in enumerate(
        [
            (3, [folder]),
            (8, [folder.parent]),
            (8, [tmp_path / "tiles.zip"]),
            (3, [dataset]),
            (3, sorted(folder.glob("*.png"), reverse=True)),
        ]
    ):
        for lanes in (1, 3):
            engine = Reader(lanes=lanes)
            assert run(engine, inputs, tmp_path / f"out{i}-{lanes}", batch=batch, **options) == reference
            assert lanes == 1 or {shape[0] for shape in engine.shapes} == {1}


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 9), seed=st.integers(0, 99), held=st.sampled_from([1, 3000, 10**9]))
def test_every_batch_has_one_shape_and_bounded_pixels(tmp_path_factory: pytest.TempPathFactory, batch: int, seed: int, held: int) -> None:
    base = tmp_path_factory.mktemp("case")
    images = make_images(13, seed) | {"large": np.zeros((48, 48, 3), np.uint8)}
    engine = Reader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landseg.inference.reading.HELD_BYTES", held)
        files = run(engine, [write_folder(base / "tiles", images)], base / "out", batch=batch)
    assert len(files) == len(images) + 1
    assert sum(shape[0] for shape in engine.shapes) == len(images)
    for count, height, width, _ in engine.shapes:
        assert count <= batch and (count == 1 or count * height * width <= batch * 16 * 16)


def test_a_step_of_many_bands_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.inference.folder.STEP_VALUES", 2 * 16 * 16 * 3)
    images = {f"t{i}": np.zeros((16, 16, 3), np.uint8) for i in range(5)}
    engine = Reader()
    assert len(run(engine, [write_folder(tmp_path / "tiles", images)], tmp_path / "out", batch=8)) == 6
    assert [shape[0] for shape in engine.shapes] == [2, 2, 1]


def test_probabilities_are_the_softmax(tmp_path: Path) -> None:
    image = np.full((4, 6, 3), 2, np.uint8)
    run(Reader(), [write_folder(tmp_path / "t", {"a": image, "b": image[:1]})], tmp_path / "out", probabilities=True)
    probs = np.load(tmp_path / "out" / "a.npy")
    assert (probs.dtype, probs.shape) == (np.float16, (3, 4, 6))
    low, high = np.exp(-1.0), np.exp(4.0)
    assert probs[:, 0, 0] == pytest.approx(np.array([low, low, high]) / (2 * low + high), rel=2e-3)


def test_ties_go_to_the_first_class_and_nan_is_refused(tmp_path: Path) -> None:
    class Flat(Reader):
        value = 0.0

        def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
            return np.full((len(images), 3, *images.shape[1:3]), self.value, np.float32)

    folder = write_folder(tmp_path / "t", {"a": np.zeros((4, 4, 3), np.uint8)})
    run(Flat(), [folder], tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert (np.array(picture) == 0).all()
    Flat.value = np.nan
    with pytest.raises(LandsegError, match="no finite number"):
        run(Flat(), [folder], tmp_path / "nan")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unreadable_tiles_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = make_images(5)
    folder = write_folder(tmp_path / "tiles", images)
    whole = png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    (folder / "cut.png").write_bytes(whole[:200])
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "empty.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "landseg"):
        done = predict_tiles(Reader(), find_inputs([folder]), tmp_path / "out", batch=2)
    assert set(done.unreadable) == {"cut", "text", "empty"} and done.files == len(images)
    assert all(name in caplog.text for name in ("cut.png", "text.jpg", "empty.png"))
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == set(images)
    assert set(json.loads((tmp_path / "out" / FINISHED).read_text())["unreadable"]) == {"cut", "text", "empty"}
    for name in images:
        (folder / f"{name}.png").unlink()
    with pytest.raises(LandsegError, match="all 3 tiles are unreadable"):
        predict_tiles(Reader(), find_inputs([folder]), tmp_path / "none", batch=2)
    assert not (tmp_path / "none").exists()


def test_a_damaged_zip_entry_is_left_out(tmp_path: Path) -> None:
    noise = png(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for name in "ab":
            archive.writestr(f"{name}.png", noise)
    data = bytearray((tmp_path / "t.zip").read_bytes())
    data[data.index(noise) + 100] ^= 1
    (tmp_path / "t.zip").write_bytes(data)
    done = predict_tiles(Reader(), find_inputs([tmp_path / "t.zip"]), tmp_path / "out", batch=2)
    assert (done.files, list(done.unreadable)) == (1, ["a"])


def test_bands_are_chosen_by_number(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    (tmp_path / "t").mkdir()
    np.save(tmp_path / "t" / "x.npy", image)
    out = tmp_path / "out"
    with pytest.raises(LandsegError) as caught:
        run(Reader(), [tmp_path / "t"], out)
    assert str(caught.value).endswith(
        "x.npy: 4 bands, the model was trained on 3 (red, green, blue); choose them with --set predict.bands=[1,2,3]"
    )
    assert not out.exists()
    run(Reader(), [tmp_path / "t"], out, bands=(4, 2, 1))
    with Image.open(out / "x.png") as picture:
        assert (np.array(picture) == image[..., 3] % 3).all()
    for bands, words in [((1, 2), "trained on 3 bands"), ((0, 1, 2), "counted from 1"), ((1, 2, 5), "takes band 5")]:
        with pytest.raises(LandsegError, match=words):
            run(Reader(), [tmp_path / "t"], tmp_path / "no", bands=bands)
    np.save(tmp_path / "t" / "x.npy", image[..., :1])
    with pytest.raises(LandsegError, match="1 band, the model was trained on 3"):
        run(Reader(), [tmp_path / "t"], tmp_path / "no")
    np.save(tmp_path / "t" / "x.npy", image[..., :3].astype(np.uint16))
    with pytest.raises(LandsegError, match="uint16 pixels, the model was trained on uint8"):
        run(Reader(), [tmp_path / "t"], tmp_path / "no")


def test_a_large_tile_gives_the_files_that_it_gives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(7) | {"large": make_images(1, 5, 150)["农田"], "wide": np.full((1, 300, 3), 2, np.uint8)}
    folder = write_folder(tmp_path / "tiles", images)
    options = {"overlay": True, "probabilities": True}
    reference = run(Reader(), [folder], tmp_path / "whole", **options)
    monkeypatch.setattr("landseg.inference.pieces.EDGE", 32)
    for batch, lanes in ((1, 1), (1000, 1), (1, 3)):
        engine = Reader(lanes=lanes)
        assert run(engine, [folder], tmp_path / f"pieces{batch}-{lanes}", batch=batch, **options) == reference
        assert max(max(shape[1:3]) for shape in engine.shapes) <= 32
    for lanes in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(Reader(stop_after=12, lanes=lanes), [folder], tmp_path / f"out{lanes}", batch=1, **options)
        assert run(Reader(lanes=4 - lanes), [folder], tmp_path / f"out{lanes}", batch=1, **options) == reference


def test_a_tile_longer_than_a_piece_is_predicted(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (1, 3 * EDGE + 1, 3), dtype=np.uint8)
    engine = Reader()
    run(engine, [write_folder(tmp_path / "t", {"wide": wide})], tmp_path / "out")
    with Image.open(tmp_path / "out" / "wide.png") as picture:
        assert (np.array(picture) == wide[..., 0] % 3).all()
    assert len(engine.shapes) > 3 and max(shape[2] for shape in engine.shapes) <= EDGE


@pytest.mark.parametrize("tta", ["d4", "scales"])
def test_augmentation_is_recorded_and_another_one_is_not_continued(tmp_path: Path, tta: str) -> None:
    folder = write_folder(tmp_path / "tiles", {f"t{i}": np.full((16, 16 + i % 2, 3), i, np.uint8) for i in range(6)})
    reference = run(Reader(), [folder], tmp_path / "whole", tta=tta)
    assert json.loads(reference[FINISHED])["tta"] == tta
    assert {name: data for name, data in reference.items() if name != FINISHED} == {
        name: data for name, data in run(Reader(), [folder], tmp_path / "plain").items() if name != FINISHED
    }, "of tiles of one class each, every view says the same"
    with pytest.raises(KeyboardInterrupt):
        run(Reader(stop_after=14), [folder], tmp_path / "out", tta=tta, batch=1)
    for other in {"none", "d4", "scales"} - {tta}:
        with pytest.raises(LandsegError, match="with another model or settings"):
            run(Reader(), [folder], tmp_path / "out", tta=other, batch=1)
    assert run(Reader(), [folder], tmp_path / "out", tta=tta) == reference


@pytest.mark.parametrize(("stop_after", "lanes"), [(0, 1), (1, 1), (3, 1), (5, 1), (0, 3), (1, 3), (6, 3)])
def test_an_interrupted_prediction_is_completed(tmp_path: Path, stop_after: int, lanes: int) -> None:
    folder = write_folder(tmp_path / "tiles", make_images(14))
    options = {"batch": 2, "overlay": True, "probabilities": True, "fingerprint": "m"}
    reference = run(Reader(), [folder], tmp_path / "whole", **options)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(Reader(stop_after=stop_after, lanes=lanes), [folder], out, **options)
    assert not (out / FINISHED).exists() and out.exists() == (stop_after > 0)
    left = len(list(out.glob("*.png")))
    if stop_after:
        (out / ".1.png.99.partial").write_bytes(b"of a killed process")
        with pytest.raises(LandsegError, match="another model or settings"):
            run(Reader(), [folder], out, **(options | {"fingerprint": "other"}))
        with pytest.raises(LandsegError, match="another model or settings"):
            run(Reader(runtime="stand-in 2"), [folder], out, **options)
    engine = Reader(lanes=4 - lanes)
    done = predict_tiles(engine, find_inputs([folder]), out, **options)  # type: ignore[arg-type]
    assert (done.files, done.resumed) == (14, left)
    assert sum(shape[0] for shape in engine.shapes) == 14 - left
    assert done.pixels == sum(image[..., 0].size for image in make_images(14).values())
    assert read_all(out) == reference


def test_a_changed_tile_is_not_taken_for_finished(tmp_path: Path) -> None:
    images = make_images(9)
    folder = write_folder(tmp_path / "tiles", images)
    with pytest.raises(KeyboardInterrupt):
        run(Reader(stop_after=2), [folder], tmp_path / "out", batch=1)
    (folder / "1.png").write_bytes(png(images["1"] + 1) + b"\0")
    with pytest.raises(LandsegError, match="was begun there"):
        run(Reader(), [folder], tmp_path / "out", batch=1)


def test_existing_output_is_refused_and_overwritten_exactly(tmp_path: Path) -> None:
    images = make_images(6)
    folder, out = write_folder(tmp_path / "tiles", images), tmp_path / "out"
    before = run(Reader(), [folder], out, overlay=True)
    with pytest.raises(LandsegError, match="--overwrite"):
        run(Reader(), [folder], out)
    (out / "mine.png").write_bytes(b"the user's own")
    (folder / "1.png").unlink()
    np.save(folder / "bad.npy", np.zeros((4, 4, 7), np.uint8))
    with pytest.raises(LandsegError, match="7 bands"):
        run(Reader(), [folder / "bad.npy"], out, overwrite=True)
    assert read_all(out) == before | {"mine.png": b"the user's own"}, "a prediction that never began must replace nothing"
    (folder / "bad.npy").unlink()
    after = run(Reader(), [folder], out, overwrite=True)
    assert set(after) == {f"{name}.png" for name in images if name != "1"} | {FINISHED, "mine.png"}


def test_inputs_that_are_not_there_or_clash(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", {"a": np.zeros((4, 4, 3), np.uint8)})
    two = write_folder(tmp_path / "two", {"a": np.zeros((4, 4, 3), np.uint8)})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    for inputs, words in [
        ([one, two], "has the same name"),
        ([one, tmp_path / "empty"], "no image in it"),
        ([tmp_path / "gone"], "it is not there"),
        ([tmp_path / "notes.txt"], r"ends in \.txt"),
        ([], "nothing is named"),
    ]:
        with pytest.raises(LandsegError, match=words):
            find_inputs(inputs)
    nested = write_folder(tmp_path / "deep" / "x" / "p", {"a": np.zeros((4, 4, 3), np.uint8)}).parent
    write_folder(nested / "q", {"a": np.zeros((4, 4, 3), np.uint8)})
    assert [tile.name for tile in find_inputs([tmp_path / "deep"])] == ["p/a", "q/a"]
    assert set(run(Reader(), [tmp_path / "deep"], tmp_path / "out", overlay=True)) == {
        "p/a.png", "q/a.png", "overlay/p/a.jpg", "overlay/q/a.jpg", FINISHED,
    }  # fmt: skip


def test_the_room_needs_no_torch() -> None:
    code = "import sys, landseg.inference.folder; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
