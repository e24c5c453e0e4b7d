"""What differs between machines and callers, as far as one machine can be made to show it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import product

import torch

# Instruction sets are chosen when torch loads, by its own kernels (ATen), by oneDNN and by MKL apart from one another.
ATEN = ("default", "avx2", "avx512")
ONEDNN = ("SSE41", "AVX2", "AVX512_CORE")

Environment = dict[str, str]


def diagonal() -> list[Environment]:
    """Three processors, from the oldest to the newest."""
    return [{"ATEN_CPU_CAPABILITY": a, "ONEDNN_MAX_CPU_ISA": b} for a, b in zip(ATEN, ONEDNN, strict=True)]


def rest_of_environments() -> list[Environment]:
    """The mixed pairs, which no machine has but which other builds may amount to, and MKL's own choices."""
    every_pair = [{"ATEN_CPU_CAPABILITY": a, "ONEDNN_MAX_CPU_ISA": b} for a, b in product(ATEN, ONEDNN)]
    mixed = [pair for pair in every_pair if pair not in diagonal()]
    return [*mixed, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, {"MKL_CBWR": "COMPATIBLE"}]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@contextmanager
def _without_onednn() -> Iterator[None]:
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = True


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@contextmanager
def _coarse_matrix_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@contextmanager
def _float64_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_default_dtype(torch.float32)


def _autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def _all_at_once() -> Iterator[None]:
    with ExitStack() as stack:
        for enter in (lambda: _threads(2), _autocast, _deterministic, _coarse_matrix_products, _float64_default):
            stack.enter_context(enter())
        yield


# What a caller may have switched on in the process.
CALLERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "as it is": nullcontext,
    "two threads": lambda: _threads(2),
    "bfloat16 autocast": _autocast,
    "deterministic algorithms": _deterministic,
    "no oneDNN": _without_onednn,
    "coarse matrix products": _coarse_matrix_products,
    "float64 by default, denormals flushed": _float64_default,
    "all at once": _all_at_once,
}
# Where the rows alone, in batches and in both layouts are compared, too.
THOROUGH = ("as it is", "all at once")
# The negative control is a float32 network: what is said of it is said where float32 is float32.
HONEST = ("as it is", "two threads", "deterministic algorithms", "no oneDNN")
