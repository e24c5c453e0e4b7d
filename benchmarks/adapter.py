"""The adapter of a codec: encodes a picture to the bytes of a file, and decodes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image


class UnavailableError(Exception):
    """A codec cannot be measured here; the message says why."""


@dataclass(frozen=True, eq=False)  # compared by identity, so that it can be part of a key
class Codec:
    """A codec under one name and with one set of settings.

    Attributes:
        name: its name in results and plots.
        version: versions of everything that determines its bytes.
        settings: all non-default settings.
        qualities: the measured values on its own quality scale.
        encode: RGB picture and quality to the bytes of a complete file.
        decode: these bytes to an RGB picture, its pixels loaded.
        timing_only: whether only its times are meaningful, because its weights are untrained.
        threads: torch threads; None for libraries that choose for themselves.
        stages: seconds by stage of its last call, if it reports them.
    """

    name: str
    version: str
    settings: dict[str, Any]
    qualities: tuple[int, ...]
    encode: Callable[[Image.Image, int], bytes]
    decode: Callable[[bytes], Image.Image]
    timing_only: bool = False
    threads: int | None = None
    stages: Callable[[], dict[str, float]] | None = None

    def describe(self) -> dict[str, Any]:
        """Its description in results."""
        return {"name": self.name, "version": self.version, "settings": self.settings}


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Turns a failing import inside the block into UnavailableError."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:  # incompatible builds fail in all three ways
        raise UnavailableError(f"{package} cannot be imported ({error})") from error
