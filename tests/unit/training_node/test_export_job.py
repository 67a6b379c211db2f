"""The policy is exported in another process, once for all runs of the same settings."""

import logging
import subprocess
import sys

import msgspec
import pytest

from soulsai.algorithms.compile.cache import key
from soulsai.algorithms.compile.job import Job
from soulsai.config.schema import Config, TrainingSettings
from soulsai.training_node import export_job, onnx_export, start
from soulsai.types import ActionSpec, Leaf, Spec
from soulsai.wire.codec import encode
from tests.unit.algorithms.learning_cases import settings

SPEC = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("discrete", (), (3,)))


def config(**training):
    return Config(training=TrainingSettings(**training), dqn=settings())


@pytest.fixture(autouse=True)
def exported_here():
    """Leave the export as it is."""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "soulsai" / "exported"


@pytest.fixture
def spawned(monkeypatch):
    """The commands that export."""
    commands, run = [], subprocess.run

    def noted(command, **options):
        if export_job.__name__ in command:
            commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(export_job.subprocess, "run", noted)
    return commands


def policy(wanted):
    return start.build_algorithm(wanted, SPEC, seed=3).policy


def test_the_first_run_exports_apart_and_the_next_one_finds_it(cache, spawned):
    wanted = config()
    ours = policy(wanted)
    first = start.export(wanted, ours, SPEC)
    assert len(spawned) == 1
    again = start.export(wanted, policy(wanted), SPEC)
    assert len(spawned) == 1
    assert encode(again) == encode(first)
    assert encode(first) == encode(onnx_export.program(ours, SPEC))


def test_without_the_cache_each_run_exports(cache, spawned):
    wanted = config(compile_cache=False)
    for count in (1, 2):
        start.export(wanted, policy(wanted), SPEC)
        assert len(spawned) == count
    assert not cache.exists()


def test_what_fails_apart_is_done_here_and_says_why(cache, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    code = "import sys; sys.exit('no memory')"
    monkeypatch.setattr(export_job, "COMMAND", (sys.executable, "-c", code))
    wanted = config()
    program = start.export(wanted, policy(wanted), SPEC)
    assert program.outputs == ("q",)
    assert "exported in this process: no memory" in caplog.text


def test_a_kept_program_of_another_network_is_not_used(cache, spawned, caplog):
    wanted, other = config(), msgspec.structs.replace(config(), dqn=settings(hidden=(8,)))
    start.export(other, policy(other), SPEC)
    (kept,) = cache.iterdir()
    job = Job("dqn", msgspec.to_builtins(wanted.learner), SPEC)
    kept.rename(cache / key(job))
    program = start.export(wanted, policy(wanted), SPEC)
    onnx_export.verify(program, policy(wanted), SPEC)
    assert "exported anew" in caplog.text
    assert not list(cache.iterdir()), "the next run exports anew, and keeps that"
