"""Reads bombs, and says how long each took and how much memory: a process of its own."""

import json
import time
from pathlib import Path

import hostile_cases as cases
import lz4.block


def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024


def rss():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024


bombs = cases.bombs()
large = lz4.block.compress(bytes(400 * 2**20), store_size=False)
for size in (400 * 2**20, 2**22, 64):
    head = cases.struct.pack("<BBHI", 1, 1, 1, size)
    bombs[f"lz4 that says {size}"] = head + large
texts = {
    "yaml aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [" + ",".join([f"*{chr(97 + n)}"] * 9) + "]\n"
        for n in range(9)
    ),
    "yaml merges": "a: &a {b: 1}\nc: {<<: *a}\n",
    "deep yaml": "[" * 100_000,
    "deep yaml blocks": "\n".join(" " * n + "a:" for n in range(400)),
    "deep json": "[" * 100_000 + "]" * 100_000,
    "deep json objects": '{"a":' * 40_000,
}


def text_places(text):
    cases.quiet(cases.yaml_file.parse, text, "test")
    cases.quiet(cases.yaml_file.parse_value, text, "test")


cases.warm_up()
text_places("a: 1")
found = {}


def measure(name, act, argument):
    best, grown = 1e9, 0.0
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5")
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
