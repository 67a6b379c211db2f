"""The background thread: what the server wants reaches the player, and only what can act."""

import threading
import time

import msgspec
import numpy as np
import pytest

from soulsai.client import uplink as module
from soulsai.client.player_link import Instructions
from soulsai.errors import Unreachable, WireError
from soulsai.testing.policy import toy_run
from soulsai.types import Control, EnvironmentOffer, Episode, Heartbeat, Weights
from tests.unit.client.uplink_cases import (
    ARRAYS,
    PROGRAM,
    RUN,
    House,
    episode,
    fragment,
    until,
)


@pytest.fixture
def house():
    return House()


def test_the_newest_version_is_fetched_and_ready_to_act(house):
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        assert uplink.instructions.actor.version == 1
        assert uplink.instructions.pointer.version == 1


def test_what_the_training_node_would_refuse_is_not_sent_but_counted_and_named(house, caplog):
    too_much = fragment(4, steps=3)
    too_much.reward[1] = 5e6
    nowhere = fragment(7, steps=2)
    nowhere.obs["obs"][1] = np.nan
    with house.uplink as uplink:
        for message in (fragment(0, steps=4), too_much, nowhere, fragment(9)):
            uplink.send(message)
        uplink.send(msgspec.structs.replace(episode(1), info={"score": 1e31}))
        uplink.send(episode(2))
        until(lambda: any(beat.dropped == 5 for beat in house.messages(Heartbeat)))
    assert house.clocks() == [0, 9]
    assert [one.episode for one in house.messages(Episode)] == [2]
    assert "not sent: episode: a number is not finite" in house.messages(Heartbeat)[-1].trouble
    assert (
        "not sent, as the training node would refuse it: reward: not finite or bey" in caplog.text
    )


def test_an_environment_that_does_not_answer_is_reported_by_its_client(house, monkeypatch, caplog):
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.1)
    with house.uplink:
        house.progress.called = time.monotonic()
        until(lambda: any(module.SLOW in beat.trouble for beat in house.messages(Heartbeat)))
        house.progress.called = None
        until(lambda: house.messages(Heartbeat)[-1].trouble == "")
    assert caplog.text.count(module.SLOW) == 1


def test_a_program_that_fails_its_trial_is_never_loaded(house, monkeypatch):
    tried = []

    def trial(*given):
        tried.append(given)
        raise WireError("too much memory")

    monkeypatch.setattr(house.uplink, "_trial", trial)
    with house.uplink as uplink:
        until(lambda: uplink.instructions.pointer)
        house.publish(2)
        until(lambda: uplink.instructions.pointer.version == 2)
        assert uplink.instructions.actor is None
    ((program, weights, spec),) = tried
    assert (program, weights.version, spec) == (PROGRAM, 1, RUN.spec)


def test_a_hint_brings_a_new_version_at_once(house, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 60.0)
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        for version in (2, 3, 4):
            house.publish(version, quota=version, exploration={"random": 1.0})
            until(lambda version=version: uplink.instructions.actor.version == version)
            assert uplink.instructions.pointer.quota == version
            assert uplink.instructions.pointer.exploration == {"random": 1.0}


def test_a_hint_that_comes_with_the_player_s_wake_is_not_lost(house, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 60.0)
    released, wire = threading.Event(), house.wire.wire
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)

        def both(timeout):
            """Return from one wait that the player's wake and a hint have ended."""
            released.wait()
            for wait in (timeout, *[0.05] * 100):
                wire.wait(wait)
                if wire.hinted:
                    break
            return []

        house.wire.wait = both
        uplink.send(fragment(1))
        house.publish(2)
        released.set()
        until(lambda: uplink.instructions.actor.version == 2, seconds=10.0)
        del house.wire.wait


def test_without_a_hint_it_asks(monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    house = House()
    house.wire.wait = lambda timeout: threading.Event().wait(timeout) or []  # no messages
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.publish(2)
        until(lambda: uplink.instructions.actor.version == 2)


def test_waiting_for_orders_ends_when_they_come_or_after_a_while(house):
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        began, known = time.monotonic(), uplink.instructions
        uplink.wait(known, 0.05)
        assert time.monotonic() - began >= 0.05
        house.publish(2)
        uplink.wait(known, 10.0)
        assert uplink.instructions is not known


@pytest.mark.parametrize("waiting", [True, False])
def test_a_player_gets_a_quota_with_the_weights_it_is_for(house, waiting):
    given = []
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.progress.waiting = waiting
        give = uplink._instruct
        uplink._instruct = lambda orders: (given.append(orders), give(orders))
        house.publish(2)
        until(lambda: uplink.instructions.actor.version == 2)
    assert [(one.pointer.version, one.actor.version) for one in given] == [(2, 2)]


def test_weights_that_cannot_act_are_left_and_tried_again_later(house, monkeypatch, caplog):
    monkeypatch.setattr(module, "DAMAGED_SECONDS", 0.1)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    fetched = []
    fetch = house.wire.wire.weights
    house.wire.weights = lambda pointer, program: (
        fetched.append(pointer.version),
        fetch(pointer, program),
    )[1]
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        bad = {name: np.full_like(array, np.nan) for name, array in ARRAYS.items()}
        house.publish(2, bad, quota=5)
        until(lambda: fetched.count(2) >= 2)
        assert uplink.instructions.actor.version == 1
        assert uplink.instructions.pointer.quota == 5  # it counts all the same
        house.publish(3)
        until(lambda: uplink.instructions.actor.version == 3)
    assert "cannot act" in caplog.text


def test_weights_that_are_gone_are_left(house, caplog):
    def gone(pointer, program):
        if pointer.version == 2:
            raise WireError("weights 1-2 are gone")
        return fetch(pointer, program)

    fetch, house.wire.weights = house.wire.wire.weights, gone
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.publish(2)
        until(lambda: "are gone" in caplog.text)
        house.publish(3)
        until(lambda: uplink.instructions.actor.version == 3)


def test_weights_whose_fetch_was_cut_off_are_fetched_again(house):
    failures = [Unreachable("cut"), Unreachable("cut")]

    def cut(pointer, program):
        if failures:
            raise failures.pop()
        return fetch(pointer, program)

    fetch, house.wire.weights = house.wire.wire.weights, cut
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
    assert failures == []


def test_pause_resume_and_stop_are_passed_on(house):
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.node.tell(Control("pause"))
        until(lambda: uplink.instructions.paused)
        house.node.tell(Control("resume"))
        until(lambda: not uplink.instructions.paused)
        house.node.tell(Control("stop"))
        until(lambda: uplink.instructions.over == "stop")
        uplink.send(fragment(5))  # what was unfinished is still taken
    assert house.clocks() == [5]


def test_a_client_that_is_kept_out_reads_the_reason_in_its_log_at_once(house, caplog):
    caplog.set_level("INFO")
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.node.notify("other", "too quiet")
        house.node.notify("c", "too loud; until 12:00 UTC")
        until(lambda: "learns nothing from this client: too loud; until 12:00 UTC" in caplog.text)
        house.node.notify("c", "")
        until(lambda: "let in again" in caplog.text)
    assert "too quiet" not in caplog.text
    assert caplog.text.count("too loud") == 1


@pytest.mark.parametrize("published", [False, True])
def test_another_run_ends_this_one(house, published):
    other, program, arrays = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"), run="other")
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        node = house.server.training()
        generation = node.open(other, program, fresh=True)
        if published:
            node.publish(Weights("other", generation, 1, arrays))
        until(lambda: uplink.instructions.over == "run")
        uplink.send(fragment(3))  # of no use to the other run
    assert house.clocks() == []


def test_the_same_run_with_another_layout_is_another_run(house):
    other, program, _ = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"), fragment_steps=32)
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.node.open(other, program, fresh=False)
        house.server.down = True
        until(lambda: repr(uplink).startswith("Uplink(not connected"))
        house.server.down = False
        until(lambda: uplink.instructions.over == "run", 15)


def test_a_restarted_node_of_the_same_run_is_followed(house):
    with house.uplink as uplink:
        until(lambda: uplink.instructions.actor)
        house.publish(7)
        until(lambda: uplink.instructions.actor.version == 7)
        house.generation = house.server.training().open(RUN, PROGRAM, fresh=False)
        node = house.server.training()
        house.node, house.generation = node, node.open(RUN, PROGRAM, fresh=False)
        house.publish(3)
        until(lambda: uplink.instructions.actor.version == 3)
        assert not uplink.instructions.over


def test_orders_are_empty_at_first():
    assert House(publish=False).uplink.instructions == Instructions(None, None, False, "")
