"""Check the recipes for clusters by their published schemas (`make lint`).

usage: python scripts/check_deploy.py [CRD]

The compose files are checked by the specification that check-jsonschema brings. The RayJob is checked by
KubeRay's own definition: the file CRD, or that of the release which the recipe names, from GitHub. Where
GitHub does not answer, that is said, and is no error.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parent.parent
COMPOSE = ("docker-compose.yml", "deploy/compose-gpu.yml")
RAYJOB = ROOT / "deploy" / "rayjob.yaml"
URL = (
    "https://raw.githubusercontent.com/ray-project/kuberay/v{release}.0/"
    "helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml"
)
SECONDS = 20
"""How long GitHub may take."""

_OPEN = "x-kubernetes-preserve-unknown-fields"

Document = dict[str, Any]


def compose_faults(files: list[Path]) -> list[str]:
    """Return what is wrong with compose files."""
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.compose-spec", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def published() -> str:
    """Return KubeRay's definition of a RayJob, of the release that the recipe names.

    Raises:
        OSError: it cannot be had.
    """
    [release] = re.findall(r"KubeRay (\d+\.\d+)", RAYJOB.read_text(encoding="utf-8"))
    with urllib.request.urlopen(URL.format(release=release), timeout=SECONDS) as answer:
        text: str = answer.read().decode()
    return text


def rayjob_faults(crd: str, recipe: str) -> list[str]:
    """Return what is wrong with the RayJob of a recipe; a field that KubeRay does not know is wrong, too.

    Args:
        crd: KubeRay's definition.
        recipe: documents, of which one is a RayJob.
    """
    [job] = [each for each in yaml.safe_load_all(recipe) if each["kind"] == "RayJob"]
    version = job["apiVersion"].rpartition("/")[2]
    [schema] = [
        each["schema"]["openAPIV3Schema"]
        for each in yaml.safe_load(crd)["spec"]["versions"]
        if each["name"] == version
    ]
    for part in list(_objects(schema)):
        part.setdefault("additionalProperties", False)
    schema["properties"]["metadata"] = {}  # which every kind of Kubernetes has, and no definition describes
    errors = Draft202012Validator(schema).iter_errors(job)
    return [f"{RAYJOB.name}: {error.json_path}: {error.message}" for error in errors]


def _objects(schema: Any) -> Iterator[Document]:
    """Yield the parts of a schema that list every field there is."""
    if isinstance(schema, list):
        for part in schema:
            yield from _objects(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and _OPEN not in schema:
            yield schema
        for part in schema.values():
            yield from _objects(part)


def main(arguments: list[str]) -> int:
    """Check all; return the exit code."""
    faults = compose_faults([ROOT / name for name in COMPOSE])
    try:
        crd = Path(arguments[0]).read_text(encoding="utf-8") if arguments else published()
    except OSError as error:
        sys.stdout.write(f"warning: {RAYJOB.name} was not checked by KubeRay's definition: {error}\n")
    else:
        faults += rayjob_faults(crd, RAYJOB.read_text(encoding="utf-8"))
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
