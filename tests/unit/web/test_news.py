"""Tabs of one browser share one event stream: the page's script, run by node with stand-ins."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.programs import installed

STATIC = Path(__file__).parents[3] / "soulsai" / "web" / "static"
pytestmark = pytest.mark.tools

TABS = """
import { follow } from "./news.mjs";

const sources = [];
globalThis.EventSource = class {
  static CLOSED = 2;
  constructor(url) {
    Object.assign(this, { url, listeners: {}, readyState: 1 });
    sources.push(this);
    setTimeout(() => this.onopen?.(), 5);
  }
  addEventListener(kind, act) { this.listeners[kind] = act; }
  emit(kind, id, data) { this.listeners[kind]({ lastEventId: id, data: JSON.stringify(data) }); }
  close() { this.readyState = 2; }
};
const open = () => sources.filter((one) => one.readyState === 1);
const until = async (condition) => {
  for (let i = 0; i < 1000 && !condition(); i += 1) await new Promise((go) => setTimeout(go, 10));
  if (!condition()) throw new Error(`never: ${condition}`);
};
const tabs = [];
const add = () => {
  const tab = { heads: [], logs: [], state: "" };
  tabs.push(tab);
  tab.channel = new BroadcastChannel("news");
  tab.news = follow({
    onhead: (head) => tab.heads.push(head.episode),
    onlog: (log) => tab.logs.push(log.number),
    onstate: (state) => { tab.state = state; },
  }, tab.channel);
};
for (let i = 0; i < 20; i += 1) add();
await until(() => open().length === 1 && tabs.every((tab) => tab.state === "live"));
open()[0].emit("head", "run:1", { episode: 1 });
open()[0].emit("log", "run:2", { number: 2 });
await until(() => tabs.every((tab) => tab.heads.includes(1) && tab.logs.includes(2)));
open()[0].emit("head", "run:2", { episode: 2 });
add();
await until(() => tabs.at(-1).heads.includes(2) && open().length === 1);

const before = sources.length;
for (const tab of tabs) {
  tab.news.leave();
  if (!open().length) { tab.gone = true; break; }
}
tabs.filter((tab) => tab.gone).forEach((tab) => tab.channel.close());
const rest = tabs.filter((tab) => !tab.gone);
await until(() => sources.length > before && open().length === 1);
open()[0].emit("head", "run:3", { episode: 3 });
await until(() => rest.every((tab) => tab.heads.includes(3)));

console.log(JSON.stringify({ open: open().length, resumed: open()[0].url, logs: rest[0].logs }));
process.exit(0);
"""


def test_twenty_tabs_share_one_stream_and_outlive_its_holder(tmp_path):
    for name in ("news", "api"):
        text = (STATIC / f"{name}.js").read_text().replace('./api.js"', './api.mjs"')
        (tmp_path / f"{name}.mjs").write_text(text)
    (tmp_path / "tabs.mjs").write_text(TABS)
    done = subprocess.run(
        [installed("node"), "tabs.mjs"], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["open"] == 1
    assert found["resumed"] == "api/v1/stream?last_event_id=run%3A2"
    assert found["logs"] == [2]
