"""Structured logs with run and step, and progress events: JSON lines on stderr and in `<logs>/<run>/<step>.jsonl`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TextIO

import structlog

from infra.errors import UserError

PROGRESS_EVERY_S = 0.5


def start(logs: Path, run: str, step: str, aloud: bool = True) -> Path:
    """Send this process's logs to a file of its own and, `aloud`, to stderr; returns the file.

    Raises:
        UserError: the file cannot be written.
    """
    file = log_file(logs, run, step)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the log cannot be written: {error.strerror}", where=str(file), remedy="let LOOKALIKE_LOGS name a folder"
        ) from None
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=_Tee(stream) if aloud else stream),  # type: ignore[arg-type]
    )
    structlog.contextvars.bind_contextvars(run=run, step=step)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    return file


def hush() -> None:
    """Let this process log nothing but warnings: for commands that say themselves what they do."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def log_file(logs: Path, run: str, step: str) -> Path:
    """Where `start` writes the log of a step of a run."""
    return logs / run / f"{step}.jsonl"


class _Tee:
    """Writes each log line to a file and to stderr, where Airflow or spark-submit collects it."""

    def __init__(self, stream: TextIO) -> None:
        self._file = stream

    def write(self, text: str) -> None:
        for stream in (self._file, sys.stderr):  # the stderr of now: that of then may be closed
            stream.write(text)

    def flush(self) -> None:
        for stream in (self._file, sys.stderr):
            stream.flush()


class Progress:
    """Counts work done and logs a `progress` event at most every half second, and at the end."""

    def __init__(self, unit: str, total: int) -> None:
        self._unit, self._total, self._done, self._last = unit, total, 0, 0.0

    def add(self, n: int) -> None:
        """Count `n` more units as done."""
        self.reach(self._done + n)

    def reach(self, done: int) -> None:
        """Set the units done to `done`."""
        self._done = done
        now = time.monotonic()
        if now - self._last >= PROGRESS_EVERY_S or done >= self._total:
            self._last = now
            structlog.get_logger().info("progress", unit=self._unit, done=done, total=self._total)
