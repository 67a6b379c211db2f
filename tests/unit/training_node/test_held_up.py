"""A warm-up ends in time, though other clients are silent, slow, hung, or leave (simulated)."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.algorithms.pace import InFlight, Pace
from soulsai.config.schema import Config, RunSettings, TrainingSettings
from soulsai.training_node.admission import Arrival, Mark
from soulsai.training_node.client_table import IDLE_SECONDS, ClientTable
from soulsai.training_node.node import STALE_SECONDS
from soulsai.training_node.publisher import Publisher
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.start import TrainingRun
from soulsai.types import EnvironmentOffer, Heartbeat, RunSpec
from soulsai.wire.protocols import Position
from tests.unit.training_node.node_cases import SPEC, Linear, program

TICK = 0.25
WARMUP = 2000
RATE = 100.0  # env steps per second of an honest client


class Piece:
    """The steps of a fragment, and its version."""

    greedy = False

    def __init__(self, steps, version):
        self.steps, self.generation, self.version = steps, 0, version

    def __len__(self):
        return self.steps


class Player:
    """A client that takes ``rate`` steps per second while it may, from ``joins`` to ``leaves``."""

    def __init__(self, name, *, rate=RATE, joins=0.0, hangs=1e9, leaves=1e9):
        self.name, self.rate = name, rate
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
        steps = min(int(self.owed), self.left)
        if steps:
            self.left -= steps
            messages.append(self.arrival(fragments=(Piece(steps, self.version),)))
        self.owed = min(self.owed - steps, 1.0) if self.left == 0 else self.owed - steps
        if now - self.beaten >= 1.0:
            self.beaten = now
            waiting = self.left == 0 and now < self.hangs
            beat = Heartbeat(0, 0, 0, 0, self.version, waiting=waiting)
            messages.append(self.arrival(heartbeat=beat))
        return messages

    def arrival(self, **more):
        return Arrival(self.name, Mark(Position(1, 1)), 10, **more)


def warm_up(players, limit):
    """Return the seconds until the warm-up is over."""
    pace = Pace("hold", samples_per_insert=1.0, error_buffer=256, learning_starts=WARMUP)
    flight, clients, sent = InFlight(), ClientTable(0.0), []
    policy, progress = Linear(), Progress("run")
    policy.quota = pace.quota()
    spec = RunSpec("run", 1, 1, EnvironmentOffer("x"), SPEC, "dqn", "")
    config = Config(training=TrainingSettings(publish_seconds=1.0), run=RunSettings(clients=0))
    algorithm = SimpleNamespace(policy=policy)
    run = TrainingRun(config, None, spec, program(), algorithm, progress)

    def send(weights):
        sent.append(weights)
        return True

    publisher = Publisher(run, send)
    now = 0.0
    while pace.warming_up and now < limit:
        now += TICK
        clients.tick(now)
        publisher.count(clients.sharing)
        stuck = clients.need_grant(progress.version, publisher.tried + STALE_SECONDS)
        if publisher.due(now, starving=True, stuck=stuck):
            publisher.publish(now, clients.restart_counts())
            flight.published(policy.newest, policy.quota)
        for player in players:
            for arrival in player.arrivals(now, sent[-1]):
                clients.heard(arrival, now)
                steps = sum(len(piece) for piece in arrival.fragments)
                clients.count(arrival, steps)
                progress.env_steps += steps
                pace.arrived(steps)
                for piece in arrival.fragments:
                    flight.arrived(piece)
        policy.quota = pace.quota(flight.steps)
    return now


OTHERS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "rate": st.sampled_from([0.0, 0.03, 1.0, 20.0, 400.0]),
            "joins": st.floats(0.0, 60.0),
            "hangs": st.floats(0.0, 60.0),
            "leaves": st.floats(0.0, 60.0),
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
