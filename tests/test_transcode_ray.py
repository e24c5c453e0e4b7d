"""Ray Data does the work, on a cluster of two machines, and survives the death of workers and of a machine."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import picture
from PIL import Image

from vaecodec import Codec
from vaecodec.cli import main
from vaecodec.cli.transcoding import cluster
from vaecodec.cli.transcoding.places import open_place
from vaecodec.cli.transcoding.worker import Job, Work

ray = pytest.importorskip("ray", reason="ray is not installed: extra [dist]")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # Ray's own code, which this package neither calls nor can change.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PICTURES = 160
MEMORY_BYTES = 100 * 2**20
START_ATTEMPTS = 4


@pytest.fixture
def machines() -> Iterator[Cluster]:
    """A Ray cluster of a head that does no work and two machines of one processor each."""
    for attempt in range(1, START_ATTEMPTS + 1):
        started = Cluster()
        try:
            for processors in (0, 1, 1):
                started.add_node(num_cpus=processors, object_store_memory=MEMORY_BYTES, include_dashboard=False)
            break
        except Exception:  # Ray gives a machine 30 s to start, and a busy one may need more
            started.shutdown()
            if attempt == START_ATTEMPTS:
                raise
    yield started
    started.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Many small pictures, and one that is none."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(PICTURES):
        Image.fromarray(picture(40, 56, seed=number)).save(folder / f"{number:03}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def outputs(target: Path) -> list[Path]:
    """The .vaec files that are there."""
    return list(target.rglob("*.vaec"))


def wait(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.05)


def workers() -> dict[int, int]:
    """The processes of actors: their numbers, and those of the processes that started them (one a machine)."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def kill_a_process(machines: Cluster) -> None:
    """A worker is gone in the middle of a picture."""
    os.kill(next(iter(workers())), signal.SIGKILL)


def kill_a_machine(machines: Cluster) -> None:
    """A machine is gone, with the worker that was at work on it."""
    parent = next(iter(workers().values()))
    nodes = [node for node in machines.worker_nodes if node.all_processes["raylet"][0].process.pid == parent]
    assert len(nodes) == 1
    machines.remove_node(nodes[0], allow_graceful=False)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("kill", [kill_a_process, kill_a_machine])
def test_nothing_is_lost_and_nothing_done_twice(
    kill: Callable[[Cluster], None], machines: Cluster, source: Path, tmp_path: Path, tiny: Codec
) -> None:
    """One of two workers is killed in mid-run: every picture has one line, every file decodes, the bad one is named."""
    target = tmp_path / "target"
    command = [sys.executable, "-m", "vaecodec", "transcode", source, target, "--ray", machines.address]
    command += ["--model", tiny.model, "--json"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            wait(lambda: len(workers()) == 2 or run.poll() is not None, "two workers")
            wait(lambda: len(outputs(target)) >= 20 or run.poll() is not None, "files")
            assert run.poll() is None and len(outputs(target)) < PICTURES, "the run was over before the kill"
            kill(machines)
            stdout, stderr = run.communicate(timeout=240)
        finally:
            run.kill()
    assert run.returncode == 1, stderr
    told = [json.loads(line) for line in stdout.splitlines()]
    lines = [json.loads(line) for path in sorted((target / "manifest").iterdir()) for line in path.open()]
    assert [line["path"] for line in told] == [line["path"] for line in lines]
    assert sorted(line["path"] for line in lines) == sorted(path.name for path in source.iterdir())
    assert [line["path"] for line in lines if line["status"] != "done"] == ["bad.png"]
    assert len(outputs(target)) == PICTURES
    assert all(tiny.decode(path).size == (56, 40) for path in outputs(target))
    assert len({line["worker"] for line in lines}) >= 2


def work_of(source: Path, target: Path, tiny: Codec) -> Work:
    """What the workers are told."""
    places = open_place(str(source)), open_place(str(target))
    return Work(*places, 60, str(tiny.model), tiny.engine.model_id.hex(), "cpu", None)


def test_what_no_worker_can_do_is_an_error(machines: Cluster, source: Path, tmp_path: Path, tiny: Codec) -> None:
    """Weights that differ stop the run, and GPUs that are not there are missed before it; neither waits for ever."""
    work, jobs = work_of(source, tmp_path / "target", tiny), [Job("000.png", "000.vaec")]
    with pytest.raises(cluster.ClusterError, match="must be 00000000 on every machine") as caught:
        list(cluster.answers(jobs, dataclasses.replace(work, model_id="00000000"), cluster.Cluster(machines.address)))
    assert caught.value.code == "CLUSTER"
    with pytest.raises(cluster.ClusterError, match="room for 0 workers of 0.5 GPU, must have room for 1") as caught:
        list(cluster.answers(jobs, work, cluster.Cluster(machines.address, gpu_share=0.5)))
    assert caught.value.code == "NO_PLACE"


def test_an_address_without_a_cluster_is_wrong_usage(
    source: Path, tmp_path: Path, tiny: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the address; Ray itself takes a minute to find that out."""

    def refuse(address: str, **options: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", refuse)
    arguments: list[Any] = ["transcode", source, tmp_path / "target", "--model", tiny.model, "--ray", "127.0.0.1:9"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 2 and "no Ray cluster at '127.0.0.1:9': nobody answers" in result.stderr
