"""The lake: a URI (`file://` or `s3://`) that holds Delta tables and content-named files; the only maker of paths.

A table is written in two moves: `Lake.write_part` stores Parquet files that no reader sees, `Table.commit` makes
them visible in one Delta transaction. A part is named by its content, so work done again ends in the same table, and
a commit that would change nothing is none. Every commit carries the application transaction `lookalike`, numbered from
the snapshot it was computed on, so a commit from a stale snapshot is refused instead of doubling or undoing rows.

Three libraries speak to S3: pyarrow reads, boto3 writes and delta-rs keeps the log. Each repeats by itself, after a
random and growing wait, what failed by 5xx, slow-down, a broken connection or a timeout. `again` repeats the little
that they leave to their caller, and `reaching` tells what is left, as a user's mistake or as passing. On a local disk
a file is on the disk itself before it has its name, and so before a commit names it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from infra import disk
from infra.errors import StaleError, TransientError, UserError

TRANSACTION = "lookalike"
SETTING = "LOOKALIKE_LAKE"
"""The variable that chooses the lake."""
BUCKET = re.compile(r"[\w.-]+(/|$)")
LAKE = re.compile(r"file:///[^/?#][^?#]*|s3://[\w.-]+(/[^?#%]*)?")
ROW_GROUP = 2**18
"""Rows of a row group: a filter skips those it cannot match, and a read decodes several at once."""
OVERTAKEN = 10
"""Times that an overwrite is made once more because another writer came first."""
UPLOAD_PART = 16 * 2**20
"""Bytes of a part of a multipart upload: S3 takes 10,000 of them."""
READ_AHEAD = 2**20
"""Bytes that `Lake.reading` asks for at once: thousands of small images a request."""
ATTEMPTS = 10
"""Requests that each library makes before it gives up: with growing waits, for a minute or more."""
CONNECT_S, STALL_S = 10, 20
"""Seconds to connect, and without a byte, after which a request is made again."""
DELTA_S = 30
"""Seconds that a request of delta-rs may take in all: it reads and writes the log, which is small."""
REFUSALS = (
    *("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN"),
    *("AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
    *("INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT", "InvalidBucketName", "AllAccessDisabled"),
    *("REQUEST_TIME_TOO_SKEWED", "RequestTimeTooSkewed", "PermanentRedirect", "HTTP status 301", "InvalidToken"),
    *("(403)", "403 Forbidden", "Unable to locate credentials", "The config profile"),
)
"""What pyarrow, botocore and delta-rs write in the message of an error that trying again can't help."""
IDENTITY = (
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Variables that say which server is spoken to, and as whom."""


class UnreachedError(TransientError):
    """The object store failed, or could not be reached."""


again = Retrying(
    retry=retry_if_exception_type(UnreachedError),
    stop=stop_after_attempt(6) | stop_after_delay(30),
    wait=wait_random_exponential(multiplier=0.2, max=10),
    reraise=True,
)
"""Repeats what fails at once, since its library does not: of delta-rs, an answer cut short and a commit that got none;
of pyarrow (26.0), a read of fewer bytes than the text of the error that it was answered."""


@dataclass(frozen=True)
class Part:
    """A Parquet file written but not yet committed: its name within the table, bytes and rows."""

    path: str
    size: int
    rows: int


@dataclass(frozen=True)
class Lake:
    """A lake at `uri`; cheap to build, so tasks on workers build their own from the string.

    Raises:
        UserError: `uri` is no address of a place, or one that the libraries read in different ways.
    """

    uri: str

    def __post_init__(self) -> None:
        if not LAKE.fullmatch(self.uri) or "//" in self.uri.partition("://")[2]:
            raise UserError(
                f"the lake's address {self.uri!r} is none",
                where=SETTING,
                remedy="give file:///absolute/path, with three slashes, or s3://bucket/prefix, without # ? % and //",
            )

    @cached_property
    def _location(self) -> tuple[fs.FileSystem, str]:
        return filesystem(self.uri)

    @property
    def filesystem(self) -> fs.FileSystem:
        """The `pyarrow.fs` filesystem of the lake."""
        return self._location[0]

    def path(self, name: str) -> str:
        """Path of `name` on `filesystem`."""
        return f"{self._location[1]}/{name}"

    def table(self, name: str, version: int | None = None) -> Table:
        """Snapshot of table `name`: the newest version as of now, or `version`; an absent table has version -1."""
        if version is None:
            return Table(self, name).opened()
        return Table(self, name, version)

    def write_part(self, table: str, rows: pa.Table, **parquet: Any) -> Part:
        """Store `rows` as one Parquet file of `table`, named by its content: a retry writes the same file.

        `parquet` is how, where pyarrow's own choice of encodings is not the best.
        """
        sink = io.BytesIO()
        pq.write_table(rows, sink, row_group_size=ROW_GROUP, compression="zstd", compression_level=1, **parquet)
        data = sink.getbuffer()
        name = f"part-{hashlib.sha256(data).hexdigest()[:40]}.parquet"
        self.write_bytes(f"{table}/{name}", data)
        return Part(name, len(data), rows.num_rows)

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Store `data` as file `name`; readers see the whole file or none."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO | _Upload]:
        """A binary stream to write to; the file appears under `name` when the block ends without error."""
        if self.on_s3:
            with _uploaded(self.uri, *self.path(name).split("/", 1)) as upload:
                yield upload
        else:
            with self.using(), _renamed(Path(self.path(name))) as stream:
                yield stream

    @again.wraps
    def read_bytes(self, name: str) -> bytes:
        """Content of file `name`. Raises FileNotFoundError."""
        with self.using(), self.filesystem.open_input_file(self.path(name)) as stream:
            return stream.read()

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """A seekable binary stream of file `name`, read in place and far ahead. Raises FileNotFoundError."""

        @again.wraps
        def opened() -> pa.NativeFile:
            with self.using():
                return self.filesystem.open_input_file(self.path(name))

        with opened() as file, io.BufferedReader(_InPlace(self.uri, file), READ_AHEAD) as stream:
            yield stream

    @again.wraps
    def folders(self, name: str) -> list[str]:
        """Names of the folders in folder `name`, sorted; none where it is not there."""
        selector = fs.FileSelector(self.path(name), allow_not_found=True)
        with self.using():
            return sorted(info.base_name for info in self.filesystem.get_file_info(selector) if not info.is_file)

    @again.wraps
    def exists(self, name: str) -> bool:
        """Whether file `name` is stored."""
        with self.using():
            return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    @again.wraps
    def modified(self, name: str) -> dict[str, datetime]:
        """Name → time of the last change of every file below folder `name` (`""`: the lake); none where it is not."""
        selector = fs.FileSelector(self.path(name).rstrip("/"), allow_not_found=True, recursive=True)
        with self.using():
            infos = self.filesystem.get_file_info(selector)
        return {info.path[len(self.path("")) :]: info.mtime for info in infos if info.is_file}

    def delete(self, name: str) -> None:
        """Delete file `name`, if it is there."""
        if self.on_s3:
            bucket, key = self.path(name).split("/", 1)
            with reaching(self.uri):
                client().delete_object(Bucket=bucket, Key=key)
        else:
            with self.using():
                Path(self.path(name)).unlink(missing_ok=True)

    @property
    def on_s3(self) -> bool:
        """Whether it lies in an object store, rather than on a local disk."""
        return self.uri.startswith("s3://")

    @contextmanager
    def using(self) -> Iterator[None]:
        """Tell what the lake's place refuses by who must act: see `reaching` and `infra.disk`."""
        with reaching(self.uri) if self.on_s3 else disk.told(self._location[1], SETTING):
            yield

    def storage_options(self) -> dict[str, str]:
        """What delta-rs needs to reach the same place as `filesystem`."""
        if not self.on_s3:
            return {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        options = {"AWS_REGION": _region(), "aws_conditional_put": "etag", "max_retries": str(ATTEMPTS)}
        options |= {"connect_timeout": f"{CONNECT_S}s", "timeout": f"{DELTA_S}s"}
        if endpoint:
            options |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}
        return options


class _InPlace(io.RawIOBase):
    """A file of the lake for Python's own readers: a request a read."""

    def __init__(self, uri: str, file: pa.NativeFile) -> None:
        self._uri, self._file, self._at = uri, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size()}[whence]
        return self._at

    @again.wraps
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with reaching(self._uri):
            data = self._file.read_at(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def _renamed(target: Path) -> Iterator[BinaryIO]:
    """A stream to a file beside `target`, which takes that name when the block ends without error.

    Content reaches the disk before the name, and the name before a commit: a power cut leaves no committed file empty.
    """
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    _make_folder(target.parent)
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):  # what went wrong before is what must be told
            temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder with those above it, there to stay."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems, such as SMB, know no such thing for folders
            raise
    finally:
        os.close(opened)


@contextmanager
def _uploaded(uri: str, bucket: str, key: str) -> Iterator[_Upload]:
    """A stream to an object that appears when the block ends without error."""
    upload = _Upload(uri, bucket, key)
    try:
        yield upload
        upload.complete()
    except BaseException:
        with suppress(UserError, TransientError):  # what went wrong before is what must be told
            upload.abort()
        raise


class _Upload:
    """A multipart upload that can be given up; a pyarrow stream to S3 would publish what it has when collected.

    Memory holds two parts at most. Every part is sent with a checksum, which the server compares.
    """

    def __init__(self, uri: str, bucket: str, key: str) -> None:
        self._s3, self._uri = client(), uri
        self._object = {"Bucket": bucket, "Key": key}
        self._waiting, self._id, self._size = bytearray(), "", 0
        self._etags: list[dict[str, object]] = []

    def write(self, data: bytes | memoryview) -> None:
        """Take `data`; sends a part whenever enough is there."""
        self._waiting += data
        self._size += len(data)
        while len(self._waiting) >= UPLOAD_PART:
            self._send(bytes(self._waiting[:UPLOAD_PART]))
            del self._waiting[:UPLOAD_PART]

    def complete(self) -> None:
        """Send what is left and make the object visible."""
        if not self._id:
            self._call("put_object", Body=bytes(self._waiting))
            return
        if self._waiting:
            self._send(bytes(self._waiting))
        try:
            self._call("complete_multipart_upload", UploadId=self._id, MultipartUpload={"Parts": self._etags})
        except UnreachedError as error:
            # Where the answer got lost, a second request finds no upload to complete, but the object.
            if "NoSuchUpload" not in str(error) or self._call("head_object")["ContentLength"] != self._size:
                raise

    def abort(self) -> None:
        """Give up: no object appears, and the parts sent are freed."""
        if self._id:
            self._call("abort_multipart_upload", UploadId=self._id)

    def _send(self, part: bytes) -> None:
        self._id = self._id or str(self._call("create_multipart_upload")["UploadId"])
        number = len(self._etags) + 1
        sent = self._call("upload_part", UploadId=self._id, PartNumber=number, Body=part)
        self._etags.append({"ETag": sent["ETag"], "PartNumber": number})

    def _call(self, operation: str, **arguments: object) -> dict[str, object]:
        with reaching(self._uri):
            return getattr(self._s3, operation)(**self._object, **arguments)


@dataclass(frozen=True)
class Table:
    """A snapshot of a Delta table: what it held when `version` was looked up (or the version asked for)."""

    lake: Lake
    name: str
    asked: int | None = field(default=None)

    def __reduce__(self) -> tuple[type[Table], tuple[Lake, str, int]]:
        """Elsewhere, in the process of a worker, it is the same version, opened when it is needed."""
        return Table, (self.lake, self.name, self.version if self.asked is None else self.asked)

    def opened(self) -> Table:
        """This snapshot, looked up by now."""
        self._delta  # noqa: B018
        return self

    @cached_property
    def _delta(self):  # type: ignore[no-untyped-def]  # DeltaTable, imported late: it takes 0.2 s
        return None if self.asked == -1 else self._open()

    @again.wraps
    def _open(self):  # type: ignore[no-untyped-def]
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            with self.lake.using():
                return DeltaTable(self._uri, version=self.asked, storage_options=self.lake.storage_options())
        except DeltaError as error:
            if self.asked is not None:
                raise UserError(
                    f"the lake has no version {self.asked} of table {self.name!r} any more: {_said(error)}",
                    where=self._uri,
                    remedy="its log was cleaned up, or this is another lake: name a newer run, or run that one again",
                ) from error
            if not isinstance(error, TableNotFoundError):
                raise
            return None

    @property
    def _uri(self) -> str:
        return f"{self.lake.uri.rstrip('/')}/{self.name}"

    @property
    def version(self) -> int:
        """Version of the snapshot; -1 where the table does not exist."""
        return -1 if self._delta is None else self._delta.version()

    @cached_property
    def parts(self) -> list[str]:
        """Names of the committed Parquet files, sorted."""
        if self._delta is None:
            return []
        return sorted(uri.rsplit("/", 1)[1] for uri in self._delta.file_uris())

    @cached_property
    def content(self) -> str:
        """SHA-256 (hex) over the names of the parts, which follow from the rows, and the schema; empty where absent."""
        if self._delta is None:
            return ""
        described = json.dumps([self.parts, json.loads(self._delta.schema().to_json())], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the snapshot."""
        return pa.schema(self._delta.schema())

    def read(self, columns: list[str] | None = None, where: object = None) -> pa.Table:
        """The snapshot's rows in the order of `parts`; `where` is a `pyarrow.compute` expression or a DNF filter.

        Raises:
            UserError: the table does not exist.
        """
        if self._delta is None:
            raise UserError(
                f"the lake has no table {self.name!r}",
                where=self._uri,
                remedy="run `make refresh`, or set LOOKALIKE_LAKE to the lake that holds it",
            )
        tables = [self.read_part(part, columns, where) for part in self.parts]
        if tables:
            return pa.concat_tables(tables)
        empty = self.schema.empty_table()
        return empty.select(columns) if columns else empty

    @again.wraps
    def read_part(
        self, part: str, columns: list[str] | None = None, where: object = None, encoded: Sequence[str] = ()
    ) -> pa.Table:
        """Rows of one committed file; `encoded` are columns of text, as Parquet names them, that stay dictionaries."""
        path = self.lake.path(f"{self.name}/{part}")
        with self.lake.using(), self.lake.filesystem.open_input_file(path) as stream:
            return pq.read_table(stream, columns=columns, filters=where, read_dictionary=list(encoded))

    def iter_parts(self, columns: list[str] | None = None, encoded: Sequence[str] = ()) -> Iterator[pa.Table]:
        """One table a committed file, as `read_part` gives it: bounded memory for large tables."""
        for part in self.parts:
            yield self.read_part(part, columns, encoded=encoded)

    def commit(self, parts: Iterable[Part], schema: pa.Schema, *, run: str, mode: str = "overwrite") -> Table:
        """Make `parts` visible in one transaction and return the version that holds them: this one, if it does.

        An overwrite does not depend on what was there. So where another writer came first it is made once more, on top
        of that: each of two runs at once vouches for a version of its own, and the later one is the newest.

        Args:
            parts: what `Lake.write_part` returned, of rows of `schema`.
            schema: of the table from now on; an append may not change it.
            run: name of the run, for whoever reads the log.
            mode: `overwrite`, `append`, or `rewrite`: an overwrite that holds what was there, and so depends on it.

        Raises:
            StaleError: another writer committed since this snapshot was taken, and the rows depend on that, or
                others came first time and again; nothing was changed.
            ValueError: rows of another schema than the table has, or will have.
        """
        table, parts = self, list(parts)
        for _ in range(OVERTAKEN if mode == "overwrite" else 0):
            with suppress(StaleError):
                return table._commit(parts, schema, run, mode)
            table = self.lake.table(self.name)
        return table._commit(parts, schema, run, mode)

    def _commit(self, parts: Iterable[Part], schema: pa.Schema, run: str, mode: str) -> Table:
        from deltalake.exceptions import DeltaError

        change = self._change({part.path: part for part in parts}, schema, mode)
        if not change:
            return Table(self.lake, self.name, self.version)
        attempt = uuid.uuid4().hex

        @again.wraps
        def send() -> None:
            try:
                with self.lake.using():
                    self._send(change, {"run": run, "attempt": attempt})
            except (TransientError, DeltaError) as error:
                if not self._landed(attempt, run, error):
                    raise

        send()
        self._settle(self.version + 1)
        return Table(self.lake, self.name, self.version + 1)

    def _change(self, wanted: dict[str, Part], schema: pa.Schema, mode: str) -> _Change | None:
        """What a commit must write for the table to hold `wanted`; nothing where it does.

        No path may be both added and removed in one version: readers disagree about what is left of it. So parts that
        stay are not named, and delta-rs is told what goes; its own overwrite would remove all, and add them anew.
        """
        from deltalake import Schema

        fields, present = Schema.from_arrow(schema), set(self.parts)
        added = [wanted[path] for path in sorted(wanted.keys() - present)]
        if self._delta is None:
            return _Change(fields, added)
        if fields != self._delta.schema():
            if mode == "append" or present & wanted.keys():
                raise ValueError(f"rows of another schema than table {self.name!r} has are no part of it: {schema}")
            return _Change(fields, added, replaces=True)
        gone = [] if mode == "append" else sorted(present - wanted.keys())
        return _Change(fields, added, gone) if added or gone else None

    def _send(self, change: _Change, about: dict[str, str]) -> None:
        from deltalake import CommitProperties, PostCommitHookProperties, Transaction
        from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

        now = int(time.time() * 1000)
        added = [
            AddAction(part.path, part.size, {}, now, True, json.dumps({"numRecords": part.rows}))
            for part in change.added
        ]
        gone = [RemoveAction(path, True, now, partition_values={}) for path in change.gone]
        how: dict[str, Any] = {
            "commit_properties": CommitProperties(
                custom_metadata=about,
                app_transactions=[Transaction(TRANSACTION, self.version + 1)],
                max_commit_retries=0,
            ),
            # The log is what older runs are read by: only maintenance may delete of it, and steps need no right to.
            "post_commithook_properties": PostCommitHookProperties(cleanup_expired_logs=False),
        }
        if self._delta is not None:
            mode = "overwrite" if change.replaces else "append"
            self._delta.create_write_transaction([*added, *gone], mode, change.schema, **how)
            return
        create_table_with_add_actions(
            self._uri,
            change.schema,
            added,
            mode="error",
            name=self.name,
            storage_options=self.lake.storage_options(),
            **how,
        )

    def _landed(self, attempt: str, run: str, error: Exception) -> bool:
        """Whether a commit that ended in `error` was made all the same: its answer may have got lost.

        Raises:
            StaleError: another writer's commit is in its place.
        """
        newest = self.lake.table(self.name)
        if newest.version <= self.version:
            return False
        if self._attempt(self.version + 1) == attempt:
            return True
        raise StaleError(
            f"table {self.name!r} went from version {self.version} to {newest.version} while run {run} worked on it"
            "; nothing of this attempt was committed, and the next attempt will use what is there: let the step run "
            "again, and see that no two runs work on one lake at once if this repeats"
        ) from error

    def _log(self, version: int) -> str:
        return f"{self.name}/_delta_log/{version:020d}.json"

    def _settle(self, version: int) -> None:
        """Wait until the log of a version is on the disk: what is told of it from now on must stay true."""
        if not self.lake.on_s3:
            log = Path(self.lake.path(self._log(version)))
            with self.lake.using():
                for path in (log, log.parent, log.parent.parent):
                    _sync(path)

    def _attempt(self, version: int) -> str:
        """Mark of the attempt that committed `version` just now; empty where the log has none of it."""
        try:
            log = self.lake.read_bytes(self._log(version))
        except FileNotFoundError:
            return ""
        actions = [json.loads(line) for line in log.splitlines()]
        return next((action["commitInfo"].get("attempt", "") for action in actions if "commitInfo" in action), "")


@dataclass(frozen=True)
class _Change:
    """What a commit adds and removes, and the schema (deltalake's); `replaces`: it removes all that was there."""

    schema: Any
    added: list[Part]
    gone: list[str] = field(default_factory=list)
    replaces: bool = False


def _region() -> str:
    return os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Tell failures of an object store at `uri` by who must act; errors of a local folder pass (see `infra.disk`).

    Raises:
        UserError: the store refused (no such bucket, no or wrong credentials, no permission).
        TransientError: it could not be reached or failed.
    """
    try:
        yield
    except Exception as error:
        if not uri.startswith("s3://") or not _of_object_store(error):
            raise
        said = _said(error)
        if not any(sign in said for sign in REFUSALS):
            raise UnreachedError(f"{uri} could not be reached: {said}") from error
        raise UserError(
            f"{uri} was refused: {said}",
            where=uri,
            remedy="check the bucket's name, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), "
            "what they may do, AWS_REGION and AWS_ENDPOINT_URL",
        ) from error


def _of_object_store(error: Exception) -> bool:
    """Whether it is pyarrow's, delta-rs' or botocore's; the last are told by module, so that reading needs no boto3."""
    signs = ("AWS Error", "Generic S3 error", "Error performing")
    return type(error).__module__.startswith(("boto", "s3transfer")) or any(sign in str(error) for sign in signs)


def _said(error: Exception) -> str:
    """The message of an error in one line, or the server's XML in it."""
    text = disk.one_line(error)
    if "169.254.169.254" in text:
        return "Unable to locate credentials"
    answered = re.search(r"<Code>(.*?)</Code>(?:<Message>(.*?)</Message>)?", text)
    return text if answered is None else f"{answered[1]}: {answered[2] or text[: answered.start()]}"


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of a `file://` or `s3://` URI.

    Raises:
        UserError: another scheme, no absolute path, no bucket, or a key that pyarrow refuses.
    """
    scheme, _, place = uri.partition("://")
    path = place.rstrip("/")
    if scheme.lower() == "file" and place.startswith("/"):
        return fs.LocalFileSystem(), unquote(path)
    if scheme.lower() == "s3" and BUCKET.match(path) and "//" not in path:
        s3 = fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL") or None,
            region=_region(),
            connect_timeout=CONNECT_S,
            request_timeout=STALL_S,  # on Linux too: curl's time without a byte
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )
        return s3, path
    raise UserError(
        f"{uri!r} is not a place this pipeline can use",
        where="LOOKALIKE_LAKE or the data set",
        remedy="use file:///absolute/path or s3://bucket/prefix",
    )


def client() -> Any:  # boto3 has no types
    return _client_of(tuple(os.environ.get(name) for name in IDENTITY))


@lru_cache(maxsize=4)
def _client_of(identity: tuple[str | None, ...]) -> Any:
    """Made once a process and identity: it takes longer than a request, and is safe to share between threads."""
    import boto3  # 0.3 s, and only what writes to S3 or pulls from it needs it
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(retries=retries, connect_timeout=CONNECT_S, read_timeout=STALL_S)
    return boto3.session.Session().client("s3", region_name=_region(), config=config)
