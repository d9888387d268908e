"""A run of the DAG through Airflow's REST API, as the UI triggers one."""

import time

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
