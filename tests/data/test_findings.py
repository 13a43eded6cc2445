"""Each rule finds its fault from facts alone, and no other rule takes it for its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.data.copies import LENGTH
from landseg.data.findings import find_problems
from landseg.data.inspection import COLOURS, ImageFacts, LabelFacts, TileFacts, TwoClasses
from landseg.data.labels import Mend
from landseg.data.mending import Remedy
from landseg.data.survey import MOST_FILES, MOST_VALUES, CopyGroup, Survey, illegal_values

CLASSES = make_classes(["building", "land", "water"])
PAIR = make_classes(["background", "building"])


def tile(name: str, pixels: Mapping[int, int] | None = None, **changes: object) -> TileFacts:
    """A good tile of 100 × 100; `changes` go to its image, its label or itself, wherever a field has that name."""
    image = ImageFacts((100, 100), 3, "uint8", False, np.zeros(LENGTH, np.float32))
    label = LabelFacts((100, 100), "uint8", pixels or {0: 4000, 1: 4000, 2: 2000}, {}, "no", {}, {})
    facts = TileFacts(name, Path(f"{name}.jpg"), Path(f"{name}.png"), "JPEG", "PNG", image, "", label)
    for key, value in changes.items():
        part, _, field = key.partition("_")
        if part == "image" and field in ImageFacts.__slots__:
            image = replace(image, **{field: value})
        elif part == "label" and field in LabelFacts.__slots__:
            label = replace(label, **{field: value})
        else:
            facts = replace(facts, **{key: value})
            continue
        facts = replace(facts, image=image, label=label)
    return facts


GOOD = [tile(f"good{i}") for i in range(5)]


def found(*bad: TileFacts, **survey: object) -> dict[str, tuple[str, ...]]:
    every = Survey(**{"tiles": [*GOOD, *bad], "has_labels": True, "classes": CLASSES} | survey)  # type: ignore[arg-type]
    problems = find_problems(every)
    assert all(problem.what.endswith(".") and problem.do and problem.title for problem in problems)
    return {problem.kind: problem.tiles for problem in problems}


def test_a_good_set_has_no_problem() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("kind", "severity", "changes"),
    [
        ("unreadable_image", "error", {"image": None, "image_fault": "cut"}),
        ("unreadable_label", "error", {"label": None, "label_fault": "cut"}),
        ("painted_labels", "error", {"label": None, "label_fault": "3 bands", "colours": {"#ff0000": 9}}),
        ("missing_label", "warning", {"label": None, "label_path": None}),
        ("lying_ending", "warning", {"image_container": "PNG"}),
        ("lying_ending", "warning", {"label_container": "TIFF"}),
        ("label_size_off_by_one", "error", {"label_size": (99, 101)}),
        ("label_size", "error", {"label_size": (50, 50)}),
        ("band_kind", "error", {"image_bands": 1}),
        ("band_kind", "error", {"image_dtype": "uint16"}),
        ("flat_images", "warning", {"image_is_flat": True}),
        ("illegal_labels", "error", {"label_illegal": {77: 12}}),
        ("jpeg_labels", "error", {"label_container": "JPEG", "label_path": Path("b.jpg"), "label_illegal": {9: 5}}),
        ("interpolated_labels", "error", {"label_blended": "surely"}),
        ("interpolated_labels", "error", {"label_illegal": dict.fromkeys(range(30, 90), 20)}),
        ("unlabelled", "note", {"label_pixels": {255: 10000}}),
        ("flat_unlabelled", "note", {"image_is_flat": True, "label_pixels": {255: 10000}}),
        ("labels_under_nodata", "warning", {"label_nodata": {"white": 900}}),
        ("not_finite", "note", {"image_not_finite": 3}),
        ("off_by_one_ids", "error", {"label_pixels": {1: 5000, 2: 3000}, "label_illegal": {3: 2000}}),
    ],
)
def test_one_tile_has_one_problem(kind: str, severity: str, changes: dict[str, object]) -> None:
    bad = tile("bad", **changes)
    problems = find_problems(Survey([*GOOD, bad], True, classes=CLASSES))
    also = {"unlabelled"} if kind == "flat_unlabelled" else set()
    assert {problem.kind for problem in problems} - also == {kind}
    problem = next(problem for problem in problems if problem.kind == kind)
    assert (problem.tiles, problem.severity) == (("bad",), severity)
    assert problem.as_json()["count"] == 1


def test_a_band_of_two_values_is_transparency_where_most_images_have_it() -> None:
    four = [tile(f"t{i}", image_bands=4, image_has_alpha=i < 3) for i in range(4)]
    assert found(tiles=four) == {"alpha_band": ("t0", "t1", "t2")}
    assert found(tiles=[*four, *(tile(f"nir{i}", image_bands=4) for i in range(3))]) == {}, "a band with a flat tile or two"


def test_border_drawn_a_little_wide_and_mixed_sizes_are_harmless() -> None:
    assert found(tile("bad", label_nodata={"black": 5})) == {}
    assert found(tile("bad", image_size=(50, 60), label_size=(50, 60))) == {"mixed_sizes": ("bad",)}


def test_large_areas_of_illegal_values_are_classes_without_a_name() -> None:
    many = dict.fromkeys(range(30, 50), 300)
    assert found(tile("bad", {0: 4000}, label_illegal=many)) == {"illegal_labels": ("bad",)}


def test_doubt_about_interpolation_is_settled_by_other_tiles() -> None:
    perhaps, surely = tile("perhaps", label_blended="perhaps"), tile("surely", label_blended="surely")
    assert found(perhaps) == {}
    assert found(perhaps, surely) == {"interpolated_labels": ("perhaps", "surely")}


def test_a_rule_is_told_only_where_it_brings_the_classes_back() -> None:
    jpeg = tile("bad", label_container="JPEG", label_path=Path("b.jpg"), label_illegal={9: 5})
    ignored = Remedy(Mend(illegal="ignore"), reasons=("the value 9 is unlabelled",))
    cut = Remedy(Mend(threshold=128), reasons=("a mask in greys",))
    for remedy, is_told in ((ignored, False), (cut, True)):
        (problem,) = find_problems(Survey([*GOOD, jpeg], True, classes=CLASSES, remedy=remedy))
        assert (problem.kind, problem.severity, "--mend" in problem.do) == ("jpeg_labels", "error", is_told)
    (settled,) = find_problems(Survey([*GOOD, jpeg], True, classes=CLASSES, mend=Mend(values_within=3)))
    assert settled.severity == "note" and "nothing needs doing" in settled.do


def test_orphan_labels_and_passed_over_files_are_named() -> None:
    problems = found(label_orphans=("lost",), passed_over=("x: labels without images",))
    assert problems == {"missing_image": ("lost",), "passed_over": ()}
    assert found(tile("bad", label=None, label_path=None), has_labels=False) == {}


def test_ids_from_one_throughout_are_not_single_illegal_values() -> None:
    shifted = [tile(f"t{i}", {1: 5000, 2: 3000}, label_illegal={3: 2000}) for i in range(4)]
    several = [*shifted, tile("without the last", {1: 9000, 2: 1000})]
    survey = Survey(several, True, classes=CLASSES)
    problems = find_problems(survey)
    assert [problem.kind for problem in problems] == ["off_by_one_ids", "absent_classes"]
    assert len(problems[0].tiles) == 5 and "remap: {1: 0, 2: 1, 3: 2}" in problems[0].do
    unnamed = [replace(item, label=replace(item.label, pixels={1: 5000, 2: 5000}, illegal={})) for item in several if item.label]
    assert [problem.kind for problem in find_problems(Survey(unnamed, True))] == ["off_by_one_ids"]


def test_ids_from_one_where_0_is_unlabelled() -> None:
    shifted = [tile(f"t{i}", {1: 5000, 2: 3000}, label_illegal={3: 2000}) for i in range(4)]
    blank = tile("blank", {0: 10000})
    assert found(tiles=[*shifted, blank]) == {"off_by_one_ids": ("blank", "t0", "t1", "t2", "t3")}
    both = tile("both", {0: 5000, 1: 3000}, label_illegal={3: 2000})
    assert found(tiles=[*shifted, both]) == {"illegal_labels": ("t0", "t1", "t2", "t3", "both")}, "or 3 is a class without a name"
    assert found(*shifted) == {"off_by_one_ids": ("t0", "t1", "t2", "t3")}, "beside tiles that count from 0"


def test_palettes_differ_when_an_index_that_occurs_has_two_colours() -> None:
    usual = [replace(item, label=replace(item.label, palette={0: "#ff0000", 1: "#00ff00"})) for item in GOOD if item.label]
    more = tile("more", label_palette={1: "#00ff00", 2: "#0000ff"})
    odd = tile("odd", label_palette={0: "#00ff00", 1: "#ff0000"})
    assert found(tiles=[*usual, more]) == {}
    assert found(tiles=[*usual, more, odd]) == {"palettes_differ": ("odd",)}
    assert found(tiles=[*usual, more, odd], encoding="palette") == {}


def test_unknown_colours_are_suspicious_where_colours_are_the_code() -> None:
    bad = tile("bad", label_illegal={"#123456": 9})
    problems = find_problems(Survey([*GOOD, bad], True, classes=CLASSES, encoding="rgb"))
    assert [(problem.kind, problem.severity) for problem in problems] == [("unknown_colours", "warning")]


def test_copies_and_what_their_labels_say() -> None:
    same = CopyGroup(("good0", "good1"), ("same", "same"), True, False)
    other = CopyGroup(("good2", "good3"), ("same", "flipped left-right"), False, True)
    problems = {problem.kind: problem for problem in find_problems(Survey(GOOD, True, classes=CLASSES, copies=(same, other)))}
    assert problems["duplicates"].sets == (same.tiles, other.tiles)
    assert "1 flipped or turned, 1 re-encoded" in problems["duplicates"].what
    assert problems["duplicate_labels_differ"].tiles == ("good2", "good3")
    assert other.as_json() == {
        "tiles": ["good2", "good3"], "turn": "flipped left-right", "turns": ["same", "flipped left-right"], "exact": False,
        "labels_differ": True,
    }  # fmt: skip


def test_nothing_labelled_and_absent_classes_and_a_class_saved_as_255() -> None:
    blank = [tile(f"t{i}", {255: 10000}) for i in range(3)]
    assert found(tiles=blank) == {"nothing_labelled": ("t0", "t1", "t2")}
    assert found(tiles=[tile("t", {0: 10000})]) == {"absent_classes": ()}
    assert found(tiles=[tile("t", {0: 9000, 255: 1000})], classes=PAIR) == {"saved_as_0_and_255": ("t",)}


def two(share: float, dark: bool = True, islands: tuple[int, int] = (1, 6)) -> dict[str, object]:
    """Label changes of a tile whose class 1 covers `share` and is dark, or bright."""
    rng = np.random.default_rng(int(share * 1000))
    low, high = rng.integers(0, 30, 4000), rng.integers(34, COLOURS, 4000)
    second = round(4000 * share)
    counts = [np.bincount(high[: 4000 - second], minlength=COLOURS), np.bincount(low[:second], minlength=COLOURS)]
    colours = np.asarray(counts if dark else [np.roll(part, 32) for part in counts], np.uint16)
    one = round(10000 * share)
    return {"pixels": {0: 10000 - one, 1: one}, "label_two": TwoClasses(colours, islands)}


def test_an_inverted_tile_has_the_other_colours_and_the_other_share() -> None:
    usual = [tile(f"t{i}", **two(0.05 + 0.01 * i)) for i in range(12)]  # type: ignore[arg-type]
    inverted = tile("inverted", **two(0.9, dark=False))  # type: ignore[arg-type]
    dense = tile("dense", **two(0.7))  # type: ignore[arg-type]
    empty, wrongly_full = tile("empty", **two(0.0)), tile("full", **two(1.0, dark=False))  # type: ignore[arg-type]
    assert found(tiles=usual, classes=PAIR) == {}
    assert found(tiles=[*usual, dense, empty], classes=PAIR) == {}
    assert found(tiles=[*usual, inverted, wrongly_full, dense], classes=PAIR) == {"inverted_labels": ("inverted", "full")}


def test_two_classes_exchanged_throughout() -> None:
    every = [tile(f"t{i}", **two(0.9, islands=(7, 1))) for i in range(9)]  # type: ignore[arg-type]
    assert set(found(tiles=every, classes=PAIR)) == {"inverted_labels"}
    assert found(tiles=every, classes=make_classes(["building", "land"])) == {}


def test_illegal_values_are_counted_with_their_files() -> None:
    bad = [tile("a", label_illegal={7: 10, 9: 1}), tile("b", label_illegal={7: 5})]
    assert illegal_values(Survey(bad, True, classes=CLASSES)) == [
        {"value": 7, "pixels": 15, "tiles": 2, "files": ["a.png", "b.png"]},
        {"value": 9, "pixels": 1, "tiles": 1, "files": ["a.png"]},
    ]


def test_long_lists_of_illegal_values_end_and_the_counts_do_not() -> None:
    bad = [tile(f"t{i}", label_illegal={7: 10, 1000 + i: 1}) for i in range(MOST_VALUES + 9)]
    found = illegal_values(Survey(bad, True, classes=CLASSES))
    assert len(found) == MOST_VALUES and len(found[0]["files"]) == MOST_FILES
    assert (found[0]["pixels"], found[0]["tiles"]) == (10 * len(bad), len(bad))


def test_errors_come_first() -> None:
    problems = find_problems(
        Survey([*GOOD, tile("n", {255: 1}), tile("e", label_illegal={9: 1}), tile("w", image_is_flat=True)], True, classes=CLASSES)
    )
    assert [problem.severity for problem in problems] == ["error", "warning", "note"]
