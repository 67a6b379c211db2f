"""Entries that a training node admits: each message of the protocol, in each of its shapes."""

from collections.abc import Iterator

import numpy as np

from soulsai.types import PROTOCOL, Episode, Fragment, Heartbeat, Hello, zeros
from soulsai.wire.codec import encode_message, pack
from tests.vectors.runs import RUNS

Case = tuple[str, str, bytes, list]  # name, run, entry, messages
EPISODE = Episode(1, 7, 3, 12.5, 40, 1.25, terminated=True, greedy=False, epsilon=0.25)
HEARTBEAT = Heartbeat(steps=100, episodes=2, dropped=0, queued=1, version=7)


def hello(run: str, /, **changes) -> Hello:
    """Return the hello of a client that plays a run."""
    spec = RUNS[run][0]
    values = {
        "run": spec.run, "protocol": PROTOCOL, "software": "vectors 1", "environment": "Vectors-v0",
        "environments": 2, "crc": spec.crc,
    }  # fmt: skip
    return Hello(**(values | changes))


def fragment(run: str, steps: int, seed: int = 0, **changes) -> Fragment:
    """Return a fragment of small numbers, drawn from a seed."""
    spec, _ = RUNS[run]
    rng = np.random.default_rng(seed)
    action = spec.spec.action

    def drawn(leaf, *rows):
        array = zeros(leaf, *rows)
        kind = array.dtype.kind
        if kind == "f":
            return rng.integers(-64, 65, array.shape).astype(array.dtype) / array.dtype.type(8)
        most = {"b": 2}.get(kind, leaf.categories or 100)
        return rng.integers(0, most, array.shape).astype(array.dtype)

    obs = {name: drawn(leaf, steps + 1) for name, leaf in spec.spec.obs.items()}
    if "mask" in obs:
        obs["mask"][...] = True
    choices = [rng.integers(0, size, steps) for size in action.sizes]
    numbers = rng.integers(-8, 9, (steps, len(action.low))) / 8
    taken = np.concatenate((np.array(choices).reshape(len(action.sizes), steps).T, numbers), axis=1)
    values = {
        "client": "", "epoch": 0, "episode": 3, "start": 5, "clock": 45, "generation": 1,
        "version": 7, "obs": obs,
        "action": taken.reshape(steps, *action.shape).astype(action.leaf.dtype),
        "reward": (rng.integers(-8, 9, steps) / 4).astype("<f4"),
        "terminated": False, "truncated": False, "epsilon": 0.0,
        "extras": {name: -np.abs(drawn(leaf, steps)) for name, leaf in spec.extras.items()},
        "memory": {name: drawn(leaf) for name, leaf in spec.memory.items()},
    }  # fmt: skip
    return Fragment(**(values | changes))


def rolling(steps: int) -> np.ndarray:
    """Return stacks of four frames that each share three frames with the one before."""
    frames = np.arange(steps + 4, dtype="|u1")[:, None, None] + np.zeros((1, 32, 32), "|u1")
    return np.stack([frames[row : row + 4] for row in range(steps + 1)])


def entry(run: str, *messages) -> bytes:
    """Return messages as one entry."""
    spec = RUNS[run][0]
    return pack([encode_message(message, spec) for message in messages])


def _fragments() -> Iterator[tuple[str, str, list]]:
    for run in RUNS:
        if run not in ("stack", "channels"):
            yield f"fragment-{run}-one-step", run, [fragment(run, 1)]
            yield f"fragment-{run}-three-steps", run, [fragment(run, 3, seed=1)]
    plain = {
        "longest": fragment("plain", 16),
        "terminated": fragment("plain", 2, terminated=True),
        "truncated": fragment("plain", 2, truncated=True),
        "terminated-and-truncated": fragment("plain", 2, terminated=True, truncated=True),
        "greedy": fragment("plain", 2, greedy=True),
        "epsilon": fragment("plain", 2, epsilon=0.25),
        "largest-epsilon": fragment("plain", 2, epsilon=0.4),
        "first-step": fragment("plain", 2, start=0, clock=0, episode=0),
        "large-counters": fragment(
            "plain", 2, start=2**32 - 1, clock=2**47, episode=2**32 - 1, version=7
        ),
        "earlier-generation": fragment("plain", 2, generation=0, version=2**32 - 1),
        "largest-reward": fragment("plain", 1, reward=np.array([-1000.0], "<f4")),
        "largest-observation": fragment(
            "plain", 1, obs={"obs": np.full((2, 4), -1e18, "<f4")}
        ),
    }  # fmt: skip
    for name, message in plain.items():
        yield f"fragment-{name}", "plain", [message]
    masked = fragment("mask", 2, action=np.array([1, 2], "|u1"))
    masked.obs["mask"][...] = [[False, True, False], [True, False, True], [False, False, False]]
    yield "fragment-masked", "mask", [masked]
    free = fragment("mask", 1, action=np.array([2], "|u1"))
    free.obs["mask"][...] = False
    yield "fragment-without-valid-choice", "mask", [free]
    marks = np.array([False, True, True, False, False, False, False, False, True])
    yield "fragment-interventions", "steered", [fragment("steered", 9, intervened=marks)]
    yield "fragment-frames-once", "stack", [fragment("stack", 2, obs={"eye": rolling(2)})]
    yield "fragment-frames-one-step", "stack", [fragment("stack", 1, obs={"eye": rolling(1)})]
    still = np.zeros((2, 4, 32, 32), "|u1")
    still[1, 0] = 9
    yield "fragment-stack-that-does-not-roll", "stack", [fragment("stack", 1, obs={"eye": still})]


def _others() -> Iterator[tuple[str, str, list]]:
    yield "hello", "plain", [hello("plain")]
    yield "hello-of-many-environments", "plain", [hello("plain", environments=256)]
    yield "hello-in-other-letters", "plain", [hello("plain", software="Spiel-Äther 2")]
    yield "heartbeat", "plain", [HEARTBEAT]
    beat = {
        "waiting": Heartbeat(1, 0, 0, 0, 0, waiting=True),
        "faults": Heartbeat(
            9, 1, 3, 0, 7, 2, faults={"hang": 1, "crash": 2}, trouble="step: silent"
        ),
        "values": Heartbeat(9, 1, 0, 0, 7, kwargs={"level": "forest", "lives": 3, "hard": True}),
        "largest-counts": Heartbeat(2**48 - 1, 2**40, 2**33, 2**31, 2**32),
        "longest-trouble": Heartbeat(1, 0, 0, 0, 0, trouble="ä" * 200),
    }  # fmt: skip
    for name, message in beat.items():
        yield f"heartbeat-{name}", "plain", [message]
    yield "episode", "plain", [EPISODE]
    made = {
        "greedy": Episode(1, 7, 4, -3.25, 7, 0.5, terminated=False, greedy=True, epsilon=0.0),
        "info": Episode(
            1, 7, 5, 2.0, 9, 3.0, terminated=True, greedy=False, epsilon=1.0,
            info={"boss_hp": 0.5, "phase": 2.0},
        ),
        "values": Episode(
            1, 7, 6, 2.0, 9, 3.0, terminated=True, greedy=False, epsilon=0.0,
            kwargs={"level": "cave", "speed": 1.5, "seed": None},
        ),
        "largest-reward": Episode(
            1, 7, 7, 3000.0, 3, 0.0, terminated=True, greedy=False, epsilon=0.0
        ),
    }  # fmt: skip
    for name, message in made.items():
        yield f"episode-{name}", "plain", [message]
    yield "entry-of-several", "plain", [fragment("plain", 2), EPISODE, HEARTBEAT]
    yield "entry-of-most-messages", "plain", [HEARTBEAT] * 256


def cases() -> Iterator[Case]:
    """Yield the name, the run, the bytes and the messages of each entry."""
    for name, run, messages in (*_fragments(), *_others()):
        whole = entry(run, *messages)
        if whole[1]:  # compressors differ: vectors are made without
            whole = uncompressed(run, messages)
        yield name, run, whole, messages
    raw = b"".join(encode_message(message, RUNS["plain"][0]) for message in [HEARTBEAT] * 3)
    yield "entry-lz4-of-literals", "plain", lz4_entry(3, raw, literals(raw)), [HEARTBEAT] * 3
    image = fragment("channels", 1, obs={"eye": np.zeros((2, 40, 32, 3), "|u1")})
    raw = encode_message(image, RUNS["channels"][0])
    yield "entry-lz4-of-a-long-match", "channels", lz4_entry(1, raw, zeros_once(raw)), [image]


def uncompressed(run: str, messages: list) -> bytes:
    """Return an entry without compression."""
    raw = b"".join(encode_message(message, RUNS[run][0]) for message in messages)
    return lz4_entry(len(messages), raw, raw, flags=0)


def lz4_entry(count: int, raw: bytes, body: bytes, flags: int = 1) -> bytes:
    """Return an entry with a given body."""
    head = bytes([1, flags]) + count.to_bytes(2, "little") + len(raw).to_bytes(4, "little")
    return head + body


def literals(raw: bytes) -> bytes:
    """Return bytes as the last sequence of an LZ4 block, which has literals only."""
    return _token(len(raw), 0)[0] + raw


def zeros_once(raw: bytes) -> bytes:
    """Return bytes as an LZ4 block that names their longest run of zeros by one match."""
    zero = max(_zero_runs(raw), key=lambda part: part[1] - part[0])
    first, end = zero[0] + 1, min(zero[1], len(raw) - 12)
    token, more = _token(first, end - first - 4)
    return token + raw[:first] + b"\1\0" + more + literals(raw[end:])


def _zero_runs(raw: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while (start := raw.find(b"\0", at)) >= 0:
        at = start
        while at < len(raw) and raw[at] == 0:
            at += 1
        yield start, at


def _token(literal: int, match: int) -> tuple[bytes, bytes]:
    """Return the token with the length of the literals, and the rest of the match's length."""
    first = min(literal, 15) << 4 | min(match, 15)
    return bytes([first]) + _rest(literal), _rest(match)


def _rest(length: int) -> bytes:
    if length < 15:
        return b""
    full, last = divmod(length - 15, 255)
    return b"\xff" * full + bytes([last])
