"""Where outputs go: pairs inputs with outputs, and writes each output atomically."""

import glob
import io
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import click

from vaecodec.cli.batch import InputError, OutputError, printable
from vaecodec.cli.streams import write_stdout
from vaecodec.errors import VaecError
from vaecodec.runtime.files import mode_of, writing

STDIO = "-"
_PATTERN_MARK = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Placement:
    """The user's options about outputs.

    Attributes:
        suffix: of outputs without a given name, with its dot.
        picks: whether a file found in a folder is an input, by its name.
        is_output: whether an existing file, given second of two, is meant as the output, by its name.
        output: the name of the only output; a folder means `out_dir`.
        out_dir: folder for outputs, created if missing.
        recursive: process the files in folders.
        force: overwrite.
        skip_existing: skip inputs whose output exists.
        has_recursive: whether the command has the option -r.
    """

    suffix: str
    picks: Callable[[str], bool]
    is_output: Callable[[str], bool]
    output: str | None = None
    out_dir: str | None = None
    recursive: bool = False
    force: bool = False
    skip_existing: bool = False
    has_recursive: bool = True


@dataclass(frozen=True)
class Job:
    """One input and its output; `refused` is the reason it must not run, `is_skipped` means that its output exists."""

    source: str
    target: str
    folder: str | None = None
    refused: VaecError | None = None
    is_skipped: bool = False


@dataclass(frozen=True)
class Found:
    """An input; `root` is the folder argument under which it was found, if any."""

    source: str
    root: str | None = None
    refused: VaecError | None = None


def plan(arguments: Sequence[str], place: Placement) -> list[Job]:
    """Pairs inputs and outputs.

    Args:
        arguments: as on the command line: files, folders, patterns that the shell did not expand, "-" for stdin. The
            second of two is the output if no such file exists, or if its name is that of an output.
        place: the other options.

    Returns:
        One job per distinct input, in the given order, and by name within folders. A job is refused if its output is an
        input, the output of an earlier job, or exists and must not be overwritten.

    Raises:
        click.UsageError: the options contradict each other or do not fit the number of inputs.
    """
    inputs, place = _split(list(arguments), place)
    look = partial(expand, recursive=place.recursive, picks=place.picks, has_recursive=place.has_recursive)
    found = {each.source: each for argument in inputs for each in look(argument)}
    if place.output is not None and len(found) > 1:
        raise click.UsageError(f"there are {len(found)} inputs for the one output {place.output!r}: give --out-dir")
    roots = {each.root for each in found.values()} - {None}
    sources = {_identity(source) for source in found}
    taken: dict[object, str] = {}
    jobs = []
    for each in found.values():
        target = _target(each, place, keep_root=len(roots) > 1)
        job = Job(each.source, target, place.out_dir and os.path.dirname(target), each.refused)
        jobs.append(job if job.refused else _checked(job, place, sources, taken))
    return jobs


def expand(
    argument: str,
    *,
    recursive: bool = False,
    picks: Callable[[str], bool] = lambda name: True,
    has_recursive: bool = False,
) -> Iterator[Found]:
    """Yields the inputs that one argument names: itself, the files of a folder, or the files that match a pattern.

    Args:
        argument: as on the command line; an existing file is never a pattern.
        recursive: process the files in folders.
        picks: whether a file found in a folder is an input, by its name; hidden files and pipes never are.
        has_recursive: whether the command has the option -r.
    """
    if argument == STDIO:
        yield Found(argument)
    elif os.path.isdir(argument):
        if recursive:
            yield from _in_folder(argument, os.path.normpath(argument), picks)
        else:
            advice = "use -r to process its files" if has_recursive else f"name its files ({printable(argument)}/*)"
            yield Found(argument, refused=InputError(f"is a folder: {advice}"))
    elif not _is_pattern(argument):
        yield Found(argument)
    else:
        matches = sorted(glob.glob(argument, recursive=True))
        if not matches:
            yield Found(argument, refused=InputError("no file matches"))
        root = os.path.dirname(_PATTERN_MARK.split(argument)[0]) or os.curdir
        for match in matches:
            if not os.path.isdir(match):
                if not _is_special(match):
                    yield Found(match, root)
            elif recursive:
                yield from _in_folder(match, root, picks)


def write_output(job: Job, data: bytes | BinaryIO, *, overwrite: bool, times_ns: tuple[int, int] | None = None) -> None:
    """Writes an output atomically. A new file gets the permissions of the input.

    Args:
        job: names the target, "-" for stdout.
        data: bytes, or a file with the bytes.
        overwrite: whether an existing file may be replaced.
        times_ns: access and modification time of the new file.

    Raises:
        OutputError: the file exists (EXISTS), or cannot be written (OUTPUT).
    """
    content = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        if job.target == STDIO:
            write_stdout(content)
            return
        if job.folder:
            os.makedirs(job.folder, exist_ok=True)
        path = Path(job.target)
        if path.exists() and not path.is_file():
            with path.open("wb") as file:  # a device or a pipe: there is nothing to replace
                shutil.copyfileobj(content, file)
        else:
            with writing(path, overwrite=overwrite, times_ns=times_ns, mode=mode_of(job.source)) as file:
                shutil.copyfileobj(content, file)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.isfile(job.target):
            raise _exists(job.target) from error
        raise OutputError(f"cannot write {printable(job.target)}: {error.strerror or error}") from error


def _split(arguments: list[str], place: Placement) -> tuple[list[str], Placement]:
    """Separates the output from the inputs, and a file from a folder."""
    if place.output is not None and place.out_dir is not None:
        raise click.UsageError("-o/--output and --out-dir cannot be combined: give only one")
    if place.output is place.out_dir is None and len(arguments) == 2 and _second_is_output(arguments, place):
        place = replace(place, output=arguments.pop())
    output = place.output
    if output is None or output == STDIO:
        return arguments, place
    if output.endswith(("/", os.sep)) or os.path.isdir(output) or any(map(os.path.isdir, arguments)):
        place = replace(place, output=None, out_dir=output)
    return arguments, place


def _second_is_output(arguments: list[str], place: Placement) -> bool:
    first, second = arguments
    if second == STDIO:
        return True
    if os.path.isdir(second):
        return not place.recursive
    if os.path.lexists(second):
        return place.is_output(second) and not os.path.isdir(first) and not _is_pattern(first)
    return not (_is_pattern(second) and glob.glob(second, recursive=True))


def _is_pattern(argument: str) -> bool:
    return bool(_PATTERN_MARK.search(argument)) and not os.path.lexists(argument)


def _identity(path: str) -> object:
    """A key that is equal for two names of one file, whether they differ by case or by links."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _is_special(path: str) -> bool:
    """Whether this is a pipe, a socket or a device: opening one that the user did not name might block forever."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # reported when the file is opened
        return False


def _in_folder(folder: str, root: str, picks: Callable[[str], bool]) -> Iterator[Found]:
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        picked = (name for name in sorted(files) if picks(name) and not name.startswith("."))
        paths = (os.path.join(parent, name) for name in picked)
        yield from (Found(path, root) for path in paths if not _is_special(path))
    for error in unreadable:
        yield Found(str(error.filename), root, InputError(f"cannot read the folder: {error.strerror}"))


def _target(found: Found, place: Placement, *, keep_root: bool) -> str:
    if place.output is not None:
        return place.output
    if found.source == STDIO:
        return STDIO if place.out_dir is None else os.path.join(place.out_dir, f"stdin{place.suffix}")
    renamed = os.path.splitext(found.source)[0] + place.suffix
    if place.out_dir is None:
        return renamed
    if found.root is None:
        return os.path.join(place.out_dir, os.path.basename(renamed))
    kept = os.path.basename(os.path.abspath(found.root)) if keep_root else ""
    return os.path.join(place.out_dir, kept, os.path.relpath(renamed, found.root))


def _checked(job: Job, place: Placement, sources: set[object], taken: dict[object, str]) -> Job:
    if job.target == STDIO:
        return job
    target = _identity(job.target)
    first = taken.setdefault(target, job.source)
    if target in sources:
        return replace(
            job,
            refused=OutputError(f"{printable(job.target)} is an input: inputs are never replaced", code="SAME_FILE"),
        )
    if first != job.source:
        message = f"{printable(job.target)} is already the output of {printable(first)}"
        return replace(job, refused=OutputError(message, code="COLLISION"))
    if os.path.isfile(job.target) and place.skip_existing:
        return replace(job, is_skipped=True)
    if os.path.isfile(job.target) and not place.force:
        return replace(job, refused=_exists(job.target))
    return job


def _exists(target: str) -> OutputError:
    return OutputError(f"{printable(target)} exists: use -f to overwrite it", code="EXISTS")
