"""The server as docker-compose.yml and infra/kubernetes describe it: their commands, environments, users and checks.

Its neighbours are those of the compose file (stack.py). A namespace of Linux stands in for a container: the user has
the number of the file and no name, no right and no way to one; in Kubernetes' the disk can only be read, but for the
volumes.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from infra.lake import Lake
from infra.settings import Settings
from jobs.serve.app import is_open
from jobs.serve.documented import ROUTES
from jobs.step import execute
from tests.catalogues import extracted, open_run, serve, styles
from tests.end_to_end.stack import ENTRYPOINT, Stack, as_user, family_of, free_port, reading_only
from tests.end_to_end.test_compose import ROOT, SERVICES, make_env
from tests.figures import mannequin
from tests.infra.test_kubernetes import ALL, PODS
from tests.jobs.test_photo_search import RUN, N, attributes, photo

POD = PODS["Deployment server"]
(CONTAINER,) = POD["containers"]
WAIT_S = 120


def confines() -> bool:
    """Whether this machine lets a process have less than its user has."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *reading_only(Path(folder)),
            *as_user("10001", "10001"),
            "sh",
            "-c",
            'id -u; touch /x || touch "$0/x"',
        ]
        done = subprocess.run([*command, folder], capture_output=True, text=True)
        return (done.stdout, done.returncode) == ("10001\n", 0)


pytestmark = pytest.mark.skipif(not confines(), reason="user and mount namespaces cannot be made here")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The store, the lake and the server of the compose file, and a live run of drawn products."""
    # Not in pytest's folder: Postgres runs as another user there.
    with tempfile.TemporaryDirectory(prefix="lookalike-compose-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Stack(folder, make_env(folder / ".env"), confined=("init-store", "init-lake", "server"))
        try:
            made.up(("store", "s3", "init-store", "init-lake"))
            publish(made)
            made.up(("server",))
            yield made
        finally:
            made.close()


def publish(stack: Stack) -> None:
    """Make a run live as a worker of Airflow would, with its logins."""
    worker = stack.environment("airflow-worker")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in worker if name.startswith("AWS_")]:
            environment.setenv(name, worker[name])
        run = open_run(Lake(worker["LOOKALIKE_LAKE"]), RUN, store=worker["LOOKALIKE_STORE"])
        files = {f"images/{number}.jpg": photo(number) for number in range(N)}
        extracted(run, files | {"styles.csv": styles([*map(attributes, range(N))])})
        for step in ("classify", "candidates"):
            execute(step, run)
        serve(run)


@pytest.fixture(scope="module")
def key(stack) -> dict[str, str]:
    """The header that brings a key."""
    return {"Authorization": f"Bearer {stack.add_key('shop')}"}


def wait(address: str, path: str, seconds: float = WAIT_S, headers: dict[str, str] | None = None) -> requests.Response:
    """What a path answers as soon as it is 200."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = requests.get(address + path, timeout=10, headers=headers)
            if answer.ok:
                return answer
        except requests.ConnectionError:
            answer = None
        assert time.monotonic() < deadline, answer and answer.text
        time.sleep(0.2)


def check_answers(address: str, key: dict[str, str]) -> None:
    """The page is there for all; products, pictures and photos for who has a key."""
    assert wait(address, "/readyz").json()["run"]["run"] == RUN
    assert requests.get(address, timeout=30).headers["content-type"].startswith("text/html")
    assert requests.get(f"{address}/products/7", timeout=30).status_code == 401
    found = requests.get(f"{address}/products/7/similar?gender=Men", headers=key, timeout=30).json()
    assert len(found["items"]) == 10
    image = wait(address, found["items"][0]["image"], headers=key)  # the pictures of the run are found after the start
    assert image.content == photo(int(found["items"][0]["product_id"]))
    deadline = time.monotonic() + WAIT_S
    while wait(address, "/readyz").json()["photos"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    answer = requests.post(
        f"{address}/search?k=3", data=photo(3), headers=key | {"Content-Type": "image/jpeg"}, timeout=60
    )
    assert len(answer.json()["items"]) == 3
    look = requests.post(f"{address}/look?k=3", data=mannequin(), headers=key, timeout=120)
    assert len(look.json()["persons"][0]["articles"][0]["items"]) == 3


def test_the_service_of_compose_is_well_and_answers(stack, key):
    check_answers(f"http://{stack.address('server', '8000')}", key)
    status = Path(f"/proc/{stack.processes['server'].pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


def test_prometheus_finds_the_metrics_where_it_is_told_and_the_published_port_asks_for_a_key(stack, key):
    scraped = yaml.safe_load((ROOT / "infra/monitoring/prometheus.yml").read_text())["scrape_configs"]
    (target,) = next(job for job in scraped if job["job_name"] == "server")["static_configs"][0]["targets"]
    place = stack.native("prometheus", target)
    assert "lookalike_request_seconds_count" in requests.get(f"http://{place}/metrics", timeout=30).text
    assert not any(port.endswith(target.rpartition(":")[2]) for port in SERVICES["server"]["ports"])
    published = f"http://{stack.address('server', '8000')}/metrics"
    assert requests.get(published, timeout=30).status_code == 401
    assert requests.get(published, headers=key, timeout=30).status_code == 200


# Kubernetes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pod(stack) -> Iterator[str]:
    """Address of the container of the deployment, whose disk can only be read, but for its volumes."""
    ports = {"8000": str(free_port()), "8001": str(free_port())}
    with tempfile.TemporaryDirectory(prefix="lookalike-pod-", ignore_cleanup_errors=True) as name:
        volumes = {mount["mountPath"]: Path(name) / mount["name"] for mount in CONTAINER["volumeMounts"]}
        for folder in volumes.values():
            folder.mkdir()
        security = POD["securityContext"]
        confined = [*reading_only(Path(name)), *as_user(str(security["runAsUser"]), str(security["runAsGroup"]))]
        arguments = [ports.get(argument, argument) for argument in CONTAINER["args"]]
        environment = pod_environment(stack, volumes) | {"LOOKALIKE_SERVE_PORT": ports["8000"]}
        with (stack.folder / "output/pod.log").open("wb") as log:
            command = [*confined, str(ENTRYPOINT), *arguments]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=environment["HOME"])
        stack.processes["pod"] = process  # which ends it
        yield f"http://127.0.0.1:{ports['8000']}"
        for each in family_of(process.pid):
            each.terminate()
        process.wait(30)


def pod_environment(stack: Stack, volumes: dict[str, Path]) -> dict[str, str]:
    """What the pod's config map and secrets say, with the places of this machine."""
    told = {}
    for source in CONTAINER["envFrom"]:
        told |= ALL[f"ConfigMap {source['configMapRef']['name']}"]["data"]
    service = stack.environment("server")
    ours = {name: service[name] for name in ("PATH", "PYTHONPATH", "AWS_ENDPOINT_URL", "LOOKALIKE_LAKE")}
    secrets = {variable["name"]: service[variable["name"]] for variable in CONTAINER["env"]}
    told = {name: str(volumes.get(value, value)) for name, value in told.items()}
    places = {"HOME": str(volumes["/var/lib/lookalike"]), "TMPDIR": str(volumes["/tmp"])}
    return told | ours | secrets | places


def test_the_pod_passes_its_probes_and_answers_from_a_disk_that_can_only_be_read(pod, key):
    startup = CONTAINER["startupProbe"]
    wait(pod, startup["httpGet"]["path"], startup["periodSeconds"] * startup["failureThreshold"])
    check_answers(pod, key)
    for probe in ("readinessProbe", "livenessProbe"):
        wait(pod, CONTAINER[probe]["httpGet"]["path"], CONTAINER[probe]["timeoutSeconds"])


def test_probes_ask_for_what_needs_no_key_at_the_port_that_the_service_has():
    probes = [CONTAINER[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert all(f"GET {probe['path']}" in ROUTES and is_open(probe["path"]) for probe in probes)
    (port,) = ALL["Service server"]["spec"]["ports"]
    assert {probe["port"] for probe in probes} == {port["port"]} == {Settings().serve_port}
    (let_in,) = ALL["NetworkPolicy server"]["spec"]["ingress"]
    assert let_in["ports"] == [port]
    assert {port["containerPort"] for port in CONTAINER["ports"]} == {8000, 8001}
