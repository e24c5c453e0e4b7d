"""The same file gives the same integers under every instruction set, thread count, batch, layout and autocast."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import picture

from vaecodec import Codec

PROBE = Path(__file__).with_name("exactness_probe.py")
ROOT = str(Path(__file__).parents[1])
SETTINGS = [
    {"ATEN_CPU_CAPABILITY": "default"}, {"ATEN_CPU_CAPABILITY": "avx2"}, {"ATEN_CPU_CAPABILITY": "avx512"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
]  # fmt: skip


@pytest.mark.slow
def test_integers_are_equal_under_every_setting(shipped: Codec, tmp_path: Path) -> None:
    """One hash of the latents and of the rows over 48 settings; the float32 control has several."""
    path = tmp_path / "a.vaec"
    path.write_bytes(shipped.encode(picture(256, 320, seed=11), 80))
    rows = []
    for setting in SETTINGS:
        environment = {**os.environ, **setting, "PYTHONPATH": ROOT}
        command = [sys.executable, str(PROBE), str(path)]
        result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        rows += [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 8 * len(SETTINGS)
    assert len({row["latents"] for row in rows}) == 1
    assert len({row["batched"] for row in rows} | {row["single"] for row in rows}) == 1
    floats = [row for row in rows if not row["autocast"]]
    assert min(row["float_agrees"] for row in floats) > 0.99, "the control is the same network"
    assert len({row["float"] for row in floats}) > 1, "the harness must be able to see a network that is not exact"
