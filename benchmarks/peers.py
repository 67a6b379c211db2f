"""``PYTHON benchmarks/peers.py NAME``: another package's work, timed in turns with ours.

Runs under a Python in which the peers are installed, apart from this project's: it imports nothing
of it. Each line of input is a count; each line of output the seconds that so many took.
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


def _off_policy(model: Any) -> Any:
    """Fill the replay of an agent of Stable-Baselines3 or SBX, which is returned."""
    from stable_baselines3.common.logger import configure

    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    discrete = hasattr(model.action_space, "n")
    for _ in range(STORED):
        obs, following = rng.normal(size=(2, 1, OBS)).astype(np.float32)
        action = rng.integers(ACTIONS, size=1) if discrete else rng.uniform(-1, 1, (1, AXES))
        model.replay_buffer.add(obs, following, action, rng.normal(size=1), np.zeros(1), [{}])
    return model


def _sbx(name: str, steps: int, **settings: Any) -> Run:
    import gymnasium
    import sbx

    env = gymnasium.make("LunarLander-v3", continuous=name == "SAC")
    model = vars(sbx)[name]("MlpPolicy", env, buffer_size=STORED, **settings)
    if not hasattr(model, "replay_buffer"):
        model._setup_model()
    _off_policy(model)

    def run(count: int) -> None:
        for _ in range(count // steps):
            model.train(gradient_steps=steps, batch_size=model.batch_size)

    run(steps)
    return run


def sbx_dqn() -> Run:
    """Return SBX's DQN with 64 updates per call."""
    return _sbx("DQN", 64, batch_size=64, policy_kwargs={"net_arch": [128, 128]})


def sbx_sac() -> Run:
    """Return SBX's SAC with 16 updates per call."""
    return _sbx("SAC", 16, policy_kwargs={"net_arch": [256, 256]})


PEERS: dict[str, Callable[[], Run]] = {"cpprb": cpprb, "sbx-dqn": sbx_dqn, "sbx-sac": sbx_sac}


def main() -> None:
    """Answer each count with the seconds it took; begin with one that is not timed."""
    run = PEERS[sys.argv[1]]()
    run(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        began = time.perf_counter()
        run(int(line))
        sys.stdout.write(f"{time.perf_counter() - began}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
