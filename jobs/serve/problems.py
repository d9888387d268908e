"""What went wrong, as RFC 9457 tells it: a status, what was found, where, and what to do. Nobody sees a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import structlog

from infra.errors import TransientError, UserError
from infra.pool import RefusedError

MEDIA_TYPE = b"application/problem+json"
RETRY_S = 2
"""What clients are told to wait while the store is away."""
UNKNOWN = ("has no product", "neither run has a product", "has no run")
"""What SQL says of what is not there."""
SHOWN = 200
"""Characters of a value that are repeated."""


class Problem(Exception):  # noqa: N818 - what RFC 9457 calls it
    """An answer that is none. `value` is what was found, `place` where, `remedy` what to do."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        place: str,
        remedy: str,
        value: object = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.place, self.remedy = status, detail, place, remedy
        self.value = None if value is None else str(value)[:SHOWN]
        self.headers = headers or {}

    def told(self) -> dict[str, object]:
        """The members of the problem."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "value": self.value,
            "place": self.place,
            "remedy": self.remedy,
        }

    def body(self) -> bytes:
        """The problem as it is sent."""
        return json.dumps(self.told()).encode()


def wrong(detail: str, *, place: str, remedy: str, value: object = None) -> Problem:
    """The problem of a question that cannot be answered as it is."""
    return Problem(400, detail, place=place, remedy=remedy, value=value)


def away(detail: str, retry_s: float = RETRY_S, place: str = "the server") -> Problem:
    """The problem of what passes by itself."""
    headers = {"Retry-After": str(max(1, round(retry_s)))}
    return Problem(503, detail, place=place, remedy="ask again in a moment", headers=headers)


@contextmanager
def ours(place: str) -> Iterator[None]:
    """What is wrong with a place of ours is for the log; who asks learns that it is away, and no path or host."""
    try:
        yield
    except (UserError, TransientError, OSError) as error:
        structlog.get_logger().warning("an answer failed", place=place, why=str(error))
        raise away(f"{place} does not give what is needed", 10, place) from None


def of(error: Exception) -> Problem:
    """The problem that an error is; of our own bugs it says no more than that there is one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RefusedError):
        return _of_refused(error)
    if isinstance(error, TransientError):
        return away("the store cannot be reached", place="the store")
    if isinstance(error, UserError):
        return Problem(400, error.problem, place=error.where or "the question", remedy=error.remedy)
    if isinstance(error, UnicodeError):
        return wrong("it is no UTF-8", place="the question", remedy="send text in UTF-8, percent-encoded in an address")
    return Problem(
        500, "the server failed; this is our mistake", place="the server", remedy="tell us, with what you asked"
    )


def _of_refused(error: RefusedError) -> Problem:
    """What SQL says of a question: its own words (P0001), or Postgres' of a value (class 22, 54)."""
    if error.sqlstate == "P0001":
        message, hint = error.message, error.hint or "see /docs"
        if message.startswith("no run is live"):
            return away(message, 10, "the store")
        status = 404 if any(words in message for words in UNKNOWN) else 400
        return Problem(status, message, place="the question", remedy=hint)
    if error.sqlstate[:2] in ("22", "54"):
        return wrong(error.message, place="the question", remedy="see /docs for what can be asked")
    if error.sqlstate == "57014":
        return away("the answer takes too long", 5, "the store")
    if error.sqlstate in ("42501", "42883", "3F000", "42P01"):
        return away("the store is not prepared for this release, or this login may not ask it", 10, "the store")
    return of(RuntimeError(error.sqlstate))
