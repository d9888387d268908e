"""Airflow on one machine: its environment, one run in the foreground, and the scheduler and UI in the background."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import requests

from infra.errors import UserError
from infra.places import shown
from infra.sealing import LOOPBACK, sealed
from infra.settings import Settings, variables

DAG = "nightly_refresh"
OURS = (DAG, "train_embedding", "train_look", "look_photos")
AIRFLOW = (sys.executable, "-m", "airflow")
DATABASE = "airflow.db"
KEY = "jwt_secret"
"""File with the key by which Airflow's processes trust each other's tasks."""
DATASET = "LOOKALIKE_DATASET"
NO_MATTER = {"LOOKALIKE_PORT"}
"""Settings that steps do without."""
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
        "AIRFLOW__API_AUTH__JWT_SECRET_CMD": f"cat {shlex.quote(str(home_of(settings) / KEY))}",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": settings.spark}),
        "PATH": f"{executables}:{os.environ.get('PATH', '')}",
    }
    return sealed(os.environ) | ours | variables(settings)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep others from running a refresh, or starting a scheduler, with the same Airflow: one at a time makes its runs.

    Raises:
        UserError: one does already; names its process.
    """
    home.mkdir(parents=True, exist_ok=True)
    _keep_key(home)
    with (home / "refresh.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"another refresh or `make up` is at work here, process {lock.read().strip() or 'unknown'}",
                where=str(home),
                remedy="wait for it, or work in another folder",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _keep_key(home: Path) -> None:
    """Draw the key once: where somebody wrote `airflow.cfg`, each process of Airflow would draw one of its own."""
    with tempfile.NamedTemporaryFile("w", dir=home) as file:
        file.write(secrets.token_urlsafe(48))
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, home / KEY)


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
        UserError: it is somebody's own, and its database is not that of this release, or it has DAGs of its own, whose
            runs the scheduler of a refresh would take up.
    """
    home, release = home_of(settings), version("apache-airflow")
    if settings.airflow_home:
        where, database = f"LOOKALIKE_AIRFLOW_HOME={home}", _database(home)
        if not _is_ready(database, env):
            program = Path(sys.executable).parent / "airflow"
            raise UserError(
                f"its database is not prepared for Airflow {release}, and an Airflow of your own is never migrated "
                "unasked",
                where=where,
                remedy="unset it to use ours in var/airflow, or back that database up and run "
                f"`AIRFLOW_HOME={shlex.quote(str(home))} {shlex.quote(str(program))} db migrate`",
            )
        if others := _others(database):
            raise UserError(
                f"that Airflow has DAGs of its own, such as {others[0]}, whose runs a refresh would disturb",
                where=where,
                remedy="name a folder for Lookalike alone, or have its own scheduler run our DAGs (docs/platform.md)",
            )
    return f"{release} in {home}"


def _database(home: Path) -> str:
    """SQLAlchemy's address of the database that an Airflow's folder names; empty where it names none that is there."""
    config = configparser.RawConfigParser(strict=False)
    try:
        if not config.read(home / "airflow.cfg"):
            return ""
    except (configparser.Error, UnicodeDecodeError):
        return ""
    address = config.get("database", "sql_alchemy_conn", fallback=f"sqlite:///{home / DATABASE}")
    file = address.removeprefix("sqlite:///")
    return address if file == address or os.path.exists(file) else ""


def _is_ready(database: str, env: dict[str, str]) -> bool:
    """Whether a database is that of this release; looks without making anything, as Airflow itself would."""
    command = [*AIRFLOW, "db", "check-migrations", "--migration-wait-timeout", "0"]
    return bool(database) and subprocess.run(command, env=env, capture_output=True).returncode == 0


def _others(database: str) -> list[str]:
    """Names of the DAGs that are not ours."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(database)
    try:
        with engine.connect() as connection:
            names = connection.execute(sqlalchemy.text("SELECT dag_id FROM dag WHERE NOT is_stale ORDER BY dag_id"))
            return [name for (name,) in names if name not in OURS]
    finally:
        engine.dispose()


def start_run(run: str, params: dict[str, object], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start one run of the nightly DAG (infra.night); output goes to `log`.

    What `up` started makes it, if it runs. Else that process has a scheduler of its own, on a port of its own; steps
    take turns, as each plans for the whole machine, and no night begins by itself.

    Raises:
        UserError: what `up` started would make another run than the one asked for.
    """
    there = running(Path(env["AIRFLOW_HOME"]))
    if there:
        params = params | _dataset_param(env, there)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = env | {
            "AIRFLOW__API__PORT": port,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__PARALLELISM": "1",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # as long as the end of a task may go unnoticed
        }
    stream = log.open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "infra.night", run, json.dumps(params), str(int(there is None))],
        env=env,
        stdout=stream,
        stderr=stream,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _dataset_param(env: dict[str, str], there: psutil.Process) -> dict[str, object]:
    """The run's parameter that names its source where what `up` started has another one in its environment.

    Raises:
        UserError: other settings differ too, which are no parameters, or the source is nothing that may be shown.
    """
    theirs = there.environ()
    differing = {
        name for name in env.keys() | theirs if name.startswith("LOOKALIKE_") and env.get(name) != theirs.get(name)
    }
    differing -= NO_MATTER
    if differing <= {DATASET} and shown(env[DATASET]) == env[DATASET]:
        return {"dataset": env[DATASET]} if differing else {}
    raise UserError(
        f"the Airflow that `make up` started has other values of {', '.join(sorted(differing))}, and would use those",
        where=f"process {there.pid}",
        remedy="`make down` first, and `make up` again with these values if you need the UI",
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a run that `start_run` started, with the step it is at: the run is marked as failed first."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=2 * STOP_S)
    except subprocess.TimeoutExpired:
        end(psutil.Process(process.pid))
        process.wait()


def end(process: psutil.Process) -> None:
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
        UserError: they or a refresh already run, the port is taken, or they do not come up.
    """
    if running(home):
        raise UserError("Airflow already runs here", where=str(_pid_file(home)), remedy="`make down` stops it")
    address = f"http://localhost:{env['AIRFLOW__API__PORT']}"
    if _healthy(address):
        raise UserError(
            f"something else answers at {address}",
            where="LOOKALIKE_PORT",
            remedy="stop it, or choose another port: LOOKALIKE_PORT=8081 make up",
        )
    with alone(home):
        return _up(env, home, log, address)


def _up(env: dict[str, str], home: Path, log: Path, address: str) -> tuple[str, str, str]:
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
    process = running(home)
    _pid_file(home).unlink(missing_ok=True)
    if process is None:
        return False
    end(process)
    return True


def _pid_file(home: Path) -> Path:
    return home / "standalone.pid"


def _password_file(home: Path) -> Path:
    return home / "simple_auth_manager_passwords.json.generated"


def running(home: Path) -> psutil.Process | None:
    """The process that `up` started, told from a later one with the same number by its start time."""
    try:
        pid, created = _pid_file(home).read_text().split()
        process = psutil.Process(int(pid))
        return process if abs(process.create_time() - float(created)) < 1 else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def _healthy(address: str) -> bool:
    session = requests.Session()
    session.trust_env = False  # no proxy leads to this machine itself
    try:
        return session.get(f"{address}/api/v2/monitor/health", timeout=5).ok
    except requests.RequestException:
        return False
