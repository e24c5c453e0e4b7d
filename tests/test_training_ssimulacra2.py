"""SSIMULACRA2 as a loss: the package's scores, and gradients that training can use."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import picture
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vaecodec.pictures.ssimulacra2 import score, score_of
from vaecodec.training.errors import TrainingError
from vaecodec.training.recipe import tune_of
from vaecodec.training.ssimulacra2 import distance

SIDE = 256  # below, the package runs out of scales and weighs the terms of others


def to_tensor(samples: NDArray[np.uint8]) -> torch.Tensor:
    """Pictures [1, 3, H, W] in 0..1 of samples [H, W, 3]."""
    return torch.from_numpy(samples.copy()).permute(2, 0, 1)[None].float() / 255


def distorted() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Fifty pairs: five pictures, each coded, blurred, noisy and of another colour."""
    for seed in range(5):
        original = picture(SIDE, SIDE + 16 * seed, seed=seed)
        image, rng = Image.fromarray(original), np.random.default_rng(seed)
        for format, quality in (("JPEG", 10), ("JPEG", 50), ("JPEG", 90), ("WEBP", 20), ("WEBP", 80)):
            file = io.BytesIO()
            image.save(file, format, quality=quality)
            yield original, np.asarray(Image.open(file).convert("RGB"))
        for radius in (0.7, 2.0):
            yield original, np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))
        for deviation in (2, 12):
            yield original, np.clip(original + rng.normal(0, deviation, original.shape), 0, 255).astype(np.uint8)
        yield original, np.clip(original + np.array([6, -4, 3]), 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_scores_are_those_of_the_package(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On fifty distorted pictures the score differs from that of the package by less than 0.3 points."""
    package = pytest.importorskip("ssimulacra2.ssimulacra2", reason="the package ssimulacra2 is not installed")
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [*distorted()]
    assert len(pairs) == 50
    for original, shown in pairs:
        Image.fromarray(original).save(folder / "a.png")
        Image.fromarray(shown).save(folder / "b.png")
        expected = package.compute_ssimulacra2(folder / "a.png", folder / "b.png")
        assert score(original, shown) == pytest.approx(expected, abs=0.3)
        assert score_of(float(distance(to_tensor(original), to_tensor(shown)))) == pytest.approx(expected, abs=0.3)


def test_equal_pictures_have_the_best_score_and_a_finite_gradient() -> None:
    """Where pictures are equal, roots have no bounded slope of their own."""
    x = to_tensor(picture(64, 64))
    shown = x.clone().requires_grad_()
    found = distance(x, shown)
    found.sum().backward()
    assert score_of(float(found.detach())) > 99.9
    assert shown.grad is not None and torch.isfinite(shown.grad).all()


def test_the_gradient_leads_to_the_original() -> None:
    """A step down the gradient makes pictures more alike; so do a hundred."""
    x = to_tensor(picture(96, 96))
    torch.manual_seed(0)
    shown = (x + 0.05 * torch.randn_like(x)).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([shown], 2e-3)
    before = float(distance(x, shown).detach())
    for _ in range(30):
        optimizer.zero_grad()
        distance(x, shown).sum().backward()
        optimizer.step()
    assert float(distance(x, shown).detach()) < 0.5 * before


@pytest.mark.parametrize(("text", "eye"), [("eye", 1.0), ("psnr", 0.0), ("0.25", 0.25)])
def test_tunes_have_names_and_numbers(text: str, eye: float) -> None:
    """Eye and psnr are the ends of one scale."""
    assert tune_of(text).eye == eye


@pytest.mark.parametrize("text", ["", "ssim", "-0.1", "1.5", "nan"])
def test_other_tunes_are_refused(text: str) -> None:
    """With the value, and what would be allowed."""
    with pytest.raises(TrainingError, match="must be eye, psnr or a number from 0 to 1") as caught:
        tune_of(text)
    assert caught.value.code == "RECIPE"
