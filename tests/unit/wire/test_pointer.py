"""The pointer to the newest version, as clients of other versions of this package read it."""

import msgspec

from soulsai.types import Pointer


def test_exploration_keeps_its_name_on_the_wire() -> None:
    pointer = Pointer("r", 1, 2, 3, "", exploration={"random": 0.5})
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(pointer))
    assert told["knobs"] == {"random": 0.5}
    assert msgspec.convert(told, Pointer) == pointer
