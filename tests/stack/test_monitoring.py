"""Prometheus sees all there is to see, and answers what the dashboards ask."""

import json
from urllib.parse import quote

import pytest

from tests.stack.stack_cases import MONITORING, ROOT, until

pytestmark = pytest.mark.stack

BOARDS = sorted((ROOT / "deploy/monitoring/grafana/dashboards").glob("*.json"))
QUIET = ("rejected", "lost", "faults")  # series that are there only after something went wrong


def ask(stack, path):
    container = stack.containers(MONITORING)["prometheus"][0]
    said = stack.execute(container, f"wget -q -O - 'http://127.0.0.1:9090/api/v1/{path}'")
    answer = json.loads(said)
    assert answer["status"] == "success", answer
    return answer["data"]


def asked():
    """Return what the panels ask of Prometheus."""
    for board in BOARDS:
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel.get("targets", []):
                if "expr" in target:
                    yield target["expr"].replace("$__rate_interval", "1m")


def test_all_targets_are_up(stack):
    def up():
        targets = ask(stack, "targets")["activeTargets"]
        health = {target["labels"]["job"]: target["health"] for target in targets}
        return health if set(health.values()) == {"up"} else None

    assert set(until("all targets up", up)) == {"training_node", "telemetry_node", "redis"}


def test_every_panel_gets_an_answer(stack):
    stack.learning()
    queries = list(asked())
    assert len(queries) >= 10
    for query in queries:
        if any(word in query for word in QUIET):
            ask(stack, f"query?query={quote(query)}")
        else:
            until(query, lambda q=query: ask(stack, f"query?query={quote(q)}")["result"])


def test_the_rules_are_loaded_and_sound(stack):
    groups = ask(stack, "rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert sum(rule["type"] == "alerting" for rule in rules) >= 8
    until(
        "all rules judged",
        lambda: all(
            rule["health"] == "ok"
            for group in ask(stack, "rules")["groups"]
            for rule in group["rules"]
        ),
    )


def test_redis_says_how_it_is_without_showing_anything(stack):
    until("memory", lambda: ask(stack, "query?query=redis_memory_max_bytes")["result"])
    assert ask(stack, "query?query=redis_up")["result"][0]["value"][1] == "1"
