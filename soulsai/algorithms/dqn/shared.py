"""Q-learning's update, shared among ranks: each judges its part of the batch."""

from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.dqn.network import Chance
from soulsai.algorithms.dqn.update import Learner, Luck, Report, Rules, update
from soulsai.algorithms.sharing import Ranks, buffers

UPDATE, WEIGHTS, RATE = "update", "weights", "rate"


class SharedUpdate:
    """Calls like an update of all rows, and returns what all ranks have found together."""

    def __init__(self, learner: Learner, rules: Rules, ranks: Ranks) -> None:
        self._learner = learner._replace(ranks=ranks)
        self._rules = rules
        self._ranks = ranks

    def __call__(self, rows: Tensors, weights: Tensor, luck: Luck) -> Report:
        """Update together; for the first rank."""
        cut, whole = {**rows, WEIGHTS: weights}, moving(self._learner)
        whole[RATE] = self._learner.optimizer.rate
        for i, chance in enumerate(luck):
            if chance.levels is not None:
                cut[f"levels.{i}"] = chance.levels
            if chance.noise is not None:
                whole[f"noise.{i}"] = chance.noise
        return self.part(self._ranks.tell(UPDATE, cut, whole) | whole)

    def part(self, columns: Tensors) -> Report:
        """Do our part of an update; for every rank."""
        luck = Luck(
            *(
                Chance(columns.get(f"levels.{i}"), columns.get(f"noise.{i}"))
                for i in range(len(Luck._fields))
            )
        )
        self._learner.optimizer.lr = columns[RATE].item()
        report = update(self._learner, columns, columns[WEIGHTS], self._rules, luck)
        predicted, goal, error = self._ranks.gather(report.predicted, report.goal, report.error)
        return report._replace(predicted=predicted, goal=goal, error=error)


def moving(learner: Learner) -> Tensors:
    """Return what changes between two updates: statistics, and the vectors of spectral norms."""
    return buffers(online=learner.online, target=learner.target)
