"""Laws of the textbook models: what is minimised is the ELBO, the loss falls, samples are like the data."""

import gzip
import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


book = load_example("textbook_vae")


@pytest.fixture(scope="module")
def digits() -> "book.Data":
    """scikit-learn's digits."""
    return book.load("digits", None)


@pytest.fixture(scope="module")
def trained(digits: "book.Data") -> tuple["book.Autoencoder", list["book.Epoch"]]:
    """A dense VAE after 20 epochs, and what they told."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = book.build("vae", 8)
        epochs = list(book.train(model, digits.pictures, epochs=20))
    return model, epochs


def test_both_terms_of_the_elbo_are_those_of_torch() -> None:
    """KL and log p(x | z) in nats equal torch.distributions, summed over the latents and over the pixels."""
    torch.manual_seed(0)
    mean, log_variance = torch.randn(50, 2) * 2, torch.randn(50, 2)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(book.Posterior(mean, log_variance).kl_nats(), expected, atol=1e-5)
    model = book.build("ae", 8)  # an autoencoder: no draw between the two computations
    x = torch.rand(5, 1, 8, 8)
    pixels = torch.distributions.Normal(model.decode(model.encode(x).mean), torch.exp(model.log_deviation))
    assert torch.allclose(model(x).log_likelihood, pixels.log_prob(x).sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.slow
def test_the_loss_falls(trained: tuple["book.Autoencoder", list["book.Epoch"]]) -> None:
    """The loss falls in nearly every epoch, by far from first to last, and with beta = 1 it is minus the ELBO."""
    losses = [epoch.loss for epoch in trained[1]]
    assert sum(b < a for a, b in itertools.pairwise(losses)) >= len(losses) - 3
    assert losses[-1] < losses[0] - 20
    assert all(epoch.loss == pytest.approx(-epoch.elbo) for epoch in trained[1])
    assert all(epoch.kl > 0 for epoch in trained[1])


@pytest.mark.slow
def test_samples_are_like_the_data(trained: tuple["book.Autoencoder", list["book.Epoch"]], digits: "book.Data") -> None:
    """Mean and variance of sampled pixels are the data's within 5 % and 10 %, the mean picture within 0.05 rms."""
    torch.manual_seed(1)
    samples, pictures = trained[0].sample(4000, with_noise=True), digits.pictures
    assert float(samples.mean()) == pytest.approx(float(pictures.mean()), rel=0.05)
    assert float(samples.var()) == pytest.approx(float(pictures.var()), rel=0.1)
    assert float((samples.mean(0) - pictures.mean(0)).square().mean().sqrt()) < 0.05


@pytest.mark.slow
def test_an_autoencoder_has_no_prior(digits: "book.Data") -> None:
    """The same law does not hold of an autoencoder, whose codes lie anywhere: the test above can fail."""
    torch.manual_seed(0)
    model = book.build("ae", 8)
    list(book.train(model, digits.pictures, epochs=20))
    samples = model.sample(4000, with_noise=True)
    assert float((samples.mean(0) - digits.pictures.mean(0)).square().mean().sqrt()) > 0.05


@pytest.mark.slow
def test_beta_makes_latents_tell_less(digits: "book.Data") -> None:
    """A larger weight of the KL term leaves fewer nats in the latents."""
    ends = []
    for beta in (1.0, 8.0):
        torch.manual_seed(0)
        model = book.build("vae", 8)
        ends.append(list(book.train(model, digits.pictures[:600], epochs=6, beta=beta))[-1].kl)
    assert ends[1] < ends[0]


def run(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> "book.Epoch":
    """The last epoch of a run of two, which tells both and writes three pictures, and a log if TensorBoard is there."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    last = book.main([*arguments, "--epochs", "2", "--out", str(folder)])
    assert capsys.readouterr().out.count("nats (KL") == 2 == last.number
    for file in ("reconstructions.png", "samples.png", "latents.png"):
        with Image.open(folder / file) as image:
            assert min(image.size) > 100
    if importlib.util.find_spec("tensorboard"):
        assert list((folder / "tensorboard").iterdir())
    return last


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ae", "conv-vae"])
def test_the_example_runs_on_digits(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the variational one has a KL term."""
    assert (run(tmp_path, capsys, "--model", name).kl > 0) == (name != "ae")


@pytest.mark.slow
def test_the_example_runs_on_fashion_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IDX files give pictures in 0..1 and labels; a file of another kind is refused."""
    pictures = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    labels = np.arange(60, dtype=np.uint8) % 10
    for name, array in (("train-images-idx3-ubyte.gz", pictures), ("train-labels-idx1-ubyte.gz", labels)):
        head = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(gzip.compress(head + array.tobytes()))
    found = book.load("fashion-mnist", tmp_path)
    assert np.allclose(found.pictures.numpy()[:, 0] * 255, pictures, atol=1e-4)
    assert np.array_equal(found.labels, labels)
    run(tmp_path, capsys, "--data", "fashion-mnist", "--data-dir", str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x0d\1"))
    with pytest.raises(SystemExit, match="no IDX file of bytes"):
        book.load("fashion-mnist", tmp_path)
