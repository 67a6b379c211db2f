"""Networks: what they see of each kind of leaf, and that their parts fit."""

import numpy as np
import pytest
import torch

from soulsai.algorithms.compile.flat import FlatAdam, Gradient, flatten
from soulsai.algorithms.networks import DenseLayers, Encoder, Observation, QuantileHead
from soulsai.algorithms.normalize import ObservationNormalizer
from soulsai.types import Leaf, zeros

LEAVES = {
    "place": Leaf((3,), "<f4"),
    "angle": Leaf((), "<f8"),
    "life": Leaf((2,), "<i4", low=0, high=200),
    "weapon": Leaf((), "|u1", categories=5),
    "flags": Leaf((4,), "|b1"),
    "ram": Leaf((6,), "|u1"),
}


def tensors(leaves, batch=3):
    return {name: torch.from_numpy(zeros(leaf, batch)) for name, leaf in leaves.items()}


def test_each_kind_of_leaf_is_seen_in_its_own_way():
    obs = tensors(LEAVES, 1)
    obs["place"][:] = torch.tensor([1.0, 2.0, 1e9])
    obs["angle"][:] = 4.0
    obs["life"][:] = torch.tensor([50, 200])
    obs["weapon"][:] = 3
    obs["flags"][:] = torch.tensor([True, False, True, False])
    obs["ram"][:] = 255
    observation = Observation(LEAVES, normalize=True)
    observation.mean.copy_(torch.tensor([1.0, 0.0, 0.0, 2.0]))
    observation.inv_std.copy_(torch.tensor([1.0, 2.0, 1.0, 0.5]))
    (vector,) = observation.parts(obs)
    expected = [0, 4, 10, 1, 0.25, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, *[1] * 6]
    assert vector[0].tolist() == pytest.approx(expected)
    assert vector.dtype == torch.float32
    assert observation.width == len(expected)


def test_the_statistics_are_the_only_extra_state():
    assert set(Observation(LEAVES, normalize=True).state_dict()) == {"mean", "inv_std"}
    assert not Observation(LEAVES, normalize=False).state_dict()
    assert not Observation({"ram": LEAVES["ram"]}, normalize=True).state_dict()


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf((84, 84, 4), "|u1"),
        Leaf((4, 84, 84), "|u1"),
        Leaf((10, 10, 6), "|b1"),
        Leaf((7, 7, 3), "|u1"),
    ],
)
def test_images_of_either_layout_and_any_size(leaf):
    leaves = {"camera": leaf, "place": LEAVES["place"]}
    observation = Observation(leaves, normalize=True)
    encoder = Encoder(observation, (32, 16), layer_norm=True)
    obs = tensors(leaves)
    obs["camera"][0] = True if leaf.dtype == "|b1" else 255
    vector, image = observation.parts(obs)
    assert vector.shape == (3, 3)
    assert image.shape[1] == min(leaf.shape[0], leaf.shape[2])
    assert image[0].min() == image[0].max() == 1.0
    assert encoder.features([vector, image]).shape == (3, 16)


@pytest.mark.parametrize(
    ("leaf", "channels"),
    [
        (Leaf((36, 40), "|u1", 0, 0.0, 255.0), 1),
        (Leaf((3, 36, 40), "<f4", 0, -1.0, 3.0), 3),
        (Leaf((36, 40, 3), "<f4", 0, 0.0, 255.0), 3),
        (Leaf((36, 40), "<f8", 0, 0.0, 1.0), 1),
        (Leaf((36, 40), "<u2", 0, 0.0, 65535.0), 1),
        (Leaf((4, 36, 40, 3), "|u1", 0, 0.0, 255.0), 12),
        (Leaf((2, 3, 36, 40), "|u1", 0, 0.0, 255.0), 6),
    ],
)
def test_pictures_without_channels_of_numbers_and_with_frames(leaf, channels):
    observation = Observation({"camera": leaf}, normalize=True)
    rng = np.random.default_rng(0)
    drawn = rng.uniform(leaf.low, leaf.high, (2, *leaf.shape)).astype(leaf.dtype)
    drawn[0] = leaf.high
    (image,) = observation.parts({"camera": torch.from_numpy(drawn)})
    assert image.shape == (2, channels, 36, 40)
    assert image[0].numpy() == pytest.approx(1.0)
    # The same by Einstein's notation: frames and channels become one axis, before height and width
    names = {2: "bhw", 3: "bhwc" if leaf.shape[-1] == 3 else "bchw"}
    names[4] = "bfhwc" if leaf.shape[-1] == 3 else "bfchw"
    order = [name for name in "bfchw" if name in names[len(leaf.shape)]]
    moved = np.einsum(f"{names[len(leaf.shape)]}->{''.join(order)}", drawn.astype("f8"))
    scaled = (moved - leaf.low) / (leaf.high - leaf.low)
    np.testing.assert_allclose(image.numpy(), scaled.reshape(image.shape), atol=1e-6)
    assert observation.size == 0


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf((36, 40, 3), "<f4"),  # without bounds
        Leaf((30, 2), "<f4", 0, 0.0, 1.0),  # a table
        Leaf((35, 40), "|u1", 0, 0.0, 255.0),
        Leaf((36, 40), "|u1", categories=9),
    ],
)
def test_tables_and_maps_of_categories_are_no_pictures(leaf):
    assert not Observation({"table": leaf}, normalize=True).images


@pytest.mark.parametrize(
    ("leaf", "normalised"),
    [
        (Leaf((2,), "<i8", 0, -(2.0**63), 2.0**63), True),
        (Leaf((2,), "<i4", 0, -(2.0**31), 2.0**31 - 1), True),
        (Leaf((2,), "<i2", 0, -(2.0**15), 2.0**15 - 1), True),
        (Leaf((2,), "<i8"), True),
        (Leaf((2,), "<u4", 0, 0.0, 1e9), True),
        (Leaf((2,), "<i8", 0, 0.0, 200.0), False),
        (Leaf((2,), "|i1", 0, -128.0, 127.0), False),
    ],
)
def test_integers_without_near_bounds_are_normalised_as_floats_are(leaf, normalised):
    observation = Observation({"score": leaf}, normalize=True)
    assert observation.size == 2 * normalised
    if normalised:
        rows = np.tile(np.array([[5, 100]], leaf.dtype), (1000, 1))
        rows[::2] += np.array([2, 20], leaf.dtype)
        normalizer = ObservationNormalizer(observation)
        normalizer.update({"score": rows})
        (vector,) = observation.parts({"score": torch.from_numpy(rows)})
        assert vector.numpy() == pytest.approx(np.tile([[1.0, 1.0], [-1.0, -1.0]], (500, 1)))


def test_a_picture_alone_is_enough():
    observation = Observation({"camera": Leaf((10, 10, 2), "|b1")}, normalize=True)
    encoder = Encoder(observation, (8,), layer_norm=False)
    assert encoder.features(observation.parts(tensors(observation.leaves))).shape == (3, 8)


def test_an_encoder_without_layers_hands_the_vector_on():
    observation = Observation({"place": LEAVES["place"]}, normalize=False)
    encoder = Encoder(observation, (), layer_norm=True)
    assert encoder.width == 3
    obs = {"place": torch.ones(2, 3)}
    assert encoder.features(observation.parts(obs)).tolist() == torch.ones(2, 3).tolist()


def test_layers_are_linear_norm_relu():
    layers = DenseLayers(5, (7, 6), layer_norm=True)
    modules = [
        m for pair in zip(layers.linear, layers.norm, strict=True) for m in (*pair, torch.relu)
    ]
    x = expected = torch.randn(4, 5)
    for module in modules:
        expected = module(expected)
    assert torch.equal(layers.features(x), expected)


def test_dueling_quantiles_are_the_value_plus_centred_advantages():
    head = QuantileHead(8, (3,), 5, dueling=True)
    features = torch.randn(2, 8)
    quantiles = head.quantiles(features)
    assert quantiles.shape == (2, 3, 5)
    value = head.out(features).view(2, 4, 5)[:, 0]
    assert torch.allclose(quantiles.mean(1), value, atol=1e-6)
    assert QuantileHead(8, (3,), 5, dueling=False).quantiles(features).shape == (2, 3, 5)


def test_one_vector_holds_all_parameters_and_moving_it_moves_them():
    layers = DenseLayers(4, (3,), layer_norm=True)
    before = [p.clone() for p in layers.parameters()]
    flat = flatten(layers)
    assert all(torch.equal(a, b) for a, b in zip(before, layers.parameters(), strict=True))
    flat.zero_()
    assert all(not p.any() for p in layers.parameters())
    layers.load_state_dict({n: torch.ones_like(p) for n, p in layers.state_dict().items()})
    assert (flat == 1).all()


def test_flat_adam_is_adam():
    torch.manual_seed(0)
    ours, theirs = (DenseLayers(4, (8, 2), layer_norm=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    flat = flatten(ours)
    mine, gradient = FlatAdam(flat, lr=0.01, eps=1e-5), Gradient(ours, flat)
    other = torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-5)
    for _ in range(20):
        x = torch.randn(16, 4)
        out = ours.features(x)
        mine.step(gradient.of(out, 2 * (out.detach() - x[:, :2])))
        other.zero_grad()
        (theirs.features(x) - x[:, :2]).square().sum().backward()
        other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_adam_goes_on_where_it_was_saved():
    first, second = (FlatAdam(torch.zeros(3), lr=0.1, eps=1e-8) for _ in range(2))
    first.step(torch.tensor([1.0, -2.0, 3.0]))
    state = {name: value.numpy().copy() for name, value in first.state_dict().items()}
    second.load_state_dict(state)
    assert all(torch.equal(first.state_dict()[n], second.state_dict()[n]) for n in state)
