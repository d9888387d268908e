"""embed: images → features (Spark).

Reads the run's products and the images table; sees to it that each image has a row of features of the run's model, by
`jobs.extraction`, and settles for the whole run which embedder similarity is measured with. Killed and run again, it
goes on from its last commit; run again when done, it finds nothing to do.
"""

from __future__ import annotations

from dataclasses import replace

from jobs import extraction, step
from jobs.champion import find_champion
from jobs.run import Run, StepResult, content_hash


def embed(run: Run) -> StepResult:
    """Give every image of the run's products a row of features of the run's model."""
    base = extraction.choose_model(run.settings)
    # Chosen here for the whole run, since a challenger may be promoted while later steps run.
    champion = find_champion(run.lake, base.fingerprint)
    model = replace(base, tuned=champion.tuned)
    found = extraction.extract(run, model)
    return StepResult(
        rows=found.new,
        files=found.files,
        skipped=not found.new,
        tables={"features": found.table.version},
        # Of all features, those of this model; and similarity is measured by what the embedder makes of them.
        contents={"features": content_hash(run.content("products"), model.fingerprint, champion.embedder)},
        figures={
            "images": len(set(run.table("products").read(["image_sha256"])["image_sha256"].to_pylist())),
            "embedded": found.new,
            "model": model.fingerprint,
            "base": base.fingerprint,
            "backbone": model.name,
            "tuned": model.tuned,
            "embedder": champion.embedder,
            **found.figures,
        },
    )


if __name__ == "__main__":
    raise SystemExit(step.main("embed"))
