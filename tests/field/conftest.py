"""The command line in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import main


@pytest.fixture
def lookalike(published, monkeypatch, capsys, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command on the module's `published` run in an empty folder; returns its exit code, stdout and stderr."""
    for name in ("lake", "store", "input_height", "input_width"):
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", str(getattr(published.settings, name)))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return (ended.value.code or 0, *capsys.readouterr())

    return run
