"""What a publisher's login can make of itself, and how long a reader may ask."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra import store
from infra.errors import UserError

IDS = np.array([1, 2, 3])
VECTORS = np.array([[1, 0], [0.75, 0.5], [0, 1]], np.float32)
PREPARE = Path(store.__file__).parent / "docker/prepare.py"

CRIME = "BEGIN EXECUTE 'ALTER ROLE test_thief SUPERUSER'; EXCEPTION WHEN insufficient_privilege THEN NULL; END;"
"""Harmless to the answer where it fails, so that the look-up goes on to whatever else was planted."""
ANSWER = "TABLE (rank int, item bigint, score real, scanned int, run_id int)"
ATTACKS = {
    "an overload that fits better than the built-in function": f"""
        CREATE FUNCTION lookalike.unnest(int[]) RETURNS SETOF int LANGUAGE plpgsql
            AS $$ BEGIN {CRIME} RETURN QUERY SELECT pg_catalog.unnest($1); END $$""",
    "a view in the place of a table": f"""
        CREATE FUNCTION {{schema}}.crime() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {CRIME} RETURN 0; END $$;
        ALTER TABLE lookalike.precomputed RENAME TO moved;
        CREATE VIEW lookalike.precomputed AS
            SELECT run_id + {{schema}}.crime() AS run_id, filters, members FROM lookalike.moved;
        GRANT SELECT ON lookalike.precomputed TO PUBLIC""",
    "a policy on a table of its own": f"""
        CREATE FUNCTION {{schema}}.crime() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {CRIME} RETURN true; END $$;
        GRANT USAGE ON SCHEMA {{schema}} TO PUBLIC;
        CREATE POLICY trap ON lookalike.catalogue USING ({{schema}}.crime());
        ALTER TABLE lookalike.catalogue ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY""",
    "a function that runs as its caller in the place of one that does not": f"""
        CREATE OR REPLACE FUNCTION lookalike.similar_items(product_id bigint, filters jsonb DEFAULT '{{{{}}}}',
            k int DEFAULT 10, exclude bigint[] DEFAULT '{{{{}}}}') RETURNS {ANSWER} LANGUAGE plpgsql
            AS $$ BEGIN {CRIME} END $$""",
    "an overload that fits a caller's question better": f"""
        CREATE FUNCTION lookalike.similar_items(int) RETURNS {ANSWER} LANGUAGE plpgsql AS $$ BEGIN {CRIME} END $$""",
    "an operator for the functions to find": f"""
        CREATE FUNCTION {{schema}}.trap(public.halfvec, public.halfvec) RETURNS float8 LANGUAGE plpgsql
            AS $$ BEGIN {CRIME} RETURN 0; END $$;
        CREATE OPERATOR {{schema}}.<#>
            (LEFTARG = public.halfvec, RIGHTARG = public.halfvec, FUNCTION = {{schema}}.trap)""",
}
OF_EARLIER_RELEASES = list(ATTACKS)[:3] + list(ATTACKS)[5:]
"""Those that lie in wait within the functions; the others take callers in, and need the right that was taken away."""


@pytest.fixture
def thief(connection, load_run, empty_database):
    """A connection of a mere member of lookalike_loader to a store with a live run."""
    load_run(connection, "a", IDS, VECTORS)
    connection.execute("DROP ROLE IF EXISTS test_thief")
    connection.execute("CREATE ROLE test_thief LOGIN IN ROLE lookalike_loader")
    with psycopg.connect(make_conninfo(empty_database, user="test_thief"), autocommit=True) as thief:
        yield thief
    connection.execute("ALTER ROLE test_thief NOSUPERUSER")
    connection.execute("DROP OWNED BY test_thief CASCADE")
    connection.execute("DROP ROLE test_thief")


def is_superuser(connection):
    return connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'test_thief'").fetchone()[0]


def everybody_asks(connection):
    for role in ("lookalike_reader", "postgres"):
        connection.execute(f"SET ROLE {role}")
        for question in ("similar_items(1)", "similar_items(1::bigint, '{}', 20)", "similar_items_by_vector('[1, 0]')"):
            with contextlib.suppress(psycopg.Error):  # an answer may be spoilt; the caller may not be robbed
                connection.execute(f"SELECT * FROM lookalike.{question}")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("schema", ["lookalike", "lookalike_runs"])
def test_a_publishers_login_does_not_become_superuser(connection, thief, attack, schema):
    for statement in ATTACKS[attack].format(schema=schema).split(";\n        "):
        with contextlib.suppress(psycopg.Error):  # what is refused, and what was to follow it
            thief.execute(statement)
    everybody_asks(connection)
    assert not is_superuser(connection)


@pytest.mark.parametrize("attack", OF_EARLIER_RELEASES)
def test_what_was_planted_while_an_earlier_release_let_it_does_not_work_either(connection, thief, attack):
    """Until migration 0004 a loader could create in the schema of the functions."""
    connection.execute("GRANT CREATE ON SCHEMA lookalike TO lookalike_loader")
    thief.execute(ATTACKS[attack].format(schema="lookalike"))
    connection.execute("REVOKE CREATE ON SCHEMA lookalike FROM lookalike_loader")
    everybody_asks(connection)
    assert not is_superuser(connection)


def test_a_loader_creates_in_the_schema_of_partitions_alone_and_does_not_forge_what_is_prepared(thief):
    for statement in (
        "CREATE TABLE lookalike.mine (x int)",
        "CREATE FUNCTION lookalike.mine() RETURNS int LANGUAGE sql RETURN 1",
        "ALTER TABLE lookalike.shortlists RENAME TO mine",
        "ALTER FUNCTION lookalike.similar_items(text, jsonb, int, text[]) SECURITY INVOKER",
        "DELETE FROM lookalike.prepared",
        "UPDATE lookalike.applied SET sha256 = ''",
        "SET ROLE lookalike_lookup",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            thief.execute(statement)


def test_the_functions_run_as_a_role_that_may_only_read(connection):
    owners = connection.execute(
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc"
        " WHERE prosecdef AND pronamespace = 'lookalike'::regnamespace"
    ).fetchall()
    assert owners == [("lookalike_lookup",)]
    rights = connection.execute(
        "SELECT DISTINCT privilege_type FROM information_schema.table_privileges WHERE grantee = 'lookalike_lookup'"
    ).fetchall()
    assert rights == [("SELECT",)]
    for schema in ("lookalike", "lookalike_runs", "public"):
        may = connection.execute("SELECT has_schema_privilege('lookalike_lookup', %s, 'CREATE')", (schema,)).fetchone()
        assert may == (False,)


# How long a reader may ask -------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(connection, empty_database, load_run):
    """A store prepared as `init-store` does, and a reader's login that an administrator made beside it."""
    environment = {"STORE_LOADER_PASSWORD": "one", "STORE_READER_PASSWORD": "two", "LOOKALIKE_STORE": empty_database}
    root = {"PYTHONPATH": str(PREPARE.parents[2])}
    subprocess.run([sys.executable, PREPARE, "store"], env=os.environ | environment | root, check=True)
    load_run(connection, "a", IDS, VECTORS)
    connection.execute("DROP ROLE IF EXISTS test_analyst")
    connection.execute("CREATE ROLE test_analyst LOGIN IN ROLE lookalike_reader")
    connection.execute(f"GRANT CONNECT ON DATABASE {connection.info.dbname} TO test_analyst")
    yield empty_database
    for login in ("loader", "reader", "test_analyst"):
        connection.execute(f"DROP OWNED BY {login}")
        connection.execute(f"DROP ROLE {login}")


@pytest.mark.parametrize("login", ["reader", "test_analyst", "loader"])
def test_a_slow_query_is_ended_whoever_made_the_login(prepared, connection, login):
    uri = make_conninfo(prepared, user=login)
    with psycopg.connect(uri) as asking:
        assert asking.execute("SHOW statement_timeout").fetchone() == ("30s",)
    connection.execute(f"ALTER DATABASE {connection.info.dbname} SET statement_timeout = '50ms'")
    with psycopg.connect(uri) as asking, pytest.raises(psycopg.errors.QueryCanceled):
        asking.execute("SELECT pg_sleep(30) FROM lookalike.live_products")


def test_publishing_is_not_held_to_the_limit_of_readers(prepared, connection, tmp_path):
    connection.execute(f"ALTER DATABASE {connection.info.dbname} SET statement_timeout = '50ms'")
    with psycopg.connect(make_conninfo(prepared, user="loader")) as loader:
        store.lock(loader)
        loader.execute("SELECT pg_sleep(0.2)")


def test_keys_are_written_by_members_of_a_role_of_their_own_and_readers_learn_none(connection, thief, empty_database):
    connection.execute("DROP ROLE IF EXISTS test_keeper, test_asker")
    connection.execute("CREATE ROLE test_keeper LOGIN IN ROLE lookalike_keys")
    connection.execute("CREATE ROLE test_asker LOGIN IN ROLE lookalike_reader")
    with psycopg.connect(make_conninfo(empty_database, user="test_keeper"), autocommit=True) as keeper:
        store.add_key(keeper, "1f2e", "a shop", bytes(32))
        for statement in (
            "UPDATE lookalike.api_keys SET sha256 = decode(repeat('11', 32), 'hex')",
            "DELETE FROM lookalike.api_keys",
            "SELECT * FROM lookalike.runs",
            "SELECT lookalike.similar_items('1')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                keeper.execute(statement)
    with psycopg.connect(make_conninfo(empty_database, user="test_asker"), autocommit=True) as asker:
        asked = "SELECT lookalike.api_key(%s)"
        assert asker.execute(asked, (bytes(32),)).fetchone() == ("1f2e",)
        assert asker.execute(asked, (bytes(31) + b"1",)).fetchone() == (None,)
        for login in (asker, thief):
            for statement in (
                "SELECT * FROM lookalike.api_keys",
                "INSERT INTO lookalike.api_keys VALUES ('x', 'x', '')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    login.execute(statement)
    with psycopg.connect(make_conninfo(empty_database, user="test_keeper"), autocommit=True) as keeper:
        store.revoke_key(keeper, "1f2e")
        with pytest.raises(UserError, match="no key 1f2e to revoke"):
            store.revoke_key(keeper, "1f2e")
        assert [key.key_id for key in store.keys(keeper)] == ["1f2e"]
    connection.execute("DROP ROLE test_keeper, test_asker")
