"""The JSON API over real HTTP: what it answers, and that its documentation says so."""

import csv
import io
import itertools
import json
import random
import tarfile
import time
from pathlib import Path
from statistics import mean

import pytest

from soulsai.web.app import PageServer
from soulsai.web.run_store import NoSource
from tests.contract.web_cases import (
    BEGAN,
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
OLD = "2026-11-20_09-11-02_lunarlander-v3_dqn_11aa"
SEED = "2026-11-20_12-41-40_lunarlander-v3_dqn_22bb"
OTHER = "2026-11-21_08-30-00_lunarlander-v3_dqn_33cc"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    saves = tmp_path_factory.mktemp("saves")
    write_run(saves, LIVE, 1000)
    write_run(saves, OLD, 300, seed=1)
    write_run(saves, SEED, 350, seed=2)
    write_run(saves, OTHER, 200, seed=1, lr=1e-3)
    server = MemoryServer()
    with training(server), telemetry(settings(saves), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["live"])
        until(lambda: browser.get("/api/v1/status")["status"])
        yield browser


@pytest.fixture(autouse=True, scope="module")
def nothing_left_over():
    """The page of this module is served from its first test to its last."""
    return


def test_a_series_over_env_steps(browser):
    rows = browser.get("/api/v1/series?metrics=reward,landed&max_points=200")
    assert 100 < len(rows) <= 200
    assert set(rows[0]) == {"episode", "env_steps", "time", "reward", "landed"}
    assert all(a["env_steps"] < b["env_steps"] for a, b in itertools.pairwise(rows))
    assert rows[0]["time"].endswith("Z")
    assert (rows[0]["episode"], rows[-1]["episode"]) == (1, 1000)


def test_means_and_bands(browser):
    query = "metrics=reward,reward_mean,reward_low,reward_high&x=episode&max_points=5000&window=10"
    rows = browser.get(f"/api/v1/series?{query}")
    some = [row["reward"] for row in rows[490:500]]
    mean = sum(some) / 10
    spread = (sum((value - mean) ** 2 for value in some) / 10) ** 0.5
    assert rows[499]["reward_mean"] == pytest.approx(mean)
    assert rows[499]["reward_high"] == pytest.approx(mean + spread)
    assert rows[499]["reward_low"] == pytest.approx(mean - spread)


def test_kinds_add_up(browser):
    counts = [
        len(browser.get(f"/api/v1/series?metrics=reward&max_points=5000&kind={kind}"))
        for kind in ("all", "exploring", "greedy", "intervened")
    ]
    assert counts[0] == counts[1] + counts[2] == 1000
    assert 0 < counts[2] < 200
    assert counts[3] == 0, "nobody has taken over"


def test_rows_after_a_number_and_within_a_time(browser):
    rows = browser.get("/api/v1/series?metrics=reward&x=episode&after=990")
    assert [row["episode"] for row in rows] == list(range(991, 1001))
    begin, end = int(BEGAN) + 30, int(BEGAN) + 60
    rows = browser.get(f"/api/v1/series?metrics=reward&x=time&from={begin}&to={1000 * end}")
    assert len(rows) == 11


def test_episodes_and_training_may_be_mixed(browser):
    rows = browser.get("/api/v1/series?metrics=reward_mean,loss&max_points=400")
    assert len(rows) <= 400
    assert any(row["loss"] is None for row in rows)
    assert any(row["loss"] is not None for row in rows)
    assert all(a["env_steps"] < b["env_steps"] for a, b in itertools.pairwise(rows))
    for query in ("metrics=reward,loss&x=episode", "metrics=reward,loss&after=5"):
        assert browser.ask("GET", f"/api/v1/series?{query}")[0] == 422


def test_points_are_clamped_and_nonsense_is_refused(browser):
    assert len(browser.get("/api/v1/series?max_points=-5&metrics=reward")) <= 2
    assert len(browser.get("/api/v1/series?max_points=999999999&metrics=reward")) == 1000
    for query in (
        "metrics=nonsense",
        "x=sideways",
        "max_points=many",
        "from=yesterday",
        "after=-1",
    ):
        code, _, data = browser.ask("GET", f"/api/v1/series?{query}")
        assert code == 422
        assert query.partition("=")[0] in json.loads(data)["detail"]
    code, _, data = browser.ask("GET", "/api/v1/series?run=nobody")
    assert (code, json.loads(data)) == (404, {"detail": "there is no run 'nobody'"})


def test_the_same_as_csv(browser):
    query = "/api/v1/series?metrics=reward,loss&max_points=100"
    code, headers, data = browser.ask("GET", f"{query}&format=csv")
    assert code == 200
    assert headers["content-type"].startswith("text/csv")
    table = list(csv.DictReader(io.StringIO(data.decode())))
    rows = browser.get(query)
    assert [float(row["env_steps"]) for row in table] == [row["env_steps"] for row in rows]
    assert [row["loss"] or None for row in table].count(None) == [
        row["loss"] for row in rows
    ].count(None)


def test_large_answers_are_compressed_for_who_can_read_that(browser):
    path = "/api/v1/series?metrics=reward&max_points=1000"
    _, plain, long = browser.ask("GET", path)
    _, zipped, brief = browser.ask("GET", path, accept_encoding="gzip")
    assert "content-encoding" not in plain
    assert zipped["content-encoding"] == "gzip"
    assert len(brief) < len(long) / 2


def test_all_runs(browser):
    rows = {row["run"]: row for row in browser.get("/api/v1/runs")}
    assert list(rows) == [LIVE, OTHER, SEED, OLD]
    assert [row["live"] for row in rows.values()] == [True, False, False, False]
    assert (rows[LIVE]["phase"], rows[OLD]["phase"]) == ("learning", "ended")
    assert (rows[OLD]["seed"], rows[OLD]["algorithm"], rows[OLD]["best"]) == (1, "dqn", 231.7)
    assert rows[LIVE]["episodes"] == 2000  # as the training node says


def test_clients_with_what_they_played(browser):
    rows = browser.get("/api/v1/clients")
    assert [row["client"] for row in rows] == ["client-1", "client-2", "client-3", "volunteer-9d"]
    assert rows[0]["episodes"] == 250
    assert rows[0]["reward_mean"] is not None
    assert (rows[3]["episodes"], rows[3]["reward_mean"], rows[3]["state"]) == (0, None, "lost")


def test_models_with_score_and_digest(browser):
    rows = {row["model"]: row for row in browser.get(f"/api/v1/models?run={OLD}")}
    assert list(rows) == ["best_model", "000047", "000046", "000045"]
    assert (rows["best_model"]["score"], rows["best_model"]["env_steps"]) == (231.7, 66_000)
    newest = rows["000047"]
    assert newest["env_steps"] == 5 * 47 * 300
    assert newest["score"] is not None
    assert newest["fault"] == ""
    assert len(newest["files"][0]["sha256"]) == 64


def test_a_model_can_be_downloaded(browser):
    path = f"/api/v1/runs/{OLD}/models/000047"
    code, headers, data = browser.ask("GET", f"{path}/policy.onnx")
    assert (code, data) == (200, b"policy" * 47)
    assert headers["content-type"] == "application/octet-stream"
    code, headers, data = browser.ask("GET", f"{path}.tar")
    assert code == 200
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        policy = archive.extractfile("000047/policy.onnx").read()
    assert names[0] == "000047/manifest.json"
    assert len(names) == 4
    assert policy == b"policy" * 47


def test_the_settings_of_a_run(browser):
    assert browser.get(f"/api/v1/config?run={OTHER}")["dqn"]["lr"] == 1e-3


def test_seeds_are_one_experiment_and_settings_are_compared(browser):
    answer = browser.get(f"/api/v1/compare?runs={OLD},{SEED}&runs={OTHER}&max_points=50")
    assert [group["runs"] for group in answer["groups"]] == [[OLD, SEED], [OTHER]]
    row = answer["groups"][0]["rows"][10]
    assert set(row) == {"x", "n", "median", "low", "high", "iqm"}
    assert row["n"] == 2
    assert row["low"] <= row["median"] <= row["high"]
    differing = {one["setting"]: one["values"] for one in answer["differences"]}
    assert set(differing) == {"dqn.lr", "run.seed"}
    assert differing["dqn.lr"] == {OLD: 5e-4, SEED: 5e-4, OTHER: 1e-3}
    alone = browser.get(f"/api/v1/compare?runs={OLD},{SEED}&group=false&x=time")
    assert [group["runs"] for group in alone["groups"]] == [[OLD], [SEED]]
    assert alone["groups"][0]["rows"][0]["x"] == 0


def test_metrics_have_units(browser):
    rows = {row["name"]: row for row in browser.get("/api/v1/metrics")}
    assert (rows["steps"]["unit"], rows["steps"]["source"]) == ("env steps", "episodes")
    assert rows["lag"]["source"] == "training"
    assert {"reward", "landed", "loss", "q_mean"} <= set(rows)


def test_events_are_written_down(browser):
    until(lambda: "node" in [row["kind"] for row in browser.get("/api/v1/events")])
    rows = browser.get("/api/v1/events")
    assert [row["number"] for row in rows] == list(range(len(rows), 0, -1))
    assert browser.get(f"/api/v1/events?after={rows[0]['number']}") == []


def test_no_figure_is_no_error(browser):
    code, _, data = browser.ask("GET", f"/api/v1/runs/{OLD}/figure.png")
    assert (code, json.loads(data)["detail"]) == (404, "there is no figure yet")


def test_the_page_and_its_parts_are_served(browser):
    code, headers, data = browser.ask("GET", "/")
    assert (code, headers["cache-control"]) == (200, "no-cache")
    assert b"app.js" in data
    for part in ("app.js", "style.css", "vendor/uPlot.iife.min.js", "vendor/uPlot.LICENSE.txt"):
        assert browser.ask("GET", f"/{part}")[0] == 200
    etag = browser.ask("GET", "/app.js")[1]["etag"]
    assert browser.ask("GET", "/app.js", if_none_match=etag)[0] == 304


def test_answers_are_quick(browser, record_property):
    times = []
    for _ in range(40):
        began = time.perf_counter()
        browser.get("/api/v1/series?metrics=reward,reward_mean,reward_low,reward_high")
        times.append(time.perf_counter() - began)
    record_property("median_milliseconds", 1000 * sorted(times)[20])
    assert sorted(times)[20] < 0.5


def test_the_documentation_is_the_committed_one(browser):
    document = browser.get("/api/v1/openapi.json")
    document["info"].pop("version")
    committed = ROOT / "docs" / "reference" / "openapi.json"
    assert json.loads(committed.read_text()) == document, f"python -m soulsai.web.app {committed}"


def test_no_two_operations_have_the_same_id(browser):
    paths = browser.get("/api/v1/openapi.json")["paths"]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(set(ids)) == len(ids) > 20


def test_an_episode_is_in_the_next_answer(tmp_path):
    server = MemoryServer()
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["live"])
        assert browser.get("/api/v1/series?metrics=reward,reward_mean") == []
        trainer.play(episode(0, 100, random.Random(0)))
        until(lambda: browser.get("/api/v1/series"))
        assert browser.get("/api/v1/status")["episode"] == 1


def test_without_any_run(tmp_path):
    server = MemoryServer()
    with PageServer(settings(tmp_path), NoSource(), server.telemetry) as page:
        until(lambda: page.url)
        browser = Browser(page.url)
        assert browser.get("/api/v1/runs") == []
        assert browser.get("/api/v1/status")["run"] == ""
        assert browser.ask("GET", "/api/v1/series")[0] == 404
        code, _, data = browser.ask("POST", "/api/v1/commands", {"command": "stop"})
        assert (code, json.loads(data)["detail"]) == (409, "no training node is alive")


def test_versions_tell_exploring_and_greedy_apart(browser):
    rng = random.Random(1)
    played = [episode(number, 2000, rng) for number in range(300)]
    rows = browser.get(f"/api/v1/versions?run={OLD}&limit=512")
    assert [row["version"] for row in rows] == sorted({one.version for one in played})
    for row in rows:
        mine = [one for one in played if one.version == row["version"]]
        greedy = [one.reward for one in mine if one.greedy]
        others = [one.reward for one in mine if not one.greedy]
        assert (row["episodes"], row["greedy_episodes"]) == (len(mine), len(greedy))
        assert row["steps_mean"] == pytest.approx(mean(one.steps for one in mine))
        assert row["reward_mean"] == (pytest.approx(mean(others)) if others else None)
        assert row["greedy_mean"] == (pytest.approx(mean(greedy)) if greedy else None)
    assert browser.get(f"/api/v1/versions?run={OLD}&limit=3") == rows[-3:]
