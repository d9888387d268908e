"""A run is a closed chain: what its steps read, what they vouch for, and what other nights and releases leave of it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from infra.errors import UserError
from jobs import similar as similar_step
from jobs.run import Reading, StepResult, TableVersion, check_chain
from jobs.step import execute
from tests.catalogues import embedded, mapped, open_run, write_result

N = 40
COLOURS = {"one": ("Blue", "Red"), "another": ("Red", "Amber")}
"""Of two catalogues; cells are numbered by value, so Red is another cell in each."""


def night(lake, name, catalogue="one"):
    """A run of N products whose steps up to embed are done."""
    rng = np.random.default_rng(1)
    products = [
        {
            "product_id": number,
            "gender": "Men",
            "baseColour": COLOURS[catalogue][number % 2],
            "derivedType": "Men Shirts",
            "image_sha256": f"{number:064d}",
        }
        for number in range(1, N + 1)
    ]
    features = {product["image_sha256"]: rng.normal(size=6).tolist() for product in products}
    return embedded(open_run(lake, name, cell_min=10), products, features)


def missing_in_shortlists(run):
    """Cell and product for which the shortlist does not begin with ten members of the cell, those best by embedding."""
    products = run.table("products").read().to_pylist()
    rows = {row["product_id"]: row["embedding"] for row in run.table("embeddings").read().to_pylist()}
    shortlists = {row["product_id"]: row["items"] for row in run.table("shortlists").read().to_pylist()}
    missing = []
    for cell in run.table("cells").read().to_pylist():
        for filters in json.loads(cell["filters"]):
            inside = [row["product_id"] for row in products if all(row[f] == value for f, value in filters.items())]
            for product in (row["product_id"] for row in products):
                best = sorted((-np.dot(rows[product], rows[item]), item) for item in inside if item != product)[:10]
                met = [item for item in shortlists[product] if item in inside]
                missing += [(cell["cell"], product)] * (met[:10] != [item for _, item in best])
    return missing


def test_a_night_that_computes_while_another_goes_through_vouches_for_its_own_cells(lake, monkeypatch):
    first, second = night(lake, "2026-01-01"), night(lake, "2026-01-02", "another")
    compute = similar_step._shortlists

    def with_another_night_in_between(panels, master):
        monkeypatch.setattr(similar_step, "_shortlists", compute)
        execute("similar", second)
        return compute(panels, master)

    monkeypatch.setattr(similar_step, "_shortlists", with_another_night_in_between)
    execute("similar", first)
    assert first.table("shortlists").read().num_rows
    assert missing_in_shortlists(first) == []
    assert missing_in_shortlists(second) == []
    assert first.table("cells").version != second.table("cells").version
    check_chain(first, ["similar"])
    check_chain(second, ["similar"])


def test_a_result_names_what_it_was_made_of_and_each_attempt_is_kept(lake):
    run = night(lake, "2026-01-01")
    first = execute("candidates", run)
    version = run.result("catalog").tables["products"]
    assert first.inputs["products"] == TableVersion(version, lake.table("products", version).content)
    assert set(first.inputs) == {"products", "features"}
    assert first.contents == {"candidates": lake.table("candidates", first.tables["candidates"]).content}
    assert first.settings["cell_min"] == 10
    assert first.release
    again = execute("candidates", run)
    assert again.skipped
    assert again.attempt != first.attempt
    assert run.result("candidates") == again
    for result in (first, again):
        stored = json.loads(lake.read_bytes(f"runs/2026-01-01/candidates.{result.attempt}.json"))
        assert StepResult.of(stored) == result


def test_no_result_holds_a_secret_or_a_place(lake):
    run = night(lake, "2026-01-01")
    settings = run.settings.model_copy(
        update={
            "dataset": "https://u:hunter2@x/y",
            "store": "postgresql://u:hunter2@h/d",
            "image_hosts": ("images.corp", "10.0.0.0/8"),
        }
    )
    execute("candidates", replace(run, settings=settings))
    stored = lake.read_bytes("runs/2026-01-01/candidates.json")
    assert not [place for place in (b"hunter2", b"images.corp", b"10.0.0.0") if place in stored]


def test_a_step_run_again_with_another_outcome_opens_the_chain_and_the_message_says_what_to_run(lake):
    run = night(lake, "2026-01-01")
    execute("candidates", run)
    check_chain(run, ["candidates"])
    night(lake, "2026-01-01", "another")  # catalog and embed again, with other attributes
    with pytest.raises(
        UserError, match="candidates read version 0 of products, and step catalog .* version 1"
    ) as error:
        check_chain(run, ["candidates"])
    assert "lookalike step candidates --run 2026-01-01" in error.value.remedy
    execute("candidates", run)
    check_chain(run, ["candidates"])


def test_a_step_run_again_with_the_same_outcome_leaves_the_chain_closed(lake):
    run = night(lake, "2026-01-01")
    execute("candidates", run)
    night(lake, "2026-01-02", "another")
    night(lake, "2026-01-01")
    check_chain(run, ["candidates"])


def test_a_mapping_with_other_fields_opens_the_chain_though_the_products_are_the_same(lake):
    run = mapped(night(lake, "2026-01-01"), fields=["baseColour", "gender"])
    execute("similar", run)
    check_chain(run, ["similar"])
    mapped(run, fields=["baseColour"])
    assert run.fields == ("baseColour",)
    with pytest.raises(UserError, match="similar was run for the fields baseColour, gender, .* the fields baseColour"):
        check_chain(run, ["similar"])
    execute("similar", run)
    check_chain(run, ["similar"])


def test_embedding_alone_with_another_embedder_opens_the_chain(lake):
    run = night(lake, "2026-01-01")
    execute("candidates", run)
    embed = run.result("embed")
    figures, contents = embed.figures | {"embedder": "another"}, {"features": "by another embedder"}
    write_result(run, "embed", tables=embed.tables, figures=figures, contents=contents)
    with pytest.raises(UserError, match="step candidates read version .* of features"):
        check_chain(run, ["candidates"])


def test_a_result_of_a_later_release_is_read_and_one_without_inputs_is_to_be_made_again(lake):
    run = night(lake, "2026-01-01")
    later = asdict(execute("candidates", run)) | {"unheard_of": {"a": 1}}
    lake.write_bytes("runs/2026-01-01/candidates.json", json.dumps(later).encode())
    check_chain(run, ["candidates"])
    earlier = {"rows": 1, "files": 1, "rejects": 0, "seconds": 1.0, "skipped": False, "tables": {"candidates": 0}}
    lake.write_bytes(
        "runs/2026-01-01/candidates.json", json.dumps(earlier | {"figures": {"derived_types": 1}}).encode()
    )
    assert run.result("candidates").figures["derived_types"] == 1
    with pytest.raises(UserError, match="earlier release") as error:
        check_chain(run, ["candidates"])
    assert "lookalike step candidates --run 2026-01-01" in error.value.remedy


def test_a_step_goes_on_reading_what_it_began_with(lake):
    run = replace(night(lake, "2026-01-01"), reading=Reading())
    before = run.table("products").version
    night(lake, "2026-01-01", "another")
    assert run.table("products").version == before
    assert open_run(lake, "2026-01-01").table("products").version == before + 1


def test_a_published_run_is_read_as_it_was_published(lake):
    run = night(lake, "2026-01-01")
    results = {step: asdict(run.result(step)) for step in ("catalog", "embed")}
    published = replace(run, manifest=json.loads(json.dumps({"results": results})))
    before = run.table("products").version
    night(lake, "2026-01-01", "another")
    assert published.table("products").version == before
    assert published.result("catalog") == StepResult.of(results["catalog"])


def test_what_went_back_to_an_earlier_state_is_computed_again_and_is_the_same(lake):
    first = execute("candidates", night(lake, "2026-01-01"))
    night(lake, "2026-01-02", "another")
    other = execute("candidates", open_run(lake, "2026-01-02", cell_min=10))
    assert not other.skipped
    back = execute("candidates", night(lake, "2026-01-03"))
    assert back.contents == first.contents
