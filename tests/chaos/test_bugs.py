"""The program finds what it is for: each bug that is put into the product shows in its figures."""

import pytest

from .faults import Fault
from .program import bars, run
from .proxy import ProxyLinks
from .stage import Stage

FOUND = {
    # bug: the faults under which it shows, and the figure that shows it
    "early_trim": ([Fault("kill learner", 1.0, 0.0)], "acked_lost"),
    "early_positions": ([Fault("kill learner", 1.0, 0.0)], "double_counted"),
    "torn_checkpoints": ([Fault("kill learner while saving", 1.0, 0.0)], "unloadable_checkpoints"),
    "renumbered": ([Fault("pause redis", 1.0, 7.0)], "double_counted"),
    # What the server has lost, the learner has read; so it must be read again, too.
    "forgetful": ([Fault("rewind redis", 1.0, 1.5), Fault("kill learner", 2.5, 0.0)], "acked_lost"),
    "unfinished_batch": ([Fault("kill learner", 1.0, 0.0)], "unaccounted"),
}
ALGORITHM = {"unfinished_batch": "recurrent"}
SETS = {"forgetful": ("checkpoint.every=100000",)}


def suffer(folder, bug, faults, *, mended=False):
    """Return the figures of a short run with a bug, or of the same run without it."""
    links = ProxyLinks()
    settings = {"algorithm": ALGORITHM.get(bug, "dqn"), "sets": SETS.get(bug, ())}
    try:
        with Stage(folder, links, clients=2, bug="" if mended else bug, **settings) as stage:
            return run(stage, faults, 3.0, calm=2.0)
    finally:
        links.close()


@pytest.mark.parametrize(
    "bug",
    [
        "early_trim",
        *(pytest.param(bug, marks=pytest.mark.chaos) for bug in FOUND if bug != "early_trim"),
    ],
)
def test_a_bug_shows(tmp_path, bug):
    faults, figure = FOUND[bug]
    result = suffer(tmp_path, bug, faults)
    assert result.faults == len(faults)
    assert getattr(result, figure) > 0, result
    assert any(line.startswith(figure) for line in bars(result))


@pytest.mark.chaos
def test_what_a_server_loses_before_the_learner_is_killed_is_sent_again(tmp_path):
    faults, _ = FOUND["forgetful"]
    result = suffer(tmp_path, "forgetful", faults, mended=True)
    assert result.faults == len(faults)
    assert result.acked > 500
    assert bars(result) == []
