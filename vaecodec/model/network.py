"""A loaded model at work: pixels to latents, the walk over all latents in bitstream order, latents to pixels."""

import functools
from collections.abc import Callable
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
from vaecodec.model.exact import ExactScales
from vaecodec.model.precision import full_precision, has_fast_bfloat16
from vaecodec.model.quantization import trade
from vaecodec.model.transforms import HYPER_STRIDE
from vaecodec.model.vae import Vae, quality_level


class Latents(NamedTuple):
    """What the encoder knows: y [M, h, w] and z [Z, h/4, w/4] in quantizer steps, float32."""

    y: Tensor
    z: Tensor


class Prediction(NamedTuple):
    """What is known of a group of latents before their symbols: the question that `code` answers.

    latent: "z" or "y". places: int64 [n], where the group's latents stand in [C, h, w] read row by row, ascending.
    mean: float32 [C, h, w], in quantizer steps. tables, rows: what the entropy coder needs, rows int [n].
    """

    latent: Literal["z", "y"]
    places: Tensor
    mean: Tensor
    tables: Tables
    rows: NDArray[np.integer]

    def quantize(self, latents: Latents) -> NDArray[np.int32]:
        """The encoder's answer [n]: integers near the latents of this group, chosen with an eye on what they cost.

        Raises:
            VaecModelError: (MODEL_VALUES) the weights lead to latents that are no numbers.
        """
        distance = (latents.z if self.latent == "z" else latents.y) - self.mean
        residual = distance.flatten().index_select(0, self.places).cpu()
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


class Half(NamedTuple):
    """Which latents of a tile are coded in one pass.

    mask: bool [M, h, w]. places: int64 [n], where they stand in [M, h, w], ascending. memory: int64 [n], where they
    stand in memory if it holds the latents of a position side by side (channels last), as convolutions like it.
    """

    mask: Tensor
    places: Tensor
    memory: Tensor

    def spread(self, symbols: Tensor) -> Tensor:
        """The symbols [n] of this half where they belong in [M, h, w], and zeros elsewhere."""
        channels, rows, columns = self.mask.shape
        everywhere = torch.zeros(self.mask.numel(), dtype=symbols.dtype, device=symbols.device)
        return everywhere.scatter_(0, self.memory, symbols).view(rows, columns, channels).permute(2, 0, 1)


@functools.lru_cache(maxsize=4)  # most tiles of a picture are of one size; those at its edges are of three others
def _halves(vae: Vae, rows: int, columns: int, device: torch.device) -> tuple[Half, Half]:
    first = vae.first_half(rows, columns, device)

    def half(mask: Tensor) -> Half:
        places = mask.flatten().nonzero()[:, 0]
        memory = places % (rows * columns) * len(mask) + places // (rows * columns)
        return Half(mask.permute(1, 2, 0).contiguous().permute(2, 0, 1), places, memory)

    return half(first), half(~first)


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
            return self.vae.analysis(x.contiguous(memory_format=torch.channels_last), self._level(quality))[0]

    def to_steps(self, y: Tensor, quality: int) -> Latents:
        """The latents of one tile [M, h, w] in quantizer steps, and its hyper-latents."""
        with self._inference():
            level = self._level(quality)
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
        vae, level = self.vae, self._level(quality)
        with self._inference():
            gain = torch.exp(vae.latent_gain(level))[0]
            hyper_rows, hyper_columns = hyper_size(rows, columns)
            z = self._walk_hyper(hyper_rows, hyper_columns, quality, code)
            scale_rows = self.scales.rows(z[None], quality)[0, :, :rows, :columns]
            features, mean = vae.hyper_synthesis((z * torch.exp(-vae.hyper_gain(level)[0]))[None])
            features, mean = features[..., :rows, :columns], mean[0, :, :rows, :columns]
            y_hat = torch.zeros_like(mean)
            halves = _halves(vae, rows, columns, self.device)
            for half, tables in zip(halves, self.latent_tables, strict=True):
                if half is halves[1]:
                    mean = mean + vae.context(y_hat[None], features)[0]
                table_rows = scale_rows.flatten().index_select(0, half.places).cpu().numpy()
                prediction = Prediction("y", half.places, mean * gain, tables, table_rows)
                residual = half.spread(torch.from_numpy(code(prediction)).to(self.device, torch.float32))
                y_hat = torch.where(half.mask, residual.div_(gain).add_(mean), y_hat)
            return y_hat

    def synthesize(self, y_hat: Tensor, quality: int) -> Tensor:
        """Pixels [16 h, 16 w, 3] uint8 of dequantized latents [M, h, w].

        Raises:
            VaecCorruptError: (NONFINITE) the latents drive the network out of the range of numbers.
        """
        with self._inference():
            level = self._level(quality)
            y = (y_hat * torch.exp(self.vae.latent_restore(level)[0]))[None]
            picture = self.vae.synthesis(y.contiguous(memory_format=torch.channels_last), level)[0]
            if not torch.isfinite(picture.sum()):
                raise VaecCorruptError("the latents do not synthesize to finite pixels", code="NONFINITE")
            return (picture * 255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)

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
        mean = torch.zeros(channels, rows, columns, dtype=torch.float32, device=self.device)
        places = torch.arange(mean.numel(), device=self.device)
        band = (quality - 1) * len(self.hyper_tables) // 100
        table_rows = np.repeat(np.arange(channels, dtype=np.uint8), rows * columns)
        symbols = code(Prediction("z", places, mean, self.hyper_tables[band], table_rows))
        return torch.from_numpy(symbols).to(self.device, torch.float32).reshape(channels, rows, columns)

    def _level(self, quality: int) -> Tensor:
        return torch.tensor([quality_level(quality)], dtype=torch.float32, device=self.device)

    def _inference(self) -> AbstractContextManager[None]:
        return full_precision(self.device)


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
