"""One tile's files: decode an image, decode and encode a label. It finds no files and knows no data set.

An image is an array (H, W, C) in the file's own dtype, colours in the order red, green, blue; a label is (H, W) uint8 of class ids.
"""

from __future__ import annotations

import io
import struct
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from landseg.core.classes import LandClass, palette
from landseg.core.errors import LandsegError
from landseg.data import places
from landseg.data.archive import DamagedEntry

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gtif", ".npy"})
"""File endings (lower case) that may hold a tile."""

MAX_PIXELS = 400_000_000
"""A tile larger than this (20,000 × 20,000) is a scene, or a header that lies; decoding it could exhaust the memory."""

MAX_VALUES = 4 * MAX_PIXELS
"""The same with the bands counted."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_PALETTE, _PNG_GREY_ALPHA, _PNG_RGBA = 0, 3, 4, 6
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_JPEG = b"\xff\xd8"
_NPY = b"\x93NUMPY"
# numpy reads an array's header as a Python literal: all that a parser may say of a damaged one.
_NPY_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


# A damaged file is ours to report, by name; cv2 would write lines without one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class TileHeader:
    """What an image file says of itself: pixels, bands and numpy dtype name."""

    height: int
    width: int
    bands: int
    dtype: str


class UnreadableTile(Exception):
    """A file that holds no picture: truncated, empty, or something else under a picture's name. Its text is the reason."""


def read_bytes(path: Path) -> bytes:
    """The file's bytes; it may lie in a zip, as `places` has it.

    Raises:
        UnreadableTile: It cannot be opened, is damaged in its zip, or is empty.
        LandsegError: Its zip is damaged as a whole, or hostile.
    """
    try:
        data = places.read(path)
    except OSError as error:
        raise UnreadableTile(error.strerror or str(error)) from error
    except DamagedEntry as error:
        raise UnreadableTile(str(error)) from error
    if not data:
        raise UnreadableTile("the file is empty")
    return data


def decode_image(data: bytes, *, keep_alpha: bool = False) -> np.ndarray:
    """Decode an image of any band count and bit depth.

    A PNG's alpha is transparency, not a band, and is dropped; the bands of a TIFF are all kept.

    Args:
        data: The file's bytes (JPEG, PNG, BMP, TIFF or NPY by content; the file's ending does not count).
        keep_alpha: A PNG with transparency gives red, green, blue and alpha.

    Returns:
        (H, W, C) in the file's dtype.

    Raises:
        UnreadableTile: It does not decode.
    """
    if data.startswith(_NPY):
        return _decode_npy(data)
    if data.startswith(_TIFF):
        return _decode_tiff(data)
    header = read_header(data)
    _check_whole(data, header)
    if data.startswith(_PNG) and data[25] == _PNG_PALETTE:
        return _decode_pillow(data, "RGBA" if keep_alpha and b"tRNS" in data[: data.find(b"IDAT")] else "RGB")
    if keep_alpha and data.startswith(_PNG) and data[25] in (_PNG_GREY_ALPHA, _PNG_RGBA):
        return cv2.cvtColor(_imdecode(data, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    # cv2 drops alpha with these flags and expands nothing else; 16 bits stay 16 bits.
    flags = cv2.IMREAD_GRAYSCALE if header.bands == 1 else cv2.IMREAD_COLOR_RGB
    flags |= cv2.IMREAD_ANYDEPTH if header.dtype == "uint16" else 0
    image = _imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    return image if image.ndim == 3 else image[:, :, None]


def decode_label(data: bytes) -> np.ndarray:
    """Decode a label file to what stands in it, palette images to their indices.

    Returns:
        (H, W) in the file's dtype where it holds one number a pixel; (H, W, C) where it is a picture in colours, a PNG's alpha kept.

    Raises:
        UnreadableTile: It does not decode.
    """
    if data.startswith(_PNG):
        _check_whole(data, read_header(data))
        if data[25] == _PNG_PALETTE:
            return _decode_pillow(data, None)
        if data[25] == _PNG_GREY and data[24] < 8:
            # cv2 stretches 1, 2 and 4 bit greys to 0..255; the codes are what the file says.
            return _decode_small_grey(data)
        if data[25] == _PNG_GREY and data[24] == 8:
            return _imdecode(data, cv2.IMREAD_GRAYSCALE)
    codes = decode_image(data, keep_alpha=True)
    return codes[:, :, 0] if codes.shape[2] == 1 else codes


def decode_codes(data: bytes) -> np.ndarray:
    """Decode a label file to the codes in it: palette images by their indices, grey colour pictures by their grey.

    Returns:
        (H, W) uint8 or uint16; other whole numbers are kept when they fit 0..65535.

    Raises:
        UnreadableTile: It does not decode, has several bands, or holds no whole numbers from 0 to 65535.
    """
    codes = decode_label(data)
    if codes.ndim == 3:
        if codes.shape[2] not in (3, 4) or (codes[:, :, 1:3] != codes[:, :, :1]).any():
            raise UnreadableTile(f"a label has one band, this has {codes.shape[2]}")
        codes = np.ascontiguousarray(codes[:, :, 0])
    if codes.dtype in (np.uint8, np.uint16):
        return codes
    # A NaN fails both comparisons, so they are asked for what must hold.
    if not (codes.min() >= 0 and float(codes.max()) <= 65535) or (codes != codes.astype(np.uint16)).any():
        raise UnreadableTile(f"label values are whole numbers from 0 to 65535, this holds {codes.dtype} outside them")
    return codes.astype(np.uint16)


def read_palette(data: bytes) -> np.ndarray | None:
    """The colours of a palette PNG, (N, 3) uint8, without decoding its pixels; None where the file is none."""
    if not data.startswith(_PNG) or len(data) < 26 or data[25] != _PNG_PALETTE:
        return None
    at = len(_PNG)
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"PLTE":
            colours = data[at + 8 : at + 8 + length // 3 * 3]
            return np.frombuffer(colours[: len(colours) // 3 * 3], np.uint8).reshape(-1, 3)
        at += 12 + length
    return None


def read_header(data: bytes) -> TileHeader:
    """Shape and dtype of what `decode_image` gives, without decoding the pixels.

    Raises:
        UnreadableTile: The header cannot be read, or promises a scene.
    """
    if data.startswith(_NPY):
        return _npy_header(data)
    if data.startswith(_TIFF):
        return _tiff_header(data)
    if data.startswith(_PNG):
        if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
            raise UnreadableTile("the PNG has no header")
        width, height, depth, colour_type = struct.unpack(">IIBB", data[16:26])
        header = TileHeader(height, width, 1 if colour_type in (_PNG_GREY, _PNG_GREY_ALPHA) else 3, "uint16" if depth == 16 else "uint8")
    elif data.startswith(_JPEG):
        height, width, components = _jpeg_frame(data)
        header = TileHeader(height, width, 1 if components == 1 else 3, "uint8")
    elif data.startswith(b"BM") and len(data) >= 26:
        # The oldest form has a header of 12 bytes and 16-bit sizes; a negative height means that rows run downwards.
        width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
        header = TileHeader(abs(height), abs(width), 3, "uint8")
    else:
        raise UnreadableTile(f"no picture is in it (it begins with {data[:8]!r})")
    _check_pixels(header.width, header.height, header.bands)
    return header


def encode_label(ids: np.ndarray, classes: Sequence[LandClass] | None = None) -> bytes:
    """Class ids (H, W) uint8 → PNG: with a palette of the classes' colours, or greyscale when `classes` is None."""
    if classes is None:
        return bytes(cv2.imencode(".png", ids)[1])
    picture = Image.fromarray(ids).convert("P") if ids.dtype != np.uint8 else Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    picture.putpalette(palette(classes))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_image(pixels: np.ndarray, suffix: str = ".png", options: Sequence[int] = ()) -> bytes:
    """Pixels (H, W) or (H, W, C), colours in the order red, green, blue → a file of the format that `suffix` names; `options` are OpenCV's.

    Raises:
        LandsegError: The format cannot hold such pixels.
    """
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[:, :, ::-1] if is_colour else pixels), list(options))
    except cv2.error:
        done, data = False, np.zeros(0, np.uint8)
    if not done:
        raise LandsegError("image", f"shape {pixels.shape} of {pixels.dtype}", f"what {suffix} can hold", "choose another format")
    return bytes(data)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableTile(f"it does not decode ({str(error).splitlines()[0][:80]})") from error
    if image is None:
        raise UnreadableTile("it does not decode (truncated or damaged)")
    return image


def _npy_header(data: bytes) -> TileHeader:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except _NPY_ERRORS as error:
        raise UnreadableTile(f"not a NumPy array ({(str(error) or type(error).__name__).splitlines()[0][:80]})") from error
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) < 1 or dtype.kind not in "buif":
        raise UnreadableTile(f"an image is (height, width, bands) of numbers, this is {shape} {dtype}")
    _check_pixels(shape[1], shape[0], shape[2])
    if len(data) - stream.tell() < shape[0] * shape[1] * shape[2] * dtype.itemsize:
        raise UnreadableTile("the NumPy array ends before its numbers do")
    return TileHeader(shape[0], shape[1], shape[2], dtype.newbyteorder("=").name)


def _decode_npy(data: bytes) -> np.ndarray:
    header = _npy_header(data)
    image: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return np.ascontiguousarray(image.reshape(header.height, header.width, header.bands), dtype=header.dtype)


@contextmanager
def _opened_tiff(data: bytes) -> Iterator[tuple[Any, TileHeader]]:
    # Imported here: GDAL takes a third of a second to load, and most tiles are JPEG and PNG.
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    # A tile without a place on earth is no fault. Not `catch_warnings`: it swaps the filters of all threads, and tiles are decoded on many.
    if not any(entry[2] is NotGeoreferencedWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    try:
        with MemoryFile(data) as memory, memory.open() as source:
            header = TileHeader(source.height, source.width, source.count, source.dtypes[0])
            if header.bands < 1 or np.dtype(header.dtype).kind not in "uif":
                raise UnreadableTile(f"an image is bands of real numbers, this has {header.bands} of {header.dtype}")
            _check_pixels(header.width, header.height, header.bands)
            yield source, header
    except (RasterioError, TypeError, ValueError) as error:
        # TypeError and ValueError: rasterio on types and tags that no TIFF should have.
        # rasterio's own words often are "see previous exception"; GDAL's begin with a random name of the file in memory.
        reason = str(error.__cause__ or error).rpartition(".tif, ")[2]
        raise UnreadableTile(f"not a readable TIFF ({reason[:120]})") from error


def _tiff_header(data: bytes) -> TileHeader:
    with _opened_tiff(data) as (_, header):
        return header


def _decode_tiff(data: bytes) -> np.ndarray:
    with _opened_tiff(data) as (source, _):
        image: np.ndarray = source.read()
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _decode_pillow(data: bytes, mode: str | None) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture if mode is None else picture.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableTile(f"it does not decode ({str(error)[:80]})") from error


def _decode_small_grey(data: bytes) -> np.ndarray:
    levels = (1 << data[24]) - 1
    stretched = _imdecode(data, cv2.IMREAD_GRAYSCALE)
    return (stretched // (255 // levels)).astype(np.uint8)


def _jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Height, width and number of components (1 grey, 3 colour) in a JPEG's frame header. Source: ITU-T T.81, B.2.2."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width, data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise UnreadableTile("the JPEG has no frame header")


def _check_pixels(width: int, height: int, bands: int = 1) -> None:
    if width < 1 or height < 1:
        raise UnreadableTile(f"the header says {height} × {width} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableTile(f"{height} × {width} pixels are a scene, not a tile (more than {MAX_PIXELS:,})")
    if width * height * bands > MAX_VALUES:
        raise UnreadableTile(f"{height} × {width} pixels of {bands} bands are too many for a tile (more than {MAX_VALUES:,} values)")


def _check_whole(data: bytes, header: TileHeader) -> None:
    """Refuse a file that is cut, or too short for the pixels that its header promises, before memory is taken for them.

    Source: deflate expands 1032 times at most (zlib's technical details); the densest JPEG has 512 pixels a byte, the densest BMP 128.
    """
    packed = header.height * header.width
    if data.startswith(_PNG):
        at, has_pixels = len(_PNG), False
        while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":
            has_pixels |= data[at + 4 : at + 8] == b"IDAT"
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        if at + 12 > len(data):
            raise UnreadableTile("the PNG ends before its picture does")
        if not has_pixels:
            # OpenCV 5.0.0 would take gigabytes while it looks for them.
            raise UnreadableTile("the PNG holds no pixels")
        packed = header.height * (header.width * data[24] * _PNG_SAMPLES.get(data[25], 1) // 8)
    elif data.startswith(_JPEG) and data.rstrip(b"\0")[-2:] != b"\xff\xd9" and data.rfind(b"\xff\xd9") < len(data) // 2:
        raise UnreadableTile("the JPEG ends before its picture does")
    if packed > 1032 * len(data):
        raise UnreadableTile(f"it ends before its {header.height} × {header.width} pixels do")
