"""Runs work in threads, where memory allows: many items, results ahead of their consumer, one thing beside another."""

import mmap
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from vaecodec.errors import VaecError

Item = TypeVar("Item")
Result = TypeVar("Result")
BYTES_A_THREAD = 160 << 20  # of address space: the stack, and what the C library's allocator reserves


def _has_room(threads: int) -> bool:
    """Whether the address space has room for more threads; `Thread.start` waits forever for one that cannot begin."""
    size = threads * BYTES_A_THREAD
    try:
        if sys.platform == "win32":
            mmap.mmap(-1, size).close()
        else:  # such memory is only address space: the system does not count it as used
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
    except (OSError, ValueError, OverflowError, MemoryError):
        return False
    return True


def run(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    return_errors: bool,
    threads: int = 1,
    start: Callable[[], None] | None = None,
) -> list[Result | Exception]:
    """Does the work on every item; returns the results in the order of the items.

    Each processor works on its own item, instead of sharing every small step of one item and waiting for the others.
    Two processors handle a quarter to a third more pictures of 256x256 per second; large pictures gain nothing.

    Args:
        work: must be safe to call from several threads at once.
        items: read completely before work begins.
        return_errors: return a VaecError or OSError in place of its result; otherwise the first of them is raised,
            after running work has finished.
        threads: number of threads; with one, the calling thread does the work.
        start: called first in each of several threads.
    """

    def attempt(item: Item) -> Result | Exception:
        try:
            return work(item)
        except (VaecError, OSError) as error:
            if not return_errors:
                raise
            return error

    if threads == 1 or not _has_room(threads):
        return [attempt(item) for item in items]
    with ThreadPoolExecutor(threads, "vaecodec", initializer=start) as pool:
        try:
            return list(pool.map(attempt, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def beside(work: Callable[[], Result]) -> Generator[Callable[[], Result]]:
    """Does the work in a thread beside the body of the `with` statement, which receives a function that awaits it."""
    if not _has_room(1):
        yield work
        return
    with ThreadPoolExecutor(1, "vaecodec-beside") as pool:
        yield pool.submit(work).result


def ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    pending: int,
    start: Callable[[], None] | None = None,
) -> Generator[Result]:
    """Yields the results of the work on every item, in order; threads compute them while the caller uses earlier ones.

    Args:
        work: must be safe to call from several threads at once.
        items: read by the thread that consumes the results.
        threads: number of threads; with 0, the caller does the work itself.
        pending: maximum number of items that are in progress, or done and waiting.
        start: called first in each thread.
    """
    if threads == 0 or not _has_room(threads):
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, "vaecodec-ahead", initializer=start) as pool:
        waiting = deque[Future[Result]]()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= pending:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
