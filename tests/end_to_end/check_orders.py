"""Whatever runs beside what: nights, a training, a backfill, a rollback and a prune, two at a time: `make chaos`.

From one state (two nights published, the second live) every two of them start at once, on one lake and one store, while
readers ask as fast as they can. Each pair must end in what one after the other would give, in either order, and every
answer that a reader got must be one that some run gives by itself.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from infra import embedded, store
from infra.lake import Lake
from infra.settings import read_settings
from jobs.run import STEPS, Run, check_chain
from tests.catalogues import good_files, zip_bytes

PRODUCTS = 120
LIVE, BEFORE = "2026-01-10", "2026-01-09"
CATALOGUES = {BEFORE: 1, LIVE: 7, "2026-01-11": 13, "2026-01-12": 19, "2026-01-08": 25}
"""Night → the first product id of its catalogue: each has some products that the others lack."""
PUBLISHED = {"night": "2026-01-11", "next night": "2026-01-12"}
SETTINGS = {"LOOKALIKE_INPUT_HEIGHT": "32", "LOOKALIKE_INPUT_WIDTH": "32", "LOOKALIKE_CELL_MIN": "20"}
TRIES, WAIT_S = 3, 30
"""As Airflow would: a step that ended with a passing failure is tried again after a while."""
PRUNE = """
import pathlib, sys
from infra import store
with store.connect("", pathlib.Path("var/store")) as connection:
    store.prune(connection, 2)
"""


def copied(start: Path, folder: Path) -> Path:
    """A copy of a lake and its store; whose the files are stays, too: where root tests, the server is another user."""
    subprocess.run(["cp", "-a", start, folder], check=True)
    return folder


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOOKALIKE_", "AIRFLOW"))}
    return clean | SETTINGS | {"LOOKALIKE_LOGS": str(folder / "var/logs")}


def run(folder: Path, *command: str) -> int:
    with (folder / "log").open("a") as log:
        return subprocess.run(command, cwd=folder, env=environment(folder), stdout=log, stderr=log).returncode


def lookalike(folder: Path, *arguments: str) -> int:
    return run(folder, str(Path(sys.executable).parent / "lookalike"), *arguments)


def try_step(folder: Path, step: str, *arguments: str) -> int:
    """The exit code of a step's last try."""
    for again in range(TRIES):
        time.sleep(WAIT_S if again else 0)
        code = lookalike(folder, "step", step, *arguments)
        if code != 75:
            break
    return code


def refresh(folder: Path, name: str) -> int:
    """A night, step by step; the exit code of the one that it ended with."""
    catalogue = folder / f"{name}.zip"
    catalogue.write_bytes(zip_bytes(good_files(PRODUCTS, CATALOGUES[name])))
    codes = (try_step(folder, step, "--run", name, "--dataset", str(catalogue)) for step in STEPS)
    return next(filter(None, codes), 0)


OPERATIONS = {
    "night": lambda folder: refresh(folder, "2026-01-11"),
    "next night": lambda folder: refresh(folder, "2026-01-12"),
    "backfill": lambda folder: refresh(folder, "2026-01-08"),
    "training": lambda folder: try_step(folder, "train_embedding", "--run", "latest"),
    "rollback": lambda folder: lookalike(folder, "rollback"),
    "prune": lambda folder: run(folder, sys.executable, "-c", PRUNE),
}


def answers(connection) -> dict[str, list]:
    """What the live run answers about each of its products, with its filters and without."""
    products = connection.execute('SELECT product_id, "baseColour" FROM lookalike.live_products').fetchall()
    asked = "SELECT item, score FROM lookalike.similar_items(%s, %s)"
    return {
        product: [
            connection.execute(asked, (product, json.dumps(filters))).fetchall()
            for filters in ({}, {"baseColour": colour})
        ]
        for product, colour in products
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    assert [refresh(folder, name) for name in (BEFORE, LIVE)] == [0, 0], (folder / "log").read_text()
    return folder


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory) -> dict[str, dict[str, list]]:
    """Night → the answers of that run where nothing ran beside it."""
    found = {}
    for name in CATALOGUES:
        folder = copied(start, tmp_path_factory.mktemp("alone") / name)
        if name not in (BEFORE, LIVE):
            catalogue = folder / f"{name}.zip"
            catalogue.write_bytes(zip_bytes(good_files(PRODUCTS, CATALOGUES[name])))
            for step in STEPS:
                reason = ["--publish-anyway", "to know its answers"] if step == "publish" else []
                arguments = ["step", step, "--run", name, "--dataset", str(catalogue), *reason]
                assert lookalike(folder, *arguments) == 0, (folder / "log").read_text()
        if name == BEFORE:
            assert lookalike(folder, "rollback") == 0
        with psycopg.connect(embedded.uri(folder / "var/store"), autocommit=True) as connection:
            found[name] = answers(connection)
    return found


class Readers:
    """Threads that ask about random products as fast as they can, and keep what was answered."""

    def __init__(self, uri: str, products: list[str]) -> None:
        self.uri, self.products, self.ended = uri, products, threading.Event()
        self.problems: list[str] = []
        self.seen: set[tuple[str, str]] = set()
        self.count = 0
        self.threads = [threading.Thread(target=self.ask, args=(place,)) for place in range(2)]

    def ask(self, place: int) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            for product in itertools.cycle(self.products[place::2]):
                if self.ended.is_set():
                    return
                try:
                    rows = connection.execute(
                        "SELECT item, score FROM lookalike.similar_items(%s)", (product,)
                    ).fetchall()
                    self.seen.add((product, json.dumps(rows)))
                    self.count += 1
                except psycopg.Error as error:
                    if "the live run has no product" not in str(error):  # a product that only another night has
                        self.problems.append(str(error))

    def __enter__(self) -> "Readers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def may_be_live(pair: tuple[str, str]) -> set[str]:
    """Runs that are live in the end, if one of the two runs after the other."""
    nights = [PUBLISHED[name] for name in pair if name in PUBLISHED]
    if "rollback" not in pair:
        return {max(nights, default=LIVE)}
    return {LIVE, *nights} if nights else {BEFORE}


@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(OPERATIONS, 2)), ids=" and ".join)
def test_two_at_once_end_in_what_one_after_the_other_would_give(start, alone, tmp_path, pair):
    folder = copied(start, tmp_path / "both")
    uri = embedded.uri(folder / "var/store")
    codes: list[tuple[str, int]] = []

    def work(name: str) -> None:
        codes.append((name, OPERATIONS[name](folder)))

    threads = [threading.Thread(target=work, args=(name,)) for name in pair]
    with Readers(uri, sorted(alone[LIVE])) as readers:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    log = (folder / "log").read_text()
    with store.connect("", folder / "var/store") as connection:
        live, held = store.live(connection), [hold.run for hold in store.holds(connection)]
        found = answers(connection)
    assert live.run in may_be_live(pair), log
    assert found == alone[live.run]
    assert len(held) == ("rollback" in pair)
    assert live.content_hash not in {hold.content_hash for hold in _holds(folder)}
    assert readers.problems == []
    assert readers.count > 100
    possible = {(product, json.dumps(lists[0])) for lists_of in alone.values() for product, lists in lists_of.items()}
    assert readers.seen <= possible
    lake = Lake((folder / "var/lake").as_uri())
    for name in [PUBLISHED[each] for each in pair if each in PUBLISHED]:
        check_chain(Run(name, read_settings(lake=lake.uri), lake), STEPS[:-1])
    if pair == ("rollback", "rollback"):  # there is one run to go back to
        assert sorted(code for _, code in codes) == [0, 64], log
        return
    expected = {"backfill": {64}, "night": {0, 64}, "next night": {0}, "training": {0}, "rollback": {0}, "prune": {0}}
    assert all(code in expected[name] for name, code in codes), (codes, log)


def _holds(folder: Path) -> list[store.Hold]:
    with store.connect("", folder / "var/store") as connection:
        return store.holds(connection)
