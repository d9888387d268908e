"""The HTTP server's processes: those that answer, and the one that searches for photos. They end together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra import temporary
from infra.errors import UserError
from infra.privacy import keep_to_itself
from infra.settings import Settings, read_settings, variables
from jobs.serve.mapped import FOLDER
from jobs.serve.photos import SOCKET

COUNTED = "PROMETHEUS_MULTIPROC_DIR"
HEAD_MAX = 65_536
"""Most bytes of a request before its body: the parser itself knows no limit."""
BESIDE_MAX = 1 << 20
"""Most bytes between and behind the pieces of a body."""
CLIENT_S, LOOK_S = 90.0, 15.0
"""Longest that a connection waits for its client, longer than it is kept alive; and how often that is looked at."""
CONNECTIONS_MAX = 1000
"""Most connections of a process."""
AGAIN_S = 2.0
"""Before a process that has ended by itself is started again."""
POLL_S = 0.1
STOP_S = 10


class Bounded(HttpToolsProtocol):
    """HTTP/1.1 whose requests have a bounded size beside their bodies, and whose clients cannot stay away for ever."""

    _beside = 0
    _in_head = True
    _since: float | None = None
    """Since when we wait for the client: for the rest of a request, until it takes an answer; None: it waits for us."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request; where there are too many, whoever is waited for longest has to go."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch = self.loop.call_later(LOOK_S, self._look)
        if len(self.connections) > CONNECTIONS_MAX:
            waited_for = [other for other in self.connections if isinstance(other, Bounded) and other._since]
            longest = min(waited_for, key=lambda other: other._since or 0.0)
            longest._since = None  # it is no other's turn to go until the loop has ended it
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """End the connection of a client that has let itself be waited for too long, else look again later."""
        if self._since is not None and self.loop.time() - self._since > CLIENT_S:
            self.transport.abort()  # to close it would wait until the client has taken all of the answer
        else:
            self._watch = self.loop.call_later(LOOK_S, self._look)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless what is no body has grown too long."""
        if self._beside > (HEAD_MAX if self._in_head else BESIDE_MAX):
            self.send_400_response("The head of the request is too long.")
            return
        self._beside += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Count this request."""
        self._beside, self._in_head, self._since = 0, True, self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; those behind a body nobody reads, and there is no end to them."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Leave the body out of what is counted: whoever reads it has a limit for it."""
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next head may come; the client waits for us, unless it had its answer early."""
        super().on_message_complete()
        self._beside, self._in_head = 0, True
        self._since = self.loop.time() if self.cycle.response_complete else None

    def on_response_complete(self) -> None:
        """Wait for the client again, unless the next of its requests is there."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._since = self.loop.time()


def run(settings: Settings, up: Callable[[], None]) -> None:
    """Serve until told to stop; `up` is called once the server can be asked.

    Raises:
        UserError: the address cannot be listened on.
    """
    keep_to_itself()
    _check_address(settings.serve_host, settings.serve_port, "port")
    if settings.serve_metrics_port:
        _check_address(settings.serve_host, settings.serve_metrics_port, "metrics-port")
    if settings.serve_metrics_port == settings.serve_port:
        raise UserError(
            f"the metrics cannot have the port that all else has: {settings.serve_port}",
            where="LOOKALIKE_SERVE_METRICS_PORT",
            remedy="choose another one with --metrics-port",
        )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with temporary.folder("lookalike-serve-") as folder, ExitStack() as stack:
        commands = [["jobs.serve.server"]] * settings.serve_workers
        os.environ |= variables(settings) | _told(settings) | {COUNTED: str(folder), FOLDER: str(folder)}
        if settings.serve_photos:
            os.environ[SOCKET] = str(folder / "photos")
            commands.append(["jobs.serve.searching", str(folder / "photos")])
        if settings.serve_metrics_port:
            from jobs.serve import metrics  # which looks for COUNTED when it is loaded

            stack.enter_context(metrics.listening(settings.serve_host, settings.serve_metrics_port))
        for command in commands:
            stack.enter_context(_kept([sys.executable, "-m", *command]))
        while not stop.wait(POLL_S):
            if _can_be_asked(settings):
                up()
                break
        stop.wait()


def answer(settings: Settings) -> None:
    """Be one of the processes that answer. The kernel spreads connections over all of them."""
    keep_to_itself()
    family, kind, _, _, address = socket.getaddrinfo(settings.serve_host, settings.serve_port, type=socket.SOCK_STREAM)[
        0
    ]
    with socket.socket(family, kind) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        uvicorn.Server(uvicorn.Config("jobs.serve.app:create", **_how(settings))).run([listening])


def _how(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told. A header tells the client's address where a proxy that is named sends it, nowhere else."""
    return {
        "factory": True,
        "http": "jobs.serve.server:Bounded",
        "ws": "none",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "proxy_headers": bool(settings.serve_proxies),
        "forwarded_allow_ips": [*settings.serve_proxies, *_as_ipv6(settings.serve_proxies)],
        "timeout_keep_alive": 75,  # longer than a proxy's, which would else meet a connection that ends
        "timeout_graceful_shutdown": STOP_S,
    }


def _as_ipv6(networks: Iterable[str]) -> list[str]:
    """Networks of IPv4 as a server bound to an address of IPv6 meets them."""
    known = [ipaddress.ip_network(network) for network in networks]
    return [f"::ffff:{each.network_address}/{96 + each.prefixlen}" for each in known if each.version == 4]


def _told(settings: Settings) -> dict[str, str]:
    """Environment variables by which the processes read these settings of the server."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields if name.startswith("serve_")}
    return {
        f"LOOKALIKE_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }


def _check_address(host: str, port: int, option: str) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"nothing can listen on {host}:{port}: {error.strerror}",
            where=f"LOOKALIKE_SERVE_HOST, LOOKALIKE_SERVE_{option.upper().replace('-', '_')}",
            remedy=f"choose another port with --{option}, or end what listens there",
        ) from None


def _can_be_asked(settings: Settings) -> bool:
    with suppress(OSError), socket.create_connection((settings.serve_host, settings.serve_port), 1):
        return True
    return False


@contextmanager
def _kept(command: list[str]) -> Iterator[None]:
    """A process that runs while the block does, and is started again where it ends.

    Its input is a pipe that ends with this process, however that ends; the process is to end then.
    """
    stopping, running = threading.Event(), list[subprocess.Popen[bytes]]()

    def keep() -> None:
        while not stopping.is_set():
            running[:] = [subprocess.Popen(command, stdin=subprocess.PIPE)]
            running[0].wait()
            stopping.wait(AGAIN_S)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stopping.set()
        for process in running:
            process.terminate()
        keeper.join(STOP_S)
        for process in running:
            process.kill()


def end_with_input() -> None:
    """Let this process end with its parent, in whose hand the other end of its input is."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_input()
    answer(read_settings())
