"""Objects of an S3 store that a person names: one, one version of it, or all below a prefix.

Keys are taken as they are written, and so by boto3: pyarrow refuses some and mends others.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from infra.errors import TransientError
from infra.lake import ATTEMPTS, BUCKET, UnreachedError, again, client, reaching

DOWNLOAD_PART, DOWNLOADS = 8 * 2**20, 4
"""Bytes that a download asks for at once, and how many such requests are under way."""
VERSION = "?versionId="
"""Ends an address with the version of the object that is meant."""

NO_VERSION = "null"
"""Version of an object of a bucket that keeps none."""


@dataclass(frozen=True)
class Place:
    """An object, or what lies below a prefix; `version` is empty where the newest is meant."""

    bucket: str
    key: str
    version: str = ""

    @classmethod
    def of(cls, uri: str) -> Place:
        """The place at an `s3://` address: `#`, `?`, `%` and `//` are of the key.

        Raises:
            ValueError: it names no bucket.
        """
        bucket, _, path = uri.partition("://")[2].partition("/")
        if not BUCKET.fullmatch(bucket):
            raise ValueError("names no bucket")
        key, found, version = path.rpartition(VERSION)
        return cls(bucket, key, version) if found else cls(bucket, path)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}{VERSION * bool(self.version)}{self.version}"

    @property
    def prefix(self) -> str:
        """How the keys below it begin."""
        return self.key and self.key.removesuffix("/") + "/"

    @property
    def names(self) -> dict[str, str]:
        """What boto3 is told of it."""
        version = {"VersionId": self.version} if self.version else {}
        return {"Bucket": self.bucket, "Key": self.key, **version}


def find(place: Place) -> tuple[Place, int] | None:
    """The object and its bytes; None where there is none. Raises as `reaching` does."""
    if found := _head(place):
        return place, int(found["ContentLength"])
    if place.version != NO_VERSION:
        return None
    newest = replace(place, version="")  # not every server knows by that name what it keeps no versions of
    found = _head(newest)
    return (newest, int(found["ContentLength"])) if found and found.get("VersionId", NO_VERSION) == NO_VERSION else None


def _head(place: Place) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    # What the store answers to a version that it never gave, or that is a deletion.
    absent = (400, 404, 405) if place.version else (404,)
    with reaching(str(place)):
        try:
            return client().head_object(**place.names)  # type: ignore[no-any-return]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in absent:
                raise
    return None


def below(place: Place) -> list[tuple[Place, int]]:
    """The objects below a prefix, with their bytes; none where it is not there. Raises as `reaching` does."""
    from botocore.exceptions import ClientError

    with reaching(str(place)):
        try:
            pages = list(client().get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix))
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise
            pages = []
    listed = [item for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
    return [(Place(place.bucket, item["Key"]), int(item["Size"])) for item in listed]


def read(place: Place, most: int) -> bytes:
    """The first `most` bytes of an object.

    Raises:
        FileNotFoundError: there is none. Else as `reaching` and `Stream` do.
    """
    met = find(place)
    if met is None:
        raise FileNotFoundError(str(place))
    place, size = met
    return Stream(place, size).read(min(size, most)) or b""


def read_changed(place: Place, most: int, etag: str) -> tuple[bytes | None, str]:
    """The first `most` bytes of an object and its ETag; no bytes where that is `etag` still.

    Raises:
        FileNotFoundError: there is none. Else as `reaching` does.
    """
    from botocore.exceptions import ClientError

    unless = {"IfNoneMatch": etag} if etag else {}
    with reaching(str(place)):
        try:
            answer = client().get_object(**place.names, **unless)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 304:
                return None, etag
            if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchVersion", "404"):
                raise FileNotFoundError(str(place)) from None
            raise
        with closing(answer["Body"]) as body:
            data = body.read(most)
    if len(data) != min(most, answer["ContentLength"]):
        raise UnreachedError(f"{place} broke off after {len(data):,} of {answer['ContentLength']:,} bytes")
    return data, answer.get("ETag", "")


def download(place: Place, sink: BinaryIO, advance: Callable[[int], None]) -> None:
    """Copy an object into a file, in pieces: one that breaks off is fetched again, alone.

    `advance` is told the bytes as they come.

    Raises:
        UserError: the store refused.
        TransientError: it could not be reached, or the object changed meanwhile.
    """
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(
        multipart_chunksize=DOWNLOAD_PART, max_concurrency=DOWNLOADS, num_download_attempts=ATTEMPTS
    )
    version = {"VersionId": place.version} if place.version else {}
    with reaching(str(place)):
        client().download_fileobj(place.bucket, place.key, sink, ExtraArgs=version, Callback=advance, Config=config)


class Stream(io.RawIOBase):
    """The bytes of an object of `size`, from its beginning: a request a read."""

    def __init__(self, place: Place, size: int) -> None:
        self._place, self._size, self._at = place, size, 0

    def readable(self) -> bool:
        return True

    @again.wraps
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises TransientError where the object has another size by now."""
        end = min(self._at + len(buffer), self._size)
        if self._at == end:
            return 0
        with reaching(str(self._place)):
            answer = client().get_object(**self._place.names, Range=f"bytes={self._at}-{end - 1}")
            data = answer["Body"].read()
        if not re.search(f"/{self._size}$", answer.get("ContentRange", "")):
            raise TransientError(f"{self._place} changed while it was read; it had {self._size:,} bytes")
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
