"""Grafana's own reader of answers, ``toDataFrame`` of the package @grafana/data, takes ours."""

import json
import subprocess

from tests.contract.web_cases import LIVE, Browser, settings, telemetry, training, until, write_run
from tests.memory_server import MemoryServer

SCRIPT = """
const { toDataFrame, isLikelyAscendingVector } = require("@grafana/data");
const answers = JSON.parse(require("fs").readFileSync(0));
const frames = answers.map((answer) => toDataFrame(answer));
console.log(JSON.stringify(frames.map((frame) => ({
  length: frame.length,
  fields: frame.fields.map((field) => ({
    name: field.name, type: field.type, ascending: isLikelyAscendingVector(field.values),
  })),
}))));
"""


def frames(answers, node_modules):
    done = subprocess.run(
        ["node", "-e", SCRIPT], input=json.dumps(answers).encode(), capture_output=True,
        cwd=node_modules.parent, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_grafana_takes_our_answers(tmp_path, node_modules):
    write_run(tmp_path, LIVE, 1000)
    server = MemoryServer()
    with training(server), telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        rows = browser.get("/api/v1/series?metrics=reward_mean,landed&max_points=500")
        training_rows = browser.get("/api/v1/series?metrics=loss,lag&x=time")
        question = {"targets": [
            {"target": "reward"}, {"target": "loss", "payload": {"x": "env_steps"}},
        ]}  # fmt: skip
        simple = browser.post("/grafana/query", question)
        clients = browser.get("/api/v1/clients")
    found = frames([rows, training_rows, *simple, clients], node_modules)
    by_name = [{field["name"]: field for field in frame["fields"]} for frame in found]
    assert found[0]["length"] == len(rows)
    assert by_name[0]["env_steps"] == {"name": "env_steps", "type": "number", "ascending": True}
    assert by_name[0]["reward_mean"]["type"] == "number"
    assert by_name[1]["time"]["type"] == "time"
    assert by_name[1]["loss"]["type"] == "number"
    assert [field["type"] for field in found[2]["fields"]] == ["time", "number"]
    assert [field["type"] for field in found[3]["fields"]] == ["number", "number"]
    assert found[3]["fields"][0]["ascending"]
    assert by_name[4]["client"]["type"] == "string"
