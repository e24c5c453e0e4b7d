"""Pictures to tiles and back in one call each: what tests of tiles want, and codecs have no use for."""

from collections.abc import Sequence
from typing import Any

from vaecodec.errors import VaecError
from vaecodec.format.records import Header, Tile, TileMode
from vaecodec.model.engine import Engine
from vaecodec.pictures.pixels import ArrayRows, Samples
from vaecodec.tiling.decode import Decoder
from vaecodec.tiling.encode import Encoder


def encode_tiles(samples: Samples, header: Header, engine: Engine) -> tuple[list[Tile], Header, int]:
    """Tiles of a picture [H, W, C] of the header's format, and what `Encoder.run` returns."""
    tiles = [Tile(TileMode.SOLID, b"", 0)] * header.tile_count
    return tiles, *Encoder(ArrayRows(samples), header, engine, tiles).run()


def decode_tiles(
    tiles: Sequence[Tile | None], header: Header, engine: Engine | None, *, partial: bool = False, **options: Any
) -> tuple[Any, list[VaecError]]:
    """The picture of tiles, and what is damaged if that may be; else it is raised."""
    damage: list[VaecError] = []
    decoder = Decoder(tiles, header, engine, report=damage.append if partial else None, **options)
    return decoder.picture(), damage
