"""The command ``soulsai``: every error of a user becomes one line and an exit code."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from soulsai.errors import SoulsAIError

INTERRUPTED = 130

# Refusals of the machine that are no mistake of ours; other errors of the system keep their trace.
_REFUSED = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EADDRINUSE,
})  # fmt: skip


def main() -> None:
    """Run the command line of this process, and exit."""
    # Environments may lie in the current folder, but a file there must not replace a package.
    with suppress(FileNotFoundError):  # the folder may have been deleted
        here = os.getcwd()
        sys.path[:] = [*(path for path in sys.path if path not in ("", here)), here]
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str], *, app: click.Command | None = None, name: str = "soulsai") -> int:
    """Run one command and return its exit code; a user's mistake is one line on stderr.

    Args:
        words: The command line after the program's name.
        app: The commands; ``None``: those of ``soulsai``.
        name: The program's name in help texts.
    """
    if app is None:
        from soulsai.cli.app import app as app_of_soulsai

        app = app_of_soulsai
    try:
        return int(app.main(list(words) or ["--help"], name, standalone_mode=False) or 0)
    except SoulsAIError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{os.strerror(error.errno)}", 1)


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"soulsai: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    main()
