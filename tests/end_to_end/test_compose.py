"""docker-compose.yml, the image and `.env`: what they promise; and the store's logins as `init-store` makes them.

check_compose.py starts what the file describes and runs the DAG with it; test_server_service.py starts the server.
"""

import json
import os
import re
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from infra import store
from infra.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ONCE = ("init-airflow", "init-store", "init-lake")


def make_env(file: Path) -> dict[str, str]:
    subprocess.run([sys.executable, ROOT / "infra/docker/make_env.py", file], check=True, capture_output=True)
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def strings(value) -> list[str]:
    """All strings in a tree of lists and mappings, keys left out."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    return [text for each in value for text in strings(each)] if isinstance(value, list) else [str(value)]


# What the file says -----------------------------------------------------------------------------------------------


def test_the_file_is_valid_by_the_compose_specification():
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(COMPOSE | {"services": {"a": {"imagee": "x"}}}, schema)


def test_the_parts_of_a_whole_deployment_are_there():
    assert {
        *("airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-worker"),
        *("metadata", "store", "s3", "spark-master", "spark-worker", "prometheus", "grafana", "server"),
    } <= set(SERVICES)
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["gpu"]} == {"spark-worker-gpu"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_unprivileged_and_checked(name):
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"])
    uid, gid = service["user"].split(":")
    assert int(uid) > 0
    assert int(gid) >= 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    if name not in ONCE:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (source.startswith("./infra/") and (ROOT / source).exists())


@pytest.mark.parametrize("name", ONCE)
def test_what_runs_once_is_awaited_by_something_that_stays_or_compose_up_wait_would_call_its_end_a_failure(name):
    assert SERVICES[name]["restart"] == "no"
    awaited = [service.get("depends_on", {}).get(name, {}) for service in SERVICES.values()]
    assert {"condition": "service_completed_successfully"} in awaited


def test_ports_are_published_to_this_host_only_unless_somebody_says_otherwise():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(re.match(r"\$\{\w+_ADDRESS:-127\.0\.0\.1\}:\d+:\d+$", port) for port in published)


def test_no_password_stands_in_the_file_and_none_has_a_default(tmp_path):
    secrets = make_env(tmp_path / ".env")
    mentioned = set(re.findall(r"\$\{(\w+):\?run make env\}", " ".join(strings(SERVICES))))
    assert mentioned == set(secrets)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD$|SECRET|_KEY|SQL_ALCHEMY|BROKER_URL|RESULT_BACKEND|LOOKALIKE_STORE", name):
                bare = re.sub(r"\$\{\w+:\?run make env\}", "", value)
                assert bare == "" or re.match(r"[a-z+]+://\w*:@", bare), name


def test_a_setting_that_a_service_is_given_is_one_of_ours():
    told = {name for service in SERVICES.values() for name in service.get("environment", {})}
    ours = {name.removeprefix("LOOKALIKE_").lower() for name in told if name.startswith("LOOKALIKE_")}
    assert ours <= set(Settings.model_fields)
    assert {"serve_host", "store", "lake"} <= ours


def test_only_the_services_that_need_a_secret_are_given_it():
    holders = {}
    for name, service in SERVICES.items():
        for secret in re.findall(r"\$\{(\w+):\?", " ".join(strings(service))):
            holders.setdefault(secret, set()).add(name)
    assert holders["STORE_ADMIN_PASSWORD"] == {"store", "init-store"}
    assert holders["STORE_LOADER_PASSWORD"] == {"init-store", "airflow-worker"}
    assert holders["STORE_READER_PASSWORD"] == {"init-store", "grafana", "server"}
    assert "airflow-worker" not in holders["METADATA_PASSWORD"] | holders["AIRFLOW_JWT_SECRET"]
    assert holders["S3_SECRET_KEY"] == {
        *("s3", "init-lake", "airflow-worker", "spark-worker", "spark-worker-gpu", "server")
    }


def test_the_image_builds_from_a_lock_that_agrees_with_the_projects(tmp_path):
    def pins(file):
        entry = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)(.*?)(?=^\w|\Z)", re.MULTILINE | re.DOTALL)
        return {(n, v): re.findall(r"sha256:\w+", hashes) for n, v, hashes in entry.findall(file.read_text())}

    ours, images = pins(ROOT / "requirements.lock"), pins(ROOT / "infra/docker/requirements.lock")
    assert len(images) > 150
    assert {pin: hashes for pin, hashes in images.items() if ours.get(pin) != hashes} == {}
    assert not {"pytest", "moto", "mypy", "hypothesis"} & {name for name, _ in images}
    assert all(pins(ROOT / "infra/docker/requirements-gpu.lock").values())


def test_the_dockerfile_has_stages_pinned_bases_hashes_and_a_user():
    text = (ROOT / "infra/docker/Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    stages = [stage for _, stage in bases]
    assert all(base in stages or re.search(r":\d+\.\d+\.\d+", base) for base, _ in bases)
    assert text.count("--require-hashes") == text.count("uv pip install")
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    for service in SERVICES.values():
        assert service.get("build", {"target": "lookalike"})["target"] in stages
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / each).exists() and f"!{each.split('/')[0]}" in ignored for each in source.split())


# .env -------------------------------------------------------------------------------------------------------------


def test_make_env_draws_every_secret_once_and_only_its_owner_may_read_them(tmp_path):
    first, second = make_env(tmp_path / "a"), make_env(tmp_path / "b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert len({*first.values(), *second.values()}) == 2 * len(first) >= 20
    assert all(len(value) >= 40 for value in first.values())
    assert make_env(tmp_path / "a") == first


def test_make_env_keeps_what_somebody_wrote_and_adds_only_what_is_missing(tmp_path):
    file = tmp_path / ".env"
    file.write_text("LOOKALIKE_DATASET=s3://mine\nS3_ACCESS_KEY=chosen")
    file.chmod(0o644)
    made = make_env(file)
    assert made["LOOKALIKE_DATASET"] == "s3://mine"
    assert made["S3_ACCESS_KEY"] == "chosen"
    assert len(made["S3_SECRET_KEY"]) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_git_never_takes_the_env_file():
    assert subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT).returncode == 0


# Roles ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logins(empty_database):
    """Connection strings of `loader` and `reader` of a store prepared as `init-store` does."""
    environment = {"STORE_LOADER_PASSWORD": "one", "STORE_READER_PASSWORD": "two", "LOOKALIKE_STORE": empty_database}
    command = [sys.executable, ROOT / "infra/docker/prepare.py", "store"]
    for _ in range(2):  # every start does it again
        subprocess.run(command, env=os.environ | environment | {"PYTHONPATH": str(ROOT)}, check=True)
    yield {login: make_conninfo(empty_database, user=login) for login in ("loader", "reader")}
    with psycopg.connect(empty_database, autocommit=True) as admin:
        for login in ("loader", "reader"):
            admin.execute(f"DROP OWNED BY {login}")
            admin.execute(f"DROP ROLE {login}")


PRODUCTS = ([1, 2, 3], [[1, 0], [0.75, 0.5], [0, 1]])


def test_the_loader_publishes_and_rolls_back_but_is_no_superuser(logins, load_run, tmp_path):
    with store.connect(logins["loader"], tmp_path) as loader:
        for run in ("first", "second"):
            load_run(loader, run, *PRODUCTS)
        with loader.transaction():
            assert store.rollback(loader).run == "first"
        for refused in ("CREATE ROLE friend", "CREATE TABLE public.mine ()", "COPY (SELECT 1) TO PROGRAM 'cat'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                loader.execute(refused)


def test_the_reader_asks_and_changes_nothing(logins, load_run, tmp_path):
    with store.connect(logins["loader"], tmp_path) as loader:
        load_run(loader, "a", *PRODUCTS)
    with store.connect(logins["reader"], tmp_path) as reader:
        assert [item.product_id for item in store.similar_items(reader, "1", {}, 10)] == ["2", "3"]
        assert reader.execute("SELECT count(*) FROM lookalike.live_products").fetchone() == (3,)
        for refused in (
            "DELETE FROM lookalike.live",
            "UPDATE lookalike.runs SET run = 'b'",
            "INSERT INTO lookalike.runs (run, content_hash, fields, manifest) VALUES ('b', 'b', '{}', '{}')",
            "DROP TABLE lookalike.shortlists",
            "TRUNCATE lookalike.products",
            "SELECT * FROM lookalike.shortlists",
            "CREATE TABLE lookalike.mine ()",
            "CREATE TABLE public.mine ()",
            "CREATE TEMPORARY TABLE mine ()",
            "SET ROLE lookalike_loader",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(refused)
