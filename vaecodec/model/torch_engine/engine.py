"""The engine on torch: the network of one weights file on a CPU or a GPU."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.entropy.tables import Tables
from vaecodec.model.architecture import (
    CUTS_IN_ALL,
    HYPER_STRIDE,
    LATENT_STRIDE,
    Architecture,
    hyper_size,
    quality_level,
)
from vaecodec.model.engine import Choose
from vaecodec.model.torch_engine.deblocking import TOLERATED, border_ratio, fitting_cut
from vaecodec.model.torch_engine.devices import pick_device
from vaecodec.model.torch_engine.exact import ExactScales
from vaecodec.model.torch_engine.precision import full_precision, has_fast_bfloat16
from vaecodec.model.torch_engine.vae import Vae
from vaecodec.model.weights import Weights
from vaecodec.runtime.memory import keep_freed_memory

LARGEST_PART_PX = 1 << 19  # pixels that a CPU computes at once
LARGEST_ON_GPU_PX = 1 << 23  # by the sizes of its tensors, some 3 GB; not measured
# Of a decode by one thread, reading symbols is a sixth: one helper should keep up with four threads that do the rest.
# On two processors with two threads of torch, helpers were measured to cost 5 to 9 % (docs/scale.md).
THREADS_PER_HELPER = 4


class TorchEngine:
    """Transforms, integer scales and tables of one weights file on one device: see `model.engine.Engine`."""

    def __init__(
        self, vae: Vae, scales: ExactScales, *, hyper_tables: tuple[Tables, ...], latent_tables: tuple[Tables, ...],
        model_id: bytes, device: torch.device,
    ) -> None:  # fmt: skip
        self.vae, self.scales = vae, scales
        self.hyper_tables, self.latent_tables = hyper_tables, latent_tables
        self.model_id, self.device = model_id, device

    @property
    def arch(self) -> Architecture:
        """Widths and margins."""
        return self.vae.arch

    @property
    def is_cpu(self) -> bool:
        """Whether it computes where everything else does."""
        return self.device.type == "cpu"

    @property
    def at_once_px(self) -> int:
        """How many pixels to compute at a time."""
        return LARGEST_PART_PX if self.is_cpu else LARGEST_ON_GPU_PX

    @property
    def joined_px(self) -> int:
        """A CPU would gain nothing; and alone, tiles come out bit by bit as their encoder has seen them."""
        return 0 if self.is_cpu else LARGEST_ON_GPU_PX

    @property
    def pictures_at_once(self) -> int:
        """On a CPU a thread for each of torch's; a GPU is shared out by itself."""
        return torch.get_num_threads() if self.is_cpu else 1

    @property
    def helpers(self) -> int:
        """How many threads should read symbols ahead."""
        return torch.get_num_threads() // (THREADS_PER_HELPER if self.is_cpu else 1)

    @staticmethod
    def use_one_thread() -> None:
        """Torch's number of threads belongs to the thread that sets it: the caller's other threads keep theirs."""
        torch.set_num_threads(1)

    def self_test(self) -> None:
        """Compare the integer network with int64 arithmetic; raises VaecModelError (SELF_TEST)."""
        self.scales.self_test()

    def zeros(self, rows: int, columns: int) -> Tensor:
        """Latents [M, rows, columns] of value 0."""
        size = rows, columns, self.arch.latent_channels
        return torch.zeros(size, dtype=torch.float32, device=self.device).permute(2, 0, 1)

    @staticmethod
    def concat(parts: list[Tensor], axis: int) -> Tensor:
        """Neighbouring regions as one, along an axis."""
        return torch.cat(parts, axis)

    @staticmethod
    def to_numpy(array: Tensor) -> NDArray[Any]:
        """A tensor as an array, a view of it if it is on the CPU."""
        return array.cpu().numpy()

    @staticmethod
    def grey(pixels: Tensor) -> Tensor:
        """The mean [H, W, 1] uint8 of the colours of pixels [H, W, 3], rounded."""
        return ((pixels.sum(2, keepdim=True) + 1) // 3).to(pixels.dtype)

    def table_indexes(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        channels: int | None = None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Table indexes [B, rows columns, C] of tiles with hyper-latents z."""
        found = self.scales.table_indexes(self._to_tensor(z, *hyper_size(rows, columns)), qualities, channels)
        by_place: NDArray[np.uint8] = found[:, :, :rows, :columns].permute(0, 2, 3, 1).flatten().cpu().numpy()
        return by_place.reshape(len(z), rows * columns, -1)

    def analyze(self, pixels: NDArray[np.uint8], quality: int) -> Tensor:
        """Latents y [M, H/16, W/16] of pixels [H, W, 3].

        In bfloat16 where that is quicker: only encoders analyze, and rate and PSNR stay the same within 0.15 %.
        """
        with self._inference(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            x = torch.tensor(pixels, device=self.device).permute(2, 0, 1)[None].float() / 255
            return self.vae.analysis(x.contiguous(memory_format=torch.channels_last), self._level([quality]))[0]

    def hyper_analyze(self, y: Tensor, quality: int) -> tuple[Tensor, NDArray[np.float32]]:
        """Latents [M, h, w] in quantizer steps, and hyper-latents [h' w', Z] likewise."""
        with self._inference():
            level = self._level([quality])
            rows, columns = (HYPER_STRIDE * n for n in hyper_size(*y.shape[1:]))
            padded = torch.nn.functional.pad(y, (0, columns - y.shape[2], 0, rows - y.shape[1]))
            z = self.vae.hyper_analysis(padded[None]) * torch.exp(self.vae.hyper_gain(level))
            return y * torch.exp(self.vae.latent_gain(level))[0], _positions(z[0])

    def predict(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int], choose: Choose,
        channels: int, steps: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The first channels [B, C, rows, columns] of dequantized latents."""
        vae, level = self.vae, self._level(qualities)
        is_for_previews = channels < self.arch.latent_channels  # which are approximations anyway
        coarse = is_for_previews and has_fast_bfloat16(self.device)

        def symbols_of(number: int, mean: Tensor, gain: Tensor) -> Tensor:
            residual = None if steps is None else _positions(steps - mean[0] * gain[0])
            return self._to_tensor(choose(number, residual), rows, columns)

        with self._inference(), torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            z_hat = self._to_tensor(z, *hyper_size(rows, columns)) * torch.exp(-vae.hyper_gain(level))
            gain = torch.exp(vae.latent_gain(level))[:, :channels]
            return vae.predict(z_hat, gain, rows, columns, symbols_of)

    def synthesize(
        self, y_hat: Tensor, qualities: Sequence[int], deblocking_cuts: Sequence[int]
    ) -> tuple[Tensor, list[bool]]:
        """Pixels [B, 16 h, 16 w, 3] of latents [B, M, h, w], and of which of them all values are finite."""
        with self._inference():
            share = 1 - torch.tensor(deblocking_cuts, dtype=torch.float32, device=self.device) / CUTS_IN_ALL
            pictures = self.vae.synthesis(*self._restored(y_hat, qualities), share)
            return _pixels_of(pictures), torch.isfinite(pictures.sum((1, 2, 3))).tolist()

    def synthesize_like(
        self, y_hat: Tensor, quality: int, original: NDArray[np.uint8], inside: tuple[slice, slice]
    ) -> tuple[Tensor, int, bool]:
        """Pixels [16 h, 16 w, 3] of latents [M, h, w], deblocked as suits the original, and by which cut."""
        with self._inference():
            before, features = self.vae.synthesis.before_deblocking(*self._restored(y_hat[None], [quality]))
            after = self.vae.synthesis.deblock(before.clone(), features)
            is_finite = bool(torch.isfinite(after.sum()))
            wanted = border_ratio(torch.tensor(original, device=self.device).permute(2, 0, 1).float(), LATENT_STRIDE)
            pixels = _pixels_of(after.clone())[0]
            found = border_ratio(pixels[inside].permute(2, 0, 1).float(), LATENT_STRIDE)
            if not (is_finite and wanted > (1 + TOLERATED) * found):
                return pixels, 0, is_finite
            seen = (0, slice(None), *inside)
            cut = fitting_cut(before[seen], after[seen], wanted / found, LATENT_STRIDE)
            share = torch.tensor([1 - cut / CUTS_IN_ALL], device=self.device)
            return _pixels_of(self.vae.synthesis.deblock(before, features, share))[0], cut, True

    def preview(self, y_hat: Tensor, scale: int) -> Tensor:
        """Pixels [16 h / scale, 16 w / scale, 3] of latents [M, h, w], by a linear map."""
        with self._inference():
            return self.vae.preview(y_hat, scale).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)

    def _restored(self, y_hat: Tensor, qualities: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What synthesis takes: latents [B, M, h, w] and levels [B]."""
        level = self._level(qualities)
        y = y_hat * torch.exp(self.vae.latent_restore(level))
        return y.contiguous(memory_format=torch.channels_last), level

    def _to_tensor(self, arrays: Sequence[NDArray[np.int16]], rows: int, columns: int) -> Tensor:
        """Arrays [rows columns, C] as one tensor [B, C, rows, columns] float32, by position in memory."""
        stacked = torch.from_numpy(np.stack(arrays)).to(self.device).to(torch.float32)
        return stacked.view(len(arrays), rows, columns, -1).permute(0, 3, 1, 2)

    def _level(self, qualities: Sequence[int]) -> Tensor:
        return torch.tensor([quality_level(quality) for quality in qualities], dtype=torch.float32, device=self.device)

    def _inference(self) -> AbstractContextManager[None]:
        return full_precision(self.device)


def load(weights: Weights, device: str = "auto") -> TorchEngine:
    """Put weights to work.

    Raises:
        VaecModelError: the device cannot be used (DEVICE) or does not compute integers exactly (SELF_TEST).
    """
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    vae = empty(weights.arch)
    floats = {name: torch.tensor(values, dtype=torch.float32, device="cpu") for name, values in weights.floats.items()}
    vae.load_state_dict(floats, assign=True)
    vae.eval().requires_grad_(False).to(where, memory_format=torch.channels_last)
    engine = TorchEngine(
        vae, ExactScales(weights.scales, where), hyper_tables=weights.hyper_tables, latent_tables=weights.latent_tables,
        model_id=weights.model_id, device=where,
    )  # fmt: skip
    engine.self_test()
    return engine


def empty(arch: Architecture) -> Vae:
    """The network without values: no memory, no draw from the caller's random numbers, no default dtype."""
    with torch.device("meta"):
        return Vae(arch)


def _pixels_of(pictures: Tensor) -> Tensor:
    """Pixels [B, H, W, 3] uint8 of pictures [B, 3, H, W] in 0..1, which are lost."""
    planes = pictures.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return torch.stack(planes.unbind(1), 3)  # whoever copies it finds the colours of a pixel side by side


def _positions(latents: Tensor) -> NDArray[np.float32]:
    """Latents [C, h, w] as [h w, C]."""
    array: NDArray[np.float32] = latents.permute(1, 2, 0).flatten(0, 1).cpu().numpy()
    return array
