"""Estimated rate and PSNR of a training model on a folder of pictures, and pictures to look at."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaecodec.pictures.ssimulacra2 import score_of
from vaecodec.training.data import Pictures
from vaecodec.training.objective import TrainingModel
from vaecodec.training.recipe import PATCH_STEP_PX
from vaecodec.training.ssimulacra2 import distance

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SHOWN_LEVELS = (0.1, 0.5, 0.9)
SMALLEST_MSE = 1e-10


def psnr_db(mse: float) -> float:
    """PSNR in dB of a mean squared error on the scale 0..1."""
    return -10 * math.log10(max(mse, SMALLEST_MSE))


@torch.inference_mode()
def estimate(model: TrainingModel, x: Tensor, level: float) -> tuple[float, float, float]:
    """Bits per pixel, PSNR in dB and SSIMULACRA2 of one picture x [1, 3, H, W] in 0..1, with rounding instead of noise.

    H and W are multiples of 64; the model is in eval mode.
    """
    outcome = model(x.contiguous(memory_format=torch.channels_last), torch.tensor([level], device=x.device))
    bpp = float(outcome.latent_bits + outcome.hyper_bits) / (x.shape[2] * x.shape[3])
    shown = (outcome.pictures.clamp(0, 1) * 255).round() / 255
    return bpp, psnr_db(float((shown - x).square().mean())), score_of(float(distance(x, shown)))


def validate(model: TrainingModel, folder: Path, *, images: int = 8) -> list[dict[str, float]]:
    """Mean bpp, PSNR in dB and SSIMULACRA2 of a folder's first pictures at six quality levels.

    Pictures are cropped to multiples of 64 px; smaller and unreadable ones are skipped. Leaves the model in
    eval mode.

    Raises:
        TrainingError: (NO_PICTURES) no picture can be used.
    """
    model.eval()
    device = next(model.parameters()).device
    pictures = [_to_input(picture).to(device) for picture in Pictures(folder, PATCH_STEP_PX, limit=images).pictures]
    rows = []
    for level in LEVELS:
        bpp, psnr, seen = np.mean([estimate(model, x, level) for x in pictures], 0).tolist()
        rows.append({"level": level, "bpp": round(bpp, 4), "psnr_db": round(psnr, 3), "ssimulacra2": round(seen, 2)})
    return rows


def _to_input(picture: Tensor) -> Tensor:
    height, width = (length - length % PATCH_STEP_PX for length in picture.shape[:2])
    return picture[:height, :width].permute(2, 0, 1)[None].float() / 255


@torch.inference_mode()
def reconstructions(model: TrainingModel, x: Tensor) -> Tensor:
    """Pictures x [N, 3, H, W] in 0..1 next to their reconstructions at three quality levels: [N, 3, H, 4 W] on the CPU.

    Leaves the model in eval mode.
    """
    model.eval()
    shown = [x, *(model(x, torch.full((len(x),), level, device=x.device)).pictures for level in SHOWN_LEVELS)]
    return torch.cat(shown, 3).clamp(0, 1).cpu()
