"""Checkpoints on disk: whole or not at all, one training at a time, and kept until the training is committed."""

import fcntl

import numpy as np
import pytest

from infra.errors import TransientError
from infra.settings import read_settings
from jobs.training import checkpoints


@pytest.fixture
def settings(tmp_path):
    return read_settings(lake=tmp_path.as_uri(), scratch=tmp_path / "scratch")


def state(number):
    return {"weights": np.full((2, 3), number, np.float32), "history": np.array(f"[{number}]")}


def test_what_a_killed_training_kept_is_there_for_the_next_attempt_and_gone_once_it_is_done(settings):
    def train():
        with checkpoints(settings, "one") as kept:
            for epoch in (1, 2, 10):
                kept[epoch] = state(epoch)
            del kept[2]
            (settings.scratch / "one/unfinished").write_bytes(b"half of an ep")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    with checkpoints(settings, "one") as kept:
        assert list(kept) == [1, 10]
        assert len(kept) == 2
        assert 2 not in kept
        assert kept[10]["weights"].tolist() == state(10)["weights"].tolist()
        assert str(kept[10]["history"]) == "[10]"
        kept[10] = state(11)
        assert str(kept[10]["history"]) == "[11]"
    assert not list(settings.scratch.iterdir())


def test_the_same_training_runs_once_at_a_time_and_another_beside_it(settings):
    with checkpoints(settings, "one"):
        with (
            pytest.raises(TransientError, match="another process does the same training"),
            checkpoints(settings, "one"),
        ):
            pass
        with checkpoints(settings, "two") as kept:
            assert not kept
    with checkpoints(settings, "one"):
        pass


def test_the_lock_of_a_training_that_ended_meanwhile_is_not_taken_for_the_next_ones(settings, monkeypatch):
    lock, real = settings.scratch / "one.lock", fcntl.flock

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", real)
        lock.unlink()  # as its holder does, between our opening and our locking it
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with checkpoints(settings, "one"), pytest.raises(TransientError), checkpoints(settings, "one"):
        pass
