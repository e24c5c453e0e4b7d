"""The architecture as plain data: widths, strides, qualities, tensors of a weights file, and the built-in files."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

LATENT_STRIDE = 16  # pixels per latent position
HYPER_STRIDE = 4  # latent positions per hyper-latent position

# Contexts of hyper-latents (`coding.hyper_contexts`).
HYPER_BANDS = 10  # bands of ten qualities
MEAN_LIMIT = 3  # largest magnitude of the neighbours' mean, in halves
ACTIVITIES, ACTIVITY_STEP = 8, 3  # classes of activity, and the number of non-zero channels per class
HYPER_CONTEXTS = HYPER_BANDS + 2 * ACTIVITIES * (2 * MEAN_LIMIT + 1)
GRID = 4  # pixels per position of the fine grid, on which analysis starts and pictures are rendered
BASE_SHARE = 8  # one in this many latent channels belongs to the base, which is all that a preview at 1/8 needs
REACH_PX = 4  # pixels that deblocking changes on either side of a border between latents
CUTS_IN_ALL = 64  # unit of the deblocking cut: a file omits so many 64ths of the filter
PREVIEW_SCALES = (2, 4, 8)

# Tune: the purpose of the weights, and the SHA-256 of their file.
BUILT_IN = {
    "eye": "6332409e96fa955f7518d52fa035299fef9f063a047ea3356e88445cf0e82c28",
    "psnr": "ad9797d3fa9595ae8f352f26225f2f2b4e3455d161ae970f6d17974d1b52868a",
}
DEFAULT_TUNE = next(iter(BUILT_IN))

QUALITIES = range(1, 101)

SCALE_ROWS = 64
SCALE_MIN, SCALE_MAX = 0.11, 128.0
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_ROWS - 1)
SCALE_TABLE = tuple(SCALE_MIN * math.exp(LOG_SCALE_STEP * row) for row in range(SCALE_ROWS))
"""Standard deviation of each table index of the latents, log-spaced from 0.11 to 128 quantizer steps."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """Widths and depths of one network; a weights file contains its own (the defaults are the shipped model).

    Attributes:
        latent_channels: M, of y.
        hyper_channels: Z, of z.
        quality_anchors: points of the gain curves, equally spaced in quality.
    """

    latent_channels: int = 384
    hyper_channels: int = 96
    analysis_channels: int = 384
    analysis_blocks: int = 5
    synthesis_channels: int = 192
    synthesis_blocks: int = 3
    synthesis_gate_channels: int = 32
    correction_channels: int = 32
    render_channels: int = 48
    render_hidden_channels: int = 64
    condition_channels: int = 16
    prior_channels: int = 128
    scale_channels: int = 128
    quality_anchors: int = 12

    @functools.cached_property
    def base_channels(self) -> int:
        """Number of latent channels that a preview at 1/8 needs: see `coding.groups`."""
        return self.latent_channels // BASE_SHARE

    @functools.cached_property
    def analysis_margin(self) -> int:
        """Latents around a region that analysis sees: one per block's 3x3 kernel, and one for the 1/4 grid."""
        return self.analysis_blocks + 1

    @functools.cached_property
    def synthesis_margin(self) -> int:
        """Latents around a region that synthesis sees."""
        return self.synthesis_blocks + 1


@functools.lru_cache(maxsize=64)
def built_in_tune(model_id: bytes) -> str | None:
    """The tune of the built-in weights with this model id; None if there are none."""
    return next((tune for tune, sha256 in BUILT_IN.items() if sha256.startswith(model_id.hex())), None)


def float_shapes(arch: Architecture) -> dict[str, Shape]:
    """Name and shape of every float tensor of a weights file: the parameters of the transforms and gains."""
    return dict(_floats(arch))


def integer_shapes(arch: Architecture) -> dict[str, tuple[str, Shape]]:
    """Name, dtype and shape of every integer tensor of a weights file: scale network and tables; -1 is any length."""
    width, latents, hyper = arch.scale_channels, arch.latent_channels, arch.hyper_channels
    layers = [(width, hyper, 3, 3), (2 * width, width, 1, 1), (width, width // 2, 3, 3), (4 * latents, width, 1, 1)]
    found: dict[str, tuple[str, Shape]] = {
        "scales.shift": ("int32", (len(layers),)),
        "scales.dequantize": ("int32", (len(QUALITIES), hyper)),
        "scales.row_offset": ("int32", (len(QUALITIES), latents)),
    }
    for number, shape in enumerate(layers):
        found[f"scales.{number}.weight"] = ("int16", shape)
        found[f"scales.{number}.bias"] = ("int64", shape[:1])
    found["hyper_indexes"] = ("uint8", (HYPER_CONTEXTS, hyper))
    for name, groups, rows in (("hyper_tables", 1, -1), ("latent_tables", 2, SCALE_ROWS)):
        found[f"{name}.radius"] = ("int32", (groups, rows))
        found[f"{name}.counts"] = ("int32", (groups, rows, -1))
        found[f"{name}.first_coded_row"] = ("int32", (groups,))
    return found


def _floats(arch: Architecture) -> Iterator[tuple[str, Shape]]:
    patch, shuffle = 3 * LATENT_STRIDE**2, (LATENT_STRIDE // GRID) ** 2
    latents, anchors, prior = arch.latent_channels, arch.quality_anchors, arch.prior_channels
    width, body, render = arch.analysis_channels, arch.synthesis_channels, arch.render_channels
    hidden = arch.render_hidden_channels

    yield from _block("analysis.local", 3 * GRID**2)
    yield from _conv("analysis.patch_in", patch, width)
    for number in range(arch.analysis_blocks):
        yield from _block(f"analysis.blocks.{number}", width)
    yield "analysis.gain.log_gain", (anchors, width)
    yield from _conv("analysis.latent_out", width, latents)
    yield "analysis.detail.weight", (latents, patch, 1, 1)

    yield from _conv("synthesis.body_in", latents, body)
    for number in range(arch.synthesis_blocks):
        yield from _block(f"synthesis.blocks.{number}", body, gate=arch.synthesis_gate_channels)
    yield "synthesis.gain.log_gain", (anchors, body)
    yield from _conv("synthesis.content", latents, shuffle * render)
    yield "synthesis.correction_in.weight", (arch.correction_channels, body, 1, 1)
    yield "synthesis.correction.weight", (shuffle * render, arch.correction_channels, 1, 1)
    yield from _conv("synthesis.condition", body, shuffle * arch.condition_channels)
    yield from _conv("synthesis.modulation", arch.condition_channels, 2 * render)
    yield from _depthwise("synthesis.overlap", render, 3)
    yield from _conv("synthesis.render_in", render, hidden)
    yield from _depthwise("synthesis.render_space", hidden, 3)
    yield from _conv("synthesis.render_out", hidden, render)
    yield from _conv("synthesis.pixels_out", render, 3 * GRID**2)
    yield from _conv("synthesis.deblocking.bound", body, 4 * 3 * (LATENT_STRIDE // GRID))
    yield "synthesis.deblocking.ramp", (REACH_PX,)
    yield "synthesis.deblocking.slope", ()

    yield from _conv("hyper_analysis.0", latents, prior)
    yield from _block("hyper_analysis.1", prior)
    yield from _conv("hyper_analysis.3", 4 * prior, prior)
    yield from _block("hyper_analysis.4", prior)
    yield from _conv("hyper_analysis.6", 4 * prior, arch.hyper_channels)

    yield from _conv("hyper_synthesis.body.0", arch.hyper_channels, 4 * prior)
    yield from _block("hyper_synthesis.body.2", prior)
    yield from _conv("hyper_synthesis.body.3", prior, 4 * prior)
    yield from _conv("hyper_synthesis.mean_out", prior, latents)

    yield from _conv("context.latent_in", latents, prior)
    yield "context.feature_in.weight", (prior, prior, 1, 1)
    yield from _block("context.body.0", prior, kernel=5)
    yield from _block("context.body.1", prior)
    yield "context.mean_out.weight", (latents, prior, 1, 1)

    yield "latent_gain.log_gain", (anchors, latents)
    yield "latent_restore.log_gain", (anchors, latents)
    yield "hyper_gain.log_gain", (anchors, arch.hyper_channels)
    yield "preview.whole", (latents + 1, 3 * (LATENT_STRIDE // PREVIEW_SCALES[0]) ** 2)
    yield "preview.base", (arch.base_channels + 1, 3 * (LATENT_STRIDE // PREVIEW_SCALES[-1]) ** 2)


def _conv(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, 1, 1)
    yield f"{name}.bias", (outputs,)


def _depthwise(name: str, channels: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (channels, 1, kernel, kernel)
    yield f"{name}.bias", (channels,)


def _block(name: str, channels: int, kernel: int = 3, gate: int | None = None) -> Iterator[tuple[str, Shape]]:
    gate = gate or channels
    yield from _conv(f"{name}.mix_in", channels, channels)
    yield from _depthwise(f"{name}.mix_space", channels, kernel)
    yield f"{name}.mix_out.weight", (channels, channels, 1, 1)
    yield from _conv(f"{name}.gate_in", channels, 2 * gate)
    yield f"{name}.gate_out.weight", (channels, gate, 1, 1)
