"""The HTTP server's processes: those that answer, and the one that searches for photos. They end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra import temporary
from infra.errors import UserError
from infra.settings import Settings, read_settings, variables
from jobs.serve.mapped import FOLDER
from jobs.serve.photos import SOCKET

COUNTED = "PROMETHEUS_MULTIPROC_DIR"
HEAD_MAX = 65_536
"""Most bytes of a request before its body: the parser itself knows no limit."""
CONNECTIONS_MAX = 1000
AGAIN_S = 2.0
"""Before a process that has ended by itself is started again."""
POLL_S = 0.1
STOP_S = 10


class Bounded(HttpToolsProtocol):
    """HTTP/1.1 whose requests have a head of bounded size."""

    _head = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head has grown too long."""
        if self._in_head:
            self._head += len(data)
            if self._head > HEAD_MAX + len(data):
                self.send_400_response("The head of the request is too long.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Count the head of this request."""
        self._head, self._in_head = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head may come."""
        super().on_message_complete()
        self._head, self._in_head = 0, True


def run(settings: Settings, up: Callable[[], None]) -> None:
    """Serve until told to stop; `up` is called once the server can be asked.

    Raises:
        UserError: the address cannot be listened on.
    """
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
        "forwarded_allow_ips": list(settings.serve_proxies),
        "limit_concurrency": CONNECTIONS_MAX,
        "timeout_keep_alive": 75,  # longer than a proxy's, which would else meet a connection that ends
        "timeout_graceful_shutdown": STOP_S,
    }


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
