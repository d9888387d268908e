"""The HTTP server's application: routes, and what stands before all of them.

`Front` is plain ASGI: it asks for keys, counts, answers the two routes that are asked thousands of times a second by
itself, and hands on all else to FastAPI, which also describes those two. A route's function takes what was asked and
returns a `Reply`; whatever it raises becomes a problem (RFC 9457).
"""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from infra.settings import Settings, read_settings
from jobs.run import release
from jobs.serve import asking, documented, metrics, photos, pictures, problems, reply
from jobs.serve.explaining import explained
from jobs.serve.guard import Guard
from jobs.serve.lookup import Lookup
from jobs.serve.problems import Problem
from jobs.serve.reply import Reply

PAGE = Path(__file__).parent / "page"
PAGE_PATHS = ("/", "/p/{product_id:path}", "/photo", "/compare")
OPEN = ("/", "/healthz", "/readyz", "/openapi.json", "/docs", "/photo", "/compare", "/favicon.ico")
OPEN_BELOW = ("/assets/", "/p/")
"""What needs no key: the page without what it shows, what can be asked, and whether the server is well."""
IMAGES = "/images/"
PROBES = ("/healthz", "/readyz")
"""What ends or passes over a server that does not answer: it does, also where an address has asked too much."""
BATCH_MAX_BYTES = 1 << 20
LONG_COST = 10
"""What a question counts for that has the store look at a whole run."""
LOOK_COST = 3
"""What a look counts for among photos."""
COMPARED_MAX = 32
"""Comparisons of two whole runs that are remembered."""
CHANGED = 50
"""Products whose lists changed most that a comparison shows; sql/functions/compared_runs.sql counts on it."""
LIMIT, LIMIT_MAX = 60, 200
"""Products of a page of products."""
HEALTHY = Reply(200, b'{"status":"ok"}', [reply.JSON, *reply.NOTHING, (b"cache-control", b"no-store")])
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request: its query and body as they came, headers by name in lower case, and whom it is counted for."""

    query: bytes
    headers: dict[bytes, bytes]
    receive: Receive
    who: str = ""

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Asked:
        """What an ASGI scope says."""
        return cls(scope["query_string"], dict(scope["headers"]), receive, scope.get("who", ""))


class Server:
    """A process of the server: what its routes answer with."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is reached yet."""
        self.settings = settings
        self.lookup = Lookup(settings)
        self.guard = Guard(settings, self._is_key)
        self.photos = photos.Photos(settings)
        self._compared: dict[tuple, asyncio.Task[tuple[bytes | None, dict[str, Any]]]] = {}

    async def _is_key(self, sha256: bytes) -> bool:
        ((key_id,),) = await self.lookup.quick.ask("key", b"\\x" + sha256.hex().encode())
        return key_id is not None

    async def similar(self, product_id: str, asked: Asked) -> Reply:
        """The products most like one."""
        question = asking.read(asked.query, ("k", "exclude", "explain")) if asked.query else asking.Question()
        served = self.lookup.served
        if question.flag("explain"):
            return await self._explained(product_id, question, asked)
        k, exclude = question.number("k", asking.K, asking.K_MAX), question.exclude
        if served and reply.is_known(asked.headers, served.tag):
            return reply.unchanged(served.tag)
        started = perf_counter()
        if mapped := self.lookup.mapped():
            answer = mapped.similar(product_id, question.filters, k, exclude)
            if answer is not None:
                metrics.of_stage("mapped").observe(perf_counter() - started)
                return reply.answered(mapped.tag.encode(), answer, asked.headers)
        values = asking.as_json(question.filters), b"%d" % k, asking.as_array(exclude)
        ((tag, answer),) = await self.lookup.quick.ask("similar", product_id.encode(), *values)
        metrics.of_stage("store").observe(perf_counter() - started)
        return reply.answered(tag, answer or b"", asked.headers)

    async def _explained(self, product_id: str, question: asking.Question, asked: Asked) -> Reply:
        served, k = self.lookup.served, question.number("k", asking.K, asking.K_MAX)
        values = asking.as_json(question.filters), b"%d" % k, asking.as_array(question.exclude)
        if served and reply.is_known(asked.headers, served.tag):
            return reply.unchanged(served.tag)
        self.guard.count(asked.who, LONG_COST)
        ((tag, answer, manifest),) = await self.lookup.slow.ask("explained", product_id.encode(), *values)
        with problems.ours("the lake"):
            told = await asyncio.to_thread(_explain, answer or b"", manifest or b"{}", self.settings)
        return reply.answered(tag, reply.as_json(told), asked.headers)

    async def product(self, product_id: str, asked: Asked) -> Reply:
        """A product."""
        asking.read(asked.query, ())
        served = self.lookup.served
        if served and reply.is_known(asked.headers, served.tag):
            return reply.unchanged(served.tag)
        ((tag, answer),) = await self.lookup.quick.ask("product", product_id.encode())
        return reply.answered(tag, answer or b"", asked.headers)

    async def many(self, asked: Asked) -> Reply:
        """The products most like each of several."""
        batch = asking.batch(await photos.read_body(asked.receive, asked.headers, BATCH_MAX_BYTES))
        self.guard.count(asked.who, len(batch.product_ids) // 10)
        tag, body = await self.lookup.many(
            asking.as_array(batch.product_ids), asking.as_json(batch.filters), batch.k, asking.as_array(batch.exclude)
        )
        return await asyncio.to_thread(reply.answered, None, body, asked.headers)  # packing megabytes takes its time

    async def products(self, asked: Asked) -> Reply:
        """Products by the order of their ids."""
        question = asking.read(asked.query, ("text", "limit", "cursor", "exclude"))
        limit, catalogue = question.number("limit", LIMIT, LIMIT_MAX), self.lookup.catalogue()
        text, cursor, exclude = question.text("text"), question.text("cursor"), question.exclude
        if not cursor and reply.is_known(asked.headers, catalogue.tag):
            return reply.unchanged(catalogue.tag)
        told = await asyncio.to_thread(catalogue.page, question.filters, text, exclude, limit, cursor)
        return reply.answered(catalogue.tag.encode(), reply.as_json(told), asked.headers)

    async def filters(self, asked: Asked) -> Reply:
        """Values of fields with counts."""
        question, catalogue = asking.read(asked.query, ("text", "exclude")), self.lookup.catalogue()
        text, exclude = question.text("text"), question.exclude
        if reply.is_known(asked.headers, catalogue.tag):
            return reply.unchanged(catalogue.tag)
        told = await asyncio.to_thread(catalogue.facets, question.filters, text, exclude)
        return reply.answered(catalogue.tag.encode(), reply.as_json(told), asked.headers)

    async def search(self, asked: Asked) -> Reply:
        """The products most like a photo."""
        question = asking.read(asked.query, ("k", "exclude", "explain"))
        return await self._of_photo(question, asked, 1, explain=question.flag("explain"))

    async def look(self, asked: Asked) -> Reply:
        """The persons of a photo, and the products most like each article that they wear."""
        return await self._of_photo(asking.read(asked.query, ("k", "exclude")), asked, LOOK_COST, look=True)

    async def _of_photo(self, question: asking.Question, asked: Asked, cost: int, **how: bool) -> Reply:
        k = question.number("k", asking.K, asking.K_MAX)
        self.guard.count(asked.who, cost, photo=True)
        told = {"filters": question.filters, "exclude": question.exclude, "k": k, **how}
        self.lookup.live()
        photo = await self.photos.read(asked.receive, asked.headers)
        return reply.answered(None, await self.photos.search(photo, told), asked.headers)

    async def image(self, sha256: str, asked: Asked) -> Reply:
        """An image of the lake."""
        question = asking.read(asked.query, ("width",))
        width = question.number("width", 0, 480, pictures.WIDTHS)
        if not pictures.is_sha256(sha256):
            raise _no_image(sha256)
        tag = b'"%b-%d"' % (sha256.encode(), width)
        for_all = not self.guard.guarded or self.settings.serve_public_images
        kept = b"public" if for_all else b"private"  # where a proxy keeps an image, it asks nobody for a key
        headers = [(b"etag", tag), (b"cache-control", kept + b", max-age=31536000, immutable"), *reply.NOTHING]
        if asked.headers.get(b"if-none-match") == tag:
            return Reply(304, b"", headers)
        known = self.lookup.pictures()
        with problems.ours("the lake"):
            data = await asyncio.to_thread(
                known.smaller if width else known.read, *((sha256, width) if width else (sha256,))
            )
        if data is None:
            raise _no_image(sha256)
        return Reply(200, data, [(b"content-type", pictures.media_type(data)), *headers])

    async def runs(self, asked: Asked) -> Reply:
        """The runs of the store."""
        asking.read(asked.query, ())
        ((_, run_id, run, runs),) = await self.lookup.slow.ask("runs")
        live = b"null" if run_id is None else b'{"run_id":%b,"run":%b}' % (run_id, run or b"null")
        return reply.answered(None, b'{"run":%b,"runs":%b}' % (live, runs or b"[]"), asked.headers)

    async def compare(self, a: str, b: str, asked: Asked) -> Reply:
        """Two runs side by side."""
        question = asking.read(asked.query, ("product", "k", "exclude"))
        k, runs = question.number("k", asking.K, asking.K_MAX), (_run_id(a), _run_id(b))
        product, exclude = question.text("product"), question.exclude
        asked_for = asking.checked_id(product, "query: product").encode() if product else None
        served = self.lookup.served
        if served and reply.is_known(asked.headers, served.tag):
            return reply.unchanged(served.tag)
        if asked_for is None:
            tag, told = await self._of_runs(runs)
            told = told | {"changed": _without(told["changed"], exclude)[:CHANGED]}
        else:
            filters = asking.as_json(question.filters)
            tag, told = await self._beside(*runs, asked_for, filters, b"%d" % k, asking.as_array(exclude))
        return reply.answered(tag, reply.as_json(told), asked.headers)

    async def _beside(self, *values: bytes | None) -> tuple[bytes | None, dict[str, Any]]:
        ((tag, answer),) = await self.lookup.slow.ask("compared", *values)
        told = await asyncio.to_thread(json.loads, answer or b"{}")
        return tag, {name: value for name, value in told.items() if value is not None}

    async def _of_runs(self, runs: tuple[bytes, bytes]) -> tuple[bytes | None, dict[str, Any]]:
        """Two whole runs, which take seconds: once for all who ask while one run is live."""
        key = self.lookup.live().tag, *runs
        if key not in self._compared:
            while len(self._compared) >= COMPARED_MAX:
                self._compared.pop(next(iter(self._compared)))
            self._compared[key] = asyncio.create_task(self._beside(*runs, None, b"{}", b"%d" % asking.K, b"{}"))
        try:
            return await asyncio.shield(self._compared[key])
        except Exception:
            self._compared.pop(key, None)
            raise

    async def ready(self, asked: Asked) -> Reply:
        """Whether it can answer."""
        served = self.lookup.live()
        self.lookup.catalogue()
        run = {"run_id": served.run_id, "run": served.run}
        told = {"run": run, "photos": await self.photos.state(), "mapped": self.lookup.mapped() is not None}
        return reply.answered(None, reply.as_json(told), asked.headers)


def _explain(answer: bytes, manifest: bytes, settings: Settings) -> dict[str, object]:
    return explained(json.loads(answer), json.loads(manifest), settings)


def _without(products: list[dict[str, Any]], exclude: Collection[str]) -> list[dict[str, Any]]:
    out = set(exclude)
    return [product for product in products if product["product_id"] not in out]


def _no_image(sha256: str) -> Problem:
    return Problem(
        404, "there is no such image", value=sha256, place="path", remedy="take an address of a product's image"
    )


def _run_id(text: str) -> bytes:
    if not re.fullmatch("[1-9][0-9]{0,9}", text) or int(text) >= 2**31:
        raise Problem(404, "it is no run_id", value=text, place="path", remedy="choose two of those that /runs lists")
    return text.encode()


# What stands before all routes ----------------------------------------------------------------------------------------


class Front:
    """The application: keys, rates, the two hot routes, counting; all else is FastAPI's."""

    def __init__(self, server: Server, inner: Callable) -> None:
        """Before `inner`, an ASGI application."""
        self._server, self._inner = server, inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started, route = perf_counter(), "other"
        answer: Reply | None = None
        try:
            hot, route = self._hot(scope)
            scope["who"] = await self._admit(scope)
            if hot is None:
                route, status = await self._handed_on(scope, receive, send)
            else:
                answer = await hot(Asked.of(scope, receive))
        except Exception as error:
            answer = _failed(error, route)
        if answer is not None:
            status = answer.status
            await _sent(answer, send)
        metrics.of_route(route, status).observe(perf_counter() - started)

    async def _admit(self, scope: Scope) -> str:
        path, server = scope["path"], self._server
        is_image = path.startswith(IMAGES)
        needs_key = not (is_open(path) or is_image and server.settings.serve_public_images)
        return await server.guard.admit(
            scope["headers"], scope.get("client"), needs_key=needs_key, in_cookie=is_image, cost=_cost(path)
        )

    def _hot(self, scope: Scope) -> tuple[Callable[[Asked], Awaitable[Reply]] | None, str]:
        """The function of a hot route, if it is one, whose path is read as it came: an id may have an encoded `/`."""
        path: bytes = scope["raw_path"]
        if scope["method"] not in ("GET", "HEAD"):
            return None, "other"
        if path == b"/healthz":
            return _healthy, path.decode()
        if not path.startswith(b"/products/"):
            return None, "other"
        encoded, slash, rest = path[10:].partition(b"/")
        if not encoded or slash and rest != b"similar":
            return None, "other"
        if slash:
            return lambda asked: self._server.similar(asking.segment(encoded), asked), "/products/{product_id}/similar"
        return lambda asked: self._server.product(asking.segment(encoded), asked), "/products/{product_id}"

    async def _handed_on(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, int]:
        """Let FastAPI answer; returns the route and the status."""
        status = 500

        async def watched(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        if scope["method"] == "HEAD":
            scope = scope | {"method": "GET"}
        await self._inner(scope, receive, watched)
        matched = scope.get("route")
        return getattr(matched, "path", "other"), status


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN or path.startswith(OPEN_BELOW)


def _cost(path: str) -> int:
    """What a question counts for before it is looked at."""
    if path in PROBES:
        return 0
    return LONG_COST if path.startswith("/runs/") else 1


def _failed(error: Exception, route: str) -> Reply:
    problem = problems.of(error)
    if problem.status == 500:  # its message may say what was asked, which is nobody's business
        frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        structlog.get_logger().error("an answer failed", route=route, error=type(error).__name__, frames=frames)
    return reply.failed(problem)


async def _sent(answer: Reply, send: Send) -> None:
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class _Sent(Response):
    """A `Reply` for FastAPI."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(answer.body, answer.status)
        self.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]


# Routes ---------------------------------------------------------------------------------------------------------------


def create() -> Callable:
    """The application, by the settings of the environment: what each process of the server runs."""
    return application(read_settings())


def application(settings: Settings) -> Callable:
    """The application by these settings."""
    server = Server(settings)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.create_task(server.lookup.keep())
        yield
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping

    app = FastAPI(
        title="Lookalike",
        version=release(),
        description=documented.ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would send the client to whatever host the client itself has named
        lifespan=living,
        separate_input_output_schemas=False,
    )
    app.add_exception_handler(HTTPException, _of_routing)  # type: ignore[arg-type]
    _add_routes(app, server)
    _add_pages(app)
    front: Callable = Front(server, app)
    if settings.serve_origins:
        origins, exposed = list(settings.serve_origins), ["ETag", "Retry-After"]
        asked = ["Authorization", "If-None-Match", "Content-Type"]
        front = CORSMiddleware(
            front, origins, allow_methods=["GET", "POST"], allow_headers=asked, expose_headers=exposed, max_age=600
        )
    return front


def _add_routes(app: FastAPI, server: Server) -> None:
    of_path: dict[str, Callable[[Request, Asked], Awaitable[Reply]]] = {
        "GET /products/{product_id}": lambda request, asked: server.product(request.path_params["product_id"], asked),
        "GET /products/{product_id}/similar": lambda request, asked: server.similar(
            request.path_params["product_id"], asked
        ),
        "POST /products/similar": lambda _, asked: server.many(asked),
        "GET /products": lambda _, asked: server.products(asked),
        "GET /filters": lambda _, asked: server.filters(asked),
        "POST /search": lambda _, asked: server.search(asked),
        "POST /look": lambda _, asked: server.look(asked),
        "GET /images/{sha256}": lambda request, asked: server.image(request.path_params["sha256"], asked),
        "GET /runs": lambda _, asked: server.runs(asked),
        "GET /runs/{a}/compare/{b}": lambda request, asked: server.compare(
            request.path_params["a"], request.path_params["b"], asked
        ),
        "GET /healthz": lambda _, asked: _healthy(asked),
        "GET /readyz": lambda _, asked: server.ready(asked),
    }
    for name, answer in of_path.items():
        method, path = name.split(" ")
        described: dict[str, Any] = documented.ROUTES[name]
        app.add_api_route(path, _endpoint(path, answer), methods=[method], **described)
    app.add_api_route("/metrics", _metrics, **documented.ROUTES["GET /metrics"])


def _endpoint(path: str, answer: Callable[[Request, Asked], Awaitable[Reply]]) -> Callable:
    async def endpoint(request: Request) -> Response:
        try:
            return _Sent(await answer(request, Asked.of(request.scope, request.receive)))  # type: ignore[arg-type]
        except Exception as error:
            return _Sent(_failed(error, path))

    endpoint.__name__ = path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    return endpoint


async def _healthy(_: Asked) -> Reply:
    return HEALTHY


async def _metrics() -> Response:
    body, media_type = await asyncio.to_thread(metrics.shown)
    return _Sent(Reply(200, body, [(b"content-type", media_type.encode()), *reply.NOTHING]))


def _add_pages(app: FastAPI) -> None:
    """The page for people, and the one that shows what can be asked."""
    html = (b"content-type", b"text/html; charset=utf-8")

    async def page() -> Response:
        body = await asyncio.to_thread((PAGE / "index.html").read_bytes)
        return _Sent(Reply(200, body, [html, *reply.PAGE, (b"cache-control", b"no-cache")]))

    async def docs() -> Response:
        body = documented.as_html(app.openapi())
        return _Sent(Reply(200, body, [html, *reply.PAGE, (b"cache-control", b"no-cache")]))

    for path in PAGE_PATHS:
        app.add_api_route(path, page, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    if (PAGE / "assets").is_dir():
        app.mount("/assets", _Assets(directory=PAGE / "assets"))


class _Assets(StaticFiles):
    """The page's files, with the headers of the page."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.raw_headers += [*reply.ALWAYS, (b"cache-control", b"no-cache")]
        return response


async def _of_routing(_: Request, error: HTTPException) -> Response:
    """What no route is for."""
    if error.status_code == 405:
        problem = Problem(
            405, "this method is not for this path", place="path", remedy="see /docs", headers=dict(error.headers or {})
        )
    else:
        problem = Problem(error.status_code, "there is nothing at this path", place="path", remedy="see /docs")
    return _Sent(reply.failed(problem))
