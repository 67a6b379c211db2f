"""S2, S6: nothing that anybody sends runs, and nothing small becomes large, whoever reads it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

WATCHED = """
import json, sys, os
sys.path[:0] = [{root!r}, {here!r}]
import hostile_cases as cases
events, watching = [], False
FORBIDDEN = ("pickle.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "exec",
             "compile", "import", "ctypes.", "socket.connect", "open", "shutil.", "os.remove",
             "os.rename", "os.mkdir", "marshal.", "code.")
def hook(event, arguments):
    if watching and event.startswith(FORBIDDEN):
        events.append([event, repr(arguments)[:200]])
sys.addaudithook(hook)
path = sys.argv[1]
payloads = cases.pickles(path) + list(cases.bombs().values())
cases.warm_up()
watching = True
for payload in payloads:
    cases.decode_everywhere(payload)
watching = False
print(json.dumps(dict(events=events, payloads=len(payloads), written=os.path.exists(path))))
watching = True
import pickle  # what the hook would have seen
pickle.loads(payloads[0]).close()
watching = False
print(json.dumps(dict(events=events, written=os.path.exists(path))))
"""

MEASURED = """
import json, sys, time
sys.path[:0] = [{root!r}, {here!r}]
import lz4.block
import hostile_cases as cases
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
def rss():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024
bombs = cases.bombs()
large = lz4.block.compress(bytes(400 * 2**20), store_size=False)
for size in (400 * 2**20, 2**22, 64):
    head = cases.struct.pack("<BBHI", 1, 1, 1, size)
    bombs[f"lz4 that says {{size}}"] = head + large
texts = {{
    "yaml aliases": "a: &a [x,x,x,x,x,x,x,x,x]\\n" + "".join(
        f"{{chr(98 + n)}}: &{{chr(98 + n)}} [" + ",".join([f"*{{chr(97 + n)}}"] * 9) + "]\\n"
        for n in range(9)),
    "yaml merges": "a: &a {{b: 1}}\\nc: {{<<: *a}}\\n",
    "deep yaml": "[" * 100_000,
    "deep yaml blocks": "\\n".join(" " * n + "a:" for n in range(400)),
    "deep json": "[" * 100_000 + "]" * 100_000,
    "deep json objects": '{{"a":' * 40_000,
}}
def text_places(text):
    cases.quiet(cases.config_file.parse, text, "test")
    cases.quiet(cases.config_file._parse_json, text, "test")
    cases.quiet(cases.config_file.lenient, text, "test")
cases.warm_up()
text_places("a: 1")
found = {{}}
def measure(name, act, argument):
    best, grown = 1e9, 0.0
    for _ in range(3):
        open("/proc/self/clear_refs", "w").write("5")
        before = rss()
        began = time.process_time()
        act(argument)
        best = min(best, time.process_time() - began)
        grown = max(grown, peak() - before)
    found[name] = [round(1e3 * best, 1), round(grown, 1)]
def entry(data):
    cases.rejected(data)
for name, bomb in bombs.items():
    measure(name, entry, bomb)
    measure(name + ", as a spec", lambda data: cases.quiet(cases.decode_spec, data), bomb)
for name, text in texts.items():
    measure(name, text_places, text)
print(json.dumps(found))
"""


def run(script, *words):
    """Run a script in a process of its own: an audit hook stays for ever."""
    text = script.format(root=str(ROOT), here=str(HERE))
    done = subprocess.run(
        [sys.executable, "-c", text, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_payload_runs_in_either_direction(tmp_path):
    found, after = run(WATCHED, str(tmp_path / "pwned"))
    assert found["payloads"] > 25
    assert found["events"] == []
    assert not found["written"]
    assert after["written"], "the payload works, where somebody unpickles it"
    assert {"pickle.find_class", "open"} <= {event for event, _ in after["events"]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_bomb_goes_off():
    (found,) = run(MEASURED)
    assert len(found) > 25
    slow = {name: ms for name, (ms, _) in found.items() if ms >= 50}
    large = {name: mb for name, (_, mb) in found.items() if mb > 20}
    assert not slow
    assert not large
