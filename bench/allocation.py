"""What keeping freed memory is worth in training on a CPU: the same steps in turn with and without, each side in a process of its own.

    python bench/allocation.py --network deeplabv3plus --encoder mobilenetv3_large_100 --size 256 --batch 16

A process cannot take the setting back, so each round starts one process a side, one after the other; the ratio is of their medians.
With `--growth N` it does N steps of drawn sizes instead and prints the memory held every tenth of them: freed blocks of many sizes must
not pile up.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from landseg.core.allocation import keep_memory
from landseg.network.build import Network, Normalisation, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="deeplabv3plus")
    parser.add_argument("--encoder", default="mobilenetv3_large_100")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="measured a process, after two that are not")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--growth", type=int, default=0, metavar="N", help="steps of drawn sizes, instead of the comparison")
    parser.add_argument("--side", choices=["kept", "default"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side and options.growth:
        grow(options)
    elif options.side:
        print(json.dumps(measure(options)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Both sides in turn, the first one changing from round to round."""
    found: dict[str, list[dict[str, float]]] = {"default": [], "kept": []}
    print(f"{options.network} with {options.encoder}, {options.batch} images of {options.size}², {torch.get_num_threads()} threads")
    for turn in range(1 if options.growth else options.rounds):
        for side in list(found)[:: -1 if turn % 2 else 1]:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            if options.growth:
                print(side, flush=True)
                subprocess.run(command, check=True)
                continue
            found[side].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            one = found[side][-1]
            line = f"{one['images_per_s']:6.2f} images/s  {one['peak_mb']:6.0f} MB  {one['faults_a_step']:9.0f} page faults a step"
            print(f"round {turn + 1}  {side:8} {line}", flush=True)
    if not options.growth:
        speed, memory = ({side: median(one[key] for one in runs) for side, runs in found.items()} for key in ("images_per_s", "peak_mb"))
        print(f"kept / default: speed {speed['kept'] / speed['default']:.2f}, peak memory {memory['kept'] / memory['default']:.2f}")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Steps of one size in this process."""
    network, optimiser = _start(options)
    seconds, faults = [], []
    for step in range(2 + options.steps):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        _step(network, optimiser, options.batch, options.size, options.size)
        if step >= 2:
            seconds.append(time.perf_counter() - start)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"images_per_s": options.batch / median(seconds), "peak_mb": peak_mb, "faults_a_step": median(faults)}


def grow(options: argparse.Namespace) -> None:
    """Steps of sizes that change from one to the next."""
    network, optimiser = _start(options)
    rng = np.random.default_rng(0)
    for step in range(options.growth):
        batch, height, width = int(rng.integers(2, options.batch + 1)), *(int(32 * rng.integers(2, options.size // 32 + 1)) for _ in "hw")
        _step(network, optimiser, batch, height, width)
        if (step + 1) % max(1, options.growth // 10) == 0:
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(f"  step {step + 1:5}  held {_held_mb():6.0f} MB  peak {peak_mb:6.0f} MB", flush=True)


def _start(options: argparse.Namespace) -> tuple[Network, torch.optim.Optimizer]:
    if options.side == "kept" and not keep_memory():
        raise SystemExit("no glibc here: there is nothing to compare")
    torch.manual_seed(0)
    network = build(options.network, options.encoder, 3, 4, Normalisation((0.0,) * 3, (1.0,) * 3))
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)


def _step(network: Network, optimiser: torch.optim.Optimizer, batch: int, height: int, width: int) -> None:
    images = torch.rand(batch, 3, height, width).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 4, (batch, height, width))
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimiser.step()
    optimiser.zero_grad()


def _held_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
