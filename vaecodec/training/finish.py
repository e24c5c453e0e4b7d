"""The last stage of training: trains only the deblocking filter against a visible grid, at little squared error."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaecodec.training.data import Pictures
from vaecodec.training.degrade import Noise
from vaecodec.training.distortion import LIKELY_RATIOS, border_ratio
from vaecodec.training.objective import TrainingModel

CROPS = 1000
STEPS = 200
BATCH = 16
LEARNING_RATE = 2e-3
LOWEST_LEVEL = 0.05  # lower qualities keep the grid of the main stage
LIVELY_STEP = 2 / 255  # minimum mean step between neighbouring pixels: in flat crops, noise outweighs the grid
COLLECTING = 0.3  # share of the time that collecting crops takes
DRAWS = 4  # attempts per crop, because all pictures may be flat
GRID_PRICE = 2.0  # correcting a ratio by 1 % may cost up to 2 % of squared error


class _Crop(NamedTuple):
    """A crop [1, 3, H, W] in 0..1, the filter's inputs for it, and its squared error before the filter."""

    original: Tensor
    pictures: Tensor
    features: Tensor
    mse: Tensor


def remove_grid(
    model: TrainingModel, pictures: Pictures, rng: np.random.Generator, *, patch_px: int, steps: int = STEPS,
    noise: Noise | None = None, watch: Callable[[float], None] = lambda progress: None,
) -> None:  # fmt: skip
    """Trains only the deblocking filter, with a loss that penalizes the grid.

    In the main stage the grid penalty is one of many gradients. Here only the filter's parameters change, so rates stay
    exactly the same. Leaves the model in eval mode.

    Args:
        model: on any device.
        pictures: source of the crops.
        rng: draws crops and qualities.
        patch_px: side of the crops, a multiple of 64 and smaller than the pictures. In a picture as large as a crop,
            the blocks of its original codec align with ours, and the filter would learn to imitate them.
        steps: number of steps, with five crops per step, up to the default.
        noise: degradation of the model's input, if it is to restore.
        watch: called with the progress, 0..1.
    """
    model.eval()
    if steps == 0:
        return
    count = min(CROPS, max(BATCH, 5 * steps))
    crops = list[_Crop]()
    for crop in _collect(model, pictures, rng, patch_px, count, noise):
        crops.append(crop)
        watch(COLLECTING * len(crops) / count)
    filter_ = model.vae.synthesis.deblocking
    optimizer = torch.optim.Adam(filter_.parameters(), LEARNING_RATE)
    filter_.train()  # otherwise it would overwrite its input
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.zero_grad()
        for number in rng.choice(len(crops), BATCH, replace=False):
            (_loss(filter_, crops[number]) / BATCH).backward()
        optimizer.step()
        watch(COLLECTING + (1 - COLLECTING) * (step + 1) / steps)
    optimizer.zero_grad()
    model.eval()


def _loss(filter_: torch.nn.Module, crop: _Crop) -> Tensor:
    shown = filter_(crop.pictures, crop.features, torch.ones(1, device=crop.pictures.device))
    excess = border_ratio(shown) / border_ratio(crop.original).clamp(*LIKELY_RATIOS) - 1
    return (shown - crop.original).square().mean() / crop.mse + GRID_PRICE * excess.mean().abs()


def _lively_crop(pictures: Pictures, rng: np.random.Generator, patch_px: int) -> Tensor:
    """A crop [1, 3, H, W] that is not flat, if one is found within `DRAWS` attempts."""
    for _ in range(DRAWS):
        x = pictures.batch(rng, 1, patch_px)
        if min(float(x.diff(dim=dim).abs().mean()) for dim in (2, 3)) >= LIVELY_STEP:
            break
    return x


@torch.no_grad()
def _collect(
    model: TrainingModel, pictures: Pictures, rng: np.random.Generator, patch_px: int, count: int, noise: Noise | None
) -> Iterator[_Crop]:
    given = list[tuple[Tensor, Tensor]]()
    filter_ = model.vae.synthesis.deblocking
    device = next(filter_.parameters()).device
    hook = filter_.register_forward_pre_hook(lambda _, inputs: given.append((inputs[0].clone(), inputs[1].float())))
    try:
        for _ in range(count):
            x = _lively_crop(pictures, rng, patch_px).to(device)
            seen = noise.apply(x) if noise else x
            model(seen, torch.tensor([rng.uniform(LOWEST_LEVEL, 1)], dtype=torch.float32, device=device))
            shown, features = given.pop()
            yield _Crop(x, shown, features, (shown - x).square().mean().clamp_min(1e-6))
    finally:
        hook.remove()
