"""The caller's shell, sealed off: what we start on one machine takes nothing from it that could lead it elsewhere.

People who do this job have an Airflow, a Spark, a JVM and a proxy of their own, and every shell of theirs says so. The
commands of one machine (`lookalike …`, and so `make refresh`, `up` and `test`) take none of that; whoever means it says
so by a setting, `LOOKALIKE_…`. Docker Compose, Kubernetes and a managed Airflow start the steps themselves, and nothing
is sealed there: their processes never come by here.
"""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

LOCAL = "local[*]"
"""Spark's master unless `LOOKALIKE_SPARK` says otherwise: every core of this machine."""
LOOPBACK = "127.0.0.1"
AIRFLOW = ("AIRFLOW_", "_AIRFLOW_")
SPARK = ("SPARK_", "_SPARK_", "PYSPARK_", "_PYSPARK_", "HADOOP_", "YARN_")
YARN = ("CONTAINER_ID", "LOCAL_DIRS")
"""With the first of them Spark takes itself for a container of YARN's, and its folders from the second."""
JAVA = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "IBM_JAVA_OPTIONS", "OPENJ9_JAVA_OPTIONS")
NEVER = ("SPARK_HOME", "PYSPARK_SUBMIT_ARGS", "PYSPARK_DRIVER_PYTHON", "PYSPARK_GATEWAY_", "SPARK_ENV_LOADED")
"""Would put another program in the place of our driver, so they count for nothing with a cluster either."""
BOUND = ("SPARK_LOCAL_IP", "SPARK_LOCAL_HOSTNAME")
"""Where Spark's driver listens, and what it calls itself: else the name that the host has, or has for that address."""
START_FAST = dict.fromkeys(("SPARK_SUBMIT_OPTS", "SPARK_LAUNCHER_OPTS"), "-XX:TieredStopAtLevel=1")
"""Java compiles quickly and no better than that: on one machine it passes names of files to Python, for a minute."""
NO_PROXY = ("localhost", LOOPBACK, "::1")


def seal() -> list[str]:
    """Seal this process, and with it all that it starts; the names of what the shell had set and now counts no more."""
    given = dict(os.environ)
    kept = sealed(given)
    for name in given.keys() - kept.keys():
        del os.environ[name]
    os.environ.update(kept)
    passed_over = _paths(given) - _paths(kept)
    sys.path[:] = [path for path in sys.path if path not in passed_over]
    return sorted(name for name in given if kept.get(name) != given[name] and name.lower() != "no_proxy")


def sealed(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what leads elsewhere, and with what makes Spark our own and keeps it on this machine.

    Where `LOOKALIKE_SPARK` names a cluster, Spark's and Java's variables describe the way to it and stay.
    """
    local = env.get("LOOKALIKE_SPARK", LOCAL).startswith("local")
    led = AIRFLOW + NEVER + (SPARK + YARN + JAVA if local else ())
    kept = {name: value for name, value in env.items() if not name.startswith(led)}
    spec = find_spec("pyspark")
    ours = {"SPARK_HOME": str(Path(spec.origin).parent)} if spec and spec.origin else {}
    ours["PYSPARK_DRIVER_PYTHON"] = sys.executable
    ours |= dict.fromkeys(BOUND, LOOPBACK) | START_FAST if local else {}
    return {"PYSPARK_PYTHON": sys.executable} | kept | ours | _near(kept) | _own_pyspark(kept) | _readable_paths()


def _near(env: Mapping[str, str]) -> dict[str, str]:
    """Variables by which no proxy is asked for this machine; others are reached by it as before."""
    if not any(name.lower().endswith("_proxy") for name in env):
        return {}
    direct = env.get("no_proxy") or env.get("NO_PROXY") or ""
    named = [name.strip() for name in direct.split(",") if name.strip()]
    if named != ["*"]:  # which stands for all only where it stands alone
        direct = ",".join(dict.fromkeys([*named, *NO_PROXY]))
    return {"no_proxy": direct, "NO_PROXY": direct}


def _readable_paths() -> dict[str, str]:
    """A locale of UTF-8 for what we start, where the shell's is another, or one that this machine lacks.

    In such a locale Java finds no file whose path has an umlaut.
    """
    if sys.platform != "linux" or locale.nl_langinfo(locale.CODESET) == "UTF-8":
        return {}
    return {"LC_ALL": "C.UTF-8"}


def _own_pyspark(env: Mapping[str, str]) -> dict[str, str]:
    """PYTHONPATH without another Spark's Python, which a profile that sets SPARK_HOME puts there."""
    if "PYTHONPATH" not in env:
        return {}
    paths = env["PYTHONPATH"].split(os.pathsep)
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if not _is_pyspark(Path(path)))}


def _is_pyspark(path: Path) -> bool:
    return os.path.exists(path / "pyspark/__init__.py") or path.name.startswith(("py4j-", "pyspark"))


def _paths(env: Mapping[str, str]) -> set[str]:
    return set(env.get("PYTHONPATH", "").split(os.pathsep))
