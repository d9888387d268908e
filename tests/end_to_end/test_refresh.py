"""`lookalike refresh` as a person runs it: the whole DAG through Airflow, Spark, the lake and the embedded store."""

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

from infra.lake import Lake
from jobs.features import to_matrix
from jobs.run import STEPS
from ml.similarity import to_embedding
from tests.end_to_end.airflow_api import DAG, came_up, run_of, seconds_of, tasks_of
from tests.end_to_end.test_s3 import REFRESH
from tests.field.test_surroundings import foreign_shell

REAL = Path(__file__).resolve().parents[3] / "shared/data/fashion-product-images-small.zip"
RUN = "2026-01-31"


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
    assert re.search(r"^try: .*lookalike query \d+ --filter baseColour=Blue$", shown, re.MULTILINE)
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
    lists = tables.table("lists").read(where=[("cell", "=", 0)]).to_pylist()
    assert len(lists) == len(ids)
    by_product = {row["product_id"]: row for row in lists}
    for query in range(0, len(ids), 97):
        scores = embeddings @ embeddings[query]
        scores[query] = -2
        order = np.lexsort((ids, -scores))[:10]
        assert by_product[ids[query]]["items"] == ids[order].tolist()
        assert by_product[ids[query]]["scores"] == scores[order].tolist()


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


def test_query_answers_precomputed_and_computed_filters_alike(sample):
    folder, _ = sample
    product = lake(folder).table("products").read(["product_id"])["product_id"][5].as_py()
    looked_up = lookalike(folder, "query", str(product)).stdout
    assert "precomputed" in looked_up
    assert len(re.findall(r"^ ?\d+ +\d+ +0\.\d{4}", looked_up, re.MULTILINE)) == 10
    on_read = lookalike(folder, "query", str(product), "--filter", "baseColour=Blue", "--filter", "gender=Men").stdout
    assert "computed on read" in on_read


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


def test_a_failed_step_says_what_failed_where_the_log_is_and_how_to_resume_and_then_resumes(tmp_path):
    (tmp_path / "source/images").mkdir(parents=True)
    arguments = ("refresh", "--dataset", "source", "--run", RUN)
    broken = lookalike(tmp_path, *arguments)
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


def test_ctrl_c_ends_a_refresh_and_its_step_and_the_ui_shows_each_run_as_it_was(sample):
    folder, shown = sample
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
    port = free_port()
    shown_of_up = lookalike(folder, "up", LOOKALIKE_PORT=port)
    try:
        address, session = came_up(shown_of_up.stdout)
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
    finally:
        lookalike(folder, "down", LOOKALIKE_PORT=port)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The first 2,000 products of the real catalogue, refreshed once, by the steps alone: Airflow's part is above."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here: the real catalogue is not part of the project")
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(REAL) as source, zipfile.ZipFile(folder / "catalogue.zip", "w") as target:
        header, *lines = source.read("styles.csv").decode().splitlines()[:2001]
        target.writestr("styles.csv", "\n".join([header, *lines]))
        members = set(source.namelist())
        for line in lines:
            name = f"images/{line.split(',')[0]}.jpg"
            if name in members:
                target.writestr(name, source.read(name))
    command = [sys.executable, "-c", REFRESH, RUN, "pull=catalogue.zip", *STEPS[1:]]
    settings = {"LOOKALIKE_CELL_MIN": "200", "LOOKALIKE_LOGS": "logs"}
    done = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_two_thousand_real_products_are_refreshed_and_every_one_answers(real):
    rows = csv.DictReader(io.StringIO(zipfile.ZipFile(real / "catalogue.zip").read("styles.csv").decode()))
    asked = len(list(rows))
    catalogued = result(real, "catalog")
    assert catalogued["figures"]["products"] + catalogued["rejects"] == asked == 2000
    cells = lake(real).table("cells").read().to_pylist()
    assert len(cells) > 5
    assert result(real, "publish")["rows"] == len(cells) * catalogued["figures"]["products"]


def test_real_neighbours_mostly_share_their_articletype(real):
    types = dict(
        zip(*lake(real).table("products").read(["product_id", "articleType"]).to_pydict().values(), strict=True)
    )
    lists = lake(real).table("lists").read(where=[("cell", "=", 0)]).to_pylist()
    same = [types[item] == types[each["product_id"]] for each in lists for item in each["items"]]
    assert np.mean(same) > 0.5
