"""Networks that look at images: their shapes, their norm, and their pooling."""

import pytest
import torch
from torch import nn

from soulsai.algorithms.vision import (
    LAYERS,
    Impala,
    MaxPoolToGrid,
    SpectralConv,
    feature_count,
    smallest_side,
    vision_encoder,
)
from soulsai.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "planes", "features"),
    [
        ("auto", (4, 84, 84), 64 * 7 * 7),
        ("auto", (4, 10, 10), 16 * 8 * 8),
        ("auto", (4, 20, 20), 32 * 400),
        ("auto", (4, 10, 2), 32 * 20),
        ("minatar", (4, 10, 10), 16 * 8 * 8),
        ("nature", (4, 84, 84), 64 * 7 * 7),
        ("efficient", (4, 84, 84), 64 * 3 * 3),
        ("impala", (4, 84, 84), 64 * 6 * 6),
        ("impala", (3, 20, 30), 64 * 3 * 4),
        ("auto", (3, 128, 128), 64 * 12 * 12),
        ("auto", (3, 240, 320), 64 * 7 * 7),
        ("auto", (1, 210, 160), 64 * 7 * 7),
        ("auto", (4, 90, 160), 64 * 7 * 16),
        ("auto", (3, 20, 200), 32 * 7 * 7),
        ("small", (3, 129, 9), 32 * 7 * 7),
        ("minatar", (3, 240, 256), 16 * 7 * 7),
    ],
)
def test_how_many_features_an_image_has(kind, planes, features):
    look = vision_encoder(kind, planes)
    assert feature_count(look, planes) == features
    assert look(torch.rand(2, *planes)).shape == (2, features)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_image_that_is_too_small_is_told_with_the_least_size(kind):
    least = smallest_side(LAYERS[kind])
    assert feature_count(vision_encoder(kind, (3, least, least + 40)), (3, least, least + 40)) > 0
    if least > 1:
        with pytest.raises(ConfigError, match=f"{kind} reads images of {least} x {least} pixels"):
            vision_encoder(kind, (3, least + 40, least - 1))


def test_the_least_sizes():
    sizes = {kind: smallest_side(layers) for kind, layers in LAYERS.items()}
    assert sizes == {"nature": 36, "efficient": 25, "minatar": 3, "small": 1}


@pytest.mark.parametrize("shape", [(11, 11), (13, 7), (6, 5), (84, 9), (3, 40)])
def test_pooling_is_the_adaptive_one(shape):
    image = torch.randn(2, 3, *shape)
    size = tuple(min(6, length) for length in shape)
    expected = nn.AdaptiveMaxPool2d(size)(image)
    assert torch.equal(MaxPoolToGrid(*shape, 6)(image), expected)


def test_the_largest_singular_value_is_one_and_stays_so():
    conv = SpectralConv(8)
    x = torch.zeros(1, 8, 5, 5)
    for scale in (1.0, 7.0):
        with torch.no_grad():
            conv.conv.weight.mul_(scale)
            conv.conv.weight.add_(0.01 * torch.randn_like(conv.conv.weight))
            conv.conv.bias.zero_()
        for _ in range(200):
            conv.power_iteration()
        largest = torch.linalg.matrix_norm(conv.conv.weight.flatten(1), 2)
        x[0, :, 2, 2] = torch.randn(8)
        with torch.no_grad():
            expected = nn.functional.conv2d(x, conv.conv.weight / largest, padding=1)
            assert torch.allclose(conv(x), expected, atol=1e-5)


def test_the_gradient_goes_through_the_norm():
    conv = SpectralConv(4).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)

    def out(weight):
        return torch.func.functional_call(conv, {"conv.weight": weight}, (x,))

    weight = conv.conv.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(out, (weight,))


def test_a_forward_pass_changes_nothing():
    look = Impala((4, 20, 20), widen=1)
    before = {name: tensor.clone() for name, tensor in look.state_dict().items()}
    look(torch.rand(2, 4, 20, 20))
    assert all(torch.equal(tensor, before[name]) for name, tensor in look.state_dict().items())
