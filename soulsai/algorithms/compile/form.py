"""Compiled updates: functions of tensors, traced and compiled ahead of time to machine code.

One call does several updates.

A package is made in another process (``python -m soulsai.algorithms.compile.job``), so that tracing
and the C++ compiler do not delay learning, and is loaded between two updates.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import views
from soulsai.errors import SoulsAIError

OPTIONS = {
    # A precompiled header of 150 MB takes longer than it saves, and stays in the temporary folder.
    "aot_inductor.precompile_headers": False,
    # The processor lists its vector instructions; to test each takes a third of the whole time.
    "cpp.vec_isa_ok": True,
}
SHORT = 16  # numbers of a result that is computed once for all that reads it
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # error of float32 after one update

Function = Callable[..., Sequence[Tensor]]
Package = Callable[..., Sequence[Tensor]]


class NotCompilable(SoulsAIError):
    """An algorithm has no compiled form with these settings, for the reason in the message."""


class Form(NamedTuple):
    """Updates of a state, done one after the other in one call.

    The call takes the state, which it changes, the shared inputs, the number of updates, and the
    inputs of each; it returns the results of each.
    """

    step: Function  # of state, shared and one update's inputs: the state after it, and its results
    state: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]  # inputs that are the same for all updates of a call
    each: tuple[Tensor, ...]  # [K, ...] inputs of the K updates that a call does at most

    @property
    def most(self) -> int:
        """The most updates of a call."""
        return len(self.each[0])

    @property
    def examples(self) -> tuple[Tensor, ...]:
        """Example arguments of a call."""
        return (
            *self.state,
            *self.shared,
            torch.tensor(self.most, device=self.each[0].device),
            *self.each,
        )

    def parts(
        self, tensors: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor, Sequence[Tensor]]:
        """Split the arguments of a call into state, shared, the number of updates, and each."""
        first = len(self.state)
        last = first + len(self.shared)
        return tensors[:first], tensors[first:last], tensors[last], tensors[last + 1 :]

    def function(self, *tensors: Tensor) -> list[Tensor]:
        """Do the updates of a call without a compiler."""
        state, shared, count, each = self.parts(tensors)
        now, results = state, []
        for index in range(int(count)):
            after = self.step(*now, *shared, *(inputs[index] for inputs in each))
            now = after[: len(state)]
            results.append(after[len(state) :])
        for old, new in zip(state, now, strict=True):
            old.copy_(new)
        return [torch.stack(rows) for rows in zip(*results, strict=True)]


@runtime_checkable
class Compilable(Protocol):
    """An algorithm that can run compiled updates."""

    @property
    def hidden_product(self) -> tuple[int, int]:
        """The rows of a batch, and the width of the widest hidden layer."""
        ...

    def forms(self) -> dict[str, Form]:
        """Return the forms to compile by name, or raise ``NotCompilable``."""
        ...

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Run these packages of ``forms`` from now on."""
        ...


def compile_form(form: Form, path: Path) -> None:
    """Write a package to ``path``; raise ``NotCompilable`` if its results differ."""
    from torch.fx.experimental.proxy_tensor import make_fx  # what only the compiler needs

    graph = make_fx(traced(form))(*_copies(form.examples))
    program = torch.export.export(graph, _copies(form.examples))
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs=OPTIONS
    )
    compare(form, load(path))


def traced(form: Form) -> Function:
    """Return the updates of a call as one function, with a loop that can be traced.

    A compiler takes scalars for cheap, and computes them anew for every few weights. As a result of
    the loop's body they are computed once, so it has all short results of an update twice.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    one = _copies((*form.state, *form.shared, *(inputs[0] for inputs in form.each)))
    step = make_fx(form.step)(*one)  # its gradients become plain operators
    results = step(*one)[len(form.state) :]
    short = [result for result in results if result.numel() <= SHORT]
    last = len(form.state)
    first = last + len(results)  # of the short ones
    fixed = first + len(short)

    def goes_on(index: Tensor, *tensors: Tensor) -> Tensor:
        return index < tensors[fixed + len(form.shared)]

    def body(index: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        state, shared, _, each = form.parts((*tensors[:last], *tensors[fixed:]))
        row = index.view(1)
        after = step(*state, *shared, *(inputs.index_select(0, row)[0] for inputs in each))
        new = after[last:]
        rows = [
            into.index_copy(0, row, one[None])
            for into, one in zip(tensors[last:first], new, strict=True)
        ]
        return (index + 1, *after[:last], *rows, *(one for one in new if one.numel() <= SHORT))

    def function(*tensors: Tensor) -> list[Tensor]:
        state, shared, count, each = form.parts(tensors)
        if form.most == 1:
            after = step(*state, *shared, *(inputs[0] for inputs in each))
            rows = [result[None] for result in after[last:]]
        else:
            empty = [result.new_zeros((form.most, *result.shape)) for result in results]
            zeros = map(torch.zeros_like, short)
            carried = (count.new_zeros(()), *state, *empty, *zeros)
            _, *after = torch.ops.higher_order.while_loop(
                goes_on, body, carried, (*shared, count, *each)
            )
            rows = after[last:first]
        for old, new in zip(state, after, strict=False):
            old.copy_(new)
        return rows

    return function


def load(path: Path) -> Package:
    """Return a package as a function, which changes the same tensors as the form's function.

    The result of ``torch._inductor.aoti_load_package`` searches for a C++ compiler for seconds, and
    parses the nesting of its arguments in every call; this one does neither.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *tensors: loader.boxed_run(list(tensors))


def compare(form: Form, package: Package) -> None:
    """Raise ``NotCompilable`` unless results and changes are equal within the error of float32."""
    ours, theirs = _copies(form.examples), _copies(form.examples)
    answers = [(*form.function(*ours), *ours), (*package(*theirs), *theirs)]
    for place, (a, b) in enumerate(zip(*answers, strict=True)):
        if not torch.allclose(a.double(), b.double(), rtol=RELATIVE, atol=ABSOLUTE):
            off = float((a.double() - b.double()).abs().max())
            raise NotCompilable(f"compiled, result {place} is off by {off:.2g}")


class Functional:
    """A method of a module as a function of its parameters, given as one vector."""

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        self._shell = _Shell(module, method)
        self._names = [name for name, _ in self._shell.named_parameters()]
        self._module = module
        self.buffers = tuple(buffer for _, buffer in module.named_buffers())
        self._buffer_names = [name for name, _ in self._shell.named_buffers()]

    def at(self, flat: Tensor, buffers: Sequence[Tensor]) -> Callable[..., Any]:
        """Return the method with these parameters and buffers."""
        values: Tensors = dict(zip(self._names, views(flat, self._module), strict=True))
        values |= dict(zip(self._buffer_names, buffers, strict=True))
        return lambda *inputs: torch.func.functional_call(self._shell, values, inputs)


class _Shell(nn.Module):
    """A module with the method as its forward pass, for ``functional_call``."""

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Any) -> Any:
        return self.method(self.module, *inputs)


def examples(columns: Tensors, batch: int) -> Tensors:
    """Return example rows: ``columns`` [0, ...] extended to ``batch`` rows."""
    rng = torch.Generator().manual_seed(0)
    rows = {}
    for name, column in columns.items():
        shape = (batch, *column.shape[1:])
        if column.dtype.is_floating_point:
            drawn = torch.rand(shape, generator=rng)
            rows[name] = drawn.to(column)
        else:
            rows[name] = torch.ones(shape).to(column) * (column.dtype == torch.bool)
    return rows


def padded(rows: Tensor, most: int) -> Tensor:
    """Return contiguous rows [count, ...], extended to ``most`` by any numbers."""
    count, *shape = rows.shape  # ``len`` of a tensor takes ten times as long
    if count == most:
        return rows.contiguous()
    longer = rows.new_zeros((most, *shape))
    longer[:count] = rows
    return longer


def _copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone() for tensor in tensors)
