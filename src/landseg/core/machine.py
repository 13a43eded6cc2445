"""What this machine has and how much of it is free: cores, memory, disk, graphics cards. It measures no speed and imports no torch.

Every function answers within a millisecond, so that a panel may ask each second, and says None or nothing where the system does not tell:
there may be no /proc, no control groups, no driver. What a container may use counts, not what its host has.

Vocabulary: a *group* is a control group of Linux (cgroup, version 1 or 2), by which containers and clusters limit a process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path("/")
"""Where `proc` and `sys` lie."""

_PERIOD_US = "100000"
"""Where a group of version 2 states a quota alone. Source: the kernel's cgroup-v2.rst."""


@dataclass(frozen=True)
class Room:
    """Bytes of memory or of a disk: how many there are, and how many are free for this process."""

    total: int
    free: int


@dataclass(frozen=True)
class Gpu:
    """A graphics card as its driver describes it; None where the driver does not tell.

    Args:
        index: Its number among all cards of the machine, in the driver's order.
        name: Such as ``NVIDIA H100 80GB HBM3``.
        uuid: ``GPU-…``.
        memory_used: Bytes, of all processes.
        memory_total: Bytes.
        utilisation: Share of the last second or so in which it computed anything, 0..1.
        temperature_c: Degrees Celsius.
    """

    index: int
    name: str
    uuid: str
    memory_used: int | None
    memory_total: int | None
    utilisation: float | None
    temperature_c: int | None


def cores(root: Path = ROOT) -> int:
    """Cores that this process may use: those it may run on, or as many as its container's quota is worth, rounded up."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return mine if quota is None else max(1, min(mine, -int(-quota // 1)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of computing that the process's groups allow it; None without a limit."""
    limits = []
    for folder, is_unified in _groups("cpu", root):
        if is_unified:
            quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
            limits.append(_ratio(quota, period or _PERIOD_US))
        else:
            limits.append(_ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")))
    return min((limit for limit in limits if limit is not None), default=None)


def load() -> float | None:
    """Processes that computed or waited for a core, on average over the last minute."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # AttributeError: Windows has none
        return None


def cpu_times(root: Path = ROOT) -> tuple[float, float] | None:
    """(busy, all) time of all cores since the start, in ticks; the share between two calls is how busy the machine was."""
    words = (_read(root / "proc/stat") or "").partition("\n")[0].split()
    if len(words) < 5 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:]):
        return None
    ticks = [float(word) for word in words[1:9]]  # what follows is of guests, and counted in the first two already
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)  # idle, and idle while a disk is read


def memory(root: Path = ROOT) -> Room | None:
    """Memory of the machine or of the process's groups, whichever is less; files held in memory count as free."""
    facts = _numbers(_read(root / "proc/meminfo"))
    if "MemTotal" not in facts:
        return None
    total = facts["MemTotal"] * 1024
    free = facts.get("MemAvailable", facts.get("MemFree", 0)) * 1024
    for folder, is_unified in _groups("memory", root):
        limit = _number(_read(folder / ("memory.max" if is_unified else "memory.limit_in_bytes")))
        used = _number(_read(folder / ("memory.current" if is_unified else "memory.usage_in_bytes")))
        if limit is None or used is None:
            continue
        stat, prefix = _numbers(_read(folder / "memory.stat")), "" if is_unified else "total_"
        cached = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
        total, free = min(total, limit), min(free, limit - used + cached)
    return Room(total, max(0, min(free, total)))


def resident_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process holds, bytes."""
    words = (_read(root / "proc/self/statm") or "").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 and words[1].isdigit() else None


def disk(folder: Path) -> Room | None:
    """The disk of `folder`, which need not exist yet; free is what an ordinary user may still write."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return None
    return Room(usage.total, usage.free)


def gpus(library: Any = None, visible: str | None = None) -> tuple[Gpu, ...]:
    """NVIDIA's cards that this process may use, as the driver sees them now; none without NVML or a driver.

    Args:
        library: Stands in for NVML (`pynvml`).
        visible: In place of ``CUDA_VISIBLE_DEVICES``.
    """
    nvml = _nvml() if library is None else library
    if nvml is None:
        return ()
    found = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            found.append(_gpu(nvml, index))
    except nvml.NVMLError:
        pass  # the driver has gone, or a card has fallen off the bus: what was found before it counts
    return visible_of(found, os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible)


def driver_version(library: Any = None) -> str | None:
    """Version of NVIDIA's driver; None without one."""
    nvml = _nvml() if library is None else library
    return None if nvml is None else _asked(nvml, "nvmlSystemGetDriverVersion")


def visible_of(found: list[Gpu], words: str | None) -> tuple[Gpu, ...]:
    """The cards that ``CUDA_VISIBLE_DEVICES`` names by number or by the beginning of a UUID, in its order; all when it is not set.

    Source: CUDA C++ Programming Guide, environment variables: what follows the first entry that is none is not seen.
    """
    if words is None:
        return tuple(found)
    chosen: list[Gpu] = []
    for word in (part.strip() for part in words.split(",")):
        named = [gpu for gpu in found if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))]
        if len(named) != 1 or named[0] in chosen:
            break
        chosen.append(named[0])
    return tuple(chosen)


@lru_cache(maxsize=1)
def _nvml() -> Any:
    """NVML, begun once; None where it cannot be."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory_of = _asked(nvml, "nvmlDeviceGetMemoryInfo", handle)
    rates = _asked(nvml, "nvmlDeviceGetUtilizationRates", handle)
    return Gpu(
        index,
        str(_asked(nvml, "nvmlDeviceGetName", handle) or "GPU"),
        str(_asked(nvml, "nvmlDeviceGetUUID", handle) or ""),
        None if memory_of is None else int(memory_of.used),
        None if memory_of is None else int(memory_of.total),
        None if rates is None else rates.gpu / 100,
        _asked(nvml, "nvmlDeviceGetTemperature", handle, 0),  # 0: NVML_TEMPERATURE_GPU, the chip's own sensor
    )


def _asked(nvml: Any, question: str, *arguments: Any) -> Any:
    """What NVML answers; None where the card cannot tell (laptops, slices of a card)."""
    try:
        return getattr(nvml, question)(*arguments)
    except nvml.NVMLError:
        return None


def _groups(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Folders of the groups whose limits hold for this process, its own and those around it, and whether each is of version 2."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_unified = controllers == ""
        if not is_unified and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if is_unified else controller)
        # Within a container the path may be the host's, which is not mounted; the base then is the container's own group.
        folder = base / path.strip("/")
        while base in folder.parents:
            yield folder, is_unified
            folder = folder.parent
        yield base, is_unified


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    """A whole number; None for ``max``, -1 and anything else."""
    word = (text or "").strip()
    return int(word) if word.isdigit() else None


def _ratio(quota: str | None, period: str | None) -> float | None:
    """Quota through period; None without a quota."""
    above, below = _number(quota), _number(period)
    return above / below if above and below else None


def _numbers(text: str | None) -> dict[str, int]:
    """``MemTotal:  16318 kB`` and ``inactive_file 4096`` → the number of each word."""
    found = {}
    for line in (text or "").splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found
