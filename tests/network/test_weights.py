"""Initial weights: what fits is taken, what does not is named, and nothing in a file is run."""

from __future__ import annotations

import pickle
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from landseg.core.errors import LandsegError
from landseg.network.build import Network, Normalisation, build
from landseg.network.weights import load_initial, read_weights

SMALL = "mobilenetv3_small_050"


def make(encoder: str = SMALL, bands: int = 3, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build("unet", encoder, bands, 4, Normalisation((0.0,) * bands, (1.0,) * bands))


def own(network: Network) -> dict[str, Tensor]:
    """The encoder's tensors by the names that its library gives them."""
    encoder = getattr(network.encoder, "model", network.encoder)
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def pretrained(encoder: str = SMALL) -> dict[str, Tensor]:
    """Stands for downloaded weights: another start, and statistics as training leaves them."""
    tensors = own(make(encoder, seed=1))
    return {name: tensor + 0.25 if name.endswith("running_mean") else tensor for name, tensor in tensors.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def put(path: Path, tensors: object) -> str:
    if path.suffix == ".safetensors":
        save_file(tensors, path)  # type: ignore[arg-type]
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_matches_is_taken_whole(tmp_path: Path, suffix: str) -> None:
    network, wanted = make(), pretrained()
    decoder = {name: tensor.clone() for name, tensor in network.state_dict().items() if not name.startswith("body.encoder")}
    loaded = load_initial(network, SMALL, put(tmp_path / f"w{suffix}", wanted))
    assert same(own(network), wanted)
    count = sum(not name.endswith("num_batches_tracked") for name in wanted)
    assert (loaded.taken, loaded.missing, loaded.unused, loaded.is_first_layer_adapted) == (count, (), (), False)
    assert loaded.as_text() == f"weights: {count} of {count} encoder tensors from {tmp_path / f'w{suffix}'}"
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in decoder.items())


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "backbone.", "module.encoder.model.", "state_dict.module.model."])
def test_prefixes_of_training_scripts_are_taken_off(tmp_path: Path, prefix: str) -> None:
    network, wanted = make(), pretrained()
    loaded = load_initial(network, SMALL, put(tmp_path / "w.pth", {prefix + name: tensor for name, tensor in wanted.items()}))
    assert same(own(network), wanted) and not loaded.missing and not loaded.unused


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_checkpoint_of_a_training_script_is_opened(tmp_path: Path, key: str) -> None:
    network, wanted = make(), pretrained()
    load_initial(network, SMALL, put(tmp_path / "w.pth", {"epoch": 3, key: wanted, "optimizer": {"lr": 0.1}}))
    assert same(own(network), wanted)


def test_torchvisions_names_fit_mobilenet_v2(tmp_path: Path) -> None:
    wanted = pretrained("mobilenet_v2")
    features = {name: tensor for name, tensor in wanted.items() if name.startswith("features.")}
    classifier = {"classifier.1.weight": torch.zeros(10, 1280), "classifier.1.bias": torch.zeros(10)}
    for suffix, tensors in {".pth": {**features, **classifier}, ".safetensors": {**features, **classifier}}.items():
        network = make("mobilenet_v2")
        loaded = load_initial(network, "mobilenet_v2", put(tmp_path / f"w{suffix}", tensors))
        assert same(own(network), wanted)
        assert not loaded.missing and set(loaded.unused) == set(classifier)
        assert "; not used: classifier.1." in loaded.as_text()
    network = make("mobilenet_v2")
    bare = {name.removeprefix("features."): tensor for name, tensor in features.items()}
    load_initial(network, "mobilenet_v2", put(tmp_path / "bare.pth", bare))
    assert same(own(network), wanted)


def test_a_file_that_matches_partly_says_what_was_and_was_not_loaded(tmp_path: Path) -> None:
    wanted = pretrained()
    names = [name for name, tensor in wanted.items() if tensor.ndim == 4]
    lost, other_shape = names[3], names[5]
    tensors = {name: tensor for name, tensor in wanted.items() if name != lost}
    tensors[other_shape] = torch.zeros(1, 2, 3, 3)
    tensors["head.weight"] = torch.zeros(7, 7)
    network = make()
    before = own(network)
    loaded = load_initial(network, SMALL, put(tmp_path / "w.safetensors", tensors))
    after = own(network)
    assert (loaded.missing, loaded.reshaped, loaded.unused) == ((lost,), (other_shape,), ("head.weight",))
    for name in wanted:
        assert torch.equal(after[name], before[name] if name in (lost, other_shape) else wanted[name]), name
    assert f"there in another shape: {other_shape}; not in it: {lost}; not used: head.weight" in loaded.as_text()
    assert f"weights: {loaded.taken} of {loaded.taken + 2} encoder tensors" in loaded.as_text()


@pytest.mark.parametrize("tensors", [{"a.weight": torch.zeros(3, 3)}, {"bn1.weight": torch.ones(8)}])
def test_a_file_in_which_nothing_fits_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    network = make()
    before = own(network)
    with pytest.raises(LandsegError, match=r"none of its 1 tensors fits the encoder.*conv_stem\.weight.*model\.encoder=NAME"):
        load_initial(network, SMALL, put(tmp_path / "w.safetensors", tensors))
    assert same(own(network), before)


@pytest.mark.parametrize("bands", [1, 2, 4, 6, 8])
def test_the_first_layer_is_adapted_to_the_bands(tmp_path: Path, bands: int) -> None:
    network, wanted = make(bands=bands), pretrained()
    loaded = load_initial(network, SMALL, put(tmp_path / "w.safetensors", wanted))
    kernel, rgb = own(network)["conv_stem.weight"].numpy(), wanted["conv_stem.weight"].numpy()
    expected = np.stack([rgb[:, band % 3] for band in range(bands)], 1) * 3 / bands if bands > 1 else rgb.sum(1, keepdims=True)
    assert kernel.shape[1] == bands and np.allclose(kernel, expected, atol=1e-6)
    if bands % 3 == 0 or bands == 1:
        assert np.allclose(kernel.sum(1), rgb.sum(1), atol=1e-5)
    assert loaded.is_first_layer_adapted and not loaded.missing and not loaded.unused
    assert loaded.as_text().endswith("; first layer adapted to the bands")


@pytest.mark.parametrize("encoder", ["repvgg_a0", "mobileone_s0"])
def test_every_layer_that_sees_the_bands_is_adapted(tmp_path: Path, encoder: str) -> None:
    """Re-parameterised encoders read the image by two convolutions or more, which are added."""
    path = put(tmp_path / "w.safetensors", pretrained(encoder))
    colour, wide = make(encoder), make(encoder, bands=6)
    for network in (colour, wide):
        loaded = load_initial(network, encoder, path)
        assert not loaded.missing and not loaded.unused and not loaded.reshaped
    assert loaded.is_first_layer_adapted
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps = colour.eval().encoder(image)[1:], wide.eval().encoder(image.repeat(1, 2, 1, 1))[1:]
    for a, b in zip(*maps, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_grey_input_answers_as_rgb_of_equal_bands_did(tmp_path: Path) -> None:
    path = put(tmp_path / "w.safetensors", pretrained())
    colour, grey = make(bands=3).eval(), make(bands=1).eval()
    for network in (colour, grey):
        load_initial(network, SMALL, path)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        for a, b in zip(colour.encoder(image.repeat(1, 3, 1, 1))[1:], grey.encoder(image)[1:], strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def test_weights_of_four_bands_do_not_make_a_first_layer_of_three(tmp_path: Path) -> None:
    network = make()
    loaded = load_initial(network, SMALL, put(tmp_path / "w.safetensors", own(make(bands=4, seed=1))))
    assert loaded.reshaped == ("conv_stem.weight",) and not loaded.is_first_layer_adapted


def test_none_leaves_the_network_alone() -> None:
    network = make()
    before = own(network)
    assert load_initial(network, SMALL, "none").as_text() == "weights: none, the encoder starts at random"
    assert same(own(network), before)


def test_no_such_file_names_every_way() -> None:
    with pytest.raises(LandsegError, match=r"model\.weights=nowhere\.pth: no such file, imagenet, none, hf-hub:owner/name or the path"):
        load_initial(make(), SMALL, "nowhere.pth")


@pytest.mark.parametrize("encoder", [SMALL, "mobilenet_v2", "mit_b0"])
@pytest.mark.parametrize("weights", ["imagenet", "hf-hub:nobody/nothing"])
def test_without_a_network_the_ways_out_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, weights: str
) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.hub.set_dir(str(tmp_path))
    network = make()
    began = time.monotonic()
    with pytest.raises(LandsegError) as caught:
        load_initial(network, encoder, weights)
    assert time.monotonic() - began < 5
    message = str(caught.value)
    assert message.startswith(f"model.weights={weights}: the weights of {encoder} cannot be had")
    assert "model.weights=PATH" in message and "model.weights=none" in message and "HF_HOME" in message and "\n" not in message
    assert constants.HF_HUB_OFFLINE is False or constants._is_true("HF_HUB_OFFLINE") == constants.HF_HUB_OFFLINE


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch, of the file that is refused
@pytest.mark.parametrize("form", ["torch", "pickle", "legacy"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "was here"
    content = {"state_dict": pretrained(), "extra": Attack(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(LandsegError, match="a file of tensors alone"):
        load_initial(make(), SMALL, str(path))
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("harm", ["empty", "text", "half", "head", "middle", "noise", "page"])
def test_a_damaged_file_is_one_line(tmp_path: Path, suffix: str, harm: str) -> None:
    path = tmp_path / f"w{suffix}"
    put(path, {"conv_stem.weight": torch.rand(16, 3, 3, 3), "b": torch.rand(50)})
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "empty": b"",
            "text": b"version https://git-lfs.github.com/spec/v1\n",
            "half": data[:middle],
            "head": b"\xff" * 8 + data[8:],
            "middle": data[:middle] + data[middle + 64 :],
            "noise": np.random.default_rng(0).bytes(400),
            "page": b"<!DOCTYPE html><html><title>404</title></html>",
        }[harm]
    )
    with pytest.raises(LandsegError) as caught:
        read_weights(path)
    assert caught.value.what == f"model.weights={path}" and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(3)], {"epoch": 3}, torch.zeros(3), {}, {"state_dict": {"a": 3}}])
def test_a_file_without_tensors_by_name_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(LandsegError, match="no tensors by name"):
        read_weights(Path(put(tmp_path / "w.pth", content)))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch, of damaged files
@pytest.mark.parametrize("is_legacy", [False, True])
def test_random_damage_is_one_line(tmp_path: Path, is_legacy: bool) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(4), "b": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=not is_legacy)
    data = path.read_bytes()
    for _ in range(150):
        place = int(rng.integers(0, len(data)))
        path.write_bytes(data[:place] + rng.bytes(int(rng.integers(1, 12))) + data[place + 8 :])
        try:
            read_weights(path)
        except LandsegError:
            continue
