"""Builds wheels for Linux, macOS and Windows on one machine, with the core compiled by zig: `make wheels`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import build_core


def main() -> None:
    for target, machine, system, tag in build_core.TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            core = Path(folder, build_core.library_name(system))
            zig = [sys.executable, "-m", "ziglang", "c++", "-target", target]
            build_core.build(zig, core, machine=machine, system=system, flags=["-g0"])
            subprocess.run(
                [sys.executable, "-m", "build", "--wheel"], check=True, cwd=Path(__file__).parent,
                env=os.environ | {"VAECODEC_CORE": str(core), "VAECODEC_TAG": tag},
            )  # fmt: skip


if __name__ == "__main__":
    main()
