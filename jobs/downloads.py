"""Images at URLs → `downloads` (what each URL gave) and `originals` (the files as they came, each content once).

Asks for what the lake does not have, or has of another night: by ETag and date, so what has not changed is not sent.
Commits as it goes, the files before what names them, so a killed attempt loses minutes and leaves nothing amiss; what
the run has asked for is not asked again. Nights at once cost each other a second copy of a new file at most.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from urllib.request import getproxies_environment

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from infra import objects, web
from infra.addresses import Allowed
from infra.errors import StaleError, TransientError, UserError
from infra.lake import Part, Table
from infra.places import shown
from infra.settings import Settings
from infra.telemetry import Progress
from jobs.run import Run, release
from ml.images import ImageError

DOWNLOADS = pa.schema(
    [
        ("url_sha256", pa.string()),
        ("image_sha256", pa.string()),
        ("at_sha256", pa.string()),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("fresh_until", pa.int64()),
        ("asked_at", pa.int64()),
        ("run", pa.string()),
    ]
)
"""A row each time that a URL gave an image, the latest one counts. `at_sha256` is of the URL that redirects led to.
`fresh_until` is in seconds since 1970, `asked_at` in microseconds. Hashes of URLs, since a URL may hold a signature."""
ORIGINALS = pa.schema([("image_sha256", pa.string()), ("bytes", pa.binary())])
PART_BYTES = 128 * 2**20
"""Bytes of files that wait to be written: what memory holds of them, give or take a file."""
COMMIT_S = 300
"""Seconds after which what came is committed: that much, a killed attempt loses."""
TRIES = 10
"""Of a commit, when other writers keep coming first."""
PARTS_MAX = 200
"""Parts of `downloads` from which on it is written anew, with the latest row of each URL."""
LOOKED_UP = 50_000
"""URLs that are looked up in `downloads` at once."""
REMEDIES = {
    "inside the network": "name the host or its network in LOOKALIKE_IMAGE_HOSTS if images are to come from there",
    "bucket not named": "name the bucket, as s3://bucket, in LOOKALIKE_IMAGE_HOSTS if images are to come from there",
    "not allowed": "let the host's operator allow it; LOOKALIKE_IMAGE_CONTACT tells that operator who asks",
    "unknown host": "check the host's name in the catalogue",
    "certificate": "let REQUESTS_CA_BUNDLE name your own authority's certificates",
    "file too large": "raise LOOKALIKE_IMAGE_MAX_BYTES",
}
NO_PROXY = "; for images no proxy is used, though the environment names one: let this machine reach the hosts itself"


@dataclass(frozen=True)
class Downloaded:
    """What URLs gave: the SHA-256 (hex) of each one's image in `images`, or in `faults` why it has none.

    One that is in both failed, and its image is that of an earlier night. `originals` holds the files. `figures` tell
    how many URLs there were, and how many gave a new image, an unchanged one, were not asked for (`fresh`) or failed.
    """

    images: dict[str, str]
    faults: dict[str, ImageError]
    originals: Table
    figures: Mapping[str, object]

    def contents(self, known: Container[str]) -> Iterator[tuple[str, bytes]]:
        """(SHA-256, file) of each image that is not `known`, once; a part of `originals` is held in memory."""
        wanted = {sha for sha in self.images.values() if sha not in known}
        for part in self.originals.parts:
            stored = self.originals.read_part(part, ["image_sha256"])["image_sha256"].to_pylist()
            if held := [sha for sha in stored if sha in wanted]:
                rows = self.originals.read_part(part, where=pc.field("image_sha256").isin(held))
                wanted.difference_update(held)
                for sha, data in zip(rows["image_sha256"], rows["bytes"], strict=True):
                    yield sha.as_py(), data.as_py()


def download(run: Run, urls: Sequence[str], *, source: str = "", beside: bool = False) -> Downloaded:
    """Bring images into the lake.

    Args:
        run: whose settings and lake.
        urls: http://, https:// and s3:// URLs, each once.
        source: where the catalogue is from: of S3 its bucket and those that the settings name are asked, no others.
        beside: whether the catalogue has other images, too: then not to have one of these is no reason to stop.

    Raises:
        UserError: not one image could be had, and trying again cannot help.
        TransientError: not one could be had, and later some may.
    """
    session = _Session(run)
    progress, faults = Progress("images", len(urls)), dict[str, web.Fault]()
    with closing(web.fetch(session.unasked(urls), _manners(run.settings, source))) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, web.Answer):
                session.take(outcome)
            else:
                faults[outcome.url] = session.fall_back(outcome)
            progress.reach(session.counts.total())
    session.commit()
    if faults and not session.images and not beside:
        raise _none(faults)
    figures = {"urls": len(urls), **{name: session.counts[name] for name in ("new", "unchanged", "fresh", "failed")}}
    told = {url: ImageError(fault.reason, fault.detail) for url, fault in faults.items()}
    return Downloaded(session.images, told, session.originals, figures)


def _manners(settings: Settings, source: str) -> web.Manners:
    allowed = Allowed.of(settings.image_hosts)
    own = {objects.Place.of(source).bucket} if source.startswith("s3://") else set()
    contact = f" (+{settings.image_contact})" if settings.image_contact else ""
    return web.Manners(
        agent=f"lookalike/{release()}{contact}",
        limit=settings.image_max_bytes,
        allowed=replace(allowed, buckets=allowed.buckets | own),
        connections=settings.image_connections,
        connections_a_host=settings.image_connections_a_host,
    )


def _none(faults: Mapping[str, web.Fault]) -> UserError | TransientError:
    reasons = Counter(fault.reason for fault in faults.values())
    ((reason, count),) = reasons.most_common(1)
    sample = next(fault for fault in faults.values() if fault.reason == reason)
    problem = (
        f"none of the {len(faults):,} images could be had, {count:,} for this reason: "
        f"{reason} (such as {shown(sample.url)}: {sample.detail})"
    )
    if sample.passing:
        return TransientError(f"{problem}{NO_PROXY if getproxies_environment() else ''}")
    remedy = REMEDIES.get(reason, "check the URLs in the catalogue by opening one in a browser")
    return UserError(problem, where="the catalogue's URLs of images", remedy=remedy)


class _Session:
    """What the lake knows of URLs, and what comes in addition: `images` maps URLs to SHA-256 (hex)."""

    def __init__(self, run: Run) -> None:
        self._run, self.images, self.counts = run, dict[str, str](), Counter[str]()
        self.originals = run.lake.table("originals")
        self._downloads = _compacted(run)
        stored = _read(self.originals, ORIGINALS, ["image_sha256"])["image_sha256"]
        known = _latest(self._downloads)
        self._known = known.filter(pc.is_in(known["image_sha256"], value_set=stored)).combine_chunks()
        self._stored = set(stored.to_pylist())
        self._earlier = dict[str, str]()  # of URLs that are being asked for
        self._rows, self._files, self._size = list[dict[str, object]](), dict[str, bytes](), 0
        self._parts, self._committed = list[Part](), time.monotonic()

    def unasked(self, urls: Sequence[str]) -> Iterator[web.Asked]:
        """What is to be asked for; the rest, which the run has asked for or which is fresh, is in `images` then."""
        now = int(time.time())
        for start in range(0, len(urls), LOOKED_UP):
            some = urls[start : start + LOOKED_UP]
            places = pc.index_in(pa.array(map(web.key, some), pa.string()), value_set=self._known["url_sha256"])
            for url, row in zip(some, self._known.take(places).to_pylist(), strict=True):
                if not row["image_sha256"]:
                    yield web.Asked(url)
                elif row["run"] == self._run.name or row["fresh_until"] > now:
                    self.images[url] = row["image_sha256"]
                    self.counts["fresh"] += 1
                else:
                    self._earlier[url] = row["image_sha256"]
                    yield web.Asked(url, row["etag"], row["last_modified"], row["at_sha256"])

    def take(self, answer: web.Answer) -> None:
        """Keep what a URL gave, its file if it is a new one."""
        earlier = self._earlier.pop(answer.url, "")
        sha = earlier if answer.data is None else hashlib.sha256(answer.data).hexdigest()
        self.counts["unchanged" if sha == earlier else "new"] += 1
        if answer.data is not None and sha not in self._stored:
            self._stored.add(sha)
            self._files[sha] = answer.data
            self._size += len(answer.data)
        self.images[answer.url] = sha
        asked_at = time.time_ns() // 1000
        times = asked_at // 10**6 + answer.fresh_s, asked_at
        row = web.key(answer.url), sha, answer.at, answer.etag, answer.last_modified, *times, self._run.name
        self._rows.append(dict(zip(DOWNLOADS.names, row, strict=True)))
        if self._size >= PART_BYTES:
            self._write()
        if time.monotonic() - self._committed >= COMMIT_S:
            self.commit()

    def fall_back(self, fault: web.Fault) -> web.Fault:
        """Use the image of an earlier night where what failed may pass; returns the fault, which says so."""
        self.counts["failed"] += 1
        earlier = self._earlier.pop(fault.url, "")
        if not (earlier and fault.passing):
            return fault
        self.images[fault.url] = earlier
        return fault._replace(detail=f"{fault.detail}; its image of an earlier night is used")

    def commit(self) -> None:
        """Make visible what came, the files first: no row of `downloads` names one that is not there."""
        self._write()
        self.originals = _append(self.originals, self._parts, ORIGINALS, self._run)
        if self._rows:
            part = self._run.lake.write_part("downloads", pa.Table.from_pylist(self._rows, DOWNLOADS))
            self._downloads = _append(self._downloads, [part], DOWNLOADS, self._run)
        self._parts, self._rows, self._committed = [], [], time.monotonic()

    def _write(self) -> None:
        if self._files:
            rows = pa.table([list(self._files), list(self._files.values())], schema=ORIGINALS)
            self._parts.append(self._run.lake.write_part("originals", rows))
        self._files, self._size = {}, 0


def _read(table: Table, schema: pa.Schema, columns: list[str]) -> pa.Table:
    """Columns of a table; none where it is not there yet."""
    return table.read(columns) if table.version >= 0 else schema.empty_table().select(columns)


def _latest(downloads: Table) -> pa.Table:
    """The latest row of each URL."""
    rows = _read(downloads, DOWNLOADS, DOWNLOADS.names).sort_by("asked_at")
    places = pa.table([rows["url_sha256"], np.arange(len(rows))], ["url", "place"])
    return rows.take(places.group_by("url").aggregate([("place", "max")])["place_max"])


def _compacted(run: Run) -> Table:
    """The table `downloads`, written anew where it has many parts."""
    table = run.lake.table("downloads")
    if len(table.parts) < PARTS_MAX:
        return table
    part = run.lake.write_part("downloads", _latest(table))
    with suppress(StaleError):  # another run writes; a later one will do this
        return table.commit([part], DOWNLOADS, run=run.name, mode="rewrite")
    return run.lake.table("downloads")


def _append(table: Table, parts: list[Part], schema: pa.Schema, run: Run) -> Table:
    """The version of `table` that holds `parts` too, whoever else appends meanwhile.

    Raises:
        StaleError: others came first, `TRIES` times.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(StaleError),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    tables = itertools.chain([table], iter(lambda: run.lake.table(table.name), None))
    return retrying(lambda: next(tables).commit(parts, schema, run=run.name, mode="append")) if parts else table
