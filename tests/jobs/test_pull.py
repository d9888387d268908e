"""pull: every kind of source becomes one zip named by its content; hostile and broken ones are refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.server
import io
import itertools
import lzma
import os
import re
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import boto3
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import archives
from infra import lake as lakes
from infra.errors import TransientError, UserError
from infra.lake import Lake
from infra.settings import read_settings
from jobs.pull import BREAKS, PULLS, pull
from jobs.run import Run
from jobs.sample import COLUMNS, sample
from tests.faulty_proxy import FaultyProxy

FILES = {"styles.csv": b"id,gender\n1,Men\n", "images/1.jpg": b"\xff\xd8one", "images/2.jpg": b"\xff\xd8two" * 500}


def a_run(tmp_path: Path, dataset: object, lake: str = "", **changes: object) -> Run:
    lake = lake or (tmp_path / "lake").as_uri()
    folders = {"logs": tmp_path / "logs", "scratch": tmp_path / "scratch"}
    return Run("r", read_settings(dataset=str(dataset), lake=lake, **folders, **changes), Lake(lake))


def zipped(files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(files: dict[str, bytes] = FILES, mode: str = "w", extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for entry in extra:
            archive.addfile(entry)
    return sink.getvalue()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def folder(path: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def raw(run: Run) -> list[str]:
    files = Path(run.lake.path("raw"))
    return sorted(item.name for item in files.iterdir()) if files.exists() else []


def row(run: Run) -> dict[str, object]:
    (only,) = run.lake.table("pulls").read().to_pylist()
    return only


def contents(run: Run) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(run.lake.read_bytes(str(row(run)["archive"])))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# What the lake holds afterwards


def test_a_zip_is_copied_byte_for_byte_and_described_in_pulls(tmp_path):
    data = zipped(method=zipfile.ZIP_DEFLATED)
    source = saved(tmp_path / "a b.zip", data)
    run = a_run(tmp_path, source)
    result = pull(run)
    sha = hashlib.sha256(data).hexdigest()
    assert run.lake.read_bytes(f"raw/{sha}.zip") == data
    expected = {"uri": source.as_uri(), "archive": f"raw/{sha}.zip", "sha256": sha, "bytes": len(data), "members": 3}
    assert row(run) == {**expected, "left_out": []}
    assert run.lake.table("pulls").read().schema == PULLS
    assert (result.rows, result.files, result.skipped, result.tables) == (1, 3, False, {"pulls": 0})
    assert result.figures == {**expected, "added": True, "left_out": 0}


def test_an_unchanged_source_adds_nothing_and_a_changed_one_adds_a_file(tmp_path):
    source = saved(tmp_path / "a.zip", zipped())
    run = a_run(tmp_path, source)
    pull(run)
    before = raw(run)
    again = pull(run)
    assert (again.skipped, again.tables, again.figures["added"], again.files) == (True, {"pulls": 0}, False, 3)
    assert raw(run) == before
    saved(source, zipped({**FILES, "images/3.jpg": b"three"}))
    changed = pull(run)
    assert (changed.skipped, changed.tables, changed.figures["added"]) == (False, {"pulls": 1}, True)
    assert len(raw(run)) == 2


def test_the_same_content_from_elsewhere_is_one_file_under_its_new_address(tmp_path):
    run = a_run(tmp_path, saved(tmp_path / "a.zip", zipped()))
    pull(run)
    moved = a_run(tmp_path, saved(tmp_path / "b.zip", zipped()))
    result = pull(moved)
    assert (result.skipped, result.figures["added"]) == (False, False)
    assert row(moved)["uri"] == (tmp_path / "b.zip").as_uri()
    assert len(raw(run)) == 1


def test_a_raw_file_that_was_removed_is_brought_back(tmp_path):
    run = a_run(tmp_path, saved(tmp_path / "a.zip", zipped()))
    pull(run)
    (name,) = raw(run)
    Path(run.lake.path(f"raw/{name}")).unlink()
    assert pull(run).figures["added"] is True
    assert raw(run) == [name]


def test_folder_and_tars_of_the_same_files_become_the_same_zip_whatever_order_and_dates(tmp_path):
    one, other = folder(tmp_path / "one"), folder(tmp_path / "other", dict(reversed(FILES.items())))
    os.utime(other / "styles.csv", (1, 1))
    sources = [
        one,
        other.as_uri(),
        saved(tmp_path / "a.tar", tarred()),
        saved(tmp_path / "b.tar.gz", tarred(dict(reversed(FILES.items())), "w:gz")),
        saved(tmp_path / "c.tgz", gzip.compress(tarred(), mtime=99)),
    ]
    for source in sources:
        run = a_run(tmp_path, source)
        pull(run)
        assert contents(run) == FILES
    assert len(raw(run)) == 1
    with zipfile.ZipFile(run.lake.path(f"raw/{raw(run)[0]}")) as archive:
        assert archive.namelist() == sorted(FILES)
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_file_address_is_taken_letter_by_letter(tmp_path):
    source = folder(tmp_path / "look #2?b 50%25")
    run = a_run(tmp_path, f"file://{tmp_path}/look #2?b 50%2525")
    pull(run)
    assert row(run)["uri"] == source.as_uri()


def test_a_relative_path_is_recorded_absolute(tmp_path, monkeypatch):
    saved(tmp_path / "a.zip", zipped())
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path, "./a.zip")
    pull(run)
    assert row(run)["uri"] == (tmp_path / "a.zip").as_uri()


def test_the_sample_is_drawn_once_and_holds_what_it_lists(tmp_path):
    run = a_run(tmp_path, "sample:160?seed=3")
    pull(run)
    assert pull(run).skipped
    files = contents(run)
    products = list(sample(160, 3))
    lines = files.pop("styles.csv").decode().splitlines()
    assert lines == [",".join(COLUMNS), *(",".join(product.row) for product in products)]
    assert files == {f"images/{p.row[0]}.jpg": p.image for p in products if p.image is not None}
    assert len(files) == 159
    assert row(run)["uri"] == "sample:160?seed=3"
    assert len(raw(run)) == 1


# S3


@pytest.fixture
def objects(bucket):
    def put(files: dict[str, bytes]) -> str:
        for key, data in files.items():
            boto3.client("s3", region_name="us-east-1").put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}"

    return put


def test_an_archive_on_s3_is_copied_byte_for_byte(tmp_path, objects):
    data = zipped()
    source = objects({"in/a.zip": data}) + "/in/a.zip"
    run = a_run(tmp_path, source)
    pull(run)
    assert (row(run)["uri"], row(run)["sha256"]) == (source, hashlib.sha256(data).hexdigest())


def test_a_prefix_on_s3_becomes_the_same_zip_as_the_folder(tmp_path, objects):
    many = FILES | {f"images/{i}.jpg": bytes([i]) * i for i in range(3, 60)}
    source = objects({f"in/{name}": data for name, data in many.items()} | {"in-other/x": b"x"}) + "/in/"
    for dataset in (source, folder(tmp_path / "folder", many)):
        run = a_run(tmp_path, dataset)
        pull(run)
        assert contents(run) == many
    assert len(raw(run)) == 1


def test_a_lake_on_s3_takes_an_archive_of_several_parts_once(tmp_path, bucket):
    data = zipped({**FILES, "images/big.jpg": os.urandom(17 * 2**20)})
    run = a_run(tmp_path, saved(tmp_path / "a.zip", data), lake=f"s3://{bucket}/lake")
    assert pull(run).figures["added"] is True
    assert pull(run).skipped
    assert run.lake.read_bytes(str(row(run)["archive"])) == data
    listed = boto3.client("s3", region_name="us-east-1").list_objects_v2(Bucket=bucket, Prefix="lake/raw/")
    assert [item["Size"] for item in listed["Contents"]] == [len(data)]


ODD_KEYS = [
    "look #1.zip",
    "new?.zip",
    "in//box.zip",
    "/lead.zip",
    "my%20a.zip",
    "a+b (1) [x] ü.zip",
    "?a=b#c?",
    "a/../b",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_on_s3_is_the_one_that_is_written(tmp_path, objects, key):
    data = zipped()
    source = objects({key: data, "look ": b"x", "new": b"x", "in/box.zip": b"x", "lead.zip": b"x"}) + f"/{key}"
    run = a_run(tmp_path, source)
    pull(run)
    assert (row(run)["uri"], row(run)["sha256"]) == (source, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("prefix", ["in", "in//", "look #2", "what?", "a=b&c"])
def test_a_prefix_on_s3_with_odd_letters_and_doubled_slashes_is_read(tmp_path, objects, prefix):
    many = {name.replace("images/", "images//"): data for name, data in FILES.items()}
    source = objects({f"{prefix}/{name}": data for name, data in many.items()} | {"in/": b"", "in/images/": b""})
    run = a_run(tmp_path, f"{source}/{prefix}/")
    pull(run)
    assert contents(run) == many


def test_without_versions_an_object_is_the_version_null(tmp_path, objects):
    run = a_run(tmp_path, objects({"a.zip": zipped()}) + "/a.zip?versionId=null")
    pull(run)
    assert contents(run) == FILES


def test_the_version_asked_for_is_pulled(tmp_path, bucket):
    client = boto3.client("s3", region_name="us-east-1")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = client.put_object(Bucket=bucket, Key="a.zip", Body=zipped())["VersionId"]
    client.put_object(Bucket=bucket, Key="a.zip", Body=zipped({"styles.csv": b"new"}))
    run = a_run(tmp_path, f"s3://{bucket}/a.zip?versionId={old}")
    pull(run)
    assert contents(run) == FILES
    assert row(run)["uri"].endswith(f"/a.zip?versionId={old}")
    with pytest.raises(UserError, match="isn't there"):
        pull(a_run(tmp_path, f"s3://{bucket}/a.zip?versionId=null"))
    client.delete_object(Bucket=bucket, Key="a.zip")
    for absent in ("a.zip?versionId=none", "a.zip"):
        with pytest.raises(UserError, match="isn't there") as caught:
            pull(a_run(tmp_path, f"s3://{bucket}/{absent}"))
        assert f"/{absent} " in str(caught.value)


@pytest.mark.parametrize("source", ["s3://", "s3:///", "s3:///a.zip", "s3://?versionId=1", "s3://k:s@", "s3://a b/c"])
def test_without_a_bucket_nothing_is_read_from_any(tmp_path, objects, source):
    objects(FILES)
    assert "names no bucket" in str(refused(tmp_path, source))


def test_an_object_that_changes_while_its_prefix_is_read_is_transient(tmp_path, objects, monkeypatch):
    source = objects({f"in/{name}": data for name, data in FILES.items()}) + "/in"
    monkeypatch.setattr(archives, "refuse_excess", lambda *_: objects({"in/images/1.jpg": b"longer than it was"}))
    with pytest.raises(TransientError, match="changed while it was read"):
        pull(a_run(tmp_path, source))


@pytest.mark.parametrize("source", ["s3://no-such-bucket-here/a.zip", "s3://{bucket}/none.zip", "s3://{bucket}/none/"])
def test_what_is_not_on_s3_is_named(tmp_path, bucket, source):
    uri = source.format(bucket=bucket)
    with pytest.raises(UserError, match="isn't there") as caught:
        pull(a_run(tmp_path, uri))
    assert uri in str(caught.value)


def test_s3_that_cannot_be_reached_is_transient(tmp_path, monkeypatch, bucket):
    monkeypatch.setattr(lakes, "ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="could not be reached"):
        pull(a_run(tmp_path, f"s3://{bucket}/a.zip"))


def test_an_archive_goes_from_s3_to_s3_byte_for_byte_through_a_network_that_fails(
    tmp_path, bucket, s3_endpoint, monkeypatch
):
    data = zipped({**FILES, "images/big.jpg": os.urandom(40 * 2**20)})
    boto3.client("s3", region_name="us-east-1").put_object(Bucket=bucket, Key="in/a.zip", Body=data)
    turn = itertools.cycle(["", "503", "", "cut", "", ""])
    with FaultyProxy(s3_endpoint, lambda *_: next(turn)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = a_run(tmp_path, f"s3://{bucket}/in/a.zip", lake=f"s3://{bucket}/lake")
        pull(run)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert Lake(run.lake.uri).read_bytes(f"raw/{hashlib.sha256(data).hexdigest()}.zip") == data
    sent = [each for each in proxy.asked if each.method == "PUT" and "partNumber" in each.target]
    assert {each.target.split("partNumber=")[1].split("&")[0] for each in sent} == {"1", "2", "3"}
    assert all(any(name.startswith("x-amz-checksum-") for name in each.headers) for each in sent)
    assert {"503", "cut"} <= {each.fault for each in proxy.asked}


PULL = """
import re
from pathlib import Path
from jobs import pull, step

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before = peak_mb()
code = step.main("pull", ["--run", "2026-01-31"])
print(peak_mb() - before)
raise SystemExit(code)
"""


@pytest.mark.parametrize("source", ["http", "s3"])
def test_an_archive_larger_than_the_memory_it_may_take_is_pulled_to_s3(tmp_path, bucket, site, source):
    megabytes, bound = 192, 160
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
        for number in range(megabytes // 4):
            archive.writestr(f"images/{number + 10}.jpg", os.urandom(4 * 2**20))
    if source == "http":
        dataset = site.answer("/a.zip", 200, (tmp_path / "a.zip").read_bytes())
    else:
        boto3.client("s3", region_name="us-east-1").upload_file(str(tmp_path / "a.zip"), bucket, "in/a.zip")
        dataset = f"s3://{bucket}/in/a.zip"
    env = {"LOOKALIKE_DATASET": dataset, "LOOKALIKE_LAKE": f"s3://{bucket}/lake", "LOOKALIKE_LOGS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PULL],
        env=os.environ | env | {"LOOKALIKE_SCRATCH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < bound


# The web


class Site:
    """A web server that answers from `answers` (path → status, body) and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sent: list[tuple[int, int]] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, dict(self.headers)))
                status, body, headers = site.answers[self.path.split("?")[0]]
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if asked and self.headers["If-Range"] in (headers.get("ETag"), headers.get("Last-Modified")):
                    start = int(asked[1])
                    headers = {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
                    status, body = 206, body[start:]
                site.sent.append((status, len(body)))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, status: int, body: bytes = b"", **headers: str) -> str:
        self.answers[path] = status, body, {name.replace("_", "-"): value for name, value in headers.items()}
        return f"http://{self.host}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.mark.parametrize("data", [zipped(), tarred(mode="w:gz")], ids=["zip", "tgz"])
def test_an_archive_on_the_web_is_fetched_and_unchanged_adds_nothing(tmp_path, site, data):
    run = a_run(tmp_path, site.answer("/a", 200, data))
    assert pull(run).figures["added"] is True
    assert contents(run) == FILES
    assert pull(run).skipped
    assert len(raw(run)) == 1


def test_a_redirect_is_followed_and_the_asked_address_recorded(tmp_path, site):
    target = site.answer("/real.zip", 200, zipped())
    asked = site.answer("/a.zip", 302, Location=target)
    run = a_run(tmp_path, asked)
    pull(run)
    assert row(run)["uri"] == asked


@pytest.mark.parametrize(
    "target", ["/ü.zip", "http://h/\xff", "file:///etc/passwd", "http://[::1", "//", "http://a:99999/"]
)
def test_a_redirect_to_an_address_that_is_none_is_told(tmp_path, site, target):
    source = site.answer("/a.zip", 302, Location=target)
    with pytest.raises((UserError, TransientError)) as caught:
        pull(a_run(tmp_path, source))
    assert source in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_answer_that_will_not_change_is_the_users_to_mend(tmp_path, site, status):
    url = site.answer("/a.zip", status)
    with pytest.raises(UserError, match=f"the server answered {status}") as caught:
        pull(a_run(tmp_path, url))
    assert url in str(caught.value)
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_a_failing_server_is_asked_again_and_then_is_transient(tmp_path, site, status):
    with pytest.raises(TransientError, match=f"the server answered {status}"):
        pull(a_run(tmp_path, site.answer("/a.zip", status)))
    assert len(site.asked) == 4


def test_a_server_that_breaks_off_or_is_not_there_is_transient_and_leaves_nothing(tmp_path, site):
    run = a_run(tmp_path, site.answer("/a.zip", 200, zipped(), Content_Length="99999"))
    with pytest.raises(TransientError, match="broke off"):
        pull(run)
    assert raw(run) == []
    with pytest.raises(TransientError, match="can't be reached"):
        pull(a_run(tmp_path, "http://127.0.0.1:9/a.zip"))


LARGE = zipped({**FILES, "images/big.jpg": os.urandom(6 * 2**20)})


@pytest.fixture
def breaking(site, monkeypatch):
    """A function that puts a proxy before the site, which breaks off in the middle of as many answers as it is told."""
    monkeypatch.setattr("jobs.pull.BREAK_S", 0.01)
    with ExitStack() as held:

        def put(times: int, path: str) -> str:
            left = iter(["cut"] * times)
            proxy = held.enter_context(FaultyProxy(f"http://{site.host}", lambda *_: next(left, "")))
            return proxy.url + path

        yield put


@pytest.mark.parametrize("name", [{"ETag": '"v1"'}, {"Last-Modified": "Sat, 31 Jan 2026 00:00:00 GMT"}])
def test_a_download_that_breaks_off_goes_on_where_it_did(tmp_path, site, breaking, name):
    site.answer("/a.zip", 200, LARGE, **{key.replace("-", "_"): value for key, value in name.items()})
    run = a_run(tmp_path, breaking(2, "/a.zip"))
    pull(run)
    assert run.lake.read_bytes(str(row(run)["archive"])) == LARGE
    assert [status for status, _ in site.sent] == [200, 206, 206]
    assert len(LARGE) > site.sent[1][1] > site.sent[2][1]


@pytest.mark.parametrize("tag", [{}, {"ETag": 'W/"v1"'}])
def test_a_download_that_breaks_off_starts_over_where_the_content_has_no_name(tmp_path, site, breaking, tag):
    site.answer("/a.zip", 200, LARGE, **tag)
    run = a_run(tmp_path, breaking(1, "/a.zip"))
    pull(run)
    assert run.lake.read_bytes(str(row(run)["archive"])) == LARGE
    assert site.sent == [(200, len(LARGE))] * 2


def test_what_changes_while_it_is_downloaded_is_fetched_anew(tmp_path, site, breaking):
    class Changing(dict):
        """Another content for every request."""

        def __getitem__(self, path: str) -> tuple[int, bytes, dict[str, str]]:
            versions = len(site.sent)
            return 200, zipped({**FILES, "x": bytes([versions]) * 5 * 2**20}), {"ETag": f'"v{versions}"'}

    site.answers = Changing()
    run = a_run(tmp_path, breaking(1, "/a.zip"))
    pull(run)
    assert contents(run)["x"] == bytes([1]) * 5 * 2**20
    assert [status for status, _ in site.sent] == [200, 200]


def test_a_download_that_never_comes_further_is_given_up(tmp_path, site, breaking):
    site.answer("/a.zip", 200, LARGE)
    run = a_run(tmp_path, breaking(99, "/a.zip"))
    with pytest.raises(TransientError, match="broke off"):
        pull(run)
    assert len(site.sent) == BREAKS + 1
    assert raw(run) == []


# The checksum


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_with_the_checksum_asked_for_is_taken_and_another_refused(tmp_path, site, pack):
    data = pack()
    right, wrong = hashlib.sha256(data).hexdigest(), "0" * 64
    for source in (saved(tmp_path / "a", data), site.answer("/a", 200, data)):
        run = a_run(tmp_path, f"{source}#sha256={right.upper()}")
        pull(run)
        assert contents(run) == FILES
        assert row(run)["uri"] in (str(source), f"file://{source}")
        assert f"has SHA-256 {right}, and {wrong} is asked for" in str(
            refused(tmp_path / "2", f"{source}#sha256={wrong}")
        )


@pytest.mark.parametrize("source", ["sample:10", "kaggle:owner/name", "{folder}", "{folder}/a.zip#sha256=12"])
def test_a_checksum_that_cannot_be_compared_is_refused(tmp_path, source):
    asked = source.format(folder=folder(tmp_path / "in"))
    assert "sha256" in str(refused(tmp_path, asked if "#" in asked else f"{asked}#sha256={'0' * 64}"))


def test_credentials_in_an_address_are_used_but_never_stored_shown_or_logged(tmp_path, site, caplog, capfd):
    site.answer("/a.zip", 200, zipped())
    address = f"http://user:s3cret@{site.host}/a.zip?X-Signature=s3cret#s3cret"
    run = a_run(tmp_path, address)
    result = pull(run)
    assert site.asked[0][0] == "/a.zip?X-Signature=s3cret"
    assert site.asked[0][1]["Authorization"].startswith("Basic ")
    assert row(run)["uri"] == f"http://{site.host}/a.zip"
    said = [str(result), str(row(run))]
    site.answer("/a.zip", 503)
    for failing in (
        address,
        address.replace(site.host, "127.0.0.1:9"),
        address.replace("a.zip", "404"),
        address.replace("http://", "ftp://"),
        address.replace("http://", "http:/"),
        address.replace("http://", "file://"),
        "http://user:s3cret/s3cret@host/a.zip",
        "http://user:s3cret@[::1/a.zip?s3cret",
    ):
        site.answer("/404", 404)
        with pytest.raises((UserError, TransientError)) as caught:
            pull(a_run(tmp_path, failing))
        said.append(str(caught.value))
    said += [caplog.text, *capfd.readouterr()]
    assert all("s3cret" not in text for text in said)


def test_s3_that_refuses_is_the_users_to_mend(tmp_path, monkeypatch, bucket, site):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{site.host}")
    site.answer("/bucket/a.zip", 403)
    with pytest.raises(UserError, match="refused.*403") as caught:
        pull(a_run(tmp_path, "s3://bucket/a.zip"))
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy


# Kaggle: the real client, towards a server of ours or nothing


@pytest.fixture
def kaggle(monkeypatch, tmp_path, site) -> Site:
    """Kaggle's client finds `site` in Kaggle's place, no credentials, and an empty cache."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://{site.host}")
    return site


def test_a_kaggle_data_set_is_downloaded_by_its_client_and_packed_as_a_folder(tmp_path, kaggle):
    kaggle.answers["http://localhost/api/v1/datasets.DatasetApiService/DownloadDataset"] = 200, zipped(), {}
    run = a_run(tmp_path, "kaggle:owner/name/versions/3")
    pull(run)
    assert contents(run) == FILES
    assert row(run)["uri"] == "kaggle:owner/name/versions/3"


@pytest.mark.parametrize(("status", "error"), [(403, UserError), (404, UserError), (500, TransientError)])
def test_what_kaggle_refuses_says_how_to_sign_in(tmp_path, kaggle, status, error):
    kaggle.answers = _Everything((status, b"{}", {}))
    with pytest.raises(error, match=f"Kaggle answered {status}") as caught:
        pull(a_run(tmp_path, "kaggle:owner/name"))
    assert error is TransientError or "KAGGLE_API_TOKEN" in caught.value.remedy


class _Everything(dict):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self._answer = answer

    def __missing__(self, key: str) -> object:
        return self._answer


def test_kaggle_without_a_network_is_transient(tmp_path, kaggle, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="kaggle:owner/name: Kaggle can't be reached"):
        pull(a_run(tmp_path, "kaggle:owner/name"))


# Hostile and broken archives


def refused(tmp_path: Path, source: object, **changes: object) -> UserError:
    run = a_run(tmp_path, source, **changes)
    with pytest.raises(UserError) as caught:
        pull(run)
    assert raw(run) == []
    assert run.lake.table("pulls").version == -1
    assert caught.value.remedy
    return caught.value


def test_a_zip_above_the_limit_by_its_declared_size_is_refused(tmp_path):
    source = saved(tmp_path / "a.zip", zipped({"a": bytes(2000)}, zipfile.ZIP_DEFLATED))
    assert "bomb: it unpacks to at least 2,000 bytes, and 1,999 are" in str(
        refused(tmp_path, source, archive_max_bytes=1999)
    )
    pull(a_run(tmp_path, source, archive_max_bytes=2000))


def test_a_zip_that_declares_less_than_it_holds_is_refused(tmp_path):
    data = bytearray(zipped({"a": bytes(5000)}, zipfile.ZIP_DEFLATED))
    for size in (
        data.index(b"PK\x01\x02") + 24,
        22,
    ):  # the uncompressed size in the directory and in the member's header
        struct.pack_into("<L", data, size, 10)
    assert "damaged: Bad CRC-32" in str(refused(tmp_path, saved(tmp_path / "a.zip", bytes(data))))


def test_a_zip_that_unpacks_to_hundreds_of_times_its_size_is_refused(tmp_path):
    bomb = zipped({"a": bytes(archives.RATIO_FROM + 1)}, zipfile.ZIP_DEFLATED)
    assert "more than 200 times as much" in str(refused(tmp_path, saved(tmp_path / "a.zip", bomb)))


def test_a_zip_whose_members_share_bytes_is_refused(tmp_path):
    data = zipped({"a": os.urandom(3000), "b": b"x" * 3000})
    directory = data.index(b"PK\x01\x02")
    entry = data[directory : data.index(b"PK\x01\x02", directory + 4)]
    twice = bytearray(data[:directory] + entry * 2 + data[-22:])
    struct.pack_into("<L", twice, len(twice) - 10, 2 * len(entry))
    assert "overlaps another" in str(refused(tmp_path, saved(tmp_path / "a.zip", bytes(twice))))


def test_an_encrypted_zip_is_refused_with_its_member(tmp_path):
    data = bytearray(zipped())
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 8, 1)
    assert "'styles.csv' is encrypted" in str(refused(tmp_path, saved(tmp_path / "a.zip", bytes(data))))


def test_a_zip_packed_by_another_method_is_refused_with_its_member(tmp_path):
    source = saved(tmp_path / "a.zip", zipped(method=zipfile.ZIP_LZMA))
    assert "'styles.csv' is packed by method 14" in str(refused(tmp_path, source))


def test_a_zip_cut_short_or_with_a_flipped_byte_is_refused_as_damaged(tmp_path):
    data = zipped({"styles.csv": os.urandom(4000)}, zipfile.ZIP_DEFLATED)
    assert "damaged" in str(refused(tmp_path, saved(tmp_path / "cut.zip", data[:2000])))
    flipped = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    assert "damaged" in str(refused(tmp_path, saved(tmp_path / "flip.zip", flipped)))


def test_a_part_of_a_zip_is_told_as_one(tmp_path):
    data = zipped({f"images/{n}.jpg": os.urandom(400) for n in range(20)})
    first = refused(tmp_path, saved(tmp_path / "a.zip.001", data[:5000]))
    last = refused(tmp_path, saved(tmp_path / "a.zip.002", data[5000:]))
    assert ("its end is missing" in first.problem, "its beginning is missing" in last.problem) == (True, True), first
    assert "join its parts" in last.remedy


def test_what_gzip_holds_is_a_zip_or_tar_or_told(tmp_path):
    run = a_run(tmp_path, saved(tmp_path / "a.zip.gz", gzip.compress(zipped())))
    pull(run)
    assert contents(run) == FILES
    for data, found in ((b"id,gender", "b'id,gender'"), (gzip.compress(zipped()), "\\x1f\\x8b"), (b"", "it is empty")):
        with pytest.raises(UserError) as caught:
            pull(a_run(tmp_path, saved(tmp_path / "a.csv.gz", gzip.compress(data))))
        said = str(caught.value)
        assert "packed by gzip, and inside is neither a zip nor a tar" in said
        assert found in said


PACKED = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("packing", PACKED)
def test_a_tar_that_is_packed_is_the_same_source(tmp_path, packing):
    pack, data = PACKED[packing], tarred()
    plain = pull(a_run(tmp_path, saved(tmp_path / "a.tar", data))).figures["sha256"]
    for packed in (pack(data), pack(data[:5000]) + pack(data[5000:]), pack(data) + bytes(512)):
        assert pull(a_run(tmp_path, saved(tmp_path / "b", packed))).figures["sha256"] == plain
    assert "BZh" in str(refused(tmp_path / "other", saved(tmp_path / "c", pack(bz2.compress(data)))))


@pytest.mark.parametrize("packing", PACKED)
def test_a_packed_tar_that_was_cut_or_has_a_flipped_byte_is_refused_as_damaged(tmp_path, packing):
    data = PACKED[packing](tarred({f"images/{n}.jpg": os.urandom(2000) for n in range(20)}))
    for cut in (data[: len(data) // 2], data[:-1], data + b"more"):
        assert "damaged" in str(refused(tmp_path, saved(tmp_path / "cut", cut)))
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    run = a_run(tmp_path, saved(tmp_path / "flip", bytes(flipped)))
    if packing == "zstd":  # which has no checksum unless it is asked for: the bytes of an image may differ
        with suppress(UserError):
            pull(run)
    else:
        assert "damaged" in str(refused(tmp_path, saved(tmp_path / "flip", bytes(flipped))))


@pytest.mark.parametrize("packing", PACKED)
def test_a_bomb_is_refused_by_what_it_unpacks_to(tmp_path, packing):
    bomb = PACKED[packing](bytes(archives.RATIO_FROM + 2**20))
    assert "more than 200 times as much" in str(refused(tmp_path, saved(tmp_path / "a.tar", bomb)))
    source = saved(tmp_path / "b.tar", PACKED[packing](tarred({"a": bytes(20_000)})))
    assert "archive bomb" in str(refused(tmp_path, source, archive_max_bytes=19_999))


def test_xz_that_asks_for_gigabytes_of_memory_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    packed = bytearray(lzma.compress(tarred(), filters=[{**filters[0], "dict_size": 2**20}]))
    at = packed.index(b"\x21\x01") + 2  # the size of its dictionary, and then the header's checksum
    packed[at] = 36
    header = 12 + 4 * (packed[12] + 1)
    packed[header - 4 : header] = zlib.crc32(packed[12 : header - 4]).to_bytes(4, "little")
    assert "Memory usage limit" in str(refused(tmp_path, saved(tmp_path / "a.tar.xz", bytes(packed))))


def test_a_tar_of_before_posix_is_one(tmp_path):
    data = bytearray(tarred({"styles.csv": b"id"}))
    data[257:265] = bytes(8)  # its sign
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    for packed in (bytes(data), gzip.compress(bytes(data))):
        run = a_run(tmp_path, saved(tmp_path / "a.tar", packed))
        pull(run)
        assert contents(run) == {"styles.csv": b"id"}


def test_names_that_leave_the_folder_stay_in_the_zip_and_write_nothing(tmp_path):
    hostile = {"../../outside.txt": b"x", "/tmp/absolute.txt": b"y", **FILES}
    for source in (saved(tmp_path / "a.zip", zipped(hostile)), saved(tmp_path / "a.tar", tarred(hostile))):
        run = a_run(tmp_path, source)
        pull(run)
        assert contents(run) == hostile
    assert not list(tmp_path.parent.rglob("outside.txt")) + list(tmp_path.rglob("absolute.txt"))


def entry_of(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def left_out(run: Run) -> dict[str, str]:
    return {item["file"]: item["reason"] for item in row(run)["left_out"]}


def test_links_out_of_a_tar_and_devices_are_left_out_and_named(tmp_path):
    special = {"a": tarfile.SYMTYPE, "b": tarfile.LNKTYPE, "c": tarfile.CHRTYPE, "d": tarfile.FIFOTYPE}
    extra = [entry_of(kind, f"images/{name}", "/etc/passwd") for name, kind in special.items()]
    extra += [entry_of(tarfile.SYMTYPE, "images/e", "../../x"), entry_of(tarfile.DIRTYPE, "images")]
    run = a_run(tmp_path, saved(tmp_path / "a.tar", tarred(extra=tuple(extra))))
    assert pull(run).figures["left_out"] == 5
    assert contents(run) == FILES
    assert left_out(run) == {
        "images/a": "link out of the source",
        "images/b": "broken link",
        "images/c": "no plain file",
        "images/d": "no plain file",
        "images/e": "link out of the source",
    }


def test_hard_links_of_a_tar_are_the_files_that_they_are(tmp_path):
    """As a deduplicating backup makes them; tar writes a second name of one file as a link to the first."""
    extra = (
        entry_of(tarfile.LNKTYPE, "images/3.jpg", "images/1.jpg"),
        entry_of(tarfile.LNKTYPE, "images/4.jpg", "./images/3.jpg"),
        entry_of(tarfile.LNKTYPE, "images/1.jpg", "images/1.jpg"),
    )
    run = a_run(tmp_path, saved(tmp_path / "a.tar", tarred(extra=extra)))
    assert pull(run).figures["left_out"] == 0
    assert contents(run) == FILES | {f"images/{n}.jpg": FILES["images/1.jpg"] for n in (3, 4)}


LINKS = {
    "images/3.jpg": "2.jpg",
    "images/4.jpg": "../images/3.jpg",
    "photos": "images",
    "..data": "images/..",  # the folder that it lies in: all of it is there once
    "round": "round",
    "broken.jpg": "images/none.jpg",
    "out": "../..",
}


def linked_folder(path: Path) -> Path:
    folder(path)
    for name, target in LINKS.items():
        (path / name).symlink_to(target)
    return path


def linked_tar(path: Path) -> Path:
    extra = tuple(entry_of(tarfile.SYMTYPE, name, target) for name, target in LINKS.items())
    return saved(path, tarred(extra=extra))


def linked_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
        for name, target in LINKS.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
    return path


@pytest.mark.parametrize("make", [linked_folder, linked_tar, linked_zip])
def test_links_to_what_the_source_holds_are_followed_and_others_named(tmp_path, make):
    run = a_run(tmp_path, make(tmp_path / "in"))
    assert pull(run).figures["left_out"] == 3
    one, two = FILES["images/1.jpg"], FILES["images/2.jpg"]
    more = {"images/3.jpg": two, "images/4.jpg": two, "photos/1.jpg": one, "photos/2.jpg": two}
    assert contents(run) == FILES | more
    reasons = {"round": "link out of the source", "broken.jpg": "broken link", "out": "link out of the source"}
    assert left_out(run) == reasons


def test_a_folder_of_links_as_kubernetes_mounts_one_is_read(tmp_path):
    real = folder(tmp_path / "in/..2026_01_31")
    (tmp_path / "in/..data").symlink_to(real.name)
    for name in ("styles.csv", "images"):
        (tmp_path / "in" / name).symlink_to(f"..data/{name}")
    run = a_run(tmp_path, tmp_path / "in")
    assert pull(run).figures["left_out"] == 0
    assert {name: data for name, data in contents(run).items() if not name.startswith("..")} == FILES


@pytest.mark.parametrize("table", ["styles.parquet", "styles.jsonl.gz", "styles/_delta_log/0.json"])
def test_a_link_to_a_folder_with_a_catalogue_of_any_form_does_not_double_it(tmp_path, table):
    source = folder(tmp_path / "in", {f"2026/{name}": b"x" for name in (table, "images/1.jpg")})
    (source / "latest").symlink_to("2026")
    run = a_run(tmp_path, source)
    assert pull(run).files == 2
    (source / "photos").symlink_to("2026/images")
    run = a_run(tmp_path, source)
    pull(run)
    assert contents(run).keys() == {f"2026/{table}", "2026/images/1.jpg", "photos/1.jpg"}


def test_a_source_of_nothing_but_links_out_of_it_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/styles.csv").symlink_to("/etc/passwd")
    error = refused(tmp_path, tmp_path / "in")
    assert "holds no file; 1 left out, such as styles.csv: link out of the source: it leads to '/etc/passwd'" in str(
        error
    )
    assert "cp -rL" in error.remedy


def test_what_is_left_out_is_part_of_the_content(tmp_path):
    source = folder(tmp_path / "in")
    before = pull(a_run(tmp_path, source)).contents
    (source / "images/3.jpg").symlink_to("/etc/passwd")
    changed = pull(a_run(tmp_path, source))
    assert (changed.skipped, changed.contents != before, changed.figures["added"]) == (False, True, False)


def test_pipes_in_a_folder_are_left_out_and_named(tmp_path):
    source = folder(tmp_path / "in")
    os.mkfifo(source / "images/pipe.jpg")
    run = a_run(tmp_path, source)
    assert pull(run).figures["left_out"] == 1
    assert (contents(run), left_out(run)) == (FILES, {"images/pipe.jpg": "no plain file"})


def test_links_that_lead_to_far_more_files_than_there_are_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "COPIES_MAX", 100)
    source = folder(tmp_path / "in", {"styles.csv": b"id"} | {f"images/{n}.jpg": b"x" for n in range(30)})
    for number in range(4):
        (source / f"again{number}").symlink_to("images")
    assert "its links lead to more than 100 files" in str(refused(tmp_path, source))


def test_the_last_of_several_tar_members_of_one_name_counts(tmp_path):
    first = tarred({"styles.csv": b"old", "images/1.jpg": b"1"})
    both = first[: 4 * 512] + tarred({"styles.csv": b"new"})
    run = a_run(tmp_path, saved(tmp_path / "a.tar", both))
    pull(run)
    assert contents(run) == {"styles.csv": b"new", "images/1.jpg": b"1"}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_above_the_limit_is_refused(tmp_path, mode):
    source = saved(tmp_path / "a.tar", tarred({"a": bytes(20_000)}, mode))
    assert "archive bomb" in str(refused(tmp_path, source, archive_max_bytes=19_999))


def test_a_tar_with_a_header_of_absurd_size_is_refused_before_it_is_read(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, archives.HEADER_MAX + 1
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(archives.HEADER_MAX + 1024)
    assert "a header declares" in str(refused(tmp_path, saved(tmp_path / "a.tar", data)))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_cut_short_is_refused_or_says_that_a_member_ends_early(tmp_path, mode):
    data = tarred({"a": os.urandom(30_000), "b": b"b"}, mode)
    run = a_run(tmp_path, saved(tmp_path / "a.tar", data[:15_000]))
    with pytest.raises(UserError, match="damaged"):
        pull(run)
    assert raw(run) == []


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_archive_with_changed_bytes_is_taken_or_refused_but_never_a_crash(data, tmp_path):
    whole = data.draw(
        st.sampled_from(
            [zipped(method=zipfile.ZIP_DEFLATED), zipped(), tarred(), *(pack(tarred()) for pack in PACKED.values())]
        )
    )
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    source = saved(tmp_path / "a", bytes(changed[: cut if data.draw(st.booleans()) else None]))
    with suppress(UserError):
        assert pull(a_run(tmp_path, source)).files >= 1


# What else can be wrong with a source


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("", "'' isn't there"),
        ("/no/such/file.zip", "'/no/such/file.zip' isn't there"),
        ("file:///no/such/file.zip", "isn't there"),
        ("file://host/a.zip", "another machine, 'host'"),
        ("file://[::1]/a.zip", "another machine, '[::1]'"),
        ("/" + "x" * 300, "isn't there"),
        ("/dev/null", "neither a file nor a folder"),
        ("ftp://host/a.zip", "a kind of source that isn't known"),
        ("hdfs://host/a.zip", "a kind of source that isn't known"),
        ("sample:0", "is no sample"),
        ("sample:ten", "is no sample"),
        ("sample:10?seed=-1", "is no sample"),
        ("kaggle:name", "names no Kaggle data set"),
        ("kaggle:../..", "names no Kaggle data set"),
        ("http://", "can't be fetched"),
    ],
)
def test_a_source_that_cannot_be_is_named_with_its_value_place_and_remedy(tmp_path, dataset, message):
    error = refused(tmp_path, dataset)
    assert message in str(error)
    assert dataset.removeprefix("file://") in str(error)
    assert "LOOKALIKE_DATASET" in error.where


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("file://[::1/a.zip", "is on another machine"), ("file:///a%00b", "isn't there"), ("/a\0b", "isn't there")],
)
def test_an_address_that_is_none_is_refused(tmp_path, dataset, message):
    assert message in str(refused(tmp_path, dataset))


@pytest.mark.parametrize(("data", "found"), [(b"", "it is empty"), (b"<!DOCTYPE html><p>Sign in", "<!DOCTYPE html>")])
def test_a_file_that_is_no_archive_is_refused_with_what_it_is(tmp_path, data, found):
    assert found in str(refused(tmp_path, saved(tmp_path / "a.zip", data)))


def test_a_source_without_files_is_refused(tmp_path):
    (tmp_path / "empty" / "images").mkdir(parents=True)
    only_folder = tarfile.TarInfo("images")
    only_folder.type = tarfile.DIRTYPE
    tar = saved(tmp_path / "a.tar", tarred({}, extra=(only_folder,)))
    for source in (tmp_path / "empty", tar, saved(tmp_path / "a.zip", zipped({}))):
        assert "holds no file" in str(refused(tmp_path, source))


def test_a_disk_that_is_full_or_read_only_is_told_by_the_setting_that_chooses_it(tmp_path, small_disk):
    source, elsewhere = folder(tmp_path / "source", {"images/1.jpg": os.urandom(2**21)}), tmp_path / "elsewhere"
    changes = {"LAKE": (small_disk / "lake", elsewhere), "SCRATCH": (elsewhere, small_disk / "scratch")}
    for found in (f"the disk of {small_disk}", f"{small_disk}/"):
        for name, (lake, scratch) in changes.items():
            settings = read_settings(dataset=str(source), lake=lake.as_uri(), scratch=scratch, logs=tmp_path / "logs")
            with pytest.raises(UserError, match=f"set LOOKALIKE_{name} to a folder") as caught:
                pull(Run("r", settings, Lake(settings.lake)))
            assert caught.value.problem.startswith(found)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
