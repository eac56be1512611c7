"""The containers of deploy/kubernetes as processes of this machine, there being no cluster here."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from demo.stack import ROOT
from tests.support.compose import Container

KUBERNETES = ROOT / "deploy" / "kubernetes"
#: What a service called redis puts into the containers of its namespace, where that is not turned off.
SERVICE_LINKS = {"REDIS_PORT": "tcp://10.96.0.5:6379", "REDIS_SERVICE_HOST": "10.96.0.5"}


def built(name: str) -> list[dict[str, Any]]:
    """The resources of a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", str(KUBERNETES / name)], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def written(name: str) -> list[dict[str, Any]]:
    """The resources in the files of a kustomization."""
    folder = KUBERNETES / name
    files = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [resource for file in files for resource in yaml.safe_load_all((folder / file).read_text())]


def pod_of(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The pod's specification in a Deployment or CronJob."""
    spec = resource["spec"]
    pod: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]
    return pod


def container(
    resource: dict[str, Any],
    settings: Mapping[str, str],
    secret: Mapping[str, str],
    places: dict[str, str],
    folder: Path,
) -> Container:
    """The only container of a resource, with what ConfigMap and Secret hold; `places` as for Compose."""
    (described,) = pod_of(resource)["containers"]
    environment = {**SERVICE_LINKS, **(settings if "envFrom" in described else {})}
    for variable in described["env"]:
        key = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        environment[variable["name"]] = secret[key] if key else variable["value"]
    service = {"command": described["command"], "environment": environment}
    probe = described.get("livenessProbe", {})
    if "exec" in probe:
        test = ["CMD", *probe["exec"]["command"]]
        service["healthcheck"] = {"test": test, "timeout": f"{probe['timeoutSeconds']}s"}
    return Container(described["name"], service, places, folder)
