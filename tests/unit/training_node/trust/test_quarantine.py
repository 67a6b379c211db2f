"""The budget of refusals, the length of exclusions, notices to clients, purge and the audit log."""

import json

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soulsai.config.schema import TrustSettings
from soulsai.errors import SoulsAIError
from soulsai.training_node.saving.snapshot import Exclusion
from soulsai.training_node.trust.audit_log import NAME, AuditLog
from soulsai.training_node.trust.quarantine import (
    BUDGET,
    FIRST_SECONDS,
    LONGEST_SECONDS,
    Quarantine,
)
from soulsai.types import Pardon, Pause, Purge, Resume
from soulsai.wire.names import Keys
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import Counting, Node, Player, config, wait_for

KEYS = Keys("soulsai")


class Quiet:
    """An action check and an audit log that do nothing."""

    def forget(self, client):
        pass

    def write(self, what, **fields):
        pass


class Case:
    """A quarantine with a clock of its own, and the notices that clients were given."""

    def __init__(self, entries=None):
        self.now = 1000.0
        self.reachable = True
        self.notices = {}
        self.events = []
        self.entries = {} if entries is None else entries
        self.quarantine = Quarantine(
            self.entries, {}, Quiet(), None, Quiet(),
            notify=self._notify, announce=self.events.append, now=lambda: self.now,
        )  # fmt: skip

    def _notify(self, client, notice):
        if self.reachable:
            self.notices[client] = notice
        return self.reachable

    @property
    def excluded(self):
        return self.quarantine.excluded


@pytest.fixture
def case():
    return Case()


def test_a_budget_of_refusals_per_minute(case):
    for _ in range(3):
        for _ in range(int(BUDGET)):
            case.quarantine.charge("a", ["frame"])
        case.now += 60.0
    case.quarantine.charge("a", ["frame"] * int(BUDGET))
    case.quarantine.charge("b", ["frame"])
    assert not case.excluded
    assert case.quarantine.notice == ""
    case.quarantine.charge("a", ["frame", "action"])
    assert case.excluded == {"a"}
    assert "'action'" in case.quarantine.reason("a")
    assert case.quarantine.reason("b") == ""
    assert case.quarantine.notice.startswith("kept out: a (too many refused messages")


def test_refusals_that_an_old_outbox_or_a_clock_explains_cost_nothing(case):
    case.quarantine.charge("a", ["run"] * 10_000 + ["protocol"] * 10 + ["position"] * 1000)
    assert not case.excluded


def test_each_exclusion_takes_twice_as_long_and_the_operators_lasts(case):
    for times in range(1, 12):
        case.quarantine.exclude("a", "why")
        until = case.entries["a"].until
        assert until - case.now == min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (times - 1))
        case.now = until - 1
        case.quarantine.look()
        assert case.excluded == {"a"}
        case.now = until
        case.quarantine.look()
        assert not case.excluded
    case.quarantine.exclude("a", "the operator said so", for_good=True)
    case.now += 10**9
    case.quarantine.look()
    assert case.excluded == {"a"}
    assert case.quarantine.pardon("a").done
    assert not case.quarantine.pardon("a").done
    assert not case.excluded


def test_a_client_is_given_the_reason_at_once_and_later_if_the_server_is_away(case):
    case.quarantine.exclude("a", "too loud")
    assert case.notices == {"a": "too loud; until 00:26 UTC"}
    assert case.events[-1].text == "a is kept out: too loud; until 00:26 UTC"
    case.reachable = False
    case.quarantine.exclude("b", "too quiet", for_good=True)
    case.quarantine.pardon("a")
    assert case.notices == {"a": "too loud; until 00:26 UTC"}
    case.reachable = True
    case.quarantine.look()
    assert case.notices == {"a": "", "b": "too quiet; until the operator pardons it"}
    after = Case(case.entries)  # a restart
    after.quarantine.look()
    assert after.notices == {"b": "too quiet; until the operator pardons it"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["out", "pardon", "time"]))))
def test_exclusions_survive_saving(acts):
    case = Case()
    for client, act in acts:
        if act == "out":
            case.quarantine.exclude(client, "x")
        elif act == "pardon":
            case.quarantine.pardon(client)
        else:
            case.now += 500
            case.quarantine.look()
    saved = msgspec.json.decode(msgspec.json.encode(case.entries), type=dict[str, Exclusion])
    assert Case(saved).excluded == case.excluded


def test_the_audit_log_is_only_appended_to_and_survives_a_cut(tmp_path):
    audit = AuditLog(tmp_path, lambda: 5.0)
    audit.write("one", a=1)
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"time": 6, "wh')  # whoever wrote it was killed
    audit.write("two")
    lines = (tmp_path / NAME).read_text().splitlines()
    assert json.loads(lines[0]) == {"time": 5.0, "what": "one", "a": 1}
    assert json.loads(lines[2]) == {"time": 5.0, "what": "two"}
    lost = AuditLog(tmp_path / "nowhere", lambda: 5.0)
    lost.write("x")
    lost.write("y")
    assert lost.unwritten == 2
    (tmp_path / "nowhere").mkdir()
    lost.write("z")
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
        assert villain.wire.notice() == state(status, "villain").held
        villain.play(4)
        player.play(4)
        status = node.told(lambda s: s.rejected.get("quarantine", 0) >= 1 and s.env_steps == 4)
        wait_for(lambda: server.link().execute("XLEN", KEYS.experience("villain")) == 0)
        assert state(status, "player").state == "active"
        assert node.algorithm.names == [0, 1, 2, 3]
        with pytest.raises(SoulsAIError, match="is not in quarantine"):
            refused(node.operator.command(Pardon("player"), 5.0))
        assert node.operator.command(Pardon("villain"), 5.0).done
        node.told(lambda s: state(s, "villain").state == "active")
        wait_for(lambda: villain.wire.notice() == "")
        villain.play(4)
        node.told(lambda s: s.env_steps == 8)
    lines = trail(tmp_path)
    whats = [line["what"] for line in lines if line["what"] != "learnt"]
    assert whats == ["quarantine", "command", "pardoned", "command"]
    learnt = [line["clients"] for line in lines if line["what"] == "learnt"]
    assert sum(one.get("player", {}).get("env_steps", 0) for one in learnt) == 4
    assert sum(one.get("villain", {}).get("rejected", 0) for one in learnt) >= 100


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
        assert answer.message == (
            "removed 15 env steps of villain (15 from memory); villain stays out until "
            "`soulsai pardon villain`"
        )
        assert algorithm.memory == {"player": 12}
        again = node.operator.command(Purge("villain"), 5.0)
        assert again.message.startswith("no env step of villain was left in the learner's memory;")
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
        assert list(status.purged) == ["villain"]
    lines = trail(tmp_path)
    purged = next(line for line in lines if line["what"] == "purged")
    assert (purged["client"], purged["removed"]) == ("villain", {"memory": 15})
    commands = [line["command"] for line in lines if line["what"] == "command"]
    assert [command["type"] for command in commands] == ["purge", "purge", "pause", "resume"]
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


@pytest.mark.parametrize("mode", ["off", "report", "quarantine"])
def test_actions_that_do_not_follow_the_weights(monkeypatch, tmp_path, caplog, mode):
    server = MemoryServer()
    settings = msgspec.structs.replace(config(tmp_path), trust=TrustSettings(action_check=mode))
    with Node(monkeypatch, server, settings, algorithm=Decided()) as node:
        liar, honest = Player(server, "liar"), Player(server)
        for _ in range(5):
            honest.play(32, greedy=True, action=np.full(32, 1, "u1"))
            liar.play(32, greedy=True, action=np.full(32, 2, "u1"))
        node.told(lambda s: len(s.clients) == 2 and state(s, "player").admitted == 160)
        if mode == "quarantine":
            status = node.told(lambda s: state(s, "liar").state == "quarantine")
            assert "0% of its actions follow version" in state(status, "liar").held
            assert "kept out: liar (0% of its actions" in status.notice
            assert "0% of its actions follow version" in liar.wire.notice()
        else:
            status = node.told(lambda s: state(s, "liar").admitted == 160)
            assert state(status, "liar").state == "active"
            assert ("0% of its actions follow" in state(status, "liar").finding) == (
                mode == "report"
            )
        assert honest.wire.notice() == ""
    assert caplog.text.count("action check client=liar") == (mode == "report")


def test_one_client_without_a_name_that_starts_three_times_stays_admitted(monkeypatch, tmp_path):
    """A client without a name is another client after each start, and plays ever better."""
    server, played = MemoryServer(), 0
    with Node(monkeypatch, server, config(tmp_path)) as node:
        for life in range(3):
            player = Player(server, f"host-{life}")
            for episode in range(60):
                steps = 4 + 20 * life
                player.play(
                    steps, ended=True, greedy=episode % 20 == 0,
                    action=np.zeros(steps, "u1"),
                    obs={"obs": np.full((steps + 1, 2), float(episode % (life + 1)), "f4")},
                    reward=np.full(steps, 10.0**life, "f4"),
                )  # fmt: skip
            played += player.named
            status = node.told(lambda s, total=played: s.env_steps == total)
            assert {one.state for one in status.clients} <= {"active", "lost"}
            assert not any(one.held for one in status.clients)
            assert not status.rejected
