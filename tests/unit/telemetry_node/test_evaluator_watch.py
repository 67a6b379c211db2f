"""The evaluator's findings become the best model, events, commands and metrics."""

import itertools

import msgspec
import numpy as np
import pytest

from soulsai.config.schema import Config, RunSettings, TelemetrySettings, TrainingSettings
from soulsai.evaluations.record import (
    SILENT_SECONDS,
    EvaluationLine,
    EvaluatorState,
    append,
    measured,
    write_state,
)
from soulsai.telemetry_node import best
from soulsai.telemetry_node.evaluator_watch import EvaluatorWatch, evaluation_families
from soulsai.telemetry_node.node import TelemetryNode
from soulsai.telemetry_node.run import FollowedRun
from soulsai.types import Answer, Episode, Evaluate, Event, ReturnTo, SaveBest
from tests.system.telemetry_cases import run_spec


def line(number, model, verdict, mean, *, regressed=False, version=None):
    blank = EvaluationLine(
        number, 1e9 + number, model, 1, version or number, 100 * number, verdict,
        regressed=regressed,
    )  # fmt: skip
    returns = tuple((mean + np.linspace(-2, 2, 8)).tolist())
    return measured(msgspec.structs.replace(blank, returns=returns, seeds=tuple(range(8))))


class Wire:
    """Stands for the server, with a training node that does what it is told."""

    def __init__(self, spec):
        self._spec = spec
        self.ticks = itertools.count(0, 10)
        self.waiting, self.announced, self.commands = [], [], []

    def spec(self):
        return self._spec

    def episodes(self, after, timeout):
        batch, self.waiting = self.waiting, []
        return batch

    def announce(self, event):
        self.announced.append(event)

    def command(self, command, timeout):
        self.commands.append(command)
        return Answer(done=True, message="done")


@pytest.fixture
def wire():
    return Wire(run_spec("r"))


def node_of(tmp_path, wire, *, rollback=False):
    config = Config(
        run=RunSettings(saves=str(tmp_path)),
        telemetry=TelemetrySettings(window=2, tensorboard=False),
        training=TrainingSettings(rollback_on_regression=rollback),
    )
    return TelemetryNode(config, wire, clock=lambda: float(next(wire.ticks)))


def episode(number, reward):
    return f"{number}-0", Episode(
        1, 40 + number, number, reward, 9, 1.0, True, False, 0.0, client="a", epoch=1,
        env_steps=10 * number, time=float(number),
    )  # fmt: skip


def test_two_compared_models_end_the_reign_of_the_moving_average(tmp_path, wire):
    node = node_of(tmp_path, wire)
    wire.waiting = [episode(1, 10.0), episode(2, 10.0)]
    node.turn(0.0)
    node.ask(0.0)
    assert wire.commands == [SaveBest(1, 42, 10.0)]
    append(tmp_path / "r", line(1, "000000", "first", 1.0))
    node.turn(0.0)
    node.ask(0.0)
    assert len(wire.commands) == 1, "a single evaluation has beaten nobody"
    append(tmp_path / "r", line(2, "000001", "best", 5.0))
    node.turn(0.0)
    node.ask(0.0)
    assert wire.commands[1:] == [SaveBest(1, 2, 5.0, "000001")]
    assert wire.announced[-1] == Event(
        "best", "mean 5 (4.071 to 5.857) of 8 evaluation episodes with version 1-2"
    )
    wire.waiting = [episode(3, 1e5), episode(4, 1e5)]
    node.turn(0.0)
    node.ask(0.0)
    assert len(wire.commands) == 2, "a lucky window is no best any more"
    file = msgspec.json.decode((tmp_path / "r" / "best.json").read_bytes(), type=best.BestFile)
    assert (file.checkpoint, file.evaluated, file.saved) == ("000001", 8, True)
    node.close()
    again = FollowedRun(tmp_path, wire.spec(), TelemetrySettings(window=2, tensorboard=False))
    assert again.tracker.file() == file, "all of it is found again in the folder"
    again.close()


def test_a_best_that_was_forgotten_stays_forgotten(tmp_path, wire):
    node = node_of(tmp_path, wire)
    node.turn(0.0)
    for number, verdict in ((1, "first"), (2, "best")):
        append(tmp_path / "r", line(number, f"00000{number}", verdict, float(number)))
    wire.waiting = [("2000000000000-0", episode(1, 3.0)[1])]  # in 2033
    node.turn(0.0)
    assert node.run.tracker.best.checkpoint == "000002"
    node.forget_best()
    node.turn(0.0)
    assert node.run.tracker.best is None
    wire.waiting = [(f"200000000000{n}-0", episode(n, 4.0)[1]) for n in (2, 3)]
    node.turn(0.0)
    assert node.run.tracker.best.score == 4.0
    node.close()


@pytest.mark.parametrize("rollback", [False, True])
def test_a_far_worse_model_is_an_event_and_a_return_only_if_that_is_wished(
    tmp_path, wire, rollback
):
    node = node_of(tmp_path, wire, rollback=rollback)
    node.turn(0.0)
    append(tmp_path / "r", line(1, "000000", "first", 1.0))
    append(tmp_path / "r", line(2, "000001", "best", 50.0))
    append(tmp_path / "r", line(3, "000002", "no better", 2.0, regressed=True))
    node.turn(0.0)
    text = (
        "version 1-3 is far worse than the best: mean 2 (1.071 to 2.857), not 50 (49.07 to 50.86) "
        "of version 1-2"
    )
    returns = [Event("regression", "done")] if rollback else []
    assert wire.announced == [Event("regression", text), *returns]
    assert wire.commands == ([ReturnTo("000001", text)] if rollback else [])
    node.close()
    again = node_of(tmp_path, wire, rollback=rollback)
    again.turn(0.0)
    assert len(wire.announced) == 1 + rollback, "after a restart, old news is no news"
    again.close()


def test_silence_faults_and_the_return_are_told_once_each():
    watch = EvaluatorWatch()
    told = lambda state, now: [event.text for event in watch.news(state, now)]  # noqa: E731
    assert told(None, 0.0) == []
    assert told(EvaluatorState(0.0, doing="plays 000001"), 1.0) == []
    late = EvaluatorState(0.0, doing="plays 000001")
    assert told(late, SILENT_SECONDS + 1) == [
        "the evaluator is silent while it plays 000001; training goes on without evaluations"
    ]
    assert told(late, SILENT_SECONDS + 2) == []
    assert told(EvaluatorState(99.0, fault="no video"), 100.0) == [
        "the evaluator is back", "no video",
    ]  # fmt: skip
    assert told(EvaluatorState(100.0, fault="no video"), 101.0) == []
    assert told(EvaluatorState(100.0, ended=True), 1e6) == [], "it was told to stop"


def test_the_node_tells_of_the_evaluator(tmp_path, wire):
    node = node_of(tmp_path, wire)
    node.turn(0.0)
    write_state(tmp_path / "r", EvaluatorState(1.0))
    node.turn(0.0)
    (event,) = wire.announced
    assert event.kind == "evaluator"
    assert "silent" in event.text
    families = {family.name: family.value for family in node.families()}
    assert (families["evaluator_alive"], families["evaluator_expected"]) == (0.0, 1.0)
    node.close()


def test_metrics_hold_the_newest_and_the_best(tmp_path, wire):
    run = FollowedRun(tmp_path, wire.spec(), TelemetrySettings(tensorboard=False))
    append(tmp_path / "r", line(1, "000000", "first", 9.0))
    append(tmp_path / "r", line(2, "000001", "no better", 1.0, regressed=True))
    run.evaluated()
    values = {
        family.name: family.value for family in evaluation_families(run.evaluations, None, 0.0)
    }
    assert values["evaluation_mean"] == pytest.approx({"newest": 1.0, "best": 9.0})
    assert values["evaluation_low"]["best"] < 9.0 < values["evaluation_high"]["best"]
    assert values["evaluation_episodes"] == {"newest": 8.0, "best": 8.0}
    assert (values["evaluation_regressed"], values["evaluations"]) == (1.0, 2.0)
    run.close()


def test_clients_are_asked_once_for_what_the_evaluator_cannot_play(tmp_path, wire):
    node = node_of(tmp_path, wire)
    node.turn(0.0)
    write_state(
        tmp_path / "r",
        EvaluatorState(2e12, request="000004", generation=1, version=9, episodes=20),
    )
    node.turn(0.0)
    node.turn(0.0)
    assert wire.commands == [Evaluate(1, 9, 20)]
    assert wire.announced == [Event("evaluator", "done")]
    node.close()
