"""When the best is asked for, repeated, given up, and what may be claimed of it."""

import math

from soulsai.telemetry_node.best import PATIENCE, REST, BestTracker
from soulsai.telemetry_node.statistics import Best
from soulsai.types import SaveBest


def best(score: float, version: int = 5) -> Best:
    return Best(score, 1, version, 1000, 40, greedy=True, time=1e9)


def test_nothing_is_asked_for_before_there_is_a_best() -> None:
    claim = BestTracker()
    assert claim.due(math.inf) is None
    assert claim.file() is None


def test_exactly_the_weights_that_produced_the_score_are_asked_for() -> None:
    claim = BestTracker()
    claim.offer(best(7.0, version=3))
    assert claim.due(0.0) == SaveBest(generation=1, version=3, score=7.0)
    claim.answered(done=True, message="saved", now=0.0)
    assert claim.due(math.inf) is None
    file = claim.file()
    assert file is not None
    assert (file.saved, file.score, file.version) == (True, 7.0, 3)


def test_between_two_requests_it_rests_and_then_asks_for_the_newest_best_only() -> None:
    claim = BestTracker()
    claim.offer(best(7.0))
    claim.answered(done=True, message="", now=10.0)
    claim.offer(best(8.0))
    claim.offer(best(9.0, version=9))
    assert claim.due(10.0 + REST / 2) is None
    assert claim.due(10.0 + REST) == SaveBest(1, 9, 9.0)
    file = claim.file()
    assert file is not None
    assert not file.saved


def test_refused_weights_are_given_up_and_not_claimed() -> None:
    claim = BestTracker()
    claim.offer(best(7.0))
    claim.answered(done=False, message="version 5 is no longer held", now=0.0)
    assert claim.due(math.inf) is None
    file = claim.file()
    assert file is not None
    assert (file.score, file.saved, file.answer) == (7.0, False, "version 5 is no longer held")
    claim.offer(best(8.0))
    assert claim.due(math.inf) is not None


def test_without_an_answer_it_asks_again_ever_more_slowly() -> None:
    claim = BestTracker()
    claim.offer(best(7.0))
    now, waits = 0.0, []
    for _ in range(10):
        assert claim.due(now) == SaveBest(1, 5, 7.0)
        claim.unanswered(now)
        step = next(step for step in range(1, 1000) if claim.due(now + step))
        waits.append(step)
        now += step
    assert waits[:3] == [2, 4, 8]
    assert waits[-1] == PATIENCE
    claim.answered(done=True, message="", now=now)
    claim.offer(best(8.0))
    assert claim.due(now + REST) is not None


def test_after_a_restart_the_file_says_what_was_answered() -> None:
    before = BestTracker()
    before.offer(best(7.0))
    asked = before.file()
    before.answered(done=True, message="saved", now=0.0)
    saved = before.file()
    before.answered(done=False, message="gone", now=0.0)
    refused = before.file()
    assert asked is not None
    assert saved is not None
    assert refused is not None
    for file, offered, due, claimed in (
        (asked, best(7.0), True, False),
        (saved, best(7.0), False, True),
        (refused, best(7.0), False, False),
        (saved, best(7.5), True, False),
    ):
        after = BestTracker()
        after.offer(offered)
        after.restore(file)
        assert (after.due(math.inf) is not None) == due
        assert after.saved == claimed
    nobody = BestTracker()
    nobody.restore(saved)
    assert nobody.file() is None
