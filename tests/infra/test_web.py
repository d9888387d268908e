"""Files by URL: what servers send, refuse, break off and lie about, what may not be asked, and how the rest is."""

from __future__ import annotations

import gzip
import logging
import socket
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.addresses import Allowed
from infra.errors import UserError
from infra.web import Answer, Asked, Fault, Manners, fetch, fresh_s, key
from tests.web_server import WebServer

LIMIT = 100_000
MANNERS = Manners(
    agent="lookalike/test (+mailto:me@shop.example)",
    limit=LIMIT,
    allowed=Allowed.of(["127.0.0.1"]),
    connect_s=5,
    stall_s=5,
    total_s=10,
    tries=3,
    wait_s=0.01,
    wait_max_s=0.02,
)
FILE = b"\xff\xd8 a file of any kind" * 50


@pytest.fixture
def site() -> Iterator[WebServer]:
    with closing(WebServer()) as site:
        yield site


def ask(*asked: str | Asked, **manners) -> list[Answer | Fault]:
    """What each gives, in their order."""
    wanted = [item if isinstance(item, Asked) else Asked(item) for item in asked]
    given = {outcome.url: outcome for outcome in fetch(wanted, replace(MANNERS, **manners))}
    assert len(given) == len({item.url for item in wanted})
    return [given[item.url] for item in wanted]


def reason(url: str, **manners) -> str:
    (fault,) = ask(url, **manners)
    assert isinstance(fault, Fault), fault
    assert fault.detail
    return fault.reason


# What is sent


def test_a_file_comes_with_what_the_server_says_of_it(site):
    dated = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    url = site.serve("/a b.jpg", FILE, ETag='"1"', Cache_Control="public, max-age=60", **dated)
    site.answers["/a%20b.jpg"] = site.answers.pop("/a b.jpg")
    (answer,) = ask(url + "#fragment")
    assert answer == Answer(
        url + "#fragment", FILE, key(url.replace(" ", "%20")), '"1"', "Wed, 21 Oct 2015 07:28:00 GMT", 60
    )


def test_a_server_is_told_who_asks_and_nothing_else_that_tells_nights_apart(site):
    first = site.serve("/1", FILE, ETag='"1"')
    ask(first)
    ask(first)
    (_, sent), (_, again) = site.asked
    assert sent == again
    assert sent["User-Agent"] == "lookalike/test (+mailto:me@shop.example)"
    assert sent["Accept-Encoding"] == "identity"
    assert sent.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding"}


def test_what_a_server_sets_as_a_cookie_is_not_told_it_again(site, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", looked_up({"images.example": "127.0.0.1"}))
    site.serve("/1", FILE, Set_Cookie="visitor=7")
    ask(*(f"http://images.example:{site.port}/1?{at}" for at in range(3)), connections_a_host=1)
    assert len(site.asked) == 3
    assert not [sent for _, sent in site.asked if "Cookie" in sent]


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_what_has_not_changed_is_not_sent(site, name):
    value = {"ETag": '"v1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}[name]
    url = site.serve("/1", FILE, **{name: value, "Cache_Control": "max-age=9"})
    (first,) = ask(url)
    (second,) = ask(Asked(url, first.etag, first.last_modified, first.at))
    assert second == first._replace(data=None)
    site.serve("/1", FILE[1:], **{name: "Thu, 22 Oct 2015 07:28:00 GMT" if name != "ETag" else '"v2"'})
    (third,) = ask(Asked(url, first.etag, first.last_modified, first.at))
    assert third.data == FILE[1:]


def test_an_unasked_for_not_modified_is_a_fault(site):
    url = site.serve("/1", b"", status=304)
    assert reason(url) == "unexpected answer"


def test_a_tag_is_only_told_to_the_address_that_gave_it(site):
    site.serve("/old", FILE, ETag='"1"')
    url = site.serve("/1", b"", status=302, Location="/old")
    (first,) = ask(url)
    site.serve("/new", b"another file", ETag='"1"')
    site.serve("/1", b"", status=302, Location="/new")
    (second,) = ask(Asked(url, first.etag, "", first.at))
    assert (first.data, second.data) == (FILE, b"another file")
    assert not [sent for _, sent in site.asked if "If-None-Match" in sent]
    site.serve("/1", b"", status=302, Location="/old")
    assert ask(Asked(url, first.etag, "", first.at))[0].data is None


@pytest.mark.parametrize(
    ("control", "age", "seconds"),
    [
        ("max-age=60", None, 60),
        ('public, Max-Age="60" , immutable', None, 60),
        ("max-age=60", "20", 40),
        ("max-age=60", "90", 0),
        ("max-age=60, no-cache", None, 0),
        ("no-store, max-age=60", None, 0),
        ("max-age=31536000", None, 7 * 24 * 3600),
        ("max-age=-1", None, 0),
        ("max-age=" + "9" * 5000, None, 0),
        ("max-age=60", "soon", 0),
        ("s-maxage=60", None, 0),
        (None, None, 0),
    ],
)
def test_an_answer_is_fresh_for_its_max_age_less_its_age_and_a_week_at_most(control, age, seconds):
    assert fresh_s({name: value for name, value in (("Cache-Control", control), ("Age", age)) if value}) == seconds


# What is too large, too little or packed


def test_a_file_larger_than_the_limit_is_refused_by_what_it_announces_and_by_what_it_is(site):
    sent = []

    def endless(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        request.close_connection = True
        for _ in range(10_000):
            request.wfile.write(b"x" * 100_000)
            sent.append(100_000)

    site.answers["/endless"] = endless
    announced = site.says("/announced", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    outcomes = ask(
        announced, site.url("/endless"), site.serve("/just", b"x" * LIMIT), site.serve("/over", b"x" * (LIMIT + 1))
    )
    assert [outcome.reason if isinstance(outcome, Fault) else len(outcome.data) for outcome in outcomes] == [
        "file too large",
        "file too large",
        LIMIT,
        "file too large",
    ]
    assert outcomes[0].detail == "more than 100,000 bytes (LOOKALIKE_IMAGE_MAX_BYTES)"
    assert sum(sent) < 10**9
    assert [site.times(path) for path in ("/announced", "/endless", "/over")] == [1, 1, 1]


def test_a_file_that_is_cut_short_is_asked_for_again_and_then_a_fault(site):
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nonly this"
    assert [reason(site.says(f"/{at}", sent)) for at, sent in enumerate((cut, chunked))] == ["cut short"] * 2
    assert (site.times("/0"), site.times("/1")) == (3, 3)


def test_more_than_announced_is_no_part_of_this_file_nor_of_the_next(site):
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"

    def lying(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" + smuggled)

    site.answers["/lying"] = lying
    urls = [site.serve(f"/{at}", b"%d" % at) for at in range(5)]
    outcomes = ask(site.url("/lying"), *urls, connections_a_host=1)
    assert outcomes[0].data == b"good"
    assert [outcome.data for outcome in outcomes[1:]] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_file_that_is_packed_unasked_is_unpacked_up_to_the_limit(site):
    bomb = gzip.compress(bytes(10**8))
    assert len(bomb) < LIMIT
    outcomes = ask(
        site.serve("/gzip", gzip.compress(FILE), Content_Encoding="gzip"),
        site.serve("/zlib", zlib.compress(FILE), Content_Encoding="Deflate"),
        site.serve("/bomb", bomb, Content_Encoding="gzip"),
        site.serve("/none", FILE, Content_Encoding="gzip"),
        site.serve("/cut", gzip.compress(FILE)[:-9], Content_Encoding="gzip"),
        site.serve("/other", FILE, Content_Encoding="br"),
    )
    assert [outcome.data for outcome in outcomes[:2]] == [FILE, FILE]
    assert [outcome.reason for outcome in outcomes[2:]] == [
        "file too large",
        "unexpected answer",
        "cut short",
        "unexpected answer",
    ]


def test_memory_does_not_hold_what_a_bomb_unpacks_to(site):
    url = site.serve("/bomb", gzip.compress(bytes(5 * 10**7)), Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert reason(url) == "file too large"
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


# Redirects


def test_redirects_are_followed_five_times_and_what_they_led_to_is_not_taken_for_fresh(site):
    site.serve("/0", FILE, Cache_Control="max-age=60")
    for hop in range(1, 7):
        site.serve(f"/{hop}", status=(301, 302, 303, 307, 308, 302)[hop - 1], Location=f"/{hop - 1}")
    followed, refused = ask(site.url("/5"), site.url("/6"))
    assert followed == Answer(site.url("/5"), FILE, key(site.url("/0")), "", "", 0)
    assert (refused.reason, site.times("/6")) == ("too many redirects", 1)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("file:///etc/passwd", "unusable address"),
        ("ftp://127.0.0.1/a.jpg", "unusable address"),
        ("s3://bucket/a.jpg", "unusable address"),
        ("data:image/png;base64,AAAA", "unusable address"),
        ("http://[half/a.jpg", "unusable address"),
        ("http://me:secret@127.0.0.1/a.jpg", "credentials in the address"),
        ("http://169.254.169.254/latest/meta-data", "inside the network"),
        ("//[::1]/a.jpg", "inside the network"),
    ],
)
def test_a_redirect_to_where_nobody_may_be_led_is_refused(site, target, expected):
    (fault,) = ask(site.serve("/1", status=302, Location=target))
    assert fault.reason == expected
    assert "secret" not in fault.detail
    assert site.times("/1") == 1


# What may not be asked


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.2",
            "0.0.0.0",  # noqa: S104
            "10.0.0.1",
            "169.254.169.254",
            "[::1]",
            "[::]",
            "[fe80::1%25lo]",
            "[::ffff:127.0.0.2]",
        ),
        *("[64:ff9b::7f00:2]", "[2002:7f00:2::]", "[::127.0.0.2]", "224.0.0.1", "localhost", "LOCALHOST.", "0x7f.2"),
    ],
)
def test_what_lies_inside_the_network_is_not_asked_however_it_is_written(host):
    with closing(WebServer(host="0.0.0.0")) as everywhere:  # noqa: S104
        everywhere.serve("/1", FILE)
        names = {"localhost": "127.0.0.2", "localhost.": "127.0.0.2"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", looked_up(names))
            assert reason(f"http://{host}:{everywhere.port}/1") in ("inside the network", "unusable address")
        assert not everywhere.asked


@pytest.mark.parametrize("host", ["2130706433", "017700000001", "127.1"])
def test_an_address_that_is_written_as_a_number_is_none(site, host):
    assert reason(f"http://{host}:{site.port}/1") in ("unusable address", "inside the network")
    assert not site.asked


def looked_up(names: dict[str, str | list[str]], asked: list[str] | None = None):
    """A getaddrinfo that knows these names alone, each with its address, or those of one look-up after another."""
    system = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name in names:
            if asked is not None:
                asked.append(name)
            address = names[name]
            host = address.pop(0) if isinstance(address, list) else address
            return [entry for one in host.split() for entry in system(one, *arguments, **options)]
        if not all(letter in "0123456789.:abcdefx" for letter in name):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return system(host, *arguments, **options)

    return getaddrinfo


def test_a_name_is_connected_to_at_the_address_that_was_checked(monkeypatch):
    asked: list[str] = []
    with closing(WebServer(host="0.0.0.0")) as everywhere:  # noqa: S104
        everywhere.serve("/1", FILE)
        rebinding = {"images.example": ["127.0.0.3", "127.0.0.2", "127.0.0.2"]}
        monkeypatch.setattr(socket, "getaddrinfo", looked_up(rebinding, asked))
        allowed = Allowed.of(["127.0.0.3"])
        (answer,) = ask(f"http://images.example:{everywhere.port}/1", allowed=allowed)
        assert answer.data == FILE
        assert asked == ["images.example"]
        assert everywhere.asked[0][1]["Host"] == f"images.example:{everywhere.port}"
        assert reason(f"http://images.example:{everywhere.port}/1", allowed=allowed) == "inside the network"


def test_a_name_one_of_whose_addresses_lies_inside_is_refused(site, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", looked_up({"images.example": "127.0.0.1 10.0.0.1"}))
    site.serve("/1", FILE)
    (fault,) = ask(f"http://images.example:{site.port}/1")
    assert fault.reason == "inside the network"
    assert "10.0.0.1" in fault.detail
    assert "LOOKALIKE_IMAGE_HOSTS" in fault.detail
    (answer,) = ask(f"http://images.example:{site.port}/1", allowed=Allowed.of(["images.example"]))
    assert answer.data == FILE


def test_a_user_and_password_are_refused_and_never_shown_or_logged(site, caplog):
    caplog.set_level(logging.DEBUG)
    outcomes = ask(
        f"http://me:secret@{site.host}/1", f"http://:secret@{site.host}/2", f"http://me:12/secret@{site.host}/3"
    )
    assert [outcome.reason for outcome in outcomes] == [*["credentials in the address"] * 2, "unusable address"]
    assert not [outcome for outcome in outcomes if "secret" in outcome.detail]
    assert "secret" not in caplog.text
    assert not site.asked


@pytest.mark.parametrize(
    "url",
    ["", "a.jpg", "//h/a", "/etc/passwd", "file:///etc/passwd", "ftp://h/a", "http://", "http://h:x/", "https:///a"],
)
def test_what_is_no_url_of_the_web_or_s3_is_a_fault(url):
    assert reason(url) == "unusable address"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=30).map("http://".__add__) | st.text(max_size=30), unique=True, max_size=20))
def test_no_text_whatever_ends_the_others(urls):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", looked_up({}))
        assert all(isinstance(outcome, Fault) for outcome in ask(*urls, tries=1, allowed=Allowed()))


def test_a_proxy_of_the_environment_is_not_asked(site, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(site.serve("/1", FILE))[0].data == FILE


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A certificate of its own authority for the name images.example, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-subj", "/CN=a shop", "-addext", "subjectAltName=DNS:images.example"]
    subprocess.run([*made, "-keyout", folder / "key", "-out", folder / "authority"], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "authority").read_bytes() + (folder / "key").read_bytes())
    return both


def test_tls_compares_the_certificate_with_the_name_and_its_authority_with_those_trusted(certificate, monkeypatch):
    names = {"images.example": "127.0.0.1", "other.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", looked_up(names))
    with closing(WebServer(certificate)) as secure:
        secure.serve("/1", FILE)
        urls = [f"https://{name}:{secure.port}/1" for name in names]
        untrusted = ask(*urls)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        right, wrong = ask(*urls)
        assert [fault.reason for fault in (*untrusted, wrong)] == ["certificate"] * 3
        assert right.data == FILE
        assert secure.times("/1") == 1


def test_certificates_that_cannot_be_read_are_the_users_to_mend(monkeypatch, tmp_path):
    (tmp_path / "none.pem").write_text("nothing")
    for path in (tmp_path / "none.pem", tmp_path / "absent.pem"):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
        with pytest.raises(UserError, match="cannot be read") as caught:
            ask("https://images.example/1")
        assert str(path) in str(caught.value)


# What fails


@pytest.mark.parametrize(
    ("status", "expected", "times"),
    [
        (404, "not found", 1),
        (410, "not found", 1),
        (401, "not allowed", 1),
        (403, "not allowed", 1),
        (400, "unexpected answer", 1),
        (204, "unexpected answer", 1),
        (206, "unexpected answer", 1),
        (300, "unexpected answer", 1),
        (408, "server error", 3),
        (429, "too many requests", 3),
        (500, "server error", 3),
        (503, "server error", 3),
        (599, "server error", 3),
    ],
)
def test_an_answer_without_the_file_is_asked_for_again_only_where_it_may_pass(site, status, expected, times):
    (fault,) = ask(site.serve("/1", status=status))
    assert (fault.reason, fault.passing, site.times("/1")) == (expected, times > 1, times)
    assert str(status) in fault.detail


def test_what_failed_once_is_had_the_next_time(site):
    site.serve("/1", FILE)
    good = site.answers["/1"]
    site.serve("/1", status=500)
    bad = site.answers["/1"]
    site.answers["/1"] = lambda request: (bad if site.times("/1") < 3 else good)(request)
    assert ask(site.url("/1"))[0].data == FILE


def test_a_connection_that_breaks_or_is_refused_is_tried_again_and_then_a_fault(site):
    def reset(request):
        linger = b"\1\0\0\0\0\0\0\0"  # l_onoff, l_linger: closing resets
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.connection.close()
        request.close_connection = True

    site.answers["/reset"] = reset
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    garbage = site.says("/garbage", b"SSH-2.0-OpenSSH\r\n")
    outcomes = ask(site.url("/reset"), f"http://127.0.0.1:{port}/1", garbage)
    assert [(fault.reason, fault.passing) for fault in outcomes] == [("connection failed", True)] * 3
    assert site.times("/garbage") == 3
    assert site.times("/reset") in (3, 6)  # the library itself repeats at once, in case the connection was an old one


def test_a_name_that_nobody_knows_is_a_fault(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", looked_up({}))
    (fault,) = ask("http://no.such.host/1")
    assert (fault.reason, fault.passing) == ("unknown host", False)


@pytest.mark.parametrize("dripping", ["headers", "body", "nothing"])
def test_a_server_that_answers_too_slowly_is_not_waited_for(site, dripping):
    over = threading.Event()

    def slow(request):
        start = {"headers": b"HTTP/1.1 200 OK\r\n", "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"}
        request.wfile.write(start.get(dripping, b""))
        while not over.wait(0.02):
            request.wfile.write(b"" if dripping == "nothing" else b"x")

    site.answers["/1"] = slow
    assert reason(site.url("/1"), total_s=0.3, tries=2) == "timeout"
    assert reason(site.url("/1"), stall_s=0.2, total_s=0.6, tries=1) == "timeout"
    over.set()


# Politeness


def test_a_host_gets_so_many_requests_at_once_over_connections_that_stay(site):
    here, lock, most = [0], threading.Lock(), [0]
    both = threading.Barrier(2, timeout=20)
    site.serve("/1", FILE)
    good = site.answers["/1"]

    def counted(request):
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        both.wait()  # until another one is here
        with lock:
            here[0] -= 1
        good(request)

    site.answers["/1"] = counted
    outcomes = ask(*(site.url(f"/1?{at}") for at in range(40)), connections_a_host=2)
    assert [outcome.data for outcome in outcomes] == [FILE] * 40
    assert most[0] == 2
    assert len(site.connections) == 2


def test_all_hosts_together_get_no_more_requests_than_connections_and_a_slow_one_holds_up_no_other(site):
    stuck = threading.Event()
    with closing(WebServer()) as slow:
        slow.answers["/1"] = lambda request: stuck.wait()
        quick = [site.serve(f"/{at}", FILE) for at in range(50)]
        asked = [Asked(url) for url in (*(slow.url(f"/1?{at}") for at in range(100)), *quick)]
        with closing(fetch(asked, replace(MANNERS, connections=5))) as outcomes:
            first = [next(outcomes) for _ in quick]
            while slow.times("/1") < 4:  # what was sent may yet have to be read
                time.sleep(0.01)
        assert {outcome.url for outcome in first} == set(quick)
        assert slow.times("/1") == 4
        stuck.set()


@pytest.mark.parametrize(("status", "form"), [(429, "seconds"), (503, "date")])
def test_a_server_that_asks_to_wait_is_left_alone_so_long(site, status, form):
    site.serve("/other", FILE)
    site.serve("/1", FILE)
    good, when = site.answers["/1"], []

    def busy(request):
        when.append(time.time())
        if len(when) > 1:
            return good(request)
        wait = {"Retry-After": "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)}
        site.serve("/busy", status=status, **wait)
        return site.answers["/busy"](request)

    site.answers["/1"] = busy
    assert ask(site.url("/1"))[0].data == FILE
    assert when[1] - when[0] > (0.99 if form == "seconds" else 0.9)


def test_a_server_that_asks_to_wait_too_long_is_given_up_at_once(site):
    urls = [site.serve(f"/{at}", status=429, Retry_After="3600") for at in range(20)]
    outcomes = ask(*urls, connections_a_host=1)
    assert {outcome.reason for outcome in outcomes} == {"host given up"}
    assert "3,600 s" in outcomes[0].detail
    assert len(site.asked) == 1


def test_a_wait_that_no_one_can_read_is_none(site):
    for text in ("soon", "9" * 5000, "-1", "Wed, 21 Oct 99999 07:28:00 GMT"):
        assert reason(site.serve("/1", status=429, Retry_After=text), tries=1) in ("too many requests", "host given up")


def test_a_host_that_fails_again_and_again_is_given_up_and_others_are_not(site):
    with closing(WebServer()) as other:
        bad = [site.serve(f"/{at}", status=500) for at in range(300)]
        good = [other.serve(f"/{at}", FILE) for at in range(50)]
        outcomes = ask(*bad, *good, given_up_after=10, given_up_s=0, wait_s=0)
        reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Fault)]
        assert set(reasons) == {"server error", "host given up"} or set(reasons) == {"host given up"}
        assert len(reasons) == 300
        assert len(site.asked) < 20
        assert [outcome.data for outcome in outcomes[300:]] == [FILE] * 50
        assert all(outcome.passing for outcome in outcomes[:300])
        assert f"{site.host}: it failed" in outcomes[299].detail


def test_a_host_that_fails_now_and_then_is_not_given_up(site):
    good, bad = site.serve("/good", FILE), site.serve("/bad", status=500)
    urls = [f"{bad if at % 3 else good}?{at}" for at in range(60)]
    outcomes = ask(*urls, connections_a_host=1, tries=1, given_up_after=4, given_up_s=0)
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Fault)} == {"server error"}


def test_a_host_without_some_files_is_not_given_up(site):
    missing = [site.serve(f"/{at}", status=404) for at in range(100)]
    assert {outcome.reason for outcome in ask(*missing, given_up_after=5, given_up_s=0)} == {"not found"}


# The caller


def test_a_caller_that_does_not_take_what_came_keeps_servers_waiting_rather_than_memory(site):
    urls = [Asked(site.serve(f"/{at}", FILE)) for at in range(50)]
    with closing(fetch(urls, replace(MANNERS, connections=3))) as outcomes:
        next(outcomes)
        before = -1
        while before != len(site.asked):  # until nothing moves any more
            before = len(site.asked)
            time.sleep(0.1)
        assert before <= 1 + 3 + 1
        assert len(list(outcomes)) == 49


def test_a_caller_that_stops_leaves_nothing_behind(site):
    urls = [Asked(site.serve(f"/{at}", FILE)) for at in range(50)]
    outcomes = fetch(urls, MANNERS)
    next(outcomes)
    outcomes.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "web"]


def test_urls_are_read_no_further_ahead_than_they_are_asked_for(site):
    url, read = site.serve("/1", FILE), []

    def urls():
        for at in range(5000):
            read.append(at)
            yield Asked(f"{url}?{at}")

    with closing(fetch(urls(), MANNERS)) as outcomes:
        next(outcomes)
        assert len(read) <= 1001


# S3


def test_objects_of_s3_are_had_and_not_sent_again_unchanged(bucket):
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.put_object(Bucket=bucket, Key="images/a b#1.jpg", Body=FILE)
    s3.put_object(Bucket=bucket, Key="large.jpg", Body=b"x" * (LIMIT + 1))
    s3.put_object(Bucket=bucket, Key="empty.jpg", Body=b"")
    url = f"s3://{bucket}/images/a b#1.jpg"
    first, *others = ask(
        url,
        f"s3://{bucket}/large.jpg",
        f"s3://{bucket}/empty.jpg",
        f"s3://{bucket}/absent.jpg",
        "s3://no-such-bucket/a.jpg",
        f"s3://{bucket}",
        "s3:///a.jpg",
        "s3://unnamed/a.jpg",
        allowed=Allowed.of([f"s3://{bucket}", "s3://no-such-bucket"]),
    )
    assert first == Answer(url, FILE, key(url), first.etag, "", 0)
    assert first.etag
    assert others[1].data == b""
    assert [fault.reason for fault in (others[0], *others[2:])] == [
        "file too large",
        "not found",
        "not allowed",
        "unusable address",
        "unusable address",
        "bucket not named",
    ]
    assert "s3://unnamed is neither the source's bucket nor among LOOKALIKE_IMAGE_HOSTS" in others[-1].detail
    allowed = Allowed.of([f"s3://{bucket}"])
    assert ask(Asked(url, first.etag, "", first.at), allowed=allowed)[0].data is None
    s3.put_object(Bucket=bucket, Key="images/a b#1.jpg", Body=FILE[1:])
    assert ask(Asked(url, first.etag, "", first.at), allowed=allowed)[0].data == FILE[1:]
