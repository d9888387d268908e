"""The store on a real Postgres: connecting, the embedded server, and loading."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo

from infra import embedded, store
from infra.errors import TransientError, UserError

IDS = np.array([1, 2, 3])
VECTORS = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
LISTS = [({}, [(2, 3), (), (1,)])]


def names(connection):
    return [run.run for run in store.runs(connection)]


# Connecting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:hunter2@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=u&password=hunter2",
        "host=127.0.0.1 port=1 user=u password=hunter2",
        "postgresql://u:hun@ter2@127.0.0.1:1/x",
        "postgresql://u:hun/ter2@127.0.0.1:1/x",
        "postgresql://u:hunter2@127.0.0.1:port/x",
        "postgresql://u:hunter2@127.0.0.1:1/x?nonsense=1",
        "hunter2",
    ],
)
def test_a_failed_connection_never_shows_the_password(uri, tmp_path):
    with pytest.raises((TransientError, UserError)) as error, store.connect(uri, tmp_path):
        pass
    shown = f"{error.value}{error.value.__cause__}"
    assert "hun" not in shown
    assert "ter2" not in shown


def test_a_server_that_refuses_is_transient_and_named(tmp_path):
    with pytest.raises(TransientError, match="127.0.0.1:1/x"), store.connect("postgresql://127.0.0.1:1/x", tmp_path):
        pass


def test_an_unreadable_address_is_a_user_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError) as error, store.connect("postgresql://u:p@ss@host/x", tmp_path):
        pass
    assert "LOOKALIKE_STORE" in error.value.where
    assert "%40" in error.value.remedy


def test_a_connection_that_breaks_is_transient(empty_database, tmp_path):
    with pytest.raises(TransientError, match="failed"), store.connect(empty_database, tmp_path) as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_mere_reader_can_connect_to_a_prepared_store_and_know_its_live_run(connection, empty_database, tmp_path):
    connection.execute("DROP ROLE IF EXISTS test_reader")
    connection.execute("CREATE ROLE test_reader LOGIN IN ROLE lookalike_reader")
    with store.connect(make_conninfo(empty_database, user="test_reader"), tmp_path) as reader:
        assert store.live(reader) is None
    connection.execute("DROP ROLE test_reader")


# The embedded server ---------------------------------------------------------------------------------------------


def servers(folder: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])]


def start_in_a_process(folder: Path) -> subprocess.Popen:
    code = (
        "import sys, pathlib as p, infra.embedded as e; print(e.uri(p.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    return process


def test_the_embedded_server_lives_until_its_last_process_ends_even_if_another_was_killed(tmp_path):
    killed, first, last = (start_in_a_process(tmp_path / "data") for _ in range(3))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    joined = start_in_a_process(tmp_path / "data")
    for process in (first, joined):
        process.communicate()
        assert servers(tmp_path / "data")
    last.communicate()
    assert not servers(tmp_path / "data")


def test_the_embedded_server_has_our_settings_even_in_a_folder_made_without_them_and_alter_system_wins(tmp_path):
    def shown(name):
        with psycopg.connect(uri) as connection:
            return connection.execute(f"SHOW {name}").fetchone()[0]

    process = start_in_a_process(tmp_path / "data")
    process.communicate()
    main = tmp_path / "data/postgresql.conf"
    main.write_text(main.read_text().replace("include_if_exists = 'lookalike.conf'", ""))
    (tmp_path / "data/lookalike.conf").unlink()
    (tmp_path / "data/postgresql.auto.conf").write_text("maintenance_work_mem = '100MB'")
    uri = embedded.uri(tmp_path / "data")
    assert (shown("wal_level"), shown("fsync"), shown("maintenance_work_mem")) == ("minimal", "on", "100MB")


def test_an_embedded_server_that_died_is_started_again(tmp_path):
    uri = embedded.uri(tmp_path / "data")
    [server] = map(psutil.Process, servers(tmp_path / "data"))
    server.kill()
    server.wait(30)
    assert embedded.uri(tmp_path / "data") == uri
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_forked_child_that_ends_leaves_the_server_running(tmp_path):
    # In a process of its own: a child of this one would delete, as it exits, this session's temporary folders.
    code = (
        "import os, sys, pathlib as p, infra.embedded as e\n"
        "folder = p.Path(sys.argv[1])\n"
        "print(e.uri(folder))\n"
        "if child := os.fork(): os.waitpid(child, 0)\n"
        "else: e.uri(folder); sys.exit()\n"
        "print(e.psutil.pid_exists(int((folder / 'postmaster.pid').read_text().split()[0])))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path / "data")], capture_output=True, text=True)
    assert found.stdout.split()[-1] == "True", found.stderr


def test_a_path_too_long_for_a_unix_socket_works(tmp_path):
    process = start_in_a_process(tmp_path / ("a" * 80) / ("b" * 80))
    assert servers(tmp_path / ("a" * 80) / ("b" * 80))
    process.communicate()


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError) as error:
        embedded.uri(tmp_path)
    assert "LOOKALIKE_STORE_FOLDER" in error.value.where
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_file_in_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        embedded.uri(tmp_path / "file")


# Loading ---------------------------------------------------------------------------------------------------------


def test_lists_of_every_length_come_back_as_they_were_loaded_as_positions(connection, load_run):
    n = 40
    ids = np.arange(n) * 2**40 // n - 2**39
    lists = [ids[np.roll(np.arange(n), i)[: i % 11]] for i in range(n)]
    load_run(connection, "a", ids, np.tile(VECTORS[:1], (n, 1)), lists=[({}, lists)])
    stored = connection.execute("SELECT items FROM lookalike.lists ORDER BY position").fetchall()
    assert [ids[items].tolist() for (items,) in stored] == [items.tolist() for items in lists]


def test_positions_count_the_products_by_ascending_id_and_products_of_a_base_cell_lie_together(connection, load_run):
    values = {"gender": ["Men", "Women"] * 3, "baseColour": ["Red", None, "", "Red", "Blue", None]}
    load_run(connection, "a", np.array([30, 50, 10, 20, 60, 40]), np.zeros((6, 2), np.float32), values)
    rows = connection.execute(
        """SELECT product_id, position, attributes FROM lookalike.products JOIN lookalike.base_cells USING (base_cell)
           ORDER BY product_id"""
    ).fetchall()
    assert rows == [
        (10, 0, {"gender": "Men"}),
        (20, 1, {"gender": "Women", "baseColour": "Red"}),
        (30, 2, {"gender": "Men", "baseColour": "Red"}),
        (40, 3, {"gender": "Women"}),
        (50, 4, {"gender": "Women"}),
        (60, 5, {"gender": "Men", "baseColour": "Blue"}),
    ]
    on_disk = [cell for (cell,) in connection.execute("SELECT base_cell FROM lookalike.products ORDER BY ctid")]
    assert on_disk == sorted(on_disk)


def test_a_combination_is_resolved_to_its_cell_and_that_to_a_list_by_one_look_up_each_in_an_index(connection, load_run):
    load_run(connection, "a", IDS, VECTORS, lists=LISTS)
    # A scan is preferred for a table of one page; it would be taken all the same where there is no index.
    connection.execute("SET enable_seqscan = off")
    for query in (
        "SELECT cell FROM lookalike.combinations WHERE run_id = 1 AND filters = '{}'",
        "SELECT items FROM lookalike.lists WHERE run_id = 1 AND position = 0 AND cell = 0",
    ):
        plan = [line for (line,) in connection.execute(f"EXPLAIN {query}")]
        assert sum("Scan" in line for line in plan) == 1, plan
        assert "Index Scan" in plan[0], plan


def test_products_whose_ids_do_not_ascend_are_refused(connection):
    with connection.transaction(force_rollback=True):
        run_id = store.begin(connection, "a", "f", ["gender"], {})
        with pytest.raises(ValueError, match="ascend"):
            store.load_products(connection, run_id, products([1, 3, 3]), VECTORS)


def products(ids):
    nothing = pa.nulls(len(ids), pa.string())
    return pa.table({"product_id": ids, "gender": nothing, "image_sha256": ["0" * 64] * len(ids)})


@pytest.mark.parametrize("width", [2, 256, 1280, 2048, 4032])
def test_embeddings_of_every_backbones_width_are_stored_exactly(connection, load_run, width):
    entries = np.random.default_rng(width).integers(-2048, 2049, (3, width)) / np.float32(2048)
    values = {name: [name + " " * 20] * 3 for name in ("gender", "articleType", "productDisplayName")}
    load_run(connection, "a", IDS, entries, values)
    for row, (stored,) in zip(
        entries,
        connection.execute("SELECT embedding::real[]::float8[] FROM lookalike.products ORDER BY product_id"),
        strict=True,
    ):
        assert stored == row.tolist()


def test_a_function_of_the_store_never_commits_for_its_caller(connection, load_run, empty_database):
    load_run(connection, "a", IDS, VECTORS, lists=LISTS)
    with connection.transaction(force_rollback=True):
        load_run(connection, "b", IDS, VECTORS, lists=LISTS)
        store.rollback(connection)
        assert store.live(connection).run == "a"
    assert store.holds(connection) == []
    assert names(connection) == ["a"]
    assert store.live(connection).run == "a"
    assert store.similar_items(connection, 1, {}, 10)[0].precomputed


def test_a_list_of_a_product_that_is_not_loaded_is_not_counted(connection):
    with connection.transaction(force_rollback=True):
        run_id = store.begin(connection, "a", "f", ["gender"], {})
        store.load_products(connection, run_id, products([7]), VECTORS[:1])
        one = np.ones(2, np.int32)
        store.load_lists(connection, run_id, [(one, np.array([0, 1]), one, one)])
        assert store.counts(connection, run_id) == {"products": 1, "combinations": 0, "lists": 1}


def test_a_member_of_lookalike_loader_can_publish_prune_and_roll_back(connection, load_run, empty_database, tmp_path):
    """Both members, because only an owner may drop a partition: the one who loaded it must not be the only one."""
    load_run(connection, "by the administrator", IDS, VECTORS, lists=LISTS)
    members = ("test_loader_1", "test_loader_2")
    for member in members:
        connection.execute(f"DROP ROLE IF EXISTS {member}")
        connection.execute(f"CREATE ROLE {member} LOGIN IN ROLE lookalike_loader")
    for member in members:
        with store.connect(make_conninfo(empty_database, user=member), tmp_path) as loader:
            load_run(loader, f"by {member}", IDS, VECTORS, lists=LISTS)
            before = store.rollback(loader)
            store.unhold(loader, None)
            store.flip(loader, store.runs(loader)[0].run_id)
            assert store.prune(loader, 1) == [before.run_id]
            assert names(loader) == [f"by {member}"]
    for member in members:
        connection.execute(f"DROP ROLE {member}")
