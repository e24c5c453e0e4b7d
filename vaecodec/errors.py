"""The errors that vaecodec raises about its input, in one tree.

VaecError(OSError, ValueError)          the root: both `except OSError` and `except ValueError` catch it
├── VaecFormatError                     these bytes are not a well-formed .vaec file
├── VaecTruncatedError                  the file ends too soon
├── VaecChecksumError                   stored and computed CRC differ: the file was damaged after it was written
├── VaecUnsupportedError                written by a newer version of the format
├── VaecLimitError                      larger than the format or the caller allows
├── VaecModelError                      weights missing, damaged, or not those that the file names
├── VaecCorruptError                    a payload does not decode
│   └── VaecMismatchError               ... although its CRC matches: forged file, or this build computes differently
├── VaecImageError                      this image cannot be encoded, or an argument is invalid
├── VaecTargetError                     a size, rate or fidelity target that no quality meets
└── VaecResourceError                   not enough memory

Every error carries `code`, a stable upper-case word for programs, and `tile`, the index of the tile at fault (or None).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar


class VaecError(OSError, ValueError):
    """Root of all errors; `str(error)` is a sentence for people, `error.code` a word for programs."""

    default_code = "ERROR"

    def __init__(self, message: str, *, code: str | None = None, tile: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.tile = tile

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.code, self.tile)


def _rebuild(cls: type[VaecError], message: str, code: str, tile: int | None) -> VaecError:
    """Unpickles an error from another process; exceptions lose keyword arguments by default."""
    return cls(message, code=code, tile=tile)


class VaecFormatError(VaecError):
    """These bytes are not a well-formed .vaec file."""

    default_code = "FORMAT"


class VaecTruncatedError(VaecError):
    """The file is shorter than its header says."""

    default_code = "TRUNCATED"


class VaecChecksumError(VaecError):
    """A stored CRC-32 differs from the computed one."""

    default_code = "CHECKSUM"


class VaecUnsupportedError(VaecError):
    """The file needs a newer version of the format."""

    default_code = "UNSUPPORTED"


class VaecLimitError(VaecError):
    """The image is larger than the format or the caller allows."""

    default_code = "LIMIT"


class VaecModelError(VaecError):
    """Weights are missing, damaged, or not those that the file names."""

    default_code = "MODEL"


class VaecCorruptError(VaecError):
    """A payload does not decode."""

    default_code = "CORRUPT"


class VaecMismatchError(VaecCorruptError):
    """The payload is intact but decodes to other values: a forged file, or this build computes differently."""

    default_code = "MISMATCH"


class VaecImageError(VaecError):
    """This image cannot be encoded because of its mode, size or type, or an argument is invalid."""

    default_code = "IMAGE"


class VaecTargetError(VaecError):
    """No quality from 1 to 100 meets the requested size, rate or fidelity."""

    default_code = "TARGET"


class VaecResourceError(VaecError):
    """Memory ran out."""

    default_code = "MEMORY"


Result = TypeVar("Result")

LARGEST_KEPT_BYTES = (32 << 20) - (64 << 10)  # glibc does not adapt to blocks of more than 32 MiB

# Texts of plain RuntimeErrors from CUDA, torch's own allocator, C++ and oneDNN.
_WORDS = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a")


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the computer or the GPU."""
    if isinstance(error, MemoryError | VaecResourceError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def first_that_fits(*attempts: Callable[[], Result]) -> Result:
    """The result of the first attempt that does not run out of memory; each needs less than the one before.

    Raises:
        VaecResourceError: all attempts ran out of memory.
    """
    reason = ""
    for attempt in attempts:
        try:
            return attempt()
        except Exception as error:
            if not is_shortage(error):
                raise
            reason = _reason(error)
        # Only here is the memory of the failed attempt free: an exception keeps its stack frames alive.
    raise VaecResourceError(reason)


def keep_freed_memory() -> None:
    """Make glibc keep 64 MiB for the next picture instead of returning them to the system.

    glibc keeps twice the largest block that was ever freed. The pages of this block are never touched and cost nothing.
    Without it, 10,000 pages per picture were returned and requested again: a fifth of the decoding time.
    """
    bytes(LARGEST_KEPT_BYTES)


@contextmanager
def shortage_as_error() -> Iterator[None]:
    """Turn any error that means that memory ran out into VaecResourceError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, VaecResourceError) or not is_shortage(error):
            raise
        raise VaecResourceError(_reason(error)) from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn out-of-memory errors, and CUDA errors in a forked process, into errors of this package."""
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
