"""A stage for the tests of the loop: an environment that keeps a diary, and a line that records."""

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.client.actor import Actor
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.player import Player
from soulsai.client.player_link import Instructions, PlayerProgress
from soulsai.testing.policy import linear_program
from soulsai.types import (
    PROTOCOL,
    EnvironmentOffer,
    Episode,
    Fragment,
    Head,
    Leaf,
    Pointer,
    RunSpec,
    Weights,
)
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import Entry, Position


class Diary(gymnasium.Env):
    """Shows its own number, episode and step, and writes down what was done to it.

    It returns the same buffer every time, as some games do. The reward is step + 0.5.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, number=0, length=10, terminates=True):
        self.number, self.length, self.terminates = number, length, terminates
        self.buffer = np.zeros(3, np.float32)
        self.episode, self.t, self.actions = -1, 0, []

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        self.actions.append([])
        return self.look(), {}

    def step(self, action):
        self.actions[-1].append(int(action))
        self.t += 1
        over = self.t == self.length
        info = {"score": np.float32(self.t), "name": "x", "nan": np.nan}
        return (
            self.look(),
            self.t - 0.5,
            over and self.terminates,
            over and not self.terminates,
            info,
        )

    def look(self):
        self.buffer[:] = self.number, self.episode, self.t
        return self.buffer


class Recording:
    """A line that encodes what is sent at once, as the real one does, and decodes it."""

    def __init__(self, run, instructions):
        self.run, self.instructions, self.messages, self.waits = run, instructions, [], 0

    def send(self, message):
        data = pack([encode_message(message, self.run)])
        self.messages += decode_entry(Entry("c", Position(7, 1), data), self.run)

    def wait(self, known, timeout):
        self.waits += 1

    @property
    def fragments(self):
        return [message for message in self.messages if isinstance(message, Fragment)]

    @property
    def episodes(self):
        return [message for message in self.messages if isinstance(message, Episode)]


def stage(envs, kind="epsilon_greedy", *, memory=False, clock=lambda: 0.0, quota=None, **options):
    """Return a player, its line, and how to play so many more env steps."""
    names = ("step_delay", "sleep", "values", "together")
    player_options = {key: options.pop(key) for key in names if key in options}
    head = Head(
        kind,
        eval_fraction=options.pop("eval_fraction", 0.0),
        epsilon_base=options.pop("epsilon_base", 0.4),
    )
    exploration = options.pop("exploration", {})
    masked = options.pop("masked", False)
    offer = options.pop("offer", None) or EnvironmentOffer(
        "it", info_keys=options.pop("info_keys", ()), realtime=options.pop("realtime", False)
    )
    if isinstance(envs, list):
        environments = [
            AdaptedEnvironment(env, "it", mask_key="action_mask", masked=masked)
            if isinstance(env, gymnasium.Env)
            else env
            for env in envs
        ]
        spec, count = environments[0].spec, len(envs)
    else:  # a vector
        environments, spec, count = envs, envs.spec, envs.count
    program, arrays = linear_program(spec, head, memory=memory)
    settings = {"fragment_steps": 4, "fragment_seconds": 60.0, **options}
    run = RunSpec(
        run="r",
        protocol=PROTOCOL,
        oldest_protocol=PROTOCOL,
        environment=offer,
        spec=spec,
        algorithm="toy",
        program_sha256="",
        extras={} if kind == "epsilon_greedy" else {"logp": Leaf((), "<f4")},
        memory=program.memory,
        **settings,
    )
    weights = Weights(run="r", generation=1, version=1, arrays=arrays)
    actor = Actor.load(program, weights, spec)
    line = Recording(
        run, Instructions(Pointer("r", 1, 1, 0, "", quota=quota, exploration=exploration), actor)
    )
    progress = PlayerProgress()
    player = Player(
        environments,
        run,
        program.head,
        line,
        progress,
        client="c",
        epoch=7,
        rng=np.random.default_rng(0),
        seeds=range(count),
        clock=clock,
        **player_options,
    )

    def go(steps):
        until = progress.steps + steps
        return player.run(lambda: progress.steps >= until or line.waits >= 5)

    return player, line, go, progress
