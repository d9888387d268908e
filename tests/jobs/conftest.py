"""What the tests of steps share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_spark_session() -> Iterator[None]:
    """Spark's session and its workers stay from test to test of a module: they take ten seconds to start."""
    from pyspark.sql import SparkSession

    stop = SparkSession.stop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparkSession, "stop", lambda session: None)
        yield
    if session := SparkSession.getActiveSession():
        stop(session)
