"""Implicit quantile networks (arXiv:1806.06923): the quantiles are asked for by their levels."""

import torch
from torch import Tensor, nn

from soulsai.algorithms.networks import dueling_values, output_layer

COSINES = 64  # by which a level is described
ACTING = 32  # levels that are asked for when nothing is learnt


class SampledHead(nn.Module):
    """Values of every action, as quantiles of the return at any levels."""

    def __init__(
        self, features: int, actions: int, samples: int, *, dueling: bool, noisy: bool = False
    ) -> None:
        super().__init__()
        self.samples = samples  # levels drawn per evaluation, when it learns
        self.dueling = dueling
        self.level = nn.Linear(COSINES, features)
        self.out = output_layer(features, actions + dueling, noisy=noisy)

    def quantiles(
        self, features: Tensor, levels: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Map features [B, F] and levels [B, N] to quantiles [B, A, N].

        Without levels, they are spread evenly.
        """
        if levels is None:
            levels = ((torch.arange(ACTING, device=features.device) + 0.5) / ACTING)[None]
        k = torch.arange(COSINES, device=features.device) * torch.pi
        told = self.level((levels.unsqueeze(-1) * k).cos()).relu()  # [B or 1, N, F]
        both = features.unsqueeze(1) * told  # [B, N, F]
        noises = None if noise is None else noise.unsqueeze(1)
        out: Tensor = self.out(both, noises)  # [B, N, A]
        return dueling_values(out.transpose(1, 2)) if self.dueling else out.transpose(1, 2)
