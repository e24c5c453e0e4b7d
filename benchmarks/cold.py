"""Measures a fresh process per picture: time and memory by engine, against Pillow's AVIF; and installed sizes.

Commands run in turn, on an otherwise idle machine and next to a process that keeps one core busy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import results, timings

KODAK_MP, PHOTO_MP = 0.393216, 12.0
ENGINES = ("native", "torch")
OPEN = "import sys; from PIL import Image; {plugin}Image.open(sys.argv[1]).load()"
SAVE = "import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2])"
SPIN = "while True: pass"
# Run in a small process, because a fresh process counts the memory of its parent at the fork as its own peak.
WATCH = """
import os, sys, time
start = time.perf_counter()
out = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=out)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""
ENVIRONMENTS = {"light": ".", "torch": ".[torch]"}  # pip requirements, from a checkout
TORCH = "torch==2.13.0"  # the CPU build, if there is a choice


class Task(NamedTuple):
    """A command for a fresh process, and its engine."""

    name: str
    engine: str
    command: tuple[str, ...]


class Cost(NamedTuple):
    """The seconds and peak memory in bytes of one run."""

    seconds: float
    rss_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the table; returns 0."""
    options = _parser().parse_args(arguments)
    report: dict[str, Any] = {
        "machine": results.machine(None), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "sizes": {}, "installed_bytes": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in map(float, options.megapixels.split(",")):
            tasks = tasks_of(Path(folder), megapixels, options.data)
            found = {"idle": measure(tasks, options.repeats)}
            with busy():
                found["beside a busy process"] = measure(tasks, options.repeats)
            report["sizes"][f"{megapixels:.1f} MP"] = found
    for name in filter(None, options.environments.split(",")):
        report["installed_bytes"][name] = installed_bytes(ENVIRONMENTS[name])
    text = json.dumps(report, indent=1) + "\n"
    print(text, end="")
    results.write_atomically(options.out, text)
    return 0


def tasks_of(folder: Path, megapixels: float, data: str | None) -> list[Task]:
    """All commands for a picture of a size; makes its files first."""
    png, avif, vaec, out = (str(folder / f"{megapixels}.{suffix}") for suffix in ("png", "avif", "vaec", "out.png"))
    picture = timings.pictures_of(megapixels, data)[0]
    picture.save(png)
    picture.save(avif)
    run_python = [sys.executable, "-c"]
    command_line = [sys.executable, "-m", "vaecodec"]
    subprocess.run([*command_line, "encode", png, vaec], check=True, capture_output=True, cwd=results.ROOT)
    tasks = [Task("command line: thumbnail", "native", (*command_line, "thumbnail", vaec, out))]
    for engine in ENGINES:
        tasks += [
            Task("command line: encode", engine, (*command_line, "encode", "-f", png, vaec)),
            Task("command line: decode", engine, (*command_line, "decode", "-f", vaec, out)),
            Task("Image.open().load()", engine, (*run_python, OPEN.format(plugin="import vaecodec; "), vaec)),
        ]
    avif_tasks = [
        Task("Image.save()", "avif", (*run_python, SAVE, png, avif)),
        Task("Image.open().load()", "avif", (*run_python, OPEN.format(plugin=""), avif)),
    ]
    return tasks + avif_tasks


def measure(tasks: Sequence[Task], repeats: int) -> list[dict[str, Any]]:
    """Medians of all tasks, run in turn so that changes of the machine's load affect all alike."""
    costs: dict[Task, list[Cost]] = {task: [] for task in tasks}
    for _ in range(repeats):
        for task, found in costs.items():
            found.append(run(task))
    return [
        {
            "task": task.name, "engine": task.engine,
            "seconds": round(statistics.median(cost.seconds for cost in found), 3),
            "peak_rss_bytes": round(statistics.median(cost.rss_bytes for cost in found)),
        }
        for task, found in costs.items()
    ]  # fmt: skip


def run(task: Task) -> Cost:
    """One run of a task.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    environment = {**os.environ, "VAECODEC_ENGINE": task.engine if task.engine in ENGINES else "auto"}
    for name in (
        "OMP_NUM_THREADS",
        "PYTHONDONTWRITEBYTECODE",
    ):  # the latter would make every process compile every module
        environment.pop(name, None)
    watch = [sys.executable, "-I", "-S", "-c", WATCH, *task.command]
    found = subprocess.run(watch, env=environment, cwd=results.ROOT, stdout=subprocess.PIPE, check=True, text=True)
    seconds, peak_kb, code = found.stdout.split()
    if int(code):
        raise subprocess.CalledProcessError(int(code), task.command)
    return Cost(float(seconds), 1024 * int(peak_kb))


def installed_bytes(wanted: str) -> dict[str, int]:
    """Bytes of a fresh environment with this package, without pip itself, and of its largest packages."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = str(Path(folder, "bin", "python"))
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        if "torch" in wanted:
            subprocess.run([*pip, TORCH], check=True)
        subprocess.run([*pip, wanted], check=True, cwd=results.ROOT)
        (site,) = Path(folder).glob("lib/python*/site-packages")
        sizes = {each.name: _bytes_of(each) for each in site.iterdir()}
        largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:8])
        return {"all": _bytes_of(Path(folder)), **largest}


@contextmanager
def busy() -> Iterator[None]:
    """Keeps one core busy with another process while the block runs."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _bytes_of(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(map(_bytes_of, path.iterdir()))
    return path.lstat().st_size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", help="folder or data set whose first picture is used [sample]")
    parser.add_argument("--megapixels", default=f"{KODAK_MP},{PHOTO_MP}", help="sizes")
    parser.add_argument("--repeats", type=int, default=5, help="runs of every task")
    parser.add_argument(
        "--environments", default=",".join(ENVIRONMENTS), help="environments to install and measure; empty for none"
    )
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "cold.json"), help="result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
