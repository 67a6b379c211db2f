"""Equal policies are hardly ever told apart, better ones are, and far worse ones raise an alarm."""

import msgspec
import numpy as np
import pytest

from soulsai.evaluations.judgement import (
    LOOKS,
    compare,
    compare_unpaired,
    is_regression,
)
from soulsai.evaluations.record import EvaluationLine, measured
from soulsai.telemetry_node.statistics import Statistics
from soulsai.types import Episode

POLICIES, EPISODES = 200, 20


def landings(rng, count):
    """Returns as of a half-trained lander: most land, some crash."""
    crashed = rng.random(count) < 0.3
    return np.where(crashed, rng.normal(-200, 80, count), rng.normal(240, 25, count))


DRAWS = {
    "normal": lambda rng, count: rng.normal(size=count),
    "landings": landings,
    "won or lost": lambda rng, count: (rng.random(count) < 0.5).astype(float),
    "always the same": lambda rng, count: np.full(count, 500.0),
}


def bests_by_evaluation(draw, rng):
    """Let each policy challenge the best so far; return how often there was a new best."""
    best, found = draw(rng, LOOKS * EPISODES), 0
    for _ in range(POLICIES - 1):
        candidate = draw(rng, LOOKS * EPISODES)
        verdict, look = "candidate", 0
        while verdict == "candidate":
            look += 1
            some = look * EPISODES
            verdict = compare(dict(enumerate(candidate[:some])), dict(enumerate(best[:some])), look)
        if verdict == "best":
            best, found = candidate, found + 1
    return found


def bests_by_moving_average(draw, rng):
    """Let each policy play as many episodes; return how many of them became the best."""
    statistics, versions = Statistics(EPISODES), set()
    for version in range(POLICIES):
        for reward in draw(rng, EPISODES):
            episode = Episode(1, version, 0, float(reward), 10, 1.0, True, greedy=True, epsilon=0.0)
            if statistics.add(episode):
                versions.add(version)
    return len(versions) - 1  # the first best is no false one


@pytest.mark.parametrize("name", DRAWS)
def test_of_200_equal_policies_at_most_five_percent_become_the_best(name):
    counts = [bests_by_evaluation(DRAWS[name], np.random.default_rng(seed)) for seed in range(3)]
    assert max(counts) <= 0.05 * POLICIES, counts


def test_a_moving_average_declares_more_bests_among_equal_policies():
    ours, theirs = (
        sum(rule(landings, np.random.default_rng(seed)) for seed in range(3))
        for rule in (bests_by_evaluation, bests_by_moving_average)
    )
    assert theirs > 3 * max(1, ours), (ours, theirs)


def test_a_single_comparison_of_equals_errs_as_rarely_as_it_says():
    rng, found = np.random.default_rng(5), 0
    for _ in range(400):
        ours, theirs = landings(rng, LOOKS * EPISODES), landings(rng, LOOKS * EPISODES)
        verdict, look = "candidate", 0
        while verdict == "candidate":
            look += 1
            some = look * EPISODES
            verdict = compare(dict(enumerate(ours[:some])), dict(enumerate(theirs[:some])), look)
        found += verdict == "best"
    assert found / 400 <= 0.08, "5 % are expected, with a deviation of 1.1"


def test_a_better_policy_becomes_the_best():
    rng, found = np.random.default_rng(1), 0
    for _ in range(40):
        ours, theirs = rng.normal(240, 25, 60), rng.normal(200, 40, 60)
        verdict, look = "candidate", 0
        while verdict == "candidate":
            look += 1
            some = look * EPISODES
            verdict = compare(dict(enumerate(ours[:some])), dict(enumerate(theirs[:some])), look)
        found += verdict == "best"
    assert found >= 38


def test_only_common_seeds_are_compared_and_without_any_nothing_is_better():
    assert compare({1: 5.0, 2: 5.0}, {3: 0.0}, 1) == "no better"
    ours = dict.fromkeys(range(20), 100.0) | {99: -1e9}
    assert compare(ours, dict.fromkeys(range(20), 1.0), 1) == "best"


def test_the_last_look_ends_the_doubt():
    ours, theirs = {0: 1.0, 1: 0.0, 2: 2.0}, {0: 0.0, 1: 1.0, 2: 1.0}
    assert [compare(ours, theirs, look) for look in (1, LOOKS)] == ["candidate", "no better"]


def line(returns, *, smaller=False):
    blank = EvaluationLine(1, 1.0, "000001", 1, 1, 1, "candidate", smaller=smaller)
    values = tuple(map(float, returns))
    return measured(msgspec.structs.replace(blank, returns=values, seeds=tuple(range(len(values)))))


def test_a_loss_of_what_was_gained_is_a_regression_and_noise_is_none():
    rng = np.random.default_rng(2)
    first, best = line(rng.normal(-200, 50, 20)), line(rng.normal(250, 20, 20))
    worse, alike = line(rng.normal(50, 60, 20)), line(rng.normal(240, 20, 20))
    assert is_regression(worse, best, first, 0.25)
    assert not is_regression(alike, best, first, 0.25)
    assert not is_regression(worse, best, first, 0.9), "most of the gain is still there"
    assert not is_regression(first, best, best, 0.25), "the best is the first: nothing was gained"


def test_a_smaller_number_may_be_the_better_one():
    first, best, worse = (line([x] * 8, smaller=True) for x in (100, 10, 90))
    assert is_regression(worse, best, first, 0.25)
    assert not is_regression(best, worse, first, 0.25)
    assert compare(line([5] * 8, smaller=True).by_seed(), best.by_seed(), 1) == "best"
    assert compare(worse.by_seed(), best.by_seed(), 1) == "no better"


def test_episodes_of_clients_are_compared_without_seeds():
    rng = np.random.default_rng(3)
    low, high = line(rng.normal(0, 1, 20)), line(rng.normal(3, 1, 20))
    assert compare_unpaired(high, low) == "best"
    assert compare_unpaired(low, high) == "no better"
