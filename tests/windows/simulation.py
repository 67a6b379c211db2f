"""Windows as far as it can be shown without it: modules of soulsai see no POSIX.

Their imports of Python's own modules give stand-ins without the names that Windows lacks, by
typeshed, and with its rules for signals, processes and files; pywin32 is played by the modules
beside this one. Other packages are let alone, for their makers have tried them on Windows.

    python -c "from tests.windows import simulation; simulation.run(['soulsai', 'client'])"
"""

import builtins
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path, PureWindowsPath

from tests.windows import stubs

ROOT = Path(__file__).parents[2]
FILES = "SIMULATED_WINDOWS_FILES"  # variable with the folder in which the rules for files hold
BREAK = 21  # SIGBREAK there, and a signal here that nobody else sends
CLOSE = signal.SIGUSR1  # stands for a console that is closed
NEW_GROUP = 0x200
CODES = {signal.SIGSEGV: 0xC0000005, signal.SIGABRT: 3, signal.SIGFPE: 0xC0000094}
ENDED = 1  # exit code of a process that was ended by TerminateProcess
BOOT = (
    f"import sys; sys.path.append({str(ROOT)!r}); "
    "from tests.windows import simulation; simulation.run(sys.argv[1:])"
)

_import = builtins.__import__
_stand_ins: dict[str, types.ModuleType] = {}
_parent = os.getppid()


def command(*words: str) -> list[str]:
    """Return the command that runs a module of soulsai, named first, under the simulation."""
    return [sys.executable, "-X", "warn_default_encoding", "-P", "-c", BOOT, *words]


def run(words: list[str]) -> None:
    """Run a module of soulsai under the simulation."""
    install()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def install() -> None:
    """Let soulsai see Windows from here on; none of its modules may be loaded yet."""
    loaded = [name for name in sys.modules if name.partition(".")[0] == "soulsai"]
    if loaded:
        raise RuntimeError(f"{loaded} has seen POSIX already")
    sys.path.append(str(Path(__file__).parent / "pywin32"))
    builtins.__import__ = _import_on_windows
    sys.addaudithook(_judge)
    warnings.filterwarnings("ignore", category=EncodingWarning)
    # The encoding of a text file without a named one is not UTF-8 on Windows.
    for module in (r"soulsai\b", "__main__"):
        warnings.filterwarnings("error", category=EncodingWarning, module=module)
    signal.signal(CLOSE, lambda *_: threading.Thread(target=_close_console).start())


class _StandIn(types.ModuleType):
    """A module as Windows has it."""

    def __init__(self, real: types.ModuleType, **replaced: object) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(replaced, _real=real, _hidden=stubs.hidden(real.__name__))

    def __getattr__(self, name: str) -> object:
        if name in self._hidden:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value  # as tests do that name another system
        else:
            setattr(self._real, name, value)


def _import_on_windows(name, globals=None, locals=None, fromlist=(), level=0):
    if level or not _is_ours(globals or {}):
        return _import(name, globals, locals, fromlist, level)
    if name.partition(".")[0] in sys.stdlib_module_names:
        if stubs.is_absent(name):
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        _import(name, None, None, fromlist or ())
        return _stand_in(name if fromlist else name.partition(".")[0])
    return _import(name, globals, locals, fromlist, level)


def _is_ours(importer: dict) -> bool:
    name = importer.get("__package__") or importer.get("__name__") or ""
    return name.partition(".")[0] == "soulsai"


def _stand_in(name: str) -> types.ModuleType:
    if name not in _stand_ins:
        real, replaced = sys.modules[name], REPLACED.get(name, {})
        changed = bool(replaced or stubs.hidden(name))
        _stand_ins[name] = _StandIn(real, **replaced) if changed else real
    return _stand_ins[name]


# Signals and processes


def _signal(number: int, handler: object) -> object:
    if number not in (2, 4, 8, 11, 15, BREAK, signal.SIGABRT):
        raise ValueError("signal number out of range")
    return signal.signal(number, handler)


def _close_console() -> None:
    """Do as Windows does: call the handlers, the last one first, and end the process."""
    import win32api

    for handler in reversed(win32api.handlers):
        if handler(2):
            break
    os._exit(0xC000013A & 0xFF)


def _kill(pid: int, number: int) -> None:
    os.kill(pid, {0: signal.SIGINT, 1: BREAK}.get(number, signal.SIGKILL))


class _Process(subprocess.Popen):
    """A process with the rules of Windows, which is under the simulation if it is ours."""

    def __init__(self, args, *more, creationflags=0, start_new_session=False, **options) -> None:
        del start_new_session  # it means nothing there
        for name in ("preexec_fn", "pass_fds", "user", "group", "umask", "process_group"):
            if options.get(name):
                raise ValueError(f"{name} is not supported on Windows platforms")
        if list(args[:3]) == [sys.executable, "-P", "-m"]:
            args = command(*args[3:])
        if creationflags not in (0, NEW_GROUP):
            raise ValueError(f"creationflags {creationflags:#x} are not simulated")
        super().__init__(args, *more, process_group=0, **options)

    @property
    def returncode(self) -> int | None:
        """Return the exit code of Windows."""
        return self._code

    @returncode.setter
    def returncode(self, code: int | None) -> None:
        self._code = CODES.get(-code, ENDED) if code is not None and code < 0 else code

    def send_signal(self, number: int) -> None:
        """Send an event of the console, or end the process."""
        if number == signal.SIGTERM:
            self.kill()
        elif number != 1:
            raise ValueError(f"Unsupported signal: {number}")
        else:
            super().send_signal(BREAK)

    def terminate(self) -> None:
        """End the process without a word to it."""
        super().send_signal(signal.SIGKILL)

    kill = terminate


def _run_with_process() -> types.FunctionType:
    """Return ``subprocess.run`` with these processes."""
    real = subprocess.run
    around = {**vars(subprocess), "Popen": _Process}
    made = types.FunctionType(real.__code__, around, "run", real.__defaults__)
    made.__kwdefaults__ = real.__kwdefaults__
    return made


def _select(read, write, broken, *timeout):
    if not (read or write or broken):
        raise OSError(10022, "An invalid argument was supplied")
    return select.select(read, write, broken, *timeout)


def _open(path, *more, **options) -> int:
    if Path(path).is_dir():
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, *more, **options)


REPLACED: dict[str, dict[str, object]] = {
    "sys": {"platform": "win32"},
    "os": {
        "name": "nt", "kill": _kill, "open": _open,
        "getppid": lambda: _parent,  # Windows does not tell that it has ended
    },
    "signal": {"SIGBREAK": BREAK, "CTRL_C_EVENT": 0, "CTRL_BREAK_EVENT": 1, "signal": _signal},
    "subprocess": {
        "Popen": _Process, "run": _run_with_process(), "CREATE_NEW_PROCESS_GROUP": NEW_GROUP,
    },
    "select": {"select": _select},
}  # fmt: skip


# Files


def _judge(event: str, given: tuple) -> None:
    """Refuse what Windows refuses, where the rules for files hold."""
    if event in ("os.fork", "os.forkpty"):
        raise OSError("Windows has no fork")
    if event == "open" and not set(str(given[1] or "")) & set("wax+"):
        return
    if event in ("open", "os.mkdir", "sqlite3.connect"):
        _check_name(given[0])
    elif event == "os.rename":
        _check_name(given[1])
        _check_free(given[0])
        _check_free(given[1])
        if sys._getframe(1).f_code.co_name == "rename" and os.path.exists(given[1]):
            raise FileExistsError(17, "[WinError 183] it exists", str(given[1]))
    elif event in ("os.remove", "os.rmdir"):
        _check_free(given[0])
    elif event in ("os.symlink", "os.link"):
        raise OSError("[WinError 1314] A required privilege is not held by the client")


def _below(path: object) -> Path | None:
    folder = os.environ.get(FILES, "")
    if not folder or not isinstance(path, str | bytes | os.PathLike):
        return None
    full = Path(os.path.abspath(os.fsdecode(path)))
    return full if full.is_relative_to(folder) else None


def _check_name(path: object) -> None:
    full = _below(path)
    if full is None:
        return
    for part in full.relative_to(os.environ[FILES]).parts:
        odd = set(part) & set('<>:"|?*\\') or part.endswith((" ", ".")) or min(part) < " "
        if odd or PureWindowsPath(part).is_reserved():
            raise OSError(22, f"[WinError 123] {part!r} is no name of a file", str(path))


def _check_free(path: object) -> None:
    """Raise as Windows does for a file that this process has opened, or a folder around one."""
    full = _below(path)
    if full is None:
        return
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # that of the list itself
            continue
        if opened.is_relative_to(full):
            raise PermissionError(13, f"[WinError 32] {opened} is in use", str(path))
