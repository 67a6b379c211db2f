"""The check of an ONNX graph from a stranger before ONNX Runtime reads it.

A graph may name files as the place of its tensors, and nodes of other domains may open files too.
The check reads the protobuf encoding (onnx.proto, field numbers below) without a package for it,
and refuses every construct that a policy of SoulsAI does not need.
"""

from collections.abc import Collection, Iterator

PLACE = "weights"  # the name of a file that a weight may have; no file is read for it
MOST_NODES = 10_000
MOST_BYTES = 16_000_000  # of a graph without weights
MOST_FILE_BYTES = 1_000_000_000  # of a ``policy.onnx``
_DEEPEST = 4  # level of a graph inside a graph

Field = tuple[int, memoryview | int | None]


class _Check:
    """The state of one check."""

    def __init__(self, external: Collection[str]) -> None:
        self._external = external
        self._nodes = 0

    def model(self, data: memoryview) -> None:
        """Check a ModelProto."""
        for number, value in _fields(data):
            if number == 7:
                self.graph(_message(value), 0)
            elif number in (20, 25):
                raise ValueError("the graph has functions or training information")

    def graph(self, data: memoryview, level: int) -> None:
        """Check a GraphProto at a level of nesting."""
        if level > _DEEPEST:
            raise ValueError("the graph is nested too deeply")
        for number, value in _fields(data):
            if number == 1:
                self.node(_message(value), level)
            elif number == 5:
                self.tensor(_message(value), initializer=level == 0)
            elif number == 15:
                raise ValueError("the graph has sparse tensors")

    def node(self, data: memoryview, level: int) -> None:
        """Check a NodeProto."""
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise ValueError(f"the graph has more than {MOST_NODES} nodes")
        for number, value in _fields(data):
            if number == 7 and bytes(_message(value)) not in (b"", b"ai.onnx"):
                raise ValueError(f"the graph has a node of the domain {bytes(_message(value))!r}")
            if number == 5:
                self.attribute(_message(value), level)

    def attribute(self, data: memoryview, level: int) -> None:
        """Check an AttributeProto."""
        for number, value in _fields(data):
            if number in (5, 10):
                self.tensor(_message(value), initializer=False)
            elif number in (6, 11):
                self.graph(_message(value), level + 1)
            elif number in (22, 23):
                raise ValueError("the graph has sparse tensors")

    def tensor(self, data: memoryview, *, initializer: bool) -> None:
        """Check a TensorProto; only an initializer may have a place outside the graph."""
        names: list[str] = []
        places: list[memoryview] = []
        is_external = False
        for number, value in _fields(data):
            if number == 8:
                names.append(bytes(_message(value)).decode())
            elif number == 13:
                places.append(_message(value))
            elif number == 14:
                is_external |= value != 0
        if not is_external and not places:
            return
        if not initializer or len(names) != 1 or names[0] not in self._external:
            raise ValueError("the graph names a file for a tensor that is no weight")
        entries = [_entry(place) for place in places]
        if [value for key, value in entries if key == "location"] != [PLACE]:
            raise ValueError("the graph names another file as the place of its weights")
        if unknown := {key for key, _ in entries} - {"location", "offset", "length"}:
            raise ValueError(f"the graph gives its weights {unknown}")


def check_graph(graph: bytes, external: Collection[str] = (), most_bytes: int = MOST_BYTES) -> None:
    """Refuse a graph that could read files, or that is too large.

    Args:
        graph: A serialised ``ModelProto``.
        external: The weights, which are handed over as arrays; only these may have a place
            outside the graph, which must be ``PLACE``.
        most_bytes: The largest graph.

    Raises:
        ValueError: The graph is refused.
    """
    if len(graph) > most_bytes:
        raise ValueError(f"the graph has {len(graph)} bytes, more than {most_bytes}")
    if graph[4:8] == b"ORTM":
        raise ValueError("the graph is of the format of ONNX Runtime, and not of ONNX")
    _Check(external).model(memoryview(graph))


def _entry(data: memoryview) -> tuple[str, str]:
    """Return the key and the value of a StringStringEntryProto."""
    fields = [(number, bytes(_message(value)).decode()) for number, value in _fields(data)]
    if sorted(number for number, _ in fields) != [1, 2]:
        raise ValueError("the graph has a malformed entry")
    texts = dict(fields)
    return texts[1], texts[2]


def _message(value: memoryview | int | None) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("the graph has a field of another kind")  # noqa: TRY004
    return value


def _fields(data: memoryview) -> Iterator[Field]:
    """Yield the number and the value of each field; the bytes of numbers of fixed size are none."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, 5)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            integer, at = _varint(data, at, 10)
            yield number, integer
        elif kind == 2:
            size, at = _varint(data, at, 5)
            if at + size > len(data):
                raise ValueError("the graph is cut off")
            yield number, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            yield number, None
        else:
            raise ValueError("the graph has a field of an unknown kind")
        if at > len(data) or not 0 < number < 2**29:
            raise ValueError("the graph is cut off")


def _varint(data: memoryview, at: int, longest: int) -> tuple[int, int]:
    """Return a number of at most so many bytes, and the place after it."""
    value = 0
    for position in range(longest):
        if at + position >= len(data):
            break
        byte = data[at + position]
        value |= (byte & 127) << (7 * position)
        if byte < 128:
            return value, at + position + 1
    raise ValueError("the graph is cut off")
