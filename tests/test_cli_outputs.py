"""Laws of outputs: every input has its own, no input is ever one, and each is written whole or not at all."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaecodec.cli import outputs
from vaecodec.cli.outputs import Job, Placement, expand, plan, write_output
from vaecodec.errors import VaecError

ENCODE = {
    "suffix": ".vaec",
    "picks": lambda name: name.endswith((".png", ".jpg")),
    "is_output": lambda n: n.endswith(".vaec"),
}
DECODE = {
    "suffix": ".png",
    "picks": lambda name: name.endswith(".vaec"),
    "is_output": lambda n: not n.endswith(".vaec"),
}
NAMES = st.sampled_from(
    ["a.png", "a.jpg", "b.png", "x/a.png", "x/y/a.png", "x/b.jpg", "x/note.txt", "z/a.png", "a.vaec"]
)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    """Makes files and the folders that they lie in."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def pairs(arguments: Sequence[str], **options: Any) -> dict[str, str]:
    """Input and output of each job that is not refused."""
    jobs = plan(arguments, Placement(**(ENCODE | options)))
    return {job.source: job.target for job in jobs if not job.refused}


def refusals(arguments: Sequence[str], **options: Any) -> dict[str, str]:
    """Input and code of each job that is refused."""
    jobs = plan(arguments, Placement(**(ENCODE | options)))
    return {job.source: job.refused.code for job in jobs if job.refused}


@given(
    files=st.sets(NAMES, min_size=1),
    arguments=st.lists(NAMES | st.sampled_from([".", "x", "z", "x/y", "*.png", "**/*.jpg"]), min_size=1, max_size=5),
    out_dir=st.none() | st.sampled_from(["out", "x", "."]),
    force=st.booleans(),
)
def test_outputs_are_distinct_and_never_inputs(
    files: set[str], arguments: list[str], out_dir: str | None, force: bool
) -> None:
    """Whatever is asked for, no two jobs share an output, none writes an input, and no input is lost or doubled."""
    options = {"out_dir": out_dir, "recursive": True, "force": force}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        touch(*files)
        try:
            jobs = plan(arguments, Placement(**(ENCODE | options)))
        except click.UsageError:
            return
    allowed = [job for job in jobs if not job.refused]
    targets = [os.path.normpath(job.target) for job in allowed]
    sources = [job.source for job in jobs]
    assert len(set(targets)) == len(targets)
    assert len(set(sources)) == len(sources)
    assert not set(targets) & {os.path.normpath(source) for source in sources}
    assert force or not set(targets) & files
    assert set(sources) >= (files & set(arguments[:-1] if len(arguments) == 2 else arguments))


@pytest.mark.parametrize(
    ("present", "arguments", "options", "expected"),
    [
        ("a.png", "a.png", {}, {"a.png": "a.vaec"}),
        ("a.png", "a.png b.vaec", {}, {"a.png": "b.vaec"}),
        ("a.png", "a.png b.out", {}, {"a.png": "b.out"}),
        ("a.png", "a.png -", {}, {"a.png": "-"}),
        ("", "-", {}, {"-": "-"}),
        ("", "- b.vaec", {}, {"-": "b.vaec"}),
        ("", "-", {"out_dir": "o"}, {"-": "o/stdin.vaec"}),
        ("a.png b.vaec", "a.png b.vaec", {"force": True}, {"a.png": "b.vaec"}),
        ("a.png b.png", "a.png b.png", {}, {"a.png": "a.vaec", "b.png": "b.vaec"}),
        ("a.png b.png", "a.png b.png a.png", {}, {"a.png": "a.vaec", "b.png": "b.vaec"}),
        ("a.png", "a.png", {"output": "o/b.vaec"}, {"a.png": "o/b.vaec"}),
        ("a.png", "a.png o/", {}, {"a.png": "o/a.vaec"}),
        ("a.png o/x", "a.png o", {}, {"a.png": "o/a.vaec"}),
        ("a.png o/x", "a.png", {"output": "o"}, {"a.png": "o/a.vaec"}),
        ("d/a.png", "d/a.png", {}, {"d/a.png": "d/a.vaec"}),
        ("d/a.png", "d/a.png", {"out_dir": "o"}, {"d/a.png": "o/a.vaec"}),
        ("d/a.png d/e/a.png", "d", {"recursive": True}, {"d/a.png": "d/a.vaec", "d/e/a.png": "d/e/a.vaec"}),
        (
            "d/a.png d/e/a.png d/e/note.txt d/.trash/a.png d/.b.png",
            "d",
            {"recursive": True, "out_dir": "o"},
            {"d/a.png": "o/a.vaec", "d/e/a.png": "o/e/a.vaec"},
        ),
        ("d/a.png", "d o", {"recursive": True}, {"d/a.png": "o/a.vaec"}),
        (
            "d/a.png e/a.png",
            "d e/",
            {"recursive": True, "out_dir": "o"},
            {"d/a.png": "o/d/a.vaec", "e/a.png": "o/e/a.vaec"},
        ),
        ("d/a.png d/b.png e/a.png", "d/*.png", {}, {"d/a.png": "d/a.vaec", "d/b.png": "d/b.vaec"}),
        ("d/a.png d/e/a.png", "d/**/*.png", {"out_dir": "o"}, {"d/a.png": "o/a.vaec", "d/e/a.png": "o/e/a.vaec"}),
        ("a.png b.jpg", "*.png *.jpg", {}, {"a.png": "a.vaec", "b.jpg": "b.vaec"}),
        ("d/a.png", "d*", {"recursive": True, "out_dir": "o"}, {"d/a.png": "o/d/a.vaec"}),
        ("a[1].png a1.png", "a[1].png", {}, {"a[1].png": "a[1].vaec"}),
        ("a[1].png b.vaec", "a[1].png b.vaec", {"force": True}, {"a[1].png": "b.vaec"}),
        ("a.vaec", "a.vaec", {**DECODE}, {"a.vaec": "a.png"}),
        ("a.vaec b.png", "a.vaec b.png", {**DECODE, "force": True}, {"a.vaec": "b.png"}),
        ("a.vaec b.vaec", "a.vaec b.vaec", {**DECODE}, {"a.vaec": "a.png", "b.vaec": "b.png"}),
    ],
)
def test_arguments_pair_inputs_with_outputs(
    present: str, arguments: str, options: dict[str, Any], expected: dict[str, str]
) -> None:
    """The rules of the help page, one by one."""
    touch(*present.split())
    assert pairs(arguments.split(), **options) == expected


@pytest.mark.parametrize(
    ("present", "arguments", "options", "expected"),
    [
        ("a.png a.vaec", "a.png", {}, {"a.png": "EXISTS"}),
        ("a.vaec", "a.vaec", {"force": True}, {"a.vaec": "SAME_FILE"}),
        ("a.png b.png", "a.png b.png", {"force": True, "suffix": ".png"}, {"a.png": "SAME_FILE", "b.png": "SAME_FILE"}),
        ("a.png a.jpg", "a.png a.jpg", {"force": True}, {"a.jpg": "COLLISION"}),
        ("d/a.png e/a.png", "d/a.png e/a.png", {"out_dir": "o"}, {"e/a.png": "COLLISION"}),
        ("d/a.png", "d", {}, {"d": "INPUT"}),
        ("a.png", "*.jpg", {}, {"*.jpg": "INPUT"}),
    ],
)
def test_jobs_are_refused_one_by_one(
    present: str, arguments: str, options: dict[str, Any], expected: dict[str, str]
) -> None:
    """What must not be written is refused with its code, and only that."""
    touch(*present.split())
    assert refusals(arguments.split(), **options) == expected


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links")
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_input_is_recognised_under_any_name(link: Callable[[str, str], None]) -> None:
    """A link to an input is that input: it is not overwritten, not even with -f."""
    touch("a.png")
    link("a.png", "b.vaec")
    assert refusals(["a.png"], output="b.vaec", force=True) == {"a.png": "SAME_FILE"}


def test_skip_existing_skips_and_is_no_failure() -> None:
    """Only jobs whose output is there are skipped."""
    touch("a.png", "b.png", "a.vaec")
    jobs = plan(["a.png", "b.png"], Placement(**ENCODE, skip_existing=True))
    assert [(job.source, job.is_skipped, job.refused) for job in jobs] == [
        ("a.png", True, None),
        ("b.png", False, None),
    ]


def test_several_inputs_cannot_share_one_output() -> None:
    """-o takes one input, also if a pattern or a folder hides how many there are."""
    touch("a.png", "b.png")
    for arguments in (["a.png", "b.png"], ["*.png"]):
        with pytest.raises(click.UsageError, match="2 inputs"):
            plan(arguments, Placement(**ENCODE, output="c.vaec"))


def test_an_unreadable_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed is a failure, not an empty folder."""
    touch("d/a.png", "d/e/b.png")
    scandir = os.scandir

    def refuse_e(path: str) -> Any:
        if path.endswith("e"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_e)
    readable, unreadable = expand("d", recursive=True)
    assert (readable.source, readable.refused) == ("d/a.png", None)
    assert unreadable.source == "d/e"
    assert "Permission denied" in str(unreadable.refused)


def test_a_new_output_has_its_bytes_times_and_usual_rights() -> None:
    """A written file is as `open` would have made it; an overwritten one keeps its rights."""
    write_output(Job("a", "b"), b"data", overwrite=False, times_ns=(10**18, 2 * 10**18))
    touch("plain")
    status = os.stat("b")
    assert Path("b").read_bytes() == b"data"
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (2 * 10**18, stat.S_IMODE(os.stat("plain").st_mode))
    os.chmod("b", 0o640)
    write_output(Job("a", "b"), b"more", overwrite=True)
    assert (Path("b").read_bytes(), stat.S_IMODE(os.stat("b").st_mode)) == (b"more", 0o640)


def test_out_dir_is_made_but_no_other_folder() -> None:
    """A missing folder is made for --out-dir; in a given output it is a mistake."""
    write_output(Job("a", "o/p/b", folder="o/p"), b"data", overwrite=False)
    assert Path("o/p/b").read_bytes() == b"data"
    with pytest.raises(VaecError, match="No such file"):
        write_output(Job("a", "missing/b"), b"data", overwrite=False)


def test_an_output_that_appeared_meanwhile_is_kept() -> None:
    """Whether a file may be overwritten is asked again when it is written."""
    touch("a.png")
    (job,) = plan(["a.png"], Placement(**ENCODE))
    Path("a.vaec").write_bytes(b"precious")
    with pytest.raises(VaecError) as caught:
        write_output(job, b"data", overwrite=False)
    assert (caught.value.code, Path("a.vaec").read_bytes()) == ("EXISTS", b"precious")


def test_a_link_stays_a_link() -> None:
    """Overwriting a symbolic link replaces the file that it points to."""
    touch("real")
    os.symlink("real", "link")
    write_output(Job("a", "link"), b"data", overwrite=True)
    assert (os.readlink("link"), Path("real").read_bytes()) == ("real", b"data")


@pytest.mark.skipif(os.name != "posix", reason="no named pipes")
def test_a_pipe_or_device_is_written_to_and_not_replaced() -> None:
    """What is no file is opened, never renamed over."""
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(Job("a", "pipe"), b"data", overwrite=False)
        assert os.read(reader, 10) == b"data"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.parametrize("target", ["folder", "missing/b", "n" * 300, "/dev/full"])
def test_an_output_that_cannot_be_written_is_an_error_and_leaves_nothing(target: str) -> None:
    """A folder, a missing folder, a name too long, a full disk: OutputError, and no temporary file."""
    if target.startswith("/dev") and not os.path.exists(target):
        pytest.skip("no such device")
    os.mkdir("folder")
    with pytest.raises(VaecError) as caught:
        write_output(Job("a", target), b"data", overwrite=True)
    assert (caught.value.code, os.listdir()) == ("OUTPUT", ["folder"])


@pytest.mark.parametrize("step", ["fsync", "chmod", "utime", "replace"])
@pytest.mark.parametrize(
    "blow", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), SystemExit(143)]
)
def test_whatever_stops_a_write_leaves_the_old_file_and_nothing_else(
    step: str, blow: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step of writing, an error or a signal leaves the old file whole and no temporary file."""
    Path("b").write_bytes(b"old")

    def stop(*_: object, **__: object) -> None:
        raise blow

    monkeypatch.setattr(outputs.os, step, stop)
    with pytest.raises(VaecError if isinstance(blow, OSError) else type(blow)):
        write_output(Job("a", "b"), b"new", overwrite=True, times_ns=(0, 0))
    assert (os.listdir(), Path("b").read_bytes()) == (["b"], b"old")
