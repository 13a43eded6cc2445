"""Pages stand alone, escape what they are given, and are the same bytes every time."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.classes import make_classes, paint
from landseg.core.errors import LandsegError
from landseg.core.page import ACCENT, INK, Markup, Page, class_map, join, meter, new_figure, photo, style_axes, svg, swatch

VOID = {"meta", "img", "br", "path", "use", "rect"}
NASTY = 'a < b & "c" </td><script>alert(1)</script> 建筑'


class Reader(HTMLParser):
    """Collects text and elements, and checks that every element is closed."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def figure() -> Markup:
    drawing = new_figure()
    axes = drawing.add_subplot()
    axes.plot([0, 1, 2], [3, 1, 2], color=ACCENT, marker="o")
    axes.set_xlabel("面积 <ha>")
    style_axes(axes)
    return svg(drawing)


def full_page(text: str = NASTY) -> Page:
    classes = make_classes(["building 建筑", "water"])
    page = Page(text, text)
    for number in range(3):
        page.section(text, f"{number}{text}")
    page.facts({text: text, "two": ("1", text)})
    page.note(text)
    page.note(text, is_warning=True)
    page.text(text)
    page.table([text, "n"], [[text, "1"], [swatch("#112233", text), meter(0.5, (0.4, 0.6))]], caption=text)
    page.heatmap(np.array([[0.9, 0.1], [np.nan, np.nan]]), [text, "x"], [[text, ""], ["", ""]], [[text, ""], ["", ""]], text)
    page.figure(figure(), text)
    page.figures([(text, figure()), ("b", figure())])
    page.tiles([(text, [photo(np.zeros((8, 8, 3), np.uint8), text), class_map(np.zeros((8, 8), np.uint8), classes, text)])], [text, "b"], 2)
    page.legend([text, swatch("none", text)])
    page.definitions({text: text})
    return page


def test_every_text_is_escaped_and_every_element_closed() -> None:
    document = full_page().html()
    seen = Reader(document)
    assert "script" not in seen.elements
    assert seen.words.count(NASTY) == document.count("&lt;script&gt;") - sum(NASTY in (value or "") for _, value in seen.attributes) - 3
    assert sum(word.endswith(NASTY) for word in seen.words) >= 25


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    page = Page(text)
    page.table(["name"], [[swatch("#000000", text)]])
    page.definitions({text: join("(", text, ")")})
    words = Reader(page.html()).words
    assert words.count(text) == 4  # title, headline, table, term
    assert f"({text})" in words


def test_a_page_asks_for_nothing_outside() -> None:
    document = full_page("plain").html()
    seen = Reader(document)
    assert not {"script", "link", "iframe", "object"} & set(seen.elements)
    for name, value in seen.attributes:
        if name in ("src", "href", "xlink:href"):
            assert (value or "").startswith(("data:image/", "#"))
    assert not re.search(r"https?:|@import|url\((?!#)", document)


def test_the_same_page_is_the_same_bytes(tmp_path: Path) -> None:
    path = full_page().write(tmp_path / "a" / "page.html")
    assert path.read_bytes() == full_page().html().encode()


def test_a_figure_keeps_text_as_text_and_follows_light_and_dark() -> None:
    drawn = figure()
    assert "面积 &lt;ha&gt;" in drawn
    assert "var(--accent)" in drawn and "var(--muted)" in drawn
    assert ACCENT not in drawn and INK not in drawn
    assert "DejaVu" not in drawn and "var(--font)" in drawn
    assert not re.search(r'id="(figure|axes|text)_\d', drawn)
    for target in re.findall(r'(?:xlink:href="#|url\(#)([\w-]+)', drawn):
        assert f'id="{target}"' in drawn


def test_figures_leave_no_pyplot_and_no_setting_behind() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure()
    assert dict(matplotlib.rcParams) == before
    code = "from landseg.core.page import *; import sys; early = 'matplotlib' in sys.modules; figure = new_figure(); figure.add_subplot()"
    code += "; svg(figure); sys.exit(early or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0  # its own process: others import pyplot


def test_a_class_map_is_a_palette_png_with_the_unlabelled_transparent() -> None:
    classes = make_classes(["building", "road", "water"])
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    picture = class_map(labels, classes, "a map")
    data = base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))
    assert data[25] == 3  # colour type: palette
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(shown[..., 3] > 0, labels != 255)
    seen = labels != 255
    assert np.array_equal(cv2.cvtColor(shown[..., :3], cv2.COLOR_BGR2RGB)[seen], paint(labels, classes)[seen])
    assert (picture.height, picture.width) == labels.shape


def test_a_photo_looks_like_its_image() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 0], image[:32, :, 2] = 200, 150
    picture = photo(image, "a photo")
    data = base64.b64decode(picture.uri.removeprefix("data:image/jpeg;base64,"))
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(shown.astype(int) - image).mean() < 4
    assert (picture.width, picture.height) == (96, 64)


def test_a_table_with_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(LandsegError, match="3 columns, 2 as in its header"):
        Page("x").table(["a", "b"], [["1", "2", "3"]])
    with pytest.raises(LandsegError, match="1 columns"):
        Page("x").table(["a", "b"], [], align="l")
