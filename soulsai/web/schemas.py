"""The types of the API's answers; its documentation is generated from them."""

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

from soulsai.types import ClientStatus

Row = dict[str, float | str | None]


class Metric(Struct, frozen=True):
    """A metric of `/series`; its name may end in `_mean`, `_low` or `_high`."""

    name: str
    unit: str
    description: str
    source: Literal["episodes", "training"]


class RunRow(Struct, frozen=True):
    """One run, by the files in its folder."""

    run: str
    live: bool  # the run in progress
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
    """One client in the training node, and its episodes; times are in seconds."""

    episodes: int
    reward_mean: float | None  # of all its episodes
    recent_mean: float | None  # of its last 20
    greedy_mean: float | None  # of its greedy episodes


class VersionRow(Struct, frozen=True):
    """The episodes of one version of the weights; means of rewards per episode."""

    generation: int
    version: int
    env_steps: int  # at the end of its last episode
    episodes: int
    reward_mean: float | None  # of exploring episodes
    greedy_episodes: int
    greedy_mean: float | None  # of greedy episodes
    steps_mean: float


class EvaluationRow(Struct, frozen=True):
    """The evaluation of one model, with 95 % intervals; see `evaluations.jsonl`."""

    number: int
    model: str
    time: str
    generation: int
    version: int
    env_steps: int
    verdict: str
    regressed: bool  # far worse than the best model
    by: Literal["evaluator", "clients"]
    metric: str
    mean: float
    low: float
    high: float
    iqm: float
    iqm_low: float
    iqm_high: float
    episodes: int


class RecordingRow(Struct, frozen=True):
    """One recorded episode of an evaluated model."""

    model: str
    number: int  # of the evaluation
    generation: int
    version: int
    env_steps: int
    mean: float  # of the model's evaluation
    seed: int
    video: str
    trace: str


class ContributorRow(Struct, frozen=True):
    """What one client has played; the name is all that is known of it."""

    rank: int
    client: str
    env_steps: int
    share: float  # of the env steps of all clients
    episodes: int
    hours: float  # in which it has played
    uptime: float  # share of the time from its first episode to its last in which it has played
    runs: int


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
    score: float | None  # the average reward at that time
    bytes: int
    fault: str  # empty if all files are there in the right size
    files: tuple[File, ...]


class EventRow(Struct, frozen=True):
    """One line of the journal."""

    number: int
    time: str
    kind: str
    text: str
    who: str


class CommandOutcome(Struct, frozen=True):
    """The result of a command; after `unanswered`, it may still take effect."""

    command: str
    state: Literal["done", "refused", "unanswered"]
    message: str
    invite: str = ""  # secret, for `soulsai client --invite`; of an enrolled client only


class Session(Struct, frozen=True):
    """The rights of the request."""

    role: Literal["operator", "viewer", ""]
    token_needed: bool
    enroll: bool  # whether clients can be enrolled from here
    software: str


class Health(Struct, frozen=True):
    """The state of the page; `training` tells whether a training node is alive."""

    status: str
    training: bool


class Difference(Struct, frozen=True):
    """One setting in which runs differ, by run."""

    setting: str
    values: dict[str, Any]


class SeedGroup(Struct, frozen=True):
    """Runs that differ in their seed only, and the statistics of their curves."""

    runs: tuple[str, ...]
    rows: list[Row]


class RunComparison(Struct, frozen=True):
    """Several runs over one axis."""

    metric: str
    x: str
    groups: list[SeedGroup]
    differences: list[Difference]


class Problem(Struct, frozen=True):
    """The reason of a refusal, in one line for a person."""

    detail: str


def iso(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 with milliseconds, in UTC."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
