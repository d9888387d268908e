"""The lake: a URI (`file://` or `s3://`) that holds Delta tables and content-named files; the only maker of paths.

A table is written in two moves: `Lake.write_part` stores Parquet files that no reader sees, `Table.commit` makes
them visible in one Delta transaction. Every commit carries the application transaction `lookalike`, numbered from
the snapshot it was computed on, so a commit from a stale snapshot is refused instead of doubling or undoing rows.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from infra.errors import TransientError, UserError

TRANSACTION = "lookalike"
UPLOAD_PART = 16 * 2**20
"""Bytes of a part of a multipart upload: S3 takes 10,000 of them."""
REFUSALS = (
    *("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN"),
    *("AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
    *("(403)", "Unable to locate credentials", "INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT"),
)
"""What pyarrow and botocore write in the message of an error that trying again can't help."""


@dataclass(frozen=True)
class Part:
    """A Parquet file written but not yet committed: its name within the table, bytes and rows."""

    path: str
    size: int
    rows: int


@dataclass(frozen=True)
class Lake:
    """A lake at `uri`; cheap to build, so tasks on workers build their own from the string."""

    uri: str

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
        """Snapshot of table `name`: the newest version, or `version`; an absent table has version -1."""
        return Table(self, name, version)

    def write_part(self, table: str, rows: pa.Table, salt: str) -> Part:
        """Store `rows` as one Parquet file of `table`, named by `salt` and content: a retry writes the same file."""
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd", compression_level=1)
        data = sink.getbuffer()
        name = f"part-{hashlib.sha256(salt.encode() + data).hexdigest()[:40]}.parquet"
        self.write_bytes(f"{table}/{name}", data)
        return Part(name, len(data), rows.num_rows)

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Store `data` as file `name`; readers see the whole file or none."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile | _Upload]:
        """A binary stream to write to; the file appears under `name` when the block ends without error."""
        path = self.path(name)
        if self.uri.startswith("s3://"):
            with _uploaded(self.uri, *path.split("/", 1)) as upload:
                yield upload
        else:
            with _renamed(self.filesystem, path) as stream:
                yield stream

    def read_bytes(self, name: str) -> bytes:
        """Content of file `name`. Raises FileNotFoundError."""
        with reaching(self.uri), self.filesystem.open_input_file(self.path(name)) as stream:
            return stream.read()

    def folders(self, name: str) -> list[str]:
        """Names of the folders in folder `name`, sorted; none where it is not there."""
        selector = fs.FileSelector(self.path(name), allow_not_found=True)
        with reaching(self.uri):
            return sorted(info.base_name for info in self.filesystem.get_file_info(selector) if not info.is_file)

    def exists(self, name: str) -> bool:
        """Whether file `name` is stored."""
        with reaching(self.uri):
            return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def storage_options(self) -> dict[str, str]:
        """What delta-rs needs to reach the same place as `filesystem`."""
        if not self.uri.startswith("s3://"):
            return {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        options = {"AWS_REGION": _region()}
        if endpoint:
            options |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}
        return options | {"aws_conditional_put": "etag"}


@contextmanager
def _renamed(files: fs.FileSystem, target: str) -> Iterator[pa.NativeFile]:
    """A stream to a file beside `target`, which takes that name when the block ends without error."""
    temporary = f"{target}.{os.getpid()}-{time.monotonic_ns()}.tmp"
    files.create_dir(target.rsplit("/", 1)[0], recursive=True)
    try:
        with files.open_output_stream(temporary) as stream:
            yield stream
        files.move(temporary, target)
    except BaseException:
        if files.get_file_info(temporary).is_file:
            files.delete_file(temporary)
        raise


@contextmanager
def _uploaded(uri: str, bucket: str, key: str) -> Iterator[_Upload]:
    """A stream to an object that appears when the block ends without error."""
    upload = _Upload(uri, bucket, key)
    try:
        yield upload
        upload.complete()
    except BaseException:
        upload.abort()
        raise


class _Upload:
    """A multipart upload that can be given up; a pyarrow stream to S3 would publish what it has when collected."""

    def __init__(self, uri: str, bucket: str, key: str) -> None:
        import boto3  # 0.3 s, and only writers to S3 need it

        self._s3, self._uri = boto3.client("s3", region_name=_region()), uri
        self._object = {"Bucket": bucket, "Key": key}
        self._waiting, self._id = bytearray(), ""
        self._etags: list[dict[str, object]] = []

    def write(self, data: bytes | memoryview) -> None:
        """Take `data`; sends a part whenever enough is there."""
        self._waiting += data
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
        self._call("complete_multipart_upload", UploadId=self._id, MultipartUpload={"Parts": self._etags})

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

    @cached_property
    def _delta(self):  # type: ignore[no-untyped-def]  # DeltaTable, imported late: it takes 0.2 s
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self._uri, version=self.asked, storage_options=self.lake.storage_options())
        except TableNotFoundError:
            return None

    @property
    def _uri(self) -> str:
        return f"{self.lake.uri.rstrip('/')}/{self.name}"

    @property
    def version(self) -> int:
        """Version of the snapshot; -1 where the table does not exist."""
        return -1 if self._delta is None else self._delta.version()

    @cached_property
    def _commit_info(self) -> dict[str, str]:
        # Read from the log itself: DeltaTable.history begins at the newest version, whichever was asked for.
        if self._delta is None:
            return {}
        log = self.lake.read_bytes(f"{self.name}/_delta_log/{self.version:020d}.json")
        return next((json.loads(line)["commitInfo"] for line in log.splitlines() if b'"commitInfo"' in line[:20]), {})

    @property
    def fingerprint(self) -> str:
        """Fingerprint that this version was committed with; empty where the table does not exist."""
        return self._commit_info.get("fingerprint", "")

    @cached_property
    def figures(self) -> dict[str, object]:
        """Figures that this version was committed with (rows, counts, measurements of the step)."""
        return json.loads(self._commit_info.get("figures", "{}"))

    @cached_property
    def parts(self) -> list[str]:
        """Names of the committed Parquet files, sorted."""
        if self._delta is None:
            return []
        return sorted(uri.rsplit("/", 1)[1] for uri in self._delta.file_uris())

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

    def read_part(self, part: str, columns: list[str] | None = None, where: object = None) -> pa.Table:
        """Rows of one committed file."""
        path = self.lake.path(f"{self.name}/{part}")
        with reaching(self.lake.uri):
            return pq.read_table(path, filesystem=self.lake.filesystem, columns=columns, filters=where)

    def iter_parts(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One table a committed file: bounded memory for large tables."""
        for part in self.parts:
            yield self.read_part(part, columns)

    def commit(
        self,
        parts: Iterable[Part],
        schema: pa.Schema,
        *,
        run: str,
        fingerprint: str,
        mode: str = "overwrite",
        figures: dict[str, object] | None = None,
    ) -> Table:
        """Make `parts` visible in one transaction and return the new snapshot; `mode` is `overwrite` or `append`.

        Raises:
            TransientError: another writer committed since this snapshot was taken; nothing was changed.
        """
        from deltalake import CommitProperties, Schema, Transaction
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import AddAction, create_table_with_add_actions

        now = int(time.time() * 1000)
        actions = [
            AddAction(part.path, part.size, {}, now, True, json.dumps({"numRecords": part.rows}))
            for part in sorted(set(parts), key=lambda part: part.path)
        ]
        properties = CommitProperties(
            custom_metadata={"run": run, "fingerprint": fingerprint, "figures": json.dumps(figures or {})},
            app_transactions=[Transaction(TRANSACTION, self.version + 1)],
            max_commit_retries=0,
        )
        try:
            if self._delta is None:
                create_table_with_add_actions(
                    self._uri,
                    Schema.from_arrow(schema),
                    actions,
                    mode="error",
                    name=self.name,
                    storage_options=self.lake.storage_options(),
                    commit_properties=properties,
                )
            else:
                self._delta.create_write_transaction(actions, mode, schema, commit_properties=properties)
        except (CommitFailedError, DeltaError) as error:
            newest = self.lake.table(self.name)
            if newest.version <= self.version:
                raise
            raise TransientError(
                f"table {self.name!r} went from version {self.version} to {newest.version} while run {run} worked on it"
                "; nothing of this attempt was committed, and the next attempt will use what is there"
            ) from error
        return self.lake.table(self.name)


def _region() -> str:
    return os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Tell failures of an object store at `uri` by who must act; errors of a local folder pass as they are.

    Raises:
        UserError: the store refused (no such bucket, no or wrong credentials, no permission).
        TransientError: it could not be reached or failed.
    """
    try:
        yield
    except Exception as error:
        # pyarrow says "AWS Error"; botocore's errors are told by their module, so that reading needs no boto3.
        if not uri.startswith("s3://") or not ("AWS Error" in str(error) or type(error).__module__.startswith("boto")):
            raise
        refused = next((sign for sign in REFUSALS if sign in str(error)), None)
        if refused is None:
            raise TransientError(f"{uri} could not be reached: {error}") from error
        raise UserError(
            f"{uri} was refused: {error}",
            where=uri,
            remedy="check the bucket's name, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), "
            "what they may do, AWS_REGION and AWS_ENDPOINT_URL",
        ) from error


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of a `file://` or `s3://` URI.

    Raises:
        UserError: another scheme.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return fs.LocalFileSystem(), unquote(parsed.path).rstrip("/")
    if parsed.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
        s3 = fs.S3FileSystem(
            endpoint_override=endpoint,
            region=_region(),
            allow_bucket_creation=False,
        )
        return s3, f"{parsed.netloc}{parsed.path}".rstrip("/")
    raise UserError(
        f"{uri!r} is not a place this pipeline can use",
        where="LOOKALIKE_LAKE or the data set",
        remedy="use file:///absolute/path or s3://bucket/prefix",
    )
