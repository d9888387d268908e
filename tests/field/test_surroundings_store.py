"""The machine around the embedded store: locale, variables, paths, users; what somebody is told who asks for its runs.

`checkout-with-space` is kept as the store's path: what else a refresh does in such a folder is not the store's.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import embedded

ROOT = Path(__file__).resolve().parents[2]
NO_RUN = "0 runs"
READABLE = (
    "the permissions of …/store let others than its owner in, and Postgres refuses to start so"
    " | LOOKALIKE_STORE_FOLDER=…/store | run `chmod -R go-rwx …/store`"
)
NAMELESS = (
    "Postgres cannot make its data: this machine knows no name for the user with uid 54321 | /etc/passwd | add a line"
    " `lookalike:x:54321:54321::/tmp:/bin/sh` to it, run as a user that has one, or set LOOKALIKE_STORE to a Postgres"
    " server"
)
NOT_THEIRS = "…/store can't be used by user nobody (uid 65534): [Errno 13] Permission denied: '…/store"
NOBODY, NAMELESS_UID = 65534, 54321

MADE_IN = {
    "locale-not-generated": ({"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}, "store", NO_RUN),
    "locale-c": ({"LC_ALL": "C"}, "store", NO_RUN),
    "lc-ctype-of-a-mac": ({"LC_CTYPE": "UTF-8"}, "store", NO_RUN),
    "timezone-nonsense": ({"TZ": "Foo/Bar"}, "store", NO_RUN),
    "checkout-with-space": ({}, "my shop's kätalog/var/store", NO_RUN),
}
STARTED_IN = {
    "home-missing": ({"HOME": "/nonexistent"}, "store", NO_RUN),
    "tmpdir-missing": ({"TMPDIR": "/nonexistent"}, "store", NO_RUN),
    "pgoptions": ({"PGOPTIONS": "-c search_path=foo"}, "store", NO_RUN),
    "store-path-with-space": ({}, "my store", NO_RUN),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of a store without a run, to be copied, as making one takes seconds."""
    folder = tmp_path_factory.mktemp("made") / "store"
    assert asked(folder) == NO_RUN
    return folder


def copy(made: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-a", made, folder], check=True)
    return folder


ASK = """
import pathlib, sys
from infra import store
from infra.errors import TransientError, UserError
try:
    with store.connect("", pathlib.Path(sys.argv[1])) as connection:
        print(len(store.runs(connection)), "runs")
except UserError as error:
    print(error.problem, error.where, error.remedy, sep=" | ")
except TransientError as error:
    print("transient:", error)
"""


def asked(folder: Path, user: int | None = None, **variables: str) -> str:
    """What a process says of a store's runs; as another `user` it may read everything, Python too, and write nothing.

    Errors are `problem | where | remedy`, and the folder above `folder` is `…`.
    """
    ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    done = subprocess.run(
        [*(["setpriv", *ids, *reading] if user else []), sys.executable, "-c", ASK, folder],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        encoding="utf-8",
    )
    return (done.stdout.strip() or done.stderr).replace(str(folder.parent), "…")


@pytest.mark.parametrize("name", MADE_IN)
def test_a_store_is_made_in_any_surroundings(tmp_path, name):
    variables, folder, expected = MADE_IN[name]
    assert asked(tmp_path / folder, **variables) == expected


@pytest.mark.parametrize("name", STARTED_IN)
def test_a_store_starts_in_any_surroundings(tmp_path, made, name):
    variables, folder, expected = STARTED_IN[name]
    assert asked(copy(made, tmp_path / folder), **variables) == expected


def test_a_store_that_was_made_readable_is_told_with_the_remedy_which_works(tmp_path, made):
    folder = copy(made, tmp_path / "store")
    subprocess.run(["chmod", "-R", "go+rX", folder], check=True)
    line = asked(folder)
    assert line == READABLE
    remedy = line.split("`")[1].replace("…", str(tmp_path))
    subprocess.run(shlex.split(remedy), check=True)
    assert asked(folder) == NO_RUN


@pytest.fixture
def as_root(tmp_path):
    """The folder of a test that needs another user, whom only root can be, and not in every container."""
    probe = ["setpriv", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "true"]
    if os.geteuid() or not shutil.which("setpriv") or subprocess.run(probe).returncode:
        pytest.skip("only root can be another user")
    return tmp_path


def test_a_private_folder_above_the_store_stays_private_and_the_store_works(as_root):
    private = as_root / "private"
    private.mkdir(0o700)
    modes = [folder.stat().st_mode for folder in (private, *private.parents)]
    assert [asked(private / "store") for _ in range(2)] == [NO_RUN] * 2
    assert [folder.stat().st_mode for folder in (private, *private.parents)] == modes


def test_a_second_user_of_the_machine_has_a_store_too_and_not_the_firsts(as_root, made):
    assert asked(made) == NO_RUN
    assert asked(of(NOBODY, as_root / "other") / "store", NOBODY, HOME="/nonexistent") == NO_RUN
    assert asked(made, NOBODY).startswith(NOT_THEIRS)


def test_root_uses_a_users_store_and_leaves_it_to_that_user(as_root, made):
    folder = copy(made, as_root / "store")
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
    for name in ("log", "lookalike.conf", embedded.USERS):  # made anew, by root
        (folder / name).unlink()
    assert [asked(folder, user) for user in (None, NOBODY)] == [NO_RUN] * 2


def test_a_user_without_a_name_is_told_what_postgres_lacks(as_root):
    assert asked(of(NAMELESS_UID, as_root / "other") / "store", NAMELESS_UID) == NAMELESS


def of(user: int, folder: Path) -> Path:
    folder.mkdir()
    os.chown(folder, user, user)
    return folder
