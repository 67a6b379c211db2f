"""A policy.onnx in other hands: ONNX Runtime and the card alone play as well as ``evaluate``."""

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from soulsai.client.evaluate import evaluate
from soulsai.client.policy import SavedPolicy
from soulsai.client.probe import probe
from soulsai.config import load
from soulsai.errors import CheckpointError
from soulsai.training_node import start
from soulsai.training_node.publisher import Publisher
from soulsai.types import CARD_FORMAT
from tests.memory_server import MemoryServer
from tests.unit.training_node.policy_card_envs import Choosy, Masked, Nested, Offset, Valves

ROOT = Path(__file__).parents[3]
OFFSET, MASKED, VALVES, NESTED, CHOOSY = (
    f"{each.__module__}:{each.__name__}" for each in (Offset, Masked, Valves, Nested, Choosy)
)
SMALL = ["run.seed=1", "dqn.hidden=[16]", "ppo.hidden=[16]", "sac.hidden=[16]"]
CASES = {
    "ppo, offsets": (OFFSET, ["algorithm.name=ppo"]),
    "ppo, memory": (OFFSET, ["algorithm.name=ppo", "ppo.memory=8"]),
    "dqn, offsets": ("soulsai.testing:DictToy", []),
    "dqn, quantiles and noise": (
        "soulsai.testing:DictToy", ["dqn.quantiles=5", "dqn.noisy=true"],
    ),
    "dqn, mask in the observation": (MASKED, ["environment.kwargs.in_info=false"]),
    "ppo, mask in the info": (
        MASKED, ["algorithm.name=ppo", "environment.kwargs.in_info=true"],
    ),
    "ppo, box": (VALVES, ["algorithm.name=ppo"]),
    "ppo, box without a bound": (
        VALVES,
        ["algorithm.name=ppo", "environment.kwargs.unbounded=true"],
    ),
    "dqn, nested choices": (NESTED, ["environment.kwargs.numbers=false"]),
    "ppo, nested choices and numbers": (NESTED, ["algorithm.name=ppo"]),
    "dqn, nested masks": (CHOOSY, []),
    "ppo, nested masks": (CHOOSY, ["algorithm.name=ppo"]),
    "sac, box": (VALVES, ["algorithm.name=sac"]),
    "sac, box of float64": (
        VALVES, ["algorithm.name=sac", "environment.kwargs.dtype=float64"],
    ),
    "dqn, a limit of an episode": ("CartPole-v1", ["environment.max_episode_steps=7"]),
}  # fmt: skip


def player():
    """Import the example; it imports nothing of SoulsAI."""
    spec = importlib.util.spec_from_file_location("play", ROOT / "examples" / "play_policy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policy_file(tmp_path, id, sets):
    """Write the file of a run whose weights are far from those that it began with."""
    sets = [*SMALL, f"environment.id={id}", f"run.saves={tmp_path}", *sets]
    config = load(None, {}, sets)
    run = start.new_run(
        config, probe(config.environment), MemoryServer().training(), datetime.now(UTC)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in run.algorithm.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = tmp_path / "policy.onnx"
    path.write_bytes(Publisher(run, bool).file())
    return path


@pytest.mark.parametrize("case", CASES)
def test_the_card_is_enough_to_play(tmp_path, capsys, case):
    id, sets = CASES[case]
    path = policy_file(tmp_path, id, sets)
    ours = evaluate(path, episodes=20, seed=7, environment=id)
    player().main(str(path), id, "20", "7")
    theirs = float(capsys.readouterr().out.removeprefix("mean return "))
    assert theirs == pytest.approx(ours.mean, abs=1e-3)
    play = player()
    policy = SavedPolicy(path)
    env = play.make(id, msgspec.to_builtins(policy.card))
    for number, reward in enumerate(ours.rewards[:5]):
        observation, info = env.reset(seed=7 + number)
        policy.reset()
        total, over = 0.0, False
        while not over:
            action = policy.act(observation, info)
            if not isinstance(action, dict | tuple):
                action = np.asarray(action, env.action_space.dtype)
            assert env.action_space.contains(action)
            observation, earned, terminated, truncated, info = env.step(action)
            total, over = total + earned, terminated or truncated
        assert total == pytest.approx(reward, abs=1e-3)
    assert np.std(ours.rewards) > 0 or case == "dqn, a limit of an episode"


def test_a_card_of_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("soulsai.training_node.publisher.CARD_FORMAT", CARD_FORMAT + 1)
    path = policy_file(tmp_path, "soulsai.testing:BoxToy", ["algorithm.name=sac"])
    with pytest.raises(CheckpointError, match=r"format 2, and this version of SoulsAI reads 1"):
        evaluate(path, episodes=1, seed=0, environment="soulsai.testing:BoxToy")
    with pytest.raises(SystemExit, match="another format, 2"):
        player().Policy(str(path))
