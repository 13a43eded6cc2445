"""An exported folder predicts as the model does, in landseg and without it; what cannot be exported leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pystac
import pytest
import torch
import yaml
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as raised

import landseg
from landseg.cli import main
from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.network import convert, graphs, metadata, onnx_engine, openvino_engine, quantise
from landseg.network.build import Normalisation, build
from landseg.network.card import ModelCard, load_card
from landseg.network.checkpoint import save_model
from landseg.network.convert import tiles
from landseg.network.exported import network_file
from landseg.network.lanes import LaneEngine
from landseg.scoring.confusion import confusion_matrix, scores
from landseg.verbs import export as verb
from landseg.verbs import int8 as int8_room
from landseg.verbs.export import Exported, export
from landseg.verbs.int8 import Quantised

SMALL = "mobilenetv3_small_050"
ROOT = Path(__file__).parents[2]


def save(folder: Path, seed: int = 0, bands: int = 3, dtype: str = "uint8", **changes: object) -> Path:
    """A model folder with random weights, its last layer made larger, so that classes are far apart."""
    torch.manual_seed(seed)
    scale = 1.0 if dtype == "uint8" else 40.0
    mean, std = tuple(scale * (90.0 + 3 * i) for i in range(bands)), (scale * 50.0,) * bands
    network = build("unet", SMALL, bands, 3, Normalisation(mean, std), (32, 16, 16, 8, 8))
    with torch.no_grad():
        list(network.body.segmentation_head.modules())[1].weight.mul_(4)
    names = ("red", "green", "blue") if bands == 3 else tuple(f"B{i}" for i in range(bands))
    facts = {
        "landseg_version": "0", "network": "unet", "encoder": SMALL, "decoder_channels": (32, 16, 16, 8, 8), "bands": names, "dtype": dtype,
        "mean": mean, "std": std, "classes": make_classes(["建筑", "road", "other"]), "tile_size": (64, 64), "resolution_m": 2.0,
        "recipe": {"model": {"weights": "none"}, "predict": {"overlap": 0.5}},
    }  # fmt: skip
    save_model(folder, network.state_dict(), ModelCard.model_validate({**facts, **changes}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One conversion for all tests that only look at its files."""
    return export(model, tmp_path_factory.mktemp("made") / "exported")


@pytest.fixture(scope="module")
def onnx_bytes(made: Exported) -> bytes:
    return (made.out / "model.onnx").read_bytes()


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch, onnx_bytes: bytes) -> None:
    """What follows conversion, without waiting for it again; QGIS is shown less."""
    monkeypatch.setattr(convert, "convert", lambda *_, **__: onnx_bytes)
    monkeypatch.setattr(metadata, "QGIS_EDGE", 64)


@pytest.fixture(scope="module")
def images(model: Path) -> np.ndarray:
    return tiles(load_card(model), 6, 64, 64)


@pytest.fixture(scope="module")
def data(model: Path, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose labels are what the model predicts: its mIoU is 1, and any change of a class lowers it."""
    folder = tmp_path_factory.mktemp("data")
    predictor = landseg.load_model(model, device="cpu", engine="torch")
    (folder / "splits").mkdir()
    rows = ["tile,part,group,scene,row,col"]
    for i, image in enumerate(images):
        for name, content in (("images", image[..., ::-1]), ("labels", predictor.predict(image))):
            (folder / name).mkdir(exist_ok=True)
            assert cv2.imwrite(str(folder / name / f"{i}.png"), content)
        rows.append(f"{i},{'val' if i % 2 else 'train'},{i},,,")
    (folder / "splits" / "halves.csv").write_text("\n".join(rows) + "\n")
    classes = [item.model_dump() for item in load_card(model).classes]
    document = {"name": "own", "images": "images", "labels": "labels", "classes": classes, "bands": ["red", "green", "blue"]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
    return folder


def native(model: Path) -> landseg.Model:
    return landseg.load_model(model, device="cpu", engine="torch")


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def keys(path: Path) -> dict[str, Any]:
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    return {key: json.loads(value) for key, value in found.items()}


@contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    def listing() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}

    before = listing()
    yield
    assert listing() == before


def test_the_folder_holds_what_it_says(made: Exported) -> None:
    assert (
        set(made.files) == {"model.onnx", "model.json", "item.json", "README.md", "qgis.onnx"} == {path.name for path in made.out.iterdir()}
    )
    assert made.as_json() == {"out": str(made.out), "to": "onnx", "files": made.files, "proof": made.proof}
    assert "qgis.onnx" in made.as_text() and "99.99 %" in made.as_text()
    assert [path.name for path in made.out.parent.iterdir()] == ["exported"], "nothing is left beside it"
    assert "proved against torch" in (made.out / "README.md").read_text()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (101, 43)])
def test_it_is_a_model(made: Exported, model: Path, height: int, width: int) -> None:
    (image,) = tiles(load_card(model), 1, height, width)
    ours, theirs = native(model), landseg.load_model(made.out)
    assert (ours.predict(image) == theirs.predict(image)).mean() >= 0.9999
    assert np.allclose(ours.probabilities(image), theirs.probabilities(image), atol=1e-3)
    assert theirs.class_names == ("建筑", "road", "other")


def test_every_verb_takes_it(made: Exported, model: Path, data: Path, tmp_path: Path) -> None:
    scored = landseg.evaluate(made.out, data, out=tmp_path / "report")
    assert scored.scores.miou is not None and scored.scores.miou > 0.999
    done = landseg.predict([made.out, model], data, tmp_path / "maps", settings=["predict.device=cpu"])
    assert done.files == 6, "an ensemble of it and the model itself"
    found = cv2.imread(str(tmp_path / "maps" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert found.shape[:2] == (64, 64)


def test_it_runs_without_landseg_at_any_size_and_batch(made: Exported, model: Path) -> None:
    card = load_card(model)
    for count, height, width in ((1, 33, 70), (3, 64, 32)):
        images = tiles(card, count, height, width)
        logits = run(made.out / "model.onnx", image=images.transpose(0, 3, 1, 2).astype(np.float32))
        assert logits.shape == (count, 3, height, width) and logits.dtype == np.float32
        assert (logits.argmax(1) == np.stack([native(model).predict(image) for image in images])).mean() >= 0.999


def test_the_file_says_what_it_is(made: Exported) -> None:
    found = keys(made.out / "model.onnx")
    assert found["landseg_overlap"] == 0.5, "of the model's own recipe"
    assert [item["name"] for item in found["landseg_classes"]] == list(found["class_names"].values()) == ["建筑", "road", "other"]
    assert found["resolution"] == 200 and found["tiles_overlap"] == 50 and found["standardization_std"] == [1 / 255] * 3


def test_qgis_gets_the_same_classes(made: Exported, model: Path) -> None:
    """What the plugin Deepness does, by its published description: a square of the size in the file, divided by 255, probabilities."""
    session = onnxruntime.InferenceSession(made.out / "qgis.onnx", providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert taken.shape == [1, 3, 512, 512] and given.shape == [1, 3, 512, 512]
    found = keys(made.out / "qgis.onnx")
    assert found["tile_size"] == 512 and found["model_type"] == "Segmentor" and found["class_names"]["0"] == "建筑"
    (image,) = tiles(load_card(model), 1, 512, 512)
    mean, std = (np.reshape(found[f"standardization_{name}"], (1, 1, -1)) for name in ("mean", "std"))
    shown = np.float32((image / 255 - mean) / std).transpose(2, 0, 1)[None]
    probabilities = np.asarray(session.run(None, {taken.name: shown})[0])
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    probabilities[probabilities < found["seg_thresh"]] = 0
    assert (probabilities.argmax(1)[0] == native(model).predict(image)).mean() >= 0.9999


def test_the_stac_item_describes_the_files(made: Exported) -> None:
    item = pystac.Item.from_file(str(made.out / "item.json"))
    assert {Path(asset.href).name for asset in item.assets.values()} == set(made.files) - {"item.json"}
    for asset in item.assets.values():
        content = (made.out / Path(asset.href).name).read_bytes()
        assert asset.extra_fields["file:size"] == len(content)
        assert asset.extra_fields["file:checksum"] == f"1220{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_folder_with_a_missing_or_changed_file_is_one_line(made: Exported, data: Path, tmp_path: Path, harm: str) -> None:
    folder = Path(shutil.copytree(made.out, tmp_path / "copy"))
    path = folder / "model.onnx"
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    done = CliRunner().invoke(main, ["predict", str(folder), str(data), "--out", str(tmp_path / "maps")])
    assert done.exit_code == 2 and str(path) in done.output and len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "maps").exists()


def test_what_is_there_is_kept_or_replaced_as_a_whole(made: Exported, model: Path, tmp_path: Path, converted: None) -> None:
    out = Path(shutil.copytree(made.out, tmp_path / "out"))
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match="--overwrite"):
        export(model, out)
    (out / "qgis.onnx").unlink()
    assert "qgis.onnx" in export(model, out, overwrite=True).files
    landseg.load_model(out)


@pytest.mark.parametrize("name", ["mine.txt", "model.safetensors"])
def test_overwrite_replaces_no_strangers_folder(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match=re.escape(name)):
        export(model, tmp_path, overwrite=True)


def test_neither_the_model_nor_its_folder_is_a_place(model: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(model, tmp_path / "run" / "model"))
    for out in (own, own / "onnx", tmp_path / "run"):
        with nothing_changes(tmp_path), pytest.raises(LandsegError):
            export(tmp_path / "run", out, overwrite=True)


@pytest.mark.parametrize("place", ["convert", "_describe"])
def test_what_fails_half_way_leaves_what_was_there(
    made: Exported, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: None, place: str
) -> None:
    shutil.copytree(made.out, tmp_path / "out")
    error: BaseException = LandsegError("unet", "it differs", "logits as torch's", "no") if place == "convert" else KeyboardInterrupt()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(convert if place == "convert" else verb, place, fail)
    with nothing_changes(tmp_path), pytest.raises(type(error), match="landseg alone" if place == "convert" else None):
        export(model, tmp_path / "out", overwrite=True)
    with nothing_changes(tmp_path), pytest.raises(type(error)):
        export(model, tmp_path / "new")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"to": "tflite"}, "one of onnx, openvino"),
        ({"to": "openvino", "int8": "data"}, "--to onnx"),
        ({"split": "halves"}, "--int8 DATA"),
        ({"int8": "nowhere"}, "nowhere"),
    ],
)
def test_arguments_that_do_not_go_together_are_told_first(model: Path, tmp_path: Path, arguments: dict[str, str], said: str) -> None:
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match=said):
        export(model, tmp_path / "out", **arguments)  # type: ignore[arg-type]


def test_an_exported_model_is_not_exported_again_nor_trained_on(made: Exported, tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="exported already"):
        export(made.out, tmp_path / "out")


def test_twelve_bands_of_sixteen_bits(tmp_path: Path) -> None:
    model = save(tmp_path / "twelve", bands=12, dtype="uint16", resolution_m=None)
    done = export(model, tmp_path / "out")
    assert "qgis.onnx" not in done.files, "the plugin takes 8 bits alone"
    found = keys(done.out / "model.onnx")
    assert len(found["landseg_bands"]) == len(found["standardization_mean"]) == 12 and found["landseg_resolution_m"] is None
    (image,) = tiles(load_card(model), 1, 40, 50)
    assert (landseg.load_model(done.out).predict(image) == native(model).predict(image)).mean() >= 0.9999


def test_a_network_that_was_trained_at_another_size_says_so(tmp_path: Path, model: Path, converted: None) -> None:
    resized = save(tmp_path / "resized", size=128)
    done = export(resized, tmp_path / "out")
    found = keys(done.out / "model.onnx")
    assert found["landseg_scale"] == 2 and found["resolution"] == 100
    (image,) = tiles(load_card(resized), 1, 64, 64)
    assert (landseg.load_model(done.out).predict(image) == native(resized).predict(image)).mean() >= 0.999


def test_openvino(model: Path, tmp_path: Path, converted: None) -> None:
    openvino = pytest.importorskip("openvino")
    done = export(model, tmp_path / "out", to="openvino")
    assert set(done.files) == {"model.xml", "model.bin", "model.json", "item.json", "README.md"}
    (image,) = tiles(load_card(model), 1, 101, 43)
    found = landseg.load_model(done.out)
    assert (found.predict(image) == native(model).predict(image)).mean() >= 0.9999
    info = openvino.Core().read_model(str(done.out / "model.xml")).get_rt_info(["landseg", "classes"])
    assert [item["name"] for item in json.loads(info.astype(str))] == ["建筑", "road", "other"]
    (done.out / "model.bin").unlink()
    with pytest.raises(LandsegError, match=r"model\.bin: it is missing"):
        landseg.load_model(done.out)


@pytest.mark.parametrize(("version", "said"), [(None, "not installed"), ("2022.1.0-7019", "2022.1.0")])
def test_no_openvino_or_an_old_one_is_told_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, said: str
) -> None:
    class Old:
        __version__ = version

    monkeypatch.setitem(sys.modules, "openvino", None if version is None else Old())
    monkeypatch.setattr(convert, "convert", lambda *_, **__: pytest.fail("no work begins"))
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match=said) as caught:
        export(model, tmp_path / "out", to="openvino")
    assert caught.value.what == "--to openvino" and 'pip install -U "landseg[openvino]"' in caught.value.do


def test_openvino_is_proved_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: None) -> None:
    pytest.importorskip("openvino")
    wrong = openvino_engine.openvino_run
    monkeypatch.setattr(openvino_engine, "openvino_run", lambda source: lambda images: wrong(source)(images) + 0.01)
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match=r"OpenVINO.*differ by"):
        export(model, tmp_path / "out", to="openvino")


def foreign() -> bytes:
    """A network in ONNX with an operator that is nobody's."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Dream", ["image"], ["logits"], domain="ours")], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()  # type: ignore[no-any-return]


def test_an_operator_that_openvino_lacks_is_named_in_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(torch.onnx, "export", lambda _network, _images, file, **_: file.write(foreign()))
    cv2.imwrite(str(tmp_path / "tile.png"), np.zeros((64, 64, 3), np.uint8))
    copy = shutil.copytree(model, tmp_path / "model")
    words = ["predict", str(copy), str(tmp_path / "tile.png"), "--out", str(tmp_path / "maps"), "--set", "predict.engine=openvino"]
    for attempt in range(2):  # the second one reads why
        done = CliRunner().invoke(main, words)
        lines = [line for line in done.output.splitlines() if "converting it" not in line]
        assert done.exit_code == 2 and len(lines) == 1, (attempt, done.output)
        assert re.search(r"OpenVINO 20\S+ cannot run it \(.*operations: ours\.Dream.*--set predict\.engine=onnx", lines[0])
    monkeypatch.setattr(convert, "convert", lambda *_, **__: foreign())
    words = ["export", str(model), "--to", "openvino", "--out", str(tmp_path / "out")]
    with nothing_changes(tmp_path):
        done = CliRunner().invoke(main, words)
    lines = [line for line in done.output.splitlines() if "converting it" not in line]
    assert done.exit_code == 2 and len(lines) == 1 and "ours.Dream" in lines[0] and "--to onnx" in lines[0]


def test_a_failure_of_openvinos_readers_is_one_line_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: None
) -> None:
    """They raise exceptions of their own, which are no `RuntimeError`."""
    openvino = pytest.importorskip("openvino")

    def fail(*_: object) -> None:
        raise openvino.frontend.OpConversionFailure("no rule for ours.Dream")

    monkeypatch.setattr(openvino.Core, "read_model", fail)
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match=r"does not take it \(no rule for ours\.Dream\)"):
        export(model, tmp_path / "out", to="openvino")
    with pytest.raises(LandsegError, match=r"cannot run it \(no rule for ours\.Dream\)"):
        openvino_engine.openvino_run(b"a network")


@pytest.mark.parametrize("harm", ["operator", "memory", "size"])
def test_what_onnx_runtime_says_of_the_file_for_qgis_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: None, harm: str
) -> None:
    def spoilt(made: ModelProto, edge: int) -> ModelProto:
        spoilt = graphs_for_qgis(made, edge)
        if harm == "operator":
            spoilt.graph.node[-1].op_type = "Dream"
        if harm == "size":
            spoilt.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
        return spoilt

    def no_memory(session: object, *_: object) -> None:
        raise raised.RuntimeException("Failed to allocate memory for requested buffer of size 9")

    graphs_for_qgis = graphs.for_qgis
    monkeypatch.setattr(graphs, "for_qgis", spoilt)
    if harm == "memory":
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", no_memory)
    with nothing_changes(tmp_path):
        done = CliRunner().invoke(main, ["export", str(model), "--out", str(tmp_path / "out")])
    lines = [line for line in done.output.splitlines() if "converting it" not in line]
    assert done.exit_code == 2 and len(lines) == 1, done.output
    assert re.search(r"qgis\.onnx: ONNX Runtime .*; free memory for 64 × 64 pixels, or a later version", lines[0])


def test_a_conversion_is_announced_before_it_begins(model: Path, tmp_path: Path, converted: None) -> None:
    done = CliRunner().invoke(main, ["export", str(model), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and done.output.count(f"{model}: converting it to ONNX") == 1


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch, converted: None, int8: Exported) -> None:
    """What follows the quantisation, without waiting for it again."""
    monkeypatch.setattr(quantise, "quantised", lambda *_: (int8.out / "model.onnx").read_bytes())
    monkeypatch.setattr(int8_room, "_TIMED_PIXELS", 4096)


@pytest.fixture(scope="module")
def int8(model: Path, data: Path, onnx_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(convert, "convert", lambda *_, **__: onnx_bytes)
        patched.setattr(metadata, "QGIS_EDGE", 64)
        patched.setattr(int8_room, "_TIMED_PIXELS", 4096)
        return export(model, tmp_path_factory.mktemp("int8") / "out", int8=data, max_loss=1.0)


def test_int8_says_what_it_costs_and_gains(int8: Exported, data: Path, images: np.ndarray) -> None:
    found = int8.int8
    assert found is not None and (found.part, found.tiles) == ("val", 3)
    assert found.miou > 0.999, "labels are what the float32 network predicts"
    assert 0.5 < found.miou_int8 < 1 and found.speed > 0
    document = int8.as_json()["int8"]
    assert document["loss"] == found.miou - found.miou_int8 and document["part"] == "val"
    card = load_card(int8.out)
    assert card.exported is not None and card.exported.precision == "int8"
    written = landseg.load_model(int8.out)
    labels = {i: cv2.imread(str(data / "labels" / f"{i}.png"), cv2.IMREAD_UNCHANGED) for i in (1, 3, 5)}
    matrix = np.sum([confusion_matrix(label, written.predict(images[i]), 3) for i, label in labels.items()], 0)
    assert scores(matrix, ("a", "b", "c")).miou == pytest.approx(found.miou_int8, abs=1e-6), "what was written is what was measured"
    assert f"{found.miou_int8:.4f}" in (int8.out / "README.md").read_text()


def test_int8_computes_in_8_bits_in_qgis_too(int8: Exported, made: Exported) -> None:
    assert int8.files["model.onnx"] < 0.5 * made.files["model.onnx"]
    assert int8.files["qgis.onnx"] < 0.5 * made.files["qgis.onnx"]
    network_file(int8.out, load_card(int8.out))


def test_int8_that_loses_too_much_is_refused_with_its_numbers(model: Path, data: Path, tmp_path: Path, quantised: None) -> None:
    words = ["export", str(model), "--out", str(tmp_path / "out"), "--int8", str(data), "--max-loss", "0"]
    with nothing_changes(tmp_path):
        done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 3 and "at most 0 is allowed" in done.stderr
    assert json.loads(done.stdout)["int8"]["loss"] > 0


def test_int8_that_holds_for_one_size_alone_is_refused(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantised: None
) -> None:
    class Rigid(LaneEngine):
        def preds(self, images: np.ndarray) -> np.ndarray:
            found = super().preds(images)
            return found if images.shape[1:3] == (64, 64) else (found + 1) % 3

    opened = onnx_engine.open_onnx
    engines: list[LaneEngine] = []

    def second_is_rigid(*arguments: Any, **options: Any) -> LaneEngine:
        engines.append(opened(*arguments, **options))
        if len(engines) == 2:
            engines[1].__class__ = Rigid
        return engines[-1]

    monkeypatch.setattr(onnx_engine, "open_onnx", second_is_rigid)
    with nothing_changes(tmp_path), pytest.raises(LandsegError, match="at another size"):
        export(model, tmp_path / "out", int8=data, max_loss=1.0)


def test_int8_of_another_data_set_is_refused_before_the_work(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    text = (other / "dataset.yaml").read_text()
    (other / "dataset.yaml").write_text(text.replace("road", "river"))
    monkeypatch.setattr(convert, "convert", lambda *_, **__: pytest.fail("no work begins"))
    with pytest.raises(LandsegError, match=r"river.*road"):
        export(model, tmp_path / "out", int8=other)


def test_without_a_val_part_ranges_come_from_train(model: Path, data: Path, tmp_path: Path, quantised: None) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    split = other / "splits" / "halves.csv"
    split.write_text(split.read_text().replace(",val,", ",train,"))
    done = export(model, tmp_path / "out", int8=other, max_loss=1.0)
    assert done.int8 is not None and (done.int8.part, done.int8.tiles) == ("train", 6)


@pytest.mark.parametrize(
    ("speed", "vnni", "said"),
    [
        (1.8, True, "1.80 times as fast"),
        (0.7, False, "slower: 0.70 times the speed of float32 (its CPU"),
        (0.7, None, "slower: 0.70 times"),
    ],
)
def test_a_slower_int8_is_called_slower(speed: float, vnni: bool | None, said: str) -> None:
    text = Quantised("val", 10, 0.8, 0.795, speed, vnni).as_text()
    assert said in text and "a loss of +0.0050" in text and ("VNNI" in text) is (vnni is False)


def test_the_how_to_runs(made: Exported, model: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python as it stands, in a folder with an exported model and an image."""
    shutil.copytree(made.out, tmp_path / "exported")
    cv2.imwrite(str(tmp_path / "tile.png"), images[0][..., ::-1])
    page = (ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "export.md", "exec"), names)
    assert names["names"] == ["建筑", "road", "other"]
    assert (names["classes"] == native(model).predict(images[0])).mean() >= 0.9999
    assert set(re.findall(r"^\| `(landseg_\w+)`", page, re.MULTILINE)) <= set(keys(made.out / "model.onnx"))
