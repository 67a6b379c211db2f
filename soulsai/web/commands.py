"""Commands from the page to the training node, one at a time, each with its answer."""

import threading
from collections.abc import Callable
from typing import Literal, Protocol

from soulsai.errors import SoulsAIError
from soulsai.types import Command, Pardon, Pause, Promote, Purge, Quicksave, Resume, Status, Stop
from soulsai.web.schemas import CommandOutcome
from soulsai.wire.protocols import TelemetryWire

Word = Literal[
    "quicksave", "pause", "resume", "stop", "promote", "purge", "pardon", "enroll", "revoke"
]

COMMANDS: dict[Word, tuple[Callable[[str], Command], float]] = {  # and the seconds to wait
    "quicksave": (lambda _: Quicksave(), 30.0),
    "pause": (lambda _: Pause(), 10.0),
    "resume": (lambda _: Resume(), 10.0),
    "stop": (lambda _: Stop(), 30.0),  # answered when the last checkpoint is written
    "promote": (Promote, 30.0),
    "purge": (Purge, 30.0),
    "pardon": (Pardon, 10.0),
}
ABOUT = ("promote", "purge", "pardon", "enroll", "revoke")  # need to be told of whom, or of what


class Conflict(Exception):
    """The command cannot be given now; says why."""


class Enroller(Protocol):
    """Lets clients in and shuts them out, where this node may do that."""

    def enroll(self, client: str) -> str:
        """Return the invite of a new client, one line that is secret."""
        ...

    def revoke(self, client: str) -> str:
        """Shut a client out at once; say so in one line."""
        ...


class NoEnroller:
    """Stands where nobody may be let in from here."""

    def enroll(self, client: str) -> str:
        """Refuse."""
        raise Conflict(f"{ELSEWHERE}: soulsai enroll {client}")

    def revoke(self, client: str) -> str:
        """Refuse."""
        raise Conflict(f"{ELSEWHERE}: soulsai revoke {client}")


ELSEWHERE = "this node may not change who takes part; run this where admin.secret is"


class Commander:
    """Gives commands over a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], TelemetryWire],
        status: Callable[[], Status | None],
        note: Callable[[str, str, str], None],
        enroller: Enroller | None = None,
    ) -> None:
        self._enroller = enroller or NoEnroller()
        self._connect = connect
        self._status = status
        self._note = note
        self._busy = threading.Lock()

    def give(self, word: Word, run: str, who: str, what: str = "") -> CommandOutcome:
        """Ask, and wait for the answer; raise ``Conflict`` if nobody would give one.

        ``what`` names the client or the model that some commands are about.
        """
        if (word in ABOUT) != bool(what):
            needs = "needs a name in `about`" if word in ABOUT else "is about nothing"
            raise Conflict(f"{word} {needs}")
        if word not in COMMANDS:
            return self._audited(word, what, who, self._admit)
        status = self._status()
        if status is None:
            raise Conflict("no training node is alive")
        if run and run != status.run:
            raise Conflict(f"{run} is not being trained; {status.run} is")
        return self._audited(word, what, who, self._ask)

    def _audited(
        self, word: Word, what: str, who: str, act: Callable[[Word, str], CommandOutcome]
    ) -> CommandOutcome:
        if not self._busy.acquire(blocking=False):
            raise Conflict("another command is being carried out")
        named = f"{word} {what}".strip()
        try:
            self._note("command", f"{named}: asked for", who)
            outcome = act(word, what)
            self._note("command", f"{named}: {outcome.state}, {outcome.message}", who)
        finally:
            self._busy.release()
        return outcome

    def _ask(self, word: Word, what: str) -> CommandOutcome:
        command, patience = COMMANDS[word]
        try:
            wire = self._connect()
        except (SoulsAIError, OSError) as error:
            return CommandOutcome(word, "unanswered", str(error))
        try:
            answer = wire.command(command(what), patience)
        except (SoulsAIError, OSError) as error:
            return CommandOutcome(word, "unanswered", str(error))
        finally:
            wire.close()
        return CommandOutcome(word, "done" if answer.done else "refused", answer.message)

    def _admit(self, word: Word, client: str) -> CommandOutcome:
        """Enroll or revoke; the invite is for the asker's eyes and for no record."""
        try:
            if word == "revoke":
                return CommandOutcome(word, "done", self._enroller.revoke(client))
            invite = self._enroller.enroll(client)
        except (SoulsAIError, OSError, Conflict) as error:
            return CommandOutcome(word, "refused", str(error))
        return CommandOutcome(word, "done", f"{client} may take part", invite)
