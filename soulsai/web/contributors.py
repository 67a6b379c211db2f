"""What each client has contributed to a run, and to all runs: env steps, episodes and hours."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.web.journal import RESULTS, Follower, parts
from soulsai.web.schemas import ContributorRow

MOST_CONTRIBUTORS = 4096  # of one run; beyond, those silent longest are left out
SECONDS_PER_HOUR = 3600.0


class Playtime(Struct):
    """The finished episodes of one client in one run."""

    env_steps: int = 0
    episodes: int = 0
    seconds: float = 0.0  # in which it has played, whatever number of environments at a time
    span: float = 0.0  # from the begin of its first episode to the end of its last
    runs: int = 1


class _Played(Struct, frozen=True):
    """The part of an episode that says who has contributed how much."""

    client: str
    steps: int
    seconds: float
    time: float


class _Account(Struct):
    contribution: Playtime
    began: float
    until: float  # the end of what is counted in ``seconds``


_decoder = msgspec.json.Decoder(_Played)


class ContributionReader:
    """Follow the record of one run and add up the episodes of each client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = Follower(folder / RESULTS)
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._is_new = True

    def read(self) -> dict[str, Playtime]:
        """Return the contributions by client."""
        lines, anew = self._file.fresh()
        if anew or self._is_new:  # the record begins, or goes on in another file
            self._accounts.clear()
            self._is_new = False
            for path in parts(self._folder)[:-1]:
                self._take(path.read_bytes().splitlines())
        self._take(lines)
        return {name: account.contribution for name, account in self._accounts.items()}

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                played = _decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            self._add(played)

    def _add(self, played: _Played) -> None:
        began = played.time - max(0.0, played.seconds)
        account = self._accounts.setdefault(played.client, _Account(Playtime(), began, began))
        self._accounts.move_to_end(played.client)
        mine = account.contribution
        mine.env_steps += played.steps
        mine.episodes += 1
        # Environments side by side play at the same time, which counts once.
        mine.seconds += max(0.0, played.time - max(began, account.until))
        account.until = max(account.until, played.time)
        mine.span = account.until - account.began
        if len(self._accounts) > MOST_CONTRIBUTORS:
            self._accounts.popitem(last=False)


def together(runs: Iterable[dict[str, Playtime]]) -> dict[str, Playtime]:
    """Return the contributions to all runs, by client."""
    found: dict[str, Playtime] = {}
    for contributions in runs:
        for name, one in contributions.items():
            mine = found.setdefault(name, Playtime(runs=0))
            mine.env_steps += one.env_steps
            mine.episodes += one.episodes
            mine.seconds += one.seconds
            mine.span += one.span
            mine.runs += one.runs
    return found


def contributor_rows(contributions: dict[str, Playtime]) -> list[ContributorRow]:
    """Return the board: whoever has played most env steps comes first."""
    total = sum(one.env_steps for one in contributions.values()) or 1
    order = sorted(contributions.items(), key=lambda pair: (-pair[1].env_steps, pair[0]))
    return [
        ContributorRow(
            rank=rank,
            client=name,
            env_steps=one.env_steps,
            share=one.env_steps / total,
            episodes=one.episodes,
            hours=one.seconds / SECONDS_PER_HOUR,
            uptime=min(1.0, one.seconds / one.span) if one.span > 0 else 0.0,
            runs=one.runs,
        )
        for rank, (name, one) in enumerate(order, 1)
    ]


def csv_rows(rows: Sequence[ContributorRow]) -> list[list[str | int | float]]:
    """Return the board as rows of a table, the header first."""
    names = ContributorRow.__struct_fields__
    return [list(names), *([getattr(row, name) for name in names] for row in rows)]
