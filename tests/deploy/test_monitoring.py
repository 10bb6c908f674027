"""Rules, dashboards and routes: valid, tested, explained, and only about metrics that exist."""

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import structlog
import yaml

from agents.bridge.metrics import BridgeMetrics
from streams.observe.logs import configure
from streams.observe.metrics import Metrics
from streams.settings import load
from tests.deploy.manifests import ROOT, built, of_kind, program

FOLDER = ROOT / "k8s/monitoring"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
#: Labels that the scrape configs and histograms add, and those of Prometheus' own `up`.
ADDED = {"component", "instance", "node", "le"}
#: What PromQL itself knows and these expressions use.
WORDS = {
    "sum", "max", "min", "avg", "count", "rate", "increase", "changes", "absent", "by", "on", "and", "or", "unless",
    "group_left", "clamp_min", "max_over_time", "histogram_quantile", "up",
}  # fmt: skip


@cache
def samples() -> dict[str, set[str]]:
    """Every series that a worker, a scorer or a bridge exports -> its labels."""
    found: dict[str, set[str]] = {}
    for metrics in (Metrics(), BridgeMetrics()):
        labels = {each._name: set(each._labelnames) for each in vars(metrics).values() if hasattr(each, "_labelnames")}
        for family in metrics.registry.collect():
            for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""]):
                found.setdefault(f"{family.name}{suffix}", set()).update(labels.get(family.name, ()))
    return found


def dashboards() -> Iterator[tuple[str, str]]:
    """Panel and expression, of every dashboard."""
    for path in sorted((FOLDER / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "5m")


def expressions() -> list[tuple[str, str]]:
    return [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES] + list(dashboards())


def promtool(*arguments: str) -> None:
    """Runs promtool; skips the test where it is not installed."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not here (Debian's package prometheus has it)")
    done = subprocess.run([path, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=[where for where, _ in expressions()])
def test_only_metrics_that_exist_are_used(where: str, expression: str) -> None:
    """A renamed metric, or a label it does not have, breaks this rather than a dashboard at night."""
    known = samples()
    for name, matchers in re.findall(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}", expression):
        if name in known:
            assert set(re.findall(r"(\w+)\s*(?:=|!)", matchers)) <= known[name] | ADDED, where
    for grouping in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression):
        labels = {label.strip() for label in grouping.split(",")} - {""}
        assert labels <= {"lane"} | ADDED | {label for each in known.values() for label in each}, where
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|on|group_left)\s*\([^)]*\)', " ", expression)
    used = set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*", bare))
    assert used <= known.keys() | RECORDED | WORDS, where


def test_the_rules_pass_their_unit_tests() -> None:
    """promtool's own tests: each alert fires when it should and not before."""
    promtool("check", "rules", "rules.yaml")
    promtool("test", "rules", "rules_test.yaml")


def test_every_alert_is_tested() -> None:
    """Each alert fires in at least one unit test."""
    cases = [
        case
        for test in yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in ALERTS}


def test_every_alert_has_its_runbook() -> None:
    """The runbook that an alert names is a section of the page, and no section is about an alert that is gone."""
    page = (ROOT / "docs/runbooks.md").read_text()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_prometheus_takes_the_scrape_configs(tmp_path: Path) -> None:
    """Those for a cluster and those of docker compose."""
    cluster = yaml.safe_load((FOLDER / "scrape.yaml").read_text())
    (discovery,) = cluster["scrape_configs"][0].pop("kubernetes_sd_configs")  # Debian's promtool does not know it
    assert discovery.keys() == {"role", "namespaces"}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster | {"rule_files": [str(FOLDER / "rules.yaml")]}))
    promtool("check", "config", str(tmp_path / "cluster.yaml"))
    compose = (
        (ROOT / "docker/prometheus.yaml").read_text().replace("/etc/prometheus/rules.yaml", f"{FOLDER}/rules.yaml")
    )
    (tmp_path / "compose.yaml").write_text(compose)
    promtool("check", "config", str(tmp_path / "compose.yaml"))


def test_prometheus_takes_the_dashboards_expressions(tmp_path: Path) -> None:
    """Every expression of a dashboard is PromQL."""
    rules = [{"record": f"panel:{number}", "expr": text} for number, (_, text) in enumerate(dashboards())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


def test_the_dashboards_are_what_the_code_makes() -> None:
    """The JSON files are never edited by hand."""
    for path, text in runpy.run_path(str(FOLDER / "dashboards.py"))["files"]():
        assert path.read_text() == text


def test_memory_alerts_at_nine_tenths_of_the_limits() -> None:
    """The alert's numbers are those of the manifests."""
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "MemoryNearItsLimit"]
    for name, item in of_kind("Deployment", built("k8s/overlays/production")).items():
        limit = item["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        component = name.removeprefix("sentence-streams-")
        (mebibytes,) = re.findall(rf'"[^"]*\b{component}\b[^"]*"\}} > 0\.9 \* (\d+) \* 1024 \* 1024', rule["expr"])
        assert limit == f"{mebibytes}Mi"


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"severity": "page", "notify": "lag"}, "pager,operators"),
        ({"severity": "ticket", "notify": "failed-messages"}, "data-team"),
        ({"severity": "page", "notify": "kill-switch"}, "pager,model-owners"),
        ({"severity": "ticket", "notify": "something-new"}, "tickets"),
    ],
)
def test_alerts_reach_whom_they_concern(labels: dict[str, str], receivers: str) -> None:
    """Alertmanager's own tool: the file is valid, and each kind goes to its people."""
    amtool, file = program("amtool"), str(FOLDER / "alertmanager.yaml")
    subprocess.run([amtool, "check-config", file], check=True, capture_output=True)
    command = [amtool, "config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receivers}"]
    done = subprocess.run(
        [*command, *(f"{name}={text}" for name, text in labels.items())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_log_shipper_reads_what_our_pods_write(capsys: pytest.CaptureFixture[str]) -> None:
    """Its files are those of our containers, its fields those of our lines, and its pipeline is made of its parts."""
    shipper = yaml.safe_load((FOLDER / "logs.yaml").read_text())
    (pattern,) = shipper["receivers"]["filelog"]["include"]
    for item in of_kind("Deployment", built("k8s/overlays/production")).values():
        pod, namespace = item["spec"]["template"]["spec"], item["metadata"]["namespace"]
        assert fnmatch(f"/var/log/pods/{namespace}_pod_uid/{pod['containers'][0]['name']}/0.log", pattern)
    configure(load())
    structlog.get_logger("test").warning("event", trace_id="0af7651916cd43dd8448eb211c80319c")
    line = json.loads(capsys.readouterr().err)
    by_type = {step["type"]: step for step in shipper["receivers"]["filelog"]["operators"]}
    assert by_type["severity_parser"]["parse_from"].removeprefix("attributes.") in line
    for part in ("receivers", "processors", "exporters"):
        assert set(shipper["service"]["pipelines"]["logs"][part]) <= shipper[part].keys()


def test_every_alert_has_a_route() -> None:
    """No alert falls through to the default receiver by accident."""
    routes = str(yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())["route"]["routes"])
    assert all(rule["labels"]["notify"] in routes for rule in ALERTS)
