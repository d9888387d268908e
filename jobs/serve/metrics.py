"""What the server counts and times, for Prometheus: no path, no filter, no address, only routes and stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    multiprocess,
    start_http_server,
)

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that names the folder in which the processes of a server count together; set before this is imported."""
BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8, 16)
REQUESTS = Histogram(
    "lookalike_request_seconds", "Seconds an answer took, by route and status.", ["route", "status"], buckets=BUCKETS
)
STAGES = Histogram("lookalike_stage_seconds", "Seconds a stage of an answer took.", ["stage"], buckets=BUCKETS)
CRASHES = Counter("lookalike_decoder_ends_total", "Photos at which the process that decodes them ended.")


@lru_cache(maxsize=512)
def of_route(route: str, status: int) -> Histogram:
    """The histogram of a route and a status, which takes as long to find as to count with."""
    return REQUESTS.labels(route, status)


@lru_cache(maxsize=64)
def of_stage(stage: str) -> Histogram:
    """The histogram of a stage."""
    return STAGES.labels(stage)


def shown() -> tuple[bytes, str]:
    """All that the processes have counted, and its media type."""
    return generate_latest(_of_all()), CONTENT_TYPE_LATEST


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Show the same at a port of its own while the block runs."""
    server, thread = start_http_server(port, host, _of_all())
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def _of_all() -> CollectorRegistry:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
