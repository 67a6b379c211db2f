"""A game behind a door as an environment: it reports, and gets an action for each report."""

import logging
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.client.bridge.door import Door, GameConnection, GameGone, Stopped
from soulsai.client.environment import StepResult
from soulsai.client.isolation.watchdog import EnvironmentBroken, Fault
from soulsai.client.spaces import Reader, Rows, as_array
from soulsai.types import EnvironmentOffer, Spec

log = logging.getLogger(__name__)


class GameHello(Struct, frozen=True, tag="hello"):
    """The game asks for the run's observations and actions."""


class GameReset(Struct, frozen=True, tag="reset"):
    """An episode begins: its first observation."""

    observation: Any


class GameStep(Struct, frozen=True, tag="step"):
    """The outcome of the last action."""

    observation: Any
    reward: float
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = {}


Report = GameHello | GameReset | GameStep


class BridgedEnvironment:
    """Plays through one game at a time; each of its messages gets exactly one answer.

    The answers are ``{"type": "action", "action": ...}``, ``{"type": "reset"}`` after the end of an
    episode, with ``"kwargs"`` if a stage of the schedule has begun, ``{"type": "spec", ...}`` to a
    hello, and before the connection closes ``{"type": "error", "message": ...}`` or
    ``{"type": "end"}``.
    """

    def __init__(self, door: Door, offer: EnvironmentOffer, spec: Spec, stopped: Stopped) -> None:
        """Prepare for games.

        Args:
            door: Where games come in; the caller closes it.
            offer: The run's environment.
            spec: Its observations and actions.
            stopped: Whether the client is to stop, which ends every wait.
        """
        self.name = offer.id
        self.info: dict[str, Any] = {}
        self._offer = offer
        self._kwargs = offer.kwargs
        self._tells = False  # the game does not know the arguments of the stage yet
        self._door = door
        self._spec = spec
        self._largest_reward = offer.largest_reward
        self._stopped = stopped
        self._readers = [_reader(name, leaf) for name, leaf in spec.obs.items()]
        self._is_plain = list(spec.obs) == ["obs"]
        self._game: GameConnection | None = None
        self._begun: GameReset | None = None  # an episode that the game has begun by itself
        self._owes = False  # the last message of the game has no answer yet

    def __repr__(self) -> str:
        return f"BridgedEnvironment({self.name} at {self._door!r})"

    def ready(self, timeout: float) -> bool:
        """Return whether a game is connected."""
        if self._game is None:
            self._game = self._door.accept(timeout)
            self._begun, self._owes = None, False
            if self._game is not None:
                log.info("game=connected")
        return self._game is not None

    def begin_stage(self, begun: int) -> None:
        """Tell the game the arguments of a stage with the next request for an episode."""
        self._kwargs, self._tells = self._offer.at_stage(begun).kwargs, True

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Wait for an episode of the game; a seed means nothing to it."""
        del seed
        begun, self._begun = self._begun, None
        if begun is None:
            if self._owes:
                more = {"kwargs": self._kwargs} if self._tells else {}
                self._tells = False
                self._answer({"type": "reset", **more})
            report = self._report()
            if not isinstance(report, GameReset):
                raise self._broken("wanted a message of the type reset", tells=True)
            begun = report
        self._read(begun.observation, rows)

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Send an action, and wait for its outcome."""
        self._answer({"type": "action", "action": _plain(action)})
        report = self._report()
        if isinstance(report, GameReset):
            self._begun = report
            fault = Fault("reset", "the game has begun another episode", sound=True)
            raise EnvironmentBroken(fault.text, fault)
        if not isinstance(report, GameStep):
            raise self._broken("wanted a message of the type step", tells=True)
        if not abs(report.reward) <= self._largest_reward:
            raise self._broken(
                f"reward {report.reward:g} is over {self._largest_reward:g}", tells=True
            )
        self._read(report.observation, rows)
        self.info = report.info
        return StepResult(report.reward, report.terminated, report.truncated)

    def check_bounds(self, rows: Rows) -> None:
        """Check nothing: the game has told no bounds."""

    def close(self) -> None:
        """Tell the game that this is the end."""
        game, self._game = self._game, None
        if game is not None:
            try:
                game.send({"type": "end"})
            except GameGone:
                log.debug("game=gone")
            game.close()

    def _report(self) -> Report:
        """Return the next message but a hello, which is answered at once."""
        while True:
            try:
                data = self._connected().receive(self._stopped)
                if data is None:
                    raise EnvironmentBroken("the client stops")
                report: Report = self._connected().decode(data, Report)
            except GameGone as error:
                raise self._broken(str(error)) from error
            except msgspec.MsgspecError as error:
                raise self._broken(f"not a message: {error}", tells=True) from error
            self._owes = True
            if not isinstance(report, GameHello):
                return report
            spec = msgspec.to_builtins(self._spec)
            self._answer({
                "type": "spec", "environment": self.name, "kwargs": self._kwargs, **spec,
            })  # fmt: skip

    def _answer(self, value: dict[str, Any]) -> None:
        self._owes = False
        try:
            self._connected().send(value)
        except GameGone as error:
            raise self._broken(str(error)) from error

    def _connected(self) -> GameConnection:
        if self._game is None:
            raise EnvironmentBroken("no game is connected")
        return self._game

    def _read(self, observation: Any, rows: Rows) -> None:
        for reader in self._readers:
            value = observation
            if not self._is_plain or (isinstance(observation, dict) and reader.name in observation):
                value = observation.get(reader.name) if isinstance(observation, dict) else None
            try:
                array = as_array(value)
                if array.size == rows[reader.name].size:  # numbers may come flat
                    array = array.reshape(reader.leaf.shape)
                reader.read(array, rows[reader.name])
            except ValueError as error:
                raise self._broken(f"observation {reader.name!r} {error}", tells=True) from error

    def _broken(self, text: str, *, tells: bool = False) -> EnvironmentBroken:
        """Let go of the game; return the error that ends its episode."""
        game, self._game = self._game, None
        log.warning("game=lost: %s", text)
        if game is not None:
            try:
                if tells:
                    game.send({"type": "error", "message": text})
            except GameGone:
                log.debug("game=gone")
            game.close()
        return EnvironmentBroken(text, Fault("crash", text, sound=True))


def _reader(name: str, leaf: Any) -> Reader:
    low, high = np.zeros(()), np.asarray(max(leaf.categories - 1, 0))
    return Reader(name, (), leaf, low, high)


def _plain(action: Any) -> Any:
    return action.tolist() if isinstance(action, np.ndarray | np.generic) else action
