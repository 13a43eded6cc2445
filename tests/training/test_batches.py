"""Every tile once an epoch, in batches of equal shape, whatever thread made them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import AugmentConfig, SampleConfig
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.data.pack import open_tiles
from landseg.data.packing import Entry
from landseg.data.world import CLASSES, write_tiles
from landseg.training.batches import Batches, crop_shape
from landseg.training.draws import tile_keys


class Store:
    """Tiles in memory; a tile's number is in its first band, its place in the others."""

    bands, dtype, is_mapped = 3, "uint16", True

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        self.entries = [Entry(f"tile {i}", 0, 0, height, width, "", "", ()) for i, (height, width) in enumerate(shapes)]
        self.read: list[int] = []

    def image(self, i: int) -> np.ndarray:
        self.read.append(i)
        rows, cols = np.mgrid[: self.entries[i].height, : self.entries[i].width]
        return np.stack([np.full_like(rows, i + 1), rows, cols], 2).astype(np.uint16)

    def label(self, i: int) -> np.ndarray:
        image = self.image(i)
        return ((image[..., 1] * 3 + image[..., 2]) % 200).astype(np.uint8)


def tiles(count: int) -> Store:
    return Store([(8, 8)] * count)


def flat(found: list[list[int]]) -> list[int]:
    return [number for batch in found for number in batch]


def numbers(batches: Batches, epoch: int, start: int = 0) -> list[list[int]]:
    return [(batch.images[:, 0, 0, 0].astype(int) - 1).tolist() for batch in batches.epoch(epoch, start)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3))
def test_every_tile_comes_once_in_batches_that_hold_no_more_than_was_asked(count: int, size: int, epoch: int) -> None:
    batches = Batches(tiles(count), range(count), size, seed=0)
    found = numbers(batches, epoch)
    sizes = [len(batch) for batch in found]
    assert sorted(flat(found)) == (list(range(count)) if count > 1 else [0, 0])
    assert len(found) == batches.count
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert max(sizes) <= max(size, 3 if size <= 2 else 2)


def test_only_the_chosen_tiles_come() -> None:
    found = numbers(Batches(tiles(20), [3, 5, 19, 7], 2, seed=0), 0)
    assert sorted(flat(found)) == [3, 5, 7, 19]


def test_the_order_changes_with_epoch_and_seed_and_is_else_the_same() -> None:
    orders = {(seed, epoch): tuple(flat(numbers(Batches(tiles(30), range(30), 4, seed), epoch))) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == 6
    assert orders[0, 1] == tuple(flat(numbers(Batches(tiles(30), range(30), 4, 0), 1)))
    assert orders[0, 1] == tuple(flat(numbers(Batches(tiles(30), range(30)[::-1], 4, 0), 1)))


@pytest.mark.parametrize("start", [0, 1, 4, 7, 8])
def test_starting_at_a_batch_skips_exactly_those_before_it(start: int) -> None:
    store = Store([(8, 8)] * 25 + [(12, 10)] * 5)
    whole = list(Batches(store, range(30), 4, 3).epoch(2))
    assert len(whole) == 8
    store.read.clear()
    rest = list(Batches(store, range(30), 4, 3).epoch(2, start))
    assert len(rest) == 8 - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert np.array_equal(a.keys, b.keys) and np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
    assert len(set(store.read)) == sum(len(batch.keys) for batch in rest)


def test_keys_belong_to_the_tiles() -> None:
    store = tiles(9)
    for batch in Batches(store, range(9), 4, 0).epoch(0):
        names = [store.entries[int(image[0, 0, 0]) - 1].name for image in batch.images]
        assert np.array_equal(batch.keys, tile_keys(names))


def test_tiles_of_other_sizes_are_cropped_and_filled_up() -> None:
    store = Store([(10, 14)] * 5 + [(25, 14), (10, 30), (40, 40), (4, 14), (3, 50), (10, 1)])
    batches = Batches(store, range(11), 3, seed=0)
    assert batches.shape == (10, 14)
    places: dict[int, set[tuple[int, int]]] = {}
    for epoch in range(30):
        for batch in batches.epoch(epoch):
            assert batch.images.shape[1:] == (10, 14, 3) and batch.images.dtype == np.uint16
            assert batch.labels.shape[1:] == (10, 14) and batch.labels.dtype == np.uint8
            for image, label in zip(batch.images, batch.labels, strict=True):
                i = int(image[0, 0, 0]) - 1
                height, width = min(10, store.entries[i].height), min(14, store.entries[i].width)
                row, col = int(image[0, 0, 1]), int(image[0, 0, 2])
                places.setdefault(i, set()).add((row, col))
                assert np.array_equal(image[:height, :width], store.image(i)[row : row + height, col : col + width])
                assert np.array_equal(label[:height, :width], store.label(i)[row : row + height, col : col + width])
                outside = np.ones((10, 14), bool)
                outside[:height, :width] = False
                assert (label[outside] == IGNORE_INDEX).all() and not image[outside].any()
    assert places[0] == places[8] == places[10] == {(0, 0)}
    rows, cols = zip(*places[7], strict=True)
    assert min(rows) < 5 and max(rows) > 25 and min(cols) < 5 and max(cols) > 21 and max(rows) <= 30 and max(cols) <= 26


def test_a_crop_is_the_tiles_own_whatever_its_batch() -> None:
    store = Store([(8, 8)] * 20 + [(30, 30)] * 6)
    found = []
    for size, chosen in ((3, range(26)), (7, range(26)), (4, [*range(8), *range(20, 26)])):
        crops = {}
        for batch in Batches(store, chosen, size, seed=1).epoch(4):
            crops.update({int(key): image.tobytes() for key, image in zip(batch.keys, batch.images, strict=True)})
        found.append(crops)
    assert found[0] == found[1]
    assert found[2].items() <= found[0].items()


def crops(batches: Batches, epoch: int = 0) -> list[tuple[int, int, int]]:
    """(tile, row, col) of each image of an epoch."""
    return [(int(image[0, 0, 0]) - 1, *image[0, 0, 1:].tolist()) for batch in batches.epoch(epoch) for image in batch.images]


def test_a_large_tile_comes_as_often_as_crops_fit_into_it() -> None:
    store = Store([(10, 10)] * 6 + [(40, 60), (15, 10), (20, 10), (9, 35), (3, 3)])
    batches = Batches(store, range(11), 4, seed=0)
    found = crops(batches)
    assert [sum(i == tile for i, *_ in found) for tile in range(11)] == [1] * 6 + [24, 1, 2, 3, 1]
    assert batches.images == len(found) == 37 and batches.count == 10
    large = [(row, col) for i, row, col in found if i == 6]
    assert len(set(large)) > 20, "each crop has its own place"
    assert {key for batch in batches.epoch(0) for key in batch.keys.tolist()} >= {int(key) for key in tile_keys(["tile 6", "tile 0"])}
    assert len({key for batch in batches.epoch(0) for key in batch.keys.tolist()}) == 37
    assert found != crops(batches, 1)


def test_crops_of_one_large_tile_make_a_batch() -> None:
    found = crops(Batches(Store([(64, 64)]), [0], 8, seed=0, crop=32))
    assert len(found) == 4 and {i for i, *_ in found} == {0}
    assert len(crops(Batches(Store([(40, 40)]), [0], 8, seed=0, crop=32))) == 2, "a single crop comes twice"


@pytest.mark.parametrize("is_mapped", [True, False])
def test_crops_begun_in_the_middle_are_those_of_the_whole_epoch(is_mapped: bool) -> None:
    store = Store([(40, 60), (64, 64), (33, 40)] * 3)
    store.is_mapped = is_mapped
    whole = list(Batches(store, range(9), 4, 3, crop=16).epoch(2))
    rest = list(Batches(store, range(9), 4, 3, workers=3, crop=16).epoch(2, 5))
    assert len(whole) == len(rest) + 5
    for a, b in zip(whole[5:], rest, strict=True):
        assert np.array_equal(a.keys, b.keys) and np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


class Sparse(Store):
    """One large tile, labelled in one corner or in every second pixel."""

    def __init__(self, labels: np.ndarray) -> None:
        super().__init__([labels.shape])
        self.labels = labels
        pixels = int((labels != IGNORE_INDEX).sum())
        self.entries = [Entry("tile 0", 0, 0, *labels.shape, "", "", (pixels,))]

    def label(self, i: int) -> np.ndarray:
        return self.labels


def test_crops_lie_where_labels_are() -> None:
    labels = np.full((200, 200), IGNORE_INDEX, np.uint8)
    labels[20:60, 20:60] = 0
    by_chance, found = 0, 0
    for batch in Batches(Sparse(labels), [0], 4, seed=0, crop=20).epoch(0):
        found += int(((batch.labels != IGNORE_INDEX).sum((1, 2)) > 0).sum())
    for _, row, col in crops(Batches(Store([(200, 200)]), [0], 4, seed=0, crop=20)):
        by_chance += int((labels[row : row + 20, col : col + 20] != IGNORE_INDEX).any())
    assert by_chance < 20 and 40 < found <= 100


def test_dense_labels_do_not_move_crops() -> None:
    everywhere = np.zeros((200, 200), np.uint8)
    with_gap = everywhere.copy()
    with_gap[50:53] = IGNORE_INDEX
    for labels in (everywhere, with_gap):
        assert crops(Batches(Sparse(labels), [0], 4, seed=0, crop=40)) == crops(Batches(Store([(200, 200)]), [0], 4, seed=0, crop=40))
    nothing = np.full((200, 200), IGNORE_INDEX, np.uint8)
    assert len(crops(Batches(Sparse(nothing), [0], 4, seed=0, crop=40))) == 25


class Counted(Store):
    """Tiles of class 0, or of class 1 which is rare; those of class 2 have no label at all."""

    def __init__(self, classes: list[int], shape: tuple[int, int] = (8, 8)) -> None:
        super().__init__([shape] * len(classes))
        pixels = shape[0] * shape[1]
        counts = [((pixels, 0), (0, pixels), (0, 0))[kind] for kind in classes]
        self.entries = [Entry(f"tile {i}", 0, 0, *shape, "", "", pair) for i, pair in enumerate(counts)]


def keys_of(batches: Batches, epoch: int) -> list[int]:
    return [key for batch in batches.epoch(epoch) for key in batch.keys.tolist()]


def contents(batches: Batches, epoch: int, start: int = 0) -> list[tuple[int, bytes, bytes]]:
    return [
        (int(key), image.tobytes(), label.tobytes())
        for batch in batches.epoch(epoch, start)
        for key, image, label in zip(batch.keys, batch.images, batch.labels, strict=True)
    ]


MIXED = AugmentConfig(class_mix=0.5, cut_mix=0.5)


def test_tiles_without_labels_never_come_and_are_counted() -> None:
    store = Counted([0, 2, 1, 0, 2, 0])
    batches = Batches(store, range(1, 6), 2, 0, sample=SampleConfig())
    assert batches.dropped == 2 and batches.images == 3
    assert sorted(flat(numbers(batches, 0))) == [2, 3, 5]
    kept = Batches(store, range(1, 6), 2, 0, sample=SampleConfig(drop_unlabelled=False))
    assert kept.dropped == 0 and sorted(flat(numbers(kept, 0))) == [1, 2, 3, 4, 5]


def test_all_alike_and_unmixed_is_to_the_bit_as_if_nothing_were_set() -> None:
    store = Store([(8, 8)] * 20 + [(30, 30)] * 6)
    plain = Batches(store, range(26), 4, 1)
    same = Batches(store, range(26), 4, 1, sample=SampleConfig(rare=1.0), augment=AugmentConfig(flips=False))
    for epoch in range(3):
        assert contents(plain, epoch) == contents(same, epoch)
    store.read.clear()
    list(same.epoch(0))
    assert len(store.read) == 2 * same.images, "no other tile is read"


def test_tiles_of_a_rare_class_come_more_often_in_an_epoch_as_long() -> None:
    store = Counted([0] * 57 + [1] * 3)
    batches = Batches(store, range(60), 7, 0, sample=SampleConfig(repeat=3.0, rare=0.9))
    expected = 60 * 3 / (57 + 3 * 3)
    rare = []
    for epoch in range(40):
        found = flat(numbers(batches, epoch))
        assert len(found) == batches.images == 60 and len(set(keys_of(batches, epoch))) == 60
        assert len(list(batches.epoch(epoch))) == batches.count == 9
        rare += [found.count(tile) for tile in (57, 58, 59)]
    assert set(rare) == {2, 3} and np.mean(rare) == pytest.approx(expected, abs=0.1)


def test_each_further_time_has_a_key_and_a_crop_of_its_own() -> None:
    store = Counted([0] * 9 + [1], (30, 40))
    batches = Batches(store, range(10), 4, 0, crop=10, sample=SampleConfig(repeat=50.0, rare=1.0))
    plain = Batches(store, range(10), 4, 0, crop=10)
    for epoch in range(3):
        keys, known = keys_of(batches, epoch), set(keys_of(plain, epoch))
        assert len(set(keys)) == batches.images == len(keys) == 120
        assert 12 < sum(key not in known for key in keys) < 60
        places = [(row, col) for i, row, col in crops(batches, epoch) if i == 9]
        assert len(places) > 24 and len(set(places)) > 0.9 * len(places) - 3


def test_no_crop_and_no_further_time_has_anothers_key() -> None:
    batches = Batches(Counted([0, 1], (30, 40)), range(2), 4, 0, crop=10)
    names = [batches._name(i, crop, again) for i in range(2) for crop in range(130) for again in range(130)]
    assert len(set(names)) == len(names)
    assert [batches._name(1, *place) for place in ((0, 0), (1, 0), (0, 1))] == ["tile 1", "tile 1\0001", "tile 1\0000\0001"]


@pytest.mark.parametrize("shape", [(8, 8), (20, 24)])
def test_sampling_and_mixing_are_the_same_whatever_batch_workers_and_order(shape: tuple[int, int]) -> None:
    store, sample = Counted([0] * 9 + [1] * 2, shape), SampleConfig(repeat=4.0, rare=0.9)
    whole = {}
    for size, workers, is_mapped, indices in ((3, 1, True, range(11)), (8, 3, False, range(11)), (5, None, True, range(11)[::-1])):
        store.is_mapped = is_mapped
        batches = Batches(store, indices, size, 2, workers, 8, sample, MIXED)
        found = contents(batches, 5)
        whole[size] = found
        at = sum(len(batch.keys) for batch in list(batches.epoch(5))[:2])
        assert contents(batches, 5, 2) == found[at:], "an epoch gone on with is the epoch"
    assert whole[3] == whole[8] == whole[5]


def test_every_pixel_of_a_mixed_tile_is_its_own_or_anothers_at_its_place() -> None:
    store = Store([(8, 9)] * 6 + [(5, 4)] * 2 + [(30, 20)])
    mixing = AugmentConfig(class_mix=0.3, cut_mix=0.6)
    batches, plain = Batches(store, range(9), 4, 0, augment=mixing), Batches(store, range(9), 4, 0)
    others, changed, several = set(), 0, 0
    for epoch in range(12):
        own = {
            key: (image, label) for b in plain.epoch(epoch) for key, image, label in zip(b.keys.tolist(), b.images, b.labels, strict=True)
        }
        for batch in batches.epoch(epoch):
            for key, image, label in zip(batch.keys.tolist(), batch.images, batch.labels, strict=True):
                sources = [np.all(image == theirs, 2) & (label == ids) for theirs, ids in own.values()]
                assert np.any(sources, 0).all(), "image and label come from one tile, from the same place"
                is_changed = ~sources[list(own).index(key)]
                changed += bool(is_changed.any())
                others |= set(image[is_changed][:, 0].tolist())
                assert (label[is_changed] != IGNORE_INDEX).all()
                several += len(set(image[..., 0].ravel().tolist()) - {0}) > 2
    assert 0.6 < changed / (12 * batches.images) < 0.85 and several
    assert others == set(range(1, 10)), "any tile may be the other"


def test_a_single_tile_has_no_other_to_be_mixed_with() -> None:
    store = Store([(8, 8)])
    assert contents(Batches(store, [0], 4, 0, augment=AugmentConfig(class_mix=1.0, cut_mix=1.0)), 0) == contents(
        Batches(store, [0], 4, 0), 0
    )


def test_crops_of_one_tile_are_mixed_with_each_other() -> None:
    store, way = Store([(64, 64)]), AugmentConfig(cut_mix=1.0)
    assert contents(Batches(store, [0], 4, 0, crop=16, augment=way), 0) != contents(Batches(store, [0], 4, 0, crop=16), 0)


@pytest.mark.parametrize(
    ("sizes", "crop", "expected"),
    [
        ([(256, 256)] * 3 + [(9, 9)], None, (256, 256)), ([(1024, 768)] * 3, None, (1024, 768)), ([(1025, 300)] * 3, None, (512, 300)),
        ([(8000, 4000)], None, (512, 512)), ([(100 + i, 900 - i) for i in range(9)], None, (104, 104)),
        ([(3000 + i, 4000) for i in range(9)], None, (512, 512)), ([(64, 64)] * 9, 512, (64, 64)),
        ([(64, 64), (300, 2000)], 512, (300, 512)), ([(2000, 2000)], 768, (768, 768)),
    ],
)  # fmt: skip
def test_the_shape_that_is_trained_on(sizes: list[tuple[int, int]], crop: int | None, expected: tuple[int, int]) -> None:
    assert crop_shape(np.array(sizes), crop) == expected


def test_huge_batches_do_not_wait_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.training.batches._AHEAD_BYTES", 1)
    store = tiles(200)
    epoch = Batches(store, range(200), 2, 0).epoch(0)
    next(epoch)
    time.sleep(0.3)
    assert len(set(store.read)) <= 2 * 4
    epoch.close()  # type: ignore[attr-defined]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "landseg-batches"]


@pytest.mark.parametrize("bad", [0, 5, 11])
def test_an_error_on_the_thread_comes_out(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiles(12)
    real = store.label

    def label(i: int) -> np.ndarray:
        if i == bad:
            raise OSError("the disk is gone")
        return real(i)

    monkeypatch.setattr(store, "label", label)
    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in Batches(store, range(12), 3, 0).epoch(0):
            found.extend((batch.images[:, 0, 0, 0].astype(int) - 1).tolist())
    assert bad not in found
    assert not threads()


def test_leaving_an_epoch_early_leaves_no_thread() -> None:
    batches = Batches(tiles(200), range(200), 2, 0)
    for way in ("close", "break", "never begun"):
        epoch = batches.epoch(0)
        if way == "close":
            next(epoch)
            assert len(threads()) == 1
            epoch.close()  # type: ignore[attr-defined]
        elif way == "break":
            for _ in epoch:
                break
        del epoch
        assert not threads()


def test_batches_are_made_a_little_ahead_and_no_more() -> None:
    store = tiles(200)
    epoch = Batches(store, range(200), 2, 0).epoch(0)
    next(epoch)
    time.sleep(0.3)
    assert 2 * 2 < len(set(store.read)) <= 2 * 6
    epoch.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("use_pack", [True, False])
def test_batches_of_a_data_set_hold_its_pixels(tmp_path: Path, use_pack: bool) -> None:
    write_tiles(tmp_path, 2, 7, 24, 4, "float32")
    write_info(tmp_path, DatasetInfo(name="test", classes=CLASSES, bands=("a", "b", "c", "d")))
    store = open_tiles(open_dataset(tmp_path), use_pack=use_pack)
    number = {int(key): i for i, key in enumerate(tile_keys([entry.name for entry in store.entries]))}
    seen = []
    for batch in Batches(store, range(7), 3, 0).epoch(0):
        assert batch.images.flags.writeable and batch.images.dtype == np.float32
        for key, image, label in zip(batch.keys, batch.images, batch.labels, strict=True):
            i = number[int(key)]
            seen.append(i)
            assert np.array_equal(image, store.image(i)) and np.array_equal(label, store.label(i))
    assert sorted(seen) == list(range(7))
