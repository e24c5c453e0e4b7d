"""Batches: the order of the items, errors in their places, the caller's threads left as they were."""

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture

from vaecodec import Codec
from vaecodec.errors import VaecError, VaecMismatchError
from vaecodec.format import container
from vaecodec.model import coding
from vaecodec.model.coding import Code, Symbols
from vaecodec.model.engine import Array, Engine
from vaecodec.model.torch_engine.engine import TorchEngine
from vaecodec.runtime import threads

pytestmark = pytest.mark.engines("native", "torch")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch with two threads, on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_batch_is_what_its_pictures_are_alone(tiny: Codec) -> None:
    """Mixed sizes and channels, in order: the same files and pictures as one by one."""
    images = [picture(40 + 9 * n, 64 - 5 * n, seed=n)[..., : 1 + n % 4] for n in range(7)]
    files = tiny.encode_batch(images, 60)
    assert files == [tiny.encode(image, 60) for image in images]
    for decoded, file in zip(tiny.decode_batch(files, output="numpy"), files, strict=True):
        np.testing.assert_array_equal(decoded, tiny.decode(file, output="numpy"))


@pytest.mark.usefixtures("two_threads")
def test_errors_stand_in_their_places(tiny: Codec) -> None:
    """Good items come back whatever happens to the others; without `return_errors` the first error is raised."""
    good = tiny.encode(picture(32, 32))
    bad = [good[:50], b"", good, good[:-1] + b"?", good]
    found = tiny.decode_batch(bad, return_errors=True, output="numpy")
    assert [getattr(each, "code", "picture") for each in found] == [
        "SHORT_FILE", "BAD_MAGIC", "picture", "TILE_CRC", "picture",
    ]  # fmt: skip
    with pytest.raises(VaecError) as caught:
        tiny.decode_batch(bad, output="numpy")
    assert caught.value.code == "SHORT_FILE"
    missing, encoded = tiny.encode_batch(["/nowhere.png", picture(32, 32)], return_errors=True)
    assert isinstance(missing, FileNotFoundError)
    assert encoded == good


def alike(codec: Codec, count: int, side: int = 70) -> list[bytes]:
    """Files of pictures of equal size, of different qualities, grey every third."""
    return [
        codec.encode(picture(side, side + 9, seed=n)[..., : 1 if n % 3 == 2 else 3], 40 + 10 * n) for n in range(count)
    ]


def watched_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures go through the network together, group by group."""
    sizes, read = list[int](), coding.read

    def watch(
        engine: Engine, rows: int, columns: int, qualities: list[int], codes: list[Code], **options: bool
    ) -> list[Symbols]:
        sizes.append(len(codes))
        return read(engine, rows, columns, qualities, codes, **options)

    monkeypatch.setattr(coding, "read", watch)
    return sizes


def test_pictures_of_equal_size_are_decoded_together(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one size make a group, whatever their qualities; all come out as they do alone, with their metadata."""
    files = alike(tiny, 5)
    files.insert(2, tiny.encode(picture(130, 40), 50, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0"))
    files.insert(4, tiny.encode(picture(130, 40, seed=8), 70, icc_profile=b"profile"))
    alone = [tiny.decode(file) for file in files]
    sizes = watched_groups(monkeypatch)
    decoded = tiny.decode_batch(files)
    assert sorted(sizes) == [2, 5]
    for one, other in zip(decoded, alone, strict=True):
        assert (one.mode, one.info) == (other.mode, other.info)
        difference = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.001
    assert decoded[4].info["icc_profile"] == b"profile"


def test_each_of_a_group_has_its_own_deblocking(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that differ in their cut alone come out of a group as they do alone, and not as one another."""
    stream = container.read(tiny.encode(picture(64, 80, seed=4), 10))
    files = [container.write(dataclasses.replace(stream.header, deblocking_cut=cut), stream.tiles) for cut in (0, 64)]
    alone = [np.asarray(tiny.decode(file), np.int16) for file in files]
    assert not np.array_equal(*alone)
    sizes = watched_groups(monkeypatch)
    together = [np.asarray(image, np.int16) for image in tiny.decode_batch(files)]
    assert sizes == [2]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one - other).max() <= 1
        assert (one != other).mean() <= 0.001


def test_what_cannot_go_together_is_decoded_alone(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alpha, tiles without loss, several tiles, previews and damaged files: one by one, as if there were no groups."""
    rgba = [tiny.encode(np.dstack([picture(64, 64, seed=n), picture(64, 64)[..., 0]]), 50) for n in range(2)]
    flat = [tiny.encode(np.full((64, 64, 3), n, np.uint8)) for n in range(2)]
    large = [tiny.encode(picture(16, 1100, seed=n), 30) for n in range(2)]
    sizes = watched_groups(monkeypatch)
    assert len(tiny.decode_batch([*rgba, *flat, *large], output="numpy")) == 6
    assert [image.size for image in tiny.decode_batch(alike(tiny, 2), scale=1 / 2)] == [(40, 35)] * 2
    assert set(sizes) == {1}


def test_a_batch_has_no_more_pixels_than_fit(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are cut where a CPU would gain nothing, or memory might run out; a rest of one is decoded alone."""
    monkeypatch.setattr(type(tiny.engine), "at_once_px", 2 * 80 * 80)
    files, sizes = alike(tiny, 5), watched_groups(monkeypatch)
    assert len(tiny.decode_batch(files)) == 5
    assert sorted(sizes) == [1, 2, 2]


def test_where_memory_does_not_suffice_for_a_group_it_is_decoded_one_by_one(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large pictures are computed in parts."""
    files, synthesize = alike(tiny, 3), type(tiny.engine).synthesize

    def starve(engine: Engine, y_hat: Array, qualities: list[int], cuts: list[int]) -> tuple[Array, list[bool]]:
        if len(qualities) > 1:
            raise MemoryError
        return synthesize(engine, y_hat, qualities, cuts)

    monkeypatch.setattr(type(tiny.engine), "synthesize", starve)
    assert len(tiny.decode_batch(files)) == 3


def with_payload(file: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The file with another payload, all CRCs of the container right: it does not decode to what was encoded."""
    stream = container.read(file)
    (tile,) = stream.tiles
    return container.write(stream.header, [tile._replace(payload=change(tile.payload))], {})


def test_a_crafted_file_spoils_no_other(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group as alone: the same error in its place, and the pictures of the others."""
    files = alike(tiny, 5)
    files[1] = with_payload(files[1], lambda payload: payload[:-4] + b"\xff\xff\xff\x7f")
    files[3] = with_payload(files[3], lambda payload: payload[:-4] + b"\0\0\0\0")
    sizes = watched_groups(monkeypatch)
    found = tiny.decode_batch(files, return_errors=True, output="numpy")
    assert sizes == [5]
    for number in (1, 3):
        with pytest.raises(VaecMismatchError) as caught:
            tiny.decode(files[number])
        assert type(found[number]) is VaecMismatchError
        assert (found[number].code, found[number].tile, str(found[number])) == (
            caught.value.code, caught.value.tile, str(caught.value)
        )  # fmt: skip
        with pytest.raises(VaecMismatchError, match="intact but does not decode"):
            tiny.decode_batch(files)
    assert [found[number].shape[:2] for number in (0, 2, 4)] == [(70, 79)] * 3


def test_pixels_that_are_no_numbers_are_an_error_in_their_place(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a group whose synthesis overflows."""
    files, dequantize = alike(tiny, 3), coding.dequantize

    def overflow(*arguments: Any) -> Array:
        latents = 1 * dequantize(*arguments)
        latents[1] = float("inf")
        return latents

    monkeypatch.setattr(coding, "dequantize", overflow)
    found = tiny.decode_batch(files, return_errors=True)
    assert [getattr(each, "code", "picture") for each in found] == ["picture", "NONFINITE", "picture"]


def test_files_of_another_model_are_refused_in_their_places(tiny: Codec) -> None:
    """A group is of one model; files of others say which one is missing."""
    files = alike(tiny, 3)
    stream = container.read(files[1])
    files[1] = container.write(dataclasses.replace(stream.header, model_id=b"none"), list(stream.tiles), {})
    found = tiny.decode_batch(files, return_errors=True)
    assert [getattr(each, "code", "picture") for each in found] == ["picture", "MODEL_MISSING", "picture"]


@pytest.mark.engines("torch")
@pytest.mark.usefixtures("two_threads")
def test_the_caller_keeps_its_threads(tiny: Codec) -> None:
    """Work runs in two threads at once, each of which has torch with one thread; the caller's number stays."""
    met = threading.Barrier(2, timeout=120)

    def work(_: int) -> tuple[int, int]:
        met.wait()
        return threading.get_ident(), torch.get_num_threads()

    count, start = tiny.engine.pictures_at_once, tiny.engine.use_one_thread
    found = threads.run(work, range(2), return_errors=False, threads=count, start=start)
    assert len({ident for ident, _ in found}) == 2
    assert {of_torch for _, of_torch in found} == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.engines("torch")
@pytest.mark.parametrize(("device", "of_torch"), [("cpu", 1), ("cuda", 2)])
def test_one_thread_is_the_caller_s(tiny: Codec, device: str, of_torch: int) -> None:
    """Where torch has one thread, or a GPU does the work, no thread is started."""
    engine, before = engine_on(device, tiny), torch.get_num_threads()
    torch.set_num_threads(of_torch)
    try:
        count, start = engine.pictures_at_once, engine.use_one_thread
        found = threads.run(
            lambda _: threading.current_thread(), range(3), return_errors=False, threads=count, start=start
        )
    finally:
        torch.set_num_threads(before)
    assert set(found) == {threading.current_thread()}
    assert torch.get_num_threads() == before


def engine_on(device: str, codec: Codec) -> TorchEngine:
    """The engine of a codec as it would be on a device, which need not be there."""
    engine = copy.copy(codec.engine)
    engine.device = torch.device(device)
    return engine


# --- work done ahead --------------------------------------------------------------------------------------------------


@pytest.mark.engines("torch")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_that_are_made_ahead_come_in_order(count: int) -> None:
    """All of them, in the order of the items, with torch's threads as they should be."""
    before = torch.get_num_threads()
    work = (lambda n: (n, torch.get_num_threads())) if count else (lambda n: (n, 1))
    found = threads.ahead(work, range(20), threads=count, pending=4, start=TorchEngine.use_one_thread)
    assert list(found) == [(n, 1) for n in range(20)]
    assert torch.get_num_threads() == before


@pytest.mark.engines("torch")
@pytest.mark.parametrize(("count", "pending"), [(0, 1), (1, 1), (2, 5)])
def test_no_more_is_begun_than_may_be_pending(count: int, pending: int) -> None:
    """Memory holds that much: items are asked for one by one, by the thread that wants the results."""
    asked, wanted = list[tuple[int, int]](), 0

    def items() -> Iterator[int]:
        for number in range(12):
            asked.append((number - wanted, threading.get_ident()))
            yield number

    for _ in threads.ahead(lambda n: n, items(), threads=count, pending=pending):
        wanted += 1
    assert max(ahead for ahead, _ in asked) < pending
    assert {ident for _, ident in asked} == {threading.get_ident()}


@pytest.mark.engines("torch")
@pytest.mark.parametrize("count", [0, 2])
def test_errors_of_work_done_ahead_come_where_the_result_would(count: int) -> None:
    """Results before it are there; nothing hangs."""

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    found = list[int]()
    with pytest.raises(ValueError, match="three"):
        found += iter(threads.ahead(work, range(9), threads=count, pending=2))
    assert found in ([], [0, 1, 2])
    results = threads.ahead(work, range(9), threads=count, pending=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vaecodec-ahead")]


@pytest.mark.engines("torch")
@pytest.mark.parametrize(
    ("device", "of_torch", "expected"), [("cpu", 1, 0), ("cpu", 3, 0), ("cpu", 8, 4), ("cuda", 3, 3)]
)
def test_helpers(tiny: Codec, monkeypatch: pytest.MonkeyPatch, device: str, of_torch: int, expected: int) -> None:
    """One for every two threads of torch on a CPU, none on few; all of them beside a GPU."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: of_torch)
    assert engine_on(device, tiny).helpers == expected


@pytest.mark.engines("torch")
def test_work_is_done_beside_other_work() -> None:
    """In another thread; its result or its error comes when it is asked for."""
    with threads.beside(threading.current_thread) as result:
        assert result() is not threading.current_thread()
    with threads.beside(lambda: 1 // 0) as result, pytest.raises(ZeroDivisionError):
        result()


@pytest.mark.engines("torch")
def test_without_room_for_threads_the_caller_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that lacks the memory to begin would leave the caller waiting forever."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(threads.mmap, "mmap", refuse)
    here = threading.current_thread()
    ahead = threads.ahead(lambda _: threading.current_thread(), range(3), threads=2, pending=2)
    together = threads.run(lambda _: threading.current_thread(), range(3), return_errors=False, threads=2)
    with threads.beside(threading.current_thread) as beside:
        assert {*ahead, *together, beside()} == {here}
