"""Several releases on one real store: who prepares it, who may read it, and what the others are told.

Another release is another folder `sql/`.
"""

import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra import store
from infra.errors import TransientError, UserError

IDS = np.array([1, 2, 3])
VECTORS = np.array([[1, 0], [0.75, 0.5], [0, 1]], np.float32)
THIS = store.SQL
MIGRATION = "CREATE TABLE lookalike.extra (x int); COMMENT ON TABLE lookalike.extra IS 'of the newer release';"
FUNCTION = """CREATE OR REPLACE FUNCTION lookalike.newest() RETURNS int LANGUAGE sql RETURN 9;
COMMENT ON FUNCTION lookalike.newest() IS 'of the newer release';"""


@pytest.fixture
def newer(tmp_path):
    """Folder `sql/` of a release with one more migration and one more function, and with one function changed."""
    folder = tmp_path / "newer/sql"
    shutil.copytree(THIS, folder)
    (folder / "migrations/9999_extra.sql").write_text(MIGRATION)
    (folder / "functions/newest.sql").write_text(FUNCTION)
    function = folder / "functions/asked_run.sql"
    function.write_text(function.read_text().replace("no run is live", "nothing is live"))
    return folder


@pytest.fixture
def logins(connection, empty_database):
    """Connection strings of a `reader` and a `loader` that are members of one role each."""
    for name in ("reader", "loader"):
        connection.execute(f"DROP ROLE IF EXISTS test_{name}")
        connection.execute(f"CREATE ROLE test_{name} LOGIN IN ROLE lookalike_{name}")
    yield {name: make_conninfo(empty_database, user=f"test_{name}") for name in ("reader", "loader")}
    for name in ("reader", "loader"):
        connection.execute(f"DROP OWNED BY test_{name}")
        connection.execute(f"DROP ROLE test_{name}")


def everything(connection):
    """What a store consists of; a function that was replaced by itself has another xmin."""
    functions = "SELECT oid::regprocedure::text, xmin::text, prosrc, proowner FROM pg_proc"
    relations = "SELECT oid::regclass::text, xmin::text, relowner, relacl::text FROM pg_class"
    rows = []
    for query, column in ((functions, "pronamespace"), (relations, "relnamespace")):
        found = f"{query} WHERE {column}::regnamespace::text IN ('lookalike', 'lookalike_runs') ORDER BY 1"
        rows += connection.execute(found).fetchall()
    return rows + connection.execute("SELECT file, sha256, applied_at FROM lookalike.prepared ORDER BY 1").fetchall()


def ask(uri, folder):
    with store.connect(uri, folder) as connection:
        return store.live(connection).run, [item.product_id for item in store.similar_items(connection, 1, {}, 10)]


# A store that nobody prepared --------------------------------------------------------------------------------------


def test_an_empty_store_has_no_run_and_is_not_touched_by_those_who_only_ask(empty_database, tmp_path):
    with store.connect(empty_database, tmp_path) as connection:
        assert (store.live(connection), store.runs(connection), store.holds(connection)) == (None, [], [])
        assert (store.stored_with(connection, "x"), store.held(connection, "x")) == (None, None)
        for lookup in (
            lambda: store.similar_items(connection, 1, {}, 10),
            lambda: store.similar_items_by_vector(connection, VECTORS[0], {}, 10),
            lambda: store.product_names(connection, [1]),
        ):
            with pytest.raises(UserError, match="no run is live") as error:
                lookup()
            assert "make refresh" in error.value.remedy
        with pytest.raises(UserError, match="no run to go back to"):
            store.rollback(connection)
        assert connection.execute("SELECT to_regnamespace('lookalike')").fetchone() == (None,)


def test_a_login_without_any_right_is_told_so(connection, empty_database, tmp_path):
    connection.execute("DROP ROLE IF EXISTS test_stranger")
    connection.execute("CREATE ROLE test_stranger LOGIN")
    uri = make_conninfo(empty_database, user="test_stranger")
    with pytest.raises(UserError, match="test_stranger") as error, store.connect(uri, tmp_path):
        pass
    assert "lookalike_reader" in error.value.remedy
    connection.execute("DROP ROLE test_stranger")


def test_a_reader_that_wants_to_publish_or_go_back_is_told_so(logins, tmp_path):
    for forbidden in (store.runs, store.rollback, lambda reader: store.prune(reader, 2)):
        with (
            pytest.raises(UserError, match="test_reader") as error,
            store.connect(logins["reader"], tmp_path) as reader,
        ):
            forbidden(reader)
        assert "lookalike_loader" in error.value.remedy


def test_a_check_takes_an_older_store_which_publish_prepares_and_refuses_a_newer_one(
    connection, empty_database, tmp_path, newer, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(store, "SQL", newer)
        store.check(empty_database, tmp_path)
        store.prepare(connection)
    before = everything(connection)
    with pytest.raises(UserError, match="a newer release prepared the store"):
        store.check(empty_database, tmp_path)
    assert everything(connection) == before


# Preparing ---------------------------------------------------------------------------------------------------------


def test_several_that_prepare_at_once_all_succeed(empty_database, tmp_path):
    failures = []

    def prepare():
        try:
            with store.connect(empty_database, tmp_path, prepares=True):
                pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_preparing_again_changes_nothing_and_does_not_wait_for_a_publish(connection, empty_database, tmp_path):
    before = everything(connection)
    with connection.transaction():
        store.lock(connection)
        with store.connect(f"{empty_database} options='-c lock_timeout=5s'", tmp_path, prepares=True) as other:
            assert everything(other) == before


def test_an_edited_migration_is_refused_and_an_edited_function_replaced(connection, tmp_path, newer, monkeypatch):
    monkeypatch.setattr(store, "SQL", newer)
    store.prepare(connection)
    with pytest.raises(UserError, match="nothing is live"):
        store.similar_items(connection, 1, {}, 10)
    migration = sorted((newer / "migrations").iterdir())[0]
    migration.write_text(migration.read_text() + "-- edited\n")
    with pytest.raises(UserError, match=migration.name):
        store.prepare(connection)


def test_a_file_that_is_gone_is_forgotten_so_that_the_next_finds_nothing_to_do(connection, newer, monkeypatch):
    for folder in (THIS, newer):
        monkeypatch.setattr(store, "SQL", folder)
        store.prepare(connection)
    (newer / "functions/newest.sql").unlink()
    store.prepare(connection)
    before = everything(connection)
    assert "newest.sql" not in {row[0] for row in before}
    store.prepare(connection)
    assert everything(connection) == before


def test_a_migration_that_readers_keep_waiting_gives_up_and_leaves_the_store_as_it_was(
    connection, empty_database, newer, monkeypatch, tmp_path
):
    before = everything(connection)
    (newer / "migrations/9999_extra.sql").write_text("ALTER TABLE lookalike.runs ADD COLUMN extra int;")
    monkeypatch.setattr(store, "SQL", newer)
    monkeypatch.setattr(store, "DDL_WAIT", "100ms")
    with psycopg.connect(empty_database) as reader:
        reader.execute("SELECT * FROM lookalike.live_run")
        with pytest.raises(TransientError), store.connect(empty_database, tmp_path, prepares=True):
            pass
    assert everything(connection) == before


def test_a_role_that_may_create_roles_but_is_no_superuser_can_prepare_and_publish(
    empty_database, postgres, load_run, tmp_path
):
    """As the administrator of a managed Postgres is."""
    roles = [f"lookalike_{name}" for name in ("reader", "loader", "lookup")]
    with psycopg.connect(empty_database, autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION vector")
        superuser.execute("DROP ROLE IF EXISTS test_admin")
        superuser.execute("CREATE ROLE test_admin LOGIN CREATEROLE")
        superuser.execute(f"ALTER DATABASE {superuser.info.dbname} OWNER TO test_admin")
        for role in roles:
            superuser.execute(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN END $$")
            superuser.execute(f"GRANT {role} TO test_admin WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        with store.connect(make_conninfo(empty_database, user="test_admin"), tmp_path, prepares=True) as admin:
            load_run(admin, "a", IDS, VECTORS)
            old = load_run(admin, "b", IDS, VECTORS)
            store.rollback(admin)
            assert [item.product_id for item in store.similar_items(admin, 1, {}, 10)] == ["2", "3"]
            assert store.prune(admin, 1) == [old]
        owners = "SELECT proowner::regrole::text FROM pg_proc WHERE proname ~ '^similar_items' AND prosecdef"
        assert superuser.execute(owners).fetchall() == [("lookalike_lookup",)] * 2
        superuser.execute(f"ALTER DATABASE {superuser.info.dbname} OWNER TO CURRENT_USER")
        superuser.execute("REASSIGN OWNED BY test_admin TO CURRENT_USER")
        for role in roles:
            superuser.execute(f"REVOKE {role} FROM test_admin CASCADE")
        superuser.execute("DROP OWNED BY test_admin")
        superuser.execute("DROP ROLE test_admin")


# Two releases ------------------------------------------------------------------------------------------------------


def test_a_newer_release_does_not_ask_of_a_store_that_an_older_one_prepared(
    connection, load_run, logins, newer, monkeypatch, tmp_path
):
    load_run(connection, "a", IDS, VECTORS)
    before = everything(connection)
    monkeypatch.setattr(store, "SQL", newer)
    for login in logins.values():
        with pytest.raises(UserError, match="older release.*9999_extra") as error, store.connect(login, tmp_path):
            pass
        assert "prepare.py store" in error.value.remedy
    assert everything(connection) == before


def test_publishing_by_a_login_that_may_not_prepare_is_refused_in_words(
    connection, logins, newer, monkeypatch, tmp_path
):
    before = everything(connection)
    monkeypatch.setattr(store, "SQL", newer)
    for login in logins.values():
        with pytest.raises(UserError, match="may not prepare") as error, store.connect(login, tmp_path, prepares=True):
            pass
        assert "prepare.py store" in error.value.remedy
    assert everything(connection) == before


def test_an_older_release_asks_a_newer_store_and_changes_nothing_in_it(
    connection, empty_database, load_run, logins, newer, monkeypatch, tmp_path
):
    load_run(connection, "a", IDS, VECTORS)
    with monkeypatch.context() as patched:
        patched.setattr(store, "SQL", newer)
        store.prepare(connection)
    before = everything(connection)
    assert ask(logins["reader"], tmp_path) == ("a", ["2", "3"])
    for uri in (empty_database, logins["loader"]):
        with store.connect(uri, tmp_path) as older:
            for change in (store.prepare, store.rollback, lambda o: store.unhold(o, None)):
                with pytest.raises(UserError, match="newer release.*9999_extra"):
                    change(older)
            assert store.prune(older, 0) == []
        with (
            pytest.raises(UserError, match="newer release.*9999_extra"),
            store.connect(uri, tmp_path, prepares=True),
        ):
            pass
    assert everything(connection) == before
    monkeypatch.setattr(store, "SQL", newer)
    assert ask(logins["reader"], tmp_path) == ("a", ["2", "3"])
    with store.connect(logins["loader"], tmp_path, prepares=True) as loader:
        load_run(loader, "b", IDS, VECTORS)
    assert ask(logins["reader"], tmp_path) == ("b", ["2", "3"])


def test_a_release_that_waits_to_publish_while_a_newer_one_prepares_is_refused(
    connection, empty_database, newer, monkeypatch, tmp_path
):
    with store.connect(empty_database, tmp_path, prepares=True) as waiting:
        with monkeypatch.context() as patched:
            patched.setattr(store, "SQL", newer)
            store.prepare(connection)
        with pytest.raises(UserError, match="newer release"), waiting.transaction():
            store.lock(waiting)


# From lists to shortlists ------------------------------------------------------------------------------------------

LISTED = """
    INSERT INTO lookalike.runs (run, content_hash, fields, manifest, figures, loaded_at, published_at)
        VALUES ('old', 'o', '{gender}', '{}', '{"products": 3}', '2026-01-01', '2026-01-01');
    DO $$
    DECLARE name text;
    BEGIN
        FOREACH name IN ARRAY ARRAY['products', 'base_cells', 'combinations', 'lists'] LOOP
            EXECUTE format('CREATE TABLE lookalike_runs.%s_1 PARTITION OF lookalike.%1$s FOR VALUES IN (1)', name);
            EXECUTE format('ALTER TABLE lookalike_runs.%s_1 OWNER TO lookalike_loader', name);
        END LOOP;
    END $$;
    INSERT INTO lookalike.products (run_id, position, base_cell, product_id, gender, image_sha256, embedding) VALUES
        (1, 0, 0, 1, 'Men', '', '[1, 0]'), (1, 1, 0, 2, 'Men', '', '[0.75, 0.5]'), (1, 2, 1, 3, NULL, '', '[0, 1]');
    INSERT INTO lookalike.base_cells VALUES (1, 0, '{"gender": "Men"}'), (1, 1, '{}');
    INSERT INTO lookalike.combinations (run_id, filters, cell) VALUES (1, '{}', 0);
    INSERT INTO lookalike.lists VALUES (1, 0, 0, '{1,2}'), (1, 0, 1, '{0,2}'), (1, 0, 2, '{1,0}');
    INSERT INTO lookalike.live (run_id) VALUES (1);
"""


def forget(folder, after):
    """Leave no migration that came after one of these numbers."""
    for file in (folder / "migrations").iterdir():
        if file.name[:4] > after:
            file.unlink()


@pytest.fixture
def listed(empty_database, tmp_path, monkeypatch):
    """A store that the release with migration 0004 prepared, and whose live run has lists."""
    folder = tmp_path / "0004/sql"
    shutil.copytree(THIS, folder)
    forget(folder, after="0004")
    shutil.rmtree(folder / "functions")
    shutil.copytree(Path(__file__).parent / "release_0004", folder / "functions")
    (folder / "functions/roles.sql").rename(folder / "roles.sql")
    shutil.copy(Path(__file__).parent / "release_0006/views.sql", folder)
    with monkeypatch.context() as patched:
        patched.setattr(store, "SQL", folder)
        with store.connect(empty_database, tmp_path, prepares=True) as connection:
            connection.execute(LISTED)
    return empty_database


def test_an_upgrade_from_lists_fails_no_reader_and_the_old_tables_go_with_the_last_run_that_has_some(
    listed, load_run, tmp_path
):
    ended, failures, answers = threading.Event(), [], []

    def read():
        with psycopg.connect(listed, autocommit=True) as reader:
            while not ended.is_set():
                try:
                    found = reader.execute("SELECT item, score FROM lookalike.similar_items(1)").fetchall()
                    answers.append(tuple(item for item, _ in found))
                except Exception as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with store.connect(listed, tmp_path, prepares=True) as connection:
            check_a_run_of_lists(connection)
            load_run(connection, "new", IDS, VECTORS[[0, 2, 1]])
            assert [item.product_id for item in store.similar_items(connection, 1, {}, 10)] == ["3", "2"]
            assert store.prune(connection, 2) == []
            assert store.rollback(connection).run == "old"
            check_a_run_of_lists(connection)
            store.unhold(connection, None)
            load_run(connection, "newer", IDS, VECTORS[[0, 2, 1]])
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(answers) == {(2, 3), (3, 2)}
    with store.connect(listed, tmp_path) as connection:
        tables = "SELECT count(*) FROM pg_class WHERE relname ~ '^(lists|base_cells|combinations)'"
        assert connection.execute(tables).fetchone() > (2,)
        assert store.prune(connection, 1) == [1, 2]
        assert connection.execute(tables).fetchone() == (0,)
        assert [item.product_id for item in store.similar_items(connection, 1, {}, 10)] == ["3", "2"]


def test_an_upgrade_waits_for_no_reader_in_the_middle_of_a_transaction(listed, tmp_path):
    with psycopg.connect(listed) as reader:
        assert len(reader.execute("SELECT FROM lookalike.similar_items(1)").fetchall()) == 2
        with store.connect(listed, tmp_path, prepares=True) as connection:
            assert len(store.similar_items(connection, 1, {}, 10)) == 2
        assert len(reader.execute("SELECT FROM lookalike.similar_items(1)").fetchall()) == 2


def check_a_run_of_lists(connection):
    """What the live run of `LISTED` answers, and what it does not."""
    found = [(item.product_id, item.scanned) for item in store.similar_items(connection, 1, {}, 10)]
    assert found == [("2", 0), ("3", 0)]
    men = store.similar_items(connection, 3, {"gender": "Men"}, 10)
    assert [(item.product_id, item.scanned) for item in men] == [("2", None), ("1", None)]
    assert len(store.similar_items_by_vector(connection, VECTORS[0], {}, 2)) == 2
    for question in (
        lambda: store.similar_items(connection, 1, {}, 10, [2]),
        lambda: store.similar_items_by_vector(connection, VECTORS[0], {}, 10, [2]),
        lambda: store.similar_items(connection, 1, {"gender": ["Men"]}, 10),
    ):
        with pytest.raises(UserError):
            question()


def test_a_reader_may_not_call_what_answered_from_lists(listed, tmp_path):
    with store.connect(listed, tmp_path, prepares=True) as connection:
        connection.execute("SET ROLE lookalike_reader")
        assert len(store.similar_items(connection, 1, {}, 10)) == 2
        for call in (
            "lookalike_lists.similar_items(1)",
            "lookalike_lists.similar_items_by_vector('[1, 0]')",
            "lookalike.checked_run('{}', 1)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {call}")


def test_a_run_that_has_no_narrow_shortlists_answers_until_it_is_pruned(connection, load_run, monkeypatch):
    """As releases before migration 0006 loaded it."""
    with monkeypatch.context() as patched:
        patched.setattr(store, "NARROW", 0)
        wide = load_run(connection, "wide", IDS, VECTORS)
    connection.execute(f"DROP TABLE lookalike_runs.narrow_shortlists_{wide}")
    for filters in ({}, {"gender": {"not": "Men"}}):
        assert [item.product_id for item in store.similar_items(connection, 1, filters, 10)] == ["2", "3"]
    load_run(connection, "narrow", IDS, VECTORS)
    assert store.prune(connection, 1) == [wide]
    assert [item.product_id for item in store.similar_items(connection, 1, {}, 10)] == ["2", "3"]


# From numbers to text -----------------------------------------------------------------------------------------------

NUMBERED = """
    INSERT INTO lookalike.runs (run, content_hash, fields, manifest, figures, loaded_at, published_at)
        VALUES ('old', 'o', '{gender}', '{}', '{"products": 3}', '2026-01-01', '2026-01-01');
    DO $$
    DECLARE name text;
    BEGIN
        FOREACH name IN ARRAY string_to_array(
            'products shortlists narrow_shortlists numberings cells field_values precomputed', ' ')
        LOOP
            EXECUTE format('CREATE TABLE lookalike_runs.%s_1 PARTITION OF lookalike.%1$s FOR VALUES IN (1)', name);
            EXECUTE format('ALTER TABLE lookalike_runs.%s_1 OWNER TO lookalike_loader', name);
        END LOOP;
    END $$;
    INSERT INTO lookalike.products (run_id, position, base_cell, product_id, gender, image_sha256, embedding) VALUES
        (1, 0, 0, 3, NULL, 'c', '[0, 1]'), (1, 1, 1, 1, 'Men', 'a', '[1, 0]'), (1, 2, 1, 2, 'Men', 'b', '[0.75, 0.5]');
    INSERT INTO lookalike.numberings VALUES (1, '{0,1,3}', '{10}', '{}');
    INSERT INTO lookalike.cells VALUES (1, 0, B'11', B'0');
    INSERT INTO lookalike.field_values VALUES (1, 'gender', NULL, B'10', B'1'), (1, 'gender', 'Men', B'01', B'1');
    INSERT INTO lookalike.precomputed VALUES (1, '{}', '{0,3}');
    INSERT INTO lookalike.narrow_shortlists VALUES
        (1, 0, '{-32766,-32767}', '{}'), (1, 1, '{-32766,-32768}', '{}'), (1, 2, '{-32767,-32768}', '{}');
    INSERT INTO lookalike.live (run_id) VALUES (1);
"""


@pytest.fixture
def numbered(empty_database, tmp_path, monkeypatch):
    """A store that the release with migration 0006 prepared, and whose live run has ids that are numbers."""
    folder, former = tmp_path / "0006/sql", Path(__file__).parent / "release_0006"
    shutil.copytree(former, folder)
    shutil.copytree(THIS / "migrations", folder / "migrations")
    forget(folder, after="0006")
    with monkeypatch.context() as patched:
        patched.setattr(store, "SQL", folder)
        with store.connect(empty_database, tmp_path, prepares=True) as connection:
            connection.execute(NUMBERED)
    return empty_database


def test_an_upgrade_from_numbers_fails_no_reader_whatever_it_has_prepared(numbered, load_run, tmp_path):
    ended, failures, answers = threading.Event(), [], []

    def read(question):
        with psycopg.connect(numbered, autocommit=True) as reader:
            while not ended.is_set():
                try:
                    found = reader.execute(question, prepare=True).fetchall()
                    answers.append((question, tuple(item for (item,) in found)))
                except Exception as error:
                    failures.append(repr(error))

    with psycopg.connect(numbered, autocommit=True) as owner:
        owner.execute("""CREATE VIEW public.similar_to_a_photo AS
            SELECT item FROM lookalike.similar_items_by_vector('[1, 0]', '{}', 10, '{1}')""")
    questions = "SELECT item FROM lookalike.similar_items(1)", "SELECT item FROM public.similar_to_a_photo"
    threads = [threading.Thread(target=read, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    try:
        with store.connect(numbered, tmp_path, prepares=True) as connection:
            check_a_run_of_numbers(connection)
            load_run(connection, "new", IDS, VECTORS[[0, 2, 1]])
            assert [item.product_id for item in store.similar_items(connection, "1", {}, 10)] == ["3", "2"]
            assert store.rollback(connection).run == "old"
            check_a_run_of_numbers(connection)
            store.unhold(connection, None)
            load_run(connection, "newer", IDS, VECTORS[[0, 2, 1]])
            assert store.prune(connection, 1) == [1, 2]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(answers) == {(question, order) for question in questions for order in ((2, 3), (3, 2))}


def check_a_run_of_numbers(connection):
    """What the live run of `NUMBERED` answers."""
    for filters, exclude, expected in (
        ({}, [], [("2", 0), ("3", 0)]),
        ({"gender": "Men"}, [], [("2", 0)]),
        ({"gender": {"not": "Men"}}, [], [("3", 0)]),
        ({}, ["2", "B07X", str(2**63), str(2**63 - 1)], [("3", 0)]),
    ):
        found = store.similar_items(connection, "1", filters, 10, exclude)
        assert [(item.product_id, item.scanned) for item in found] == expected
    found = store.similar_items_by_vector(connection, VECTORS[0], {}, 10, ["1", "01"])
    assert [item.product_id for item in found] == ["2", "3"]
    for unknown in ("01", str(2**63), str(2**63 - 1)):
        with pytest.raises(UserError, match=f"no product {unknown}"):
            store.similar_items(connection, unknown, {}, 10)
    names = connection.execute("SELECT product_id, gender, image_sha256 FROM lookalike.live_products ORDER BY 1")
    assert names.fetchall() == [("1", "Men", "a"), ("2", "Men", "b"), ("3", None, "c")]
    assert connection.execute("SELECT item FROM lookalike.similar_items(1)").fetchall() == [(2,), (3,)]


def test_an_upgrade_from_numbers_waits_for_no_question_in_the_middle_of_a_transaction(numbered, tmp_path):
    with psycopg.connect(numbered) as reader:
        assert len(reader.execute("SELECT FROM lookalike.similar_items(1)").fetchall()) == 2
        with store.connect(numbered, tmp_path, prepares=True) as connection:
            assert len(store.similar_items(connection, "1", {}, 10)) == 2
        assert len(reader.execute("SELECT FROM lookalike.similar_items(1)").fetchall()) == 2


def test_what_others_may_do_with_the_view_of_products_outlives_the_upgrade(numbered, tmp_path):
    roles = {"test_analyst": "SELECT", "test Shop": "SELECT (product_id, gender)", "test_lender": "SELECT"}
    with psycopg.connect(numbered, autocommit=True) as owner:
        for role, right in roles.items():
            owner.execute(f'CREATE ROLE "{role}"')
            owner.execute(f'GRANT {right} ON lookalike.live_products TO "{role}"')
        owner.execute("GRANT SELECT ON lookalike.live_products TO test_lender WITH GRANT OPTION")
        try:
            with store.connect(numbered, tmp_path, prepares=True):
                pass
            for role in roles:
                owner.execute(f'GRANT USAGE ON SCHEMA lookalike TO "{role}"')
                owner.execute(f'SET ROLE "{role}"')
                assert owner.execute("SELECT product_id, gender FROM lookalike.live_products").rowcount == 3
                if role == "test Shop":
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        owner.execute("SELECT season FROM lookalike.live_products")
                owner.execute("RESET ROLE")
            lend = "SELECT has_table_privilege(%s, 'lookalike.live_products', 'SELECT WITH GRANT OPTION')"
            assert [owner.execute(lend, (role,)).fetchone() for role in roles] == [(False,), (False,), (True,)]
        finally:
            owner.execute("RESET ROLE")
            for role in roles:
                owner.execute(f'DROP OWNED BY "{role}"')
                owner.execute(f'DROP ROLE "{role}"')


def test_what_was_made_upon_the_view_of_products_is_named_before_anything_is_changed(numbered, tmp_path):
    with psycopg.connect(numbered, autocommit=True) as owner:
        owner.execute("CREATE VIEW public.mine AS SELECT product_id FROM lookalike.live_products")
        before = everything(owner)
        with (
            pytest.raises(UserError, match="view mine depends on view lookalike.live_products"),
            store.connect(numbered, tmp_path, prepares=True),
        ):
            pass
        assert everything(owner) == before


# Releases before this one ------------------------------------------------------------------------------------------


def migrate_as_before(connection, files):
    """What release aeaf833 does whenever it connects; `files`: name → (SHA-256, SQL), migrations alone."""
    current = {name: sha256 for name, (sha256, _) in files.items()}
    if applied_as_before(connection) == current:
        return
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (0x10014C1E,))
    applied = applied_as_before(connection)
    for name, (sha256, statements) in files.items():
        if name not in applied:
            connection.execute(statements)
        elif applied[name] != sha256:
            raise UserError(f"migration {name} was edited after it was applied", remedy="")
    connection.cursor().executemany(
        "INSERT INTO lookalike.applied (file, sha256) VALUES (%s, %s)"
        " ON CONFLICT (file) DO UPDATE SET sha256 = excluded.sha256",
        list(current.items()),
    )


def applied_as_before(connection):
    found = "SELECT FROM pg_tables WHERE schemaname = 'lookalike' AND tablename = 'applied'"
    if connection.execute(found).fetchone() is None:
        return {}
    return dict(connection.execute("SELECT file, sha256 FROM lookalike.applied").fetchall())


BEFORE = {
    file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.read_bytes())
    for file in sorted((THIS / "migrations").iterdir())[:3]
}
OLD_RUNS = """
    INSERT INTO lookalike.runs (run, fingerprint, fields, loaded_at) VALUES
        ('old', 'f', '{}', '2026-01-01'), ('unfinished', 'g', '{}', NULL), ('new', 'h', '{}', '2026-01-02');
    DO $$
    DECLARE name text; id int;
    BEGIN
        FOREACH name IN ARRAY ARRAY['products', 'base_cells', 'combinations', 'lists'] LOOP
            FOREACH id IN ARRAY ARRAY[1, 3] LOOP
                EXECUTE format('CREATE TABLE lookalike.%s_%s PARTITION OF lookalike.%1$s FOR VALUES IN (%2$s)',
                    name, id);
            END LOOP;
        END LOOP;
    END $$;
    INSERT INTO lookalike.products (run_id, position, base_cell, product_id, image_sha256, embedding) VALUES
        (1, 0, 0, 1, '', '[1, 0]'), (1, 1, 0, 2, '', '[0, 1]'), (3, 0, 0, 1, '', '[1, 0]'), (3, 1, 0, 3, '', '[0, 1]');
    INSERT INTO lookalike.base_cells VALUES (1, 0, '{}'), (3, 0, '{}');
    INSERT INTO lookalike.live VALUES (true, 3);
"""


@pytest.fixture
def old_store(empty_database):
    """A store with two runs and an unfinished one that the release before this one has loaded."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        with connection.transaction():
            migrate_as_before(connection, BEFORE)
            for file in sorted((Path(__file__).parent / "release_0004").glob("[!r]*.sql")):
                connection.execute(file.read_bytes())  # as good as those of that release
            connection.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lookalike FROM PUBLIC")  # as its roles.sql did
            connection.execute(OLD_RUNS)
            connection.execute("DO $$ BEGIN CREATE ROLE lookalike_reader; EXCEPTION WHEN duplicate_object THEN END $$")
            connection.execute("GRANT USAGE ON SCHEMA lookalike TO lookalike_reader")
            connection.execute("GRANT SELECT ON lookalike.applied TO lookalike_reader")
        yield connection


def test_the_release_before_stops_in_words_before_it_changes_anything_even_as_superuser_or_reader(
    connection, empty_database
):
    before = everything(connection)
    for role in ("postgres", "lookalike_loader", "lookalike_reader"):
        with psycopg.connect(empty_database, autocommit=True) as old:
            old.execute(f"SET ROLE {role}")
            with pytest.raises(UserError, match="0001_runs_and_lists"), old.transaction():
                migrate_as_before(old, BEFORE)
    assert everything(connection) == before


def test_the_release_before_does_not_wait_for_a_publish_of_this_one(connection, empty_database):
    with connection.transaction():
        store.lock(connection)
        old = psycopg.connect(empty_database, options="-c lock_timeout=5s")
        with old, pytest.raises(UserError, match="0001_runs_and_lists"):
            migrate_as_before(old, BEFORE)


@pytest.mark.parametrize("migrations", [1, 2])
def test_a_store_that_only_knew_questions_about_products_can_be_prepared(empty_database, tmp_path, migrations):
    question = "lookalike.similar_items(product_id bigint, filters jsonb DEFAULT '{}', k int DEFAULT 10) RETURNS int"
    with psycopg.connect(empty_database, autocommit=True) as old, old.transaction():
        migrate_as_before(old, dict(list(BEFORE.items())[:migrations]))
        old.execute(f"CREATE FUNCTION {question} LANGUAGE sql RETURN 1")
    with store.connect(empty_database, tmp_path, prepares=True) as connection:
        assert store.runs(connection) == []


def test_a_publish_of_the_release_before_that_is_under_way_is_waited_for(
    old_store, empty_database, monkeypatch, tmp_path
):
    monkeypatch.setattr(store, "DDL_WAIT", "100ms")
    with old_store.transaction():
        old_store.execute("SELECT pg_advisory_xact_lock(%s)", (0x10014C1E,))
        with pytest.raises(TransientError), store.connect(empty_database, tmp_path, prepares=True):
            pass
    assert applied_as_before(old_store) == {name: sha256 for name, (sha256, _) in BEFORE.items()}


def test_a_store_of_the_release_before_is_not_asked_until_it_is_prepared_and_then_keeps_its_runs(
    old_store, empty_database, load_run, tmp_path
):
    old_store.execute("DROP ROLE IF EXISTS test_reader")
    old_store.execute("CREATE ROLE test_reader LOGIN IN ROLE lookalike_reader")
    for uri in (empty_database, make_conninfo(empty_database, user="test_reader")):
        with pytest.raises(UserError, match="older release.*0004"), store.connect(uri, tmp_path):
            pass
    with store.connect(empty_database, tmp_path, prepares=True) as connection:
        assert [(run.run, run.manifest, run.published_at == run.loaded_at) for run in store.runs(connection)] == [
            ("new", {}, True),
            ("old", {}, True),
        ]
        assert [item.product_id for item in store.similar_items(connection, 1, {}, 10)] == ["3"]
        assert store.rollback(connection).run == "old"
        assert [item.product_id for item in store.similar_items(connection, 1, {}, 10)] == ["2"]
        load_run(connection, "c", IDS, VECTORS)
        assert store.prune(connection, 2) == [2, 3]
        assert [run.run for run in store.runs(connection)] == ["c", "old"]
    assert ask(make_conninfo(empty_database, user="test_reader"), tmp_path) == ("c", ["2", "3"])
    old_store.execute("DROP ROLE test_reader")
