"""Commands of the operator and of the telemetry node: each is carried out and answered."""

import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from soulsai.training_node.retrying_wire import RetryingWire
from soulsai.training_node.saving.saver import Saver
from soulsai.training_node.trust.audit_log import AuditLog
from soulsai.training_node.trust.quarantine import Quarantine
from soulsai.types import (
    Answer,
    Control,
    Evaluate,
    EvaluationRequest,
    Event,
    Pardon,
    Pause,
    Promote,
    Purge,
    Quicksave,
    Resume,
    ReturnTo,
    SaveBest,
    Weights,
)
from soulsai.wire.protocols import Request, TrainingWire

log = logging.getLogger(__name__)


class CommandHandler:
    """Carries out commands; a stop is answered after the last checkpoint is written."""

    def __init__(
        self,
        wire: RetryingWire,
        saver: Saver,
        quarantine: Quarantine,
        audit: AuditLog,
        best_policy: Callable[[SaveBest], bytes | None],
        refusal: Callable[[str], str] = lambda _: "",
        weights: Callable[[int, int], Weights | None] = lambda *_: None,
        playing: Callable[[], int] = lambda: 1,
    ) -> None:
        """Prepare to answer commands.

        Args:
            wire: The server.
            saver: Writes checkpoints and the best model.
            quarantine: Excludes and pardons clients.
            audit: Receives a line for each command.
            best_policy: Makes a complete ``policy.onnx`` of the best version, if its weights are
                still kept.
            refusal: Returns why the node cannot return to a checkpoint, or an empty text.
            weights: Returns the weights of one generation's version, if they are still kept.
            playing: Returns the number of clients that play.
        """
        self.return_to: ReturnTo | None = None  # the request to go back to a checkpoint
        self.paused = False
        self._stops: list[Request] = []
        self._wire = wire
        self._saver = saver
        self._quarantine = quarantine
        self._audit = audit
        self._best_policy = best_policy
        self._refusal = refusal
        self._weights = weights
        self._playing = playing

    @property
    def stopping(self) -> bool:
        """Whether the run is to end."""
        return bool(self._stops)

    def serve(self) -> None:
        """Carry out the commands that came since the last call."""
        requests: list[Request] = []
        self._wire.attempt(lambda wire: requests.extend(wire.requests()))
        for request in requests:
            answer = self._carry_out(request)
            if not isinstance(request.command, SaveBest | Evaluate):
                message = answer.message if answer is not None else ""
                command = msgspec.to_builtins(request.command)
                self._audit.write("command", who=request.who, command=command, answer=message)
                self._announce(request, answer)
            if answer is not None:
                log.info("command who=%s done=%s %s", request.who, answer.done, answer.message)
                self._answer(request, answer)

    def answer_stops(self, answer: Answer) -> None:
        """Answer all commands to stop."""
        for request in self._stops:
            self._answer(request, answer)
        self._stops.clear()

    def _carry_out(self, request: Request) -> Answer | None:
        command = request.command
        if isinstance(command, Quicksave):
            return self._announced(self._saver.quicksave(command), "checkpoint")
        if isinstance(command, SaveBest):
            return self._save_best(command)
        if isinstance(command, Pause):
            return self._pause(True)
        if isinstance(command, Resume):
            return self._pause(False)
        if isinstance(command, Promote):
            return self._announced(self._saver.promote(command), "best")
        if isinstance(command, ReturnTo):
            return self._return(command)
        if isinstance(command, Evaluate):
            return self._evaluate(command)
        if isinstance(command, Purge):
            self._wire.attempt(lambda wire: wire.forget(command.client))
            return self._quarantine.purge(command.client)
        if isinstance(command, Pardon):
            return self._quarantine.pardon(command.client)
        self._stops.append(request)
        return None

    def _save_best(self, command: SaveBest) -> Answer:
        policy = self._best_policy(command)
        if policy is None:
            return Answer(
                done=False,
                message=f"version {command.generation}-{command.version} is no longer kept; "
                "raise training.kept_weights_mb",
            )
        return self._saver.best(command, policy)  # the telemetry node announces it

    def _return(self, command: ReturnTo) -> Answer:
        """Let the node go back to a checkpoint after the present update."""
        if fault := self._refusal(command.checkpoint):
            return Answer(done=False, message=fault)
        self.return_to = command
        return Answer(done=True, message=f"goes back to checkpoint {command.checkpoint}")

    def _evaluate(self, command: Evaluate) -> Answer:
        """Ask all clients to play some greedy episodes with one version."""
        name = f"version {command.generation}-{command.version}"
        weights = self._weights(command.generation, command.version)
        if weights is None:
            return Answer(
                done=False, message=f"{name} is no longer kept; raise training.kept_weights_mb"
            )
        each = -(-command.episodes // max(1, self._playing()))
        op: Literal["pause", "resume"] = "pause" if self.paused else "resume"

        def ask(wire: TrainingWire) -> None:
            wire.tell(Control(op, EvaluationRequest(each, wire.keep(weights))))

        if not self._wire.attempt(ask):
            return Answer(done=False, message=f"{name}: the clients could not be asked")
        return Answer(done=True, message=f"asked clients for {each} greedy episodes of {name} each")

    def _pause(self, paused: bool) -> Answer:
        word = "paused" if paused else "resumed"
        if paused == self.paused:
            return Answer(done=True, message=f"already {word}")
        self.paused = paused
        control = Control("pause" if paused else "resume")
        if not self._wire.attempt(lambda wire: wire.tell(control)):
            return Answer(done=True, message=f"{word}, but the clients could not be told")
        return Answer(done=True, message=word)

    def _announced(self, answer: Answer, kind: Literal["checkpoint", "best"]) -> Answer:
        if answer.done:
            self._wire.attempt(lambda wire: wire.announce(Event(kind, answer.message)))
        return answer

    def _announce(self, request: Request, answer: Answer | None) -> None:
        """Announce an operator's command to the telemetry node, which journals its own."""
        command = request.command
        if isinstance(command, Purge) and answer is not None and answer.done:
            purge = Event("purge", command.client)
            self._wire.attempt(lambda wire: wire.announce(purge))
        if request.who == "telemetry":
            return
        fields = msgspec.to_builtins(command)
        name = " ".join(fields[key] for key in ("type", "client", "model") if key in fields)
        done = "asked for" if answer is None else "done" if answer.done else "refused"
        text = f"{name}: {done}, {answer.message}" if answer else f"{name}: {done}"
        event = Event("command", text, f"{request.who}, command line")
        self._wire.attempt(lambda wire: wire.announce(event))

    def _answer(self, request: Request, answer: Answer) -> None:
        self._wire.attempt(lambda wire: wire.answer(request, answer))
