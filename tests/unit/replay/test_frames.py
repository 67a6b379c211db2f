"""Stacks of frames come out of replay as they went in, and each frame is kept once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.errors import ConfigError
from soulsai.frame_stacks import FrameStack, stack_of
from soulsai.replay import frames as frames_module
from soulsai.replay.frames import FrameStore
from soulsai.replay.ring import OWNER, Ring, owner
from soulsai.replay.storage import allocator, in_memory
from soulsai.types import Leaf

SIDE = 32
STACK = Leaf((SIDE, SIDE, 4), "|u1")
COLOUR = Leaf((4, SIDE, SIDE, 3), "|u1")
COLUMNS = {"obs.eye": STACK, "next_obs.eye": STACK, "ret": Leaf((), "<f4")}


def frame(number):
    return np.random.default_rng(number).integers(256, size=(SIDE, SIDE)).astype(np.uint8)


def rows(first, count, leaf=STACK):
    """Row t sees frames t .. t + 3, and next t + 1 .. t + 4."""
    axis = 2 if leaf is STACK else 0
    seen = np.stack(
        [np.stack([frame(t + k) for k in range(4)], axis) for t in range(first, first + count + 1)]
    )
    if leaf is COLOUR:
        seen = seen[..., None] + np.arange(3, dtype=np.uint8)
    ret = np.arange(first, first + count, dtype=np.float32)
    return {"obs.eye": seen[:-1], "next_obs.eye": seen[1:], "ret": ret}


def same(ring, slots, first):
    found, wanted = ring.rows(slots), rows(first, len(slots))
    return all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_what_is_a_stack():
    assert stack_of(STACK) == FrameStack(4, SIDE, SIDE, last=True)
    assert stack_of(Leaf((4, 84, 90), "|u1")) == FrameStack(4, 84, 90, last=False)
    assert stack_of(Leaf((10, 10, 4), "|b1")) is None  # too small
    assert stack_of(Leaf((84, 84, 4), "<f4")) is None
    assert stack_of(Leaf((84, 84, 1), "|u1")) is None
    assert stack_of(COLOUR) == FrameStack(4, SIDE, 3 * SIDE, last=False, channels=3)
    assert stack_of(Leaf((1, 84, 84, 3), "|u1")) is None
    assert stack_of(Leaf((84, 84, 4), "|u1", categories=9)) is None


@pytest.mark.parametrize("last", [False, True])
@given(depth=st.integers(2, 5), count=st.integers(1, 9), seed=st.integers(0, 9))
def test_images_that_roll_are_their_frames_and_back(last, depth, count, seed):
    stack = FrameStack(depth, 3, 4, last)
    frames = np.random.default_rng(seed).integers(9, size=(count + depth - 1, 3, 4))
    windows = np.stack([frames[row : row + depth] for row in range(count)])
    images = np.moveaxis(windows, 1, 3) if last else windows
    assert stack.rolls(images)
    assert np.array_equal(stack.unrolled(images), frames)
    assert np.array_equal(stack.rolled(frames), images)
    assert np.array_equal(stack.images(stack.frames(images)), images)
    images[count // 2, 0, 0, 0] += 1  # a pixel of the oldest frame
    assert stack.rolls(images) == (count == 1)


@given(count=st.integers(1, 5), seed=st.integers(0, 9))
def test_stacks_of_colour_pictures_are_their_frames_and_back(count, seed):
    stack = FrameStack(3, 4, 10, last=False, channels=2)
    frames = np.random.default_rng(seed).integers(9, size=(count + 2, 4, 5, 2))
    images = np.stack([frames[row : row + 3] for row in range(count)])
    assert images.shape[1:] == stack.shape
    assert stack.rolls(images)
    assert np.array_equal(stack.unrolled(images), frames.reshape(count + 2, 4, 10))
    assert np.array_equal(stack.rolled(stack.unrolled(images)), images)


@pytest.mark.parametrize("leaf", [STACK, Leaf((4, SIDE, SIDE), "|u1"), COLOUR])
def test_images_come_out_as_they_went_in(leaf):
    ring = Ring(20, {"obs.eye": leaf, "next_obs.eye": leaf, "ret": Leaf((), "<f4")})
    given_rows = rows(0, 15, leaf)
    ring.append(given_rows)
    found = ring.rows(np.arange(15))
    assert all(np.array_equal(found[name], given_rows[name]) for name in given_rows)


def test_each_frame_is_kept_once_and_goes_with_the_last_row_that_needs_it():
    ring = Ring(10, COLUMNS)
    for first in range(0, 40, 4):
        ring.append(rows(first, 4))
        held = min(first + 4, 10)
        assert len(ring.frames["obs.eye"]) == held + 4
        newest = np.arange(first + 4 - held, first + 4)
        assert same(ring, newest % 10, newest[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 14)), min_size=1, max_size=12))
def test_rows_survive_whatever_is_shared(groups):
    """FrameStore are drawn from few, so that equal ones come again and again."""
    ring, kept = Ring(8, COLUMNS), []
    for first, count in groups:
        added = rows(first, count)
        ring.append(added)
        kept += [(first + i) for i in range(count)]
        for slot, number in enumerate(ring.rows(np.arange(len(ring)))["ret"]):
            assert same(ring, np.array([slot]), int(number))
    store = ring.frames["obs.eye"]
    needed = {n + k for n in kept[-8:] for k in range(5)}
    assert len(store) == len(needed)


def test_equal_checksums_are_not_taken_for_equal_frames(monkeypatch):
    monkeypatch.setattr(frames_module.zlib, "crc32", lambda _: 7)
    ring = Ring(6, COLUMNS)
    ring.append(rows(0, 9))
    assert same(ring, np.arange(3, 9) % 6, 3)


def test_a_store_grows_when_nothing_is_shared(monkeypatch):
    monkeypatch.setattr(frames_module, "SPARE", 2)
    store = FrameStore(FrameStack(4, SIDE, SIDE, last=True), "|u1", 2, in_memory)
    images = np.stack([np.stack([frame(4 * i + k) for k in range(4)], 2) for i in range(5)])
    places = store.put(images)
    assert np.array_equal(store.get(places), images)


def test_a_restored_ring_holds_the_same_and_goes_on():
    one, other = Ring(10, COLUMNS), Ring(10, COLUMNS)
    one.append(rows(0, 13))
    other.append(rows(100, 5))
    other.load_state_dict(one.state_dict())
    for ring in (one, other):
        ring.append(rows(13, 4))
        assert same(ring, np.arange(7, 17) % 10, 7)
        assert len(ring.frames["obs.eye"]) == 14


def test_frames_of_a_client_that_is_forgotten_go_with_its_rows():
    ring = Ring(12, COLUMNS)
    for first, client in ((0, "a"), (100, "b"), (4, "a")):
        owners = np.full(4, owner(client), np.uint64)
        ring.append({**rows(first, 4), OWNER: owners})
    assert len(ring.remove("a")) == 4
    assert same(ring, np.arange(4), 100)
    assert len(ring.frames["obs.eye"]) == 8
    ring.append(rows(0, 10))
    assert same(ring, np.arange(4, 14) % 12, 0)


def test_replay_on_disk_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "replay"
    ring = Ring(10, COLUMNS, allocate=allocator(str(folder)))
    assert isinstance(ring.columns["ret"], np.memmap)
    ring.append(rows(0, 13))
    assert same(ring, np.arange(3, 13) % 10, 3)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="replay_folder"):
        Ring(10, COLUMNS, allocate=allocator(str(tmp_path / "file" / "under")))
