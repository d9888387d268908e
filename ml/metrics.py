"""How good lists are: the nine percentages of the seed report, and recall.

Protocol (that of the seed report on ResNet50 features and the Fashion Product Images data set): take the products whose
articleType has at least 500 products; for each, the share of its ten unfiltered neighbours that have the same
articleType, the same gender, or both; a product counts as right at tolerance t when its error, 1 − share, is at most t.
Shares are over ten: in a list with fewer neighbours those that are missing count as wrong.
"""

from __future__ import annotations

import numpy as np

TOLERANCES = (0.2, 0.1, 0.0)
K = 10
MISSING = -1
"""Code of an attribute that a product does not have; it equals nothing."""


def hits(neighbours: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which neighbours share their query's attribute.

    Args:
        neighbours: int (n, k), indices among the n products, −1 where a list is shorter.
        codes: int (n,), the attribute's code of each product, −1 where it has none.

    Returns:
        bool (n, k); a missing neighbour or attribute is no hit.
    """
    return (codes[neighbours] == codes[:, None]) & (neighbours >= 0) & (codes[:, None] != MISSING)


def share_of_hits(neighbours: np.ndarray, codes: np.ndarray, asked: np.ndarray | None = None) -> float:
    """Percentage of the lists' places whose item shares the query's attribute; NaN where no query has one.

    Arguments as those of `hits`; `asked`, bool (n,), chooses the queries.
    """
    chosen = codes != MISSING if asked is None else asked & (codes != MISSING)
    return 100 * float(hits(neighbours, codes)[chosen].mean()) if chosen.any() else float("nan")


def nine_percentages(
    neighbours: np.ndarray,
    article_types: np.ndarray,
    genders: np.ndarray,
    min_products: int = 500,
    asked: np.ndarray | None = None,
) -> dict[str, float]:
    """The share (0–100) of products that are right, as `articleType_0.2`, `gender_0.1`, `both_0`, …

    Args:
        neighbours: int (n, 10), each product's unfiltered list as indices, −1 where it is shorter.
        article_types, genders: int (n,) codes, −1 where missing.
        min_products: products an articleType needs to take part.
        asked: bool (n,), the products whose lists are judged, such as those held out from training; None: all.

    Returns:
        Nine percentages and `products`, how many products took part; percentages are NaN when none did.
    """
    known = article_types[article_types != MISSING]
    counts = np.bincount(known, minlength=1)
    chosen = (article_types != MISSING) & (counts[np.maximum(article_types, 0)] >= min_products)
    if asked is not None:
        chosen &= asked
    figures: dict[str, float] = {"products": int(chosen.sum())}
    for name, wrong in wrong_neighbours(neighbours, article_types, genders).items():
        for tolerance in TOLERANCES:
            right = wrong[chosen] <= round(tolerance * K)  # in tenths: 1 − 0.8 ≤ 0.2 is false in floating point
            figures[f"{name}_{tolerance:g}"] = float(100 * right.mean()) if len(right) else float("nan")
    return figures


def wrong_neighbours(neighbours: np.ndarray, article_types: np.ndarray, genders: np.ndarray) -> dict[str, np.ndarray]:
    """How many of each product's ten neighbours are wrong in `articleType`, in `gender`, and in either: int (n,).

    Arguments as those of `nine_percentages`; a neighbour that is missing is wrong. The third is called `both`, as a
    neighbour is right when both are.
    """
    same_type, same_gender = hits(neighbours, article_types), hits(neighbours, genders)
    right = {"articleType": same_type, "gender": same_gender, "both": same_type & same_gender}
    return {name: K - hit.sum(axis=1) for name, hit in right.items()}


def share_right(wrong: np.ndarray) -> np.ndarray:
    """Percentage of products whose wrong neighbours, int (n,), number at most 0 … 10: float (11,); NaN where none."""
    return np.array([100 * float((wrong <= limit).mean()) if len(wrong) else np.nan for limit in range(K + 1)])


def confusions(neighbours: np.ndarray, codes: np.ndarray, asked: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """The pairs of kinds whose confusion makes most products wrong: (the product's, its neighbour's, products).

    Args:
        neighbours: int (n, k), indices among the n products, −1 where a list is shorter.
        codes: int (n,), the kind of each product, −1 where it has none; those are left out.
        asked: bool (n,), the products whose lists count.
        most: pairs to return, the costliest first.
    """
    queries, ranks = np.nonzero(~hits(neighbours, codes) & (neighbours >= 0) & (asked & (codes != MISSING))[:, None])
    shown = codes[neighbours[queries, ranks]]
    once = np.unique(np.stack([queries, codes[queries], shown])[:, shown != MISSING], axis=1)  # a product counts once
    pairs, counts = np.unique(once[1:], axis=1, return_counts=True)
    worst = np.argsort(-counts, kind="stable")[:most]
    return [(int(pairs[0, at]), int(pairs[1, at]), int(counts[at])) for at in worst]


def accuracy_among(probabilities: np.ndarray, classes: np.ndarray, chosen: np.ndarray) -> float:
    """Percentage of the samples of some classes whose likeliest class among those is right; NaN without samples.

    Args:
        probabilities: float32 (n, c).
        classes: int (n,), true classes; −1 where it is none of the c.
        chosen: int (m,), the classes that take part, as if a classifier knew no other.
    """
    asked = np.isin(classes, chosen)
    likeliest = chosen[probabilities[asked][:, chosen].argmax(axis=1)] if asked.any() else np.empty(0, int)
    return 100 * float((likeliest == classes[asked]).mean()) if asked.any() else float("nan")


def interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, 0–1, of n samples that are independent (Wilson 1927); NaN of none."""
    if not n:
        return float("nan"), float("nan")
    z = 1.959964
    middle, reach = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float((middle - reach) / (1 + z * z / n)), float((middle + reach) / (1 + z * z / n))


def agree(lists: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether one of two ranked lists begins with the other, bool (n,).

    So it is with the lists of one product in two catalogues, once what only one of them has, or has otherwise, is left
    out: of the products that both have and whose similarities are the same, each list names those that come first, and
    the one in which others leave more room names more of them.

    Args:
        lists, others: int (n, k), items best first; what is left out is −1, wherever it stood.
    """
    first, second = _to_the_left(lists), _to_the_left(others)
    return ((first == second) | (first < 0) | (second < 0)).all(axis=1)


def _to_the_left(lists: np.ndarray) -> np.ndarray:
    return np.take_along_axis(lists, np.argsort(lists < 0, axis=1, kind="stable"), axis=1)


def recall_at_k(found: np.ndarray, exact: np.ndarray) -> float:
    """Mean share of the exact lists' items that the found lists hold; NaN where every exact list is empty.

    Args:
        found: int (n, j), indices of the lists to judge, −1 past a list's end.
        exact: int (n, k), those of the exact lists; an empty one takes no part.

    Source: the measure of ANN-Benchmarks (Aumüller, Bernhardsson, Faithfull 2020), without its tie tolerance.
    """
    there = exact >= 0
    matched = ((exact[:, :, None] == found[:, None, :]).any(axis=2) & there).sum(axis=1)
    due = there.sum(axis=1)
    return float((matched[due > 0] / due[due > 0]).mean()) if due.any() else float("nan")
