"""The lake: what is committed is all that readers see, once; the same on disk and on S3."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from tenacity import stop_after_attempt

from infra import lake as lakes
from infra.errors import StaleError, TransientError, UserError
from infra.lake import UPLOAD_PART, Lake, Part, Table, filesystem
from tests.faulty_proxy import Asked, FaultyProxy

SCHEMA = pa.schema({"id": pa.int64(), "name": pa.string()})
EMPTY = {"empty": SCHEMA, "empty too": pa.schema({"id": pa.int32()})}


@pytest.fixture(params=["disk", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path) -> Lake:
    if request.param == "disk":
        return Lake(tmp_path.as_uri() + "/a lake")
    return Lake(f"s3://{request.getfixturevalue('bucket')}/some/lake")


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": ids, "name": [f"n{i}" for i in ids]}, schema=SCHEMA)


def written(lake: Lake, *ids: int) -> Part:
    return lake.write_part("things", rows(*ids))


def commit(lake: Lake, *ids: int, mode: str = "overwrite") -> Table:
    return lake.table("things").commit([written(lake, *ids)], SCHEMA, run="r", mode=mode)


def ids(lake: Lake, version: int | None = None) -> list[int]:
    return sorted(lake.table("things", version).read()["id"].to_pylist())


def test_what_is_committed_is_read_back(lake):
    first = lake.table("things")
    assert (first.version, first.content, first.parts) == (-1, "", [])
    table = first.commit([written(lake, 1, 2), written(lake, 3)], SCHEMA, run="r")
    assert (table.version, len(table.parts)) == (0, 2)
    assert ids(lake) == [1, 2, 3]
    assert sorted(table.read(["name"], pc.field("id") > 1)["name"].to_pylist()) == ["n2", "n3"]
    assert sum(part.num_rows for part in table.iter_parts()) == 3


def test_a_table_without_rows_has_its_schema(lake):
    table = lake.table("things").commit([], SCHEMA, run="r")
    assert (table.version, table.read().num_rows) == (0, 0)
    assert table.read(["name"]).schema.names == ["name"]


def test_an_append_from_a_stale_snapshot_is_refused_and_changes_nothing(lake):
    commit(lake, 1)
    stale = lake.table("things")
    commit(lake, 2, mode="append")
    with pytest.raises(StaleError, match="from version 0 to 1"):
        stale.commit([written(lake, 3)], SCHEMA, run="late", mode="append")
    assert ids(lake) == [1, 2]
    assert lake.table("things").version == 1


def test_an_overwrite_from_a_stale_snapshot_is_made_on_top_and_each_writer_has_a_version_of_its_own(lake):
    commit(lake, 1)
    stale = lake.table("things")
    earlier = commit(lake, 2)
    later = stale.commit([written(lake, 1), written(lake, 3)], SCHEMA, run="late")
    assert [earlier.version, later.version, lake.table("things").version] == [1, 2, 2]
    assert (ids(lake, 1), ids(lake, 2)) == ([2], [1, 3])


def test_two_writers_that_both_found_no_table_both_go_through(lake):
    one, other = lake.table("things"), lake.table("things")
    assert one.version == other.version == -1
    assert one.commit([written(lake, 1)], SCHEMA, run="r").version == 0
    assert other.commit([written(lake, 1)], SCHEMA, run="r").version == 0  # the same rows: no commit
    assert one.commit([written(lake, 2)], SCHEMA, run="r").version == 1
    with pytest.raises(StaleError, match="from version -1 to 1"):
        other.commit([written(lake, 3)], SCHEMA, run="r", mode="append")


def test_a_commit_returns_its_own_version_though_another_writer_came_after_it(lake):
    one = commit(lake, 1)
    other = commit(lake, 2)
    assert (one.version, one.read()["id"].to_pylist()) == (0, [1])
    assert (other.version, other.read()["id"].to_pylist()) == (1, [2])


def test_a_commit_that_would_change_nothing_is_none(lake):
    table = lake.table("things").commit([written(lake, 1), written(lake, 2)], SCHEMA, run="r")
    parts = [written(lake, 2), written(lake, 1)]
    assert table.commit(parts, SCHEMA, run="again").version == 0
    same = table.commit(parts[:1], SCHEMA, run="again", mode="append")
    assert lake.table("things").version == 0
    commit(lake, 3)
    assert (same.version, same.parts) == (0, table.parts)


def test_a_table_without_rows_that_stays_so_is_not_committed_again(lake):
    table = lake.table("things").commit([], SCHEMA, run="r")
    assert table.commit([], SCHEMA, run="r").version == lake.table("things").version == 0


def test_an_overwrite_keeps_the_parts_that_stay(lake):
    lake.table("things").commit([written(lake, 1), written(lake, 2)], SCHEMA, run="r")
    table = lake.table("things").commit([written(lake, 2), written(lake, 3)], SCHEMA, run="r")
    assert (table.version, sorted(table.read()["id"].to_pylist())) == (1, [2, 3])
    assert lake.table("things").commit([written(lake, 3)], SCHEMA, run="r").read()["id"].to_pylist() == [3]


def test_an_overwrite_may_change_the_schema_and_an_append_may_not(lake):
    wider = rows(1).append_column("more", pa.array([0.5]))
    part, table = lake.write_part("things", wider), commit(lake, 1)
    with pytest.raises(ValueError, match="another schema than table 'things'"):
        table.commit([part], wider.schema, run="r", mode="append")
    assert table.commit([part], wider.schema, run="r").read() == wider
    assert lake.table("things").commit([], SCHEMA, run="r").schema == SCHEMA
    assert lake.table("things").version == 2


def test_rows_of_the_old_schema_are_not_taken_for_rows_of_the_new(lake):
    table = commit(lake, 1)
    with pytest.raises(ValueError, match="another schema"):
        table.commit([written(lake, 1)], SCHEMA.append(pa.field("more", pa.float64())), run="r")
    assert lake.table("things").version == 0


def test_equal_parts_have_equal_content_whatever_led_to_them(lake):
    first = commit(lake, 1)
    both = commit(lake, 2, mode="append")
    again = commit(lake, 1)
    assert len({"", first.content, both.content}) == 3
    assert again.version == 2
    assert again.content == first.content
    assert lake.table("things", 1).content == both.content
    other = lake.write_part("others", rows(1))
    assert lake.table("others").commit([other], SCHEMA, run="another").content == first.content
    empty = [lake.table(name).commit([], schema, run="r").content for name, schema in EMPTY.items()]
    assert len({*empty, ""}) == 3


def test_a_part_is_named_by_its_content_and_committed_once(lake):
    one, again, other = written(lake, 1, 2), written(lake, 1, 2), written(lake, 2, 1)
    assert one == again
    assert other.path != one.path
    table = lake.table("things").commit([one, again], SCHEMA, run="r")
    assert table.parts == [one.path]
    assert ids(lake) == [1, 2]


def test_readers_never_see_parts_that_are_not_committed(lake):
    commit(lake, 1)
    stray = written(lake, 9)
    assert lake.exists(f"things/{stray.path}")
    assert ids(lake) == [1]


def test_overwrite_replaces_append_adds_and_old_versions_stay_readable(lake):
    commit(lake, 1)
    commit(lake, 2, mode="append")
    commit(lake, 3)
    assert [ids(lake, version) for version in (0, 1, 2, None)] == [[1], [1, 2], [3], [3]]


def test_a_snapshot_is_what_it_was_when_it_was_taken(lake):
    commit(lake, 1)
    snapshot, absent = lake.table("things"), lake.table("nothing")
    commit(lake, 2)
    lake.table("nothing").commit([], SCHEMA, run="r")
    assert snapshot.read()["id"].to_pylist() == [1]
    assert (snapshot.version, absent.version) == (0, -1)


def test_a_snapshot_is_the_same_in_another_process(lake):
    commit(lake, 1)
    sent = [pickle.dumps(lake.table(name)) for name in ("things", "nothing")]
    commit(lake, 2)
    lake.table("nothing").commit([], SCHEMA, run="r")
    things, nothing = map(pickle.loads, sent)
    assert (things.version, things.read()["id"].to_pylist()) == (0, [1])
    assert (nothing.version, nothing.content) == (-1, "")


def test_an_absent_table_is_named_with_its_place(lake):
    with pytest.raises(UserError, match="no table 'nothing'") as caught:
        lake.table("nothing").read()
    assert caught.value.where == f"{lake.uri}/nothing"


@pytest.mark.parametrize("size", [0, 5, UPLOAD_PART, 2 * UPLOAD_PART + 5])
def test_a_file_of_any_size_is_read_back(lake, size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with lake.writing("raw/file") as stream:
        for start in range(0, size, 5 * 2**20):
            stream.write(data[start : start + 5 * 2**20])
    assert lake.read_bytes("raw/file") == data


@pytest.mark.parametrize("size", [5, UPLOAD_PART + 5])
def test_writing_that_fails_leaves_no_file_and_keeps_the_old_one(lake, size):
    lake.write_bytes("raw/old", b"old")

    def fail(name: str) -> None:
        with lake.writing(name) as stream:
            stream.write(bytes(size))
            raise KeyboardInterrupt

    for name in ("raw/new", "raw/old"):
        with pytest.raises(KeyboardInterrupt):
            fail(name)
    assert not lake.exists("raw/new")
    assert lake.read_bytes("raw/old") == b"old"
    if lake.uri.startswith("s3://"):
        bucket = lake.path("").split("/")[0]
        assert "Uploads" not in boto3.client("s3", region_name="us-east-1").list_multipart_uploads(Bucket=bucket)
    else:
        assert [item.name for item in Path(lake.path("raw")).iterdir()] == ["old"]


def test_a_missing_file_is_a_file_not_found(lake):
    with pytest.raises(FileNotFoundError):
        lake.read_bytes("raw/none")
    assert not lake.exists("raw/none")


def test_a_bucket_that_does_not_exist_is_the_users_to_mend(bucket):
    with pytest.raises(UserError, match="NoSuchBucket") as caught:
        Lake("s3://no-such-bucket/lake").write_bytes("raw/x", b"x")
    assert "AWS_" in caught.value.remedy


# What a power cut may take: only what nobody was told of


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """Names of the files and folders that were waited for to be on the disk, and `renamed`, in their order."""
    order, fsync, replace = [], os.fsync, os.replace

    def wait(opened: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{opened}")).name)
        fsync(opened)

    def rename(old: Path, new: Path) -> None:
        order.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", wait)
    monkeypatch.setattr(os, "replace", rename)
    return order


def test_a_file_is_on_the_disk_before_it_has_its_name_and_that_before_a_commit_names_it(tmp_path, synced):
    lake = Lake((tmp_path / "lake").as_uri())
    part = written(lake, 1)
    made, (temporary, *named) = synced[:2], synced[2:]
    assert made == [tmp_path.name, "lake"]  # they hold the names of two new folders
    assert temporary.startswith(part.path)
    assert named == ["renamed", "things"]
    synced.clear()
    lake.table("things").commit([part], SCHEMA, run="r")
    assert synced == [f"{0:020d}.json", "_delta_log", "things"]


def test_a_file_system_that_cannot_wait_for_folders_will_do(tmp_path, monkeypatch):
    def refuse_folders(opened: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse_folders)
    lake = Lake((tmp_path / "lake").as_uri())
    commit(lake, 1)
    assert ids(lake) == [1]


# The log, as readers other than delta-rs take it


def actions_of(lake: Lake, name: str, version: int) -> list[dict]:
    return [json.loads(line) for line in lake.read_bytes(f"{name}/_delta_log/{version:020d}.json").splitlines()]


def replay(lake: Lake, name: str, newest: int) -> list[str]:
    """The parts of a version as Delta Lake's own `InMemoryLogReplay` finds them: actions in their order, one by one.

    It also holds what the protocol asks for: no path in two actions of a version.
    """
    active: set[str] = set()
    for version in range(newest + 1):
        actions = actions_of(lake, name, version)
        paths = [action[kind]["path"] for action in actions for kind in ("add", "remove") if kind in action]
        assert len(paths) == len(set(paths))
        for action in actions:
            if "add" in action:
                active.add(action["add"]["path"])
            elif "remove" in action:
                active.remove(action["remove"]["path"])
    return sorted(active)


def test_every_version_is_read_alike_by_the_protocols_own_replay(lake):
    chosen, expected = Random(5), []
    schemas = [SCHEMA, SCHEMA.append(pa.field("more", pa.float64()))]
    pools = [[lake.write_part("things", rows(i)) for i in range(4)]]
    pools.append([lake.write_part("things", rows(i).append_column("more", pa.array([0.5]))) for i in range(4)])
    table, kind = lake.table("things"), 0
    for _ in range(30):
        mode = chosen.choice(["overwrite", "append"])
        kind = chosen.randrange(2) if mode == "overwrite" else kind
        parts = chosen.sample(pools[kind], chosen.randrange(4))
        before, wanted = set(table.parts), {part.path for part in parts}
        table = table.commit(parts, schemas[kind], run="r", mode=mode)
        if table.version == len(expected):
            expected.append(sorted(wanted | before if mode == "append" else wanted))
        assert table.parts == expected[-1]
    assert lake.table("things").version == len(expected) - 1 > 15
    for version, parts in enumerate(expected):
        assert lake.table("things", version).parts == replay(lake, "things", version) == parts


STEP = """
import os, signal, sys
import pyarrow as pa
from infra.lake import Lake

lake, killed = Lake(sys.argv[1]), sys.argv[2] == "killed"
rows = pa.table({"id": [1, 2]})
for name in ("one", "other"):
    lake.table(name).commit([lake.write_part(name, rows[:1]), lake.write_part(name, rows[1:])], rows.schema, run="r")
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_step_killed_between_its_commits_and_run_again_names_no_part_twice(lake):
    before = lake.write_part("one", pa.table({"id": [7]}))
    lake.table("one").commit([before], pa.schema({"id": pa.int64()}), run="earlier")
    attempts = [[sys.executable, "-c", STEP, lake.uri, how] for how in ("killed", "whole", "again")]
    assert [subprocess.run(attempt).returncode for attempt in attempts] == [-signal.SIGKILL, 0, 0]
    one, other = lake.table("one"), lake.table("other")
    assert (one.version, other.version) == (1, 0)
    assert replay(lake, "one", 1) == one.parts == replay(lake, "other", 0) == other.parts
    assert [action["remove"]["path"] for action in actions_of(lake, "one", 1) if "remove" in action] == [before.path]


def cleaned_up(lake: Lake) -> None:
    """What maintenance does: a checkpoint of the newest version, and no log of what is older than a month before it."""
    delta = DeltaTable(f"{lake.uri}/things", storage_options=lake.storage_options())
    delta.create_checkpoint()
    month_ago = time.time() - 31 * 24 * 3600
    for entry in Path(lake.path("things/_delta_log")).glob("*.json"):
        os.utime(entry, (month_ago, month_ago))
    delta.cleanup_metadata()


def test_a_log_that_was_cleaned_up_serves_its_newest_version_and_all_after_it(tmp_path):
    lake = Lake(tmp_path.as_uri())
    for i in range(4):
        commit(lake, i, mode="append")
    early, newest = lake.table("things", 1), lake.table("things")
    content = newest.content
    cleaned_up(lake)
    logs = sorted(name for name in lake.modified("things/_delta_log") if name.endswith(".json"))
    assert logs == [f"things/_delta_log/{3:020d}.json"]
    again, pinned = lake.table("things"), lake.table("things", 3)
    assert again.version == 3
    assert again.content == pinned.content == newest.content == content
    assert again.parts == pinned.parts
    assert ids(lake, 3) == [0, 1, 2, 3]
    assert again.commit([written(lake, 1)], SCHEMA, run="r", mode="append").version == 3
    assert commit(lake, 4).version == 4
    assert (ids(lake), ids(lake, 4)) == ([4], [4])
    with pytest.raises(StaleError):
        pinned.commit([written(lake, 5)], SCHEMA, run="r", mode="append")
    with pytest.raises(UserError, match="no version 1 of table 'things' any more") as caught:
        early.read()
    assert "\n" not in caught.value.problem


def test_a_version_that_never_was_is_named(lake):
    commit(lake, 1)
    for name in ("things", "nothing"):
        with pytest.raises(UserError, match=f"no version 7 of table '{name}'"):
            lake.table(name, 7).read()


# What an object store does on a bad day: each of the three libraries that speak to it, by a thing it is used for

CALLS = {
    "pyarrow": lambda lake: lake.read_bytes("raw/file"),
    "boto3": lambda lake: lake.write_bytes("raw/other", b"x"),
    "delta-rs": lambda lake: lake.table("things").version,
    "commit": lambda lake: commit(lake, 2, mode="append"),
}


@pytest.fixture
def behind(bucket, s3_endpoint, monkeypatch):
    """A function that puts a proxy before the S3 server, which fails as it is told, and returns a lake behind it."""
    monkeypatch.setattr(lakes, "STALL_S", 1)
    monkeypatch.setattr(lakes, "DELTA_S", 2)
    lake = Lake(f"s3://{bucket}/lake")
    lake.write_bytes("raw/file", b"content")
    commit(lake, 1)
    with ExitStack() as held:

        def put(faults: dict[str, str], **options: float) -> tuple[Lake, list[Asked]]:
            """`faults`: method (and a part of the target) → fault of the next such request; `*`: of all, always."""
            left = dict(faults)

            def choose(method: str, target: str) -> str:
                if "*" in faults:
                    return faults["*"]
                due = next((key for key in left if all(map(f"{method} {target}".__contains__, key.split()))), None)
                return left.pop(due) if due else ""

            proxy = held.enter_context(FaultyProxy(s3_endpoint, choose, **options))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            return Lake(lake.uri), proxy.asked

        yield put


@pytest.mark.parametrize("fault", ["503", "cut", "stall"])
@pytest.mark.parametrize("call", CALLS)
def test_a_request_that_fails_once_is_made_again(behind, call, fault):
    lake, asked = behind(dict.fromkeys(("GET", "PUT"), fault), stall_s=30)
    CALLS[call](lake)
    assert fault in [each.fault for each in asked]
    assert Lake(lake.uri).read_bytes("raw/file") == b"content"
    assert ids(lake) == ([1, 2] if call == "commit" else [1])


@pytest.mark.parametrize("call", CALLS)
def test_a_refusal_is_the_users_to_mend_in_one_line_and_is_not_tried_again(behind, call):
    lake, asked = behind({"*": "403"})
    with pytest.raises(UserError, match=f"{lake.uri} was refused") as caught:
        CALLS[call](lake)
    assert re.search("access.?denied", caught.value.problem, re.IGNORECASE)
    assert "\n" not in caught.value.problem
    assert caught.value.where == lake.uri
    assert "what they may do" in caught.value.remedy
    assert len(asked) <= 2


@pytest.fixture
def impatient(monkeypatch):
    """Everybody gives up soon, which takes a minute otherwise."""
    monkeypatch.setattr(lakes, "ATTEMPTS", 2)
    monkeypatch.setattr(lakes.again, "stop", stop_after_attempt(2))
    lakes._client_of.cache_clear()
    yield
    lakes._client_of.cache_clear()


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_keeps_failing_is_transient(behind, impatient, call):
    lake, _ = behind({"*": "503"})
    with pytest.raises(TransientError, match="could not be reached"):
        CALLS[call](lake)


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_cannot_be_reached_is_transient(bucket, monkeypatch, impatient, call):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="could not be reached"):
        CALLS[call](Lake(f"s3://{bucket}/lake"))


@pytest.mark.parametrize("table", ["things", "new"])
def test_a_commit_whose_answer_got_lost_is_made_once(behind, table):
    lake, asked = behind({"PUT": "cut"})
    before = lake.table(table)
    part = Part("part-x.parquet", 1, 1)
    after = before.commit([part], SCHEMA, run="r", mode="append")
    assert [each.fault for each in asked if each.method == "PUT"][0] == "cut"
    assert (after.version, part.path in after.parts) == (before.version + 1, True)
    assert Lake(lake.uri).table(table).version == after.version


def test_another_writers_commit_is_not_taken_for_one_whose_answer_got_lost(behind):
    stale = behind({})[0].table("things")
    commit(behind({})[0], 2, mode="append")
    behind({"PUT": "503"})
    with pytest.raises(StaleError, match="from version 0 to 1"):
        stale.commit([Part("part-x.parquet", 1, 1)], SCHEMA, run="late", mode="append")


def test_an_upload_whose_completion_got_no_answer_is_complete(behind):
    data = bytes(UPLOAD_PART + 5)
    lake, asked = behind({"POST ?uploadId": "cut"})
    lake.write_bytes("raw/large", data)
    assert [each.fault for each in asked if "?uploadId" in each.target and each.method == "POST"] == ["cut", ""]
    assert lake.read_bytes("raw/large") == data


def test_missing_credentials_are_named(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="Unable to locate credentials"):
        Lake(f"s3://{bucket}/lake").write_bytes("raw/x", b"x")


NO_PLACES = [
    "ftp://host/x",
    "/a/path",
    "hdfs://x/y",
    "file:a/b",
    "file:/a",
    "file://a/b",
    "s3://",
    "s3:///a",
    "s3://b/a//c",
]


@pytest.mark.parametrize("uri", NO_PLACES)
def test_what_is_no_place_is_refused_with_its_value(uri):
    with pytest.raises(UserError, match=uri):
        filesystem(uri)


NO_LAKES = [
    "",
    "var/lake",
    "file://",
    "file:///",
    "file://localhost/a",
    "FILE:///a",
    "S3://b",
    "s3://b/a?c",
    "s3://b/%20",
]


@pytest.mark.parametrize("uri", [*NO_PLACES, *NO_LAKES, "file:///a#b", "file:///a?b", "s3://b/a#c", "s3://a b/c"])
def test_an_address_that_is_none_is_no_lake_and_nothing_is_written(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        Lake(uri)
    assert (repr(uri) in caught.value.problem, caught.value.where) == (True, "LOOKALIKE_LAKE")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["with space", "50% #1 [neu] ü?&"])
def test_a_lake_in_a_folder_of_odd_letters_is_one_for_all_libraries(tmp_path, name):
    lake = Lake((tmp_path / name).as_uri())
    rows = pa.table({"id": [1]})
    lake.table("t").commit([lake.write_part("t", rows)], rows.schema, run="r")
    assert lake.table("t").read() == rows
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_prefix_of_odd_letters_is_one_for_all_libraries(bucket):
    lake, rows = Lake(f"s3://{bucket}/a b+ü (1)"), pa.table({"id": [1]})
    lake.table("t").commit([lake.write_part("t", rows)], rows.schema, run="r")
    assert lake.table("t").read() == rows
    assert {name.split("/")[0] for name in lake.modified("")} == {"t"}
