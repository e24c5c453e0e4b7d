"""Small pictures of equal size that go through the network together: one alone gives processors too little to do."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.bitstream import Bitstream, Header, Tile, TileMode
from vaecodec.canvas import LATENT_PX, area_of, at_once_px, in_channels
from vaecodec.decoder import Medium, mismatch
from vaecodec.entropy import coder
from vaecodec.errors import VaecCorruptError
from vaecodec.tile import check_end

if TYPE_CHECKING:  # torch loads only when there is something to compute
    from vaecodec.entropy.tables import Tables
    from vaecodec.model.network import Network
    from vaecodec.model.symbols import Symbols


class Single(NamedTuple):
    """A picture of one learned tile, without alpha."""

    header: Header
    tile: Tile

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its latents."""
        return area_of(self.header.boxes()[0]).size


def single_of(stream: Bitstream) -> Single | None:
    """The file as one that may be decoded with others, if it is such a one."""
    tiles = stream.tiles
    if len(tiles) != 1 or tiles[0] is None or tiles[0].mode != TileMode.LEARNED:
        return None
    return Single(stream.header, tiles[0])


def groups(streams: Mapping[int, Bitstream], network: "Network") -> Iterator[dict[int, Single]]:
    """Files to decode together with a network, two or more at a time, by their numbers; each occurs once at most."""
    alike = defaultdict[tuple[int, int], list[tuple[int, Single]]](list)
    for number, stream in streams.items():
        single = single_of(stream)
        if single is not None and single.header.model_id == network.model_id:
            alike[single.size].append((number, single))
    for (rows, columns), found in alike.items():
        at_once = max(1, at_once_px(network) // (rows * columns * LATENT_PX**2))
        for start in range(0, len(found), at_once):
            group = dict(found[start : start + at_once])
            if len(group) > 1:
                yield group


def decode(group: Mapping[int, Single], network: "Network", medium: Medium) -> dict[int, Any]:
    """Pictures uint8 [H, W, C] of a group, in the medium; a VaecMismatchError in the place of one that does not decode.

    They are those of `tiles.decode_tiles`, within the limits of what may differ between machines.
    """
    singles = list(group.values())
    attempts = [_Attempt(single.tile) for single in singles]
    qualities, size = [single.header.quality for single in singles], singles[0].size
    symbols = network.walk_together(*size, qualities, [attempt.answer for attempt in attempts])
    latents = network.dequantize(symbols, *size, qualities)
    cuts = [single.header.deblocking_cut for single in singles]
    pixels, faults = network.synthesize_together(latents, qualities, cuts)
    done = dict[int, Any]()
    for n, (number, single) in enumerate(group.items()):
        box = single.header.boxes()[0]
        error = attempts[n].end(symbols[n]) or faults[n]
        samples = in_channels(pixels[n][: box.height, : box.width], box)
        done[number] = medium.take(samples) if error is None else mismatch(error, 0)
    return done


class _Attempt:
    """One file's symbols: what is wrong with them is no other file's matter."""

    def __init__(self, tile: Tile) -> None:
        self._tile = tile
        self._reader: coder.Decoder | None = None
        self._error: VaecCorruptError | None = None
        try:
            self._reader = coder.Decoder(tile.payload)
        except VaecCorruptError as error:
            self._error = error

    def answer(self, tables: "Tables", rows: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Those of a group; zeros from where they could not be read."""
        if self._reader is not None and self._error is None:
            try:
                return self._reader.read(tables, rows)
            except VaecCorruptError as error:
                self._error = error
        return np.zeros(rows.size, np.int32)

    def end(self, symbols: "Symbols") -> VaecCorruptError | None:
        """What was wrong."""
        if self._reader is not None and self._error is None:
            try:
                check_end(self._reader, self._tile, symbols)
            except VaecCorruptError as error:
                self._error = error
        return self._error
