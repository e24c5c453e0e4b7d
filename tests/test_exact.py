"""The integer network gives the same table indexes whatever computes it."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import picture
from exactness import oracle

from vaecodec import Codec
from vaecodec.errors import VaecModelError
from vaecodec.model.coding import hyper_size
from vaecodec.model.scales import EXACT_LIMIT
from vaecodec.model.torch_engine.engine import ExactScales

pytestmark = pytest.mark.engines("torch")

CPU = torch.device("cpu")


def hyper_latents(channels: int, *, seed: int, batch: int = 1, limit: int = 40) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(-limit, limit + 1, (batch, channels, 3, 5))
    return torch.from_numpy(values).float()


@pytest.fixture(params=["tiny", "shipped"])
def scales(request: pytest.FixtureRequest) -> ExactScales:
    codec: Codec = request.getfixturevalue(request.param)
    return codec.engine.scales


def test_indexes_equal_int64_arithmetic(scales: ExactScales) -> None:
    """Integers carried in float64 give what int64 gives, for ordinary and for extreme hyper-latents."""
    oracle = ExactScales(scales.stored, CPU, torch.int64)
    channels = scales.stored.dequantize.shape[1]
    for seed, limit in ((0, 3), (1, 40), (2, 127), (3, 2047)):
        z = hyper_latents(channels, seed=seed, limit=limit)
        for quality in (1, 37, 100):
            assert torch.equal(scales.table_indexes(z, quality), oracle.table_indexes(z.to(torch.int64), quality))


def test_indexes_do_not_depend_on_batch_layout_or_autocast(scales: ExactScales) -> None:
    """One result alone, in a batch of three, channels last, and under the caller's autocast."""
    z = hyper_latents(scales.stored.dequantize.shape[1], seed=4, batch=3)
    batched = scales.table_indexes(z, 50)
    assert torch.equal(scales.table_indexes(z[1:2], 50), batched[1:2])
    assert torch.equal(scales.table_indexes(z.to(memory_format=torch.channels_last), 50), batched)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scales.table_indexes(z, 50), batched)


def test_indexes_use_the_table(shipped: Codec) -> None:
    """Table indexes of a picture are 0..63, spread over the table, and higher at higher quality."""
    engine, samples = shipped.engine, picture(128, 192)

    def indexes(quality: int) -> torch.Tensor:
        _, z = engine.hyper_analyze(engine.analyze(samples, quality), quality)
        grid = torch.from_numpy(z).round().view(*hyper_size(8, 12), -1).permute(2, 0, 1)
        return engine.scales.table_indexes(grid[None], quality).float()

    low, high = indexes(5), indexes(95)
    assert high.mean() > low.mean() + 5
    assert len(high.unique()) > 32
    assert low.min() >= 0
    assert high.max() < 64


@pytest.mark.slow
@pytest.mark.parametrize("layer", range(4))
def test_sums_equal_numpy_s_int64_and_stay_below_the_proved_bound(scales: ExactScales, layer: int) -> None:
    """On 1,000 random and extreme inputs a layer; the extreme ones come close to the bound, so it is no empty proof."""
    verdict = oracle.judge(scales, layer, 1000)
    assert verdict.inputs == 1000
    assert verdict.differences == 0
    assert 0.2 * verdict.proved_bound < verdict.largest_sum <= verdict.proved_bound < EXACT_LIMIT


def test_indexes_equal_numpy_s_int64(scales: ExactScales) -> None:
    """The whole network, as docs/format.md has it, written a second time."""
    for seed, limit, quality in ((0, 3, 1), (1, 40, 37), (2, 127, 100), (3, 2047, 64)):
        z = hyper_latents(scales.stored.dequantize.shape[1], seed=seed, limit=limit)
        expected = oracle.table_indexes(scales.stored, z.numpy().astype(np.int64), quality)
        assert np.array_equal(scales.table_indexes(z, quality).numpy(), expected)


def test_weights_beyond_the_bound_are_refused(scales: ExactScales) -> None:
    """Weights whose sums could leave 2^53 are EXACT_BOUND."""
    first, *rest = scales.stored.layers
    broken = dataclasses.replace(first, bias=first.bias + (1 << 53))
    with pytest.raises(VaecModelError) as caught:
        dataclasses.replace(scales.stored, layers=(broken, *rest)).prove_exact()
    assert caught.value.code == "EXACT_BOUND"


def test_self_test_sees_a_perturbed_build(scales: ExactScales, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose sums are off by a little, as in float32, fails the start-up test."""
    shift = ExactScales._shift

    def sloppy(self: ExactScales, x: torch.Tensor, bits: int) -> torch.Tensor:
        return shift(self, x * (1 + 2e-4) if self.carrier == torch.float64 else x, bits)

    scales.self_test()
    monkeypatch.setattr(ExactScales, "_shift", sloppy)
    with pytest.raises(VaecModelError) as caught:
        scales.self_test()
    assert caught.value.code == "SELF_TEST"
