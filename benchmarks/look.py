"""How well the look of a person is told from a photo: full shots, orientations, boxes, and how long an answer takes.

    python benchmarks/look.py --photos ../shared/data/street-photos.zip
    python benchmarks/look.py --photos … --lake var/bench/var/lake     # and `look_ms`, from that lake's live run

Poses are told by five folds of all pictures that have a label, boxes of the pictures that are held back, by the first
32 bits of each name's SHA-256: nothing is told of a picture by what has learnt from it. A person who is not found is
taken for a detail that is no full shot, and the person's boxes for missed. The last line is JSON, percentages 0 to 100
but the F1 and the IoU, null where there is nothing to measure.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from infra import store
from infra.errors import UserError
from infra.settings import read_settings
from jobs import look, looking
from jobs.serve.search import Searcher
from jobs.street_photos import FOLDS, HELD_BACK, StreetPhotos, labelled, orientation_of
from jobs.train_pose import Seen, learn, see
from ml import metrics
from ml.look.articles import SEEN_BY
from ml.look.keypoints import HEAD, PLACE, Person, overlaps
from ml.look.pose import ORIENTATIONS, pose_of
from ml.split import fold_of

RULE_LEAST = 0.5
"""Of a head keypoint and of an ankle, by which the rule that the head is compared with calls a photo a full shot."""
IOU = 0.5
PHONE = 3024, 4032
"""Width and height of a photo of 12 megapixels."""
TIMED, WARM_UP = 20, 2
RESAMPLES = 2000
BARE, OVER = "bare_topwear", {"outerwear", "dress"}
"""Topwear of persons who wear nothing over it."""
out = Console(highlight=False, width=120)


def poses(photos: StreetPhotos, seen: Seen) -> list[dict]:
    """Of each labelled picture what is so and what is said of it by heads that have not learnt from it."""
    rows = []
    for fold in range(FOLDS):
        learnt = learn(photos, seen, {name for name in seen if fold_of(name, FOLDS) != fold})
        for name in (name for name in photos.poses if fold_of(name, FOLDS) == fold):
            label, persons = photos.poses[name], seen[name]
            told = pose_of(persons[0], learnt.orientation, learnt.full_shot) if persons else None
            rows.append(
                {
                    "name": name,
                    "full_shot": label["full_shot"],
                    "told_full_shot": bool(told and told.full_shot),
                    "by_rule": bool(persons and is_full_by_rule(persons[0])),
                    "orientation": orientation_of(label),
                    "told_orientation": told.orientation if told else "detailed",
                    "found": bool(persons),
                }
            )
    return rows


def is_full_by_rule(person: Person) -> bool:
    """Whether a head keypoint and an ankle are seen."""
    ankles = [PLACE["left ankle"], PLACE["right ankle"]]
    return person.visible[HEAD].max() >= RULE_LEAST and person.visible[ankles].max() >= RULE_LEAST


def macro_f1(truth: np.ndarray, told: np.ndarray) -> float:
    """Mean F1 of `ORIENTATIONS`; a class that is neither there nor told counts as right."""
    scores = []
    for name in ORIENTATIONS:
        both = ((truth == name) & (told == name)).sum()
        total = (truth == name).sum() + (told == name).sum()
        scores.append(2 * both / total if total else 1.0)
    return float(np.mean(scores))


def resampled(truth: np.ndarray, told: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of `macro_f1`, by drawing the pictures anew with replacement."""
    random = np.random.default_rng(0)
    draws = (random.integers(0, len(truth), len(truth)) for _ in range(RESAMPLES))
    low, high = np.percentile([macro_f1(truth[rows], told[rows]) for rows in draws], [2.5, 97.5])
    return float(low), float(high)


def box_hits(photos: StreetPhotos, seen: Seen) -> dict[str, list[bool]]:
    """Of each class, for each box held back, whether the box drawn meets it."""
    learnt = learn(photos, seen, {name for name in seen if fold_of(name, FOLDS) != HELD_BACK})
    hits: dict[str, list[bool]] = {name: [] for name in (*SEEN_BY, BARE)}
    for name, worn in photos.worn.items():
        if fold_of(name, FOLDS) != HELD_BACK:
            continue
        person = labelled(seen[name], worn)
        drawn = {each.name: each.box for each in learnt.boxes.draw(person, *person.mask.shape)} if person else {}
        for article, box in worn.items():
            if article in hits:
                met = article in drawn and overlaps(np.array(box), np.array([drawn[article]]))[0] >= IOU
                hits[article].append(bool(met))
                if article == "topwear" and not OVER & set(worn):
                    hits[BARE].append(bool(met))
    return hits


def outlines(photos: StreetPhotos, seen: Seen) -> list[float]:
    """Overlap (IoU) of the largest person's mask with the true one, of pictures held back that have one."""
    shares = []
    for name in (name for name in seen if fold_of(name, FOLDS) == HELD_BACK):
        true = photos.outline(name)
        if true is not None:
            own = seen[name][0].outline if seen[name] else np.zeros_like(true)
            shares.append(float((own & true).sum() / max(1, (own | true).sum())))
    return shares


def look_ms(photos: StreetPhotos, lake: str) -> dict[str, float] | None:
    """Median milliseconds of the parts of an answer to a photo of 12 megapixels, by the live run of a lake."""
    settings = read_settings(**place_of(lake))
    with store.connect(settings.store, settings.store_folder) as connection:
        try:
            searcher = Searcher(connection, settings)
            models = looking.load(searcher.run.lake)
        except UserError as error:
            out.print(f"no answer to time: {error.problem}", soft_wrap=True)
            return None
        names = [name for name, label in photos.poses.items() if label["full_shot"]][: TIMED + WARM_UP]
        taken = [look.look(searcher, models, connection, enlarged(photos.image(name)), {}).ms for name in names]
    return {part: round(median(of[part] for of in taken[WARM_UP:]), 1) for part in taken[0]}


def enlarged(image: np.ndarray) -> bytes:
    """A picture as a phone would have taken it: 12 megapixels, with the noise of a sensor."""
    side = min(PHONE[0] / image.shape[1], PHONE[1] / image.shape[0])
    size = round(image.shape[1] * side), round(image.shape[0] * side)
    pixels = np.asarray(Image.fromarray(image).resize(size)).astype(np.int16)
    pixels += np.random.default_rng(0).integers(-6, 7, pixels.shape, np.int16)
    target = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=90)
    return target.getvalue()


def place_of(lake: str) -> dict[str, object]:
    """Settings for a lake, with the store beside it; none for the default."""
    if not lake:
        return {}
    uri = lake if "://" in lake else Path(lake).resolve().as_uri()
    return {"lake": uri, "store_folder": Path(uri.removeprefix("file://")).parent / "store"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="archive of street photos")
    parser.add_argument("--lake", default="", help="lake whose live run answers are timed on; default: the settings'")
    parser.add_argument("--untimed", action="store_true", help="leave out look_ms, which needs a live run")
    given = parser.parse_args()
    photos = StreetPhotos(given.photos)
    seen = see(photos, looking.Eyes())
    told, hits, masks = poses(photos, seen), box_hits(photos, seen), outlines(photos, seen)
    table = Table("figure", "value", "95 % interval", "of")
    figures: dict[str, float | dict | None] = {}

    def add(key: str, words: str, right: list[bool]) -> None:
        share = float(np.mean(right))
        low, high = metrics.interval(share, len(right))
        figures[key] = round(100 * share, 2)
        table.add_row(words, f"{100 * share:.1f} %", f"{100 * low:.1f} – {100 * high:.1f}", str(len(right)))

    add("full_shot", "full shot or not", [row["full_shot"] == row["told_full_shot"] for row in told])
    add("full_shot_by_rule", "the same, by rule", [row["full_shot"] == row["by_rule"] for row in told])
    oriented = [row for row in told if row["orientation"]]
    truth, said = (np.array([row[key] for row in oriented]) for key in ("orientation", "told_orientation"))
    figures["orientation_f1"], (low, high) = round(macro_f1(truth, said), 4), resampled(truth, said)
    table.add_row(
        "orientation, macro F1 of five", f"{macro_f1(truth, said):.3f}", f"{low:.3f} – {high:.3f}", str(len(truth))
    )
    for name, right in hits.items():
        add(f"box_{name}", f"box drawn from keypoints, {name.replace('_', ' ')}: recall at IoU {IOU}", right)
    figures["mask_iou"] = round(float(np.mean(masks)), 4)
    table.add_row("person's mask, mean IoU", f"{np.mean(masks):.3f}", "", str(len(masks)))
    parts = None if given.untimed else look_ms(photos, given.lake)
    figures["look_ms"], figures["look_ms_parts"] = parts and parts["all"], parts
    out.print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
