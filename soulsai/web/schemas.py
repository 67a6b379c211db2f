"""What the API answers, as types; its documentation is generated from them."""

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

from soulsai.types import ClientStatus

Row = dict[str, float | str | None]


class Metric(Struct, frozen=True):
    """A number that can be asked for as a series; ``_mean``, ``_low``, ``_high`` may follow."""

    name: str
    unit: str
    description: str
    source: Literal["episodes", "training"]


class RunRow(Struct, frozen=True):
    """One run, as far as its folder tells."""

    run: str
    live: bool  # the one that is followed now
    phase: str
    algorithm: str
    environment: str
    seed: int | None
    started: str
    env_steps: int
    max_env_steps: int
    updates: int
    episodes: int
    seconds: float
    reward_mean: float | None
    best: float | None  # the best average


class ClientRow(ClientStatus, frozen=True, kw_only=True):
    """One client, as the training node sees it, and its episodes; times are in seconds."""

    episodes: int
    reward_mean: float | None  # of all its episodes
    recent_mean: float | None  # of its last 20
    greedy_mean: float | None  # of those without exploration


class VersionRow(Struct, frozen=True):
    """What came of one version of the weights; means of rewards per episode."""

    generation: int
    version: int
    env_steps: int  # when its last episode ended
    episodes: int
    reward_mean: float | None  # of exploring episodes
    greedy_episodes: int
    greedy_mean: float | None  # of those without exploration
    steps_mean: float


class File(Struct, frozen=True):
    """One file of a saved model."""

    name: str
    bytes: int
    sha256: str


class Model(Struct, frozen=True):
    """One saved state of a run: the best weights, a checkpoint or a quicksave."""

    model: str
    kind: Literal["best", "checkpoint", "manual"]
    time: str
    generation: int | None
    version: int | None
    env_steps: int | None
    updates: int | None
    score: float | None  # the average reward when it was saved
    bytes: int
    fault: str  # empty if all files are there in the right size
    files: tuple[File, ...]


class EventRow(Struct, frozen=True):
    """One line of the audit."""

    number: int
    time: str
    kind: str
    text: str
    who: str


class CommandOutcome(Struct, frozen=True):
    """What became of a command; ``unanswered`` is no promise that it was not carried out."""

    command: str
    state: Literal["done", "refused", "unanswered"]
    message: str
    invite: str = ""  # of a client that was enrolled: for `soulsai client --invite`; it is secret


class Session(Struct, frozen=True):
    """Who is asking, as far as rights go."""

    role: Literal["operator", "viewer", ""]
    token_needed: bool
    software: str


class Health(Struct, frozen=True):
    """That the page is served, and whether a training node is heard of."""

    status: str
    training: bool


class Difference(Struct, frozen=True):
    """One setting in which runs differ; by run."""

    setting: str
    values: dict[str, Any]


class SeedGroup(Struct, frozen=True):
    """Runs that differ in nothing but their seed, and what their curves have in common."""

    runs: tuple[str, ...]
    rows: list[Row]


class RunComparison(Struct, frozen=True):
    """Several runs over one axis."""

    metric: str
    x: str
    groups: list[SeedGroup]
    differences: list[Difference]


class Problem(Struct, frozen=True):
    """Why a request was refused, in one line for a person."""

    detail: str


def iso(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 with milliseconds, in UTC."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
