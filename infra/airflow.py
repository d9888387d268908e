"""Airflow on one machine: its environment, one run in the foreground, and the scheduler and UI in the background."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import requests

from infra.errors import UserError
from infra.sealing import LOOPBACK, sealed
from infra.settings import Settings, variables

DAG = "nightly_refresh"
AIRFLOW = (sys.executable, "-m", "airflow")
DATABASE = "airflow.db"
START_S = 180
"""Seconds that the UI may take to answer for the first time; it creates its database then."""
STOP_S = 20
"""Seconds that a process may take to end when interrupted."""


def home_of(settings: Settings) -> Path:
    """Folder of the Airflow that the settings mean: a given one, or ours in the current folder."""
    return Path(settings.airflow_home or Path.cwd() / "var/airflow")


def environment(settings: Settings, dags: Path) -> dict[str, str]:
    """Environment of every Airflow process on this machine: the caller's, sealed, and what the settings say.

    Settings that name places go along, made absolute, because Airflow runs tasks in folders of their own.
    """
    executables = str(Path(sys.executable).parent)
    ours = {
        "AIRFLOW_HOME": str(home_of(settings)),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TIMEZONE": "utc",  # a run is named by its date in that zone
        "AIRFLOW__CORE__PARALLELISM": str(os.cpu_count() or 2),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(settings.logs / "airflow"),
        "AIRFLOW__API__PORT": str(settings.port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{settings.port}/execution/",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": settings.spark}),
        "PATH": f"{executables}:{os.environ.get('PATH', '')}",
    }
    return sealed(os.environ) | ours | variables(settings)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep others from running a refresh with the same Airflow: its database is a file, for one at a time.

    Raises:
        UserError: one runs already; names its process.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "refresh.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"another refresh runs here, process {lock.read().strip() or 'unknown'}",
                where=str(home),
                remedy="wait for it, or work in another folder",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def migrate(settings: Settings, env: dict[str, str], log: Path) -> None:
    """Create or upgrade the database of our Airflow, once a version of it: the check alone takes 7 s.

    That of somebody's own Airflow is left as it is: `check` has found it ready.

    Raises:
        UserError: it cannot be done; the log says why.
    """
    home = home_of(settings)
    marker = home / f"migrated-{version('apache-airflow')}"
    if settings.airflow_home or (marker.exists() and (home / DATABASE).exists()):
        return
    home.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        done = subprocess.run([*AIRFLOW, "db", "migrate"], env=env, stdout=stream, stderr=stream)
    if done.returncode:
        raise UserError("Airflow's database cannot be prepared", where=str(log), remedy="read the end of that log")
    marker.touch()


def check(settings: Settings, env: dict[str, str]) -> str:
    """The version of Airflow and its folder, for people.

    Raises:
        UserError: it is somebody's own, and its database is not that of this release; names the command for that.
    """
    home, release = home_of(settings), version("apache-airflow")
    if settings.airflow_home and not _is_ready(home, env):
        program = Path(sys.executable).parent / "airflow"
        raise UserError(
            f"its database is not prepared for Airflow {release}, and an Airflow of your own is never migrated unasked",
            where=f"LOOKALIKE_AIRFLOW_HOME={home}",
            remedy="unset it to use ours in var/airflow, or back that database up and run "
            f"`AIRFLOW_HOME={shlex.quote(str(home))} {shlex.quote(str(program))} db migrate`",
        )
    return f"{release} in {home}"


def _is_ready(home: Path, env: dict[str, str]) -> bool:
    """Whether its database is that of this release; looks without making anything, as Airflow itself would."""
    config = configparser.RawConfigParser(strict=False)
    if not config.read(home / "airflow.cfg"):
        return False
    place = config.get("database", "sql_alchemy_conn", fallback="")
    if place.startswith("sqlite:///") and not Path(place.removeprefix("sqlite:///")).exists():
        return False
    command = [*AIRFLOW, "db", "check-migrations", "--migration-wait-timeout", "0"]
    return subprocess.run(command, env=env, capture_output=True).returncode == 0


def test_run(run: str, params: dict[str, object], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start one run of the nightly DAG in the foreground of a process, without a scheduler; output goes to `log`."""
    stream, date = log.open("ab"), f"{run}T00:00:00+00:00"  # without a zone, Airflow would take that of its settings
    return subprocess.Popen(
        [*AIRFLOW, "dags", "test", DAG, date, "--conf", json.dumps(params)],
        env=env,
        stdout=stream,
        stderr=stream,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a run that `test_run` started, with the step it is at."""
    _end(psutil.Process(process.pid))
    process.wait()


def _end(process: psutil.Process) -> None:
    """Interrupt a process and its descendants, whatever sessions they opened; kill what is left after a while."""
    family = [process, *process.children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=STOP_S)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def up(env: dict[str, str], home: Path, log: Path) -> tuple[str, str, str]:
    """Start scheduler, DAG processor and UI in the background and wait until they answer: (address, user, password).

    Raises:
        UserError: they already run, the port is taken, or they do not come up.
    """
    if _running(home):
        raise UserError("Airflow already runs here", where=str(_pid_file(home)), remedy="`make down` stops it")
    address = f"http://localhost:{env['AIRFLOW__API__PORT']}"
    if _healthy(address):
        raise UserError(
            f"something else answers at {address}",
            where="LOOKALIKE_PORT",
            remedy="stop it, or choose another port: LOOKALIKE_PORT=8081 make up",
        )
    home.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*AIRFLOW, "standalone"],
            env=env,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    _pid_file(home).write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if _healthy(address):
            user, password = next(iter(json.loads(_password_file(home).read_text()).items()))
            return address, user, password
        time.sleep(1)
    down(home)
    raise UserError(
        "Airflow did not come up", where=str(log), remedy="read the end of that log, then run `make up` again"
    )


def down(home: Path) -> bool:
    """Stop what `up` started, with its children; False where nothing ran."""
    process = _running(home)
    _pid_file(home).unlink(missing_ok=True)
    if process is None:
        return False
    _end(process)
    return True


def _pid_file(home: Path) -> Path:
    return home / "standalone.pid"


def _password_file(home: Path) -> Path:
    return home / "simple_auth_manager_passwords.json.generated"


def _running(home: Path) -> psutil.Process | None:
    """The process that `up` started, told from a later one with the same number by its start time."""
    try:
        pid, created = _pid_file(home).read_text().split()
        process = psutil.Process(int(pid))
        return process if abs(process.create_time() - float(created)) < 1 else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/api/v2/monitor/health", timeout=5).ok
    except requests.RequestException:
        return False
