"""The benchmark of many clients: a real node admits all that they send, with every check on."""

from benchmarks import fleet


def test_all_env_steps_of_a_fleet_arrive_and_none_is_refused(monkeypatch):
    monkeypatch.setattr(fleet, "ENVIRONMENT", "CartPole-v1")
    monkeypatch.setattr(fleet, "SETTLING_SECONDS", 2.0)
    monkeypatch.setattr(fleet, "WINDOW_SECONDS", 1.0)
    arrived, node, _, _, weights = fleet.measure(clients=40, rate=20.0, seconds=2.0)
    assert arrived.value == 100.0
    assert node.value > 0.0
    assert weights.value > 0.0
