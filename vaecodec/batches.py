"""Many pictures at once: a thread for each of torch's, and in each of them torch with one thread only.

The processors then work on different pictures, instead of sharing out every small step of one and waiting for each
other. On two processors that is a quarter to a third more pictures of 256x256 a second; large ones gain nothing.
Of large ones, threads may do ahead what needs no network: `ahead`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vaecodec.errors import VaecError

# Of a decode by one thread, reading symbols is a sixth: one helper should keep up with four threads that do the rest.
THREADS_PER_HELPER = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    work: Callable[[Item], Result], items: Iterable[Item], *, return_errors: bool, at_once: bool
) -> list[Result | Exception]:
    """The work done on every item, in the order of the items.

    Args:
        work: may run in several threads at once.
        items: all are asked for before the first is worked on.
        return_errors: put a VaecError or OSError in the place of its result; else the first of them is raised, when
            work that had begun is done.
        at_once: whether to use several threads, as many as torch would use here; the calling thread alone if not.
    """

    def attempt(item: Item) -> Result | Exception:
        try:
            return work(item)
        except (VaecError, OSError) as error:
            if not return_errors:
                raise
            return error

    import torch  # deferred: it takes time to load

    threads = torch.get_num_threads() if at_once else 1
    if threads == 1:
        return [attempt(item) for item in items]
    # Torch's number of threads belongs to the thread that sets it, so that the caller's stays as it is.
    with ThreadPoolExecutor(threads, "vaecodec", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(attempt, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def helpers(device: str) -> int:
    """How many threads should read ahead for a network on a device of a type such as "cpu".

    None on few processors: on two with two threads of torch, helpers were measured to cost 5 to 9 % (docs/scale.md).
    """
    import torch  # deferred, as above

    threads = torch.get_num_threads()
    return threads // THREADS_PER_HELPER if device == "cpu" else threads


def ahead(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, pending: int) -> Generator[Result]:
    """The work done on every item, in their order, by other threads while the caller is busy with results before.

    Args:
        work: may run in several threads at once.
        items: are asked for by the thread that asks for results.
        threads: how many; with none, the caller does the work when it asks for a result.
        pending: so many items at most are worked on, or done, before their results are asked for.
    """
    if threads == 0:
        yield from map(work, items)
        return
    import torch  # deferred, as above

    with ThreadPoolExecutor(threads, "vaecodec-ahead", initializer=torch.set_num_threads, initargs=(1,)) as pool:
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
