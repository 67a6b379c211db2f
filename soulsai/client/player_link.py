"""What passes between the thread that plays and the one that talks to the server."""

from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from soulsai.client.actor import Actor
from soulsai.types import Episode, Fragment, Pointer


class Orders(NamedTuple):
    """What the server wants now; replaced as a whole, never changed."""

    pointer: Pointer | None = None  # of the newest version that has come, with its quota and knobs
    actor: Actor | None = None  # the newest version that is ready to act
    paused: bool = False
    over: Literal["", "stop", "run", "error"] = ""  # why to play no longer

    @property
    def knobs(self) -> dict[str, float]:
        """The newest version's numbers for the head."""
        return self.pointer.knobs if self.pointer is not None else {}


class Progress(Struct):
    """What the player has done in this epoch; only he writes it."""

    steps: int = 0
    episodes: int = 0
    version: int = 0  # of the newest weights acted with
    waiting: bool = False  # for weights, or because the quota is spent
    discarded: int = 0  # env steps of fragments that were unfinished when an environment broke
    restarts: int = 0  # of environments
    faults: dict[str, int] = {}  # of environments, by kind; replaced as a whole, never changed
    trouble: str = ""  # the last fault of an environment


class Line(Protocol):
    """The other end, as the player sees it."""

    @property
    def orders(self) -> Orders:
        """The newest orders."""
        ...

    def send(self, message: Fragment | Episode) -> None:
        """Take a message to be sent some time; its arrays are copied, and it never waits."""
        ...

    def wait(self, orders: Orders, timeout: float) -> None:
        """Return when the orders are others than those given, or after ``timeout`` seconds."""
        ...
