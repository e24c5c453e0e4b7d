"""Work in threads: many items at once, or results prepared ahead of their reader."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vaecodec.errors import VaecError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    return_errors: bool,
    threads: int = 1,
    start: Callable[[], None] | None = None,
) -> list[Result | Exception]:
    """The work done on every item, in the order of the items.

    On several processors, each then works on an item of its own, instead of all sharing out every small step of one and
    waiting for each other: on two, a quarter to a third more pictures of 256x256 a second; large ones gain nothing.

    Args:
        work: may run in several threads at once.
        items: read completely before work begins.
        return_errors: put a VaecError or OSError in the place of its result; else the first of them is raised, when
            work that had begun is done.
        threads: how many; with one, the calling thread does the work.
        start: called first in each of several threads.
    """

    def attempt(item: Item) -> Result | Exception:
        try:
            return work(item)
        except (VaecError, OSError) as error:
            if not return_errors:
                raise
            return error

    if threads == 1:
        return [attempt(item) for item in items]
    with ThreadPoolExecutor(threads, "vaecodec", initializer=start) as pool:
        try:
            return list(pool.map(attempt, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    pending: int,
    start: Callable[[], None] | None = None,
) -> Generator[Result]:
    """The work done on every item, in their order, by other threads while the caller is busy with results before.

    Args:
        work: may run in several threads at once.
        items: read by the thread that reads the results.
        threads: how many; with none, the caller does the work itself.
        pending: at most this many items are in work, or done and waiting.
        start: called first in each thread.
    """
    if threads == 0:
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
