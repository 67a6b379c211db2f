"""A run as its user watches it: a live page on a terminal, one line every ten seconds elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from soulsai.train.summary import clock
from soulsai.types import ClientStatus, Status

LINE_SECONDS = 10.0
NOTICES = 4
CLIENTS = 16  # rows shown
GOOD, BAD, FAINT = "green", "bold red", "dim"


class Scene(Struct, frozen=True):
    """All that there is to see at one moment."""

    elapsed: float  # seconds since the command
    headline: str  # what runs: environment and algorithm
    status: Status | None = None
    doing: str = "starting"  # until there is a status
    restarting: tuple[str, ...] = ()  # processes that wait for their restart
    notices: tuple[str, ...] = ()
    hint: str = "Ctrl-C saves and stops."


class RunView(Protocol):
    """Something that shows scenes for as long as it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, scene: Scene) -> None:
        """Show this scene in place of the one before."""
        ...


def view_for(stream: TextIO) -> RunView:
    """Return the live page for a terminal, or plain lines for anything else."""
    return LiveView(Console(file=stream)) if stream.isatty() else PlainView(stream)


class LiveView:
    """Redraws one page in place."""

    def __init__(self, console: Console) -> None:
        # No thread of its own: it is drawn when there is something new.
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, scene: Scene) -> None:
        """Redraw the page."""
        self._live.update(page(scene), refresh=True)


class PlainView:
    """Writes a line now and then, and every notice once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0
        self._notices: tuple[str, ...] = ()
        self._notice = ""  # of the last status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, scene: Scene) -> None:
        """Write what is new, at most a line every ten seconds."""
        lines = list(scene.notices[len(self._notices) :])
        self._notices = scene.notices
        notice = scene.status.notice if scene.status is not None else self._notice
        if notice != self._notice:
            self._notice = notice
            lines.append(notice or "all is well again")
        if scene.elapsed >= self._next:
            self._next = scene.elapsed + LINE_SECONDS
            lines.append(line(scene))
        for text in lines:
            self._stream.write(text + "\n")
        if lines:
            self._stream.flush()


def line(scene: Scene) -> str:
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
        f" reward {_reward(status)}, {alive} clients, rejected {sum(status.rejected.values())},"
        f" dropped {status.dropped}, lost {status.lost}"
    )


def page(scene: Scene) -> RenderableType:
    """Return a scene as a page."""
    parts: list[RenderableType] = [_headline(scene)]
    if scene.status is not None:
        parts += [_progress(scene.status), _figures(scene.status), _clients(scene.status.clients)]
        if scene.status.notice:
            parts.append(Text(scene.status.notice, style="yellow"))
    parts += [Text(f"{name} restarts", style="yellow") for name in scene.restarting]
    parts += [Text(notice, style="yellow") for notice in scene.notices[-NOTICES:]]
    if scene.hint:
        parts.append(Text(scene.hint, style=FAINT))
    return Group(*parts)


def remaining(status: Status) -> float | None:
    """Return the seconds until the planned end, at the present rate; ``None`` if nobody knows."""
    left = status.max_env_steps - status.env_steps
    if status.max_env_steps == 0 or status.env_steps_per_second <= 0:
        return None
    return max(0, left) / status.env_steps_per_second


def _headline(scene: Scene) -> Text:
    text = Text.assemble(("soulsai ", "bold"), scene.headline)
    text.append("  ")
    text.append(scene.doing if scene.status is None else scene.status.phase, style="cyan")
    text.append(f"  {clock(scene.elapsed)}", style=FAINT)
    if scene.status is not None:
        text.append(f"  {scene.status.run}", style=FAINT)
    return text


def _progress(status: Status) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    total = status.max_env_steps
    bar = ProgressBar(total=total or None, completed=status.env_steps, width=36)
    left = remaining(status)
    share = f" of {total:,}  {status.env_steps / total:.0%}" if total else ""
    eta = f"  {clock(left)} left" if left is not None else ""
    row.add_row(bar, Text(f"{status.env_steps:,}{share} env steps{eta}"))
    return row


def _figures(status: Status) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    rejected = sum(status.rejected.values())
    saved = status.checkpoint or "none yet"
    if status.checkpoint_age is not None:
        saved += f", {clock(status.checkpoint_age)} ago"
    grid.add_row(
        _pair("reward", _trend(status)),
        _pair("env steps/s", f"{status.env_steps_per_second:,.0f}"),
        _pair("rejected", _count(rejected)),
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
        _pair("lag", f"{status.lag:.1f} versions"),
        _pair("saved", saved),
    )
    return grid


def _clients(clients: Sequence[ClientStatus]) -> RenderableType:
    if not clients:
        return Text("no client yet", style="yellow")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=FAINT)
    table.add_column("client")
    table.add_column("health")
    for head in ("steps/s", "env steps", "lag", "queued", "rejected", "dropped", "lost"):
        table.add_column(head, justify="right")
    for client in clients[:CLIENTS]:
        style = {"active": GOOD, "waiting": "yellow"}.get(client.state, BAD)
        state = client.state
        health = f"{state} ({clock(client.seen)} ago)" if state == "lost" else client.held or state
        table.add_row(
            client.client,
            Text(health, style=style),
            f"{client.steps_per_second:,.0f}",
            f"{client.admitted:,}",
            str(client.lag),
            str(client.queued),
            _count(client.rejected),
            _count(client.dropped),
            _count(client.lost),
        )
    parts: list[RenderableType] = [table]
    if len(clients) > CLIENTS:
        parts.append(Text(f"and {len(clients) - CLIENTS} more", style=FAINT))
    troubled = [client for client in clients[:CLIENTS] if client.trouble]
    parts += [Text(trouble(client), style="yellow") for client in troubled]
    found = [client for client in clients[:CLIENTS] if client.finding]
    parts += [Text(f"{client.client}: {client.finding}", style="yellow") for client in found]
    return Group(*parts)


def trouble(client: ClientStatus) -> str:
    """Return in a line what a client's environments suffer from, and did so far."""
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(client.faults.items()))
    return f"{client.client}: {client.trouble} ({client.restarts} restarts; {faults})"


def _pair(name: str, value: Text | str) -> Text:
    return Text.assemble((f"{name} ", FAINT), value)


def _count(count: int) -> Text:
    return Text(f"{count:,}", style=BAD if count else "")


def _reward(status: Status) -> str:
    return "none yet" if status.reward_mean is None else f"{status.reward_mean:.1f}"


def _trend(status: Status) -> Text:
    text = Text(_reward(status), style="bold")
    if status.reward_trend is not None:
        style = GOOD if status.reward_trend >= 0 else "yellow"
        text.append(f" {status.reward_trend:+.1f}", style=style)
    return text
