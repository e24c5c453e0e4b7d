"""Laws of standard streams and signals: closed, full or unread streams are told apart, signals become exit codes."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lossless_codec import vaec

import vaecodec
from vaecodec.cli import commands, main, streams

if os.name != "posix":
    pytest.skip("shells, devices and signals of POSIX", allow_module_level=True)

SAMPLES = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
FULL = "No space left on device [OUTPUT]\n"
CLI = f"{sys.executable} -m vaecodec"
# Without PYTHONUNBUFFERED, as users have it: what a stream has not delivered then waits in its buffer.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
    "PYTHONPATH": str(Path(__file__).parents[1])
}


def shell(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a line of shell; "vaecodec" in it is the command line."""
    script = f'vaecodec() {{ {CLI} "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two .vaec files."""
    for name in ("a.vaec", "b.vaec"):
        (tmp_path / name).write_bytes(vaec(SAMPLES))
    return tmp_path


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("vaecodec decode a.vaec - >/dev/full", 1, f"error: a.vaec: cannot write -: {FULL}"),
        ("vaecodec decode a.vaec - >&-", 1, "error: a.vaec: cannot write -: it is closed [OUTPUT]\n"),
        ("vaecodec info a.vaec b.vaec >/dev/full", 1, f"error: cannot write to stdout: {FULL}"),
        ("vaecodec info a.vaec --json >/dev/full", 1, f"error: cannot write to stdout: {FULL}"),
        ("vaecodec info a.vaec >&-", 1, "error: cannot write to stdout: it is closed [OUTPUT]\n"),
        ("vaecodec info - <&-", 3, "error: -: cannot read it: stdin is closed [INPUT]\n"),
        ("vaecodec decode - -o c.png <&-", 3, "error: -: cannot read it: stdin is closed [INPUT]\n"),
        ("vaecodec decode a.vaec b.vaec 2>/dev/full", 0, ""),
        ("vaecodec decode a.vaec b.vaec 2>&-", 0, ""),
        ("(sleep 0.2; vaecodec info a.vaec b.vaec; echo $? >code) | true; exit $(cat code)", 1, ""),
    ],
)  # fmt: skip
def test_a_stream_that_fails_is_named_and_nothing_else_is_said(
    folder: Path, command: str, code: int, said: str
) -> None:
    """No traceback, no second complaint when Python exits; people who cannot be told do not stop the work."""
    done = shell(command, folder)
    assert (done.returncode, done.stderr) == (code, said)
    written = {path.name for path in folder.glob("*.png")}
    assert written == ({"a.png", "b.png"} if "a.vaec b.vaec 2>" in command else set())


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["with space", "new\nline", "-dash", "[x]*", os.fsdecode(b"\xff\xfe")])
def test_any_name_can_be_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Blanks, control characters, dashes, patterns and names that are no text; messages about them stay one line."""
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.vaec").write_bytes(vaec(SAMPLES))
    for options, expected in (([], 0), ([], 1), (["-f", "--json"], 0)):
        result = CliRunner().invoke(main, ["decode", *options, "--", f"{name}.vaec"])
        assert result.exit_code == expected, result.output
        assert len(result.output.splitlines()) == 1
    assert json.loads(result.stdout)["output"] == f"{name}.png"
    assert sorted(os.listdir()) == sorted((f"{name}.vaec", f"{name}.png"))


def test_out_dir_that_is_a_file_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named as what cannot be written, and -f is not advised."""
    monkeypatch.chdir(folder)
    Path("out").write_bytes(b"precious")
    result = CliRunner().invoke(main, ["decode", "a.vaec", "--out-dir", "out"])
    assert (result.exit_code, Path("out").read_bytes()) == (1, b"precious")
    assert result.stderr == "error: a.vaec: cannot write out/a.png: File exists [OUTPUT]\n"


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], int]:
    """Decodes with something happening on the way; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    Path("a.vaec").write_bytes(vaec(SAMPLES))

    def run(happening: Callable[[], None]) -> int:
        monkeypatch.setattr(commands, "write_output", lambda *_, **__: happening())
        return CliRunner().invoke(main, ["decode", "a.vaec"]).exit_code

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_exit_code(decode: Callable[[Callable[[], None]], int], number: signal.Signals) -> None:
    """128 and its number; and afterwards the process handles signals as it did before."""
    before = signal.getsignal(number)
    assert decode(lambda: signal.raise_signal(number)) == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_a_command_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    """Also while the arguments are read, where click would say "Aborted!" and exit with 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "make_context", lambda *_, **__: signal.raise_signal(number))
    result = CliRunner().invoke(main, ["decode", "a.vaec"])
    assert (result.exit_code, result.stderr) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ignored_signals_stay_ignored(decode: Callable[[Callable[[], None]], int], number: signal.Signals) -> None:
    """What nohup or a shell's "&" asked for holds."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert decode(lambda: signal.raise_signal(number)) == 0
    finally:
        signal.signal(number, before)


def test_the_command_line_runs_in_any_thread(decode: Callable[[Callable[[], None]], int]) -> None:
    """Only the main thread may touch signal handlers; elsewhere they are left alone."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(decode(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_closed_stream_is_no_terminal() -> None:
    """Python says None for a stream that was closed before it started."""
    assert not streams.is_terminal(None)


INTERRUPTER = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
ENTRY_POINT = "import sys\nfrom vaecodec.cli import main\nsys.exit(main())\n"  # as pip writes it


@pytest.mark.parametrize("module", ["vaecodec.errors", "PIL", "click", "vaecodec.cli.uses"])
@pytest.mark.parametrize("start", [["-m", "vaecodec"], ["bin/vaecodec"], ["-c", "import vaecodec.cli"]])
def test_an_interrupt_during_imports(tmp_path: Path, start: list[str], module: str) -> None:
    """Of the command line is one like any other; programs that import the package get their KeyboardInterrupt."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vaecodec").write_text(ENTRY_POINT)
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTER)
    path = os.pathsep.join([str(tmp_path), str(Path(vaecodec.__file__).parents[1])])
    result = subprocess.run(
        [sys.executable, *start, *(["info", "a.vaec"] if "-c" not in start else [])], cwd=tmp_path, check=False,
        env={**ENVIRONMENT, "PYTHONPATH": path, "INTERRUPT_AT": module}, capture_output=True, text=True,
    )  # fmt: skip
    if "-c" in start:
        assert result.stderr.endswith("KeyboardInterrupt\n")
    else:
        assert (result.returncode, result.stderr) == (130, "interrupted\n")
