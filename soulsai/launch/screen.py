"""The live view of a run on a terminal, by ``rich``."""

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from soulsai.launch.scene import OVER, Scene, checkpoint_text, problems, reward_text, state_text
from soulsai.launch.summary import clock
from soulsai.types import Status

NOTICES = 4  # shown at once
CLIENTS = 16  # rows shown
WIDE = 100  # columns from which the table of clients is complete
HISTORY = 2000  # rewards kept for the chart
GOOD, BAD, WARN, FAINT = "green", "bold red", "yellow", "dim"
BARS = "▁▂▃▄▅▆▇█"


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
        parts.append(_one_line(f"checkpoint {checkpoint_text(status)}", FAINT))
    if scene.page:
        parts.append(_one_line(f"page {scene.page}", FAINT))
    if status is not None:
        parts.append(_clients(status, width))
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
    if status.max_env_steps == 0 or status.env_steps_per_second <= 0 or status.phase in OVER:
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
    text.append(f"  {scene.timed}{clock(scene.elapsed)}", style=FAINT)
    if scene.status is not None:
        text.append(f"  {scene.status.run}", style=FAINT)
    return text


def _progress(status: Status, width: int) -> RenderableType:
    total = status.max_env_steps
    left = remaining(status)
    share = f" of {total:,}  {min(1.0, status.env_steps / total):.0%}" if total else ""
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


def _clients(status: Status, width: int) -> RenderableType:
    clients = status.clients
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
            client.client,
            Text(state_text(client, status), style=style),
            *(cells[head] for head in heads),
        )
    if len(clients) <= CLIENTS:
        return table
    return Group(table, Text(f"and {len(clients) - CLIENTS} more", style=FAINT))


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _pair(name: str, value: Text | str) -> Text:
    return Text.assemble((f"{name} ", FAINT), value, no_wrap=True)


def _count(count: int) -> Text:
    return Text(f"{count:,}", style=BAD if count else "")


def _trend(status: Status) -> Text:
    text = Text(reward_text(status), style="bold")
    if status.reward_trend is not None:
        rising = status.reward_trend >= 0
        arrow = "▲" if rising else "▼"
        text.append(f" {arrow}{abs(status.reward_trend):.1f}", style=GOOD if rising else WARN)
    return text
