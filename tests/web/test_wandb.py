"""The real Weights & Biases, offline: what is told arrives; what hangs or dies costs nothing."""

import json
import math
import struct
import subprocess
import sys

import pytest

from soulsai.telemetry_node.connectors import Connector, Point
from soulsai.telemetry_node.sinks import wandb
from soulsai.telemetry_node.sinks.wandb import LAST, Beginning, WandB

pytestmark = pytest.mark.timeout(300)


def test_points_arrive_in_the_folder_of_an_offline_run(tmp_path):
    folder = tmp_path / "wandb"
    about = {"algorithm": "dqn", "environment": "Toy-v0"}
    sink = WandB(Beginning("soulsai", "2026-11-22_toy_dqn_7f3a", "offline", str(folder), about))
    sink._thinner = Immediate()
    connector = Connector("wandb", sink, grace=120.0)
    for number in range(20):
        connector.offer(Point(1e9 + number, 100 * number, {"exploring/reward": number / 2}))
    connector.close()
    assert (connector.written, connector.dropped) == (20, 0)
    (file,) = folder.glob("**/run-*.wandb")
    rows = [row for row in history(file) if "exploring/reward" in row]
    assert [row["exploring/reward"] for row in rows] == [number / 2 for number in range(20)]
    assert [row["env_steps"] for row in rows] == [100 * number for number in range(20)]


class Immediate:
    """Thins nothing out."""

    def add(self, point):
        return point

    def rest(self):
        return None


BLOCK, HEAD = 32_768, 7  # bytes of a block of the log, and of the head of a piece of a record


def history(file):
    """Yield the rows that were logged, out of the package's own record of them."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            yield {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }


def records(log):
    """Yield the records of a log in LevelDB's format, put together from their pieces."""
    place, whole = HEAD, b""  # after the head of the file
    while place + HEAD <= len(log):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", log, place)
        whole += log[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in (1, 4):  # the only piece, or the last
            yield whole
            whole = b""


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "import time; time.sleep(600)"])
def test_a_process_that_dies_or_hangs_holds_nobody_up(tmp_path, monkeypatch, program):
    real = subprocess.Popen
    monkeypatch.setattr(
        wandb.subprocess, "Popen",
        lambda words, **options: real([sys.executable, "-c", program], **options),
    )  # fmt: skip
    sink = WandB(Beginning("soulsai", "run", "offline", str(tmp_path / "wandb"), {}))
    sink._thinner = Immediate()
    connector = Connector("wandb", sink, most=50, grace=0.5)
    for number in range(5000):  # more than a pipe holds
        connector.offer(Point(float(number), number, {f"curve-{n}": math.pi for n in range(30)}))
    assert connector.waiting <= 50
    connector.close()
    assert LAST > 0.5
