"""The verb `export`: a model → a folder for other programs, proved equal first. It composes; the work is in `network`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes, refuse_existing, write_bytes, write_json, write_text
from landseg.core.settings import PredictConfig
from landseg.network import exported
from landseg.network.card import CARD, ModelCard, find_model, load_card
from landseg.network.metadata import PROBABILITIES, deepness_keys, own_keys, page, qgis_edge
from landseg.network.stac import mlm_item
from landseg.verbs.int8 import Quantised, Tiles, find_tiles
from landseg.verbs.int8 import measured as measured_int8

if TYPE_CHECKING:
    from landseg.network.build import Network

log = logging.getLogger("landseg")

FORMATS = ("onnx", "openvino")

PROOF = "proved against torch at two sizes and two batch sizes: logits within 1e-3, at least 99.99 % of the classes equal"

_EQUAL = 0.9999
"""Share of the pixels whose classes agree; the rest are ties, which any change of arithmetic breaks."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        out: The folder.
        to: ``onnx`` or ``openvino``.
        files: Name → bytes.
        proof: What was compared with torch, in words.
        int8: What int8 costs and gains; None in float32.
    """

    out: Path
    to: str
    files: dict[str, int]
    proof: str
    int8: Quantised | None = None

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        document = {"out": str(self.out), "to": self.to, "files": self.files, "proof": self.proof}
        return document | (self.int8.as_json() if self.int8 else {})

    def as_text(self) -> str:
        """Lines for a person."""
        lines = [f"{self.out}: {', '.join(self.files)} ({human_bytes(sum(self.files.values()))})", f"  {self.proof}"]
        return "\n".join([*lines, f"  {self.int8.as_text()}"] if self.int8 else lines)


def export(
    model: str | Path,
    out: str | Path,
    *,
    to: str = "onnx",
    int8: str | Path | None = None,
    split: str | None = None,
    max_loss: float = 0.01,
    overwrite: bool = False,
) -> Exported:
    """Write a model as a folder that other programs can run; it is also a model for every verb.

    Nothing is written unless the made network agrees with torch: logits within 1e-3 and 99.99 % of the classes equal, at two sizes and
    two batch sizes. An int8 network differs on purpose; its loss of mIoU on val is measured instead.

    Args:
        model: Run folder or model folder.
        out: The folder to write: the network (``model.onnx``, or ``model.xml`` with ``model.bin``), ``model.json``, ``item.json`` (a STAC
            Item with the Machine Learning Model extension) and ``README.md``; of 8-bit images ``qgis.onnx`` beside an ONNX network.
        to: ``onnx`` or ``openvino``.
        int8: Dataset folder whose val part (train, where val is empty) int8 takes its ranges from and is scored on; ``onnx`` alone.
        split: Name of its split; the only one when None.
        max_loss: Loss of mIoU, as a fraction, above which an int8 network is refused.
        overwrite: Replace an earlier export.

    Raises:
        LandsegError: No such format, no model or an exported one, `out` exists, it cannot be converted, or the made network does not agree;
            with `is_gate`, int8 loses more than `max_loss`.
    """
    if to not in FORMATS:
        raise LandsegError("--to", f"{to!r}", f"one of {', '.join(FORMATS)}", "name one of them")
    if int8 is not None and to != "onnx":
        raise LandsegError("--int8", f"with --to {to}", "--to onnx, which computes in int8", "export to onnx, or leave --int8 out")
    if int8 is None and split is not None:
        raise LandsegError("--split", "without --int8", "a data set to quantise with", "name it with --int8 DATA, or leave --split out")
    target, folder = Path(out), find_model(Path(model))
    card = load_card(folder)
    if card.exported is not None:
        needed = "a run folder or a model folder as training wrote it"
        raise LandsegError(folder, "it is exported already", needed, "name the model that it was exported from")
    _refuse_target(target, folder, overwrite=overwrite)
    tiles = None if int8 is None else find_tiles(Path(int8), split, card)
    with exported.whole_folder(target) as new:
        scratch = new / "scratch"
        scratch.mkdir()
        measured = None
        if to == "onnx":
            measured = _onnx(new, folder, tiles, scratch, max_loss)
        else:
            _openvino(new, folder, scratch)
        shutil.rmtree(scratch)
        files = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
    return Exported(target, to, files, PROOF, measured)


def _onnx(new: Path, folder: Path, tiles: Tiles | None, scratch: Path, max_loss: float) -> Quantised | None:
    """Convert to ONNX, quantise where there are tiles for it, and write the folder's files.

    Raises:
        LandsegError: It cannot be converted; with `is_gate`, int8 loses too much.
    """
    # Imported here: torch and onnx take seconds to load, and wrong arguments shall be told at once.
    import onnx
    import onnxruntime

    from landseg.network.graphs import for_qgis, set_keys

    _, card, data = _converted(folder)
    measured = None
    if tiles is not None:
        data, measured = measured_int8(data, card, tiles, scratch)
        if measured.loss > max_loss:
            raise LandsegError(
                f"{tiles.store.entries[tiles.indices[0]].name} and {len(tiles.indices) - 1} more tiles of {tiles.part}",
                f"int8 loses {measured.loss:.4f} of mIoU", f"at most {max_loss:g} is allowed",
                "export without --int8, or allow more with --max-loss", is_gate=True, result=measured,
            )  # fmt: skip
    overlap, edge = _overlap(card), qgis_edge(card)
    made = onnx.load_model_from_string(data)
    set_keys(made, deepness_keys(card, edge, overlap, divides=False) | own_keys(card, overlap))
    write_bytes(new / exported.ONNX, made.SerializeToString())
    if card.dtype == "uint8":
        qgis = for_qgis(made, edge)
        set_keys(qgis, deepness_keys(card, edge, overlap, divides=True) | own_keys(card, overlap))
        qgis_data = qgis.SerializeToString()
        _require_same(data, qgis_data, card, edge)
        write_bytes(new / exported.QGIS, qgis_data)
    _describe(new, card, "onnx", onnxruntime.__version__, measured)
    return measured


def _openvino(new: Path, folder: Path, scratch: Path) -> None:
    """Convert to OpenVINO by way of ONNX, prove what OpenVINO computes, and write the folder's files.

    Raises:
        LandsegError: OpenVINO is not installed or too old, it cannot be converted, or OpenVINO computes something else.
    """
    from landseg.network.openvino_engine import openvino_run, reason, refusals, require_openvino

    try:
        openvino = require_openvino()
    except LandsegError as error:
        raise LandsegError(
            "--to openvino", error.found, error.needed, 'pip install -U "landseg[openvino]", or --to onnx'
        ) from error  # fmt: skip
    from landseg.network.convert import prove

    network, card, data = _converted(folder)
    source = scratch / exported.ONNX
    write_bytes(source, data)
    try:
        made = openvino.Core().read_model(str(source))
        for key, value in own_keys(card, _overlap(card)).items():
            made.set_rt_info(value, ["landseg", key.removeprefix("landseg_")])
        openvino.save_model(made, str(new / exported.XML), compress_to_fp16=False)
    except refusals() as error:
        raise LandsegError(
            folder, f"OpenVINO {openvino.__version__.partition('-')[0]} does not take it ({reason(error)})",
            "a network of operators that it has", _NOT_OPENVINO,
        ) from error  # fmt: skip
    with _advised(_NOT_OPENVINO):
        prove(network, card, openvino_run(new / exported.XML), f"{folder} (OpenVINO)", is_decoded=False)
    _describe(new, card, "openvino", openvino.__version__, None)


def _converted(folder: Path) -> tuple[Network, ModelCard, bytes]:
    """The network of torch, its card, and the network in ONNX, proved to give the same.

    Raises:
        LandsegError: It has an operator that ONNX lacks, or gives something else.
    """
    from landseg.network.checkpoint import load_model
    from landseg.network.convert import convert

    network, card = load_model(folder)
    log.info("%s: converting it to ONNX, and comparing what both give: seconds, or a minute for a large network", folder)
    with _advised("it runs in landseg alone; another network or encoder can be exported"):
        return network, card, convert(network, card, is_decoded=False)


_NOT_OPENVINO = "export it with --to onnx, or install a newer OpenVINO: pip install -U openvino"


@contextmanager
def _advised(do: str, what: str | None = None) -> Iterator[None]:
    """Within, what `network` says of a runtime (of `what`, if that is given) ends in advice for who exports; its own is for predicting."""
    try:
        yield
    except LandsegError as error:
        raise LandsegError(what or error.what, error.found, error.needed, do) from error


def _describe(new: Path, card: ModelCard, runtime: exported.Runtime, version: str, measured: Quantised | None) -> None:
    """Write the card, the STAC Item and the page beside the network."""
    made = exported.export_card(card, new, runtime, "float32" if measured is None else "int8")
    write_json(new / CARD, made.model_dump(mode="json"))
    notes = (PROOF,) if measured is None else (f"The float32 network was {PROOF}.", measured.as_text())
    overlap = _overlap(card)
    main = exported.NETWORK_FILES[runtime][0]
    write_text(new / exported.PAGE, page(card, main, overlap, has_qgis=(new / exported.QGIS).is_file(), notes=notes))
    names = [name for name in exported.FILES if name != exported.ITEM and (new / name).is_file()]
    facts = {name: ((new / name).stat().st_size, exported.file_sha256(new / name)) for name in names}
    write_json(new / exported.ITEM, mlm_item(made, runtime, version, facts, overlap))


def _require_same(data: bytes, qgis: bytes, card: ModelCard, edge: int) -> None:
    """Run both networks on one square, as QGIS's plugin would.

    Raises:
        LandsegError: The one for QGIS gives other classes, or ONNX Runtime cannot run one of them.
    """
    from landseg.network.onnx_engine import onnx_run

    image = np.random.default_rng(0).integers(0, 256, (1, len(card.bands), edge, edge)).astype(np.float32)
    do = f"free memory for {edge} × {edge} pixels, or a later version: pip install -U onnxruntime; --to openvino writes no such file"
    with _advised(do, exported.QGIS):
        logits, probabilities = onnx_run(data)(image), onnx_run(qgis, PROBABILITIES)(image / np.float32(255))
    share = float((logits.argmax(1) == probabilities.argmax(1)).mean())
    if share < _EQUAL:
        raise LandsegError(
            exported.QGIS, f"{share:.4%} of its classes are the network's", f"{_EQUAL:.2%}", "report it: this is a fault of landseg's"
        )


def _overlap(card: ModelCard) -> float:
    """The overlap that the model's recipe sets for scenes."""
    return float(card.recipe.get("predict", {}).get("overlap", PredictConfig().overlap))


def _refuse_target(target: Path, folder: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken; ``--overwrite`` replaces an earlier export and no other folder.

    Raises:
        LandsegError: It exists, is something else, or lies in the model's own folder.
    """
    if target.resolve().is_relative_to(folder.resolve()):
        raise LandsegError(target, "it lies in the model's folder", "a folder of its own", "choose another --out")
    refuse_existing(target, overwrite=overwrite)
    if not target.exists():
        return
    strange = [target.name] if target.is_file() else [path.name for path in target.iterdir() if path.name not in exported.FILES]
    if strange:
        needed = "--overwrite replaces what `landseg export` wrote, and nothing else"
        raise LandsegError(target, f"it holds {', '.join(sorted(strange)[:3])}", needed, "choose another --out")
