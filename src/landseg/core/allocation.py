"""Memory that is kept once it is had, for work that asks for the same large blocks over and over. It allocates nothing itself."""

from __future__ import annotations

import ctypes
import sys
import threading

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Source: glibc, malloc.h."""

_lock = threading.Lock()
_is_done = False


def keep_memory() -> bool:
    """Let the process keep freed memory instead of returning each large block to the system.

    glibc maps every block of some megabytes anew from the kernel, which fills it with zeros, and unmaps it when it is freed; a training
    step on a CPU does so for every tensor. With no maps and no trimming, freed blocks stay in the heap and are used again. Blocks
    that the heap cannot give are mapped all the same. The process holds the most it ever used until it ends.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD. Measured: bench/records/train-speed/2026-11-23-allocation.

    Returns:
        True when it is so, however often it was called; False where there is no glibc (macOS, Windows, musl).
    """
    global _is_done
    with _lock:
        if _is_done:
            return True
        if not sys.platform.startswith("linux"):
            return False
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
            return False
        # -1 is no trimming at all: the largest number, 2 GB, would hand a larger heap back. Each answers 1 when it was set.
        _is_done = bool(library.mallopt(_M_TRIM_THRESHOLD, -1) == 1 and library.mallopt(_M_MMAP_MAX, 0) == 1)
        return _is_done
