"""Clients as actors that Ray places on a cluster; their experience goes through Redis.

Ray restarts the process of an actor that died, but not the call in it: the fleet calls it again.
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
from soulsai.launch.child_process import client_seed

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks at the actors
STOP_SECONDS = 15.0  # for clients to leave; then actors are killed
REACH_SECONDS = 5.0  # for a cluster to accept a connection
HEALTHY_SECONDS = 60.0  # of play, after which the next crash counts as the first


class RayClient:
    """One client in a process of Ray; ``stop`` is called while ``play`` runs."""

    def __init__(self) -> None:
        self._stopped = False

    def play(self, settings: bytes, environment: str, chance: int) -> None:
        """Play until the run is over, or until ``stop``.

        Args:
            settings: A ``Config`` as JSON.
            environment: An id that replaces the one the server offers; empty: the server's.
            chance: The seed.
        """
        connect.begin_log()
        config = msgspec.json.decode(settings, type=Config)
        with connect.client(config, None) as wire:
            serve(config, wire, environment=environment, seed=chance, stopped=lambda: self._stopped)

    def stop(self) -> None:
        """Let ``play`` leave the run and return."""
        self._stopped = True

    def process(self) -> int:
        """Return the id of the process."""
        return os.getpid()


class Fleet:
    """Several clients on the cluster that Ray is connected to."""

    def __init__(
        self,
        config: Config,
        clients: int,
        *,
        environment: str = "",
        cpus: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Place the clients; ``run`` lets them play.

        Args:
            config: As for a client. Its secrets must be at the same place on every machine.
            clients: Their number.
            environment: An id that replaces the one the server offers; empty: the server's.
            cpus: CPU cores that Ray reserves for one client.
            clock: Monotonic seconds.
        """
        self._config, self._environment, self._clock = config, environment, clock
        actor: Any = ray.remote(RayClient)
        self.actors = [
            actor.options(max_restarts=-1, max_concurrency=2, num_cpus=cpus).remote()
            for _ in range(clients)
        ]
        self._starts = [0] * clients
        self._calls: dict[Any, int] = {}  # the actor of each call in progress
        self._due: dict[int, float] = {}  # the time of each actor's next call
        self._began = [0.0] * clients
        self._backoff = [Backoff(random.Random(number)) for number in range(clients)]

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep every client playing until the run is over, or until told to stop.

        Raises:
            SoulsAIError: A client cannot play for a reason that a restart does not change.
        """
        for number in range(len(self.actors)):
            self._call(number)
        try:
            while (self._calls or self._due) and not stopped():
                self._look()
        finally:
            self._end()

    @property
    def restarts(self) -> int:
        """The number of restarts of all clients."""
        return sum(max(0, starts - 1) for starts in self._starts)

    def _call(self, number: int) -> None:
        self._starts[number] += 1
        self._began[number] = self._clock()
        prefix = self._config.client.name or "ray"
        name = f"{prefix}-{number + 1}"
        own = msgspec.structs.replace(self._config.client, name=name, number=number + 1)
        settings = msgspec.json.encode(msgspec.structs.replace(self._config, client=own))
        chance = client_seed(self._config.run.seed, 0, number, self._starts[number])
        answer = self.actors[number].play.remote(settings, self._environment, chance)
        self._calls[answer] = number

    def _look(self) -> None:
        now = self._clock()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._call(number)
        if not self._calls:
            time.sleep(LOOK_SECONDS)
            return
        ended, _ = ray.wait(list(self._calls), timeout=LOOK_SECONDS)
        for answer in ended:
            self._ended(self._calls.pop(answer), answer)

    def _ended(self, number: int, answer: Any) -> None:
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SoulsAIError) and not isinstance(
                error.cause, EnvironmentFault
            ):
                raise error.cause from None
            self._call_later(number, f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayActorError as error:
            self._call_later(number, type(error).__name__)

    def _call_later(self, number: int, why: str) -> None:
        now = self._clock()
        if now - self._began[number] >= HEALTHY_SECONDS:
            self._backoff[number] = Backoff(random.Random(number))
        self._due[number] = now + self._backoff[number].next()
        log.warning("client=%d ended=%s", number + 1, why)

    def _end(self) -> None:
        """Let clients leave, then free their places."""
        for actor in self.actors:
            actor.stop.remote()
        if self._calls:
            ray.wait(list(self._calls), num_returns=len(self._calls), timeout=STOP_SECONDS)
        for actor in self.actors:
            ray.kill(actor)


@contextmanager
def connected(address: str = "", cpus: int | None = None) -> Iterator[None]:
    """Connect to a cluster, or run one on this machine until the exit.

    Args:
        address: The cluster's address, ``auto`` for one on this machine; empty: start one.
        cpus: CPU cores of a cluster that is started; ``None``: all.

    Raises:
        SoulsAIError: There is no cluster at ``address``, or none starts.
    """
    if address not in ("", "auto"):
        _reach(address)
    kwargs: dict[str, Any] = {"address": address} if address else {"num_cpus": cpus}
    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **kwargs)
    except ConnectionError:
        raise SoulsAIError("--address auto: no Ray cluster runs on this machine") from None
    except Exception as error:  # Ray raises nothing narrower, on a machine too busy for example
        reason = str(error).partition("\n")[0]
        raise SoulsAIError(f"Ray does not start on this machine: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise ``SoulsAIError`` if nothing listens there; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, ValueError):
        raise SoulsAIError(f"--address {address}: no Ray cluster answers there") from None
