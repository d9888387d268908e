"""Objects and addresses with odd names, of an S3 server and a web server: what a refresh takes of each, or says."""

# ruff: noqa: E501 - an expected outcome is one line
from __future__ import annotations

import gzip
import http.server
import io
import os
import tarfile
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator

import boto3
import pytest
from urllib3.util import Retry

from tests.catalogues import good_files, zip_bytes
from tests.field.outcomes import intake

FILES = good_files(12)
ZIP = zip_bytes(FILES, zipfile.ZIP_DEFLATED)
ALL = "12 products"
SOURCE = "LOOKALIKE_DATASET or --dataset"
FORMS = "give a .zip/.tar path, a folder, file://, s3://, https://, kaggle:owner/name or sample:N?seed=S"
LISTS = "check bucket, key and version (`aws s3 ls` lists them) and AWS_ENDPOINT_URL"
BROWSER = "check the address, its redirects and its certificate by opening it in a browser"


@pytest.fixture
def client(bucket):
    return boto3.client("s3", region_name="us-east-1")


class Shop:
    """A bucket to fill; each of its functions returns the address that a case pulls."""

    def __init__(self, client, bucket: str) -> None:
        self.client, self.bucket, self.uri = client, bucket, f"s3://{bucket}"

    def put(self, key: str, asked: str = "") -> str:
        """The catalogue as one object, asked for by its key or another text."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=ZIP)
        return f"{self.uri}/{asked or key}"

    def below(self, prefix: str, doubled: bool = False) -> str:
        """The catalogue as an object a file."""
        for name, data in FILES.items():
            key = prefix + (name.replace("/", "//") if doubled else name)
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"{self.uri}/{prefix}".rstrip("/")

    def markers(self, *folders: str) -> None:
        """What consoles write for a folder."""
        for key in folders:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"")

    def in_bucket(self, name: str) -> str:
        self.client.create_bucket(Bucket=name)
        return Shop(self.client, name).put("plain.zip")


S3: dict[str, tuple[Callable[[Shop], str], str]] = {
    "s3-plain": (lambda shop: shop.put("plain.zip"), ALL),
    "s3-space-and-brackets": (lambda shop: shop.put("Kollektion Herbst (1) [neu].zip"), ALL),
    "s3-plus": (lambda shop: shop.put("a+b.zip"), ALL),
    "s3-unicode": (lambda shop: shop.put("商品/カタログ ü.zip"), ALL),
    "s3-percent-20-literal": (lambda shop: shop.put("my%20catalogue.zip"), ALL),
    "s3-key-has-space-uri-has-percent-20": (lambda shop: shop.put("other catalogue.zip", "other%20catalogue.zip"), f"the source s3://BUCKET/other%20catalogue.zip isn't there | {SOURCE} | {LISTS}"),
    "s3-percent-literal": (lambda shop: shop.put("50% off.zip"), ALL),
    "s3-hash": (lambda shop: shop.put("look #1.zip"), ALL),
    "s3-question-mark": (lambda shop: shop.put("new?.zip"), ALL),
    "s3-double-slash": (lambda shop: shop.put("in//box.zip"), ALL),
    "s3-leading-slash": (lambda shop: shop.put("/lead.zip"), ALL),
    "s3-dots": (lambda shop: shop.put("a/../b.zip"), ALL),
    "s3-bucket-with-dots": (lambda shop: shop.in_bucket("my.shop.example"), ALL),
    "s3-upper-scheme": (lambda shop: shop.put("plain.zip").replace("s3:", "S3:"), ALL),
    "s3-prefix": (lambda shop: shop.below("cat/"), ALL),
    "s3-prefix-slash": (lambda shop: shop.below("cat/") + "/", ALL),
    "s3-prefix-markers": (lambda shop: (shop.markers("marked/", "marked/images/"), shop.below("marked/"))[1], ALL),
    "s3-prefix-space-unicode": (lambda shop: shop.below("Herbst Größe +1/"), ALL),
    "s3-prefix-hash": (lambda shop: shop.below("look #2/"), ALL),
    "s3-prefix-question": (lambda shop: shop.below("what?/"), ALL),
    "s3-prefix-that-is-part-of-another": (lambda shop: (shop.below("sale-old/"), shop.below("sale/"))[1], ALL),
    "s3-prefix-and-object-of-one-name": (lambda shop: (shop.below("both/"), shop.put("both"))[1], ALL),
    "s3-bucket-root": (lambda shop: shop.below(""), ALL),
    "s3-bucket-root-slash": (lambda shop: shop.below("") + "/", ALL),
    "s3-double-slash-inside-prefix": (lambda shop: shop.below("dd/", doubled=True), ALL),
    "s3-arn": (lambda shop: "arn:aws:s3:::shop/plain.zip", f"the source '…/arn:aws:s3:::shop/plain.zip' isn't there | {SOURCE} | check the path, or {FORMS}"),
    "s3-no-bucket": (lambda shop: (shop.put("plain.zip"), "s3://")[1], f"the source s3:// names no bucket | {SOURCE} | give s3://bucket/key or s3://bucket/prefix; a variable may be unset"),
    "s3-version-id": (lambda shop: shop.put("plain.zip") + "?versionId=null", ALL),
}  # fmt: skip


@pytest.mark.parametrize("case", S3)
def test_an_object_is_taken_or_told_as_people_expect(case, lake, tmp_path, client, bucket, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, expected = S3[case]
    said = intake(lake, make(Shop(client, bucket)), scratch=tmp_path / "scratch")
    assert said.replace(bucket, "BUCKET") == expected


def tgz() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(out.getvalue())


PAGE = b"<!DOCTYPE html><title>Google Drive can't scan this file for viruses</title>"
REDIRECTS = {
    "/moved": "/my catalogue ü.zip?sig=a%2Bb",
    "/loop": "/loop",
    "/to-file": "file:///etc/passwd",
    "/to-s3": "s3://shop/plain.zip",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """A web server with a catalogue under every path but a few."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        body = tgz() if path.endswith(".tgz") else PAGE if path == "/html" else ZIP
        self.send_response(302 if path in REDIRECTS else 204 if path == "/no-content" else 200)
        if path in REDIRECTS or path == "/no-content":
            self.send_header("Location", REDIRECTS.get(path, ""))
            self.end_headers()
            return
        if path == "/encoded.tgz":
            self.send_header("Content-Encoding", "gzip")
        if path != "/no-length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def unusable(address: str, kind: str) -> str:
    return f"the source {address} can't be fetched ({kind}) | {SOURCE} | {BROWSER}"


def unreached(address: str) -> str:
    return f"transient: {address}: the server can't be reached or broke off (ConnectionError)"


W = "http://127.0.0.1:PORT"
WEB = {
    "s3-console-url": ("https://shop.s3.us-east-1.amazonaws.com.invalid/plain.zip", unreached("https://shop.s3.us-east-1.amazonaws.com.invalid/plain.zip")),
    "web-plain": (f"{W}/a.zip", ALL),
    "web-space-unicode": (f"{W}/my catalogue ü.zip", ALL),
    "web-percent": (f"{W}/my%20catalogue%20%C3%BC.zip", ALL),
    "web-query-signature": (f"{W}/a.zip?X-Amz-Signature=abc%2Bdef&x=1", ALL),
    "web-fragment": (f"{W}/a.zip#top", ALL),
    "web-redirect-space": (f"{W}/moved", f"the source {W}/moved can't be fetched: the server sends on to an address that is none | {SOURCE} | open it in a browser and give the address that it leads to"),
    "web-redirect-loop": (f"{W}/loop", unusable(f"{W}/loop", "TooManyRedirects")),
    "web-redirect-to-file": (f"{W}/to-file", unusable(f"{W}/to-file", "InvalidSchema")),
    "web-redirect-to-s3": (f"{W}/to-s3", unusable(f"{W}/to-s3", "InvalidSchema")),
    "web-tgz": (f"{W}/a.tgz", ALL),
    "web-tgz-as-content-encoding": (f"{W}/encoded.tgz", ALL),
    "web-no-length": (f"{W}/no-length", ALL),
    "web-204": (f"{W}/no-content", f"transient: {W}/no-content: the server answered 204"),
    "web-html": (f"{W}/html", f"the source is neither a zip nor a tar: it starts with b'<!DOCTYPE html><title>Go' | {W}/html | give a .zip, or a .tar as it is or packed (.gz, .bz2, .xz, .zst), that holds styles.csv and images/"),
    "web-localhost-name": ("http://localhost:PORT/a.zip", ALL),
    "web-upper-scheme": ("HTTP://127.0.0.1:PORT/a.zip", ALL),
    "web-one-slash": ("http:/127.0.0.1:PORT/a.zip", f"the source 'http:/127.0.0.1:PORT/a.zip' isn't there | {SOURCE} | check the path, or {FORMS}"),
    "web-no-host": ("https:///a.zip", unusable("https:///a.zip", "InvalidURL")),
    "web-port-nonsense": ("http://127.0.0.1:99999/a.zip", unusable("http://127.0.0.1:99999/a.zip", "InvalidURL")),
    "web-ipv6-nobody": ("http://[::1]:1/a.zip", unreached("http://[::1]:1/a.zip")),
    "web-idn": ("http://mode-größe.invalid/a.zip", unreached("http://mode-größe.invalid/a.zip")),
    "web-trailing-space": (f"{W}/a.zip ", ALL),
    "web-checksum-empty": (f"{W}/a.zip#sha256=", f"the source {W}/a.zip has no SHA-256 behind #sha256= | {SOURCE} | give its 64 hexadecimal digits"),
}  # fmt: skip


@pytest.mark.parametrize("case", WEB)
def test_an_address_is_taken_or_told_as_people_expect(case, lake, tmp_path, port, monkeypatch):
    monkeypatch.setattr("jobs.pull.RETRIES", Retry(0))
    for name in [name for name in os.environ if name.lower() in ("http_proxy", "all_proxy")]:
        monkeypatch.delenv(name)  # of whoever runs the tests: other hosts would be asked of it, as they should be
    address, expected = WEB[case]
    said = intake(lake, address.replace("PORT", str(port)), scratch=tmp_path / "scratch")
    assert said.replace(f":{port}", ":PORT") == expected
