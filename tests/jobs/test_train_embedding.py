"""train_embedding: a challenger becomes champion only when it is better, and the next refresh uses it."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import UserError
from jobs import extraction, heldout
from jobs import train_embedding as training
from jobs.champion import EMBEDDERS, Champion, find_champion, read_embedder
from jobs.features import read_all_features, read_embeddings, read_features, read_known, to_matrix
from jobs.run import open_run as open_by_name
from jobs.step import execute
from ml import embedding, images, split
from tests.catalogues import embedded, good_files, open_run, pulled, write_result, zip_bytes

N, D = 600, 16
GENDERS, TYPES, COLOURS = ("Men", "Women"), ("Shirts", "Watches", "Heels"), ("Red", "Blue")


def sha(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def run(lake, monkeypatch):
    """A run of one articleType with 500 products and more, whose features show gender and colour beneath much noise."""
    rng = np.random.default_rng(4)
    directions, noise = rng.normal(size=(4, D)), 4 * rng.normal(size=(4, D))
    products, features = [], {}
    for number in range(N):
        gender, colour = rng.integers(0, 2, 2)
        shown = directions[gender] + directions[2 + colour] + rng.normal(size=D) + rng.normal(size=4) @ noise
        features[sha(number)] = shown.astype(np.float32).tolist()
        products.append(
            {
                "product_id": number,
                "gender": GENDERS[gender],
                "articleType": "Shirts",
                "subCategory": "Topwear",
                "baseColour": COLOURS[colour],
                "image_sha256": sha(number),
            }
        )
    return embedded(open_run(lake, "2026-01-01"), products, features)


def test_a_better_challenger_is_promoted_and_the_next_refresh_uses_it(run):
    assert find_champion(run.lake, "model") == Champion("untrained", "model", "")
    result = execute("train_embedding", run)
    figures = result.figures
    assert figures["promoted"]
    assert figures["challenger_both_0"] > figures["champion_both_0"]
    assert find_champion(run.lake, "model") == Champion(figures["embedder"], "model", "")
    assert find_champion(run.lake, "another backbone") == Champion("untrained", "another backbone", "")
    embedder = read_embedder(run, figures["embedder"])
    for learnt in (True, False):
        known = {name: values.tolist() for name, values in read_known(run, embedder, learnt).items()}
        at_once = embedder.apply(read_all_features(run), known)
        assert np.array_equal(read_embeddings(run, embedder, "model", learnt=learnt), at_once)
        some = np.array([7, 2])
        assert np.array_equal(read_embeddings(run, embedder, "model", learnt=learnt, rows=some), at_once[some])
    hidden = split.sides_of(run.table("products").read(["image_sha256"])["image_sha256"].to_pylist()) != split.TRAIN
    assert hidden.any()
    assert all(values[hidden].tolist() == [None] * hidden.sum() for values in read_known(run, embedder, True).values())
    assert None not in read_known(run, embedder, False)["gender"]


def test_lists_use_all_that_the_catalogue_knows_and_measures_only_what_may_be_learnt_from(run):
    trained = execute("train_embedding", run).figures["embedder"]
    figures = run.result("embed").figures | {"embedder": trained}
    write_result(run, "embed", tables=run.result("embed").tables, figures=figures)
    execute("similar", run)
    rows, stored = run.table("products").read(["product_id", "image_sha256"]), run.table("embeddings").read()
    assert stored["product_id"].equals(rows["product_id"])
    hidden = split.sides_of(rows["image_sha256"].to_pylist()) != split.TRAIN
    assert [each is not None for each in stored["unlabelled"].to_pylist()] == hidden.tolist()
    assert np.array_equal(to_matrix(stored["embedding"]), read_embeddings(run))
    known = heldout.read_products(run)
    assert np.array_equal(known.embeddings, read_embeddings(run, learnt=True))
    assert known.unlabelled.tolist() == hidden.tolist()
    assert (known.embeddings != to_matrix(stored["embedding"])).any(axis=1).tolist() == hidden.tolist()


def test_the_same_products_are_not_trained_on_again(run):
    first = execute("train_embedding", run)
    again = execute("train_embedding", run)
    assert (again.skipped, again.figures, again.tables) == (True, first.figures, first.tables)


def test_a_challenger_that_is_no_better_is_kept_but_not_used(run, monkeypatch):
    first = execute("train_embedding", run)
    monkeypatch.setattr(training, "CODE_VERSION", -1)
    monkeypatch.setattr(embedding, "EPOCHS", 1)
    monkeypatch.setattr(embedding, "LEARNING_RATE", 0.0)
    second = execute("train_embedding", run)
    assert not second.figures["promoted"]
    assert find_champion(run.lake, "model").embedder == first.figures["embedder"]
    rows = run.lake.table("embedders").read().sort_by("number").to_pylist()
    assert [row["promoted"] for row in rows] == [True, False]
    assert json.loads(rows[1]["judged"])["champion"]["both_0"] == json.loads(rows[0]["judged"])["challenger"]["both_0"]


def trained_by_another_release(run):
    """The champion as a release with another layout stored it."""
    sha256 = execute("train_embedding", run).figures["embedder"]
    arrays = dict(read_embedder(run, sha256).arrays) | {"layout": np.array(1)}
    data = embedding.Embedder(arrays).to_bytes()
    other = hashlib.sha256(data).hexdigest()
    run.lake.write_bytes(f"embedders/{other}.npz", data)
    row = run.lake.table("embedders").read().to_pylist()[0] | {"sha256": other, "file": f"embedders/{other}.npz"}
    row["number"] += 1
    part = run.lake.write_part("embedders", pa.Table.from_pylist([row], schema=EMBEDDERS), salt="other")
    run.lake.table("embedders").commit([part], EMBEDDERS, run=run.name, fingerprint="other", mode="append")
    return other


def test_a_champion_that_this_release_cannot_apply_is_passed_over_until_another_is_trained(run):
    other = trained_by_another_release(run)
    assert find_champion(run.lake, "model") == Champion("untrained", "model", "")
    figures = execute("train_embedding", run).figures
    assert figures["promoted"]
    assert find_champion(run.lake, "model").embedder == figures["embedder"] != other


def test_a_run_whose_embedder_this_release_cannot_apply_is_a_users_error(run):
    with pytest.raises(UserError, match=f"has layout 1, and this release applies layout {embedding.LAYOUT}"):
        read_embedder(run, trained_by_another_release(run))


def test_an_embedder_whose_file_has_changed_is_a_users_error(run):
    sha256 = execute("train_embedding", run).figures["embedder"]
    file = f"embedders/{sha256}.npz"
    run.lake.write_bytes(file, run.lake.read_bytes(file)[:-1])
    with pytest.raises(UserError, match=f"expected {sha256}"):
        find_champion(run.lake, "model")


def test_too_few_products_are_a_users_error(lake):
    run = open_run(lake, "2026-01-01")
    products = [{"product_id": 1, "gender": "Men", "articleType": "Shirts", "image_sha256": sha(1)}]
    embedded(run, products, {sha(1): [1.0, 2.0]})
    with pytest.raises(UserError, match="1 products are too few"):
        training.train_embedding(run)


def test_latest_is_the_newest_embedded_run(run, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_LAKE", run.lake.uri)
    run.lake.write_bytes("runs/2026-02-01/pull.json", b"{}")
    assert open_by_name("latest").name == "2026-01-01"


def test_without_an_embedded_run_there_is_no_latest(lake, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_LAKE", lake.uri)
    with pytest.raises(UserError, match="no run is embedded yet"):
        open_by_name("latest")


# Tuning the backbone --------------------------------------------------------------------------------------------------


@pytest.fixture
def tunable(lake, monkeypatch, tmp_path):
    """An embedded run of 40 drawn products, whose backbone is to be tuned."""
    monkeypatch.setattr(embedding, "EPOCHS", 2)
    small = {"input_height": 32, "input_width": 32, "embedding_convolutions": 1, "embedding_epochs": 1}
    run = open_run(lake, "2026-01-01", embedding="finetune", scratch=tmp_path / "scratch", **small)
    run = pulled(run, zip_bytes(good_files(40)))
    execute("catalog", run)
    execute("embed", run)
    return run


def test_a_tuned_backbone_is_promoted_with_its_embedder_and_the_next_refresh_embeds_with_it(tunable, monkeypatch):
    monkeypatch.setattr(training, "promotes", lambda challenger, champion: True)  # too few products to judge it by
    run, before = tunable, tunable.result("embed").figures
    result = execute("train_embedding", run)
    champion = find_champion(run.lake, before["base"])
    assert (champion.embedder, champion.tuned) == (result.figures["embedder"], result.figures["tuned"])
    assert champion.tuned
    assert champion.model != before["model"] == before["base"]
    assert not list(run.settings.scratch.iterdir())
    row = run.lake.table("embedders").read().to_pylist()[0]
    assert [len(values["loss"]) for values in json.loads(row["history"]).values()] == [2, 1, 2]

    after = execute("embed", run)
    assert after.skipped  # the training left its features behind
    assert (after.figures["model"], after.figures["base"]) == (champion.model, before["base"])
    assert (after.figures["embedder"], after.figures["tuned"]) == (champion.embedder, champion.tuned)
    old = read_features(run, "average", model=before["model"])
    assert not np.array_equal(read_features(run, "average"), old)
    assert read_embeddings(run).shape[0] == len(old)

    monkeypatch.setattr(training, "promotes", lambda challenger, champion: False)
    onward = execute("train_embedding", run)  # from the champion's weights
    assert onward.figures["tuned"] not in ("", champion.tuned)
    assert find_champion(run.lake, before["base"]) == champion
    again = execute("train_embedding", run)
    assert (again.skipped, again.figures) == (True, onward.figures)
    file = f"backbones/{champion.tuned}.npz"
    run.lake.write_bytes(file, run.lake.read_bytes(file)[:-1])
    with pytest.raises(UserError, match="the tuned weights have SHA-256"):
        extraction.read_tuned(run.lake, champion.tuned)


def test_a_training_that_fails_once_it_has_trained_is_not_done_again(tunable, monkeypatch):
    trained = []

    def fail(*arguments):
        trained.append(arguments[-1])
        raise OSError("the lake is away")

    with monkeypatch.context() as patch:
        patch.setattr(training, "compare", fail)
        with pytest.raises(OSError, match="away"):
            execute("train_embedding", tunable)
    (challenger,) = trained
    with monkeypatch.context() as patch:
        patch.setattr(images, "load", fail)  # without images there is no epoch
        figures = execute("train_embedding", tunable).figures
    assert (figures["embedder"], figures["tuned"]) == (challenger.embedder.fingerprint, challenger.tuned)
    history = json.loads(tunable.lake.table("embedders").read()["history"][0].as_py())
    assert len(history["tuning"]["loss"]) == 1
    assert not list(tunable.settings.scratch.iterdir())  # what is committed needs no checkpoints
