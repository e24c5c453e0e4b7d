"""Laws of training to restore: the network sees noisy pictures, and is measured against the clean ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from vaecodec import Codec
from vaecodec.cli import main
from vaecodec.pictures import pixels
from vaecodec.training.degrade import Noise
from vaecodec.training.errors import TrainingError
from vaecodec.training.loop import train
from vaecodec.training.objective import Outcome, losses
from vaecodec.training.recipe import Recipe


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(picture(128, 128, seed=n)).save(folder / f"{n}.png")
    return folder


@given(st.floats(0, 255), st.floats(0, 255))
def test_noise_is_read_from_its_text(a: float, b: float) -> None:
    """Both ends come back; one number stands for both."""
    low, high = sorted((round(a, 3), round(b, 3)))
    assert Noise.parse(f"noise:{low:.3f}-{high:.3f}") == Noise(low, high)
    assert Noise.parse(f"noise:{low:.3f}") == Noise(low, low)


@pytest.mark.parametrize("text", ["", "noise", "noise:", "noise:a", "noise:9-3", "noise:-1", "noise:0-256", "blur:2"])
def test_other_texts_are_refused(text: str, photos: Path) -> None:
    """By the parser, and by a recipe before anything starts."""
    for use in (Noise.parse, lambda text: Recipe(photos, Path(), degrade=text)):
        with pytest.raises(TrainingError, match="must be noise:LOW-HIGH") as caught:
            use(text)
        assert caught.value.code == "RECIPE"


def test_noise_has_the_deviation_asked_for() -> None:
    """In levels of 0..255, drawn for each picture between the ends; the values are those of 8-bit files."""
    torch.manual_seed(0)
    x = torch.full((200, 3, 32, 32), 0.5)
    noisy = Noise(5, 25).apply(x)
    deviations = (noisy - x).std((1, 2, 3)) * 255
    assert 4.5 < float(deviations.min()) < 7 < 23 < float(deviations.max()) < 26.5
    assert float(deviations.mean()) == pytest.approx(15, abs=1.5)
    assert float((noisy - x).mean()) == pytest.approx(0, abs=0.002)
    assert torch.allclose(noisy * 255, (noisy * 255).round(), atol=1e-3)


def test_noise_stays_within_the_range_of_pictures() -> None:
    """Black and white pictures are clipped, as a file would be; no noise changes nothing."""
    for value in (0.0, 1.0):
        noisy = Noise(50, 50).apply(torch.full((2, 3, 16, 16), value))
        assert 0 <= float(noisy.min()) < float(noisy.max()) <= 1
    x = torch.arange(256.0).reshape(1, 1, 16, 16) / 255
    assert torch.equal(Noise(0, 0).apply(x), x)


def test_the_network_sees_one_picture_and_owes_another() -> None:
    """What is given instead of x reaches the network; the squared error is that from x."""
    met = list[Tensor]()

    class Repeats(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Outcome:
            met.append(x)
            return Outcome(x, torch.zeros(len(x)), torch.zeros(len(x)))

    torch.manual_seed(0)
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([0.2, 0.8])
    seen = (x + 0.1).clamp(0, 1)
    restored = losses(Repeats(), x, level, seen=seen)
    assert met[0] is seen
    assert float(restored.mse) == pytest.approx(float((seen - x).square().mean()))
    assert float(losses(Repeats(), x, level).mse) == 0
    assert met[1] is x


@pytest.mark.slow
def test_a_network_learns_to_take_noise_away(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """What comes out of a noisy picture is nearer to the clean one than after the same training on clean pictures."""
    clean = picture(128, 128, seed=99)
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).round().astype(np.uint8)
    reached = []
    for degrade in (None, "noise:25"):
        out = tmp_path / str(degrade)
        recipe = Recipe(
            photos, out, tmp_path / f"{degrade}.safetensors", str(tiny_weights), device="cpu", steps=120, batch=4,
            patch_px=64, final_patch_px=64, warmup_steps=10, degrade=degrade,
        )  # fmt: skip
        train(recipe)
        codec = Codec(recipe.weights, "cpu")
        reached.append(pixels.psnr_db(clean, codec.decode(codec.encode(noisy, 90), output="numpy")))
    assert reached[1] > reached[0] + 0.5


def test_the_command_takes_it(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """`vaecodec train --degrade` writes weights; a text that is not understood is wrong usage, and writes nothing."""
    out = tmp_path / "my.safetensors"
    arguments = ["train", "--data", photos, "--init", tiny_weights, "--steps", 2, "--batch", 2, "--patch", 64,
                 "--device", "cpu", "--out", out]  # fmt: skip
    refused = CliRunner().invoke(main, [*map(str, arguments), "--degrade", "rain"])
    assert refused.exit_code == 2
    assert "must be noise:LOW-HIGH" in refused.stderr
    assert not out.exists()
    done = CliRunner().invoke(main, [*map(str, arguments), "--degrade", "noise:5-25"])
    assert done.exit_code == 0, done.output
    assert out.exists()
    assert "noise:5-25" in (tmp_path / "my.run" / "log.jsonl").read_text()
