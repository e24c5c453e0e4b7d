"""Encoders that take their time: files are smaller or pictures better, never worse, and any decoder reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import picture
from PIL import Image

from vaecodec import Codec, VaecError, VaecImageError
from vaecodec.cli import main
from vaecodec.entropy.tables import symbol_bits
from vaecodec.format import container
from vaecodec.format.records import TileMode
from vaecodec.model import coding
from vaecodec.tiling import options
from vaecodec.training import refine
from vaecodec.training.distortion import Tune

pytestmark = pytest.mark.engines("torch")


def costs(tiny: Codec, samples: np.ndarray, steps: int, eye: float, quality: int = 60) -> tuple[float, float]:
    """Rate + distortion of the symbols of `coding.quantize` and of those refined, in bits a pixel."""
    engine, (height, width, _) = tiny.engine, samples.shape
    y, whole = engine.analyze(samples, quality), (slice(0, height // 16), slice(0, width // 16))
    before = engine.eye
    engine.eye = eye
    torch.manual_seed(0)
    try:
        chosen = coding.quantize(engine, y, quality), refine.refine(engine, y, whole, samples, quality, steps)
    finally:
        engine.eye = before
    return tuple(cost_of(tiny, samples, symbols, y_hat, eye, quality) for symbols, y_hat in chosen)


def cost_of(
    tiny: Codec, samples: np.ndarray, symbols: coding.Symbols, y_hat: torch.Tensor, eye: float, quality: int
) -> float:
    """As an outsider counts: bits of the tables, and the distortion of a synthesis of the whole tile at once."""
    engine = tiny.engine
    bits = sum(symbol_bits(*each).sum() for each in coding.coded(engine, symbols, *y_hat.shape[1:], quality))
    level = torch.tensor([coding.quality_level(quality)])
    with torch.no_grad():
        latents = y_hat[None] * torch.exp(engine.vae.latent_restore(level))
        shown = engine.vae.synthesis(latents.clone(), level)
        x = torch.tensor(samples).permute(2, 0, 1)[None].float() / 255
        return float(bits) / x[0, 0].numel() + float(
            Tune(eye).distortion(shown, x, (shown - x).square().mean((1, 2, 3)), level)
        )


@pytest.mark.parametrize("eye", [0.0, 1.0])
def test_refined_symbols_cost_less(tiny: Codec, eye: float) -> None:
    """By the measure of training, from outside: at least a hundredth less."""
    before, after = costs(tiny, picture(64, 64, seed=3), 60, eye, quality=90)
    assert after < 0.99 * before


def test_no_steps_change_nothing(tiny: Codec) -> None:
    """What is found is compared with what there was, and the better one is taken."""
    before, after = costs(tiny, picture(64, 64, seed=3), 0, 0.0)
    assert after == before


def test_parts_are_measured_together(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squared error in parts of a tile is that of the whole: parts see one another as synthesis does."""
    samples, quality = picture(160, 320, seed=5), 60
    engine = tiny.engine
    monkeypatch.setattr(engine, "eye", 0.0)
    y, whole = engine.analyze(samples, quality), (slice(0, 10), slice(0, 20))
    symbols, y_hat = coding.quantize(engine, y, quality)
    found = []
    for window in (5, 20):
        monkeypatch.setattr(refine, "WINDOW", window)
        with torch.inference_mode(False):
            found.append(refine._Refinement(engine, y.clone(), whole, samples, quality, symbols)._cost(symbols, y_hat))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (300, 70)])
@pytest.mark.parametrize("channels", [1, 4])
def test_files_of_any_size_decode(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], channels: int
) -> None:
    """Several tiles, alpha, grey: the file is one like any other, and as good as without."""
    monkeypatch.setattr(options, "REFINING_STEPS", {9: 3})
    samples = picture(*size, channels, seed=8)
    data = tiny.encode(samples, 70, effort=9)
    shown, before = (tiny.decode(each, output="numpy") for each in (data, tiny.encode(samples, 70)))
    error, usual = (np.square(each.reshape(samples.shape) - samples.astype(float)).mean() for each in (shown, before))
    assert error <= 1.2 * usual + 1
    assert container.read(data).header.quality == 70


def test_refinement_leaves_random_numbers_alone(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same picture gives the same file, whatever the caller has drawn, and the caller's next number is its own."""
    monkeypatch.setattr(options, "REFINING_STEPS", {8: 20})
    samples = picture(64, 64, seed=4)
    before = torch.manual_seed(1).get_state()
    files = [tiny.encode(samples, 90, effort=8) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert {*files, tiny.encode(samples, 90, effort=8)} == {files[0]} != {tiny.encode(samples, 90)}


def test_efforts_up_to_six_are_the_usual_one(tiny: Codec) -> None:
    """Byte for byte; and 7 to 9 are not."""
    samples = picture(128, 96, seed=2)
    usual = tiny.encode(samples, 60)
    assert container.read(usual).tiles[0].mode is TileMode.LEARNED
    assert all(tiny.encode(samples, 60, effort=effort) == usual for effort in range(1, 7))


def test_restoring_weights_are_not_held_to_their_input(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are given has noise that they take away: refinement would put it back."""
    monkeypatch.setattr(tiny.engine, "restores", True)
    samples = picture(64, 64)
    assert tiny.encode(samples, 60, effort=7) == tiny.encode(samples, 60)


@pytest.mark.parametrize("effort", [0, 10, 7.5, True, "7", None])
def test_efforts_that_do_not_exist_are_refused(tiny: Codec, effort: object) -> None:
    """Before anything is computed."""
    with pytest.raises(VaecImageError, match="effort") as caught:
        tiny.encode(picture(16, 16), effort=effort)
    assert caught.value.code == "ARGUMENT"


@pytest.mark.parametrize("effort", [7, 8, 9])
def test_lossless_files_are_not_refined(tiny: Codec, tmp_path: Path, effort: int) -> None:
    """An effort that would do nothing is refused, by every way in, and nothing is written; the others are taken."""
    samples, target = picture(16, 16), tmp_path / "a.vaec"
    for encode in (tiny.encode, lambda *args, **options: tiny.encode_file(args[0], target, **options)):
        with pytest.raises(VaecImageError, match="lossless") as caught:
            encode(samples, lossless=True, effort=effort)
        assert caught.value.code == "ARGUMENT"
    Image.fromarray(samples).save(tmp_path / "a.png")
    arguments = ["encode", str(tmp_path / "a.png"), str(target), "--lossless", "--effort"]
    result = CliRunner().invoke(main, [*arguments, str(effort)])
    assert result.exit_code == 2 and "--effort 7" in result.output
    assert not target.exists()
    assert CliRunner().invoke(main, [*arguments, "6"]).exit_code == 0
    assert target.read_bytes() == tiny.encode(samples, lossless=True, effort=6) == tiny.encode(samples, lossless=True)


def test_the_native_engine_cannot_refine(tiny_weights: Path) -> None:
    """Who asks for it by name is told."""
    with pytest.raises(VaecError, match="torch") as caught:
        Codec(tiny_weights, engine="native").encode(picture(64, 64), effort=8)
    assert caught.value.code == "ARGUMENT"


def test_the_command_line_takes_an_effort(
    tiny: Codec, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is that of the API."""
    monkeypatch.setattr(options, "REFINING_STEPS", {8: 2})
    samples = picture(64, 64, seed=4)
    Image.fromarray(samples).save(tmp_path / "a.png")
    arguments = ["encode", str(tmp_path / "a.png"), str(tmp_path / "a.vaec"), "-q", "60", "--effort", "8"]
    result = CliRunner().invoke(main, [*arguments, "--model", str(tiny_weights), "--engine", "torch"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.vaec").read_bytes() == tiny.encode(samples, 60, effort=8)
