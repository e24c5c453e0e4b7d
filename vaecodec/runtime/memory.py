"""Out of memory: recognising it, trying again with less, and clear errors for it and for CUDA after a fork."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vaecodec.errors import VaecModelError, VaecResourceError

Result = TypeVar("Result")

LARGEST_KEPT_BYTES = (32 << 20) - (64 << 10)  # glibc takes no hint from blocks of more than 32 MiB

# What torch and the libraries below it say in plain RuntimeErrors: CUDA, torch's own allocator, C++, oneDNN.
_WORDS = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the computer or the GPU."""
    if isinstance(error, MemoryError | VaecResourceError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def first_that_fits(*attempts: Callable[[], Result]) -> Result:
    """The result of the first attempt that finds enough memory; each needs less than the one before.

    Raises:
        VaecResourceError: none does.
    """
    reason = ""
    for attempt in attempts:
        try:
            return attempt()
        except Exception as error:
            if not is_shortage(error):
                raise
            reason = _reason(error)
        # Only here is the memory of the failed attempt free: an error holds the frames that it came through.
    raise VaecResourceError(reason)


def keep_freed_memory() -> None:
    """Let glibc keep 64 MiB for the next picture instead of returning them to the system.

    It keeps twice the largest block that was ever freed. The pages of this one are never touched, and cost nothing.
    Without it, 10,000 pages a picture were given back and taken again: a fifth of the time of decoding.
    """
    bytes(LARGEST_KEPT_BYTES)


@contextmanager
def shortage_as_error() -> Iterator[None]:
    """Turn any error that says memory ran out into VaecResourceError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, VaecResourceError) or not is_shortage(error):
            raise
        raise VaecResourceError(_reason(error)) from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise errors of this package for memory that runs out and for CUDA in a forked process."""
    with shortage_as_error():
        try:
            yield
        except RuntimeError as error:
            if "forked subprocess" not in str(error):
                raise
            message = 'CUDA does not work in a forked process: use the start method "spawn", or device="cpu"'
            raise VaecModelError(message, code="FORKED") from error


def _reason(error: Exception) -> str:
    if isinstance(error, VaecResourceError):
        return str(error)
    said = f" ({error})" if str(error) else ""
    return f"not enough memory for this picture{said}"
