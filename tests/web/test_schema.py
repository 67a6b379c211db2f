"""The API under generated requests, as many and as odd as schemathesis makes them; and its pace."""

import random
import re
import subprocess
import sys
import threading
import time

import pytest

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

REQUESTS = 10_000
EXAMPLES = 600  # for each operation; some have fewer different ones
ODD_DATA_IS_REFUSED = "positive_data_acceptance"  # a schema cannot say which runs there are
PATHS = (
    "/api/v1/series?metrics=reward,reward_mean,reward_low,reward_high&kind=exploring",
    "/api/v1/series?metrics=loss,lag&x=time",
    "/api/v1/runs", "/api/v1/clients", "/api/v1/metrics", "/api/v1/events", "/api/v1/status",
    "/api/v1/models", "/api/v1/config",
)  # fmt: skip


def test_the_document_keeps_to_openapi(tmp_path):
    # Only the tests of the page install it, and others collect this file.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    with telemetry(settings(tmp_path), MemoryServer()) as url:
        document = Browser(url).get("/api/v1/openapi.json")
    assert [fault.message for fault in OpenAPIV31SpecValidator(document).iter_errors()] == []


@pytest.mark.timeout(1800)
def test_ten_thousand_requests_and_no_server_error(tmp_path):
    write_run(tmp_path / "saves", LIVE, 200)
    (tmp_path / "saves" / LIVE / "telemetry.png").write_bytes(b"a figure")
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path / "saves"), server) as url:
        until(lambda: Browser(url).get("/api/v1/status")["status"])
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/api/v1/openapi.json"),
                *("--exclude-path", "/api/v1/stream", "-H", "x-soulsai: 1"),
                *("--phases", "coverage,fuzzing", "--mode", "all", "--continue-on-failure"),
                *("--max-examples", str(EXAMPLES), "--generation-database", "none"),
                *("--exclude-checks", ODD_DATA_IS_REFUSED, "--no-color", "--suppress-health-check"),
                *("all", "--seed", "1", "--workers", "2"),
            ],
            capture_output=True, text=True, timeout=1700, check=False, cwd=tmp_path,
        )  # fmt: skip
        tail = done.stdout[-4000:]
        said = re.search(r"(\d+) generated", tail)
        generated = int(said.group(1)) if said else 0
        print(f"{generated} requests: exit code {done.returncode}")
        assert done.returncode == 0, tail
        assert generated >= REQUESTS
        assert Browser(url).get("/healthz")["status"] == "ok"


def test_answers_come_within_a_tenth_of_a_second_while_training_runs(tmp_path, record_property):
    write_run(tmp_path, LIVE, 100_000)
    server, over, rng = MemoryServer(), threading.Event(), random.Random(0)
    with training(server) as trainer, telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"], 60)

        def play():
            number = 100_000
            while not over.wait(0.05):
                trainer.play(*(episode(number + i, 130_000, rng) for i in range(5)))
                number += 5

        player = threading.Thread(target=play)
        player.start()
        try:
            times = []
            for number in range(600):
                began = time.perf_counter()
                code, _, _ = browser.ask("GET", PATHS[number % len(PATHS)], accept_encoding="gzip")
                assert code == 200
                times.append(1000 * (time.perf_counter() - began))
        finally:
            over.set()
            player.join()
    times.sort()
    p50, p99 = times[len(times) // 2], times[int(0.99 * len(times))]
    record_property("p99_milliseconds", p99)
    print(f"answers: median {p50:.1f} ms, p99 {p99:.1f} ms")
    assert p99 <= 100.0
