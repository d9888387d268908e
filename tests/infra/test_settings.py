"""Settings come from the environment once; a bad one says which, what and how to mend it."""

import pytest
from pydantic import ValidationError

from infra.errors import UserError
from infra.settings import read_settings


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
        ("FIELDS", "size", "unknown field size; known: gender"),
        ("FIELDS", " , ", "unknown field (none given)"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_variable_and_remedy(monkeypatch, name, value, expected):
    monkeypatch.setenv(f"LOOKALIKE_{name}", value)
    with pytest.raises(UserError) as caught:
        read_settings()
    assert expected in str(caught.value)
    assert f"LOOKALIKE_{name}" in str(caught.value)
    assert caught.value.remedy


def test_settings_do_not_change_once_read():
    with pytest.raises(ValidationError):
        read_settings().cell_min = 5
