"""deploy/kubernetes: what Kubernetes says to it, and that its containers work together."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
from redis import Redis

from demo.dataset import ACTIVE_AGE_MS, KEYS_EACH, STALE_AGE_MS, write_acceptance_data, write_coordinators
from demo.servers import Server, free_port, wait_until
from demo.stack import ROOT
from tests.support.compose import Container
from tests.support.kubernetes import KUBERNETES, built, container, pod_of, written
from tests.support.making import make
from tests.support.scraping import scrape
from tests.support.sweeping import OWN_KEYS, all_keys

pytestmark = pytest.mark.debian

#: The oldest and the newest version of Kubernetes whose schemas the resources are checked against.
VERSIONS = ("1.29", "1.37")
MODELS: dict[str, Any] = {"PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}
PODS = [
    resource
    for name in ("celery", "cronjob")
    for resource in written(name)
    if resource["kind"] in ("Deployment", "CronJob")
]


def test_what_there_is() -> None:
    names = {
        name: sorted(f"{resource['kind']}/{resource['metadata']['name']}" for resource in built(name))
        for name in ("celery", "cronjob", "monitoring")
    }
    (settings,) = (name for name in names["celery"] if name.startswith("ConfigMap/"))
    assert names == {
        "celery": [
            settings,
            *(f"Deployment/cleanup-{name}" for name in ("beat", "flower", "worker")),
            "Service/cleanup-flower",
        ],
        "cronjob": ["CronJob/cleanup"],
        "monitoring": ["PodMonitor/cleanup-worker", "PrometheusRule/cleanup"],
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["celery", "cronjob"])
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    for resource in built(name):
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_prometheus_operator_knows_every_field() -> None:
    for resource in built("monitoring"):
        read = MODELS[resource["kind"]].model_validate(resource)
        # the models leave out what they don't know
        assert json.loads(read.model_dump_json(by_alias=True, exclude_none=True)) == resource


def test_the_alerts_are_those_of_prometheus() -> None:
    (rule,) = (resource for resource in built("monitoring") if resource["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


def test_the_metrics_of_the_worker_are_scraped() -> None:
    (monitor,) = (resource for resource in built("monitoring") if resource["kind"] == "PodMonitor")
    (worker,) = (resource for resource in PODS if resource["metadata"]["name"] == "cleanup-worker")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= worker["spec"]["template"]["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod_of(worker)["containers"][0]["ports"]}


@pytest.mark.parametrize("resource", PODS, ids=lambda resource: resource["metadata"]["name"])
def test_every_pod_is_hardened(resource: dict[str, Any]) -> None:
    pod = pod_of(resource)
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    # the image's user
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (described,) = pod["containers"]
    assert described["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(described["resources"]) == {"requests", "limits"}
    # what is secret comes from the Secret
    plain = {variable["name"] for variable in described["env"] if "value" in variable}
    assert not {name for name in plain if name.endswith(("_URL", "_BACKEND", "_AUTH", "_PASSWORD"))}


def test_one_beat_also_while_it_is_replaced() -> None:
    (beat,) = (resource for resource in PODS if resource["metadata"]["name"] == "cleanup-beat")
    assert beat["spec"]["replicas"] == 1
    assert beat["spec"]["strategy"] == {"type": "Recreate"}


def test_a_running_sweep_may_end() -> None:
    (settings,) = (resource["data"] for resource in built("celery") if resource["kind"] == "ConfigMap")
    (worker,) = (resource for resource in PODS if resource["metadata"]["name"] == "cleanup-worker")
    limit_s = 0.9 * int(settings["CLEANUP_INTERVAL_SECONDS"])
    assert pod_of(worker)["terminationGracePeriodSeconds"] > limit_s
    (job,) = (resource for resource in PODS if resource["kind"] == "CronJob")
    assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= limit_s


def test_the_coordination_redis_is_the_workers_alone() -> None:
    knows = {resource["metadata"]["name"] for resource in PODS if "COORDINATION_REDIS_URL" in str(resource)}
    assert knows == {"cleanup-worker", "cleanup"}


@pytest.fixture
def containers(server: Server, broker: Server, tmp_path: Path) -> Iterator[dict[str, Container]]:
    """Every container by its name, not started; the ports 9808 and 5555 are others here."""
    with broker.client() as client:
        client.flushall()
    secret = {
        "COORDINATION_REDIS_URL": f"{server.url}/0",
        "CELERY_BROKER_URL": f"{broker.url}/1",
        "CELERY_RESULT_BACKEND": f"{broker.url}/2",
        "FLOWER_BASIC_AUTH": "admin:secret",
    }
    (settings,) = (resource["data"] for resource in built("celery") if resource["kind"] == "ConfigMap")
    settings |= {"CLEANUP_INTERVAL_SECONDS": "2"}
    places = {"9808": str(free_port()), "5555": str(free_port()), "/tmp/": f"{tmp_path}/"}  # noqa: S108
    places["/data/"] = f"{tmp_path}/"
    made = [container(resource, settings, secret, places, tmp_path) for resource in PODS]
    try:
        yield {container.name: container for container in made}
    finally:
        for container_ in made:
            container_.stop()


def test_worker_beat_and_flower_work_together(containers: dict[str, Container], client: Redis) -> None:
    write_coordinators(client, [b"stale-%d" % n for n in range(50)], STALE_AGE_MS)
    write_coordinators(client, [b"active"], ACTIVE_AGE_MS)
    worker, beat, flower = (containers[name] for name in ("worker", "beat", "flower"))
    for started in (worker, flower, beat):
        started.start()
    wait_until(lambda: len(all_keys(client) - OWN_KEYS) == KEYS_EACH, "the stale ones are gone", 60)
    port = int(worker.here("9808"))
    wait_until(lambda: scrape(port)["cleanup_keys_deleted_total"] == 300, "it is counted there")
    for name in (worker, beat):
        wait_until(name.healthy, f"the probe of {name.name} passes", 60)
    (described,) = (
        pod_of(resource)["containers"][0] for resource in PODS if "-flower" in str(resource["metadata"])
    )
    probe = described["livenessProbe"]["httpGet"]
    url = f"http://127.0.0.1:{flower.here('5555')}{probe['path']}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
    # the probe of a beat that sends no more fails, and so does that of a worker that is gone
    beat.stop()
    worker.stop()
    for name in (worker, beat):
        wait_until(lambda: not name.healthy(), f"the probe of {name.name} fails", 60)  # noqa: B023


def test_the_cron_job_cleans(containers: dict[str, Container], client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    job = containers["cleanup"]
    job.start()
    assert job.process is not None
    assert job.process.wait(60) == 0, job.log
    assert client.dbsize() == 10 * KEYS_EACH


def test_make_manifests_changes_nothing(tmp_path: Path) -> None:
    committed = (KUBERNETES / "monitoring" / "alerts.yaml").read_text()
    head = (KUBERNETES / "monitoring" / "prometheusrule.head").read_text()
    assert committed.startswith(head)
    command = make("--dry-run", "manifests").replace(
        "> deploy/kubernetes/monitoring/alerts.yaml", f"> {tmp_path / 'alerts.yaml'}"
    )
    subprocess.run(["sh", "-c", command], cwd=ROOT, check=True)
    assert (tmp_path / "alerts.yaml").read_text() == committed
