"""Odd arguments and odd texts: what each command says, in a line a case."""

import os
import subprocess
import sys

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra.lake import Lake
from jobs.step import execute
from tests.catalogues import RUN, good_files, list_nearest, open_run, pulled, row, serve, styles, zip_bytes
from tests.field.outcomes import command_line

FIELDS = "gender, masterCategory, subCategory, articleType, baseColour, season, usage"
STEPS = (
    "pull, catalog, embed, classify, candidates, similar, evaluate, publish, train_embedding, train_look, search, looks"
)
NAMES = {
    1: "Shirt [/] Blue",
    2: "Sony [Refurbished] Shirt [bold red]x :dress:",
    3: "<script>alert(1)</script> & Co",
    4: "Emoji 👗 العربية 漢字 " + "long" * 40,
    5: "\x1b[31mred\x1b[0m, \x9b5m, \u202eright to left",
}
COLOURS = {6: "[/red]", 7: "Blue/Grün & \\\"x'"}


@pytest.fixture(scope="module")
def store_uri(postgres):
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE command_line")
    return make_conninfo(postgres, dbname="command_line")


@pytest.fixture(scope="module")
def published(store_uri, tmp_path_factory):
    """A live run of 60 products some of whose texts mean something to a terminal, to HTML or to SQL."""
    texts = {n: {"productDisplayName": name} for n, name in NAMES.items()}
    texts |= {n: {"baseColour": colour} for n, colour in COLOURS.items()}
    rows = [row(n, **texts.get(n, {})) for n in range(1, 61)]
    run = open_run(Lake(tmp_path_factory.mktemp("lake").as_uri()), store=store_uri)
    execute("catalog", pulled(run, zip_bytes(good_files(60) | {"styles.csv": styles(rows)})))
    embeddings = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    list_nearest(run, embeddings)
    serve(run)
    return run


NO_LAKE = "64: the lake's address '{}' is none | LOOKALIKE_LAKE | give file:///absolute/path, with three slashes, or "
CASES = {
    "query-good": (["query", "10", "-k", "3"], "10 Product 10 — no filter; 3 listed"),
    "query-name-with-closing-tag": (["query", "1", "-k", "3"], f"1 {NAMES[1]} — no filter; 3 listed"),
    "query-name-with-tag": (["query", "2", "-k", "3"], f"2 {NAMES[2]} — no filter; 3 listed"),
    "query-html-name": (["query", "3", "-k", "3"], f"3 {NAMES[3]} — no filter; 3 listed"),
    "query-emoji-name": (["query", "4", "-k", "3"], f"4 {NAMES[4]} — no filter; 3 listed"),
    "query-steering-name": (
        ["query", "5", "-k", "3"],
        "5 ␛[31mred␛[0m, \ufffd5m, \ufffdright to left — no filter; 3 listed",
    ),
    "query-filter-value-with-tag": (
        ["query", "10", "--filter", "baseColour=[/red]"],
        "10 Product 10 — baseColour=[/red]; 1 listed",
    ),
    "query-filter-quotes": (
        ["query", "10", "--filter", f"baseColour={COLOURS[7]}"],
        "10 Product 10 — baseColour=Blue/Grün & \\\\\"x'; 1 listed",
    ),
    "query-two-values-of-a-field": (
        ["query", "10", "--filter", "baseColour=Blue", "--filter", "baseColour=Red", "-k", "3"],
        "10 Product 10 — baseColour=Blue,Red; 3 listed",
    ),
    "query-list": (
        ["query", "10", "--filter", "baseColour=Blue,Red", "-k", "3"],
        "10 Product 10 — baseColour=Blue,Red; 3 listed",
    ),
    "query-not": (
        ["query", "10", "--filter", "baseColour!=Blue", "-k", "3"],
        "10 Product 10 — baseColour!=Blue; 3 listed",
    ),
    "query-any-value": (["query", "10", "--filter", "gender!="], "10 Product 10 — gender!=; 10 listed"),
    "query-had-and-not-had": (
        ["query", "10", "--filter", "baseColour=Blue", "--filter", "baseColour!=Blue"],
        "64: every value that baseColour is to have is one that it is not to have | --filter | "
        "leave a value out of baseColour!=…",
    ),
    "query-exclude": (["query", "10", "--exclude", "1,2", "--exclude", "3"], "10 Product 10 — no filter; 10 listed"),
    "query-exclude-unknown": (["query", "10", "--exclude", "1;2,B07X"], "10 Product 10 — no filter; 10 listed"),
    "query-exclude-none": (
        ["query", "10", "--exclude", "1,a\x07b"],
        "64: 'a\\x07b' is no product id: it has the control character '\\x07' | --exclude | "
        "write ids separated by commas: 123,456",
    ),
    "query-empty-value": (["query", "10", "--filter", "baseColour="], "10 Product 10 — baseColour="),
    "query-lower-case-value": (["query", "10", "--filter", "baseColour=blue"], "10 Product 10 — baseColour=blue"),
    "query-space-around": (
        ["query", "10", "--filter", "baseColour = Blue"],
        f"64: unknown field 'baseColour ' | similar_items | known fields: {FIELDS}",
    ),
    "query-value-with-equals": (["query", "10", "--filter", "usage=a=b"], "10 Product 10 — usage=a=b"),
    "query-no-equals": (
        ["query", "10", "--filter", "Blue"],
        "64: 'Blue' is no filter | --filter | write field=value, such as baseColour=Blue, or field!=value",
    ),
    "query-colon": (
        ["query", "10", "--filter", "baseColour:Blue"],
        "64: 'baseColour:Blue' is no filter | --filter | write field=value, such as baseColour=Blue, or field!=value",
    ),
    "query-json": (
        ["query", "10", "--filter", '{"baseColour": "Blue"}'],
        """64: '{"baseColour": "Blue"}' is no filter | --filter | """
        "write field=value, such as baseColour=Blue, or field!=value",
    ),
    "query-unknown-field-bracket": (
        ["query", "10", "--filter", "[/]=x"],
        f"64: unknown field '[/]' | similar_items | known fields: {FIELDS}",
    ),
    "query-american-field": (
        ["query", "10", "--filter", "baseColor=Blue"],
        f"64: unknown field 'baseColor' | similar_items | known fields: {FIELDS}",
    ),
    "query-year": (
        ["query", "10", "--filter", "year=2012"],
        f"64: unknown field 'year' | similar_items | known fields: {FIELDS}",
    ),
    "query-huge-id": (
        ["query", "99999999999999999999"],
        "64: the live run has no product 99999999999999999999 | similar_items | "
        "its id may be wrong, or it was rejected: see the table rejects",
    ),
    "query-max-id": (
        ["query", "9223372036854775807"],
        "64: the live run has no product 9223372036854775807 | similar_items | "
        "its id may be wrong, or it was rejected: see the table rejects",
    ),
    "query-negative": (
        ["query", "--", "-5"],
        "64: the live run has no product -5 | similar_items | "
        "its id may be wrong, or it was rejected: see the table rejects",
    ),
    "query-float-id": (
        ["query", "10.0"],
        "64: the live run has no product 10.0 | similar_items | "
        "its id may be wrong, or it was rejected: see the table rejects",
    ),
    "query-leading-zero": (
        ["query", "010"],
        "64: the live run has no product 010 | similar_items | "
        "its id may be wrong, or it was rejected: see the table rejects",
    ),
    "query-k-0": (
        ["query", "10", "-k", "0"],
        "2: Error: Invalid value for '-k': Input should be greater than or equal to 1",
    ),
    "query-not-utf8": (
        ["query", "10", "--filter", "baseColour=\udcff"],
        r"64: 'baseColour=\udcff' is no UTF-8 | the command line | type it in a terminal that writes UTF-8",
    ),
    "rollback-not-utf8": (
        ["rollback", "--reason", "caf\udce9"],
        r"64: 'caf\udce9' is no UTF-8 | the command line | type it in a terminal that writes UTF-8",
    ),
    "grid-no-folder": (
        ["grid", "no/such/x.png", "--run", RUN],
        "64: there is no folder no/such | no/such/x.png | "
        "name a file that ends in .png, .jpg, .jpeg, .webp, in a folder that is there",
    ),
    "grid-no-suffix": (
        ["grid", "grid", "--run", RUN],
        "64: the ending of 'grid' is that of no picture | grid | "
        "name a file that ends in .png, .jpg, .jpeg, .webp, in a folder that is there",
    ),
    "grid-a-folder": (
        ["grid", ".", "--run", RUN],
        "64: . is a folder | . | name a file that ends in .png, .jpg, .jpeg, .webp, in a folder that is there",
    ),
    "grid-jpg": (["grid", "[a].jpg", "--run", RUN], "[a].jpg: 6 products, each followed by its ten most similar"),
    "grid-latest": (["grid", "x.png", "--run", "latest"], "x.png: 6 products, each followed by its ten most similar"),
    "grid-bad-run": (
        ["grid", "x.png", "--run", "../../x"],
        "64: '../../x' is no logical date | --run | give a date such as 2026-01-31, in the form YYYY-MM-DD",
    ),
    "grid-50-rows": (
        ["grid", "x.png", "--run", RUN, "--rows", "50"],
        "x.png: 50 products, each followed by its ten most similar",
    ),
    "grid-unknown-run": (
        ["grid", "x.png", "--run", "2025-01-01"],
        "64: run 2025-01-01 has no result of step 'catalog', which this step needs | "
        "{lake}/runs/2025-01-01/catalog.json | "
        "run `lookalike step catalog --run 2025-01-01` first, or the whole refresh",
    ),
    "status": (["status"], "run loaded products cells"),
    "rollback-only-one": (
        ["rollback"],
        f"64: there is no run to go back to | live run: {RUN}; the store holds {RUN} | "
        "publish a run with `make refresh`, or end a hold with `lookalike unhold`; "
        "the store keeps LOOKALIKE_KEEP_RUNS runs",
    ),
    "doctor": (["doctor"], "java"),
    "step-unknown": (
        ["step", "[/]", "--run", RUN],
        f"64: there is no step '[/]' | lookalike step | choose one of {STEPS}",
    ),
    "step-run-slash": (
        ["step", "pull", "--run", "2026/01/01"],
        "64: '2026/01/01' is no logical date | --run | give a date such as 2026-01-31, in the form YYYY-MM-DD",
    ),
    "step-before-its-input": (
        ["step", "embed", "--run", "2025-01-01"],
        "64: run 2025-01-01 has no result of step 'catalog', which this step needs | "
        "{lake}/runs/2025-01-01/catalog.json | "
        "run `lookalike step catalog --run 2025-01-01` first, or the whole refresh",
    ),
    "step-search-needs-photos": (
        ["step", "search", "--run", RUN],
        "64: 'sample:2000?seed=7' is a catalogue, and no folder or table of photos | "
        "--dataset or LOOKALIKE_DATASET | name the photos: `lookalike search photos/`, or --dataset photos/",
    ),
    "evaluate-bad-run": (
        ["evaluate", "--run", "2031-01-01"],
        "64: run 2031-01-01 has no result of step 'pull', which this step needs | "
        "{lake}/runs/2031-01-01/pull.json | run `lookalike step pull --run 2031-01-01` first, or the whole refresh",
    ),
    "refresh-bad-date": (
        ["refresh", "--run", "31.01.2026"],
        "64: '31.01.2026' is no logical date | --run | give a date such as 2026-01-31, in the form YYYY-MM-DD",
    ),
    "compare-backbones-unknown": (
        ["compare-backbones", "--backbones", "[/]"],
        "64: there is no backbone '[/]' | --backbones [/] | choose among efficientnet-lite0, efficientnet-lite1, "
        "efficientnet-lite2, resnet50, resnet50v2, resnet152, xception, inceptionv3, inceptionresnetv2, nasnetlarge",
    ),
    "search-missing": (
        ["search", "/no/such.jpg"],
        "64: the photo cannot be read: No such file or directory | /no/such.jpg | give the path of an image file",
    ),
    "run-as-compact-date": (
        ["refresh", "--run", "20260106"],
        "64: '20260106' is no logical date | --run | give a date such as 2026-01-31, in the form YYYY-MM-DD",
    ),
    "search-folder-missing": (
        ["search", "/no/such/"],
        "64: the photo cannot be read: No such file or directory | /no/such/ | give the path of an image file",
    ),
    "search-empty-folder": (
        ["search", "."],
        "64: it names no photo | file://{here} | give a folder of images or a table with their paths",
    ),
    "search-bad-field": (
        ["search", "1.jpg", "--filter", "colour=Blue"],
        f"64: unknown field 'colour' | the filters | known fields: {FIELDS}",
    ),
    "leftovers-of-ages-ago": (
        ["leftovers", "--days", "999999999999"],
        "2: Error: Invalid value for '--days': Input should be less than or equal to 36500",
    ),
    "grid-long-name": (
        ["grid", f"{'x' * 300}.png", "--run", RUN],
        f"64: the picture cannot be written: File name too long | {'x' * 300}.png | name another file",
    ),
    "no-such-command": (["[/]"], "2: Error: No such command '[/]'."),
    "no-such-option": (["status", "--[/]"], "2: Error: No such option: --[/]"),
}


@pytest.mark.parametrize(("arguments", "expected"), CASES.values(), ids=CASES)
def test_a_command_says(lookalike, published, tmp_path, arguments, expected):
    told = command_line(*lookalike(*arguments))
    expected = expected.replace("{lake}", published.lake.uri).replace("{here}", str(tmp_path))
    if expected in ("java", "run loaded products cells"):  # whose figures are the machine's
        told = " ".join(told.split())[: len(expected)]
    assert told == expected


@pytest.mark.parametrize(
    ("fields", "problem"),
    [("gender,gender", "field gender comes twice"), ("gender,[/]", "unknown field [/]; known: gender")],
)
def test_fields_that_cannot_be_used_are_named(lookalike, monkeypatch, fields, problem):
    monkeypatch.setenv("LOOKALIKE_FIELDS", fields)
    told = command_line(*lookalike("query", "10"))
    assert told.startswith(f"64: LOOKALIKE_FIELDS={fields!r} cannot be used: Value error, {problem}")


@pytest.mark.parametrize(
    ("variable", "address", "expected"),
    [
        ("LOOKALIKE_LAKE", "file:tmp/field-lake", NO_LAKE),
        ("LOOKALIKE_LAKE", "file://field-lake/lake", NO_LAKE),
        ("LOOKALIKE_LAKE", "/srv/field-lake", NO_LAKE),
        (
            "LOOKALIKE_DATASET",
            "",
            "64: the source '' isn't there | LOOKALIKE_DATASET or --dataset | check the path, or give ",
        ),
    ],
    ids=["lake-relative", "lake-two-slashes", "lake-plain-path", "dataset-empty"],
)
def test_an_address_that_is_none_is_named_and_nothing_is_written(
    lookalike, monkeypatch, tmp_path, variable, address, expected
):
    """Cases of the field's `surroundings`, which are the command line's as well."""
    monkeypatch.setenv("LOOKALIKE_DATASET", "sample:20")
    monkeypatch.setenv(variable, address)
    assert command_line(*lookalike("step", "pull", "--run", RUN)).startswith(expected.format(address))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["refresh", "step pull", "up"])
def test_logs_that_cannot_be_written_are_named(lookalike, monkeypatch, tmp_path, command):
    (tmp_path / "[file]").write_text("no folder")
    monkeypatch.setenv("LOOKALIKE_LOGS", str(tmp_path / "[file]/logs"))
    told = command_line(*lookalike(*command.split(), *([] if command == "up" else ["--run", RUN])))
    assert told.startswith("64: the ")
    assert "Not a directory" in told
    assert f"{tmp_path}/[file]/logs" in told


def test_where_the_terminal_knows_ascii_alone_the_rest_is_replaced(published):
    ascii_alone = {"PYTHONIOENCODING": "ascii", "LOOKALIKE_STORE": published.settings.store}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "query", "4", "-k", "3"],
        env=os.environ | ascii_alone,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("ascii").splitlines()[0] == "4 Emoji ? ??????? ?? " + "long" * 40 + " ? no filter"
    assert done.stderr == b""
