"""Where an encoder's initial weights come from: the hub, a file, or nowhere. It builds no network and saves nothing."""

from __future__ import annotations

import pickle
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from landseg.core.errors import LandsegError
from landseg.network.build import Network, encoder_name
from landseg.network.stages import band_layers

_WRAPPERS = ("module.", "state_dict.", "model.", "encoder.", "backbone.", "body.", "features.")
"""Prefixes that training scripts and libraries put before an encoder's own names."""

# What torch and safetensors raise for damaged files; torch's restricted unpickler trips over its own stack in many ways.
_DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    LookupError,
    AssertionError,
    TypeError,
    AttributeError,
)


@dataclass(frozen=True)
class Loaded:
    """What came of initial weights: how many tensors were taken; encoder tensors that the source lacks (`missing`) or has in another
    shape (`reshaped`), which keep their random start; tensors of the source without a place (`unused`)."""

    source: str
    taken: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    is_first_layer_adapted: bool = False

    def as_text(self) -> str:
        """One line that a person reads when training starts."""
        if self.source == "none":
            return "weights: none, the encoder starts at random"
        line = f"weights: {self.taken} of {self.taken + len(self.missing) + len(self.reshaped)} encoder tensors from {self.source}"
        if self.reshaped:
            line += f"; there in another shape: {some(self.reshaped)}"
        if self.missing:
            line += f"; not in it: {some(self.missing)}"
        if self.unused:
            line += f"; not used: {some(self.unused)}"
        return line + ("; first layer adapted to the bands" if self.is_first_layer_adapted else "")


def load_initial(network: Network, encoder: str, weights: str) -> Loaded:
    """Give a new network's encoder its initial weights.

    Of another number of bands, each layer that sees them is adapted by repeating its kernels over the bands and keeping their sum.
    Source: `timm.models.adapt_input_conv`.

    Args:
        network: As `build` made it; changed in place.
        encoder: The encoder's name.
        weights: ``imagenet`` | ``none`` | path of a safetensors or pth file | ``hf-hub:owner/name``.

    Raises:
        LandsegError: The hub cannot be reached, the file cannot be read, or nothing in it fits the encoder.
    """
    if weights == "none":
        return Loaded("none", 0)
    if weights == "imagenet":
        found, source = _from_hub(encoder, None), f"ImageNet ({encoder})"
    elif weights.startswith("hf-hub:"):
        found, source = _from_hub(encoder, weights), weights
    else:
        found, source = read_weights(Path(weights)), weights
    return _fit(network, found, source)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors or PyTorch file by name; a PyTorch file is read without running any code in it.

    Raises:
        LandsegError: No such file, or it holds no tensors.
    """
    if path.is_dir():
        raise LandsegError(
            f"model.weights={path}",
            "a folder",
            "a safetensors or pth file",
            f"name the file in it, for example {path / 'model' / 'model.safetensors'}",
        )
    if not path.is_file():
        raise LandsegError(
            f"model.weights={path}",
            "no such file",
            "imagenet, none, hf-hub:owner/name or the path of a safetensors or pth file, or of a run",
            "check the path",
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise LandsegError(
            f"model.weights={path}",
            f"it cannot be read ({' '.join(str(error).split())[:100] or 'it is empty'})",
            "a file of tensors alone (safetensors or pth)",
            "download it again, or save its state_dict with safetensors",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise LandsegError(f"model.weights={path}", "no tensors by name in it", "a state_dict", "save `model.state_dict()`")
    return tensors


def _from_hub(encoder: str, source: str | None) -> dict[str, Tensor]:
    """The pretrained three-band encoder's tensors, through timm or segmentation_models_pytorch, both of which use the hub."""
    name = encoder_name(encoder)
    try:
        with warnings.catch_warnings(), _patient_only_online():
            warnings.simplefilter("ignore")
            if source is not None:
                model = timm.create_model(source, pretrained=True)
            elif name.startswith("tu-"):
                model = timm.create_model(name.removeprefix("tu-"), pretrained=True)
            else:
                model = smp.encoders.get_encoder(name, in_channels=3, weights="imagenet")
    # The hub's client raises its own, requests' or httpx's errors, by version; all but the last two derive from these.
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise LandsegError(
            f"model.weights={source or 'imagenet'}",
            f"the weights of {encoder} cannot be had ({type(error).__name__})",
            "a network connection or weights on this machine",
            "--set model.weights=PATH, --set model.weights=none, or fill the Hugging Face cache (HF_HOME) where there is a network",
        ) from error
    return dict(model.state_dict())


@contextmanager
def _patient_only_online() -> Iterator[None]:
    """Where the hub's name does not resolve, look in its cache alone: its client would retry for most of a minute."""
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
        is_offline = constants.HF_HUB_OFFLINE
    except OSError:
        is_offline = True
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, is_offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _fit(network: Network, found: Mapping[str, Tensor], source: str) -> Loaded:
    encoder = cast(nn.Module, getattr(network.encoder, "model", network.encoder))
    own = encoder.state_dict()
    matched = _match(own, found)
    placed = {id(tensor) for tensor in matched.values()}
    prefix = "" if encoder is network.encoder else "model."
    bands, is_adapted = network.mean.shape[1], False
    for first in (f"{name.removeprefix(prefix)}.weight" for name in band_layers(network)):
        pretrained = matched.get(first)
        if pretrained is not None and pretrained.ndim == 4 and pretrained.shape[1] == 3 != bands:
            matched[first], is_adapted = adapt_input_conv(bands, pretrained), True
    taken = {name: tensor for name, tensor in matched.items() if tensor.shape == own[name].shape}
    # Counters of batch normalisation are no weights; older files lack them.
    missing = tuple(name for name in own if name not in matched and not name.endswith("num_batches_tracked"))
    reshaped = tuple(name for name in matched if name not in taken)
    if not any(tensor.ndim > 1 for tensor in taken.values()):
        raise LandsegError(
            f"model.weights={source}",
            f"none of its {len(found)} tensors fits the encoder (it has {some(tuple(found))}; the encoder wants {some(tuple(own))})",
            "weights of this very encoder",
            "name the encoder they belong to with --set model.encoder=NAME",
        )
    encoder.load_state_dict(taken, strict=False)
    unused = tuple(name for name, tensor in found.items() if id(tensor) not in placed)
    return Loaded(source, sum(not name.endswith("num_batches_tracked") for name in taken), missing, unused, reshaped, is_adapted)


def _match(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pair tensors by name after taking wrappers' prefixes off either side; the pairing that places most wins."""
    best: dict[str, Tensor] = {}
    for strip_found in ("", *_prefixes(found)):
        for strip_own in ("", *_prefixes(own)):
            names = {name.removeprefix(strip_found): tensor for name, tensor in found.items() if name.startswith(strip_found)}
            placed = {name: names[key] for name in own if name.startswith(strip_own) and (key := name.removeprefix(strip_own)) in names}
            if len(placed) > len(best):
                best = placed
    return best


def _prefixes(names: Mapping[str, Tensor]) -> set[str]:
    """Every chain of wrappers that some name begins with: ``module.encoder.`` gives ``module.`` and ``module.encoder.``."""
    chains = set()
    for name in names:
        chain = ""
        while step := next((wrapper for wrapper in _WRAPPERS if name.startswith(chain + wrapper)), None):
            chain += step
            chains.add(chain)
    return chains


def some(names: tuple[str, ...]) -> str:
    """The first three of many names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
