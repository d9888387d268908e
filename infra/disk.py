"""What a local disk refuses, told in one line by who must act: it is full, or this process may not use it."""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def told(folder: str | Path, setting: str, numbers: Container[int] = (*FULL, *REFUSED)) -> Iterator[None]:
    """Tell errors of the disk that holds `folder` as the user's to mend; all others pass as they are.

    Args:
        folder: what the block uses; it need not exist.
        setting: the variable that chooses it.
        numbers: which errors (errno) are meant.

    Raises:
        UserError: the disk is full, or the process may not use the folder. Neither heals within minutes.
    """
    try:
        yield
    except Exception as error:
        number = number_of(error)
        if number not in numbers:
            raise
        raise _mistake(number, Path(folder), setting, one_line(error)) from error


def number_of(error: Exception) -> int:
    """The errno of an error, 0 where it has none; delta-rs gives it in the text alone."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    said = re.search(r"\(os error (\d+)\)|\bOs \{ code: (\d+)", str(error))
    return int(said[1] or said[2]) if said else 0


def one_line(error: Exception) -> str:
    """The message of an error in one line: delta-rs draws a coloured tree."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", "", str(error)).split())


def _mistake(number: int, folder: Path, setting: str, said: str) -> UserError:
    who, elsewhere = _who(), f"set {setting} to a folder"
    if number in FULL:
        cause = f"the disk of {folder} is full" if number == errno.ENOSPC else f"{who} has used up a quota in {folder}"
        remedy = f"free space there (`du -xhd1 {folder}` shows what is large), or {elsewhere} on a larger disk"
        return UserError(f"{cause} ({_free(folder)}): {said}", where=str(folder), remedy=remedy)
    remedy = f"give it to that user (`chown -R {os.geteuid()}:{os.getegid()} {folder}`)"
    if number == errno.EROFS:
        remedy = "mount it for writing"
    remedy = f"{remedy}, or {elsewhere} that it may write to"
    return UserError(f"{folder} can't be used by {who}: {said}", where=str(folder), remedy=remedy)


def _who() -> str:
    uid = os.geteuid()
    names = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid]  # a container's user may have none
    return f"user {names[0]} (uid {uid})" if names else f"uid {uid}"


def _free(folder: Path) -> str:
    """What is left of the disk; of a quota nobody tells."""
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    disk = os.statvfs(there)
    space = f"{disk.f_bavail * disk.f_frsize / 1e6:,.1f} MB free"
    return f"{space}, but no file more" if disk.f_files and not disk.f_favail else space
