"""How much one client may have: hardly anybody honest is refused, and nobody floods the replay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.training_node.trust import rate_limit
from soulsai.training_node.trust.rate_limit import ADVANCE_SECONDS, MOST_CLIENTS, RateLimit
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import Node, Player, config, wait_for

HOUR = 3600


class Fleet:
    """Clients who send once a second; says what was let in of each."""

    def __init__(self, times=10.0):
        self.now = 0.0
        self.share = RateLimit(times, lambda: self.now)
        self.taken, self.sent = {}, {}

    def play(self, seconds, **steps):
        for _ in range(int(seconds)):
            self.now += 1.0
            for client, count in steps.items():
                self.send(client, count)

    def send(self, client, count):
        self.sent[client] = self.sent.get(client, 0) + count
        if self.share.allows(client, count):
            self.taken[client] = self.taken.get(client, 0) + count

    def refused(self, client):
        return self.sent[client] - self.taken.get(client, 0)


HONEST = {f"h{number}": 30 for number in range(20)}


def test_a_flooder_among_twenty_gets_no_more_than_ten_times_what_one_of_them_gets():
    fleet = Fleet()
    fleet.play(HOUR, **HONEST, flood=1500)
    fleet.taken, fleet.sent = {}, {}
    fleet.play(HOUR, **HONEST, flood=1500)
    everything = sum(fleet.taken.values())
    assert fleet.taken["flood"] <= 1.05 * 10 * 30 * HOUR
    assert fleet.taken["flood"] / everything <= 0.35  # of 0.71 that it sent
    assert all(fleet.refused(client) == 0 for client in HONEST)


def test_what_a_flooder_has_in_advance_is_bounded():
    fleet = Fleet()
    fleet.play(60, **HONEST)
    for _ in range(10_000):
        fleet.send("flood", 64)
    assert fleet.taken["flood"] <= 1.05 * 10 * 30 * ADVANCE_SECONDS


@given(st.lists(st.integers(10, 99), min_size=3, max_size=6), st.integers(30, 300))
def test_clients_that_are_less_than_ten_times_as_fast_as_others_are_never_refused(paces, seconds):
    fleet = Fleet()
    fleet.play(seconds, **{f"c{number}": pace for number, pace in enumerate(paces)})
    assert fleet.taken == fleet.sent


def test_who_is_alone_or_one_of_two_may_be_as_fast_as_it_likes():
    fleet = Fleet()
    fleet.play(HOUR, fast=5000)
    fleet.play(HOUR, fast=5000, slow=1)
    assert fleet.taken == fleet.sent


def test_without_a_bound_nobody_is_refused():
    fleet = Fleet(times=0.0)
    fleet.play(HOUR, **HONEST, flood=15_000)
    assert fleet.taken == fleet.sent


def test_who_sends_little_under_many_names_does_not_shut_the_others_out():
    fleet = Fleet()
    fleet.play(HOUR / 4, a=30, b=30, **{f"fake{number}": 1 for number in range(30)})
    assert fleet.refused("a") == fleet.refused("b") == 0


def test_those_who_come_back_or_are_new_do_not_shut_out_who_has_always_been_there():
    fleet = Fleet()
    fleet.play(HOUR, a=30, b=30, c=30)
    fleet.play(HOUR, a=30)
    fleet.play(60, a=30, b=30, c=30, d=30)
    assert fleet.taken == fleet.sent


def test_what_a_link_held_back_for_hours_is_let_in():
    fleet = Fleet()
    fleet.play(HOUR, a=30, b=30, c=30)
    fleet.play(3 * HOUR, a=30, b=30)
    for _ in range(3 * 60):
        fleet.send("c", 60 * 30)
    assert fleet.refused("c") == 0


def test_only_so_many_clients_are_remembered(monkeypatch):
    monkeypatch.setattr(rate_limit, "MOST_CLIENTS", 10)
    assert MOST_CLIENTS > 10
    fleet = Fleet()
    for number in range(50):
        fleet.send(f"c{number}", 1)
    assert list(fleet.share._rates) == [f"c{number}" for number in range(40, 50)]


def test_what_is_too_much_is_counted_and_its_sender_is_not_kept_out(monkeypatch, tmp_path):
    monkeypatch.setattr(rate_limit, "KNOWN_SECONDS", 0.0001)
    monkeypatch.setattr(rate_limit, "ADVANCE_SECONDS", 0.0001)
    server = MemoryServer()
    with Node(monkeypatch, server, config(tmp_path, most_times=1e-6)) as node:
        players = [Player(server, name) for name in ("a", "b", "c")]
        for steps in (8, 16):  # a rate is known of two messages that do not come at once
            for player in players[:2]:
                player.play(4)
            before = node.told(lambda status, steps=steps: status.env_steps == steps)

        def refused():
            players[2].play(4, ended=True)
            return node.operator.status().rejected.get("share", 0) >= 100

        wait_for(refused)
        status = node.told()
    assert status.env_steps == before.env_steps
    assert {client.state for client in status.clients} <= {"active", "lost"}
    assert status.lost == 0


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_a_clock_that_stands_still_or_goes_back_is_survived(seconds):
    fleet = Fleet()
    fleet.play(20, a=1, b=1, c=1)
    fleet.now += seconds
    fleet.play(20, a=1, b=1, c=1)
    assert fleet.taken == fleet.sent
