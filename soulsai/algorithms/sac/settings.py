"""The settings of soft actor-critic."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from soulsai.algorithms.settings import ReplaySettings
from soulsai.types import Count, Fraction, Natural, Positive


class SACSettings(ReplaySettings, frozen=True, forbid_unknown_fields=True):
    """Soft actor-critic with truncated quantile critics, for continuous actions."""

    learner = "soulsai.algorithms.sac.learner:SAC"
    actions = ("box",)

    hidden: tuple[Count, ...] = (256, 256)  # widths of the layers of actor and critics
    layer_norm: bool = True  # of the critics
    critics: Count = 2
    quantiles: Count = 25  # of the return, per critic; 1: its mean only, which is plain SAC
    drop: Natural = 2  # highest quantiles per critic that are left out of targets
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # of the critics; DroQ: 0.01
    n_step: Count = 1
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99
    lr: Positive = 3e-4
    adam_eps: Positive = 1e-8
    batch_size: Count = 256
    replay_ratio: Positive = 1.0  # gradient steps per new env step; DroQ: 20
    policy_delay: Count = 2  # gradient steps of the critics per one of the actor; DroQ: 20
    pace: Literal["hold", "free", "lockstep"] = "hold"  # hold: simulators wait for the learner
    slack_steps: Count = 500  # with hold: env steps the fleet may be ahead of the learner
    capacity: Count = 300_000  # transitions in replay
    replay_folder: str = ""  # keep replay there, on disk; empty: in memory
    learning_starts: Natural = 1_000  # env steps of uniform random actions before the first update
    target_ema: Annotated[float, Meta(gt=0, le=1)] = 0.005  # of the target critics, per update
    temperature: Positive = 1.0  # what a nat of entropy is worth in reward, at first; then learnt
    entropy_per_dim: float = -1.0  # wanted of the policy, in nats per dimension of the action
    prioritized: bool = False
    priority_alpha: Fraction = 0.6
    priority_beta: Fraction = 0.4  # grows to 1 over the planned steps
    eval_fraction: Fraction = 0.05  # of episodes played greedily, to measure by
    normalize_obs: bool = True
    reward_scale: Positive = 1.0

    def problems(self) -> Iterator[str]:
        """Yield each combination of settings that cannot work."""
        yield from ReplaySettings.problems(self)
        if self.drop >= self.quantiles > 1:
            yield f"drop: {self.drop} of {self.quantiles} quantiles leaves none"
