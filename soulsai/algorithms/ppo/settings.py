"""The settings of proximal policy optimisation."""

from typing import Annotated, Literal

from msgspec import Meta

from soulsai.algorithms.settings import LearnerSettings
from soulsai.types import Count, Fraction, Natural, Positive


class PPOSettings(LearnerSettings, frozen=True, forbid_unknown_fields=True):
    """Proximal policy optimisation from the fresh experience of whoever is there."""

    learner = "soulsai.algorithms.ppo.learner:PPO"
    actions = ("discrete", "multidiscrete", "box")

    hidden: tuple[Count, ...] = (64, 64)  # widths of the layers of actor and critic
    activation: Literal["tanh", "relu"] = "tanh"  # relu comes with layer normalisation
    memory: Natural = 0  # width of an LSTM, for what one observation does not tell; 0: none
    unroll: Count = 128  # env steps through which it learns to remember
    batch_steps: Count | None = None  # env steps per iteration; empty: 2048, box actions 4096
    epochs: Count | None = None  # passes over a batch; empty: 4, box actions 10
    minibatch: Count = 64  # env steps per gradient step
    lr: Positive | None = None  # empty: 1e-3, box actions 3e-4
    anneal_lr: bool = True  # to zero, over the planned steps
    adam_eps: Positive = 1e-5
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99
    gae_lambda: Fraction = 0.95
    estimator: Literal["gae", "vtrace"] = "gae"  # of advantages
    clip: Positive = 0.2  # how far the probability of an action may move per iteration
    anneal_clip: bool = False  # to zero, over the planned steps
    entropy: Annotated[float, Meta(ge=0)] | None = None  # bonus; empty: 0.01, box actions 0
    value: Annotated[float, Meta(ge=0)] = 0.5  # weight of the critic's loss
    grad_clip: Positive = 0.5
    target_kl: Annotated[float, Meta(ge=0)] = 0.02  # epochs end at 1.5 times that; 0: never
    max_lag: Natural | None = None  # in iterations; empty: 8, box actions 4; 0: clients wait
    weight_cap: Positive = 5.0  # of importance weights
    deadline: Positive = 10.0  # seconds after which 60 % of a batch will do
    pace: Literal["hold", "free"] = "hold"  # hold: simulators get at most a batch ahead
    balance: bool = False  # no client counts for more than the mean client
    eval_fraction: Fraction = 0.02  # of episodes played greedily, to measure by; not learnt from
    normalize_obs: bool | None = None  # empty: only with box actions
    normalize_rewards: bool = True  # divide by the deviation of discounted returns
