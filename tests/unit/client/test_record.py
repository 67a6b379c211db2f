"""Episodes of a policy or a person become a data set that repeats itself."""

import gymnasium
import numpy as np
import pygame
import pytest

from soulsai.client.human_input import Gamepad, Keyboard, default_keys, open_input, parse_keys
from soulsai.client.record import FunctionChooser, HumanChooser, open_recorded, record
from soulsai.config.schema import ClientSettings, EnvironmentSettings
from soulsai.errors import ConfigError
from soulsai.types import ActionSpec

TWO = ActionSpec("discrete", (), (2,))
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
    source = open_input("keyboard", environment.spec.action, "left=0 right=1 none=1", "test", raw)
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


def test_keys_together_are_one_choice_and_numbers_add_up():
    one = ActionSpec("discrete", (), (4,))
    source = Keyboard(one, parse_keys("left=1 up=2 left+up=3", one), "test")
    assert source.poll() is None
    press("left")
    assert source.poll().tolist() == [1]
    press("up")
    assert source.poll().tolist() == [3]
    press("left", down=False)
    assert source.poll().tolist() == [2]
    source.close()
    source = Keyboard(BOX, default_keys(BOX), "test")
    for name in ("right", "up"):
        press(name)
    assert source.poll().tolist() == [1.0, -2.0]
    assert source.idle.tolist() == [0.0, 0.0]
    source.close()


def test_an_environment_s_own_mapping_is_used():
    class Own:
        def get_keys_to_action(self):
            return {(): 0, (ord("a"),): 1, "ad": 1}

    assert default_keys(TWO, Own()) == {
        frozenset(): (0.0,),
        frozenset("a"): (1.0,),
        frozenset("ad"): (1.0,),
    }


@pytest.mark.parametrize("text", ["left", "left=2", "left=0,1", "=1", "left=x", "left=0.5"])
def test_a_wrong_mapping_is_named(text):
    with pytest.raises(ConfigError, match="--keys: "):
        parse_keys(text, TWO)


def test_an_action_without_any_default_asks_for_a_mapping():
    several = ActionSpec("multidiscrete", (2,), (3, 2))
    with pytest.raises(ConfigError, match=r"no mapping.*left=0,0"):
        open_input("keyboard", several, "", "test", None)


def test_no_gamepad_is_one_line():
    with pytest.raises(ConfigError, match="gamepad: none is connected"):
        Gamepad(BOX, "test")


class Stick:
    """What pygame says of a gamepad."""

    def __init__(self, axes, buttons):
        self.axes, self.buttons = axes, buttons

    def get_numaxes(self):
        return len(self.axes)

    def get_axis(self, index):
        return self.axes[index]

    def get_numbuttons(self):
        return len(self.buttons)

    def get_button(self, index):
        return self.buttons[index]


@pytest.mark.parametrize(
    ("action", "axes", "buttons", "row"),
    [
        (BOX, [0.5, -1.0], [], [0.5, -2.0]),
        (BOX, [0.05, 0.0], [], None),
        (BOX, [0.0, 0.0], [1], [0.0, 0.0]),
        (TWO, [], [0, 1], [1]),
        (TWO, [], [0, 0], None),
        (HYBRID, [1.0], [0, 0, 1], [2, 1.0]),
    ],
)
def test_axes_are_numbers_and_buttons_choices(action, axes, buttons, row, monkeypatch):
    monkeypatch.setattr(pygame.joystick, "get_count", lambda: 1)
    monkeypatch.setattr(pygame.joystick, "Joystick", lambda _: Stick(axes, buttons))
    source = Gamepad(action, "test")
    found = source.poll()
    source.close()
    assert (None if found is None else found.tolist()) == row
