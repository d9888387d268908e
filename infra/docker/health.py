"""Health checks of the containers: exit code 0 if what an address answers is healthy; standard library only, so fast.

health.py http://spark-master:8082/                                   it answers at all
health.py http://airflow-api:8080/api/v2/monitor/health scheduler     that part of Airflow is healthy
"""

from __future__ import annotations

import json
import sys
import urllib.request

TIMEOUT_S = 10


def healthy(address: str, component: str = "") -> bool:
    """Whether `address` answers with 200 and, if given, its JSON calls `component` healthy."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - addresses of our own file
            if not component:
                return True
            return json.load(answer).get(component, {}).get("status") == "healthy"
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    raise SystemExit(not healthy(*sys.argv[1:3]))
