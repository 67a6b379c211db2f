"""What proximal policy optimisation maximises, and how its ingredients are prepared."""

import numpy as np
import torch
from torch import Tensor

from soulsai.types import Array


def surrogate(ratio: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Tensor:
    """Return what is gained [B] by a policy that is ``ratio`` times as likely as the proximal one.

    ``weight`` is how much likelier the proximal policy was than the one that acted.
    """
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return weight * torch.minimum(ratio * advantage, clipped * advantage)


def standardized(values: Array, weights: Array) -> Array:
    """Return values with weighted mean 0 and deviation 1."""
    total = max(weights.sum(), 1e-12)
    centred = values - (weights * values).sum() / total
    deviation = np.sqrt((weights * centred**2).sum() / total)
    result: Array = centred / (deviation + 1e-8)
    return result


def explained(value: Array, goal: Array) -> float:
    """Return which share of the goals' variance the values explain; 1 at best."""
    spread = float(goal.var())
    return 1.0 - float((goal - value).var()) / spread if spread > 0 else 0.0
