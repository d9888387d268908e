"""What people call a place: paths become absolute, and what is shown of an address gives nothing away."""

from pathlib import Path

import pytest

from infra.places import absolute, shown


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://u:p@h:1/a/b.zip?sig=1#x", "https://h:1/a/b.zip"),
        ("HTTPS://h/a@b.zip?sig=1", "HTTPS://h/a@b.zip"),
        ("s3://k:s@bucket/a?X-Amz-Signature=s", "s3://bucket/a"),
        ("s3://bucket/look #1?.zip", "s3://bucket/look #1?.zip"),
        ("s3://k:s@bucket/a.zip?versionId=v", "s3://bucket/a.zip?versionId=v"),
        ("s3://bucket/a?b=c&Signature=s", "s3://bucket/a?b=c"),
        ("https://h?sig=1", "https://h"),
        ("https://u@[::1]:8/a?b", "https://[::1]:8/a"),
        ("https:/u:p@h/a?sig=1", "https:/h/a"),
        ("file:///a/b?c", "file:///a/b"),
        ("sample:10?seed=1", "sample:10?seed=1"),
        ("kaggle:owner/name", "kaggle:owner/name"),
        ("a/b?c@d.zip", "a/b?c@d.zip"),
    ],
)
def test_what_is_shown_of_an_address_has_no_credentials(place, expected):
    assert shown(place) == expected


@pytest.mark.parametrize("password", ["p/w", "p?w", "p#w", "12/34", "12?34", "p@w", "p:w/@w", "[w", "p\nw"])
def test_a_password_of_odd_characters_is_hidden_whole(password):
    for rest in ("", "/a.zip", "/a.zip?sig=1"):
        seen = shown(f"https://user:{password}@host{rest}")
        assert seen in ("https://…", f"https://host{rest.split('?')[0]}")
        assert shown(f"s3://user:{password}@host{rest}") in ("s3://…", f"s3://host{rest}")


def test_a_path_becomes_absolute_and_an_address_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("a/../b.zip") == str(tmp_path / "b.zip")
    assert absolute("a:b.zip") == str(tmp_path / "a:b.zip")
    assert absolute("~/b.zip") == "/home/me/b.zip"
    for place in ("", "/a/b", "s3://a/b", "sample:1", "kaggle:a/b", Path("/a").as_uri()):
        assert absolute(place) == place
