"""Image search without a store: a run's products in memory, for the many workers of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.store import Item
from jobs.features import to_matrix
from jobs.filters import Filters, passing
from jobs.ids import to_text
from jobs.run import Run
from jobs.serve.known import Gallery, attributes_of
from jobs.serve.search import Answer, Finder, K, Seen, check_fields
from ml.similarity import nearest

INDEX = "\0index"
"""Column with the products' indices, beside fields of any name."""
OTHERS = "others"
"""Column of `embeddings` where the best pair of images is compared."""


class LakeSearcher(Finder[None]):
    """Answers from a run in the lake what the store would answer from it. Not for two threads at once."""

    def __init__(self, run: Run) -> None:
        """Load the models and all embeddings: seconds, and 4 bytes an entry.

        Raises:
            UserError: as `Finder`, or a step of the run is missing.
        """
        rows = run.attributes(["product_id", *run.fields])
        self._rows = rows.append_column(INDEX, pa.array(np.arange(len(rows))))
        self._embeddings, self._owners = _read_embeddings(run, rows["product_id"])
        has_others = len(self._owners) < len(self._embeddings)
        main = self._embeddings[self._owners] if has_others else self._embeddings
        super().__init__(run, Gallery(main, attributes_of(run)))

    def answer(self, place: None, seen: Seen, filters: Filters, k: int = K, exclude: Sequence[str] = ()) -> Answer:
        """The rest of `search`, for what has been seen."""
        check_fields(self.run, filters)
        scores = np.maximum.reduceat(self._embeddings @ seen.embedding, self._owners)

        def similar(filters: Filters, k: int, exclude: Sequence[str] = ()) -> list[Item]:
            return self._best(scores, filters, k, exclude)

        return self._answer(similar, seen, filters, k, exclude)

    def _best(self, scores: np.ndarray, filters: Filters, k: int, exclude: Sequence[str]) -> list[Item]:
        """The best `k` of the products that pass and are not left out, ties to the id that comes first."""
        ids, rows = self._catalogue.ids, passing(self._rows.select([*filters, INDEX]), filters)
        members = rows[INDEX].to_numpy()
        if exclude:
            members = members[~np.isin(members, ids.get_indexer(list(exclude)))]
        best = members[nearest(scores[members], k)]
        return [Item(ids[at], float(scores[at]), len(members)) for at in best]


def _read_embeddings(run: Run, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of all images that are compared, float32 (i, e), and where those of each product begin, int (n,).

    Products come in the order of `ids`, each with its main image first.

    Raises:
        RuntimeError: a product has none.
    """
    table = run.table("embeddings")
    columns = ["product_id", "embedding", *([OTHERS] if OTHERS in table.schema.names else [])]
    rows = table.read(columns)
    place = pc.index_in(ids, value_set=to_text(rows["product_id"]).combine_chunks())
    if place.null_count:
        raise RuntimeError(f"product {ids[pc.is_null(place).to_numpy().argmax()]} has no embedding")
    main = to_matrix(rows["embedding"])[place.to_numpy()]
    if OTHERS not in columns:
        return main, np.arange(len(main))
    lists = rows[OTHERS].combine_chunks().take(place.combine_chunks())
    others = lists.flatten().to_numpy().reshape(-1, main.shape[1])
    firsts = np.append(0, np.cumsum(lists.value_lengths().to_numpy() // main.shape[1])[:-1])
    return np.insert(others, firsts, main, axis=0), firsts + np.arange(len(main))
