"""Reads hostile bytes everywhere, and says what a hook of Python's saw: a process of its own."""

import json
import os
import pickle
import sys

import hostile_cases as cases

events, watching = [], False
FORBIDDEN = (
    "pickle.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.",
    "exec",
    "compile",
    "import",
    "ctypes.",
    "socket.connect",
    "open",
    "shutil.",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "marshal.",
    "code.",
)


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
print(json.dumps({"events": events, "payloads": len(payloads), "written": os.path.exists(path)}))
watching = True
# What the hook would have seen.
pickle.loads(payloads[0]).close()
watching = False
print(json.dumps({"events": events, "written": os.path.exists(path)}))
