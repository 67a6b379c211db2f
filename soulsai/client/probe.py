"""The spec of an environment, read by making and resetting it once."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from soulsai.client.creation import make, make_vector
from soulsai.client.environment import LARGEST_SEED, AdaptedEnvironment
from soulsai.client.environment_offer import difference
from soulsai.client.episode_videos import RENDER, EpisodeVideos
from soulsai.client.own_values import numbered, with_own
from soulsai.client.vector_environment import AdaptedVector, FirstOfVector
from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.heads import act, to_environment
from soulsai.types import ActionSpec, Array, EnvironmentOffer, Head, HeadKind, Kwargs, Spec

SingleEnvironment = AdaptedEnvironment | FirstOfVector
Made = TypeVar("Made", bound=AdaptedEnvironment | FirstOfVector)

log = logging.getLogger(__name__)

_NOTHING_OWN = schema.ClientSettings()


def probe(
    environment: schema.EnvironmentSettings,
    own: schema.ClientSettings = _NOTHING_OWN,
    trial: Callable[[SingleEnvironment], object] = lambda _: None,
) -> Spec:
    """Return an environment's spec, from its ``spec_file`` or by making and resetting it.

    Args:
        environment: The settings of the environment.
        own: The settings of a client on this machine, whose own values replace those.
        trial: Is called with the environment before it is closed.
    """
    if environment.spec_file:
        return _spec_from(Path(environment.spec_file))
    probed = open_environment(environment, own)
    try:
        trial(probed)
    finally:
        probed.close()
    check_schedule(environment, own, probed.spec)
    return probed.spec


def check_schedule(
    environment: schema.EnvironmentSettings,
    own: schema.ClientSettings,
    spec: Spec,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Make the environment of each stage once, and compare its spaces with those of the run.

    Args:
        environment: The settings of the environment.
        own: The settings of a client on this machine.
        spec: The spaces of the environment without a schedule.
        before: Is called before each is made.

    Raises:
        ConfigError: One of them cannot be made, or has other spaces; the message names the stage.
    """
    offer = environment.offer
    for begun, stage in enumerate(offer.schedule, 1):
        where = f"environment.schedule: from env step {stage.env_step}"
        kwargs = offer.at_stage(begun).kwargs
        before()
        try:
            at_stage = msgspec.structs.replace(environment, kwargs=kwargs, schedule=())
            opened = open_environment(at_stage, own)
            opened.close()
        except EnvironmentFault as fault:
            raise ConfigError(f"{where}: {fault}") from None
        if different := difference(opened.spec, spec):
            raise ConfigError(
                f"{where}: the spaces differ from those before ({different}); a schedule changes "
                "arguments that leave the spaces as they are"
            )


def open_environment(
    environment: schema.EnvironmentSettings, own: schema.ClientSettings
) -> SingleEnvironment:
    """Make an environment and reset it once, to find out whether it gives masks.

    Args:
        environment: The settings of the environment.
        own: The settings of a client on this machine, whose own values replace those.
    """
    offer = numbered(with_own(environment.offer, own), 0)
    opened = open_offer(environment.id, offer, masked=False, count=offer.count)
    try:
        if opened.gives_mask(LARGEST_SEED):
            return _masked(environment.id, offer, opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _masked(id: str, offer: EnvironmentOffer, opened: SingleEnvironment) -> SingleEnvironment:
    """Return an environment that reads masks from the info."""
    if isinstance(opened, AdaptedEnvironment):
        return opened.with_masks()
    opened.close()
    # The others of a vector could not take the same actions under their own masks.
    return open_offer(id, offer, masked=True)


def open_offer(
    id: str, offer: EnvironmentOffer, *, masked: bool, count: int = 1
) -> SingleEnvironment:
    """Make one environment as a run requests it.

    Args:
        id: The environment's id.
        offer: The run's request.
        masked: Whether the info holds an action mask.
        count: The environments of a vector, of which the first is played.
    """
    key, largest, limit = offer.mask_key, offer.largest_reward, offer.max_episode_steps
    if not offer.vector:
        env = make(id, offer.kwargs, limit, offer.wrappers)
        return AdaptedEnvironment(env, id, mask_key=key, masked=masked, largest_reward=largest)
    return FirstOfVector(open_vector(id, offer, masked=masked, count=count))


def with_pictures(
    make: Callable[[Kwargs], Made], kwargs: Kwargs, folder: str, keep: int, *, watched: bool = False
) -> Made:
    """Make an environment that draws pictures, or without them if it cannot.

    Args:
        make: Makes it with arguments.
        kwargs: The arguments.
        folder: The folder of the videos of its episodes; empty: none are wanted.
        keep: Videos that are kept.
        watched: Whether a person wants to see it; a render mode among the arguments is kept.
    """
    if not folder and ("render_mode" in kwargs or not watched):
        return make(kwargs)
    try:
        made = make(kwargs | {"render_mode": RENDER})
    except EnvironmentFault as fault:
        log.warning("no pictures, the play goes on: render_mode=%r: %s", RENDER, fault)
        return make(kwargs)
    if folder and isinstance(made, AdaptedEnvironment):
        made.videos = EpisodeVideos(Path(folder), keep)
    return made


def open_vector(id: str, offer: EnvironmentOffer, *, masked: bool, count: int) -> AdaptedVector:
    """Make environments that play many episodes at once.

    Args:
        id: The environment's id.
        offer: The run's request.
        masked: Whether the info holds an action mask.
        count: The number of episodes.
    """
    env = make_vector(id, offer.kwargs, count, offer.max_episode_steps, offer.wrappers)
    try:
        return AdaptedVector(
            env,
            id,
            mask_key=offer.mask_key,
            masked=masked,
            largest_reward=offer.largest_reward,
            most_steps=offer.max_episode_steps,
        )
    except EnvironmentFault:
        env.close()
        raise


def random_action(spec: ActionSpec, mask: Array | None, rng: np.random.Generator) -> Any:
    """Draw uniformly among the valid actions, which count from zero.

    Args:
        spec: The actions.
        mask: Valid choices [choices], or none if all are.
        rng: Randomness.
    """
    kinds: dict[str, HeadKind] = {"box": "scaled_gaussian", "hybrid": "hybrid"}
    head = Head(kinds.get(spec.kind, "categorical"))
    numbers, choices = np.zeros((1, len(spec.low))), np.zeros((1, sum(spec.sizes)))
    action, _ = act(
        head,
        spec,
        {"logits": choices, "mean": numbers, "log_std": numbers},
        mask=None if mask is None else mask[None],
        greedy=np.zeros(1, np.bool_),
        epsilon=np.ones(1),
        random=1.0,
        rng=rng,
    )
    return to_environment(head, spec, action[0])


def _spec_from(path: Path) -> Spec:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Spec)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"environment.spec_file: cannot read {path}: {error}") from None
