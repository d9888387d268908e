"""Clients that let the server wait, and those who try keys: what it costs the server, and others."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from infra.settings import Settings
from jobs.serve import guard, server
from jobs.serve.guard import Guard
from jobs.serve.problems import Problem
from tests.jobs.test_serve import free_port

LARGE = b"x" * 20_000_000
HOST = b"Host: localhost\r\n"


async def answer(scope, receive, send):
    """`/` is answered at once, `/large` with more than a socket holds, `/slow` after a while."""
    if scope["type"] == "lifespan":
        return
    await asyncio.sleep(1.5 if scope["path"] == "/slow" else 0)
    body = LARGE if scope["path"] == "/large" else b"here"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port():
    """A server that waits for its clients for a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "CLIENT_S", 1.0)
        patch.setattr(server, "LOOK_S", 0.1)
        patch.setattr(server, "CONNECTIONS_MAX", 20)
        config = uvicorn.Config(answer, port=free_port(), http=server.Bounded, log_level="critical", lifespan="off")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run)
        thread.start()
        while not running.started:
            time.sleep(0.02)
        yield config.port
        running.should_exit = True
        thread.join()


def seconds_until_the_end(port: int, first: bytes, again: bytes) -> float:
    """How long the server keeps a client that sends one thing, and another five times a second."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as client, suppress(ConnectionError):
        client.sendall(first)
        client.settimeout(0.2)
        while time.monotonic() - started < 10:
            with suppress(TimeoutError):
                client.sendall(again)
                if not client.recv(65_536):
                    break
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", b"\r\n"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999\r\n\r\n", b"x"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\nGET", b""),
    ],
    ids=["says nothing", "goes on with a head", "sends blank lines", "goes on with a body", "begins another request"],
)
def test_a_client_that_comes_to_no_end_is_left(port, first, again):
    assert 0.8 < seconds_until_the_end(port, first, again) < 9


def test_a_client_that_does_not_take_its_answer_is_left(port):
    taken = 0
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client, suppress(ConnectionError):
        client.sendall(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
        time.sleep(2)
        while piece := client.recv(65_536):
            taken += len(piece)
    assert taken < len(LARGE)


def test_a_client_that_waits_for_us_is_kept_and_so_is_one_that_asks_again(port):
    question = b"GET %b HTTP/1.1\r\n" + HOST + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for path in (b"/slow", b"/", b"/", b"/", b"/slow"):
            client.sendall(question % path)
            assert client.recv(65_536).endswith(b"here")
            time.sleep(0.5)


def test_any_number_of_silent_clients_keeps_nobody_out(port):
    question = b"GET %b HTTP/1.1\r\n" + HOST + b"\r\n"
    with ExitStack() as clients:
        connect = lambda: clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))  # noqa: E731
        early = connect()
        early.sendall(question % b"/slow")
        time.sleep(0.2)
        for _ in range(60):
            connect()
        late = connect()
        late.sendall(question % b"/")
        assert late.recv(65_536).endswith(b"here")
        assert early.recv(65_536).endswith(b"here")


def settings(**given) -> Settings:
    return Settings(serve_host="0.0.0.0", serve_workers=1, serve_rate="100/hour", **given)  # noqa: S104


def test_who_tries_keys_soon_makes_the_store_look_for_none():
    asked = []

    async def known(sha256):
        asked.append(sha256)
        return False

    async def tries():
        guarded, statuses = Guard(settings(), known), []
        for number in range(50):
            with pytest.raises(Problem) as problem:
                await guarded.admit([(b"authorization", b"Bearer wrong%d" % number)], ("192.0.2.1", 1), needs_key=True)
            statuses.append(problem.value.status)
        return statuses

    assert asyncio.run(tries()) == [401] * 10 + [429] * 40
    assert len(asked) == 10


def test_a_key_that_is_one_costs_its_address_once_what_a_try_does():
    async def known(sha256):
        return True

    async def asks(keys):
        guarded = Guard(settings(), known)
        for _ in range(50):
            for number in range(keys):
                await guarded.admit([(b"authorization", b"Bearer %d" % number)], ("192.0.2.1", 1), needs_key=True)

    asyncio.run(asks(10))
    with pytest.raises(Problem, match="too much"):
        asyncio.run(asks(11))


def test_many_who_ask_at_once_with_a_new_key_make_the_store_look_once():
    asked = []

    async def known(sha256):
        asked.append(sha256)
        await asyncio.sleep(0.05)
        return True

    async def asks():
        guarded, headers = Guard(settings(), known), [(b"authorization", b"Bearer one")]
        return await asyncio.gather(*(guarded.admit(headers, ("192.0.2.1", 1), needs_key=True) for _ in range(50)))

    assert len(set(asyncio.run(asks()))) == 1
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("host", "is_so"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("0.0.0.0", False), ("::", False)]  # noqa: S104
    + [
        ("", False),
        ("0", False),
        ("127.1", False),
        ("::ffff:127.0.0.1", False),
        ("LOCALHOST", False),
        ("::ffff:0:0", False),
    ],
)
def test_keys_are_asked_for_wherever_a_host_is_not_plainly_this_machine(host, is_so):
    assert guard.is_loopback(host) is is_so


@pytest.mark.parametrize(
    ("peer", "client"),
    [("10.0.0.7", "192.0.2.1"), ("::ffff:10.0.0.7", "192.0.2.1"), ("fd00::7", "192.0.2.1")]
    + [("10.0.0.8", "10.0.0.8"), ("::ffff:10.0.0.8", "::ffff:10.0.0.8"), ("fd01::7", "fd01::7")],
)
def test_a_named_proxy_tells_the_clients_address_over_ipv4_and_ipv6_and_nobody_else_does(peer, client):
    met = []

    async def app(scope, receive, send):
        met.append(scope["client"][0])

    how = server._how(Settings(serve_proxies="10.0.0.7,fd00::/16"))
    headers = [(b"x-forwarded-for", b"203.0.113.9, 192.0.2.1")]
    scope = {"type": "http", "client": (peer, 1), "headers": headers}
    asyncio.run(ProxyHeadersMiddleware(app, how["forwarded_allow_ips"])(scope, None, None))
    assert met == [client]
