"""A second decoder of payloads, written from docs/format.md alone: Python integers, one symbol or sample at a time.

It shares no code with vaecodec and none with constriction, so that both can only agree by following the specification.
Pillow reads the pixels of WebP files for it, too.
"""

import io
import zlib

from PIL import Image

PARTS_BITS = 24
STATE_FLOOR = 1 << 32
START_STATE = 0x01454156
LARGEST_MAGNITUDE = 2047


class CorruptError(Exception):
    """The payload is not one that an encoder can have written."""


def webp_samples(payload: bytes, height: int, width: int, channels: int) -> bytes:
    """The raw samples of a WebP payload."""

    def u32(at: int) -> int:
        return int.from_bytes(payload[at : at + 4], "little")

    if len(payload) < 26 or payload[:4] + payload[8:16] != b"RIFFWEBPVP8L" or payload[20] != 0x2F:
        raise CorruptError("head")
    if u32(4) != len(payload) - 8 or u32(16) + u32(16) % 2 != len(payload) - 20:
        raise CorruptError("lengths")
    if u32(21) != (width - 1) + ((height - 1) << 14):
        raise CorruptError("size")
    with Image.open(io.BytesIO(payload)) as image:
        pixels = image.tobytes()
        if image.mode != "RGB":
            raise CorruptError("mode")
    return pixels if channels == 3 else pixels[::3]


def corrected_samples(payload: bytes, shown: bytes, height: int, width: int, channels: int) -> bytes:
    """The raw samples of a corrected payload, of those that its learned part alone stands for."""
    learned_bytes, crc, step = int.from_bytes(payload[:4], "little"), payload[4:8], payload[8]
    steps = [*range(2, 13), 14, 16, 18, 20, 24, 28, 32, 40, 48, 64]
    if learned_bytes >= len(payload) - 9 or step not in steps:
        raise CorruptError("head of a correction")
    symbols = webp_samples(payload[9 + learned_bytes :], height, width, channels)
    if zlib.crc32(symbols) != int.from_bytes(crc, "little"):
        raise CorruptError("symbols of a correction")
    sums = (sample + step * (symbol - 128) for sample, symbol in zip(shown, symbols, strict=True))
    return bytes(min(max(value, 0), 255) for value in sums)


class SlowDecoder:
    """Reads passes in order; a pass is the rows of its symbols and, per row, a list of counts with the escape last."""

    def __init__(self, payload: bytes) -> None:
        if len(payload) == 0 or len(payload) % 4 != 0:
            raise CorruptError("length")
        self.words = [int.from_bytes(payload[i : i + 4], "little") for i in range(0, len(payload), 4)]
        self.state = self.words.pop()
        if self.state == 0:
            raise CorruptError("last word")
        self._refill()

    def read(self, counts: list[list[int]], rows: list[int], first_coded_row: int = 0) -> list[int]:
        """Returns the symbols of one pass, one for each entry of rows."""
        symbols = [0] * len(rows)
        escaped = []
        for row in range(first_coded_row, len(counts)):
            radius = len(counts[row]) // 2 - 1
            for place in [i for i, r in enumerate(rows) if r == row]:
                column = self._pop(counts[row])
                symbols[place] = column - radius
                if column == 2 * radius + 1:
                    escaped.append((place, radius))
        widths = [4 * (2048 - abs(value)) for value in range(-LARGEST_MAGNITUDE, LARGEST_MAGNITUDE + 1)]
        for place, _ in escaped:
            symbols[place] = self._pop(widths) - LARGEST_MAGNITUDE
        for place, radius in escaped:
            if abs(symbols[place]) <= radius:
                raise CorruptError("needless escape")
        return symbols

    def finish(self) -> None:
        """Checks that nothing is left over and nothing is missing."""
        if self.words or self.state != START_STATE:
            raise CorruptError("end")

    def _pop(self, widths: list[int]) -> int:
        prefix, position = self.state >> PARTS_BITS, self.state % (1 << PARTS_BITS)
        column = 0
        while position >= widths[column]:
            position -= widths[column]
            column += 1
        self.state = prefix * widths[column] + position
        self._refill()
        return column

    def _refill(self) -> None:
        if self.state < STATE_FLOOR and self.words:
            self.state = (self.state << 32) + self.words.pop()
