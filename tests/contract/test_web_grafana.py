"""Grafana's data sources: both contracts, and every target of every dashboard that we ship."""

import json
import random
import re
import time
from pathlib import Path
from typing import get_args, get_type_hints
from urllib.parse import urlencode

import pytest

from deploy.monitoring.grafana import dashboards
from soulsai.types import ClientStatus
from tests.contract.web_cases import (
    LIVE,
    Browser,
    episode,
    settings,
    telemetry,
    training,
    until,
    write_run,
)
from tests.memory_server import MemoryServer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring" / "grafana" / "dashboards"
BUILT = (
    dashboards.run_dashboard(),
    dashboards.nodes_dashboard(),
    dashboards.plotly_dashboard(),
)
NAMES = {
    "soulsai_env_steps_total", "soulsai_episodes_total", "soulsai_samples_received_total",
    "soulsai_samples_rejected_total", "soulsai_model_updates_total", "soulsai_clients",
    "soulsai_model_update_duration_seconds_bucket", "soulsai_sample_age_versions_bucket",
    "soulsai_stream_backlog_messages", "soulsai_weights_publish_bytes_total",
    "soulsai_episode_reward_mean", "soulsai_environment_restarts_total",
    "soulsai_environment_faults_total", "soulsai_evaluation_mean", "soulsai_evaluation_low",
    "soulsai_evaluation_high", "soulsai_evaluation_episodes",
}  # fmt: skip

# What the plugin sends, and more than we look at.
QUESTION = {
    "range": {"from": "2020-11-14T22:00:00.000Z", "to": "2040-11-15T06:00:00.000Z",
              "raw": {"from": "now-6h", "to": "now"}},
    "rangeRaw": {"from": "now-6h", "to": "now"}, "interval": "30s", "intervalMs": 30000,
    "maxDataPoints": 100, "scopedVars": {}, "panelId": "1",
    "targets": [{"refId": "A", "target": "reward", "payload": {}}],
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def nothing_left_over():
    """The page of this module is served from its first test to its last."""
    return


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    saves = tmp_path_factory.mktemp("saves")
    write_run(saves, LIVE, 300)
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(saves), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        for number in (300, 301):  # just now, so that panels over time are not empty
            trainer.play(episode(number, 2000, random.Random(0), time.time() - 3 * number))
        until(lambda: browser.get("/api/v1/status")["episode"] == 302)
        yield browser


def test_the_data_source_works(browser):
    for path in ("/grafana", "/grafana/"):
        assert browser.get(path) == {"status": "ok"}


def test_what_can_be_chosen(browser):
    names = browser.post("/grafana/search", {"target": ""})
    assert {"reward", "reward_mean", "loss", "lag"} <= set(names)
    metrics = browser.post("/grafana/metrics", {"metric": "reward", "payload": {"run": "latest"}})
    assert [metric["value"] for metric in metrics] == names
    payloads = {payload["name"]: payload for payload in metrics[0]["payloads"]}
    assert list(payloads) == ["run", "x", "kind", "window"]
    assert {"label": LIVE, "value": LIVE} in payloads["run"]["options"]
    asked = {"metric": "reward", "payload": {}, "name": "x"}
    options = browser.post("/grafana/metric-payload-options", asked)
    assert [option["value"] for option in options] == ["time", "env_steps", "episode"]
    runs = browser.post("/grafana/variable", {"payload": {"target": "runs"}, "range": {}})
    assert runs == [{"__text": name, "__value": name} for name in ("latest", LIVE)]
    assert browser.post("/grafana/tag-keys", {}) == [{"type": "string", "text": "run"}]
    assert {"text": LIVE} in browser.post("/grafana/tag-values", {"key": "run"})


def test_a_series_over_time(browser):
    (answer,) = browser.post("/grafana/query", QUESTION)
    assert answer["target"] == "reward"
    assert 10 < len(answer["datapoints"]) <= 100
    value, milliseconds = answer["datapoints"][0]
    assert isinstance(value, float)
    assert milliseconds > 1.7e12


def test_a_table_over_env_steps(browser):
    payload = {"run": LIVE, "x": "env_steps", "kind": "greedy", "window": "5"}
    target = {"refId": "B", "target": "reward_mean", "payload": payload}
    hidden = {"refId": "C", "target": "lag", "hide": True}
    (answer,) = browser.post("/grafana/query", QUESTION | {"targets": [target, hidden]})
    assert answer["type"] == "table"
    assert [column["text"] for column in answer["columns"]] == ["env_steps", "reward_mean"]
    places = [row[0] for row in answer["rows"]]
    assert places == sorted(set(places))


def test_points_are_clamped_and_the_empty_origin_of_a_proxy_is_none(browser):
    for points in (-1, 0, 1e9, None, 2.5):
        (answer,) = browser.post("/grafana/query", QUESTION | {"maxDataPoints": points}, origin="")
        assert 2 <= len(answer["datapoints"]) <= 302
    many = [{"target": "reward"}] * 21
    assert browser.ask("POST", "/grafana/query", QUESTION | {"targets": many})[0] == 422
    assert browser.post("/grafana/query", QUESTION | {"targets": []}) == []


@pytest.mark.parametrize("built", BUILT, ids=lambda built: built["uid"])
def test_the_committed_dashboards_are_the_built_ones(built):
    file = FOLDER / f"{built['uid']}.json"
    assert json.loads(file.read_text()) == built, (
        f"python deploy/monitoring/grafana/dashboards.py {FOLDER}"
    )


@pytest.mark.parametrize("built", BUILT, ids=lambda built: built["uid"])
def test_panels_have_their_own_places(built):
    taken = set()
    for panel in built["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= dashboards.WIDTH
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in built["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [(panel["type"], panel["title"]) for panel in built["panels"]]
    assert len(set(titles)) == len(titles)


def targets():
    for panel in (panel for built in BUILT for panel in built["panels"]):
        for target in panel["targets"]:
            if "expr" in target:
                continue  # of Prometheus
            yield pytest.param(panel, target, id=f"{panel['type']}-{panel['title']}")
    variable = BUILT[0]["templating"]["list"][0]
    panel = {"type": "variable", "title": "run"}
    yield pytest.param(panel, variable["query"]["infinityQuery"], id="variable")


def asked(browser, target):
    """Follow a target as the plugin does: its URL, its parameters, then its columns."""
    words = {
        "${run}": "latest",
        "${__timeFrom}": f"{int((time.time() - 6 * 3600) * 1000)}",
        "${__timeTo}": f"{int((time.time() + 60) * 1000)}",
    }
    params = {
        param["key"]: words.get(param["value"], param["value"])
        for param in target["url_options"]["params"]
    }
    assert target["root_selector"] == ""
    assert target["parser"] == "backend"
    rows = browser.get(f"{target['url']}?{urlencode(params)}")
    return [
        {column["text"]: row[column["selector"]] for column in target["columns"]} for row in rows
    ]


@pytest.mark.parametrize(("panel", "target"), [*targets()])
def test_every_target_of_every_panel_is_answered(browser, panel, target):
    if panel["title"] == "Events":
        until(lambda: browser.get("/api/v1/events"))
    rows = asked(browser, target)
    assert rows
    python = {"number": (int, float), "string": (str,), "timestamp": (str,)}
    for column in target["columns"]:
        values = [row[column["text"]] for row in rows if row[column["text"]] is not None]
        assert all(isinstance(value, python[column["type"]]) for value in values)
        assert values or panel["type"] == "table"
        if column["type"] == "timestamp":
            assert all(re.fullmatch(r"[\d-]+T[\d:.]+Z", value) for value in values)
    if panel["type"] in ("trend", "timeseries"):
        first = [row[target["columns"][0]["text"]] for row in rows]
        assert first == sorted(set(first))
        assert len(panel["targets"]) == 1  # one frame per Trend panel
    if panel["type"] == "trend":
        assert panel["options"]["xField"] == target["columns"][0]["text"]


def test_prometheus_is_asked_for_names_that_the_nodes_tell():
    expressions = [
        target["expr"]
        for panel in BUILT[1]["panels"]
        for target in panel["targets"]
        if "expr" in target
    ]
    assert {name for expr in expressions for name in re.findall(r"soulsai_\w+", expr)} == NAMES
    assert all(expr.count("(") == expr.count(")") for expr in expressions)


def test_both_nodes_redis_and_each_client_are_shown_as_up_or_down():
    nodes, clients = BUILT[1]["panels"][:2]
    asked = [target["expr"] for target in nodes["targets"]]
    assert asked == ['up{job=~"training_node|telemetry_node"}', "redis_up"]
    (mapping,) = clients["fieldConfig"]["defaults"]["mappings"]
    states = get_args(get_type_hints(ClientStatus)["state"])
    assert {state: mapping["options"][state]["text"] for state in states} == {
        "active": "up", "waiting": "up", "lost": "down", "quarantine": "kept out",
    }  # fmt: skip
