"""Laws of the float transforms: what is computed in a quicker way is what the plain way gives."""

import pytest
import torch
from torch import nn

from vaecodec.model.architecture import Architecture
from vaecodec.model.torch_engine import network
from vaecodec.model.torch_engine.network import AnalysisTransform, ResidualDepthwise, SynthesisTransform


def shaken(module: nn.Module) -> nn.Module:
    """The module with all parameters random, also those that start at zero, so that none is out of play."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module.eval()


def test_the_identity_is_a_tap_of_the_kernel() -> None:
    """In float32 and under autocast: x plus the convolution of x."""
    layer = shaken(ResidualDepthwise(6))
    x = torch.randn(2, 6, 9, 7)
    expected = x + nn.functional.conv2d(x, layer.weight, layer.bias, padding=1, groups=6)
    torch.testing.assert_close(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float32
        torch.testing.assert_close(layer(x), expected, rtol=0.02, atol=0.02)


ARCH = Architecture(
    latent_channels=8, analysis_channels=8, analysis_blocks=2, synthesis_channels=8, synthesis_blocks=1,
    render_channels=8, condition_channels=4, quality_anchors=2,
)  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize(
    ("transform", "shape"), [(SynthesisTransform, (1, 8, 5, 3)), (AnalysisTransform, (1, 3, 80, 48))]
)
def test_bands_leave_no_seam(
    transform: type[nn.Module], shape: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bands of few rows or at once, the transforms give the same."""
    module = shaken(transform(ARCH))
    x, level = torch.randn(shape), torch.tensor([0.4])
    with torch.inference_mode():
        whole = module(x, level)
        monkeypatch.setattr(network, "BAND_POSITIONS", rows * 12)
        in_bands = module(x, level)
        torch.testing.assert_close(module.train()(x, level), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(in_bands, whole, rtol=1e-5, atol=1e-5)
