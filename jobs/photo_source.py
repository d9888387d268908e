"""Where photos from elsewhere come from: a folder, or a table that names them, local or `s3://`.

In a folder every file counts, in subfolders too; a CSV or Parquet table has a column `image`: a path, relative to the
table, a URI, or (Parquet) a photo's bytes. Its other columns are filters of that photo, in the words of `jobs.filters`,
`exclude` the ids of products that it is not to be given, or empty.
`photos?gender=Men,Unisex&baseColour!=Yellow&exclude=123,456&k=20` is the same for all photos, and asks for 20 products
each. Whoever wrote the table need not be who runs a step, so what it names must lie in its own folder or below
`LOOKALIKE_PHOTO_ROOTS`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from infra import objects
from infra.errors import UserError
from infra.objects import VERSION, Place
from infra.places import absolute, local, shown
from jobs.filters import Filters, join, read, read_ids, write
from jobs.serve import search as serving
from ml.images import ImageError

K_MAX = 100
REJECTS = pa.schema([(name, pa.string()) for name in ("image", "reason", "detail")])
"""Photos of a source that have no answer, and why."""


@dataclass(frozen=True)
class Photo:
    """A photo to search for: its name in the source, the filters, and the products that are left out.

    `content` is its bytes where the source itself holds them, or why its row cannot be used.
    """

    name: str
    filters: Filters
    content: bytes | ImageError | None = None
    exclude: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name as it may be stored: an address may hold a signature."""
        name = shown(self.name).replace("\0", "\N{REPLACEMENT CHARACTER}")
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a file's name may be any bytes


@dataclass(frozen=True)
class Root:
    """A folder that photos may lie in: `file` and its path without links, or `s3` and the bucket with the prefix."""

    scheme: str
    path: str

    @classmethod
    def of(cls, uri: str) -> Root:
        """The folder of a URI."""
        if uri.startswith("s3://"):
            place = _object(uri)
            return cls("s3", f"{place.bucket}/{place.prefix}".removesuffix("/"))
        return cls("file", os.path.realpath(local(uri)).rstrip("/"))


@dataclass(frozen=True)
class Source:
    """What is asked, and where the photos may lie: names are relative to the first of `roots`, or lead into one."""

    photos: list[Photo]
    k: int
    roots: tuple[Root, ...]

    def read(self, name: str, most: int) -> bytes:
        """A photo's bytes, at most `most` of them.

        Raises:
            ImageError: the name leads out of `roots`, whatever is there.
            OSError, ValueError: it cannot be read.
        """
        scheme, path = self._locate(name)
        if scheme == "s3":
            return objects.read(Place.of(f"s3://{path}"), most)
        if not os.path.isfile(path):  # a pipe would be waited for
            raise FileNotFoundError(path)
        with open(path, "rb") as stream:
            return stream.read(most)

    def _locate(self, name: str) -> tuple[str, str]:
        """Scheme and path of a photo that lies in one of the roots, links followed."""
        scheme, is_uri, path = name.partition("://")
        if not is_uri:
            own = self.roots[0]
            scheme, path = ("file", name) if name.startswith("/") else (own.scheme, f"{own.path}/{name}")
        elif scheme.lower() == "file":
            scheme, path = "file", unquote(path)
        if "\0" in path:
            raise ImageError("no path", "a path has no zero byte")
        inside = ".." not in path.split("/")
        if scheme == "file":
            inside, path = inside and path.startswith("/"), os.path.realpath(path)
        for root in self.roots:
            if inside and root.scheme == scheme.lower() and path.startswith(f"{root.path}/"):
                return root.scheme, path
        raise ImageError("outside the folder", "photos may lie in their table's folder or below LOOKALIKE_PHOTO_ROOTS")


def open_source(dataset: str, fields: tuple[str, ...], photo_roots: tuple[str, ...] = ()) -> Source:
    """The photos that a folder or table names; what a table names may also lie below `photo_roots` (paths, URIs).

    Raises:
        UserError: there is no such place, it names no photo, or a column or filter is unknown.
    """
    uri, query, there = _resolve(dataset)
    if lacking := [part for part in query.split("&") if part and "=" not in part]:
        raise UserError(
            f"{lacking[0]!r} asks for nothing", where=uri, remedy="write ?field=value, or ?field= for those without one"
        )
    pairs = parse_qsl(query, keep_blank_values=True)
    of_all = {name: [text for asked, text in pairs if asked == name] for name in ("k", "exclude")}
    k = _k(of_all["k"], uri)
    if isinstance(there, bytes):
        table = uri.partition(VERSION)[0] if uri.startswith("s3://") else uri
        folder, (columns, photos) = table.rpartition("/")[0], _photos_of_table(table, there)
    else:
        folder, columns, photos = uri, [], there
    if any(photo.name.startswith("_delta_log/") for photo in photos):
        raise UserError(
            "it is a Delta table, and photos are read from folders, CSV and Parquet files",
            where=uri,
            remedy='write it as one file: DeltaTable("…").to_pandas().to_parquet("photos.parquet")',
        )
    if not photos:
        raise UserError("it names no photo", where=uri, remedy="give a folder of images or a table with their paths")
    names = [name for name, _ in pairs if name not in of_all]
    known = {"exclude", *fields, *(f"{field}!" for field in fields)}
    if unknown := [name for name in [*columns, *names] if name not in known]:
        raise UserError(
            f"{unknown[0]!r} is neither `image` nor a field that a filter may name",
            where=uri,
            remedy=f"known fields: {', '.join(fields)}",
        )
    filters = read([pair for pair in pairs if pair[0] not in of_all], uri)
    exclude = read_ids(of_all["exclude"], uri)
    asked = [
        replace(photo, filters={**filters, **photo.filters}, exclude=(*exclude, *photo.exclude)) for photo in photos
    ]
    return Source(asked, k, tuple(Root.of(_uri(root)) for root in (folder, *photo_roots)))


def _k(given: Sequence[str], uri: str) -> int:
    k = given[0] if given else str(serving.K)
    if len(given) > 1 or not (k.isascii() and k.isdigit() and 1 <= int(k) <= K_MAX):
        raise UserError(
            f"k={','.join(given)!r} is no number of 1 to {K_MAX}", where=uri, remedy="write ?k=20 for 20 products"
        )
    return int(k)


def dataset_of(photos: str, filters: Filters, k: int, exclude: Sequence[str] = ()) -> str:
    """What `--dataset` is to be for `k` products to each of some photos, of those that pass and are not left out."""
    left_out = [("exclude", join(exclude))] if exclude else []
    return f"{photos}?{urlencode([*write(filters), *left_out, ('k', k)], safe=',')}"


def _resolve(dataset: str) -> tuple[str, str, bytes | list[Photo]]:
    """What `dataset` names: the URI of its place, what follows the question mark, and what is there, as `_read_place`.

    A path or a key goes as far as there is one, as it may have question marks, too.
    """
    first = dataset.partition("?")[0]
    if not _uri(first).startswith(("file://", "s3://")):
        raise UserError(
            "photos are read from folders and s3:// alone", where=_uri(first), remedy="copy them into a folder first"
        )
    marks = [len(first) + mark.start() for mark in re.finditer("[?&]", dataset[len(first) :])]
    for at in [len(dataset), *reversed(marks)]:
        try:
            if (there := _read_place(_uri(dataset[:at]))) is not None:
                return _uri(dataset[:at]), dataset[at + 1 :], there
        except UserError:
            if at == len(first):
                raise  # before: whoever may not list is refused where there is no such key
    raise UserError("there is no such folder or table of photos", where=_uri(first), remedy="give one that exists")


def _twice(names: Sequence[str]) -> str | None:
    """The first of the names that comes a second time."""
    return next((name for at, name in enumerate(names) if name in names[:at]), None)


def _uri(place: str) -> str:
    if "://" not in place:
        return Path(absolute(place)).resolve().as_uri()
    scheme, mark, rest = shown(place).partition("://")
    return f"{scheme.lower()}{mark}{rest}"


def _object(uri: str) -> Place:
    try:
        return Place.of(uri)
    except ValueError as error:
        raise UserError(f"the address {error}", where=uri, remedy="write s3://bucket/prefix") from None


def _read_place(uri: str) -> bytes | list[Photo] | None:
    """The bytes of the table at a URI, or the photos of the folder; None where there is neither."""
    if uri.startswith("s3://"):
        place = _object(uri)
        if place.key and not place.key.endswith("/"):  # so end those that consoles write for a folder
            with suppress(FileNotFoundError):
                return objects.read(place, sys.maxsize)
        keys = sorted(listed.key for listed, _ in objects.below(place))
        return [Photo(_name(place, key), {}) for key in keys] or None
    path = local(uri)
    if os.path.isdir(path):
        return sorted(_files_below(path), key=lambda photo: photo.name)
    if not os.path.isfile(path):  # a pipe or a device may have no end
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"the table cannot be read: {error.strerror}", where=uri, remedy="let this user read it"
        ) from None


def _name(folder: Place, key: str) -> str:
    """The name of a key in its folder; as an address, where it would be read as one or as a path by itself."""
    name = key.removeprefix(folder.prefix)
    return f"s3://{folder.bucket}/{key}" if name.startswith("/") or "://" in name else name


def _files_below(folder: str) -> Iterator[Photo]:
    """The files of a local folder; links are followed, to each folder once. (pyarrow knows names in UTF-8 alone.)"""
    met, unread = set[str](), list[OSError]()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=unread.append):
        if (real := os.path.realpath(place)) in met:
            folders.clear()
            continue
        met.add(real)
        for path in (os.path.join(place, name) for name in names):
            if os.path.isfile(path) or os.path.islink(path):  # one that leads nowhere is a reject
                yield Photo(os.path.relpath(path, folder), {})
    for error in unread:
        yield Photo(os.path.relpath(error.filename, folder), {}, ImageError("cannot be read", error.strerror or ""))


def _photos_of_table(uri: str, data: bytes) -> tuple[list[str], list[Photo]]:
    """Its columns but `image`, and its photos."""
    try:
        if uri.lower().endswith(".parquet"):
            file = pq.ParquetFile(io.BytesIO(data))
            columns, rows = file.schema_arrow.names, file.read().to_pylist()
        elif uri.lower().endswith(".csv"):
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), restval="", strict=True)
            columns, rows = list(reader.fieldnames or ()), list(reader)
        else:
            raise ValueError("its name does not end in .csv or .parquet")
        if twice := _twice(columns):
            raise ValueError(f"it has two columns {twice}")
        if rows and ("image" not in rows[0] or None in rows[0]):
            raise ValueError(f"it has no column image, or rows longer than its header: {', '.join(map(str, rows[0]))}")
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise UserError(
            f"it is no table of photos: {error}",
            where=uri,
            remedy="give a folder, or a CSV or Parquet table with the column image",
        ) from None
    return [name for name in columns if name != "image"], [_photo(row, number) for number, row in enumerate(rows, 1)]


def _photo(row: dict, number: int) -> Photo:
    """A row of a table; whatever it holds, it is a photo or says why it is none."""
    image, name = row.pop("image"), f"row {number}"
    if isinstance(image, dict):  # bytes and path, as the library datasets writes them
        path, content = image.get("path"), image.get("bytes")
        name = path if isinstance(path, str) and path else name
        image = path if content is None else content
    if None in row:
        return Photo(name, {}, ImageError("too many fields", "the row is longer than the header"))
    texts = {field: text for field, value in row.items() if (text := _text(value))}
    if any("\0" in text for text in texts.values()):
        return Photo(name, {}, ImageError("zero byte", "no field has a value with a zero byte"))
    try:
        exclude = tuple(read_ids([texts.pop("exclude", "")], name))
        filters = read(texts.items(), name)
    except UserError as error:
        return Photo(name, {}, ImageError("wrong filter", error.problem))
    if not image and not isinstance(image, bytes):
        return Photo(name, filters, ImageError("no path", "the column image is empty"))
    if isinstance(image, bytes):
        return Photo(name, filters, image, exclude)
    if not isinstance(image, str):
        wrong = f"the column image holds {type(image).__name__}, neither a path nor bytes"
        return Photo(name, filters, ImageError("no path", wrong))
    return Photo(image, filters, None, exclude)


def _text(value: object) -> str:
    """A field as a CSV has it: of Parquet's lists the values, of whole numbers that gaps made floats the numbers."""
    if isinstance(value, list):
        return join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or value != value else str(value)


def read_photo(source: Source, photo: Photo, most: int) -> bytes | ImageError:
    """A photo's bytes, at most `most` of them, or why it has none."""
    if photo.content is not None:
        return photo.content
    try:
        return source.read(photo.name, most)
    except ImageError as error:
        return error
    except FileNotFoundError:
        return ImageError("missing file", "there is no such file")
    except UserError as error:  # the table, in the same place, could be read
        return ImageError("may not be read", error.problem)
    except (OSError, ValueError) as error:
        return ImageError("cannot be read", str(error))
