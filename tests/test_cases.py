"""Runs the small inputs that once failed, where their folder is beside the checkout; each has a test elsewhere, too."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted((Path(__file__).parents[2] / "shared" / "cases").glob("[0-9]*"))


@pytest.mark.skipif(not CASES, reason="the folder ../shared/cases is not here")
@pytest.mark.parametrize("case", CASES or [Path("none")], ids=lambda case: case.stem)
def test_the_fault_is_gone(case: Path, tmp_path: Path) -> None:
    """Each script exits with 1 while its fault is there."""
    program = [sys.executable, str(case)] if case.suffix == ".py" else ["bash", str(case), sys.executable]
    result = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
