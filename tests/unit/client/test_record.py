"""Episodes of a policy or a person become a data set that repeats itself."""

import gymnasium
import numpy as np
import pygame
import pytest

from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.human_input import Keyboard, open_input, parse_keys
from soulsai.client.record import FunctionChooser, HumanChooser, open_recorded, record
from soulsai.config.schema import ClientSettings, EnvironmentSettings
from soulsai.errors import ConfigError
from soulsai.types import ActionSpec

TWO = ActionSpec("discrete", (), (2,))
FOUR = ActionSpec("discrete", (), (4,))
BOX = ActionSpec("box", (2,), (), (-1.0, -2.0), (1.0, 2.0))
HYBRID = ActionSpec("hybrid", (2,), (3,), (-1.0,), (1.0,))


@pytest.fixture(autouse=True)
def headless(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def press(name, down=True):
    kind = pygame.KEYDOWN if down else pygame.KEYUP
    pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code(name)))


def test_a_person_plays_cartpole_by_keys():
    environment, raw = open_recorded(
        EnvironmentSettings(id="CartPole-v1"), ClientSettings(), pictures=True
    )
    source = open_input(
        "keyboard", environment.spec.action, "left=0 right=1 none=1", "test", environment
    )
    held = []

    def script():
        """Hold the left key every other two steps."""
        held.append(len(held) // 2 % 2 == 0)
        press("left", held[-1])

    chooser = HumanChooser(source, raw.render, script)
    found = record(environment, chooser, episodes=2, seed=5, stopped=lambda: False)
    environment.close()
    source.close()
    actions = np.concatenate([episode.action for episode in found.episodes])
    assert actions.tolist() == [0 if left else 1 for left in held]
    env = gymnasium.make("CartPole-v1")
    for index, episode in enumerate(found.episodes):
        seen = [env.reset(seed=5 + index)[0]]
        rewards = []
        for action in episode.action:
            obs, reward, terminated, truncated, _ = env.step(action)
            seen.append(obs)
            rewards.append(reward)
        np.testing.assert_array_equal(np.array(seen), episode.obs["obs"])
        assert rewards == episode.reward.tolist()
        assert (terminated, truncated) == (episode.terminated, episode.truncated)


def test_a_function_is_a_policy_and_its_mistake_is_one_line():
    environment, _ = open_recorded(
        EnvironmentSettings(id="Pendulum-v1"), ClientSettings(), pictures=False
    )
    push = FunctionChooser(lambda obs: [0.5 * float(obs[2])], environment)
    found = record(environment, push, episodes=1, seed=3, stopped=lambda: False)
    (episode,) = found.episodes
    wanted = np.clip(0.5 * episode.obs["obs"][:-1, 2], -2, 2)
    assert episode.action[:, 0] == pytest.approx(wanted, rel=1e-6)
    wrong = FunctionChooser(lambda obs: "left", environment)
    with pytest.raises(ConfigError, match="--policy: its action is no element of Box"):
        record(environment, wrong, episodes=1, seed=3, stopped=lambda: False)
    environment.close()


def test_a_closed_window_and_a_stop_end_without_the_unfinished_episode():
    environment, _ = open_recorded(
        EnvironmentSettings(id="CartPole-v1"), ClientSettings(), pictures=False
    )

    class Steady:
        def begin(self):
            pass

        def choose(self, rows):
            return np.array(0)

    asked = iter([False] * 12)
    found = record(environment, Steady(), episodes=9, seed=0, stopped=lambda: next(asked, True))
    environment.close()
    assert len(found.episodes) == 1
    source = Keyboard(TWO, parse_keys("left=0", TWO), "test")
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    with pytest.raises(KeyboardInterrupt):
        source.poll()
    source.close()


SEVERAL = ActionSpec("multidiscrete", (3,), (3, 2, 4))
CAR = ActionSpec("box", (3,), (), (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MIXED = ActionSpec("hybrid", (4,), (2, 3), (-1.0, 0.0), (1.0, 4.0))


@pytest.mark.parametrize(
    ("action", "keys", "pressed", "row"),
    [
        (FOUR, "left=1 up=2 left+up=3", "", None),
        (FOUR, "left=1 up=2 left+up=3", "left", [1]),
        (FOUR, "left=1 up=2 left+up=3", "left up", [3]),
        (FOUR, "left=1 up=2 left+up=3", "up x", [2]),
        (FOUR, "", "down", [3]),
        (BOX, "", "right up", [1.0, -2.0]),
        (BOX, "left=-1,0 up=0,1 left+up=0.5,0.5 s=0,1", "left up s", [0.5, 1.5]),
        (BOX, "none=0.5,0 left=-1,0 right=1,0", "left right", [-0.5, 0.0]),
        (CAR, "", "left up", [-1.0, 1.0, 0.0]),
        (CAR, "", "down", [0.0, 0.0, 1.0]),
        (SEVERAL, "", "right up 1", [2, 1, 2]),
        (SEVERAL, "", "space", [0, 0, 0]),
        (SEVERAL, "none=1,0,0 a=1,1,0 b=0,0,0 a+b=2,1,1 c=1,0,3", "a b c", [2, 1, 3]),
        (MIXED, "", "left", [0, 0, -1.0, 0.0]),
        (MIXED, "", "right up 2 down", [1, 2, 1.0, 4.0]),
    ],
)
def test_keys_together_are_combined(action, keys, pressed, row):
    source = open_input("keyboard", action, keys, "test", None)
    for name in pressed.split():
        press(name)
    found = source.poll()
    source.close()
    assert (None if found is None else found.tolist()) == row


class Played(gymnasium.Env):
    """An environment with a mapping for ``gymnasium.utils.play``."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, space, keys):
        self.action_space = space
        setattr(self, "get_keys_to_action", lambda: keys)  # noqa: B010 - Gymnasium's name


WASD = {(): 1, (ord("a"),): 2, "ad": 3, " ": 1}
MOVES = {
    ("w",): {"move": 1, "push": [0.0]},
    ("w", "d"): {"move": 3, "push": [0.5]},
}
NESTED = gymnasium.spaces.Dict(
    {
        "move": gymnasium.spaces.Discrete(3, start=1),
        "push": gymnasium.spaces.Box(-1, 1, (1,)),
    }
)


@pytest.mark.parametrize(
    ("space", "keys", "device", "pressed", "row"),
    [
        (gymnasium.spaces.Discrete(3, start=1), WASD, "keyboard", ["a"], [1]),
        (gymnasium.spaces.Discrete(3, start=1), WASD, "keyboard", ["a", "d"], [2]),
        (gymnasium.spaces.Discrete(3, start=1), WASD, "keyboard", ["space"], [0]),
        (gymnasium.spaces.Discrete(3, start=1), WASD, "gamepad", [0], [0]),
        (gymnasium.spaces.Discrete(3, start=1), WASD, "gamepad", [(-1, 0)], [1]),
        (NESTED, MOVES, "keyboard", ["w"], [0, 0.0]),
        (NESTED, MOVES, "keyboard", ["w", "d"], [2, 0.5]),
        (gymnasium.spaces.Discrete(3), {(276,): 0, (275,): 2}, "keyboard", ["right"], [2]),
        (gymnasium.spaces.Discrete(2), {"a": 7}, "keyboard", ["right"], [1]),
        (gymnasium.spaces.Discrete(2), {"p": 0}, "gamepad", [1], [1]),
    ],
    ids=["letter", "together", "space", "button", "direction", "dict", "dict together", "sdl 1",
         "another space", "no such button"],
)  # fmt: skip
def test_the_mapping_of_gymnasium_s_play_is_used(space, keys, device, pressed, row, monkeypatch):
    environment = AdaptedEnvironment(Played(space, keys), "played", mask_key="", masked=False)
    hats = [one for one in pressed if isinstance(one, tuple)]
    connect(monkeypatch, Stick([0.0, 0.0], [number in pressed for number in range(2)], hats))
    source = open_input(device, environment.spec.action, "", "test", environment)
    if device == "keyboard":
        for name in pressed:
            press(name)
    assert source.poll().tolist() == row
    source.close()


@pytest.mark.parametrize("text", ["left", "left=2", "left=0,1", "=1", "left=x", "left=0.5"])
def test_a_wrong_mapping_is_named(text):
    with pytest.raises(ConfigError, match="--keys: "):
        parse_keys(text, TWO)


def test_a_mapping_without_any_key_is_named():
    with pytest.raises(ConfigError, match=r"--keys: 'none=1' names no key"):
        open_input("keyboard", TWO, "none=1", "test", None)


def test_no_gamepad_is_one_line():
    with pytest.raises(ConfigError, match="gamepad: none is connected"):
        open_input("gamepad", BOX, "", "test", None)


class Stick:
    """What pygame says of a gamepad."""

    def __init__(self, axes, buttons, hats=()):
        self.axes, self.buttons, self.hats = axes, buttons, hats

    def get_numaxes(self):
        return len(self.axes)

    def get_axis(self, index):
        return self.axes[index]

    def get_numbuttons(self):
        return len(self.buttons)

    def get_button(self, index):
        return self.buttons[index]

    def get_numhats(self):
        return len(self.hats)

    def get_hat(self, index):
        return self.hats[index]


def connect(monkeypatch, stick):
    monkeypatch.setattr(pygame.joystick, "get_count", lambda: 1)
    monkeypatch.setattr(pygame.joystick, "Joystick", lambda _: stick)


@pytest.mark.parametrize(
    ("action", "stick", "row"),
    [
        (BOX, Stick([0.5, -1.0], []), [0.5, -2.0]),
        (BOX, Stick([0.05, 0.0], []), None),
        (BOX, Stick([0.0, 0.0], [1]), [0.0, 0.0]),
        (CAR, Stick([-1.0, 0.5, 0.0], []), [-1.0, 0.5, 0.0]),
        (CAR, Stick([0.0, -0.5, -1.0], []), [0.0, 0.0, 0.0]),
        (TWO, Stick([], [0, 1]), [1]),
        (TWO, Stick([], [0, 0]), None),
        (TWO, Stick([0.0, 0.0], [0, 0], [(1, 0)]), [1]),
        (HYBRID, Stick([1.0], [0, 0, 1]), [2, 1.0]),
        (SEVERAL, Stick([0.9, -0.9], [0, 1]), [2, 1, 3]),
        (SEVERAL, Stick([0.0, 0.0], [1, 0], [(-1, 0)]), [1, 0, 2]),
        (SEVERAL, Stick([0.0, 0.0], [0] * 9 + [1]), [0, 0, 0]),
        (MIXED, Stick([0.0, 0.5], [0, 0], [(1, 1)]), [0, 2, 0.0, 2.0]),
    ],
)
def test_axes_are_numbers_and_buttons_choices(action, stick, row, monkeypatch):
    connect(monkeypatch, stick)
    source = open_input("gamepad", action, "", "test", None)
    found = source.poll()
    source.close()
    assert (None if found is None else found.tolist()) == row


def test_a_gamepad_with_fewer_axes_than_numbers_is_named(monkeypatch):
    connect(monkeypatch, Stick([0.0], []))
    with pytest.raises(ConfigError, match="gamepad: 1 axes, where an action has 2 numbers"):
        open_input("gamepad", BOX, "", "test", None)
