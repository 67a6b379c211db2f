"""The faster product is the same product, forwards and backwards, or is not used."""

import copy

import pytest
import torch
import torch.nn.functional as F

from soulsai.algorithms.compile import dense


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def every_size(monkeypatch):
    """Let even the smallest product take the fast path, where there is one."""
    monkeypatch.setattr(dense, "LEAST_WORK", 1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (256, 28, 256), (256, 256, 25)])
def test_values_and_gradients_are_those_of_torch(shape, every_size):
    batch, inputs, outputs = shape
    x, weight, bias = random(batch, inputs), random(outputs, inputs, seed=1), random(outputs)
    pull = random(batch, outputs, seed=2)

    def results(product):
        own = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = product(*own)
        return [y.detach(), *torch.autograd.grad(y, own, pull)]

    got, wanted = results(dense.linear), results(F.linear)
    with dense.traced_products("float32"):
        traced = results(dense.linear)
    for ours, ours_traced, theirs in zip(got, traced, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours_traced, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_nobody_asks_for_are_not_computed(every_size):
    x, weight, bias = random(4, 3).requires_grad_(), random(2, 3), random(2)
    y = dense.linear(x, weight, bias)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, weight.sum(0).expand(4, 3))


def test_without_onednn_nothing_is_missing(every_size, monkeypatch):
    x, weight, bias = random(4, 3), random(2, 3, seed=1), random(2)
    fast = dense.linear(x, weight, bias)
    monkeypatch.setattr(dense, "_EXACT", F.linear)
    monkeypatch.setattr(dense, "_HIDDEN", F.linear)
    torch.testing.assert_close(dense.linear(x, weight, bias), fast)
    assert torch.equal(dense.linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("odd", [torch.zeros(2, 4, 3), torch.zeros(4, 3, dtype=torch.float64)])
def test_what_is_not_float32_in_two_dimensions_goes_to_torch(odd, every_size):
    weight, bias = torch.ones(2, 3, dtype=odd.dtype), torch.ones(2, dtype=odd.dtype)
    assert torch.equal(dense.linear(odd, weight, bias), F.linear(odd, weight, bias))


def test_hidden_layers_may_multiply_in_bfloat16_and_output_layers_never_do(every_size):
    x, weight, bias = random(64, 32), random(16, 32, seed=1), random(16)
    wanted = F.linear(x.double(), weight.double(), bias.double())

    def error(*, exact):
        own = x.clone().requires_grad_()
        y = dense.linear(own, weight, bias, exact=exact)
        (gradient,) = torch.autograd.grad(y, own, torch.ones_like(y))
        off = (gradient.double() - weight.double().sum(0)).abs().max()
        return max(float((y.detach().double() - wanted).abs().max()), float(off))

    assert error(exact=False) < 1e-4
    with dense.traced_products("bfloat16"):
        assert 1e-4 < error(exact=False) < 0.1  # eight bits of a sum of 32 products
        assert error(exact=True) < 1e-4
    assert error(exact=False) < 1e-4


def test_the_format_is_that_which_the_machine_multiplies_faster_in(every_size):
    def ticks(*costs):
        """Return a clock by which the two products cost so much, in turns."""
        now, turn = 0.0, 0
        while True:
            yield now
            now += costs[turn % 2]
            yield now
            turn += 1

    def chosen(*costs):
        return dense.fastest_format(4, 4, ticks(*costs).__next__)

    assert chosen(1.0, 0.5) == "bfloat16"
    assert chosen(1.0, 0.9) == "float32"
    assert chosen(0.5, 1.0) == "float32"


def test_layers_too_small_to_gain_stay_in_float32():
    assert dense.fastest_format(1, 1) == "float32"


def test_a_tower_is_its_layers_in_order():
    torch.manual_seed(0)
    tower = dense.Tower(3, (5, 4), 2, layer_norm=True)
    x = random(6, 3)
    hidden = x
    for layer, norm in zip(tower.linear, tower.norm, strict=True):
        hidden = norm(layer(hidden)).relu()
    torch.testing.assert_close(tower(x), tower.out(hidden))


def test_a_copy_of_a_tower_has_its_own_layers():
    tower = dense.Tower(3, (5,), 2)
    twin = copy.deepcopy(tower)
    with torch.no_grad():
        twin.linear[0].weight.zero_()
    x = random(6, 3)
    assert not torch.equal(tower(x), twin(x))
    assert torch.equal(twin(x), twin(2 * x))


@pytest.mark.parametrize(
    ("texts", "own"),
    [
        ([b"x86_64", b"vendor_id\t: GenuineIntel", b"flags\t\t: fpu avx2 avx512f"], True),
        ([b"x86_64", b"vendor_id\t: GenuineIntel", b"flags\t\t: fpu avx2"], True),
        ([b"x86_64", b"vendor_id\t: AuthenticAMD", b"flags\t\t: fpu avx2"], True),
        ([b"x86_64", b"vendor_id\t: AuthenticAMD", b"flags\t\t: fpu avx2 avx512f"], False),
    ],
)
def test_the_library_is_that_which_uses_all_instructions_of_the_processor(texts, own, monkeypatch):
    monkeypatch.setattr(dense, "processor", lambda: iter(texts))
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert (dense._fastest() is F.linear) == own
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert dense._fastest() is not F.linear
