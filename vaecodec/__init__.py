"""vaecodec: a learned image codec. Importing it registers `.vaec` with Pillow; the engine loads on first use."""

from typing import TYPE_CHECKING, Any

from vaecodec.runtime import interrupts as _interrupts

_interrupts.watch()  # before the other imports, which take most of the command line's start

from vaecodec.errors import (  # noqa: E402
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
from vaecodec.format.container import is_vaec  # noqa: E402
from vaecodec.format.records import Header, Info  # noqa: E402
from vaecodec.format.sources import info  # noqa: E402
from vaecodec.interop.pillow_plugin import register  # noqa: E402
from vaecodec.runtime.forks import watch as _watch_forks  # noqa: E402

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


_watch_forks()  # here, because a fork may happen after numpy and torch load and before the codec does


def __getattr__(name: str) -> Any:
    """Loads names that need numpy (and torch, when called) on first use, so importing vaecodec stays fast."""
    if name in ("Codec", "decode", "decode_file", "decode_region", "encode", "encode_file", "verify"):
        from vaecodec import codec

        return getattr(codec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
