"""embed: images → features (Spark).

Reads the run's products and the images table; settles for the whole run which embedder similarity is measured with:
the champion, if it beats the untrained features on a sample of the run's own held-out images. Sees to it that each
image has a row of features of the model which that takes, by `jobs.extraction`. Killed and run again, it goes on from
its last commit; run again when done, it finds nothing to do.
"""

from __future__ import annotations

from jobs import extraction, judging, step
from jobs.champion import find_champion
from jobs.run import Run, StepResult, content_hash


def embed(run: Run) -> StepResult:
    """Give every image of the run's products a row of features of the run's model."""
    base = extraction.choose_model(run.settings)
    champion = find_champion(run.lake, base.fingerprint)
    needed = judging.model_of(run, champion, base) == base  # whatever is settled
    extracted = extraction.extract(run, base) if needed else None
    # Settled here for the whole run, since a challenger may be promoted while later steps run.
    settled = judging.settle(run, champion, base)
    model = judging.model_of(run, settled.champion, base)
    extracted = extracted or extraction.extract(run, model)
    new = extracted.new + settled.new
    return StepResult(
        rows=new,
        files=extracted.files + settled.files,
        skipped=not new,
        tables={"features": extracted.table.version},
        # Of all features, those of this model; and similarity is measured by what the embedder makes of them.
        contents={"features": content_hash(run.content("products"), model.fingerprint, settled.champion.embedder)},
        figures={
            "images": len(extraction.images_of(run)),
            "embedded": new,
            "model": model.fingerprint,
            "base": base.fingerprint,
            "backbone": model.name,
            "tuned": model.tuned,
            "detail": list(model.detail) if model.detail else None,
            "embedder": settled.champion.embedder,
            **settled.figures,
            **extracted.figures,
        },
    )


if __name__ == "__main__":
    raise SystemExit(step.main("embed"))
