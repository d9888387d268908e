"""train_embedding: a challenger becomes champion only when it is better, and the next refresh uses it."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import UserError
from infra.lake import Lake
from jobs import extraction, heldout, judging
from jobs import train_embedding as training
from jobs.champion import EMBEDDERS, Champion, find_champion, read_embedder, read_rows, use
from jobs.features import read_all_features, read_embeddings, read_features, read_known, to_matrix
from jobs.run import Run, recorded, release
from jobs.step import execute
from ml import embedding, images, split, triplet
from ml.gates import promotes
from tests.catalogues import embedded, good_files, mapped, open_run, pulled, sides_of_images, write_result, zip_bytes

N, D = 2_000, 16
GENDERS, TYPES, COLOURS = ("Men", "Women"), ("Shirts", "Watches", "Heels"), ("Red", "Blue")


def sha(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def base_of(run):
    """Fingerprint of the backbone of the settings."""
    return extraction.choose_model(run.settings).fingerprint


@pytest.fixture
def run(lake, monkeypatch, tmp_path):
    """A run of one articleType, whose features show gender and colour beneath much noise."""
    monkeypatch.setattr(embedding, "EPOCHS", 6)
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
    run = open_run(lake, "2026-01-01", scratch=tmp_path / "scratch")
    embedded(run, products, features, base_of(run))
    told = run.result("catalog")
    write_result(run, "catalog", tables=told.tables, figures=told.figures | {"detail": [80, 60]})
    return run


def test_a_better_challenger_is_promoted_and_the_next_refresh_uses_it(run):
    assert find_champion(run.lake, base_of(run)) == Champion("untrained", base_of(run), "")
    result = execute("train_embedding", run)
    figures = result.figures
    assert figures["promoted"]
    assert figures["challenger_both_0"] > figures["champion_both_0"]
    assert find_champion(run.lake, base_of(run)) == Champion(figures["embedder"], base_of(run), "")
    assert find_champion(run.lake, "another backbone") == Champion("untrained", "another backbone", "")
    embedder = read_embedder(run, figures["embedder"])
    assert embedder.detail == (80, 60)
    for learnt in (True, False):
        known = {name: values.tolist() for name, values in read_known(run, embedder, learnt).items()}
        at_once = embedder.apply(read_all_features(run), known)
        assert np.array_equal(read_embeddings(run, embedder, base_of(run), learnt=learnt), at_once)
        some = np.array([7, 2])
        assert np.array_equal(read_embeddings(run, embedder, base_of(run), learnt=learnt, rows=some), at_once[some])
    hidden = sides_of_images(run.table("products").read(["image_sha256"])["image_sha256"].to_pylist()) != split.TRAIN
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
    hidden = sides_of_images(rows["image_sha256"].to_pylist()) != split.TRAIN
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


def test_a_shops_own_fields_are_learnt_and_other_fields_are_another_training(run):
    histories = []
    for fields in (["baseColour", "gender"], ["baseColour"]):
        assert not execute("train_embedding", mapped(run, for_whom="", fields=fields)).skipped
        histories.append(json.loads(read_rows(run.lake)[-1]["history"])["head"])
    assert histories[0]["field_0_loss"][-1] < histories[0]["field_0_loss"][0]
    assert not {"field_0_loss", "field_1_loss"} & histories[1].keys()
    assert execute("train_embedding", run).skipped


def test_a_challenger_that_is_no_better_is_kept_but_not_used(run, monkeypatch):
    first = execute("train_embedding", run)
    monkeypatch.setattr(training, "CODE_VERSION", -1)
    monkeypatch.setattr(embedding, "EPOCHS", 1)
    monkeypatch.setattr(embedding, "LEARNING_RATE", 0.0)
    second = execute("train_embedding", run)
    assert not second.figures["promoted"]
    assert find_champion(run.lake, base_of(run)).embedder == first.figures["embedder"]
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
    row |= {"number": row["number"] + 1, "release": "earlier", "training": "earlier"}
    part = run.lake.write_part("embedders", pa.Table.from_pylist([row], schema=EMBEDDERS))
    run.lake.table("embedders").commit([part], EMBEDDERS, run=run.name, mode="append")
    return other


def test_a_champion_that_this_release_cannot_apply_is_passed_over_until_another_is_trained(run, monkeypatch):
    other = trained_by_another_release(run)
    monkeypatch.setattr(training, "CODE_VERSION", -1)  # that release did not leave what this one would
    assert find_champion(run.lake, base_of(run)) == Champion("untrained", base_of(run), "")
    figures = execute("train_embedding", run).figures
    assert figures["promoted"]
    assert find_champion(run.lake, base_of(run)).embedder == figures["embedder"] != other


def test_a_run_whose_embedder_this_release_cannot_apply_is_a_users_error(run):
    with pytest.raises(UserError, match=f"has layout 1, and this release applies layout {embedding.LAYOUT}"):
        read_embedder(run, trained_by_another_release(run))


def test_an_embedder_whose_file_has_changed_is_a_users_error(run):
    sha256 = execute("train_embedding", run).figures["embedder"]
    file = f"embedders/{sha256}.npz"
    run.lake.write_bytes(file, run.lake.read_bytes(file)[:-1])
    with pytest.raises(UserError, match=f"expected {sha256}"):
        find_champion(run.lake, base_of(run))


def test_too_few_products_are_a_users_error(lake):
    run = open_run(lake, "2026-01-01")
    products = [{"product_id": 1, "gender": "Men", "articleType": "Shirts", "image_sha256": sha(1)}]
    embedded(run, products, {sha(1): [1.0, 2.0]}, base_of(run))
    with pytest.raises(UserError, match="1 products are too few"):
        training.train_embedding(run)


def test_it_notes_the_products_run_release_and_settings_that_it_learnt_from(run):
    execute("train_embedding", run)
    (row,) = read_rows(run.lake)
    assert (row["run"], row["catalogue"], row["release"]) == (run.name, run.content("products"), release())
    assert json.loads(row["settings"]) == recorded(run.settings)
    assert row["reason"] == "it is better"


def test_a_live_run_that_the_lake_holds_other_products_of_is_refused_unless_it_is_named(run):
    """As where LOOKALIKE_LAKE and LOOKALIKE_STORE are those of two installations, whose runs have the same names."""
    results = {step: asdict(run.result(step)) for step in ("catalog", "embed")}
    execute("train_embedding", replace(run, manifest={"results": results}))
    elsewhere = {**results, "catalog": {**results["catalog"], "contents": {"products": "other"}}}
    with pytest.raises(UserError, match="made of another catalogue than the lake's run 2026-01-01"):
        execute("train_embedding", replace(run, manifest={"results": elsewhere}))
    assert execute("train_embedding", run).skipped


def test_a_run_of_another_backbone_than_the_settings_have_is_refused(run):
    with pytest.raises(UserError, match="was embedded with another backbone"):
        execute("train_embedding", open_run(run.lake, run.name, input_height=96))


def test_a_row_that_another_writer_comes_before_is_written_all_the_same(run, monkeypatch):
    write_part = Lake.write_part
    others = [1]

    def with_another_writer_in_between(lake, table, rows):
        part = write_part(lake, table, rows)
        if table == "embedders" and others:
            others.pop()
            use(lake, base_of(run), None)
        return part

    monkeypatch.setattr(Lake, "write_part", with_another_writer_in_between)
    figures = execute("train_embedding", run).figures
    assert [(row["number"], row["sha256"]) for row in read_rows(run.lake)] == [
        (0, "untrained"),
        (1, figures["embedder"]),
    ]


@pytest.mark.parametrize("killed_at", ["_result", "remember", "store"])
def test_a_training_killed_after_its_row_was_written_ends_by_that_row(run, monkeypatch, killed_at):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    write_bytes = Lake.write_bytes

    def kill_at_the_result(lake, name, data):
        if name.startswith(f"runs/{run.name}/train_embedding"):
            raise Killed
        write_bytes(lake, name, data)

    with monkeypatch.context() as patch:
        if killed_at == "_result":
            patch.setattr(training, "_result", kill)
        elif killed_at == "remember":
            patch.setattr(Run, "remember", kill)
        else:
            patch.setattr(Lake, "write_bytes", kill_at_the_result)
        with pytest.raises(Killed):
            execute("train_embedding", run)
    (row,) = read_rows(run.lake)
    figures = execute("train_embedding", run).figures
    assert (figures["embedder"], figures["promoted"]) == (row["sha256"], row["promoted"]) == (row["sha256"], True)
    judged = json.loads(row["judged"])
    assert figures["challenger_both_0"] == round(judged["challenger"]["both_0"], 2)
    assert read_rows(run.lake) == [row]
    assert execute("train_embedding", run).skipped
    assert not list(run.settings.scratch.glob("train_embedding-*")) or killed_at != "store"


def test_a_night_and_a_training_beside_each_other_both_succeed(run):
    night = replace(run, name="2026-01-02")
    for step in ("catalog", "embed"):
        run.lake.write_bytes(f"runs/{night.name}/{step}.json", run.lake.read_bytes(f"runs/{run.name}/{step}.json"))
    with ThreadPoolExecutor(2) as pool:
        trained = pool.submit(execute, "train_embedding", run)
        nights = []
        while not trained.done() or not nights:
            nights.append([execute(step, night) for step in ("embed", "candidates")][0].figures)
    figures = trained.result().figures
    assert figures["promoted"]
    assert {night["embedder"] for night in nights} <= {"untrained", figures["embedder"]}
    assert execute("embed", night).figures["embedder"] == figures["embedder"]


def changed(run, **settings):
    return replace(run, settings=run.settings.model_copy(update=settings))


# Tuning the backbone --------------------------------------------------------------------------------------------------


@pytest.fixture
def tunable(lake, monkeypatch, tmp_path):
    """An embedded run of 72 drawn products, whose backbone is to be tuned."""
    monkeypatch.setattr(embedding, "EPOCHS", 2)
    monkeypatch.setattr(judging, "LEAST_ASKED", 0)  # there are few products to judge it by
    monkeypatch.setattr(judging, "promotes", lambda challenger, champion: True)
    small = {"input_height": 32, "input_width": 32, "embedding_convolutions": 1, "embedding_epochs": 1}
    run = open_run(lake, "2026-01-01", embedding="finetune", scratch=tmp_path / "scratch", **small)
    run = pulled(run, zip_bytes(good_files(72)))
    execute("catalog", run)
    execute("embed", run)
    return run


def test_a_tuned_backbone_whose_training_failed_once_is_promoted_and_the_next_refresh_embeds_with_it(
    tunable, monkeypatch
):
    run, before, trained = tunable, tunable.result("embed").figures, []

    def fail(*arguments):
        trained.append(next(each for each in arguments if isinstance(each, training.Challenger)))
        raise OSError("the lake is away")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_judge", fail)
        with pytest.raises(OSError, match="away"):
            execute("train_embedding", run)
    (challenger,) = trained
    with monkeypatch.context() as patch:
        patch.setattr(images, "load", fail)  # without images there is no epoch: it is not trained again
        result = execute("train_embedding", run)
    assert (result.figures["embedder"], result.figures["tuned"]) == (challenger.embedder.fingerprint, challenger.tuned)
    champion = find_champion(run.lake, before["base"])
    assert (champion.embedder, champion.tuned) == (result.figures["embedder"], result.figures["tuned"])
    assert champion.tuned
    assert champion.model != before["model"] == before["base"]
    assert not list(run.settings.scratch.iterdir())  # what is committed needs no checkpoints
    row = run.lake.table("embedders").read().to_pylist()[0]
    assert [len(values["loss"]) for values in json.loads(row["history"]).values()] == [2, 1, 2]

    after = execute("embed", run)
    assert after.skipped  # the training left its features behind
    assert (after.figures["model"], after.figures["base"]) == (champion.model, before["base"])
    assert (after.figures["embedder"], after.figures["tuned"]) == (champion.embedder, champion.tuned)
    old = read_features(run, "average", model=before["model"])
    assert not np.array_equal(read_features(run, "average"), old)
    assert read_embeddings(run).shape[0] == len(old)

    monkeypatch.setattr(judging, "promotes", lambda challenger, champion: False)
    onward = execute("train_embedding", run)  # from the champion's weights
    assert onward.figures["tuned"] not in ("", champion.tuned)
    assert find_champion(run.lake, before["base"]) == champion
    again = execute("train_embedding", run)
    assert (again.skipped, again.figures) == (True, onward.figures)
    file = f"backbones/{champion.tuned}.npz"
    run.lake.write_bytes(file, run.lake.read_bytes(file)[:-1])
    with pytest.raises(UserError, match="the tuned weights have SHA-256"):
        extraction.read_tuned(run.lake, champion.tuned)


# Learning by triplets -------------------------------------------------------------------------------------------------


def test_a_triplet_network_is_judged_against_the_champion_and_the_next_refresh_goes_by_the_better(tunable, monkeypatch):
    run, before = changed(tunable, embedding="head"), tunable.result("embed").figures
    head = execute("train_embedding", run).figures["embedder"]
    monkeypatch.setattr(judging, "promotes", promotes)
    run = changed(run, embedding="triplet")
    figures = execute("train_embedding", run).figures
    head_row, row = read_rows(run.lake)
    judged = json.loads(row["judged"])
    assert judged["champion"]["both_0"] == json.loads(head_row["judged"])["challenger"]["both_0"]
    assert judged["challenger"].keys() == judged["champion"].keys()
    better = promotes(judged["challenger"], judged["champion"])
    assert (row["promoted"], figures["promoted"], row["reason"] == "it is better") == (better, better, better)
    assert find_champion(run.lake, before["base"]).embedder == (figures["embedder"] if better else head)
    assert (row["model"], row["tuned"]) == (before["model"], "")
    epochs = {name: len(values["loss"]) for name, values in json.loads(row["history"]).items()}
    assert epochs == {"head": 2, "triplets": triplet.EPOCHS, "softmaxes": triplet.SOFTMAX_EPOCHS}
    assert execute("train_embedding", run).skipped

    monkeypatch.setattr(judging, "promotes", lambda challenger, champion: True)
    monkeypatch.setattr(judging, "CODE_VERSION", -1)  # as if nobody had asked yet
    monkeypatch.setattr(triplet, "EPOCHS", 1)
    monkeypatch.setattr(training, "CODE_VERSION", -1)
    again = execute("train_embedding", run).figures
    assert again["promoted"]
    trained, plain = read_embedder(run, again["embedder"]), read_embedder(run, head)
    assert not np.array_equal(trained.arrays["hidden"], plain.arrays["hidden"])
    assert np.array_equal(trained.learnt, plain.learnt)
    assert trained.detail == plain.detail == (40, 30)
    after = execute("embed", run).figures
    assert (after["embedder"], after["model"]) == (again["embedder"], before["model"])
    assert read_embeddings(run).shape == read_embeddings(run, plain).shape


def test_likenesses_are_of_the_train_side_and_lie_near_what_they_are_of(tunable):
    rows = tunable.products(["image_sha256", "picture"])
    sides, model = split.sides_of(rows["picture"]), extraction.choose_model(tunable.settings)
    likenesses = training.make_likenesses(tunable, rows, sides, model)
    assert set(likenesses.of) == set(np.flatnonzero(sides == split.TRAIN))
    seen, features = likenesses.features.stages, read_all_features(tunable).stages[likenesses.of]
    assert not np.array_equal(seen, features)
    distances = np.linalg.norm(seen - features, axis=1)
    assert np.median(distances) < np.median(np.linalg.norm(np.roll(seen, 1, axis=0) - features, axis=1))
    again = training.make_likenesses(tunable, rows, sides, model)
    assert np.array_equal(again.features.stages, seen)


def test_a_catalogue_without_kinds_to_tell_apart_is_named_by_the_triplets(tunable, monkeypatch):
    monkeypatch.setattr(triplet, "KIND", ("articleType",))  # of which each subCategory of this one has one alone
    with pytest.raises(
        UserError, match="are of one subCategory and differ in articleType: triplets need both"
    ) as caught:
        execute("train_embedding", changed(tunable, embedding="triplet"))
    assert "LOOKALIKE_EMBEDDING=triplet" in caught.value.where
    assert not read_rows(tunable.lake)


# Training from scratch ------------------------------------------------------------------------------------------------


def test_what_was_trained_from_scratch_is_a_challenger_and_of_use_to_nights_without_other_weights(tunable, monkeypatch):
    before, failed = tunable.result("embed").figures, []
    run = changed(tunable, embedding="scratch", embedding_backbone="efficientnet-lite0")
    night = changed(tunable, embedding="head", weights="none")
    stored = run.lake.table("features").version
    with pytest.raises(UserError, match="efficientnet-lite0, 32 × 32 pixels, float32, trained from scratch") as caught:
        execute("embed", night)
    assert "LOOKALIKE_EMBEDDING=scratch LOOKALIKE_EMBEDDING_BACKBONE=efficientnet-lite0" in caught.value.remedy
    assert run.lake.table("features").version == stored

    def fail(*arguments):
        failed.extend(arguments)
        raise OSError("the lake is away")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_judge", fail)
        with pytest.raises(OSError, match="away"):
            execute("train_embedding", run)
    _, _, challenger, rival, base = failed
    assert rival == Champion("untrained", before["model"], "")  # what the run was made by
    with monkeypatch.context() as patch:
        patch.setattr(images, "load", fail)  # without images there is no epoch: it is not trained again
        figures = execute("train_embedding", run).figures
    assert (figures["embedder"], figures["tuned"]) == (challenger.embedder.fingerprint, challenger.tuned)
    assert "LOOKALIKE_BACKBONE=efficientnet-lite0 LOOKALIKE_WEIGHTS=none LOOKALIKE_INPUT_HEIGHT=32" in figures["reason"]
    assert execute("train_embedding", run).skipped
    (row,) = read_rows(run.lake)
    assert {name: len(values["loss"]) for name, values in json.loads(row["history"]).items()} == {
        "from scratch": 1,
        "head": 2,
    }
    champion = find_champion(run.lake, base.fingerprint)
    assert champion == Champion(challenger.embedder.fingerprint, challenger.model, challenger.tuned)
    assert find_champion(run.lake, before["base"]).embedder == "untrained"  # other nights go on as they did

    after = execute("embed", night)
    assert after.skipped  # the training left its features behind
    assert (after.figures["base"], after.figures["model"]) == (base.fingerprint, champion.model)
    assert (after.figures["embedder"], after.figures["tuned"]) == (champion.embedder, champion.tuned)
    onward = execute("train_embedding", night).figures  # a head, which is the same on the same features
    assert (onward["promoted"], onward["embedder"], onward["tuned"]) == (True, champion.embedder, champion.tuned)

    monkeypatch.setattr(judging, "promotes", lambda challenger, champion: False)
    monkeypatch.setattr(judging, "CODE_VERSION", -1)  # as if nobody had asked yet
    figures = execute("embed", night).figures
    assert (figures["embedder"], figures["model"]) == ("untrained", champion.model)  # never what chance drew
    monkeypatch.setattr(embedding, "LAYOUT", embedding.LAYOUT + 1)
    assert find_champion(run.lake, base.fingerprint) == Champion("untrained", champion.model, champion.tuned)


def test_a_backbone_to_train_that_is_not_there_is_named_with_its_setting(run):
    with pytest.raises(UserError, match="no backbone 'vgg'") as caught:
        execute("train_embedding", changed(run, embedding="scratch", embedding_backbone="vgg"))
    assert caught.value.where == "LOOKALIKE_EMBEDDING_BACKBONE"
