"""Laws of what the export finds for previews: an order of the latents that changes nothing else, and maps that fit."""

import copy

import numpy as np
import pytest
import torch
from conftest import picture

from vaecodec import Codec
from vaecodec.model import coding
from vaecodec.model.architecture import Architecture
from vaecodec.model.torch_engine.engine import TorchEngine
from vaecodec.training import previews
from vaecodec.training.objective import TrainingModel

pytestmark = pytest.mark.engines("torch")

CROPS = [picture(128, 128, seed=n) for n in range(6)]


@pytest.fixture(scope="module")
def model() -> TrainingModel:
    """A small model with random parameters, so that each latent does something of its own."""
    arch = Architecture(
        latent_channels=16, hyper_channels=4, analysis_channels=16, analysis_blocks=2, synthesis_channels=16,
        synthesis_blocks=1, render_channels=8, condition_channels=4, prior_channels=8, scale_channels=8,
        quality_anchors=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = TrainingModel(arch).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_another_order_of_the_latents_changes_nothing(model: TrainingModel) -> None:
    """Pictures and bits stay; and so do halves, which are predicted in different places."""
    x, level = torch.from_numpy(np.stack(CROPS)).permute(0, 3, 1, 2) / 255, torch.linspace(0, 1, len(CROPS))
    rng = np.random.default_rng(0)
    order = torch.from_numpy(np.concatenate([rng.permutation(8), 8 + rng.permutation(8)]))
    reordered = copy.deepcopy(model)
    previews.reorder_latents(reordered, order)
    with torch.inference_mode():
        y = model.vae.analysis(x, level)
        torch.testing.assert_close(reordered.vae.analysis(x, level), y[:, order])
        assert not torch.allclose(y[:, order], y, atol=0.1)
        for expected, found in zip(model(x, level), reordered(x, level), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_what_matters_most_to_previews_comes_first(tiny: Codec) -> None:
    """Without the symbols of the base a preview changes more than without as many others of its half."""
    engine, arch = tiny.engine, tiny.engine.arch
    order = previews.base_first(engine, CROPS)
    half = arch.latent_channels // 2
    assert sorted(order[:half].tolist()) == list(range(half))
    assert order[half:].tolist() == list(range(half, 2 * half))
    changes = [change_without(engine, order[part]) for part in (slice(4), slice(half - 4, half))]
    assert changes[0] > 2 * changes[1]


def change_without(engine: TorchEngine, channels: torch.Tensor) -> float:
    """Mean square of what previews at 1/4, of all latents, change by without the symbols of some."""
    total = 0.0
    for crop in CROPS[:3]:
        symbols, y_hat = coding.quantize(engine, engine.analyze(crop, 80), 80)
        y = symbols.y.copy()
        y[:, channels.numpy()] = 0
        without = coding.dequantize(engine, [symbols._replace(y=y)], 8, 8, [80])[0]
        total += float((engine.preview(without, 4).float() - engine.preview(y_hat, 4).float()).square().mean())
    return total


def test_an_export_leaves_the_base_first(tiny: Codec) -> None:
    """The order of exported weights is hardly improved by finding it again."""
    base = tiny.engine.arch.base_channels
    again = set(previews.base_first(tiny.engine, CROPS)[:base].tolist())
    assert len(again & set(range(base))) >= base // 2


def test_maps_fit_what_is_decoded(tiny: Codec) -> None:
    """They explain nearly all of the reduced pictures that they were fitted to."""
    engine = copy.copy(tiny.engine)
    engine.vae = copy.deepcopy(tiny.engine.vae)
    previews.fit(engine, CROPS)
    for each in previews._decoded(engine, CROPS):
        for known, scale in ((each.y_hat, 2), (each.y_hat, 4), (each.base, 8)):
            expected = torch.nn.functional.avg_pool2d(each.pixels, scale)
            error = (engine.vae.preview(known, scale) - expected).square().mean()
            assert error < 0.1 * expected.var((1, 2)).mean()
