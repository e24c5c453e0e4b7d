"""Laws of the order of symbols: every latent once, halves and base where they belong, encoders and decoders agree."""

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st

from vaecodec import Codec
from vaecodec.entropy import coder
from vaecodec.entropy.tables import Tables
from vaecodec.model import coding
from vaecodec.model.coding import BASE_GROUPS, Symbols, groups
from vaecodec.model.torch_engine.engine import TorchEngine
from vaecodec.tiling.tile import encode_symbols

pytestmark = pytest.mark.engines("torch")

SIDES = st.integers(1, 9)
CHANNELS = st.sampled_from([2, 4, 16, 24])


@given(SIDES, SIDES, CHANNELS)
def test_every_latent_is_in_one_group(rows: int, columns: int, channels: int) -> None:
    """Taken apart and put together again, an array is what it was; no element is taken twice."""
    values = np.arange(rows * columns * channels).reshape(rows * columns, channels)
    taken = [group.take(values) for group in groups(rows, columns, channels)]
    assert sorted(np.concatenate(taken)) == list(range(values.size))
    again = np.full_like(values, -1)
    for group, part in zip(groups(rows, columns, channels), taken, strict=True):
        group.put(again, part)
    assert np.array_equal(again, values)


@given(SIDES, SIDES, CHANNELS)
def test_the_base_comes_first(rows: int, columns: int, channels: int) -> None:
    """The first groups are the first eighth of the channels, of all positions, and nothing else."""
    values = np.broadcast_to(np.arange(channels), (rows * columns, channels))
    of_base = [group.take(values) for group in groups(rows, columns, channels)[:BASE_GROUPS]]
    others = [group.take(values) for group in groups(rows, columns, channels)[BASE_GROUPS:]]
    assert len(np.concatenate(of_base)) == rows * columns * (channels // 8)
    assert (np.concatenate(of_base) < channels // 8).all() and (np.concatenate(others) >= channels // 8).all()


@given(SIDES, SIDES)
def test_groups_belong_to_the_passes_of_the_network(tiny: Codec, rows: int, columns: int) -> None:
    """What the network predicts first is coded with the tables of the first pass, and only that."""
    channels = tiny.engine.arch.latent_channels
    mask = tiny.engine.vae.first_pass(rows, columns, torch.device("cpu")).permute(1, 2, 0).flatten(0, 1).numpy()
    for group in groups(rows, columns, channels):
        assert (group.take(mask) == (group.number == 0)).all()


def chosen(engine: TorchEngine, size: tuple[int, int], quality: int) -> tuple[Symbols, torch.Tensor]:
    """What an encoder makes of a picture of so many latents."""
    samples = picture(16 * size[0], 16 * size[1], seed=3)
    return coding.quantize(engine, engine.analyze(samples, quality), quality)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
@pytest.mark.parametrize("quality", [1, 60, 100])
def test_decoders_read_what_encoders_chose(tiny: Codec, size: tuple[int, int], quality: int) -> None:
    """All symbols, and from them the same latents; or the base alone."""
    engine = tiny.engine
    symbols, y_hat = chosen(engine, size, quality)
    payload = encode_symbols(engine, symbols, size, quality).payload
    (read,) = coding.read(engine, *size, [quality], [coder.Decoder(payload).read])
    (base,) = coding.read(engine, *size, [quality], [coder.Decoder(payload).read], base_only=True)
    for expected, whole, part in zip(symbols, read, base, strict=True):
        assert np.array_equal(whole, expected)
        assert np.array_equal(part, expected[:, : part.shape[1]])
    assert base.y.shape[1] == engine.arch.base_channels
    assert torch.equal(coding.dequantize(engine, [read], *size, [quality])[0], y_hat)


def test_symbols_are_known_before_anything_is_predicted(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder reads to the end without a float transform: none can lead it astray."""
    symbols, _ = chosen(tiny.engine, (4, 4), 60)
    payload = encode_symbols(tiny.engine, symbols, (4, 4), 60).payload

    def refuse(*_: object) -> None:
        raise AssertionError("a transform was called")

    for transform in ("hyper_synthesis", "context", "latent_gain"):
        monkeypatch.setattr(type(getattr(tiny.engine.vae, transform)), "forward", refuse)
    (read,) = coding.read(tiny.engine, 4, 4, [60], [coder.Decoder(payload).read])
    assert np.array_equal(read.y, symbols.y)


def test_the_base_is_all_that_is_read_for_it(tiny: Codec) -> None:
    """Hyper-latents and two groups: an eighth of the symbols of y."""
    symbols, _ = chosen(tiny.engine, (6, 6), 60)
    reader, asked = coder.Decoder(encode_symbols(tiny.engine, symbols, (6, 6), 60).payload), []

    def answer(tables: Tables, indexes: np.ndarray) -> np.ndarray:
        asked.append(indexes.size)
        return reader.read(tables, indexes)

    coding.read(tiny.engine, 6, 6, [60], [answer], base_only=True)
    assert asked == [symbols.z.size, symbols.y.size // 16, symbols.y.size // 16]


def test_what_is_near_enough_is_chosen(tiny: Codec) -> None:
    """Of the coded latents, none is more than a step and a half from what it was; those in skipped rows are 0."""
    engine, samples = tiny.engine, picture(128, 128, seed=4)
    y = engine.analyze(samples, 70)
    symbols, y_hat = coding.quantize(engine, y, 70)
    before, after = (engine.hyper_analyze(each, 70)[0] for each in (y, y_hat))
    distance = (after - before).abs().permute(1, 2, 0).flatten(0, 1).numpy()
    _, *all_coded = coding.coded(engine, symbols, 8, 8, 70)
    for group, coded in zip(groups(8, 8, engine.arch.latent_channels), all_coded, strict=True):
        is_coded = coded.indexes >= coded.tables.first_coded_row
        assert group.take(distance)[is_coded].max(initial=0) < 1.5
        assert not coded.symbols[~is_coded].any()
