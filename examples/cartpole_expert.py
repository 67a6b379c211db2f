"""A scripted expert for CartPole: its episodes are demonstrations.

soulsai record --env CartPole-v1 --policy examples/cartpole_expert.py:act --out demos/cart-v0
"""

from collections.abc import Sequence

WEIGHTS = (0.05, 0.2, 1.0, 0.5)  # of position, speed, angle and angular speed


def act(observation: Sequence[float]) -> int:
    """Return the action for one observation: push to the side to which the pole falls."""
    lean = sum(weight * float(value) for weight, value in zip(WEIGHTS, observation, strict=True))
    return int(lean > 0)
