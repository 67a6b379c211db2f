"""Encoding and decoding of messages: MessagePack headers and raw columns, never pickle.

An entry of a client's stream is framed as ``version u8, flags u8, messages u16, size u32`` and
``size`` bytes of messages (one lz4 block if flag 1 is set). A message is
``crc u32, size u32, header u16, kind u8, 0``, its header, and for a fragment the columns of
``layout.py``; everything is padded to 8 bytes, so that arrays are views into the received bytes.
Of consecutive stacks of frames, each frame is sent once.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, TypeVar

import lz4.block
import msgspec
from msgspec import Meta, Struct

from soulsai.errors import ConfigError, Rejected, SoulsAIError, WireError
from soulsai.types import Episode, Fragment, Heartbeat, Hello, RunSpec
from soulsai.wire.layout import Layout, WireColumn, padded, plan
from soulsai.wire.protocols import Entry

T = TypeVar("T", bound=Struct)
Message = Fragment | Episode | Heartbeat | Hello

ENTRY_BYTES = 2_000_000  # of an entry as it is sent
RAW_BYTES = 16 * 2**20  # of an entry unpacked: the limit of an lz4 bomb
MAX_MESSAGES = 256  # in one entry
_COMPRESS_FROM = 1024
_WORTH_IT = 0.9  # entries that compress to a larger share are sent uncompressed

_FRAMING = 1
_LZ4 = 1
_ENTRY = struct.Struct("<BBHI")
_MESSAGE = struct.Struct("<IIHBx")
_FRAGMENT = struct.Struct("<QdIIIIHBx")
_BODY = padded(_MESSAGE.size + _FRAGMENT.size)
_TERMINATED, _TRUNCATED, _GREEDY, _ROLLS, _INTERVENED = 1, 2, 4, 8, 16
_KIND_FRAGMENT, _KIND_EPISODE, _KIND_HEARTBEAT, _KIND_HELLO = 1, 2, 3, 4

# A client that takes a million steps per second stays under this for eight years.
_Count = Annotated[int, Meta(ge=0, lt=2**48)]
_Word = Annotated[str, Meta(max_length=256)]
_Kind = Annotated[str, Meta(pattern=r"\A[a-z]{1,16}\Z")]
LINE = 200  # letters of a line about a client
_NO_CONTROLS = r"\A[^\x00-\x1f\x7f-\x9f]*\Z"
_Line = Annotated[str, Meta(max_length=LINE, pattern=_NO_CONTROLS)]
_Text = Annotated[str, Meta(max_length=100, pattern=_NO_CONTROLS)]
_ValueName = Annotated[str, Meta(max_length=64, pattern=_NO_CONTROLS)]
_Values = Annotated[dict[_ValueName, _Text | int | float | bool | None], Meta(max_length=16)]


class _Episode(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    generation: _Count
    version: _Count
    episode: _Count
    reward: float
    steps: _Count
    seconds: float
    terminated: bool
    greedy: bool
    epsilon: float
    info: Annotated[dict[Annotated[str, Meta(max_length=64)], float], Meta(max_length=32)]
    kwargs: _Values = {}


class _Heartbeat(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    steps: _Count
    episodes: _Count
    dropped: _Count
    queued: _Count
    version: _Count
    restarts: _Count
    waiting: bool
    faults: Annotated[dict[_Kind, _Count], Meta(max_length=16)]
    trouble: _Line
    kwargs: _Values = {}


class _Hello(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    run: _Word
    protocol: _Count
    software: _Word
    environment: _Word
    environments: _Count
    crc: _Count


_encoder = msgspec.msgpack.Encoder()
_episodes = msgspec.msgpack.Decoder(_Episode)
_heartbeats = msgspec.msgpack.Decoder(_Heartbeat)
_hellos = msgspec.msgpack.Decoder(_Hello)
_layouts: dict[int, tuple[RunSpec, Layout]] = {}


def encode(value: Struct) -> bytes:
    """Return a struct as MessagePack; equal content and order give equal bytes."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Return the struct in ``data``; raise ``WireError`` unless it is of that type."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except Exception as error:  # bad UTF-8 and deep nesting raise various errors
        raise WireError(f"not a {kind.__name__}: {error}"[:200]) from error


def encode_message(message: Message, spec: RunSpec) -> bytes:
    """Return one framed message; raise ``WireError`` if it does not fit the run's spec."""
    layout = _layout(spec)
    if isinstance(message, Fragment):
        return _encode_fragment(message, layout)
    if isinstance(message, Episode):
        kind = _KIND_EPISODE
        header = _array(_episode_message(message))
    elif isinstance(message, Heartbeat):
        kind = _KIND_HEARTBEAT
        header = _array(message)
    else:
        kind = _KIND_HELLO
        header = _encoder.encode(_Hello(*msgspec.structs.astuple(message)))
    size = padded(_MESSAGE.size + len(header))
    head = _MESSAGE.pack(layout.crc, size, len(header), kind)
    return (head + header).ljust(size, b"\0")


def check_spec(spec: RunSpec) -> None:
    """Raise ``ConfigError`` unless one step of the run fits into an entry.

    ``fragment_steps`` need not fit: clients cut fragments shorter where steps are large.
    """
    size = plan(spec, 1, {}).size + _BODY + _ENTRY.size
    if size > ENTRY_BYTES:
        raise ConfigError(
            f"environment: one step takes {size} bytes, where a message has room for "
            f"{ENTRY_BYTES}; make the observations smaller"
        )


def pack(messages: Sequence[bytes]) -> bytes:
    """Return one entry with the given messages; raise ``WireError`` if it is too large."""
    raw = b"".join(messages)
    if len(raw) > RAW_BYTES or not 1 <= len(messages) <= MAX_MESSAGES:
        raise WireError(f"an entry of {len(messages)} messages and {len(raw)} bytes is too large")
    flags, body = 0, raw
    if len(raw) > _COMPRESS_FROM:
        small = lz4.block.compress(raw, store_size=False)
        if len(small) < _WORTH_IT * len(raw):
            flags, body = _LZ4, small
    if len(body) + _ENTRY.size > ENTRY_BYTES:
        raise WireError(
            f"an entry of {len(body)} bytes is over {ENTRY_BYTES}; cut fragments shorter"
        )
    return _ENTRY.pack(_FRAMING, flags, len(messages), len(raw)) + body


def decode_entry(entry: Entry, spec: RunSpec) -> list[Message]:
    """Return the messages of an entry; raise ``Rejected`` unless their form is valid.

    This is the decoding boundary: no bytes raise any other error. The training node judges the
    values (``training_node.admission``).
    """
    try:
        return _decode_entry(entry, _layout(spec))
    except SoulsAIError as error:
        if isinstance(error, Rejected):
            raise
        raise Rejected("frame", str(error)) from error
    except Exception as error:  # hostile bytes never end the training node
        raise Rejected("frame", _line(error)) from error


def _decode_entry(entry: Entry, layout: Layout) -> list[Message]:
    data = entry.data
    if data is None:
        raise Rejected("fields", "an entry has exactly one field")
    if not _ENTRY.size <= len(data) <= ENTRY_BYTES:
        raise Rejected("size", f"an entry of {len(data)} bytes")
    framing, flags, count, size = _ENTRY.unpack_from(data)
    if framing != _FRAMING or flags & ~_LZ4 or not 1 <= count <= MAX_MESSAGES:
        raise Rejected("frame", f"framing {framing}, flags {flags}, {count} messages")
    if size > RAW_BYTES:
        raise Rejected("size", f"an entry of {size} bytes when unpacked")
    at, end = 0, size
    if flags & _LZ4:
        data = _inflate(data, size)
    else:
        at, end = _ENTRY.size, _ENTRY.size + size
    if len(data) != end:
        raise Rejected("length", f"{len(data)} bytes where {end} are announced")
    messages: list[Message] = []
    for _ in range(count):
        if end - at < _MESSAGE.size:
            raise Rejected("length", "a message is cut off")
        crc, size, header, kind = _MESSAGE.unpack_from(data, at)
        if size % 8 or _MESSAGE.size + header > size or size > end - at:
            raise Rejected("length", f"a message of {size} bytes with {end - at} left")
        if crc != layout.crc:
            raise Rejected("run", f"spec {crc:08x}, where this run has {layout.crc:08x}")
        messages.append(_decode_message(entry, data, at, size, header, kind, layout))
        at += size
    if at != end:
        raise Rejected("length", f"{end - at} bytes after the last message")
    return messages


def _decode_message(
    entry: Entry, data: bytes, at: int, size: int, header: int, kind: int, layout: Layout
) -> Message:
    if kind == _KIND_FRAGMENT:
        return _decode_fragment(entry, data, at, size, header, layout)
    start = at + _MESSAGE.size
    if size != padded(_MESSAGE.size + header):
        raise Rejected("length", f"a message of kind {kind} and {size} bytes")
    text = data[start : start + header]
    try:
        if kind == _KIND_EPISODE:
            fields = msgspec.structs.asdict(_episodes.decode(text))
            return Episode(client=entry.client, epoch=entry.position.epoch, **fields)
        if kind == _KIND_HEARTBEAT:
            return Heartbeat(*msgspec.structs.astuple(_heartbeats.decode(text)))
        if kind == _KIND_HELLO:
            return Hello(*msgspec.structs.astuple(_hellos.decode(text)))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected("header", _line(error)) from error
    raise Rejected("kind", f"no message of kind {kind}")


def _decode_fragment(
    entry: Entry, data: bytes, at: int, size: int, header: int, layout: Layout
) -> Fragment:
    if header != _FRAGMENT.size:
        raise Rejected("header", f"a fragment's header of {header} bytes")
    clock, epsilon, episode, start, generation, version, steps, flags = _FRAGMENT.unpack_from(
        data, at + _MESSAGE.size
    )
    known = _TERMINATED | _TRUNCATED | _GREEDY | (_ROLLS if layout.stacks else 0)
    known |= _INTERVENED if layout.interventions else 0
    if flags & ~known or not 0.0 <= epsilon <= 1.0:
        raise Rejected("header", f"flags {flags}, epsilon {epsilon}")
    marked = bool(flags & _INTERVENED)
    planned = layout.plan(steps, rolls=bool(flags & _ROLLS), intervened=marked)
    if size != _BODY + planned.size:
        raise Rejected("length", f"{size} bytes for {steps} steps of {_BODY + planned.size} bytes")
    body = at + _BODY
    return Fragment(
        client=entry.client,
        epoch=entry.position.epoch,
        episode=episode,
        start=start,
        clock=clock,
        generation=generation,
        version=version,
        obs={column.name: column.read(data, body) for column in planned.obs},
        action=planned.action.read(data, body),
        reward=planned.reward.read(data, body),
        terminated=bool(flags & _TERMINATED),
        truncated=bool(flags & _TRUNCATED),
        greedy=bool(flags & _GREEDY),
        epsilon=epsilon,
        extras={column.name: column.read(data, body) for column in planned.extras},
        memory={column.name: column.read(data, body) for column in planned.memory},
        intervened=None if planned.intervened is None else planned.intervened.read(data, body),
    )


def _encode_fragment(fragment: Fragment, layout: Layout) -> bytes:
    steps = len(fragment)
    if not 1 <= steps <= layout.max_steps:
        raise WireError(f"{steps} steps in a fragment of 1 to {layout.max_steps}")
    rolls = layout.rolls(fragment)
    intervened = fragment.intervened
    if intervened is not None and not layout.interventions:
        raise WireError("the run takes no interventions")
    planned = layout.plan(steps, rolls=rolls, intervened=intervened is not None)
    flags = (
        _TERMINATED * fragment.terminated
        + _TRUNCATED * fragment.truncated
        + _GREEDY * fragment.greedy
        + _ROLLS * rolls
        + _INTERVENED * (intervened is not None)
    )
    try:
        header = _FRAGMENT.pack(
            fragment.clock,
            fragment.epsilon,
            fragment.episode,
            fragment.start,
            fragment.generation,
            fragment.version,
            steps,
            flags,
        )
    except struct.error as error:
        raise WireError(f"a counter of the fragment is out of range: {error}") from error
    head = _MESSAGE.pack(layout.crc, _BODY + planned.size, _FRAGMENT.size, _KIND_FRAGMENT)
    parts = [(head + header).ljust(_BODY, b"\0")]
    for column in planned.obs:
        _append(parts, column, column.write(fragment.obs[column.name]))
    _append(parts, planned.action, planned.action.write(fragment.action))
    _append(parts, planned.reward, planned.reward.write(fragment.reward))
    for column in planned.extras:
        _append(parts, column, column.write(fragment.extras[column.name]))
    for column in planned.memory:
        _append(parts, column, column.write(fragment.memory[column.name]))
    if planned.intervened is not None and intervened is not None:
        _append(parts, planned.intervened, planned.intervened.write(intervened))
    return b"".join(parts)


def _append(parts: list[bytes], column: WireColumn, data: bytes) -> None:
    parts.append(data)
    if padding := -column.length % 8:
        parts.append(bytes(padding))


def _array(message: Struct) -> bytes:
    """Encode the fields as an array; the last one is left out if it is empty.

    Nodes of an earlier version do not know it.
    """
    fields = msgspec.structs.astuple(message)
    return _encoder.encode(fields if fields[-1] else fields[:-1])


def _episode_message(episode: Episode) -> _Episode:
    return _Episode(
        episode.generation,
        episode.version,
        episode.episode,
        episode.reward,
        episode.steps,
        episode.seconds,
        episode.terminated,
        episode.greedy,
        episode.epsilon,
        episode.info,
        episode.kwargs,
    )


def _inflate(data: bytes, size: int) -> bytes:
    try:
        # A block that unpacks to more than ``size`` is an error; only ``size`` is allocated.
        raw: bytes = lz4.block.decompress(memoryview(data)[_ENTRY.size :], uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise Rejected("lz4", _line(error)) from error
    return raw


def _layout(spec: RunSpec) -> Layout:
    """Return the layout of a spec, cached by identity because a spec cannot be hashed."""
    known = _layouts.get(id(spec))
    if known is not None and known[0] is spec:
        return known[1]
    if len(_layouts) > 16:
        _layouts.clear()
    layout = Layout(spec)
    _layouts[id(spec)] = (spec, layout)
    return layout


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
