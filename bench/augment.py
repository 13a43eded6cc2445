"""Augmentation speed: landseg's beside kornia's and torchvision's nearest equivalents, alternating in one process on the same CPU batch.

    pip install kornia torchvision
    python bench/augment.py [--rounds 15] [--threads 2] [--batch 16] [--size 256]

The common set is what all three have: flips, rotation and scale, blur and noise on a fifth of the tiles, brightness, contrast,
saturation, hue, and a rectangle cut out of a tenth. landseg's full set adds quarter turns, aspect, tint, gamma, haze and shadow. The last
side is one training step (forward, backward, SGD) on the same batch, so that the cost can be told as a share of it. Then what each
library does with a label's exposed corners, four bands, and a tile in another batch is tried and printed. A library that is not installed
is left out. Processor time is told beside the clock's: on a machine that does other work too it is the steadier one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landseg.core.settings import AugmentConfig
from landseg.network.build import Normalisation, build
from landseg.training.augment import Bands, augment
from landseg.training.draws import tile_keys

try:
    import kornia.augmentation as kornia
except ImportError:
    kornia = None
try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2
except ImportError:
    v2 = None

ENCODER = "tf_mobilenetv3_large_minimal_100"
COMMON = AugmentConfig(
    quarter_turns=False,
    rotation_deg=20,
    scale=(0.75, 1.25),
    blur=0.2,
    noise=0.2,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue_deg=10,
    cutout=0.1,
)
FULL = COMMON.model_copy(update={"quarter_turns": True, "aspect": 1.2, "tint": 0.1, "gamma": 0.2, "haze": 0.1, "shadow": 0.1})
Side = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Times = dict[str, list[float]]


def landseg_side(config: AugmentConfig, keys: np.ndarray) -> Side:
    """landseg's augmentation; a call is an epoch."""
    calls = iter(range(10**9))

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        of = Bands(
            (118.0,) * images.shape[1],
            (55.0,) * images.shape[1],
            (0.0,) * images.shape[1],
            (255.0,) * images.shape[1],
            images.shape[1] == 3,
        )
        return augment(images, labels, config, of, seed=0, epoch=next(calls), keys=keys)

    return run


def kornia_side() -> Side:
    """kornia's: draws for each sample, images 0 to 1, masks in floats."""
    pipeline = kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.RandomVerticalFlip(p=0.5),
        kornia.RandomAffine(20, scale=(0.75, 1.25), p=1.0),
        kornia.ColorJiggle(0.2, 0.3, 0.3, 0.03, p=1.0),
        kornia.RandomGaussianBlur((9, 9), (0.5, 1.5), p=0.2),
        kornia.RandomGaussianNoise(std=0.02, p=0.2),
        kornia.RandomErasing((0.01, 0.25), p=0.1),
        data_keys=["input", "mask"],
    )

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = pipeline(images.float() / 255, labels[:, None].float())
        return found[0], found[1][:, 0].to(torch.uint8)

    return run


def torchvision_side(by_tile: bool) -> Side:
    """torchvision's v2: one draw a call, so draws for each tile need a call a tile."""
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.RandomAffine(20, scale=(0.75, 1.25), interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(0.2, 0.3, 0.3, 0.03),
            v2.RandomApply([v2.GaussianBlur(9, (0.5, 1.5))], 0.2),
            v2.RandomApply([v2.GaussianNoise(sigma=0.02)], 0.2),
            v2.RandomErasing(0.1, (0.01, 0.25)),
        ]
    )

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not by_tile:
            return pipeline(tv_tensors.Image(images), tv_tensors.Mask(labels))
        pairs = [pipeline(tv_tensors.Image(image), tv_tensors.Mask(label)) for image, label in zip(images, labels, strict=True)]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    return run


def step_side() -> Side:
    """A training step of the network that the budget is told for."""
    network = build("deeplabv3plus", ENCODER, 3, 5, Normalisation((118.0,) * 3, (55.0,) * 3)).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels.long(), ignore_index=255).backward()
        optimiser.step()
        return images, labels

    return run


def measure(sides: dict[str, Side], images: Tensor, labels: Tensor, rounds: int) -> tuple[Times, Times]:
    """Seconds and processor seconds of each side in each round."""
    wall: Times = {name: [] for name in sides}
    cpu: Times = {name: [] for name in sides}
    for side in sides.values():
        side(images, labels)
    for _ in range(rounds):
        for name, side in sides.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            side(images, labels)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    return wall, cpu


def tell(times: Times, count: int) -> None:
    """Speeds, then what is compared round by round, as the machine's speed drifts."""
    for name, values in times.items():
        speeds = [count / value for value in values]
        print(
            f"{name:28} {statistics.median(speeds):7.1f} tiles/s ({min(speeds):.1f}–{max(speeds):.1f})   "
            f"{1000 * statistics.median(values):7.1f} ms a batch"
        )
    for name, values in times.items():
        if name.startswith("landseg"):
            shares = [100 * ours / step for ours, step in zip(values, times["training step"], strict=True)]
            print(f"{name}: {statistics.median(shares):.1f} % of a training step ({min(shares):.1f}–{max(shares):.1f} %)")
        elif name != "training step":
            ratios = [theirs / ours for ours, theirs in zip(times["landseg, common set"], values, strict=True)]
            print(f"landseg is {statistics.median(ratios):.2f} times as fast as {name} ({min(ratios):.2f}–{max(ratios):.2f})")


def tried(side: Callable[[], object]) -> str:
    """What comes of it, in a line."""
    try:
        return str(side())
    except Exception as error:  # noqa: BLE001 - a benchmark reports what a library raises, whatever it is
        return f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"


def exposed(side: Side) -> str:
    """Which ids labels of nothing but 3 hold afterwards, in eight batches."""
    images, labels = torch.full((16, 3, 64, 64), 200, dtype=torch.uint8), torch.full((16, 64, 64), 3, dtype=torch.uint8)
    ids = {value for _ in range(8) for value in torch.as_tensor(side(images, labels)[1]).unique().tolist()}
    return f"ids of labels that were 3 throughout: {sorted(ids)}"


def four_bands(side: Side) -> str:
    """Whether images of four bands pass."""
    images, labels = torch.randint(0, 256, (16, 4, 64, 64), dtype=torch.uint8), torch.zeros(16, 64, 64, dtype=torch.uint8)
    return f"gives {tuple(side(images, labels)[0].shape)}"


def same_draws(side: Side) -> str:
    """How many different results sixteen copies of one tile get."""
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = torch.as_tensor(side(image.repeat(16, 1, 1, 1), torch.zeros(16, 64, 64, dtype=torch.uint8))[0])
    return f"16 copies of one tile become {len({item.numpy().tobytes() for item in found.contiguous()})} different ones"


def elsewhere(make: Callable[[np.ndarray], Side], keys: np.ndarray) -> str:
    """How many tiles come out alike when the batch is in another order and the seed the same."""
    images = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, order = torch.zeros(16, 64, 64, dtype=torch.uint8), np.roll(np.arange(16), 5)
    torch.manual_seed(0)
    first = torch.as_tensor(make(keys)(images, labels)[0])
    torch.manual_seed(0)
    second = torch.as_tensor(make(keys[order])(images[order], labels[order])[0])
    return f"{sum(torch.equal(first[k], second[n]) for n, k in enumerate(order))} of 16 tiles are the same in a batch of another order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keys = tile_keys([f"tile {i}" for i in range(options.batch)])
    images = torch.randint(0, 256, (options.batch, options.size, options.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.randint(0, 5, (options.batch, options.size, options.size), dtype=torch.uint8)
    sides = {"landseg, common set": landseg_side(COMMON, keys), "landseg, full set": landseg_side(FULL, keys)}
    makers: dict[str, Callable[[np.ndarray], Side]] = {"landseg": lambda keys: landseg_side(COMMON, keys)}
    if kornia is not None:
        sides["kornia"] = kornia_side()
        makers["kornia"] = lambda _: kornia_side()
    if v2 is not None:
        sides["torchvision, a call a batch"] = torchvision_side(False)
        sides["torchvision, a call a tile"] = torchvision_side(True)
        makers["torchvision"] = lambda _: torchvision_side(False)
    sides["training step"] = step_side()
    for clock, times in zip(("by the clock", "in processor time"), measure(sides, images, labels, options.rounds), strict=True):
        print(f"{clock}, {options.threads} threads, batch of {options.batch}")
        tell(times, options.batch)
    print()
    keys = tile_keys([f"tile {i}" for i in range(16)])
    for name, make in makers.items():
        print(f"{name}: {exposed(make(keys))}")
        print(f"{name}: four bands: {tried(lambda make=make: four_bands(make(keys)))}")  # type: ignore[misc]
        print(f"{name}: {same_draws(make(keys))}")
        print(f"{name}: {elsewhere(make, keys)}")


if __name__ == "__main__":
    main()
