"""Every rule of the competition zip is broken on purpose and named; what is built passes and has the same bytes each time."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.data.tiles import encode_label
from landseg.product.submission import RULES, Violation, build, expected, lint, refusal

CLASSES = make_classes(["building", "farmland", "forest", "other"])
SIZES = {str(i): (8, 10) for i in range(1, 6)}


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def pillow(pixels: np.ndarray, mode: str, **options: object) -> bytes:
    picture = Image.fromarray(pixels).convert(mode) if mode != "P" else Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
    if mode == "P":
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 756)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(height: int, width: int, rows: bytes, *, interlace: int = 0, extra: bytes = b"") -> bytes:
    """A grey PNG put together by hand, right or wrong in any part."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make_zip(entries: dict[str, bytes] | list[tuple[str, bytes]], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive, warnings.catch_warnings():  # type: ignore[call-overload]
        warnings.simplefilter("ignore")  # zipfile warns of a name that comes twice; here it shall
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def damaged(entries: dict[str, bytes], at: bytes, offset: int, bits: int = 1) -> bytes:
    data = bytearray(make_zip(entries))
    data[data.index(at) + offset] ^= bits
    return bytes(data)


def flagged(entries: dict[str, bytes], name: str, flag: int) -> bytes:
    """A zip whose directory sets a flag for one name, as an encrypted entry's does."""
    data = bytearray(make_zip(entries))
    for signature, flags_at, name_at in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            if data[at + name_at : at + name_at + len(name)] == name.encode():
                data[at + flags_at] |= flag
    return bytes(data)


def filled(value: int, height: int = 8, width: int = 10) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


GOOD = {f"{i}.png": png(filled(i % 4)) for i in range(1, 6)}
TWO = GOOD["2.png"]
LINK = zipfile.ZipInfo("2.png")
LINK.external_attr = 0o120777 << 16


def without(name: str) -> dict[str, bytes]:
    return {key: value for key, value in GOOD.items() if key != name}


BAD: dict[str, tuple[Callable[[], bytes], set[tuple[str, str]]]] = {
    "nested": (lambda: make_zip({f"result/{name}": data for name, data in GOOD.items()}), {(f"result/{name}", "folder") for name in GOOD}),
    "folder entry": (lambda: make_zip({**GOOD, "result/": b""}), {("result/", "folder")}),
    "missing": (lambda: make_zip(without("5.png")), {("5.png", "missing")}),
    "extra": (lambda: make_zip({**GOOD, "6.png": TWO}), {("6.png", "extra")}),
    "extra text": (lambda: make_zip({**GOOD, "README.txt": b"hello"}), {("README.txt", "extra")}),
    "other name": (lambda: make_zip({**without("2.png"), "two.png": TWO}), {("2.png", "missing"), ("two.png", "extra")}),
    "twice": (lambda: make_zip([*GOOD.items(), ("2.png", TWO)]), {("2.png", "duplicate")}),
    "second spelling": (lambda: make_zip({**GOOD, "2.PNG": TWO}), {("2.PNG", "case"), ("2.PNG", "duplicate")}),
    "ending": (lambda: make_zip({**without("2.png"), "2.tif": TWO}), {("2.tif", "case")}),
    "no ending": (lambda: make_zip({**without("2.png"), "2": TWO}), {("2", "case")}),
    "litter": (
        lambda: make_zip({**GOOD, "__MACOSX/._1.png": b"x", ".DS_Store": b"y"}),
        {("__MACOSX/._1.png", "litter"), (".DS_Store", "litter")},
    ),
    "backslash": (
        lambda: make_zip({**without("2.png"), "result\\2.png": TWO}),
        {("result\\2.png", "backslash"), ("result\\2.png", "folder")},
    ),
    "outside": (lambda: make_zip({**without("2.png"), "../2.png": TWO}), {("../2.png", "folder")}),
    "jpeg": (lambda: make_zip({**GOOD, "2.png": cv2.imencode(".jpg", filled(0))[1].tobytes()}), {("2.png", "png")}),
    "empty": (lambda: make_zip({**GOOD, "2.png": b""}), {("2.png", "png")}),
    "link": (lambda: make_zip([*without("2.png").items(), (LINK, b"1.png")]), {("2.png", "png")}),  # type: ignore[list-item]
    "header only": (lambda: make_zip({**GOOD, "2.png": TWO[:30]}), {("2.png", "broken")}),
    "cut": (lambda: make_zip({**GOOD, "2.png": TWO[:-14]}), {("2.png", "broken")}),
    "no end": (lambda: make_zip({**GOOD, "2.png": TWO[:-12]}), {("2.png", "broken")}),
    "flipped bit": (lambda: make_zip({**GOOD, "2.png": TWO[:50] + bytes([TWO[50] ^ 1]) + TWO[51:]}), {("2.png", "broken")}),
    "too few rows": (lambda: make_zip({**GOOD, "2.png": raw_png(8, 10, bytes(7 * 11))}), {("2.png", "broken")}),
    "too many rows": (lambda: make_zip({**GOOD, "2.png": raw_png(8, 10, bytes(9 * 11))}), {("2.png", "broken")}),
    "png bomb": (lambda: make_zip({**GOOD, "2.png": raw_png(8, 10, bytes(50_000_000))}), {("2.png", "broken")}),
    "zip bomb": (
        lambda: make_zip({**GOOD, "2.png": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED),
        {("2.png", "size")},
    ),
    "rgb": (lambda: make_zip({**GOOD, "2.png": png(np.zeros((8, 10, 3), np.uint8))}), {("2.png", "grey")}),
    "rgba": (lambda: make_zip({**GOOD, "2.png": png(np.zeros((8, 10, 4), np.uint8))}), {("2.png", "grey")}),
    "grey and alpha": (lambda: make_zip({**GOOD, "2.png": pillow(filled(1), "LA")}), {("2.png", "grey")}),
    "transparent grey": (lambda: make_zip({**GOOD, "2.png": pillow(filled(1), "L", transparency=0)}), {("2.png", "grey")}),
    "palette": (lambda: make_zip({**GOOD, "2.png": pillow(filled(2), "P")}), {("2.png", "palette")}),
    "small palette": (lambda: make_zip({**GOOD, "2.png": pillow(filled(2), "P", bits=4)}), {("2.png", "palette"), ("2.png", "depth")}),
    "16 bit": (lambda: make_zip({**GOOD, "2.png": png(np.zeros((8, 10), np.uint16))}), {("2.png", "depth")}),
    "1 bit": (lambda: make_zip({**GOOD, "2.png": pillow(filled(0), "1")}), {("2.png", "depth")}),
    "height": (lambda: make_zip({**GOOD, "2.png": png(filled(0, 7, 10))}), {("2.png", "size")}),
    "turned": (lambda: make_zip({**GOOD, "2.png": png(filled(0, 10, 8))}), {("2.png", "size")}),
    "ignore": (lambda: make_zip({**GOOD, "2.png": png(filled(255))}), {("2.png", "ignore")}),
    "class": (lambda: make_zip({**GOOD, "2.png": png(filled(4))}), {("2.png", "class")}),
    "both values": (
        lambda: make_zip({**GOOD, "2.png": png(np.vstack([filled(255), filled(9)])[4:12])}),
        {("2.png", "class"), ("2.png", "ignore")},
    ),
    "rgb of wrong size": (lambda: make_zip({**GOOD, "2.png": png(np.zeros((9, 9, 3), np.uint8))}), {("2.png", "grey"), ("2.png", "size")}),
    "checksum": (lambda: damaged(GOOD, TWO, 45), {("2.png", "damaged")}),
    "encrypted": (lambda: flagged(GOOD, "2.png", 1), {("2.png", "encrypted")}),
    "bzip2": (lambda: make_zip(GOOD, compression=zipfile.ZIP_BZIP2), {(name, "compression") for name in GOOD}),
    "no zip": (lambda: b"this is no zip", {("the zip", "zip")}),
    "cut zip": (lambda: make_zip(GOOD)[:-30], {("the zip", "zip")}),
    "nothing": (lambda: b"", {("the zip", "zip")}),
    "empty zip": (lambda: make_zip({}), {(name, "missing") for name in GOOD}),
}


def test_a_good_zip_has_no_violation() -> None:
    assert lint(make_zip(GOOD), SIZES, 4) == []
    assert lint(make_zip(GOOD, compression=zipfile.ZIP_DEFLATED), SIZES, None) == []


@pytest.mark.parametrize("case", BAD)
def test_every_fault_is_named(case: str) -> None:
    make, faults = BAD[case]
    violations = lint(make(), SIZES, 4)
    assert {(item.file, item.rule) for item in violations} == faults
    assert len(violations) == len(faults) and violations == sorted(violations)
    for item in violations:
        assert item.rule in RULES and item.found and "\n" not in str(item)


def test_every_rule_is_broken_by_a_test() -> None:
    assert {rule for _, faults in BAD.values() for _, rule in faults} | {"encoding"} == set(RULES)


def test_names_by_case_and_code_page() -> None:
    one = {"A": (8, 10)}
    assert lint(make_zip({"A.png": TWO}), one, 4) == []
    assert [(item.file, item.rule) for item in lint(make_zip({"a.png": TWO}), one, 4)] == [("a.png", "case")]
    chinese = {"农田 1": (8, 10)}
    assert lint(make_zip({"农田 1.png": TWO}), chinese, 4) == []
    for encoding in ("gbk", "utf-8"):
        name = "农田 1.png".encode(encoding)
        data = make_zip({"x" * len(name): TWO}).replace(b"x" * len(name), name)
        assert [item.rule for item in lint(data, chinese, 4)] == ["encoding"]


def test_without_classes_only_the_ignore_index_is_refused() -> None:
    data = make_zip({**GOOD, "1.png": png(filled(255)), "2.png": png(filled(254))})
    assert [(item.file, item.rule) for item in lint(data, SIZES, None)] == [("1.png", "ignore")]


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), interlace=st.booleans(), seed=st.integers(0, 9))
def test_right_pictures_pass_interlaced_or_not(height: int, width: int, interlace: bool, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 4, (height, width), dtype=np.uint8)
    if interlace:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        parts = [pixels[row::down, column::across] for row, column, down, across in passes]
        data = raw_png(height, width, b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part), interlace=1)
        assert (np.array(Image.open(io.BytesIO(data))) == pixels).all()
    else:
        data = png(pixels)
    assert lint(make_zip({"a.png": data}), {"a": (height, width)}, 4) == []
    assert [item.rule for item in lint(make_zip({"a.png": data}), {"a": (height, width + 1)}, 4)] == ["size"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_escapes_as_another_exception(data: st.DataObject) -> None:
    """Flip or cut bytes anywhere: the linter answers; and when it answers "no violation", the pictures in the zip are the right ones."""
    whole = make_zip(GOOD)
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 3))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    if not lint(bytes(broken), SIZES, 4):
        with zipfile.ZipFile(io.BytesIO(broken)) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == GOOD


def write_maps(folder: Path, maps: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in maps.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_build_makes_plain_grey_of_palettes_with_the_same_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = {stem: random.integers(0, 4, size, dtype=np.uint8) for stem, size in {**SIZES, "10": (1, 1), "2048": (2048, 1500)}.items()}
    sizes = {stem: pixels.shape for stem, pixels in truth.items()}
    maps = {f"{stem}.png": encode_label(pixels, CLASSES) for stem, pixels in truth.items()}
    folder = write_maps(tmp_path / "p", {**maps, "overlay/1.jpg": b"not looked at", "predictions.json": b"{}"})
    other = write_maps(tmp_path / "q", {f"deep/{name}": maps[name] for name in reversed(maps)})
    for source, name in ((folder, "one"), (folder, "two"), (other, "three")):
        build(source, sizes, 4, tmp_path / f"{name}.zip")
    assert len({(tmp_path / f"{name}.zip").read_bytes() for name in ("one", "two", "three")}) == 1
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["1.png", "2.png", "3.png", "4.png", "5.png", "10.png", "2048.png"]
        for stem, pixels in truth.items():
            with Image.open(io.BytesIO(archive.read(f"{stem}.png"))) as picture:
                assert picture.mode == "L" and (np.array(picture) == pixels).all()
    assert lint(tmp_path / "one.zip", sizes, 4) == []


def test_build_refuses_and_keeps_the_old_zip(tmp_path: Path) -> None:
    maps = {name: encode_label(filled(1), CLASSES) for name in GOOD}
    wide = png(filled(0).astype(np.uint16) + 300)
    out = tmp_path / "result.zip"
    out.write_bytes(b"old")
    for wrong, faults in [
        ({"2.png": encode_label(filled(4), CLASSES)}, {("2.png", "class")}),
        (
            {"2.png": encode_label(filled(255), CLASSES), "3.png": encode_label(filled(1, 9), CLASSES)},
            {("2.png", "ignore"), ("3.png", "size")},
        ),
        ({"2.png": b"\x89PNG broken"}, {("2.png", "broken")}),
        ({"2.png": png(np.arange(240, dtype=np.uint8).reshape(8, 10, 3))}, {("2.png", "grey")}),
        ({"2.png": wide}, {("2.png", "depth")}),
    ]:
        folder = write_maps(tmp_path / "p", {**maps, **wrong})
        with pytest.raises(LandsegError) as caught:
            build(folder, SIZES, 4, out)
        assert caught.value.is_gate and f"{len(faults)} violations" in str(caught.value)
        for file, rule in faults:
            assert f"{file}: {rule} (" in str(caught.value)
        assert out.read_bytes() == b"old" and {path.name for path in tmp_path.iterdir()} == {"p", "result.zip"}
    (tmp_path / "p" / "2.png").unlink()
    with pytest.raises(LandsegError, match=r"2\.png: missing"):
        build(tmp_path / "p", SIZES, 4, out)


def test_build_leaves_out_maps_of_other_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_maps(tmp_path / "p", {name: encode_label(filled(1), CLASSES) for name in [*GOOD, "77.png"]})
    with caplog.at_level(logging.WARNING, "landseg"):
        build(folder, SIZES, 4, tmp_path / "r.zip")
    assert "77" in caplog.text and lint(tmp_path / "r.zip", SIZES, 4) == []
    write_maps(folder / "again", {"1.png": TWO})
    with pytest.raises(LandsegError, match="same stem"):
        build(folder, SIZES, 4, tmp_path / "s.zip")
    with pytest.raises(LandsegError, match="no class maps"):
        build(write_maps(tmp_path / "none", {}), SIZES, 4, tmp_path / "s.zip")
    with pytest.raises(LandsegError, match="no such folder"):
        build(tmp_path / "gone", SIZES, 4, tmp_path / "s.zip")


def test_expected_is_the_same_of_folder_zip_and_dataset(tmp_path: Path) -> None:
    files = {
        "1.jpg": cv2.imencode(".jpg", np.zeros((8, 10, 3), np.uint8))[1].tobytes(),
        "2.png": png(np.zeros((1, 1, 4), np.uint8)),
        "3.bmp": cv2.imencode(".bmp", np.zeros((7, 5), np.uint8))[1].tobytes(),
        "n.png": png(np.zeros((300, 4), np.uint16)),
    }
    folder = write_maps(tmp_path / "img_test", files)
    (tmp_path / "t.zip").write_bytes(make_zip({f"img_test/{name}": data for name, data in files.items()}))
    write_maps(tmp_path / "data", {"dataset.yaml": b"name: t\nimages: ../img_test\nlabels: null\n"})
    sizes = {"1": (8, 10), "2": (1, 1), "3": (7, 5), "n": (300, 4)}
    assert expected(folder) == expected(tmp_path / "t.zip") == expected(tmp_path / "data") == sizes
    write_maps(folder, {"deep/1.png": TWO})
    with pytest.raises(LandsegError, match="same stem"):
        expected(folder)
    write_maps(tmp_path / "bad", {"1.png": TWO, "2.png": b"no picture"})
    with pytest.raises(LandsegError, match=r"2\.png: no picture"):
        expected(tmp_path / "bad")


def test_the_refusal_is_one_line_with_counts() -> None:
    error = refusal("r.zip", [Violation(f"{i}.png", "size", "3 × 3") for i in range(9)] + [Violation("9.png", "png", "b''")], "mend it")
    assert error.is_gate and "\n" not in str(error)
    assert str(error).startswith("r.zip: 10 violations [size 9, png 1]: 0.png: size (3 × 3); 1.png") and "and 7 more" in str(error)


def test_the_room_needs_no_torch() -> None:
    code = "import sys, landseg.product.submission, landseg.verbs.submit; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
