"""Addresses of machines: which ones are the internet's, and which others an operator allows.

The URL of an image comes with a catalogue, so whoever writes the catalogue chooses what this machine connects to. Only
addresses that everyone may reach are taken; what lies inside the network (its services, the cloud's metadata, this
machine) is not, unless a setting names it. So it is with buckets, which are read with this machine's own rights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNICAST = IPv6Network("2000::/3")
"""All that is given out of IPv6; the rest is reserved, local, multicast, or IPv4 in a disguise."""
NAT64 = IPv6Network("64:ff9b::/96")
"""The last 32 bits are an IPv4 address, which a translator connects to (RFC 6052)."""
SPECIAL: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # protocols; single ones of its addresses are everywhere, but none serves images
    IPv4Network("192.88.99.0/24"),  # 6to4's relays (RFC 7526: no longer used)
    IPv6Network("2001::/23"),  # protocols, Teredo among them, which tunnels to an IPv4 address
    IPv6Network("2002::/16"),  # 6to4, which does too
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
"""What IANA's registries of special addresses list and Python up to 3.11.7 takes for global, wholly or in part."""
BUCKET = re.compile(r"s3://([\w.-]+)/?")
ENTRY = re.compile(r"(?:\[(?P<literal>[^\]]*)\]|(?P<host>[^:/\[\]@\s]+))(?::(?P<port>\d{1,5}))?")


def is_public(address: Address) -> bool:
    """Whether everyone on the internet means the same machine by `address`, IPv4 in an IPv6 address included."""
    if isinstance(address, IPv6Address):
        if inner := address.ipv4_mapped or (IPv4Address(int(address) & 0xFFFF_FFFF) if address in NAT64 else None):
            return is_public(inner)
        if address not in UNICAST:
            return False
    special = any(address.version == network.version and address in network for network in SPECIAL)
    return address.is_global and not address.is_multicast and not special


@dataclass(frozen=True)
class Allowed:
    """What else than public addresses may be asked: hosts by name, networks, at one port or at all (0), and buckets."""

    names: frozenset[tuple[str, int]] = frozenset()
    networks: tuple[tuple[Network, int], ...] = ()
    buckets: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """Entries such as `images.corp`, `images.corp:8080`, `10.0.0.7:80`, `10.0.0.0/8`, `[fd00::7]:80`, `fd00::/8`,
        and `s3://bucket`.

        A name stands for itself, not for names that end in it, and for all addresses that it has.

        Raises:
            ValueError: an entry is none of these.
        """
        names, networks, buckets = set(), [], set()
        for entry in entries:
            if named := BUCKET.fullmatch(entry):
                buckets.add(named[1])
                continue
            if _is_network(entry):
                networks.append((ip_network(entry), 0))
                continue
            parts = ENTRY.fullmatch(entry)
            port = int(parts["port"] or 0) if parts else 0
            host = (parts["literal"] or parts["host"] or "") if parts else ""
            if not host or port > 65535 or (parts and parts["literal"] and not _is_network(host)):
                raise ValueError(f"{entry!r} is no host, host:port or network such as 10.0.0.0/8, nor s3://bucket")
            if _is_network(host):
                networks.append((ip_network(host), port))
            else:
                names.add((host.lower().rstrip("."), port))
        return cls(frozenset(names), tuple(networks), frozenset(buckets))

    def passes(self, host: str, port: int, address: str) -> bool:
        """Whether a URL with this host and port may lead to this address."""
        met = ip_address(address)
        if isinstance(met, IPv6Address) and met.ipv4_mapped:
            met = met.ipv4_mapped
        if is_public(met) or not self.names.isdisjoint({(host.lower().rstrip("."), at) for at in (0, port)}):
            return True
        return any(met.version == of.version and met in of and at in (0, port) for of, at in self.networks)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
