"""vaecodec: a learned image codec. Importing it registers `.vaec` with Pillow; engines load with the first picture."""

from typing import TYPE_CHECKING, Any

from vaecodec.errors import (
    VaecChecksumError,
    VaecCorruptError,
    VaecError,
    VaecFormatError,
    VaecImageError,
    VaecLimitError,
    VaecMismatchError,
    VaecModelError,
    VaecResourceError,
    VaecTargetError,
    VaecTruncatedError,
    VaecUnsupportedError,
)
from vaecodec.format.container import is_vaec
from vaecodec.format.records import Header, Info
from vaecodec.format.sources import info
from vaecodec.interop.pillow_plugin import register
from vaecodec.runtime.forks import watch as _watch_forks

if TYPE_CHECKING:
    from vaecodec.codec import Codec, decode, decode_file, decode_region, encode, encode_file, verify

__version__ = "0.1.0"
__all__ = [
    "Codec",
    "Header",
    "Info",
    "VaecChecksumError",
    "VaecCorruptError",
    "VaecError",
    "VaecFormatError",
    "VaecImageError",
    "VaecLimitError",
    "VaecMismatchError",
    "VaecModelError",
    "VaecResourceError",
    "VaecTargetError",
    "VaecTruncatedError",
    "VaecUnsupportedError",
    "decode",
    "decode_file",
    "decode_region",
    "encode",
    "encode_file",
    "info",
    "is_vaec",
    "register",
    "verify",
]


_watch_forks()  # here, because numpy and torch may be loaded before the fork and the codec after it


def __getattr__(name: str) -> Any:
    """The names that need numpy (and torch, once used) load on first use: importing vaecodec stays quick."""
    if name in ("Codec", "decode", "decode_file", "decode_region", "encode", "encode_file", "verify"):
        from vaecodec import codec

        return getattr(codec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
