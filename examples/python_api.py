"""Train, look at the record, and play, from Python: ``python examples/python_api.py 20000``."""

import sys

import gymnasium

import soulsai


def main(env_steps: str = "20000", *sets: str) -> None:
    """Train on CartPole, then play one episode with the policy."""
    config = soulsai.load_config(
        sets=["environment.id=CartPole-v1", f"run.max_env_steps={env_steps}", *sets]
    )
    run = soulsai.train(config, progress=True)
    results = soulsai.read_results(run.folder)
    print(results[["env_steps", "reward", "steps"]].tail())
    print(soulsai.evaluate(run.folder, episodes=10).mean)

    policy = soulsai.load_policy(run.folder)
    env = gymnasium.make("CartPole-v1")
    observation, info = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(policy.act(observation, info))
        total, over = total + float(reward), terminated or truncated
    print(f"one episode: {total:g}")


if __name__ == "__main__":  # processes of the run may import this file again
    main(*sys.argv[1:])
