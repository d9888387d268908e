"""The step candidates: one medoid a derivedType, from a small hand-made lake."""

import numpy as np
import pytest

from infra.errors import UserError
from infra.lake import Lake
from infra.settings import read_settings
from jobs import step
from jobs.run import Run
from tests.catalogues import embedded, open_run

# id, derivedType, image, feature
ROWS = [
    (10, "Men Shirts", "a", [1, 0.3]),
    (11, "Men Shirts", "b", [1, 0]),
    (12, "Men Shirts", "c", [1, -0.3]),
    (20, "Women Sarees", "d", [0, 1]),
    (30, None, "e", [1, 1]),
    (40, "Men Belts", "f", [0.2, 1]),
    (41, "Men Belts", "f", [0.2, 1]),  # the same image: a tie
]


def lake_with(folder, rows, name="night"):
    """A run whose catalog and embed are done: what those steps would have committed for `rows`."""
    products = [{"product_id": i, "derivedType": kind, "image_sha256": image} for i, kind, image, _ in rows]
    run = open_run(Lake((folder / "lake").as_uri()), name)
    return embedded(run, products, {image: vector for _, _, image, vector in rows})


def test_every_derived_type_has_its_medoid_in_the_order_of_their_names(tmp_path):
    run = lake_with(tmp_path, ROWS)
    result = step.execute("candidates", run)
    rows = run.table("candidates").read().to_pylist()
    found = [(row["derivedType"], row["product_id"], row["members"]) for row in rows]
    assert found == [("Men Belts", "40", 2), ("Men Shirts", "11", 3), ("Women Sarees", "20", 1)]
    assert [row["similarity"] for row in rows] == pytest.approx([1, (1 + 2 / np.sqrt(1.09)) / 3, 1], abs=2e-3)
    assert (result.rows, result.files, result.skipped) == (3, 1, False)
    assert result.figures == {"derived_types": 3, "singletons": 1, "without_derived_type": 1}


def test_the_same_products_and_model_are_skipped_whatever_the_run_is_called(tmp_path):
    first = step.execute("candidates", lake_with(tmp_path, ROWS))
    again = step.execute("candidates", lake_with(tmp_path, ROWS, "next"))
    assert again.skipped
    assert (again.tables, again.rows, again.figures) == (first.tables, first.rows, first.figures)


def test_a_changed_catalogue_gives_new_candidates(tmp_path):
    step.execute("candidates", lake_with(tmp_path, ROWS))
    run = lake_with(tmp_path, [row for row in ROWS if row[0] != 11], "next")
    result = step.execute("candidates", run)
    assert not result.skipped
    assert run.table("candidates").read()["product_id"].to_pylist() == ["40", "10", "20"]


def test_a_catalogue_without_derived_types_gives_an_empty_table(tmp_path):
    run = lake_with(tmp_path, [(10, None, "a", [1, 0]), (11, None, "b", [0, 1])])
    result = step.execute("candidates", run)
    assert run.table("candidates").read().num_rows == 0
    assert result.figures == {"derived_types": 0, "singletons": 0, "without_derived_type": 2}
    assert step.execute("candidates", lake_with(tmp_path, [(10, None, "a", [1, 0]), (11, None, "b", [0, 1])])).skipped


def test_candidates_before_embed_says_which_step_to_run(tmp_path):
    lake = Lake((tmp_path / "lake").as_uri())
    with pytest.raises(UserError, match="step catalog --run night"):
        step.execute("candidates", Run("night", read_settings(lake=lake.uri), lake))
