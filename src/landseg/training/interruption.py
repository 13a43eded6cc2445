"""What Ctrl-C, a polite kill and a scheduler's word do to long work: what is in hand is ended first. It saves nothing itself."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger("landseg")


class Interruption:
    """What was asked of the run while it worked; `note` and `note_save` are signals' handlers.

    Args:
        is_shared: Several processes share the run: a signal to any is one to all, and they do as asked once all have heard of it. A second
            one stops nobody then: launchers send one after the other, and the others would wait for whoever is gone.

    Attributes:
        is_asked: It shall stop.
        is_save_asked: It shall save its state now, and go on; who does so sets it back.
    """

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_asked = self.is_save_asked = False
        self._is_shared, self._own_stop, self._own_save = is_shared, False, False

    def own(self) -> tuple[bool, bool]:
        """Whether this process was asked to stop, and to save since this was called last; for the others."""
        found, self._own_save = (self._own_stop, self._own_save), False
        return found

    def hear(self, *, stop: bool, save: bool) -> None:
        """Take note of what any process was asked."""
        self.is_asked, self.is_save_asked = self.is_asked or stop, self.is_save_asked or save

    def note(self, _number: int, _frame: object) -> None:
        """Stop: the first time it is noted, a second one stops at once.

        Raises:
            KeyboardInterrupt: It was asked before.
        """
        if self._is_shared and self._own_stop:
            return
        if self.is_asked and not self._is_shared:
            raise KeyboardInterrupt
        self._own_stop, self.is_asked = self._is_shared, self.is_asked or not self._is_shared
        with suppress(RuntimeError):  # a signal amid a line of the log, whose file takes no line within a line
            log.info("stopping after this step; the state will be saved")

    def note_save(self, _number: int, _frame: object) -> None:
        """Save and go on."""
        self._own_save, self.is_save_asked = self._is_shared, self.is_save_asked or not self._is_shared


@contextmanager
def heard() -> Iterator[None]:
    """Within, SIGUSR1 does not end the process, as it does where nobody listens: outside `noted` there is nothing to save, which is said.

    In another thread than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        yield
        return

    def say(_number: int, _frame: object) -> None:
        with suppress(RuntimeError):  # as above
            log.info("a signal asks to save, but nothing is being trained now: there is nothing to save")

    before = signal.signal(signal.SIGUSR1, say)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def noted(interruption: Interruption) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR1 (where the system has it) are noted within; only the main thread may ask for that, elsewhere nothing
    changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGINT: interruption.note, signal.SIGTERM: interruption.note}
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = interruption.note_save
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
