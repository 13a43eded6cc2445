"""Training on cores that another program uses too: what the threads of OpenMP do while they wait for one another.

    python bench/sharing.py [--rounds 3] [--seconds 10]

By default a thread that waits spins, which is quick when every thread has a core, and takes the core from the thread that is waited for
when there are fewer. `OMP_WAIT_POLICY=passive` lets it sleep. Each measurement is a process of its own, for the policy is read once; in
each round both policies train in turns, alone on the machine, then beside a process that trains on as many threads. Prints images/s of
each, and the ratios of passive to default.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time

POLICIES = {"default": None, "passive": "passive"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--edge", type=int, default=128, help="of a tile, in pixels")
    parser.add_argument("--steps-for", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps_for is not None:
        print(_speed(options.steps_for, options.edge))
        return
    speeds: dict[tuple[str, str], list[float]] = {}
    for _, beside in itertools.product(range(options.rounds), ("alone", "shared")):
        other = _start(1e6, options.edge, None) if beside == "shared" else None
        try:
            for name, policy in POLICIES.items():
                done = _start(options.seconds, options.edge, policy)
                speeds.setdefault((beside, name), []).append(float(done.communicate()[0]))
        finally:
            if other is not None:
                other.kill()
                other.wait()
    for beside in ("alone", "shared"):
        found = {name: speeds[beside, name] for name in POLICIES}
        ratios = [passive / default for default, passive in zip(*found.values(), strict=True)]
        words = "   ".join(f"{name} {statistics.median(values):6.1f} images/s" for name, values in found.items())
        print(f"{beside:7} {words}   passive / default {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


def _start(seconds: float, edge: int, policy: str | None) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    words = [sys.executable, __file__, "--steps-for", str(seconds), "--edge", str(edge)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def _speed(seconds: float, edge: int) -> float:
    """Images/s of steps of a small U-Net on one batch of eight."""
    import torch
    import torch.nn.functional as F

    from landseg.network.build import build, encoder_normalisation

    encoder = "mobilenetv3_small_050"
    network = build("unet", encoder, 3, 5, encoder_normalisation(encoder)).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    images = torch.randint(0, 256, (8, edge, edge, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.randint(0, 5, (8, edge, edge))
    steps, start = -2, time.perf_counter()  # two that are not counted
    while steps <= 0 or time.perf_counter() - start < seconds:
        if not steps:
            start = time.perf_counter()
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
        steps += 1
    return 8 * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
