"""Greedy episodes of a ``policy.onnx``, each with a seed of its own."""

import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.client.actor import Actor
from soulsai.client.environment import LARGEST_REWARD, PlayableEnvironment, StepResult, numbers
from soulsai.client.environment_offer import difference, offer_of_policy
from soulsai.client.in_process import InProcessEnvironment
from soulsai.client.isolation.environment import SLICE, IsolatedEnvironment, start
from soulsai.client.isolation.watchdog import EnvironmentBroken
from soulsai.client.own_values import numbered
from soulsai.client.probe import SingleEnvironment, open_offer
from soulsai.client.trial_load import try_file
from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.evaluations.intervals import iqm
from soulsai.heads import act, to_environment
from soulsai.types import MASK, Array, EnvironmentOffer, Episode, PolicyCard, zeros
from soulsai.wire.graph_check import MOST_FILE_BYTES

log = logging.getLogger(__name__)

_NOTHING_OWN = schema.ClientSettings()
_LIMITS = schema.WatchdogSettings()
_SIDE_BY_SIDE = 8
_TRIES = 3  # of an episode in which the environment breaks
_MOST_STEPS = 50_000  # of an episode; longer ones count as endless

Progress = Callable[[int], None]  # is called with the number of finished episodes


class Evaluation(Struct, frozen=True):
    """The rewards of greedy episodes; ``iqm`` is the mean of the middle half."""

    mean: float
    iqm: float
    std: float
    episodes: int
    env_steps: int
    rewards: tuple[float, ...]  # in the order of their seeds
    left_out: int = 0  # episodes in which the environment broke each time
    faults: dict[str, int] = {}  # of the environments, by kind
    played: tuple[Episode, ...] = ()  # ``episode`` is the seed, less that of the first one


def evaluate(
    policy: Path,
    *,
    episodes: int,
    seed: int,
    environment: str = "",
    own: schema.ClientSettings = _NOTHING_OWN,
    first_index: int = 1,
    isolate: bool = False,
    limits: schema.WatchdogSettings = _LIMITS,
    trial: bool = True,
    stopped: Callable[[], bool] = lambda: False,
    progress: Progress = lambda _: None,
) -> Evaluation:
    """Play greedy episodes; the i-th one begins with ``reset(seed=seed + i)``.

    An episode in which the environment breaks is played again; after three times it is left out.

    Args:
        policy: A ``policy.onnx``.
        episodes: The number of episodes.
        seed: The seed of the first one.
        environment: The environment to play. By default, the policy's own, if it ships with
            Gymnasium; any other must be named, because the file may come from a stranger.
        own: The settings of a client on this machine; those of its own values that the policy's
            run lists replace the run's.
        first_index: The index of the first environment, see ``own_values.numbered``.
        isolate: Play each environment in a process of its own.
        limits: When such a process is restarted.
        trial: Load the policy in a process with limits first; it may come from a stranger.
        stopped: Whether to end early.
        progress: Is called after each episode.

    Raises:
        EnvironmentFault: The environment cannot be played, or not a single episode has ended.
    """
    if episodes < 1:
        raise ConfigError(f"episodes: at least 1, not {episodes}")
    if trial and policy.is_file() and policy.stat().st_size <= MOST_FILE_BYTES:
        try_file(policy)
    actor, card = Actor.from_file(policy)
    id, offer = offer_of_policy(card.environment, own, environment)
    environments: list[PlayableEnvironment] = []
    try:
        for index in range(min(_SIDE_BY_SIDE, episodes)):
            ours = numbered(offer, first_index + index)
            try:
                _open(environments, id, ours, card, limits, stopped, isolate=isolate)
            except EnvironmentFault as fault:
                if not environments:
                    raise
                log.warning("plays %d side by side, as %s", len(environments), fault)
                break
        games = _Games(actor, card, environments, offer.max_episode_steps, limits.most_faults)
        games.play(episodes, seed, stopped, progress)
    finally:
        _close(environments)
    if not games.played:
        raise EnvironmentFault(
            f"{id}: no episode has ended; {games.last_fault or 'it was stopped'}"
        )
    return games.evaluation()


def summarised(
    played: Sequence[Episode], left_out: int = 0, faults: Mapping[str, int] | None = None
) -> Evaluation:
    """Return the result of finished episodes.

    Args:
        played: The episodes, one at least, in the order of their seeds.
        left_out: Episodes in which the environment broke each time.
        faults: Of the environments, by kind.
    """
    rewards = [episode.reward for episode in played]
    return Evaluation(
        mean=math.fsum(rewards) / len(rewards),
        iqm=iqm(rewards),
        std=float(np.std(rewards)),
        episodes=len(rewards),
        env_steps=sum(episode.steps for episode in played),
        rewards=tuple(rewards),
        left_out=left_out,
        faults=dict(faults or {}),
        played=tuple(played),
    )


def _open(
    environments: list[PlayableEnvironment],
    id: str,
    offer: EnvironmentOffer,
    card: PolicyCard,
    limits: schema.WatchdogSettings,
    stopped: Callable[[], bool],
    *,
    isolate: bool,
) -> None:
    """Append an environment that restarts after a fault; only the first isolated one is started."""
    rng = random.Random(0)
    if isolate and not offer.vector:
        isolated = IsolatedEnvironment(id, offer, card.spec, limits, stopped=stopped, rng=rng)
        if not environments:
            start(isolated, stopped)  # the others start while this one plays
        environments.append(isolated)
        return

    any_reward = msgspec.structs.replace(offer, largest_reward=LARGEST_REWARD)

    def again() -> SingleEnvironment:
        return open_offer(id, any_reward, masked=MASK in card.spec.obs)

    first = again()
    if different := difference(first.spec, card.spec):
        first.close()
        raise EnvironmentFault(f"{id}: is not the environment of the policy: {different}")
    made = iter([first])
    environments.append(
        InProcessEnvironment(lambda _: next(made, None) or again(), limits, rng=rng)
    )


def _close(environments: list[PlayableEnvironment]) -> None:
    for environment in environments:
        try:
            environment.close()
        except EnvironmentFault as fault:
            log.warning("close: %s", fault)


class _Games:
    """Environments side by side, each with an episode of its own."""

    def __init__(
        self,
        actor: Actor,
        card: PolicyCard,
        environments: list[PlayableEnvironment],
        limit: int,
        most_faults: int,
    ) -> None:
        """Prepare to play.

        Args:
            actor: The policy.
            card: Its description.
            environments: The environments.
            limit: Steps after which an environment truncates an episode; 0: none.
            most_faults: Faults in a row, without an episode that ends, after which an environment
                is given up.
        """
        count = len(environments)
        self.played: dict[int, Episode] = {}
        self.left_out = 0
        self.faults: Counter[str] = Counter()
        self.last_fault = ""
        self._actor = actor
        self._card = card
        self._environments = environments
        self._obs = {name: zeros(leaf, count) for name, leaf in card.spec.obs.items()}
        self._memory = {name: zeros(leaf, count) for name, leaf in card.memory.items()}
        self._rng = np.random.default_rng(0)  # greedy actions do not use it
        self._most_steps = max(_MOST_STEPS, limit)
        self._most_faults = max(_TRIES, most_faults)
        self._steps = [0] * count  # of the current episodes
        self._sums = [0.0] * count  # of their rewards
        self._alive = dict.fromkeys(range(count), 0)  # environments, and their faults in a row
        self._playing: dict[int, int] = {}  # the episode of each environment
        self._queue: deque[int] = deque()  # episodes to play
        self._tries: Counter[int] = Counter()  # of episodes that broke

    def play(
        self, episodes: int, seed: int, stopped: Callable[[], bool], progress: Progress
    ) -> None:
        """Play all episodes; see ``evaluate``."""
        self._queue.extend(range(episodes))
        while not stopped():
            for index in [*self._alive]:
                if self._queue and index not in self._playing:
                    self._begin(index, seed)
            if self._playing:
                before = len(self.played)
                self._advance()
                if len(self.played) > before:
                    progress(len(self.played))
            elif not self._queue or not self._alive:
                break
        if not stopped():
            self.left_out += len(self._queue)

    def evaluation(self) -> Evaluation:
        """Return the result of what was played."""
        played = [episode for _, episode in sorted(self.played.items())]
        return summarised(played, self.left_out, self.faults)

    def _begin(self, index: int, seed: int) -> None:
        """Begin the next episode in an environment, if that is ready."""
        episode = self._queue[0]
        try:
            if not self._environments[index].ready(0.0 if self._playing else SLICE):
                return
            self._reset(index, seed + episode)
        except EnvironmentFault as fault:
            self._queue.popleft()
            self._broke(index, episode, fault)
        else:
            self._playing[index] = self._queue.popleft()

    def _advance(self) -> None:
        """Take a step in each environment that plays."""
        actions = self._act()
        for index, episode in list(self._playing.items()):
            try:
                outcome = self._step(index, actions[index])
            except EnvironmentFault as fault:
                del self._playing[index]
                self._broke(index, episode, fault)
                continue
            self._sums[index] += outcome.reward
            self._steps[index] += 1
            if outcome.terminated or outcome.truncated:
                del self._playing[index]
                self._alive[index] = 0
                self.played[episode] = self._summary(index, episode, outcome)
            elif self._steps[index] >= self._most_steps:
                raise EnvironmentFault(
                    f"{self._environments[index].name}: an episode has not ended after "
                    f"{self._most_steps} steps; set environment.max_episode_steps"
                )

    def _broke(self, index: int, episode: int, error: EnvironmentFault) -> None:
        """Put an episode back, and give up what has failed too often."""
        fault = error.fault if isinstance(error, EnvironmentBroken) else None
        if fault is None and isinstance(error, EnvironmentBroken):  # the user wants to stop
            self._queue.appendleft(episode)
            return
        self.last_fault = str(error)
        self.faults[fault.kind if fault else "crash"] += 1
        self._alive[index] += 1
        if fault is None or self._alive[index] >= self._most_faults:
            del self._alive[index]
            log.warning("plays %d side by side, as %s", len(self._alive), error)
        self._tries[episode] += 1
        if self._tries[episode] < _TRIES:
            self._queue.append(episode)
        else:
            self.left_out += 1

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
        self._steps[index], self._sums[index] = 0, 0.0
        for memory in self._memory.values():
            memory[index] = 0

    def _summary(self, index: int, episode: int, outcome: StepResult) -> Episode:
        """Return the summary of an episode that has just ended."""
        card = self._card
        return Episode(
            generation=card.generation,
            version=card.version,
            episode=episode,
            reward=self._sums[index],
            steps=self._steps[index],
            seconds=0.0,  # of this machine, which says nothing about the policy
            terminated=outcome.terminated,
            greedy=True,
            epsilon=0.0,
            info=numbers(self._environments[index].info, card.environment.info_keys),
        )

    def _step(self, index: int, action: Array) -> StepResult:
        rows = {name: leaf[index, ...] for name, leaf in self._obs.items()}
        given = to_environment(self._card.head, self._card.spec.action, action)
        return self._environments[index].step(given, rows)
