"""A place for what numba compiles, where it finds none: neither beside the code nor in the home can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
CODE = Path(__file__).resolve().parents[1]


def find_place() -> None:
    """Before numba is loaded: name it a folder of this user's among the temporary ones, if it would else find none.

    It holds programs that are run, so one that others may write is passed over, for a new one that this process and
    those it starts have for themselves.
    """
    caches = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    if VARIABLE in os.environ or CODE.is_dir() and _writable(CODE / "ml/__pycache__") or _writable(caches / "numba"):
        return
    try:
        folder = Path(tempfile.gettempdir()) / f"lookalike-numba-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        ours = (found.st_uid, found.st_mode) == (os.getuid(), 0o40700)
        os.environ[VARIABLE] = str(folder) if ours else tempfile.mkdtemp(prefix="lookalike-numba-")
    except OSError:  # numba says what is wrong, where it is needed
        return


def _writable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return folder.is_absolute() and os.access(there, os.W_OK | os.X_OK)
