"""A temporary folder that does not outlive its process, even where that is killed: the next one of its name takes it.

Whoever has a folder holds a lock on it, which ends with the process however that ends. So a folder whose lock can be
taken is nobody's. Numbers of processes would not tell: in a container the next one has the same.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A new folder of this user alone, until the block ends; those of killed processes with this prefix go first."""
    _sweep(prefix)
    made, lock = _made(prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _made(prefix: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock; no process that this one starts has it."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix))
        with suppress(FileNotFoundError):  # a sweep came before the lock
            lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), made.stat()):
                    return made, lock
            os.close(lock)


def _sweep(prefix: str) -> None:
    """Delete this user's folders that nobody holds."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else's, no folder, or held
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
