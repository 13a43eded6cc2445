"""Labels as people have them: every form of a label file gives the same ids, and what no rule settles is counted, never guessed."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from landseg.core.classes import IGNORE_INDEX, make_classes
from landseg.core.errors import LandsegError
from landseg.data.colours import hex_colour, nearest_colours, pack_colour, pack_colours, tally
from landseg.data.labels import OTHERS, LabelPixels, LabelRules, Mend, illegal_labels, label_rules, read_label
from landseg.data.tiles import UnreadableTile, encode_label

RNG = np.random.default_rng(8)
CLASSES = make_classes(["building", "road", "water", "field"], ["#3c1098", "#8429f6", "#6ec1e4", "#fedd3a"])
COLOURS = np.array([item.rgb for item in CLASSES], np.uint8)
IDS: np.ndarray = RNG.integers(0, 4, (17, 23), np.uint8)
IDS[2, :5] = IGNORE_INDEX


def png(picture: np.ndarray) -> bytes:
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".png", picture)[1])


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tiff(picture: np.ndarray) -> bytes:
    from rasterio.io import MemoryFile

    bands = picture[:, :, None] if picture.ndim == 2 else picture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff", height=bands.shape[0], width=bands.shape[1], count=bands.shape[2], dtype=bands.dtype
            ) as target:
                target.write(bands.transpose(2, 0, 1))
            return bytes(memory.read())


def palette_png(indices: np.ndarray, colours: list[tuple[int, int, int]], **options: object) -> bytes:
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([band for colour in colours for band in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def painted(unlabelled: tuple[int, int, int] = (155, 155, 155)) -> np.ndarray:
    table = np.concatenate([COLOURS, np.broadcast_to(np.array(unlabelled, np.uint8), (252, 3))])
    return table[IDS]


def with_alpha(picture: np.ndarray) -> np.ndarray:
    return np.dstack([picture, np.where(IDS == IGNORE_INDEX, 0, 255).astype(np.uint8)])


def holds(label: LabelPixels, ids: np.ndarray) -> None:
    """The ids, and pixel counts that agree with them: each pixel is one of legal, unlabelled, illegal."""
    np.testing.assert_array_equal(label.ids, ids)
    assert label.ids.dtype == np.uint8
    counts = np.bincount(ids.ravel(), minlength=256)
    counts[IGNORE_INDEX] -= sum(label.illegal.values())
    np.testing.assert_array_equal(label.pixels, counts)


INDEX = {
    "uint8": png(IDS),
    "uint16": png(IDS.astype(np.uint16)),
    "int64": npy(IDS.astype(np.int64)),
    "float32": npy(IDS.astype(np.float32)),
    "float32 nan": npy(np.where(IDS == IGNORE_INDEX, np.nan, IDS).astype(np.float32)),
    "tiff int16": tiff(IDS.astype(np.int16)),
    "grey rgb": png(np.dstack([IDS] * 3)),
    "grey rgba": png(with_alpha(np.dstack([np.where(IDS == IGNORE_INDEX, 77, IDS).astype(np.uint8)] * 3))),
    "palette": encode_label(IDS, CLASSES),
}


@pytest.mark.parametrize("form", INDEX)
def test_index_labels_of_every_form(form: str) -> None:
    label = read_label(INDEX[form], label_rules(CLASSES))
    holds(label, IDS)
    assert not label.illegal and not label.mended


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float32", "float64"])
def test_a_negative_ignore_index(dtype: str) -> None:
    codes = np.where(IDS == IGNORE_INDEX, -1, IDS.astype(np.int16)).astype(dtype)
    holds(read_label(npy(codes), label_rules(CLASSES, ignore_index=-1)), IDS)
    label = read_label(npy(codes), label_rules(CLASSES))
    holds(label, IDS)
    assert label.illegal == {-1: 5}


def test_ids_from_one_and_codes_far_apart_through_a_remap() -> None:
    shifted = np.where(IDS == IGNORE_INDEX, 0, IDS + 1).astype(np.uint8)
    remap = {0: IGNORE_INDEX, 1: 0, 2: 1, 3: 2, 4: 3}
    holds(read_label(png(shifted), label_rules(CLASSES, remap=remap)), IDS)
    wide = np.where(IDS == IGNORE_INDEX, 9, 1000 + 100 * IDS.astype(np.uint16)).astype(np.uint16)
    holds(read_label(png(wide), label_rules(CLASSES, ignore_index=9, remap={1000 + 100 * i: i for i in range(4)})), IDS)


COLOUR = {
    "png": png(painted()),
    "tiff": tiff(painted()),
    "png alpha": png(with_alpha(painted((1, 2, 3)))),
    "npy": npy(painted()),
    "png 16 bit": png(painted().astype(np.uint16) * 257),
    "palette png, indices in another order": palette_png(
        np.where(IDS == IGNORE_INDEX, 7, 3 - IDS).astype(np.uint8), [*map(tuple, COLOURS[::-1].tolist()), *[(155, 155, 155)] * 4]
    ),
}


@pytest.mark.parametrize("encoding", ["rgb", "palette"])
@pytest.mark.parametrize("form", COLOUR)
def test_labels_in_colours_of_every_form(form: str, encoding: str) -> None:
    rules = label_rules(CLASSES, encoding=encoding)  # type: ignore[arg-type]
    label = read_label(COLOUR[form], rules)
    holds(label, IDS)
    assert label.illegal == ({} if form == "png alpha" else {"#9b9b9b": 5}) and not rules.refuses_illegal
    stated = label_rules(CLASSES, encoding=encoding, ignore_colours=[(155, 155, 155)])  # type: ignore[arg-type]
    label = read_label(COLOUR[form], stated)
    holds(label, IDS)
    assert not label.illegal


def test_a_palettes_transparent_colour_is_unlabelled_where_colours_are_the_code() -> None:
    indices = np.where(IDS == IGNORE_INDEX, 4, IDS).astype(np.uint8)
    data = palette_png(indices, [*map(tuple, COLOURS.tolist()), (0, 0, 0)], transparency=4)
    label = read_label(data, label_rules(CLASSES, encoding="palette"))
    holds(label, IDS)
    assert not label.illegal


def test_indices_are_read_whatever_the_palette_says() -> None:
    assert read_label(palette_png(np.full((3, 3), 2, np.uint8), [(9, 9, 9)] * 3), label_rules(CLASSES)).pixels[2] == 9


def test_grey_colours_are_colours_too() -> None:
    black_white = make_classes(["land", "water"], ["#000000", "#ffffff"])
    ids: np.ndarray = RNG.integers(0, 2, (9, 9), np.uint8)
    holds(read_label(png(ids * 255), label_rules(black_white, encoding="rgb")), ids)


@settings(max_examples=60, deadline=None)
@given(
    colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=6, unique=True),
    others=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20, unique=True),
    within=st.integers(0, 60),
    seed=st.integers(0, 99),
)
def test_near_colours_against_the_plain_reckoning(
    colours: list[tuple[int, int, int]], others: list[tuple[int, int, int]], within: int, seed: int
) -> None:
    classes = make_classes([str(i) for i in range(len(colours))], [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours])
    rng = np.random.default_rng(seed)
    picture = np.array([*colours, *others], np.uint8)[rng.integers(0, len(colours) + len(others), (8, 9))]
    rules = label_rules(classes, encoding="rgb", mend=Mend(colours_within=within))
    expected: np.ndarray = np.full((8, 9), IGNORE_INDEX, np.uint8)
    for row in range(8):
        for col in range(9):
            far = [max(abs(int(a) - int(b)) for a, b in zip(picture[row, col], colour, strict=True)) for colour in colours]
            if min(far) <= within:
                expected[row, col] = far.index(min(far))
    is_known = (picture[:, :, None, :] == np.array(colours, np.uint8)).all(-1).any(-1)
    for _ in range(2):  # the second time from what was worked out
        label = read_label(png(picture), rules)
        holds(label, expected)
        assert sum(label.illegal.values()) == int((expected == IGNORE_INDEX).sum())
        assert label.mended.get("colours_within", 0) == int(((expected != IGNORE_INDEX) & ~is_known).sum())


def test_colours_near_one_that_means_unlabelled_are_unlabelled() -> None:
    rules = label_rules(CLASSES, encoding="rgb", ignore_colours=[(250, 250, 250)], mend=Mend(colours_within=6))
    label = read_label(png(np.full((2, 3, 3), 255, np.uint8)), rules)
    assert not label.illegal and label.mended == {"colours_within": 6} and label.pixels[IGNORE_INDEX] == 6


def test_labels_saved_as_jpeg_in_colours_come_back() -> None:
    ids = cv2.resize(RNG.integers(0, 4, (4, 4), np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST)
    data = bytes(cv2.imencode(".jpg", COLOURS[ids][:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
    label = read_label(data, label_rules(CLASSES, encoding="rgb", mend=Mend(colours_within=32)))
    assert (label.ids == ids).mean() > 0.9 and label.mended["colours_within"] > 0


def test_values_near_a_code() -> None:
    codes = np.array([[0, 3, 97, 100, 104, 150, 255, 250]], np.uint8)
    rules = label_rules(CLASSES, remap={0: 0, 100: 1}, mend=Mend(values_within=4))
    label = read_label(png(codes), rules)
    holds(label, np.array([[0, 0, 1, 1, 1, 255, 255, 255]], np.uint8))
    assert label.illegal == {150: 1, 250: 1} and label.mended == {"values_within": 3}
    both = rules.mend.model_copy(update={"illegal": "ignore"})
    label = read_label(png(codes), label_rules(CLASSES, remap={0: 0, 100: 1}, mend=both))
    assert not label.illegal and label.mended == {"values_within": 3, "illegal": 2}


@settings(max_examples=40, deadline=None)
@given(within=st.integers(1, 300), codes=st.sets(st.integers(0, 400), min_size=1, max_size=5), value=st.integers(0, 700))
def test_the_nearest_code_is_taken(within: int, codes: set[int], value: int) -> None:
    ordered = sorted(codes)
    rules = label_rules(CLASSES * 2, ignore_index=600, remap={code: i for i, code in enumerate(ordered)}, mend=Mend(values_within=within))
    legal = [*ordered, 600]
    distance, nearest = min((abs(value - code), code) for code in legal)
    expected = -1 if distance > within else IGNORE_INDEX if nearest == 600 else ordered.index(nearest)
    assert rules.mended_table[value] == expected


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_mask_in_greys_is_cut(dtype: str) -> None:
    greys = np.array([[0, 1, 99, 100, 200, 255]])
    label = read_label(npy(greys.astype(dtype)), label_rules(CLASSES[:2], mend=Mend(threshold=100)))
    holds(label, np.array([[0, 0, 0, 1, 1, 1]], np.uint8))
    assert label.mended == {"threshold": 5} and not label.illegal


def test_a_threshold_puts_negative_values_below() -> None:
    holds(
        read_label(npy(np.array([[-9999, 0, 500]], np.int16)), label_rules(CLASSES[:2], mend=Mend(threshold=100))),
        np.array([[0, 0, 1]], np.uint8),
    )


def test_a_threshold_needs_two_classes() -> None:
    with pytest.raises(LandsegError, match="two, below and above"):
        label_rules(CLASSES[:1], mend=Mend(threshold=1))


def test_a_label_a_pixel_off_is_resized_and_no_other() -> None:
    ids: np.ndarray = RNG.integers(0, 4, (8, 9), np.uint8)
    rules = label_rules(CLASSES, mend=Mend(resize_within=1))
    label = read_label(png(ids), rules, (9, 8))
    assert label.ids.shape == (9, 8) and label.mended == {"resize_within": 72} and label.pixels.sum() == 72
    assert set(np.unique(label.ids)) <= set(np.unique(ids))
    for size in ((8, 9), (8, 11), (16, 18)):
        label = read_label(png(ids), rules, size)
        np.testing.assert_array_equal(label.ids, ids)
        assert not label.mended
    assert read_label(png(COLOURS[ids]), label_rules(CLASSES, encoding="rgb", mend=Mend(resize_within=1)), (9, 9)).ids.shape == (9, 9)


def test_resizing_keeps_what_is_equal() -> None:
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8)
    rules = label_rules(make_classes([str(i) for i in range(64)]), mend=Mend(resize_within=1))
    resized = read_label(png(ids), rules, (7, 8)).ids
    rows = {int(row[0]) // 8 for row in resized}
    assert len(rows) == 7 and all((np.diff(row) == 1).all() for row in resized)


def test_nodata_of_a_float_is_counted_and_settled_on_request() -> None:
    codes = np.array([[0, 1, -3.4e38, np.nan]], np.float32)
    label = read_label(npy(codes), label_rules(CLASSES))
    holds(label, np.array([[0, 1, 255, 255]], np.uint8))
    assert list(label.illegal.values()) == [1] and "e+38" in str(next(iter(label.illegal)))
    label = read_label(npy(codes), label_rules(CLASSES, mend=Mend(illegal="ignore")))
    assert not label.illegal and label.mended == {"illegal": 1} and label.pixels[IGNORE_INDEX] == 2


@pytest.mark.parametrize(
    "codes", [np.full((3, 3), 0.5), np.zeros((3, 3, 2), np.uint8), painted(), npy(np.zeros(3))], ids=["half", "bands", "colours", "line"]
)
def test_what_holds_no_codes_is_unreadable(codes: np.ndarray | bytes) -> None:
    with pytest.raises(UnreadableTile):
        read_label(codes if isinstance(codes, bytes) else npy(codes), label_rules(CLASSES))


@pytest.mark.parametrize("picture", [np.zeros((3, 3, 2), np.uint8), np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 8), np.uint8)])
def test_what_holds_no_colours_is_unreadable(picture: np.ndarray) -> None:
    with pytest.raises(UnreadableTile, match="colours are"):
        read_label(npy(picture), label_rules(CLASSES, encoding="rgb"))


def test_a_photograph_taken_for_a_label_costs_little_memory() -> None:
    picture: np.ndarray = RNG.integers(0, 256, (80, 80, 3), np.uint8)
    label = read_label(png(picture), label_rules(CLASSES, encoding="rgb"))
    assert len(label.illegal) == 256 and label.illegal[OTHERS] > 5000
    assert sum(label.illegal.values()) == int((label.ids == IGNORE_INDEX).sum())


@settings(max_examples=50, deadline=None)
@given(
    codes=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int64, np.float32]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.integers(0, 100),
    ),
    mend=st.builds(
        Mend, values_within=st.integers(0, 40), threshold=st.none() | st.integers(1, 90), illegal=st.sampled_from(["refuse", "ignore"])
    ),
    ignore=st.integers(0, 255),
)
def test_every_pixel_is_counted_once(codes: np.ndarray, mend: Mend, ignore: int) -> None:
    label = read_label(npy(codes), label_rules(CLASSES, ignore_index=ignore, mend=mend))
    assert int(label.pixels.sum()) + sum(label.illegal.values()) == codes.size
    assert not (mend.illegal == "ignore" and label.illegal)
    assert set(np.unique(label.ids)) <= {0, 1, 2, 3, IGNORE_INDEX}


def test_the_common_label_is_not_copied() -> None:
    rules = label_rules(CLASSES)
    assert rules.mended_table is rules.table, "no rule, no work"


def test_colours_as_numbers_and_back() -> None:
    packed, transparent = pack_colours(np.array([[[1, 2, 3, 0], [255, 0, 128, 255]]], np.uint8))
    assert [hex_colour(int(value)) for value in packed[0]] == ["#010203", "#ff0080"] and transparent is not None
    assert transparent.tolist() == [[True, False]] and pack_colour((1, 2, 3)) == packed[0, 0]
    assert nearest_colours(packed[0], np.array([[0, 0, 0], [255, 0, 100]]), 28).tolist() == [0, 1]


@given(st.lists(st.integers(0, 40), max_size=80))
def test_tally_counts_as_a_sort_would(values: list[int]) -> None:
    assert tally(np.array(values, np.uint32)) == {value: values.count(value) for value in values}


def test_the_rules_are_those_stated() -> None:
    assert Mend().stated() == {} and Mend(threshold=3, illegal="ignore").stated() == {"threshold": 3, "illegal": "ignore"}
    assert isinstance(label_rules(CLASSES), LabelRules)


def test_illegal_labels_name_file_value_count_and_the_rest() -> None:
    error = illegal_labels({"b.png": {7: 12}, "c.png": {9: 1}}, 5, "data")
    assert all(part in str(error) for part in ("b.png", "7", "12", "1 more", "0..4", "255"))


@pytest.mark.parametrize("encoding", ["index", "rgb"])
@pytest.mark.parametrize("form", [*INDEX, *COLOUR])
def test_no_mutation_brings_another_exception(form: str, encoding: str) -> None:
    data = (INDEX | COLOUR)[form]
    rng = np.random.default_rng(len(data))
    rules = label_rules(CLASSES, encoding=encoding, mend=Mend(colours_within=9, values_within=3, resize_within=1))  # type: ignore[arg-type]
    mutations = [data[:cut] for cut in rng.integers(0, len(data), 8)]
    for _ in range(24):
        changed = bytearray(data)
        # Headers are where a change does harm: half of the changes go there.
        for at in (*rng.integers(0, min(len(data), 80), 2), *rng.integers(0, len(data), 2)):
            changed[at] = int(rng.integers(0, 256))
        mutations.append(bytes(changed))
    for mutated in mutations:
        try:
            label = read_label(mutated, rules, IDS.shape)  # type: ignore[arg-type]
        except UnreadableTile as error:
            assert str(error)
        else:
            assert int(label.pixels.sum()) + sum(label.illegal.values()) == label.ids.size


def test_threads_that_meet_colours_for_the_first_time_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = make_classes(["a", "b"], ["#ff0000", "#00ff00"])
    picture: np.ndarray = np.tile(np.array([[[255, 0, 0], [250, 9, 3], [0, 255, 0], [7, 250, 7]]], np.uint8), (8, 1, 1))
    data = bytes(cv2.imencode(".png", picture[:, :, ::-1])[1])
    rules = label_rules(classes, encoding="rgb", mend=Mend(colours_within=20))
    tables = []
    real = LabelRules.colour_table.fget
    assert real is not None

    def forgetful(self: LabelRules) -> np.ndarray:
        # As where a second thread has made the table anew between two looks at it.
        self.__dict__.pop("_colour_table", None)
        tables.append(real(self))
        return tables[-1]

    monkeypatch.setattr(LabelRules, "colour_table", property(forgetful))
    label = read_label(data, rules)
    assert label.ids[0].tolist() == [0, 0, 1, 1] and len(tables) == 1
