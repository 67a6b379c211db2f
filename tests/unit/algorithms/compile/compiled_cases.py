"""Small learners with compiled forms, and experience for them."""

from itertools import chain, repeat

import msgspec
import numpy as np

from soulsai.algorithms.dqn.learner import DQN
from soulsai.algorithms.sac.learner import SAC
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.types import ActionSpec, Leaf, Spec
from tests.unit.algorithms.learning_cases import endless, episode, settings, spec


def dqn(**changes):
    changes = {"updates_per_call": 4, **changes}
    return DQN(settings(**changes), spec(masked=True), seed=3, steps=1000, realtime=False)


def branching(**changes):
    branches = ActionSpec("multidiscrete", (2,), (2, 3))
    space = Spec({"obs": Leaf((2,), "<f4")}, branches)
    changes = {"updates_per_call": 4, **changes}
    return DQN(settings(**changes), space, seed=3, steps=1000, realtime=False)


def sac(**changes):
    small = {"hidden": (16, 16), "quantiles": 5, "learning_starts": 32, "batch_size": 16}
    config = SACSettings(**{**small, "capacity": 500, "slack_steps": 64, **changes})
    box = Spec({"obs": Leaf((2,), "<f4")}, ActionSpec("box", (2,), (), (-1.0,) * 2, (1.0,) * 2))
    return SAC(config, box, seed=3, steps=1000, realtime=False)


def played(algorithm, number):
    """Return an episode of an algorithm's kind."""
    rng = np.random.default_rng(number)
    if isinstance(algorithm, SAC):
        action = rng.uniform(-1, 1, (40, 2)).astype("<f4")
    elif len(algorithm.policy.sizes) > 1:
        action = rng.integers(algorithm.policy.sizes, size=(40, 2)).astype("u1")
    else:
        return episode(40, number=number, masked=True)
    return msgspec.structs.replace(episode(40, number=number), action=action)


def learnt(algorithm, updates=60, spoil=None, *, at_once=False):
    """Return the last metrics of some updates.

    Args:
        algorithm: The learner.
        updates: Number of updates.
        spoil: Step whose reward is made infinite.
        at_once: Let all experience arrive before the first update.
    """
    fragments = [played(algorithm, number) for number in range(6)]
    if spoil is not None:
        fragments[0].reward[spoil] = np.inf
    arrivals = chain([fragments], repeat([])) if at_once else endless(fragments)
    generator = algorithm.learn(arrivals)
    return [next(generator) for _ in range(updates)][-1]
