"""Facts of a data set → its problems: one small rule a problem, each without side effects. It reads no file.

A rule takes the `Survey` and gives the problems it found, or none. Those that look at labels' values stand in `label_findings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from landseg.core.classes import IGNORE_INDEX
from landseg.data import label_findings
from landseg.data.inspection import ENDINGS
from landseg.data.survey import RANKS, Problem, Survey, plural, reasons_of, size_of, so_many, some

_LISTED = 5


def find_problems(survey: Survey) -> tuple[Problem, ...]:
    """All problems of a data set: errors first, and among equals the one of most tiles."""
    found = [problem for rule in RULES for problem in rule(survey)]
    return tuple(sorted(found, key=lambda problem: (RANKS.index(problem.severity), -len(problem.tiles), problem.kind)))


def _unreadable(survey: Survey) -> Iterable[Problem]:
    images = [(tile.name, tile.image_fault) for tile in survey.tiles if tile.image_fault]
    labels = [(tile.name, tile.label_fault) for tile in survey.tiles if tile.label_fault and not tile.colours]
    for kind, found in (("image", images), ("label", labels)):
        if found:
            yield Problem(
                f"unreadable_{kind}", "error", f"Unreadable {kind}s", _names(found),
                f"{plural(len(found), 'file')} cannot be read: {reasons_of(found)}.",
                "get the files again; until then these tiles are left out",
            )  # fmt: skip


def _orphans(survey: Survey) -> Iterable[Problem]:
    if not survey.has_labels:
        return
    images = tuple(tile.name for tile in survey.tiles if tile.is_orphan)
    for kind, have, names in (("label", "image", images), ("image", "label", tuple(survey.label_orphans))):
        if names:
            yield Problem(
                f"missing_{kind}", "warning", f"{have.capitalize()}s without {kind}", names,
                f"{so_many(len(names), have, 'have')} no {kind} of the same name.",
                "add the missing files, or mend the names; until then they are not used",
            )  # fmt: skip


def _endings(survey: Survey) -> Iterable[Problem]:
    lying: dict[str, str] = {}
    for tile in survey.tiles:
        for path, container in ((tile.image_path, tile.image_container), (tile.label_path, tile.label_container)):
            if path is not None and container and path.suffix.lower() not in ENDINGS[container]:
                lying.setdefault(tile.name, f"{path.name} holds {container}")
    if lying:
        yield Problem(
            "lying_ending", "warning", "File endings that lie", tuple(lying),
            f"{plural(len(lying), 'file')} of another format than the name says: {some(lying.values())}.",
            "rename them; landseg goes by the content, other tools may not",
        )  # fmt: skip


def _sizes(survey: Survey) -> Iterable[Problem]:
    near: dict[str, str] = {}
    far: dict[str, str] = {}
    for tile, label in survey.labelled:
        if tile.image is None or label.size == tile.image.size:
            continue
        apart = max(abs(mine - theirs) for mine, theirs in zip(label.size, tile.image.size, strict=True))
        words = f"{tile.name} {size_of(label.size)} for an image of {size_of(tile.image.size)}"
        (near if apart == 1 else far)[tile.name] = words
    if near:
        yield Problem(
            "label_size_off_by_one", "error", "Labels a pixel too large or too small", tuple(near),
            f"{so_many(len(near), 'label', 'differ')} by one pixel from the image: {some(near.values())}.",
            "`landseg prepare --mend` resizes them (rule resize_within: 1), or export them again",
        )  # fmt: skip
    if far:
        yield Problem(
            "label_size", "error", "Labels of another size", tuple(far),
            f"{so_many(len(far), 'label', 'have')} another size than the image: {some(far.values())}.",
            "export these labels again, or take the tiles out; a label is not stretched over other ground",
        )  # fmt: skip


def _kinds(survey: Survey) -> Iterable[Problem]:
    kinds: Counter[tuple[int, str]] = Counter((tile.image.bands, tile.image.dtype) for tile in survey.tiles if tile.image)
    if len(kinds) > 1:
        usual = max(sorted(kinds), key=lambda kind: kinds[kind])
        other = [tile for tile in survey.tiles if tile.image and (tile.image.bands, tile.image.dtype) != usual]
        words = (f"{tile.name} has {plural(tile.image.bands, 'band')} of {tile.image.dtype}" for tile in other if tile.image)
        yield Problem(
            "band_kind", "error", "Images of another kind", tuple(tile.name for tile in other),
            f"{so_many(len(other), 'image', 'differ')} from the usual {plural(usual[0], 'band')} of {usual[1]}: {some(words)}.",
            "convert them to the kind of the others; until then they are left out",
        )  # fmt: skip
    sizes = Counter(tile.image.size for tile in survey.tiles if tile.image)
    if len(sizes) > 1:
        usual_size = max(sorted(sizes), key=lambda size: sizes[size])
        names = tuple(tile.name for tile in survey.tiles if tile.image and tile.image.size != usual_size)
        listed = ", ".join(f"{size_of(size)} ({count:,})" for size, count in sizes.most_common(_LISTED))
        more = " …" if len(sizes) > _LISTED else ""
        yield Problem(
            "mixed_sizes", "note", "Tiles of several sizes", names, f"The images have {len(sizes):,} sizes: {listed}{more}.",
            "nothing needs doing: tiles of mixed sizes train and predict together",
        )  # fmt: skip


def _alpha(survey: Survey) -> Iterable[Problem]:
    names = tuple(tile.name for tile in survey.tiles if tile.image and tile.image.has_alpha)
    if names and 2 * len(names) > sum(tile.image.bands in (2, 4) for tile in survey.tiles if tile.image):
        yield Problem(
            "alpha_band", "warning", "A last band that seems to be transparency", names,
            f"In {plural(len(names), 'image')} the last band holds 0 and its highest value alone, yet it would train as a measurement.",
            f"write the images without it, and {IGNORE_INDEX} into the labels where it is 0",
        )  # fmt: skip


def _flat(survey: Survey) -> Iterable[Problem]:
    used: list[str] = []
    unused: list[str] = []
    for tile in survey.tiles:
        if tile.image and tile.image.is_flat:
            (used if tile.label is None or tile.label.labelled else unused).append(tile.name)
    if used:
        yield Problem(
            "flat_images", "warning", "Images of one colour", tuple(used), f"{so_many(len(used), 'image', 'show')} one colour alone.",
            "take the tiles out, or set their labels to unlabelled",
        )  # fmt: skip
    if unused:
        yield Problem(
            "flat_unlabelled", "note", "Unlabelled images of one colour", tuple(unused),
            f"{so_many(len(unused), 'image', 'show')} one colour alone, and nothing in {'it' if len(unused) == 1 else 'them'} is "
            "labelled.", "nothing needs doing: they do not train",
        )  # fmt: skip


def _copies(survey: Survey) -> Iterable[Problem]:
    if survey.copies:
        groups = tuple(group.tiles for group in survey.copies)
        turned = sum(any(turn != "same" for turn in group.turns) for group in survey.copies)
        encoded = sum(not group.is_exact for group in survey.copies)
        kinds = [f"{turned:,} flipped or turned" if turned else "", f"{encoded:,} re-encoded" if encoded else ""]
        said = f" ({', '.join(kind for kind in kinds if kind)})" if turned or encoded else ""
        yield Problem(
            "duplicates", "warning", "Copies", tuple(name for group in groups for name in group),
            f"{so_many(len(groups), 'picture', 'are')} there more than once{said}, as {sum(map(len, groups)):,} tiles.",
            "take the copies out, or split with --by scene, which keeps copies in one part", groups,
        )  # fmt: skip
    differing = tuple(group.tiles for group in survey.copies if group.labels_differ)
    if differing:
        yield Problem(
            "duplicate_labels_differ", "warning", "Copies whose labels differ", tuple(name for group in differing for name in group),
            f"{so_many(len(differing), 'picture', 'are')} there several times with labels that contradict each other.",
            "keep the better label and take the other tile out", differing,
        )  # fmt: skip


def _not_finite(survey: Survey) -> Iterable[Problem]:
    names = tuple(tile.name for tile in survey.tiles if tile.image and tile.image.not_finite)
    if names:
        yield Problem(
            "not_finite", "note", "Images with NaN", names, f"{so_many(len(names), 'image', 'hold')} values that are no numbers.",
            "nothing needs doing where their labels are unlabelled there",
        )  # fmt: skip


def _passed_over(survey: Survey) -> Iterable[Problem]:
    if survey.passed_over:
        yield Problem(
            "passed_over", "note", "Files that are no part of the set", (),
            f"{plural(len(survey.passed_over), 'place')} passed over: {some(survey.passed_over)}.",
            "name images and labels to `landseg prepare` where this is wrong",
        )  # fmt: skip


def _names(found: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(name for name, _ in found)


RULES: tuple[Callable[[Survey], Iterable[Problem]], ...] = (
    _unreadable, _orphans, _endings, _sizes, _kinds, _alpha, _flat, _copies, _not_finite, _passed_over,
    *label_findings.RULES,
)  # fmt: skip
