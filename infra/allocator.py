"""The C library's allocator, told how a process that computes with tensors uses memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_NEVER, _GROWTH = 2**31 - 1, 2**26  # bytes
_KEEPING = {_M_MMAP_THRESHOLD: _NEVER, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _GROWTH}
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""For the environment of a process that is yet to start: as `share_one_arena`."""


def share_one_arena() -> None:
    """Let all threads of this process allocate from one arena: for its start, since an arena that is there remains.

    Without it `keep_freed_memory` does little where there are threads, which give back what is in arenas of their own.
    Importing pyarrow or deltalake starts a thread, so it is too late after that. Not for a process that serves: its
    threads would wait for one another.
    """
    _mallopt({_M_ARENA_MAX: 1})


def keep_freed_memory() -> None:
    """Let this process reuse the memory of freed tensors instead of giving it back, to be cleared again.

    By default glibc maps each large tensor anew, which took a quarter of the time of training (see
    benchmarks/RESULTS.md). A process that holds no tensors has less memory at its peak without.
    """
    _mallopt(_KEEPING)


def _mallopt(values: dict[int, int]) -> None:
    """Set parameters of `mallopt(3)`; other systems' allocators are left as they are."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, value in values.items():
            libc.mallopt(parameter, value)
