"""Which run is live, on a real Postgres: publishing, going back, holds, and pruning beside readers."""

import itertools
import threading

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra import store
from infra.errors import UserError

IDS = np.array([1, 2, 3])
VECTORS = np.array([[1, 0], [0.75, 0.5], [0, 1]], np.float32)
FLIPPED = VECTORS[[0, 2, 1]]
"""The second product is most like the first, flipped the third is."""


def names(connection):
    return [run.run for run in store.runs(connection)]


@pytest.fixture
def load(connection, load_run):
    """A function that publishes a run with this name and returns its run_id."""
    return lambda run, vectors=VECTORS: load_run(connection, run, IDS, vectors)


def best(connection):
    return store.similar_items(connection, 1, {}, 10)[0].product_id


# Going back --------------------------------------------------------------------------------------------------------


def test_rollback_goes_to_the_run_before_and_answers_from_it(connection, load):
    load("old")
    load("new", FLIPPED)
    assert best(connection) == "3"
    assert store.rollback(connection).run == "old"
    assert best(connection) == "2"
    with pytest.raises(UserError, match="no run to go back to") as error:
        store.rollback(connection)
    assert "old" in error.value.where
    assert "new (held)" in error.value.where


def test_rollback_without_any_run_is_a_user_error(connection):
    with pytest.raises(UserError, match="no run to go back to"):
        store.rollback(connection)


def test_a_second_rollback_goes_further_back(connection, load):
    for run in "abc":
        load(run)
    assert [store.rollback(connection).run for _ in range(2)] == ["b", "a"]
    assert store.live(connection).run == "a"
    assert {hold.run for hold in store.holds(connection)} == {"b", "c"}


def test_after_an_older_night_was_published_rollback_goes_to_what_was_live_before_it(connection, load):
    older = load("2026-01-01")
    load("2026-01-02")
    store.flip(connection, older)  # by --publish-anyway
    assert store.rollback(connection).run == "2026-01-02"
    assert store.live(connection).run == "2026-01-02"


def test_rollback_passes_over_what_is_held(connection, load):
    for run in "ab":
        load(run)
    store.rollback(connection)
    load("c")
    assert store.rollback(connection).run == "a"


def test_rollback_does_not_go_back_to_the_same_content_under_another_id(connection, load):
    for run in ("a", "b", "b"):
        load(run)
    assert store.rollback(connection).run == "a"


def test_a_clock_that_was_set_back_does_not_change_the_order(connection, load):
    first = load("a")
    connection.execute("UPDATE lookalike.runs SET published_at = now() + interval '1 day' WHERE run_id = %s", (first,))
    load("b")
    load("c")
    assert [store.rollback(connection).run for _ in range(2)] == ["b", "a"]


def test_only_one_run_can_be_live(connection, load):
    load("a")
    run_id = load("b")
    assert connection.execute("SELECT run_id FROM lookalike.live").fetchall() == [(run_id,)]
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO lookalike.live (one, run_id) VALUES (false, %s)", (run_id,))


def test_a_run_comes_back_with_its_manifest_and_takes_those_of_a_later_one_with_its_content(connection, load):
    load("a")
    first = store.live(connection)
    assert (first.run, first.content_hash, first.manifest) == ("a", "content of a", {"run": "a"})
    load("b")
    assert store.stored_with(connection, "content of a") == first
    store.adopt(connection, first.run_id, "c", {"tables": {"products": 3}})
    store.flip(connection, first.run_id)
    now = store.live(connection)
    assert (now.run_id, now.run, now.manifest) == (first.run_id, "c", {"tables": {"products": 3}})
    assert now.published_at > first.published_at
    assert names(connection) == ["b", "c"]


def test_lookups_of_one_run_stay_with_it_while_others_are_published_and_pruned(connection, load, empty_database):
    first = load("a")
    with psycopg.connect(empty_database, autocommit=True) as reader, store.one_run(reader):
        assert store.live(reader).run == "a"  # and nothing of its products yet
        for run in "bcd":
            load(run, FLIPPED)
            assert store.prune(connection, 2) == []
        assert best(reader) == "2"
        assert store.similar_items_by_vector(reader, VECTORS[0], {}, 1)[0].product_id == "1"
        assert store.live(reader).run_id == first
    assert best(connection) == "3"
    assert store.prune(connection, 2) == [first, first + 1]


# Holds -------------------------------------------------------------------------------------------------------------


def test_a_hold_is_of_the_content_and_keeps_its_name_and_reason(connection, load):
    load("a")
    load("b")
    store.rollback(connection, "colours are wrong")
    hold = store.held(connection, "content of b")
    assert (hold.run, hold.reason) == ("b", "colours are wrong")
    assert store.held(connection, "content of a") is None
    store.hold(connection, "content of b", "b again", "still wrong")
    assert [(hold.run, hold.reason) for hold in store.holds(connection)] == [("b again", "still wrong")]


def test_without_a_reason_the_hold_says_what_was_gone_back_to(connection, load):
    load("a")
    load("b")
    store.rollback(connection)
    assert store.held(connection, "content of b").reason == "rolled back to run a"


@pytest.mark.parametrize("name", ["b", "renamed", None])
def test_unhold_ends_the_holds_of_a_run_by_its_name_then_or_now_or_all(connection, load, name):
    load("a")
    run_id = load("b")
    store.rollback(connection)
    store.adopt(connection, run_id, "renamed", {})
    assert [hold.run for hold in store.unhold(connection, name)] == ["b"]
    assert store.holds(connection) == []


def test_ending_the_hold_of_content_leaves_another_that_was_held_under_the_same_name(connection):
    for content in ("one", "two"):
        store.hold(connection, content, "2026-01-01", "wrong")
    store.end_hold(connection, "one")
    assert [hold.content_hash for hold in store.holds(connection)] == ["two"]


def test_unhold_of_what_is_not_held_names_what_is(connection, load):
    assert store.unhold(connection, None) == []
    load("a")
    load("b")
    store.rollback(connection)
    with pytest.raises(UserError, match="nothing of run a is held") as error:
        store.unhold(connection, "a")
    assert error.value.where == "held: b"
    assert len(store.holds(connection)) == 1


# Pruning -----------------------------------------------------------------------------------------------------------


def partitions(connection):
    """(attached partitions, tables in the schema of partitions)."""
    return connection.execute(
        "SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent::regclass::text LIKE 'lookalike.%'),"
        " (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'lookalike_runs'::regnamespace)"
    ).fetchone()


def test_prune_keeps_three_and_always_the_live_one(connection, load):
    ids = [load(name) for name in "abcde"]
    store.rollback(connection)
    store.unhold(connection, None)
    store._point_to(connection, ids[0])
    assert store.prune(connection, 3) == [ids[1], ids[2]]
    assert names(connection) == ["e", "d", "a"]
    assert partitions(connection) == (3 * len(store.PARTITIONED),) * 2


def test_prune_keeps_what_rollback_would_go_to_rather_than_what_is_held(connection, load):
    for run in "ab":
        load(run)
    store.rollback(connection)
    load("c")
    store.prune(connection, 2)
    assert names(connection) == ["c", "a"]
    assert store.rollback(connection).run == "a"


def test_prune_removes_what_a_crashed_load_or_an_interrupted_prune_left(connection, load, empty_database):
    load("a")
    with psycopg.connect(empty_database, autocommit=True) as crashed:
        store.begin(crashed, "b", "content of b", ["gender"], {})
    assert names(connection) == ["a"]
    assert store.prune(connection, 2) == [2]
    assert partitions(connection) == (len(store.PARTITIONED),) * 2


@pytest.mark.parametrize("step", range(1, 11))
def test_a_prune_that_crashes_leaves_at_most_one_run_which_is_none_and_the_next_finishes_it(
    connection, load, empty_database, monkeypatch, step
):
    """The server's side of the connection ends before its `step`th change, as when the process or the server dies."""
    old, _ = load("old"), load("new")
    changes = itertools.count(1)
    with psycopg.connect(empty_database, autocommit=True) as pruning:
        real = pruning.execute

        def execute(query, *arguments):
            text = query if isinstance(query, str) else query.as_string(pruning)
            if text.startswith(("UPDATE", "ALTER", "DROP", "DELETE")) and next(changes) == step:
                connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pruning.info.backend_pid,))
            return real(query, *arguments)

        monkeypatch.setattr(pruning, "execute", execute)
        with pytest.raises(psycopg.OperationalError):
            store.prune(pruning, 1)
    assert names(connection) == (["new", "old"] if step == 1 else ["new"])
    assert best(connection) == "2"
    assert store.prune(connection, 1) == [old]
    assert partitions(connection) == (len(store.PARTITIONED),) * 2


def test_a_detaching_that_a_reader_interrupted_is_finished_by_the_next_prune(connection, load, empty_database):
    """A transaction without a snapshot, idle between its statements, still has the table locked."""
    old = load("old")
    load("new")
    with psycopg.connect(empty_database) as reader:
        reader.execute("SELECT count(*) FROM lookalike.live_products")
        assert store.prune(connection, 1) == []
        assert names(connection) == ["new"]
        load("newer")  # beside a partition that is being detached
        assert store.prune(connection, 2) == []
        assert best(connection) == "2"
    assert store.prune(connection, 2) == [old]
    assert partitions(connection) == (2 * len(store.PARTITIONED),) * 2


def test_a_long_running_reader_delays_pruning_not_lookups(connection, load, empty_database):
    old = load("old")
    with psycopg.connect(empty_database, autocommit=True) as reader, store.one_run(reader):
        assert best(reader) == "2"
        load("new", FLIPPED)
        connection.execute("SET statement_timeout = '30s'")  # a prune that waits for the reader fails here, not hangs
        assert store.prune(connection, 1) == []
        assert names(connection) == ["new", "old"]
        assert len(store.similar_items(connection, 1, {}, 20)) == 2
        assert best(reader) == "2"
    assert store.prune(connection, 1) == [old]


def test_prune_leaves_to_the_next_what_another_publish_may_need(connection, load, empty_database):
    old = load("old")
    load("new")
    with psycopg.connect(empty_database) as publishing:
        store.lock(publishing)
        assert store.prune(connection, 1) == []
    assert store.prune(connection, 1) == [old]


def test_prune_gives_the_lock_and_the_session_back(connection, load, empty_database):
    load("old")
    load("new")
    settings = "SELECT name, setting FROM pg_settings WHERE name IN ('lock_timeout', 'synchronous_commit')"
    before = connection.execute(settings).fetchall()
    store.prune(connection, 1)
    assert connection.execute(settings).fetchall() == before
    with psycopg.connect(empty_database, options="-c lock_timeout=1s") as other:
        store.lock(other)


def one_answer(reader):
    return {best(reader)}


def answers_of_one_run(reader):
    with store.one_run(reader):
        answers = {best(reader) for _ in range(3)}
        assert len(answers) == 1
        return answers


def answers_of_one_transaction(reader):
    """Each statement may see another run, and sees that one whole."""
    with reader.transaction():
        answers = {best(reader) for _ in range(3)}
        assert reader.execute("SELECT count(*) FROM lookalike.live_products").fetchone() == (3,)
        return answers


@pytest.mark.parametrize("ask", [one_answer, answers_of_one_run, answers_of_one_transaction])
def test_readers_at_full_speed_neither_fail_nor_wait_for_a_lock_while_runs_are_published_and_pruned(
    connection, load, empty_database, ask
):
    """A reader that waits for a lock fails: long before anybody would give up, but not because a machine is busy."""
    load("first")
    ended, failures, answers = threading.Event(), [], []

    def read():
        with psycopg.connect(empty_database, autocommit=True, options="-c lock_timeout=200ms") as reader:
            while not ended.is_set():
                try:
                    answers.append(ask(reader))
                except Exception as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for night in range(20):
        load(str(night), FLIPPED if night % 2 else VECTORS)
        store.prune(connection, 2)
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set().union(*answers) == {"2", "3"}
    store.prune(connection, 2)
    assert names(connection) == ["19", "18"]


def test_a_transaction_that_asked_before_a_publish_gets_the_new_run_after_it(connection, load, empty_database):
    load("a")
    with psycopg.connect(empty_database) as reader:
        for night in range(4):
            assert best(reader) == str(2 + night % 2)
            assert len(store.similar_items_by_vector(reader, VECTORS[0], {}, 3)) == 3
            load(str(night), VECTORS if night % 2 else FLIPPED)


def test_a_loader_sees_the_snapshots_of_other_users(connection, load, empty_database):
    """Which it must, to know that nobody needs a run: pg_stat_activity hides much of other users' sessions."""
    load("old")
    for name in ("loader", "reader"):
        connection.execute(f"DROP ROLE IF EXISTS test_{name}")
        connection.execute(f"CREATE ROLE test_{name} LOGIN IN ROLE lookalike_{name}")
    loader, reader = (
        psycopg.connect(make_conninfo(empty_database, user=f"test_{name}"), autocommit=True)
        for name in ("loader", "reader")
    )
    with loader, reader:
        with store.one_run(reader):
            assert store.live(reader).run == "old"
            load("new")
            assert store.prune(loader, 1) == []
            assert best(reader) == "2"
        assert len(store.prune(loader, 1)) == 1
    for name in ("loader", "reader"):
        connection.execute(f"DROP ROLE test_{name}")
