"""What a refresh makes of somebody's files, in one line: the form in which the field's expected outcomes are written.

The cases rebuild reports of people who do this job. A case's line was decided before the code was changed.
"""

from __future__ import annotations

import re
from collections import Counter

from infra.errors import TransientError, UserError
from infra.lake import Lake
from jobs.step import execute
from tests.catalogues import open_run


def intake(lake: Lake, source: object, **settings: object) -> str:
    """`pull` and `catalog` of a source: products, then rejects by reason, then files left out; or the error's words.

    Such as `29 products; 1 × damaged; 2 left out`, or `problem | where | remedy`, in which the folder that the lake
    lies in, the test's own, is written `…`.
    """
    try:
        run = open_run(lake, dataset=str(source), **settings)
        left_out = execute("pull", run).figures["left_out"]
        result = execute("catalog", run)
    except (UserError, TransientError) as error:
        return error_line(error, lake)
    reasons = Counter(run.table("rejects").read(["reason"])["reason"].to_pylist())
    said = [f"{result.rows} products", *(f"{count} × {reason}" for reason, count in sorted(reasons.items()))]
    return "; ".join(said + ([f"{left_out} left out"] if left_out else []))


def error_line(error: UserError | TransientError, lake: Lake) -> str:
    """`problem | where | remedy` of an error; one that would be tried again begins with `transient:`."""
    words = [str(getattr(error, name, "") or "") for name in ("problem", "where", "remedy")]
    line = " | ".join(words) if any(words) else str(error)
    line = line.replace(lake.uri.removeprefix("file://").removesuffix("/lake"), "…")
    return f"transient: {line}" if isinstance(error, TransientError) else line


def command_line(code: int, said: str, error: str) -> str:
    """What a command said: its answer's first line and how many products it lists, or its exit code and error."""
    if code == 2:  # a mistake that typer finds
        return f"2: {error.splitlines()[-1]}"
    if code:
        message = re.split(r"^(?:error|\w+ failed): ", error, maxsplit=1, flags=re.MULTILINE)[1]
        return f"{code}: " + re.sub(r"\n  (?:where|remedy): +", " | ", message).strip()
    listed = re.findall(r"^\d+ +\d+ +-?\d\.\d{4} ", said, re.MULTILINE)
    return said.splitlines()[0] + (f"; {len(listed)} listed" if listed else "")
