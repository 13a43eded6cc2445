"""Begin from a model of landseg: every tensor that fits, classes and bands by their names. Pretrained encoders are `weights`' matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from landseg.core.errors import LandsegError
from landseg.network.build import Network
from landseg.network.card import ModelCard, find_model, load_card
from landseg.network.checkpoint import load_model
from landseg.network.stages import band_layers
from landseg.network.weights import Loaded, load_initial, some

_NORMALISATION = ("mean", "std", "low", "high")
"""Tensors of a network that the data's statistics give, not a model."""

_ENCODER, _HEAD = "body.encoder", "body.segmentation_head"


@dataclass(frozen=True)
class Adopted:
    """What came of a model's weights.

    Of the new network's tensors, `taken` were taken, wholly or the rows of some classes and the kernels of some bands; `reshaped` the model
    has in another shape and `missing` it lacks (or its last layer knows none of the classes): they keep their random start. `unused` are
    the model's that have no place.
    """

    source: Path
    card: ModelCard
    taken: int
    missing: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    lost_classes: tuple[str, ...] = ()
    new_bands: tuple[str, ...] = ()
    lost_bands: tuple[str, ...] = ()

    def as_text(self) -> str:
        """One line that a person reads when training starts."""
        score = self.card.scores.get("val", {}).get("miou")
        known = f"{self.card.network} with {self.card.encoder}" + ("" if score is None else f", val mIoU {score:.4f}")
        line = (
            f"weights: {self.taken} of {self.taken + len(self.missing) + len(self.reshaped)} tensors from the model {self.source} ({known})"
        )
        for words, names in (
            ("classes that start anew", self.new_classes),
            ("classes left behind", self.lost_classes),
            ("bands that start as the mean of the model's", self.new_bands),
            ("bands left behind", self.lost_bands),
        ):
            line += f"; {words}: {', '.join(names)}" if names else ""
        for words, names in (("there in another shape", self.reshaped), ("not in it", self.missing), ("not used", self.unused)):
            line += f"; {words}: {some(names)}" if names else ""
        return line


def base_card(weights: str) -> ModelCard | None:
    """The card of the model that `model.weights` names; None where it names none.

    Raises:
        LandsegError: A folder that is no model, or a damaged one.
    """
    folder = _model_folder(weights)
    return None if folder is None else load_card(folder)


def load_start(network: Network, encoder: str, weights: str, classes: Sequence[str], bands: Sequence[str]) -> Loaded | Adopted:
    """Give a new network its initial weights, from a model of landseg or as `weights.load_initial` does.

    Args:
        network: As `build` made it; changed in place.
        encoder: The encoder's name.
        weights: `model.weights`.
        classes: Names in the order of the ids.
        bands: Names in the order of the bands.

    Raises:
        LandsegError: Nothing there that fits.
    """
    folder = _model_folder(weights)
    return load_initial(network, encoder, weights) if folder is None else adopt(network, folder, classes, bands)


def adopt(network: Network, folder: Path, classes: Sequence[str], bands: Sequence[str]) -> Adopted:
    """Take over every tensor of a model that fits a new network, by name and shape.

    Rows of the last layer belong to classes and kernels of the first to bands: they are taken by name, whatever their order and number.
    A class that the model does not know keeps its random start; a band that it does not know begins as the mean of the model's bands.
    The normalisation stays the new network's own.

    Args:
        network: As `build` made it; changed in place.
        folder: A model folder.
        classes: Names in the order of the new ids.
        bands: Names in the order of the new bands.

    Raises:
        LandsegError: No model there, no tensor of it with weights fits, or the bands stand in another order before an encoder of which no
            layer sees them one by one.
    """
    model, card = load_model(folder)
    found = {name: tensor for name, tensor in model.state_dict().items() if name not in _NORMALISATION}
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in _NORMALISATION}
    fitting = {name: found[name].clone() for name in own if name in found and found[name].shape == own[name].shape}
    first, head = _band_names(network), _head_name(network)
    # Equal in shape or not: rows and kernels are what their names say.
    seers = [name for name in first if name in _band_names(model) and _are_alike(own[name], found[name], 1)]
    fitting |= {name: _by_band(found[name], card.bands, bands) for name in seers}
    rows = [f"{head}.{name}" for name in ("weight", "bias") if f"{head}.{name}" in own and head == _head_name(model)]
    rows = [name for name in rows if _are_alike(own[name], found[name], 0)]
    fitting |= {name: _by_class(own[name], found[name], card.class_names, classes) for name in rows}
    if not set(classes) & set(card.class_names):  # not a row of them is the model's
        fitting = {name: tensor for name, tensor in fitting.items() if name not in rows}
    if not any(tensor.ndim > 1 for name, tensor in fitting.items() if not name.startswith(f"{head}.")):
        raise LandsegError(
            f"model.weights={folder}",
            f"none of its {len(found)} tensors fits; it is {card.network} with {card.encoder}",
            "a model of the same network or encoder",
            f"--set model.network={card.network} --set model.encoder={card.encoder}",
        )
    if not first and len(bands) == len(card.bands) and tuple(bands) != card.bands and any(name.startswith(_ENCODER) for name in fitting):
        raise LandsegError(
            f"model.weights={folder}",
            f"bands ({', '.join(bands)}), which {card.encoder} mixes before its first layer",
            f"those of the model in its order: {', '.join(card.bands)}",
            "prepare the data set with these bands, or --set model.weights=imagenet",
        )
    network.load_state_dict(fitting, strict=False)
    is_weight = {name: not name.endswith("num_batches_tracked") for name in {*own, *found}}  # counters are no weights
    return Adopted(
        folder,
        card,
        sum(is_weight[name] for name in fitting),
        missing=tuple(name for name in own if (name not in found or name in rows) and name not in fitting and is_weight[name]),
        reshaped=tuple(name for name in own if name in found and name not in fitting and name not in rows),
        unused=tuple(name for name in found if name not in own and is_weight[name]),
        new_classes=_without(classes, card.class_names),
        lost_classes=_without(card.class_names, classes),
        new_bands=_without(bands, card.bands) if seers else (),
        lost_bands=_without(card.bands, bands) if seers else (),
    )


def _model_folder(weights: str) -> Path | None:
    path = Path(weights)
    if weights in ("imagenet", "none") or weights.startswith("hf-hub:") or not path.is_dir():
        return None
    try:
        return find_model(path)
    except LandsegError as error:
        raise LandsegError(
            f"model.weights={weights}",
            "a folder without a model in it",
            "a run folder or model folder of landseg, or a safetensors or pth file",
            "name the folder of a run that has kept a model, or the file itself",
        ) from error


def _by_band(kernels: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    """(C, B, …) for new bands: the kernels of bands of equal names, else the mean of all."""
    mean = kernels.mean(1)
    return torch.stack([kernels[:, old.index(name)] if name in old else mean for name in new], 1)


def _by_class(own: Tensor, found: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    """(K, …) for new classes: the model's rows of equal names, else the new network's own."""
    rows = own.clone()
    for i, name in enumerate(new):
        if name in old:
            rows[i] = found[old.index(name)]
    return rows


def _are_alike(own: Tensor, found: Tensor, axis: int) -> bool:
    """True when two tensors differ in length along one axis at most."""
    shapes = [[*tensor.shape] for tensor in (own, found)]
    for shape in shapes:
        shape[axis] = 0
    return shapes[0] == shapes[1]


def _band_names(network: Network) -> list[str]:
    """Names of the weights that see the bands."""
    return [f"{_ENCODER}.{name}.weight" for name in band_layers(network)]


def _head_name(network: Network) -> str:
    """Name of the layer whose rows are classes, the head's last convolution."""
    names = [name for name, module in network.named_modules() if name.startswith(_HEAD) and isinstance(module, nn.Conv2d)]
    return names[-1] if names else ""


def _without(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)
