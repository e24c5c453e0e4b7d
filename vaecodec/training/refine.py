"""Slow encoding: refines symbols by gradient descent through the decoder and the tables.

Source: Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression" (NeurIPS 2020), §3.2, stochastic
Gumbel annealing: each latent is sampled from the two integers around it; gradients move the probabilities, and
annealing turns them into a hard choice. Unlike in the paper, hyper-latents stay fixed, so every latent keeps its table.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables, symbol_bits
from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE
from vaecodec.model.coding import Symbols
from vaecodec.model.torch_engine.engine import TorchEngine, has_fast_bfloat16
from vaecodec.training.distortion import Tune

LEARNING_RATE, BETAS = 0.02, (0.9, 0.99)  # of Adam, in quantizer steps; the rate decays to zero
WARMEST, COLDEST = 0.5, 0.1  # temperatures at the start and at the end
SEED = 0  # of the sampling: a tile is refined alike every time, and the caller's random numbers are left alone
WINDOW = 24  # latents a side to synthesize at a time; gradients of a whole tile would take gigabytes
LARGEST = 255  # largest magnitude in the table of bits
SMALLEST_PX = 64  # minimum side of a measured part; smaller ones are padded with their edge


def refine(
    engine: TorchEngine, y: Tensor, inside: tuple[slice, slice], pixels: NDArray[np.uint8], quality: int, steps: int
) -> tuple[Symbols, Tensor]:
    """As `coding.quantize`, but slower and with fewer bits: symbols and dequantized latents [M, h, w] of a tile.

    Minimises rate + distortion as in training, with the distortion that the weights were trained for; the result is
    never worse than that of `coding.quantize`. Each step takes as long as three to four decodings.

    Args:
        engine: runs the weights.
        y: unquantized latents [M, H, W] of the tile and of the surroundings that synthesis sees.
        inside: rows and columns of the tile's latents in y.
        pixels: uint8 [16 h, 16 w, 3] of the tile.
        quality: 1 to 100.
        steps: number of steps.
    """
    start = coding.quantize(engine, y[:, inside[0], inside[1]].contiguous(), quality)
    with torch.inference_mode(False), torch.enable_grad():
        return _Refinement(engine, y.clone(), inside, pixels, quality, start[0]).run(steps, start)


class _Refinement:
    """The refinement of one tile; arguments as in `refine`."""

    def __init__(
        self, engine: TorchEngine, y: Tensor, inside: tuple[slice, slice], pixels: NDArray[np.uint8], quality: int,
        symbols: Symbols,
    ) -> None:  # fmt: skip
        self.engine, self.vae, self.y, self.inside, self.symbols = engine, engine.vae, y, inside, symbols
        self.quality, self.tune = quality, Tune(engine.eye)
        self.x = torch.tensor(pixels, device=engine.device).permute(2, 0, 1)[None].float() / 255
        self.rows, self.columns = pixels.shape[0] // LATENT_STRIDE, pixels.shape[1] // LATENT_STRIDE
        grid = self.rows, self.columns
        self.level = torch.tensor([coding.quality_level(quality)], device=engine.device)
        self.gain = torch.exp(self.vae.latent_gain(self.level))
        z = torch.tensor(symbols.z, device=engine.device).float().view(1, *coding.hyper_size(*grid), -1)
        self.z_hat = z.permute(0, 3, 1, 2) * torch.exp(-self.vae.hyper_gain(self.level))
        self.first = self.vae.first_pass(*grid, engine.device)[None]
        indexes = torch.tensor(symbols.indexes, device=engine.device).long().view(1, *grid, -1).permute(0, 3, 1, 2)
        bits = torch.stack([_bits_by_row(tables) for tables in engine.latent_tables]).to(engine.device)
        self.bits, self.row = bits.flatten(), (indexes + (~self.first) * bits.shape[1]) * bits.shape[2]
        lowest = torch.tensor([tables.first_coded_row for tables in engine.latent_tables], device=engine.device)
        self.is_coded = indexes >= torch.where(self.first, lowest[0], lowest[1])

    def run(self, steps: int, start: tuple[Symbols, Tensor]) -> tuple[Symbols, Tensor]:
        """Refines from `start`; returns the better of start and result."""
        u = (self.y[None, :, self.inside[0], self.inside[1]] * self.gain).detach().requires_grad_()
        optimizer = torch.optim.Adam([u], LEARNING_RATE, BETAS)
        random = torch.Generator(self.engine.device).manual_seed(SEED)
        for step in range(steps):
            left = 1 - step / steps
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * left
            temperature = COLDEST * (WARMEST / COLDEST) ** left
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(self.engine.device)):
                _, bits, y_hat = self._predict(u, functools.partial(_drawn, temperature=temperature, random=random))
                seen = self._seen(y_hat.detach()).requires_grad_()
                for distortion in self._distortions(seen):  # one at a time, to save memory
                    distortion.backward()
            gradient = cast(Tensor, seen.grad)[:, :, self.inside[0], self.inside[1]]
            torch.autograd.backward([bits / self._pixels, y_hat], [None, gradient])
            optimizer.step()
        found = self._hard(u.detach())
        return found if self._cost(*found) < self._cost(*start) else start

    @property
    def _pixels(self) -> int:
        return self.x.shape[2] * self.x.shape[3]

    def _seen(self, y_hat: Tensor) -> Tensor:
        """The latents [1, M, H, W] that synthesis sees: y_hat [1, M, h, w] of the tile, and its surroundings."""
        seen = self.y[None].clone()
        seen[:, :, self.inside[0], self.inside[1]] = y_hat
        return seen

    def _predict(self, u: Tensor, symbols_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, their bits, and dequantized latents [1, M, h, w], for latents u in quantizer steps."""
        passes = list[Tensor]()

        def choose(_: int, mean: Tensor, gain: Tensor) -> Tensor:
            passes.append(torch.where(self.is_coded, symbols_of(u - mean.float() * gain), 0))
            return passes[-1]

        y_hat = self.vae.predict(self.z_hat, self.gain, self.rows, self.columns, choose)
        symbols = torch.where(self.first, passes[0], passes[1])
        lower = symbols.detach().floor().clamp(-LARGEST, LARGEST - 1)
        place = self.row + lower.long() + LARGEST
        low, high = self.bits[place], self.bits[place + 1]
        return symbols, (low + (symbols - lower) * (high - low)).sum(), y_hat

    def _distortions(self, seen: Tensor) -> Iterator[Tensor]:
        """Yields the distortion of each part of the tile, in bits per pixel of the whole tile."""
        reach = self.engine.arch.synthesis_margin
        for window in itertools.product(_parts(self.rows), _parts(self.columns)):
            sizes = [
                (part.start + of.start, part.stop + of.start, length)
                for part, of, length in zip(window, self.inside, seen.shape[2:], strict=True)
            ]
            wide = [slice(max(0, a - reach), min(length, b + reach)) for a, b, length in sizes]
            own = [slice(a - w.start, b - w.start) for (a, b, _), w in zip(sizes, wide, strict=True)]
            latents = seen[:, :, wide[0], wide[1]] * torch.exp(self.vae.latent_restore(self.level))
            latents = latents.contiguous(memory_format=torch.channels_last)
            picture = self.vae.synthesis(latents, self.level).float()
            shown = picture[:, :, _in_pixels(own[0]), _in_pixels(own[1])]
            x = self.x[:, :, _in_pixels(window[0]), _in_pixels(window[1])]
            share = x.shape[2] * x.shape[3] / self._pixels
            with torch.autocast("cpu", enabled=False):
                shown, x = _continued(shown), _continued(x)
                mse = (shown - x).square().mean((1, 2, 3))  # without the grid, which single symbols cannot remove
                yield share * self.tune.distortion(shown, x, mse, self.level).sum()

    @torch.no_grad()
    def _hard(self, u: Tensor) -> tuple[Symbols, Tensor]:
        chosen, _, _ = self._predict(u, torch.round)
        by_place = chosen[0].clamp(-ESCAPE_LIMIT, ESCAPE_LIMIT).permute(1, 2, 0).flatten(0, 1).to(torch.int16)
        symbols = self.symbols._replace(y=np.ascontiguousarray(by_place.cpu().numpy()))
        return symbols, coding.dequantize(self.engine, [symbols], self.rows, self.columns, [self.quality])[0]

    @torch.no_grad()
    def _cost(self, symbols: Symbols, y_hat: Tensor) -> float:
        """Rate + distortion in bits per pixel, without the hyper-latents."""
        coded = list(coding.coded(self.engine, symbols, self.rows, self.columns, self.quality))[coding.SIDE_PASSES :]
        bits = sum(float(symbol_bits(*each).sum()) for each in coded)
        return bits / self._pixels + float(sum(self._distortions(self._seen(y_hat[None]))))


def _drawn(residual: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """A value between the two integers around each residual; the lower the temperature, the closer to one of them."""
    lower = residual.detach().floor()
    above = (residual - lower).clamp(1e-3, 1 - 1e-3)
    first, second = (torch.empty_like(above).exponential_(generator=random).log() for _ in range(2))
    noise = first - second
    return lower + torch.sigmoid((torch.atanh(above) - torch.atanh(1 - above) + noise) / temperature)


def _bits_by_row(tables: Tables) -> Tensor:
    """Bits [rows, 2 LARGEST + 1] of the symbols -LARGEST to LARGEST."""
    symbols = np.arange(-LARGEST, LARGEST + 1)
    bits = np.zeros((tables.rows, len(symbols)), np.float32)
    for row in range(tables.first_coded_row, tables.rows):
        bits[row] = symbol_bits(tables, np.full(len(symbols), row, np.uint8), symbols)
    return torch.from_numpy(bits)


def _parts(length: int) -> list[slice]:
    """Splits `length` latents into as few equal parts of at most `WINDOW` as possible; small parts measure badly."""
    count = -(-length // WINDOW)
    return [slice(length * n // count, length * (n + 1) // count) for n in range(count)]


def _in_pixels(latents: slice) -> slice:
    return slice(latents.start * LATENT_STRIDE, latents.stop * LATENT_STRIDE)


def _continued(picture: Tensor) -> Tensor:
    """Pads a picture [1, 3, h, w] to at least `SMALLEST_PX` a side."""
    down, right = (max(0, SMALLEST_PX - length) for length in picture.shape[2:])
    return F.pad(picture, (0, right, 0, down), mode="replicate")
