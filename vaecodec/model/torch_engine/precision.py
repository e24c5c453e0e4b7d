"""Float arithmetic as the network expects it, whatever the process has switched on: no autocast, no TF32.

Decoded pixels may differ by one level in at most 0.1 % of samples. Under bfloat16 autocast 15 % of them would differ,
by up to two levels; with TF32, which cuDNN uses unless told otherwise, 2 %.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and float32 products of matrices, and on CUDA convolutions, in all their bits.

    Torch has coarser ones as settings of the whole process only: they are off while any thread is in here, and put
    back after the last.
    """
    tf32 = _NO_TF32 if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), _WHOLE_PRODUCTS, tf32:
        yield


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth its rounding: on CPUs that have instructions for it. GPUs are quick enough without."""
    instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # there from torch 2.5 to 2.15, not documented
    return device.type == "cpu" and bool(instructions())


class _Shared:
    """A setting of the process: changed by the first thread that enters, put back by the last that leaves."""

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change, self._lock, self._inside = change, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._put_back = self._change()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._put_back()


def _tf32_off() -> Callable[[], None]:
    """Switch TF32 off in cuDNN's convolutions; returns what puts it back.

    Torch 2.9 has a second interface, and raises in the first once a process has used the second. The first is tried
    first: whoever reads it meanwhile, in another thread, must not run into that error because of us.
    """
    cudnn = torch.backends.cudnn
    legacy = precision = None
    try:
        legacy = cudnn.allow_tf32
        cudnn.allow_tf32 = False
    except RuntimeError:
        pass
    convolutions = getattr(cudnn, "conv", None)
    if convolutions is not None and convolutions.fp32_precision not in ("ieee", "none"):
        precision = convolutions.fp32_precision
        convolutions.fp32_precision = "ieee"

    def put_back() -> None:
        if precision is not None:
            convolutions.fp32_precision = precision
        if legacy is not None:
            cudnn.allow_tf32 = legacy

    return put_back


def _whole_products() -> Callable[[], None]:
    """Ask for products of matrices in float32, also where a CPU or GPU has quicker ones; returns what puts it back.

    Here, too, the first interface raises once a process has used the second.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _whole_products_by_backend()
    if before == "highest":
        return lambda: None
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _whole_products_by_backend() -> Callable[[], None]:
    """The same by the second interface."""
    backends: Any = torch.backends  # not all of it is declared
    products = backends.mkldnn.matmul, backends.cuda.matmul
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "ieee"

    def put_back() -> None:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision

    return put_back


_NO_TF32 = _Shared(_tf32_off)
_WHOLE_PRODUCTS = _Shared(_whole_products)
