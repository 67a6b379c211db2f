"""Clients as actors of Ray, which places them on a cluster; experience goes through Redis as ever.

Ray restarts an actor whose process died, but not what it was doing: that is asked of it again here.
"""

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import ray
import ray.exceptions

from soulsai import connect
from soulsai.client.session import serve
from soulsai.client.uplink import Backoff
from soulsai.config.schema import Config
from soulsai.errors import EnvironmentFault, SoulsAIError
from soulsai.train.children import seed

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks at actors, and at whether to stop
STOP_SECONDS = 15.0  # for the goodbyes; then actors are killed
REACH_SECONDS = 5.0  # for a cluster to take a connection
HEALTHY_SECONDS = 60.0  # after so long, the next crash counts as the first


class RayClient:
    """One client, in a process of Ray's: ``play`` and ``stop`` are called at the same time."""

    def __init__(self) -> None:
        self._stopped = False

    def play(self, settings: bytes, environment: str, chance: int) -> None:
        """Play until the run is over, or until ``stop``."""
        connect.begin_log()
        config = msgspec.json.decode(settings, type=Config)
        with connect.client(config, None) as wire:
            serve(config, wire, environment=environment, seed=chance, stopped=lambda: self._stopped)

    def stop(self) -> None:
        """Say goodbye soon."""
        self._stopped = True

    def process(self) -> int:
        """Return the id of the process."""
        return os.getpid()


class Fleet:
    """Several clients on a cluster that Ray is connected to."""

    def __init__(
        self,
        config: Config,
        clients: int,
        *,
        environment: str = "",
        cpus: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Place the clients; they play once ``run`` asks them to.

        Args:
            config: As for a client. Its secrets must be at the same place on every machine.
            clients: How many.
            environment: An id that is played whatever the server offers.
            cpus: What one client needs, by which Ray places it.
            clock: Monotonic seconds.
        """
        self._config, self._environment, self._clock = config, environment, clock
        actor: Any = ray.remote(RayClient)
        self.actors = [
            actor.options(max_restarts=-1, max_concurrency=2, num_cpus=cpus).remote()
            for _ in range(clients)
        ]
        self._lives = [0] * clients
        self._asked: dict[Any, int] = {}  # the actor that is meant, by what will be its answer
        self._due: dict[int, float] = {}  # when an actor is asked again
        self._began = [0.0] * clients
        self._backoff = [Backoff(random.Random(number)) for number in range(clients)]

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep every client playing until all are over, or until told to stop.

        Raises:
            SoulsAIError: A client cannot play, and would not the next time either.
        """
        for number in range(len(self.actors)):
            self._ask(number)
        try:
            while (self._asked or self._due) and not stopped():
                self._look()
        finally:
            self._end()

    @property
    def restarts(self) -> int:
        """How often a client had to be asked again."""
        return sum(max(0, lives - 1) for lives in self._lives)

    def _ask(self, number: int) -> None:
        self._lives[number] += 1
        self._began[number] = self._clock()
        prefix = self._config.client.name or "ray"
        own = msgspec.structs.replace(self._config.client, name=f"{prefix}-{number + 1}")
        settings = msgspec.json.encode(msgspec.structs.replace(self._config, client=own))
        chance = seed(self._config.run.seed, 0, number, self._lives[number])
        answer = self.actors[number].play.remote(settings, self._environment, chance)
        self._asked[answer] = number

    def _look(self) -> None:
        now = self._clock()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._ask(number)
        if not self._asked:
            time.sleep(LOOK_SECONDS)
            return
        ended, _ = ray.wait(list(self._asked), timeout=LOOK_SECONDS)
        for answer in ended:
            self._ended(self._asked.pop(answer), answer)

    def _ended(self, number: int, answer: Any) -> None:
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SoulsAIError) and not isinstance(
                error.cause, EnvironmentFault
            ):
                raise error.cause from None
            self._later(number, f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayActorError as error:
            self._later(number, type(error).__name__)

    def _later(self, number: int, why: str) -> None:
        now = self._clock()
        if now - self._began[number] >= HEALTHY_SECONDS:
            self._backoff[number] = Backoff(random.Random(number))
        self._due[number] = now + self._backoff[number].next()
        log.warning("client=%d ended=%s", number + 1, why)

    def _end(self) -> None:
        """Let clients say goodbye, then give their places back."""
        for actor in self.actors:
            actor.stop.remote()
        if self._asked:
            ray.wait(list(self._asked), num_returns=len(self._asked), timeout=STOP_SECONDS)
        for actor in self.actors:
            ray.kill(actor)


@contextmanager
def connected(address: str = "", cpus: int | None = None) -> Iterator[None]:
    """Connect to a cluster, or run one on this machine for as long.

    Raises:
        SoulsAIError: There is no cluster at ``address``.
    """
    if address not in ("", "auto"):
        _reach(address)
    kwargs: dict[str, Any] = {"address": address} if address else {"num_cpus": cpus}
    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **kwargs)
    except ConnectionError:
        raise SoulsAIError("--address auto: no Ray cluster runs on this machine") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise ``SoulsAIError`` unless somebody listens there: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, ValueError):
        raise SoulsAIError(f"--address {address}: no Ray cluster answers there") from None
