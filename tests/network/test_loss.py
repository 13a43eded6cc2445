"""Each loss equals a plain reference, leaves the ignore index out, and survives batches without labels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from segmentation_models_pytorch import losses as smp

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.settings import LossConfig
from landseg.network.loss import CrossEntropy, make_loss

K = 5
WEIGHTS = (1.0, 2.0, 0.5, 0.0, 3.0)
COUNTS = (400, 30, 0, 5, 565)
NO_CE = {"cross_entropy": 0.0}

CASES: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "smoothing": {"label_smoothing": 0.1},
    "weights": {"class_weights": WEIGHTS, "label_smoothing": 0.1},
    "inverse": {"class_weights": "inverse"},
    "effective": {"class_weights": "effective", "label_smoothing": 0.2},
    "hardest": {"hardest": 0.3},
    "hardest, weights": {"hardest": 0.5, "class_weights": WEIGHTS, "label_smoothing": 0.1},
    "boundary": {"boundary": 4.0, "boundary_px": 1.5},
    "boundary, hardest, weights": {"boundary": 2.0, "hardest": 0.25, "class_weights": WEIGHTS},
    "focal": NO_CE | {"focal": 1.0},
    "focal, weights": NO_CE | {"focal": 1.0, "focal_gamma": 0.5, "class_weights": WEIGHTS},
    "lovasz": NO_CE | {"lovasz": 1.0},
    "dice": NO_CE | {"dice": 1.0},
    "tversky": NO_CE | {"tversky": 1.0},
    "tversky of false positives": NO_CE | {"tversky": 1.0, "tversky_alpha": 1.0},
    "all": {
        "cross_entropy": 0.5, "lovasz": 2.0, "dice": 0.25, "tversky": 3.0, "focal": 0.7, "focal_gamma": 3.0, "tversky_alpha": 0.8,
        "hardest": 0.4, "boundary": 1.0, "label_smoothing": 0.05, "class_weights": WEIGHTS,
    },
}  # fmt: skip

every = pytest.mark.parametrize("case", list(CASES))


def made(case: str, classes: int = K) -> torch.nn.Module:
    return make_loss(LossConfig(**CASES[case]), classes, COUNTS)


def batch(seed: int, ignored: float = 0.3, classes: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (3, 7, 6)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = IGNORE_INDEX
    return torch.from_numpy(rng.normal(0, 3, (3, classes, 7, 6)).astype(np.float32)), torch.from_numpy(labels)


def inverse_weights() -> list[float]:
    """One over the share; the mean over the labelled pixels is 1, absent classes weigh 1."""
    plain = [sum(COUNTS) / n if n else 0.0 for n in COUNTS]
    mean = sum(w * n for w, n in zip(plain, COUNTS, strict=True)) / sum(COUNTS)
    return [w / mean if w else 1.0 for w in plain]


def effective_weights() -> list[float]:
    beta = 1 - 1 / (sum(COUNTS) / 4)
    plain = [(1 - beta) / (1 - beta**n) if n else 0.0 for n in COUNTS]
    mean = sum(w * n for w, n in zip(plain, COUNTS, strict=True)) / sum(COUNTS)
    return [w / mean if w else 1.0 for w in plain]


def factors_of(settings: LossConfig) -> np.ndarray:
    named = {"none": [1.0] * K, "inverse": inverse_weights(), "effective": effective_weights()}
    return np.array(named[settings.class_weights] if isinstance(settings.class_weights, str) else settings.class_weights)


def nearness(labels: np.ndarray, settings: LossConfig) -> np.ndarray:
    """Weight by the Euclidean distance to the nearest pixel that has a neighbour of another class, each pixel with each."""
    found = np.ones(labels.shape)
    for n, tile in enumerate(labels):
        height, width = tile.shape
        touching = [
            (r, c)
            for r in range(height)
            for c in range(width)
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))
            if 0 <= y < height and 0 <= x < width and tile[r, c] != tile[y, x] and IGNORE_INDEX not in (tile[r, c], tile[y, x])
        ]
        for r in range(height):
            for c in range(width):
                apart = [((r - y) ** 2 + (c - x) ** 2) for y, x in touching if max(abs(r - y), abs(c - x)) <= 2.5 * settings.boundary_px]
                if apart:
                    found[n, r, c] += settings.boundary * np.exp(-min(apart) / settings.boundary_px**2)
    return found


def reference(logits: torch.Tensor, labels: torch.Tensor, settings: LossConfig) -> float:
    """All terms, pixel by pixel and class by class, in float64."""
    shown = labels.numpy().reshape(-1) != IGNORE_INDEX
    scores = np.moveaxis(logits.numpy().astype(np.float64), 1, -1).reshape(-1, K)[shown]
    ids = labels.numpy().reshape(-1)[shown].astype(int)
    log_probs = scores - scores.max(1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(1, keepdims=True))
    probs, factor = np.exp(log_probs), factors_of(settings)
    log_p = log_probs[np.arange(len(ids)), ids]

    target = np.full((len(ids), K), settings.label_smoothing / K)
    target[np.arange(len(ids)), ids] += 1 - settings.label_smoothing
    near = nearness(labels.numpy(), settings).reshape(-1)[shown]
    weights = factor[ids] * near
    values = -(target * log_probs).sum(1) * weights
    kept = np.argsort(-values, kind="stable")[: max(1, round(np.float32(settings.hardest) * np.float32(len(ids))))]
    total = settings.cross_entropy * values[kept].sum() / weights[kept].sum()

    total += settings.focal * (factor[ids] * (1 - np.exp(log_p)) ** settings.focal_gamma * -log_p).sum() / factor[ids].sum()
    present = sorted(set(ids.tolist()))
    for weight, alpha in ((settings.dice, 0.5), (settings.tversky, settings.tversky_alpha)):
        for k in present:
            is_k, p = ids == k, probs[:, k]
            hits, wrong, missed = p[is_k].sum(), p[~is_k].sum(), (1 - p[is_k]).sum()
            total += weight * (1 - hits / (hits + alpha * wrong + (1 - alpha) * missed)) / len(present)
    for k in present:
        # The Lovász extension: the Jaccard loss of the set of the i worst pixels being wrong, weighted with the errors' steps.
        errors = np.abs((ids == k) - probs[:, k])
        order, wrong_k = np.argsort(-errors, kind="stable"), 0.0
        steps = np.append(errors[order], 0.0)
        for i in range(len(ids)):
            is_wrong = np.zeros(len(ids), bool)
            is_wrong[order[: i + 1]] = True
            is_true = ids == k
            loss_of_set = 1 - (is_true & ~is_wrong).sum() / (is_true | is_wrong).sum()
            wrong_k += (steps[i] - steps[i + 1]) * loss_of_set
        total += settings.lovasz * wrong_k / len(present)
    return float(total)


@every
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.97])
def test_it_equals_a_plain_reference(case: str, ignored: float) -> None:
    logits, labels = batch(4, ignored)
    assert float(made(case)(logits, labels)) == pytest.approx(reference(logits, labels, LossConfig(**CASES[case])), rel=2e-5)


@every
def test_it_equals_a_plain_reference_where_classes_are_absent(case: str) -> None:
    logits, labels = batch(5)
    for k in (0, 3):
        labels[labels == k] = 1
    assert float(made(case)(logits, labels)) == pytest.approx(reference(logits, labels, LossConfig(**CASES[case])), rel=2e-5)


def test_the_reference_has_each_term_alone_and_torch_agrees_with_it() -> None:
    logits, labels = batch(6)
    plain = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=IGNORE_INDEX)
    assert reference(logits, labels, LossConfig()) == pytest.approx(float(plain), rel=1e-5)
    assert float(make_loss(LossConfig(), K)(logits, labels)) == pytest.approx(float(plain), rel=1e-6)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_without_labels_is_zero_with_zero_gradients(case: str, dtype: torch.dtype) -> None:
    logits = (100 * torch.randn(2, K, 4, 4)).to(dtype).requires_grad_()
    value = made(case)(logits, torch.full((2, 4, 4), IGNORE_INDEX, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0.0 and value.shape == ()
    assert logits.grad is not None and not logits.grad.any()


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(case: str, dtype: torch.dtype) -> None:
    logits, labels = batch(7)
    value = made(case)(logits.to(dtype), labels)
    assert value.dtype == torch.float32
    assert value == made(case)(logits.to(dtype).float(), labels)


@every
def test_what_stands_under_ignored_pixels_changes_nothing(case: str) -> None:
    logits, labels = batch(1)
    is_ignored = (labels == IGNORE_INDEX)[:, None].expand_as(logits)
    found = []
    for other in (0.0, 1e4, -1e4, torch.inf, -torch.inf, torch.nan):
        changed = logits.where(~is_ignored, other + torch.randn(logits.shape)).requires_grad_()
        value = made(case)(changed, labels)
        value.backward()
        assert changed.grad is not None and changed.grad.isfinite().all()
        assert not changed.grad[is_ignored].any() and changed.grad[~is_ignored].any()
        found.append((value.item(), changed.grad))
    for value, gradient in found[1:]:
        assert value == found[0][0] and torch.equal(gradient, found[0][1])


@every
def test_gradients_are_those_of_the_reference(case: str) -> None:
    logits, labels = batch(8)
    logits.requires_grad_()
    made(case)(logits, labels).backward()
    assert logits.grad is not None
    rng, settings = np.random.default_rng(0), LossConfig(**CASES[case])
    for place in rng.integers(0, logits.numel(), 6).tolist():
        ends = []
        for step in (1e-4, -1e-4):
            moved = logits.detach().double()
            moved.view(-1)[place] += step
            ends.append(reference(moved, labels, settings))
        assert float(logits.grad.view(-1)[place]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-6)


@every
def test_right_and_sure_is_nothing_and_wrong_and_sure_is_finite(case: str) -> None:
    labels = torch.arange(36).view(1, 6, 6).remainder(K).to(torch.uint8)
    right = 200.0 * torch.nn.functional.one_hot(labels.long(), K).movedim(-1, 1)
    for logits, is_right in ((right, True), (right.roll(1, 1), False)):
        logits = logits.clone().requires_grad_()
        value = made(case)(logits, labels)
        value.backward()
        assert logits.grad is not None and logits.grad.isfinite().all() and value.isfinite()
        if is_right and not CASES[case].get("label_smoothing"):
            assert value.item() == pytest.approx(0, abs=1e-5)
        elif not is_right:
            assert value.item() > 0.5


@pytest.mark.parametrize("case", [name for name in CASES if not {"class_weights"} & CASES[name].keys()])
def test_one_class_only(case: str) -> None:
    logits = torch.randn(2, 1, 5, 5, requires_grad=True)
    value = made(case, 1)(logits, torch.zeros(2, 5, 5, dtype=torch.uint8))
    value.backward()
    assert abs(value.item()) < 1e-6 and logits.grad is not None and logits.grad.abs().max() < 1e-6


@every
def test_ids_may_be_of_any_integer_type_and_memory_of_any_order(case: str) -> None:
    logits, labels = batch(2)
    value = made(case)(logits, labels)
    assert made(case)(logits.to(memory_format=torch.channels_last), labels.long()).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("focal", [0.0, 1.0])
def test_a_batch_of_a_class_that_weighs_nothing_is_zero_too(smoothing: float, focal: float) -> None:
    logits = torch.randn(2, K, 4, 4, requires_grad=True)
    loss = make_loss(LossConfig(class_weights=(1.0, 1.0, 1.0, 0.0, 1.0), label_smoothing=smoothing, focal=focal), K)
    value = loss(logits, torch.full((2, 4, 4), 3, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].get("class_weights")])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_one_class_has_the_same_loss_under_any_weights(case: str, smoothing: float) -> None:
    logits, labels = batch(11)
    labels[labels != IGNORE_INDEX] = 0
    plain = CASES[case] | {"label_smoothing": smoothing, "class_weights": "none"}
    expected = make_loss(LossConfig(**plain), K)(logits, labels).item()
    for weights in ("inverse", "effective", WEIGHTS, (1e-4, 1, 1, 1, 1e4)):
        found = make_loss(LossConfig(**plain | {"class_weights": weights}), K, (10**6, 10**6, 100, 0, 1))(logits, labels)
        assert found.item() == pytest.approx(expected, rel=1e-5), weights


def test_with_smoothing_too_the_hardest_are_not_those_of_frequent_classes() -> None:
    logits = torch.zeros(1, 3, 2, 4)
    logits[0, 0, 0], logits[0, 1, 1] = 9.0, 2.0  # four pixels of class 0 that are right and sure, four of class 2 that are wrong
    labels = torch.tensor([[[0] * 4, [2] * 4]], dtype=torch.uint8)
    logits.requires_grad_()
    make_loss(LossConfig(hardest=0.5, label_smoothing=0.1, class_weights="inverse"), 3, (10**6, 10**6, 100))(logits, labels).backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, 0].any() and logits.grad[0, :, 1].all()


def test_one_labelled_pixel_among_many_counts_in_full() -> None:
    labels = torch.full((1, 64, 64), IGNORE_INDEX, dtype=torch.uint8)
    labels[0, 3, 5] = 2
    for settings in (LossConfig(), LossConfig(hardest=0.01), LossConfig(boundary=3.0)):
        assert float(make_loss(settings, K)(torch.zeros(1, K, 64, 64), labels)) == pytest.approx(np.log(K))


def test_the_default_is_cross_entropy_alone_to_the_last_bit() -> None:
    loss = make_loss(LossConfig(), K)
    logits, labels = batch(3)
    target = labels.long()
    total = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
    assert isinstance(loss, CrossEntropy)
    assert loss(logits, labels).item() == (total / (target != IGNORE_INDEX).sum()).item()
    assert not loss.state_dict()


def test_the_hardest_are_those_and_no_more() -> None:
    logits = torch.zeros(1, 2, 10, 10)
    logits[0, 1].view(-1)[:] = torch.arange(100.0)
    labels = torch.zeros(1, 10, 10, dtype=torch.uint8)
    labels[0, 9, 5:] = IGNORE_INDEX
    logits.requires_grad_()
    make_loss(LossConfig(hardest=0.2), 2)(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].view(-1).nonzero().flatten().tolist() == list(range(76, 95))


def test_of_pixels_as_hard_as_each_other_as_many_are_kept() -> None:
    logits, labels = torch.zeros(1, 2, 8, 8, requires_grad=True), torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :4] = IGNORE_INDEX
    make_loss(LossConfig(hardest=0.25), 2)(logits, labels).backward()
    assert logits.grad is not None and int(logits.grad[0, 0].count_nonzero()) == 8
    sure = torch.zeros(1, 2, 8, 8)
    sure[:, 0] = 500
    assert make_loss(LossConfig(hardest=0.25), 2)(sure, labels).item() == 0.0
    sure[0, 1, 6, 6] = 1000
    assert make_loss(LossConfig(hardest=0.25), 2)(sure, labels).item() == 500 / 8, "one wrong, seven of those that are right, no ignored"


def test_many_pixels_do_not_lose_lovasz_among_rounding() -> None:
    """Among 2^20 pixels the step of 1 - IoU at one pixel is 1e-6, of which a float32 near 1 keeps one digit."""

    def precise(probs: torch.Tensor, is_true: torch.Tensor) -> torch.Tensor:
        errors, order = (is_true.double() - probs).abs().sort(descending=True)
        right = is_true[order].double()
        losses = 1 - (right.sum() - right.cumsum(0)) / (right.sum() + (1 - right).cumsum(0))
        return (errors * losses.diff(prepend=losses.new_zeros(1))).sum()

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 2, 1024, 1024, generator=generator), torch.randint(0, 2, (1, 1024, 1024), generator=generator)
    logits.requires_grad_()
    value = make_loss(LossConfig(**NO_CE, lovasz=1.0), 2)(logits, labels)
    value.backward()
    double = logits.detach().double().requires_grad_()
    expected = sum(precise(double.softmax(1)[0, k].flatten(), labels.flatten() == k) for k in (0, 1)) / 2
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    assert logits.grad is not None and double.grad is not None
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (logits.grad - double.grad).abs().max() < 1e-3 * double.grad.abs().max()


def test_lovasz_is_the_same_on_a_gpu_where_absent_classes_are_sorted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(5)
    labels[labels == 2] = 1
    found = []
    for is_cuda in (False, True):
        monkeypatch.setattr(torch.Tensor, "is_cuda", is_cuda, raising=False)
        changed = logits.clone().requires_grad_()
        value = made("lovasz")(changed, labels)
        value.backward()
        assert changed.grad is not None
        found.append((value.item(), changed.grad))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_whoever_has_the_right_losses_agrees() -> None:
    """segmentation_models_pytorch's, where they can be used: labels everywhere, every class among them."""
    logits, labels = batch(9, ignored=0.0)
    long = labels.long()
    assert set(long.unique().tolist()) == set(range(K))
    for name, theirs in (
        ("lovasz", smp.LovaszLoss("multiclass")),
        ("dice", smp.DiceLoss("multiclass")),
        ("tversky", smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7)),
    ):
        assert made(name)(logits, labels).item() == pytest.approx(theirs(logits, long).item(), rel=1e-5)


def test_the_faults_for_which_their_losses_are_not_used_are_still_there() -> None:
    logits, labels = batch(10)
    nothing = torch.full_like(labels, IGNORE_INDEX).long()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert smp.LovaszLoss("multiclass", ignore_index=IGNORE_INDEX)(logits, nothing).shape != ()
        assert smp.FocalLoss("multiclass", ignore_index=IGNORE_INDEX)(logits, nothing).isnan()
    with pytest.raises(ValueError, match="1 class"):
        smp.LovaszLoss("multiclass")(logits[:, :1], torch.zeros_like(nothing))
    one = torch.zeros_like(nothing)
    assert smp.DiceLoss("multiclass")(logits, one).item() == pytest.approx(made("dice")(logits, one).item() / K, rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0,), (1.0,) * 6, (-1.0, 1, 1, 1, 1), (0.0,) * 5, ()])
def test_class_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(LandsegError, match=r"loss\.class_weights.*5 numbers"):
        make_loss(LossConfig(class_weights=weights), K)
