"""What the recipes for clusters promise: who may do what, which versions, where secrets and artifacts are."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from facts import lacking
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nas.storage.engine import parse, secret

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:])
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LONG_RUNNING = ("postgres", "head", "worker", "web")
NODES = ("head", "worker", "nas")
KNOWING = {"head", "nas", "web"}
"""Those that know the database: trials run nowhere there."""

Document = dict[str, Any]


@pytest.fixture(scope="module")
def services() -> Document:
    services: Document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@pytest.fixture(scope="module")
def rayjob() -> Document:
    job: Document = next(yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text()))
    return job


def pods(job: Document) -> dict[str, Document]:
    """Return the pod of the head and that of the workers."""
    cluster = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"]["spec"], "worker": workers["template"]["spec"]}


def environment(container: Document) -> dict[str, Document]:
    return {entry["name"]: entry for entry in container["env"]}


def test_ports_are_published_on_this_machine_alone(services: Document) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_part_of_a_cluster_takes_the_token_and_sees_the_artifacts(services: Document) -> None:
    for name in NODES:
        own = services[name]["environment"]
        assert own["RAY_AUTH_MODE"] == "token"
        assert own["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert "artifacts:/artifacts" in services[name]["volumes"], name


def test_drivers_alone_know_the_database_and_no_url_holds_its_password(services: Document) -> None:
    knowing = {name for name, service in services.items() if "NAS_DB" in service["environment"]}
    assert knowing == KNOWING == {name for name in services if "PGPASSWORD" in services[name]["environment"]}
    assert "--num-cpus=0" in services["head"]["entrypoint"]
    assert "ray" not in services["nas"].get("entrypoint", ["nas"])
    for name in knowing:
        url = services[name]["environment"]["NAS_DB"]
        assert not secret(parse(url))
        assert "$" not in url


def test_what_runs_on_is_limited_and_asked_cheaply_for_its_health(services: Document) -> None:
    for name in LONG_RUNNING:
        service, check = services[name], services[name]["healthcheck"]
        assert {"cpus", "mem_limit", "shm_size"} <= service.keys(), name
        assert int(check["interval"].removesuffix("s")) >= 15
        assert not {"ray", "python"} & set(check["test"])
        assert service["restart"] == "unless-stopped"
    for name in NODES:
        assert services[name]["cap_drop"] == ["ALL"]


def test_images_are_of_one_version_each(services: Document, rayjob: Document) -> None:
    images = [service["image"] for service in services.values()]
    own = {image for image in images if "nas-service" in image}
    assert own == {f"nas-service:{PROJECT['version']}"}
    for image in (*images, re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)[0]):
        version = image.rpartition(":")[2].rstrip("}")
        assert re.match(r"\d+\.\d+", version), image
    for pod in pods(rayjob).values():
        assert pod["containers"][0]["image"].endswith(own.copy().pop())
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == CONSTRAINTS["ray"]


def test_the_image_runs_without_root_and_an_edit_installs_nothing_anew() -> None:
    users = re.findall(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)
    assert users[-1:] == ["1000"]
    assert DOCKERFILE.rindex("RUN ") < DOCKERFILE.index("USER 1000") < DOCKERFILE.index("ENTRYPOINT")
    assert DOCKERFILE.index("--requirement requirements.txt") < DOCKERFILE.index("COPY nas nas")
    assert "ARG TORCH=https://download.pytorch.org/whl/cpu\n" in DOCKERFILE
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert {path for paths in copied for path in paths.split()} == allowed


def test_an_image_installs_what_nas_and_its_cluster_need() -> None:
    def asked(*arguments: str) -> list[str]:
        command = [sys.executable, "deploy/requirements.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert set(PROJECT["dependencies"]) | set(PROJECT["optional-dependencies"]["cluster"]) <= set(asked())
    assert asked("torch") == [f"torch=={CONSTRAINTS['torch']}"]


def test_all_that_a_cluster_needs_of_ray_is_pinned() -> None:
    known = {canonicalize_name(name) for name in CONSTRAINTS}
    extra = {"extra": "default"}
    needed = [Requirement(line) for line in requires("ray") or ()]
    names = {canonicalize_name(one.name) for one in needed if one.marker and one.marker.evaluate(extra)}
    assert "aiohttp" in names
    assert names <= known


def test_secrets_stay_out_of_the_repository_and_the_image() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().split()
    assert "!.env" not in (ROOT / ".dockerignore").read_text()
    values = dict(
        line.split("=")
        for line in (ROOT / ".env.example").read_text().splitlines()
        if re.match(r"\w+=", line)
    )
    assert (values["RAY_AUTH_TOKEN"], values["POSTGRES_PASSWORD"]) == ("", "")
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert values.keys() <= used


def test_a_rayjob_goes_on_where_its_last_attempt_ended(rayjob: Document) -> None:
    spec = rayjob["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    verb = shlex.split(spec["entrypoint"])
    assert (verb[:2], verb[3]) == (["nas", "run"], "--resume-or-start")
    [head] = pods(rayjob)["head"]["containers"]
    assert {each["mountPath"] for each in head["volumeMounts"]} >= {str(Path(verb[2]).parent)}
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"
    assert "runtimeEnvYAML" not in spec  # Ray tells it to all who list jobs


def test_pods_have_no_rights_share_their_artifacts_and_keep_the_password_from_workers(
    rayjob: Document,
) -> None:
    claims = {}
    for name, pod in pods(rayjob).items():
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        [mounted] = [each["name"] for each in container["volumeMounts"] if each["mountPath"] == "/artifacts"]
        [claims[name]] = [each["persistentVolumeClaim"] for each in pod["volumes"] if each["name"] == mounted]
    assert claims["head"] == claims["worker"]
    head, worker = (environment(pods(rayjob)[name]["containers"][0]) for name in ("head", "worker"))
    assert "secretKeyRef" in head["PGPASSWORD"]["valueFrom"]
    assert not secret(parse(head["NAS_DB"]["value"]))
    assert not {"NAS_DB", "PGPASSWORD"} & worker.keys()


def test_a_recipe_is_checked_by_the_definition_of_its_kind() -> None:
    faults = runpy.run_path(str(ROOT / "scripts" / "check_deploy.py"))["rayjob_faults"]
    spec = {"type": "object", "properties": {"entrypoint": {"type": "string"}}}
    schema = {"type": "object", "properties": {"apiVersion": {}, "kind": {}, "spec": spec, "metadata": {}}}
    crd = yaml.dump({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}})

    def job(**spec: object) -> str:
        metadata = {"name": "any"}
        return yaml.dump({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec})

    assert faults(crd, job(entrypoint="nas run")) == []
    [wrong] = faults(crd, job(entrypoint=7))
    assert lacking(wrong, "$.spec.entrypoint", "7") == []
    [unknown] = faults(crd, job(entry="nas run"))
    assert lacking(unknown, "$.spec", "entry") == []


@pytest.mark.parametrize("verb", ["up", "down"])
def test_a_folder_that_is_no_local_cluster_is_left_alone(verb: str) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:  # of a path that is short enough
        (Path(folder) / "thesis.tex").touch()
        done = subprocess.run(
            [ROOT / "scripts" / "local_cluster.sh", verb],
            env=os.environ
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "NAS_CLUSTER_DIR": folder,
                "NAS_CLUSTER_DB": "sqlite:///nowhere.db",
            },
            capture_output=True,
            text=True,
        )
        assert (done.returncode, folder in done.stderr) == (1, True)
        assert [each.name for each in Path(folder).iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("script", ["deploy/slurm.sh", "scripts/local_cluster.sh"])
def test_a_script_is_one(script: str) -> None:
    assert subprocess.run(["bash", "-n", ROOT / script], capture_output=True).stderr == b""
    assert (ROOT / script).read_text().startswith("#!")
