"""The panel fits its terminal, keeps log lines whole, stays off where there is no terminal, and leaves one as it was."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from landseg.core import panel as room
from landseg.core.panel import ON_PANEL, Course, Gauge, Panel, View, drawn
from landseg.core.progress import progress

VIEW = View(
    "runs/first", 3725, 3, 40, 112, 250, 612, 0.12, 7325, 0.43123, [3, 2, 1, 1], 0.0093, 1234.5, 0.7123, (0.7313, 2),
    {"farmland": 0.803, "forest": 0.61, "other": None}, "waiting for data 38 %: decoding; data.pack=true decodes once", True,
)  # fmt: skip
GAUGES: list[Gauge] = [("GPU", "93 %, 31.2 of 80.0 GB"), ("CPU", "35 % of 16 cores"), ("RAM", "12.3 of 128.0 GB"), ("disk", "211 GB free")]


class Terminal(io.StringIO):
    """A terminal that remembers all that it was sent."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def lines(view: View, width: int, stage: tuple[str, int, int | None] | None = None, *, is_ascii: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True, legacy_windows=False)
    with console.capture() as capture:
        for part in drawn(view, GAUGES, stage, width, is_ascii=is_ascii):
            console.print(part)
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_it_says_everything_at_every_width(width: int) -> None:
    found = lines(VIEW, width)
    text = re.sub(r"\s+", " ", " ".join(line[7:] if not line.startswith("──") else line for line in found))
    for words in (
        "runs/first", "1:02:05", "3 of 40", "112 of 250", "12 %", "2:02:05 left", "0.4312", "█▅▁▁", "lr 0.0093",
        "mIoU 0.7123, best 0.7313 in epoch 2", "farmland 0.803", "forest 0.610", "other –", "1,234 images/s",
        "waiting for data 38 %: decoding; data.pack=true decodes once", "GPU 93 %, 31.2 of 80.0 GB", "CPU 35 % of 16 cores",
        "RAM 12.3 of 128.0 GB", "disk 211 GB free",
    ):  # fmt: skip
        assert words in text
    assert [line[:5].strip() for line in found if line[:5].strip()][1:] == ["epoch", "run", "loss", "val", "pace", "uses"]


names = st.text(st.sampled_from("abcdefgh 建筑耕地"), min_size=1, max_size=30)
views = st.builds(
    View, names, st.floats(0, 1e6), st.integers(1, 999), st.none() | st.integers(1, 999), st.integers(0, 10**6), st.integers(0, 10**6),
    st.integers(0, 10**8), st.floats(0, 1), st.none() | st.floats(0, 1e7), st.none() | st.floats(0, 1e9),
    st.lists(st.floats(allow_nan=True), max_size=50), st.floats(0, 1), st.floats(0, 1e6), st.none() | st.floats(0, 1),
    st.none() | st.tuples(st.floats(0, 1), st.integers(1, 999)), st.dictionaries(names, st.none() | st.floats(0, 1), max_size=40),
    st.none() | names, st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(views, st.integers(60, 300), st.none() | st.tuples(st.just("validating"), st.integers(0, 9), st.none() | st.integers(0, 9)))
def test_no_line_is_wider_than_the_terminal_and_it_never_fills_it(
    view: View, width: int, stage: tuple[str, int, int | None] | None
) -> None:
    found = lines(view, width, stage)
    assert all(cell_len(line) <= width for line in found)
    assert len(found) <= 15, "room is left for the lines above it on a terminal of 24"


def test_where_classes_do_not_fit_the_weakest_are_named() -> None:
    many = replace(VIEW, iou={f"class {i}": (i * 7 % 40) / 40 for i in range(40)})
    text = " ".join(line[7:].strip() for line in lines(many, 80))
    shown = [float(number) for number in re.findall(r"class \d+ (\d\.\d{3})", text)]
    assert "weakest: class 0 0.000" in text and shown == [i / 40 for i in range(len(shown))] and len(shown) > 4


def test_other_work_than_stepping_takes_the_bar() -> None:
    assert any("validating 30 %" in line for line in lines(VIEW, 80, ("validating", 12, 40)))
    assert not any("112 of 250" in line for line in lines(VIEW, 80, ("validating", 12, 40)))


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    found = lines(VIEW, 80, is_ascii=True)
    assert found[0].startswith("-- runs/first --") and not any(block in "".join(found) for block in "▁▅█")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 60))
def test_a_course_begins_at_the_first_value_and_spans_low_to_high(values: list[float], width: int) -> None:
    text = Course("▁▂▃▄▅▆▇█", values).text(width)
    assert len(text) == min(len(values), width)
    if len(set(text)) > 1:
        assert min(text) == "▁" and max(text) == "█"
    if len(values) <= width:
        assert all((a <= b) == (x <= y) or x == y for (a, x), (b, y) in zip(zip(values, text), zip(values[1:], text[1:])))  # noqa: B905


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("landseg")
    before = logger.level, logger.handlers[:], logger.propagate
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(before[0])
    logger.handlers[:], logger.propagate = before[1], before[2]


def drive(monkeypatch: pytest.MonkeyPatch, log: logging.Logger, work: Callable[[Panel], None], environment: dict[str, str]) -> Terminal:
    """Do some work under a panel on a terminal, as the command line sets the logging up; all that the terminal got."""
    terminal = Terminal()
    for key in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(room, "REFRESH_PER_S", 200.0)
    handler = logging.StreamHandler()
    log.handlers[:] = [handler]
    try:
        with Panel("runs/first", lambda: GAUGES) as panel:
            work(panel)
    finally:
        assert sys.stderr is terminal and handler.stream is terminal and not handler.filters
    return terminal


def until(terminal: Callable[[], bool]) -> None:
    """Wait for the panel's own thread; it draws 200 times a second."""
    end = time.monotonic() + 20
    while not terminal() and time.monotonic() < end:
        time.sleep(0.005)
    assert terminal()


def test_lines_scroll_above_it_and_what_it_shows_itself_is_not_said_twice(monkeypatch: pytest.MonkeyPatch, log: logging.Logger) -> None:
    asked = 0

    def work(panel: Panel) -> None:
        nonlocal asked
        assert panel.is_up
        panel.show(VIEW)
        until(lambda: "disk 211 GB free" in sys.stderr.getvalue())  # type: ignore[attr-defined]
        log.info("a line of the log")
        log.info("epoch 3/40  step 612", extra=ON_PANEL)
        for item in progress(range(3), "validating", 3):
            until(lambda item=item: f"validating {100 * item / 3:.0f} %" in sys.stderr.getvalue())  # type: ignore[misc, attr-defined]
            asked += 1
        panel.show(VIEW)

    text = drive(monkeypatch, log, work, {}).getvalue()
    assert asked == 3
    above, _, after = text.partition("a line of the log")
    assert after and above.endswith("\x1b[1A\x1b[2K"), "the panel was taken away before the line was written"
    assert "step 612" not in text and "\r" in text and "it/s" not in text, "no bar of its own beside it"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1 and text.rindex("\x1b[?25h") > text.rindex("runs/first")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_the_terminal_as_it_was(
    monkeypatch: pytest.MonkeyPatch, log: logging.Logger, error: type[BaseException]
) -> None:
    terminal: list[Terminal] = []

    def work(panel: Panel) -> None:
        panel.show(VIEW)
        terminal.append(sys.stderr)  # type: ignore[arg-type]
        raise error

    with pytest.raises(error):
        drive(monkeypatch, log, work, {})
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    tail = text[text.rindex("disk") :]
    assert "\x1b[?25h" in tail, "the cursor is back"
    assert tail.count("\x1b[1A\x1b[2K") >= 8, "and every line of the panel is gone"


def test_the_mark_of_ctrl_c_fits_beside_it(monkeypatch: pytest.MonkeyPatch, log: logging.Logger) -> None:
    """A terminal writes ^C where the cursor stands, at the end of the last line: wrapped, it would push the panel down."""

    def work(panel: Panel) -> None:
        panel.show(VIEW)

    sent = drive(monkeypatch, log, work, {"COLUMNS": "60"}).getvalue()
    shown = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", sent)]
    assert max(cell_len(line) for line in shown) == 57 and any("disk 211 GB free" in line for line in shown)


def test_without_colour_no_colour_is_sent(monkeypatch: pytest.MonkeyPatch, log: logging.Logger) -> None:
    def work(panel: Panel) -> None:
        panel.show(VIEW)

    colours = r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38|48)[0-9;]*m"
    assert re.search(colours, drive(monkeypatch, log, work, {}).getvalue())
    plain = drive(monkeypatch, log, work, {"NO_COLOR": "1"}).getvalue()
    assert "1,234 images/s" in plain and not re.search(colours, plain)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    monkeypatch: pytest.MonkeyPatch, log: logging.Logger, environment: dict[str, str]
) -> None:
    def work(panel: Panel) -> None:
        assert not panel.is_up
        panel.show(VIEW)
        log.info("epoch 3/40  step 612", extra=ON_PANEL)

    assert drive(monkeypatch, log, work, environment).getvalue() == "epoch 3/40  step 612\n"


def test_no_terminal_no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Panel("runs/first") as panel:
        panel.show(VIEW)
        assert not panel.is_up
    assert stream.getvalue() == ""


def test_a_terminal_that_has_gone_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch, log: logging.Logger) -> None:
    def gone(_text: str) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("threading.excepthook", lambda _: None)  # the panel's thread ends; nobody could read why
    done = []

    def work(panel: Panel) -> None:
        sys.stderr.rich_proxied_file.write = gone  # type: ignore[attr-defined]
        panel.show(VIEW)
        log.info("a line that nobody sees")
        done.append(True)

    drive(monkeypatch, log, work, {})
    assert done == [True]
