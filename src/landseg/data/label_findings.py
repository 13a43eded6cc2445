"""Facts of labels → their problems: of `findings`, the rules that look at what labels hold. It reads no file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from landseg.core.classes import IGNORE_INDEX
from landseg.data.survey import Problem, Severity, Survey, brings_back, plural, so_many, some
from landseg.data.suspicions import inverted_tiles, is_inverted_throughout

NODATA_PIXELS = 16
"""Labelled pixels under nodata below this are a border drawn a little wide."""

_LISTED = 5

_CODES = "give each class its code in a file for --classes (`landseg prepare` writes its lines)"


def _values(survey: Survey) -> Iterable[Problem]:
    explained = survey.lossy | survey.from_one
    wrong = [(tile, label) for tile, label in survey.labelled if label.illegal and tile.name not in explained]
    if not wrong:
        return
    pixels: Counter[int | str] = Counter()
    for _, label in wrong:
        pixels.update(label.illegal)
    listed = some(f"{value} ({count:,} pixels)" for value, count in pixels.most_common(_LISTED + 1))
    names = tuple(tile.name for tile, _ in wrong)
    if survey.encoding == "index":
        count = len(survey.classes)
        yield Problem(
            "illegal_labels", "error", "Label values that no class has", names,
            f"{so_many(len(names), 'label', 'hold')} values beyond 0..{count - 1} and the unlabelled one: {listed}.",
            f"if the ids count from 1, {_CODES}; if a class has no name, add it to --classes"
            if survey.remedy.doubt == "from_one"
            else _or_mend(survey, "name the missing classes with --classes, or settle the values with `remap` in dataset.yaml"),
        )  # fmt: skip
    else:
        yield Problem(
            "unknown_colours", "warning", "Label colours that no class has", names,
            f"{so_many(len(names), 'label', 'hold')} colours that the classes do not list; they count as unlabelled: {listed}.",
            _or_mend(survey, "add the classes with their colours to the class file, or their colours to its ignore_colours"),
        )  # fmt: skip


def _lossy(survey: Survey) -> Iterable[Problem]:
    severity: Severity = "note" if survey.is_brought_back else "error"
    jpeg = tuple(tile.name for tile, _ in survey.labelled if tile.label_container == "JPEG")
    if jpeg:
        yield Problem(
            "jpeg_labels", severity, "Labels saved as JPEG", jpeg,
            f"{so_many(len(jpeg), 'label', 'are')} saved as JPEG, which changes {'class ids' if severity == 'error' else 'values'} along "
            "every border.", _brought_back(survey, "export them again as PNG"),
        )  # fmt: skip
    blended = [(tile.name, label) for tile, label in survey.labelled if tile.name in survey.lossy and tile.label_container != "JPEG"]
    if blended:
        levels = max(len(label.illegal) + len(label.pixels) for _, label in blended)
        names = tuple(name for name, _ in blended)
        yield Problem(
            "interpolated_labels", severity, "Labels that seem interpolated", names,
            f"{so_many(len(names), 'label', 'have')} values between the classes along their borders, up to {levels:,} grey levels "
            "in a file: resized with interpolation, or once saved with loss.",
            _brought_back(survey, "resize the originals with nearest neighbour"),
        )  # fmt: skip


def _painted(survey: Survey) -> Iterable[Problem]:
    found = [tile for tile in survey.tiles if tile.colours]
    if found:
        colours: Counter[str] = Counter()
        for tile in found:
            colours.update(tile.colours)
        listed = ", ".join(colour for colour, _ in colours.most_common(8))
        names = tuple(tile.name for tile in found)
        yield Problem(
            "painted_labels", "error", "Labels painted in colours", names,
            f"{so_many(len(names), 'label', 'hold')} colours where class ids are expected: {listed}{' …' if len(colours) > 8 else ''}.",
            "give each class its colour in a file for --classes",
        )  # fmt: skip


def _unlabelled(survey: Survey) -> Iterable[Problem]:
    names = tuple(tile.name for tile, label in survey.labelled if not label.labelled and not label.illegal)
    if names and len(names) == len(survey.labelled):
        yield Problem(
            "nothing_labelled", "error", "Nothing is labelled", names,
            f"All {len(names):,} labels are {IGNORE_INDEX}, unlabelled, throughout.",
            "check that these are the labels, and the ignore_index in dataset.yaml",
        )  # fmt: skip
    elif names:
        yield Problem(
            "unlabelled", "note", "Tiles without a labelled pixel", names,
            f"{so_many(len(names), 'tile', 'are')} unlabelled throughout.", "nothing needs doing: they neither train nor score",
        )  # fmt: skip


def _under_nodata(survey: Survey) -> Iterable[Problem]:
    pixels: Counter[str] = Counter()
    names = []
    for tile, label in survey.labelled:
        if sum(label.nodata.values()) >= NODATA_PIXELS:
            names.append(tile.name)
            pixels.update(label.nodata)
    if names:
        listed = ", ".join(f"{count:,} under {kind}" for kind, count in pixels.most_common())
        yield Problem(
            "labels_under_nodata", "warning", "Labels where the image shows nothing", tuple(names),
            f"In {plural(len(names), 'tile')} pixels have a class where the image is flat and saturated or missing: {listed}.",
            f"set these pixels to {IGNORE_INDEX}: the network would learn classes of nothing",
        )  # fmt: skip


def _palettes(survey: Survey) -> Iterable[Problem]:
    if survey.encoding != "index" or survey.mend.palettes == "ignore":
        return
    votes: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for _, label in survey.labelled:
        for code, colour in label.palette.items():
            votes[code][colour] += 1
    usual = {code: max(sorted(count), key=lambda colour: count[colour]) for code, count in votes.items()}
    odd = {}
    for tile, label in survey.labelled:
        apart = [(code, colour) for code, colour in label.palette.items() if colour != usual[code] and code != IGNORE_INDEX]
        if apart:
            odd[tile.name] = f"in {tile.name} index {apart[0][0]} is {apart[0][1]}, elsewhere {usual[apart[0][0]]}"
    if odd:
        yield Problem(
            "palettes_differ", "error", "Palettes that differ", tuple(odd),
            f"{so_many(len(odd), 'palette label', 'paint')} an index in another colour than most: {some(odd.values(), 2)}.",
            "where the colours are right, give each class its colour in a file for --classes, and `label_encoding: palette` or --mend",
        )  # fmt: skip


def _from_one(survey: Survey) -> Iterable[Problem]:
    names = tuple(sorted(survey.from_one))
    if names:
        count = len(survey.classes) or max(code for _, label in survey.labelled for code in label.pixels if code != IGNORE_INDEX)
        zero = "0: 255, " if any(0 in label.pixels for _, label in survey.labelled) else ""
        remap = zero + ", ".join(f"{code}: {code - 1}" for code in range(1, min(count, 4) + 1)) + (", …" if count > 4 else "")
        do = f"state `remap: {{{remap}}}` in dataset.yaml" if survey.is_from_one else "write these files again, counting from 0"
        do = _CODES if survey.remedy.doubt == "from_one" and survey.is_from_one else do
        yield Problem(
            "off_by_one_ids", "error" if survey.classes else "warning", "Class ids that seem to count from 1", names,
            f"{so_many(len(names), 'label', 'hold')} ids from 1 to {count}, and no 0 beside them.",
            _or_mend(survey, f"if so, {do}") + "; if a class has no name, add it to --classes",
        )  # fmt: skip


def _absent(survey: Survey) -> Iterable[Problem]:
    present = {value for _, label in survey.labelled for value in label.pixels}
    absent = [item.name for item in survey.classes if item.id not in present]
    if not absent or not survey.labelled or len(absent) == len(survey.classes):
        return
    if len(survey.classes) == 2 and absent == [survey.classes[1].name] and IGNORE_INDEX in present:
        yield Problem(
            "saved_as_0_and_255", "error", "A second class saved as 255",
            tuple(tile.name for tile, label in survey.labelled if IGNORE_INDEX in label.pixels),
            f"Labels hold 0 and {IGNORE_INDEX} alone: {IGNORE_INDEX} means unlabelled, so {absent[0]} never occurs.",
            f"if 255 is the class, {_CODES}; if it is unlabelled, write `ignore_index: 255` there"
            if survey.remedy.doubt
            else _or_mend(survey, "if 255 is the class, write it as 1"),
        )  # fmt: skip
    else:
        yield Problem(
            "absent_classes", "note", "Classes that never occur", (), f"No label holds {', '.join(absent)}.",
            "check the list of classes; what does not occur is not learnt",
        )  # fmt: skip


def _inverted(survey: Survey) -> Iterable[Problem]:
    tiles = [(tile, label) for tile, label in survey.labelled if label.two is not None and label.labelled]
    if tiles and len(survey.classes) == 2 and is_inverted_throughout([label for _, label in tiles], survey.classes[0].name):
        yield Problem(
            "inverted_labels", "warning", "Labels that seem inverted", tuple(tile.name for tile, _ in tiles),
            f"{survey.classes[0].name} lies in islands within {survey.classes[1].name}, in most tiles: the two seem exchanged throughout.",
            "if so, state `remap: {0: 1, 1: 0}` in dataset.yaml",
        )  # fmt: skip
        return
    names = inverted_tiles(tiles)
    if names:
        yield Problem(
            "inverted_labels", "warning", "Labels that seem inverted", names,
            f"In {plural(len(names), 'tile')} the two classes have each other's colours or share of the ground.",
            "look at them; where it is so, exchange 0 and 1 in these files",
        )  # fmt: skip


def _or_mend(survey: Survey, do: str) -> str:
    """What to do about label values, and what `prepare --mend` would do instead."""
    if not survey.classes:
        return f"{do}; with --classes the audit says what `landseg prepare --mend` would do"
    if survey.from_one and not survey.is_from_one:
        return do  # one rule for all would be wrong for some
    reasons = survey.remedy.reasons[bool(survey.remedy.mend.resize_within) :]  # that of sizes comes first, and says nothing of values
    return f"{do}, or let `landseg prepare --mend` do it: {'; '.join(reasons)}" if reasons else do


def _brought_back(survey: Survey, do: str) -> str:
    """What to do about labels that were saved with loss; a rule is told only where it brings the classes back."""
    if survey.is_brought_back:
        return "nothing needs doing: a rule of dataset.yaml takes each value for the class that it is near"
    return _or_mend(survey, do) if brings_back(survey.remedy.mend) or not survey.classes else do


RULES: tuple[Callable[[Survey], Iterable[Problem]], ...] = (
    _values, _lossy, _painted, _unlabelled, _under_nodata, _palettes, _from_one, _absent, _inverted,
)  # fmt: skip
"""The rules, in no order."""
