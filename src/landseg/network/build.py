"""Build a network: normalisation, then an encoder and a decoder of segmentation_models_pytorch. It loads no weights.

torch starts here: no wing below imports it.
"""

from __future__ import annotations

import difflib
import warnings
from typing import Any, cast

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import Tensor, nn

from landseg.core.errors import LandsegError
from landseg.core.settings import NETWORKS
from landseg.network.card import Normalisation
from landseg.network.sizes import STRIDE

_CLASSES = {
    "deeplabv3plus": smp.DeepLabV3Plus,
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "linknet": smp.Linknet,
    "manet": smp.MAnet,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
    "dpt": smp.DPT,
}

_STAGED = ("unet", "unetplusplus", "manet")
"""Networks whose decoder is five stages of free width."""


class Network(nn.Module):
    """Raw bands in, logits out: normalisation is the first layer, so nobody can forget or repeat it.

    `forward` takes (N, B, H, W) of any numeric dtype, H and W multiples of `STRIDE`, and gives (N, K, H, W) logits.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, body: nn.Module, normalisation: Normalisation, smallest: int = 1) -> None:
        super().__init__()
        self.body = body
        self.smallest = smallest  # a shorter edge is filled up for the body, by repeating its last row or column
        self._is_scaled = normalisation.scaling is not None
        buffers = {"mean": normalisation.mean, "std": normalisation.std}
        if normalisation.scaling is not None:
            buffers["low"], buffers["high"] = zip(*normalisation.scaling, strict=True)
        for name, values in buffers.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.seen(self.normalised(images, has_gaps=images.is_floating_point()))

    def normalised(self, images: Tensor, *, has_gaps: bool) -> Tensor:
        """What the body is shown, float32: with `has_gaps`, values that are not finite are taken for missing."""
        values = images.float()
        scaled = values
        if self._is_scaled:
            scaled = (torch.minimum(torch.maximum(values, self.low), self.high) - self.low) / (self.high - self.low)
        scaled = (scaled - self.mean) / self.std
        # A missing value is what the statistics took it for: nothing, so the mean. One NaN would spread over all logits.
        return torch.where(torch.isfinite(values), scaled, 0.0) if has_gaps else scaled

    def seen(self, scaled: Tensor) -> Tensor:
        """Logits of what is normalised."""
        height, width = scaled.shape[-2:]
        if min(height, width) < self.smallest:
            below, right = max(0, self.smallest - height), max(0, self.smallest - width)
            return cast(Tensor, self.body(F.pad(scaled, (0, right, 0, below), mode="replicate"))[..., :height, :width])
        return cast(Tensor, self.body(scaled))

    @property
    def encoder(self) -> nn.Module:
        """The encoder as segmentation_models_pytorch wraps it."""
        return cast(nn.Module, self.body.encoder)


def build(
    network: str, encoder: str, bands: int, classes: int, normalisation: Normalisation, decoder_channels: tuple[int, ...] | None = None
) -> Network:
    """Build an untrained network.

    Args:
        network: A name of `core.settings.NETWORKS`.
        encoder: A timm name or one of segmentation_models_pytorch's own.
        bands: Number of bands B of the images.
        classes: Number of classes K.
        normalisation: B means and standard deviations, and scalings where there are any.
        decoder_channels: Channels of the decoder's five stages, deepest first; the network's own when None.

    Raises:
        LandsegError: No such encoder (the nearest names are given), a pair that does not fit (what fits is given), or a network that has no
            five stages to give channels to.
    """
    name = encoder_name(encoder)
    options: dict[str, Any] = {} if decoder_channels is None else {"decoder_channels": decoder_channels}
    if options and network not in _STAGED:
        raise LandsegError(
            "model.decoder_channels", f"set for {network}", f"one of {', '.join(_STAGED)}", "--set model.decoder_channels=null"
        )
    try:
        body = _tried_body(network, name, bands, classes, options)
    except _MISFIT as error:
        fits = [other for other in NETWORKS if other != network and _fits(other, name, bands, classes)]
        do = f"--set model.network={fits[0]}" if fits else "choose another encoder, for example resnet50"
        if name in smp_encoders and timm.is_model(name) and _fits(network, f"tu-{name}", bands, classes):
            do += f", or --set model.encoder=tu-{name}, which is timm's own"
        raise LandsegError(
            f"model.network={network}",
            f"it does not fit the encoder {encoder} ({_first_line(error)})",
            f"a pair that fits: {encoder} goes with {', '.join(fits) or 'none of the networks'}",
            do,
        ) from error
    return Network(body, normalisation, TRIAL if network == "pan" or not _takes(body, bands, STRIDE) else 1)


def encoder_name(encoder: str) -> str:
    """The name that segmentation_models_pytorch knows an encoder by; timm's carry its prefix ``tu-``.

    Raises:
        LandsegError: Nobody knows it; the message suggests the nearest names.
    """
    plain = encoder.removeprefix("tu-")
    if plain in smp_encoders and not encoder.startswith("tu-"):
        return plain
    if timm.is_model(plain):
        return f"tu-{plain}"
    known = list(dict.fromkeys([*smp_encoders, *timm.list_models()]))
    near = difflib.get_close_matches(plain, known, 3, 0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "for example mobilenetv3_large_100, resnet50 or convnext_tiny"
    raise LandsegError("model.encoder", f"{encoder!r}", "a timm model or an encoder of segmentation_models_pytorch", hint)


def encoder_normalisation(encoder: str) -> Normalisation:
    """Mean and standard deviation that an encoder's ImageNet weights expect of 8-bit RGB.

    Source: timm's `pretrained_cfg` and segmentation_models_pytorch's preprocessing parameters, times 255.
    """
    name = encoder_name(encoder)
    if name.startswith("tu-"):
        settings = timm.get_pretrained_cfg(name.removeprefix("tu-"))
        mean, std = (settings.mean, settings.std) if settings else (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    else:
        options = smp_encoders[name]["pretrained_settings"]
        chosen: dict[str, Any] = options.get("imagenet") or next(iter(options.values()), {}) if options else {}
        mean, std = chosen.get("mean") or timm.data.IMAGENET_DEFAULT_MEAN, chosen.get("std") or timm.data.IMAGENET_DEFAULT_STD
    return Normalisation(tuple(255 * value for value in mean), tuple(255 * value for value in std))


TRIAL = 4 * STRIDE
"""Edge length of the image on which a new network is tried; pan pools stride 32 three times more."""

# What timm and segmentation_models_pytorch raise for a pair that does not fit.
_MISFIT = (NotImplementedError, ValueError, RuntimeError, TypeError, AttributeError, KeyError, AssertionError, IndexError)


def _body(network: str, name: str, bands: int, classes: int, more: dict[str, Any]) -> nn.Module:
    options: dict[str, Any] = {"encoder_weights": None, "in_channels": bands, "classes": classes, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if network == "dpt":
            try:  # a vision transformer takes images of one size alone unless told otherwise; a convolutional encoder knows no such option
                return cast(nn.Module, smp.DPT(name, dynamic_img_size=True, **options))
            except TypeError:
                pass
        return cast(nn.Module, _CLASSES[network](name, **options))


def _tried_body(network: str, name: str, bands: int, classes: int, more: dict[str, Any]) -> nn.Module:
    """A body that has shown on one small image that its parts fit; some pairs build and fail only then."""
    body = _body(network, name, bands, classes, more).eval()
    with torch.inference_mode():
        shape = tuple(body(torch.zeros(1, bands, TRIAL, TRIAL)).shape)
    if shape != (1, classes, TRIAL, TRIAL):
        raise ValueError(f"an image of {TRIAL} × {TRIAL} gives logits of shape {shape}")
    return body.train()


def _takes(body: nn.Module, bands: int, edge: int) -> bool:
    """False where nothing is left of so small an image: a few encoders convolve without padding."""
    try:
        with torch.inference_mode():
            body.eval()(torch.zeros(1, bands, edge, edge))
    except RuntimeError:
        return False
    finally:
        body.train()
    return True


def _fits(network: str, name: str, bands: int, classes: int) -> bool:
    try:
        _tried_body(network, name, bands, classes, {})
    except _MISFIT:
        return False
    return True


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "its stages do not combine"
    return text if len(text) <= 140 else f"{text[:139]}…"
