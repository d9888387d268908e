"""What other processes may see of one: nothing of its memory, where that holds a password or somebody's photo."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def keep_to_itself() -> None:
    """Let no other process of this user read this one's memory and environment, nor a crash write them to a file.

    Linux alone can be told so. It holds for this process, and not for those it starts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
