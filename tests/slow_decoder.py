"""A second decoder of .vaec files, written from docs/format.md alone: plain Python and numpy, as short as can be.

It shares no code with vaecodec and none with constriction, so that both can only agree by following the specification.
Pillow reads the pixels of WebP files for it, too. Symbols are read one at a time, and a picture is synthesized whole.
"""

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[Any]  # float32, or the precision that the weights were asked for
Integers = NDArray[np.int64]

PARTS_BITS = 24
STATE_FLOOR = 1 << 32
START_STATE = 0x01454156
LARGEST_MAGNITUDE = 2047


class CorruptError(Exception):
    """The file is not one that an encoder can have written."""


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


# --- the file ---------------------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A tile of the index: which part of which channels it is, and what is stored of it."""

    top: int
    left: int
    height: int
    width: int
    channels: slice
    mode: int
    payload: bytes
    content_crc: int


LEARNED, ZLIB, SOLID, WEBP, CORRECTED = range(5)
MODES = ("L", "RGB", "LA", "RGBA")


@dataclass
class File:
    """A file taken apart; `rest` is its metadata."""

    mode: str
    width: int
    height: int
    model_id: bytes
    quality: int
    deblocking_cut: int
    tiles: list[Tile]
    rest: bytes


def take_apart(data: bytes) -> File:
    """Header, index and payloads, their checksums checked."""

    def u32(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    if len(data) < 32 or data[:6] != b"\x89VAE\x01\x00" or data[7] > 3 or data[22] or u32(24) != len(data):
        raise CorruptError("header")
    mode, width, height, side = MODES[data[7]], u32(8), u32(12), 1 << data[21]
    colours = 3 if mode.startswith("RGB") else 1
    planes = [slice(0, colours), slice(colours, colours + 1)][: 1 + mode.endswith("A")]
    boxes = [
        (top, left, min(side, height - top), min(side, width - left), channels)
        for channels in planes for top in range(0, height, side) for left in range(0, width, side)
    ]  # fmt: skip
    start = 32 + 12 * len(boxes)
    if zlib.crc32(data[:28] + data[32:start]) != u32(28):
        raise CorruptError("header's checksum")
    tiles = []
    for number, box in enumerate(boxes):
        entry = 32 + 12 * number
        length = u32(entry) % (1 << 28)
        payload = data[start : start + length]
        if zlib.crc32(payload) != u32(entry + 4):
            raise CorruptError("payload's checksum")
        tiles.append(Tile(*box, u32(entry) >> 28, payload, u32(entry + 8)))
        start += length
    return File(mode, width, height, data[16:20], data[20], data[23], tiles, data[start:])


def zlib_samples(payload: bytes, height: int, width: int, channels: int) -> bytes:
    """The raw samples of a ZLIB payload."""
    kind, residuals = payload[0], np.frombuffer(zlib.decompress(payload[1:]), np.uint8)
    planes = residuals.reshape(3, height, width) if kind & 4 else residuals.reshape(height, width, channels)
    values = (planes if kind & 4 else planes.transpose(2, 0, 1)).astype(np.int64)
    values = values.cumsum(1) if kind & 2 else values
    values = values.cumsum(2) if kind & 1 else values
    if kind & 4:
        values = np.stack([values[0] + values[1], values[1], values[2] + values[1]])
    return (values % 256).astype(np.uint8).transpose(1, 2, 0).tobytes()


def plain_samples(tile: Tile) -> NDArray[np.uint8]:
    """The samples [h, w, C] of a tile that is not learned."""
    shape = tile.height, tile.width, tile.channels.stop - tile.channels.start
    if tile.mode == SOLID:
        samples = tile.payload * (tile.height * tile.width)
    else:
        samples = {ZLIB: zlib_samples, WEBP: webp_samples}[tile.mode](tile.payload, *shape)
    if zlib.crc32(samples) != tile.content_crc:
        raise CorruptError("samples' checksum")
    return np.frombuffer(samples, np.uint8).reshape(shape)


def picture(data: bytes, weights: "Weights") -> NDArray[np.uint8]:
    """The samples [h, w, channels] that a file stands for."""
    file = take_apart(data)
    shown = np.zeros((file.height, file.width, len(file.mode)), np.uint8)
    network = Network(weights, file.quality)
    y = np.zeros((weights.latent_channels, -(-file.height // 16), -(-file.width // 16)), weights.precision)
    learned = [tile for tile in file.tiles if tile.mode in (LEARNED, CORRECTED)]
    if learned and weights.model_id != file.model_id:
        raise CorruptError("other weights")
    for tile in learned:
        rows, columns = -(-tile.height // 16), -(-tile.width // 16)
        end = 9 + int.from_bytes(tile.payload[:4], "little")
        payload = tile.payload if tile.mode == LEARNED else tile.payload[9:end]
        multiples, z, symbols = network.symbols(payload, rows, columns)
        words = np.concatenate([each.transpose(1, 2, 0).ravel() for each in (z, symbols)]).astype("<i2")
        if zlib.crc32(multiples.astype(np.uint8).tobytes() + words.tobytes()) != tile.content_crc:
            raise CorruptError("latents' checksum")
        area = slice(tile.top // 16, tile.top // 16 + rows), slice(tile.left // 16, tile.left // 16 + columns)
        steps = multiples.repeat(4, 0).repeat(4, 1)[:rows, :columns]
        y[:, *area] = network.latents(z, symbols * steps)
    if learned:
        rgb = network.pixels(y, file.deblocking_cut)[: file.height, : file.width]
    for tile in file.tiles:
        place = shown[tile.top :, tile.left :, tile.channels][: tile.height, : tile.width]
        if tile not in learned:
            place[:] = plain_samples(tile)
            continue
        colours = rgb[tile.top :, tile.left :][: tile.height, : tile.width]
        place[:] = colours if place.shape[2] == 3 else (colours.sum(2, keepdims=True, dtype=np.int64) + 1) // 3
        if tile.mode == CORRECTED:
            samples = corrected_samples(tile.payload, place.tobytes(), *place.shape)
            place[:] = np.frombuffer(samples, np.uint8).reshape(place.shape)
    return shown


# --- weights, and the integers of a learned tile ----------------------------------------------------------------------


class Weights:
    """A weights file by the names of its tensors: floats as float32 (or the precision asked for), integers as int64."""

    def __init__(self, path: Path, precision: type = np.float32) -> None:
        data = path.read_bytes()
        self.model_id = sha256(data).digest()[:4]
        begin = 8 + int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8:begin])
        self.arch: dict[str, int] = json.loads(header.pop("__metadata__")["architecture"])
        self.latent_channels, self.precision = self.arch["latent_channels"], precision
        self._tensors: dict[str, NDArray[Any]] = {}
        for name, about in header.items():
            first, last = about["data_offsets"]
            kind = {"F": "f", "I": "i", "U": "u"}[about["dtype"][0]] + str(int(about["dtype"][1:]) // 8)
            array = np.frombuffer(data[begin + first : begin + last], "<" + kind).reshape(about["shape"])
            self._tensors[name] = array.astype(precision if kind[0] == "f" else np.int64)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._tensors[name]

    def bias(self, name: str) -> Any:
        """A bias [C, 1, 1], or 0 where there is none."""
        return self[name][:, None, None] if name in self._tensors else 0

    def tables(self, name: str, number: int) -> tuple[list[list[int]], int]:
        """The rows of counts of one set of tables, and the first coded row."""
        radius, counts = self[f"{name}.radius"][number], self[f"{name}.counts"][number]
        rows = [row[: 2 * r + 2].tolist() for row, r in zip(counts, radius, strict=True)]
        return rows, int(self[f"{name}.first_coded_row"][number])


def shuffle(x: NDArray[Any], side: int) -> NDArray[Any]:
    """[C side^2, h, w] to [C, side h, side w]."""
    channels, height, width = x.shape
    parts = x.reshape(channels // side**2, side, side, height, width).transpose(0, 3, 1, 4, 2)
    return parts.reshape(-1, side * height, side * width)


def windows(x: NDArray[Any], side: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """For every place (a, b) of a kernel, the grid [C, h, w] that it sees, zeros around it."""
    reach, (_, height, width) = side // 2, x.shape
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    for a in range(side):
        for b in range(side):
            yield a, b, padded[:, a : a + height, b : b + width]


def round_shift(x: Integers, bits: int) -> Integers:
    return (x + (1 << (bits - 1))) >> bits


class Network:
    """What the weights make of integers, at one quality."""

    def __init__(self, weights: Weights, quality: int) -> None:
        self.weights, self.quality = weights, quality

    def symbols(self, payload: bytes, rows: int, columns: int) -> tuple[Integers, Integers, Integers]:
        """Step multiples [h', w'] and symbols z [Z, h', w'] and y [M, rows, columns] of a tile."""
        decoder, channels = SlowDecoder(payload), self.weights.latent_channels
        multiples = self._multiples(decoder, -(-rows // 4), -(-columns // 4))
        z = self._hyper_latents(decoder, -(-rows // 4), -(-columns // 4))
        shifts = np.array([0, 6, 10, 12])[multiples - 1].repeat(4, 0).repeat(4, 1)
        indexes = np.maximum(self._scales(z) - shifts, 0)[:, :rows, :columns]
        y = np.zeros((channels, rows, columns), np.int64)
        base, half = channels // 8, channels // 2
        low, middle, high = range(base), range(base, half), range(half, channels)
        for half_number, parts in (
            (0, [(low, 1)]), (1, [(low, 0)]), (0, [(middle, 1), (high, 0)]), (1, [(middle, 0), (high, 1)]),
        ):  # fmt: skip
            places = [
                (c, i, j) for of, odd in parts for i in range(rows) for j in range(columns) if (i + j) % 2 == odd
                for c in of
            ]  # fmt: skip
            counts, first = self.weights.tables("latent_tables", half_number)
            found = decoder.read(counts, [int(indexes[place]) for place in places], first)
            for place, symbol in zip(places, found, strict=True):
                y[place] = symbol
        decoder.finish()
        return multiples, z, y

    def _multiples(self, decoder: SlowDecoder, rows: int, columns: int) -> Integers:
        """Pass 1: the step multiples [rows, columns]."""
        counts = [[1024, 1024, 2**24 - 4097, 1024, 1024, 1]]
        multiples = np.zeros((rows, columns), np.int64)
        differences = iter(decoder.read(counts, [0] * multiples.size, 0))
        for i in range(rows):
            for j in range(columns):
                before = multiples[i, j - 1] if j else multiples[i - 1, 0] if i else 1
                multiples[i, j] = (before - 1 + next(differences)) % 4 + 1
        return multiples

    def _hyper_latents(self, decoder: SlowDecoder, rows: int, columns: int) -> Integers:
        """Passes 2 to 4: z [Z, rows, columns], each in the tables that its neighbours choose."""
        channels = self.weights.arch["hyper_channels"]
        counts, first = self.weights.tables("hyper_tables", 0)
        z = np.zeros((channels, rows, columns), np.int64)
        corners, sides = [(-1, -1), (-1, 1), (1, -1), (1, 1)], [(-1, 0), (0, -1), (0, 1), (1, 0)]
        for number, steps in enumerate([[], corners, sides]):
            places = [(i, j) for i in range(rows) for j in range(columns) if (2 if (i + j) % 2 else i % 2) == number]
            indexes = []
            for i, j in places:
                near = [z[:, i + a, j + b] for a, b in steps if 0 <= i + a < rows and 0 <= j + b < columns]
                indexes += [self._hyper_index(near, channel) for channel in range(channels)]
            found = iter(decoder.read(counts, indexes, first))
            for i, j in places:
                z[:, i, j] = [next(found) for _ in range(channels)]
        return z

    def _hyper_index(self, near: list[Integers], channel: int) -> int:
        """The row for a channel whose neighbours are `near`, [Z] each."""
        if not near:
            context = (self.quality - 1) // 10
        else:
            n = len(near)
            mean = min(max((4 * sum(int(z[channel]) for z in near) + n) // (2 * n), -3), 3)
            busy = min(sum(int(np.count_nonzero(z)) for z in near) // n // 3, 7)
            context = 10 + 2 * (7 * busy + mean + 3) + (self.quality > 50)
        return int(self.weights["hyper_indexes"][context, channel])

    def _scales(self, z: Integers) -> Integers:
        """The row [M, 4 h', 4 w'] of every latent."""
        x = np.clip(z, -127, 127) * self.weights["scales.dequantize"][self.quality - 1][:, None, None]
        for number, bits in enumerate(self.weights["scales.shift"].tolist()):
            kernel = self.weights[f"scales.{number}.weight"]
            sums = sum(np.tensordot(kernel[:, :, a, b], seen, 1) for a, b, seen in windows(x, kernel.shape[-1]))
            x = round_shift(sums + self.weights[f"scales.{number}.bias"][:, None, None], bits)
            x = shuffle(x, 2) if number in (1, 3) else x
            x = np.clip(x, 0, 4095) if number < 3 else x
        offset = self.weights["scales.row_offset"][self.quality - 1][:, None, None]
        return np.clip(round_shift(x + offset, 8), 0, 63)

    # --- floats ---

    def lin(self, name: str, x: Floats) -> Floats:
        """A linear layer at every position."""
        return np.tensordot(self.weights[f"{name}.weight"][:, :, 0, 0], x, 1) + self.weights.bias(f"{name}.bias")

    def dw(self, name: str, x: Floats) -> Floats:
        """A kernel for every channel."""
        kernel = self.weights[f"{name}.weight"][:, 0]
        sums = sum(kernel[:, a, b][:, None, None] * seen for a, b, seen in windows(x, kernel.shape[-1]))
        return sums + self.weights.bias(f"{name}.bias")

    def block(self, name: str, x: Floats) -> Floats:
        """Mixing in space, then a gated layer, both added to what comes in."""
        x = x + self.lin(f"{name}.mix_out", self.dw(f"{name}.mix_space", leaky(self.lin(f"{name}.mix_in", x))))
        value, gate = np.split(self.lin(f"{name}.gate_in", x), 2)
        return x + self.lin(f"{name}.gate_out", value * sigmoid(gate))

    def gain(self, name: str) -> Floats:
        """One factor a channel at this quality [C, 1, 1]."""
        anchors = self.weights[f"{name}.log_gain"]
        place = self.weights.precision((self.quality - 1) / 99) * (len(anchors) - 1)
        left = min(int(place), len(anchors) - 2)
        log_gain = anchors[left] * (1 - (place - left)) + anchors[left + 1] * (place - left)
        return np.exp(log_gain)[:, None, None]

    def latents(self, z: Integers, symbols: Integers, *, base_only: bool = False) -> Floats:
        """The latents y [M, H, W] of a tile; or of their base, the first floor(M / 8), as a small preview has them."""
        _, rows, columns = symbols.shape
        name = "hyper_synthesis.body"
        x = shuffle(self.lin(f"{name}.0", z.astype(self.weights.precision) / self.gain("hyper_gain")), 2)
        x = shuffle(self.lin(f"{name}.3", self.block(f"{name}.2", x)), 2)
        mean = self.lin("hyper_synthesis.mean_out", x)[:, :rows, :columns]
        steps = symbols.astype(self.weights.precision) / self.gain("latent_gain")
        c, i, j = np.ogrid[: len(symbols), :rows, :columns]
        is_first = ((i + j) % 2 == 1) == (c < len(symbols) // 2)
        first = np.where(is_first & (c < len(symbols) // 8 if base_only else True), mean + steps, 0)
        x = self.lin("context.latent_in", first) + self.lin("context.feature_in", x[:, :rows, :columns])
        x = self.block("context.body.1", self.block("context.body.0", x))
        y = np.where(is_first, first, mean + self.lin("context.mean_out", x) + steps)
        return y[: len(y) // 8] if base_only else y

    def pixels(self, y: Floats, deblocking_cut: int) -> NDArray[np.uint8]:
        """The picture [16 h, 16 w, 3] of latents [M, h, w]."""
        name, blocks = "synthesis", self.weights.arch["synthesis_blocks"]
        y = y * self.gain("latent_restore")
        x = self.lin(f"{name}.body_in", y)
        for number in range(blocks):
            x = self.block(f"{name}.blocks.{number}", x)
            x = x * self.gain(f"{name}.gain") if number == blocks // 2 else x
        correction = self.lin(f"{name}.correction", self.lin(f"{name}.correction_in", x))
        content = shuffle(self.lin(f"{name}.content", y) + correction, 4)
        condition = shuffle(self.lin(f"{name}.condition", x), 4)
        scale, gate = np.split(self.lin(f"{name}.modulation", condition * sigmoid(condition)), 2)
        content = content + self.dw(f"{name}.overlap", content)
        hidden = leaky(self.lin(f"{name}.render_in", content + content * scale))
        hidden = hidden + self.dw(f"{name}.render_space", hidden)
        rendered = self.lin(f"{name}.render_out", hidden)
        shown = shuffle(self.lin(f"{name}.pixels_out", content + rendered * gate), 4)
        right, left, bottom, top = np.split(self.lin(f"{name}.deblocking.bound", x), 4)
        share = self.weights.precision((64 - deblocking_cut) / 64)
        self._deblock(shown, right[:, :, :-1] + left[:, :, 1:], share)
        between_rows = bottom[:, :-1] + top[:, 1:]
        self._deblock(shown.transpose(0, 2, 1), between_rows.transpose(0, 2, 1), share)
        assert shown.dtype == self.weights.precision
        if not np.isfinite(shown).all():
            raise CorruptError("not finite")
        return np.rint(shown * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

    def preview(self, y: Floats, side: int) -> NDArray[np.uint8]:
        """The picture [side h, side w, 3] of latents [M, h, w], or for side 2 of their base [floor(M / 8), h, w]."""
        kernel = self.weights["preview.base" if side == 2 else "preview.whole"]
        if side == 4:
            kernel = kernel.reshape(-1, 3, 4, 2, 4, 2).mean((3, 5)).reshape(len(kernel), -1)
        values = np.tensordot(kernel[:-1].T, y, 1) + kernel[-1][:, None, None]
        return np.rint(shuffle(values, side)).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

    def _deblock(self, shown: Floats, bound: Floats, share: float) -> None:
        """Smooths a picture [3, 16 h, 16 w] across its vertical borders, in place; bound [12, h, w - 1]."""
        ramp, slope = (self.weights[f"synthesis.deblocking.{name}"] for name in ("ramp", "slope"))
        _, height, borders = bound.shape
        bound = np.logaddexp(0, bound).reshape(3, 4, height, borders).transpose(0, 2, 1, 3)
        bound = bound.reshape(3, 4 * height, borders).repeat(4, 1)
        for border in range(borders):
            at = 16 * (border + 1)
            pixel = [shown[:, :, at + d].copy() for d in range(-3, 3)]
            step = pixel[3] - pixel[2]
            excess = step - slope * ((pixel[5] - pixel[3]) + (pixel[2] - pixel[0]))
            most = bound[:, :, border]
            artefact = most * np.tanh(excess / np.maximum(most, 1e-9)) * share
            for distance in range(4):
                shown[:, :, at - 1 - distance] += ramp[distance] * artefact
                shown[:, :, at + distance] -= ramp[distance] * artefact


def leaky(x: Floats) -> Floats:
    return np.where(x < 0, 0.1 * x, x)


def sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -x))
