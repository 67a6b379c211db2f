"""Greedy episodes of a ``policy.onnx``, each with a seed of its own."""

import logging
import math
from pathlib import Path

import numpy as np
from msgspec import Struct

from soulsai.client.actor import Actor
from soulsai.client.environment import AdaptedEnvironment, make
from soulsai.client.environment_offer import check_offer, difference
from soulsai.client.own_values import listed_only, numbered, with_own
from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.heads import act, to_environment
from soulsai.types import MASK, Array, PolicyCard, zeros

log = logging.getLogger(__name__)

_NOTHING_OWN = schema.ClientSettings()
_SIDE_BY_SIDE = 8
_MOST_STEPS = 50_000  # of an episode; longer ones count as endless


class Evaluation(Struct, frozen=True):
    """The rewards of greedy episodes; ``iqm`` is the mean of the middle half."""

    mean: float
    iqm: float
    std: float
    episodes: int
    env_steps: int
    rewards: tuple[float, ...]  # in the order of their seeds


def evaluate(
    policy: Path,
    *,
    episodes: int,
    seed: int,
    environment: str = "",
    own: schema.ClientSettings = _NOTHING_OWN,
    first_index: int = 1,
) -> Evaluation:
    """Play greedy episodes; the i-th one begins with ``reset(seed=seed + i)``.

    Args:
        policy: A ``policy.onnx``.
        episodes: The number of episodes.
        seed: The seed of the first one.
        environment: The environment to play. By default, the policy's own, if it ships with
            Gymnasium; any other must be named, because the file may come from a stranger.
        own: The settings of a client on this machine; those of its own values that the policy's
            run lists replace the run's.
        first_index: The index of the first environment, see ``own_values.numbered``.
    """
    if episodes < 1:
        raise ConfigError(f"episodes: at least 1, not {episodes}")
    actor, card = Actor.from_file(policy)
    offer = with_own(card.environment, listed_only(own, card.environment))
    own_kwargs = own.kwargs | (card.environment.kwargs if environment else {})
    id = check_offer(offer, named=environment, listed=(), own_kwargs=own_kwargs)
    masked = MASK in card.spec.obs
    environments: list[AdaptedEnvironment] = []
    try:
        while len(environments) < min(_SIDE_BY_SIDE, episodes):
            try:
                ours = numbered(offer, first_index + len(environments))
                env = make(id, ours.kwargs, ours.max_episode_steps)
            except EnvironmentFault as fault:
                if not environments:
                    raise
                log.warning("plays %d side by side, as %s", len(environments), fault)
                break
            environments.append(AdaptedEnvironment(env, id, mask_key=offer.mask_key, masked=masked))
        if different := difference(environments[0].spec, card.spec):
            raise EnvironmentFault(f"{id}: is not the environment of the policy: {different}")
        rewards, env_steps = _Games(actor, card, environments, offer.max_episode_steps).play(
            episodes, seed
        )
    finally:
        for one in environments:
            one.close()
    return Evaluation(
        mean=math.fsum(rewards) / len(rewards),
        iqm=iqm(rewards),
        std=float(np.std(rewards)),
        episodes=len(rewards),
        env_steps=env_steps,
        rewards=tuple(rewards),
    )


def iqm(rewards: list[float]) -> float:
    """Return the mean of the middle half of the values."""
    middle = sorted(rewards)[len(rewards) // 4 : len(rewards) - len(rewards) // 4]
    return math.fsum(middle) / len(middle)


class _Games:
    """Environments side by side, each with an episode of its own."""

    def __init__(
        self,
        actor: Actor,
        card: PolicyCard,
        environments: list[AdaptedEnvironment],
        limit: int,
    ) -> None:
        count = len(environments)
        self._actor = actor
        self._card = card
        self._environments = environments
        self._obs = {name: zeros(leaf, count) for name, leaf in card.spec.obs.items()}
        self._memory = {name: zeros(leaf, count) for name, leaf in card.memory.items()}
        self._rng = np.random.default_rng(0)  # greedy actions do not use it
        self._steps = [0] * count  # of the current episodes
        self._most_steps = max(_MOST_STEPS, limit)

    def play(self, episodes: int, seed: int) -> tuple[list[float], int]:
        """Return the rewards of all episodes, and the number of env steps."""
        rewards = [0.0] * episodes
        env_steps, next_one = 0, 0
        playing: dict[int, int] = {}  # the episode of each environment
        for index in range(len(self._environments)):
            playing[index] = next_one
            self._reset(index, seed + next_one)
            next_one += 1
        while playing:
            actions = self._act()
            for index, episode in list(playing.items()):
                reward, ended = self._step(index, actions[index])
                rewards[episode] += reward
                env_steps += 1
                self._steps[index] += 1
                if not ended and self._steps[index] < self._most_steps:
                    continue
                if not ended:
                    raise EnvironmentFault(
                        f"{self._environments[index].name}: an episode has not ended after "
                        f"{self._most_steps} steps; set environment.max_episode_steps"
                    )
                del playing[index]
                if next_one < episodes:
                    playing[index] = next_one
                    self._reset(index, seed + next_one)
                    next_one += 1
        return rewards, env_steps

    def _act(self) -> Array:
        """Choose actions [E] for all environments; one batch size throughout."""
        outputs, self._memory = self._actor(self._obs, self._memory)
        count = len(self._environments)
        actions, _ = act(
            self._card.head,
            self._card.spec.action,
            outputs,
            mask=self._obs.get(MASK),
            greedy=np.ones(count, np.bool_),
            epsilon=np.zeros(count),
            random=0.0,
            rng=self._rng,
        )
        return actions

    def _reset(self, index: int, seed: int) -> None:
        rows = {name: leaf[index, ...] for name, leaf in self._obs.items()}
        self._environments[index].reset(rows, seed)
        self._steps[index] = 0
        for memory in self._memory.values():
            memory[index] = 0

    def _step(self, index: int, action: Array) -> tuple[float, bool]:
        rows = {name: leaf[index, ...] for name, leaf in self._obs.items()}
        given = to_environment(self._card.head, self._card.spec.action, action)
        outcome = self._environments[index].step(given, rows)
        return outcome.reward, outcome.terminated or outcome.truncated
