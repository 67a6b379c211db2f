"""What a run came to: the few numbers shown at its end, and kept as ``summary.json``."""

import json
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.types import Status

FILE = "summary.json"


class Summary(Struct, frozen=True):
    """A run in numbers; rates are means over the time in which it trained."""

    run: str  # its folder
    phase: str  # "ended", or where it was when it was stopped
    env_steps: int  # admitted
    updates: int
    episodes: int
    wall_seconds: float  # of this start, from the command to the end
    reward_mean: float | None  # of the last episodes
    best_reward: float | None  # of a single episode
    admitted: int  # env steps
    rejected: dict[str, int]  # messages by reason
    duplicates: int  # messages
    lost: int  # env steps
    bytes_per_transition: float | None
    env_steps_per_second: float
    updates_per_second: float
    replay_ratio: float


def summarise(folder: Path, status: Status, wall_seconds: float) -> Summary:
    """Return the summary of a run whose training node left this status."""
    seconds = status.seconds or wall_seconds
    return Summary(
        run=str(folder),
        phase=status.phase,
        env_steps=status.env_steps,
        updates=status.updates,
        episodes=status.episodes,
        wall_seconds=round(wall_seconds, 3),
        reward_mean=status.reward_mean,
        best_reward=best_reward(folder / "results.jsonl"),
        admitted=status.env_steps,
        rejected=status.rejected,
        duplicates=status.duplicates,
        lost=status.lost,
        bytes_per_transition=_ratio(status.bytes_received, status.env_steps),
        env_steps_per_second=round(status.env_steps / max(seconds, 1e-9), 3),
        updates_per_second=round(status.updates / max(seconds, 1e-9), 3),
        replay_ratio=status.replay_ratio,
    )


def best_reward(results: Path) -> float | None:
    """Return the highest reward in the record of episodes, all its parts, if there is one."""
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
    """Return the summary as rows for a person: what, and how much."""
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.rejected.items()))
    rows = [
        ("run", summary.run),
        ("env steps", f"{summary.env_steps:,}  ({summary.env_steps_per_second:,.0f}/s)"),
        ("updates", f"{summary.updates:,}  ({summary.updates_per_second:,.0f}/s)"),
        ("replay ratio", f"{summary.replay_ratio:.2f}"),
        ("episodes", f"{summary.episodes:,}"),
        ("reward", _number(summary.reward_mean) + " (mean of the last episodes)"),
        ("best reward", _number(summary.best_reward) + " (one episode)"),
        ("rejected", rejected or "none"),
        ("duplicates, lost", f"{summary.duplicates:,} messages, {summary.lost:,} env steps"),
        ("bytes/transition", _number(summary.bytes_per_transition)),
        ("time", clock(summary.wall_seconds)),
    ]
    return [(what, text) for what, text in rows if text]


def clock(seconds: float) -> str:
    """Return seconds as ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _number(value: float | None) -> str:
    return "none yet" if value is None else f"{value:,.1f}"


def _ratio(amount: float, of: int) -> float | None:
    return round(amount / of, 3) if of else None


def _reward(line: bytes) -> float | None:
    # The telemetry node may have been killed in the middle of its last line.
    try:
        record = json.loads(line)
        return float(record["reward"])
    except (ValueError, KeyError, TypeError):
        return None
