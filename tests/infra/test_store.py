"""The store on a real Postgres: connecting and loading."""

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo

from infra import embedded, store
from infra.errors import TransientError, UserError

IDS = np.array([1, 2, 3])
VECTORS = np.array([[1, 0], [0.75, 0.5], [0, 1]], np.float32)


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


def test_an_address_that_is_no_utf8_is_refused_in_words_without_its_password(tmp_path):
    with (
        pytest.raises(UserError, match="cannot be read as a Postgres URI") as caught,
        store.connect("postgresql://u:hunter2@127.0.0.1:1/x\udcff", tmp_path),
    ):
        pass
    assert "hunter2" not in str(caught.value)


def test_what_is_too_much_for_the_store_is_no_passing_failure(empty_database, tmp_path):
    with (
        pytest.raises(UserError, match="stack depth limit exceeded") as caught,
        store.connect(empty_database, tmp_path) as connection,
    ):
        connection.execute("SELECT repeat('[', 100000)::jsonb")
    assert caught.value.remedy == "ask for less at once"


def test_a_mere_reader_can_connect_to_a_prepared_store_and_know_its_live_run(connection, empty_database, tmp_path):
    connection.execute("DROP ROLE IF EXISTS test_reader")
    connection.execute("CREATE ROLE test_reader LOGIN IN ROLE lookalike_reader")
    with store.connect(make_conninfo(empty_database, user="test_reader"), tmp_path) as reader:
        assert store.live(reader) is None
    connection.execute("DROP ROLE test_reader")


def test_with_a_server_of_ones_own_the_shells_variables_count(empty_database, tmp_path, monkeypatch):
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGAPPNAME", "mine")
    with store.connect(f"{empty_database} port=5432", tmp_path) as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("mine",)
    monkeypatch.setenv("PGSERVICE", "nowhere")
    with pytest.raises(TransientError, match="nowhere"), store.connect(empty_database, tmp_path):
        pass


def test_a_password_is_taken_from_the_variables_that_libpq_knows(tmp_path, monkeypatch):
    uri = embedded.uri(tmp_path / "data")
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute("CREATE ROLE test_careful LOGIN PASSWORD 'hunter2'")
        access = tmp_path / "data/pg_hba.conf"
        access.write_text("local all test_careful scram-sha-256\n" + access.read_text())
        admin.execute("SELECT pg_reload_conf()")
        login = make_conninfo(uri, user="test_careful")
        with pytest.raises(TransientError, match="no password supplied"), store.connect(login, tmp_path):
            pass
        (tmp_path / "passwords").write_text("*:*:*:test_careful:hunter2\n")
        (tmp_path / "passwords").chmod(0o600)
        for name, value in {"PGPASSWORD": "hunter2", "PGPASSFILE": str(tmp_path / "passwords")}.items():
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                with store.connect(login, tmp_path) as connection:
                    assert store.live(connection) is None
    embedded.leave(tmp_path / "data")


def test_the_shells_search_path_changes_neither_what_is_made_nor_what_is_found(
    empty_database, tmp_path, load_run, monkeypatch
):
    monkeypatch.setenv("PGOPTIONS", "-c search_path=nowhere")
    with store.connect(empty_database, tmp_path, prepares=True) as connection:
        old = load_run(connection, "a", IDS, VECTORS)
        load_run(connection, "b", IDS, VECTORS)
        assert [item.product_id for item in store.similar_items(connection, 1, {}, 10)] == ["2", "3"]
        assert [item.product_id for item in store.similar_items_by_vector(connection, VECTORS[1], {}, 1)] == ["2"]
        assert store.prune(connection, 1) == [old]
        assert names(connection) == ["b"]


# Loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("products", "table", "less"), [(1 << 16, "narrow_shortlists", 1 << 15), ((1 << 16) + 1, "shortlists", 0)]
)
def test_shortlists_of_every_length_come_back_as_they_were_loaded(connection, products, table, less):
    n, run_id = 1300, None
    with connection.transaction():
        run_id = store.begin(connection, "a", "f", ["gender"], {})
        positions = np.linspace(0, products - 1, n).astype(int)
        items = [np.roll(positions, i)[: i if i < 30 else n - i] for i in range(n)]
        ends = np.cumsum([0, *map(len, items)])
        filled = np.random.default_rng(0).integers(1, 1 << 15, (n, 3))
        block = positions, ends, np.concatenate(items), filled
        assert store.load_shortlists(connection, run_id, products, [block]) == n
    stored = connection.execute(
        f"SELECT items, filled_at FROM lookalike_runs.{table}_{run_id} ORDER BY position"
    ).fetchall()
    assert [[item + less for item in row[0]] for row in stored] == [shortlist.tolist() for shortlist in items]
    assert [row[1] for row in stored] == filled.tolist()


def test_products_of_a_base_cell_lie_together_and_members_are_ranges_of_their_positions(connection, load_run):
    values = {"gender": ["Men", "Women"] * 3, "baseColour": ["Red", None, "", "Red", "Blue", None]}
    load_run(
        connection,
        "a",
        np.array([30, 50, 10, 20, 60, 40]),
        np.zeros((6, 2), np.float32),
        values,
        [{}, {"gender": "Men"}],
    )
    found = connection.execute("SELECT product_id, id_order FROM lookalike.catalogue ORDER BY position").fetchall()
    assert found == [("10", 0), ("60", 5), ("30", 2), ("40", 3), ("50", 4), ("20", 1)]
    on_disk = connection.execute("SELECT position FROM lookalike.catalogue ORDER BY ctid").fetchall()
    assert on_disk == [(position,) for position in range(6)]
    numbering = connection.execute("SELECT starts, depths, widest FROM lookalike.numberings").fetchall()
    assert numbering == [([0, 1, 2, 3, 5, 6], [10, 10], [1])]
    values = "SELECT field, value, base_cells::text, cells::text FROM lookalike.field_values"
    found = connection.execute(values).fetchall()
    assert sorted(found, key=str) == [
        ("baseColour", "Blue", "01000", "11"),
        ("baseColour", "Red", "00101", "11"),
        ("baseColour", None, "10010", "11"),
        ("gender", "Men", "11100", "11"),
        ("gender", "Women", "00011", "10"),
        ("gender", None, "00000", "00"),
    ]
    cells = "SELECT cell, base_cells::text, supersets::text FROM lookalike.cells ORDER BY cell"
    assert connection.execute(cells).fetchall() == [(0, "11111", "00"), (1, "11100", "10")]
    members = "SELECT filters, members FROM lookalike.precomputed ORDER BY members DESC"
    assert connection.execute(members).fetchall() == [({}, [0, 6]), ({"gender": "Men"}, [0, 3])]


def test_of_a_field_of_many_values_the_rare_ones_are_stored_by_number(connection, load_run, monkeypatch):
    monkeypatch.setattr(store, "FEW_VALUES", 3)
    values = {
        "baseColour": ["Red", "Red", "Blue", "Green", None, "Blue"],
        "gender": ["Men", "Men", "Men", None, "", ""],
    }
    load_run(
        connection,
        "a",
        np.arange(6),
        np.zeros((6, 2), np.float32),
        values,
        [{}, {"baseColour": "Red"}, {"gender": "Men"}],
    )
    stored = "SELECT value, base_cells::text, cells::text FROM lookalike.field_values WHERE field = 'baseColour'"
    assert set(connection.execute(stored)) == {
        (None, "10000", "100"),
        ("Red", "00001", "111"),
        ("", "01110", "101"),
    }
    rare = "SELECT field, value, base_cells, cells::text FROM lookalike.rare_values ORDER BY value"
    assert connection.execute(rare).fetchall() == [
        ("baseColour", "Blue", [1, 3], "101"),
        ("baseColour", "Green", [2], "100"),
    ]


def test_filters_of_long_keys_and_of_many_ranges_are_not_precomputed(connection, load_run, monkeypatch):
    monkeypatch.setattr(store, "EDGES", 4)
    text = "".join(np.random.default_rng(0).choice([*"abcdefgh"], 1500))
    values = {"gender": [text] * 8, "baseColour": [text[::-1]] * 8, "season": ["Fall", "Summer", "Winter", None] * 2}
    values["usage"] = ["Casual", "Party", "Casual", None, "Party", "Casual", None, "Casual"]
    cells = [{}, {"gender": text}, {"gender": text, "baseColour": text[::-1]}, {"season": "Fall"}, {"usage": "Casual"}]
    load_run(connection, "a", np.arange(8), VECTORS[[0] * 8], values, cells)
    rows = connection.execute("SELECT filters FROM lookalike.precomputed").fetchall()
    assert sorted(map(str, rows)) == sorted(str((cells[at],)) for at in (0, 1, 3))
    for filters in cells:
        found = store.similar_items(connection, 0, filters, 10)
        assert [item.product_id for item in found] == [
            str(at) for at in range(1, 8) if all(values[field][at] == value for field, value in filters.items())
        ]


@pytest.mark.parametrize("places", [[], [0], [6], [0, 1, 5], [6, 2, 3], [*range(7)]], ids=str)
def test_places_become_a_string_of_bits(connection, places):
    (bits,) = connection.execute("SELECT lookalike.to_bits(%s::int[], 7)::text", (places,)).fetchone()
    assert bits == "".join("1" if at in places else "0" for at in range(7))


def test_what_an_answer_is_read_from_is_found_by_one_look_up_each_in_an_index(connection, load_run):
    load_run(connection, "a", IDS, VECTORS)
    # A scan is preferred for a table of one page; it would be taken all the same where there is no index.
    connection.execute("SET enable_seqscan = off")
    for query in (
        "SELECT members FROM lookalike.precomputed WHERE run_id = 1 AND filters = '{}'",
        "SELECT base_cells FROM lookalike.field_values WHERE run_id = 1 AND field = 'gender' AND value = 'Men'",
        "SELECT base_cells FROM lookalike.field_values WHERE run_id = 1 AND field = 'gender' AND value IS NULL",
        "SELECT base_cells FROM lookalike.rare_values WHERE run_id = 1 AND field = 'gender' AND value = 'Men'",
        "SELECT items FROM lookalike.narrow_shortlists WHERE run_id = 1 AND position = 0",
        "SELECT embedding FROM lookalike.catalogue WHERE run_id = 1 AND position >= 0 AND position < 2",
    ):
        plan = [line for (line,) in connection.execute(f"EXPLAIN {query}")]
        assert sum("Scan" in line for line in plan) == 1, plan
        assert "Index Scan" in plan[0], plan


def test_a_cell_that_is_less_deep_than_an_answer_is_long_is_refused(connection):
    with connection.transaction(force_rollback=True):
        run_id = store.begin(connection, "a", "f", ["gender"], {})
        with pytest.raises(psycopg.errors.CheckViolation):
            store.load_filters(
                connection, run_id, np.array([0, 3]), [], [(9, [{}], np.ones(1, bool), np.zeros(1, bool))], []
            )


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
        connection.execute("SELECT embedding::real[]::float8[] FROM lookalike.catalogue ORDER BY product_id"),
        strict=True,
    ):
        assert stored == row.tolist()


def test_a_function_of_the_store_never_commits_for_its_caller(connection, load_run, empty_database):
    load_run(connection, "a", IDS, VECTORS)
    with connection.transaction(force_rollback=True):
        load_run(connection, "b", IDS, VECTORS)
        store.rollback(connection)
        assert store.live(connection).run == "a"
    assert store.holds(connection) == []
    assert names(connection) == ["a"]
    assert store.live(connection).run == "a"
    assert store.similar_items(connection, 1, {}, 10)[0].scanned == 0


def test_a_shortlist_of_a_product_that_is_not_loaded_is_not_counted(connection):
    with connection.transaction(force_rollback=True):
        run_id = store.begin(connection, "a", "f", ["gender"], {})
        store.load_products(connection, run_id, products(["7"]), ("", ""), np.zeros(1, int), VECTORS[:1])
        block = np.array([0, 1]), np.array([0, 1, 2]), np.zeros(2, int), np.zeros((2, 0), int)
        store.load_shortlists(connection, run_id, 1, [block])
        assert store.counts(connection, run_id) == {"products": 1, "precomputed": 0, "shortlists": 1}


def test_a_member_of_lookalike_loader_can_publish_prune_and_roll_back(connection, load_run, empty_database, tmp_path):
    """Both members, because only an owner may drop a partition: the one who loaded it must not be the only one."""
    load_run(connection, "by the administrator", IDS, VECTORS)
    members = ("test_loader_1", "test_loader_2")
    for member in members:
        connection.execute(f"DROP ROLE IF EXISTS {member}")
        connection.execute(f"CREATE ROLE {member} LOGIN IN ROLE lookalike_loader")
    for member in members:
        with store.connect(make_conninfo(empty_database, user=member), tmp_path) as loader:
            load_run(loader, f"by {member}", IDS, VECTORS)
            before = store.rollback(loader)
            store.unhold(loader, None)
            store.flip(loader, store.runs(loader)[0].run_id)
            assert store.prune(loader, 1) == [before.run_id]
            assert names(loader) == [f"by {member}"]
    for member in members:
        connection.execute(f"DROP ROLE {member}")


def test_a_store_of_a_release_before_a_migration_was_edited_is_prepared_and_one_of_another_edit_is_not(connection):
    ((name, former),) = store.FORMERLY.items()
    applied = "UPDATE lookalike.prepared SET sha256 = %s WHERE file = %s"
    connection.execute(applied, (former, name))
    store.prepare(connection)
    noted = connection.execute("SELECT sha256 FROM lookalike.prepared WHERE file = %s", (name,)).fetchone()
    assert noted != (former,)
    connection.execute(applied, ("another", name))
    with pytest.raises(UserError, match=f"migration {name} was edited after it was applied"):
        store.prepare(connection)
