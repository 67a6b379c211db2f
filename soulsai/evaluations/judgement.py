"""The choice of the best model by evaluations, and the alarm for one that is far worse. Pure."""

from collections.abc import Mapping

from soulsai.evaluations.intervals import permutation_p, sign_flip_p
from soulsai.evaluations.record import EvaluationLine, Verdict

LOOKS = 3  # comparisons of one candidate; before each but the first, it gets more episodes
# One-sided p-value of one comparison: three of them together keep the 5 % below a 90 % interval
# (Pocock 1977: 1.992 standard deviations).
LEVEL = 0.0232
LEVEL_ONCE = 0.05  # of one comparison alone
FEWEST = 4  # episodes of which an evaluation is made
Scores = Mapping[int, float]  # by seed; a larger one is better


def compare(candidate: Scores, best: Scores, look: int) -> Verdict:
    """Return the verdict on a candidate by the seeds that both models have played.

    Args:
        candidate: Its scores.
        best: Those of the best model so far.
        look: The number of this comparison, from 1.
    """
    seeds = sorted(candidate.keys() & best.keys())
    differences = [candidate[seed] - best[seed] for seed in seeds]
    if not differences or sum(differences) <= 0.0:
        return "no better"
    if sign_flip_p(differences) <= LEVEL:
        return "best"
    return "candidate" if look < LOOKS else "no better"


def compare_unpaired(candidate: EvaluationLine, best: EvaluationLine) -> Verdict:
    """Return the verdict on a candidate without seeds, as clients have played it.

    Args:
        candidate: Its evaluation.
        best: That of the best model so far.
    """
    sign = -1.0 if candidate.smaller else 1.0
    ours, theirs = ([sign * score for score in line.ranked] for line in (candidate, best))
    better = bool(ours and theirs) and permutation_p(ours, theirs) <= LEVEL_ONCE
    return "best" if better else "no better"


def is_regression(
    line: EvaluationLine, best: EvaluationLine, first: EvaluationLine, share: float
) -> bool:
    """Return whether a model is far worse than the best one.

    The upper end of its interval is below the lower end of the best model's by more than a share
    of what the best model has gained since the first evaluation. Before there is a gain, nothing
    can be lost: in its first minutes, a policy may well become worse than an untrained one.

    Args:
        line: The model.
        best: The best model so far.
        first: The first evaluation of the run.
        share: The share, such as 0.25.
    """
    gained = first.mean - best.mean if line.smaller else best.mean - first.mean
    if gained <= 0.0:
        return False
    if line.smaller:
        return line.low > best.high + share * gained
    return line.high < best.low - share * gained
