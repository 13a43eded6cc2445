"""Archives: what is honest comes out whole, what is hostile is refused before a byte is written."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.data import archive as room
from landseg.data.archive import DamagedEntry, is_zip, iter_files, unpack, write_zip


def make(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return path


def patched(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    """Change bytes of a finished zip, as a hostile tool would write them."""
    data = path.read_bytes()
    for old, new in changes:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def listing(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:.", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
    lambda name: name not in ("__MACOSX", "Thumbs.db")
)


@given(st.dictionaries(st.tuples(NAMES, NAMES).map("/".join), st.binary(max_size=200), max_size=6))
def test_what_is_packed_is_unpacked(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, bytes]) -> None:
    if len({name.casefold() for name in entries}) < len(entries):
        return
    place = tmp_path_factory.mktemp("zip")
    write_zip(place / "a.zip", entries.items())
    unpacked = unpack(place / "a.zip", place / "out")
    assert set(unpacked.files) == set(entries) and not unpacked.skipped and not unpacked.damaged
    assert {name: read() for name, _, read in iter_files(place / "a.zip")} == entries
    shutil.rmtree(place)


def test_litter_is_passed_over_and_inner_zips_stay_shut(tmp_path: Path) -> None:
    inner = make(tmp_path / "inner.zip", {"x.jpg": b"x"}).read_bytes()
    archive = make(
        tmp_path / "a.zip",
        {
            "set/1.jpg": b"1",
            "set/.DS_Store": b"d",
            "__MACOSX/set/._1.jpg": b"m",
            ".hidden/2.jpg": b"h",
            "Thumbs.db": b"t",
            "./set//2.jpg": b"2",
            "more.zip": inner,
            "readme.txt": b"r",
            "empty/": b"",
        },
    )
    unpacked = unpack(archive, tmp_path / "out", keep=lambda name: not name.endswith(".txt"))
    assert listing(tmp_path / "out") == {"set/1.jpg": b"1", "set/2.jpg": b"2"}
    assert unpacked.files == ("set/1.jpg", "set/2.jpg")
    assert unpacked.skipped == ("more.zip", "readme.txt")
    assert [name for name, _, _ in iter_files(archive, keep=lambda name: name.endswith(".jpg"))] == ["set/1.jpg", "set/2.jpg"]


def raw_names(path: Path, names: list[bytes], *, flag: int = 0, extra: Callable[[bytes], bytes] = lambda name: b"") -> Path:
    """A zip whose names are these bytes, flag and extra field as given: what tools on other systems write."""
    body, directory = b"", b""
    for i, name in enumerate(names):
        content = b"%d" % i
        field = extra(name)
        common = struct.pack("<HHHHHIII", 20, flag, 0, 0, 33, zlib.crc32(content), len(content), len(content))
        sizes = struct.pack("<HH", len(name), len(field))
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + sizes + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name + field
        body += b"PK\3\4" + common + sizes + name + field + content
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path


CHINESE = ["训练/图 1.jpg", "训练/乗.jpg", "标签/联通.png"]


@pytest.mark.parametrize("codec", ["gbk", "utf-8"])
def test_names_without_a_flag_are_utf8_or_gbk(tmp_path: Path, codec: str) -> None:
    archive = raw_names(tmp_path / "a.zip", [name.encode(codec) for name in CHINESE])
    assert set(unpack(archive, tmp_path / "out").files) == set(CHINESE) == set(listing(tmp_path / "out"))


def test_names_with_the_flag_are_utf8(tmp_path: Path) -> None:
    archive = raw_names(tmp_path / "a.zip", [name.encode() for name in CHINESE], flag=0x800)
    assert [name for name, _, _ in iter_files(archive)] == CHINESE


def test_a_unicode_path_field_counts_when_its_checksum_fits(tmp_path: Path) -> None:
    def field(name: bytes, checksum: int) -> bytes:
        body = b"\1" + struct.pack("<I", checksum) + "图.jpg".encode()
        return struct.pack("<HH", 0x7075, len(body)) + body

    good = raw_names(tmp_path / "a.zip", [b"old.jpg"], extra=lambda name: field(name, zlib.crc32(name)))
    assert [name for name, _, _ in iter_files(good)] == ["图.jpg"]
    stale = raw_names(tmp_path / "b.zip", [b"old.jpg"], extra=lambda name: field(name, 7))
    assert [name for name, _, _ in iter_files(stale)] == ["old.jpg"]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def link_zip(path: Path) -> Path:
    info = zipfile.ZipInfo("img/link.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("img/1.jpg", b"1")
        target.writestr(info, "/etc/passwd")
    return path


def encrypted_zip(path: Path) -> Path:
    make(path, {"1.jpg": b"1"}, zipfile.ZIP_STORED)
    return patched(path, (b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0"), (b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"))


def overlapping_zip(path: Path) -> Path:
    """Two entries of the directory point at the same bytes: a small file that unpacks to as much as one likes."""
    raw_names(path, [b"1.jpg", b"2.jpg"])
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(bytes(data))
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "parent": (lambda path: make(path, {"1.jpg": b"1", "../x.jpg": b"x"}), "'../x.jpg' leads out"),
    "parent inside": (lambda path: make(path, {"a/../../x.jpg": b"x"}), "leads out"),
    "parent folder": (lambda path: make(path, {"1.jpg": b"1", "../": b""}), "leads out"),
    "parent in litter": (lambda path: make(path, {"1.jpg": b"1", "__MACOSX/../../x": b""}), "leads out"),
    "absolute": (lambda path: make(path, {"/etc/x.jpg": b"x"}), "absolute"),
    "drive": (lambda path: make(path, {"C:/x.jpg": b"x"}), "absolute"),
    "backslash": (lambda path: make(path, {"a\\..\\x.jpg": b"x"}), "backslash"),
    "zero byte": (lambda path: raw_names(path, [b"a\0.jpg"]), "zero byte"),
    "gbk parent": (lambda path: raw_names(path, ["图/../../x.jpg".encode("gbk")]), "leads out"),
    "link": (link_zip, "'img/link.jpg' is a link"),
    "encrypted": (encrypted_zip, "encrypted"),
    "bomb": (lambda path: make(path, {"1.jpg": b"1", "bomb.jpg": bytes(20_000_000)}), "times its size (entry 'bomb.jpg'"),
    "shared bytes": (overlapping_zip, "share bytes"),
    "case": (lambda path: make(path, {"A/1.jpg": b"1", "a/1.JPG": b"2"}), "case"),
    "file and folder": (lambda path: make(path, {"a": b"1", "a/b.jpg": b"2"}), "also the folder"),
    "bzip2": (lambda path: make(path, {"1.jpg": b"1"}, zipfile.ZIP_BZIP2), "bzip2"),
    "lzma": (lambda path: make(path, {"1.jpg": b"1"}, zipfile.ZIP_LZMA), "LZMA"),
    "twice": (lambda path: raw_names(path, [b"1.jpg", b"./1.jpg"]), "twice"),
    "text": (lambda path: written(path, b"no zip"), "not a readable zip"),
    "empty file": (lambda path: written(path, b""), "not a readable zip"),
    "absent": (lambda path: path, "not there"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_whole(tmp_path: Path, name: str) -> None:
    build, rule = HOSTILE[name]
    archive = build(tmp_path / "a.zip")
    before = listing(tmp_path)
    for read in (lambda: unpack(archive, tmp_path / "deep" / "out"), lambda: iter_files(archive)):
        with pytest.raises(LandsegError) as caught:
            read()
        assert rule in caught.value.found and str(archive) == caught.value.what
        assert caught.value.do and "\n" not in str(caught.value)
    assert listing(tmp_path) == before and not (tmp_path / "deep").exists()


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.jpg": bytes(range(256)) * 40})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(LandsegError, match="not a readable zip"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize(("bound", "value"), [("MAX_ENTRIES", 2), ("MAX_ENTRY_BYTES", 4)])
def test_bounds_on_entries_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int) -> None:
    archive = make(tmp_path / "a.zip", {f"{i}.jpg": b"12345" for i in range(3)})
    monkeypatch.setattr(room, bound, value)
    with pytest.raises(LandsegError, match="at most"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_small_empty_labels_are_no_bomb(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {f"{i}.tif": bytes(250_000) for i in range(20)})
    assert len(unpack(archive, tmp_path / "out").files) == 20


def test_an_entry_that_holds_more_than_it_declares_is_damaged(tmp_path: Path) -> None:
    """The declared size is what the bounds judged; nothing beyond it is written."""
    archive = make(tmp_path / "a.zip", {"1.jpg": bytes(1_000_000)})
    patched(archive, (struct.pack("<I", 1_000_000), struct.pack("<I", 1000)))
    unpacked = unpack(archive, tmp_path / "out")
    assert unpacked.files == () and "1.jpg" in unpacked.damaged
    assert listing(tmp_path / "out") == {}


def test_a_damaged_entry_is_left_out_by_name(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.jpg": b"one" * 50, "2.jpg": b"two" * 50}, zipfile.ZIP_STORED)
    patched(archive, (b"one" * 50, b"eno" + b"one" * 49))
    unpacked = unpack(archive, tmp_path / "out")
    assert unpacked.files == ("2.jpg",) and "CRC" in unpacked.damaged["1.jpg"]
    assert listing(tmp_path / "out") == {"2.jpg": b"two" * 50}
    readers = {name: read for name, _, read in iter_files(archive)}
    assert readers["2.jpg"]() == b"two" * 50
    with pytest.raises(DamagedEntry):
        readers["1.jpg"]()


def test_without_room_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make(tmp_path / "a.zip", {"1.jpg": b"1"})
    monkeypatch.setattr("landseg.core.files.free_bytes", lambda folder: 100)
    with pytest.raises(LandsegError, match="free some space"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_an_empty_folder_is_unpacked_into(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.jpg": b"1"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere, target_is_directory=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.jpg").write_bytes(b"mine")
    for name in ("link", "full", "a.zip"):
        with pytest.raises(LandsegError, match="not empty"):
            unpack(archive, tmp_path / name)
    assert listing(elsewhere) == {} and (tmp_path / "full" / "1.jpg").read_bytes() == b"mine"


def test_a_written_zip_depends_on_its_content_alone(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(400)
    entries = [("b.png", png), ("a.txt", bytes(400)), ("图.png", png)]
    write_zip(tmp_path / "1.zip", entries)
    write_zip(tmp_path / "2.zip", iter(entries))
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as opened:
        infos = opened.infolist()
    assert [info.filename for info in infos] == ["b.png", "a.txt", "图.png"]
    assert [info.compress_type for info in infos] == [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}


def test_a_zip_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", [("1.png", b"1")])
    before = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(LandsegError, match="twice"):
        write_zip(tmp_path / "a.zip", [("1.png", b"1"), ("1.png", b"2")])
    assert (tmp_path / "a.zip").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_zip_is_known_by_content_or_ending(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("1.jpg", b"1")
    (tmp_path / "data.bin").write_bytes(buffer.getvalue())
    (tmp_path / "broken.ZIP").write_bytes(b"x")
    (tmp_path / "x.jpg").write_bytes(b"x")
    assert [is_zip(tmp_path / name) for name in ("data.bin", "broken.ZIP", "x.jpg", "absent.zip")] == [True, True, False, False]
