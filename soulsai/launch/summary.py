"""The summary of a run: the numbers shown at its end, and kept as ``summary.json``."""

import json
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.types import Status

FILE = "summary.json"


class Summary(Struct, frozen=True):
    """A run in numbers; rates are means over the time in which it trained."""

    run: str  # its folder
    phase: str  # "ended", or the phase in which it was stopped
    env_steps: int  # admitted
    updates: int
    episodes: int
    wall_seconds: float  # of this start, from the command to the end
    training_seconds: float  # of all starts, over which the rates are means
    reward_mean: float | None  # of the last episodes
    best_reward: float | None  # of a single episode
    admitted: int  # env steps
    rejected: dict[str, int]  # messages by reason
    duplicates: int  # messages
    lost: int  # env steps that never arrived
    bytes_per_transition: float | None
    env_steps_per_second: float
    updates_per_second: float
    replay_ratio: float
    dropped: int = 0  # env steps that clients threw away
    restarts: int = 0  # of environments
    faults: dict[str, int] = {}  # of environments, by kind


def summarise(folder: Path, status: Status, wall_seconds: float) -> Summary:
    """Return the summary of a run.

    Args:
        folder: The folder of the run.
        status: The last status of its training node.
        wall_seconds: The time since the command.
    """
    seconds = max(status.seconds or wall_seconds, 1e-9)
    sent = status.bytes_received / status.env_steps if status.env_steps else None
    return Summary(
        run=str(folder),
        phase=status.phase,
        env_steps=status.env_steps,
        updates=status.updates,
        episodes=status.episodes,
        wall_seconds=round(wall_seconds, 3),
        training_seconds=round(status.seconds, 3),
        reward_mean=status.reward_mean,
        best_reward=best_reward(folder / "results.jsonl"),
        admitted=status.env_steps,
        rejected=status.rejected,
        duplicates=status.duplicates,
        lost=status.lost,
        bytes_per_transition=None if sent is None else round(sent, 3),
        env_steps_per_second=round(status.env_steps / seconds, 3),
        updates_per_second=round(status.updates / seconds, 3),
        replay_ratio=status.replay_ratio,
        dropped=status.dropped,
        restarts=status.restarts,
        faults=status.faults,
    )


def best_reward(results: Path) -> float | None:
    """Return the highest reward in all parts of the record of episodes, if there is one."""
    best: float | None = None
    for part in sorted(results.parent.glob(f"{results.stem}*{results.suffix}")):
        with part.open("rb") as lines:
            for line in lines:
                reward = _reward(line)
                if reward is not None and (best is None or reward > best):
                    best = reward
    return best


def save(folder: Path, summary: Summary) -> None:
    """Write the summary into its run folder."""
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")


def table(summary: Summary) -> list[tuple[str, str]]:
    """Return the summary as rows of a name and a value."""
    faults = _listed(summary.faults)
    return [
        ("run", summary.run),
        ("env steps", f"{summary.env_steps:,}  ({summary.env_steps_per_second:,.0f}/s)"),
        ("updates", f"{summary.updates:,}  ({summary.updates_per_second:,.0f}/s)"),
        ("replay ratio", f"{summary.replay_ratio:.2f}"),
        ("episodes", f"{summary.episodes:,}"),
        ("reward", _number(summary.reward_mean) + " (mean of the last episodes)"),
        ("best reward", _number(summary.best_reward) + " (one episode)"),
        ("environments", f"{counted(summary.restarts, 'restart')}, faults: {faults}"),
        ("rejected", _listed(summary.rejected)),
        ("dropped", f"{counted(summary.dropped, 'env step')} by clients or the learner"),
        ("lost", f"{counted(summary.lost, 'env step')} on the way"),
        ("duplicates", counted(summary.duplicates, "message")),
        ("bytes/transition", _number(summary.bytes_per_transition)),
        ("time", f"{clock(summary.wall_seconds)} from the command to the end"),
        ("trained", f"{clock(summary.training_seconds)} in all starts; rates are means over it"),
    ]


def clock(seconds: float) -> str:
    """Return seconds as ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where needed."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def _number(value: float | None) -> str:
    return "none yet" if value is None else f"{value:,.1f}"


def _reward(line: bytes) -> float | None:
    # The last line may be cut, if the telemetry node was killed while writing it.
    try:
        record = json.loads(line)
        return float(record["reward"])
    except (ValueError, KeyError, TypeError):
        return None
