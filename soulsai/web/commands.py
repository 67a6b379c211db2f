"""Commands from the page to the training node, one at a time, each with its answer."""

import threading
from collections.abc import Callable
from typing import Literal

from soulsai.errors import SoulsAIError
from soulsai.types import Command, Pause, Quicksave, Resume, Status, Stop
from soulsai.web.answers import Outcome
from soulsai.wire import TelemetryWire

Word = Literal["quicksave", "pause", "resume", "stop"]

COMMANDS: dict[Word, tuple[Command, float]] = {  # with the seconds to wait for an answer
    "quicksave": (Quicksave(), 30.0),
    "pause": (Pause(), 10.0),
    "resume": (Resume(), 10.0),
    "stop": (Stop(), 30.0),  # answered when the last checkpoint is written
}


class Conflict(Exception):
    """The command cannot be given now; says why."""


class Commander:
    """Gives commands over a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], TelemetryWire],
        status: Callable[[], Status | None],
        note: Callable[[str, str, str], None],
    ) -> None:
        self._connect = connect
        self._status = status
        self._note = note
        self._busy = threading.Lock()

    def give(self, word: Word, run: str, who: str) -> Outcome:
        """Ask, and wait for the training node's answer; raise ``Conflict`` if nobody would."""
        status = self._status()
        if status is None:
            raise Conflict("no training node is alive")
        if run and run != status.run:
            raise Conflict(f"{run} is not being trained; {status.run} is")
        if not self._busy.acquire(blocking=False):
            raise Conflict("another command is being carried out")
        try:
            self._note("command", f"{word}: asked for", who)
            outcome = self._ask(word)
            self._note("command", f"{word}: {outcome.state}, {outcome.message}", who)
        finally:
            self._busy.release()
        return outcome

    def _ask(self, word: Word) -> Outcome:
        command, patience = COMMANDS[word]
        try:
            wire = self._connect()
        except (SoulsAIError, OSError) as error:
            return Outcome(word, "unanswered", str(error))
        try:
            answer = wire.command(command, patience)
        except (SoulsAIError, OSError) as error:
            return Outcome(word, "unanswered", str(error))
        finally:
            wire.close()
        return Outcome(word, "done" if answer.done else "refused", answer.message)
