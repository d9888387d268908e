"""Connections to the store that one event loop shares: questions go out at once, answers come back in their order.

libpq's pipeline mode lets a connection carry many questions without waiting for the answers in between, each a
transaction of its own, which one that fails does not touch. That takes a fifth of the time of psycopg's own cursors,
and the answer stays bytes as Postgres wrote them. The connections are a reader's: they never change the store, nor
prepare it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from infra import store
from infra.errors import TransientError, UserError

RETRY_S = 0.5
"""Between two attempts to reach a store that is away."""
NOT_PREPARED = "the store is not prepared"
Row = tuple[bytes | None, ...]


class RefusedError(Exception):
    """Postgres refused what was asked: its SQLSTATE, message and hint."""

    def __init__(self, sqlstate: str, message: str, hint: str) -> None:
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate, self.message, self.hint = sqlstate, message, hint


@dataclass(frozen=True)
class Place:
    """Where the store is, and how long a statement may take there, in seconds."""

    uri: str
    folder: Path
    limit_s: float


class Pool:
    """A few connections that are kept, and made again once they break."""

    def __init__(self, place: Place, size: int, statements: Mapping[str, str]) -> None:
        """Make none yet: `keep` does.

        Args:
            place: the store's.
            size: how many connections.
            statements: what will be asked, SQL by name.
        """
        self._place, self._size, self._statements = place, size, statements
        self._lanes: list[_Lane] = []
        self._wanted = asyncio.Event()
        self.away: Exception = TransientError("the store has not been reached yet")

    async def keep(self) -> None:
        """Make the connections, and again those that break, until cancelled."""
        try:
            while True:
                self._wanted.clear()
                while len(self._lanes) < self._size:
                    try:
                        connection = await asyncio.to_thread(self._opened)
                    except (TransientError, UserError) as error:
                        self.away = error
                        await asyncio.sleep(RETRY_S)
                    else:
                        self._lanes.append(_Lane(connection, self._lost))
                await self._wanted.wait()
        finally:
            for lane in list(self._lanes):
                lane.close(TransientError("the server is stopping"))

    def _opened(self) -> psycopg.Connection:
        connection = store.reader(self._place.uri, self._place.folder, self._place.limit_s)
        try:
            for name, statement in self._statements.items():
                result = connection.pgconn.prepare(name.encode(), statement.encode())
                if result.status != ExecStatus.COMMAND_OK:
                    raise TransientError(f"{NOT_PREPARED}: {result.get_error_message()}")
        except psycopg.OperationalError as error:
            connection.close()
            raise TransientError(f"the store failed: {error}") from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _lost(self, lane: _Lane, error: Exception) -> None:
        self._lanes.remove(lane)
        self.away = error
        self._wanted.set()

    async def ask(self, name: str, *values: bytes | None) -> list[Row]:
        """The rows that a statement gives for these values, as Postgres writes them.

        Raises:
            RefusedError: Postgres refused it.
            TransientError: the store cannot be reached, or the connection broke.
        """
        if not self._lanes:
            raise TransientError(str(self.away)) from self.away
        lane = min(self._lanes, key=_Lane.load)
        return _rows(await lane.ask(name.encode(), values))

    def drop(self, why: str) -> None:
        """Give up all connections, whose server does not answer."""
        for lane in list(self._lanes):
            lane.close(TransientError(why))


def _rows(result: psycopg.pq.abc.PGresult) -> list[Row]:
    if result.status != ExecStatus.TUPLES_OK:
        raise _refused(result)
    columns = range(result.nfields)
    return [tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)]


def _refused(result: psycopg.pq.abc.PGresult) -> Exception:
    fields = (DiagnosticField.SQLSTATE, DiagnosticField.MESSAGE_PRIMARY, DiagnosticField.MESSAGE_HINT)
    sqlstate, message, hint = ((result.error_field(field) or b"").decode("utf-8", "replace") for field in fields)
    if sqlstate.startswith(("08", "53", "57P", "40", "55")) or not sqlstate:
        return TransientError(f"the store failed: {message}")
    return RefusedError(sqlstate, message, hint)


class _Lane:
    """A connection in pipeline mode, and the questions that wait for its answers, first come first."""

    def __init__(self, connection: psycopg.Connection, lost) -> None:  # type: ignore[no-untyped-def]
        self._connection, self._pg, self._lost = connection, connection.pgconn, lost
        self._loop, self._waiting = asyncio.get_running_loop(), deque[asyncio.Future]()
        self._result: psycopg.pq.abc.PGresult | None = None
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._read)

    def load(self) -> int:
        """How many questions wait."""
        return len(self._waiting)

    def ask(self, name: bytes, values: Sequence[bytes | None]) -> asyncio.Future:
        """Send a question, which is answered when the future is done."""
        answer = self._loop.create_future()
        try:
            self._pg.send_query_prepared(name, values)
            self._pg.pipeline_sync()
            self._waiting.append(answer)
            self._flush()
        except psycopg.OperationalError as error:
            self.close(TransientError(f"the store failed: {store.first_line(error)}"))
            if not answer.done():
                answer.set_exception(TransientError(f"the store failed: {store.first_line(error)}"))
        return answer

    def _flush(self) -> None:
        if self._pg.flush():  # not all fits into the socket
            self._loop.add_writer(self._socket, self._write)

    def _write(self) -> None:
        try:
            if not self._pg.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.OperationalError as error:
            self.close(TransientError(f"the store failed: {store.first_line(error)}"))

    def _read(self) -> None:
        try:
            self._pg.consume_input()
            nothing = 0
            while self._waiting and nothing < 3 and not self._pg.is_busy():
                result = self._pg.get_result()
                if result is None:  # ends the results of a statement, or there is none yet
                    nothing += 1
                    continue
                nothing = 0
                if result.status == ExecStatus.PIPELINE_SYNC:
                    self._settle()
                elif result.status != ExecStatus.PIPELINE_ABORTED:
                    self._result = result
            if self._pg.status != psycopg.pq.ConnStatus.OK:
                raise psycopg.OperationalError(self._pg.get_error_message())
        except psycopg.OperationalError as error:
            self.close(TransientError(f"the store failed: {store.first_line(error)}"))

    def _settle(self) -> None:
        answer, result, self._result = self._waiting.popleft(), self._result, None
        if answer.done():  # whoever asked has gone
            return
        if result is None:
            answer.set_exception(TransientError("the store gave no answer"))
        else:
            answer.set_result(result)

    def close(self, error: Exception) -> None:
        """End the connection; whoever waits gets the error."""
        if self._socket < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket = -1
        with suppress(psycopg.Error):
            self._connection.close()
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(error)
        self._lost(self, error)
