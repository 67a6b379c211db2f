"""A run at one moment, and its facts and problems as lines of text."""

from collections.abc import Iterator

from msgspec import Struct

from soulsai.launch.summary import clock, counted
from soulsai.types import ClientStatus, Status

ALONE_SECONDS = 60.0  # without any client, after which a run says so

# A client in step has played all that the learner allows for now: it waits for new weights.
STATES = {"active": "active", "waiting": "in step", "lost": "lost", "quarantine": "kept out"}
OVER = ("stopping", "ended")  # phases in which the clients have been told to go


class Scene(Struct, frozen=True):
    """The state of a run at one moment."""

    elapsed: float  # seconds since the command, or those of training if ``timed`` says so
    headline: str  # environment and algorithm
    status: Status | None = None
    doing: str = "starting"  # until there is a status
    page: str = ""  # the address of the page, or the reason why there is none yet
    restarting: tuple[str, ...] = ()  # processes about to be restarted
    notices: tuple[str, ...] = ()
    hint: str = "Ctrl-C saves and stops."
    timed: str = ""  # the word before ``elapsed``


def progress_line(scene: Scene) -> str:
    """Return a scene as one line of text."""
    status = scene.status
    if status is None:
        return f"{clock(scene.elapsed)} {scene.headline}: {scene.doing}"
    alive = sum(client.state != "lost" for client in status.clients)
    of = f"/{status.max_env_steps}" if status.max_env_steps else ""
    return (
        f"{scene.timed}{clock(scene.elapsed)} {status.phase}: {status.env_steps}{of} env steps"
        f" ({status.env_steps_per_second:.0f}/s), {status.updates} updates"
        f" ({status.updates_per_second:.0f}/s), replay ratio {status.replay_ratio:.2f},"
        f" reward {reward_text(status)}, {counted(alive, 'client')},"
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
    yield f"phase {status.phase}, trained for {clock(status.seconds)}"
    yield f"env steps {status.env_steps:,}{of}, {status.env_steps_per_second:,.0f}/s"
    yield f"updates {status.updates:,}, {status.updates_per_second:,.0f}/s"
    yield f"replay ratio {status.replay_ratio:.2f}"
    yield f"episodes {status.episodes:,}"
    yield f"mean reward {reward_text(status)}"
    yield f"rejected {sum(status.rejected.values()):,} messages"
    yield f"dropped {status.dropped:,} env steps"
    yield f"lost {status.lost:,} env steps"
    yield f"checkpoint {checkpoint_text(status)}"
    if page:
        yield f"page {page}"
    for client in status.clients:
        yield (
            f"client {client.client}: {state_text(client, status)},"
            f" {client.steps_per_second:,.0f} env steps/s, {client.admitted:,} env steps,"
            f" lag {client.lag}, queued {client.queued},"
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
    if len(heard) == len(status.clients) and status.phase not in OVER:
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


def state_text(client: ClientStatus, status: Status) -> str:
    """Return the state of a client in words."""
    if status.phase in OVER and client.state in ("active", "waiting"):
        return "dismissed"
    ago = f" {clock(client.seen)}" if client.state == "lost" else ""
    return STATES[client.state] + ago


def checkpoint_text(status: Status) -> str:
    """Return the newest checkpoint and its age."""
    age = status.checkpoint_age
    ago = "" if age is None else f", {clock(age)} ago"
    return (status.checkpoint or "none yet") + ago


def reward_text(status: Status) -> str:
    """Return the mean reward, of episodes or else of steps."""
    if status.reward_mean is not None:
        return f"{status.reward_mean:.1f}"
    if status.reward_per_step is None:
        return "none yet"
    return f"{status.reward_per_step:.3g} per env step"
