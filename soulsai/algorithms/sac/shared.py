"""Soft actor-critic's two steps, shared among ranks: each does its part of the batch.

What dropout leaves out, every rank draws by itself.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.sac.update import ActorReport, CriticReport
from soulsai.algorithms.sharing import Step, buffers, hold

if TYPE_CHECKING:
    from soulsai.algorithms.sac import SAC

JUDGE, ACT = "judge", "act"
WEIGHTS, NOISE = "weights", "noise"


class SharedSteps:
    """Both steps, as they are called with all rows, and our parts of them."""

    def __init__(self, sac: "SAC") -> None:
        self._sac = sac
        self.parts: dict[str, Step] = {JUDGE: self._judge_part, ACT: self._act_part}

    def judge(self, rows: Tensors, weights: Tensor, noise: Tensor) -> CriticReport:
        """Do a step of the critics together; for the first rank."""
        cut = {**rows, WEIGHTS: weights, NOISE: noise}
        return self._judge_part(self._sac.ranks.tell(JUDGE, cut, moving(self._sac)))

    def act(self, rows: Tensors, noise: Tensor) -> ActorReport:
        """Do a step of the actor together; for the first rank."""
        seen = {name: column for name, column in rows.items() if name.startswith("obs.")}
        cut = {**seen, NOISE: noise}
        return self._act_part(self._sac.ranks.tell(ACT, cut, moving(self._sac)))

    def _judge_part(self, columns: Tensors) -> CriticReport:
        report = self._sac.judge_rows(columns, columns[WEIGHTS], columns[NOISE])
        predicted, error = self._sac.ranks.gather(report.predicted, report.error)
        return report._replace(predicted=predicted, error=error)

    def _act_part(self, columns: Tensors) -> ActorReport:
        return self._sac.act_rows(columns, columns[NOISE])


def moving(sac: "SAC") -> Tensors:
    """Return what changes between two steps: the statistics of observations."""
    return buffers(policy=sac.policy)


def held(sac: "SAC") -> Tensors:
    """Return what all ranks must hold alike."""
    return moving(sac) | hold(
        actor=sac.actor,
        judges=sac.judges,
        target_judges=sac.target_judges,
        warmth=sac.warmth,
        actor_adam=sac.actor_adam.state_dict(),
        critic_adam=sac.critic_adam.state_dict(),
        temperature_adam=sac.temperature_adam.state_dict(),
    )
