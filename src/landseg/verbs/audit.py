"""`landseg audit`: what is in a data set and what is wrong with it: a table, audit.json and audit.html. It changes no data."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from landseg.core.classes import IGNORE_INDEX, ClassList, read_classes
from landseg.core.errors import LandsegError
from landseg.core.files import unwritable, write_json
from landseg.data.archive import is_zip
from landseg.data.audit import Audit, Subject, audit_tiles
from landseg.data.audit_page import write_page
from landseg.data.dataset import FILE, Dataset, open_dataset, read_info, walk
from landseg.data.gathering import gather
from landseg.data.labels import label_rules
from landseg.data.places import is_there
from landseg.data.settling import first_rules
from landseg.data.sink import Sink
from landseg.data.survey import Problem
from landseg.data.tiles import SUFFIXES

log = logging.getLogger("landseg")

_COLUMNS = 116
_BAR, _CLASSES, _KINDS, _BANDS = 24, 20, 3, 12  # characters of the longest bar; rows of a table
_LABEL_FOLDER = re.compile(r"(?i)(^|[^a-z])(lab|labels?|masks?|gt|annotations?|seg)([^a-z]|$)")


@dataclass(frozen=True)
class Audited:
    """An audit and the files that hold it."""

    found: Audit
    document: Path

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``, the same as ``audit.json``."""
        return self.found.as_json()

    def as_text(self) -> str:
        """The table, and where the page lies."""
        found = self.found
        lines = [*_headline(found), *_class_lines(found), *_band_lines(found), *_problem_lines(found)]
        return "\n".join([*lines, "", str(found.page)])


def audit(data: str | Path, *, classes: str | None = None, out: str | Path | None = None, require: str | None = None) -> Audited:
    """Decode every tile of a data set and say what is in it and what is wrong with it.

    Args:
        data: A dataset folder, or a folder that is not prepared yet: its tiles, lists or annotations are then read as `prepare` would.
        classes: Class names or a file of them, as `core.classes.read_classes` reads it, for a folder that is not prepared; without them
            label codes are shown as they stand.
        out: Where ``audit.json`` and ``audit.html`` go; ``audit`` in the dataset folder, or in the working folder for one not prepared.
        require: ``clean`` is a gate: errors and warnings are refused.

    Raises:
        LandsegError: Nothing can be looked at; with `is_gate`, something is wrong (the files are written).
    """
    if require not in (None, "clean"):
        raise LandsegError("--require", repr(require), "clean", "leave it out to audit without a gate")
    folder = Path(data)
    if not folder.is_dir():
        if folder.is_file() and is_zip(folder):
            raise LandsegError(folder, "a zip", "a folder", f"unpack it with `landseg prepare {folder} --out DATA` and audit DATA")
        raise LandsegError(folder, "it is not there" if not folder.exists() else "a file", "a folder of tiles", "name a dataset folder")
    is_prepared = (folder / FILE).is_file()
    if is_prepared and classes is not None:
        log.warning("--classes is not used: %s names its classes", folder / FILE)
    target = Path(out) if out is not None else (folder if is_prepared else Path()) / "audit"
    listed = read_classes(classes) if classes is not None and not is_prepared else ClassList()
    with ExitStack() as stack:
        if is_prepared:
            subject = _of_dataset(folder)
        else:
            rasters = Path(stack.enter_context(TemporaryDirectory(prefix="landseg-audit-")))
            subject = _of_tree(folder, listed, target, Sink(rasters))
        try:
            target.mkdir(parents=True, exist_ok=True)  # better told now than after minutes of decoding
        except OSError as error:
            raise unwritable(target, error) from error
        found = replace(audit_tiles(subject), page=target / "audit.html")
        write_page(target / "audit.html", found)
    write_json(target / "audit.json", found.as_json())
    result = Audited(found, target / "audit.json")
    if require == "clean" and found.faults:
        kinds = ", ".join(problem.title.lower() for problem in found.faults[:4]) + (" …" if len(found.faults) > 4 else "")
        count = len(found.faults)
        raise LandsegError(
            folder, f"{count} {'kinds' if count > 1 else 'kind'} of fault ({kinds})", "a clean data set was required",
            f"see {target / 'audit.html'}", is_gate=True, result=result,
        )  # fmt: skip
    return result


def _of_dataset(folder: Path) -> Subject:
    """A dataset folder; one that `open_dataset` refuses for its tiles' sake is looked at as far as it goes."""
    info = read_info(folder)
    dataset = Dataset(folder, info)
    if not is_there(dataset.image_folder):
        open_dataset(folder)  # for its words
    images, clashes = _files(dataset.image_folder)
    clashes += [f"{name}: {reason}" for name, reason in info.left_out.items() if images.pop(name, None)]
    labels: dict[str, Path] | None = None
    if dataset.label_folder is not None:
        labels, more = _files(dataset.label_folder)
        clashes += more
        labels = {name: path for name, path in labels.items() if name not in info.left_out}
    return Subject(
        info.name,
        images,
        labels,
        info.classes,
        info.bands,
        dataset.label_rules if info.classes else None,
        is_stated=bool(info.remap) or info.ignore_index != IGNORE_INDEX,
        passed_over=tuple(clashes),
    )


def _files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Tile files by name, and what was passed over because another has its name."""
    found: dict[str, Path] = {}
    clashes = []
    for path in walk(folder):
        if path.suffix.lower() not in SUFFIXES:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            clashes.append(f"{path.name} has the name of {found[name].name}")
        else:
            found[name] = path
    return dict(sorted(found.items())), clashes


def _of_tree(folder: Path, listed: ClassList, target: Path, rasters: Sink) -> Subject:
    """A folder that is not prepared yet, as `prepare` would read it; where content leaves open which files are labels, names decide."""
    try:
        gathered = gather([folder], None, listed, rasters=rasters, leave=target.resolve())
    except LandsegError:
        named = sorted(path for path in folder.rglob("*") if path.is_dir() and _LABEL_FOLDER.search(path.name))
        if len(named) != 1:
            raise
        gathered = gather([folder], named[0], listed, rasters=rasters, leave=target.resolve())
    found, listed = gathered.found, gathered.listed
    rules = None
    if listed.classes and found.labels is not None:
        rules = first_rules(listed, found.labels)
        if rules.encoding != "index" and not listed.has_colours:
            rules = label_rules(listed.classes)  # colours of which nobody said what they mean are a finding
    return Subject(
        folder.resolve().name,
        found.images,
        found.labels,
        listed.classes,
        (),
        rules,
        is_stated=bool(listed.remap) or listed.ignore_index is not None,
        unlabelled=gathered.unreadable,
        passed_over=gathered.left_out,
    )


def _headline(audit: Audit) -> list[str]:
    pairs = f"{audit.pairs:,} pair{'' if audit.pairs == 1 else 's'} of image and label"
    what = pairs if audit.has_labels else f"{len(audit.tiles):,} images without labels"
    formats = (("format", "images"), ("label_format", "labels"))
    facts = [
        " and ".join(f"{', '.join(audit.counted(of))} {what}" for of, what in formats if audit.counted(of)),
        _most(audit.counted("size")),
        ", ".join(f"{bands} band{'s' if bands > 1 else ''} {dtype}" for bands, dtype in list(audit.bands)[:_KINDS]),
    ]
    return [f"{audit.subject.name}: {what}", "  " + " · ".join(fact for fact in facts if fact)]


def _class_lines(audit: Audit) -> list[str]:
    if not audit.classes or not audit.pixels:
        return []
    shown = audit.classes[:_CLASSES]
    width = max(len("class"), *(_width(row.name) for row in shown))
    most = max(row.pixels for row in audit.classes)
    lines = ["", f"  {'class':<{width}}  {'share':>7}  {'tiles':>7}"]
    for row in shown:
        bar = "█" * round(_BAR * row.pixels / max(most, 1)) or ("▏" if row.pixels else "")
        lines.append(f"  {_padded(row.name, width)}  {row.pixels / max(audit.labelled_pixels, 1):>7.2%}  {row.tiles:>7,}  {bar}".rstrip())
    if len(audit.classes) > len(shown):
        lines.append(f"  … and {len(audit.classes) - len(shown)} more")
    share = 1 - audit.labelled_pixels / max(audit.pixels, 1)
    also = f"; {audit.unlabelled_tiles:,} tiles are unlabelled throughout" if audit.unlabelled_tiles else ""
    return [*lines, f"  {share:.2%} of all pixels are unlabelled{also}"]


def _band_lines(audit: Audit) -> list[str]:
    lines: list[str] = []
    for (count, dtype), found in list(audit.bands.items())[:_KINDS]:
        names = audit.band_names(count)
        width = max(len(dtype), *map(_width, names))
        heads = ("mean", "std", "min", "p1", "p2", "p50", "p98", "p99", "max")
        lines += ["", f"  {dtype:<{width}}" + "".join(f"  {head:>8}" for head in heads)]
        for name, band in list(zip(names, found, strict=True))[:_BANDS]:
            numbers = (band.mean, band.std, band.low, *band.percentiles.values(), band.high)
            lines.append(f"  {_padded(name, width)}" + "".join(f"  {_number(value):>8}" for value in numbers))
        if count > _BANDS:
            lines.append(f"  … and {count - _BANDS} more bands")
    return lines


def _problem_lines(audit: Audit) -> list[str]:
    if not audit.problems:
        return ["", "  nothing is wrong with it"]
    lines: list[str] = []
    for problem in audit.problems:
        lines += ["", *_wrapped(f"  {problem.severity:<7}  ", f"{problem.title}: {problem.what}")]
        if problem.tiles and problem.severity != "note":
            lines += _wrapped(" " * 11, _listed(problem))
        if problem.severity != "note":
            lines += _wrapped(" " * 11 + "→ ", problem.do)
    if not audit.faults:
        lines += ["", "  nothing is wrong with it; notes are harmless"]
    return lines


def _listed(problem: Problem) -> str:
    if problem.sets:
        shown, more = [" = ".join(group[:4]) + (" = …" if len(group) > 4 else "") for group in problem.sets[:4]], len(problem.sets) - 4
    else:
        shown, more = list(problem.tiles[:6]), len(problem.tiles) - 6
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _most(counted: Mapping[str, int]) -> str:
    """The most frequent, and how many others there are."""
    if not counted:
        return ""
    first, *others = counted
    return f"{first} and {len(others)} other{'s' if len(others) > 1 else ''}" if others else first


def _wrapped(lead: str, text: str) -> list[str]:
    """Lines of a terminal that begin under one another, `lead` before the first."""
    return textwrap.wrap(text, _COLUMNS, initial_indent=lead, subsequent_indent=" " * len(lead), break_long_words=False)


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value)}"
    return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.3g}"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: two a Chinese character."""
    return sum(1 + (ord(letter) > 0x2E7F) for letter in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
