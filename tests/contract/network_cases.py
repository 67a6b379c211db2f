"""Networks as people write them: two that keep the contract, and one for each way to break it."""

import numpy as np
import torch
from torch import nn


def rows(obs):
    """All leaves in one row per observation."""
    return torch.cat([leaf.reshape(leaf.shape[0], -1).float() for leaf in obs.values()], 1)


def width(leaves):
    return sum(int(np.prod(leaf.shape)) for leaf in leaves.values())


class Net(nn.Module):
    """A gated layer."""

    def __init__(self, leaves, outputs):
        super().__init__()
        self.enter, self.gate = nn.Linear(width(leaves), 8), nn.Linear(width(leaves), 8)
        self.leave = nn.Linear(8, outputs)

    def forward(self, obs):
        x = rows(obs)
        return self.leave(self.enter(x).tanh() * self.gate(x).sigmoid())


class Features(nn.Module):
    """Embeds categories, looks at pictures, has a constant, and finds its widths itself."""

    def __init__(self, leaves):
        super().__init__()
        kinds = {name: leaf.categories for name, leaf in leaves.items() if leaf.categories}
        self.kinds = nn.ModuleDict({name: nn.Embedding(size, 3) for name, size in kinds.items()})
        self.pictures = [name for name, leaf in leaves.items() if len(leaf.shape) == 3]
        self.look = nn.ModuleDict({name: nn.LazyConv2d(4, 3) for name in self.pictures})
        self.mix = nn.LazyLinear(6)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, obs):
        parts = []
        for name, leaf in obs.items():
            if name in self.kinds:
                leaf = self.kinds[name](leaf.long())
            elif name in self.look:
                leaf = self.look[name](leaf.movedim(-1, 1).float() / 255.0).relu()
            parts.append(leaf.reshape(leaf.shape[0], -1))
        return (self.mix(torch.cat(parts, 1)) * self.scale).tanh()


def plain(leaves, outputs):
    """A function that makes a network is as good as a class."""
    return Rows(nn.Linear(width(leaves), outputs))


class Rows(nn.Module):
    """A row of numbers before another module."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, obs):
        return self.inner(rows(obs))


def without_outputs(leaves):
    return plain(leaves, 4)


def no_module(leaves, outputs):
    return lambda obs: rows(obs)


def one_too_many(leaves, outputs):
    return plain(leaves, outputs + 1)


def flat_values(leaves, outputs):
    return Rows(nn.Sequential(nn.Linear(width(leaves), 1), nn.Flatten(0)))


def other_width(leaves, outputs):
    return Rows(nn.Linear(5, outputs))


def in_double(leaves, outputs):
    return Rows(nn.Linear(width(leaves), outputs).double())


def frozen(leaves, outputs):
    module = plain(leaves, outputs)
    module.inner.weight.requires_grad_(False)
    return module


def left_over(leaves, outputs):
    module = plain(leaves, outputs)
    module.spare = nn.Linear(2, 2)
    return module


def with_dropout(leaves, outputs):
    return Rows(nn.Sequential(nn.Linear(width(leaves), outputs), nn.Dropout(0.5)))


def with_batch_norm(leaves, outputs):
    return Rows(nn.Sequential(nn.Linear(width(leaves), outputs), nn.BatchNorm1d(outputs)))


def with_plain_batch_norm(leaves, outputs):
    norm = nn.BatchNorm1d(outputs, track_running_stats=False)
    return Rows(nn.Sequential(nn.Linear(width(leaves), outputs), norm))


def drawn_by_numpy(leaves, outputs):
    module = plain(leaves, outputs)
    drawn = np.random.default_rng().normal(size=module.inner.weight.shape)
    module.inner.weight.data = torch.from_numpy(drawn.astype("f4"))
    return module


def constant(leaves, outputs):
    return Rows(nn.Softmax(1)) if width(leaves) == outputs else Rows(_Zeros(outputs))


def not_finite(leaves, outputs):
    return Rows(nn.Sequential(nn.Linear(width(leaves), outputs), _Times(torch.inf)))


def with_outputs(leaves, outputs):
    return plain(leaves, outputs)


def scalar_features(leaves):
    return flat_values(leaves, 1)


def in_evaluation(leaves, outputs):
    return Rows(nn.Sequential(nn.Linear(width(leaves), outputs), _TwiceInTraining()))


class _TwiceInTraining(nn.Module):
    def forward(self, x):
        return x * 2 if self.training else x


class _Zeros(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return x.new_zeros(len(x), self.outputs)


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class WithMemory(Net):
    def forward(self, obs):
        return super().forward(obs), torch.zeros(3, 2)


class Detached(Net):
    def forward(self, obs):
        return super().forward(obs).detach()


class Uncopied(Net):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is only one of me")


class Branching(Net):
    """Its course depends on the numbers, which no graph can hold."""

    def forward(self, obs):
        out = super().forward(obs)
        return out * 2 if bool(out.sum() > 0) else out * 3


class Looping(Net):
    """Goes through the observations one by one, so that a graph would hold their number."""

    def forward(self, obs):
        each = [
            {name: leaf[i : i + 1] for name, leaf in obs.items()} for i in range(len(rows(obs)))
        ]
        return torch.cat([super(Looping, self).forward(one) for one in each])


class Broken(Net):
    def forward(self, obs):
        return self.leave(obs["nowhere"])
