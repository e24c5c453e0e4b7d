"""Measures where the time of a picture goes: clocks around the engine, quantization and the entropy coder."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from vaecodec.entropy import coder
from vaecodec.model import coding
from vaecodec.model.native_engine import NativeEngine, binding
from vaecodec.model.torch_engine.engine import TorchEngine

REST = "colour, tiles, checks and I/O"
STAGES: dict[str, list[tuple[Any, str]]] = {
    "analysis": [(engine, "analyze") for engine in (NativeEngine, TorchEngine)],
    # What helper threads read and predict counts while it is waited for.
    "hyper and context": [(coding, name) for name in ("quantize", "read", "dequantize")] + [(Future, "result")],
    "entropy coding": [(each, name) for each in (coder.Decoder, binding.Decoder) for name in ("read", "finish")]
    + [(coder, "encode"), (binding, "encode")],
    "synthesis": [
        (engine, name) for engine in (NativeEngine, TorchEngine) for name in ("synthesize", "synthesize_like")
    ],
}


class Stopwatch:
    """Seconds of one thread by stage, excluding nested stages: reading symbols calls the entropy coder, for example."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._inner: list[float] = []

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function so that its time counts for a stage."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[stage] += elapsed - self._inner.pop()
                if self._inner:
                    self._inner[-1] += elapsed

        return timed

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken, self.seconds = self.seconds, dict.fromkeys(STAGES, 0.0)
        return taken


@contextmanager
def watched() -> Iterator[Stopwatch]:
    """Puts clocks on all stages while the block runs, for one picture at a time on a CPU (no GPU synchronization)."""
    watch = Stopwatch()
    originals = [(owner, name, getattr(owner, name)) for places in STAGES.values() for owner, name in places]
    try:
        for stage, places in STAGES.items():
            for owner, name in places:
                setattr(owner, name, watch.around(stage, getattr(owner, name)))
        yield watch
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
