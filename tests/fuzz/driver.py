"""The long form of fuzzing, `make fuzz`: all campaigns, atheris where it is installed, coverage; a JSON record of it.

Usage: `PYTHONPATH=tests python -m fuzz.driver [--decode N] [--parse N] [--guided-s SECONDS] [--out FILE]`.
A part that is given 0 is left as the record has it; with --resume, campaigns go on where it ends. A campaign is
repeatable: the same numbers, code and weights give the same mutants. Those that break a law are kept in
out/fuzz/broken. Mutants are decoded by each engine that is there, which must make the same of them.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fuzz.campaign import BLOCK, Bench, Result
from fuzz.forge import bomb
from fuzz.parts import Parts
from fuzz.seeds import seeds, write_corpus
from fuzz.targets import TARGETS
from vaecodec import Codec
from vaecodec.errors import VaecLimitError
from vaecodec.format import sources
from vaecodec.model.native_engine.binding import is_available

ROOT = Path(__file__).parents[2]
WORK = ROOT / "out" / "fuzz"
RECORD = ROOT / "benchmarks" / "results" / "reliability" / "fuzz.json"
PACKAGES = ("torch", "numpy", "pillow", "constriction", "atheris", "coverage")
MEASURED = ("format/container.py", "format/records.py", "format/sources.py", "pictures/metadata.py", "entropy/*.py")
TESTS = ("bitstream", "coder", "tables", "lossless", "pixels", "fuzz", "limits", "refused")
LEAST_COVERAGE_PERCENT = 98.0
SLICES = 50
DECODED = ("decode", "partial", "plugin")
BY_NATIVE = tuple(f"{name}, native engine" for name in DECODED)


def measure_bomb(codec: Codec) -> dict[str, Any]:
    """Time and memory for refusing a bomb, and for opening it header-only."""
    data = bomb()
    acts = {
        "refused by decode": lambda: codec.decode(data),
        "refused by info": lambda: sources.info(data),
        "opened by info": lambda: sources.info(data, max_pixels=None),
    }
    return {"file_bytes": len(data), "pixels": 2**28} | {name: _time_and_memory(act) for name, act in acts.items()}


def run_guided(seconds: int, files: Mapping[str, Parts]) -> dict[str, Any]:
    """Runs every target under atheris for so many seconds, from a corpus of these files; empty where it is missing."""
    if not seconds or importlib.util.find_spec("atheris") is None:
        return {}
    write_corpus(WORK / "corpus", files)
    found: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        options = {"max_total_time": seconds, "timeout": 60, "rss_limit_mb": 4096, "print_final_stats": 1,
                   "dict": Path(__file__).with_name("vaec.dict"), "artifact_prefix": f"{WORK}/{target}-"}  # fmt: skip
        command = [sys.executable, "-m", "fuzz.guided", target, str(WORK / "corpus" / target)]
        command += [f"-{name}={value}" for name, value in options.items()]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        executions = re.findall(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
        slowest = re.findall(r"stat::slowest_unit_time_sec:\s+(\d+)", done.stderr)
        found[target] = {
            "executions": int(executions[-1]) if executions else 0,
            "seconds": seconds,
            "slowest_s": int(slowest[-1]) if slowest else None,
            "failed": bool(done.returncode),
        }
        if done.returncode:
            found[target]["end_of_log"] = done.stderr[-2000:]
    return found


def measure_coverage() -> dict[str, float]:
    """Line coverage in percent of each measured file by the tests of the container and the coders."""
    if importlib.util.find_spec("coverage") is None:
        return {}
    data_file = WORK / "coverage"
    coverage = [sys.executable, "-m", "coverage"]
    include = ",".join(f"vaecodec/{name}" for name in MEASURED)
    tests = [f"tests/test_{name}.py" for name in TESTS]
    for arguments in (
        ["run", f"--include={include}", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests],
        ["json", "-o", f"{data_file}.json"],
    ):
        environment = os.environ | {"COVERAGE_FILE": str(data_file)}
        subprocess.run([*coverage, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    files = json.loads(Path(f"{data_file}.json").read_text())["files"]
    return {name: round(entry["summary"]["percent_covered"], 1) for name, entry in sorted(files.items())}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": date.today().isoformat(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


class Driver:
    """Runs all parts and writes the record after each, and in long campaigns every few minutes.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.codec = Codec(None, "cpu", engine="torch")
        self.bench = Bench(self.codec, seeds(self.codec), WORK / "broken")
        self.native = Bench(Codec(engine="native"), self.bench.seeds, WORK / "broken") if is_available() else None
        self.record = json.loads(options.out.read_text()) if options.out.exists() else {}

    def run(self) -> bool:
        """Runs what is wanted; returns whether a law was broken, or too few lines were covered."""
        self.bench.warm_up()
        self._note(machine=machine(), model_id=self.codec.engine.model_id.hex(), seeds=len(self.bench.seeds))
        self._note(bomb=measure_bomb(self.codec))
        if self.options.flips:
            self._note(every_flip_and_cut=self.bench.every_flip_and_cut().as_json())
        self._campaign(self.options.parse, ("parse",), lambda *args, **more: {"parse": self.bench.parse(*args, **more)})
        self._campaign(self.options.decode, DECODED, self.bench.decode)
        if self.native:
            self.native.warm_up()
            self._campaign(self.options.decode, BY_NATIVE, self.native.decode)
        if self.options.guided_s:
            self._note(guided=run_guided(self.options.guided_s, self.bench.seeds))
        if self.options.coverage:
            self._note(line_coverage_percent=measure_coverage())
        return self._is_broken()

    def _campaign(self, count: int, names: tuple[str, ...], run: Callable[..., dict[str, Result]]) -> None:
        """Runs a campaign slice by slice, from where the record ends if it is to be resumed."""
        resumes = self.options.resume and names[0] in self.record
        totals = {name: Result.from_json(self.record[name]) if resumes else Result() for name in names}
        size = -(-count // (SLICES * BLOCK)) * BLOCK
        for first in range(totals[names[0]].mutants, count, size or 1):
            found = run(min(size, count - first), seed=self.options.seed, first=first)
            for total, result in zip(totals.values(), found.values(), strict=True):
                total.add(result)
            self._note(**{name: total.as_json() for name, total in totals.items()})

    def _note(self, **parts: Any) -> None:
        self.record |= parts
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.options.out.write_text(json.dumps(self.record, indent=1) + "\n")
        for name, part in parts.items():
            if isinstance(part, dict) and "broken" in part:
                print(f"{name}: {part['mutants']} mutants, {len(part['broken'])} broke a law", flush=True)

    def _is_broken(self) -> bool:
        campaigns = [part for part in self.record.values() if isinstance(part, dict) and "broken" in part]
        return (
            any(campaign["broken"] for campaign in campaigns)
            or any(target["failed"] for target in self.record.get("guided", {}).values())
            or self._engines_differ()
            or any(part < LEAST_COVERAGE_PERCENT for part in self.record.get("line_coverage_percent", {}).values())
        )

    def _engines_differ(self) -> bool:
        """Whether they made something else of the same mutants."""
        differ = False
        for name, of_native in zip(DECODED, BY_NATIVE, strict=True):
            ours, theirs = self.record.get(of_native), self.record.get(name)
            if ours and theirs and ours["mutants"] == theirs["mutants"] and ours["outcomes"] != theirs["outcomes"]:
                print(f"{name}: the native engine has {ours['outcomes']}, torch's {theirs['outcomes']}", flush=True)
                differ = True
        return differ


def main() -> int:
    """Command line; returns 1 if a law was broken or too few lines were covered."""
    WORK.mkdir(parents=True, exist_ok=True)
    return int(Driver(_options()).run())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the reader of .vaec files; 0 leaves a part as it is recorded.")
    parser.add_argument("--decode", type=int, default=200_000, metavar="N", help="mutants that are decoded")
    parser.add_argument("--parse", type=int, default=5_000_000, metavar="N", help="mutants that are only read")
    parser.add_argument("--guided-s", type=int, default=60, metavar="S", help="seconds of atheris for each target")
    parser.add_argument("--flips", type=int, default=1, metavar="0|1", help="every flipped bit and cut of the seeds")
    parser.add_argument("--coverage", type=int, default=1, metavar="0|1", help="line coverage by the tests")
    parser.add_argument("--seed", type=int, default=0, help="another number gives other mutants")
    parser.add_argument("--resume", action="store_true", help="go on with campaigns where the record ends")
    parser.add_argument("--out", type=Path, default=RECORD, help="the JSON record")
    return parser.parse_args()


def _time_and_memory(act: Callable[[], object]) -> dict[str, float]:
    """Shortest of five runs in ms, and the peak of Python's memory in one more run, in MiB."""
    shortest_s = min(_seconds(act) for _ in range(5))
    tracemalloc.start()
    _seconds(act)
    peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return {"ms": round(shortest_s * 1e3, 2), "mib": round(peak_mib, 3)}


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    with suppress(VaecLimitError):
        act()
    return time.perf_counter() - start


def _processor() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
