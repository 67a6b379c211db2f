"""A run on a terminal: a live view, or plain lines where the output is a file or a pipe."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol, TextIO

from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from soulsai.launch.summary import clock, counted
from soulsai.types import ClientStatus, Status

LINE_SECONDS = 10.0  # between two plain lines
ALONE_SECONDS = 60.0  # without any client, after which a run says so
NOTICES = 4  # shown at once
CLIENTS = 16  # rows shown
WIDE = 100  # columns from which the table of clients is complete
HISTORY = 2000  # rewards kept for the chart
GOOD, BAD, WARN, FAINT = "green", "bold red", "yellow", "dim"
BARS = "▁▂▃▄▅▆▇█"

# A client in step has played all that the learner allows for now: it waits for new weights.
STATES = {"active": "active", "waiting": "in step", "lost": "lost", "quarantine": "kept out"}


class Scene(Struct, frozen=True):
    """The state of a run at one moment."""

    elapsed: float  # seconds since the command
    headline: str  # environment and algorithm
    status: Status | None = None
    doing: str = "starting"  # until there is a status
    page: str = ""  # the address of the page, or the reason why there is none yet
    restarting: tuple[str, ...] = ()  # processes about to be restarted
    notices: tuple[str, ...] = ()
    hint: str = "Ctrl-C saves and stops."


class RunView(Protocol):
    """A display of scenes."""

    def show(self, scene: Scene) -> None:
        """Show this scene in place of the one before."""

    def close(self) -> None:
        """Give the terminal back."""


class QuietView:
    """Shows nothing."""

    def show(self, scene: Scene) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


def view_for(stream: TextIO) -> RunView:
    """Return the live view for a terminal, or plain lines for anything else."""
    return LiveView(Console(file=stream)) if stream.isatty() else PlainView(stream)


class LiveView:
    """Redraws one screen in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rewards: list[float] = []
        # Without a thread of its own: it is drawn when there are news.
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)

    def show(self, scene: Scene) -> None:
        """Redraw the screen."""
        self._live.start()
        if scene.status is not None and scene.status.reward_mean is not None:
            self._rewards = [*self._rewards[-HISTORY:], scene.status.reward_mean]
        self._live.update(screen(scene, self._console.width, self._rewards), refresh=True)

    def close(self) -> None:
        """Leave the last screen, and show the cursor again."""
        self._live.stop()


class PlainView:
    """Writes a line every ten seconds, and each notice and problem once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0
        self._told: frozenset[str] = frozenset()  # problems of the last status
        self._notices = 0
        self._page = ""

    def show(self, scene: Scene) -> None:
        """Write the news, at most a line of progress every ten seconds."""
        lines = list(scene.notices[self._notices :])
        self._notices = len(scene.notices)
        if scene.page != self._page:
            self._page = scene.page
            lines.append(f"page {scene.page}")
        if scene.status is not None:
            lines += self._problems(scene.status, is_due=scene.elapsed >= self._next)
        if scene.elapsed >= self._next:
            self._next = scene.elapsed + LINE_SECONDS
            lines.append(progress_line(scene))
        for text in lines:
            self._stream.write(text + "\n")
        if lines:
            self._stream.flush()

    def close(self) -> None:
        """Do nothing: all lines are written."""

    def _problems(self, status: Status, *, is_due: bool) -> list[str]:
        """Return the problems that are new; those of environments only every ten seconds."""
        found = [status.notice] if status.notice else []
        if is_due:
            found += problems(status)
        new = [text for text in found if text not in self._told]
        if not found and self._told and is_due:
            new = ["all is well again"]
        if is_due or new:
            self._told = frozenset(found) if is_due else self._told | frozenset(new)
        return new


def progress_line(scene: Scene) -> str:
    """Return a scene as one line of text."""
    status = scene.status
    if status is None:
        return f"{clock(scene.elapsed)} {scene.headline}: {scene.doing}"
    alive = sum(client.state != "lost" for client in status.clients)
    of = f"/{status.max_env_steps}" if status.max_env_steps else ""
    return (
        f"{clock(scene.elapsed)} {status.phase}: {status.env_steps}{of} env steps"
        f" ({status.env_steps_per_second:.0f}/s), {status.updates} updates"
        f" ({status.updates_per_second:.0f}/s), replay ratio {status.replay_ratio:.2f},"
        f" reward {_reward(status)}, {counted(alive, 'client')},"
        f" rejected {sum(status.rejected.values())},"
        f" dropped {status.dropped}, lost {status.lost}"
    )


def facts(status: Status, page: str = "") -> Iterator[str]:
    """Yield a status for a file or a pipe, one fact a line.

    Args:
        status: The training node's status.
        page: The address of the page, if known.
    """
    of = f" of {status.max_env_steps:,}" if status.max_env_steps else ""
    yield f"run {status.run}, {status.environment}, {status.algorithm}"
    yield f"phase {status.phase} for {clock(status.seconds)}"
    yield f"env steps {status.env_steps:,}{of}, {status.env_steps_per_second:,.0f}/s"
    yield f"updates {status.updates:,}, {status.updates_per_second:,.0f}/s"
    yield f"replay ratio {status.replay_ratio:.2f}"
    yield f"episodes {status.episodes:,}"
    yield f"mean reward {_reward(status)}"
    yield f"rejected {sum(status.rejected.values()):,} messages"
    yield f"dropped {status.dropped:,} env steps"
    yield f"lost {status.lost:,} env steps"
    yield f"checkpoint {_checkpoint(status)}"
    if page:
        yield f"page {page}"
    for client in status.clients:
        yield (
            f"client {client.client}: {_state(client)}, {client.steps_per_second:,.0f} env steps/s,"
            f" {client.admitted:,} env steps, lag {client.lag}, queued {client.queued},"
            f" rejected {client.rejected}, dropped {client.dropped}, lost {client.lost}"
            f"{_values(client)}"
        )
    if status.notice:
        yield status.notice
    yield from problems(status)


def _values(client: ClientStatus) -> str:
    """Return the arguments that the run lets a client set, after a comma."""
    return "".join(f", {name}={value}" for name, value in client.kwargs.items())


def problems(status: Status) -> list[str]:
    """Return the problems of clients and weights, one line each."""
    lines = []
    heard = [client.seen for client in status.clients if client.state == "lost"]
    if len(heard) == len(status.clients) and status.phase not in ("stopping", "ended"):
        silent = min([status.seconds, *heard])
        if silent >= ALONE_SECONDS:
            lines.append(f"no client has played for {clock(silent)}: start one, or read its log")
    if status.rollbacks:
        lines.append(f"went back to the last good version {counted(status.rollbacks, 'time')}")
    if status.withheld:
        lines.append(f"{counted(status.withheld, 'version')} not published: the weights were bad")
    for client in status.clients:
        if client.held:
            lines.append(f"{client.client} is kept out: {client.held}")
        if client.finding:
            lines.append(f"{client.client}: {client.finding}")
        if client.trouble:
            lines.append(trouble(client))
    return lines


def trouble(client: ClientStatus) -> str:
    """Return the last fault of a client's environments, and how many there were, in one line."""
    if not client.faults:
        return f"{client.client}: {client.trouble}"
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(client.faults.items()))
    restarts = counted(client.restarts, "restart")
    return f"{client.client}: {client.trouble} ({restarts}; {faults})"


def screen(scene: Scene, width: int = WIDE, rewards: Sequence[float] = ()) -> RenderableType:
    """Return a scene as a screen on which no line wraps.

    Args:
        scene: The state of the run.
        width: Columns of the terminal.
        rewards: Mean rewards so far, oldest first, for a small chart.
    """
    parts: list[RenderableType] = [_headline(scene)]
    status = scene.status
    if status is not None:
        parts += [_progress(status, width), _figures(status)]
        if len(rewards) > 1:
            parts.append(_chart(rewards, width))
        parts.append(_one_line(f"saved {_checkpoint(status)}", FAINT))
    if scene.page:
        parts.append(_one_line(f"page {scene.page}", FAINT))
    if status is not None:
        parts.append(_clients(status.clients, width))
        parts += [_one_line(text, WARN) for text in ([status.notice] if status.notice else [])]
        parts += [_one_line(text, WARN) for text in problems(status)[:CLIENTS]]
    parts += [_one_line(f"{name} restarts", WARN) for name in scene.restarting]
    parts += [_one_line(notice, WARN) for notice in scene.notices[-NOTICES:]]
    if scene.hint:
        parts.append(_one_line(scene.hint, FAINT))
    return Group(*parts)


def remaining(status: Status) -> float | None:
    """Return the seconds to the planned end at the present rate, ``None`` if unknown."""
    left = status.max_env_steps - status.env_steps
    if status.max_env_steps == 0 or status.env_steps_per_second <= 0:
        return None
    return max(0, left) / status.env_steps_per_second


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values as one line of at most ``width`` bars, each the mean of its share."""
    columns = max(1, min(width, len(values)))
    edges = [len(values) * column // columns for column in range(columns + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    least, span = min(means), max(means) - min(means)
    if not span:
        return BARS[0] * columns
    return "".join(BARS[round((mean - least) / span * (len(BARS) - 1))] for mean in means)


def _headline(scene: Scene) -> Text:
    text = Text.assemble(("soulsai ", "bold"), scene.headline, no_wrap=True, overflow="ellipsis")
    text.append("  ")
    text.append(scene.doing if scene.status is None else scene.status.phase, style="cyan")
    seconds = scene.elapsed if scene.status is None else scene.status.seconds
    text.append(f"  {clock(seconds)}", style=FAINT)
    if scene.status is not None:
        text.append(f"  {scene.status.run}", style=FAINT)
    return text


def _progress(status: Status, width: int) -> RenderableType:
    total = status.max_env_steps
    left = remaining(status)
    share = f" of {total:,}  {status.env_steps / total:.0%}" if total else ""
    eta = f"  {clock(left)} left" if left is not None else ""
    text = f"{status.env_steps:,}{share} env steps{eta}"
    bar = max(4, min(width // 2, width - len(text) - 2))
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=total or None, completed=status.env_steps, width=bar),
        Text(text, no_wrap=True, overflow="ellipsis"),
    )
    return row


def _figures(status: Status) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        _pair("reward", _trend(status)),
        _pair("env steps/s", f"{status.env_steps_per_second:,.0f}"),
        _pair("rejected", _count(sum(status.rejected.values()))),
        _pair("lost", _count(status.lost)),
    )
    grid.add_row(
        _pair("episodes", f"{status.episodes:,}"),
        _pair("updates/s", f"{status.updates_per_second:,.0f}"),
        _pair("dropped", _count(status.dropped)),
        _pair("duplicates", f"{status.duplicates:,}"),
    )
    grid.add_row(
        _pair("updates", f"{status.updates:,}"),
        _pair("replay ratio", f"{status.replay_ratio:.2f}"),
        _pair("lag", f"{status.lag:.1f}"),
        _pair("restarts", _count(status.restarts)),
    )
    return grid


def _chart(rewards: Sequence[float], width: int) -> Text:
    low, high = f"{min(rewards):,.1f}", f"{max(rewards):,.1f}"
    bars = sparkline(rewards, width - len(low) - len(high) - 16)
    return _one_line(f"mean reward {low} {bars} {high}", FAINT)


def _clients(clients: Sequence[ClientStatus], width: int) -> RenderableType:
    if not clients:
        return Text("no client yet", style=WARN)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=FAINT)
    table.add_column("client", no_wrap=True, overflow="ellipsis", max_width=max(12, width // 5))
    table.add_column("state", no_wrap=True)
    heads = ["steps/s", "env steps", "lag", "queued", "rejected", "dropped", "lost"]
    if width < WIDE:
        heads.remove("queued")
        heads.remove("lag")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for client in clients[:CLIENTS]:
        cells: dict[str, Text | str] = {
            "steps/s": f"{client.steps_per_second:,.0f}",
            "env steps": f"{client.admitted:,}",
            "lag": str(client.lag),
            "queued": str(client.queued),
            "rejected": _count(client.rejected),
            "dropped": _count(client.dropped),
            "lost": _count(client.lost),
        }
        style = GOOD if client.state in ("active", "waiting") else BAD
        table.add_row(
            client.client, Text(_state(client), style=style), *(cells[head] for head in heads)
        )
    if len(clients) <= CLIENTS:
        return table
    return Group(table, Text(f"and {len(clients) - CLIENTS} more", style=FAINT))


def _state(client: ClientStatus) -> str:
    ago = f" {clock(client.seen)}" if client.state == "lost" else ""
    return STATES[client.state] + ago


def _checkpoint(status: Status) -> str:
    age = status.checkpoint_age
    ago = "" if age is None else f", {clock(age)} ago"
    return (status.checkpoint or "none yet") + ago


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _pair(name: str, value: Text | str) -> Text:
    return Text.assemble((f"{name} ", FAINT), value, no_wrap=True)


def _count(count: int) -> Text:
    return Text(f"{count:,}", style=BAD if count else "")


def _reward(status: Status) -> str:
    if status.reward_mean is not None:
        return f"{status.reward_mean:.1f}"
    if status.reward_per_step is None:
        return "none yet"
    return f"{status.reward_per_step:.3g} per step"


def _trend(status: Status) -> Text:
    text = Text(_reward(status), style="bold")
    if status.reward_trend is not None:
        rising = status.reward_trend >= 0
        arrow = "▲" if rising else "▼"
        text.append(f" {arrow}{abs(status.reward_trend):.1f}", style=GOOD if rising else WARN)
    return text
