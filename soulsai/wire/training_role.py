"""The training node's part of the wire: it publishes the run, and reads what all clients say."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from soulsai.errors import ServerFull, Superseded, WireError
from soulsai.types import (
    Answer,
    Command,
    Control,
    Episode,
    Event,
    Pointer,
    Program,
    RunSpec,
    Status,
    Weights,
)
from soulsai.wire.client_role import position_of
from soulsai.wire.codec import check_spec, decode, encode
from soulsai.wire.names import COMMANDING_ROLES, CommandingRole, Keys, is_name
from soulsai.wire.protocols import Entry, Position, Request
from soulsai.wire.redis.connection import RedisConnection, raise_first
from soulsai.wire.signing import Manifest, Signed, Signer
from soulsai.wire.weights import (
    PIECE_BYTES,
    WeightsDtype,
    digest,
    encode_weights,
    program_digest,
)

_STATUS_SECONDS = 10
_REPLY_SECONDS = 60
_OLD_VERSION_SECONDS = 300
_OLD_VERSIONS_BYTES = 128 * 2**20  # superseded weights beyond this go at once
_EPISODES = 10_000
_COMMANDS = 64  # taken per call
_BLOCK_SECONDS = 0.25  # per question: a stop is noticed within that time
_READ_BYTES = 16 * 2**20  # aimed at per call of ``read``
_ID_END = 2**64  # both numbers of an entry's id are below that
_READ_ENTRIES = 128  # at most, per client and call


class CommandEntry(Struct, frozen=True):
    """A command as it lies in its stream; nobody waits for its answer after ``patience``."""

    id: Annotated[str, Meta(max_length=64)]
    patience: Annotated[float, Meta(ge=0, le=3600)]  # seconds
    command: Command


class TrainingRole:
    """Implements ``TrainingWire``; see there for what each method promises.

    One thread can sleep in ``read`` while another publishes.
    """

    def __init__(
        self,
        connection: RedisConnection,
        run: str,
        dtype: WeightsDtype = "float32",
        signer: Signer | None = None,
    ) -> None:
        self._keys = Keys(run)
        self._dtype: WeightsDtype = dtype
        self._signer = signer
        self._connection = connection
        self._closed = threading.Event()
        self._program: Program | None = None
        self._run = ""
        self._generation = 0
        self._control = encode(Control("resume"))  # the last one
        self._mean_bytes = 4096.0  # of recent entries
        self._newest: list[str] = []  # keys of the newest weights
        self._old: deque[tuple[list[str], int]] = deque()

    def __repr__(self) -> str:
        return f"TrainingRole({self._keys.run!r}, generation {self._generation})"

    def open(self, spec: RunSpec, program: Program, fresh: bool) -> int:
        """Publish a run; clients that pause are told to go on, weights of other nodes expire."""
        check_spec(spec)
        if spec.program_sha256 != program_digest(program):
            raise WireError("spec.program_sha256 is not wire.weights.program_digest(program)")
        if fresh or not self._holds(spec.run):
            self._remove("exp:*")
            self._remove("model*")
            self._connection.execute("UNLINK", self._keys.episodes, self._keys.status)
        generation = int(self._connection.execute("INCR", self._keys.generation))
        self._remove("notice:*")
        for key in self._scan("model:*"):
            self._connection.execute("EXPIRE", key, _OLD_VERSION_SECONDS)
        raise_first(
            self._connection.execute_all(
                [
                    ("SET", self._keys.program, encode(program)),
                    ("SET", self._keys.manifest, self._signed("manifest", _manifest(spec))),
                    ("SET", self._keys.spec, encode(spec)),
                ]
            )
        )
        self._program, self._run, self._generation = program, spec.run, generation
        self.tell(Control("resume"))
        return generation

    def _holds(self, run: str) -> bool:
        """Whether what the server has under our name is of this run."""
        published = self._connection.execute("GET", self._keys.spec)
        try:
            return published is not None and decode(published, RunSpec).run == run
        except WireError:
            return False

    def generation(self) -> int:
        """Return the newest generation."""
        return int(self._connection.execute("GET", self._keys.generation) or 0)

    def clients(self) -> list[str]:
        """Return the names under which streams exist; what is no client's name is left alone."""
        start = len(self._keys.experience(""))
        names = {key[start:] for key in self._scan("exp:*")}
        return sorted(name for name in names if is_name(name))

    def read(self, after: Mapping[str, Position], timeout: float) -> list[Entry]:
        """Return new entries; the same number at most from each client, fewer where they are large.

        Without any stream to read it sleeps for ``timeout``.
        """
        if not after:
            self._closed.wait(timeout)
            return []
        count = fair_count(len(after), self._mean_bytes)
        keys = [self._keys.experience(client) for client in after]
        ids = [f"{position.epoch}-{position.seq}" for position in after.values()]
        left = timeout
        while True:
            block = min(left, _BLOCK_SECONDS)
            wait = ("BLOCK", max(1, int(block * 1000))) if block > 0 else ()
            reply = self._connection.execute("XREAD", "COUNT", count, *wait, "STREAMS", *keys, *ids)
            left -= block
            if reply or left <= 0 or self._closed.is_set():
                return self._entries(reply or {})

    def trim(self, upto: Mapping[str, Position]) -> None:
        """Delete entries up to and including those positions, exactly."""
        commands = [
            ("XTRIM", self._keys.experience(client), "MINID", _after(position))
            for client, position in upto.items()
        ]
        if commands:
            raise_first(self._connection.execute_all(commands))

    def forget(self, client: str) -> None:
        """Delete a client's stream."""
        self._connection.execute("UNLINK", self._keys.experience(client))

    def discard(self, client: str, after: Position) -> int:
        """Delete all entries of a client's stream, but not the stream; return how many were new."""
        key = self._keys.experience(client)
        self._connection.execute("XTRIM", key, "MINID", _after(after))
        return int(self._connection.execute("XTRIM", key, "MAXLEN", 0))

    def bound(self, clients: Sequence[str], entries: int) -> None:
        """Delete the oldest entries of those streams that have more than so many."""
        commands = [
            ("XTRIM", self._keys.experience(client), "MAXLEN", entries) for client in clients
        ]
        if commands:
            raise_first(self._connection.execute_all(commands))

    def publish(self, weights: Weights) -> Pointer:
        """Store a version, point to it, then hint at it; raise ``Superseded`` if we are.

        The newest version never expires. Those before it are kept for five minutes, or less
        where they would take too much of the server's memory.
        """
        if self._program is None:
            raise WireError("open a run before publishing weights")
        data = encode_weights(weights, self._program, self._dtype)
        pointer = Pointer(
            run=self._run,
            generation=self._generation,
            version=weights.version,
            bytes=len(data),
            sha256=digest(data),
            dtype=self._dtype,
            quota=weights.quota,
            exploration=weights.exploration,
        )
        keys = self._store(pointer, data)
        self._connection.execute("SET", self._keys.model, self._signed("pointer", pointer))
        older = [] if self._newest == keys else self._newest
        self._newest = keys
        if older:
            self._old.append((older, len(data)))
        raise_first(
            self._connection.execute_all(
                [
                    *(("PERSIST", key) for key in keys),
                    *(("EXPIRE", key, _OLD_VERSION_SECONDS) for key in older),
                    ("PUBLISH", self._keys.model, f"{pointer.generation}-{pointer.version}"),
                ]
            )
        )
        self._drop_old()
        return pointer

    def record(self, episodes: Sequence[Episode]) -> None:
        """Append stamped episodes; the newest ten thousand or so are kept."""
        commands = [
            ("XADD", self._keys.episodes, "MAXLEN", "~", _EPISODES, "*", "d", encode(episode))
            for episode in episodes
        ]
        if commands:
            raise_first(self._connection.execute_all(commands))

    def report(self, status: Status) -> None:
        """Store the status for ten seconds."""
        self._connection.execute("SET", self._keys.status, encode(status), "EX", _STATUS_SECONDS)

    def requests(self) -> list[Request]:
        """Return new commands, each at most once ever.

        They are deleted as they are taken, so a restarted node does not repeat them. What was
        asked while no node was there is still done if the asker is still waiting for the answer.
        """
        keys = [self._keys.commands(who) for who in COMMANDING_ROLES]
        reply = self._connection.execute(
            "XREAD", "COUNT", _COMMANDS, "STREAMS", *keys, *["0-0"] * len(keys)
        )
        if not reply:
            return []
        streams = {_text(key): items for key, items in reply.items()}
        raise_first(
            self._connection.execute_all(
                [
                    ("XTRIM", key, "MINID", _after(position_of(items[-1][0])))
                    for key, items in streams.items()
                ]
            )
        )
        seconds, microseconds = self._connection.execute("TIME")
        now = int(seconds) + int(microseconds) / 1e6
        requests: list[Request] = []
        for who in COMMANDING_ROLES:
            for id, fields in streams.get(self._keys.commands(who), ()):
                request = self._request(who, fields, now - position_of(id).epoch / 1e3)
                if request is not None:
                    requests.append(request)
        return requests

    def answer(self, request: Request, answer: Answer) -> None:
        """Say what became of a command; the answer is kept for a minute."""
        who: CommandingRole = "telemetry" if request.who == "telemetry" else "operator"
        self._reply(who, request.id, answer)

    def tell(self, control: Control) -> None:
        """Tell all clients, also those that connect later."""
        data = self._control = encode(control)
        raise_first(
            self._connection.execute_all(
                [("SET", self._keys.control, data), ("PUBLISH", self._keys.control, data)]
            )
        )

    def notify(self, client: str, notice: str) -> None:
        """Store a notice for one client; the control is repeated, because it wakes the client."""
        key = self._keys.notice(client)
        change = ("SET", key, notice.encode()) if notice else ("UNLINK", key)
        wake = ("PUBLISH", self._keys.control, self._control)
        raise_first(self._connection.execute_all([change, wake]))

    def announce(self, event: Event) -> None:
        """Tell all who watch."""
        self._connection.execute("PUBLISH", self._keys.event, encode(event))

    def close(self) -> None:
        """Let go of both connections; a ``read`` that sleeps ends."""
        self._closed.set()
        self._connection.close()

    def _entries(self, reply: Mapping[bytes, Any]) -> list[Entry]:
        start = len(self._keys.experience(""))
        entries: list[Entry] = []
        size = 0
        for key, items in reply.items():
            client = _text(key)[start:]
            for id, fields in items:
                epoch, _, seq = id.partition(b"-")
                data = fields[1] if len(fields) == 2 else None
                size += 0 if data is None else len(data)
                entries.append(Entry(client, Position(int(epoch), int(seq)), data))
        if entries:
            share = min(1.0, len(entries) / 64)
            self._mean_bytes += share * (size / len(entries) - self._mean_bytes)
        return entries

    def _store(self, pointer: Pointer, data: bytes) -> list[str]:
        """Store the pieces, to vanish by themselves unless a pointer follows; return their keys."""
        if self.generation() > self._generation:
            raise Superseded("a newer training node has taken over this run")
        keys: list[str] = []
        for number in range(-(-len(data) // PIECE_BYTES)):
            key = self._keys.piece(pointer.generation, pointer.version, number)
            piece = data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            self._connection.execute("SET", key, piece, "EX", _OLD_VERSION_SECONDS)
            keys.append(key)
        return keys

    def _signed(self, kind: str, value: Struct) -> bytes:
        data = encode(value)
        return encode(Signed(data, self._signer.sign(kind, data) if self._signer else b""))

    def _drop_old(self) -> None:
        total = sum(size for _, size in self._old)
        while len(self._old) > 1 and total > _OLD_VERSIONS_BYTES:
            keys, size = self._old.popleft()
            total -= size
            self._connection.execute("UNLINK", *keys)

    def _request(self, who: CommandingRole, fields: Sequence[bytes], age: float) -> Request | None:
        try:
            asked = decode(fields[1], CommandEntry)
        except WireError as error:
            self._reply(who, _id_in(fields), Answer(False, f"not a command: {error}"))
            return None
        if age > asked.patience or not is_name(asked.id):
            return None
        return Request(who, asked.id, asked.command)

    def _reply(self, who: CommandingRole, id: str, answer: Answer) -> None:
        if not is_name(id):
            return
        key = self._keys.reply(who, id)
        try:
            raise_first(
                self._connection.execute_all(
                    [("RPUSH", key, encode(answer)), ("EXPIRE", key, _REPLY_SECONDS)]
                )
            )
        except ServerFull:
            return  # the command is done all the same; its asker learns that no answer came

    def _scan(self, pattern: str) -> set[str]:
        found: set[str] = set()
        cursor: Any = 0
        while True:
            cursor, keys = self._connection.execute(
                "SCAN", cursor, "MATCH", self._keys.prefix + pattern, "COUNT", 1000
            )
            found.update(_text(key) for key in keys)
            if int(cursor) == 0:
                return found

    def _remove(self, pattern: str) -> None:
        keys = self._scan(pattern)
        if keys:
            self._connection.execute("UNLINK", *keys)


def fair_count(streams: int, mean_bytes: float) -> int:
    """Return how many entries to take from each of so many streams in one call."""
    fitting = int(_READ_BYTES / (streams * max(mean_bytes, 1.0)))
    return max(1, min(_READ_ENTRIES, fitting))


def _manifest(spec: RunSpec) -> Manifest:
    return Manifest(spec.run, digest(encode(spec)), spec.program_sha256)


def _after(position: Position) -> str:
    """Return the smallest id greater than a position; the last of all is its own."""
    epoch, seq = position
    if seq + 1 < _ID_END:
        return f"{epoch}-{seq + 1}"
    return f"{epoch + 1}-0" if epoch + 1 < _ID_END else f"{epoch}-{seq}"


def _text(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def _id_in(fields: Sequence[bytes]) -> str:
    """Return the id of a command that could not be read otherwise, or nothing."""
    try:
        return decode(fields[1], _Identified).id
    except WireError:
        return ""


class _Identified(Struct, frozen=True):
    id: str
