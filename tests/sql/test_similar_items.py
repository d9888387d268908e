"""`lookalike.similar_items` against an oracle in int64, and what its callers may do."""

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import store
from infra.errors import UserError
from ml.similarity import to_embedding

K = 10
POOL = to_embedding(np.array([[3, 1, 0, 2], [1, 3, 2, 0], [-1, 2, 2, 1], [3, 1, 0, 2], [0, 0, 0, 0]], float))
"""Few distinct vectors, one of them twice: catalogues drawn from it are full of ties and duplicates."""


def oracle(ids, vectors, query, member, k):
    """The k best members as (id, score): dot products in int64 of multiples of 2^-11, ties to the smaller id."""
    whole = (vectors * 2048).astype(np.int64)
    scores = whole @ whole[query]
    others = [i for i in np.flatnonzero(member) if i != query]
    best = sorted(others, key=lambda i: (-scores[i], ids[i]))[:k]
    return [(int(ids[i]), int(scores[i]) / 2**22) for i in best]


def precomputed(ids, vectors, member):
    return [tuple(zip(*oracle(ids, vectors, i, member, K), strict=True)) or ((), ()) for i in range(len(ids))]


def answer(connection, product_id, filters, k=K):
    found = store.similar_items(connection, int(product_id), filters, k)
    return [(item.product_id, item.score) for item in found], {item.precomputed for item in found}


@pytest.fixture
def reader(connection, load_run):
    """A connection of a role that has nothing but lookalike_reader, to a store with one live run."""
    load_run(connection, "a", np.array([1, 2]), POOL[:2], lists=[({}, [((2,), (0.5,)), ((1,), (0.5,))])])
    connection.execute("SET ROLE lookalike_reader")
    return connection


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(1, 24), k=st.integers(1, 30))
def test_every_answer_equals_the_int64_oracle_to_the_bit(connection, load_run, data, n, k):
    ids = np.array(data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=n, max_size=n, unique=True)))
    vectors = POOL[data.draw(st.lists(st.integers(0, len(POOL) - 1), min_size=n, max_size=n))]
    colour = np.array(data.draw(st.lists(st.sampled_from(["Red", "Blue", None]), min_size=n, max_size=n)), object)
    gender = np.array(data.draw(st.lists(st.sampled_from(["Men", "Women"]), min_size=n, max_size=n)), object)
    everyone, red = np.ones(n, bool), colour == "Red"
    lists = [(f, precomputed(ids, vectors, m)) for f, m in (({}, everyone), ({"baseColour": "Red"}, red))]
    combinations = [
        ({}, everyone),
        ({"baseColour": "Red"}, red),
        ({"baseColour": "Blue"}, colour == "Blue"),
        ({"gender": "Men", "baseColour": "Red"}, red & (gender == "Men")),
    ]
    with connection.transaction(force_rollback=True):
        load_run(connection, "a", ids, vectors, {"baseColour": colour, "gender": gender}, lists)
        for query in range(min(n, 4)):
            for place, (filters, member) in enumerate(combinations):
                found, how = answer(connection, ids[query], filters, k)
                assert found == oracle(ids, vectors, query, member, k)
                assert how <= {place < len(lists) and k <= K}


@pytest.mark.parametrize("inside", [True, False], ids=["product inside", "product outside"])
@pytest.mark.parametrize("members", [0, 1, 10, 11, 12])
def test_small_cells_give_all_their_other_members_precomputed_or_not(connection, load_run, members, inside):
    n, vectors = 15, POOL[np.arange(15) % len(POOL)]
    ids, query = np.arange(n) + 100, 0 if inside else 14
    red = np.arange(n) < members
    looked_up = [({"baseColour": "Red"}, precomputed(ids, vectors, red))]
    values = {"baseColour": np.where(red, "Red", None), "gender": np.where(red, "Men", None)}
    load_run(connection, "a", ids, vectors, values, looked_up)
    expected = oracle(ids, vectors, query, red, K)
    assert len(expected) == min(K, members - (inside and members > 0))
    for filters, how in (({"baseColour": "Red"}, True), ({"gender": "Men"}, False)):
        assert answer(connection, ids[query], filters) == (expected, {how} if expected else set())


def test_ranks_count_from_one_and_the_default_is_ten_without_filter(connection, load_run):
    load_run(connection, "a", np.arange(30), POOL[np.arange(30) % len(POOL)])
    rows = connection.execute("SELECT rank FROM lookalike.similar_items(0)").fetchall()
    assert rows == [(rank,) for rank in range(1, 11)]


def test_a_value_that_no_product_has_gives_no_rows_even_if_it_is_sql(connection, load_run):
    load_run(connection, "a", np.arange(3), POOL[:3], {"baseColour": ["Red", "Red", "O'Neill \\ %"]})
    assert answer(connection, 0, {"baseColour": "Mauve"}) == ([], set())
    assert answer(connection, 0, {"baseColour": "' OR true --"}) == ([], set())
    assert [item for item, _ in answer(connection, 0, {"baseColour": "O'Neill \\ %"})[0]] == [2]


@pytest.mark.parametrize(
    ("product", "filters", "k", "message"),
    [
        (1, {"size": "XL"}, 10, ["'size'", "known fields: gender, baseColour"]),
        (1, {"year": "2011"}, 10, ["'year'", "known fields: gender, baseColour"]),
        (1, {"baseColour": 5}, 10, ["baseColour", "5", "string"]),
        (1, {"baseColour": None}, 10, ["baseColour", "null", "string"]),
        (1, ["Red"], 10, ["JSON object", '["Red"]']),
        (99, {}, 10, ["99"]),
        (99, {}, 11, ["99"]),
        (1, {}, 0, ["k = 0", "1 to 100"]),
        (1, {}, 101, ["k = 101", "1 to 100"]),
    ],
)
def test_a_wrong_question_is_a_user_error_that_names_the_value(connection, load_run, product, filters, k, message):
    load_run(connection, "a", np.array([1, 2]), POOL[:2], lists=[({}, [((2,), (0.5,)), ((1,), (0.5,))])])
    with pytest.raises(UserError) as error:
        store.similar_items(connection, product, filters, k)
    assert all(text in str(error.value) for text in message)


def test_without_a_live_run_the_error_says_how_to_get_one(connection):
    with pytest.raises(UserError, match="no run is live") as error:
        store.similar_items(connection, 1, {}, 10)
    assert "make refresh" in error.value.remedy


def test_a_reader_may_ask_and_see_the_views(reader):
    assert answer(reader, 1, {}) == ([(2, 0.5)], {True})
    assert answer(reader, 1, {}, 20)[1] == {False}
    assert reader.execute("SELECT run FROM lookalike.live_run").fetchall() == [("a",)]
    assert len(reader.execute("SELECT * FROM lookalike.live_products").fetchall()) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM lookalike.lists",
        "SELECT * FROM lookalike.products_1",
        "SELECT * FROM lookalike.runs",
        "DELETE FROM lookalike.live_products",
        "DELETE FROM lookalike.live",
        "INSERT INTO lookalike.live (run_id) VALUES (1)",
        "CREATE TABLE lookalike.mine (x int)",
        "DROP TABLE lookalike.lists_1",
    ],
)
def test_a_reader_can_neither_read_nor_write_base_tables(reader, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(statement)


def test_a_readers_temporary_type_does_not_run_with_the_owners_rights(reader):
    """The function runs as its owner: were pg_temp searched first, the check of this `halfvec` would too."""
    reader.execute(
        """CREATE FUNCTION pg_temp.trap(anyelement) RETURNS boolean LANGUAGE plpgsql
           AS $$ BEGIN RAISE 'ran as %', current_user; END $$"""
    )
    reader.execute("CREATE DOMAIN pg_temp.halfvec AS public.halfvec CHECK (pg_temp.trap(VALUE))")
    assert len(answer(reader, 1, {}, 20)[0]) == 1


def test_everything_readers_see_has_a_comment(connection):
    bare = connection.execute(
        """SELECT relname FROM pg_class WHERE relnamespace = 'lookalike'::regnamespace AND relkind IN ('r', 'p', 'v')
               AND obj_description(oid, 'pg_class') IS NULL
           UNION SELECT proname FROM pg_proc WHERE pronamespace = 'lookalike'::regnamespace
               AND obj_description(oid, 'pg_proc') IS NULL"""
    ).fetchall()
    assert bare == []
