"""Standard input, output and error of the command line: any of them may be closed, full, or a pipe nobody reads."""

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
    """A signal asks the program to end; `code` is the exit code that says so."""


def stdin() -> BinaryIO:
    """Returns standard input; raises OSError if there is none."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "stdin is closed")
    return sys.stdin.buffer


def read_stdin() -> bytes:
    """Returns all bytes of standard input; raises OSError."""
    return stdin().read()


def write_stdout(content: BinaryIO) -> None:
    """Writes what is in a file to standard output, all of it; raises OSError."""
    with _delivering(sys.stdout) as stdout:
        shutil.copyfileobj(content, stdout.buffer)
        stdout.buffer.flush()


def print_answer(text: str) -> None:
    """Prints a line that was asked for on standard output; raises OSError."""
    with _delivering(sys.stdout) as stdout:
        click.echo(encodable(text, stdout))


def say(text: str) -> None:
    """Prints a line for people on standard error. If it cannot reach anybody, the work goes on."""
    with contextlib.suppress(OSError), _delivering(sys.stderr) as stderr:
        click.echo(encodable(text, stderr), err=True)


def encodable(text: str, stream: TextIO) -> str:
    """The text with escapes for what the stream cannot print, such as names in another script than its code page's."""
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

    Signals that the caller told the program to ignore (nohup, a job in the background) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(128 + number)


@contextmanager
def _delivering(stream: TextIO | None) -> Iterator[TextIO]:
    """Drops what an error leaves in the stream's buffer: it would fail again, with another exit code, at the end."""
    if stream is None:
        raise OSError(errno.EBADF, "it is closed")
    try:
        yield stream
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise
