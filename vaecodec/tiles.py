"""Pictures to tiles and back: each tile is coded by the network, without loss, or as one colour."""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaecodec.bitstream import Header, Tile, TileBox, TileMode
from vaecodec.entropy import coder, lossless
from vaecodec.errors import VaecCorruptError, VaecError, VaecMismatchError
from vaecodec.pixels import pad_edge, psnr_db

if TYPE_CHECKING:  # torch loads only when a tile needs the network
    from torch import Tensor

    from vaecodec.model.network import Network, Prediction

Samples = NDArray[np.uint8]

LATENT_PX = 16
DAMAGED_GREY = 128
STRIPE_PX, STRIPE_SPACING_PX = 8, 128  # the sample of a tile from which its lossless size is guessed
GUESS_MARGIN = 1.25  # packing a tile losslessly is tried where the guess is at most so many times the learned payload
FLOOR_BLOCK_PX = 8


def floor_psnr_db(quality: int) -> float:
    """PSNR in dB that a learned tile must reach: 8 dB below what photographs have on average at this quality.

    A tile that misses it may still be kept if it is closer to the picture than the means of 8x8 blocks are: noise has
    a low PSNR in every codec of that size.
    """
    return 16.0 + 0.14 * quality


# --- one learned tile -------------------------------------------------------------------------------------------------


def encode_latents(network: "Network", y: "Tensor", quality: int) -> tuple[Tile, "Tensor"]:
    """Code the latents y [M, h, w] of one tile; also returns what the decoder will have of them [M, h, w]."""
    latents = network.to_steps(y, quality)
    passes: list[coder.Pass] = []

    def answer(prediction: "Prediction") -> NDArray[np.int32]:
        symbols = prediction.quantize(latents)
        passes.append(coder.Pass(prediction.tables, prediction.rows, symbols))
        return symbols

    y_hat = network.walk_latents(y.shape[1], y.shape[2], quality, answer)
    crc = 0
    for coded in passes:
        crc = _crc_of_symbols(coded.symbols, crc)
    return Tile(TileMode.LEARNED, coder.encode(passes), crc), y_hat


def decode_latents(network: "Network", tile: Tile, size: tuple[int, int], quality: int) -> "Tensor":
    """Latents [M, h, w] of a learned tile, ready for synthesis.

    Raises:
        VaecMismatchError: the payload does not decode to the latents that were encoded.
    """
    decoder = coder.Decoder(tile.payload)
    crc = 0

    def answer(prediction: "Prediction") -> NDArray[np.int32]:
        nonlocal crc
        symbols = decoder.read(prediction.tables, prediction.rows)
        crc = _crc_of_symbols(symbols, crc)
        return symbols

    y_hat = network.walk_latents(*size, quality, answer)
    decoder.finish()
    if crc != tile.content_crc:
        raise VaecMismatchError(f"latents have CRC {crc:08x}, the file says {tile.content_crc:08x}", code="LATENT_CRC")
    return y_hat


def _crc_of_symbols(symbols: NDArray[np.integer], crc: int) -> int:
    return zlib.crc32(symbols.astype("<i2").tobytes(), crc)


# --- one plain tile ---------------------------------------------------------------------------------------------------


def _plain_tile(samples: Samples) -> Tile:
    """A tile [h, w, C] without loss: one colour if it has only one, else packed."""
    colour = lossless.is_solid(samples)
    mode, payload = (TileMode.ZLIB, lossless.pack(samples)) if colour is None else (TileMode.SOLID, colour)
    return Tile(mode, payload, zlib.crc32(samples.tobytes()))


def _decode_plain(tile: Tile, box: TileBox) -> Samples:
    """Samples [h, w, C] of a tile that was stored without loss."""
    shape = (box.height, box.width, box.channels)
    if tile.mode == TileMode.SOLID:
        samples = np.broadcast_to(np.frombuffer(tile.payload, np.uint8), shape)
    else:
        samples = lossless.unpack(tile.payload, shape)
    crc = zlib.crc32(samples.tobytes())
    if crc != tile.content_crc:
        raise VaecMismatchError(f"samples have CRC {crc:08x}, the file says {tile.content_crc:08x}", code="SAMPLES_CRC")
    return samples


def _plain_may_pay(samples: Samples, learned_bytes: int) -> bool:
    """Whether packing a tile without loss may take no more bytes, guessed from stripes: packing all of it is slow."""
    stripes = [samples[top : top + STRIPE_PX] for top in range(0, len(samples), STRIPE_SPACING_PX)]
    sample = np.concatenate(stripes)
    guess = len(lossless.pack(sample)) * len(samples) / len(sample)
    return guess <= GUESS_MARGIN * learned_bytes


# --- all tiles of a picture -------------------------------------------------------------------------------------------


class _Canvas:
    """The latents of a whole picture, so that the transforms of a tile can see past its edges: no seams."""

    def __init__(self, header: Header, network: "Network") -> None:
        self.network, self.quality = network, header.quality
        self.latents = network.no_latents(-(-header.height // LATENT_PX), -(-header.width // LATENT_PX))

    def encode(self, rgb: Samples, box: TileBox) -> Tile:
        """The learned tile of a box of the picture rgb [H, W, 3], H and W multiples of 16."""
        (top, bottom, left, right), inner = self._around(box, self.network.analysis_margin)
        pixels = rgb[top * LATENT_PX : bottom * LATENT_PX, left * LATENT_PX : right * LATENT_PX]
        y = self.network.analyze(pixels, self.quality)[inner]
        tile, y_hat = encode_latents(self.network, y, self.quality)
        self._place(box)[:] = y_hat
        return tile

    def decode(self, tile: Tile, box: TileBox) -> None:
        place = self._place(box)
        place[:] = decode_latents(self.network, tile, (place.shape[1], place.shape[2]), self.quality)

    def forget(self, box: TileBox) -> None:
        """Tiles that are not learned leave zeros to their neighbours."""
        self._place(box)[:] = 0

    def synthesize(self, box: TileBox) -> Samples:
        """Samples [h, w, C] of a box whose latents and whose neighbours' latents are in place."""
        (top, bottom, left, right), (_, rows, columns) = self._around(box, self.network.synthesis_margin)
        pixels = self.network.synthesize(self.latents[:, top:bottom, left:right], self.quality)
        above, before = rows.start * LATENT_PX, columns.start * LATENT_PX
        pixels = pixels[above : above + box.height, before : before + box.width]
        return pixels if box.channels == 3 else _to_grey(pixels)

    def _place(self, box: TileBox) -> "Tensor":
        top, left = box.top // LATENT_PX, box.left // LATENT_PX
        rows, columns = -(-box.height // LATENT_PX), -(-box.width // LATENT_PX)
        return self.latents[:, top : top + rows, left : left + columns]

    def _around(self, box: TileBox, margin: int) -> tuple[tuple[int, int, int, int], tuple[slice, slice, slice]]:
        """Top, bottom, left, right in latents of a box with its margin, and where the box lies inside of that."""
        top, left = box.top // LATENT_PX, box.left // LATENT_PX
        rows, columns = -(-box.height // LATENT_PX), -(-box.width // LATENT_PX)
        above, before = min(margin, top), min(margin, left)
        bottom = min(top + rows + margin, self.latents.shape[1])
        right = min(left + columns + margin, self.latents.shape[2])
        inner = (slice(None), slice(above, above + rows), slice(before, before + columns))
        return (top - above, bottom, left - before, right), inner


def encode_tiles(samples: Samples, header: Header, network: "Network") -> tuple[list[Tile], Samples]:
    """Code a picture [H, W, C] of the header's format; also returns the picture as a decoder will show it."""
    canvas = _Canvas(header, network)
    rgb = pad_edge(_to_rgb(samples), LATENT_PX)
    boxes = header.boxes()
    tiles = [_encode_tile(_cut(samples, box), rgb, box, canvas) for box in boxes]
    while True:
        decoded, _ = _render(tiles, header, canvas)
        failing = [
            n for n, (tile, box) in enumerate(zip(tiles, boxes, strict=True))
            if tile.mode == TileMode.LEARNED and _misses_floor(_cut(samples, box), _cut(decoded, box), header.quality)
        ]  # fmt: skip
        if not failing:
            return tiles, decoded
        for n in failing:  # the neighbours of a tile change with it, so they are looked at again
            tiles[n] = _plain_tile(_cut(samples, boxes[n]))
            canvas.forget(boxes[n])


def decode_tiles(
    tiles: Sequence[Tile | None], header: Header, network: "Network | None", *, partial: bool = False
) -> tuple[Samples, list[VaecError]]:
    """Picture [H, W, C] of tiles in index order, and what is damaged; a damaged tile is grey.

    Args:
        tiles: as read; None where a tile is already known to be damaged.
        header: the file's.
        network: may be None if no tile is learned.
        partial: decode what can be decoded instead of raising.

    Raises:
        VaecCorruptError: with its tile's number, unless `partial`.
    """
    canvas = _Canvas(header, network) if network else None
    sound, damage = list(tiles), list[VaecError]()
    for number, (tile, box) in enumerate(zip(tiles, header.boxes(), strict=True)):
        if canvas is None or tile is None or tile.mode != TileMode.LEARNED:
            continue
        try:
            canvas.decode(tile, box)
        except VaecCorruptError as error:
            sound[number] = None
            damage.append(_blame(error, number))
    samples, more = _render(sound, header, canvas)
    damage += more
    if damage and not partial:
        raise damage[0]
    return samples, damage


def _encode_tile(samples: Samples, rgb: Samples, box: TileBox, canvas: _Canvas) -> Tile:
    if box.plane == "alpha" or lossless.is_solid(samples) is not None:
        return _plain_tile(samples)
    tile = canvas.encode(rgb, box)
    if _plain_may_pay(samples, len(tile.payload)):
        plain = _plain_tile(samples)
        if len(plain.payload) <= len(tile.payload):
            canvas.forget(box)
            return plain
    return tile


def _render(tiles: Sequence[Tile | None], header: Header, canvas: _Canvas | None) -> tuple[Samples, list[VaecError]]:
    """The picture of tiles whose latents are on the canvas, and which of them do not decode."""
    samples = np.full((header.height, header.width, header.pixel_format.channels), DAMAGED_GREY, np.uint8)
    damage: list[VaecError] = []
    for number, (tile, box) in enumerate(zip(tiles, header.boxes(), strict=True)):
        if tile is None:
            continue
        try:
            if canvas is not None and tile.mode == TileMode.LEARNED:
                _cut(samples, box)[:] = canvas.synthesize(box)
            else:
                _cut(samples, box)[:] = _decode_plain(tile, box)
        except VaecCorruptError as error:
            damage.append(_blame(error, number))
    return samples, damage


def _blame(error: VaecCorruptError, number: int) -> VaecMismatchError:
    """The payload's CRC holds, so the fault is not damage: say which tile, and what that means."""
    return VaecMismatchError(
        f"tile {number} is intact but does not decode ({error}): crafted file, or this build computes differently",
        code=error.code, tile=number,
    )  # fmt: skip


def _misses_floor(original: Samples, decoded: Samples, quality: int) -> bool:
    reached = psnr_db(original, decoded)
    return reached < floor_psnr_db(quality) and reached < psnr_db(original, _block_means(original))


def _block_means(samples: Samples) -> Samples:
    """The picture [h, w, C] with every 8x8 block as its mean."""
    size = FLOOR_BLOCK_PX
    padded = pad_edge(samples, size)
    height, width, channels = padded.shape
    means = padded.reshape(height // size, size, width // size, size, channels).mean((1, 3))
    blocks: Samples = means.round().astype(np.uint8).repeat(size, 0).repeat(size, 1)
    return blocks[: samples.shape[0], : samples.shape[1]]


def _cut(samples: Samples, box: TileBox) -> Samples:
    """A view of the box's samples [h, w, C] of a picture [H, W, all channels]."""
    channels = slice(-1, None) if box.plane == "alpha" else slice(0, box.channels)
    return samples[box.top : box.top + box.height, box.left : box.left + box.width, channels]


def _to_rgb(samples: Samples) -> Samples:
    """Colour [H, W, 3] of a picture in any of the four formats."""
    return np.repeat(samples[..., :1], 3, 2) if samples.shape[2] < 3 else samples[..., :3]


def _to_grey(rgb: Samples) -> Samples:
    """The mean of the channels [h, w, 1], rounded: the network never saw this picture's missing colour."""
    grey: Samples = ((rgb.astype(np.uint16).sum(2, keepdims=True) + 1) // 3).astype(np.uint8)
    return grey
