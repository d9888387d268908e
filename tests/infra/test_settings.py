"""Settings come from the environment once; a bad one says which, what and how to mend it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.errors import UserError
from infra.settings import PLACES, Settings, read_settings, variables


def test_the_environment_wins_over_defaults_and_arguments_over_both(monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CELL_MIN", "50")
    monkeypatch.setenv("LOOKALIKE_FIELDS", "gender, year")
    monkeypatch.setenv("LOOKALIKE_DATASET", "sample:10")
    settings = read_settings(dataset="sample:20")
    assert (settings.cell_min, settings.fields, settings.dataset) == (50, ("gender", "year"), "sample:20")
    assert settings.reject_max == 0.05


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CELL_MIN", "many", "'many'"),
        ("CELL_MIN", "0", "greater than or equal to 1"),
        ("REJECT_MAX", "5", "less than or equal to 1"),
        ("PRECISION", "int8", "float32|bfloat16"),
        ("EMBEDDING", "fresh", "head|triplet|finetune|scratch"),
        ("FIELDS", "size", "unknown field size; known: gender"),
        ("FIELDS", " , ", "unknown field (none given)"),
        ("SPARK", "master:7077", "no address of a master"),
        ("SPARK", "", "no address of a master"),
        ("PORT", "http", "'http'"),
        ("PHOTO_ROOTS", "/photos,https://host/photos", "'https://host/photos' is no folder"),
        ("IMAGE_HOSTS", "images.corp,http://other", "'http://other' is no host, host:port or network"),
        ("IMAGE_CONTACT", "me (at home)", "'me (at home)'"),
        ("IMAGE_CONNECTIONS", "0", "greater than or equal to 1"),
        ("DELIMITER", "ab", "no single sign"),
        ("DELIMITER", '"', "no single sign"),
        ("DELIMITER", "a", "no single sign"),
        ("ENCODING", "utf-9", "no encoding of text"),
        ("ENCODING", "hex", "no encoding of text"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_variable_and_remedy(monkeypatch, name, value, expected):
    monkeypatch.setenv(f"LOOKALIKE_{name}", value)
    with pytest.raises(UserError) as caught:
        read_settings()
    assert expected in str(caught.value)
    assert f"LOOKALIKE_{name}" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("delimiter", "tab", "\t"),
        ("delimiter", "\\t", "\t"),
        ("delimiter", "Semicolon", ";"),
        ("delimiter", "^", "^"),
        ("encoding", "Shift-JIS", "shift_jis"),
        ("encoding", "", ""),
    ],
)
def test_names_of_delimiters_and_encodings_are_known(name, value, read):
    assert getattr(read_settings(**{name: value}), name) == read


def test_hosts_of_images_are_a_list(monkeypatch):
    monkeypatch.setenv("LOOKALIKE_IMAGE_HOSTS", "images.corp:8080, 10.0.0.0/8,")
    assert read_settings().image_hosts == ("images.corp:8080", "10.0.0.0/8")


def test_whatever_names_a_place_is_absolute_and_can_be_told_to_a_process_elsewhere(monkeypatch, tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    folders = {name for name, field in Settings.model_fields.items() if field.annotation is Path}
    assert folders < set(PLACES)
    for name in PLACES:
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", "s3://b/c" if name == "lake" else f"some/{name}")
    monkeypatch.chdir(here)
    read = read_settings()
    told = variables(read)
    assert {name: told[f"LOOKALIKE_{name.upper()}"] for name in PLACES} == {
        name: "s3://b/c" if name == "lake" else f"{here}/some/{name}" for name in PLACES
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(elsewhere)
    assert read_settings() == read


def test_words_and_addresses_are_no_paths(monkeypatch):
    for name, value in {"DATASET": "sample:10?seed=1", "WEIGHTS": "imagenet", "CLASSIFIER_WEIGHTS": "s3://b/c"}.items():
        monkeypatch.setenv(f"LOOKALIKE_{name}", value)
    assert read_settings(weights="none").weights == "none"
    settings = read_settings(photo_roots=("s3://bucket/photos",))
    assert (settings.dataset, settings.weights, settings.classifier_weights, settings.photo_roots) == (
        "sample:10?seed=1",
        "imagenet",
        "s3://b/c",
        ("s3://bucket/photos",),
    )


def test_settings_do_not_change_once_read():
    with pytest.raises(ValidationError):
        read_settings().cell_min = 5


def test_a_proxys_network_is_named_by_any_of_its_addresses():
    settings = read_settings(serve_proxies="10.1.2.3/8, 192.0.2.7,fd00::1/64")
    assert settings.serve_proxies == ("10.0.0.0/8", "192.0.2.7/32", "fd00::/64")
    with pytest.raises(UserError, match="LOOKALIKE_SERVE_PROXIES"):
        read_settings(serve_proxies="proxy.corp")
