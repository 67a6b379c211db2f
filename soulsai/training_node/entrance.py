"""What stands between the server and the learner: who reads, who judges, and who watches."""

from collections.abc import Callable
from random import Random

from soulsai.training_node.admission import Admission
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.receiver import Receiver
from soulsai.training_node.start import Run
from soulsai.training_node.trust.action_check import SpotCheck
from soulsai.training_node.trust.audit_log import Audit
from soulsai.training_node.trust.guard import Guard
from soulsai.training_node.trust.rate_limit import FairShare
from soulsai.training_node.trust.watch import Watch
from soulsai.wire.codec import decode_entry
from soulsai.wire.protocols import TrainingWire

OVERFULL = 2  # times its stream's bound: more is taken away from a client that does not keep to it

Clock = Callable[[], float]


def receiver(run: Run, wire: TrainingWire, clock: Clock, now: Clock) -> Receiver:
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
    receiver = Receiver(wire, admission, most=most, rng=Random(), clock=clock)
    receiver.held = frozenset(
        client for client, held in run.progress.quarantined.items() if not held.over
    )
    return receiver


def guard(run: Run, publisher: Publisher, audit: Audit, clock: Clock, now: Clock) -> Guard:
    """Return who judges the clients of a run."""
    algorithm = run.algorithm
    check = SpotCheck(algorithm.policy, run.program, run.spec, publisher.kept)
    watch = Watch(check, run.spec.spec.obs, rng=Random(), clock=clock)
    share = FairShare(run.config.training.most_times, clock)
    return Guard(run.progress, algorithm.parts, watch, share, audit, now)
