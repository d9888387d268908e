"""publish on a real lake and a real Postgres: what it refuses, what it loads, and what a crash or a race leaves."""

import json
import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from infra.settings import ATTRIBUTES, Settings
from jobs.features import to_lists, to_matrix
from jobs.ids import order
from jobs.publish import publish
from jobs.run import PUBLISHED, STEPS, WRITES, OutdatedError, Run, StepResult, TableVersion
from ml.gates import GATES
from tests.catalogues import write_result

N = 12
IDS = np.array([*map(str, range(10, 10 * N, 10)), "B07X"], object)
COLOUR = ["Red"] * 5 + ["Blue"] * 6 + [None]
CELLS = [
    {"cell": 0, "members": N, "depth": 10, "filters": "[{}]"},
    {"cell": 1, "members": 5, "depth": 10, "filters": '[{"baseColour": "Red"}]'},
]


def commit(run, name, rows, parts=1):
    table = pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pylist(rows)
    blocks = [table.slice(i * len(table) // parts, len(table) // parts) for i in range(parts)] if len(table) else []
    written = [run.lake.write_part(name, block) for block in blocks]
    return run.lake.table(name).commit(written, table.schema, run=run.name).version


def ready(tmp_path, uri, name="2026-01-31", angle=0.0, missing=0, **settings):
    """A run whose steps before publish are done; `angle` decides the content, `missing` shortlists are left out."""
    lake = (tmp_path / "lake").as_uri()
    run = Run(name, Settings(lake=lake, store=uri, store_folder=tmp_path / "unused", **settings), Lake(lake))
    vectors = (
        np.rint(np.stack([np.cos(np.arange(N) + angle), np.sin(np.arange(N))], 1) * 1024).astype(np.float32) / 2048
    )
    scores = vectors @ vectors.T
    texts = {field: pa.array(COLOUR if field == "baseColour" else [f"{field} x"] * N) for field in ATTRIBUTES}
    products = {"product_id": IDS, **texts, "derivedType": ["Men x"] * N, "image_sha256": ["0" * 64] * N}
    best = [
        [sorted((i for i in members if i != q), key=lambda i, q=q: (-scores[q, i], i))[:10] for q in range(N)]
        for members in (range(N), range(5))
    ]
    shortlists = [
        {"product_id": IDS[q], "items": IDS[kept].tolist(), "scores": scores[q][kept].tolist()}
        for q, of_cells in enumerate(zip(*best, strict=True))
        for kept in [sorted({i for items in of_cells for i in items}, key=lambda i, q=q: (-scores[q, i], i))]
    ]
    figures = {"products": N, "cells": 2}
    for step, tables, told in (
        ("pull", {}, {}),
        ("catalog", {"products": commit(run, "products", products)}, {}),
        ("embed", {}, {}),
        ("classify", {}, {}),
        ("candidates", {}, {}),
        (
            "similar",
            {
                "embeddings": commit(run, "embeddings", {"product_id": IDS, "embedding": to_lists(vectors)}, parts=2),
                "cells": commit(run, "cells", CELLS),
                "shortlists": commit(run, "shortlists", shortlists[: N - missing], parts=1 if missing else 3),
            },
            figures,
        ),
    ):
        write_result(run, step, tables=tables, figures=told)
    judge(run)
    return run


def judge(run, gates=GATES, failed=()):
    """Store verdicts on the run as evaluate would, against the run that is live now."""
    rows = {
        "gate": list(gates),
        "value": [0.5] * len(gates),
        "bound": [0.95] * len(gates),
        "passed": pa.array([gate not in failed for gate in gates], pa.bool_()),
        "detail": [f"detail of {gate}" for gate in gates],
        "remedy": [f"remedy of {gate}" for gate in gates],
    }
    with store.connect(run.settings.store, run.settings.store_folder) as connection:
        live = store.live(connection)
    read = {name: TableVersion(0, run.result(WRITES[name]).contents[name]) for name in PUBLISHED}
    tables, figures = {"verdicts": commit(run, "verdicts", rows)}, {"judged_against": live and live.content_hash}
    write_result(run, "evaluate", tables=tables, figures=figures, inputs=read)


def stored(connection):
    return [run.run for run in store.runs(connection)], store.live(connection) and store.live(connection).run


def test_it_loads_the_run_makes_it_live_and_says_what_it_did(tmp_path, connection, empty_database):
    run = ready(tmp_path, empty_database)
    result = publish(run)
    assert (result.rows, result.skipped, result.tables) == (N, False, {})
    assert {name: result.figures[name] for name in ("products", "cells", "live")} == {
        "products": N,
        "cells": 2,
        "live": "2026-01-31",
    }
    assert "load_s" in result.figures
    assert store.live(connection).figures == {"products": N, "cells": 2}
    passing = {
        "{}": set(IDS.tolist()),
        "baseColour": {i for i, colour in zip(IDS, COLOUR, strict=True) if colour == "Red"},
    }
    for row in run.table("shortlists").read().to_pylist():
        for cell, ids in zip(CELLS, passing.values(), strict=True):
            for filters in json.loads(cell["filters"]):
                found = store.similar_items(connection, row["product_id"], filters, 10)
                kept = [(item, score) for item, score in zip(row["items"], row["scores"], strict=True) if item in ids]
                assert [(item.product_id, item.score) for item in found] == kept[:10]
                assert {item.scanned for item in found} <= {0}
    blue = store.similar_items(connection, 10, {"baseColour": "Blue"}, 10)
    assert {item.product_id for item in blue} == set(IDS[5:11].tolist())
    columns = connection.execute('SELECT gender, year, "derivedType" FROM lookalike.live_products LIMIT 1').fetchone()
    own = connection.execute("SELECT name, kind, attributes FROM lookalike.live_products WHERE product_id = 'B07X'")
    (name, kind, attributes), known = own.fetchone(), [field for field in ATTRIBUTES if field != "productDisplayName"]
    assert (name, kind) == ("productDisplayName x", "articleType x")
    assert attributes == {field: f"{field} x" for field in known if field != "baseColour"}
    assert columns == ("gender x", "year x", "gender x articleType x")


@pytest.mark.parametrize("most", [0, 1, 64])
def test_answers_are_the_same_however_many_of_the_widest_cells_shortlists_tell_of(
    tmp_path, connection, empty_database, monkeypatch, most
):
    monkeypatch.setattr("jobs.publish.MOST_WIDEST", most)
    run = ready(tmp_path, empty_database)
    publish(run)
    ((widest,),) = connection.execute("SELECT widest FROM lookalike.numberings").fetchall()
    assert widest == [1][:most]
    stored = run.table("embeddings").read()
    units = to_matrix(stored.take(order(stored["product_id"]))["embedding"])
    for filters, passes in (
        ({"baseColour": {"not": ["Red"]}}, range(5, N)),
        ({"baseColour": {"not": [None]}}, range(11)),
    ):
        for query in range(N):
            scores = units @ units[query]
            expected = sorted((i for i in passes if i != query), key=lambda i, scores=scores: (-scores[i], i))[:10]
            found = store.similar_items(connection, IDS[query], filters, 10)
            assert [item.product_id for item in found] == IDS[expected].tolist()


@pytest.mark.parametrize(
    ("gates", "failed", "message"),
    [
        ((), (), GATES),
        (GATES[1:], (), GATES[:1]),
        (GATES, GATES[:1], (GATES[0], "0.5", "0.95", f"remedy of {GATES[0]}", "the old run serves on")),
        (GATES, GATES[:2], (f"remedy of {GATES[0]}", f"remedy of {GATES[1]}")),
    ],
    ids=["no verdict", "one gate without verdict", "one failed", "two failed"],
)
def test_it_refuses_without_passed_verdicts_and_the_old_run_serves_on(
    tmp_path, connection, empty_database, gates, failed, message
):
    publish(ready(tmp_path, empty_database, "old"))
    run = ready(tmp_path, empty_database, "new", angle=0.5)
    judge(run, gates, failed)
    with pytest.raises(UserError) as error:
        publish(run)
    assert all(text in str(error.value) for text in message)
    assert stored(connection) == (["old"], "old")


def test_it_refuses_tables_that_changed_after_they_were_evaluated(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "old"))
    run = ready(tmp_path, empty_database, "new", angle=0.5)
    judged = run.lake.read_bytes("runs/new/evaluate.json")
    run = ready(tmp_path, empty_database, "new", angle=0.7)
    run.lake.write_bytes("runs/new/evaluate.json", judged)
    with pytest.raises(UserError, match="no closed chain: step evaluate read version 0 of embeddings"):
        publish(run)
    assert stored(connection) == (["old"], "old")


def test_it_refuses_where_evaluate_has_not_run(tmp_path, connection, empty_database):
    run = ready(tmp_path, empty_database)
    (tmp_path / "lake/runs/2026-01-31/evaluate.json").unlink()
    with pytest.raises(UserError, match="evaluate"):
        publish(run)
    assert stored(connection) == ([], None)


def test_the_same_content_is_not_loaded_again_but_takes_the_new_name(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "monday"))
    before = store.live(connection).run_id
    again = publish(ready(tmp_path, empty_database, "tuesday"))
    assert (again.skipped, again.rows, again.figures["live"]) == (True, N, "tuesday")
    assert stored(connection) == (["tuesday"], "tuesday")
    assert store.live(connection).run_id == before


def test_other_fields_are_other_content(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "a"))
    assert not publish(ready(tmp_path, empty_database, "b", fields=("baseColour", "season"))).skipped
    with pytest.raises(UserError, match="gender"):
        store.similar_items(connection, 10, {"gender": "gender x"}, 10)


def test_the_last_three_runs_are_kept(tmp_path, connection, empty_database):
    for day in range(5):
        publish(ready(tmp_path, empty_database, f"day-{day}", angle=float(day)))
    assert stored(connection) == (["day-4", "day-3", "day-2"], "day-4")


def test_a_run_with_a_missing_shortlist_is_not_published(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "old"))
    with pytest.raises(RuntimeError, match="11"):
        publish(ready(tmp_path, empty_database, "new", missing=1))
    assert stored(connection) == (["old"], "old")


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        ("shortlists", "items", "table shortlists names product 55"),
        ("shortlists", "product_id", "table shortlists names product 55"),
        ("embeddings", "product_id", "table embeddings names product 55"),
    ],
)
def test_a_table_that_names_an_unknown_product_is_not_published(
    tmp_path, connection, empty_database, table, column, message
):
    publish(ready(tmp_path, empty_database, "old"))
    run = ready(tmp_path, empty_database, "new", angle=0.5)
    rows = run.table(table).read().to_pylist()
    rows[3][column] = ["10", "55"] if column == "items" else "55"
    commit_again(run, table, rows)
    with pytest.raises(RuntimeError, match=message):
        publish(run)
    assert stored(connection) == (["old"], "old")


def test_a_product_without_embedding_is_not_published(tmp_path, connection, empty_database):
    run = ready(tmp_path, empty_database)
    rows = run.table("embeddings").read().to_pylist()
    commit_again(run, "embeddings", [row for row in rows if row["product_id"] != "30"])
    with pytest.raises(RuntimeError, match="product 30 has no embedding"):
        publish(run)


def commit_again(run, name, rows):
    """Replace a table of the run as a faulty step might have written it, and have it judged anew."""
    similar = run.result("similar")
    tables = similar.tables | {name: commit(run, name, rows)}
    write_result(run, "similar", tables=tables, figures=similar.figures)
    judge(run)


@pytest.mark.parametrize("point", ["load_products", "load_shortlists", "counts", "attach", "flip"])
def test_a_crash_at_any_point_leaves_the_old_run_serving_and_at_most_one_that_is_loaded_whole(
    tmp_path, connection, empty_database, monkeypatch, point
):
    """The connection is cut from the server's side right after `point`, as when the process or the server dies."""
    publish(ready(tmp_path, empty_database, "old"))
    before = store.similar_items(connection, 10, {}, 10)
    real = getattr(store, point)

    def cut(publishing, *arguments):
        real(publishing, *arguments)
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (publishing.info.backend_pid,))
        publishing.execute("SELECT 1")

    run = ready(tmp_path, empty_database, "new", angle=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(store, point, cut)
        with pytest.raises(Exception, match="terminat|closed"):
            publish(run)
    is_loaded = point == "flip"  # in a transaction of its own
    assert stored(connection) == (["new"] * is_loaded + ["old"], "old")
    assert store.similar_items(connection, 10, {}, 10) == before
    partitions = "SELECT count(*) FROM pg_class WHERE relnamespace = 'lookalike_runs'::regnamespace AND relkind = 'r'"
    assert connection.execute(partitions).fetchone() == ((1 + is_loaded) * len(store.PARTITIONED),)
    assert publish(run).skipped == is_loaded
    assert stored(connection) == (["new", "old"], "new")


@pytest.mark.parametrize("angles", [(0.5, 0.5), (0.5, 1.5)], ids=["same content", "different content"])
def test_two_publishes_at_once_end_with_one_consistent_live_run(tmp_path, connection, empty_database, angles):
    folders = [tmp_path / "one", tmp_path / "two"]
    runs = [ready(f, empty_database, f.name, angle=angle) for f, angle in zip(folders, angles, strict=True)]
    results, barrier = {}, threading.Barrier(2)

    def work(run):
        barrier.wait()
        try:
            results[run.name] = publish(run)
        except OutdatedError:  # the other one went live first: judged against that
            judge(run)
            results[run.name] = publish(run)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names, live = stored(connection)
    same = angles[0] == angles[1]
    assert [result.skipped for result in results.values()].count(True) == int(same)
    assert len(names) == 1 if same else sorted(names) == ["one", "two"]
    assert live == names[0]
    winner = next(run for run in runs if run.name == live)
    for row in winner.table("shortlists").read().to_pylist():
        found = store.similar_items(connection, row["product_id"], {}, 10)
        assert [(i.product_id, i.score) for i in found] == list(zip(row["items"], row["scores"], strict=True))[:10]


# What may go live -----------------------------------------------------------------------------------------------------


def test_an_older_night_does_not_replace_a_newer_one_unless_a_person_says_why(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "2026-01-02"))
    older = ready(tmp_path, empty_database, "2026-01-01", angle=0.5)
    with pytest.raises(UserError, match="run 2026-01-02 is live, which is a newer night") as error:
        publish(older)
    assert "--publish-anyway REASON" in error.value.remedy
    assert stored(connection) == (["2026-01-02"], "2026-01-02")
    publish(replace(older, publish_anyway="the newer one has wrong prices"))
    live = store.live(connection)
    assert (live.run, live.manifest["published_anyway"]) == ("2026-01-01", "the newer one has wrong prices")
    assert "newer night" in live.manifest["overruled"][0]


def test_a_night_in_the_future_is_refused_whatever_is_said_for_it(tmp_path, connection, empty_database):
    run = replace(ready(tmp_path, empty_database, "2999-12-31"), publish_anyway="we are early")
    with pytest.raises(UserError, match="2999-12-31 lies in the future"):
        publish(run)
    assert stored(connection) == ([], None)


def test_an_older_night_with_the_live_content_leaves_the_live_runs_name(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "2026-01-02"))
    result = publish(ready(tmp_path, empty_database, "2026-01-01"))
    assert (result.skipped, result.figures["live"]) == (True, "2026-01-02")
    assert stored(connection) == (["2026-01-02"], "2026-01-02")


def test_what_was_rolled_back_does_not_return_with_the_next_night_until_the_hold_ends(
    tmp_path, connection, empty_database
):
    publish(ready(tmp_path, empty_database, "2026-01-01"))
    publish(ready(tmp_path, empty_database, "2026-01-02", angle=0.5))
    assert store.rollback(connection, "prices are wrong").run == "2026-01-01"
    third = ready(tmp_path, empty_database, "2026-01-03", angle=0.5)
    with pytest.raises(UserError, match="held since run 2026-01-02 was rolled back") as error:
        publish(third)
    assert "lookalike unhold" in error.value.remedy
    assert store.live(connection).run == "2026-01-01"
    store.unhold(connection, None)
    result = publish(third)
    assert result.skipped  # the store still holds that content: it is flipped to
    assert stored(connection) == (["2026-01-03", "2026-01-01"], "2026-01-03")


def test_publishing_held_content_anyway_ends_the_hold(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "2026-01-01"))
    publish(ready(tmp_path, empty_database, "2026-01-02", angle=0.5))
    store.rollback(connection)
    publish(replace(ready(tmp_path, empty_database, "2026-01-03", angle=0.5), publish_anyway="it was right"))
    assert store.holds(connection) == []
    assert publish(ready(tmp_path, empty_database, "2026-01-04", angle=0.5)).figures["live"] == "2026-01-04"


def test_a_run_that_a_gate_refused_goes_live_only_with_a_reason_which_the_store_keeps(
    tmp_path, connection, empty_database
):
    run = ready(tmp_path, empty_database)
    judge(run, failed=GATES[:1])
    with pytest.raises(UserError, match=f"gate {GATES[0]} found 0.5, bound 0.95"):
        publish(run)
    publish(replace(run, publish_anyway="half the catalogue was meant to go"))
    live = store.live(connection)
    assert live.manifest["published_anyway"] == "half the catalogue was meant to go"
    assert GATES[0] in live.manifest["overruled"][0]


def test_no_reason_replaces_a_missing_verdict_or_closes_an_open_chain(tmp_path, empty_database):
    run = replace(ready(tmp_path, empty_database), publish_anyway="never mind")
    judge(run, GATES[1:])
    with pytest.raises(UserError, match="no verdict of gate"):
        publish(run)
    judge(run)
    again = ready(tmp_path, empty_database, angle=0.5)
    write_result(
        again, "evaluate", tables=again.result("evaluate").tables, inputs={"shortlists": TableVersion(0, "other")}
    )
    with pytest.raises(UserError, match="no closed chain"):
        publish(replace(again, publish_anyway="never mind"))


def test_verdicts_against_a_run_that_is_no_longer_live_are_formed_again(tmp_path, connection, empty_database):
    first, second = ready(tmp_path, empty_database, "a"), ready(tmp_path / "b", empty_database, "b", angle=0.5)
    publish(first)
    with pytest.raises(OutdatedError, match="run b was judged before a went live") as error:
        publish(second)
    assert error.value.step == "evaluate"
    judge(second)
    publish(second)
    assert store.live(connection).run == "b"


def test_the_store_keeps_all_that_the_run_was_made_of(tmp_path, connection, empty_database):
    run = ready(tmp_path, empty_database)
    publish(run)
    manifest = store.live(connection).manifest
    assert manifest["run"] == "2026-01-31"
    stored_results = {name: StepResult.of(result) for name, result in manifest["results"].items()}
    assert stored_results == {name: run.result(name) for name in STEPS[:-1]}
