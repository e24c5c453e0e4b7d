"""The payload of a tile that a model of another library decodes: the model's identity and its strings."""

import struct
from typing import NamedTuple

from vaecodec.errors import VaecCorruptError, VaecUnsupportedError
from vaecodec.format.records import EXTERNAL_HEAD_BYTES, Tile

LIBRARIES = ("compressai",)
MAX_NAME, MAX_DIMENSIONS, MAX_STRINGS = 64, 4, 64

PREFIX_BYTES = EXTERNAL_HEAD_BYTES + MAX_NAME

_HEAD = struct.Struct("<32sIBBBB")  # of the model, of its tables, library, length of the name, dimensions, strings


class External(NamedTuple):
    """A tile as encoded by another library's model.

    Attributes:
        model_sha256: SHA-256 of the model's parameters, 32 bytes.
        tables_crc: CRC-32 of its tables, which each machine computes by itself.
        name: name of the model, 1 to 64 printable ASCII characters without a space.
        shape: shape argument of its decoder, usually the size of the hyper-latents.
        strings: its strings, in its own order.
        library: the library that it belongs to.
    """

    model_sha256: bytes
    tables_crc: int
    name: str
    shape: tuple[int, ...]
    strings: tuple[bytes, ...]
    library: str = LIBRARIES[0]

    def pack(self) -> bytes:
        """Returns the payload."""
        name = self.name.encode("ascii")
        counts = len(name), len(self.shape), len(self.strings)
        head = _HEAD.pack(self.model_sha256, self.tables_crc, LIBRARIES.index(self.library), *counts)
        numbers = struct.pack(f"<{len(self.shape) + len(self.strings)}I", *self.shape, *map(len, self.strings))
        return b"".join([head, name, numbers, *self.strings])

    @classmethod
    def unpack(cls, payload: bytes) -> "External":
        """The inverse of `pack`.

        Raises:
            VaecCorruptError: (EXTERNAL) no encoder writes such a payload.
            VaecUnsupportedError: (EXTERNAL_LIBRARY) this version does not know the library.
        """
        sha256, tables_crc, library, name_bytes, dimensions, strings = _HEAD.unpack_from(payload)
        if library >= len(LIBRARIES):
            message = f"library is {library}, must be 0 to {len(LIBRARIES) - 1}: a newer vaecodec may read this file"
            raise VaecUnsupportedError(message, code="EXTERNAL_LIBRARY")
        name = payload[_HEAD.size : _HEAD.size + name_bytes]
        start = _HEAD.size + name_bytes + 4 * (dimensions + strings)
        if not (
            is_name(name.decode("latin-1")) and len(name) == name_bytes
            and 0 < dimensions <= MAX_DIMENSIONS and 0 < strings <= MAX_STRINGS and start <= len(payload)
        ):  # fmt: skip
            raise _corrupt("a head that no encoder writes")
        numbers = struct.unpack_from(f"<{dimensions + strings}I", payload, _HEAD.size + name_bytes)
        shape, lengths = numbers[:dimensions], numbers[dimensions:]
        if start + sum(lengths) != len(payload):
            raise _corrupt(f"strings that end at byte {start + sum(lengths)} of {len(payload)}")
        found = []
        for length in lengths:
            found.append(payload[start : start + length])
            start += length
        return cls(sha256, tables_crc, name.decode(), shape, tuple(found), LIBRARIES[library])


def told_by(start: bytes) -> str:
    """Describes the model from the first bytes of a payload, at most `PREFIX_BYTES`, without checking them."""
    if len(start) < _HEAD.size:
        return ""
    sha256, _, library, name_bytes, _, _ = _HEAD.unpack_from(start)
    name = start[_HEAD.size : _HEAD.size + name_bytes].decode("latin-1")
    return f"{LIBRARIES[library]} {name} {sha256[:4].hex()}" if library < len(LIBRARIES) and is_name(name) else ""


def is_name(text: str) -> bool:
    """Whether a file can hold this name of a model."""
    return 0 < len(text) <= MAX_NAME and all("!" <= character <= "~" for character in text)


def unsupported(tile: Tile) -> VaecUnsupportedError:
    """The error of a decoder that lacks the model: names the model, and how to decode with it.

    Raises:
        VaecCorruptError, VaecUnsupportedError: as in `External.unpack`.
    """
    model = External.unpack(tile.payload)
    return VaecUnsupportedError(
        f"this picture was coded by {model.library}'s model {model.name}, whose parameters have the SHA-256 "
        f"{model.model_sha256.hex()[:16]}...: pip install 'vaecodec[{model.library}]', load the model, and decode with "
        f"vaecodec.interop.{model.library}.Container(model, {model.name!r}).decode(file)",
        code="EXTERNAL_MODEL",
    )


def _corrupt(what: str) -> VaecCorruptError:
    return VaecCorruptError(f"the payload of another library's model has {what}", code="EXTERNAL")
