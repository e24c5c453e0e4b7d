"""What an adapter of a codec is: a picture to the bytes of a file, and these bytes to a picture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image


class UnavailableError(Exception):
    """A codec cannot be measured here; the message says why."""


@dataclass(frozen=True, eq=False)  # told apart by identity, so that it can be part of a key
class Codec:
    """A codec under one name and with one set of settings.

    Attributes:
        name: what results and plots call it.
        version: of everything that decides its bytes.
        settings: all that was not left at its default.
        qualities: the values of its own quality scale that are measured.
        encode: RGB picture and quality to the bytes of a complete file.
        decode: these bytes to an RGB picture, its pixels loaded.
        timing_only: its pictures mean nothing (untrained weights), its times do.
        threads: of torch that it computes with; None for libraries that choose for themselves.
        stages: seconds by stage of its last call, where it can tell.
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
        """What results say of it."""
        return {"name": self.name, "version": self.version, "settings": self.settings}


@contextmanager
def needs(package: str) -> Iterator[None]:
    """A failing import inside means that the codec is unavailable."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:  # a library of another build fails in all three ways
        raise UnavailableError(f"{package} cannot be imported ({error})") from error
