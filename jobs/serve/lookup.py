"""What the server knows of the store: connections, which run is live, and a copy of its products. No ml.

A process has one of these. It asks four times a second which run is live; a run that goes live is copied in the
background, and until that is done the copy of the one before answers what the copy answers (browsing, counts), while
the store answers for all else. Whatever is answered comes from one run, and says from which.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from infra import store
from infra.errors import TransientError, UserError
from infra.pool import NOT_PREPARED, Place, Pool, RefusedError
from infra.settings import Settings
from infra.store import OlderStoreError
from jobs.run import Run, open_live
from jobs.serve import mapped
from jobs.serve.catalogue import Catalogue
from jobs.serve.mapped import Mapped
from jobs.serve.pictures import Pictures
from jobs.serve.problems import Problem, away

WATCH_S, SILENCE_S = 0.25, 5.0
"""Between two looks at which run is live, and how long the store may take to say."""
SLOW = 2
"""Connections for what takes long, so that short questions do not stand behind it."""
QUICK_STATEMENTS = {
    "served": "SELECT run_id, run, tag, products FROM lookalike.served_run()",
    "similar": "SELECT tag, answer FROM lookalike.similar_as_json($1::text, $2::jsonb, $3::int, $4::text[])",
    "product": "SELECT tag, answer FROM lookalike.product_as_json($1::text)",
    "key": "SELECT lookalike.api_key($1::bytea)",
}
SLOW_STATEMENTS = {
    "many": "SELECT run_id, to_json(run), tag, to_json(product_id), items, scanned"
    " FROM lookalike.similar_of_many($1::text[], $2::jsonb, $3::int, $4::text[])",
    "explained": "SELECT tag, answer, manifest"
    " FROM lookalike.similar_explained($1::text, $2::jsonb, $3::int, $4::text[])",
    "runs": "SELECT r.tag, r.run_id, to_json(r.run), lookalike.stored_runs()"
    " FROM (SELECT) one LEFT JOIN lookalike.served_run() r ON true",
    "compared": "SELECT tag, answer"
    " FROM lookalike.compared_runs($1::int, $2::int, $3::text, $4::jsonb, $5::int, $6::text[])",
}


@dataclass(frozen=True)
class Served:
    """The run that is live."""

    run_id: int
    run: str
    tag: str
    products: int


class Lookup:
    """The store, as one process of the server sees it."""

    def __init__(self, settings: Settings) -> None:
        """Begin with nothing: `keep` reaches the store."""
        self.settings = settings
        place = Place(settings.store, settings.store_folder, settings.serve_limit_s)
        self.quick = Pool(place, settings.serve_connections, QUICK_STATEMENTS)
        self.slow = Pool(place, SLOW, SLOW_STATEMENTS)
        self.served: Served | None = None
        self._why: Problem = away("the store has not been reached yet", place="the store")
        self._catalogue: Catalogue | None = None
        self._pictures: tuple[str, Pictures] | None = None
        self._mapped: Mapped | None = None
        self._copying: asyncio.Task | None = None

    async def keep(self) -> None:
        """Keep connections, and follow which run is live, until cancelled."""
        tasks = [asyncio.create_task(each) for each in (self.quick.keep(), self.slow.keep(), self._watch())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in [*tasks, *([self._copying] if self._copying else [])]:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _watch(self) -> None:
        while True:
            try:
                rows = await asyncio.wait_for(self.quick.ask("served"), SILENCE_S)
            except TimeoutError:
                self.served, self._why = None, away("the store does not answer", place="the store")
                self.quick.drop("the store does not answer")
                self.slow.drop("the store does not answer")
            except (TransientError, RefusedError):
                self.served, self._why = None, _why_away(self.quick.away)
            else:
                self._follow(rows)
            await asyncio.sleep(WATCH_S)

    def _follow(self, rows: list) -> None:
        if not rows:
            self.served, self._why = None, away("no run is live: publish one with make refresh", 10, "the store")
            return
        run_id, run, tag, products = rows[0]
        if self.served is None or self.served.tag != tag.decode():
            self.served = Served(int(run_id), run.decode(), tag.decode(), int(products))
        known = self._catalogue.tag if self._catalogue else ""
        if known != self.served.tag and (self._copying is None or self._copying.done()):
            self._copying = asyncio.create_task(self._copy())

    async def _copy(self) -> None:
        try:
            catalogue, pictures = await asyncio.to_thread(self._copied)
        except Exception as error:  # the next look tries again
            structlog.get_logger().warning("the live run cannot be copied", why=type(error).__name__)
            await asyncio.sleep(1)
            return
        if catalogue:
            self._catalogue = catalogue
        if pictures:
            self._pictures = pictures
        if self.settings.serve_mapped and mapped.FOLDER in os.environ:
            try:
                self._mapped = await asyncio.to_thread(self._mapped_now)
            except Exception as error:  # the store answers by itself
                structlog.get_logger().warning("the live run cannot be mapped", why=type(error).__name__)

    def _mapped_now(self) -> Mapped | None:
        settings = self.settings
        with store.reader(settings.store, settings.store_folder, settings.serve_limit_s) as connection:
            made = mapped.make(Path(os.environ[mapped.FOLDER]) / "mapped", connection)
        found = Mapped(made) if made else None
        gc.collect()
        gc.freeze()  # what stays is not looked through again and again
        return found

    def _copied(self) -> tuple[Catalogue | None, tuple[str, Pictures] | None]:
        settings = self.settings
        with store.reader(settings.store, settings.store_folder, settings.serve_limit_s) as connection:
            copied = store.copied(connection)
            run = None
            with suppress(UserError):  # which photos and pictures need, and nothing else
                run, _ = open_live(connection, settings)
        catalogue = Catalogue(copied) if copied else None
        return catalogue, self._pictures_of(run) if run else None

    def _pictures_of(self, run: Run) -> tuple[str, Pictures] | None:
        """The pictures of a run, or those at hand where it has the same images."""
        try:
            content = run.content("images")
            if self._pictures and self._pictures[0] == content:
                return None
            return content, Pictures(run, self.settings.serve_images_max_bytes)
        except UserError as error:
            structlog.get_logger().warning("images cannot be served", why=error.problem)
            return None

    def live(self) -> Served:
        """The live run. Raises Problem where there is none, or the store is away."""
        if self.served is None:
            raise self._why
        return self.served

    def catalogue(self) -> Catalogue:
        """The copy of the live run, or still of the one before. Raises Problem."""
        self.live()
        if self._catalogue is None:
            raise away("the live run is being copied", 1, "the server")
        return self._catalogue

    def mapped(self) -> Mapped | None:
        """The arrays of the live run, where they are at hand."""
        served, at_hand = self.served, self._mapped
        return at_hand if at_hand and served and at_hand.tag == served.tag else None

    def pictures(self) -> Pictures:
        """The pictures of the live run, or still of the one before. Raises Problem."""
        if self._pictures is None:
            self.live()
            raise away("the images of the live run are not at hand", 1, "the lake")
        return self._pictures[1]

    async def many(self, product_ids: bytes, filters: bytes, k: int, exclude: bytes) -> tuple[bytes, bytes]:
        """The tag and the answer of a batch."""
        rows: list[Any] = await self.slow.ask("many", product_ids, filters, b"%d" % k, exclude)
        run_id, run, tag = rows[0][:3]
        answers = [
            b'{"product_id":%b,"items":%b,"scanned":%b}' % (product_id, items, scanned)
            if items is not None
            else b'{"product_id":%b,"problem":%b}' % (product_id, _unknown(product_id))
            for _, _, _, product_id, items, scanned in rows
        ]
        return tag, b'{"run":{"run_id":%b,"run":%b},"answers":[%b]}' % (run_id, run, b",".join(answers))


def _why_away(error: Exception) -> Problem:
    """Why the store does not answer, as far as it may be told: a place can name a host."""
    headers = {"Retry-After": "10"}
    if isinstance(error, OlderStoreError):
        return Problem(503, error.problem, place="the store", remedy=error.remedy, headers=headers)
    if str(error).startswith(NOT_PREPARED):
        remedy = "publish a run with `make refresh`"
        return Problem(503, "the store holds no run yet", place="the store", remedy=remedy, headers=headers)
    return away("the store cannot be reached", place="the store")


def _unknown(product_id: bytes) -> bytes:
    asked = json.loads(product_id)
    problem = Problem(
        404,
        f"the live run has no product {asked}",
        value=asked,
        place="body: product_ids",
        remedy="its id may be wrong, or it was rejected: see the table rejects",
    )
    return problem.body()
