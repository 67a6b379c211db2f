"""How good a policy is: greedy episodes, each with a seed of its own."""

import io
import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from soulsai.cli.evaluate import progress_on
from soulsai.client.creation import make
from soulsai.client.evaluate import evaluate
from soulsai.config.schema import WatchdogSettings
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.evaluations.intervals import iqm
from soulsai.testing.policy import linear_program, toy_run
from soulsai.types import EnvironmentOffer, PolicyCard


def written(path, id, weights=None, *, kind="epsilon_greedy", memory=False, offer=None):
    """Write a policy.onnx with those weights in place of zeros."""
    offer = offer or EnvironmentOffer(id)
    run, program, _ = toy_run(offer, kind, memory=memory)
    card = PolicyCard(
        run="r",
        generation=1,
        version=1,
        env_steps=0,
        algorithm="toy",
        environment=offer,
        spec=run.spec,
        head=program.head,
        inputs=program.inputs,
        outputs=program.outputs,
        memory=program.memory,
    )
    graph = onnx.load_from_string(
        linear_program(run.spec, program.head, memory=memory, card=card)[0].graph
    )
    for initializer in graph.graph.initializer:
        if weights and initializer.name in weights:
            initializer.CopyFrom(
                numpy_helper.from_array(weights[initializer.name], initializer.name)
            )
    path.write_bytes(graph.SerializeToString())
    return path


def towards_goal():
    w = np.zeros((4, 3), np.float32)
    w[2] = [-1, 0, 1]
    return {"w": w, "b": np.zeros(3, np.float32)}


def played(id, seed, policy):
    """One episode, the plain way."""
    env = make(id, {})
    obs, info = env.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
        obs, reward, terminated, truncated, info = env.step(policy(obs, info))
        total, steps, over = total + reward, steps + 1, terminated or truncated
    return total, steps


@pytest.mark.parametrize("episodes", [1, 5, 20])
def test_every_episode_has_its_own_seed_however_many_are_played_side_by_side(tmp_path, episodes):
    id = "soulsai.testing:ToyEnv"
    path = written(tmp_path / "policy.onnx", id, towards_goal())
    found = evaluate(path, episodes=episodes, seed=1000, environment=id)
    expected = [
        played(id, 1000 + number, lambda obs, _: int(np.argmax(obs[2] * np.array([-1, 0, 1]))))
        for number in range(episodes)
    ]
    rewards = [reward for reward, _ in expected]
    assert found.rewards == pytest.approx(rewards)
    assert found.env_steps == sum(steps for _, steps in expected)
    assert found.episodes == episodes
    assert found.mean == pytest.approx(np.mean(rewards))
    assert found.std == pytest.approx(np.std(rewards))
    assert found.mean > 0.9


def test_it_is_the_same_every_time(tmp_path):
    path = written(tmp_path / "policy.onnx", "CartPole-v1")
    assert evaluate(path, episodes=9, seed=5) == evaluate(path, episodes=9, seed=5)


def test_masks_hold(tmp_path):
    id = "soulsai.testing:MaskedToy"
    left = {"w": np.zeros((4, 3), np.float32), "b": np.array([1, 0, 0], np.float32)}
    path = written(tmp_path / "policy.onnx", id, left)
    found = evaluate(path, episodes=4, seed=0, environment=id)
    policy = lambda obs, info: 0 if info["action_mask"][0] else 1  # noqa: E731
    assert found.rewards == pytest.approx([played(id, seed, policy)[0] for seed in range(4)])


@pytest.mark.parametrize(
    ("id", "kind", "memory"),
    [
        ("soulsai.testing:DictToy", "epsilon_greedy", False),
        ("soulsai.testing:ToyEnv", "epsilon_greedy", True),
        ("soulsai.testing:MultiDiscreteToy", "categorical", False),
        ("soulsai.testing:BoxToy", "gaussian", False),
        ("soulsai.testing:BoxToy", "squashed", True),
    ],
)
def test_all_kinds_of_policies_are_played(tmp_path, id, kind, memory):
    path = written(tmp_path / "policy.onnx", id, kind=kind, memory=memory)
    found = evaluate(path, episodes=3, seed=0, environment=id)
    assert found.episodes == 3
    assert np.isfinite(found.mean)


def test_a_limit_of_steps_is_kept(tmp_path):
    offer = EnvironmentOffer("CartPole-v1", max_episode_steps=4)
    path = written(tmp_path / "policy.onnx", "", offer=offer)
    assert evaluate(path, episodes=3, seed=0).rewards == (4.0, 4.0, 4.0)


def test_a_file_from_anywhere_does_not_choose_what_is_imported(tmp_path):
    path = written(tmp_path / "policy.onnx", "soulsai.testing:ToyEnv")
    with pytest.raises(ConfigError, match="does not allow"):
        evaluate(path, episodes=1, seed=0)


def test_another_environment_than_the_policys_is_refused(tmp_path):
    path = written(tmp_path / "policy.onnx", "soulsai.testing:ToyEnv")
    with pytest.raises(EnvironmentFault, match="not the environment of the policy"):
        evaluate(path, episodes=1, seed=0, environment="soulsai.testing:DictToy")
    with pytest.raises(EnvironmentFault, match="CartPole"):
        evaluate(path, episodes=1, seed=0, environment="CartPole-v1")


def test_at_least_one_episode_is_played(tmp_path):
    path = written(tmp_path / "policy.onnx", "CartPole-v1")
    with pytest.raises(ConfigError, match="episodes"):
        evaluate(path, episodes=0, seed=0)


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end():
    assert iqm([3.0]) == 3.0
    assert iqm([1.0, 5.0]) == 3.0
    assert iqm([100.0, 1.0, 2.0, 3.0, -100.0]) == 2.0
    assert iqm(list(map(float, range(100)))) == np.mean(range(25, 75))


def test_an_episode_without_an_end_stops_after_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("soulsai.client.evaluate._MOST_STEPS", 1)
    path = written(tmp_path / "policy.onnx", "soulsai.testing:ToyEnv", towards_goal())
    words = r"ToyEnv: an episode has not ended after 1 steps; set environment\.max_episode_steps"
    with pytest.raises(EnvironmentFault, match=words):
        evaluate(path, episodes=4, seed=1, environment="soulsai.testing:ToyEnv")


def test_an_environment_that_can_be_made_once_is_played_alone(tmp_path, monkeypatch, caplog):
    path = written(tmp_path / "policy.onnx", "soulsai.testing:ToyEnv")
    whole = evaluate(path, episodes=3, seed=1, environment="soulsai.testing:ToyEnv")
    makes = []

    def once(id, kwargs, steps, wrappers):
        makes.append(id)
        if len(makes) > 1:
            raise EnvironmentFault("the port is taken")
        return make(id, kwargs, steps, wrappers)

    monkeypatch.setattr("soulsai.client.probe.make", once)
    assert evaluate(path, episodes=3, seed=1, environment="soulsai.testing:ToyEnv") == whole
    assert "plays 1 side by side, as the port is taken" in caplog.text


FRAIL = """
import os, time
from pathlib import Path
from soulsai.testing import ToyEnv

class Frail(ToyEnv):
    def __init__(self, fault, seeds, log):
        super().__init__()
        self.fault, self.seeds, self.log = fault, seeds, Path(log)

    def reset(self, *, seed=None, options=None):
        self.sick = seed in self.seeds and not (
            self.fault != "always" and (self.log / str(seed)).exists()
        )
        (self.log / str(seed)).touch()
        return super().reset(seed=seed)

    def step(self, action):
        if self.sick and self.fault in ("exit", "always"):
            os._exit(7)
        if self.sick and self.fault == "hang":
            time.sleep(1000)
        if self.sick and self.fault == "raise":
            raise RuntimeError("the game has crashed")
        return super().step(action)
"""


def frail(folder, fault, seeds):
    """Write an environment that breaks in episodes of some seeds, and a policy for it."""
    (folder / "frail.py").write_text(FRAIL)
    (folder / "log").mkdir()
    id = f"{folder}/frail.py:Frail"
    kwargs = {"fault": fault, "seeds": seeds, "log": str(folder / "log")}
    offer = EnvironmentOffer(id, kwargs)
    return written(folder / "policy.onnx", "", towards_goal(), offer=offer), id


LIMITS = WatchdogSettings(step_seconds=1.0)


@pytest.mark.parametrize(
    ("fault", "isolate", "kind"),
    [("exit", True, "crash"), ("hang", True, "hang"), ("raise", True, "crash"),
     ("raise", False, "crash")],
)  # fmt: skip
def test_an_environment_that_breaks_is_started_again_and_no_episode_is_missed(
    tmp_path, fault, isolate, kind
):
    path, id = frail(tmp_path, fault, [11, 13])
    seen = []
    found = evaluate(
        path, episodes=6, seed=10, environment=id, isolate=isolate, limits=LIMITS,
        progress=seen.append,
    )  # fmt: skip
    whole = written(tmp_path / "toy.onnx", "soulsai.testing:ToyEnv", towards_goal())
    expected = evaluate(whole, episodes=6, seed=10, environment="soulsai.testing:ToyEnv")
    assert found.rewards == expected.rewards
    assert found.env_steps == expected.env_steps
    assert (found.left_out, found.faults) == (0, {kind: 2})
    assert seen[-1] == 6
    assert seen == sorted(set(seen))


def test_an_episode_that_breaks_each_time_is_left_out(tmp_path):
    path, id = frail(tmp_path, "always", [11])
    found = evaluate(path, episodes=4, seed=10, environment=id, isolate=True, limits=LIMITS)
    assert (found.episodes, found.left_out, found.faults) == (3, 1, {"crash": 3})


def test_an_environment_that_never_works_ends_with_its_fault(tmp_path):
    path, id = frail(tmp_path, "always", [10, 11])
    with pytest.raises(EnvironmentFault, match=r"no episode has ended; .* exit code 7"):
        evaluate(path, episodes=2, seed=10, environment=id, isolate=True, limits=LIMITS)


def test_it_stops_when_told_and_keeps_what_was_played(tmp_path):
    path = written(tmp_path / "policy.onnx", "soulsai.testing:ToyEnv", towards_goal())
    seen = []
    found = evaluate(
        path, episodes=100, seed=0, environment="soulsai.testing:ToyEnv",
        stopped=lambda: len(seen) >= 2, progress=seen.append,
    )  # fmt: skip
    assert 2 <= found.episodes < 100
    assert found.left_out == 0


def test_progress_is_one_line_on_a_terminal_and_a_line_now_and_then_elsewhere():
    stream = io.StringIO()
    stream.isatty = lambda: True
    show = progress_on(stream, 2, itertools.count().__next__)
    show(1)
    show(2)
    assert stream.getvalue() == "1 of 2 episodes\r2 of 2 episodes\n"
    stream = io.StringIO()
    show = progress_on(stream, 100, itertools.count().__next__)
    for done in range(1, 31):
        show(done)
    lines = stream.getvalue().splitlines()
    assert lines == [f"{done} of 100 episodes" for done in (10, 20, 30)]
