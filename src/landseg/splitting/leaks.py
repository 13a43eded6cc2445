"""Tiles of different parts, or of two data sets, that show the same ground or touch: copies, overlaps, neighbours. It mends nothing.

The same place on another day or from another satellite is NOT found: where a data set holds several dates of one place, split by place.

Vocabulary: the *teacher* is the part that trains (or the first data set); every other part is *judged* with, and its score is what a leak
flatters. A pixel is *seen* when another part shows its ground too; a tile is *beside* another that continues it across a border.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from landseg.core.progress import one_core_a_thread, parallel_map, progress
from landseg.data.copies import Copy, compose, find_copies, group_copies, inverse, signature, turned
from landseg.data.pack import TileStore
from landseg.splitting.assignment import Split
from landseg.splitting.likeness import common_area
from landseg.splitting.neighbours import Edge
from landseg.splitting.overlaps import Overlap, find_overlaps

KINDS = ("exact copy", "flipped or turned", "re-encoded", "overlap", "neighbour")
"""From the gravest to the mildest; a pair of tiles is counted once, under the gravest that holds."""

LIKELY = 0.9
"""Least probability of a neighbour that counts. Where most tiles have no neighbour, many that are less likely are strangers."""

_LISTED = 10_000  # pairs in a JSON document


@dataclass(frozen=True)
class Ground:
    """Tiles whose leaks are sought.

    Args:
        names: Name of each; of two data sets, with the set's before it.
        parts: Part of each, or its data set; empty where it is in none, and then it is left out.
        shapes: (height, width) of each.
        read: Number → image (H, W, C), from any thread.
        teacher: The part that trains.
        equal_names: Names that two data sets have in common: told, but no leak by themselves.
    """

    names: tuple[str, ...]
    parts: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    read: Callable[[int], np.ndarray]
    teacher: str
    equal_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leak:
    """Tiles `a` and `b` (``a < b``) of different parts that should not be apart.

    `how` says in words how they lie to each other; `transform` (2, 3), where known, takes pixels (x, y) of `a` to pixels of `b`, beyond its
    border where the two only touch.
    """

    a: int
    b: int
    kind: str
    probability: float
    how: str
    transform: np.ndarray | None = None


@dataclass(frozen=True)
class Judged:
    """What leaks into a part.

    `tiles` and `pixels` it has; shares (0..1) of these pixels that are `seen`, that lie in tiles `beside` another part, and that lie in
    tiles with any leak (`concerned`); `by_kind` the tiles that leak, each under its gravest kind.
    """

    tiles: int
    pixels: int
    seen: float
    beside: float
    concerned: float
    by_kind: dict[str, int]


@dataclass(frozen=True)
class Leaks:
    """Every leak found, gravest kind first, and what it means for each part that is judged with."""

    ground: Ground
    pairs: tuple[Leak, ...]
    judged: dict[str, Judged]

    @property
    def is_clean(self) -> bool:
        """True when nothing leaks."""
        return not self.pairs

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each kind."""
        found = Counter(leak.kind for leak in self.pairs)
        return {kind: found[kind] for kind in KINDS}

    def pairs_of(self, tile: int) -> list[Leak]:
        """The leaks of one tile."""
        return [leak for leak in self.pairs if tile in (leak.a, leak.b)]

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints; of very many pairs the first are listed, all are counted."""
        names, parts = self.ground.names, self.ground.parts
        return {
            "is_clean": self.is_clean,
            "pairs": self.counts,
            "equal_names": len(self.ground.equal_names),
            "parts": {
                name: {
                    "tiles": part.tiles, "pixels": part.pixels, "seen": round(part.seen, 6), "beside": round(part.beside, 6),
                    "concerned": round(part.concerned, 6), "tiles_by_kind": part.by_kind,
                }
                for name, part in self.judged.items()
            },
            "leaks": [
                {
                    "a": names[leak.a], "b": names[leak.b], "part_a": parts[leak.a], "part_b": parts[leak.b], "kind": leak.kind,
                    "how": leak.how, "probability": round(leak.probability, 4),
                }
                for leak in self.pairs[:_LISTED]
            ],
        }  # fmt: skip

    def as_text(self) -> str:
        """A table: a line a kind, two columns a part; and a sentence a part."""
        width = max([9, *(len(name) for name in self.judged)])
        lines = [f"{'leak':<18} {'pairs':>8}  " + "  ".join(f"{'of ' + name:>{width + 3}}" for name in self.judged)]
        for kind, count in self.counts.items():
            tiles = "  ".join(f"{part.by_kind[kind]:>{width - 3},} tiles" for part in self.judged.values())
            lines.append(f"{kind:<18} {count:>8,}  {tiles}")
        for name, part in self.judged.items():
            lines.append(
                f"{name}: {part.seen:.2%} of its pixels show ground that another part shows too, "
                f"{part.concerned:.2%} lie in tiles that leak or touch"
            )
        if self.ground.equal_names:
            lines.append(f"{len(self.ground.equal_names):,} tiles of both have the same name ({', '.join(self.ground.equal_names[:3])})")
        return "\n".join([*lines, "clean: no leak was found" if self.is_clean else f"{len(self.pairs):,} pairs of tiles leak"])


def ground_of_split(store: TileStore, split: Split) -> Ground:
    """The tiles of a data set with the parts of a split; tiles that are in no part are left out."""
    part = {tile.tile: tile.part for tile in split.tiles}
    return Ground(
        tuple(entry.name for entry in store.entries), tuple(part.get(entry.name, "") for entry in store.entries),
        tuple((entry.height, entry.width) for entry in store.entries), store.image, "train",
    )  # fmt: skip


def ground_of_two(store: TileStore, other: TileStore, labels: tuple[str, str]) -> Ground:
    """The tiles of two data sets, one after the other; the first is the teacher. Names get their set's label before them."""
    first, second = labels if labels[0] != labels[1] else (labels[0], f"{labels[1]} (2)")
    entries, count = [*store.entries, *other.entries], len(store.entries)
    parts = (*[first] * count, *[second] * len(other.entries))
    known = {entry.name for entry in store.entries}
    return Ground(
        tuple(f"{part}/{entry.name}" for part, entry in zip(parts, entries, strict=True)), parts,
        tuple((entry.height, entry.width) for entry in entries),
        lambda i: store.image(i) if i < count else other.image(i - count), first,
        tuple(entry.name for entry in other.entries if entry.name in known),
    )  # fmt: skip


@one_core_a_thread()
def find_leaks(ground: Ground, edges: Iterable[Edge] = (), *, workers: int | None = None) -> Leaks:
    """Find what leaks between the parts.

    Args:
        ground: From `ground_of_split` or `ground_of_two`.
        edges: Neighbours among the same tiles, best those that `scenes` kept; those less than `LIKELY` do not count.
        workers: Threads; every core when None. The result is the same for any number.
    """
    used = [i for i, part in enumerate(ground.parts) if part]
    described = parallel_map(lambda i: signature(ground.read(i)), used, workers=workers)
    signatures = np.stack(list(progress(described, "signatures", len(used)))) if used else np.zeros((0, 1), np.float32)
    copies = find_copies(signatures, lambda k: ground.read(used[k])) if len(used) > 1 else []
    families = _Families(ground, [Copy(used[copy.a], used[copy.b], copy.turn, copy.is_exact) for copy in copies])
    found: dict[tuple[int, int], Leak] = {(leak.a, leak.b): leak for leak in families.leaks()}
    _, sides = np.unique(ground.parts, return_inverse=True)
    first = [i for i in used if families.first(i) == i]
    for overlap in find_overlaps(ground.read, len(ground.parts), across=sides, tiles=first, workers=workers):
        if not families.are_copies(overlap.a, overlap.b):
            for leak in families.spread(overlap):
                found.setdefault((leak.a, leak.b), leak)
    for edge in sorted(edges, key=lambda edge: (-edge.probability, edge.a, edge.b)):
        a, b = min(edge.a, edge.b), max(edge.a, edge.b)
        if edge.probability >= LIKELY and ground.parts[a] and ground.parts[b] and ground.parts[a] != ground.parts[b]:
            found.setdefault((a, b), _of_edge(ground, edge))
    pairs = sorted(found.values(), key=lambda leak: (KINDS.index(leak.kind), -round(leak.probability, 4), leak.a, leak.b))
    return Leaks(ground, tuple(pairs), _judge(ground, pairs))


class _Families:
    """Tiles that are copies of one another; the first of a family in each part stands for those of its part."""

    def __init__(self, ground: Ground, copies: Sequence[Copy]) -> None:
        self._ground = ground
        self._groups = group_copies(copies)
        self._group = {tile: k for k, (tiles, _, _) in enumerate(self._groups) for tile in tiles}
        self._how = {tile: how for tiles, hows, _ in self._groups for tile, how in zip(tiles, hows, strict=True)}
        exact = group_copies(copy for copy in copies if copy.is_exact)
        self._exact = {tile: k for k, (tiles, _, _) in enumerate(exact) for tile in tiles}
        self._members: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for tile, k in sorted(self._group.items()):
            self._members[k, ground.parts[tile]].append(tile)

    def first(self, tile: int) -> int:
        """The first copy of a tile in its own part."""
        return self._kin(tile)[0]

    def are_copies(self, a: int, b: int) -> bool:
        """Whether two tiles are of one family."""
        return a in self._group and self._group[a] == self._group.get(b)

    def leaks(self) -> list[Leak]:
        """Every tile with a copy in another part, paired with the first of them: an equal one if there is one."""
        found = {}
        for k, (tiles, _, _) in enumerate(self._groups):
            parts = sorted({self._ground.parts[tile] for tile in tiles})
            for tile in tiles:
                for part in parts:
                    if part != self._ground.parts[tile]:
                        others = self._members[k, part]
                        other = next((other for other in others if self._is_exact(tile, other)), others[0])
                        a, b = min(tile, other), max(tile, other)
                        found[a, b] = self._leak(a, b)
        return list(found.values())

    def spread(self, overlap: Overlap) -> list[Leak]:
        """An overlap of two tiles, for all their copies: each member of either family in its part with the first of the other."""
        pairs = [(a, overlap.b) for a in self._kin(overlap.a)] + [(overlap.a, b) for b in self._kin(overlap.b)[1:]]
        found = []
        for a, b in pairs:
            transform = overlap.transform
            if a != overlap.a:
                transform = _chained(self._between(a, overlap.a), transform)
            if b != overlap.b:
                transform = _chained(transform, self._between(overlap.b, b))
            if a > b:
                a, b, transform = b, a, cv2.invertAffineTransform(transform)
            found.append(Leak(a, b, "overlap", overlap.probability, _overlap_words(self._ground, a, b, transform), transform))
        return found

    def _kin(self, tile: int) -> list[int]:
        return self._members[self._group[tile], self._ground.parts[tile]] if tile in self._group else [tile]

    def _is_exact(self, a: int, b: int) -> bool:
        return a in self._exact and self._exact[a] == self._exact.get(b)

    def _turn(self, a: int, b: int) -> str:
        return compose(inverse(self._how[a]), self._how[b])

    def _between(self, a: int, b: int) -> np.ndarray:
        return turn_transform(self._turn(a, b), self._ground.shapes[a])

    def _leak(self, a: int, b: int) -> Leak:
        turn, is_exact = self._turn(a, b), self._is_exact(a, b)
        kind = "re-encoded" if not is_exact else "exact copy" if turn == "same" else "flipped or turned"
        words = "the same pixels" if is_exact else "the same picture, encoded differently"
        return Leak(a, b, kind, 1.0, words if turn == "same" else f"{words}, {turn}", self._between(a, b))


def turn_transform(turn: str, shape: tuple[int, int]) -> np.ndarray:
    """(2, 3): where the pixels (x, y) of a tile of that (height, width) are after one of `copies.TURNS`."""
    corners = np.zeros((*shape, 1), np.uint8)
    height, width = turned(corners, turn).shape[:2]
    # Three marked pixels say where x and y go.
    probe = np.arange(4).reshape(2, 2)
    origin, right, below = (np.argwhere(turned(probe, turn) == value)[0][::-1] for value in (0, 1, 2))
    linear = np.stack([right - origin, below - origin], 1).astype(np.float64)
    return np.concatenate([linear, (origin * [width - 1, height - 1])[:, None]], 1)


def _chained(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], 1)


def _of_edge(ground: Ground, edge: Edge) -> Leak:
    a, b = min(edge.a, edge.b), max(edge.a, edge.b)
    if edge.side == "same":
        return Leak(a, b, "overlap", edge.probability, "the same ground")
    height, width = ground.shapes[edge.a]
    offset = (-width, 0) if edge.side == "right" else (0, -height)
    transform = np.asarray([[1, 0, offset[0]], [0, 1, offset[1]]], np.float64)
    if a != edge.a:
        transform = np.asarray(cv2.invertAffineTransform(transform), np.float64)
    where = {"right": ("to the right of", "to the left of"), "below": ("below", "above")}[edge.side][a != edge.a]
    return Leak(a, b, "neighbour", edge.probability, f"the second lies {where} the first", transform)


def _overlap_words(ground: Ground, a: int, b: int, transform: np.ndarray) -> str:
    corners, laid = common_area(transform, ground.shapes[a], ground.shapes[b])
    shares = [cv2.contourArea(c.astype(np.float32)) / (h * w) for c, (h, w) in ((corners, ground.shapes[a]), (laid, ground.shapes[b]))]
    determinant = float(np.linalg.det(transform[:, :2]))
    zoom, angle = abs(determinant) ** 0.5, float(np.degrees(np.arctan2(transform[1, 0], transform[0, 0])))
    words = [f"{shares[0]:.0%} of the first, {shares[1]:.0%} of the second"]
    if determinant < 0:
        words.append("mirrored")
    elif abs(angle) > 2:
        words.append(f"turned {abs(angle):.0f}°")
    if not 0.95 < zoom < 1.05:
        words.append(f"zoom {zoom:.2f}")
    return ", ".join(words)


def _judge(ground: Ground, pairs: Sequence[Leak]) -> dict[str, Judged]:
    of_tile: defaultdict[int, list[Leak]] = defaultdict(list)
    for leak in pairs:
        of_tile[leak.a].append(leak)
        of_tile[leak.b].append(leak)
    result = {}
    for part in sorted({part for part in ground.parts if part} - {ground.teacher}, key=lambda part: (part != "val", part)):
        tiles = [i for i, found in enumerate(ground.parts) if found == part]
        total = seen = beside = concerned = 0.0
        by_kind = dict.fromkeys(KINDS, 0)
        for i in tiles:
            area = ground.shapes[i][0] * ground.shapes[i][1]
            total += area
            if leaks := of_tile.get(i):
                by_kind[min((leak.kind for leak in leaks), key=KINDS.index)] += 1
                seen += float(np.count_nonzero(seen_pixels(ground, i, leaks)))
                beside += area * any(leak.kind == "neighbour" or leak.transform is None for leak in leaks)
                concerned += area
        whole = max(total, 1.0)
        result[part] = Judged(len(tiles), int(total), seen / whole, beside / whole, concerned / whole, by_kind)
    return result


def seen_pixels(ground: Ground, tile: int, leaks: Iterable[Leak]) -> np.ndarray:
    """(H, W) bool: the pixels of a tile whose ground is shown by the other tiles of `leaks` too."""
    seen = np.zeros(ground.shapes[tile], np.uint8)
    for leak in leaks:
        if leak.transform is not None:
            corners = common_area(leak.transform, ground.shapes[leak.a], ground.shapes[leak.b])[0 if tile == leak.a else 1]
            if len(corners):
                # fillPoly draws a pixel whose centre the outline crosses; a hair inside, neighbours of the ground stay out.
                cv2.fillPoly(seen, [np.rint((corners + (corners.mean(0) - corners) * 1e-3) * 16).astype(np.int32)], 1, shift=4)
    return seen.astype(bool)
