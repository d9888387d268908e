"""pull: the source of the catalogue → one zip in raw/, and the table `pulls`.

Reads the setting `dataset`: a zip, tar or folder on disk, at s3://, http(s):// or Kaggle, or the built-in sample.
Writes `raw/<sha256>.zip` (a zip as it is, anything else packed in one determined way) and one row of `pulls`.
Safe to run again: the file is named by its content, so an unchanged source adds nothing. What is not on disk yet waits
in a scratch file: its name in the lake follows from its last byte too, and to be checked it must be read out of order.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
import re
import stat
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import requests
import structlog
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from infra import archives, disk, objects
from infra.archives import CHUNK, LeftOut, Link, Member
from infra.errors import TransientError, UserError
from infra.lake import Lake
from infra.places import shown
from infra.settings import Settings
from infra.telemetry import Progress
from jobs import step
from jobs.run import Run, StepResult, content_hash
from jobs.sample import COLUMNS, sample

CODE_VERSION = 2
SAMPLE_SEED = 7
PULLS = pa.schema(
    {
        "uri": pa.string(),
        "archive": pa.string(),
        "sha256": pa.string(),
        "bytes": pa.int64(),
        "members": pa.int32(),
        "left_out": pa.list_(pa.struct([(name, pa.string()) for name in LeftOut._fields])),
    }
)
"""`left_out` is what of the source is not in the archive, and why: links out of it, devices and the like."""
MB = 10**6
TIMEOUT_S = (10, 60)
"""Seconds to connect, and between two pieces of an answer."""
RETRIES = Retry(
    total=3,
    backoff_factor=0.3,
    backoff_jitter=0.3,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    retry_after_max=30,
)
BREAKS, BREAK_S = 6, 1.0
"""Times in a row that a download may break off without coming further, and the most that it first waits (s)."""
READERS, READ_AHEAD_MAX = 16, 4 * 2**20
"""Objects of a prefix read at once, and the largest that is (bytes): a request for each of them takes long."""
SCRATCH = "LOOKALIKE_SCRATCH"
"""The variable that chooses where the archive waits until it is whole."""
CHECKSUM = "#sha256="
"""Ends an archive's address with the SHA-256 (hex) that it must have."""
FORMS = "a .zip/.tar path, a folder, file://, s3://, https://, kaggle:owner/name or sample:N?seed=S"


@dataclass(frozen=True)
class Fetched:
    """A source within reach: URI without credentials, a seekable zip, and what of the source is not in it."""

    uri: str
    archive: BinaryIO
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Workspace:
    """What fetching may use: the largest unpacked size in bytes, files in `folder` that vanish with `held`.

    `sha256` is what the source's archive must have (hex), or empty.
    """

    limit: int
    held: ExitStack
    folder: Path
    sha256: str = ""

    def spool(self) -> BinaryIO:
        """A new temporary file without a name: it is gone however the process ends."""
        with disk.told(self.folder, SCRATCH):
            self.folder.mkdir(parents=True, exist_ok=True)
            return self.held.enter_context(tempfile.TemporaryFile(dir=self.folder))


def pull(run: Run) -> StepResult:
    """Bring the source into the lake as one zip."""
    limit, scratch = run.settings.archive_max_bytes, run.settings.scratch
    dataset, expected = _split_checksum(run.settings.dataset)
    # Around `held` too: a scratch file on a full disk fails once more when it is closed.
    with _source_errors(shown(dataset)), disk.told(scratch, SCRATCH, disk.FULL), ExitStack() as held:
        fetched = fetch(dataset, Workspace(limit, held, scratch, expected))
        sha256 = _sha256(fetched.archive)
        content = content_hash(sha256, fetched.left_out) if fetched.left_out else sha256
        archive, fingerprint = f"raw/{sha256}.zip", content_hash(CODE_VERSION, content, fetched.uri)
        target, stored = run.lake.table("pulls"), run.lake.exists(archive)
        contents = {"pulls": content}  # whatever its address: a catalogue that moved is not read again
        done = run.done("pull", fingerprint, {"pulls": target})
        if stored and done:
            return replace(done, contents=contents, figures=done.figures | {"added": False})
        members = archives.check_zip(fetched.archive, fetched.uri, limit)
        size = fetched.archive.seek(0, 2)
        if not stored:
            _store(run.lake, archive, fetched.archive, sha256)
    row = {"uri": fetched.uri, "archive": archive, "sha256": sha256, "bytes": size, "members": members}
    figures = {**row, "added": not stored, "left_out": len(fetched.left_out)}
    rows = pa.Table.from_pylist([{**row, "left_out": [item._asdict() for item in fetched.left_out]}], PULLS)
    target = target.commit([run.lake.write_part("pulls", rows)], PULLS, run=run.name)
    result = StepResult(rows=1, files=members, tables={"pulls": target.version}, figures=figures)
    return replace(run.remember("pull", fingerprint, result), contents=contents)


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """The source as `pull` would bring it into the lake, and its address: a look at it, of which nothing is left.

    Raises:
        UserError, TransientError: as `pull` does.
    """
    dataset, expected = _split_checksum(settings.dataset)
    with ExitStack() as held:
        with _source_errors(shown(dataset)), disk.told(settings.scratch, SCRATCH, disk.FULL):
            fetched = fetch(dataset, Workspace(settings.archive_max_bytes, held, settings.scratch, expected))
            archives.check_zip(fetched.archive, fetched.uri, settings.archive_max_bytes)
        with zipfile.ZipFile(fetched.archive) as archive:
            yield archive, fetched.uri


def _store(lake: Lake, name: str, archive: BinaryIO, sha256: str) -> None:
    """Copy `archive` into the lake; what changed since it was hashed is not kept."""
    advance, copied = _meter(archive.seek(0, 2)), hashlib.sha256()
    archive.seek(0)
    with lake.writing(name) as sink:
        while chunk := archive.read(CHUNK):
            copied.update(chunk)
            sink.write(chunk)
            advance(len(chunk))
        if copied.hexdigest() != sha256:
            raise TransientError("the source changed while it was read")


def _sha256(archive: BinaryIO) -> str:
    archive.seek(0)
    return hashlib.file_digest(archive, "sha256").hexdigest()  # type: ignore[arg-type]


def _split_checksum(dataset: str) -> tuple[str, str]:
    """The source, and the SHA-256 that it is asked to have (hex, lower case) or an empty text."""
    source, found, sha256 = dataset.rpartition(CHECKSUM)
    if not found:
        return dataset, ""
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise _wrong(shown(source), f"has no SHA-256 behind {CHECKSUM}", "give its 64 hexadecimal digits")
    return source, sha256.lower()


def fetch(dataset: str, workspace: Workspace) -> Fetched:
    """The source as a zip, within reach.

    Raises:
        UserError: it is not there, may not be read, or is no catalogue's archive.
        TransientError: its server can't be reached or fails.
    """
    scheme = re.match(r"(sample|kaggle)(?=:)|([A-Za-z][A-Za-z0-9+.-]*)(?=://)", dataset)
    if workspace.sha256 and scheme and scheme[1]:
        raise _no_archive(dataset)
    match scheme.group().lower() if scheme else "file":
        case "sample":
            return _fetch_sample(dataset, workspace)
        case "kaggle":
            return _fetch_kaggle(dataset, workspace)
        case "http" | "https":
            return _fetch_web(dataset, workspace)
        case "s3":
            return _fetch_s3(shown(dataset), workspace)
        case "file":
            return _fetch_disk(_path(dataset) if scheme else dataset, workspace)
    raise _wrong(shown(dataset), "names a kind of source that isn't known", f"give {FORMS}")


def _path(uri: str) -> str:
    """Path of a `file://` address, whose `#` and `?` are letters of it."""
    host, slash, path = uri.partition("://")[2].partition("/")
    if host.lower() not in ("", "localhost"):
        problem = f"is on another machine, {host.rpartition('@')[2]!r}"
        raise _wrong(shown(uri), problem, "give file:///absolute/path, with three slashes")
    return unquote(slash + path)


# Built-in and Kaggle


def _fetch_sample(dataset: str, workspace: Workspace) -> Fetched:
    asked = re.fullmatch(r"sample:([1-9]\d{0,6})(?:\?seed=(\d{1,9}))?", dataset)
    if not asked:
        raise _wrong(dataset, "is no sample", "give sample:N or sample:N?seed=S, for example sample:2000?seed=7")
    n, seed = int(asked[1]), int(asked[2] or SAMPLE_SEED)
    spool = workspace.spool()
    archives.pack(_sample_members(n, seed), spool, lambda _: None)
    return Fetched(f"sample:{n}?seed={seed}", spool)


def _sample_members(n: int, seed: int) -> Iterator[Member]:
    """The images, then `styles.csv` as it is published: the last column, which may hold commas, isn't quoted."""
    progress, lines = Progress("products", n), [",".join(COLUMNS)]
    for product in sample(n, seed):
        lines.append(",".join(product.row))
        if product.image is not None:
            yield _in_memory(f"images/{product.row[0]}.jpg", product.image)
        progress.add(1)
    yield _in_memory("styles.csv", "".join(line + "\n" for line in lines).encode())


def _in_memory(name: str, data: bytes) -> Member:
    return Member(name, len(data), partial(io.BytesIO, data))


def _fetch_kaggle(dataset: str, workspace: Workspace) -> Fetched:
    handle = dataset.removeprefix("kaggle:")
    if not re.fullmatch(r"[\w-]+/[\w-]+(/versions/\d+)?", handle):
        raise _wrong(dataset, "names no Kaggle data set", "give kaggle:owner/name or kaggle:owner/name/versions/N")
    with _kaggle_errors(dataset):
        import kagglehub  # 1 s, and only this source needs it

        folder = kagglehub.dataset_download(handle)
    return replace(_fetch_disk(folder, workspace), uri=dataset)


@contextmanager
def _kaggle_errors(dataset: str) -> Iterator[None]:
    from kagglehub.exceptions import CredentialError, DataCorruptionError, UnauthenticatedError

    remedy = (
        "check the name; for a private data set make an API token at https://www.kaggle.com/settings and set "
        "KAGGLE_API_TOKEN (or KAGGLE_USERNAME and KAGGLE_KEY), or download it and give the file's path"
    )
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        _refuse_status(status, dataset, f"Kaggle answered {status}", remedy)
        raise TransientError(f"{dataset}: Kaggle answered {status}") from None
    except (CredentialError, UnauthenticatedError) as error:
        raise _wrong(dataset, f"can't be downloaded: {error}", remedy) from None
    except (requests.RequestException, DataCorruptionError, zipfile.BadZipFile) as error:
        raise TransientError(f"{dataset}: Kaggle can't be reached or broke off ({type(error).__name__})") from None


# The web


def _fetch_web(url: str, workspace: Workspace) -> Fetched:
    uri, spool = shown(url), workspace.spool()
    # Its warnings about retries hold the query, which may be a signature.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
        _download(Download(session, url, uri, spool, workspace.limit))
    return _as_zip(uri, spool, workspace)


@dataclass
class Download:
    """A download in progress: what came of it so far lies in `spool`, and goes with the content that `version` names.

    `version` is what the server calls this content (a strong ETag, or its date), empty where it gives it no name.
    """

    session: requests.Session
    url: str
    uri: str
    spool: BinaryIO
    limit: int
    version: str = ""

    def go_on(self) -> None:
        """Ask for what is missing and take what comes.

        Raises:
            UserError: it may not be read, or is larger than the limit.
            TransientError: it broke off.
        """
        have = self.spool.tell()
        # identity: a server that packs its answer would change the bytes that name the file.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self.version}
        with (
            _web_errors(self.uri),
            self.session.get(self.url, stream=True, timeout=TIMEOUT_S, headers=headers) as answer,
        ):
            self._check(answer, have)
            declared = answer.headers.get("Content-Length", "")
            size = self.spool.tell() + int(declared) if declared.isdecimal() else 0
            _spool(answer.iter_content(CHUNK), self.spool, self.uri, size, self.limit)

    def _check(self, answer: requests.Response, have: int) -> None:
        """Refuse an answer without content; empty the spool where the answer begins at the beginning."""
        status, found = answer.status_code, f"the server answered {answer.status_code}"
        goes_on = bool(have) and status == requests.codes.partial
        if have and status == requests.codes.range_not_satisfiable:
            self._restart()
            raise TransientError(f"{self.uri}: it became shorter while it was fetched")
        _refuse_status(status, self.uri, found, "check the address and that it may be read")
        if status != requests.codes.ok and not goes_on:
            raise TransientError(f"{self.uri}: {found}")
        if not goes_on:
            self._restart()
            self.version = _version(answer)
        elif _version(answer) not in ("", self.version) or not answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        ):
            self._restart()
            raise TransientError(f"{self.uri}: it changed while it was fetched")

    def _restart(self) -> None:
        self.spool.seek(0)
        self.spool.truncate()


def _version(answer: requests.Response) -> str:
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _download(download: Download) -> None:
    """Fetch all of it; where the connection breaks, go on from there rather than start over.

    Raises:
        UserError: it may not be read, or is larger than the limit.
        TransientError: nothing came at all, or it broke off again and again without coming further.
    """
    furthest, breaks = 0, 0
    while True:
        try:
            download.go_on()
            return
        except TransientError:
            have = download.spool.tell()
            breaks = breaks + 1 if have <= furthest else 0
            if not max(have, furthest) or breaks == BREAKS:
                raise
            furthest = max(have, furthest)
            structlog.get_logger().warning("the download broke off", source=download.uri, bytes=have)
            time.sleep(random.uniform(0, BREAK_S * 2**breaks))  # noqa: S311
            if not download.version:  # without a name of the content, what follows might be of another one
                download.spool.seek(0)
                download.spool.truncate()


def _refuse_status(status: int, uri: str, found: str, remedy: str) -> None:
    """Raise UserError for an answer that trying again won't change: 4xx, but for a timeout or too many requests."""
    if 400 <= status < 500 and status not in (408, 425, 429):
        raise _wrong(uri, f"can't be read: {found}", remedy)


@contextmanager
def _web_errors(uri: str) -> Iterator[None]:
    # The library's messages hold the whole address, credentials and all: only the kind of error is passed on.
    unusable = (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.TooManyRedirects,
        requests.exceptions.SSLError,
    )
    try:
        yield
    except unusable as error:
        remedy = "check the address, its redirects and its certificate by opening it in a browser"
        raise _wrong(uri, f"can't be fetched ({type(error).__name__})", remedy) from None
    except requests.RequestException as error:
        raise TransientError(f"{uri}: the server can't be reached or broke off ({type(error).__name__})") from None
    except ValueError:  # the library's own, of an address that it is sent on to: not UTF-8, half an IPv6 address
        remedy = "open it in a browser and give the address that it leads to"
        raise _wrong(uri, "can't be fetched: the server sends on to an address that is none", remedy) from None


def _spool(chunks: Iterable[bytes], spool: BinaryIO, uri: str, size: int, limit: int) -> None:
    """Append `chunks` to `spool`; `size` is what it will have by what the source declares (0: nothing)."""
    archives.refuse_excess(size, size, uri, limit)
    advance, written = _meter(size or limit, spool.tell()), spool.tell()
    for chunk in chunks:
        written += len(chunk)
        archives.refuse_excess(written, written, uri, limit)
        spool.write(chunk)
        advance(len(chunk))


# S3 and disk


def _fetch_s3(uri: str, workspace: Workspace) -> Fetched:
    try:
        place = objects.Place.of(uri)
    except ValueError as error:
        raise _wrong(uri, str(error), "give s3://bucket/key or s3://bucket/prefix; a variable may be unset") from None
    uri = str(place)
    found = objects.find(place) if place.key and (place.version or not place.key.endswith("/")) else None
    if found:
        place, size = found
        archives.refuse_excess(size, size, uri, workspace.limit)
        spool = workspace.spool()
        objects.download(place, spool, _meter(size))
        return _as_zip(uri, spool, workspace)
    listed = [] if place.version else objects.below(place)
    if not listed:
        remedy = "check bucket, key and version (`aws s3 ls` lists them) and AWS_ENDPOINT_URL"
        raise _wrong(uri, "isn't there", remedy)
    if workspace.sha256:
        raise _no_archive(uri)
    members = [
        Member(item.key[len(place.prefix) :].lstrip("/"), size, partial(objects.Stream, item, size))
        for item, size in listed
    ]
    return _packed(uri, members, [], workspace, _read_ahead)


def _read_ahead(members: Iterable[Member]) -> Iterator[Member]:
    """The same members in the same order; small ones are read in parallel, a bounded number ahead."""

    def read(member: Member) -> Member:
        if member.size > READ_AHEAD_MAX:
            return member
        with member.open() as stream:
            return replace(member, open=partial(io.BytesIO, stream.read(READ_AHEAD_MAX + 1)))

    waiting: deque[Future[Member]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for member in members:
            waiting.append(pool.submit(read, member))
            if len(waiting) == 2 * READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _fetch_disk(path: str, workspace: Workspace) -> Fetched:
    place = Path(os.path.abspath(os.path.expanduser(path)))
    try:
        if not path:
            raise FileNotFoundError
        mode = place.stat().st_mode
    except PermissionError:
        raise
    except (OSError, ValueError):  # also of a path that is too long, goes round in links or holds a zero byte
        raise _wrong(repr(shown(path)), "isn't there", f"check the path, or give {FORMS}") from None
    if stat.S_ISREG(mode):
        return _as_zip(place.as_uri(), workspace.held.enter_context(place.open("rb")), workspace)
    if not stat.S_ISDIR(mode):
        raise _wrong(repr(path), "is neither a file nor a folder", f"give {FORMS}")
    if workspace.sha256:
        raise _no_archive(repr(path))
    members, left_out = _folder_members(place, place.as_uri())
    return _packed(place.as_uri(), members, left_out, workspace)


def _folder_members(folder: Path, where: str) -> tuple[list[Member], list[LeftOut]]:
    """The files below `folder`, those that its links lead to among them, and what is left out."""

    def stop(error: OSError) -> None:
        raise error

    files, links, left_out = {}, [], []
    for root, folders, names in os.walk(folder, onerror=stop):
        for name in (*names, *folders):
            path = os.path.join(root, name)
            inside, found = os.path.relpath(path, folder), os.lstat(path)
            if stat.S_ISREG(found.st_mode):
                files[inside] = Member(inside, found.st_size, partial(io.FileIO, path))
            elif stat.S_ISLNK(found.st_mode):
                links.append(Link(inside, os.readlink(path), _place(path, folder)))
            elif not stat.S_ISDIR(found.st_mode):
                left_out.append(LeftOut(inside, "no plain file", "a device, a pipe or a socket"))
    copies, unfollowed = archives.followed(files, links, where)
    return [*files.values(), *copies], left_out + unfollowed


def _place(link: str, folder: Path) -> str | None:
    """Where below `folder` a link leads, all links on the way followed; None: out of it, or round and round."""
    place = os.path.relpath(os.path.realpath(link), os.path.realpath(folder))
    if place.split("/")[0] == ".." or os.path.islink(os.path.join(folder, place)):
        return None
    return "" if place == "." else place


def _as_zip(uri: str, stream: BinaryIO, workspace: Workspace) -> Fetched:
    """An archive as a zip: a zip as it is, a tar packed.

    Raises:
        UserError: it is none, or has not the SHA-256 asked for.
    """
    if workspace.sha256 and (found := _sha256(stream)) != workspace.sha256:
        raise _wrong(
            uri,
            f"has SHA-256 {found}, and {workspace.sha256} is asked for",
            f"fetch the archive from where the checksum is from, or correct what follows {CHECKSUM}",
        )
    kind = archives.kind(stream, uri)
    if kind in archives.PACKINGS:
        # Unpacked first: the members of a packed tar can't be read in another order than its own.
        unpacked = workspace.spool()
        archives.unpack(stream, unpacked, kind, uri, workspace.limit)
        stream, kind = unpacked, archives.kind(unpacked, uri, f"the source is packed by {kind}, and inside")
    if kind == "zip" and not archives.has_links(stream, uri):
        return Fetched(uri, stream)
    if kind == "zip":
        archives.check_zip(stream, uri, workspace.limit)
    members, left_out = (archives.zip_members if kind == "zip" else archives.tar_members)(stream, uri)
    return _packed(uri, members, left_out, workspace)


def _packed(
    uri: str,
    members: list[Member],
    left_out: list[LeftOut],
    workspace: Workspace,
    reading: Callable[[Iterable[Member]], Iterable[Member]] = iter,
) -> Fetched:
    """`members` in the order of their names, packed."""
    left_out = sorted(left_out)
    if left_out:
        samples = [" ".join(item) for item in left_out[:5]]
        structlog.get_logger().warning("left out", source=uri, left_out=len(left_out), such_as=samples)
    if not members:
        such_as = f"; {len(left_out)} left out, such as {': '.join(left_out[0])}" if left_out else ""
        remedy = "give a folder or archive that holds styles.csv and images/ (`cp -rL` makes files of links)"
        raise _wrong(uri, f"holds no file{such_as}", remedy)
    total = sum(member.size for member in members)
    archives.refuse_excess(total, total, uri, workspace.limit)
    spool = workspace.spool()
    archives.pack(reading(sorted(members, key=lambda member: member.name)), spool, _meter(total))
    return Fetched(uri, spool, tuple(left_out))


def _meter(total: int, done: int = 0) -> Callable[[int], None]:
    """A function to be told of bytes done, which reports every full megabyte of `total` bytes."""
    progress = Progress("MB", max(1, total // MB))

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done // MB > (done - n) // MB:
            progress.reach(done // MB)

    return advance


@contextmanager
def _source_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise _wrong(uri, f"may not be read: {error}", "give the user that runs this the right to read it") from None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise TransientError(f"{uri} changed while it was read: {error}") from None


def _no_archive(source: str) -> UserError:
    return _wrong(source, f"is no single archive, and {CHECKSUM} gives the checksum of one", "leave the checksum out")


def _wrong(source: str, found: str, remedy: str) -> UserError:
    return UserError(f"the source {source} {found}", where="LOOKALIKE_DATASET or --dataset", remedy=remedy)


if __name__ == "__main__":
    raise SystemExit(step.main("pull"))
