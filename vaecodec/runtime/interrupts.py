"""Ctrl-C while the command line is still being imported, before it handles signals itself."""

import contextlib
import os
import signal
import sys
from types import FrameType

PROGRAM = "vaecodec"
EXIT_INTERRUPTED = 130


def watch() -> None:
    """Makes Ctrl-C end the program with a word and its exit code, if the command line is what runs.

    Other programs that import the package keep their own handling, and so does an ignored signal.
    """
    if _is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, _exit)


def _is_command_line() -> bool:
    """Whether Python was started as `vaecodec ...` or `python -m vaecodec ...`."""
    # While -m looks for its module, sys.argv begins with "-m", and only the original arguments have the name.
    started = sys.orig_argv[-len(sys.argv) :][:1] if getattr(sys, "argv", None) else []
    return any(os.path.splitext(os.path.basename(each))[0] == PROGRAM for each in started)


def _exit(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")  # unlike print, also right in the middle of another write
    raise SystemExit(EXIT_INTERRUPTED)
