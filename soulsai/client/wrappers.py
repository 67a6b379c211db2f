"""Wrappers of an environment from settings: Gymnasium's by name, others as "module:Class"."""

import difflib
from collections.abc import Callable, Collection
from typing import Any

import gymnasium
from gymnasium import wrappers as gymnasium_wrappers

from soulsai.config.schema import ACTION_RANGE, LEAVE_OUT, PICTURES
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.types import EnvironmentOffer, Wrappers

Environment = gymnasium.Env[Any, Any]

# Gymnasium's wrappers that neither write files nor open windows, so that a server may request them
PERMITTED = frozenset((
    "AddRenderObservation", "AddWhiteNoise", "AtariPreprocessing", "ClipAction", "ClipReward",
    "DelayObservation", "DiscretizeAction", "DiscretizeObservation", "DtypeObservation",
    "FilterObservation", "FlattenObservation", "FrameStackObservation", "GrayscaleObservation",
    "MaxAndSkipObservation", "ObstructView", "RepeatAction", "RescaleAction", "RescaleObservation",
    "ReshapeObservation", "ResizeObservation", "StickyAction", "TimeAwareObservation", "TimeLimit",
    LEAVE_OUT, PICTURES, ACTION_RANGE,
))  # fmt: skip
_PRIVATE_STATISTICS = ("NormalizeObservation", "NormalizeReward")


def check_wrappers(offer: EnvironmentOffer, own: Wrappers, listed: Collection[str]) -> None:
    """Raise ``ConfigError`` if a server requests a wrapper that this client does not allow.

    Args:
        offer: The server's request.
        own: The wrappers in the client's own configuration.
        listed: The names that the client's own configuration allows.
    """
    for name in offer.wrappers:
        if name not in PERMITTED and name not in own and name not in listed:
            raise ConfigError(
                f"the server requests the wrapper {name!r}, which this client does not allow; add "
                "it to client.allowed_wrappers in config.yaml"
            )


def wrapped(
    env: Environment, wrappers: Wrappers, find: Callable[[str], Callable[..., Any] | str]
) -> Environment:
    """Return an environment inside its wrappers, the first of which is the innermost.

    Args:
        env: The environment.
        wrappers: The arguments of each wrapper, by name.
        find: Imports "module:Class" or "file.py:Class".

    Raises:
        EnvironmentFault: There is no such wrapper, or it cannot wrap this environment.
    """
    for name, arguments in wrappers.items():
        try:
            env = _class(name, find)(env, **arguments)
        except EnvironmentFault:
            raise
        except Exception as error:  # a wrapper may raise anything
            line = " ".join(f"{type(error).__name__}: {error}".split())
            raise EnvironmentFault(
                f"environment.wrappers: {name} cannot wrap it: {line}"
            ) from error
        if not isinstance(env, gymnasium.Env):
            raise EnvironmentFault(f"environment.wrappers: {name} gives no gymnasium.Env")
    return env


def _class(name: str, find: Callable[[str], Callable[..., Any] | str]) -> Callable[..., Any]:
    if name in _PRIVATE_STATISTICS:
        raise EnvironmentFault(
            f"environment.wrappers: {name} has statistics of its own in every client; leave it "
            "out, as the learner normalises itself"
        )
    if ":" not in name:
        if name in gymnasium_wrappers.__all__:
            wrapper: Callable[..., Any] = getattr(gymnasium_wrappers, name)
            return wrapper
        close = difflib.get_close_matches(name, gymnasium_wrappers.__all__, 1)
        hint = f"did you mean {close[0]}?" if close else "name others as module:Class"
        raise EnvironmentFault(f"environment.wrappers: Gymnasium has no wrapper {name!r}; {hint}")
    found = find(name)
    if isinstance(found, str):
        raise EnvironmentFault(f"environment.wrappers: {name} is an environment, not a wrapper")
    return found
