"""The names of curves in sinks: an environment's own, never those of strangers without number."""

from pathlib import Path
from types import SimpleNamespace

import msgspec

from soulsai.config.schema import TelemetrySettings
from soulsai.telemetry_node.sinks import MOST_NAMES, InfoNames, Sinks
from soulsai.testing.policy import toy_run
from soulsai.types import EnvironmentOffer, Episode

EPISODE = Episode(1, 1, 1, 2.5, 7, 0.1, terminated=True, greedy=False, epsilon=0.0)


def episode(verified: bool = True, **info: float) -> Episode:
    return msgspec.structs.replace(EPISODE, verified=verified, info=info)


def test_a_claim_brings_no_name_and_uses_those_that_are_known() -> None:
    names = InfoNames()
    assert names.numbers(episode(verified=False, depth=1.0)) == {}
    assert names.numbers(episode(depth=2.0)) == {"depth": 2.0}
    assert names.numbers(episode(verified=False, depth=3.0, other=1.0)) == {"depth": 3.0}


def test_names_are_bounded_and_the_first_ones_stay() -> None:
    names = InfoNames()
    names.numbers(episode(depth=1.0))
    for number in range(1000):
        names.numbers(episode(**{f"x{number}": 1.0, "depth": 1.0}))
    shown = names.numbers(episode(**{f"x{number}": 1.0 for number in range(1000)}, depth=4.0))
    assert len(shown) == MOST_NAMES
    assert shown["depth"] == 4.0


def test_an_environment_cannot_hide_our_numbers(tmp_path: Path) -> None:
    class Connector:
        def __init__(self) -> None:
            self.points = []

        def offer(self, point) -> None:
            self.points.append(point)

    spec, _, _ = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))
    sinks, connector = Sinks(TelemetrySettings(tensorboard=False), spec, tmp_path), Connector()
    sinks._points = [connector]
    sinks.episodes([episode(reward=-9.0, solved=5.0, win=1.0)], [{"solved": 1.0}])
    (point,) = connector.points
    assert point.values == {
        "exploring/reward": 2.5, "exploring/steps": 7.0, "exploring/solved": 1.0,
        "exploring/info_reward": -9.0, "exploring/info_solved": 5.0, "exploring/win": 1.0,
    }  # fmt: skip


def test_episodes_that_a_person_took_over_have_curves_of_their_own(tmp_path: Path) -> None:
    points: list = []
    spec, _, _ = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))
    sinks = Sinks(TelemetrySettings(tensorboard=False), spec, tmp_path)
    sinks._points = [SimpleNamespace(offer=points.append)]
    sinks.episodes([episode(intervened=2.0)], [{}])
    assert points[0].values == {
        "intervened/reward": 2.5, "intervened/steps": 7.0, "intervened/intervened": 2.0,
    }  # fmt: skip
