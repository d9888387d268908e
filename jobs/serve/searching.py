"""The process that searches for photos: `python -m jobs.serve.searching SOCKET`, one a server, with the only models.

It listens on a Unix socket, loads the live run's models in the background, and again once another run goes live; until
they are there it says so. It ends when its input ends, which the server holds open.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import structlog

from infra import store
from infra.errors import TransientError, UserError
from infra.privacy import keep_to_itself
from infra.settings import Settings, read_settings
from jobs import looking
from jobs.look import PHOTO_SIDE, Look, look_at, of_whole, summed, timed
from jobs.looking import Models
from jobs.serve import metrics
from jobs.serve.decoding import Decoder, DecoderEndedError
from jobs.serve.photos import AT_ONCE, LENGTHS, PHOTO_MAX_BYTES
from jobs.serve.problems import Problem, away, of, ours
from jobs.serve.search import Searcher
from jobs.serve.server import end_with_input
from jobs.serve.telling import look_told, products_of, search_told
from ml.images import ImageError

WATCH_S, AGAIN_S = 1.0, 10.0
"""Between two looks at which run is live, and between two attempts to load one."""
LOADING_S = 10
"""What clients are told to wait while models load."""
LACKING_S = 3600
"""What clients are told to wait where a look's networks are not installed."""
WAITING_MAX = 4 * AT_ONCE


class Search:
    """Answers photos. Models, and the connection, are used by one thread."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is loaded yet."""
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "models")
        self._decoding = ThreadPoolExecutor(AT_ONCE, "decoding")
        self._connection: psycopg.Connection | None = None
        self._searcher: Searcher | None = None
        self._decoder: Decoder | None = None
        self._models: Models | None = None
        self._why, self._waiting = "the models are being loaded", 0

    @property
    def state(self) -> str:
        """`ready`, or why not."""
        return "ready" if self._searcher else self._why

    async def keep(self) -> None:
        """Load what the live run needs, and again whenever another one goes live."""
        loop = asyncio.get_running_loop()
        while True:
            wait = await loop.run_in_executor(self._thread, self._follow)
            await asyncio.sleep(wait)

    def _follow(self) -> float:
        """Load the live run where it is another than the one loaded; returns seconds until the next look."""
        try:
            connection = self._connected()
            live = store.live(connection)
            if live is None:
                self._searcher, self._why = None, "no run is live"
            elif self._searcher is None or self._searcher.run_id != live.run_id:
                self._searcher, self._why = None, "the models are being loaded"
                self._load(connection)
            return WATCH_S
        except (TransientError, psycopg.OperationalError):  # what is loaded stays
            self._connection = None
            return WATCH_S
        except Exception as error:
            self._searcher, self._connection = None, None
            self._why = "the models cannot be loaded; the server's log says why"  # whoever asks may read this
            structlog.get_logger().warning("photos cannot be searched for", why=str(error))
            return AGAIN_S

    def _load(self, connection: psycopg.Connection) -> None:
        started = time.perf_counter()
        searcher = Searcher(connection, self._settings)
        wanted = (searcher.sizes, searcher.detail)
        if self._decoder is None or self._decoder.wanted != wanted:
            if self._decoder:
                self._decoder.close()
            limit = min(PHOTO_MAX_BYTES, self._settings.image_max_bytes)
            self._decoder = Decoder(limit, *wanted)
        self._decoder.start()
        self._searcher, self._models = searcher, None  # the lake may have another detector, too
        structlog.get_logger().info("photos can be searched for", run=searcher.run.name, s=_ms(started) / 1000)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            settings = self._settings
            self._connection = store.reader(settings.store, settings.store_folder, settings.serve_limit_s)
        return self._connection

    async def answer(self, asked: Mapping[str, Any], photo: bytes) -> tuple[int, bytes]:
        """Status and JSON: an answer, or a problem."""
        if asked.get("state"):
            return 200, json.dumps({"state": self.state}).encode()
        try:
            if self._waiting >= WAITING_MAX:
                raise away("too many photos are searched for at once", 1)
            self._waiting += 1
            try:
                return 200, await self._found(asked, photo)
            finally:
                self._waiting -= 1
        except Exception as error:
            return _problem(error)

    async def _found(self, asked: Mapping[str, Any], photo: bytes) -> bytes:
        told = await (self._looked(asked, photo) if asked.get("look") else self._searched(asked, photo))
        return json.dumps(told, ensure_ascii=False).encode()

    async def _searched(self, asked: Mapping[str, Any], photo: bytes) -> dict[str, Any]:
        pixels = await self._decoded(self._ready(), photo)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._search, asked, pixels)

    async def _looked(self, asked: Mapping[str, Any], photo: bytes) -> dict[str, Any]:
        """The photo is decoded a second time, as any search has it, only where no article is found."""
        loop, ms = asyncio.get_running_loop(), dict[str, float]()
        with timed(ms, "decode"):
            image = await self._decoded(self._ready().within, photo, PHOTO_SIDE)
        found, told = await loop.run_in_executor(self._thread, self._look, asked, image, ms)
        if found.worn:
            return told
        with timed(ms, "decode"):
            pixels = await self._decoded(self._ready(), photo)
        return await loop.run_in_executor(self._thread, self._look_whole, asked, found, pixels, ms)

    def _ready(self) -> Decoder:
        self._live()
        if self._decoder is None:
            raise away(self._why, LOADING_S, "the models")
        return self._decoder

    def _live(self) -> Searcher:
        if self._searcher is None:
            raise away(self._why, LOADING_S, "the models")
        return self._searcher

    async def _decoded(self, decode: Callable, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, _timed, "decode", decode, *arguments)

    def _search(self, asked: Mapping[str, Any], pixels: Mapping) -> dict[str, Any]:
        with self._asking() as (searcher, connection):
            (seen,) = _timed("model", searcher.look, [pixels])
            how = asked["filters"], asked["k"], asked["exclude"]
            answer, named = _timed("search", searcher.answer_named, connection, seen, *how)
            blocks = searcher.parts(connection, seen, answer) if asked.get("explain") else []
        found = search_told(searcher, answer, named)
        for item, of_item in zip(found["items"], blocks, strict=False):
            item["explain"] = {"blocks": of_item, "shared": {}, "differing": {}, "rank_without_filters": None}
        return found

    def _look(self, asked: Mapping[str, Any], image: np.ndarray, ms: dict[str, float]) -> tuple[Look, dict[str, Any]]:
        """What is found in a photo, and the same as it is sent."""
        models = self._models_of(self._live())
        with self._asking() as (searcher, connection):
            found = look_at(searcher, models, connection, image, asked["filters"], asked["k"], asked["exclude"])
            named = searcher.named(connection, products_of(found))
        for part, took in found.ms.items():
            metrics.of_stage(f"look: {part}").observe(took / 1000)
        ms |= found.ms
        return found, look_told(searcher, replace(found, ms=summed(ms)), named)

    def _look_whole(
        self, asked: Mapping[str, Any], found: Look, pixels: Mapping, ms: dict[str, float]
    ) -> dict[str, Any]:
        """The look of a photo in which there is no article."""
        with self._asking() as (searcher, connection), timed(ms, "search"):
            (seen,) = _timed("model", searcher.look, [pixels])
            how = asked["filters"], asked["k"], asked["exclude"]
            answer, named = _timed("search", searcher.answer_named, connection, seen, *how)
        return look_told(searcher, replace(of_whole(found, answer), ms=summed(ms)), named)

    @contextmanager
    def _asking(self) -> Iterator[tuple[Searcher, psycopg.Connection]]:
        """The searcher, and a connection for it; where the store fails meanwhile the answer is a problem."""
        searcher = self._live()
        with ours("the store"):
            connection = self._connected()
        try:
            yield searcher, connection
        except psycopg.OperationalError as error:
            self._connection = None
            raise TransientError("the store failed") from error
        except TransientError:
            self._searcher, self._why = None, "the models of the run that has gone live are being loaded"
            raise away(self._why, 3, "the models") from None

    def _models_of(self, searcher: Searcher) -> Models:
        """The networks of the look, loaded at the first one since the live run's models were: seconds, and memory."""
        if self._models is None:
            with ours("the lake"), _lacking():
                self._models = _timed("look: load", looking.load, searcher.run.lake)
        return self._models


@contextmanager
def _lacking() -> Iterator[None]:
    """Networks that are not installed, or not as they should be, are for whoever runs the server."""
    try:
        yield
    except UserError as error:
        structlog.get_logger().warning("looks cannot be answered", why=str(error))
        raise Problem(
            503,
            "this server lacks the networks that a look is found with",
            place="the server",
            remedy="have whoever runs it run `make models` (its log says more), or search with the whole photo",
            headers={"Retry-After": str(LACKING_S)},
        ) from None


def _timed(stage: str, call: Callable, *arguments: Any) -> Any:
    started = time.perf_counter()
    try:
        return call(*arguments)
    finally:
        metrics.of_stage(stage).observe(time.perf_counter() - started)


def _ms(started: float) -> int:
    return round(1000 * (time.perf_counter() - started))


def _problem(error: Exception) -> tuple[int, bytes]:
    if isinstance(error, ImageError):
        status = {"too many pixels": 413, "file too large": 413, "not an image": 415, "empty": 400}.get(
            error.reason, 422
        )
        remedy = "send a JPEG, PNG, WEBP, GIF, BMP, HEIC or AVIF of at most 64 megapixels"
        error = Problem(status, f"the photo cannot be used: {error.reason}", place="body", remedy=remedy)
    elif isinstance(error, DecoderEndedError):
        metrics.CRASHES.inc()
        error = Problem(422, "the photo cannot be decoded", place="body", remedy="save it as a JPEG and send that")
    problem = of(error)
    if problem.status == 500:
        structlog.get_logger().error("a photo was not answered", error=type(error).__name__)
    retry = int(problem.headers.get("Retry-After", 0))
    return problem.status, json.dumps(problem.told() | {"retry_s": retry}).encode()


async def serve(path: str, settings: Settings) -> None:
    """Listen until cancelled."""
    search = Search(settings)
    keeping = asyncio.create_task(search.keep())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head, size = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
            if size <= PHOTO_MAX_BYTES:
                asked = json.loads(await reader.readexactly(head))
                status, body = await search.answer(asked, await reader.readexactly(size))
                writer.writelines([LENGTHS.pack(status, len(body)), body])
                await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answer, path, limit=2**24):
        await keeping


def main() -> None:
    """Search for photos until the input ends."""
    end_with_input()
    keep_to_itself()
    asyncio.run(serve(sys.argv[1], read_settings()))


if __name__ == "__main__":
    main()
