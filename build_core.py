"""Compiles the native core with the system's C++ compiler: `python build_core.py`, or from hatchling for a wheel.

The compiler is $CXX, or else c++, g++ or clang++. The library does not link to Python: it is called through ctypes.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent / "vaecodec" / "model" / "native_engine"
CORE = FOLDER / "core"

# Contraction of a * b + c by the compiler would give different bits on every machine.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
RACES = ("-fsanitize=thread", "-g", "-O1")  # ThreadSanitizer cannot be combined with the others

AVX512 = ("-DVAEC_AVX512", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")

# The instruction sets of each architecture for which kernels.cpp is compiled.
LEVELS = {
    "x86_64": {
        "baseline": (),
        "avx2": ("-DVAEC_AVX2", "-mavx2", "-mfma"),
        "avx512": AVX512,
        "avx512_bf16": (*AVX512, "-DVAEC_BFLOAT16", "-mavx512bf16"),
    },
    "aarch64": {"baseline": (), "neon": ("-DVAEC_NEON",)},
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
SUFFIXES = {"windows": ".dll", "win32": ".dll", "darwin": ".dylib", "macos": ".dylib"}

# The targets of `make wheels` with zig: target, machine, system, platform tag of the wheel.
TARGETS = (
    ("x86_64-linux-gnu.2.17", "x86_64", "linux", "manylinux_2_17_x86_64"),
    ("aarch64-linux-gnu.2.17", "aarch64", "linux", "manylinux_2_17_aarch64"),
    ("x86_64-macos.11.0", "x86_64", "darwin", "macosx_11_0_x86_64"),
    ("aarch64-macos.11.0", "aarch64", "darwin", "macosx_11_0_arm64"),
    ("x86_64-windows-gnu", "x86_64", "windows", "win_amd64"),
)


def library_name(system: str = sys.platform) -> str:
    """The file name that vaecodec.model.native_engine.binding looks for."""
    return f"libvaec_core{SUFFIXES.get(system, '.so')}"


def compiler() -> list[str] | None:
    """The command of a C++ compiler, or None."""
    if wanted := os.environ.get("CXX"):
        return shlex.split(wanted)
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return found and [found]


def build(
    command: Sequence[str], target: Path, *, machine: str = platform.machine(), system: str = sys.platform,
    flags: Sequence[str] = (),
) -> None:  # fmt: skip
    """Compile the library.

    Raises:
        RuntimeError: the compiler failed; the message is its output.
    """
    machine = MACHINES.get(machine.lower(), machine.lower())
    flags = [flag for flag in FLAGS if not (system == "windows" and flag == "-fPIC")] + list(flags)
    with tempfile.TemporaryDirectory() as folder:
        sources = [source for source in CORE.glob("*.cpp") if source.stem != "kernels"]
        jobs: list[tuple[Path, Path, list[str]]] = [(each, Path(folder, f"{each.stem}.o"), []) for each in sources]
        for level, options in LEVELS.get(machine, {"baseline": ()}).items():
            jobs.append((CORE / "kernels.cpp", Path(folder, f"kernels_{level}.o"), [f"-DVAEC_LEVEL={level}", *options]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in [
                pool.submit(_run, [*command, *flags, *options, "-c", str(source), "-o", str(made)])
                for source, made, options in jobs
            ]:
                done.result()
        # Renamed into place: a process that has loaded the old library keeps it.
        made = Path(folder, library_name(system))
        linked = [str(each) for _, each, _ in jobs]
        # The C++ runtime is linked statically where that is usual, so the library works next to any other.
        sanitizers = [flag for flag in flags if flag.startswith("-fsanitize")]
        is_alone = system.startswith("linux") and not sanitizers and "ziglang" not in command
        alone = ["-static-libstdc++", "-static-libgcc"] if is_alone else []
        _run([*command, "-shared", *linked, *sanitizers, "-o", str(made), *alone, "-pthread"])
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(made, beside)
        os.replace(beside, target)


def build_in_place() -> str | None:
    """Compile the library into the package; returns None, or the reason for failure in one line."""
    command = compiler()
    if command is None:
        return "no C++ compiler found: vaecodec is installed without its native core and will be slower"
    try:
        build(command, FOLDER / library_name())
    except (OSError, RuntimeError) as error:
        last_line = str(error).strip().splitlines()[-1]
        return f"the native core does not compile: vaecodec is installed without it: {last_line}"
    return None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", metavar="FILE", type=Path, help="build to FILE with ASan and UBSan instead")
    parser.add_argument("--races", metavar="FILE", type=Path, help="build to FILE with ThreadSanitizer instead")
    parser.add_argument("--check", action="store_true", help="only check whether the core was compiled")
    arguments = parser.parse_args()
    if arguments.check:
        if not (FOLDER / library_name()).exists():
            sys.exit("the native core is not compiled (no C++ compiler?): torch is used instead, which is slower")
    elif arguments.sanitize or arguments.races:
        for target, flags in ((arguments.sanitize, SANITIZED), (arguments.races, RACES)):
            if target:
                build(compiler() or ["c++"], target, flags=flags)
    elif problem := build_in_place():
        sys.exit(problem)


if __name__ == "__main__":
    main()
