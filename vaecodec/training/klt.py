"""Initializes the network as a linear codec: the Karhunen-Loève transform of 16x16 patches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import GRID, LATENT_STRIDE
from vaecodec.training.objective import TrainingModel

SMALLEST_VARIANCE = 1e-8


def _identity(layer: nn.Conv2d) -> None:
    """Makes a layer pass the first channels through, up to the smaller width."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        for channel in range(min(layer.in_channels, layer.out_channels)):
            layer.weight[channel, channel] = 1


@torch.no_grad()
def start_from_klt(model: TrainingModel, pictures: Tensor) -> None:
    """Makes the model a linear transform codec with the principal components of `pictures` [N, 3, H, W] in 0..1.

    Everything nonlinear starts near zero: the residual branches, the renderer's conditioning, the context.
    From here, 200 steps of training reach more than 3,000 steps from a random start (docs/training.md).
    """
    vae = model.vae
    patches = F.pixel_unshuffle(F.pixel_unshuffle(2 * pictures - 1, GRID), LATENT_STRIDE // GRID)
    samples = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1])
    variance, basis = torch.linalg.eigh(samples.T @ samples / len(samples))
    variance, basis = variance.flip(0), basis.flip(1)  # largest first

    analysis, synthesis = vae.analysis, vae.synthesis
    analysis.patch_in.weight.copy_(basis[:, : analysis.patch_in.out_channels].T[:, :, None, None])
    analysis.patch_in.bias.zero_()
    _identity(analysis.latent_out)

    render, kept = synthesis.pixels_out.in_channels, vae.arch.latent_channels
    content = torch.zeros(render, (LATENT_STRIDE // GRID) ** 2, kept)  # pixel shuffle: channel-major, then position
    grid_channels = min(render, 3 * GRID**2)
    content[:grid_channels] = basis[:, :kept].reshape(3 * GRID**2, -1, kept)[:grid_channels]
    synthesis.content.weight.copy_(content.reshape(-1, kept, 1, 1))
    synthesis.content.bias.zero_()
    _identity(synthesis.pixels_out)
    synthesis.pixels_out.weight.mul_(0.5)  # maps -1..1 to 0..1
    synthesis.pixels_out.bias.fill_(0.5)
    for layer in (synthesis.modulation, synthesis.render_out, vae.hyper_synthesis.mean_out):
        layer.weight.mul_(0.1)
        layer.bias.zero_()
    vae.context.mean_out.weight.mul_(0.1)
    synthesis.open_gates()

    log_deviation = 0.5 * torch.log(variance[:kept].clamp_min(SMALLEST_VARIANCE))
    last = model.scale_network.layers[-1]
    last.weight.mul_(0.1)
    last.bias.copy_(log_deviation.repeat_interleave(4))  # the pixel shuffle turns four channels into four positions
