"""`make env`: the passwords and keys of docker-compose.yml, drawn at random into `.env`, readable by its owner only.

What is in the file already stays as it is; only names that it lacks are added, as after an update that needs a new one.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
from pathlib import Path

NAMES = (
    "METADATA_PASSWORD",  # Airflow's own database
    "STORE_ADMIN_PASSWORD",  # the lookup store: its superuser, used by `init-store` alone
    "STORE_LOADER_PASSWORD",  # … the login that publishes
    "STORE_READER_PASSWORD",  # … the login of those who look up
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "BROKER_PASSWORD",
    "SPARK_SECRET",  # what Spark's processes know each other by
    "AIRFLOW_ADMIN_PASSWORD",  # user `admin` of Airflow's UI
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_FERNET_KEY",
    "GRAFANA_PASSWORD",  # user `admin` of Grafana
)


def draw(name: str) -> str:
    """A new random value: hexadecimal, so that it can stand in a URI; a Fernet key in the form that Fernet asks for."""
    if name == "AIRFLOW_FERNET_KEY":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(32)


def make_env(file: Path) -> list[str]:
    """Add to `file` what it lacks and make it private; returns the names added."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.fchmod(descriptor, 0o600)
    with os.fdopen(descriptor, "r+") as stream:
        text = stream.read()
        there = set(re.findall(r"^\s*(?:export\s+)?(\w+)=", text, re.MULTILINE))
        missing = [name for name in NAMES if name not in there]
        if missing and text and not text.endswith("\n"):
            stream.write("\n")
        stream.writelines(f"{name}={draw(name)}\n" for name in missing)
    return missing


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".env")
    added = make_env(target)
    print(f"{target}: {len(added)} of {len(NAMES)} values were new; what was there is unchanged")
