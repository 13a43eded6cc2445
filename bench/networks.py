"""What each network costs with ten encoders: parameters, GFLOP and speed, and the page of the documentation that says so.

    python bench/networks.py              writes docs/reference/networks.md from the record, in a second
    python bench/networks.py --measure    measures first what the record lacks (all of it: about half an hour on one core)

Parameters are those that a backward pass reaches; stages that a network does not use are left out. GFLOP are torch's count
(`torch.utils.flop_counter`) of a forward pass of one 256 × 256 image: convolutions and matrix products, a multiply-accumulate as two.
Speed is timed alternately with a reference network in the same process, so that a busy machine slows both; the ratio counts, and tiles/s
are that ratio times what the reference does on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from landseg.core.errors import LandsegError
from landseg.core.files import write_text
from landseg.core.settings import NETWORKS
from landseg.network.build import Network, build, encoder_normalisation

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "bench/records/train-speed/2026-11-23-networks/networks.json"
PAGE = ROOT / "docs/reference/networks.md"

REFERENCE = ("deeplabv3plus", "mobilenetv3_large_100")
LEAST = "tf_mobilenetv3_large_minimal_100"
REFERENCE_TILES_PER_S = 19.0
"""Of the reference: two quiet cores, channels-last, as `landseg predict` runs it."""

NOT_TIMED = "·"
SIZE, BATCH, ROUNDS, BUDGET_S = 256, 8, 2, 1.0

ENCODERS = {
    LEAST: "MobileNetV3 without attention",
    "mobilenetv3_large_100": "MobileNetV3",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_b0": "EfficientNet",
    "mit_b0": "SegFormer's transformer",
    "resnet50": "ResNet",
    "convnext_tiny": "ConvNeXt",
    "hrnet_w18": "HRNet, fine throughout",
    "xception65": "Xception",
    "vit_small_patch16_224": "vision transformer",
}

ABOUT = {
    "deeplabv3plus": "Looks at several distances at once, on a dilated last stage, and mends borders from one fine stage. The default.",
    "unet": "Carries every stage of the encoder up to the fine one: thin things and sharp borders.",
    "unetplusplus": "unet with further nodes between encoder and decoder; with a wide encoder they cost several times the rest.",
    "fpn": "Adds the stages up from coarse to fine and reads all of them at a quarter of the size.",
    "pspnet": "Uses the encoder's first three stages alone and pools over the whole tile: few operations, coarse borders.",
    "linknet": "unet with sums in place of joined channels.",
    "manet": "unet with attention over the deepest stage and over channels; its parameters grow with the square of that stage's width.",
    "pan": "Attention over a pyramid of the deepest stage, on a dilated last stage; small tiles are filled up to 128 pixels.",
    "upernet": "Pools over the whole tile, then joins all stages.",
    "segformer": "A decoder of per-pixel layers alone: a small addition to any encoder.",
    "dpt": "Made for vision transformers, and the only one that takes them; takes other timm encoders too, with a decoder of one size.",
}


class Row(NamedTuple):
    """One pair as measured; a refused one has nothing but its reason."""

    network: str
    encoder: str
    refused: str | None = None
    parameters: int = 0
    flop: int = 0
    ratio: float = 0.0
    least: float = 0.0
    most: float = 0.0
    rounds: int = 0


def make(network: str, encoder: str) -> Network:
    """The pair with three bands and four classes; no weights are fetched."""
    return build(network, encoder, 3, 4, encoder_normalisation(encoder)).eval()


def parameters(network: Network) -> int:
    """Parameters that a gradient reaches."""
    network(torch.rand(1, 3, 64, 64)).sum().backward()
    count = sum(weights.numel() for weights in network.parameters() if weights.grad is not None)
    network.zero_grad(set_to_none=True)
    return count


def flop(network: Network) -> int:
    """Of a forward pass of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, SIZE, SIZE))
    return int(counter.get_total_flops())


def seconds(network: Network, images: Tensor) -> float:
    """Of the processor for one batch: with one thread, what other processes do meanwhile does not count."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    with torch.inference_mode():
        network(images)
    return clock() - start


def count_pair(network: str, encoder: str) -> Row:
    """Parameters and operations of a pair, or why it is refused."""
    try:
        built = make(network, encoder)
    except LandsegError as error:
        return Row(network, encoder, re.sub(r"^.*?\((.*)\)$", r"\1", error.found))
    return Row(network, encoder, None, parameters(built), flop(built))


def time_pair(row: Row, reference: Network, images: Tensor) -> Row:
    """Time a pair between two batches of the reference each round."""
    built = make(row.network, row.encoder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spent = seconds(built, images[:2])
    before, ratios = seconds(reference, images), []
    while not ratios or (len(ratios) < ROUNDS and spent < BUDGET_S):
        own, after = seconds(built, images), seconds(reference, images)
        spent += own
        ratios.append((before + after) / 2 / own)
        before = after
    ratio = statistics.median(ratios)
    return row._replace(ratio=round(ratio, 4), least=round(min(ratios), 4), most=round(max(ratios), 4), rounds=len(ratios))


def measure() -> None:
    """Count, then time what the record lacks, the default's encoders first; the record is written after each pair."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8).to(memory_format=torch.channels_last)
    reference = make(*REFERENCE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds(reference, images)
    pairs = [(network, encoder) for encoder in ENCODERS for network in NETWORKS]
    found = json.loads(RECORD.read_text(encoding="utf-8"))["pairs"] if RECORD.exists() else []
    rows = {(pair["network"], pair["encoder"]): Row(**pair) for pair in found}
    for pair in pairs:
        if pair not in rows:
            rows[pair] = count_pair(*pair)
            print(*rows[pair], flush=True)
            write_record(list(rows.values()))
    for pair in pairs:
        if rows[pair].refused is None and not rows[pair].rounds:
            rows[pair] = time_pair(rows[pair], reference, images)
            print(*rows[pair], flush=True)
            write_record(list(rows.values()))


def write_record(rows: list[Row]) -> None:
    """The rows, one a line, beneath what they were measured with."""
    head = {
        "size": SIZE,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "machine": "2 cores, CPU",
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "timm": timm.__version__,
        "segmentation_models_pytorch": smp.__version__,
        "reference": list(REFERENCE),
        "reference_tiles_per_s": REFERENCE_TILES_PER_S,
    }
    order = [(network, encoder) for network in NETWORKS for encoder in ENCODERS]
    lines = ",\n  ".join(json.dumps(row._asdict()) for row in sorted(rows, key=lambda row: order.index(row[:2])))
    write_text(RECORD, json.dumps(head, indent=1).removesuffix("\n}") + f',\n "pairs": [\n  {lines}\n ]\n}}\n')


def page(record: dict[str, Any]) -> str:
    """The text of docs/reference/networks.md."""
    rows = [Row(**pair) for pair in record["pairs"]]
    rows = [row._replace(ratio=1.0) if row[:2] == REFERENCE else row for row in rows]  # what it is by definition
    speeds = {(row.network, row.encoder): _figures(row.ratio * record["reference_tiles_per_s"]) for row in rows if row.rounds}
    sections = [_section(speeds, network, [row for row in rows if row.network == network]) for network in NETWORKS]
    return "\n\n".join([_head(rows), _guide(speeds), _overview(record, rows, speeds), *sections, _method(record)]) + "\n"


def _head(rows: list[Row]) -> str:
    refused = sum(row.refused is not None for row in rows)
    return "\n\n".join(
        [
            "<!-- Written by bench/networks.py from bench/records/train-speed/2026-11-23-networks/networks.json; change those instead. -->",
            "# Networks",
            _flow(
                f"What each `model.network` costs with ten encoders. Of the {len(rows)} pairs {len(rows) - refused} fit; the other "
                f"{refused} are refused before training begins, in a line that names what fits. `model.encoder` takes most of timm's "
                "other encoders too: these ten stand for their kinds."
            ),
            _flow(
                "This page knows cost, not accuracy. Which pair maps *your* land best, only `landseg evaluate` on your data says: "
                "begin with the default, and change one thing at a time."
            ),
        ]
    )


def _guide(speeds: dict[tuple[str, str], str]) -> str:
    def pair(network: str, encoder: str) -> str:
        speed = speeds.get((network, encoder))
        return f"`{network}` + `{encoder}`" + ("" if speed is None else f" ({speed})")

    choices = [
        ("to begin", f"{pair(*REFERENCE)}, the default"),
        ("no GPU and hardly any time; coarse borders will do", pair("pspnet", REFERENCE[1])),
        ("thin roads, small houses, sharp borders", f"{pair('unet', 'efficientnet_b0')}; with a GPU `unet` + `hrnet_w18`"),
        ("fields, forests and lakes: context before detail", f"{pair('fpn', 'mit_b0')}; with a GPU `upernet` + `convnext_tiny`"),
        ("a GPU, and a strong encoder at a small addition", "`segformer` + `convnext_tiny`, or `mit_b1` … `mit_b5`"),
        ("a plain yardstick that every paper has", pair("unet", "resnet50")),
        ("weights of a vision transformer", f"{pair('dpt', 'vit_small_patch16_224')}; no other network takes one"),
    ]
    lines = [f"| {want} | {take} |" for want, take in choices]
    text = "Where people usually begin. Accuracy is not measured here. In brackets: tiles/s of 256 × 256 on two CPU cores, forward."
    return "\n".join(["## Which to choose", "", text, "", "| you have, or want | try |", "|---|---|", *lines])


def _overview(record: dict[str, Any], rows: list[Row], speeds: dict[tuple[str, str], str]) -> str:
    lines = [f"| encoder | {' | '.join(NETWORKS)} |", "|---" + "|--:" * len(NETWORKS) + "|"]
    for encoder in ENCODERS:
        own = {row.network: row for row in rows if row.encoder == encoder}
        cells = {network: "–" if own[network].refused else speeds.get((network, encoder), NOT_TIMED) for network in NETWORKS}
        best = max(own, key=lambda network: own[network].ratio)
        if all(row.rounds or row.refused for row in own.values()):
            cells[best] = f"**{cells[best]}**"
        lines.append(f"| `{encoder}` | {' | '.join(cells.values())} |")
    size, is_partial = record["size"], len(speeds) < sum(row.refused is None for row in rows)
    text = _flow(
        f"Tiles of {size} × {size} a second, forward, on two CPU cores. A dash is a pair that is refused; bold is an encoder's "
        f"quickest network{f'; {NOT_TIMED} was not timed, and its row has no bold' if is_partial else ''}."
    )
    return "\n".join(["## Speed at a glance", "", text, "", *lines])


def _section(speeds: dict[tuple[str, str], str], network: str, rows: list[Row]) -> str:
    fitting = sorted((row for row in rows if row.refused is None), key=lambda row: (-row.ratio, row.flop))
    lines = [
        f"## {network}",
        "",
        _flow(ABOUT[network]),
        "",
        "| encoder | kind | parameters, million | GFLOP | speed | tiles/s |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in fitting:
        costs = f"{row.parameters / 1e6:.1f} | {row.flop / 1e9:.1f}"
        costs += f" | {row.ratio:.2f} | {speeds[network, row.encoder]}" if row.rounds else f" | {NOT_TIMED} | {NOT_TIMED}"
        lines.append(f"| `{row.encoder}` | {ENCODERS[row.encoder]} | {costs} |")
    refused = [row.encoder for row in rows if row.refused is not None]
    if refused:
        lines += ["", _flow(f"Refused: {', '.join(f'`{name}`' for name in refused)}. {' '.join(_reasons(network, refused))}")]
    return "\n".join(lines)


def _reasons(network: str, refused: list[str]) -> list[str]:
    if network == "dpt":
        return ["It takes timm's encoders alone: `tu-resnet50` is timm's own ResNet, `mobilenetv2_100` its MobileNetV2."]
    reasons = {
        "vit_small_patch16_224": "A vision transformer has one scale, where this network wants several.",
        "hrnet_w18": "HRNet cannot be dilated.",
        "mit_b0": "segmentation_models_pytorch does not join it to SegFormer's encoders.",
    }
    return [reasons[name] for name in refused]


def _method(record: dict[str, Any]) -> str:
    threads = "one thread, in processor time" if record["threads"] == 1 else f"{record['threads']} threads"
    size, (network, encoder), quiet = record["size"], record["reference"], record["reference_tiles_per_s"]
    versions = f"Python {record['python']}, torch {record['torch']}, timm {record['timm']}"
    points = [
        "**parameters** are those that a gradient reaches, for three bands and four classes. What a network leaves unused of its encoder "
        "(`pspnet`, with most of them, half and more) lies in the model's file all the same.",
        f"**GFLOP** are 10⁹ operations of a forward pass of one {size} × {size} tile, as `torch.utils.flop_counter` counts them: "
        "convolutions and matrix products, a multiply-accumulate as *two* operations. Tables that count it as one print half.",
        f"**speed** is the ratio of tiles/s to those of the default pair, `{network}` + `{encoder}`, forward, in batches of "
        f"{record['batch']}, float32, channels-last; timed in turn with it in one process, {threads}, median of up to two rounds. "
        f"The machine did other work meanwhile, which slows both: a difference below a tenth says nothing.",
        f"**tiles/s** is that ratio times {quiet:g}, which is what the default pair does on two quiet cores with PyTorch. It is implied, "
        "not measured: two threads do not help every pair alike, and a GPU has an order of its own.",
    ]
    return "\n".join(
        [
            "## How it was measured",
            "",
            *(_flow(f"- {point}", "  ") for point in points),
            "",
            _flow(
                f"Machine: {record['machine']}; {versions}, segmentation_models_pytorch {record['segmentation_models_pytorch']}. "
                "The figures lie in [the record](../../bench/records/train-speed/2026-11-23-networks/README.md). "
                "`python bench/networks.py` writes this page from them without measuring; `--measure` adds what is missing there. "
                "`make slow` has every pair of this page trained, and used at two sizes, or refused."
            ),
        ]
    )


def _figures(value: float) -> str:
    """No more of them than a busy machine gives."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def _flow(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 150, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure first what the record lacks; to measure all anew, remove it")
    if parser.parse_args().measure:
        measure()
    write_text(PAGE, page(json.loads(RECORD.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
