"""The routines of ``sum_tree.cpp``, compiled on this machine and called through ctypes."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from pathlib import Path

from msgspec import Struct

from soulsai.errors import SoulsAIError

SOURCE = Path(__file__).with_name("sum_tree.cpp")
LIBRARY = "sum_tree.so"
OPTIONS = ("-O2", "-shared", "-fPIC", "-fno-exceptions")
PATIENCE_SECONDS = 60.0
TREE = (c_void_p, c_void_p, c_int64)  # the nodes, the first of each level, the number of levels


class NotCompiled(SoulsAIError):
    """The routines could not be compiled or loaded, for the reason in the message."""


class TreeRoutines(Struct, frozen=True):
    """The compiled routines, called with addresses."""

    set: Callable[..., None]
    find: Callable[..., None]


def compiler() -> str:
    """Return the path of the C++ compiler of ``CXX``, or of g++.

    Raises:
        NotCompiled: There is none.
    """
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        raise NotCompiled(f"there is no C++ compiler ({name})")
    return path


def key(compiler: str) -> str:
    """Return the name of the library that a compiler makes, a digest of all that shapes it.

    Args:
        compiler: Path of the compiler.
    """
    digest = hashlib.blake2b(SOURCE.read_bytes(), digest_size=16)
    digest.update(repr((compiler, OPTIONS, platform.platform(), platform.machine())).encode())
    return digest.hexdigest()


def compile_routines(compiler: str, folder: Path) -> None:
    """Compile the routines into ``LIBRARY`` in a folder.

    Args:
        compiler: Path of the compiler.
        folder: An existing folder.

    Raises:
        NotCompiled: The compiler fails.
    """
    command = [compiler, *OPTIONS, "-x", "c++", str(SOURCE), "-o", str(folder / LIBRARY)]
    try:
        done = subprocess.run(  # noqa: S603 - the user's compiler, and our own file
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(f"compiling failed: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotCompiled(f"compiling failed: {lines[0] if lines else done.returncode}")


def load_routines(folder: Path) -> TreeRoutines:
    """Return the routines of ``LIBRARY`` in a folder, which may be deleted afterwards.

    Args:
        folder: The folder.

    Raises:
        NotCompiled: The library is missing, or none of this machine's.
    """
    try:
        library = ctypes.CDLL(str(folder / LIBRARY))
        set_leaves, find = library.set, library.find
    except (OSError, AttributeError) as error:
        raise NotCompiled(f"the compiled routines cannot be loaded: {error}") from error
    set_leaves.argtypes = (*TREE, c_void_p, c_void_p, c_int64, c_int64)
    find.argtypes = (*TREE, c_void_p, c_int64, c_void_p)
    set_leaves.restype = find.restype = None
    return TreeRoutines(set_leaves, find)
