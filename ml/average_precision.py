"""How well articles are found: average precision at an overlap of a half, with intervals.

Protocol (COCO's, at one overlap and with every point of the curve): in each photo each found box of a class, the surest
first, takes the labelled box of the class that it overlaps most, of those not yet taken, if by `OVERLAP` at least. What
takes one is right, what takes none is wrong; but what so overlaps an ignored box instead counts neither way. Over all
photos by descending confidence that makes a curve of precision by recall; each precision is raised to the highest at
any higher recall, and the area under the curve is the average precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ml.articles import CLASSES, Articles, Labels, overlaps

OVERLAP = 0.5
SAMPLES, SEED = 1000, 0
"""Bootstrap samples that an interval follows from."""
SURE = 0.95
"""Confidence of the intervals."""


class Matches(NamedTuple):
    """The found boxes of a class that count, the surest first: of which photo, and whether they are right; and how many
    labelled boxes each photo has. `photos` int (n,), `right` bool (n,), `labelled` int (photos,).
    """

    photos: np.ndarray
    right: np.ndarray
    labelled: np.ndarray


@dataclass(frozen=True)
class Precision:
    """Average precision of each class and its 95 % interval, float (classes,) and (classes, 2), NaN without labels; the
    mean over the others, and its interval. Shares, 0 to 1.
    """

    classes: np.ndarray
    intervals: np.ndarray
    mean: float
    interval: tuple[float, float]


def judge(
    found: Sequence[Articles], labels: Sequence[Labels], chosen: Sequence[int] = range(len(CLASSES))
) -> Precision:
    """The precision of what was found in each photo against its labels, for the classes at `chosen`.

    The intervals are of the photos: samples of as many, drawn with replacement (Efron 1979), percentiles of their
    precisions.
    """
    matches = [match(found, labels, of_class) for of_class in chosen]
    once = np.ones(len(labels), np.int64)
    values = np.array([area(of_class, once) for of_class in matches])
    draws = np.random.default_rng(SEED).multinomial(len(labels), once / len(labels), SAMPLES) if labels else once[None]
    drawn = np.array([[area(of_class, times) for of_class in matches] for times in draws])
    intervals = np.array([_interval(column) for column in drawn.T])
    return Precision(values, intervals, _mean(values), _interval(np.array([_mean(row) for row in drawn])))


def match(found: Sequence[Articles], labels: Sequence[Labels], of_class: int) -> Matches:
    """What of a class is right, of that which was found in each photo."""
    photos, right, sure = list[int](), list[bool](), list[float]()
    for at, (articles, known) in enumerate(zip(found, labels, strict=True)):
        chosen, wanted = articles.classes == of_class, known.classes == of_class
        for confidence, verdict in zip(
            articles.confidences[chosen],
            _verdicts(articles.boxes[chosen], known.boxes[wanted], known.ignored[wanted]),
            strict=True,
        ):
            if verdict is not None:
                photos.append(at)
                right.append(verdict)
                sure.append(float(confidence))
    order = np.argsort(-np.array(sure), kind="stable")
    labelled = [int(((known.classes == of_class) & ~known.ignored).sum()) for known in labels]
    return Matches(np.array(photos, np.int64)[order], np.array(right, bool)[order], np.array(labelled, np.int64))


def _verdicts(boxes: np.ndarray, wanted: np.ndarray, ignored: np.ndarray) -> list[bool | None]:
    """Whether each box, the surest first, is right, of a class in one photo; None where it counts neither way."""
    shared, free, verdicts = overlaps(boxes, wanted), ~ignored, list[bool | None]()
    for row in shared:
        fits = np.where(free, row, 0)
        if fits.max(initial=0) >= OVERLAP:
            free[fits.argmax()] = False
            verdicts.append(True)
        else:
            verdicts.append(None if row[ignored].max(initial=0) >= OVERLAP else False)
    return verdicts


def area(matches: Matches, times: np.ndarray) -> float:
    """Average precision where each photo counts so many times, int (photos,); NaN without labelled boxes."""
    labelled = int((matches.labelled * times).sum())
    if not labelled:
        return float("nan")
    weight = times[matches.photos]
    right = np.cumsum(weight * matches.right)
    precision = right / np.cumsum(weight).clip(1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * weight * matches.right).sum() / labelled)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Of what samples gave; NaN where none gave a value."""
    known, tail = values[~np.isnan(values)], 100 * (1 - SURE) / 2
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (float("nan"),) * 2
    return float(low), float(high)
