"""Who may be learnt from: holds the list of who is kept out, and lets nothing of them through."""

import logging
from collections.abc import Callable

import msgspec
from msgspec import Struct

from soulsai.algorithms.base import Forgetful, Stateful
from soulsai.training_node.admission import Arrival, Refusal
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.trust.audit_log import Audit
from soulsai.training_node.trust.quarantine import Conduct, Quarantine
from soulsai.training_node.trust.rate_limit import FairShare
from soulsai.training_node.trust.watch import Watch
from soulsai.types import Answer

QUARANTINE = "quarantine"  # the reason under which is counted what is not even looked at
SHARE = "share"  # the reason, if it is more than one client may have
OPERATOR = "the operator has purged it"

log = logging.getLogger(__name__)


class Learnt(Struct):
    """What was learnt from one client since the last line of the audit trail."""

    env_steps: int = 0
    fragments: int = 0
    episodes: int = 0
    rejected: int = 0
    lost: int = 0
    epoch: int = 0
    seq: int = 0  # of the last entry


class Guard:
    """Judges clients by what comes of them; every judgement is in the audit trail."""

    def __init__(
        self,
        progress: Progress,
        parts: dict[str, Stateful],
        watch: Watch,
        share: FairShare,
        audit: Audit,
        now: Callable[[], float],
    ) -> None:
        self.conduct = Conduct(progress.quarantined, now)
        self._parts = parts
        self._watch = watch
        self._share = share
        self._audit = audit
        self._learnt: dict[str, Learnt] = {}

    def __repr__(self) -> str:
        return f"<Guard [{len(self.conduct.held)} in quarantine]>"

    def judged(self, arrival: Arrival) -> Arrival:
        """Return what remains of an arrival: all of it, or nothing to learn from."""
        client = arrival.client
        if client not in self.conduct.held:
            reasons = [refusal.reason for refusal in arrival.refusals]
            held = self.conduct.refused(client, reasons)
            caught = "" if held is not None else self._watch.seen(arrival)
            if caught:
                held = self.conduct.hold(client, caught)
            if held is not None:
                self._note(client, held)
        if client in self.conduct.held:
            return _without(arrival, QUARANTINE)
        if arrival.steps and not self._share.takes(client, arrival.steps):
            return _without(arrival, SHARE)
        return arrival

    def learnt(self, arrival: Arrival, env_steps: int) -> None:
        """Note what was given to the learner of an arrival, for the audit trail."""
        learnt = self._learnt.setdefault(arrival.client, Learnt())
        learnt.env_steps += env_steps
        learnt.fragments += len(arrival.fragments)
        learnt.episodes += len(arrival.episodes)
        learnt.rejected += len(arrival.refusals) + arrival.discarded
        learnt.lost += arrival.lost
        learnt.epoch, learnt.seq = arrival.mark.position

    def saved(self, checkpoint: str, env_steps: int) -> None:
        """Write down from whom was learnt since the last checkpoint."""
        clients = {name: msgspec.to_builtins(one) for name, one in self._learnt.items()}
        self._audit.note("learnt", checkpoint=checkpoint, env_steps=env_steps, clients=clients)
        self._learnt.clear()

    def look(self) -> None:
        """Let those in again whose time is over."""
        for client in self.conduct.released():
            log.info("quarantine over client=%s", client)
            self._audit.note("released", client=client)

    def purge(self, client: str) -> Answer:
        """Remove a client's experience from the learner's memory, and keep it out for good."""
        removed = {
            name: part.forget(client)
            for name, part in self._parts.items()
            if isinstance(part, Forgetful)
        }
        self._watch.forget(client)
        self._note(client, self.conduct.hold(client, OPERATOR, for_good=True))
        self._audit.note("purged", client=client, removed=removed)
        said = ", ".join(f"{count} from {name}" for name, count in removed.items() if count)
        return Answer(True, f"purged {client}: {said or 'nothing was left of it'}; it is kept out")

    def pardon(self, client: str) -> Answer:
        """Let a client in again."""
        if not self.conduct.pardon(client):
            return Answer(False, f"{client}: is not in quarantine")
        self._audit.note("pardoned", client=client)
        return Answer(True, f"{client} is let in again")

    def _note(self, client: str, held: Quarantine) -> None:
        log.warning("quarantine client=%s reason=%r until=%s", client, held.reason, held.until)
        self._audit.note("quarantine", client=client, **msgspec.to_builtins(held))


def _without(arrival: Arrival, reason: str) -> Arrival:
    """Return an arrival of which nothing is let in."""
    dropped = len(arrival.fragments) + len(arrival.episodes)
    refusals = arrival.refusals + dropped * (Refusal(reason, ""),)
    return msgspec.structs.replace(arrival, fragments=(), episodes=(), refusals=refusals)
