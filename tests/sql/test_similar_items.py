"""`lookalike.similar_items` against an oracle in int64, and what its callers may do."""

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import store
from infra.errors import UserError
from jobs.ids import key
from ml.similarity import to_embedding

K = 10
POOL = to_embedding(np.array([[3, 1, 0, 2], [1, 3, 2, 0], [-1, 2, 2, 1], [3, 1, 0, 2], [0, 0, 0, 0]], float))
"""Few distinct vectors, one of them twice: catalogues drawn from it are full of ties and duplicates."""


NUMBERS = st.integers(-9, 2**64).map(str)
IDS = st.one_of(NUMBERS, st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9))
"""Ids of every kind: canonical numbers, what looks like them, and other text."""


def nearest(ids, vectors, embedding, member, k):
    """The k best members as (id, score): dot products in int64 of multiples of 2^-11, ties to the id before."""
    scores = (vectors * 2048).astype(np.int64) @ (embedding * 2048).astype(np.int64)
    best = sorted(np.flatnonzero(member), key=lambda i: (-scores[i], key(str(ids[i]))))[:k]
    return [(str(ids[i]), int(scores[i]) / 2**22) for i in best]


def oracle(ids, vectors, query, member, k):
    """What `nearest` says of a product of the catalogue, which is never in its own list."""
    return nearest(ids, vectors, vectors[query], member & (np.arange(len(ids)) != query), k)


def answer(connection, product_id, filters, k=K, exclude=()):
    return split(store.similar_items(connection, str(product_id), filters, k, [*map(str, exclude)]))


def answer_by_vector(connection, embedding, filters, k=K, exclude=()):
    return split(
        store.similar_items_by_vector(connection, np.asarray(embedding, np.float32), filters, k, [*map(str, exclude)])
    )


def split(found):
    """Items and scores, and how many members were compared."""
    return [(item.product_id, item.score) for item in found], {item.scanned for item in found}


@pytest.fixture
def reader(connection, load_run):
    """A connection of a role that has nothing but lookalike_reader, to a store with one live run."""
    load_run(connection, "a", np.array([1, 2]), POOL[:2])
    connection.execute("SET ROLE lookalike_reader")
    return connection


COLOURS, GENDERS = ["Red", "Blue", "Green", None], ["Men", "Women", None]
CELLS = [
    {},
    *({"baseColour": colour} for colour in COLOURS[:3]),
    *({"gender": gender} for gender in GENDERS[:2]),
    {"gender": "Men", "baseColour": "Red"},
]


TAGS = ["linen", "new", "sale", "warm"]


def conditions(values):
    """A condition on a field in every form that there is, of its values and one that no product has."""
    one = st.sampled_from([*values, "none has it", ""])
    wanted = st.one_of(one, st.lists(one, min_size=1, max_size=3))
    parts = st.fixed_dictionaries({"not": wanted}, optional={"is": wanted})
    return st.one_of(wanted, parts)


def passes(condition, values):
    """bool (n,): which products pass a condition, by its definition; each has a value, None, or a list of values."""
    parts = condition if isinstance(condition, dict) else {"is": condition}
    passing = np.ones(len(values), bool)
    for name, wanted in parts.items():
        wanted = set(wanted) if isinstance(wanted, list) else {wanted}
        has = [set(value or [None]) if isinstance(value, list) else {value} for value in values]
        passing &= np.array([bool(of_product & wanted) != (name == "not") for of_product in has])
    return passing


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(1, 90), k=st.one_of(st.integers(1, 12), st.integers(1, 100)))
def test_every_answer_equals_the_int64_oracle_to_the_bit(connection, load_run, monkeypatch, data, n, k):
    def drawn(what):
        return data.draw(st.lists(what, min_size=n, max_size=n))

    ids = np.array(data.draw(st.lists(IDS, min_size=n, max_size=n, unique=True)), object)
    vectors = POOL[drawn(st.integers(0, len(POOL) - 1))]
    values = {"baseColour": drawn(st.sampled_from(COLOURS)), "gender": drawn(st.sampled_from(GENDERS))}
    values["tags"] = drawn(st.lists(st.sampled_from(TAGS), unique=True, max_size=3))
    possible = [*CELLS, *({"tags": tag} for tag in TAGS), {"gender": "Men", "tags": "new"}]
    there = [cell for cell in possible if np.logical_and.reduce([passes(cell[f], values[f]) for f in cell]).any()]
    cells = [{}, *data.draw(st.lists(st.sampled_from(there[1:]), unique_by=str))] if there[1:] else [{}]
    with connection.transaction(force_rollback=True):
        for name, bounds in (("NARROW", [0, 1 << 16]), ("FEW_VALUES", [0, 3, 256]), ("EDGES", [0, 4096])):
            monkeypatch.setattr(store, name, data.draw(st.sampled_from(bounds)))
        load_run(
            connection, "a", ids, vectors, values, cells, [data.draw(st.sampled_from([10, 13, 20])) for _ in cells]
        )
        for query in range(min(n, 4)):
            filters = data.draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "baseColour": conditions(COLOURS),
                        "gender": conditions(GENDERS),
                        "tags": conditions([*TAGS, None]),
                    },
                )
            )
            exclude = data.draw(st.lists(st.sampled_from([*ids.tolist(), "none has it"]), max_size=12))
            member = np.logical_and.reduce([passes(filters[f], values[f]) for f in filters] + [np.ones(n, bool)])
            member &= np.array([product_id not in exclude for product_id in ids])
            found, scanned = answer(connection, ids[query], filters, k, exclude)
            assert found == oracle(ids, vectors, query, member, k)
            assert scanned <= {0} or filters not in cells or k + len(exclude) > 10
            assert answer_by_vector(connection, vectors[query], filters, k, exclude)[0] == nearest(
                ids, vectors, vectors[query], member, k
            )


@pytest.mark.parametrize("inside", [True, False], ids=["product inside", "product outside"])
@pytest.mark.parametrize("members", [0, 1, 10, 11, 12])
def test_small_cells_give_all_their_other_members_precomputed_or_not(connection, load_run, members, inside):
    n, vectors = 15, POOL[np.arange(15) % len(POOL)]
    ids, query = np.arange(n) + 100, 0 if inside else 14
    red = np.arange(n) < members
    values = {"baseColour": np.where(red, "Red", None), "gender": np.where(red, "Men", None)}
    load_run(connection, "a", ids, vectors, values, [{}, *([{"baseColour": "Red"}] if members else [])])
    expected = oracle(ids, vectors, query, red, K)
    assert len(expected) == min(K, members - (inside and members > 0))
    found, scanned = answer(connection, ids[query], {"baseColour": "Red"})
    assert (found, scanned) == (expected, {0} if expected else set())
    assert answer(connection, ids[query], {"gender": "Men"})[0] == expected


def test_scanned_counts_the_members_outside_the_shortlist_that_were_compared(connection, load_run):
    n = 100
    ids, vectors = np.arange(n), to_embedding(np.random.default_rng(4).normal(size=(n, 4)))
    colour = np.repeat(["Red", "Blue", "Green", "Mauve"], [40, 30, 20, 10])
    values = {"baseColour": colour, "gender": ["Men", "Women"] * 50}
    load_run(connection, "a", ids, vectors, values, [{}, {"baseColour": "Red"}, {"baseColour": "Blue"}])
    (shortlist,) = connection.execute(
        "SELECT array(SELECT product_id::int FROM lookalike.catalogue p WHERE p.position - 32768 = ANY (s.items))"
        " FROM lookalike.catalogue q JOIN lookalike.narrow_shortlists s USING (position) WHERE q.product_id = '0'"
    ).fetchone()

    def outside(*colours):
        return len(set(ids[np.isin(colour, colours)].tolist()) - {0, *shortlist})

    for filters, compared in (
        ({}, ()),
        ({"baseColour": ["Red", "Blue"]}, ()),
        ({"baseColour": {"not": ["Green", "Mauve"]}}, ()),
        ({"baseColour": "Green"}, ("Green",)),
        ({"baseColour": ["Red", "Mauve"]}, ("Mauve",)),
        ({"baseColour": {"not": "Blue"}}, ("Green", "Mauve")),
    ):
        assert answer(connection, 0, filters)[1] == {outside(*compared)}, filters
    best = [item for item, _ in answer(connection, 0, {"baseColour": "Red"})[0]]
    assert answer(connection, 0, {"baseColour": "Red"}, 3, best[:7])[1] == {0}  # ten together
    assert answer(connection, 0, {"baseColour": "Red"}, 3, best[:8])[1] == {outside("Red")}
    assert answer(connection, 0, {"baseColour": "Red"}, 11)[1] == {outside("Red")}


def test_no_question_starts_other_processes_to_answer_it_not_even_while_the_store_holds_one_run(connection, load_run):
    """With one partition Postgres took a scan of it by several processes, which costs a question 30 ms."""
    load_run(connection, "a", np.arange(1, 401), np.resize(POOL, (400, 4)))
    (here,) = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()

    def launched():
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT pg_stat_clear_snapshot()")
        return connection.execute("SELECT pg_stat_get_db_parallel_workers_to_launch(%s)", (here,)).fetchone()

    for cost in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
        connection.execute(f"SET {cost} = 0")
    before = launched()
    connection.execute("SELECT lookalike.similar_items(7, '{}', 25), lookalike.similar_items_by_vector('[1, 0, 0, 0]')")
    assert launched() == before


def test_no_question_reads_all_products_to_compare_some_not_even_while_the_store_holds_one_run(connection, load_run):
    """Of wide embeddings Postgres took a scan of the one partition, which costs a question 20 to 300 ms."""
    vectors = to_embedding(np.random.default_rng(0).normal(size=(1200, 767)))
    load_run(connection, "a", np.arange(1200), vectors, {"gender": np.resize(["Men", "Women", None], 1200)}, [{}])

    def scans():
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT pg_stat_clear_snapshot()")
        return connection.execute(
            "SELECT sum(seq_scan), sum(idx_scan) FROM pg_stat_user_tables WHERE relname LIKE 'catalogue%'"
        ).fetchone()

    before = scans()
    connection.execute("SELECT lookalike.similar_items(7, '{}'), lookalike.similar_items(7, '{\"gender\": \"Men\"}')")
    assert scans() > before
    assert scans()[0] == before[0]


def test_who_has_numbers_asks_by_them_and_is_given_them(connection, load_run):
    load_run(connection, "a", [9, 10, "010"], POOL[[0, 3, 1]])
    ask = "SELECT item, score, scanned FROM lookalike.similar_items({})"
    by_number = connection.execute(ask.format("9, '{}', 1")).fetchall()
    by_text = connection.execute(ask.format("'9', '{}', 1")).fetchall()
    assert [type(item) for item, *_ in by_number + by_text] == [int, str]
    assert [(str(item), *of_item) for item, *of_item in by_number] == by_text
    with pytest.raises(psycopg.DataError, match="010 is no whole number: ask by text"):
        connection.execute(ask.format("9, k => 1, exclude => ARRAY[10]::bigint[]"))


def test_the_fields_are_those_of_the_live_run(connection, load_run):
    filters = {"fit": "slim"}
    load_run(connection, "a", [1, 2], POOL[:2], {"fit": ["slim", "slim"]})
    assert len(answer(connection, 1, filters)[0]) == 1
    load_run(connection, "b", [1, 2], POOL[:2], {"cut": ["slim", "slim"]})
    with pytest.raises(UserError, match="unknown field 'fit'") as error:
        answer(connection, 1, filters)
    assert "cut" in error.value.remedy
    store.rollback(connection)
    assert len(answer(connection, 1, filters)[0]) == 1


def test_ranks_count_from_one_and_the_default_is_ten_without_filter(connection, load_run):
    load_run(connection, "a", np.arange(30), POOL[np.arange(30) % len(POOL)])
    rows = connection.execute("SELECT rank FROM lookalike.similar_items(0)").fetchall()
    assert rows == [(rank,) for rank in range(1, 11)]


def test_a_value_that_no_product_has_gives_no_rows_even_if_it_is_sql(connection, load_run):
    load_run(connection, "a", np.arange(4), POOL[:4], {"baseColour": ["Red", "Red", "O'Neill \\ %", ""]})
    assert answer(connection, 0, {"baseColour": ""}) == ([], set())
    assert answer(connection, 0, {"baseColour": "Mauve"}) == ([], set())
    assert answer(connection, 0, {"baseColour": "' OR true --"}) == ([], set())
    assert [item for item, _ in answer(connection, 0, {"baseColour": "O'Neill \\ %"})[0]] == ["2"]


@pytest.mark.parametrize(
    ("product", "filters", "k", "message"),
    [
        (1, {"size": "XL"}, 10, ["'size'", "known fields: gender, baseColour"]),
        (1, {"year": "2011"}, 10, ["'year'", "known fields: gender, baseColour"]),
        (1, {"baseColour": 5}, 10, ["baseColour", "none: 5", "write a value"]),
        (1, {"baseColour": []}, 10, ["baseColour", "none: []"]),
        (1, {"baseColour": ["Red", ["Blue"]]}, 10, ["baseColour", 'none: ["Red", ["Blue"]]']),
        (1, {"baseColour": {"not": []}}, 10, ["baseColour", 'none: {"not": []}']),
        (1, {"baseColour": {"not": {"not": "Red"}}}, 10, ["baseColour", "none: "]),
        (1, {"baseColour": {"not": "Red", "or": "Blue"}}, 10, ["baseColour", "none: "]),
        (1, {"baseColour": {}}, 10, ["baseColour", "none: {}"]),
        (1, ["Red"], 10, ["JSON object", '["Red"]']),
        (99, {}, 10, ["99"]),
        (99, {}, 11, ["99"]),
        ("one", {}, 10, ["one"]),
        ("\0", {}, 10, ["NUL"]),
        (1, {"gender": "\0"}, 10, ["Unicode"]),
        (1, {}, 0, ["k = 0", "1 to 100"]),
        (1, {}, 101, ["k = 101", "1 to 100"]),
    ],
)
def test_a_wrong_question_is_a_user_error_that_names_the_value(connection, load_run, product, filters, k, message):
    load_run(connection, "a", np.array([1, 2]), POOL[:2])
    with pytest.raises(UserError) as error:
        store.similar_items(connection, product, filters, k)
    assert all(text in str(error.value) for text in message)


# By vector --------------------------------------------------------------------------------------------------------


def test_a_vector_off_the_grid_is_made_an_embedding_as_the_pipeline_makes_it(connection):
    rng = np.random.default_rng(3)
    vectors = [
        *(rng.normal(size=width) * scale for width in (1, 2, 7, 256, 1280) for scale in (1e-30, 1, 1e30)),
        *rng.integers(-3, 4, (50, 4)),  # many of them whole multiples of a unit vector, with halves to round to even
        *rng.integers(-9, 10, (50, 16)) / 64,
        np.array([3, 4]),
        np.array([1, 4095]) / 4096,
    ]
    for vector in vectors:
        vector = vector.astype(np.float32)
        found = connection.execute(
            "SELECT lookalike.to_embedding(%s::float8[]::vector)::real[]::float8[]", (vector.tolist(),)
        ).fetchone()[0]
        assert found == to_embedding(vector[None])[0].tolist()


def test_an_embedding_is_used_as_it_is_though_rounding_left_it_of_another_length(connection):
    embeddings = to_embedding(np.random.default_rng(0).normal(size=(500, 3)))
    changed = (to_embedding(embeddings) != embeddings).any(axis=1)
    assert changed.any()  # made an embedding once more they would be others
    for embedding in embeddings[changed].tolist():
        found = connection.execute(
            "SELECT lookalike.to_embedding(%s::float8[]::vector)::real[]::float8[]", (embedding,)
        ).fetchone()[0]
        assert found == embedding


def test_a_vector_finds_the_product_it_is_the_embedding_of_with_ties_to_the_id_that_comes_first(connection, load_run):
    ids = np.array([9, 4, 7, 1])
    load_run(connection, "a", ids, POOL[[0, 3, 1, 2]], {"gender": ["Men", "Men", "Men", "Women"]})
    for scale in (1, 3.7):  # as it is, and off the grid
        found, how = answer_by_vector(connection, POOL[0] * scale, {"gender": "Men"})
        assert ([item for item, _ in found], how) == (["4", "9", "7"], {3})
    assert answer_by_vector(connection, POOL[0], {"gender": "Boys"}) == ([], set())
    assert len(answer_by_vector(connection, POOL[0], {}, 2)[0]) == 2


@pytest.mark.parametrize(
    ("vector", "filters", "k", "message"),
    [
        ([1, 0, 0], {}, 10, ["3 dimensions", "4"]),
        ([1, 0, 0, float("nan")], {}, 10, ["NaN"]),
        ([1, 0, 0, float("inf")], {}, 10, ["infinite"]),
        ([], {}, 10, ["1 dimension"]),
        ([1, 0, 0, 0], {"size": "XL"}, 10, ["'size'", "known fields: gender, baseColour"]),
        ([1, 0, 0, 0], {}, 101, ["k = 101", "1 to 100"]),
        ([1, 0, 0, 0], ["Red"], 10, ["JSON object"]),
    ],
)
def test_a_wrong_question_by_vector_is_a_user_error_too(connection, load_run, vector, filters, k, message):
    load_run(connection, "a", np.array([1, 2]), POOL[:2])
    with pytest.raises(UserError) as error:
        answer_by_vector(connection, vector, filters, k)
    assert all(text in str(error.value) for text in message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("NULL", "embedding is NULL"), ("'[1,0,0,0]', NULL", "JSON object"), ("'[1,0,0,0]', '{}', NULL", "k =")],
)
def test_a_null_in_a_question_by_vector_is_named(connection, load_run, arguments, message):
    load_run(connection, "a", np.array([1, 2]), POOL[:2])
    with pytest.raises(psycopg.errors.RaiseException, match=message):
        connection.execute(f"SELECT * FROM lookalike.similar_items_by_vector({arguments})")


# Without a run, and with few rights ---------------------------------------------------------------------------------


def test_without_a_live_run_the_error_says_how_to_get_one(connection):
    with pytest.raises(UserError, match="no run is live") as error:
        store.similar_items(connection, 1, {}, 10)
    assert "make refresh" in error.value.remedy
    with pytest.raises(UserError, match="no run is live"):
        answer_by_vector(connection, [1, 0], {})


def test_a_reader_may_ask_and_see_the_views(reader):
    expected = oracle(np.array([1, 2]), POOL[:2], 0, np.ones(2, bool), K)
    assert answer(reader, 1, {}) == (expected, {0})
    assert answer(reader, 1, {}, 20, [5]) == (expected, {0})
    assert [item for item, _ in answer_by_vector(reader, POOL[1], {})[0]] == ["2", "1"]
    assert reader.execute("SELECT run FROM lookalike.live_run").fetchall() == [("a",)]
    assert len(reader.execute("SELECT * FROM lookalike.live_products").fetchall()) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM lookalike.shortlists",
        "SELECT * FROM lookalike.narrow_shortlists",
        "SELECT * FROM lookalike_runs.catalogue_1",
        "SELECT * FROM lookalike.runs",
        "SELECT * FROM lookalike.field_values",
        "SELECT lookalike.asked_run(10)",
        "SELECT lookalike.passing(1, '{}')",
        "SELECT * FROM lookalike.best_items(1, '[1, 0]', 0, '{}', '{}', '{}', 10, '{}')",
        "DELETE FROM lookalike.catalogue",
        "DELETE FROM lookalike.live",
        "INSERT INTO lookalike.live (run_id) VALUES (1)",
        "CREATE TABLE lookalike.mine (x int)",
        "DROP TABLE lookalike_runs.shortlists_1",
        "SELECT * FROM lookalike.holds",
        "DELETE FROM lookalike.prepared",
        "CREATE TABLE lookalike_runs.mine (x int)",
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


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(2, 40), k=st.integers(1, 12))
def test_by_the_best_pair_every_answer_is_that_of_all_pairs_of_images(connection, load_run, data, n, k):
    ids = np.arange(n) + 100
    images = [POOL[data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))] for _ in ids]
    colours = data.draw(st.lists(st.sampled_from(COLOURS), min_size=n, max_size=n))
    with connection.transaction(force_rollback=True):
        cells = [{}, *({"baseColour": colour} for colour in COLOURS[:3] if colour in colours)]
        load_run(connection, "a", ids, images, {"baseColour": colours}, cells)
        for query in range(min(n, 3)):
            for filters in ({}, {"baseColour": data.draw(conditions(COLOURS))}):
                member = passes(filters["baseColour"], colours) if filters else np.ones(n, bool)
                for asked, found in (
                    (images[query], answer(connection, ids[query], filters, k)[0]),
                    (images[query][:1], answer_by_vector(connection, images[query][0], filters, k)[0]),
                ):
                    scores = [float((asked @ images[item].T).max()) for item in range(n)]
                    others = [item for item in np.flatnonzero(member) if item != query or asked is not images[query]]
                    best = sorted(others, key=lambda item: (-scores[item], item))[:k]
                    assert found == [(str(ids[item]), scores[item]) for item in best]
