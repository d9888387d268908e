"""pull: the source of the catalogue → one zip in raw/, and the table `pulls`.

Reads the setting `dataset`: a zip, tar or folder on disk, at s3://, http(s):// or Kaggle, or the built-in sample.
Writes `raw/<sha256>.zip` (a zip as it is, anything else packed in one determined way) and one row of `pulls`.
Safe to run again: the file is named by its content, so an unchanged source adds nothing.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import stat
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
import requests
import structlog
from pyarrow import fs
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from infra import archives
from infra.archives import CHUNK, Member
from infra.errors import TransientError, UserError
from infra.lake import Lake, filesystem, reaching
from infra.telemetry import Progress
from jobs import step
from jobs.step import Run, StepResult
from ml.sample import COLUMNS, sample

CODE_VERSION = 1
SAMPLE_SEED = 7
PULLS = pa.schema(
    {"uri": pa.string(), "archive": pa.string(), "sha256": pa.string(), "bytes": pa.int64(), "members": pa.int32()}
)
MB = 10**6
TIMEOUT_S = (10, 60)
"""Seconds to connect, and between two pieces of an answer."""
RETRIES = Retry(
    total=3,
    backoff_factor=0.3,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    retry_after_max=30,
)
READERS, READ_AHEAD_MAX = 16, 4 * 2**20
"""Objects of a prefix read at once, and the largest that is (bytes): a request for each of them takes long."""
FORMS = "a .zip/.tar path, a folder, file://, s3://, https://, kaggle:owner/name or sample:N?seed=S"


@dataclass(frozen=True)
class Fetched:
    """A source within reach: URI without credentials, a seekable zip, and how many links and devices were left out."""

    uri: str
    archive: BinaryIO
    left_out: int = 0


@dataclass(frozen=True)
class Workspace:
    """What fetching may use: the largest unpacked size in bytes, and files that vanish with `held`."""

    limit: int
    held: ExitStack

    def spool(self) -> BinaryIO:
        """A new temporary file without a name: it is gone however the process ends."""
        return self.held.enter_context(tempfile.TemporaryFile())


def pull(run: Run) -> StepResult:
    """Bring the source into the lake as one zip."""
    limit = run.settings.archive_max_bytes
    with ExitStack() as held, _disk_errors(shown(run.settings.dataset)):
        fetched = fetch(run.settings.dataset, Workspace(limit, held))
        fetched.archive.seek(0)
        sha256 = hashlib.file_digest(fetched.archive, "sha256").hexdigest()  # type: ignore[arg-type]
        archive, mark = f"raw/{sha256}.zip", step.fingerprint(CODE_VERSION, sha256)
        target, stored = run.lake.table("pulls"), run.lake.exists(archive)
        if stored and target.fingerprint == mark and target.figures["uri"] == fetched.uri:
            return _result(target.version, {**target.figures, "added": False}, skipped=True)
        members = archives.check_zip(fetched.archive, fetched.uri, limit)
        size = fetched.archive.seek(0, 2)
        if not stored:
            _store(run.lake, archive, fetched.archive, sha256)
    row = {"uri": fetched.uri, "archive": archive, "sha256": sha256, "bytes": size, "members": members}
    figures = {**row, "added": not stored, "left_out": fetched.left_out}
    part = run.lake.write_part("pulls", pa.Table.from_pylist([row], PULLS), salt=mark)
    table = target.commit([part], PULLS, run=run.name, fingerprint=mark, figures=figures)
    return _result(table.version, figures, skipped=False)


def _result(version: int, figures: dict[str, object], *, skipped: bool) -> StepResult:
    files = int(str(figures["members"]))
    return StepResult(rows=1, files=files, skipped=skipped, tables={"pulls": version}, figures=figures)


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


def shown(dataset: str) -> str:
    """`dataset` as it may be stored and shown: a URL without user, password, query and fragment."""
    if "://" not in dataset:
        return dataset
    try:
        parts = urlsplit(dataset)
    except ValueError:
        return dataset.split("://")[0] + "://…"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch(dataset: str, workspace: Workspace) -> Fetched:
    """The source as a zip, within reach.

    Raises:
        UserError: it is not there, may not be read, or is no catalogue's archive.
        TransientError: its server can't be reached or fails.
    """
    scheme = re.match(r"(sample|kaggle)(?=:)|([A-Za-z][A-Za-z0-9+.-]*)(?=://)", dataset)
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
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise _wrong(uri, f"is on another machine, {parts.netloc!r}", "give file:///absolute/path, with three slashes")
    return unquote(parts.path)


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
    with _web_errors(uri), requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
        # identity: a server that packs its answer would change the bytes that name the file.
        headers = {"Accept-Encoding": "identity"}
        with session.get(url, stream=True, timeout=TIMEOUT_S, headers=headers) as answer:
            status = answer.status_code
            _refuse_status(status, uri, f"the server answered {status}", "check the address and that it may be read")
            if status != requests.codes.ok:
                raise TransientError(f"{uri}: the server answered {status}")
            declared = answer.headers.get("Content-Length", "")
            size = int(declared) if declared.isdecimal() else 0
            _spool(answer.iter_content(CHUNK), spool, uri, size, workspace.limit)
    return _as_zip(uri, spool, workspace)


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


def _spool(chunks: Iterable[bytes], spool: BinaryIO, uri: str, size: int, limit: int) -> None:
    """Write `chunks` to `spool`; `size` is what the source declares (0: nothing)."""
    archives.refuse_excess(size, size, uri, limit)
    advance, written = _meter(size or limit), 0
    for chunk in chunks:
        written += len(chunk)
        archives.refuse_excess(written, written, uri, limit)
        spool.write(chunk)
        advance(len(chunk))


# S3 and disk


def _fetch_s3(uri: str, workspace: Workspace) -> Fetched:
    with reaching(uri):
        files, path = filesystem(uri)
        found = files.get_file_info(path)
        if found.type == fs.FileType.NotFound:
            raise _wrong(uri, "isn't there", "check bucket and key (`aws s3 ls` lists them) and AWS_ENDPOINT_URL")
        if found.is_file:
            spool = workspace.spool()
            with files.open_input_stream(path) as stream:
                _spool(iter(partial(stream.read, CHUNK), b""), spool, uri, found.size, workspace.limit)
            return _as_zip(uri, spool, workspace)
        listed = files.get_file_info(fs.FileSelector(path, recursive=True))
        members = [
            Member(entry.path[len(path) + 1 :], entry.size, partial(files.open_input_stream, entry.path))
            for entry in listed
            if entry.is_file
        ]
        return _packed(uri, members, 0, workspace, _read_ahead)


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
    except (FileNotFoundError, NotADirectoryError):
        raise _wrong(repr(path), "isn't there", f"check the path ({place}), or give {FORMS}") from None
    if stat.S_ISREG(mode):
        return _as_zip(place.as_uri(), workspace.held.enter_context(place.open("rb")), workspace)
    if not stat.S_ISDIR(mode):
        raise _wrong(repr(path), "is neither a file nor a folder", f"give {FORMS}")
    members, left_out = _folder_members(place)
    return _packed(place.as_uri(), members, left_out, workspace)


def _folder_members(folder: Path) -> tuple[list[Member], int]:
    """The plain files below `folder`, and how many links and devices lie there, which aren't followed."""

    def stop(error: OSError) -> None:
        raise error

    members, left_out = [], 0
    for root, folders, files in os.walk(folder, onerror=stop):
        left_out += sum(os.path.islink(os.path.join(root, name)) for name in folders)
        for name in files:
            path = os.path.join(root, name)
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode):
                members.append(Member(os.path.relpath(path, folder), found.st_size, partial(io.FileIO, path)))
            else:
                left_out += 1
    return members, left_out


def _as_zip(uri: str, stream: BinaryIO, workspace: Workspace) -> Fetched:
    """An archive as a zip: a zip as it is, a tar packed."""
    kind = archives.kind(stream, uri)
    if kind == "zip":
        return Fetched(uri, stream)
    if kind == "gzip":
        # Unpacked first: the members of a packed tar can't be read in another order than its own.
        tar = workspace.spool()
        archives.gunzip(stream, tar, uri, workspace.limit)
        stream = tar
    members, left_out = archives.tar_members(stream, uri)
    return _packed(uri, members, left_out, workspace)


def _packed(
    uri: str,
    members: list[Member],
    left_out: int,
    workspace: Workspace,
    reading: Callable[[Iterable[Member]], Iterable[Member]] = iter,
) -> Fetched:
    """`members` in the order of their names, packed."""
    if left_out:
        structlog.get_logger().warning("links and devices are left out", source=uri, left_out=left_out)
    if not members:
        raise _wrong(
            uri, "holds no file", "give a folder or archive that holds styles.csv and images/; links don't count"
        )
    total = sum(member.size for member in members)
    archives.refuse_excess(total, total, uri, workspace.limit)
    spool = workspace.spool()
    archives.pack(reading(sorted(members, key=lambda member: member.name)), spool, _meter(total))
    return Fetched(uri, spool, left_out)


def _meter(total: int) -> Callable[[int], None]:
    """A function to be told of bytes done, which reports every full megabyte of `total` bytes."""
    progress, done = Progress("MB", max(1, total // MB)), 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done // MB > (done - n) // MB:
            progress.reach(done // MB)

    return advance


@contextmanager
def _disk_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise _wrong(uri, f"may not be read: {error}", "give the user that runs this the right to read it") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        remedy = f"free space there or set TMPDIR to a larger disk (it is {tempfile.gettempdir()})"
        raise _wrong(uri, "doesn't fit on the disk", remedy) from None


def _wrong(source: str, found: str, remedy: str) -> UserError:
    return UserError(f"the source {source} {found}", where="LOOKALIKE_DATASET or --dataset", remedy=remedy)


if __name__ == "__main__":
    raise SystemExit(step.main("pull"))
