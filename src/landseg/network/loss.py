"""What training lowers: losses that leave the ignore index out and survive a batch that is all ignored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landseg.core.classes import IGNORE_INDEX
from landseg.core.config import LossConfig
from landseg.core.errors import LandsegError


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the labelled pixels of a batch; 0, with zero gradients, where none is labelled.

    Without the guard the mean over no pixels is 0/0, and one such batch turns every weight into NaN.

    Args:
        settings: `loss.label_smoothing` and `loss.class_weights`.
        classes: Number of classes K.

    Raises:
        LandsegError: The class weights are not K positive-or-zero numbers.
    """

    weight: Tensor | None

    def __init__(self, settings: LossConfig, classes: int) -> None:
        super().__init__()
        given = settings.class_weights
        if given is not None and (len(given) != classes or min(given) < 0 or max(given) == 0):
            raise LandsegError(
                "loss.class_weights",
                f"{list(given)}",
                f"{classes} numbers, none negative, not all zero",
                "one a class, in the order of the ids",
            )
        self.smoothing = settings.label_smoothing
        self.register_buffer("weight", None if given is None else torch.tensor(given, dtype=torch.float32))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, K, H, W) against class ids (N, H, W) of any integer dtype."""
        target = labels.long()
        total = F.cross_entropy(
            logits.float(), target, weight=self.weight, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=self.smoothing
        )
        is_labelled = target != IGNORE_INDEX
        if self.weight is None:
            count = is_labelled.sum().to(total.dtype)
        else:
            count = (self.weight[target.clamp(max=len(self.weight) - 1)] * is_labelled).sum()
        # Pixels of classes that weigh nothing alone: smoothing leaves a total without a count, which is no loss either.
        return torch.where(count > 0, total / count.clamp(min=torch.finfo(total.dtype).tiny), total * 0)


def make_loss(settings: LossConfig, classes: int) -> nn.Module:
    """The loss that a recipe names."""
    return CrossEntropy(settings, classes)
