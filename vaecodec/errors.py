"""The errors that vaecodec raises about its input, as one tree.

VaecError(OSError, ValueError)          the root: both `except OSError` and `except ValueError` catch it
├── VaecFormatError                     these bytes are not a well-formed .vaec file
├── VaecTruncatedError                  the file ends too soon
├── VaecChecksumError                   stored and computed CRC differ: the file was damaged after it was written
├── VaecUnsupportedError                written by a newer version of the format
├── VaecLimitError                      larger than the format or the caller allows
├── VaecModelError                      weights missing, damaged, or not those that the file names
├── VaecCorruptError                    an intact-looking payload that decodes to nonsense
│   └── VaecMismatchError               ... although its CRC holds: crafted file, or this build computes differently
├── VaecImageError                      this image cannot be encoded: mode, size, type
├── VaecTargetError                     a size, rate or PSNR target that no quality meets
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
    """Errors cross process borders by pickle (batch jobs); keyword arguments do not survive the default way."""
    return cls(message, code=code, tile=tile)


class VaecFormatError(VaecError):
    """These bytes are not a well-formed .vaec file."""

    default_code = "FORMAT"


class VaecTruncatedError(VaecError):
    """The file ends before its own header says that it does."""

    default_code = "TRUNCATED"


class VaecChecksumError(VaecError):
    """A stored CRC-32 differs from the computed one."""

    default_code = "CHECKSUM"


class VaecUnsupportedError(VaecError):
    """The file needs a newer version of the format than this one."""

    default_code = "UNSUPPORTED"


class VaecLimitError(VaecError):
    """The image is larger than the format or the caller allows."""

    default_code = "LIMIT"


class VaecModelError(VaecError):
    """Weights are missing, damaged, or not the ones that the file names."""

    default_code = "MODEL"


class VaecCorruptError(VaecError):
    """A payload does not decode to what its place in the file demands."""

    default_code = "CORRUPT"


class VaecMismatchError(VaecCorruptError):
    """The payload is intact but decodes to other latents: a crafted file, or this build computes differently."""

    default_code = "MISMATCH"


class VaecImageError(VaecError):
    """This image cannot be encoded: its mode, size or type."""

    default_code = "IMAGE"


class VaecTargetError(VaecError):
    """No quality from 1 to 100 meets the requested size, rate or PSNR."""

    default_code = "TARGET"


class VaecResourceError(VaecError):
    """Memory ran out."""

    default_code = "MEMORY"


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
