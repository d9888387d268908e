"""Many small files at http://, https:// and s3:// URLs: at once, politely, and not from inside the network unasked.

An event loop in a thread asks; what it brings is yielded to the caller, who may work meanwhile. A host gets a few
requests at once at most, waits that it asks for are kept, and one that fails again and again is given up. No URL ends
the others: what cannot be had is a `Fault` with a reason. Whatever servers do, memory holds `connections` files.

Names are looked up here and every address is checked (`infra.addresses`); the connection is made to the very address
that was checked, on each redirect anew, and TLS compares the certificate with the name. So proxies of the environment
are not used: what looks names up behind a proxy cannot be checked. S3 is asked as everywhere else: the operator says by
AWS_ENDPOINT_URL where it is, and no URL leads elsewhere; of its buckets those that are allowed, since it is asked with
rights of our own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import re
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

import aiohttp
import certifi
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry
from yarl import URL

from infra import objects
from infra.addresses import Allowed
from infra.errors import TransientError, UserError
from infra.places import shown

REDIRECTS = 5
"""Times that an address may lead on to another one."""
WINDOW = 1000
"""URLs that are under way or wait for their host: a slow one does not hold up the others until so many are its."""
BUCKET_CONNECTIONS = 10
"""Requests at once to a bucket: as many connections as boto3 keeps."""
FRESH_MAX_S = 7 * 24 * 3600
"""Longest that an answer is used without asking: many servers allow a year, and then change the image all the same."""
TAG_MAX = 512
"""Longest ETag that is kept, in characters."""
NAMES_S = 300
"""Seconds that the addresses of a name are used."""
HIDDEN = re.compile("[^:]+:/{1,2}…")
"""What is shown of an address that may hold a password."""
SENT_ON = (301, 302, 303, 307, 308)
BUSY = (429, 503)
PASSING = (408, 425, 500, 502, 504)
REASONS = {401: "not allowed", 403: "not allowed", 404: "not found", 410: "not found"}
PACKED = ("gzip", "x-gzip", "deflate")
"""Encodings that are unpacked, up to the limit; we ask for none, and not every server listens."""


@dataclass(frozen=True)
class Manners:
    """How servers are asked, and what may be asked; times in seconds.

    `limit` is the largest file in bytes. `agent` is the User-Agent. A URL is tried `tries` times where what fails may
    pass, after random waits that double from `wait_s` on; a server's own wait (Retry-After) is kept up to `patience_s`.
    A host is given up that has failed `given_up_after` times in a row, for `given_up_s` at least.
    """

    agent: str
    limit: int
    allowed: Allowed = field(default_factory=Allowed)
    connections: int = 32
    connections_a_host: int = 4
    connect_s: float = 10
    stall_s: float = 30
    total_s: float = 300
    tries: int = 5
    wait_s: float = 1
    wait_max_s: float = 30
    patience_s: float = 120
    given_up_after: int = 12
    given_up_s: float = 60


class Asked(NamedTuple):
    """A URL, and by which ETag and date (Last-Modified) the content is known that the address with key `at` gave."""

    url: str
    etag: str = ""
    last_modified: str = ""
    at: str = ""


class Answer(NamedTuple):
    """The content of a URL as it was asked for, None where it is still the one that is known.

    `at` is the key of the address that gave it at last, `fresh_s` how long it may be used without asking, in seconds.
    """

    url: str
    data: bytes | None
    at: str
    etag: str
    last_modified: str
    fresh_s: int


class Fault(NamedTuple):
    """Why a URL gave nothing: a word or two for a column, and for a person what was found. `passing`: it may pass."""

    url: str
    reason: str
    detail: str
    passing: bool


def key(url: str) -> str:
    """SHA-256 (hex) of a URL, under which it is kept: the URL itself may hold a signature."""
    return hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()


def fetch(asked: Iterable[Asked], manners: Manners) -> Generator[Answer | Fault, None, None]:
    """What each URL gives, once for each, as it comes; `asked` is read as far ahead as `WINDOW`.

    Raises:
        UserError: the certificates of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE cannot be read.
    """
    done: queue.SimpleQueue[Future[Answer | Fault]] = queue.SimpleQueue()
    under_way = 0
    with _asking(manners) as (ask, take):
        for item in asked:
            ask(item).add_done_callback(done.put)
            under_way += 1
            while under_way == WINDOW or not done.empty():
                under_way -= 1
                yield take(done.get())
        for _ in range(under_way):
            yield take(done.get())


Outcome = TypeVar("Outcome")
Ask = Callable[[Asked], "Future[Answer | Fault]"]
Take = Callable[["Future[Answer | Fault]"], Answer | Fault]


@contextmanager
def _asking(manners: Manners) -> Iterator[tuple[Ask, Take]]:
    """A way to ask from this thread, and one to take what came, which makes room for more."""
    trusted = _trusted()
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, _Client]] = Future()

    async def serve() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(manners.connections))  # looks names up, and reads S3
        async with _session(manners, trusted) as session:
            ready.set_result((loop, over, _Client(manners, session)))
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="web", daemon=True)
    thread.start()
    loop, over, client = ready.result()

    def take(future: Future[Answer | Fault]) -> Answer | Fault:
        outcome = future.result()
        if isinstance(outcome, Answer) and outcome.data is not None:
            loop.call_soon_threadsafe(client.room.release)
        return outcome

    try:
        yield lambda item: asyncio.run_coroutine_threadsafe(client.get(item), loop), take
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def _trusted() -> ssl.SSLContext:
    """Whom TLS trusts: the authorities that `requests` does, which fetches archives."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
    try:
        folder = os.path.isdir(bundle)
        return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"the certificates of authorities in {bundle} cannot be read: {error}",
            where="REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE",
            remedy="name a file of certificates (PEM), or unset both",
        ) from None


@asynccontextmanager
async def _session(manners: Manners, trusted: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(
        ssl=trusted,
        resolver=_Resolver(manners.allowed),
        ttl_dns_cache=NAMES_S,
        limit=manners.connections,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=manners.total_s, sock_connect=manners.connect_s, sock_read=manners.stall_s),
        # identity: a server that packs its answer would change the bytes that name the file.
        headers={"User-Agent": manners.agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield session


class _FailedError(Exception):
    """Becomes a `Fault`; `again`: it is tried again, `host_failed`: it counts against the host."""

    def __init__(
        self, reason: str, detail: str, *, passing: bool = False, again: bool | None = None, host_failed: bool = False
    ) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.passing = reason, detail, passing
        self.again = passing if again is None else again
        self.host_failed = host_failed


class _Resolver(AbstractResolver):
    """Looks names up; refuses one of whose addresses any may not be connected to."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed, self._system = allowed, aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        met = await self._system.resolve(host, port, family)
        for address in met:
            _check_address(self._allowed, host, port, address["host"])
        return met

    async def close(self) -> None:
        await self._system.close()


def _check_address(allowed: Allowed, host: str, port: int, address: str) -> None:
    if not allowed.passes(host, port, address):
        raise _FailedError(
            "inside the network",
            f"{host}:{port} is {address}, which is no public address and not among LOOKALIKE_IMAGE_HOSTS",
        )


class _Host:
    """A server: whose turn it is, until when it wants to be left alone, and how often in a row it has failed."""

    def __init__(self, name: str, manners: Manners, connections: int) -> None:
        self._name, self._manners = name, manners
        self._turns = asyncio.Semaphore(connections)
        self._quiet_until = self._failing_since = 0.0
        self._failures, self._given_up = 0, ""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until the server may be asked; what comes of it is counted.

        Raises:
            _FailedError: the server is given up.
        """
        async with self._turns:
            while (wait := self._quiet_until - _now()) > 0:
                await asyncio.sleep(wait)
            if self._given_up:
                raise self._refusal()
            try:
                yield
            except _FailedError as failed:
                self._count(failed)
                raise
            self._failures = 0

    def leave_alone(self, seconds: float) -> None:
        """Let all wait that have not asked yet."""
        self._quiet_until = max(self._quiet_until, _now() + seconds)

    def give_up(self, why: str) -> _FailedError:
        """Ask it no more; returns what all get from now on."""
        if not self._given_up:
            structlog.get_logger().warning("host given up", host=self._name, why=why)
            self._given_up = why
        return self._refusal()

    def _refusal(self) -> _FailedError:
        return _FailedError("host given up", f"{self._name}: {self._given_up}", passing=True, again=False)

    def _count(self, failed: _FailedError) -> None:
        self._failures = self._failures + 1 if failed.host_failed else 0
        if self._failures == 1:
            self._failing_since = _now()
        long = _now() - self._failing_since >= self._manners.given_up_s
        if self._failures >= self._manners.given_up_after and long:
            self.give_up(
                f"it failed {self._failures} times in a row, the last time by {failed.reason}: {failed.detail}"
            )


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Client:
    """Asks servers; runs in the thread of the loop. Who takes an answer's bytes releases `room`."""

    def __init__(self, manners: Manners, session: aiohttp.ClientSession) -> None:
        self._manners, self._session = manners, session
        self._hosts: dict[str, _Host] = {}
        self.room = asyncio.Semaphore(manners.connections)
        self._tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _FailedError) and error.again),
            stop=stop_after_attempt(manners.tries),
            wait=wait_random_exponential(multiplier=manners.wait_s, max=manners.wait_max_s),
            reraise=True,
        )

    async def get(self, asked: Asked) -> Answer | Fault:
        """What a URL gives, tried again where what fails may pass."""
        ask = self._ask_s3 if asked.url[:5].lower() == "s3://" else self._follow
        try:
            return await self._tries.copy()(ask, asked)
        except _FailedError as failed:
            return Fault(asked.url, failed.reason, failed.detail, failed.passing)

    async def _follow(self, asked: Asked) -> Answer:
        """Ask, and go on where the server sends on to."""
        address, led = _checked(asked.url, "it"), False
        for _ in range(REDIRECTS + 1):
            outcome = await self._ask(address, asked)
            if isinstance(outcome, Answer):
                # What a redirect leads to may change, however long that which it led to is fresh.
                return outcome._replace(fresh_s=0) if led else outcome
            address, led = outcome, True
        raise _FailedError("too many redirects", f"more than {REDIRECTS}, the last one to {shown(str(address))}")

    async def _ask(self, address: URL, asked: Asked) -> Answer | URL:
        """What an address gives, or the one that it sends on to."""
        host, port = str(address.host), address.port or 0
        if _is_literal(host):  # which nobody looks up
            _check_address(self._manners.allowed, host, port, host)
        known = asked if asked.at == key(str(address)) else Asked(asked.url)
        headers = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
        server = self._host(f"{host}:{port}", self._manners.connections_a_host)
        return await self._in_turn(server, lambda: self._request(address, known, headers, server))

    async def _request(self, address: URL, known: Asked, headers: Mapping[str, str], server: _Host) -> Answer | URL:
        sent = {name: value for name, value in headers.items() if value}
        with _told(f"{address.host}:{address.port}"):
            async with self._session.get(address, headers=sent, allow_redirects=False) as response:
                if response.status in SENT_ON and "Location" in response.headers:
                    return _checked(response.headers["Location"], "the server sends on to", address)
                if response.status == 304 and sent:
                    tag, date = (_kept(response.headers, name) for name in ("ETag", "Last-Modified"))
                    kept = tag or known.etag, date or known.last_modified
                    return Answer(known.url, None, known.at, *kept, fresh_s(response.headers))
                self._refuse(response, server)
                data = await _body(response, self._manners.limit)
        kept = _kept(response.headers, "ETag"), _kept(response.headers, "Last-Modified")
        return Answer(known.url, data, key(str(address)), *kept, fresh_s(response.headers))

    def _host(self, name: str, connections: int) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(name, self._manners, connections)
        return self._hosts[name]

    async def _in_turn(self, server: _Host, request: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What a request gives once it is the server's turn and there is room, which the bytes of an answer keep."""
        async with server.turn():
            await self.room.acquire()
            outcome = None
            try:
                outcome = await request()
            finally:
                if not isinstance(outcome, Answer) or outcome.data is None:
                    self.room.release()
            return outcome

    def _refuse(self, response: aiohttp.ClientResponse, server: _Host) -> None:
        """Raise _FailedError for an answer without the content; see that the server has the rest that it asks for."""
        status, said = response.status, f"the server answered {response.status}"
        if status in BUSY:
            reason, wait = "too many requests" if status == 429 else "server error", _wait_asked(response.headers)
            if wait <= self._manners.patience_s:
                server.leave_alone(wait)
                raise _FailedError(reason, said, passing=True, host_failed=True)
            raise server.give_up(f"{said} and asks to wait {wait:,.0f} s")
        if status in PASSING or status >= 500:
            raise _FailedError("server error", said, passing=True, host_failed=True)
        if status != 200:
            raise _FailedError(REASONS.get(status, "unexpected answer"), said)

    async def _ask_s3(self, asked: Asked) -> Answer:
        try:
            place = objects.Place.of(asked.url)
        except ValueError as error:
            raise _FailedError("unusable address", f"it {error}") from None
        if not place.key:
            raise _FailedError("unusable address", "it names no object")
        if place.bucket not in self._manners.allowed.buckets:
            raise _FailedError(
                "bucket not named",
                f"s3://{place.bucket} is neither the source's bucket nor among LOOKALIKE_IMAGE_HOSTS: name it there if "
                "images are to come from it",
            )
        server = self._host(f"s3://{place.bucket}", BUCKET_CONNECTIONS)
        return await self._in_turn(server, lambda: self._read_s3(place, asked))

    async def _read_s3(self, place: objects.Place, asked: Asked) -> Answer:
        limit = self._manners.limit
        try:
            data, etag = await asyncio.to_thread(objects.read_changed, place, limit + 1, asked.etag)
        except FileNotFoundError:
            raise _FailedError("not found", "the bucket has no such object") from None
        except UserError as error:
            raise _FailedError("not allowed", error.problem) from None
        except TransientError as error:
            raise _FailedError("connection failed", str(error), passing=True, host_failed=True) from None
        if data is not None and len(data) > limit:
            raise _too_large(limit)
        return Answer(asked.url, data, key(str(place)), etag, "", 0)


def _checked(text: str, said: str, base: URL | None = None) -> URL:
    """A URL that may be asked, or where one sends on to; its host is yet to be checked."""
    if HIDDEN.fullmatch(shown(text)):
        raise _FailedError("unusable address", "it may hold a password: write %40 for an @ behind the host")
    try:
        address = (base.join(URL(text)) if base else URL(text)).with_fragment(None)
        kind, host, _ = address.scheme, address.host, address.port
    except ValueError:
        raise _FailedError("unusable address", f"{said} {shown(text)!r}, which is no URL") from None
    if kind not in ("http", "https") or not host:
        raise _FailedError(
            "unusable address", f"{said} {shown(text)!r}, and only http://, https:// and s3:// are asked"
        )
    if address.raw_user is not None or address.raw_password is not None:
        raise _FailedError("credentials in the address", "user and password in a URL reach logs: leave them out")
    return address


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@contextmanager
def _told(server: str) -> Iterator[None]:
    """Tell what goes wrong on the way to a server and back; the library's own words may hold the whole address."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        again = error.os_error.errno == socket.EAI_AGAIN
        raise _FailedError("unknown host", _why(server, error), passing=again, host_failed=True) from None
    except UnicodeError:
        raise _FailedError("unknown host", f"{server}: no name can be so") from None
    except aiohttp.InvalidURL:
        raise _FailedError("unusable address", f"{server} is no host") from None
    except aiohttp.ClientConnectorCertificateError as error:
        detail = f"{server}: {error.certificate_error}"
        raise _FailedError("certificate", detail, host_failed=True) from None
    except TimeoutError:
        raise _FailedError(
            "timeout", f"{server}: no answer, or not all of it, in time", passing=True, host_failed=True
        ) from None
    except aiohttp.ClientPayloadError:
        raise _FailedError(
            "cut short", f"{server} sent less than it announced", passing=True, host_failed=True
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        raise _FailedError("connection failed", _why(server, error), passing=True, host_failed=True) from None


def _why(server: str, error: Exception) -> str:
    cause = getattr(error, "os_error", error)
    return f"{server}: {getattr(cause, 'strerror', None) or type(cause).__name__}"


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The content of an answer, at most `limit` bytes, whatever it announces or unpacks to."""
    if (response.content_length or 0) > limit:
        raise _too_large(limit)
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > limit:
            raise _too_large(limit)
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing == "identity":
        return bytes(data)
    if packing not in PACKED:
        raise _FailedError("unexpected answer", f"it is packed by {packing[:40]!r}, and was asked for as it is")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, told by the first bytes
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise _FailedError(
            "unexpected answer", f"it is said to be packed by {packing}, and cannot be unpacked: {error}"
        ) from None
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacker.eof:
        raise _FailedError("cut short", f"what is packed by {packing} has no end", passing=True)
    return unpacked


def _too_large(limit: int) -> _FailedError:
    return _FailedError("file too large", f"more than {limit:,} bytes (LOOKALIKE_IMAGE_MAX_BYTES)")


def _kept(headers: Mapping[str, str], name: str) -> str:
    """A header that is to be sent back one day; empty where it is not fit to."""
    value = headers.get(name, "")
    return value if len(value) <= TAG_MAX and value.isascii() and value.isprintable() else ""


def _wait_asked(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait: Retry-After in its two forms; 0 where it does not, or in no known one."""
    try:
        return Retry().parse_retry_after(headers["Retry-After"])
    except (KeyError, InvalidHeader, ValueError, OverflowError):
        return 0


def fresh_s(headers: Mapping[str, str]) -> int:
    """How long an answer may be used without asking, in seconds: its max-age less its Age (RFC 9111, 4.2), capped."""
    parts = (part.strip().partition("=") for part in headers.get("Cache-Control", "").lower().split(","))
    control = {name: value.strip('"') for name, _, value in parts}
    age, lifetime = headers.get("Age", "0"), control.get("max-age", "")
    if control.keys() & {"no-cache", "no-store"} or not (_is_count(lifetime) and _is_count(age)):
        return 0
    return max(0, min(int(lifetime) - int(age), FRESH_MAX_S))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
