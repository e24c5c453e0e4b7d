"""Files written whole or not at all, whatever stops their writer, and files without a name for what is not ready."""

import contextlib
import errno
import functools
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

if sys.platform != "win32":
    import fcntl

_TEMPORARY_NAME = re.compile(r"\.vaecodec-[0-9a-f]{16}\.tmp")
_ATTEMPTS = 8
_SPOOL_BYTES = 8 << 20  # what most pictures need, so that these never touch the disk


def write_whole(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    overwrite: bool = True,
    times_ns: tuple[int, int] | None = None,
    mode: int | None = None,
) -> None:
    """Writes a file under its name as a whole, or not at all: as `writing`, of bytes that are at hand."""
    with writing(path, overwrite=overwrite, times_ns=times_ns, mode=mode) as file:
        file.write(data)


def path_of(source: object) -> str | None:
    """The path of the file that a source is, or is read from: a path, an open file, an image, a mapped array."""
    found = source if isinstance(source, str | os.PathLike) else None
    for name in ("filename", "name"):
        found = getattr(source, name, None) if found is None else found
    if not isinstance(found, str | os.PathLike):
        return None
    path = os.fspath(found)
    return path if isinstance(path, str) and os.path.isfile(path) else None


def mode_of(source: object) -> int | None:
    """Permissions of the file that a source is read from, for what is made of it; None if it is none."""
    path = path_of(source)
    return None if path is None else stat.S_IMODE(os.stat(path).st_mode)


def is_same(source: object, target: object) -> bool:
    """Whether both are one file, under whatever names."""
    paths = path_of(source), path_of(target)
    return None not in paths and os.path.samefile(*paths)  # type: ignore[arg-type]


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = True,
    times_ns: tuple[int, int] | None = None,
    mode: int | None = None,
) -> Iterator[BinaryIO]:
    """A file to write that stands under its name, as a whole, when the block ends; if that raises, not at all.

    The bytes go to a temporary file beside it, to the disk, and only then under its name. Errors and signals that
    Python sees remove the temporary file. A writer that is killed cannot: the next process that writes into the same
    folder removes what it left. A file that is overwritten keeps its permissions, a symbolic link stays one.

    Args:
        path: the file.
        overwrite: whether a file of that name may be replaced.
        times_ns: access and modification time to give it, in nanoseconds since 1970.
        mode: permissions of a new file, as far as the process gives any: those of the file from which it is made, so
            that a private picture stays private. Its owner may always write it.

    Yields:
        The open file; it can be moved in and cut short, not read.

    Raises:
        FileExistsError: there is such a file, and it may not be replaced.
        OSError: it cannot be written; what was there before is as it was.
    """
    path = Path(os.path.realpath(path))
    _remove_abandoned(path.parent)
    if not overwrite and path.exists():
        raise _exists(path)
    for _ in range(_ATTEMPTS):
        temporary = path.with_name(f".vaecodec-{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                if not _claim(file, temporary):
                    continue
                if path.exists():
                    os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))  # before there is anything to read in it
                elif mode is not None:
                    given = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                    os.chmod(temporary, given & (mode | stat.S_IWUSR))
                yield file
                _settle(file, times_ns)
                _rename(temporary, path, overwrite=overwrite)
                return
        except BaseException:  # Ctrl-C and SIGTERM, too, must leave nothing behind
            temporary.unlink(missing_ok=True)
            raise
    raise FileNotFoundError(errno.ENOENT, "another program removes new files from this folder", str(path.parent))


def spool(beside: str | os.PathLike[str] | None = None) -> BinaryIO:
    """A file without a name to write and read again: in memory while it is small, then on disk; gone when closed.

    Args:
        beside: what is put into it will go to this file, on whose disk there must be room anyway; None is the
            system's folder for temporary files, which may lie in memory.
    """
    folder = None
    if beside is not None and not (os.path.exists(beside) and not os.path.isfile(beside)):  # a device, a pipe
        folder = os.path.dirname(os.path.realpath(beside))
        while not os.path.isdir(folder):  # it may be made later
            folder = os.path.dirname(folder)
    if folder is not None and not os.access(folder, os.W_OK):
        folder = None
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder))


def _claim(file: BinaryIO, temporary: Path) -> bool:
    """Locks a new file, which shows to others that its writer lives: the kernel drops the lock when that dies.

    Returns:
        False if another process has taken it for abandoned, and removed it, before it was locked.
    """
    if sys.platform != "win32":  # where nobody can remove an open file anyway
        with contextlib.suppress(OSError):  # a file system without locks: nobody will remove anything there
            fcntl.flock(file, fcntl.LOCK_EX)
    return temporary.exists()


def _settle(file: BinaryIO, times_ns: tuple[int, int] | None) -> None:
    file.flush()
    os.fsync(file.fileno())  # or a power failure could leave the new name without the new bytes
    if sys.platform == "win32":  # where an open file cannot be renamed
        file.close()
    if times_ns:
        os.utime(file.name, ns=times_ns)


def _rename(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a renaming, it fails if the name has been taken meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise _exists(path) from None
        os.replace(temporary, path)
    else:
        temporary.unlink()


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


@functools.lru_cache(maxsize=256)  # once per process: looking through a large folder for each file would be slow
def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of writers that are gone; never one whose writer lives, whoever and wherever it is.

    A lock tells, not a process number: those are reused, and mean nothing in another container or on another machine.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    with contextlib.suppress(OSError):  # its writer lives, or it is somebody else's, or gone already
        if sys.platform == "win32":
            os.unlink(path)
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Shared, because a file opened for reading cannot be locked otherwise on NFS; a writer's lock excludes it.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)
