"""Campaigns: many mutants under the laws, with their time and memory against those of a photograph."""

import faulthandler
import hashlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

from fuzz.forge import forge
from fuzz.laws import Judge, parse, parse_strictly
from fuzz.mutators import Mutant, flips, mutants, truncations
from fuzz.parts import HEADER, Claim, Parts, claim
from fuzz.seeds import Recipe, encode, photo_of
from vaecodec import Codec

if sys.platform != "win32":
    import resource

MAX_PIXELS = 2**15
HANG_S = 60
EXTRA_MS, TIME_FACTOR = 50.0, 1.5
EXTRA_MIB = 64.0
PARSER_LIMIT_MS = 5.0
BLOCK = 1000
FORGED_SHARE = 0.02
PARTIAL_SHARE = PLUGIN_SHARE = 0.1
THOROUGH_SHARE = 0.125


@dataclass
class Result:
    """What came of a campaign.

    Attributes:
        mutants: how many were tried, and of these
        sealed: how many had their CRCs computed anew.
        outcomes: how often each error code, or "picture", came.
        broken: one sentence for each law that was broken, with the name of the mutant that was kept.
        slowest_ms: of the CPU time of the thread that decodes, and
        slowest_share: of what a mutant of its size may take.
        extra_mib: peak of memory above the peak before all campaigns.
        seconds: of the whole campaign.
    """

    mutants: int = 0
    sealed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    slowest_share: float = 0.0
    extra_mib: float = 0.0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The same for a JSON file, commonest outcomes first."""
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in vars(self).items()}
        return rounded | {"outcomes": dict(self.outcomes.most_common())}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**{**record, "outcomes": Counter(record["outcomes"])})

    def add(self, more: "Result") -> None:
        """Counts what came of the next part of the same campaign."""
        self.mutants += more.mutants
        self.sealed += more.sealed
        self.outcomes += more.outcomes
        self.broken += more.broken
        self.seconds += more.seconds
        for name in ("slowest_ms", "slowest_share", "extra_mib"):
            setattr(self, name, max(getattr(self, name), getattr(more, name)))


class Allowance(NamedTuple):
    """The CPU time that a file may take: `always_ms` whatever it is, more if `ms` says so."""

    always_ms: float
    ms: Callable[[bytes], float]


class Bench:
    """Runs mutants, measures them, and keeps those that break a law.

    Args:
        codec: what decodes.
        seeds: the files that mutants are made of.
        folder: where mutants that break a law are kept.
        patience: how many times as long as the laws say a mutant may take: a test must hold beside other processes.
    """

    def __init__(self, codec: Codec, seeds: Mapping[str, Parts], folder: Path, *, patience: float = 1) -> None:
        self.codec, self.seeds, self.folder, self.patience = codec, seeds, folder, patience
        self.judge = Judge(codec, seeds.values(), max_pixels=MAX_PIXELS)
        self.photo_ms = lru_cache(maxsize=None)(self._photo_ms)
        self.before_mib = _peak_mib()

    def warm_up(self) -> None:
        """Loads what is loaded once, the tables of all qualities too, and takes the memory that a photograph takes."""
        for quality in range(1, 101):
            encode(self.codec, Recipe("grain", 16, 16, quality=quality))
        for parts in self.seeds.values():
            self.codec.decode(parts.data)
            self.judge.open(Mutant(parts.data, "unchanged", True))
        self.photo_ms(Claim(64, 64, 4))
        self.before_mib = _peak_mib()

    def every_flip_and_cut(self) -> Result:
        """Decodes every file that differs from a seed in one bit, and every beginning of a seed."""
        with self._campaign() as result:
            for parts in self.seeds.values():
                with _watched():
                    for data in (*flips(parts.data), *truncations(parts.data)):
                        self._try(result, Mutant(data, "damage", False), self.judge.decode)
        return result

    def decode(self, count: int, *, seed: int = 0, first: int = 0) -> dict[str, Result]:
        """Decodes mutants, some of them also partially and through Pillow.

        Args:
            count: how many.
            seed: another number gives other mutants.
            first: how many of them to leave out at the beginning, a multiple of BLOCK.

        Returns:
            Results of "decode", "partial" and "plugin".
        """
        with self._campaign() as decoded, self._campaign() as partially, self._campaign() as opened:
            for rng, block in _blocks(count, seed, first):
                for mutant in self._mutants(rng, block):
                    with _watched():
                        self._try(decoded, mutant, self.judge.decode)
                        if rng.random() < PARTIAL_SHARE:
                            self._try(partially, mutant, self.judge.decode_partial)
                        if rng.random() < PLUGIN_SHARE:
                            self._try(opened, mutant, self.judge.open)
        return {"decode": decoded, "partial": partially, "plugin": opened}

    def parse(self, count: int, *, seed: int = 0, first: int = 0) -> Result:
        """Reads mutants without decoding them; one in eight also partially and header-only. Arguments as `decode`."""
        with self._campaign() as result:
            originals = tuple(self.seeds.values())
            allow = Allowance(limit_ms := PARSER_LIMIT_MS * self.patience, lambda _: limit_ms)
            for rng, block in _blocks(count, seed, first):
                with _watched():
                    for mutant in mutants(rng, originals, block):
                        thorough = rng.random() < THOROUGH_SHARE
                        act = partial(_parse_thoroughly, mutant) if thorough else partial(parse_strictly, mutant)
                        self._judge(result, mutant, act, allow=allow)
        return result

    def _mutants(self, rng: random.Random, count: int) -> Iterator[Mutant]:
        originals = tuple(self.seeds.values())
        for mutant in mutants(rng, originals, count):
            yield forge(rng, rng.choice(originals), self.codec) if rng.random() < FORGED_SHARE else mutant

    def _try(self, result: Result, mutant: Mutant, act: Callable[[Mutant], str]) -> None:
        self._judge(result, mutant, partial(act, mutant), allow=Allowance(EXTRA_MS * self.patience, self._allowed_ms))

    def _judge(self, result: Result, mutant: Mutant, act: Callable[[], str], *, allow: Allowance) -> None:
        result.mutants += 1
        result.sealed += mutant.is_sealed
        try:
            start = time.thread_time()
            outcome = act()
            elapsed_ms = (time.thread_time() - start) * 1e3
            if elapsed_ms > min(result.slowest_ms, allow.always_ms):
                # What else the machine does can only make a run longer.
                elapsed_ms = min(elapsed_ms, *(_cpu_ms(act) for _ in range(3)))
        except Exception as error:  # whatever it is, it is what this looks for
            self._keep(result, mutant, f"{type(error).__name__}: {error}")
            return
        result.outcomes[outcome] += 1
        if elapsed_ms > min(result.slowest_ms, allow.always_ms):
            self._judge_time(result, mutant, elapsed_ms, allow.ms(mutant.data))

    def _judge_time(self, result: Result, mutant: Mutant, elapsed_ms: float, allowed_ms: float) -> None:
        result.slowest_ms = max(result.slowest_ms, elapsed_ms)
        result.slowest_share = max(result.slowest_share, elapsed_ms / allowed_ms)
        if elapsed_ms > allowed_ms:
            self._keep(result, mutant, f"took {elapsed_ms:.0f} ms, must take {allowed_ms:.0f} ms at most")

    def _keep(self, result: Result, mutant: Mutant, fault: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{mutant.kind}-{hashlib.sha256(mutant.data).hexdigest()[:12]}.vaec"
        (self.folder / name).write_bytes(mutant.data)
        result.broken.append(f"{name}: {fault}")

    @contextmanager
    def _campaign(self) -> Iterator[Result]:
        result, start_s = Result(), time.perf_counter()
        yield result
        result.seconds = time.perf_counter() - start_s
        result.extra_mib = _peak_mib() - self.before_mib
        if result.extra_mib > EXTRA_MIB:
            result.broken.append(f"memory grew by {result.extra_mib:.0f} MiB, must by {EXTRA_MIB:.0f} at most")

    def _allowed_ms(self, data: bytes) -> float:
        """What a file may take: 1.5 times a photograph of the size that it claims, and 50 ms; times the patience."""
        if len(data) < HEADER.size:
            return EXTRA_MS * self.patience
        claimed = claim(data)
        is_decoded = 0 < claimed.height * claimed.width <= MAX_PIXELS and claimed.channels
        return (TIME_FACTOR * (self.photo_ms(claimed) if is_decoded else 0) + EXTRA_MS) * self.patience

    def _photo_ms(self, claimed: Claim) -> float:
        photo = photo_of(self.codec, *claimed)
        return median(_cpu_ms(lambda: self.codec.decode(photo, output="numpy")) for _ in range(5))


@contextmanager
def _watched() -> Iterator[None]:
    """Ends the process, with a traceback, should what runs inside take HANG_S of CPU time, be it in native code."""
    if sys.platform == "win32":
        yield
        return
    faulthandler.register(signal.SIGPROF, chain=True)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _parse_thoroughly(mutant: Mutant) -> str:
    parse_strictly(mutant)
    return parse(mutant.data)


def _blocks(count: int, seed: int, first: int) -> Iterator[tuple[random.Random, int]]:
    """Cuts a campaign into blocks, each repeatable by itself: a generator of random numbers and a number of mutants."""
    for start in range(0, count, BLOCK):
        yield random.Random(seed * 1_000_003 + (first + start) // BLOCK), min(BLOCK, count - start)


def _cpu_ms(act: Callable[[], object]) -> float:
    start = time.thread_time()
    act()
    return (time.thread_time() - start) * 1e3


def _peak_mib() -> float:
    """The process's peak of memory so far; always 0 on Windows, which does not tell it so easily."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if sys.platform != "win32" else 0.0
