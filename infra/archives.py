"""Archives of unknown origin: what is unsafe to unpack is refused, everything else becomes one deterministic zip.

Nothing is extracted to a path; memory stays bounded whatever an archive declares. The names of members are kept as they
are, so that who reads the zip can reject the bad ones one by one. A link to what the source itself holds is followed by
name alone, so that the zip holds plain files; what cannot become one is told (`LeftOut`).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from posixpath import normpath
from typing import Any, BinaryIO, NamedTuple, Protocol

from infra import encodings
from infra.errors import TransientError, UserError

CHUNK = 2**20
RATIO_MAX, RATIO_FROM = 200, 64 * 2**20
"""Unpacked bytes a packed byte that no catalogue reaches (deflate itself ends at 1,032), and from which size on."""
HEADER_MAX = 2**20
"""Largest tar header (a long name, PAX records), in bytes: `tarfile` reads one into memory whatever it declares."""
NAME_MAX = 2**16 - 1
"""Bytes that the name of a zip member may have."""
PATH_MAX, JUMPS_MAX = 4096, 40
"""Bytes of a path that is followed, and links on the way, both as Linux has them."""
COPIES_MAX = 10**6
"""Files that the links of a source may add: links to folders of links grow without a bound."""
CATALOGUE = re.compile(r"(^|/)styles(\.(csv|tsv|jsonl|ndjson)(\.gz)?|\.parquet|/_delta_log/.*)$")
"""How the path of a file ends that makes a folder a catalogue."""
PACKINGS = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
"""What packs a single file, and how it begins."""
XZ_MEMORY = 256 * 2**20
"""Bytes of memory that unpacking xz may take: its strongest setting needs 65 MiB, a hostile file asks for gigabytes."""
UTF8_NAME = 0x800
"""The flag of a zip member whose name is UTF-8."""
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
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


class LeftOut(NamedTuple):
    """What of a source is no file of the zip, and why."""

    file: str
    reason: str
    detail: str


class Link(NamedTuple):
    """A symbolic link: its path, its target as written, and the path in the source that it leads to (None: outside)."""

    path: str
    target: str
    place: str | None


def kind(stream: BinaryIO, where: str, packing: str = "") -> str:
    """`zip`, `tar` or one of PACKINGS, told by the first bytes; `packing` says what it was unpacked from, once.

    Raises:
        UserError: it is none of them.
    """
    stream.seek(0)
    head = stream.read(512)
    if not packing and (packed := next((kind for kind, sign in PACKINGS.items() if head.startswith(sign)), "")):
        return packed
    if head.startswith(b"PK"):
        return "zip"
    if head[257:262] == b"ustar" or _begins_old_tar(head):
        return "tar"
    if zipfile.is_zipfile(stream):  # a zip behind something else, as self-extracting ones are
        return "zip"
    found = f"it starts with {head[:24]!r}" if head else "it is empty"
    raise UserError(
        f"{packing or 'the source'} is neither a zip nor a tar: {found}",
        where=where,
        remedy="give a .zip, or a .tar as it is or packed (.gz, .bz2, .xz, .zst), that holds styles.csv and images/",
    )


def _begins_old_tar(head: bytes) -> bool:
    """Whether it is a tar's header without a sign, as before POSIX: its checksum is right."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def check_zip(stream: BinaryIO, where: str, limit: int) -> int:
    """Number of members of a zip that is safe to read and whole.

    Members stored as they are need no reading; packed ones are unpacked once, a chunk at a time, against their CRC.

    Raises:
        UserError: damaged, empty, encrypted, packed by an unusual method, or a bomb (declared size, ratio, overlap).
    """
    if not zipfile.is_zipfile(stream):
        raise _damaged("its end is missing; it was cut, is a part of several, or something was appended", where)
    with _damage_told(where), zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if members and min(member.header_offset for member in members) < 0:
            raise _damaged("its beginning is missing; it was cut, or is the last part of several", where)
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


def unpack(stream: BinaryIO, sink: BinaryIO, packing: str, where: str, limit: int) -> None:
    """Unpack a file that is packed by one of PACKINGS into `sink`.

    Raises:
        UserError: damaged, or a bomb by its actual size or ratio.
    """
    packed, written = _size(stream), 0
    stream.seek(0)
    with _damage_told(where):
        for chunk in _pieces(stream, packing):
            written += len(chunk)
            refuse_excess(written, packed, where, limit)
            sink.write(chunk)


def _pieces(stream: BinaryIO, packing: str) -> Iterator[bytes]:
    """What is packed, at most CHUNK bytes at a time."""
    match packing:
        case "gzip":
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield from iter(partial(unpacked.read, CHUNK), b"")
        case "zstd":
            import zstandard

            try:
                # Its reader takes a file that was cut for a whole one. What this gives is 32,768 times as much at most.
                yield from _streams(stream, zstandard.ZstdDecompressor().decompressobj, 4096)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        case "xz":
            yield from _streams(stream, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, XZ_MEMORY))
        case _:
            yield from _streams(stream, bz2.BZ2Decompressor)


def _streams(stream: BinaryIO, new: Callable[[], Any], size: int = CHUNK) -> Iterator[bytes]:
    """The same of files that may be several streams, one after another, with zeros behind them, read `size` at once."""
    unpacker, data = new(), b""
    while True:
        if unpacker.eof:
            data = unpacker.unused_data.lstrip(b"\0") or stream.read(size).lstrip(b"\0")
            if not data:
                return
            unpacker = new()
        elif getattr(unpacker, "needs_input", True):
            data = stream.read(size)
            if not data:
                raise EOFError("it was cut")
        else:
            data = b""
        try:
            yield unpacker.decompress(data, CHUNK) if hasattr(unpacker, "needs_input") else unpacker.decompress(data)
        except OSError as error:  # bzip2's, of the data; reading is outside
            raise ValueError(str(error)) from None


def has_links(stream: BinaryIO, where: str) -> bool:
    """Whether a zip holds symbolic links. Raises UserError where it is damaged."""
    if not zipfile.is_zipfile(stream):
        return False
    with _damage_told(where), zipfile.ZipFile(stream) as archive:
        return any(_is_link(member) for member in archive.infolist())


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def named(members: Sequence[zipfile.ZipInfo]) -> list[tuple[str, zipfile.ZipInfo]]:
    """The members of a zip with their names. Old tools write those in an encoding that they do not say.

    That is UTF-8 where all names are, or else told from all of them; where it is not, `%8F` stands for a byte.
    """
    unsaid = [member for member in members if not member.flag_bits & UTF8_NAME and not member.filename.isascii()]
    written = {id(member): member.filename.encode("cp437") for member in unsaid}  # as which `zipfile` reads them
    words = {word for name in written.values() for word in re.split(rb"[/\s]+", name) if not word.isascii()}
    codec = encodings.of_names(words) if words else ""

    def name(member: zipfile.ZipInfo) -> str:
        raw = written.get(id(member))
        if raw is None:
            return member.filename
        text = raw.decode(codec or "ascii", errors="surrogateescape")
        return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", text)

    return [(name(member), member) for member in members]


def zip_members(stream: BinaryIO, where: str) -> tuple[list[Member], list[LeftOut]]:
    """The files of a zip that `check_zip` has let pass, those that its links lead to among them, and what is left out.

    Raises:
        UserError: damaged, or its links lead to too many files.
    """
    archive = zipfile.ZipFile(stream)
    files: dict[str, Member] = {}
    targets: dict[str, str] = {}
    left_out = []
    with _damage_told(where):
        for name, member in named(archive.infolist()):
            path = normpath(name.replace("\\", "/"))
            if member.is_dir():
                continue
            if path in files or path in targets:
                left_out.append(LeftOut(name, "duplicate name", "the first file of this name is used"))
            elif _is_link(member):
                with archive.open(member) as content:
                    targets[path] = content.read(PATH_MAX + 1).decode("utf-8", "surrogateescape")
            else:
                files[path] = Member(name, member.file_size, partial(archive.open, member))
    return _all_members(files, targets, left_out, where)


def tar_members(stream: BinaryIO, where: str) -> tuple[list[Member], list[LeftOut]]:
    """The files of an uncompressed tar, those that its links lead to among them, and what is left out.

    As tar has it, the last of several members of one name counts.

    Raises:
        UserError: damaged, or its links lead to too many files.
    """
    stream.seek(0)
    files: dict[str, Member] = {}
    targets: dict[str, str] = {}
    left_out = []
    with _damage_told(where), tarfile.open(fileobj=_Headers(stream), mode="r:") as archive:  # type: ignore[call-overload]
        for entry in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory
            path, earlier = normpath(entry.name), normpath(entry.linkname)
            if entry.isdir():
                continue
            if len(entry.name.encode("utf-8", "replace")) > NAME_MAX:
                left_out.append(LeftOut(entry.name[:200], "name too long", f"more than {NAME_MAX:,} bytes"))
            elif entry.isreg() and not entry.issparse():
                files[path] = Member(entry.name, entry.size, _span(stream, entry.offset_data, entry.size))
                targets.pop(path, None)
            elif entry.islnk() and earlier in files:
                files[path] = replace(files[earlier], name=entry.name)
                targets.pop(path, None)
            elif entry.issym() or (entry.islnk() and earlier in targets):
                targets[path] = entry.linkname if entry.issym() else targets[earlier]
                files.pop(path, None)
            else:
                left_out.append(LeftOut(entry.name, *_no_file(entry)))
    return _all_members(files, targets, left_out, where)


def _no_file(entry: tarfile.TarInfo) -> tuple[str, str]:
    """Why a member of a tar is no file: reason and detail."""
    if entry.islnk():
        return "broken link", f"a hard link to {entry.linkname!r}, which the archive does not hold before it"
    if entry.issparse():
        return "sparse file", "its holes are not filled: pack it without -S"
    return "no plain file", "a device, a pipe or of an unknown kind"


def _all_members(
    files: dict[str, Member], targets: dict[str, str], left_out: list[LeftOut], where: str
) -> tuple[list[Member], list[LeftOut]]:
    links = [Link(path, target, _place(path, targets)) for path, target in targets.items()]
    copies, unfollowed = followed(files, links, where)
    return [*files.values(), *copies], left_out + unfollowed


def _place(path: str, targets: dict[str, str]) -> str | None:
    """Where in an archive `path` leads by its links (path → target); None: out of it, or round and round."""
    done: list[str] = []
    ahead, jumps = path.split("/")[::-1], 0
    if len(path) > PATH_MAX:
        return None
    while ahead:
        part = ahead.pop()
        if part == "..":
            if not done:
                return None
            done.pop()
        elif part not in ("", "."):
            done.append(part)
            target = targets.get("/".join(done))
            if target is not None:
                jumps += 1
                if jumps > JUMPS_MAX or target.startswith("/") or len(target) > PATH_MAX:
                    return None
                done.pop()
                ahead += target.split("/")[::-1]
    return "/".join(done)


def followed(files: dict[str, Member], links: list[Link], where: str) -> tuple[list[Member], list[LeftOut]]:
    """What `links` lead to among `files` (path → file), under the links' names, and the links that lead elsewhere.

    A link to a folder becomes a copy of the files in it. One to a folder that the link itself or a whole catalogue lies
    in does not: all of that is there once already, and would be there twice.

    Raises:
        UserError: they lead to more than COPIES_MAX files.
    """
    copies: list[Member] = []
    left_out = []
    paths = sorted(files)
    for path, target, place in links:
        if place is None:
            left_out.append(
                LeftOut(path, "link out of the source", f"it leads to {target[:200]!r}; `cp -rL` makes a file of it")
            )
        elif place in files:
            copies.append(replace(files[place], name=path))
        elif place and not path.startswith(f"{place}/"):
            inside = paths[bisect_left(paths, f"{place}/") : bisect_left(paths, f"{place}0")]  # "0" follows "/"
            if not inside:
                left_out.append(LeftOut(path, "broken link", f"the source holds no file {target[:200]!r}"))
            elif not any(map(CATALOGUE.search, inside)):
                copies += [replace(files[name], name=path + name[len(place) :]) for name in inside]
        if len(copies) > COPIES_MAX:
            raise _bomb(f"its links lead to more than {COPIES_MAX:,} files", where)
    return copies, left_out


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
        raise _damaged(str(error), where) from error


def _damaged(found: str, where: str) -> UserError:
    remedy = "fetch or pack it again (`unzip -t` or `tar -t` tests it), or join its parts (`cat a.zip.0* > a.zip`)"
    return UserError(f"the archive is damaged: {found}", where=where, remedy=remedy)


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, 2)
