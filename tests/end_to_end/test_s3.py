"""A refresh on a lake in S3, over a network that fails: the same bytes as on disk, with no more rights than needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra.lake import Lake
from jobs.order import APART, STEPS
from jobs.run import WRITES
from jobs.sample import COLUMNS, sample
from tests.catalogues import zip_bytes
from tests.faulty_proxy import Asked, FaultyProxy, one_in_ten

RUN = "2026-01-31"
POLICIES = Path(__file__).resolve().parents[2] / "infra/iam"
FILES = {"pulls": "archive", "classifier": "model_file", "embedders": "file", "detectors": "file"}
"""Tables that name files of the lake, and the column that does."""
REFRESH = """
import os, sys
from jobs import step
for each in sys.argv[2:]:
    name, given, dataset = each.partition("=")
    os.environ["AWS_ACCESS_KEY_ID"] = name  # so that requests say which step made them
    if code := step.main(name, ["--run", sys.argv[1], *(["--dataset", dataset] if given else [])]):
        raise SystemExit(code)
"""
"""Steps as their command lines run them, one after another in one process; each is `name` or `name=dataset`."""
PHOTOS, CATALOGUE = "s3://the-source/in/photos", "s3://the-source/in/catalogue.zip"
ALL = [f"pull={PHOTOS}", f"pull={CATALOGUE}", *STEPS[1:], f"search={PHOTOS}", "train_embedding", "train_look", "looks"]
"""Every step there is; a prefix is pulled too."""
WITHOUT_PHOTOS = ("train_look", "looks")
"""Steps that are given no photos here, and so have nothing to do."""


def refresh(folder: Path, lake: str, store: str, **env: str) -> Lake:
    """A refresh and what can be done apart from it, from the same source; it must do without Airflow's retries."""
    folder.mkdir()
    settings = {"LOOKALIKE_CELL_MIN": "25", "LOOKALIKE_EVALUATE_QUERIES": "20", "LOOKALIKE_LOGS": "logs"}
    done = subprocess.run(
        [sys.executable, "-c", REFRESH, RUN, *ALL],
        cwd=folder,
        env=os.environ | settings | {"LOOKALIKE_LAKE": lake, "LOOKALIKE_STORE": store} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return Lake(lake)


@dataclass(frozen=True)
class Outcome:
    """Two refreshes of one catalogue: their lakes and stores, and what was asked of S3 by the second."""

    disk: Lake
    disk_store: str
    s3: Lake
    s3_store: str
    asked: list[Asked]


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory, postgres, s3_endpoint):
    folder = tmp_path_factory.mktemp("refreshed")
    stores = []
    with psycopg.connect(postgres, autocommit=True) as admin:
        for name in ("on_disk", "on_s3"):
            admin.execute(f"CREATE DATABASE {name}")
            stores.append(make_conninfo(postgres, dbname=name))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ENDPOINT_URL": s3_endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
            patch.setenv(f"AWS_{name}", value)
        s3 = boto3.client("s3", region_name="us-east-1")
        for bucket in ("the-source", "the-lake"):
            s3.create_bucket(Bucket=bucket)
        for name, data in source_files().items():
            s3.put_object(Bucket="the-source", Key=name, Body=data)
        # Side by side: the one on S3 mostly waits.
        with FaultyProxy(s3_endpoint, one_in_ten(seed=5), stall_s=1) as proxy, ThreadPoolExecutor() as pool:
            disk = pool.submit(refresh, folder / "disk", (folder / "lake").as_uri(), stores[0])
            s3_lake = "s3://the-lake/nightly/lake"
            on_s3 = pool.submit(refresh, folder / "s3", s3_lake, stores[1], AWS_ENDPOINT_URL=proxy.url)
        yield Outcome(disk.result(), stores[0], on_s3.result(), stores[1], proxy.asked)
    with psycopg.connect(postgres, autocommit=True) as admin:
        for name in ("on_disk", "on_s3"):
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def source_files() -> dict[str, bytes]:
    """A catalogue's archive and a folder of photos to search for."""
    products = list(sample(160, 7))
    lines = [",".join(COLUMNS), *(",".join(product.row) for product in products)]
    images = {f"images/{product.row[0]}.jpg": product.image for product in products if product.image}
    photos = {f"in/photos/{product.row[0]}.jpg": product.image for product in sample(8, 99) if product.image}
    return {"in/catalogue.zip": zip_bytes({"styles.csv": "\n".join(lines).encode(), **images}), **photos}


def test_one_in_ten_requests_did_fail_in_every_way(refreshed):
    faults = [each.fault for each in refreshed.asked]
    assert {fault: fault in faults for fault in ("503", "cut", "stall")} == {"503": True, "cut": True, "stall": True}
    assert 0.05 < sum(map(bool, faults)) / len(faults) < 0.15


@pytest.mark.parametrize("name", [name for name in sorted(WRITES) if WRITES[name] not in WITHOUT_PHOTOS])
def test_every_table_holds_the_same_bytes_as_on_disk(refreshed, name):
    disk, s3 = refreshed.disk.table(name), refreshed.s3.table(name)
    assert disk.version >= 0
    assert (s3.content, s3.parts) == (disk.content, disk.parts)  # embed commits as it goes: in more versions, if slow
    for part in disk.parts:
        assert refreshed.s3.read_bytes(f"{name}/{part}") == refreshed.disk.read_bytes(f"{name}/{part}")
    if name in FILES:
        for file in disk.read([FILES[name]])[FILES[name]].to_pylist():
            assert refreshed.s3.read_bytes(file) == refreshed.disk.read_bytes(file)


def test_the_store_holds_the_same_rows_as_after_a_refresh_on_disk(refreshed):
    def content(store: str) -> dict[str, list]:
        with psycopg.connect(store) as connection:
            names = connection.execute(
                "SELECT tablename FROM pg_tables "
                "WHERE schemaname = 'lookalike' AND tablename NOT IN ('applied', 'prepared', 'runs')"  # they say when
            ).fetchall()
            return {
                name: sorted(connection.execute(f"SELECT t::text FROM lookalike.{name} t").fetchall())
                for (name,) in names
            }

    disk, s3 = content(refreshed.disk_store), content(refreshed.s3_store)
    assert len(disk["narrow_shortlists"]) == len(disk["catalogue"]) > 100
    assert s3 == disk


# Least privilege


@dataclass(frozen=True)
class Right:
    """What a request needs, in IAM's words; `prefix` is what it lists."""

    action: str
    resource: str
    prefix: str = ""


def right_of(asked: Asked) -> Right:
    """The right that S3 asks for: https://docs.aws.amazon.com/AmazonS3/latest/API (Required permissions)."""
    path = unquote(urlsplit(asked.target).path).strip("/")
    query = parse_qs(urlsplit(asked.target).query, keep_blank_values=True)
    if "/" not in path:
        assert (asked.method, "list-type" in query) == ("GET", True), asked
        return Right("s3:ListBucket", f"arn:aws:s3:::{path}", query.get("prefix", [""])[0])
    action = {
        "GET": "s3:GetObject",
        "HEAD": "s3:GetObject",
        "PUT": "s3:PutObject",
        "POST": "s3:PutObject",
        "DELETE": "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject",
    }[asked.method]
    return Right(action, f"arn:aws:s3:::{path}")


def statements(part: str) -> list[dict]:
    """The statements of a policy for the buckets of this test."""
    text = (POLICIES / f"{part}.json").read_text()
    for name, value in {
        "LAKE_BUCKET": "the-lake",
        "LAKE_PREFIX": "nightly/lake",
        "SOURCE_BUCKET": "the-source",
        "SOURCE_PREFIX": "in",
    }.items():
        text = text.replace(name, value)
    return json.loads(text)["Statement"]


def allows(statement: dict, right: Right) -> bool:
    prefixes = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", ["*"])
    return (
        right.action in statement["Action"]
        and any(fnmatchcase(right.resource, place) for place in statement["Resource"])
        and any(fnmatchcase(right.prefix, prefix) for prefix in prefixes)
    )


def rights_used(refreshed: Outcome, part: str) -> set[Right]:
    """What the steps of a part asked for; the reader's is what publish reads."""
    steps = {"pull": ["pull"], "publish": ["publish"], "search": ["search"]}.get(part)
    found = set()
    for asked in refreshed.asked:
        step = re.search(r"Credential=([a-z_]+)/", asked.headers["authorization"])[1]
        if step in (steps or set(STEPS + APART) - {"pull", "publish", "search"}):
            found.add(right_of(asked))
    return found


@pytest.mark.parametrize("part", ["pull", "steps", "publish", "search"])
def test_a_policy_grants_all_that_its_steps_ask_for_and_no_statement_for_nothing(refreshed, part):
    used, granted = rights_used(refreshed, part), statements(part)
    refused = [right for right in used if not any(allows(each, right) for each in granted)]
    assert not refused
    for each in granted:
        needed = {right.action for right in used if allows(each, right)}
        # What a broken upload left behind is given back: a run without one does not ask for it.
        assert set(each["Action"]) - {"s3:AbortMultipartUpload"} == needed, each["Sid"]


def test_a_reader_may_read_what_publish_reads_and_write_nothing(refreshed):
    read = {right for right in rights_used(refreshed, "publish") if right.action != "s3:PutObject"}
    granted = statements("reader")
    assert all(any(allows(each, right) for each in granted) for right in read)
    assert {action for each in granted for action in each["Action"]} == {"s3:GetObject", "s3:ListBucket"}


@pytest.mark.parametrize("policy", sorted(POLICIES.glob("*.json")), ids=lambda path: path.stem)
def test_a_policy_is_valid_and_names_every_action_and_a_place_for_it(policy):
    document = json.loads(policy.read_text())
    assert set(document) == {"Version", "Statement"}
    assert document["Version"] == "2012-10-17"
    names = [each["Sid"] for each in document["Statement"]]
    assert len(set(names)) == len(names)
    for each in document["Statement"]:
        assert set(each) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert each["Effect"] == "Allow"
        assert re.fullmatch("[A-Za-z0-9]+", each["Sid"])
        assert all(re.fullmatch("s3:[A-Z][A-Za-z]+", action) for action in each["Action"])
        whole_bucket = each["Action"] == ["s3:ListBucket"]
        for place in each["Resource"]:
            # A bucket's name is written out, and objects lie below a prefix of it.
            expected = "" if whole_bucket else r"/[A-Z_]+(/(\*|[a-z_]+|[a-z]+(\.\*)?\.json))*"
            assert re.fullmatch(f"arn:aws:s3:::[A-Z_]+{expected}", place), place
        if whole_bucket:
            assert all(re.match("[A-Z_]+", prefix) for prefix in each["Condition"]["StringLike"]["s3:prefix"])
