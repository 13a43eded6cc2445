"""What is shown is what training sees, every class is among it, and the page keeps to itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.classes import IGNORE_INDEX, make_classes
from landseg.core.config import load_recipe
from landseg.core.settings import AugmentConfig, Recipe
from landseg.data.packing import Entry
from landseg.network.torch_engine import to_tensor
from landseg.training.augment import Bands, augment
from landseg.training.batches import Batches
from landseg.training.draws import tile_keys
from landseg.training.preview import EPOCHS, FEWEST, MOST, choose_tiles, draw_tiles, look_at_epoch, stretch
from landseg.training.preview_page import RGB, Epoch, PreviewPicture, Seen, Sight, at_work, write_preview_page
from landseg.training.sizing import sized

COLOURS = Bands((120.0,) * 3, (40.0,) * 3, (0.0,) * 3, (255.0,) * 3, is_rgb=True)
STILL = AugmentConfig(flips=False, quarter_turns=False, warp=0.0)
STRONG = [
    "train.crop=32", "train.size=48", "train.seed=5", "sample.repeat=4", "sample.rare=0.5", "augment.rotation_deg=40", "augment.noise=0.5",
    "augment.class_mix=0.5", "augment.cut_mix=0.5", "augment.cutout=0.5", "augment.hue_deg=30",
]  # fmt: skip


class Store:
    """Noise under labels of five classes, of which the last lies in one tile alone."""

    bands, dtype, is_mapped = 3, "uint8", True

    def __init__(self, count: int = 24) -> None:
        random = np.random.default_rng(0)
        shapes = [(40 + i % 3 * 8, 40 + i % 2 * 24) for i in range(count)]
        self.images = [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
        self.labels = [random.choice(np.array([0, 1, 2, 3, 255], np.uint8), shape) for shape in shapes]
        self.labels[7][3:9, 3:30] = 4
        self.labels[8][:] = IGNORE_INDEX
        self.entries = [entry(f"T{i}", np.bincount(label.ravel(), minlength=256)[:5], label.shape) for i, label in enumerate(self.labels)]

    def image(self, i: int) -> np.ndarray:
        return self.images[i]

    def label(self, i: int) -> np.ndarray:
        return self.labels[i]


def entry(name: str, pixels: np.ndarray, shape: tuple[int, ...] = (8, 8)) -> Entry:
    return Entry(name, 0, 0, shape[0], shape[1], "", "", tuple(int(count) for count in pixels))


def batches_of(store: Store, recipe: Recipe) -> Batches:
    knobs = recipe.train
    return Batches(store, range(len(store.entries)), 6, knobs.seed, None, knobs.crop, recipe.sample, recipe.augment)


@pytest.mark.parametrize("changes", [[], STRONG])
def test_what_is_shown_is_what_a_step_of_training_sees(changes: list[str]) -> None:
    store, recipe = Store(), load_recipe("default", changes)
    batches, shown = batches_of(store, recipe), [3, 7, 20]
    factor = 1.5 if changes else 1.0
    found = draw_tiles(batches, store, shown, recipe, COLOURS, factor)
    seen = 0
    for epoch in range(EPOCHS):
        by_key: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for batch in batches.epoch(epoch):  # as `Loop` goes on from here
            pair = sized(to_tensor(batch.images, torch.device("cpu")), torch.from_numpy(batch.labels), factor)
            images, labels = augment(*pair, recipe.augment, COLOURS, seed=recipe.train.seed, epoch=epoch, keys=batch.keys)
            by_key |= {int(key): (images[n].numpy(), labels[n].numpy()) for n, key in enumerate(batch.keys)}
        for i, tile in zip(shown, found, strict=True):
            # The tile's own key, or that of another of its crops where the epoch leaves the first one out.
            names = [f"{store.entries[i].name}{crop}" for crop in ("", *(f"\0{k}" for k in range(1, 9)))]
            expected = next((by_key[key] for key in map(int, tile_keys(names)) if key in by_key), None)
            drawn = tile.draws[epoch]
            assert (drawn is None) == (expected is None)
            if drawn is not None and expected is not None:
                seen += 1
                np.testing.assert_array_equal(drawn.image, expected[0].transpose(1, 2, 0))
                np.testing.assert_array_equal(drawn.label, expected[1])
    assert seen >= EPOCHS
    assert [tile.name for tile in found] == ["T3", "T7", "T20"]
    assert all(tile.tile.image is store.images[i] and tile.tile.label is store.labels[i] for i, tile in zip(shown, found, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, MOST), st.integers(0, 99), st.data())
def test_every_class_is_shown_by_tiles_that_the_seed_chooses(tiles: int, classes: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pixels = random.integers(1, 10_000, (tiles, classes)) * (random.random((tiles, classes)) < 0.2) * (random.random(classes) < 0.8)
    entries = [entry(f"T{i}", row) for i, row in enumerate(pixels)]
    numbers = [i for i in range(tiles) if random.random() < 0.9]
    labelled = [i for i in numbers if pixels[i].sum()]
    if not labelled:
        return
    chosen = choose_tiles(entries, numbers, seed)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(labelled)
    assert min(FEWEST, len(labelled)) <= len(chosen) <= MOST
    assert (pixels[chosen].any(0) == pixels[labelled].any(0)).all()
    assert choose_tiles(entries, numbers[::-1], seed) == chosen


def test_of_more_classes_than_tiles_as_many_as_can_be_are_shown() -> None:
    pixels = np.zeros((40, 48), np.int64)
    for i in range(40):
        pixels[i, 4 * i % 48 : 4 * i % 48 + 4] = 100
    chosen = choose_tiles([entry(f"T{i}", row) for i, row in enumerate(pixels)], range(40), 0)
    assert len(chosen) == MOST
    assert pixels[chosen].any(0).all()


def test_a_rare_class_is_shown_where_it_is_clear() -> None:
    pixels = np.tile([5000, 1], (50, 1))
    pixels[31] = 3000, 2000
    entries = [entry(f"T{i}", row) for i, row in enumerate(pixels)]
    assert all(31 in choose_tiles(entries, range(50), seed) for seed in range(20))


def test_the_seed_chooses_other_tiles() -> None:
    entries = [entry(f"T{i}", np.array([5, 5])) for i in range(200)]
    assert len({tuple(choose_tiles(entries, range(200), seed)) for seed in range(5)}) == 5


def test_shares_of_an_epoch_are_those_of_the_part_unless_rare_classes_come_more_often() -> None:
    store = Store()
    plain = look_at_epoch(batches_of(store, load_recipe("default")), store.entries, range(24), 1.0)
    assert (plain.tiles, plain.dropped, plain.shape) == (24, 1, (64, 64))
    assert all(before == pytest.approx(drawn) for before, drawn in plain.shares)
    assert sum(before for before, _ in plain.shares) == pytest.approx(1)
    more = ["sample.repeat=10", "train.crop=40"]
    often = look_at_epoch(batches_of(store, load_recipe("default", more)), store.entries, range(24), 0.8)
    assert often.shares[4][1] > 3 * often.shares[4][0] > 0
    assert (often.cut, often.shape) == ((40, 40), (32, 32))


def test_eight_bit_colours_are_shown_as_they_are_and_others_stretched_alike() -> None:
    store = Store()
    assert stretch(store, [0, 1], RGB) == [(0.0, 255.0)] * 3
    store.dtype = "float32"
    store.images = [np.linspace(-1, 1, 3 * 101, dtype=np.float32).reshape(101, 1, 3) for _ in store.images]
    store.images[0][50] = np.nan
    store.images[0][..., 2] = store.images[1][..., 2] = np.nan
    low, high = stretch(store, [0, 1], ("red", "green", "nir"))[0]
    assert -0.97 < low < -0.95 and 0.94 < high < 0.96
    assert stretch(store, [0, 1], ("red", "green", "nir"))[2] == (0.0, 1.0)


MOVING = {
    "flips": True, "quarter_turns": True, "rotation_deg": 20.0, "scale": (0.5, 0.6), "aspect": 1.5, "shear_deg": 20.0, "shift": 0.4,
    "contrast": 1.0, "brightness": 1.0, "tint": 1.0, "gamma": 1.0, "saturation": 1.0, "hue_deg": 90.0,
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(set(AugmentConfig.model_fields) - {"warp", "class_mix", "cut_mix"}))
def test_a_setting_is_at_work_exactly_where_it_changes_a_tile(key: str) -> None:
    warp = {"rotation_deg", "scale", "aspect", "shear_deg", "shift"} & {key}
    moved = STILL.model_copy(update={key: MOVING.get(key, 1.0), "warp": float(bool(warp))})
    random = np.random.default_rng(1)
    for bands in (RGB, ("red", "green", "nir"), ("grey",)):
        images = torch.from_numpy(random.integers(60, 190, (8, len(bands), 16, 16), np.uint8))
        labels = torch.from_numpy(random.integers(0, 5, (8, 16, 16), np.uint8))
        values = Bands(*((value,) * len(bands) for value in (120.0, 40.0, 0.0, 255.0)), is_rgb=bands == RGB)
        changed = augment(images, labels, moved, values, seed=0, epoch=0, keys=tile_keys("abcdefgh"))
        is_same = torch.allclose(changed[0].float(), images.float(), atol=0.01) and torch.equal(changed[1], labels)
        assert at_work(moved, bands) == (frozenset() if is_same else {key, *({"warp"} if warp else ())})
    assert at_work(moved, RGB)


def test_nothing_is_at_work_that_is_switched_off() -> None:
    assert at_work(STILL, RGB) == frozenset()
    assert at_work(STILL.model_copy(update={"rotation_deg": 30.0}), RGB) == frozenset()
    assert at_work(STILL.model_copy(update={"warp": 1.0}), RGB) == frozenset()
    assert at_work(STILL.model_copy(update={"class_mix": 0.1, "cut_mix": 0.1}), ("grey",)) == {"class_mix", "cut_mix"}


class Balance(HTMLParser):
    """Open elements that were never closed, and closed ones that were never open."""

    VOID = frozenset({"meta", "img", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(folder: Path, *changes: str, edge: int = 40, bands: int = 3, dtype: str = "uint8", tiles: int = 2) -> str:
    random = np.random.default_rng(0)

    def sight() -> Sight:
        image = (random.random((edge, edge + 7, bands)) * 255).astype(dtype)
        return Sight(image, random.choice(np.array([0, 1, 255], np.uint8), (edge, edge + 7)))

    seen = [Seen(f"<tile> {i}", sight(), [sight(), None, sight(), sight(), sight()]) for i in range(tiles)]
    epoch = Epoch(2000, 3, 1997, 63, (40, 47), (64, 64), ((0.9, 0.8), (0.1, 0.2)))
    names = RGB if bands == 3 else tuple(f"band {i}" for i in range(bands))
    classes = make_classes(["森林 <forest>", "water"])
    content = PreviewPicture("w & co", seen, classes, names, [(0.0, 255.0)] * bands, load_recipe("default", changes), epoch)
    return write_preview_page(folder / "preview.html", content).read_text(encoding="utf-8")


def test_the_page_is_whole_and_keeps_to_itself(tmp_path: Path) -> None:
    text = page(tmp_path, "sample.repeat=3", "augment.class_mix=0.2", "augment.rotation_deg=10")
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "<script" not in text and "@import" not in text and "url(" not in text
    assert "森林 &lt;forest&gt;" in text and "<forest>" not in text and "<tile>" not in text and "w &amp; co" in text
    assert text.count("not drawn</span>") == 2 and text.count('<div class="cell">') == 10
    assert "× 2.00" in text and "3 left out" in text and "class_mix" in text
    places = [text.index(f"<code>augment.{key}</code>") for key in ("rotation_deg", "class_mix", "blur")]
    assert places == sorted(places)
    assert all(f"augment.{key}</code>" in text for key in AugmentConfig.model_fields)
    assert page(tmp_path, "sample.repeat=3", "augment.class_mix=0.2", "augment.rotation_deg=10") == text


def test_without_sampling_the_page_says_nothing_of_it(tmp_path: Path) -> None:
    assert "What an epoch is made of" not in page(tmp_path)


@pytest.mark.parametrize(("edge", "bands", "dtype"), [(300, 3, "uint8"), (9, 1, "uint16"), (20, 5, "float32")])
def test_the_page_stays_below_three_megabytes_whatever_it_shows(tmp_path: Path, edge: int, bands: int, dtype: str) -> None:
    assert len(page(tmp_path, edge=edge, bands=bands, dtype=dtype, tiles=MOST).encode()) < 3_000_000


def test_tiles_that_an_epoch_leaves_out_are_none() -> None:
    store = Store()
    recipe = load_recipe("default", ["sample.repeat=100", "sample.rare=1.0"])
    batches = batches_of(store, recipe)
    left_out = [i for i in range(24) if i != 8 and batches.often(0)[i] == 0]
    assert left_out  # the tile of the rarest class takes their places
    assert all(tile.draws[0] is None for tile in draw_tiles(batches, store, left_out, recipe, COLOURS, 1.0))
