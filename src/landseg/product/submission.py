"""Build and lint a competition zip. It predicts nothing and judges no accuracy, only the form.

Vocabulary: a *violation* is one rule that one file breaks. The rules are stricter than any one grader, because graders differ.
"""

from __future__ import annotations

import io
import logging
import stat
import struct
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.files import replacing
from landseg.core.progress import parallel_map, progress
from landseg.data.archive import is_litter, write_zip
from landseg.data.dataset import walk
from landseg.data.inputs import TileInput, find_inputs
from landseg.data.tiles import UnreadableTile, decode_codes, encode_label, read_bytes, read_header

log = logging.getLogger("landseg")

RULES: dict[str, str] = {
    "zip": "a zip that opens",
    "encrypted": "no password",
    "compression": "entries stored or deflated",
    "duplicate": "one entry of a name",
    "litter": "nothing that an operating system left behind",
    "backslash": "no backslash in a name",
    "encoding": "names in ASCII or marked as UTF-8",
    "folder": "every file at the root of the zip",
    "missing": "one file for each test image",
    "extra": "no file but those of the test images",
    "case": "names spelled as the test images', ending in .png",
    "damaged": "an entry that unpacks to what its checksum says",
    "png": "a PNG file",
    "broken": "a whole PNG",
    "palette": "plain grey without a palette",
    "grey": "one grey band without colour or transparency",
    "depth": "8 bits a pixel",
    "size": "the height and width of the test image",
    "ignore": f"no pixel of {IGNORE_INDEX}",
    "class": "only ids of the classes",
}
"""Each rule by name, as what is needed."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of an interlaced PNG's passes. Source: PNG specification (W3C, 3rd edition), 8.1."""

_READS_OF_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
"""What `zipfile` raises on entries that do not unpack."""


@dataclass(frozen=True, order=True)
class Violation:
    """One rule that one file breaks: the file, the rule's name (a key of `RULES`) and what was found."""

    file: str
    rule: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: {self.rule}: {self.found}, needed is {RULES[self.rule]}"


def expected(images: Path) -> dict[str, tuple[int, int]]:
    """What a submission must hold: stem of each test image and its (height, width), from headers alone.

    Args:
        images: Dataset folder, folder or zip of the test images.

    Raises:
        LandsegError: No images, one whose size cannot be read, or two with the same stem (the zip has no folders to tell them apart).
    """
    sizes: dict[str, tuple[int, int]] = {}
    sources: dict[str, str] = {}
    tiles = find_inputs([images])
    for tile, size in progress(zip(tiles, parallel_map(_size, tiles), strict=True), "test images", total=len(tiles)):
        stem = tile.name.rsplit("/", 1)[-1]
        if stem in sizes:
            raise LandsegError(
                tile.what,
                f"{sources[stem]} has the same stem",
                "one test image of a stem, for the zip has no folders",
                "name the folder of one of them",
            )
        if isinstance(size, str):
            raise LandsegError(tile.what, size, "a test image whose size can be read", "replace it or take it out of the test images")
        sizes[stem], sources[stem] = size, tile.what
    return sizes


def lint(submission: bytes | Path, expected: Mapping[str, tuple[int, int]], classes: int | None) -> list[Violation]:
    """Hold a zip against every rule.

    Args:
        submission: The zip or its path.
        expected: From `expected`.
        classes: Number of classes K; None only refuses the ignore index.

    Returns:
        The violations, sorted by file; none when the zip may be handed in.
    """
    name = submission.name if isinstance(submission, Path) else "the zip"
    try:
        with zipfile.ZipFile(io.BytesIO(submission) if isinstance(submission, bytes) else submission) as archive:
            return sorted(_lint(archive, expected, classes))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        return [Violation(name, "zip", str(error)[:120] or type(error).__name__)]


def build(predictions: Path, expected: Mapping[str, tuple[int, int]], classes: int | None, out: Path) -> None:
    """Re-encode class maps as plain grey PNGs into a zip that takes its place only when it passes `lint`.

    The same class maps give the same bytes. Class maps of other images are left out and said aloud.

    Args:
        predictions: The folder that `predict` wrote.
        expected: From `expected`.
        classes: Number of classes K; None only refuses the ignore index.
        out: The zip.

    Raises:
        LandsegError: A rule is broken (`is_gate`), or `out` cannot be written. An earlier zip stays as it was.
    """
    maps = _class_maps(predictions)
    unknown = sorted(maps.keys() - expected.keys())
    if unknown:
        log.warning("%s: %s class maps are of no test image (%s) and left out", predictions, f"{len(unknown):,}", _some(unknown))
    stems = sorted(expected.keys() & maps.keys(), key=_natural)
    unreadable: dict[str, Violation] = {}

    def entries() -> Iterator[tuple[str, bytes]]:
        for stem, data in progress(
            zip(stems, parallel_map(_reencode, (maps[stem] for stem in stems)), strict=True), "submit", total=len(stems)
        ):
            if isinstance(data, bytes):
                yield f"{stem}.png", data
            else:
                unreadable[stem] = Violation(str(maps[stem]), "grey" if "band" in data else "broken", data)

    with replacing(out, sync=True) as partial_zip:
        write_zip(partial_zip, entries())
        found = [
            item
            for item in lint(partial_zip, expected, classes)
            if not (item.rule == "missing" and item.file.removesuffix(".png") in unreadable)
        ]
        violations = sorted([*unreadable.values(), *found])
        if violations:
            raise refusal(predictions, violations, "predict the test images again, then submit")


def refusal(what: object, violations: Sequence[Violation], do: str, result: object = None) -> LandsegError:
    """The gate's error: how many violations, the first of them, and every rule that was broken with its count."""
    counts = Counter(item.rule for item in violations)
    summary = ", ".join(f"{rule} {count}" for rule, count in counts.most_common())
    first = "; ".join(f"{item.file}: {item.rule} ({item.found})" for item in violations[:3])
    more = f"; and {len(violations) - 3} more" if len(violations) > 3 else ""
    return LandsegError(
        what,
        f"{len(violations)} violations [{summary}]: {first}{more}",
        f"needed is {RULES[violations[0].rule]}",
        do,
        is_gate=True,
        result=result,
    )


def _lint(archive: zipfile.ZipFile, expected: Mapping[str, tuple[int, int]], classes: int | None) -> Iterator[Violation]:
    by_name: dict[str, list[zipfile.ZipInfo]] = defaultdict(list)
    for info in archive.infolist():
        by_name[info.filename].append(info)
    folded = {stem.casefold(): stem for stem in expected}
    met: set[str] = set()
    pictures: list[tuple[zipfile.ZipInfo, str]] = []
    for name, infos in by_name.items():
        info, path = infos[-1], name.replace("\\", "/")
        if any(is_litter(part) for part in path.split("/") if part not in (".", "..")):
            yield Violation(name, "litter", "left there by the operating system or hidden")
            continue
        if len(infos) > 1:
            yield Violation(name, "duplicate", f"{len(infos)} entries of this name")
        if "\\" in name:
            yield Violation(name, "backslash", "a backslash in its name")
        if "/" in path:
            yield Violation(name, "folder", "a folder in the zip" if path.endswith("/") else "inside a folder")
        if path.endswith("/"):
            continue
        leaf = path.rsplit("/", 1)[-1]
        stem, dot, ending = leaf.rpartition(".")
        stem = stem if dot else leaf
        if not name.isascii() and not info.flag_bits & 0x800 and stem not in expected:
            # Without the flag a name is cp437 by the standard; what tools really wrote there is UTF-8 or GBK.
            meant = next((text for text in _spellings(stem) if text in expected), None)
            if meant:
                yield Violation(name, "encoding", f"its name reads {meant} only to those who guess the code page")
                stem = meant
        if stem not in expected and stem.casefold() in folded:
            yield Violation(name, "case", f"the test image is spelled {folded[stem.casefold()]}")
            stem = folded[stem.casefold()]
        elif stem in expected and ending != "png":
            yield Violation(name, "case", f"its name ends in {'.' + ending if dot else 'nothing'}")
        if stem not in expected:
            yield Violation(name, "extra", "no test image has its stem")
            continue
        if stem in met:
            yield Violation(name, "duplicate", f"a second file for the test image {stem}")
        met.add(stem)
        pictures.append((info, stem))
    for stem in expected.keys() - met:
        yield Violation(f"{stem}.png", "missing", "not in the zip")
    check = partial(_lint_entry, archive, expected, classes)
    for violations in progress(parallel_map(check, pictures), "lint", total=len(pictures)):
        yield from violations


def _lint_entry(
    archive: zipfile.ZipFile, expected: Mapping[str, tuple[int, int]], classes: int | None, picture: tuple[zipfile.ZipInfo, str]
) -> list[Violation]:
    info, stem = picture
    height, width = expected[stem]
    if info.flag_bits & 1:
        return [Violation(info.filename, "encrypted", "a password is needed to read it")]
    if stat.S_ISLNK(info.external_attr >> 16):
        return [Violation(info.filename, "png", "a symbolic link")]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return [Violation(info.filename, "compression", f"compressed by method {info.compress_type}")]
    # A grey picture never takes much more than its pixels; an entry that says so is a bomb, and is not unpacked.
    if info.file_size > 16 * height * width + 1_000_000:
        return [Violation(info.filename, "size", f"{info.file_size:,} bytes for {height} × {width} pixels")]
    try:
        data = archive.read(info)
    except _READS_OF_DAMAGE as error:
        return [Violation(info.filename, "damaged", str(error)[:120] or type(error).__name__)]
    return [Violation(info.filename, rule, found) for rule, found in _lint_png(data, height, width, classes)]


def _lint_png(data: bytes, height: int, width: int, classes: int | None) -> Iterator[tuple[str, str]]:
    """Rules of the picture itself, from its bytes, because lenient decoders hide what a strict grader refuses."""
    if data[:8] != _SIGNATURE:
        yield "png", f"it begins with {data[:8]!r}" if data else "the file is empty"
        return
    chunks, fault = _chunks(data)
    header = next((body for kind, body in chunks[:1] if kind == b"IHDR" and len(body) == 13), None)
    if header is None:
        yield "broken", fault or "it has no header"
        return
    found_width, found_height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    kinds = {kind for kind, _ in chunks}
    if colour == 3:
        yield "palette", "a palette picture"
    elif colour != 0:
        yield (
            "grey",
            {2: "red, green, blue", 4: "grey with transparency", 6: "red, green, blue with transparency"}.get(
                colour, f"colour type {colour}"
            ),
        )
    elif b"tRNS" in kinds:
        yield "grey", "a transparent grey"
    if depth != 8:
        yield "depth", f"{depth} bits"
    if (found_height, found_width) != (height, width):
        yield "size", f"{found_height} × {found_width}, the test image is {height} × {width}"
    if fault:
        yield "broken", fault
        return
    if colour != 0 or depth != 8 or (found_height, found_width) != (height, width):
        return
    fault = _unpack_fault(b"".join(body for kind, body in chunks if kind == b"IDAT"), height, width, is_interlaced=bool(interlace))
    ids = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if ids is None or ids.shape != (height, width):
        yield "broken", fault or "it does not decode"
        return
    counts = np.bincount(ids.ravel(), minlength=256)
    if counts[IGNORE_INDEX]:
        yield "ignore", f"{int(counts[IGNORE_INDEX]):,} pixels of {IGNORE_INDEX}"
    illegal = [value for value in range(classes if classes is not None else 256, 256) if counts[value] and value != IGNORE_INDEX]
    if illegal:
        pixels = int(sum(counts[value] for value in illegal))
        yield "class", f"value {_some(illegal)} in {pixels:,} pixels, the ids are 0..{(classes or 0) - 1}"


def _chunks(data: bytes) -> tuple[list[tuple[bytes, bytes]], str]:
    """A PNG's chunks and what is wrong with them, if anything. Source: PNG specification, 5.3."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return chunks, f"the checksum of its {kind.decode('ascii', 'replace')} is wrong"
        if kind == b"IEND":
            return chunks, ""
        chunks.append((kind, data[at + 8 : end - 4]))
        at = end
    return chunks, f"it ends after {len(data)} bytes, before its picture does"


def _unpack_fault(packed: bytes, height: int, width: int, *, is_interlaced: bool) -> str:
    """Say when an 8-bit grey PNG's pixels do not unpack to exactly its rows; never unpacks more than those."""
    passes = ((len(range(row, height, down)), len(range(column, width, across))) for row, column, down, across in _ADAM7)
    need = sum(rows * (columns + 1) for rows, columns in passes if columns) if is_interlaced else height * (width + 1)
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(packed, need + 1)
        if len(rows) == need:
            rows += unpacker.decompress(unpacker.unconsumed_tail, 1)
    except zlib.error as error:
        return f"its pixels do not unpack ({error})"
    if len(rows) != need or not unpacker.eof:
        return "its pixels are cut short" if len(rows) <= need else "it holds more pixels than its header says"
    return ""


def _reencode(path: Path) -> bytes | str:
    """A class map as a plain grey PNG, or why it cannot be one."""
    try:
        codes = decode_codes(read_bytes(path))
    except UnreadableTile as reason:
        return str(reason)
    # Codes above 255 are kept as they are: the linter then names the file and the rule.
    return encode_label(codes.astype(np.uint8) if codes.max(initial=0) <= 255 else codes)


def _class_maps(folder: Path) -> dict[str, Path]:
    """PNG files below a folder by stem; the zip has no folders, so a stem may be there once."""
    if not folder.is_dir():
        raise LandsegError(folder, "no such folder", "the folder that `landseg predict` wrote", "check the path")
    maps: dict[str, Path] = {}
    for path in walk(folder):
        if path.suffix.lower() != ".png":
            continue
        if path.stem in maps:
            raise LandsegError(
                path,
                f"{maps[path.stem]} has the same stem",
                "one class map of a stem, for the zip has no folders",
                "submit one folder of them",
            )
        maps[path.stem] = path
    if not maps:
        raise LandsegError(folder, "no class maps (PNG) in it", "the folder that `landseg predict` wrote", "predict the test images first")
    return maps


def _size(tile: TileInput) -> tuple[int, int] | str:
    try:
        header = read_header(tile.read())
    except UnreadableTile as reason:
        return str(reason)
    return header.height, header.width


def _spellings(name: str) -> Iterator[str]:
    """What a name that was read as cp437 may have meant."""
    for encoding in ("utf-8", "gbk"):
        try:
            yield name.encode("cp437").decode(encoding)
        except UnicodeError:
            continue


def _natural(stem: str) -> tuple[int, int, str]:
    """Sort key: numbers by value and before words, so that 2 comes before 10."""
    return (0, int(stem), stem) if stem.isascii() and stem.isdigit() else (1, 0, stem)


def _some(items: Sequence[object]) -> str:
    return ", ".join(str(item) for item in items[:3]) + (", …" if len(items) > 3 else "")
