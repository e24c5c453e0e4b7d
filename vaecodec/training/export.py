"""Exports a trained model to a weights file: integer scale network and tables, calibrated on training pictures.

Nothing else in the project builds tables.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.entropy.tables import ESCAPE_LIMIT, MAX_RADIUS, Tables, from_pmfs
from vaecodec.model import coding, weights
from vaecodec.model.architecture import LOG_SCALE_STEP, QUALITIES, SCALE_MIN, SCALE_TABLE
from vaecodec.model.coding import Coded, quality_level
from vaecodec.model.scales import ACTIVATION_LIMIT, ROW_FRACTION_BITS, IntegerLayer, IntegerScales
from vaecodec.model.torch_engine.engine import ExactScales, TorchEngine
from vaecodec.training import previews
from vaecodec.training.data import Pictures
from vaecodec.training.objective import TrainingModel

DEQUANTIZE_UNIT = 4096  # fixed-point unit of dequantized hyper-latents
WEIGHT_LIMIT = 32767
HEADROOM = 1.5  # hidden activations may exceed the calibration maximum by this factor before they are clamped
HYPER_RADIUS = 63
QUALITY_BANDS = 10
LATENT_PRIOR_COUNT, HYPER_PRIOR_COUNT = 4096, 64  # weight of the model's density, in symbols
VALUES = 2 * ESCAPE_LIMIT + 1


@dataclass(frozen=True)
class Calibration:
    """How much to measure for the tables: crops of `patch_px`, each at `qualities` random qualities.

    Table indexes whose share of non-zero symbols is below `skip_below` are not coded. On validation crops, skipping all
    below 6 took 0.01 % less rate than all below 4; below 8 took 0.05 % more, below 10 0.5 % more. Networks that have
    hardly learned to predict zeros need a smaller share.
    """

    crops: int = 160
    qualities: int = 6
    patch_px: int = 256
    seed: int = 7
    skip_below: float = 0.015


def export(
    model: TrainingModel, pictures: Pictures, path: Path, calibration: Calibration = Calibration(), *,
    restores: bool = False,
) -> str:  # fmt: skip
    """Write a weights file from a trained model, which is not changed; returns the file's SHA-256 in hex.

    Args:
        model: the trained model.
        pictures: pictures to measure on.
        path: path of the weights file.
        calibration: how much to measure.
        restores: as in `weights.Weights`.
    """
    model = copy.deepcopy(model).cpu().eval()
    for parameter in model.vae.parameters():  # measure with the precision that is stored
        parameter.data = parameter.data.half().float()
    with torch.inference_mode():
        crops = _crops(pictures, calibration)
        nothing = _latent_tables(np.zeros((len(SCALE_TABLE), VALUES), np.int64), calibration.skip_below)
        flat = (_flat_tables(model.vae.arch.hyper_channels),) * QUALITY_BANDS, (nothing,) * 2
        engine = _engine(model, _integer_scales(model, crops), *flat)
        previews.fit(engine, crops)
        previews.reorder_latents(model, previews.base_first(engine, crops))
        scales = _integer_scales(model, crops)
        counts = _measure(_engine(model, scales, *flat), crops, calibration)
        hyper = tuple(_hyper_tables(model, counts.hyper[band]) for band in range(QUALITY_BANDS))
        latent = tuple(_latent_tables(counts.latent[n], calibration.skip_below) for n in range(2))
        previews.fit(_engine(model, scales, hyper, latent), crops)
    floats = {name: values.half().numpy() for name, values in model.vae.state_dict().items()}
    return weights.save(path, weights.Weights(model.vae.arch, floats, scales, hyper, latent, restores))


def _engine(
    model: TrainingModel, scales: IntegerScales, hyper: tuple[Tables, ...], latent: tuple[Tables, ...]
) -> TorchEngine:
    """An engine that runs the model as it will be after export."""
    device = torch.device("cpu")
    return TorchEngine(
        model.vae.requires_grad_(False), ExactScales(scales, device), hyper_tables=hyper, latent_tables=latent,
        model_id=b"", device=device,
    )  # fmt: skip


class _Counts(NamedTuple):
    """Counts of every value from -2047 to 2047, by band and channel of z, and by pass and table index of y."""

    hyper: NDArray[np.int64]
    latent: NDArray[np.int64]


def _crops(pictures: Pictures, calibration: Calibration) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(calibration.seed)
    crops = (pictures.crop(rng, calibration.patch_px) for _ in range(calibration.crops))
    return [crop.permute(1, 2, 0).contiguous().numpy() for crop in crops]


def _hyper_latents(model: TrainingModel, crop: NDArray[np.uint8], level: Tensor) -> Tensor:
    """Dequantized hyper-latents [1, Z, h, w] of a crop."""
    x = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    gain = torch.exp(model.vae.hyper_gain(level))
    return torch.round(model.vae.hyper_analysis(model.vae.analysis(x, level)) * gain) / gain


def _integer_scales(model: TrainingModel, crops: Sequence[NDArray[np.uint8]]) -> IntegerScales:
    """The float scale network in integers: 16-bit weights, 12-bit activations, one power of two per layer."""
    vae, layers = model.vae, model.scale_network.layers
    peaks = torch.zeros(len(layers) - 1)
    hooks = [
        layer.register_forward_hook(lambda _, __, out, n=n: peaks.__setitem__(n, max(peaks[n], out.max())))
        for n, layer in enumerate(layers[:-1])
    ]
    for number, crop in enumerate(crops):
        level = torch.tensor([number / max(1, len(crops) - 1)])
        model.scale_network(_hyper_latents(model, crop, level))
    for hook in hooks:
        hook.remove()
    units = [DEQUANTIZE_UNIT, *(ACTIVATION_LIMIT / (HEADROOM * peaks.clamp_min(1e-3))).tolist()]
    units.append(2**ROW_FRACTION_BITS / LOG_SCALE_STEP)
    integer_layers = tuple(
        _integer_layer(layer.weight.double(), layer.bias.double(), units[n], units[n + 1])
        for n, layer in enumerate(layers)
    )
    level = torch.tensor([quality_level(quality) for quality in QUALITIES], dtype=torch.float32)
    dequantize = torch.exp(-vae.hyper_gain(level)[:, :, 0, 0]) * DEQUANTIZE_UNIT
    offset = (vae.latent_gain(level)[:, :, 0, 0] - np.log(SCALE_MIN)) / LOG_SCALE_STEP * 2**ROW_FRACTION_BITS
    scales = IntegerScales(
        integer_layers, dequantize.round().to(torch.int32).numpy(), offset.round().to(torch.int32).numpy()
    )
    scales.prove_exact()
    return scales


def _integer_layer(weight: Tensor, bias: Tensor, unit_in: float, unit_out: float) -> IntegerLayer:
    """Integers whose shifted sum is the layer's output in `unit_out`, with the largest shift for 16-bit weights."""
    shift = int(np.floor(np.log2(WEIGHT_LIMIT * unit_in / (unit_out * float(weight.abs().max())))))
    shift = max(1, min(shift, 40))
    scale = 2.0**shift * unit_out
    return IntegerLayer(
        (weight * scale / unit_in).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int16).numpy(),
        (bias * scale).round().to(torch.int64).numpy(), shift,
    )  # fmt: skip


def _measure(engine: TorchEngine, crops: Sequence[NDArray[np.uint8]], calibration: Calibration) -> _Counts:
    """Encodes the crops at random qualities and counts the symbols."""
    arch = engine.arch
    counts = _Counts(
        np.zeros((QUALITY_BANDS, arch.hyper_channels, VALUES), np.int64),
        np.zeros((2, len(SCALE_TABLE), VALUES), np.int64),
    )
    rng = np.random.default_rng(calibration.seed)
    for crop in crops:
        for quality in rng.integers(1, 101, calibration.qualities).tolist():
            y = engine.analyze(crop, quality)
            symbols, _ = coding.quantize(engine, y, quality)
            hyper, *groups = coding.coded(engine, symbols, y.shape[1], y.shape[2], quality)
            _count(counts.hyper[(quality - 1) * QUALITY_BANDS // 100], hyper)
            for group, coded in zip(coding.groups(*y.shape[1:], arch.latent_channels), groups, strict=True):
                _count(counts.latent[group.number], coded)
    return counts


def _count(target: NDArray[np.int64], coded: Coded) -> None:
    place = coded.indexes.astype(np.int64) * VALUES + coded.symbols + ESCAPE_LIMIT
    target += np.bincount(place, minlength=target.size).reshape(target.shape)


def _flat_tables(rows: int) -> Tables:
    return from_pmfs([np.ones(3)] * rows, [1.0] * rows)


def _mix(measured: NDArray[np.int64], density: NDArray[np.float64], prior: float) -> tuple[NDArray[np.float64], float]:
    """Probabilities of -R..R and of the escape: measured counts [4095] with the density [2 R + 1] as a prior."""
    radius = len(density) // 2
    inside = measured[ESCAPE_LIMIT - radius : ESCAPE_LIMIT + radius + 1]
    outside = measured.sum() - inside.sum()
    pmf = inside + prior * density
    return pmf, float(outside + prior * max(1 - density.sum(), 1e-6))


def _hyper_tables(model: TrainingModel, measured: NDArray[np.int64]) -> Tables:
    values = torch.arange(-HYPER_RADIUS, HYPER_RADIUS + 1, dtype=torch.float32)
    channels = model.vae.arch.hyper_channels
    grid = values.expand(1, channels, 1, -1)
    density = model.hyper_prior.probability(grid)[0, :, 0].double().numpy()
    rows = [_mix(measured[channel], density[channel], HYPER_PRIOR_COUNT) for channel in range(channels)]
    return from_pmfs([pmf for pmf, _ in rows], [escape for _, escape in rows])


def _latent_tables(measured: NDArray[np.int64], skip_below: float) -> Tables:
    rows, first_coded_row = [], 0
    for row, scale in enumerate(SCALE_TABLE):
        radius = min(MAX_RADIUS, int(np.ceil(8 * scale)) + 2)
        edges = torch.arange(-radius, radius + 2, dtype=torch.float64) - 0.5
        density = torch.special.ndtr(edges / scale).diff().numpy()
        pmf, escape = _mix(measured[row], density, LATENT_PRIOR_COUNT)
        if row == first_coded_row and 1 - pmf[radius] / (pmf.sum() + escape) < skip_below:
            first_coded_row += 1
        rows.append((pmf, escape))
    return from_pmfs([pmf for pmf, _ in rows], [escape for _, escape in rows], first_coded_row=first_coded_row)
