"""Plant a stated fault into the files of some tiles, as real data sets have them. It finds none.

The tests hold the audit to what is planted here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.files import write_bytes
from landseg.data.tiles import decode_codes, decode_image, encode_image

_TURNS = ("left-right", "up-down", "quarter", "half", "three quarters", "transposed", "anti-transposed")
_NODATA_SHARE = 0.4  # of a side: a sixth of the tile, as where a scene ends
_GAP = 40  # what an annotator who counts in other units wrote: far from every class and from 255


@dataclass
class _Set:
    """A folder pair of which some tiles are about to be spoilt."""

    images: dict[str, Path]
    labels: dict[str, Path]
    rng: np.random.Generator

    def image(self, name: str) -> np.ndarray:
        return decode_image(self.images[name].read_bytes())

    def label(self, name: str) -> np.ndarray:
        return decode_codes(self.labels[name].read_bytes())

    def put_image(self, name: str, image: np.ndarray) -> None:
        _replace(self.images[name], image)

    def put_label(self, name: str, label: np.ndarray) -> None:
        _replace(self.labels[name], label)


def spoil(folder: Path, kind: str, *, count: int = 3, seed: int = 0) -> tuple[str, ...]:
    """Plant one kind of fault into the tiles of a folder pair, in place.

    Args:
        folder: Holds ``images`` and ``labels`` with files of equal stems, as `world.write_tiles` writes them.
        kind: One of `KINDS`.
        count: How many tiles to spoil; each gets the fault once.
        seed: Chooses the tiles and where in them.

    Returns:
        Names of the spoilt tiles, sorted; of copies, the names of the new tiles.

    Raises:
        LandsegError: No such kind, or fewer tiles than `count`.
    """
    if kind not in KINDS:
        raise LandsegError("kind", repr(kind), f"one of {', '.join(KINDS)}", "choose one of them")
    images, labels = ({path.stem: path for path in sorted((folder / role).iterdir())} for role in ("images", "labels"))
    names = sorted(images.keys() & labels.keys())
    if not 1 <= count <= len(names):
        raise LandsegError("count", str(count), f"1 to {len(names)}, the tiles in {folder}", "choose fewer or write more tiles")
    rng = np.random.Generator(np.random.PCG64([seed, KINDS.index(kind)]))
    chosen = sorted(names[i] for i in rng.choice(len(names), count, replace=False))
    tiles = _Set(images, labels, rng)
    return tuple(sorted(_FAULTS[kind](tiles, name) for name in chosen))


def _orphan_image(tiles: _Set, name: str) -> str:
    tiles.labels[name].unlink()
    return name


def _orphan_label(tiles: _Set, name: str) -> str:
    tiles.images[name].unlink()
    return name


def _truncated_image(tiles: _Set, name: str) -> str:
    return _cut(tiles.images[name], name)


def _truncated_label(tiles: _Set, name: str) -> str:
    return _cut(tiles.labels[name], name)


def _empty_image(tiles: _Set, name: str) -> str:
    write_bytes(tiles.images[name], b"")
    return name


def _text_image(tiles: _Set, name: str) -> str:
    write_bytes(tiles.images[name], b"<html><body>404 Not Found</body></html>\n")
    return name


def _lying_ending(tiles: _Set, name: str) -> str:
    data = encode_image(tiles.image(name))
    tiles.images[name].unlink()
    write_bytes(tiles.images[name].with_suffix(".jpg"), data)
    return name


def _illegal_value(tiles: _Set, name: str) -> str:
    label = tiles.label(name).copy()
    label[_square(tiles.rng, label.shape, 0.2)] = int(label[label != IGNORE_INDEX].max(initial=0)) + _GAP
    tiles.put_label(name, label)
    return name


def _unlabelled(tiles: _Set, name: str) -> str:
    tiles.put_label(name, np.full_like(tiles.label(name), IGNORE_INDEX))
    return name


def _copy(tiles: _Set, name: str) -> str:
    return _add(tiles, name, lambda pixels: pixels)


def _turned_copy(tiles: _Set, name: str) -> str:
    turn = _TURNS[int(tiles.rng.integers(len(_TURNS)))]
    return _add(tiles, name, lambda pixels: _turned(pixels, turn))


def _copy_with_other_label(tiles: _Set, name: str) -> str:
    copied = _add(tiles, name, lambda pixels: pixels)
    label = tiles.label(name).copy()
    place = _square(tiles.rng, label.shape, 0.3)
    label[place] = np.where(label[place] == 0, 1, 0)
    write_bytes(tiles.labels[name].with_name(f"{copied}.png"), encode_image(label))
    return copied


def _label_off_by_one(tiles: _Set, name: str) -> str:
    label = tiles.label(name)
    tiles.put_label(name, np.pad(label, ((0, 1), (0, 0)), mode="edge") if tiles.rng.random() < 0.5 else label[:, :-1])
    return name


def _label_half_size(tiles: _Set, name: str) -> str:
    tiles.put_label(name, tiles.label(name)[::2, ::2])
    return name


def _white_nodata(tiles: _Set, name: str) -> str:
    return _blank(tiles, name, is_white=True)


def _black_nodata(tiles: _Set, name: str) -> str:
    return _blank(tiles, name, is_white=False)


def _inverted(tiles: _Set, name: str) -> str:
    label = tiles.label(name)
    tiles.put_label(name, np.where(label == IGNORE_INDEX, label, np.where(label == 0, 1, 0)).astype(label.dtype))
    return name


def _interpolated_label(tiles: _Set, name: str) -> str:
    label = tiles.label(name)
    height, width = label.shape
    small = cv2.resize(label, (width * 2 // 3, height * 2 // 3), interpolation=cv2.INTER_LINEAR)
    tiles.put_label(name, cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
    return name


def _jpeg_label(tiles: _Set, name: str) -> str:
    data = encode_image(tiles.label(name), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])
    tiles.labels[name].unlink()
    write_bytes(tiles.labels[name].with_suffix(".jpg"), data)
    return name


def _ids_from_one(tiles: _Set, name: str) -> str:
    label = tiles.label(name)
    tiles.put_label(name, np.where(label == IGNORE_INDEX, label, label + 1).astype(label.dtype))
    return name


def _other_palette(tiles: _Set, name: str) -> str:
    """The same picture to the eye: the colours in another order, and the indices with them."""
    label = tiles.label(name)
    ids = [int(value) for value in np.unique(label) if value != IGNORE_INDEX]
    swapped = label.copy()
    for value in ids:
        swapped[label == value] = max(ids) - value
    colours = [_colour(max(ids) - i) if i <= max(ids) else (255, 255, 255) for i in range(256)]
    _write_palette(tiles.labels[name], swapped, colours)
    return name


def _usual_palette(tiles: _Set, name: str) -> str:
    _write_palette(tiles.labels[name], tiles.label(name), [_colour(i) for i in range(255)] + [(255, 255, 255)])
    return name


def _flat_image(tiles: _Set, name: str) -> str:
    image = tiles.image(name)
    tiles.put_image(name, np.full_like(image, int(tiles.rng.integers(30, 200))))
    return name


def _grey_image(tiles: _Set, name: str) -> str:
    tiles.put_image(name, tiles.image(name)[:, :, :1])
    return name


def _deep_image(tiles: _Set, name: str) -> str:
    tiles.put_image(name, tiles.image(name).astype(np.uint16) * 16)
    return name


_FAULTS: dict[str, Callable[[_Set, str], str]] = {
    "orphan image": _orphan_image,
    "orphan label": _orphan_label,
    "truncated image": _truncated_image,
    "truncated label": _truncated_label,
    "empty image": _empty_image,
    "text image": _text_image,
    "lying ending": _lying_ending,
    "illegal value": _illegal_value,
    "unlabelled": _unlabelled,
    "copy": _copy,
    "turned copy": _turned_copy,
    "copy with other label": _copy_with_other_label,
    "label off by one pixel": _label_off_by_one,
    "label of half size": _label_half_size,
    "white nodata": _white_nodata,
    "black nodata": _black_nodata,
    "inverted": _inverted,
    "interpolated label": _interpolated_label,
    "jpeg label": _jpeg_label,
    "ids from one": _ids_from_one,
    "usual palette": _usual_palette,
    "other palette": _other_palette,
    "flat image": _flat_image,
    "grey image": _grey_image,
    "deep image": _deep_image,
}

KINDS = tuple(_FAULTS)
"""The faults. ``usual palette`` is none by itself, but what ``other palette`` differs from; ``inverted`` is for labels of two classes."""


def _replace(path: Path, pixels: np.ndarray) -> None:
    """Write pixels in the place of a file, in its own format where that holds them without loss."""
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        write_bytes(path, buffer.getvalue())
        return
    path.unlink()
    write_bytes(path.with_suffix(".png"), encode_image(pixels))


def _cut(path: Path, name: str) -> str:
    data = path.read_bytes()
    write_bytes(path, data[: len(data) * 2 // 3])
    return name


def _square(rng: np.random.Generator, shape: Sequence[int], share: float) -> tuple[slice, slice]:
    """A random rectangle, `share` of each side long."""
    sides = [max(1, round(side * share)) for side in shape[:2]]
    starts = [int(rng.integers(0, side - length + 1)) for side, length in zip(shape[:2], sides, strict=True)]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def _blank(tiles: _Set, name: str, *, is_white: bool) -> str:
    """A corner without data under a label that has classes there."""
    image, label = tiles.image(name).copy(), tiles.label(name).copy()
    rows, cols = (round(side * _NODATA_SHARE) for side in label.shape)
    image[:rows, :cols] = np.iinfo(image.dtype).max if is_white else 0
    label[:rows, :cols] = 0
    tiles.put_image(name, image)
    tiles.put_label(name, label)
    return name


def _add(tiles: _Set, name: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """A second tile, made of the first; a new name that does not tell."""
    copied = f"x{int(tiles.rng.integers(10**8)):08d}"
    for path, pixels in ((tiles.images[name], tiles.image(name)), (tiles.labels[name], tiles.label(name))):
        write_bytes(path.with_name(f"{copied}.png"), encode_image(np.ascontiguousarray(change(pixels))))
    return copied


def _turned(pixels: np.ndarray, turn: str) -> np.ndarray:
    axes = (1, 0, *range(2, pixels.ndim))
    changed = {
        "left-right": lambda: pixels[:, ::-1],
        "up-down": lambda: pixels[::-1],
        "quarter": lambda: np.rot90(pixels),
        "half": lambda: np.rot90(pixels, 2),
        "three quarters": lambda: np.rot90(pixels, 3),
        "transposed": lambda: pixels.transpose(axes),
        "anti-transposed": lambda: np.rot90(pixels.transpose(axes), 2),
    }
    return changed[turn]()


def _colour(i: int) -> tuple[int, int, int]:
    return (37 * i + 60) % 256, (91 * i + 20) % 256, (151 * i + 110) % 256


def _write_palette(path: Path, label: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> None:
    picture = Image.frombytes("P", (label.shape[1], label.shape[0]), label.astype(np.uint8).tobytes())
    picture.putpalette([value for colour in colours for value in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path.unlink()
    write_bytes(path.with_suffix(".png"), buffer.getvalue())
