"""Send commands from the page to the training node, one at a time."""

import threading
from collections.abc import Callable
from typing import Literal, Protocol

from soulsai.errors import SoulsAIError
from soulsai.types import Command, Pardon, Pause, Promote, Purge, Quicksave, Resume, Status, Stop
from soulsai.web.schemas import CommandOutcome
from soulsai.wire.protocols import TelemetryWire

Word = Literal[
    "quicksave", "pause", "resume", "stop", "promote", "purge", "pardon", "enroll", "revoke",
    "forget_best",
]  # fmt: skip

COMMANDS: dict[Word, tuple[Callable[[str], Command], float]] = {  # with the seconds to wait
    "quicksave": (lambda _: Quicksave(), 30.0),
    "pause": (lambda _: Pause(), 10.0),
    "resume": (lambda _: Resume(), 10.0),
    "stop": (lambda _: Stop(), 30.0),  # answered after the last checkpoint
    "promote": (Promote, 30.0),
    "purge": (Purge, 30.0),
    "pardon": (Pardon, 10.0),
}
NAMED = ("promote", "purge", "pardon", "enroll", "revoke")  # commands that need a name


class Conflict(Exception):
    """The present state does not allow the command."""


class Enroller(Protocol):
    """Enrolls and revokes clients, if this node may do that."""

    def can_enroll(self) -> bool:
        """Return whether clients can be enrolled from here."""
        ...

    def enroll(self, client: str) -> str:
        """Return the secret one-line invite of a new client."""
        ...

    def revoke(self, client: str) -> str:
        """Disconnect a client for good; return one line of confirmation."""
        ...


class Commander:
    """Send commands over a connection of their own, and journal each of them."""

    def __init__(
        self,
        connect: Callable[[], TelemetryWire],
        status: Callable[[], Status | None],
        note: Callable[[str, str, str], None],
        enroller: Enroller | None = None,
        forget_best: Callable[[], str] | None = None,
    ) -> None:
        """Create a commander.

        Args:
            connect: Opens a connection to the server.
            status: Returns the training node's status.
            note: Journals kind, text and operator.
            enroller: Enrolls and revokes clients; ``None`` refuses both.
            forget_best: Drops the best average and returns a confirmation; ``None`` refuses.
        """
        self._enroller = enroller
        self._forget_best = forget_best
        self._connect = connect
        self._status = status
        self._note = note
        self._busy = threading.Lock()

    @property
    def enrolls(self) -> bool:
        """Whether clients can be enrolled from here."""
        return self._enroller is not None and self._enroller.can_enroll()

    def give(self, word: Word, run: str, operator: str, about: str = "") -> CommandOutcome:
        """Send a command and wait for its answer.

        Args:
            word: The command.
            run: The run that it is meant for, or empty for any.
            operator: Role and address, for the journal.
            about: The client or the model of the commands in ``NAMED``.

        Raises:
            Conflict: The present state does not allow the command.
        """
        if (word in NAMED) != bool(about):
            needs = "needs a name in `about`" if word in NAMED else "is about nothing"
            raise Conflict(f"{word} {needs}")
        if word in (*COMMANDS, "forget_best"):
            status = self._status()
            if status is None:
                raise Conflict("no training node is alive")
            if run and run != status.run:
                raise Conflict(f"{run} is not being trained; {status.run} is")
        if not self._busy.acquire(blocking=False):
            raise Conflict("another command is being carried out")
        named = f"{word} {about}".strip()
        try:
            self._note("command", f"{named}: asked for", operator)
            outcome = self._carry_out(word, about)
            self._note("command", f"{named}: {outcome.state}, {outcome.message}", operator)
        finally:
            self._busy.release()
        return outcome

    def _carry_out(self, word: Word, about: str) -> CommandOutcome:
        if word in COMMANDS:
            return self._ask(word, about)
        if word != "forget_best":
            return self._admit(word, about)
        if self._forget_best is None:
            return CommandOutcome(word, "refused", "this page follows no run")
        return CommandOutcome(word, "done", self._forget_best())

    def _ask(self, word: Word, about: str) -> CommandOutcome:
        command, patience = COMMANDS[word]
        try:
            wire = self._connect()
            try:
                answer = wire.command(command(about), patience)
            finally:
                wire.close()
        except (SoulsAIError, OSError) as error:
            return CommandOutcome(word, "unanswered", str(error))
        return CommandOutcome(word, "done" if answer.done else "refused", answer.message)

    def _admit(self, word: Word, client: str) -> CommandOutcome:
        """Enroll or revoke; the invite goes to the operator and into no journal."""
        if self._enroller is None:
            place = "this node may not change who takes part; run this where admin.secret is"
            return CommandOutcome(word, "refused", f"{place}: soulsai {word} {client}")
        try:
            if word == "revoke":
                return CommandOutcome(word, "done", self._enroller.revoke(client))
            invite = self._enroller.enroll(client)
        except (SoulsAIError, OSError) as error:
            return CommandOutcome(word, "refused", str(error))
        return CommandOutcome(word, "done", f"{client} may take part", invite)
