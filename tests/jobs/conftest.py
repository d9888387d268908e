"""What the tests of steps share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_spark_context() -> Iterator[None]:
    """Spark's context and its workers stay from test to test of a module: they take ten seconds to start."""
    from pyspark import SparkContext

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparkContext, "stop", lambda context: None)
        yield
    if context := SparkContext._active_spark_context:
        context.stop()
