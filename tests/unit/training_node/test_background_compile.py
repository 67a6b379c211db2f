"""When learning goes over to compiled updates: what pays, what is in the way, and what is said."""

import logging
import sys
import tempfile

import msgspec
import pytest

from soulsai.algorithms.compile import job
from soulsai.algorithms.ppo.learner import PPO
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.config.schema import AlgorithmSettings, Config, RunSettings, TrainingSettings
from soulsai.errors import ConfigError
from soulsai.training_node import background_compile
from soulsai.training_node.background_compile import (
    BackgroundCompile,
    LearningCost,
    obstacle,
    reason,
)
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.start import build_algorithm, may_keep
from soulsai.training_node.status import TrainingStatistics
from tests.unit.algorithms.compile.compiled_cases import dqn, learnt, sac
from tests.unit.algorithms.learning_cases import settings, spec

LOG = "soulsai.training_node.background_compile"


@pytest.mark.parametrize(
    ("cost", "why"),
    [
        (LearningCost(10, 1.0, 1.0, None), "fewer than 500"),
        (LearningCost(1000, 1.0, 100.0, None), "1% of the time"),
        (LearningCost(1000, 1.0, 2.0, 50_000), "50 s of learning"),
        (LearningCost(1000, 1.0, 2.0, 500_000), ""),
        (LearningCost(1000, 1.0, 2.0, None), ""),
    ],
)
def test_what_pays(cost, why):
    assert (why in reason(cost)) if why else reason(cost) == ""


def config(wanted="auto", steps=0):
    return Config(training=TrainingSettings(compile=wanted), run=RunSettings(max_env_steps=steps))


def test_what_is_in_the_way(monkeypatch):
    algorithm = dqn()
    ppo = PPO(PPOSettings(), spec(), seed=0, steps=0, realtime=False)
    monkeypatch.setenv("CXX", sys.executable)
    assert obstacle(config(), algorithm) == ""
    assert "never" in obstacle(config("never"), algorithm)
    assert "dropout" in obstacle(config(), sac(dropout=0.1))
    named = Config(algorithm=AlgorithmSettings("ppo"))
    assert obstacle(named, ppo) == "ppo has no compiled form"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in obstacle(config(), algorithm)
    with pytest.raises(ConfigError, match="no-such-compiler"):
        compiler(algorithm, config("always"))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def compiler(algorithm, wanted):
    statistics = TrainingStatistics(Progress(run="r"), warmup=0)
    return BackgroundCompile(wanted, spec(masked=True), algorithm, statistics, Clock()), statistics


def worked(statistics, *, updates, seconds):
    statistics.progress.updates += updates
    statistics.update_seconds += seconds


def until_done(one):
    while not one.done:
        one.look()


@pytest.fixture
def cache(monkeypatch, tmp_path_factory):
    """An empty cache of packages."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "soulsai" / "compiled"


@pytest.fixture
def somewhere(monkeypatch, caplog, cache):
    """A place with a compiler, whose log is read."""
    monkeypatch.setenv("CXX", sys.executable)
    caplog.set_level(logging.INFO, LOG)
    return caplog


MAKES = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "updates.pt2").touch()
(folder / "made.json").write_text('{"matmul": "float32"}')
"""


def test_packages_are_adopted_when_they_are_made(somewhere, monkeypatch):
    algorithm = dqn()
    forms = algorithm.forms()
    monkeypatch.setattr(background_compile, "COMMAND", (sys.executable, "-c", MAKES))
    monkeypatch.setattr(job, "load", lambda path: forms[path.stem].function)
    one, statistics = compiler(algorithm, config("always"))
    one.look()
    eager = algorithm.steps
    assert not somewhere.messages, "before the first update there is nothing to do"
    worked(statistics, updates=1, seconds=0.001)
    one.look()
    worked(statistics, updates=1, seconds=0.001)
    until_done(one)
    one.close()
    assert algorithm.steps is not eager
    assert [message.partition(" ")[0] for message in somewhere.messages] == [
        "learning=eager:",
        "learning=compiled",
    ]
    assert learnt(algorithm)["skipped"] == 0


def made(algorithm, monkeypatch, wanted):
    """Let one run make packages, by no compiler."""
    monkeypatch.setattr(background_compile, "COMMAND", (sys.executable, "-c", MAKES))
    one, statistics = compiler(algorithm, wanted)
    for _ in range(2):
        worked(statistics, updates=1, seconds=0.001)
        one.look()
    until_done(one)
    one.close()


def test_the_next_run_begins_with_the_packages_of_the_last(somewhere, monkeypatch, cache):
    algorithm = dqn()
    forms = algorithm.forms()
    monkeypatch.setattr(job, "load", lambda path: forms[path.stem].function)
    made(dqn(), monkeypatch, config("always"))
    assert len(list(cache.iterdir())) == 1
    eager = algorithm.steps
    one, _ = compiler(algorithm, config("auto"))
    assert one.done
    assert algorithm.steps is not eager
    assert somewhere.messages[-1] == "learning=compiled found matmul=float32"


def test_without_the_cache_each_run_compiles(somewhere, monkeypatch, cache):
    forms = dqn().forms()
    monkeypatch.setattr(job, "load", lambda path: forms[path.stem].function)
    wanted = Config(training=TrainingSettings(compile="always", compile_cache=False))
    made(dqn(), monkeypatch, wanted)
    assert not cache.exists()
    one, _ = compiler(dqn(), wanted)
    assert not one.done
    one.close()


def test_packages_with_code_of_others_are_not_kept():
    own = msgspec.structs.replace(Config(), dqn=settings(network="farm.py:Net"))
    assert may_keep(Config())
    assert not may_keep(own)


def test_a_kept_package_that_computes_something_else_is_deleted(somewhere, monkeypatch, cache):
    forms = dqn().forms()
    monkeypatch.setattr(job, "load", lambda path: forms[path.stem].function)
    made(dqn(), monkeypatch, config("always"))
    wrong = dqn().forms()["updates"].function
    monkeypatch.setattr(job, "load", lambda path: lambda *t: [r + 1 for r in wrong(*t)])
    algorithm = dqn()
    eager = algorithm.steps
    one, _ = compiler(algorithm, config("always"))
    assert not one.done, "it compiles anew"
    assert algorithm.steps is eager
    assert "cannot be used: compiled, result 0 is off by 1" in somewhere.messages[-1]
    assert not list(cache.iterdir())
    one.close()


def test_a_compiler_is_run_and_leaves_nothing_behind(tmp_path, monkeypatch, caplog, cache):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caplog.set_level(logging.INFO, LOG)
    wanted = msgspec.structs.replace(config("always"), dqn=settings())
    algorithm = build_algorithm(wanted, spec(masked=True), seed=0)
    eager = algorithm.steps
    one, statistics = compiler(algorithm, wanted)
    for _ in range(2):
        worked(statistics, updates=1, seconds=0.001)
        one.look()
    one._process.wait(timeout=280)
    one.look()
    assert one.done, caplog.messages
    assert algorithm.steps is not eager, caplog.messages
    assert learnt(algorithm)["skipped"] == 0
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("aotinductor_")]
    next_one = build_algorithm(wanted, spec(masked=True), seed=0)
    again, _ = compiler(next_one, wanted)
    assert again.done, "the next run begins with the packages of this one"
    assert learnt(next_one)["skipped"] == 0


def test_what_fails_is_said_and_learning_stays_eager(somewhere, monkeypatch):
    code = "import sys; sys.exit('soulsai: compiled, result 0 is off by 3')"
    monkeypatch.setattr(background_compile, "COMMAND", (sys.executable, "-c", code))
    algorithm = dqn()
    eager = algorithm.steps
    one, statistics = compiler(algorithm, config("always"))
    for _ in range(2):
        worked(statistics, updates=1, seconds=0.001)
        one.look()
    until_done(one)
    one.close()
    assert algorithm.steps is eager
    assert somewhere.messages[-1] == (
        "learning=eager: compiling failed: compiled, result 0 is off by 3"
    )


def test_auto_says_once_why_not_and_begins_when_it_pays(somewhere, monkeypatch):
    monkeypatch.setattr(background_compile, "COMMAND", (sys.executable, "-c", "input()"))
    one, statistics = compiler(dqn(), config("auto"))
    clock = one._clock
    worked(statistics, updates=1, seconds=0.001)
    one.look()
    for _ in range(3):  # busy with waiting
        clock.now += 100.0
        worked(statistics, updates=1000, seconds=1.0)
        one.look()
    assert len(somewhere.messages) == 1
    assert "of the time only" in somewhere.messages[0]
    worked(statistics, updates=10_000, seconds=250.0)
    one.look()
    assert "being compiled" in somewhere.messages[-1]
    one.close()
    assert one.done
