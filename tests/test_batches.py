"""Batches: the order of the items, errors in their places, the caller's threads left as they were."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import picture

from vaecodec import Codec, batches
from vaecodec.errors import VaecError


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


@pytest.mark.usefixtures("two_threads")
def test_the_caller_keeps_its_threads() -> None:
    """Work runs in two threads at once, each of which has torch with one thread; the caller's number stays."""
    met = threading.Barrier(2, timeout=20)

    def work(_: int) -> tuple[int, int]:
        met.wait()
        return threading.get_ident(), torch.get_num_threads()

    found = batches.run(work, range(2), return_errors=False, at_once=True)
    assert len({ident for ident, _ in found}) == 2
    assert {threads for _, threads in found} == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("at_once", [False, True])
def test_one_thread_is_the_caller_s(at_once: bool) -> None:
    """Where torch has one thread, or work must not overlap, no thread is started."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if at_once else 2)
    try:
        found = batches.run(lambda _: threading.current_thread(), range(3), return_errors=False, at_once=at_once)
    finally:
        torch.set_num_threads(before)
    assert set(found) == {threading.current_thread()}
