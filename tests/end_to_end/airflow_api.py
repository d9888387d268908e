"""Runs of the DAG through Airflow's REST API: triggered as the UI does it, and read as the UI shows them."""

import re
import time
from datetime import datetime

import requests

DAG = "/api/v2/dags/nightly_refresh"
TIMEOUT_S = 60


def signed_in(address: str, user: str, password: str) -> requests.Session:
    """A session that has its token."""
    session, login = requests.Session(), {"username": user, "password": password}
    token = session.post(f"{address}/auth/token", json=login, timeout=TIMEOUT_S).json()["access_token"]
    session.headers["Authorization"] = f"Bearer {token}"
    return session


def run_to_its_end(session: requests.Session, address: str, date: str, seconds: float, about=str) -> tuple[str, str]:
    """Trigger the run of `date` as soon as the DAG is there; returns its own address and the state that it ended in."""
    dag, ended = f"{address}{DAG}", ("success", "failed")
    wait_for(lambda: session.get(dag, timeout=TIMEOUT_S).ok, seconds, about)
    run = session.post(f"{dag}/dagRuns", json={"logical_date": f"{date}T00:00:00Z"}, timeout=TIMEOUT_S).json()
    session.patch(dag, json={"is_paused": False}, timeout=TIMEOUT_S)
    place = f"{dag}/dagRuns/{run['dag_run_id']}"

    def state():
        found = session.get(place, timeout=TIMEOUT_S).json().get("state")
        return found if found in ended else None

    return place, wait_for(state, seconds, about)


def wait_for(what, seconds: float, about=str):
    """What `what()` gives once it is true; after `seconds` an error that ends with `about()`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(1)
    raise AssertionError(f"nothing after {seconds} s\n{about()}")


def came_up(shown: str) -> tuple[str, requests.Session]:
    """(address, session with a token) of the Airflow that `lookalike up` says it has started."""
    address, user, password = re.search(r"(http://\S+)/dags.*?login: +(\S+) / (\S+)", shown, re.DOTALL).groups()
    return address, signed_in(address, user, password)


def run_of(session: requests.Session, address: str, date: str) -> dict:
    """The one run whose logical date is that day's midnight."""
    asked = {"logical_date_gte": f"{date}T00:00:00Z", "logical_date_lte": f"{date}T00:00:00Z"}
    return session.get(f"{address}{DAG}/dagRuns", params=asked, timeout=TIMEOUT_S).json()["dag_runs"][0]


def tasks_of(session: requests.Session, address: str, run: dict) -> dict[str, dict]:
    """Task → what the UI shows of its first try in a run, with the lines of its `log`."""
    place = f"{address}{DAG}/dagRuns/{run['dag_run_id']}/taskInstances"
    tasks = session.get(place, timeout=TIMEOUT_S).json()["task_instances"]
    for task in tasks:
        answer = session.get(
            f"{place}/{task['task_id']}/logs/1", timeout=TIMEOUT_S, headers={"Accept": "application/json"}
        )
        task["log"] = [line["event"] if isinstance(line, dict) else line for line in answer.json().get("content", [])]
    return {task["task_id"]: task for task in tasks}


def seconds_of(shown: dict) -> float:
    """Duration of a run or task by its start and end; the one that the UI draws is the same."""
    start, end = (datetime.fromisoformat(shown[name]) for name in ("start_date", "end_date"))
    seconds = (end - start).total_seconds()
    assert abs(seconds - shown["duration"]) < 0.01
    return seconds
