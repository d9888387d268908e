"""Archives of unknown origin: what is unsafe to unpack is refused, everything else becomes one deterministic zip.

Nothing is extracted to a path and no link is followed; memory stays bounded whatever an archive declares. The names of
members are kept as they are, so that who reads the zip can reject the bad ones one by one.
"""

from __future__ import annotations

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from infra.errors import TransientError, UserError

CHUNK = 2**20
RATIO_MAX, RATIO_FROM = 200, 64 * 2**20
"""Unpacked bytes a packed byte that no catalogue reaches (deflate itself ends at 1,032), and from which size on."""
HEADER_MAX = 2**20
"""Largest tar header (a long name, PAX records), in bytes: `tarfile` reads one into memory whatever it declares."""
NAME_MAX = 2**16 - 1
"""Bytes that the name of a zip member may have."""
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


class Readable(Protocol):
    """What members are read with."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True)
class Member:
    """A file to be packed: its name in the zip, its size in bytes and how to open it."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager[Readable]]


def kind(stream: BinaryIO, where: str) -> str:
    """`zip`, `tar` or `gzip`, told by the first bytes.

    Raises:
        UserError: it is none of them.
    """
    stream.seek(0)
    head = stream.read(512)
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"PK"):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    if zipfile.is_zipfile(stream):  # a zip behind something else, as self-extracting ones are
        return "zip"
    found = f"it starts with {head[:24]!r}" if head else "it is empty"
    raise UserError(
        f"the source is neither a zip nor a tar: {found}",
        where=where,
        remedy="give a .zip, .tar, .tar.gz or .tgz that holds styles.csv and images/",
    )


def check_zip(stream: BinaryIO, where: str, limit: int) -> int:
    """Number of members of a zip that is safe to read and whole.

    Members stored as they are need no reading; packed ones are unpacked once, a chunk at a time, against their CRC.

    Raises:
        UserError: damaged, empty, encrypted, packed by an unusual method, or a bomb (declared size, ratio, overlap).
    """
    with _damage_told(where), zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        refuse_excess(sum(member.file_size for member in members), _size(stream), where, limit)
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            _check_member(member, where)
            # Entries that share bytes unpack to far more than they take: https://www.bamsoftware.com/hacks/zipbomb/
            if member.header_offset < end:
                raise _bomb(f"its member {member.filename!r} overlaps another", where)
            end = member.header_offset + zipfile.sizeFileHeader + member.compress_size  # type: ignore[attr-defined]
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                with archive.open(member) as unpacked:
                    while unpacked.read(CHUNK):
                        pass
    if not members:
        raise UserError("the zip holds no file", where=where, remedy="give one that holds styles.csv and images/")
    return len(members)


def _check_member(member: zipfile.ZipInfo, where: str) -> None:
    if member.flag_bits & 0x1:
        raise UserError(
            f"the zip's member {member.filename!r} is encrypted",
            where=where,
            remedy="give an archive without a password",
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"the zip's member {member.filename!r} is packed by method {member.compress_type}, which isn't supported",
            where=where,
            remedy="pack it again as an ordinary zip (deflate or stored)",
        )
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        raise zipfile.BadZipFile(f"the sizes of stored member {member.filename!r} disagree")


def gunzip(stream: BinaryIO, sink: BinaryIO, where: str, limit: int) -> None:
    """Unpack a gzip file into `sink`.

    Raises:
        UserError: damaged, or a bomb by its actual size or ratio.
    """
    packed, written = _size(stream), 0
    stream.seek(0)
    with _damage_told(where), gzip.GzipFile(fileobj=stream) as unpacked:
        while chunk := unpacked.read(CHUNK):
            written += len(chunk)
            refuse_excess(written, packed, where, limit)
            sink.write(chunk)


def tar_members(stream: BinaryIO, where: str) -> tuple[list[Member], int]:
    """The plain files of an uncompressed tar, and how many members are something else (links, devices, sparse files).

    As tar has it, the last of several members of one name counts.

    Raises:
        UserError: damaged.
    """
    stream.seek(0)
    found: dict[str, Member] = {}
    left_out = 0
    with _damage_told(where), tarfile.open(fileobj=_Headers(stream), mode="r:") as archive:  # type: ignore[call-overload]
        for entry in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory
            if entry.isreg() and not entry.issparse() and len(entry.name.encode("utf-8", "replace")) <= NAME_MAX:
                opening = _span(stream, entry.offset_data, entry.size)
                found[entry.name] = Member(entry.name, entry.size, opening)
            elif not entry.isdir():
                left_out += 1
    return list(found.values()), left_out


class _Headers:
    """What `tarfile` reads headers from: refuses to read one of absurd size."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        if size > HEADER_MAX:
            raise tarfile.ReadError(f"a header declares {size:,} bytes")
        return self._read(size)


def _span(stream: BinaryIO, start: int, size: int) -> Callable[[], AbstractContextManager[Readable]]:
    """How to open `size` bytes of `stream` from `start`; one span can be read at a time."""

    @contextmanager
    def opened() -> Iterator[_Span]:
        stream.seek(start)
        yield _Span(stream, size)

    return opened


class _Span:
    def __init__(self, stream: BinaryIO, left: int) -> None:
        self._stream, self._left = stream, left

    def read(self, size: int, /) -> bytes:
        chunk = self._stream.read(min(size, self._left))
        self._left -= len(chunk)
        return chunk


def pack(members: Iterable[Member], sink: BinaryIO, advance: Callable[[int], None]) -> None:
    """Write `members` in their order into a zip that names and bytes alone determine; `advance` is told the bytes.

    Raises:
        TransientError: a member has another size than it had when it was listed.
    """
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for member in members:
            # Names of other encodings come with lone surrogates, which a zip can't hold.
            name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            info = zipfile.ZipInfo(name)  # dated 1980-01-01: the date of a file is no part of its content
            info.file_size, info.create_system, info.external_attr = member.size, 3, 0o644 << 16
            left = member.size
            with member.open() as source, archive.open(info, "w") as target:
                while chunk := source.read(min(CHUNK, left + 1)):
                    left -= len(chunk)
                    if left < 0:
                        break
                    target.write(chunk)
                    advance(len(chunk))
            if left:
                raise TransientError(f"{member.name!r} changed while it was read; it had {member.size:,} bytes")


def refuse_excess(unpacked: int, packed: int, where: str, limit: int) -> None:
    """Refuse `unpacked` bytes that are above `limit`, or far above the `packed` bytes that they come from.

    Raises:
        UserError: refused as a bomb.
    """
    if unpacked > limit:
        raise _bomb(f"it unpacks to at least {unpacked:,} bytes, and {limit:,} are allowed", where)
    if unpacked > RATIO_FROM and unpacked > RATIO_MAX * packed:
        raise _bomb(
            f"it unpacks from {packed:,} to at least {unpacked:,} bytes, more than {RATIO_MAX} times as much", where
        )


def _bomb(reason: str, where: str) -> UserError:
    return UserError(
        f"the source is refused as an archive bomb: {reason}",
        where=where,
        remedy="check where it comes from; if it is right, raise LOOKALIKE_ARCHIVE_MAX_BYTES or give a folder",
    )


@contextmanager
def _damage_told(where: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise UserError(
            f"the archive is damaged: {error}",
            where=where,
            remedy="fetch or pack it again; `unzip -t` or `tar -t` tests it",
        ) from error


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, 2)
