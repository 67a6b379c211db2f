"""Numbers of each episode that the settings define: a value, a comparison, or a timer.

``win: reward > 200`` is 1 or 0, ``fell: info.fell`` is a number of the last step's info, and
``hours: timer / 3600`` are the hours since the run's first episode.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from soulsai.errors import ConfigError
from soulsai.types import Episode

TIMER = "timer"
INFO = "info."
MOST = 16  # measures in one run
MOST_INFO = 32  # numbers of the last info that travel with an episode
FIELDS = ("reward", "steps", "seconds", "epsilon", "greedy", "terminated", "version", "env_steps")
BEST = ("reward", "steps", "seconds")  # by which models are compared, beside the measures
RESERVED = {*Episode.__struct_fields__, "id", "gap", "number", "sample", "metrics", TIMER}

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TEXT = re.compile(
    r"\s*(?P<value>[A-Za-z_][\w.-]{0,63})\s*(?:(?P<operator>>=|<=|==|!=|>|<|/)\s*"
    r"(?P<number>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*)?"
)
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
    "==": operator.eq, "!=": operator.ne, "/": operator.truediv,
}  # fmt: skip


class Measure(Struct, frozen=True):
    """One number of each episode."""

    name: str
    text: str
    value: str  # a field of the episode, the timer, or a key of its info after ``info.``
    operator: str = ""  # one of > >= < <= == != /, if any
    number: float = 0.0


def measure(name: str, text: str) -> Measure:
    """Return the measure that a setting defines; raise ``ConfigError`` if it cannot be read."""
    where = f"telemetry.metrics.{name[:64]}"
    if not _NAME.fullmatch(name) or name.endswith(("_mean", "_low", "_high")):
        raise ConfigError(
            f"{where}: is not a name; use a-z, 0-9 and _, and no _mean, _low or _high"
        )
    if name in RESERVED:
        raise ConfigError(f"{where}: this name is taken; choose another")
    found = _TEXT.fullmatch(text)
    try:
        number = float(found["number"] or 0) if found else math.nan
    except ValueError:
        number = math.nan
    if found is None or math.isnan(number) or (found["operator"] == "/" and not number):
        raise ConfigError(
            f"{where}: {text[:80]!r} cannot be read; write for example `reward > 200`, "
            "`info.score`, `steps / 60` or `timer`"
        )
    value = found["value"]
    if value not in (*FIELDS, TIMER) and not value.startswith(INFO):
        value = INFO + value
    return Measure(name, " ".join(text.split()), value, found["operator"] or "", number)


def measures(settings: Mapping[str, str]) -> tuple[Measure, ...]:
    """Return the measures that settings define, from names to texts."""
    if len(settings) > MOST:
        raise ConfigError(f"telemetry.metrics: {len(settings)} are too many; at most {MOST}")
    return tuple(measure(name, text) for name, text in settings.items())


def for_run(settings: Mapping[str, str], environment: str) -> tuple[Measure, ...]:
    """Return the measures of a run, with ``win`` where Gymnasium gives a reward that solves it."""
    if "win" in settings or len(settings) >= MOST:
        return measures(settings)
    from gymnasium import registry  # takes a moment, which a client's settings need not wait for

    known = registry.get(environment)
    threshold = known.reward_threshold if known else None
    solved = {} if threshold is None else {"win": f"reward >= {threshold:g}"}
    return measures({**solved, **settings})


def info_keys(some: Iterable[Measure]) -> tuple[str, ...]:
    """Return the keys of the info that clients must send for these measures."""
    keys = (one.value.removeprefix(INFO) for one in some if one.value.startswith(INFO))
    return tuple(dict.fromkeys(keys))


def asked_info(asked: Iterable[str], metrics: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of the info that clients send.

    Args:
        asked: ``environment.info_keys``.
        metrics: ``telemetry.metrics``, from names to texts.
    """
    return tuple(dict.fromkeys((*asked, *info_keys(measures(metrics)))))


def faults(metrics: Mapping[str, str], best: str, asked: Iterable[str]) -> Iterator[str]:
    """Yield each mistake in settings.

    Args:
        metrics: ``telemetry.metrics``, from names to texts.
        best: ``telemetry.best_metric``.
        asked: ``environment.info_keys``.
    """
    known = measures(metrics)
    if best not in (*BEST, "win", *(one.name for one in known)):
        yield f"telemetry.best_metric: {best!r}; choose {', '.join(BEST)} or one of the metrics"
    keys = {*asked, *info_keys(known)}
    if len(keys) > MOST_INFO or any(len(key) > 64 for key in keys):
        yield f"environment.info_keys: at most {MOST_INFO} keys of 64 letters, metrics' included"


class Meter:
    """Computes the measures of one episode after the other."""

    def __init__(self, some: Iterable[Measure] = ()) -> None:
        self.measures = tuple(some)
        self._parts = [_part(one) for one in self.measures]
        self._began: float | None = None

    def __call__(self, episode: Episode) -> dict[str, float]:
        """Return an episode's numbers by name, without those that need a missing info."""
        if self._began is None:
            self._began = episode.time
        row = {}
        for name, value in self._parts:
            number = value(episode, self._began)
            if number is not None:
                row[name] = number
        return row


Value = Callable[[Episode, float], float | None]


def _part(one: Measure) -> tuple[str, Value]:
    raw = _raw(one.value)
    if not one.operator:
        return one.name, raw
    judge, bound = _OPERATORS[one.operator], one.number

    def judged(episode: Episode, began: float) -> float | None:
        number = raw(episode, began)
        return None if number is None else float(judge(number, bound))

    return one.name, judged


def _raw(value: str) -> Value:
    if value == TIMER:
        return lambda episode, began: episode.time - began
    if value.startswith(INFO):
        key = value.removeprefix(INFO)
        return lambda episode, _: episode.info.get(key)
    field = operator.attrgetter(value)
    return lambda episode, _: float(field(episode))
