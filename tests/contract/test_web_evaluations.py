"""Evaluations and recordings over real HTTP."""

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from soulsai.evaluations.record import Evaluations
from soulsai.web.evaluations import evaluation_rows
from tests.contract.evaluation_cases import video, write_evaluations
from tests.contract.web_cases import LIVE, Browser, settings, telemetry, until, write_run
from tests.memory_server import MemoryServer


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    saves = tmp_path_factory.mktemp("saves")
    write_evaluations(write_run(saves, LIVE, 50), count=12, recorded=3)
    with telemetry(settings(saves), MemoryServer()) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/runs"))
        yield browser


@pytest.fixture(autouse=True, scope="module")
def nothing_left_over():
    """The page of this module is served from its first test to its last."""
    return


def test_evaluations_come_in_order_with_their_intervals(browser):
    rows = browser.get("/api/v1/evaluations")
    assert [row["env_steps"] for row in rows] == [2400 * number for number in range(1, 13)]
    assert all(row["low"] < row["mean"] < row["high"] for row in rows)
    assert [row["model"] for row in rows if row["verdict"] == "best"] == [
        "000010", "000011", "000012",
    ]  # fmt: skip
    assert [row["number"] for row in rows if row["regressed"]] == [6]


def test_few_points_keep_the_best_models(tmp_path):
    write_evaluations(write_run(tmp_path, LIVE, 5), count=400, recorded=3, seeds=1)
    evaluations = Evaluations(tmp_path / LIVE)
    evaluations.refresh()
    rows = evaluation_rows(evaluations, 50)
    assert 25 <= len(rows) <= 50
    assert {row.number for row in rows} >= {398, 399, 400}


def test_recordings_are_listed_newest_first_and_fetched(browser):
    rows = browser.get("/api/v1/recordings")
    assert [(row["model"], row["seed"]) for row in rows] == [
        (model, seed) for model in ("000012", "000011", "000010") for seed in (2_000_000, 2_000_001)
    ]
    path = f"/api/v1/runs/latest/recordings/{rows[0]['model']}"
    trace = browser.get(f"{path}/{rows[0]['trace']}")
    assert (trace["version"], trace["seed"]) == (12, 2_000_000)
    status, headers, data = fetch(browser, f"{path}/{rows[0]['video']}")
    assert (status, headers["content-type"], data) == (200, "video/webm", video())


def test_a_video_can_be_fetched_from_its_middle_as_players_do(browser):
    path = "/api/v1/runs/latest/recordings/000012/episode-2000000.webm"
    status, headers, data = fetch(browser, path, {"range": "bytes=100-199"})
    assert (status, data) == (206, video()[100:200])
    assert headers["content-range"] == f"bytes 100-199/{len(video())}"


@pytest.mark.parametrize(
    "path",
    [
        "000012/policy.onnx",
        "000012/episode-9.webm",
        "..%2f..%2fcheckpoints/episode-1.json",
        "..%2F000012/episode-2000000.webm",
        "000012/..%2fpolicy.onnx",
        "000012/episode-1.webm%00",
    ],
)
def test_nothing_else_can_be_fetched(browser, path):
    assert browser.ask("GET", f"/api/v1/runs/latest/recordings/{path}")[0] == 404


def test_a_link_among_the_recordings_leads_nowhere(browser, tmp_path):
    runs = browser.get("/api/v1/config")["run"]["saves"]
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link = Path(runs) / LIVE / "evaluations" / "000012" / "episode-7.json"
    link.symlink_to(secret)
    assert browser.ask("GET", "/api/v1/runs/latest/recordings/000012/episode-7.json")[0] == 404
    link.unlink()


def test_a_run_without_evaluations_has_none(tmp_path):
    write_run(tmp_path, LIVE, 5)
    with telemetry(settings(tmp_path), MemoryServer()) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/runs"))
        assert browser.get("/api/v1/evaluations") == []
        assert browser.get("/api/v1/recordings") == []


def fetch(browser, path, headers=None):
    place = urlsplit(browser.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_may_play_videos_of_its_own(browser):
    _, headers, _ = fetch(browser, "/")
    assert "media-src 'self'" in headers["content-security-policy"]


def test_the_board_of_contributors_is_ranked_and_can_be_exported(browser):
    rows = browser.get("/api/v1/contributors")
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert rows[0]["env_steps"] >= rows[-1]["env_steps"] > 0
    assert browser.get("/api/v1/contributors?scope=all") == rows, "there is one run only"
    status, headers, data = fetch(browser, "/api/v1/contributors?format=csv")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/csv")
    assert len(data.decode().splitlines()) == 5
    assert browser.ask("GET", "/api/v1/contributors?scope=everything")[0] == 422
