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
LARGEST_PART_PX = 1 << 19  # pixels of a tile that a CPU computes at once: more take more memory, and no less time
LARGEST_ON_GPU_PX = 1 << 23  # by the sizes of its tensors, some 3 GB; not measured
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
    """Latents [M, h, w] of a box, before they are quantized, seen with as much around it as the strip has."""
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

    def join(parts: "list[Tensor]", axis: int) -> "Tensor":
        return network.join(parts, 1 + axis)

    return _whole_or_halves(box, work, join, largest_px=at_once_px(network))


class Canvas:
    """Latents of a few rows of tiles: placed from the top left on, synthesized, and let go of again.

    Args:
        header: of the picture.
        network: the loaded weights.
        window: the part of the latent grid that matters; None is all of it.
        margin: so many latents around what is shown are seen; None is as many as synthesis sees.

    Attributes:
        deblocking_cut: as of the header; an encoder sets None to have one chosen by the first part that is synthesized.
        reach: so many rows, and columns, of tiles around a tile are seen.
    """

    def __init__(
        self, header: Header, network: "Network", window: Area | None = None, margin: int | None = None
    ) -> None:
        self.network, self.quality = network, header.quality
        self.deblocking_cut: int | None = header.deblocking_cut
        self.window = window or Area(0, -(-header.height // LATENT_PX), 0, -(-header.width // LATENT_PX))
        self._margin = network.synthesis_margin if margin is None else margin
        self._side = header.tile_size // LATENT_PX
        self._left = self.window.left // self._side * self._side  # where tiles begin
        self._width = min(-(-self.window.right // self._side) * self._side, -(-header.width // LATENT_PX)) - self._left
        self._rows: dict[int, tuple[int, Tensor]] = {}  # row of tiles: first row of its latents and of those above them
        self.reach = -(-self._margin // self._side)

    def place(self, box: TileBox, latents: "Tensor | None") -> None:
        """Puts the latents [M, h, w] of a tile in place; a tile that is not learned has none, that is zeros.

        A row of tiles, with what is seen above it, is one block of memory: many small ones, kept among what synthesis
        takes and gives back, would leave a heap of gaps.
        """
        area = area_of(box)
        row = area.top // self._side
        if row not in self._rows:
            self._rows[row] = self._begin_row(row, area)
        top, block = self._rows[row]
        if latents is not None:
            block[:, area.top - top :, area.left - self._left : area.right - self._left] = latents

    def _begin_row(self, row: int, area: Area) -> "tuple[int, Tensor]":
        """Room for a row of tiles, under a copy of what its synthesis sees of the row above, which is complete."""
        above = self._rows[row - 1][1][:, -self._margin :] if self._margin and row - 1 in self._rows else None
        height = 0 if above is None else above.shape[1]
        block = self.network.no_latents(height + area.size[0], self._width)
        if above is not None:
            block[:, :height] = above
        return area.top - height, block

    def let_go(self, row: int) -> None:
        """Gives memory back once a row of tiles, and all above it, is done."""
        for done in [number for number in self._rows if number <= row]:
            del self._rows[done]

    def synthesize_like(self, box: TileBox, original: Samples) -> "Tensor":
        """Samples uint8 [h, w, C] of a tile whose surroundings are in place, given those that they stand for.

        If there is no deblocking cut yet, one is chosen.
        """

        def work(part: TileBox) -> "Tensor":
            if self.deblocking_cut is not None:
                return self._synthesize(part)
            top, left = part.top - box.top, part.left - box.left
            return self._fit(part, original[top : top + part.height, left : left + part.width])

        return _whole_or_halves(box, work, self.network.join, largest_px=at_once_px(self.network))

    def synthesize(self, box: TileBox) -> "Tensor":
        """Samples uint8 [h, w, C] of a part of a tile whose surroundings are in place."""
        above, before = box.top % LATENT_PX, box.left % LATENT_PX
        aligned = box._replace(
            top=box.top - above, left=box.left - before, height=box.height + above, width=box.width + before
        )
        largest_px = at_once_px(self.network)
        return _whole_or_halves(aligned, self._synthesize, self.network.join, largest_px=largest_px)[above:, before:]

    def _synthesize(self, box: TileBox) -> "Tensor":
        seen, inside = self._around(box)
        pixels = self.network.synthesize(self.latents(seen), self.quality, self.deblocking_cut or 0)
        return in_channels(pixels[inside], box)

    def _fit(self, box: TileBox, original: Samples) -> "Tensor":
        seen, inside = self._around(box)
        latents = self.latents(seen)
        pixels, self.deblocking_cut = self.network.synthesize_like(latents, self.quality, to_rgb(original), inside)
        return in_channels(pixels[inside], box)

    def _around(self, box: TileBox) -> tuple[Area, tuple[slice, slice]]:
        """The latents that the synthesis of a box sees; and where, in their pixels, the box lies."""
        inner = area_of(box)
        seen = _widened(inner, self._margin, self.window)
        above, before = (inner.top - seen.top) * LATENT_PX, (inner.left - seen.left) * LATENT_PX
        return seen, (slice(above, above + box.height), slice(before, before + box.width))

    def latents(self, area: Area) -> "Tensor":
        """Latents [M, h, w] of an area whose tiles are in place."""
        columns = slice(area.left - self._left, area.right - self._left)
        first = max(row for row, (top, _) in self._rows.items() if top <= area.top)
        parts, begins = [], area.top
        for row in range(first, -(-area.bottom // self._side)):
            top, block = self._rows[row]
            parts.append(block[:, begins - top : area.bottom - top, columns])
            begins += parts[-1].shape[1]
        return parts[0] if len(parts) == 1 else self.network.join(parts, 1)


def area_of(box: TileBox) -> Area:
    """The latents of a box that starts on the latent grid."""
    top, left = box.top // LATENT_PX, box.left // LATENT_PX
    return Area(top, top - (-box.height // LATENT_PX), left, left - (-box.width // LATENT_PX))


def to_rgb(samples: Samples) -> Samples:
    """Colour [H, W, 3] of a picture in any of the four formats."""
    return np.repeat(samples[..., :1], 3, 2) if samples.shape[2] < 3 else samples[..., :3]


def in_channels(rgb: "Tensor", box: TileBox) -> "Tensor":
    """Pixels uint8 [h, w, 3] in the channels of a tile; grey is their mean, rounded."""
    return rgb if box.channels == 3 else ((rgb.sum(2, keepdim=True) + 1) // 3).to(rgb.dtype)


def _widened(area: Area, margin: int, bounds: Area) -> Area:
    return Area(
        max(area.top - margin, bounds.top), min(area.bottom + margin, bounds.bottom),
        max(area.left - margin, bounds.left), min(area.right + margin, bounds.right),
    )  # fmt: skip


def at_once_px(network: "Network") -> int:
    """How many pixels to compute at a time."""
    return LARGEST_PART_PX if network.device.type == "cpu" else LARGEST_ON_GPU_PX


def _whole_or_halves(
    box: TileBox,
    work: Callable[[TileBox], Result],
    join: Callable[[list[Result], int], Result],
    *,
    largest_px: int,
) -> Result:
    """The work done on a box; if memory does not suffice, joined from what is done on its halves, and on theirs.

    Args:
        box: a part of a tile that starts on the latent grid.
        work: what to do with a box.
        join: puts the results of two boxes together, along 0 (one is above the other) or 1 (one is left of it).
        largest_px: boxes of more pixels are halved in any case.
    """
    is_tall = box.height >= box.width
    middle = max(box.height, box.width) // 2 // LATENT_PX * LATENT_PX
    if middle < SMALLEST_PART_PX:
        return first_that_fits(lambda: work(box))
    if is_tall:
        halves = box._replace(height=middle), box._replace(top=box.top + middle, height=box.height - middle)
    else:
        halves = box._replace(width=middle), box._replace(left=box.left + middle, width=box.width - middle)

    def in_halves() -> Result:
        parts = [_whole_or_halves(half, work, join, largest_px=largest_px) for half in halves]
        return join(parts, 0 if is_tall else 1)

    if box.height * box.width > largest_px:
        return in_halves()
    return first_that_fits(lambda: work(box), in_halves)
