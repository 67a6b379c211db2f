"""Evaluations and recorded episodes in TensorBoard and Weights & Biases."""

import msgspec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from soulsai.config.schema import TelemetrySettings
from soulsai.evaluations.record import EvaluatorState, write_state
from soulsai.telemetry_node.connectors import Point
from soulsai.telemetry_node.run import FollowedRun
from soulsai.telemetry_node.sinks.animation import animation
from soulsai.telemetry_node.sinks.wandb import Beginning, WandB
from tests.contract.evaluation_cases import video, write_evaluations
from tests.system.telemetry_cases import run_spec


def test_tensorboard_reads_the_curves_and_a_moving_picture(tmp_path):
    run = FollowedRun(tmp_path, run_spec("r"), TelemetrySettings())
    write_evaluations(tmp_path / "r", count=3, recorded=1)
    assert [line.number for line in run.evaluated()] == [1, 2, 3]
    write_state(tmp_path / "r", EvaluatorState(1.0, finished=("000001", "000003")))
    assert run.evaluated() == []
    run.evaluated()
    run.close()
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    assert {"evaluation/mean", "evaluation/low", "evaluation/high", "evaluation/win"} <= set(
        events.Tags()["scalars"]
    )
    (image,) = events.Images("evaluation/video")
    assert image.encoded_image_string.startswith(b"GIF89a")
    assert (image.width, image.step) == (200, 7200)


def test_a_moving_picture_is_small_and_moves(tmp_path):
    (tmp_path / "a.webm").write_bytes(video())
    moving = animation(tmp_path / "a.webm")
    assert len(moving.data) < 200_000
    assert moving.data.count(b"\x21\xf9\x04") > 10, "it has several frames"


def test_weights_and_biases_is_given_the_file_at_once(monkeypatch, tmp_path):
    sink = WandB(Beginning("p", "r", "offline", str(tmp_path), {}))
    said = []
    monkeypatch.setattr(sink, "_say", said.append)
    sink.write(Point(1.0, 2, {}, "a.webm"))
    assert msgspec.json.decode(said[0]) == {
        "time": 1.0, "env_steps": 2, "values": {}, "video": "a.webm",
    }  # fmt: skip
