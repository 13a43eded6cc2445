"""Keeping memory: harmless everywhere, done once."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from landseg.core import allocation


class Library:
    """Stands for the C library; `answer` is mallopt's."""

    def __init__(self, *, is_glibc: bool, answer: int = 1) -> None:
        self.calls: list[tuple[int, int]] = []
        if is_glibc:
            self.gnu_get_libc_version = object()
        self._answer = answer

    def mallopt(self, name: int, value: int) -> int:
        self.calls.append((name, value))
        return self._answer


def use(monkeypatch: pytest.MonkeyPatch, library: Library, platform: str = "linux") -> None:
    monkeypatch.setattr(allocation, "_is_done", False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)


def test_it_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(is_glibc=True)
    use(monkeypatch, library)
    assert allocation.keep_memory() and allocation.keep_memory()
    assert library.calls == [(-1, -1), (-4, 0)]


@pytest.mark.parametrize(("platform", "is_glibc"), [("darwin", True), ("win32", True), ("linux", False)])
def test_elsewhere_nothing_is_touched(monkeypatch: pytest.MonkeyPatch, platform: str, is_glibc: bool) -> None:
    library = Library(is_glibc=is_glibc)
    use(monkeypatch, library, platform)
    assert not allocation.keep_memory() and not library.calls


def test_a_library_that_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Library(is_glibc=True, answer=0))
    assert not allocation.keep_memory()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")
def test_large_blocks_are_mapped_once_and_kept() -> None:
    """The pages that a block of 64 MB faults in: each time anew, or once."""
    program = """
import mmap, resource, sys
import numpy as np
from landseg.core.allocation import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(64 << 20, np.uint8)[:: mmap.PAGESIZE] = 1
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))
"""
    faults = {
        way: int(subprocess.run([sys.executable, "-c", program, way], check=True, capture_output=True).stdout) for way in ("keep", "")
    }
    assert faults["keep"] < 5 < faults[""], faults


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")
def test_a_heap_above_two_gigabytes_is_kept_too() -> None:
    """How far the heap reaches before, while and after a block of 3 GB is held, of which no page is touched."""
    program = """
import ctypes
from landseg.core.allocation import keep_memory
assert keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
library.malloc.argtypes, library.free.argtypes, library.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_ssize_t]
ends = [library.sbrk(0)]
block = library.malloc(3 << 30)
ends.append(library.sbrk(0))
library.free(block)
ends.append(library.sbrk(0))
print(*ends)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    before, held, after = map(int, done.stdout.split())
    if held - before < 1 << 31:  # what the heap had left counts too
        pytest.skip("this machine does not let the heap grow so far")
    assert after == held, "nothing was handed back"
