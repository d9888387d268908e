"""publish on a real lake and a real Postgres: what it refuses, what it loads, and what a crash or a race leaves."""

import json
import threading
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from infra.settings import ATTRIBUTES, Settings
from jobs.features import to_lists
from jobs.publish import publish
from jobs.run import Run, StepResult, content
from ml.gates import GATES

N = 12
IDS = np.arange(N) * 10 + 10
COLOUR = ["Red"] * 5 + ["Blue"] * 6 + [None]
CELLS = [{"cell": 0, "members": N, "filters": "[{}]"}, {"cell": 1, "members": 5, "filters": '[{"baseColour": "Red"}]'}]


def commit(run, name, rows, salt="", figures=None, parts=1):
    table, size = pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pylist(rows), run.lake.table(name)
    blocks = [table.slice(i * len(table) // parts, len(table) // parts) for i in range(parts)] if len(table) else []
    written = [run.lake.write_part(name, block, salt=salt) for block in blocks]
    return size.commit(written, table.schema, run=run.name, fingerprint=salt or name, figures=figures).version


def vouch(run, name, tables, **figures):
    result = StepResult(tables=tables, figures=figures)
    run.lake.write_bytes(f"runs/{run.name}/{name}.json", json.dumps(asdict(result)).encode())


def ready(tmp_path, uri, name="2026-01-31", angle=0.0, missing=0, **settings):
    """A run whose steps before publish are done; `angle` decides the content, `missing` lists are left out."""
    lake = (tmp_path / "lake").as_uri()
    run = Run(name, Settings(lake=lake, store=uri, store_folder=tmp_path / "unused", **settings), Lake(lake))
    vectors = (
        np.rint(np.stack([np.cos(np.arange(N) + angle), np.sin(np.arange(N))], 1) * 1024).astype(np.float32) / 2048
    )
    scores = vectors @ vectors.T
    texts = {field: pa.array(COLOUR if field == "baseColour" else [f"{field} x"] * N) for field in ATTRIBUTES}
    products = {"product_id": IDS, **texts, "derivedType": ["Men x"] * N, "image_sha256": ["0" * 64] * N}
    lists = [
        {"cell": cell, "product_id": int(IDS[q]), "items": IDS[best].tolist(), "scores": scores[q][best].tolist()}
        for cell, members in enumerate((range(N), range(5)))
        for q in range(N)
        for best in [sorted((i for i in members if i != q), key=lambda i, q=q: (-scores[q, i], i))[:10]]
    ]
    mark = f"content {angle} {missing}"
    figures = {"products": N, "cells": 2, "lists": len(lists) - missing}
    vouch(run, "catalog", {"products": commit(run, "products", products, mark)})
    vouch(
        run,
        "similar",
        {
            "embeddings": commit(run, "embeddings", {"product_id": IDS, "embedding": to_lists(vectors)}, mark, parts=2),
            "cells": commit(run, "cells", CELLS, mark),
            "lists": commit(run, "lists", lists[: len(lists) - missing], mark, figures, parts=1 if missing else 3),
        },
    )
    judge(run)
    return run


def judge(run, gates=GATES, failed=()):
    rows = {
        "gate": list(gates),
        "value": [0.5] * len(gates),
        "bound": [0.95] * len(gates),
        "passed": pa.array([gate not in failed for gate in gates], pa.bool_()),
        "detail": [f"detail of {gate}" for gate in gates],
        "remedy": [f"remedy of {gate}" for gate in gates],
    }
    vouch(run, "evaluate", {"verdicts": commit(run, "verdicts", rows)}, judged=content(run))


def stored(connection):
    return [run.run for run in store.runs(connection)], store.live(connection) and store.live(connection).run


def test_it_loads_the_run_makes_it_live_and_says_what_it_did(tmp_path, connection, empty_database):
    run = ready(tmp_path, empty_database)
    result = publish(run)
    assert (result.rows, result.skipped, result.tables) == (2 * N, False, {})
    assert {name: result.figures[name] for name in ("products", "lists", "live")} == {
        "products": N,
        "lists": 2 * N,
        "live": "2026-01-31",
    }
    assert {"load_s", "lists_per_s"} <= set(result.figures)
    assert store.live(connection).figures == {"products": N, "cells": 2, "lists": 2 * N}
    rows = run.table("lists").read().to_pylist()
    for row in rows:
        filters = json.loads(CELLS[row["cell"]]["filters"])[0]
        found = store.similar_items(connection, row["product_id"], filters, 10)
        assert [item.product_id for item in found] == row["items"]
        assert [item.score for item in found] == row["scores"]
        assert all(item.precomputed for item in found)
        on_read = store.similar_items(connection, row["product_id"], filters, 11)[:10]
        assert [(item.product_id, item.score) for item in on_read] == [(item.product_id, item.score) for item in found]
    blue = store.similar_items(connection, 10, {"baseColour": "Blue"}, 10)
    assert {item.product_id for item in blue} == set(IDS[5:11].tolist())
    columns = connection.execute('SELECT gender, year, "derivedType" FROM lookalike.live_products LIMIT 1').fetchone()
    assert columns == ("gender x", "year x", "Men x")


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
    with pytest.raises(UserError, match="changed after they were evaluated"):
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
    assert (again.skipped, again.rows, again.figures["live"]) == (True, 2 * N, "tuesday")
    assert stored(connection) == (["tuesday"], "tuesday")
    assert store.live(connection).run_id == before


def test_other_fields_are_other_content(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "a"))
    assert not publish(ready(tmp_path, empty_database, "b", fields=("gender", "season"))).skipped
    with pytest.raises(UserError, match="baseColour"):
        store.similar_items(connection, 10, {"baseColour": "Blue"}, 10)


def test_the_last_three_runs_are_kept(tmp_path, connection, empty_database):
    for day in range(5):
        publish(ready(tmp_path, empty_database, f"day-{day}", angle=float(day)))
    assert stored(connection) == (["day-4", "day-3", "day-2"], "day-4")


def test_a_run_with_a_missing_list_is_not_published(tmp_path, connection, empty_database):
    publish(ready(tmp_path, empty_database, "old"))
    with pytest.raises(RuntimeError, match="23"):
        publish(ready(tmp_path, empty_database, "new", missing=1))
    assert stored(connection) == (["old"], "old")


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        ("lists", "items", "table lists names product 55"),
        ("lists", "product_id", "table lists names product 55"),
        ("embeddings", "product_id", "table embeddings names product 55"),
    ],
)
def test_a_table_that_names_an_unknown_product_is_not_published(
    tmp_path, connection, empty_database, table, column, message
):
    publish(ready(tmp_path, empty_database, "old"))
    run = ready(tmp_path, empty_database, "new", angle=0.5)
    rows = run.table(table).read().to_pylist()
    rows[3][column] = [10, 55] if column == "items" else 55
    commit_again(run, table, rows)
    with pytest.raises(RuntimeError, match=message):
        publish(run)
    assert stored(connection) == (["old"], "old")


def test_a_product_without_embedding_is_not_published(tmp_path, connection, empty_database):
    run = ready(tmp_path, empty_database)
    rows = run.table("embeddings").read().to_pylist()
    commit_again(run, "embeddings", [row for row in rows if row["product_id"] != 30])
    with pytest.raises(RuntimeError, match="product 30 has no embedding"):
        publish(run)


def commit_again(run, name, rows):
    """Replace a table of the run as a faulty step might have written it, and have it judged anew."""
    figures = {"products": N, "cells": 2, "lists": 2 * N}
    tables = run.result("similar").tables
    vouch(run, "similar", tables | {name: commit(run, name, rows, f"faulty {name}", figures)})
    judge(run)


@pytest.mark.parametrize("point", ["load_products", "load_lists", "counts", "attach", "flip", "prune"])
def test_a_crash_at_any_point_leaves_the_old_run_serving_and_nothing_behind(
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
    assert stored(connection) == (["old"], "old")
    assert store.similar_items(connection, 10, {}, 10) == before
    partitions = "SELECT count(*) FROM pg_class WHERE relnamespace = 'lookalike'::regnamespace AND relname ~ '_[0-9]+$'"
    assert connection.execute(partitions).fetchone() == (len(store.PARTITIONED),)
    assert not publish(run).skipped
    assert stored(connection) == (["new", "old"], "new")


@pytest.mark.parametrize("angles", [(0.5, 0.5), (0.5, 1.5)], ids=["same content", "different content"])
def test_two_publishes_at_once_end_with_one_consistent_live_run(tmp_path, connection, empty_database, angles):
    folders = [tmp_path / "one", tmp_path / "two"]
    runs = [ready(f, empty_database, f.name, angle=angle) for f, angle in zip(folders, angles, strict=True)]
    results, barrier = {}, threading.Barrier(2)

    def work(run):
        barrier.wait()
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
    for row in winner.table("lists").read().to_pylist():
        if row["cell"] == 0:
            found = store.similar_items(connection, row["product_id"], {}, 10)
            assert [(i.product_id, i.score) for i in found] == list(zip(row["items"], row["scores"], strict=True))
