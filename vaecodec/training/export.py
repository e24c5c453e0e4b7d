"""Exports a trained model to a weights file: integer scale network and tables, calibrated on training pictures.

Nothing else in the project builds tables.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.entropy.tables import ESCAPE_LIMIT, MAX_RADIUS, Tables, from_pmfs
from vaecodec.model import coding, weights
from vaecodec.model.architecture import HYPER_CONTEXTS, LOG_SCALE_STEP, QUALITIES, SCALE_MIN, SCALE_TABLE
from vaecodec.model.coding import quality_level
from vaecodec.model.scales import ACTIVATION_LIMIT, ROW_FRACTION_BITS, IntegerLayer, IntegerScales
from vaecodec.model.torch_engine.engine import ExactScales, TorchEngine
from vaecodec.training import previews
from vaecodec.training.data import Pictures
from vaecodec.training.objective import TrainingModel

DEQUANTIZE_UNIT = 4096  # fixed-point unit of dequantized hyper-latents
WEIGHT_LIMIT = 32767
HEADROOM = 1.5  # hidden activations may exceed the calibration maximum by this factor before they are clamped
HYPER_RADIUS = 63
HYPER_ROWS = 240  # tables, shared by all contexts of all channels
CLUSTERING_ROUNDS = 30
LATENT_PRIOR_COUNT, HYPER_PRIOR_COUNT = 4096, 64  # weight of the model's density, in symbols
CHANNEL_COUNT, OWN_COUNT = 12, 3  # weight, in symbols, of a channel's distribution and of that in one context
VALUES = 2 * ESCAPE_LIMIT + 1


@dataclass(frozen=True)
class Calibration:
    """How much to measure for the tables: crops of `patch_px`, each at `qualities` random qualities.

    Contexts of hyper-latents need more crops: `hyper_crops`, of which only the analysis is computed.

    Table indexes whose share of non-zero symbols is below `skip_below` are not coded. On validation crops, skipping all
    below 6 took 0.01 % less rate than all below 4; below 8 took 0.05 % more, below 10 0.5 % more. Networks that have
    hardly learned to predict zeros need a smaller share.
    """

    crops: int = 160
    hyper_crops: int = 1000
    qualities: int = 6
    patch_px: int = 256
    seed: int = 7
    skip_below: float = 0.015


class HyperTables(NamedTuple):
    """Tables of the hyper-latents, and the index of the table for each context and channel [HYPER_CONTEXTS, Z]."""

    tables: Tables
    indexes: NDArray[np.uint8]


def export(
    model: TrainingModel, pictures: Pictures, path: Path, calibration: Calibration = Calibration(), *,
    eye: float = 1.0, restores: bool = False,
) -> str:  # fmt: skip
    """Write a weights file from a trained model, which is not changed; returns the file's SHA-256 in hex.

    Args:
        model: the trained model.
        pictures: pictures to measure on.
        path: path of the weights file.
        calibration: how much to measure.
        eye: as in `weights.Weights`.
        restores: as in `weights.Weights`.
    """
    model = copy.deepcopy(model).cpu().eval()
    for parameter in model.vae.parameters():  # measure with the precision that is stored
        parameter.data = parameter.data.half().float()
    with torch.inference_mode():
        crops = _crops(pictures, calibration, calibration.crops)
        nothing = _latent_tables(np.zeros((len(SCALE_TABLE), VALUES), np.int64), calibration.skip_below)
        flat = HyperTables(_flat_tables(1), np.zeros((HYPER_CONTEXTS, model.vae.arch.hyper_channels), np.uint8))
        engine = _engine(model, _integer_scales(model, crops), flat, (nothing,) * 2)
        previews.fit(engine, crops)
        previews.reorder_latents(model, previews.base_first(engine, crops))
        scales = _integer_scales(model, crops)
        engine = _engine(model, scales, flat, (nothing,) * 2)
        counts = _measure(engine, crops, calibration)
        latent = tuple(_latent_tables(counts[n], calibration.skip_below) for n in range(2))
        more = _crops(pictures, calibration, calibration.hyper_crops)
        hyper = _hyper_tables(model, _measure_hyper(engine, more, calibration))
        previews.fit(_engine(model, scales, hyper, latent), crops)
    floats = {name: values.half().numpy() for name, values in model.vae.state_dict().items()}
    return weights.save(path, weights.Weights(model.vae.arch, floats, scales, *hyper, latent, eye, restores))


def _engine(model: TrainingModel, scales: IntegerScales, hyper: HyperTables, latent: tuple[Tables, ...]) -> TorchEngine:
    """An engine that runs the model as it will be after export."""
    device = torch.device("cpu")
    return TorchEngine(
        model.vae.requires_grad_(False), ExactScales(scales, device), hyper_tables=hyper.tables,
        hyper_indexes=hyper.indexes, latent_tables=latent, model_id=b"", device=device,
    )  # fmt: skip


def _crops(pictures: Pictures, calibration: Calibration, count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(calibration.seed)
    crops = (pictures.crop(rng, calibration.patch_px) for _ in range(count))
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


def _measure(engine: TorchEngine, crops: Sequence[NDArray[np.uint8]], calibration: Calibration) -> NDArray[np.int64]:
    """Encodes the crops at random qualities; returns counts of values, by pass and table index of y [2, rows, 4095]."""
    counts = np.zeros((2, len(SCALE_TABLE), VALUES), np.int64)
    for y, quality in _analyzed(engine, crops, calibration):
        symbols, _ = coding.quantize(engine, y, quality)
        groups = coding.groups(*y.shape[1:], engine.arch.latent_channels)
        coded = list(coding.coded(engine, symbols, y.shape[1], y.shape[2], quality))[coding.SIDE_PASSES :]
        for group, of_group in zip(groups, coded, strict=True):
            _count(counts[group.number], of_group.indexes, of_group.symbols)
    return counts


def _measure_hyper(
    engine: TorchEngine, crops: Sequence[NDArray[np.uint8]], calibration: Calibration
) -> NDArray[np.int64]:
    """Counts of each value of the hyper-latents, by context and channel [HYPER_CONTEXTS, Z, 2 R + 2].

    The last one counts all values beyond the radius R.
    """
    counts = np.zeros((HYPER_CONTEXTS, engine.arch.hyper_channels, 2 * HYPER_RADIUS + 2), np.int64)
    for y, quality in _analyzed(engine, crops, calibration):
        z = coding.nearest(engine.hyper_analyze(y, quality)[1]).astype(np.int16)
        padded = np.concatenate([z, np.zeros_like(z[:1])])
        inside = np.where(np.abs(z) <= HYPER_RADIUS, z, HYPER_RADIUS + 1) + HYPER_RADIUS
        for of in coding.hyper_passes(*coding.hyper_size(*y.shape[1:])):
            places = coding.hyper_contexts(padded, of, quality), np.arange(z.shape[1]), inside[of.positions]
            np.add.at(counts, places, 1)
    return counts


def _analyzed(
    engine: TorchEngine, crops: Sequence[NDArray[np.uint8]], calibration: Calibration
) -> Iterator[tuple[Tensor, int]]:
    """Yields the latents of each crop at some random qualities, with the quality."""
    rng = np.random.default_rng(calibration.seed)
    for crop in crops:
        for quality in rng.integers(1, 101, calibration.qualities).tolist():
            yield engine.analyze(crop, quality), quality


def _count(target: NDArray[np.int64], indexes: NDArray[np.uint8], symbols: NDArray[np.integer]) -> None:
    place = indexes.astype(np.int64) * VALUES + symbols + ESCAPE_LIMIT
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


def _hyper_tables(model: TrainingModel, measured: NDArray[np.int64]) -> HyperTables:
    """Clusters the many contexts of all channels into a few tables that code the measured symbols in the fewest bits.

    Args:
        model: its density covers values that were not measured.
        measured: counts from `_measure_hyper`.
    """
    channels = model.vae.arch.hyper_channels
    values = torch.arange(-HYPER_RADIUS, HYPER_RADIUS + 1, dtype=torch.float32)
    density = model.hyper_prior.probability(values.expand(1, channels, 1, -1))[0, :, 0].double().numpy()
    density = np.append(density, 1 - density.sum(1, keepdims=True), 1).clip(1e-9)  # every value has a cost
    of_channel = _shares(measured.sum(0) + HYPER_PRIOR_COUNT * density)
    own = _shares(measured + CHANNEL_COUNT * of_channel)
    seen = (measured + OWN_COUNT * own).reshape(-1, measured.shape[2])
    own = own.reshape(seen.shape)
    # Lloyd's algorithm, from equal groups in the order of entropy.
    rows = min(HYPER_ROWS, len(own))
    index = np.empty(len(own), np.int64)
    index[np.argsort((own * -np.log2(own)).sum(1), kind="stable")] = np.arange(len(own)) * rows // len(own)
    for _ in range(CLUSTERING_ROUNDS):
        masses = np.full((rows, seen.shape[1]), 1e-3)
        np.add.at(masses, index, seen)
        last, index = index, (seen @ -np.log2(_shares(masses)).T).argmin(1)
    indexes = last.reshape(-1, channels).astype(np.uint8)
    return HyperTables(from_pmfs(list(masses[:, :-1]), masses[:, -1].tolist()), indexes)


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts / counts.sum(-1, keepdims=True)


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
