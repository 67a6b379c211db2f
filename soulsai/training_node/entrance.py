"""What stands between the server and the learner: who reads, who judges, and who watches."""

from collections.abc import Callable
from random import Random

from soulsai.training_node.admission import Admission
from soulsai.training_node.failed_entries import FailedEntries
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.receiver import Receiver
from soulsai.training_node.retrying_wire import Line
from soulsai.training_node.start import Run
from soulsai.training_node.trust.action_check import ActionCheck, Recomputation
from soulsai.training_node.trust.audit_log import AuditLog
from soulsai.training_node.trust.quarantine import Quarantine
from soulsai.training_node.trust.rate_limit import RateLimit
from soulsai.types import Event
from soulsai.wire.codec import decode_entry
from soulsai.wire.protocols import TrainingWire

OVERFULL = 2  # times its stream's bound: more is taken away from a client that does not keep to it

Clock = Callable[[], float]


def receiver(
    run: Run, wire: TrainingWire, failed: FailedEntries, clock: Clock, now: Clock
) -> Receiver:
    """Return who reads on from where the run stands."""
    admission = Admission(
        run.spec,
        run.program.head,
        lambda entry: decode_entry(entry, run.spec),
        marks=run.progress.marks,
        newest=(run.progress.generation, run.progress.version),
        now=now,
    )
    most = OVERFULL * run.spec.stream_entries
    receiver = Receiver(wire, admission, most=most, failed=failed, rng=Random(), clock=clock)
    receiver.held = frozenset(
        client for client, held in run.progress.quarantined.items() if not held.over
    )
    return receiver


def quarantine(
    run: Run,
    publisher: Publisher,
    audit: AuditLog,
    wire: TrainingWire,
    line: Line,
    clock: Clock,
    now: Clock,
) -> Quarantine:
    """Return the quarantine of a run's clients, with its checks."""
    config, algorithm = run.config, run.algorithm

    def announce(event: Event) -> bool:
        return line.attempt(lambda: wire.announce(event))

    recompute = Recomputation(algorithm.policy, run.program, run.spec, publisher.kept)
    check = ActionCheck(
        config.trust.action_check, recompute, audit, announce=announce, rng=Random(), clock=clock
    )
    return Quarantine(
        run.progress.quarantined,
        algorithm.parts,
        check,
        RateLimit(config.training.most_times, clock),
        audit,
        notify=lambda client, notice: line.attempt(lambda: wire.notify(client, notice)),
        announce=announce,
        now=now,
    )
