"""An account of an algorithm without replay: each step that it was given, and each that it learnt.

The witness is one more part of the algorithm: its account is saved with each checkpoint and
restored from it, as a replay is.
"""

import numpy as np

from soulsai.training_node import start

from .stamps import names

NAME = "witness"
PPO = "ppo"


class Witness:
    """Keeps the names of steps in the order in which they came."""

    def __init__(self):
        self._lists = {"given": [], "learnt": []}

    def note(self, kind, fragments):
        """Add the steps of fragments to those that were given, or learnt."""
        for fragment in fragments:
            (stamps,) = fragment.obs.values()
            self._lists[kind].append(names(stamps[:-1]))

    def state_dict(self):
        return {kind: joined(lists) for kind, lists in self._lists.items()}

    def load_state_dict(self, state_dict):
        self._lists = {kind: [array] for kind, array in state_dict.items()}


def joined(arrays):
    """Return arrays of names as one."""
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def install():
    """Let a witness watch the PPO that this process trains, if it trains one."""
    build = start.build_algorithm

    def watched(config, spec, *, seed):
        algorithm = build(config, spec, seed=seed)
        return watch(algorithm) if config.algorithm.name == PPO else algorithm

    start.build_algorithm = watched


def watch(algorithm):
    """Add a witness to an instance of PPO."""
    witness = algorithm.parts[NAME] = Witness()
    learn, take = algorithm.learn, algorithm.batches.take

    def given(arrivals):
        for fragments in arrivals:
            witness.note("given", fragments)
            yield fragments

    def taken():
        fragments, lags = take()
        witness.note("learnt", fragments)
        return fragments, lags

    algorithm.learn = lambda arrivals: learn(given(arrivals))
    algorithm.batches.take = taken
    return algorithm
