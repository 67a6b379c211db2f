"""A person takes over: what was really done is recorded, marked, and counted."""

import random
from itertools import chain, repeat
from typing import ClassVar

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium import spaces

from soulsai.client.action_spaces import NativeActions
from soulsai.client.environment import AdaptedEnvironment, StepResult
from soulsai.client.human_input import GREEN, LIGHT, open_input
from soulsai.client.in_process import InProcessEnvironment
from soulsai.client.probe import open_offer
from soulsai.client.recorder import Columns, Recorder
from soulsai.client.take_over import TakenOverEnvironment
from soulsai.config.schema import WatchdogSettings
from soulsai.errors import EnvironmentFault, Rejected, WireError
from soulsai.types import ActionSpec, EnvironmentOffer, Leaf, RunSpec, Spec
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import Entry, Position

BOX = ActionSpec("box", (1,), (), (-2.0,), (2.0,))
SPEC = Spec({"obs": Leaf((2,), "<f4")}, BOX)


def run_spec(**changes) -> RunSpec:
    return RunSpec(
        run="run",
        protocol=2,
        oldest_protocol=2,
        environment=EnvironmentOffer("x"),
        spec=SPEC,
        algorithm="sac",
        program_sha256="",
        fragment_steps=8,
        **changes,
    )


class Corrected(gymnasium.Env):
    """An environment that does something else than it is told, and says so."""

    observation_space = spaces.Box(-9, 9, (2,))

    def __init__(self, action_space, infos):
        self.action_space, self.infos = action_space, iter(infos)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, next(self.infos)


def adapted(action_space, infos):
    env = AdaptedEnvironment(
        Corrected(action_space, infos), "corrected", mask_key="action_mask", masked=False
    )
    rows = {"obs": np.zeros(2, "<f4")}
    env.reset(rows)
    return env, rows


SPACES = {
    "choices": (spaces.Discrete(4, start=-1), 2, [3]),
    "several": (spaces.MultiDiscrete([3, 2], start=[1, 0]), [3, 1], [2, 1]),
    "numbers": (spaces.Box(-2, 2, (2,)), [1.5, -0.5], [1.5, -0.5]),
    "beyond": (spaces.Box(-2, 2, (1,)), [9.0], [2.0]),
    "nested": (
        spaces.Dict({"move": spaces.Box(-1, 1, (1,)), "kind": spaces.Discrete(3, start=1)}),
        {"move": [0.25], "kind": 3},
        [2, 0.25],
    ),
}


@pytest.mark.parametrize("kind", SPACES)
def test_an_environment_tells_what_was_really_done(kind):
    space, element, row = SPACES[kind]
    infos = [{}, {"intervention": element, "intervened": True}, {"intervention": element}]
    infos += [{"intervention": element, "intervened": False}]
    env, rows = adapted(space, infos)
    native = NativeActions(space)
    plain = np.zeros(len(native.spec.sizes) + len(native.spec.low))
    found = [env.step(0 if kind == "choices" else plain, rows).intervention for _ in infos]
    assert found[0] is None
    assert found[3] is None
    assert found[1].tolist() == found[2].tolist() == row


@pytest.mark.parametrize("kind", SPACES)
def test_elements_and_rows_invert_each_other(kind):
    native = NativeActions(SPACES[kind][0])
    for _ in range(20):
        element = native._space.sample()
        row = native.row(element)
        back = native.row(native(row[0].astype(int) if kind == "choices" else row))
        assert back.tolist() == row.tolist()


@pytest.mark.parametrize(
    ("space", "element"),
    [
        (spaces.Discrete(2), 2),
        (spaces.Discrete(2), 0.5),
        (spaces.Box(-1, 1, (2,)), [0.0]),
        (spaces.Box(-1, 1, (1,)), [np.nan]),
        (spaces.Dict({"a": spaces.Discrete(2)}), {}),
        (spaces.Discrete(2), None),
    ],
)
def test_what_is_no_action_is_a_fault_of_the_environment(space, element):
    env, rows = adapted(space, [{"intervention": element}])
    row = NativeActions(space).row(space.sample())
    with pytest.raises(
        EnvironmentFault, match=r"corrected: info\['intervention'\] is .*(no element|not fin)"
    ):
        env.step(int(row[0]) if isinstance(space, spaces.Discrete) else row, rows)


class Source:
    """A person who presses at times."""

    def __init__(self, rows):
        self.rows, self.closed, self.shown = iter(rows), False, []

    def poll(self):
        return next(self.rows)

    def show(self, frame, *, person):
        self.shown.append((frame, person))

    def close(self):
        self.closed = True


class Inner:
    """An environment that notes its actions."""

    name, info = "inner", {}

    def __init__(self):
        self.taken, self.closed = [], False

    def step(self, action, rows):
        self.taken.append(np.asarray(action).tolist())
        return StepResult(1.0, terminated=False, truncated=False)

    def close(self):
        self.closed = True


def test_a_person_s_action_replaces_the_policy_s():
    inner, source = Inner(), Source([None, np.array([1.5]), None])
    env = TakenOverEnvironment(inner, BOX, source, lambda: None)
    results = [env.step(np.array([-0.5], "<f4"), {}) for _ in range(3)]
    assert inner.taken == [[-0.5], [1.5], [-0.5]]
    assert [result.intervention is not None for result in results] == [False, True, False]
    env.close()
    assert inner.closed
    assert source.closed


class Pictured(gymnasium.Env):
    """An environment that takes its time to draw its number of steps."""

    observation_space, action_space = spaces.Box(-9, 9, (2,)), spaces.Box(-2, 2, (1,))
    metadata: ClassVar = {"render_fps": 50}

    def __init__(self, time, picture=None, render_mode="rgb_array"):
        self.time, self.steps, self.render_mode, self.picture = time, 0, render_mode, picture

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time[0] += 0.001
        self.steps += 1
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def render(self):
        self.time[0] += 0.004
        if self.picture is not None:
            return self.picture
        return np.full((8, 8, 3), self.steps % 256, np.uint8)


def watched(environment, source, **options):
    time = environment.time
    adapted = AdaptedEnvironment(environment, "pictured", mask_key="", masked=False)

    def sleep(seconds):
        time[0] += seconds

    env = TakenOverEnvironment(
        adapted, BOX, source, lambda: adapted, clock=lambda: time[0], sleep=sleep, **options
    )
    env.reset({"obs": np.zeros(2, "<f4")})
    return env


def walk(env, steps):
    for _ in range(steps):
        env.step(np.zeros(1, "<f4"), {"obs": np.zeros(2, "<f4")})


def test_pictures_are_bounded_and_take_little_time_while_the_policy_plays():
    time, source = [0.0], Source(repeat(None))
    walk(watched(Pictured(time), source), 2000)
    assert time[0] < 2.0 * 1.06
    assert len(source.shown) == pytest.approx(2.0 / 0.08, abs=3)
    assert not any(person for _, person in source.shown)
    assert source.shown[-1][0].max() > 0


def test_a_person_sees_more_pictures_at_the_environment_s_pace():
    time, source = [0.0], Source(chain([None] * 5, repeat(np.array([1.0]), 100), repeat(None)))
    env = watched(Pictured(time), source)
    walk(env, 105)
    assert time[0] == pytest.approx(100 / 50, abs=0.1)
    persons = [person for _, person in source.shown]
    assert sum(persons) == pytest.approx(2.0 * 30, abs=15)
    walk(env, 1000)
    assert time[0] < 2.0 + 1.0 + 1.0 * 1.1, "a second later it is the policy's pace again"
    assert not source.shown[-1][1]


def test_an_environment_with_a_pace_of_its_own_is_not_slowed():
    time, source = [0.0], Source(repeat(np.array([1.0])))
    walk(watched(Pictured(time), source, paced=True), 100)
    assert time[0] < 0.2


def test_pictures_that_are_none_end_and_the_play_goes_on(caplog):
    time, source = [0.0], Source(repeat(None))
    env = watched(Pictured(time, picture=np.zeros((8, 8))), source)
    walk(env, 200)
    assert caplog.text.count("no picture any more") == 1
    assert len(source.shown) > 2
    assert all(frame is None for frame, _ in source.shown)


def test_a_window_of_the_environment_is_left_alone():
    time, source = [0.0], Source(repeat(np.array([1.0])))
    walk(watched(Pictured(time, render_mode="human"), source), 200)
    assert not source.shown
    assert time[0] == pytest.approx(0.2)


def test_the_window_shows_the_game_and_who_plays_and_takes_keys(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    time = [0.0]
    inner = InProcessEnvironment(
        lambda _: open_offer(
            "CartPole-v1",
            EnvironmentOffer("CartPole-v1", {"render_mode": "rgb_array"}),
            masked=False,
        ),
        WatchdogSettings(),
        rng=random.Random(0),
    )
    choices = inner.adapted.spec.action
    source = open_input("keyboard", choices, "", "test", inner.adapted)
    env = TakenOverEnvironment(
        inner, choices, source, lambda: inner.adapted, clock=lambda: time[0], sleep=lambda _: None
    )
    rows = {"obs": np.zeros(4, "<f4")}

    def drawn():
        time[0] += 1.0
        result = env.step(0, rows)
        screen = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
        picture = inner.adapted.render()
        np.testing.assert_array_equal(screen[: len(picture)], picture)
        panel = screen[len(picture) :]
        assert (panel == LIGHT).all(-1).any(), "the keys are named"
        return result.intervention, (panel == GREEN).all(-1).any()

    env.reset(rows, seed=0)
    assert drawn() == (None, False)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT))
    assert drawn() == ([1], True)
    env.begin_stage(1)
    assert env.ready(0.0)  # as the one before has ended all of pygame
    env.reset(rows, seed=0)
    assert drawn() == ([1], True)
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_RIGHT))
    assert drawn() == (None, False)
    env.close()


def recorded(spec):
    recorder = Recorder("a", 1, spec, Columns(spec, 1), 0)
    rows = {"obs": np.zeros(2, "<f4")}
    recorder.begin(0, rows)
    for step in range(5):
        recorder.add(np.array([0.1]), 1.0, {}, 0, rows)
        if step in (1, 2):
            recorder.intervene(np.array([0.75]))
    return recorder.cut(0, terminated=False, truncated=False)


def test_a_fragment_carries_what_was_done_and_a_mark_per_step():
    spec = run_spec(interventions=True)
    fragment = recorded(spec)
    entry = Entry("a", Position(1, 1), pack([encode_message(fragment, spec)]))
    (back,) = decode_entry(entry, spec)
    assert back.intervened.tolist() == [False, True, True, False, False]
    assert back.action[:, 0] == pytest.approx([0.1, 0.75, 0.75, 0.1, 0.1])
    whole = recorded(spec)
    whole.intervened[:] = False
    plain = encode_message(recorded(run_spec()), run_spec())
    assert len(plain) + 8 == len(encode_message(fragment, spec)), "eight bytes more at most"


def test_a_run_that_takes_none_refuses_marks():
    taking, none = run_spec(interventions=True), run_spec()
    assert recorded(none).intervened is None
    assert recorded(none).action[:, 0] == pytest.approx([0.1, 0.75, 0.75, 0.1, 0.1])
    with pytest.raises(WireError, match="takes no interventions"):
        encode_message(recorded(taking), none)
    data = bytearray(encode_message(recorded(none), none))
    data[46] |= 16
    with pytest.raises(Rejected) as raised:
        decode_entry(Entry("a", Position(1, 1), pack([bytes(data)])), none)
    assert raised.value.reason == "header"
