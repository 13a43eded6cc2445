"""Which rule mends: only where the numbers leave one reading."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.classes import IGNORE_INDEX, make_classes
from landseg.data.labels import LabelPixels, label_rules, read_label
from landseg.data.mending import GREY, NEVER, SLIP, LabelFacts, Remedy, choose
from landseg.data.tiles import encode_label


def facts_of(found: dict[int | str, int], count: int, ignore: int = 255) -> LabelFacts:
    """What a set holds whose labels have these codes."""
    facts = LabelFacts()
    pixels: np.ndarray = np.zeros(256, np.int64)
    illegal: dict[int | str, int] = {}
    for code, number in found.items():
        if isinstance(code, int) and (0 <= code < count or code == ignore):
            pixels[IGNORE_INDEX if code == ignore else code] += number
        else:
            illegal[code] = number
    facts.add(LabelPixels(np.zeros((4, 4), np.uint8), pixels, illegal, {}), (4, 4))
    return facts


def remedy(found: dict[int | str, int], count: int, **options: bool) -> Remedy:
    rules = label_rules(make_classes([str(i) for i in range(count)]))
    return choose(facts_of(found, count), rules, **options)


def greys(peaks: dict[int, int], spread: int) -> dict[int | str, int]:
    """Pixels around peaks, as JPEG leaves them."""
    found: dict[int | str, int] = {}
    for peak, pixels in peaks.items():
        for step in range(-spread, spread + 1):
            if 0 <= peak + step <= 255:
                found[peak + step] = found.get(peak + step, 0) + pixels // (1 + 3 * abs(step))
    return found


def test_nothing_wrong_nothing_chosen() -> None:
    for found in ({0: 5, 1: 5, 2: 5}, {0: 5, 255: 9}, {0: 1}, {1: 3, 2: 3}):
        assert not remedy(found, 3).is_needed
    assert not remedy({0: 7, 1: 7, 255: 3}, 2).is_needed


def test_ids_that_count_from_one() -> None:
    assert remedy({1: 5, 2: 5, 3: 5, 255: 5}, 3).remap == {1: 0, 2: 1, 3: 2}
    # With 0 there, 3 may be a class that nobody named; in few pixels without 0, a slip of the pen.
    doubtful: list[dict[int | str, int]] = [
        {0: 9, 1: 5, 2: 5, 3: 5},
        {0: 9, 1: 5, 2: 5, 3: 5, 255: 5},
        {1: 50_000, 2: 50_000, 3: 1},
        {1: 25_000, 2: 25_000, 3: 5},
        {0: 40_000, 1: 9_000, 3: 6},
    ]
    for found in doubtful:
        assert remedy(found, 3) == Remedy(doubt="from_one")


@settings(max_examples=300, deadline=None)
@given(
    legal=st.dictionaries(st.integers(0, 5) | st.just(255), st.integers(10**6, 10**9), min_size=1, max_size=7),
    strays=st.dictionaries(st.integers(-3, 300) | st.sampled_from(["nan", "others"]), st.integers(1, 100), max_size=20),
    count=st.integers(1, 6),
)
def test_a_few_strays_never_change_how_the_others_are_read(legal: dict[int | str, int], strays: dict[int | str, int], count: int) -> None:
    legal = {code: pixels for code, pixels in legal.items() if code == 255 or int(code) < count} or {0: 10**6}
    budget = sum(legal.values()) // 10_000
    strays = {code: pixels for code, pixels in strays.items() if code not in legal and not (isinstance(code, int) and 0 <= code < count)}
    while sum(strays.values()) > budget:
        strays.popitem()
    found = remedy(legal | strays, count)
    assert not found.remap and found.ignore_index is None and found.mend.threshold is None


def test_a_slip_of_the_pen_does_not_hide_it() -> None:
    found = remedy({1: 50_000, 2: 50_000, 3: 50_000, 77: 3}, 3)
    assert found.remap == {1: 0, 2: 1, 3: 2} and found.mend.illegal == "ignore" and "77" in found.reasons[-1]


def test_what_the_user_said_of_codes_is_not_read_otherwise() -> None:
    assert not remedy({1: 5, 2: 5, 3: 5}, 3, is_stated=True).remap


@pytest.mark.parametrize("high", [254, 128])
def test_a_mask_of_two_greys(high: int) -> None:
    assert remedy({0: 500, high: 300}, 2).mend.threshold == (high + 1) // 2


@pytest.mark.parametrize("strays", [{}, {77: 1}])
def test_0_and_255_are_a_mask_where_the_first_class_is_the_rest_and_else_a_question(strays: dict[int | str, int]) -> None:
    facts = facts_of({0: 50_000, 255: 30_000} | strays, 2)
    for name in ("background", "Other land", "背景", "其他 other", "non_building", "__background__"):
        assert choose(facts, label_rules(make_classes([name, "x"]))).mend.threshold == 128
    for name in ("building", "northern", "another"):
        assert choose(facts, label_rules(make_classes([name, "x"]))) == Remedy(doubt="mask")
    stated = choose(facts, label_rules(make_classes(["other", "x"])), is_stated=True)
    assert stated.mend.threshold is None and not stated.doubt
    assert remedy({0: 500, 2: 300}, 2).doubt == "from_one" and not remedy({0: 5, 2: 5, 5: 5}, 3).is_needed


def test_a_mask_of_many_greys() -> None:
    assert remedy(greys({0: 4000, 255: 3000}, 20), 2).mend.threshold == 128


def test_a_mask_saved_as_a_good_jpeg() -> None:
    assert remedy({0: 900, 1: 12, 254: 13, 255: 400}, 2).mend.threshold == 128
    # Ids with a slip of the pen at 254.
    assert remedy({0: 9000, 1: 200, 254: 3, 255: 800}, 2).mend.threshold is None


def test_a_broken_file_among_masks_of_0_and_1_is_no_mask_of_greys() -> None:
    noise: dict[int | str, int] = dict.fromkeys(range(256), 3)
    found = remedy(noise | {0: 50_000, 1: 40_000}, 2)
    assert found.mend.threshold is None and found.mend.illegal == "ignore"


def test_values_apart_are_the_classes_in_order() -> None:
    found = remedy({0: 9, 85: 9, 170: 9, 255: 9}, 4)
    assert found.remap == {0: 0, 85: 1, 170: 2, 255: 3} and found.ignore_index == NEVER
    found = remedy({0: 9, 60: 9, 120: 9, 255: 9}, 3)
    assert found.remap == {0: 0, 60: 1, 120: 2} and found.ignore_index is None


def test_greys_around_values_apart() -> None:
    found = remedy(greys({0: 4000, 60: 3000, 120: 2000, 255: 900}, 12), 3)
    assert found.remap == {0: 0, 60: 1, 120: 2} and found.mend.values_within == 29, "half way"
    stated = label_rules(make_classes(["a", "b", "c"]), remap={0: 0, 60: 1, 120: 2})
    facts = LabelFacts()
    pixels = {code: number for code, number in greys({0: 4000, 60: 3000, 120: 2000}, 12).items() if code not in (0, 60, 120)}
    facts.add(LabelPixels(np.zeros((4, 4), np.uint8), np.bincount([0, 1, 2, 2], minlength=256), pixels, {}), (4, 4))
    assert choose(facts, stated, is_stated=True).mend.values_within == GREY


def near_codes(found: dict[int | str, int], codes: tuple[int, ...] = (0, 100, 200)) -> Remedy:
    rules = label_rules(make_classes([str(code) for code in codes]), remap={code: i for i, code in enumerate(codes)})
    facts = LabelFacts()
    facts.add(LabelPixels(np.zeros((4, 4), np.uint8), np.bincount([0, 1, 2] * 40_000, minlength=256), found, {}), (4, 4))
    return choose(facts, rules, is_stated=True)


def test_a_flat_value_between_the_codes_is_a_class_without_a_name() -> None:
    noise: dict[int | str, int] = {100 + step: 900 // abs(step) for step in range(-12, 13) if step}
    assert near_codes(noise).mend.values_within == GREY
    assert near_codes({**noise, 101: 40_000}).mend.values_within == GREY, "rounding"
    for flat in (105, 112, 120, 150):
        assert not near_codes({**noise, flat: 20_000}).mend.values_within
    assert not near_codes({120: 20_000}).is_needed and not near_codes({104: 20_000}).is_needed
    # The spacing is that of the classes, not of 255; and one class has none.
    assert near_codes({240 + step: 90 for step in range(-9, 10) if step}, (0, 120, 240)).mend.values_within == GREY
    assert not near_codes(dict.fromkeys(range(1, 30), 90), (100,)).mend.values_within


def test_a_negative_value_is_unlabelled() -> None:
    assert remedy({-1: 5, 0: 5, 1: 5, 2: 5}, 3).ignore_index == -1
    assert remedy({-1: 5, 0: 5, 255: 5}, 3).ignore_index is None


def test_few_strange_pixels_are_unlabelled_many_are_a_class_without_a_name() -> None:
    assert remedy({0: 900, 1: 90, 9: 10}, 3).mend.illegal == "ignore"
    assert not remedy({0: 900, 1: 90, 9: 11}, 3).is_needed and not remedy({0: 400, 1: 430, 9: 170}, 3).is_needed
    found = remedy({0: 900, 1: 90, 3: 900}, 2)
    assert found.mend.illegal == "refuse" and not found.is_needed


@settings(max_examples=100, deadline=None)
@given(
    found=st.dictionaries(st.integers(-3, 300) | st.sampled_from(["nan", "1e+38", "others"]), st.integers(1, 10**6), max_size=40),
    count=st.integers(1, 9),
)
def test_the_rules_chosen_are_rules_that_can_be_written(found: dict[int | str, int], count: int) -> None:
    classes = make_classes([str(i) for i in range(count)])
    chosen = choose(facts_of(found, count), label_rules(classes))
    ignore = IGNORE_INDEX if chosen.ignore_index is None else chosen.ignore_index
    rules = label_rules(classes, remap=chosen.remap, ignore_index=ignore, mend=chosen.mend)
    assert chosen.is_needed or rules.mend.stated() == {}
    assert sorted(set(chosen.remap.values()) - {IGNORE_INDEX}) in ([], list(range(count)))
    read_label(encode_label(np.zeros((2, 2), np.uint8)), rules)


def test_labels_a_pixel_off() -> None:
    facts = facts_of({0: 5, 1: 5}, 2)
    label = read_label(encode_label(np.zeros((5, 4), np.uint8)), label_rules(make_classes(["a", "b"])))
    facts.add(label, (4, 4))
    assert facts.sizes == {(1, 0): 1}
    assert choose(facts, label_rules(make_classes(["a", "b"]))).mend.resize_within == 1
    far = LabelFacts()
    far.add(label, (9, 4))
    assert not choose(far, label_rules(make_classes(["a", "b"]))).is_needed


def test_near_colours_and_no_further_than_half_way_to_another_class() -> None:
    def chosen(colours: list[str], found: dict[int | str, int]) -> int:
        classes = make_classes([str(i) for i in range(len(colours))], colours)
        facts = LabelFacts()
        facts.add(LabelPixels(np.zeros((2, 2), np.uint8), np.bincount([0] * 10_000, minlength=256), found, {}), (2, 2))
        return choose(facts, label_rules(classes, encoding="rgb")).mend.colours_within

    soft: dict[int | str, int] = {f"#{250 - i:02x}07{i:02x}": 9 for i in range(20)}
    assert chosen(["#ff0000", "#0000ff"], soft) == 32
    assert chosen(["#ff0000", "#ff0014"], {f"#{255 - i // 8:02x}00{i % 8:02x}": 9 for i in range(1, 32)}) == 9
    assert chosen(["#ff0000", "#0000ff"], {"#fd0103": 9}) == SLIP, "rounding"
    assert chosen(["#ff0000", "#0000ff"], {"#f80703": 9}) == 0
    # A frequent colour is a class without a name: what is nearer to it is not the others'.
    assert chosen(["#ff0000", "#0000ff"], {**soft, "#eb1414": 9000}) == 0
    assert chosen(["#ff0000", "#0000ff"], {"#eb1414": 9000}) == 0
    assert chosen(["#ff0000", "#0000ff"], {"#ffffff": 9, "others": 5}) == 0
    assert chosen(["#ff0000", "#ff0001"], {"#ff0002": 9}) == 0


def test_palettes_that_differ_are_noticed_where_both_use_the_index() -> None:
    facts = LabelFacts()
    facts.add_palette({0: (1, 2, 3), 2: (0, 0, 0)}, "a.png")
    facts.add_palette({1: (9, 9, 9)}, "b.png")
    assert facts.clash is None
    facts.add_palette({2: (0, 0, 1)}, "c.png")
    facts.add_palette({0: (7, 7, 7)}, "d.png")
    assert facts.clash == ("a.png", "c.png", 2)


def test_memory_stays_flat_whatever_the_labels_hold() -> None:
    facts = LabelFacts()
    for i in range(200):
        illegal: dict[int | str, int] = {f"#{i:02x}{k:04x}": 1 for k in range(256)}
        facts.add(LabelPixels(np.zeros((1, 1), np.uint8), np.zeros(256, np.int64), illegal, {}), (1, 1))
    assert len(facts.illegal) <= 20_300 and facts.total == 200 * 256
