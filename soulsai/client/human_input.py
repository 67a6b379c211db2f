"""A person's actions, from the keyboard or a gamepad, by pygame.

Keys and buttons map to rows of an action: choices that count from zero, then numbers in units of
the environment.
"""

import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from soulsai.client.environment import AdaptedEnvironment
from soulsai.errors import ConfigError
from soulsai.types import UNBOUNDED, ActionSpec, Array

Device = Literal["keyboard", "gamepad"]

WIDTHS = (480, 1280)  # pixels of the window, at least and at most, when it opens
LINE = 20  # pixels
MOST_LINES = 4  # of keys
DARK, LIGHT, GREEN = (24, 26, 31), (235, 235, 235), (70, 200, 110)
DEAD_ZONE = 0.1  # of an axis, in which it counts as released
PUSHED = 0.5  # of an axis, from which a stick counts as a key
IDLE = "none"  # the key of the action while nothing is pressed
STAY = "space"  # the key that takes over with that action
ARROWS = ("left", "right", "up", "down")
KEYS = (*ARROWS, *"123456789abcdefghijklmnopqrstuvwxyz")  # without a mapping, in this order
BUTTONS = tuple(f"button{number}" for number in range(32))
ON_GAMEPAD = dict(zip(("a", "d", "w", "s", STAY), (*ARROWS, BUTTONS[0]), strict=True))
_ARROWS_OF_SDL1 = {276: "left", 275: "right", 273: "up", 274: "down"}  # as in MountainCar's mapping

Keys = dict[frozenset[str], tuple[float, ...]]  # keys pressed together, and the row of the action


class HumanInput(Protocol):
    """A source of a person's actions."""

    def poll(self) -> Array | None:
        """Return the row of the action now, or ``None`` while the person does nothing."""
        ...

    def show(self, frame: Array | None, *, person: bool) -> None:
        """Draw a frame, who plays, and the keys.

        Args:
            frame: Colours [height, width, 3], bytes; ``None`` if there is no picture.
            person: Whether the person plays, not the policy.
        """
        ...

    def close(self) -> None:
        """Close the window."""
        ...


def parse_keys(text: str, action: ActionSpec) -> Keys:
    """Return the mapping of a text such as ``left=0 right=1`` or ``left=-1,0 up+right=1,1``.

    Args:
        text: Pairs of keys and actions, separated by spaces; keys are named as in pygame, several
            are joined by ``+``, and ``none`` is the action while nothing is pressed. Of a gamepad,
            they are ``left``, ``right``, ``up`` and ``down``, and ``button0`` and so on.
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


def default_keys(action: ActionSpec, names: Sequence[str], *, numbers: bool = True) -> Keys:
    """Return a mapping for an environment that has none.

    Each key changes one component: a number to one of its bounds, or a choice. Of several
    components, all others stay at zero, and so does all with ``STAY``.

    Args:
        action: The actions.
        names: The names of keys, in the order in which they are used.
        numbers: Whether keys set numbers, too.
    """
    split, idle = len(action.sizes), _idle(action, {})
    moves: list[tuple[int, float]] = []
    if numbers:
        bounds = zip(action.low, action.high, strict=True)
        moves = [
            (index, value if abs(value) < UNBOUNDED else float(np.sign(value)))
            for index, pair in enumerate(bounds, split)
            for value in pair
            if value != idle[index]
        ]
    first = 0 if split == 1 else 1  # nothing is left to stay at zero if there is one choice
    moves += [
        (index, float(choice))
        for index, choices in enumerate(action.sizes)
        for choice in range(first, choices)
    ]
    keys: Keys = {} if split == 1 or not moves else {frozenset([STAY]): tuple(idle.tolist())}
    for name, (index, value) in zip(names, moves, strict=False):
        row = idle.copy()
        row[index] = value
        keys[frozenset([name])] = tuple(row.tolist())
    return keys


def own_keys(environment: AdaptedEnvironment, pygame: Any, device: Device) -> Keys:
    """Return the environment's own mapping for ``gymnasium.utils.play``.

    Args:
        environment: The environment.
        pygame: The module, which names keys.
        device: Of a gamepad, the arrows and the first button take the place of WASD and space.

    Returns:
        An empty mapping if there is none, or none for this device.
    """
    own = {
        frozenset(_names(keys, pygame)): tuple(row.tolist())
        for keys, row in environment.keys_to_action().items()
    }
    if device == "keyboard":
        return own
    known = {*BUTTONS, *ARROWS}
    moved = {frozenset(ON_GAMEPAD.get(name, name) for name in keys): own[keys] for keys in own}
    return moved if all(keys <= known for keys in moved) else {}


def _names(keys: Any, pygame: Any) -> Iterable[str]:
    """Yield the names of keys that Gymnasium gives as text, letters or codes."""
    for key in keys if isinstance(keys, str | tuple | list) else (keys,):
        code = ord(key) if isinstance(key, str) else int(key)
        yield _ARROWS_OF_SDL1.get(code) or pygame.key.name(code)


def _idle(action: ActionSpec, keys: Mapping[frozenset[str], tuple[float, ...]]) -> Array:
    """Return the row of the action while nothing is pressed."""
    size = len(action.sizes) + len(action.low)
    return _bounded(action, np.array(keys.get(frozenset(), (0.0,) * size)))


class _Mapping:
    """The keys of an action, and the row of those that are pressed."""

    def __init__(self, action: ActionSpec, keys: Keys) -> None:
        self._action = action
        self.idle = _idle(action, keys)
        self._longest_first = sorted(filter(None, keys), key=len, reverse=True)
        self._rows = {names: np.array(row) for names, row in keys.items()}

    @property
    def lines(self) -> list[str]:
        """Each key with its action, as ``parse_keys`` reads them."""
        return [
            "+".join(sorted(names)) + "=" + ",".join(f"{value:g}" for value in row)
            for names, row in self._rows.items()
            if names
        ]

    def row(self, pressed: Collection[str]) -> Array | None:
        """Return the row of pressed keys, or ``None`` if none of them is mapped.

        They are read as the longest combinations that are mapped. Each of these sets the choices
        in which it differs from the row without any key, and adds its numbers to that.
        """
        row, left, split = self.idle.copy(), set(pressed), len(self._action.sizes)
        for names in self._longest_first:
            if names <= left:
                left -= names
                change = self._rows[names] - self.idle
                row[split:] += change[split:]
                row[:split] = np.where(change[:split] != 0, self._rows[names][:split], row[:split])
        return None if len(left) == len(set(pressed)) else _bounded(self._action, row)


class Keyboard:
    """Actions by keys; several that are pressed act together.

    Args:
        action: The actions.
        keys: The mapping.
        title: The title of the window.
    """

    def __init__(self, action: ActionSpec, keys: Keys, title: str) -> None:
        self._pygame = _pygame()
        self._mapping = _Mapping(action, keys)
        self._pressed: set[str] = set()
        self._window = _Window(self._pygame, title, self._mapping.lines)

    @property
    def idle(self) -> Array:
        """The row of the action while nothing is pressed."""
        return self._mapping.idle

    def poll(self) -> Array | None:
        """Return the row of the action of the pressed keys, or ``None``."""
        for event in self._window.events():
            if event.type == self._pygame.KEYDOWN:
                self._pressed.add(self._pygame.key.name(event.key))
            elif event.type == self._pygame.KEYUP:
                self._pressed.discard(self._pygame.key.name(event.key))
        return self._mapping.row(self._pressed) if self._pressed else None

    def show(self, frame: Array | None, *, person: bool) -> None:
        """Draw a frame, who plays, and the keys; see ``HumanInput.show``."""
        self._window.show(frame, person=person)

    def close(self) -> None:
        """Close the window."""
        self._window.close()


class Gamepad:
    """Actions by the first gamepad: axes are numbers, buttons choices.

    The directional pad has the names ``left``, ``right``, ``up`` and ``down``, and so has the
    first stick where an action has no numbers. A button without a mapping takes over with the row
    of no touch.

    Args:
        action: The actions.
        keys: The mapping of the directions and the buttons.
        title: The title of the window.

    Raises:
        ConfigError: There is no gamepad, or it has fewer axes than the action numbers.
    """

    def __init__(self, action: ActionSpec, keys: Keys, title: str) -> None:
        self._pygame = _pygame()
        self._action = action
        self._mapping = _Mapping(action, keys)
        axes = [f"{len(action.low)} axes: numbers"] if action.low else []
        self._window = _Window(self._pygame, title, [*axes, *self._mapping.lines])
        self._connect()

    def _connect(self) -> None:
        self._pygame.joystick.init()
        if not self._pygame.joystick.get_count():
            self.close()
            raise ConfigError("gamepad: none is connected; connect one, or use the keyboard")
        self._stick = self._pygame.joystick.Joystick(0)
        axes = self._stick.get_numaxes()
        if axes < len(self._action.low):
            self.close()
            raise ConfigError(
                f"gamepad: {axes} axes, where an action has {len(self._action.low)} numbers"
            )

    @property
    def idle(self) -> Array:
        """The row of the action while nothing is touched."""
        return self._mapping.idle

    def poll(self) -> Array | None:
        """Return the row of the action of the touched axes and buttons, or ``None``."""
        if not self._pygame.joystick.get_init():  # an environment that closed has ended it
            self._connect()
        self._window.events()
        axes = np.array([self._stick.get_axis(i) for i in range(len(self._action.low))])
        axes[np.abs(axes) < DEAD_ZONE] = 0.0
        pressed = self._directions()
        pressed |= {
            name
            for number, name in zip(range(self._stick.get_numbuttons()), BUTTONS, strict=False)
            if self._stick.get_button(number)
        }
        if not axes.any() and not pressed:
            return None
        mapped = self._mapping.row(pressed)
        row = self.idle.copy() if mapped is None else mapped
        touched = axes != 0.0
        row[len(self._action.sizes) :][touched] = self._numbers(axes)[touched]
        return _bounded(self._action, row)

    def _numbers(self, axes: Array) -> Array:
        """Return the numbers of axes: at rest those of no touch, at either end the bounds."""
        idle = self.idle[len(self._action.sizes) :]
        low, high = np.asarray(self._action.low), np.asarray(self._action.high)
        with np.errstate(over="ignore"):
            reach = np.where(axes > 0, high - idle, idle - low)
        numbers: Array = idle + axes * np.where(reach < UNBOUNDED, reach, 1.0)
        return numbers

    def _directions(self) -> set[str]:
        """Return the directions of the directional pads, and of the first stick if it is free."""
        hats = [self._stick.get_hat(number) for number in range(self._stick.get_numhats())]
        pushed = [(float(x), float(-y)) for x, y in hats]
        if not self._action.low and self._stick.get_numaxes() >= 2:
            pushed.append((self._stick.get_axis(0), self._stick.get_axis(1)))
        found: set[str] = set()
        for x, y in pushed:
            amounts = (-x, x, -y, y)
            found |= {name for name, amount in zip(ARROWS, amounts, strict=True) if amount > PUSHED}
        return found

    def show(self, frame: Array | None, *, person: bool) -> None:
        """Draw a frame, who plays, and the keys; see ``HumanInput.show``."""
        self._window.show(frame, person=person)

    def close(self) -> None:
        """Close the window."""
        self._window.close()


class _Window:
    """A window of pygame, which must have the focus for keys to count."""

    def __init__(self, pygame: Any, title: str, keys: Sequence[str]) -> None:
        self._pygame, self._title = pygame, title
        self._keys = keys
        self._open((WIDTHS[0], 0))

    def _open(self, size: tuple[int, int]) -> None:
        """Open the window with room for a picture of a size."""
        pygame = self._pygame
        pygame.display.init()
        pygame.font.init()
        pygame.display.set_caption(self._title)
        self._font = pygame.font.Font(None, LINE)
        self._lines = self._wrapped(size[0])
        self._picture = size
        pygame.display.set_mode((size[0], size[1] + self._panel), pygame.RESIZABLE)

    @property
    def _panel(self) -> int:
        """The height of the lines below the picture."""
        return LINE * (len(self._lines) + 1) + LINE // 2

    def _wrapped(self, width: int) -> list[str]:
        """Return the keys in lines of a width."""
        lines = [""]
        for key in self._keys:
            longer = f"{lines[-1]}   {key}" if lines[-1] else key
            if self._font.size(longer)[0] > width - LINE and lines[-1]:
                lines.append(key)
            else:
                lines[-1] = longer
        return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], "..."]

    def events(self) -> list[Any]:
        """Return what happened; raise ``KeyboardInterrupt`` if the window was closed."""
        self._reopen()
        events: list[Any] = self._pygame.event.get()
        if any(event.type == self._pygame.QUIT for event in events):
            raise KeyboardInterrupt
        return events

    def show(self, frame: Array | None, *, person: bool) -> None:
        """Draw a frame [height, width, 3], who plays, and the keys."""
        self._reopen()
        pygame = self._pygame
        if frame is not None and not self._picture[1]:
            height, width = frame.shape[:2]
            wanted = width * max(1, round(WIDTHS[0] / width))
            factor = min(wanted, WIDTHS[1]) / width
            self._open((max(WIDTHS[0], round(width * factor)), round(height * factor)))
        screen = pygame.display.get_surface()
        screen.fill(DARK)
        height = screen.get_height() - self._panel
        if frame is not None and height > 0:
            picture = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
            factor = min(screen.get_width() / frame.shape[1], height / frame.shape[0])
            size = (max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor)))
            screen.blit(
                pygame.transform.scale(picture, size), ((screen.get_width() - size[0]) // 2, 0)
            )
        who = "you play" if person else "the policy plays; touch a key to take over"
        for number, line in enumerate([who, *self._lines]):
            colour = GREEN if person and not number else LIGHT
            text = self._font.render(line, True, colour)
            screen.blit(
                text, (LINE // 2, screen.get_height() - self._panel + LINE * number + LINE // 4)
            )
        pygame.display.flip()

    def _reopen(self) -> None:
        """Open the window again: environments of Gymnasium end all of pygame when they close."""
        if self._pygame.display.get_surface() is None:
            self._open(self._picture)

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()


def open_input(
    device: Device,
    action: ActionSpec,
    keys: str,
    title: str,
    environment: AdaptedEnvironment | None,
) -> Keyboard | Gamepad:
    """Return the input of a device.

    Args:
        device: ``keyboard`` or ``gamepad``.
        action: The actions.
        keys: The text of ``parse_keys``; empty: the environment's own mapping, or the default one.
        title: The title of the window.
        environment: The environment, if it is in this process.
    """
    mapping = parse_keys(keys, action)
    if not mapping and environment is not None:
        mapping = own_keys(environment, _pygame(), device)
    if device == "gamepad":
        if not mapping and len(action.sizes) == 1:  # the number of a button is that of the choice
            mapping = default_keys(action, BUTTONS, numbers=False)
            mapping |= default_keys(action, ARROWS, numbers=False)
        mapping = mapping or default_keys(action, (*ARROWS, *BUTTONS), numbers=False)
        return Gamepad(action, mapping, title)
    mapping = mapping or default_keys(action, KEYS)
    if not any(mapping):
        raise ConfigError(f"--keys: {keys!r} names no key; name one, as in left=0")
    return Keyboard(action, mapping, title)


def _bounded(action: ActionSpec, row: Array) -> Array:
    split = len(action.sizes)
    numbers = np.clip(row[split:], action.low, action.high)
    return np.concatenate((row[:split], numbers))


def _pygame() -> Any:
    try:
        return importlib.import_module("pygame")
    except ImportError as error:
        raise ConfigError(f'pygame: not installed ({error}); pip install "soulsai[play]"') from None
