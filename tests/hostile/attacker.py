"""A thread with one invite that attacks by raw commands, in a random order drawn from a seed."""

import random
import socket
import time
from collections import Counter
from contextlib import suppress

from soulsai.config.schema import RedisSettings
from soulsai.errors import AccessDenied, Unreachable, WireError
from soulsai.wire.names import Keys
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.roles import connect_client
from soulsai.wire.redis.url import parse
from tests.chaos.beside import Beside
from tests.contract import hostile_cases

from .messages import Extremes

BURST_SECONDS = 0.25  # between two bursts of entries
SPECIAL_SECONDS = 2.0  # between two attacks that are no flood of valid messages
EPOCHS = 200  # at once
STREAM = 4096  # entries, as honest clients ask for
BIG = 3_900_000  # bytes; the server's limit of a string is 4 MB
SLEEPERS = 24  # connections that do not read, at once
CROWD = 300  # connections that do nothing
PAGE_CROWD = 300
SOCKET_SECONDS = 5.0
PICKLE_FILE = "/nonexistent/written"


class Attacker(Beside):
    """Attacks while ``active`` is set."""

    def __init__(self, invite, seed, *, per_second, page=0):
        """Prepare the thread.

        Args:
            invite: The ``Invite`` of one client.
            seed: Seed of messages and of their order.
            per_second: Valid messages per second.
            page: Port of the page, or 0.
        """
        super().__init__(self._attack)
        self.active = self.stop.__class__()
        self.sent = 0  # messages, as the server acknowledged their entries
        self.entries = 0
        self.done = Counter()  # by attack
        self.errors = Counter()  # by attack and error of the server
        self.failure = ""
        self._invite, self._page = invite, page
        self._server = invite.server(RedisSettings(url=invite.url))
        self._keys = Keys(invite.run)
        self._stream = self._keys.experience(invite.client)
        self._per_second = per_second
        self._rng = random.Random(seed)
        self._seed = seed
        self._link = RedisConnection(self._server, invite.client)
        self._open = []  # sockets that are kept open
        self._extremes = None
        self._looked = 0.0
        self._attacks = (
            self._epochs, self._garbage, self._fields, self._foreign, self._sleepers,
            self._subscribers, self._crowd, self._positions, self._page_crowd, self._page_requests,
            self._page_bodies,
        )  # fmt: skip

    def __exit__(self, *words):
        self.active.set()
        super().__exit__(*words)
        self._hang_up()
        self._link.close()

    def _attack(self):
        try:
            while not self.stop.is_set():
                if not self.active.wait(BURST_SECONDS):
                    self._hang_up()
                    continue
                self._turn()
        except AccessDenied:
            self.failure = "access denied"  # revoked
        except Exception as error:
            self.failure = repr(error)

    def _turn(self):
        """Attack until ``active`` is cleared."""
        began, due = time.monotonic(), 0.0
        special = began
        while self.active.is_set() and not self.stop.is_set():
            now = time.monotonic()
            if now >= special:
                special = now + SPECIAL_SECONDS
                attack = self._rng.choice(self._attacks)
                self.done[attack.__name__.strip("_")] += 1
                attack()
            count = int(min(now - began - due, 2 * BURST_SECONDS) * self._per_second)
            due = now - began
            self._flood(count)
            self.stop.wait(max(0.0, BURST_SECONDS - (time.monotonic() - now)))

    @property
    def single(self):
        """The names of the attacks."""
        return ["flood", *(attack.__name__.strip("_") for attack in self._attacks)]

    def only(self, name):
        """Carry out one attack from the calling thread, while ``active`` is not set."""
        if name == "flood":
            self._flood(self._per_second)
        else:
            getattr(self, f"_{name}")()

    def _flood(self, count):
        """Send valid messages."""
        self._look()
        entries, messages = [], 0
        while messages < count:
            data, some = self._extremes.entry()
            entries.append((data, some))
            messages += some
        self._send("flood", [("*", data, some) for data, some in entries])

    def _epochs(self):
        """Send heartbeats, each in an epoch of its own."""
        self._look()
        first = int(time.time() * 1000)
        self._send(
            "epochs",
            [(f"{first + n}-1", *self._extremes.heartbeat_entry()) for n in range(EPOCHS)],
        )

    def _garbage(self):
        """Send what must not be decoded: pickles, announcements of gigabytes, nested values."""
        bad = [*hostile_cases.pickles(PICKLE_FILE), *hostile_cases.bombs().values()]
        self._send("garbage", [("*", data, 1) for data in self._rng.sample(bad, 5)])

    def _fields(self):
        """Send entries with many fields, with fields of other names, and with large ones."""
        add = ("XADD", self._stream, "MAXLEN", "~", STREAM, "*")
        pairs = [word for n in range(500) for word in (f"f{n}", "x" * 50)]
        self._execute(
            "fields",
            [(*add, *pairs), (*add, "d" * 1000, b""), (*add, "d", bytes(BIG), "e", bytes(BIG))],
        )

    def _foreign(self):
        """Try everything that an invite must not be good for."""
        number = self._rng.randrange(10**6)
        ghost = Keys(f"ghost-{number}")
        self._execute(
            "foreign",
            [
                ("XADD", ghost.experience(self._invite.client), "*", "d", b"x"),
                ("XADD", self._keys.experience("client-1"), "*", "d", b"x"),
                ("XADD", self._keys.commands("operator"), "*", "d", b"x"),
                ("SET", self._keys.spec, b"x"),
                ("GET", self._keys.status),
                ("UNLINK", self._keys.experience("client-1")),
                ("PUBLISH", self._keys.control, b"x"),
                ("XREAD", "STREAMS", self._keys.experience("client-1"), "0"),
                ("SCAN", 0),
                ("CONFIG", "GET", "*"),
                ("ACL", "LIST"),
                ("CLIENT", "LIST"),
                ("GETRANGE", ghost.spec, 0, 10),
                ("SUBSCRIBE", ghost.model),
            ],
        )

    def _positions(self):
        """Send entries at the edges of positions: the past, tomorrow, the largest number."""
        self._look()
        ids = ["1-1", "0-1", f"{int(time.time() * 1000) + 3600_000}-{2**40}", f"{2**63}-5"]
        ids += [f"{2**64 - 1}-{2**64 - 1}"]
        some = self._rng.sample(ids, 2)
        self._send("positions", [(id, *self._extremes.heartbeat_entry()) for id in some])

    def _sleepers(self):
        """Ask for much on connections whose replies nobody reads."""
        line = _command("GETRANGE", self._keys.program, "0", str(2**20)) * 2000
        for _ in range(SLEEPERS):
            self._raw(line)

    def _subscribers(self):
        """Subscribe to all that is permitted, as often as it is permitted, and read nothing."""
        names = [self._keys.model, self._keys.control] * 50
        for _ in range(SLEEPERS):
            self._raw(_command("SUBSCRIBE", *names) * 20)

    def _crowd(self):
        """Open connections that do nothing."""
        for _ in range(CROWD):
            self._raw(b"")

    def _page_crowd(self):
        """Open silent connections to the page."""
        for _ in range(PAGE_CROWD if self._page else 0):
            self._keep(("127.0.0.1", self._page), b"")

    def _page_requests(self):
        """Send requests to the page that it must refuse."""
        heads = (
            b"GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"POST /api/v1/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"y" * 60_000,
        )
        for head in heads if self._page else ():
            self._keep(("127.0.0.1", self._page), head)

    def _page_bodies(self):
        """Begin requests with a body, and do not end them."""
        begun = (
            b"POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nX-SoulsAI: 1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{"
        )
        for _ in range(PAGE_CROWD if self._page else 0):
            self._keep(("127.0.0.1", self._page), begun)

    def _look(self):
        """Read the spec and the newest version as an honest client does, once a second."""
        now = time.monotonic()
        if self._extremes is not None and now < self._looked + 1.0:
            return
        self._looked = now
        wire = connect_client(self._server, self._invite.run, self._invite.client)
        try:
            if self._extremes is None:
                self._extremes = Extremes(wire.spec(), self._seed)
            pointer = wire.pointer()
            if pointer is not None:
                self._extremes.newest = pointer.order
        except Unreachable as error:
            if self._extremes is None:
                raise
            self.errors["look", _kind(error)] += 1
        finally:
            wire.close()

    def _send(self, attack, entries):
        """Append entries, given as (id, data, messages)."""
        add = ("XADD", self._stream, "MAXLEN", "~", STREAM)
        replies = self._execute(attack, [(*add, id, "d", data) for id, data, _ in entries])
        for reply, (_, _, messages) in zip(replies, entries, strict=False):
            if not isinstance(reply, WireError):
                self.sent += messages
                self.entries += 1

    def _execute(self, attack, commands):
        """Execute commands, and count errors."""
        try:
            replies = self._link.execute_all(commands)
        except Unreachable as error:  # the server has closed the connection
            self.errors[attack, _kind(error)] += 1
            return []
        for reply in replies:
            if isinstance(reply, WireError):
                self.errors[attack, _kind(reply)] += 1
        return replies

    def _raw(self, line):
        """Log in on a new connection, send a line, and read nothing."""
        place = parse(self._server.url)
        login = _command("AUTH", self._server.username, self._server.password)
        self._keep((place.host, place.port), login + line)

    def _keep(self, address, data):
        with suppress(OSError):
            one = socket.create_connection(address, SOCKET_SECONDS)
            self._open.append(one)
            one.setblocking(False)
            one.send(data)
        while len(self._open) > 2 * CROWD:
            self._open.pop(0).close()

    def _hang_up(self):
        while self._open:
            self._open.pop().close()


def _command(*words):
    """Return a command in the protocol of Redis."""
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def _kind(error):
    return type(error).__name__
