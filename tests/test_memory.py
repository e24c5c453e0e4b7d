"""Laws of memory that runs out: parts of a tile, then the CPU, then a clear error; and all works again afterwards."""

import copy
import gc
import platform
import subprocess
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from stress import living

import vaecodec
from vaecodec import Codec
from vaecodec.errors import VaecFormatError, VaecModelError, VaecResourceError, first_that_fits, is_shortage
from vaecodec.format import container, sources
from vaecodec.format.records import TileMode
from vaecodec.model import engines
from vaecodec.model.engine import Engine
from vaecodec.model.torch_engine.engine import TorchEngine
from vaecodec.tiling.decode import Decoder
from vaecodec.tiling.encode import Encoder

SHORTAGES = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    VaecResourceError("not enough memory for this picture"),
]
TOO_LONG = 128 + 32
PAGES_TAKEN = """
import resource, numpy
from vaecodec.errors import keep_freed_memory
if {keeps}: keep_freed_memory()
def use(): return [numpy.ones(4 << 20, numpy.uint8) for _ in range(12)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def short_of_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch, limit_px: float) -> list[int]:
    """Lets the transforms of an engine fail for pictures with a side above a limit; returns the sides that they saw."""
    seen: list[int] = []

    def watched(transform: Callable[..., Any], side_px: Callable[[Any], int]) -> Callable[..., Any]:
        def run(x: Any, *others: Any) -> Any:
            seen.append(side_px(x))
            if seen[-1] > limit_px:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return transform(x, *others)

        return run

    monkeypatch.setattr(engine, "analyze", watched(engine.analyze, lambda x: max(x.shape[:2])))
    for name in ("synthesize", "synthesize_like"):
        monkeypatch.setattr(engine, name, watched(getattr(engine, name), lambda x: 16 * max(x.shape[-2:])))
    return seen


@pytest.fixture
def fragile(tiny_weights: Path) -> Iterator[Codec]:
    """A codec with weights of its own, which tests may tamper with."""
    engines._cached.cache_clear()
    yield Codec(tiny_weights, "cpu")
    engines._cached.cache_clear()


@pytest.fixture
def gpu(fragile: Codec, monkeypatch: pytest.MonkeyPatch) -> tuple[Codec, Engine]:
    """A codec that believes to be on a GPU, and the engine there, which computes on the CPU."""
    here, there = copy.copy(fragile.engine), copy.copy(fragile.engine)
    there.device = torch.device("cuda")
    pretender = types.SimpleNamespace(**{name: getattr(here, name) for name in dir(here) if name[:2] != "__"})
    for name, member in vars(TorchEngine).items():
        if isinstance(member, property):
            setattr(pretender, name, getattr(there, name))
    assert not pretender.is_cpu
    load = engines.cached
    monkeypatch.setattr(engines, "cached", lambda *which: pretender if which[2] == "cuda" else load(*which))
    return Codec(fragile.model, "cuda"), pretender


# --- what counts as a shortage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", SHORTAGES, ids=str)
def test_every_way_of_saying_it_is_understood(error: Exception) -> None:
    """Python, CUDA, torch's allocator, C++ and oneDNN each have their own words."""
    assert is_shortage(error)


@pytest.mark.parametrize("error", [RuntimeError("out of range"), ValueError("out of memory"), VaecFormatError("x")])
def test_other_errors_are_no_shortage(error: Exception) -> None:
    """They are not tried again, and come through as they are."""
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)) as caught:
        first_that_fits(fail, fail)
    assert (caught.value, len(calls)) == (error, 1)


def test_a_failed_attempt_is_forgotten_before_the_next_begins() -> None:
    """What it held is free again: the error, which holds the frames that hold the memory, is gone."""

    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def greedy() -> str:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise MemoryError

    def modest() -> str:
        return "held" if held[0]() else "free"

    gc.disable()
    try:
        assert first_that_fits(greedy, modest) == "free"
    finally:
        gc.enable()


# --- the stair --------------------------------------------------------------------------------------------------------


@pytest.mark.engines("native", "torch")
def test_a_tile_is_computed_in_parts_where_memory_is_short(fragile: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a tile decode to the same picture within one level, and what they encode is a file as any other."""
    image = picture(250, 330, seed=3)
    expected = fragile.encode(image, 60)
    whole = fragile.decode(expected, output="numpy")
    seen = short_of_memory(fragile.engine, monkeypatch, 256)
    parts = fragile.decode(expected, output="numpy")
    assert max(seen) > 256 >= min(seen)
    assert np.abs(parts.astype(int) - whole).max() <= 1
    data = fragile.encode(image, 60)
    assert {entry.mode for entry in sources.info(data).index} == {TileMode.LEARNED}
    assert abs(len(data) - len(expected)) < 0.01 * len(expected) + 16


@pytest.mark.engines("native", "torch")
def test_memory_that_is_short_even_for_parts_is_a_clear_error(fragile: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no smaller part and no other device left: VaecResourceError, and a codec that is as good as before."""
    image = picture(200, 200)
    data = fragile.encode(image, 50)
    with monkeypatch.context() as patch:
        seen = short_of_memory(fragile.engine, patch, 0)
        for act in (lambda: fragile.encode(image, 50), lambda: fragile.decode(data)):
            with pytest.raises(VaecResourceError, match="CUDA out of memory") as caught:
                act()
            assert caught.value.code == "MEMORY"
        assert min(seen) <= TOO_LONG
    assert fragile.encode(image, 50) == data


@pytest.mark.engines("torch")
def test_a_device_that_is_short_of_memory_leaves_it_to_the_cpu(
    gpu: tuple[Codec, Engine], fragile: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When not even parts fit on the GPU, the CPU does the same, with a warning; the next picture may fit again."""
    on_gpu, engine = gpu
    image = picture(150, 160)
    data = fragile.encode(image, 50)
    assert on_gpu.encode(image, 50) == data
    with monkeypatch.context() as patch:
        seen = short_of_memory(engine, patch, 0)
        with pytest.warns(UserWarning, match="not enough memory on the device 'cuda': computing on the CPU"):
            assert on_gpu.encode(image, 50) == data
        with pytest.warns(UserWarning, match="computing on the CPU"):
            decoded = on_gpu.decode(data, output="numpy")
        assert seen
    assert np.array_equal(decoded, fragile.decode(data, output="numpy"))
    assert np.array_equal(decoded, on_gpu.decode(data, output="numpy"))


@pytest.mark.engines("torch")
def test_weights_that_do_not_fit_on_the_device_are_used_on_the_cpu(
    fragile: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have taken all of the GPU's memory; without the CPU's either, it is a clear error."""
    load, image = engines.cached, picture(40, 40)
    full = {"cuda"}

    def load_where_there_is_room(*which: Any) -> Engine:
        if which[2] in full:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return load(*which)

    monkeypatch.setattr(engines, "cached", load_where_there_is_room)
    with pytest.warns(UserWarning, match="computing on the CPU"):
        data = Codec(fragile.model, "cuda").encode(image)
    full.add("cpu")
    with pytest.warns(UserWarning, match="on the CPU"), pytest.raises(VaecResourceError):
        Codec(fragile.model, "cuda").encode(image)
    with pytest.raises(VaecResourceError):
        fragile.encode(image)
    full.clear()
    assert fragile.encode(image) == data


@pytest.mark.parametrize("error", SHORTAGES, ids=str)
@pytest.mark.parametrize(
    "places", [[(Encoder, "run"), (Decoder, "picture")], [(container, "assemble"), (container, "read")]],
    ids=["tiles", "container"],
)  # fmt: skip
def test_a_shortage_anywhere_is_a_resource_error(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch, places: list[tuple[Any, str]], error: Exception
) -> None:
    """Encode, decode and verify say so in one way, whoever noticed it."""
    data = tiny.encode(picture(20, 30))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    for owner, name in places:
        monkeypatch.setattr(owner, name, fail)
    for act in (lambda: tiny.encode(picture(8, 8)), lambda: tiny.decode(data)):
        with pytest.raises(VaecResourceError):
            act()
    with pytest.raises(VaecResourceError):
        vaecodec.verify(data, deep=True, model=tiny.model, device="cpu")
    monkeypatch.undo()
    assert tiny.encode(picture(20, 30)) == data


def test_cuda_in_a_forked_process_is_a_clear_error(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA cannot follow a process through a fork; the error says what to do instead."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, ...")

    monkeypatch.setattr(Encoder, "run", refuse)
    with pytest.raises(VaecModelError, match="spawn") as caught:
        tiny.encode(picture(20, 30))
    assert caught.value.code == "FORKED"


@pytest.mark.slow
def test_a_process_survives_that_every_allocation_fails() -> None:
    """Under a limit on its memory, each call gives its result or VaecResourceError, and the next ones work."""
    outcome = living.starvation(levels=3, side_px=256)
    assert outcome.broken == []
    assert outcome.facts.get("encode refused", 0) + outcome.facts["encode done"] == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
@pytest.mark.parametrize(("keeps", "few"), [(True, True), (False, False)])
def test_freed_memory_is_kept(keeps: bool, few: bool) -> None:
    """48 MiB in blocks of 4 that are freed and wanted again are not taken from the system again, page by page."""
    command = [sys.executable, "-c", PAGES_TAKEN.format(keeps=keeps)]
    pages = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (pages < 1000) == few
