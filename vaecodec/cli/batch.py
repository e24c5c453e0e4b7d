"""Runs a task over many files: a bad file is reported and the others continue; also console output and exit codes.

Only requested results go to stdout; messages for people go to stderr.
"""

import json
import sys
import threading
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import click
from PIL import Image, UnidentifiedImageError

from vaecodec.cli import streams
from vaecodec.errors import (
    VaecChecksumError,
    VaecCorruptError,
    VaecError,
    VaecFormatError,
    VaecImageError,
    VaecLimitError,
    VaecModelError,
    VaecResourceError,
    VaecTruncatedError,
    VaecUnsupportedError,
)

EXIT_FAILED = 1
_EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (5, (VaecUnsupportedError, VaecModelError)),
    (6, (VaecLimitError, VaecResourceError, MemoryError)),
    (4, (VaecFormatError, VaecTruncatedError, VaecChecksumError, VaecCorruptError)),
    (3, (VaecImageError,)),
)

Item = TypeVar("Item")
Value = TypeVar("Value")


class InputError(VaecImageError):
    """An input cannot be read, or is in no known format."""

    default_code = "INPUT"


class OutputError(VaecError):
    """An output must not or cannot be written."""

    default_code = "OUTPUT"


@dataclass(frozen=True)
class Report:
    """The outcome of one input.

    Attributes:
        status: one word: done, skipped, planned, damaged or ok.
        text: the line printed for people.
        facts: further fields of the JSON line.
        error: an error that sets the exit code although there is a result.
    """

    status: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    error: VaecError | None = None


@dataclass(frozen=True)
class Task(Generic[Item, Value]):
    """What to do with each input.

    Attributes:
        name: returns the name of an input for messages.
        compute: the long part; runs in worker threads and must not write.
        finish: the rest; runs in the main thread and in input order, so only the main thread holds unfinished files
            when a signal arrives.
        answers: whether the report texts are the requested result and go to stdout.
        key: JSON field of the input's name.
    """

    name: Callable[[Item], str]
    compute: Callable[[Item], Value]
    finish: Callable[[Item, Value], Report]
    answers: bool = False
    key: str = "path"


def exit_code(errors: Sequence[Exception], count: int) -> int:
    """Returns 0 without errors; for a single input 3 unreadable, 4 damaged, 5 unsupported, 6 too large; otherwise 1."""
    if not errors:
        return 0
    if count > 1:
        return EXIT_FAILED
    return next((code for code, classes in _EXIT_CODES if isinstance(errors[0], classes)), EXIT_FAILED)


@contextmanager
def reading() -> Iterator[None]:
    """Turns any exception raised while Pillow opens or decodes an input into InputError; VaecError passes."""
    try:
        yield
    except (VaecError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise VaecLimitError(str(error), code="MAX_PIXELS") from error
    except UnidentifiedImageError as error:
        raise InputError("not a picture that Pillow can read") from error
    except Exception as error:  # Pillow's readers fail in many ways
        raise InputError(f"cannot read it: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def finding_damage() -> Iterator[None]:
    """Turns damage found by our own row readers into InputError too."""
    try:
        yield
    except VaecImageError as error:
        if error.code != "READ":
            raise
        raise InputError(str(error)) from error


def printable(name: str) -> str:
    """Returns a file name that is safe on a terminal: quoted and escaped if it holds control characters."""
    return name if name.isprintable() else repr(name)


class Console:
    """Where results, messages and progress go."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.is_quiet = False
        self.is_json = False
        self.hides_progress = False
        self._bar: Any = None

    def report(self, label: dict[str, str], report: Report, *, is_answer: bool, warned: Sequence[str]) -> None:
        """Prints the outcome of one input, and its warnings.

        Args:
            label: the JSON field that names the input.
            report: the outcome.
            is_answer: whether its text is the requested result.
            warned: texts of its warnings.
        """
        if self.is_json:
            extra = {"warnings": list(warned)} if warned else {}
            self._print_json({**label, "status": report.status, **report.facts, **extra})
            return
        if is_answer:
            self._answer(report.text)
        elif not self.is_quiet:
            self.say(report.text)
        for warning in warned:
            self.say(f"warning: {_name(label)}: {warning}")

    def fail(self, label: dict[str, str], error: Exception) -> None:
        """Prints why there is no result for one input."""
        code = getattr(error, "code", "MEMORY" if isinstance(error, MemoryError) else "INTERNAL")
        message = str(error) if isinstance(error, VaecError) else f"{type(error).__name__}: {error}"
        if self.is_json:
            tile = {"tile": error.tile} if isinstance(error, VaecError) and error.tile is not None else {}
            self._print_json({**label, "status": "failed", "code": code, "message": message, **tile})
        else:
            self.say(f"error: {_name(label)}: {message} [{code}]")
        if self.verbosity > 1:
            self.say("".join(traceback.format_exception(error)).rstrip())

    def say(self, line: str) -> None:
        """Prints a line for people, above the progress bar if there is one."""
        if hasattr(self._bar, "console"):
            line = streams.encodable(line, self._bar.console.file)
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            streams.say(f"\r\033[K{line}" if self._bar else line)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[], None]]:
        """Shows a progress bar over `total` inputs on a terminal; yields a function to call after each."""
        if total < 2 or self.is_quiet or self.is_json or self.hides_progress or not streams.is_terminal(sys.stderr):
            yield lambda: None
            return
        bar: Any
        with _rich_progress() or click.progressbar(length=total, file=sys.stderr) as bar:
            self._bar = bar
            try:
                is_rich = hasattr(bar, "console")
                yield partial(bar.advance, bar.add_task("", total=total)) if is_rich else partial(bar.update, 1)
            finally:
                self._bar = None

    def sum_up(self, counts: Counter[str], total_bytes: Counter[str] | None = None) -> None:
        """Prints the number of inputs per outcome, and the bytes of converted ones before and after."""
        if not self.is_quiet and not self.is_json:
            text = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no input found"
            before, after = ((total_bytes or Counter())[key] for key in ("input_bytes", "output_bytes"))
            saved = f"{after / before - 1:+.0%}, {before - after:,} saved" if before else ""
            self.say(text + (f"; {before:,} -> {after:,} bytes ({saved})" if before else ""))

    def _print_json(self, record: dict[str, Any]) -> None:
        self._answer(json.dumps(record, allow_nan=False))

    def _answer(self, text: str) -> None:
        """Prints a result; exits if stdout does not take it, since then nothing is left to do."""
        try:
            streams.print_answer(text)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # a reader such as `head` has seen enough
                self.say(f"error: cannot write to stdout: {error.strerror} [{OutputError.default_code}]")
            sys.exit(EXIT_FAILED)


def run(items: Sequence[Item], task: Task[Item, Value], *, console: Console, threads: int = 1) -> int:
    """Runs a task over all inputs, in order, and continues after errors.

    Args:
        items: the inputs.
        task: what to do with each.
        console: where reports go.
        threads: how many inputs are computed at a time.

    Returns:
        The exit code.
    """
    errors: list[Exception] = []
    counts: Counter[str] = Counter()
    total_bytes: Counter[str] = Counter()
    with (
        _collecting_warnings() as collect,
        console.progress(len(items)) as advance,
        closing(_outcomes(items, partial(collect, task.compute), threads)) as outcomes,
    ):
        for item, outcome in outcomes:
            label = {task.key: task.name(item)}
            try:
                value, warned = outcome()
                report = task.finish(item, value)
            except Exception as error:  # the next file may be fine
                errors.append(error)
                counts["failed"] += 1
                console.fail(label, error)
            else:
                errors += [report.error] if report.error else []
                counts[report.status] += 1
                if "input_bytes" in report.facts:  # unknown for pipes
                    total_bytes.update({key: report.facts[key] for key in ("input_bytes", "output_bytes")})
                console.report(label, report, is_answer=task.answers, warned=warned)
            advance()
    if len(items) != 1 and not task.answers:
        console.sum_up(counts, total_bytes)
    return exit_code(errors, len(items))


def _outcomes(
    items: Sequence[Item], compute: Callable[[Item], Value], threads: int
) -> Generator[tuple[Item, Callable[[], Value]]]:
    """Yields each input, in order, with a function that returns its computed value, or raises."""
    if threads == 1:
        yield from ((item, partial(compute, item)) for item in items)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[tuple[Item, Callable[[], Value]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(compute, item).result))
            if len(waiting) > 2 * threads:  # bounds the finished outputs in memory behind a slow one
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _collecting_warnings() -> Iterator[Callable[[Callable[[Item], Value], Item], tuple[Value, list[str]]]]:
    """Collects warnings per input. `warnings.catch_warnings` alone cannot: it is global to all threads."""
    local = threading.local()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        getattr(local, "warned", []).append(str(message))

    def collect(compute: Callable[[Item], Value], item: Item) -> tuple[Value, list[str]]:
        local.warned = []
        return compute(item), local.warned

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield collect


def _name(label: dict[str, str]) -> str:
    return printable("".join(label.values()))


def _rich_progress() -> Any:
    try:
        from rich.console import Console as RichConsole  # takes 65 ms; only terminals need it
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        return None
    return Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=RichConsole(stderr=True))
