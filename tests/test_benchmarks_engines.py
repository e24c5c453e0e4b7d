"""The benchmarks of engines, run on next to nothing: every task and runtime that is here gets its figures."""

import json
import sys
from pathlib import Path

import pytest

from vaecodec.model.native_engine.binding import is_available

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks import cold, engines

pytestmark = pytest.mark.skipif(not is_available(), reason="the native library is not built: make core")


@pytest.mark.slow
def test_fresh_processes_are_timed_by_engine_and_beside_a_busy_one(tmp_path: Path) -> None:
    """Command line and Image.open by both engines, and AVIF; idle and busy."""
    out = tmp_path / "cold.json"
    assert cold.main(["--megapixels", "0.01", "--repeats", "1", "--environments", "", "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text())["sizes"].values()
    assert found.keys() == {"idle", "beside a busy process"}
    for rows in found.values():
        assert {row["engine"] for row in rows} == {"native", "torch", "avif"}
        assert all(row["seconds"] > 0 and row["peak_rss_bytes"] > 1 << 20 for row in rows)
        by_engine = {row["engine"]: row["peak_rss_bytes"] for row in rows if row["task"] == "command line: decode"}
        assert by_engine["native"] < by_engine["torch"]  # what loads torch is larger by far


def test_a_failing_task_is_told() -> None:
    """It is no measurement."""
    with pytest.raises(cold.subprocess.CalledProcessError):
        cold.run(cold.Task("none", "native", (sys.executable, "-c", "raise SystemExit(3)")))


def test_runtimes_are_timed_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native core and torch always; others where they are installed."""
    monkeypatch.setattr(engines, "ROWS", 4)
    monkeypatch.setattr(engines, "COLUMNS", 4)
    monkeypatch.setattr(engines, "_runtimes", lambda *_: {})
    monkeypatch.setattr(engines, "import_s", lambda _: 0.5)
    out = tmp_path / "engines.json"
    assert engines.main(["--threads", "1", "--repeats", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["median_ms"].keys() == {"native (with deblocking)", "torch"}
    assert found["installed_mb"]["native"] < 5 < found["installed_mb"]["torch"]
