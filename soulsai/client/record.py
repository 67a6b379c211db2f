"""Episodes played by a policy or a person, recorded as a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from soulsai.client.actor import Actor
from soulsai.client.creation import make
from soulsai.client.environment import LARGEST_SEED, AdaptedEnvironment
from soulsai.client.environment_offer import difference
from soulsai.client.human_input import HumanInput
from soulsai.client.own_values import numbered, with_own
from soulsai.client.take_over import argument_of
from soulsai.config import schema
from soulsai.datasets.episodes import EpisodeDataset, RecordedEpisode, infos_of
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.heads import act, to_environment_rows
from soulsai.types import MASK, Array, zeros

MOST_STEPS = 50_000  # of an episode; longer ones count as endless


class Chooser(Protocol):
    """A source of actions."""

    def begin(self) -> None:
        """Prepare for the first observation of an episode."""
        ...

    def choose(self, rows: dict[str, Array]) -> Array:
        """Return the row of an action, in units of the environment, for one observation."""
        ...


class PolicyChooser:
    """The greedy actions of a ``policy.onnx``.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._actor, self.card = Actor.from_file(path)
        self._rng = np.random.default_rng(0)  # greedy actions do not use it
        self.begin()

    def begin(self) -> None:
        """Forget the episode before."""
        self._memory = {name: zeros(leaf, 1) for name, leaf in self.card.memory.items()}

    def choose(self, rows: dict[str, Array]) -> Array:
        """Return the best action for one observation."""
        card, obs = self.card, {name: row[None] for name, row in rows.items()}
        outputs, self._memory = self._actor(obs, self._memory)
        actions, _ = act(
            card.head,
            card.spec.action,
            outputs,
            mask=obs.get(MASK),
            greedy=np.ones(1, np.bool_),
            epsilon=np.zeros(1),
            random=0.0,
            rng=self._rng,
        )
        row: Array = to_environment_rows(card.head, card.spec.action, actions)[0]
        return row


class FunctionChooser:
    """A function that maps an observation to an action, as the environment gives and takes them.

    An observation of one leaf is an array, of several a dict of arrays by name.

    Args:
        function: The function.
        environment: The environment.
    """

    def __init__(self, function: Callable[[Any], Any], environment: AdaptedEnvironment) -> None:
        self._function, self._environment = function, environment
        self._names = [name for name in environment.spec.obs if name != MASK]

    def begin(self) -> None:
        """Do nothing."""

    def choose(self, rows: dict[str, Array]) -> Array:
        """Return the function's action; raise ``ConfigError`` if it is none."""
        seen = {name: rows[name].copy() for name in self._names}
        observation = seen if len(seen) > 1 else seen[self._names[0]]
        try:
            return self._environment.action_row(self._function(observation))
        except ValueError as error:
            raise ConfigError(f"--policy: its action {error}") from None


class HumanChooser:
    """The actions of a person, who sees each frame before the next action.

    Args:
        source: The keyboard or gamepad.
        frame: Returns the environment's picture.
        wait: Waits until the next frame is due.
    """

    def __init__(
        self, source: Any, frame: Callable[[], Array | None], wait: Callable[[], object]
    ) -> None:
        self._source: HumanInput = source
        self._idle: Array = source.idle
        self._frame, self._wait = frame, wait

    def begin(self) -> None:
        """Show the first observation."""
        self._source.show(self._frame(), person=True)

    def choose(self, rows: dict[str, Array]) -> Array:
        """Show the present frame, and return the action of the person."""
        del rows
        self._source.show(self._frame(), person=True)
        self._wait()
        chosen = self._source.poll()
        return self._idle if chosen is None else chosen


def open_recorded(
    environment: schema.EnvironmentSettings, own: schema.ClientSettings, *, pictures: bool
) -> tuple[AdaptedEnvironment, Any]:
    """Make an environment to record; return it adapted, and as it is.

    Args:
        environment: The settings of the environment.
        own: The settings of a client on this machine.
        pictures: Whether the environment draws pictures for a person.
    """
    offer = numbered(with_own(environment.offer, own).last, 0)
    kwargs = offer.kwargs | ({"render_mode": "rgb_array"} if pictures else {})
    env = make(environment.id, kwargs, offer.max_episode_steps, offer.wrappers)

    def adapted(masked: bool) -> AdaptedEnvironment:
        return AdaptedEnvironment(
            env,
            environment.id,
            mask_key=offer.mask_key,
            masked=masked,
            largest_reward=offer.largest_reward,
        )

    opened = adapted(masked=False)
    try:
        return (adapted(masked=True) if opened.gives_mask(LARGEST_SEED) else opened), env
    except BaseException:
        opened.close()
        raise


def check_policy(environment: AdaptedEnvironment, chooser: PolicyChooser) -> None:
    """Raise ``ConfigError`` if a policy does not fit an environment."""
    if different := difference(environment.spec, chooser.card.spec):
        raise ConfigError(f"--policy: does not play {environment.name}: {different}")


def record(
    environment: AdaptedEnvironment,
    chooser: Chooser,
    *,
    episodes: int,
    seed: int,
    stopped: Callable[[], bool],
    progress: Callable[[int], None] = lambda _: None,
) -> EpisodeDataset:
    """Play whole episodes; the i-th one begins with ``reset(seed=seed + i)``.

    Args:
        environment: The environment.
        chooser: Chooses the actions.
        episodes: The number of episodes.
        seed: The seed of the first one.
        stopped: Whether to end early, without the unfinished episode.
        progress: Is called with the number of finished episodes.
    """
    recorded: list[RecordedEpisode] = []
    while len(recorded) < episodes:
        episode = _episode(environment, chooser, seed + len(recorded), stopped)
        if episode is None:
            break
        recorded.append(episode)
        progress(len(recorded))
    return EpisodeDataset(environment.spec, recorded, environment.name, environment.name)


def _episode(
    environment: AdaptedEnvironment, chooser: Chooser, seed: int, stopped: Callable[[], bool]
) -> RecordedEpisode | None:
    spec = environment.spec
    rows = {name: zeros(leaf) for name, leaf in spec.obs.items()}
    environment.reset(rows, seed)
    chooser.begin()
    seen, infos = [_copied(rows)], [dict(environment.info)]
    actions: list[Array] = []
    rewards: list[float] = []
    while len(actions) < MOST_STEPS:
        if stopped():
            return None
        action = chooser.choose(rows)
        outcome = environment.step(argument_of(spec.action, action), rows)
        actions.append(np.asarray(action).reshape(spec.action.shape))
        rewards.append(outcome.reward)
        seen.append(_copied(rows))
        infos.append(dict(environment.info))
        if outcome.terminated or outcome.truncated:
            return RecordedEpisode(
                obs={name: np.stack([row[name] for row in seen]) for name in spec.obs},
                action=np.stack(actions).astype(spec.action.leaf.dtype),
                reward=np.array(rewards),
                terminated=outcome.terminated,
                truncated=outcome.truncated,
                infos=infos_of(infos),
                seed=seed,
            )
    raise EnvironmentFault(
        f"{environment.name}: an episode has not ended after {MOST_STEPS} steps; set "
        "environment.max_episode_steps"
    )


def _copied(rows: dict[str, Array]) -> dict[str, Array]:
    return {name: row.copy() for name, row in rows.items()}
