"""When versions go out and what they grant; time is what the test says it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from soulsai.config.schema import Config, RunSettings, TrainingSettings
from soulsai.training_node.publisher import PLANNED, RETRY_SECONDS, WHOLE_EVERY, Publisher
from soulsai.training_node.saving.snapshot import Progress
from soulsai.training_node.start import TrainingRun
from soulsai.types import PROTOCOL, EnvironmentOffer, RunSpec, ScheduleStage
from soulsai.wire.delta import decode_delta
from tests.unit.training_node.node_cases import SPEC, Linear, program


class Desk:
    """A publisher with a clock at hand, and what it sent."""

    def __init__(
        self, *, quota=None, eager=False, kept_mb=64.0, clients=1, schedule=(), **training
    ):
        self.sent = []
        self.works = True
        self.progress = Progress("run", generation=2, version=5)
        self.policy = Linear()
        self.policy.quota, self.policy.eager = quota, eager
        offer = EnvironmentOffer("x", schedule=schedule)
        spec = RunSpec("run", PROTOCOL, PROTOCOL, offer, SPEC, "dqn", "")
        config = Config(
            training=TrainingSettings(
                publish_seconds=10.0,
                kept_weights_mb=kept_mb,
                **{"weights_mbps": 0.0, **training},
            ),
            run=RunSettings(clients=clients),
        )
        algorithm = SimpleNamespace(policy=self.policy)
        run = TrainingRun(config, None, spec, program(), algorithm, self.progress)
        self.publisher = Publisher(run, self._send)

    def _send(self, weights):
        self.sent.append(weights)
        return self.works

    def due(self, now, *, starving=False, stuck=False):
        return self.publisher.due(now, starving=starving, stuck=stuck)

    def publish(self, now, clients=1):
        """Publish to clients that have taken nothing yet."""
        return self.publisher.publish(now, [0] * clients)

    def granted(self):
        """Publish before anybody was heard of; return what each client may take."""
        self.publish(0.0, clients=0)
        return self.sent[-1].quota

    def update(self):
        self.publisher.unpublished = True


def test_the_first_version_is_due_at_once_and_the_next_after_an_update_and_a_while():
    desk = Desk()
    assert desk.due(0.0)
    assert desk.publish(0.0)
    assert [(w.generation, w.version) for w in desk.sent] == [(2, 6)]
    assert not desk.due(99.0, starving=True)
    desk.update()
    assert not desk.due(9.9, starving=True)
    assert desk.due(10.0)


def test_an_eager_policy_is_published_after_every_update():
    desk = Desk(eager=True)
    desk.publish(0.0)
    assert not desk.due(0.0)
    desk.update()
    assert desk.due(0.0)


def test_a_starving_learner_publishes_when_a_grant_may_soon_be_spent():
    desk = Desk(quota=100)
    desk.publish(0.0, clients=2)
    assert desk.sent[0].quota == 50
    desk.update()
    desk.progress.env_steps = 24
    assert not desk.due(0.1, starving=True)
    desk.progress.env_steps = 25
    assert desk.due(0.1, starving=True)
    assert not desk.due(0.1, starving=False)


def test_a_grant_is_divided_again_when_more_clients_come_than_were_counted():
    desk = Desk(quota=100)
    desk.publish(0.0, clients=2)
    desk.publisher.count(2, 2)
    assert not desk.due(0.1)
    desk.publisher.count(10, 10)
    desk.policy.quota = 40
    assert desk.due(0.1)
    desk.publish(0.1, clients=10)
    assert desk.sent[-1].quota == 4
    desk.publisher.count(10, 10)
    assert not desk.due(0.2)
    desk.policy.quota = 0  # they are far ahead: what is left of the grant is taken back
    desk.publisher.count(11, 11)
    assert desk.due(0.2)
    desk.publish(0.2, clients=11)
    desk.publisher.count(12, 12)
    assert not desk.due(0.3), "there is nothing to divide"


def test_where_nobody_waits_it_does_not_matter_how_many_there_are():
    desk = Desk(quota=None)
    desk.publish(0.0, clients=1)
    desk.publisher.count(100, 100)
    assert not desk.due(0.1)


def test_the_more_clients_download_the_rarer_versions_are():
    # a version has 40 bytes, and 40 bytes a second are planned
    desk = Desk(eager=True, weights_mbps=40 * 8 / 1e6 / PLANNED)
    desk.publish(0.0)
    desk.update()
    assert not desk.due(0.9)
    assert desk.due(1.1)
    desk.publisher.count(3, 30)
    assert not desk.due(29.9, starving=True, stuck=True)
    assert desk.due(30.1)
    desk.works = False
    desk.publish(30.0)
    assert not desk.due(59.9), "nor is one that failed repeated sooner"
    assert desk.due(60.1)


def test_clients_and_checks_get_the_numbers_that_are_sent():
    desk = Desk(weights_dtype="float16")
    with torch.no_grad():
        desk.policy.linear.weight.fill_(1 / 3)
        desk.policy.linear.bias.fill_(1 / 3)
    desk.publish(0.0)
    (sent,) = desk.sent
    assert sent.dtype == "float16"
    assert (sent.arrays["linear.weight"] == np.float32(np.float16(1 / 3))).all()
    assert (sent.arrays["linear.bias"] == np.float32(1 / 3)).all(), "small, and sent as it is"
    kept = desk.publisher.kept(2, 6).arrays
    assert (kept["linear.weight"] == sent.arrays["linear.weight"]).all()


def test_weights_beyond_the_range_of_float16_are_sent_as_they_are():
    desk = Desk(weights_dtype="float16")
    with torch.no_grad():
        desk.policy.linear.weight.fill_(1e5)
    desk.publish(0.0)
    assert desk.sent[0].dtype == "float32"
    assert (desk.sent[0].arrays["linear.weight"] == np.float32(1e5)).all()


def test_what_grants_nothing_is_not_published():
    desk = Desk(quota=0)
    assert not desk.due(1000.0, starving=True, stuck=True)
    desk.policy.quota = 1
    assert desk.due(1000.0)


def test_a_grant_is_renewed_for_clients_that_wait_for_nothing():
    desk = Desk(quota=100)
    desk.publish(0.0)
    assert not desk.due(9.9, starving=True, stuck=True)
    assert desk.due(10.0, starving=True, stuck=True)
    assert not desk.due(10.0, starving=True)
    desk.policy.quota = None
    assert not desk.due(10.0, starving=True, stuck=True)


def test_a_version_that_was_not_stored_is_tried_again_under_the_next_number():
    desk = Desk()
    desk.works = False
    assert not desk.publish(0.0)
    assert not desk.due(RETRY_SECONDS - 0.1)
    assert desk.due(RETRY_SECONDS)
    desk.works = True
    assert desk.publish(RETRY_SECONDS)
    assert [w.version for w in desk.sent] == [6, 7]
    assert desk.progress.version == 7
    assert not desk.due(99.0)


def test_what_found_no_room_is_tried_again_as_soon_as_there_is_some():
    desk = Desk()
    assert desk.publish(0.0)
    desk.publisher.hurry()
    assert not desk.due(1.0), "nothing was refused"
    desk.works = False
    desk.publish(1.0)
    assert not desk.due(1.1)
    desk.publisher.hurry()
    assert desk.due(1.1)


def test_versions_are_kept_within_their_bound_and_one_always_is():
    desk = Desk(kept_mb=3 * 36 / 2**20)
    for now in range(5):
        desk.publish(float(now))
    kept = [v for v in range(12) if desk.publisher.kept_file(2, v) is not None]
    assert kept == [8, 9, 10]
    tight = Desk(kept_mb=1e-9)
    tight.publish(0.0)
    assert tight.publisher.kept_file(2, 6) is not None


def test_before_anybody_was_heard_of_a_run_s_own_clients_share_or_some_strangers():
    assert Desk(quota=4000, clients=4).granted() == 1000
    unknown = Desk(quota=4000, clients=0)
    assert unknown.granted() == 500
    unknown.publisher.count(8, 8)
    assert not unknown.due(1.0)
    unknown.publisher.count(9, 9)  # they could take more than the quota
    assert unknown.due(1.0)


def test_a_stage_of_the_schedule_is_published_as_soon_as_it_begins():
    desk = Desk(schedule=(ScheduleStage(50, {"a": 1}), ScheduleStage(80, {"a": 2})))
    desk.publish(0.0)
    assert desk.sent[-1].exploration["stage"] == 0
    desk.progress.env_steps = 49
    assert not desk.due(1.0)
    desk.progress.env_steps = 50
    assert desk.due(1.0), "no update is needed for it"
    desk.publish(1.0)
    assert desk.sent[-1].exploration["stage"] == 1
    assert not desk.due(2.0)
    desk.progress.env_steps = 500
    assert desk.due(2.0)
    desk.publish(2.0)
    assert desk.sent[-1].exploration["stage"] == 2
    desk.progress.env_steps = 60  # back to a checkpoint
    assert desk.due(3.0)
    desk.publish(3.0)
    assert desk.sent[-1].exploration["stage"] == 1


def test_without_a_schedule_no_stage_is_published():
    desk = Desk()
    desk.publish(0.0)
    assert "stage" not in desk.sent[-1].exploration


def crowded(**training):
    """Return a desk with more clients than could download whole versions in time."""
    desk = Desk(**{"weights_mbps": 40 * 8 / 1e6, **training})
    desk.publisher.count(100, 100)
    return desk


def learnt(desk, amount=1e-3):
    with torch.no_grad():
        desk.policy.linear.weight += amount * torch.randn(3, 2)
    desk.update()


def test_with_many_clients_most_versions_are_deltas_to_the_last_whole_one(monkeypatch):
    monkeypatch.setattr("soulsai.training_node.publisher.WORTH_IT", 9.0)  # the network is tiny
    desk = crowded()
    for now in range(WHOLE_EVERY + 2):
        desk.publish(float(now))
        learnt(desk)
    whole = [weights for weights in desk.sent if weights.delta is None]
    assert [weights.version for weights in whole] == [6, 6 + WHOLE_EVERY]
    last = desk.sent[WHOLE_EVERY - 1]
    assert last.delta.base == 6
    found = decode_delta(last.delta.data, whole[0].arrays, program())
    for name, array in last.arrays.items():  # as they are sent whole, and as the node keeps them
        assert found[name].tobytes() == array.tobytes()
        kept = desk.publisher.kept(last.generation, last.version).arrays[name]
        assert kept.tobytes() == array.tobytes()


def test_with_few_clients_without_a_bound_or_without_deltas_every_version_is_whole(monkeypatch):
    monkeypatch.setattr("soulsai.training_node.publisher.WORTH_IT", 9.0)
    few = Desk(weights_mbps=240.0)
    for desk in (few, crowded(weights_mbps=0.0), crowded(weights_deltas=False)):
        for now in range(3):
            desk.publish(float(now))
            learnt(desk)
        assert [weights.delta for weights in desk.sent] == [None] * 3


def test_a_version_that_may_not_have_arrived_is_no_base(monkeypatch):
    monkeypatch.setattr("soulsai.training_node.publisher.WORTH_IT", 9.0)
    desk = crowded()
    for works in (True, False, True, True):
        desk.works = works
        desk.publish(0.0)
        learnt(desk)
    assert [weights.delta is None for weights in desk.sent] == [True, False, True, False]
    desk.publisher.restart()
    desk.publish(0.0)
    assert desk.sent[-1].delta is None


def test_the_time_between_versions_follows_the_bytes_of_a_delta(monkeypatch):
    monkeypatch.setattr("soulsai.training_node.publisher.WORTH_IT", 9.0)
    desk = crowded()
    desk.publish(0.0)
    whole = desk.publisher.least_seconds
    learnt(desk)
    desk.publish(0.0)
    size = len(desk.sent[-1].delta.data)
    assert desk.publisher.least_seconds == pytest.approx(whole * size / 40)
