"""What is deployed fits together, as far as can be seen without an engine."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "docker-compose.yaml", *sorted((ROOT / "deploy").glob("*/compose.yaml"))]
ASKS = "run deploy/setup.sh first"
AS_WHOM = f"${{SOULSAI_UID:?{ASKS}}}:${{SOULSAI_GID:?{ASKS}}}"
GUIDE = (ROOT / "docs/operators-guide.md").read_text()


def services(file):
    return YAML(typ="safe").load(file.read_text())["services"].items()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_service_is_bounded_and_without_rights(file):
    for name, service in services(file):
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == AS_WHOM
        assert service["init"]
        assert service["logging"]["options"]["max-size"]
        if "profiles" not in service or name == "alertmanager":
            assert service["mem_limit"]
            assert service["pids_limit"]
            assert service["healthcheck"]["test"]
            assert service["restart"]
        assert "privileged" not in service
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_images_of_others_are_pinned(file):
    for name, service in services(file):
        assert re.fullmatch(
            r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*|soulsai-\w+:\$.*", service["image"]
        ), name


def test_only_redis_and_the_proxy_publish_ports():
    published = {name for file in FILES for name, service in services(file) if "ports" in service}
    assert published == {"redis", "nginx"}


def test_each_role_has_its_own_secrets_only():
    core = dict(services(FILES[0]))
    held = {
        name: {secret["target"] for secret in service.get("secrets", [])}
        for name, service in core.items()
    }
    assert held["client"] == {"redis.secret", "manifest.pub"}
    assert held["evaluator"] == set()
    assert core["evaluator"]["network_mode"] == "none"
    assert held["training_node"] == {"training_node.secret", "manifest.key"}
    assert not any("admin" in target for targets in held.values() for target in targets)


def test_every_alert_has_its_runbook():
    rules = (ROOT / "deploy/monitoring/prometheus/rules").glob("*.yml")
    alerts = re.findall(r"alert: (\w+)", "".join(rule.read_text() for rule in rules))
    assert len(alerts) >= 8
    assert {alert for alert in alerts if f"### {alert}\n" not in GUIDE} == set()
    assert set(re.findall(r"### (Soulsai\w+)\n", GUIDE)) <= set(alerts)


def test_every_plugin_that_a_dashboard_needs_is_installed_in_a_pinned_version():
    monitoring = dict(services(ROOT / "deploy/monitoring/compose.yaml"))
    pinned = monitoring["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"].split(",")
    installed = {plugin.partition("@")[0] for plugin in pinned}
    assert all(re.fullmatch(r"[\w-]+@\d+\.\d+\.\d+", plugin) for plugin in pinned)
    used = set()
    for file in (ROOT / "deploy/monitoring/grafana/dashboards").glob("*.json"):
        for panel in json.loads(file.read_text())["panels"]:
            used |= {panel["type"], panel["datasource"]["type"]}
    assert {kind for kind in used if re.search("-(panel|datasource)$", kind)} == installed
