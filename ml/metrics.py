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
    same_type, same_gender = hits(neighbours, article_types), hits(neighbours, genders)
    found: dict[str, float] = {"products": int(chosen.sum())}
    for name, hit in {"articleType": same_type, "gender": same_gender, "both": same_type & same_gender}.items():
        wrong = K - hit[chosen].sum(axis=1)  # counted in tenths: 1 − 0.8 ≤ 0.2 is false in floating point
        for tolerance in TOLERANCES:
            right = wrong <= round(tolerance * K)
            found[f"{name}_{tolerance:g}"] = float(100 * right.mean()) if len(right) else float("nan")
    return found


def share_right(neighbours: np.ndarray, article_types: np.ndarray, genders: np.ndarray) -> np.ndarray:
    """Percentage of all products whose wrong neighbours number at most 0 … 10: float (3, 11) by type, gender, both."""
    same_type, same_gender = hits(neighbours, article_types), hits(neighbours, genders)
    wrong = [K - hit.sum(axis=1) for hit in (same_type, same_gender, same_type & same_gender)]
    return np.array([[100 * float((each <= limit).mean()) for limit in range(K + 1)] for each in wrong])


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
