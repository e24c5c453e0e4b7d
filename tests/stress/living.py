"""One process for a long time: many threads, worker processes, thousands of pictures, and memory that runs out."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stress import Outcome
from stress.writing import ENVIRONMENT
from vaecodec import Codec
from vaecodec.errors import VaecError

HERE = Path(__file__).parent
BAD_SHARE = 0.1
SAMPLES_OF_MEMORY = 40


def many_threads(codec: Codec, *, threads: int, rounds: int) -> Outcome:
    """Encodes and decodes with one codec in many threads at a time; every result must be that of one thread."""
    outcome = Outcome()
    images = [_picture(32 + 7 * n, 90 - 5 * n, channels=(1, 2, 3, 4)[n % 4], seed=n) for n in range(8)]
    files = [codec.encode(image, 10 + 11 * n) for n, image in enumerate(images)]
    decoded = [codec.decode(data, output="numpy") for data in files]

    def work(thread: int) -> list[str]:
        order = random.Random(thread)
        wrong = []
        for _ in range(rounds):
            n = order.randrange(len(images))
            if codec.encode(images[n], 10 + 11 * n) != files[n]:
                wrong.append(f"thread {thread} encoded picture {n} to other bytes")
            if not np.array_equal(codec.decode(files[n], output="numpy"), decoded[n]):
                wrong.append(f"thread {thread} decoded picture {n} to other pixels")
            if _refusal(codec, files[n][:-1]) != "SHORT_FILE":
                wrong.append(f"thread {thread} did not refuse a short file")
        return wrong

    with ThreadPoolExecutor(threads) as pool:
        outcome.broken += [line for lines in pool.map(work, range(threads)) for line in lines]
    outcome.counts["threads"] += threads
    outcome.counts["pictures"] += threads * rounds
    return outcome


def worker_processes(plan: dict[str, int], *, threads: int) -> Outcome:
    """Runs the ways of `workers` so many times each, in a process whose torch has so many threads."""
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    record = _record_of("workers.py", [f"{way}={runs}" for way, runs in plan.items()], environment)
    return Outcome(broken=record.pop("broken"), facts=record)


def starvation(*, levels: int, side_px: int) -> Outcome:
    """Encodes and decodes with less and less memory, see `starving`."""
    record = _record_of("starving.py", [str(levels), str(side_px)], ENVIRONMENT)
    return Outcome(broken=record.pop("broken"), facts=record)


def soak(codec: Codec, *, rounds: int, seed: int = 0, watch: Callable[[int], None] = lambda _: None) -> Outcome:
    """Encodes and decodes pictures of all kinds, a tenth of the files damaged, and watches what the process holds.

    Args:
        codec: what encodes and decodes.
        rounds: how many pictures; the first quarter is warming up.
        seed: of pictures and damage.
        watch: called after each round.

    Facts: memory at the end, its growth in bytes a round over all but the first quarter (by least squares), threads
    and open files before and after. Damaged files must be refused, sound ones decode.
    """
    outcome, chance = Outcome(), random.Random(seed)
    images = [_picture(chance.randint(1, 64), chance.randint(1, 64), channels=1 + n % 4, seed=n) for n in range(64)]
    warm, step = rounds // 4, max(1, rounds * 3 // 4 // SAMPLES_OF_MEMORY)
    memory_bytes: list[tuple[int, int]] = []
    for number in range(rounds):
        if number == warm:
            held = _held()
        image = images[chance.randrange(len(images))]
        data = codec.encode(image, chance.randint(1, 100))
        if chance.random() < BAD_SHARE:
            place = chance.randrange(8 * len(data))
            data = data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]
            outcome.counts["bad files"] += 1
            outcome.require(_refusal(codec, data) is not None, f"round {number}: a flipped bit is not noticed")
        else:
            outcome.counts["good files"] += 1
            shape = np.atleast_3d(codec.decode(data, output="numpy")).shape
            outcome.require(shape == np.atleast_3d(image).shape, f"round {number}: shape {shape}")
        if number >= warm and number % step == 0:
            memory_bytes.append((number, _resident_bytes()))
        watch(number)
    growth = np.polyfit(*np.transpose(memory_bytes), 1)[0] if len(memory_bytes) > 1 else 0.0
    outcome.facts = {
        "rounds": rounds,
        "resident_mib": round(memory_bytes[-1][1] / 2**20, 1),
        "growth_bytes_a_round": round(float(growth), 1),
        "threads_and_files_before": held,
        "threads_and_files_after": _held(),
    }
    outcome.require(_held() == held, f"threads and open files were {held}, are {_held()}")
    return outcome


def _picture(height: int, width: int, *, channels: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width, 0:1][:2] / 16.0
    waves = 128 + 60 * np.sin(x * rng.uniform(0.3, 3, channels) + y * rng.uniform(0.3, 3, channels))
    return np.clip(waves + rng.normal(0, rng.integers(0, 12), waves.shape), 0, 255).astype(np.uint8)


def _refusal(codec: Codec, data: bytes) -> str | None:
    try:
        codec.decode(data, output="numpy")
    except VaecError as error:
        return error.code
    return None


def _record_of(program: str, arguments: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / program), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _held() -> list[int]:
    """Threads and open files of this process."""
    return [threading.active_count(), len(os.listdir("/proc/self/fd"))]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
