"""The squashed head: NumPy on a client and torch on the learner say the same."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soulsai import heads
from soulsai.algorithms.distributions import log_tanh_slope, sample_squashed
from soulsai.types import ActionSpec, Head

HEAD = Head("squashed")
LARGEST = float(np.finfo(np.float32).max)
EXTREMES = [0.0, 1e-45, 1e-38, 1e-7, 0.5, 1.0, 9.01, 20.0, 87.0, 104.0, 1e4, 1e19, 1e38, LARGEST]


def client(mean, log_std, *, greedy=False, seed=0):
    """What a client does: actions, log-probabilities, and the noise that made them."""
    count, size = mean.shape
    spec = ActionSpec("box", (size,), low=(-1.0,) * size, high=(1.0,) * size)
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite on both sides
        actions, extras = heads.act(
            HEAD,
            spec,
            {"mean": mean, "log_std": log_std},
            mask=None,
            greedy=np.full(count, greedy),
            epsilon=np.zeros(count),
            random=0.0,
            rng=rng,
        )
    again.random(count)
    noise = again.standard_normal(mean.shape)
    return actions, extras["logp"], np.zeros_like(noise) if greedy else noise


def learner(mean, log_std, noise):
    action, logp = sample_squashed(
        torch.from_numpy(mean), torch.from_numpy(log_std), torch.from_numpy(noise.astype("<f4"))
    )
    assert action.dtype == logp.dtype == torch.float32
    return action.numpy(), logp.numpy()


def assert_equal(mean, log_std, **changes):
    mean, log_std = mean.astype("<f4"), log_std.astype("<f4")
    theirs, their_logp, noise = client(mean, log_std, **changes)
    ours, our_logp = learner(mean, log_std, noise)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * _spread(mean, log_std))
    largest = np.finfo(np.float32).max  # what is sent is finite
    our_logp = our_logp.clip(-largest, largest)
    np.testing.assert_allclose(our_logp, their_logp, rtol=3e-6, atol=2e-5 * _spread(mean, log_std))
    assert not np.isnan(our_logp).any()
    assert (np.abs(ours) <= 1.0).all()


def _spread(mean, log_std):
    """How much larger than 1 the numbers are that may cancel out."""
    near = np.abs(mean[np.abs(mean) < 100])
    return max(1.0, float(near.max(initial=0.0)), float(np.exp(log_std).max()))


@pytest.mark.parametrize("log_std", [-5.0, -1.0, 0.0, 2.0])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_the_extremes_of_float32(log_std, greedy, sign):
    mean = sign * np.array(EXTREMES)[:, None]
    assert_equal(mean, np.full_like(mean, log_std), greedy=greedy)


@given(
    rows=st.lists(
        st.tuples(
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            st.floats(-5.0, 2.0, width=32),
            st.floats(-10.0, 10.0, width=32),
            st.floats(-5.0, 2.0, width=32),
        ),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_for_any_outputs_of_a_network(rows, seed):
    table = np.array(rows)
    assert_equal(table[:, [0, 2]], table[:, [1, 3]], seed=seed)


def test_the_log_probability_of_what_was_drawn_is_that_of_the_sample():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = torch.randn((3, 64, 2), generator=generator, dtype=torch.float64)
    action, logp = sample_squashed(mean, log_std, noise)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(
        normal, torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(squashed.log_prob(action).sum(-1), logp)


def test_probabilities_of_actions_sum_to_one():
    mean, log_std = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.3]])
    action = torch.linspace(-1, 1, 200_003, dtype=torch.float64)[1:-1, None]
    noise = (action.atanh() - mean) * (-log_std).exp()
    density = sample_squashed(mean, log_std, noise)[1].exp()
    assert float(density.sum() * (action[1] - action[0])) == pytest.approx(1.0, abs=1e-6)


def test_the_slope_is_exact_where_the_square_is_not_and_finite_beyond():
    drawn = torch.tensor([0.0, 0.3, -2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(log_tanh_slope(drawn), torch.log(1 - torch.tanh(drawn) ** 2))
    far = log_tanh_slope(torch.tensor([50.0, -50.0, 1e4, -1e38]))
    expected = [2 * (math.log(2) - x) for x in (50.0, 50.0, 1e4, 1e38)]
    torch.testing.assert_close(far, torch.tensor(expected))


def test_gradients_are_right_near_and_finite_far():
    generator = torch.Generator().manual_seed(1)
    mean, log_std, noise = torch.randn((3, 8, 2), generator=generator, dtype=torch.float64)
    inputs = (mean.requires_grad_(), log_std.requires_grad_(), noise)
    assert torch.autograd.gradcheck(sample_squashed, inputs)
    far = torch.tensor([[1e4], [-1e4], [90.0], [-90.0]], requires_grad=True)
    action, logp = sample_squashed(far, torch.zeros_like(far), torch.ones_like(far))
    (action.sum() + logp.sum()).backward()
    torch.testing.assert_close(far.grad, torch.tensor([[2.0], [-2.0], [2.0], [-2.0]]))
