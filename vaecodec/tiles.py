"""Pictures to tiles and back, whole ones in memory or by rows: what the rest of the package calls."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vaecodec.bitstream import Header, Tile, TileMode
from vaecodec.canvas import LATENT_PX, Samples, Strip, analyze, to_rgb
from vaecodec.decoder import Arrays, Decoder, Medium, Report
from vaecodec.encoder import Encoder, Shelf
from vaecodec.errors import VaecError
from vaecodec.grid import Window
from vaecodec.rows import ArrayRows, Rows
from vaecodec.tile import decode_latents, decode_plain, encode_latents, encode_symbols, floor_psnr_db, read_symbols

if TYPE_CHECKING:  # torch loads only when a tile needs the network
    from torch import Tensor

    from vaecodec.model.network import Network

__all__ = [
    "LATENT_PX",
    "Arrays",
    "Medium",
    "Samples",
    "Window",
    "analyze_tiles",
    "decode_latents",
    "decode_plain",
    "decode_rows",
    "decode_tiles",
    "encode_latents",
    "encode_rows",
    "encode_symbols",
    "encode_tiles",
    "floor_psnr_db",
    "read_symbols",
    "to_rgb",
]


def encode_tiles(samples: Samples, header: Header, network: "Network") -> tuple[list[Tile], Header, int]:
    """Code a picture [H, W, C] of the header's format: its tiles, and what `encode_rows` returns."""
    tiles = [Tile(TileMode.SOLID, b"", 0)] * header.tile_count
    return tiles, *encode_rows(ArrayRows(samples), header, network, tiles)


def encode_rows(rows: Rows, header: Header, network: "Network", tiles: Shelf) -> tuple[Header, int]:
    """Code a picture by rows of tiles, with memory for two of them.

    Args:
        rows: the picture, in the header's format; read from the top down, again where tiles miss their floor.
        header: its size, format and quality.
        network: the loaded weights.
        tiles: where to put the tiles, one place for each of `header.boxes()`.

    Returns:
        The header that belongs to the tiles, with the deblocking that suits the picture. And the sum of the squared
        errors of all samples but alpha, as a decoder will show them.
    """
    return Encoder(rows, header, network, tiles).run()


def analyze_tiles(samples: Samples, header: Header, network: "Network") -> list["Tensor"]:
    """Latents [M, h, w] float32, before they are quantized, of every colour tile of a picture [H, W, C]."""
    colour = (box for box in header.boxes() if box.plane == "colour")
    return [analyze(Strip(0, samples), box, network, header.quality) for box in colour]


def decode_tiles(
    tiles: Sequence[Tile | None], header: Header, network: "Network | None", *, partial: bool = False, scale: int = 1,
    medium: Medium = Arrays(),
) -> tuple[Any, list[VaecError]]:  # fmt: skip
    """Picture uint8 [H, W, C] of tiles in index order, and what is damaged; a damaged tile is grey.

    Args:
        tiles: as read; None where a tile is already known to be damaged.
        header: the file's.
        network: may be None if no tile is learned.
        partial: decode what can be decoded instead of raising.
        scale: as for `decode_rows`.
        medium: what the picture is put down in.

    Raises:
        VaecCorruptError: with its tile's number, unless `partial`.
    """
    damage: list[VaecError] = []
    shape = -(-header.height // scale), -(-header.width // scale), header.pixel_format.channels
    report = damage.append if partial else None
    bands = decode_rows(tiles, header, network, report=report, scale=scale, medium=medium)
    first = next(bands)
    if len(first) == shape[0]:
        return first, damage
    picture, top = medium.blank(shape, 0), 0
    for band in itertools.chain([first], bands):
        picture[top : top + len(band)] = band
        top += len(band)
    return picture, damage


def decode_rows(
    tiles: Sequence[Tile | None],
    header: Header,
    network: "Network | None",
    *,
    report: Report | None = None,
    window: Window | None = None,
    scale: int = 1,
    medium: Medium = Arrays(),
) -> Iterator[Any]:
    """Decode a picture, or a window of it, by rows of tiles, touching only the tiles that it needs.

    Args:
        tiles: in index order, each asked for when it is needed; None is one that is damaged.
        header: the file's.
        network: may be None if no tile that is needed is learned.
        report: told of each tile that does not decode, which then is grey; None is to raise.
        window: the part to decode, within the picture; None is all of it.
        scale: 2, 4 or 8 for a preview with sides of 1/scale of the picture's, rounded up; then without a window.
        medium: what the picture is put down in.

    Yields:
        Samples [h, w, C], uint8, in the medium: what a row of tiles has of the window.

    Raises:
        VaecMismatchError: a tile is intact but does not decode, unless there is a `report`.
    """
    return Decoder(tiles, header, network, report=report or _raise, window=window, scale=scale, medium=medium).run()


def _raise(error: VaecError) -> None:
    raise error
