"""What the steps share: results that make a step done, features in product order, errors that become exit codes."""

import datetime
import json

import numpy as np
import pytest

from infra.errors import StaleError, TransientError, UserError
from jobs import catalog as catalog_step
from jobs import extraction, step
from jobs.features import read_features
from jobs.run import check_begun, check_night
from jobs.run import open_run as open_by_name
from tests.catalogues import RUN, open_run, row, write_result, write_table


def test_a_step_that_needs_another_says_which_and_how_to_run_it(lake):
    with pytest.raises(UserError) as caught:
        open_run(lake).table("products")
    assert "needs" in str(caught.value)
    assert f"lookalike step catalog --run {RUN}" in caught.value.remedy


def test_a_run_reads_the_version_that_its_own_step_wrote(lake):
    first, second = open_run(lake, "2026-01-01"), open_run(lake, "2026-01-02")
    for run, name in ((first, "a"), (second, "b")):
        rows = [{"product_id": None, "file": name, "reason": "r", "detail": ""}]
        write_result(run, "catalog", tables={"rejects": write_table(run, "rejects", rows, catalog_step.REJECTS)})
    assert first.table("rejects").read()["file"].to_pylist() == ["a"]
    assert second.table("rejects").read()["file"].to_pylist() == ["b"]


def run_with_features(lake, hashes, features):
    run = open_run(lake)
    products = [
        {**{k: v for k, v in row(i).items() if k != "id"}, "product_id": i, "derivedType": "x", "image_sha256": sha}
        for i, sha in enumerate(hashes, 1)
    ]
    write_result(run, "catalog", tables={"products": write_table(run, "products", products, catalog_step.PRODUCTS)})
    version = write_table(run, "features", features, extraction.SCHEMA, part_rows=250)
    write_result(run, "embed", tables={"features": version}, figures={"model": "m"})
    return run


def feature(sha, value, model="m"):
    return {
        "image_sha256": sha,
        "model": model,
        "average": [value, 1.0],
        "maximum": [0.0, value],
        "stages": [value, value],
    }


def test_a_table_that_the_release_before_did_not_write_is_named(lake):
    run = open_run(lake)
    write_result(run, "similar", tables={})
    with pytest.raises(UserError, match="no shortlists: another release made it"):
        run.table("shortlists")


def test_features_come_in_product_order_of_the_runs_model_and_shared_images_share_them(lake):
    stored = [feature("c", 3.0), feature("a", 9.0, "another"), feature("a", 1.0), feature("b", 2.0), feature("z", 7.0)]
    run = run_with_features(lake, ["b", "a", "c", "a"], stored)
    assert read_features(run, "average").tolist() == [[2, 1], [1, 1], [3, 1], [1, 1]]
    assert read_features(run, "maximum").dtype == np.float32
    assert read_features(run, "average", rows=np.array([3, 0])).tolist() == [[1, 1], [2, 1]]


def test_features_of_many_parts_come_in_product_order(lake):
    run = run_with_features(
        lake, [f"{i:03}" for i in range(600)], [feature(f"{i:03}", float(i)) for i in range(650)][::-1]
    )
    assert len(run.table("features").parts) > 2
    assert read_features(run, "maximum").tolist() == [[0.0, float(i)] for i in range(600)]


def test_an_image_without_features_is_named_with_the_remedy(lake):
    run = run_with_features(lake, ["a", "b"], [feature("a", 1.0)])
    with pytest.raises(UserError, match="1 of 2 images have no features of model m, such as b") as caught:
        read_features(run, "average")
    assert "lookalike step embed" in caught.value.remedy


OTHER_DATES = ("20260131", "2026-W05-1", "2026-1-31", "2026-02-30", "2026-01-31T00", "2026-01-31\n", "٢٠٢٦-01-31")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "night", "Latest", *OTHER_DATES])
def test_a_run_is_opened_by_its_date_in_one_form(name):
    with pytest.raises(UserError) as caught:
        open_by_name(name)
    assert "such as 2026-01-31, in the form YYYY-MM-DD" in caught.value.remedy


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such thing", where="here", remedy="do this"), 64),
        (TransientError("away"), 75),
        (StaleError("another was first"), 75),
    ],
)
def test_expected_errors_become_their_exit_codes_and_a_message_in_the_log(tmp_path, monkeypatch, capsys, error, code):
    def fail(run):
        raise error

    monkeypatch.setattr("jobs.pull.pull", fail)
    monkeypatch.setenv("LOOKALIKE_LAKE", (tmp_path / "lake").as_uri())
    monkeypatch.setenv("LOOKALIKE_LOGS", str(tmp_path / "logs"))
    assert step.main("pull", ["--run", RUN]) == code
    shown = capsys.readouterr().err
    assert str(error) in shown
    assert "Traceback" not in shown
    events = [json.loads(line) for line in (tmp_path / f"logs/{RUN}/pull.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "failed"
    assert (events[-1]["message"], events[-1]["exit_code"]) == (str(error), code)
    assert (events[-1]["run"], events[-1]["step"]) == (RUN, "pull")


def test_who_started_a_step_is_told_its_run_and_its_own_attempt(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_LAKE", (tmp_path / "lake").as_uri())
    monkeypatch.setenv("LOOKALIKE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("LOOKALIKE_RESULT", str(tmp_path / "told.json"))
    assert step.main("pull", ["--run", RUN, "--dataset", "sample:10"]) == 0
    mine = json.loads((tmp_path / "told.json").read_text())
    monkeypatch.delenv("LOOKALIKE_RESULT")
    assert step.main("pull", ["--run", RUN, "--dataset", "sample:20"]) == 0
    stored = json.loads((tmp_path / f"lake/runs/{RUN}/pull.{mine['attempt']}.json").read_text())
    assert mine == {"run": RUN, **stored}
    assert mine["figures"]["uri"] == "sample:10?seed=7"


@pytest.mark.parametrize("name", ["latest", *OTHER_DATES])
def test_a_night_is_named_by_a_calendar_date_in_one_form(name):
    with pytest.raises(UserError) as caught:
        check_night(name)
    assert "such as 2026-01-31, in the form YYYY-MM-DD" in caught.value.remedy


def test_a_night_that_has_begun_nowhere_is_refused_and_airflow_counts_in_utc():
    now = datetime.datetime.now(datetime.UTC)
    latest, today = (now + datetime.timedelta(hours=14)).date(), now.date()
    check_begun(latest.isoformat())
    check_night(today.isoformat())
    for check, last in ((check_begun, latest), (check_night, today)):
        with pytest.raises(UserError, match="lies in the future"):
            check((last + datetime.timedelta(days=2)).isoformat())


def test_our_own_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.pull.pull", lambda run: 1 / 0)
    monkeypatch.setenv("LOOKALIKE_LAKE", (tmp_path / "lake").as_uri())
    monkeypatch.setenv("LOOKALIKE_LOGS", str(tmp_path / "logs"))
    with pytest.raises(ZeroDivisionError):
        step.main("pull", ["--run", RUN])
    assert "ZeroDivisionError" in (tmp_path / f"logs/{RUN}/pull.jsonl").read_text()


def test_a_name_that_is_none_is_said_once_and_nothing_of_it_steers_the_terminal(capfd):
    assert step.main("pull", ["--run", "2026/\x1b[31m"]) == 64
    said = capfd.readouterr()
    assert (said.out, said.err.count("is no logical date")) == ("", 1)
    assert "\x1b" not in said.err
