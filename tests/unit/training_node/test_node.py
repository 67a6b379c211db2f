"""What the training node does for an algorithm: in, out, commands, and a clean end."""

import msgspec
import numpy as np
import onnxruntime
import pytest

from soulsai.training_node.saving import atomic_folders
from soulsai.training_node.trust import quarantine
from soulsai.types import (
    Evaluate,
    Pause,
    PolicyCard,
    Promote,
    Quicksave,
    Resume,
    SaveBest,
    Status,
    Stop,
)
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import Counting, Node, Player, config, wait_for


@pytest.fixture
def server():
    return MemoryServer()


def run_folder(tmp_path):
    (folder,) = tmp_path.iterdir()
    return folder


def weights_in(file):
    """Return the bias of a saved policy, which counts its updates, and its card."""
    session = onnxruntime.InferenceSession(file)
    card = session.get_modelmeta().custom_metadata_map["soulsai"]
    (q,) = session.run(["q"], {"obs": np.zeros((1, 2), "f4")})
    return q[0, 0], msgspec.json.decode(card, type=PolicyCard)


def test_a_run_ends_after_exactly_so_many_steps(monkeypatch, server, tmp_path):
    node = Node(monkeypatch, server, config(tmp_path, max_env_steps=40))
    with node:
        player = Player(server)
        for _ in range(30):
            player.play(4, ended=True)
        status = node.join()
    assert (status.phase, status.env_steps, status.updates) == ("ended", 40, 10)
    assert node.algorithm.names == list(range(40))
    assert "stop" in player.controls()
    assert (status.rejected, status.lost, status.duplicates) == ({}, 0, 0)
    assert status.episodes == 10
    assert status.reward_mean == pytest.approx(sum(range(40)) / 10)
    folder = run_folder(tmp_path)
    assert msgspec.json.decode((folder / "status.json").read_bytes(), type=Status) == status
    assert atomic_folders.damage(folder / "checkpoints" / "000001") is None
    q, card = weights_in(folder / "checkpoints" / "000001" / "policy.onnx")
    assert (q, card.run, card.env_steps) == (10, folder.name, 40)
    assert server.operator().status() == status


def test_the_last_fragment_may_overshoot_but_no_more(monkeypatch, server, tmp_path):
    node = Node(monkeypatch, server, config(tmp_path, max_env_steps=10))
    with node:
        player = Player(server)
        for _ in range(5):
            player.play(7)
        assert node.join().env_steps == 14


def test_the_wait_for_the_last_evaluation_is_told(monkeypatch, server, tmp_path):
    playing = [True]
    monkeypatch.setattr("soulsai.training_node.node.awaits", lambda *_: playing[0])
    with Node(monkeypatch, server, config(tmp_path, max_env_steps=8)) as node:
        player = Player(server)
        for _ in range(3):
            player.play(4, ended=True)
        node.told(lambda status: status.notice.startswith("the evaluator plays the last checkp"))
        playing.clear()
        playing.append(False)
        status = node.join()
    assert (status.phase, status.notice) == ("ended", "")


def test_a_signal_saves_and_leaves_the_run_open(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(8)
        node.told(lambda status: status.updates == 2)
    assert node.status.phase == "stopping"
    assert "stop" not in player.controls()
    assert weights_in(run_folder(tmp_path) / "checkpoints" / "000001" / "policy.onnx")[0] == 2


def test_phases_and_clients_are_reported(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        node.told(lambda status: status.phase == "waiting")
        player = Player(server)
        player.play(1)
        node.told(lambda status: status.phase == "warming up" and status.env_steps == 1)
        player.play(7, ended=True, greedy=True)
        player.lose()
        player.clock += 5
        player.play(4, version=99)
        player.play(4)
        player.beat(dropped=3, queued=2)
        node.algorithm.policy.dropped = 4
        status = node.told(lambda status: status.dropped == 3 + 4)
    assert status.phase == "learning"
    assert (status.lost, status.rejected, status.env_steps) == (5, {"version": 1}, 12)
    assert status.metrics["greedy_reward_mean"] == status.reward_mean == sum(range(8))
    assert status.replay_ratio == pytest.approx(3 / 12)
    assert status.bytes_received > 0
    (client,) = status.clients
    assert (client.client, client.state, client.queued) == ("player", "active", 2)
    assert (client.admitted, client.lost, client.rejected) == (12, 5, 1)


def test_where_no_episode_ends_the_reward_of_a_step_is_reported(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)  # rewards 0, 1, 2, 3
        player.play(4)  # rewards 4, 5, 6, 7
        status = node.told(lambda status: status.env_steps == 8)
    assert (status.reward_mean, status.reward_per_step) == (None, 3.5)


def test_the_trouble_of_a_client_becomes_an_event(monkeypatch, server, tmp_path):
    telemetry = server.telemetry()
    assert list(telemetry.events(0.05)) == []  # subscribes
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        for text in ("its spool was full", "crash", "hang"):  # which a client may change
            player.beat(trouble=text)
            node.told(lambda status, text=text: [c.trouble for c in status.clients] == [text])
        events = []
        wait_for(lambda: events.extend(telemetry.events(0.05)) or len(events) > 1)
    assert [event.text for event in events if event.kind == "client"] == [
        "player: its spool was full"
    ]


def test_episodes_are_stamped_and_recorded(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)):
        player = Player(server)
        player.play(4, ended=True)
        player.play(4, ended=True)
        telemetry = server.telemetry()
        found = []

        def both():
            after = found[-1][0] if found else "0-0"
            found.extend(telemetry.episodes(after, 0.1))
            return len(found) == 2

        wait_for(both)
    assert [(e.client, e.env_steps, e.time > 1e9) for _, e in found] == [
        ("player", 4, True),
        ("player", 8, True),
    ]


def test_versions_count_up_and_bring_exploration(monkeypatch, server, tmp_path):
    algorithm = Counting()
    algorithm.policy.exploration = {"random": 1.0}
    with Node(monkeypatch, server, config(tmp_path), algorithm=algorithm):
        player = Player(server)
        first = player.pointer()
        assert (first.generation, first.version, first.quota) == (1, 1, None)
        assert first.exploration == {"random": 1.0}
        player.play(4)
        wait_for(lambda: player.pointer().version > 1)
        newest = player.pointer()
        weights = player.wire.weights(newest, player.wire.program(player.spec))
        assert np.all(weights.arrays["linear.bias"] == 1)


def test_garbage_is_counted_and_stops_nothing(monkeypatch, server, tmp_path):
    monkeypatch.setattr(quarantine, "BUDGET", 10**6)
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player, villain = Player(server), Player(server, "villain")
        rng = np.random.default_rng(0)
        for _ in range(200):
            villain.push(rng.bytes(int(rng.integers(0, 200))))
        villain.play(4, reward=np.full(4, np.nan, "f4"))
        villain.play(4, action=np.full(4, 3, "u1"))
        player.play(4)
        status = node.told(lambda status: sum(status.rejected.values()) == 202)
        assert node.algorithm.names == [0, 1, 2, 3]
        # A stream locked by the greatest possible position is of use again after a hello.
        villain.position = villain.position._replace(epoch=2**64 - 1, seq=5)
        villain.push(b"")
        node.told(lambda status: status.rejected.get("position") == 1)
        villain.greet()
        villain.play(4)
        node.told(lambda status: status.env_steps == 8)
    assert status.rejected["reward"] == status.rejected["action"] == 1


def test_quicksave(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        Player(server).play(8)
        node.told(lambda status: status.updates == 2)
        answer = node.operator.command(Quicksave(), timeout=5.0)
        folder = run_folder(tmp_path) / "manual_save"
        assert answer.done
        assert str(folder) in answer.message
        assert atomic_folders.damage(folder) is None
        assert weights_in(folder / "policy.onnx")[0] == 2
        assert node.operator.command(Quicksave(replay=False), timeout=5.0).done


def test_a_checkpoint_can_be_made_the_best_model(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        Player(server).play(8)
        node.told(lambda status: status.updates == 2)
        assert not node.operator.command(Promote("manual_save"), timeout=5.0).done
        assert node.operator.command(Quicksave(), timeout=5.0).done
        answer = node.operator.command(Promote("manual_save"), timeout=5.0)
        assert answer.done, answer.message
        best = run_folder(tmp_path) / "best_model"
        assert atomic_folders.damage(best) is None
        assert weights_in(best / "policy.onnx")[0] == 2
        for model in ("000999", "../manual_save", "", "config.json"):
            answer = node.operator.command(Promote(model), timeout=5.0)
            assert not answer.done
            assert "there is none" in answer.message
        (run_folder(tmp_path) / "manual_save" / "policy.onnx").write_bytes(b"torn")
        answer = node.operator.command(Promote("manual_save"), timeout=5.0)
        assert "damaged" in answer.message
        assert weights_in(best / "policy.onnx")[0] == 2


def test_the_best_are_exactly_the_weights_of_that_version(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        versions = {}
        for _ in range(5):
            pointer = player.pointer()
            weights = player.wire.weights(pointer, player.wire.program(player.spec))
            versions[pointer.version] = weights.arrays["linear.bias"][0]
            player.play(4)
            wait_for(lambda before=pointer.version: player.pointer().version > before)
        folder = run_folder(tmp_path) / "best_model"
        for version, bias in versions.items():
            answer = node.operator.command(SaveBest(1, version, 12.5), timeout=5.0)
            assert answer.done
            assert "12.5" in answer.message
            q, card = weights_in(folder / "policy.onnx")
            assert (q, card.version) == (bias, version)
        answer = node.operator.command(SaveBest(1, 99, 13.0), timeout=5.0)
        assert not answer.done
        assert weights_in(folder / "policy.onnx")[1].version == max(versions)


def test_only_so_many_bytes_of_versions_are_kept(monkeypatch, server, tmp_path):
    settings = config(tmp_path, kept_weights_mb=80 / 2**20)  # two versions of 36 bytes
    with Node(monkeypatch, server, settings) as node:
        player = Player(server)
        for _ in range(3):
            before = player.pointer().version
            player.play(4)
            wait_for(lambda before=before: player.pointer().version > before)
        newest = player.pointer().version
        done = {
            version: node.operator.command(SaveBest(1, version, 0.0), timeout=5.0).done
            for version in (newest - 2, newest - 1, newest)
        }
    assert list(done.values()) == [False, True, True]


def test_a_pause_holds_everything_but_loses_nothing(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.updates == 1)
        assert node.operator.command(Pause(), timeout=5.0).done
        assert node.operator.command(Pause(), timeout=5.0).message == "already paused"
        assert player.controls()[-1] == "pause"
        player.play(40)
        player.beat(queued=7)
        status = node.told(lambda status: status.clients[0].queued == 7)
        assert (status.phase, status.env_steps, status.updates) == ("paused", 4, 1)
        assert node.operator.command(Resume(), timeout=5.0).done
        node.told(lambda status: status.updates == 11)
        assert player.controls()[-1] == "resume"
    assert node.algorithm.names == list(range(44))


def test_a_stop_is_answered_when_all_is_saved(monkeypatch, server, tmp_path):
    node = Node(monkeypatch, server, config(tmp_path))
    with node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.updates == 1)
        answer = node.operator.command(Stop(), timeout=5.0)
        assert answer.done
        assert "000001" in answer.message
        assert atomic_folders.damage(run_folder(tmp_path) / "checkpoints" / "000001") is None
        assert node.join().phase == "ended"
    assert player.controls()[-1] == "stop"


class Waiting(Counting):
    """Grants ``granted`` env steps per version."""

    def __init__(self, granted):
        super().__init__()
        self.policy.quota = granted


def test_the_quota_is_divided_among_active_clients_by_what_they_take(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path), algorithm=Waiting(18)):
        players = [Player(server, name) for name in ("a", "b")]
        assert players[0].pointer().quota == 18
        for player in players:
            player.beat()
        wait_for(lambda: players[0].pointer().quota == 9)  # there are more than were counted on
        before = players[0].pointer().version
        players[0].play(4)
        wait_for(lambda: players[0].pointer().version > before)
        assert players[0].pointer().quota == 8 + 10 // 2  # twice what one took, and half the rest


def test_when_all_clients_wait_the_grant_is_renewed(monkeypatch, server, tmp_path):
    """Some of the steps granted were lost, so no update is due, and none ever would be."""
    with Node(monkeypatch, server, config(tmp_path), algorithm=Waiting(4)):
        player = Player(server)
        first = player.pointer().version
        player.play(3)

        def renewed():
            player.beat(waiting=True, version=first)
            return player.pointer().version > first

        wait_for(renewed)


def test_clients_are_asked_to_play_a_version_that_is_still_kept(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        first = player.pointer()
        player.play(4)
        wait_for(lambda: player.pointer().version > first.version)
        answer = node.operator.command(Evaluate(1, first.version, 5), timeout=5.0)
        assert (answer.done, answer.message) == (
            True, f"asked clients for 5 greedy episodes of version 1-{first.version} each",
        )  # fmt: skip
        request = wait_for(
            lambda: next((one.evaluation for one in player.wire.wait(0.1) if one.evaluation), None)
        )
        assert player.wire.requested(request).order == first.order
        answer = node.operator.command(Evaluate(1, 999, 5), timeout=5.0)
        assert (answer.done, "no longer kept" in answer.message) == (False, True)
