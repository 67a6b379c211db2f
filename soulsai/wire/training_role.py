"""The training node's side of the wire: publishes the run and reads the streams of all clients."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from soulsai.errors import AccessDenied, ServerFull, Superseded, Unreachable, WireError
from soulsai.types import (
    Answer,
    Command,
    Control,
    Delta,
    DeltaPointer,
    Episode,
    Event,
    Pointer,
    Program,
    RunSpec,
    Status,
    Weights,
    WholeVersion,
)
from soulsai.wire.client_role import position_of, text_of
from soulsai.wire.codec import check_spec, decode, encode
from soulsai.wire.names import COMMANDING_ROLES, CommandingRole, Keys, is_name
from soulsai.wire.protocols import Entry, Position, Request
from soulsai.wire.redis.connection import RedisCommand, RedisConnection, Word, raise_first, scan
from soulsai.wire.redis.connection_limit import close_excess
from soulsai.wire.signing import Manifest, Signed, Signer
from soulsai.wire.weights import (
    PIECE_BYTES,
    digest,
    encode_weights,
    program_digest,
)

_STATUS_SECONDS = 10
_STATUS_BYTES = 2 * 2**20  # a thousand clients with long texts have more
_REPLY_SECONDS = 60
_KEPT_SECONDS = 3600  # of a version that clients are asked to play
_OLD_VERSION_SECONDS = 300
_RECEIVED_SECONDS = 60
_OLD_VERSIONS_BYTES = 128 * 2**20  # superseded weights beyond this are deleted at once
_EPISODES = 10_000  # in their stream, which is for a telemetry node that was away
_EPISODE_BYTES = 4 * 2**20  # of those; their infos may be large
_COMMANDS = 64  # taken per call
_BLOCK_SECONDS = 0.25  # per command: a stop is noticed within that time
_READ_BYTES = 8 * 2**20  # expected at most per command; the server permits replies of 32 MB
_READ_ENTRIES = 16  # at most, per client and call; larger reads are not faster
_UNKNOWN_STREAMS = 3  # read per command; an entry of an unknown client may have 8 MB
_STREAM_BYTES = (
    128 * 2**20
)  # of entries that were read, per client, until a checkpoint deletes them
_ENTRY_COST = 2**16  # bytes that an entry counts at least: a read has a few hundred of them
_BOUNDED_STREAMS = 64  # per look for clients, besides those that may be too long
_SCAN_KEYS = 1000  # per command, and
_SCAN_COMMANDS = 32  # per look for clients: keys of others must not delay the reading
_ID_END = 2**64  # both numbers of an entry's id are below that
_LAST = Position(_ID_END - 1, _ID_END - 1)


class CommandEntry(Struct, frozen=True):
    """A command in its stream; it is void ``patience`` seconds after it was sent."""

    id: Annotated[str, Meta(max_length=64)]
    patience: Annotated[float, Meta(ge=0, le=3600)]  # seconds
    command: Command


class TrainingRole:
    """Implements ``TrainingWire``, which documents the methods.

    One thread can wait in ``read`` while another publishes. The newest weights never expire; older
    ones are kept for five minutes, or less where they would take too much of the server's memory.
    """

    def __init__(
        self,
        connection: RedisConnection,
        run: str,
        signer: Signer | None = None,
    ) -> None:
        self._keys = Keys(run)
        self._signer = signer
        self._connection = connection
        self._closed = threading.Event()
        self._program: Program | None = None
        self._run = ""
        self._generation = 0
        self._control = encode(Control("resume"))  # the last one
        self._streams: dict[str, StreamSize] = {}  # of the clients that were read before
        self._clients: set[str] = set()  # found by the last walk through all keys
        self._found: set[str] = set()  # by the present one
        self._cursor = 0  # of the present one
        self._may_close = True  # connections of clients
        self._kept: dict[str, KeptEntries] = {}  # that were read, and are still on the server
        self._bounded = 0  # looks for streams that are too long
        self._deleted: deque[tuple[str, Position]] = deque()  # of them, by any thread
        self._pointed = b""  # the pointer to the newest weights, as it is stored
        self._episode_sizes: deque[int] = deque()  # of the newest episodes
        self._episode_bytes = 0  # their sum
        self._newest: list[str] = []  # keys of the newest weights
        self._base: Pointer | None = None  # to the last version that was published whole
        self._base_keys: list[str] = []  # of its weights
        self._old: deque[tuple[list[str], int]] = deque()

    def __repr__(self) -> str:
        return f"TrainingRole({self._keys.run!r}, generation {self._generation})"

    def open(self, spec: RunSpec, program: Program, fresh: bool) -> int:
        """Publish a run; paused clients resume, and weights of earlier nodes expire.

        Args:
            spec: The run; it replaces a run of another id.
            program: The policy's graph.
            fresh: Also remove streams, weights and episodes of the same run.
        """
        check_spec(spec)
        if spec.program_sha256 != program_digest(program):
            raise WireError("spec.program_sha256 is not wire.weights.program_digest(program)")
        if fresh or self._holds_other(spec.run):
            self._remove("exp:*")
            self._remove("received:*")
            self._remove("model*")
            self._connection.execute("UNLINK", self._keys.episodes, self._keys.status)
        generation = int(self._connection.execute("INCR", self._keys.generation))
        self._remove("notice:*")
        for key in scan(self._connection, f"{self._keys.model}:*"):
            self._connection.execute("EXPIRE", key, _OLD_VERSION_SECONDS)
        manifest = Manifest(spec.run, digest(encode(spec)), spec.program_sha256)
        self._all(
            [
                ("SET", self._keys.program, encode(program)),
                ("SET", self._keys.manifest, self._signed("manifest", manifest)),
                ("SET", self._keys.spec, encode(spec)),
            ]
        )
        self._program, self._run, self._generation = program, spec.run, generation
        self.tell(Control("resume"))
        return generation

    def _holds_other(self, run: str) -> bool:
        """Return whether another run is published.

        Without any, the server has lost its data, and clients may have sent theirs again.
        """
        published = self._connection.execute("GET", self._keys.spec)
        try:
            return published is not None and decode(published, RunSpec).run != run
        except WireError:
            return True

    def generation(self) -> int:
        return int(self._connection.execute("GET", self._keys.generation) or 0)

    def time(self) -> float:
        """Return the Unix seconds of the server's clock."""
        seconds, microseconds = self._connection.execute("TIME")
        return int(seconds) + int(microseconds) / 1e6

    def clients(self) -> list[str]:
        pattern, start = self._keys.experience("*"), len(self._keys.experience(""))
        for _ in range(_SCAN_COMMANDS):
            cursor, keys = self._connection.execute(
                "SCAN", self._cursor, "MATCH", pattern, "COUNT", _SCAN_KEYS
            )
            self._found.update(_text(key)[start:] for key in keys)
            self._cursor = int(cursor)
            if not self._cursor:
                self._clients, self._found = self._found, set()
                break
        return sorted(name for name in self._clients | self._found if is_name(name))

    def read(self, after: Mapping[str, Position], timeout: float) -> list[Entry]:
        if not after:
            self._closed.wait(timeout)
            return []
        streams = self._streams
        self._streams = {client: streams[client] for client in after if client in streams}
        left = timeout
        while True:
            block = min(left, _BLOCK_SECONDS)
            try:
                entries = self._read(after, block)
            except Unreachable:
                # The reply may have exceeded the server's limit; read single entries again.
                self._streams.clear()
                raise
            left -= block
            if entries or left <= 0 or self._closed.is_set():
                return entries

    def _read(self, after: Mapping[str, Position], block: float) -> list[Entry]:
        """Read without waiting, then wait up to ``block`` seconds for one entry of a stream."""
        entries: list[Entry] = []
        after = dict(after)
        unknown = [client for client in after if client not in self._streams]
        later = frozenset(unknown[_UNKNOWN_STREAMS:])  # only one entry of each in this read
        while unknown and _cost(entries) < _READ_BYTES:
            few, unknown = unknown[:_UNKNOWN_STREAMS], unknown[_UNKNOWN_STREAMS:]
            self._streams |= {client: StreamSize() for client in few}
            batch = self._take([(1, few)], after)
            entries += batch
            after |= {entry.client: entry.position for entry in batch}
        streams = {client: size for client, size in self._streams.items() if client not in later}
        left = _READ_BYTES - _bytes(entries)
        while streams and left > 0:
            batch = self._take(read_groups(streams), after)
            entries += batch
            after |= {entry.client: entry.position for entry in batch}
            left -= _cost(batch)
            more = {entry.client for entry in batch}
            streams = {client: streams[client] for client in more if streams[client].was_full}
        if entries or block <= 0 or len(self._streams) < len(after):
            return entries
        return self._take([(1, list(after))], after, ("BLOCK", max(1, int(block * 1000))))

    def _take(
        self,
        groups: Sequence[tuple[int, Sequence[str]]],
        after: Mapping[str, Position],
        wait: Sequence[Word] = (),
    ) -> list[Entry]:
        replies = self._connection.execute_all(
            [
                (
                    *("XREAD", "COUNT", count, *wait, "STREAMS"),
                    *(self._keys.experience(client) for client in clients),
                    *(text_of(after[client]) for client in clients),
                )
                for count, clients in groups
            ]
        )
        raise_first(replies)
        return [entry for reply in replies for entry in self._entries(reply or {})]

    def _entries(self, reply: Mapping[bytes, Any]) -> list[Entry]:
        start = len(self._keys.experience(""))
        entries: list[Entry] = []
        for key, items in reply.items():
            client = _text(key)[start:]
            # Names and all fields count: a hostile client may hide its bytes in any of them.
            sizes = [sum(map(len, fields)) for _, fields in items]
            self._streams[client].note(sizes)
            kept = self._kept.setdefault(client, KeptEntries())
            for (id, fields), size in zip(items, sizes, strict=True):
                data = fields[1] if len(fields) == 2 and fields[0] == b"d" else None
                entries.append(Entry(client, position_of(id), data))
                kept.add(entries[-1].position, size)
        return entries

    def trim(self, upto: Mapping[str, Position]) -> dict[str, int]:
        replies = self._all(
            ("XTRIM", self._keys.experience(client), "MINID", _after(position))
            for client, position in upto.items()
        )
        self._deleted.extend(upto.items())
        return dict(zip(upto, map(int, replies), strict=True))

    def confirm(self, upto: Mapping[str, Position]) -> None:
        self._all(
            ("SET", self._keys.received(client), text_of(position), "EX", _RECEIVED_SECONDS)
            for client, position in upto.items()
        )

    def limit_connections(self) -> None:
        if self._connection.user != "training_node" or not self._may_close:
            return  # a server with one password for everybody knows no clients by their users
        try:
            close_excess(self._connection)
        except AccessDenied:  # users of an earlier release
            self._may_close = False

    def forget(self, client: str) -> None:
        self._deleted.append((client, _LAST))
        self._connection.execute("UNLINK", self._keys.experience(client))

    def discard(self, client: str, after: Position) -> int:
        key = self._keys.experience(client)
        self._deleted.append((client, _LAST))
        self._connection.execute("XTRIM", key, "MINID", _after(after))
        return int(self._connection.execute("XTRIM", key, "MAXLEN", 0))

    def bound(self, clients: Sequence[str], entries: int) -> bool:
        while self._deleted:
            client, upto = self._deleted.popleft()
            if client in self._kept:
                self._kept[client].delete(upto)
        self._kept = {client: self._kept[client] for client in clients if client in self._kept}
        large = {
            client: position
            for client, kept in self._kept.items()
            if (position := kept.excess(_STREAM_BYTES)) is not None
        }
        commands: list[RedisCommand] = [
            ("XTRIM", self._keys.experience(client), "MAXLEN", entries)
            for client in self._may_exceed(clients, entries)
        ]
        commands += [
            ("XTRIM", self._keys.experience(client), "MINID", _after(position))
            for client, position in large.items()
        ]
        self._all(commands)
        return any(2 * kept.bytes > _STREAM_BYTES for kept in self._kept.values())

    def _may_exceed(self, clients: Sequence[str], entries: int) -> Iterator[str]:
        """Yield the clients whose streams may have more than so many entries.

        Of a stream that was read to its end, the length is known. Since a server may have lost
        deletions, each stream is taken in its turn, too.
        """
        turns = -(-len(clients) // _BOUNDED_STREAMS)
        for number, client in enumerate(clients):
            stream, kept = self._streams.get(client), self._kept.get(client)
            is_read = stream is not None and not stream.was_full and kept is not None
            is_short = is_read and kept is not None and 2 * len(kept) < entries
            if not is_short or number % turns == self._bounded % turns:
                yield client
        self._bounded += 1

    def publish(self, weights: Weights) -> Pointer:
        if self._program is None:
            raise WireError("open a run before publishing weights")
        data = encode_weights(weights, self._program, weights.dtype)
        pointer = self._pointer(weights, data, self._generation)
        keys = self._store(pointer, data)
        if weights.delta is None:
            self._base, base = pointer, keys
        else:
            pointer = self._with_delta(pointer, weights.delta)
            keys += self._store(pointer, weights.delta.data, piece=self._keys.delta_piece)
            base = self._base_keys
        self._pointed = self._signed("pointer", pointer)
        self._connection.execute("SET", self._keys.model, self._pointed)
        current = {*keys, *base}
        older = [key for key in {*self._newest, *self._base_keys} if key not in current]
        self._newest, self._base_keys = keys, base
        if older:
            self._old.append((sorted(older), len(data)))
        self._all(
            [
                *(("PERSIST", key) for key in keys),
                *(("EXPIRE", key, _OLD_VERSION_SECONDS) for key in older),
                ("PUBLISH", self._keys.model, f"{pointer.generation}-{pointer.version}"),
            ]
        )
        self._drop_old()
        return pointer

    def _with_delta(self, pointer: Pointer, delta: Delta) -> Pointer:
        """Return a pointer that names a delta, too."""
        base = self._base
        if base is None or base.order != (pointer.generation, delta.base):
            raise WireError(f"version {delta.base} was not the last one to be published whole")
        whole = WholeVersion(base.version, base.bytes, base.sha256, base.dtype)
        return msgspec.structs.replace(pointer, delta=DeltaPointer(len(delta.data), whole))

    def keep(self, weights: Weights) -> bytes:
        if self._program is None:
            raise WireError("open a run before publishing weights")
        data = encode_weights(weights, self._program, weights.dtype)
        pointer = self._pointer(weights, data, weights.generation)
        keys = self._store(pointer, data, _KEPT_SECONDS)
        self._old = deque(
            ([key for key in old if key not in keys], size) for old, size in self._old
        )
        return self._signed("pointer", pointer)

    def _pointer(self, weights: Weights, data: bytes, generation: int) -> Pointer:
        return Pointer(
            run=self._run,
            generation=generation,
            version=weights.version,
            bytes=len(data),
            sha256=digest(data),
            dtype=weights.dtype,
            quota=weights.quota,
            exploration=weights.exploration,
        )

    def is_published(self) -> bool:
        return (
            not self._pointed or self._connection.execute("GET", self._keys.model) == self._pointed
        )

    def record(self, episodes: Sequence[Episode]) -> None:
        entries = [encode(episode) for episode in episodes]
        key, most = self._keys.episodes, self._fitting_episodes(map(len, entries))
        self._all(("XADD", key, "MAXLEN", "~", most, "*", "d", data) for data in entries)

    def _fitting_episodes(self, sizes: Iterable[int]) -> int:
        """Note the sizes of new episodes; return the number of the newest that may stay."""
        known = self._episode_sizes
        for size in sizes:
            known.append(size)
            self._episode_bytes += size
        most = _EPISODES
        while self._episode_bytes > _EPISODE_BYTES or len(known) > _EPISODES:
            self._episode_bytes -= known.popleft()
            most = len(known)
        return most

    def report(self, status: Status) -> None:
        data = encode(status)
        if len(data) > _STATUS_BYTES:
            raise ValueError(f"it has {len(data)} bytes, beyond {_STATUS_BYTES}")
        self._connection.execute("SET", self._keys.status, data, "EX", _STATUS_SECONDS)

    def requests(self) -> list[Request]:
        keys = [self._keys.commands(who) for who in COMMANDING_ROLES]
        reply = self._connection.execute(
            "XREAD", "COUNT", _COMMANDS, "STREAMS", *keys, *["0-0"] * len(keys)
        )
        if not reply:
            return []
        streams = {_text(key): items for key, items in reply.items()}
        self._all(
            ("XTRIM", key, "MINID", _after(position_of(items[-1][0])))
            for key, items in streams.items()
        )
        # They are deleted before they are carried out, so that no restarted node repeats them.
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
        who: CommandingRole = "telemetry" if request.who == "telemetry" else "operator"
        self._reply(who, request.id, answer)

    def tell(self, control: Control) -> None:
        data = self._control = encode(control)
        self._all([("SET", self._keys.control, data), ("PUBLISH", self._keys.control, data)])

    def notify(self, client: str, notice: str) -> None:
        key = self._keys.notice(client)
        change = ("SET", key, notice.encode()) if notice else ("UNLINK", key)
        wake = ("PUBLISH", self._keys.control, self._control)
        self._all([change, wake])  # the repeated control ends the client's wait

    def announce(self, event: Event) -> None:
        self._connection.execute("PUBLISH", self._keys.event, encode(event))

    def close(self) -> None:
        self._closed.set()
        self._connection.close()

    def _store(
        self,
        pointer: Pointer,
        data: bytes,
        seconds: int = _OLD_VERSION_SECONDS,
        piece: Callable[[int, int, int], str] | None = None,
    ) -> list[str]:
        """Store the pieces, which expire unless a pointer follows; return their keys."""
        if self.generation() > self._generation:
            raise Superseded("a newer training node has taken over this run")
        keys: list[str] = []
        for number in range(-(-len(data) // PIECE_BYTES)):
            key = (piece or self._keys.piece)(pointer.generation, pointer.version, number)
            part = data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            self._connection.execute("SET", key, part, "EX", seconds)
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
            if keys:
                self._connection.execute("UNLINK", *keys)

    def _request(self, who: CommandingRole, fields: Sequence[bytes], age: float) -> Request | None:
        try:
            entry = decode(fields[1], CommandEntry)
        except WireError as error:
            self._reply(who, _id_in(fields), Answer(False, f"not a command: {error}"))
            return None
        if age > entry.patience or not is_name(entry.id):
            return None
        return Request(who, entry.id, entry.command)

    def _reply(self, who: CommandingRole, id: str, answer: Answer) -> None:
        if not is_name(id):
            return
        key = self._keys.reply(who, id)
        try:
            self._all([("RPUSH", key, encode(answer)), ("EXPIRE", key, _REPLY_SECONDS)])
        except ServerFull:
            return  # the command is carried out all the same; its sender times out

    def _all(self, commands: Iterable[RedisCommand]) -> list[Any]:
        """Execute commands; return their replies, or raise the first error among them."""
        batch = list(commands)
        replies = self._connection.execute_all(batch) if batch else []
        raise_first(replies)
        return replies

    def _remove(self, pattern: str) -> None:
        keys = scan(self._connection, self._keys.prefix + pattern)
        if keys:
            self._connection.execute("UNLINK", *keys)


class StreamSize:
    """The size of a stream's entries, and the number of them to read in the next call."""

    def __init__(self) -> None:
        self.bytes = 0.0  # of the largest recent entries
        self.count = 1
        self.was_full = False  # whether the last reply had as many entries

    def note(self, sizes: Sequence[int]) -> None:
        """Learn from the sizes of the entries of one reply; a full reply doubles the count.

        The first entry, a short greeting, does not tell the size of the others.
        """
        is_first = not self.bytes
        self.bytes = max(*sizes, 0.9 * self.bytes)
        self.was_full = len(sizes) >= self.count
        if self.was_full and not is_first:
            self.count = min(2 * self.count, _READ_ENTRIES)


class KeptEntries:
    """The sizes of a stream's entries that were read and that the server still holds."""

    def __init__(self) -> None:
        self.bytes = 0
        self._entries: deque[tuple[Position, int]] = deque()

    def __len__(self) -> int:
        """Return their number."""
        return len(self._entries)

    def add(self, position: Position, size: int) -> None:
        """Note an entry that was read."""
        self._entries.append((position, size))
        self.bytes += size

    def delete(self, upto: Position) -> None:
        """Note the deletion of the entries up to a position."""
        while self._entries and self._entries[0][0] <= upto:
            self.bytes -= self._entries.popleft()[1]

    def excess(self, most: int) -> Position | None:
        """Remove the oldest entries beyond ``most`` bytes; return the position of the last one."""
        last = None
        while self.bytes > most:
            last, size = self._entries.popleft()
            self.bytes -= size
        return last


def read_groups(streams: Mapping[str, StreamSize]) -> list[tuple[int, list[str]]]:
    """Return numbers of entries to read, each with its clients; all streams share 8 MiB."""
    groups: dict[int, list[str]] = {}
    for client, stream in streams.items():
        fitting = max(1, int(_READ_BYTES / (len(streams) * max(1.0, stream.bytes))))
        stream.count = min(stream.count, 2 ** (fitting.bit_length() - 1))
        groups.setdefault(stream.count, []).append(client)
    return list(groups.items())


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(len(entry.data or b"") for entry in entries)


def _cost(entries: Sequence[Entry]) -> int:
    """Return the bytes that entries count in a read."""
    return _bytes(entries) + len(entries) * _ENTRY_COST


def _after(position: Position) -> str:
    """Return the smallest id greater than a position, or the greatest possible id."""
    epoch, seq = position
    if seq + 1 < _ID_END:
        return f"{epoch}-{seq + 1}"
    return f"{epoch + 1}-0" if epoch + 1 < _ID_END else f"{epoch}-{seq}"


def _text(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def _id_in(fields: Sequence[bytes]) -> str:
    """Return the id of a command that cannot be decoded as a whole, or an empty text."""
    try:
        return decode(fields[1], _Identified).id
    except WireError:
        return ""


class _Identified(Struct, frozen=True):
    id: str
