"""infra/kubernetes: every object is valid by Kubernetes' own schemas and Spark's operator's, and fits the others.

The schemas are the strict ones of the API server's OpenAPI description (no unknown field passes), from the package
`kubernetes-validate`; a SparkApplication's are the models that the operator's project generates from its own types. No
cluster has seen these files here: what only a cluster can say (admission, images, quotas) is not tested.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pyspark
import pytest
import yaml
from kubeflow_spark_api.models.spark_v1beta2_spark_application import SparkV1beta2SparkApplication
from pydantic import ValidationError

from infra.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
TEMPLATES = ("task-pod.yaml", "executor-pod.yaml")
VERSIONS = ("1.31", "1.37")


def objects(file: Path) -> list[dict]:
    return [each for text in yaml.safe_load_all(file.read_text()) for each in text.get("items", [text])]


ALL = {
    f"{each['kind']} {each['metadata']['name']}": each
    for name in (*KUSTOMIZATION["resources"], *TEMPLATES)
    for each in objects(FOLDER / name)
}


def pod_of(thing: dict) -> dict | None:
    """The specification of the pod that an object is or starts."""
    if thing["kind"] == "Pod":
        return thing["spec"]
    spec = thing.get("spec", {}).get("jobTemplate", thing).get("spec", {})
    return spec.get("template", {}).get("spec")


PODS = {name: pod_of(thing) for name, thing in ALL.items() if pod_of(thing)}


def containers(pod: dict) -> list[dict]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_an_object_is_valid_by_the_strict_schema_of_kubernetes(name, version):
    kubernetes_validate.validate(ALL[name], version, strict=True)


def test_the_strict_schema_refuses_a_field_that_does_not_exist():
    wrong = json.loads(json.dumps(ALL["Deployment airflow-api"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_spark_application_is_valid_by_the_operators_models_and_has_no_unknown_field():
    [application] = objects(FOLDER / "spark-operator/embed.yaml")
    read = SparkV1beta2SparkApplication.model_validate(application)
    assert without_nulls(read.model_dump(by_alias=True, mode="json")) == without_nulls(application)
    with pytest.raises(ValidationError):
        SparkV1beta2SparkApplication.model_validate(
            application | {"spec": {"type": "Python", "driver": {"cores": "one"}}}
        )


def without_nulls(value):
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_unprivileged_and_says_what_it_needs(name):
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        if name != "Pod executor":  # Spark sets those of executors from its own settings
            assert {"requests", "limits"} <= set(container["resources"])
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_what_a_pod_refers_to_is_there():
    made = {(thing["kind"], thing["metadata"]["name"]) for thing in ALL.values()}
    made |= {("ConfigMap", each["name"]) for each in KUSTOMIZATION["configMapGenerator"]}
    secrets = set(re.findall(r"kubectl create secret generic (\S+)", (ROOT / "docs/kubernetes.md").read_text()))
    for pod in PODS.values():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert ("ServiceAccount", pod.get("serviceAccountName", "spark-executor")) in made
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in made
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            assert all(("ConfigMap", source["configMapRef"]["name"]) in made for source in container.get("envFrom", []))
            used = [each["valueFrom"].get("secretKeyRef") for each in container.get("env", []) if "valueFrom" in each]
            assert {each["name"] for each in used if each} <= secrets
    assert {name for name, thing in ALL.items() if thing["kind"] == "Secret"} == set()


def test_every_secret_key_that_is_referred_to_is_created_by_the_page():
    page = (ROOT / "docs/kubernetes.md").read_text().replace("\\\n", " ")
    created = {
        (name, key)
        for name, rest in re.findall(r"kubectl create secret generic (\S+)([^\n]*)", page)
        for key in re.findall(r"--from-literal=([\w-]+)=", rest)
    }
    used = {
        (ref["name"], ref["key"])
        for pod in PODS.values()
        for container in containers(pod)
        for each in container.get("env", [])
        if (ref := each.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert used == created


def test_only_the_parts_that_start_pods_may_ask_kubernetes_for_anything():
    bound = {
        subject["name"]: thing["roleRef"]["name"]
        for thing in ALL.values()
        if thing["kind"] == "RoleBinding"
        for subject in thing["subjects"]
    }
    assert bound == {"airflow-scheduler": "tasks", "airflow-task": "executors"}
    assert not any(thing["kind"].startswith("Cluster") for thing in ALL.values())
    for thing in ALL.values():
        for rule in thing.get("rules", []):
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_that_has_nothing_to_ask_kubernetes_has_no_token(name):
    account = PODS[name].get("serviceAccountName", "spark-executor")
    token = ALL[f"ServiceAccount {account}"].get("automountServiceAccountToken", True)
    assert token == (account in ("airflow-scheduler", "airflow-task"))


def test_a_setting_that_a_pod_is_given_is_one_of_ours():
    told = {name for thing in ALL.values() if thing["kind"] == "ConfigMap" for name in thing["data"]}
    told |= {each["name"] for pod in PODS.values() for of_pod in containers(pod) for each in of_pod.get("env", [])}
    ours = {name.removeprefix("LOOKALIKE_").lower() for name in told if name.startswith("LOOKALIKE_")}
    assert ours <= set(Settings.model_fields)
    assert {"serve_host", "store", "lake"} <= ours


def test_a_task_holds_no_key_of_airflows_database_and_airflow_none_of_the_lake():
    def secrets(pod):
        refs = [e["valueFrom"].get("secretKeyRef", {}) for c in containers(pod) for e in c["env"] if "valueFrom" in e]
        return {ref["name"] for ref in refs if ref}

    assert secrets(PODS["Pod task"]) == {"lake", "store-loader"}
    assert secrets(PODS["CronJob init-store"]) == {"store-admin"}
    assert secrets(PODS["Deployment server"]) == {"lake-reader", "store-reader"}
    for name in ("api", "scheduler", "dag-processor", "triggerer"):
        assert secrets(PODS[f"Deployment airflow-{name}"]) == {"airflow"}


def test_the_spark_connection_is_readable_and_names_the_image_of_the_kustomization():
    [image] = KUSTOMIZATION["images"]
    conf = json.loads(ALL["ConfigMap tasks"]["data"]["AIRFLOW_CONN_SPARK_DEFAULT"])["extra"]["conf"]
    assert conf["spark.kubernetes.container.image"] == f"{image['newName']}:{image['newTag']}"
    airflow = ALL["ConfigMap airflow"]["data"]
    assert airflow["AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY"] == image["newName"]
    assert airflow["AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG"] == image["newTag"]


# The image's entry point, by which Spark starts a driver or an executor ---------------------------------------------


def entrypoint(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    image = {
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [str(ROOT / "infra/docker/entrypoint.sh"), *arguments]
    return subprocess.run(command, env=os.environ | image | environment, capture_output=True, text=True)


def test_the_entry_point_starts_an_executor_with_what_spark_on_kubernetes_sets():
    done = entrypoint(
        "executor",
        SPARK_DRIVER_URL="spark://CoarseGrainedScheduler@127.0.0.1:1",
        SPARK_EXECUTOR_ID="1",
        SPARK_EXECUTOR_CORES="1",
        SPARK_EXECUTOR_MEMORY="256m",
        SPARK_EXECUTOR_POD_IP="127.0.0.1",
        SPARK_EXECUTOR_POD_NAME="executor-1",
        SPARK_APPLICATION_ID="app",
        SPARK_RESOURCE_PROFILE_ID="0",
        SPARK_JAVA_OPT_0="-Dspark.rpc.lookupTimeout=5s",
        SPARK_JAVA_OPT_1="--add-opens=java.base/java.nio=ALL-UNNAMED",
    )
    assert done.returncode != 0
    assert "Failed to connect to /127.0.0.1:1" in done.stderr  # it came as far as asking the driver


def test_the_entry_point_starts_a_driver_and_any_other_command(tmp_path):
    script = tmp_path / "count.py"
    script.write_text(
        "from pyspark import SparkContext\nprint(SparkContext.getOrCreate().parallelize(range(7)).count())"
    )
    done = entrypoint("driver", "--master", "local[1]", str(script), SPARK_DRIVER_BIND_ADDRESS="127.0.0.1")
    assert done.stdout.split()[-1] == "7", done.stderr
    assert entrypoint("sh", "-c", "exit 64").returncode == 64
