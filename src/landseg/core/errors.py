"""The one exception of landseg. It does not print and it does not exit: `cli` does."""

from typing import Any


class LandsegError(Exception):
    """Something the user can mend, said in four parts.

    Args:
        what: The thing concerned: a path or a dotted setting (``train.batch``).
        found: What was found there.
        needed: What is needed instead.
        do: What to do about it; a command or a setting where there is one.
        result: What was found out before a gate failed, where there is something to show: it has `as_text` and `as_json`.
        is_gate: True when a stated gate failed (``--require``, a refused submission): exit code 3, not 2.

    The message reads ``what: found, needed; do``.
    """

    def __init__(self, what: object, found: str, needed: str, do: str, *, is_gate: bool = False, result: Any = None) -> None:
        super().__init__(f"{what}: {found}, {needed}; {do}")
        self.what, self.found, self.needed, self.do = str(what), found, needed, do
        self.is_gate, self.result = is_gate, result

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.found, self.needed, self.do, self.is_gate)


def _rebuild(what: str, found: str, needed: str, do: str, is_gate: bool) -> LandsegError:
    return LandsegError(what, found, needed, do, is_gate=is_gate)
