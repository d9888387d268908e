"""The table of embedders: grows beside other writers and across releases, and a person can go back to an older one."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from infra.errors import StaleError, UserError
from infra.lake import Lake
from jobs import cli
from jobs.champion import EMBEDDERS, Champion, append_row, find_champion, parse_number, read_rows, use
from jobs.extraction import choose_model
from ml import embedding
from ml.features import Features
from tests.catalogues import open_run, write_table

EARLIER = pa.schema([EMBEDDERS.field(name) for name in EMBEDDERS.names[:10]])
"""Columns of the release that did not note what an embedder learnt from."""


@pytest.fixture(scope="module")
def arrays():
    """Of an embedder that learnt next to nothing."""
    rng = np.random.default_rng(0)
    features = Features(*(rng.normal(size=(40, 4)).astype(np.float32) for _ in Features._fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "EPOCHS", 1)
        patch.setattr(embedding, "HIDDEN", 4)
        found, _ = embedding.fit(features, {"gender": ["Men", "Women"] * 20}, np.zeros(40, np.int8), seed=1)
    return dict(found.arrays)


@pytest.fixture
def embedder(lake, arrays):
    """A function that stores an embedder of its own a value, and returns its row."""

    def store(value, layout=embedding.LAYOUT):
        changed = {"layout": np.array(layout), "mean": arrays["mean"] + np.float32(value)}
        data = embedding.Embedder(arrays | changed).to_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        file = f"embedders/{sha256}.npz"
        lake.write_bytes(file, data)
        models = {"base": "base", "model": "base", "tuned": "", "promoted": True}
        judged = '{"champion": {"both_0": 12.5}, "challenger": {"both_0": 34.25}}'
        return {"sha256": sha256, "file": file, **models, "run": f"run {value}", "judged": judged, "history": "{}"}

    return store


def numbers(lake):
    return [row["number"] for row in read_rows(lake)]


def test_rows_appended_by_many_at_once_are_all_there_with_numbers_of_their_own(lake, embedder):
    rows = [embedder(value) for value in range(4)]
    with ThreadPoolExecutor(4) as pool:
        versions = [table.version for table in pool.map(lambda row: append_row(lake, row), rows)]
    assert sorted(versions) == numbers(lake) == [0, 1, 2, 3]
    assert {row["sha256"] for row in read_rows(lake)} == {row["sha256"] for row in rows}


def test_a_row_that_others_come_before_without_end_is_an_error_that_is_tried_again(lake, embedder, monkeypatch):
    write_part, row = Lake.write_part, embedder(1)

    def with_another_writer_first(lake, table, rows):
        number = lake.table(table).version + 1
        other = write_part(lake, table, pa.Table.from_pylist([row | {"number": 100 + number}], schema=EMBEDDERS))
        lake.table(table).commit([other], EMBEDDERS, run="another", mode="append")
        return write_part(lake, table, rows)

    monkeypatch.setattr(Lake, "write_part", with_another_writer_first)
    with pytest.raises(StaleError):
        append_row(lake, row)
    assert min(numbers(lake)) == 100


def test_a_table_of_an_earlier_release_gets_the_new_columns_and_keeps_its_rows(lake, embedder):
    old = [embedder(value) | {"number": value} for value in range(2)]
    before = write_table(open_run(lake), "embedders", old, EARLIER, part_rows=1)
    assert [row["catalogue"] for row in read_rows(lake)] == [None, None]
    use(lake, "base", None)
    append_row(lake, embedder(2) | {"catalogue": "c", "release": "2", "settings": "{}", "training": "t"})
    rows = read_rows(lake)
    assert [row["catalogue"] for row in rows] == [None, None, None, "c"]
    assert [{name: row[name] for name in EARLIER.names} for row in rows[:2]] == old
    assert numbers(lake) == [0, 1, before + 1, before + 2]
    assert lake.table("embedders").schema.names == EMBEDDERS.names
    assert lake.table("embedders", before).read().sort_by("number").select(list(old[0])).to_pylist() == old


def test_an_upgrade_does_not_undo_a_row_that_came_meanwhile(lake, embedder, monkeypatch):
    write_table(open_run(lake), "embedders", [embedder(0) | {"number": 0}], EARLIER)
    write_part, others = Lake.write_part, [embedder(5)]

    def with_another_writer_first(lake, table, rows):
        part = write_part(lake, table, rows)
        if others:
            append_row(lake, others.pop())
        return part

    monkeypatch.setattr(Lake, "write_part", with_another_writer_first)
    append_row(lake, embedder(6))
    assert [row["run"] for row in read_rows(lake)] == ["run 0", "run 5", "run 6"]


def test_a_person_goes_back_to_an_older_champion_and_to_none(lake, embedder):
    first, second = (embedder(value) for value in (1, 2))
    append_row(lake, first)
    append_row(lake, second)
    assert find_champion(lake, "base").embedder == second["sha256"]
    use(lake, "base", 0)
    assert find_champion(lake, "base") == Champion(first["sha256"], "base", "")
    use(lake, "base", None)
    assert find_champion(lake, "base") == Champion("untrained", "base", "")
    use(lake, "base", 1)
    assert find_champion(lake, "base").embedder == second["sha256"]
    assert [row["reason"] for row in read_rows(lake)] == [None, None, *["chosen by hand"] * 3]
    assert find_champion(lake, "another").embedder == "untrained"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (7, ["there is no embedder 7", "lookalike champion"]),
        (0, ["embedder 0 takes features of another backbone", "LOOKALIKE_BACKBONE"]),
        (1, ["has layout 1", "--use 1"]),
    ],
)
def test_an_embedder_that_cannot_be_used_is_refused_in_words(lake, embedder, number, expected):
    append_row(lake, embedder(1) | {"base": "another"})
    append_row(lake, embedder(2, layout=1))
    with pytest.raises(UserError) as caught:
        use(lake, "base", number)
    assert all(text in str(caught.value) for text in expected), str(caught.value)
    assert numbers(lake) == [0, 1]


def test_what_is_no_number_is_refused_in_words():
    assert (parse_number("12"), parse_number("untrained")) == (12, None)
    with pytest.raises(UserError, match="'latest' is no embedder"):
        parse_number("latest")


def test_the_command_lists_embedders_and_goes_back_to_one(lake, embedder, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_LAKE", lake.uri)
    monkeypatch.setattr(cli.out, "_width", 160)
    assert "no embedder is trained" in CliRunner().invoke(cli.app, ["champion"]).output
    base = choose_model(open_run(lake).settings).base
    for value in (1, 2):
        append_row(lake, embedder(value) | {"base": base, "model": base, "catalogue": "cafe" * 16})
    listed = CliRunner().invoke(cli.app, ["champion"]).output.splitlines()
    assert listed[1].split() == ["0", "run", "1", "cafecafec", "34.25", "12.50", "yes"]
    assert listed[2].split() == ["used", "1", "run", "2", "cafecafec", "34.25", "12.50", "yes"]
    listed = CliRunner().invoke(cli.app, ["champion", "--use", "0"]).output.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["0", "1", "used"]
    assert "chosen by hand" in listed[3]
    listed = CliRunner().invoke(cli.app, ["champion", "--use", "untrained"]).output.splitlines()
    assert listed[4].split()[:3] == ["used", "3", "untrained"]
