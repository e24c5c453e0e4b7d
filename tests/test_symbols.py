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
        assert np.array_equal(part, expected[:, : part.shape[1]] if part.ndim == 2 else expected)
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
    """The multiples, the passes of the hyper-latents and two groups: an eighth of the symbols of y."""
    symbols, _ = chosen(tiny.engine, (6, 6), 60)
    reader, asked = coder.Decoder(encode_symbols(tiny.engine, symbols, (6, 6), 60).payload), []

    def answer(tables: Tables, indexes: np.ndarray) -> np.ndarray:
        asked.append(indexes.size)
        return reader.read(tables, indexes)

    coding.read(tiny.engine, 6, 6, [60], [answer], base_only=True)
    of_z = [symbols.z.size // share for share in (4, 4, 2)]
    assert asked == [len(symbols.z), *of_z, symbols.y.size // 16, symbols.y.size // 16]


def test_what_is_near_enough_is_chosen(tiny: Codec) -> None:
    """Of the coded latents, none is more than a step and a half from what it was; those in skipped rows are 0."""
    engine, samples = tiny.engine, picture(128, 128, seed=4)
    y = engine.analyze(samples, 70)
    symbols, y_hat = coding.quantize(engine, y, 70)
    before, after = (engine.hyper_analyze(each, 70)[0] for each in (y, y_hat))
    distance = (after - before).abs().permute(1, 2, 0).flatten(0, 1).numpy()
    of_y = list(coding.coded(engine, symbols, 8, 8, 70))[coding.SIDE_PASSES :]
    for group, coded in zip(groups(8, 8, engine.arch.latent_channels), of_y, strict=True):
        is_coded = coded.indexes >= coded.tables.first_coded_row
        assert group.take(distance)[is_coded].max(initial=0) < 1.5
        assert not coded.symbols[~is_coded].any()


# --- contexts of hyper-latents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (5, 1), (2, 2), (3, 4), (16, 16)])
def test_passes_of_hyper_latents_know_only_what_was_read_before(grid: tuple[int, int]) -> None:
    """Every position is in one pass; what is around it is of an earlier one, beside it, and all that is."""
    passes, size = coding.hyper_passes(*grid), grid[0] * grid[1]
    of = np.full(size + 1, -1)
    for number, each in enumerate(passes):
        of[each.positions] = number
    assert sorted(np.concatenate([each.positions for each in passes])) == list(range(size))
    for number, each in enumerate(passes):
        assert (of[each.around] < number).all()
        for position, around, known in zip(each.positions, each.around, each.known[:, 0], strict=True):
            row, column = divmod(position, grid[1])
            inside = {tuple(divmod(int(place), grid[1])) for place in around if place < size}
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
            steps = {place for place in near if 0 <= place[0] < grid[0] and 0 <= place[1] < grid[1]}
            wanted = {place for place in steps if abs(place[0] - row) + abs(place[1] - column) == (0, 2, 1)[number]}
            assert inside == (wanted if number else set())
            assert known == len(inside)


def test_contexts_of_hyper_latents_are_those_of_the_format() -> None:
    """Position by position in Python's integers, as docs/format.md tells it; extremes among them."""
    rng = np.random.default_rng(5)
    rows, columns, channels = 5, 6, 7
    z = rng.integers(-3, 4, (rows * columns + 1, channels)) * (rng.random((rows * columns + 1, channels)) < 0.6)
    z[3], z[20], z[-1] = 2047, -2047, 0
    for quality in (1, 50, 51, 100):
        for of in coding.hyper_passes(rows, columns):
            found = coding.hyper_contexts(z.astype(np.int16), of, quality)
            for n, around in enumerate(of.around.tolist()):
                near = [z[place].tolist() for place in around if place < rows * columns]
                for channel in range(channels):
                    if not near:
                        expected = (quality - 1) // 10
                    else:
                        total, known = sum(each[channel] for each in near), len(near)
                        mean = min(max((4 * total + known) // (2 * known), -3), 3)
                        busy = min(sum(value != 0 for each in near for value in each) // known // 3, 7)
                        expected = 10 + 2 * (7 * busy + mean + 3) + (quality > 50)
                    assert found[n, channel] == expected
