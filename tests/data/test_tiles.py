"""Tiles: every format comes back as it was written, and no byte string brings anything but a picture or `UnreadableTile`."""

from __future__ import annotations

import io
import struct
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from landseg.core.classes import make_classes
from landseg.data.tiles import (
    MAX_PIXELS,
    UnreadableTile,
    decode_codes,
    decode_image,
    decode_label,
    encode_label,
    read_bytes,
    read_header,
    read_palette,
)

RNG = np.random.default_rng(3)
CLASSES = make_classes(["building 建筑", "road", "water"])


def noise(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return RNG.normal(0, 1, shape).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype, endpoint=True)


def cv_bytes(image: np.ndarray, ending: str) -> bytes:
    """Encode an array whose bands are in the order red, green, blue(, alpha)."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(ending, image)[1])


def pil_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff_bytes(image: np.ndarray, **options: object) -> bytes:
    from rasterio.io import MemoryFile

    height, width, bands = image.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", height=height, width=width, count=bands, dtype=image.dtype, **options) as target:
                target.write(image.transpose(2, 0, 1))
            return bytes(memory.read())


def npy_bytes(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image)
    return buffer.getvalue()


def grey_png(codes: np.ndarray, bits: int) -> bytes:
    """A greyscale PNG of 1, 2 or 4 bits a pixel, as GIS tools write small label sets (no library here writes 2 and 4)."""
    import zlib

    height, width = codes.shape
    per_byte = 8 // bits
    padded = np.zeros((height, -(-width // per_byte) * per_byte), np.uint8)
    padded[:, :width] = codes
    packed = np.zeros((height, padded.shape[1] // per_byte), np.uint8)
    for i in range(per_byte):
        packed |= padded[:, i::per_byte] << (8 - bits * (i + 1))
    lines = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


RGB, GREY, RGBA = noise((19, 23, 3)), noise((19, 23)), noise((19, 23, 4))

LOSSLESS = {
    "png rgb": (cv_bytes(RGB, ".png"), RGB),
    "png grey": (cv_bytes(GREY, ".png"), GREY[:, :, None]),
    "png rgba drops alpha": (cv_bytes(RGBA, ".png"), RGBA[:, :, :3]),
    "png grey alpha drops alpha": (pil_bytes(Image.merge("LA", [Image.fromarray(GREY)] * 2), "PNG"), GREY[:, :, None]),
    "png 16 bit grey": (cv_bytes(noise((19, 23), "uint16"), ".png"), None),
    "png 16 bit rgb": (cv_bytes(noise((19, 23, 3), "uint16"), ".png"), None),
    "png 16 bit rgba": (cv_bytes(noise((19, 23, 4), "uint16"), ".png"), None),
    "png 1 bit": (grey_png(GREY & 1, 1), (GREY & 1)[:, :, None] * 255),
    "png 4 bit": (grey_png(GREY & 15, 4), (GREY & 15)[:, :, None] * 17),
    "png palette": (encode_label(GREY % 3, CLASSES), np.array([item.rgb for item in CLASSES], np.uint8)[GREY % 3]),
    "bmp rgb": (cv_bytes(RGB, ".bmp"), RGB),
    "bmp grey": (cv_bytes(GREY, ".bmp"), None),
    "tif uint8": (tiff_bytes(RGB), RGB),
    "npy": (npy_bytes(RGB), RGB),
    "npy grey": (npy_bytes(GREY), GREY[:, :, None]),
    "npy float32": (npy_bytes(noise((19, 23, 5), "float32")), None),
    "npy big endian": (npy_bytes(noise((19, 23, 4), "int16").astype(">i2")), None),
    "npy fortran order": (npy_bytes(np.asfortranarray(RGB)), RGB),
} | {
    f"tif {bands} bands {dtype}": (tiff_bytes(image), image)
    for bands in (1, 4, 8)
    for dtype in ("int16", "uint16", "float32")
    for image in [noise((19, 23, bands), dtype)]
}  # fmt: skip
LOSSY = {
    "jpg rgb": cv_bytes(RGB, ".jpg"),
    "jpg grey": cv_bytes(GREY, ".jpg"),
    "jpg cmyk": pil_bytes(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "jpg progressive": pil_bytes(Image.fromarray(RGB), "JPEG", progressive=True),
}
FILES = {name: data for name, (data, _) in LOSSLESS.items()} | LOSSY


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_come_back_bit_for_bit(name: str) -> None:
    data, expected = LOSSLESS[name]
    image = decode_image(data)
    if expected is not None:
        np.testing.assert_array_equal(image, expected)
        assert image.dtype == expected.dtype
    assert image.dtype.isnative and image.flags.c_contiguous


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_png_of_16_bits_keeps_them(bands: int) -> None:
    image = noise((7, 9, bands) if bands > 1 else (7, 9), "uint16")
    np.testing.assert_array_equal(decode_image(cv_bytes(image, ".png")), image.reshape(7, 9, bands)[:, :, :3])


def test_npy_of_the_other_byte_order_keeps_its_values() -> None:
    image = noise((5, 6, 2), "int16")
    decoded = decode_image(npy_bytes(image.astype(">i2")))
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == np.int16


@pytest.mark.parametrize("name", LOSSY)
def test_jpeg_keeps_size_and_bands(name: str) -> None:
    assert decode_image(LOSSY[name]).shape == (19, 23, 1 if "grey" in name else 3)


def test_jpeg_colours_are_red_green_blue_and_orientation_tags_are_not_obeyed() -> None:
    red = np.zeros((16, 24, 3), np.uint8)
    red[:, :, 0] = 250
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(pil_bytes(Image.fromarray(red), "JPEG", exif=exif))
    assert image.shape == (16, 24, 3)
    assert image[..., 0].mean() > 200
    assert image[..., 2].mean() < 50


@pytest.mark.parametrize("name", FILES)
def test_header_agrees_with_the_pixels(name: str) -> None:
    image, header = decode_image(FILES[name]), read_header(FILES[name])
    assert (header.height, header.width, header.bands, header.dtype) == (*image.shape, image.dtype.name)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.booleans())
def test_encoded_labels_come_back(ids: np.ndarray, with_palette: bool) -> None:
    np.testing.assert_array_equal(decode_codes(encode_label(ids, CLASSES if with_palette else None)), ids)


@pytest.mark.parametrize("bits", [1, 2, 4])
@given(seed=st.integers(0, 1000), width=st.integers(1, 17))
def test_codes_of_few_bits_are_what_the_file_says(bits: int, seed: int, width: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (5, width), np.uint8)
    np.testing.assert_array_equal(decode_codes(grey_png(codes, bits)), codes)


@pytest.mark.parametrize("colours", [2, 4, 16, 200])
def test_palette_codes_are_indices_whatever_the_colours(colours: int) -> None:
    codes = noise((9, 11)) % colours
    picture = Image.fromarray(codes).convert("P")
    picture.putpalette([7] * (colours * 3))
    data = pil_bytes(picture, "PNG", bits={2: 1, 4: 2, 16: 4, 200: 8}[colours])
    np.testing.assert_array_equal(decode_codes(data), codes)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "float32", "bool"])
def test_codes_of_any_whole_type(dtype: str) -> None:
    codes = (noise((6, 5)) % 2).astype(dtype)
    np.testing.assert_array_equal(decode_codes(npy_bytes(codes)), codes.astype(np.uint16))


def test_codes_of_grey_rgb_are_one_band() -> None:
    np.testing.assert_array_equal(decode_codes(cv_bytes(np.dstack([GREY] * 3), ".png")), GREY)
    np.testing.assert_array_equal(decode_codes(cv_bytes(GREY, ".bmp")), GREY)


@pytest.mark.parametrize(
    "codes",
    [
        np.full((3, 3), 0.5, np.float32),
        np.full((3, 3), np.nan, np.float32),
        np.full((3, 3), np.inf, np.float16),
        np.full((3, 3), -1, np.int16),
        np.full((3, 3), 70_000, np.int32),
        np.full((3, 3), 2**63, np.uint64),
        np.full((3, 3), 1j),
        RGB,
    ],
    ids=["half", "nan", "inf", "negative", "large", "huge", "complex", "colours"],
)
def test_codes_that_are_no_ids_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(UnreadableTile):
        decode_codes(npy_bytes(codes))


def test_a_label_is_what_stands_in_its_file() -> None:
    np.testing.assert_array_equal(decode_label(cv_bytes(RGBA, ".png")), RGBA)
    np.testing.assert_array_equal(decode_label(cv_bytes(RGB, ".png")), RGB)
    np.testing.assert_array_equal(decode_label(npy_bytes(np.full((3, 4), -1, np.int16))), np.full((3, 4), -1))
    grey_alpha = decode_label(pil_bytes(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(RGB[:, :, 0])]), "PNG"))
    np.testing.assert_array_equal(grey_alpha, np.dstack([GREY, GREY, GREY, RGB[:, :, 0]]))


def test_a_palette_is_read_without_the_pixels() -> None:
    data = encode_label(GREY % 3, CLASSES)
    palette = read_palette(data)
    assert palette is not None and palette.dtype == np.uint8
    np.testing.assert_array_equal(palette[:3], [item.rgb for item in CLASSES])
    assert read_palette(cv_bytes(RGB, ".png")) is None and read_palette(b"") is None and read_palette(data[:40]) is None


def test_a_palette_with_a_transparent_colour_keeps_it_on_request() -> None:
    picture = Image.fromarray(GREY % 2).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    data = pil_bytes(picture, "PNG", transparency=1)
    image = decode_image(data, keep_alpha=True)
    np.testing.assert_array_equal(image[:, :, 3], np.where(GREY % 2, 0, 255))
    assert decode_image(data).shape[2] == 3


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<html>not an image</html>", b"PK\3\4", b"\x89PNG\r\n\x1a\n", b"BM", b"\xff\xd8", b"II*\0", b"\x93NUMPY"]
)
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    for read in (decode_image, decode_codes, read_header):
        with pytest.raises(UnreadableTile):
            read(data)


def test_a_missing_or_empty_file_is_unreadable(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("empty.png", "absent.png", "."):
        with pytest.raises(UnreadableTile):
            read_bytes(tmp_path / name)


def huge_header(name: str) -> bytes:
    """A file whose header promises more pixels than a tile has, and nothing after it."""
    data = bytearray(FILES[name])
    if name.startswith("png"):
        data[16:24] = struct.pack(">II", 60_000, 60_000)
    elif name.startswith("bmp"):
        data[18:26] = struct.pack("<ii", 30_000, -30_000)
    elif name.startswith("npy"):
        head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 60000, 3), }"
        data = bytearray(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head)
    return bytes(data)


@pytest.mark.parametrize("name", ["png rgb", "png palette", "png 4 bit", "bmp rgb", "npy"])
def test_a_header_that_lies_about_its_size_costs_no_memory(name: str) -> None:
    for read in (decode_image, decode_codes):
        with pytest.raises(UnreadableTile) as caught:
            read(huge_header(name))
        assert f"{MAX_PIXELS:,}" in str(caught.value)


@pytest.mark.parametrize("name", ["png rgb", "png grey", "png palette"])
def test_a_png_without_pixels_is_not_handed_on(name: str) -> None:
    data = FILES[name].replace(b"IDAT", b"IDvT")
    for read in (decode_image, decode_codes):
        with pytest.raises(UnreadableTile, match="holds no pixels"):
            read(data)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_unreadable(name: str) -> None:
    """Cut in the middle of its pixels, no format may pass for whole."""
    data = FILES[name]
    for share in (0.3, 0.6, 0.8):
        cut = data[: int(len(data) * share)]
        with pytest.raises(UnreadableTile):
            decode_image(cut)


@pytest.mark.parametrize("name", FILES)
def test_no_mutation_brings_another_exception(name: str) -> None:
    data = FILES[name]
    rng = np.random.default_rng(len(data))
    mutations = [data[:cut] for cut in rng.integers(0, min(len(data), 200), 12)]
    for _ in range(24):
        changed = bytearray(data)
        # Headers are where a change does harm: half of the changes go there.
        for at in (*rng.integers(0, min(len(data), 80), 2), *rng.integers(0, len(data), 2)):
            changed[at] = int(rng.integers(0, 256))
        mutations.append(bytes(changed))
    for mutated in mutations:
        for read in (decode_image, decode_codes, read_header):
            try:
                result = read(mutated)
            except UnreadableTile as error:
                assert str(error)
            else:
                assert isinstance(result, np.ndarray) is (read is not read_header)


def test_the_reason_of_a_damaged_tiff_is_gdals_and_the_same_each_time() -> None:
    data = bytearray(tiff_bytes(noise((64, 64, 3)), compress="deflate"))
    at = data.find(b"\x78", 8)
    data[at : at + 400] = bytes(400)

    def reason() -> str:
        with pytest.raises(UnreadableTile) as caught:
            decode_image(bytes(data))
        return str(caught.value)

    assert reason() == reason() and "band 1" in reason() and "previous exception" not in reason()
