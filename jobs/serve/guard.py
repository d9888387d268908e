"""Who may ask, and how often: keys and rates, off only while nobody but this machine can ask.

A key is drawn at random, so its plain SHA-256 is all that the store keeps of it and all that is compared. Addresses of
clients are counted by, in memory and hashed under a secret of the process, and neither stored nor logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from infra.settings import Settings
from jobs.serve.problems import Problem

TRUSTED_S = 5
"""How long what the store said of a key counts: a revoked one ends by then."""
TRY_COST = 10
"""What it counts for to ask without a key, or with one that is not known to be one."""
KNOWN_MAX = 10_000
"""Most keys, true and wrong ones, that are remembered."""
PREFIX = "lookalike_"
"""How a key begins, so that those who search code for secrets find it."""
LOCAL_NAMES = (b"localhost", b"127.0.0.1", b"[::1]")
FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"))
"""Headers by which a proxy says that it asks for another."""
COOKIE = b"lookalike_key"
"""In which the page's pictures bring a key: a browser adds no other header to what it asks for by itself."""


def draw() -> tuple[str, str, bytes]:
    """A new key: its id, the key, and the SHA-256 that is stored."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    key = f"{PREFIX}{key_id}_{secret}"
    return key_id, key, hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a server is bound to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """What a process asks of those who ask."""

    def __init__(self, settings: Settings, known: Callable[[bytes], Awaitable[bool]]) -> None:
        """Decide by the settings whether to guard; `known` asks the store for a key by its SHA-256."""
        self.guarded = bool(settings.serve_proxies) or not is_loopback(settings.serve_host)
        self._known, self._seen = known, dict[bytes, tuple[bool, float]]()
        self._looking: dict[bytes, asyncio.Future[bool]] = {}
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        # Each process counts for itself, and connections are spread over all of them.
        self._rate, self._photo_rate = (
            _share(parse(rate), settings.serve_workers) for rate in (settings.serve_rate, settings.serve_photo_rate)
        )
        self._secret = secrets.token_bytes(16)

    async def admit(
        self,
        headers: list[tuple[bytes, bytes]],
        client: tuple[str, int] | None,
        *,
        needs_key: bool,
        in_cookie: bool = False,
        cost: int = 1,
    ) -> str:
        """Let a question in; returns whom its cost is counted for. Only a picture may bring its key in a cookie.

        Raises:
            Problem: there is no key, a wrong one, or too much was asked.
        """
        if not self.guarded:
            _check_local(headers)
            return ""
        who = f"address {self._hidden(_shared(client[0]) if client else '')}"
        given = next((value for name, value in headers if name == b"authorization"), b"")
        if given or needs_key:
            key = given[7:].strip() if given[:7].lower() == b"bearer " else b""
            if in_cookie and not given:
                key = given = _of_cookie(headers)
            sha256 = hashlib.sha256(key).digest()
            if not key:
                self.count(who, TRY_COST)
            if not key or not await self._is_key(sha256, who):
                raise _no_key(bool(given))
            who = f"key {sha256.hex()}"
        if cost:
            self.count(who, cost)
        return who

    async def _is_key(self, sha256: bytes, who: str) -> bool:
        """Whether there is this key; to try one costs, and the store is asked once for all who ask meanwhile."""
        is_key, until = self._seen.get(sha256, (False, 0.0))
        known = until >= time.monotonic()
        if not is_key and (known or sha256 not in self._looking):
            self.count(who, TRY_COST)
        if known:
            return is_key
        if sha256 not in self._looking:
            self._looking[sha256] = asyncio.ensure_future(self._look(sha256))
        return await asyncio.shield(self._looking[sha256])

    async def _look(self, sha256: bytes) -> bool:
        try:
            is_key = await self._known(sha256)
        finally:
            del self._looking[sha256]
        if len(self._seen) >= KNOWN_MAX:
            self._seen.clear()
        self._seen[sha256] = is_key, time.monotonic() + TRUSTED_S
        return is_key

    def count(self, who: str, cost: int, photo: bool = False) -> None:
        """Count a cost for somebody. Raises Problem where it is too much."""
        if not self.guarded or not who:
            return
        rate = self._photo_rate if photo else self._rate
        cost = min(cost, rate.amount)
        if not self._limiter.hit(rate, "photo" if photo else "asked", who, cost=cost):
            reset = self._limiter.get_window_stats(rate, "photo" if photo else "asked", who).reset_time
            wait = max(1, round(reset - time.time()))
            raise Problem(
                429,
                "too much is asked",
                place="the rate of " + ("photos" if photo else "questions"),
                remedy=f"wait {wait} s",
                headers={"Retry-After": str(wait)},
            )

    def _hidden(self, address: str) -> str:
        return hashlib.blake2b(address.encode(), key=self._secret, digest_size=12).hexdigest()


def _shared(address: str) -> str:
    """What one client has to ask from: of IPv6 no single address, but 2⁶⁴ of them."""
    if ":" not in address:
        return address
    try:
        met = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(met.ipv4_mapped or int(met) >> 64)


def _share(rate: RateLimitItem, workers: int) -> RateLimitItem:
    return type(rate)(max(1, -(-rate.amount // workers)), rate.multiples)


def _of_cookie(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Taken apart here: http.cookies reads quoted values, in a time that grows with the square of their length."""
    pairs = b";".join(value for name, value in headers if name == b"cookie").split(b";")
    given = dict(pair.strip().split(b"=", 1) for pair in pairs if b"=" in pair)
    return given.get(COOKIE, b"")


def _no_key(given: bool) -> Problem:
    return Problem(
        401,
        "the key is not known, or was revoked" if given else "there is no key",
        place="header Authorization",
        remedy="send `Authorization: Bearer <key>`; `lookalike key add NAME` makes a key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _check_local(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse what is not this machine's: a page of another host could have its name point here, a proxy ask for all."""
    for name, value in headers:
        if name in FORWARDED:
            raise Problem(
                421,
                "a proxy asks for another, and none is declared",
                place=f"header {name.decode().title()}",
                remedy="name the proxy in LOOKALIKE_SERVE_PROXIES, which asks for keys",
            )
        if name == b"host":
            host = value.rpartition(b":")[0] if not value.endswith(b"]") and b":" in value else value
            if host.lower() not in LOCAL_NAMES:
                raise Problem(
                    421,
                    "this server is for this machine alone",
                    value=value.decode("latin-1"),
                    place="header Host",
                    remedy="ask for localhost, or bind the server to another address",
                )
