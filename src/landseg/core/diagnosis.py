"""What a machine has and how fast it is → what will be slow, and what to change, in words. It measures nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from landseg.core.files import human_bytes
from landseg.core.machine import Gpu, Room
from landseg.core.progress import clock

Severity = Literal["trouble", "slow", "note"]
"""It does not work · it will take long · good to know."""

STATE_BYTES = 102e6
"""A state and a model of the default network, 5.8 million numbers with momentum each. Source: counted, bench/records."""

SLOW_WRITE, LITTLE_MEMORY, LITTLE_DISK = 40e6, 3e9, 5e9
"""Bytes a second at which saving is felt · bytes that a batch of 16 tiles of 256² with its process asks for · bytes of a pack and a run."""

USUAL_TILES, USUAL_EPOCHS = 1000, 60
"""An epoch in words, where no data set is named; epochs of the default recipe."""


@dataclass(frozen=True)
class Facts:
    """What there is.

    Args:
        cores: That the process may use.
        installed: That the machine has.
        load: Processes that compute or wait, on average.
        memory: None where unknown.
        disk: Of the folder that is meant.
        folder: That folder, in words.
        gpus: As the driver sees them.
        device: On which torch would train: cpu, cuda, mps; empty where torch does not work.
        no_gpu: Why torch uses no GPU, in words; empty where it does.
        faults: What is broken, with what to do.
    """

    cores: int
    installed: int
    load: float | None
    memory: Room | None
    disk: Room | None
    folder: str
    gpus: tuple[Gpu, ...] = ()
    device: str = "cpu"
    no_gpu: str = ""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speeds:
    """What was measured; None where it was not.

    Args:
        decode: Tiles a second and core, by format.
        train: Images a second of bare training, by edge length in pixels.
        write: Bytes a second onto the disk.
        read: Bytes a second from it.
        copy: Bytes a second to the device.
        refused: What could not be measured → why.
    """

    decode: dict[str, float] = field(default_factory=dict)
    train: dict[int, float] = field(default_factory=dict)
    write: float | None = None
    read: float | None = None
    copy: float | None = None
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the machine is to work on: a data set's tiles, and the bytes of its pack where it is not written yet."""

    name: str
    tiles: int
    pack_bytes: int
    is_packed: bool


Finding = tuple[Severity, str]


def diagnose(facts: Facts, speeds: Speeds, wanted: Wanted | None = None) -> list[Finding]:
    """What will be slow or does not work, the worst first."""
    found = [("trouble", fault) for fault in facts.faults]
    found += [*_of_cores(facts), *_of_gpu(facts), *_of_pace(facts, speeds, wanted), *_of_data(facts, speeds)]
    found += [*_of_disk(facts, speeds, wanted), *_of_memory(facts)]
    ranks = {"trouble": 0, "slow": 1, "note": 2}
    return sorted(found, key=lambda finding: ranks[finding[0]])  # type: ignore[arg-type]


def _of_gpu(facts: Facts) -> Iterator[Finding]:
    if facts.gpus and facts.device == "cpu":
        yield "trouble", f"{facts.gpus[0].name} is there, but torch does not use it: {facts.no_gpu}; training runs on the CPU, slowly"
    for gpu in facts.gpus if facts.device == "cuda" else ():
        if gpu.memory_used and gpu.memory_total and gpu.memory_used > 0.3 * gpu.memory_total:
            used = f"{human_bytes(gpu.memory_used)} of {human_bytes(gpu.memory_total)}"
            yield "slow", f"{gpu.name}: {used} of its memory is taken by other programs; wait for them, or choose another with train.device"


def _of_pace(facts: Facts, speeds: Speeds, wanted: Wanted | None) -> Iterator[Finding]:
    if not speeds.train:
        return
    edge = max(speeds.train)
    pace = speeds.train[edge]
    tiles = wanted.tiles if wanted else USUAL_TILES
    epoch = tiles / pace
    words = f"{edge} × {edge}: an epoch of {tiles:,} tiles takes {_long(epoch)}, {USUAL_EPOCHS} epochs {_long(USUAL_EPOCHS * epoch)}"
    if facts.device != "cpu":
        yield "note", f"the network trains at {_rate(pace)} images/s at {words}"
        return
    yield "slow", f"no GPU: the network trains at {_rate(pace)} images/s at {words}"
    smaller = min(speeds.train)
    if smaller < edge and speeds.train[smaller] > pace:
        gain = speeds.train[smaller] / pace
        yield (
            "note",
            f"--set train.size={smaller} trains {gain:.1f} times as many tiles an hour; it loses small things on the ground, so compare",
        )
    yield "note", f"--set train.minutes=30 ends a run after half an hour, which is {_rate(1800 * pace / tiles)} epochs here"


def _of_data(facts: Facts, speeds: Speeds) -> Iterator[Finding]:
    known = {name: rate for name, rate in speeds.decode.items() if rate > 0}
    if not known or not speeds.train:
        return
    name = min(known, key=lambda format_: known[format_])
    together, pace = known[name] * facts.cores, speeds.train[max(speeds.train)]
    words = f"decoding gives {_rate(together)} tiles/s ({name}, {facts.cores} {_cores(facts.cores)}), the network takes {_rate(pace)}"
    if together >= 4 * pace:
        yield "note", f"{words}: data will not be the bottleneck, the network will"
    elif together >= 1.5 * pace:
        yield "note", f"{words}: tiles that are decoded anew each epoch would slow it; data.pack=true, the default, decodes them once"
    else:
        yield "slow", f"{words}: data.pack=false would make it wait for data; keep data.pack=true, which decodes each tile once"
    if speeds.copy is not None and pace * 4 * 256 * 256 > 0.5 * speeds.copy:
        yield (
            "slow",
            f"copying to the device gives {human_bytes(speeds.copy)}/s, which the network's tiles fill: the slot has too few lanes",
        )


def _of_disk(facts: Facts, speeds: Speeds, wanted: Wanted | None) -> Iterator[Finding]:
    if "disk" in speeds.refused:
        yield "slow", f"{facts.folder} cannot be written ({speeds.refused['disk']}): name another place with --out"
    if speeds.write is not None and speeds.write < SLOW_WRITE:
        seconds = STATE_BYTES / 2 / speeds.write
        yield (
            "slow",
            f"the disk takes {human_bytes(speeds.write)}/s: saving a state takes {_long(seconds)}; put runs on another disk with --out",
        )
    if facts.disk is None:
        return
    free = human_bytes(facts.disk.free)
    if wanted is not None and not wanted.is_packed and wanted.pack_bytes + 5e8 > facts.disk.free:
        need = human_bytes(wanted.pack_bytes)
        yield "slow", f"{free} free on the disk: the pack of {wanted.name} ({need}) does not fit, so each epoch decodes its tiles anew"
    elif facts.disk.free < 3 * STATE_BYTES:
        yield (
            "trouble",
            f"{free} free on the disk: a run needs about {human_bytes(3 * STATE_BYTES)}; free some, or name another disk with --out",
        )
    elif facts.disk.free < LITTLE_DISK:
        pack = human_bytes(10_000 * 256 * 256 * 4)
        yield "slow", f"{free} free on the disk: a run fits, but a pack of 10,000 tiles of 256 × 256 ({pack}) is near it or over it"


def _of_memory(facts: Facts) -> Iterator[Finding]:
    if facts.memory is not None and facts.memory.free < LITTLE_MEMORY:
        free = human_bytes(facts.memory.free)
        yield "slow", f"{free} of memory free: a batch of 16 may not fit; --set train.batch=4, or train.size=128"


def _of_cores(facts: Facts) -> Iterator[Finding]:
    if facts.cores < facts.installed:
        yield "note", f"{facts.cores} of the machine's {facts.installed} cores may be used here (a container's or scheduler's limit)"
    if facts.load is not None and facts.load > 0.7 * facts.cores:
        words = f"others are computing (load {facts.load:.1f} on {facts.cores} {_cores(facts.cores)})"
        yield "slow", f"{words}: this machine is faster than measured when it is quiet, and so is training"
        if facts.device == "cpu" and facts.cores > 1:
            yield "note", "beside them, OMP_WAIT_POLICY=passive in the environment may train much faster, and on an idle machine slower"


def why_no_gpu(is_built: bool, gpus: tuple[Gpu, ...], driver: str | None, visible: str | None = None) -> str:
    """Why torch sees no GPU of NVIDIA's.

    Args:
        is_built: Whether this torch was built for CUDA.
        gpus: As the driver sees them, those that are visible.
        driver: Its version, if there is one.
        visible: What stands in ``CUDA_VISIBLE_DEVICES``; the environment's when None.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    if driver is None:
        return "no NVIDIA driver here"
    if not gpus:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} shows none" if hidden is not None else "the driver sees no card"
    if not is_built:
        return "this torch is built for the CPU alone; install one that is built for CUDA"
    return f"driver {driver} is too old for this torch, or does not answer; install a newer one, or a torch for an older CUDA"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _cores(count: int) -> str:
    return "core" if count == 1 else "cores"


def _long(seconds: float) -> str:
    """``90 s``, ``25 minutes``, ``6.3 hours``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours" if seconds < 3.6e5 else clock(seconds)
