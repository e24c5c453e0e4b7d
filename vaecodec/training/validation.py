"""Estimated rate and PSNR of a training model on a folder of pictures."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaecodec.training.objective import TrainingModel

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@torch.inference_mode()
def validate(model: TrainingModel, folder: Path, *, images: int = 8) -> list[dict[str, float]]:
    """Mean bpp and mean PSNR in dB at six quality levels, with rounding instead of noise."""
    model.eval()
    device = next(model.parameters()).device
    rows = []
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())[:images]]
    for level in LEVELS:
        scores = []
        for picture in pictures:
            x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(device).float() / 255
            outcome = model(x.contiguous(memory_format=torch.channels_last), torch.tensor([level], device=device))
            bpp = float(outcome.latent_bits + outcome.hyper_bits) / (x.shape[2] * x.shape[3])
            error = (outcome.pictures.clamp(0, 1) * 255).round() - x * 255
            scores.append((bpp, 20 * math.log10(255) - 10 * math.log10(float(error.square().mean()))))
        bpp, psnr_db = np.mean(scores, 0)
        rows.append({"level": level, "bpp": round(float(bpp), 4), "psnr_db": round(float(psnr_db), 3)})
    model.train()
    return rows
