"""Where the time of a run goes, and what would make it faster, in words. It changes nothing, and makes no device wait.

The thread of the loop is in one kind at a time: it waits for data, steps, validates or saves; what is left are the lines that it logs.
The threads that make batches read, decode, cut and mix meanwhile: theirs say why the loop waits. A GPU works after it was told: the time
of a step is the time of telling it, or of waiting until it can be told more; so is that of a copy to it, which therefore is no kind of
its own. How busy it is, it says itself (NVML).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from landseg.core.files import human_bytes
from landseg.core.stopwatch import Spent, Stopwatch
from landseg.data.pack import DECODING, READ_BYTES, READING

WAITING, STEP, VALIDATION, SAVING = "waiting", "step", "validation", "saving"
"""Kinds of the loop's thread."""

CUTTING, MIXING = "cutting", "mixing"
"""Kinds of the threads that make batches, beside `READING` (the disk, or its page faults) and `DECODING`: crops, and tiles made of two."""

STEPS, IMAGES = "steps", "images"
"""What is counted, with `READ_BYTES`."""

RECENT_S = 60.0
"""Of training, over which a bottleneck is looked for: long enough to mean something, short enough that a change is seen."""

LEAST_S = 5.0
"""Of training, before which nothing is said."""

_WORTH = {WAITING: 0.15, VALIDATION: 0.30, SAVING: 0.10}
"""Shares of the time from which a kind is a bottleneck; below, the network is."""

_BUSY = 0.9
"""Share of the time from which a GPU counts as full, whatever the loop waits for: data that comes before its queue is empty is in time."""

_IDLE = 0.7
"""Share of the time below which a GPU counts as not filled by the steps that it is given."""

_TINY_S = 0.010
"""Of a step. Chosen: the calls of Python that a step is made of take some milliseconds, however few tiles it has."""

_MEMORY_BYTES_S = 1e9
"""Read from the pack per second, from which copying it is named, not the disk. Chosen: more than a SATA disk (0.6 GB/s) or most disks over
a network deliver; a disk that delivers more is not what needs to be replaced."""


@dataclass(frozen=True)
class Situation:
    """What of the run's settings and data the remedies depend on.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        batch: Tiles a step.
        is_mapped: The tiles lie in the pack; else each epoch decodes their files.
        wants_pack: `data.pack`; without room on the disk there is none all the same.
        workers: `data.workers`.
        cores: Cores that this process may use.
        validate_every: `train.validate_every`.
        save_minutes: `train.save_minutes`.
        residency: Where the tiles lie: device, host or disk.
    """

    device: str
    batch: int
    is_mapped: bool
    wants_pack: bool = True
    workers: int | None = None
    cores: int = 1
    validate_every: int = 1
    save_minutes: float = 10.0
    residency: str = "disk"


@dataclass(frozen=True)
class Bottleneck:
    """What a run spends its time on: one of the kinds, its share of the time, and words with a remedy.

    `is_waste` is False where it is the network's own work, which a run is for.
    """

    kind: str
    share: float
    words: str
    is_waste: bool = True


class Pace:
    """Counts of one run in one process.

    Args:
        situation: What remedies depend on.
        watch: What times the kinds; whoever spends the time has it too.

    Attributes:
        situation: As it is by now: who knows of a change sets it.
    """

    def __init__(self, situation: Situation, watch: Stopwatch) -> None:
        self.watch, self.situation = watch, situation
        self._recent: deque[tuple[Spent, float | None]] = deque()
        self._all = Spent()

    def stepped(self, images: int) -> None:
        """A step is done, on so many images."""
        self.watch.count(STEPS)
        self.watch.count(IMAGES, images)

    def lap(self, gpu_use: float | None = None) -> dict[str, float]:
        """End the window: what it was spent on, as a line of `metrics.jsonl` says it, and begin the next.

        Args:
            gpu_use: Share of the time that the GPU works, as it says itself; None where it does not.

        Returns:
            ``speed/images_per_s`` where there were any; ``time/window_s`` and shares of it; busy threads and bytes of the data.
        """
        spent = self.watch.take()
        self._all += spent
        self._recent.append((spent, gpu_use))
        while sum(_training_s(past) for past, _ in self._recent) - _training_s(self._recent[0][0]) >= RECENT_S:
            self._recent.popleft()
        images, total_s = spent.count(IMAGES), max(spent.total_s, 1e-9)
        line = {"speed/images_per_s": images / max(_training_s(spent), 1e-9)} if images else {}
        line["time/window_s"] = round(spent.total_s, 3)
        for name, kind in (("data", WAITING), ("step", STEP), ("validation", VALIDATION), ("saving", SAVING)):
            line[f"time/{name}_share"] = round(spent.share(kind), 4)
        for kind in (READING, DECODING, CUTTING, MIXING):
            if kind in spent.seconds:
                line[f"data/{kind}_threads"] = round(spent.share(kind), 4)
        if spent.count(READ_BYTES):
            line["data/read_mb_per_s"] = round(spent.count(READ_BYTES) / total_s / 1e6, 2)
        return line

    def images_per_s(self) -> float:
        """The speed of training in the last minute, without validating and saving; 0 before the first step."""
        spent = sum((past for past, _ in self._recent), self.watch.so_far())
        return spent.count(IMAGES) / max(_training_s(spent), 1e-9)

    def summary(self) -> str:
        """What all of the run went into, in words; nothing where it was short."""
        whole = self._all + self.watch.so_far()
        if whole.total_s < RECENT_S:
            return ""
        names = {STEP: "steps", WAITING: "waiting for data", VALIDATION: "validation", SAVING: "saving"}
        parts = sorted(((whole.share(kind), name) for kind, name in names.items()), reverse=True)
        return ", ".join(f"{_percent(share)} {name}" for share, name in parts if share >= 0.01)

    def bottleneck(self) -> Bottleneck | None:
        """What the run spends its time on by now; None while there is too little to say."""
        uses = [(use, spent.total_s) for spent, use in self._recent if use is not None and spent.total_s > 0]
        weight = sum(seconds for _, seconds in uses)
        gpu_use = sum(use * seconds for use, seconds in uses) / weight if weight else None
        return bottleneck(sum((spent for spent, _ in self._recent), Spent()), self._all, self.situation, gpu_use)


def bottleneck(recent: Spent, whole: Spent, situation: Situation, gpu_use: float | None = None) -> Bottleneck | None:
    """What a run spends its time on, with a remedy.

    Args:
        recent: The last minute of training: how it is shared out between waiting and stepping.
        whole: All since the run began: validation and saving come too seldom to be judged by a minute.
        situation: What the remedies depend on.
        gpu_use: How busy the GPU says it was in the last minute, 0 to 1; None where nothing says so.

    Returns:
        None where there was too little training to say anything.
    """
    training_s, steps = _training_s(recent), recent.count(STEPS)
    if training_s < LEAST_S or not steps:
        return None
    training = 1 - whole.share(VALIDATION, SAVING)
    shares = {kind: whole.share(kind) for kind in (VALIDATION, SAVING)}
    if gpu_use is None or gpu_use < _BUSY:
        shares[WAITING] = recent.of(WAITING) / training_s * training
    found = {kind: share for kind, share in shares.items() if share >= _WORTH[kind]}
    if not found:
        return _network(training_s / steps, recent.of(STEP) / training_s * training, situation, gpu_use)
    kind = max(found, key=lambda name: found[name])
    share = found[kind]
    return Bottleneck(kind, share, _words(kind, share, recent, situation))


def _words(kind: str, share: float, recent: Spent, situation: Situation) -> str:
    if kind == WAITING:
        return f"waiting for data {_percent(share)}: {_cause(recent, situation)}"
    if kind == VALIDATION:
        return f"validation takes {_percent(share)} of the time: train.validate_every={4 * situation.validate_every}"
    fewer = f"train.save_minutes={2 * situation.save_minutes:g} saves less often"
    return f"saving takes {_percent(share)} of the time: {fewer}, a faster disk under --out saves faster"


def _cause(recent: Spent, situation: Situation) -> str:
    """Why data is late, by what the threads that make it do, and what helps."""
    kind = max((READING, DECODING, CUTTING, MIXING), key=recent.of)
    if kind == READING:
        return _reading(recent.count(READ_BYTES) / recent.total_s, situation)
    if situation.workers is not None and situation.workers < situation.cores and not situation.is_mapped:
        return f"{kind} on {situation.workers} of {situation.cores} cores; data.workers=null uses all"
    if kind == DECODING:
        room = "data.residency=host decodes once, into memory; so does room on the disk for the pack"
        return f"decoding; {room if situation.wants_pack else 'data.pack=true decodes once'}"
    if kind == CUTTING:
        return "cutting crops; a larger train.crop cuts fewer"
    return "mixing tiles; smaller augment.class_mix and augment.cut_mix mix fewer"


def _reading(bytes_s: float, situation: Situation) -> str:
    rate = f" ({human_bytes(round(bytes_s))}/s)" if bytes_s > 0 else ""
    if situation.residency == "disk" and not situation.is_mapped and not situation.wants_pack:
        return f"reading files{rate}; data.pack=true puts them into one, decoded"
    if bytes_s >= _MEMORY_BYTES_S or situation.residency != "disk":
        return f"copying tiles within memory{rate}; a smaller train.crop copies less"
    return f"reading from the disk{rate}; data.residency=host reads it once, if memory holds it; else a faster disk"


def _network(step_s: float, share: float, situation: Situation, gpu_use: float | None) -> Bottleneck:
    """What there is to say where nothing else takes much: the steps are too small for the device, or it is at work."""
    is_idle = step_s < _TINY_S if gpu_use is None else gpu_use < _IDLE
    length = f"{1000 * step_s:.{0 if step_s >= 0.01 else 1}f} ms"
    if is_idle:
        what = f"steps are tiny ({length})" if gpu_use is None else f"the GPU works {_percent(gpu_use)} of the time, steps take {length}"
        return Bottleneck("tiny", share, f"{what}: train.batch={4 * situation.batch} fills the device better")
    if gpu_use is not None:
        return Bottleneck(
            STEP, gpu_use, f"the network: the GPU works {_percent(gpu_use)} of the time; a smaller train.size or encoder is faster", False
        )
    return Bottleneck(STEP, share, f"the network: {_percent(share)} of the time; a smaller train.size or encoder is faster", False)


def _training_s(spent: Spent) -> float:
    return spent.total_s - spent.of(VALIDATION, SAVING)


def _percent(share: float) -> str:
    return f"{100 * min(share, 1):.0f} %"
