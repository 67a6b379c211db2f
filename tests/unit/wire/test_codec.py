"""What one side encodes the other decodes, and nothing that does not fit is ever encoded."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from soulsai.errors import ConfigError, Rejected, WireError
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Episode,
    Fragment,
    Heartbeat,
    Hello,
    Leaf,
    RunSpec,
    Spec,
    Status,
)
from soulsai.wire.codec import (
    ENTRY_BYTES,
    check_spec,
    decode,
    decode_entry,
    encode,
    encode_message,
    pack,
)
from soulsai.wire.layout import DTYPES
from soulsai.wire.protocols import Entry, Position

DISCRETE = ActionSpec("discrete", sizes=(4,))
SPEC = RunSpec(
    run="run-1",
    protocol=PROTOCOL,
    oldest_protocol=PROTOCOL,
    environment=EnvironmentOffer("LunarLander-v3"),
    spec=Spec({"obs": Leaf((8,), "<f4")}, DISCRETE),
    algorithm="dqn",
    program_sha256="0" * 64,
)
RICH = msgspec.structs.replace(
    SPEC,
    spec=Spec(
        {"pixels": Leaf((7, 5), "|u1"), "mask": Leaf((11,), "|b1"), "n": Leaf((), "<i8")},
        ActionSpec("multidiscrete", (3,), (4, 300, 2)),
    ),
    extras={"log_prob": Leaf((), "<f4")},
    memory={"h": Leaf((3,), "<f4"), "done": Leaf((), "|b1")},
)

FRAMES_LAST = msgspec.structs.replace(
    SPEC, spec=Spec({"eye": Leaf((32, 40, 3), "|u1"), "x": Leaf((2,), "<f4")}, DISCRETE)
)
FRAMES_FIRST = msgspec.structs.replace(
    SPEC, spec=Spec({"eye": Leaf((4, 32, 40), "|u1"), "map": Leaf((2, 32, 32), "|b1")}, DISCRETE)
)


def random_fragment(spec: RunSpec, steps: int, seed: int = 0, **changes) -> Fragment:
    rng = np.random.default_rng(seed)

    def column(leaf: Leaf, *rows: int):
        numbers = rng.integers(0, 2 if leaf.dtype == "|b1" else 100, (*rows, *leaf.shape))
        return np.asarray(numbers).astype(leaf.dtype)

    values = {
        "client": "c1",
        "epoch": 9,
        "episode": 3,
        "start": 128,
        "clock": 2**40,
        "generation": 2,
        "version": 70_000,
        "obs": {name: column(leaf, steps + 1) for name, leaf in spec.spec.obs.items()},
        "action": column(spec.spec.action.leaf, steps),
        "reward": rng.normal(size=steps).astype("<f4"),
        "terminated": True,
        "truncated": False,
        "greedy": True,
        "epsilon": 0.1,
        "extras": {name: column(leaf, steps) for name, leaf in spec.extras.items()},
        "memory": {name: column(leaf) for name, leaf in spec.memory.items()},
    }
    return Fragment(**(values | changes))


def rolling_fragment(spec: RunSpec, steps: int) -> Fragment:
    """Every image is the one before it, without its oldest frame and with a new one."""
    plain = random_fragment(spec, steps)
    obs = dict(plain.obs)
    for name, images in obs.items():
        if images.ndim == 4:
            axis = 3 if spec is FRAMES_LAST else 1
            frames = np.moveaxis(images, axis, 1).copy()
            for row in range(1, len(frames)):
                frames[row, :-1] = frames[row - 1, 1:]
            obs[name] = np.moveaxis(frames, 1, axis)
    return msgspec.structs.replace(plain, obs=obs)


def entry(data: bytes | None) -> Entry:
    return Entry("c1", Position(9, 4), data)


def there_and_back(spec: RunSpec, *messages):
    return decode_entry(entry(pack([encode_message(message, spec) for message in messages])), spec)


def same(a: Fragment, b: Fragment) -> None:
    for name in Fragment.__struct_fields__:
        one, two = getattr(a, name), getattr(b, name)
        if isinstance(one, dict):
            assert list(one) == list(two)
            for key in one:
                np.testing.assert_array_equal(one[key], two[key], strict=True)
        elif isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two, strict=True)
        else:
            assert one == two
            assert type(one) is type(two)


@pytest.mark.parametrize("spec", [SPEC, RICH], ids=["lunar", "rich"])
@pytest.mark.parametrize("steps", [1, 2, 7, 63, 64])
def test_a_fragment_arrives_as_sent(spec, steps):
    sent = random_fragment(spec, steps, seed=steps)
    (got,) = there_and_back(spec, sent)
    same(sent, got)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_travels(dtype):
    spec = msgspec.structs.replace(SPEC, spec=Spec({"x": Leaf((3,), dtype)}, DISCRETE))
    sent = random_fragment(spec, 5)
    (got,) = there_and_back(spec, sent)
    same(sent, got)


@given(
    st.data(),
    st.integers(1, 64),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1),
)
def test_any_numbers_and_flags_travel(data, steps, terminated, truncated, greedy, epsilon):
    obs = data.draw(hnp.arrays("<f4", (steps + 1, 8), elements=st.floats(width=32)))
    sent = random_fragment(
        SPEC,
        steps,
        obs={"obs": obs},
        terminated=terminated,
        truncated=truncated,
        greedy=greedy,
        epsilon=epsilon,
    )
    (got,) = there_and_back(SPEC, sent)
    same(sent, got)


def test_messages_of_one_moment_share_an_entry_and_keep_their_order():
    episode = Episode(1, 2, 3, -200.5, 64, 1.25, True, False, 0.5, {"lives": 2.0})
    heartbeat = Heartbeat(1, 2, 3, 4, 5, 6, True, {"hang": 2}, "no answer for 5 s")
    hello = Hello("run-1", PROTOCOL, "0.1", "LunarLander-v3", 2, SPEC.crc)
    fragments = [random_fragment(SPEC, steps) for steps in (64, 3)]
    got = there_and_back(SPEC, hello, fragments[0], episode, fragments[1], heartbeat)
    assert got[0] == hello
    same(got[1], fragments[0])
    assert got[2] == msgspec.structs.replace(episode, client="c1", epoch=9)
    same(got[3], fragments[1])
    assert got[4] == heartbeat


def test_the_client_and_the_epoch_are_those_of_the_stream_not_of_the_sender():
    sent = random_fragment(SPEC, 5, client="somebody-else", epoch=77)
    (got,) = there_and_back(SPEC, sent)
    assert (got.client, got.epoch) == ("c1", 9)


def test_what_only_the_training_node_knows_is_not_taken_from_a_client():
    said = Episode(1, 2, 3, 0.0, 64, 1.0, True, False, 0.5, client="x", env_steps=5, time=6.0)
    (got,) = there_and_back(SPEC, said)
    assert (got.client, got.env_steps, got.time) == ("c1", 0, 0.0)


def test_arrays_are_aligned_views_that_cannot_be_written():
    (got,) = there_and_back(RICH, random_fragment(RICH, 13))
    for array in (*got.obs.values(), got.action, got.reward):
        assert array.flags.aligned
        assert array.flags.c_contiguous
    assert not got.reward.flags.writeable
    assert got.reward.base is not None


def test_a_lunar_lander_transition_costs_less_than_forty_bytes():
    data = pack([encode_message(random_fragment(SPEC, 64), SPEC)])
    assert len(data) / 64 < 40


def test_booleans_travel_as_bits():
    masks = msgspec.structs.replace(
        SPEC, spec=Spec({"obs": Leaf((1,), "|u1"), "mask": Leaf((800,), "|b1")}, DISCRETE)
    )
    with_mask = len(encode_message(random_fragment(masks, 63), masks))
    assert with_mask < 64 * 800 / 8 + 600


@pytest.mark.parametrize("spec", [FRAMES_LAST, FRAMES_FIRST], ids=["last", "first"])
@pytest.mark.parametrize("steps", [1, 2, 64])
def test_each_frame_of_stacks_that_roll_travels_once(spec, steps):
    sent = rolling_fragment(spec, steps)
    data = encode_message(sent, spec)
    frames = {name: steps + min(leaf.shape) for name, leaf in spec.spec.obs.items() if name != "x"}
    assert len(data) < 32 * 40 * (frames["eye"] + frames.get("map", 0) / 8) + 30 * steps + 200
    (got,) = there_and_back(spec, sent)
    same(sent, got)
    assert not got.obs["eye"].flags.writeable


@pytest.mark.parametrize("spec", [FRAMES_LAST, FRAMES_FIRST], ids=["last", "first"])
@pytest.mark.parametrize("row", [0, 3, 7])
def test_stacks_that_do_not_roll_travel_whole(spec, row):
    sent = rolling_fragment(spec, 7)
    torn = sent.obs["eye"].copy()
    torn[row] ^= 1
    sent = msgspec.structs.replace(sent, obs=sent.obs | {"eye": torn})
    assert len(encode_message(sent, spec)) > 8 * 32 * 40 * min(spec.spec.obs["eye"].shape)
    (got,) = there_and_back(spec, sent)
    same(sent, got)


@pytest.mark.parametrize("shape", [(8, 32, 40, 2), (8, 3, 32, 40), (8, 32, 40), (7, 32, 40, 3)])
def test_images_of_another_shape_are_not_encoded(shape):
    sent = rolling_fragment(FRAMES_LAST, 7)
    wrong = msgspec.structs.replace(sent, obs=sent.obs | {"eye": np.zeros(shape, np.uint8)})
    with pytest.raises(WireError, match="'eye'"):
        encode_message(wrong, FRAMES_LAST)


@pytest.mark.parametrize(("size", "flag"), [(1, 0), (64, 1)])
def test_large_messages_are_compressed_where_it_helps(size, flag):
    still = random_fragment(SPEC, size, obs={"obs": np.zeros((size + 1, 8), "<f4")})
    data = pack([encode_message(still, SPEC)])
    assert data[1] == flag
    same(decode_entry(entry(data), SPEC)[0], still)


def test_noise_is_not_compressed():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**32, (65, 8), dtype="<u4").view("<f4")
    data = pack([encode_message(random_fragment(SPEC, 64, obs={"obs": noise}), SPEC)])
    assert data[1] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"obs": {"obs": np.zeros((64, 8), "<f4")}},
        {"obs": {"obs": np.zeros((65, 8), "<f8")}},
        {"action": np.zeros(64, "<i8")},
        {"action": np.zeros((64, 1), "|u1")},
        {"clock": -1},
        {"version": 2**32},
        {"reward": np.zeros(65, "<f4")},
        {"reward": np.zeros(0, "<f4")},
    ],
)
def test_a_fragment_that_does_not_fit_the_spec_is_not_sent(changes):
    with pytest.raises(WireError):
        encode_message(random_fragment(SPEC, 64, **changes), SPEC)


def test_an_entry_is_never_too_large():
    spec = msgspec.structs.replace(SPEC, spec=Spec({"x": Leaf((10_000,), "<f4")}, DISCRETE))
    noise = np.random.default_rng(0).integers(0, 2**32, (65, 10_000), dtype="<u4").view("<f4")
    message = encode_message(random_fragment(spec, 64, obs={"x": noise}), spec)
    with pytest.raises(WireError, match="cut fragments shorter"):
        pack([message])
    with pytest.raises(WireError):
        pack([])
    with pytest.raises(WireError):
        pack([b"\0" * 16] * 257)
    check_spec(spec)
    message = encode_message(random_fragment(spec, 48), spec)
    assert len(pack([message])) <= ENTRY_BYTES


def test_observations_too_large_for_one_step_are_refused():
    spec = msgspec.structs.replace(SPEC, spec=Spec({"x": Leaf((2000, 2000), "|u1")}, DISCRETE))
    with pytest.raises(ConfigError, match="observations smaller"):
        check_spec(spec)


@pytest.mark.parametrize("leaf", [Leaf((1,), "|O"), Leaf((1,), "<U5"), Leaf((-1,), "<f4")])
def test_a_spec_with_leaves_that_must_not_travel_is_refused(leaf):
    spec = msgspec.structs.replace(SPEC, spec=Spec({"x": leaf}, DISCRETE))
    with pytest.raises(WireError):
        check_spec(spec)


def test_a_fragment_of_another_run_is_rejected_as_such():
    data = pack([encode_message(random_fragment(SPEC, 5), SPEC)])
    other = msgspec.structs.replace(SPEC, run="run-2")
    with pytest.raises(Rejected) as caught:
        decode_entry(entry(data), other)
    assert caught.value.reason == "run"


def test_structs_travel_and_anything_else_is_a_wire_error():
    status = Status("run-1", 1, "learning", "dqn", "LunarLander-v3", metrics={"loss": math.inf})
    assert decode(encode(status), Status) == status
    assert decode(encode(SPEC), RunSpec) == SPEC
    assert decode(encode(SPEC), RunSpec).crc == SPEC.crc
    for data in (b"", b"\xc1", encode(status)[:-1], b"\x81\xa1\xff\x01", b"\x91" * 3000):
        with pytest.raises(WireError, match="not a RunSpec"):
            decode(data, RunSpec)
