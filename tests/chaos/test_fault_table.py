"""The published table says what was measured."""

from dataclasses import asdict

from .page import page
from .program import Result
from .trial import Row


def test_a_page_has_a_row_for_every_kind_of_fault_and_every_trial():
    fire = Result(7, "netns", faults=3, accepted=900, acked=900, minutes=10.0)
    fire.recovery = {"kill redis": [0.5, 1.5], "pause client": [0.25]}
    rows = [Row("a partition", "nothing", 3.25, {"accepted": 10}), Row("SIGTERM", "nothing")]
    other = Result(7, "netns", "ppo", faults=3, accepted=50, acked=40, unaccounted=2, minutes=10.0)
    other.recovery = {"kill redis": [3.0]}
    text = page([asdict(fire), asdict(other)], [asdict(row) for row in rows])
    assert "| dqn | 10 | 900 of 900 | 0 | 0 | 0 |" in text
    assert "| ppo | 10 | 50 of 40 | 0 | 0 | 2 |" in text
    assert "| kill redis | 3 | nothing | 1.5 | 3.0 |" in text
    assert "| pause client | 1 | nothing | 0.2 | 0.2 |" in text
    assert "| a partition | nothing | 3.2 | 1.0 | accepted 10 |" in text
    assert "| SIGTERM | nothing |  | 1.0 |  |" in text
    assert "3 faults at random moments" in text
