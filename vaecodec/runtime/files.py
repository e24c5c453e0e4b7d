"""Atomic file writes that survive killed writers, and anonymous temporary files for unfinished output."""

import contextlib
import errno
import functools
import os
import re
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
_SPOOL_BYTES = 8 << 20  # enough for most pictures, which then never touch the disk


def write_whole(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    overwrite: bool = True,
    times_ns: tuple[int, int] | None = None,
    mode: int | None = None,
) -> None:
    """Writes bytes to a file atomically; arguments and errors as for `writing`."""
    with writing(path, overwrite=overwrite, times_ns=times_ns, mode=mode) as file:
        file.write(data)


def path_of(source: object) -> str | None:
    """The path of a source's file, whether the source is a path, an open file, an image or a memory-mapped array."""
    found = source if isinstance(source, str | os.PathLike) else None
    for name in ("filename", "name"):
        found = getattr(source, name, None) if found is None else found
    if not isinstance(found, str | os.PathLike):
        return None
    path = os.fspath(found)
    return path if isinstance(path, str) and os.path.isfile(path) else None


def mode_of(source: object) -> int | None:
    """The permissions of a source's file, to be given to its output; None if there is no file."""
    path = path_of(source)
    return None if path is None else stat.S_IMODE(os.stat(path).st_mode)


def is_same(source: object, target: object) -> bool:
    """Whether both are the same file, under any names."""
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
    """Opens a file for atomic writing: it appears under its name, complete, when the block ends without an error.

    The bytes go to a temporary file in the same folder, are flushed to disk, and are then renamed. Errors and signals
    that Python sees remove the temporary file. A killed writer leaves it behind, and the next process that writes into
    the same folder removes it. An overwritten file keeps its permissions; a symbolic link stays a link.

    Args:
        path: the file.
        overwrite: whether an existing file may be replaced.
        times_ns: access and modification time of the new file, in nanoseconds since 1970.
        mode: permissions of a new file, limited by the process's umask: those of its source, so that a private picture
            stays private. Its owner can always write it.

    Yields:
        The open file, which supports seek and truncate, but not read.

    Raises:
        FileExistsError: the file exists, and must not be replaced.
        OSError: the file cannot be written; an existing one is unchanged.
    """
    path = Path(os.path.realpath(path))
    _remove_abandoned(path.parent)
    if not overwrite and path.exists():
        raise _exists(path)
    for _ in range(_ATTEMPTS):
        temporary = path.with_name(f".vaecodec-{os.urandom(8).hex()}.tmp")
        try:
            with open(temporary, "xb") as file:
                if not _claim(file, temporary):
                    continue
                if path.exists():
                    os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))  # before it has any content
                elif mode is not None:
                    given = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                    os.chmod(temporary, given & (mode | stat.S_IWUSR))
                yield file
                _settle(file, times_ns)
                _rename(temporary, path, overwrite=overwrite)
                return
        except BaseException:  # Ctrl-C and SIGTERM too must leave nothing behind
            temporary.unlink(missing_ok=True)
            raise
    raise FileNotFoundError(errno.ENOENT, "another program removes new files from this folder", str(path.parent))


def spool(beside: str | os.PathLike[str] | None = None) -> BinaryIO:
    """An anonymous temporary file: in memory while it is small, then on disk; removed when closed.

    Args:
        beside: the file that the content is for; its disk needs the room anyway. None is the system's folder for
            temporary files, which may be in memory.
    """
    folder = None
    if beside is not None and not (os.path.exists(beside) and not os.path.isfile(beside)):  # a device, a pipe
        folder = os.path.dirname(os.path.realpath(beside))
        while not os.path.isdir(folder):  # it may be created later
            folder = os.path.dirname(folder)
    if folder is not None and not os.access(folder, os.W_OK):
        folder = None
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder))


def _claim(file: BinaryIO, temporary: Path) -> bool:
    """Locks a new file to show that its writer is alive: the kernel drops the lock when the process dies.

    Returns:
        False if another process considered the file abandoned, and removed it, before it was locked.
    """
    if sys.platform != "win32":  # on Windows, nobody can remove an open file anyway
        with contextlib.suppress(OSError):  # on a file system without locks, nobody removes abandoned files
            fcntl.flock(file, fcntl.LOCK_EX)
    return temporary.exists()


def _settle(file: BinaryIO, times_ns: tuple[int, int] | None) -> None:
    file.flush()
    os.fsync(file.fileno())  # otherwise a power failure could leave the new name without the new bytes
    if sys.platform == "win32":  # an open file cannot be renamed there
        file.close()
    if times_ns:
        os.utime(file.name, ns=times_ns)


def _rename(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, it fails if the name exists by now
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


@functools.lru_cache(maxsize=256)  # once per process: listing a large folder for each file would be slow
def _remove_abandoned(folder: Path) -> None:
    """Removes temporary files of dead writers, and never one whose writer is alive, in any process on any machine.

    A lock shows that, not a process number: numbers are reused, and mean nothing in other containers or machines.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    with contextlib.suppress(OSError):  # locked by its writer, owned by somebody else, or gone already
        if sys.platform == "win32":
            os.unlink(path)
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # A shared lock, because NFS allows no other on a file opened for reading; it conflicts with the writer's.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)
