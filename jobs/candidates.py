"""candidates: features + products → one candidate a derivedType, its medoid.

Reads the run's products and features; writes a row for each derivedType: the product that is most similar to all of
its kind, groups of one included. Products without a derivedType are left out and counted. The same products and model
give the same candidates to the bit, and are not computed again.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import step
from jobs.features import read_embeddings
from jobs.run import Run, StepResult, content_hash
from ml.medoids import medoids

CANDIDATES = pa.schema(
    [("derivedType", pa.string()), ("product_id", pa.string()), ("members", pa.int32()), ("similarity", pa.float32())]
)


def candidates(run: Run) -> StepResult:
    """Choose the medoid of every derivedType of the run."""
    target = run.lake.table("candidates")
    fingerprint = content_hash(str(CANDIDATES), run.content("products"), run.content("features"))
    if done := run.done("candidates", fingerprint, {"candidates": target}):
        return done
    rows = run.products(["product_id", "derivedType"])
    typed = pc.is_valid(rows["derivedType"]).to_numpy()
    names, groups = np.unique(rows["derivedType"].to_numpy()[typed], return_inverse=True)
    embeddings = read_embeddings(run)[typed]
    best, similarity = medoids(embeddings, groups)
    ids, members = rows["product_id"].filter(pa.array(typed)), np.bincount(groups, minlength=len(names))
    table = pa.table(
        [names, ids.take(best), members.astype(np.int32), similarity.astype(np.float32)], schema=CANDIDATES
    )
    parts = [run.lake.write_part("candidates", table)] if len(table) else []
    target = target.commit(parts, CANDIDATES, run=run.name)
    figures: dict[str, object] = {
        "derived_types": len(names),
        "singletons": int((members == 1).sum()),
        "without_derived_type": int((~typed).sum()),
    }
    result = StepResult(len(names), len(parts), tables={"candidates": target.version}, figures=figures)
    return run.remember("candidates", fingerprint, result)


if __name__ == "__main__":
    raise SystemExit(step.main("candidates"))
