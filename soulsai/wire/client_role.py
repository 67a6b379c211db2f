"""A client's side of the wire: writes its own stream and reads the published run."""

import logging
from collections.abc import Callable, Sequence

from soulsai.errors import AccessDenied, Forged, NoRun, Superseded, Unreachable, WireError
from soulsai.types import (
    Array,
    Control,
    DeltaPointer,
    EvaluationRequest,
    Hello,
    Pointer,
    Program,
    RunSpec,
    Weights,
)
from soulsai.wire.codec import decode, encode_message, pack
from soulsai.wire.delta import weights_by_delta
from soulsai.wire.names import Keys, checked
from soulsai.wire.protocols import Position
from soulsai.wire.redis.connection import OldId, RedisConnection
from soulsai.wire.redis.subscriber import Subscriber
from soulsai.wire.shared_weights import SharedWeights
from soulsai.wire.signing import Manifest, Signed, Verifier
from soulsai.wire.version import ProtocolRange, check_protocol
from soulsai.wire.weights import (
    PIECE_BYTES,
    decode_weights,
    digest,
    weights_bytes,
)

log = logging.getLogger(__name__)

_SMALL_BYTES = 2**20  # of a spec, a pointer, a control
_PROGRAM_BYTES = 64 * 2**20
_STREAM_ENTRIES = 4096  # until the run's spec says better


class ClientRole:
    """Implements ``ClientWire``, which documents the methods.

    With a pinned key, unsigned data counts as absent: the last authentic pointer stays valid. The
    last control is also stored on the server and read with each new subscription, so that none is
    missed while there is no connection.
    """

    def __init__(
        self,
        connection: RedisConnection,
        run: str,
        client: str,
        verifier: Verifier | None = None,
        shared: SharedWeights | None = None,
    ) -> None:
        self._keys = Keys(run)
        self._stream = self._keys.experience(checked("client.name", client))
        self._client = client
        self._verifier = verifier
        self._shared = shared
        self._downloaded = 0  # bytes of weights, if nothing is shared
        self._spec: RunSpec | None = None
        self._pointer: Pointer | None = None  # the last one that was authentic
        self._forged = False
        self._connection = connection
        self._made: int | None = None  # connections when entries were sent last
        self._is_confirmed = True  # until we may not read it: an invite of an earlier release
        self._hinted = False  # by the last wait
        self._base: dict[str, Array] | None = None  # the arrays of a version that came whole
        self._base_order = (0, 0)  # its generation and version
        self._subscriber = Subscriber(connection, (self._keys.model, self._keys.control))

    def __repr__(self) -> str:
        return f"ClientRole({self._client!r} in {self._keys.run!r})"

    def spec(self) -> RunSpec:
        data = self._fetch(self._keys.spec, _SMALL_BYTES)
        if not data:
            raise NoRun(f"no training run is published under the name {self._keys.run!r} yet")
        # Of a spec of a newer protocol, perhaps no other field can be decoded.
        check_protocol(decode(data, ProtocolRange))
        try:
            self._check_manifest(data)
        except Forged as error:
            if self._spec is None:
                raise
            raise WireError(str(error)) from error  # an earlier spec was authentic: try again
        self._spec = decode(data, RunSpec)
        return self._spec

    def _check_manifest(self, spec: bytes) -> None:
        if self._verifier is None:
            return
        signed = self._fetch(self._keys.manifest, _SMALL_BYTES)
        data = self._authentic(self._verifier, "manifest", signed)
        manifest = decode(data, Manifest)
        if manifest.spec_sha256 != digest(spec):
            raise WireError("the published spec is not the one that the training node has signed")

    def program(self, spec: RunSpec) -> Program:
        data = self._fetch(self._keys.program, _PROGRAM_BYTES)
        if digest(data) != spec.program_sha256:
            raise WireError("the published program is not the one that the run's spec names")
        return decode(data, Program)

    def hello(self, hello: Hello) -> Position:
        data = pack([encode_message(hello, self._spec or self.spec())])
        try:
            position = position_of(self._connection.execute(*self._add("*", data)))
            if position.seq:  # the server's clock went back: begin the next epoch by hand
                position = Position(position.epoch + 1, 0)
                self._connection.execute(*self._add(text_of(position), data))
        except OldId as error:
            # Only the training node can repair that, by deleting the stream.
            raise Unreachable(f"our stream takes no more entries: {error}") from error
        self._made = self._connection.made
        return position

    def push(self, entries: Sequence[tuple[Position, bytes]], retry: bool = False) -> None:
        commands = [self._add(text_of(position), data) for position, data in entries]
        if not commands:
            return
        try:
            replies = self._connection.execute_all(commands, self._made)
        except WireError:
            self._made = self._connection.made  # the caller sends again
            raise
        for reply in replies:
            if isinstance(reply, OldId):
                if not retry:
                    raise Superseded(
                        f"another process plays under the name {self._client!r}; "
                        "give each client its own client.name"
                    )
            elif isinstance(reply, WireError):
                raise reply

    def pointer(self) -> Pointer | None:
        data = self._fetch(self._keys.model, _SMALL_BYTES)
        if not data:
            return None
        if self._verifier is None:
            return decode(decode(data, Signed).data, Pointer)
        try:
            pointed = self._authentic(self._verifier, "pointer", data)
        except Forged as error:
            if not self._forged:
                self._forged = True
                log.warning("weights=ignored: %s", error)
            return self._pointer
        self._forged = False
        self._pointer = decode(pointed, Pointer)
        return self._pointer

    def requested(self, request: EvaluationRequest) -> Pointer:
        if self._verifier is None:
            return decode(decode(request.pointer, Signed).data, Pointer)
        return decode(self._authentic(self._verifier, "pointer", request.pointer), Pointer)

    def weights(self, pointer: Pointer, program: Program) -> Weights:
        if pointer.bytes != weights_bytes(program, pointer.dtype):
            raise WireError(
                f"weights {pointer.generation}-{pointer.version} are of another program"
            )
        if pointer.delta is not None and pointer.delta.bytes < pointer.bytes:
            try:
                return self._weights_by_delta(pointer, pointer.delta, program)
            except (Unreachable, AccessDenied):
                raise
            except WireError as error:
                log.warning("weights=whole: %s", error)
        weights = self._whole_weights(pointer, program)
        if self._base is None or pointer.order > self._base_order:
            self._base_order, self._base = pointer.order, weights.arrays
        return weights

    def _whole_weights(self, pointer: Pointer, program: Program) -> Weights:
        return self._once(
            pointer,
            pointer.bytes,
            self._keys.piece,
            lambda data: decode_weights(data, pointer, program),
        )

    def _once(
        self,
        pointer: Pointer,
        size: int,
        key: Callable[[int, int, int], str],
        decode: Callable[[bytes], Weights],
    ) -> Weights:
        """Fetch pieces, unless another client of this machine has done so, and decode them."""

        def download() -> bytes:
            return self._pieces(pointer, size, key)

        if self._shared is None:
            self._downloaded += size
            return decode(download())
        return self._shared.weights(pointer, size, download, decode)

    @property
    def weights_bytes(self) -> tuple[int, int]:
        if self._shared is None:
            return self._downloaded, 0
        return self._shared.downloaded, self._shared.shared

    def _weights_by_delta(self, pointer: Pointer, delta: DeltaPointer, program: Program) -> Weights:
        """Fetch a delta, and before it the version that it is the difference to, if we lack that.

        The digest is that of the whole version, so it covers both.
        """
        order = (pointer.generation, delta.base.version)
        base = self._base if self._base_order == order else None
        if base is None:
            whole = Pointer(
                pointer.run, *order, delta.base.bytes, delta.base.sha256, delta.base.dtype
            )
            if whole.bytes != weights_bytes(program, whole.dtype):
                raise WireError(f"weights {order[0]}-{order[1]} are of another program")
            base = self._whole_weights(whole, program).arrays
            self._base_order, self._base = order, base
        arrays = base
        return self._once(
            pointer,
            delta.bytes,
            self._keys.delta_piece,
            lambda data: weights_by_delta(data, pointer, arrays, program),
        )

    def _pieces(self, pointer: Pointer, size: int, key: Callable[[int, int, int], str]) -> bytes:
        """Return all pieces of weights, joined."""
        pieces: list[bytes] = []
        for number in range(-(-size // PIECE_BYTES)):
            place = key(pointer.generation, pointer.version, number)
            piece: bytes = self._connection.execute("GETRANGE", place, 0, PIECE_BYTES - 1)
            if not piece:
                raise WireError(f"weights {pointer.generation}-{pointer.version} are gone")
            pieces.append(piece)
        return b"".join(pieces)

    @property
    def hinted(self) -> bool:
        return self._hinted

    def wait(self, timeout: float) -> list[Control]:
        controls: list[Control] = []
        self._hinted = False
        for channel, data in self._subscriber.receive(timeout):
            if channel != self._keys.control:
                self._hinted = True
                continue
            said = self._fetch(self._keys.control, _SMALL_BYTES) if data is None else data
            if said:
                controls.append(decode(said, Control))
        return controls

    def notice(self) -> str:
        try:
            notice = self._fetch(self._keys.notice(self._client), _SMALL_BYTES)
        except AccessDenied:  # an invite of an earlier release has no right to read it
            return ""
        return notice.decode("utf-8", "replace")

    def received(self) -> Position | None:
        if not self._is_confirmed:
            return None
        try:
            return position_of(self._fetch(self._keys.received(self._client), _SMALL_BYTES))
        except AccessDenied:
            self._is_confirmed = False
            return None
        except ValueError:
            return None

    def wake(self) -> None:
        self._subscriber.wake()

    def close(self) -> None:
        self._subscriber.close()
        self._connection.close()
        if self._shared is not None:
            self._shared.close()

    def _add(self, id: str, data: bytes) -> tuple[str | int | bytes, ...]:
        most = self._spec.stream_entries if self._spec else _STREAM_ENTRIES
        return ("XADD", self._stream, "MAXLEN", "~", most, id, "d", data)

    def _authentic(self, verifier: Verifier, kind: str, data: bytes) -> bytes:
        """Return the signed data; raise ``Forged`` without a valid signature."""
        try:
            signed = decode(data, Signed)
        except WireError:
            signed = Signed(b"")
        verifier.check(kind, signed.data, signed.signature)
        return signed.data

    def _fetch(self, key: str, limit: int) -> bytes:
        """Return a string of the server in bounded pieces; empty if there is none."""
        pieces: list[bytes] = []
        size = 0
        while True:
            piece: bytes = self._connection.execute("GETRANGE", key, size, size + PIECE_BYTES - 1)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise WireError(f"{key} is over {limit} bytes")
            if len(piece) < PIECE_BYTES:
                return b"".join(pieces)


def position_of(id: bytes) -> Position:
    """Return the position of an entry's id."""
    epoch, _, seq = id.partition(b"-")
    return Position(int(epoch), int(seq))


def text_of(position: Position) -> str:
    """Return the id of the entry at a position."""
    return f"{position.epoch}-{position.seq}"
