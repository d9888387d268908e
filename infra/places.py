"""Places that people name: a path made absolute, and an address as it may be shown."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

ADDRESS = re.compile(r"(sample|kaggle):|[A-Za-z][A-Za-z0-9+.-]+:/")
"""How what is no path begins; one slash is enough, as a password behind it is one."""
SIGNATURE = "[?&](?:X-Amz-|AWSAccessKeyId=|Signature=)"
"""How that of a signed S3 address begins."""
HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(:\d*)?")


def absolute(place: str) -> str:
    """A path made absolute, `~` being the home folder; an address, or nothing, as it is."""
    if not place or ADDRESS.match(place):
        return place
    return os.path.abspath(os.path.expanduser(place))


def local(place: str) -> str:
    """The path of a `file:///` address; any other place as it is."""
    return unquote(place.removeprefix("file://")) if place.startswith("file:///") else place


def shown(place: str) -> str:
    """`place` as it may be stored and shown: an address without user, password, query and fragment.

    An S3 key may hold `?` and `#`, so of that no more than a signature goes. Where a password of odd characters hides
    the end of the host, nothing but the kind of address is left.
    """
    address = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,2})(.*)", place, re.DOTALL)
    if address is None:
        return place
    kind, rest = address.groups()
    plain = re.split(SIGNATURE if kind.lower() == "s3://" else "[?#]", rest, maxsplit=1)[0]
    authority, slash, path = plain.partition("/")
    host = authority.rpartition("@")[2]
    hidden = ":" in host and "@" in rest[len(authority) :]
    return f"{kind}…" if hidden or not HOST.fullmatch(host) else f"{kind}{host}{slash}{path}"
