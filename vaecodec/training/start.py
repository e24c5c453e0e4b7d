"""The initial model of a run: random, a linear transform, a weights file, or the checkpoint of another run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaecodec.model import weights
from vaecodec.model.architecture import HYPER_BANDS, LOG_SCALE_STEP, Architecture
from vaecodec.model.scales import ROW_FRACTION_BITS, IntegerLayer
from vaecodec.model.torch_engine.network import Block
from vaecodec.model.weights import Weights
from vaecodec.training.bottleneck import Bottleneck
from vaecodec.training.data import Pictures
from vaecodec.training.errors import TrainingError
from vaecodec.training.export import DEQUANTIZE_UNIT
from vaecodec.training.klt import start_from_klt
from vaecodec.training.objective import TrainingModel
from vaecodec.training.priors import FactorizedPrior, hyper_prior_kind
from vaecodec.training.recipe import Recipe
from vaecodec.training.scale_network import ScaleNetwork

CHECKPOINT_KEYS = {"model", "average", "optimizer", "step", "elapsed_s"}
KLT_CROPS = 128
FIT_STEPS, FIT_LEARNING_RATE = 300, 0.05


def starting_model(recipe: Recipe, pictures: Pictures) -> TrainingModel:
    """The initial model for `recipe.init`, on the CPU.

    Raises:
        TrainingError: (INIT, CHECKPOINT) the file does not exist, cannot be used, or is deeper than the recipe says.
        VaecModelError: the weights file is damaged.
    """
    model = _initial(recipe, pictures)
    if recipe.analysis_blocks is not None:
        deepen(model, recipe.analysis_blocks)
    return model


def _initial(recipe: Recipe, pictures: Pictures) -> TrainingModel:
    if recipe.init in ("klt", "random"):
        model = TrainingModel(recipe.architecture, recipe.hyper_prior)
        if recipe.init == "klt":
            start_from_klt(model, pictures.batch(np.random.default_rng(recipe.seed), KLT_CROPS, recipe.patch_px))
        return model
    path = weights.built_in_path() if recipe.init == "default" else Path(recipe.init)
    if not path.is_file():
        raise TrainingError(f"init is {recipe.init!r}, must be klt, default, random or a file", code="INIT")
    if path.suffix == ".safetensors":
        return from_weights(weights.load(None if recipe.init == "default" else path), recipe.hyper_prior)
    return from_checkpoint(path)


def deepen(model: TrainingModel, blocks: int) -> None:
    """Adds blocks to the analysis that initially change nothing.

    Raises:
        TrainingError: (INIT) it has more blocks already.
    """
    vae, analysis = model.vae, model.vae.analysis
    old, width = list(analysis.blocks), vae.arch.analysis_channels
    if blocks < len(old):
        raise TrainingError(
            f"analysis_blocks is {blocks}, must be at least the {len(old)} of the start: blocks cannot be removed",
            code="INIT",
        )
    before, all_before = len(old) // 2 + 1, blocks // 2 + 1  # positions of the gain: no old block may change sides
    fresh = [Block(width, residual_gain=0.0) for _ in range(blocks - len(old))]
    front = old[:before] + fresh[: all_before - before]
    analysis.blocks = nn.ModuleList(front + old[before:] + fresh[all_before - before :])
    vae.arch = replace(vae.arch, analysis_blocks=blocks)


def from_checkpoint(path: Path) -> TrainingModel:
    """Loads the moving average of a run, from which its weights file is made.

    Raises:
        TrainingError: (CHECKPOINT) as `load_checkpoint` and `load_into`.
    """
    state = load_checkpoint(path)
    model = TrainingModel(architecture_of(state), hyper_prior_kind(state["average"]))
    load_into(model, state["average"], path)
    return model


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Loads what `Run.save` wrote: only tensors and numbers, on the CPU.

    Raises:
        TrainingError: (CHECKPOINT) the file cannot be read, or is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways
        raise TrainingError(f"cannot read the checkpoint {path}: {error}", code="CHECKPOINT") from error
    missing = CHECKPOINT_KEYS - (state.keys() if isinstance(state, dict) else set())
    if missing:
        raise TrainingError(f"{path} is not a checkpoint: it lacks {', '.join(sorted(missing))}", code="CHECKPOINT")
    return state


def architecture_of(state: dict[str, Any]) -> Architecture:
    """The architecture in a checkpoint; the first checkpoints have none, and use the default."""
    return Architecture(**state.get("architecture", {}))


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads a checkpoint's tensors into a model.

    Raises:
        TrainingError: (CHECKPOINT) the tensors belong to another network.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"{path} belongs to another network: {error}", code="CHECKPOINT") from error


def from_weights(stored: Weights, prior: str = "logistics") -> TrainingModel:
    """A trainable model from a weights file: the file's integers become floats again."""
    model = TrainingModel(stored.arch, prior)
    model.vae.load_state_dict({name: torch.tensor(values).float() for name, values in stored.floats.items()})
    _to_float(model.scale_network, stored.scales.layers)
    _fit_prior(model.hyper_prior, _mean_pmf(stored))
    return model


@torch.no_grad()
def _to_float(scale_network: ScaleNetwork, stored: tuple[IntegerLayer, ...]) -> None:
    """The inverse of the export's integer layers.

    The units of hidden values are not stored and do not affect the result. They are chosen so that the weights of all
    layers exceed those of a fresh layer by the same factor, because the learning rate is meant for fresh layers.
    """
    layers = list(zip(scale_network.layers, stored, strict=True))
    first, last = float(DEQUANTIZE_UNIT), 2**ROW_FRACTION_BITS / LOG_SCALE_STEP
    sizes = [_rms(_tensor(integers.weight)) / 2.0**integers.shift / _rms(layer.weight) for layer, integers in layers]
    factor = (first * math.prod(sizes) / last) ** (1 / len(layers))
    unit_in = first
    for (layer, integers), size in zip(layers, sizes, strict=True):
        unit_out = unit_in * size / factor
        layer.weight.copy_(_tensor(integers.weight).double() / 2.0**integers.shift * unit_in / unit_out)
        layer.bias.copy_(_tensor(integers.bias).double() / 2.0**integers.shift / unit_out)
        unit_in = unit_out


def _tensor(integers: NDArray[np.integer]) -> Tensor:
    return torch.tensor(integers)


def _rms(weight: Tensor) -> float:
    return max(float(weight.double().square().mean().sqrt()), 1e-9)


def _mean_pmf(stored: Weights) -> Tensor:
    """Probabilities of -R..R by channel [Z, 2 R + 1] without known neighbours, averaged over all qualities."""
    tables, rows = stored.hyper_tables, stored.hyper_indexes[:HYPER_BANDS]
    largest = int(tables.radius.max())
    pmfs = np.zeros((tables.rows, 2 * largest + 1))
    for row, radius in enumerate(tables.radius.tolist()):
        pmfs[row, largest - radius : largest + radius + 1] = tables.counts[row, : 2 * radius + 1]
    total = pmfs[rows].sum(0)
    return torch.from_numpy(total / total.sum(1, keepdims=True)).float()


def _fit_prior(prior: FactorizedPrior | Bottleneck, pmf: Tensor) -> None:
    """Fits the density to the tables [Z, 2 R + 1] that an export made from it and from measured symbols."""
    radius = pmf.shape[1] // 2
    values = torch.arange(-radius, radius + 1, dtype=torch.float32)
    if isinstance(prior, FactorizedPrior):
        _start_prior(prior, pmf, values)
    grid = values.expand(1, len(pmf), 1, -1)
    optimizer = torch.optim.Adam(prior.parameters(), FIT_LEARNING_RATE)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        (pmf * prior.bits(grid)[0, :, 0]).sum(1).mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def _start_prior(prior: FactorizedPrior, pmf: Tensor, values: Tensor) -> None:
    """Put the logistics where the mass of the tables [Z, n] is, at values [n]."""
    mean = pmf @ values
    deviation = ((values - mean[:, None]).square() * pmf).sum(1).sqrt().clamp_min(0.3)
    with torch.no_grad():
        prior.mean.copy_(mean + torch.linspace(-1, 1, len(prior.mean))[:, None] * deviation)
        prior.raw_scale.copy_(_softplus_inverse(deviation / 2).expand_as(prior.raw_scale))


def _softplus_inverse(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
