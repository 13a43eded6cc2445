"""What predicting tiles costs beside the network, and against the loop that an ordinary script has.

    python bench/predict.py runs/first --peer train_smp.py       a model of yours
    python bench/predict.py --peer train_smp.py                  the default network, untrained: it is as fast

In one process, in turns: `predict_tiles` from JPEG files to class maps; the bare ONNX Runtime network on tiles that lie decoded in memory,
at the batch, and with the threads, at which it is fastest here; the same path with PyTorch; and the prediction loop of the script that
``--peer`` names, which is taken out of its `main` and run as it stands, with a network of the same weights. Start-up, conversion and
the reading of the model are in none of them. Ratios are medians over the rounds. Then one tile's way, step by step, on one core.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch

from landseg.core.classes import make_classes
from landseg.core.machine import cores
from landseg.data import world
from landseg.data.inputs import TileInput, find_inputs
from landseg.data.tiles import decode_image, encode_label
from landseg.inference.folder import predict_tiles
from landseg.network.build import build, encoder_normalisation
from landseg.network.card import ModelCard, find_model, load_card, read_model
from landseg.network.checkpoint import load_model, save_model
from landseg.network.converted import converted
from landseg.network.engine import Engine, load_engine
from landseg.network.onnx_engine import IMAGE, LOGITS, RUNTIME, onnx_run
from landseg.network.probs import best_classes

EDGE = 256
BATCHES = (1, 2, 4, 8, 16)


def untrained(folder: Path) -> Path:
    """A model of the default network with an encoder that starts at random."""
    network, encoder = "deeplabv3plus", "mobilenetv3_large_100"
    normalisation = encoder_normalisation(encoder)
    torch.manual_seed(0)
    state = build(network, encoder, 3, 5, normalisation).state_dict()
    card = ModelCard(
        landseg_version="0", network=network, encoder=encoder, bands=("red", "green", "blue"), dtype="uint8", mean=normalisation.mean,
        std=normalisation.std, classes=make_classes([f"class {i}" for i in range(5)]), tile_size=(EDGE, EDGE),
    )  # fmt: skip
    save_model(folder, state, card)
    return folder


def write_tiles(folder: Path, count: int) -> None:
    """JPEG tiles of an invented landscape; of few scenes, each tile cut at a place of its own."""
    folder.mkdir(parents=True)
    scenes = [world.make_scene(seed, 1024, 1024).image for seed in range(4)]
    random = np.random.default_rng(0)
    for i in range(count):
        row, col = random.integers(0, 1024 - EDGE, 2)
        tile = scenes[i % len(scenes)][row : row + EDGE, col : col + EDGE, ::-1]
        cv2.imwrite(str(folder / f"{i:05}.jpg"), tile)


def bare_runs(data: bytes, images: list[np.ndarray]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The network alone at each batch, as ONNX Runtime runs it by itself on all cores: names, and ways to run it over the images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(batches: list[np.ndarray]) -> None:
        for batch in batches:
            session.run([LOGITS], {IMAGE: batch})

    for size in BATCHES:
        stacked = [np.stack(images[at : at + size]).astype(np.float32) for at in range(0, len(images) - size + 1, size)]
        yield f"batches of {size}, {cores()} threads", partial(run, stacked)


def peer_loop(script: Path, model: Path, archive: Path, out: Path) -> Callable[[], None]:
    """The block of a script's `main` that predicts its ``--test``, as a function; its network has the model's weights."""
    spec = importlib.util.spec_from_file_location("peer", script)
    assert spec is not None and spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    sys.modules["peer"] = peer
    spec.loader.exec_module(peer)
    tree = ast.parse(script.read_text(encoding="utf-8"))
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    block = next(node for node in main.body if isinstance(node, ast.If) and ast.unparse(node.test) == "a.test")
    code = compile(ast.Module([block], []), str(script), "exec")
    network, _ = load_model(model)

    def run() -> None:
        out.mkdir(exist_ok=True)
        scope: dict[str, Any] = {**vars(peer), "a": SimpleNamespace(test=str(archive)), "model": network.body, "device": "cpu", "out": out}
        exec(code, scope)

    return run


def per_second(run: Callable[[], None], tiles: int) -> float:
    started = time.perf_counter()
    run()
    return tiles / (time.perf_counter() - started)


def fastest(ways: Iterator[tuple[str, Callable[[], None]]], tiles: int) -> tuple[str, Callable[[], None]]:
    """The best of three turns of each, after one to warm up."""
    known = list(ways)
    rates = {name: [per_second(run, tiles) for _ in range(4)][1:] for name, run in known}
    for name, found in rates.items():
        print(f"  {name:<28} {max(found):7.1f} tiles/s")
    return max(known, key=lambda way: max(rates[way[0]]))


def profile(tiles: list[TileInput], data: bytes, card: ModelCard, out: Path) -> None:
    """One tile's way on one core: milliseconds of each step, and its share."""
    run = onnx_run(data)
    out.mkdir()
    spent = dict.fromkeys(("read", "decode", "network", "argmax", "encode", "write"), 0.0)
    run(decode_image(tiles[0].read())[None].astype(np.float32))
    for tile in tiles:
        marks = [time.perf_counter()]
        content = tile.read()
        marks.append(time.perf_counter())
        image = decode_image(content)
        marks.append(time.perf_counter())
        logits = run(image[None].astype(np.float32))
        marks.append(time.perf_counter())
        ids, _ = best_classes(logits[0])
        marks.append(time.perf_counter())
        encoded = encode_label(ids, card.classes)
        marks.append(time.perf_counter())
        (out / f"{tile.name}.png").write_bytes(encoded)
        marks.append(time.perf_counter())
        for step, before, after in zip(spent, marks[:-1], marks[1:], strict=True):
            spent[step] += after - before
    total = sum(spent.values())
    print(f"one tile's way on one core ({len(tiles)} tiles):")
    for step, seconds in spent.items():
        print(f"  {step:<8} {1000 * seconds / len(tiles):7.2f} ms  {seconds / total:6.1%}")
    print(f"  {'all':<8} {1000 * total / len(tiles):7.2f} ms; on {cores()} cores {cores() * len(tiles) / total:.1f} tiles/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="run folder or model folder; the default network, untrained, without")
    parser.add_argument("--tiles", type=int, default=2000, help="tiles of 256 x 256")
    parser.add_argument("--slow-tiles", type=int, default=400, help="of them, those that PyTorch and the script predict a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="the ordinary script")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(given, Path(name))


def compare(given: argparse.Namespace, folder: Path) -> None:
    model = find_model(given.model) if given.model else untrained(folder / "model")
    card, weights = read_model(model)
    write_tiles(folder / "tiles", given.tiles)
    tiles = find_inputs([folder / "tiles"])
    few = tiles[: given.slow_tiles]
    images = [decode_image(tile.read()) for tile in few]
    data = converted(model, card, weights, RUNTIME, onnx_run)
    engines: dict[str, Engine] = {engine: load_engine([model], "cpu", engine) for engine in ("onnx", "torch")}

    def whole(engine: str, chosen: list[TileInput]) -> None:
        out = folder / f"maps-{engine}"
        shutil.rmtree(out, ignore_errors=True)
        predict_tiles(engines[engine], chosen, out, batch=16)

    print(
        f"{card.network} with {card.encoder}, {given.tiles} tiles of {EDGE} x {EDGE}, {cores()} cores, {RUNTIME}, torch {torch.__version__}"
    )
    print("the bare network:")
    best, bare = fastest(bare_runs(data, images[:64]), 64)
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "ours": (partial(whole, "onnx", tiles), len(tiles)),
        f"bare network, {best}": (dict(bare_runs(data, images))[best], len(images)),
        "ours on PyTorch": (partial(whole, "torch", few), len(few)),
    }
    if given.peer:
        archive = folder / "test.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for tile in few:
                file.write(folder / "tiles" / f"{tile.name}.jpg", f"{tile.name}.jpg")
        ways["the script's loop"] = (peer_loop(given.peer, model, archive, folder / "peer"), len(few))
    bare()
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for at in range(given.rounds):
        for way, (run, count) in ways.items():
            rates[way].append(per_second(run, count))
        print(f"round {at + 1}: " + ", ".join(f"{way} {found[-1]:.1f}" for way, found in rates.items()) + " tiles/s", flush=True)
    for way in [way for way in ways if way != "ours"]:
        ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates[way], strict=True)]
        print(f"ours is {statistics.median(ratios):.3f} of {way} ({min(ratios):.3f} – {max(ratios):.3f})")
    profile(few[:200], data, load_card(model), folder / "profile")


if __name__ == "__main__":
    main()
