"""A loaded model at work: pixels to latents, the walk over all latents in bitstream order, latents to pixels."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec import forks
from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables
from vaecodec.errors import VaecCorruptError, VaecModelError
from vaecodec.model import preview
from vaecodec.model.deblocking import CUTS_IN_ALL, TOLERATED, border_ratio, fitting_cut
from vaecodec.model.exact import ExactScales
from vaecodec.model.layers import by_position
from vaecodec.model.precision import full_precision, has_fast_bfloat16
from vaecodec.model.quantization import trade
from vaecodec.model.transforms import HYPER_STRIDE, LATENT_STRIDE
from vaecodec.model.vae import Vae, quality_level


class Latents(NamedTuple):
    """What the encoder knows: y [M, h, w] and z [Z, h/4, w/4] in quantizer steps, float32."""

    y: Tensor
    z: Tensor


class Prediction(NamedTuple):
    """What is known of a group of latents before their symbols: the question that `code` answers.

    Latents [C, h, w] are h w C / width runs of `width` neighbouring channels, position by position, row by row. The n
    latents of a group are whole runs.

    latent: "z" or "y". runs: int64 [n / width], which runs these are, ascending. mean: float32 [C, h, w], in units of
    the latent. gain: float32 [C, 1, 1], quantizer steps a unit. tables, rows: for the entropy coder, rows int [n].
    """

    latent: Literal["z", "y"]
    runs: Tensor
    mean: Tensor
    gain: Tensor
    tables: Tables
    rows: NDArray[np.integer]

    def of(self, latents: Tensor) -> Tensor:
        """Those of this group [n], of latents [C, h, w]."""
        width = self.rows.size // len(self.runs)
        return latents.permute(1, 2, 0).reshape(-1, width).index_select(0, self.runs).flatten()

    def quantize(self, latents: Latents) -> NDArray[np.int32]:
        """The encoder's answer [n]: integers near the latents of this group, chosen with an eye on what they cost.

        Raises:
            VaecModelError: (MODEL_VALUES) the weights lead to latents that are no numbers.
        """
        distance = (latents.z if self.latent == "z" else latents.y) - self.mean * self.gain
        residual = self.of(distance).cpu()
        if residual.isnan().any():
            raise VaecModelError("the weights turn this picture into latents that are NaN", code="MODEL_VALUES")
        nearest = residual.round().clamp_(-ESCAPE_LIMIT, ESCAPE_LIMIT)
        symbols: NDArray[np.int32] = nearest.numpy().astype(np.int32)
        symbols[self.rows < self.tables.first_coded_row] = 0
        if self.latent == "y":
            others = np.flatnonzero(symbols)  # than 0
            saved_bits = self.tables.saved_bits(self.rows[others], symbols[others])
            where = torch.from_numpy(others)
            symbols[others] = trade(residual[where], nearest[where], torch.from_numpy(saved_bits)).numpy()
        return symbols


Code = Callable[[Prediction], NDArray[np.int32]]


def _runs(latents: Tensor) -> Tensor:
    """The runs [B, 2 h w, M / 2] of latents [B, M, h, w] that lie by position in memory, as a view."""
    return latents.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (2, -1)).flatten(1, 2)


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

    def walk_latents(self, rows: int, columns: int, quality: int, code: Code) -> Tensor:
        """Visit every latent of a tile of rows x columns once, in bitstream order; `code` supplies the symbols.

        Encoder and decoder both run exactly this: the encoder's `code` answers from the picture, the decoder's from
        the bytes. Tables and rows depend on integers only; means are float and move pixels, never the coder.

        Returns:
            Dequantized latents [M, rows, columns] float32, ready for `synthesize`.
        """
        return self.walk_together(rows, columns, [quality], [code])[0]

    def walk_together(self, rows: int, columns: int, qualities: Sequence[int], codes: Sequence[Code]) -> Tensor:
        """The same for several tiles of one size, each with its quality and its code: latents [B, M, rows, columns]."""
        vae, level = self.vae, self._level(qualities)
        with self._inference():
            gain = torch.exp(vae.latent_gain(level))
            z = torch.stack(
                [self._walk_hyper(*hyper_size(rows, columns), *each) for each in zip(qualities, codes, strict=True)]
            )
            scale_rows = by_position(self.scales.rows(z, qualities)[:, :, :rows, :columns])
            features, mean = vae.hyper_synthesis(z * torch.exp(-vae.hyper_gain(level)))
            features, mean = features[..., :rows, :columns], by_position(mean[..., :rows, :columns])
            y_hat = by_position(torch.zeros_like(mean))
            for number, tables in enumerate(self.latent_tables):
                if number == 1:
                    mean = vae.context(y_hat, features, mean)
                runs = vae.coded_runs(rows, columns, number, self.device)
                coded_rows = _runs(scale_rows).index_select(1, runs).flatten()
                table_rows = coded_rows.cpu().numpy().reshape(len(codes), -1)
                symbols = np.stack([
                    code(Prediction("y", runs, mean[n], gain[n], tables, table_rows[n])) for n, code in enumerate(codes)
                ])  # fmt: skip
                values = torch.from_numpy(symbols).to(self.device, torch.float32).view(len(codes), len(runs), -1)
                values.div_(_runs(gain).index_select(1, runs % 2)).add_(_runs(mean).index_select(1, runs))
                _runs(y_hat).index_copy_(1, runs, values)
            return y_hat

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
        """Pixels [16 h / scale, 16 w / scale, 3] uint8, by a short cut, of dequantized latents [M, h, w]: `preview`."""
        with self._inference():
            return preview.apply(self._preview_map, y_hat, scale)

    @functools.cached_property
    def _preview_map(self) -> Tensor:
        return preview.fit(self)  # two threads that ask first may both compute it, which harms nobody

    def _walk_hyper(self, rows: int, columns: int, quality: int, code: Code) -> Tensor:
        """Hyper-latents [Z, rows, columns] as integers in float32."""
        channels = self.vae.arch.hyper_channels
        zero, one = (torch.full((channels, 1, 1), value, device=self.device) for value in (0.0, 1.0))
        runs = torch.arange(rows * columns, device=self.device)
        tables = self.hyper_tables[(quality - 1) * len(self.hyper_tables) // 100]
        table_rows = np.tile(np.arange(channels, dtype=np.uint8), rows * columns)
        symbols = code(Prediction("z", runs, zero.expand(-1, rows, columns), one, tables, table_rows))
        z = torch.from_numpy(symbols).to(self.device, torch.float32)
        return z.reshape(rows, columns, channels).permute(2, 0, 1)

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


def settle_after_fork() -> None:
    """Leaves torch with one thread in a process that was forked while torch was loaded: it would wait for the parent's.

    To be called before torch computes anything for this package. Torch's DataLoader does the same to its workers.
    """
    if forks.is_bereft_thread():
        torch.set_num_threads(1)


class Tensors:
    """The medium of pictures that stay on a device: see `decoder.Medium`."""

    def __init__(self, device: str) -> None:
        settle_after_fork()
        self._device = pick_device(device)

    def blank(self, shape: tuple[int, int, int], value: int) -> Tensor:
        """A picture of one value."""
        return torch.full(shape, value, dtype=torch.uint8, device=self._device)

    def take(self, samples: NDArray[np.uint8] | Tensor) -> Tensor:
        """Samples from wherever they are."""
        if isinstance(samples, Tensor):
            return samples.to(self._device)
        return torch.tensor(samples, device=self._device)  # a copy: some samples may not be written to

    @staticmethod
    def by_channels(picture: Tensor) -> Tensor:
        """A picture [H, W, C] as [C, H, W]."""
        return picture.permute(2, 0, 1).contiguous()


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        VaecModelError: (DEVICE) there is no such device, or it has no float64, which exact integers need.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # torch built without CUDA asserts
        raise VaecModelError(f"device {name!r} cannot be used: {error}", code="DEVICE") from error
    return device
