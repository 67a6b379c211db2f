"""Ranks over ``torch.distributed``, as ``torchrun`` starts them: gloo, and NCCL between GPUs.

Whoever dies closes its connections, which the others notice in the middle of whatever they do
together; whoever hangs is waited for no longer than ``PATIENCE``. Then all end: something outside
starts the whole group again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from soulsai.algorithms import meeting
from soulsai.algorithms.base import Tensors
from soulsai.algorithms.sharing import Weights
from soulsai.errors import SoulsAIError

PATIENCE = timedelta(seconds=180)  # a checkpoint may keep the first rank as long
BEAT_SECONDS = 1.0  # of silence, after which the first rank says that it is there
FIRST_BYTES = 8192  # of a message, that are sent at once
END = "end"
PLACE = "SOULSAI_RANKS"  # the variable that names the file by which the first rank is found

log = logging.getLogger(__name__)


class RankLost(SoulsAIError):
    """Another rank is gone, or hangs; learning goes on when the group is started again."""


class Column(Struct, frozen=True, array_like=True):
    """A tensor as it travels."""

    dtype: str
    shape: tuple[int, ...]
    data: bytearray


class Message(Struct, frozen=True, array_like=True):
    """What the first rank wants of another one."""

    step: str
    columns: dict[str, Column]


class Heard(NamedTuple):
    """What the first rank wants, and by which tensors."""

    step: str
    columns: Tensors


class Group:
    """The ranks, as one of them sees the others; see ``sharing.Ranks``."""

    def __init__(
        self,
        stopped: Callable[[], bool],
        url: str,
        rank: int,
        size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait until all ranks are there; see ``joined``."""
        self._clock = clock
        self._told = clock()
        deadline = clock() + PATIENCE.total_seconds()
        with self._together():
            store, self.rank, self.size = next(rendezvous(url, rank, size, timeout=PATIENCE))
            word = meeting.agree(
                store, self.rank, self.size, over=lambda: stopped() or clock() > deadline
            )
            if not word:
                raise RankLost(f"not all of {self.size} ranks came; start the group again")
            nccl = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if nccl else "gloo",
                store=PrefixStore(word, store),
                rank=self.rank,
                world_size=self.size,
                timeout=PATIENCE,
            )
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Message)
        self._first = torch.empty(FIRST_BYTES, dtype=torch.uint8)

    def __repr__(self) -> str:
        return f"<Group [rank {self.rank} of {self.size}]>"

    def average(
        self, *tensors: Tensor, weights: Weights = (), finite: Tensor | None = None
    ) -> None:
        """Replace each tensor by its weighted mean over all ranks, in one message."""
        parts = [tensor.reshape(-1) for tensor in tensors]
        own = torch.stack([parts[0].new_tensor(1.0).mul(w) for w in weights or [1.0] * len(parts)])
        if weights:
            parts = [part * weight for part, weight in zip(parts, own, strict=True)]
        flat = torch.cat([*parts, own])
        if finite is not None and not finite.isfinite().all():
            flat.fill_(torch.nan)
        with self._together():
            dist.all_reduce(flat)
        *sums, totals = flat.split([*map(len, parts), len(own)])
        for tensor, summed, total in zip(tensors, sums, totals, strict=True):
            tensor.copy_((summed / total).view_as(tensor))

    def gather(self, *columns: Tensor) -> list[Tensor]:
        """Return columns [b, ...] of all ranks on the first one, in one message."""
        rows = [column.reshape(len(column), -1) for column in columns]
        ours = torch.cat(rows, 1)
        parts = [torch.empty_like(ours) for _ in range(self.size)] if self.rank == 0 else None
        with self._together():
            dist.gather(ours, parts, dst=0)
        if parts is None:
            return list(columns)
        widths = [row.shape[1] for row in rows]
        found = torch.cat(parts).split(widths, 1)
        return [
            part.reshape(-1, *column.shape[1:]) for part, column in zip(found, columns, strict=True)
        ]

    def tell(self, step: str, cut: Tensors, whole: Tensors) -> Tensors:
        """Let the others do a step; return our part of what is ``cut``."""
        cuts = {name: tensor.tensor_split(self.size) for name, tensor in cut.items()}
        common = {name: _column(tensor) for name, tensor in whole.items()}
        messages = []
        for rank in range(1, self.size):
            parts = {name: _column(pieces[rank]) for name, pieces in cuts.items()}
            messages.append(self._encoder.encode(Message(step, parts | common)))
        self._send(messages)
        return {name: pieces[0] for name, pieces in cuts.items()}

    def beat(self) -> None:
        """Say that the first rank is there, if it has been silent for a while."""
        if self._clock() - self._told >= BEAT_SECONDS:
            self._send([b""] * (self.size - 1))

    def heard(self) -> Iterator[Heard]:
        """Yield what the first rank wants, until it wants no more."""
        while True:
            message = self._receive()
            if message is None:
                continue
            if message.step == END:
                return
            columns = {name: _tensor(column) for name, column in message.columns.items()}
            yield Heard(message.step, columns)

    def close(self) -> None:
        """Let the others end, too, if they are still there; what hangs is not waited for."""
        if self.rank == 0:
            with suppress(RankLost):
                self.tell(END, {}, {})
        with suppress(RuntimeError):
            dist.destroy_process_group()

    def _send(self, messages: Sequence[bytes]) -> None:
        """Send a message to each of the others: its length and its beginning, and then the rest."""
        self._told = self._clock()
        with self._together():
            for rank, message in enumerate(messages, 1):
                framed = len(message).to_bytes(8, "little") + message
                padded = bytearray(framed.ljust(FIRST_BYTES, b"\0"))
                data = torch.frombuffer(padded, dtype=torch.uint8)
                dist.send(data[:FIRST_BYTES], rank)
                if len(data) > FIRST_BYTES:
                    dist.send(data[FIRST_BYTES:], rank)

    def _receive(self) -> Message | None:
        """Wait for a message; ``None`` says only that the first rank is there."""
        with self._together():
            dist.recv(self._first, 0)
            begin = bytes(self._first.numpy())
            size = int.from_bytes(begin[:8], "little")
            if 8 + size > FIRST_BYTES:
                rest = torch.empty(8 + size - FIRST_BYTES, dtype=torch.uint8)
                dist.recv(rest, 0)
                begin += bytes(rest.numpy())
        return self._decoder.decode(begin[8 : 8 + size]) if size else None

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch has no narrower one for what connections do
            said = str(error).splitlines()[0]
            raise RankLost(
                f"another rank is gone or hangs; start the group again: {said}"
            ) from error


@contextmanager
def joined(
    stopped: Callable[[], bool], url: str = "env://", *, rank: int = -1, size: int = -1
) -> Iterator[Group]:
    """Join the other ranks, as the variables of ``torchrun`` or a URL say; at the end, let go."""
    group = Group(stopped, url, rank, size)
    try:
        yield group
    finally:
        group.close()


def _column(tensor: Tensor) -> Column:
    array = tensor.detach().cpu().numpy()
    return Column(array.dtype.str, array.shape, bytearray(array.tobytes()))


def _tensor(column: Column) -> Tensor:
    array = np.frombuffer(column.data, column.dtype).reshape(column.shape)
    return torch.from_numpy(array)
