"""A loaded model at work: pixels to latents, the walk over all latents in bitstream order, latents to pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.entropy.tables import Tables
from vaecodec.errors import VaecCorruptError
from vaecodec.model.deblocking import CUTS_IN_ALL, TOLERATED, border_ratio, fitting_cut
from vaecodec.model.exact import ExactScales
from vaecodec.model.layers import by_position
from vaecodec.model.precision import full_precision, has_fast_bfloat16
from vaecodec.model.quantization import nearest, worthwhile
from vaecodec.model.symbols import BASE_GROUPS, Group, Symbols, groups
from vaecodec.model.transforms import HYPER_STRIDE, LATENT_STRIDE
from vaecodec.model.vae import Vae, quality_level


class Latents(NamedTuple):
    """What the encoder knows: y [M, h, w] and z [Z, h/4, w/4] in quantizer steps, float32."""

    y: Tensor
    z: Tensor


Code = Callable[[Tables, NDArray[np.uint8]], NDArray[np.int32]]
"""Asked for the symbols [n] of a group of latents, given their tables and rows [n]."""


class Coded(NamedTuple):
    """Symbols [n] of a group of latents, with their tables and rows [n]: question and answer of a `Code`."""

    tables: Tables
    rows: NDArray[np.uint8]
    symbols: NDArray[np.integer]


def hyper_size(rows: int, columns: int) -> tuple[int, int]:
    """Size of the hyper-latent grid over rows x columns latents."""
    return -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)


class Network:
    """Transforms, exact scales and tables of one weights file on one device. Holds no state: any thread may use it.

    `hyper_tables` has one entry per band of qualities, `latent_tables` one per pass.
    """

    def __init__(
        self, vae: Vae, scales: ExactScales, *, hyper_tables: tuple[Tables, ...], latent_tables: tuple[Tables, ...],
        model_id: bytes, device: torch.device,
    ) -> None:  # fmt: skip
        self.vae, self.scales = vae, scales
        self.hyper_tables, self.latent_tables = hyper_tables, latent_tables
        self.model_id, self.device = model_id, device
        # How many latents around a region its transforms see: a 3x3 kernel a block, and one for the 1/4 grid.
        self.analysis_margin = vae.arch.analysis_blocks + 1
        self.synthesis_margin = vae.arch.synthesis_blocks + 1

    def no_latents(self, rows: int, columns: int) -> Tensor:
        """Zeros [M, rows, columns] float32 to collect the latents of a picture in."""
        size = rows, columns, self.vae.arch.latent_channels
        return torch.zeros(size, dtype=torch.float32, device=self.device).permute(2, 0, 1)

    @staticmethod
    def join(parts: list[Tensor], axis: int) -> Tensor:
        """Latents, or pixels, of neighbouring regions as those of one, along an axis."""
        return torch.cat(parts, axis)

    def analyze(self, pixels: NDArray[np.uint8], quality: int) -> Tensor:
        """Latents y [M, H/16, W/16] float32 of pixels [H, W, 3], H and W multiples of 16.

        In bfloat16 where that is quicker: only encoders analyze, and rate and PSNR stay the same within 0.15 %.
        """
        with self._inference(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            x = torch.tensor(pixels, device=self.device).permute(2, 0, 1)[None].float() / 255
            return self.vae.analysis(x.contiguous(memory_format=torch.channels_last), self._level([quality]))[0]

    def to_steps(self, y: Tensor, quality: int) -> Latents:
        """The latents of one tile [M, h, w] in quantizer steps, and its hyper-latents."""
        with self._inference():
            level = self._level([quality])
            rows, columns = (HYPER_STRIDE * n for n in hyper_size(*y.shape[1:]))
            padded = torch.nn.functional.pad(y, (0, columns - y.shape[2], 0, rows - y.shape[1]))
            z = self.vae.hyper_analysis(padded[None]) * torch.exp(self.vae.hyper_gain(level))
            return Latents(y * torch.exp(self.vae.latent_gain(level))[0], z[0])

    def walk_latents(self, rows: int, columns: int, quality: int, code: Code, *, base_only: bool = False) -> Symbols:
        """Visit every latent of a tile of rows x columns once, in bitstream order; `code` supplies the symbols.

        Integers only, the same on every machine: encoders write what they have chosen in this order, and decoders,
        whose `code` answers from the bytes, know all symbols before anything else is computed.

        Args:
            rows: of the tile's latents.
            columns: likewise.
            quality: 1 to 100.
            code: is asked about z, then about each group of y.
            base_only: stop when the base of the latents is known.
        """
        return self.walk_together(rows, columns, [quality], [code], base_only=base_only)[0]

    def walk_together(
        self, rows: int, columns: int, qualities: Sequence[int], codes: Sequence[Code], *, base_only: bool = False
    ) -> list[Symbols]:
        """The same for several tiles of one size, each with its quality and its code."""
        pairs = list(zip(qualities, codes, strict=True))
        z = [self._walk_hyper(*hyper_size(rows, columns), quality, code) for quality, code in pairs]
        channels = self.vae.arch.base_channels if base_only else self.vae.arch.latent_channels
        table_rows = self._table_rows(z, rows, columns, qualities, channels)
        y = [np.empty(each.shape, np.int16) for each in table_rows]
        for group in self.groups(rows, columns)[: BASE_GROUPS if base_only else None]:
            for code, symbols, of in zip(codes, y, table_rows, strict=True):
                group.put(symbols, code(self.latent_tables[group.number], group.take(of)))
        return [Symbols(*each) for each in zip(z, y, table_rows, strict=True)]

    def groups(self, rows: int, columns: int) -> tuple[Group, ...]:
        """The groups of the latents of a tile: see `symbols.groups`."""
        return groups(rows, columns, self.vae.arch.latent_channels)

    def coded(self, symbols: Symbols, rows: int, columns: int, quality: int) -> Iterator[Coded]:
        """The symbols of a tile of rows x columns latents, group by group, as `walk_latents` asks about them."""
        yield Coded(self._hyper_tables_of(quality), self._hyper_rows(len(symbols.z)), symbols.z.ravel())
        for group in self.groups(rows, columns):
            yield Coded(self.latent_tables[group.number], group.take(symbols.rows), group.take(symbols.y))

    def choose(self, latents: Latents, quality: int) -> tuple[Symbols, Tensor]:
        """Integers near the latents of one tile, chosen with an eye on what they cost; and `dequantize` of them.

        Raises:
            VaecModelError: (MODEL_VALUES) the weights lead to latents that are no numbers.
        """
        rows, columns = latents.y.shape[1:]
        of_z = _positions(latents.z)
        found = nearest(torch.from_numpy(of_z.ravel()), self._hyper_rows(len(of_z)), self._hyper_tables_of(quality))
        z = found.astype(np.int16).reshape(of_z.shape)
        (of,) = self._table_rows([z], rows, columns, [quality], self.vae.arch.latent_channels)
        y = np.zeros(of.shape, np.int16)

        def answer(number: int, mean: Tensor, gain: Tensor) -> Tensor:
            distance = _positions(latents.y - mean[0] * gain[0])
            for group in self.groups(rows, columns):
                if group.number == number:
                    residual = torch.from_numpy(group.take(distance))
                    group.put(y, worthwhile(residual, group.take(of), self.latent_tables[number]))
            return self._to_tensor([y], rows, columns)

        return Symbols(z, y, of), self._predict([z], rows, columns, [quality], answer, y.shape[1])[0]

    def dequantize(self, symbols: Sequence[Symbols], rows: int, columns: int, qualities: Sequence[int]) -> Tensor:
        """Latents [B, M, rows, columns] float32 of the symbols of B tiles, ready for `synthesize`; or their base.

        Means are float: they move pixels, never the coder.
        """
        y = self._to_tensor([each.y for each in symbols], rows, columns)
        return self._predict([each.z for each in symbols], rows, columns, qualities, lambda *_: y, y.shape[1])

    def synthesize(self, y_hat: Tensor, quality: int, deblocking_cut: int = 0) -> Tensor:
        """Pixels [16 h, 16 w, 3] uint8 of dequantized latents [M, h, w].

        Raises:
            VaecCorruptError: (NONFINITE) the latents drive the network out of the range of numbers.
        """
        pixels, (fault,) = self.synthesize_together(y_hat[None], [quality], [deblocking_cut])
        if fault is not None:
            raise fault
        return pixels[0]

    def synthesize_together(
        self, y_hat: Tensor, qualities: Sequence[int], deblocking_cuts: Sequence[int]
    ) -> tuple[Tensor, list[VaecCorruptError | None]]:
        """Pixels [B, 16 h, 16 w, 3] uint8 of latents [B, M, h, w] of several qualities, and the errors of those."""
        with self._inference():
            share = 1 - torch.tensor(deblocking_cuts, dtype=torch.float32, device=self.device) / CUTS_IN_ALL
            pictures = self.vae.synthesis(*self._restored(y_hat, qualities), share)
            is_finite = torch.isfinite(pictures.sum((1, 2, 3))).tolist()
            return _pixels_of(pictures), [None if finite else _not_finite() for finite in is_finite]

    def synthesize_like(
        self, y_hat: Tensor, quality: int, original: NDArray[np.uint8], inside: tuple[slice, slice]
    ) -> tuple[Tensor, int]:
        """Pixels as of `synthesize`, deblocked so far that their grid is that of the original; and the cut for that.

        What the filter takes for artefacts may be grain: some pictures come out smoother across borders than beside.

        Args:
            y_hat: dequantized latents [M, h, w].
            quality: theirs.
            original: samples [a, b, 3] of a part of the picture that starts on the latent grid.
            inside: its rows and columns.

        Raises:
            VaecCorruptError: (NONFINITE) as of `synthesize`.
        """
        with self._inference():
            before, features = self.vae.synthesis.with_steps(*self._restored(y_hat[None], [quality]))
            after = self.vae.synthesis.deblock(before.clone(), features)
            if not torch.isfinite(after.sum()):
                raise _not_finite()
            wanted = border_ratio(torch.tensor(original, device=self.device).permute(2, 0, 1).float(), LATENT_STRIDE)
            pixels = _pixels_of(after.clone())[0]
            found = border_ratio(pixels[inside].permute(2, 0, 1).float(), LATENT_STRIDE)
            if not wanted > (1 + TOLERATED) * found:
                return pixels, 0
            seen = (0, slice(None), *inside)
            cut = fitting_cut(before[seen], after[seen], wanted / found, LATENT_STRIDE)
            share = torch.tensor([1 - cut / CUTS_IN_ALL], device=self.device)
            return _pixels_of(self.vae.synthesis.deblock(before, features, share))[0], cut

    def _restored(self, y_hat: Tensor, qualities: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What synthesis takes: latents [B, M, h, w] and levels [B]."""
        level = self._level(qualities)
        y = y_hat * torch.exp(self.vae.latent_restore(level))
        return y.contiguous(memory_format=torch.channels_last), level

    def preview(self, y_hat: Tensor, scale: int) -> Tensor:
        """Pixels [16 h / scale, 16 w / scale, 3] uint8, by a short cut, of dequantized latents [M, h, w]: `preview`.

        The base of the latents, [M / 8, h, w], is enough at 1/8.
        """
        with self._inference():
            return self.vae.preview(y_hat, scale).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)

    def _predict(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        symbols_of: Callable[[int, Tensor, Tensor], Tensor], channels: int,
    ) -> Tensor:  # fmt: skip
        """The first channels [B, C, rows, columns] of the dequantized latents of tiles with hyper-latents z.

        Args:
            z: hyper-latents of each tile, as of `Symbols`.
            rows: of the latents.
            columns: likewise.
            qualities: of each tile.
            symbols_of: the symbols as float32 of the result's shape, given the number of a pass, the means, of the
                same shape and in units of the latents, and the quantizer steps a unit [B, C, 1, 1]. Only those of the
                pass matter.
            channels: C.
        """
        vae, level = self.vae, self._level(qualities)
        is_for_previews = channels < vae.arch.latent_channels  # which are approximations anyway
        coarse = is_for_previews and has_fast_bfloat16(self.device)
        with self._inference(), torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            hyper = self._to_tensor(z, *hyper_size(rows, columns)) * torch.exp(-vae.hyper_gain(level))
            gain = torch.exp(vae.latent_gain(level))[:, :channels]
            features, mean = vae.hyper_synthesis(hyper, channels)
            features, mean = features[..., :rows, :columns], by_position(mean[..., :rows, :columns])
            first = by_position(vae.first_half(rows, columns, self.device)[None, :channels])
            y = torch.where(first, mean + symbols_of(0, mean, gain) / gain, 0)
            mean = vae.context(y, features, mean)
            return torch.where(first, y, mean + symbols_of(1, mean, gain) / gain)

    def _walk_hyper(self, rows: int, columns: int, quality: int, code: Code) -> NDArray[np.int16]:
        symbols = code(self._hyper_tables_of(quality), self._hyper_rows(rows * columns))
        return symbols.astype(np.int16).reshape(rows * columns, -1)

    def _hyper_tables_of(self, quality: int) -> Tables:
        return self.hyper_tables[(quality - 1) * len(self.hyper_tables) // 100]

    def _hyper_rows(self, positions: int) -> NDArray[np.uint8]:
        """Rows of the hyper-latents of so many positions: a channel has its own."""
        return np.tile(np.arange(self.vae.arch.hyper_channels, dtype=np.uint8), positions)

    def _table_rows(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int], channels: int
    ) -> NDArray[np.uint8]:
        """Table rows [B, rows columns, channels] of the first channels of tiles with hyper-latents z."""
        found = self.scales.rows(self._to_tensor(z, *hyper_size(rows, columns)), qualities, channels)
        by_place: NDArray[np.uint8] = found[:, :, :rows, :columns].permute(0, 2, 3, 1).flatten().cpu().numpy()
        return by_place.reshape(len(z), rows * columns, channels)

    def _to_tensor(self, arrays: Sequence[NDArray[np.int16]], rows: int, columns: int) -> Tensor:
        """Arrays [rows columns, C] as one tensor [B, C, rows, columns] float32, by position in memory."""
        stacked = torch.from_numpy(np.stack(arrays)).to(self.device).to(torch.float32)
        return stacked.view(len(arrays), rows, columns, -1).permute(0, 3, 1, 2)

    def _level(self, qualities: Sequence[int]) -> Tensor:
        return torch.tensor([quality_level(quality) for quality in qualities], dtype=torch.float32, device=self.device)

    def _inference(self) -> AbstractContextManager[None]:
        return full_precision(self.device)


def _pixels_of(pictures: Tensor) -> Tensor:
    """Pixels [B, H, W, 3] uint8 of pictures [B, 3, H, W] in 0..1, which are lost."""
    planes = pictures.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return torch.stack(planes.unbind(1), 3)  # whoever copies it finds the colours of a pixel side by side


def _not_finite() -> VaecCorruptError:
    return VaecCorruptError("the latents do not synthesize to finite pixels", code="NONFINITE")


def _positions(latents: Tensor) -> NDArray[np.float32]:
    """Latents [C, h, w] as [h w, C]."""
    array: NDArray[np.float32] = latents.permute(1, 2, 0).flatten(0, 1).cpu().numpy()
    return array
