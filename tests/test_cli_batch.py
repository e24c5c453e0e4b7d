"""Laws of batches: one bad file never stops the rest, order is that of the inputs, signals leave nothing behind."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from lossless_codec import LosslessCodec, damaged, vaec
from PIL import Image

from vaecodec import codec, errors
from vaecodec.cli import commands, main
from vaecodec.cli.batch import Console, InputError, OutputError, Report, Task, exit_code, printable, run

SAMPLES = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
CLI = [sys.executable, "-m", "vaecodec"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in an empty folder, with an encoder that needs no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(codec, "Codec", LosslessCodec)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main, arguments)


def records(result: Result) -> list[dict[str, Any]]:
    """The JSON lines on stdout."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def shell(*arguments: str, cwd: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """Starts the command line as a process of its own."""
    return subprocess.Popen([*CLI, *arguments], cwd=cwd, env=ENVIRONMENT, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("x"), 3),
        (errors.VaecImageError("x"), 3),
        (errors.VaecFormatError("x"), 4),
        (errors.VaecTruncatedError("x"), 4),
        (errors.VaecChecksumError("x"), 4),
        (errors.VaecCorruptError("x"), 4),
        (errors.VaecMismatchError("x"), 4),
        (errors.VaecUnsupportedError("x"), 5),
        (errors.VaecModelError("x"), 5),
        (errors.VaecLimitError("x"), 6),
        (errors.VaecResourceError("x"), 6),
        (MemoryError(), 6),
        (OutputError("x"), 1),
        (errors.VaecTargetError("x"), 1),
        (RuntimeError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, expected: int) -> None:
    """One input exits with the code of its error, several always with 1, none with an error with 0."""
    assert exit_code([error], 1) == expected
    assert exit_code([error], 2) == exit_code([error, error], 5) == 1
    assert exit_code([], 1) == 0


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_batch_goes_on_after_bad_files(cli: Callable[..., Result], jobs: str) -> None:
    """Of 30 files, 6 are bad in 6 ways: 24 are written, 6 named with their codes, in order, and the exit code is 1."""
    png = io.BytesIO()
    Image.fromarray(SAMPLES).save(png, "PNG")
    data = vaec(SAMPLES)
    bad = {
        "04": (png.getvalue(), "BAD_MAGIC"),
        "08": (data[:-1], "SHORT_FILE"),
        "12": (damaged(data), "TILE_CRC"),
        "16": (data + b"!", "TRAILING_DATA"),
        "20": (data[:4] + b"\x09" + data[5:], "VERSION"),
        "24": (b"", "BAD_MAGIC"),
    }
    names = [f"{number:02}" for number in range(30)]
    for name in names:
        Path(f"{name}.vaec").write_bytes(bad[name][0] if name in bad else data)
    result = cli("decode", "*.vaec", "-j", jobs, "--json")
    found = records(result)
    assert result.exit_code == 1
    assert [record["path"] for record in found] == [f"{name}.vaec" for name in names]
    assert {record["path"][:2]: record["code"] for record in found if record["status"] == "failed"} == {
        name: code for name, (_, code) in bad.items()
    }
    assert {Path(name).stem for name in os.listdir() if name.endswith(".png")} == set(names) - bad.keys()
    human = cli("decode", "*.vaec", "-j", jobs, "--skip-existing")
    assert (human.exit_code, human.stdout) == (1, "")
    assert human.stderr.endswith("24 skipped, 6 failed\n")


def test_a_batch_that_has_nothing_to_do_succeeds(cli: Callable[..., Result]) -> None:
    """Skipped files and an empty folder are no failures."""
    Path("a.vaec").write_bytes(vaec(SAMPLES))
    Path("b.vaec").write_bytes(vaec(SAMPLES))
    assert cli("decode", "a.vaec", "b.vaec").exit_code == 0
    assert cli("decode", "a.vaec", "b.vaec", "--skip-existing").exit_code == 0
    assert cli("decode", "a.vaec", "b.vaec").exit_code == 1
    os.mkdir("empty")
    assert cli("decode", "-r", "empty").exit_code == 0


def test_dry_run_tells_the_plan_and_writes_nothing(cli: Callable[..., Result]) -> None:
    """-n reads and writes no file, and fails where the real run would have been refused."""
    Path("a.vaec").write_bytes(b"not read")
    Path("b.vaec").write_bytes(b"not read")
    Path("b.png").write_bytes(b"old")
    result = cli("decode", "a.vaec", "b.vaec", "-n", "--json")
    assert [(record["status"], record.get("output"), record.get("code")) for record in records(result)] == [
        ("planned", "a.png", None),
        ("failed", None, "EXISTS"),
    ]
    assert (result.exit_code, sorted(os.listdir())) == (1, ["a.vaec", "b.png", "b.vaec"])


def test_preserve_copies_the_times(cli: Callable[..., Result]) -> None:
    """-p gives the output the modification time of its input; without it, the time is that of writing."""
    Path("a.vaec").write_bytes(vaec(SAMPLES))
    os.utime("a.vaec", ns=(10**18, 10**18))
    assert cli("decode", "a.vaec", "-p").exit_code == 0
    assert cli("decode", "a.vaec", "b.png").exit_code == 0
    assert os.stat("a.png").st_mtime_ns == 10**18
    assert os.stat("b.png").st_mtime_ns > 10**18


def test_jobs_split_the_cores_unless_told_otherwise(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -j, torch gets its share of the cores for each thread; an explicit setting stands."""
    Path("a.vaec").write_bytes(vaec(SAMPLES))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cli("decode", "a.vaec", "-n")
    assert "OMP_NUM_THREADS" not in os.environ
    cli("decode", "a.vaec", "-n", "-j", "2")
    assert os.environ["OMP_NUM_THREADS"] == "4"
    cli("decode", "a.vaec", "-n", "-j", "8")
    assert os.environ["OMP_NUM_THREADS"] == "4"


@given(st.lists(st.sampled_from(["good", "bad", "warns"]), max_size=12), st.integers(1, 4))
def test_reports_come_in_order_and_warnings_stay_with_their_input(kinds: list[str], threads: int) -> None:
    """However many threads compute, each input is finished in turn, in the main thread, with its own warnings only."""
    told: list[tuple[int, str, tuple[str, ...]]] = []

    class Ear(Console):
        def report(self, label: dict[str, str], report: Report, *, is_answer: bool, warned: Any) -> None:
            told.append((int(label["path"]), report.status, tuple(warned)))

        def fail(self, label: dict[str, str], error: Exception) -> None:
            told.append((int(label["path"]), "failed", ()))

        def sum_up(self, counts: Any, total_bytes: object = None) -> None:
            pass

    def compute(number: int) -> int:
        if kinds[number] == "bad":
            raise ValueError
        if kinds[number] == "warns":
            warnings.warn(f"of {number}", UserWarning, stacklevel=1)
        return number

    def finish(number: int, value: int) -> Report:
        assert (value, threading.current_thread()) == (number, threading.main_thread())
        return Report("done", "")

    code = run(range(len(kinds)), Task(str, compute, finish), console=Ear(), threads=threads)
    words = {"good": "done", "warns": "done", "bad": "failed"}
    assert told == [(n, words[kind], (f"of {n}",) if kind == "warns" else ()) for n, kind in enumerate(kinds)]
    assert code == ("bad" in kinds)


def test_an_interrupt_cancels_what_has_not_begun() -> None:
    """After Ctrl-C no further input is begun, and what was computed already is not written."""
    begun, finished = [], []

    def compute(number: int) -> int:
        begun.append(number)
        return number

    def finish(number: int, _: int) -> Report:
        if number == 1:
            raise KeyboardInterrupt
        finished.append(number)
        return Report("done", "")

    with pytest.raises(KeyboardInterrupt):
        run(range(100), Task(str, compute, finish), console=Console(), threads=2)
    assert finished == [0]
    assert len(begun) <= 8


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("has_rich", [True, False])
def test_progress_is_shown_on_a_terminal_only(has_rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar for two files or more, on a terminal, unless --json, --quiet or --no-progress; lines stay readable."""
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.progress", None)

    def shown(total: int = 2, *, stream: io.StringIO, **flags: bool) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        console = Console()
        vars(console).update(flags)
        with console.progress(total) as advance:
            advance()
            console.say("a line")
            advance()
        assert "a line\n" in stream.getvalue()
        return stream.getvalue().replace("a line\n", "")

    assert shown(stream=Terminal()) != ""
    assert shown(stream=io.StringIO()) == ""
    assert shown(1, stream=Terminal()) == ""
    for flag in ("is_json", "is_quiet", "hides_progress"):
        assert shown(stream=Terminal(), **{flag: True}) == ""


def test_bytes_are_not_written_to_a_terminal(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that would land on a terminal is wrong usage."""
    monkeypatch.setattr(commands, "sys", SimpleNamespace(stdout=Terminal(), modules=sys.modules))
    Path("a.vaec").write_bytes(vaec(SAMPLES))
    result = cli("decode", "a.vaec", "-")
    assert (result.exit_code, result.stdout_bytes) == (2, b"")


def test_names_cannot_write_on_the_terminal() -> None:
    """Control characters in file names are shown as escapes; other names as they are."""
    assert printable("photo é.png") == "photo é.png"
    assert printable("a\x1b[2J\n.png") == r"'a\x1b[2J\n.png'"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_batch_without_leftovers(tmp_path: Path, number: int, expected: int) -> None:
    """Ctrl-C and SIGTERM: whole files or none, no temporary files, an end before the last picture, the exit code."""
    data = vaec(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8))
    for index in range(40):
        (tmp_path / f"{index:02}.vaec").write_bytes(data)
    process = shell("decode", "-r", ".", "--out-dir", "out", cwd=tmp_path)
    while not list(tmp_path.glob("out/*.png")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, message = process.communicate(timeout=120)
    assert process.returncode == expected, message
    assert b"Traceback" not in message
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 0 < len(written) < 40
    assert all(name.endswith(".png") for name in written)
    for name in written:
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    """`vaecodec decode a.vaec - | head -c1` ends quietly with a failure."""
    (tmp_path / "a.vaec").write_bytes(vaec(SAMPLES))
    read, write = os.pipe()
    os.close(read)
    process = shell("decode", "a.vaec", "-", cwd=tmp_path, stdout=write)
    os.close(write)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 1
    assert message == b"error: a.vaec: cannot write -: Broken pipe [OUTPUT]\n"
