"""Who is kept out, why and how long; what a purge removes; and that all of it is written down."""

import json

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soulsai.errors import SoulsAIError
from soulsai.training_node.trust import quarantine
from soulsai.training_node.trust.audit_log import NAME, Audit
from soulsai.training_node.trust.quarantine import BUDGET, FIRST_SECONDS, LONGEST_SECONDS, Conduct
from soulsai.types import Pardon, Pause, Purge, Resume
from soulsai.wire.memory import MemoryServer
from tests.unit.training_node.node_cases import Counting, Node, Player, config, wait_for

NOW = [1000.0]


@pytest.fixture
def judge():
    NOW[0] = 1000.0
    return Conduct({}, lambda: NOW[0])


def test_a_budget_of_refusals_per_minute(judge):
    for _ in range(3):
        for _ in range(int(BUDGET)):
            assert judge.refused("a", ["frame"]) is None
        NOW[0] += 60.0
    assert judge.refused("a", ["frame"] * int(BUDGET)) is None
    assert judge.refused("b", ["frame"]) is None
    held = judge.refused("a", ["frame", "action"])
    assert "'action'" in held.reason
    assert judge.held == {"a"}
    assert judge.reason("a") == held.reason
    assert judge.reason("b") == ""
    assert judge.refused("a", ["frame"] * 1000) is None  # it is out already


def test_what_an_old_outbox_explains_costs_nothing(judge):
    assert judge.refused("a", ["run"] * 10_000 + ["protocol"] * 10) is None
    assert not judge.held


def test_each_quarantine_takes_twice_as_long_and_the_operators_lasts(judge):
    for times in range(1, 12):
        held = judge.hold("a", "why")
        assert held.until - held.since == min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (times - 1))
        NOW[0] = held.until - 1
        assert judge.released() == []
        NOW[0] = held.until
        assert judge.released() == ["a"]
        assert not judge.held
    judge.hold("a", "he said so", for_good=True)
    NOW[0] += 10**9
    assert judge.released() == []
    assert judge.pardon("a")
    assert not judge.pardon("a")
    assert judge.held == frozenset()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["hold", "pardon", "time"]))))
def test_who_is_held_survives_saving(acts):
    now = [0.0]
    kept = {}
    judge = Conduct(kept, lambda: now[0])
    for client, act in acts:
        if act == "hold":
            judge.hold(client, "x")
        elif act == "pardon":
            judge.pardon(client)
        else:
            now[0] += 500
            judge.released()
    saved = msgspec.json.decode(msgspec.json.encode(kept), type=dict[str, quarantine.Quarantine])
    assert Conduct(saved, lambda: now[0]).held == judge.held


def test_the_trail_is_only_appended_to_and_survives_a_cut(tmp_path):
    audit = Audit(tmp_path, lambda: 5.0)
    audit.note("one", a=1)
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"time": 6, "wh')  # whoever wrote it was killed
    audit.note("two")
    lines = (tmp_path / NAME).read_text().splitlines()
    assert json.loads(lines[0]) == {"time": 5.0, "what": "one", "a": 1}
    assert json.loads(lines[2]) == {"time": 5.0, "what": "two"}
    lost = Audit(tmp_path / "nowhere", lambda: 5.0)
    lost.note("x")
    lost.note("y")
    assert lost.unwritten == 2
    (tmp_path / "nowhere").mkdir()
    lost.note("z")
    assert json.loads((tmp_path / "nowhere" / NAME).read_text())["unwritten"] == 2


# ---- in a whole training node ----


class Remembering(Counting):
    """Keeps what each client sent until told to forget it."""

    def __init__(self):
        super().__init__()
        self.memory = {}
        self.parts["memory"] = Memory(self)

    def learn(self, arrivals):
        def noted():
            for fragments in arrivals:
                for fragment in fragments:
                    steps = self.memory.get(fragment.client, 0) + len(fragment)
                    self.memory[fragment.client] = steps
                yield fragments

        return super().learn(noted())


class Memory:
    def __init__(self, algorithm):
        self._algorithm = algorithm

    def forget(self, client):
        return self._algorithm.memory.pop(client, 0)

    def state_dict(self):
        return {"memory": self._algorithm.memory}

    def load_state_dict(self, state_dict):
        self._algorithm.memory = state_dict["memory"]


def trail(tmp_path):
    (folder,) = tmp_path.iterdir()
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def state(status, client):
    return next(c for c in status.clients if c.client == client)


def test_who_sends_garbage_is_kept_out_and_the_others_are_not(monkeypatch, tmp_path):
    server = MemoryServer()
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player, villain = Player(server), Player(server, "villain")
        for _ in range(100):
            villain.push(b"garbage")
        status = node.told(lambda s: any(c.state == "quarantine" for c in s.clients))
        assert "refused" in state(status, "villain").held
        villain.play(4)
        player.play(4)
        status = node.told(lambda s: s.rejected.get("quarantine", 0) >= 1 and s.env_steps == 4)
        wait_for(lambda: server._values["soulsai:{soulsai}:exp:villain"].entries == [])
        assert state(status, "player").state == "active"
        assert node.algorithm.names == [0, 1, 2, 3]
        with pytest.raises(SoulsAIError, match="is not in quarantine"):
            refused(node.operator.command(Pardon("player"), 5.0))
        assert node.operator.command(Pardon("villain"), 5.0).done
        node.told(lambda s: state(s, "villain").state == "active")
        villain.play(4)
        node.told(lambda s: s.env_steps == 8)
    whats = [line["what"] for line in trail(tmp_path)]
    assert whats == ["quarantine", "command", "pardoned", "command", "learnt"]
    learnt = trail(tmp_path)[-1]
    assert learnt["checkpoint"] == "000001"
    assert learnt["clients"]["player"]["env_steps"] == 4
    assert learnt["clients"]["villain"]["rejected"] >= 100


def refused(answer):
    if not answer.done:
        raise SoulsAIError(answer.message)


def test_a_purge_removes_one_clients_experience_and_says_how_much(monkeypatch, tmp_path):
    server, algorithm = MemoryServer(), Remembering()
    with Node(monkeypatch, server, config(tmp_path), algorithm=algorithm) as node:
        player, villain = Player(server), Player(server, "villain")
        for _ in range(3):
            player.play(4)
            villain.play(5)
        node.told(lambda s: s.env_steps == 27)
        answer = node.operator.command(Purge("villain"), 5.0)
        assert answer.done
        assert "15 from memory" in answer.message
        assert algorithm.memory == {"player": 12}
        villain.play(4)
        player.play(4)
        node.told(lambda s: s.env_steps == 31 and s.rejected.get("quarantine"))
        node.operator.command(Pause(), 5.0)
        node.operator.command(Resume(), 5.0)
    again = Remembering()
    with Node(
        monkeypatch, server, config(tmp_path), algorithm=again, resume="latest"
    ) as node:  # it stays out
        status = node.told(lambda s: s.generation == 2)
        villain.play(4)
        player.play(4)
        status = node.told(lambda s: s.env_steps == 35)
        assert again.memory == {"player": 20}
        del status
    lines = trail(tmp_path)
    purged = next(line for line in lines if line["what"] == "purged")
    assert (purged["client"], purged["removed"]) == ("villain", {"memory": 15})
    commands = [line["command"] for line in lines if line["what"] == "command"]
    assert [command["type"] for command in commands] == ["purge", "pause", "resume"]
    total = sum(
        line["clients"].get("player", {}).get("env_steps", 0)
        for line in lines
        if line["what"] == "learnt"
    )
    assert total == 20


class Decided(Counting):
    """Finds the second action best, whatever it learns."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.policy.linear.bias[1] = 5.0


def test_who_is_caught_lying_is_kept_out_with_the_reason(monkeypatch, tmp_path):
    server = MemoryServer()
    with Node(monkeypatch, server, config(tmp_path), algorithm=Decided()) as node:
        liar, honest = Player(server, "liar"), Player(server)
        for _ in range(5):
            honest.play(32, greedy=True, action=np.full(32, 1, "u1"))
            liar.play(32, greedy=True, action=np.full(32, 2, "u1"))
        status = node.told(lambda s: len(s.clients) == 2 and state(s, "liar").state == "quarantine")
        assert "0% of its actions follow version" in state(status, "liar").held
        node.told(lambda s: state(s, "player").admitted == 160)
