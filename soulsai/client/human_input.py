"""A person's actions, from the keyboard or a gamepad, by pygame.

Keys and buttons map to rows of an action: choices that count from zero, then numbers in units of
the environment.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import numpy as np

from soulsai.errors import ConfigError
from soulsai.types import UNBOUNDED, ActionSpec, Array

Device = Literal["keyboard", "gamepad"]

WINDOW = (480, 120)  # pixels, where the environment draws nothing
DEAD_ZONE = 0.1  # of an axis, in which it counts as released
IDLE = "none"  # the key of the action while nothing is pressed
FIRST_KEYS = ("left", "right", "up", "down")  # of choices without a mapping, in this order

Keys = dict[frozenset[str], tuple[float, ...]]  # keys pressed together, and the row of the action


class HumanInput(Protocol):
    """A source of a person's actions."""

    def poll(self) -> Array | None:
        """Return the row of the action now, or ``None`` while the person does nothing."""
        ...

    def show(self, frame: Array | None) -> None:
        """Draw a frame [height, width, 3] of bytes."""
        ...

    def close(self) -> None:
        """Close the window."""
        ...


def parse_keys(text: str, action: ActionSpec) -> Keys:
    """Return the mapping of a text such as ``left=0 right=1`` or ``left=-1,0 up+right=1,1``.

    Args:
        text: Pairs of keys and actions, separated by spaces; keys are named as in pygame, several
            are joined by ``+``, and ``none`` is the action while nothing is pressed.
        action: The actions.

    Raises:
        ConfigError: A pair is no mapping to an action of this space.
    """
    size = len(action.sizes) + len(action.low)
    keys: Keys = {}
    for pair in text.split():
        names, _, values = pair.partition("=")
        try:
            row = tuple(float(value) for value in values.split(","))
        except ValueError:
            row = ()
        fits = len(row) == size and all(
            0 <= value < choices and value == int(value)
            for value, choices in zip(row, action.sizes, strict=False)
        )
        if not names or not fits:
            raise ConfigError(
                f"--keys: {pair!r}; wanted KEY=ACTION with {size} numbers, as in left="
                + ",".join(["0"] * size)
            )
        keys[frozenset() if names == IDLE else frozenset(names.split("+"))] = row
    return keys


def default_keys(action: ActionSpec, environment: Any = None) -> Keys:
    """Return the environment's own mapping for ``gymnasium.utils.play``, or one by arrow keys.

    Args:
        action: The actions.
        environment: The environment; its ``get_keys_to_action`` is used for choices.
    """
    own = getattr(getattr(environment, "unwrapped", environment), "get_keys_to_action", None)
    if action.kind == "discrete" and own is not None:
        return {_names(keys): (float(choice),) for keys, choice in own().items()}
    keys: Keys = {}
    size = len(action.sizes) + len(action.low)
    if action.kind == "discrete":
        keys = {
            frozenset([name]): (float(choice),)
            for choice, name in enumerate([*FIRST_KEYS, *map(str, range(action.sizes[0]))])
            if choice < action.sizes[0]
        }
    for index in range(len(action.sizes), min(size, 2)):
        low, high = action.low[index], action.high[index]
        for name, number in zip(FIRST_KEYS[2 * index :], (low, high), strict=False):
            row = np.zeros(size)
            row[index] = number if abs(number) < UNBOUNDED else np.sign(number)
            keys[frozenset([name])] = tuple(row.tolist())
    return keys


def _names(keys: Any) -> frozenset[str]:
    """Return the names of keys that Gymnasium gives as text, letters or codes."""
    each: Iterable[Any] = keys if isinstance(keys, str | tuple | list) else (keys,)
    return frozenset(chr(key) if isinstance(key, int) else str(key) for key in each)


class Keyboard:
    """Actions by keys; those of numbers add up where several keys are pressed.

    Args:
        action: The actions.
        keys: The mapping.
        title: The title of the window.
    """

    def __init__(self, action: ActionSpec, keys: Keys, title: str) -> None:
        self._pygame = _pygame()
        self._action, self._keys = action, keys
        self._used = frozenset(name for combination in keys for name in combination)
        self._pressed: set[str] = set()
        self._window = _Window(self._pygame, title)

    @property
    def idle(self) -> Array:
        """The row of the action while nothing is pressed."""
        size = len(self._action.sizes) + len(self._action.low)
        return _bounded(self._action, np.array(self._keys.get(frozenset(), (0.0,) * size)))

    def poll(self) -> Array | None:
        """Return the row of the action of the pressed keys, or ``None``."""
        for event in self._window.events():
            if event.type == self._pygame.KEYDOWN:
                self._pressed.add(self._pygame.key.name(event.key))
            elif event.type == self._pygame.KEYUP:
                self._pressed.discard(self._pygame.key.name(event.key))
        pressed = self._used & self._pressed
        if not pressed:
            return None
        exact = self._keys.get(pressed)
        if exact is not None:
            return _bounded(self._action, np.array(exact))
        if self._action.sizes:
            largest = max(
                (keys for keys in self._keys if keys and keys <= pressed), key=len, default=None
            )
            return None if largest is None else np.array(self._keys[largest])
        rows = [row for keys, row in self._keys.items() if keys and keys <= pressed]
        return _bounded(self._action, np.sum(rows, axis=0)) if rows else None

    def show(self, frame: Array | None) -> None:
        """Draw a frame."""
        self._window.show(frame)

    def close(self) -> None:
        """Close the window."""
        self._window.close()


class Gamepad:
    """Actions by the first gamepad: axes are numbers, buttons choices.

    Args:
        action: The actions.
        title: The title of the window.

    Raises:
        ConfigError: There is no gamepad, or it has fewer axes than the action numbers.
    """

    def __init__(self, action: ActionSpec, title: str) -> None:
        self._pygame = _pygame()
        self._action = action
        self._window = _Window(self._pygame, title)
        self._pygame.joystick.init()
        if not self._pygame.joystick.get_count():
            self.close()
            raise ConfigError("gamepad: none is connected; connect one, or use the keyboard")
        self._stick = self._pygame.joystick.Joystick(0)
        axes = self._stick.get_numaxes()
        if axes < len(action.low):
            self.close()
            raise ConfigError(
                f"gamepad: {axes} axes, where an action has {len(action.low)} numbers"
            )

    @property
    def idle(self) -> Array:
        """The row of the action while nothing is touched."""
        return _bounded(self._action, np.zeros(len(self._action.sizes) + len(self._action.low)))

    def poll(self) -> Array | None:
        """Return the row of the action of the touched axes and buttons, or ``None``."""
        self._window.events()
        axes = np.array([self._stick.get_axis(i) for i in range(len(self._action.low))])
        buttons = [self._stick.get_button(i) for i in range(self._stick.get_numbuttons())]
        axes[np.abs(axes) < DEAD_ZONE] = 0.0
        if not axes.any() and not any(buttons):
            return None
        sizes = self._action.sizes
        pressed = [index for index, down in enumerate(buttons) if down]
        choices = np.zeros(len(sizes))
        choices[:1] = min(pressed[0], sizes[0] - 1) if pressed and sizes else 0
        low, high = np.asarray(self._action.low), np.asarray(self._action.high)
        bounded = np.maximum(-low, high) < UNBOUNDED
        with np.errstate(over="ignore"):
            scaled = np.where(bounded, 0.5 * (low + high) + 0.5 * axes * (high - low), axes)
        return _bounded(self._action, np.concatenate((choices, scaled)))

    def show(self, frame: Array | None) -> None:
        """Draw a frame."""
        self._window.show(frame)

    def close(self) -> None:
        """Close the window."""
        self._window.close()


class _Window:
    """A window of pygame, which must have the focus for keys to count."""

    def __init__(self, pygame: Any, title: str) -> None:
        self._pygame = pygame
        pygame.display.init()
        pygame.display.set_caption(title)
        self._screen = pygame.display.set_mode(WINDOW, pygame.RESIZABLE)

    def events(self) -> list[Any]:
        """Return what happened; raise ``KeyboardInterrupt`` if the window was closed."""
        events: list[Any] = self._pygame.event.get()
        if any(event.type == self._pygame.QUIT for event in events):
            raise KeyboardInterrupt
        return events

    def show(self, frame: Array | None) -> None:
        """Draw a frame [height, width, 3], and fit the window to the first."""
        if frame is None:
            return
        size = (frame.shape[1], frame.shape[0])
        if self._screen.get_size() != size:
            self._screen = self._pygame.display.set_mode(size, self._pygame.RESIZABLE)
        self._pygame.surfarray.blit_array(self._screen, frame.swapaxes(0, 1))
        self._pygame.display.flip()

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()


def open_input(
    device: Device, action: ActionSpec, keys: str, title: str, environment: Any
) -> Keyboard | Gamepad:
    """Return the input of a device.

    Args:
        device: ``keyboard`` or ``gamepad``.
        action: The actions.
        keys: The text of ``parse_keys``; empty: the environment's own mapping, or arrow keys.
        title: The title of the window.
        environment: The environment, if it is known.
    """
    if device == "gamepad":
        return Gamepad(action, title)
    mapping: Mapping[frozenset[str], tuple[float, ...]]
    mapping = parse_keys(keys, action) if keys else default_keys(action, environment)
    if not any(mapping):
        raise ConfigError(
            "--keys: this environment has no mapping of keys; name one, as in left="
            + ",".join(["0"] * (len(action.sizes) + len(action.low)))
        )
    return Keyboard(action, dict(mapping), title)


def _bounded(action: ActionSpec, row: Array) -> Array:
    split = len(action.sizes)
    numbers = np.clip(row[split:], action.low, action.high)
    return np.concatenate((row[:split], numbers))


def _pygame() -> Any:
    try:
        return importlib.import_module("pygame")
    except ImportError as error:
        raise ConfigError(f'pygame: not installed ({error}); pip install "soulsai[play]"') from None
