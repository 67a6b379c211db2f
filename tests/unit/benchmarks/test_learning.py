"""Targets by name, honest statistics, and seeds that are kept, taken over, or fail alone."""

import json

import numpy as np
import pytest

from benchmarks import command, learning, picture
from benchmarks.calls import Interrupted
from benchmarks.figure import at_least, at_most
from benchmarks.ledger import NAME, Ledger, Seed
from benchmarks.statistics import interval, iqm, steps_to
from benchmarks.targets import TARGETS, target
from benchmarks.tax import TAXES, taxes, to_bar
from soulsai.config import load
from soulsai.errors import ConfigError, SoulsAIError

TOY = target("soulsai.testing:ToyEnv:dqn:300")  # without checkpoints along the way


def test_iqm_of_five_is_the_mean_of_the_middle_three():
    assert iqm([100, 1, 2, 3, -50]) == pytest.approx(2)


def test_iqm_of_one_is_that_one():
    assert iqm([7.5]) == 7.5


def test_the_interval_holds_the_iqm_and_shrinks_with_seeds():
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=5), rng.normal(size=200)
    for scores in (few, many):
        low, high = interval(scores)
        assert low <= iqm(scores) <= high
    assert np.diff(interval(many)) < np.diff(interval(few))


def test_a_target_has_a_name_or_is_spelt_out():
    assert target("T1") is TARGETS["T1"]
    made = target("module:Id-v0:dqn:3000")
    assert (made.environment, made.algorithm, made.steps) == ("module:Id-v0", "dqn", 3000)


@pytest.mark.parametrize("name", ["T99", "CartPole-v1", "CartPole-v1:dqn", "CartPole-v1:dqn:many"])
def test_another_name_says_what_is_known(name):
    with pytest.raises(ConfigError, match="T1"):
        target(name)


@pytest.mark.parametrize(
    ("scores", "reached"),
    [
        ([1, 5, 5, 5, 1], 20),
        ([1, 5, 1, 5, 5], 40),
        ([5, 5, 5, 5, 5], 10),
        ([1, 1, 1, 1, 5], 50),
        ([5, 5, 1, 5, 1], np.inf),
        ([], np.inf),
    ],
)
def test_a_bar_is_reached_where_scores_stay(scores, reached):
    curve = [(10 * (place + 1), score) for place, score in enumerate(scores)]
    assert steps_to(5, curve) == reached


def test_a_bar_is_reached_for_good_where_no_later_score_is_below_it():
    curve = list(enumerate([5, 5, 5, 5, 1, 5, 6, 5]))
    assert steps_to(5, curve, None) == 5
    assert steps_to(5, curve[:5], None) == np.inf


def result_of(*to_bar, failed=0):
    results = [
        seed(place, curve=[] if taken is None else [(taken, 900.0)])
        for place, taken in enumerate(to_bar)
    ]
    lost = [seed(99 + place, score=None, fault="crashed") for place in range(failed)]
    return learning.summed(TARGETS["T1"], [], [*results, *lost])


def test_env_steps_to_the_bar_are_infinite_if_too_many_seeds_never_reach_it():
    assert to_bar(result_of(10, 20, 30, 40, 90)) == 30
    assert to_bar(result_of(10, 20, 30, 40, None)) == 30
    assert to_bar(result_of(10, 20, 30, None, None)) == np.inf
    assert to_bar(result_of(10, 20, 30, None, failed=1)) == np.inf


def test_taxes_compare_the_same_target_twice():
    for tax in taxes("faults,staleness,games,scaling"):
        without, burdened = tax.without, tax.burdened
        assert (without.environment, without.steps, without.overrides) == (
            burdened.environment,
            burdened.steps,
            burdened.overrides,
        )
        assert (without.faults, without.clients) != (burdened.faults, burdened.clients)
    with pytest.raises(ConfigError, match=next(iter(TAXES))):
        taxes("income")


def test_settings_reach_both_sides_of_a_tax(monkeypatch, tmp_path):
    settings = []

    def run(_target, _seeds, bench):
        settings.append(bench.overrides)
        return result_of(10, 20, 30)

    monkeypatch.setattr("benchmarks.tax.run", run)
    options = ["--seeds", "3", "--saves", str(tmp_path), "--set", "dqn.anneal_lr=true"]
    command.tax(["scaling", *options], standalone_mode=False)
    assert settings == [("dqn.anneal_lr=true",)] * 2


def test_what_a_run_is_kept_for_does_not_make_it_another_one(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(Seed("T", 1, ["--set=checkpoint.every=5", "--set=dqn.lr=1"], "abc", score=1.0))
    settings = ["--set=web.enabled=false", "--set=dqn.lr=1"]
    assert list(ledger.done("T", settings, curves=False)) == [1]
    assert list(ledger.done("T", settings, curves=True)) == []


@pytest.mark.parametrize("name", TARGETS)
def test_what_targets_override_are_settings(name):
    load(None, {}, [*learning.QUIET, *TARGETS[name].overrides])


def test_a_figure_knows_whether_it_is_held():
    assert at_most("bytes", 38, "B", 60).held
    assert not at_most("bytes", 61, "B", 60).held
    assert at_least("rate", 3, "1/s", 2).held
    assert not at_least("rate", 1, "1/s", 2).held


def seed(number, **known):
    return Seed("T", number, ["--env", "Toy"], "abc", **{"score": float(number), **known})


def test_a_ledger_keeps_what_came_to_an_end_with_the_same_settings(tmp_path):
    ledger = Ledger(tmp_path / "new")
    for result in (
        seed(1),
        seed(2, score=None, fault="crashed"),
        seed(3, score=1.0),
        seed(3, score=2.0),
        Seed("T", 4, ["--env", "Other"], "abc", score=4.0),
        Seed("Other", 5, ["--env", "Toy"], "abc", score=5.0),
    ):
        ledger.add(result)
    with (tmp_path / "new" / NAME).open("ab") as file:
        file.write(b'{"target": "T", "se')
    done = ledger.done("T", ["--env", "Toy"], curves=False)
    assert {number: result.score for number, result in done.items()} == {1: 1.0, 3: 2.0}


def test_a_ledger_that_nobody_wrote_is_empty(tmp_path):
    assert Ledger(tmp_path).done("T", [], curves=False) == {}


def test_a_ledger_needs_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        Ledger(tmp_path / "file")


class Commands:
    """Stands for our own commands; some seeds crash, or end too early."""

    def __init__(self, saves, crash=(), early=()):
        self.saves, self.crash, self.early = saves, crash, early
        self.trained = []

    def __call__(self, command, *words, stopped):
        if command == "evaluate":
            return {"mean": float(words[0].rpartition("-")[2])}
        number = int(words[words.index("--seed") + 1])
        self.trained.append(number)
        if number in self.crash:
            raise SoulsAIError("soulsai train ended with 1: out of luck")
        steps = 10 if number in self.early else 300
        run = str(self.saves / f"run-{number}")
        return {"run": run, "env_steps": steps, "wall_seconds": 1.5}


def test_a_seed_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "answer", Commands(tmp_path, crash=[11], early=[12]))
    said = []
    bench = learning.Bench(tmp_path, parallel=2, said=said.append)
    score = learning.run(TOY, range(10, 15), bench)
    assert score.seeds == [10, 13, 14]
    assert score.scores == [10.0, 13.0, 14.0]
    assert "out of luck" in score.failed[11]
    assert "10 of 300" in score.failed[12]
    assert not score.held
    assert {result.seed for result in said} == set(range(10, 15))


def test_resuming_runs_only_what_is_missing(tmp_path, monkeypatch):
    commands = Commands(tmp_path, crash=[11])
    monkeypatch.setattr(learning, "answer", commands)
    learning.run(TOY, [10, 11], learning.Bench(tmp_path))
    commands.crash = []
    score = learning.run(TOY, [10, 11, 12], learning.Bench(tmp_path, resume=True))
    assert commands.trained == [10, 11, 11, 12]
    assert score.seeds == [10, 11, 12]
    assert score.held
    learning.run(TOY, [10], learning.Bench(tmp_path, overrides=("dqn.lr=1",), resume=True))
    assert commands.trained[-1] == 10, "with other settings it is another result"


def test_who_is_asked_to_stop_begins_no_further_seed(tmp_path, monkeypatch):
    commands = Commands(tmp_path)
    monkeypatch.setattr(learning, "answer", commands)
    bench = learning.Bench(tmp_path, stopped=lambda: len(commands.trained) == 2)
    with pytest.raises(Interrupted):
        learning.run(TOY, range(5), bench)
    assert commands.trained == [0, 1]


def test_a_picture_shows_seeds_also_where_there_are_none(tmp_path):
    results = [seed(number, run=str(record(tmp_path, number))) for number in range(3)]
    for few in ([], results[:1], results):
        path = picture.save_picture(learning.summed(TOY, [], few), tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")
        path.unlink()


def record(folder, number):
    """Write the record of a run that learns a little."""
    run = folder / f"run-{number}"
    run.mkdir()
    lines = [
        {
            "id": f"{i + 1}-0",
            "generation": 1,
            "version": i,
            "episode": i,
            "reward": i / 40,
            "steps": 10,
            "seconds": 0.1,
            "terminated": True,
            "greedy": i % 4 == 0,
            "epsilon": 0.1,
            "client": "c",
            "env_steps": 10 * i,
            "time": 100.0 + i,
        }
        for i in range(40)
    ]
    (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run
