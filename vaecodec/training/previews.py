"""Prepares previews at export: the order of the latents, and the linear maps to downscaled pictures."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vaecodec.model import coding
from vaecodec.model.architecture import LATENT_STRIDE, PREVIEW_SCALES
from vaecodec.model.coding import Symbols
from vaecodec.model.torch_engine.engine import TorchEngine
from vaecodec.model.torch_engine.network import Preview
from vaecodec.training.objective import TrainingModel

LOWEST_QUALITY = 25  # of the crops: coarser latents would blur the previews of higher qualities
CROPS_TO_ORDER = 8
RIDGE = 1e-6  # relative to the mean square, because some latents are always 0

Crops = Sequence[NDArray[np.uint8]]


class _Seen(NamedTuple):
    """A decoded crop: quality, rows and columns of its latents, their symbols, all latents, the base, and the pixels.

    y_hat is [M, h, w], base [M / 8, h, w], and pixels [3, H, W] in 0..255.
    """

    quality: int
    size: tuple[int, int]
    symbols: Symbols
    y_hat: Tensor
    base: Tensor
    pixels: Tensor


def fit(engine: TorchEngine, crops: Crops) -> None:
    """Fits the linear preview maps by least squares to decoded crops [H, W, 3]."""
    seen, preview = list(_decoded(engine, crops)), engine.vae.preview
    for name, known, scale in (("whole", "y_hat", PREVIEW_SCALES[0]), ("base", "base", PREVIEW_SCALES[-1])):
        inputs = torch.cat([_with_one(getattr(each, known)) for each in seen]).double()
        targets = torch.cat([_blocks(each.pixels, scale) for each in seen]).double()
        gram = inputs.T @ inputs
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        getattr(preview, name).copy_(torch.linalg.solve(gram + ridge, inputs.T @ targets))


def base_first(engine: TorchEngine, crops: Crops) -> Tensor:
    """An order int64 [M] of the latents that puts those of the first half first that matter most to previews.

    The importance of a latent is the change of previews at 1/8, on crops [H, W, 3], without its symbols. This includes
    more than its direct effect, because the means of the second half depend on it.
    """
    seen = list(_decoded(engine, crops[:: -(-len(crops) // CROPS_TO_ORDER)]))
    half = engine.vae.arch.latent_channels // 2
    changes = torch.zeros(half)
    for each in seen:
        whole = _small(engine.vae.preview, each.y_hat)
        for channel in range(half):
            y = each.symbols.y.copy()
            y[:, channel] = 0
            without = coding.dequantize(engine, [each.symbols._replace(y=y)], *each.size, [each.quality])[0]
            changes[channel] += (_small(engine.vae.preview, without) - whole).square().mean()
    return torch.cat([changes.argsort(descending=True, stable=True), torch.arange(half, 2 * half)])


@torch.no_grad()
def reorder_latents(model: TrainingModel, order: Tensor) -> None:
    """Reorders the latents of a model by an order [M] of old channels, without changing what it computes.

    The two halves are predicted at different positions, so channels must stay in their half.
    """
    vae, last = model.vae, model.scale_network.layers[-1]
    outputs: list[Any] = [
        vae.analysis.latent_out.weight, vae.analysis.latent_out.bias, vae.analysis.detail.weight,
        vae.hyper_synthesis.mean_out.weight, vae.hyper_synthesis.mean_out.bias, vae.context.mean_out.weight,
    ]  # fmt: skip
    inputs: list[Any] = [
        vae.hyper_analysis[0].weight, vae.context.latent_in.weight, vae.synthesis.body_in.weight,
        vae.synthesis.content.weight, vae.latent_gain.log_gain, vae.latent_restore.log_gain,
    ]  # fmt: skip
    for parameter in outputs:
        parameter.copy_(parameter[order])
    for parameter in inputs:
        parameter.copy_(parameter[:, order])
    for parameter in (last.weight, last.bias):  # four positions of each latent are adjacent, for a pixel shuffle
        parameter.copy_(parameter.unflatten(0, (-1, 4))[order].flatten(0, 1))


def _decoded(engine: TorchEngine, crops: Crops) -> Iterator[_Seen]:
    qualities = np.linspace(LOWEST_QUALITY, 100, len(crops)).astype(int).tolist()
    for crop, quality in zip(crops, qualities, strict=True):
        symbols, y_hat = coding.quantize(engine, engine.analyze(crop, quality), quality)
        size = y_hat.shape[1], y_hat.shape[2]
        of_base = slice(engine.vae.arch.base_channels)
        base_only = symbols._replace(y=symbols.y[:, of_base], indexes=symbols.indexes[:, of_base])
        base = coding.dequantize(engine, [base_only], *size, [quality])[0]
        pixels = engine.synthesize(y_hat[None], [quality], [0])[0][0].permute(2, 0, 1).float()
        yield _Seen(quality, size, symbols, y_hat, base, pixels)


def _with_one(latents: Tensor) -> Tensor:
    """Latents [C, h, w] as [h w, C + 1], with a last column of ones."""
    return F.pad(latents.flatten(1).T, (0, 1), value=1.0)


def _blocks(pixels: Tensor, scale: int) -> Tensor:
    """Means of blocks of pixels [3, H, W], as [h w, 3 (16 / scale)^2] by latent position."""
    return F.pixel_unshuffle(F.avg_pool2d(pixels[None], scale), LATENT_STRIDE // scale)[0].flatten(1).T


def _small(preview: Preview, y_hat: Tensor) -> Tensor:
    """The preview at 1/4 from all latents [M, h, w], downscaled to 1/8."""
    return F.avg_pool2d(preview(y_hat, PREVIEW_SCALES[1]), PREVIEW_SCALES[-1] // PREVIEW_SCALES[1])
