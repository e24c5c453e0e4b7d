"""What a caller has switched on for float arithmetic does not reach the codec, and the codec leaves it as it was."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from conftest import picture

from vaecodec import Codec
from vaecodec.model.torch_engine import engine
from vaecodec.model.torch_engine.engine import full_precision, has_fast_bfloat16
from vaecodec.pictures.pixels import psnr_db

pytestmark = pytest.mark.engines("torch")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CUDNN = torch.backends.cudnn
NEW_INTERFACE = hasattr(CUDNN, "conv")  # torch 2.9


def settings() -> tuple[object, ...]:
    """All that says whether cuDNN's convolutions may use TF32; reading the first may be an error after the others."""
    try:
        legacy: bool | str = CUDNN.allow_tf32
    except RuntimeError:
        legacy = "unreadable"
    if not NEW_INTERFACE:
        return (legacy,)
    generic = torch.backends.fp32_precision
    return legacy, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision, CUDNN.fp32_precision, generic


def allows_tf32() -> bool:
    """Whether a convolution would use it now."""
    return CUDNN.conv.fp32_precision == "tf32" if NEW_INTERFACE else CUDNN.allow_tf32


def by_legacy(allowed: bool) -> None:
    CUDNN.allow_tf32 = allowed


def by_operation(precision: str) -> None:
    CUDNN.conv.fp32_precision = precision


def by_backend(precision: str) -> None:
    CUDNN.conv.fp32_precision, CUDNN.fp32_precision = "none", precision


def by_process(precision: str) -> None:
    torch.backends.fp32_precision = precision


CASES: list[tuple[Callable[..., None], object]] = [(by_legacy, True), (by_legacy, False)]
if NEW_INTERFACE:
    CASES += [(way, precision) for way in (by_operation, by_backend, by_process) for precision in ("tf32", "ieee")]


@pytest.fixture
def tf32() -> Iterator[None]:
    """Puts torch's settings back to what they are at its start."""
    yield
    if NEW_INTERFACE:
        torch.backends.fp32_precision = CUDNN.fp32_precision = "none"
        CUDNN.conv.fp32_precision = CUDNN.rnn.fp32_precision = "tf32"
    CUDNN.allow_tf32 = True
    assert allows_tf32()


@pytest.mark.parametrize("quality", [20, 90])
def test_bfloat16_analysis_costs_nothing(shipped: Codec, monkeypatch: pytest.MonkeyPatch, quality: int) -> None:
    """Encoders may analyze in bfloat16: bytes stay the same within 1 % and two words, PSNR within 0.02 dB."""
    image = picture(256, 256)
    found = []
    for has_it in (False, True):
        monkeypatch.setattr(engine, "has_fast_bfloat16", lambda device, has_it=has_it: has_it)
        data = shipped.encode(image, quality)
        found.append((len(data), psnr_db(image, shipped.decode(data, output="numpy"))))
    (bytes_32, psnr_32), (bytes_16, psnr_16) = found
    assert shipped.encode(image, quality) == data
    assert abs(bytes_16 - bytes_32) < 0.01 * bytes_32 + 8 and abs(psnr_16 - psnr_32) < 0.02


@pytest.mark.parametrize(("device", "instructions", "expected"), [
    ("cpu", lambda: True, True), ("cpu", lambda: False, False), ("cpu", None, False), ("cuda", lambda: True, False),
])  # fmt: skip
def test_bfloat16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, device: str, instructions: Callable[[], bool] | None, expected: bool
) -> None:
    """Not for GPUs, and not where torch does not tell."""
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    if instructions:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", instructions, raising=False)
    assert has_fast_bfloat16(torch.device(device)) is expected


@pytest.mark.parametrize("quality", [10, 50, 100])
def test_autocast_moves_no_pixel(shipped: Codec, quality: int) -> None:
    """Under the caller's autocast the same file comes out, and the same picture: bfloat16 would move 15 % of it."""
    samples = picture(96, 160, seed=3)
    data = shipped.encode(samples, quality)
    decoded = shipped.decode(data, output="numpy")
    with torch.autocast("cpu", torch.bfloat16):
        assert shipped.encode(samples, quality) == data
        assert np.array_equal(shipped.decode(data, output="numpy"), decoded)


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize(("switch", "value"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
def test_tf32_is_off_inside_and_as_before_outside(switch: Callable[..., None], value: object) -> None:
    """In whichever of torch's interfaces it was switched on, and whatever is raised inside."""
    switch(value)
    before = settings()
    with full_precision(CUDA):
        assert not allows_tf32()
    assert settings() == before
    with pytest.raises(KeyError), full_precision(CUDA):
        raise KeyError
    assert settings() == before


@pytest.mark.usefixtures("tf32")
def test_others_can_read_the_setting_meanwhile() -> None:
    """A process that uses the first interface, or none, does not run into the error of having mixed them."""
    with full_precision(CUDA):
        assert CUDNN.allow_tf32 is False


@pytest.mark.usefixtures("tf32")
def test_tf32_stays_off_until_the_last_thread_leaves() -> None:
    """Threads that overlap neither switch it on under each other nor leave it off."""
    both, first_has_left = threading.Barrier(2, timeout=120), threading.Event()
    seen = []

    def stay() -> None:
        with full_precision(CUDA):
            both.wait()
            first_has_left.wait(120)
            seen.append(allows_tf32())

    thread = threading.Thread(target=stay)
    thread.start()
    with full_precision(CUDA), full_precision(CUDA):
        both.wait()
    first_has_left.set()
    thread.join()
    assert seen == [False]
    assert allows_tf32()


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_products_are_whole_inside_and_as_before_outside(precision: str) -> None:
    """Whatever the process has asked for, and whatever is raised inside."""
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision(CPU), full_precision(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
        with pytest.raises(KeyError), full_precision(CPU):
            raise KeyError
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


PRODUCTS_BY_BACKEND = """
import torch
from vaecodec.model.torch_engine.engine import full_precision
product = torch.backends.mkldnn.matmul
product.fp32_precision = "bf16"
with full_precision(torch.device("cpu")):
    print(product.fp32_precision)
print(product.fp32_precision)
"""


@pytest.mark.skipif(not NEW_INTERFACE, reason="torch before 2.9")
def test_products_are_whole_where_the_second_interface_asked_for_others() -> None:
    """In a process of its own: torch keeps in mind which interface was used."""
    run = subprocess.run([sys.executable, "-c", PRODUCTS_BY_BACKEND], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["ieee", "bf16"]


@pytest.mark.usefixtures("tf32")
def test_the_cpu_needs_no_setting_of_the_process(shipped: Codec) -> None:
    """On the CPU nothing is changed that another thread could see, unless the process wants coarse products."""
    before = settings()
    with full_precision(CPU):
        assert settings() == before
        assert torch.is_inference_mode_enabled()


def test_default_dtype_and_device_do_not_reach_the_codec(shipped: Codec) -> None:
    """A caller who builds tensors in float64, or on another device, by default gets the same file and picture."""
    samples = picture(64, 96, seed=4)
    data = shipped.encode(samples, 60)
    decoded = shipped.decode(data, output="numpy")
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            assert shipped.encode(samples, 60) == data
            assert np.array_equal(shipped.decode(data, output="numpy"), decoded)
    finally:
        torch.set_default_dtype(torch.float32)
