"""Answers as they go out: JSON with the tag of its run, problems, and the headers that all of them have."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any, NamedTuple

from jobs.run import release
from jobs.serve import problems
from jobs.serve.problems import Problem

GZIP_FROM = 32_768
"""Bytes from which a body is packed, where the client unpacks: of smaller ones packing takes longer than sending."""
RELEASE = hashlib.sha256(release().encode()).hexdigest()[:6]
"""Part of every tag: another release may answer in other words."""
Header = tuple[bytes, bytes]
JSON = (b"content-type", b"application/json")
NOTHING: list[Header] = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
"""Headers of what is no page: it is what its type says, loads nothing and stands in no frame."""
ALWAYS: list[Header] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
PAGE: list[Header] = [
    *ALWAYS,
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"permissions-policy", b"camera=(self), geolocation=(), microphone=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class Reply(NamedTuple):
    """A status, a body, and the headers beside its length."""

    status: int
    body: bytes
    headers: list[Header]


def etag(tag: bytes) -> bytes:
    """The weak validator of what a run answers: packed and unpacked bodies share it."""
    return b'W/"%b.%b"' % (tag, RELEASE.encode())


def is_known(asked: dict[bytes, bytes], tag: str) -> bool:
    """Whether the client says that it has what the run with this tag answers."""
    given = asked.get(b"if-none-match")
    return given is not None and etag(tag.encode()) in given


def unchanged(tag: str) -> Reply:
    """The answer to a client that has it."""
    return Reply(304, b"", [*NOTHING, (b"etag", etag(tag.encode())), (b"cache-control", b"no-cache")])


def answered(tag: bytes | None, body: bytes, asked: dict[bytes, bytes]) -> Reply:
    """JSON of the run with this tag, packed where that pays; without a tag it is not to be kept."""
    headers = [JSON, *NOTHING]
    if tag is None:
        headers.append((b"cache-control", b"no-store"))
    else:
        headers += [(b"etag", etag(tag)), (b"cache-control", b"no-cache")]
    if len(body) >= GZIP_FROM:
        headers.append((b"vary", b"accept-encoding"))
        if b"gzip" in asked.get(b"accept-encoding", b""):
            return Reply(200, gzip.compress(body, 5), [*headers, (b"content-encoding", b"gzip")])
    return Reply(200, body, headers)


def as_json(told: Any) -> bytes:
    """As it is sent."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def failed(problem: Problem) -> Reply:
    """A problem."""
    extra = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    headers = [(b"content-type", problems.MEDIA_TYPE), *NOTHING, (b"cache-control", b"no-store"), *extra]
    return Reply(problem.status, problem.body(), headers)
