"""Which stated rule would mend the labels of a set, from what was found in all of them together. It reads no file.

A rule is chosen only where the numbers leave one reading: ids that count from 1, a two-class mask saved in greys, values around few codes,
colours around the classes' own, labels a pixel off. Where they leave two, the user is asked. What a rule changes is counted when the labels
are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.data.labels import NO_MEND, OTHERS, LabelPixels, LabelRules, Mend

RESIZE = 1
"""Pixels a side: tools that round the other way are off by one; more is another picture."""

FAR = 32
"""Steps of a band: further off, a colour is none that was meant. Measured: JPEG of quality 75 moves flat colours by less."""

MANY = 16
"""Values that no class has, from which on they are greys, not classes without a name."""

STRAY = 1e-4
"""Share of the pixels below which a value may be a slip of the pen."""

GREY, SLIP = 16, 4
"""Steps that a value, and that each band of a flat colour, may be off: JPEG and rounding move them so far."""

MOST_IGNORED = 0.01
"""Share of the pixels that may become unlabelled by a rule; more is a class that nobody named."""

NEVER = 65535
"""An ignore index for files that have none: no label of 8 bits holds it."""

_KEPT = 20_000

_REST = frozenset({"background", "other", "others", "rest", "none", "nothing", "negative", "no", "non", "not"})
_REST_PARTS = ("背景", "其他", "其它", "非")
"""Words in the name of the class that a two-class mask has at 0."""

_RARE_PEAK, _BESIDE = 0.004, 8
"""Share of the pixels that a value around which others lie has at least, and how many values beside it are its own."""


@dataclass
class LabelFacts:
    """What the labels of a set hold together.

    Args:
        pixels: (256,) int64, pixels of each class id, the ignore index at its place.
        illegal: Code or colour that no class has → pixels.
        illegal_tiles: Labels that hold one.
        sizes: (rows, cols) by which labels are larger than their images → labels; equal ones are not counted.
        palettes: Index → its colour in the first palette PNG that uses it, and that file.
        clash: Two palette PNGs in which one index has two colours, and the index.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    illegal: Counter[int | str] = field(default_factory=Counter)
    illegal_tiles: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    palettes: dict[int, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    clash: tuple[str, str, int] | None = None

    def add(self, label: LabelPixels, size: tuple[int, int]) -> None:
        """Count one label whose image is of that size."""
        self.count(label.pixels, label.illegal, (label.ids.shape[0], label.ids.shape[1]), size)

    def count(self, pixels: np.ndarray, illegal: Mapping[int | str, int], label_size: tuple[int, int], size: tuple[int, int]) -> None:
        """Count one label: (256,) pixels of each id, illegal codes or colours, its size and its image's."""
        self.pixels += pixels
        if illegal:
            self.illegal.update(illegal)
            self.illegal_tiles += 1
            if len(self.illegal) > _KEPT:
                kept = dict(self.illegal.most_common(_KEPT // 2))
                kept[OTHERS] = kept.get(OTHERS, 0) + self.illegal.total() - sum(kept.values())
                self.illegal = Counter(kept)
        if label_size != size:
            self.sizes[label_size[0] - size[0], label_size[1] - size[1]] += 1

    def add_palette(self, colours: Mapping[int, tuple[int, ...]], name: str) -> None:
        """Hold the colours of the indices that a palette PNG uses against those of the others."""
        for index, colour in colours.items():
            known, first = self.palettes.setdefault(index, (colour, name))
            if known != colour and self.clash is None:
                self.clash = (first, name, index)

    @property
    def total(self) -> int:
        """Pixels of all labels."""
        return int(self.pixels.sum()) + self.illegal.total()


@dataclass(frozen=True)
class Remedy:
    """Rules that mend, as keys of `dataset.yaml`; `reasons` says each in words.

    `doubt` is what the user alone can say: whether ids count ``from_one`` or a class has no name; whether 255 is a ``mask``'s class 1 or
    unlabelled.
    """

    mend: Mend = NO_MEND
    remap: Mapping[int, int] = field(default_factory=dict)
    ignore_index: int | None = None
    reasons: tuple[str, ...] = ()
    doubt: Literal["", "from_one", "mask"] = ""

    @property
    def is_needed(self) -> bool:
        """There is something that a rule mends."""
        return bool(self.reasons)


def choose(facts: LabelFacts, rules: LabelRules, *, is_stated: bool = False) -> Remedy:
    """Choose the rules for what was found.

    Args:
        facts: Of all labels that decode, read with `rules`.
        rules: As the labels were read; their `mend` is empty.
        is_stated: The user said what the codes mean (a code column, an ignore index): they are not read otherwise.
    """
    sized = {"resize_within": RESIZE} if any(max(map(abs, off)) <= RESIZE for off in facts.sizes) else {}
    reasons = [f"labels off by {RESIZE} pixel are resized"] if sized else []
    if rules.encoding != "index":
        within, reason = _colours_within(facts, rules)
        return Remedy(Mend(**sized, colours_within=within), reasons=(*reasons, *reason))
    count = len(rules.colours)
    found = _codes_found(facts, rules) if not is_stated else None
    if found:
        main = {code: pixels for code, pixels in found.items() if pixels > STRAY * facts.total}
        is_right = facts.illegal.total() <= STRAY * facts.total
        if doubt := _doubt(found, main, rules, is_right=is_right):
            return Remedy(doubt=doubt)
        # First as it is, then without values in a few pixels. Labels that are right but for a few pixels are not read otherwise.
        readings = (found, main) if not is_right else (main,) if _is_mask(main, rules) else ()
        for codes in readings:
            values = _reading(codes, rules)
            if values is not None:
                ignored, more = _ignored(facts, _unsettled(facts, values, count, rules.ignore_index))
                mend = Mend(**sized, **ignored, **values.mend.stated())
                return Remedy(mend, values.remap, values.ignore_index, (*reasons, *values.reasons, *more))
    within, far, more = _values_within(facts, rules)
    ignored, rest = _ignored(facts, far)
    return Remedy(Mend(**sized, values_within=within, **ignored), reasons=(*reasons, *more, *rest))


def _codes_found(facts: LabelFacts, rules: LabelRules) -> dict[int, int]:
    """Pixels of each code that is a whole number, where codes are their own ids."""
    found = {i: int(facts.pixels[i]) for i in range(len(rules.colours))} | {rules.ignore_index: int(facts.pixels[IGNORE_INDEX])}
    for code, pixels in facts.illegal.items():
        if isinstance(code, int) and -32768 <= code <= 65535:
            found[code] = pixels
    return {code: pixels for code, pixels in sorted(found.items()) if pixels}


def _doubt(found: Mapping[int, int], main: Mapping[int, int], rules: LabelRules, *, is_right: bool) -> Literal["", "from_one", "mask"]:
    """What the codes leave open: they are these, and in more than a few pixels those of `main`; `is_right`: the others are a few in all."""
    count, ignore = len(rules.colours), rules.ignore_index
    classes = [code for code in found if code != ignore]
    if classes and classes[-1] == count and classes[0] >= 0:
        # 0 and K: 0 may be unlabelled, K a class without a name. From 1 to a K in few pixels: that may be a slip of the pen.
        is_open = count in main if 0 in found else found[count] < 10 * STRAY * sum(found.values())
        if is_open:
            return "from_one"
    return "mask" if is_right and list(main) == [0, ignore] and count == 2 and not _is_mask(main, rules) else ""


def _is_mask(main: Mapping[int, int], rules: LabelRules) -> bool:
    """Values 0 and the ignore index, and a first class of which a mask has 0."""
    name = rules.names[0].casefold() if rules.names else ""
    is_rest = not _REST.isdisjoint(re.findall(r"[a-z]+", name)) or any(part in name for part in _REST_PARTS)
    return list(main) == [0, rules.ignore_index] and len(rules.colours) == 2 and is_rest


def _reading(found: Mapping[int, int], rules: LabelRules) -> Remedy | None:
    """The one other reading of these codes, or None."""
    count, ignore = len(rules.colours), rules.ignore_index
    codes = list(found)
    classes = [code for code in codes if code != ignore]
    if not classes:
        return None
    if count == 2 and (cut := _threshold(found)):
        reason = f"a mask of two classes in {len(codes)} greys from {codes[0]} to {codes[-1]}: {cut} and above is class 1 (threshold)"
        return Remedy(Mend(threshold=cut), reasons=(reason,))
    if classes[-1] < count and classes[0] >= 0:
        return None
    ranks = list(range(1, count + 1))
    if classes[-1] == count and classes[0] == 1:
        return Remedy(remap={code: code - 1 for code in ranks}, reasons=(f"ids count from 1 to {count} (remap)",))
    if classes[0] < 0 and (len(classes) == 1 or classes[1] >= 0) and classes[-1] < count and ignore not in found:
        return Remedy(ignore_index=classes[0], reasons=(f"{classes[0]} is unlabelled (ignore_index)",))
    return _spaced(found, count, ignore)


def _threshold(found: Mapping[int, int]) -> int | None:
    """Where to cut a two-class mask in greys; None for what may be something else."""
    low, high = min(found), max(found)
    cut = (low + high + 1) // 2
    if low < 0 or high < 64:
        return None
    if len(found) == 2 and low == 0:
        return cut
    total, ones = sum(found.values()), found.get(1, 0)
    above = sum(pixels for code, pixels in found.items() if code >= cut)
    if len(found) < MANY:
        # A JPEG of good quality: as many ones as values just below the highest.
        just_below = sum(pixels for code, pixels in found.items() if high - _BESIDE <= code < high)
        is_tight = all(min(code - low, high - code) <= _BESIDE for code in found)
        return cut if low == 0 and is_tight and just_below and ones <= 4 * just_below else None
    quarter = (high - low) / 4
    ends = sum(pixels for code, pixels in found.items() if code <= low + quarter or code >= high - quarter)
    # Where 1 is a class of its own, the greys above are another thing.
    return cut if ends >= 0.8 * total and above >= 0.01 * total and ones < min(above, found.get(0, 0)) / 2 else None


def _spaced(found: Mapping[int, int], count: int, ignore: int) -> Remedy | None:
    """As many codes (or peaks among many greys) as classes: in rising order they are the classes."""
    is_many = len(found) >= max(MANY, 2 * count)
    peaks = _peaks(found) if is_many else list(found)
    for codes, kept in ((peaks, NEVER), ([code for code in peaks if code != ignore], ignore)):
        # Two that lie side by side are ids, and so is what may be one; what else is there is something else.
        if (
            len(codes) != count
            or count < 2
            or codes[0] < 0
            or codes[1] <= count
            or min(np.diff(codes)) < 2
            or (kept == NEVER and ignore in found and (ignore not in codes or not _is_even(codes)))
        ):
            continue
        remap = {code: i for i, code in enumerate(codes)}
        ordered = sorted({*codes, ignore} if kept == ignore else codes)
        within = (min(np.diff(ordered)) - 1) // 2 if is_many else 0
        if is_many and within < 3:
            return None
        reason = f"the values {', '.join(map(str, codes))} are the {count} classes in this order (remap)"
        greys = (f"each takes the values within {within} of it (values_within)",) if within else ()
        return Remedy(Mend(values_within=int(within)), remap, None if kept == ignore else NEVER, (reason, *greys))
    return None


def _is_even(codes: Collection[int]) -> bool:
    """The codes are even steps of a scale, the unlabelled one among them: then it is a class."""
    steps = np.diff(list(codes))
    return len(steps) > 1 and bool(steps.max() - steps.min() <= 1)


def _peaks(found: Mapping[int, int]) -> list[int]:
    """Codes around which others lie: more frequent than all beside them, and not rare."""
    least = _RARE_PEAK * sum(found.values())
    beside = [step for step in range(-_BESIDE, _BESIDE + 1) if step]
    return [code for code, pixels in found.items() if pixels >= least and all(pixels > found.get(code + step, 0) for step in beside)]


def _values_within(facts: LabelFacts, rules: LabelRules) -> tuple[int, list[int | str], tuple[str, ...]]:
    """The rule for values around codes that lie apart, 0 where there is none; the illegal values that it leaves; and its reason."""
    everything = list(facts.illegal)
    codes = np.flatnonzero((rules.table >= 0) & (rules.table < len(rules.colours)))
    wrong = {code: pixels for code, pixels in facts.illegal.items() if isinstance(code, int)}
    if len(wrong) < MANY or len(codes) < 2 or any(_stands_alone(code, wrong, codes, facts.total) for code in wrong):
        return 0, everything, ()
    within = min(int((np.diff(codes).min() - 1) // 2), GREY)
    legal = np.flatnonzero(rules.table >= 0)
    settled = {code for code in wrong if abs(legal - code).min() <= within}
    if within < 1 or len(settled) < MANY or 2 * sum(wrong[code] for code in settled) < facts.illegal.total():
        return 0, everything, ()
    far = [code for code in everything if code not in settled]
    return within, far, (f"a value at most {within} off a code is that code (values_within)",)


def _stands_alone(code: int, wrong: Mapping[int, int], codes: np.ndarray, total: int) -> bool:
    """A value that is no grey around a code, for it is far more frequent than those beside it: a class without a name."""
    nearest = int(codes[abs(codes - code).argmin()])
    off, sign = abs(code - nearest), 1 if code > nearest else -1
    if off <= 2 or wrong[code] < _RARE_PEAK * total:
        return False
    around = [code + step for step in range(-_BESIDE, _BESIDE + 1) if abs(step) > 2]
    beside = around if off > _BESIDE else [nearest + sign * step for step in range(1, off - 1)]
    return wrong[code] > 1.5 * max(wrong.get(value, 0) for value in beside)


def _unsettled(facts: LabelFacts, remedy: Remedy, count: int, ignore: int) -> list[int | str]:
    """Illegal codes that another reading leaves illegal."""
    if remedy.mend.threshold is not None:
        return []
    legal = np.array([*(remedy.remap or range(count)), ignore if remedy.ignore_index is None else remedy.ignore_index])
    return [code for code in facts.illegal if not isinstance(code, int) or abs(legal - code).min() > remedy.mend.values_within]


def _ignored(facts: LabelFacts, codes: Collection[int | str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The rule that makes the values unlabelled, where they are few pixels."""
    pixels = sum(facts.illegal[code] for code in codes)
    if not pixels or pixels > MOST_IGNORED * facts.total:
        return {}, ()
    listed = ", ".join(str(code) for code, _ in facts.illegal.most_common() if code in codes)
    shown = listed if len(listed) <= 60 else listed[:60].rpartition(",")[0] + " …"
    return {"illegal": "ignore"}, (f"the values {shown} ({pixels / facts.total:.2%} of the pixels) are unlabelled (illegal: ignore)",)


def _colours_within(facts: LabelFacts, rules: LabelRules) -> tuple[int, tuple[str, ...]]:
    """How far off a colour may be, so that no two classes claim it; 0 where no unknown colour is near one. And the reason.

    Many rare colours near a class's are what JPEG and interpolation leave. A frequent one is a class without a name, which claims too.
    """
    unknown = {str(colour): pixels for colour, pixels in facts.illegal.items() if str(colour).startswith("#")}
    if not unknown or not len(rules.known_colours):
        return 0, ()
    wide = rules.known_colours.astype(np.int16)
    apart = [int(abs(wide[i] - wide[j]).max()) for i in range(len(wide)) for j in range(i)]
    within = min([FAR, *((gap - 1) // 2 for gap in apart if gap)])
    bands = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in unknown], np.int16)
    off = np.full(len(bands), 256, np.int16)
    for colour in wide:
        off = np.minimum(off, abs(bands - colour).max(1))
    pixels = np.array(list(unknown.values()))
    is_soft = (off > SLIP) & (off <= within)
    is_flat = is_soft & ((pixels >= _RARE_PEAK * facts.total) | (pixels > pixels[is_soft].sum() / 4))
    if is_flat.any():
        within = min(within, (int(off[is_flat].min()) - 1) // 2)
    if np.count_nonzero(off <= within) < MANY:
        within = min(within, SLIP)
    taken = [colour for colour, distance in zip(unknown, off, strict=True) if distance <= within]
    if within < 1 or not taken:
        return 0, ()
    most = ", ".join(sorted(taken, key=lambda colour: -unknown[colour])[:4]) + (" …" if len(taken) > 4 else "")
    share = sum(unknown[colour] for colour in taken) / facts.total
    found = f"{len(taken):,} colours ({most}; {share:.2%} of the pixels) at most {within} off a class's in each band are that class"
    return within, (f"{found} (colours_within)",)
