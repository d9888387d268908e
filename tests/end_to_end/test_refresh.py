"""`lookalike refresh` and `up` as a person runs them: the DAG by Airflow, Spark, the lake and the embedded store."""

import csv
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest
import requests

from infra.lake import Lake
from jobs.features import to_matrix
from jobs.run import STEPS
from ml.similarity import to_embedding
from tests.end_to_end.airflow_api import DAG, came_up, run_of, run_to_its_end, seconds_of, tasks_of
from tests.end_to_end.test_s3 import REFRESH
from tests.field.test_surroundings import foreign_shell

REAL = Path(__file__).resolve().parents[3] / "shared/data/fashion-product-images-small.zip"
RUN = "2026-01-31"
WAIT_S = 600


def lookalike(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOOKALIKE_", "AIRFLOW"))}
    command = [str(Path(sys.executable).parent / "lookalike"), *arguments]
    return subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True)


def start_lookalike(folder: Path, *arguments: str, **env: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOOKALIKE_", "AIRFLOW"))}
    command = [str(Path(sys.executable).parent / "lookalike"), *arguments]

    def hear_signals() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which whatever runs in a shell's background ignores

    return subprocess.Popen(
        command, cwd=folder, env=clean | env, stdout=subprocess.PIPE, text=True, preexec_fn=hear_signals
    )


def environments() -> list[str]:
    """The environment of each process of this machine that Airflow or a step belongs to."""
    return [
        str(p.info["environ"]) for p in psutil.process_iter(["environ"]) if "AIRFLOW_HOME" in str(p.info["environ"])
    ]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def result(folder: Path, step: str, run: str = RUN) -> dict:
    return json.loads((folder / f"var/lake/runs/{run}/{step}.json").read_text())


def lake(folder: Path) -> Lake:
    return Lake((folder / "var/lake").as_uri())


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The built-in sample, refreshed once, from the shell of somebody with an Airflow, a Spark, a Java and a proxy.

    Its folder and what the command printed.
    """
    folder, their = tmp_path_factory.mktemp("sample"), tmp_path_factory.mktemp("their")
    done = lookalike(folder, "refresh", "--run", RUN, **foreign_shell(their))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [*their.iterdir()] == []
    return folder, done.stdout


def test_a_refresh_shows_a_line_a_step_a_table_and_what_to_try_next(sample):
    folder, shown = sample
    for step in ("pull", "catalog", "embed", "classify", "candidates", "similar", "evaluate", "publish"):
        assert re.search(rf"^✓ {step} .* s  ", shown, re.MULTILINE)
    report = re.search(r"^report: +(\S+)$", shown, re.MULTILINE)[1]
    assert Path(report).stat().st_size > 10_000
    assert re.search(r"^try: .*lookalike query \d+ --filter baseColour=\w+$", shown, re.MULTILINE)
    assert re.search(r"^page: +make serve$", shown, re.MULTILINE)
    assert {"rows", "rejects", "seconds"} <= set(shown.split())


def test_the_sample_has_enough_of_everything(sample):
    folder, _ = sample
    assert 1950 <= result(folder, "catalog")["figures"]["products"] <= 2000
    assert result(folder, "embed")["figures"]["embedded"] > 1900
    assert result(folder, "classify")["figures"]["test_accuracy"] > 0.9
    assert result(folder, "evaluate")["figures"]["failed_gates"] == 0


def test_lists_equal_a_numpy_recomputation_from_the_features_table(sample):
    folder, _ = sample
    tables = lake(folder)
    products = tables.table("products").read(["product_id", "image_sha256"])
    rows = tables.table("features").read(["image_sha256", "average"])
    place = pc.index_in(products["image_sha256"], value_set=rows["image_sha256"].combine_chunks()).to_numpy()
    embeddings = to_embedding(to_matrix(rows["average"])[place]).astype(np.float64)
    ids = products["product_id"].to_numpy()
    shortlists = tables.table("shortlists").read().to_pylist()
    assert len(shortlists) == len(ids)
    by_product = {row["product_id"]: row for row in shortlists}
    for query in range(0, len(ids), 97):
        scores = embeddings @ embeddings[query]
        scores[query] = -2
        order = np.lexsort((ids.astype(np.int64), -scores))[:10]
        assert by_product[ids[query]]["items"][:10] == ids[order].tolist()
        assert by_product[ids[query]]["scores"][:10] == scores[order].tolist()


def test_a_second_refresh_embeds_nothing_and_publishes_nothing_anew(sample):
    folder, _ = sample
    done = lookalike(folder, "refresh", "--run", "2026-02-01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(folder, "embed", "2026-02-01")["figures"]["embedded"] == 0
    skipped = [
        step for step in ("catalog", "embed", "similar", "publish") if result(folder, step, "2026-02-01")["skipped"]
    ]
    assert skipped == ["catalog", "embed", "similar", "publish"]
    assert re.search(r"live +2026-02-01 ", lookalike(folder, "status").stdout)


def test_query_answers_what_a_cell_covers_and_what_none_does_alike(sample):
    folder, _ = sample
    product = lake(folder).table("products").read(["product_id"])["product_id"][5].as_py()
    looked_up = lookalike(folder, "query", product).stdout
    assert "read off the shortlist" in looked_up
    assert len(re.findall(r"^ ?\d+ +\d+ +0\.\d{4}", looked_up, re.MULTILINE)) == 10
    wanted = ("--filter", "baseColour=Blue,Black", "--filter", "gender!=Women", "--exclude", "1,2")
    compared = lookalike(folder, "query", product, *wanted).stdout
    assert "baseColour=Blue,Black and gender!=Women" in compared
    assert re.search(r"and \d+ products compared", compared)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("query", "1"), "no product 1"),
        (("query", "{product}", "--filter", "size=XL"), "known fields: gender, masterCategory"),
        (("query", "{product}", "--filter", "Blue"), "write field=value"),
        (("rollback",), "there is no run to go back to"),
        (("step", "embd", "--run", RUN), "choose one of pull, catalog"),
        (("refresh", "--run", "yesterday"), "give a date such as"),
        (("refresh", "--run", "20260131"), "in the form YYYY-MM-DD"),
        (("step", "pull", "--run", "2026-W05-6"), "in the form YYYY-MM-DD"),
        (("evaluate", "--run", "20260131"), "in the form YYYY-MM-DD"),
        (("refresh", "--run", "2999-01-31"), "lies in the future"),
    ],
)
def test_a_users_mistake_ends_in_a_message_with_its_remedy_and_no_traceback(sample, arguments, expected):
    folder, _ = sample
    product = lake(folder).table("products").read(["product_id"])["product_id"][0].as_py()
    done = lookalike(folder, *(argument.format(product=product) for argument in arguments))
    assert done.returncode == 64
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr + done.stdout


def test_a_failed_step_says_what_failed_where_the_log_is_and_how_to_resume_and_then_resumes(sample):
    folder, _ = sample
    (folder / "source/images").mkdir(parents=True)
    broken = lookalike(folder, "refresh", "--dataset", "source", "--run", "2026-02-03")
    assert broken.returncode == 64
    assert "pull failed" in broken.stdout or "catalog failed" in broken.stdout
    assert re.search(r"log: +\S+\.jsonl", broken.stdout)
    assert "resume: make refresh" in broken.stdout
    assert "Traceback" not in broken.stdout


def test_a_refresh_shows_no_credentials_lets_no_second_one_in_and_ends_as_its_step_did(tmp_path):
    met, secret = [], uuid.uuid4().hex

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            met.append(subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True).stdout)
            met.append(lookalike(tmp_path, "refresh", "--run", RUN))
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://user:{secret}@127.0.0.1:{server.server_port}/a.zip?X-Amz-Signature={secret}"
        done = lookalike(tmp_path, "refresh", "--run", RUN, LOOKALIKE_DATASET=address)
        server.shutdown()
    processes, second = met
    assert (done.returncode, second.returncode) == (64, 64)
    assert f"refresh of http://127.0.0.1:{server.server_port}/a.zip as run" in done.stdout
    assert "pull failed: the source http://127.0.0.1" in done.stdout
    first = re.search(r"another refresh or `make up` is at work here, process (\d+)", second.stderr)[1]
    assert f"refresh --run {RUN}" in processes
    assert int(first) > 1
    assert "-m jobs.pull" in processes
    files = [file for file in (tmp_path / "var").rglob("*") if file.is_file()]
    assert {"airflow.log", "airflow.db"} <= {file.name for file in files}
    said = [done.stdout, done.stderr, processes, *(file.read_bytes().decode(errors="replace") for file in files)]
    assert not any(secret in text for text in said)


def test_ctrl_c_ends_a_refresh_and_its_step(sample):
    folder, _ = sample
    asked = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.set()
            self.rfile.read()  # until the step that asks is gone

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}/a.zip"
        refresh = start_lookalike(folder, "refresh", "--run", "2026-02-02", LOOKALIKE_DATASET=address)
        asked.wait()
        refresh.send_signal(signal.SIGINT)
        assert (refresh.wait(), "resumes" in refresh.stdout.read()) == (130, True)
        server.shutdown()
    assert not any(str(folder) in line for line in environments())


# `make up` ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airflow(sample):
    """(folder, address, session with a token) of an Airflow started by `lookalike up` on a free port."""
    folder, _ = sample
    # Unpausing would also start the latest night: without schedules only the run that the test triggers exists.
    config = folder / "var/airflow/airflow.cfg"
    config.write_text(config.read_text().replace("\nuse_job_schedule = True\n", "\nuse_job_schedule = False\n"))
    env = {"LOOKALIKE_PORT": free_port(), "LOOKALIKE_DATASET": "sample:300?seed=1"}
    shown = lookalike(folder, "up", http_proxy="http://127.0.0.1:9", **env)  # a proxy that nothing here may be asked of
    assert shown.returncode == 0, shown.stdout + shown.stderr
    yield folder, *came_up(shown.stdout)
    lookalike(folder, "down", **env)


def test_without_a_token_the_api_answers_nothing(airflow):
    _, address, _ = airflow
    assert requests.get(f"{address}{DAG}", timeout=30).status_code == 401


def test_the_ui_shows_each_run_as_it_was(airflow, sample):
    _, address, session = airflow
    _, shown = sample
    good, second, ended = (run_of(session, address, date) for date in (RUN, "2026-02-01", "2026-02-02"))
    assert [run["state"] for run in (good, second, ended)] == ["success", "success", "failed"]
    wall = float(re.search(r"^wall time +([\d.]+) s$", shown, re.MULTILINE)[1])
    assert 0 < seconds_of(good) <= wall
    tasks = tasks_of(session, address, good)
    assert set(tasks) == set(STEPS)
    for step, task in tasks.items():
        assert task["state"] == "success"
        assert good["start_date"] <= task["start_date"] <= task["end_date"] <= good["end_date"]
        assert 0 < seconds_of(task) <= wall
        assert any('"event": "finished"' in line for line in task["log"])
        place = f"{address}{DAG}/dagRuns/{good['dag_run_id']}/taskInstances/{step}/xcomEntries/summary"
        summary = session.get(place, timeout=60).json()["value"].strip('"')
        assert summary in shown
    states = {step: task["state"] for step, task in tasks_of(session, address, ended).items()}
    assert states == {step: "failed" if step == "pull" else "skipped" for step in STEPS}


def test_a_run_triggered_in_the_ui_publishes_and_shows_its_figures(airflow):
    folder, address, session = airflow
    run, state = run_to_its_end(session, address, "2026-02-04", WAIT_S)
    assert state == "success"
    assert result(folder, "publish", "2026-02-04")["rows"] > 250
    entry = session.get(f"{run}/taskInstances/embed/xcomEntries/return_value", timeout=30).json()["value"]
    figures = json.loads(entry) if isinstance(entry, str) else entry
    assert figures["figures"]["embedded"] == result(folder, "embed", "2026-02-04")["figures"]["embedded"] > 250


def test_a_refresh_is_made_by_the_scheduler_that_runs_and_only_with_its_settings(airflow):
    folder, address, session = airflow
    other = lookalike(folder, "refresh", "--run", "2026-02-05", LOOKALIKE_CELL_MIN="7")
    assert other.returncode == 64
    assert "LOOKALIKE_CELL_MIN" in other.stderr
    failed = lookalike(folder, "refresh", "--run", "2026-02-05", LOOKALIKE_DATASET="sample:none")
    assert failed.returncode == 64, failed.stdout + failed.stderr
    assert "pull failed" in failed.stdout
    run = run_of(session, address, "2026-02-05")
    assert (run["state"], run["conf"]["dataset"]) == ("failed", "sample:none")
    tasks = tasks_of(session, address, run)
    assert (tasks["pull"]["state"], tasks["pull"]["try_number"]) == ("failed", 1)
    assert any("pull failed: " in line for line in tasks["pull"]["log"])
    assert 0 < seconds_of(tasks["pull"]) <= seconds_of(run)
    assert session.get(f"{address}{DAG}", timeout=30).json()["is_paused"] is False  # as the test before left it


def test_down_leaves_no_process(airflow):
    folder, _, _ = airflow
    assert "stopped" in lookalike(folder, "down").stdout
    left = [p.info["pid"] for p in psutil.process_iter(["pid", "environ"]) if str(folder) in str(p.info["environ"])]
    assert left == []
    assert "not running" in lookalike(folder, "down").stdout


# Real products --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The first 800 products of the real catalogue, refreshed once, by the steps alone: Airflow's part is above."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here: the real catalogue is not part of the project")
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(REAL) as source, zipfile.ZipFile(folder / "catalogue.zip", "w") as target:
        header, *lines = source.read("styles.csv").decode().splitlines()[:801]
        target.writestr("styles.csv", "\n".join([header, *lines]))
        members = set(source.namelist())
        for line in lines:
            name = f"images/{line.split(',')[0]}.jpg"
            if name in members:
                target.writestr(name, source.read(name))
    command = [sys.executable, "-c", REFRESH, RUN, "pull=catalogue.zip", *STEPS[1:]]
    settings = {"LOOKALIKE_CELL_MIN": "80", "LOOKALIKE_LOGS": "logs"}
    done = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_eight_hundred_real_products_are_refreshed_and_every_one_answers(real):
    rows = csv.DictReader(io.StringIO(zipfile.ZipFile(real / "catalogue.zip").read("styles.csv").decode()))
    asked = len(list(rows))
    catalogued = result(real, "catalog")
    assert catalogued["figures"]["products"] + catalogued["rejects"] == asked == 800
    cells = lake(real).table("cells").read().to_pylist()
    assert len(cells) > 5
    assert result(real, "publish")["rows"] == catalogued["figures"]["products"]


def test_real_neighbours_mostly_share_their_articletype(real):
    types = dict(
        zip(*lake(real).table("products").read(["product_id", "articleType"]).to_pydict().values(), strict=True)
    )
    shortlists = lake(real).table("shortlists").read().to_pylist()
    same = [types[item] == types[each["product_id"]] for each in shortlists for item in each["items"][:10]]
    assert np.mean(same) > 0.5
