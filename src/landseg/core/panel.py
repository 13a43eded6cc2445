"""A panel on the terminal that shows a training run while it goes. It measures nothing: it is told, and asks its gauges each second.

It stands below the lines that are logged meanwhile, which scroll above it, and leaves nothing behind when it goes. Where stderr is no
terminal, or one that cannot move its cursor, there is no panel, and the log lines are all there is.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

from landseg.core.processes import is_first
from landseg.core.progress import clock, shown_by

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

REFRESH_PER_S = 2.0
"""Often enough that its clock runs, seldom enough that drawing it takes nothing from a training that computes on two cores."""

GAUGES_S = 1.0
"""Between two looks at the machine."""

ON_PANEL = {"is_on_panel": True}
"""`extra` of a log record that the panel shows in its own way: the terminal gets no line of it while there is a panel, `log.txt` does."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_LABEL, _BETWEEN = 5, "  "
_WIDEST = 120
_SPARE = 3  # columns left free at the right, or the ^C that a terminal writes for Ctrl-C would wrap and push the panel down
_TAIL = len("validating 99 %")  # so that the bars keep their length
_CLASS_LINES = 2

Gauge = tuple[str, str]
"""A name and what it reads: ``("disk", "211 GB free")``."""


@dataclass(frozen=True)
class View:
    """What a run says of itself.

    Attributes:
        name: Of the run.
        elapsed_s: Since it began.
        epoch: From 1.
        epochs: None where the minutes end the run.
        batch: Steps done of the epoch.
        batches: Steps an epoch.
        step: Steps done of the run.
        progress: Share of the run that is done, 0 to 1.
        left_s: Until its end; None while unknown.
        loss: Since the last line; None before the first.
        losses: Its course, oldest first.
        lr: Learning rate.
        images_per_s: Speed; 0 while unknown.
        miou: Of the last validation; None before the first.
        best: The best of them, and its epoch.
        iou: By class, of the last validation; None for a class that is absent.
        bottleneck: In words.
        is_waste: Whether that is worth a change.
    """

    name: str
    elapsed_s: float = 0.0
    epoch: int = 1
    epochs: int | None = None
    batch: int = 0
    batches: int = 1
    step: int = 0
    progress: float = 0.0
    left_s: float | None = None
    loss: float | None = None
    losses: Sequence[float] = ()
    lr: float = 0.0
    images_per_s: float = 0.0
    miou: float | None = None
    best: tuple[float, int] | None = None
    iou: Mapping[str, float | None] = field(default_factory=dict)
    bottleneck: str | None = None
    is_waste: bool = False


class Panel:
    """A context in which the terminal shows the view that it was told last.

    Args:
        name: Of the run.
        gauges: What the machine is at, asked on the panel's own thread.
        console: To draw on; stderr when None.

    Attributes:
        is_up: Whether there is one; without, telling it costs nothing.
    """

    def __init__(self, name: str, gauges: Callable[[], Sequence[Gauge]] = tuple, console: Console | None = None) -> None:
        self._view, self._gauges, self._console = View(name), gauges, console
        self._told_at, self._asked_at = time.monotonic(), -math.inf
        self._found: Sequence[Gauge] = ()
        self._stage: tuple[str, int, int | None] | None = None
        self._undo = ExitStack()
        self.is_up = False

    def __enter__(self) -> Panel:
        if self._console is None and not (sys.stderr.isatty() and is_first()):
            return self
        # Imported here: a tenth of a second that only a run on a terminal should take.
        from rich.console import Console
        from rich.live import Live

        console = self._console or Console(stderr=True)
        if not console.is_terminal or console.is_dumb_terminal:
            return self
        before = sys.stderr
        # stdout is the result's, which may go into a file.
        live = Live(get_renderable=lambda: self, console=console, refresh_per_second=REFRESH_PER_S, transient=True, redirect_stdout=False)
        self._undo.enter_context(suppress(OSError))  # the terminal has gone: no reason for a run to end otherwise than it would
        self._undo.enter_context(live)
        self._undo.enter_context(_lines_above(before))
        self._undo.enter_context(shown_by(self._work))
        self.is_up = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_up = False
        self._undo.close()

    def show(self, view: View) -> None:
        """Show this from the next refresh on."""
        self._view, self._told_at, self._stage = view, time.monotonic(), None

    def say(self, text: str) -> None:
        """Write a line above it, which stays."""
        if self.is_up:
            sys.stderr.write(f"{text}\n")

    def _work(self, what: str, done: int, total: int | None) -> None:
        self._stage = (what, done, total)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.monotonic()
        if now - self._asked_at >= GAUGES_S:
            self._asked_at, self._found = now, self._gauges()
        since = now - self._told_at
        view = replace(self._view, elapsed_s=self._view.elapsed_s + since)
        if view.left_s is not None:
            view = replace(view, left_s=max(0.0, view.left_s - since))
        width = min(_WIDEST, max(1, options.max_width - _SPARE))
        for part in drawn(view, self._found, self._stage, width, is_ascii=options.ascii_only):
            yield from console.render(part, options.update(width=width))


def drawn(
    view: View, gauges: Sequence[Gauge], stage: tuple[str, int, int | None] | None, width: int, *, is_ascii: bool = False
) -> Iterator[RenderableType]:
    """The panel, from its top to its bottom.

    Args:
        view: What the run says.
        gauges: What the machine says.
        stage: Work other than stepping that goes on: its words, how much is done, of how much.
        width: Columns that may be used.
        is_ascii: The terminal shows no other characters.
    """
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    end, line = f" {clock(view.elapsed_s)}", "-" if is_ascii else "─"
    head = Text(f"{line * 2} {view.name} ", style="bold", no_wrap=True)
    head.truncate(max(0, width - len(end) - 3), overflow="ellipsis", pad=False)
    yield head.append(line * max(0, width - head.cell_len - len(end)), style="dim").append(end, style="dim")

    bars = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bars.add_column(width=_LABEL, style="dim", no_wrap=True)
    bars.add_column(no_wrap=True)
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True, min_width=_TAIL)

    def bar(done: float, total: float) -> ProgressBar:
        return ProgressBar(total=max(total, 1e-9), completed=done, style="bright_black", complete_style="green", finished_style="green")

    epoch = f"{view.epoch}" if view.epochs is None else f"{view.epoch} of {view.epochs}"
    if stage is None:
        batches = f"{view.batches:,}"
        bars.add_row("epoch", epoch, bar(view.batch, view.batches), f"{view.batch:>{len(batches)},} of {batches}")
    else:
        what, done, total = stage
        bars.add_row(
            "epoch", epoch, bar(done, total or 1), f"{what}{'' if total is None else f' {done / max(total, 1):.0%}'.replace('%', ' %')}"
        )
    left = "" if view.left_s is None else f"{clock(view.left_s)} left"
    bars.add_row("run", f"{100 * view.progress:.0f} %", bar(view.progress, 1), left)
    loss = "" if view.loss is None else f"{view.loss:.4f}"
    course = Course("" if is_ascii else _BLOCKS, view.losses)
    bars.add_row("loss", loss, course, f"lr {view.lr:.2g}" if view.step else "")
    yield bars

    words = Table.grid(padding=(0, 2, 0, 0))
    words.add_column(width=_LABEL, style="dim", no_wrap=True)
    words.add_column(overflow="fold")
    room = max(10, width - _LABEL - 2 * len(_BETWEEN))
    words.add_row("val", _validation(view, room))
    pace = Text(f"{view.images_per_s:,.{0 if view.images_per_s >= 10 else 1}f} images/s" if view.images_per_s else "starting")
    if view.bottleneck:
        pace.append(_BETWEEN).append(view.bottleneck, style="bold" if view.is_waste else "dim")
    words.add_row("pace", pace)
    if gauges:
        words.add_row("uses", "\n".join(_packed([f"{name} {value}" for name, value in gauges], room)))
    yield words


class Course:
    """A curve a line high, as wide as there is room: means of as many points as a column stands for.

    Args:
        blocks: Characters from low to high; nothing is drawn where there are none.
        values: Oldest first; what is no finite number is left out.
    """

    def __init__(self, blocks: str, values: Sequence[float]) -> None:
        self._blocks, self._values = blocks, [value for value in values if math.isfinite(value)]

    def text(self, width: int) -> str:
        """The curve in at most `width` columns."""
        values, count = self._values, min(len(self._values), width)
        if not count or not self._blocks:
            return ""
        borders = [i * len(values) // count for i in range(count + 1)]
        means = [sum(values[first:last]) / (last - first) for first, last in pairwise(borders)]
        low, high = min(means), max(means)
        steps = len(self._blocks) - 1
        return "".join(self._blocks[round((value - low) / (high - low) * steps) if high > low else steps // 2] for value in means)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.text(options.max_width), style="green", no_wrap=True)


def _validation(view: View, room: int) -> Text:
    """The scores of the last validation in three lines at most; where the classes do not fit, the weakest of them."""
    from rich.text import Text

    if view.miou is None:
        return Text("not yet", style="dim")
    text = f"mIoU {view.miou:.4f}"
    if view.best is not None:
        text += f", best {view.best[0]:.4f} in epoch {view.best[1]}"
    lines = _packed([f"{name} {'–' if iou is None else f'{iou:.3f}'}" for name, iou in view.iou.items()], room)
    if len(lines) > _CLASS_LINES:
        weakest = sorted((iou, name) for name, iou in view.iou.items() if iou is not None)
        words = [f"{'' if i else 'weakest: '}{name} {iou:.3f}" for i, (iou, name) in enumerate(weakest)]
        lines = _packed(words, room)[:_CLASS_LINES]
    return Text("\n".join([text, *lines]))


def _packed(items: Sequence[str], room: int) -> list[str]:
    """Items side by side, as many a line as fit."""
    from rich.cells import cell_len

    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1]) + len(_BETWEEN) + cell_len(item) <= room:
            lines[-1] += _BETWEEN + item
        else:
            lines.append(item)
    return lines


@contextmanager
def _lines_above(stream: TextIO) -> Iterator[None]:
    """Within, what is logged to `stream` goes where stderr goes now, but for what the panel shows itself."""
    log = logging.getLogger("landseg")
    moved = [handler for handler in log.handlers if isinstance(handler, logging.StreamHandler) and handler.stream is stream]
    for handler in moved:
        handler.setStream(sys.stderr)
        handler.addFilter(_is_for_lines)
    try:
        yield
    finally:
        for handler in moved:
            handler.removeFilter(_is_for_lines)
            handler.setStream(stream)


def _is_for_lines(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_on_panel", False)
