"""The canvas: latents of the tile rows at hand, so that the transforms of a tile can see past its edges: no seams."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.bitstream import Header, TileBox
from vaecodec.memory import Result, first_that_fits
from vaecodec.pixels import pad_edge

if TYPE_CHECKING:  # torch loads only when a tile needs the network
    from torch import Tensor

    from vaecodec.model.network import Network

Samples = NDArray[np.uint8]

LATENT_PX = 16
SMALLEST_PART_PX = 64  # where memory is short, the transforms see parts of a tile, down to this side


class Strip(NamedTuple):
    """Some rows of a picture: samples [h, W, C], the first of them being row `top` of the picture, a multiple of 16."""

    top: int
    samples: Samples


class Area(NamedTuple):
    """A rectangle of the latent grid: first row and column inside, last ones outside."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


def analyze(strip: Strip, box: TileBox, network: "Network", quality: int) -> "Tensor":
    """Latents [M, h, w] of a box, before they are rounded, seen with as much around it as the strip has."""
    height, width = strip.samples.shape[:2]
    bounds = area_of(box._replace(top=strip.top, left=0, height=height, width=width))

    def work(part: TileBox) -> "Tensor":
        inner = area_of(part)
        seen = _widened(inner, network.analysis_margin, bounds)
        rows = slice((seen.top - bounds.top) * LATENT_PX, (seen.bottom - bounds.top) * LATENT_PX)
        samples = strip.samples[rows, seen.left * LATENT_PX : seen.right * LATENT_PX]
        latents = network.analyze(pad_edge(to_rgb(samples), LATENT_PX), quality)
        above, before = inner.top - seen.top, inner.left - seen.left
        return latents[:, above : inner.bottom - seen.top, before : inner.right - seen.left]

    return _whole_or_halves(box, work, network.join)


class Canvas:
    """Latents of a few rows of tiles: placed from the top left on, synthesized, and let go of again.

    Args:
        header: of the picture.
        network: the loaded weights.
        window: the part of the latent grid that matters; None is all of it.
        margin: so many latents around what is shown are seen; None is as many as synthesis sees.

    Attributes:
        reach: so many rows, and columns, of tiles around a tile are seen.
    """

    def __init__(
        self, header: Header, network: "Network", window: Area | None = None, margin: int | None = None
    ) -> None:
        self.network, self.quality = network, header.quality
        self.window = window or Area(0, -(-header.height // LATENT_PX), 0, -(-header.width // LATENT_PX))
        self._margin = network.synthesis_margin if margin is None else margin
        self._side = header.tile_size // LATENT_PX
        self._tiles: dict[tuple[int, int], tuple[int, Tensor]] = {}  # row, column: first row of its latents, latents
        self.reach = -(-self._margin // self._side)
        self._last_column = (self.window.right - 1) // self._side

    def place(self, box: TileBox, latents: "Tensor | None") -> None:
        """Puts the latents [M, h, w] of a tile in place; a tile that is not learned has none, that is zeros."""
        area = area_of(box)
        if latents is None:
            latents = self.network.no_latents(*area.size)
        self._tiles[area.top // self._side, area.left // self._side] = area.top, latents

    def let_go(self, row: int, column: int) -> None:
        """Gives memory back once this tile is done, and with it all above and to the left of it.

        Kept is what the tiles after it, in the order of rows, will see.
        """
        seen_from = (row + 1) * self._side - self._margin
        done = column + 1 if column == self._last_column else column + 1 - self.reach
        for place in [place for place in self._tiles if place[0] <= row and place[1] < done]:
            top, latents = self._tiles.pop(place)
            if top + latents.shape[1] > seen_from:  # a copy, since a view would keep the memory of the whole
                unseen = max(0, seen_from - top)
                self._tiles[place] = top + unseen, latents[:, unseen:].clone() if unseen else latents

    def synthesize(self, box: TileBox) -> Samples:
        """Samples [h, w, C] of a part of a tile whose surroundings are in place."""
        above, before = box.top % LATENT_PX, box.left % LATENT_PX
        aligned = box._replace(
            top=box.top - above, left=box.left - before, height=box.height + above, width=box.width + before
        )
        return _whole_or_halves(aligned, self._synthesize, np.concatenate)[above:, before:]

    def preview(self, box: TileBox, scale: int) -> Samples:
        """Samples [ceil(h / scale), ceil(w / scale), C] of a tile, by a short cut: see `model.preview`."""
        pixels = self.network.preview(self.latents(area_of(box)), scale)
        return _in_channels(pixels[: -(-box.height // scale), : -(-box.width // scale)], box)

    def _synthesize(self, box: TileBox) -> Samples:
        inner = area_of(box)
        seen = _widened(inner, self._margin, self.window)
        pixels = self.network.synthesize(self.latents(seen), self.quality)
        above, before = (inner.top - seen.top) * LATENT_PX, (inner.left - seen.left) * LATENT_PX
        return _in_channels(pixels[above : above + box.height, before : before + box.width], box)

    def latents(self, area: Area) -> "Tensor":
        """Latents [M, h, w] of an area whose tiles are in place."""
        rows = range(area.top // self._side, -(-area.bottom // self._side))
        columns = range(area.left // self._side, -(-area.right // self._side))
        bands = [self._joined([self._part(row, column, area) for column in columns], 1) for row in rows]
        return self._joined(bands, 0)

    def _part(self, row: int, column: int, area: Area) -> "Tensor":
        """The latents that an area has of one tile."""
        top, latents = self._tiles[row, column]
        left = column * self._side
        return latents[:, max(0, area.top - top) : area.bottom - top, max(0, area.left - left) : area.right - left]

    def _joined(self, parts: "list[Tensor]", axis: int) -> "Tensor":
        return parts[0] if len(parts) == 1 else self.network.join(parts, axis)


def area_of(box: TileBox) -> Area:
    """The latents of a box that starts on the latent grid."""
    top, left = box.top // LATENT_PX, box.left // LATENT_PX
    return Area(top, top - (-box.height // LATENT_PX), left, left - (-box.width // LATENT_PX))


def to_rgb(samples: Samples) -> Samples:
    """Colour [H, W, 3] of a picture in any of the four formats."""
    return np.repeat(samples[..., :1], 3, 2) if samples.shape[2] < 3 else samples[..., :3]


def _in_channels(rgb: Samples, box: TileBox) -> Samples:
    """Pixels [h, w, 3] in the channels of a tile; grey is their mean, rounded."""
    if box.channels == 3:
        return rgb
    grey: Samples = ((rgb.astype(np.uint16).sum(2, keepdims=True) + 1) // 3).astype(np.uint8)
    return grey


def _widened(area: Area, margin: int, bounds: Area) -> Area:
    return Area(
        max(area.top - margin, bounds.top), min(area.bottom + margin, bounds.bottom),
        max(area.left - margin, bounds.left), min(area.right + margin, bounds.right),
    )  # fmt: skip


def _whole_or_halves(
    box: TileBox, work: Callable[[TileBox], Result], join: Callable[[list[Result], int], Result]
) -> Result:
    """The work done on a box; if memory does not suffice, joined from what is done on its halves, and on theirs.

    Args:
        box: a part of a tile that starts on the latent grid.
        work: what to do with a box.
        join: puts the results of two boxes together, along 0 (one is above the other) or 1 (one is left of it).
    """
    is_tall = box.height >= box.width
    middle = max(box.height, box.width) // 2 // LATENT_PX * LATENT_PX
    if middle < SMALLEST_PART_PX:
        return first_that_fits(lambda: work(box))
    if is_tall:
        halves = box._replace(height=middle), box._replace(top=box.top + middle, height=box.height - middle)
    else:
        halves = box._replace(width=middle), box._replace(left=box.left + middle, width=box.width - middle)
    return first_that_fits(
        lambda: work(box),
        lambda: join([_whole_or_halves(half, work, join) for half in halves], 0 if is_tall else 1),
    )
