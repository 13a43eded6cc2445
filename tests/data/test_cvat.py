"""CVAT for images 1.1 as CVAT writes it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from landseg.core.errors import LandsegError
from landseg.data.annotations import Annotations, find_annotations

H, W = 24, 32

META = """<meta><task><id>4</id><name>地块</name><size>2</size><mode>annotation</mode><labels>
<label><name>耕地</name><color>#E3B448</color><type>polygon</type><attributes></attributes></label>
<label><name>house</name><color>#c8553d</color><type>any</type><attributes></attributes></label>
<label><name>bad frame</name><color>#000000</color><type>tag</type></label>
</labels><segments><segment><id>1</id></segment></segments></task><dumped>2024-01-01 00:00:00</dumped></meta>"""


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode(path.suffix, np.full((H, W, 3), 90, np.uint8))[1]))
    return path


def save(path: Path, body: str, *, meta: str = META, head: str = '<?xml version="1.0" encoding="utf-8"?>') -> Path:
    path.write_text(f"{head}\n<annotations>\n<version>1.1</version>\n{meta}\n{body}\n</annotations>\n", encoding="utf-8")
    return path


def image(name: str, *shapes: str) -> str:
    return f'<image id="0" name="{name}" width="{W}" height="{H}">{"".join(shapes)}</image>'


def find(root: Path) -> Annotations:
    found = find_annotations([root])
    assert found is not None
    return found


def test_every_kind_of_shape_by_its_order(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "区 1" / "a.png")
    picture(tmp_path / "images" / "b.png")
    save(
        tmp_path / "annotations.xml",
        image(
            "区 1/a.png",
            '<box label="house" source="manual" occluded="0" xtl="4.00" ytl="4.00" xbr="8.00" ybr="8.00" z_order="3"></box>',
            '<polygon label="耕地" occluded="0" points="0.00,0.00;20.00,0.00;20.00,12.00;0.00,12.00" z_order="0"><attribute name="a">1'
            "</attribute></polygon>",
            '<mask label="road" source="file" occluded="0" rle="3, 2, 1, 6" left="24" top="10" width="4" height="3" z_order="1"></mask>',
            '<ellipse label="house" cx="16" cy="18" rx="4" ry="2" rotation="90"></ellipse>',
            '<box label="house" xtl="23" ytl="1" xbr="27" ybr="3" rotation="90.00"></box>',
            '<polyline label="road" points="1,1;5,5"></polyline>',
            '<points label="road" points="1,1"></points>',
            '<tag label="bad frame"></tag>',
        )
        + image("b.png"),
    )
    found = find(tmp_path)
    assert found.format == "CVAT"
    assert found.class_names == ("耕地", "house", "road"), "as listed, then what is used without being listed"
    assert found.colours == ("#e3b448", "#c8553d", None)
    label = found.rasterise("区 1/a")
    assert (label[4:8, 4:8] == 1).all() and label[3, 3] == 0
    assert label[10:13, 24:28].tolist() == [[255, 255, 255, 2], [2, 255, 2, 2], [2, 2, 2, 2]], "along the rows, off first"
    assert label[21, 16] == 1 and label[18, 19] == 255, "turned by a right angle"
    assert (label[0:4, 24:26] == 1).all() and label[1, 23] == 255, "about its centre"
    assert set(found.images) == {"区 1/a", "b"} and (found.rasterise("b", background=0) == 0).all()
    said = "\n".join(found.left_out)
    assert "1 shapes of the kind polyline: they have no area" in said and "1 shapes of the kind points" in said


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    save(
        tmp_path / "a.xml",
        image(
            "a.png",
            '<box label="house" xtl="4" ytl="4" xbr="8" ybr="8" z_order="x"></box>',
            '<box label="house" xtl="4" ytl="nan" xbr="8" ybr="8"></box>',
            '<box label="house" xtl="4" ytl="4" xbr="1e400" ybr="8"></box>',
            '<box label="house"></box>',
            '<polygon label="house" points="1,2;x,3;4,5"></polygon>',
            '<polygon label="house" points="1,2;3"></polygon>',
            '<polygon label="house"></polygon>',
            '<polygon points="0,0;1,0;1,1"></polygon>',
            f'<mask label="house" rle="0,4" left="{W - 1}" top="0" width="2" height="2"></mask>',
            '<mask label="house" rle="0,5" left="0" top="0" width="2" height="2"></mask>',
            '<mask label="house" rle="a" left="0" top="0" width="2" height="2"></mask>',
            '<mask label="house" rle="0,4" left="0" top="0" width="99999" height="99999"></mask>',
        )
        + "<image></image><track id='1' label='house'></track>",
    )
    found = find(tmp_path)
    assert (found.rasterise("a") == 1).sum() == 16
    said = "\n".join(found.left_out)
    for reason in (
        "3 outlines with coordinates that are NaN",
        "3 outlines whose coordinates are no pairs",
        "1 shapes without a label",
        "2 masks whose box does not lie in their image",
        "1 masks whose run lengths do not fit",
        "1 masks whose run lengths are no whole numbers",
        "1 images without a name",
        "1 tracks of a video",
    ):
        assert reason in said, said


BOMB = '<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "head",
    [
        BOMB,
        '<?xml version="1.0"?>\n<!-- x -->' + BOMB,
        '<!DOCTYPE annotations SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE annotations [<!ENTITY x SYSTEM "http://example.com/x">]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_are_read(tmp_path: Path, head: str, encoding: str) -> None:
    picture(tmp_path / "a.png")
    path = save(tmp_path / "a.xml", image("&b;.png"), head=head)
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(LandsegError, match=r"a\.xml: a document type or entities"):
        find_annotations([tmp_path])


@pytest.mark.parametrize("cut", [2, 20, 300])
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, cut: int) -> None:
    path = save(tmp_path / "a.xml", image("a.png"))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(LandsegError, match=r"a\.xml: not whole XML \(.*line \d+, column \d+"):
        find_annotations([tmp_path])


@pytest.mark.parametrize(
    "text",
    [
        "<annotation><object><name>x</name></object></annotation>",  # Pascal VOC
        "<annotations><note/></annotations>",
        "<html><body/>",
        "no xml",
        "",
        '<?xml version="1.0" encoding="no such"?><annotations><image/></annotations>',
        '<!DOCTYPE html [<!ENTITY a "a">]><html>&a;</html>',
    ],
)
def test_other_files_are_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.xml").write_text(text)
    assert find_annotations([tmp_path]) is None


def test_a_project_in_many_pieces_holds_one_image_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.data.cvat._PIECE", 7)
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    one = '<polygon label="耕地" points="0,0;20,0;20,12;0,12"></polygon>'
    save(tmp_path / "x.xml", image("a.png", one) + image("b.png", one, one), meta=META.replace("task>", "project>"))
    found = find(tmp_path)
    assert found.colours[0] == "#e3b448"
    assert (found.rasterise("a") == found.rasterise("b")).all() and (found.rasterise("a") == 0).sum() == 240
