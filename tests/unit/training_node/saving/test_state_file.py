"""A state file gives back exactly what was put in."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from soulsai.errors import CheckpointError
from soulsai.training_node.saving import state_file

DTYPES = ["<f4", "<f8", "<f2", "|u1", "|b1", "<i8", "<u8", "<i2", ">i4", "<c16"]


def there_and_back(value):
    return state_file.decode(b"".join(state_file.encode(value)))


def same(ours, theirs):
    """Whether two values are equal in type, dtype, shape and bits."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, torch.Tensor):
        alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return alike and (
            not ours.numel()
            or torch.equal(
                ours.contiguous().reshape(-1).view(torch.uint8),
                theirs.contiguous().reshape(-1).view(torch.uint8),
            )
        )
    if isinstance(ours, np.ndarray | np.generic):
        alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return alike and ours.tobytes() == theirs.tobytes()
    if isinstance(ours, dict):
        alike = list(ours) == list(theirs)
        return alike and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs or (ours != ours and theirs != theirs)


small_arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_side=4, min_side=0))
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=8)
    | small_arrays
    | small_arrays.filter(lambda a: a.dtype.str[0] != ">").map(lambda a: torch.tensor(a))
    | small_arrays.map(lambda a: a.reshape(-1)[0] if a.size else 1)
)
keys = st.text(max_size=4) | st.sampled_from(["$tensor", "$dict"]) | st.integers() | st.booleans()
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(states)
def test_everything_comes_back_as_it_was(value):
    assert same(there_and_back(value), value)


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in state_file.DTYPES.values()], ids=str)
def test_every_dtype_of_torch(dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    assert same(there_and_back(tensor), tensor)
    assert same(there_and_back(tensor[:, 1]), tensor[:, 1])  # not contiguous
    empty = torch.empty_strided((0,), (0,), dtype=dtype)
    assert same(there_and_back(empty), empty)
    assert same(there_and_back(tensor[0, 0]), tensor[0, 0])


def test_what_comes_back_is_ours_to_write():
    back = there_and_back({"a": np.zeros(3), "t": torch.zeros(3)})
    back["a"] += 1
    back["t"] += 1


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", np.array([None]), np.zeros(2, [("x", "f4")]), 1j]
)
def test_what_cannot_be_saved_is_said_at_once(value):
    with pytest.raises(CheckpointError, match="cannot be saved"):
        state_file.encode({"x": [value]})


def test_other_programs_can_read_the_arrays():
    state = {"layer": {"weight": torch.ones(2, 3, dtype=torch.bfloat16)}, "rows": np.arange(4.0)}
    tensors = safetensors.torch.load(b"".join(state_file.encode(state)))
    assert same(
        dict(sorted(tensors.items())),
        {"layer.weight": state["layer"]["weight"], "rows": torch.arange(4.0).double()},
    )


def test_arrays_of_the_same_name_are_kept_apart():
    state = {"a.b": np.zeros(1), "a": {"b": np.ones(1)}, "__metadata__": np.ones(2)}
    assert same(there_and_back(state), state)


def test_a_file_of_an_earlier_release_is_read():
    arrays = np.arange(3.0).tobytes() + bytes(40) + np.array([7, 8], "<i8").tobytes()
    tree = json.dumps(
        {
            "rows": {"$array": ["<f8", [3], 0]},
            "weight": {"$tensor": ["torch.int64", [2, 1], 64]},
            "count": {"$scalar": ["<f8", [], 8]},
            "steps": {"$dict": [[1, {"$tuple": [2, None]}]]},
        }
    ).encode()
    head = len(tree).to_bytes(8, "little") + tree
    data = head + bytes(-len(head) % 64) + arrays
    expected = {
        "rows": np.arange(3.0),
        "weight": torch.tensor([[7], [8]]),
        "count": np.float64(1.0),
        "steps": {1: (2, None)},
    }
    assert same(state_file.decode(data), expected)


@given(st.binary(max_size=64))
def test_nonsense_is_a_clear_error(data):
    try:
        state_file.decode(data)
    except CheckpointError:
        return


def test_generators_of_numpy_and_torch_go_on_where_they_were():
    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    ours.random(7)
    theirs.bit_generator.state = there_and_back(ours.bit_generator.state)
    assert theirs.random() == ours.random()
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator()
    torch.rand(7, generator=ours)
    theirs.set_state(there_and_back({"rng": ours.get_state()})["rng"])
    assert torch.rand(1, generator=theirs) == torch.rand(1, generator=ours)


def test_an_optimiser_goes_on_where_it_was():
    def step(net, adam):
        adam.zero_grad()
        net(torch.ones(1, 3)).sum().backward()
        adam.step()

    def made():
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1, amsgrad=True)

    ours, theirs = made(), made()
    for _ in range(3):
        step(*ours)
    for mine, other in zip(ours, theirs, strict=True):
        other.load_state_dict(there_and_back(mine.state_dict()))
    step(*ours)
    step(*theirs)
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert math.isfinite(ours[0].weight.sum().item())
