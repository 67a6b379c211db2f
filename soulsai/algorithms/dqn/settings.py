"""The settings of deep Q-learning."""

from typing import Annotated, Literal

from msgspec import Meta

from soulsai.algorithms.settings import ReplaySettings
from soulsai.types import Count, Fraction, Natural, Positive


class DQNSettings(ReplaySettings, frozen=True, forbid_unknown_fields=True):
    """Double, dueling, n-step, prioritised Q-learning (and quantiles of the return)."""

    learner = "soulsai.algorithms.dqn.learner:DQN"
    actions = ("discrete",)

    hidden: tuple[Count, ...] = (256, 256)  # widths of the network's layers
    layer_norm: bool = True
    network: Literal["layers", "residual"] = "layers"  # residual: blocks as in SimBa
    vision: Literal["auto", "small", "minatar", "nature", "impala"] = "auto"  # what sees images
    dueling: bool = True
    double: bool = True
    quantiles: Count = 16  # of the return; 1: its mean only
    sampled: bool = False  # draw the quantiles' levels anew in every update (IQN)
    munchausen: Fraction = 0.0  # share of the policy's own logarithm in the reward; 0.9, or 0: off
    temperature: Positive = 0.03  # with munchausen: of the soft policy, in units of reward
    noisy: bool = False  # explore by noise in the last layer, drawn anew for every episode
    n_step: Count = 3
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99
    n_step_first: Natural = 0  # n_step at the beginning; 0: the same throughout
    gamma_first: Fraction = 0.0  # gamma at the beginning; 0: the same throughout
    anneal_steps: Count = 50_000  # env steps over which these two change
    lr: Positive = 5e-4
    anneal_lr: bool = False  # to zero, over the planned steps
    adam_eps: Positive = 1e-5
    batch_size: Count = 64
    replay_ratio: Positive = 1.0  # gradient steps per new env step
    pace: Literal["hold", "free", "lockstep"] = "hold"  # hold: simulators wait for the learner
    slack_steps: Count = 500  # with hold: env steps the fleet may be ahead of the learner
    capacity: Count = 100_000  # transitions in replay
    replay_folder: str = ""  # keep replay there, on disk; empty: in memory
    learning_starts: Natural = 2_000  # env steps of uniform random actions before the first update
    target_ema: Annotated[float, Meta(gt=0, le=1)] = 0.005  # of the target network, per update
    act_with: Literal["average", "online"] = "average"  # weights that clients play with
    grad_clip: Positive = 10.0
    prioritized: bool = True
    priority_alpha: Fraction = 0.6
    priority_beta: Fraction = 0.4  # grows to 1 over the planned steps
    explore_steps: Natural = 10_000  # env steps after learning_starts, ever fewer at random
    epsilon_base: Fraction = 0.4  # an episode plays with base ** (1 + alpha * u), u uniform
    epsilon_alpha: Annotated[float, Meta(ge=0)] = 7.0
    eval_fraction: Fraction = 0.05  # of episodes played greedily, to measure by
    normalize_obs: bool = True
    reward_scale: Positive = 1.0
    rescale_values: bool = False  # learn about the square root of values, where they vary widely
