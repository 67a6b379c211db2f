"""The learning targets, through the whole system (make test-learning; an hour on two cores)."""

import pytest

from soulsai.bench import learning

SEEDS = (10, 11, 12, 13, 14)  # no setting was chosen on these


@pytest.mark.learning
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("name", learning.TARGETS)
def test_a_target_is_reached_over_seeds(name, tmp_path, capsys):
    score = learning.run(learning.TARGETS[name], SEEDS, tmp_path)
    with capsys.disabled():
        print(f"\n{name}: IQM {score.iqm:.1f} worst {score.worst:.1f} seeds {score.scores}")
    assert score.iqm >= score.bar
    assert score.worst >= score.floor
