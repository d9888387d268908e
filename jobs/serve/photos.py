"""Photos as they come over HTTP, and the process that searches for them (`jobs.serve.searching`), which is asked here.

A photo is read into memory, at most so many bytes of it, and looked at before anybody decodes it. It is passed on over
a Unix socket in a folder of the server's own, and never written to a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from email.message import Message
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError

from infra.settings import Settings
from jobs.serve.problems import Problem, away, wrong

PHOTO_MAX_BYTES = 10_000_000
FORM_BYTES, BOUNDARY_MAX = 65_536, 1000
"""What a form may take beside the photo, and the header that names its boundary, in characters."""
FORM_PIECE, FORM_S = 16_384, 0.5
"""Of a form as much is parsed at once, in bytes; and seconds of a core that all may take: a photo takes a fiftieth."""
BODY_S = 30.0
"""Longest that a body may take to come."""
AT_ONCE, COMING_MAX = 8, 32
"""Photos of a process that are searched for, and that come: it holds so many in memory."""
SEARCH_S = 60.0
SOCKET = "LOOKALIKE_SERVE_PHOTO_SOCKET"
"""Variable by which the server tells its processes where photos are searched for."""
LENGTHS = struct.Struct("!II")
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
"""How images begin; RIFF and ISO media files say further on what they are."""
KINDS = "JPEG, PNG, WEBP, GIF, BMP, HEIC or AVIF"
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], most: int, check: Callable[[bytes], None] | None = None
) -> bytes:
    """A request's body, of at most so many bytes; `check` looks at its beginning as soon as that is there.

    Raises:
        Problem: it is larger, comes too slowly, or breaks off.
    """
    told = headers.get(b"content-length", b"0")
    if told.isdigit() and int(told) > most:
        raise _too_large(most, told.decode())
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise wrong("the body broke off", place="body", remedy="send it again")
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most, len(body))
                if check and len(body) >= 16:
                    check(bytes(body[:16]))
                    check = None
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Problem(408, "the body came too slowly", place="body", remedy=f"send it in {BODY_S:.0f} s") from None


def _too_large(most: int, value: object) -> Problem:
    remedy = "make the photo smaller: 2,000 pixels are more than enough" if most > 2_000_000 else "ask for less at once"
    return Problem(413, f"the body has more than {most:,} bytes", value=value, place="body", remedy=remedy)


def check_beginning(data: bytes) -> None:
    """Raises Problem where bytes don't begin as an image of a kind that is read does."""
    riff = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    iso = data[4:8] == b"ftyp" and data[8:12] in BRANDS
    if not (data.startswith(BEGINNINGS) or riff or iso):
        raise Problem(
            415, "it is no image of a kind that is read", value=data[:8], place="body", remedy=f"send a {KINDS}"
        )


async def read_photo(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """The photo of a request: its body, or the field `photo` of a form.

    Raises:
        Problem: it is none, too large, or comes too slowly.
    """
    kind = headers.get(b"content-type", b"application/octet-stream").decode("latin-1")
    media_type = kind.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        photo = await _of_form(await read_body(receive, headers, PHOTO_MAX_BYTES + FORM_BYTES), kind)
        if len(photo) > PHOTO_MAX_BYTES:
            raise _too_large(PHOTO_MAX_BYTES, len(photo))
    elif media_type.startswith("image/") or media_type == "application/octet-stream":
        photo = await read_body(receive, headers, PHOTO_MAX_BYTES, check_beginning)
    else:
        raise Problem(
            415, "it is no image", value=media_type, place="header Content-Type", remedy="send image/jpeg, or a form"
        )
    if not photo:
        raise wrong("there is no photo", place="body", remedy="send the image as the body, or as the field photo")
    check_beginning(photo[:16])
    return photo


async def _of_form(body: bytes, content_type: str) -> bytes:
    """The field `photo`, parsed in memory, piece by piece: other questions have their turn in between."""
    if len(content_type) > BOUNDARY_MAX:  # the library takes time by the square of it
        raise wrong("the header is too long", place="header Content-Type", remedy="let your client write it")
    header, spent = Message(), 0.0
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise wrong("the form names no boundary", place="header Content-Type", remedy="let your client write it")
    form = _Form()
    try:
        parser = MultipartParser(boundary.encode("latin-1", "replace"), form.callbacks())
        for at in range(0, len(body), FORM_PIECE):
            started = time.thread_time()
            parser.write(body[at : at + FORM_PIECE])
            spent += time.thread_time() - started
            if spent > FORM_S:
                raise wrong("the form is odd", place="body", remedy="send the image itself as the body")
            await asyncio.sleep(0)
        parser.finalize()
    except (MultipartParseError, ValueError):
        raise wrong("it is no form", place="body", remedy="send the field photo as multipart/form-data") from None
    if form.photo is None:
        raise wrong("the form has no field photo", place="body", remedy="name the field photo")
    return bytes(form.photo)


class _Form:
    """Keeps the part of a form that is called `photo`."""

    def __init__(self) -> None:
        self.photo: bytearray | None = None
        self._field, self._value, self._is_photo = bytearray(), bytearray(), False

    def callbacks(self) -> Any:  # MultipartCallbacks, which does not allow for methods
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": self._data,
        }

    def _begin(self) -> None:
        self._field, self._value, self._is_photo = bytearray(), bytearray(), False

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            header = Message()
            header["content-disposition"] = self._value.decode("latin-1").replace("\r", "").replace("\n", "")
            if header.get_param("name", header="content-disposition") == "photo" and self.photo is None:
                self.photo, self._is_photo = bytearray(), True
        self._field, self._value = bytearray(), bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_photo and self.photo is not None:
            self.photo += data[start:end]


class Photos:
    """The process that searches for photos, as one that answers asks it."""

    def __init__(self, settings: Settings) -> None:
        """It is found by what the server told its processes."""
        self._socket = os.environ.get(SOCKET, "") if settings.serve_photos else ""
        self._free, self._coming = AT_ONCE, 0

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """As `read_photo`. Raises Problem, also where too many come at once."""
        if self._coming >= COMING_MAX:
            raise away("too many photos are sent at once", 1)
        self._coming += 1
        try:
            return await read_photo(receive, headers)
        finally:
            self._coming -= 1

    async def search(self, photo: bytes, asked: Mapping[str, Any]) -> bytes:
        """The answer, as JSON.

        Raises:
            Problem: whatever that process says, or that it is not there.
        """
        if self._free <= 0:
            raise away("too many photos are searched for at once", 1)
        self._free -= 1
        try:
            status, body = await asyncio.wait_for(self._asked(photo, asked), SEARCH_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            raise away("the search for photos does not answer", 5) from None
        finally:
            self._free += 1
        if status != 200:
            told = json.loads(body)
            retry = {"Retry-After": str(told["retry_s"])} if told.get("retry_s") else {}
            names = ("detail", "value", "place", "remedy")
            detail, value, place, remedy = (told.get(name) for name in names)
            raise Problem(status, detail, value=value, place=place, remedy=remedy, headers=retry)
        return body

    async def state(self) -> str:
        """`ready`, or what it does; `off` where photos are not answered."""
        try:
            _, body = await asyncio.wait_for(self._asked(b"", {"state": True}), 2)
        except (Problem, OSError, asyncio.IncompleteReadError, TimeoutError):
            return "off" if not self._socket else "starting"
        return str(json.loads(body)["state"])

    async def _asked(self, photo: bytes, asked: Mapping[str, Any]) -> tuple[int, bytes]:
        if not self._socket:
            raise away("this server does not search for photos", 3600)
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            head = json.dumps(asked).encode()
            writer.writelines([LENGTHS.pack(len(head), len(photo)), head, photo])
            await writer.drain()
            status, length = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
            return status, await reader.readexactly(length)
        finally:
            writer.close()
