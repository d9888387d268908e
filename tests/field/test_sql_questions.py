"""Odd arguments to the store's SQL functions: what each answers, or which words it refuses them with."""

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra import store
from ml.similarity import to_embedding

D = 4
BY_PRODUCT = "SELECT count(*) FROM lookalike.similar_items"
BY_VECTOR = "SELECT count(*), min(score), max(score) FROM lookalike.similar_items_by_vector"
QUESTIONS = {
    # Products
    "good": (f"{BY_PRODUCT}(10)", "10"),
    "null product": (f"{BY_PRODUCT}(NULL)", "the live run has no product <NULL>"),
    "product as text": (f"{BY_PRODUCT}('10')", "10"),
    "product as text of another form": (f"{BY_PRODUCT}('010')", "the live run has no product 010"),
    "product huge, as text": (
        f"{BY_PRODUCT}('99999999999999999999')",
        "the live run has no product 99999999999999999999",
    ),
    "product as numeric": (f"{BY_PRODUCT}(10.0)", "function lookalike.similar_items(numeric) does not exist"),
    "product huge": (
        f"{BY_PRODUCT}(99999999999999999999)",
        "function lookalike.similar_items(numeric) does not exist",
    ),
    "named arguments": (f"{BY_PRODUCT}(product_id => 10, k => 5)", "5"),
    "named wrong": (f"{BY_PRODUCT}(id => 10)", "function lookalike.similar_items(id => integer) does not exist"),
    "unknown product among many": (
        "SELECT count(*) FROM (VALUES (10), (999999)) v(id), lookalike.similar_items(v.id)",
        "the live run has no product 999999",
    ),
    "in a left join lateral": (
        "SELECT count(*) FROM (VALUES (10), (999999)) v(id) LEFT JOIN LATERAL lookalike.similar_items(v.id) s ON true",
        "the live run has no product 999999",
    ),
    "in a join": (
        "SELECT count(*) FROM lookalike.live_products p, lookalike.similar_items(p.product_id, '{}', 3)",
        "39",
    ),
    "read only transaction": (f"SET TRANSACTION READ ONLY; {BY_PRODUCT}(10)", "10"),
    # k
    "null k": (f"{BY_PRODUCT}(10, '{{}}', NULL)", "k = <NULL> is not between 1 and 100"),
    "k 101": (f"{BY_PRODUCT}(10, '{{}}', 101)", "k = 101 is not between 1 and 100"),
    "k negative": (f"{BY_PRODUCT}(10, '{{}}', -1)", "k = -1 is not between 1 and 100"),
    "k 2147483648": (
        f"{BY_PRODUCT}(10, '{{}}', 2147483648)",
        "function lookalike.similar_items(integer, unknown, bigint) does not exist",
    ),
    # Filters
    "null filters": (f"{BY_PRODUCT}(10, NULL)", "filters is no JSON object: <NULL>"),
    "filters array": (f"{BY_PRODUCT}(10, '[]')", "filters is no JSON object: []"),
    "filters string": (f"{BY_PRODUCT}(10, '\"Blue\"')", 'filters is no JSON object: "Blue"'),
    "filters null json": (f"{BY_PRODUCT}(10, 'null')", "filters is no JSON object: null"),
    "value null": (
        f"{BY_PRODUCT}(10, '{{\"baseColour\": null}}')",
        "1",
    ),
    "value number": (f"{BY_PRODUCT}(10, '{{\"gender\": 2012}}')", "the condition on field 'gender' is none: 2012"),
    "value list": (
        f'{BY_PRODUCT}(10, \'{{"baseColour": ["Blue", "Red"]}}\')',
        "7",
    ),
    "value nested": (
        f'{BY_PRODUCT}(10, \'{{"baseColour": {{"in": ["Blue"]}}}}\')',
        'the condition on field \'baseColour\' is none: {"in": ["Blue"]}',
    ),
    "value not": (f'{BY_PRODUCT}(10, \'{{"baseColour": {{"not": ["Blue", null]}}}}\')', "8"),
    "value empty list": (
        f"{BY_PRODUCT}(10, '{{\"baseColour\": []}}')",
        "the condition on field 'baseColour' is none: []",
    ),
    "exclude": (f"{BY_PRODUCT}(10, exclude => '{{1, 2, 3, 999999}}')", "9"),
    "exclude everything": (f"{BY_PRODUCT}(10, exclude => ARRAY(SELECT generate_series(1, 13)))", "0"),
    "exclude by text": (f"{BY_PRODUCT}('10', exclude => '{{1, 02, B07X}}')", "10"),
    "exclude everything by text": (
        f"{BY_PRODUCT}('10', exclude => ARRAY(SELECT i::text FROM generate_series(1, 13) i))",
        "0",
    ),
    "exclude null": (f"{BY_PRODUCT}(10, exclude => NULL)", "10"),
    "exclude text": (f"{BY_PRODUCT}(10, exclude => '{{a}}')", 'invalid input syntax for type bigint: "a"'),
    "key twice": (f'{BY_PRODUCT}(10, \'{{"baseColour": "Blue", "baseColour": "Red"}}\')', "4"),
    "key case": (f'{BY_PRODUCT}(10, \'{{"basecolour": "Blue"}}\')', "unknown field 'basecolour'"),
    "value empty": (f'{BY_PRODUCT}(10, \'{{"baseColour": ""}}\')', "0"),
    "value nul": (f'{BY_PRODUCT}(10, \'{{"baseColour": "\\u0000"}}\')', "unsupported Unicode escape sequence"),
    "value surrogate": (f'{BY_PRODUCT}(10, \'{{"baseColour": "\\ud800"}}\')', "invalid input syntax for type json"),
    "value 1 MB": (f"{BY_PRODUCT}(10, jsonb_build_object('baseColour', repeat('x', 1000000)))", "0"),
    "value 1 MB random": (
        f"{BY_PRODUCT}(10, jsonb_build_object('baseColour', (SELECT string_agg(md5(i::text), '')"
        " FROM generate_series(1, 5000) i)))",
        "0",
    ),
    # Vectors
    "vector NaN": (f"{BY_VECTOR}('[NaN, 1, 2]')", "NaN not allowed in vector"),
    "vector infinity": (f"{BY_VECTOR}('[Infinity, 1, 2]')", "infinite value not allowed in vector"),
    "vector zeros": (f"{BY_VECTOR}(array_fill(0, ARRAY[{D}])::vector)", "10 0.000000 0.000000"),
    "vector tiny": (f"{BY_VECTOR}(array_fill(1e-38::real, ARRAY[{D}])::vector)", "even"),
    "vector denormal": (f"{BY_VECTOR}(array_fill(1e-45::real, ARRAY[{D}])::vector)", "even"),
    "vector huge": (f"{BY_VECTOR}(array_fill(3e38::real, ARRAY[{D}])::vector)", "even"),
    "vector 70000": (f"{BY_VECTOR}(array_fill(70000::real, ARRAY[{D}])::vector)", "even"),
    "vector one of 1e30": (f"{BY_VECTOR}((ARRAY[1e30::real] || array_fill(1::real, ARRAY[{D - 1}]))::vector)", "first"),
    "vector wrong width": (
        f"{BY_VECTOR}('[1, 2, 3]')",
        f"the embedding has 3 dimensions, those of the live run have {D}",
    ),
    "vector as halfvec": (
        f"{BY_VECTOR}((array_fill(0.5, ARRAY[{D}]))::vector::halfvec)",
        "function lookalike.similar_items_by_vector(halfvec) does not exist",
    ),
    "vector as array": (
        f"{BY_VECTOR}(array_fill(0.5::real, ARRAY[{D}]))",
        "function lookalike.similar_items_by_vector(real[]) does not exist",
    ),
    "vector as sparsevec": (f"{BY_VECTOR}('{{1:1}}/{D}'::sparsevec::vector)", "first"),
    "vector null": (f"{BY_VECTOR}(NULL)", "the embedding is NULL"),
    "vector text": (f"{BY_VECTOR}('hello')", 'invalid input syntax for type vector: "hello"'),
    "vector empty": (f"{BY_VECTOR}('[]')", "vector must have at least 1 dimension"),
}

IDS = np.arange(1, 14)
EMBEDDINGS = to_embedding(np.array([[i % 5, i % 3, i % 7, 1] for i in IDS], float))
COLOURS = ["", *(("Green", "Blue", "Red")[i % 3] for i in IDS[1:])]


def best_ten(direction: list[float]) -> str:
    """The line of a question by vector: how many items, and the least and the largest score."""
    scores = np.sort(EMBEDDINGS.astype(float) @ to_embedding(np.array([direction]))[0])[::-1]
    return f"10 {scores[9]:.6f} {scores[0]:.6f}"


@pytest.fixture(scope="module")
def published(postgres: str, tmp_path_factory, load_run) -> Iterator[psycopg.Connection]:
    """A connection to a store in which thirteen products are live, product 10 a blue one beside three; four are red."""
    name = "test_sql_questions"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    with store.connect(make_conninfo(postgres, dbname=name), tmp_path_factory.getbasetemp(), prepares=True) as made:
        load_run(made, "2026-01-01", IDS, EMBEDDINGS, {"gender": ["Men"] * 13, "baseColour": COLOURS})
        yield made
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_odd_question_is_answered_or_refused_in_words(published, name):
    question, expected = QUESTIONS[name]
    expected = {"even": best_ten([1, 1, 1, 1]), "first": best_ten([1, 0, 0, 0])}.get(expected, expected)
    assert answered(published, question) == expected


def answered(connection: psycopg.Connection, question: str) -> str:
    """The row of an answer, or the first line of what the store says instead."""
    try:
        with connection.transaction(force_rollback=True):
            for statement in question.split("; "):
                found = connection.execute(statement)
            row = found.fetchone()
            return " ".join(f"{value:.6f}" if isinstance(value, float) else str(value) for value in row)
    except psycopg.Error as error:
        return error.diag.message_primary
