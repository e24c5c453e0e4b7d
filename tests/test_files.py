"""Laws of files that are written: the whole of it or nothing, whatever happens, and nothing is left beside it."""

import contextlib
import errno
import os
import stat
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vaecodec.runtime import files
from vaecodec.runtime.files import write_whole

fcntl = pytest.importorskip("fcntl", reason="POSIX only: on Windows an open file cannot be removed")
resource = pytest.importorskip("resource", reason="POSIX only")

ABANDONED = ".vaecodec-0123456789abcdef.tmp"
NOBODY = 65534


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    """Each test finds a process that has not looked for abandoned files yet."""
    files._remove_abandoned.cache_clear()


@contextlib.contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    """The system refuses to let files grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """The administrator, whom permissions do not bind, is somebody else for a while; others stay who they are."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB with a file "target" in it and 16 KiB free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems can be mounted by the administrator only")
    try:
        (disk / "target").write_bytes(b"old")
        (disk / "filler").write_bytes(bytes(44 << 10))
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


# --- what stops a write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [1 << 10, 1 << 20])
def test_a_file_that_may_not_grow_is_as_it_was(tmp_path: Path, size_bytes: int) -> None:
    """A limit that is met while writing, early or when a buffer is flushed, leaves the old file and no other."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with no_file_above(512), pytest.raises(OSError, match="File too large") as caught:
        write_whole(target, bytes(size_bytes))
    assert (caught.value.errno, os.listdir(tmp_path), target.read_bytes()) == (errno.EFBIG, ["target"], b"old")


def test_a_full_disk_leaves_the_file_as_it_was(full_disk: Path) -> None:
    """What does not fit is an error; what fits is written; nothing is left either way."""
    with pytest.raises(OSError, match="No space left"):
        write_whole(full_disk / "target", bytes(40 << 10))
    assert (full_disk / "target").read_bytes() == b"old"
    write_whole(full_disk / "target", b"new")
    assert (full_disk / "target").read_bytes() == b"new"
    assert sorted(os.listdir(full_disk)) == ["filler", "target"]


def test_a_read_only_folder_is_left_as_it_was() -> None:
    """Who may not write into a folder gets a PermissionError, also where the file itself could be written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "read-only"
        folder.mkdir()
        (folder / "target").write_bytes(b"old")
        for path, mode in ((folder / "target", 0o666), (folder, 0o555), (folder.parent, 0o755)):
            path.chmod(mode)
        with as_nobody(), pytest.raises(PermissionError):
            write_whole(folder / "target", b"new")
        assert (os.listdir(folder), (folder / "target").read_bytes()) == (["target"], b"old")
        folder.chmod(0o755)


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """A target that is a folder is an error, and stays."""
    (tmp_path / "target").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "target", b"new")
    assert os.listdir(tmp_path) == ["target"]


# --- what is written --------------------------------------------------------------------------------------------------


def test_links_are_followed(tmp_path: Path) -> None:
    """A link to a link to a file stays one, and so does a link to a file that is not there yet."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("c")
    for data in (b"first", b"second"):
        write_whole(tmp_path / "a", data)
        assert (tmp_path / "c").read_bytes() == data
    assert (os.readlink(tmp_path / "a"), os.readlink(tmp_path / "b")) == ("b", "c")


@pytest.mark.parametrize("name", ["with space", "new\nline", "-dash", "*?[x]", "é" * 127, os.fsdecode(b"\xff\xfe")])
def test_any_name_is_a_name(tmp_path: Path, name: str) -> None:
    """Blanks, control characters, patterns, dashes, names of 254 bytes and names that are no text."""
    for data in (b"first", b"second"):
        write_whole(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
    assert os.listdir(tmp_path) == [name]


def test_bytes_are_never_readable_by_more_people_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private file stays private while it is overwritten: the temporary one has its permissions before its bytes."""
    target = tmp_path / "target"
    target.touch(0o600)
    modes = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_whole(target, b"secret")
    assert modes == [0o600]


# --- several writers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_each_writes_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, links: bool
) -> None:
    """16 threads write one file: it is that of one of them. Where they may not overwrite, exactly one has written."""
    if not links:
        monkeypatch.setattr(os, "link", _unsupported)
    barrier = threading.Barrier(16)

    def write(number: int) -> str:
        barrier.wait()
        try:
            write_whole(tmp_path / "target", bytes([number]) * 100_000, overwrite=overwrite)
        except FileExistsError:
            return "refused"
        return "written"

    with ThreadPoolExecutor(16) as pool:
        outcomes = Counter(pool.map(write, range(16)))
    data = (tmp_path / "target").read_bytes()
    assert (len(data), len(set(data)), os.listdir(tmp_path)) == (100_000, 1, ["target"])
    if overwrite or links:  # without links, two may look at the same time
        assert outcomes["written"] == (16 if overwrite else 1)


def _unsupported(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_another_is_written_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Without leave to overwrite, the name is taken only if it is still free at the very end."""
    if not links:
        monkeypatch.setattr(os, "link", _unsupported)
    monkeypatch.setattr(os, "fsync", lambda _: (tmp_path / "target").write_bytes(b"another's"))
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "target", b"ours", overwrite=False)
    assert (os.listdir(tmp_path), (tmp_path / "target").read_bytes()) == (["target"], b"another's")


# --- what killed writers leave ----------------------------------------------------------------------------------------


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """The next process that writes into the folder removes it, whatever it writes; nobody else's files."""
    kept = [".vaecodec-0123456789abcdeg.tmp", "vaecodec-0123456789abcdef.tmp", f"{ABANDONED}.png", ".vaecodec-0.tmp"]
    for name in (ABANDONED, *kept):
        (tmp_path / name).write_bytes(b"half")
    write_whole(tmp_path / "target", b"new")
    assert set(os.listdir(tmp_path)) == {"target", *kept}


def test_the_file_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    """However old it looks, it is locked, and so it is not abandoned."""
    with open(tmp_path / ABANDONED, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(tmp_path / ABANDONED, (0, 0))
        write_whole(tmp_path / "target", b"new")
        assert (tmp_path / ABANDONED).exists()
    files._remove_abandoned.cache_clear()
    write_whole(tmp_path / "target", b"new")
    assert os.listdir(tmp_path) == ["target"]


def test_a_writer_holds_its_lock_until_its_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step of a write, a process that starts now leaves the temporary file alone."""
    for step in ("fsync", "utime", "replace"):
        real = getattr(os, step)

        def remove_first(*arguments: Any, real: Any = real, **options: Any) -> Any:
            files._remove_abandoned.__wrapped__(tmp_path)
            return real(*arguments, **options)

        monkeypatch.setattr(os, step, remove_first)
    write_whole(tmp_path / "target", b"new", times_ns=(0, 0))
    assert (os.listdir(tmp_path), (tmp_path / "target").read_bytes()) == (["target"], b"new")


def test_what_only_looks_like_a_temporary_file_is_left_alone(tmp_path: Path) -> None:
    """A pipe of that name would block whoever opens it; a link may lead anywhere; a folder is no file."""
    (tmp_path / "precious").write_bytes(b"precious")
    os.mkfifo(tmp_path / ABANDONED)
    os.symlink("precious", tmp_path / ABANDONED.replace("0", "1"))
    os.mkdir(tmp_path / ABANDONED.replace("0", "2"))
    write_whole(tmp_path / "target", b"new")
    assert (len(os.listdir(tmp_path)), (tmp_path / "precious").read_bytes()) == (5, b"precious")


def test_a_file_taken_for_abandoned_before_it_was_locked_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between creation and lock another process may remove it: then there is another; but not for ever."""
    flock = fcntl.flock
    lost: list[str] = []
    times = 1

    def remove_first(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX and len(lost) < times:
            lost.append(file.name)
            os.unlink(file.name)
        flock(file, operation)

    monkeypatch.setattr(files.fcntl, "flock", remove_first)
    write_whole(tmp_path / "target", b"new")
    assert (len(lost), os.listdir(tmp_path)) == (1, ["target"])
    times = 1000
    with pytest.raises(FileNotFoundError, match="removes new files"):
        write_whole(tmp_path / "target", b"newer")
    assert (tmp_path / "target").read_bytes() == b"new"


def test_without_locks_files_are_written_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that knows no locks nobody can tell whether a writer lives."""
    monkeypatch.setattr(files.fcntl, "flock", _unsupported)
    (tmp_path / ABANDONED).write_bytes(b"half")
    write_whole(tmp_path / "target", b"new")
    assert sorted(os.listdir(tmp_path)) == [ABANDONED, "target"]


def test_a_folder_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files into one folder do not look through it thousands of times."""
    searches = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: searches.append(folder) or scandir(folder))
    for number in range(5):
        write_whole(tmp_path / str(number), b"new")
    assert searches == [Path(os.path.realpath(tmp_path))]
