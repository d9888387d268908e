"""The machine around the product: what a shell says for other programs, and what counts of it here.

The field's `surroundings`, but for the cases of the store (`test_surroundings_store.py`), and of dates, addresses and
the output's letters (`test_command_line.py`).
Whole refreshes in such a shell, and `up` behind a proxy, stand in `tests/end_to_end`, where they cost nothing. A
checkout of another user is one whose folders can't be written, by nobody; a host name that resolves to another address
than the loopback's (name-with-underscore) is tried as one that resolves to none: neither may be asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from infra import compiled
from infra.airflow import environment
from infra.sealing import sealed
from infra.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
SPARK = str(Path(pyspark.__file__).parent)
OURS = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable, "SPARK_HOME": SPARK}
CLUSTER = "spark://master:7077"
NEAR = "localhost,127.0.0.1,::1"


def foreign_shell(their: Path) -> dict[str, str]:
    """Variables of somebody with an Airflow in the folder `their`, a Spark, a Java and a proxy, none of which work."""
    proxy = "http://127.0.0.1:9"
    return {
        "AIRFLOW_HOME": str(their),
        "AIRFLOW_CONFIG": str(their / "airflow.cfg"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{their}/airflow.db",
        "AIRFLOW__CORE__DEFAULT_TIMEZONE": "Asia/Tokyo",
        "AIRFLOW__CORE__DAGS_FOLDER": str(their / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(their / "plugins"),
        "AIRFLOW_CONN_SPARK_DEFAULT": "spark://nobody:7077",
        "SPARK_HOME": "/opt/spark-3.5.1",
        "SPARK_MASTER": "spark://nobody:7077",
        "SPARK_LOCAL_IP": "192.0.2.1",
        "PYSPARK_PYTHON": "/usr/bin/python3-of-the-system",
        "PYSPARK_DRIVER_PYTHON": "jupyter",
        "PYSPARK_DRIVER_PYTHON_OPTS": "notebook",
        "PYSPARK_SUBMIT_ARGS": "--master local[2]",
        "PYSPARK_GATEWAY_PORT": "9",
        "HADOOP_CONF_DIR": "/opt/hadoop/conf",
        "CONTAINER_ID": "dev",
        "JAVA_TOOL_OPTIONS": "-Dlookalike=tool",
        "_JAVA_OPTIONS": "-Dspark.master=nobody",
        "http_proxy": proxy,
        "HTTP_PROXY": proxy,
        "https_proxy": proxy,
        "TZ": "Foo/Bar",
    }


def outcome(**shell: str) -> str:
    """What becomes of such a shell's variables: `ignored`, `ours`, or the value that a process of ours gets."""
    kept = sealed(shell)

    def said(name: str) -> str:
        if name not in kept:
            return f"{name} ignored"
        return f"{name} ours" if kept[name] == OURS.get(name) else f"{name}={kept[name]}"

    return "; ".join(said(name) for name in sorted({*shell, *({"no_proxy", "NO_PROXY"} & kept.keys())}))


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ({"AIRFLOW_HOME": "/home/me/airflow"}, "AIRFLOW_HOME ignored"),
        ({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "x"}, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN ignored"),
        ({"AIRFLOW__CORE__DEFAULT_TIMEZONE": "Asia/Tokyo"}, "AIRFLOW__CORE__DEFAULT_TIMEZONE ignored"),
        ({"AIRFLOW_VAR_X": "1", "_AIRFLOW_DB_MIGRATE": "true"}, "AIRFLOW_VAR_X ignored; _AIRFLOW_DB_MIGRATE ignored"),
        ({"SPARK_HOME": "/opt/spark-3.5.1"}, "SPARK_HOME ours"),
        ({"PYSPARK_PYTHON": "/usr/bin/python3"}, "PYSPARK_PYTHON ours"),
        ({"PYSPARK_DRIVER_PYTHON": "jupyter"}, "PYSPARK_DRIVER_PYTHON ours"),
        ({"PYSPARK_DRIVER_PYTHON_OPTS": "notebook"}, "PYSPARK_DRIVER_PYTHON_OPTS ignored"),
        ({"PYSPARK_SUBMIT_ARGS": "--master local[2]"}, "PYSPARK_SUBMIT_ARGS ignored"),
        ({"SPARK_LOCAL_IP": "10.0.0.7"}, "SPARK_LOCAL_IP=127.0.0.1"),
        ({"SPARK_LOCAL_HOSTNAME": "gpu_box"}, "SPARK_LOCAL_HOSTNAME=127.0.0.1"),
        ({"SPARK_SUBMIT_OPTS": "-Xmx1m"}, "SPARK_SUBMIT_OPTS=-XX:TieredStopAtLevel=1"),
        ({"SPARK_CONF_DIR": "/c", "HADOOP_CONF_DIR": "/h"}, "HADOOP_CONF_DIR ignored; SPARK_CONF_DIR ignored"),
        ({"JAVA_TOOL_OPTIONS": "-Dx=1", "_JAVA_OPTIONS": "-Xmx1m"}, "JAVA_TOOL_OPTIONS ignored; _JAVA_OPTIONS ignored"),
        ({"PYTHONPATH": "/a:/s/python/lib/py4j-0.10.9-src.zip"}, "PYTHONPATH=/a"),
        ({"JAVA_HOME": "/j", "TMPDIR": "/t"}, "JAVA_HOME=/j; TMPDIR=/t"),
        ({"AWS_PROFILE": "a", "KERAS_BACKEND": "jax"}, "AWS_PROFILE=a; KERAS_BACKEND=jax"),
        ({"CUDA_VISIBLE_DEVICES": "1", "TZ": "Foo/Bar"}, "CUDA_VISIBLE_DEVICES=1; TZ=Foo/Bar"),
        ({"https_proxy": "http://p"}, f"NO_PROXY={NEAR}; https_proxy=http://p; no_proxy={NEAR}"),
        ({"ALL_PROXY": "x", "no_proxy": "a.b, ::1"}, "ALL_PROXY=x; NO_PROXY=a.b,::1,{0}; no_proxy=a.b,::1,{0}"),
        ({"http_proxy": "x", "NO_PROXY": "*"}, "NO_PROXY=*; http_proxy=x; no_proxy=*"),
        ({"LOOKALIKE_SPARK": CLUSTER, "SPARK_HOME": "/s"}, f"LOOKALIKE_SPARK={CLUSTER}; SPARK_HOME ours"),
        ({"LOOKALIKE_SPARK": "yarn", "HADOOP_CONF_DIR": "/h"}, "HADOOP_CONF_DIR=/h; LOOKALIKE_SPARK=yarn"),
        ({"LOOKALIKE_SPARK": "yarn", "SPARK_SUBMIT_OPTS": "-X"}, "LOOKALIKE_SPARK=yarn; SPARK_SUBMIT_OPTS=-X"),
        ({"LOOKALIKE_SPARK": "yarn", "SPARK_LOCAL_IP": "10.0.0.7"}, "LOOKALIKE_SPARK=yarn; SPARK_LOCAL_IP=10.0.0.7"),
        (
            {"LOOKALIKE_SPARK": "yarn", "PYSPARK_PYTHON": "./e/python"},
            "LOOKALIKE_SPARK=yarn; PYSPARK_PYTHON=./e/python",
        ),
        ({"LOOKALIKE_SPARK": "yarn", "AIRFLOW_HOME": "/a"}, "AIRFLOW_HOME ignored; LOOKALIKE_SPARK=yarn"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_variable_of_the_shell_counts_here_or_does_not(shell, expected):
    assert outcome(**shell) == expected.format("localhost,127.0.0.1")


@pytest.mark.parametrize("locale", ["de_XX.UTF-8", "C", "POSIX"])
def test_a_locale_that_is_missing_or_cannot_spell_paths_is_not_passed_on(tmp_path, locale):
    say = "import os; from infra.sealing import sealed; print(sealed(os.environ)['LC_ALL'])"
    assert run("-c", say, cwd=tmp_path, LC_ALL=locale).stdout == "C.UTF-8\n"
    assert run("-c", say, cwd=tmp_path, LC_ALL="C.UTF-8").stdout == "C.UTF-8\n"


def test_no_value_that_airflow_is_given_leads_to_somebodys_own(monkeypatch, tmp_path):
    for name, value in foreign_shell(tmp_path / "their").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOOKALIKE_PORT", "8099")
    monkeypatch.chdir(tmp_path)
    env = environment(read_settings(), tmp_path / "dags")
    assert [name for name, value in env.items() if "their" in value or "nobody" in value] == []
    assert (env["AIRFLOW_HOME"], env["AIRFLOW__API__PORT"]) == (str(tmp_path / "var/airflow"), "8099")
    assert env["AIRFLOW__CORE__DEFAULT_TIMEZONE"] == "utc"
    assert json.loads(env["AIRFLOW_CONN_SPARK_DEFAULT"])["host"] == "local[*]"


def run(*command: str, cwd: Path, before: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess:
    shell = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.run([*before, sys.executable, *command], cwd=cwd, env=shell, capture_output=True, text=True)


def test_the_doctor_says_in_one_line_what_it_ignores_and_then_what_it_found(tmp_path, postgres):
    nowhere = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "LOOKALIKE_STORE": postgres}
    done = run("-m", "jobs.cli", "doctor", cwd=tmp_path, **foreign_shell(tmp_path / "their") | nowhere)
    assert done.returncode == 0, done.stdout + done.stderr
    ignored, *found = done.stdout.splitlines()
    assert ignored.startswith("ignored of this shell: AIRFLOW_CONFIG, AIRFLOW_CONN_SPARK_DEFAULT, AIRFLOW_HOME, ")
    assert re.search(r" and \d+ more \(docs/platform.md#one-machine\)$", ignored)
    assert [line.split()[0] for line in found] == ["java", "spark", "airflow", "lake", "store"]
    assert found[0].split(maxsplit=1)[1].startswith("openjdk version")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


JOB = """
import socket, sys
if "renamed" in sys.argv:
    socket.sethostname("gpu_box_of_nobody")
from infra import sealing, spark
sealing.seal()
context = spark.context("test")
pythons = context.parallelize([0], 1).map(lambda _: sys.executable).collect()
print(context.getConf().get("spark.driver.host"), context.master, *pythons)
"""


def test_spark_is_ours_and_on_this_machine_whatever_the_shell_says_and_the_host_is_called(tmp_path):
    apart = ("unshare", "--uts")  # a host of another name, for whoever may
    renamed = shutil.which("unshare") and not subprocess.run([*apart, "true"], capture_output=True).returncode
    job = ("-c", JOB, "renamed" if renamed else "")
    done = run(*job, cwd=tmp_path, before=apart if renamed else (), **foreign_shell(tmp_path / "their"))
    assert done.stdout.strip().split(" ", 2) == ["127.0.0.1", "local[*]", sys.executable], done.stderr
    assert "Picked up" not in done.stderr


@pytest.fixture
def unwritable(tmp_path) -> dict[str, str]:
    """A shell in which numba finds no place: the code's folder takes no files and the home is none, not even root's."""
    for name in ("infra", "ml", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "code/ml/__pycache__").touch()
    (tmp_path / "temporary").mkdir()
    return {"PYTHONPATH": str(tmp_path / "code"), "HOME": "/dev/null", "TMPDIR": str(tmp_path / "temporary")}


def test_what_numba_compiles_is_kept_for_this_user_alone_where_neither_code_nor_home_can_be_written(
    unwritable, tmp_path
):
    imports = "import jobs, ml.cube_kernels, ml.pictures, os; print(os.environ['NUMBA_CACHE_DIR'])"
    done = run("-c", imports, cwd=tmp_path, **unwritable)
    place = tmp_path / f"temporary/lookalike-numba-{os.getuid()}"
    assert done.stdout.strip() == str(place), done.stderr
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)  # others may have put programs there
    other = Path(run("-c", imports, cwd=tmp_path, **unwritable).stdout.strip())
    assert other != place
    assert other.parent == place.parent


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_who_has_kept_the_home_of_another_gets_a_place_for_what_numba_compiles(tmp_path, monkeypatch):
    """As `su` and `sudo -u` may leave it: HOME is a folder that one may not even look into."""
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            compiled.find_place()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_numba_goes_on_keeping_it_beside_the_code_where_that_can_be_written(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    compiled.find_place()
    assert "NUMBA_CACHE_DIR" not in os.environ
