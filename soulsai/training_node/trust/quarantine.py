"""Clients that are kept out of the learning: the reasons, the durations, and their notices."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from soulsai.algorithms.base import Forgetful, Stateful
from soulsai.training_node.admission import BAD_POSITION, Arrival, Refusal
from soulsai.training_node.saving.snapshot import Exclusion
from soulsai.training_node.trust.action_check import ActionCheck
from soulsai.training_node.trust.audit_log import AuditLog
from soulsai.training_node.trust.rate_limit import RateLimit
from soulsai.types import Answer, Event

BUDGET = 60.0  # messages of one client that may be refused per minute
FIRST_SECONDS = 600.0  # of a first exclusion; each further one takes twice as long
LONGEST_SECONDS = 24 * 3600.0
# An old outbox or a clock that was set back explains these refusals.
HARMLESS = frozenset(["run", "protocol", "overlap", BAD_POSITION])
MOST_CLIENTS = 4096  # remembered
EXCLUDED = "quarantine"  # the reason under which messages of excluded clients are counted
TOO_FAST = "share"  # the reason for messages beyond the rate limit

log = logging.getLogger(__name__)

Notify = Callable[[str, str], bool]  # (client, notice) -> whether the server has it
Announce = Callable[[Event], object]


class Quarantine:
    """Decides which arrivals are admitted; every decision is in the audit log.

    ``excluded`` is replaced and never changed, so other threads may read it.
    """

    def __init__(
        self,
        entries: dict[str, Exclusion],
        parts: dict[str, Stateful],
        action_check: ActionCheck,
        rate_limit: RateLimit,
        audit: AuditLog,
        *,
        notify: Notify,
        announce: Announce,
        now: Callable[[], float],
    ) -> None:
        """Continue with the exclusions of a checkpoint.

        Args:
            entries: Exclusions by client; changed in place, and saved by their owner.
            parts: The algorithm's parts; ``purge`` removes experience from them.
            action_check: Compares actions with published weights.
            rate_limit: Bounds the env steps of one client.
            audit: Receives a line for each decision.
            notify: Stores a notice for one client; an empty one removes it.
            announce: Publishes an event.
            now: Unix seconds.
        """
        self.excluded: frozenset[str] = frozenset()
        self._entries = entries
        self._parts = parts
        self._action_check = action_check
        self._rate_limit = rate_limit
        self._audit = audit
        self._notify = notify
        self._announce = announce
        self._now = now
        self._budgets: dict[str, tuple[float, float]] = {}  # refusals left, and since when
        self._notices: dict[str, str] = {}  # the notices that are on the server, by client
        self._update()

    def __repr__(self) -> str:
        return f"<Quarantine [{len(self.excluded)} clients]>"

    def admit(self, arrival: Arrival) -> Arrival:
        """Return an arrival as it may be learnt from: whole, or with everything refused."""
        client = arrival.client
        if client not in self.excluded:
            self.charge(client, [refusal.reason for refusal in arrival.refusals])
        if client not in self.excluded and (caught := self._action_check.judge(arrival)):
            self.exclude(client, caught)
        if client in self.excluded:
            return _refused(arrival, EXCLUDED)
        if arrival.steps and not self._rate_limit.allows(client, arrival.steps):
            return _refused(arrival, TOO_FAST)
        return arrival

    def charge(self, client: str, reasons: Sequence[str]) -> None:
        """Charge refusals to the client's budget; exclude it when the budget is spent."""
        spent = sum(reason not in HARMLESS for reason in reasons)
        if not spent:
            return
        now = self._now()
        left, since = self._budgets.pop(client, (BUDGET, now))
        left = min(BUDGET, left + max(0.0, now - since) * BUDGET / 60.0) - spent
        self._budgets[client] = left, now  # the last in order, so the first is the longest quiet
        if len(self._budgets) > MOST_CLIENTS:
            del self._budgets[next(iter(self._budgets))]
        if left < 0:
            self.exclude(client, f"too many refused messages, the last for {reasons[-1]!r}")

    def exclude(self, client: str, reason: str, *, for_good: bool = False) -> None:
        """Keep a client out.

        Args:
            client: Its name.
            reason: For the operator and the client.
            for_good: Until it is pardoned, instead of for a while.
        """
        now, before = self._now(), self._entries.pop(client, None)
        times = before.times + 1 if before is not None else 1
        seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(times - 1, 20))
        entry = Exclusion(reason, now, None if for_good else now + seconds, times)
        self._entries[client] = entry
        self._budgets.pop(client, None)
        self._action_check.forget(client)
        while len(self._entries) > MOST_CLIENTS:
            del self._entries[next(iter(self._entries))]
        self._update()
        log.warning("quarantine client=%s reason=%r until=%s", client, reason, entry.until)
        self._audit.write("quarantine", client=client, **msgspec.to_builtins(entry))
        self._announce(Event("client", f"{client} is kept out: {self.reason(client)}"))
        self._send_notices()

    def look(self) -> None:
        """End the exclusions that have lasted long enough, and update the notices of clients."""
        now = self._now()
        for client in sorted(self.excluded):
            until = self._entries[client].until
            if until is not None and until <= now:
                self._end(client, "released")
        self._send_notices()

    def purge(self, client: str) -> Answer:
        """Remove a client's experience from the algorithm's parts, and exclude it for good."""
        removed = {
            name: part.forget(client)
            for name, part in self._parts.items()
            if isinstance(part, Forgetful)
        }
        self.exclude(client, "the operator has purged it", for_good=True)
        self._audit.write("purged", client=client, removed=removed)
        return Answer(
            True,
            f"{_removal(client, removed)}; {client} stays out until `soulsai pardon {client}`",
        )

    def pardon(self, client: str) -> Answer:
        """End a client's exclusion."""
        if client not in self.excluded:
            return Answer(False, f"{client}: is not in quarantine")
        self._end(client, "pardoned")
        return Answer(True, f"{client} is let in again")

    def reason(self, client: str) -> str:
        """Return the reason and the end of a client's exclusion, or an empty text."""
        if client not in self.excluded:
            return ""
        entry = self._entries[client]
        if entry.until is None:
            return f"{entry.reason}; until the operator pardons it"
        return f"{entry.reason}; until {datetime.fromtimestamp(entry.until, UTC):%H:%M} UTC"

    @property
    def purged(self) -> dict[str, float]:
        """The clients that are kept out for good, and since when, in Unix seconds."""
        entries = ((client, self._entries[client]) for client in sorted(self.excluded))
        return {client: entry.since for client, entry in entries if entry.until is None}

    def finding(self, client: str) -> str:
        """Return the first finding of the action check against a client, or an empty text."""
        return self._action_check.report(client)

    @property
    def notice(self) -> str:
        """A line for the status: the excluded clients, or an empty text."""
        if not self.excluded:
            return ""
        first, *more = sorted(self.excluded)
        others = f" and {len(more)} more" if more else ""
        return f"kept out: {first} ({self.reason(first)}){others}"

    def _end(self, client: str, how: str) -> None:
        self._entries[client].over = True
        self._update()
        log.info("quarantine over client=%s how=%s", client, how)
        self._audit.write(how, client=client)
        self._announce(Event("client", f"{client} is let in again"))

    def _update(self) -> None:
        self.excluded = frozenset(name for name, entry in self._entries.items() if not entry.over)

    def _send_notices(self) -> None:
        """Store every notice that the server does not have yet; stop when it cannot be reached."""
        for client in self.excluded | self._notices.keys():
            notice = self.reason(client)
            if self._notices.get(client, "") == notice:
                continue
            if not self._notify(client, notice):
                return
            if notice:
                self._notices[client] = notice
            else:
                del self._notices[client]


def _removal(client: str, removed: Mapping[str, int]) -> str:
    """Return a sentence about the env steps that were removed from each part."""
    total = sum(removed.values())
    if not total:
        return f"no env step of {client} was left in the learner's memory"
    parts = ", ".join(f"{count:,} from {name}" for name, count in removed.items() if count)
    return f"removed {total:,} env step{'s' * (total != 1)} of {client} ({parts})"


def _refused(arrival: Arrival, reason: str) -> Arrival:
    """Return an arrival with all of its fragments and episodes refused."""
    dropped = len(arrival.fragments) + len(arrival.episodes)
    refusals = arrival.refusals + dropped * (Refusal(reason, ""),)
    return msgspec.structs.replace(arrival, fragments=(), episodes=(), refusals=refusals)
