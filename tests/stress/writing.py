"""Programs killed, interrupted or run side by side while they write one file."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lossless_codec import vaec
from PIL import Image

from stress import Outcome
from vaecodec import verify
from vaecodec.errors import VaecError

TESTS = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS))), "OMP_NUM_THREADS": "1"}
OVERWRITER = [sys.executable, str(Path(__file__).with_name("overwriter.py"))]
COMMAND = [sys.executable, "-c", "print(flush=True); from vaecodec.cli import main; main(prog_name='vaecodec')"]
PATIENCE_S = 120
ENOUGH_SIGNALS = 10  # for one at least to meet a command that still runs
LONGEST_LIFE_S = 0.06


def kill_while_overwriting(way: str, sources: Sequence[Path], folder: Path, *, kills: int, seed: int = 0) -> Outcome:
    """Kills a program again and again at random moments while it overwrites a file.

    Args:
        way: how it writes, see `overwriter`.
        sources: what it writes in turn.
        folder: where it writes; nothing else may be there.
        kills: how often.
        seed: of the moments.

    The file must always be one of those written, whole; and what a killed one left must be gone once the next has
    written. With Pillow, the file may also be one that no reader takes for a picture.
    """
    outcome, moments = Outcome(), random.Random(seed)
    target = folder / _target_name(way)
    whole = _written_alone(way, sources)
    left: set[str] = set()
    for number in range(kills):
        with _overwriting(way, target, sources) as process:
            outcome.require(not left & set(os.listdir(folder)), f"{left} outlives the run after kill {number}")
            time.sleep(moments.uniform(0, LONGEST_LIFE_S))
            process.kill()
        outcome.counts["kills"] += 1
        left = set(os.listdir(folder)) - {target.name}
        outcome.counts["left a temporary file"] += len(left)
        found = target.read_bytes()
        if found in whole:
            outcome.counts[f"whole file {whole.index(found) + 1}"] += 1
        else:
            outcome.counts["refused"] += 1
            is_refused = way == "pillow" and not _is_picture(target)
            outcome.require(is_refused, f"kill {number} left {len(found)} bytes that are no whole file")
    _overwrite_once(way, target, sources)
    outcome.require(set(os.listdir(folder)) == {target.name}, f"{os.listdir(folder)} after the last run")
    return outcome


def stop_command(
    arguments: Sequence[str], folder: Path, *, number: signal.Signals, moments: Iterable[float]
) -> Outcome:
    """Runs a command that writes into the folder `out`, and sends it a signal at each of several moments.

    Args:
        arguments: the command, its inputs and "--out-dir out".
        folder: where to run it.
        number: the signal.
        moments: when, as parts of the time that an undisturbed run takes (its start-up is not counted).

    Every file in `out` must be whole, none temporary; the exit code must be that of the signal, or 0 with all files.
    """
    outcome = Outcome()
    with _command(arguments, folder) as process:
        start_s = time.monotonic()
        process.communicate(timeout=PATIENCE_S)
        duration_s = time.monotonic() - start_s
    whole = _take_away(folder / "out")
    for moment in moments:
        with _command(arguments, folder) as process:
            time.sleep(moment * duration_s)
            process.send_signal(number)
            _, said = process.communicate(timeout=PATIENCE_S)
        duration_s *= 0.8 if process.returncode == 0 else 1.05  # the machine may have other work, now more, now less
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode  # as a shell tells it
        found = _take_away(folder / "out")
        outcome.counts["signals"] += 1
        outcome.counts["stopped with files written" if 0 < len(found) < len(whole) else f"exit {code}"] += 1
        outcome.require(
            code == 128 + number or (code == 0 and found == whole), f"at {moment:.3f}: exit {code}, {said!r}"
        )
        outcome.require(found.items() <= whole.items(), f"at {moment:.3f}: {sorted(found)} are not all whole")
        outcome.require(b"Traceback" not in said or process.returncode < 0, f"at {moment:.3f}: {said!r}")
    if outcome.counts["signals"] >= ENOUGH_SIGNALS:
        outcome.require(outcome.counts["exit 0"] < outcome.counts["signals"], "no signal stopped anything")
    return outcome


def many_writers(sources: Sequence[Path], folder: Path, *, writers: int, reads: int) -> Outcome:
    """Lets several processes overwrite one file at a time, reads it meanwhile, and kills them all.

    Whatever is read must be whole, and after one more run nothing but the file must be left.
    """
    outcome = Outcome()
    target = folder / _target_name("writer")
    whole = _written_alone("writer", sources)
    with ExitStack() as stack:
        commands = [[*OVERWRITER, "ever", "writer", target, *sources]] * writers
        processes = [stack.enter_context(_started(command)) for command in commands]
        for process in processes:
            process.stdout.readline()
        for _ in range(reads):
            found = target.read_bytes()
            outcome.counts["reads"] += 1
            outcome.require(found in whole, f"{len(found)} bytes that are no whole file")
            time.sleep(0.001)
        outcome.require(all(process.poll() is None for process in processes), "a writer failed")
    outcome.counts["left a temporary file"] += len(os.listdir(folder)) - 1
    _overwrite_once("writer", target, sources)
    outcome.require(os.listdir(folder) == [target.name], f"{os.listdir(folder)} after the last run")
    return outcome


def lossless_files(folder: Path, sides: Iterable[int]) -> list[Path]:
    """Makes .vaec files of noise that decode without weights."""
    paths = []
    for number, side in enumerate(sides):
        samples = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        paths.append(folder / f"{number:02}.vaec")
        paths[-1].write_bytes(vaec(samples))
    return paths


def pictures(folder: Path, sides: Iterable[int]) -> list[Path]:
    """Makes .png files of soft shapes."""
    paths = []
    for number, side in enumerate(sides):
        ramp = np.add.outer(np.arange(side), number * np.arange(side))[..., None] + np.arange(3) * 40
        paths.append(folder / f"{number:02}.png")
        Image.fromarray((ramp % 256).astype(np.uint8)).save(paths[-1])
    return paths


def _target_name(way: str) -> str:
    return "target.png" if way == "command" else "target.vaec"


def _written_alone(way: str, sources: Sequence[Path]) -> list[bytes]:
    """What each source becomes, undisturbed."""
    whole = []
    for source in sources:
        with tempfile.TemporaryDirectory() as name:
            target = Path(name) / _target_name(way)
            _overwrite_once(way, target, [source])
            whole.append(target.read_bytes())
    return whole


def _overwrite_once(way: str, target: Path, sources: Sequence[Path]) -> None:
    subprocess.run([*OVERWRITER, "once", way, target, *sources], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _overwriting(way: str, target: Path, sources: Sequence[Path]) -> Iterator[Any]:
    """A program that has written every source at least once, and goes on."""
    with _started([*OVERWRITER, "ever", way, target, *sources]) as process:
        process.stdout.readline()
        yield process


@contextmanager
def _command(arguments: Sequence[str], folder: Path) -> Iterator[Any]:
    """The command line, once Python has started."""
    with _started([*COMMAND, *arguments], cwd=folder, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process


@contextmanager
def _started(command: Sequence[str | Path], **options: Any) -> Iterator[Any]:
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def _take_away(folder: Path) -> dict[str, bytes]:
    """The files of a folder, which is removed."""
    if not folder.exists():
        return {}
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    return found


def _is_picture(path: Path) -> bool:
    try:
        verify(path)
    except VaecError:
        return False
    return True
