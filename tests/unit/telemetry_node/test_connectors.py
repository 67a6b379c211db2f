"""Connectors: nothing waits for them, whatever they do; and what they drop is counted."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.telemetry_node.connectors import LONGEST, SHORTEST, Connector, Point, Thinner


class Sink:
    """Takes items, unless it is told to fail or to hang."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.failures = 0
        self.open = threading.Event()
        self.open.set()
        self.closed = self.aborted = False

    def write(self, item: int) -> None:
        self.open.wait()
        if self.aborted:
            raise OSError("aborted")
        if self.failures:
            self.failures -= 1
            raise OSError("no route to host")
        self.items.append(item)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
        self.open.set()


def test_everything_arrives_in_order() -> None:
    sink = Sink()
    connector = Connector("x", sink)
    for number in range(1000):
        connector.offer(number)
    connector.close()
    assert sink.items == list(range(1000))
    assert sink.closed
    assert (connector.written, connector.dropped, connector.waiting) == (1000, 0, 0)


def test_a_sink_that_hangs_costs_its_items_and_no_time() -> None:
    sink = Sink()
    sink.open.clear()
    connector = Connector("x", sink, most=100, grace=0.1)
    began = time.process_time()
    for number in range(20_000):
        connector.offer(number)
    assert (time.process_time() - began) / 20_000 < 50e-6
    assert connector.waiting <= 100
    assert connector.dropped >= 20_000 - 101
    connector.close()
    assert sink.aborted
    assert not sink.items


def test_what_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soulsai.telemetry_node.connectors.FIRST_PAUSE", 0.01)
    sink = Sink()
    sink.failures = 3
    connector = Connector("x", sink)
    for number in range(10):
        connector.offer(number)
    deadline = time.monotonic() + 30
    while connector.written < 10:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    connector.close()
    assert sink.items == list(range(10))


def test_a_dead_sink_ends_at_once_when_asked() -> None:
    sink = Sink()
    sink.failures = 10**9
    connector = Connector("x", sink)
    connector.offer(1)
    connector.close()
    assert not sink.items
    assert sink.closed


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_means_over_a_moment_lose_nothing(values: list[float]) -> None:
    now = [0.0]
    thinner = Thinner(lambda: now[0])
    told: list[tuple[float, int]] = []
    count = 0
    for number, value in enumerate(values):
        now[0] += 0.2
        count += 1
        point = thinner.add(Point(now[0], number, {"reward": value}))
        if point:
            told.append((point.values["reward"], count))
            assert point.env_steps == number
            count = 0
    rest = thinner.rest()
    if rest:
        told.append((rest.values["reward"], count))
    assert sum(mean * n for mean, n in told) == pytest.approx(sum(values), abs=1e-6)
    assert sum(n for _, n in told) == len(values)


def test_a_month_is_a_bounded_number_of_points() -> None:
    now = [0.0]
    thinner = Thinner(lambda: now[0])
    told = 0
    for _ in range(200_000):
        now[0] += 13.0
        told += thinner.add(Point(now[0], 1, {"reward": 1.0})) is not None
    assert told <= 30 * 24 * 3600 / LONGEST + 5000 * 10
    assert SHORTEST < LONGEST
