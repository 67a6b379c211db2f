"""A server with a run, clients in threads, and a node that listens, for the tests of clients."""

import threading
import time
from contextlib import contextmanager

from soulsai.client.session import serve
from soulsai.config import schema
from soulsai.errors import Rejected
from soulsai.testing.policy import toy_run
from soulsai.types import EnvironmentOffer, Fragment, Weights
from soulsai.wire.codec import decode_entry
from soulsai.wire.protocols import START
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for
from tests.memory_server import MemoryServer

TOY = "soulsai.testing:ToyEnv"
PATIENCE = 60.0


def until(true, seconds=PATIENCE):
    """Wait for a condition, and fail if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Place:
    """Where clients and a node meet: in memory, or on an embedded server."""

    def __init__(self, embedded=None):
        self.memory = MemoryServer() if embedded is None else None
        self.embedded = embedded

    def _redis(self):
        return schema.RedisSettings(url=self.embedded.url, secrets=str(self.embedded.secrets))

    def training(self):
        if self.memory is not None:
            return self.memory.training()
        return connect_training(server_for("training_node", self._redis()), "soulsai")

    def client(self, name):
        if self.memory is not None:
            return self.memory.client(name)
        return connect_client(server_for("client", self._redis()), "soulsai", name)


class Node:
    """A training node that learns nothing and remembers everything."""

    def __init__(
        self, place, id=TOY, run="toy", *, publish=True, offer=None, count=1, kwargs=None, **options
    ):
        self.wire = place.training()
        offer = offer or EnvironmentOffer(id, kwargs or {}, count=count)
        self.run, self.program, self.arrays = toy_run(offer, run=run, **options)
        self.generation = 0
        self.after, self.messages, self.positions, self.rejected = {}, [], [], []
        if publish:
            self.open()
            self.publish(1)

    def open(self):
        self.generation = self.wire.open(self.run, self.program, fresh=True)

    def publish(self, version, **options):
        weights = Weights(self.run.run, self.generation, version, self.arrays, **options)
        self.wire.publish(weights)

    def listen(self):
        """Take what has come, and return how many env steps that makes in all."""
        for name in self.wire.clients():
            self.after.setdefault(name, START)
        while entries := self.wire.read(self.after, 0.0) if self.after else []:
            for entry in entries:
                self.after[entry.client] = entry.position
                self.positions.append((entry.client, entry.position))
                try:
                    self.messages += decode_entry(entry, self.run)
                except Rejected as rejected:
                    self.rejected.append(rejected.reason)
        return sum(map(len, self.fragments()))

    def fragments(self, client=None):
        return [one for one in self.of(Fragment) if client in (None, one.client)]

    def of(self, kind):
        return [message for message in self.messages if isinstance(message, kind)]


class Client:
    """``serve`` in a thread of its own; what it raised is kept."""

    def __init__(self, place, name="one", *, listed=(TOY,), **options):
        self.wire = place.client(name)
        self.stopping = threading.Event()
        self.error = None
        self._config = schema.Config(
            client=schema.ClientSettings(name=name, environments=listed, **options.pop("own", {})),
            environment=options.pop("environment_config", schema.EnvironmentSettings()),
            watchdog=options.pop("watchdog", schema.WatchdogSettings()),
        )
        self._options = {"seed": 1, **options}
        self._thread = threading.Thread(target=self._live)

    def _live(self):
        try:
            serve(self._config, self.wire, stopped=self.stopping.is_set, **self._options)
        except Exception as error:
            self.error = error

    def start(self):
        self._thread.start()
        return self

    @property
    def alive(self):
        return self._thread.is_alive()

    def stop(self):
        self.stopping.set()
        self._thread.join(PATIENCE)
        assert not self.alive
        self.wire.close()


@contextmanager
def playing(place, name="one", **options):
    """Let a client play; what it raised is raised at the end."""
    client = Client(place, name, **options).start()
    try:
        yield client
    finally:
        client.stop()
    if client.error is not None:
        raise client.error
