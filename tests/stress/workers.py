"""A program whose worker processes encode and decode: forked, spawned, or torch's own. It prints a JSON record.

Usage: `python workers.py [WAY=RUNS]...`; the ways are the keys of WAYS. Torch has more than one thread in here, because
those are what a forked process must not wait for. With one thread, as forked processes have, encoders may choose
other symbols here and there than with several.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import vaecodec
from stress import Outcome
from vaecodec import Codec
from vaecodec.model import engines

PATIENCE_S = 120
SIDE = 96
PICTURES = 4


def picture(number: int) -> np.ndarray:
    """A picture [SIDE, SIDE, 3] of soft shapes."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / 16.0
    planes = [128 + 60 * np.sin(x * (1 + number / 3) + c) * np.cos(y + number) for c in range(3)]
    return np.stack(planes, -1).astype(np.uint8)


def work(number: int) -> bytes:
    """What a worker does: encodes a picture, and decodes it."""
    codec = Codec(device="cpu")
    data = codec.encode(picture(number), 60)
    codec.decode(data, output="torch")
    return data


class Expected(NamedTuple):
    """The files of all pictures that a process makes with one thread, as forked ones do, and with several."""

    of_one_thread: list[bytes]
    of_several: list[bytes]


class Files(Dataset[torch.Tensor]):
    """Decoded pictures, as a training run would read them."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return Codec(device="cpu").decode(self.files[index], output="torch")


def by_fork(expected: Expected, run: int) -> str:
    """A child of a process that has computed with several threads."""
    work(0)
    return _forked(expected, run)


def by_fork_before_loading(expected: Expected, run: int) -> str:
    """A child that must load the weights itself, of a process that has computed with several threads of torch."""
    engines._cached.cache_clear()
    torch.ones(1 << 20).sin()
    return _forked(expected, run)


def by_fork_while_loading(expected: Expected, run: int) -> str:
    """A child of a process another thread of which is loading weights at that moment."""
    entered, leave = threading.Event(), threading.Event()

    def load() -> None:
        with engines._loading:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=load)
    thread.start()
    entered.wait()
    try:
        return _forked(expected, run)
    finally:
        leave.set()
        thread.join()


def by_pool(method: str) -> Callable[[Expected, int], str]:
    """Two workers of a pool, started by a method of `multiprocessing`."""

    def run_pool(expected: Expected, run: int) -> str:
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map_async(work, range(PICTURES)).get(PATIENCE_S)
        files = expected.of_one_thread if method == "fork" else expected.of_several
        return "equal" if found == files else "other bytes"

    return run_pool


def by_loader(workers: int, method: str | None = None) -> Callable[[Expected, int], str]:
    """Torch's DataLoader."""

    def run_loader(expected: Expected, run: int) -> str:
        timeout_s, files = PATIENCE_S if workers else 0, expected.of_several
        loader = DataLoader(
            Files(files), batch_size=2, num_workers=workers, timeout=timeout_s, multiprocessing_context=method
        )
        found = torch.cat(list(loader))
        serial = torch.stack([Codec(device="cpu").decode(data, output="torch") for data in files])
        return "equal" if int((found.int() - serial.int()).abs().max()) <= 1 else "other pixels"

    return run_loader


WAYS: dict[str, Callable[[Expected, int], str]] = {
    "fork": by_fork,
    "fork before loading": by_fork_before_loading,
    "fork while loading": by_fork_while_loading,
    "fork pool": by_pool("fork"),
    "spawn pool": by_pool("spawn"),
    "forkserver pool": by_pool("forkserver"),
    "loader, 0 workers": by_loader(0),
    "loader, 2 workers": by_loader(2),
    "loader, 4 workers": by_loader(4),
    "loader, 2 spawned workers": by_loader(2, "spawn"),
}


def _forked(expected: Expected, run: int) -> str:
    number = run % PICTURES
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os._exit(0 if work(number) == expected.of_one_thread[number] else 1)
        os._exit(2)
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return {0: "equal", 1: "other bytes"}.get(os.waitstatus_to_exitcode(status), "failed")
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def _files(threads: int) -> list[bytes]:
    """What work makes of all pictures; torch keeps this number of threads."""
    torch.set_num_threads(threads)
    return [work(number) for number in range(PICTURES)]


def main(plan: dict[str, int]) -> dict[str, Any]:
    """Runs each way so many times; returns the record."""
    outcome = Outcome()
    expected = Expected(*(_files(count) for count in (1, torch.get_num_threads())))
    for way, runs in plan.items():
        start_s = time.monotonic()
        for run in range(runs):
            result = WAYS[way](expected, run)
            outcome.require(result == "equal", f"{way}, run {run}: {result}")
        outcome.counts[way] += runs
        print(f"{way}: {runs} runs, {time.monotonic() - start_s:.0f} s", file=sys.stderr, flush=True)
    outcome.facts["torch threads"] = torch.get_num_threads()
    return outcome.as_json()


if __name__ == "__main__":
    vaecodec.register()
    told = dict(argument.rsplit("=", 1) for argument in sys.argv[1:])
    print(json.dumps(main({way: int(runs) for way, runs in told.items()})))
