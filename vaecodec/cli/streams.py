"""Standard input, output and error. Any of them may be closed, full, or a pipe that nobody reads."""

import contextlib
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import BinaryIO, TextIO

import click

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """A signal requested the program to end; `code` is the exit code for it."""


def stdin() -> BinaryIO:
    """Returns standard input; raises OSError if there is none."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "stdin is closed")
    return sys.stdin.buffer


def read_stdin() -> bytes:
    """Returns all bytes of standard input; raises OSError."""
    return stdin().read()


def write_stdout(content: BinaryIO) -> None:
    """Writes all of a file to standard output; raises OSError."""
    with _delivering(sys.stdout) as stdout:
        shutil.copyfileobj(content, stdout.buffer)
        stdout.buffer.flush()


def print_answer(text: str) -> None:
    """Prints a line of the requested result on standard output; raises OSError."""
    with _delivering(sys.stdout) as stdout:
        click.echo(encodable(text, stdout))


def say(text: str) -> None:
    """Prints a line for people on standard error, and ignores failures to do so."""
    with contextlib.suppress(OSError), _delivering(sys.stderr) as stderr:
        click.echo(encodable(text, stderr), err=True)


def encodable(text: str, stream: TextIO) -> str:
    """The text with escapes for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal."""
    return stream is not None and stream.isatty()


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM raise `Stopped` in the main thread, so that everything is cleaned up on the way out.

    Signals that were ignored at the start (nohup, a background job) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(128 + number)


@contextmanager
def _delivering(stream: TextIO | None) -> Iterator[TextIO]:
    """Discards the stream's buffer after an error: flushing it at exit would fail again, with another exit code."""
    if stream is None:
        raise OSError(errno.EBADF, "it is closed")
    try:
        yield stream
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise
