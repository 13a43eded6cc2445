"""Planted bottlenecks are named rightly, with a remedy that is a setting; windows and shares add up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.core.config import load_recipe
from landseg.core.settings import AugmentConfig
from landseg.core.stopwatch import Spent, Stopwatch
from landseg.data import pack, world
from landseg.data.dataset import Dataset, DatasetInfo
from landseg.data.pack import Files, Pack, open_tiles
from landseg.training import batches as batches_room
from landseg.training import pace as room
from landseg.training.batches import Batches
from landseg.training.pace import WAITING, Pace, Situation, bottleneck

SITUATION = Situation("cpu", 16, is_mapped=True, cores=8)
LOOP = ("waiting", "step", "validation", "saving")
THREADS = ("reading", "decoding", "cutting", "mixing")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def spent(steps: int = 100, bytes_read: int = 0, **seconds: float) -> Spent:
    """A window that the loop's kinds fill."""
    return Spent(sum(seconds.get(kind, 0) for kind in LOOP), seconds, {"steps": steps, "images": 16 * steps, "bytes read": bytes_read})


def words(window: Spent, situation: Situation = SITUATION, gpu_use: float | None = None) -> str:
    found = bottleneck(window, window, situation, gpu_use)
    return "" if found is None else found.words


FILES = replace(SITUATION, is_mapped=False, wants_pack=False)


@pytest.mark.parametrize(
    ("window", "situation", "expected"),
    [
        (spent(waiting=38, step=62, decoding=300, reading=9), FILES, "waiting for data 38 %: decoding; data.pack=true decodes once"),
        (
            spent(waiting=38, step=62, decoding=300, reading=9),
            replace(FILES, wants_pack=True),
            "waiting for data 38 %: decoding; data.residency=host decodes once, into memory; so does room on the disk for the pack",
        ),
        (
            spent(waiting=38, step=62, decoding=90),
            replace(FILES, workers=2),
            "waiting for data 38 %: decoding on 2 of 8 cores; data.workers=null uses all",
        ),
        (
            spent(waiting=52, step=48, reading=95, bytes_read=1_200_000_000),
            SITUATION,
            "waiting for data 52 %: reading from the disk (12.0 MB/s); data.residency=host reads it once",
        ),
        (
            spent(waiting=52, step=48, reading=95, decoding=20, bytes_read=30_000_000),
            FILES,
            "waiting for data 52 %: reading files (300.0 kB/s); data.pack=true puts them into one, decoded",
        ),
        (
            spent(waiting=30, step=70, reading=95, bytes_read=300_000_000_000),
            SITUATION,
            "waiting for data 30 %: copying tiles within memory (3.0 GB/s); a smaller train.crop copies less",
        ),
        (spent(waiting=20, step=80, reading=10, mixing=60), SITUATION, "waiting for data 20 %: mixing tiles; smaller augment.class_mix "),
        (spent(waiting=20, step=80, cutting=60), SITUATION, "waiting for data 20 %: cutting crops; a larger train.crop cuts fewer"),
        (spent(step=60, validation=40), SITUATION, "validation takes 40 % of the time: train.validate_every=4"),
        (spent(step=79, saving=21), SITUATION, "saving takes 21 % of the time: train.save_minutes=20 saves less often, a faster disk"),
        (spent(step=93, waiting=7), SITUATION, "the network: 93 % of the time; a smaller train.size or encoder is faster"),
        (spent(30_000, step=93, waiting=7), SITUATION, "steps are tiny (3.3 ms): train.batch=64 fills the device better"),
    ],
)
def test_a_planted_bottleneck_is_named_with_its_remedy(window: Spent, situation: Situation, expected: str) -> None:
    assert words(window, situation).startswith(expected)


CUDA = replace(SITUATION, device="cuda")


@pytest.mark.parametrize(
    ("window", "use", "expected"),
    [
        (spent(waiting=60, step=40, reading=9), 0.97, "the network: the GPU works 97 % of the time"),  # late, but the queue was not empty
        (spent(waiting=60, step=40, reading=9), 0.4, "waiting for data 60 %"),
        (spent(10_000, step=100), 0.35, "the GPU works 35 % of the time, steps take 10 ms: train.batch=64 fills"),
        (spent(100_000, step=100), 0.95, "the network: the GPU works 95 % of the time"),  # short, and yet it is full
        (spent(step=70, saving=30), 0.95, "saving takes 30 %"),  # in which it does nothing, whatever it did between
        (spent(step=100), None, "the network: 100 % of the time"),  # a device that does not say how busy it is
    ],
)
def test_a_gpu_says_itself_whether_it_is_full(window: Spent, use: float | None, expected: str) -> None:
    assert words(window, CUDA, use).startswith(expected)


@given(
    st.sampled_from(["waiting", "validation", "saving"]), st.floats(0.31, 0.9), st.floats(0, 1), st.sampled_from(THREADS),
    st.integers(1, 10**7),
)  # fmt: skip
def test_the_largest_waste_is_the_one_named(planted: str, share: float, rest: float, thread: str, scale: int) -> None:
    """Whatever else takes its time below what is worth a word, and however long the window is."""
    seconds = dict.fromkeys(("waiting", "validation", "saving"), min(0.09, (1 - share) / 3) * rest)
    seconds[planted] = share
    seconds["step"] = 1 - sum(seconds.values())
    window = spent(10, **{kind: value * scale * 100 for kind, value in seconds.items()}, **{thread: scale})
    found = bottleneck(window, window, SITUATION)
    assert found is not None and found.kind == planted and found.is_waste and found.share == pytest.approx(share, rel=0.02)
    assert f"{100 * found.share:.0f} %" in found.words


def test_nothing_is_said_of_too_little() -> None:
    assert words(spent(step=4, saving=90)) == words(spent(0, waiting=90)) == words(Spent()) == ""


def test_every_remedy_is_a_setting() -> None:
    """What the words tell the user to set can be set, in every situation."""
    said = set()
    situations = [
        Situation(device, 4, mapped, pack, workers, cores=8, validate_every=3, save_minutes=0.25, residency=where)
        for device, mapped, pack, workers, where in product(("cpu", "cuda"), (True, False), (True, False), (None, 2), ("disk", "host"))
    ]
    for situation, kind, thread, use in product(situations, LOOP, THREADS, (None, 0.3, 0.8, 0.95)):
        for steps, read in ((10, 0), (10**6, 10**12)):
            said.add(words(spent(steps, read, **{"step": 39, kind: 60, thread: 50}), situation, use))
    keys = {key for text in said for key in re.findall(r"\b[a-z]+\.[a-z_]+(?:=\S+)?", text)}
    assert len(said) >= 18 and len(keys) > 6
    everything = load_recipe(None)
    for key in sorted(keys):
        name, _, value = key.partition("=")
        section, field = name.split(".")
        assert hasattr(getattr(everything, section), field), key
        if value:
            load_recipe(None, [key.rstrip(";,")])


def steps(pace: Pace, clock: Clock, count: int, images: int = 4, **seconds: float) -> None:
    """Drive a loop of `count` steps whose kinds take so long each."""
    for _ in range(count):
        for kind, value in seconds.items():
            with pace.watch.of(kind):
                clock.at += value
        pace.stepped(images)


def test_a_lap_says_what_the_window_went_into() -> None:
    pace = Pace(SITUATION, Stopwatch(clock := Clock()))
    steps(pace, clock, 10, waiting=0.25, step=0.75)
    with pace.watch.of("validation", is_whole=True):
        clock.at += 8
    with pace.watch.of("saving", is_whole=True):
        clock.at += 2
    line = pace.lap()
    shares = {key: value for key, value in line.items() if key.endswith("_share")}
    assert shares == {
        "time/data_share": 0.125, "time/step_share": 0.375, "time/validation_share": 0.4, "time/saving_share": 0.1,
    }  # fmt: skip
    assert line["time/window_s"] == 20 and line["speed/images_per_s"] == 4, "validating and saving do not slow training"
    assert pace.images_per_s() == 4
    empty = pace.lap()
    assert "speed/images_per_s" not in empty and empty["time/step_share"] == 0


def test_what_threads_do_is_in_the_line_too() -> None:
    pace = Pace(SITUATION, Stopwatch(clock := Clock()))
    with pace.watch.of("reading"):
        clock.at += 2
    pace.watch.count("bytes read", 50_000_000)
    line = pace.lap()
    assert line["data/reading_threads"] == 1 and line["data/read_mb_per_s"] == 25 and "data/mixing_threads" not in line


def test_a_disk_that_becomes_slow_is_seen_within_a_minute_and_forgotten_as_soon() -> None:
    pace = Pace(SITUATION, Stopwatch(clock := Clock()))

    def kinds(waiting: float) -> Iterator[str]:
        for _ in range(9):  # nine lines, each after ten seconds
            steps(pace, clock, 10, waiting=waiting, step=1 - waiting)
            pace.lap()
            found = pace.bottleneck()
            assert found is not None
            yield found.kind

    assert [*kinds(0.02)] == ["step"] * 9
    late = [*kinds(0.6)]
    assert late[0] == "step" and late[2:] == ["waiting"] * 7
    assert [*kinds(0.02)][-4:] == ["step"] * 4


def test_validation_counts_although_it_comes_seldom() -> None:
    """Once in twenty minutes: no minute of training shows it, the run does."""
    pace = Pace(SITUATION, Stopwatch(clock := Clock()))
    for _ in range(3):
        for _ in range(120):
            steps(pace, clock, 10, step=1)
            pace.lap()
        with pace.watch.of("validation", is_whole=True):
            clock.at += 1000
        pace.lap()
        steps(pace, clock, 100, step=1)
        pace.lap()
    found = pace.bottleneck()
    assert found is not None and found.kind == "validation" and found.share == pytest.approx(1000 / 2300)


def test_the_gpu_is_judged_by_the_mean_of_what_it_said() -> None:
    pace = Pace(CUDA, Stopwatch(clock := Clock()))
    for use in (1.0, 0.1, 1.0, 0.1, 0.1):
        steps(pace, clock, 1000, step=0.005)
        pace.lap(use)
    found = pace.bottleneck()
    assert found is not None and "the GPU works 46 % of the time" in found.words and found.is_waste


def test_before_the_first_line_the_speed_is_known() -> None:
    pace = Pace(SITUATION, Stopwatch(clock := Clock()))
    assert pace.images_per_s() == 0 and pace.bottleneck() is None
    steps(pace, clock, 2, images=8, step=2)
    assert pace.images_per_s() == 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = world.write_tiles(tmp_path_factory.mktemp("tiles"), 1, 12, tile=64)
    return Dataset(folder, DatasetInfo(name="w", classes=world.CLASSES))


def drained(dataset: Dataset, *, use_pack: bool, **more: Any) -> tuple[Spent, str]:
    """An epoch for a loop that does nothing but wait; what it took and what is said of it."""
    store = open_tiles(dataset, use_pack=use_pack)
    assert isinstance(store, Pack if use_pack else Files)
    pace = Pace(Situation("cpu", 4, is_mapped=store.is_mapped, wants_pack=use_pack), Stopwatch())
    batches = Batches(store, range(12), 4, 0, 2, watch=pace.watch, **more)
    for batch in pace.watch.each(WAITING, batches.epoch(0)):
        pace.stepped(len(batch.keys))
    seen = pace.watch.so_far()
    pace.lap()
    found = pace.bottleneck()
    assert found is not None and found.kind == WAITING
    return seen, found.words.partition(": ")[2]


def slowed(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work, but for a sleep that is long beside it."""

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.02)
        return work(*arguments, **options)

    return slow


@pytest.mark.parametrize(
    ("place", "name", "use_pack", "expected"),
    [
        (pack, "read_bytes", False, "reading files ("),
        (pack, "decode_image", False, "decoding; data.pack=true"),
        (Pack, "image", True, "reading from the disk ("),
        (batches_room, "pastes", True, "mixing tiles"),
        (batches_room, "pastes", False, "mixing tiles"),
        (Batches, "_place", True, "cutting crops"),
    ],
)
def test_a_slow_part_planted_into_the_threads_is_named(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, use_pack: bool, expected: str
) -> None:
    monkeypatch.setattr(room, "LEAST_S", 0.0)
    monkeypatch.setattr(place, name, slowed(getattr(place, name)))
    mixing = {"augment": AugmentConfig(class_mix=1)} if name == "pastes" else {}
    _, words = drained(dataset, use_pack=use_pack, **mixing)
    assert words.startswith(expected)


def test_bytes_are_counted_as_they_are_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files what lies on the disk; of the pack the pixels, and of a crop its own."""
    monkeypatch.setattr(room, "LEAST_S", 0.0)
    monkeypatch.setattr(Pack, "image", slowed(Pack.image))
    files = sum(path.stat().st_size for tile in dataset.tiles for path in (tile.image, tile.label) if path is not None)
    assert drained(dataset, use_pack=False)[0].count("bytes read") == files
    assert drained(dataset, use_pack=True)[0].count("bytes read") == 12 * 64 * 64 * 4
    crops = drained(dataset, use_pack=True, crop=32)[0]
    assert crops.count("bytes read") == 12 * 4 * 32 * 32 * 4 and crops.count("images") == 48
