"""Laws of living in a process (tests/stress, `make stress` is the long form): threads, forks, torch's state, memory."""

import locale
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from stress import living
from stress.writing import ENVIRONMENT

from vaecodec import Codec
from vaecodec.errors import VaecError
from vaecodec.model import engines, weights
from vaecodec.model.torch_engine import engine
from vaecodec.runtime import forks

POSIX = pytest.mark.skipif(os.name != "posix", reason="forks and /proc")


# --- threads and processes --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_threads_get_what_one_thread_gets(tiny: Codec) -> None:
    """16 threads on one codec: the same bytes, the same pixels, the same refusals."""
    outcome = living.many_threads(tiny, threads=16, rounds=3)
    assert (outcome.broken, outcome.counts["pictures"]) == ([], 48)


def test_threads_that_start_together_load_the_weights_once(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many need them first, they are read and proved once."""
    loads = []
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda path, *which: loads.append(path) or load(path, *which))
    engines._cached.cache_clear()
    barrier = threading.Barrier(8)
    loaded = []

    def use() -> None:
        barrier.wait()
        loaded.append(Codec(tiny_weights, "cpu").engine)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(loads), len(set(map(id, loaded)))) == (1, 1)


@POSIX
@pytest.mark.slow
def test_forked_workers_neither_hang_nor_differ() -> None:
    """Children of a process whose torch has threads: its weights loaded, not loaded, being loaded; pools, loaders."""
    plan = {"fork": 3, "fork before loading": 1, "fork while loading": 1, "fork pool": 1, "loader, 2 workers": 1}
    outcome = living.worker_processes(plan, threads=2)
    assert (outcome.broken, outcome.facts["torch threads"]) == ([], 2)


@pytest.mark.slow
def test_spawned_workers_neither_hang_nor_differ() -> None:
    """Workers that start anew, as on macOS and Windows."""
    assert living.worker_processes({"spawn pool": 1}, threads=1).broken == []


@POSIX
def test_only_the_thread_that_forked_is_told_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that torch had threads for; a thread that begins in the child gets new ones."""
    before = torch.get_num_threads()
    monkeypatch.setattr(forks, "forked_thread", None)
    torch.set_num_threads(2)
    seen: list[int] = []

    def settle() -> None:
        engine.settle_after_fork()
        seen.append(torch.get_num_threads())

    try:
        settle()
        forks._note()
        thread = threading.Thread(target=lambda: (torch.set_num_threads(2), settle()))
        thread.start()
        thread.join()
        settle()
        torch.set_num_threads(2)
        settle()
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2, 1, 2]


@POSIX
@pytest.mark.slow
def test_a_fork_without_torch_changes_nothing() -> None:
    """A child that loads torch itself keeps all its threads."""
    program = (
        "import os, vaecodec\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    import torch; from vaecodec.model.torch_engine import engine\n"
        "    engine.settle_after_fork(); os._exit(torch.get_num_threads())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


# --- what belongs to the caller ---------------------------------------------------------------------------------------


def state_of_the_process() -> dict[str, Any]:
    """Settings and random numbers of torch, numpy and Python that a library must not change."""
    backends = torch.backends
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "autocast": [
            (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled())
            for kind in ("cpu", "cuda")
        ],
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "cudnn": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "precision": (torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32, backends.mkldnn.enabled),
        "anomaly mode": torch.is_anomaly_enabled(),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": repr(np.random.get_state(legacy=False)),
        "numpy errors": np.geterr(),
        "python random": random.getstate(),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        # Torch imports sympy when it first needs it, and that filters a class of its own.
        "warnings": ([f for f in warnings.filters if "sympy" not in f[2].__module__], warnings.showwarning),
        "excepthook": sys.excepthook,
        "umask": os.umask(os.umask(0o22)),
    }


def everything(codec: Codec, weights_path: Path) -> None:
    """Loads weights, encodes, decodes, and fails in several ways."""
    engine.load(weights.load(weights_path), "cpu")
    data = codec.encode(picture(90, 70, 4), 70)
    for output in ("pil", "numpy", "torch"):
        codec.decode(data, output=output)
    for wrong in (data[:-3], b"", data[:40] + b"x" + data[41:]):
        with pytest.raises(VaecError):
            codec.decode(wrong)
    with pytest.raises(VaecError):
        codec.encode(np.zeros((0, 3), np.uint8))


@pytest.mark.parametrize(
    "prepare",
    [
        lambda: None,
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_grad_enabled(False),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.manual_seed(5),
        lambda: torch.set_default_device("meta"),
    ],
    ids=["usual", "float64", "no grad", "deterministic", "precision", "seed", "device"],
)
def test_the_process_is_left_as_it_was(tiny: Codec, tiny_weights: Path, prepare: Callable[[], Any]) -> None:
    """Loading, encoding, decoding and failing change none of the settings and draw none of the random numbers."""
    with torch.random.fork_rng(devices=[]):
        try:
            prepare()
            before = state_of_the_process()
            everything(tiny, tiny_weights)
            after = state_of_the_process()
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
            torch.use_deterministic_algorithms(False)
            torch.set_float32_matmul_precision("highest")
    assert {name: after[name] for name in before if after[name] != before[name]} == {}


# --- a long life ------------------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.slow
def test_memory_files_and_threads_stay_the_same(tiny: Codec) -> None:
    """However many pictures, damaged ones among them: no more memory, open files or threads than at the beginning."""
    outcome = living.soak(tiny, rounds=200)
    assert (outcome.broken, outcome.counts["good files"] + outcome.counts["bad files"]) == ([], 200)
    assert outcome.facts["growth_bytes_a_round"] < 20_000
