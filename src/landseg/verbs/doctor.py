"""`landseg doctor`: what this machine has, how fast it is, what will be slow on it and what to change."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landseg.core import machine
from landseg.core.columns import columns
from landseg.core.diagnosis import Facts, Finding, Speeds, Wanted, diagnose, why_no_gpu
from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes

if TYPE_CHECKING:
    from landseg.data.dataset import Dataset

log = logging.getLogger("landseg")

PACKAGES = {
    "landseg": "landseg",
    "torch": "torch",
    "segmentation models": "segmentation-models-pytorch",
    "timm": "timm",
    "numpy": "numpy",
    "OpenCV": "opencv-python-headless",
    "rasterio": "rasterio",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
}
"""Name → distribution; the last two are not needed, and not shown where they are not there."""

_NEEDED = ("numpy", "cv2", "rasterio", "torch", "timm", "segmentation_models_pytorch")

_COLUMNS = 116
_MARKS = {"trouble": "✗", "slow": "!", "note": "·"}
_SAMPLE = 64  # tiles of a data set that are decoded over and over
_DECODE_S, _STEP_S, _SMALL_STEP_S = 1.0, 5.0, 2.0
_BATCH = {"cpu": 8}
_GPU_BATCH = 64


@dataclass(frozen=True)
class Examined:
    """What was found: software, machine, speeds, and what follows from them."""

    software: dict[str, str]
    facts: Facts
    speeds: Speeds
    wanted: Wanted | None
    findings: tuple[Finding, ...]
    driver: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {
            "software": self.software,
            "machine": {**asdict(self.facts), "driver": self.driver},
            "measured": {**asdict(self.speeds), "train": {str(edge): pace for edge, pace in self.speeds.train.items()}},
            "data": None if self.wanted is None else asdict(self.wanted),
            "findings": [{"severity": severity, "text": text} for severity, text in self.findings],
        }

    def as_text(self) -> str:
        """Sections of aligned lines, the findings last."""
        sections = {
            "machine": _machine(self.facts, self.driver),
            "software": list(self.software.items()),
            "data": _data(self.wanted),
            "measured": _measured(self.speeds),
        }
        rows = [row for section in sections.values() for row in section]
        lines = iter(columns(rows, "ll", before="  ", longest=_COLUMNS - 24))
        text: list[str] = []
        for title, section in sections.items():
            if section:
                text += [title, *(next(lines) for _ in section), ""]
        text.append("what will be slow, and what to change")
        for severity, finding in self.findings or [("note", "nothing stands out")]:
            text += textwrap.wrap(
                finding, _COLUMNS, initial_indent=f"  {_MARKS[severity]} ", subsequent_indent="    ", break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
        return "\n".join(text)


def doctor(data: str | Path | None = None, *, quick: bool = False) -> Examined:
    """Look at this machine and say what will be slow on it.

    Args:
        data: A dataset folder whose own tiles are decoded and counted; invented tiles when None.
        quick: Measure nothing.

    Returns:
        What was found. It takes half a minute at most, without network, and leaves nothing behind.

    Raises:
        LandsegError: landseg cannot work here (with what was found), or `data` is no data set.
    """
    software, faults = _software()
    if any(fault.startswith(("numpy", "cv2")) for fault in faults):
        raise _unusable(Examined(software, _facts(Path(), faults), Speeds(), None, ()))
    dataset = None
    if data is not None:
        from landseg.data.dataset import open_dataset

        dataset = open_dataset(Path(data))
    folder = dataset.folder if dataset else Path()
    facts = _facts(folder, faults)
    is_usable = not any(fault.startswith(_NEEDED) for fault in faults)
    if is_usable:
        facts = _with_device(facts)
    wanted, files = _wanted(dataset) if dataset else (None, [])
    speeds = Speeds() if quick else _measure(facts, folder, dataset, files)
    found = Examined(software, facts, speeds, wanted, tuple(diagnose(facts, speeds, wanted)), machine.driver_version())
    if not is_usable:
        raise _unusable(found)
    return found


def _unusable(found: Examined) -> LandsegError:
    (first, *_) = found.facts.faults
    return LandsegError(
        "landseg", f"it cannot work here: {first}", "packages that can be imported", "install landseg anew: pip install .",
        result=replace(found, findings=tuple(("trouble", fault) for fault in found.facts.faults)),
    )  # fmt: skip


def _software() -> tuple[dict[str, str], tuple[str, ...]]:
    """Versions, and what is broken."""
    found = {"Python": f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"}
    faults = []
    for name, distribution in PACKAGES.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    for module in _NEEDED:
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:  # what packages say that do not fit each other or the system
            faults.append(f"{module} cannot be imported ({' '.join(str(error).split())[:160]})")
    if not any(fault.startswith("rasterio") for fault in faults):
        found["rasterio"], fault = _gdal()
        faults += [fault] if fault else []
    if not any(fault.startswith("torch") for fault in faults):
        import torch

        kinds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
        built = " and ".join(f"{kind} {version}" for kind, version in kinds.items() if version)
        found["torch"] = f"{torch.__version__}, built for {built or 'the CPU'}"
    return found, tuple(faults)


def _gdal() -> tuple[str, str]:
    """Versions of what rasterio brings along, and what is wrong with its table of reference systems."""
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    words = f"{rasterio.__version__}, GDAL {rasterio.__gdal_version__}, PROJ {rasterio.__proj_version__}"
    try:
        CRS.from_epsg(32650)
    except CRSError as error:
        names = [name for name in ("PROJ_DATA", "PROJ_LIB") if name in os.environ]
        do = f"unset {' and '.join(names)}, which another program set" if names else "install rasterio anew"
        return words, f"PROJ finds no reference systems ({' '.join(str(error).split())[:120]}): {do}"
    return words, ""


def _facts(folder: Path, faults: Sequence[str]) -> Facts:
    return Facts(
        machine.cores(), os.cpu_count() or 1, machine.load(), machine.memory(), machine.disk(folder), str(folder.absolute()),
        machine.gpus(), faults=tuple(faults),
    )  # fmt: skip


def _with_device(facts: Facts) -> Facts:
    """The same with the device that training would take, and why it is no GPU."""
    import torch

    if torch.cuda.is_available():
        there = facts.gpus
        if not there:  # no NVML, or a card of another maker
            total = torch.cuda.get_device_properties(0).total_memory
            there = (machine.Gpu(0, torch.cuda.get_device_name(0), "", None, total, None, None),)
        return replace(facts, device="cuda", gpus=there)
    if torch.backends.mps.is_available():
        return replace(facts, device="mps")
    return replace(facts, device="cpu", no_gpu=why_no_gpu(torch.version.cuda is not None, facts.gpus, machine.driver_version()))


def _wanted(dataset: Dataset) -> tuple[Wanted, list[bytes]]:
    """How much a data set is, judged by some of its tiles, and their files."""
    from landseg.data.tiles import UnreadableTile, read_bytes, read_header

    tiles = dataset.tiles
    files, sizes = [], []
    for tile in tiles[:: max(1, len(tiles) // _SAMPLE)][:_SAMPLE]:
        try:
            data = read_bytes(tile.image)
            header = read_header(data)
        except UnreadableTile:
            continue
        files.append(data)
        width = 1 if header.dtype == "uint8" else 2 if header.dtype.endswith("16") else 4
        sizes.append(header.height * header.width * (header.bands * width + 1))
    if not files:
        log.warning("%s: none of its tiles can be read; `landseg audit` says why", dataset.folder)
    need = round(sum(sizes) / max(len(sizes), 1) * len(tiles))
    return Wanted(dataset.info.name, len(tiles), need, (dataset.folder / "pack" / "pack.json").is_file()), files


def _measure(facts: Facts, folder: Path, dataset: Dataset | None, files: list[bytes]) -> Speeds:
    """Everything that the machine lets us measure; what it does not is told by name."""
    from landseg.data.trials import FILE_BYTES, LEAST_BYTES, decode_rate, disk_speed, invented_tiles

    log.info("measuring, for half a minute at most: decoding, disk, training")
    samples = {"its own tiles": files} if files else {name: [data] for name, data in invented_tiles().items()}
    decode = {name: decode_rate(group, _DECODE_S) for name, group in samples.items()}
    speeds = Speeds(decode=decode)
    room = FILE_BYTES if facts.disk is None else max(LEAST_BYTES, min(FILE_BYTES, facts.disk.free // 10))
    try:
        found = disk_speed(folder, room)
        speeds = replace(speeds, write=found.write, read=found.read)
    except OSError as error:
        speeds = replace(speeds, refused={"disk": error.strerror or str(error)})
    if any(fault.startswith(("torch", "timm", "segmentation")) for fault in facts.faults):
        return speeds
    return _trained(speeds, facts, dataset)


def _trained(speeds: Speeds, facts: Facts, dataset: Dataset | None) -> Speeds:
    """The same with what a bare step and a copy take; a device that torch does not master is told, not fatal."""
    import torch

    from landseg.core.allocation import keep_memory
    from landseg.training.trials import BareStep, copy_rate

    keep_memory()
    device = torch.device(facts.device)
    bands, classes = (len(dataset.info.bands), max(2, len(dataset.info.classes))) if dataset else (3, 5)
    try:
        if device.type != "cpu":
            speeds = replace(speeds, copy=copy_rate(device))
        step, batch = BareStep(device, bands, classes), _BATCH.get(device.type, _GPU_BATCH)
        train = {edge: step.speed(edge, batch, limit).images_per_s for edge, limit in ((256, _STEP_S), (128, _SMALL_STEP_S))}
        return replace(speeds, train=train)
    except RuntimeError as error:
        reason = f"{device.type}: {' '.join(str(error).split())[:160]}"
        return replace(speeds, refused={**speeds.refused, "training": reason})


def _machine(facts: Facts, driver: str | None) -> list[tuple[str, str]]:
    cores = f"{facts.cores}" + (f" of {facts.installed}" if facts.cores < facts.installed else "")
    rows = [("cores", cores + (f", load {facts.load:.1f}" if facts.load is not None else ""))]
    for name, room in (("memory", facts.memory), ("disk", facts.disk)):
        where = f" for {facts.folder}" if name == "disk" else ""
        rows.append((name, f"{human_bytes(room.free)} free of {human_bytes(room.total)}{where}" if room else "unknown"))
    rows += [("GPU", _card(gpu)) for gpu in facts.gpus]
    if facts.device == "mps":
        rows.append(("GPU", "Apple’s, by Metal"))
    elif not facts.gpus:
        rows.append(("GPU", f"none ({facts.no_gpu})" if facts.no_gpu else "none that the driver tells of"))
    if driver:
        rows.append(("driver", driver))
    return rows


def _card(gpu: machine.Gpu) -> str:
    words = [gpu.name]
    if gpu.memory_used is not None and gpu.memory_total is not None:
        words.append(f"{human_bytes(gpu.memory_total - gpu.memory_used)} free of {human_bytes(gpu.memory_total)}")
    elif gpu.memory_total is not None:
        words.append(human_bytes(gpu.memory_total))
    if gpu.utilisation is not None:
        words.append(f"{gpu.utilisation * 100:.0f} % in use")
    if gpu.temperature_c is not None:
        words.append(f"{gpu.temperature_c} °C")
    return ", ".join(words)


def _data(wanted: Wanted | None) -> list[tuple[str, str]]:
    if wanted is None:
        return []
    pack = "packed" if wanted.is_packed else f"its pack will take {human_bytes(wanted.pack_bytes)}"
    return [(wanted.name, f"{wanted.tiles:,} tiles, {pack}")]


def _measured(speeds: Speeds) -> list[tuple[str, str]]:
    """What was measured, and what could not be."""
    return [(name, words) for name, words in _measurements(speeds) if words]


def _measurements(speeds: Speeds) -> Iterator[tuple[str, str]]:
    decode = ", ".join(f"{name} {rate:,.0f}" for name, rate in speeds.decode.items() if rate)
    yield "decoding", f"{decode} tiles/s a core" if decode else ""
    if speeds.write is not None and speeds.read is not None:
        yield "disk", f"writes {human_bytes(speeds.write)}/s, reads {human_bytes(speeds.read)}/s"
    yield "copying", f"{human_bytes(speeds.copy)}/s to the device" if speeds.copy is not None else ""
    paces = ", ".join(f"{pace:,.1f} images/s at {edge} × {edge}" for edge, pace in speeds.train.items())
    yield "training", f"{paces}, bare steps" if paces else ""
    for what, reason in speeds.refused.items():
        yield what, f"not measured: {reason}"
