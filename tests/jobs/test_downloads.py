"""Images at URLs: each content once in the lake, nothing asked for twice, nothing lost, however a night ends."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from infra.errors import TransientError, UserError
from infra.lake import Lake
from infra.settings import read_settings
from jobs import downloads
from jobs.catalog import Found, Known, store_images
from jobs.downloads import Downloaded, download
from jobs.rejects import Rejects
from jobs.run import Run
from jobs.sample import sample
from tests.web_server import WebServer


@pytest.fixture
def site() -> Iterator[WebServer]:
    with closing(WebServer()) as site:
        yield site


def a_run(place: Path | str, name: str = "2026-01-01", **changes: object) -> Run:
    lake = place if isinstance(place, str) else (place / "lake").as_uri()
    return Run(name, read_settings(**{"lake": lake, "image_hosts": ("127.0.0.1",), **changes}), Lake(lake))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def had(run: Run, *urls: str) -> Downloaded:
    """All of them, without a fault."""
    downloaded = download(run, urls)
    assert not downloaded.faults
    return downloaded


def test_each_url_gives_its_image_and_each_content_comes_once(tmp_path, site):
    front, back = site.serve("/front", b"front"), site.serve("/back", b"back")
    same = site.serve("/same", b"front")
    downloaded = had(a_run(tmp_path), back, front, same)
    assert downloaded.images == {back: sha(b"back"), front: sha(b"front"), same: sha(b"front")}
    assert dict(downloaded.contents(known=())) == {sha(b"front"): b"front", sha(b"back"): b"back"}
    assert list(downloaded.contents(known={sha(b"front")})) == [(sha(b"back"), b"back")]
    assert len(downloaded.originals.read()) == 2
    assert downloaded.figures == {"urls": 3, "new": 3, "unchanged": 0, "fresh": 0, "failed": 0}
    assert site.times("/front") == 1


def test_the_next_night_is_sent_what_has_changed_and_asks_for_nothing_fresh(tmp_path, site):
    served = {"/tagged": {"ETag": '"1"'}, "/dated": {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}}
    served |= {"/fresh": {"Cache-Control": "max-age=600"}, "/plain": {}, "/changed": {"ETag": '"1"'}}
    urls = [site.serve(path, path.encode(), **headers) for path, headers in served.items()]
    first = had(a_run(tmp_path), *urls)
    site.serve("/changed", b"changed", ETag='"2"')
    site.asked.clear()
    second = had(a_run(tmp_path, "2026-01-02"), *urls)
    assert second.figures == {"urls": 5, "new": 1, "unchanged": 3, "fresh": 1, "failed": 0}
    assert second.images == first.images | {urls[4]: sha(b"changed")}
    assert {path: name for path, sent in site.asked for name in sent if name.startswith("If-")} == {
        "/tagged": "If-None-Match",
        "/dated": "If-Modified-Since",
        "/changed": "If-None-Match",
    }
    assert site.times("/fresh") == 0
    assert len(second.originals.read()) == 6


def test_a_run_asks_for_no_image_twice(tmp_path, site):
    urls = site.serve("/1", b"one"), site.serve("/2", b"two")
    run = a_run(tmp_path)
    first, again = had(run, *urls), had(run, *urls)
    assert (again.images, again.figures["fresh"], len(site.asked)) == (first.images, 2, 2)


def test_a_file_that_the_lake_lost_is_asked_for_anew(tmp_path, site):
    url = site.serve("/1", b"one", ETag='"1"', Cache_Control="max-age=600")
    run = a_run(tmp_path)
    had(run, url)
    run.lake.table("originals").commit([], downloads.ORIGINALS, run="a person")
    assert dict(had(run, url).contents(())) == {sha(b"one"): b"one"}
    assert "If-None-Match" not in site.asked[1][1]


def test_a_night_that_is_killed_goes_on_from_what_it_had(tmp_path, site):
    urls = [site.serve(f"/{at}", b"%d" % at) for at in range(8)]
    stuck, reached = threading.Event(), threading.Event()
    good = site.answers["/7"]

    def hang(request):
        reached.set()
        stuck.wait()

    site.answers["/7"] = hang
    code = (
        "import sys; from tests.jobs.test_downloads import *; downloads.COMMIT_S = 0\n"
        f"download(a_run(Path({str(tmp_path)!r}), image_connections=1), {urls!r})"
    )
    night = subprocess.Popen([sys.executable, "-c", code])
    assert reached.wait(60)
    while len(a_run(tmp_path).lake.table("downloads").parts) < 7:
        assert night.poll() is None
    os.kill(night.pid, signal.SIGKILL)
    night.wait()
    stuck.set()
    site.answers["/7"] = good
    site.asked.clear()
    downloaded = had(a_run(tmp_path), *urls)
    assert [path for path, _ in site.asked] == ["/7"]
    assert downloaded.images == {url: sha(b"%d" % at) for at, url in enumerate(urls)}
    assert dict(downloaded.contents(())) == {sha(b"%d" % at): b"%d" % at for at in range(8)}


def test_nights_at_once_end_with_all_that_either_had(tmp_path, site, monkeypatch):
    monkeypatch.setattr(downloads, "COMMIT_S", 0)
    urls = [site.serve(f"/{at}", b"%d" % at, ETag=f'"{at}"') for at in range(9)]
    halves = urls[:6], urls[3:]
    failures: list[BaseException] = []

    def night(name: str, wanted: list[str]) -> None:
        try:
            had(a_run(tmp_path, name), *wanted)
        except BaseException as error:
            failures.append(error)

    nights = [threading.Thread(target=night, args=(f"2026-01-0{at + 1}", half)) for at, half in enumerate(halves)]
    for thread in nights:
        thread.start()
    for thread in nights:
        thread.join()
    assert not failures
    site.asked.clear()
    after = had(a_run(tmp_path, "2026-01-03"), *urls)
    assert after.figures == {"urls": 9, "new": 0, "unchanged": 9, "fresh": 0, "failed": 0}
    assert dict(after.contents(())) == {sha(b"%d" % at): b"%d" % at for at in range(9)}


def test_a_content_that_two_nights_stored_comes_once(tmp_path, site):
    url, run = site.serve("/1", b"one"), a_run(tmp_path)
    had(run, url)
    rows = pa.table([[sha(b"one"), sha(b"two")], [b"one", b"two"]], schema=downloads.ORIGINALS)
    part = run.lake.write_part("originals", rows)
    run.lake.table("originals").commit([part], downloads.ORIGINALS, run="another night", mode="append")
    assert list(had(run, url).contents(())) == [(sha(b"one"), b"one")]


def test_every_fault_is_told_and_no_secret_with_it(tmp_path, site):
    good, gone = site.serve("/good", b"good"), site.serve("/gone", status=404)
    inside, keyed = "http://10.0.0.1/a.jpg", f"http://me:secret@{site.host}/a.jpg?token=secret"
    downloaded = download(a_run(tmp_path), [good, gone, inside, keyed, "http://10.0.0.1/\ud800.jpg"])
    assert downloaded.images == {good: sha(b"good")}
    assert [fault.reason for fault in downloaded.faults.values()].count("inside the network") == 2
    assert downloaded.faults[gone].reason == "not found"
    assert downloaded.faults[keyed].reason == "credentials in the address"
    assert all(fault.detail and "secret" not in fault.detail for fault in downloaded.faults.values())


def test_an_image_whose_host_fails_tonight_is_that_of_an_earlier_night_and_one_that_is_gone_is_not(tmp_path, site):
    urls = [site.serve("/1", b"one"), site.serve("/2", b"two"), site.serve("/3", b"three")]
    had(a_run(tmp_path), *urls)
    site.serve("/1", status=400)
    site.serve("/2", status=429, Retry_After="9999")
    downloaded = download(a_run(tmp_path, "2026-01-02", image_connections_a_host=1), urls)
    assert downloaded.images[urls[1]] == sha(b"two")
    assert urls[0] not in downloaded.images
    assert downloaded.faults[urls[1]].reason == "host given up"
    assert downloaded.faults[urls[1]].detail.endswith("; its image of an earlier night is used")
    assert downloaded.faults[urls[0]].reason == "unexpected answer"


@pytest.mark.parametrize(
    ("path", "said", "remedy"),
    [
        ("http://10.0.0.1/{}", "10.0.0.1:80 is 10.0.0.1, which is no public address", "LOOKALIKE_IMAGE_HOSTS"),
        ("http://me:secret@h/{}", "user and password in a URL", "check the URLs"),
        ("images/{}.jpg", "only http://, https:// and s3:// are asked", "check the URLs"),
    ],
)
def test_where_not_one_image_can_be_had_the_most_frequent_reason_is_told(tmp_path, site, path, said, remedy):
    urls = [*map(path.format, range(3)), site.serve("/gone", status=404)]
    with pytest.raises(UserError) as caught:
        download(a_run(tmp_path), urls)
    told = str(caught.value)
    assert "none of the 4 images could be had, 3 for this reason" in told
    assert said in told
    assert remedy in caught.value.remedy
    assert "secret" not in told


def test_where_no_host_can_be_reached_the_step_is_to_be_tried_again(tmp_path, monkeypatch, site):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    url = site.serve("/1", status=429, Retry_After="9999")
    with pytest.raises(TransientError, match="none of the 1 images .* host given up .* no proxy is used"):
        download(a_run(tmp_path), [url])


def test_without_any_url_there_is_nothing_to_fetch(tmp_path):
    downloaded = download(a_run(tmp_path), [])
    assert (downloaded.images, downloaded.faults, list(downloaded.contents(()))) == ({}, {}, [])


def test_a_signature_in_a_url_is_sent_and_never_stored(tmp_path, site):
    site.serve("/1", b"one")
    downloaded = had(a_run(tmp_path), site.url("/1?X-Signature=secret"))
    assert site.asked[0][0] == "/1?X-Signature=secret"
    assert list(downloaded.images.values()) == [sha(b"one")]
    assert not [path for path in (tmp_path / "lake").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    table = a_run(tmp_path).lake.table("downloads").read()
    assert "secret" not in str(table.to_pylist())


def test_settings_decide_who_asks_and_what_is_too_large(tmp_path, site):
    run = a_run(tmp_path, image_max_bytes=3, image_contact="https://shop.example/bot")
    small, large = site.serve("/1", b"one"), site.serve("/2", b"four")
    downloaded = download(run, [small, large])
    assert downloaded.images == {small: sha(b"one")}
    assert downloaded.faults[large].reason == "file too large"
    agent = site.asked[0][1]["User-Agent"]
    assert agent.startswith("lookalike/")
    assert agent.endswith(" (+https://shop.example/bot)")


def test_many_parts_become_one_with_the_latest_row_of_each_url(tmp_path, site, monkeypatch):
    monkeypatch.setattr(downloads, "PARTS_MAX", 3)
    url = site.serve("/0", b"0")
    for night in range(1, 6):
        site.serve("/0", b"%d" % night, ETag=f'"{night}"')
        had(a_run(tmp_path, f"2026-01-0{night}"), url)
        assert len(a_run(tmp_path).lake.table("downloads").parts) <= 3
    rows = downloads._latest(a_run(tmp_path).lake.table("downloads")).to_pylist()
    assert [row["image_sha256"] for row in rows] == [sha(b"5")]
    assert dict(had(a_run(tmp_path, "2026-01-06"), url).contents(())) == {sha(b"5"): b"5"}


def test_a_lake_on_s3_holds_images_of_s3_and_the_web_alike(bucket, site, tmp_path):
    boto3.client("s3", region_name="us-east-1").put_object(Bucket=bucket, Key="photos/1.jpg", Body=b"one")
    urls = [f"s3://{bucket}/photos/1.jpg", site.serve("/2", b"two", ETag='"2"')]
    lake = f"s3://{bucket}/lake"
    hosts = ("127.0.0.1", f"s3://{bucket}")
    had(a_run(lake, image_hosts=hosts), *urls)
    second = had(a_run(lake, "2026-01-02", image_hosts=hosts), *urls)
    assert second.figures == {"urls": 2, "new": 0, "unchanged": 2, "fresh": 0, "failed": 0}
    assert dict(second.contents(())) == {sha(b"one"): b"one", sha(b"two"): b"two"}


def test_of_s3_the_source_s_bucket_is_asked_and_no_other_that_is_not_named(bucket, tmp_path):
    boto3.client("s3", region_name="us-east-1").put_object(Bucket=bucket, Key="1.jpg", Body=b"one")
    inside, other = f"s3://{bucket}/1.jpg", "s3://salaries/2.jpg"
    downloaded = download(a_run(tmp_path), [inside, other], source=f"s3://{bucket}/catalogue.zip")
    assert downloaded.images == {inside: sha(b"one")}
    assert downloaded.faults[other].reason == "bucket not named"
    assert "name it there if images are to come from it" in downloaded.faults[other].detail
    with pytest.raises(UserError) as refused:
        download(a_run(tmp_path, "2026-01-02"), [inside, other], source="file:///catalogue.zip")
    assert "as s3://bucket, in LOOKALIKE_IMAGE_HOSTS" in refused.value.remedy


def test_what_came_is_what_catalog_stores_and_a_product_without_an_image_is_rejected(tmp_path, site):
    jpegs = [product.image for product in sample(4, 7) if product.image]
    good = [site.serve(f"/{at}.jpg", data) for at, data in enumerate(jpegs)]
    none, gone = site.serve("/none.jpg", b"no image at all"), site.serve("/gone.jpg", status=404)
    secret = f"http://me:secret@{site.host}/a.jpg?token=secret"
    files = [[url] for url in good] + [
        [none, good[0], gone, good[1]],
        [none, gone],
        [secret],
        ["http://10.0.0.1/\ud800.jpg"],
    ]
    run, rejects, found = a_run(tmp_path), Rejects(), Found()
    known = Known.of(run.lake.table("images"))
    downloaded = download(run, list(dict.fromkeys(url for urls in files for url in urls)))
    found.add(downloaded.images, downloaded.faults)
    products = [{"product_id": str(at), "files": urls} for at, urls in enumerate(files)]
    parts, products = store_images(downloaded.contents(known.contents), found, products, known, rejects)
    shas = [[sha(data)] for data in jpegs] + [[sha(jpegs[0]), sha(jpegs[1])]]
    assert [product["images"] for product in products] == shas
    assert [product["image_sha256"] for product in products] == [images[0] for images in shas]
    assert sum(part.rows for part in parts) == len(set(jpegs))
    n = len(jpegs)
    assert [(row["product_id"], row["file"], row["reason"]) for row in rejects.rows] == [
        (str(n), none, "not an image"),
        (str(n), gone, "not found"),
        (str(n + 1), none, "not an image"),
        (str(n + 1), gone, "not found"),
        (str(n + 2), f"http://{site.host}/a.jpg", "credentials in the address"),
        (str(n + 3), "http://10.0.0.1/?.jpg", "inside the network"),
    ]
    assert rejects.products == {"not an image": 1, "credentials in the address": 1, "inside the network": 1}
    assert "secret" not in str(rejects.rows)
    assert not list(downloaded.contents(known.contents.keys() | {sha(b"no image at all")}))


def test_memory_holds_a_part_of_the_files_at_most(tmp_path, site, monkeypatch):
    monkeypatch.setattr(downloads, "PART_BYTES", 10_000)
    urls = [site.serve(f"/{at}", b"%d" % at * 4000) for at in range(12)]
    downloaded = had(a_run(tmp_path), *urls)
    assert len(downloaded.originals.parts) >= 4
    assert len(dict(downloaded.contents(()))) == 12
