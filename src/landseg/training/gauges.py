"""What the machine of a run is at, as numbers of its metrics and as words for a person. `core.machine` asks the system."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from landseg.core import machine
from landseg.core.files import human_bytes
from landseg.core.panel import Gauge


class Machine:
    """What the machine is at, as numbers and as words; asked once a second at most, because some disks answer slowly.

    Args:
        device: Whose GPU is meant.
        folder: Whose disk is meant.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self._device, self._folder = device, folder
        self._uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) if device.type == "cuda" else ""
        self._ticks = machine.cpu_times()
        self._asked_at, self._values = -math.inf, dict[str, float]()

    def metrics(self) -> dict[str, float]:
        """Keys and values of a line of `metrics.jsonl`; what the system does not tell is left out."""
        if time.monotonic() - self._asked_at >= 1:
            self._asked_at, self._values = time.monotonic(), self._asked()
        return dict(self._values)

    def gauges(self) -> list[Gauge]:
        """The same for a person."""
        found, gauges = self.metrics(), list[Gauge]()
        if "gpu/memory_mb" in found:
            use = f"{found['gpu/use']:.0%}, ".replace("%", " %") if "gpu/use" in found else ""
            gauges.append(("GPU", f"{use}{human_bytes(found['gpu/memory_mb'] * 1e6)} of {human_bytes(found['gpu/memory_total_mb'] * 1e6)}"))
        if "cpu/use" in found:
            gauges.append(("CPU", f"{found['cpu/use']:.0%} of {machine.cores()} cores".replace("%", " %")))
        if "memory/process_mb" in found:
            free = f", {human_bytes(found['memory/free_mb'] * 1e6)} free" if "memory/free_mb" in found else ""
            gauges.append(("RAM", f"{human_bytes(found['memory/process_mb'] * 1e6)}{free}"))
        if "disk/free_gb" in found:
            gauges.append(("disk", f"{human_bytes(found['disk/free_gb'] * 1e9)} free"))
        return gauges

    def _asked(self) -> dict[str, float]:
        values: dict[str, float] = {}
        resident, room, disk = machine.resident_bytes(), machine.memory(), machine.disk(self._folder)
        if resident is not None:
            values["memory/process_mb"] = round(resident / 1e6)
        if room is not None:
            values["memory/free_mb"] = round(room.free / 1e6)
        if disk is not None:
            values["disk/free_gb"] = round(disk.free / 1e9, 2)
        before, self._ticks = self._ticks, machine.cpu_times()
        if before is not None and self._ticks is not None and self._ticks[1] > before[1]:
            values["cpu/use"] = round((self._ticks[0] - before[0]) / (self._ticks[1] - before[1]), 3)
        gpu = self._gpu()
        if gpu is not None:
            if gpu.utilisation is not None:
                values["gpu/use"] = gpu.utilisation
            if gpu.memory_used is not None and gpu.memory_total is not None:
                values |= {"gpu/memory_mb": round(gpu.memory_used / 1e6), "gpu/memory_total_mb": round(gpu.memory_total / 1e6)}
            if gpu.temperature_c is not None:
                values["gpu/temperature_c"] = gpu.temperature_c
        return values

    def _gpu(self) -> machine.Gpu | None:
        if self._device.type != "cuda":
            return None
        found = machine.gpus()
        # By its identity: the driver numbers cards otherwise than CUDA where they differ in kind.
        same = [gpu for gpu in found if self._uuid and gpu.uuid.removeprefix("GPU-") == self._uuid]
        place = self._device.index or 0
        return same[0] if same else found[place] if place < len(found) else None
