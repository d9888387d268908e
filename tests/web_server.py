"""A web server on this machine's loopback address that does what a test tells it, lies and silence included."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path


class WebServer:
    """Answers each path by its own function of the request, and remembers what was asked and over how many connections.

    With `certificate`, a PEM file of a certificate and its key, it speaks TLS. Serves until `close`.
    """

    def __init__(self, certificate: Path | None = None, host: str = "127.0.0.1") -> None:
        self.answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections: set[tuple[str, int]] = set()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                site.asked.append((self.path, dict(self.headers)))
                site.connections.add(self.client_address)
                site.answers[self.path.split("?")[0]](self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # a client that goes away is what some tests are about

        self._server = Server((host, 0), Handler)
        self.port = self._server.server_port
        self.host = f"{host}:{self.port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://{self.host}{path}"

    def serve(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """Answer a path so; `ETag="…"` is sent with 304 to whoever knows it. Returns its address."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            known = sent.get("ETag") and request.headers.get("If-None-Match") == sent["ETag"]
            dated = sent.get("Last-Modified") and request.headers.get("If-Modified-Since") == sent["Last-Modified"]
            unchanged = status == 200 and (known or dated)
            request.send_response(304 if unchanged else status)
            length = {} if unchanged else {"Content-Length": str(len(body))}
            for name, value in (length | sent).items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(b"" if unchanged else body)

        self.answers[path] = answer
        return self.url(path)

    def says(self, path: str, *pieces: bytes) -> str:
        """Answer a path by these bytes as they are, and close the connection. Returns its address."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            for piece in pieces:
                request.wfile.write(piece)
            request.close_connection = True

        self.answers[path] = answer
        return self.url(path)

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return Counter(asked.split("?")[0] for asked, _ in self.asked)[path]
