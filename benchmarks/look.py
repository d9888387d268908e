"""How well the look of a person is told from a photo: poses, articles, what a search for them finds, and how fast.

    python benchmarks/look.py --photos ../shared/data/street-photos.zip
    python benchmarks/look.py --photos … --lake var/bench/var/lake --run 2026-01-01    # and what a search finds
    python benchmarks/look.py --photos … --lake … --run … --timed                      # and `look_ms`, by its live run

Poses are told by five folds of all pictures that have a label, articles of the pictures that are held back, by the
first 32 bits of each name's SHA-256: nothing is told of a picture by what has learnt from it. A person who is not found
is taken for a detail that is no full shot, and the person's articles for missed. What is measured of articles, and how,
is in `worn.py`. Women and men are told apart as one reader did it (`jobs/street_gender.json`). The last line is JSON,
percentages 0 to 100 but the F1, the AP50 and the IoU, null where nothing was measured.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import worn
from PIL import Image
from rich.console import Console
from rich.table import Table

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from infra.settings import read_settings
from jobs import detectors, labelled_photos, look, looking
from jobs.labelled_photos import Dataset
from jobs.run import Run, open_run
from jobs.serve.search import Searcher, Sight
from jobs.street_photos import FOLDS, HELD_BACK, StreetPhotos, labelled, orientation_of
from jobs.train_pose import Seen, Sights, learn, see
from ml import metrics
from ml.articles import CLASSES
from ml.look.articles import SEEN_BY
from ml.look.keypoints import HEAD, PLACE, Person, overlaps
from ml.look.pose import ORIENTATIONS, pose_of
from ml.look.sight import GENDERS
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


def poses(photos: StreetPhotos, seen: Seen, sights: Sights) -> list[dict]:
    """Of each labelled picture what is so and what is said of it by heads that have not learnt from it."""
    rows = []
    for fold in range(FOLDS):
        learnt = learn(photos, seen, sights, {name for name in seen if fold_of(name, FOLDS) != fold})
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


def told_genders(photos: StreetPhotos, seen: Seen, sights: Sights) -> list[tuple[str, str, str | None]]:
    """Of each picture held back its name, for whom the clothes are, and what is said of it where that is sure."""
    learnt = learn(photos, seen, sights, {name for name in seen if fold_of(name, FOLDS) != HELD_BACK})
    asked = [name for name in sights if fold_of(name, FOLDS) == HELD_BACK and name in photos.genders]
    return [(name, photos.genders[name], learnt.sight.gender(sights[name])) for name in asked]


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


def resampled_mean(values: np.ndarray, names: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of a mean, by drawing pictures anew with replacement, each with all its values."""
    random, (_, place) = np.random.default_rng(0), np.unique(names, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    draws = (random.integers(0, len(sums), len(sums)) for _ in range(RESAMPLES))
    low, high = np.percentile([sums[rows].sum() / counts[rows].sum() for rows in draws], [2.5, 97.5])
    return float(low), float(high)


def box_hits(photos: StreetPhotos, seen: Seen, sights: Sights) -> dict[str, dict[str, bool]]:
    """Of each class, for each picture held back that has a box of it, whether the box drawn from keypoints meets it."""
    learnt = learn(photos, seen, sights, {name for name in seen if fold_of(name, FOLDS) != HELD_BACK})
    hits: dict[str, dict[str, bool]] = {name: {} for name in (*SEEN_BY, BARE)}
    for name, worn_boxes in photos.worn.items():
        if fold_of(name, FOLDS) != HELD_BACK:
            continue
        person = labelled(seen[name], worn_boxes)
        drawn = {each.name: each.box for each in learnt.boxes.draw(person, *person.mask.shape)} if person else {}
        for article, box in worn_boxes.items():
            if article in hits:
                met = article in drawn and overlaps(np.array(box), np.array([drawn[article]]))[0] >= IOU
                hits[article][name] = bool(met)
                if article == "topwear" and not OVER & set(worn_boxes):
                    hits[BARE][name] = bool(met)
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


class Report:
    """The table that is printed, and the figures of the last line; `genders` are those of pictures, by their names."""

    def __init__(self, genders: Mapping[str, str]) -> None:
        self.genders = genders
        self.table = Table("figure", "value", "95 % interval", "of", "women", "men")
        self.figures: dict[str, object] = {}

    def share(self, key: str, words: str, right: Sequence[float] | np.ndarray, names: Sequence[str]) -> None:
        """A row for the mean of shares, 0 to 1, each of a picture's name."""
        values = np.array(right, float)
        mean, is_one_each = float(values.mean()), len(set(names)) == len(values)
        low, high = metrics.interval(mean, len(values)) if is_one_each else resampled_mean(values, names)
        self.figures[key] = round(100 * mean, 2)
        halves = [f"{100 * values[of].mean():.1f} of {of.sum()}" if of.any() else "" for of in self.halves(names)]
        self.table.add_row(
            words, f"{100 * mean:.1f} %", f"{100 * low:.1f} – {100 * high:.1f}", str(len(values)), *halves
        )

    def halves(self, names: Sequence[str]) -> list[np.ndarray]:
        """Of pictures those of women, and those of men, bool (n,) each."""
        told = [self.genders.get(name) for name in names]
        return [np.array([each == gender for each in told], bool) for gender in GENDERS]

    def score(self, key: str, words: str, value: float, ends: tuple[float, float], of: int, halves: list[str]) -> None:
        """A row for a score, 0 to 1, with the ends of its interval."""
        self.figures[key] = round(value, 4)
        self.table.add_row(words, f"{value:.3f}", f"{ends[0]:.3f} – {ends[1]:.3f}", str(of), *halves)


def report_poses(report: Report, told: list[dict]) -> None:
    """Full shots and orientations."""
    names = [row["name"] for row in told]
    report.share("full_shot", "full shot or not", [row["full_shot"] == row["told_full_shot"] for row in told], names)
    by_rule = [row["full_shot"] == row["by_rule"] for row in told]
    report.share("full_shot_by_rule", "the same, by rule", by_rule, names)
    oriented = [row for row in told if row["orientation"]]
    truth, said = (np.array([row[key] for row in oriented]) for key in ("orientation", "told_orientation"))
    halves = [
        f"{macro_f1(truth[of], said[of]):.3f} of {of.sum()}" for of in report.halves([row["name"] for row in oriented])
    ]
    ends = resampled(truth, said)
    report.score("orientation_f1", "orientation, macro F1 of five", macro_f1(truth, said), ends, len(truth), halves)


def report_genders(report: Report, told: list[tuple[str, str, str | None]]) -> None:
    """How often somebody's gender is told, and told right."""
    sure = [(name, gender == said) for name, gender, said in told if said]
    words = "gender told, as it is sure"
    report.share("gender_told", words, [bool(said) for *_, said in told], [name for name, *_ in told])
    report.share("gender_right", "right where it is told", [right for _, right in sure], [name for name, _ in sure])


def report_precision(report: Report, model, dataset: Dataset) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """AP50 of the detector, on each source's pictures that are held back."""
    for key, judged in worn.precisions(model, dataset, report.genders).items():
        source, classes = key.split("_")
        what = "three classes, top the outermost" if classes == "outer" else f"{classes} classes"
        words, halves = f"AP50, mean of {what}, {source}", [f"{part.mean:.3f}" for part in judged.halves]
        report.score(f"map50_{key}", words, judged.whole.mean, judged.whole.interval, judged.photos, halves)
        if classes == str(len(CLASSES)):
            for name, value, ends in zip(CLASSES, judged.whole.classes, judged.whole.intervals, strict=True):
                report.score(f"ap50_{name}_{source}", f"  {name}", float(value), ends, judged.photos, ["", ""])


def report_articles(report: Report, dataset: Dataset, articles: list[worn.Labelled], run: Run | None) -> None:
    """How many articles are found, and what a search for them finds."""
    report.share("found", "articles found", [bool(each.found) for each in articles], [each.name for each in articles])
    if run is None:
        return
    search = worn.Search(dataset, Sight(run), worn.Shop.of(run))
    report_classes(report, search, articles)
    families = worn.families_of(dataset, articles)
    for key, words, boxes in (
        ("colour_agrees", "colours of the article's family among ten of its class", [each.found for each in articles]),
        ("colour_agrees_true", "  by true boxes", [worn.true_box(each) for each in articles]),
    ):
        chosen = [each for each in zip(articles, boxes, families, strict=True) if each[1] and each[2]]
        some, of_some = [article for article, _, _ in chosen], [box for _, box, _ in chosen if box]
        shares = search.agreeing(some, of_some, [family for *_, family in chosen])
        report.share(key, words, shares[:, 0], [each.name for each in some])
    report.share("colour_by_chance", "  of all of its class", shares[:, 1], [each.name for each in some])


def report_classes(report: Report, search: worn.Search, articles: list[worn.Labelled]) -> None:
    """Whether a product of an article's class is among the ten most like its crop, of all products."""
    met, truth = [each for each in articles if each.met], [worn.true_box(each) for each in articles]
    boxes, hits = [each.met for each in met if each.met], {}
    for key, words, of, crops_of, is_told in (
        ("class_in_ten", "class among ten, as look takes it for the class found", met, boxes, True),
        ("class_in_ten_true", "  by true boxes and classes", articles, truth, True),
        ("class_in_ten_alone", "  by the crop alone, found boxes", met, boxes, False),
        ("class_in_ten_alone_true", "  by the crop alone, true boxes", articles, truth, False),
    ):
        hits[key] = search.has_class(of, crops_of, is_told)
        report.share(key, words, hits[key], [each.name for each in of])
    lost = 1 - hits["class_in_ten"].sum() / hits["class_in_ten_true"].sum()
    report.figures["loss_percent"] = round(100 * float(lost), 2)
    words = "  relative loss by found boxes, where there is none all is lost"
    report.table.add_row(words, f"{100 * lost:.1f} %", "", str(len(articles)), "", "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="archive of street photos")
    parser.add_argument("--lake", default="", help="lake of the run; default: the settings'")
    parser.add_argument("--run", default="", help="run in which articles are searched for; none: they are not")
    parser.add_argument("--timed", action="store_true", help="measure look_ms, too, by the live run")
    given = parser.parse_args()
    photos, dataset = StreetPhotos(given.photos), labelled_photos.read(str(given.photos))
    run = open_run(given.run, **place_of(given.lake)) if given.run else None
    lake, report = Lake(read_settings(**place_of(given.lake)).lake), Report(photos.genders)
    models = looking.load(lake)
    seen, sights = see(photos, models.eyes, models.onlooker)
    report_poses(report, poses(photos, seen, sights))
    report_genders(report, told_genders(photos, seen, sights))
    if sha256 := detectors.champion(lake):
        report_precision(report, detectors.read(lake, sha256), dataset)
    report_articles(report, dataset, worn.find_all(dataset, seen, models), run)
    for name, met in box_hits(photos, seen, sights).items():
        report.share(f"box_{name}", f"{name.replace('_', ' ')}: the box by keypoints meets it", [*met.values()], [*met])
    masks = outlines(photos, seen)
    report.figures["mask_iou"] = round(float(np.mean(masks)), 4)
    report.table.add_row("person's mask, mean IoU", f"{np.mean(masks):.3f}", "", str(len(masks)), "", "")
    parts = look_ms(photos, given.lake) if given.timed else None
    report.figures["look_ms"], report.figures["look_ms_parts"] = parts and parts["all"], parts
    out.print(report.table)
    print(json.dumps(report.figures))


if __name__ == "__main__":
    main()
