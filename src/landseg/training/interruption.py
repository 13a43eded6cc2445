"""What Ctrl-C, a polite kill and a scheduler's word do to long work: what is in hand is ended first. It saves nothing itself."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger("landseg")


class Interruption:
    """What was asked of the run while it worked; the methods are signals' handlers.

    Attributes:
        is_asked: It shall stop.
        is_save_asked: It shall save its state now, and go on; who does so sets it back.
    """

    is_asked = False
    is_save_asked = False

    def note(self, _number: int, _frame: object) -> None:
        """Stop: the first time it is noted, a second one stops at once.

        Raises:
            KeyboardInterrupt: It was asked before.
        """
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        with suppress(RuntimeError):  # a signal amid a line of the log, whose file takes no line within a line
            log.info("stopping after this step; the state will be saved")

    def note_save(self, _number: int, _frame: object) -> None:
        """Save and go on."""
        self.is_save_asked = True


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
