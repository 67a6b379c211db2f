"""Writes the test vectors of the wire: ``python -m tests.vectors.generate`` (see docs/wire.md).

Each JSON file is a list of vectors with a ``name`` and whether they are ``valid``. Bytes are
hexadecimal, or the name of a file below ``data/`` where they are many.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from soulsai.types import Fragment
from tests.vectors import invalid_entries, published, valid_entries
from tests.vectors.runs import RUNS

FOLDER = Path(__file__).parent
LONGEST = 256  # bytes in a JSON file


def plain(value: Any) -> Any:
    """Return a message as JSON has it; arrays are nested lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def message(value: Any) -> dict[str, Any]:
    """Return a message with its kind and fields; its sender is not part of it."""
    fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    for name in ("client", "epoch", "granted", "env_steps", "time", "verified"):
        fields.pop(name, None)
    return {"kind": type(value).__name__.lower(), **fields}


def without_defaults(value: msgspec.Struct) -> dict[str, Any]:
    """Return a struct without the fields that have their defaults, which readers know."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        has_default = field.default is not msgspec.NODEFAULT and inner == field.default
        if has_default or (field.default_factory is not msgspec.NODEFAULT and not inner):
            continue
        is_struct = isinstance(inner, msgspec.Struct)
        found[field.encode_name] = (
            without_defaults(inner) if is_struct else msgspec.to_builtins(inner)
        )
    return found


def runs() -> Iterable[dict[str, Any]]:
    """Yield the run specs of the entries, as they are published."""
    for name, (spec, head) in RUNS.items():
        said = without_defaults(spec)
        yield {
            "name": name, "valid": True, "data": msgspec.msgpack.encode(said), "crc": spec.crc,
            "head": msgspec.to_builtins(head), "spec": said,
        }  # fmt: skip


def entries() -> Iterable[dict[str, Any]]:
    """Yield entries of a client's stream."""
    for name, run, data, messages in valid_entries.cases():
        exact = all(isinstance(one, Fragment) for one in messages) and not data[1]
        yield {
            "name": name, "valid": True, "run": run, "data": data, "exact": exact,
            "messages": [message(one) for one in messages[:3]], "count": len(messages),
        }  # fmt: skip
    for name, run, data, reason in invalid_entries.cases():
        yield {"name": name, "valid": False, "run": run, "data": data, "reason": reason}


FAMILIES = {
    "runs": runs,
    "entries": entries,
    "weights": published.weights,
    "deltas": published.deltas,
    "schedules": published.schedules,
    "pointers": published.pointers,
    "signatures": published.signatures,
    "invites": published.invites,
    "names": published.names,
    "controls": published.controls,
    "versions": published.versions,
    "heads": published.heads,
}


def files() -> dict[str, bytes]:
    """Return the content of all files by their path."""
    made: dict[str, bytes] = {}
    for family, vectors in FAMILIES.items():
        rows = []
        for vector in vectors():
            if isinstance(base := vector.get("base"), bytes):
                vector = vector | {"base": {"hex": base.hex()}}
            if isinstance(data := vector.get("data"), bytes):
                if len(data) <= LONGEST:
                    vector = vector | {"data": {"hex": data.hex()}}
                else:
                    file = f"data/{family}-{vector['name']}.bin"
                    made[file] = data
                    vector = vector | {"data": {"file": file}}
            rows.append("  " + msgspec.json.encode(vector).decode())
        made[f"{family}.json"] = ("[\n" + ",\n".join(rows) + "\n]\n").encode()
    settings = {"public_key": published.SIGNER.public, "program": published.PROGRAM.weights}
    made["settings.json"] = msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"
    return made


if __name__ == "__main__":
    for path, content in files().items():
        (FOLDER / path).parent.mkdir(exist_ok=True)
        (FOLDER / path).write_bytes(content)
    sys.stdout.write(f"{FOLDER}: {len(files())} files\n")
