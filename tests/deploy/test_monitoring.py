"""The alerts and the dashboard, on a real Prometheus that scrapes a real worker."""

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from redis import Redis

from cleanup_tasks.reporting.metrics import FIGURES
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.fleet import fleet
from demo.servers import Server, free_port, running_server, stop, wait_until
from demo.stack import ROOT
from tests.support.scraping import scrape

pytestmark = pytest.mark.debian

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
#: The series that the variables of the dashboard choose.
CHOSEN = '{job=~"$job", instance=~"$instance", target=~"$target"'
#: What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".*", "$instance": ".*", "$target": ".*"}

QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}


#: What shows -1 then, which the dashboard words as "never yet".
BEFORE_THE_FIRST_SUCCESS = ("Intervals since the last success A", "Time since the last success A")


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an API call."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """The numbers that a query has now."""
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        result = self.get("query", query=query)["result"]
        return [float(row["value"][1]) for row in result]

    def ready(self) -> bool:
        """Whether it answers yet."""
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return bool(self.values("vector(1)"))
        return False


@contextlib.contextmanager
def running_prometheus(metrics_port: int, folder: Path) -> Iterator[Prometheus]:
    """Ours, with the rules and settings of deploy/, but for the worker's address and the pace."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{metrics_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    prometheus = Prometheus(free_port())
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{prometheus.port}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(prometheus.ready, "Prometheus answers")
        yield prometheus
    finally:
        stop(process)


@pytest.fixture(scope="module")
def prometheus(broker: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that saw a worker clean by each engine, and fail."""
    folder = tmp_path_factory.mktemp("monitoring")
    with (
        running_server() as coordination,
        coordination.client() as client,
        fleet(coordination, broker, folder) as running,
    ):
        running.stack.start_worker()
        with running_prometheus(running.metrics_port, folder) as prometheus:
            wait_until(lambda: prometheus.values("cleanup_interval_seconds"), "the worker is scraped")
            assert [prometheus.values(QUERIES[name]) for name in BEFORE_THE_FIRST_SUCCESS] == [[-1], [-1]]
            write_coordinators(client, [b"alive"], ACTIVE_AGE_MS)
            for task in ("cleanup", "cleanup_fallback"):
                write_coordinators(client, [b"stale-%d" % n for n in range(10)], STALE_AGE_MS)
                running.run(task)
            fail(client, running.run)
            assert scrape(running.metrics_port)["cleanup_keys_deleted_total"] == 120
            failed = 'increase(cleanup_sweeps_total{outcome="failed",engine="lua"}[1m]) > 0'
            wait_until(lambda: prometheus.values(failed), "the failure is scraped")
            yield prometheus


def fail(client: Redis, run: Any) -> None:
    """Have a sweep fail for good: the worker has no password."""
    client.config_set("requirepass", "secret")
    client.auth("secret")
    client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(Exception, match="Authentication required"):
        run()


def test_the_dashboard_has_every_metric() -> None:
    text = json.dumps(DASHBOARD)
    names = {name for name, _ in FIGURES.values()} | {
        "cleanup_sweeps",
        "cleanup_fallbacks",
        "cleanup_sweep_duration_seconds",
        "cleanup_last_success_timestamp_seconds",
        "cleanup_last_sweep_stale_coordinators",
        "cleanup_last_sweep_orphaned_coordinators",
    }
    assert {name for name in names if name not in text} == set()


@pytest.mark.parametrize("name", list(QUERIES))
def test_a_query_of_the_dashboard(name: str, prometheus: Prometheus) -> None:
    # each asks for what was chosen, wherever it names a metric
    assert len(re.findall(r"cleanup_\w+\{", QUERIES[name])) == QUERIES[name].count(CHOSEN)
    assert not re.search(r"cleanup_\w+\b(?!\{)", QUERIES[name])
    finite = [value for value in prometheus.values(QUERIES[name]) if value == value]
    assert finite
    assert min(finite) >= 0


def test_the_variables_of_the_dashboard_have_values(prometheus: Prometheus) -> None:
    seen = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
            seen[variable["name"]] = prometheus.get(f"label/{label}/values", **{"match[]": metric})
    assert [len(values) for values in seen.values()] == [1, 1, 1]
    assert (seen["job"], seen["target"]) == (["cleanup"], ["default"])


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    """Grafana's own models keep all that they know of what they read, and add their defaults."""
    plugins.register_default_plugins()
    model = GrafanaDashboard.from_json(DASHBOARD)
    assert differences(DASHBOARD, json.loads(JSONEncoder(sort_keys=True).encode(model))) == []


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where a part of ours is not found in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            found
            for key, value in ours.items()
            for found in differences(value, theirs.get(key, "nothing"), f"{path}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for number, pair in pairs for found in differences(*pair, f"{path}[{number}]")]
    return [] if ours == theirs else [f"{path}: {ours!r}, {theirs!r}"]


def test_a_misspelt_field_is_found() -> None:
    plugins.register_default_plugins()
    misspelt = {**DASHBOARD, "panels": [{**DASHBOARD["panels"][0], "descripton": "x"}]}
    model = GrafanaDashboard.from_json(misspelt)
    found = differences(misspelt, json.loads(JSONEncoder(sort_keys=True).encode(model)))
    assert found == [".panels[0].descripton: 'x', 'nothing'"]


def test_figures_in_prometheus(prometheus: Prometheus) -> None:
    assert prometheus.values("cleanup_keys_deleted_total") == [120]
    assert prometheus.values("sum(cleanup_sweeps_total)") == [3]
    assert prometheus.values(QUERIES["Stale in the last sweep A"]) == [10]


def test_rules_are_healthy_and_the_failure_is_an_alert(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), "every rule is evaluated")
    assert len(rules()) == 13

    def firing() -> list[str]:
        alerts = prometheus.get("alerts")["alerts"]
        return [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"]

    wait_until(lambda: firing() == ["CleanupFailing"], "the failure, and nothing else, is an alert")


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_unit_tests_and_a_runbook() -> None:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]
    }
    alerts = [rule for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == fired
    manual = (ROOT / "docs" / "operations.md").read_text()
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        file, anchor = rule["annotations"]["runbook_url"].split("#")
        assert file == "docs/operations.md"
        assert anchor == rule["alert"].lower()
        assert f"### {rule['alert']}\n" in manual
