"""The HTTP server's processes: those that answer, and the one that searches for photos. They end together."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.errors import UserError
from infra.settings import Settings, variables
from jobs.serve.mapped import FOLDER
from jobs.serve.photos import SOCKET

COUNTED = "PROMETHEUS_MULTIPROC_DIR"
HEAD_MAX = 65_536
"""Most bytes of a request before its body: the parser itself knows no limit."""
CONNECTIONS_MAX = 1000
AGAIN_S = 2.0
"""Before a process that has ended by itself is started again."""
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


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        UserError: the address cannot be listened on.
    """
    _check_address(settings.serve_host, settings.serve_port)
    folder = Path(tempfile.mkdtemp(prefix="lookalike-serve-"))  # of this user alone
    try:
        os.environ |= variables(settings) | _told(settings) | {COUNTED: str(folder), FOLDER: str(folder)}
        if settings.serve_photos:
            os.environ[SOCKET] = str(folder / "photos")
        with _kept([sys.executable, "-m", "jobs.serve.searching", str(folder / "photos")], settings.serve_photos):
            uvicorn.run("jobs.serve.app:create", **_how(settings))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _how(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told. A header tells the client's address where a proxy that is named sends it, nowhere else."""
    return {
        "factory": True,
        "host": settings.serve_host,
        "port": settings.serve_port,
        "workers": settings.serve_workers,
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


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"nothing can listen on {host}:{port}: {error.strerror}",
            where="LOOKALIKE_SERVE_HOST, LOOKALIKE_SERVE_PORT",
            remedy="choose another port with --port, or end what listens there",
        ) from None


@contextmanager
def _kept(command: list[str], wanted: bool) -> Iterator[None]:
    """A process that runs while the block does, and is started again where it ends; it ends when its input does."""
    if not wanted:
        yield
        return
    stopping, processes = threading.Event(), list[subprocess.Popen[bytes]]()

    def keep() -> None:
        while not stopping.is_set():
            process = subprocess.Popen(command, stdin=subprocess.PIPE)
            processes.append(process)
            process.wait()
            processes.remove(process)
            stopping.wait(AGAIN_S)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stopping.set()
        for process in list(processes):
            if process.stdin:
                process.stdin.close()
        keeper.join(STOP_S)
        for process in list(processes):
            process.kill()
