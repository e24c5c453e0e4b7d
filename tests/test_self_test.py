"""The start-up self-test refuses every build that computes the scale network wrongly, and no other."""

from collections import Counter

import pytest
import torch
from exactness.builds import Build, builds

from vaecodec import Codec
from vaecodec.errors import VaecModelError
from vaecodec.model import weights
from vaecodec.model.torch_engine import engine
from vaecodec.model.torch_engine.engine import ExactScales, load

pytestmark = pytest.mark.engines("torch")

CPU = torch.device("cpu")


def test_there_are_a_hundred_builds() -> None:
    """No two of them have the same name."""
    assert len({build.name for build in builds()}) == len(builds()) == 100


@pytest.mark.parametrize("build", builds(), ids=lambda build: build.name)
def test_a_perturbed_build_is_refused(shipped: Codec, build: Build) -> None:
    """Every one of the hundred wrong builds is SELF_TEST."""
    scales = ExactScales(shipped.engine.scales.stored, CPU)
    build.alter(scales)
    with pytest.raises(VaecModelError) as caught:
        scales.self_test()
    assert caught.value.code == "SELF_TEST"


@pytest.mark.parametrize("codec", ["tiny", "shipped"])
def test_errors_that_rounding_repairs_are_accepted(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """A kernel whose sums are off by less than a half, as Winograd's may be, changes no table index and passes."""
    plain = engine.F.conv2d

    def sloppy(x: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        total = plain(x, *args, **options)
        return total + 0.4 * torch.sin(total) if x.dtype == torch.float64 else total

    scales = request.getfixturevalue(codec).engine.scales
    monkeypatch.setattr(engine.F, "conv2d", sloppy)
    scales.self_test()


def test_the_self_test_runs_whenever_weights_are_loaded(shipped: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device that weights are loaded for is tested once, before anything can be coded with it."""
    tested = []
    monkeypatch.setattr(ExactScales, "self_test", lambda scales: tested.append(scales._row_offset.device))
    load(weights.load(), "cpu")
    assert tested == [CPU]


def test_the_self_test_is_small(shipped: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading must not become slow by it: 200 million products at most in either arithmetic."""
    plain, products = engine.F.conv2d, Counter[torch.dtype]()

    def counted(x: torch.Tensor, weight: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        total = plain(x, weight, *args, **options)
        products[x.dtype] += total.numel() * weight[0].numel()
        return total

    monkeypatch.setattr(engine.F, "conv2d", counted)
    shipped.engine.self_test()
    assert products.keys() == {torch.int64, torch.float64}
    assert max(products.values()) < 200e6


def test_the_caller_s_settings_do_not_reach_the_self_test(shipped: Codec) -> None:
    """Autocast, another default dtype and another default device leave it as it is."""
    scales = shipped.engine.scales
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            scales.self_test()
    finally:
        torch.set_default_dtype(torch.float32)
