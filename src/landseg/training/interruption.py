"""What Ctrl-C and a polite kill do to long work: what is in hand is ended first. It saves nothing itself."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("landseg")


class Interruption:
    """Whether the user asked to stop; `note` does so."""

    is_asked = False

    def note(self, number: int, _frame: object) -> None:
        """A signal's handler: the first one is noted, a second one stops at once.

        Raises:
            KeyboardInterrupt: It was asked before.
        """
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        log.info("stopping after this step; the state will be saved")


@contextmanager
def noted(interruption: Interruption) -> Iterator[None]:
    """SIGINT and SIGTERM are noted within; only the main thread may ask for that, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interruption.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
