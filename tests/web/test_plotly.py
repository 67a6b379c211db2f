"""The Plotly dashboard: its script on frames of a live node, judged by Plotly's own validation."""

import json
import subprocess
from urllib.parse import urlencode

import pytest

from deploy.monitoring.grafana import dashboards
from tests.contract.web_cases import LIVE, Browser, settings, telemetry, training, until, write_run
from tests.memory_server import MemoryServer

PANELS = dashboards.plotly_dashboard()["panels"]
# The script runs as in the plugin: a function body with data, variables, options and utils.
SCRIPT = """
const { JSDOM } = require("jsdom");
const { window } = new JSDOM("<!doctype html>", {
  pretendToBeVisual: true, url: "https://localhost",
});
window.matchMedia = () => ({ matches: false });
const { document } = window;
Object.assign(globalThis, { window, self: window, document });
// Plotly looks for classes of a browser, such as DOMParser, by their bare names.
for (const name of Object.getOwnPropertyNames(window)) {
  if (!(name in globalThis)) globalThis[name] = window[name];
}
globalThis.URL.createObjectURL = window.URL.createObjectURL = () => "";
window.HTMLCanvasElement.prototype.getContext = () => null;
const { toDataFrame } = require("@grafana/data");
const Plotly = require("plotly.js-dist-min");
const { rows, options } = JSON.parse(require("fs").readFileSync(0));
const data = { series: [toDataFrame(rows)] };
const drawn = new Function("data", "variables", "options", "utils", options.script)(
  data, { run: "latest" }, options, {},
);
const found = Plotly.validate(drawn.data, { ...options.layout, ...drawn.layout }) ?? [];
console.log(JSON.stringify({ data: drawn.data, faults: found.map((fault) => fault.msg) }));
"""


def drawn(rows, options, node_modules):
    done = subprocess.run(
        ["node", "-e", SCRIPT], input=json.dumps({"rows": rows, "options": options}),
        capture_output=True, cwd=node_modules.parent, timeout=60, check=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_plotly_accepts_what_a_panel_draws_of_a_live_run(tmp_path, node_modules, panel):
    write_run(tmp_path, LIVE, 1000)
    server = MemoryServer()
    (target,) = panel["targets"]
    with training(server), telemetry(settings(tmp_path), server) as url:
        browser = Browser(url)
        until(lambda: browser.get("/api/v1/status")["status"])
        params = {param["key"]: param["value"] for param in target["url_options"]["params"]}
        answer = browser.get(f"{target['url']}?{urlencode(params | {'run': 'latest'})}")
    columns = {column["selector"]: column["text"] for column in target["columns"]}
    rows = [{text: row[name] for name, text in columns.items()} for row in answer]
    found = drawn(rows, panel["options"], node_modules)
    assert found["faults"] == []
    assert [trace["name"] for trace in found["data"]] == [
        trace["name"] for trace in panel["options"]["data"]
    ]
    for trace in found["data"]:
        assert trace["x"] == [row["env steps"] for row in rows]
        assert trace["y"] == [row[trace["name"]] for row in rows]


def test_plotly_finds_a_mistake(node_modules):
    options = {"script": "return { data: [{ type: 'scatter', width: 3 }] };", "layout": {}}
    assert drawn([], options, node_modules)["faults"]
