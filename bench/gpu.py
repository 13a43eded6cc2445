"""What a GPU makes of landseg's training, in under eight minutes: speed, memory, what happens when it runs out, what the loop waits for.

    python bench/gpu.py --peer train_smp.py [--out bench/records/train-speed/DATE-gpu]
    python bench/gpu.py --peer train_smp.py --rehearse      # every part of it, tiny and on the CPU; its figures mean nothing

Without a GPU it says so and exits with 2. It needs no data: tiles are invented, and the pack of them is written into a temporary folder
(`--scratch`), 17.5 GB of it. Measured are

- the bare network's step (forward, loss, backward, SGD; bf16, channels-last), as it is and compiled;
- landseg's step with data, augmentation, moving average and its own optimiser, in turns with the bare step: the bar is 0.95 of the best;
- the same, uncompiled, with the tiles on the GPU, in memory and on the disk, and with changes of colour and scale;
- an epoch of 66,652 tiles of 256 × 256;
- memory: peak of a step, largest micro-batch that the free memory is found to allow;
- a run that begins ten times too large: it must halve its way down and go on;
- how often the host waits for the GPU within 50 steps, by the line of code that makes it wait;
- the ordinary script's loop, from the file that is named.

A part that would begin after `--minutes` is left out, and the record says so. A part that fails is recorded with its error, and the others
go on.

Counted beforehand, for DeepLabV3+ with MobileNetV3-Large at 256 × 256: 2.32 GFLOP forward and 10.6 million outputs of convolutions an
image. On an H100 that is about 7,400 images/s if each output that is not fused crosses memory, and 23,600 if only those of convolutions do.
10,000 images/s is the stretch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from landseg.core import machine
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.data import world
from landseg.data.pack import Pack
from landseg.data.packing import Entry, hash_bytes
from landseg.network.build import build, encoder_normalisation
from landseg.network.card import ModelCard
from landseg.training.loop import Loop, Task
from landseg.training.memory import release
from train import BAR, Apart, alternate, bare_steps, best_bare, loop_steps, ratio, wait

TILES = 66_652
"""Of the data set that the project's first network was trained on."""

GFLOP, OUTPUTS = 2.32, 10.6e6
"""Forward, an image of 256 × 256: 10^9 operations, and values that convolutions put out. `counted` counts them again."""

UNFUSED, FUSED, STRETCH = 7_400, 23_600, 10_000
"""Images/s on an H100 if every unfused output crosses memory; if only those of convolutions do; what is hoped for."""

SYNC_STEPS = 50

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What is measured, and how large.

    Args:
        device: Where.
        scratch: A folder for tiles and packs.
        peer: The ordinary script.
        tiles: Of the large pack.
        base: Invented tiles, of which the packs are made again and again.
        edge: Of a tile, in pixels.
        batch: Tiles a step.
        steps: A round and side.
        rounds: Of sides in turns.
        backend: Of `torch.compile`, for the bare step.
        compile: Whether landseg's loop compiles.
        encoder: By timm's name.
        workers: Of the script's data loader.
    """

    device: torch.device
    scratch: Path
    peer: Path
    tiles: int = TILES
    base: int = 512
    edge: int = 256
    batch: int = 64
    steps: int = 40
    rounds: int = 6
    backend: str = "inductor"
    compile: bool = True
    encoder: str = "mobilenetv3_large_100"
    workers: int = 8

    @property
    def bare(self) -> tuple[int, int, int, torch.device]:
        """What a bare step asks for."""
        return self.batch, self.edge, len(world.CLASSES), self.device

    def loop(self, store: Pack, *settings: str, tiles: int | None = None) -> Loop:
        """landseg's loop with the default recipe on some tiles of a pack; the last two validate."""
        chosen = [
            *(f"model.encoder={self.encoder}", "model.weights=none", f"train.batch={self.batch}", "train.epochs=1000"),
            *(f"train.device={self.device.type}", f"train.compile={str(self.compile).lower()}", "sample.drop_unlabelled=false"),
        ]
        recipe = load_recipe("default", [*chosen, *settings])
        normalisation = encoder_normalisation(self.encoder)
        network = build(recipe.model.network, self.encoder, store.bands, len(world.CLASSES), normalisation)
        card = ModelCard(
            landseg_version="bench", network=recipe.model.network, encoder=self.encoder, bands=("red", "green", "blue"), dtype=store.dtype,
            mean=normalisation.mean, std=normalisation.std, classes=world.CLASSES, tile_size=(self.edge, self.edge),
        )  # fmt: skip
        count = min(tiles or len(store.entries), len(store.entries))
        return Loop(network, Task(store, range(count), range(count - 2, count), card, recipe))


def invented(bench: Bench, tiles: int, name: str) -> Pack:
    """A pack of so many tiles, which are those of a small invented landscape again and again, each with a place of its own."""
    folder, edge = bench.scratch / name, bench.edge
    folder.mkdir(parents=True)
    base = [_tile(bench.scratch, i) for i in range(bench.base)]
    entries = []
    with (folder / "images.bin").open("wb") as images, (folder / "labels.bin").open("wb") as labels:
        for i in range(tiles):
            image, label, hashes, counts = base[i % len(base)]
            entries.append(Entry(f"tile {i}", i * image.nbytes, i * label.nbytes, edge, edge, *hashes, counts))
            images.write(image.data)
            labels.write(label.data)
    return Pack(folder, {"bands": 3, "dtype": "uint8", "label_bytes": tiles * edge * edge}, entries)


def landscape(bench: Bench) -> Path:
    """The invented tiles as the ordinary script reads them, ``img_train/*.jpg`` and ``lab_train/*.png``."""
    source = world.write_tiles(bench.scratch / "base", 1, bench.base, tile=bench.edge)
    folder = bench.scratch / "peer"
    for part, kind in (("images", "img_train"), ("labels", "lab_train")):
        (folder / kind).mkdir(parents=True)
        for path in sorted((source / part).iterdir()):
            pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(folder / kind / f"{path.stem}{'.jpg' if kind == 'img_train' else '.png'}"), pixels)
    return folder


def _tile(scratch: Path, i: int) -> tuple[np.ndarray, np.ndarray, tuple[str, str], tuple[int, ...]]:
    name = f"tile_{i:04d}.png"
    image = np.ascontiguousarray(cv2.imread(str(scratch / "base" / "images" / name))[..., ::-1])
    label = cv2.imread(str(scratch / "base" / "labels" / name), cv2.IMREAD_UNCHANGED)
    counts = tuple(np.bincount(label.ravel(), minlength=256)[: len(world.CLASSES)].tolist())
    return image, label, (hash_bytes(image.reshape(-1)), hash_bytes(label.reshape(-1))), counts


def counted(bench: Bench) -> Figures:
    """GFLOP of a forward pass and outputs of convolutions, an image; counted on the CPU."""
    network = build("deeplabv3plus", bench.encoder, 3, len(world.CLASSES), encoder_normalisation(bench.encoder)).eval()
    outputs = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _inputs, found: outputs.append(found.numel()))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, bench.edge, bench.edge))
    return {"gflop": counter.get_total_flops() / 1e9, "outputs": sum(outputs)}


def in_turns(bench: Bench, loop: Loop) -> Figures:
    """Bare steps and landseg's, in turns."""
    sides = {"bare": bare_steps(*bench.bare, None, bench.encoder), "bare compiled": bare_steps(*bench.bare, bench.backend, bench.encoder)}
    speeds = alternate({**sides, "landseg": loop_steps(loop)}, bench.rounds, bench.steps)
    best = best_bare(speeds)
    middle, least, most = ratio(speeds["landseg"], speeds[best])
    figures: Figures = {f"{name} images/s": statistics.median(values) for name, values in speeds.items()}
    return {
        **figures,
        "best": best,
        "ratio": middle,
        "ratio from": least,
        "ratio to": most,
        "bar": BAR,
        "met": middle >= BAR,
        "all": speeds,
    }


def other_ways(bench: Bench, store: Pack) -> Figures:
    """landseg's step with tiles that lie elsewhere, and with more augmentation than the default's flips and turns, in turns."""
    many = min(len(store.entries), 4 * bench.batch * bench.steps)
    ways = {"device": [], "host": [], "disk": [], "colours": COLOURS}
    sides = {}
    for name, settings in ways.items():
        where = name if name != "colours" else "device"
        sides[name] = loop_steps(bench.loop(store, f"data.residency={where}", *settings, tiles=many))
    speeds = alternate(sides, max(1, bench.rounds // 2), bench.steps)
    return {f"{name} images/s": statistics.median(values) for name, values in speeds.items()}


COLOURS = [f"augment.{name}" for name in ("brightness=0.3", "contrast=0.3", "saturation=0.3", "hue_deg=10", "scale=[0.7,1.4]", "haze=0.1")]


def epoch(bench: Bench, loop: Loop) -> Figures:
    """All tiles once, without validation. Its batches are of two sizes, and the second is compiled for before the clock runs."""
    start = time.perf_counter()
    for batch in loop.batches.epoch(0, loop.batches.count - 1):
        loop.step(batch)
    wait(bench.device)
    first_s = time.perf_counter() - start
    start, seen = time.perf_counter(), 0
    for batch in loop.batches.epoch(1):
        loop.step(batch)
        seen += len(batch.keys)
    wait(bench.device)
    seconds = time.perf_counter() - start
    return {"tiles": seen, "seconds": seconds, "images/s": seen / seconds, "residency": loop.batches.where, "second size s": first_s}


def memory(bench: Bench, store: Pack) -> Figures:
    """Peak of a step at the batch, and the largest micro-batch that is found to fit, up to 32 batches."""
    loop = bench.loop(store, "data.residency=disk", tiles=4 * bench.batch)
    is_gpu = bench.device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    loop_steps(loop)(2)
    peak = torch.cuda.max_memory_allocated(bench.device) / 1e6 if is_gpu else (machine.resident_bytes() or 0) / 1e6
    wide = bench.loop(store, "data.residency=disk", "train.batch=auto", f"train.effective_batch={32 * bench.batch}", "train.compile=false")
    wide.stepper.choose_micro()
    return {"peak MB": round(peak), "at tiles": bench.batch, "largest micro-batch": wide.stepper.micro, "asked for": 32 * bench.batch}


def too_large(bench: Bench, store: Pack, largest: int) -> Figures:
    """Two steps that begin at ten times what fits: the tiles leave the device, the micro-batch is halved, and the steps are done.

    On a CPU, where nothing runs out, an allocator that refuses more than `largest` stands in.
    """
    asked = min(10 * largest, len(store.entries))
    loop = bench.loop(store, f"train.batch={asked}", "data.residency=device", "train.compile=false", tiles=asked)
    stepper = loop.stepper
    if bench.device.type != "cuda":
        real = stepper._gradients

        def refusing(*arguments: Any) -> Any:
            if stepper.micro > largest:
                raise torch.OutOfMemoryError("CUDA out of memory (rehearsed)")
            return real(*arguments)

        stepper._gradients = refusing  # type: ignore[method-assign]
    began = stepper.micro
    start = time.perf_counter()
    seen = loop_steps(loop)(2)
    loss = loop.monitor.mean_loss()
    return {
        **{"began at": began, "ended at": stepper.micro, "tiles done": seen, "seconds": time.perf_counter() - start, "mean loss": loss},
        **{"tiles lie": loop.batches.where, "recovered": stepper.micro < began and bool(np.isfinite(loss))},
    }


def waits(bench: Bench, loop: Loop) -> Figures:
    """How often the host waited for the GPU within some steps, and where. Nothing is counted on a CPU, which has nobody to wait for."""
    run = loop_steps(loop)
    run(3)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        _watch_waits(bench.device, "warn")
        try:
            run(SYNC_STEPS if bench.device.type == "cuda" else 2)
        finally:
            _watch_waits(bench.device, "default")
    return waits_of(found)


def waits_of(found: Sequence[warnings.WarningMessage]) -> Figures:
    """Of warnings, those of waiting, by the line of code. Source: c10/cuda/CUDAFunctions.cpp, "called a synchronizing CUDA operation"."""
    own = [one for one in found if "synchronizing" in str(one.message)]
    places = Counter(f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}" for one in own)
    return {"steps": SYNC_STEPS, "waits": len(own), "where": dict(places.most_common(20))}


def _watch_waits(device: torch.device, mode: str) -> None:
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode(mode)  # type: ignore[no-untyped-call]


def script(bench: Bench, folder: Path) -> Figures:
    """The ordinary script's loop, in a process of its own."""
    encoder = bench.encoder
    side = Apart(bench.peer, folder, bench.batch, len(world.CLASSES), bench.workers, bench.device.type, encoder)
    try:
        speeds = alternate({"script": side}, max(2, bench.rounds // 2), bench.steps)["script"]
    finally:
        side.end()
    return {"images/s": statistics.median(speeds), "workers": bench.workers, "all": speeds}


def surroundings(device: torch.device) -> Figures:
    """Device and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    room = machine.memory()
    return {
        **{"device": name, **versions, "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None},
        **{"driver": machine.driver_version(), "cores": machine.cores(), "memory GB": None if room is None else round(room.total / 1e9)},
    }


class Parts:
    """Runs the parts one after the other, notes what each took, and leaves out what would begin too late."""

    def __init__(self, limit_s: float, device: torch.device) -> None:
        self._limit_s, self._device, self._start = limit_s, device, time.perf_counter()
        self.found: dict[str, Figures] = {}

    def do(self, name: str, part: Callable[[], Figures]) -> Figures:
        """What a part found; nothing where it was left out or failed."""
        at = time.perf_counter() - self._start
        if at > self._limit_s:
            self.found[name] = {"left out": f"{at:.0f} s had gone"}
            return {}
        print(f"— {name}", flush=True)
        release(self._device)
        try:
            figures = part()
        except (LandsegError, RuntimeError, MemoryError, OSError) as error:  # one that fails is a finding too
            self.found[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            print(self.found[name]["failed"], flush=True)
            return {}
        self.found[name] = {**figures, "took s": round(time.perf_counter() - self._start - at, 1)}
        print({key: value for key, value in self.found[name].items() if key != "all"}, flush=True)
        return figures


def measure(bench: Bench, limit_s: float) -> dict[str, Figures]:
    """All parts."""
    parts = Parts(limit_s, bench.device)
    parts.found["surroundings"] = surroundings(bench.device)
    parts.do("counted", lambda: counted(bench))
    folder = landscape(bench)
    stores: dict[str, Pack] = {}
    loops: list[Loop] = []

    def pack() -> Figures:
        stores["large"] = invented(bench, bench.tiles, "pack")
        return {"tiles": bench.tiles}

    def settle() -> Figures:
        loops.append(bench.loop(stores["large"]))
        loops[0].batches.settle()
        wait(bench.device)
        return {"residency": loops[0].batches.where}

    parts.do("pack", pack)
    parts.do("residency", settle)
    if loops:
        parts.do("in turns", lambda: in_turns(bench, loops[0]))
        parts.do("epoch", lambda: epoch(bench, loops[0]))
        parts.do("waits", lambda: waits(bench, loops[0]))
        loops.clear()
    parts.do("script", lambda: script(bench, folder))
    if stores:
        found = parts.do("memory", lambda: memory(bench, stores["large"]))
        if found:
            largest = found["largest micro-batch"] if bench.device.type == "cuda" else bench.batch + 1  # halving three gives one
            parts.do("too large", lambda: too_large(bench, stores["large"], largest))
        parts.do("other ways", lambda: other_ways(replace(bench, compile=False), stores["large"]))
    return parts.found


def write(found: dict[str, Figures], out: Path, command: str) -> None:
    """``README.md`` and ``gpu.json``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    sound = {name: figures for name, figures in found.items() if not {"left out", "failed"} & figures.keys()}
    turns, whole = sound.get("in turns", {}), sound.get("epoch", {})
    about, peer, sizes, over = (sound.get(name, {}) for name in ("surroundings", "script", "memory", "too large"))
    ours = turns.get("landseg images/s")
    rows = {
        "bare step": turns.get("bare images/s"),
        "bare step, compiled": turns.get("bare compiled images/s"),
        "landseg, with data and augmentation": ours,
        f"landseg / {turns.get('best', 'best bare step')} (bar {BAR})": turns.get("ratio"),
        f"epoch of {whole.get('tiles', TILES):,} tiles, images/s": whole.get("images/s"),
        f"epoch of {whole.get('tiles', TILES):,} tiles, seconds": whole.get("seconds"),
        "ordinary script": peer.get("images/s"),
        "landseg / ordinary script": ours / peer["images/s"] if ours and peer.get("images/s") else None,
        "peak MB of a step": sizes.get("peak MB"),
        "largest micro-batch": sizes.get("largest micro-batch"),
        "ten times too large: began at, ended at": f"{over['began at']} → {over['ended at']}" if over else None,
        f"waits of the host within {SYNC_STEPS} steps": sound.get("waits", {}).get("waits"),
        **{f"landseg uncompiled, {name}": value for name, value in sound.get("other ways", {}).items() if name.endswith("images/s")},
    }
    verdict = f"{turns['ratio']:.3f} of the best bare step, bar {BAR}: {'met' if turns['met'] else 'missed'}" if turns else "not measured"
    again = ", ".join(f"{name} {_number(value)}" for name, value in found.get("counted", {}).items())
    lines = [
        f"# Training on {about.get('device')}", "", f"**Claim.** landseg's step is {verdict}.", "", f"    {command}", "",
        *("| | |", "|---|---|"), *(f"| {name} | {_number(value)} |" for name, value in rows.items()), "",
        f"**Counted beforehand**, an image of 256 × 256: {GFLOP} GFLOP forward and {OUTPUTS / 1e6:.1f} million outputs of convolutions; on "
        f"an H100 about {UNFUSED:,} images/s if each output that is not fused crosses memory, {FUSED:,} if only those of convolutions "
        f"do; {STRETCH:,} are the stretch{f', of which this is {ours / STRETCH:.2f}' if ours else ''}. Counted here: {again}.",
        "", "**Left out or failed.** " + ("; ".join(_gaps(found)) or "Nothing."), "",
        "**Environment.** " + ", ".join(f"{name} {value}" for name, value in about.items() if value is not None) + ".", "",
    ]  # fmt: skip
    (out / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _gaps(found: dict[str, Figures]) -> list[str]:
    return [f"{name}: {figures[kind]}" for name, figures in found.items() for kind in ("left out", "failed") if kind in figures]


def _number(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:,.3f}" if isinstance(value, float) and value < 10 else f"{value:,.0f}"
    return "–" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the ordinary script")
    parser.add_argument("--out", type=Path, help="folder of the record; bench/records/train-speed/DATE-gpu")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which no further part begins")
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scratch", type=Path, help="where tiles are written, 17.5 GB of them; the system's place for temporary files")
    parser.add_argument(
        "--rehearse", action="store_true", help="run every part, tiny and on the CPU; writes a record only where --out says"
    )
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--rehearse runs every part on the CPU)", file=sys.stderr)
        raise SystemExit(2)
    logging.getLogger("landseg").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    record = options.out or Path(__file__).parent / "records" / "train-speed" / f"{datetime.date.today()}-gpu"
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        workers = min(16, machine.cores())
        bench = Bench(torch.device("cuda", 0), Path(folder), options.peer.resolve(), options.tiles, batch=options.batch, workers=workers)
        if options.rehearse:
            small = {
                "tiles": 12,
                "base": 6,
                "edge": 64,
                "batch": 2,
                "steps": 1,
                "rounds": 1,
                "backend": "eager",
                "compile": False,
                "workers": 0,
            }
            bench = replace(bench, device=torch.device("cpu"), **small)
        found = measure(bench, 60 * options.minutes)
    if not options.rehearse or options.out:
        write(found, record, f"python bench/gpu.py --peer {options.peer.name}{' --rehearse (its figures mean nothing)' * options.rehearse}")
        print(record)
    if options.rehearse and (gaps := _gaps(found)):
        raise SystemExit("; ".join(gaps))


if __name__ == "__main__":
    main()
