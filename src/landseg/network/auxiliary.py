"""Deep supervision: a second head on the encoder's last but one stage, which trains along. It is in no model and predicts nothing."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from landseg.core.errors import LandsegError
from landseg.network.build import Network
from landseg.network.stages import feature_maps, stage_widths

DROPOUT = 0.1
"""Before the head's last layer. Source: Zhao et al. 2017, "Pyramid scene parsing network", and its published code."""


class Supervised(nn.Module):
    """A network with a second, fully convolutional head; in training it gives the logits of both, otherwise the network's alone.

    The head is a 3 × 3 convolution to a quarter of the channels, batch normalisation, ReLU, dropout and a 1 × 1 convolution; its logits
    are resized to the images. Source: Zhao et al. 2017, "Pyramid scene parsing network", section 3.3 (auxiliary loss).

    Args:
        network: As `build` made it; it stays what it is, and knows nothing of the head.
        classes: Number of classes K.

    Raises:
        LandsegError: The encoder has fewer than two stages.
    """

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        widths = stage_widths(network)
        if len(widths) < 2:
            raise LandsegError(
                "loss.auxiliary",
                f"the encoder has {len(widths)} stages",
                "a last but one stage for the second head",
                "--set loss.auxiliary=0",
            )
        width, inner = widths[-2], max(1, widths[-2] // 4)
        self.network = network
        self.head = nn.Sequential(
            nn.Conv2d(width, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(inner, classes, 1),
        )
        self._maps: list[Tensor] = []
        network.encoder.register_forward_hook(self._note)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N, B, H, W) → logits (N, K, H, W), in training those of the second head too."""
        logits = cast(Tensor, self.network(images))
        if not self.training:
            return logits
        height, width = images.shape[-2:]
        filled = [max(edge, self.network.smallest) for edge in (height, width)]
        second = F.interpolate(self.head(self._maps.pop()), filled, mode="bilinear", align_corners=False)
        return logits, second[..., :height, :width]

    def _note(self, _encoder: nn.Module, _inputs: Any, features: Any) -> None:
        # Of a training step alone: the network is validated by itself, and a map that is held holds its whole graph.
        self._maps = [feature_maps(features)[-2]] if self.network.training else []
