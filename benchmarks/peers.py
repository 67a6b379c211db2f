"""``PYTHON benchmarks/peers.py NAME CLOCK``: another package's work, timed in turns with ours.

Runs under a Python in which the peers are installed, apart from this project's: it imports nothing
of it. Each line of input is a count; each line of output the seconds that so many took,
of CPU time (``cpu``) or by the clock (``wall``).
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS, WIDTH, BATCH = 1_000_000, 8, 64  # of the prioritised replay

STORED, OBS, ACTIONS, AXES = 20_000, 8, 4, 2  # rows, and LunarLander's spaces

Run = Callable[[int], None]


def cpprb() -> Run:
    """Return a sample and an update of priorities from cpprb's full replay."""
    from cpprb import PrioritizedReplayBuffer

    columns = {
        "obs": {"shape": WIDTH},
        "next_obs": {"shape": WIDTH},
        "act": {"dtype": np.uint8},
        "rew": {},
        "done": {},
    }
    replay = PrioritizedReplayBuffer(ROWS, columns, alpha=0.6)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    flat = np.zeros(ROWS, np.float32)
    replay.add(obs=seen, next_obs=seen, act=flat.astype(np.uint8), rew=flat, done=flat)
    replay.update_priorities(np.arange(ROWS), rng.random(ROWS))

    def run(count: int) -> None:
        for _ in range(count):
            batch = replay.sample(BATCH, beta=0.4)
            replay.update_priorities(batch["indexes"], rng.random(BATCH))

    return run


def _off_policy(package: Any, name: str, steps: int, **settings: Any) -> Run:
    """Return updates of an agent of Stable-Baselines3 or SBX, whose replay is full.

    Args:
        package: One of both.
        name: The algorithm.
        steps: Updates of a call.
        settings: Those of the agent.
    """
    import gymnasium
    from stable_baselines3.common.logger import configure

    discrete = name == "DQN"

    class Spaces(gymnasium.Env[Any, Any]):  # never stepped
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
        action_space = (
            gymnasium.spaces.Discrete(ACTIONS)
            if discrete
            else gymnasium.spaces.Box(-1.0, 1.0, (AXES,), np.float32)
        )

    layers = [128, 128] if discrete else [256, 256]
    batch = 64 if discrete else 256
    model = vars(package)[name](
        "MlpPolicy", Spaces(), buffer_size=STORED, batch_size=batch, device="cpu",
        policy_kwargs={"net_arch": layers}, **settings,
    )  # fmt: skip
    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for _ in range(STORED):
        obs, following = rng.normal(size=(2, 1, OBS)).astype(np.float32)
        action = rng.integers(ACTIONS, size=1) if discrete else rng.uniform(-1, 1, (1, AXES))
        model.replay_buffer.add(obs, following, action, rng.normal(size=1), np.zeros(1), [{}])

    def run(count: int) -> None:
        for _ in range(max(1, count // steps)):
            model.train(gradient_steps=steps, batch_size=batch)

    run(1)
    return run


def sb3(name: str) -> Run:
    """Return updates of Stable-Baselines3, of which each is a step of Python."""
    import stable_baselines3

    return _off_policy(stable_baselines3, name, 16)


def sbx(name: str, steps: int) -> Run:
    """Return updates of SBX, in compiled calls of several.

    Its DQN has no double targets, does not clip gradients, and copies the target network outside of
    these calls.
    """
    import sbx

    return _off_policy(sbx, name, steps)


def sb3_ppo() -> Run:
    """Return env steps of CartPole of which Stable-Baselines3's PPO learns, 8 side by side."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=8), device="cpu")
    return lambda count: model.learn(count) and None


PEERS: dict[str, Callable[[], Run]] = {
    "cpprb": cpprb,
    "sb3-ppo": sb3_ppo,
    "sb3-dqn": lambda: sb3("DQN"),
    "sb3-sac": lambda: sb3("SAC"),
    "sbx-dqn": lambda: sbx("DQN", 64),
    "sbx-sac": lambda: sbx("SAC", 16),
}


def main() -> None:
    """Answer each count with the seconds it took; begin with one that is not timed."""
    run = PEERS[sys.argv[1]]()
    clock = {"cpu": time.process_time, "wall": time.perf_counter}[sys.argv[2]]
    run(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        began = clock()
        run(int(line))
        sys.stdout.write(f"{clock() - began}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
