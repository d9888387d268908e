"""Which addresses are the internet's, held against IANA's registries, and which others an operator allows."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.addresses import Allowed, is_public

NOT_PUBLIC = [
    ip_network(text)
    for text in (
        # https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # https://www.iana.org/assignments/iana-ipv6-special-registry, and all that is not yet given out
        *("::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1"),
    )
]
"""Networks none of whose addresses the whole internet shares, but for IPv4 in IPv6, which is looked at apart."""
WRAPPINGS = [IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")]


def oracle(address: IPv4Address | IPv6Address) -> bool:
    for wrapping in WRAPPINGS:
        if address.version == 6 and address in wrapping:
            return oracle(IPv4Address(int(address) & 0xFFFFFFFF))
    return not any(address.version == network.version and address in network for network in NOT_PUBLIC)


def inside(networks):
    def of(network):
        return st.integers(int(network.network_address), int(network.broadcast_address))

    kinds = [of(network).map(IPv4Address if isinstance(network, IPv4Network) else IPv6Address) for network in networks]
    return st.one_of(kinds)


EDGES = [
    ip_address(int(network.network_address) + step) if network.version == 6 else IPv4Address(at)
    for network in NOT_PUBLIC
    for step, at in ((0, int(network.network_address)), (1, min(2**32 - 1, int(network.network_address) + 1)))
]


@given(st.one_of(inside(NOT_PUBLIC + WRAPPINGS), st.ip_addresses(), st.sampled_from(EDGES)))
def test_an_address_is_public_where_no_registry_of_special_ones_has_it(address):
    assert is_public(address) == oracle(address)


@given(st.ip_addresses(v=4))
def test_ipv4_in_ipv6_is_as_public_as_it_is_alone(address):
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        assert is_public(IPv6Address(int(IPv6Address(prefix)) | int(address))) == is_public(address)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2001:4860:4860::8888", "64:ff9b::808:808"]
)
def test_well_known_servers_are_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    ("entry", "passes", "refused"),
    [
        ("images.corp", ("images.corp", 80, "10.0.0.1"), ("www.images.corp", 80, "10.0.0.1")),
        ("Images.Corp.", ("images.corp.", 443, "127.0.0.1"), ("corp", 443, "127.0.0.1")),
        ("images.corp:8080", ("images.corp", 8080, "fd00::1"), ("images.corp", 80, "fd00::1")),
        ("10.0.0.7", ("any.name", 80, "10.0.0.7"), ("any.name", 80, "10.0.0.8")),
        ("10.0.0.7:80", ("10.0.0.7", 80, "10.0.0.7"), ("10.0.0.7", 81, "10.0.0.7")),
        ("10.0.0.0/8", ("a", 1, "10.255.0.1"), ("a", 1, "172.16.0.1")),
        ("10.0.0.0/8", ("a", 1, "::ffff:10.0.0.1"), ("a", 1, "::ffff:192.168.0.1")),
        ("fd00::/8", ("a", 1, "fd00::7"), ("a", 1, "fe80::7")),
        ("[fd00::7]:80", ("a", 80, "fd00::7"), ("a", 443, "fd00::7")),
        ("::1", ("localhost", 80, "::1"), ("localhost", 80, "127.0.0.1")),
    ],
)
def test_what_an_operator_names_is_allowed_and_nothing_else_inside(entry, passes, refused):
    allowed = Allowed.of([entry])
    assert allowed.passes(*passes)
    assert not allowed.passes(*refused)
    assert allowed.passes("a.public.host", 80, "8.8.8.8")


def test_a_bucket_is_named_whole_and_alone():
    allowed = Allowed.of(["s3://pictures", "s3://more.pictures/", "10.0.0.7"])
    assert allowed.buckets == {"pictures", "more.pictures"}


@pytest.mark.parametrize(
    "entry",
    [
        "http://host",
        "host/path",
        "u@host",
        "host:99999",
        "host:",
        "10.0.0.1/8",
        "[host]:80",
        "fd00::7:http",
        "",
        "s3://",
        "s3://b/key",
    ],
)
def test_an_entry_that_names_no_host_is_refused(entry):
    with pytest.raises(ValueError, match="no host, host:port or network"):
        Allowed.of([entry])
