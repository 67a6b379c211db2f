"""The heads that clients act with and their twins that the learner judges by are equal."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai import heads
from soulsai.algorithms.distributions import Categorical, Gaussian, distribution
from soulsai.types import ActionSpec, Head

HUGE = float(np.finfo(np.float32).max)
SIZES = [(3,), (1,), (2, 4), (3, 1, 5)]
CATEGORICAL, GAUSSIAN = Head("categorical"), Head("scaled_gaussian")


class Noise:
    """A random generator that draws what it is given."""

    def __init__(self, gumbel=None, normal=None):
        self._gumbel, self._normal = gumbel, normal

    def random(self, size):
        return np.ones(size)

    def gumbel(self, size):
        drawn, self._gumbel = self._gumbel[:, : size[1]], self._gumbel[:, size[1] :]
        return drawn

    def standard_normal(self, shape):
        return self._normal


def spec(sizes):
    kind = "discrete" if len(sizes) == 1 else "multidiscrete"
    return ActionSpec(kind, (len(sizes),) if len(sizes) > 1 else (), sizes)


def categorical(sizes, logits, mask, noise, *, greedy=False):
    """What the head does and its twin, with the same noise."""
    action, extras = heads.act(
        CATEGORICAL,
        spec(sizes),
        {"logits": logits},
        mask=mask,
        greedy=np.full(len(logits), greedy),
        epsilon=np.zeros(len(logits)),
        random=0.0,
        rng=Noise(gumbel=noise),
    )
    valid = None if mask is None else torch.from_numpy(mask)
    twin = distribution(CATEGORICAL, spec(sizes), {"logits": torch.from_numpy(logits)}, valid)
    drawn = twin.draw(torch.from_numpy(np.zeros_like(noise) if greedy else noise)).numpy()
    return action, extras["logp"], drawn, twin


def random_mask(rng, sizes, rows):
    mask = rng.random((rows, sum(sizes))) < 0.6
    mask[:, np.cumsum([0, *sizes[:-1]])] |= rng.random((rows, len(sizes))) < 0.9
    return mask


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e4])
def test_categorical(sizes, masked, greedy, scale):
    rng = np.random.default_rng(len(sizes))
    logits = (scale * rng.normal(size=(200, sum(sizes)))).astype(np.float32)
    mask = random_mask(rng, sizes, 200) if masked else None
    noise = rng.gumbel(size=logits.shape)
    action, logp, drawn, twin = categorical(sizes, logits, mask, noise, greedy=greedy)
    assert (action == drawn).all()
    assert np.allclose(logp, twin.log_prob(torch.from_numpy(drawn)), rtol=2e-6, atol=2e-6)


extreme = st.sampled_from([-HUGE, -1e30, -1e4, -0.0, 0.0, 1e-40, 1.0, 1.0000001, 1e4, 1e30, HUGE])


@settings(max_examples=300)
@given(st.data())
def test_categorical_at_the_edges_of_float32(data):
    sizes = data.draw(st.sampled_from(SIZES))
    total = sum(sizes)
    logits = np.array([data.draw(st.lists(extreme, min_size=total, max_size=total))], np.float32)
    mask = np.array([data.draw(st.lists(st.booleans(), min_size=total, max_size=total))])
    for part in np.split(mask, np.cumsum(sizes)[:-1], axis=1):
        part[:, 0] |= ~part.any()
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).gumbel(size=(1, total))
    for valid in (None, mask):
        action, logp, drawn, twin = categorical(sizes, logits, valid, noise)
        assert (action == drawn).all()
        assert np.isfinite(logp).all()
        assert np.allclose(logp, twin.log_prob(torch.from_numpy(drawn)), rtol=2e-6, atol=2e-6)
        assert torch.isfinite(twin.entropy()).all()


@pytest.mark.parametrize("sizes", SIZES)
def test_one_valid_action_is_certain(sizes):
    logits = np.random.default_rng(0).normal(size=(50, sum(sizes))).astype(np.float32) * 100
    mask = np.zeros((50, sum(sizes)), bool)
    last = np.cumsum(sizes) - 1
    mask[:, last] = True
    noise = np.random.default_rng(1).gumbel(size=logits.shape)
    action, logp, drawn, twin = categorical(sizes, logits, mask, noise)
    assert (action == drawn).all()
    assert (action == np.array(sizes) - 1).all()
    assert logp.tolist() == [0.0] * 50
    assert twin.log_prob(torch.from_numpy(drawn)).tolist() == [0.0] * 50
    assert twin.entropy().tolist() == [0.0] * 50


def test_where_nothing_is_valid_both_do_the_same():
    logits = np.array([[0.0, 5.0, 1.0]], np.float32)
    noise = np.zeros((1, 3))
    action, logp, drawn, twin = categorical((3,), logits, np.zeros((1, 3), bool), noise)
    assert action == drawn == 0
    assert logp == pytest.approx(twin.log_prob(torch.from_numpy(drawn)).numpy(), rel=1e-6)


@pytest.mark.parametrize("sizes", [(3,), (2, 3), (2, 2, 2, 2)])
def test_what_is_all_but_impossible_has_a_finite_logarithm(sizes):
    """The first choice is drawn, because none is valid, and by its logits it never would be."""
    total = sum(sizes)
    logits = np.full((2, total), HUGE, np.float32)
    logits[:, np.cumsum([0, *sizes[:-1]])] = -HUGE
    action, logp, drawn, twin = categorical(
        sizes, logits, np.zeros((2, total), bool), np.zeros((2, total))
    )
    assert not action.any()
    assert (action == drawn).all()
    assert logp.dtype == np.float32
    assert logp.tolist() == twin.log_prob(torch.from_numpy(drawn)).tolist() == [-HUGE] * 2


def test_5_invalid_choices_get_no_gradient_and_have_no_entropy():
    logits = torch.randn(20, 7, requires_grad=True)
    mask = torch.from_numpy(random_mask(np.random.default_rng(0), (3, 4), 20))
    mask[:, [0, 3]] = True
    twin = Categorical((3, 4), logits, mask)
    action = twin.draw(torch.zeros(20, 7))
    (twin.log_prob(action).sum() + twin.entropy().sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask].abs() > 0).any()
    alone = Categorical((2,), logits[:1, :2].detach())
    masked = Categorical((3,), logits[:1, :3].detach(), torch.tensor([[True, True, False]]))
    assert masked.entropy().item() == pytest.approx(alone.entropy().item())


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("log_std", [-3.0, 0.0, 2.0])
def test_gaussian(shape, log_std):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(100, *shape)).astype(np.float32)
    outputs = {"mean": mean, "log_std": np.full_like(mean, log_std)}
    size = math.prod(shape)
    box = ActionSpec("box", shape, (), (-2e3,) * size, (1e-3,) * size)
    noise = rng.normal(size=(100, size))
    for greedy in (False, True):
        action, extras = heads.act(
            GAUSSIAN,
            box,
            outputs,
            mask=None,
            greedy=np.full(100, greedy),
            epsilon=np.zeros(100),
            random=0.0,
            rng=Noise(normal=noise),
        )
        twin = distribution(
            GAUSSIAN, box, {n: torch.from_numpy(o) for n, o in outputs.items()}, None
        )
        assert isinstance(twin, Gaussian)
        same = torch.from_numpy((0.0 if greedy else 1.0) * noise.reshape(mean.shape))
        assert np.allclose(twin.draw(same), action, rtol=0, atol=1e-5)
        # an action travels as float32: so much of its noise is lost
        lost = 1e-6 * size * (1.0 + np.abs(mean).max() + 4 * math.exp(log_std)) / math.exp(log_std)
        logp = twin.log_prob(torch.from_numpy(action)).numpy()
        assert np.allclose(logp, extras["logp"], rtol=1e-6, atol=8 * lost)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("numbers", [1, 3])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_choices_and_numbers(sizes, numbers, greedy, masked):
    rng, total, rows = np.random.default_rng(0), sum(sizes), 200
    shape = (len(sizes) + numbers,)
    spec = ActionSpec("hybrid", shape, sizes, (-5.0,) * numbers, (2e3,) * numbers)
    outputs = {
        "logits": rng.normal(size=(rows, total)).astype(np.float32),
        "mean": rng.normal(size=(rows, numbers)).astype(np.float32),
        "log_std": rng.uniform(-3, 1, (rows, numbers)).astype(np.float32),
    }
    mask = random_mask(rng, sizes, rows) if masked else None
    gumbel, normal = rng.gumbel(size=(rows, total)), rng.normal(size=(rows, numbers))
    action, extras = heads.act(
        Head("hybrid"),
        spec,
        outputs,
        mask=mask,
        greedy=np.full(rows, greedy),
        epsilon=np.zeros(rows),
        random=0.0,
        rng=Noise(gumbel=gumbel, normal=normal),
    )
    tensors = {name: torch.from_numpy(output) for name, output in outputs.items()}
    twin = distribution(
        Head("hybrid"), spec, tensors, None if mask is None else torch.from_numpy(mask)
    )
    noise = np.concatenate((gumbel, normal), axis=1) * (not greedy)
    assert action.dtype == np.float32
    assert action.shape == (rows, *shape)
    np.testing.assert_allclose(twin.draw(torch.from_numpy(noise)).numpy(), action, atol=1e-5)
    ours = twin.log_prob(torch.from_numpy(action))
    np.testing.assert_allclose(ours.numpy(), extras["logp"], rtol=1e-5, atol=3e-4)
    if masked:
        return
    parts = tensors["logits"].split(list(sizes), 1)
    laws = [torch.distributions.Categorical(logits=part) for part in parts]
    normals = torch.distributions.Normal(tensors["mean"], tensors["log_std"].exp())
    chosen = torch.from_numpy(action[:, : len(sizes)])
    theirs = normals.log_prob(torch.from_numpy(action[:, len(sizes) :])).sum(1)
    theirs += sum(law.log_prob(chosen[:, i]) for i, law in enumerate(laws))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-5)
    entropy = sum(law.entropy() for law in laws) + normals.entropy().sum(1)
    np.testing.assert_allclose(twin.entropy().numpy(), entropy.numpy(), rtol=1e-5, atol=1e-5)


def test_gaussian_entropy_is_that_of_the_normal_law():
    mean, log_std = torch.zeros(1, 2), torch.tensor([[0.3, -1.0]])
    expected = sum(0.5 * math.log(2 * math.pi * math.e * math.exp(2 * x)) for x in (0.3, -1.0))
    assert Gaussian(mean, log_std).entropy().item() == pytest.approx(expected)
