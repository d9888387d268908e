"""An HTTP proxy for tests that stands before a server and fails as servers do: it answers 503, stalls, cuts."""

from __future__ import annotations

import http.client
import http.server
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

ERRORS = {
    "403": b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "503": b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
}


@dataclass(frozen=True)
class Asked:
    """A request that came: method, path with query, headers in lower case, and what became of it (or `""`)."""

    method: str
    target: str
    headers: dict[str, str]
    fault: str


def one_in_ten(seed: int) -> Callable[[str, str], str]:
    """A tenth of all requests fails: half of them by 503, a third is cut, a sixth stalls; the same ones every time."""
    draw, lock = random.Random(seed), threading.Lock()

    def choose(method: str, target: str) -> str:
        with lock:
            unlucky, kind = draw.random() < 0.1, draw.choices(("503", "cut", "stall"), (3, 2, 1))[0]
        return kind if unlucky else ""

    return choose


class FaultyProxy:
    """Passes requests on to `upstream` (`http://host:port`) and answers as it does, but for the faults.

    `choose` says by method and path with query what becomes of a request. `503`, `403`: it is answered so and not
    passed on. `stall`: nothing comes for `stall_s` seconds, then the connection ends. `cut`: it is passed on, and the
    connection ends in the middle of the answer's body, or without an answer that has none: a client can't know what
    was done.
    """

    def __init__(self, upstream: str, choose: Callable[[str, str], str], stall_s: float = 2.0) -> None:
        self.asked: list[Asked] = []
        self._upstream, self._choose, self._stall_s = urlsplit(upstream).netloc, choose, stall_s
        self._ending = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._handle(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fault = self._choose(request.command, request.path)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.command, request.path, headers, fault))
        request.close_connection = bool(fault)
        if fault == "stall":
            self._ending.wait(self._stall_s)
            return
        head, content = _rendered(int(fault), {}, ERRORS[fault]) if fault in ERRORS else self._passed_on(request, body)
        if fault != "cut":
            request.wfile.write(head + content)
        elif content:
            request.wfile.write(head + content[: len(content) // 2])

    def _passed_on(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[bytes, bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = {n: v for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")}
            return _rendered(answer.status, headers, answer.read(), declared=request.command == "HEAD")
        finally:
            connection.close()


def _rendered(status: int, headers: dict[str, str], body: bytes, declared: bool = False) -> tuple[bytes, bytes]:
    """Head and body of an answer as they go over the wire; that to HEAD declares the length of a body that it lacks."""
    if not declared and status not in (204, 304):
        headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        headers["Content-Length"] = str(len(body))
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1"), body
