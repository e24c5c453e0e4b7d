"""Files travel between CPU and GPU: equal latents, pixels within their tolerance. Skipped where there is no CUDA."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import picture
from exactness.driver import PHOTOGRAPHS, TOLERANCE_LEVELS, TOLERANCE_SHARE
from exactness.pictures import pictures
from exactness.probe import FIELD_QUALITY, noise

from vaecodec import Codec
from vaecodec.model.torch_engine.engine import ExactScales

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.engines("torch"),
]

PICTURES = 500


@pytest.fixture(params=[True, False], ids=["fast settings", "default settings"])
def cuda(request: pytest.FixtureRequest) -> Iterator[Codec]:
    """A codec on the GPU; with and without all that trades exactness for speed."""
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    if request.param:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")
    yield Codec(None, "cuda")
    torch.backends.cudnn.benchmark = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["cpu", "cuda"])
def test_files_of_one_device_decode_on_the_other(shipped: Codec, cuda: Codec, encoder: str) -> None:
    """500 pictures each way: no latent differs (its CRC would), no sample by more than a level, few by that."""
    here, there = (shipped, cuda) if encoder == "cpu" else (cuda, shipped)
    worst_share = 0.0
    for number, (_, samples) in enumerate(islice(pictures(PHOTOGRAPHS, PICTURES), PICTURES)):
        data = here.encode(samples, 1 + 61 * number % 100)
        decoded = [codec.decode(data, output="numpy").astype(np.int16) for codec in (here, there)]
        difference = np.abs(decoded[0] - decoded[1])
        assert difference.max() <= TOLERANCE_LEVELS
        worst_share = max(worst_share, np.count_nonzero(difference) / difference.size)
    assert worst_share <= TOLERANCE_SHARE


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_table_indexes_equal_those_of_the_cpu(
    shipped: Codec, cuda: Codec, batch: int, layout: torch.memory_format
) -> None:
    """In every batch and layout, and under autocast."""
    stored = shipped.engine.scales.stored
    z = noise(stored.dequantize.shape[1]).repeat(3, 1, 1, 1)[:batch].to(memory_format=layout)
    expected = shipped.engine.scales.table_indexes(z, FIELD_QUALITY)
    assert torch.equal(cuda.engine.scales.table_indexes(z.cuda(), FIELD_QUALITY).cpu(), expected)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(cuda.engine.scales.table_indexes(z.cuda(), FIELD_QUALITY).cpu(), expected)


def test_autocast_moves_no_pixel(cuda: Codec) -> None:
    """The caller's autocast does not reach the transforms on a GPU either."""
    _, samples = next(pictures(PHOTOGRAPHS, 1))
    data = cuda.encode(samples, 60)
    decoded = cuda.decode(data, output="numpy")
    with torch.autocast("cuda", torch.bfloat16):
        assert np.array_equal(cuda.decode(data, output="numpy"), decoded)


def test_the_self_test_runs_on_the_device(shipped: Codec) -> None:
    """It passes on the GPU, and sees a single wrong weight there."""
    scales = ExactScales(shipped.engine.scales.stored, torch.device("cuda"))
    scales.self_test()
    scales._weights[3][7, 0, 0, 0] += 1
    with pytest.raises(OSError, match="cuda"):
        scales.self_test()


@pytest.mark.parametrize("scale", [1, 1 / 2, 1 / 8])
def test_a_picture_of_many_tiles_is_that_of_the_cpu(shipped: Codec, cuda: Codec, scale: float) -> None:
    """Neighbouring tiles go through the GPU together, and symbols are read ahead; previews, too, are alike."""
    data = shipped.encode(picture(1100, 2100), 60)
    here, there = (codec.decode(data, output="numpy", scale=scale).astype(np.int16) for codec in (shipped, cuda))
    difference = np.abs(here - there)
    assert difference.max() <= (TOLERANCE_LEVELS if scale == 1 else 4)  # base of previews: bfloat16 on some CPUs
    assert scale < 1 or np.count_nonzero(difference) / difference.size <= TOLERANCE_SHARE
