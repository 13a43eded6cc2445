"""What training lowers: losses that leave the ignore index out and survive a batch that is all ignored.

Of segmentation_models_pytorch's losses (0.5) none is used, because each fails here: Lovász gives an empty tensor, not a number, for a
batch without labels, and refuses a single class; focal gives NaN for such a batch and is one sigmoid a class, where the network has a
softmax; Dice and Tversky average the classes that the batch lacks as if they were perfect. tests/network/test_loss.py shows it, and says
when that changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import LossConfig
from landseg.network.loss_weights import border_weights, class_weights

_SMALL = 1e-6


def make_loss(settings: LossConfig, classes: int, class_pixels: Sequence[int] | None = None) -> nn.Module:
    """The loss that a recipe names: logits (N, K, H, W) of any float dtype and ids (N, H, W) of any integer dtype to one number.

    It is computed in float32; a batch without a labelled pixel gives 0 with zero gradients.

    Args:
        settings: Terms and their weights.
        classes: Number of classes K.
        class_pixels: Labelled pixels a class of the train part; needed where `loss.class_weights` is inverse or effective.

    Raises:
        LandsegError: The class weights are not K positive-or-zero numbers.
    """
    cross_entropy = CrossEntropy(settings, classes, class_pixels)
    weights = (settings.lovasz, settings.dice, settings.tversky, settings.focal)
    return cross_entropy if settings.cross_entropy == 1 and not any(weights) else Sum(settings, cross_entropy)


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the labelled pixels of a batch; 0, with zero gradients, where none is labelled.

    Without the guard the mean over no pixels is 0/0, and one such batch turns every weight into NaN. Pixels weigh by their class and by
    their distance to a border, the mean is that of weighted values: a batch whose pixels weigh alike has the same loss whatever they
    weigh. torch's own class weights are not used, because with smoothing they are no weights of pixels: a pixel of a frequent class
    counts the smoothed share of a rare one by the rare one's weight, a thousandfold. Of the hardest, those whose value so weighted is
    highest are kept.

    Args:
        settings: `loss.label_smoothing`, `loss.class_weights`, `loss.hardest`, `loss.boundary` and `loss.boundary_px`.
        classes: Number of classes K.
        class_pixels: Labelled pixels a class of the train part; see `class_weights`.

    Raises:
        LandsegError: The class weights are not K positive-or-zero numbers.

    Source of `hardest`: Shrivastava et al. 2016, "Training region-based object detectors with online hard example mining".
    """

    weight: Tensor | None

    def __init__(self, settings: LossConfig, classes: int, class_pixels: Sequence[int] | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("weight", class_weights(settings, classes, class_pixels))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, K, H, W) against class ids (N, H, W)."""
        return self.mean(_shown(logits, labels), labels)

    def mean(self, shown: Tensor, labels: Tensor) -> Tensor:
        """The same of logits (N, K, H, W) float32 that are finite at ignored pixels."""
        settings, target = self.settings, labels.long()
        is_plain = self.weight is None and settings.hardest == 1 and settings.boundary == 0
        values = F.cross_entropy(
            shown,
            target,
            ignore_index=IGNORE_INDEX,
            reduction="sum" if is_plain else "none",
            label_smoothing=settings.label_smoothing,
        )
        weights = pixel_weights(target, self.weight)
        if settings.boundary > 0:
            weights = weights * border_weights(labels, settings.boundary, settings.boundary_px)
        if not is_plain:
            values = values * weights
        if settings.hardest < 1:
            is_kept = hardest(values.detach(), target != IGNORE_INDEX, settings.hardest)
            values, weights = values * is_kept, weights * is_kept
        return _mean(values.sum(), weights.sum())


class Sum(nn.Module):
    """The weighted sum of all terms; a term that weighs nothing is not computed.

    Lovász, Dice and Tversky are taken over all labelled pixels of the batch and averaged over the classes that occur among them.

    Args:
        settings: Weights and constants of the terms.
        cross_entropy: That term, whose class weights the focal loss shares.

    Source: lovasz_softmax, tversky, focal.
    """

    def __init__(self, settings: LossConfig, cross_entropy: CrossEntropy) -> None:
        super().__init__()
        self.settings, self.cross_entropy = settings, cross_entropy

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, K, H, W) against class ids (N, H, W)."""
        settings, target, shown = self.settings, labels.long(), _shown(logits, labels)
        terms = []
        if settings.cross_entropy:
            terms.append(settings.cross_entropy * self.cross_entropy.mean(shown, labels))
        if settings.focal:
            terms.append(settings.focal * focal(shown, target, settings.focal_gamma, self.cross_entropy.weight))
        if settings.lovasz or settings.dice or settings.tversky:
            probs, is_class, is_labelled = _by_class(shown, target)
            if settings.lovasz:
                terms.append(settings.lovasz * lovasz_softmax(probs, is_class, is_labelled))
            for weight, alpha in ((settings.dice, 0.5), (settings.tversky, settings.tversky_alpha)):
                if weight:
                    terms.append(weight * tversky(probs, is_class, alpha))
        return torch.stack(terms).sum()


def pixel_weights(target: Tensor, weight: Tensor | None) -> Tensor:
    """(N, H, W) each pixel's weight by its class, 0 where it is ignored: float32, or bool where all weigh alike. target is int64."""
    is_labelled = target != IGNORE_INDEX
    return is_labelled if weight is None else weight[target.clamp(max=len(weight) - 1)] * is_labelled


def hardest(values: Tensor, is_labelled: Tensor, share: float) -> Tensor:
    """Which pixels have the highest values: `share` of the labelled ones, one at least. All of shape (N, H, W)."""
    order = _highest_first(values.flatten(), is_labelled.flatten())
    kept = (share * is_labelled.sum()).round().clamp(min=1)  # a tensor: to ask for it would make the loop wait for its device
    is_kept = torch.arange(len(order), device=order.device) < kept
    return torch.empty_like(is_kept).scatter_(0, order, is_kept).view_as(values)


def focal(shown: Tensor, target: Tensor, gamma: float, weight: Tensor | None) -> Tensor:
    """Mean over the labelled pixels of (1 - p)^gamma * -log p, p being the probability of the pixel's class; weighted by class.

    Args:
        shown: Logits (N, K, H, W) float32, finite at ignored pixels.
        target: (N, H, W) int64.
        gamma: 0 is cross-entropy.
        weight: (K,), or None.

    Source: Lin et al. 2017, "Focal loss for dense object detection", with softmax.
    """
    is_labelled = target != IGNORE_INDEX
    log_probs = shown.log_softmax(1)
    log_p = log_probs.gather(1, target.where(is_labelled, 0)[:, None])[:, 0]
    # The gradient of a power below 1 is infinite at 0.
    easiness = (-torch.expm1(log_p)).clamp(min=_SMALL) ** gamma
    weights = pixel_weights(target, weight)
    return _mean((-log_p * easiness * weights).sum(), weights.sum())


def tversky(probs: Tensor, is_class: Tensor, alpha: float) -> Tensor:
    """Mean over the classes that occur of 1 - TP / (TP + alpha * FP + (1 - alpha) * FN); alpha = 0.5 is Dice.

    Args:
        probs: (K, P), 0 at ignored pixels.
        is_class: (K, P) bool, False at ignored pixels.
        alpha: Weight of false positives.

    Source: Salehi et al. 2017, "Tversky loss function for image segmentation using 3D fully convolutional deep networks"; Dice: Milletari
    et al. 2016, "V-Net", with sums in place of squares. TP + FP is all probability, TP + FN all pixels of the class.
    """
    hits, claimed, true = (probs * is_class).sum(1), probs.sum(1), is_class.sum(1)
    return _over_classes(1 - hits / (alpha * claimed + (1 - alpha) * true).clamp(min=_SMALL), true > 0)


def lovasz_softmax(probs: Tensor, is_class: Tensor, is_labelled: Tensor) -> Tensor:
    """Mean over the classes that occur of the Lovász extension of 1 - IoU, over the batch's labelled pixels.

    Args:
        probs: (K, P).
        is_class: (K, P) bool, False at ignored pixels.
        is_labelled: (P,) bool.

    Source: Berman et al. 2018, "The Lovász-softmax loss", algorithm 1. The step of 1 - IoU at a pixel is not a difference of two numbers
    near 1, which in float32 loses it among a million pixels, but its closed form: with I the intersection and U the union after the
    pixel, 1 / U where it is of the class and I / (U (U - 1)) where it is not.
    """
    errors = (is_class.float() - probs).abs() * is_labelled
    occurs = is_class.any(1)
    # On a GPU a sort too many costs less than asking it, which makes the loop wait.
    chosen = range(len(probs)) if probs.is_cuda else occurs.nonzero().flatten().tolist()
    steps = torch.zeros_like(errors)
    for k in chosen:
        order = _highest_first(errors[k].detach(), is_labelled)
        is_true = is_class[k].gather(0, order)
        before = is_true.cumsum(0)
        rank = torch.arange(1, len(order) + 1, device=order.device)
        missed, union = (before[-1] - before).float(), (before[-1] + rank - before).float()
        steps[k].scatter_(0, order, torch.where(is_true, 1 / union, missed / (union * (union - 1)).clamp(min=1)))
    return _over_classes((errors * steps).sum(1), occurs)


def _shown(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits in float32, 0 at ignored pixels: an infinite one there, as half precision has them, would make NaN of value and gradient."""
    values = logits.float()
    return values.where((labels != IGNORE_INDEX)[:, None], values.new_zeros(()))


def _by_class(shown: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (K, P), 0 where ignored; which pixel is of which class (K, P) bool; which pixel is labelled (P,) bool."""
    is_labelled, classes = target != IGNORE_INDEX, shown.shape[1]
    probs = shown.softmax(1) * is_labelled[:, None]
    ids = torch.arange(classes, device=target.device)
    return probs.movedim(1, 0).reshape(classes, -1), target.flatten() == ids[:, None], is_labelled.flatten()


def _highest_first(values: Tensor, is_labelled: Tensor) -> Tensor:
    """(P,) the order of values that are not negative: highest first, ignored ones last, equal ones as they stand.

    Such floats are ordered as their bits are, and torch sorts whole numbers upwards by radix: a seventh of the time on a CPU.
    """
    keys = torch.iinfo(torch.int32).max - 1 - values.abs().view(torch.int32)  # abs: the bits of -0.0 are those of no small number
    return keys.where(is_labelled, torch.iinfo(torch.int32).max).argsort(stable=True)


def _over_classes(values: Tensor, occurs: Tensor) -> Tensor:
    return (values * occurs).sum() / occurs.sum().clamp(min=1)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    # Not clamped to 1: weights may be small. And not clamped alone: the gradient of 0 / tiny overflows under a scaler of gradients.
    count = count.to(total.dtype)
    return torch.where(count > 0, total / count.clamp(min=torch.finfo(total.dtype).tiny), total * 0)
