"""A warm-up ends in time, though other clients are silent, slow, hung, or leave (simulated)."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from soulsai.algorithms.pace import InFlight, Pace
from soulsai.config.schema import Config, RunSettings, TrainingSettings
from soulsai.training_node.admission import Arrival, Mark
from soulsai.training_node.client_table import IDLE_SECONDS, ClientTable
from soulsai.training_node.node import STALE_SECONDS
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.start import TrainingRun
from soulsai.training_node.trust.grants import Grants
from soulsai.types import PROTOCOL, EnvironmentOffer, Heartbeat, RunSpec
from soulsai.wire.protocols import Position
from tests.unit.training_node.node_cases import SPEC, Linear, program

TICK = 0.25
WARMUP = 2000
LONGEST = 64  # env steps of a fragment
RATE = 100.0  # env steps per second of an honest client


class Piece(Struct):
    """The steps of a fragment, and its version."""

    client: str
    steps: int
    version: int
    generation: int = 0
    greedy: bool = False
    granted: bool = True

    def __len__(self):
        return self.steps


class Player:
    """A client that takes ``rate`` steps per second while it may, from ``joins`` to ``leaves``.

    One that ``floods`` ignores its grants.
    """

    def __init__(self, name, *, rate=RATE, joins=0.0, hangs=1e9, leaves=1e9, floods=False):
        self.name, self.rate, self.floods = name, rate, floods
        self.taken = 0
        self.joins, self.hangs, self.leaves = joins, hangs, leaves
        self.version, self.left, self.owed, self.beaten = 0, 0, 0.0, -1.0

    def arrivals(self, now, weights):
        """Return the messages of one tick."""
        if not self.joins <= now < self.leaves:
            return []
        if weights.version != self.version and now < self.hangs:
            self.version, self.left = weights.version, weights.quota
        messages = []
        self.owed += self.rate * TICK * (now < self.hangs)
        steps = int(self.owed) if self.floods else min(int(self.owed), self.left)
        if steps:
            self.left = max(0, self.left - steps)
            self.taken += steps
            sizes = [min(LONGEST, steps - first) for first in range(0, steps, LONGEST)]
            pieces = tuple(Piece(self.name, size, self.version) for size in sizes)
            messages.append(self.arrival(fragments=pieces))
        self.owed = min(self.owed - steps, 1.0) if self.left == 0 else self.owed - steps
        if now - self.beaten >= 1.0:
            self.beaten = now
            waiting = self.left == 0 and now < self.hangs
            beat = Heartbeat(0, 0, 0, 0, self.version, waiting=waiting)
            messages.append(self.arrival(heartbeat=beat))
        return messages

    def arrival(self, **more):
        return Arrival(self.name, Mark(Position(1, 1)), 10, **more)


def simulate(players, limit, updates_per_second=0.0):
    """Return the seconds until the warm-up is over, or play on until ``limit`` and learn."""
    pace = Pace("hold", samples_per_insert=1.0, error_buffer=256, learning_starts=WARMUP)
    flight, clients, grants, sent = InFlight(), ClientTable(0.0), Grants(0, resumed=False), []
    policy, progress = Linear(), Progress("run")
    policy.quota = pace.quota()
    spec = RunSpec("run", PROTOCOL, PROTOCOL, EnvironmentOffer("x"), SPEC, "dqn", "")
    config = Config(training=TrainingSettings(publish_seconds=1.0), run=RunSettings(clients=0))
    algorithm = SimpleNamespace(policy=policy)
    run = TrainingRun(config, None, spec, program(), algorithm, progress)

    def send(weights):
        sent.append(weights)
        return True

    publisher = Publisher(run, send)
    now = budget = 0.0
    while now < limit and (pace.warming_up or updates_per_second):
        now += TICK
        clients.tick(now)
        publisher.count(clients.sharing, clients.active)
        stuck = clients.need_grant(progress.version, publisher.tried + STALE_SECONDS)
        if publisher.due(now, starving=True, stuck=stuck):
            publisher.publish(now, clients.restart_counts())
            grants.published(publisher.granted)
            flight.published(policy.newest, policy.quota)
        for player in players:
            for arrival in player.arrivals(now, sent[-1]):
                clients.heard(arrival, now)
                steps = sum(len(piece) for piece in arrival.fragments)
                clients.count(arrival, steps)
                progress.env_steps += steps
                granted = [piece for piece in grants.marked(arrival.fragments) if piece.granted]
                pace.arrived(sum(map(len, granted)))
                for piece in granted:
                    flight.arrived(piece)
        policy.quota = pace.quota(flight.steps)
        budget += updates_per_second * TICK
        while budget >= 1.0 and pace.due:
            budget -= 1.0
            pace.updated()
            flight.updated()
            publisher.unpublished = True
            policy.quota = pace.quota(flight.steps)
            due = publisher.due(now, starving=not pace.due, stuck=False)
            if due and publisher.publish(now, clients.restart_counts()):
                grants.published(publisher.granted)
                flight.published(policy.newest, policy.quota)
        budget = min(budget, updates_per_second * TICK)
    return now


def warm_up(players, limit):
    """Return the seconds until the warm-up is over."""
    return simulate(players, limit)


OTHERS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "rate": st.sampled_from([0.0, 0.03, 1.0, 20.0, 400.0]),
            "joins": st.floats(0.0, 60.0),
            "hangs": st.floats(0.0, 60.0),
            "leaves": st.floats(0.0, 60.0),
            "floods": st.booleans(),
        },
    ),
    max_size=12,
)


@given(OTHERS)
@settings(max_examples=60, deadline=None)
def test_no_mix_of_clients_holds_up_a_warm_up(others):
    players = [Player("honest"), *(Player(f"c{n}", **more) for n, more in enumerate(others))]
    assert warm_up(players, 100.0) < 60.0  # alone it takes 20 s


def test_a_hung_client_costs_a_few_seconds():
    alone = warm_up([Player("honest")], 1000.0)
    silent = warm_up([Player("honest"), Player("silent", rate=0.0)], 1000.0)
    hung = warm_up([Player("honest"), Player("hung", hangs=2.0)], 1000.0)
    assert alone < 1.5 * WARMUP / RATE
    assert silent < alone + 2.0
    assert hung < alone + 4 * IDLE_SECONDS


@pytest.mark.parametrize("rate", [400.0, 5000.0])
def test_a_client_that_ignores_its_grants_slows_nobody(rate):
    def honest_steps(*others):
        honest = [Player(f"honest{n}", rate=20.0) for n in range(8)]
        simulate([*honest, *others], 120.0, updates_per_second=400.0)
        return sum(player.taken for player in honest)

    alone = honest_steps()
    assert alone > 0.95 * 8 * 20 * 120
    assert honest_steps(Player("flood", rate=rate, floods=True)) >= 0.95 * alone
