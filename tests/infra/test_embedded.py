"""The embedded server: who starts and stops it, what it is in spite of its surroundings, and what it refuses."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import psycopg
import pytest

from infra import embedded, store
from infra.errors import TransientError, UserError


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Folder of a store that was made, and whose server has stopped; to be copied, as making one takes seconds."""
    folder = tmp_path_factory.mktemp("stopped") / "data"
    embedded.uri(folder)
    embedded.leave(folder)
    return folder


@pytest.fixture
def new(tmp_path):
    """Folder of a store that does not exist yet; its server stops with the test."""
    yield tmp_path / "data"
    embedded.leave(tmp_path / "data")


@pytest.fixture
def folder(new, stopped):
    """Folder of a store of this test's own whose server has stopped."""
    subprocess.run(["cp", "-a", stopped, new], check=True)
    return new


def servers(folder: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])]


def server(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))


def start_in_a_process(folder: Path) -> subprocess.Popen:
    code = (
        "import sys, pathlib as p, infra.embedded as e; print(e.uri(p.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    return process


def test_the_embedded_server_lives_until_its_last_process_ends_even_if_another_was_killed(folder):
    killed, first, last = (start_in_a_process(folder) for _ in range(3))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    joined = start_in_a_process(folder)
    for process in (first, joined):
        process.communicate()
        assert servers(folder)
    last.communicate()
    assert not servers(folder)


def test_the_embedded_server_has_our_settings_even_in_a_folder_made_without_them_and_alter_system_wins(folder):
    def shown(name):
        with psycopg.connect(uri) as connection:
            return connection.execute(f"SHOW {name}").fetchone()[0]

    main = folder / "postgresql.conf"
    main.write_text(main.read_text().replace("include_if_exists = 'lookalike.conf'", ""))
    (folder / "lookalike.conf").unlink()
    (folder / "postgresql.auto.conf").write_text("maintenance_work_mem = '100MB'")
    uri = embedded.uri(folder)
    assert (shown("wal_level"), shown("fsync"), shown("maintenance_work_mem")) == ("minimal", "on", "100MB")


def test_an_embedded_server_that_died_is_started_again(folder):
    uri = embedded.uri(folder)
    killed = server(folder)
    killed.kill()
    killed.wait(30)
    assert embedded.uri(folder) == uri
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_forked_child_that_ends_leaves_the_server_running(folder):
    # In a process of its own: a child of this one would delete, as it exits, this session's temporary folders.
    code = (
        "import os, sys, pathlib as p, infra.embedded as e\n"
        "folder = p.Path(sys.argv[1])\n"
        "print(e.uri(folder))\n"
        "if child := os.fork(): os.waitpid(child, 0)\n"
        "else: e.uri(folder); sys.exit()\n"
        "print(e.psutil.pid_exists(int((folder / 'postmaster.pid').read_text().split()[0])))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert found.stdout.split()[-1] == "True", found.stderr


@pytest.mark.parametrize("name", [f"{'a' * 80}/{'b' * 80}", 'my shop\'s kätalog, a "quoted" $HOME `x`\\'])
def test_any_path_works_and_others_reach_no_socket(tmp_path, name):
    folder = tmp_path / name
    uri = embedded.uri(folder)
    with psycopg.connect(uri) as connection:
        assert Path(connection.execute("SHOW data_directory").fetchone()[0]) == folder
        sockets = Path(connection.info.host)
    assert [place.stat().st_mode & 0o777 for place in (folder, sockets)] == [0o700] * 2
    embedded.leave(folder)
    assert sockets == folder or not sockets.exists()


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError) as error:
        embedded.uri(tmp_path)
    assert "LOOKALIKE_STORE_FOLDER" in error.value.where
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_file_in_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        embedded.uri(tmp_path / "file")


def test_a_start_that_was_killed_is_continued_wherever_it_was(folder):
    new = folder / embedded.NEW
    new.mkdir()
    (new / embedded.WHOLE).touch()
    for name in ("base", "pg_wal", "PG_VERSION"):  # moved last
        (folder / name).rename(new / name)
    with psycopg.connect(embedded.uri(folder)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not new.exists()


def test_a_start_that_was_killed_amid_initdb_is_begun_anew(new):
    (new / embedded.NEW / "base").mkdir(parents=True)
    with psycopg.connect(embedded.uri(new)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_several_that_use_a_new_store_at_once_all_find_one_server(new):
    found = []
    threads = [threading.Thread(target=lambda: found.append(embedded.uri(new))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (4, 1)
    assert (new / "log").read_text().count("starting PostgreSQL") == 1


def test_the_number_of_a_server_that_is_gone_may_be_another_process_by_now(folder):
    with subprocess.Popen(["sleep", "60"]) as other:
        (folder / "postmaster.pid").write_text(f"{other.pid}\n{folder}\n1\n5432\n{folder}\n\n0 0\nready\n")
        with psycopg.connect(embedded.uri(folder)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        other.kill()


def test_a_store_that_is_deleted_and_made_anew_is_served_by_a_new_server_alone(folder):
    embedded.uri(folder)
    old = server(folder)
    shutil.rmtree(folder)
    with psycopg.connect(embedded.uri(folder)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE  # whom nobody has waited for yet


def test_text_is_utf8_and_ordered_alike_on_every_machine(folder):
    with psycopg.connect(embedded.uri(folder)) as connection:
        row = connection.execute("SELECT lower('ÄÖ'), getdatabaseencoding(), 'Z' < 'a', 'z' < 'ä'").fetchone()
    assert row == ("äö", "UTF8", True, True)


def test_the_variables_of_the_shell_are_another_servers(folder, monkeypatch):
    for name, value in {
        "PGHOST": "db.example", "PGHOSTADDR": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "theirs", "PGUSER": "them",
        "PGSERVICE": "theirs", "PGSERVICEFILE": "/nonexistent", "PGPASSFILE": "/nonexistent", "PGSSLMODE": "require",
        "PGOPTIONS": "-c search_path=theirs", "PGREQUIREPEER": "them", "PGREQUIREAUTH": "scram-sha-256",
        "PGCHANNELBINDING": "require", "PGTARGETSESSIONATTRS": "standby", "PGCLIENTENCODING": "LATIN1",
        "PGDATA": "/nonexistent", "PGSERVER_POSTGRES_VERSION": "16",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with store.connect("", folder, prepares=True) as connection:
        row = connection.execute("SELECT current_user, current_database(), '☃', current_setting('search_path')")
        assert row.fetchone() == ("postgres", "postgres", "☃", '"$user", public')


def test_a_store_of_another_postgres_is_refused_and_left_alone(tmp_path):
    (tmp_path / "PG_VERSION").write_text("16\n")
    with pytest.raises(UserError, match="made by Postgres 16, and this release brings 18"):
        embedded.uri(tmp_path)
    assert os.listdir(tmp_path) == ["PG_VERSION"]


def test_a_server_that_does_not_start_says_why(folder):
    (folder / "postgresql.auto.conf").write_text("shared_buffers = much")
    with pytest.raises(TransientError, match='invalid value for parameter "shared_buffers": "much"') as error:
        embedded.uri(folder)
    assert str(folder / "log") in str(error.value)
    (folder / "postgresql.auto.conf").write_text("")


def test_a_check_starts_the_server_for_as_long_as_the_process_lives_and_changes_nothing(folder):
    store.check("", folder)
    assert servers(folder)
    with store.connect("", folder) as connection:
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'lookalike'").fetchone() == (0,)
