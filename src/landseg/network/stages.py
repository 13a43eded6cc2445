"""What an encoder is made of: the maps that it hands on, where among them each parameter takes effect, which layers see the bands.

No library's names are read; a network is looked at while it works. It changes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from landseg.network.build import TRIAL, Network


def feature_maps(features: Any) -> list[Tensor]:
    """The maps (N, C, H, W) among what an encoder returned, shallowest first; the input itself, which comes first, may be among them.

    Encoders without a stage of stride 2 hand on a map of no channels in its place, which is left out; vision transformers hand on
    their class tokens as well, which are no maps.
    """
    maps = features[0] if isinstance(features, tuple) else features
    return [one for one in maps if isinstance(one, Tensor) and one.ndim == 4 and one.shape[1] > 0]


def parameter_stages(network: Network) -> dict[nn.Parameter, int]:
    """The stage of each parameter of the encoder, counted from 0 for the shallowest.

    No library's names are read: the encoder's maps are computed once from an image of zeros, and a parameter belongs to the first map
    that it reaches, by autograd's graph. So this holds for convolutions, transformers and whatever timm brings next. Where each
    map comes out of the whole network (HRNet, whose branches exchange what they know to the end), nearly everything reaches the shallowest
    of them, and is one stage. What reaches no map (a classifier's remains) counts as the deepest.
    """
    encoder = network.encoder
    parameters = list(encoder.parameters())
    with _undisturbed(network), torch.enable_grad():
        maps = [one for one in feature_maps(encoder(_trial_image(network))) if one.requires_grad]
        stages: dict[nn.Parameter, int] = {}
        for stage, one in enumerate(maps):
            left = [parameter for parameter in parameters if parameter not in stages and parameter.requires_grad]
            if left:
                reached = torch.autograd.grad(one.sum(), left, retain_graph=True, allow_unused=True)
                stages |= {parameter: stage for parameter, gradient in zip(left, reached, strict=True) if gradient is not None}
    deepest = max(stages.values(), default=0)
    return {parameter: stages.get(parameter, deepest) for parameter in parameters}


def stage_widths(network: Network) -> list[int]:
    """Channels of each stage's map, shallowest first."""
    with _undisturbed(network), torch.no_grad():
        return [one.shape[1] for one in feature_maps(network.encoder(_trial_image(network))) if one.shape[-1] < TRIAL]


def band_layers(network: Network) -> tuple[str, ...]:
    """Names within the encoder of the convolutions whose input is the image itself; the second axis of their weights is the bands.

    Most encoders have one. Re-parameterised ones (RepVGG, MobileOne, FastViT) have one a branch. There is none where the encoder first
    folds pixels into channels (TResNet).
    """
    image = torch.arange(_trial_image(network).numel(), device=network.mean.device).view_as(_trial_image(network)).float()
    found: dict[str, None] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            given = inputs[0]
            if isinstance(layer, nn.Conv2d) and layer.groups == 1 and given.shape == image.shape and torch.equal(given, image):
                found[name] = None

        return look

    layers = [(name, module) for name, module in network.encoder.named_modules() if isinstance(module, nn.Conv2d)]
    handles: list[RemovableHandle] = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    try:
        with _undisturbed(network), torch.no_grad():
            network.encoder(image)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found)


def _trial_image(network: Network) -> Tensor:
    return torch.zeros(1, network.mean.shape[1], TRIAL, TRIAL, device=network.mean.device)


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Without a trace in batch normalisation's statistics, in the random state or in what notes a training step (`auxiliary`)."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
